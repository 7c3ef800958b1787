"""Figure 3: accuracy and loss on the test set after every epoch, one column per data set.

The runs are those of the experiment ``generalisation_final``: for every variant the options that
its grid search chose, trained on the whole training set. Lines are medians over the seeds, bands
reach from the lower to the upper quartile. Seeds that diverged are left out and counted in the
panel. Axes are zoomed to the variants that come near the best one; the others are named.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from convexinit.figures import style
from convexinit.figures.select import TITLES, Panel, Selection
from convexinit.grid_search import FINAL, varied_options
from convexinit.runs import Run

# Title and name of the data sets at either scale, and what is shown where there are no runs.
DATASETS = {"paper": {"MNIST": "mnist", "CIFAR-10": "cifar10"}, "demo": {"digits": "digits"}}
INSTEAD = {"CIFAR-10": ("CIFAR-10 (JPEG copy)", "cifar10_jpeg")}
METRICS = {"accuracy": "test accuracy", "loss": "test loss"}
PANEL_HEIGHT = 1.6  # inches
# The axes hold the medians after the first eighth of the epochs of those variants whose last error
# (or loss) is at most three times the lowest, and a tenth of their range on either side.
ZOOM_FROM = 1 / 8
ZOOM_MARGIN = 0.1
NEAR_BEST = 3.0


def panels(scale: str) -> list[Panel]:
    """One panel per data set at the scale "paper" or "demo"."""
    return panels_of(scale, {name: {} for name in TITLES})


def panels_of(scale: str, variants: dict[str, dict[str, Any]]) -> list[Panel]:
    """One panel per data set; each variant with the options in which it departs from Figure 3."""

    def panel(title: str, name: str) -> Panel:
        instead = panel(*INSTEAD[title]) if title in INSTEAD else None
        return Panel(FINAL, title, variants, {"dataset": name}, varied_options(), instead)

    return [panel(title, name) for title, name in DATASETS[scale].items()]


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
    seeds = run.summary["seeds"]
    finished = values[[seed for seed in values if seeds[str(seed)]["status"] == "finished"]]
    return pd.DataFrame(
        {
            "seeds": finished.shape[1],
            "q25": finished.quantile(0.25, axis=1),
            "median": finished.quantile(0.5, axis=1),
            "q75": finished.quantile(0.75, axis=1),
        },
        index=finished.index,
    ).reset_index()


def more_files(selections: Sequence[Selection], numbers: pd.DataFrame) -> dict[str, str]:
    """The table for people: the last epoch, and the options that the search chose."""
    header = ["data set", "model", "seeds", "epochs", "test accuracy", "test loss", "chosen"]
    lines = [header, ["---"] * len(header)]
    for selection in selections:
        for model, run in selection.runs.items():
            ours = (numbers["dataset"] == selection.panel.title) & (numbers["model"] == model)
            last = numbers[ours & (numbers["epoch"] == run.config["trainer"]["epochs"])]
            cells = [
                f"{row['median']:.4f} ({row['q25']:.4f} to {row['q75']:.4f})"
                for _, row in last.set_index("metric").loc[list(METRICS)].iterrows()
            ]
            extent = [str(last["seeds"].iloc[0]), str(run.config["trainer"]["epochs"])]
            chosen = ", ".join(
                f"{name.split('.')[-1].replace('_', ' ')} {value}"
                for name in selection.panel.chosen
                if (value := _option(run, name)) is not None
            )
            lines.append([selection.panel.title, TITLES[model], *extent, *cells, chosen])
    return {".md": "".join(f"| {' | '.join(line)} |\n" for line in lines)}


def _option(run: Run, name: str) -> Any:
    section, option = name.split(".")
    return run.config[section].get(option)


def draw(selections: Sequence[Selection], numbers: pd.DataFrame) -> Figure:
    """Draw one column per selection; those without runs say which command produces them.

    Args:
        selections: the runs per data set.
        numbers: from :func:`table`.
    """
    columns = len(selections)
    width = style.TEXT_WIDTH if columns > 1 else style.PANEL_WIDTH
    footer = 0.25 if columns > 1 else 0.4
    height = 2 * PANEL_HEIGHT + 0.2 + footer
    figure = Figure(figsize=(width, height))
    # Margins in inches: 0.5 left of each panel, 0.25 above the first row, 0.36 below the last.
    grid = figure.subplots(
        2,
        columns,
        squeeze=False,
        sharex="col",
        gridspec_kw={
            "left": 0.5 / width,
            "right": 1 - 0.08 / width,
            "top": 1 - 0.25 / height,
            "bottom": (footer + 0.36) / height,
            "hspace": 0.08,
            "wspace": 0.58 / (width / columns - 0.58),
        },
    )
    for column, selection in enumerate(selections):
        upper, lower = grid[:, column]
        if not selection.runs:
            _draw_missing(upper, lower, selection)
            continue
        seeds = len(selection.common["seeds"])
        upper.set_title(f"{selection.panel.title} ({seeds} {'seed' if seeds == 1 else 'seeds'})")
        lower.set_xlabel("epoch")
        here = numbers[numbers["dataset"] == selection.panel.title]
        for axes, (metric, label) in zip((upper, lower), METRICS.items(), strict=True):
            axes.set_ylabel(label)
            _draw_curves(axes, here[here["metric"] == metric], metric, seeds)
    shown = [model for model in TITLES if (numbers["model"] == model).any()]
    handles = [Line2D([], [], color=style.COLOURS[model], label=TITLES[model]) for model in shown]
    figure.legend(handles=handles, loc="lower center", ncols=4 if columns > 1 else 2)
    return figure


def _draw_curves(axes: Axes, points: pd.DataFrame, metric: str, seeds: int) -> None:
    for model, curve in points.groupby("model"):
        colour = style.COLOURS[model]
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
        f"diverged, not shown: {TITLES[model]} {seeds - row['seeds']} of {seeds}"
        for model, row in last.iterrows()
        if row["seeds"] < seeds
    ] + [
        f"not in view: {TITLES[model]}, at last {row['median']:.3f}"
        for model, row in last.iterrows()
        if not low <= row["median"] <= high and row["seeds"] > 0
    ]
    # Accuracies rise and losses fall, so that one corner on the right is free.
    rises = metric == "accuracy"
    axes.text(
        0.98, 0.03 if rises else 0.97, "\n".join(remarks), transform=axes.transAxes,
        ha="right", va="bottom" if rises else "top", fontsize=5.5, color=style.MUTED,
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


def _draw_missing(upper: Axes, lower: Axes, selection: Selection) -> None:
    """Say in the place of a column which command produces its runs."""
    lower.set_axis_off()
    upper.set_xticks([])
    upper.set_yticks([])
    upper.spines[:].set(visible=True, color=style.MUTED, linestyle=(0, (4, 4)))
    upper.set_title(selection.panel.title)
    command, *_ = selection.commands(Path("results/runs"))
    lines = "\n".join(textwrap.wrap(command, 45))
    place: dict[str, Any] = {"transform": upper.transAxes, "ha": "center"}
    upper.text(0.5, 0.6, f"not run: {selection.panel.title}", **place)
    upper.text(
        0.5, 0.5, lines, va="top", family="monospace", fontsize=4.8, color=style.MUTED, **place
    )
