"""Train every experiment on built-in data, small, and draw the figures: ``SCALE=demo``.

    python -m convexinit_paper.demo

Runs the commands that it prints, in the folder of the project.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from convexinit_paper.figures.variants import MODELS, OTHERS, RANDOM_BIAS
from convexinit_paper.request.config import CONF
from convexinit_paper.request.process import begin_command
from convexinit_paper.request.quoting import argument

RESULTS = Path("results/demo")


@dataclass(frozen=True)
class Training:
    """A sweep of ``run.py`` over model variants.

    Attributes:
        experiment: name of the experiment.
        models: variants of ``conf/model``.
        groups: choices of other configuration groups.
        options: options in which it departs from the experiment, by dotted name.
    """

    experiment: str
    models: Sequence[str] = MODELS
    groups: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)

    def arguments(self) -> list[str]:
        """What ``run.py`` is called with."""
        chosen = {"experiment": self.experiment, **self.groups}
        options = {**self.options, "results_dir": str(RESULTS)}
        return [
            "-m",
            *(argument(name, choice) for name, choice in chosen.items()),
            argument("model", *self.models),
            *(argument(name, value) for name, value in options.items()),
        ]


DIGITS = Training("digits")
SIGNALS = Training("signal_propagation")
NOISE = {name: value for name, value in OTHERS[RANDOM_BIAS].items() if name != "model"}
SIGNALS_OF_RANDOM_BIAS = Training("signal_propagation", ["icnn_init"], options=NOISE)
STAND_IN = {"dataset": "structural_alerts"}
TOXICITY = Training("tox21", groups=STAND_IN, options={"trainer.epochs": 25, "seeds": 3})
LEVEL_SETS = Training(
    "level_sets",
    ["nonconvex", "icnn_init"],
    STAND_IN,
    # Alerts that are learned in few epochs from 2,000 molecules, for which the dropout of Tox21 is
    # too strong. With ReLU, four of five molecules would be at the flat bottom of the network, and
    # the others, where walks can start, predicted to have the alert.
    {
        "level_sets.tasks": ["tertiary-amine", "michael-acceptor"],
        "level_sets.trajectories": 30,
        "level_sets.beam": 1,
        "dropout.input": 0.1,
        "dropout.hidden": 0.1,
        "model.activation": "softplus",
        "trainer.batch_size": 64,
        "trainer.epochs": 20,
    },
)
GRID = "demo"
SEARCH = Training(
    "generalisation", groups={"grid": GRID, "dataset": "digits"}, options={"trainer.epochs": 10}
)
FINAL = Training(
    "generalisation_final",
    groups={"dataset": "digits"},
    options={"search.grid": GRID, "trainer.epochs": 10, "seeds": 3},
)
TRAININGS = (DIGITS, SIGNALS, SIGNALS_OF_RANDOM_BIAS, TOXICITY, LEVEL_SETS, SEARCH, FINAL)


def commands() -> list[list[str]]:
    """The demo's commands, as arguments of Python."""
    trainings = [["run.py", *training.arguments()] for training in TRAININGS]
    return [*trainings, ["-m", "convexinit_paper.figures", "--scale", "demo"]]


def main() -> None:
    """Run the commands; the first that fails ends the program with its exit code."""
    argparse.ArgumentParser(
        prog="python -m convexinit_paper.demo",
        description="Train every experiment on built-in data, small, and draw the figures.",
    ).parse_args()
    # Networks this small gain nothing from a second thread, and beside other programs threads that
    # wait for each other take many times as long.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    # Ctrl-C reaches the command as well, which ends in good order.
    signal.signal(signal.SIGINT, lambda *_: None)
    for command in commands():
        print(shlex.join(["python", *command]), flush=True)
        done = subprocess.run(
            [sys.executable, *command], cwd=CONF.parent, env=environment, check=False
        )
        if done.returncode:
            sys.exit(done.returncode)


if __name__ == "__main__":
    begin_command()
    main()
