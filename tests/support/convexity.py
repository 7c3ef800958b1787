"""Whether networks are convex, and a few steps of training."""

import torch
from torch import nn

from convexinit.layers import project_

ACTIVATIONS = ["relu", "leaky_relu", "softplus", "elu"]


def convexity_gap(network: nn.Module, inputs: int, generator: torch.Generator) -> float:
    """Largest f(t a + (1-t) b) - t f(a) - (1-t) f(b) over random segments, relative to |f|."""
    first, second = (
        torch.randn(256, inputs, generator=generator, dtype=torch.float64) * 3 for _ in range(2)
    )
    share = torch.rand(256, 1, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        ends = share * network(first) + (1 - share) * network(second)
        middle = network(share * first + (1 - share) * second)
    return float(((middle - ends) / (1 + ends.abs())).max())


def train_a_little(network: nn.Module, inputs: int, generator: torch.Generator) -> None:
    optimiser = torch.optim.Adam(network.parameters(), lr=0.05)
    for _ in range(5):
        batch = torch.randn(32, inputs, generator=generator, dtype=torch.float64)
        target = batch.prod(1, keepdim=True)  # not convex, so that weights are pushed below zero
        optimiser.zero_grad()
        (network(batch) - target).square().mean().backward()
        optimiser.step()
        project_(network)
