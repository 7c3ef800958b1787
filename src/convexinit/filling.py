"""Fill the layers of a network that anybody wrote, on the moments measured at each of them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Collection, Mapping
from contextlib import nullcontext, suppress
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.autograd.graph import allow_mutation_on_saved_tensors

from convexinit.assignment import is_close
from convexinit.calls import PassEnded, calls_between, following
from convexinit.convexity import not_convex
from convexinit.difference import convex_functions
from convexinit.dropout import grows_noise
from convexinit.evaluation import (
    NOT_CALLABLE,
    Convex,
    Evaluation,
    Inputs,
    checked,
    evaluated,
    first_of,
    forward,
    not_callable,
    run,
    scale_remark,
)
from convexinit.filling_pass import Deviation, Filling, Target, normalises
from convexinit.finding import apart_from_all, apart_remarks, find_prepared, problems_of
from convexinit.found import Found, FoundLayer, Options, PreActivation
from convexinit.products import Dependence
from convexinit.proof import is_proven_convex, nearly_convex
from convexinit.unseen import unseen_remarks

# Passes over all layers: one that draws, others that correct what it could not foresee. One more
# measures what they left.
_PASSES = 5
_PASSES_WITH_FIRST_BATCH = 2  # after which normalisations stay as they are
_TOLERATED = (0.1, 0.2)  # deviations of mean and variance that are not reported
_APART = 1.0  # distance of the means of units that is not, in standard deviations
# That a variance may rest on: its standard error is then what is tolerated.
_FEWEST_ROWS = 1 / _TOLERATED[1] ** 2


def fill_network_(
    network: nn.Module,
    inputs: Inputs,
    target: Target,
    convex: Convex,
    call: Callable[..., Tensor] | None,
    layers: Options | None,
    generator: Generator | None,
) -> None:
    """Find all layers of a network and fill them; see :func:`convexinit.init_icnn_`.

    Raises:
        ValueError: if something is missing; the network, the source of randomness and the generator
            are as before then.
    """
    arguments, columns = checked(inputs, convex)
    functions = convex_functions(network, call, layers)
    random_state = torch.get_rng_state()
    state = None if generator is None else generator.get_state()
    if generator is None:
        generator = torch.Generator().manual_seed(int(torch.randint(2**62, (), device="cpu")))
    try:
        with evaluated(network, arguments, call, again=True) as evaluation:
            messages, founds = [], []
            for function in functions:
                before = [
                    (tensor, tensor.detach().clone())
                    for tensor in network.parameters()
                    if tensor.layout is torch.strided
                ]
                found = find_prepared(
                    network, arguments, columns, function, layers or {}, evaluation.starting
                )
                writes = not all(torch.equal(tensor, value) for tensor, value in before)
                founds.append(found)
                kept = _take_kept(network, found)
                _check_found(found, target)
                reached, output = _fill_(
                    network, arguments, columns, function, found, kept, target, evaluation,
                    generator,
                )  # fmt: skip
                if writes:
                    _check_left(network, arguments, function, found)
                messages += _remarks(found, reached, target) + unseen_remarks(found.unseen)
                messages += _of_concatenations(found)
                if found.gathers and target.convex_path and _meets(found, reached):
                    messages += _of_output(found, output, target)
                if target.convex_path and target.draw is None:
                    messages += grows_noise(_hidden_dropouts(found))
                known = {id(t) for t in (*network.parameters(), *network.buffers())}
                differentiates = found.returns_gradient
                result = found.trace.differentiated if differentiates else first_of(found.output)
                if not is_proven_convex(found.trace, result, known, columns):
                    try:
                        messages += not_convex(
                            network, arguments, columns, function, differentiates
                        ) or nearly_convex(found.trace)
                    except NOT_CALLABLE as error:
                        if not differentiates:  # of steps of an optimiser, say
                            messages.append(f"whether the network is convex is not known: {error}")
            apart = apart_from_all(founds)
            messages += apart_remarks(apart, "initialised")
            evaluation.leave(apart)
            evaluation.keeps = True
    except BaseException:
        torch.set_rng_state(random_state)
        if state is not None:
            generator.set_state(state)
        raise
    for message in messages:
        warnings.warn(message, stacklevel=4)


def _check_found(found: Found, target: Target) -> None:
    """Raise one error for everything that is missing."""
    problem_of = {
        layer: layer.obstacle or _not_fillable(layer, target.convex_path and target.draw is None)
        for layer in found.layers
    }
    problems = problems_of(found, problem_of, "to initialise")
    uncentred = {
        one.constrained[0].name: {"bias": None}
        for one in found.pre_activations
        if one.constrained
        and not (one.biases or one.output or one.said)
        and not any(problem_of[layer] or layer.kept for layer in one.constrained)
    }
    if uncentred:
        problems.append(
            f"{', '.join(uncentred)}: no parameter shifts its pre-activation by the same amount "
            "for every row, so that it cannot be centred; give it or its skip connection a bias, "
            f"or accept that with layers={uncentred}"
        )
    if problems:
        raise ValueError("the network cannot be initialised. " + "; ".join(problems))
    output = first_of(found.output)
    if not found.returns_gradient and not (
        isinstance(output, Tensor) and output.ndim > 0 and len(output) == found.rows
    ):
        shape = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
        turned = isinstance(output, Tensor) and output.ndim == 2 and output.shape[1] == found.rows
        function = "*inputs: network(*inputs).T" if turned else "x: network.potential(x)"
        raise ValueError(
            f"the network must give one value or vector for each row; it gives {shape} for "
            f"{found.rows} rows. Say with call= which function is convex: "
            f"call=lambda network, {function}"
        )


@torch.no_grad()
def _check_left(
    network: nn.Module,
    arguments: tuple[Tensor, ...],
    call: Callable[..., Tensor] | None,
    found: Found,
) -> None:
    """Raise ValueError if the network writes others to weights that are as they are to be."""
    filled = {
        layer.name: (layer.raw, layer.raw.detach().clone())
        for layer in found.layers
        if layer.role == "constrained" and layer.raw is not None and not layer.kept
    }
    forward(network, tuple(argument[: found.rows] for argument in arguments), call)
    changed = [name for name, (raw, value) in filled.items() if not is_close(raw, value)]
    if changed:
        raise ValueError(
            f"the network cannot be initialised. {', '.join(changed)}: the network writes other "
            "numbers to its parameter whenever it is called, also where that is not negative, so "
            "that nothing stays that is written to it; project with clamp(min=0), compute the "
            "weight from the parameter, or leave the layer as it is: {'keep': True}"
        )


def _not_fillable(layer: FoundLayer, orthogonal: bool) -> str:
    """What keeps weights of more dimensions than a matrix from being filled, "" for nothing.

    Args:
        layer: without another problem.
        orthogonal: whether its weights are to be orthogonal.
    """
    product = layer.call.product
    if product is None or layer.role != "constrained" or layer.kept or product.is_convolution:
        return ""
    if product.has_members:
        return (
            f"its weight has a matrix for each of the {len(product.weight)} members of an "
            f"ensemble, which {product.name} multiplies at once; initialise every member as a "
            "network of its own, and copy their parameters into these (torch.stack)"
        )
    if orthogonal and product.weight.ndim > 2:
        return (
            "its weight is neither a matrix nor a kernel, for which there are orthogonal weights; "
            "give method=\"moments\", or leave it as it is: {'keep': True}"
        )
    return ""


def _fill_(
    network: nn.Module,
    arguments: tuple[Tensor, ...],
    columns: Mapping[int, Any],
    call: Callable[..., Tensor] | None,
    found: Found,
    kept: set[int],
    target: Target,
    evaluation: Evaluation,
    generator: Generator,
) -> tuple[dict[PreActivation, Deviation], Any]:
    """Fill all layers.

    Returns:
        By how much they were off in the last pass, and the output if that is looked at.
    """
    levels = [
        Dependence.AFFINE if index in columns else Dependence.CONTEXT
        for index in range(len(arguments))
    ]
    differentiates = found.trace.differentiates and not found.returns_gradient
    statistics = set(map(id, evaluation.statistics))
    rescaled = _take_rescaled(found, statistics)

    for number in range(_PASSES + 1):
        copies = [argument.detach().clone() for argument in arguments]
        filling = Filling(
            list(zip(copies, levels, strict=True)), found, target, generator, number == 0,
            number < _PASSES, statistics, rescaled, kept,
        )  # fmt: skip
        try:
            with (
                # As in the trace, where a network asks its tensors whether they require gradients.
                torch.set_grad_enabled(found.returns_gradient or differentiates),
                # What is differentiated may have been computed with weights before they are filled.
                allow_mutation_on_saved_tensors() if differentiates else nullcontext(),
                filling,
                suppress(PassEnded),
            ):
                filling.output = run(network, copies, call)
        except NOT_CALLABLE as error:
            if error is filling.error:
                raise ValueError(f"{error}{scale_remark(arguments, columns)}") from error
            raise not_callable(network, arguments, error) from error
        filling.check_complete()
        if filling.is_precise() and not (evaluation.starting and number == 0):
            break
        if evaluation.starting and number < _PASSES_WITH_FIRST_BATCH:
            evaluation.start(again=True)
    return filling.deviations, filling.output


def _take_rescaled(found: Found, statistics: Collection[int]) -> set[int]:
    """Numbers (``id``) of layers whose scale has no effect, as the batch decides it.

    What shifts such a layer alone is no longer a bias.
    """
    layers, shifts = set(), set()
    for one in found.pre_activations:
        members = one.constrained + one.free
        for layer in members:
            calls = [layer.call, *calls_between(layer.call, one.call)]
            for index, call in enumerate(calls):
                if normalises(call.name, call.args, statistics):
                    layers.add(id(layer))
                    shifts |= {id(t) for c in calls[:index] for t in c.operands}
        one.normalised |= layers >= set(map(id, members))
        one.biases = [option for option in one.biases if id(option.parameter) not in shifts]
    return layers


def _take_kept(network: nn.Module, found: Found) -> set[int]:
    """Numbers (``id``) of the parameters of layers that stay; none of them is a bias any more."""
    layers = [layer for layer in found.layers if layer.kept]
    if not layers:
        return set()
    modules = dict(network.named_modules())
    kept = {
        id(parameter)
        for layer in layers
        for parameter in (
            modules[layer.name].parameters() if layer.name in modules else [layer.raw]
        )
    }
    for one in found.pre_activations:
        one.biases = [option for option in one.biases if id(option.parameter) not in kept]
    return kept


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


def _remarks(found: Found, reached: Mapping[PreActivation, Deviation], target: Target) -> list[str]:
    """Warnings about single layers of a network that is filled."""
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
                    + _reason(one, target)
                )
        elif rows < _FEWEST_ROWS:
            few[one.name] = rows
        if apart > _APART and not (one.said or (one.output and one.constrained)):
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
        "own, the result of which is added"
    ]


def _reason(one: PreActivation, target: Target) -> str:
    """Why a pre-activation has other moments than those of the target."""
    if one.constrained and not target.convex_path:
        return "what its convex layers add stays as it is with skip='only'"
    if one.normalised:
        return "a normalisation decides, and what is added after it"
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
