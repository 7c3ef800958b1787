"""The runs of a sweep: which are stored already, how far it is, and how it ended.

All of it is read from the stored runs and the recorded failures, so it is the same whether the runs
were made one after the other, in parallel, or on a cluster.
"""

from __future__ import annotations

import os
import shlex
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from convexinit_paper.data.files import DataError
from convexinit_paper.experiments import identified, request_of
from convexinit_paper.progress import Throttle, write_line
from convexinit_paper.request.config import overrides_between
from convexinit_paper.request.options import ConfigError
from convexinit_paper.request.quoting import argument
from convexinit_paper.store.errors import AccessError
from convexinit_paper.store.failures import failure_log, one_line, read_failure
from convexinit_paper.store.identity import Config
from convexinit_paper.store.runs import is_intact, is_stored
from convexinit_paper.tracking import remind_of_unsent

POLL_SECONDS = 0.5


@dataclass(frozen=True)
class Job:
    """One run of a sweep.

    Attributes:
        overrides: options as the launcher takes them, such as ``("model=icnn", "seeds=2")``.
        title: the options in which this run differs from the others of the sweep.
        folder: where the run is stored, whether it exists or not.
        stamp: identity of what was stored there when the sweep began, None for nothing.
        missing: whether it is to be run, or would have to be.
        refusal: why it cannot be run, in one line; None if nothing is known against it.
    """

    overrides: tuple[str, ...]
    title: str
    folder: Path
    stamp: tuple[int, int] | None
    missing: bool
    refusal: str | None

    @property
    def is_done(self) -> bool:
        """Whether the run is stored: by this sweep, or before it if that was all that is needed."""
        return not self.missing or (is_stored(self.folder) and stamp(self.folder) != self.stamp)


def stamp(folder: Path) -> tuple[int, int] | None:
    """What tells a run from a later one in the same folder; None if there is none."""
    try:
        status = (folder / "summary.json").stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def jobs_of(overrides: Sequence[Sequence[str]], configs: Sequence[Config]) -> list[Job]:
    """The runs of a sweep, each once.

    Failures that an earlier sweep recorded for runs that are to be repeated are removed.

    Args:
        overrides: options of every run.
        configs: resolved configurations of these runs.

    Raises:
        ConfigError: if an option that all experiments share is wrong; nothing was run then.
    """
    folders = list(dict.fromkeys(str(config["results_dir"]) for config in configs))
    if len(folders) > 1:
        raise ConfigError(
            f"a sweep has one results_dir; got {len(folders)}: {', '.join(folders)}\n"
            "If this is the name of one folder, quote it: "
            + shlex.quote(argument("results_dir", ",".join(folders)))
        )
    common = set.intersection(*(set(options) for options in overrides))
    jobs: dict[Path, Job] = {}
    for options, config in zip(overrides, configs, strict=True):
        request = request_of(config)
        # What was chosen here, so that the job need not choose again.
        chosen = overrides_between({**config, "seeds": request.seeds}, request.config)
        refusal = None
        try:
            request = identified(request)
            missing = request.force or not is_intact(request.folder)
        except DataError:
            missing = True  # and the run will say why it fails; others need not fail with it
        except AccessError as error:
            missing, refusal = True, one_line(error)
        folder = request.folder
        if folder in jobs:
            continue
        title = " ".join(option for option in options if option not in common)
        jobs[folder] = Job(
            (*options, *chosen), title or folder.name, folder, stamp(folder), missing, refusal
        )
    for job in jobs.values():
        if job.missing:
            with suppress(OSError):
                failure_log(job.folder).unlink(missing_ok=True)
    remind_of_unsent([job.folder for job in jobs.values() if not job.missing], request.logger)
    return list(jobs.values())


@contextmanager
def progress(jobs: Sequence[Job]) -> Iterator[None]:
    """Print ``run: <folder>`` for every run as soon as it is stored, above a bar in terminals.

    Where stderr is no terminal, a line there says how many are done: when there is something new,
    but at most once a minute, so that short sweeps print none.
    """
    waiting = list(jobs)
    finished = threading.Event()
    bar = tqdm(total=len(jobs), desc="sweep", unit="run", disable=None)
    throttle = Throttle()
    told = ""

    def update() -> None:
        nonlocal told
        for job in [job for job in waiting if job.is_done]:
            waiting.remove(job)
            try:
                bar.write(f"run: {job.folder}")
                sys.stdout.flush()  # for those who watch a file
            except OSError:  # nobody reads any more (a pipe to head); the sweep goes on
                os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            bar.update()
        failed = sum(read_failure(job.folder) is not None for job in waiting)
        if failed:
            bar.set_postfix(failed=failed)
        state = f"{len(jobs) - len(waiting)} of {len(jobs)} runs done"
        state += f", {failed} failed" if failed else ""
        if bar.disable and state != told and waiting and throttle.due():
            told = state
            write_line(f"sweep: {state}")

    def watch() -> None:
        while not finished.wait(POLL_SECONDS):
            update()

    watcher = threading.Thread(target=watch, daemon=True)
    update()
    watcher.start()
    try:
        yield
    finally:
        finished.set()
        watcher.join()
        update()
        bar.close()


def unfinished(jobs: Sequence[Job], reasons: Mapping[Path, str]) -> dict[Job, str]:
    """The runs that are not stored, with the reason in one line and the log, if there is one.

    Args:
        jobs: the runs of the sweep.
        reasons: what the launcher knows of runs that left no record of their own, by folder.
    """
    result = {}
    for job in jobs:
        if not job.is_done:
            recorded = read_failure(job.folder)
            if job.refusal is not None:
                result[job] = job.refusal
            elif recorded is not None:
                result[job] = f"{recorded} ({failure_log(job.folder)})"
            else:
                result[job] = reasons.get(job.folder, "ended without a result; ask again")
    return result


def summary(jobs: Sequence[Job], failed: Mapping[Job, str]) -> str:
    """How the sweep ended: one line with counts, and one for every run that failed."""
    ran = sum(job.missing and job not in failed for job in jobs)
    before = sum(not job.missing for job in jobs)
    counts = [f"{ran} ran", f"{before} stored before", f"{len(failed)} failed"]
    shown = [count for count in counts if not count.startswith("0 ")] or ["nothing to do"]
    lines = [f"sweep of {len(jobs)} runs: {', '.join(shown)}"]
    lines += [f"failed: {job.title}: {reason}" for job, reason in failed.items()]
    return "\n".join(lines)
