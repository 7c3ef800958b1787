"""Calls of torch in a forward pass of any network, seen one by one.

A ``torch.overrides.TorchFunctionMode`` sees every call of torch, whatever the layers of a network
are called, however it holds its parameters and whichever branch it takes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial, reduce
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from convexinit.joins import JOINING, Join, join_of
from convexinit.nested import flat, replace, tensors_in
from convexinit.products import Dependence, Product

GRADIENTS = {"grad", "backward"}


class PassEnded(Exception):  # noqa: N818
    """Ends a forward pass whose rest is of no interest."""


def changes_in_place(name: str) -> bool:
    """Whether a function of this name writes to its first operand."""
    return name in {"__setitem__", "__iadd__", "__imul__", "__isub__", "__itruediv__"} or (
        name.endswith("_") and not name.endswith("__")
    )


def _of_two_operands(args: tuple[Any, ...]) -> tuple[str, tuple[Tensor, Tensor], Tensor] | None:
    """An einsum of three operands, two of which are multiplied entry by entry: a gate, say.

    Args:
        args: of ``torch.einsum``.

    Returns:
        The equation for the product of these two and the third one, those two, and that one.
    """
    operands = flat(args[1:])
    if not (isinstance(args[0], str) and len(operands) == 3 and "->" in args[0]):
        return None
    inputs, _, result = args[0].replace(" ", "").partition("->")
    indices = inputs.split(",")
    for other in range(3):
        one, two = (place for place in range(3) if place != other)
        if indices[one] == indices[two] and operands[one].shape == operands[two].shape:
            equation = f"{indices[one]},{indices[other]}->{result}"
            return equation, (operands[one], operands[two]), operands[other]
    return None


class Watch(TorchFunctionMode):
    """Numbers the calls whose result depends on the inputs, in the order in which they are made.

    Args:
        inputs: how each input of the network depends on its convex arguments.
        constants: numbers of calls whose result is known not to depend on the values of the inputs.
        splits: linear operations on concatenated tensors that are made part by part: how many parts
            each of their operations reads, by the number of the first call.
    """

    def __init__(
        self,
        inputs: Iterable[tuple[Tensor, Dependence]],
        constants: Collection[int] = (),
        splits: Mapping[int, list[int]] | None = None,
    ) -> None:
        super().__init__()
        self._constants = constants
        self._splits = splits or {}
        # Tensors are kept, as numbers (``id``) of those that are gone are used again.
        self._levels = {id(tensor): (tensor, level) for tensor, level in inputs}
        self._joins: dict[int, Join] = {}
        self.count = 0

    def dependence(self, value: Any) -> Dependence:
        """How a tensor depends on the inputs."""
        return self._levels.get(id(value), (value, Dependence.CONSTANT))[1]

    def is_reached(self, value: Any) -> bool:
        """Whether a tensor was made from the inputs, even if only from their shape."""
        return id(value) in self._levels

    def __torch_function__(
        self,
        function: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(function, "__name__", "")
        if name == "einsum" and (fewer := _of_two_operands(args)):
            equation, (first, second), other = fewer
            with self:
                return torch.einsum(equation, first * second, other)
        join = self._joins.get(id(args[0])) if args else None
        if join is not None and join.is_added_up(name, args, kwargs):
            self.on_parts(join.whole)
            with self:
                total = reduce(torch.add, join.parts)
                return total / len(join.parts) if name == "mean" else total
        if join is not None and self.is_mixed(join):
            columns = join.columns_of(name, args, kwargs)
            weights = None if columns is None else self._joins.get(id(args[1]))
            if columns is not None and (runs := self.runs_of(join, columns, args[1], weights)):
                self.on_parts(join.whole)
                return join.in_parts(runs, columns, (function, args, kwargs), weights, self)
        operands = tensors_in(args, kwargs)
        level = max(map(self.dependence, operands), default=Dependence.CONSTANT)
        if level > Dependence.CONTEXT and name in GRADIENTS:
            self.on_gradient(tensors_in(args[:1]))
        output = self.run(function, args, kwargs, level)
        reached = any(map(self.is_reached, operands))
        # Weights may be concatenated too.
        if name in JOINING and (reached or name != "stack"):
            self._joins |= join_of(name, args, kwargs, output, self._joins)
        if not reached:
            return output
        changed = flat(output)
        if changes_in_place(name) and operands:
            changed += [operands[0], operands[0]._base]
        results = [t for t in changed if isinstance(t, Tensor)]
        # All before any is kept, as what is changed in place is an operand too.
        levels = [self.level_of(tensor, function, args, kwargs, level) for tensor in results]
        for tensor, new in zip(results, levels, strict=True):
            self._levels[id(tensor)] = tensor, new
        if results:
            self.on_call(self.count, function, args, kwargs, output)
            self.count += 1
        return output

    def is_mixed(self, join: Join) -> bool:
        """Whether a linear operation on what was joined may have to be made part by part."""
        return self.count in self._splits

    def runs_of(self, join: Join, columns: int, weight: Tensor, weights: Join | None) -> list[int]:
        """How many parts of what was joined a linear operation is to read at once, [] for all.

        Args:
            join: what it reads.
            columns: dimension of its weight by which that is multiplied.
            weight: of the operation.
            weights: what that was joined of, None if it was not.
        """
        return self._splits[self.count]

    def on_parts(self, whole: Tensor) -> None:
        """What was joined is read apart, as where a stack is added up along its first dimension."""

    def on_gradient(self, differentiated: list[Tensor]) -> None:
        """Differentiation inside of the network: what follows are no layers."""
        raise PassEnded

    def run(self, function: Callable[..., Any], args: Any, kwargs: Any, level: Dependence) -> Any:
        """The result of a call."""
        return function(*args, **kwargs)

    def level_of(
        self, tensor: Tensor, function: Any, args: Any, kwargs: Any, level: Dependence
    ) -> Dependence:
        """How a result depends on the inputs, given how the operands do."""
        return Dependence.CONSTANT if self.count in self._constants else level

    def on_call(self, index: int, function: Any, args: Any, kwargs: Any, output: Any) -> None:
        """What is to be done at a call."""


@dataclass(eq=False)
class Call:
    """A call of torch in a forward pass.

    Attributes:
        index: among the calls whose results depend on the inputs, -1 for any other.
        function: that was called.
        args: of the call.
        kwargs: of the call.
        made_by: calls that made tensors in ``args`` and ``kwargs``, by their ``id``.
        output: of the call.
        level: how it depends on the inputs.
        value: the output as it was, with its graph, as it may be changed in place.
        consumers: calls that use the output.
        product: the linear operation that it is, if it is one.
        cut: whether no gradient comes through the input of that.
        shift: zeros that were added to the result of a linear operation, to differentiate by.
        stays: whether the output is the same whatever the inputs are, None if not yet known.
        name: of the function.
        operands: tensors in the arguments.
    """

    index: int
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    made_by: dict[int, Call]
    output: Any = None
    level: Dependence = Dependence.CONSTANT
    value: Tensor | None = None
    consumers: list[Call] = field(default_factory=list)
    product: Product | None = None
    cut: bool = False
    shift: Tensor | None = None
    stays: bool | None = None
    name: str = field(init=False)
    operands: list[Tensor] = field(init=False)

    def __post_init__(self) -> None:
        self.name = str(getattr(self.function, "__name__", ""))
        self.operands = tensors_in(self.args, self.kwargs)

    def leaves_of(self, tensor: Tensor) -> list[Tensor]:
        """Tensors that an operand was computed from and that no call made, without repetition."""
        found: dict[int, Tensor] = {}
        seen: set[int] = set()
        waiting = [(self, tensor)]
        while waiting:
            call, operand = waiting.pop()
            maker = call.made_by.get(id(operand))
            if maker is None or maker is call:
                found.setdefault(id(operand), operand)
            elif id(maker) not in seen:
                seen.add(id(maker))
                waiting += [(maker, one) for one in reversed(maker.operands)]
        return list(found.values())

    def part_of(self, leaf: Tensor, tensor: Tensor) -> Tensor:
        """The part of a leaf that an operand is computed from; the leaf if there is no such view.

        Args:
            leaf: see :meth:`leaves_of`.
            tensor: the operand, that has as many entries as the part.
        """
        if leaf.numel() <= tensor.numel():
            return leaf
        read = [tensor, *(one for call in self.makers_of(tensor) for one in call.operands)]
        return next((t for t in read if t._base is leaf and t.numel() == tensor.numel()), leaf)

    def function_of(self, leaf: Tensor, tensor: Tensor) -> Callable[[Tensor], Tensor]:
        """What an operand is, had a tensor that it was computed from, or a part of that, others."""
        makers = self.makers_of(tensor)

        def result(value: Tensor) -> Tensor:
            outputs: dict[int, Any] = {}

            def renewed(call: Call, operand: Tensor) -> Tensor:
                maker = call.made_by.get(id(operand))
                known = maker is None or maker is call
                if operand is leaf and (known or leaf._base is not None):
                    return value
                if maker is None or known:
                    return operand
                output: Tensor = outputs[id(maker)]
                if isinstance(maker.output, (list, tuple)):
                    return output[[id(part) for part in maker.output].index(id(operand))]
                return output

            for maker in makers:
                renew = partial(renewed, maker)
                outputs[id(maker)] = _made_again(maker.function, maker.args, maker.kwargs, renew)
            return renewed(self, tensor)

        return result

    def makers_of(self, tensor: Tensor) -> list[Call]:
        """Calls that an operand was computed by, each once and after those that it builds on."""
        ordered: dict[int, Call] = {}
        waiting = self._makers_missing([tensor], ordered)
        while waiting:
            call = waiting[-1]
            if missing := call._makers_missing(call.operands, ordered):
                waiting += missing
            else:
                ordered[id(waiting.pop())] = call
        return list(ordered.values())

    def _makers_missing(self, operands: list[Tensor], known: Collection[int]) -> list[Call]:
        """Calls that made some operands of this one, but those that are known by their ``id``."""
        makers = [self.made_by.get(id(operand)) for operand in operands]
        return [one for one in makers if one and one is not self and id(one) not in known]


def following(call: Call) -> Iterator[Call]:
    """Calls that a result takes part in, directly or through others, each once."""
    return _reached(call, lambda one: one.consumers)


def preceding(call: Call) -> Iterator[Call]:
    """Calls that take part in the operands of a call, directly or through others, each once."""
    return _reached(call, lambda one: one.made_by.values())


def _reached(call: Call, neighbours: Callable[[Call], Iterable[Call]]) -> Iterator[Call]:
    seen: set[int] = set()
    waiting = list(neighbours(call))
    while waiting:
        one = waiting.pop()
        if id(one) not in seen:
            seen.add(id(one))
            yield one
            waiting += neighbours(one)


def leads_only_to(call: Call, end: Call) -> bool:
    """Whether a result takes part in ``end``, and in nothing that ``end`` is not made of alone."""
    while call is not end and len(call.consumers) == 1:
        (call,) = call.consumers
    return call is end


def calls_between(call: Call, end: Call) -> Iterator[Call]:
    """The calls that hand a result on to ``end``, that included, each to a single next one."""
    while call is not end:
        (call,) = call.consumers
        yield call


class Way:
    """Calls that lead from operations to another call, in a pass at hand, to be made once more.

    Args:
        starts: the operations, as they were traced.
        end: the last of the calls.
    """

    def __init__(self, starts: Collection[Call], end: Call) -> None:
        after = {id(call) for start in starts for call in following(start)}
        self._starts = [start.index for start in starts]
        self._between = sorted(c.index for c in (end, *preceding(end)) if id(c) in after)
        self._indices = {*self._starts, *self._between}
        self._made: dict[int, tuple[Callable[..., Any], Any, Any, Any]] = {}

    def see(
        self, index: int, function: Callable[..., Any], args: Any, kwargs: Any, output: Any
    ) -> None:
        """Keep a call of the pass if it is one of these."""
        if index in self._indices:
            self._made[index] = function, args, kwargs, output

    @torch.no_grad()
    def linear(self, results: Collection[Tensor], others: Collection[Tensor]) -> Tensor:
        """By how much the end is larger for some results of the operations than for others."""
        return self._handed_on(results) - self._handed_on(others)

    def _handed_on(self, results: Collection[Tensor]) -> Tensor:
        """The end for these results; what is written to in place may add a constant to it."""
        new: dict[int, Any] = {}
        for index, result in zip(self._starts, results, strict=True):
            new[id(self._made[index][-1])] = made = result.clone()  # a call may change it
        for index in self._between:
            function, args, kwargs, output = self._made[index]
            renew = partial(_renewed, new=new, dtype=result.dtype)
            made = _made_again(function, args, kwargs, renew)
            output = args[0] if output is None else output
            new |= {id(old): one for old, one in zip(flat(output), flat(made), strict=True)}
        return made


def _renewed(tensor: Tensor, new: Mapping[int, Any], dtype: torch.dtype) -> Tensor:
    chosen: Tensor = new.get(id(tensor), tensor)
    if not chosen.is_floating_point():
        return chosen
    # Some functions take tensors of one type alone.
    return chosen.to(torch.promote_types(chosen.dtype, dtype))


def _made_again(
    function: Callable[..., Any], args: Any, kwargs: Any, renew: Callable[[Tensor], Tensor]
) -> Any:
    """What a call gives on other tensors; of an assignment to a part, what is assigned to."""
    # What a call changes in place is the network's own, and is wanted again.
    in_place = changes_in_place(getattr(function, "__name__", ""))

    def other(tensor: Tensor) -> Tensor:
        return renew(tensor).clone() if in_place else renew(tensor)

    args = replace(args, other)
    output = function(*args, **replace(kwargs, other))
    return args[0] if output is None else output
