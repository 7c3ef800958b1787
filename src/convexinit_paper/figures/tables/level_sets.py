"""Table "level-sets": what walks along level sets are like, by model variant and task.

The non-convex network is the contrast: the columns "crossed twice", "mean above" and "midpoints
above" are zero for a convex one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from convexinit_paper.figures.select import Selection
from convexinit_paper.figures.text import markdown_table
from convexinit_paper.figures.variants import title_of
from convexinit_paper.store.runs import Run

# Columns for people: title, metric, and format; two metrics are joined by "to".
COLUMNS: Mapping[str, tuple[tuple[str, ...], str]] = {
    "at bottom": (("at_bottom",), "{:.0%}"),
    "walks": (("trajectories",), "{:.0f}"),
    "failed": (("failed",), "{:.0%}"),
    "residual": (("residual",), "{:.0e}"),
    "crossed twice": (("crossed_twice",), "{:.1%}"),
    "mean above": (("mean_above",), "{:.0%}"),
    "midpoints above": (("midpoints_above",), "{:.1%}"),
    "valid": (("valid",), "{:.0%}"),
    "distinct": (("distinct",), "{:.1f}"),
    "toxicity": (("toxicity",), "{:.1%}"),
    "QED": (("qed_min", "qed_max"), "{:.2f}"),
    "QED range": (("qed_range",), "{:.2f}"),
    "change after decoding": (("own_change",), "{:.3f}"),
    "change of targets": (("target_change",), "{:.3f}"),
    "still low": (("still_low",), "{:.0%}"),
    "by chance": (("low_by_chance",), "{:.0%}"),
    "similarity to start": (("similarity_start",), "{:.2f}"),
    "to target": (("similarity_target",), "{:.2f}"),
    "of both": (("similarity_ends",), "{:.2f}"),
}
NOTE = """
Walks are those of one seed; of several seeds the mean is given. Shares: of known molecules *at* the
flat *bottom* of the network, where no walk can start; of walks that *failed*; of
rays from the interior point that *crossed* the level *twice* or more; of walks whose level the
*mean* code of less toxic molecules is *above*; of *midpoints* of two points of a walk that are
*above* its level; of decoded strings that are *valid* molecules. Medians: number of *distinct*
molecules on a walk; predicted *toxicity* (the same along a walk); smallest and largest *QED* on a
walk. Similarities are Tanimoto (ECFP4). A decoded molecule has a code of its own, which is not the
point it was decoded from: *change after decoding* is the median distance of its prediction from the
level, in logits, beside that of *targets* drawn at random; *still low* is the share of molecules
whose own prediction is within the range in which starts were drawn, or lower, beside the share of
all known molecules for which that holds *by chance*.
"""


def table(selections: Sequence[Selection]) -> pd.DataFrame:
    """One row per model variant and task.

    Returns:
        ``dataset, codec, model, task, seeds``, the mean over the seeds of each metric of
        :func:`convexinit_paper.experiments.level_sets.summarise`, and ``low_by_chance``, which
        ``still_low`` would be for molecules drawn at random: all that are at the bottom, and of the
        others a share that is an option of the run.
    """
    parts = [
        _means(run).assign(
            dataset=run.summary["dataset"],
            codec=run.config["codec"]["name"],
            model=title_of(model),
            seeds=run.metrics["seed"].nunique(),
        )
        for selection in selections
        for model, run in selection.runs.items()
    ]
    labels = ["dataset", "codec", "model", "task", "seeds"]
    numbers = pd.concat(parts, ignore_index=True)
    return numbers[[*labels, *(name for name in numbers if name not in labels)]]


def _means(run: Run) -> pd.DataFrame:
    """One row per task, one column per metric, in the order of the run."""
    wide = run.metrics.pivot_table(
        "value", "split", "metric", aggfunc="mean", sort=False, dropna=False
    )
    columns = run.metrics["metric"].unique()
    highest = run.config["level_sets"]["low_toxicity"][1]
    wide = wide[columns].assign(low_by_chance=wide["at_bottom"] * (1 - highest) + highest)
    return wide.rename_axis("task").rename_axis(None, axis=1).reset_index()


def markdown(numbers: pd.DataFrame) -> str:
    """The table for people."""
    labels = ["dataset", "codec", "model", "task"]
    rows = [
        [
            *(str(row[label]) for label in labels),
            *(
                " to ".join("–" if pd.isna(row[name]) else form.format(row[name]) for name in names)
                for names, form in COLUMNS.values()
            ),
        ]
        for row in numbers.to_dict("records")
    ]
    return markdown_table(["data set", *labels[1:], *COLUMNS], rows) + NOTE
