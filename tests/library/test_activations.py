"""Which activations keep a network convex."""

import pytest
import torch
from torch import nn

from convexinit.activations import check_convex_activation, checked_activation
from support.networks import ACTIVATIONS


@pytest.mark.parametrize(
    ("activation", "message"),
    [
        (torch.tanh, "is not convex"),
        (nn.functional.silu, "decreases"),
        (torch.abs, "decreases"),
        ("tanh", "a callable or one of relu, .*got 'tanh'"),
    ],
)
def test_activations_that_break_convexity_are_refused(activation, message):
    with pytest.raises(ValueError, match=message):
        check_convex_activation(activation)


@pytest.mark.parametrize(
    "activation",
    [*ACTIVATIONS, "squared_relu", "identity", nn.LeakyReLU(0.2), nn.CELU(), torch.exp],
)
def test_convex_activations_pass(activation):
    check_convex_activation(activation)
    with torch.device("meta"):  # on which networks are built that get their weights later
        check_convex_activation(activation)


def test_an_activation_may_work_in_place_and_reuse_its_result():
    result = torch.empty(2001, dtype=torch.float64)
    check_convex_activation(lambda s: s.relu_())
    check_convex_activation(lambda s: torch.exp(s, out=result))
    grid, shifted = (torch.linspace(low, 1, 2001, dtype=torch.float64) for low in (-1, 0))
    evaluate = checked_activation(lambda s: torch.exp(s, out=result))
    first, before = evaluate(grid), grid.exp()
    evaluate(shifted)
    assert torch.equal(first, before)


def test_a_function_is_named_and_not_placed_in_memory():
    with pytest.raises(ValueError, match="activation 'tanh' is not convex"):
        check_convex_activation(torch.tanh)
