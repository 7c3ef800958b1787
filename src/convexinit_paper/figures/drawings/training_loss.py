"""Figures of training losses: the loss of every training batch during the first epochs.

A point is the loss of one training batch, drawn every 50 updates as in the paper; runs that would
have fewer than 150 points then are drawn more often. Lines are medians over the seeds, bands reach
from the lower to the upper quartile. The inset shows the best variants once more, on a linear
scale. Seeds that diverged are left out and counted below the panels. What was not run is named
there, too, with its command.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import cycle

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from convexinit_paper.figures import style
from convexinit_paper.figures.curves import batch_losses, quartiles
from convexinit_paper.figures.drawings.remarks import draw_remarks, extent, height_of, remarks_on
from convexinit_paper.figures.select import Selection
from convexinit_paper.figures.variants import title_of

PAPER_EPOCHS = 10
# In inches: a row of panels, a character of their titles, and the room of one entry in the legend
# without and per character.
PANEL_HEIGHT = 2.07
TITLE_CHARACTER_WIDTH = 0.0076  # at a size of one point
ENTRY_WIDTH = 0.5
CHARACTER_WIDTH = 0.052
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
class LossCurves:
    """How a figure of training losses looks.

    Attributes:
        columns: the most panels in a row.
        together: panels are shown in groups of so many if at least one of the group has runs.
        subject: variants that the figure is about; panels without any of them are not shown. Empty:
            all variants.
        colours: of variants by name; others have those of :data:`style.COLOURS`, or the next one
            of :data:`style.OTHERS`.
    """

    columns: int = 2
    together: int = 1
    subject: Collection[str] = ()
    colours: Mapping[str, str] = field(default_factory=dict)

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
            quartiles(batch_losses(run), run)
            .reset_index()
            .assign(dataset=selection.panel.title, model=title_of(variant))
            for selection in selections
            if self.is_shown(selection)
            for variant, run in selection.runs.items()
        ]
        columns = ["dataset", "model", "epoch", "step", "seeds", "q25", "median", "q75"]
        return pd.concat(parts, ignore_index=True)[columns]

    def colours_of(self, variants: Iterable[str]) -> dict[str, str]:
        """The colours of the variants in a panel."""
        known = {**style.COLOURS, **self.colours}
        others = cycle(style.OTHERS)
        return {variant: known.get(variant) or next(others) for variant in variants}

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
        of_variants = self.colours_of(selections[0].panel.variants)
        colours = {
            title_of(variant): of_variants[variant]
            for selection in shown
            for variant in selection.runs
        }
        handles = [Line2D([], [], color=colour, label=name) for name, colour in colours.items()]
        remarks = remarks_on(selections, shown)
        columns = min(self.columns, len(shown))
        rows = math.ceil(len(shown) / columns)
        # One panel has its legend to the right, several have it below.
        panels_width = style.TEXT_WIDTH if columns > 1 else style.PANEL_WIDTH
        entry = ENTRY_WIDTH + CHARACTER_WIDTH * max(map(len, colours))
        legend_columns = min(len(handles), int(style.TEXT_WIDTH / entry))
        legend_lines = math.ceil(len(handles) / legend_columns) if columns > 1 else 0
        remarks_height = height_of(remarks)
        footer = remarks_height + style.LEGEND_LINE * legend_lines + 0.06
        pitch = panels_width / columns
        title_size = TITLE_SIZES[columns]
        room = int((pitch - 0.24) / (TITLE_CHARACTER_WIDTH * title_size))
        titles = [_title(selection, room) for selection in shown]
        title_height = style.TITLE_LINE * (1 + max(title.count("\n") for title in titles))
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
        draw_remarks(figure, remarks)
        return figure


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
    bands = curves[["q25", "median", "q75"]]
    visible = curves.assign(**bands.where(bands > 0))
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
    bands = curves[["q25", "median", "q75"]]
    last = curves["step"].max()
    low = np.log(bands.min().min()) - 0.1
    # A tenth of the panel below and to the left of the inset is for its tick labels.
    high = np.log(bands.max().max()) + 0.1
    if zoomed is not None:
        curve_top = bands[curves["step"] > (INSET_BOX[0] - 0.1) * last].max().max()
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
