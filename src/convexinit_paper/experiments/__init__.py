"""The experiments: config in, stored run out.

A task is a module of this package with

- ``Settings``: a dataclass with a field for every section of the configuration that it uses, whose
  annotation is the dataclass of that section,
- ``run(settings, request)``: what it does, which returns an ``Outcome``.

``best_of_grid`` has ``final_config`` in place of ``run``: it becomes ``final_training``.
"""

from __future__ import annotations

import importlib
import pkgutil
import shutil
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

from convexinit_paper.data.contents import with_contents
from convexinit_paper.request.config import field_names, parse_settings
from convexinit_paper.request.options import one_of, require
from convexinit_paper.request.paths import with_user_paths
from convexinit_paper.request.request import Request, parse_request
from convexinit_paper.store.checkpoints import checkpoint_folder
from convexinit_paper.store.failures import recorded_failure
from convexinit_paper.store.identity import Config
from convexinit_paper.store.locks import claimed
from convexinit_paper.store.provenance import git_revision
from convexinit_paper.store.runs import Outcome, is_intact, store
from convexinit_paper.store.staging import set_aside, staging
from convexinit_paper.tracking import log_run, remind_of_unsent
from convexinit_paper.training.unused import without_effect

TASKS = one_of(module.name for module in pkgutil.iter_modules(__path__))


def task_module(task: Any) -> Any:
    """The module of a task, imported when it is asked for, so that none pays for the others.

    Raises:
        ConfigError: if there is no task of that name.
    """
    require(TASKS.holds(task), "task", TASKS.words, task)
    return importlib.import_module(f"{__name__}.{task}")


def request_of(config: Config) -> Request:
    """The run that a configuration asks for, its options chosen where the best of a grid is wanted.

    Data is looked at in that case alone; see :func:`identified`.

    Args:
        config: the resolved configuration.

    Raises:
        ConfigError: if an option that all experiments share has a wrong name or value, or none can
            be chosen.
        RunError: if cells of the grid are missing.
        DataError: if what they would have been trained on is missing.
    """
    config = with_user_paths(config)
    task = task_module(config.get("task"))
    request = parse_request(config, field_names(task.Settings))
    if request.task != "best_of_grid":
        return request
    # Which cells there are to choose among depends on the data.
    final = task.final_config(with_contents(request.config))
    return replace(request, task=final["task"], config=final)


def identified(request: Request) -> Request:
    """The same request, with the digests of the data that is there now.

    Raises:
        DataError: the data is missing, or is not what the request says.
    """
    return replace(request, config=with_contents(request.config))


def run_experiment(config: Config) -> Path:
    """Run an experiment, or find it if it was stored by an earlier request.

    A damaged run is set aside and computed again. If another process is working on the same run,
    this one waits for it. A failure is recorded (:mod:`convexinit_paper.store.failures`). Options
    without effect, as a sweep over variants may have, are warned about, and so are seeds that
    diverged.

    Args:
        config: the resolved configuration.

    Returns:
        Folder of the finished run.

    Raises:
        ConfigError: if an option has a wrong name or value.
        DataError: if data is missing, also if a run is stored, where it is not known by name.
    """
    request = request_of(config)
    for message in without_effect(request.config):
        warnings.warn(message, stacklevel=2)
    with recorded_failure(request.folder, request.config):
        request = identified(request)
    folder = request.folder
    if not request.force and is_intact(folder):
        remind_of_unsent([folder], request.logger)
        return folder
    with claimed(folder):
        if not request.force and folder.exists():
            if is_intact(folder):  # another process has stored it in the meantime
                remind_of_unsent([folder], request.logger)
                return folder
            set_aside(folder)
        with recorded_failure(folder, request.config), staging(folder) as place:
            begin = time.perf_counter()
            git_revision()  # of the code that runs; the tree may change while it does
            task = task_module(request.task)
            outcome = task.run(parse_settings(task.Settings, request.config), request)
            store(place, folder, request.config, outcome, time.perf_counter() - begin)
            warn_of_divergence(outcome, folder)
        shutil.rmtree(checkpoint_folder(request.config), ignore_errors=True)
    if request.logger:
        log_run(folder, request.logger)
    return folder


def warn_of_divergence(outcome: Outcome, folder: Path) -> None:
    """Say on stderr how many seeds of a run diverged; nothing where none did.

    Args:
        outcome: of the run.
        folder: in which it is stored.
    """
    seeds = outcome.seeds.values()
    count = sum(final["status"] == "diverged" for final in seeds)
    if count:
        sys.stderr.write(
            f"warning: {count} of {len(seeds)} seeds diverged (a loss, a weight or a signal is not "
            f"finite); which, is in {folder / 'summary.json'}\n"
        )
