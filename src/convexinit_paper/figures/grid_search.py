"""Table "grid-search": the best cell of every search behind Figures 3 and 11, and all cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from convexinit_paper.figures import figure_3, figure_11
from convexinit_paper.figures.select import TITLES, Panel, Selection
from convexinit_paper.store.runs import Run
from convexinit_paper.sweeps.grid_search import (
    CELLS,
    Search,
    cells_table,
    grid_cells,
    grid_names,
    search,
    varied_options,
)

DEMO_GRID = "demo"
OPTIONS = [name.split(".")[-1] for name in varied_options()]


@dataclass(frozen=True)
class Searches(Selection):
    """The searches of all variants on one data set; ``runs`` are those of the best cells.

    Attributes:
        dataset: title of the data set.
        positivity: how the weights of the convex variants are kept non-negative.
        grid: name of the grid.
        found: the stored cells of every variant.
    """

    dataset: str
    positivity: str
    grid: str
    found: dict[str, Search]

    @property
    def missing(self) -> list[str]:
        """Variants of which cells of the grid are missing."""
        return [variant for variant, found in self.found.items() if not found.complete]


def selections(scale: str, runs: Sequence[Run]) -> list[Searches]:
    """The searches behind the panels of Figure 3 and, for the convex variants, of Figure 11.

    Of several grids the one is taken of which the largest share is stored, then the largest. Of a
    data set without cells and what is shown instead of it, the one that has cells.

    Args:
        scale: "paper" or "demo".
        runs: stored runs of any experiments.
    """
    grids = [DEMO_GRID] if scale == "demo" else [n for n in grid_names() if n != DEMO_GRID]
    exp = {name: {"model.positivity": "exp"} for name in figure_11.CONVEX}
    results = []
    for positivity, figure, changes in (
        ("projection", figure_3, {name: {} for name in TITLES}),
        ("exp", figure_11, exp),
    ):
        for final in figure.panels(scale):
            of_grids = []
            for shown in (final, final.instead) if final.instead is not None else (final,):
                for grid in grids:
                    groups = {"grid": grid, "dataset": shown.groups["dataset"]}
                    title = f"{shown.title}, {positivity}, grid {grid}"
                    panel = Panel(CELLS, title, changes, groups)
                    of_grids.append(_searches(panel, shown.title, positivity, grid, runs))
                if any(_share_and_size(searches)[0] for searches in of_grids):
                    break
            results.append(max(of_grids, key=_share_and_size))
    return results


def _searches(
    panel: Panel, dataset: str, positivity: str, grid: str, runs: Sequence[Run]
) -> Searches:
    found = {name: search(grid, name, panel.options(name), runs) for name in panel.variants}
    best = {name: cells.best.run for name, cells in found.items() if cells.best is not None}
    common: dict[str, Any] = {}
    if best:
        config = next(iter(best.values())).config
        common = {"seeds": config["seeds"], "trainer.epochs": config["trainer"]["epochs"]}
    return Searches(panel, best, common, [], dataset, positivity, grid, found)


def _share_and_size(searches: Searches) -> tuple[float, int]:
    size = len(grid_cells(searches.grid))
    return sum(len(found.cells) for found in searches.found.values()) / size, size


def all_cells(selections: Sequence[Searches]) -> pd.DataFrame:
    """Every stored cell.

    Returns:
        ``dataset, positivity, model, grid`` and the columns of
        :func:`~convexinit_paper.sweeps.grid_search.cells_table`, the best of each search first.
    """
    parts = [
        pd.DataFrame(_labels(searches, model), index=range(len(found.cells))).join(
            cells_table(found)
        )
        for searches in selections
        for model, found in searches.found.items()
        if found.cells
    ]
    return pd.concat(parts, ignore_index=True)


def _labels(searches: Searches, model: str) -> dict[str, str]:
    return {
        "dataset": searches.dataset,
        "positivity": searches.positivity,
        "model": model,
        "grid": searches.grid,
    }


def table(selections: Sequence[Searches]) -> pd.DataFrame:
    """The best cell of every search.

    Returns:
        One row per data set, positivity and variant: ``dataset, positivity, model, grid``;
        ``cells, of``: how many cells of the grid were searched, and how many it has;
        ``diverged_cells``: how many of them have diverged seeds; and the columns of
        :func:`~convexinit_paper.sweeps.grid_search.cells_table` for the best cell, empty if all
        diverged.
    """
    rows = [
        {
            **_labels(searches, model),
            "cells": len(found.cells),
            "of": found.size,
            "diverged_cells": sum(cell.diverged > 0 for cell in found.cells),
            **(cells_table(found).iloc[0] if found.best is not None else {}),
        }
        for searches in selections
        for model, found in searches.found.items()
        if found.cells
    ]
    return pd.DataFrame(rows)


def markdown(numbers: pd.DataFrame) -> str:
    """The table for people."""
    options = [name for name in OPTIONS if name in numbers]
    header = [
        "data set", "positivity", "model", "cells", "diverged", "validation accuracy",
        *(name.replace("_", " ") for name in options),
    ]  # fmt: skip
    lines = [header, ["---"] * len(header)]
    for row in numbers.to_dict("records"):
        diverged = pd.isna(row["accuracy"])
        lines.append(
            [
                row["dataset"],
                row["positivity"],
                TITLES[row["model"]],
                f"{row['cells']} of {row['of']} ({row['grid']})",
                str(row["diverged_cells"]),
                "none" if diverged else f"{row['accuracy']:.4f}",
                *("" if diverged else str(row[name]) for name in options),
            ]
        )
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def more_files(selections: Sequence[Searches], numbers: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """All cells, beside the table of the best."""
    return {"-cells.csv": all_cells(selections)}
