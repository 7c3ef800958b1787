"""The statistics of Table 1: medians with errors, and sign tests."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import NamedTuple

import numpy as np

QUANTILES = (0.05, 0.95)


class Spread(NamedTuple):
    """The statistic of Table 1.

    Attributes:
        median: of the values.
        error: the larger distance of the median to the quantiles :data:`QUANTILES`.
    """

    median: float
    error: float


def spread(values: np.ndarray) -> Spread:
    """Median and error of the finite values among ``[n]``; NaN if there are none.

    Quantiles are interpolated linearly between the two nearest values.

    Example:
        >>> spread(np.array([0.0, 1.0, 2.0, 3.0, 14.0])).median
        2.0
    """
    finite = values[np.isfinite(values)]
    if not finite.size:
        return Spread(math.nan, math.nan)
    low, median, high = np.quantile(finite, [QUANTILES[0], 0.5, QUANTILES[1]])
    return Spread(float(median), float(max(median - low, high - median)))


class SignTest(NamedTuple):
    """Outcome of a sign test over pairs of values.

    Attributes:
        wins: pairs whose first value is larger,
        losses: and smaller,
        ties: and equal; ties do not count.
        missing: pairs with a value that is not finite; they do not count either.
        p: probability of at least as many wins if both sides were equally likely to win.
    """

    wins: int
    losses: int
    ties: int
    missing: int
    p: float


def sign_test(first: np.ndarray, second: np.ndarray) -> SignTest:
    """One-sided sign test of whether the values of ``first`` tend to be larger.

    Args:
        first: any shape.
        second: the same shape; the values at the same place are a pair.

    Example:
        >>> sign_test(np.array([1.0, 2.0, 3.0]), np.array([0.0, 0.0, 3.0]))
        SignTest(wins=2, losses=0, ties=1, missing=0, p=0.25)
    """
    known = np.isfinite(first) & np.isfinite(second)
    difference = first[known] - second[known]
    wins, losses = int((difference > 0).sum()), int((difference < 0).sum())
    return SignTest(
        wins, losses, int((difference == 0).sum()), int((~known).sum()), binomial_tail(wins, losses)
    )


def binomial_tail(wins: int, losses: int) -> float:
    """Probability of at least ``wins`` heads in ``wins + losses`` tosses of a fair coin, exact.

    Example:
        >>> binomial_tail(3, 1)
        0.3125
    """
    tosses = wins + losses
    outcomes = sum(math.comb(tosses, heads) for heads in range(wins, tosses + 1))
    return float(Fraction(outcomes, 2**tosses))
