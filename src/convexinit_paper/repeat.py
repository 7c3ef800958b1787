"""Make a stored run again from its ``config.yaml`` alone, and compare the numbers.

    python -m convexinit_paper.repeat results/runs/digits/icnn_init-0123456789

The new run goes to ``repeated`` in the same folder of results: ``results/repeated`` here.

On the same type of machine, with the same package versions, number of threads and revision, the
numbers are identical. Recorded runs (``results/recorded``) keep six digits of some of them.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from convexinit_paper.experiments import run_experiment
from convexinit_paper.request.command import run_reported
from convexinit_paper.request.older import completed
from convexinit_paper.request.paths import path_argument
from convexinit_paper.request.process import begin_command
from convexinit_paper.store.identity import identity
from convexinit_paper.store.runs import COLUMNS, Run, read_run


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; exits with code 1 if the numbers differ."""
    parser = argparse.ArgumentParser(
        prog="python -m convexinit_paper.repeat",
        description="Make a stored run again from its config.yaml, and compare the numbers.",
    )
    parser.add_argument("folder", type=path_argument, metavar="FOLDER", help="of the stored run")
    parser.add_argument(
        "--results-dir",
        type=path_argument,
        metavar="FOLDER",
        help="where the new run goes (default: repeated/ in the folder of results that the stored "
        "run lies in, results/repeated for one of results/runs or results/recorded; beside a run "
        "that was copied elsewhere)",
    )
    parser.add_argument(
        "--data-dir",
        type=path_argument,
        metavar="FOLDER",
        help="raw data (default: as for run.py)",
    )
    options = parser.parse_args(arguments)

    def both() -> tuple[Run, Run]:
        stored = read_run(options.folder)
        _ = stored.metrics  # which may be damaged
        results_dir = options.results_dir or repeated_folder(stored)
        return stored, read_run(repeat(stored, results_dir, options.data_dir))

    # Messages name options of run.py.
    stored, again = run_reported(
        both, lambda message: re.sub(r"\b(results|data)_dir=", r"--\1-dir=", message)
    )
    print(f"run: {again.folder}")
    verdict, is_equal = compare(stored.metrics, again.metrics)
    print(verdict)
    if not is_equal:
        print(f"stored:   {made_with(stored)}\nrepeated: {made_with(again)}")
        sys.exit(1)


def repeated_folder(stored: Run) -> Path:
    """Folder of results for a run that is made again, if none is named.

    Args:
        stored: the run, in ``<results>/runs/<experiment>``, ``<results>/recorded/<experiment>`` or,
            as a copy, anywhere.
    """
    folder = stored.folder.resolve()
    is_copy = folder.parent.name != stored.config["name"]
    return (folder.parent if is_copy else folder.parents[2]) / "repeated"


def repeat(stored: Run, results_dir: str | Path, data_dir: str | Path | None = None) -> Path:
    """Make a run again, below another folder of results.

    Args:
        stored: the run; only its configuration is used.
        results_dir: where the new run is stored, in place of a run that is there.
        data_dir: folder of raw data, None for the default of ``conf/config.yaml``.
    """
    places: dict[str, Any] = {"results_dir": str(results_dir), "force": True}
    if data_dir is not None:
        places["data_dir"] = str(data_dir)
    return run_experiment({**completed(identity(stored.config)), **places})


def compare(stored: pd.DataFrame, again: pd.DataFrame) -> tuple[str, bool]:
    """What is to be said of two tables of metrics, and whether they agree.

    Args:
        stored: rows that are compared.
        again: may have more rows than these, as recorded runs are thinned.
    """
    keys = COLUMNS[:-1]
    pairs = stored.merge(again, on=keys, how="left", suffixes=("", "_again"), indicator=True)
    absent = int((pairs["_merge"] == "left_only").sum())
    if absent:
        return f"different: {absent} of {len(stored)} measurements are not there", False
    one, other = pairs["value"].to_numpy(), pairs["value_again"].to_numpy()
    same = (one == other) | (np.isnan(one) & np.isnan(other))
    if same.all():
        return f"identical: all {len(stored)} measurements", True
    rounded = [f"{a:.6g}" == f"{b:.6g}" for a, b in zip(one, other, strict=True)]
    if all(rounded):
        return f"identical to six digits: all {len(stored)} measurements", True
    with np.errstate(all="ignore"):
        largest = np.nanmax(np.abs(one - other) / np.maximum(np.abs(one), np.abs(other)))
    return (
        f"different: {len(stored) - sum(rounded)} of {len(stored)} measurements, by a factor of up "
        f"to 1 + {largest:.2g}",
        False,
    )


def made_with(run: Run) -> str:
    """Machine, versions and revision of a run in one line."""
    summary = run.summary
    versions = ", ".join(f"{name} {version}" for name, version in summary["packages"].items())
    return f"{summary['device']}; {versions}; revision {summary['git_revision']}"


if __name__ == "__main__":
    begin_command()
    main()
