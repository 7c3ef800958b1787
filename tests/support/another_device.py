"""A second device that needs none: it refuses, as a GPU does, to compute with tensors of both."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

THERE = torch.device("privateuseone", 0)
# These may take tensors of both: they copy, or read indices.
_EITHER = {"copy_", "__getitem__", "to", "type_as", "__deepcopy__"}


class AnotherDevice(TorchFunctionMode):
    """Tensors brought :meth:`there`, and all that is computed from them, claim another device.

    They are of the processor all the same, with numbers. What a backward pass or a kernel computes
    inside is not looked at.
    """

    def there(self, value: Any) -> Any:
        """A network, a tensor or a tuple of tensors, brought to the device in place."""
        if isinstance(value, nn.Module):
            self.there((*value.parameters(), *value.buffers()))
        for tensor in _tensors(value):
            tensor.is_there = True
        return value

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        """See :class:`torch.overrides.TorchFunctionMode`."""
        kwargs = dict(kwargs or {})
        name, tensors = getattr(func, "__name__", ""), list(_tensors((args, kwargs)))
        if name == "__get__" and getattr(func, "__self__", None) is Tensor.device:
            return THERE if _is_there(args[0]) else args[0].device
        if name == "cpu":
            return func(*args, **kwargs).clone()
        places = {one for one in tensors if _is_there(one)}
        for tensor in tensors:
            if places and not _is_there(tensor) and tensor.dim() and name not in _EITHER:
                raise RuntimeError(f"{name}: expected all tensors to be on the same device")
        goal = _goal(name, args, kwargs)
        args, kwargs = (_without(part) for part in (args, kwargs))
        result = func(*args, **kwargs)
        if name in ("to", "type_as") and goal is not None:
            is_there = goal == THERE
            if is_there != _is_there(args[0]) and result is args[0]:
                result = args[0].clone()
        elif name in ("copy_", "__getitem__"):
            is_there = _is_there(args[0])
        else:
            is_there = goal == THERE if goal is not None else bool(places)
        for tensor in _tensors(result):
            tensor.is_there = is_there
        return result


def _is_there(tensor: Tensor) -> bool:
    return getattr(tensor, "is_there", False)


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        yield from _tensors(tuple(value.values()))
    elif isinstance(value, (tuple, list)):
        for one in value:
            yield from _tensors(one)


def _goal(name: str, args: Any, kwargs: dict[str, Any]) -> torch.device | None:
    """The device that a call asks for, None for that of its operands."""
    like = [one for one in args[1:2] if isinstance(one, Tensor) and name in ("to", "type_as")]
    if like:
        return THERE if _is_there(like[0]) else torch.device("cpu")
    named = (*(args if name == "to" else ()), kwargs.get("device"))
    devices = [one for one in named if isinstance(one, (torch.device, str))]
    return torch.device(devices[0]) if devices else None


def _without(value: Any) -> Any:
    """Arguments that ask for the processor instead."""
    if isinstance(value, dict):
        return {key: _without(one) for key, one in value.items()}
    if isinstance(value, tuple):
        return tuple(_without(one) for one in value)
    return torch.device("cpu") if isinstance(value, torch.device) and value == THERE else value
