"""Find what the layers of a network add up to, and the parameters that shift it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from convexinit.assignment import is_close
from convexinit.calls import Call, changes_in_place, following
from convexinit.found import BiasOption, FoundLayer, Options, PreActivation
from convexinit.nested import tensors_in
from convexinit.tracing import DIVISIONS, MULTIPLICATIONS, RESHAPES, Trace

WITHOUT_GRADIENTS = (
    "it is computed without gradients (detach, no_grad, .data or reentrant "
    "torch.utils.checkpoint), so that nothing can be learned"
)


def find_pre_activations(
    network: nn.Module,
    trace: Trace,
    layers: list[FoundLayer],
    starting: Mapping[str, nn.Module],
    options: Options,
) -> list[PreActivation]:
    """What the layers add up to, in the order of the calls.

    Args:
        network: that was traced.
        trace: of it.
        layers: found in the trace; those through which no gradient comes get a ``problem``.
        starting: modules that initialise themselves on their first batch, by name.
        options: what the user says about layers.
    """
    signal = [layer for layer in layers if layer.role != "context" and not layer.problem]
    ends: dict[int, Call] = {}
    found: dict[int, PreActivation] = {}
    for layer in signal:
        ends[id(layer)], summed, layer.order = _end_of(trace, layer.call)
        end = ends[id(layer)]
        one = found.setdefault(id(end), PreActivation(end))
        if summed:
            one.summed, one.units = True, _units_after(layer.call, end)
        (one.constrained if layer.role == "constrained" else one.free).append(layer)
    weights = {id(layer.raw) for layer in layers}
    parameters = {name: p for name, p in network.named_parameters() if id(p) not in weights}
    squares: set[int] = set()
    for one in found.values():
        _differentiate(one, signal, ends, trace, parameters, squares)
    # A free operation that is squared and added to a pre-activation has no target of its own.
    pre_activations = [
        one
        for one in found.values()
        if one.constrained or not all(id(layer) in squares for layer in one.free)
    ]
    pre_activations.sort(key=lambda one: one.call.index)
    constrained = {id(layer.call) for layer in signal if layer.role == "constrained"}
    users: dict[str, int] = {}
    for one in pre_activations:
        one.output = not any(id(call) in constrained for call in following(one.call))
        for option in one.biases:
            users[option.name] = users.get(option.name, 0) + 1
    for one in pre_activations:
        _sort_biases(network, one, users, starting)
        _choose_bias(one, options)
    return pre_activations


def _end_of(trace: Trace, call: Call) -> tuple[Call, bool, tuple[int, ...]]:
    """The last call to which the result of an operation is passed on, scaled, shifted or summed.

    Returns:
        The call; whether numbers of a row are summed, averaged or selected from on the way; if they
        are not, the order of the dimensions of the operation's result in it.
    """
    assert call.value is not None
    end, current, same, summed = call, call, True, False
    most = size = call.value.numel()
    order, shape = tuple(range(call.value.ndim)), call.value.shape
    while len(current.consumers) == 1:
        (user,) = current.consumers
        operands = {
            id(t): t
            for t in tensors_in(user.args, user.kwargs)
            if user.made_by.get(id(t)) is current
        }
        others = [t for t in tensors_in(user.args, user.kwargs) if id(t) not in operands]
        scales = user.name in MULTIPLICATIONS | DIVISIONS
        if (
            trace.is_weighted(user)
            or user.value is None
            or len(operands) != 1
            or (scales and any(trace.dependence(t) for t in others))
            or not trace.is_affine(user, list(operands.values()))
        ):
            break
        (operand,) = operands.values()
        # A part of a tensor that is written to does not go on alone, nor does what it was before.
        if operand is not current.output or _is_written_to(user):
            break
        numbers = user.value.numel()
        same = same and numbers == size
        if same and not trace.is_elementwise(user, operand):
            moved = trace.order_of(user, operand)
            same = moved is not None and [*operand.shape] == [shape[d] for d in order]
            if moved is not None and same:
                order = tuple(order[dimension] for dimension in moved)
        rows_first = order[:1] == (0,)
        by_row = user.name in RESHAPES or (not same and trace.is_row_by_row(user, operand))
        if not (same or (rows_first and by_row)):
            break
        current, most = user, max(most, numbers)
        if same:
            end = user
        elif numbers < most and numbers <= size and len(user.value) == 2 * trace.rows:
            end, summed = user, True
    return end, summed, order


def _is_part(tensor: Tensor) -> bool:
    """Whether a tensor is a view of another one that has more numbers."""
    return tensor._base is not None and tensor._base.numel() > tensor.numel()


def _is_written_to(call: Call) -> bool:
    """Whether a call takes a part of a tensor, to which is written there or in a view of it."""
    part = call.output
    if changes_in_place(call.name) or not _is_part(part):
        return False
    views = [
        user
        for user in call.consumers
        if isinstance(user.output, Tensor) and user.output._base is part._base
    ]
    return any(changes_in_place(view.name) or _is_written_to(view) for view in views)


def _units_after(call: Call, end: Call) -> int | None:
    """Dimension of the units of an operation in a sum of its results, None if there is none."""
    product, before, after = call.product, call.value, end.value
    assert product is not None
    assert before is not None
    assert after is not None
    if product.units is None:
        return None
    from_front, from_back = before.ndim + product.units, after.ndim + product.units
    for place in (from_front, from_back, *range(1, after.ndim)):
        if 0 < place < after.ndim and after.shape[place] == before.shape[product.units]:
            return place
    return from_back if before.ndim == after.ndim else None


def _differentiate(
    one: PreActivation,
    signal: list[FoundLayer],
    ends: dict[int, Call],
    trace: Trace,
    parameters: Mapping[str, Tensor],
    squares: set[int],
) -> None:
    """Factors between operations and a pre-activation, squares in it, and what can shift it."""
    members = one.constrained + one.free
    earlier = [layer for layer in signal if layer.call.index <= one.call.index]
    value, (seen_as, product) = one.call.value, one.place()
    like = seen_as.value
    assert value is not None
    assert like is not None
    sizes = {"unit": product.by_unit(like).shape[1], "position": like[0].numel(), "layer": 1}
    # A bias before a sum may have a number for each of the units there.
    candidates = {
        name: p for name, p in parameters.items() if one.summed or p.numel() in sizes.values()
    }
    shifts = [layer.call.shift for layer in earlier if layer.call.shift is not None]
    source = torch.Generator().manual_seed(3)
    if not value.requires_grad:
        for layer in members:
            layer.problem = WITHOUT_GRADIENTS
        return

    def differentiated(wanted: list[Tensor]) -> tuple[Tensor, tuple[Tensor | None, ...]]:
        """Random weights of the entries, and the gradients of the sum that they make."""
        draw = (torch.rand(value.shape, generator=source) + 0.5).to(value)
        # A sum, as torch imports a lot on the first call with ``grad_outputs``.
        with torch.enable_grad():
            weighted = (value * draw).sum()
        gradients = torch.autograd.grad(weighted, wanted, retain_graph=True, allow_unused=True)
        return draw, gradients

    draw, gradients = differentiated([*shifts, *candidates.values()])
    for layer, first in zip(earlier, gradients[: len(shifts)], strict=False):
        if first is None:
            continue
        if layer in members and one.summed:
            layer.gains = first.new_ones(1).float()  # no more than a scale
        elif layer in members:
            assert layer.call.product is not None
            slope = (first / layer.from_end(draw, first.shape)).float()
            layer.gains = layer.call.product.by_unit(slope).mean(0)
        elif layer.role == "free" and _is_squared(trace, ends[id(layer)]):
            one.squared.append(layer)
            squares.add(id(layer))
    slopes = dict(zip(candidates, gradients[len(shifts) :], strict=True))
    reached = {name: slope for name, slope in slopes.items() if slope is not None}
    if not reached:
        return
    other, others = differentiated([candidates[name] for name in reached])
    draw, other = (one.seen(weights, like.shape) for weights in (draw, other))
    sums: dict[str, Callable[[Tensor], Tensor]] = {
        "unit": lambda draw: product.by_unit(draw).sum(0),
        "position": lambda draw: draw.sum(0).flatten(),
        "layer": lambda draw: draw.sum().reshape(1),
    }
    for (name, first), second in zip(reached.items(), others, strict=True):
        assert second is not None
        for per, summed in sums.items():
            if first.numel() != sizes[per] and not (one.summed and per == "layer"):
                continue
            # No more precise than the parameter, whatever it is brought to in the network.
            coefficient, again = (
                (slope.flatten() / summed(weights)).to(slope.dtype)
                for slope, weights in ((first, draw), (second, other))
            )
            if is_close(coefficient, again) and bool((coefficient != 0).all()):
                one.biases.append(BiasOption(name, candidates[name], coefficient.detach(), per))
                break


def _is_squared(trace: Trace, end: Call) -> bool:
    """Whether what bends a result next is of degree two."""
    while True:
        operands = [
            (user, operand)
            for user in end.consumers
            for operand in tensors_in(user.args, user.kwargs)
            if user.made_by.get(id(operand)) is end
        ]
        if not operands:
            return False
        user, operand = operands[0]
        if user.product or not trace.is_affine(user, [operand]):
            return not user.product and abs(trace.degree(user, operand) - 2.0) < 0.1
        end = user


def _sort_biases(
    network: nn.Module,
    one: PreActivation,
    users: Mapping[str, int],
    starting: Mapping[str, nn.Module],
) -> None:
    """Those with the fewest uses first, of every unit before common ones, normalisations last."""
    for option in one.biases:
        path = option.name.rpartition(".")[0]
        owner = type(network.get_submodule(path)).__name__ if path else ""
        option.normalises = path in starting or "norm" in owner.lower()
        one.normalised |= path in starting
    one.biases.sort(key=lambda o: (o.per == "layer", o.normalises, users[o.name]))


def _choose_bias(one: PreActivation, options: Options) -> None:
    """Put the bias that the user names first, or none if it is to be none."""
    for layer in one.constrained + one.free:
        said = options.get(layer.name, options.get(layer.parameter, {}))
        if "bias" in said:
            one.said = True
            chosen = [option for option in one.biases if option.name == said["bias"]]
            if said["bias"] is not None and not chosen:
                raise ValueError(
                    f"{said['bias']} does not shift every row of the layer {layer.name} alike; "
                    f"these do: {', '.join(option.name for option in one.biases) or 'none'}"
                )
            one.biases = chosen
