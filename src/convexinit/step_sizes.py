"""Step sizes of deep input-convex networks, as parameter groups for any optimiser."""

from __future__ import annotations

from typing import Any

from torch import nn

from convexinit.checks import check_number
from convexinit.difference import parts_of
from convexinit.layers import ConvexLayer
from convexinit.networks import CNN, MLP


def parameter_groups(model: nn.Module, lr: float) -> list[dict[str, Any]]:
    """Parameters of a network for an optimiser, with smaller steps for hidden layers.

    An update of Adam raises about half of the weights of a layer by the learning rate: where inputs
    have a positive mean, as after ReLU, this multiplies the mean of the signal by
    ``1 + fan_in * lr / 2``, and ``L`` layers by that to the power of L. With a rate of ``lr / L``
    for each of the L hidden convex layers the product stays below ``exp(fan_in * lr / 2)`` at any
    depth. The output layer and layers that are not convex keep ``lr``. In an
    :class:`~convexinit.MLP` or :class:`~convexinit.CNN` that is not convex, for comparison, hidden
    layers are those between the first and the last.

    Args:
        model: a network, or a stack of networks.
        lr: learning rate, greater than 0.

    Returns:
        Two groups, ``{"params": [...], "lr": ...}``: all other parameters, then those of hidden
        layers (left out if there are none).

    Raises:
        ValueError: if ``lr`` is out of range.

    Example:
        >>> import torch
        >>> from convexinit import MLP
        >>> groups = parameter_groups(MLP([8, 16, 16, 16, 1]), lr=1e-3)
        >>> [group["lr"] for group in groups]
        [0.001, 0.0005]
        >>> optimiser = torch.optim.Adam(groups)
    """
    lr = check_number("lr", lr, 0.0)
    hidden = [layer for part in parts_of(model) for layer in _hidden_layers(part)]
    depth = len(hidden) / len(parts_of(model))
    scaled = [parameter for layer in hidden for parameter in layer.parameters()]
    known = {id(parameter) for parameter in scaled}
    others = [parameter for parameter in model.parameters() if id(parameter) not in known]
    groups = [{"params": others, "lr": lr}]
    return [*groups, {"params": scaled, "lr": lr / depth}] if scaled else groups


def _hidden_layers(network: nn.Module) -> list[nn.Module]:
    convex: list[nn.Module] = [m for m in network.modules() if isinstance(m, ConvexLayer)]
    if not convex and isinstance(network, (MLP, CNN)):
        return list(network.layers[1:-1])
    return convex[:-1]
