"""Input-convex networks in the habits of people who write their own: no layer is of convexinit.

``depth`` is the number of hidden layers, ``width`` that of their units. All start as such networks
usually do. What is said of the weights in one line each is what makes the kind.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize


class SoftplusLinear(nn.Module):
    """``softplus(raw)`` as a property of the name ``weight``, not scaled down."""

    def __init__(self, fan_in: int, fan_out: int) -> None:
        super().__init__()
        self.raw = nn.Parameter(torch.empty(fan_out, fan_in))
        self.bias = nn.Parameter(torch.zeros(fan_out))
        nn.init.kaiming_uniform_(self.raw, 5**0.5)

    @property
    def weight(self) -> Tensor:
        """Non-negative weights ``[fan_out, fan_in]``."""
        return F.softplus(self.raw)

    def forward(self, z: Tensor) -> Tensor:
        """Pre-activations ``[n, fan_out]``."""
        return F.linear(z, self.weight, self.bias)


class EluLinear(nn.Linear):
    """``elu(raw) + 1`` in its own forward pass."""

    def forward(self, z: Tensor) -> Tensor:
        """Pre-activations ``[n, fan_out]``."""
        return F.linear(z, F.elu(self.weight) + 1, self.bias)


class DividedLinear(nn.Linear):
    """``softplus(raw)``; the whole pre-activation, bias included, is divided by the fan-in."""

    def forward(self, z: Tensor) -> Tensor:
        """Pre-activations ``[n, fan_out]``."""
        return (z @ F.softplus(self.weight).T + self.bias) / self.in_features


class Softplus(nn.Module):
    """Parametrization (``torch.nn.utils.parametrize``) that can be inverted."""

    def forward(self, raw: Tensor) -> Tensor:
        """Weights of raw values."""
        return F.softplus(raw)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Raw values of weights."""
        return weight.clamp_min(1e-6).expm1().log()


class ParametrizedLinear(nn.Linear):
    """A linear layer whose weight is parametrised by softplus."""

    def __init__(self, fan_in: int, fan_out: int) -> None:
        super().__init__(fan_in, fan_out)
        parametrize.register_parametrization(self, "weight", Softplus())


def plain(
    layer: Callable[[int, int], nn.Module], inputs: int, width: int, depth: int
) -> nn.Sequential:
    """Layers of one of the classes above, with softplus between them."""
    hidden = [m for _ in range(depth - 1) for m in (layer(width, width), nn.Softplus())]
    return nn.Sequential(nn.Linear(inputs, width), nn.Softplus(), *hidden, layer(width, 1))


class Uniform(nn.Module):
    """Convex weights from U(0, 0.1), clamped by the training loop; ReLU; a skip to every layer."""

    def __init__(self, inputs: int, width: int, depth: int) -> None:
        super().__init__()
        outputs = [width] * (depth - 1) + [1]
        self.first = nn.Linear(inputs, width)
        self.convex = nn.ModuleList(nn.Linear(width, out) for out in outputs)
        self.skip = nn.ModuleList(nn.Linear(inputs, out, bias=False) for out in outputs)
        for layer in self.convex:
            nn.init.uniform_(layer.get_parameter("weight"), 0, 0.1)

    def forward(self, x: Tensor) -> Tensor:
        """Values ``[n, 1]``."""
        z = self.first(x)
        for convex, skip in zip(self.convex, self.skip, strict=True):
            z = convex(F.relu(z)) + skip(x)
        return z


class Critic(nn.Module):
    """Costs of states and actions: parameters in lists, stored as ``[fan_in, fan_out]``; ReLU."""

    def __init__(self, inputs: int, width: int, depth: int) -> None:
        super().__init__()
        outputs = [width] * depth + [1]
        self.from_x = nn.ParameterList(torch.randn(inputs, out) / inputs**0.5 for out in outputs)
        self.from_z = nn.ParameterList(torch.rand(width, out) for out in outputs[1:])
        self.shift = nn.ParameterList(torch.zeros(out) for out in outputs)

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        """Costs ``[n, 1]``, convex in both arguments together."""
        x = torch.cat([state, action], 1)
        z = x @ self.from_x[0] + self.shift[0]
        for k, weight in enumerate(self.from_z, 1):
            z = F.relu(z) @ weight + x @ self.from_x[k] + self.shift[k]
        return z


class PartiallyConvex(nn.Module):
    """Convex in ``y``; softplus gates that a context ``u`` computes multiply the convex path."""

    def __init__(self, contexts: int, inputs: int, width: int, depth: int) -> None:
        super().__init__()
        outputs = [width] * depth + [1]
        contexts_of = [contexts] + [width] * depth
        self.context = nn.ModuleList(nn.Linear(c, width) for c in contexts_of[:-1])
        self.shift = nn.ModuleList(
            nn.Linear(c, out) for c, out in zip(contexts_of, outputs, strict=True)
        )
        self.direct = nn.ModuleList(nn.Linear(inputs, out, bias=False) for out in outputs)
        self.gate = nn.ModuleList(nn.Linear(width, width) for _ in range(depth))
        self.convex = nn.ModuleList(nn.Linear(width, out, bias=False) for out in outputs[1:])

    def forward(self, u: Tensor, y: Tensor) -> Tensor:
        """Values ``[n, 1]``."""
        z = self.direct[0](y) + self.shift[0](u)
        for k, convex in enumerate(self.convex):
            u = torch.tanh(self.context[k](u))
            gated = F.relu(z) * F.softplus(self.gate[k](u))
            z = convex(gated) + self.direct[k + 1](y) + self.shift[k + 1](u)
        return z


class ActNorm(nn.Module):
    """Scale and shift per unit, which the first batch sets."""

    initialised: Tensor

    def __init__(self, units: int) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(units))
        self.shift = nn.Parameter(torch.zeros(units))
        self.register_buffer("initialised", torch.tensor(False))

    def forward(self, s: Tensor) -> Tensor:
        """Normalised pre-activations ``[n, units]``."""
        if self.training and not self.initialised:
            with torch.no_grad():
                self.log_scale.copy_(-(s.std(0) + 1e-6).log())
                self.shift.copy_(-s.mean(0))
                self.initialised.fill_(True)
        return (s + self.shift) * self.log_scale.exp()


class Normalised(nn.Module):
    """``softplus(raw) / fan_in``, a skip to every layer, and ActNorm of their sum."""

    def __init__(self, inputs: int, width: int, depth: int) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, width)
        self.raw = nn.ParameterList(torch.randn(width, width) for _ in range(depth - 1))
        self.skip = nn.ModuleList(nn.Linear(inputs, width) for _ in range(depth - 1))
        self.norm = nn.ModuleList(ActNorm(width) for _ in range(depth))
        self.last = DividedLinear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Values ``[n, 1]``."""
        z = F.softplus(self.norm[0](self.first(x)))
        for raw, skip, norm in zip(self.raw, self.skip, self.norm[1:], strict=True):
            z = F.softplus(norm(F.linear(z, F.softplus(raw) / len(raw)) + skip(x)))
        return self.last(z)


class Regulariser(nn.Module):
    """Energy of images ``[n, 1, h, w]``: kernels clamped in the forward pass, quadratic skips."""

    def __init__(self, channels: int, depth: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, channels, 3, padding=1)
        self.convex = nn.ModuleList(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False) for _ in range(depth - 1)
        )
        self.skip = nn.ModuleList(nn.Conv2d(1, channels, 3, padding=1) for _ in range(depth - 1))
        self.quadratic = nn.ModuleList(
            nn.Conv2d(1, channels, 3, padding=1, bias=False) for _ in range(depth - 1)
        )
        self.last = nn.Conv2d(channels, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Energies ``[n, 1]``."""
        for layer in [*self.convex, self.last]:
            layer.weight.data.clamp_(0)
        z = F.leaky_relu(self.first(x), 0.2)
        for convex, skip, square in zip(self.convex, self.skip, self.quadratic, strict=True):
            z = F.leaky_relu(convex(z) + skip(x) + square(x) ** 2, 0.2)
        return self.last(z).sum((2, 3))


class Potential(nn.Module):
    """Convex layers without bias, clamped by the training loop; skips with bias; any activation."""

    def __init__(self, inputs: int, width: int, depth: int) -> None:
        super().__init__()
        outputs = [width] * depth + [1]
        self.wx = nn.ModuleList(nn.Linear(inputs, out) for out in outputs)
        self.wz = nn.ModuleList(nn.Linear(width, out, bias=False) for out in outputs[1:])

    def activation(self, s: Tensor) -> Tensor:
        """The activation."""
        return F.softplus(s)

    def forward(self, x: Tensor) -> Tensor:
        """Potentials ``[n, 1]``."""
        z = self.wx[0](x)
        for wz, wx in zip(self.wz, self.wx[1:], strict=True):
            z = wz(self.activation(z)) + wx(x)
        return z


class Muted(Potential):
    """``exp(raw)`` with raw values of -10, on purpose; softplus of temperature 10."""

    def __init__(self, inputs: int, width: int, depth: int) -> None:
        super().__init__(inputs, width, depth)
        for layer in self.wz:
            nn.init.constant_(layer.get_parameter("weight"), -10)

    def activation(self, s: Tensor) -> Tensor:
        """The activation."""
        return F.softplus(s, beta=10)

    def forward(self, x: Tensor) -> Tensor:
        """Potentials ``[n, 1]``."""
        z = self.wx[0](x)
        for wz, wx in zip(self.wz, self.wx[1:], strict=True):
            z = F.linear(self.activation(z), wz.get_parameter("weight").exp()) + wx(x)
        return z


class SquaredStart(nn.Module):
    """Leaky ReLU, the first one squared; the last skip is squared, so that it is no bias."""

    def __init__(self, inputs: int, width: int, depth: int) -> None:
        super().__init__()
        self.skip = nn.ModuleList(nn.Linear(inputs, width) for _ in range(depth - 1))
        self.last_skip = nn.Linear(inputs, 1)
        self.first = nn.Linear(inputs, width)
        self.convex = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(depth - 1))
        self.last = nn.Linear(width, 1, bias=False)
        for layer in [*self.convex, self.last]:
            nn.init.uniform_(layer.weight, 0, 2 / width)

    def forward(self, x: Tensor) -> Tensor:
        """Potentials ``[n, 1]``."""
        z = F.leaky_relu(self.first(x), 0.2) ** 2
        for convex, skip in zip(self.convex, self.skip, strict=True):
            z = F.leaky_relu(convex(z) + skip(x), 0.2)
        return self.last(z) + self.last_skip(x) ** 2


class Quadratic(nn.Module):
    """A convex quadratic function of rank one, and a linear one, for every unit."""

    def __init__(self, inputs: int, units: int) -> None:
        super().__init__()
        self.square = nn.Linear(inputs, units, bias=False)
        self.linear = nn.Linear(inputs, units)

    def forward(self, x: Tensor) -> Tensor:
        """Values ``[n, units]``."""
        return self.square(x) ** 2 + self.linear(x)


class QuadraticSkips(nn.Module):
    """Quadratic first layer and skips, CELU, convex weights from N(0.05, 0.01), clamped."""

    def __init__(self, inputs: int, width: int, depth: int) -> None:
        super().__init__()
        self.quadratic = nn.ModuleList(Quadratic(inputs, width) for _ in range(depth))
        self.convex = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(depth - 1))
        self.last = nn.Linear(width, 1, bias=False)
        for layer in [*self.convex, self.last]:
            nn.init.normal_(layer.weight, 0.05, 0.01)

    def forward(self, x: Tensor) -> Tensor:
        """Potentials ``[n, 1]``."""
        z = F.celu(self.quadratic[0](x))
        for convex, quadratic in zip(self.convex, self.quadratic[1:], strict=True):
            z = F.celu(convex(z) + quadratic(x))
        return self.last(z)


class GradientMap(nn.Module):
    """``forward`` is the gradient; the convex function has another name."""

    def __init__(self, inputs: int, width: int, depth: int) -> None:
        super().__init__()
        self.icnn = Potential(inputs, width, depth)

    def potential(self, x: Tensor) -> Tensor:
        """Potentials ``[n, 1]``, convex."""
        return self.icnn(x) + 0.05 * x.square().sum(1, keepdim=True)

    def forward(self, x: Tensor) -> Tensor:
        """Gradients ``[n, inputs]``."""
        return gradient(self.potential, x)


class Material(nn.Module):
    """Stresses of deformations ``[n, 2, 2]``; convex in the deformation and its determinant.

    In the deformation alone it is not (polyconvexity). Weights are ``relu(raw)``.
    """

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        self.first = nn.Linear(5, width)
        self.hidden = nn.ModuleList(nn.Linear(width, width) for _ in range(depth - 1))
        self.last = nn.Linear(width, 1)

    def minors(self, deformation: Tensor) -> Tensor:
        """What the energy is convex in, ``[n, 5]``."""
        (a, b), (c, d) = deformation.movedim(0, 2)
        return torch.stack([a, b, c, d, a * d - b * c], 1)

    def energy(self, minors: Tensor) -> Tensor:
        """Energies ``[n, 1]`` of minors ``[n, 5]``."""
        z = F.softplus(self.first(minors))
        for layer in self.hidden:
            z = F.softplus(_positive_part(layer, z))
        return _positive_part(self.last, z)

    def forward(self, deformation: Tensor) -> Tensor:
        """Stresses ``[n, 2, 2]``."""
        return gradient(lambda values: self.energy(self.minors(values)), deformation)


class Hypernetwork(nn.Module):
    """A context computes the non-negative weights."""

    def __init__(self, contexts: int, inputs: int, width: int, depth: int) -> None:
        super().__init__()
        self.first = nn.Linear(inputs, width)
        self.weights = nn.ModuleList(nn.Linear(contexts, width * width) for _ in range(depth - 1))
        self.last = nn.Linear(contexts, width)

    def forward(self, u: Tensor, y: Tensor) -> Tensor:
        """Values ``[n, 1]``."""
        z = F.softplus(self.first(y))
        for hyper in self.weights:
            weight = F.softplus(hyper(u)).unflatten(1, (z.shape[1], -1)) / z.shape[1]
            z = F.softplus((weight @ z[..., None])[..., 0])
        return (F.softplus(self.last(u)) * z).mean(1, keepdim=True)


def _positive_part(layer: nn.Module, z: Tensor) -> Tensor:
    return F.linear(z, F.relu(layer.get_parameter("weight")), layer.get_parameter("bias"))


def gradient(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Gradient of a function with one value a row, that can be differentiated again."""
    with torch.enable_grad():
        x = x if x.requires_grad else x.detach().requires_grad_()
        (result,) = torch.autograd.grad(function(x).sum(), x, create_graph=True)
    return result
