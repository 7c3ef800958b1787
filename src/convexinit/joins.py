"""Tensors that are joined to one, and operations on that which are made part by part."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from convexinit.nested import tensors_in

JOINING = {"stack", "cat", "concat", "concatenate", "hstack"}
_LINEAR = {"linear", "conv1d", "conv2d", "conv3d", "matmul", "__matmul__", "mm"}


class Join:
    """Tensors that are stacked in a new first dimension, or concatenated, and may be used apart.

    Args:
        parts: the tensors.
        whole: what they are joined to.
        dimension: along which they are concatenated, None if they are stacked.
    """

    def __init__(self, parts: list[Tensor], whole: Tensor, dimension: int | None) -> None:
        self.parts, self.whole, self.dimension = parts, whole, dimension
        self._versions = self._current()

    def _current(self) -> list[int]:
        tensors = [self.whole, *self.parts]
        return [0 if tensor.is_inference() else tensor._version for tensor in tensors]

    @property
    def is_unchanged(self) -> bool:
        """Whether all are as they were when they were joined."""
        return self._versions == self._current()

    def is_added_up(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """Whether a call sums a stack along its first dimension, as it was when it was made."""
        stacked = self.dimension is None and name in {"sum", "mean"} and _along_first(args, kwargs)
        return stacked and self.is_unchanged

    def columns_of(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> int | None:
        """Dimension of the columns of a weight by which a call multiplies what is concatenated.

        None for other calls, and where tensors were changed since.
        """
        if name not in _LINEAR or len(args) < 2 or not isinstance(args[1], Tensor):
            return None
        summed, columns, matrices = args[0].ndim - 1, 1, args[1].ndim == 2
        if name.startswith("conv"):
            groups = args[6] if len(args) > 6 else kwargs.get("groups", 1)
            summed, matrices = 1, groups == 1
        elif name != "linear":
            columns = 0
        return columns if matrices and summed == self.dimension and self.is_unchanged else None

    def sizes(self, runs: Sequence[int]) -> list[int]:
        """Of what is concatenated, a run of parts after the other."""
        assert self.dimension is not None
        sizes = iter([part.shape[self.dimension] for part in self.parts])
        return [sum(islice(sizes, run)) for run in runs]

    def has(self, sizes: Sequence[int], dimension: int) -> bool:
        """Whether these are the sizes of its parts, all of which are as they were then."""
        along = self.dimension == dimension and self.is_unchanged
        return along and [part.shape[dimension] for part in self.parts] == [*sizes]

    def in_parts(
        self,
        runs: Sequence[int],
        columns: int,
        call: tuple[Callable[..., Tensor], tuple[Any, ...], dict[str, Any]],
        weights: Join | None,
        watch: AbstractContextManager[Any],
    ) -> Tensor:
        """A linear operation on this, as the sum of operations on its parts.

        Args:
            runs: how many parts each of them reads.
            columns: see :meth:`columns_of`.
            call: function, arguments and keyword arguments of the operation.
            weights: what its weight was joined of, None for one that was not.
            watch: sees these operations.
        """
        assert self.dimension is not None
        function, args, kwargs = call
        parts, sizes = iter(self.parts), self.sizes(runs)
        groups = [[*islice(parts, run)] for run in runs]
        pieces = weights.parts if weights and weights.has(sizes, columns) else None
        without_bias = *[None] * len(args[2:3]), *args[3:]
        named = {name: None if name == "bias" else value for name, value in kwargs.items()}
        with watch:
            read = [torch.cat(group, self.dimension) if group[1:] else group[0] for group in groups]
            first, *others = zip(read, pieces or args[1].split(sizes, columns), strict=True)
            result = function(*first, *args[2:], **kwargs)
            for one in others:
                result = result + function(*one, *without_bias, **named)
            return result


def join_of(
    name: str, args: tuple[Any, ...], kwargs: dict[str, Any], whole: Any, known: Mapping[int, Join]
) -> dict[int, Join]:
    """What a call joins, by the ``id`` of its result; nothing where that is not understood.

    Args:
        name: of the function that is called, one of those that join.
        args: of the call.
        kwargs: of the call.
        whole: its result.
        known: joins by the ``id`` of their result; their parts are parts of this one.
    """
    parts = tensors_in(args[:1], kwargs.get("tensors"))
    if name == "stack":
        apart = len(args) + len(kwargs) == 1 or _along_first(args, kwargs)
        several = len(parts) > 1 and all(t.is_floating_point() for t in parts)
        return {id(whole): Join(parts, whole, None)} if apart and several else {}
    place = kwargs.get("dim", kwargs.get("axis", args[1] if len(args) > 1 else 0))
    dimension = (1 if name == "hstack" else place) % whole.ndim
    if any((part.ndim, part.dtype) != (whole.ndim, whole.dtype) for part in parts):
        return {}
    pieces: list[Tensor] = []
    for part in parts:
        inner = known.get(id(part))
        same = inner is not None and inner.dimension == dimension and inner.is_unchanged
        pieces += inner.parts if inner and same else [part]
    return {id(whole): Join(pieces, whole, dimension)}


def _along_first(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether a call has the first dimension as its only argument beside its tensors."""
    return kwargs.keys() <= {"dim", "axis"} and [*args[1:], *kwargs.values()] == [0]
