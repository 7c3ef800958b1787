"""Copy finished runs into ``results/recorded``, small enough to be committed.

    python scripts/record_runs.py                       everything in results/runs
    python scripts/record_runs.py --runs DIR mnist      the runs of one experiment

A recorded run keeps its summary and its options but the places on the machine it was made on, and
of the batch losses only the steps that Figure 2 draws. Figures and tables are drawn from recorded
runs; the numbers in them are those of the whole run.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

import pandas as pd
from omegaconf import OmegaConf

from convexinit.figures.figure_2 import drawn_steps
from convexinit.runs import Run, RunError, identity, read_runs, replace, run_folder, staging


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "experiments", nargs="*", metavar="EXPERIMENT", help="which to record (default: all)"
    )
    parser.add_argument(
        "--runs", type=Path, default=Path("results/runs"), help="default: %(default)s"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("results/recorded"), help="default: %(default)s"
    )
    arguments = parser.parse_args()
    try:
        runs = [
            run
            for name in arguments.experiments or [None]
            for run in read_runs(arguments.runs, name)
        ]
        if not runs:
            what = " ".join(arguments.experiments) or "any experiment"
            sys.exit(f"error: no finished runs of {what} in {arguments.runs}; see --help")
        for run in runs:
            print(f"recorded: {record(run, arguments.out)}")
    except (OSError, RunError) as error:
        sys.exit(f"error: {error}")


def record(run: Run, out: Path) -> Path:
    """Write the small copy of one run below ``out`` and return its folder."""
    folder = out / run.config["name"] / run_folder({**run.config, "results_dir": out}).name
    with staging(folder) as place:
        place.chmod(0o755)
        (place / "config.yaml").write_text(OmegaConf.to_yaml(identity(run.config)))
        thin(run.metrics).to_csv(place / "metrics.csv", index=False, float_format="%.6g")
        for name in ("summary.json", "arrays.npz"):
            if (run.folder / name).exists():
                shutil.copyfile(run.folder / name, place / name)
        replace(place, folder)
    return folder


def thin(metrics: pd.DataFrame) -> pd.DataFrame:
    """All rows but those of batch losses that Figure 2 does not draw; the last step is kept."""
    batch_losses = metrics["metric"] == "batch_loss"
    all_steps = metrics.loc[batch_losses, "step"].unique()
    steps = [*drawn_steps(all_steps), *all_steps[-1:]]
    return metrics[~batch_losses | metrics["step"].isin(steps)]


if __name__ == "__main__":
    main()
