"""Launchers on submitit that wait for all jobs of a sweep, also if some of them die."""

from __future__ import annotations

import math
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from types import FrameType
from typing import Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus
from hydra_plugins.hydra_submitit_launcher import submitit_launcher

# Options that submitit has for all kinds of executors; others carry the name of theirs.
SHARED = (
    "timeout_min",
    "cpus_per_task",
    "gpus_per_node",
    "tasks_per_node",
    "mem_gb",
    "nodes",
    "name",
    "stderr_to_stdout",
)


class _AllJobs(submitit_launcher.BaseSubmititLauncher):
    """Submits a sweep as one job array and collects what becomes of every job.

    The launcher of the plugin raises at the first job that dies and leaves the others alone, and
    leaves all running on Ctrl-C.
    """

    def __call__(self, *arguments: Any) -> JobReturn:
        """What a job does: one run of the sweep."""
        from submitit import JobEnvironment

        heed_once(getattr(signal, f"SIG{JobEnvironment.USR_SIG}"))
        return super().__call__(*arguments)

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Submit the jobs and wait for them; on Ctrl-C, cancel them."""
        import submitit

        options = {name: value for name, value in self.params.items() if value is not None}
        creation = {f"{self._EXECUTOR}_max_num_timeout": options.pop("max_num_timeout")}
        executor = submitit.AutoExecutor(
            options.pop("submitit_folder"), cluster=self._EXECUTOR, **creation
        )
        executor.update_parameters(
            **{
                name if name in SHARED else f"{self._EXECUTOR}_{name}": value
                for name, value in options.items()
            }
        )
        numbers = range(initial_job_idx, initial_job_idx + len(job_overrides))
        state = Singleton.get_state()
        arguments = [
            (list(overrides), "hydra.sweep.dir", number, str(number), state)
            for overrides, number in zip(job_overrides, numbers, strict=True)
        ]
        jobs = executor.map_array(self, *zip(*arguments, strict=True))
        sys.stderr.write(f"submitted {len(jobs)} jobs; logs: {jobs[0].paths.folder.parent}\n")
        try:
            return [_result(job) for job in jobs]
        except KeyboardInterrupt:
            for job in jobs:
                job.cancel(check=False)
            raise


def heed_once(number: int) -> None:
    """Ignore a signal from the moment its handler is called.

    Slurm warns a job before it ends it, often twice at the same moment: itself and through srun.
    Submitit's handler, which queues the job again, fails if it is interrupted by itself.
    """
    handler = signal.getsignal(number)
    if not callable(handler):
        return

    def handle(number: int, frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_IGN)
        handler(number, frame)

    signal.signal(number, handle)


def _result(job: Any) -> JobReturn:
    """What a job returned, or a failure if it ended without a word."""
    from submitit.core.utils import FailedJobError, UncompletedJobError

    from convexinit_paper.store.failures import LostJobError

    try:
        return job.results()[0]
    except (FailedJobError, UncompletedJobError):
        lost = JobReturn()
        lost.status = JobStatus.FAILED
        lost.return_value = LostJobError(
            f"job {job.job_id} ended without a result (state {job.state}), see {job.paths.stderr}"
        )
        return lost


class LocalLauncher(_AllJobs):
    """Jobs as processes of this machine, all at once."""

    _EXECUTOR = "local"


class SlurmLauncher(_AllJobs):
    """Jobs as one array of Slurm."""

    _EXECUTOR = "slurm"

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Submit the jobs and wait for them.

        Raises:
            ConfigError: if the time limit leaves no time to run.
            LostJobError: if this machine cannot submit jobs.
        """
        from convexinit_paper.request.options import require
        from convexinit_paper.store.failures import LostJobError

        # Slurm warns up to a minute too early; a job that is warned as it starts, dies.
        least = math.ceil(self.params["signal_delay_s"] / 60) + 2
        minutes = self.params["timeout_min"]
        require(
            minutes >= least,
            "hydra.launcher.timeout_min",
            f"at least {least}, two minutes more than hydra.launcher.signal_delay_s",
            minutes,
        )
        if shutil.which("sbatch") is None:
            raise LostJobError(
                "there is no Slurm here (sbatch is not found); use hydra/launcher=joblib, or try "
                "scripts/slurm_one_node.sh"
            )
        if subprocess.run(["sacct", "--noheader"], capture_output=True, check=False).returncode:
            sys.stderr.write(
                "warning: this Slurm keeps no accounts (sacct fails), so that a job which is "
                "killed or cancelled goes unnoticed and the sweep waits for ever\n"
            )
        return super().launch(job_overrides, initial_job_idx)
