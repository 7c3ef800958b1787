"""How far long work is: a bar in terminals; elsewhere, as in a log, a line now and then."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

from torch import Tensor
from tqdm import tqdm

LINE_SECONDS = 60.0

Item = TypeVar("Item")


class Throttle:
    """Says when it is time again for something that is not to happen too often.

    Args:
        seconds: between two times, and from the start to the first.
    """

    def __init__(self, seconds: float = LINE_SECONDS) -> None:
        self.seconds = seconds
        self._last = time.monotonic()

    def due(self) -> bool:
        """Whether it is time; if so, the next time is counted from now on."""
        now = time.monotonic()
        if now - self._last < self.seconds:
            return False
        self._last = now
        return True


def write_line(text: str) -> None:
    """Write one line to stderr, at once even if that is a file."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def with_progress(items: Iterable[Item], description: str, total: int, unit: str) -> Iterator[Item]:
    """The same items; how many were worked off is shown on stderr.

    Where stderr is no terminal there is one line a minute at most, as for a training.

    Args:
        items: what is worked off, one after the other.
        description: what is done with them.
        total: their number.
        unit: what they are, in the plural.

    Example:
        >>> list(with_progress("abc", "reading", 3, "letters"))
        ['a', 'b', 'c']
    """
    throttle = Throttle()
    bar = tqdm(items, description, total, unit=f" {unit}", disable=None)
    for done, item in enumerate(bar, start=1):
        yield item
        if bar.disable and done < total and throttle.due():
            write_line(f"{description}: {done} of {total} {unit}")


class TrainingProgress:
    """The progress of one training, on stderr.

    Where stderr is no terminal there is one line a minute at most, and none in the first minute,
    so that short trainings stay silent.

    Args:
        description: what is trained.
        epochs: of the whole training.
        steps_per_epoch: optimiser steps in each of them.
        done: steps that an earlier process did.
    """

    def __init__(self, description: str, epochs: int, steps_per_epoch: int, done: int) -> None:
        self.description = description
        self.epochs = epochs
        self.steps_per_epoch = steps_per_epoch
        self.done = done
        self._earlier = done
        self._begin = time.monotonic()
        self._throttle = Throttle()
        self._bar = tqdm(
            total=epochs * steps_per_epoch,
            initial=done,
            desc=description,
            unit="step",
            disable=None,  # unless stderr is a terminal
        )

    def step(self, losses: Tensor, count: int = 1) -> None:
        """Count one step or more; ``losses`` are only read when something is to be shown."""
        self.done += count
        self._bar.update(count)
        if self._bar.disable:
            if self._throttle.due():
                write_line(self._line(_typical(losses)))
        elif self.done % self.steps_per_epoch == 0:
            self._bar.set_postfix(loss=_typical(losses))

    def close(self) -> None:
        """Leave the bar as it is."""
        self._bar.close()

    def _line(self, loss: str) -> str:
        total = self.epochs * self.steps_per_epoch
        epoch = math.ceil(self.done / self.steps_per_epoch)
        seconds_per_step = (time.monotonic() - self._begin) / (self.done - self._earlier)
        minutes = math.ceil((total - self.done) * seconds_per_step / 60)
        return (
            f"{self.description}: epoch {epoch} of {self.epochs}, step {self.done} of {total}, "
            f"loss {loss}, {minutes} min left"
        )


def _typical(losses: Tensor) -> str:
    return f"{losses.detach().median().item():.3g}"
