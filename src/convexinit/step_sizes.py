"""Step sizes of deep input-convex networks, as parameter groups for any optimiser."""

from __future__ import annotations

from typing import Any

from torch import nn

from convexinit.activations import Activation
from convexinit.checks import check_number
from convexinit.difference import parts_of
from convexinit.layers import ConvexLayer
from convexinit.networks import CNN, MLP, activation_of
from convexinit.orthogonal import plan_layers


def parameter_groups(
    model: nn.Module, lr: float, activation: Activation | None = None, variance: float = 1.0
) -> list[dict[str, Any]]:
    """Parameters of a network for an optimiser, with smaller steps for hidden layers.

    An update of Adam raises about half of the weights of a layer by the learning rate: where inputs
    have a positive mean, as after ReLU, this multiplies the mean of the signal by
    ``1 + fan_in * lr / 2``, and ``L`` layers by that to the power of L. With a rate of ``lr / L``
    for each of the L hidden convex layers the product stays below ``exp(fan_in * lr / 2)`` at any
    depth. Where features are further from zero than they vary, as after softplus, the weights that
    they meet get smaller steps still, those of the outputs too (``rates`` of
    :class:`convexinit.orthogonal.LayerPlan`, which describes networks with an orthogonal start).
    The bias of the output layer and layers that are not convex keep ``lr``. In an
    :class:`~convexinit.MLP` or :class:`~convexinit.CNN` that is not convex, for comparison, hidden
    layers are those between the first and the last.

    Args:
        model: a network, or a stack of networks.
        lr: learning rate, greater than 0.
        activation: as for :func:`~convexinit.init_icnn_`; None for that of an MLP, CNN or
            PICNN, and for ReLU in other networks.
        variance: as for :func:`~convexinit.init_icnn_`.

    Returns:
        ``{"params": [...], "lr": ...}`` for every step size that occurs, from the largest, ``lr``,
        to the smallest: two groups for ReLU, one if there is no hidden layer.

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
        for index, (layer, rate) in enumerate(zip(layers, plan.rates, strict=True)):
            depth = hidden if index < hidden else 1
            for name, parameter in layer.named_parameters():
                divisors[parameter] = depth if name == "bias" else depth / rate
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
