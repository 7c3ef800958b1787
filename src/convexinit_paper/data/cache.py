"""Arrays on disk that can be made again: codes of molecules, decoded images.

A cache is never needed: whatever is wrong with it ends in a warning. Several processes may use the
same folder at the same time.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import numpy as np

from convexinit_paper.store.files import complete_file

Content = TypeVar("Content")


def read_arrays(
    path: Path, what: str, parse: Callable[[Mapping[str, np.ndarray]], Content]
) -> Content | None:
    """The content of a file that :func:`write_arrays` wrote.

    Args:
        path: the file.
        what: its content in the plural, for the warning.
        parse: makes the content from the arrays by name; raises ValueError or KeyError if they are
            not what they should be.

    Returns:
        What ``parse`` returns; None if there is no such file, and with a warning if it cannot be
        used.
    """
    try:
        # The checksums of the zip format tell whether a byte has changed.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            return parse(archive)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except Exception as error:  # damaged bytes can make the readers of zip and npy fail in any way
        reason = str(error).splitlines()[:1] or [type(error).__name__]
        warnings.warn(
            f"the cached {what} in {path} cannot be used ({reason[0]}); they are made again",
            stacklevel=3,
        )
        return None


def write_arrays(path: Path, what: str, **arrays: np.ndarray) -> None:
    """Store arrays in a file that is complete or not there.

    Warns if they cannot be stored.

    Args:
        path: the file; its folder is made if need be.
        what: its content in the plural, for the warning.
        arrays: the content by name.
    """
    try:
        with complete_file(path) as unfinished, unfinished.open("xb") as stream:
            np.savez(stream, **arrays)  # type: ignore[arg-type]
    except OSError as error:
        warnings.warn(
            f"the {what} cannot be cached in {path.parent} ({error.strerror or error}); "
            "they will be made again next time",
            stacklevel=3,
        )
