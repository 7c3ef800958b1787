"""States of unfinished trainings, from which an interrupted run goes on."""

from __future__ import annotations

import contextlib
import time
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from convexinit_paper.store.errors import DAMAGED
from convexinit_paper.store.files import complete_file, flush
from convexinit_paper.store.identity import Config, run_folder


class Checkpoint:
    """One file that holds the last saved state of a training.

    Args:
        path: of the file.
        every: seconds between two states, at least 0.

    Example:
        >>> import tempfile
        >>> checkpoint = Checkpoint(Path(tempfile.mkdtemp()) / "training.pt", every=0.0)
        >>> checkpoint.load()
        >>> checkpoint.save({"step": 3})
        >>> checkpoint.load()
        {'step': 3}
    """

    def __init__(self, path: Path, every: float) -> None:
        self.path = path
        self.every = every
        self._last = time.monotonic()

    def due(self) -> bool:
        """Whether the last state, or the start of the process, is old enough for another one."""
        return time.monotonic() - self._last >= self.every

    def save(self, state: dict[str, Any]) -> None:
        """Write a state of tensors, numbers, strings, lists and dictionaries in place of the last.

        Warns if it cannot be written: training goes on without it.
        """
        try:
            with complete_file(self.path) as unfinished:
                # By name: torch would hide Ctrl-C behind an error of its own while it writes to a
                # file of Python.
                torch.save(state, str(unfinished))
                flush(unfinished)
        # torch reports a full disk as a RuntimeError that does not say so.
        except (OSError, RuntimeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "is the disk full?"
            warnings.warn(
                f"no checkpoint could be written to {self.path.parent} ({reason}); "
                "training goes on without",
                stacklevel=2,
            )
        self._last = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """The last state, on the CPU, or None if there is none. No code in the file is executed.

        A file that cannot be read, or is not what was written, is set aside with a warning.
        """
        try:
            with zipfile.ZipFile(self.path) as archive:
                if archive.testzip() is not None:  # torch does not compare the checksums
                    raise ValueError("a checksum differs")
            return torch.load(self.path, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            return None
        except DAMAGED:
            self.set_aside("is damaged")
            return None

    def set_aside(self, reason: str) -> None:
        """Rename the file, so that it is not read again, to its name with ".damaged".

        Args:
            reason: what is wrong with it, for the warning.
        """
        aside = self.path.with_name(f"{self.path.name}.damaged")
        warnings.warn(
            f"the checkpoint {self.path} {reason}; it is set aside as {aside.name}, and training "
            "starts from the beginning",
            stacklevel=3,
        )
        with contextlib.suppress(OSError):
            self.path.replace(aside)


def checkpoint_of(config: Config, training: str = "training") -> Checkpoint:
    """The checkpoint of one of the trainings of a run.

    Args:
        config: the resolved configuration of the run.
        training: a name, for runs with more than one training.
    """
    return Checkpoint(
        checkpoint_folder(config) / f"{training}.pt", 60 * config["checkpoint_minutes"]
    )


def checkpoint_folder(config: Config) -> Path:
    """Folder of all checkpoints of a run, of no use when the run is finished."""
    name = run_folder(config).name
    return Path(config["results_dir"]) / "checkpoints" / config["name"] / name
