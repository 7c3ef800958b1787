"""What was measured during training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Measurement:
    """One metric, measured for all networks at the end of an epoch (epoch 0: before training).

    Attributes:
        epoch: epochs of training so far.
        step: optimiser steps so far.
        split: "validation" or "test".
        metric: a name that the objective gives.
        values: one value per network.
    """

    epoch: int
    step: int
    split: str
    metric: str
    values: list[float]


@dataclass
class History:
    """What happened during training.

    Attributes:
        batch_losses: ``[networks, steps]`` mean loss of every training batch, before its update.
        steps_per_epoch: optimiser steps in an epoch.
        measurements: metrics of the held-out sets.
        diverged_at: for every network the first step (from 1) with a loss that is not finite,
            or None.
        earlier: seconds spent by earlier processes, from whose checkpoint training went on, by
            the revision of their code.
    """

    batch_losses: Tensor
    steps_per_epoch: int
    measurements: list[Measurement] = field(default_factory=list)
    diverged_at: list[int | None] = field(default_factory=list)
    earlier: dict[str, float] = field(default_factory=dict)


def joined(histories: Sequence[History]) -> History:
    """What happened to groups of networks that were trained one after the other, as one history."""
    measurements = [
        replace(same[0], values=[value for part in same for value in part.values])
        for same in zip(*(history.measurements for history in histories), strict=True)
    ]
    return History(
        torch.cat([history.batch_losses for history in histories]),
        histories[0].steps_per_epoch,
        measurements,
        [step for history in histories for step in history.diverged_at],
        added(*(history.earlier for history in histories)),
    )


def added(*parts: Mapping[str, float]) -> dict[str, float]:
    """Sum of numbers by name.

    Example:
        >>> added({"a": 1.0}, {"a": 2.0, "b": 4.0})
        {'a': 3.0, 'b': 4.0}
    """
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: sum(part.get(name, 0.0) for part in parts) for name in names}
