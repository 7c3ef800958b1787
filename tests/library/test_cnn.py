"""Convolutional networks: what they compute, their convexity, initialisation and stacking."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import correlate
from torch import nn

from convexinit import (
    CNN,
    ConvexConv2d,
    ConvexLinear,
    init_icnn_,
    project_,
    solve_init,
)
from convexinit.positivity import POSITIVITY
from convexinit.stacking import stack_networks, unstack_network
from support.convexity import ACTIVATIONS, convexity_gap, train_a_little


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def randomised(network, seed=0):
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator(seed))
    return network


def convex_weights(network):
    return [
        layer.nonnegative_weight
        for layer in network.modules()
        if isinstance(layer, (ConvexConv2d, ConvexLinear))
    ]


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    positivity=st.sampled_from(sorted(POSITIVITY)),
    activation=st.sampled_from(ACTIVATIONS),
    image_shape=st.tuples(st.integers(1, 2), st.integers(1, 5), st.integers(1, 5)),
    channels=st.lists(st.integers(1, 5), min_size=1, max_size=3),
    principled=st.booleans(),
)
def test_networks_are_convex_and_non_negative_before_and_after_training(
    seed, positivity, activation, image_shape, channels, principled
):
    network = CNN(image_shape, channels, 1, activation, positivity=positivity).double()
    randomised(network, seed)
    if principled:
        init_icnn_(network, activation, generator=generator(seed))
    project_(network)
    inputs = math.prod(image_shape)
    assert convexity_gap(network, inputs, generator(seed)) < 1e-9
    train_a_little(network, inputs, generator(seed))
    assert convexity_gap(network, inputs, generator(seed)) < 1e-9
    assert len(convex_weights(network)) == len(channels)
    assert all((weight >= 0).all() for weight in convex_weights(network))


def test_training_pushes_weights_below_zero_that_the_projection_catches():
    network = randomised(CNN((1, 4, 4), [6, 6], 1))
    project_(network)
    optimiser = torch.optim.Adam(network.parameters(), lr=0.1)
    network(torch.randn(32, 16, generator=generator())).square().mean().backward()
    optimiser.step()
    assert any((weight < 0).any() for weight in convex_weights(network))
    project_(network)
    assert all((weight >= 0).all() for weight in convex_weights(network))


def test_the_convexity_check_can_fail():
    network = randomised(CNN((1, 4, 4), [8, 8], 1, convex=False).double())
    assert not convex_weights(network)
    assert convexity_gap(network, 16, generator()) > 1e-3


def test_layers_compute_what_scipy_does_with_repeated_borders():
    network = randomised(CNN((2, 5, 4), [3, 4], 2).double())
    project_(network)
    inputs = torch.randn(1, 40, generator=generator(1), dtype=torch.float64)
    image = inputs[0].view(2, 5, 4).numpy()
    for layer, stride in zip(network.layers[:2], (2, 1), strict=True):
        weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
        image = np.stack(
            [
                sum(
                    correlate(channel, kernel, mode="nearest")
                    for channel, kernel in zip(image, kernels, strict=True)
                )
                + shift
                for kernels, shift in zip(weight, bias, strict=True)
            ]
        )[:, ::stride, ::stride]
        image = np.maximum(image, 0.0)
    last = network.layers[2]
    expected = last.weight.detach().numpy() @ image.ravel() + last.bias.detach().numpy()
    np.testing.assert_allclose(network(inputs)[0].detach().numpy(), expected, rtol=1e-10)


def test_the_principled_initialisation_reaches_every_layer_with_its_own_fan_in():
    network = init_icnn_(CNN((3, 7, 8), [50, 40, 6], 5), generator=generator())
    fan_ins = {1: 50 * 9, 2: 40 * 9, 3: 6 * 4 * 4 // 2 // 2}
    assert network.layers[3].in_features == 6 * 2 * 2 == fan_ins[3]
    for index, fan_in in fan_ins.items():
        expected = solve_init(fan_in)
        assert torch.allclose(network.layers[index].bias, torch.tensor(expected.bias_mean))
    weight = network.layers[1].weight.detach()
    error = math.sqrt(solve_init(450).weight_var / weight.numel())
    assert float(weight.mean()) == pytest.approx(solve_init(450).weight_mean, abs=5 * error)
    assert float(network.layers[0].weight.detach().var()) == pytest.approx(1 / 27, rel=0.2)
    assert (network.layers[0].bias == 0).all()


def test_every_position_sums_over_its_full_fan_in():
    """Constant features give the same pre-activation everywhere, at the border too."""
    network = init_icnn_(CNN((1, 6, 6), [5, 4, 3], 2).double(), generator=generator())
    for layer, channels in zip(network.layers[1:3], (5, 4), strict=True):
        signal = layer(torch.ones(1, channels, 6, 6, dtype=torch.float64))
        corner = signal[..., :1, :1]
        assert torch.allclose(signal, corner.expand_as(signal))
        assert torch.allclose(corner[0, :, 0, 0], layer.weight.sum((1, 2, 3)) + layer.bias)


@pytest.mark.parametrize("positivity", ["projection", "exp"])
@pytest.mark.parametrize("convex", [True, False])
def test_a_stack_computes_and_differentiates_each_network_alone(positivity, convex):
    networks = [
        project_(
            randomised(CNN((2, 5, 4), [3, 4], 2, convex=convex, positivity=positivity), seed)
        ).double()
        for seed in range(3)
    ]
    inputs = torch.randn(3, 7, 40, generator=generator(), dtype=torch.float64)
    stack = stack_networks(networks)
    outputs = stack(inputs)
    assert outputs.shape == (3, 7, 2)
    outputs.square().sum().backward()
    for index, network in enumerate(networks):
        alone = network(inputs[index])
        alone.square().sum().backward()
        assert torch.allclose(outputs[index], alone, atol=1e-12)
        for name, parameter in network.named_parameters():
            stacked = stack.get_parameter(name)
            assert torch.allclose(stacked.grad[index], parameter.grad, atol=1e-10), name
        assert torch.equal(unstack_network(stack, index)(inputs[index]), alone)


def test_pre_activations_end_with_the_output():
    network = randomised(CNN((1, 5, 4), [3, 4], 2))
    inputs = torch.randn(6, 20, generator=generator())
    signals = network.pre_activations(inputs)
    assert [signal.shape[1:] for signal in signals] == [(3, 3, 2), (4, 3, 2), (2,)]
    assert torch.equal(signals[-1], network(inputs))


def test_stacked_convolutions_are_not_initialised():
    networks = [CNN((1, 4, 4), [3, 3], 1) for _ in range(2)]
    stack = stack_networks(networks)
    before = [parameter.clone() for parameter in stack.parameters()]
    with pytest.raises(ValueError, match="before they are stacked"):
        init_icnn_(stack)
    assert all(torch.equal(a, b) for a, b in zip(before, stack.parameters(), strict=True))


@pytest.mark.parametrize(
    "arguments",
    [((1, 4), [3], 1), ((1, 0, 4), [3], 1), ((1, 4, 4), [], 1), ((1, 4, 4), [3, 0], 1),
     ((1, 4, 4), [3], 0)],
)  # fmt: skip
def test_impossible_sizes_are_refused(arguments):
    with pytest.raises(ValueError, match="positive"):
        CNN(*arguments)


def test_activations_that_break_convexity_are_refused():
    with pytest.raises(ValueError, match=r"convex|decreases"):
        CNN((1, 4, 4), [3], 1, activation=torch.tanh)
