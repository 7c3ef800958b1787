"""Difference of two input-convex networks, which need not be convex."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from convexinit.checks import check_module
from convexinit.found import Options


class ConvexDifference(nn.Module):
    """``f = g - h`` of two networks of the same output shape (Sankaranarayanan & Rengaswamy 2022).

    Their CDiNN ("convex difference neural network"): if g and h are input-convex, f is a difference
    of convex functions. These approximate any continuous function on a compact set, and the two
    convex parts stay at hand, for example for optimisation by the convex-concave procedure.

    It has the parameters of both networks: twice those of one, if they are built alike.
    :func:`convexinit.init_icnn_` initialises either part as a network of its own.

    Args:
        minuend: g, usually an input-convex network.
        subtrahend: h, a network with initial weights of its own: with those of g, f would be 0 and
            the gradients of both parts opposite.

    Raises:
        ValueError: for one network in both places.

    Example:
        >>> import torch
        >>> from convexinit import MLP, init_icnn_
        >>> network = init_icnn_(ConvexDifference(MLP([2, 16, 1]), MLP([2, 16, 1])))
        >>> network(torch.zeros(5, 2)).shape
        torch.Size([5, 1])
    """

    def __init__(self, minuend: nn.Module, subtrahend: nn.Module) -> None:
        super().__init__()
        check_module("minuend", minuend, takes_call=False)
        check_module("subtrahend", subtrahend, takes_call=False)
        if minuend is subtrahend:
            raise ValueError("the difference of a network and itself is 0; give two networks")
        self.minuend = minuend
        self.subtrahend = subtrahend

    def forward(self, inputs: Tensor, *context: Tensor) -> Tensor:
        """Difference of what both networks make of ``inputs``, in the shape of their outputs.

        Partially convex ones (:class:`~convexinit.PICNN`) take ``context`` too.

        Raises:
            ValueError: if the outputs have different shapes.
        """
        minuend, subtrahend = (
            # Copies, because either network may begin with a layer that works in place.
            part(*(argument.clone() for argument in (inputs, *context)))
            for part in (self.minuend, self.subtrahend)
        )
        if minuend.shape != subtrahend.shape:
            shapes = f"{list(minuend.shape)} and {list(subtrahend.shape)}"
            raise ValueError(f"both networks must have outputs of the same shape; got {shapes}")
        return minuend - subtrahend


def parts_of(model: nn.Module) -> list[nn.Module]:
    """The networks that see the input of a model: both of a difference, else the model itself.

    Example:
        >>> len(parts_of(ConvexDifference(nn.Linear(2, 1), nn.Linear(2, 1))))
        2
    """
    if isinstance(model, ConvexDifference):
        return [*parts_of(model.minuend), *parts_of(model.subtrahend)]
    return [model]


def convex_functions(
    network: nn.Module, call: Callable[..., Tensor] | None, layers: Options | None
) -> list[Callable[..., Tensor] | None]:
    """``call`` for what is convex by itself: both parts of a difference, else as it was given."""
    if call or not isinstance(network, ConvexDifference):
        return [call]
    if layers:
        raise ValueError(
            "layers= cannot be given for both parts of a difference at once; give it for each by "
            "itself: for network.minuend and for network.subtrahend"
        )
    return [lambda _, *inputs, part=part: part(*inputs) for part in parts_of(network)]
