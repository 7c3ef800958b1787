"""Figures 1 and 6: pre-activations of untrained networks, layer by layer, beside the theory.

Per variant and layer: the histogram of pre-activations (first seed) below the Gaussian that the
theory predicts, mean, variance and correlation (mean over seeds) beside their predictions, and the
feature correlation matrix (first seed).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from convexinit_paper.figures import style
from convexinit_paper.figures.select import Selection
from convexinit_paper.figures.variants import title_of
from convexinit_paper.store.runs import Run

QUANTITIES = ("mean", "variance", "correlation")
# Diverging, white at no correlation.
COLOUR_MAP = "RdBu_r"
BLOCK_HEIGHT = 2.45  # inches per variant
FOOTER_HEIGHT = 0.4


def table(selections: Sequence[Selection]) -> pd.DataFrame:
    """The numbers in the figure.

    Returns:
        ``model, layer, quantity, seeds, measured, measured_std, predicted``: mean and standard
        deviation (with Bessel's correction) over the seeds. Quantities are as in
        :func:`convexinit_paper.experiments.signal_propagation.measure`; "pearson", the mean of the
        feature correlation matrix off its diagonal, has no prediction.
    """
    parts = [
        _layer_statistics(run).assign(model=title_of(model))
        for selection in selections
        for model, run in selection.runs.items()
    ]
    columns = ["model", "layer", "quantity", "seeds", "measured", "measured_std", "predicted"]
    return pd.concat(parts, ignore_index=True)[columns]


def _layer_statistics(run: Run) -> pd.DataFrame:
    keys = ["step", "metric"]
    measured = run.metrics.query("split == 'measured'").groupby(keys, sort=False)["value"]
    predicted = run.metrics.query("split == 'predicted'").groupby(keys)["value"]
    return (
        measured.agg(seeds="size", measured="mean", measured_std="std")
        .join(predicted.first().rename("predicted"))  # the same for all seeds
        .rename_axis(["layer", "quantity"])
        .reset_index()
    )


def draw(selections: Sequence[Selection], numbers: pd.DataFrame) -> Figure:
    """Draw one block per variant that was found.

    Args:
        selections: those of the one panel.
        numbers: from :func:`table`.
    """
    (selection,) = selections
    height = BLOCK_HEIGHT * len(selection.runs) + FOOTER_HEIGHT
    figure = Figure(figsize=(style.TEXT_WIDTH, height))
    for index, (model, run) in enumerate(selection.runs.items()):
        top = 1 - BLOCK_HEIGHT * index / height
        figure.text(
            0.01, top - 0.06 / height, f"({'abcde'[index]}) {title_of(model)}",
            va="top", fontweight="bold", fontsize=8,
        )  # fmt: skip
        here = numbers[numbers["model"] == title_of(model)]
        widths = run.config["signal"]["widths"][1:]
        grid = figure.add_gridspec(
            3,
            len(widths),
            left=0.1,
            right=0.99,
            top=top - 0.4 / height,
            bottom=top - (BLOCK_HEIGHT - 0.2) / height,
            height_ratios=[0.75, 0.75, 1.0],
            hspace=0.0,
            wspace=0.08,
        )
        colour = style.COLOURS[run.config["model"]["name"]]
        _draw_block(grid.subplots(squeeze=False), run, here, colour)
    _draw_footer(figure, int(numbers["seeds"].max()))
    return figure


def _draw_block(grid: np.ndarray, run: Run, numbers: pd.DataFrame, colour: str) -> None:
    """Draw one variant into axes ``[3, layers]``."""
    for layer, (histogram, strip, matrix) in enumerate(grid.T, start=1):
        here = numbers[numbers["layer"] == layer].set_index("quantity")
        histogram.set_title(f"layer {layer} ({run.config['signal']['widths'][layer]} units)", pad=3)
        _draw_histogram(histogram, run.arrays, layer, here, colour)
        _draw_strip(strip, here, colour, row_names=layer == 1)
        _draw_matrix(matrix, run.arrays, layer)
        matrix.set_xlabel(f"mean {plain(here.loc['pearson', 'measured'])}", fontsize=6, labelpad=2)
    grid[2, 0].text(
        -0.3, 0.5, "feature\ncorrelations", transform=grid[2, 0].transAxes,
        ha="right", va="center", fontsize=6,
    )  # fmt: skip


def _draw_histogram(
    axes: Axes, arrays: dict[str, np.ndarray], layer: int, here: pd.DataFrame, colour: str
) -> None:
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    if f"histogram_{layer}" not in arrays:
        axes.text(0.5, 0.5, "not finite", transform=axes.transAxes, ha="center", va="center")
        return
    counts, edges = arrays[f"histogram_{layer}"], arrays[f"edges_{layer}"]
    density = counts / (counts.sum() * np.diff(edges))
    axes.stairs(density, edges, fill=True, color=colour, alpha=0.4, linewidth=0)
    axes.stairs(density, edges, color=colour, linewidth=0.5)

    # All but one in a thousand of the values, and the bulk of what is predicted.
    share = np.cumsum(counts) / counts.sum()
    low, high = edges[np.searchsorted(share, 0.0005)], edges[np.searchsorted(share, 0.9995) + 1]
    mean, variance = here.loc["mean", "predicted"], here.loc["variance", "predicted"]
    if 0.0 < variance < np.inf:
        deviation = np.sqrt(variance)
        low, high = min(low, mean - 3 * deviation), max(high, mean + 3 * deviation)
        x = np.linspace(low, high, 400)
        gaussian = np.exp(-(((x - mean) / deviation) ** 2) / 2) / (deviation * np.sqrt(2 * np.pi))
        axes.plot(x, gaussian, color=style.PREDICTION)
    axes.set_xlim(low, high)
    axes.set_ylim(0, None)
    axes.locator_params(axis="x", nbins=4)


def _draw_strip(axes: Axes, here: pd.DataFrame, colour: str, row_names: bool) -> None:
    """A small table: one row per quantity, measured on the left and predicted on the right."""
    axes.set_axis_off()
    columns = {"measured": (0.46, colour), "predicted": (0.98, style.PREDICTION)}
    heights = np.linspace(0.62, 0.12, len(QUANTITIES) + 1)  # the top is for tick labels
    for column, (x, shade) in columns.items():
        cells = [column, *(plain(here.loc[quantity, column]) for quantity in QUANTITIES)]
        for height, cell in zip(heights, cells, strict=True):
            axes.text(x, height, cell, color=shade, ha="right", va="center", fontsize=6)
    if row_names:
        for height, quantity in zip(heights[1:], QUANTITIES, strict=True):
            axes.text(-0.05, height, quantity, ha="right", va="center", fontsize=6)


def _draw_matrix(axes: Axes, arrays: dict[str, np.ndarray], layer: int) -> None:
    if f"correlations_{layer}" in arrays:
        matrix = arrays[f"correlations_{layer}"].astype(np.float32)
        axes.imshow(matrix, cmap=COLOUR_MAP, vmin=-1, vmax=1, interpolation="nearest")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[:].set_visible(True)


def _draw_footer(figure: Figure, seeds: int) -> None:
    inch = 1 / figure.get_figheight()
    handles = [
        Patch(facecolor=style.COLOURS["nonconvex"], alpha=0.4, label="measured"),
        Line2D([], [], color=style.PREDICTION, label="predicted (Gaussian)"),
    ]
    figure.legend(handles=handles, loc="center left", bbox_to_anchor=(0.0, 0.28 * inch), ncols=2)
    figure.text(
        0.016, 0.1 * inch, f"Numbers: mean of {seeds} networks. Pictures: the first of them.",
        color=style.MUTED, fontsize=6, va="center",
    )  # fmt: skip
    bar = figure.colorbar(
        ScalarMappable(Normalize(-1, 1), COLOUR_MAP),
        cax=figure.add_axes((0.76, 0.23 * inch, 0.22, 0.08 * inch)),
        orientation="horizontal",
        ticks=[-1, 0, 1],
    )
    bar.ax.text(-1.1, 0.5, "feature correlation", ha="right", va="center")


def plain(value: float) -> str:
    """A number in at most six characters, as far as it fits.

    Example:
        >>> [plain(value) for value in (-0.001, 1.25, 43.96, 3266.3, 4.8e7, float("nan"))]
        ['0.00', '1.25', '44.0', '3266', '4.8e+07', '–']
    """
    if not np.isfinite(value):
        return "–"
    size = abs(value)
    if size >= 1e5:
        return f"{value:.1e}"
    decimals = 2 if size < 10 else 1 if size < 100 else 0
    text = f"{round(value, decimals) + 0.0:.{decimals}f}"
    return text.replace("-", "\N{MINUS SIGN}")
