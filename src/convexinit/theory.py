"""Signal propagation through layers whose weights need not be centred.

Pure functions on numbers: one layer's effect on mean, variance and covariance, and the initial
weights and biases that leave all three unchanged. Equation and section numbers refer to "Principled
Weight Initialisation for Input-Convex Neural Networks" (Hoedt and Klambauer, 2023). As there,
pre-activations are taken to be Gaussian, and the features of a layer to be exchangeable: any two
have the same mean, variance and correlation. Statistics are over the random parameters as well as
the inputs. Where the paper covers ReLU, this module covers any elementwise activation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from convexinit.activations import Activation
from convexinit.checks import check_integer, check_number
from convexinit.moments import ActivationMoments, ClosedForm, activation_moments, at_gaussian
from convexinit.quadrature import Quadrature


@dataclass(frozen=True)
class LayerMoments:
    """What the parameters of a layer s = W phi(s-) + b are drawn from, all independently.

    Attributes:
        weight_mean: mu_w.
        weight_var: sigma_w^2.
        bias_mean: mu_b.
        bias_var: sigma_b^2.

    Raises:
        ValueError: If a mean is not finite or a variance is negative.
    """

    weight_mean: float
    weight_var: float
    bias_mean: float
    bias_var: float

    def __post_init__(self) -> None:
        check_number("weight_mean", self.weight_mean)
        check_number("weight_var", self.weight_var, 0.0, ends="[)")
        check_number("bias_mean", self.bias_mean)
        check_number("bias_var", self.bias_var, 0.0, ends="[)")


@dataclass(frozen=True)
class SignalMoments:
    """Moments of the pre-activations of a layer.

    Attributes:
        mean: Of every feature.
        variance: Of every feature, above zero.
        covariance: Of any two features.
    """

    mean: float
    variance: float
    covariance: float

    @property
    def correlation(self) -> float:
        """Of any two features; nan if they do not vary."""
        return self.covariance / self.variance if self.variance else math.nan


def propagate(
    signal: SignalMoments, layer: LayerMoments, fan_in: int, activation: Activation = "relu"
) -> SignalMoments:
    """Moments of s = W phi(s-) + b from those of s- (Eq. 5 and 6).

    Args:
        signal: Moments of s-.
        layer: Moments of W and b.
        fan_in: Number of features of s-, at least 1.
        activation: phi, as for `activation_moments`.

    Raises:
        ValueError: If an argument is out of range, or as `activation_moments`.

    Example:
        He initialisation keeps the variance of ReLU layers and decorrelates the features:

        >>> he = LayerMoments(weight_mean=0.0, weight_var=2 / 100, bias_mean=0.0, bias_var=0.0)
        >>> propagate(SignalMoments(mean=0.0, variance=1.0, covariance=0.5), he, fan_in=100)
        SignalMoments(mean=0.0, variance=1.0, covariance=0.0)
    """
    fan_in = check_integer("fan_in", fan_in)
    variance = check_number("variance", signal.variance, 0.0)
    phi = activation_moments(
        activation, mean=signal.mean, variance=variance, correlation=signal.correlation
    )
    covariance = layer.weight_mean**2 * _sum_variance(phi, fan_in)
    return SignalMoments(
        mean=fan_in * layer.weight_mean * phi.mean + layer.bias_mean,
        variance=fan_in * layer.weight_var * phi.second_moment + layer.bias_var + covariance,
        covariance=covariance,
    )


def _sum_variance(phi: ActivationMoments, fan_in: int) -> float:
    """Variance of the sum of all activations: the double sum over covariances in Eq. 6."""
    return fan_in * (phi.variance + (fan_in - 1) * phi.covariance)


def correlation_map(
    correlation: float,
    layer: LayerMoments,
    fan_in: int,
    activation: Activation = "relu",
    variance: float = 1.0,
    mean: float = 0.0,
) -> float:
    """Correlation of the features after one layer, given the one before it.

    The result is covariance / variance of what `propagate` returns. Eq. 9, read as a map, instead
    divides by the variance *before* the layer.

    Args:
        correlation: Before the layer, from -1 to 1.
        layer: Moments of the parameters.
        fan_in: Number of features before the layer.
        activation: As for `activation_moments`.
        variance: Before the layer.
        mean: Before the layer.

    Raises:
        ValueError: As `propagate`.
    """
    variance = check_number("variance", variance, 0.0)
    correlation = check_number("correlation", correlation, -1.0, 1.0, ends="[]")
    before = SignalMoments(mean, variance, correlation * variance)
    return propagate(before, layer, fan_in, activation).correlation


def solve_init(
    fan_in: int,
    activation: Activation = "relu",
    rho: float = 0.5,
    variance: float = 1.0,
    bias_noise: float = 0.0,
    mean: float = 0.0,
    inputs: SignalMoments | None = None,
    skip: float = 0.0,
) -> LayerMoments:
    """Initial weights and biases that keep mean, variance and correlation from layer to layer.

    The fixed point of `propagate` (Section 3.2 and 3.3): Eq. 8 for the bias mean, and what Eq. 11
    and 12 are for ReLU without random biases. For (leaky) ReLU at mean zero the weights do not
    depend on the variance, and the bias mean scales with its root; otherwise all depend on it. The
    bias mean is negative wherever E[phi] is positive: the box after Eq. 12 lacks that sign.

    Args:
        fan_in: Number of features that the layer reads, at least 1.
        activation: What is applied to those features; see `activation_moments`.
        rho: Correlation of any two features, in (0, 1); see `admissible_rho`.
        variance: Variance of every feature, above zero.
        bias_noise: Share, in [0, 1), of the variance that features do not share,
            (1 - rho) * variance, that comes from random biases (appendix C.3).
        mean: Mean of every feature.
        inputs: Moments of the pre-activations that the activation is applied to, where they are not
            yet what the layer is to have (mean, variance and rho above): those of a first layer,
            for example, before an activation that is quadratic or the identity.
        skip: Share of the variance, in [0, 1 - rho), that a skip connection adds, from weights of
            mean zero: features do not share it. Random biases have their share of the rest.

    Returns:
        The moments to draw weights and biases with; the weight mean is positive.

    Raises:
        ValueError: If an argument is out of range, the activation is constant where the
            pre-activations lie, or as `activation_moments`.

    Example:
        >>> layer = solve_init(fan_in=1, rho=0.5)
        >>> round(layer.weight_mean, 4), layer.weight_var, round(layer.bias_mean, 4)
        (1.2112, 1.0, -0.4832)

        After 100 squares of uncorrelated pre-activations, beside a skip connection:

        >>> first = SignalMoments(mean=0.0, variance=1.0, covariance=0.0)
        >>> layer = solve_init(100, torch.square, inputs=first, skip=0.25)
        >>> round(layer.weight_mean, 4), round(layer.weight_var, 6), round(layer.bias_mean, 4)
        (0.05, 0.000833, -5.0)
    """
    fan_in = check_integer("fan_in", fan_in)
    rho = check_number("rho", rho, 0.0, 1.0)
    variance, mean = check_number("variance", variance, 0.0), check_number("mean", mean)
    bias_noise = check_number("bias_noise", bias_noise, 0.0, 1.0, ends="[)")
    skip = check_number("skip", skip, 0.0, 1 - rho, ends="[)")
    if inputs is None:
        phi = activation_moments(activation, mean=mean, variance=variance, correlation=rho)
    else:
        if not isinstance(inputs, SignalMoments):
            raise ValueError(
                f"inputs must be a convexinit.theory.SignalMoments, got {type(inputs).__name__}"
            )
        check_number("variance of the inputs", inputs.variance, 0.0)
        phi = activation_moments(
            activation,
            mean=inputs.mean,
            variance=inputs.variance,
            correlation=inputs.correlation,
        )
    _check_varies(phi)
    own_variance = (1 - rho - skip) * variance
    weight_mean = math.sqrt(rho * variance / _sum_variance(phi, fan_in))
    return LayerMoments(
        weight_mean=weight_mean,
        weight_var=(1 - bias_noise) * own_variance / (fan_in * phi.second_moment),
        bias_mean=mean - fan_in * weight_mean * phi.mean,
        bias_var=bias_noise * own_variance,
    )


def admissible_rho(
    fan_in: int,
    activation: Activation = "relu",
    variance: float = 1.0,
    min_mean_over_std: float = 0.0,
    bias_noise: float = 0.0,
) -> tuple[float, float]:
    """Correlations for which `solve_init` has weights that a non-negative distribution can have.

    Any correlation in (0, 1) has a solution. The ends have none: at 0 the weight mean is 0, and
    non-negative weights of mean 0 are all 0; at 1 the weight variance is 0, and all features are
    the same (Section 3.3). Some distributions need more. A log-normal has any mean and variance,
    but a uniform one above zero has mean / std of at least sqrt(3). That is why the paper cannot
    use it "for any N > 1" at rho = 1/2. (With ReLU, nor for N = 1, where mean / std is 1.21.)

    Args:
        fan_in: As for `solve_init`.
        activation: As for `solve_init`.
        variance: As for `solve_init`.
        min_mean_over_std: What mean / std of the weights has to exceed.
        bias_noise: As for `solve_init`; it makes mean / std larger.

    Returns:
        The ends of the open interval; the upper is 1. For activations so curved that mean / std
        does not grow with rho throughout, lower correlations may be possible as well.

    Raises:
        ValueError: As `solve_init`, or if even correlations next to 1 do not suffice.

    Example:
        >>> low, high = admissible_rho(100, min_mean_over_std=3**0.5)
        >>> round(low, 4), high
        (0.9951, 1.0)
    """
    fan_in = check_integer("fan_in", fan_in)
    ratio = check_number("min_mean_over_std", min_mean_over_std, 0.0, ends="[)")
    bias_noise = check_number("bias_noise", bias_noise, 0.0, 1.0, ends="[)")
    gaussian = at_gaussian(activation, 0.0, variance)

    def excess(logit: float) -> float:  # logits resolve correlations next to 0 and 1
        rho, rest = 1 / (1 + math.exp(-logit)), 1 / (1 + math.exp(logit))
        phi = ActivationMoments(gaussian.mean, gaussian.covariance(1.0), gaussian.covariance(rho))
        _check_varies(phi)
        weight_var = (1 - bias_noise) * rest / (fan_in * phi.second_moment)
        return rho / _sum_variance(phi, fan_in) - ratio**2 * weight_var

    top, bottom = 36, -36
    if excess(top) <= 0:
        raise ValueError(
            f"min_mean_over_std of {ratio:g} must be lower for a fan_in of {fan_in}: no "
            "correlation below 1 reaches it"
        )
    if ratio == 0.0:
        return 0.0, 1.0
    low = float(next((x for x in range(top - 1, bottom, -1) if excess(x) <= 0), bottom))
    high = low + 1
    for _ in range(45):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) <= 0 else (low, middle)
    return 1 / (1 + math.exp(-high)), 1.0


@dataclass(frozen=True)
class Stability:
    """How deviations from a fixed point change in one layer; those below 1 in size shrink.

    The slopes are for one of (mean, variance, correlation) being off and the other two right.

    Attributes:
        correlation_slope: Of the correlation after the layer by that before it.
        mean_slope: Of the mean after the layer by that before it.
        variance_slope: Of the variance after the layer by that before it.
        spectral_radius: Largest absolute eigenvalue of the Jacobian of all three, in which each
            also acts on the others: the factor by which small deviations grow in the long run.
    """

    correlation_slope: float
    mean_slope: float
    variance_slope: float
    spectral_radius: float

    @property
    def stable(self) -> bool:
        """Whether all small deviations shrink in the long run."""
        return self.spectral_radius < 1.0


def fixed_point_stability(
    fan_in: int,
    activation: Activation = "relu",
    rho: float = 0.5,
    variance: float = 1.0,
    bias_noise: float = 0.0,
    mean: float = 0.0,
) -> Stability:
    """Stability of the fixed point that `solve_init` gives for the same arguments (appendix B.4).

    The correlation slope is that of `correlation_map` at rho, in closed form for (leaky) ReLU. Read
    as a map, Eq. 9 has this slope divided by 1 - rho, because it holds the variance constant.

    For ReLU the correlation returns to rho, but mean and variance do not return to theirs: a larger
    mean raises the variance of the next layer, a larger variance its mean.

    Args:
        fan_in: As for `solve_init`.
        activation: As for `solve_init`.
        rho: As for `solve_init`.
        variance: As for `solve_init`.
        bias_noise: As for `solve_init`.
        mean: As for `solve_init`.

    Raises:
        ValueError: As `solve_init`.

    Example:
        >>> stability = fixed_point_stability(1000)
        >>> round(stability.correlation_slope, 2), round(stability.spectral_radius, 2)
        (0.57, 1.69)
    """
    layer = solve_init(fan_in, activation, rho, variance, bias_noise, mean)
    rho, variance, mean = float(rho), float(variance), float(mean)
    d_phi = Quadrature(activation, mean, variance).derivatives(rho)
    gaussian = at_gaussian(activation, mean, variance)
    if isinstance(gaussian, ClosedForm):
        d_phi[2, 2] = gaussian.covariance_slope(rho)

    # Rows and columns: mean, variance and covariance, in units of std, std^2, std^2.
    d_mean, d_second, d_covariance = d_phi / variance
    d_variance = d_second - 2 * gaussian.mean * d_mean
    by_covariance = fan_in * layer.weight_mean**2 * (d_variance + (fan_in - 1) * d_covariance)
    by_variance = fan_in * layer.weight_var * d_second + by_covariance
    by_mean = fan_in * layer.weight_mean * d_mean * math.sqrt(variance)
    jacobian = torch.stack([by_mean, by_variance, by_covariance])
    return Stability(
        # The correlation is covariance / variance, and the latter contains the former.
        correlation_slope=float((1 - rho) * jacobian[2, 2]),
        mean_slope=float(jacobian[0, 0]),
        variance_slope=float(jacobian[1, 1] + rho * jacobian[1, 2]),
        spectral_radius=float(torch.linalg.eigvals(jacobian).abs().max()),
    )


def _check_varies(phi: ActivationMoments) -> None:
    # A constant of size 1 has, through rounding, a variance of about 1e-32.
    if phi.variance <= 1e-28 * phi.second_moment:
        raise ValueError(
            f"activation is constant ({phi.mean:g}) where the pre-activations lie, so that no "
            "weights can pass a signal on"
        )
