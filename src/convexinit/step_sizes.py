"""Step sizes of deep and wide input-convex networks, as parameter groups for any optimiser."""

from __future__ import annotations

import math
from typing import Any

from torch import nn

from convexinit.activations import Activation
from convexinit.checks import check_number
from convexinit.difference import parts_of
from convexinit.layers import ConvexLayer
from convexinit.networks import CNN, MLP, activation_of
from convexinit.orthogonal import plan_layers

# Inputs of a layer from which on its steps are smaller.
_MANY_INPUTS = 256


def parameter_groups(
    model: nn.Module, lr: float, activation: Activation | None = None, variance: float = 1.0
) -> list[dict[str, Any]]:
    """Parameters of a network for an optimiser, with smaller steps for deep and wide networks.

    An update of Adam moves a pre-activation by up to the learning rate times the sum of the sizes
    of its inputs, and all those that an output sums in the same direction. Where a layer has more
    than 256 inputs, the step of its weights is ``lr * 256 / fan_in``: ``lr`` is that of a layer
    with up to 256.

    In hidden convex layers, whose inputs have a positive mean as after ReLU, such updates multiply
    the mean of the signal by ``1 + fan_in * lr / 2``, and ``L`` layers by that to the power of L.
    With a rate of ``lr / L`` for each of the L layers the product stays bounded at any depth. Where
    features are further from zero than they vary, as after softplus, the weights that they meet get
    smaller steps still, those of the outputs too (``rates`` of
    :class:`convexinit.orthogonal.LayerPlan`, which describes networks with an orthogonal start).
    Biases of other layers keep ``lr``. In an :class:`~convexinit.MLP` or :class:`~convexinit.CNN`
    that is not convex, for comparison, hidden layers are those between the first and the last.

    Args:
        model: a network, or a stack of networks.
        lr: learning rate, greater than 0.
        activation: as for :func:`~convexinit.init_icnn_`; None for that of an MLP, CNN or
            PICNN, and for ReLU in other networks.
        variance: as for :func:`~convexinit.init_icnn_`.

    Returns:
        ``{"params": [...], "lr": ...}`` for every step size that occurs, from the largest, ``lr``,
        to the smallest.

    Raises:
        ValueError: if the network has no such layers, an argument is out of range, or the
            activation is not finite on the signals of such a network.

    Example:
        >>> import torch
        >>> from convexinit import MLP
        >>> groups = parameter_groups(MLP([8, 16, 16, 16, 1]), lr=1e-3)
        >>> [group["lr"] for group in groups]
        [0.001, 0.0005]
        >>> optimiser = torch.optim.Adam(groups)
    """
    lr = check_number("lr", lr, 0.0)
    divisors: dict[nn.Parameter, float] = {}
    for part in parts_of(model):
        layers = _later_layers(part)
        hidden = len(layers) - 1
        if hidden < 0:
            raise ValueError(
                "the network has no convex layer of this library, of which step sizes would be "
                "known; give its hidden layers a group with the rate divided by their number"
            )
        own = activation_of(part) if activation is None else activation
        plan = plan_layers(own, [1] * hidden, variance)
        ratios = {layer: 1 / rate for layer, rate in zip(layers, plan.rates, strict=True)}
        for layer in {*filter(_fan_in, part.modules()), *layers}:
            depth = hidden if layer in layers[:-1] else 1
            slower = max(1.0, _fan_in(layer) / _MANY_INPUTS) * ratios.get(layer, 1.0)
            for name, parameter in layer.named_parameters():
                divisors[parameter] = depth if name == "bias" else depth * slower
    groups: dict[float, list[nn.Parameter]] = {1.0: []}
    for parameter in model.parameters():
        groups.setdefault(divisors.get(parameter, 1.0), []).append(parameter)
    return [{"params": groups[divisor], "lr": lr / divisor} for divisor in sorted(groups)]


def _later_layers(network: nn.Module) -> list[nn.Module]:
    """Convex layers, or all after the first of a network of ours that is not convex."""
    convex: list[nn.Module] = [m for m in network.modules() if isinstance(m, ConvexLayer)]
    if not convex and isinstance(network, (MLP, CNN)):
        return list(network.layers[1:])
    return convex


def _fan_in(layer: nn.Module) -> int:
    """Inputs that an output of the layer sums, 0 for modules that are no affine layer."""
    if isinstance(layer, nn.Linear):
        return layer.in_features
    if isinstance(layer, nn.modules.conv._ConvNd):
        return layer.in_channels // layer.groups * math.prod(layer.kernel_size)
    return 0
