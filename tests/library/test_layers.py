"""Layers: their gradients, and weights that stay non-negative."""

import pytest
import torch
from torch import nn

from convexinit import MLP, ConvexConv2d, ConvexLinear, project_
from convexinit.layers import affine


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


@pytest.mark.parametrize(
    ("layer", "sizes"), [(ConvexLinear, (2, 3)), (ConvexConv2d, (2, 3, 1))], ids=["linear", "conv"]
)
def test_layers_name_their_positivity(layer, sizes):
    assert repr(layer(*sizes, positivity="exp")).endswith("positivity=exp)")
    with pytest.raises(ValueError, match=r"projection.*softplus"):
        layer(*sizes, positivity="magic")
