"""Table 1: toxicity prediction from molecule codes, many tasks with missing labels at once."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from convexinit.dropout import seed_dropout_
from convexinit.molecules import load_codec
from convexinit.molecules.codec import Codec
from convexinit_paper.data.codes import encode_cached
from convexinit_paper.data.datasets import load_multitask
from convexinit_paper.data.multitask import MoleculeSet, MultitaskData
from convexinit_paper.experiments.training_dynamics import final_metrics, metrics_table
from convexinit_paper.request.config import ConfigError, checked, parse_seeds, require
from convexinit_paper.store.checkpoints import checkpoint_of
from convexinit_paper.store.runs import Outcome
from convexinit_paper.training.history import History
from convexinit_paper.training.loop import Split, train
from convexinit_paper.training.machine import device_name, prepare_process
from convexinit_paper.training.models import ModelSettings, build_stack, initial_batches
from convexinit_paper.training.objectives import (
    multitask_objective,
)
from convexinit_paper.training.randomness import seeded_generator
from convexinit_paper.training.settings import TrainerSettings


@dataclass(frozen=True)
class TaskSettings:
    """Which molecules and labels; defaults in ``conf/dataset``.

    Attributes:
        name: "tox21" or "structural_alerts".
        train_on_validation: whether the validation set is trained on as well, as for the paper's
            final models; if not, it is reported beside the test set.
    """

    name: str
    train_on_validation: bool


@dataclass(frozen=True)
class CodecSettings:
    """How molecules become vectors; defaults in ``conf/codec``.

    Attributes:
        name: "autoencoder", "cddd" or "ecfp".
        digest: of the codec and its weights; null accepts any. It makes stored results belong to
            the weights that they were made with.
        standardise: whether every dimension of the codes is shifted and scaled to mean 0 and
            variance 1 over the training set.
    """

    name: str
    digest: str | None
    standardise: bool


@dataclass(frozen=True)
class DropoutSettings:
    """Dropout probabilities in [0, 1); defaults in ``conf/experiment``.

    Attributes:
        input: of the codes.
        hidden: after every hidden layer.
    """

    input: float
    hidden: float

    def __post_init__(self) -> None:
        for name in ("input", "hidden"):
            value = getattr(self, name)
            require(0.0 <= value < 1.0, f"dropout.{name}", "in [0, 1)", value)


# What each section of the configuration holds.
OPTIONS = {
    "dataset": TaskSettings,
    "codec": CodecSettings,
    "model": ModelSettings,
    "dropout": DropoutSettings,
    "trainer": TrainerSettings,
}


@dataclass(frozen=True)
class EncodedSet:
    """Molecules of one split that have a code.

    Attributes:
        smiles: as in the data set.
        codes: float32 ``[n, dimensions]``.
        labels: float32 ``[n, tasks]``, NaN where missing.
        excluded: ``[k, 3]`` sample ID, SMILES and reason of the molecules without code.
    """

    smiles: list[str]
    codes: Tensor
    labels: Tensor
    excluded: np.ndarray


@dataclass(frozen=True)
class Prepared:
    """Everything that training needs.

    Attributes:
        title: of the data set.
        tasks: their names.
        notes: what the data set says of itself, such as how many samples it has of one molecule.
        sets: "train", and "test" and (where it is not trained on) "validation".
        shift: ``[dimensions]`` and
        scale: ``[dimensions]``: networks see ``(code - shift) / scale``.
    """

    title: str
    tasks: tuple[str, ...]
    notes: dict[str, int | str]
    sets: dict[str, EncodedSet]
    shift: Tensor
    scale: Tensor

    def inputs(self, codes: Tensor) -> Tensor:
        """What networks see of codes."""
        return (codes - self.shift) / self.scale


def run(config: dict[str, Any]) -> Outcome:
    """Train all seeds of one model variant and measure AUROC on the held-out sets."""
    prepare_process()
    seeds = parse_seeds(config["seeds"])
    codec_settings = checked(CodecSettings, config["codec"], "codec")
    codec = open_codec(codec_settings, config["data_dir"])
    data = prepare(config, codec, codec_settings.standardise)
    _, history = train_networks(config, data, seeds)
    trainer = checked(TrainerSettings, config["trainer"], "trainer")
    return Outcome(
        metrics_table(history, seeds),
        final_metrics(history, seeds),
        device_name(trainer.torch_device()),
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


def check_options(config: dict[str, Any]) -> None:
    """Raise ConfigError for a wrong option now, before molecules are encoded."""
    for section, settings in OPTIONS.items():
        checked(settings, config[section], section)
    checked(ModelSettings, config["model"], "model").require_fully_connected()


def open_codec(settings: CodecSettings, data_dir: str) -> Codec:
    """The codec of the configuration.

    Raises:
        ConfigError: its digest is not the expected one.
    """
    codec = load_codec(settings.name, data_dir=data_dir)
    if settings.digest is not None and codec.digest != settings.digest:
        raise ConfigError(
            f"codec.digest is {settings.digest}, but the codec {settings.name} at hand is "
            f"{codec.digest}; codec.digest=null accepts it"
        )
    return codec


def prepare(config: dict[str, Any], codec: Codec, standardise: bool) -> Prepared:
    """Read the molecules of the configuration and encode them (from the cache, if possible)."""
    check_options(config)
    settings = checked(TaskSettings, config["dataset"], "dataset")
    data = load_multitask(settings.name, config["data_dir"])
    cache = Path(config["results_dir"]) / "cache"
    training = merged(data) if settings.train_on_validation else data.train
    raw = {"train": training, "test": data.test}
    if not settings.train_on_validation:
        raw["validation"] = data.validation
    sets = {name: encode_set(part, codec, cache) for name, part in raw.items()}
    codes = sets["train"].codes
    shift, scale = torch.zeros(codes.shape[1]), torch.ones(codes.shape[1])
    if standardise:
        shift = codes.mean(0)
        deviation = codes.std(0, correction=0)
        # A dimension that never varies carries nothing: it stays 0 after the shift.
        scale = torch.where(deviation > 0, deviation, 1.0)
    return Prepared(data.title, data.tasks, data.notes, sets, shift, scale)


def merged(data: MultitaskData) -> MoleculeSet:
    """Training and validation set as one."""
    return MoleculeSet(
        data.train.smiles + data.validation.smiles,
        data.train.sample_ids + data.validation.sample_ids,
        np.concatenate([data.train.labels, data.validation.labels]),
    )


def encode_set(molecules: MoleculeSet, codec: Codec, cache: Path) -> EncodedSet:
    """Codes of the molecules that have one, and a list of the others with the reasons."""
    with warnings.catch_warnings():
        # The codec's warning about molecules without code: they are listed in the run instead.
        warnings.simplefilter("ignore")
        codes = encode_cached(codec, molecules.smiles, cache)
    usable = np.isfinite(codes).all(1)
    outside = np.flatnonzero(~usable)
    reasons = [form.reason for form in codec.prepare([molecules.smiles[row] for row in outside])]
    excluded = [
        (molecules.sample_ids[row], molecules.smiles[row], reason)
        for row, reason in zip(outside, reasons, strict=True)
    ]
    return EncodedSet(
        [molecules.smiles[row] for row in np.flatnonzero(usable)],
        torch.from_numpy(codes[usable]),
        torch.from_numpy(molecules.labels[usable]),
        np.array(excluded, dtype=np.str_).reshape(-1, 3),
    )


def count_reasons(excluded: np.ndarray) -> dict[str, int]:
    """How many molecules were left out, by reason, most frequent first."""
    reasons, counts = np.unique(excluded[:, 2], return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return {str(reasons[i]): int(counts[i]) for i in order}


def train_networks(
    config: dict[str, Any], data: Prepared, seeds: list[int]
) -> tuple[nn.Module, History]:
    """Train one network per seed, stacked.

    Args:
        config: the resolved configuration.
        data: what to train on.
        seeds: one network each.

    Returns:
        The trained stack, which maps ``data.inputs(codes)`` to logits, and what was measured.
    """
    trainer = checked(TrainerSettings, config["trainer"], "trainer")
    model = checked(ModelSettings, config["model"], "model")
    dropout = checked(DropoutSettings, config["dropout"], "dropout")
    every = {
        name: Split(
            data.inputs(part.codes),
            part.labels,
            torch.arange(len(part.codes)).expand(len(seeds), -1),
        )
        for name, part in data.sets.items()
    }
    training = every.pop("train")
    widths = model.layer_widths(training.inputs.shape[1], len(data.tasks))
    network = build_stack(
        model,
        widths,
        seeds,
        dropout.input,
        dropout.hidden,
        batches=initial_batches(training, seeds, trainer.batch_size),
    )
    seed_dropout_(network, [seeded_generator(seed, "dropout") for seed in seeds])
    history = train(
        network,
        training,
        every,
        [seeded_generator(seed, "batches") for seed in seeds],
        trainer,
        multitask_objective(data.tasks),
        description=f"{data.title}, {model.title}, {len(seeds)} seeds",
        checkpoint=checkpoint_of(config),
    )
    return network, history
