"""A function at pairs of points and at their midpoints."""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Generator, Tensor

from convexinit.curvature import Curvature
from convexinit.rows import Rows

# What the quick test looks at; close pairs where there are other arguments, and where not.
_LINES, _POINTS_ON_LINE, _CLOSE_PAIRS = 32, 9, (288, 32)
# F.softplus is linear above 20, so that activations of torch are only this accurate in float64.
_ACCURACY = math.exp(-20)

Pairs = tuple[Tensor, Tensor, Tensor]  # both ends [pairs, dimensions], and rows [pairs]


def _far_pairs(function: Rows, count: int, generator: Generator) -> Pairs:
    """Two rows, with the other arguments of the first."""
    rows = torch.randint(len(function.points), (2, count), generator=generator, device="cpu")
    return function.points[rows[0]], function.points[rows[1]], rows[0]


def _close_pairs(function: Rows, count: int, generator: Generator) -> Pairs:
    """Points on either side of a row."""
    rows = torch.randint(len(function.points), (count,), generator=generator, device="cpu")
    exponents = torch.rand(count, 1, generator=generator, dtype=torch.float64, device="cpu")
    lengths = 0.5 * 0.002 ** exponents.to(function.spread.device)
    step = lengths * _gaussian(function, count, generator)
    return *_either_side(function.points[rows], step), rows


def _pairs_along(function: Rows, curvature: Curvature) -> Pairs:
    """Points on either side of one along a direction, at distances down to 0.001 deviations."""
    lengths = 2.0 ** -torch.arange(10, dtype=torch.float64, device=function.spread.device)
    step = lengths[:, None] * function.spread.square().mean().sqrt() * curvature.direction
    return *_either_side(curvature.point.expand_as(step), step), curvature.row.expand(len(step))


def _with_curved(sampled: list[Pairs], function: Rows, curvature: Curvature | None) -> Pairs:
    """All pairs in one, and those along a negative curvature."""
    if curvature is not None and curvature.value < 0:
        sampled = [*sampled, _pairs_along(function, curvature)]
    first, second, rows = (torch.cat(parts) for parts in zip(*sampled, strict=True))
    return first, second, rows


def draw_pairs(
    function: Rows, curvature: Curvature | None, count: int, generator: Generator
) -> Pairs:
    """Far, close and along the direction of a negative curvature; of values that inputs can have.

    Args:
        function: to be looked at.
        curvature: of the function.
        count: of far pairs, and of close ones.
        generator: source of randomness.
    """
    sampled = [_far_pairs(function, count, generator), _close_pairs(function, count, generator)]
    first, second, rows = _with_curved(sampled, function, curvature)
    return function.representable(first), function.representable(second), rows


def on_lines(
    function: Rows, curvature: Curvature | None, generator: Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Points on lines from the outermost rows to others, close pairs and their midpoints.

    Returns:
        Points ``[m, dimensions]``, their rows ``[m]``, and ``[3, triples]`` places of the ends of
        pairs, with that of the midpoint between them.
    """
    distances = ((function.points - function.points.mean(0)) / function.spread).norm(dim=1)
    rows = distances.topk(min(_LINES, len(distances))).indices.cpu()
    others = torch.randint(len(distances), rows.shape, generator=generator, device="cpu")
    shares = torch.linspace(0, 1, _POINTS_ON_LINE, dtype=torch.float64, device=distances.device)
    first, second = function.points[rows], function.points[others]
    lines = first + shares[:, None, None] * (second - first)
    alone = sum(function.sizes) == sum(argument[0].numel() for argument in function.inputs)
    close = _close_pairs(function, _CLOSE_PAIRS[alone], generator)
    one, other, close_rows = _with_curved([close], function, curvature)
    points = [lines.flatten(0, 1).to(first.dtype), one, _middle(one, other), other]
    all_rows = torch.cat([rows.repeat(len(shares)), close_rows.repeat(3)])
    return torch.cat(points), all_rows, _triples(len(rows), len(one))


@lru_cache(16)
def _triples(lines: int, pairs: int) -> Tensor:
    """Places of points, ``[3, triples]``: at equal distances on a line, and in pairs.

    The first points of all lines come first; the pairs' midpoints are between their ends.
    """
    places = torch.arange(_POINTS_ON_LINE * lines + 3 * pairs, device="cpu")
    places, in_pairs = places.split([_POINTS_ON_LINE * lines, 3 * pairs])
    places = places.view(_POINTS_ON_LINE, -1)
    on_lines = [
        torch.stack([places[: -2 * step], places[step:-step], places[2 * step :]]).flatten(1)
        for step in range(1, _POINTS_ON_LINE // 2 + 1)
    ]
    return torch.cat([*on_lines, in_pairs.view(3, -1)], 1)


def _gaussian(function: Rows, count: int, generator: Generator) -> Tensor:
    """``[count, dimensions]`` steps with the spread of the inputs."""
    size = (count, function.points.shape[1])
    noise = torch.randn(size, generator=generator, dtype=torch.float64, device="cpu")
    return noise.to(function.spread.device) * function.spread


def _either_side(points: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    points, dtype = points.double(), points.dtype
    return (points - step).to(dtype), (points + step).to(dtype)


def _middle(first: Tensor, second: Tensor) -> Tensor:
    return ((first.double() + second.double()) / 2).to(first.dtype)


def gaps_between(
    function: Rows, first: Tensor, second: Tensor, rows: Tensor
) -> tuple[Tensor, Tensor]:
    """:func:`compared` for pairs of points."""
    points = torch.cat([first, _middle(first, second), second])
    # Not without gradients: some networks differentiate themselves.
    one, between, other = function(points, rows.repeat(3)).detach().chunk(3)
    return compared(one, between, other)


def compared(one: Tensor, between: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Values at midpoints less the mean of those at the ends, and how large values are.

    Returns:
        Both ``[pairs, outputs]``.
    """
    typical = between.abs().median(0).values
    scales = one.abs() + other.abs() + between.abs() + typical
    return between - (one + other) / 2, scales


def rounding(
    function: Rows, first: Tensor, second: Tensor, rows: Tensor, generator: Generator
) -> float:
    """Largest gap that rounding makes, relative to the values.

    It is four times the largest of as many gaps between points so close that convexity hardly
    shows, around the points that the pairs are made of.
    """
    centres = torch.stack([first, second, (first + second) / 2])
    choice = torch.randint(3, (len(rows),), generator=generator, device="cpu")
    centres = centres[choice, torch.arange(len(rows), device="cpu")]
    precision = max(torch.finfo(centres.dtype).eps, function.coarsest(centres[:2], rows[:2]))
    # From the last digit on, to where a curvature of 1 moves values by less than the last digit.
    drawn = torch.rand(len(rows), 1, generator=generator, dtype=torch.float64, device="cpu")
    exponents = 1 - drawn / 3
    step = precision ** exponents.to(centres.device) * (
        _gaussian(function, len(rows), generator) + centres.abs()
    )
    gaps, scales = gaps_between(function, *_either_side(centres, step), rows)
    largest = (gaps / scales.clamp_min(torch.finfo(torch.float64).tiny)).max()
    return max(4 * float(largest), least_rounding(function))


def least_rounding(function: Rows) -> float:
    """What :func:`rounding` is at least."""
    return 4 * max(function.precision, _ACCURACY)
