"""Convexity, non-negativity and stacking of the layers and networks."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from convexinit.activations import check_convex_activation
from convexinit.init_network import init_icnn_
from convexinit.layers import ConvexConv2d, ConvexLinear, affine, project_
from convexinit.networks import MLP
from convexinit.positivity import POSITIVITY, resolve_positivity
from convexinit.stacking import stack_networks, unstack_network
from support.convexity import ACTIVATIONS, convexity_gap, train_a_little


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10_000),
    positivity=st.sampled_from(sorted(POSITIVITY)),
    activation=st.sampled_from(ACTIVATIONS),
    hidden=st.lists(st.integers(1, 20), min_size=1, max_size=3),
    skip=st.booleans(),
    principled=st.booleans(),
)
def test_networks_are_convex_before_and_after_training(
    seed, positivity, activation, hidden, skip, principled
):
    generator = torch.Generator().manual_seed(seed)
    network = MLP([3, *hidden, 2], activation, positivity=positivity, skip=skip).double()
    for parameter in network.parameters():
        nn.init.normal_(parameter, generator=generator)
    if principled:
        init_icnn_(network, activation, generator=generator)
    project_(network)
    assert convexity_gap(network, 3, generator) < 1e-9
    train_a_little(network, 3, generator)
    assert convexity_gap(network, 3, generator) < 1e-9


def test_the_convexity_check_can_fail():
    generator = torch.Generator().manual_seed(0)
    network = MLP([3, 20, 20, 1], convex=False).double()
    assert convexity_gap(network, 3, generator) > 1e-3


@pytest.mark.parametrize("positivity", sorted(POSITIVITY))
def test_convolutions_are_convex_and_train_to_convex(positivity):
    generator = torch.Generator().manual_seed(0)
    network = nn.Sequential(
        nn.Unflatten(1, (1, 6, 6)),
        nn.Conv2d(1, 4, 3),
        nn.ReLU(),
        ConvexConv2d(4, 4, 3, padding=1, positivity=positivity),
        nn.ReLU(),
        nn.Flatten(),
        ConvexLinear(64, 1, positivity=positivity),
    ).double()
    init_icnn_(network, generator=generator)
    assert convexity_gap(network, 36, generator) < 1e-9
    train_a_little(network, 36, generator)
    assert convexity_gap(network, 36, generator) < 1e-9


@pytest.mark.parametrize(
    ("optimiser_type", "learning_rate"),
    [(torch.optim.Adam, 0.1), (torch.optim.SGD, 1e-2), (torch.optim.RMSprop, 0.1)],
)
def test_projection_leaves_no_negative_weight_after_any_step(optimiser_type, learning_rate):
    torch.manual_seed(0)
    network = nn.Sequential(MLP([4, 30, 30, 1]), nn.Unflatten(1, (1, 1, 1)), ConvexConv2d(1, 2, 1))
    optimiser = optimiser_type(network.parameters(), lr=learning_rate)
    went_negative = False
    constrained = [*network[0].layers[1:], network[2]]
    for _ in range(10):
        optimiser.zero_grad()
        network(torch.randn(16, 4)).square().mean().backward()
        optimiser.step()
        went_negative |= any(bool((layer.weight < 0).any()) for layer in constrained)
        project_(network)
        assert all(bool((layer.weight >= 0).all()) for layer in constrained)
        assert network[0].layers[0].weight.min() < 0  # the first layer stays free
    assert went_negative


@pytest.mark.parametrize("name", sorted(POSITIVITY))
def test_positivity_maps_are_non_negative_and_inverted(name):
    positivity = resolve_positivity(name)
    weights = torch.logspace(-12, 3, 200, dtype=torch.float64)
    assert torch.allclose(positivity.forward(positivity.inverse(weights)), weights, rtol=1e-9)
    raw = torch.linspace(-20, 20, 401, dtype=torch.float64, requires_grad=True)
    if not positivity.projects:
        assert (positivity.forward(raw) >= 0).all()
    positivity.forward(raw).sum().backward()
    assert raw.grad.isfinite().all()
    assert positivity.inverse(torch.zeros(3)).isfinite().all()


def test_neg_exp_is_defined_as_in_the_literature_and_safe_for_large_weights():
    raw = torch.tensor([-1.0, 0.0, 2.0, 1000.0], requires_grad=True)
    weight = resolve_positivity("neg_exp").forward(raw)
    assert torch.allclose(weight, torch.tensor([torch.e**-1, 0.0, 2.0, 1000.0]))
    weight.sum().backward()
    assert raw.grad.isfinite().all()


@settings(deadline=None, max_examples=25)
@given(
    count=st.integers(1, 4),
    positivity=st.sampled_from(sorted(POSITIVITY)),
    skip=st.booleans(),
    convex=st.booleans(),
)
def test_a_stack_computes_and_differentiates_each_network_alone(count, positivity, skip, convex):
    generator = torch.Generator().manual_seed(count)
    networks = [
        MLP([5, 7, 6, 3], positivity=positivity, skip=skip, convex=convex).double()
        for _ in range(count)
    ]
    inputs = torch.randn(count, 11, 5, generator=generator, dtype=torch.float64)
    stack = stack_networks(networks)
    outputs = stack(inputs)
    outputs.square().sum().backward()
    for index, network in enumerate(networks):
        alone = network(inputs[index])
        alone.square().sum().backward()
        assert torch.allclose(outputs[index], alone, atol=1e-12)
        for name, parameter in network.named_parameters():
            stacked = stack.get_parameter(name)
            assert torch.allclose(stacked.grad[index], parameter.grad, atol=1e-10), name
        again = unstack_network(stack, index)
        assert torch.equal(again(inputs[index]), alone)


def test_stacked_gradients_agree_with_finite_differences_and_keep_the_layout():
    torch.manual_seed(0)
    inputs, weight, bias = (
        torch.randn(*shape, dtype=torch.float64, requires_grad=True)
        for shape in [(2, 3, 4), (2, 5, 4), (2, 5)]
    )
    assert torch.autograd.gradcheck(affine, (inputs, weight, bias))
    assert torch.autograd.gradcheck(lambda x, w: affine(x, w, None), (inputs, weight))
    affine(inputs, weight, bias).sum().backward()
    assert weight.grad.is_contiguous()


def test_networks_can_be_copied_saved_and_loaded(tmp_path):
    network = MLP([3, 4, 1], positivity="exp")
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    other = MLP([3, 4, 1], positivity="exp")
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    inputs = torch.randn(6, 3)
    assert torch.equal(other(inputs), network(inputs))
    assert torch.equal(copy.deepcopy(network)(inputs), network(inputs))


@pytest.mark.parametrize("activation", ["tanh", torch.tanh, nn.functional.silu, torch.abs])
def test_activations_that_break_convexity_are_refused(activation):
    with pytest.raises(ValueError, match=r"convex|decreases|unknown|activation"):
        MLP([2, 3, 1], activation)


def test_convex_activations_pass_the_check():
    for activation in [*ACTIVATIONS, nn.LeakyReLU(0.2), nn.CELU(), torch.exp]:
        check_convex_activation(activation)


@pytest.mark.parametrize("widths", [[3], [], [3, 0, 1], [3, -1]])
def test_impossible_widths_are_refused(widths):
    with pytest.raises(ValueError, match="widths"):
        MLP(widths)


def test_unknown_positivity_names_the_known_ones():
    with pytest.raises(ValueError, match=r"projection.*softplus"):
        ConvexLinear(2, 2, positivity="magic")
    with pytest.raises(ValueError, match=r"projection.*softplus"):
        ConvexConv2d(2, 2, 1, positivity="magic")
