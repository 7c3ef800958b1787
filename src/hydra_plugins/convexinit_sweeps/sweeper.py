"""The sweeper: runs what is not stored yet, lets no failure stop the rest, sums it up."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf, open_dict


class MissingRunsSweeper(BasicSweeper):
    """Every combination of the comma-separated values, as Hydra's own sweeper, with three changes.

    Runs that are stored already are not launched. A run that fails stops no other. At the end
    stands one summary on stderr, and the exit code is 1 if a run failed.
    """

    def sweep(self, arguments: list[str]) -> None:
        """Run the sweep that the arguments of the command line ask for.

        Raises:
            ConfigError: if an option of the sweep is out of range or has no effect.
            SystemExit: with code 1, if a run failed.
        """
        from convexinit_paper.request.options import ConfigError, require
        from convexinit_paper.request.paths import expanded
        from convexinit_paper.store.failures import one_line
        from convexinit_paper.sweeps.sweep import jobs_of, progress, summary, unfinished

        assert self.hydra_context is not None
        assert self.config is not None
        most = self.max_batch_size
        fits = most is None or (type(most) is int and most >= 1)
        require(fits, "hydra.sweeper.max_batch_size", "at least 1, or null for all", most)
        grid = self.config.hydra.runtime.choices.get("grid")
        if grid is not None and not self.params:
            raise ConfigError(
                f"grid={grid} has no effect in this experiment, which trains the best cell of a "
                f"grid: search.grid={grid}"
            )
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        parsed = parser.parse_overrides([*self._parse_config(), *arguments])
        [combinations] = self.split_arguments(parsed, None)
        jobs = jobs_of(combinations, [self._config(overrides) for overrides in combinations])
        with open_dict(self.config):  # of which launchers make folders
            self.config.results_dir = expanded(self.config.results_dir)
        missing = [job for job in jobs if job.missing and job.refusal is None]
        size = most or max(len(missing), 1)
        reasons: dict[Path, str] = {}
        with progress(jobs):
            for first in range(0, len(missing), size):
                batch = missing[first : first + size]
                try:
                    results = self._launch([job.overrides for job in batch], first)
                except Exception as error:
                    sys.stderr.write(f"error: {one_line(error)}\n")
                    reasons |= {job.folder: "stopped by the error above" for job in batch}
                else:
                    reasons |= {
                        job.folder: one_line(result._return_value)
                        for job, result in zip(batch, results, strict=True)
                        if result.status != JobStatus.COMPLETED
                    }
        failed = unfinished(jobs, reasons)
        sys.stderr.write(summary(jobs, failed) + "\n")
        if failed:
            sys.exit(1)

    def _config(self, overrides: Sequence[str]) -> dict[str, Any]:
        """The resolved configuration of one run."""
        assert self.hydra_context is not None
        assert self.config is not None
        config = self.hydra_context.config_loader.load_sweep_config(self.config, list(overrides))
        own = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
        return OmegaConf.to_container(own, resolve=True)  # type: ignore[return-value]

    def _launch(self, overrides: Sequence[Sequence[str]], first: int) -> Sequence[JobReturn]:
        assert self.launcher is not None
        return self.launcher.launch(overrides, initial_job_idx=first)
