"""Proofs that a network is convex, by the functions of torch that it is made of.

Sums, non-negative multiples, and convex functions that do not decrease, of convex functions are
convex; so is any convex function of an affine one. What is proven so holds everywhere, where values
show it at some points alone (:mod:`convexinit.convexity`). The list of functions is short on
purpose: a network that calls others is left to the values.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor

from convexinit.calls import Call, changes_in_place
from convexinit.nested import flat, replace, tensors_in
from convexinit.products import Dependence
from convexinit.tracing import (
    DIVISIONS,
    MULTIPLICATIONS,
    NEGATIONS,
    RESHAPES,
    SELECTIONS,
    SUMS,
    Trace,
)

# Sums of entries or of tensors, or a choice of them, in any order.
_GATHERING = RESHAPES | SELECTIONS | {
    "cat", "stack", "sum", "mean", "permute", "transpose", "t", "T", "mT", "movedim", "expand",
    "unflatten", "float", "double", "to",
}  # fmt: skip
_SUMS = SUMS - {"sub", "__sub__", "sub_", "__isub__"}
_EVEN = {"square", "abs", "pow", "__pow__"}
# Means of entries, or the entries and constants beside them.
_POOLING = {
    "pad", "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d", "adaptive_avg_pool2d",
    "adaptive_avg_pool3d",
}  # fmt: skip
_NORMS = {"norm": "p", "linalg_vector_norm": "ord"}  # with the name of their exponent
_NOT_NEGATIVE = {"softplus", "relu", "exp", "sigmoid", "softmax", "square", "abs", *_NORMS}


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


# Activations that look convex, and fall or bend down at some values.
_NEARLY = {"silu", "gelu", "mish", "hardswish"}

# Convex functions of one operand that do not decrease, and what has to be true of their call.
_INCREASING: dict[str, Callable[[Call], bool]] = {
    **dict.fromkeys(
        ("relu", "relu_", "exp", "logsumexp", "amax", "max_pool1d", "max_pool2d", "max_pool3d"),
        _always,
    ),
    # With a low threshold it jumps there.
    "softplus": lambda call: (
        _with("beta", 1.0, 1e-30, math.inf)(call) and _argument(call, 2, "threshold", 20.0) >= 20
    ),
    "leaky_relu": _with("negative_slope", 0.01, 0.0, 1.0),
    "elu": lambda call: (  # that of torch._C has more scales
        _with("alpha", 1.0, 0.0, 1.0)(call)
        and all(isinstance(value, bool) for value in call.args[2:])
        and call.kwargs.keys() <= {"alpha", "inplace"}
    ),
    "celu": _with("alpha", 1.0, 1e-30, math.inf),
    "clamp": lambda call: _argument(call, 2, "max", None) is None,
    "dropout": lambda call: _argument(call, 2, "training", True) is False,
}


@torch.no_grad()
def is_proven_convex(
    trace: Trace, output: Any, known: Collection[int], columns: Mapping[int, Any]
) -> bool:
    """Whether a network is convex for all inputs, with the weights that it has now.

    False where that is not known, as with a branch that depends on values.

    Args:
        trace: of a forward pass, in which weights may have been others.
        output: of the network, a tensor.
        known: ``id`` of its parameters and buffers.
        columns: of the inputs, in which it is to be convex.
    """
    return (
        trace.sees(output)
        # What is made of anything else may depend on the inputs in a way that cannot be seen.
        and set(trace.users) <= {*known}
        and all(_is_convex(trace, call, columns) for call in trace.calls)
    )


def nearly_convex(trace: Trace) -> list[str]:
    """A warning of activations whose networks may pass for convex at the points that are tried."""
    curved = (call.name for call in trace.calls if call.level == Dependence.CURVED)
    if not (names := sorted(_NEARLY & {*curved})):
        return []
    return [
        f"{', '.join(names)} is not convex everywhere, so that the network is not either, though "
        "it is at the points that were tried; softplus is much the same, and convex"
    ]


def _is_convex(trace: Trace, call: Call, columns: Mapping[int, Any]) -> bool:
    """Whether a call gives convex functions, and affine ones where they are taken for that."""
    name, kwargs = call.name, call.kwargs
    if name == "__get__":  # of a property
        name = getattr(getattr(call.function, "__self__", None), "__name__", "")
    operands = call.operands
    moving = [t for t in operands if trace.dependence(t) >= Dependence.AFFINE]
    if name == "requires_grad_":
        return True
    # Also where nothing moves: what is overwritten may be a gate, or have moved before.
    if not _leaves_others(call):
        return False
    if not moving:
        return True
    curved = [t for t in moving if trace.dependence(t) == Dependence.CURVED]
    first = call.args[0] if call.args else None
    if not all(t.is_floating_point() for t in [*moving, *tensors_in(flat(call.output))]):
        return False
    if kwargs.get("out") is not None:
        return False
    if call.product:
        weight = call.product.weight
        if not {"alpha", "beta"}.isdisjoint(kwargs) or any(t is weight for t in moving):
            return False
        return all(t is not call.product.input for t in curved) or _is_positive(trace, call, weight)
    if name in SELECTIONS:
        # On few rows, what depends on convex arguments may be the same, as features that are rare.
        context = [t for t in flat(call.output) if trace.dependence(t) == Dependence.CONTEXT]
        return not any(_convex_entries(trace, call, t, columns).any() for t in context)
    if name in _GATHERING:
        # The bits of numbers may be viewed as those of others.
        return name != "view" or not any(isinstance(v, torch.dtype) for v in flat(call.args))
    if name in SUMS or (name in NEGATIONS and not curved):
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
    if name in {"maximum", "max"} and len(tensors_in(call.args)) == 2:
        return True
    if name == "batch_norm":
        scale = _argument(call, 3, "weight", None)
        still = _argument(call, 5, "training", False) is False and [*map(id, moving)] == [id(first)]
        # torch.batch_norm has its arguments in another order.
        still &= call.function is torch.nn.functional.batch_norm
        return still and (not curved or scale is None or _is_positive(trace, call, scale))
    if len(operands) > 1 or first is not moving[0]:
        return False
    if name in _POOLING:
        return "divisor_override" not in kwargs and len(call.args) <= 6
    if name in _NORMS:
        exponent = _argument(call, 1, _NORMS[name], None)
        large = exponent in (None, "fro") or (isinstance(exponent, (int, float)) and exponent >= 1)
        return large and not curved and trace.dependence(call.output) == Dependence.CURVED
    if name in _EVEN:
        two = "pow" not in name or _argument(call, 1, "exponent", 0) == 2
        return two and _bends_upwards(trace, call, moving[0])
    # What hardly bends where the trace looks is taken for affine, but is not.
    bends = name == "dropout" or trace.dependence(call.output) == Dependence.CURVED
    return bends and name in _INCREASING and _INCREASING[name](call)


def _convex_entries(
    trace: Trace, maker: Call | None, tensor: Tensor, columns: Mapping[int, Any]
) -> Tensor:
    """Zero where a tensor is known not to depend on convex arguments, more than zero elsewhere."""
    if maker is None or maker.name not in _GATHERING:
        entries = torch.ones_like(tensor)
        for place, one in enumerate(trace.inputs):
            if one is tensor and maker is None:
                entries.zero_()[..., columns.get(place, [])] = 1
        return entries

    def renew(operand: Tensor) -> Tensor:
        if trace.dependence(operand) >= Dependence.AFFINE:
            return _convex_entries(trace, maker.made_by.get(id(operand)), operand, columns)
        return torch.zeros_like(operand) if operand.is_floating_point() else operand

    made = maker.function(*replace(maker.args, renew), **replace(maker.kwargs, renew))
    if isinstance(made, Tensor):
        return made
    return made[[id(part) for part in maker.output].index(id(tensor))]


def _overwrites(call: Call) -> bool:
    """Whether a call changes its first operand in place."""
    hands_on = call.name in _GATHERING | {"dropout"}
    return changes_in_place(call.name) or (
        not hands_on and bool(call.operands) and call.output is call.operands[0]
    )


def _leaves_others(call: Call) -> bool:
    """Whether a call changes nothing in place that others have read, or share the memory of."""
    if not _overwrites(call):
        return True
    operand = call.operands[0]
    maker = call.made_by.get(id(operand))
    while maker is not None and len(maker.consumers) == 1:
        sharing = [t for t in maker.operands if _share_memory(t, operand)]
        if not sharing:
            return True
        if any(t is not operand for t in sharing):  # it is a view
            return False
        maker = maker.made_by.get(id(operand))
    return False


def _share_memory(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors may be views of the same numbers."""
    if not one.layout == other.layout == torch.strided:
        return False
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()


def _is_overwritten(call: Call, tensor: Tensor) -> bool:
    """Whether anything that a constant operand is made of is changed in place."""
    return any(any(map(_overwrites, [maker, *maker.consumers])) for maker in call.makers_of(tensor))


def _bends_upwards(trace: Trace, call: Call, operand: Tensor) -> bool:
    """Whether the square and the size of an operand are convex, if the operand itself is."""
    if trace.dependence(operand) == Dependence.AFFINE:
        return True
    maker = call.made_by.get(id(operand))
    if maker and maker.name == "leaky_relu":
        return all(trace.dependence(t) == Dependence.AFFINE for t in maker.operands)
    return maker is not None and _is_not_negative(maker)


def _is_not_negative(call: Call) -> bool:
    """Whether a call gives no negative numbers, whatever its operand is."""
    return call.name in _NOT_NEGATIVE and _INCREASING.get(call.name, _always)(call)


def _is_positive(trace: Trace, call: Call, factor: Any) -> bool:
    """Whether a factor is nowhere negative."""
    if not isinstance(factor, Tensor):
        return isinstance(factor, (int, float)) and factor >= 0
    if not trace.dependence(factor):
        if _is_overwritten(call, factor):
            return False
        nothing = torch.empty(0)  # as its parameters are now
        return bool((call.function_of(nothing, factor)(nothing).to_dense() >= 0).all())
    maker = call.made_by.get(id(factor))
    if maker is None or trace.dependence(factor) != Dependence.CONTEXT:
        return False
    if _is_not_negative(maker):
        return True
    parts = tensors_in(maker.args) if maker.name in _GATHERING else flat(maker.args)
    known = maker.name in _GATHERING | _SUMS | MULTIPLICATIONS | DIVISIONS and not maker.kwargs
    return known and all(_is_positive(trace, maker, part) for part in parts)
