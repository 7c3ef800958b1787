"""Table "grid-search": the best cell of every search behind Figures 3 and 11, and all cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from convexinit_paper.data.registry import DATA_SETS
from convexinit_paper.figures.select import Panel, Selection
from convexinit_paper.figures.text import markdown_table
from convexinit_paper.figures.variants import title_of
from convexinit_paper.store.runs import Run
from convexinit_paper.sweeps.grid_search import (
    Search,
    cells_table,
    grid_cells,
    search,
    varied_options,
)

OPTIONS = [name.split(".")[-1] for name in varied_options()]


@dataclass(frozen=True)
class Searches(Selection):
    """The searches of all variants on one data set; ``runs`` are those of the best cells.

    Attributes:
        found: the stored cells of every variant.
    """

    found: dict[str, Search]

    @property
    def missing(self) -> list[str]:
        """Variants of which cells of the grid are missing."""
        return [variant for variant, found in self.found.items() if not found.complete]

    @property
    def merit(self) -> tuple[float, int]:
        """The larger, the better: the share of the grid's cells that is stored, and its size."""
        size = next(iter(self.found.values())).size
        return sum(len(found.cells) for found in self.found.values()) / size, size


def searches(panels: Sequence[Panel], runs: Sequence[Run]) -> list[Searches]:
    """The searches on panels, of which those that differ in the grid alone are alternatives.

    Of several grids the one is taken of which the largest share is stored, then the largest. Of a
    data set without cells and what is shown instead of it, the one that has cells.

    Args:
        panels: one for each grid, data set and choice of variants.
        runs: stored runs of any experiments.
    """
    alternatives: dict[str, list[Panel]] = {}
    for panel in panels:
        others = {**panel.groups, "grid": "any"}
        alternatives.setdefault(repr([others, panel.variants]), []).append(panel)
    results = []
    for same in alternatives.values():
        found = [searched(panel, runs) for panel in same]
        if not any(one.merit[0] for one in found):
            found += [searched(panel.instead, runs) for panel in same if panel.instead is not None]
        results.append(max(found, key=lambda one: one.merit))
    return results


def searched(panel: Panel, runs: Sequence[Run]) -> Searches:
    """The searches of the variants in one panel."""
    grid = panel.groups["grid"]
    wanted = panel.wanted_among(runs)
    found = {
        name: search(grid, wanted[name], runs)
        if name in wanted
        else Search(grid, len(grid_cells(grid)), [])
        for name in panel.variants
    }
    best = {name: cells.best.run for name, cells in found.items() if cells.best is not None}
    common: dict[str, Any] = {}
    if best:
        config = next(iter(best.values())).config
        common = {"seeds": config["seeds"], "trainer.epochs": config["trainer"]["epochs"]}
    return Searches(panel, best, common, [], found)


def _labels(searches: Searches, model: str) -> dict[str, str]:
    groups = searches.panel.groups
    return {
        "dataset": DATA_SETS[groups["dataset"]].title,
        "positivity": searches.panel.wanted(model).fixed["model.positivity"],
        "model": model,
        "grid": groups["grid"],
    }


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
    rows = []
    # An option that the grid of a search does not vary has no value.
    for row in (
        numbers.astype(dict.fromkeys(options, object))
        .fillna(dict.fromkeys(options, ""))
        .to_dict("records")
    ):
        diverged = pd.isna(row["accuracy"])
        rows.append(
            [
                row["dataset"],
                row["positivity"],
                title_of(row["model"]),
                f"{row['cells']} of {row['of']} ({row['grid']})",
                str(row["diverged_cells"]),
                "none" if diverged else f"{row['accuracy']:.4f}",
                *("" if diverged else str(row[name]) for name in options),
            ]
        )
    return markdown_table(header, rows)


def more_files(selections: Sequence[Searches], numbers: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """All cells, beside the table of the best."""
    return {"-cells.csv": all_cells(selections)}
