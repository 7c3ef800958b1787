"""Errors of stored runs."""

from __future__ import annotations

import pickle
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


class RunError(RuntimeError):
    """A stored run that cannot be read, or a place where none can be written."""


def unwritable(folder: Path, error: OSError) -> RunError:
    """What to say where a run cannot be written."""
    return RunError(
        f"cannot write to {folder}: {error.strerror}.\n"
        "Choose another place for runs with results_dir=..."
    )


def unreadable(folder: Path, error: Exception) -> RunError:
    """What to say of a run that cannot be read."""
    reason = (str(error) or type(error).__name__).splitlines()[0]
    return RunError(
        f"the run in {folder} cannot be read ({reason}).\n"
        "Move the folder away and ask for the run again."
    )
