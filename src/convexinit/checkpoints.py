"""States of unfinished trainings, from which an interrupted run goes on."""

from __future__ import annotations

import contextlib
import os
import pickle
import time
import warnings
from pathlib import Path
from typing import Any

import torch

from convexinit.files import complete_file
from convexinit.runs import Config, run_folder


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
            with complete_file(self.path) as unfinished, unfinished.open("wb") as file:
                torch.save(state, file)
                file.flush()
                os.fsync(file.fileno())
        # torch reports a full disk as a RuntimeError.
        except (OSError, RuntimeError) as error:
            warnings.warn(
                f"no checkpoint could be written to {self.path.parent} "
                f"({str(error).splitlines()[0]}); training goes on without",
                stacklevel=2,
            )
        self._last = time.monotonic()

    def load(self) -> dict[str, Any] | None:
        """The last state, on the CPU, or None if there is none. No code in the file is executed.

        A file that cannot be read is set aside under the name with ".damaged", with a warning.
        """
        try:
            return torch.load(self.path, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            return None
        except (OSError, EOFError, RuntimeError, ValueError, pickle.UnpicklingError):
            aside = self.path.with_name(f"{self.path.name}.damaged")
            warnings.warn(
                f"the checkpoint {self.path} is damaged; it is set aside as {aside.name}, and "
                "training starts from the beginning",
                stacklevel=2,
            )
            with contextlib.suppress(OSError):
                self.path.replace(aside)
            return None


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
