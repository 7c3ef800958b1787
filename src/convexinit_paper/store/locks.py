"""One process at a time works on a run."""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from convexinit_paper.store.errors import AccessError, owned, unwritable
from convexinit_paper.store.staging import tidy

# Errors of file systems that cannot lock files.
UNABLE = (errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOLCK)


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
                owner = f"process {os.getpid()} on {platform.node()}"
                path.write_text(owner, encoding="utf-8")
            tidy(folder)
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
                owner = path.read_text(encoding="utf-8") or "another process"
                sys.stderr.write(f"waiting for {owner}, which works on {folder}\n")
            lock.acquire(poll_interval=0.2)
    except OSError as error:
        if error.errno in UNABLE:
            return False
        if os.access(path, os.F_OK):  # of somebody whose files are closed to others
            raise AccessError(
                f"the run in {folder} is claimed by somebody else, or was: {error.strerror}.\n"
                f"{owned(path, 'a+rw')}\nOr choose another place for runs with results_dir=..."
            ) from error
        raise unwritable(folder.parent, error) from error
    return True
