"""Layers whose results are added to a part of another tensor in place."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from convexinit import init_icnn_
from support.foreign_networks import normal
from support.networks import generator

X = normal(1024, 6, seed=0)


class AddedInPart(nn.Module):
    """Layers of half the units of a skip connection, added to the first of them.

    Args:
        add: gives the sum of skip connection and the results of two layers.
    """

    def __init__(self, add):
        super().__init__()
        self.add, self.first, self.skip = add, nn.Linear(6, 32), nn.Linear(6, 16)
        self.a, self.b, self.last = nn.Linear(32, 8), nn.Linear(32, 8), nn.Linear(16, 1)

    def hidden(self, x):
        z = F.softplus(self.first(x))
        return self.add(self.skip(x), self.a(z), self.b(z))

    def forward(self, x):
        return self.last(F.softplus(self.hidden(x)))


def assigned(o, a, b):
    o[:, :8] = o[:, :8] + a
    o[:, 8:] = o[:, 8:] + b
    return o


def added(o, a, b):
    o[:, :8] += a
    o[:, 8:] += b
    return o


def added_to_views(o, a, b):
    o.narrow(1, 0, 8).add_(a)
    o.view(-1, 2, 8)[:, 1].add_(b)
    return o


def both_assigned(o, a, b):
    o[:, :8] = o[:, :8] + a + b
    return o


def both_added_to_a_view(o, a, b):
    part = o.narrow(1, 0, 8).view(-1, 4, 2)
    part.add_(a.view(-1, 4, 2))
    part.add_(b.view(-1, 4, 2))
    return o


@pytest.mark.parametrize(
    ("in_place", "assign"),
    [(added, assigned), (added_to_views, assigned), (both_added_to_a_view, both_assigned)],
)
@pytest.mark.filterwarnings("ignore:the pre-activation of the layer a")
def test_what_is_added_to_a_part_in_place_is_filled_like_what_is_assigned(in_place, assign):
    networks = []
    for add in (in_place, assign):
        torch.manual_seed(0)
        networks.append(init_icnn_(AddedInPart(add), X, generator=generator(1)))
    first, second = networks
    assert (first.a.weight >= 0).all()
    assert first.a.weight.max() > 0
    assert torch.allclose(first(X), second(X), atol=1e-3)
    assert float(first(X).detach().var()) == pytest.approx(1.0, abs=0.02)


def test_what_is_added_in_place_before_a_sum_is_filled():
    def summed(o, a, b):
        o = o.view(-1, 2, 8)
        o += a[:, None]
        o += b[:, None]
        return o.sum(2)

    torch.manual_seed(0)
    network = AddedInPart(summed)
    network.last = nn.Linear(2, 1)
    init_icnn_(network, X, generator=generator(1))
    signal = network.hidden(X).detach()
    assert float(signal.mean()) == pytest.approx(0.0, abs=0.02)
    assert float(signal.var(0).mean()) == pytest.approx(1.0, abs=0.02)


class Activated(nn.Module):
    """Two layers with an activation."""

    def __init__(self, activation):
        super().__init__()
        self.activation, self.first, self.last = activation, nn.Linear(6, 32), nn.Linear(32, 1)

    def forward(self, x):
        return self.last(self.activation(self.first(x)))


@pytest.mark.parametrize("activation", [torch.relu_, torch.abs_, lambda s: s[:, :].clamp_(min=0)])
def test_activations_in_place_are_followed(activation):
    results = []
    for chosen in (activation, lambda s: activation(s.clone())):
        torch.manual_seed(0)
        network = init_icnn_(Activated(chosen), X, generator=generator())
        results.append(network(X))
    assert torch.equal(*results)
