"""How what was measured has to be for a claim to hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from convexinit_paper.figures.claims.measures import BEGUN_SHARE, QUANTITIES, Loss, Signals
from convexinit_paper.figures.tables.table_1 import compared

# Two training losses are at the same level if the higher one is at most so many times the lower
# one, and has come at least this share of its way down from the loss of guessing.
LOSS_FACTOR = 2.0
DESCENT_SHARE = 0.9
LEVEL = (
    f"A training loss is at the level of another one if it is at most {LOSS_FACTOR:g} times as "
    f"high and has come at least {DESCENT_SHARE:.0%} of the way from the loss of guessing (all "
    "classes equally probable) down to the other one."
)
# Signals: mean in standard deviations, variance as a factor, correlation as a difference.
MEAN_TOLERANCE = 0.5
VARIANCE_FACTOR = 2.0
CORRELATION_TOLERANCE = 0.25
NEAR = {
    "mean": f"within {MEAN_TOLERANCE:g} standard deviations of",
    "variance": f"within a factor of {VARIANCE_FACTOR:g} of",
    "correlation": f"within {CORRELATION_TOLERANCE:g} of",
}
# Accuracies and AUROCs that are no more than so many percentage points apart are similar.
SIMILAR_POINTS = 2.0
# Level sets: in logits, and the share of walks.
LEVEL_TOLERANCE = 1e-6
MOST_FAILED = 0.05


@dataclass(frozen=True)
class Relation:
    """How what was measured has to be for a claim to hold.

    Attributes:
        words: the criterion; ``{measure}`` stands for the words of the measure, ``{models}`` for
            the variants of the claim, ``{others}`` for those that they are compared with, and
            ``{threshold}`` for the threshold of the claim.
        holds: whether it is so, from the values of the variants, those of the others, and the
            threshold. A claim about formulas has one value.
        shown: the numbers that decide it, in words; None: the value of every variant.
    """

    words: str
    holds: Callable[[Sequence[Any], Sequence[Any], float], bool]
    shown: Callable[[Sequence[Any], Sequence[Any], float], str] | None = None


# --- Levels of loss --------------------------------------------------------------------------


def is_reached(loss: Loss, reference: Loss) -> bool:
    """Whether a training loss is at the level of a reference, or lower.

    Example:
        >>> is_reached(Loss(0.03, 2.3), Loss(0.02, 2.3)), is_reached(Loss(2.2, 2.3), Loss(1.2, 2.3))
        (True, False)
    """
    descent = max(reference.guess - reference.value, 0.0)
    return (
        loss.value <= LOSS_FACTOR * reference.value
        and loss.value <= reference.value + (1 - DESCENT_SHARE) * descent
    )


def _all_reach(losses: Sequence[Loss], others: Sequence[Loss], _: float) -> bool:
    return all(is_reached(loss, other) for loss in losses for other in others)


def _none_reaches(losses: Sequence[Loss], others: Sequence[Loss], _: float) -> bool:
    return not any(is_reached(loss, other) for loss in losses for other in others)


def _same(losses: Sequence[Loss], others: Sequence[Loss], threshold: float) -> bool:
    # Two losses near that of guessing are no evidence: the others must have begun to learn.
    return (
        _all_reach(losses, others, threshold)
        and _all_reach(others, losses, threshold)
        and all(other.value < BEGUN_SHARE * other.guess for other in others)
    )


AT_LEVEL = Relation("{measure} is at the level of {others} or lower", _all_reach)
NOT_AT_LEVEL = Relation("{measure} is not at the level of {others}", _none_reaches)
SAME_LEVEL = Relation(
    "{measure} is at the level of {others} and the other way round, and the latter is below "
    f"{BEGUN_SHARE:.0%} of the loss of guessing",
    _same,
)
BELOW_GUESSING = Relation(
    "{measure} is below {threshold:.0%} of the loss of guessing",
    lambda losses, _, threshold: all(loss.value < threshold * loss.guess for loss in losses),
)
NOT_ABOVE = Relation(
    "{measure} is at most {threshold:g} times that of {others}",
    lambda losses, others, threshold: all(
        loss.value <= threshold * other.value for loss in losses for other in others
    ),
)
FALLS = Relation(
    "{measure} is at least {threshold:g} times that in the last epoch",
    lambda values, _, threshold: all(first >= threshold * last for first, last in values),
)

# --- Order -----------------------------------------------------------------------------------


def _all_less(values: Sequence[Any], others: Sequence[Any], _: float) -> bool:
    return all(value < other for value in values for other in others)


BELOW = Relation("{measure} is below that of {others}", _all_less)
EARLIER = replace(BELOW, words="{measure} after fewer updates than that of {others}")
SMALLER = replace(BELOW, words="{measure} is smaller for {models} than for {others}")
ABOVE = Relation(
    "{measure} is above that of {others}", lambda values, others, _: _all_less(others, values, _)
)
NOT_FAR_BELOW = Relation(
    "{measure} is at most {threshold:g} points below that of {others}",
    lambda values, others, threshold: all(
        value >= other - threshold for value in values for other in others
    ),
)
AT_LEAST_POINTS = Relation(
    "{measure} is at least {threshold:g}%",
    lambda values, _, threshold: min(values) >= threshold,
)
NOT_FAR_ABOVE = Relation(
    "{measure} are at most {threshold:g} points above that of {others}",
    lambda values, others, threshold: all(
        value <= other + threshold for value in values for other in others
    ),
)
TOGETHER = Relation(
    "{measure} differ by at most {threshold:g} points",
    lambda values, _, threshold: max(values) - min(values) <= threshold,
)
AS_PUBLISHED = Relation(
    f"{{measure}} is within {SIMILAR_POINTS:g} points of the published {{threshold:.2f}}",
    lambda values, _, published: abs(values[0] - published) <= SIMILAR_POINTS,
    lambda values, _, published: f"{values[0]:.2f} here, {published:.2f} in the paper",
)


def _tested(values: Sequence[pd.DataFrame], others: Sequence[pd.DataFrame], _: float) -> str:
    test = compared(values[0], others[0])
    return f"{test.wins} wins, {test.losses} losses, p = {test.p:.2g}"


BETTER = Relation(
    "one-sided {measure} against {others} over the pairs of assay and seed: p < {threshold:g}",
    lambda values, others, threshold: compared(values[0], others[0]).p < threshold,
    _tested,
)

# --- Signals ---------------------------------------------------------------------------------


def agrees(quantity: str, values: pd.Series, targets: pd.Series, variances: pd.Series) -> bool:
    """Whether a quantity is at its target in every layer; what is not finite is not.

    Args:
        quantity: "mean", "variance" or "correlation".
        values: by layer.
        targets: by layer.
        variances: by layer, the unit of means.
    """
    if quantity == "mean":
        close = (values - targets).abs() <= MEAN_TOLERANCE * np.sqrt(variances)
    elif quantity == "variance":
        close = (values / targets).between(1 / VARIANCE_FACTOR, VARIANCE_FACTOR)
    else:
        close = (values - targets).abs() <= CORRELATION_TOLERANCE
    return bool(len(close)) and bool(close.all())


def is_kept(found: Signals, quantity: str) -> bool:
    """Whether a quantity is at its target in every layer."""
    values = found.measured[quantity]
    targets, ones = (
        pd.Series(number, index=values.index) for number in (found.targets[quantity], 1.0)
    )
    return agrees(quantity, values, targets, ones)


def is_predicted(found: Signals) -> bool:
    """Whether mean, variance and correlation are those that the theory predicts, in all layers."""
    measured, predicted = found.measured, found.predicted
    return all(
        agrees(name, measured[name], predicted[name], predicted["variance"]) for name in QUANTITIES
    )


def _kept(quantity: str, target: str) -> Relation:
    return Relation(
        f"{{measure}} is {NEAR[quantity]} {target} in every layer after the first (mean over the "
        "seeds)",
        lambda values, _, __: all(is_kept(found, quantity) for found in values),
    )


KEPT = {
    quantity: _kept(quantity, target)
    for quantity, target in (("mean", "0"), ("variance", "1"), ("correlation", "its target"))
}
SHIFTS = Relation(
    f"in some layer after the first {{measure}} is not {NEAR['mean']} 0, or the variance is not "
    f"{NEAR['variance']} 1",
    lambda values, _, __: (
        not any(is_kept(found, "mean") and is_kept(found, "variance") for found in values)
    ),
)
PREDICTED = Relation(
    "in every layer after the first of {measure}: "
    f"{', '.join(f'{name} {limit}' for name, limit in NEAR.items())} the prediction",
    lambda values, _, __: all(map(is_predicted, values)),
)
FAR_FROM_GAUSSIAN = Relation(
    "in some layer after the first {measure} differs from that of a Gaussian by at least "
    "{threshold:g}",
    lambda values, _, threshold: all((found >= threshold).any() for found in values),
)

# --- Walks, of which all tasks count -----------------------------------------------------------

ON_LEVEL = Relation(
    f"no point of {{measure}} is further than {LEVEL_TOLERANCE:g} from its level (in logits, or as "
    f"a share of levels above 1 in size), and at most {MOST_FAILED:.0%} of the walks fail",
    lambda values, _, __: all(
        ((found["residual"] <= LEVEL_TOLERANCE) & (found["failed"] <= MOST_FAILED)).all()
        for found in values
    ),
)
AT_LEAST = Relation(
    "{measure} is at least {threshold:g}",
    lambda values, _, threshold: all((found >= threshold).all(axis=None) for found in values),
)
DECODED = Relation(
    "more than {threshold:.0%} of {measure} decode to molecules",
    lambda values, _, threshold: all((found > threshold).all(axis=None) for found in values),
)
SMALL_CHANGE = Relation(
    "{measure} is at most {threshold:.0%} of the median difference of a random molecule from the "
    "level (in logits; given: both)",
    lambda values, _, threshold: all(
        (found["own_change"] <= threshold * found["target_change"]).all() for found in values
    ),
)
CROSSED_ONCE = Relation(
    "no ray from the interior crosses {measure} more than once, and some rays do for {others} "
    "(given: share of rays)",
    lambda values, others, _: max(values) == 0.0 and min(others) > 0.0,
)

# --- Formulas --------------------------------------------------------------------------------

AT_MOST = Relation(
    "{measure} by at most {threshold:g}", lambda values, _, threshold: values[0] <= threshold
)
ALL_BELOW = Relation(
    "{measure} is below {threshold:g}", lambda values, _, threshold: max(values[0]) < threshold
)
ALL_BELOW_ZERO = replace(ALL_BELOW, words="{measure} is below zero")
ALL_SMALL = Relation(
    "{measure} is below {threshold:g} in size",
    lambda values, _, threshold: max(map(abs, values[0])) < threshold,
)
