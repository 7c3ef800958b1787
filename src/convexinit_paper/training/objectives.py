"""Losses and metrics of stacked networks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Objective:
    """What networks are trained for, and what is measured on held-out sets.

    Attributes:
        loss: maps logits ``[networks, batch, outputs]`` and targets ``[networks, batch, ...]`` to
            the mean loss of every network ``[networks]``.
        metrics: maps the logits and targets of a whole set to values ``[networks]`` by name.
    """

    loss: Callable[[Tensor, Tensor], Tensor]
    metrics: Callable[[Tensor, Tensor], dict[str, Tensor]]


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy in nats, averaged over the batch: one value per network.

    Args:
        logits: ``[networks, batch, classes]``.
        targets: ``[networks, batch]``, in 0..classes-1.
    """
    losses = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none")
    return losses.view(targets.shape).mean(1)


def classification_metrics(logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Cross-entropy ("loss") and share of right classes ("accuracy"); shapes as above."""
    accuracy = (logits.argmax(-1) == targets).float().mean(1)
    return {"loss": cross_entropy(logits, targets), "accuracy": accuracy}


CLASSIFICATION = Objective(cross_entropy, classification_metrics)


def masked_binary_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy in nats, averaged over the known labels: one value per network.

    Args:
        logits: ``[networks, batch, tasks]``.
        targets: ``[networks, batch, tasks]``, 0, 1, or NaN where the label is missing.

    Returns:
        ``[networks]``; 0 for a batch without any label.
    """
    known = ~targets.isnan()
    losses = F.binary_cross_entropy_with_logits(
        logits.float(), targets.nan_to_num(0.0), reduction="none"
    )
    return (losses * known).sum((1, 2)) / known.sum((1, 2)).clamp_min(1)


def multitask_objective(tasks: tuple[str, ...]) -> Objective:
    """Masked binary cross-entropy; AUROC of every task, and their mean, as metrics."""

    def metrics(logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
        values = auroc(logits, targets[0])
        named = {f"auroc_{task}": values[:, index] for index, task in enumerate(tasks)}
        loss = masked_binary_cross_entropy(logits, targets)
        return {"loss": loss, **named, "auroc": values.nanmean(1)}

    return Objective(masked_binary_cross_entropy, metrics)


def auroc(scores: Tensor, labels: Tensor) -> Tensor:
    """Area under the receiver operating characteristic: P(a positive scores higher), ties half.

    Args:
        scores: ``[networks, n, tasks]``.
        labels: ``[n, tasks]``, 0, 1, or NaN where missing; the same for all networks.

    Returns:
        ``[networks, tasks]``; NaN for a task without labels of both kinds, and for a network with
        scores that are not finite.
    """
    areas = []
    for task in range(labels.shape[1]):
        known = ~labels[:, task].isnan()
        positive = labels[known, task] == 1
        values = scores[:, known, task].contiguous()
        order = values.sort(1).values
        # Mean rank among equal scores, counted from 0.
        ranks = (
            torch.searchsorted(order, values, right=True) + torch.searchsorted(order, values) - 1
        ) / 2.0
        positives = int(positive.sum())
        pairs = positives * (len(positive) - positives)
        above = ranks[:, positive].double().sum(1) - positives * (positives - 1) / 2
        area = above / pairs if pairs else torch.full_like(above, torch.nan)
        areas.append(torch.where(values.isfinite().all(1), area, torch.nan))
    return torch.stack(areas, 1).float()
