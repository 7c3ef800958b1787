"""Figures of training losses: the loss of every training batch during the first epochs.

A point is the loss of one training batch, drawn every 50 updates as in the paper; runs that would
have fewer than 150 points then are drawn more often. Lines are medians over the seeds, bands reach
from the lower to the upper quartile. The inset shows the best variants once more, on a linear
scale. Seeds that diverged are left out and counted below the panels. What was not run is named
there, too, with its command.
"""

from __future__ import annotations

import math
import textwrap
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from convexinit_paper.figures import style
from convexinit_paper.figures.select import Panel, Selection, commands, title_of
from convexinit_paper.store.runs import Run

DRAWN_EVERY = 50  # updates
FEWEST_POINTS = 150
PAPER_EPOCHS = 10
# In inches: a row of panels, a line and a character of their titles, a line of the legend, a line
# of the remarks below, and the room of one entry in the legend without and per character.
PANEL_HEIGHT = 2.07
TITLE_LINE = 0.13
TITLE_CHARACTER_WIDTH = 0.0076  # at a size of one point
LEGEND_LINE = 0.16
REMARK_LINE = 0.1
ENTRY_WIDTH = 0.5
CHARACTER_WIDTH = 0.052
# Characters in a line of the remarks.
REMARK_LENGTH = 128
REMARK: dict[str, Any] = {"fontsize": 5.5}
COMMAND: dict[str, Any] = {"fontsize": 4.8, "family": "monospace"}
# Sizes of titles in points by the number of columns. Panels in three columns are too small for an
# inset.
TITLE_SIZES = {1: 7.5, 2: 7.5, 3: 6.0}
MOST_COLUMNS_WITH_INSETS = 2
# The inset leaves out the first part of the updates and is half as high again as the medians of
# the variants with the lowest losses: quartiles would take in seeds that never learn.
INSET_FROM = 0.25
INSET_VARIANTS = 3
# One whose loss is so many times as high as the lowest would hide the others on a linear scale.
INSET_RATIO = 20.0
# Place of the inset in the panel, which is kept free of curves: x, y, width, height.
INSET_BOX = (0.5, 0.61, 0.49, 0.37)


@dataclass(frozen=True)
class LossFigure:
    """A figure of training losses.

    Attributes:
        paper: its panels at the scale "paper", in reading order.
        demo: at the scale "demo".
        columns: the most panels in a row.
        together: panels are shown in groups of so many if at least one of the group has runs.
        subject: variants that the figure is about; panels without any of them are not shown. Empty:
            all variants.
        colours: of variants that have none in :data:`style.COLOURS`, by name.
    """

    paper: Sequence[Panel]
    demo: Sequence[Panel] = ()
    columns: int = 2
    together: int = 1
    subject: Collection[str] = ()
    colours: Mapping[str, str] = field(default_factory=dict)

    def panels(self, scale: str) -> list[Panel]:
        """The panels at the scale "paper" or "demo"."""
        return list(self.demo if scale == "demo" else self.paper)

    def is_shown(self, selection: Selection) -> bool:
        """Whether the runs of a panel say something about the subject of the figure."""
        return any(variant in (self.subject or selection.runs) for variant in selection.runs)

    def table(self, selections: Sequence[Selection]) -> pd.DataFrame:
        """The curves of all panels.

        Returns:
            ``dataset, model, epoch, step, seeds, q25, median, q75``: titles of the panel and of the
            variant, and quartiles of the batch loss in nats over the seeds that did not diverge,
            whose number is ``seeds``.
        """
        parts = [
            curve(run).assign(dataset=selection.panel.title, model=title_of(variant))
            for selection in selections
            if self.is_shown(selection)
            for variant, run in selection.runs.items()
        ]
        columns = ["dataset", "model", "epoch", "step", "seeds", "q25", "median", "q75"]
        return pd.concat(parts, ignore_index=True)[columns]

    def draw(self, selections: Sequence[Selection], numbers: pd.DataFrame) -> Figure:
        """Draw the panels that have runs, and name the runs that are missing below.

        Args:
            selections: the runs per panel, at least one of which is shown.
            numbers: from :meth:`table`.
        """
        groups = [
            selections[start : start + self.together]
            for start in range(0, len(selections), self.together)
        ]
        shown = [
            selection for group in groups if any(map(self.is_shown, group)) for selection in group
        ]
        colours = {
            title_of(variant): {**style.COLOURS, **self.colours}[variant]
            for selection in shown
            for variant in selection.runs
        }
        handles = [Line2D([], [], color=colour, label=name) for name, colour in colours.items()]
        remarks = diverged_remarks(shown, numbers) + missing_remarks(selections)
        columns = min(self.columns, len(shown))
        rows = math.ceil(len(shown) / columns)
        # One panel has its legend to the right, several have it below.
        panels_width = style.TEXT_WIDTH if columns > 1 else style.PANEL_WIDTH
        entry = ENTRY_WIDTH + CHARACTER_WIDTH * max(map(len, colours))
        legend_columns = min(len(handles), int(style.TEXT_WIDTH / entry))
        legend_lines = math.ceil(len(handles) / legend_columns) if columns > 1 else 0
        remarks_height = REMARK_LINE * len(remarks) + (0.04 if remarks else 0.0)
        footer = remarks_height + LEGEND_LINE * legend_lines + 0.06
        pitch = panels_width / columns
        title_size = TITLE_SIZES[columns]
        room = int((pitch - 0.24) / (TITLE_CHARACTER_WIDTH * title_size))
        titles = [_title(selection, room) for selection in shown]
        title_height = TITLE_LINE * (1 + max(title.count("\n") for title in titles))
        row_height = PANEL_HEIGHT + title_height
        height = row_height * rows + footer
        figure = Figure(figsize=(style.TEXT_WIDTH, height))
        # (A layout engine would place things by a solver whose rounding differs between calls, and
        # files with it.)
        grid = figure.subplots(
            rows,
            columns,
            squeeze=False,
            gridspec_kw={
                "left": 0.46 / style.TEXT_WIDTH,
                "right": (panels_width - 0.12) / style.TEXT_WIDTH,
                "top": 1 - (title_height + 0.07) / height,
                "bottom": (footer + 0.36) / height,
                "hspace": (title_height + 0.42) / (PANEL_HEIGHT - 0.42),
                "wspace": 0.4 / (pitch - 0.4),
            },
        )
        with_insets = columns <= MOST_COLUMNS_WITH_INSETS
        for axes, selection, title in zip(grid.flatten(), shown, titles, strict=False):
            axes.set_title(title, fontsize=title_size)
            here = numbers[numbers["dataset"] == selection.panel.title]
            _draw_panel(axes, selection, here, colours, with_insets)
        for axes in grid.flatten()[len(shown) :]:
            axes.set_axis_off()
        for axes in grid[:, 0]:
            axes.set_ylabel("training loss (nats)", labelpad=1)
        if columns > 1:
            place = (0.5, remarks_height / height)
            figure.legend(
                handles=handles, loc="lower center", bbox_to_anchor=place, ncols=legend_columns,
                borderaxespad=0.2,
            )  # fmt: skip
        else:
            place = (panels_width / style.TEXT_WIDTH, 1 - 0.5 * row_height / height)
            figure.legend(handles=handles, loc="center left", bbox_to_anchor=place)
        draw_remarks(figure, remarks, remarks_height)
        return figure


def draw_remarks(figure: Figure, remarks: Sequence[tuple[str, dict[str, Any]]], top: float) -> None:
    """Write lines at the bottom of a figure.

    Args:
        figure: to write to.
        remarks: text and font of every line.
        top: height of the first line's upper end in inches.
    """
    width, height = figure.get_size_inches()
    for line, (text, font) in enumerate(remarks, 1):
        place = (0.08 / width, (top - REMARK_LINE * line) / height)
        figure.text(*place, text, color=style.MUTED, **font)


def diverged_remarks(
    selections: Sequence[Selection], numbers: pd.DataFrame, length: int = REMARK_LENGTH
) -> list[tuple[str, dict[str, Any]]]:
    """Lines that count the seeds that diverged, text and font of each.

    Args:
        selections: the runs per panel that is shown.
        numbers: table with ``dataset, model, seeds``, titles of panel and variant and the number of
            seeds that did not diverge.
        length: characters in a line.
    """
    lines: list[tuple[str, dict[str, Any]]] = []
    for selection in selections:
        title = selection.panel.title
        here = numbers[numbers["dataset"] == title]
        left = here.groupby("model", sort=False)["seeds"].first()
        seeds = len(selection.common.get("seeds", []))
        diverged = [f"{title_of(model)} {seeds - count} of {seeds}" for model, count in left.items()
                    if count < seeds]  # fmt: skip
        if diverged:
            text = f"diverged, not shown: {', '.join(diverged)} on {title}"
            lines += [(line, REMARK) for line in textwrap.wrap(text, length)]
    return lines


def missing_remarks(
    selections: Sequence[Selection], length: int = REMARK_LENGTH
) -> list[tuple[str, dict[str, Any]]]:
    """Lines that name the runs that are missing, and the commands that produce them.

    Args:
        selections: the runs per panel.
        length: characters in a line.

    Returns:
        Text and font of every line.
    """
    lines: list[tuple[str, dict[str, Any]]] = []
    incomplete = [part for selection in selections for part in selection.incomplete]
    for experiment in dict.fromkeys(selection.panel.experiment for selection in incomplete):
        here = [selection for selection in incomplete if selection.panel.experiment == experiment]
        what = "; ".join(
            f"{', '.join(map(title_of, selection.missing))} on {selection.panel.title}"
            if selection.runs
            else selection.panel.title
            for selection in here
        )
        lines += [(line, REMARK) for line in textwrap.wrap(f"not run: {what}", length)]
        for command in commands(here, Path("results/runs")):
            lines += [
                (line, COMMAND)
                for line in textwrap.wrap(
                    command, length, subsequent_indent="    ", break_on_hyphens=False,
                    break_long_words=False,
                )
            ]  # fmt: skip
    return lines


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


def _draw_panel(
    axes: Axes,
    selection: Selection,
    curves: pd.DataFrame,
    colours: Mapping[str, str],
    with_inset: bool,
) -> None:
    axes.set_xlabel("updates")
    if not selection.runs:
        axes.set(xticks=[], yticks=[])
        axes.text(0.5, 0.5, "not run", transform=axes.transAxes, ha="center", color=style.MUTED)
        return
    axes.set_yscale("log")
    # A loss can round to zero, for which a logarithmic axis has no place.
    quartiles = curves[["q25", "median", "q75"]]
    visible = curves.assign(**quartiles.where(quartiles > 0))
    if visible["median"].notna().any():
        _draw_curves(axes, visible, colours)
        zoomed = _zoom_limits(visible) if with_inset else None
        _set_limits(axes, visible, zoomed)
        if zoomed is not None:
            inset = axes.inset_axes(INSET_BOX)
            _draw_curves(inset, visible, colours)
            _zoom(axes, inset, zoomed)


def _title(selection: Selection, characters: int) -> str:
    """What is written above a panel; in two lines, if one has room for so many characters only."""
    name = selection.panel.title
    seeds = f"({extent(selection, PAPER_EPOCHS)})" if selection.runs else ""
    title = f"{name} {seeds}".strip()
    if len(title) <= characters:
        return title
    return title.replace(", ", ",\n", 1) if ", " in name else f"{name}\n{seeds}".strip()


def extent(selection: Selection, full_epochs: int = 0) -> str:
    """How many seeds the variants in a panel share, and what was less than in the paper.

    That is: the epochs if there are fewer than ``full_epochs``, and the precision if it is not
    float32.
    """
    seeds = len(selection.common["seeds"])
    parts = ["1 seed" if seeds == 1 else f"{seeds} seeds"]
    epochs = selection.common.get("trainer.epochs", full_epochs)
    if epochs < full_epochs:
        parts.append("1 epoch" if epochs == 1 else f"{epochs} epochs")
    precision = selection.common.get("trainer.precision", "float32")
    if precision != "float32":
        parts.append(precision)
    return ", ".join(parts)


def _draw_curves(axes: Axes, curves: pd.DataFrame, colours: Mapping[str, str]) -> None:
    for model, points in curves.groupby("model", sort=False):
        axes.plot(points["step"], points["median"], color=colours[str(model)])
        axes.fill_between(
            points["step"], points["q25"], points["q75"],
            color=colours[str(model)], alpha=0.25, linewidth=0,
        )  # fmt: skip


def _set_limits(
    axes: Axes, curves: pd.DataFrame, zoomed: tuple[float, float, float, float] | None
) -> None:
    """Limits that leave the place of the inset free of curves and of the frame around its part."""
    quartiles = curves[["q25", "median", "q75"]]
    last = curves["step"].max()
    low = np.log(quartiles.min().min()) - 0.1
    # A tenth of the panel below and to the left of the inset is for its tick labels.
    high = np.log(quartiles.max().max()) + 0.1
    if zoomed is not None:
        curve_top = quartiles[curves["step"] > (INSET_BOX[0] - 0.1) * last].max().max()
        top = np.log(np.nanmax([curve_top, zoomed[3]]))
        high = max(high, low + (top - low) / (INSET_BOX[1] - 0.13))
    axes.set_ylim(np.exp(low), np.exp(high))
    axes.set_xlim(0, last)


def _zoom_limits(curves: pd.DataFrame) -> tuple[float, float, float, float] | None:
    """Left, right, lower and upper end of what the inset shows, None if there is nothing to show.

    These are the best variants in the last part of the training.
    """
    last = curves["step"].max()
    late = curves[curves["step"] >= INSET_FROM * last]
    best = late.groupby("model", sort=False)["median"].median().nsmallest(INSET_VARIANTS)
    shown = late[late["model"].isin(best[best <= INSET_RATIO * best.min()].index)]
    # A lone spike of one batch must not flatten everything else.
    low, high = shown["q25"].quantile(0.01), 1.5 * shown["median"].quantile(0.99)
    return (INSET_FROM * last, last, 0.95 * low, 1.05 * high) if low < high else None


def _zoom(axes: Axes, inset: Axes, limits: tuple[float, float, float, float]) -> None:
    """Make ``inset`` show a part of ``axes``, and frame it there."""
    left, right, low, high = limits
    inset.set_xlim(left, right)
    inset.set_ylim(low, high)
    inset.tick_params(labelsize=5, length=1.5, pad=1.5)
    inset.xaxis.set_major_locator(MaxNLocator(3))
    inset.yaxis.set_major_locator(MaxNLocator(3))
    inset.spines[:].set_visible(True)
    frame = axes.indicate_inset_zoom(inset, edgecolor=style.MUTED, linewidth=0.5)
    for connector in frame.connectors or ():
        connector.set_visible(False)
