"""The paper's moments in networks of others by hand, as one does without ``init_icnn_``.

Each convex layer gets :func:`convexinit.lognormal_init_` through its map and gain, and the
paper's bias where it has a parameter for that, be it in a skip connection. First layers are
LeCun's. Skip connections, gates, and inputs that are not standard normal are not counted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convexinit import lognormal_init_


def _weights(like: Tensor, bias: Tensor | None, activation: str | Callable = "relu") -> Tensor:
    return lognormal_init_(torch.empty_like(like), bias, activation)


def _raw(weight: Tensor) -> Tensor:
    """What softplus makes these weights of."""
    return weight + (-(-weight).expm1()).log()


def _first_(layer: nn.Linear | nn.Conv2d) -> None:
    nn.init.normal_(layer.weight, 0, layer.weight[0].numel() ** -0.5)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def _leaky(s: Tensor) -> Tensor:
    return F.leaky_relu(s, 0.2)


def _sharp(s: Tensor) -> Tensor:
    return F.softplus(s, beta=10)


def softplus_(network: Any) -> None:
    """Layers of softplus weights."""
    _first_(network[0])
    for layer in network[2::2]:
        layer.raw.copy_(_raw(_weights(layer.raw, layer.bias, "softplus")))


def elu_(network: Any) -> None:
    """Layers of weights ``elu(raw) + 1``."""
    _first_(network[0])
    for layer in network[2::2]:
        weight = _weights(layer.weight, layer.bias, "softplus")
        layer.weight.copy_(torch.where(weight < 1, weight.log(), weight - 1))


def divided_(network: Any) -> None:
    """Layers that are divided by their fan-in."""
    _first_(network[0])
    for layer in network[2::2]:
        weight = _weights(layer.weight, layer.bias, "softplus")
        layer.weight.copy_(_raw(layer.in_features * weight))
        layer.bias.mul_(layer.in_features)


def parametrized_(network: Any) -> None:
    """Layers whose parametrization inverts itself."""
    _first_(network[0])
    for layer in network[2::2]:
        layer.weight = _weights(layer.weight, layer.bias, "softplus")


def uniform_(network: Any) -> None:
    """Plain layers beside skips."""
    _first_(network.first)
    for layer in network.convex:
        lognormal_init_(layer.weight, layer.bias)


def critic_(network: Any) -> None:
    """Weights that are stored the other way round."""
    for weight, shift in zip(network.from_z, network.shift[1:], strict=True):
        weight.copy_(_weights(weight.T, shift).T)


def partially_convex_(network: Any) -> None:
    """The bias is in what the context adds."""
    _first_(network.direct[0])
    for convex, shift in zip(network.convex, network.shift[1:], strict=True):
        lognormal_init_(convex.weight, shift.bias)


def normalised_(network: Any) -> None:
    """Hidden layers are centred by their normalisation."""
    _first_(network.first)
    for raw in network.raw:
        raw.copy_(_raw(len(raw) * _weights(raw, None, "softplus")))
    last = network.last
    last.weight.copy_(_raw(last.in_features * _weights(last.weight, last.bias, "softplus")))
    last.bias.mul_(last.in_features)


def leaky_(network: Any) -> None:
    """Plain layers or kernels between leaky ReLUs; biases are in the skips, the output has none."""
    _first_(network.first)
    for convex, skip in zip(network.convex, network.skip, strict=True):
        lognormal_init_(convex.weight, skip.bias, _leaky)
    lognormal_init_(network.last.weight, None, _leaky)


def potential_(network: Any) -> None:
    """The bias is in the skips."""
    _first_(network.wx[0])
    for wz, wx in zip(network.wz, network.wx[1:], strict=True):
        lognormal_init_(wz.weight, wx.bias, "softplus")


def muted_(network: Any) -> None:
    """The same with weights ``exp(raw)``."""
    _first_(network.wx[0])
    for wz, wx in zip(network.wz, network.wx[1:], strict=True):
        wz.weight.copy_(_weights(wz.weight, wx.bias, _sharp).log())


def quadratic_skips_(network: Any) -> None:
    """The bias is in the linear part of the skips."""
    for convex, skip in zip(network.convex, network.quadratic[1:], strict=True):
        lognormal_init_(convex.weight, skip.linear.bias, F.celu)
    lognormal_init_(network.last.weight, None, F.celu)


def gradient_map_(network: Any) -> None:
    """As its potential."""
    potential_(network.icnn)


def material_(network: Any) -> None:
    """Plain layers whose forward pass takes the positive part."""
    _first_(network.first)
    for layer in [*network.hidden, network.last]:
        lognormal_init_(layer.weight, layer.bias, "softplus")
