"""Initialise a whole network, layer by layer, before any data is seen."""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Generator, Tensor, nn
from torch.nn.parameter import is_lazy

from convexinit.activations import Activation
from convexinit.assignment import assign_, is_close, unchanged_on_error
from convexinit.checks import check_function
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

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


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
    inverse of the layer's positivity map, and through the ``right_inverse`` of a parametrization
    (``torch.nn.utils.parametrize``) if there is one. The network's first layer, if it is an
    unconstrained linear or convolution layer, gets LeCun's initialisation and zero bias, scaled to
    ``variance`` and ``mean``. All other layers, such as skip connections, stay as they are.

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
        ValueError: if the network has no convex layer, has stacked weights, or weights that are
            computed so that they cannot be set, or that do not exist yet (lazy layers), or an
            argument is out of range; the network is unchanged then.

    Example:
        >>> from convexinit import ConvexLinear
        >>> network = nn.Sequential(nn.Linear(8, 64), nn.Softplus(), ConvexLinear(64, 1))
        >>> network = init_icnn_(network, activation="softplus")
    """
    # Whatever is wrong raises here, before anything is filled.
    distribution = check_function("distribution", distribution, DISTRIBUTIONS)
    bias_rule = check_function("bias_rule", bias_rule, BIAS_RULES)
    solve_init(1, activation, rho, variance, bias_noise, mean)
    with unchanged_on_error(model):
        for name, layer in initialised_layers(model).items():
            weight, bias = parameters_of(layer)
            weight, bias = weight.clone(), None if bias is None else bias.clone()
            if isinstance(layer, ConvexLayer):
                moments_init_(
                    weight, bias, activation, rho, variance, bias_noise, mean, distribution,
                    bias_rule, generator,
                )  # fmt: skip
            else:
                lecun_normal_(weight, generator).mul_(math.sqrt(variance))
                if bias is not None:
                    bias.fill_(mean)
            assign_parameters_(layer, weight, bias, name)
    return model


def parameters_of(layer: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a layer, typed."""
    return cast("tuple[Tensor, Tensor | None]", (layer.weight, layer.bias))


@torch.no_grad()
def assign_parameters_(layer: nn.Module, weight: Tensor, bias: Tensor | None, name: str) -> None:
    """Set the weights that a layer uses, which are non-negative if it is convex, and its bias.

    Raises:
        ValueError: if the layer does not use them then, see :func:`convexinit.assignment.assign_`.
    """
    if isinstance(layer, ConvexLayer):
        layer.assign_weight_(weight, name)
        used = layer.nonnegative_weight
        if used.lt(0).any() or not is_close(used, weight):
            raise ValueError(
                f"the layer {name} does not use the weights that were assigned to it, as "
                f"nonnegative_weight of {type(layer).__name__} computes others"
            )
    else:
        assign_(layer, "weight", weight, name)
    if bias is not None:
        assign_(layer, "bias", bias, name)


def initialised_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Convex layers of a network, and its first layer: those that initialisers fill, by name.

    Raises:
        ValueError: if a part of the network has no convex layer, or weights are stacked or have no
            values yet.
    """
    names = {module: name or "itself" for name, module in model.named_modules()}
    initialised: dict[str, nn.Module] = {}
    for part in parts_of(model):
        layers = [
            module
            for module in part.modules()
            if isinstance(module, (ConvexLayer, nn.Linear, *CONVOLUTIONS))
        ]
        if not any(isinstance(layer, ConvexLayer) for layer in layers):
            raise ValueError(
                "the network has no convex layer to initialise; build it from "
                "convexinit.ConvexLinear or convexinit.ConvexConv2d, or call "
                "convexinit.lognormal_init_ on the weight and bias of each non-negative layer"
            )
        for layer in layers:
            if is_lazy(layer.weight) or layer.weight.is_meta:
                raise ValueError(
                    f"the weight of the layer {names[layer]} does not exist yet; run a batch "
                    "through a network with lazy layers, or move one from the device meta, before "
                    "it is initialised"
                )
        if any(_is_stacked(layer) for layer in layers):
            raise ValueError("initialise networks before they are stacked")
        initialised |= {
            names[layer]: layer
            for index, layer in enumerate(layers)
            if index == 0 or isinstance(layer, ConvexLayer)
        }
    return initialised


def _is_stacked(layer: nn.Module) -> bool:
    """Whether a layer has the weights of many networks (:mod:`convexinit.stacking`)."""
    if isinstance(layer, CONVOLUTIONS):
        return layer.weight.ndim != 2 + len(layer.kernel_size)
    return isinstance(layer, nn.Linear) and layer.weight.ndim != 2
