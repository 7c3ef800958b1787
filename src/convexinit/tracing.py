"""How what a network computes depends on its inputs.

That is found by probing the functions that are called with random values, so that it does not
matter whether the signal of the network explodes, vanishes or hardly bends.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cached_property, partial
from itertools import groupby, permutations
from typing import Any

import torch
from torch import Tensor, nn

from convexinit.calls import (
    GRADIENTS,
    Call,
    PassEnded,
    Watch,
    changes_in_place,
    preceding,
)
from convexinit.joins import JOINING, Join
from convexinit.nested import flat, replace, tensors_in
from convexinit.positivity import looks_positive
from convexinit.products import Dependence, as_product, one_matrix

SELECTIONS = {
    "__getitem__", "narrow", "select", "split", "chunk", "index_select", "unbind", "tensor_split",
    "split_with_sizes",
}  # fmt: skip
_FAR = 1024.0  # times random numbers are beyond most bounds
_LARGEST_DRAW = 4.0  # about the largest of some thousand standard normal numbers
# What may be read of a tensor without reading its numbers.
_FACTS = {
    "size", "dim", "ndimension", "numel", "nelement", "stride", "__len__", "__get__",
    "is_floating_point", "is_complex", "is_contiguous", "get_device", "element_size", "__hash__",
}  # fmt: skip
_OF_A_SHAPE = {"empty_like", "new_empty", "rand_like", "randn_like"}  # with values from nowhere
# Functions of one operand that bend it near zero, unless a parameter of theirs is small or large.
_BENT = {"relu", "relu_", "softplus", "exp", "elu", "celu", "sigmoid", "tanh", "square", "abs"}
SUMS = {"add", "__add__", "__radd__", "add_", "__iadd__", "sub", "__sub__", "sub_", "__isub__"}
_LINEAR = JOINING | {"transpose", "permute", "movedim", "t", "expand", "neg", "__neg__"}
NEGATIONS = {"neg", "__neg__", "rsub", "__rsub__"}
RESHAPES = {"view", "reshape", "squeeze", "unsqueeze", "flatten", "contiguous", "clone"}
MULTIPLICATIONS = {"mul", "__mul__", "__rmul__", "mul_", "__imul__", "multiply"}
DIVISIONS = {"div", "__truediv__", "div_", "__itruediv__"}


class Trace(Watch):
    """Records the calls of a forward pass on a few rows, and which of them are linear operations.

    The graph of every linear operation with a curved input is cut there, so that gradients of what
    follows are those of one layer.

    Args:
        inputs: as for :class:`Watch`; the rows of each are two halves that differ in the convex
            arguments alone.
        rows: in each half.

    Attributes:
        inputs: of the network.
        calls: whose results were made from the inputs.
        differentiated: what the network differentiates first; None if it does not. Calls that do
            not lead to it are left out then.
        lost: name of the first call in which a tensor of unknown origin meets others, "" for none.
        differentiates: whether anything is differentiated, which needs gradients.
        entered: calls that made what modules of interest were called with, each time.
        splits: see :class:`Watch`.
        reads: whether numbers that depend on the inputs, or on parameters, leave the tensors, as
            for a branch.
    """

    def __init__(self, inputs: Iterable[tuple[Tensor, Dependence]], rows: int) -> None:
        inputs = list(inputs)
        super().__init__(inputs)
        self.splits: dict[int, list[int]] = {}
        self.inputs = [tensor for tensor, _ in inputs]
        self.rows = rows
        self.calls: list[Call] = []
        self.differentiated: Tensor | None = None
        self.lost = ""
        self.differentiates = False
        self.entered: dict[nn.Module, list[list[Call]]] = {}
        self.reads = False
        self._lost: set[int] = set()
        self._passed: set[int] = set()  # joins that are read apart, and used in no other way
        self._makers: dict[int, Call] = {}
        self._kept: list[Any] = []
        self._draws = torch.Generator().manual_seed(0)
        self._affine: dict[Any, bool] = {}  # what is known, by question
        self._pairs: dict[tuple[torch.Size, int], tuple[Tensor, Tensor]] = {}

    @property
    def returns_gradient(self) -> bool:
        """Whether the network differentiates itself."""
        return self.differentiated is not None

    def enter(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        """Note what a module is called with, as a hook before its calls."""
        read = [self._makers[id(t)] for t in tensors_in(args, kwargs) if id(t) in self._makers]
        self.entered.setdefault(module, []).append(read)

    @property
    def differentiated_rows(self) -> Tensor | None:
        """What the network differentiates; where it adds rows up for that, before."""
        maker = self._makers.get(id(self.differentiated))
        if maker is None or maker.name not in {"sum", "mean"} or maker.output.ndim:
            return self.differentiated
        return maker.operands[0]

    def on_gradient(self, differentiated: list[Tensor]) -> None:
        """See :meth:`Watch.on_gradient`."""
        self.differentiated = differentiated[0]
        ends = [self._makers[id(t)] for t in differentiated if id(t) in self._makers]
        parts = {id(call) for end in ends for call in (end, *preceding(end))}
        self.calls = [call for call in self.calls if id(call) in parts]
        for call in self.calls:
            call.consumers = [user for user in call.consumers if id(user) in parts]
        raise PassEnded

    def is_mixed(self, join: Join) -> bool:
        """Whether some of the parts bend, and others do not."""
        levels = set(map(self.dependence, join.parts)) - {Dependence.CONSTANT}
        return Dependence.CURVED in levels and len(levels) > 1

    def runs_of(self, join: Join, columns: int, weight: Tensor, weights: Join | None) -> list[int]:
        """Parts that bend are read apart from others where the weights of these are free.

        That is, where the network does not make these non-negative, and they do not look as if they
        were meant to be. For the arguments see :meth:`Watch.runs_of`.
        """
        levels = map(self.dependence, join.parts)
        kinds, runs = zip(*((kind, len([*run])) for kind, run in groupby(levels)), strict=True)
        sizes = join.sizes(runs)
        if weights is None or not weights.has(sizes, columns):
            raw = weight if weight._base is None else weight._base
            pieces = zip(kinds, weight.split(sizes, columns), strict=True)
            free = [piece for kind, piece in pieces if kind != Dependence.CURVED]
            if not (raw.is_leaf and raw.requires_grad) or all(map(looks_positive, free)):
                return []
        self.splits[self.count] = [*runs]
        return [*runs]

    def on_parts(self, whole: Tensor) -> None:
        """What was joined goes on to the sum, and to the whole only where that has other uses."""
        call = self._makers[id(whole)]
        if not call.consumers:
            for maker in _each(call.made_by.values()):
                maker.consumers = [user for user in maker.consumers if user is not call]
            self._passed.add(id(call))

    def run(self, function: Callable[..., Any], args: Any, kwargs: Any, level: Dependence) -> Any:
        """Make the call and record it."""
        makers: dict[int, Call] = {}
        call = Call(self.count, function, args, kwargs, makers)
        self.differentiates |= call.name in GRADIENTS
        operands = call.operands
        makers |= {id(t): self._makers[id(t)] for t in operands if id(t) in self._makers}
        if not (reached := any(map(self.is_reached, operands))):
            call.index = -1
        call.product = product = as_product(function, args, kwargs, self.dependence)
        self._kept.append(operands)
        lost = [t for t in operands if self.is_lost(t)]
        if lost and any(t.requires_grad and not self.is_lost(t) for t in operands):
            self.lost = self.lost or call.name
        cut: dict[int, Tensor] = {}
        curved = product is not None and self.dependence(product.input) == Dependence.CURVED
        if product and curved and self.is_weighted(call):
            cut[id(product.input)] = _tame(product.input)
            call.cut = True
        renewed = [replace(a, lambda t: cut.get(id(t), t)) for a in (args, kwargs)] if cut else None
        output = function(*renewed[0], **renewed[1]) if renewed else function(*args, **kwargs)
        if product and reached and isinstance(output, Tensor) and not changes_in_place(call.name):
            call.shift = torch.zeros_like(output, requires_grad=True)
            output = output + call.shift
        made = [t for t in flat(output) if isinstance(t, Tensor)]
        if changes_in_place(call.name) and operands:
            made += [operands[0]] + ([] if operands[0]._base is None else [operands[0]._base])
        if not made:
            self.reads |= call.name not in _FACTS and (
                level > Dependence.CONSTANT
                or any(leaf.requires_grad for t in operands for leaf in call.leaves_of(t))
            )
            return output
        for tensor in made:
            self._makers[id(tensor)] = call
        self._lost |= {id(tensor) for tensor in made if lost}
        for maker in _each(makers.values()):
            if id(maker) in self._passed:
                self._passed.remove(id(maker))
                for one in _each(maker.made_by.values()):
                    one.consumers.append(maker)
            maker.consumers.append(call)
        call.output = output
        if product and product.expanded is not None:
            makers[id(product.weight)] = Call(-1, one_matrix, (product.expanded,), {}, makers)
        if reached:
            call.value = output.clone() if isinstance(output, Tensor) else None
            self.calls.append(call)
        self._kept.append(made)
        return output

    def is_weighted(self, call: Call) -> bool:
        """Whether a call is a linear operation with a weight made from parameters or inputs.

        One with a fixed weight is a function of its input like any other.
        """
        if call.product is None:
            return False
        weight = call.product.weight
        return weight.requires_grad or self.dependence(weight) > Dependence.CONSTANT

    def sees(self, result: Any) -> bool:
        """Whether all calls that lead to a result were seen, whatever inputs and parameters are."""
        return self.is_reached(result) and not self._lost and not self.reads

    @cached_property
    def users(self) -> dict[int, list[Call]]:
        """Calls that read what is made of a tensor alone, by ``id`` of the tensor."""
        users: dict[int, list[Call]] = {}
        for call in self.calls:
            operands = [t for t in call.operands if not self.dependence(t)]
            leaves = {id(leaf): leaf for operand in operands for leaf in call.leaves_of(operand)}
            for number, leaf in leaves.items():
                if not self.dependence(leaf):  # not the input whose type it is brought to
                    users.setdefault(number, []).append(call)
        return users

    def leading_to(self, ends: Collection[Call]) -> dict[int, set[int]]:
        """Those of some calls, by ``id``, whose gradients may come to a call, by its ``id``."""
        known = {id(end) for end in ends}
        leading: dict[int, set[int]] = {}
        for call in reversed(self.calls):
            leading[id(call)] = {id(call)} & known
            for user in call.consumers:
                if not (user.cut and _is_input_alone(call, user)):
                    leading[id(call)] |= leading[id(user)]
        return leading

    def end_after(self, starts: Collection[Call], result: Any) -> Call | None:
        """The last call that makes a result of those of some calls, and of no convex inputs beside.

        Args:
            starts: calls whose results vary with the inputs.
            result: of the network. What is added to it later is left out. None for what is no more
                than one of these, reshaped.
        """
        made = {id(call) for call in starts}
        first = min((call.index for call in starts), default=0)
        for call in self.calls:
            if call.index > first and not self.is_weighted(call):
                makers = self._moving_makers(call)
                if makers and all(maker is not None and id(maker) in made for maker in makers):
                    made.add(id(call))
        ends: dict[int, Call] = {}
        waiting = [self._makers.get(id(result))]
        while waiting:
            call_before = waiting.pop()
            if call_before is None:
                continue
            if id(call_before) in made and not self._adds_context(call_before):
                ends[id(call_before)] = call_before
            elif call_before.name in SUMS | RESHAPES:
                waiting += self._moving_makers(call_before)
        if len(ends) != 1:
            return None
        (end,) = ends.values()
        before: Call | None = end
        while before is not None and before.name in RESHAPES and before not in starts:
            (before,) = self._moving_makers(before)
        return None if before in starts else end

    def is_affine_since(self, starts: Collection[Call], end: Call) -> bool:
        """Whether a call of :meth:`end_after` is affine in the results that it starts with.

        A product with a function of other inputs is not.
        """
        known = {id(call) for call in starts}
        waiting: list[Call | None] = [end]
        while waiting:
            call = waiting.pop()
            if call is None or id(call) in known:
                continue
            known.add(id(call))
            # What is written to in place may have been constant before.
            moving = [
                t
                for t in self._moving(call)
                if id(t) not in call.made_by or call.made_by[id(t)].level
            ]
            if call.name != "__setitem__" and not self.is_affine(call, moving):
                return False
            waiting += self._moving_makers(call)
        return True

    def _adds_context(self, call: Call) -> bool:
        """Whether a call is a sum with a function of other inputs."""
        return call.name in SUMS and any(
            self.dependence(t) == Dependence.CONTEXT for t in call.operands
        )

    def _moving_makers(self, call: Call) -> list[Call | None]:
        """What made the operands of a call that depend on convex inputs, None for an input."""
        makers = [
            call.made_by.get(id(t))
            for t in call.operands
            if self.dependence(t) >= Dependence.AFFINE
        ]
        return [maker for maker in makers if maker is None or maker.level >= Dependence.AFFINE]

    def constants(self) -> set[int]:
        """Numbers of calls whose result does not depend on the values of the inputs."""
        return {c.index for c in self.calls if c.stays and c.level == Dependence.CONSTANT}

    def is_lost(self, value: Any) -> bool:
        """Whether a tensor comes from what makes no calls, such as ``torch.vmap``."""
        if not isinstance(value, Tensor):
            return False
        if id(value) in self._lost:
            return True
        known = id(value) in self._makers or self.is_reached(value)
        return value.grad_fn is not None and not known

    def level_of(
        self, tensor: Tensor, function: Any, args: Any, kwargs: Any, level: Dependence
    ) -> Dependence:
        """Affine where the function is, on affine operands; context where the halves agree.

        Constant is what does not change with the inputs: zeros in their shape, numbers that are
        brought to their type.
        """
        call = self.calls[-1]
        if level and not call.product and self._is_constant(call, tensor):
            for maker in _each(call.made_by.values()):  # of which it reads the shape alone
                maker.consumers = [user for user in maker.consumers if user is not call]
            return Dependence.CONSTANT
        if level != Dependence.AFFINE:
            call.level = max(call.level, level)
            return level
        if call.name in SELECTIONS:
            first, second = tensor[: self.rows], tensor[self.rows :]
            if first.shape == second.shape and torch.equal(first, second):
                level = Dependence.CONTEXT
        elif not call.product:
            moving = [t for t in call.operands if self.dependence(t) == level]
            if call.name != "__setitem__" and not self.is_affine(call, moving):
                level = Dependence.CURVED
        call.level = max(call.level, level)
        return level

    @torch.no_grad()
    def _is_constant(self, call: Call, tensor: Tensor) -> bool:
        """Whether a result does not depend on the values of the inputs."""
        if call.name in _OF_A_SHAPE:
            call.stays = True
            return True
        moving = self._moving(call)
        # Most results are known to depend on them without another call.
        known = changes_in_place(call.name) or _leads_to(tensor, moving)
        if known and (tensor.ndim == 0 or _differs(tensor)):
            return False
        if call.stays is None:
            call.stays = self._stays(call, moving)
        return call.stays

    def _moving(self, call: Call) -> list[Tensor]:
        """Operands that depend on the inputs."""
        return [t for t in call.operands if self.dependence(t)]

    def _stays(self, call: Call, moving: list[Tensor]) -> bool:
        """Whether the output of a call is the same, whatever some of its operands are."""
        now = [t for t in flat(call.output) if isinstance(t, Tensor)]
        if not all(
            _all_equal(now, self._results_at(call, moving, point)) for point in (at_first, _at_far)
        ):
            return False
        # A gate that is zero now makes no constant.
        places = {id(tensor) for tensor in moving}
        others = {
            id(t): self._pair(t.shape, place)[0].to(t)
            for place, t in enumerate(call.operands)
            if id(t) not in places and t.is_floating_point()
        }
        near = self._results_at(call, moving, at_first, others)
        far = self._results_at(call, moving, _at_far, others)
        return near is not None and _all_equal(near, far)

    @torch.no_grad()
    def is_affine(self, call: Call, moving: list[Tensor]) -> bool:
        """Whether the function of a call maps midpoints of some of its operands to midpoints."""
        if call.name in SUMS | RESHAPES or _scales(call, moving):
            return True
        numbers = (v for v in (*call.args[1:], *call.kwargs.values()) if not isinstance(v, bool))
        if call.name in _BENT and all(
            isinstance(v, (int, float)) and 1 <= v <= 20 for v in numbers
        ):
            return False
        if not all(t.is_floating_point() or t.is_complex() for t in moving):
            return False  # truth values and whole numbers jump
        if call.name in _LINEAR:
            return True
        size = _size_of(moving)
        if (question := _question(call, moving, size)) not in self._affine:
            self._affine[question] = self._keeps_midpoints(call, moving, 1.0) and (
                # What is as good as a line near zero may bend where the network uses it.
                size <= 1.0 or self._keeps_midpoints(call, moving, size)
            )
        return self._affine[question]

    def _keeps_midpoints(self, call: Call, moving: list[Tensor], size: float) -> bool:
        """Whether midpoints are mapped to midpoints, between points of a size."""
        first, second, middle = (
            self.result_at(call, moving, partial(_times, size, point))
            for point in (at_first, at_second, at_middle)
        )
        if first is None or second is None or middle is None:
            return False
        if torch.equal(first, second) and size < _FAR:
            # Flat here, as within a bound, but not everywhere.
            return self._keeps_midpoints(call, moving, _FAR)
        gap = (middle - (first + second) / 2).abs().max()
        tolerance = min(torch.finfo(moving[0].dtype).eps ** 0.5, 0.02)
        return bool(gap <= tolerance * torch.maximum(first.abs(), second.abs()).max())

    @torch.no_grad()
    def is_elementwise(self, call: Call, operand: Tensor) -> bool:
        """Whether every entry of a result depends on the same entry of an operand alone."""
        if call.name in SUMS | RESHAPES or (
            _scales(call, [operand])
            and call.value is not None
            and call.value.shape == operand.shape
        ):
            return True
        chosen = torch.rand(operand.shape, generator=self._draws, device="cpu") < 0.5
        changed = self._changed_with(call, operand, chosen)
        return changed is not None and _lie_within(changed, chosen.flatten())

    @torch.no_grad()
    def is_row_by_row(self, call: Call, operand: Tensor) -> bool:
        """Whether every row of a result depends on the same row of an operand alone."""
        rows, value = 2 * self.rows, call.value
        if (
            value is None
            or 0 in (value.ndim, operand.ndim)
            or not len(value) == rows == len(operand)
        ):
            return False
        chosen = torch.arange(rows, device="cpu") % 2 == 1
        changed = self._changed_with(call, operand, chosen.reshape(rows, *[1] * (operand.ndim - 1)))
        return changed is not None and _lie_within(changed.reshape(rows, -1).any(1), chosen)

    def _changed_with(self, call: Call, operand: Tensor, chosen: Tensor) -> Tensor | None:
        """Which entries of a result change when chosen entries of an operand grow."""
        before = self.result_at(call, [operand], at_first)
        # They all grow, so that the change of a sum is not lost where it is rounded.
        after = self.result_at(call, [operand], lambda a, b: a + chosen * b.abs())
        return None if before is None or after is None else before.ne(after).cpu()

    def order_of(self, call: Call, operand: Tensor) -> tuple[int, ...] | None:
        """The order that a call brings the dimensions of an operand into; None for other calls."""
        numbers = torch.arange(operand.numel(), device=operand.device).reshape(operand.shape)
        args, kwargs = replace((call.args, call.kwargs), lambda t: numbers if t is operand else t)
        try:
            moved = call.function(*args, **kwargs)
        except Exception:
            return None
        orders = permutations(range(operand.ndim)) if isinstance(moved, Tensor) else ()
        return next((o for o in orders if torch.equal(moved, numbers.permute(o))), None)

    @torch.no_grad()
    def degree(self, call: Call, moving: Tensor) -> float:
        """Degree of a function that is homogeneous where its operand is large; else near 1 or 0."""
        once = self.result_at(call, [moving], lambda a, _: 8 * a)
        twice = self.result_at(call, [moving], lambda a, _: 16 * a)
        if once is None or twice is None:
            return 1.0
        return float((twice.norm() / once.norm().clamp_min(1e-30)).log2())

    def result_at(
        self,
        call: Call,
        moving: list[Tensor],
        point: Callable[[Tensor, Tensor], Tensor],
        given: Mapping[int, Tensor] | None = None,
    ) -> Tensor | None:
        """What a call gives on other operands, flattened; None if that is no number.

        Args:
            call: any.
            moving: operands that are random.
            point: what they are, given two random tensors of their shape.
            given: other values of other operands, by ``id``; the rest is as it was.
        """
        results = self._results_at(call, moving, point, given)
        if not results or not all(r.is_floating_point() for r in results):
            return None
        # In float64 what is rounded to float32 would not pass as affine.
        precise = [r.to(torch.promote_types(r.dtype, torch.float32)) for r in results]
        return torch.cat([r.flatten() for r in precise])

    def _results_at(
        self,
        call: Call,
        moving: list[Tensor],
        point: Callable[[Tensor, Tensor], Tensor],
        given: Mapping[int, Tensor] | None = None,
    ) -> list[Tensor] | None:
        """The tensors that a call gives on other operands; None if it fails or gives others."""
        places = {id(tensor): place for place, tensor in enumerate(moving)}

        def renew(tensor: Tensor) -> Tensor:
            if given and id(tensor) in given:
                return given[id(tensor)].detach().clone()
            if id(tensor) not in places:
                return tensor.detach().clone()
            chosen = point(*self._pair(tensor.shape, places[id(tensor)]))
            return chosen.to(tensor, copy=True)  # the call may change it

        args, kwargs = replace(call.args, renew), replace(call.kwargs, renew)
        try:
            results = flat(call.function(*args, **kwargs))
        except Exception:
            return None
        return results if all(isinstance(r, Tensor) for r in results) else None

    def _pair(self, shape: torch.Size, place: int) -> tuple[Tensor, Tensor]:
        """The same two random operands for every operand of this shape in this place."""
        if (shape, place) not in self._pairs:
            self._pairs[shape, place] = self._draw(shape), self._draw(shape)
        return self._pairs[shape, place]

    def _draw(self, shape: torch.Size) -> Tensor:
        """Random numbers that all types hold exactly, with their midpoints; none is zero.

        Odd multiples of 1/32 below 8: midpoints are multiples of 1/32 and have no more than the
        eight digits of bfloat16. A midpoint that is rounded is not the middle in float64.
        """
        steps = (
            (16 * torch.randn(shape, generator=self._draws, device="cpu")).floor().clamp(-128, 127)
        )
        return (2 * steps + 1) / 32


def _each(calls: Iterable[Call]) -> Iterable[Call]:
    """Calls without repetition."""
    return {id(call): call for call in calls}.values()


def at_first(a: Tensor, _: Tensor) -> Tensor:
    """The first of two points."""
    return a


def at_second(_: Tensor, b: Tensor) -> Tensor:
    """The second of two points."""
    return b


def at_middle(a: Tensor, b: Tensor) -> Tensor:
    """The point between two."""
    return (a + b) / 2


def _at_far(_: Tensor, b: Tensor) -> Tensor:
    """A point beyond bounds that hold everything near zero."""
    return _FAR * b


def _times(size: float, point: Callable[[Tensor, Tensor], Tensor], a: Tensor, b: Tensor) -> Tensor:
    """A multiple of a point."""
    return size * point(a, b)


def _is_input_alone(call: Call, user: Call) -> bool:
    """Whether a linear operation has no operand but its input from a call."""
    assert user.product is not None
    operands = user.operands
    return all(t is user.product.input for t in operands if user.made_by.get(id(t)) is call)


def _scales(call: Call, moving: list[Tensor]) -> bool:
    """Whether a call multiplies a single one of its operands by others, or divides it by them."""
    known = call.name in MULTIPLICATIONS | DIVISIONS and "rounding_mode" not in call.kwargs
    if len(moving) != 1 or not known:
        return False
    operands = call.operands
    places = [place for place, operand in enumerate(operands) if operand is moving[0]]
    return places == [0] or (len(places) == 1 and call.name in MULTIPLICATIONS)


def _question(call: Call, moving: list[Tensor], size: float) -> tuple[Any, ...]:
    """What a function of some operands of a call is known by, probed with random ones of a size.

    Layers that are alike ask the same, but for those with other operands.
    """
    places = {id(tensor): place for place, tensor in enumerate(moving)}
    if not places.keys() >= set(map(id, call.operands)):
        return call.index, *places, size

    def kind(tensor: Tensor) -> Any:
        return places[id(tensor)], tensor.shape, tensor.dtype, tensor.device

    return call.function, repr(replace((call.args, call.kwargs), kind)), size


def _size_of(operands: list[Tensor]) -> float:
    """By what random numbers are multiplied to be as large as those of a network, at least 1.

    A power of two, by which nothing is rounded.
    """
    finite = [t.detach().abs().nan_to_num(0.0, 0.0).max() for t in operands if t.numel()]
    largest = max(map(float, finite), default=1.0)
    most = torch.finfo(operands[0].dtype).max ** 0.25  # results of that size can be summed
    return 2.0 ** math.floor(math.log2(min(max(largest / _LARGEST_DRAW, 1.0), most)))


def _leads_to(tensor: Tensor, operands: list[Tensor]) -> bool:
    """Whether the graph of a result goes on with that of one of the operands."""
    node = tensor.grad_fn
    following_nodes = [] if node is None else [one for one, _ in node.next_functions if one]
    leaves = [getattr(one, "variable", None) for one in following_nodes]
    return any(
        tensor is operand
        or any(one is operand.grad_fn for one in following_nodes)
        or any(leaf is operand for leaf in leaves)
        for operand in operands
    )


def _differs(tensor: Tensor) -> bool:
    """Whether the first dimension makes a difference; the first and the last mostly show it."""
    if len(tensor) == 0:
        return False
    return not torch.equal(tensor[0], tensor[-1]) or bool((tensor != tensor[:1]).any())


def _all_equal(some: list[Tensor], others: list[Tensor] | None) -> bool:
    """Whether two lists hold the same numbers."""
    return (
        others is not None
        and len(some) == len(others)
        and all(torch.equal(one, other) for one, other in zip(some, others, strict=True))
    )


def _lie_within(changed: Tensor, chosen: Tensor) -> bool:
    """Whether something changed, and nothing but what was chosen."""
    # Not all that was chosen has to: a change may be lost in rounding, or be multiplied by zero.
    same_shape = changed.shape == chosen.shape
    return same_shape and bool(changed.any()) and not bool((changed & ~chosen).any())


def _tame(tensor: Tensor) -> Tensor:
    """A tensor outside of the graph, finite and not large."""
    tensor = tensor.detach().nan_to_num()
    return tensor / tensor.abs().max().clamp_min(1.0)
