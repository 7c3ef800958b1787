"""What is said of a network whose layers are filled."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from convexinit.calls import Call, calls_between, following, leads_only_to
from convexinit.dropout import grows_noise
from convexinit.evaluation import first_of
from convexinit.filling_pass import Deviation, Filling, Target
from convexinit.found import Found, PreActivation, biases_of_context
from convexinit.joins import JOINING
from convexinit.products import Dependence
from convexinit.tracing import DIVISIONS, MULTIPLICATIONS, NEGATIONS, SUMS, Trace
from convexinit.unseen import UNDERSTOOD, unseen_remarks

# Root mean square of the weights of a first layer, for a signal of variance 1, from which on steps
# of Adam are small beside them: at 3.5 errors were three to eight times those at 0.35.
_LARGE_WEIGHTS = 2.0
_TOLERATED = (0.1, 0.2)  # deviations of mean and variance that are not reported
_APART = 1.0  # distance of the means of units that is not, in standard deviations
# Deviation of the mean, and factor of the variance, behind a gate that are not reported.
_GATED = (0.5, 2.0)
# Times the target: mean and standard deviation of an output behind a function that is not linear.
_FAR = 3.0
# That a variance may rest on: its standard error is then what is tolerated.
_FEWEST_ROWS = 1 / _TOLERATED[1] ** 2


def remarks(found: Found, filled: Filling, target: Target) -> list[str]:
    """Warnings of what is off the target, or will be, and of what was left as it is.

    Args:
        found: in the network.
        filled: the last pass over all its layers.
        target: of all pre-activations.
    """
    reached, output = filled.deviations, filled.output
    messages = _of_layers(found, reached, target) + unseen_remarks(found.unseen)
    messages += _of_context(found) + _of_first_layers(found, target)
    messages += _of_not_followed(found, target)
    messages += _of_gates(filled, target) + _of_concatenations(found)
    if output is not None and target.convex_path and _meets(found, reached):
        messages += _of_output(found, output, target)
    if found.end is None and not found.returns_gradient:
        messages += _of_shifts(found, target)
    if target.convex_path and target.draw is None:
        messages += grows_noise(_hidden_dropouts(found))
    return messages


def _hidden_dropouts(found: Found) -> list[float]:
    """Probabilities of every dropout of what a layer has computed."""
    calls = {
        id(call): call
        for one in found.pre_activations
        for layer in one.constrained + one.free
        for call in following(layer.call)
        if "dropout" in call.name
    }
    # torch hands on the probability by name, or as the second argument.
    return [float(c.kwargs.get("p", [*c.args, 0.0][1])) for c in calls.values()]


def _of_layers(
    found: Found, reached: Mapping[PreActivation, Deviation], target: Target
) -> list[str]:
    """Warnings of single layers."""
    members = [layer for one in found.pre_activations for layer in one.constrained]
    messages = []
    if gated := ", ".join(layer.name for layer in members if layer.gated and not layer.closed):
        messages.append(
            f"what these layers read is multiplied by a gate that depends on other inputs: {gated};"
            " their moments hold on average over the rows that were given"
        )
    if closed := ", ".join(layer.name for layer in members if layer.closed):
        messages.append(
            f"what these layers read is zero in every row: {closed}; if a gate before them is shut "
            "there, as a relu of other inputs is below zero, no gradient opens it: give the gate a "
            "positive bias"
        )
    few: dict[str, float] = {}
    uncentred: dict[str, float] = {}
    later: list[tuple[float, str, str]] = []  # what is off, as it is used again
    used: set[int] = set()
    for one in found.pre_activations:
        mean, apart, variance, rows = reached.get(one, Deviation(0.0, 0.0, 0.0, math.inf))
        own = {id(layer.raw) for layer in one.constrained + one.free}
        own |= {id(option.parameter) for option in one.biases[:1]}
        again, used = own & used, own | used
        if one.is_without_bias and found.gives_numbers:
            messages.append(
                f"no parameter can centre the output layer {one.name}; the mean of the output "
                "stays what the weights make it"
            )
        if abs(mean) > _TOLERATED[0] or abs(variance) > _TOLERATED[1]:
            centred = one.biases or one.starts
            of_mean = (
                f"the mean {target.mean + round(mean, 3) * target.std:.3g} and " if centred else ""
            )
            moments = f"{of_mean}the variance {(1 + variance) * target.variance_of(one):.3g}"
            if again and (target.convex_path or not one.constrained):
                later.append((max(abs(mean), abs(variance)), one.name, moments))
            else:
                messages.append(
                    f"the pre-activation of the layer {one.name} has {moments}, as "
                    + _reason(found, one, target)
                )
        elif rows < _FEWEST_ROWS:
            few[one.name] = rows
        if apart > _APART and one.is_bent and not (one.said or (one.output and one.constrained)):
            uncentred[one.name] = apart
    if later:
        _, worst, moments = max(later)
        names = ", ".join(dict.fromkeys(name for _, name, _ in later))
        messages.append(
            f"a weight or bias of these layers was set at its first use: {names}; of later uses "
            f"one of {worst} is the farthest from the target, with {moments}"
        )
    if uncentred:
        messages.append(
            f"no parameter can centre each unit of these layers: {', '.join(uncentred)}; the means "
            f"of units are up to {max(uncentred.values()):.3g} standard deviations from the target "
            "(root mean square). Give them a bias with a number for each unit, or inputs of mean 0"
        )
    if few:
        messages.append(
            "the variances of these layers rest on a few of the rows, as few as "
            f"{min(few.values()):.0f}, and will be others on other rows: {', '.join(few)}. Give "
            "more rows; where activations grow as squares, a mean far from zero, as mean=10, with "
            "which they bend less, or fewer layers"
        )
    return messages


def _of_first_layers(found: Found, target: Target) -> list[str]:
    """A warning of first layers whose weights have to be large, as what they read varies little."""
    sizes: dict[str, float] = {}
    for one in found.pre_activations:
        for layer in [] if one.constrained else one.free:
            if layer.raw is not None and layer.map is not None and not layer.kept:
                weight = layer.map.forward(layer.raw.detach())
                sizes[layer.name] = math.sqrt(float(weight.square().mean()))
    large = {name: size for name, size in sizes.items() if size > _LARGE_WEIGHTS * target.std}
    if not large:
        return []
    return [
        f"the weights of these layers are as large as {max(large.values()):.3g} (root mean square),"
        f" as what they read varies little: {', '.join(large)}. Steps of an optimiser are small "
        "beside them, so that the network learns slowly: divide the inputs by their standard "
        "deviation, or give these weights a learning rate that is larger by as much"
    ]


def _of_context(found: Found) -> list[str]:
    """A warning of biases of other inputs that were set, and that are read elsewhere too."""
    context = biases_of_context(found.layers)
    shared = {
        one.name: one.biases[0].name
        for one in found.pre_activations
        if one.biases
        and one.biases[0].name in context
        and not leads_only_to(context[one.biases[0].name], one.call)
    }
    if not shared:
        return []
    none = {name: {"bias": None} for name in shared}
    return [
        f"to centre {', '.join(shared)}, a bias of a layer of other inputs was set that is read "
        f"elsewhere too, as by a gate: {', '.join(dict.fromkeys(shared.values()))}. Give what is "
        "centred a bias of its own, or leave this one as it is: "
        f"layers={none}"
    ]


def _of_not_followed(found: Found, target: Target) -> list[str]:
    """A warning of functions of the inputs that are far from the target and not followed."""
    messages = []
    for names, call in found.not_followed.items():
        if call.value is None or not call.value.is_floating_point():
            continue
        values = call.value.detach().double().reshape(len(call.value), -1)
        mean, std = float(values.mean()), float(values.var(0).mean().sqrt())
        if _is_far(mean, std, std, target):
            messages.append(
                f"what is computed from the inputs and {names} ({call.name}) cannot be followed and"
                f" stays as it is, with the mean {mean:.3g} and the standard deviation {std:.3g} "
                f"before an activation; write it with {UNDERSTOOD}, or scale it"
            )
    return messages


def _is_far(mean: float, least: float, most: float, target: Target) -> bool:
    """Whether a mean is more than three standard deviations off, or one of these by that factor."""
    near = abs(mean - target.mean) <= _FAR * target.std
    return not (near and least <= _FAR * target.std and most * _FAR >= target.std)


def _of_gates(filled: Filling, target: Target) -> list[str]:
    """A warning of pre-activations that are far from the target behind a gate."""
    off = [
        (abs(math.log(max(variance, 1e-30) / target.variance)), one.name, mean, variance)
        for one, (mean, variance) in filled.gated.items()
        if (one.biases and abs(mean - target.mean) > _GATED[0] * target.std)
        or not 1 / _GATED[1] <= variance / target.variance <= _GATED[1]
    ]
    if not off:
        return []
    _, name, mean, variance = max(off)
    names = ", ".join(name for _, name, _, _ in off)
    return [
        "what these layers give is multiplied by a gate of other inputs before an activation, "
        f"which gives it other moments: {names}; behind that of {name} the mean is "
        f"{mean:.3g} and the variance {variance:.3g}. Multiply what the layer reads instead, "
        "act(layer(gate * z)), or start the gate near 1"
    ]


def _of_concatenations(found: Found) -> list[str]:
    """A warning of layers that need non-negative weights for a part of what they read alone."""
    names: dict[str, None] = {}
    for one in found.pre_activations:
        for layer in one.constrained:
            product = layer.call.product
            if product is None or layer.kept:
                continue
            levels = set(map(found.trace.dependence, _parts(layer.call, product.input)))
            if Dependence.CURVED in levels and levels & {Dependence.CONTEXT, Dependence.AFFINE}:
                names[layer.name] = None
    if not names:
        return []
    return [
        "these layers read inputs beside features, in one tensor, and have non-negative weights "
        f"for both: {', '.join(names)}. Those of inputs may have both signs in a layer of their "
        "own, the result of which is added, or beside those of features that a map makes positive: "
        "torch.cat([softplus(w), v], 1)"
    ]


def _parts(call: Call, operand: Tensor) -> list[Tensor]:
    """What an operand of a call was concatenated from, in one call or several; else itself."""
    maker = call.made_by.get(id(operand))
    if maker is None or maker.name not in JOINING - {"stack"}:
        return [operand]
    return [part for joined in maker.operands for part in _parts(maker, joined)]


def _reason(found: Found, one: PreActivation, target: Target) -> str:
    """Why a pre-activation has other moments than those of the target."""
    if one.constrained and not target.convex_path:
        return "what its convex layers add stays as it is with skip='only'"
    if one.normalised:
        return "a normalisation decides, and what is added after it"
    if one.biases and id(one.biases[0].parameter) in found.bent:
        return f"the map behind {one.biases[0].name} does not give what is needed"
    return (
        "its weights and bias cannot make up for what is added to it, or that differs from pass to "
        "pass"
    )


def _meets(found: Found, reached: Mapping[PreActivation, Deviation]) -> bool:
    """Whether the last pre-activations have the moments of the target, as far as is known.

    What is summed after a normalisation is not measured.
    """
    return all(
        abs(reached[one].variance) <= _TOLERATED[1] if one in reached else one.starts
        for one in found.pre_activations
        if one.output
    )


def _of_output(found: Found, output: Tensor, target: Target) -> list[str]:
    """A warning if what follows the last layers gives the output other moments.

    Linear functions should have been followed. Others have their own mean and variance, which
    matter where they are far from the target.
    """
    assert found.end is not None
    if not output.is_floating_point() or output.ndim == 0:
        return []
    values = output.detach().double().reshape(len(output), -1)
    what, whole = "the output of the network", first_of(found.output)
    if found.returns_gradient:  # of a sum, of which the mean is lost
        values = values.sum(1, keepdim=True)
        values += target.mean - values.mean()
        what, whole = "what the network differentiates", found.trace.differentiated_rows
    if not torch.equal(first_of(found.end.output).flatten(), whole.flatten()):
        what += ", without what is added to it last,"
    # The means of positions may differ from each other, or not.
    least, most = float(values.var(0, correction=0).mean()), float(values.var(correction=0))
    mean, std = float(values.mean()), math.sqrt(least)
    low, high = ((1 + sign * _TOLERATED[1]) * target.variance for sign in (-1, 1))
    near, far = least <= high and most >= low, _is_far(mean, std, math.sqrt(most), target)
    if near and not far:
        return []
    names = ", ".join(one.name for one in found.pre_activations if one.output)
    of_these = f"as it is computed from that of the last layers ({names})"
    divide = f"Divide it by {std / target.std:.3g}" if 0 < std < math.inf else ""
    if found.trace.is_affine_since(found.last, found.end):
        if near:
            return []
        return [
            f"{what} has the variance {least:.3g} and not {target.variance:.3g}, {of_these} by a "
            "linear function that is not followed, such as a sum of a stack or of pieces. "
            f"{divide + ', or write' if divide else 'Write'} the function as one sum or mean, or "
            "as a product with a fixed matrix, of a tensor that has the rows first"
        ]
    if not far:
        return []
    of_function = f"{of_these} by an activation, a gate or another function that is not linear"
    if found.returns_gradient:
        return [
            f"{what} starts with the standard deviation {std:.3g} and not {target.std:.3g}, "
            f"{of_function}. {divide or _standardised(mean, std)}"
        ]
    return [
        f"{what} starts with the mean {mean:.3g} and the standard deviation {std:.3g}, and not "
        f"{target.mean:.3g} and {target.std:.3g}, {of_function}. {_standardised(mean, std)}"
    ]


def _of_shifts(found: Found, target: Target) -> list[str]:
    """A warning of an output to which a large number is added that is not trained."""
    for one in found.pre_activations:
        shift = _fixed_shift(found.trace, one) if one.output and one.biases else 0.0
        if abs(shift) > _FAR * target.std:
            return [
                f"the network adds a fixed number, {shift:.3g}, to its output behind the layer "
                f"{one.name}, which starts with the mean {target.mean:.3g} and the variance "
                f"{target.variance:.3g} all the same. If it is the mean of the targets, "
                "initialise what comes before: call=lambda network, *inputs: "
                f"(network(*inputs) {_minus(shift)}) / deviation"
            ]
    return []


def _fixed_shift(trace: Trace, one: PreActivation) -> float:
    """What numbers and buffers add to a pre-activation behind its first layer."""
    shift = 0.0
    for call in calls_between(one.first.call, one.call):
        fixed = [float(v.double().mean()) for v in call.args if _is_fixed(trace, call, v)]
        fixed += [v for v in call.args if isinstance(v, (int, float))]
        from_fixed = "sub" in call.name and any(_is_fixed(trace, call, v) for v in call.args[:1])
        negates = call.name in NEGATIONS or from_fixed
        shift = -shift if negates else shift
        if not fixed:
            continue
        if call.name in SUMS | NEGATIONS:
            shift += -fixed[0] if "sub" in call.name and not negates else fixed[0]
        elif call.name in MULTIPLICATIONS:
            shift *= fixed[0]
        elif call.name in DIVISIONS:
            shift /= fixed[0] or 1.0
    return shift


def _is_fixed(trace: Trace, call: Call, value: Any) -> bool:
    """Whether an argument of a call is a tensor that no call made, no input and not trained."""
    if not isinstance(value, Tensor) or value.is_complex() or trace.dependence(value):
        return False
    return not value.requires_grad and id(value) not in call.made_by


def _minus(number: float) -> str:
    return f"{'-' if number > 0 else '+'} {abs(number):.3g}"


def _standardised(mean: float, std: float) -> str:
    """What to do about an output with these moments."""
    if not math.isfinite(mean + std):
        return "Use a function that grows less, or a smaller variance"
    if std == 0:
        return "It is the same for all rows: use a function that varies, or another mean="
    made = f"(y {_minus(mean)}) / {std:.3g}"
    return f"Make {made} of it, or bring the targets to this mean and deviation"
