"""Networks whose forward pass differentiates a convex function that is a part of them."""

import copy
import warnings

import pytest
import torch
from torch import nn

from convexinit import (
    ConvexDifference,
    check_signal,
    init_icnn_,
    is_convex,
    keep_convex,
    parameter_groups,
)
from support.foreign_networks import INPUTS, ActNorm, TransportPotential, normal
from support.networks import generator

X = normal(512, INPUTS, seed=0)
APART = "no part in what it differentiates first: "


def of_sum(value, x):
    return torch.autograd.grad(value.sum(), x, create_graph=True)[0]


def of_rows(value, x):
    return torch.autograd.grad([*value], [x], create_graph=True)[0]


def backward(value, x):
    x.retain_grad()
    value.backward(torch.ones_like(value), create_graph=True)
    return x.grad


class Descent(nn.Module):
    """Dynamics along which a convex energy falls."""

    def __init__(self, differentiate):
        super().__init__()
        self.differentiate, self.energy = differentiate, TransportPotential(3)
        self.field = nn.Sequential(
            nn.Linear(INPUTS, 16), nn.BatchNorm1d(16), nn.ReLU(),
            nn.Linear(16, 16), ActNorm(16), nn.ReLU(), nn.Linear(16, INPUTS),
        )  # fmt: skip

    def forward(self, x):
        x = x if x.requires_grad else x.requires_grad_()
        step = self.field(x)
        slope = self.differentiate(self.energy(x), x)
        uphill = (slope * step).sum(1, keepdim=True).relu()
        return step - slope * uphill / slope.square().sum(1, keepdim=True)


def built(differentiate=of_sum):
    torch.manual_seed(0)
    return Descent(differentiate)


@pytest.mark.filterwarnings("ignore")  # which another test is about
@pytest.mark.parametrize("differentiate", [of_sum, of_rows, backward])
def test_what_is_differentiated_alone_is_initialised_projected_and_measured(differentiate):
    network = built(differentiate)
    alone, field = copy.deepcopy(network.energy), copy.deepcopy(network.field.state_dict())
    init_icnn_(alone, X, generator=generator())
    init_icnn_(network, X, generator=generator())
    assert all(map(torch.equal, network.energy.parameters(), alone.parameters()))
    keep_convex(torch.optim.SGD(network.parameters(), 1.0), network, inputs=X)
    assert all(map(torch.equal, network.field.state_dict().values(), field.values()))
    rates = {group["lr"] for group in parameter_groups(network, 1.0, X)}
    assert rates == {group["lr"] for group in parameter_groups(alone, 1.0, X)}
    rows, expected = check_signal(network, X).rows, check_signal(alone, X).rows
    assert [row.layer for row in rows] == [f"energy.{row.layer}" for row in expected]
    assert [row.dead for row in rows] == [row.dead for row in expected]


def test_what_has_no_part_in_it_is_named():
    network = built()
    with pytest.warns(UserWarning, match=f"{APART}field. They are not initialised"):
        init_icnn_(network, X, generator=generator())
    with pytest.warns(UserWarning, match=f"{APART}field. They are not projected"):
        keep_convex(torch.optim.SGD(network.parameters(), 1.0), network, inputs=X)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        init_icnn_(network, X, call=lambda network, x: network.energy(x), generator=generator())


def test_parts_beside_either_part_of_a_difference_are_named_and_stay():
    network = ConvexDifference(built(), built())
    fields = [part.field for part in (network.minuend, network.subtrahend)]
    before = [copy.deepcopy(field.state_dict()) for field in fields]
    with pytest.warns(UserWarning, match=f"{APART}minuend.field, subtrahend.field. They"):
        init_icnn_(network, X, generator=generator())
    for part in (network.minuend, network.subtrahend):
        nn.init.normal_(part.energy.wz[0].weight)
    with pytest.warns(UserWarning, match=f"{APART}minuend.field, subtrahend.field. They"):
        keep_convex(torch.optim.SGD(network.parameters(), 1.0), network, inputs=X)
    for part, field, state in zip(network.children(), fields, before, strict=True):
        assert (part.energy.wz[0].weight >= 0).all()
        assert all(map(torch.equal, field.state_dict().values(), state.values()))


class Force(nn.Module):
    """The gradient of a function that is convex in what it computes from its inputs."""

    def __init__(self, compute, differentiate):
        super().__init__()
        self.compute, self.net = compute, TransportPotential(2)
        self.differentiate = differentiate

    def forward(self, x):
        with torch.enable_grad():
            x = x.clone().requires_grad_()
            return self.differentiate(self.net(self.compute(x)), x)


def of_two_sums(value, x):
    return torch.autograd.grad([value.sum(), (2 * value).sum()], [x], create_graph=True)[0]


@pytest.mark.parametrize("differentiate", [of_sum, of_two_sums])
@pytest.mark.parametrize(("compute", "warns"), [(torch.sin, True), (lambda x: 2 * x, False)])
def test_what_is_differentiated_is_tested_for_convexity(compute, warns, differentiate):
    torch.manual_seed(0)
    network = Force(compute, differentiate)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        init_icnn_(network, X, generator=generator())
        keep_convex(torch.optim.SGD(network.parameters(), 1.0), network, inputs=X)
    told = [w for w in caught if "what the network differentiates is not convex" in str(w.message)]
    assert len(told) == 2 * warns


class Scaled(nn.Module):
    """Asks whether a tensor requires gradients, which it does where the parameter before does."""

    def __init__(self):
        super().__init__()
        self.scale, self.net = nn.Parameter(torch.full((INPUTS,), 2.0)), TransportPotential(2)

    def forward(self, x):
        x = self.scale * x
        x = x if x.requires_grad else x.clone().requires_grad_()
        return of_sum(self.net(x), x)


@pytest.mark.filterwarnings("ignore")  # the output cannot be centred
def test_networks_that_ask_for_gradients_are_filled_as_they_were_traced():
    torch.manual_seed(0)
    network = init_icnn_(Scaled(), X, generator=generator())
    assert float(network.net(2 * X).detach().var()) == pytest.approx(1.0, abs=0.01)


class Levelled(nn.Module):
    """A convex function less what makes its value and slope zero at the origin."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.energy = TransportPotential(3)

    def forward(self, x):
        origin = torch.zeros(1, INPUTS, requires_grad=True)
        value = self.energy(origin)
        return self.energy(x) - value - x @ of_sum(value, origin).T


def test_a_function_that_differentiates_itself_elsewhere_is_initialised():
    network = Levelled()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "no parameter can centre the output layer")
        init_icnn_(network, X, generator=generator())
    assert check_signal(network, X).rows[1].std == pytest.approx(1, rel=0.01)
    assert is_convex(network, X)


def test_a_divergence_is_convex_in_the_argument_that_it_is_not_differentiated_by():
    class Divergence(nn.Module):
        def __init__(self):
            super().__init__()
            self.potential = nn.Sequential(
                nn.Linear(INPUTS, 32), nn.Softplus(), nn.Linear(32, 32), nn.Softplus(),
                nn.Linear(32, 1),
            )  # fmt: skip

        def forward(self, x, y):
            y = y if y.requires_grad else y.clone().requires_grad_()
            with torch.enable_grad():
                value = self.potential(y)
                slope = of_sum(value, y)
            return self.potential(x) - value - ((x - y) * slope).sum(1, keepdim=True)

    torch.manual_seed(0)
    network, pairs = Divergence(), (X, normal(512, INPUTS, seed=5))
    with pytest.warns(UserWarning, match="no parameter can centre the output layer potential.4"):
        init_icnn_(network, pairs, generator=generator(1))
    hidden = network.potential[:3](normal(512, INPUTS, seed=6)).detach()
    assert abs(float(hidden.mean())) < 0.1
    assert float(hidden.var(0).mean()) == pytest.approx(1, abs=0.2)
    keep_convex(torch.optim.SGD(network.parameters(), lr=0.1), network, inputs=pairs)
    assert is_convex(network, pairs)
    assert not is_convex(network, pairs, convex=1)


@pytest.mark.parametrize(
    ("read", "reported"),
    [
        (lambda z, x: z.sum(1), True),
        (lambda z, x: z, True),
        (lambda z, x: z.sum(1) + 50 * x.square().sum(1), True),
        (lambda z, x: 4 * z.mean(1), False),
        (lambda z, x: 4 * z.mean(1) + 50 * x.square().sum(1), False),
    ],
)
def test_what_is_differentiated_is_reported_where_it_is_far_from_the_target(read, reported):
    class Map(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(INPUTS, 64), nn.Linear(64, 64)

        def features(self, x):
            return torch.relu(self.last(torch.relu(self.first(x))))

        def forward(self, x):
            x = x if x.requires_grad else x.clone().requires_grad_()
            return of_sum(read(self.features(x), x), x)

    torch.manual_seed(0)
    network = Map()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        init_icnn_(network, X, generator=generator(1))
    messages = [str(one.message) for one in seen]
    assert len(messages) == reported
    for message in messages:
        assert "of the last layers (last)" in message
        factor = float(message.split("Divide it by ")[1])
        assert factor == pytest.approx(float(network.features(X).sum(1).std()), rel=0.01)


@pytest.mark.parametrize("energy_too", [False, True])
def test_the_mean_of_what_is_differentiated_matters_where_it_is_returned_too(energy_too):
    class Map(nn.Module):
        def __init__(self):
            super().__init__()
            self.potential = nn.Sequential(
                nn.Linear(INPUTS, 32), nn.Softplus(), nn.Linear(32, 1, bias=False)
            )

        def forward(self, x):
            x = x if x.requires_grad else x.clone().requires_grad_()
            with torch.enable_grad():
                value = self.potential(x)
                slope = of_sum(value, x)
            return (value, slope) if energy_too else slope

    torch.manual_seed(0)
    network = Map()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        init_icnn_(network, X, generator=generator(1))
    assert ["no parameter can centre" in str(one.message) for one in seen] == [True] * energy_too
    potential = network.potential(X).detach()
    assert potential.mean() > potential.std()
    assert check_signal(network, X).healthy is not energy_too
    assert not check_signal(network.potential, X).healthy
