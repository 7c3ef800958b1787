"""Initialise a whole network, layer by layer."""

from __future__ import annotations

import math
from typing import TypeVar, cast

import torch
from torch import Generator, Tensor, nn

from convexinit.activations import Activation
from convexinit.difference import parts_of
from convexinit.init import (
    BIAS_RULES,
    DISTRIBUTIONS,
    BiasRule,
    Distribution,
    Network,
    icnn_init_,
    lecun_normal_,
)
from convexinit.positivity import positivity_of
from convexinit.theory import solve_init

T = TypeVar("T")


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
    gets :func:`icnn_init_` with its own fan-in; the weights are carried through the inverse of the
    layer's positivity map. The network's first layer, if it is an unconstrained linear or
    convolution layer, gets LeCun's initialisation and zero bias, scaled to ``variance`` and
    ``mean``. All other layers, such as skip connections, stay as they are.

    Both parts of a :class:`~convexinit.difference.ConvexDifference` are initialised like this, one
    after the other.

    Args:
        model: network whose first layer is registered first; not a stack of networks.
        activation: the activation between the layers: a name or any elementwise callable.
        rho: see :func:`icnn_init_`.
        variance: see :func:`icnn_init_`.
        bias_noise: see :func:`icnn_init_`.
        mean: see :func:`icnn_init_`.
        distribution: a name in :data:`DISTRIBUTIONS` or a callable.
        bias_rule: a name in :data:`BIAS_RULES` or a callable.
        generator: source of randomness.

    Returns:
        ``model``.

    Raises:
        ValueError: if the network has no convex layer, has stacked weights, or an argument is out
            of range; the network is unchanged then.

    Example:
        >>> from convexinit import ConvexLinear
        >>> net = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), ConvexLinear(64, 1))
        >>> net = init_icnn_(net, activation="relu")
    """
    draw = _named(distribution, DISTRIBUTIONS, "distribution")
    fill_bias = _named(bias_rule, BIAS_RULES, "bias_rule")
    solve_init(1, activation, rho, variance, bias_noise, mean)  # raises if anything is out of range
    for module in _initialised_layers(model):
        raw, bias = cast("tuple[Tensor, Tensor | None]", (module.weight, module.bias))
        positivity = positivity_of(module)
        if positivity is not None:
            weight = torch.empty_like(raw)
            icnn_init_(
                weight, bias, activation, rho, variance, bias_noise, mean,
                draw, fill_bias, generator,
            )  # fmt: skip
            raw.copy_(positivity.inverse(weight))
        else:
            lecun_normal_(raw, generator).mul_(math.sqrt(variance))
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
    - one shift per unit (``per_unit``), the counterpart of :func:`centred_bias_`. The variance is
      that over the inputs, averaged over the units; differences between the units' means, which
      would count as variance otherwise, are removed, and with them biases drawn at random.

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
        >>> from convexinit import MLP, project_
        >>> network = MLP([8, 64, 64, 1])
        >>> for layer in network.layers[1:]:
        ...     weight = he_normal_(layer.weight)
        >>> inputs = torch.randn(256, 8)
        >>> output = lsuv_init_(project_(network), inputs)(inputs)
        >>> round(output.var(correction=0).item(), 3)
        1.0
    """
    if not 0.0 < variance < math.inf:
        raise ValueError(f"variance must lie in (0, inf); got {variance}")
    if not math.isfinite(mean):
        raise ValueError(f"mean must be finite; got {mean}")
    layers = _initialised_layers(model)
    names = {module: name or "itself" for name, module in model.named_modules()}
    for layer in layers:
        positivity = positivity_of(layer)
        if positivity is not None and positivity.forward(_weight_of(layer)).lt(0).any():
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
        raw, bias = cast("tuple[Tensor, Tensor | None]", (layer.weight, layer.bias))
        positivity = positivity_of(layer)
        if positivity is None:
            raw.mul_(scale)
        else:
            raw.copy_(positivity.inverse(scale * positivity.forward(raw).double()))
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
    return 1 - _weight_of(layer).ndim if isinstance(layer, _CONVOLUTIONS) else -1


def _weight_of(layer: nn.Module) -> Tensor:
    return cast("Tensor", layer.weight)


_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def _initialised_layers(model: nn.Module) -> list[nn.Module]:
    """Convex layers of a network, and its first layer: those that initialisers fill.

    Raises:
        ValueError: if a part of the network has no convex layer, or weights are stacked.
    """
    initialised = []
    for part in parts_of(model):
        layers = [
            module
            for module in part.modules()
            if positivity_of(module) is not None or isinstance(module, (nn.Linear, *_CONVOLUTIONS))
        ]
        if not any(positivity_of(layer) for layer in layers):
            raise ValueError(
                "the network has no convex layer to initialise; build it from "
                "convexinit.ConvexLinear or convexinit.ConvexConv2d, or call "
                "convexinit.lognormal_init_ on the weight and bias of each non-negative layer"
            )
        if any(_is_stacked(layer) for layer in layers):
            raise ValueError("initialise networks before they are stacked")
        initialised += [
            layer for index, layer in enumerate(layers) if index == 0 or positivity_of(layer)
        ]
    return initialised


def _is_stacked(layer: nn.Module) -> bool:
    """Whether a layer has the weights of many networks (:mod:`convexinit.stacking`)."""
    if isinstance(layer, _CONVOLUTIONS):
        return layer.weight.ndim != 2 + len(layer.kernel_size)
    return isinstance(layer, nn.Linear) and layer.weight.ndim != 2


def _named(choice: T | str, table: dict[str, T], what: str) -> T:
    if callable(choice):
        return choice
    if not isinstance(choice, str) or choice not in table:
        raise ValueError(f"unknown {what} {choice!r}; choose one of {', '.join(table)}")
    return table[choice]
