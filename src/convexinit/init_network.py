"""Initialise a whole network, layer by layer."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Generator, Tensor, nn

from convexinit.activations import Activation
from convexinit.checks import check_function, check_number
from convexinit.difference import parts_of
from convexinit.init import (
    BIAS_RULES,
    DISTRIBUTIONS,
    BiasRule,
    Distribution,
    lecun_normal_,
    moments_init_,
)
from convexinit.layers import ConvexLayer, Network
from convexinit.theory import solve_init

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@torch.no_grad()
def init_icnn_(
    model: Network,
    activation: Activation = "relu",
    rho: float = 0.5,
    variance: float = 1.0,
    bias_noise: float = 0.0,
    mean: float = 0.0,
    distribution: Distribution | str = "lognormal",
    bias_rule: BiasRule | str = "sampled",
    generator: Generator | None = None,
) -> Network:
    """Initialise a whole input-convex network for stable signal propagation.

    Every convex layer (:class:`~convexinit.ConvexLinear`, :class:`~convexinit.ConvexConv2d`)
    gets :func:`~convexinit.moments_init_` with its own fan-in; the weights are carried through the
    inverse of the layer's positivity map. The network's first layer, if it is an unconstrained
    linear or convolution layer, gets LeCun's initialisation and zero bias, scaled to ``variance``
    and ``mean``. All other layers, such as skip connections, stay as they are.

    Both parts of a :class:`~convexinit.difference.ConvexDifference` are initialised like this, one
    after the other.

    Args:
        model: network whose first layer is registered first; not a stack of networks.
        activation: the activation between the layers: a name in
            :data:`convexinit.activations.ACTIVATIONS` or any elementwise callable.
        rho: see :func:`~convexinit.moments_init_`.
        variance: see :func:`~convexinit.moments_init_`.
        bias_noise: see :func:`~convexinit.moments_init_`.
        mean: see :func:`~convexinit.moments_init_`.
        distribution: see :func:`~convexinit.moments_init_`.
        bias_rule: see :func:`~convexinit.moments_init_`.
        generator: source of randomness.

    Returns:
        ``model``.

    Raises:
        ValueError: if the network has no convex layer, has stacked weights, or an argument is out
            of range; the network is unchanged then.

    Example:
        >>> from convexinit import ConvexLinear
        >>> network = nn.Sequential(nn.Linear(8, 64), nn.Softplus(), ConvexLinear(64, 1))
        >>> network = init_icnn_(network, activation="softplus")
    """
    # Whatever is wrong raises here, before anything is filled.
    distribution = check_function("distribution", distribution, DISTRIBUTIONS)
    bias_rule = check_function("bias_rule", bias_rule, BIAS_RULES)
    solve_init(1, activation, rho, variance, bias_noise, mean)
    for layer in _initialised_layers(model):
        weight, bias = _parameters_of(layer)
        if isinstance(layer, ConvexLayer):
            weight = moments_init_(
                torch.empty_like(weight), bias, activation, rho, variance, bias_noise, mean,
                distribution, bias_rule, generator,
            )  # fmt: skip
            layer.assign_weight_(weight)
        else:
            lecun_normal_(weight, generator).mul_(math.sqrt(variance))
            if bias is not None:
                bias.fill_(mean)
    return model


@torch.no_grad()
def lsuv_init_(
    model: Network,
    inputs: Tensor,
    variance: float = 1.0,
    mean: float = 0.0,
    per_unit: bool = False,
) -> Network:
    """Scale and centre the pre-activations of every layer on a batch of inputs.

    LSUV, layer-sequential unit-variance (Mishkin & Matas 2016), for input-convex networks. It
    starts from weights drawn by any other initialisation. Layer by layer, in the order of the
    forward pass, the weights (and the bias with them) are multiplied by one positive number and
    the bias is shifted, so that the pre-activations of the layer have the target variance and mean
    on the batch. Non-negative weights stay non-negative, and are carried through the inverse of
    the layer's positivity map. One forward pass is enough: pre-activations depend on the scale of
    their own layer linearly.

    The original scales weights of mean zero and needs no bias; non-negative weights shift the mean
    of every layer, so that here it has to be removed as well. Two ways are offered:

    - one shift per layer (the default), the counterpart of Eq. 8 of the paper, where all units of a
      layer have the same bias. Variance and mean are those over inputs and units together.
    - one shift per unit (``per_unit``), the counterpart of
      :func:`~convexinit.init.centred_bias_`. The variance is that over the inputs, averaged over
      the units; differences between the units' means, which would count as variance otherwise, are
      removed, and with them biases drawn at random.

    What no scale or shift of a layer can change is the *correlation* of its pre-activations: for
    given inputs it depends on the fan-in and the ratio of the weights' squared mean to their
    variance, which only the draw decides. After He's initialisation with negative weights set to
    zero, correlations grow towards 1 within a few wide layers, as they do without LSUV: mean and
    variance are right, but the units say the same. (``per_unit`` does not help: what it removes,
    differences between the units' means, is variance that the units do not share.)

    The layers are those of :func:`init_icnn_`: all convex layers and the first layer; skip
    connections stay as they are, and what they add to a pre-activation is not counted. Layers that
    the forward pass does not reach stay as they are.

    Args:
        model: network with non-negative weights in its convex layers; not a stack of networks. It
            is run in its mode: call ``model.eval()`` before if dropout is not to count.
        inputs: batch that ``model`` can be called with; its first dimension is the samples.
        variance: target variance of the pre-activations, greater than 0.
        mean: target mean of the pre-activations. A layer without bias is scaled alone.
        per_unit: whether every unit (channel of a convolution) gets a shift of its own.

    Returns:
        ``model``.

    Raises:
        ValueError: if an argument is out of range, the network has no convex layer or stacked or
            negative weights, or the pre-activations of a layer do not vary or are not finite; the
            network is unchanged then.

    Example:
        >>> from convexinit import MLP
        >>> inputs = torch.randn(256, 8)
        >>> output = lsuv_init_(MLP([8, 64, 64, 1]), inputs)(inputs)
        >>> round(output.var(correction=0).item(), 3)
        1.0
    """
    variance, mean = check_number("variance", variance, 0.0), check_number("mean", mean)
    layers = _initialised_layers(model)
    names = {module: name or "itself" for name, module in model.named_modules()}
    for layer in layers:
        if isinstance(layer, ConvexLayer) and layer.nonnegative_weight.lt(0).any():
            raise ValueError(
                f"the layer {names[layer]} has negative weights; call convexinit.project_ first"
            )
    corrections: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def correct(layer: nn.Module, _: tuple[Tensor, ...], signal: Tensor) -> Tensor:
        units = signal.movedim(_unit_dimension(layer), -1)
        if layer not in corrections:  # a layer that is used again keeps its first correction
            corrections[layer] = _scale_and_shift(units, variance, mean, per_unit, names[layer])
        scale, shift = corrections[layer]
        if layer.bias is None:
            shift = torch.zeros_like(shift)
        return (units * scale + shift).movedim(-1, _unit_dimension(layer)).to(signal.dtype)

    handles = [layer.register_forward_hook(correct) for layer in layers]
    try:
        model(inputs)
    finally:
        for handle in handles:
            handle.remove()
    for layer, (scale, shift) in corrections.items():
        weight, bias = _parameters_of(layer)
        if isinstance(layer, ConvexLayer):
            layer.assign_weight_(scale * layer.nonnegative_weight.double())
        else:
            weight.mul_(scale)
        if bias is not None:
            bias.copy_(scale * bias + shift)
    return model


def _scale_and_shift(
    signal: Tensor, variance: float, mean: float, per_unit: bool, name: str
) -> tuple[Tensor, Tensor]:
    """Scale (one number) and shift (one number or ``[units]``) that give the target moments.

    Args:
        signal: pre-activations ``[..., units]``.
        variance: target variance.
        mean: target mean.
        per_unit: whether units are centred one by one.
        name: of the layer, for the error message.
    """
    signal = signal.double().flatten(0, -2)
    centre = signal.mean(0) if per_unit else signal.mean()
    measured = (signal - centre).square().mean()
    # Rounding leaves a little variance in pre-activations that are constant in truth.
    rounding = torch.finfo(torch.float32).eps * float(signal.abs().max())
    if not rounding**2 < float(measured) < math.inf:
        raise ValueError(
            f"the pre-activations of the layer {name} have variance {measured:.3g} on "
            "these inputs, so that no scale gives them the target variance; use more inputs or "
            "another draw of the weights"
        )
    scale = (variance / measured).sqrt()
    return scale, mean - scale * centre


def _unit_dimension(layer: nn.Module) -> int:
    """Dimension of the units in a layer's output: the channels of a convolution, else the last."""
    return 1 - layer.weight.ndim if isinstance(layer, _CONVOLUTIONS) else -1


def _parameters_of(layer: nn.Module) -> tuple[Tensor, Tensor | None]:
    return cast("tuple[Tensor, Tensor | None]", (layer.weight, layer.bias))


def _initialised_layers(model: nn.Module) -> list[nn.Module]:
    """Convex layers of a network, and its first layer: those that initialisers fill.

    Raises:
        ValueError: if a part of the network has no convex layer, or weights are stacked.
    """
    initialised: list[nn.Module] = []
    for part in parts_of(model):
        layers = [
            module
            for module in part.modules()
            if isinstance(module, (ConvexLayer, nn.Linear, *_CONVOLUTIONS))
        ]
        if not any(isinstance(layer, ConvexLayer) for layer in layers):
            raise ValueError(
                "the network has no convex layer to initialise; build it from "
                "convexinit.ConvexLinear or convexinit.ConvexConv2d, or call "
                "convexinit.lognormal_init_ on the weight and bias of each non-negative layer"
            )
        if any(_is_stacked(layer) for layer in layers):
            raise ValueError("initialise networks before they are stacked")
        initialised += [
            layer
            for index, layer in enumerate(layers)
            if index == 0 or isinstance(layer, ConvexLayer)
        ]
    return initialised


def _is_stacked(layer: nn.Module) -> bool:
    """Whether a layer has the weights of many networks (:mod:`convexinit.stacking`)."""
    if isinstance(layer, _CONVOLUTIONS):
        return layer.weight.ndim != 2 + len(layer.kernel_size)
    return isinstance(layer, nn.Linear) and layer.weight.ndim != 2
