"""Figure "depth": the loss at the end of training for networks of many depths, and how they start.

Left: the training loss of every seed, which is the median over the batches of its last epoch, a
panel per data set; a triangle at the border stands for higher losses. Right: signals and gradients
of the untrained networks of one depth, layer by layer; a line is the median over the seeds. Seeds
that diverged are left out and counted below.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from convexinit_paper.figures import style
from convexinit_paper.figures.drawings.remarks import draw_remarks, extent, height_of, remarks_on
from convexinit_paper.figures.select import Selection
from convexinit_paper.figures.tables.training_summary import final_metrics
from convexinit_paper.figures.text import markdown_table
from convexinit_paper.figures.variants import RANDOM_BIAS, title_of

COLOURS = {**style.COLOURS, "nonconvex_orthogonal": style.ORANGE, RANDOM_BIAS: style.SKY}
# Label, scale and limits of an axis; networks whose signals explode leave it.
QUANTITIES = {
    "mean": ("mean", "linear", (-2.0, 4.0)),
    "variance": ("variance over\nthe data", "log", (1e-6, 1e6)),
    "gradient_norm": ("gradient norm\nof the weights", "log", (1e-4, 1e4)),
}
DRAWN_DEPTH = 20  # hidden layers of the networks on the right
GUESSING = math.log(10)  # loss of ten classes, in nats
HIGHEST = 20.0  # loss that is drawn; triangles at the border stand for higher ones
SPREAD = 0.7  # width that the variants of one depth share, in units of the axis
HEIGHT = 3.6  # inches, without legend and remarks
LEGEND_COLUMNS = 3


def hidden_layers(selection: Selection) -> int:
    """Number of hidden layers of the networks of a panel."""
    return int(next(iter(selection.panel.variants.values()))["model.num_hidden"])


def dataset(selection: Selection) -> str:
    """Title of a panel without its depth."""
    return selection.panel.title.split(",")[0]


def table(selections: Sequence[Selection]) -> pd.DataFrame:
    """Where every seed ended.

    Returns:
        ``dataset, hidden_layers, model, epochs, precision, seed, train_loss, test_accuracy``; the
        loss in nats. Seeds that diverged have an infinite loss.
    """
    parts = [
        final_metrics(run)[["train_loss", "test_accuracy"]]
        .rename_axis("seed")
        .reset_index()
        .assign(
            dataset=dataset(selection),
            hidden_layers=hidden_layers(selection),
            model=title_of(variant),
            epochs=run.config["trainer"]["epochs"],
            precision=run.config["trainer"]["precision"],
        )
        for selection in selections
        for variant, run in selection.runs.items()
    ]
    columns = ["dataset", "hidden_layers", "model", "epochs", "precision", "seed"]
    return pd.concat(parts, ignore_index=True)[[*columns, "train_loss", "test_accuracy"]]


def initial_signals(selections: Sequence[Selection]) -> pd.DataFrame:
    """Signals and gradients of untrained networks, of the runs that measured them.

    Returns:
        ``dataset, hidden_layers, model, layer, quantity, seeds, q25, median, q75``; layers count
        from 1, quantities are those of :mod:`convexinit_paper.experiments.depth`.
    """
    columns = ["dataset", "hidden_layers", "model", "layer", "quantity"]
    columns += ["seeds", "q25", "median", "q75"]
    parts = [pd.DataFrame(columns=columns)]
    for selection in selections:
        for variant, run in selection.runs.items():
            rows = run.metrics.query("split == 'initial'")
            if rows.empty:
                continue
            values = rows.groupby(["step", "metric"], sort=False)["value"]
            measured = values.quantile([0.25, 0.5, 0.75]).unstack()  # noqa: PD010
            measured.columns = ["q25", "median", "q75"]
            measured.insert(0, "seeds", values.size())
            parts.append(
                measured.rename_axis(["layer", "quantity"])
                .reset_index()
                .assign(
                    dataset=dataset(selection),
                    hidden_layers=hidden_layers(selection),
                    model=title_of(variant),
                )
            )
    return pd.concat(parts, ignore_index=True)[columns]


def more_files(selections: Sequence[Selection], numbers: pd.DataFrame) -> dict[str, Any]:
    """The table for people, and the signals at the start as a table of its own.

    Losses are the median over the seeds, with the worst seed in brackets.
    """
    models = list(dict.fromkeys(numbers["model"]))
    rows = []
    for (name, depth), here in numbers.groupby(["dataset", "hidden_layers"], sort=False):
        losses = here.groupby("model")["train_loss"]
        middle, worst = losses.median(), losses.max()
        cells = [
            f"{_loss(middle[model])} ({_loss(worst[model])})" if model in middle else "not run"
            for model in models
        ]
        rows.append([str(name), str(depth), str(here["epochs"].iloc[0]), *cells])
    header = ["data set", "hidden layers", "epochs", *models]
    return {".md": markdown_table(header, rows), "-signals.csv": initial_signals(selections)}


def _loss(value: float) -> str:
    if math.isinf(value):
        return "diverged"
    return f"{value:.4f}" if value < HIGHEST else f"{value:.0e}"


def draw(selections: Sequence[Selection], numbers: pd.DataFrame) -> Figure:
    """Draw losses by depth and signals by layer, and name the runs that are missing below.

    Args:
        selections: a panel for every data set and depth.
        numbers: from :func:`table`.
    """
    shown = [selection for selection in selections if selection.runs]
    datasets = list(dict.fromkeys(map(dataset, shown)))
    variants = [
        variant
        for variant in selections[0].panel.variants
        if any(variant in selection.runs for selection in shown)
    ]
    remarks = remarks_on(selections, shown)
    legend_lines = math.ceil(len(variants) / LEGEND_COLUMNS)
    footer = height_of(remarks) + style.LEGEND_LINE * legend_lines + 0.06
    height = HEIGHT + footer
    figure = Figure(figsize=(style.TEXT_WIDTH, height))
    margins = {"top": 1 - 0.25 / height, "bottom": (footer + 0.36) / height}
    left = figure.subplots(
        len(datasets), 1, squeeze=False,
        gridspec_kw={**margins, "left": 0.08, "right": 0.5, "hspace": 0.4},
    )[:, 0]  # fmt: skip
    for axes, name in zip(left, datasets, strict=True):
        _draw_losses(axes, [part for part in shown if dataset(part) == name], variants)
    left[-1].set_xlabel("hidden layers")
    right = figure.subplots(
        len(QUANTITIES), 1, sharex=True,
        gridspec_kw={**margins, "left": 0.62, "right": 0.985, "hspace": 0.12},
    )  # fmt: skip
    _draw_signals(right, initial_signals(shown), datasets[0], variants)
    figure.legend(
        handles=[
            Line2D([], [], color=COLOURS[variant], marker=".", label=title_of(variant))
            for variant in variants
        ],
        loc="lower center", bbox_to_anchor=(0.5, height_of(remarks) / height),
        ncols=LEGEND_COLUMNS, borderaxespad=0.2,
    )  # fmt: skip
    draw_remarks(figure, remarks)
    return figure


def _draw_losses(axes: Axes, selections: Sequence[Selection], variants: Sequence[str]) -> None:
    """Every seed a point, by depth, the variants of one depth side by side."""
    offsets = np.linspace(-SPREAD / 2, SPREAD / 2, len(variants))
    for place, selection in enumerate(selections):
        for variant, run in selection.runs.items():
            losses = final_metrics(run)["train_loss"].replace(np.inf, np.nan)
            x = np.full(len(losses), place + offsets[variants.index(variant)])
            look: dict[str, Any] = {
                "color": COLOURS[variant], "markersize": 3, "alpha": 0.7, "markeredgewidth": 0
            }  # fmt: skip
            axes.plot(x, losses.where(losses <= HIGHEST), ".", **look)
            if (losses > HIGHEST).any():
                axes.plot(x[:1], [HIGHEST], "^", clip_on=False, **look)
    axes.axhline(GUESSING, color=style.MUTED, linewidth=0.5, linestyle="--")
    axes.text(-0.6, GUESSING * 1.12, "guessing", color=style.MUTED, fontsize=5.5)
    axes.set_yscale("log")
    axes.set_ylim(None, HIGHEST)
    axes.set_xticks(range(len(selections)), [str(hidden_layers(part)) for part in selections])
    axes.set_xlim(-0.65, len(selections) - 0.35)
    axes.set_ylabel("training loss (nats)", labelpad=1)
    amounts = list(dict.fromkeys(extent(selection, 0) for selection in selections))
    axes.set_title(f"{dataset(selections[0])} ({' or '.join(amounts)})", fontsize=6.5)


def _draw_signals(
    grid: Sequence[Axes], signals: pd.DataFrame, name: str, variants: Sequence[str]
) -> None:
    """One quantity a panel, by layer."""
    here = signals[(signals["dataset"] == name) & (signals["hidden_layers"] == DRAWN_DEPTH)]
    grid[0].set_title(f"untrained, {DRAWN_DEPTH} hidden layers, {name}", fontsize=6.5)
    for axes, (quantity, (label, scale, limits)) in zip(grid, QUANTITIES.items(), strict=True):
        axes.set_ylabel(label, labelpad=1)
        axes.set_yscale(scale)
        axes.set_ylim(*limits)
        for variant in variants:
            rows = here[(here["quantity"] == quantity) & (here["model"] == title_of(variant))]
            axes.plot(rows["layer"], rows["median"], color=COLOURS[variant])
    grid[-1].set_xlabel("layer")
