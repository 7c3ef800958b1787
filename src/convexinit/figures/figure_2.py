"""Figure 2: the loss of training batches during the first epochs, one panel per data set.

A point is the loss of one training batch, drawn every 50 updates as in the paper; runs that would
have fewer than 150 points then are drawn more often. Lines are medians over the seeds, bands reach
from the lower to the upper quartile. Seeds that diverged are left out and counted in the panel.
The inset shows the best variants once more, on a linear scale.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from convexinit.figures import style
from convexinit.figures.select import TITLES, Panel, Selection
from convexinit.runs import Run

DRAWN_EVERY = 50  # updates
FEWEST_POINTS = 150
PANEL_HEIGHT = 2.2  # inches
# The inset leaves out the first part of the updates and is half as high again as the medians of
# the variants with the lowest losses: quartiles would take in seeds that never learn.
INSET_FROM = 0.25
INSET_VARIANTS = 3
# Place of the inset in the panel, which is kept free of curves: x, y, width, height.
INSET_BOX = (0.5, 0.61, 0.49, 0.37)

DIGITS = Panel("digits", "digits")
PANELS = {"paper": [Panel("mnist", "MNIST"), DIGITS], "demo": [DIGITS]}


def panels(scale: str) -> list[Panel]:
    """The panels at the scale "paper" or "demo"."""
    return PANELS[scale]


def table(selections: Sequence[Selection]) -> pd.DataFrame:
    """The curves of all panels.

    Returns:
        ``dataset, model, epoch, step, seeds, q25, median, q75``: quartiles of the batch loss in
        nats over the seeds that did not diverge, whose number is ``seeds``.
    """
    parts = [
        curve(run).assign(dataset=selection.panel.experiment, model=model)
        for selection in selections
        for model, run in selection.runs.items()
    ]
    columns = ["dataset", "model", "epoch", "step", "seeds", "q25", "median", "q75"]
    return pd.concat(parts, ignore_index=True)[columns]


def curve(run: Run) -> pd.DataFrame:
    """Quartiles of the batch loss over the seeds of one run, at the updates that are drawn."""
    rows = run.metrics.query("split == 'train' and metric == 'batch_loss'")
    losses = rows.pivot_table("value", "step", "seed", dropna=False)
    epochs = rows.groupby("step")["epoch"].first()
    seeds = run.summary["seeds"]
    finite = losses[[seed for seed in losses if seeds[str(seed)]["status"] == "finished"]]
    drawn = finite.loc[drawn_steps(losses.index.to_numpy())]
    return pd.DataFrame(
        {
            "epoch": epochs.loc[drawn.index],
            "step": drawn.index,
            "seeds": drawn.shape[1],
            "q25": drawn.quantile(0.25, axis=1),
            "median": drawn.quantile(0.5, axis=1),
            "q75": drawn.quantile(0.75, axis=1),
        }
    )


def drawn_steps(steps: np.ndarray) -> np.ndarray:
    """The updates that are drawn: every 50th, or more where that leaves fewer than 150.

    Args:
        steps: the updates of a run that are stored, in order, the last one among them.
    """
    stride = min(DRAWN_EVERY, max(1, int(steps.max(initial=0)) // FEWEST_POINTS))
    return steps[(steps - 1) % stride == 0]


def draw(selections: Sequence[Selection], numbers: pd.DataFrame) -> Figure:
    """Draw one panel per selection; panels without runs say which command produces them.

    Args:
        selections: the runs per panel.
        numbers: from :func:`table`.
    """
    columns = min(2, len(selections))
    rows = math.ceil(len(selections) / columns)
    width = style.TEXT_WIDTH if columns == 2 else style.PANEL_WIDTH
    footer = 0.25 if columns == 2 else 0.4
    height = PANEL_HEIGHT * rows + footer
    figure = Figure(figsize=(width, height))
    # Margins in inches: 0.5 left of each panel, 0.2 above, 0.35 below. (A layout engine would place
    # things by a solver whose rounding differs between calls, and files with it.)
    grid = figure.subplots(
        rows,
        columns,
        squeeze=False,
        gridspec_kw={
            "left": 0.5 / width,
            "right": 1 - 0.08 / width,
            "top": 1 - 0.2 / height,
            "bottom": (footer + 0.36) / height,
            "hspace": 0.55 / (PANEL_HEIGHT - 0.55),
            "wspace": 0.58 / (width / columns - 0.58),
        },
    ).flatten()
    for axes, selection in zip(grid, selections, strict=False):
        here = numbers[numbers["dataset"] == selection.panel.experiment]
        if selection.runs:
            _draw_panel(axes, selection, here)
        else:
            _draw_empty_panel(axes, selection)
    for axes in grid[len(selections) :]:
        axes.set_axis_off()
    shown = [model for model in TITLES if (numbers["model"] == model).any()]
    handles = [Line2D([], [], color=style.COLOURS[model], label=TITLES[model]) for model in shown]
    figure.legend(handles=handles, loc="lower center", ncols=2 * columns)
    return figure


def _draw_panel(axes: Axes, selection: Selection, curves: pd.DataFrame) -> None:
    seeds = len(selection.common["seeds"])
    axes.set_title(f"{selection.panel.title} ({seeds} {'seed' if seeds == 1 else 'seeds'})")
    axes.set_xlabel("updates")
    axes.set_ylabel("training loss")
    axes.set_yscale("log")
    axes.yaxis.labelpad = 1
    # A loss can round to zero, for which a logarithmic axis has no place.
    quartiles = curves[["q25", "median", "q75"]]
    visible = curves.assign(**quartiles.where(quartiles > 0))
    if visible["median"].notna().any():
        inset = axes.inset_axes(INSET_BOX)
        _draw_curves(axes, inset, visible)
        _set_limits(axes, visible)
        _zoom(axes, inset, visible)
    diverged = [
        f"{TITLES[model]} {seeds - points['seeds'].iloc[0]} of {seeds}"
        for model, points in curves.groupby("model")
        if points["seeds"].iloc[0] < seeds
    ]
    if diverged:
        axes.text(
            0.02, 0.02, "diverged, not shown: " + ", ".join(diverged),
            transform=axes.transAxes, fontsize=5.5, color=style.MUTED,
        )  # fmt: skip


def _draw_curves(axes: Axes, inset: Axes, curves: pd.DataFrame) -> None:
    for model, points in curves.groupby("model"):
        for place in (axes, inset):
            place.plot(points["step"], points["median"], color=style.COLOURS[model])
            place.fill_between(
                points["step"], points["q25"], points["q75"],
                color=style.COLOURS[model], alpha=0.25, linewidth=0,
            )  # fmt: skip


def _set_limits(axes: Axes, curves: pd.DataFrame) -> None:
    """Limits that leave the place of the inset free."""
    quartiles = curves[["q25", "median", "q75"]]
    last = curves["step"].max()
    low = np.log(quartiles.min().min()) - 0.1
    # A tenth of the panel below and to the left of the inset is for its tick labels.
    under_inset = quartiles[curves["step"] > (INSET_BOX[0] - 0.1) * last].max().max()
    room = (np.log(under_inset) - low) / (INSET_BOX[1] - 0.13)
    high = np.nanmax([np.log(quartiles.max().max()) + 0.1, low + room])
    axes.set_ylim(np.exp(low), np.exp(high))
    axes.set_xlim(0, last)


def _zoom(axes: Axes, inset: Axes, curves: pd.DataFrame) -> None:
    """Make ``inset`` show the best variants in the last part of the training."""
    last = curves["step"].max()
    late = curves[curves["step"] >= INSET_FROM * last]
    best = late.groupby("model")["median"].median().nsmallest(INSET_VARIANTS).index
    shown = late[late["model"].isin(best)]
    # A lone spike of one batch must not flatten everything else.
    low, high = shown["q25"].quantile(0.01), 1.5 * shown["median"].quantile(0.99)
    if not low < high:
        inset.remove()
        return
    inset.set_xlim(INSET_FROM * last, last)
    inset.set_ylim(0.95 * low, 1.05 * high)
    inset.tick_params(labelsize=5, length=1.5, pad=1.5)
    inset.xaxis.set_major_locator(MaxNLocator(3))
    inset.yaxis.set_major_locator(MaxNLocator(3))
    inset.spines[:].set_visible(True)
    frame = axes.indicate_inset_zoom(inset, edgecolor=style.MUTED, linewidth=0.5)
    for connector in frame.connectors or ():
        connector.set_visible(False)


def _draw_empty_panel(axes: Axes, selection: Selection) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set(visible=True, color=style.MUTED, linestyle=(0, (4, 4)))
    axes.set_title(selection.panel.title)
    command = selection.commands(Path("results/runs"))[0].replace(" model=", "\nmodel=")
    axes.text(0.5, 0.6, f"not run: {selection.panel.title}", transform=axes.transAxes, ha="center")
    axes.text(
        0.5, 0.5, command, transform=axes.transAxes, ha="center", va="top",
        family="monospace", fontsize=4.8, color=style.MUTED,
    )  # fmt: skip
