"""Runs appear in their place complete or not at all, and an old one stays until a new one does.

A process that works on the run ``<name>`` writes it to ``.<name>-<random>/unfinished``. A finished
run that is to be replaced is moved to ``.<name>-<random>/<name>`` just before the new one is moved
into its place, and removed just after. Wherever the process is killed, one of the two is complete.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import sys
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from convexinit_paper.store.errors import unmovable, unwritable

# What renaming a folder fails with where another one lies.
OCCUPIED = (errno.ENOTEMPTY, errno.EEXIST)


@contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """A place to write the run of ``folder`` to, removed on the way out unless it was renamed.

    Opened before the work starts, so that a place that cannot be written to is noticed at once.

    Raises:
        RunError: if the place cannot be made, or a run that is to be replaced not be moved.
    """
    hidden = folder.with_name(f".{folder.name}-{uuid.uuid4().hex}")
    place = hidden / "unfinished"
    try:
        try:
            place.mkdir(parents=True)
        except OSError as error:
            raise unwritable(folder.parent, error) from error
        if is_closed(folder, os.W_OK):
            raise unmovable(folder, "is to be replaced")
        yield place
    finally:
        _clear(hidden, folder)


def is_closed(folder: Path, rights: int) -> bool:
    """Whether there is a folder to which this process lacks ``rights``, as of ``os.access``.

    One that another process replaces just now is not there when it is asked for them.
    """
    before = _number(folder)
    lacking = not os.access(folder, rights)
    return lacking and before is not None and _number(folder) == before


def _number(folder: Path) -> int | None:
    """What tells this folder from others that were or will be in its place; None without any."""
    try:
        return folder.stat().st_ino
    except FileNotFoundError:
        return None


def replace(place: Path, folder: Path) -> None:
    """Rename ``place`` to ``folder``, instead of what is there.

    Between two renames nothing is there. If another process puts the same run there just then,
    which only happens where there are no locks, that one stays.

    Args:
        place: from :func:`staging`, whose end removes what was replaced.
        folder: of the run.

    Raises:
        OSError: if a folder cannot be renamed; the old run comes back at the end of
            :func:`staging`.
    """
    with contextlib.suppress(FileNotFoundError):
        folder.rename(place.parent / folder.name)
    try:
        place.rename(folder)
    except OSError as error:
        if error.errno not in OCCUPIED:
            raise


def tidy(folder: Path) -> None:
    """Remove what killed processes left of this run, or bring it back if it is all there is.

    For the holder of its lock alone.
    """
    for hidden in folder.parent.glob(f".{folder.name}-*"):
        _clear(hidden, folder)


def _clear(hidden: Path, folder: Path) -> None:
    """Remove a hidden folder; a run that was moved into it comes back unless there is a new one."""
    try:
        (hidden / folder.name).rename(folder)
    except FileNotFoundError:
        pass
    except OSError as error:
        if error.errno not in OCCUPIED:
            return  # what cannot be moved back must not be removed either
    shutil.rmtree(hidden, ignore_errors=True)


def displaced(root: Path, experiment: str) -> list[Path]:
    """Runs that were moved away and have no successor: a process was killed between two renames.

    Args:
        root: folder that holds one folder per experiment.
        experiment: its name, or "*" for all.
    """
    return [
        old
        for old in root.glob(f"{experiment}/.*/*")
        if old.parent.name.rpartition("-")[0] == f".{old.name}"
        and not (old.parents[1] / old.name).exists()
    ]


def set_aside(folder: Path) -> None:
    """Move a damaged run to ``<results>/damaged/<experiment>`` and say so on stderr.

    Raises:
        RunError: if it cannot be moved.
    """
    aside = folder.parents[2] / "damaged" / folder.parent.name
    made = [place for place in (aside, aside.parent) if not place.exists()]
    try:
        aside.mkdir(parents=True, exist_ok=True)
        target = Path(tempfile.mkdtemp(prefix=f"{folder.name}-", dir=aside))
        made.insert(0, target)
        folder.rename(target)
    except OSError as error:
        for place in made:
            with contextlib.suppress(OSError):
                place.rmdir()
        if os.access(folder, os.W_OK):
            raise unwritable(folder.parent, error) from error
        raise unmovable(folder, "is damaged") from error
    sys.stderr.write(f"the run in {folder} is damaged; moved to {target}, computing it again\n")
