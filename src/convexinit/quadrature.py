"""Moments of any activation at Gaussian pre-activations, by numerical integration.

The usual Gauss-Hermite rule is not good enough: at the kink of ReLU, 64 nodes give E[phi] with a
relative error of 6e-3 and E[phi1 phi2] with 3e-3 (correlation 1/2); 200 nodes still 2e-3 and 9e-4.
Here, Gauss-Legendre panels are split at zero, and bisected wherever that changes the result: kinks
cost nothing at zero and little elsewhere, and the relative error is about 1e-12 in both.
"""

import math
from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from convexinit.activations import Activation, checked_activation

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
