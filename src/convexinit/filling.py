"""Fill the layers of a network that anybody wrote, on the moments measured at each of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Mapping
from contextlib import nullcontext, suppress
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.autograd.graph import allow_mutation_on_saved_tensors

from convexinit.assignment import is_close
from convexinit.calls import PassEnded, calls_between, changes_in_place
from convexinit.convexity import not_convex
from convexinit.difference import convex_functions
from convexinit.evaluation import (
    NOT_CALLABLE,
    Convex,
    Evaluation,
    Inputs,
    checked,
    evaluated,
    first_of,
    forward,
    gives_numbers,
    not_callable,
    run,
    scale_remark,
)
from convexinit.filling_pass import Deviation, Filling, Target, normalises
from convexinit.finding import apart_from_all, apart_remarks, find_prepared, problems_of
from convexinit.found import Found, FoundLayer, Options, PreActivation
from convexinit.products import Dependence
from convexinit.proof import is_proven_convex, nearly_convex
from convexinit.remarks import remarks

# Passes over all layers: one that draws, others that correct what it could not foresee. One more
# measures what they left.
_PASSES = 5
_PASSES_WITH_FIRST_BATCH = 2  # after which normalisations stay as they are
_KEPT = 16 * 2**20  # bytes, up to which memory is not fetched anew


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
                found = find_prepared(
                    network, arguments, columns, function, layers or {}, evaluation
                )
                constrained = [m.owner for one in found.pre_activations for m in one.constrained]
                writes = evaluation.snapshot.has_changed(constrained)
                founds.append(found)
                kept = _take_kept(network, found)
                _check_found(found, target)
                filled = _fill_(
                    network, arguments, columns, function, found, kept, target, evaluation,
                    generator,
                )  # fmt: skip
                if writes:
                    _check_left(network, arguments, function, found)
                if found.returns_gradient and any(o.is_without_bias for o in found.pre_activations):
                    found.gives_numbers = gives_numbers(network, arguments, function, found.rows)
                messages += remarks(found, filled, target)
                known = evaluation.snapshot.numbers
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
        and not (one.biases or one.output or one.said or one.starts)
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
    """What keeps weights from being filled that others could be, "" for nothing.

    Args:
        layer: without another problem.
        orthogonal: whether its weights are to be orthogonal.
    """
    product = layer.call.product
    if product is None or layer.kept:
        return ""
    if layer.role != "context" and changes_in_place(product.name):
        return f"{product.name} writes its result to an operand; write torch.{product.name[:-1]}"
    if layer.role != "constrained" or product.is_convolution:
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
) -> Filling:
    """Fill all layers; returns the last pass, and what it measured."""
    levels = [
        Dependence.AFFINE if index in columns else Dependence.CONTEXT
        for index in range(len(arguments))
    ]
    differentiates = found.trace.differentiates and not found.returns_gradient
    statistics = set(map(id, evaluation.statistics))
    rescaled = _take_rescaled(found, statistics)

    if found.late:  # some have seen a few of the rows
        evaluation.start(again=evaluation.starting)
    # glibc gives memory back to the system, from where it is slow to fetch it for every result, but
    # none in pieces smaller than one that was given back before.
    torch.empty(_KEPT, dtype=torch.uint8, device="cpu")
    before: dict[PreActivation, Deviation] = {}
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
                evaluation.first_batches(found.renewed),
                filling,
                suppress(PassEnded),
            ):
                run(network, copies, call)
        except NOT_CALLABLE as error:
            if error is filling.error:
                raise ValueError(f"{error}{scale_remark(arguments, columns)}") from error
            raise not_callable(network, arguments, error) from error
        filling.check_complete()
        moved = not before or any(
            one.differs_from(before.get(key)) for key, one in filling.deviations.items()
        )
        if (filling.is_precise() or not moved) and not (found.late and number == 0):
            break
        if number > 0:  # where what a correction does is not yet known
            before = filling.deviations
        if found.late and number < _PASSES_WITH_FIRST_BATCH:
            evaluation.start(again=evaluation.starting)
    return filling


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
            modules[layer.name].parameters() if layer.name in modules else [layer.owner]
        )
    }
    for one in found.pre_activations:
        one.biases = [option for option in one.biases if id(option.parameter) not in kept]
    return kept
