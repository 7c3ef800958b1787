"""Moments of activations at Gaussian pre-activations: closed forms, else quadrature.

The usual Gauss-Hermite rule is not good enough: at the kink of ReLU, 64 nodes give E[phi] with a
relative error of 6e-3 and E[phi1 phi2] with 3e-3 (correlation 1/2); 200 nodes still 2e-3 and 9e-4.
Here, Gauss-Legendre panels are split at zero, and bisected wherever that changes the result: kinks
cost nothing at zero and little elsewhere, and the relative error is about 1e-12 in both. Equation
and section numbers refer to the paper (Hoedt and Klambauer, 2023).
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from numbers import Real

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Activation = str | Callable[[Tensor], Tensor]
"""The name of an activation, or any elementwise function of a tensor (modules included)."""


def _squared_relu(s: Tensor) -> Tensor:
    return F.relu(s).square()


_NAMED: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "softplus": F.softplus,
    "elu": F.elu,
    "squared_relu": _squared_relu,
    "exp": torch.exp,
    "identity": nn.Identity(),
}


def resolve_activation(activation: Activation) -> Callable[[Tensor], Tensor]:
    """Return the function behind the name of an activation; a callable is returned as it is.

    Args:
        activation: "relu", "leaky_relu" (slope 0.01), "softplus", "elu", "squared_relu", "exp",
            "identity", or a callable.

    Raises:
        ValueError: If it is neither a known name nor a callable.
    """
    if isinstance(activation, str) and activation in _NAMED:
        return _NAMED[activation]
    if isinstance(activation, str) or not callable(activation):
        names = ", ".join(_NAMED)
        raise ValueError(f"activation must be a callable or one of {names}, got {activation!r}")
    return activation


# --- Moments of an activation -------------------------------------------------------------------


@dataclass(frozen=True)
class ActivationMoments:
    """Moments of phi(s1) and phi(s2) for two equally distributed, correlated Gaussians.

    Variance and covariance are stored and raw moments derived from them, because the opposite loses
    digits where phi varies little about a large mean (softplus at a small variance).

    Attributes:
        mean: E[phi(s1)].
        variance: Var[phi(s1)].
        covariance: Cov[phi(s1), phi(s2)].
    """

    mean: float
    variance: float
    covariance: float

    @property
    def second_moment(self) -> float:
        """E[phi(s1)^2]."""
        return self.variance + self.mean**2

    @property
    def cross_moment(self) -> float:
        """E[phi(s1) phi(s2)]."""
        return self.covariance + self.mean**2


def activation_moments(
    activation: Activation,
    *,
    mean: float = 0.0,
    variance: float = 1.0,
    correlation: float = 0.0,
) -> ActivationMoments:
    """Moments of an activation at Gaussian pre-activations (Section 2.2, Eq. 7).

    In closed form for ReLU, leaky ReLU and the identity at mean zero, otherwise by quadrature, in
    2 to 25 ms (the more, the larger the variance and the more kinks away from zero).

    Args:
        activation: A name (see `resolve_activation`) or an elementwise callable on torch tensors.
            It gets float64 tensors on the CPU. One that computes in float32 inside is slow, gives
            moments that accurate, and is rejected as rough where the variance is small. Modules are
            copied, so that their own data type and device do not matter.
        mean: Mean of both pre-activations.
        variance: Variance of both, above zero.
        correlation: Of the two, from -1 to 1.

    Raises:
        ValueError: If an argument is out of range, or the activation is not elementwise, not finite
            within 23 standard deviations of the mean, grows so fast that values beyond 16 standard
            deviations contribute to its second moment, or is too rough to integrate.

    Example:
        >>> moments = activation_moments("relu", correlation=0.5)
        >>> round(moments.second_moment, 6), round(moments.cross_moment, 6)
        (0.5, 0.304499)
    """
    correlation = check_number("correlation", correlation, -1.0, 1.0, ends="[]")
    phi = at_gaussian(activation, mean, variance)
    return ActivationMoments(phi.mean, phi.covariance(1.0), phi.covariance(correlation))


class LeakyReLU:
    """Closed form of the moments of phi(s) = slope * s + (1 - slope) * relu(s) at mean zero."""

    def __init__(self, slope: float, variance: float) -> None:
        self.slope, self.variance = slope, variance
        self.mean = (1 - slope) * math.sqrt(variance / (2 * math.pi))

    def covariance(self, r: float) -> float:
        """Cov[phi(s1), phi(s2)] at correlation r in [-1, 1]."""
        # Eq. 7 less the squared mean, arranged so that nothing cancels at small correlations.
        relu = r * (math.pi / 2 + math.asin(r)) - r**2 / (1 + math.sqrt(1 - r**2))
        return self.variance * (self.slope * r + (1 - self.slope) ** 2 * relu / (2 * math.pi))

    def covariance_slope(self, r: float) -> float:
        """Derivative of the covariance with respect to r, by Price's theorem v E[phi'1 phi'2]."""
        relu = math.acos(-r) / (2 * math.pi)
        return self.variance * (self.slope + (1 - self.slope) ** 2 * relu)


def at_gaussian(activation: Activation, mean: float, variance: float) -> "LeakyReLU | Quadrature":
    """Moments of an activation as functions of the correlation, by the better of the two ways."""
    mean = check_number("mean", mean)
    variance = check_number("variance", variance, 0.0)
    slope = _negative_slope(resolve_activation(activation))
    if slope is not None and mean == 0.0:
        return LeakyReLU(slope, variance)
    return Quadrature(activation, mean, variance)


def _negative_slope(phi: Callable[[Tensor], Tensor]) -> float | None:
    """The negative slope of ReLU, leaky ReLU and the identity; None for anything else."""
    if phi is F.relu or phi is torch.relu or type(phi) is nn.ReLU:
        return 0.0
    if phi is F.leaky_relu:
        return 0.01
    if type(phi) is nn.LeakyReLU:
        return float(phi.negative_slope)
    return 1.0 if type(phi) is nn.Identity else None


# --- Quadrature ---------------------------------------------------------------------------------

_REACH = 16.0  # standard deviations; enough for the second moment of exp up to a variance of 18
# An odd number of panels, so that a kink at a round value is never an edge by accident: the edge
# would hide it from the search for the places where phi needs more panels.
_PANELS = 7
_NODES = 16  # per panel; integrates the normal density on each to rounding error
_TOLERANCE = 1e-12  # of each panel, relative to the integral of the absolute value
_MAX_DEPTH = 60  # bisections; shrinks a jump to nothing
_MAX_UNRESOLVED = 32  # panels; more are rounding noise, or the activation is too rough
_NOISE = 1e-6  # relative error up to which they count as noise


def _tensor(values: list[float]) -> Tensor:
    # Explicit, because the caller may have changed torch's default data type or device.
    return torch.tensor(values, dtype=torch.float64, device="cpu")


@cache
def _gauss_legendre() -> tuple[Tensor, Tensor]:
    """Nodes and weights on [0, 1], from the eigenvectors of the Jacobi matrix (Golub-Welsch)."""
    off_diagonal = _tensor([k / math.sqrt(4 * k**2 - 1) for k in range(1, _NODES)])
    nodes, vectors = torch.linalg.eigh(off_diagonal.diag(1) + off_diagonal.diag(-1))
    return (nodes + 1) / 2, vectors[0] ** 2


@cache
def _grid() -> Tensor:
    return _tensor([_REACH * (2 * k / _PANELS - 1) for k in range(_PANELS + 1)])


def _panel_edges(breaks: Tensor) -> Tensor:
    """Merge breaks [..., n], in standard deviations, with the grid to edges [..., panels + 1]."""
    grid = _grid().expand(*breaks.shape[:-1], -1)
    return torch.cat([grid, breaks.clamp(-_REACH, _REACH)], -1).sort(-1).values


def _nodes(edges: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes, and weights that include the normal density, for panels with edges [..., panels + 1].

    Returns:
        Two tensors [..., panels, nodes].
    """
    unit_nodes, unit_weights = _gauss_legendre()
    left, width = edges[..., :-1, None], edges.diff()[..., None]
    x = left + width * unit_nodes
    return x, width * unit_weights * torch.exp(-0.5 * x**2) / math.sqrt(2 * math.pi)


def _integrate(f: Callable[[Tensor], Tensor], edges: Tensor) -> tuple[Tensor, Tensor]:
    """Expectations of functions of a standard normal variable, by adaptive bisection.

    Args:
        f: Maps nodes [...] to the values of k functions there, [k, ...].
        edges: Edges of the first panels, [panels + 1].

    Returns:
        The expectations [k], and the edges of panels on which the fixed rule gives the same.
    """
    panels = torch.stack([edges[:-1], edges[1:]], -1)  # [panels, 2]
    x, weights = _nodes(panels)
    values = f(x) * weights  # [k, panels, 1, nodes]
    coarse, scale = values.sum((-2, -1)), values.abs().sum((-3, -2, -1))
    total, resolved = torch.zeros_like(scale), []
    for _ in range(_MAX_DEPTH):
        halves = torch.stack([panels[:, 0], panels.mean(-1), panels[:, 1]], -1)
        x, weights = _nodes(halves)
        fine = (f(x) * weights).sum(-1)  # [k, panels, 2]
        error = (fine.sum(-1) - coarse).abs()
        redo = (error > _TOLERANCE * scale[:, None]).any(0)
        if redo.sum() > _MAX_UNRESOLVED:
            if (error.sum(-1) > _NOISE * scale).any():
                raise ValueError(
                    "activation is too rough to integrate: within 16 standard deviations it must "
                    "be smooth but for a few kinks and jumps"
                )
            redo[:] = False
        total += fine[:, ~redo].sum((-2, -1))
        resolved.append(panels[~redo, 0])
        if not redo.any():
            break
        panels = torch.stack([halves[redo, :2], halves[redo, 1:]], 1).flatten(0, 1)
        coarse = fine[:, redo].flatten(1)
    return total, torch.cat([*resolved, edges[-1:]]).sort().values


class Quadrature:
    """Moments of any activation at s ~ N(input_mean, std^2), by quadrature.

    The activation is shifted to zero at the mean, so that a small variance is not lost against a
    large value. Two Gaussians of correlation r >= 0 are written with a shared part u and own parts
    z, s = input_mean + std * (sqrt(r) u + sqrt(1 - r) z). Given u they are independent, so that the
    covariance is the variance of E_z[phi(s)]: an integral over one variable of a smoothed phi.
    """

    def __init__(self, activation: Activation, mean: float, variance: float) -> None:
        self.input_mean, self.std = mean, math.sqrt(variance)
        self._phi = checked_activation(activation)
        self.offset = float(self._phi(_tensor([mean])))
        probe = mean + self.std * _grid()
        repeated = self._phi(probe.repeat(16)).view(16, -1)  # often enough to notice dropout
        if not torch.allclose(repeated, self._phi(probe).expand(16, -1)):
            raise ValueError("activation must be elementwise and not random")
        (self.shifted_mean, second), edges = self._shifted_moments()
        self.edges = mean + self.std * edges  # in units of s
        self.mean = self.offset + float(self.shifted_mean)
        self.variance = float(second - self.shifted_mean**2)

    def shifted(self, s: Tensor) -> Tensor:
        """Activation less its value at the mean."""
        return self._phi(s) - self.offset

    def _shifted_moments(self) -> tuple[Tensor, Tensor]:
        def powers(x: Tensor) -> Tensor:
            values = self.shifted(self.input_mean + self.std * x)
            return torch.stack([values, values**2])

        moments, edges = _integrate(powers, _panel_edges(self._breaks()))
        ends = powers(_grid()[[0, -1]])[1] * math.exp(-0.5 * _REACH**2)
        if not moments.isfinite().all() or (ends > _TOLERANCE * moments[1]).any():
            raise ValueError(
                f"activation grows too fast for a variance of {self.std**2:g}: its second moment "
                f"is not finite, or lies beyond {_REACH:g} standard deviations"
            )
        return moments, edges

    def _breaks(self) -> Tensor:
        """Where to split in any case, in standard deviations from the mean.

        At s = 0, and around it at powers of 8 up to two standard deviations, because a bend at 1 is
        not noticed from 1000.
        """
        powers = [8.0**k for k in range(1, 1 + math.floor(math.log(2 * self.std, 8)))]
        return (_tensor([0.0, *powers, *[-p for p in powers]]) - self.input_mean) / self.std

    def _shared_edges(self, r: float) -> Tensor:
        """First panels for integrals over u."""
        # Near correlation 1 a kink at zero is smoothed over a narrow range, which must be found.
        centre, width = -self.input_mean / self.std, math.sqrt(1 - r)
        breaks = torch.cat([self._breaks(), _tensor([centre - 6 * width, centre + 6 * width])])
        return _panel_edges(breaks / math.sqrt(r))

    def _given_shared(self, u: Tensor, r: float) -> tuple[Tensor, Tensor]:
        """E_z[phi(s)] - E[phi(s)] and, by Stein's lemma, std * E_z[phi'(s)], for u [...], r < 1."""
        centre, width = self.input_mean + self.std * math.sqrt(r) * u, self.std * math.sqrt(1 - r)
        z, weights = _nodes(_panel_edges((self.edges - centre[..., None]) / width))
        values = self.shifted(centre[..., None, None] + width * z) * weights
        level = values.sum((-2, -1)) - self.shifted_mean
        return level, (values * z).sum((-2, -1)) / math.sqrt(1 - r)

    def covariance(self, r: float) -> float:
        """Cov[phi(s1), phi(s2)] at correlation r in [-1, 1]."""
        if r in (0.0, 1.0):
            return r * self.variance

        def level(u: Tensor) -> Tensor:
            if r == -1.0:
                return self.shifted(self.input_mean + self.std * u) - self.shifted_mean
            return self._given_shared(u, abs(r))[0]

        def integrand(u: Tensor) -> Tensor:
            # A negative correlation is a shared part of opposite sign.
            return (level(u).square() if r > 0 else level(u) * level(-u))[None]

        edges = self._shared_edges(abs(r))
        if r < 0:
            edges = torch.cat([edges, -edges]).sort().values
        return float(_integrate(integrand, edges)[0])

    def derivatives(self, r: float) -> Tensor:
        """Derivatives of E[phi], E[phi^2] and Cov[phi1, phi2], at correlation 0 < r < 1.

        Those of a Gaussian expectation need no derivative of phi: with respect to mean and variance
        they are integrals with the Hermite polynomials x and (x^2 - 1) / 2 (Stein, Price).

        Returns:
            [3, 3]; columns: mean, variance and covariance of s, in units of std, std^2, std^2.
        """
        x, weights = _nodes((self.edges - self.input_mean) / self.std)
        phi = self.shifted(self.input_mean + self.std * x)
        powers = torch.stack([phi, phi**2 + 2 * self.offset * phi])  # but for a constant
        by_mean, by_variance = (powers * x * weights), (powers * (x**2 - 1) / 2 * weights)

        # The derivative of E_u[level^2] by the mean is E_u[2 level * slope], by the covariance it
        # is E_u[slope^2], and integration by parts over u turns that by the variance (at the same
        # covariance) into what is left.
        def integrands(u: Tensor) -> Tensor:
            level, slope = self._given_shared(u, r)
            return torch.stack([2 * level * slope, u * level * slope / math.sqrt(r), slope**2])

        (c_mean, c_sum, c_covariance), _ = _integrate(integrands, self._shared_edges(r))
        raw = torch.stack([by_mean.sum((-2, -1)), by_variance.sum((-2, -1))], -1)
        raw = torch.cat([raw, torch.zeros_like(raw[:, :1])], -1)
        return torch.cat([raw, torch.stack([c_mean, c_sum - c_covariance, c_covariance])[None]])


def checked_activation(activation: Activation) -> Callable[[Tensor], Tensor]:
    """Wrap an activation so that it computes in float64 and what it returns is checked."""
    phi = resolve_activation(activation)
    if isinstance(phi, nn.Module):
        phi = copy.deepcopy(phi).to("cpu", torch.float64)

    def evaluate(s: Tensor) -> Tensor:
        try:
            with torch.no_grad():
                values = phi(s.clone())  # a clone, because it may work in place
        except (RuntimeError, TypeError) as error:
            raise ValueError(f"activation fails on a float64 tensor: {error}") from error
        if not isinstance(values, Tensor) or values.is_complex() or values.shape != s.shape:
            got = list(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise ValueError(
                "activation must be elementwise: a real tensor in, one of the same shape out; "
                f"got {got} for {list(s.shape)}"
            )
        if not values.isfinite().all():
            raise ValueError(
                f"activation is not finite at {float(s[~values.isfinite()][0]):g}, which its "
                "moments need: it must be finite within 23 standard deviations of the mean"
            )
        return values.double()

    return evaluate


def check_number(
    name: str, value: float, low: float = -math.inf, high: float = math.inf, ends: str = "()"
) -> float:
    """Return value, or raise ValueError unless it is between low and high ("[": inclusive)."""
    if isinstance(value, Real) and not isinstance(value, bool):
        above = low <= value if ends[0] == "[" else low < value
        below = value <= high if ends[1] == "]" else value < high
        if above and below:
            return float(value)
    interval = f"{ends[0]}{low:g}, {high:g}{ends[1]}"
    raise ValueError(f"{name} must be a number in {interval}, got {value!r}")
