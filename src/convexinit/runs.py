"""Where finished runs are stored, and how runs are read back as one table.

A run is a folder ``<results>/runs/<experiment>/<model>-<digest>`` with

- ``config.yaml``: the resolved configuration,
- ``metrics.csv``: ``seed,epoch,step,split,metric,value``, one measurement a row,
- ``summary.json``: final metrics per seed, wall time, device, package versions, git revision,
- ``arrays.npz``: larger arrays, for experiments that have them.

The digest is that of the configuration, so that the same request finds the same folder. A folder
is written under a hidden name and renamed when it is complete.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import shutil
import subprocess
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from omegaconf import OmegaConf
from yaml import YAMLError

# What does not change the numbers of a run, and so does not count when a stored run is looked up.
PLACES = ("data_dir", "results_dir", "logger", "force")
FILES = ("config.yaml", "metrics.csv", "summary.json")
COLUMNS = ["seed", "epoch", "step", "split", "metric", "value"]
PACKAGES = ("convexinit", "torch", "numpy", "pandas", "hydra-core", "scikit-learn", "rdkit")

Config = dict[str, Any]


class RunError(RuntimeError):
    """A stored run that cannot be read, or a place where none can be written."""


@dataclass(frozen=True)
class Outcome:
    """What an experiment measured, before it is stored.

    Attributes:
        metrics: table with the columns :data:`COLUMNS`.
        seeds: per seed, its final metrics and its status ("finished" or "diverged").
        device: what it ran on.
        arrays: larger arrays by name.
        notes: whatever else the summary should say, by name.
    """

    metrics: pd.DataFrame
    seeds: dict[int, dict[str, Any]]
    device: str
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """A stored run."""

    folder: Path
    config: Config
    summary: dict[str, Any]

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """Table with the columns :data:`COLUMNS`.

        Raises:
            RunError: if the file is damaged.
        """
        try:
            return pd.read_csv(self.folder / "metrics.csv", dtype={"value": float})[COLUMNS]
        except (OSError, ValueError, KeyError) as error:
            raise _unreadable(self.folder, error) from error

    @cached_property
    def arrays(self) -> dict[str, np.ndarray]:
        """Larger arrays of the run by name; empty if it has none.

        Raises:
            RunError: if the file is damaged.
        """
        path = self.folder / "arrays.npz"
        if not path.exists():
            return {}
        try:
            with np.load(path, allow_pickle=False) as archive:
                return dict(archive)
        except (OSError, ValueError, zipfile.BadZipFile) as error:
            raise _unreadable(self.folder, error) from error


def identity(config: Config) -> Config:
    """The part of a configuration that decides the numbers of a run."""
    return {key: value for key, value in config.items() if key not in PLACES}


def run_folder(config: Config) -> Path:
    """Folder in which the run of this configuration is stored, whether it exists or not."""
    text = json.dumps(_plain(identity(config)), sort_keys=True)
    digest = hashlib.sha256(text.encode()).hexdigest()[:10]
    name = f"{config['model']['name']}-{digest}"
    return Path(config["results_dir"]) / "runs" / config["name"] / name


def _plain(value: Any) -> Any:
    """Numbers as floats, so that 0 and 0.0 are the same request; None for those not finite."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value) if math.isfinite(value) else None
    return value


def is_stored(folder: Path) -> bool:
    """Whether a complete run lies in ``folder``."""
    return all((folder / name).is_file() for name in FILES)


@contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """A hidden folder beside ``folder``, removed on the way out unless it was renamed.

    Opened before the work starts, so that a place that cannot be written to is noticed at once.

    Raises:
        RunError: if the folder cannot be made.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        place = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise RunError(
            f"cannot write to {folder.parent}: {error.strerror}.\n"
            "Choose another place for runs with results_dir=..."
        ) from error
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def store(place: Path, folder: Path, config: Config, outcome: Outcome, wall_time: float) -> None:
    """Write a run into ``place`` and rename it to ``folder``.

    A run that lies in ``folder`` already is replaced. If another process stored the same run in
    the meantime, one of the two stays.

    Args:
        place: from :func:`staging`.
        folder: from :func:`run_folder`.
        config: the resolved configuration.
        outcome: what was measured.
        wall_time: duration of the run in seconds.

    Raises:
        RunError: if the disk is full or cannot be written to.
    """
    summary = {
        "seeds": {str(seed): _plain(values) for seed, values in outcome.seeds.items()},
        **outcome.notes,
        "wall_time_seconds": round(wall_time, 3),
        "device": outcome.device,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "git_revision": git_revision(),
    }
    try:
        (place / "config.yaml").write_text(OmegaConf.to_yaml(config))
        outcome.metrics[COLUMNS].to_csv(place / "metrics.csv", index=False, float_format="%.9g")
        (place / "summary.json").write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n")
        if outcome.arrays:
            with (place / "arrays.npz").open("wb") as file:
                np.savez_compressed(file, **outcome.arrays)  # type: ignore[arg-type]
        place.chmod(0o755)
        for path in [*place.iterdir(), place]:
            _flush(path)
        replace(place, folder)
        _flush(folder.parent)
    except OSError as error:
        raise RunError(
            f"cannot store the run in {folder}: {error.strerror}.\n"
            "Free some space or choose another place with results_dir=..., then ask again."
        ) from error


def _flush(path: Path) -> None:
    """Make sure that a file or folder has reached the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace(place: Path, folder: Path) -> None:
    """Rename ``place`` to ``folder``, instead of what is there.

    If other processes put theirs there at the same moment, the last one stays.
    """
    while True:
        # Folders cannot be exchanged in one step; the old one is removed when it is out of the way.
        old = Path(tempfile.mkdtemp(prefix=f".old-{folder.name}-", dir=folder.parent))
        try:
            with contextlib.suppress(FileNotFoundError):
                folder.rename(old / folder.name)
            place.rename(folder)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                with contextlib.suppress(OSError):  # the old run, if there was one
                    (old / folder.name).rename(folder)
                raise
        finally:
            shutil.rmtree(old, ignore_errors=True)


@cache
def git_revision() -> str:
    """Revision of the source tree, with "-dirty" if it has uncommitted changes, or "unknown".

    Asked once in a process, so that it is the revision at the time of the first call.
    """
    here = Path(__file__).parent
    command = ["git", "-C", str(here), "describe", "--always", "--abbrev=40", "--dirty"]
    try:
        result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return result.stdout.strip()


def read_run(folder: Path) -> Run:
    """Read a stored run.

    Raises:
        RunError: if the folder does not hold a complete, readable run.
    """
    try:
        config = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))
        summary = json.loads((folder / "summary.json").read_text())
        if not is_stored(folder):
            raise FileNotFoundError(f"{folder / 'metrics.csv'} is missing")
        if not isinstance(config, dict) or not {"name", "seeds", "model"} <= set(config):
            raise ValueError("config.yaml is not that of a run")
        if not isinstance(summary, dict) or "seeds" not in summary:
            raise ValueError("summary.json is not that of a run")
        return Run(folder, cast("Config", config), summary)
    except (OSError, ValueError, YAMLError) as error:
        raise _unreadable(folder, error) from error


def _unreadable(folder: Path, error: Exception) -> RunError:
    reason = str(error).splitlines()[0]
    return RunError(
        f"the run in {folder} cannot be read ({reason}).\n"
        "Move the folder away and ask for the run again."
    )


def read_runs(root: Path, experiment: str | None = None) -> list[Run]:
    """All complete runs below ``root``, sorted by folder.

    Args:
        root: folder that holds one folder per experiment, such as ``results/runs``.
        experiment: only runs of this experiment.
    """
    pattern = f"{experiment or '*'}/*/summary.json"
    folders = (path.parent for path in sorted(root.glob(pattern)))
    return [
        read_run(folder)
        for folder in folders
        if not folder.name.startswith(".") and is_stored(folder)
    ]


def tidy_table(runs: list[Run]) -> pd.DataFrame:
    """Metrics of many runs as one table.

    Returns:
        Table with the columns ``run, experiment, dataset, model`` and :data:`COLUMNS`.
    """
    parts = [
        run.metrics.assign(
            run=run.folder.name,
            experiment=run.config["name"],
            dataset=run.config.get("dataset", {}).get("name", ""),
            model=run.config["model"]["name"],
        )
        for run in runs
    ]
    columns = ["run", "experiment", "dataset", "model", *COLUMNS]
    return pd.concat(parts)[columns] if parts else pd.DataFrame(columns=columns)
