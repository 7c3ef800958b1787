"""What is said of a network whose layers are filled."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from convexinit.calls import following
from convexinit.dropout import grows_noise
from convexinit.filling_pass import Deviation, Target
from convexinit.found import Found, PreActivation
from convexinit.products import Dependence
from convexinit.unseen import unseen_remarks

_TOLERATED = (0.1, 0.2)  # deviations of mean and variance that are not reported
_APART = 1.0  # distance of the means of units that is not, in standard deviations
# That a variance may rest on: its standard error is then what is tolerated.
_FEWEST_ROWS = 1 / _TOLERATED[1] ** 2


def remarks(
    found: Found, reached: Mapping[PreActivation, Deviation], output: Any, target: Target
) -> list[str]:
    """Warnings of what is off the target, or will be, and of what was left as it is.

    Args:
        found: in the network.
        reached: how far pre-activations are from the target.
        output: of the network, None if it was not computed.
        target: of all of them.
    """
    messages = _of_layers(found, reached, target) + unseen_remarks(found.unseen)
    messages += _of_concatenations(found)
    if found.gathers and target.convex_path and _meets(found, reached):
        messages += _of_output(found, output, target)
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
        if one.constrained and one.output and not one.biases and not one.said:
            messages.append(
                f"no parameter can centre the output layer {one.name}; the mean of the output "
                "stays what the weights make it"
            )
        if abs(mean) > _TOLERATED[0] or abs(variance) > _TOLERATED[1]:
            of_mean = f"the mean {target.mean + mean * target.std:.3g} and " if one.biases else ""
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


def _of_concatenations(found: Found) -> list[str]:
    """A warning of layers that need non-negative weights for a part of what they read alone."""
    names: dict[str, None] = {}
    for one in found.pre_activations:
        for layer in one.constrained:
            product = layer.call.product
            maker = layer.call.made_by.get(id(product.input)) if product else None
            if maker is None or maker.name not in {"cat", "concat", "hstack"} or layer.kept:
                continue
            levels = set(map(found.trace.dependence, maker.operands))
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
    """Whether the last pre-activations have the moments of the target."""
    return all(
        one in reached and abs(reached[one].variance) <= _TOLERATED[1]
        for one in found.pre_activations
        if one.output
    )


def _of_output(found: Found, output: Any, target: Target) -> list[str]:
    """A warning if functions that are not followed give the output another variance."""
    if not isinstance(output, Tensor):
        return []
    values = output.detach().double().reshape(len(output), -1)
    # The means of positions may differ from each other, or not.
    least, most = float(values.var(0, correction=0).mean()), float(values.var(correction=0))
    low, high = ((1 + sign * _TOLERATED[1]) * target.variance for sign in (-1, 1))
    if least <= high and most >= low:
        return []
    names = ", ".join(one.name for one in found.pre_activations if one.output)
    factor = math.sqrt(least / target.variance)
    divide = f"Divide the output by {factor:.3g}, or write" if 0 < factor < math.inf else "Write"
    return [
        f"the output of the network has the variance {least:.3g} and not {target.variance:.3g}, as "
        f"it is computed from that of the last layers ({names}) by a linear function that is not "
        f"followed, such as a sum of a stack or of pieces. {divide} the function as one sum or "
        "mean, or as a product with a fixed matrix, of a tensor that has the rows first"
    ]
