"""Runs that tests write, and folders mounted for them."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from convexinit_paper.store.identity import run_folder
from convexinit_paper.store.runs import COLUMNS, Outcome, seed_summary, store
from convexinit_paper.store.staging import staging


def config_of(results_dir, **options):
    return {
        "name": "digits",
        "seeds": [0, 1],
        "data_dir": "data",
        "results_dir": str(results_dir),
        "force": False,
        "checkpoint_minutes": 10,
        "seeds_at_once": None,
        "model": {"name": "icnn", "rho": 0.5},
        "dataset": {"name": "digits"},
        **options,
    }


def outcome_of(value=1.0):
    rows = [(seed, 1, 1, "train", "batch_loss", value + seed) for seed in (0, 1)]
    return Outcome(
        pd.DataFrame(rows, columns=COLUMNS),
        {0: seed_summary(False), 1: seed_summary(True, step=3)},
        "a processor",
        {"matrix": np.eye(3, dtype=np.float16)},
    )


def stored(config, outcome):
    """Store an outcome as run_experiment does; returns the folder of the run."""
    folder = run_folder(config)
    with staging(folder) as place:
        store(place, folder, config, outcome, 1.5)
    return folder


def write(config, value=1.0):
    return stored(config, outcome_of(value))


def rewrite(folder, metrics, **how):
    """Put other metrics into a stored run, as if they were written when it was made."""
    metrics.to_csv(folder / "metrics.csv", index=False, **how)
    path = folder / "summary.json"
    summary = json.loads(path.read_text())
    del summary["sha256"]
    path.write_text(json.dumps(summary))


def hidden(results_dir: Path) -> list[Path]:
    """Locks and places of unfinished runs."""
    return [path for path in results_dir.rglob("*") if path.name.startswith(".")]


@contextmanager
def tmpfs(folder: Path, options: str) -> Iterator[Path]:
    """A small file system mounted on ``folder``; skips where that is not allowed."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs the right to mount a file system")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)
