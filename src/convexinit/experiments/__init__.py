"""The experiments: config in, stored run out."""

from __future__ import annotations

import importlib
import re
import time
from pathlib import Path
from typing import Any

from convexinit.config import ConfigError, parse_seeds, require
from convexinit.runs import git_revision, is_stored, run_folder, staging, store

# Modules are imported when an experiment asks for them, so that none pays for the others.
TASKS = {
    "training_dynamics": "convexinit.experiments.training_dynamics",
    "signal_propagation": "convexinit.experiments.signal_propagation",
    "autoencoder": "convexinit.experiments.autoencoder",
    "tox21": "convexinit.experiments.tox21",
    "level_sets": "convexinit.experiments.level_sets",
}
# The sections of the configuration that each task uses, and the options that all have.
SECTIONS = {
    "training_dynamics": {"dataset", "model", "trainer"},
    "signal_propagation": {"model", "signal"},
    "autoencoder": {"model", "corpus", "autoencoder"},
    "tox21": {"dataset", "codec", "model", "dropout", "trainer"},
    "level_sets": {"dataset", "codec", "model", "dropout", "trainer", "level_sets"},
}
COMMON = {"name", "task", "seeds", "data_dir", "results_dir", "force"}


def run_experiment(config: dict[str, Any]) -> Path:
    """Run an experiment, or find it if it was stored by an earlier request.

    Args:
        config: the resolved configuration.

    Returns:
        Folder of the finished run.
    """
    if config["task"] not in TASKS:
        raise ConfigError(f"task must be one of {', '.join(TASKS)}; got {config['task']!r}")
    unused = sorted(set(config) - COMMON - SECTIONS[config["task"]])
    if unused:
        raise ConfigError(f"the experiment {config['name']} does not use the option {unused[0]}")
    for option, name in (("name", config["name"]), ("model.name", config["model"]["name"])):
        require(bool(re.fullmatch(r"[\w-]+", str(name))), option, "letters, digits, - and _", name)
    require(isinstance(config["force"], bool), "force", "true or false", config["force"])
    config = {**config, "seeds": parse_seeds(config["seeds"])}
    folder = run_folder(config)
    if is_stored(folder) and not config["force"]:
        return folder
    with staging(folder) as place:
        begin = time.perf_counter()
        git_revision()  # of the code that runs; the tree may change while it does
        outcome = importlib.import_module(TASKS[config["task"]]).run(config)
        store(place, folder, config, outcome, time.perf_counter() - begin)
    return folder
