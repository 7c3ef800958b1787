"""Differences of two input-convex networks."""

import pytest
import torch
from torch import nn

from convexinit import (
    MLP,
    PICNN,
    ConvexDifference,
    check_signal,
    init_icnn_,
    parameter_groups,
    project_,
)
from support.networks import convexity_gap, generator, unchanged


def difference(widths, seed=0):
    network = ConvexDifference(MLP(widths), MLP(widths)).double()
    return init_icnn_(network, generator=generator(seed))


@torch.no_grad()
def test_a_ramp_that_is_neither_convex_nor_concave():
    """|x| - |x - 1| is -1 below 0, 2x - 1 between 0 and 1, and 1 above."""
    network = ConvexDifference(MLP([1, 2, 1]), MLP([1, 2, 1])).double()
    for part, offset in ((network.minuend, 0.0), (network.subtrahend, 1.0)):
        first, last = part.layers
        first.weight.copy_(torch.tensor([[1.0], [-1.0]]))
        first.bias.copy_(torch.tensor([-offset, offset]))
        last.weight.fill_(1.0)
        last.bias.zero_()
    points = torch.linspace(-3, 4, 71, dtype=torch.float64)[:, None]
    assert torch.allclose(network(points), (2 * points - 1).clamp(-1, 1))
    assert convexity_gap(network, 1, generator()) > 0.1


def test_a_concave_function_is_learned_which_no_convex_network_can():
    points = torch.linspace(-1, 1, 101, dtype=torch.float64)[:, None]
    target = -points.square()
    # The best convex fit to a concave, symmetric function is a constant.
    best_convex_fit = float(target.var(correction=0))

    def loss_after_training(network):
        optimiser = torch.optim.Adam(network.parameters(), lr=0.01)
        for _ in range(200):
            optimiser.zero_grad()
            loss = (network(points) - target).square().mean()
            loss.backward()
            optimiser.step()
            project_(network)
        return float(loss.detach())

    assert loss_after_training(difference([1, 16, 16, 1])) < best_convex_fit / 20
    convex = init_icnn_(MLP([1, 16, 16, 1]).double(), generator=generator())
    assert loss_after_training(convex) > 0.99 * best_convex_fit


def test_both_parts_are_initialised_with_draws_of_their_own():
    network = difference([20, 30, 30, 2], seed=5)
    source = generator(5)
    for part in (network.minuend, network.subtrahend):
        alone = init_icnn_(MLP([20, 30, 30, 2]).double(), generator=source)
        for a, b in zip(part.parameters(), alone.parameters(), strict=True):
            assert torch.equal(a, b)
    assert not torch.equal(network.minuend.layers[1].weight, network.subtrahend.layers[1].weight)


def test_parts_that_work_in_place_see_the_same_inputs_and_leave_them_alone():
    parts = [nn.Sequential(nn.ReLU(inplace=True), nn.Linear(3, 1)) for _ in range(2)]
    inputs = torch.randn(5, 3, generator=generator())
    network, before = ConvexDifference(parts[0], parts[1][1:]), inputs.clone()
    expected = parts[0](before.clone()) - parts[1][1:](before)
    assert torch.equal(network(inputs), expected)
    assert torch.equal(inputs, before)


def test_a_part_without_convex_layers_is_refused_before_anything_changes():
    network = ConvexDifference(MLP([3, 4, 1]), nn.Linear(3, 1))
    with unchanged(network), pytest.raises(ValueError, match="no convex layer"):
        init_icnn_(network)


def test_parts_that_are_no_modules_are_refused():
    with pytest.raises(ValueError, match=r"subtrahend must be a torch\.nn\.Module, got function"):
        ConvexDifference(MLP([3, 4, 1]), lambda x: x)


def test_differences_of_partially_convex_networks():
    network = ConvexDifference(*(PICNN([3, 8, 8, 8, 1], context=2) for _ in range(2)))
    inputs = torch.randn(64, 3, generator=generator()), torch.randn(64, 2, generator=generator(1))
    init_icnn_(network, inputs)
    difference = network.minuend(*inputs) - network.subtrahend(*inputs)
    assert torch.equal(network(*inputs), difference)
    assert check_signal(network, inputs).healthy
    assert len(parameter_groups(network, 1e-3, inputs)) > 1


class Slope(nn.Module):
    """The gradient of a convex network."""

    def __init__(self):
        super().__init__()
        self.network = MLP([3, 8, 1], "softplus")

    def forward(self, inputs):
        inputs = inputs.clone().requires_grad_()
        return torch.autograd.grad(self.network(inputs).sum(), inputs, create_graph=True)[0]


@pytest.mark.parametrize("build", [lambda: MLP([3, 8, 1]), Slope])
def test_the_signal_of_either_part_is_that_of_the_part_alone(build):
    torch.manual_seed(0)
    inputs = torch.randn(64, 3, generator=generator())
    network = ConvexDifference(build(), build())
    parts = [check_signal(part, inputs).rows for part in (network.minuend, network.subtrahend)]
    rows = check_signal(network, inputs).rows
    assert [row.layer.partition(".")[0] for row in rows] == ["minuend"] * 2 + ["subtrahend"] * 2
    for row, alone in zip(rows, [*parts[0], *parts[1]], strict=True):
        assert row.layer.endswith(alone.layer)
        assert (row.mean, row.std, row.gradient) == (alone.mean, alone.std, alone.gradient)
    fixed = ConvexDifference(network.minuend, nn.Identity())
    assert [row.layer for row in check_signal(fixed, inputs).rows] == [r.layer for r in rows[:2]]


def test_a_network_and_itself_and_outputs_that_only_broadcast_are_refused():
    network = MLP([3, 8, 1])
    with pytest.raises(ValueError, match="the difference of a network and itself is 0"):
        ConvexDifference(network, network)
    with pytest.raises(ValueError, match=r"the same shape; got \[5, 1\] and \[5, 2\]"):
        ConvexDifference(network, MLP([3, 8, 2]))(torch.zeros(5, 3))
