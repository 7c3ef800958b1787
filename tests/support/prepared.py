"""A process that has imported what run.py needs and forks for every command that it is given.

Importing takes most of the time of a short run. Standard input has a line of JSON for each command,
standard output its exit status.
"""

import importlib
import json
import os
import runpy
import signal
import sys
from pathlib import Path

PACKAGES = (
    "hydra", "pandas", "sklearn.datasets", "sklearn.model_selection", "torch._dynamo",
    "convexinit_paper.experiments.training_dynamics", "hydra_plugins.hydra_joblib_launcher",
)  # fmt: skip
LONGEST = 300  # seconds


def serve():
    for name in PACKAGES:
        importlib.import_module(name)
    while line := sys.stdin.readline():
        child = os.fork()
        if child == 0:
            become(**json.loads(line))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def become(arguments, folder, environment, output, errors):
    """Run a script with arguments as a process of its own does, and end."""
    signal.alarm(LONGEST)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for stream, path in enumerate((os.devnull, output, errors)):
        os.dup2(os.open(path, os.O_RDWR), stream)
    sys.argv, sys.path[0] = arguments, str(Path(arguments[0]).parent)
    runpy.run_path(arguments[0], run_name="__main__")
    sys.exit()


if __name__ == "__main__":
    serve()
