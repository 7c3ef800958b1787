"""Proofs that a network is convex, by the functions of torch that it is made of.

Sums, non-negative multiples, and convex functions that do not decrease, of convex functions are
convex; so is any convex function of an affine one. What is proven so holds everywhere, where values
show it at some points alone (:mod:`convexinit.convexity`). The list of functions is short on
purpose: a network that calls others is left to the values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor

from convexinit.calls import Call, changes_in_place
from convexinit.nested import flat, tensors_in
from convexinit.products import Dependence
from convexinit.tracing import DIVISIONS, MULTIPLICATIONS, RESHAPES, SELECTIONS, SUMS, Trace

# Sums of entries or of tensors, or a choice of them, in any order.
_GATHERING = RESHAPES | SELECTIONS | {
    "cat", "stack", "sum", "mean", "permute", "transpose", "t", "T", "mT", "movedim", "expand",
    "unflatten", "float", "double", "to",
}  # fmt: skip
_SUMS = SUMS - {"sub", "__sub__", "sub_", "__isub__"}
_NEGATIVE = {"neg", "__neg__", "rsub", "__rsub__"}
_EVEN = {"square", "abs", "pow", "__pow__"}
_NOT_NEGATIVE = {"softplus", "relu", "exp", "sigmoid", "softmax", "square", "abs"}


def _argument(call: Call, place: int, name: str, default: Any) -> Any:
    """An argument of a call, which has it by its place or its name."""
    return call.args[place] if len(call.args) > place else call.kwargs.get(name, default)


def _always(_: Call) -> bool:
    return True


def _with(name: str, default: float, least: float, most: float) -> Callable[[Call], bool]:
    """Whether the second argument of a call is a number between two others."""

    def is_within(call: Call) -> bool:
        value = _argument(call, 1, name, default)
        return isinstance(value, (int, float)) and least <= value <= most

    return is_within


# Convex functions of one operand that do not decrease, and what has to be true of their call.
_INCREASING: dict[str, Callable[[Call], bool]] = {
    **dict.fromkeys(("relu", "relu_", "exp", "logsumexp", "amax"), _always),
    # With a low threshold it jumps there.
    "softplus": lambda call: (
        _with("beta", 1.0, 1e-30, math.inf)(call) and _argument(call, 2, "threshold", 20.0) >= 20
    ),
    "leaky_relu": _with("negative_slope", 0.01, 0.0, 1.0),
    "elu": _with("alpha", 1.0, 0.0, 1.0),
    "celu": _with("alpha", 1.0, 1e-30, math.inf),
    "clamp": lambda call: _argument(call, 2, "max", None) is None,
    "dropout": lambda call: _argument(call, 2, "training", True) is False,
}


@torch.no_grad()
def is_proven_convex(trace: Trace, output: Any, known: Collection[int]) -> bool:
    """Whether a network is convex for all inputs, with the weights that it has now.

    False where that is not known, as with a branch that depends on values.

    Args:
        trace: of a forward pass, in which weights may have been others.
        output: of the network, a tensor.
        known: ``id`` of its parameters and buffers.
    """
    return (
        trace.sees(output)
        # What is made of anything else may depend on the inputs in a way that cannot be seen.
        and set(trace.users) <= {*known}
        and all(_is_convex(trace, call) for call in trace.calls)
    )


def _is_convex(trace: Trace, call: Call) -> bool:
    """Whether a call gives convex functions, and affine ones where they are taken for that."""
    name, kwargs = call.name, call.kwargs
    if name == "__get__":  # of a property
        name = getattr(getattr(call.function, "__self__", None), "__name__", "")
    operands = call.operands
    moving = [t for t in operands if trace.dependence(t) >= Dependence.AFFINE]
    if not moving:
        return True
    curved = [t for t in moving if trace.dependence(t) == Dependence.CURVED]
    first = call.args[0] if call.args else None
    if not all(t.is_floating_point() for t in [*moving, *tensors_in(flat(call.output))]):
        return False
    if "out" in kwargs or not _leaves_others(call, name, operands[0]):
        return False
    if call.product:
        weight = call.product.weight
        if not {"alpha", "beta"}.isdisjoint(kwargs) or any(t is weight for t in moving):
            return False
        return all(t is not call.product.input for t in curved) or _is_positive(trace, call, weight)
    if name in _GATHERING:
        return True
    if name in SUMS or (name in _NEGATIVE and not curved):
        subtracted = name not in _SUMS and any(t is not first for t in curved)
        return not kwargs and len(call.args) <= 2 and not subtracted
    if name in MULTIPLICATIONS | DIVISIONS:
        factors = [factor for factor in call.args if factor is not moving[0]]
        if kwargs or len(call.args) != 2:
            return False
        if name in MULTIPLICATIONS and not factors:
            return _bends_upwards(trace, call, moving[0])
        alone = len(moving) == len(factors) == 1
        alone &= name in MULTIPLICATIONS or first is moving[0]
        return alone and (not curved or _is_positive(trace, call, factors[0]))
    if len(operands) > 1 or first is not moving[0]:
        return False
    if name in _EVEN:
        two = "pow" not in name or _argument(call, 1, "exponent", 0) == 2
        return two and _bends_upwards(trace, call, moving[0])
    return name in _INCREASING and _INCREASING[name](call)


def _leaves_others(call: Call, name: str, operand: Tensor) -> bool:
    """Whether a call changes nothing in place that others have read, or share the memory of."""
    kept = call.output is not operand or (name not in _INCREASING or name == "dropout")
    if kept and not changes_in_place(name):
        return True
    maker = call.made_by.get(id(operand))
    return maker is not None and len(maker.consumers) == 1 and operand._base is None


def _bends_upwards(trace: Trace, call: Call, operand: Tensor) -> bool:
    """Whether the square and the size of an operand are convex, if the operand itself is."""
    if trace.dependence(operand) == Dependence.AFFINE:
        return True
    maker = call.made_by.get(id(operand))
    if maker and maker.name == "leaky_relu":
        return all(trace.dependence(t) == Dependence.AFFINE for t in maker.operands)
    return maker is not None and maker.name in _NOT_NEGATIVE


def _is_positive(trace: Trace, call: Call, factor: Any) -> bool:
    """Whether a factor is nowhere negative."""
    if not isinstance(factor, Tensor):
        return isinstance(factor, (int, float)) and factor >= 0
    if not trace.dependence(factor):
        return bool((call.recompute(factor, factor, factor) >= 0).all())
    maker = call.made_by.get(id(factor))
    if maker is None or trace.dependence(factor) != Dependence.CONTEXT:
        return False
    if maker.name in _NOT_NEGATIVE:
        return True
    parts = tensors_in(maker.args) if maker.name in _GATHERING else flat(maker.args)
    known = maker.name in _GATHERING | _SUMS | MULTIPLICATIONS | DIVISIONS and not maker.kwargs
    return known and all(_is_positive(trace, maker, part) for part in parts)
