"""Figure 4: walks between molecules along the level sets of predicted toxicity.

One network per seed is trained as for Table 1. Per task, walks start at molecules whose predicted
toxicity is low and lead towards molecules drawn at random; every point is decoded and judged.

Where the walks go: rays start at an interior point, by default the code of the molecule that is
predicted least toxic. Points of the segment from start to target that are above the level are
pulled towards it, and so stay in the convex hull of the codes of known molecules. Points below the
level are pushed outwards until they meet it, and would often leave the cube (-1, 1) that holds all
codes. So, unless ``level_sets.region=everywhere``, a ray that meets a face of the box of known
codes goes on along it.

A network that is not convex is the contrast: its rays may cross the level several times, what lies
between two points of a walk may be above it, and so may the mean code of molecules that are below.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
import torch
from rdkit import Chem, DataStructs
from rdkit.Chem import QED, rdFingerprintGenerator
from torch import Tensor, nn

from convexinit.dropout import seed_dropout_
from convexinit.level_sets import ConvexFunction, LevelSetError, walk_level_set
from convexinit.molecules.chemistry import canonical
from convexinit.molecules.codec import Codec
from convexinit.stacking import unstack_network
from convexinit_paper.experiments.tox21 import (
    CodecSettings,
    Prepared,
    count_reasons,
    open_codec,
    prepare,
    train_networks,
)
from convexinit_paper.experiments.training_dynamics import final_metrics
from convexinit_paper.progress import counted
from convexinit_paper.request.config import ConfigError, checked, parse_seeds, require
from convexinit_paper.store.runs import COLUMNS, Outcome
from convexinit_paper.training.machine import device_name, prepare_process
from convexinit_paper.training.randomness import seeded_generator
from convexinit_paper.training.settings import TrainerSettings

METHODS = ("interpolate", "track")
INTERIORS = ("mean", "lowest", "descent")
REGIONS = ("box", "everywhere")
# Where rays are looked at: from the interior point to twice the distance of the segment.
RAY = torch.linspace(0.0, 2.0, 65, dtype=torch.float64)
WALKS_AT_ONCE = 16  # of which rays are looked at: bounds the memory


@dataclass(frozen=True)
class LevelSetSettings:
    """Which walks; defaults in ``conf/experiment``.

    Attributes:
        tasks: names of the predictions to keep constant; None for the first two of the data set.
        trajectories: per task, at least 1; there are fewer where fewer molecules qualify, and none
            for a network that predicts the same for all molecules.
        steps: of each walk, at least 1.
        method: "interpolate" or "track", see :func:`convexinit.level_sets.walk_level_set`.
        tol: its tolerance on the logit, greater than 0.
        low_toxicity: ``[lower, upper]`` with 0 <= lower < upper <= 1: two quantiles of the
            predictions, between which walks start. Molecules at the minimum do not count, because
            their level set has no interior; a ReLU network can have a flat bottom with many of
            them. What is not above the lower quantile makes the interior point.
        interior: "mean" of the codes of these molecules, "lowest" of them, or "descent" from the
            segment, which leaves the region of known molecules.
        region: "box" to keep every dimension of a point within its range over the known codes, or
            "everywhere".
        round_trip: whether walks start at and lead to only molecules whose codes are decoded to
            them again.
        beam: width of the beam search that decodes points, at least 1 (greedy).
    """

    tasks: list[str] | None
    trajectories: int
    steps: int
    method: str
    tol: float
    low_toxicity: list[float]
    interior: str
    region: str
    round_trip: bool
    beam: int

    def __post_init__(self) -> None:
        for name in ("trajectories", "steps", "beam"):
            value = getattr(self, name)
            require(value >= 1, f"level_sets.{name}", "at least 1", value)
        for name, choices in (("method", METHODS), ("interior", INTERIORS), ("region", REGIONS)):
            value = getattr(self, name)
            require(value in choices, f"level_sets.{name}", f"one of {', '.join(choices)}", value)
        require(0.0 < self.tol < float("inf"), "level_sets.tol", "above 0", self.tol)
        require(
            len(self.low_toxicity) == 2
            and 0.0 <= self.low_toxicity[0] < self.low_toxicity[1] <= 1.0,
            "level_sets.low_toxicity",
            "two quantiles in [0, 1], the lower one first",
            self.low_toxicity,
        )


@dataclass(frozen=True)
class Library:
    """Known molecules, each once.

    Attributes:
        smiles: as in the data set.
        codes: float64 ``[n, dimensions]``.
    """

    smiles: list[str]
    codes: Tensor

    def clamp(self, points: Tensor) -> Tensor:
        """The closest points ``[..., dimensions]`` in the box of the codes."""
        return points.clamp(self.codes.amin(0), self.codes.amax(0))


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


def run(config: dict[str, Any]) -> Outcome:
    """Train, walk, decode and judge.

    In the table, ``split`` is the task; ``epoch`` and ``step`` count the training of the network
    that is walked. The metrics are those of :func:`summarise`. The arrays hold two tables, column
    by column: "trajectories.*" with one row per walk and "points.*" with one row per point.
    """
    prepare_process()
    seeds = parse_seeds(config["seeds"])
    settings = checked(LevelSetSettings, config["level_sets"], "level_sets")
    codec_settings = checked(CodecSettings, config["codec"], "codec")
    codec = open_codec(codec_settings, config["data_dir"])
    require(
        type(codec).decode is not Codec.decode,
        "codec.name",
        "one whose codes can be decoded: codec=autoencoder or codec=cddd",
        codec.name,
    )
    data = prepare(config, codec, codec_settings.standardise)
    tasks = choose_tasks(settings.tasks, data.tasks)
    stack, history = train_networks(config, data, seeds)
    final = final_metrics(history, seeds)
    library = known_molecules(data)

    rows: list[tuple[int, int, int, str, str, float]] = []
    trajectories, points = [], []
    when = (config["trainer"]["epochs"], history.batch_losses.shape[1])
    seed_dropout_(stack, [])  # generators cannot be copied, and are of no more use
    networks = {
        seed: unstack_network(stack, index).cpu().double().eval()
        for index, (seed, diverged) in enumerate(zip(seeds, history.diverged_at, strict=True))
        if diverged is None
    }
    pairs = list(product(networks, tasks))
    for seed, task in counted(pairs, "walks", len(pairs), "pairs of seed and task"):
        f = prediction(networks[seed], data, data.tasks.index(task))
        values = f(library.codes)
        walks = walk(f, values, library, codec, settings, seed, task)
        walked, judged = judge(f, walks, library, codec, settings)
        _, low = low_window(values, settings.low_toxicity)
        summary = {
            "at_bottom": float(at_bottom(values).double().mean()),
            **summarise(walked, judged, low),
        }
        rows += [(seed, *when, task, metric, value) for metric, value in summary.items()]
        final[seed] |= {f"{task}_{metric}": value for metric, value in summary.items()}
        trajectories.append(walked.assign(seed=seed, task=task))
        points.append(judged.assign(seed=seed, task=task))
    trainer = checked(TrainerSettings, config["trainer"], "trainer")
    return Outcome(
        pd.DataFrame(rows, columns=COLUMNS),
        final,
        device_name(trainer.torch_device()),
        arrays={**as_arrays("trajectories", trajectories), **as_arrays("points", points)},
        notes={
            "dataset": data.title,
            "tasks": tasks,
            "codec": codec.digest,
            "data": data.notes,
            "molecules": len(library.smiles),
            "excluded": {name: count_reasons(part.excluded) for name, part in data.sets.items()},
        },
        earlier=history.earlier,
    )


def choose_tasks(names: list[str] | None, tasks: Sequence[str]) -> list[str]:
    """The tasks of those names; the first two without names.

    Raises:
        ConfigError: an unknown, repeated or missing name.
    """
    chosen = list(tasks[:2]) if names is None else names
    unknown = [name for name in chosen if name not in tasks]
    require(
        bool(chosen) and not unknown and len(set(chosen)) == len(chosen),
        "level_sets.tasks",
        f"null or distinct names among {', '.join(tasks)}",
        names,
    )
    return chosen


def known_molecules(data: Prepared) -> Library:
    """All molecules of the data set that have a code, each SMILES once."""
    codes = {
        smiles: code
        for part in data.sets.values()
        for smiles, code in zip(part.smiles, part.codes, strict=True)
    }
    return Library(list(codes), torch.stack(list(codes.values())).double())


def prediction(network: nn.Module, data: Prepared, column: int) -> ConvexFunction:
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


def at_bottom(values: Tensor) -> Tensor:
    """Which of values ``[n]`` are the lowest, up to rounding."""
    lowest = values.min()
    return values <= lowest + 1e-9 * lowest.abs().clamp_min(1.0)


def low_window(values: Tensor, quantiles: Sequence[float]) -> tuple[float, float]:
    """Values at two quantiles of those that are not the lowest; all the lowest if there are none.

    Example:
        >>> low_window(torch.tensor([1.0, 1.0, 1.0, 2.0, 3.0, 4.0]), [0.0, 0.5])
        (2.0, 3.0)
    """
    above = values[~at_bottom(values)]
    lower, upper = (above if len(above) else values[:1]).quantile(values.new_tensor(quantiles))
    return float(lower), float(upper)


def draw(
    order: Tensor, count: int, library: Library, codec: Codec, settings: LevelSetSettings
) -> Tensor:
    """The first ``count`` rows of ``order``, of molecules that return if ``settings`` ask for it.

    Returns:
        At most ``count`` rows; fewer if there are not as many.

    Raises:
        ConfigError: no molecule returns.
    """
    found = order[:0]
    for rows in order.split(max(1, count + count // 4)):
        kept = rows[returns(codec, library, rows, settings.beam)] if settings.round_trip else rows
        found = torch.cat([found, kept])[:count]
        if len(found) == count:
            break
    if count and len(order) and not len(found):
        raise ConfigError(
            f"level_sets.round_trip is true, but none of {len(order)} molecules returns from its "
            f"code of the codec {codec.name}; level_sets.round_trip=false accepts all"
        )
    return found


def returns(codec: Codec, library: Library, rows: Tensor, beam: int) -> Tensor:
    """Whether the codes of molecules are decoded to the same molecules, ``[len(rows)]``."""
    prepared = codec.prepare([library.smiles[row] for row in rows])
    decoded = codec.decode(library.codes[rows].float().numpy(), beam)
    same = [canonical(text) == item.smiles for text, item in zip(decoded, prepared, strict=True)]
    return torch.tensor(same, dtype=torch.bool)


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


# --- What the walks are like ----------------------------------------------------------------------


def judge(
    f: ConvexFunction, walks: Walks, library: Library, codec: Codec, settings: LevelSetSettings
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Decode all points and measure what there is to measure.

    Returns:
        One row per walk: ``trajectory`` (its number), ``status``, ``start``, ``target`` (canonical
        SMILES), ``level``, ``target_logit``, ``start_qed``, ``target_qed``, ``similarity`` (of
        start and target), ``residual`` (the largest ``|f - level| / max(1, |level|)``),
        ``in_box`` (all of its points), ``mean_above`` (whether the mean code of the molecules that
        are predicted less toxic is not below the level), ``crossed_twice`` (share of rays that
        cross the level more than once), ``midpoints_above`` (share of the midpoints between two of
        its points that are above the level) and ``midpoint_excess`` (by how much at most, in
        logits).

        And one row per point: ``trajectory``, ``point`` (0 is the start), ``text`` (as decoded),
        ``smiles`` (canonical, empty if not valid), ``qed``, ``logit`` (of the code),
        ``own_logit`` (of the code of the decoded molecule), ``similarity_start``,
        ``similarity_target``, ``in_box``, ``in_hull`` (certainly in the convex hull of known
        codes). Walks that failed have none.
    """
    walked = torch.tensor([status == "walked" for status in walks.status], dtype=torch.bool)
    numbers = walked.nonzero().squeeze(1)
    points = walks.points[numbers]
    count, length, _ = points.shape
    allowed = settings.tol * walks.level.abs().clamp_min(1.0)

    starts, targets = (
        [str(item.smiles) for item in codec.prepare([library.smiles[row] for row in rows])]
        for rows in (walks.start, walks.target)
    )
    texts = codec.decode(points.flatten(0, 1).float().numpy(), settings.beam) if count else []
    smiles = [canonical(text) or "" for text in texts]
    logits = f(points.flatten(0, 1))
    in_box = (points == library.clamp(points)).all(2)
    of_point = numbers.repeat_interleave(length).tolist()
    judged = pd.DataFrame(
        {
            "trajectory": of_point,
            "point": list(range(length)) * count,
            "text": texts,
            "smiles": smiles,
            "qed": [qed(text) for text in smiles],
            "logit": logits.numpy(),
            "own_logit": own_values(f, codec, smiles).numpy(),
            "similarity_start": [
                similarity(text, starts[row]) for text, row in zip(smiles, of_point, strict=True)
            ],
            "similarity_target": [
                similarity(text, targets[row]) for text, row in zip(smiles, of_point, strict=True)
            ],
            "in_box": in_box.flatten().numpy(),
            "in_hull": in_hull(f, walks, settings)[numbers].flatten().numpy(),
        }
    )
    residual = torch.full_like(walks.level, torch.nan)
    residual[numbers] = (logits.view(count, length) - walks.level[numbers].unsqueeze(1)).abs().amax(
        1
    ) / walks.level[numbers].abs().clamp_min(1.0)
    above, excess = midpoints(f, walks.points, walks.level, allowed)
    inside = torch.zeros_like(walked)
    inside[numbers] = in_box.all(1)
    table = pd.DataFrame(
        {
            "trajectory": range(len(walked)),
            "status": walks.status,
            "start": starts,
            "target": targets,
            "level": walks.level.numpy(),
            "target_logit": f(library.codes[walks.target]).numpy(),
            "start_qed": [qed(text) for text in starts],
            "target_qed": [qed(text) for text in targets],
            "similarity": [similarity(*pair) for pair in zip(starts, targets, strict=True)],
            "residual": residual.numpy(),
            "in_box": inside.numpy(),
            "mean_above": (walks.mean_logit >= walks.level).numpy(),
            "crossed_twice": crossed_twice(
                f, walks.segment, walks.interior, walks.level, allowed
            ).numpy(),
            "midpoints_above": above.numpy(),
            "midpoint_excess": excess.numpy(),
        }
    )
    return table, judged


def in_hull(f: ConvexFunction, walks: Walks, settings: LevelSetSettings) -> Tensor:
    """Whether points are certainly in the convex hull of known codes, ``[n, steps + 1]``.

    Those that interpolation pulls inwards are: they lie between a point of the segment and the
    interior point, both of which are in the hull. Of others it is not known, except for the start.
    """
    certain = torch.zeros(walks.segment.shape[:2], dtype=torch.bool)
    if settings.method == "interpolate" and settings.interior != "descent":
        values = f(walks.segment.flatten(0, 1)).view(certain.shape)
        certain = values >= walks.level.unsqueeze(1)
    certain[:, 0] = True
    return certain


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


def own_values(f: ConvexFunction, codec: Codec, smiles: list[str]) -> Tensor:
    """Values of ``f`` for the molecules' own codes, ``[n]``; NaN for those without code."""
    values = torch.full((len(smiles),), torch.nan, dtype=torch.float64)
    rows = [row for row, text in enumerate(smiles) if text]
    with warnings.catch_warnings():
        # The codec's warning about molecules without code: the value tells.
        warnings.simplefilter("ignore")
        codes = codec.encode([smiles[row] for row in rows])
    values[rows] = f(torch.from_numpy(codes).double())
    return values


@cache
def qed(smiles: str) -> float:
    """Quantitative estimate of drug-likeness (Bickerton et al. 2012), in [0, 1]; NaN if empty.

    Example:
        >>> round(qed("CC(=O)Oc1ccccc1C(=O)O"), 2)
        0.55
    """
    return float(QED.qed(Chem.MolFromSmiles(smiles))) if smiles else float("nan")


@cache
def fingerprint(smiles: str) -> DataStructs.ExplicitBitVect:
    """ECFP4 of 2048 bits."""
    return _MORGAN.GetFingerprint(Chem.MolFromSmiles(smiles))


_MORGAN = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)


def similarity(first: str, second: str) -> float:
    """Tanimoto similarity of two molecules by ECFP4, in [0, 1]; NaN if one is empty."""
    if not first or not second:
        return float("nan")
    return float(DataStructs.TanimotoSimilarity(fingerprint(first), fingerprint(second)))


def summarise(trajectories: pd.DataFrame, points: pd.DataFrame, low: float) -> dict[str, float]:
    """What a set of walks was like, in numbers.

    Shares of walks are over all of them. What is said of molecules is over the walks that stay in
    the box of known codes; the start itself, which is given, does not count among the points.

    Args:
        trajectories: from :func:`judge`.
        points: from :func:`judge`.
        low: the logit below which predicted toxicity counts as low.

    Returns:
        - ``trajectories``, their number, and shares of them: ``failed``, ``left_box``
        - ``points_in_hull``: share of the points of all walks that are certainly in the hull
        - ``residual``: the largest; ``crossed_twice``, ``mean_above``, ``midpoints_above``: means;
          ``midpoint_excess``: the largest, in logits
        - ``valid``: share of points that decode to a molecule
        - medians over the walks: ``distinct`` (different molecules on it, with the start),
          ``qed_min``, ``qed_max``, ``qed_range``, and ``qed_gain``, the best QED of a molecule
          that is still low, minus that of the start
        - ``toxicity``: median over the walks of the predicted probability, constant by design
        - ``own_change``: median over valid points of ``|own_logit - level|``; beside it
          ``target_change``, the same for the targets: how much molecules drawn at random differ
        - ``still_low``: share of the molecules whose own prediction is at most ``low``
        - ``similarity_start``, ``similarity_target``: medians over valid points;
          ``similarity_ends``: of start and target
    """
    walked = trajectories[trajectories["status"] == "walked"]
    kept = walked[walked["in_box"]]
    later = points[points["point"] > 0]
    inside = points[points["trajectory"].isin(kept["trajectory"])].merge(
        kept[["trajectory", "level", "start_qed"]], on="trajectory"
    )
    molecules = inside[inside["smiles"] != ""]
    new = molecules[molecules["point"] > 0]
    per_walk = molecules.groupby("trajectory")
    still_low = molecules[molecules["own_logit"] <= low]
    gain = (still_low["qed"] - still_low["start_qed"]).groupby(still_low["trajectory"]).max()
    extremes = per_walk["qed"].agg(["min", "max"])
    return {
        "trajectories": float(len(trajectories)),
        "failed": (trajectories["status"] != "walked").mean(),
        "left_box": 1.0 - len(kept) / len(walked) if len(walked) else float("nan"),
        "points_in_hull": later["in_hull"].astype(float).mean(),
        "residual": walked["residual"].max(),
        "crossed_twice": trajectories["crossed_twice"].mean(),
        "mean_above": trajectories["mean_above"].mean(),
        "midpoints_above": walked["midpoints_above"].mean(),
        "midpoint_excess": walked["midpoint_excess"].max(),
        "valid": (inside.loc[inside["point"] > 0, "smiles"] != "").mean(),
        "distinct": per_walk["smiles"].nunique().median(),
        "qed_min": extremes["min"].median(),
        "qed_max": extremes["max"].median(),
        "qed_range": (extremes["max"] - extremes["min"]).median(),
        "qed_gain": gain.median(),
        "toxicity": float(torch.tensor(kept["level"].median()).sigmoid()),
        "own_change": (new["own_logit"] - new["level"]).abs().median(),
        "target_change": (kept["target_logit"] - kept["level"]).abs().median(),
        "still_low": (new["own_logit"].dropna() <= low).mean(),
        "similarity_start": new["similarity_start"].median(),
        "similarity_target": new["similarity_target"].median(),
        "similarity_ends": kept["similarity"].median(),
    }


def as_arrays(name: str, tables: Iterable[pd.DataFrame]) -> dict[str, np.ndarray]:
    """One array per column of a table in parts; texts as Unicode, so that they load without code.

    Example:
        >>> as_arrays("t", [pd.DataFrame({"a": [1], "b": ["x"]})])
        {'t.a': array([1]), 't.b': array(['x'], dtype='<U1')}
    """
    parts = list(tables)
    if not parts:
        return {}
    table = pd.concat(parts, ignore_index=True)
    return {
        f"{name}.{column}": np.array(
            table[column].tolist(), dtype=None if table[column].dtype.kind in "fiub" else np.str_
        )
        for column in table
    }
