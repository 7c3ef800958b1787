"""Stored runs that are older than some of today's options: a new option hides none of them."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from convexinit_paper.request.config import CONF, composed
from convexinit_paper.request.quoting import argument
from convexinit_paper.store.errors import RunError, unreadable
from convexinit_paper.store.identity import PLACES, Config, plain, run_folder
from convexinit_paper.store.matching import flatten
from convexinit_paper.store.runs import read_run

# Groups of the configuration whose choice is known by the name in their section.
GROUPS = ("model", "dataset", "codec")


def stored_folder(config: Config) -> Path:
    """Folder in which the run of this configuration is stored, or will be.

    That is :func:`~convexinit_paper.store.identity.run_folder`, unless nothing lies there and the
    same run is stored with fewer options, those that did not exist yet.

    Raises:
        AccessError: if this process may not see what lies there.
    """
    folder = run_folder(config)
    try:
        if not folder.exists():
            for path in folder.parent.glob(f"{config['model']['name']}-*/config.yaml"):
                stored = _read(path.parent, path.stat().st_mtime_ns)
                if stored is not None and is_older(stored, config):
                    return path.parent
    except PermissionError as error:
        raise unreadable(folder, error) from error
    return folder


def is_older(stored: Config, config: Config) -> bool:
    """Whether a stored run is that of a configuration, but for options that it lacks.

    These must have their defaults now, which older runs count as having.
    """
    found, wanted = _options(stored), _options(config)
    lacking = wanted.keys() - found.keys()
    if not lacking or any(wanted.get(name, found) != value for name, value in found.items()):
        return False
    defaults = _options(defaults_of(config))
    return all(defaults.get(name, wanted) == wanted[name] for name in lacking)


def completed(config: Config) -> Config:
    """A stored configuration with the options that it lacks, at their defaults."""
    defaults = defaults_of(config)
    sections = {
        name: {**defaults.get(name, {}), **section}
        for name, section in config.items()
        if isinstance(section, dict)
    }
    return {**defaults, **config, **sections}


def defaults_of(config: Config) -> Config:
    """The configuration of an experiment, model, data set and codec without further choices.

    Of an experiment that is not in ``conf/``, as after ``name=<another>``, only what decides no
    number is known.
    """
    if not (CONF / "experiment" / f"{config['name']}.yaml").exists():
        usual = _composed("~experiment")
        return {name: usual[name] for name in PLACES}
    choices = [argument("experiment", config["name"])]
    for group in GROUPS:
        name = config.get(group, {}).get("name")
        if (CONF / group / f"{name}.yaml").exists():
            choices.append(argument(group, name))
    usual = _composed(*choices)
    if config.get("task") == "final_training":  # whose cell is chosen: how, is no option of it
        return {**usual, "search": {}}
    return usual


_composed = cache(composed)


@cache
def _read(folder: Path, _written: int) -> Config | None:
    """The configuration of a run; None if it cannot be read."""
    try:
        return read_run(folder).config
    except RunError:
        return None


def _options(config: Config) -> dict[str, Any]:
    return flatten(plain(config))
