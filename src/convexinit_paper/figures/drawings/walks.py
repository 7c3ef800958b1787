"""Figure 4: one walk along a level set of predicted toxicity per task, with its molecules.

Which walk is shown is not chosen by hand: of the first seed, the one with the most distinct valid
molecules, and of several such the one with the widest range of QED. Between start and target, at
most five of these molecules are shown, evenly spread over the walk.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from convexinit_paper.figures import style
from convexinit_paper.figures.drawings.molecule import draw_molecule
from convexinit_paper.figures.select import Selection
from convexinit_paper.figures.variants import title_of
from convexinit_paper.store.errors import RunError
from convexinit_paper.store.runs import Run

BETWEEN = 5  # molecules shown between start and target
ROW_HEIGHT = 1.3  # inches
HEADER_HEIGHT = 0.3
FOOTER_HEIGHT = 0.36


def table(selections: Sequence[Selection]) -> pd.DataFrame:
    """The molecules in the figure, in order.

    Returns:
        ``task, seed, trajectory, role`` ("start", "level set", "target"), ``point`` (of the walk;
        empty for the target, which is not on the level set), ``smiles, toxicity`` (predicted
        probability, at the point of the walk), ``own_toxicity`` (predicted from the molecule's own
        code; empty if it has none), ``qed``, ``similarity_start``, ``similarity_target``.

    Raises:
        RunError: no walk of the run has a valid molecule.
    """
    (selection,) = selections
    (run,) = selection.runs.values()
    tasks = run.summary["tasks"]
    return pd.concat([example(run, task) for task in tasks], ignore_index=True)


def example(run: Run, task: str) -> pd.DataFrame:
    """Molecules of the walk that is shown for a task; columns as in :func:`table`.

    Raises:
        RunError: there is no walk.
    """
    walks, points = stored_table(run, "trajectories"), stored_table(run, "points")
    walks, points = walks[walks["task"] == task], points[points["task"] == task]
    seed = walks["seed"].min()
    walks = walks[(walks["seed"] == seed) & (walks["status"] == "walked") & walks["in_box"]]
    valid = points[
        (points["seed"] == seed)
        & points["trajectory"].isin(walks["trajectory"])
        & (points["smiles"] != "")
    ]
    if valid.empty:
        raise RunError(f"the run in {run.folder} has no walk for {task} that could be shown.")
    merits = valid.groupby("trajectory").agg(
        distinct=("smiles", "nunique"), low=("qed", "min"), high=("qed", "max")
    )
    merits["range"] = merits["high"] - merits["low"]
    number = merits.sort_values(["distinct", "range"], ascending=False, kind="stable").index[0]
    walk = walks.set_index("trajectory").loc[number]
    ends = [walk["start"], walk["target"]]
    distinct = valid[valid["trajectory"] == number].drop_duplicates("smiles")
    between = distinct[~distinct["smiles"].isin(ends)]
    shown = np.linspace(0, len(between) - 1, min(BETWEEN, len(between))).round().astype(int)
    rows = [
        {
            "role": "level set",
            "point": row["point"],
            "smiles": row["smiles"],
            "toxicity": sigmoid(row["logit"]),
            "own_toxicity": sigmoid(row["own_logit"]),
            "qed": row["qed"],
            "similarity_start": row["similarity_start"],
            "similarity_target": row["similarity_target"],
        }
        for row in between.iloc[shown].to_dict("records")
    ]
    for role, logit, place in (("start", "level", 0), ("target", "target_logit", len(rows) + 1)):
        row = {
            "role": role,
            "point": 0 if role == "start" else np.nan,
            "smiles": walk[role],
            "toxicity": sigmoid(walk[logit]),
            "own_toxicity": sigmoid(walk[logit]),
            "qed": walk[f"{role}_qed"],
            "similarity_start": 1.0 if role == "start" else walk["similarity"],
            "similarity_target": 1.0 if role == "target" else walk["similarity"],
        }
        rows.insert(place, row)
    result = pd.DataFrame(rows)
    result.insert(0, "task", task)
    result.insert(1, "seed", seed)
    result.insert(2, "trajectory", number)
    return result


def stored_table(run: Run, name: str) -> pd.DataFrame:
    """A table that a run keeps in its arrays, one array per column.

    Raises:
        RunError: the run has no such table.
    """
    columns = {
        key.removeprefix(f"{name}."): values
        for key, values in run.arrays.items()
        if key.startswith(f"{name}.")
    }
    if not columns:
        raise RunError(f"the run in {run.folder} has no table of {name}: all seeds diverged.")
    return pd.DataFrame(columns)


def sigmoid(logit: float) -> float:
    """Probability of a logit.

    Example:
        >>> sigmoid(0.0)
        0.5
    """
    return float(1.0 / (1.0 + np.exp(-logit)))


def draw(selections: Sequence[Selection], numbers: pd.DataFrame) -> Figure:
    """Draw one row per task.

    Args:
        selections: those of the one panel.
        numbers: from :func:`table`.
    """
    (selection,) = selections
    ((model, run),) = selection.runs.items()
    tasks = list(dict.fromkeys(numbers["task"]))
    columns = BETWEEN + 2
    height = HEADER_HEIGHT + ROW_HEIGHT * len(tasks) + FOOTER_HEIGHT
    figure = Figure(figsize=(style.TEXT_WIDTH, height))
    for index, task in enumerate(tasks):
        here = numbers[numbers["task"] == task].to_dict("records")
        top = 1 - (HEADER_HEIGHT + ROW_HEIGHT * index) / height
        places = [0, *_spread(len(here) - 2), columns - 1]
        for place, row in zip(places, here, strict=True):
            # 0.46 inches below are for text, 0.16 above for the task.
            axes = figure.add_axes(
                (
                    place / columns,
                    top - (ROW_HEIGHT - 0.46) / height,
                    1 / columns,
                    (ROW_HEIGHT - 0.62) / height,
                )
            )
            _draw_cell(axes, row)
        figure.text(0.008, top, task, va="top", fontweight="bold", fontsize=7.5)
        final = run.summary["seeds"][str(here[0]["seed"])]
        if final.get(f"test_auroc_{task}") is not None:
            score = f"test AUROC {final[f'test_auroc_{task}']:.2f}"
            figure.text(0.992, top, score, ha="right", va="top", fontsize=5.8, color=style.MUTED)
        if index:
            figure.add_artist(_rule(top + 0.07 / height))
    _draw_header(figure, columns)
    _draw_footer(figure, model, run, numbers)
    return figure


def _spread(count: int) -> list[int]:
    """Columns of the molecules between start and target, with gaps in the middle if need be."""
    return (
        [int(column) for column in np.linspace(1, BETWEEN, count).round()]
        if count > 1
        else ([(BETWEEN + 1) // 2] * count)
    )


def _rule(height: float) -> Line2D:
    return Line2D([0.008, 0.992], [height, height], color=style.MUTED, linewidth=0.3)


def _draw_cell(axes: Axes, row: dict[str, Any]) -> None:
    draw_molecule(axes, row["smiles"])
    own = "–" if np.isnan(row["own_toxicity"]) else percent(row["own_toxicity"])
    lines = [
        (f"QED {row['qed']:.2f}", "black", "bold"),
        (f"predicted {percent(row['toxicity'])}", "black", "normal"),
    ]
    if row["role"] == "level set":
        lines.append((f"decoded {own}", style.MUTED, "normal"))
    for line, (text, colour, weight) in enumerate(lines):
        axes.annotate(
            text, (0.5, 0), (0, -2 - 8 * line), xycoords="axes fraction",
            textcoords="offset points", ha="center", va="top", fontsize=6.5,
            color=colour, fontweight=weight,
        )  # fmt: skip


def _draw_header(figure: Figure, columns: int) -> None:
    y = 1 - 0.06 / figure.get_figheight()
    texts = ("start", "target")
    for text, place in zip(texts, (0.5, columns - 0.5), strict=True):
        figure.text(place / columns, y, text, ha="center", va="top", fontsize=7.5)
    figure.text(0.5, y, "level set", ha="center", va="top", fontsize=7.5)
    arrow = {"arrowstyle": "->", "color": style.MUTED, "linewidth": 0.6}
    line = 1 - 0.12 / figure.get_figheight()
    for begin, end in ((1.05 / columns, 0.44), (0.56, (columns - 1.05) / columns)):
        figure.axes[0].annotate(
            "", (end, line), (begin, line), xycoords="figure fraction",
            textcoords="figure fraction", arrowprops=arrow, annotation_clip=False,
        )  # fmt: skip


def _draw_footer(figure: Figure, model: str, run: Run, numbers: pd.DataFrame) -> None:
    codec = f"{run.config['codec']['name']} codes ({run.summary['codec'][:8]})"
    seed = numbers["seed"].iloc[0]
    lines = [
        f"Walks with the most distinct molecules. {run.summary['dataset']}, {codec}, "
        f"{title_of(model)}, seed {seed}.",
        "predicted: probability of the label at the point of the walk; decoded: the same for the "
        "code of the decoded molecule.",
    ]
    for line, text in enumerate(lines):
        figure.text(
            0.008, (0.2 - 0.11 * line) / figure.get_figheight(), text,
            color=style.MUTED, fontsize=5.8, va="center",
        )  # fmt: skip


def percent(probability: float) -> str:
    """A probability in percent with two significant digits.

    Example:
        >>> [percent(value) for value in (0.0148, 0.25, 0.0004)]
        ['1.5%', '25%', '0.04%']
    """
    value = 100 * probability
    return f"{value:.2f}%" if value < 0.1 else f"{value:.1f}%" if value < 10 else f"{value:.0f}%"
