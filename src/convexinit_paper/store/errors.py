"""Errors of stored runs."""

from __future__ import annotations

import errno
import pickle
import pwd
import shlex
import stat
import zipfile
import zlib
from pathlib import Path

# What reading a damaged archive may raise.
DAMAGED = (
    OSError,
    EOFError,
    RuntimeError,  # also NotImplementedError: a flag or method of archives that we never use
    ValueError,
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    zlib.error,
)


# What reading a file may fail with though it is as it was written.
OUT_OF_REACH = (
    errno.EACCES,
    errno.EPERM,
    errno.EIO,
    errno.ESTALE,
    errno.EMFILE,
    errno.ENFILE,
    errno.ENOMEM,
)


class RunError(RuntimeError):
    """A stored run that cannot be read, or a place where none can be written."""


class AccessError(RunError):
    """What is stored may be right, but this process cannot read it."""


def unwritable(folder: Path, error: OSError) -> RunError:
    """What to say where a run cannot be written."""
    return RunError(
        f"cannot write to {folder}: {error.strerror}.\n"
        "Choose another place for runs with results_dir=..."
    )


def unreadable(folder: Path, error: Exception) -> RunError:
    """What to say of a run, or a folder of runs, that cannot be read; AccessError if it may not."""
    absent = isinstance(error, (FileNotFoundError, NotADirectoryError))
    if absent and Path(getattr(error, "filename", None) or "").name == "config.yaml":
        return RunError(
            f"there is no run in {folder}: it has no config.yaml.\n"
            "A run lies in <results>/runs/<experiment>/<model>-<digest>."
        )
    reason = (str(error) or type(error).__name__).splitlines()[0]
    if not isinstance(error, OSError) or error.errno not in OUT_OF_REACH:
        return RunError(
            f"the run in {folder} cannot be read ({reason}).\n"
            "Move the folder away and ask for the run again."
        )
    advice = "Try again later."
    if error.errno in (errno.EACCES, errno.EPERM):
        advice = owned(Path(error.filename or folder), "a+rX")
    return AccessError(
        f"what is stored in {folder} cannot be read: {error.strerror}.\n"
        f"{advice}\nOr choose another place for runs with results_dir=..."
    )


def unmovable(folder: Path, what: str) -> RunError:
    """What to say of a run of somebody else that would have to be moved.

    Args:
        folder: of the run.
        what: is wrong with it, or is to be done with it.
    """
    return RunError(
        f"the run in {folder} {what}, but cannot be moved.\n"
        f"{owned(folder, 'a+rwX')}\nOr choose another place for runs with results_dir=..."
    )


def owned(path: Path, mode: str) -> str:
    """Whose a file or folder is, or the first one above it that can be seen, and how to open it."""
    for place in (path, *path.absolute().parents):
        try:
            status = place.stat()
        except OSError:
            continue
        try:
            owner = pwd.getpwuid(status.st_uid).pw_name
        except KeyError:
            owner = f"user {status.st_uid}"
        return (
            f"{place} belongs to {owner} ({stat.filemode(status.st_mode)}), who can open it by\n"
            f"  chmod -R {mode} {shlex.quote(str(place))}"
        )
    raise AssertionError("the root of the file system cannot be seen")
