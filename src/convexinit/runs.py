"""Where finished runs are stored, and how runs are read back as one table.

A run is a folder ``<results>/runs/<experiment>/<model>-<digest>`` with

- ``config.yaml``: the resolved configuration,
- ``metrics.csv``: ``seed,epoch,step,split,metric,value``, one measurement a row,
- ``summary.json``: final metrics per seed, wall time, device, package versions, git revision, and
  the checksums of the other files,
- ``arrays.npz``: larger arrays, for experiments that have them.

The digest is that of the configuration, so that the same request finds the same folder. A folder
is written under a hidden name and renamed when it is complete. Whoever works on a run holds a lock
beside its folder, so that others wait instead of doing the same work.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import importlib.metadata
import json
import math
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from filelock import FileLock, Timeout
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from convexinit.files import flush

# What does not change the numbers of a run, and so does not count when a stored run is looked up.
PLACES = ("data_dir", "results_dir", "logger", "force", "checkpoint_minutes", "seeds_at_once")
FILES = ("config.yaml", "metrics.csv", "summary.json")
COLUMNS = ["seed", "epoch", "step", "split", "metric", "value"]
# Errors of file systems that cannot lock files, or cannot exchange two folders.
UNABLE = (errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOLCK)
# What reading a damaged archive may raise beside OSError, EOFError, ValueError and RuntimeError.
ARCHIVE_ERRORS = (zipfile.BadZipFile, zlib.error)
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
        earlier: seconds spent by earlier processes, from whose checkpoints the run went on, by the
            revision of their code.
    """

    metrics: pd.DataFrame
    seeds: dict[int, dict[str, Any]]
    device: str
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)
    earlier: dict[str, float] = field(default_factory=dict)


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
        path = self.folder / "metrics.csv"
        try:
            with path.open("rb") as file:
                file.seek(-1, os.SEEK_END)
                if file.read() != b"\n":  # half a row would be read as a row
                    raise ValueError("metrics.csv is cut off")
            return pd.read_csv(path, dtype={"value": float})[COLUMNS]
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
        except (OSError, EOFError, ValueError, RuntimeError, *ARCHIVE_ERRORS) as error:
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


def is_intact(folder: Path) -> bool:
    """Whether a complete run lies in ``folder`` and every file of it can be read.

    The files must also be as they were written, unless the run is too old to have their checksums.
    """
    try:
        run = read_run(folder)
        _ = run.metrics, run.arrays
        written = run.summary.get("sha256", {})
        return all(_sha256(folder / name) == digest for name, digest in written.items())
    except (OSError, RunError):
        return False


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def set_aside(folder: Path) -> None:
    """Move a damaged run to ``<results>/damaged/<experiment>`` and say so on stderr.

    Raises:
        RunError: if it cannot be moved.
    """
    try:
        aside = folder.parents[2] / "damaged" / folder.parent.name
        aside.mkdir(parents=True, exist_ok=True)
        target = Path(tempfile.mkdtemp(prefix=f"{folder.name}-", dir=aside))
        folder.rename(target)
    except OSError as error:
        raise _unwritable(folder.parent, error) from error
    sys.stderr.write(f"the run in {folder} is damaged; moved to {target}, computing it again\n")


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Work on the run in ``folder`` alone: others who ask for it wait until this process is done.

    The lock is one of the operating system, on a hidden file beside the folder. It ends with its
    process, however that ends, and holds across machines where the file system has locks. Where it
    has none, nobody waits, and the same run may be computed twice.

    Raises:
        RunError: if the lock's file cannot be made.
    """
    path = folder.parent / f".{folder.name}.lock"
    lock = FileLock(path, fallback_to_soft=False)
    held = _acquire(lock, path, folder)
    try:
        if held:
            with contextlib.suppress(OSError):  # a full disk: the lock holds all the same
                path.write_text(f"process {os.getpid()} on {platform.node()}")
            _tidy(folder)
        yield
    finally:
        if held:
            # Before the lock is given up, so that nobody can hold a lock on a file without a name.
            path.unlink(missing_ok=True)
            lock.release()


def _acquire(lock: FileLock, path: Path, folder: Path) -> bool:
    """Wait for the lock of a run; False where the file system has no locks."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            with contextlib.suppress(FileNotFoundError):
                owner = path.read_text() or "another process"
                sys.stderr.write(f"waiting for {owner}, which works on {folder}\n")
            lock.acquire(poll_interval=0.2)
    except OSError as error:
        if error.errno in UNABLE:
            return False
        raise _unwritable(folder.parent, error) from error
    return True


def _tidy(folder: Path) -> None:
    """Remove what killed processes left of this run; for the holder of its lock alone."""
    for old in folder.parent.glob(f".old-{folder.name}-*"):
        if not folder.exists() and is_stored(old / folder.name):
            (old / folder.name).rename(folder)  # killed while it replaced a finished run
        shutil.rmtree(old, ignore_errors=True)
    for place in folder.parent.glob(f".{folder.name}-*"):
        shutil.rmtree(place, ignore_errors=True)


def _unwritable(folder: Path, error: OSError) -> RunError:
    return RunError(
        f"cannot write to {folder}: {error.strerror}.\n"
        "Choose another place for runs with results_dir=..."
    )


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
        raise _unwritable(folder.parent, error) from error
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
        wall_time: duration of the run in this process in seconds.

    Raises:
        RunError: if the disk is full or cannot be written to.
    """
    earlier_seconds = sum(outcome.earlier.values())
    summary = {
        "seeds": {str(seed): _plain(values) for seed, values in outcome.seeds.items()},
        **outcome.notes,
        "wall_time_seconds": round(earlier_seconds + wall_time, 3),
        # The part of it before the checkpoint from which this process went on.
        "earlier_seconds": round(earlier_seconds, 3),
        "earlier_revisions": list(outcome.earlier),
        "device": outcome.device,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in PACKAGES},
        "git_revision": git_revision(),
    }
    try:
        (place / "config.yaml").write_text(OmegaConf.to_yaml(config))
        outcome.metrics[COLUMNS].to_csv(place / "metrics.csv", index=False, float_format="%.9g")
        if outcome.arrays:
            with (place / "arrays.npz").open("wb") as file:
                np.savez_compressed(file, **outcome.arrays)  # type: ignore[arg-type]
        summary["sha256"] = {path.name: _sha256(path) for path in sorted(place.iterdir())}
        (place / "summary.json").write_text(json.dumps(summary, indent=2, allow_nan=False) + "\n")
        place.chmod(0o755)
        for path in [*place.iterdir(), place]:
            flush(path)
        replace(place, folder)
        flush(folder.parent)
    except OSError as error:
        raise RunError(
            f"cannot store the run in {folder}: {error.strerror}.\n"
            "Free some space or choose another place with results_dir=..., then ask again."
        ) from error


def replace(place: Path, folder: Path) -> None:
    """Rename ``place`` to ``folder``, instead of what is there.

    What was there is removed or left in ``place``. If other processes put theirs there at the same
    moment, the last one stays.
    """
    while True:
        try:
            place.rename(folder)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        with contextlib.suppress(FileNotFoundError):  # another process has just moved it away
            if _exchange(place, folder) or _replace_in_two_steps(place, folder):
                return


def _exchange(first: Path, second: Path) -> bool:
    """Swap two folders in one step, so that none is ever missing; False where that is impossible.

    Only Linux can, and not on every file system (not on NFS).
    """
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    here, exchange = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of <linux/fs.h>
    if renameat2(here, os.fsencode(first), here, os.fsencode(second), exchange) == 0:
        return True
    number = ctypes.get_errno()
    if number in UNABLE:
        return False
    raise OSError(number, os.strerror(number), str(first), None, str(second))


def _replace_in_two_steps(place: Path, folder: Path) -> bool:
    """Move ``folder`` out of the way and rename ``place``; False if another process was faster.

    A process that is killed between the two steps leaves the old run in a hidden folder, from which
    :func:`claimed` brings it back.
    """
    old = Path(tempfile.mkdtemp(prefix=f".old-{folder.name}-", dir=folder.parent))
    try:
        folder.rename(old / folder.name)
        place.rename(folder)
        return True
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        with contextlib.suppress(OSError):  # the old run, if it was moved
            (old / folder.name).rename(folder)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


@cache
def git_revision() -> str:
    """Revision of the source tree, with "-dirty" if it was changed, or "unknown".

    Changes are those of files that git knows, and files in ``src`` and ``conf`` that it does not.
    Asked once in a process, so that it is the revision at the time of the first call.
    """
    try:
        revision = _git("describe", "--always", "--abbrev=40", "--exclude=*", "--dirty")
        added = _git("ls-files", "--others", "--exclude-standard", "--", ":/src", ":/conf")
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return f"{revision}-dirty" if added and not revision.endswith("-dirty") else revision


def _git(*arguments: str) -> str:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
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
    except (OSError, ValueError, YAMLError, OmegaConfBaseException) as error:
        raise _unreadable(folder, error) from error


def _unreadable(folder: Path, error: Exception) -> RunError:
    reason = (str(error) or type(error).__name__).splitlines()[0]
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
