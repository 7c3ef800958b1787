"""Moments of activations at Gaussian pre-activations: closed forms, else quadrature.

Equation and section numbers refer to the paper (Hoedt and Klambauer, 2023).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convexinit.activations import Activation, resolve_activation
from convexinit.checks import check_number
from convexinit.quadrature import Quadrature


@dataclass(frozen=True)
class ActivationMoments:
    """Moments of phi(s1) and phi(s2) for two equally distributed, correlated Gaussians.

    Variance and covariance are stored and raw moments derived from them, because the opposite loses
    digits where phi varies little about a large mean (softplus at a small variance).

    Attributes:
        mean: E[phi(s1)].
        variance: Var[phi(s1)].
        covariance: Cov[phi(s1), phi(s2)].
    """

    mean: float
    variance: float
    covariance: float

    @property
    def second_moment(self) -> float:
        """E[phi(s1)^2]."""
        return self.variance + self.mean**2

    @property
    def cross_moment(self) -> float:
        """E[phi(s1) phi(s2)]."""
        return self.covariance + self.mean**2


def activation_moments(
    activation: Activation,
    *,
    mean: float = 0.0,
    variance: float = 1.0,
    correlation: float = 0.0,
) -> ActivationMoments:
    """Moments of an activation at Gaussian pre-activations (Section 2.2, Eq. 7).

    In closed form for ReLU, leaky ReLU and the identity at mean zero, otherwise by quadrature, in
    2 to 25 ms (the more, the larger the variance and the more kinks away from zero).

    Args:
        activation: A name (see `resolve_activation`) or an elementwise callable on torch tensors.
            It gets float64 tensors on the CPU. One that computes in float32 inside is slow, gives
            moments that accurate, and is rejected as rough where the variance is small. Modules are
            copied, so that their own data type and device do not matter.
        mean: Mean of both pre-activations.
        variance: Variance of both, above zero.
        correlation: Of the two, from -1 to 1.

    Raises:
        ValueError: If an argument is out of range, or the activation is not elementwise, not finite
            within 23 standard deviations of the mean, grows so fast that values beyond 16 standard
            deviations contribute to its second moment, or is too rough to integrate.

    Example:
        >>> moments = activation_moments("relu", correlation=0.5)
        >>> round(moments.second_moment, 6), round(moments.cross_moment, 6)
        (0.5, 0.304499)
    """
    correlation = check_number("correlation", correlation, -1.0, 1.0, ends="[]")
    phi = at_gaussian(activation, mean, variance)
    return ActivationMoments(phi.mean, phi.covariance(1.0), phi.covariance(correlation))


class ClosedForm:
    """Moments of phi(s) = slope * s + (1 - slope) * relu(s) at mean zero."""

    def __init__(self, slope: float, variance: float) -> None:
        self.slope, self.variance = slope, variance
        self.mean = (1 - slope) * math.sqrt(variance / (2 * math.pi))

    def covariance(self, r: float) -> float:
        """Cov[phi(s1), phi(s2)] at correlation r in [-1, 1]."""
        # Eq. 7 less the squared mean, arranged so that nothing cancels at small correlations.
        relu = r * (math.pi / 2 + math.asin(r)) - r**2 / (1 + math.sqrt(1 - r**2))
        return self.variance * (self.slope * r + (1 - self.slope) ** 2 * relu / (2 * math.pi))

    def covariance_slope(self, r: float) -> float:
        """Derivative of the covariance with respect to r, by Price's theorem v E[phi'1 phi'2]."""
        relu = math.acos(-r) / (2 * math.pi)
        return self.variance * (self.slope + (1 - self.slope) ** 2 * relu)


def at_gaussian(activation: Activation, mean: float, variance: float) -> ClosedForm | Quadrature:
    """Moments of an activation as functions of the correlation, by the better of the two ways."""
    mean = check_number("mean", mean)
    variance = check_number("variance", variance, 0.0)
    slope = _negative_slope(resolve_activation(activation))
    if slope is not None and mean == 0.0:
        return ClosedForm(slope, variance)
    return Quadrature(activation, mean, variance)


def _negative_slope(phi: Callable[[Tensor], Tensor]) -> float | None:
    """The negative slope of ReLU, leaky ReLU and the identity; None for anything else."""
    if phi is F.relu or phi is torch.relu or type(phi) is nn.ReLU:
        return 0.0
    if phi is F.leaky_relu:
        return 0.01
    if type(phi) is nn.LeakyReLU:
        return float(phi.negative_slope)
    return 1.0 if type(phi) is nn.Identity else None
