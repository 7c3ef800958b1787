"""Which activations keep a network convex."""

import pytest
import torch
from torch import nn

from convexinit.activations import check_convex_activation
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
