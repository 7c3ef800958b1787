"""Options of the configuration: name, type, range and meaning of each in adjacent lines.

Defaults stand in ``conf/`` alone.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any


class ConfigError(ValueError):
    """An option has a wrong name, type or value."""


class OutOfRangeError(ConfigError):
    """An option is out of its range.

    Args:
        option: its name.
        allowed: the range, in words that can follow "must be".
        value: what was given.
        where: the state of another option of the same section that the range holds for, such as
            ``"widths is null"``; empty if it always does.
    """

    def __init__(self, option: str, allowed: str, value: object, where: str = "") -> None:
        super().__init__(option, allowed, value, where)

    def __str__(self) -> str:
        option, allowed, value, where = self.args
        condition = f" where {where}" if where else ""
        return f"{option} must be {allowed}{condition}; got {value!r}"

    def within(self, section: str) -> OutOfRangeError:
        """The same error with the section before the names of options."""
        option, allowed, value, where = self.args
        condition = f"{section}.{where}" if where else ""
        return OutOfRangeError(f"{section}.{option}", allowed, value, condition)


def require(condition: bool, option: str, allowed: str, value: object, where: str = "") -> None:
    """Raise :class:`OutOfRangeError` if ``condition`` does not hold.

    Example:
        >>> require(3 > 0, "trainer.epochs", "at least 1", 3)
    """
    if not condition:
        raise OutOfRangeError(option, allowed, value, where)


@dataclass(frozen=True)
class Range:
    """The values that an option may have.

    Attributes:
        words: what can follow "must be".
        holds: whether a value of the option's type is among them.
    """

    words: str
    holds: Callable[[Any], bool]


def at_least(low: int) -> Range:
    """Finite numbers from ``low`` on."""
    return Range(f"at least {low}", lambda value: low <= value < math.inf)


def above(low: int) -> Range:
    """Finite numbers above ``low``."""
    return Range(f"above {low}", lambda value: low < value < math.inf)


def between(low: int, high: int) -> Range:
    """Numbers from ``low`` to ``high``, both included."""
    return Range(f"{low} to {high}", lambda value: low <= value <= high)


FRACTION = Range("in [0, 1)", lambda value: 0 <= value < 1)


def one_of(names: Iterable[str]) -> Range:
    """One of these names."""
    known = tuple(names)
    return Range(f"one of {', '.join(known)}", lambda value: value in known)


def or_null(range_: Range, meaning: str) -> Range:
    """A range or None, which means ``meaning``."""
    return Range(
        f"{range_.words}, or null {meaning}", lambda value: value is None or range_.holds(value)
    )


def option(meaning: str, *ranges: Range) -> Any:
    """A field of a :class:`Section`.

    Args:
        meaning: in words, with the unit.
        ranges: all of which the value must be in.
    """
    return dataclasses.field(metadata={"meaning": meaning, "ranges": ranges})


@dataclass(frozen=True)
class Section:
    """Base of settings whose fields are :func:`option`; making one checks the ranges.

    Rules for several options at once follow in the ``__post_init__`` of a subclass.

    Example:
        >>> @dataclass(frozen=True)
        ... class Trainer(Section):
        ...     epochs: int = option("passes over the training set", at_least(1))
        >>> Trainer(epochs=0)
        Traceback (most recent call last):
        convexinit_paper.request.options.OutOfRangeError: epochs must be at least 1; got 0
    """

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            for range_ in field.metadata["ranges"]:
                require(range_.holds(value), field.name, range_.words, value)
