"""Figures 3 and 11: accuracy and loss on the test set after every epoch, a column per data set.

The runs are those of the experiment ``generalisation_final``: for every variant the options that
its grid search chose, trained on the whole training set. Lines are medians over the seeds, bands
reach from the lower to the upper quartile. Axes are zoomed to the variants that come near the best
one; the others are named. Seeds that diverged are left out and counted below the panels. What was
not run is named there, too, with its command.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from convexinit_paper.figures import style
from convexinit_paper.figures.curves import quartiles
from convexinit_paper.figures.drawings.remarks import (
    LENGTH,
    draw_remarks,
    extent,
    height_of,
    remarks_on,
)
from convexinit_paper.figures.select import Selection
from convexinit_paper.figures.text import markdown_table
from convexinit_paper.figures.variants import title_of
from convexinit_paper.store.matching import flatten
from convexinit_paper.store.runs import Run

METRICS = {"accuracy": "test accuracy", "loss": "test loss (nats)"}
PANEL_HEIGHT = 1.6  # inches
MOST_CHARACTERS = 44  # in a title of one line
SEARCHED = "paper"  # the grid that goes without saying
# The axes hold the medians after the first eighth of the epochs of those variants whose last error
# (or loss) is at most three times the lowest, and a tenth of their range on either side.
ZOOM_FROM = 1 / 8
ZOOM_MARGIN = 0.1
NEAR_BEST = 3.0


def table(selections: Sequence[Selection]) -> pd.DataFrame:
    """The curves of all panels.

    Returns:
        ``dataset, model, metric, epoch, seeds, q25, median, q75``: quartiles of the metric on the
        test set (accuracy in [0, 1], loss in nats) over the seeds that did not diverge, whose
        number is ``seeds``. Epoch 0 is before training.
    """
    parts = [
        curves(run).assign(dataset=selection.panel.title, model=model)
        for selection in selections
        for model, run in selection.runs.items()
    ]
    columns = ["dataset", "model", "metric", "epoch", "seeds", "q25", "median", "q75"]
    return pd.concat(parts, ignore_index=True)[columns]


def curves(run: Run) -> pd.DataFrame:
    """Quartiles of the test metrics over the seeds of one run, after every epoch."""
    rows = run.metrics.query("split == 'test' and metric in @METRICS")
    values = rows.pivot_table("value", ["metric", "epoch"], "seed", dropna=False)
    return quartiles(values, run).reset_index()


def more_files(selections: Sequence[Selection], numbers: pd.DataFrame) -> dict[str, str]:
    """The table for people: the last epoch, and the options that the search chose."""
    header = ["data set", "model", "seeds", "epochs", "test accuracy", "test loss", "chosen"]
    rows = []
    for selection in selections:
        for model, run in selection.runs.items():
            ours = (numbers["dataset"] == selection.panel.title) & (numbers["model"] == model)
            last = numbers[ours & (numbers["epoch"] == run.config["trainer"]["epochs"])]
            cells = [
                f"{row['median']:.4f} ({row['q25']:.4f} to {row['q75']:.4f})"
                for _, row in last.set_index("metric").loc[list(METRICS)].iterrows()
            ]
            size = [str(last["seeds"].iloc[0]), str(run.config["trainer"]["epochs"])]
            chosen = ", ".join(
                f"{name.split('.')[-1].replace('_', ' ')} {value}"
                for name in selection.panel.chosen
                if (value := flatten(run.config).get(name)) is not None
            )
            rows.append([selection.panel.title, title_of(model), *size, *cells, chosen])
    return {".md": markdown_table(header, rows)}


def draw(selections: Sequence[Selection], numbers: pd.DataFrame) -> Figure:
    """Draw one column per selection, and name the runs that are missing below.

    Args:
        selections: the runs per data set.
        numbers: from :func:`table`.
    """
    columns = len(selections)
    width = style.TEXT_WIDTH if columns > 1 else style.PANEL_WIDTH
    remarks = remarks_on(selections, selections, int(LENGTH * width / style.TEXT_WIDTH))
    panel = selections[0].panel
    present = [name for name in panel.variants if (numbers["model"] == name).any()]
    lines = math.ceil(len(present) / (4 if columns > 1 else 2))
    footer = style.LEGEND_LINE * lines + 0.09 + height_of(remarks)
    titles = [f"{selection.panel.title} {_extent(selection)}".strip() for selection in selections]
    in_two_lines = max(map(len, titles)) > MOST_CHARACTERS
    if in_two_lines:
        titles = [f"{selection.panel.title}\n{_extent(selection)}" for selection in selections]
    header = 0.25 + style.TITLE_LINE * in_two_lines
    height = 2 * PANEL_HEIGHT - 0.05 + header + footer
    figure = Figure(figsize=(width, height))
    # Margins in inches: 0.56 left of each panel, 0.36 below the last row.
    grid = figure.subplots(
        2,
        columns,
        squeeze=False,
        sharex="col",
        gridspec_kw={
            "left": 0.56 / width,
            "right": 1 - 0.08 / width,
            "top": 1 - header / height,
            "bottom": (footer + 0.36) / height,
            "hspace": 0.08,
            "wspace": 0.64 / (width / columns - 0.64),
        },
    )
    colours = {variant: style.COLOURS[panel.model(variant)] for variant in panel.variants}
    for column, selection in enumerate(selections):
        upper, lower = grid[:, column]
        upper.set_title(titles[column])
        if not selection.runs:
            _draw_missing(upper, lower)
            continue
        lower.set_xlabel("epoch")
        here = numbers[numbers["dataset"] == selection.panel.title]
        for axes, (metric, label) in zip((upper, lower), METRICS.items(), strict=True):
            axes.set_ylabel(label, labelpad=2)
            _draw_curves(axes, here[here["metric"] == metric], metric, colours)
    handles = [Line2D([], [], color=colours[name], label=title_of(name)) for name in present]
    figure.legend(
        handles=handles, loc="lower center", bbox_to_anchor=(0.5, height_of(remarks) / height),
        ncols=math.ceil(len(present) / lines),
    )  # fmt: skip
    draw_remarks(figure, remarks)
    return figure


def _extent(selection: Selection) -> str:
    """The seeds of a column, precision and grid where they are not those of the paper."""
    if not selection.runs:
        return ""
    grid = selection.common["search.grid"]
    return f"({extent(selection)}{'' if grid == SEARCHED else f', grid {grid}'})"


def _draw_curves(axes: Axes, points: pd.DataFrame, metric: str, colours: Mapping[str, str]) -> None:
    for model, curve in points.groupby("model"):
        colour = colours[str(model)]
        axes.plot(curve["epoch"], curve["median"], color=colour)
        axes.fill_between(
            curve["epoch"], curve["q25"], curve["q75"], color=colour, alpha=0.25, linewidth=0
        )
    axes.set_xlim(0, points["epoch"].max())
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    low, high = zoomed(points, metric)
    axes.set_ylim(low, high)
    last = points[points["epoch"] == points["epoch"].max()].set_index("model")
    remarks = [
        f"not in view: {title_of(str(model))}, at last {row['median']:.4g}"
        for model, row in last.iterrows()
        if not low <= row["median"] <= high and row["seeds"] > 0
    ]
    # Accuracies rise and losses fall, so that one corner on the right is free.
    rises = metric == "accuracy"
    axes.text(
        0.98, 0.03 if rises else 0.97, "\n".join(remarks), transform=axes.transAxes,
        ha="right", va="bottom" if rises else "top", fontsize=5.5, color=style.MUTED,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.8, "pad": 1.0},
    )  # fmt: skip


def zoomed(points: pd.DataFrame, metric: str) -> tuple[float, float]:
    """Limits of the vertical axis for the curves of one panel (:data:`NEAR_BEST`)."""
    final = points["epoch"].max()
    last = points[points["epoch"] == final].set_index("model")["median"]
    badness = 1.0 - last if metric == "accuracy" else last
    near = badness[badness <= NEAR_BEST * max(badness.min(), 0.01)].index
    late = points[points["model"].isin(near) & (points["epoch"] >= max(1, ZOOM_FROM * final))]
    if late["median"].isna().all():
        return 0.0, 1.0
    low, high = late["median"].min(), late["median"].max()
    margin = max(ZOOM_MARGIN * (high - low), 1e-3)
    return low - margin, min(high + margin, 1.0) if metric == "accuracy" else high + margin


def _draw_missing(upper: Axes, lower: Axes) -> None:
    """Say in the place of a column that it was not run."""
    lower.set_axis_off()
    upper.set_xticks([])
    upper.set_yticks([])
    upper.spines[:].set(visible=True, color=style.MUTED, linestyle=(0, (4, 4)))
    upper.text(0.5, 0.5, "not run", transform=upper.transAxes, ha="center", color=style.MUTED)
