"""One run that is asked for: the options that all experiments share."""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from convexinit_paper.request.config import field_names, parse_section
from convexinit_paper.request.older import stored_folder
from convexinit_paper.request.options import ConfigError, Range, Section, one_of, option, require
from convexinit_paper.request.suggestions import did_you_mean
from convexinit_paper.store.identity import Config

MOST_SEEDS = 10_000
MODES = ("online", "offline", "disabled")
WORD = Range(
    "letters, digits, - and _",
    lambda name: name is not None and bool(re.fullmatch(r"[\w-]+", str(name))),
)
FOLDER = Range(
    """the name of a folder, in quotes if it is a number ('"2024"') or begins with a bracket""",
    lambda place: isinstance(place, str) and place != "",
)


@dataclass(frozen=True)
class WandbSettings(Section):
    """How Weights & Biases is used; defaults in ``conf/logger/wandb.yaml``."""

    mode: str = option('offline: local files, which "wandb sync" uploads', one_of(MODES))
    project: str = option("name of the project")
    entity: str | None = option("user or team; None for the user's own default")
    folder: str = option('where the subfolder "wandb" with the local files is made')


@dataclass(frozen=True)
class Request(Section):
    """A run that is asked for.

    Its fields are the options that all experiments share, as ``conf/config.yaml`` has them, and the
    whole configuration. The settings of its task are made where it runs
    (:func:`convexinit_paper.experiments.run_experiment`), which may be another machine.
    """

    name: str = option("of the experiment", WORD)
    task: str = option("module of convexinit_paper.experiments that runs it")
    seeds: list[int] = option("of the networks, which train as one stack")
    data_dir: str = option("where raw data lies", FOLDER)
    results_dir: str = option("where runs go", FOLDER)
    force: bool = option(
        "whether to run again what is stored",
        Range("true or false", lambda value: isinstance(value, bool)),
    )
    checkpoint_minutes: float = option(
        "between two checkpoints",
        Range("a number, at least 0", lambda value: isinstance(value, (int, float)) and value >= 0),
    )
    seeds_at_once: int | None = option(
        "that train at once",
        Range(
            "null for as many as fit into memory, or a number, at least 1",
            lambda value: value is None or (type(value) is int and value >= 1),
        ),
    )
    logger: WandbSettings | None = option("where the stored run is sent; None for nowhere")
    config: Config = option("all options, which the run is stored and found by")

    @cached_property
    def folder(self) -> Path:
        """Where the run is stored, whether it exists or not."""
        return stored_folder(self.config)

    @property
    def cache(self) -> Path:
        """Folder of what several runs share."""
        return Path(self.results_dir) / "cache"


SHARED = {*field_names(Request)} - {"config"}


def parse_request(config: Config, sections: Collection[str]) -> Request:
    """Check the options that all experiments share.

    Args:
        config: the resolved configuration.
        sections: names of the sections that the task uses.

    Raises:
        ConfigError: if one of these options has a wrong name or value, or a section is missing or
            not used.
    """
    missing = sorted({*sections} - {name for name in config if isinstance(config[name], dict)})
    if missing:
        raise ConfigError(f"the experiment {config['name']} needs the section {missing[0]}")
    unused = sorted({*config} - SHARED - {*sections})
    if unused:
        known = [f"{section}.{name}" for section in sections for name in config[section]]
        hint = did_you_mean(unused[0], [*SHARED, *known])
        raise ConfigError(
            f"the experiment {config['name']} does not use the option {unused[0]}.{hint}"
        )
    variant = config.get("model", {}).get("name")
    require(WORD.holds(variant), "model.name", WORD.words, variant)
    seeds = parse_seeds(config.get("seeds"))
    shared: dict[str, Any] = {name: config.get(name) for name in SHARED}
    shared |= {"seeds": seeds, "logger": parse_logger(config.get("logger", "csv"))}
    return Request(**shared, config={**config, "seeds": seeds})


def parse_seeds(seeds: Any) -> list[int]:
    """Seeds of a run: ``N`` means 0 to N-1, a list means exactly those.

    Raises:
        ConfigError: for anything but a positive integer or a list of distinct integers, 0 or more.

    Example:
        >>> parse_seeds(3), parse_seeds([3, 7])
        ([0, 1, 2], [3, 7])
    """
    if type(seeds) is int and 1 <= seeds <= MOST_SEEDS:
        return list(range(seeds))
    is_list = (
        isinstance(seeds, list)
        and bool(seeds)
        and all(type(seed) is int and 0 <= seed < 2**63 for seed in seeds)
        and len(set(seeds)) == len(seeds)
    )
    allowed = f"a number from 1 to {MOST_SEEDS}, or a list of distinct seeds such as seeds=[3,7]"
    require(is_list, "seeds", allowed, seeds)
    return seeds


def parse_logger(options: Any) -> WandbSettings | None:
    """Settings of ``logger=wandb``, or None for ``logger=csv``.

    Raises:
        ConfigError: if an option of the section ``logger`` has a wrong name or value.
    """
    name = options.get("name") if isinstance(options, dict) else options
    require(name in ("csv", "wandb"), "logger", "csv or wandb", name)
    return None if name == "csv" else parse_section(WandbSettings, options, "logger")
