"""Figures 2, 5 and 7 to 10: the loss of every training batch during the first epochs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pandas as pd
import torch

from convexinit.config import checked, parse_seeds, require
from convexinit.data.images import load_images, normalise
from convexinit.data.split import random_split
from convexinit.experiments.models import ModelSettings, build_stack
from convexinit.runs import Outcome
from convexinit.training import (
    History,
    Split,
    TrainerSettings,
    device_name,
    prepare_process,
    seeded_generator,
    train,
)


@dataclass(frozen=True)
class DatasetSettings:
    """Which images, and how many of the training set are held out.

    Attributes:
        name: name of the data set.
        validation_fraction: share of the training set that each seed holds out, in (0, 1).
    """

    name: str
    validation_fraction: float

    def __post_init__(self) -> None:
        require(
            0.0 < self.validation_fraction < 1.0,
            "dataset.validation_fraction",
            "between 0 and 1, both excluded",
            self.validation_fraction,
        )


def run(config: dict[str, Any]) -> Outcome:
    """Train all seeds of one model variant on one data set of images."""
    prepare_process()
    seeds = parse_seeds(config["seeds"])
    trainer = checked(TrainerSettings, config["trainer"], "trainer")
    model = checked(ModelSettings, config["model"], "model")
    dataset = checked(DatasetSettings, config["dataset"], "dataset")
    data = normalise(load_images(dataset.name, config["data_dir"]))

    splits = [
        random_split(
            len(data.train_labels), dataset.validation_fraction, seeded_generator(seed, "split")
        )
        for seed in seeds
    ]
    training, validation = (
        Split(data.train_inputs, data.train_labels, torch.stack(rows))
        for rows in zip(*splits, strict=True)
    )
    every_row = torch.arange(len(data.test_labels)).expand(len(seeds), -1)
    test = Split(data.test_inputs, data.test_labels, every_row)

    widths = model.widths(data.train_inputs.shape[1], data.num_classes)
    history = train(
        build_stack(model, widths, seeds),
        training,
        {"validation": validation, "test": test},
        [seeded_generator(seed, "batches") for seed in seeds],
        trainer,
        description=f"{data.title}, {model.title}, {len(seeds)} seeds",
    )
    return Outcome(
        metrics_table(history, seeds),
        final_metrics(history, seeds),
        device_name(trainer.torch_device()),
    )


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
    """Per seed: its last metrics, and whether (and at which step) it diverged."""
    final: dict[int, dict[str, Any]] = {}
    for index, seed in enumerate(seeds):
        last = {
            f"{measurement.split}_{measurement.metric}": measurement.values[index]
            for measurement in history.measurements
        }
        step = history.diverged_at[index]
        status = {"status": "finished"} if step is None else {"status": "diverged", "step": step}
        epoch_losses = history.batch_losses[index, -history.steps_per_epoch :]
        final[seed] = {**status, "train_loss": float(epoch_losses.median()), **last}
    return final
