"""Figures 3 and 11, second part: the best cell of a grid becomes the options of a final run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convexinit_paper.experiments import training_dynamics
from convexinit_paper.request.config import composed, parse_section
from convexinit_paper.request.options import ConfigError, Section, one_of, option, require
from convexinit_paper.request.quoting import argument, run_command
from convexinit_paper.store.errors import RunError
from convexinit_paper.store.identity import CONTENTS, Config
from convexinit_paper.store.runs import read_runs
from convexinit_paper.sweeps.grid_search import (
    CELLS,
    FINAL,
    SECTIONS,
    Search,
    cells_table,
    flat,
    grid_cells,
    grid_names,
    search,
    wanted_cells,
)

# Options beside the sections that the command for missing cells repeats.
OTHER_OPTIONS = ("data_dir", "results_dir")
PRINTED_CELLS = 12


@dataclass(frozen=True)
class SearchSettings(Section):
    """Which cell is chosen; defaults in ``conf/experiment``."""

    grid: str = option("file of conf/grid whose cells are stored runs", one_of(grid_names()))
    incomplete: bool = option("whether to choose even if cells of the grid are missing")


@dataclass(frozen=True)
class Settings(training_dynamics.Settings):
    """Sections of the configuration."""

    search: SearchSettings


def final_config(config: Config) -> Config:
    """The configuration of a final run: its options are set to those of the best stored cell.

    Prints the cells. The result is one of the task "final_training" and holds every option, so that
    it makes the same run again without the cells.

    Args:
        config: resolved configuration of the task "best_of_grid".

    Raises:
        ConfigError: if an option of the section ``search`` has a wrong name or value, if the grid
            varies what is no option, or if an option that it varies was set.
        RunError: if no cell is stored, if some are missing and ``search.incomplete`` is not set, or
            if all diverged.
    """
    settings = parse_section(SearchSettings, config["search"], "search")
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
    print(f"{what}, by validation accuracy after the last epoch:\n{_shown(found)}")
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


def _options(config: Config) -> dict[str, Any]:
    """Options that the command for missing cells may have to repeat, by dotted name."""
    options = {**flat(config), **{name: config[name] for name in OTHER_OPTIONS}}
    path = {"dataset.path": config["dataset"]["path"]} if "path" in config["dataset"] else {}
    return {**options, **path}


def command_for_cells(config: Config, found: Search) -> str:
    """The command that runs the cells of a search that are missing.

    Args:
        config: resolved configuration of the final run.
        found: the cells that are stored, whose seeds the others share.
    """
    groups = {name: config[name]["name"] for name in ("dataset", "model")}
    arguments = {"experiment": CELLS, "grid": found.grid, **groups}
    default = composed(*(argument(name, value) for name, value in arguments.items()))
    usual, asked = _options(default), _options(config)
    chosen = {*grid_cells(found.grid)[0], "dataset.validation_fraction", *CONTENTS}
    arguments |= {
        name: value
        for name, value in asked.items()
        if name not in chosen and value != usual.get(name)
    }
    if found.cells:
        arguments["seeds"] = found.cells[0].run.config["seeds"]
    return run_command(argument(name, value) for name, value in arguments.items())
