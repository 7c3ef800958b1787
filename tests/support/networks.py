"""Networks for tests: their draws, whether they are convex, a few steps of training."""

import copy
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from convexinit.layers import ConvexLayer, project_, project_layers_

ACTIVATIONS = ["relu", "leaky_relu", "softplus", "elu"]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randomised(network: nn.Module, seed: int = 0) -> nn.Module:
    """The network with parameters around zero, projected."""
    source = generator(seed)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3, generator=source)
    project_layers_(network)
    return network


def convex_weights(network: nn.Module) -> list[Tensor]:
    return [
        layer.nonnegative_weight for layer in network.modules() if isinstance(layer, ConvexLayer)
    ]


@contextmanager
def unchanged(network: nn.Module) -> Iterator[None]:
    """The block must leave all parameters as they are."""
    before = copy.deepcopy(network.state_dict())
    yield
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name


def convexity_gap(network: nn.Module, inputs: int, source: torch.Generator) -> float:
    """Largest f(t a + (1-t) b) - t f(a) - (1-t) f(b) over random segments, relative to |f|."""
    first, second = (
        torch.randn(256, inputs, generator=source, dtype=torch.float64) * 3 for _ in range(2)
    )
    share = torch.rand(256, 1, generator=source, dtype=torch.float64)
    with torch.no_grad():
        ends = share * network(first) + (1 - share) * network(second)
        middle = network(share * first + (1 - share) * second)
    return float(((middle - ends) / (1 + ends.abs())).max())


def train_a_little(network: nn.Module, inputs: int, source: torch.Generator) -> None:
    optimiser = torch.optim.Adam(network.parameters(), lr=0.05)
    for _ in range(5):
        batch = torch.randn(32, inputs, generator=source, dtype=torch.float64)
        target = batch.prod(1, keepdim=True)  # not convex, so that weights are pushed below zero
        optimiser.zero_grad()
        (network(batch) - target).square().mean().backward()
        optimiser.step()
        project_(network)
