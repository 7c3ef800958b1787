"""The options of the section ``level_sets``."""

from __future__ import annotations

from dataclasses import dataclass

from convexinit_paper.request.options import Range, Section, above, at_least, one_of, option


@dataclass(frozen=True)
class LevelSetSettings(Section):
    """Which walks; defaults in ``conf/experiment``."""

    tasks: list[str] | None = option(
        "names of the predictions to keep constant; None for the first two of the data set"
    )
    trajectories: int = option(
        "per task; there are fewer where fewer molecules qualify, and none for a network that "
        "predicts the same for all molecules",
        at_least(1),
    )
    steps: int = option("of each walk", at_least(1))
    method: str = option(
        "see convexinit.level_sets.walk_level_set", one_of(("interpolate", "track"))
    )
    tol: float = option("its tolerance on the logit", above(0))
    low_toxicity: list[float] = option(
        "lower and upper quantile of the predictions, between which walks start. Molecules at the "
        "minimum do not count, because their level set has no interior; a ReLU network can have a "
        "flat bottom with many of them. What is not above the lower quantile makes the interior "
        "point",
        Range(
            "two quantiles in [0, 1], the lower one first",
            lambda pair: len(pair) == 2 and 0 <= pair[0] < pair[1] <= 1,
        ),
    )
    interior: str = option(
        "mean of the codes of these molecules, lowest of them, or descent from the segment, which "
        "leaves the region of known molecules",
        one_of(("mean", "lowest", "descent")),
    )
    region: str = option(
        "box to keep every dimension of a point within its range over the known codes",
        one_of(("box", "everywhere")),
    )
    round_trip: bool = option(
        "whether walks start at and lead to only molecules whose codes are decoded to them again"
    )
    beam: int = option("width of the beam search that decodes points; 1 is greedy", at_least(1))
