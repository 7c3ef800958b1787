"""Figure "your-network": how networks of others train from each of three starts.

The loss on the test set of every seed, relative to that of the best constant, by kind of network:
above at the author's depth, below at two to three times that. A triangle at the border stands for
higher losses and for trainings that diverged.
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
from convexinit_paper.figures.drawings.remarks import draw_remarks, height_of, remarks_on
from convexinit_paper.figures.select import Selection
from convexinit_paper.figures.text import markdown_table
from convexinit_paper.store.runs import Run

DEFAULT, GLUE, OURS = STARTS = ("default", "glue", "init_icnn_")
LABELS = {DEFAULT: "its author's start", GLUE: "the paper's moments by hand", OURS: "init_icnn_"}
COLOURS = dict(zip(STARTS, (style.VERMILION, style.SKY, style.BLUE), strict=True))
MARKERS = dict(zip(STARTS, ("o", "s", "D"), strict=True))
DEPTHS = ("the author's depth", "two to three times the depth")
HIGHEST = 100.0  # loss that is drawn
SPREAD = 0.5  # width that the starts of a kind share, in units of the axis
HEIGHT = 4.6  # inches, without remarks

# The targets, set before the runs that decide them.
TARGETS = ("works", "signal", "not worse", "factor of two", "cost")
MET, MISSED, NOT_ASKED = "met", "missed", ""
LARGEST_MEAN = 0.1
VARIANCES = (0.8, 1.2)
GROWTH = 3.0  # of the signal from layer to layer, from which on a factor of two is asked for
CHEAP = 10.0  # training steps


def table(selections: Sequence[Selection]) -> pd.DataFrame:
    """One row per kind and depth.

    Returns:
        ``kind, deep, hidden_layers``; the relative test loss after training from each start, its
        median, minimum and maximum over the seeds (``default``, ``default_min``, ...); ``growth``,
        by which the standard deviation of pre-activations grows from layer to layer at the
        author's start (geometric mean, median over the seeds); after ``init_icnn_``
        ``largest_mean``, the mean of a layer that is farthest from 0, and ``lowest_variance`` and
        ``highest_variance``, over layers and seeds; ``cost_steps`` of ``init_icnn_`` in training
        steps (median); and a verdict for each of :data:`TARGETS`, "met", "missed" or, where it
        does not apply, empty.
    """
    return pd.DataFrame(
        [row for selection in selections for run in selection.runs.values() for row in _rows(run)]
    )


def final_losses(run: Run) -> pd.DataFrame:
    """Relative test loss of every seed.

    Returns:
        ``seed, value, kind, hidden_layers, start, deep``.
    """
    losses = run.metrics.query("metric == 'test_loss'")
    losses = losses[losses["step"] == losses["step"].max()]
    parts = losses["split"].str.split("/", expand=True)
    result = losses[["seed", "value"]].assign(
        kind=parts[0], hidden_layers=parts[1].astype(int), start=parts[2]
    )
    author = result.groupby("kind")["hidden_layers"].transform("min")
    return result.assign(deep=result["hidden_layers"] > author)


def _rows(run: Run) -> list[dict[str, Any]]:
    losses = final_losses(run)
    rows = []
    for (deep, kind, depth), here in losses.groupby(["deep", "kind", "hidden_layers"], sort=False):
        of_start = {start: here.loc[here["start"] == start, "value"] for start in STARTS}
        row: dict[str, Any] = {
            "kind": run.summary["titles"][kind], "deep": deep, "hidden_layers": depth
        }  # fmt: skip
        for start, values in of_start.items():
            row |= {start: values.median(), f"{start}_min": values.min()}
            row |= {f"{start}_max": values.max()}
        row["growth"] = _growth(_signals(run, f"{kind}/{depth}/{DEFAULT}"))
        ours = _signals(run, f"{kind}/{depth}/{OURS}")
        row["largest_mean"] = ours["mean"].abs().max()
        row["lowest_variance"] = ours["variance"].min()
        row["highest_variance"] = ours["variance"].max()
        row["cost_steps"] = pd.Series(run.summary["cost"].get(f"{kind}/{depth}", [])).median()
        rows.append(row | _verdicts(row, len(here["seed"].unique()) == len(of_start[OURS])))
    return rows


def _signals(run: Run, split: str) -> pd.DataFrame:
    """``mean`` and ``variance`` at the start, by seed and layer (the index)."""
    rows = run.metrics[(run.metrics["split"] == split) & (run.metrics["metric"] != "test_loss")]
    signals = rows.pivot_table(index=["seed", "step"], columns="metric", values="value")
    return signals.reindex(columns=["mean", "variance"])


def _growth(signals: pd.DataFrame) -> float:
    """Factor of the standard deviation from layer to layer."""
    of_seed = signals["variance"].groupby("seed")
    layers = of_seed.size().max() - 1
    return float(((of_seed.last() / of_seed.first()) ** (0.5 / layers)).median())


def _verdicts(row: dict[str, Any], works: bool) -> dict[str, str]:
    """What is said of each of :data:`TARGETS`."""
    if not works:
        return {TARGETS[0]: MISSED, **dict.fromkeys(TARGETS[1:], NOT_ASKED)}
    low, high = VARIANCES
    asked = not 1 / GROWTH < row["growth"] < GROWTH
    met = {
        "works": True,
        "signal": row["largest_mean"] < LARGEST_MEAN
        and low <= row["lowest_variance"] <= row["highest_variance"] <= high,
        "not worse": row[OURS] <= row[DEFAULT]
        or row[OURS] - row[DEFAULT] <= row["default_max"] - row["default_min"],
        "factor of two": 2 * row[OURS] <= row[DEFAULT],
        "cost": row["cost_steps"] < CHEAP,
    }
    verdicts = {name: MET if holds else MISSED for name, holds in met.items()}
    return verdicts if asked else verdicts | {"factor of two": NOT_ASKED}


def markdown(numbers: pd.DataFrame) -> str:
    """The table for people: medians over the seeds, the worst seed in brackets."""
    header = [
        "network", "hidden layers", "default", "by hand", "`init_icnn_`", "growth", "mean",
        "variance", "cost (steps)", "targets",
    ]  # fmt: skip
    rows = []
    for row in numbers.to_dict("records"):
        missed = [name for name in TARGETS if row[name] == MISSED]
        refused = row["works"] == MISSED
        cells = [
            row["kind"],
            str(row["hidden_layers"]),
            *(_loss(row, start) for start in STARTS),
            f"{row['growth']:.2g}",
        ]
        if refused:
            cells += ["", "", "", "refused"]
        else:
            cells += [
                f"{row['largest_mean']:.2f}",
                f"{row['lowest_variance']:.2f} to {row['highest_variance']:.2f}",
                f"{row['cost_steps']:.1f}",
                f"missed: {', '.join(missed)}" if missed else "met",
            ]
        rows.append(cells)
    return markdown_table(header, rows)


def _loss(row: dict[str, Any], start: str) -> str:
    """Median and worst seed."""
    if pd.isna(row[start]):
        return ""
    return f"{row[start]:.2g} ({row[f'{start}_max']:.2g})"


def draw(selections: Sequence[Selection], numbers: pd.DataFrame) -> Figure:
    """Draw the losses of every seed, and name the run if it is missing below.

    Args:
        selections: the one panel.
        numbers: from :func:`table`.
    """
    [run] = [run for selection in selections for run in selection.runs.values()]
    losses, titles = final_losses(run), run.summary["titles"]
    remarks = remarks_on(selections, selections)
    height = HEIGHT + height_of(remarks)
    figure = Figure(figsize=(style.TEXT_WIDTH, height))
    grid = figure.subplots(
        2, 1, sharex=True, sharey=True,
        gridspec_kw={
            "left": 0.09, "right": 0.99, "top": 1 - 0.42 / height, "hspace": 0.16,
            "bottom": (height_of(remarks) + 1.25) / height,
        },
    )  # fmt: skip
    for axes, title, deep in zip(grid, DEPTHS, (False, True), strict=True):
        _draw_depth(axes, losses[losses["deep"] == deep], list(titles))
        axes.set_title(title)
        axes.set_ylabel("test loss (relative)", labelpad=1)
    grid[0].set_ylim(losses["value"].min() / 1.5, HIGHEST)
    grid[-1].set_xticks(
        range(len(titles)), titles.values(), rotation=40, ha="right", rotation_mode="anchor"
    )
    figure.legend(
        handles=[
            Line2D(
                [], [], color=COLOURS[start], marker=MARKERS[start], markersize=3, linestyle="",
                label=LABELS[start],
            )
            for start in STARTS
        ],
        loc="upper center", ncols=len(STARTS), borderaxespad=0.2,
    )  # fmt: skip
    draw_remarks(figure, remarks)
    return figure


def _draw_depth(axes: Axes, losses: pd.DataFrame, kinds: Sequence[str]) -> None:
    """Every seed a point, by kind, the starts side by side."""
    offsets = np.linspace(-SPREAD / 2, SPREAD / 2, len(STARTS))
    for (kind, start), here in losses.groupby(["kind", "start"]):
        values = here["value"].to_numpy()
        x = kinds.index(str(kind)) + offsets[STARTS.index(str(start))]
        look: dict[str, Any] = {"color": COLOURS[str(start)], "clip_on": False}
        shown = values[values <= HIGHEST]
        axes.plot(
            np.full(len(shown), x), shown, MARKERS[str(start)], markersize=2.4, alpha=0.6,
            markeredgewidth=0, **look,
        )  # fmt: skip
        if len(shown) < len(values):
            axes.plot([x], [HIGHEST], "^", markersize=3.5, **look)
    for place in range(1, len(kinds)):
        axes.axvline(place - 0.5, color=style.MUTED, linewidth=0.2)
    axes.axhline(1, color=style.MUTED, linewidth=0.5, linestyle="--")
    axes.set_yscale("log")
    axes.set_xlim(-0.6, len(kinds) - 0.4)
