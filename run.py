"""Run an experiment of ``conf/experiment``: ``python run.py --help`` shows the options."""

import sys
from typing import Any, cast

try:
    from convexinit_paper.request.process import begin_command
except ModuleNotFoundError as error:
    sys.exit(f"error: {error}; make install in the folder of run.py installs it")

if __name__ == "__main__":
    begin_command()

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from convexinit_paper.request.command import (
    check_launcher,
    checked_arguments,
    end_with_parent,
    install_error_reports,
    run_reported,
)


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(config: DictConfig) -> None:
    """Run one experiment and print the folder of its run; in a sweep, the sweeper prints it."""
    from convexinit_paper.experiments import run_experiment

    end_with_parent()
    check_launcher()
    resolved = cast("dict[str, Any]", OmegaConf.to_container(config, resolve=True))
    folder = run_experiment(resolved)
    if HydraConfig.get().mode == RunMode.RUN:
        print(f"run: {folder}", flush=True)


if __name__ == "__main__":
    install_error_reports()
    sys.argv[1:] = run_reported(lambda: checked_arguments(sys.argv[1:]))
    run_reported(main)
