"""The smallest eigenvalue of the Hessian of a function, and its direction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from convexinit.rows import Rows

_CURVED_POINTS = 32  # at which the curvature is looked at
_LANCZOS_STEPS = 24


@dataclass(frozen=True)
class Curvature:
    """Smallest curvature: its value, ``[dimensions]`` direction and point, and ``[1]`` row."""

    value: float
    direction: Tensor
    point: Tensor
    row: Tensor


def curvature_of(
    function: Rows,
    generator: Generator,
    count: int = _CURVED_POINTS,
    exact: int = _LANCZOS_STEPS,
    steps: int = _LANCZOS_STEPS,
) -> Curvature | None:
    """Smallest curvature over some rows and outputs.

    From whole Hessians, or by the method of Rayleigh and Ritz on Krylov spaces, orthogonalised in
    full. None for functions that cannot be differentiated twice.

    Args:
        function: to be looked at.
        generator: source of randomness.
        count: of rows.
        exact: dimensions up to which Hessians are computed.
        steps: dimensions of the spaces beyond that.
    """
    rows = torch.randperm(len(function.points), generator=generator, device="cpu")[:count]
    size = function.points.shape[1]
    # As many copies of a point as its Hessian has columns, which come at once then.
    copies = size if size <= exact else 1
    repeated = rows.repeat_interleave(copies)
    points = function.points[repeated].detach().requires_grad_()
    try:
        values = function(points, repeated)
        outputs = torch.randint(values.shape[1], (len(rows),), generator=generator, device="cpu")
        outputs = outputs.repeat_interleave(copies)
        chosen = values[torch.arange(len(repeated), device="cpu"), outputs].sum()
        (slope,) = torch.autograd.grad(chosen, points, create_graph=True)
        product = _hessian_product(slope, points)
        if copies == size:
            axes = torch.eye(size, dtype=torch.float64, device=points.device)
            spanned = axes.expand(len(rows), -1, -1)
            mapped = product(spanned.flatten(0, 1)).view_as(spanned)
        else:
            spanned, mapped = _krylov_space(product, points, steps, generator)
    except RuntimeError:  # of torch, where something has no derivative
        return None
    projected = spanned @ mapped.mT
    eigenvalues, eigenvectors = torch.linalg.eigh((projected + projected.mT) / 2)
    worst = int(eigenvalues[:, 0].argmin())
    direction = eigenvectors[worst, :, 0] @ spanned[worst]
    return Curvature(
        float(eigenvalues[worst, 0]),
        nn.functional.normalize(direction, dim=0),
        function.points[rows[worst]],
        rows[worst : worst + 1],
    )


def _krylov_space(
    product: Callable[[Tensor], Tensor], points: Tensor, steps: int, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Orthonormal vectors ``[rows, steps, dimensions]`` and their products with the Hessian."""
    basis: list[Tensor] = []
    images: list[Tensor] = []
    vector = torch.zeros_like(points, dtype=torch.float64)
    for _ in range(steps):
        noise = torch.randn(points.shape, generator=generator, dtype=torch.float64, device="cpu")
        noise, vector = _orthogonal_to(basis, torch.stack([noise.to(points.device), vector]))
        # In an invariant space there is nothing left; go on somewhere else.
        lost = vector.norm(dim=1) <= 1e-6
        vector = nn.functional.normalize(torch.where(lost[:, None], noise, vector), dim=1)
        basis.append(vector)
        images.append(product(vector))
        if not images[0].any():
            break  # piecewise linear: the Hessian is zero
        vector = nn.functional.normalize(images[-1], dim=1)
    return torch.stack(basis, 1), torch.stack(images, 1)


def _hessian_product(slope: Tensor, points: Tensor) -> Callable[[Tensor], Tensor]:
    """Products of the Hessian of each row with a vector, from its gradient."""

    def product(vectors: Tensor) -> Tensor:
        if not slope.requires_grad:  # constant, as of linear functions
            return torch.zeros_like(vectors)
        (image,) = torch.autograd.grad(
            slope, points, vectors.to(slope.dtype), retain_graph=True, allow_unused=True
        )
        return torch.zeros_like(vectors) if image is None else image.detach().double()

    return product


def _orthogonal_to(basis: list[Tensor], vectors: Tensor) -> Tensor:
    """Remove from ``[..., rows, dimensions]`` what a basis spans; twice, because of rounding."""
    if basis:
        spanned = torch.stack(basis, 2)  # [rows, dimensions, vectors]
        for _ in range(2):
            parts = vectors.unsqueeze(-2) @ spanned
            vectors = vectors - (parts @ spanned.mT).squeeze(-2)
    return vectors
