"""The walks of one network and one task."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from convexinit.level_sets import ConvexFunction, LevelSetError, walk_level_set
from convexinit.molecules.codec import Codec
from convexinit_paper.data.encoded import EncodedData
from convexinit_paper.experiments.level_sets.molecules import Library, draw, low_window
from convexinit_paper.experiments.level_sets.settings import LevelSetSettings
from convexinit_paper.training.randomness import seeded_generator


@dataclass(frozen=True)
class Walks:
    """Walks of one network and one task, ``n`` of them.

    Attributes:
        start: rows of the library, ``[n]``.
        target: rows of the library, ``[n]``.
        segment: evenly spaced points between start and target, ``[n, steps + 1, dimensions]``.
        interior: ``[n, dimensions]``; rows of NaN where descent is to find it.
        level: logits ``[n]``.
        mean_logit: of the mean code of the molecules that are predicted less toxic than all starts;
            at most their mean, if the network is convex.
        points: ``[n, steps + 1, dimensions]``; NaN for a walk that failed.
        status: per walk "walked" or why it failed.
    """

    start: Tensor
    target: Tensor
    segment: Tensor
    interior: Tensor
    level: Tensor
    mean_logit: float
    points: Tensor
    status: list[str]


def prediction(network: nn.Module, data: EncodedData, column: int) -> ConvexFunction:
    """The logit of one task as a function of codes ``[n, dimensions]``, without gradient.

    Args:
        network: a single one, in evaluation mode and float64.
        data: which scales the codes.
        column: of the task.
    """

    def logit(codes: Tensor) -> Tensor:
        return network.requires_grad_(False)(data.inputs(codes))[:, column]

    return logit


def walk(
    f: ConvexFunction,
    values: Tensor,
    library: Library,
    codec: Codec,
    settings: LevelSetSettings,
    seed: int,
    task: str,
) -> Walks:
    """Draw starts and targets, and walk from the ones towards the others.

    The order in which molecules are considered depends on seed and task alone, so that all model
    variants have the same targets, and the same starts as far as these are low for all of them.

    Args:
        f: see :func:`prediction`.
        values: ``[n]``, of ``f`` for the molecules of the library.
        library: where molecules are drawn from.
        codec: of the codes.
        settings: see there.
        seed: of the order.
        task: its name.

    Raises:
        ConfigError: no molecule returns from its code.
    """
    lower, upper = low_window(values, settings.low_toxicity)
    orders = [
        torch.randperm(len(values), generator=seeded_generator(seed, f"{end}/{task}"))
        for end in ("starts", "targets")
    ]
    low = (values > lower) & (values <= upper)
    start = draw(orders[0][low[orders[0]]], settings.trajectories, library, codec, settings)
    # A target that is a start elsewhere is fine; one that is its own start is not.
    target = draw(orders[1], len(start), library, codec, settings)[: len(start)]
    start = start[: len(target)]
    target = torch.where(target == start, target.roll(1), target)
    share = torch.linspace(0.0, 1.0, settings.steps + 1, dtype=values.dtype).view(-1, 1)
    start_codes, target_codes = (library.codes[rows].unsqueeze(1) for rows in (start, target))
    segment = torch.lerp(start_codes, target_codes, share)
    interior = interior_point(values, lower, library.codes, settings.interior)
    interior = interior.expand(len(start), -1)
    clamp = library.clamp if settings.region == "box" else None
    points, status = walk_where_possible(f, segment, interior, settings, clamp)
    mean = float(f(interior_point(values, lower, library.codes, "mean").unsqueeze(0)))
    return Walks(start, target, segment, interior, values[start], mean, points, status)


def interior_point(values: Tensor, lower: float, codes: Tensor, choice: str) -> Tensor:
    """The point from which rays start, ``[dimensions]``; NaN for "descent"."""
    if choice == "mean":
        return codes[values <= lower].mean(0)
    if choice == "lowest":
        return codes[values.argmin()]
    return torch.full_like(codes[0], torch.nan)


def walk_where_possible(
    f: ConvexFunction,
    segment: Tensor,
    interior: Tensor,
    settings: LevelSetSettings,
    clamp: Callable[[Tensor], Tensor] | None = None,
) -> tuple[Tensor, list[str]]:
    """Walk all rows; those that cannot be walked do not keep the others.

    Args:
        f: the function.
        segment: ``[n, steps + 1, d]``, from start to target.
        interior: ``[n, d]``, NaN for descent.
        settings: the method.
        clamp: the projection onto a convex region that holds segment and interior; None for no
            bounds.

    Returns:
        Points ``[n, steps + 1, d]``, NaN where a walk failed; and the status of each walk, as in
        :class:`Walks`.
    """

    def clamped(points: Tensor) -> Tensor:
        # Not convex beyond the region, which the walk does not need: a root of this function is a
        # point beyond it whose projection is on the level.
        return f(points if clamp is None else clamp(points))

    points = torch.full_like(segment, torch.nan)
    status = ["walked"] * len(segment)
    going = torch.arange(len(segment))
    while len(going):
        try:
            points[going] = walk_level_set(
                clamped,
                segment[going, 0],
                segment[going, -1],
                settings.steps,
                settings.method,
                settings.tol,
                None if settings.interior == "descent" else interior[going],
            )
            break
        except LevelSetError as error:
            for row in error.rows:
                status[going[row]] = str(error).split(" in row(s)")[0]
            good = torch.ones(len(going), dtype=torch.bool)
            good[error.rows] = False
            going = going[good]
    return points if clamp is None else clamp(points), status
