"""One process at a time works on a run, and a run appears complete or not at all."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from convexinit_paper.store.errors import unwritable
from convexinit_paper.store.identity import is_stored

# Errors of file systems that cannot lock files, or cannot exchange two folders.
UNABLE = (errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOLCK)


def set_aside(folder: Path) -> None:
    """Move a damaged run to ``<results>/damaged/<experiment>`` and say so on stderr.

    Raises:
        RunError: if it cannot be moved.
    """
    try:
        aside = folder.parents[2] / "damaged" / folder.parent.name
        aside.mkdir(parents=True, exist_ok=True)
        target = Path(tempfile.mkdtemp(prefix=f"{folder.name}-", dir=aside))
        folder.rename(target)
    except OSError as error:
        raise unwritable(folder.parent, error) from error
    sys.stderr.write(f"the run in {folder} is damaged; moved to {target}, computing it again\n")


@contextmanager
def claimed(folder: Path) -> Iterator[None]:
    """Work on the run in ``folder`` alone: others who ask for it wait until this process is done.

    The lock is one of the operating system, on a hidden file beside the folder. It ends with its
    process, however that ends, and holds across machines where the file system has locks. Where it
    has none, nobody waits, and the same run may be computed twice.

    Raises:
        RunError: if the lock's file cannot be made.
    """
    path = folder.parent / f".{folder.name}.lock"
    lock = FileLock(path, fallback_to_soft=False)
    held = _acquire(lock, path, folder)
    try:
        if held:
            with contextlib.suppress(OSError):  # a full disk: the lock holds all the same
                path.write_text(f"process {os.getpid()} on {platform.node()}")
            _tidy(folder)
        yield
    finally:
        if held:
            # Before the lock is given up, so that nobody can hold a lock on a file without a name.
            path.unlink(missing_ok=True)
            lock.release()


def _acquire(lock: FileLock, path: Path, folder: Path) -> bool:
    """Wait for the lock of a run; False where the file system has no locks."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            with contextlib.suppress(FileNotFoundError):
                owner = path.read_text() or "another process"
                sys.stderr.write(f"waiting for {owner}, which works on {folder}\n")
            lock.acquire(poll_interval=0.2)
    except OSError as error:
        if error.errno in UNABLE:
            return False
        raise unwritable(folder.parent, error) from error
    return True


def _tidy(folder: Path) -> None:
    """Remove what killed processes left of this run; for the holder of its lock alone."""
    for old in folder.parent.glob(f".old-{folder.name}-*"):
        if not folder.exists() and is_stored(old / folder.name):
            (old / folder.name).rename(folder)  # killed while it replaced a finished run
        shutil.rmtree(old, ignore_errors=True)
    for place in folder.parent.glob(f".{folder.name}-*"):
        shutil.rmtree(place, ignore_errors=True)


@contextmanager
def staging(folder: Path) -> Iterator[Path]:
    """A hidden folder beside ``folder``, removed on the way out unless it was renamed.

    Opened before the work starts, so that a place that cannot be written to is noticed at once.

    Raises:
        RunError: if the folder cannot be made.
    """
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        place = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    except OSError as error:
        raise unwritable(folder.parent, error) from error
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def replace(place: Path, folder: Path) -> None:
    """Rename ``place`` to ``folder``, instead of what is there.

    What was there is removed or left in ``place``. If other processes put theirs there at the same
    moment, the last one stays.
    """
    while True:
        try:
            place.rename(folder)
            return
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
        with contextlib.suppress(FileNotFoundError):  # another process has just moved it away
            if _exchange(place, folder) or _replace_in_two_steps(place, folder):
                return


def _exchange(first: Path, second: Path) -> bool:
    """Swap two folders in one step, so that none is ever missing; False where that is impossible.

    Only Linux can, and not on every file system (not on NFS).
    """
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    here, exchange = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of <linux/fs.h>
    if renameat2(here, os.fsencode(first), here, os.fsencode(second), exchange) == 0:
        return True
    number = ctypes.get_errno()
    if number in UNABLE:
        return False
    raise OSError(number, os.strerror(number), str(first), None, str(second))


def _replace_in_two_steps(place: Path, folder: Path) -> bool:
    """Move ``folder`` out of the way and rename ``place``; False if another process was faster.

    A process that is killed between the two steps leaves the old run in a hidden folder, from which
    :func:`claimed` brings it back.
    """
    old = Path(tempfile.mkdtemp(prefix=f".old-{folder.name}-", dir=folder.parent))
    try:
        folder.rename(old / folder.name)
        place.rename(folder)
        return True
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return False
        with contextlib.suppress(OSError):  # the old run, if it was moved
            (old / folder.name).rename(folder)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)
