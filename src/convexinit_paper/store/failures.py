"""What is kept of a run that failed: ``<results>/failed/<experiment>/<model>-<digest>.log``.

The file has the message in its first line, and below it when and where the run failed, its
configuration and the traceback. It is removed when the same run succeeds.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import platform
import shlex
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from convexinit_paper.request.command import message_of
from convexinit_paper.store.files import complete_file
from convexinit_paper.store.provenance import git_revision


class LostJobError(RuntimeError):
    """A job that could not be submitted, or ended without a word: cancelled or killed."""


def failure_log(folder: Path) -> Path:
    """Where a failure of the run in ``folder`` is recorded."""
    return folder.parents[2] / "failed" / folder.parent.name / f"{folder.name}.log"


def read_failure(folder: Path) -> str | None:
    """One line that says why the run in ``folder`` failed, or None if no failure is recorded."""
    try:
        return failure_log(folder).read_text(encoding="utf-8").split("\n", 1)[0]
    except OSError:
        return None


def one_line(error: BaseException) -> str:
    """The message of an error as the command line shows it, in one line."""
    lines = message_of(error).splitlines()
    return " ".join(line.strip() for line in lines if not line.startswith("HYDRA_FULL_ERROR"))


@contextmanager
def recorded_failure(folder: Path, config: dict[str, Any]) -> Iterator[None]:
    """Record an exception of the run in ``folder``; forget an older one if there is none.

    Being stopped (a signal, Ctrl-C) is no failure.
    """
    path = failure_log(folder)
    try:
        yield
    except Exception as error:
        with contextlib.suppress(OSError):  # a full disk must not hide the first error
            _write(path, config, error)
        raise
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


def _write(path: Path, config: dict[str, Any], error: Exception) -> None:
    now = datetime.datetime.now().astimezone().isoformat(timespec="seconds")
    job = "".join(
        f", {name} {os.environ[name]}"
        for name in ("SLURM_JOB_ID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID")
        if name in os.environ
    )
    text = "\n".join(
        [
            one_line(error),
            "",
            f"{now}, process {os.getpid()} on {platform.node()}{job}",
            f"revision {git_revision()}, command: {shlex.join(sys.argv)}",
            "",
            OmegaConf.to_yaml(config),
            "".join(traceback.format_exception(error)),
        ]
    )
    with complete_file(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8", errors="backslashreplace")
