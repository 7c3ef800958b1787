"""What cannot happen with a convex function: signs that a network is not convex."""

from __future__ import annotations

import torch
from torch import Tensor

from convexinit.level_sets import ConvexFunction

# Where rays are looked at: from the interior point to twice the distance of the segment.
RAY = torch.linspace(0.0, 2.0, 65, dtype=torch.float64)
WALKS_AT_ONCE = 16  # of which rays are looked at: bounds the memory


def crossed_twice(
    f: ConvexFunction, segment: Tensor, interior: Tensor, level: Tensor, allowed: Tensor
) -> Tensor:
    """Share of the rays of each walk that cross the level more than once; 0 if ``f`` is convex.

    Rays lead from the interior point through the points of the segment to twice their distance,
    and are looked at in 65 places.

    Args:
        f: the function.
        segment: ``[n, steps + 1, d]``.
        interior: ``[n, d]``; NaN gives NaN.
        level: ``[n]``.
        allowed: ``[n]``, distance from the level below which a value is on no side of it.

    Returns:
        ``[n]``.
    """
    parts = []
    for rows in torch.arange(len(segment)).split(WALKS_AT_ONCE):
        inner = interior[rows].unsqueeze(1)
        rays = inner.unsqueeze(2) + RAY.view(-1, 1) * (segment[rows] - inner).unsqueeze(2)
        excess = f(rays.flatten(0, 2)).view(rays.shape[:3]) - level[rows].view(-1, 1, 1)
        crossed = crossings(excess, allowed[rows].view(-1, 1, 1)) > 1
        share = crossed.to(level.dtype).mean(1)
        parts.append(torch.where(excess.isfinite().all(2).all(1), share, torch.nan))
    return torch.cat(parts)


def crossings(excess: Tensor, allowed: Tensor) -> Tensor:
    """How often the sign changes along the last dimension; zeros, up to ``allowed``, have none.

    Example:
        >>> values = torch.tensor([[-1.0, -0.1, 0.0, 2.0], [-1.0, 1.0, 0.0, -1.0]])
        >>> crossings(values, torch.tensor(1e-6))
        tensor([1, 2])
    """
    changes = torch.zeros(excess.shape[:-1], dtype=torch.long)
    side = torch.zeros_like(changes)
    for values in torch.where(excess.abs() > allowed, excess.sign(), 0.0).long().unbind(-1):
        changes += (side * values == -1).long()
        side = torch.where(values == 0, side, values)
    return changes


def midpoints(
    f: ConvexFunction, points: Tensor, level: Tensor, allowed: Tensor
) -> tuple[Tensor, Tensor]:
    """Whether the middle between two points of a walk is above its level.

    Args:
        f: the function.
        points: ``[n, steps + 1, d]``; NaN gives NaN.
        level: ``[n]``.
        allowed: ``[n]``, what the points themselves may be above the level.

    Returns:
        Share ``[n]`` of the pairs of points of a walk with a middle above the level by more than
        ``allowed``, and the largest value there minus the level ``[n]``, at least 0. Both are 0
        for a convex function.
    """
    first, second = torch.triu_indices(points.shape[1], points.shape[1], 1)
    shares, largest = [], []
    for rows in torch.arange(len(points)).split(WALKS_AT_ONCE):
        middle = (points[rows][:, first] + points[rows][:, second]) / 2
        excess = f(middle.flatten(0, 1)).view(middle.shape[:2]) - level[rows].unsqueeze(1)
        above = excess > allowed[rows].unsqueeze(1)
        walked = excess.isfinite().all(1)
        shares.append(torch.where(walked, above.to(level.dtype).mean(1), torch.nan))
        largest.append(torch.where(above, excess, 0.0).amax(1).where(walked, torch.nan))
    return torch.cat(shares), torch.cat(largest)
