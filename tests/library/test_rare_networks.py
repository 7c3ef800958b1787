"""What few networks do: weights that are computed in rare ways, calls that are seldom made."""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, parametrize
from torch.overrides import TorchFunctionMode

from convexinit import check_signal, init_icnn_, keep_convex
from convexinit.finding import find, find_layers
from convexinit.positivity import softplus
from support.foreign_networks import INPUTS, ActNorm, Hidden, MappedLinear, normal
from support.networks import generator, unchanged

X = normal(256, INPUTS, seed=1)
CONTEXT = normal(256, 3, seed=2)


def middle(layer, **parts):
    """A hidden layer between both, ``layer(network, features)``, with a bias."""
    return Hidden(
        lambda n, x: n.last(F.relu(layer(n, F.relu(n.first(x))) + n.bias)),
        **parts, bias=torch.zeros(16),
    )  # fmt: skip


def matrix(*size):
    return torch.randn(size or (16, 16), generator=generator())


def roles(network, inputs=X, convex=0):
    return {layer.name: layer.role for layer in find_layers(network, inputs, convex)}


@pytest.mark.parametrize(
    "layer",
    [
        lambda n, z: n.w.__rmatmul__(z),
        lambda n, z: torch.einsum("io,bi->bo", n.w, z),
        lambda n, z: torch.einsum("bi,io->ob", z, n.w).T,
        lambda n, z: torch.einsum("ci,b...i->bc...", n.w, z[:, None])[:, :, 0],
        lambda n, z: F.linear(z, n.w.exp().split(16)[0]),
    ],
)
def test_layers_are_filled_however_they_are_called(layer):
    network = init_icnn_(middle(layer, w=matrix().abs()), X, generator=generator())
    assert check_signal(network, X).rows[1].std == pytest.approx(1, rel=0.01)


@pytest.mark.parametrize(
    "positive",
    [
        lambda w: (w.square() + 1e-6).sqrt(),
        lambda w: w.cosh() - 1,
        lambda w: w.square().log1p() / 3,
        lambda w: F.smooth_l1_loss(w, torch.zeros_like(w), reduction="none").T,
    ],
)
@pytest.mark.parametrize("method", ["orthogonal", "moments"])
def test_maps_that_grow_on_both_sides_of_zero_are_inverted(positive, method):
    network = middle(lambda n, z: F.linear(z, positive(n.w)), w=matrix())
    init_icnn_(network, X, generator=generator(), method=method)
    row = check_signal(network, X).rows[1]
    assert (row.mean, row.std) == (pytest.approx(0, abs=0.01), pytest.approx(1, rel=0.01))
    assert (network.w > 0).all()


@pytest.mark.parametrize(
    "positive",
    [
        lambda w: (w.square() + 1e-6).sqrt(),
        lambda w: w.cosh() - 1,
        lambda w: w.exp().expm1(),
        lambda w: w**4,
        lambda w: F.softplus(w) ** 3 + 1e-3,
    ],
)
@pytest.mark.parametrize("units", [1, 64])
def test_maps_without_a_name_are_inverted_for_layers_of_any_width(positive, units):
    """Where random raw values are too large for them, and zeros below all that they give."""

    class Layer(nn.Module):
        def __init__(self, outputs):
            super().__init__()
            self.w = nn.Parameter(normal(outputs, units, seed=3) / 4)
            self.bias = nn.Parameter(torch.zeros(outputs))

        def forward(self, z):
            return F.linear(F.softplus(z), positive(self.w), self.bias)

    network = nn.Sequential(nn.Linear(INPUTS, units), Layer(units), Layer(units), Layer(1))
    init_icnn_(network, X, generator=generator())
    for row in check_signal(network, X).rows:
        assert (row.mean, row.std) == (pytest.approx(0, abs=0.02), pytest.approx(1, rel=0.02))
    for layer in network[1:]:
        raw = layer.w.detach().requires_grad_()
        positive(raw).sum().backward()
        assert (raw.grad > 1e-4).all()


@pytest.mark.parametrize(
    "equation", ["oi,bi->bo", "oi,bi", "oi,...i->...o", "bi,oi->bo", "b...,o...->bo", "oi,ib->bo"]
)
def test_weights_of_einsum_have_the_moments_of_a_linear_layer_in_any_order(equation):
    def product(network, z):
        z = z.T if "ib" in equation else z
        return torch.einsum(equation, *((z, network.w) if equation[0] == "b" else (network.w, z)))

    weights = [
        init_icnn_(
            middle(layer, w=matrix().abs()), X, method="moments", generator=generator()
        ).w.detach()
        for layer in (lambda n, z: F.linear(z, n.w), product)
    ]
    torch.testing.assert_close(*weights)


@pytest.mark.parametrize("features", [True, False])
def test_products_that_are_added_to_an_operand_in_place_are_refused(features):
    def forward(network, x):
        z = F.relu(network.skip(x))
        first, second = (z, network.w) if features else (x, network.v)
        s = network.skip(x) if features else F.linear(z, network.w)
        return network.last(F.relu(s.addmm_(first, second)))

    network = Hidden(
        forward, skip=nn.Linear(INPUTS, 16), w=matrix().abs(), v=matrix(INPUTS, 16),
        last=nn.Linear(16, 1),
    )  # fmt: skip
    name = "w" if features else "v"
    message = rf"{name}: addmm_ writes its result to an operand; write torch\.addmm"
    with unchanged(network), pytest.raises(ValueError, match=message):
        init_icnn_(network, X)


def test_a_vector_for_every_position_is_filled():
    def forward(network, x):
        return (F.relu(network.third(x.view(-1, 2, 3))) @ network.w).sum(1) + network.shift

    network = Hidden(forward, third=nn.Linear(3, 16), w=matrix(16).abs(), shift=torch.zeros(1))
    init_icnn_(network, X, generator=generator())
    assert float(network(X).detach().var()) == pytest.approx(1, rel=0.01)


def assigned(network):
    weight = network.w.clone()
    weight[:2] = 0
    return weight


class Softmax(nn.Module):
    """A parametrization whose inverse is none."""

    def forward(self, raw):
        return raw.softmax(1)

    def right_inverse(self, weight):
        return weight


def with_softmax():
    network = middle(lambda n, z: n.linear(z), linear=nn.Linear(16, 16))
    parametrize.register_parametrization(network.linear, "weight", Softmax())
    return network


@pytest.mark.parametrize(
    "network",
    [
        middle(lambda n, z: F.linear(z, assigned(n)), w=matrix()),
        middle(lambda n, z: F.linear(z, torch.linalg.cholesky(n.w)), w=torch.eye(16)),
        middle(lambda n, z: F.linear(z, torch.linalg.inv(n.w)), w=torch.eye(16)),
        middle(lambda n, z: F.linear(z, n.w[(n.w < 1).all(1)]), w=matrix().clamp(max=0.9)),
        with_softmax(),
    ],
)
def test_weights_without_an_inverse_are_refused(network):
    with unchanged(network), pytest.raises(ValueError, match="in a way that cannot be inverted"):
        init_icnn_(network, X)


def test_a_map_behind_a_parametrization_counts():
    def normed(function):
        linear = parametrizations.weight_norm(nn.Linear(16, 16))
        return middle(lambda n, z: F.linear(z, function(n.linear.weight)), linear=linear)

    for function in (F.softplus, torch.exp, lambda w: F.softplus(w) / 16, lambda w: w):
        network = init_icnn_(normed(function), X, generator=generator())
        assert check_signal(network, X).rows[1].std == pytest.approx(1, rel=0.05)
    network = normed(lambda w: w.softmax(1))
    with unchanged(network), pytest.raises(ValueError, match="in a way that cannot be inverted"):
        init_icnn_(network, X)


@pytest.mark.parametrize("function", [torch.linalg.cholesky, torch.sqrt])
def test_free_weights_without_an_inverse_stay(function):
    def forward(network, x):
        return network.last(F.relu(F.linear(x, function(network.w))))

    network = Hidden(forward, w=torch.eye(INPUTS), last=nn.Linear(INPUTS, 1))
    with pytest.warns(UserWarning, match="layer w has the variance"):
        init_icnn_(network, X)
    assert torch.equal(network.w, torch.eye(INPUTS))
    assert (network.last.weight >= 0).all()


def test_an_inverse_that_is_none_changes_nothing():
    network = nn.Sequential(nn.Linear(INPUTS, 16), nn.ReLU(), nn.Linear(16, 1))
    before = parametrize.register_parametrization(network[0], "weight", Mirrored()).weight
    with pytest.warns(UserWarning, match="layer 0 has"):
        init_icnn_(network, X)
    assert torch.equal(network[0].weight, before)


class Mirrored(Softmax):
    """A parametrization of weights of either sign, whose inverse is none."""

    def forward(self, raw):
        return raw + raw.flip(0).tanh()


@pytest.mark.parametrize(
    ("map_of", "name"),
    [
        (lambda w: w.square() + 1e-4, "square + 0.0001"),
        (lambda w: F.relu(w) + 1e-3, "clip + 0.001"),
        (lambda w: (F.softplus(w) + 1e-6) / 16, "softplus + 1e-06"),
        (lambda w: 2 * (w.abs() + 1e-4).T, "abs + 0.0001"),
    ],
)
def test_what_keeps_weights_from_zero_counts(map_of, name):
    network = middle(lambda n, z: F.linear(z, map_of(n.w)), w=matrix())
    init_icnn_(network, X, generator=generator())
    row = check_signal(network, X).rows[1]
    assert row.map == name
    assert (row.mean, row.std) == (pytest.approx(0, abs=0.01), pytest.approx(1, rel=0.01))


def test_a_map_that_the_user_says_fits_a_transposed_parameter():
    said = {"w": {"positivity": softplus(2.0), "gain": 0.5}}
    network = Hidden(
        lambda n, x: n.last(F.relu(F.linear(F.relu(n.first(x)), F.softplus(n.w, 2).T / 2, n.b))),
        w=matrix(16, 12), b=torch.zeros(12), last=nn.Linear(12, 1),
    )  # fmt: skip
    init_icnn_(network, X, layers=said, generator=generator())
    assert check_signal(network, X).rows[1].std == pytest.approx(1, rel=0.01)
    copies = middle(lambda n, z: F.linear(z, F.softplus(n.w).expand(16, 16)), w=matrix(1, 16))
    with pytest.raises(ValueError, match=r"w: its weight .* cannot be inverted"):
        init_icnn_(copies, X, layers={"w": {"positivity": "softplus"}})


@pytest.mark.parametrize(
    ("weight", "said"),
    [
        (lambda n: F.softplus(n.w) / F.softplus(n.w).sum(1, keepdim=True), {"positivity": "exp"}),
        (lambda n: n.w.softmax(1), {"positivity": "exp"}),
        (lambda n: 0.1 * F.softplus(n.w), {"positivity": "softplus", "gain": 0.01}),
    ],
)
def test_a_map_that_is_not_that_of_the_network_is_refused(weight, said):
    network = middle(lambda n, z: F.linear(z, weight(n)), w=matrix())
    with unchanged(network), pytest.raises(ValueError, match=r"w: the network computes other"):
        init_icnn_(network, X, layers={"w": said})
    init_icnn_(network, X, layers={"w": said | {"keep": True}})


def test_a_map_that_the_user_says_need_not_count_a_mask_or_a_bound():
    mask = (matrix() > 0).float()
    for map_of in (lambda w: mask * F.softplus(w), lambda w: F.softplus(w).clamp(0.01, 2)):
        network = middle(lambda n, z, map_of=map_of: F.linear(z, map_of(n.w)), w=matrix())
        said = {"w": {"positivity": "softplus"}}
        init_icnn_(network, X, layers=said, generator=generator())
        row = check_signal(network, X, layers=said).rows[1]
        assert (row.mean, row.std) == (pytest.approx(0, abs=0.01), pytest.approx(1, rel=0.01))
    narrow = middle(lambda n, z: F.linear(z, F.softplus(n.w).clamp(max=0.5)), w=matrix())
    with unchanged(narrow), pytest.raises(ValueError, match="layer w does not become"):
        init_icnn_(narrow, X, layers=said)
    init_icnn_(narrow, X, layers=said, method="moments", rho=0.9, generator=generator())
    assert check_signal(narrow, X, layers=said).rows[1].std == pytest.approx(1, rel=0.01)


def test_a_network_that_writes_to_its_weights_may_only_project_them():
    def written(project):
        def layer(network, z):
            network.w.data = project(network.w.data)
            return F.linear(z, network.w)

        return middle(layer, w=matrix())

    network = init_icnn_(written(lambda w: w.clamp(min=0)), X, generator=generator())
    assert check_signal(network, X).rows[1].std == pytest.approx(1, rel=0.01)
    network = written(lambda w: F.softplus(w - 5))
    with unchanged(network), pytest.raises(ValueError, match=r"w: the network writes other"):
        init_icnn_(network, X)


def test_a_first_layer_of_weights_that_cannot_be_negative_is_constrained():
    network = nn.Sequential(MappedLinear(INPUTS, 16, F.softplus), nn.ReLU(), nn.Linear(16, 1))
    assert set(roles(network).values()) == {"constrained"}


def test_products_of_data_are_no_layers():
    def forward(network, u, y):
        rotation = network.turn(u).view(-1, INPUTS, INPUTS)
        return network.last(F.relu(network.first(torch.bmm(rotation, y[:, :, None])[..., 0])))

    network = Hidden(forward, turn=nn.Linear(3, INPUTS**2))
    found = roles(network, (CONTEXT, X), 1)
    assert found == {"turn": "context", "first": "free", "last": "constrained"}


@pytest.mark.parametrize(
    "passed_on",
    [
        torch.bmm,
        lambda a, z: (a / a.sum(-1, keepdim=True)) @ z,
        lambda a, z: torch.einsum("bij,bjk->bik", a, z),
    ],
)
def test_neighbours_that_are_data_are_no_hypernetwork(passed_on):
    def forward(network, y, a):
        z = F.relu(network.first(passed_on(a, y)))
        return network.last(F.relu(network.middle(passed_on(a, z)))).mean(1)

    nodes = normal(2 * 1024, 5, INPUTS, seed=3)
    edges = (normal(2 * 1024, 5, 5, seed=4) > 0).float() + torch.eye(5)
    network = Hidden(forward, middle=nn.Linear(16, 16))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        init_icnn_(network, (nodes[::2], edges[::2]), generator=generator())
        assert not kept(network, (nodes[::2], edges[::2]))
    read = F.relu(network.first(passed_on(edges[1::2], nodes[1::2])))
    fresh = network.middle(passed_on(edges[1::2], read)).detach()
    assert abs(float(fresh.mean())) < 0.1
    assert float(fresh.flatten(0, 1).var(0).mean()) == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize(
    ("gate", "reported"),
    [
        (lambda u: 4 * F.softplus(u), True),
        (lambda u: 0.5 * torch.sigmoid(u), True),
        (lambda u: F.relu(1 + 0.1 * u), False),
    ],
)
@pytest.mark.parametrize("read", ["", "features", "skip"])
def test_gates_between_a_layer_and_its_activation_are_measured(gate, reported, read):
    def forward(network, u, y):
        z, g = F.softplus(network.first(y)), gate(network.turn(u))
        p = {
            "": lambda: network.middle(z) * g + 0.1 * network.turn(u),
            "features": lambda: network.middle(g * z),
            "skip": lambda: network.middle(z) + g * network.skip(y),
        }[read]()
        network.seen = p.detach()
        return network.last(F.softplus(p))

    network = Hidden(
        forward, turn=nn.Linear(3, 16), middle=nn.Linear(16, 16), skip=nn.Linear(INPUTS, 16)
    )
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        init_icnn_(network, (CONTEXT, X), convex=1, generator=generator())
    messages = [str(one.message) for one in caught]
    behind = [message for message in messages if "before an activation" in message]
    assert len(behind) == (reported and not read)
    network(CONTEXT, X)
    variance = float(network.seen.var(0, correction=0).mean())
    if any("pre-activation of the layer middle" in message for message in messages):
        return  # as what the skip connection adds is too large
    if behind:
        variance /= float(behind[0].split("the variance ")[1].split(". ")[0])
    assert variance == pytest.approx(1, abs=0.01 if behind else 0.5)


@pytest.mark.parametrize(
    ("read", "names"),
    [
        (lambda n, u, y: n.bilinear(u, y), "bilinear.weight, bilinear.bias"),
        (lambda n, u, y: (y[:, None] * n.w).sum(-1), "w"),
        (lambda n, u, y: (n.turn(u).view(-1, 16, INPUTS) @ y[..., None])[..., 0], "turn.weight, t"),
        (lambda n, u, y: torch.einsum("bi,ji,kj->bk", y, n.w, n.v), "w, v"),
    ],
)
@pytest.mark.parametrize("reported", [False, True])
def test_first_layers_that_are_not_followed_are_named_if_they_are_off(read, names, reported):
    def forward(network, u, y):
        first = network.gain * read(network, u, y)
        return network.last(F.softplus(network.middle(F.softplus(first))))

    network = Hidden(
        forward, bilinear=nn.Bilinear(3, INPUTS, 16), turn=nn.Linear(3, 16 * INPUTS),
        middle=nn.Linear(16, 16), w=matrix(16, INPUTS), v=matrix(),
    )  # fmt: skip
    first = read(network, CONTEXT, X).detach()
    network.gain = (20.0 if reported else 1.0) / float(first.std())
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        init_icnn_(network, (CONTEXT, X), convex=1, generator=generator())
    messages = [str(one.message) for one in caught if "be followed" in str(one.message)]
    assert len(messages) == reported
    if reported:
        assert f"computed from the inputs and {names}" in messages[0]
        std = float(messages[0].split("deviation ")[1].split()[0])
        assert std == pytest.approx(20, rel=0.5)


def test_parameters_of_whole_numbers_stay():
    network = middle(lambda n, z: F.linear(z, n.w), w=matrix().abs())
    network.register_parameter("count", nn.Parameter(torch.arange(3), requires_grad=False))
    init_icnn_(network, X)
    assert network.count.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "added",
    [
        lambda n, x: torch.where(n.first(x)[:, :1] > 0, n.up, n.down),
        lambda n, x: (F.relu(n.first(x)) * torch.linalg.cholesky(n.w).diagonal()).sum(1)[:, None],
    ],
)
def test_parameters_that_cannot_be_probed_are_left_out(added):
    network = Hidden(
        lambda n, x: n.last(F.relu(n.first(x))) + added(n, x),
        up=torch.ones(1), down=-torch.ones(1), w=torch.eye(16),
    )  # fmt: skip
    assert not find(network, X).unseen


def test_outputs_that_something_else_is_added_to_are_no_sums_of_the_last_layers():
    def forward(network, u, y):
        pieces = network.pair(F.relu(network.first(y)))
        return pieces[:, 0] + pieces[:, 1] + network.turn(u)[:, 0]

    network = Hidden(forward, pair=nn.Linear(16, 2), turn=nn.Linear(3, 2))
    found = find(network, (CONTEXT, X), 1)
    assert found.end is not None
    assert found.end.value is not None
    added = network.turn(found.trace.inputs[0])[:, 0]
    assert torch.allclose(found.output - found.end.value, added, atol=1e-6)


def test_what_is_stacked_is_not_only_summed_if_the_stack_is_used_before():
    def forward(network, x):
        both = torch.stack([network.middle(F.relu(network.first(x))), network.skip(x)])
        return network.last(F.relu(both[0]) + F.relu(both.sum(0)))

    network = Hidden(forward, middle=nn.Linear(16, 16), skip=nn.Linear(INPUTS, 16))
    init_icnn_(network, X, generator=generator())
    alone = network.middle(F.relu(network.first(X)))
    assert float(alone.detach().var(0).mean()) == pytest.approx(1, rel=0.01)


def test_a_bias_of_a_square_that_is_used_again_is_not_scaled_with_it():
    def forward(network, x):
        skipped = (network.skip(x) + network.shift) ** 2
        hidden = network.middle(F.relu(network.first(x))) + skipped
        return network.last(F.relu(hidden + network.shift if network.again else hidden))

    for again in (False, True):
        network = Hidden(
            forward, middle=nn.Linear(16, 16), skip=nn.Linear(INPUTS, 16, bias=False),
            shift=torch.ones(16), again=again,
        )  # fmt: skip
        (one,) = (one for one in find(network, X).pre_activations if one.squared)
        assert len(one.squared_biases) == (not again)


def test_features_that_do_not_vary_are_refused():
    network = Hidden(lambda n, x: n.last(n.first(x).clamp(min=1e3)))
    for method in ("moments", "orthogonal"):
        with unchanged(network), pytest.raises(ValueError, match=r"last reads .*does not vary"):
            init_icnn_(network, X, method=method)


@pytest.mark.parametrize("scale", [0.05, 1.0, 20.0])
def test_inputs_that_vary_little_are_warned_of(scale):
    network, x = middle(lambda n, z: F.linear(z, n.w), w=matrix()), scale * X
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        init_icnn_(network, x, generator=generator())
    size = float(network.first.weight.detach().square().mean().sqrt())
    messages = [str(one.message) for one in caught]
    assert [f"as large as {size:.3g} " in message for message in messages] == [True] * (scale < 1)


class Plain(ActNorm):
    """Says in a plain attribute whether it has seen its first batch."""

    def __init__(self, features):
        super().__init__(features)
        del self.initialized
        self.initialized = False

    def forward(self, x):
        if self.training and not self.initialized:
            with torch.no_grad():
                self.shift.copy_(-x.mean(0))
                self.log_scale.copy_(-x.std(0).log())
            self.initialized = True
        return (x + self.shift) * self.log_scale.exp()


def test_normalisations_with_a_plain_flag_get_their_first_batch_again():
    network = Hidden(lambda n, x: n.last(F.relu(n.norm(n.first(x)))), norm=Plain(16))
    network.train()(X)
    nn.init.normal_(network.norm.log_scale, generator=generator())
    init_icnn_(network, X, generator=generator())
    assert network.norm.initialized is True
    first = network.norm(network.first(X))
    assert torch.allclose(first.mean(0), torch.zeros(16), atol=0.01)
    assert torch.allclose(first.std(0), torch.ones(16), atol=0.01)
    fresh = Hidden(lambda n, x: n.norm(n.first(x)), norm=Plain(16))
    with pytest.raises(ValueError, match="cannot be called with these inputs: mat1 and mat2"):
        check_signal(fresh, X[:, :3])


def kept(network, inputs=X, convex=0):
    """The network, kept convex, and the warnings of that."""
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        keep_convex(optimiser, network, inputs=inputs, convex=convex)
    return [str(one.message) for one in caught]


def test_a_factor_of_a_weight_that_would_turn_it_is_named():
    network = middle(lambda n, z: F.linear(z, n.w * n.gain), w=matrix(), gain=torch.tensor(2.0))
    (message,) = kept(network)
    assert "stays convex only while these factors of its convex path are not negative: gain" in (
        message
    )
    assert (network.w >= 0).all()


def test_weights_that_the_context_gives_feature_by_feature_need_nothing():
    def forward(network, u, y):
        weight = F.softplus(network.turn(u)).view(-1, 16, 16)
        return network.last(F.relu((weight * F.relu(network.first(y))[:, None]).sum(-1)))

    network = Hidden(forward, turn=nn.Linear(3, 256))
    before = copy.deepcopy(network.turn.state_dict())
    assert not kept(network, (CONTEXT, X), 1)
    assert all(torch.equal(value, before[key]) for key, value in network.turn.state_dict().items())
    assert (network.last.weight >= 0).all()


def balanced(weight, steps):
    """A non-negative matrix whose rows and columns come to the same sums, step by step."""
    weight = F.softplus(weight)
    for _ in range(steps):
        weight = weight / weight.sum(1, keepdim=True)
        weight = weight / weight.sum(0, keepdim=True)
    return weight


class Counted(TorchFunctionMode):
    """Counts calls of torch."""

    calls = 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        self.calls += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "used",
    [
        lambda n: init_icnn_(n, X, layers={"w": {"keep": True}}),
        lambda n: check_signal(n, X),
        lambda n: keep_convex(torch.optim.SGD(n.parameters(), lr=0.1), n, inputs=X),
    ],
)
def test_weights_that_are_computed_in_many_steps_take_as_long_as_these(used):
    """Every step uses the result of the last one twice."""

    def calls(steps):
        network = middle(lambda n, z: F.linear(z, balanced(n.w, steps)), w=matrix())
        with Counted() as counted:
            used(network)
        return counted.calls

    assert calls(8) - calls(4) < 1.5 * (calls(6) - calls(2))


class Forms(nn.Linear):
    """Quadratic forms, the weight of which has a matrix for each of them."""

    def __init__(self, inputs, forms):
        super().__init__(inputs, forms, bias=False)
        self.weight = nn.Parameter(matrix(forms, inputs, inputs).abs() / inputs)

    def forward(self, x):
        return torch.einsum("bi,oji->boj", x, self.weight).square().sum(2) / 2


def test_a_linear_layer_of_another_kind_makes_no_stack_and_can_be_kept():
    network = middle(lambda n, z: n.second(n.forms(z)), forms=Forms(16, 8), second=nn.Linear(8, 16))
    with unchanged(network), pytest.raises(ValueError, match=r"forms: .*'keep': True"):
        init_icnn_(network, X)
    before = network.forms.weight.clone()
    init_icnn_(network, X, layers={"forms": {"keep": True}}, generator=generator())
    assert torch.equal(network.forms.weight, before)
    assert check_signal(network, X).rows[2].std == pytest.approx(1, rel=0.01)


def test_half_precision_is_handed_on_by_functions_of_one_type():
    def passed_on(network, z):
        return torch.zeros_like(z).index_add(1, torch.tensor([1, 0]), z @ network.w)

    network = Hidden(
        lambda n, x: n.last(F.relu(passed_on(n, F.relu(n.first(x))) + n.bias)).sum(1),
        w=matrix().abs(), bias=torch.zeros(16),
    ).bfloat16()  # fmt: skip
    nodes = torch.stack([X, X.flip(0)], 1).bfloat16()
    init_icnn_(network, nodes, generator=generator())
    assert check_signal(network, nodes).rows[1].std == pytest.approx(1, rel=0.05)


SENDERS, RECEIVERS = torch.tensor([0, 1, 0]), torch.tensor([1, 0, 0])


@pytest.mark.parametrize(
    "passed_on",
    [
        lambda y: y[:, [1, 0]],
        lambda y: y.roll(1, 1),
        lambda y: torch.zeros(len(y), 2, 16).index_add(1, torch.tensor([1, 0]), y),
        lambda y: torch.zeros_like(y).index_add_(1, RECEIVERS, y[:, SENDERS]),
        lambda y: y.new_zeros(y.shape).index_add(1, RECEIVERS, y[:, SENDERS]),
    ],
)
def test_messages_that_are_passed_by_indices_are_centred_by_a_bias_behind_them(passed_on):
    network = Hidden(
        lambda n, x: n.last(F.relu(passed_on(F.relu(n.first(x)) @ n.w) + n.bias)).sum(1),
        w=matrix().abs(), bias=torch.zeros(16),
    )  # fmt: skip
    nodes = torch.stack([X, X.flip(0)], 1)
    init_icnn_(network, nodes, generator=generator())
    row = check_signal(network, nodes).rows[1]
    assert (row.mean, row.std) == (pytest.approx(0, abs=0.01), pytest.approx(1, rel=0.01))


@pytest.mark.parametrize(
    ("call", "written_out"),
    [
        (torch.addmm, lambda free, z, w: free + z @ w),
        (
            lambda free, z, w: torch.addmm(free, z, w, alpha=0.3, beta=2.0),
            lambda free, z, w: 2 * free + 0.3 * (z @ w),
        ),
        (
            lambda free, z, w: torch.addmm(free, mat2=w, mat1=z, alpha=0.3),
            lambda free, z, w: free + 0.3 * (z @ w),
        ),
    ],
)
def test_what_addmm_adds_to_its_product_is_a_skip_connection(call, written_out):
    def layers(skip):
        return Hidden(
            lambda n, x: n.last(F.relu(skip(n, n.free(x) + n.bias, F.relu(n.first(x))))),
            free=nn.Linear(INPUTS, 16, bias=False), w=matrix().abs(), bias=torch.zeros(16),
        )  # fmt: skip

    added = layers(lambda n, free, z: call(free, z, n.w))
    plain = layers(lambda n, free, z: written_out(free, z, n.w))
    for network in (added, plain):
        init_icnn_(network, X, generator=generator())
    assert all(map(torch.allclose, added.parameters(), plain.parameters()))
    rows, expected = check_signal(added, X).rows, check_signal(plain, X).rows
    assert [row.convex for row in rows] == pytest.approx([r.convex for r in expected], nan_ok=True)
    assert 0.4 < rows[1].skip < 0.6


def test_a_weight_that_is_used_twice_in_a_sum_is_measured_again():
    network = middle(lambda n, z: F.linear(z, n.w) + F.linear(z.square(), n.w), w=matrix())
    with pytest.warns(UserWarning, match="the layer w has the mean .* and the variance"):
        init_icnn_(network, X, generator=generator())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_gains_are_no_biases_in_half_precision(dtype):
    """Where the signal hardly varies, a gain seems to shift all rows alike."""

    class Scaled(Hidden):
        def forward(self, x):
            z = F.linear(F.softplus(self.first(x)), self.w.exp() / 16)
            z = F.softplus(F.softplus(self.gains) * z + self.bias)
            return 10 * F.softplus(self.gain) * F.linear(z, self.last.weight.exp() / 16, self.end)

    network = Scaled(
        None, gain=torch.tensor(0.1), gains=torch.full((16,), 0.5), w=matrix() / 10,
        bias=torch.zeros(16), end=torch.zeros(1),
    ).to(dtype)  # fmt: skip
    init_icnn_(network, X.to(dtype), generator=generator())
    assert (network.gains == 0.5).all()
    assert float(network.gain.detach()) == pytest.approx(0.1, rel=0.01)
    rows = check_signal(network, X.to(dtype)).rows
    assert [row.std for row in rows[1:]] == pytest.approx([1, 1], rel=0.05)


def test_gains_of_a_signal_that_has_vanished_are_no_biases():
    class Vanishing(Hidden):
        def forward(self, x):
            z = F.softplus(self.first(x))
            for weight, gain, bias in zip(self.weights, self.gains, self.biases, strict=True):
                z = F.softplus(F.softplus(gain) * F.linear(z, weight.exp()) + bias)
            return self.last(z)

    def each(value, *size):
        return nn.ParameterList([torch.full(size, value) for _ in range(6)])

    network = Vanishing(None, weights=each(-7.0, 16, 16), gains=each(0.5, 16), biases=each(0.0, 16))
    init_icnn_(network, X, generator=generator())
    assert all((gain == 0.5).all() for gain in network.gains)
    rows = check_signal(network, X).rows
    assert [row.std for row in rows] == pytest.approx([1.0] * 8, rel=0.01)


def test_biases_are_found_behind_an_autocast_of_the_network():
    class Cast(Hidden):
        def forward(self, x):
            with torch.autocast("cpu", torch.bfloat16):
                z = F.softplus(self.first(x))
                return F.linear(z, self.last.weight.exp() / 16, self.last.bias).float()

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        network = init_icnn_(Cast(None), X, generator=generator())
    assert check_signal(network, X).rows[-1].mean == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize(
    "mixed",
    [
        lambda b: b - b.mean(),
        lambda b: b @ matrix(),
        lambda b: b.softmax(0),
        lambda b: b.cumsum(0),
        lambda b: b.flip(0),
        lambda b: b[torch.randperm(16, generator=generator())],
        lambda b: b.sort().values,
    ],
)
@pytest.mark.parametrize("gain", [1.0, 0.5])
def test_parameters_whose_entries_are_mixed_are_no_biases(mixed, gain):
    def forward(network, x):
        hidden = gain * (F.linear(F.relu(network.first(x)), network.w) + mixed(network.b))
        return network.last(F.relu(hidden))

    network = Hidden(forward, w=matrix(), b=torch.randn(16, generator=generator()))
    with unchanged(network), pytest.raises(ValueError, match="w: no parameter shifts"):
        init_icnn_(network, X)


@pytest.mark.parametrize("gain", [1.0, 0.5])
def test_units_may_come_first(gain):
    def forward(network, x):
        hidden = gain * (network.w @ F.relu(network.first(x)).T + network.b)
        return network.last(F.relu(hidden).T)

    network = Hidden(forward, w=matrix(), b=torch.zeros(16, 1))
    init_icnn_(network, X, generator=generator())
    rows = check_signal(network, X).rows
    assert [row.mean for row in rows] == pytest.approx([0] * 3, abs=0.01)
    assert [row.std for row in rows] == pytest.approx([1] * 3, abs=0.01)


@pytest.mark.parametrize("function", [F.softplus, F.relu, lambda w: w])
@pytest.mark.parametrize("normed", [parametrizations.spectral_norm, parametrizations.weight_norm])
def test_what_is_tried_to_find_a_map_is_undone(normed, function):
    torch.manual_seed(0)
    linear = normed(nn.Linear(16, 16))
    network = middle(lambda n, z: F.linear(z, function(n.linear.weight)), linear=linear)
    values = [parameter.detach().clone() for parameter in linear.parameters()]
    check_signal(network, X)
    init_icnn_(network, X, layers={"linear": {"keep": True}})
    assert all(map(torch.equal, values, linear.parameters()))
