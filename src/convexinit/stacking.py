"""Many equally built networks as one, and back."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from convexinit.layers import Network


def stack_networks(networks: Sequence[Network]) -> Network:
    """Copy of equally built networks as one, every parameter with a leading dimension.

    Args:
        networks: at least one network of the same architecture, of layers from
            :mod:`convexinit.layers`.

    Returns:
        Network with parameters ``[networks, ...]`` that maps ``[networks, batch, in]`` to
        ``[networks, batch, out]``.

    Raises:
        ValueError: for an empty sequence.
    """
    if not networks:
        raise ValueError("there must be at least one network to stack")
    return _with_parameters(
        networks[0],
        lambda name: torch.stack([network.get_parameter(name) for network in networks]),
    )


def unstack_network(stacked: Network, index: int) -> Network:
    """Copy of network ``index`` out of a stack made by :func:`stack_networks`."""
    return _with_parameters(stacked, lambda name: stacked.get_parameter(name)[index].clone())


@torch.no_grad()
def _with_parameters(network: Network, value: Callable[[str], Tensor]) -> Network:
    network = copy.deepcopy(network)
    for name, _ in list(network.named_parameters()):
        path, _, attribute = name.rpartition(".")
        setattr(network.get_submodule(path), attribute, nn.Parameter(value(name)))
    return network
