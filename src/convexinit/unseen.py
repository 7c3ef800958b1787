"""Parameters that act on the convex path in calls that are no linear operation we understand.

As in ``nn.RNN``, ``F.bilinear`` or ``(z * w).sum(-1)``. Their calls are probed with other values of
the parameter, to see what has to be non-negative.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from convexinit.calls import Call
from convexinit.products import Dependence
from convexinit.tracing import (
    MULTIPLICATIONS,
    RESHAPES,
    SUMS,
    Trace,
    at_first,
    at_middle,
    at_second,
)

UNDERSTOOD = "F.linear, @, convolutions, addmm, inner or an einsum of two operands"


@dataclass(frozen=True, eq=False)
class Unseen:
    """A parameter in a call that bends the convex path, or follows what bends it.

    Attributes:
        parameter: its name.
        raw: the parameter itself.
        operand: of the call, computed from the parameter.
        operation: name of the torch function.
        sums: whether results are sums over several of its entries, as those of a weight are.
        sums_later: whether those of the next call are.
        curved: whether it meets what is not affine.
        breaks: whether some of its values end convexity.
        only_negative: whether negative values do, and others do not.
        bounded: whether large values do, and small positive ones do not, as of a slope below zero.
    """

    parameter: str
    raw: Tensor
    operand: Tensor
    operation: str
    sums: bool
    sums_later: bool
    curved: bool
    breaks: bool
    only_negative: bool
    bounded: bool = False

    @property
    def is_layer(self) -> bool:
        """Whether a network without it is not initialised; where one cannot tell, it is not."""
        return (self.sums and (self.curved or self.breaks)) or (
            self.sums_later and self.negative > 0
        )

    @property
    def is_weight(self) -> bool:
        """Whether it is like a weight, and can end convexity."""
        return (self.sums or self.sums_later) and self.breaks

    @property
    def strictness(self) -> tuple[bool, bool, bool]:
        """By which the uses of a parameter are ordered."""
        return self.is_layer, self.is_weight, self.breaks

    @property
    def negative(self) -> int:
        """How many entries are negative that should not be."""
        return int(self.operand.lt(0).sum()) if self.only_negative else 0

    def __str__(self) -> str:
        return f"{self.parameter} ({self.operation})"


@torch.no_grad()
def find_unseen(
    trace: Trace, names: Mapping[int, str], constrained: Collection[int]
) -> list[Unseen]:
    """What is found of parameters, each once.

    Args:
        trace: of a forward pass.
        names: of parameters, by ``id``.
        constrained: ``id`` of parameters that are known to have to be non-negative.
    """
    found: dict[int, Unseen] = {}
    for call in trace.calls:
        if call.level != Dependence.CURVED or call.product or call.name in SUMS | RESHAPES:
            continue
        for operand in call.operands:
            if trace.dependence(operand) > Dependence.CONSTANT or not _is_numeric(operand):
                continue
            for leaf in call.leaves_of(operand):
                if id(leaf) in names and id(leaf) not in constrained:
                    one = _unseen(trace, call, operand, leaf, names[id(leaf)])
                    if one and one.strictness >= found.get(id(leaf), one).strictness:
                        found[id(leaf)] = one
    return list(found.values())


def _unseen(trace: Trace, call: Call, operand: Tensor, leaf: Tensor, name: str) -> Unseen | None:
    """What a parameter does in a call; None if nothing that concerns convexity."""
    moving = [t for t in call.operands if trace.dependence(t) > Dependence.CONTEXT]
    moving = [t for t in moving if _is_numeric(t)]  # no conditions
    if not moving:
        return None
    curved = [t for t in moving if trace.dependence(t) == Dependence.CURVED]
    if any(t.is_complex() for t in (operand, *moving)):  # of which nothing is convex by itself
        return Unseen(
            name, leaf, operand.detach(), call.name, sums=True, sums_later=False,
            curved=bool(curved), breaks=True, only_negative=False,
        )  # fmt: skip
    source = torch.Generator().manual_seed(4)
    draws = (torch.rand(leaf.shape, generator=source, device="cpu") / 2 + 0.25).to(leaf)
    draws /= max(1, leaf[:1].numel() if leaf.ndim > 1 else 1) ** 0.5
    signs = torch.randint(2, leaf.shape, generator=source, device="cpu").to(leaf) * 2 - 1
    try:
        function = call.function_of(leaf, operand)
        operands = [function(draws * sign) for sign in (1, -1, signs, 9)]
    except (RuntimeError, TypeError):
        return None
    above = operands[0]
    if call.name in MULTIPLICATIONS and len(moving) == 1:
        # A factor turns what it multiplies where it is negative.
        holds = [not curved or bool((values >= 0).all()) for values in operands]
    else:
        holds = [_holds(trace, call, moving, curved, {id(operand): values}) for values in operands]

    def result(values: Tensor) -> Tensor | None:
        return trace.result_at(call, moving, at_first, {id(operand): values})

    sums = call.name not in MULTIPLICATIONS and _sums(result, above)
    sums_later = any(_sums(after, above) for after in _summed_after(trace, call, result))
    *holds, holds_far = holds
    breaks = not all(holds)
    if not (breaks or sums or sums_later or not holds_far):
        return None
    return Unseen(
        name, leaf, operand.detach(), call.name, sums, sums_later, bool(curved), breaks,
        holds[0] and not holds[1], holds[0] and not holds_far,
    )  # fmt: skip


def _is_numeric(tensor: Tensor) -> bool:
    """Whether a tensor has real or complex numbers, and no truth values or whole ones."""
    return tensor.is_floating_point() or tensor.is_complex()


def _holds(
    trace: Trace, call: Call, moving: list[Tensor], curved: list[Tensor], given: dict[int, Tensor]
) -> bool:
    """Whether a call is convex, and does not decrease in operands that are not affine."""
    points = (at_first, at_second, at_middle)
    first, second, middle = (trace.result_at(call, moving, point, given) for point in points)
    higher = trace.result_at(call, curved, lambda a, b: a + b.abs(), given)
    lower = trace.result_at(call, curved, at_first, given)
    if first is None or second is None or middle is None or higher is None or lower is None:
        return True  # not of numbers
    precision = max(torch.finfo(t.dtype).eps for t in moving)
    rounding = precision**0.5 * max(float(values.abs().max()) for values in (first, second, higher))
    bends = (middle - (first + second) / 2).max()
    return bool(bends <= rounding and (lower - higher).max() <= rounding)


def _sums(result: Callable[[Tensor], Tensor | None], values: Tensor) -> bool:
    """Whether an entry of a result depends on several entries of an operand."""
    if values.numel() == 1:
        return False
    source = torch.Generator().manual_seed(5)
    chosen = (torch.rand(values.shape, generator=source, device="cpu") < 0.5).to(values.device)
    before = result(values)
    ones, others = result(values + chosen.to(values)), result(values + (~chosen).to(values))
    if before is None or ones is None or others is None:
        return False
    return bool(((ones != before) & (others != before)).any())


def _summed_after(
    trace: Trace, call: Call, result: Callable[[Tensor], Tensor | None]
) -> Iterator[Callable[[Tensor], Tensor | None]]:
    """What comes after an elementwise product: functions that may add up its entries."""
    if call.name not in MULTIPLICATIONS or call.value is None:
        return
    shape, made = call.value.shape, call.output
    for user in call.consumers:
        if user.product or not trace.is_affine(user, [made]):
            continue

        def after(values: Tensor, user: Call = user) -> Tensor | None:
            product = result(values)
            if product is None:
                return None
            return trace.result_at(user, [], at_first, {id(made): product.reshape(shape)})

        yield after


def unseen_remarks(unseen: Iterable[Unseen]) -> list[str]:
    """A warning of factors that stay as they are, though they may be weights."""
    left = ", ".join(str(one) for one in unseen if one.sums_later and not one.is_layer)
    if not left:
        return []
    return [
        f"these parameters multiply the convex path before a sum, and stay as they are: {left}; "
        f"to have them initialised as weights, write {UNDERSTOOD}"
    ]


def unseen_problems(unseen: Iterable[Unseen]) -> list[str]:
    """What keeps a network from being initialised, in one sentence for all, or in none."""
    layers = [one for one in unseen if one.is_layer]
    if not layers:
        return []
    kept = ", ".join(f"{one.parameter!r}: {{'keep': True}}" for one in layers)
    return [
        f"{', '.join(map(str, layers))}: used on the convex path in a way that cannot be followed; "
        f"write it with {UNDERSTOOD}, say with call= or a sub-network which part to initialise, or "
        f"accept that they stay as they are with layers={{{kept}}}"
    ]
