"""Run an experiment of ``conf/experiment``: ``python run.py --help`` shows the options."""

from typing import Any, cast

import hydra
from omegaconf import DictConfig, OmegaConf

from convexinit.command import install_error_reports


@hydra.main(version_base="1.3", config_path="conf", config_name="config")
def main(config: DictConfig) -> None:
    """Run one experiment and print the folder of its run."""
    from convexinit.experiments import run_experiment

    resolved = cast("dict[str, Any]", OmegaConf.to_container(config, resolve=True))
    folder = run_experiment(resolved)
    print(f"run: {folder}", flush=True)


if __name__ == "__main__":
    install_error_reports()
    main()
