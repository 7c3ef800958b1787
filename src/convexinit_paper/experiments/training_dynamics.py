"""Training on images: Figures 2, 5 and 7 to 10 (batch losses), 3 and 11 (generalisation)."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from convexinit_paper.data.contents import check_contents
from convexinit_paper.data.datasets import DatasetSettings, dataset_settings, load_dataset
from convexinit_paper.data.split import random_split
from convexinit_paper.request.request import Request
from convexinit_paper.store.checkpoints import checkpoint_folder, checkpoint_of
from convexinit_paper.store.runs import Outcome, seed_summary
from convexinit_paper.training.history import History, joined
from convexinit_paper.training.loop import EVALUATION_ROWS, Split, train
from convexinit_paper.training.machine import device_name, prepare_process
from convexinit_paper.training.memory import available_bytes, fitting, training_bytes
from convexinit_paper.training.models import ModelSettings, build_stack, initial_batches
from convexinit_paper.training.randomness import seeded_generator
from convexinit_paper.training.settings import TrainerSettings


@dataclass(frozen=True)
class Settings:
    """Sections of the configuration."""

    dataset: DatasetSettings = field(metadata={"parse": dataset_settings})
    model: ModelSettings
    trainer: TrainerSettings


def run(settings: Settings, request: Request) -> Outcome:
    """Train all seeds of one model variant on one data set of images."""
    prepare_process()
    seeds, model = request.seeds, settings.model
    trainer = settings.trainer.for_initialisation(model.init)
    held_out_fraction = settings.dataset.validation_fraction
    data = load_dataset(settings.dataset, request.data_dir, request.results_dir)
    check_contents(request.config)

    splits = [
        random_split(len(data.train_labels), held_out_fraction, seeded_generator(seed, "split"))
        for seed in seeds
    ]
    training, validation = (
        Split(data.train_inputs, data.train_labels, torch.stack(rows))
        for rows in zip(*splits, strict=True)
    )
    every_row = torch.arange(len(data.test_labels)).expand(len(seeds), -1)
    held_out = {"test": Split(data.test_inputs, data.test_labels, every_row)}
    if held_out_fraction > 0.0:
        held_out = {"validation": validation, **held_out}

    widths = model.layer_widths(data.train_inputs.shape[1], data.num_classes)
    batches = initial_batches(training, seeds, trainer.batch_size)

    def build(group: range) -> nn.Module:
        some = slice(group.start, group.stop)
        return build_stack(
            model, widths, seeds[some], image_shape=data.image_shape, batches=batches[some]
        )

    groups = groups_of_seeds(build, data.image_shape, trainer, len(seeds), request.seeds_at_once)
    groups = begun_groups(groups, checkpoint_folder(request.config))
    histories = []
    for group in groups:
        some = seeds[group.start : group.stop]
        histories.append(
            train(
                build(group),
                training.of(group),
                {name: split.of(group) for name, split in held_out.items()},
                [seeded_generator(seed, "batches") for seed in some],
                trainer,
                description=f"{data.title}, {model.title}, {len(some)} of {len(seeds)} seeds",
                checkpoint=checkpoint_of(request.config, f"seeds-{group.start}-{group.stop}"),
            )
        )
    history = joined(histories)
    return Outcome(
        metrics_table(history, seeds),
        final_metrics(history, seeds),
        device_name(trainer.torch_device()),
        earlier=history.earlier,
    )


def groups_of_seeds(
    build: Callable[[range], nn.Module],
    image_shape: tuple[int, int, int],
    trainer: TrainerSettings,
    count: int,
    most: int | None,
) -> list[range]:
    """Split ``count`` seeds into groups that fit into the memory of the device.

    Args:
        build: makes the stack of networks of a group.
        image_shape: channels, height and width of the inputs.
        trainer: device and size of batches.
        count: number of seeds.
        most: number of seeds in a group at most; None for no limit.
    """
    first = build(range(1))
    parameters = sum(parameter.numel() for parameter in first.parameters())
    # Every bias is that of a unit, or of a channel with a unit for every pixel at most.
    pixels = image_shape[1] * image_shape[2]
    units = sum(
        layer.bias.numel() * (pixels if isinstance(layer, nn.Conv2d) else 1)
        for layer in first.modules()
        if isinstance(layer, (nn.Linear, nn.Conv2d)) and layer.bias is not None
    )
    # Evaluation keeps half as much of every sample as training, or less.
    samples = max(trainer.batch_size, EVALUATION_ROWS // 2)
    available = available_bytes(trainer.torch_device())
    return fitting(count, training_bytes(parameters, units, samples), available, most)


def begun_groups(groups: list[range], folder: Path) -> list[range]:
    """The groups of an interrupted training, which other groups could not go on from.

    Free memory may have changed since. Groups that were smaller still fit; of larger ones, which
    may not, a warning says how to go on.

    Args:
        groups: those that fit now.
        folder: where checkpoints lie, named after the groups.
    """
    largest = len(groups[0])
    names = (path.stem.removeprefix("seeds-0-") for path in folder.glob("seeds-0-*.pt"))
    begun = {int(name) for name in names if name.isdecimal()}
    if not begun or largest in begun:
        return groups
    smaller = [size for size in begun if size < largest]
    if smaller:
        return fitting(groups[-1].stop, each=1, available=None, most=max(smaller))
    warnings.warn(
        f"the checkpoints in {folder} are of {min(begun)} seeds at once, and no more fit now than "
        f"{largest} (or seeds_at_once allows): training starts from the beginning. To go on from "
        "them, stop, make as much memory free as there was, and ask again",
        stacklevel=2,
    )
    return groups


def metrics_table(history: History, seeds: list[int]) -> pd.DataFrame:
    """Batch losses and held-out metrics as a tidy table (columns of ``runs.COLUMNS``)."""
    count, steps = history.batch_losses.shape
    step = torch.arange(1, steps + 1)
    parts = [
        pd.DataFrame(
            {
                "seed": torch.tensor(seeds).repeat_interleave(steps).numpy(),
                "epoch": ((step - 1) // history.steps_per_epoch + 1).repeat(count).numpy(),
                "step": step.repeat(count).numpy(),
                "split": "train",
                "metric": "batch_loss",
                "value": history.batch_losses.flatten().numpy(),
            }
        )
    ]
    parts += [
        pd.DataFrame(
            {
                "seed": seeds,
                "epoch": measurement.epoch,
                "step": measurement.step,
                "split": measurement.split,
                "metric": measurement.metric,
                "value": measurement.values,
            }
        )
        for measurement in history.measurements
    ]
    return pd.concat(parts, ignore_index=True)


def final_metrics(history: History, seeds: list[int]) -> dict[int, dict[str, Any]]:
    """What the summary of a run says of each seed; ``step`` is that at which it diverged."""
    final: dict[int, dict[str, Any]] = {}
    for index, seed in enumerate(seeds):
        last = {
            f"{measurement.split}_{measurement.metric}": measurement.values[index]
            for measurement in history.measurements
        }
        step = history.diverged_at[index]
        at = {} if step is None else {"step": step}
        epoch_losses = history.batch_losses[index, -history.steps_per_epoch :]
        train_loss = float(epoch_losses.median())
        final[seed] = seed_summary(step is not None, **at, train_loss=train_loss, **last)
    return final
