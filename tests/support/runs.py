"""Runs that tests write, and folders mounted for them."""

import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from convexinit_paper.store.identity import run_folder
from convexinit_paper.store.locks import staging
from convexinit_paper.store.runs import COLUMNS, Outcome, store


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
        {0: {"status": "finished"}, 1: {"status": "diverged", "step": 3}},
        "a processor",
        {"matrix": np.eye(3, dtype=np.float16)},
    )


def write(config, value=1.0):
    folder = run_folder(config)
    with staging(folder) as place:
        store(place, folder, config, outcome_of(value), 1.5)
    return folder


def mounted(folder: Path, options: str):
    """Mount a small tmpfs, or skip where that is not allowed."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs the right to mount a file system")
