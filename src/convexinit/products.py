"""Linear operations among the calls of torch."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import cached_property, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from convexinit.nested import flat

_CONVOLUTIONS = {"conv1d", "conv2d", "conv3d"}
_TRANSPOSED = {f"conv_transpose{n}d" for n in (1, 2, 3)}
_PRODUCTS = {"matmul", "__matmul__", "__rmatmul__", "mm", "bmm", "mv", "einsum"}
_INNER_PRODUCTS = {"inner", "linalg_vecdot"}  # over the last dimension of both operands
_SUMS_OF_PRODUCTS = {"addmm", "baddbmm", "addmm_", "baddbmm_"}


class Dependence(IntEnum):
    """How a tensor depends on the convex arguments of a network.

    Those that do not, depend on the other inputs (CONTEXT) or on none (CONSTANT).
    """

    CONSTANT = 0
    CONTEXT = 1
    AFFINE = 2
    CURVED = 3


@dataclass(eq=False)
class Product:
    """The bilinear part of a linear operation: a function of its input and its weight.

    Attributes:
        name: of the function that was called.
        input: the operand that depends on the inputs of the network.
        weight: the other operand.
        function: ``input, weight -> result`` without the operation's own bias.
        units: dimension of the units in the result, None for one unit without a dimension.
        features: dimension of the units' inputs in ``input``.
        transposed: whether the weight is stored as ``[in, out]``.
        expanded: the operand of the call, of which the weight is one matrix; None if it is that.
        groups: of a convolution.
    """

    name: str
    input: Tensor
    weight: Tensor
    function: Callable[[Tensor, Tensor], Tensor]
    units: int | None
    features: int
    transposed: bool = False
    expanded: Tensor | None = None
    groups: int = 1

    @property
    def is_convolution(self) -> bool:
        """Whether the weight is a kernel."""
        return self.name in _CONVOLUTIONS | _TRANSPOSED

    @cached_property
    @torch.no_grad()
    def has_members(self) -> bool:
        """Whether the first dimension of the result is not that of the rows, but of the weight.

        As in an ensemble, ``[members, rows, in]`` by ``[members, in, out]``: rows of ones then
        give something else where a member has other weights.
        """
        if self.is_convolution or self.weight.ndim < 3:
            return False
        weight = torch.ones_like(self.weight)
        weight[0] = 0
        result = self.function(torch.ones_like(self.input), weight)
        return bool((result != result[:1]).any())

    @cached_property
    def _of_units(self) -> tuple[int, ...]:
        """Dimensions of the units in the result; every member of an ensemble has its own."""
        return (0,) * self.has_members + (() if self.units is None else (self.units,))

    def units_in(self, shape: torch.Size) -> int:
        """Number of units in a shape of the result."""
        return math.prod(shape[dimension] for dimension in self._of_units)

    def by_unit(self, result: Tensor) -> Tensor:
        """``[rows and positions, units]`` from anything in the shape of the result."""
        own, units = self._of_units, self.units_in(result.shape)
        if own != (-1,):
            result = result.movedim(own, tuple(range(-len(own), 0)))
        return result.reshape(-1, units)

    def fan_in(self, result: Tensor) -> int:
        """How many inputs a unit sums, within the image; ``result`` is that of the operation."""
        if self.is_convolution:
            return self.weight.numel() // self.units_in(result.shape)
        inputs, weight = (
            torch.ones(t.shape, dtype=torch.float32, device="cpu")
            for t in (self.input, self.weight)
        )
        return int(self.function(inputs, weight).max())

    def sum_inputs(self, values: Tensor, weight: Tensor) -> Tensor:
        """``[rows and positions, units]`` sums of the inputs of a unit, one column if all agree."""
        if self.name == "einsum" or self.is_convolution:
            return self.by_unit(self.function(values, torch.ones_like(weight)))
        return values.sum(self.features).reshape(-1, 1)

    def from_units(self, signal: Tensor, shape: torch.Size) -> Tensor:
        """The inverse of :meth:`by_unit`, in a shape of the result."""
        own = self._of_units
        if own == (-1,):
            return signal.reshape(shape)
        last = tuple(range(-len(own), 0))
        moved = torch.empty(shape, device="meta").movedim(own, last).shape
        return signal.reshape(moved).movedim(last, own)


def as_product(
    function: Callable[..., Any],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    dependence: Callable[[Any], int],
) -> Product | None:
    """The linear operation that a call is; None for any other call.

    Args:
        function: that was called.
        args: of the call.
        kwargs: of the call.
        dependence: of a tensor, on the inputs of the network.
    """
    name = getattr(function, "__name__", "")
    if name == "linear" or name in _CONVOLUTIONS | _TRANSPOSED:
        names = ("input", "weight", "bias", "stride", "padding")
        named = {**dict(zip(names, args, strict=False)), **kwargs}
        rest, options = args[3:], {k: v for k, v in kwargs.items() if k not in names[:3]}
        if name == "linear":
            return Product(name, named["input"], named["weight"], F.linear, -1, -1)
        channels = 1 - named["weight"].ndim
        return Product(
            name, named["input"], named["weight"],
            lambda x, w: function(x, w, None, *rest, **options), channels, channels,
            groups=args[6] if len(args) > 6 else kwargs.get("groups", 1),
        )  # fmt: skip
    plain: Callable[..., Tensor]
    if (
        name in _INNER_PRODUCTS
        and len(args) == 2
        and kwargs.get("dim", -1) == -1
        and dependence(args[0]) > dependence(args[1])
    ):
        units = None if args[1].ndim == 1 else -1
        return Product(name, args[0], args[1], function, units, -1)
    if name in _SUMS_OF_PRODUCTS:
        by_name = [kwargs[key] for key in ("mat1", "batch1", "mat2", "batch2") if key in kwargs]
        operands, prefix = [*args[1:3], *by_name], ()
        plain = partial(_scaled_matmul, kwargs.get("alpha", 1))
    elif name == "einsum" and isinstance(args[0], str):
        operands, plain, prefix = flat(args[1:]), torch.einsum, args[:1]
    elif name == "tensordot" and kwargs.get("dims", args[-1]) == 1 and args[1].ndim < 3:
        operands, plain, prefix = list(args[:2]), torch.matmul, ()
    elif name in _PRODUCTS - {"einsum"}:
        operands, plain, prefix = [*args, *kwargs.values()], torch.matmul, ()
        if name == "__rmatmul__":
            operands.reverse()
    else:
        return None
    if len(operands) != 2 or not all(isinstance(operand, Tensor) for operand in operands):
        return None
    first, second = operands
    if dependence(first) == dependence(second):
        return None
    expanded = None
    if not prefix and min(dependence(first), dependence(second)) == Dependence.CONSTANT:
        place = int(dependence(first) > dependence(second))
        if (matrix := one_matrix(operands[place])) is not operands[place]:
            expanded, operands[place] = operands[place], matrix
            first, second = operands
    if dependence(first) > dependence(second):
        units, features = None if second.ndim == 1 else -1, -1
        if prefix:
            units, features = _dimensions(prefix[0], first, second)
        stored = not prefix and second.ndim > 1
        return Product(
            name, first, second, lambda x, w: plain(*prefix, x, w), units, features, stored,
            expanded,
        )  # fmt: skip
    features = -min(2, second.ndim)
    units = None if first.ndim == 1 else features
    if prefix:
        units, features = _dimensions(prefix[0], second, first, weight_first=True)
    return Product(
        name, second, first, lambda x, w: plain(*prefix, w, x), units, features, expanded=expanded
    )


def _scaled_matmul(scale: float, first: Tensor, second: Tensor) -> Tensor:
    product = torch.matmul(first, second)
    return product if scale == 1 else scale * product


def one_matrix(weight: Tensor) -> Tensor:
    """The matrix of a weight that is expanded over the rows, as in ``w.expand(len(x), -1, -1)``."""
    while weight.ndim > 2 and weight.stride(0) == 0:
        weight = weight[0]
    return weight


def _dimensions(
    equation: str, inputs: Tensor, weight: Tensor, weight_first: bool = False
) -> tuple[int | None, int]:
    """Of an einsum: the units in its result, None for one unit, and what they sum of the input."""
    operands, arrow, result = equation.replace(" ", "").partition("->")
    of_input, of_weight = operands.split(",")[:: -1 if weight_first else 1]
    if not arrow:
        letters = of_input + of_weight
        result = "..." * ("." in letters) + "".join(
            sorted(letter for letter in set(letters) - {"."} if letters.count(letter) == 1)
        )

    def place(letter: str, term: str, dimensions: int) -> int:
        """From the end; what ``...`` stands for comes between."""
        first, _, last = term.partition("...")
        return (
            last.index(letter) - len(last) if letter in last else first.index(letter) - dimensions
        )

    rest = max(
        tensor.ndim - len(term.replace("...", "")) if "." in term else 0
        for term, tensor in ((of_input, inputs), (of_weight, weight))
    )
    kept = [letter for letter in result if letter in of_weight]
    own = [letter for letter in kept if letter not in of_input] or kept
    units = None
    if own:
        shape = len(result.replace("...", "")) + rest * ("." in result)
        units = -1 if own[-1] == "." else place(own[-1], result, shape)
    summed = [x for x in of_input if x in of_weight and x not in result and x != "."]
    return units, place(summed[-1], of_input, inputs.ndim) if summed else -1
