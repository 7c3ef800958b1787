"""Stored runs, figures and tables in Weights & Biases.

``logger=wandb`` sends a run there when it is stored, so that no fault of wandb or of the network
can cost a run. What is stored already, and figures, are sent by hand:

    python -m convexinit_paper.tracking results/runs/digits/*
    python -m convexinit_paper.tracking --mode online results/runs/mnist/*

The first command writes ``wandb/offline-run-...`` below the current folder, which
``wandb sync wandb/offline-run-*`` uploads later. Nothing but ``--mode online`` (or
``logger.mode=online``) touches the network.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from convexinit_paper.request.command import run_reported
from convexinit_paper.request.config import CONF
from convexinit_paper.request.paths import path_argument
from convexinit_paper.request.process import begin_command
from convexinit_paper.request.request import MODES, WandbSettings
from convexinit_paper.store.errors import RunError
from convexinit_paper.store.identity import identity
from convexinit_paper.store.runs import Run, read_run

IMAGES = (".png", ".jpg", ".jpeg", ".svg")


def log_run(folder: Path, settings: WandbSettings) -> None:
    """Send a stored run; whatever goes wrong is a warning on stderr."""
    try:
        send_run(read_run(folder), settings)
    except Exception as error:
        sys.stderr.write(
            f"warning: the run is stored, but was not logged ({type(error).__name__}: {error}).\n"
            f"{_command([folder], settings)} tries again.\n"
        )


def remind_of_unsent(folders: Iterable[Path], settings: WandbSettings | None) -> None:
    """Say on stderr which runs were stored without being sent, where they are to be sent now.

    Args:
        folders: of runs that are stored already, and are not run again.
        settings: with which runs are sent; None for a request that sends none.
    """
    if settings is None or settings.mode == "disabled":
        return
    unsent = [f for f in folders if read_run(f).config.get("logger", {}).get("name") != "wandb"]
    if unsent:
        sys.stderr.write(
            "warning: runs that were stored before are not sent "
            f"({len(unsent)}); this sends them:\n"
            f"{_command(unsent, settings)}\n"
        )


def _command(folders: Iterable[Path], settings: WandbSettings) -> str:
    """What sends stored runs by hand."""
    arguments = ["--mode", settings.mode, *map(str, folders)]
    arguments += [f"--project={settings.project}", f"--folder={settings.folder}"]
    arguments += [] if settings.entity is None else [f"--entity={settings.entity}"]
    return f"python -m convexinit_paper.tracking {shlex.join(arguments)}"


def send_run(run: Run, settings: WandbSettings) -> None:
    """Log the configuration, metrics and summary of one run.

    Runs are grouped by experiment and named by variant. The history has one row for every epoch and
    step of metrics.csv, with the keys ``epoch``, ``step`` and ``seed_<seed>/<split>/<metric>``.
    Sending a run again replaces it.
    """
    experiment, variant = run.config["name"], run.config["model"]["name"]
    with _wandb_run(
        settings,
        id=f"{experiment}-{run.folder.name}",
        name=variant,
        group=experiment,
        config=identity(run.config),
    ) as logged:
        logged.define_metric("*", step_metric="step")
        for row in history(run):
            logged.log(row)
        logged.summary.update(
            {
                **{name: value for name, value in run.summary.items() if name != "seeds"},
                **{f"seed_{seed}": values for seed, values in run.summary["seeds"].items()},
                "folder": str(run.folder),
            }
        )


def history(run: Run) -> Iterator[dict[str, float]]:
    """Rows of the history of a run, in the order of training.

    Yields:
        ``epoch``, ``step``, and a value for every seed, split and metric that was measured there.
    """
    table = run.metrics
    keys = (
        "seed_" + table["seed"].astype(str) + "/" + table["split"] + "/" + table["metric"]
    ).to_numpy()
    values = table["value"].to_numpy()
    for (step, epoch), rows in table.groupby(["step", "epoch"], sort=True).indices.items():
        measured = zip(keys[rows].tolist(), values[rows].tolist(), strict=True)
        yield {"epoch": int(epoch), "step": int(step), **dict(measured)}


def send_figures(paths: Sequence[Path], settings: WandbSettings) -> None:
    """Log images, by the name of their file, as one run of the group "figures"."""
    import wandb

    with _wandb_run(settings, name="figures", group="figures", job_type="figures") as logged:
        logged.log({path.stem: wandb.Image(str(path)) for path in paths})


@contextmanager
def _wandb_run(settings: WandbSettings, **description: Any) -> Iterator[Any]:
    """A run of wandb, silent, without measurements of the machine, and on the disk at the end."""
    if settings.mode != "online":
        os.environ["WANDB_ERROR_REPORTING"] = "false"  # wandb reports its own errors to its makers
    import wandb

    Path(settings.folder).mkdir(parents=True, exist_ok=True)
    quiet = wandb.Settings(
        silent=True, console="off", x_disable_stats=True, disable_git=True, disable_code=True
    )
    try:
        with wandb.init(
            mode=settings.mode,  # type: ignore[arg-type]
            project=settings.project,
            entity=settings.entity,
            dir=settings.folder,
            settings=quiet,
            **description,
        ) as logged:
            yield logged
    finally:
        wandb.teardown()  # its service writes in the background, also after a run is finished


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m convexinit_paper.tracking",
        description="Send stored runs and figures to Weights & Biases.",
    )
    parser.add_argument(
        "paths", nargs="+", type=path_argument, metavar="PATH", help="folders of runs, and images"
    )
    defaults = OmegaConf.load(CONF / "logger" / "wandb.yaml")
    parser.add_argument("--mode", choices=MODES, default=defaults.mode, help="default: %(default)s")
    parser.add_argument("--project", default=defaults.project, help="default: %(default)s")
    parser.add_argument("--entity", default=defaults.entity, help="user or team")
    parser.add_argument(
        "--folder",
        type=path_argument,
        default=".",
        help="where the folder wandb is made (default: here)",
    )
    options = vars(parser.parse_args(arguments))
    paths = options.pop("paths")
    settings = WandbSettings(**{**options, "folder": str(options["folder"])})
    run_reported(lambda: send(paths, settings))


def send(paths: Sequence[Path], settings: WandbSettings) -> None:
    """Send folders of runs, and images, and print what was sent.

    Raises:
        RunError: one of them cannot be read; nothing was sent then.
    """
    images = [path for path in paths if path.suffix in IMAGES]
    runs = [read_run(path) for path in paths if path not in images]
    for path in images:
        if not path.is_file():
            raise RunError(f"there is no file {path}")
    for run in runs:
        send_run(run, settings)
        print(f"logged: {run.folder}")
    if images:
        send_figures(images, settings)
        print(f"logged: {', '.join(map(str, images))}")


if __name__ == "__main__":
    begin_command()
    main()
