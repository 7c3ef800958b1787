"""Layers that read inputs beside features, in one tensor, with one weight for both."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from convexinit import (
    ConvexLinear,
    check_signal,
    init_icnn_,
    is_convex,
    keep_convex,
    parameter_groups,
)
from convexinit.finding import find_layers
from support.foreign_networks import INPUTS, Hidden, normal
from support.networks import generator

WIDTH = 32
X, FRESH = normal(1024, INPUTS, seed=1), normal(4096, INPUTS, seed=2)
CONTEXT = normal(1024, 3, seed=3)
FIRST = {"features first": True, "inputs first": False}


def columns(weight, features_first):
    """Those of features and those of inputs."""
    if features_first:
        return weight[:, :WIDTH], weight[:, WIDTH:]
    return weight[:, INPUTS:], weight[:, :INPUTS]


def as_it_is(weight, features_first):
    return weight


def clamped(weight, features_first):
    columns(weight.data, features_first)[0].clamp_(0)
    return weight


def clamped_in_a_copy(weight, features_first):
    convex, free = columns(weight, features_first)
    return joined(convex.clamp(min=0), free, features_first)


def mapped(weight, features_first):
    convex, free = columns(weight, features_first)
    return joined(F.softplus(convex) / WIDTH, free, features_first)


def joined(convex, free, features_first):
    return torch.cat([convex, free] if features_first else [free, convex], 1)


FORMS = [as_it_is, clamped, clamped_in_a_copy, mapped]


class Concatenating(nn.Module):
    """Every layer after the first reads the features before it and the inputs."""

    def __init__(self, depth, form=as_it_is, features_first=True):
        super().__init__()
        torch.manual_seed(0)
        self.form, self.features_first = form, features_first
        self.first = nn.Linear(INPUTS, WIDTH)
        sizes = [WIDTH] * (depth - 1) + [1]
        self.layers = nn.ModuleList(nn.Linear(WIDTH + INPUTS, size) for size in sizes)

    def forward(self, x):
        z = self.first(x)
        for layer in self.layers:
            read = joined(F.softplus(z), x, self.features_first)
            z = F.linear(read, self.form(layer.weight, self.features_first), layer.bias)
        return z

    def columns(self):
        return [columns(layer.weight, self.features_first) for layer in self.layers]


class Adding(nn.Module):
    """The same function with a weight for the features and one for the inputs."""

    def __init__(self, like):
        super().__init__()
        self.first = nn.Linear(INPUTS, WIDTH)
        self.first.load_state_dict(like.first.state_dict())
        self.convex, self.free = (
            nn.ParameterList(pair[i].detach().clone() for pair in like.columns()) for i in (0, 1)
        )
        self.biases = nn.ParameterList(layer.bias.detach().clone() for layer in like.layers)

    def forward(self, x):
        z = self.first(x)
        for convex, free, bias in zip(self.convex, self.free, self.biases, strict=True):
            z = F.linear(F.softplus(z), convex, bias) + F.linear(x, free)
        return z


def wide(layer, **parts):
    """``layer(network, features, inputs)`` between both, with weight ``w`` and ``bias``."""
    return Hidden(
        lambda n, x: n.last(F.relu(layer(n, F.relu(n.first(x)), x))),
        WIDTH,
        **{"w": matrix(WIDTH, WIDTH + INPUTS), "bias": torch.zeros(WIDTH), **parts},
    )


def matrix(*size):
    return torch.randn(*size, generator=generator()) / 6


def all_clamped(weight):
    weight.data.clamp_(0)
    return weight


def messages_of(function):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        function()
    return [str(one.message) for one in caught]


def found(network, inputs=X, convex=0):
    """Names, roles and numbers of inputs of the operations after the first."""
    return [
        (layer.role, layer.call.product.weight.shape[1])
        for layer in find_layers(network, inputs, convex)
        if layer.name not in ("first", "last")
    ]


@pytest.mark.parametrize("depth", [2, 6])
@pytest.mark.parametrize("features_first", FIRST.values(), ids=FIRST)
@pytest.mark.parametrize("form", FORMS)
def test_moments_on_fresh_inputs_and_free_columns_of_both_signs(form, features_first, depth):
    network = Concatenating(depth, form, features_first)
    before = [free.detach().clone() for _, free in network.columns()]
    assert not messages_of(lambda: init_icnn_(network, X, generator=generator()))
    for row in check_signal(network, FRESH).rows:
        assert abs(row.mean) < 0.1
        assert 0.8 < row.std**2 < 1.2
        assert row.gradient > 0
        assert not row.verdict
    for (convex, free), weight in zip(network.columns(), before, strict=True):
        assert form is mapped or bool((convex >= 0).all())
        assert torch.allclose(free, weight)  # too small to be scaled
    report = is_convex(network, FRESH)
    assert report
    assert not report.negative_weights


@pytest.mark.parametrize("scale", [1.0, 6.0])
@pytest.mark.parametrize("features_first", FIRST.values(), ids=FIRST)
def test_the_start_is_that_of_two_layers_that_are_added_up(features_first, scale):
    network = Concatenating(3, features_first=features_first)
    with torch.no_grad():
        for _, free in network.columns():
            free.mul_(scale)  # 6: they would leave the convex path too little
    added = Adding(network)
    for one in (network, added):
        init_icnn_(one, X, generator=generator())
    for place, (convex, free) in enumerate(network.columns()):
        assert torch.allclose(convex, added.convex[place], rtol=0.02)
        assert torch.allclose(free, added.free[place], rtol=0.02)
    shares, expected = (
        [row.convex for row in check_signal(one, X).rows[1:]] for one in (network, added)
    )
    assert shares == pytest.approx(expected, abs=0.01)
    assert all(0.4 < share < 0.6 if scale > 1 else share > 0.8 for share in shares)


@pytest.mark.parametrize("features_first", FIRST.values(), ids=FIRST)
@pytest.mark.parametrize("initialised", [True, False])
def test_free_columns_are_not_projected(features_first, initialised):
    network = Concatenating(3, features_first=features_first)
    if initialised:
        init_icnn_(network, X, generator=generator())
    by_hand = Adding(network)
    optimisers = [torch.optim.Adam(one.parameters(), 1e-2) for one in (network, by_hand)]
    assert not messages_of(lambda: keep_convex(optimisers[0], network, inputs=X))
    for step in range(31):
        with torch.no_grad():
            for weight in by_hand.convex:
                weight.clamp_(0)
        if step < 30:
            for one, optimiser in zip((network, by_hand), optimisers, strict=True):
                optimiser.zero_grad()
                (one(X) + X.abs().sum(1, keepdim=True)).square().mean().backward()
                optimiser.step()
    for place, (convex, free) in enumerate(network.columns()):
        assert torch.allclose(convex, by_hand.convex[place], atol=1e-3)
        assert torch.allclose(free, by_hand.free[place], atol=1e-3)
        assert bool((convex == 0).any())
        assert bool((free < 0).any())
    report = is_convex(network, X)
    assert report
    assert not report.negative_weights


def test_columns_are_projected_where_the_parameter_went():
    """To another type, and another order in memory."""
    network = wide(lambda n, z, x: F.linear(torch.cat([z, x], 1), n.w, n.bias))
    optimiser = torch.optim.SGD(network.parameters(), 0.1)
    keep_convex(optimiser, network, inputs=X)
    network.double()
    network.w.data = (network.w.data - 0.2).T.contiguous().T
    optimiser.step()
    assert bool((network.w[:, :WIDTH] >= 0).all())
    assert bool((network.w[:, WIDTH:] < 0).any())


@pytest.mark.parametrize(
    "weight",
    [lambda w: F.softplus(w) / WIDTH, lambda w: w.clamp(min=0), all_clamped],
)
def test_weights_that_the_network_makes_positive_stay_together(weight):
    network = wide(lambda n, z, x: F.linear(torch.cat([z, x], 1), weight(n.w), n.bias))
    assert found(network) == [("constrained", WIDTH + INPUTS)]
    (message,) = messages_of(lambda: init_icnn_(network, X, generator=generator()))
    assert "for both: w." in message
    assert found(network) == [("constrained", WIDTH + INPUTS)]


@pytest.mark.parametrize(
    "join",
    [
        lambda z, x: torch.concatenate([z, x], 1),
        lambda z, x: torch.cat([torch.cat([z[:, :1], x], 1), z[:, 1:]], 1),
    ],
)
def test_weights_that_stay_together_are_mentioned_however_the_tensors_are_joined(join):
    network = wide(lambda n, z, x: F.linear(join(z, x), F.softplus(n.w) / WIDTH, n.bias))
    (message,) = messages_of(lambda: init_icnn_(network, X, generator=generator()))
    assert "for both: w." in message


def test_a_layer_of_this_library_is_constrained_as_a_whole():
    network = wide(
        lambda n, z, x: n.own(torch.cat([z, x], 1)),
        own=ConvexLinear(WIDTH + INPUTS, WIDTH, positivity="projection"),
    )
    assert found(network) == [("constrained", WIDTH + INPUTS)]


APART = [("constrained", WIDTH), ("free", INPUTS)]
FUNCTIONS = {
    "linear": lambda n, z, x: F.linear(torch.cat((z, x), dim=1), n.w, bias=n.bias),
    "product": lambda n, z, x: torch.cat([z, x], -1) @ n.w.T + n.bias,
    "mm": lambda n, z, x: torch.mm(torch.hstack([z, x]), n.turned) + n.bias,
    "tokens": lambda n, z, x: F.linear(torch.cat([z[:, None], x[:, None]], 2), n.w, n.bias).squeeze(
        1
    ),
    "convolution": lambda n, z, x: F.conv1d(
        torch.concat([z[..., None], x[..., None]], 1), n.kernel, n.bias
    )[..., 0],
    "stack of weights": lambda n, z, x: F.linear(
        torch.cat([F.linear(torch.cat([z, x], 1), n.both[0], n.bias).relu(), x], 1),
        n.both[1],
        n.second,
    ),
    "tensors by name": lambda n, z, x: F.linear(torch.cat(tensors=[z, x], dim=1), n.w, n.bias),
    "own parts": lambda n, z, x: (
        F.linear(z, n.w[:, :WIDTH].clamp(min=0), n.bias) + F.linear(x, n.w[:, WIDTH:])
    ),
    "two weights": lambda n, z, x: F.linear(
        torch.cat([z, x], 1), torch.cat([F.softplus(n.w[:, :WIDTH]), n.other.T], 1), n.bias
    ),
}


@pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)
def test_layers_are_read_apart_however_they_are_called(function):
    network = wide(
        function, turned=matrix(WIDTH + INPUTS, WIDTH), kernel=matrix(WIDTH, WIDTH + INPUTS, 1),
        both=matrix(2, WIDTH, WIDTH + INPUTS), other=matrix(INPUTS, WIDTH),
        second=torch.zeros(WIDTH),
    )  # fmt: skip
    roles = [role for role, _ in found(network)]
    assert roles.count("constrained") == roles.count("free") == len(roles) / 2
    nn.init.ones_(network.bias)
    init_icnn_(network, X, generator=generator())
    rows = check_signal(network, FRESH).rows
    for row in rows[:2]:
        assert abs(row.mean) < 0.1
        assert 0.8 < row.std**2 < 1.2
    assert float(network(FRESH).mean()) == pytest.approx(rows[-1].mean, abs=1e-3)
    assert 0.45 < check_signal(network, X).rows[1].convex < 0.95
    optimiser = torch.optim.SGD(network.parameters(), 1.0)
    keep_convex(optimiser, network, inputs=X)
    network(X).sum().backward()
    optimiser.step()
    report = is_convex(network, X)
    assert report
    assert not report.negative_weights


def test_features_of_all_layers_are_read_at_once():
    """As in a densely connected network, which adds its features to what it reads."""

    def forward(network, x):
        read = torch.cat([x, F.softplus(network.first(x))], 1)
        for layer in network.layers:
            read = torch.cat([read, F.softplus(layer(read))], 1)
        return network.end(read)

    widths = [WIDTH * (i + 1) for i in range(4)]
    network = Hidden(
        forward,
        WIDTH,
        layers=nn.ModuleList(nn.Linear(INPUTS + width, WIDTH) for width in widths[:-1]),
        end=nn.Linear(INPUTS + widths[-1], 1),
    )
    expected = [part for width in widths for part in (("free", INPUTS), ("constrained", width))]
    assert found(network) == expected
    assert not messages_of(lambda: init_icnn_(network, X, generator=generator()))
    assert all(0.8 < row.std**2 < 1.2 for row in check_signal(network, FRESH).rows)


def test_columns_of_context_stay_as_they_are():
    """In a partially convex network, with gates."""

    def forward(network, x, context):
        u = torch.tanh(network.context(context))
        z = F.softplus(network.first(x) + network.shift(u))
        read = torch.cat([z * (1 + u.abs()), x, u], 1)
        return network.last(F.softplus(F.linear(read, network.w, network.bias)))

    network = Hidden(
        forward, WIDTH, context=nn.Linear(3, WIDTH), shift=nn.Linear(WIDTH, WIDTH),
        w=matrix(WIDTH, 2 * WIDTH + INPUTS), bias=torch.zeros(WIDTH),
    )  # fmt: skip
    inputs = (X, CONTEXT)
    before = network.w[:, -WIDTH:].detach().clone()
    assert found(network, inputs)[-3:] == [*APART, ("context", WIDTH)]
    messages_of(lambda: init_icnn_(network, inputs, generator=generator()))
    fresh = (FRESH, normal(4096, 3, seed=4))
    for row in check_signal(network, fresh).rows:
        assert abs(row.mean) < 0.1
        assert 0.8 < row.std**2 < 1.2
    with torch.no_grad():
        network.w[:, :WIDTH] -= 0.01
    keep_convex(torch.optim.SGD(network.parameters()), network, inputs=inputs)
    assert torch.equal(network.w[:, -WIDTH:], before)
    assert bool((network.w[:, :WIDTH] >= 0).all())
    assert is_convex(network, inputs)


def test_a_part_that_is_used_again_is_set_at_its_first_use():
    def forward(network, x):
        z = F.softplus(network.first(x))
        for _ in range(3):
            z = F.softplus(F.linear(torch.cat([z, x], 1), network.w, network.bias))
        return network.last(z)

    network = Hidden(forward, WIDTH, w=matrix(WIDTH, WIDTH + INPUTS), bias=torch.zeros(WIDTH))
    (message,) = messages_of(lambda: init_icnn_(network, X, generator=generator()))
    assert "was set at its first use: w;" in message
    assert check_signal(network, X).rows[1].std == pytest.approx(1, rel=0.01)


def test_a_weight_that_is_used_as_a_whole_and_in_parts_is_set_at_its_first_use():
    """As one that first meets features that are still constant."""

    def forward(network, x):
        z = torch.ones(len(x), WIDTH)
        for _ in range(3):
            z = F.softplus(F.linear(torch.cat([z, x], 1), network.w, network.bias))
        return network.last(z)

    network = Hidden(forward, WIDTH, w=matrix(WIDTH, WIDTH + INPUTS), bias=torch.zeros(WIDTH))
    messages_of(lambda: init_icnn_(network, X, generator=generator()))
    row = check_signal(network, X).rows[0]
    assert (row.mean, row.std) == (pytest.approx(0, abs=0.01), pytest.approx(1, rel=0.01))
    assert bool((network.w >= 0).all())


def test_a_start_takes_as_many_passes_as_that_of_two_layers():
    network = Concatenating(3)
    passes = []
    for one in (network, Adding(network)):
        counted = []
        one.register_forward_pre_hook(lambda *_, counted=counted: counted.append(1))
        init_icnn_(one, X, generator=generator())
        passes.append(len(counted))
    assert passes[0] == passes[1]


@pytest.mark.parametrize("name", ["w", "own"])
def test_a_layer_that_is_kept_stays_with_all_of_its_columns(name):
    def layer(network, z, x):
        read = torch.cat([z, x], 1)
        kept = F.linear(read, network.w, network.bias) if name == "w" else network.own(read)
        return kept + network.free(x)

    network = wide(layer, own=nn.Linear(WIDTH + INPUTS, WIDTH), free=nn.Linear(INPUTS, WIDTH))
    weight = network.w if name == "w" else network.own.weight
    before = weight.detach().clone()
    messages_of(lambda: init_icnn_(network, X, layers={name: {"keep": True}}))
    assert torch.equal(weight, before)


def test_what_is_said_of_a_layer_holds_for_all_of_its_columns():
    network = wide(lambda n, z, x: F.linear(torch.cat([z, x], 1), n.w, n.bias))
    init_icnn_(network, X, layers={"w": {"positivity": "projection"}}, generator=generator())
    assert bool((network.w >= 0).all())


@pytest.mark.parametrize(
    "layer",
    [
        lambda n, z, x: F.linear(changed(torch.cat([z, x], 1)), n.w, n.bias),
        lambda n, z, x: F.linear(torch.cat([z, x], 1), n.w / 2, n.bias),
        lambda n, z, x: F.linear(F.dropout(torch.cat([z, x], 1), 0.5, False) * 2, n.w, n.bias),
        lambda n, z, x: F.conv1d(torch.cat([z, x], 1)[:, :, None], n.w[..., None], n.bias)[..., 0],
        lambda n, z, x: F.conv1d(
            torch.cat([z[..., None], x[..., None]], 1), n.w.view(64, 19, 1), groups=2
        )[:, ::2, 0],
    ],
)
def test_what_is_computed_of_either_is_read_as_a_whole(layer):
    network = wide(layer)
    assert [role for role, _ in found(network)] == ["constrained"]
    assert any("negative" in row.verdict for row in check_signal(network, X).rows)


def changed(tensor):
    tensor[:, -1] = tensor[:, 0]
    return tensor


def test_numbers_of_another_type_are_read_as_a_whole():
    """As joining them is what brings them to the type of the weight."""
    network = wide(lambda n, z, x: F.linear(torch.cat([z.half(), x], 1), n.w, n.bias))
    assert found(network) == [("constrained", WIDTH + INPUTS)]


def test_steps_are_those_of_hidden_layers():
    network = init_icnn_(Concatenating(3), X, generator=generator())
    first, hidden = parameter_groups(network, 1.0, X)
    assert {id(p) for p in hidden["params"]} >= {
        id(p) for layer in network.layers[:2] for p in layer.parameters()
    }
    assert hidden["lr"] == 0.5 < first["lr"]


def test_features_alone_are_not_mentioned():
    network = wide(lambda n, z, x: F.linear(torch.cat([z, x.abs()], 1), n.w.abs(), n.bias))
    assert not messages_of(lambda: init_icnn_(network, X, generator=generator()))


def test_a_network_that_writes_other_numbers_to_its_columns_is_refused():
    def layer(network, z, x):
        features = network.w.data[:, :WIDTH]
        features.copy_(F.softplus(features))
        return F.linear(torch.cat([z, x], 1), network.w, network.bias)

    with pytest.raises(ValueError, match="writes other numbers to its parameter"):
        init_icnn_(wide(layer), X)
