"""Find the layers of a network that anybody wrote, and the parameters behind them.

:func:`find_layers` runs the network once on a few rows of its inputs
(:class:`convexinit.tracing.Trace`). A linear operation whose input is not affine in the convex
arguments needs non-negative weights to keep the network convex; one whose input is affine is free
(first layer, skip connection), unless its weights are made non-negative; one whose input depends on
other arguments alone is context. One that reads several of these in one tensor counts as several
operations (:mod:`convexinit.joins`). No names, classes or order of registration are used.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import disable_saved_tensors_hooks

from convexinit.calls import Call, PassEnded, preceding
from convexinit.checks import check_choice, check_number
from convexinit.evaluation import (
    NOT_CALLABLE,
    Convex,
    Evaluation,
    Inputs,
    as_tuple,
    before_calls,
    convex_columns,
    evaluated,
    first_of,
    forward,
    is_within,
    not_callable,
    run,
)
from convexinit.found import Found, FoundLayer, Options
from convexinit.nested import flat
from convexinit.positivity import Positivity
from convexinit.pre_activations import WITHOUT_GRADIENTS, find_pre_activations
from convexinit.products import Dependence
from convexinit.tracing import DIVISIONS, MULTIPLICATIONS, RESHAPES, Trace
from convexinit.unseen import find_unseen, unseen_problems
from convexinit.weight_maps import (
    MAPS,
    Known,
    WeightMap,
    find_map,
    is_kept_positive,
    parametrized_map,
    said_map,
    scaled_map,
)

_ROWS = 8  # in each half of the rows that are traced
# Standard deviation of a gate over the rows, relative to its mean, up to which twelve layers stay
# on target on fresh rows.
_EVEN = 0.1
_RECOMPUTED = (
    "hooks on what is saved to differentiate (torch.utils.checkpoint, save_on_cpu) cannot be "
    "followed; switch them off for this call"
)
# What a signal passes through between an activation and a linear operation.
_BETWEEN = MULTIPLICATIONS | DIVISIONS | RESHAPES | {"dropout"}
_OPTIONS = ("positivity", "gain", "bias", "keep")


def find_layers(
    network: nn.Module,
    inputs: Inputs,
    convex: Convex = 0,
    call: Callable[..., Tensor] | None = None,
    layers: Options | None = None,
) -> list[FoundLayer]:
    """The linear operations of a network that depend on its inputs, in the order of their calls.

    The network is as before afterwards. What keeps a layer from being initialised is in its
    ``obstacle``; nothing is raised for it. :func:`find` also gives the pre-activations.

    Args:
        network: any network.
        inputs: tensor, or tuple of tensors, that it can be called with; at least two rows.
        convex: see :func:`convexinit.init_icnn_`.
        call: see :func:`convexinit.init_icnn_`.
        layers: see :func:`convexinit.init_icnn_`.

    Raises:
        ValueError: if the inputs or options do not fit.

    Example:
        >>> network = nn.Sequential(nn.Linear(2, 4), nn.Softplus(), nn.Linear(4, 1))
        >>> for layer in find_layers(network, torch.randn(16, 2)):
        ...     print(layer.name, layer.role, layer.map.name)
        0 free projection
        2 constrained projection
    """
    return find(network, inputs, convex, call, layers).layers


def find(
    network: nn.Module,
    inputs: Inputs,
    convex: Convex = 0,
    call: Callable[..., Tensor] | None = None,
    layers: Options | None = None,
) -> Found:
    """:func:`find_layers` with the pre-activations that the layers add up to."""
    arguments = as_tuple(inputs)
    columns = convex_columns(convex, arguments)
    with evaluated(network, arguments, call) as evaluation:
        return find_prepared(network, arguments, columns, call, layers or {}, evaluation)


def find_prepared(
    network: nn.Module,
    arguments: tuple[Tensor, ...],
    columns: Mapping[int, Any],
    call: Callable[..., Tensor] | None,
    options: Options,
    evaluation: Evaluation,
) -> Found:
    """:func:`find` in a network in evaluation mode, which is not restored."""
    _check_options(options)
    parameters = dict(network.named_parameters())
    for parameter in parameters.values():
        if parameter.is_leaf and parameter.is_floating_point():
            parameter.requires_grad_()
    rows = min(_ROWS, len(arguments[0]) // 2)
    halves = _halves(arguments, columns, rows)
    try:
        trace, output, needs_gradient = _trace(
            network, halves, columns, call, rows, evaluation.starting if evaluation.again else {}
        )
    except ValueError:
        _check_rows(network, arguments, tuple(halves), call)
        raise
    result = trace.differentiated if trace.returns_gradient else first_of(output)
    hidden = []
    if isinstance(result, Tensor) and trace.is_lost(result):
        parts = _unread(network, trace)
        hidden = [part for part in parts if _reaches(network.get_submodule(part), result)]
    if trace.lost or hidden:
        of = ", ".join(filter(None, hidden)) or "its parameters"
        where = f"a tensor that {trace.lost} uses" if trace.lost else f"what comes of {of}"
        raise ValueError(
            f"{where} is computed in a way that cannot be seen, as by torch.jit.script, a "
            "torch.autograd.Function, torch.vmap or reentrant torch.utils.checkpoint; write it "
            "with functions of torch, or say with call= which part of the network to look at"
        )
    names = {id(parameter): name for name, parameter in parameters.items()}
    curved = _curved_parameters(trace, names)
    maps = Known()
    found = [
        _found_layer(network, trace, one, names, curved, maps)
        if one.product
        else _elementwise_hypernetwork(trace, one)
        for one in trace.calls
    ]
    layers = [layer for layer in found if layer]
    for layer in layers:
        product = layer.call.product
        layer.curved = product is None or trace.dependence(product.input) == Dependence.CURVED
    constrained = {id(layer.owner) for layer in layers if layer.role == "constrained"}
    unseen = find_unseen(trace, names, constrained)
    accepted = {one.parameter for one in unseen if options.get(one.parameter) == {"keep": True}}
    unseen = [one for one in unseen if one.parameter not in accepted]
    accepted -= {name for layer in layers for name in (layer.name, layer.parameter)}
    options = {name: said for name, said in options.items() if name not in accepted}
    _apply_options(layers, options, parameters)
    raws: dict[Any, Tensor] = {}
    for layer in layers:
        if layer.raw is not None:  # one view for all uses of a part
            layer.raw = raws.setdefault(_place_of(layer.raw), layer.raw)
    held = {id(layer.owner) for layer in layers}
    renewed = [
        module
        for module, calls in trace.entered.items()
        if len(calls) == 1
        and held.isdisjoint(map(id, module.parameters()))
        and module not in evaluation.renewed  # as another function decides what they are
    ]
    evaluation.renewed.update(renewed)
    late = {name: m for name, m in evaluation.starting.items() if m not in renewed}
    pre_activations = find_pre_activations(
        network, parameters, trace, layers, renewed, late, options
    )
    return Found(
        layers, pre_activations, trace.returns_gradient, needs_gradient, output, 2 * rows, unseen,
        trace, _apart(network, trace), renewed, late, _not_followed(trace, layers, names),
    )  # fmt: skip


def _check_rows(
    network: nn.Module,
    arguments: tuple[Tensor, ...],
    few: tuple[Tensor, ...],
    call: Callable[..., Tensor] | None,
) -> None:
    """Raise ValueError if a network can be called with all rows, but not with a few of them."""
    try:
        forward(network, few, call)
    except ValueError as error:
        forward(network, arguments, call)  # which raises what is wrong with all of them too
        raise ValueError(
            f"the network can be called with {len(arguments[0])} rows, but not with {len(few[0])} "
            "of them, on which its layers are looked for; let it take any number of rows, and hold "
            f"nothing that has a number for each. With these, {error}"
        ) from error


def _apart(network: nn.Module, trace: Trace) -> list[str]:
    """Parts that have none in what the network differentiates first; none if it does not."""
    return _unread(network, trace) if trace.returns_gradient else []


def _not_followed(
    trace: Trace, layers: Sequence[FoundLayer], names: Mapping[int, str]
) -> dict[str, Call]:
    """Affine functions of convex inputs and parameters that no layer computes, but that are bent.

    The calls that give them, by the names of the parameters.
    """
    followed = {id(layer.call) for layer in layers if layer.role != "context"}
    found: dict[str, Call] = {}
    for call in trace.calls:
        if call.level != Dependence.AFFINE or id(call) in followed or not call.consumers:
            continue
        made = [t for t in flat(call.output) if isinstance(t, Tensor)]
        bent = any(
            user.level == Dependence.CURVED and not user.product
            and not trace.is_affine(user, [t for t in user.operands if any(t is m for m in made)])
            for user in call.consumers
        )  # fmt: skip
        if not bent or not followed.isdisjoint(map(id, preceding(call))):
            continue
        leaves = {id(leaf) for operand in call.operands for leaf in call.leaves_of(operand)}
        if behind := ", ".join(name for number, name in names.items() if number in leaves):
            found[behind] = call
    return found


def _reaches(part: nn.Module, result: Tensor) -> bool:
    """Whether a result depends on a parameter of a part."""
    weights = [parameter for parameter in part.parameters() if parameter.requires_grad]
    slopes = torch.autograd.grad(result.sum(), weights, allow_unused=True, retain_graph=True)
    return any(slope is not None for slope in slopes)


def _unread(network: nn.Module, trace: Trace) -> list[str]:
    """Parts with weights of which no call that was seen reads any parameter."""
    read = {
        id(leaf)
        for call in trace.calls
        for operand in call.operands
        for leaf in call.leaves_of(operand)
    }
    apart: list[str] = []
    for name, module in network.named_modules():
        weights = [p for p in module.parameters() if p.ndim > 1 and p.numel()]
        if weights and not is_within(name, apart) and read.isdisjoint(map(id, module.parameters())):
            apart.append(name)
    return apart


def apart_from_all(founds: Sequence[Found]) -> list[str]:
    """Parts that have none in any of the functions of a network: of a difference, in neither."""
    return [
        part
        for part in dict.fromkeys(part for found in founds for part in found.apart)
        if all(is_within(part, found.apart) for found in founds)
    ]


def apart_remarks(apart: Collection[str], purpose: str) -> list[str]:
    """A warning of parts that have none in what the network differentiates first.

    Args:
        apart: their names.
        purpose: of looking for convex layers, in the participle.
    """
    if not apart:
        return []
    return [
        "the network returns a gradient, and these have no part in what it differentiates first: "
        f"{', '.join(apart)}. They are not {purpose}; if one is another convex function, "
        "give it as a network of its own, with what it reads as inputs"
    ]


def problems_of(found: Found, problem_of: Mapping[FoundLayer, str], purpose: str) -> list[str]:
    """What keeps a network from being worked on: each problem once, after the names that have it.

    Args:
        found: in the network.
        problem_of: every layer; "" is none.
        purpose: of looking for convex layers.

    Raises:
        ValueError: if there is no problem, but no convex layer either.
    """
    names_of: dict[str, dict[str, None]] = {}  # each once, however often a layer is used
    for layer, problem in problem_of.items():
        names_of.setdefault(problem, {})[layer.name] = None
    problems = [f"{', '.join(names)}: {one}" for one, names in names_of.items() if one]
    problems += unseen_problems(found.unseen)
    if not problems and not any(one.constrained for one in found.pre_activations):
        raise no_convex_layer(purpose)
    return problems


def no_convex_layer(purpose: str) -> ValueError:
    """The error for a network in which no layer was found that is constrained."""
    return ValueError(
        f"the network has no convex layer {purpose}: no linear operation with a parameter reads a "
        "function of the convex argument that is not affine; say which arguments it is convex in "
        "(convex=), or which function (call=)"
    )


def _halves(arguments: tuple[Tensor, ...], columns: Mapping[int, Any], rows: int) -> list[Tensor]:
    """A few rows twice, with other values of the convex arguments the second time."""
    halves = []
    for index, argument in enumerate(arguments):
        first = argument[:rows].detach()
        second = first.clone()
        if index in columns:
            second[..., columns[index]] = argument[rows : 2 * rows, ..., columns[index]].detach()
        halves.append(torch.cat([first, second]))
    return halves


def _trace(
    network: nn.Module,
    halves: list[Tensor],
    columns: Mapping[int, Any],
    call: Callable[..., Tensor] | None,
    rows: int,
    starting: Mapping[str, nn.Module],
) -> tuple[Trace, Any, bool]:
    """The trace, the output, and whether the network needs inputs that require gradients."""
    problem: Exception
    for requires_grad in (False, True):
        inputs = [
            half.clone().requires_grad_(requires_grad and half.is_floating_point())
            for half in halves
        ]
        levels = [
            (tensor, Dependence.AFFINE if index in columns else Dependence.CONTEXT)
            for index, tensor in enumerate(inputs)
        ]
        trace = Trace(levels, rows)
        output = None
        try:
            with (
                torch.enable_grad(),
                disable_saved_tensors_hooks(_RECOMPUTED),
                suppress(PassEnded),
                before_calls(starting.values(), trace.enter),
                trace,
            ):
                output = run(network, inputs, call)
            return trace, output, requires_grad
        except NOT_CALLABLE as error:
            problem = error
    raise not_callable(network, halves, problem) from problem


def _found_layer(
    network: nn.Module,
    trace: Trace,
    call: Call,
    names: Mapping[int, str],
    curved_parameters: Collection[Any],
    maps: Known,
) -> FoundLayer | None:
    """The layer of a linear operation, None for one without parameters.

    A parameter is constrained if one of its uses is.
    """
    product = call.product
    assert product is not None
    level, weight_level = trace.dependence(product.input), trace.dependence(product.weight)
    if weight_level > Dependence.CONSTANT:
        parameters = [leaf for leaf in call.leaves_of(product.weight) if id(leaf) in names]
        if level <= max(weight_level, Dependence.AFFINE) or not parameters:
            return None  # a product of data, or with data, as with the neighbours in a graph
        return _hypernetwork(call, product.weight)
    leaves, curved = call.leaves_of(product.weight), level == Dependence.CURVED
    if curved and any(
        leaf.requires_grad and leaf.is_leaf and id(leaf) not in names for leaf in leaves
    ):
        problem = "its weight is no parameter of the network; register it, as in nn.ParameterList"
        return FoundLayer(_described(call), "constrained", call, problem=problem)
    leaves = [leaf for leaf in leaves if id(leaf) in names]
    if not leaves:
        return None
    raw = max(leaves, key=lambda leaf: (leaf.numel() == product.weight.numel(), leaf.numel()))
    parameter = names[id(raw)]
    layer = FoundLayer(_layer_name(network, parameter), "free", call, raw, parameter)
    if level <= Dependence.CONTEXT:
        layer.role = "context"
        return layer
    owner = parameter.rpartition(".")[0]
    layer.problem = _hook_problem(network.get_submodule(owner))
    if layer.problem:
        layer.name, layer.role = owner or parameter, "constrained" if curved else "free"
        return layer
    if id(raw) in curved_parameters:
        layer.raw = raw = call.part_of(raw, product.weight)
    layer.map = find_map(call, product.weight, raw, maps)
    layer.map = layer.map or parametrized_map(network, call, parameter)
    if _place_of(raw) in curved_parameters or is_kept_positive(layer.map, raw):
        layer.role = "constrained"
        gates = _gates(trace, call)
        layer.gated, layer.uneven = bool(gates), any(map(_is_uneven, gates))
    elif layer.map is None or layer.map.name == "numerical":  # which inverts positive maps alone
        layer.map = scaled_map(call, product.weight, raw)
    if not product.weight.requires_grad:
        layer.problem = WITHOUT_GRADIENTS
    return layer


def _curved_parameters(trace: Trace, names: Mapping[int, str]) -> set[Any]:
    """Parameters that a linear operation multiplies what is not affine by, by ``id``.

    Also the places of their parts that it has, if it does not have all of them.
    """
    products = [(call, call.product) for call in trace.calls if call.product]
    return {
        number
        for call, product in products
        if trace.dependence(product.input) == Dependence.CURVED
        for leaf in call.leaves_of(product.weight)
        if id(leaf) in names
        for number in (id(leaf), _place_of(call.part_of(leaf, product.weight)))
    }


def _place_of(raw: Tensor) -> Any:
    """What tells a parameter from others, and its parts from other parts of it."""
    if raw._base is None:
        return id(raw)
    return id(raw._base), raw.storage_offset(), raw.shape, raw.stride()


def _hook_problem(module: nn.Module) -> str:
    """What keeps a module from being initialised whose weight a hook of torch computes."""
    hooks = {type(hook).__name__ for hook in module._forward_pre_hooks.values()}
    if "WeightNorm" in hooks:
        return (
            "torch.nn.utils.weight_norm computes its weight in a hook, to which nothing can be "
            "written; use torch.nn.utils.parametrizations.weight_norm"
        )
    if "SpectralNorm" in hooks:
        return (
            "torch.nn.utils.spectral_norm fixes the scale of its weight, so that it cannot be "
            "initialised; remove it (torch.nn.utils.remove_spectral_norm)"
        )
    return ""


def _described(call: Call) -> str:
    """An operation without a name."""
    return f"{call.name} with result of shape {list(getattr(call.output, 'shape', ()))[1:]}"


def _hypernetwork(call: Call, weight: Tensor) -> FoundLayer:
    problem = (
        f"its weights, of shape {list(weight.shape)}, are computed from the inputs by another "
        "network (a hypernetwork), so that no initialisation can be written to them"
    )
    return FoundLayer(_described(call), "constrained", call, problem=problem)


def _elementwise_hypernetwork(trace: Trace, call: Call) -> FoundLayer | None:
    """A product in which every feature gets many weights from the context, to be summed later."""
    if call.name not in MULTIPLICATIONS or call.value is None:
        return None
    operands = {trace.dependence(t): t for t in call.operands}
    if set(operands) != {Dependence.CURVED, Dependence.CONTEXT}:
        return None
    signal, weight = operands[Dependence.CURVED], operands[Dependence.CONTEXT]
    return _hypernetwork(call, weight) if call.value.numel() > signal.numel() else None


def _layer_name(network: nn.Module, parameter: str) -> str:
    """Of the layer that a parameter belongs to: a module with one matrix, or the parameter."""
    path = parameter.split(".")
    if "parametrizations" in path:
        return ".".join(path[: path.index("parametrizations")])
    owner = network.get_submodule(".".join(path[:-1]))
    matrices = [p for p in owner.parameters(recurse=False) if p.ndim > 1]
    if len(matrices) > 1 or isinstance(owner, (nn.ParameterList, nn.ParameterDict)):
        return parameter
    return ".".join(path[:-1]) or parameter


def _gates(trace: Trace, call: Call) -> list[Tensor]:
    """Factors of the input that depend on other arguments, and differ between rows or are zero."""
    assert call.product is not None
    gates: list[Tensor] = []
    maker = call.made_by.get(id(call.product.input))
    while maker is not None and maker.name in _BETWEEN:
        if maker.name in MULTIPLICATIONS:
            gates += [t for t in maker.operands if trace.dependence(t) == Dependence.CONTEXT]
        moving = [t for t in maker.operands if trace.dependence(t) > Dependence.CONTEXT]
        maker = maker.made_by.get(id(moving[0])) if len(moving) == 1 else None
    return [t for t in gates if t.ndim > 0 and bool((t != t[:1]).any() or (t == 0).any())]


def _is_uneven(gate: Tensor) -> bool:
    """Whether a gate is zero in some rows, or differs between them by more than a little."""
    if (gate == 0).any():
        return True
    values = gate.detach().to(torch.float32)
    return bool(values.std(0, correction=0).mean() > _EVEN * values.mean(0).abs().mean())


def _check_options(options: Options) -> None:
    """Raise ValueError for what is no dictionary of options, or an option that there is not."""
    if not isinstance(options, Mapping):
        raise ValueError(f"layers must be a dictionary by names of layers, got {options!r}")
    for name, said in options.items():
        if not isinstance(said, Mapping):
            raise ValueError(
                f"layers[{name!r}] must be a dictionary with some of {', '.join(_OPTIONS)}, got "
                f"{said!r}"
            )
        for option in said:
            check_choice(f"an option of layers[{name!r}]", option, dict.fromkeys(_OPTIONS))


def _apply_options(
    layers: list[FoundLayer], options: Options, parameters: Mapping[str, Tensor]
) -> None:
    """What the user says about layers, in place of what was found."""
    for name, said in options.items():
        chosen = [layer for layer in layers if name in (layer.name, layer.parameter)]
        if not chosen:
            known = ", ".join(dict.fromkeys(layer.name for layer in layers))
            raise ValueError(f"layers names {name!r}, which is none of {known}")
        if said.get("bias") is not None:
            check_choice(f"the bias of layers[{name!r}]", said["bias"], dict(parameters))
        if "positivity" in said or "gain" in said:
            gain = check_number(f"gain of layers[{name!r}]", said.get("gain", 1.0), 0.0)
            entry = said.get("positivity", "projection")
            if not isinstance(entry, Positivity):
                entry = check_choice(f"positivity of layers[{name!r}]", entry, MAPS)
            for layer in chosen:
                product, raw = layer.call.product, layer.raw
                if product and raw is not None and raw.numel() == product.weight.numel():
                    layer.map = said_map(layer.call, product.weight, raw, entry, gain)
                    layer.role = "constrained"
                    layer.problem = _not_as_said(layer.call, layer.map, raw)
        keep = said.get("keep", False)
        if not isinstance(keep, bool):
            raise ValueError(f"keep of layers[{name!r}] must be True or False, got {keep!r}")
        for layer in chosen:
            layer.kept |= keep
            if layer.kept and layer.raw is not None:
                layer.problem = ""  # nothing is written to it


@torch.no_grad()
def _not_as_said(call: Call, said: WeightMap, raw: Tensor) -> str:
    """What keeps weights from being written through a map that the user says, "" for nothing.

    Some may be zero whatever is written, as with a mask.
    """
    assert call.product is not None
    assert said.positivity is not None
    weight = call.product.weight
    draws = torch.rand(raw.shape, generator=torch.Generator().manual_seed(7), device="cpu")
    values = said.positivity.inverse((draws.to(raw) + 1) / weight[0].numel() / said.gain)
    expected = said.gain * said.positivity.forward(values)
    expected, used = expected.permute(said.layout).reshape(weight.shape), said.forward(values)
    agree = (used == 0) | ((used - expected).abs() <= 0.1 * expected)
    if (agree.all() and used.any()) or not expected.isfinite().all():
        return ""
    return (
        f"the network computes other weights than {said.gain:.3g} times {said.name} of its "
        "parameter, as layers= says; say the map and the gain that they have, or, where weights "
        "are normalised, leave it as it is: {'keep': True}"
    )
