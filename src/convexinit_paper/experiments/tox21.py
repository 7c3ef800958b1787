"""Table 1: toxicity prediction from molecule codes, many tasks with missing labels at once."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from convexinit.dropout import seed_dropout_
from convexinit_paper.data.contents import check_contents
from convexinit_paper.data.encoded import (
    CodecSettings,
    EncodedData,
    MoleculeSettings,
    count_reasons,
    load_encoded,
    open_codec,
)
from convexinit_paper.experiments.training_dynamics import final_metrics, metrics_table
from convexinit_paper.request.options import FRACTION, Section, option
from convexinit_paper.request.request import Request
from convexinit_paper.store.checkpoints import checkpoint_of
from convexinit_paper.store.runs import Outcome
from convexinit_paper.training.history import History
from convexinit_paper.training.loop import Split, train
from convexinit_paper.training.machine import device_name, prepare_process
from convexinit_paper.training.models import ModelSettings, build_stack, initial_batches
from convexinit_paper.training.objectives import multitask_objective
from convexinit_paper.training.randomness import seeded_generator
from convexinit_paper.training.settings import TrainerSettings


@dataclass(frozen=True)
class DropoutSettings(Section):
    """Dropout probabilities; defaults in ``conf/experiment``."""

    input: float = option("of the codes", FRACTION)
    hidden: float = option("after every hidden layer", FRACTION)


@dataclass(frozen=True)
class Settings:
    """Sections of the configuration."""

    dataset: MoleculeSettings
    codec: CodecSettings
    model: ModelSettings
    dropout: DropoutSettings
    trainer: TrainerSettings

    def __post_init__(self) -> None:
        self.model.require_fully_connected()


def run(settings: Settings, request: Request) -> Outcome:
    """Train all seeds of one model variant and measure AUROC on the held-out sets."""
    prepare_process()
    codec = open_codec(settings.codec, request.data_dir)
    data = load_encoded(
        settings.dataset, codec, settings.codec.standardise, request.data_dir, request.cache
    )
    check_contents(request.config)
    _, history = train_networks(settings, data, request)
    return Outcome(
        metrics_table(history, request.seeds),
        final_metrics(history, request.seeds),
        device_name(settings.trainer.torch_device()),
        arrays={f"excluded.{name}": part.excluded for name, part in data.sets.items()},
        notes={
            "dataset": data.title,
            "tasks": list(data.tasks),
            "codec": codec.digest,
            "data": data.notes,
            "molecules": {name: len(part.codes) for name, part in data.sets.items()},
            "excluded": {name: count_reasons(part.excluded) for name, part in data.sets.items()},
        },
        earlier=history.earlier,
    )


def train_networks(
    settings: Settings, data: EncodedData, request: Request
) -> tuple[nn.Module, History]:
    """Train one network per seed, stacked.

    Args:
        settings: of the networks and their training.
        data: what to train on.
        request: names the seeds and the place of checkpoints.

    Returns:
        The trained stack, which maps ``data.inputs(codes)`` to logits, and what was measured.
    """
    seeds, model, dropout = request.seeds, settings.model, settings.dropout
    every = {
        name: Split(
            data.inputs(part.codes),
            part.labels,
            torch.arange(len(part.codes)).expand(len(seeds), -1),
        )
        for name, part in data.sets.items()
    }
    training = every.pop("train")
    network = build_stack(
        model,
        model.layer_widths(training.inputs.shape[1], len(data.tasks)),
        seeds,
        dropout.input,
        dropout.hidden,
        batches=initial_batches(training, seeds, settings.trainer.batch_size),
    )
    seed_dropout_(network, [seeded_generator(seed, "dropout") for seed in seeds])
    history = train(
        network,
        training,
        every,
        [seeded_generator(seed, "batches") for seed in seeds],
        settings.trainer.for_initialisation(model.init),
        multitask_objective(data.tasks),
        description=f"{data.title}, {model.title}, {len(seeds)} seeds",
        checkpoint=checkpoint_of(request.config),
    )
    return network, history
