"""Networks that are convex in one of two arguments."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from convexinit import MLP, PICNN, init_icnn_, is_convex, keep_convex, project_
from convexinit.layers import ConvexLinear
from convexinit.positivity import POSITIVITY
from convexinit.stacking import stack_networks
from support.networks import ACTIVATIONS, convex_weights, generator, randomised


def batch(*sizes, rows=64, seed=0):
    source = generator(seed)
    return [torch.randn(rows, size, generator=source, dtype=torch.float64) for size in sizes]


@settings(deadline=None, max_examples=30)
@given(
    activation=st.sampled_from(ACTIVATIONS),
    hidden=st.lists(st.integers(1, 12), min_size=1, max_size=4),
    positivity=st.sampled_from(sorted(POSITIVITY)),
    seed=st.integers(0, 1000),
)
def test_convex_in_the_inputs_whatever_the_context(activation, hidden, positivity, seed):
    network = randomised(PICNN([3, *hidden, 2], 4, activation, positivity).double(), seed)
    inputs, context = batch(3, 4, seed=seed)
    assert is_convex(network, (inputs, context), pairs=200)
    init_icnn_(network, activation=activation, generator=generator(seed))
    assert is_convex(network, (inputs, 10 * context), pairs=200)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_not_convex_in_the_context_and_not_in_both(activation):
    network = randomised(PICNN([3, 10, 10, 1], 4, activation).double())
    inputs = tuple(batch(3, 4))
    assert not is_convex(network, inputs, convex=1)
    assert not is_convex(network, inputs, convex=(0, 1))


def by_the_formula(network, y, x):
    """Amos et al. 2017, Equation 3, for two hidden layers and ReLU."""
    u1 = F.relu(network.context_layers[0](x))
    u2 = F.relu(network.context_layers[1](u1))
    z1 = F.relu(
        (y * network.input_gates[0](x)) @ network.layers[0].weight.T
        + x @ network.context_shifts[0].weight.T
        + network.layers[0].bias
    )
    z2 = F.relu(
        (z1 * F.relu(network.gates[0](u1))) @ network.layers[1].weight.T
        + (y * network.input_gates[1](u1)) @ network.skips[0].weight.T
        + u1 @ network.context_shifts[1].weight.T
        + network.layers[1].bias
    )
    return (
        (z2 * F.relu(network.gates[1](u2))) @ network.layers[2].weight.T
        + (y * network.input_gates[2](u2)) @ network.skips[1].weight.T
        + u2 @ network.context_shifts[2].weight.T
        + network.layers[2].bias
    )


def test_it_computes_the_published_formula():
    network = randomised(PICNN([3, 7, 8, 2], 4).double())
    y, x = batch(3, 4)
    torch.testing.assert_close(network(y, x), by_the_formula(network, y, x))
    torch.testing.assert_close(network.pre_activations(y, x)[-1], network(y, x))
    assert [signal.shape[1] for signal in network.pre_activations(y, x)] == [7, 8, 2]


def test_it_starts_as_a_fully_connected_network_with_skip_connections():
    network = PICNN([3, 7, 8, 2], 4).double()
    plain = MLP([3, 7, 8, 2], skip=True).double()
    for ours, theirs in ((network.layers, plain.layers), (network.skips, plain.skips)):
        theirs.load_state_dict(ours.state_dict())
    inputs, context = batch(3, 4)
    for layer in network.context_layers:
        torch.nn.init.zeros_(layer.bias)
    torch.testing.assert_close(network(inputs, 0 * context), plain(inputs))
    assert not torch.allclose(network(inputs, context), plain(inputs))


def test_gates_are_learned_and_training_keeps_it_convex():
    """A target that no sum of a function of either argument can reach."""
    inputs, context = batch(2, 2, rows=256)
    target = (inputs.square() * (1 + context.sin())).sum(1, keepdim=True)
    network = PICNN([2, 32, 32, 1], 2).double()
    init_icnn_(network, generator=generator())
    before = copy.deepcopy(network.gates.state_dict())
    optimiser = torch.optim.Adam(network.parameters(), lr=1e-2)
    keep_convex(optimiser, network)
    for _ in range(300):
        optimiser.zero_grad()
        loss = F.mse_loss(network(inputs, context), target)
        loss.backward()
        optimiser.step()
    additive = target - target.mean() - (inputs.square() - 1).sum(1, keepdim=True)
    assert float(loss.detach()) < 0.1 * float(additive.square().mean())
    assert any(not torch.equal(value, before[k]) for k, value in network.gates.state_dict().items())
    assert is_convex(network, (inputs, context))
    assert all((weight >= 0).all() for weight in convex_weights(network))


def test_initialisation_fills_the_first_and_the_convex_layers():
    network = init_icnn_(PICNN([30, 60, 60, 60, 1], 4), generator=generator())
    assert (network.layers[0].bias == 0).all()
    assert sum(isinstance(layer, ConvexLinear) for layer in network.modules()) == 3
    assert all((layer.weight >= 0).all() for layer in network.layers[1:])
    init_icnn_(network, method="orthogonal", generator=generator())
    weight = network.layers[1].weight
    # What skip connections leave of the variance, of features of ReLU, which have 1/2 - 1 / (2 pi).
    left = 1 - float(network.skips[0].weight.square().sum(1).mean())
    scale = left / (0.5 - 0.5 / math.pi)
    torch.testing.assert_close(weight @ weight.T, scale * torch.eye(60), atol=0.01, rtol=0)


def test_a_stack_computes_each_network_alone():
    networks = [randomised(PICNN([3, 5, 1], 2).double(), seed) for seed in range(3)]
    inputs, context = (
        torch.stack(part) for part in zip(*[batch(3, 2, seed=s) for s in range(3)], strict=True)
    )
    outputs = project_(stack_networks(networks))(inputs, context)
    for index, network in enumerate(networks):
        torch.testing.assert_close(outputs[index], network(inputs[index], context[index]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([3], 2), "widths must be positive integers, 2 or more"),
        (([3, 0, 1], 2), "widths must be"),
        (([3, 4, 1], 0), "context must be an integer of at least 1"),
        (([3, 4, 1], "2"), "context must be an integer"),
        ((3, 2), "widths must be positive integers"),
        (([3, 4, 1], 2, torch.tanh), "is not convex"),
        (
            ([3, 4, 1], 2, "relu", "magic"),
            "positivity must be a convexinit.positivity.Positivity or one of",
        ),
    ],
)
def test_impossible_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        PICNN(*arguments)
