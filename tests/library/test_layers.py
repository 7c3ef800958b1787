"""Layers: their gradients, and weights that stay non-negative."""

import math

import pytest
import torch
from torch import nn

from convexinit import MLP, ConvexConv2d, ConvexLinear, init_icnn_, project_, solve_init
from convexinit.init import DISTRIBUTIONS
from convexinit.layers import Linear, affine, projected_weights
from convexinit.positivity import POSITIVITY
from convexinit.stacking import stack_networks
from support.networks import generator


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


def test_stacked_gradients_agree_with_finite_differences_and_keep_the_layout():
    torch.manual_seed(0)
    inputs, weight, bias = (
        torch.randn(*shape, dtype=torch.float64, requires_grad=True)
        for shape in [(2, 3, 4), (2, 5, 4), (2, 5)]
    )
    assert torch.autograd.gradcheck(affine, (inputs, weight, bias))
    assert torch.autograd.gradcheck(lambda x, w: affine(x, w, None), (inputs, weight))
    assert torch.autograd.gradgradcheck(affine, (inputs, weight, bias), check_fwd_over_rev=True)
    affine(inputs, weight, bias).sum().backward()
    assert weight.grad.is_contiguous()


@pytest.mark.parametrize("bias", [True, False])
def test_autocast_reaches_stacked_layers(bias):
    layers = [Linear(4, 3, bias=bias) for _ in range(2)]
    stack, inputs = stack_networks(layers), torch.randn(2, 5, 4)
    with torch.autocast("cpu", torch.bfloat16):
        outputs = stack(inputs)
        expected = [layer(x) for layer, x in zip(layers, inputs, strict=True)]
    assert outputs.dtype == torch.bfloat16
    assert torch.allclose(outputs, torch.stack(expected), atol=0.02)
    (outputs.float().sum() + torch.stack(expected).float().sum()).backward()
    gradients = torch.stack([layer.weight.grad for layer in layers])
    assert torch.allclose(stack.weight.grad, gradients, atol=0.02)


def test_weights_to_be_projected_are_those_of_that_map():
    network = nn.Sequential(Linear(2, 3), ConvexLinear(3, 3, positivity="exp"), ConvexLinear(3, 1))
    (weight,) = projected_weights(network)
    assert weight.data_ptr() == network[2].weight.data_ptr()
    assert not weight.requires_grad


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("positivity", sorted(POSITIVITY))
@pytest.mark.parametrize("distribution", sorted(DISTRIBUTIONS))
def test_layers_of_any_dtype_start_with_the_weights_of_float32(dtype, positivity, distribution):
    def initialised(dtype):
        layer = ConvexLinear(1000, 300, positivity=positivity, dtype=dtype)
        assert layer.weight.isfinite().all()
        return init_icnn_(layer, distribution=distribution, method="moments", generator=generator())

    layer = initialised(dtype)
    assert layer.weight.isfinite().all()
    weight, expected = layer.nonnegative_weight.detach().double(), solve_init(1000)
    assert (weight >= 0).all()
    standard_error = math.sqrt(expected.weight_var / weight.numel())
    assert float(weight.mean()) == pytest.approx(expected.weight_mean, abs=5 * standard_error)
    if dtype != torch.float64:  # of which other numbers are drawn
        reference = initialised(torch.float32)
        given = reference.nonnegative_weight.detach().double()
        assert float(weight.mean()) == pytest.approx(float(given.mean()), rel=0.005)
        assert float(weight.var()) == pytest.approx(float(given.var()), rel=0.02)
        assert torch.allclose(layer.bias.double(), reference.bias.double(), rtol=0.005)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_can_be_trained_from_weights_of_zero(dtype):
    for positivity in sorted(POSITIVITY):
        layer = ConvexLinear(50, 20, positivity=positivity, dtype=dtype)
        layer.assign_weight_(torch.zeros(20, 50, dtype=torch.float64))
        assert layer.nonnegative_weight.max() <= 1.5 * torch.finfo(dtype).tiny  # rounded
        layer(torch.ones(4, 50, dtype=dtype)).sum().backward()
        assert layer.weight.grad.isfinite().all()
        if positivity in ("exp", "softplus"):
            assert (layer.weight.grad > 0).all()


@pytest.mark.parametrize(
    ("layer", "sizes"), [(ConvexLinear, (2, 3)), (ConvexConv2d, (2, 3, 1))], ids=["linear", "conv"]
)
def test_layers_name_their_positivity(layer, sizes):
    assert repr(layer(*sizes, positivity="exp")).endswith("positivity=exp)")
    with pytest.raises(ValueError, match=r"projection.*softplus"):
        layer(*sizes, positivity="magic")
