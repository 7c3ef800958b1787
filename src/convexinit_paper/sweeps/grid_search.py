"""Grid search: which cells of a grid are stored, and which one is best.

A grid is a file of ``conf/grid``: options with the values to try. A cell is one choice of a value
for each, stored as an ordinary run of the experiment ``generalisation``. The best cell of a model
variant is the one with the highest validation accuracy after the last epoch, averaged over the
seeds of the cell; of equals, the one with the lowest validation loss, then the first in the order
of the grid. A cell of which any seed diverged never wins.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from statistics import fmean
from typing import Any

import pandas as pd
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Transformer
from omegaconf import OmegaConf

from convexinit_paper.request.config import CONF, composed
from convexinit_paper.request.quoting import argument
from convexinit_paper.store.identity import Config
from convexinit_paper.store.matching import Wanted, flatten, run_sets
from convexinit_paper.store.runs import Run

CELLS = "generalisation"  # the experiment whose runs are cells
FINAL = "generalisation_final"  # the one that trains the best cell anew
SECTIONS = ("dataset", "model", "trainer")
# Options in which a final run departs from its cell, or which do not matter to the choice.
UNCOMPARED = (
    "seeds",
    "search.grid",
    "search.incomplete",
    "dataset.validation_fraction",
    "trainer.precision",
    "trainer.device",
)


@dataclass(frozen=True)
class Cell:
    """A stored cell of a grid.

    Attributes:
        run: the stored run.
        options: the options that the grid varies, by dotted name.
        accuracy: on the validation set after the last epoch, mean over the seeds.
        loss: likewise, in nats.
        diverged: number of seeds that diverged.
    """

    run: Run
    options: dict[str, Any]
    accuracy: float
    loss: float
    diverged: int


@dataclass(frozen=True)
class Search:
    """The stored cells of a grid for one model variant.

    Attributes:
        grid: name of the grid.
        size: number of cells in the grid.
        cells: those that are stored, the best first, cells that diverged last.
    """

    grid: str
    size: int
    cells: list[Cell]

    @property
    def best(self) -> Cell | None:
        """The cell that wins, None if there is none without divergence."""
        return next((cell for cell in self.cells if cell.diverged == 0), None)

    @property
    def complete(self) -> bool:
        """Whether all cells of the grid are stored."""
        return len(self.cells) == self.size


def grid_names() -> list[str]:
    """Names of the grids in ``conf/grid``."""
    return sorted(path.stem for path in (CONF / "grid").glob("*.yaml"))


@cache
def grid_cells(grid: str) -> list[dict[str, Any]]:
    """The options of every cell of a grid by dotted name, in the order in which a sweep runs them.

    Example:
        >>> grid_cells("demo")[0]
        {'trainer.learning_rate': 0.01, 'model.widths': [64]}
    """
    params = OmegaConf.load(CONF / "grid" / f"{grid}.yaml").sweeper.params
    parser = OverridesParser.create()
    values = {}
    for name, text in params.items():
        override = parser.parse_override(f"{name}={text}")
        swept = override.is_sweep_override()
        values[str(name)] = (
            list(override.sweep_iterator(Transformer.identity)) if swept else [override.value()]
        )
    return [dict(zip(values, choice, strict=True)) for choice in product(*values.values())]


def varied_options() -> list[str]:
    """Dotted names of the options of data set, model and trainer that any grid varies."""
    names = {name for grid in grid_names() for name in grid_cells(grid)[0]}
    return sorted(name for name in names if name.split(".")[0] in SECTIONS)


def search(grid: str, wanted: Wanted, runs: Sequence[Run]) -> Search:
    """Find the stored cells of one model variant.

    Seeds, and whatever else is not fixed, are the same for all cells: of several sets of cells the
    best is taken, as figures do.

    Args:
        grid: name of the grid.
        wanted: what all cells have in common; the grid's values go before its own.
        runs: stored runs of any experiments.
    """
    cells = grid_cells(grid)
    of_cells = {
        index: replace(wanted, fixed={**wanted.fixed, **cell}) for index, cell in enumerate(cells)
    }
    validated = [run for run in runs if _is_validated(run)]
    best = next(iter(run_sets(of_cells, validated)), None)
    found = {} if best is None else best.runs
    in_order = [_cell(found[index][0], cells[index]) for index in sorted(found)]
    ranked = sorted(in_order, key=lambda cell: (cell.diverged > 0, -cell.accuracy, cell.loss))
    return Search(grid, len(cells), ranked)


def _is_validated(run: Run) -> bool:
    """Whether a run was trained with a validation set."""
    return all("validation_accuracy" in seed for seed in run.summary["seeds"].values())


def _cell(run: Run, options: dict[str, Any]) -> Cell:
    """A run as a cell."""
    seeds = run.summary["seeds"].values()
    # What is not finite is stored as null.
    accuracy, loss = (
        fmean(math.nan if seed[metric] is None else seed[metric] for seed in seeds)
        for metric in ("validation_accuracy", "validation_loss")
    )
    return Cell(run, options, accuracy, loss, len(run.diverged))


def flat(config: Config) -> dict[str, Any]:
    """Options of data set, model and trainer by dotted name.

    Example:
        >>> flat({"seeds": [0], "model": {"rho": 0.5}})
        {'model.rho': 0.5}
    """
    return {
        name: value for name, value in flatten(config).items() if name.split(".")[0] in SECTIONS
    }


def wanted_cells(config: Config) -> Wanted:
    """What the cells that a final run chooses among are like.

    Args:
        config: resolved configuration of the final run.
    """
    groups = [argument(name, config[name]["name"]) for name in ("dataset", "model")]
    defaults = composed(f"experiment={CELLS}", *groups)
    fixed = {name: value for name, value in flatten(config).items() if name not in UNCOMPARED}
    # None, too, is a content: that of data that is known by name.
    fixed["dataset.content"] = config["dataset"].get("content")
    return Wanted(CELLS, config["model"]["name"], fixed, flatten(defaults))


def cells_table(found: Search) -> pd.DataFrame:
    """One row per stored cell, the best first.

    Returns:
        One column for each option that the grid varies, without its section; ``accuracy, loss``: on
        the validation set, loss in nats; ``diverged, seeds``: numbers of seeds; ``epochs``;
        ``run``: the folder's name.
    """
    rows = [
        {
            **{name.split(".")[-1]: value for name, value in cell.options.items()},
            "accuracy": cell.accuracy,
            "loss": cell.loss,
            "diverged": cell.diverged,
            "seeds": len(cell.run.summary["seeds"]),
            "epochs": cell.run.config["trainer"]["epochs"],
            "run": cell.run.folder.name,
        }
        for cell in found.cells
    ]
    return pd.DataFrame(rows)
