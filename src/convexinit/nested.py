"""Tensors in nested lists, tuples and dictionaries, as the arguments of a call."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Any

from torch import Tensor


def flat(values: Any) -> list[Any]:
    """Whatever is in nested lists, tuples and dictionaries."""
    if isinstance(values, dict):
        values = values.values()
    elif not isinstance(values, (list, tuple)):
        return [values]
    return [leaf for value in values for leaf in flat(value)]


def tensors_in(*values: Any) -> list[Tensor]:
    """Tensors in nested lists, tuples and dictionaries."""
    found = []
    for value in values:
        if isinstance(value, Tensor):
            found.append(value)
        elif isinstance(value, (list, tuple)) and value:
            found += tensors_in(*value)
        elif isinstance(value, dict) and value:
            found += tensors_in(*value.values())
    return found


def replace(values: Any, new: Callable[[Tensor], Tensor]) -> Any:
    """Nested lists, tuples and dictionaries with other tensors."""
    if isinstance(values, Tensor):
        return new(values)
    if isinstance(values, dict):
        changed = {key: replace(value, new) for key, value in values.items()}
        if type(values) is dict:
            return changed
        other = copy(values)
        other.update(changed)
        return other
    if isinstance(values, (list, tuple)):
        items = [replace(value, new) for value in values]
        return type(values)(*items) if hasattr(values, "_fields") else type(values)(items)
    return values
