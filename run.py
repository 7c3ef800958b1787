"""Run an experiment of ``conf/experiment``: ``python run.py --help`` shows the options."""

import sys
from pathlib import Path
from typing import Any, cast

try:
    from convexinit_paper.request.process import begin_command, show_warnings_shortly
except ModuleNotFoundError as error:
    sys.exit(f"error: {error}; make install in the folder of run.py installs it")

if __name__ == "__main__":
    begin_command()

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from convexinit_paper.request.arguments import checked_arguments
from convexinit_paper.request.command import (
    check_launcher,
    end_with_parent,
    install_error_reports,
    run_reported,
)


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(config: DictConfig) -> None:
    """Run one experiment, and say how that went; of a sweep the sweeper says it."""
    from convexinit_paper.experiments import run_experiment

    def run() -> Path:
        check_launcher()
        return run_experiment(cast("dict[str, Any]", OmegaConf.to_container(config, resolve=True)))

    end_with_parent()
    show_warnings_shortly()
    if HydraConfig.get().mode == RunMode.RUN:
        # Above the message of an error that came to Hydra there would be a line of its own.
        print(f"run: {run_reported(run)}", flush=True)
    else:
        run()


if __name__ == "__main__":
    install_error_reports()
    sys.argv[1:] = run_reported(lambda: checked_arguments(sys.argv[1:]))
    run_reported(main)
