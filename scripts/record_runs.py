"""Copy finished runs into ``results/recorded``, small enough to be committed.

    python scripts/record_runs.py                       everything in results/runs
    python scripts/record_runs.py --runs DIR mnist      the runs of one experiment

A recorded run keeps its summary and its options but the places on the machine it was made on. Of
its metrics it keeps the batch losses that figures draw (of other experiments about 150 a seed, of
grid searches and their final runs none), the metrics of held-out sets after about 30 epochs, and
those of single tasks after the last epoch alone. Trained weights are not recorded. Figures and
tables are drawn from recorded runs; the numbers in them are those of the whole run.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from itertools import chain
from pathlib import Path

import numpy as np
import pandas as pd
from omegaconf import OmegaConf

from convexinit_paper.figures.catalogue import experiments_with_losses
from convexinit_paper.figures.curves import FEWEST_POINTS, drawn_steps
from convexinit_paper.request.paths import path_argument
from convexinit_paper.request.process import begin_command
from convexinit_paper.store.errors import RunError
from convexinit_paper.store.identity import identity, run_folder
from convexinit_paper.store.runs import Run, is_intact, read_runs
from convexinit_paper.store.staging import replace, staging
from convexinit_paper.sweeps.grid_search import CELLS, FINAL

# Epochs whose held-out metrics are recorded, about.
MOST_EPOCHS = 30
# There are many runs of these, of which only what held-out sets say is shown.
WITHOUT_BATCH_LOSSES = (CELLS, FINAL)
# Metrics of which there is one for each task of a data set; Table 1 shows the last epoch.
TASK_METRICS = "auroc_"
# Arrays that hold a trained network: they are megabytes, and no figure is drawn from them.
WEIGHTS = ("weights.", "sizes.", "tokens")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "experiments", nargs="*", metavar="EXPERIMENT", help="which to record (default: all)"
    )
    parser.add_argument(
        "--runs", type=path_argument, default="results/runs", help="default: %(default)s"
    )
    parser.add_argument(
        "--out", type=path_argument, default="results/recorded", help="default: %(default)s"
    )
    arguments = parser.parse_args()
    try:
        found = {name: read_runs(arguments.runs, name) for name in arguments.experiments or [None]}
        for name, runs in found.items():
            if not runs:
                what = name or "any experiment"
                sys.exit(f"error: no finished runs of {what} in {arguments.runs}; see --help")
        for run in chain(*found.values()):
            if not is_intact(run.folder):
                sys.exit(f"error: the run in {run.folder} is damaged; ask for it again")
            print(f"recorded: {record(run, arguments.out)}")
    except (OSError, RunError) as error:
        sys.exit("error: " + str(error).replace("results_dir=...", "--out"))


def record(run: Run, out: Path) -> Path:
    """Write the small copy of one run below ``out`` and return its folder."""
    experiment = run.config["name"]
    folder = out / experiment / run_folder({**run.config, "results_dir": out}).name
    metrics = thin(run.metrics, experiment)
    with staging(folder) as place:
        options = OmegaConf.to_yaml(identity(run.config))
        (place / "config.yaml").write_text(options, encoding="utf-8")
        metrics.to_csv(place / "metrics.csv", index=False, float_format="%.6g")
        record_summary(run, place)
        record_arrays(run, place)
        replace(place, folder)
    return folder


def record_summary(run: Run, place: Path) -> None:
    """Write the summary of a run into ``place``, without the checksums of files that it changes."""
    summary = {name: value for name, value in run.summary.items() if name != "sha256"}
    text = json.dumps(summary, indent=2, allow_nan=False) + "\n"
    (place / "summary.json").write_text(text, encoding="utf-8")


def record_arrays(run: Run, place: Path) -> None:
    """Write the arrays of a run but its weights into ``place``, if there are any."""
    kept = {name: array for name, array in run.arrays.items() if not name.startswith(WEIGHTS)}
    if len(kept) == len(run.arrays) > 0:
        shutil.copyfile(run.folder / "arrays.npz", place / "arrays.npz")
    elif kept:
        np.savez_compressed(place / "arrays.npz", **kept)  # type: ignore[arg-type]


def thin(metrics: pd.DataFrame, experiment: str) -> pd.DataFrame:
    """The rows that are recorded; the last epoch is always among them.

    Args:
        metrics: of a whole run.
        experiment: its name.
    """
    batch_losses = metrics["metric"] == "batch_loss"
    steps = recorded_steps(metrics.loc[batch_losses, "step"].unique(), experiment)
    epochs = np.sort(metrics.loc[~batch_losses, "epoch"].unique())
    of_a_task = metrics["metric"].str.startswith(TASK_METRICS)
    return metrics[
        (batch_losses & metrics["step"].isin(steps))
        | (~batch_losses & ~of_a_task & metrics["epoch"].isin(sparse(epochs, MOST_EPOCHS)))
        | (~batch_losses & metrics["epoch"].isin(epochs[-1:]))
    ]


def recorded_steps(steps: np.ndarray, experiment: str) -> np.ndarray:
    """The updates whose batch losses are recorded; if there are any, the last is among them.

    Args:
        steps: the updates of a run, in order.
        experiment: its name.
    """
    if experiment in WITHOUT_BATCH_LOSSES:
        return steps[:0]
    # Of losses that no figure draws, as many stay as a figure shows at least.
    drawn = experiment in experiments_with_losses()
    shown = drawn_steps(steps) if drawn else sparse(steps, FEWEST_POINTS)
    return np.unique([*shown, *steps[-1:]])


def sparse(values: np.ndarray, most: int) -> np.ndarray:
    """Every k-th of ``[n]`` values from the first on, about ``most`` of them.

    Example:
        >>> sparse(np.arange(301), 30)[:4].tolist()
        [0, 10, 20, 30]
    """
    return values[:: max(1, len(values) // most)]


if __name__ == "__main__":
    begin_command()
    main()
