"""Files that appear complete or not at all, and that stay."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def complete_file(path: Path) -> Iterator[Path]:
    """A hidden name beside ``path`` to write to; the file is renamed when the block is left.

    If the block is left by an error (also Ctrl-C), nothing of the new file stays and ``path`` is as
    it was. Several processes may write the same file: the last one stays.

    Args:
        path: of the file; its folder is made if need be.

    Raises:
        OSError: the folder cannot be made, or the file not be renamed.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        with contextlib.suppress(OSError):
            unfinished.unlink(missing_ok=True)


def flush(path: Path) -> None:
    """Make sure that a file or folder has reached the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
