"""Files of weights: read without executing code, and one message for whatever is wrong with one."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np


class WeightsError(RuntimeError):
    """A file of weights is missing, damaged or another one; says what, where and what to do.

    Args:
        name: of the codec.
        path: of the file.
        error: what its reader raised.
        advice: lines that say what to do.
    """

    def __init__(self, name: str, path: Path, error: Exception, *advice: str) -> None:
        lines = [
            f"The weights of {name} cannot be used.",
            f"  file:  {path.resolve()}",
            f"  fault: {fault_of(error)}",
            *advice,
        ]
        super().__init__("\n".join(lines))


def read_arrays(path: Path, sha256: str | None = None) -> tuple[dict[str, np.ndarray], str]:
    """Arrays of an ``.npz`` file, and the sha256 of the file.

    Args:
        path: of the file.
        sha256: what it has to be; None for any.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is another file, or not an archive of numbers.
    """
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        if sha256 is not None and digest != sha256:
            raise ValueError(
                f"damaged, or not the published weights: its sha256 is {digest}, expected {sha256}"
            )
        stream.seek(0)
        try:
            with np.load(stream, allow_pickle=False) as archive:
                return dict(archive), digest
        except Exception as error:  # damaged bytes can make the readers of zip and npy fail anyhow
            raise ValueError(f"not an .npz archive of numbers: {fault_of(error)}") from error


def fault_of(error: Exception) -> str:
    """What is wrong with a file, in a few words."""
    if isinstance(error, FileNotFoundError):
        return "missing"
    if isinstance(error, OSError):
        return f"not readable: {error.strerror or error}"
    if isinstance(error, KeyError):
        return f"it lacks {error.args[0]}"
    return (str(error) or type(error).__name__).splitlines()[0]
