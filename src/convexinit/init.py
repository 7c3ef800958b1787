"""Initialisers of one layer, in the style of ``torch.nn.init``: a name with ``_`` fills in place.

Three pieces make an initialisation of a convex layer and can be exchanged one by one: the target
moments (:func:`convexinit.theory.solve_init`), the distribution that the weights are drawn from
(:data:`DISTRIBUTIONS`) and the rule for the bias (:data:`BIAS_RULES`), which may look at the
weights that were drawn. :func:`moments_init_` puts them together.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Generator, Tensor

from convexinit.activations import Activation
from convexinit.assignment import check_fillable
from convexinit.checks import check_function, check_generator, check_number
from convexinit.moments import activation_moments
from convexinit.theory import LayerMoments, solve_init

Distribution = Callable[[Tensor, float, float, Generator | None], Tensor]
BiasRule = Callable[[Tensor, Tensor, LayerMoments, float, Generator | None], Tensor]


def fan_in_of(weight: Tensor) -> int:
    """Number of inputs that one output of a layer sums over.

    Args:
        weight: ``[out, in]`` of a linear layer, or ``[out, in / groups, *kernel]`` of a
            convolution, where the fan-in is ``in / groups * kernel area`` (paper, appendix A.5).

    Raises:
        ValueError: if ``weight`` has fewer than two dimensions.
    """
    if weight.ndim < 2:
        raise ValueError(
            f"a weight needs at least two dimensions, [out, in]; got shape {tuple(weight.shape)}"
        )
    return math.prod(weight.shape[1:])


@torch.no_grad()
def lecun_normal_(weight: Tensor, generator: Generator | None = None) -> Tensor:
    """Fill ``weight`` with N(0, 1 / fan_in) (LeCun et al. 1998): for the unconstrained layer."""
    check_fillable("weight", weight)
    return weight.normal_(0.0, fan_in_of(weight) ** -0.5, generator=generator)


@torch.no_grad()
def he_normal_(weight: Tensor, generator: Generator | None = None) -> Tensor:
    """Fill ``weight`` with N(0, 2 / fan_in) (He et al. 2015): the default of the experiments."""
    check_fillable("weight", weight)
    return weight.normal_(0.0, (2.0 / fan_in_of(weight)) ** 0.5, generator=generator)


@torch.no_grad()
def lognormal_(
    weight: Tensor, mean: float, variance: float, generator: Generator | None = None
) -> Tensor:
    """Fill ``weight`` from the log-normal distribution with this mean and variance.

    The underlying normal has mean ``ln(mean^2) - ln(mean^2 + variance) / 2`` and variance
    ``ln(mean^2 + variance) - ln(mean^2)`` (paper, section 3.3). For the principled moments of a
    wide layer it is heavy-tailed: rare large weights carry most of the variance, so that the
    variance within one drawn layer is usually below ``variance``.

    Args:
        weight: tensor of any shape.
        mean: mean of the weights, greater than 0.
        variance: variance of the weights, greater than 0.
        generator: source of randomness.

    Raises:
        ValueError: if ``mean`` or ``variance`` is out of range, or ``weight`` is computed, expanded
            or not floating point.
    """
    mean, variance = check_number("mean", mean, 0.0), check_number("variance", variance, 0.0)
    check_fillable("weight", weight)
    log_variance = math.log1p(variance / mean**2)
    return weight.log_normal_(
        math.log(mean) - log_variance / 2.0, math.sqrt(log_variance), generator=generator
    )


@torch.no_grad()
def gamma_(
    weight: Tensor, mean: float, variance: float, generator: Generator | None = None
) -> Tensor:
    """Fill ``weight`` from the gamma distribution with this mean and variance.

    Its shape is ``mean^2 / variance``, which falls as 1 / fan_in for the principled moments: in
    wide layers almost all weights are zero and a few carry the variance.

    Args:
        weight: tensor of any shape.
        mean: mean of the weights, greater than 0.
        variance: variance of the weights, greater than 0.
        generator: source of randomness.

    Raises:
        ValueError: if ``mean`` or ``variance`` is out of range, or ``weight`` is computed, expanded
            or not floating point.
    """
    mean, variance = check_number("mean", mean, 0.0), check_number("variance", variance, 0.0)
    check_fillable("weight", weight)
    # float64, because draws of a small shape reach below the smallest float32.
    shape = torch.full_like(weight, mean**2 / variance, dtype=torch.float64)
    drawn = torch._standard_gamma(shape, generator=generator) * (variance / mean)
    # Many draws are too small to be normal numbers, with which products on a CPU take far longer.
    smallest = min(torch.finfo(dtype).tiny for dtype in (weight.dtype, torch.float32))
    return weight.copy_(drawn.masked_fill_(drawn < smallest, 0.0))


@torch.no_grad()
def sampled_bias_(
    bias: Tensor,
    weight: Tensor,
    moments: LayerMoments,
    activation_mean: float,
    generator: Generator | None = None,
) -> Tensor:
    """Fill ``bias`` with N(bias_mean, bias_var): a constant if ``bias_var`` is 0 (Eq. 8)."""
    check_fillable("bias", bias)
    return bias.normal_(moments.bias_mean, math.sqrt(moments.bias_var), generator=generator)


@torch.no_grad()
def centred_bias_(
    bias: Tensor,
    weight: Tensor,
    moments: LayerMoments,
    activation_mean: float,
    generator: Generator | None = None,
) -> Tensor:
    """Centre every unit for the weights that it drew, not only on average over the units.

    Eq. 8 with the sum of the drawn weights ``sum_j w_ij`` in place of its expectation
    ``fan_in * weight_mean``; random bias is added on top.

    Args:
        bias: ``[out]``, filled in place.
        weight: ``[out, in]`` or ``[out, in / groups, *kernel]``, the non-negative weights.
        moments: moments of the layer.
        activation_mean: E[phi(s)], mean of the layer's inputs.
        generator: source of randomness.
    """
    # At least float32: the sums of wide layers are large against what they differ by.
    precise = torch.promote_types(weight.dtype, torch.float32)
    surplus = weight.flatten(1).sum(1, dtype=precise) - fan_in_of(weight) * moments.weight_mean
    sampled_bias_(bias, weight, moments, activation_mean, generator)
    return bias.sub_(activation_mean * surplus)


DISTRIBUTIONS: dict[str, Distribution] = {"lognormal": lognormal_, "gamma": gamma_}
BIAS_RULES: dict[str, BiasRule] = {"sampled": sampled_bias_, "centred": centred_bias_}


@torch.no_grad()
def moments_init_(
    weight: Tensor,
    bias: Tensor | None = None,
    activation: Activation = "relu",
    rho: float = 0.5,
    variance: float = 1.0,
    bias_noise: float = 0.0,
    mean: float = 0.0,
    distribution: Distribution | str = "lognormal",
    bias_rule: BiasRule | str = "sampled",
    generator: Generator | None = None,
) -> Tensor:
    """Fill the non-negative weights and the bias of one layer with the moments of section 3.

    Args:
        weight: ``[out, in]`` or ``[out, in / groups, *kernel]``: a parameter, or a tensor that is
            not computed from others. What a parametrization computes is refused, unless gradients
            are disabled, when it looks like any tensor; :func:`convexinit.init_icnn_` sees it.
        bias: ``[out]``, like ``weight``, or None for a layer without bias. The method needs a bias
            to centre the pre-activations; without one their mean grows from layer to layer.
        activation: activation that is applied to the pre-activations of the preceding layer.
        rho: target correlation between two pre-activations of the layer, in (0, 1).
        variance: target variance of the pre-activations, greater than 0.
        bias_noise: share of the non-shared variance that random biases carry, in [0, 1)
            (appendix C.3).
        mean: target mean of the pre-activations.
        distribution: fills the weights, given their mean and variance: a name in
            :data:`DISTRIBUTIONS` or a callable like them.
        bias_rule: fills the bias, given the weights: a name in :data:`BIAS_RULES` or a callable
            like them.
        generator: source of randomness.

    Returns:
        ``weight``.

    Raises:
        ValueError: for arguments out of range, with the admissible range, for a bias of another
            shape, and for a weight or bias that is computed, expanded or without a shape yet;
            nothing is filled then.
    """
    draw = check_function("distribution", distribution, DISTRIBUTIONS)
    fill_bias = check_function("bias_rule", bias_rule, BIAS_RULES)
    check_fillable("weight", weight)
    check_generator(generator)
    if bias is not None:
        check_fillable("bias", bias)
        if bias.shape != weight.shape[:1]:
            raise ValueError(
                f"bias must have a number for each of the {len(weight)} outputs of the weight; got "
                f"shape {tuple(bias.shape)}"
            )
    moments = solve_init(fan_in_of(weight), activation, rho, variance, bias_noise, mean)
    draw(weight, moments.weight_mean, moments.weight_var, generator)
    if bias is not None:
        activation_mean = activation_moments(activation, mean=mean, variance=variance).mean
        fill_bias(bias, weight, moments, activation_mean, generator)
    return weight


def lognormal_init_(
    weight: Tensor,
    bias: Tensor | None = None,
    activation: Activation = "relu",
    rho: float = 0.5,
    variance: float = 1.0,
    bias_noise: float = 0.0,
    generator: Generator | None = None,
) -> Tensor:
    """Initialise one layer as in the paper: log-normal weights, bias from Eq. 8.

    :func:`moments_init_` for other distributions, rules for the bias and target means; the
    arguments are described there.

    Raises:
        ValueError: as :func:`moments_init_`.

    Example:
        >>> layer = torch.nn.Linear(100, 50)
        >>> weight = lognormal_init_(layer.weight, layer.bias)
        >>> bool((weight >= 0).all() and (layer.bias < 0).all())
        True
    """
    return moments_init_(weight, bias, activation, rho, variance, bias_noise, generator=generator)
