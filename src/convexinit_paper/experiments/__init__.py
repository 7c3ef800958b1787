"""The experiments: config in, stored run out."""

from __future__ import annotations

import importlib
import re
import shutil
import time
from pathlib import Path
from typing import Any

from convexinit_paper.request.config import ConfigError, parse_seeds, require
from convexinit_paper.store.checkpoints import checkpoint_folder
from convexinit_paper.store.failures import recorded_failure
from convexinit_paper.store.identity import PLACES, run_folder
from convexinit_paper.store.locks import claimed
from convexinit_paper.store.provenance import git_revision
from convexinit_paper.store.runs import is_intact, store
from convexinit_paper.store.staging import set_aside, staging
from convexinit_paper.sweeps.grid_search import final_config
from convexinit_paper.tracking import log_run, logger_settings

# Modules are imported when an experiment asks for them, so that none pays for the others. The task
# best_of_grid has none: it becomes final_training when its options are chosen.
TASKS = {
    "training_dynamics": "convexinit_paper.experiments.training_dynamics",
    "final_training": "convexinit_paper.experiments.training_dynamics",
    "signal_propagation": "convexinit_paper.experiments.signal_propagation",
    "autoencoder": "convexinit_paper.experiments.autoencoder",
    "tox21": "convexinit_paper.experiments.tox21",
    "level_sets": "convexinit_paper.experiments.level_sets",
}
# The sections of the configuration that each task uses, and the options that all have.
SECTIONS = {
    "training_dynamics": {"dataset", "model", "trainer"},
    "final_training": {"dataset", "model", "trainer", "search"},
    "best_of_grid": {"dataset", "model", "trainer", "search"},
    "signal_propagation": {"model", "signal"},
    "autoencoder": {"model", "corpus", "autoencoder"},
    "tox21": {"dataset", "codec", "model", "dropout", "trainer"},
    "level_sets": {"dataset", "codec", "model", "dropout", "trainer", "level_sets"},
}
COMMON = {"name", "task", "seeds", *PLACES}


def prepared(config: dict[str, Any]) -> dict[str, Any]:
    """Check the options that all experiments share, and write out the seeds.

    Args:
        config: the resolved configuration.

    Raises:
        ConfigError: if one of them has a wrong name or value.
    """
    if config["task"] not in SECTIONS:
        raise ConfigError(f"task must be one of {', '.join(SECTIONS)}; got {config['task']!r}")
    unused = sorted(set(config) - COMMON - SECTIONS[config["task"]])
    if unused:
        raise ConfigError(f"the experiment {config['name']} does not use the option {unused[0]}")
    for option, name in (("name", config["name"]), ("model.name", config["model"]["name"])):
        require(bool(re.fullmatch(r"[\w-]+", str(name))), option, "letters, digits, - and _", name)
    for option in ("data_dir", "results_dir"):
        place = config[option]
        rule = """the name of a folder, in quotes if it is a number ('"2024"')"""
        require(isinstance(place, str) and place != "", option, rule, place)
    require(isinstance(config["force"], bool), "force", "true or false", config["force"])
    logger_settings(config)
    minutes, most = config["checkpoint_minutes"], config["seeds_at_once"]
    number = isinstance(minutes, (int, float)) and minutes >= 0
    require(number, "checkpoint_minutes", "a number, at least 0", minutes)
    require(
        most is None or (type(most) is int and most >= 1),
        "seeds_at_once",
        "null for as many as fit into memory, or a number, at least 1",
        most,
    )
    config = {**config, "seeds": parse_seeds(config["seeds"])}
    if config["task"] == "best_of_grid":
        config = final_config(config)
    return config


def run_experiment(config: dict[str, Any]) -> Path:
    """Run an experiment, or find it if it was stored by an earlier request.

    A damaged run is set aside and computed again. If another process is working on the same run,
    this one waits for it. A failure is recorded (:mod:`convexinit_paper.store.failures`).

    Args:
        config: the resolved configuration.

    Returns:
        Folder of the finished run.
    """
    config = prepared(config)
    folder = run_folder(config)
    if not config["force"] and is_intact(folder):
        return folder
    with claimed(folder):
        if not config["force"] and folder.exists():
            if is_intact(folder):  # another process has stored it in the meantime
                return folder
            set_aside(folder)
        with recorded_failure(config), staging(folder) as place:
            begin = time.perf_counter()
            git_revision()  # of the code that runs; the tree may change while it does
            outcome = importlib.import_module(TASKS[config["task"]]).run(config)
            store(place, folder, config, outcome, time.perf_counter() - begin)
        shutil.rmtree(checkpoint_folder(config), ignore_errors=True)
    log_run(folder)
    return folder
