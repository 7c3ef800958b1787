"""What a finished run is: how it is stored and read back.

A run is a folder ``<results>/runs/<experiment>/<model>-<digest>`` with

- ``config.yaml``: the resolved configuration,
- ``metrics.csv``: ``seed,epoch,step,split,metric,value``, one measurement a row,
- ``summary.json``: final metrics per seed, wall time, device, package versions, git revision, and
  the checksums of the other files,
- ``arrays.npz``: larger arrays, for experiments that have them.

The same request finds the same folder (:mod:`identity`), which is complete or not there at all
(:mod:`staging`), and which one process at a time works on (:mod:`locks`).
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import pandas as pd
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from convexinit_paper.store.errors import DAMAGED, AccessError, RunError, unreadable
from convexinit_paper.store.files import flush
from convexinit_paper.store.identity import Config, plain
from convexinit_paper.store.provenance import provenance
from convexinit_paper.store.staging import displaced, is_closed, replace

FILES = ("config.yaml", "metrics.csv", "summary.json")
COLUMNS = ["seed", "epoch", "step", "split", "metric", "value"]
TYPES = {"seed": int, "epoch": int, "step": int, "value": float}


@dataclass(frozen=True)
class Outcome:
    """What an experiment measured, before it is stored.

    Attributes:
        metrics: table with the columns :data:`COLUMNS`.
        seeds: per seed, what :func:`seed_summary` says of it.
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


def seed_summary(diverged: bool, **final: Any) -> dict[str, Any]:
    """What the summary of a run says of one seed; :attr:`Run.diverged` reads it.

    Args:
        diverged: whether a loss, a weight or a signal was no longer finite.
        final: its last metrics.
    """
    return {"status": "diverged" if diverged else "finished", **final}


@dataclass(frozen=True)
class Run:
    """A stored run."""

    folder: Path
    config: Config
    summary: dict[str, Any]

    @property
    def diverged(self) -> frozenset[int]:
        """Seeds that diverged, as :func:`seed_summary` was told."""
        seeds = self.summary["seeds"].items()
        return frozenset(int(seed) for seed, final in seeds if final["status"] == "diverged")

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """Table with the columns :data:`COLUMNS`.

        Raises:
            RunError: if the file is damaged, or not as it was written.
        """
        path = self.folder / "metrics.csv"
        try:
            content = path.read_bytes()
            if not content.endswith(b"\n"):  # half a row would be read as a row
                raise ValueError("metrics.csv is cut off")
            written = self.summary.get("sha256", {}).get(path.name)
            if written and hashlib.sha256(content).hexdigest() != written:
                raise ValueError("metrics.csv is not as it was written")
            return pd.read_csv(io.BytesIO(content), dtype=TYPES)[COLUMNS]
        except (OSError, ValueError, KeyError) as error:
            raise unreadable(self.folder, error) from error

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
        except DAMAGED as error:
            raise unreadable(self.folder, error) from error


def is_stored(folder: Path) -> bool:
    """Whether a complete run lies in ``folder``, as far as can be seen."""
    try:
        return all((folder / name).is_file() for name in FILES)
    except OSError:
        return False


def is_intact(folder: Path) -> bool:
    """Whether a complete run lies in ``folder`` and every file of it can be read.

    The files must also be as they were written, unless the run is too old to have their checksums.

    Raises:
        AccessError: if this process may not read what is there, or the disk does not answer.
    """
    try:
        run = read_run(folder)
        _ = run.metrics, run.arrays
        written = run.summary.get("sha256", {})
        return all(_sha256(folder, name) == digest for name, digest in written.items())
    except AccessError:
        raise
    except RunError:
        return False


def _sha256(folder: Path, name: str) -> str:
    try:
        with (folder / name).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise unreadable(folder, error) from error


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
        "seeds": {str(seed): plain(values) for seed, values in outcome.seeds.items()},
        **outcome.notes,
        "wall_time_seconds": round(earlier_seconds + wall_time, 3),
        # The part of it before the checkpoint from which this process went on.
        "earlier_seconds": round(earlier_seconds, 3),
        "earlier_revisions": list(outcome.earlier),
        "device": outcome.device,
        **provenance(),
    }
    try:
        (place / "config.yaml").write_text(OmegaConf.to_yaml(config), encoding="utf-8")
        outcome.metrics[COLUMNS].to_csv(place / "metrics.csv", index=False, float_format="%.9g")
        if outcome.arrays:
            with (place / "arrays.npz").open("wb") as file:
                np.savez_compressed(file, **outcome.arrays)  # type: ignore[arg-type]
        summary["sha256"] = {
            path.name: _sha256(place, path.name) for path in sorted(place.iterdir())
        }
        text = json.dumps(summary, indent=2, allow_nan=False) + "\n"
        (place / "summary.json").write_text(text, encoding="utf-8")
        for path in [*place.iterdir(), place]:
            flush(path)
        replace(place, folder)
        flush(folder.parent)
    except OSError as error:
        raise RunError(
            f"cannot store the run in {folder}: {error.strerror}.\n"
            "Free some space or choose another place with results_dir=..., then ask again."
        ) from error


def read_run(folder: Path) -> Run:
    """Read a stored run.

    Raises:
        RunError: if the folder does not hold a complete, readable run; an AccessError if it may
            well, but this process cannot read it.
    """
    try:
        config = OmegaConf.to_container(OmegaConf.load(folder / "config.yaml"))
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        if not is_stored(folder):
            raise FileNotFoundError(f"{folder / 'metrics.csv'} is missing")
        if not isinstance(config, dict) or not {"name", "seeds", "model"} <= set(config):
            raise ValueError("config.yaml is not that of a run")
        if not isinstance(summary, dict) or "seeds" not in summary:
            raise ValueError("summary.json is not that of a run")
        return Run(folder, cast("Config", config), summary)
    except (OSError, ValueError, YAMLError, OmegaConfBaseException) as error:
        raise unreadable(folder, error) from error


def read_runs(root: Path, experiment: str | None = None) -> list[Run]:
    """All complete runs below ``root``, sorted by folder.

    Args:
        root: folder that holds one folder per experiment, such as ``results/runs``.
        experiment: only runs of this experiment.

    Raises:
        RunError: if one of them cannot be read.
    """
    name = experiment or "*"
    try:
        folders = [*root.glob(f"{name}/[!.]*"), *displaced(root, name)]
        for place in (root, *root.glob(name), *folders):  # in which nothing is seen, not even runs
            if place.is_dir() and is_closed(place, os.R_OK | os.X_OK):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(place))
    except PermissionError as closed:  # or a folder above them is
        raise unreadable(Path(closed.filename), closed) from closed
    return [read_run(folder) for folder in sorted(folders) if is_stored(folder)]
