"""Parameters on the convex path that no layer accounts for, and weights with several uses."""

import re
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from convexinit import (
    MLP,
    ConvexLinear,
    check_signal,
    init_icnn_,
    is_convex,
    keep_convex,
    parameter_groups,
    project_,
)
from convexinit.finding import find
from support.foreign_networks import normal
from support.networks import generator

X = normal(256, 6, seed=0)


class Middle(nn.Module):
    """A hidden layer that is a function of the network, the features and the input."""

    def __init__(self, function, **parameters):
        super().__init__()
        torch.manual_seed(0)
        self.function, self.a, self.o = function, nn.Linear(6, 16), nn.Linear(16, 1)
        self.b = nn.Parameter(torch.zeros(16))
        nn.init.uniform_(self.o.weight, 0, 0.1)
        for name, value in parameters.items():
            setattr(self, name, value if isinstance(value, nn.Module) else nn.Parameter(value))

    def forward(self, x):
        return self.o(F.softplus(self.function(self, F.softplus(self.a(x)), x) + self.b))


def matrix():
    return 0.2 * torch.randn(16, 16, generator=torch.Generator().manual_seed(1))


def ones(z):
    return torch.ones(len(z), 1)


@pytest.mark.parametrize(
    "function",
    [
        lambda n, z, x: torch.inner(z, n.w),
        lambda n, z, x: torch.tensordot(z, n.w.T, dims=1),
        lambda n, z, x: torch.linalg.vecdot(z[:, None], n.w),
    ],
)
def test_inner_products_are_layers(function):
    network = init_icnn_(Middle(function, w=matrix()), X)
    assert (network.w >= 0).all()
    signal = network.function(network, F.softplus(network.a(X)), X) + network.b
    assert signal.mean().abs() < 0.01
    assert float(signal.var(0).mean()) == pytest.approx(1.0, abs=0.1)


UNSEEN = {
    "bilinear": lambda n, z, x: F.bilinear(z, ones(z), n.w[:, :, None]),
    "product and sum": lambda n, z, x: (z[:, None] * n.w).sum(-1),
    "sparse": lambda n, z, x: torch.sparse.mm(n.w, z.T).T,
    "chain": lambda n, z, x: torch.linalg.multi_dot([z, n.w, torch.eye(16)]),
    "spectrum": lambda n, z, x: torch.fft.irfft(torch.fft.rfft(z) * torch.fft.rfft(n.w[0]), n=16),
    "three operands": lambda n, z, x: torch.einsum("bi,oi,o->bo", z, n.w, torch.ones(16)),
}


@pytest.mark.parametrize("name", UNSEEN)
def test_what_cannot_be_followed_is_named_by_all(name):
    network = Middle(UNSEEN[name], w=matrix())
    with pytest.raises(ValueError, match=r"initialised\. w \(.*F\.linear.*call=.*layers="):
        init_icnn_(network, X)
    with pytest.raises(ValueError, match=r"step sizes .* w \(.*F\.linear"):
        parameter_groups(network, 1e-3, inputs=X)
    with pytest.raises(ValueError, match=r"kept convex\. w \(.*weights=\[\.\.\.\]"):
        keep_convex(torch.optim.Adam(network.parameters()), network, inputs=X)
    assert "not seen: w (" in check_signal(network, X).note
    assert re.search(r"w: |unknown of w \(", str(is_convex(network, X)).splitlines()[-1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is not convex
        init_icnn_(network, X, layers={"w": {"keep": True}})
    assert torch.equal(network.w, matrix())
    keep_convex(torch.optim.Adam(network.parameters()), network, weights=[network.w], inputs=X)
    assert (network.w >= 0).all()


def test_recurrent_cells_are_refused_and_unknown():
    network = Middle(lambda n, z, x: n.cell(z), cell=nn.GRUCell(16, 16))
    with pytest.raises(ValueError, match=r"cell\.weight_ih \(gru_cell\)"):
        init_icnn_(network, X)
    assert "unknown of cell.weight_ih" in str(is_convex(network, X))


HARMLESS = {
    "shift": (lambda n, z, x: z + n.p, ""),
    "gain": (lambda n, z, x: z * n.p, "p"),
    "gain by a map": (lambda n, z, x: z * n.p.exp(), ""),
    "temperature": (lambda n, z, x: F.softplus(z * n.p) / n.p, "p"),
    "slope": (lambda n, z, x: F.prelu(z, n.p), "p"),
    "normalisation": (lambda n, z, x: F.batch_norm(z, torch.zeros(16), torch.ones(16), n.p), "p"),
    "distances": (lambda n, z, x: z + torch.cdist(x, n.p[:, None].expand(-1, 6)), ""),
    "threshold": (lambda n, z, x: F.relu(z - n.p) ** 2, ""),
    "form": (lambda n, z, x: z + (x @ torch.outer(n.p[:6], n.p[:6]) * x).sum(1)[:, None], ""),
    "ellipsoid": (lambda n, z, x: z + (n.p[:6].exp() * x**2).sum(1)[:, None], ""),
}  # fmt: skip


@pytest.mark.parametrize("name", HARMLESS)
def test_what_scales_shifts_or_bends_is_not_refused(name):
    function, factor = HARMLESS[name]
    network = Middle(function, p=torch.linspace(0.2, 0.8, 16))
    assert not [one for one in find(network, X).unseen if one.is_layer]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        keep_convex(torch.optim.Adam(network.parameters()), network, inputs=X)
    expected = [f"not negative: {factor};"] * bool(factor)
    expected += ["not above 1 either: p (prelu);"] * (name == "slope")
    assert len(caught) == len(expected)
    assert all(part in str(one.message) for part, one in zip(expected, caught, strict=True))


def test_factors_that_stay_as_they_are_are_mentioned():
    network = Middle(lambda n, z, x: z + (z * n.p.exp()).sum(1)[:, None], p=torch.zeros(16))
    with pytest.warns(UserWarning, match=r"before a sum, and stay as they are: p \(mul\)"):
        init_icnn_(network, X)


class Recurrent(nn.Module):
    def __init__(self, start):
        super().__init__()
        self.start, self.w = start, nn.Linear(16, 16, bias=False)
        self.u, self.v = nn.Linear(2, 16), nn.Linear(16, 1)

    def forward(self, x):
        h = self.start(x)
        for t in range(3):
            h = F.relu(self.u(x[:, 2 * t : 2 * t + 2]) + self.w(h))
        return self.v(h)


STARTS = {
    "new_zeros": lambda x: x.new_zeros(len(x), 16),
    "zeros_like": lambda x: torch.zeros_like(x[:, :1]).expand(-1, 16),
    "filled": lambda x: torch.empty_like(x[:, :1]).expand(-1, 16).clone().fill_(0.5),
    "curved": lambda x: torch.zeros_like(x.square()[:, :1].expand(-1, 16)),
}


@pytest.mark.parametrize("name", STARTS)
@pytest.mark.filterwarnings("ignore:the pre-activation of the layer w")
def test_what_is_the_same_in_every_row_is_a_constant(name):
    network = Recurrent(STARTS[name])
    roles = [layer.role for layer in find(network, X).layers if layer.name == "w"]
    assert roles == ["context", "constrained", "constrained"]
    assert "weights negative" in check_signal(network, X).rows[1].verdict
    init_icnn_(network, X)
    assert (network.w.weight >= 0).all()
    assert is_convex(network, X)
    assert not any("negative" in row.verdict for row in check_signal(network, X).rows)


def test_a_unit_that_is_dead_on_these_rows_is_no_constant():
    network = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 1))
    nn.init.constant_(network[0].bias, -100.0)
    roles = [layer.role for layer in find(network, X).layers]
    assert roles == ["free", "constrained", "constrained"]


def test_a_first_layer_that_is_used_again_is_constrained():
    class Again(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.o = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 1)

        def forward(self, x):
            for _ in range(6):
                x = F.softplus(self.b(F.softplus(self.a(x))))
            return self.o(x)

    torch.manual_seed(0)
    network = Again()
    negative = is_convex(network, X).negative_weights
    assert [one.layer for one in negative] == ["a", "b", "o"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        init_icnn_(network, X)
    told = [str(w.message) for w in caught if "set at its first use" in str(w.message)]
    assert len(told) == 1
    uses = check_signal(network, X).rows[2:-1]
    worst = max(uses, key=lambda row: max(abs(row.mean), abs(row.std**2 - 1)))
    assert f"first use: a, b; of later uses one of {worst.layer} is the farthest" in told[0]
    assert f"with the mean {worst.mean:.3g} and the variance {worst.std**2:.3g}" in told[0]
    assert (network.a.weight >= 0).all()
    assert is_convex(network, X)


class Sum(nn.Linear):
    """A weight that is a sum: with ``b`` as it starts it is the first term."""

    def __init__(self, inputs, outputs):
        super().__init__(inputs, outputs)
        self.a = nn.Parameter(torch.randn(2, inputs))
        self.b = nn.Parameter(torch.zeros(outputs, 2))

    def forward(self, z):
        return F.linear(z, self.weight + self.b @ self.a, self.bias)


def test_weights_that_can_become_negative_are_refused():
    network = nn.Sequential(nn.Linear(6, 16), nn.Softplus(), Sum(16, 1))
    nn.init.constant_(network[2].weight, 1.0)
    optimiser = torch.optim.Adam(network.parameters())
    with pytest.raises(ValueError, match=r"2\.weight: its weight becomes negative with 2\.b too"):
        keep_convex(optimiser, network, inputs=X)
    keep_convex(optimiser, network, weights=[network[2].a, network[2].b], inputs=X)


def test_what_makes_a_weight_negative_is_named():
    network = Middle(
        lambda n, z, x: F.linear(z, F.softplus(n.w * n.t) / n.t), w=matrix(), t=torch.ones(1)
    )
    optimiser = torch.optim.Adam(network.parameters())
    with pytest.raises(ValueError, match=r"w: its weight .*negative, with t; .*weights=\[\.\.\.\]"):
        keep_convex(optimiser, network, inputs=X)
    keep_convex(optimiser, network, weights=[network.t], inputs=X)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (torch.linalg.cholesky, "not known, as it cannot be computed from other values of w; "),
        (torch.log, "its weight .*can be negative, with w; "),  # and cannot of negative ones
    ],
)
def test_a_weight_that_cannot_be_computed_from_other_values_is_refused(function, message):
    network = Middle(lambda n, z, x: F.linear(z, function(n.w)), w=3 * torch.eye(16) + 1)
    optimiser = torch.optim.Adam(network.parameters())
    with pytest.raises(ValueError, match=f"w: .*{message}"):
        keep_convex(optimiser, network, inputs=X)


def test_weights_of_weight_norm_are_projected():
    layers = [nn.Linear(6, 16), nn.Softplus()]
    layers += [parametrizations.weight_norm(nn.Linear(16, 16)), nn.Softplus()]
    network = init_icnn_(nn.Sequential(*layers, parametrizations.weight_norm(nn.Linear(16, 1))), X)
    optimiser = torch.optim.SGD(network.parameters(), lr=1.0)
    keep_convex(optimiser, network, inputs=X)
    for sign in (1, -1):
        optimiser.zero_grad()
        (sign * network(X)).mean().backward()
        optimiser.step()
        for layer in (network[2], network[4]):
            assert layer.weight.isfinite().all()
            assert (layer.weight >= 0).all()


def test_a_network_without_layers_of_ours_is_not_projected_in_silence():
    network = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 1))
    with pytest.raises(ValueError, match=r"keep_convex\(optimizer, network, inputs=\.\.\.\)"):
        project_(network)
    for ours in (MLP([6, 4, 1], convex=False), ConvexLinear(4, 1, positivity="exp")):
        assert project_(ours) is ours


def plain(middle):
    return nn.Sequential(nn.Linear(6, 16), nn.Softplus(), middle, nn.Softplus(), nn.Linear(16, 1))


class Recomputed(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = MLP([6, 16, 16, 1])

    def forward(self, x):
        return checkpoint(self.inner, x, use_reentrant=False)


class Mapped(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.w, self.o = nn.Linear(6, 16), nn.Parameter(matrix()), nn.Linear(16, 1)

    def forward(self, x):
        return self.o(F.softplus(torch.vmap(lambda row: self.w @ row)(F.softplus(self.a(x)))))


class MappedLast(Mapped):
    """Seen layers, then one for which no call is seen."""

    def forward(self, x):
        return torch.vmap(self.o)(F.softplus(F.softplus(self.a(x)) @ self.w))


def scripted():
    """A network whose activation torch.jit.script has made."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, and in use
        network = plain(nn.Linear(16, 16))
        network[3] = Called(torch.jit.script(bent))
    return network


def bent(x: torch.Tensor) -> torch.Tensor:
    return torch.where(x > 0, x, 0.1 * x)


class Called(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Detached(nn.Linear):
    def forward(self, z):
        return F.linear(z, self.weight.abs().detach(), self.bias)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (Recomputed(), r"torch\.utils\.checkpoint.*switch them off"),
        (Mapped(), r"that linear uses .*torch\.vmap"),
        (MappedLast(), r"what comes of o is computed .*torch\.vmap"),
        (scripted(), r"that linear uses .*torch\.jit\.script"),
        (nn.Sequential(nn.Linear(6, 16), nn.ReLU(), Detached(16, 1)), "2: it is computed without"),
    ],
)
def test_what_cannot_be_traced_is_said_in_one_message(network, message):
    with pytest.raises(ValueError, match=message):
        init_icnn_(network, X)
    assert is_convex(network, X).pairs > 0


def test_one_unit_of_all_dimensions_is_found():
    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.v = nn.Linear(6, 16), nn.Parameter(torch.randn(4, 4))
            self.c = nn.Parameter(torch.zeros(()))

        def forward(self, x):
            return torch.einsum("bhd,hd->b", F.relu(self.a(x)).view(-1, 4, 4), self.v) + self.c

    network = init_icnn_(Heads(), X)
    assert (network.v >= 0).all()
    assert network(X).mean().abs() < 0.01
    assert float(network(X).var()) == pytest.approx(1.0, abs=0.1)


def test_a_gradient_is_taken_of_inputs_as_the_network_wants_them():
    class Gradient(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Sequential(nn.Linear(6, 16), nn.Softplus(), nn.Linear(16, 1))

        def forward(self, x):
            if not x.requires_grad:
                x = x.detach().requires_grad_()
            return torch.autograd.grad(self.inner(x).sum(), x, create_graph=True)[0]

    network = init_icnn_(Gradient(), X)
    assert [row.layer for row in check_signal(network, X).rows] == ["inner.0", "inner.2"]
    assert parameter_groups(network, 1e-3, inputs=X)


class Named(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(6, 1)

    def forward(self, x, *, scale):
        return self.inner(x) * scale


class Bounded(nn.Linear):
    def forward(self, z):
        return F.linear(z, self.weight.sigmoid(), self.bias)


class Ring(nn.Module):
    """Nodes hand on what they compute to the next one; they are rows, or rows hold all of them."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 16), nn.Linear(16, 1)
        self.register_buffer("source", torch.arange(64).roll(1))

    def forward(self, x):
        return self.last(F.softplus(self.first(x))[..., self.source, :])


@pytest.mark.parametrize(
    ("network", "inputs", "message"),
    [
        (Named(), X, "'scale' .*call=lambda network, x"),
        (Ring(), X, r"16 rows, .* give several inputs, \[graphs, nodes, features\]"),
        (Named(), (X, None), r"inputs\[1\] is None; .*call="),
        (plain(Bounded(16, 16)), X, r"does not reach .* method='moments', rho=0\.9"),
        (
            plain(parametrizations.orthogonal(nn.Linear(16, 16))), X,
            r"does not reach .*remove_parametrizations.*layers={'2': {'keep': True}}",
        ),
    ],
)  # fmt: skip
def test_messages_name_the_next_step(network, inputs, message):
    with pytest.raises(ValueError, match=message):
        init_icnn_(network, inputs)


@pytest.mark.skipif(
    not hasattr(torch.compiler, "set_stance"), reason="torch cannot switch compilation off"
)
def test_compiled_functions_within_a_network_run_as_they_were_written():
    """Compiled beneath the watched calls, what watches them would be compiled too."""
    compiled = []

    def backend(graph, _):
        compiled.append(graph)
        return graph.forward

    networks = []
    for function in (F.softplus, torch.compile(F.softplus, backend=backend)):
        torch.manual_seed(0)
        networks.append(init_icnn_(Activated(function), X, generator=generator()))
    plain_one, other = networks
    assert all(map(torch.equal, plain_one.parameters(), other.parameters()))
    call = torch.compile(lambda network, x: network(x), backend=backend)
    assert [row.layer for row in check_signal(other, X, call=call).rows] == [
        "first", "hidden", "last",
    ]  # fmt: skip
    assert not compiled
    other(X)
    assert compiled


class Activated(nn.Module):
    def __init__(self, activation):
        super().__init__()
        self.activation, self.first = activation, nn.Linear(6, 16)
        self.hidden, self.last = nn.Linear(16, 16), nn.Linear(16, 1)

    def forward(self, x):
        return self.last(self.activation(self.hidden(self.activation(self.first(x)))))


class Columns(nn.Module):
    """Samples are columns, from the first layer to the output."""

    def __init__(self):
        super().__init__()
        sizes = ((16, 6), (16, 16), (1, 16))
        self.weights = nn.ParameterList(0.3 * torch.rand(size) for size in sizes)
        self.biases = nn.ParameterList(torch.zeros(rows, 1) for rows, _ in sizes)

    def forward(self, x):
        z = x.T
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            z = torch.addmm(bias, weight, F.softplus(z) if layer else z)
        return z


def test_an_output_with_rows_in_its_last_dimension_is_to_be_turned():
    torch.manual_seed(0)
    network = Columns()
    with pytest.raises(ValueError, match=r"call=lambda network, \*inputs: network\(\*inputs\).T$"):
        init_icnn_(network, X)
    init_icnn_(network, X, call=lambda network, *inputs: network(*inputs).T)
    assert float(network(X).var()) == pytest.approx(1.0, abs=0.01)


def test_an_output_that_is_to_have_no_bias_makes_no_warning():
    network = nn.Sequential(nn.Linear(6, 16), nn.Softplus(), nn.Linear(16, 1, bias=False))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        init_icnn_(network, X, layers={"2": {"bias": None}})


def test_a_parametrization_that_stays_negative_is_refused():
    network = plain(parametrizations.orthogonal(nn.Linear(16, 16)))
    with pytest.raises(ValueError, match="stays negative after it was set to zero"):
        keep_convex(torch.optim.Adam(network.parameters()), network, inputs=X)


def role_of(network, name):
    return {layer.name: layer.role for layer in find(network, X, 0, None).layers}[name]


@pytest.mark.parametrize("gate", ["parameter", "normalisation"])
def test_a_gate_that_is_zero_makes_no_constant(gate):
    """Residual branches that their author starts at zero."""

    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.l, self.o = nn.Linear(6, 6), nn.Linear(6, 1)
            self.a, self.norm = nn.Parameter(torch.zeros(1)), nn.BatchNorm1d(6)
            nn.init.zeros_(self.norm.weight)

        def forward(self, x):
            branch = F.relu(self.l(x))
            return self.o(x + (self.a * branch if gate == "parameter" else self.norm(branch)))

    assert role_of(Residual(), "o") == "constrained"


@pytest.mark.parametrize(
    "function",
    [
        lambda n, z, x: torch.tensordot(z, n.w.view(16, 4, 4), dims=1).flatten(1),
        lambda n, z, x: torch.linalg.vecdot(z[:, :, None], n.w, dim=1),
    ],
)
def test_products_over_other_dimensions_are_not_taken_for_layers(function):
    network = Middle(function, w=matrix())
    assert "w" not in {layer.parameter for layer in find(network, X, 0, None).layers}


def test_a_layer_is_kept_whatever_else_is_said_of_it():
    network = plain(nn.Linear(16, 16))
    names = {layer.parameter: layer.name for layer in find(network, X, 0, None).layers}
    parameter, name = list(names.items())[1]
    before = network.get_parameter(parameter).clone()
    init_icnn_(network, X, layers={name: {"keep": True}, parameter: {"bias": None}})
    assert torch.equal(network.get_parameter(parameter), before)


def test_a_network_that_cannot_be_projected_is_as_before_and_its_layer_named():
    network = plain(parametrizations.orthogonal(nn.Linear(16, 16)))
    before = [parameter.clone() for parameter in network.parameters()]
    with pytest.raises(ValueError, match=r"2: .*stays negative"):
        keep_convex(torch.optim.Adam(network.parameters()), network, inputs=X)
    assert all(map(torch.equal, before, network.parameters()))


def test_what_the_error_says_to_keep_is_all_there_is():
    network = Middle(lambda n, z, x: n.rnn(z[:, None])[0][:, 0], rnn=nn.RNN(16, 16))
    with pytest.raises(ValueError, match="cannot be followed") as error:
        init_icnn_(network, X)
    said = str(error.value).split("layers=")[1]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it is not convex
        init_icnn_(network, X, layers=eval(said))


def test_the_precision_that_differs_is_named():
    network = nn.Bilinear(6, 6, 1)
    with pytest.raises(ValueError, match=r"torch.float32, the inputs torch.float64: convert"):
        init_icnn_(network, (X, X.double()))


def huber(x):
    """Half of the square of the positive part, linear from 1 on, written part by part."""
    result = torch.zeros_like(x)
    middle = (x > 0) & (x < 1)
    result[middle] = x[middle].square() / 2
    result[x >= 1] = x[x >= 1] - 0.5
    return result


def clipped(weight):
    result = weight.clone()
    result[result < 0] = 0
    return result


def test_what_is_assigned_part_by_part_is_followed():
    network = Middle(
        lambda n, z, x: huber(F.linear(z, clipped(n.h.weight), n.h.bias)), h=nn.Linear(16, 16)
    )
    init_icnn_(network, X)
    rows = check_signal(network, X).rows
    assert [(row.layer, row.map) for row in rows][1] == ("h", "clip")
    assert [row.std for row in rows] == pytest.approx([1.0] * len(rows), abs=0.01)
    assert is_convex(network, X)


class Transposed(nn.Module):
    """A hidden layer of 12 units with a skip connection, ``function(features, w, bias, skip)``."""

    def __init__(self, function, weight, bias):
        super().__init__()
        torch.manual_seed(0)
        self.function, self.first, self.last = function, nn.Linear(6, 16), nn.Linear(12, 1)
        self.weight, self.bias = nn.Parameter(torch.rand(weight)), nn.Parameter(torch.rand(bias))
        self.skip = nn.Linear(6, 12, bias=False)

    def forward(self, x):
        features, skip = F.softplus(self.first(x)), lambda: self.skip(x)
        z = F.softplus(self.function(features, self.weight, self.bias, skip))
        return self.last(z.reshape(len(x), 12))


@pytest.mark.parametrize(
    ("function", "weight", "bias"),
    [
        (lambda z, w, b, skip: ((z @ w).T + b[:, None]).T, (16, 12), 12),
        (lambda z, w, b, skip: (w @ z.T).T + b, (12, 16), 12),
        (lambda z, w, b, skip: (2 * (w @ z.T)).t() + b + skip(), (12, 16), 12),
        (lambda z, w, b, skip: (w @ z.T).transpose(0, 1).view(-1, 3, 4) + b, (12, 16), (3, 4)),
        (
            lambda z, w, b, skip: F.conv2d(z.view(-1, 1, 4, 4), w).permute(0, 2, 3, 1) + b
            + 9 * skip().view(-1, 2, 2, 3),
            (3, 1, 3, 3), 3,
        ),
    ],
)  # fmt: skip
@pytest.mark.parametrize("method", ["moments", "orthogonal"])
def test_a_bias_that_is_added_after_a_transposition_is_found(function, weight, bias, method):
    network = Transposed(function, weight, bias)
    init_icnn_(network, X, method=method)
    rows = {row.layer: row for row in check_signal(network, X).rows}
    assert rows["weight"].bias == "bias"
    assert [row.mean for row in rows.values()] == pytest.approx([0.0] * 3, abs=0.02)
    assert [row.std for row in rows.values()] == pytest.approx([1.0] * 3, abs=0.02)
    assert is_convex(network, X)


def test_parts_that_a_network_does_not_use_hide_nothing():
    network = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU())
    network.add_module("unused", nn.Linear(3, 3))

    def call(network, x):
        return torch.vmap(lambda row: row.sum())(network[:4](x))

    init_icnn_(network, X, call=call, generator=generator())


def test_networks_that_hold_a_number_for_every_row_are_told_so():
    network = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 1))
    network.register_buffer("offset", torch.ones(len(X), 1))
    with pytest.raises(ValueError, match=rf"called with {len(X)} rows, but not with 16 of them"):
        init_icnn_(network, X, call=lambda n, x: n(x) + n.offset)
