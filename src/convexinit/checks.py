"""Checks of arguments, with messages that name what is admissible."""

from __future__ import annotations

import difflib
import inspect
import math
import operator
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import cache
from numbers import Real
from typing import Any, TypeVar

from torch import Generator, Tensor, nn
from torch.utils.data import DataLoader

T = TypeVar("T")
Function = TypeVar("Function", bound=Callable[..., Any])


def check_number(
    name: str, value: float, low: float = -math.inf, high: float = math.inf, ends: str = "()"
) -> float:
    """Return value, or raise ValueError unless it is between low and high ("[": inclusive).

    Example:
        >>> check_number("rho", 1, 0, 1, ends="(]")
        1.0
    """
    if isinstance(value, Real) and not isinstance(value, bool):
        above = low <= value if ends[0] == "[" else low < value
        below = value <= high if ends[1] == "]" else value < high
        if above and below:
            return float(value)
    interval = f"{ends[0]}{low:g}, {high:g}{ends[1]}"
    raise ValueError(f"{name} must be a number in {interval}, got {value!r}")


def check_integer(name: str, value: int, least: int = 1) -> int:
    """Return value as an int, or raise ValueError unless it is an integer of at least ``least``."""
    try:
        number = least - 1 if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = least - 1
    if number < least:
        raise ValueError(f"{name} must be an integer of at least {least}, got {value!r}")
    return number


def check_sizes(name: str, values: Iterable[int], fewest: int) -> list[int]:
    """Return values as a list, or raise ValueError unless they are positive integers, and enough.

    Example:
        >>> check_sizes("widths", (8, 64, 1), fewest=2)
        [8, 64, 1]
    """
    given = list(values) if isinstance(values, Iterable) else []
    with suppress(ValueError):
        sizes = [check_integer(name, value) for value in given]
        if len(sizes) >= fewest:
            return sizes
    raise ValueError(f"{name} must be positive integers, {fewest} or more; got {values!r}")


def check_choice(name: str, value: str, table: Mapping[str, T], other: str = "") -> T:
    """Return what a table has under a name, or raise ValueError, which lists the names.

    Args:
        name: of the argument.
        value: of the argument, a name in the table.
        table: what there is to choose from.
        other: what the argument may be instead of a name, for the message: "a callable or ".
    """
    if isinstance(value, str) and value in table:
        return table[value]
    near = difflib.get_close_matches(str(value).lower(), table, n=1) if table else []
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"{name} must be {other}one of {', '.join(table)}, got {value!r}{hint}")


def check_function(name: str, value: Function | str, table: Mapping[str, Function]) -> Function:
    """Return the function that a table has under a name; any other callable is returned as it is.

    Raises:
        ValueError: if it is neither a name in the table nor callable, or a class: what it makes is
            the function.
    """
    if isinstance(value, type):
        kind = value.__name__
        raise ValueError(
            f"{name} must be a callable or one of {', '.join(table)}, got the class {kind}; give "
            f"an instance: {name}={kind}()"
        )
    if isinstance(value, str) or not callable(value):
        return check_choice(name, value, table, other="a callable or ")
    return value


def check_tensor(name: str, value: Tensor) -> Tensor:
    """Return value, or raise ValueError unless it is a tensor; arrays and lists are not.

    Example:
        >>> check_tensor("start", [1.0])
        Traceback (most recent call last):
        ValueError: start must be a tensor, got list; torch.as_tensor(..., dtype=torch.float32) \
makes one of an array or a list of numbers
    """
    if isinstance(value, Tensor):
        return value
    remedy = "torch.as_tensor(..., dtype=torch.float32) makes one of an array or a list of numbers"
    if isinstance(value, Mapping):
        remedy = "give its tensors in a tuple, and with call= a function that puts them together"
    elif isinstance(value, DataLoader):
        remedy = "give what the network takes of one batch, next(iter(...))"
    raise ValueError(f"{name} must be a tensor, got {type(value).__name__}; {remedy}")


def check_module(name: str, value: object, takes_call: bool = True) -> None:
    """Raise ValueError unless value is a module, which holds its parameters.

    Args:
        name: of the argument, for the message.
        value: what was given.
        takes_call: whether a function of the module can be given with ``call=``.

    Example:
        >>> check_module("network", abs)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: network must be a torch.nn.Module, got builtin_function_or_method; give ...
    """
    if isinstance(value, nn.Module):
        return
    of_it = ", and a function of it with call=, as in call=lambda network, x: network.potential(x)"
    raise ValueError(
        f"{name} must be a torch.nn.Module, got {type(value).__name__}; give the module that holds "
        f"the parameters{of_it * takes_call}"
    )


def check_floating(name: str, value: Tensor) -> Tensor:
    """Return value, or raise ValueError unless it is a tensor of real floating-point numbers."""
    check_tensor(name, value)
    if not value.is_floating_point():
        remedy = "" if value.is_complex() else f"; give {name}.float()"
        raise ValueError(f"{name} must be floating point, got {value.dtype}{remedy}")
    return value


def check_generator(generator: Generator | None) -> None:
    """Raise ValueError unless it is a source of randomness or None; a seed is none."""
    if generator is not None and not isinstance(generator, Generator):
        raise ValueError(
            f"generator must be a torch.Generator, got {generator!r}; of a seed "
            "torch.Generator().manual_seed(...) makes one"
        )


_signature = cache(inspect.signature)


def check_unchanged(function: Callable[..., Any], arguments: dict[str, Any], reason: str) -> None:
    """Raise ValueError if an argument of a function is not at its default.

    Args:
        function: whose signature has the defaults.
        arguments: values by name.
        reason: why they are of no use, after a name.
    """
    parameters = _signature(function).parameters
    for name, value in arguments.items():
        if value != parameters[name].default:
            raise ValueError(f"{name} {reason}")
