"""Differences of two input-convex networks."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from convexinit import MLP, ConvexDifference, init_icnn_, project_
from convexinit.positivity import POSITIVITY
from convexinit.stacking import stack_networks, unstack_network
from support.convexity import ACTIVATIONS, convexity_gap, train_a_little


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def difference(widths, seed=0, **options):
    network = ConvexDifference(MLP(widths, **options), MLP(widths, **options)).double()
    return init_icnn_(network, options.get("activation", "relu"), generator=generator(seed))


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    positivity=st.sampled_from(sorted(POSITIVITY)),
    activation=st.sampled_from(ACTIVATIONS),
    hidden=st.lists(st.integers(1, 12), min_size=1, max_size=3),
)
def test_both_parts_stay_convex_in_training(seed, positivity, activation, hidden):
    network = difference([3, *hidden, 1], seed, activation=activation, positivity=positivity)
    project_(network)
    before = [parameter.clone() for parameter in network.parameters()]
    train_a_little(network, 3, generator(seed))
    assert any(not torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))
    for part in (network.minuend, network.subtrahend):
        assert convexity_gap(part, 3, generator(seed)) < 1e-9
        assert all((layer.nonnegative_weight >= 0).all() for layer in part.layers[1:])


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


def test_a_part_without_convex_layers_is_refused_before_anything_changes():
    network = ConvexDifference(MLP([3, 4, 1]), nn.Linear(3, 1))
    before = [parameter.clone() for parameter in network.parameters()]
    with pytest.raises(ValueError, match="no convex layer"):
        init_icnn_(network)
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))


def test_a_stack_computes_and_differentiates_each_difference_alone():
    networks = [difference([4, 6, 3], seed) for seed in range(3)]
    inputs = torch.randn(3, 5, 4, generator=generator(), dtype=torch.float64)
    stack = stack_networks(networks)
    outputs = stack(inputs)
    outputs.square().sum().backward()
    for index, network in enumerate(networks):
        alone = network(inputs[index])
        parts = network.minuend(inputs[index]), network.subtrahend(inputs[index])
        assert torch.allclose(alone, parts[0] - parts[1])
        alone.square().sum().backward()
        assert torch.allclose(outputs[index], alone, atol=1e-12)
        for name, parameter in network.named_parameters():
            assert torch.allclose(stack.get_parameter(name).grad[index], parameter.grad, atol=1e-10)
        assert torch.equal(unstack_network(stack, index)(inputs[index]), alone)
