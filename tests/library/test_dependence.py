"""Which functions of the inputs are affine, constant or curved, whatever their data type."""

import itertools
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from convexinit import check_signal, init_icnn_, keep_convex
from convexinit.finding import find, find_layers
from support.networks import generator

TYPES = [torch.float32, torch.float64, torch.bfloat16]


def images(rows=64, seed=0):
    return torch.randn(rows, 2, 4, 4, generator=generator(seed))


X = images()
KERNEL = torch.randn(3, 2, 3, 3, generator=generator(7))
MEAN, VARIANCE = torch.tensor([0.3, -1.7]), torch.tensor([0.9, 2.3])
MIXING = torch.randn(32, 5, generator=generator(8))


def convolved(x):
    return F.conv2d(x, KERNEL.to(x.dtype))


def assigned(x):
    result = torch.empty_like(x)
    result[:, 0], result[:, 1] = 3 * x[:, 1], 1
    return result


AFFINE = {
    "identity": lambda x: x,
    "centred rows": lambda x: x - x.mean((1, 2, 3), keepdim=True),
    "negative": lambda x: -x,
    "neg": torch.neg,
    "both signs": lambda x: torch.cat([x, -x], 1),
    "stack": lambda x: torch.stack([x, 0.3 * x], 1),
    "normalised": lambda x: F.batch_norm(x, MEAN.to(x.dtype), VARIANCE.to(x.dtype)),
    "padded": lambda x: F.pad(x, (1, 1, 1, 1), value=0.3),
    "sum": lambda x: x.sum(2),
    "mean": lambda x: x.mean((2, 3)),
    "mean of a convolution": lambda x: convolved(x).mean((2, 3)),
    "pooled": lambda x: F.avg_pool2d(x, 3, 1),
    "interpolated": lambda x: F.interpolate(x, scale_factor=2, mode="bilinear"),
    "cumulated": lambda x: x.cumsum(2),
    "differences": lambda x: x.diff(dim=3),
    "rolled": lambda x: x.roll(1, 2),
    "flipped": lambda x: x.flip(3),
    "moved on": lambda x: torch.lerp(x, x.flip(2), 0.3),
    "scaled by channel": lambda x: torch.addcmul(MEAN.to(x)[:, None, None], x, torch.ones_like(x)),
    "masked": lambda x: x.masked_fill(torch.ones(4, 4).triu().bool(), 0.1),
    "lower triangle": torch.tril,
    "assigned": assigned,
    "moved by noise": lambda x: x + torch.rand_like(x),
}
CURVED = {
    "softplus": F.softplus,
    "leaky": lambda x: F.leaky_relu(x, 0.9),
    "relu": F.relu,
    "square": lambda x: x * x,
    "absolute values": torch.abs,
    "normalised rows": lambda x: F.layer_norm(x, x.shape[1:]),
    "exp": lambda x: (0.3 * x).exp(),
    "rounded": torch.round,
    "softmax": lambda x: x.softmax(1),
    "largest": lambda x: x.amax((2, 3)),
    "norm": lambda x: x.norm(dim=1),
    "product of halves": lambda x: x[:, :1] * x[:, 1:],
    "logistic": torch.sigmoid,
    "cut": lambda x: x.clamp(-1, 1),
    "gated": lambda x: x * (x > 0),
    "noisy square": lambda x: (x + torch.zeros_like(x)).square(),
}


class After(nn.Module):
    """A network that reads a function of its inputs."""

    def __init__(self, function, dtype=torch.float32, inputs=X):
        super().__init__()
        torch.manual_seed(0)
        self.function = function
        features = self.function(inputs.to(dtype)).flatten(1).shape[1]
        self.first, self.hidden = nn.Linear(features, 16), nn.Linear(16, 1)
        self.to(dtype)

    def forward(self, x):
        return self.hidden(F.softplus(self.first(self.function(x).flatten(1))))


def roles_after(function, dtype=torch.float32, inputs=X):
    layers = find_layers(After(function, dtype, inputs), inputs.to(dtype))
    return {layer.name: layer.role for layer in layers}


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("name", AFFINE)
def test_layers_that_read_affine_functions_are_free(name, dtype):
    assert roles_after(AFFINE[name], dtype) == {"first": "free", "hidden": "constrained"}


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("name", CURVED)
def test_layers_that_read_curved_functions_are_constrained(name, dtype):
    assert roles_after(CURVED[name], dtype) == {"first": "constrained", "hidden": "constrained"}


def test_a_free_layer_after_an_affine_function_is_not_clamped():
    network = After(AFFINE["centred rows"], torch.float64)
    before = network.first.weight.detach().clone()
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1)
    keep_convex(optimiser, network, inputs=X.double()).remove()
    assert torch.equal(network.first.weight, before)
    assert (network.hidden.weight >= 0).all()


CONSTANTS = {
    "to the type of": lambda value, x: value.type_as(x),
    "like": lambda value, x: value.to(x),
    "new": lambda value, x: x.new_tensor(value.tolist()),
    "expanded": lambda value, x: value.to(x.dtype).expand_as(x.flatten(1)),
    "above zeros": lambda value, x: torch.zeros_like(x.flatten(1)) + value.to(x.dtype),
    "full": lambda value, x: torch.full_like(x.flatten(1), float(value[0])),
    "one number": lambda value, x: value[3].to(x),
    "padded": lambda value, x: F.pad(value[1:].to(x), (1, 0), value=1.0),
}


@pytest.mark.parametrize("dtype", TYPES, ids=str)
@pytest.mark.parametrize("name", CONSTANTS)
def test_constants_that_are_brought_to_the_inputs_are_constants(name, dtype):
    mean, deviation = torch.linspace(-2.0, 3.0, 32), torch.linspace(0.5, 3.0, 32)

    def standardised(x):
        brought = CONSTANTS[name]
        return (x.flatten(1) - brought(mean, x)) / brought(deviation, x)

    assert roles_after(standardised, dtype) == {"first": "free", "hidden": "constrained"}


def test_constants_beside_other_arguments_are_constants():
    class Beside(After):
        def forward(self, x, context):
            return super().forward(x.flatten(1) * torch.linspace(1, 2, 32).to(context))

    network = Beside(AFFINE["identity"])
    layers = find_layers(network, (X, torch.randn(64, 3, generator=generator(1))))
    assert [layer.role for layer in layers] == ["free", "constrained"]


class Brought(nn.Module):
    """All parameters are brought to the type of the inputs before use."""

    def __init__(self, units=24):
        super().__init__()
        sizes = [(6, units), (units, units), (units, 1)]
        self.weights = nn.ParameterList(nn.Parameter(0.1 * torch.randn(s)) for s in sizes)
        self.biases = nn.ParameterList(nn.Parameter(torch.zeros(s[1])) for s in sizes)
        self.register_buffer("mean", torch.randn(6))

    def forward(self, x):
        z = x - self.mean.type_as(x)
        first = True
        for weight, bias in zip(self.weights, self.biases, strict=True):
            weight = weight.type_as(x)
            z = (z if first else F.softplus(z)) @ (weight if first else F.softplus(weight))
            z, first = z + bias.to(x), False
        return z


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_networks_that_bring_their_parameters_to_the_inputs_are_initialised(dtype):
    torch.manual_seed(0)
    network = Brought()
    x, fresh = (torch.randn(2048, 6, generator=generator(n)).to(dtype) for n in (0, 1))
    assert [layer.role for layer in find_layers(network, x)] == ["free"] + ["constrained"] * 2
    init_icnn_(network, x, generator=generator(2))
    assert (network.weights[0] < 0).any()
    assert float(network(fresh).detach().var()) == pytest.approx(1.0, rel=0.15)
    assert [layer.layer for layer in check_signal(network, x).rows] == [
        f"weights.{n}" for n in range(3)
    ]
    before = network.weights[0].detach().clone()
    keep_convex(torch.optim.SGD(network.parameters(), lr=0.1), network, inputs=x).remove()
    assert torch.equal(network.weights[0], before)


@pytest.mark.parametrize("value", [0.0, 1.0])
@pytest.mark.parametrize("trained", [True, False])
def test_gates_that_are_zero_now_make_no_constants(value, trained):
    gate = nn.Parameter(torch.tensor(value), requires_grad=trained)
    assert roles_after(lambda x: F.softplus(x) * gate)["first"] == "constrained"
    assert roles_after(lambda x: F.softplus(x.detach()) * gate)["first"] == "constrained"
    assert roles_after(lambda x: x * gate)["first"] == "free"


def test_bounds_that_hold_everything_now_make_no_constants_nor_lines():
    low, high = torch.tensor(40.0), torch.tensor(50.0)
    for function in (lambda x: x.clamp(min=50.0), lambda x: x.clamp(low, high)):
        assert roles_after(function)["first"] == "constrained"
        assert roles_after(lambda x, f=function: f(F.softplus(x)))["first"] == "constrained"


@pytest.mark.parametrize("size", [1.0, 1e3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_what_bends_where_the_signal_is_is_curved(size, dtype):
    def nearly_straight(x):
        return F.softplus(size * x, beta=0.01)

    role = "constrained" if size > 1 else "free"
    assert roles_after(nearly_straight, dtype)["first"] == role
    assert roles_after(lambda x: size * x - (size * x).mean(), dtype)["first"] == "free"
    assert roles_after(lambda x: torch.cat([1e30 * x, -x], 1), dtype)["first"] == "free"
    assert roles_after(lambda x: 1e30 * x.sum(1).flip(1), dtype)["first"] == "free"


class Readout(nn.Module):
    """A sum or mean over the positions of convolutions."""

    def __init__(self, read, side, channels):
        super().__init__()
        self.read = read
        self.first = nn.Conv2d(2, channels, 3, padding=1)
        self.last = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        return self.read(self.last(F.relu(self.first(x))))


def test_sums_are_found_though_some_rows_are_rounded_to_the_same_sum():
    torch.manual_seed(0)
    network = Readout(lambda z: z.sum((1, 2, 3)), 8, 1).bfloat16()
    lost = []
    for height, width in itertools.product(range(5, 10), range(5, 25)):
        x = torch.randn(16, 2, height, width, generator=generator(0)).bfloat16()
        lost += [(height, width)] * (not find(network, x).pre_activations[-1].summed)
    assert not lost


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("side", [5, 12])
@pytest.mark.parametrize("read", ["sum", "mean"])
@pytest.mark.parametrize("by_channel", [True, False])
@pytest.mark.parametrize("dtype", TYPES, ids=str)
def test_sums_over_positions_are_found_in_every_data_type(dtype, by_channel, read, side, seed):
    dimensions = (2, 3) if by_channel else (1, 2, 3)
    torch.manual_seed(seed)
    network = Readout(lambda z: getattr(z, read)(dimensions), side, 8).to(dtype)
    x, fresh = (
        torch.randn(1024, 2, side, side, generator=generator(seed + n)).to(dtype) for n in (0, 100)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        init_icnn_(network, x, generator=generator(seed))
    output = network(fresh).detach().double()
    assert float(output.var(0).mean()) == pytest.approx(1.0, rel=0.2)
