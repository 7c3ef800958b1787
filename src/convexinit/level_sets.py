"""Walking along the level set of a convex function (Nesterov et al. 2022; paper, section 5.3).

Everything rests on one fact: a ray from a point below the level crosses the level at most once,
and if its values rise anywhere, exactly once. So a single *interior point* per trajectory turns
any other point into a point of the level set by a bracketed root search; no minimum is needed,
which matters because an input-convex ReLU network may be unbounded below.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from convexinit.checks import (
    check_choice,
    check_floating,
    check_integer,
    check_number,
    check_tensor,
)

ConvexFunction = Callable[[Tensor], Tensor]

# Lengths of the trial steps of a descent, relative to the distance from start to target.
_STEP_LENGTHS = tuple(8.0**-exponent for exponent in range(18))
_DESCENTS = 16
_DOUBLINGS = 40
_ROOT_ITERATIONS = 100


class LevelSetError(ValueError):
    """Some rows of a batch have no walk; ``rows`` lists them all, the message the first ten."""

    def __init__(self, problem: str, bad: Tensor, remedy: str = "") -> None:
        self.rows: list[int] = bad.nonzero().squeeze(1).tolist()
        more = f" and {len(self.rows) - 10} more" if len(self.rows) > 10 else ""
        super().__init__(f"{problem} in row(s) {self.rows[:10]}{more}{remedy and f'; {remedy}'}")


def walk_level_set(
    f: ConvexFunction,
    start: Tensor,
    target: Tensor,
    steps: int = 10,
    method: str = "interpolate",
    tol: float = 1e-6,
    interior: Tensor | None = None,
    relative: bool = False,
) -> Tensor:
    """Walk from ``start`` towards ``target`` on the level set of ``f`` that ``start`` lies on.

    Both methods pull points onto the level along rays from an interior point ``c``. Unless one is
    given, it is found by descent from the lowest point of the segment from ``start`` to
    ``target``. As ``f(c)`` is then below all of the segment, every ray rises beyond the segment and
    crosses the level. Descent knows nothing of where points mean something: a network is often
    lowest far from all data. A point that is pulled inwards lies between ``c`` and the segment, so
    that a ``c`` from a convex region of known points keeps it there.

    * "interpolate" pulls ``steps + 1`` evenly spaced points of the segment: inwards where ``f`` is
      above the level, outwards where it is below. The last point is the pull of ``target``, and
      ``target`` itself if it lies on the level. Points do not depend on each other.
    * "track" steps from the current point ``x`` along ``target - x``, projected onto the tangent
      space at ``x`` and divided by the number of steps left, and pulls the result back. It
      approaches a point of the level set where ``target - x`` is normal to it: ``target`` itself,
      if that lies on the level and ``start`` is not opposite to it.

    Rows are independent trajectories, walked together. All returned points are verified by a last
    evaluation of ``f``. Convexity is not checked: for other functions, what is returned still lies
    on the level, but the search may fail.

    Where ``c`` lies on the line through ``start`` and ``target`` (in one dimension; if the line
    passes through the minimum; if ``f`` has no gradient) interpolation can only jump between the
    two points in which that line meets the level. A point of the segment that no ray carries to
    the level, such as the minimum itself, or one at which ``f`` is not above a given ``c``, may
    yield ``start``.

    Args:
        f: convex function ``[m, d] -> [m]`` for any number m of points, each by itself (networks
            in evaluation mode). It gets copies, and may work in place. NaN counts as infinite, as
            outside of the domain of ``f``.
        start: ``[n, d]``, floating point and finite; the levels are ``f(start)``.
        target: ``[n, d]``, finite; converted to the dtype and device of ``start``.
        steps: number of steps, at least 1.
        method: "interpolate" or "track". Tracking needs gradients of ``f`` by autograd;
            interpolation uses them, but can do without if ``f`` is lower on the segment.
        tol: a point is accepted if ``|f(point) - level| <= tol * max(1, |level|)``; greater than
            0. Rounding limits what can be met: ``f`` in float32 is rarely exact to 1e-7. For
            levels within -1 and 1 this bound is absolute: with the default of 1e-6, values between
            -0.99e-6 and 1.01e-6 count as on a level of 1e-8. See ``relative``.
        interior: ``[n, d]``, a point below the level for each row, finite; converted as ``target``.
            None to search for one.
        relative: whether ``tol`` is relative to levels of any size, ``tol * |level|``: for levels
            far below 1. No level may be 0 then.

    Returns:
        Points ``[n, steps + 1, d]`` in the dtype of ``start``, without gradient. The first of each
        row is ``start``.

    Raises:
        LevelSetError: (a ValueError) with the offending ``rows`` where ``start``, ``target``,
            ``interior`` or ``f(start)`` is not finite; where ``interior`` is not below the level,
            or no point below it is found (``f(start)`` is minimal up to rounding); where the level
            is 0 and ``tol`` relative; where the dtype of ``start`` cannot meet ``tol``.
        ValueError: for shapes that differ, wrong types, ``steps`` below 1, ``tol`` out of range,
            an unknown method, an ``f`` that returns the wrong shape, or has no gradient where one
            is needed.

    Example:
        >>> start, target = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]])
        >>> points = walk_level_set(lambda x: x.square().sum(1), start, target, steps=2)
        >>> points[0, 1]  # halfway on the circle of radius 2
        tensor([1.4142, 1.4142])

        On a level of 1e-8 an absolute tolerance of 1e-6 would accept anything from 0 to a
        hundredfold of the level:

        >>> start, target = torch.tensor([[1e-4, 0.0]]), torch.tensor([[0.0, 1e-4]])
        >>> points = walk_level_set(lambda x: x.square().sum(1), start, target, 2, relative=True)
        >>> points[0, 1]
        tensor([7.0711e-05, 7.0711e-05])
    """
    walk = check_choice("method", method, _METHODS)
    steps, tol = check_integer("steps", steps), check_number("tol", tol, 0.0)
    start, target = _checked_ends(start, target)
    with torch.no_grad():
        level = _evaluate(f, start)
        _reject(~level.isfinite(), "f(start) is not finite")
        if relative:
            _reject(level == 0, "the level f(start) is 0, and tol relative,", "give relative=False")
        allowed = tol * level.abs().clamp_min(0.0 if relative else 1.0)
        share = torch.linspace(0.0, 1.0, steps + 1, dtype=start.dtype, device=start.device)
        segment = torch.lerp(start.unsqueeze(1), target.unsqueeze(1), share.view(-1, 1))
        if interior is None:
            interior = _interior_point(f, segment, level)
        else:
            interior = _checked_interior(f, interior, start, level)
        points = walk(f, segment, interior, level, allowed)
        residual = (_evaluate(f, points) - level.unsqueeze(1)).abs().amax(1)
    missed = ~(residual <= allowed)
    if missed.any():
        worst = float((residual / allowed).max()) * tol
        size = "|level|" if relative else "max(1, |level|)"
        raise LevelSetError(
            f"the points found miss the level by up to {worst:.1e} * {size}, "
            f"more than tol={tol:g},",
            missed,
            f"raise tol, use more precision than {start.dtype}, or make f deterministic",
        )
    return points


def _checked_ends(start: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    check_floating("start", start)
    check_tensor("target", target)
    if start.ndim != 2 or start.shape != target.shape or start.shape[1] < 1:
        raise ValueError(
            "start and target must have the same shape [n, d], d at least 1; got "
            f"{tuple(start.shape)} and {tuple(target.shape)}"
        )
    if target.is_complex():
        raise ValueError(f"target must be real; got {target.dtype}")
    start, target = start.detach(), target.detach().to(start)
    for name, points in (("start", start), ("target", target)):
        _reject(~points.isfinite().all(1), f"{name} is not finite")
    return start, target


def _checked_interior(f: ConvexFunction, interior: Tensor, start: Tensor, level: Tensor) -> Tensor:
    """The given interior points in the dtype of ``start``, if they are below the level."""
    check_tensor("interior", interior)
    if interior.shape != start.shape or interior.is_complex():
        raise ValueError(
            f"interior must be real and have the shape {tuple(start.shape)} of start; got "
            f"{interior.dtype} {tuple(interior.shape)}"
        )
    interior = interior.detach().to(start)
    _reject(~interior.isfinite().all(1), "interior is not finite")
    _reject(
        ~_is_below(_evaluate(f, interior), level),
        "interior is not below the level f(start)",
        "choose points of lower value, or leave interior out to search for them",
    )
    return interior


def _is_below(values: Tensor, level: Tensor) -> Tensor:
    """Whether values are below the level by more than rounding."""
    return values < level - 64 * torch.finfo(level.dtype).eps * level.abs()


def _reject(bad: Tensor, problem: str, remedy: str = "") -> None:
    if bad.any():
        raise LevelSetError(problem, bad, remedy)


def _evaluate(f: ConvexFunction, points: Tensor) -> Tensor:
    """Values ``[...]`` of ``f`` at ``[..., d]``, in the dtype of the points; NaN as infinity."""
    flat = points.flatten(0, -2)
    values = f(flat.clone())  # a clone, because it may work in place
    if not isinstance(values, Tensor) or values.shape != flat.shape[:1]:
        shape = list(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise ValueError(
            f"f must map points [n, d] to values [n]; it returned {shape} for points of shape "
            f"{list(flat.shape)} (a network with one output: lambda x: network(x).squeeze(1))"
        )
    return values.to(points.dtype).nan_to_num(math.inf, math.inf, -math.inf).view(points.shape[:-1])


def _gradient(f: ConvexFunction, points: Tensor) -> Tensor:
    """(Sub)gradients ``[n, d]`` of ``f`` by autograd, 0 where they are not finite.

    Raises:
        ValueError: if ``f`` cannot be differentiated.
    """
    with torch.inference_mode(False), torch.enable_grad():
        points = points.clone().requires_grad_()
        try:
            # A clone, because f may work in place, which a leaf of the graph does not allow.
            (gradient,) = torch.autograd.grad(f(points.clone()).sum(), points)
        except RuntimeError as error:
            raise ValueError(f"f has no gradient that autograd can compute: {error}") from error
    return gradient.nan_to_num(0.0, 0.0, 0.0)


def _unit(vectors: Tensor) -> Tensor:
    """Vectors ``[n, d]`` scaled to length 1 (also tiny and huge ones); zero stays zero."""
    vectors = vectors / vectors.abs().amax(1, keepdim=True).clamp_min(
        torch.finfo(vectors.dtype).tiny
    )
    return vectors / vectors.norm(dim=1, keepdim=True).clamp_min(0.5)


def _interior_point(f: ConvexFunction, segment: Tensor, level: Tensor) -> Tensor:
    """Point below the level and, where possible, well below all of the segment.

    A row is done when it is below the lowest point of the segment by half of the range of values
    on the segment; a row that cannot get there keeps the lowest point it found.

    Args:
        f: the convex function.
        segment: ``[n, points, d]``, the first of which is the start.
        level: ``[n]``.

    Returns:
        ``[n, d]``.

    Raises:
        LevelSetError: where no point is below the level.
    """
    values = _evaluate(f, segment)
    lowest, index = values.min(1)
    point = segment[torch.arange(len(segment), device=segment.device), index]
    highest = values.masked_fill(values.isinf(), -math.inf).amax(1)
    length = (segment[:, -1] - segment[:, 0]).norm(dim=1)
    length = torch.where(length > 0, length, segment[:, 0].norm(dim=1).clamp_min(1.0))
    try:
        gradient = _gradient(f, point)
    except ValueError as error:
        if not (lowest < level).all():
            raise
        warnings.warn(f"{error}; the walk keeps to the line to the target", stacklevel=3)
    else:
        enough = lowest - (highest - lowest) / 2
        point, lowest = _descend(f, point, lowest, gradient, enough, length)
    _reject(
        ~_is_below(lowest, level),
        "no point below the level f(start) was found",
        "f(start) seems minimal, so that its level set has no interior",
    )
    return point


def _descend(
    f: ConvexFunction,
    point: Tensor,
    value: Tensor,
    direction: Tensor,
    enough: Tensor,
    length: Tensor,
) -> tuple[Tensor, Tensor]:
    """Subgradient descent that also gets off kinks.

    Each round tries step lengths between ``length`` and rounding at once. If none is lower,
    ``point`` lies on a kink that the direction does not respect; the direction becomes the
    shortest convex combination of itself and the subgradient across the kink (the null step of
    bundle methods, Lemarechal 1975, Wolfe 1975), which is zero only at a minimum.

    Args:
        f: the convex function.
        point: ``[n, d]``.
        value: ``[n]``, ``f(point)``.
        direction: ``[n, d]``, (sub)gradient at ``point``.
        enough: ``[n]``, value below which a row stays where it is.
        length: ``[n]``, longest step of a round.

    Returns:
        The lowest point ``[n, d]`` of each row and its value ``[n]``.
    """
    rows = torch.arange(len(point), device=point.device)
    steps = length.view(-1, 1, 1) * length.new_tensor(_STEP_LENGTHS).view(-1, 1)
    for _ in range(_DESCENTS):
        searching = (value >= enough) & direction.any(1)
        if not searching.any():
            break
        trials = point.unsqueeze(1) - steps * _unit(direction).unsqueeze(1)
        trial_values = _evaluate(f, trials)
        lowest = trial_values.amin(1)
        lower = searching & (lowest < value)
        # The lowest trial, or the one that rose least: the closest on the other side of a kink.
        flat = ~lower.unsqueeze(1) & (trial_values <= value.unsqueeze(1))
        trial = trials[rows, trial_values.masked_fill(flat, math.inf).argmin(1)]
        gradient = _gradient(f, trial)
        across = gradient - direction
        weight = -(direction * across).sum(1) / across.square().sum(1)
        shortest = direction + weight.nan_to_num(0.0).clamp(0.0, 1.0).unsqueeze(1) * across
        direction = torch.where(lower.unsqueeze(1), gradient, shortest)
        point = torch.where(lower.unsqueeze(1), trial, point)
        value = torch.where(lower, lowest, value)
    return point, value


def _pull(
    f: ConvexFunction,
    points: Tensor,
    interior: Tensor,
    start: Tensor,
    level: Tensor,
    allowed: Tensor,
) -> Tensor:
    """Move points onto the level along the rays from the interior point through them.

    A ray is ``point + share * (interior - point)``: it passes the point at share 0, the interior
    at 1, and goes outwards for negative shares. Points are rounded least near the level that way.

    Args:
        f: the convex function.
        points: ``[n, d]``.
        interior: ``[n, d]``, below the level.
        start: ``[n, d]``, on the level: the result where the ray does not cross the level.
        level: ``[n]``.
        allowed: ``[n]``, residual that the caller accepts; the search aims at half of it.

    Returns:
        ``[n, d]``.
    """
    goal = allowed / 2

    def excess(share: Tensor, rows: Tensor) -> Tensor:
        return _evaluate(f, _on_ray(points[rows], interior[rows], share)) - level[rows]

    # Bracket: outwards until above the level, doubling the distance from the interior point.
    everywhere = torch.arange(len(points), device=points.device)
    outer, inner = torch.zeros_like(level), torch.ones_like(level)
    above, below = excess(outer, everywhere), excess(inner, everywhere)
    for _ in range(_DOUBLINGS):
        rows = (above < -goal).nonzero().squeeze(1)
        if not len(rows):
            break
        inner[rows], below[rows] = outer[rows], above[rows]
        outer[rows] = 2 * outer[rows] - 1
        above[rows] = excess(outer[rows], rows)
    crossing = above >= -goal

    # Root: two secants (which convexity places below the level), then a bisection, and again.
    best, residual = outer.clone(), torch.where(crossing, above.abs(), 0.0)
    for iteration in range(_ROOT_ITERATIONS):
        rows = (residual > goal).nonzero().squeeze(1)
        if not len(rows):
            break
        a, b, f_a, f_b = outer[rows], inner[rows], above[rows], below[rows]
        share = b - f_b * (b - a) / (f_b - f_a)
        usable = (share > a) & (share < b) & (iteration % 3 != 2)
        share = torch.where(usable, share, a + (b - a) / 2)
        value = excess(share, rows)
        is_above = value >= 0
        outer[rows], inner[rows] = torch.where(is_above, share, a), torch.where(is_above, b, share)
        above[rows], below[rows] = (
            torch.where(is_above, value, f_a),
            torch.where(is_above, f_b, value),
        )
        closer = value.abs() < residual[rows]
        best[rows] = torch.where(closer, share, best[rows])
        residual[rows] = torch.where(closer, value.abs(), residual[rows])
    return torch.where(crossing.unsqueeze(1), _on_ray(points, interior, best), start)


def _on_ray(points: Tensor, interior: Tensor, share: Tensor) -> Tensor:
    return points + share.unsqueeze(1) * (interior - points)


def _interpolate(
    f: ConvexFunction, segment: Tensor, interior: Tensor, level: Tensor, allowed: Tensor
) -> Tensor:
    """Pull the points of the segment onto the level: ``[n, steps + 1, d]``."""
    start, later = segment[:, 0], segment[:, 1:]
    ends = (rows.repeat_interleave(later.shape[1], 0) for rows in (interior, start, level, allowed))
    pulled = _pull(f, later.flatten(0, 1), *ends).view_as(later)
    return torch.cat([start.unsqueeze(1), pulled], dim=1)


def _track(
    f: ConvexFunction, segment: Tensor, interior: Tensor, level: Tensor, allowed: Tensor
) -> Tensor:
    """Walk by tangential steps, each pulled back onto the level: ``[n, steps + 1, d]``."""
    start, target = segment[:, 0], segment[:, -1]
    points = [start]
    for left in range(segment.shape[1] - 1, 0, -1):
        normal, ahead = _unit(_gradient(f, points[-1])), target - points[-1]
        tangent = ahead - (ahead * normal).sum(1, keepdim=True) * normal
        points.append(_pull(f, points[-1] + tangent / left, interior, start, level, allowed))
    return torch.stack(points, dim=1)


_METHODS = {"interpolate": _interpolate, "track": _track}
