"""Small input-convex networks in the habits of many authors, none built from this library.

One of every kind that people publish, each at any depth: ``FOREIGN[name](depth)`` gives the network
and the inputs that it takes.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

WIDTH = 48
INPUTS = 6


class TransportPotential(nn.Module):
    """Plain linear layers without bias; the biases are in skip layers that are registered first."""

    def __init__(self, depth: int, activation: Callable[[Tensor], Tensor] = F.softplus) -> None:
        super().__init__()
        self.activation = activation
        widths = [WIDTH] * depth + [1]
        self.wx = nn.ModuleList(nn.Linear(INPUTS, width) for width in widths)
        self.wz = nn.ModuleList(nn.Linear(WIDTH, width, bias=False) for width in widths[1:])

    def forward(self, x: Tensor) -> Tensor:
        z = self.activation(self.wx[0](x))
        for convex, skip in zip(self.wz[:-1], self.wx[1:-1], strict=True):
            z = self.activation(convex(z) + skip(x))
        return self.wz[-1](z) + self.wx[-1](x)


class SquaredStart(nn.Module):
    """The first activation and the last skip are squared; weights are uniform above zero."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.first = nn.Linear(INPUTS, WIDTH)
        self.skips = nn.ModuleList(nn.Linear(INPUTS, WIDTH) for _ in range(depth - 1))
        self.convex = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(depth - 1))
        self.out = nn.Linear(WIDTH, 1, bias=False)
        self.last_skip = nn.Linear(INPUTS, 1)
        for layer in [*self.convex, self.out]:
            nn.init.uniform_(layer.weight, 0, 0.1)

    def forward(self, x: Tensor) -> Tensor:
        z = F.leaky_relu(self.first(x), 0.2).pow(2)
        for layer, skip in zip(self.convex, self.skips, strict=True):
            z = F.leaky_relu(layer(z) + skip(x), 0.2)
        return self.out(z) + self.last_skip(x) ** 2


class Quadratic(nn.Module):
    """A low-rank quadratic form and a linear one for each output."""

    def __init__(self, inputs: int, outputs: int, rank: int = 2) -> None:
        super().__init__()
        self.factor = nn.Parameter(torch.randn(inputs, rank, outputs))
        self.weight = nn.Parameter(torch.randn(outputs, inputs))
        self.bias = nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        squares = x.matmul(self.factor.transpose(1, 0)).transpose(1, 0).pow(2).sum(1)
        return squares + F.linear(x, self.weight, self.bias)


class QuadraticSkips(nn.Module):
    """Quadratic first layer and skips, CELU, narrow Gaussian convex weights."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.quadratic_layers = nn.ModuleList(Quadratic(INPUTS, WIDTH) for _ in range(depth))
        self.convex_layers = nn.ModuleList(
            nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(depth - 1)
        )
        self.final_layer = nn.Linear(WIDTH, 1, bias=False)
        for layer in [*self.convex_layers, self.final_layer]:
            nn.init.normal_(layer.weight, 0.01, 0.002)

    def forward(self, x: Tensor) -> Tensor:
        z = F.celu(self.quadratic_layers[0](x))
        for convex, skip in zip(self.convex_layers, self.quadratic_layers[1:], strict=True):
            z = F.celu(convex(z) + skip(x))
        return self.final_layer(z)


class LinearStart(nn.Module):
    """No activation after the first layer; batches are scaled before it; dropout; in-place ReLU."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.embed = nn.Linear(INPUTS, WIDTH)
        self.blocks = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(depth - 1))
        self.relu, self.dropout = nn.ReLU(inplace=True), nn.Dropout(0.1)
        self.head = nn.Linear(WIDTH, 1)
        for layer in [*self.blocks, self.head]:
            nn.init.uniform_(layer.weight, 0, 1 / WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        z = self.embed((x - 0.1) / 1.3)
        for block in self.blocks:
            z = self.dropout(self.relu(block(z)))
        return self.head(z).squeeze(-1)


class MappedLinear(nn.Module):
    """A linear layer whose weights are a function of raw ones, in its own forward pass."""

    def __init__(
        self, inputs: int, outputs: int, weight_of: Callable[[Tensor], Tensor], bias: bool = True
    ) -> None:
        super().__init__()
        self.raw = nn.Parameter(torch.empty(outputs, inputs))
        nn.init.kaiming_uniform_(self.raw, a=math.sqrt(5))
        self.bias = nn.Parameter(torch.zeros(outputs)) if bias else None
        self.weight_of = weight_of

    @property
    def weight(self) -> Tensor:
        return self.weight_of(self.raw)

    def forward(self, z: Tensor) -> Tensor:
        return F.linear(z, self.weight, self.bias)


class DividedLinear(MappedLinear):
    """Weights and bias are divided by the number of inputs."""

    def forward(self, z: Tensor) -> Tensor:
        return (z @ F.softplus(self.raw).T + self.bias) / self.raw.shape[1]


class SizedLinear(MappedLinear):
    """Weights and bias are divided by the size that the input turns out to have."""

    def forward(self, z: Tensor) -> Tensor:
        gain = 1 / z.size(1)
        return F.linear(z, F.softplus(self.raw), self.bias) * gain


def mapped(
    weight_of: Callable[[Tensor], Tensor], layer: type[MappedLinear] = MappedLinear
) -> Callable[[int], nn.Module]:
    """A plain network of mapped layers."""

    def build(depth: int) -> nn.Module:
        layers: list[nn.Module] = [nn.Linear(INPUTS, WIDTH), nn.Softplus()]
        for _ in range(depth - 1):
            layers += [layer(WIDTH, WIDTH, weight_of), nn.Softplus()]
        return nn.Sequential(*layers, layer(WIDTH, 1, weight_of))

    return build


class Hidden(nn.Module):
    """``forward(self, *inputs)`` of a first and a last layer, and of what else is given."""

    def __init__(self, forward: Callable[..., Tensor], width: int = 16, **parts: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.function = forward
        self.first, self.last = nn.Linear(INPUTS, width), nn.Linear(width, 1)
        for name, part in parts.items():
            setattr(self, name, nn.Parameter(part) if isinstance(part, Tensor) else part)

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.function(self, *inputs)


class ParameterLists(nn.Module):
    """Critic: parameters in lists, stored as ``[in, out]``; clamped in the forward pass."""

    def __init__(self, depth: int, clamped: bool = False) -> None:
        super().__init__()
        widths = [WIDTH] * depth + [1]
        self.clamped = clamped
        self.from_x = nn.ParameterList(torch.randn(INPUTS, w) / INPUTS**0.5 for w in widths)
        self.from_z = nn.ParameterList(torch.rand(WIDTH, w) for w in widths[1:])
        self.shifts = nn.ParameterList(torch.zeros(w) for w in widths)

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        x = torch.cat([state, action], -1)
        z = x @ self.from_x[0] + self.shifts[0]
        for k, weight in enumerate(self.from_z, 1):
            if self.clamped:
                weight.data.clamp_(min=0)
            z = torch.relu(z)
            z = z @ weight
            z += x @ self.from_x[k]
            z = z + self.shifts[k]
        return z


class NonNegative(nn.Module):
    """Parametrization with an inverse."""

    def forward(self, raw: Tensor) -> Tensor:
        return F.softplus(raw)

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight.clamp_min(1e-12).expm1().log()


class Squareplus(nn.Module):
    """Parametrization without an inverse."""

    def forward(self, raw: Tensor) -> Tensor:
        return (raw + (raw * raw + 4).sqrt()) / 2


class RowNormalised(nn.Module):
    """Parametrization whose weights depend on all raw values of a row, with an inverse."""

    def forward(self, raw: Tensor) -> Tensor:
        return raw.abs() * raw.abs().sum(1, keepdim=True)

    def right_inverse(self, weight: Tensor) -> Tensor:
        return weight / weight.abs().sum(1, keepdim=True).sqrt()


def parametrized(parametrization: type[nn.Module]) -> Callable[[int], nn.Module]:
    """Linear layers with a parametrization of ``torch.nn.utils.parametrize``."""

    def build(depth: int) -> nn.Module:
        layers: list[nn.Module] = [nn.Linear(INPUTS, WIDTH), nn.ELU()]
        for outputs in [WIDTH] * (depth - 1) + [1]:
            layer = nn.Linear(WIDTH, outputs)
            parametrize.register_parametrization(layer, "weight", parametrization())
            layers += [layer, nn.ELU()]
        return nn.Sequential(*layers[:-1])

    return build


class PartiallyConvex(nn.Module):
    """Convex in the second argument; the first one gates the convex path."""

    def __init__(self, depth: int, gate: Callable[[Tensor], Tensor] = F.softplus) -> None:
        super().__init__()
        self.gate = gate
        widths = [WIDTH] * depth + [1]
        self.context = nn.ModuleList(nn.Linear(WIDTH if k else 3, WIDTH) for k in range(depth))
        contexts = [3] + [WIDTH] * depth
        inputs = [INPUTS] + [WIDTH] * depth
        self.wz = nn.ModuleList(
            nn.Linear(i, o, bias=False) for i, o in zip(inputs[1:], widths[1:], strict=True)
        )
        self.wzu = nn.ModuleList(
            nn.Linear(c, i) for c, i in zip(contexts[1:], inputs[1:], strict=True)
        )
        self.wy = nn.ModuleList(nn.Linear(INPUTS, o, bias=False) for o in widths)
        self.wyu = nn.ModuleList(nn.Linear(c, INPUTS) for c in contexts)
        self.wu = nn.ModuleList(nn.Linear(c, o) for c, o in zip(contexts, widths, strict=True))
        for layer in self.wz:
            nn.init.uniform_(layer.weight, 0, 0.2)

    def forward(self, u: Tensor, y: Tensor) -> Tensor:
        z = F.relu(self.wy[0](y * self.wyu[0](u)) + self.wu[0](u))
        for k, context in enumerate(self.context):
            u = F.relu(context(u))
            z = self.wz[k](z * self.gate(self.wzu[k](u)))
            z = z + self.wy[k + 1](y * self.wyu[k + 1](u)) + self.wu[k + 1](u)
            if k < len(self.context) - 1:
                z = F.relu(z)
        return z


class ActNorm(nn.Module):
    """Scale and shift that its first batch decides."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(features))
        self.shift = nn.Parameter(torch.zeros(features))
        self.register_buffer("initialized", torch.tensor(0))

    def forward(self, x: Tensor) -> Tensor:
        if self.training and not self.initialized:
            with torch.no_grad():
                self.shift.copy_(-x.mean(0))
                self.log_scale.copy_(-(x.std(0) + 1e-6).log())
                self.initialized.fill_(1)
        return (x + self.shift) * self.log_scale.exp()


class Normalised(nn.Module):
    """ActNorm after the sum of convex layer and skip, or before the layer."""

    def __init__(self, depth: int, before: bool = False) -> None:
        super().__init__()
        self.before = before
        self.inp = nn.Linear(INPUTS, WIDTH)
        self.pos = nn.ModuleList(
            MappedLinear(WIDTH, WIDTH, lambda raw: F.softplus(raw) / WIDTH, before)
            for _ in range(depth - 1)
        )
        self.skip = nn.ModuleList(nn.Linear(INPUTS, WIDTH, bias=False) for _ in range(depth - 1))
        self.norm = nn.ModuleList(ActNorm(WIDTH) for _ in range(depth))
        self.last = MappedLinear(WIDTH, 1, lambda raw: F.softplus(raw) / WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        z = F.softplus(self.inp(x) if self.before else self.norm[0](self.inp(x)))
        for pos, skip, norm in zip(self.pos, self.skip, self.norm[1:], strict=True):
            s = pos(norm(z)) + skip(x) if self.before else norm(pos(z) + skip(x))
            z = F.softplus(s)
        return self.last(z)


class Regulariser(nn.Module):
    """Convolutions that are clamped in the forward pass, quadratic skips, one value an image."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.conv = nn.ModuleList(nn.Conv2d(12, 12, 3, padding=1, bias=False) for _ in range(depth))
        self.skips = nn.ModuleList(nn.Conv2d(1, 12, 3, padding=1) for _ in range(depth + 1))
        self.quad = nn.ModuleList(nn.Conv2d(1, 12, 3, padding=1, bias=False) for _ in range(depth))
        self.out = nn.Conv2d(12, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        for layer in [*self.conv, self.out]:
            layer.weight.data.clamp_(0)
        z = F.leaky_relu(self.skips[0](x), 0.2)
        for conv, skip, quad in zip(self.conv, self.skips[1:], self.quad, strict=True):
            z = F.leaky_relu(conv(z) + skip(x) + 0.1 * quad(x) ** 2, 0.2)
        return self.out(z).mean((1, 2, 3))[:, None] + 0.01 * x.flatten(1).square().sum(1)[:, None]


class Strided(nn.Module):
    """One-dimensional grouped and strided convolutions, pooling, batch normalisation."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.stem = nn.Conv1d(2, 16, 5, padding=2)
        self.mid = nn.ModuleList(
            nn.Conv1d(16, 16, 3, stride=1 + (k == 0), padding=1, groups=2) for k in range(depth - 1)
        )
        self.bn = nn.ModuleList(nn.BatchNorm1d(16) for _ in range(depth - 1))
        self.head = nn.Linear(16, 1)

    def forward(self, x: Tensor) -> Tensor:
        z = F.elu(self.stem(x))
        for conv, norm in zip(self.mid, self.bn, strict=True):
            z = F.elu(norm(F.conv1d(z, conv.weight.relu(), conv.bias, conv.stride, 1, groups=2)))
        return F.linear(z.mean(-1), self.head.weight.exp(), self.head.bias)


class Energy(nn.Module):
    """``forward`` returns the gradient; the potential has another name."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.net = TransportPotential(depth)

    def potential(self, x: Tensor) -> Tensor:
        return self.net(x) + 0.5 * x.square().sum(1, keepdim=True)

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.clone().requires_grad_()
            (gradient,) = torch.autograd.grad(self.potential(x).sum(), x, create_graph=True)
        return gradient


class Invariants(nn.Module):
    """Convex in quantities that it computes from its input."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.icnn = TransportPotential(depth)

    def invariants(self, x: Tensor) -> Tensor:
        squares = x.square()
        return torch.cat([squares, squares.roll(1, -1)[:, :0]], -1)

    def forward(self, x: Tensor) -> Tensor:
        return self.icnn(self.invariants(x))


class Residual(nn.Module):
    """The convex path adds to a stream; forward returns the value and the features."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.enter = nn.Linear(INPUTS, WIDTH)
        self.branches = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(depth - 1))
        self.leave = nn.Linear(WIDTH, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        z = F.relu(self.enter(x))
        for branch in self.branches:
            z = z + F.relu(F.linear(z, branch.weight.abs(), branch.bias))
        return F.linear(z, self.leave.weight.abs(), self.leave.bias), z


class Branching(nn.Module):
    """Branches on data, assigns to slices, multiplies from the left, one unit in the middle."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.randn(WIDTH, INPUTS))
        self.b = nn.ParameterList(torch.rand(WIDTH, WIDTH) for _ in range(depth - 1))
        self.c = nn.ParameterList(torch.zeros(WIDTH, 1) for _ in range(depth))
        self.narrow = nn.ParameterList([torch.rand(1, WIDTH), torch.rand(WIDTH, 1)])
        self.shift = nn.ParameterList([torch.zeros(1), torch.zeros(WIDTH)])
        self.out = nn.Parameter(torch.rand(WIDTH))
        self.offset = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        if float(x.abs().max()) > 1e9:
            x = x / 1e9
        z = torch.mm(self.a, x.t()) + self.c[0]
        for weight, shift in zip(self.b, self.c[1:], strict=True):
            z = torch.addmm(shift, weight, F.softplus(z))
        z = F.softplus(F.linear(F.softplus(z.t()), self.narrow[0], self.shift[0]))
        z = F.softplus(torch.einsum("bi,oi->bo", z, self.narrow[1]) + self.shift[1])
        return z @ self.out + self.offset


class Hypernetwork(nn.Module):
    """Non-negative weights that another network computes from the context."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.first = nn.Linear(INPUTS, 8)
        self.hyper = nn.ModuleList(nn.Linear(3, 64) for _ in range(depth))
        self.bias = nn.ParameterList(torch.zeros(8) for _ in range(depth))

    def forward(self, u: Tensor, y: Tensor) -> Tensor:
        z = F.softplus(self.first(y))
        for hyper, bias in zip(self.hyper, self.bias, strict=True):
            weight = F.softplus(hyper(u)).view(-1, 8, 8)
            z = F.softplus(torch.bmm(weight, z.unsqueeze(-1)).squeeze(-1) + bias)
        return z.sum(1)


class Ensemble(nn.Module):
    """Members that are evaluated at once, by ``multiply(signal, weight, bias)``.

    Args:
        multiply: with a first dimension for the members, or a second one after the rows.
        rows_first: which of the two.
        depth: number of hidden layers.
    """

    def __init__(
        self, multiply: Callable[..., Tensor], rows_first: bool = False, depth: int = 2
    ) -> None:
        super().__init__()
        self.multiply, self.rows_first = multiply, rows_first
        sizes = ((INPUTS, 8), *[(8, 8)] * (depth - 1), (8, 1))
        self.weights = nn.ParameterList(torch.rand(3, *size) for size in sizes)
        self.biases = nn.ParameterList(torch.zeros(3, size) for _, size in sizes)

    def forward(self, x: Tensor) -> Tensor:
        signal = x[:, None].expand(-1, 3, -1) if self.rows_first else x.expand(3, *x.shape)
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            signal = F.softplus(signal) if layer else signal
            signal = self.multiply(signal, weight, bias if self.rows_first else bias[:, None])
        return signal.squeeze(-1) if self.rows_first else signal.squeeze(-1).T


def muted(depth: int) -> nn.Module:
    """The convex path starts at exp(-10); softplus of temperature 10."""
    network = TransportPotential(depth, lambda s: F.softplus(s, beta=10))
    for layer in network.wz:
        layer.weight.data.fill_(-10.0)
        parametrize.register_parametrization(layer, "weight", _Exp())
    return network


class _Exp(nn.Module):
    def forward(self, raw: Tensor) -> Tensor:
        return raw.exp()


def normal(rows: int, *shape: int, seed: int) -> Tensor:
    """Rows that are neither centred nor of variance one."""
    return 0.3 + 1.5 * torch.randn(rows, *shape, generator=torch.Generator().manual_seed(seed))


def _one(rows: int, seed: int) -> tuple[Tensor, ...]:
    return (normal(rows, INPUTS, seed=seed),)


def _state_and_action(rows: int, seed: int) -> tuple[Tensor, ...]:
    return normal(rows, INPUTS - 2, seed=seed), normal(rows, 2, seed=seed + 1000)


def _context(rows: int, seed: int) -> tuple[Tensor, ...]:
    return normal(rows, 3, seed=seed), normal(rows, INPUTS, seed=seed + 1000)


def _images(rows: int, seed: int) -> tuple[Tensor, ...]:
    return (normal(rows, 1, 8, 8, seed=seed),)


def _sequences(rows: int, seed: int) -> tuple[Tensor, ...]:
    return (normal(rows, 2, 12, seed=seed),)


@dataclass(frozen=True)
class Kind:
    """How a network is built, called and initialised."""

    build: Callable[[int], nn.Module]
    depth: int = 3
    inputs: Callable[[int, int], tuple[Tensor, ...]] = _one
    options: dict[str, object] = field(default_factory=dict)


FOREIGN = {
    "softplus potential": Kind(TransportPotential),
    "CELU potential": Kind(lambda depth: TransportPotential(depth, F.celu)),
    "leaky potential": Kind(lambda depth: TransportPotential(depth, F.leaky_relu)),
    "squared start": Kind(SquaredStart),
    "quadratic skips": Kind(QuadraticSkips),
    "linear start": Kind(LinearStart),
    "softplus property": Kind(mapped(F.softplus)),
    "softplus over fan_in": Kind(mapped(lambda raw: F.softplus(raw) / raw.shape[1])),
    "softplus over root": Kind(mapped(lambda raw: F.softplus(raw) / raw.shape[1] ** 0.5)),
    "divided with bias": Kind(mapped(F.softplus, DividedLinear)),
    "divided by its size": Kind(mapped(F.softplus, SizedLinear)),
    "elu plus one": Kind(mapped(lambda raw: F.elu(raw) + 1)),
    "squared softplus": Kind(mapped(lambda raw: F.softplus(raw) ** 2 / 12)),
    "relu in forward": Kind(mapped(torch.relu)),
    "exp in forward": Kind(mapped(torch.exp)),
    "absolute value": Kind(mapped(torch.abs)),
    "softplus with temperature": Kind(mapped(lambda raw: F.softplus(raw, beta=5.0))),
    "critic of lists": Kind(ParameterLists, 2, _state_and_action, {"convex": (0, 1)}),
    "clamped critic": Kind(
        lambda depth: ParameterLists(depth, True), 2, _state_and_action, {"convex": (0, 1)}
    ),
    "parametrize with inverse": Kind(parametrized(NonNegative)),
    "parametrize without inverse": Kind(parametrized(Squareplus)),
    "parametrize by rows": Kind(parametrized(RowNormalised)),
    "partially convex, softplus": Kind(PartiallyConvex, 2, _context, {"convex": 1}),
    "partially convex, relu": Kind(
        lambda depth: PartiallyConvex(depth, F.relu), 2, _context, {"convex": 1}
    ),
    "ActNorm after": Kind(Normalised),
    "ActNorm before": Kind(lambda depth: Normalised(depth, True)),
    "convolutional regulariser": Kind(Regulariser, 3, _images),
    "strided convolutions": Kind(Strided, 3, _sequences),
    "gradient": Kind(Energy),
    "invariants": Kind(Invariants),
    "residual": Kind(Residual),
    "branching": Kind(Branching),
    "muted": Kind(muted, 3, _one, {"skip": "only"}),
}
