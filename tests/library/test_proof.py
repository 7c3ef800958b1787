"""Networks that are proven to be convex by the functions that they call."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from convexinit import filling, init_icnn_, is_convex, keep_convex
from convexinit.evaluation import as_tuple, convex_columns, first_of
from convexinit.finding import find
from convexinit.proof import is_proven_convex
from support.foreign_networks import FOREIGN

X = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """Two layers with an activation, and what is made of their result, features and inputs."""

    def __init__(self, activation=F.softplus, end=lambda network, y, z, x: y):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(6, 16), nn.Linear(16, 1)
        self.free = nn.Linear(6, 1)
        self.gain = nn.Parameter(torch.ones(1))
        self.register_buffer("offset", torch.ones(1))
        self.register_buffer("minus", -torch.ones(1))
        self.activation, self.end = activation, end
        with torch.no_grad():
            self.last.weight.abs_()

    def forward(self, x, u=None):
        z = self.activation(self.first(x))
        return self.end(self, self.last(z), z, x if u is None else u)


def proven(network, inputs=X, convex=0):
    return still_proven(network, find(network, inputs, convex), inputs, convex)


def still_proven(network, found, inputs=X, convex=0):
    known = {id(t) for t in (*network.parameters(), *network.buffers())}
    columns = convex_columns(convex, as_tuple(inputs))
    return is_proven_convex(found.trace, first_of(found.output), known, columns)


class Negated(torch.autograd.Function):
    """A function whose calls cannot be seen."""

    @staticmethod
    def forward(ctx, x):
        return -F.relu(x).sum(1, keepdim=True)

    @staticmethod
    def backward(ctx, gradient):
        return None


def in_place_of_a_view(network, y, z, x):
    part = y[:, :1]
    part.neg_()
    return y


def changed_after_it_was_read(network, y, z, x):
    skip = network.free(x)
    before = skip * -1
    return y + before + skip.relu_()


def changed_while_a_view_is_kept(network, y, z, x):
    skip = network.free(x)
    part = skip[:, :1]
    skip.contiguous().relu_()
    return y - part


def changed_in_inference_mode(network, y, z, x):
    with torch.inference_mode():
        skip = network.free(x)
        skip[:, :1].relu_()
        return -skip


def weight_changed_after_it_was_read(network, y, z, x):
    weight = network.last.weight.exp()
    transposed = weight.t()
    weight.neg_()
    return z @ transposed


def part_of_a_weight_changed(network, y, z, x):
    weight = -network.last.weight.exp()
    weight[:, :1].neg_()
    return F.linear(z, weight)


def assigned(network, y, z, x):
    y[:, 0] = -z[:, 0]
    return y


def normalised(signal, scale):
    """With statistics that stay as they are."""
    size = signal.shape[1]
    return F.batch_norm(signal, torch.zeros(size), torch.ones(size), scale, torch.ones(size))


def branching(network, y, z, x):
    return y if y.sum() > 0 else -y


@pytest.mark.parametrize(
    "end",
    [
        lambda network, y, z, x: y + network.free(x),
        lambda network, y, z, x: 2 * y - x[:, :1] + (1 - x).sum(1, keepdim=True) / 3,
        lambda network, y, z, x: y * F.softplus(network.gain - 5) / network.offset,
        lambda network, y, z, x: y * network.gain + network.minus * x[:, :1],
        lambda network, y, z, x: torch.cat([z, y, -x], 1).sum(1, keepdim=True),
        lambda network, y, z, x: y + x.square().sum(1, keepdim=True) + (x * x).mean(1)[:, None],
        lambda network, y, z, x: y + network.free(x) ** 2 + F.leaky_relu(x[:, :1], 0.3) ** 2,
        lambda network, y, z, x: y + z.square().amax(1, keepdim=True) + x.abs()[:, :1],
        lambda network, y, z, x: torch.logsumexp(torch.stack([y, x[:, :1]]), 0).clamp(min=-1.0),
        lambda network, y, z, x: F.relu(y, inplace=True),
        lambda network, y, z, x: torch.maximum(y, x[:, :1]) + torch.max(y, -x[:, :1]),
        lambda network, y, z, x: F.pad(z[:, None], (1, 1), "circular").sum(2) - F.pad(x, (1, 0)),
        lambda network, y, z, x: F.pad(F.avg_pool1d(z[:, None], 2), (1, 1), value=-1.0)[:, 0],
        lambda network, y, z, x: F.adaptive_avg_pool2d(z[:, None, None], 1).flatten(1),
        lambda network, y, z, x: F.max_pool1d(z[:, None], 2).sum(2) + y,
        lambda network, y, z, x: y + torch.norm(x, dim=1, keepdim=True) ** 2,
        lambda network, y, z, x: y + torch.linalg.vector_norm(x, 1, dim=1)[:, None],
        lambda network, y, z, x: (
            normalised(z, torch.ones(16)) + normalised(-x, -torch.ones(6))[:, :1]
        ),
        lambda network, y, z, x: F.dropout(y.exp(), training=False),
        lambda network, y, z, x: (y, z),
    ],
)
def test_convex_functions_are_proven(end):
    network = Net(end=end)
    assert proven(network)
    assert is_convex(network, X)


@pytest.mark.parametrize(
    "end",
    [
        lambda network, y, z, x: -y,
        lambda network, y, z, x: x[:, :1] - y,
        lambda network, y, z, x: y - z,
        lambda network, y, z, x: y - y * 2,
        lambda network, y, z, x: torch.add(y, z.sum(1, keepdim=True), alpha=-1),
        lambda network, y, z, x: 1 - y,
        lambda network, y, z, x: -2 * y,
        lambda network, y, z, x: 2 / (y + 5),
        lambda network, y, z, x: y / -network.gain,
        lambda network, y, z, x: y * network.minus,
        lambda network, y, z, x: y * x[:, :1],
        lambda network, y, z, x: y * z,
        lambda network, y, z, x: torch.mul(input=F.softplus(y), other=network.minus),
        lambda network, y, z, x: (y - 9) * (y - 9),
        lambda network, y, z, x: (y - 9) ** 2,
        lambda network, y, z, x: (y - 9).abs(),
        lambda network, y, z, x: y + x**3,
        lambda network, y, z, x: torch.minimum(y, x[:, :1]),
        lambda network, y, z, x: torch.maximum(y, x[:, :1]) - torch.maximum(y, x[:, 1:2]),
        lambda network, y, z, x: F.avg_pool2d(z[:, None, None], (1, 2), divisor_override=-1),
        lambda network, y, z, x: F.pad(z[:, None], (1, 1), "circular").sum(2) * -1,
        lambda network, y, z, x: y + torch.norm(x, p=0.5, dim=1, keepdim=True),
        lambda network, y, z, x: torch.linalg.vector_norm(z - 2, dim=1)[:, None],
        lambda network, y, z, x: normalised(z, -torch.ones(16)),
        lambda network, y, z, x: torch.batch_norm(
            z,
            -torch.ones(16),
            torch.zeros(16),
            torch.zeros(16),
            torch.ones(16),
            False,
            0.1,
            1e-5,
            False,
        ),
        lambda network, y, z, x: F.batch_norm(z, None, None, training=True),
        lambda network, y, z, x: y.clamp(max=0.1),
        lambda network, y, z, x: z.softmax(1),
        lambda network, y, z, x: torch.where(y > 0, y, -y),
        lambda network, y, z, x: z.gather(1, z.argmax(1, keepdim=True)),
        lambda network, y, z, x: (10 * y).to(torch.int64).to(y.dtype),
        lambda network, y, z, x: y + Negated.apply(x.detach()),
        lambda network, y, z, x: y - torch.tensor(y.detach().numpy()),
        lambda network, y, z, x: y * float(-y[0]),
        lambda network, y, z, x: y * float(network.gain),
        lambda network, y, z, x: y if network.last.weight.mean() > 0 else -y,
        # As good as affine where the trace looks.
        lambda network, y, z, x: y - x.clamp(min=-50.0),
        lambda network, y, z, x: y - x.clamp(min=1e4),
        lambda network, y, z, x: y - F.softplus(x, beta=1e-3),
        lambda network, y, z, x: y - F.leaky_relu(x, 0.9999),
        lambda network, y, z, x: torch._C._nn.elu(y, 1.0, -1.0),
        lambda network, y, z, x: y.view(torch.float16).to(y.dtype),
        lambda network, y, z, x: torch.addmm(network.last.bias, z, network.last.weight.T, beta=2),
        branching,
        in_place_of_a_view,
        changed_while_a_view_is_kept,
        changed_in_inference_mode,
        weight_changed_after_it_was_read,
        part_of_a_weight_changed,
        changed_after_it_was_read,
        assigned,
    ],
)
def test_other_functions_are_not(end):
    assert not proven(Net(end=end))


@pytest.mark.parametrize(
    ("activation", "holds"),
    [
        (F.softplus, True), (lambda s: F.softplus(s, beta=10), True), (F.elu, True),
        (lambda s: F.elu(s, 2.0), False), (lambda s: F.celu(s, 2.0), True), (F.selu, False),
        (lambda s: F.leaky_relu(s, 2.0), False), (lambda s: F.leaky_relu(s, -0.1), False),
        (F.gelu, False), (torch.sigmoid, False), (lambda s: F.softplus(s, 1.0, 0.0), False),
        (lambda s: F.softplus(s, beta=-1), False),
        (lambda s: F.relu(s) ** 2, True), (lambda s: F.elu(s) ** 2, False),
        (lambda s: F.leaky_relu(s, 0.2) ** 2, True), (torch.abs, True), (F.relu6, False),
    ],
)  # fmt: skip
def test_activations(activation, holds):
    assert proven(Net(activation)) is holds


@pytest.mark.parametrize(
    ("end", "name"),
    [
        (lambda network, y, z, x: y, "last.weight"),
        (lambda network, y, z, x: F.linear(z, (network.gain * 2).expand(1, 16)), "gain"),
    ],
)
def test_weights_are_those_of_now(end, name):
    network = Net(end=end)
    found = find(network, X)
    assert still_proven(network, found)
    with torch.no_grad():
        network.get_parameter(name)[..., 0] = -1.0
    assert not still_proven(network, found)


def kept_view(u):
    gate = torch.sigmoid(u)
    view = gate.view(-1, 1)
    gate.neg_()
    return view


@pytest.mark.parametrize(
    ("gate", "holds"), [(F.softplus, True), (lambda u: 2 * torch.sigmoid(u).mean(1)[:, None], True),
                        (torch.tanh, False), (lambda u: F.relu(u) - 1, False), (kept_view, False),
                        (lambda u: F.softplus(u, beta=-1), False),
                        (lambda u: F.softplus(u, threshold=-5.0), False)],
)  # fmt: skip
def test_gates(gate, holds):
    network = Net(end=lambda network, y, z, u: y * gate(u))
    assert proven(network, (X, X[:, :1].flip(0)), convex=0) is holds


@pytest.mark.parametrize("columns", [slice(1, None), [1, 2, 3, 4, 5], slice(None), [0, 1]])
def test_features_that_are_rare_are_no_context(columns):
    inputs = X.clone()
    inputs[:16, 0] = 0  # all that is traced
    holds = columns in (slice(1, None), [1, 2, 3, 4, 5])
    gated = Net(end=lambda network, y, z, x: y * torch.sigmoid(x[:, :1]))
    assert proven(gated, inputs, {0: columns}) is holds
    assert bool(is_convex(gated, inputs, {0: columns})) is holds


def test_what_stands_beside_convex_arguments_may_be_a_gate():
    def gated(network, y, z, x):
        return y * F.softplus(torch.cat([x, network.gain.expand(len(x), 1)], 1)[:, 6:])

    assert proven(Net(end=gated))


class Modulated(Net):
    """A network whose gate does not depend on the inputs before it is initialised."""

    def __init__(self):
        super().__init__()
        self.modulation = nn.Linear(6, 2)
        with torch.no_grad():
            self.modulation.weight.copy_(torch.tensor([[0.0], [1.0]]))
            self.modulation.bias.zero_()

    def forward(self, x):
        gate, shift = self.modulation(x).chunk(2, 1)
        return super().forward(x) * F.softplus(gate) + shift


def test_a_layer_of_zeros_is_no_context():
    network = Modulated()
    assert not proven(network)
    with pytest.warns(UserWarning, match="not convex in argument 0"):
        init_icnn_(network, X)


@pytest.mark.parametrize("activation", [nn.SiLU, nn.GELU, nn.Mish])
def test_activations_that_are_convex_at_most_points_are_named(activation):
    torch.manual_seed(0)
    made = (nn.Sequential(nn.Linear(16, 16), activation()) for _ in range(3))
    network = nn.Sequential(nn.Linear(6, 16), activation(), *made, nn.Linear(16, 1))
    named = f"{activation.__name__.lower()} is not convex everywhere"
    with pytest.warns(UserWarning, match=named):
        init_icnn_(network, X, mean=50.0)
    with pytest.warns(UserWarning, match=named):
        keep_convex(torch.optim.SGD(network.parameters(), 0.1), network, inputs=X)


LEFT_TO_VALUES = {"branching", "invariants"}


@pytest.mark.parametrize("name", sorted(FOREIGN))
@pytest.mark.filterwarnings("ignore")
def test_values_are_looked_at_only_where_there_is_no_proof(name, monkeypatch):
    tested = []
    monkeypatch.setattr(filling, "not_convex", lambda *_: tested.append(name) or [])
    kind = FOREIGN[name]
    torch.manual_seed(0)
    init_icnn_(kind.build(kind.depth), kind.inputs(64, 0), **kind.options)
    assert bool(tested) is (name in LEFT_TO_VALUES)
