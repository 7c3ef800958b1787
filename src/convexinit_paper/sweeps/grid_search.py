"""Grid search: which cells of a grid are stored, which one is best, and the run it leads to.

A grid is a file of ``conf/grid``: options with the values to try. A cell is one choice of a value
for each, stored as an ordinary run of the experiment ``generalisation``. The best cell of a model
variant is the one with the highest validation accuracy after the last epoch, averaged over the
seeds of the cell; of equals, the one with the lowest validation loss, then the first in the order
of the grid. A cell of which any seed diverged never wins.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import pandas as pd
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Transformer
from omegaconf import OmegaConf

from convexinit_paper.request.config import (
    CONF,
    ConfigError,
    checked,
    composed,
    option_text,
    require,
)
from convexinit_paper.store.errors import RunError
from convexinit_paper.store.identity import Config
from convexinit_paper.store.matching import Wanted, flatten, run_sets
from convexinit_paper.store.runs import Run, read_runs

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
# Options beside the sections that the command for missing cells repeats.
OTHER_OPTIONS = ("data_dir", "results_dir")
PRINTED_CELLS = 12


@dataclass(frozen=True)
class SearchSettings:
    """Which grid a final run is chosen from.

    Attributes:
        grid: name of a file of ``conf/grid``.
        incomplete: whether to choose even if cells of the grid are missing.
    """

    grid: str
    incomplete: bool

    def __post_init__(self) -> None:
        names = grid_names()
        require(self.grid in names, "search.grid", f"one of {', '.join(names)}", self.grid)


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
    groups = [f"{name}={config[name]['name']}" for name in ("dataset", "model")]
    defaults = composed(f"experiment={CELLS}", *groups)
    fixed = {name: value for name, value in flatten(config).items() if name not in UNCOMPARED}
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


def final_config(config: Config) -> Config:
    """The configuration of a final run: its options are set to those of the best stored cell.

    Prints the cells. The result holds every option, so that it makes the same run again without
    the cells.

    Args:
        config: resolved configuration of the task "best_of_grid".

    Raises:
        ConfigError: if an option of the section ``search`` has a wrong name or value, if the grid
            varies what is no option, or if an option that it varies was set.
        RunError: if no cell is stored, if some are missing and ``search.incomplete`` is not set, or
            if all diverged.
    """
    settings = checked(SearchSettings, config["search"], "search")
    place = Path(config["results_dir"]) / "runs"
    variant = config["model"]["name"]
    options = flat(config)
    usual = flat(composed(f"experiment={FINAL}"))
    for name in grid_cells(settings.grid)[0]:
        if name not in usual:
            raise ConfigError(
                f"the grid {settings.grid} varies {name}, which is no option of "
                f"{', '.join(SECTIONS[:-1])} or {SECTIONS[-1]}"
            )
        rule = f"left as it is, as the grid {settings.grid} chooses it"
        require(options[name] == usual[name], name, rule, options[name])
    found = search(settings.grid, wanted_cells(config), read_runs(place, CELLS))
    what = (
        f"{len(found.cells)} of {found.size} cells of the grid {settings.grid} for {variant} on "
        f"{config['dataset']['name']}"
    )
    if not found.cells or not (found.complete or settings.incomplete):
        hint = "\nsearch.incomplete=true chooses among those." if found.cells else ""
        raise RunError(
            f"{place / CELLS} holds {what}.\n"
            f"To run what is missing: {command_for_cells(config, found)}{hint}"
        )
    if found.best is None:
        raise RunError(f"{place / CELLS} holds {what}, but all of them diverged: none is the best")
    _print_once(f"{what}, by validation accuracy after the last epoch:\n{_shown(found)}")
    final = {**config, "task": "final_training", "search": {"grid": settings.grid}}
    for name, value in found.best.options.items():
        section, option = name.split(".")
        final[section] = {**final[section], option: value}
    return final


def _shown(found: Search) -> str:
    """The first cells as text."""
    text = cells_table(found).head(PRINTED_CELLS).to_string(index=False)
    more = len(found.cells) - PRINTED_CELLS
    return f"{text}\nand {more} more" if more > 0 else text


@cache
def _print_once(text: str) -> None:
    """Print what a process has not printed yet: a sweep may look at a run before it starts it."""
    print(text)


def command_for_cells(config: Config, found: Search) -> str:
    """The command that runs the cells of a search that are missing.

    Args:
        config: resolved configuration of the final run.
        found: the cells that are stored, whose seeds the others share.
    """
    groups = {name: config[name]["name"] for name in ("dataset", "model")}
    arguments = {"experiment": CELLS, "grid": found.grid, **groups}
    default = composed(*(f"{name}={value}" for name, value in arguments.items()))
    usual = {**flat(default), **{name: default[name] for name in OTHER_OPTIONS}}
    asked = {**flat(config), **{name: config[name] for name in OTHER_OPTIONS}}
    chosen = {*grid_cells(found.grid)[0], "dataset.validation_fraction"}
    arguments |= {
        name: value
        for name, value in asked.items()
        if name not in chosen and value != usual.get(name)
    }
    if found.cells:
        arguments["seeds"] = found.cells[0].run.config["seeds"]
    words = [f"{name}={option_text(value)}" for name, value in arguments.items()]
    return f"python run.py {shlex.join(words)}"
