"""Find the layers of a network that anybody wrote, and the parameters behind them.

:func:`find_layers` runs the network once on a few rows of its inputs
(:class:`convexinit.tracing.Trace`). A linear operation whose input is not affine in the convex
arguments needs non-negative weights to keep the network convex; one whose input is affine is free
(first layer, skip connection), unless its weights are made non-negative; one whose input depends on
other arguments alone is context. No names, classes or order of registration are used.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import disable_saved_tensors_hooks

from convexinit.assignment import is_close
from convexinit.checks import check_choice
from convexinit.evaluation import (
    Convex,
    Inputs,
    as_tuple,
    convex_columns,
    evaluated,
    not_callable,
    run,
)
from convexinit.positivity import Positivity, has_slope, is_flat_at_zero
from convexinit.tracing import (
    DIVISIONS,
    MULTIPLICATIONS,
    RESHAPES,
    Call,
    Dependence,
    PassEnded,
    Product,
    Trace,
    Way,
    following,
    tensors_in,
)
from convexinit.unseen import Unseen, find_unseen, unseen_problems
from convexinit.weight_maps import (
    MAPS,
    WeightMap,
    find_map,
    inverted_map,
    is_kept_positive,
    said_map,
)

Options = Mapping[str, Mapping[str, Any]]

_ROWS = 8  # in each half of the rows that are traced
_WITHOUT_GRADIENTS = (
    "it is computed without gradients (detach, no_grad, .data or reentrant "
    "torch.utils.checkpoint), so that nothing can be learned"
)
_RECOMPUTED = (
    "hooks on what is saved to differentiate (torch.utils.checkpoint, save_on_cpu) cannot be "
    "followed; switch them off for this call"
)
_OPTIONS = ("positivity", "gain", "bias", "keep")


@dataclass(eq=False)
class BiasOption:
    """A parameter that shifts a pre-activation by the same amount for every row.

    Attributes:
        name: of the parameter.
        parameter: itself.
        coefficient: shift of the pre-activation by the parameter, one number or ``[units]``.
        per: "unit", "position" (and unit) or "layer".
        normalises: whether it belongs to a normalisation.
    """

    name: str
    parameter: Tensor
    coefficient: Tensor
    per: str
    normalises: bool = False


@dataclass(eq=False)
class FoundLayer:
    """A linear operation of a network.

    Attributes:
        name: of the layer: the path of its parameter without ".weight".
        role: "constrained", "free" or "context".
        operation: name of the torch function.
        call: the call that was traced.
        raw: the parameter behind the weight; None if there is none.
        parameter: its name, "" if there is none.
        map: how the weight is computed from it; None if that was not found.
        gains: ``[units]`` factors from the result of the operation to the pre-activation.
        curved: whether the input is not affine in the convex arguments, so that negative weights
            may end convexity.
        gated: whether the input is multiplied by a gate that differs with other inputs.
        order: of the dimensions of its result in the pre-activation.
        kept: whether the user says that it is to stay as it is.
        problem: what keeps it from being initialised, "" for nothing.
    """

    name: str
    role: str
    operation: str
    call: Call
    raw: Tensor | None = None
    parameter: str = ""
    map: WeightMap | None = None
    gains: Tensor | None = None
    curved: bool = False
    gated: bool = False
    order: tuple[int, ...] = ()
    kept: bool = False
    problem: str = ""

    @property
    def negative(self) -> int:
        """How many weights are negative that should not be."""
        product = self.call.product
        if self.role != "constrained" or product is None:
            return 0
        return int(product.weight.detach().lt(0).sum())

    @property
    def is_raw(self) -> bool:
        """Whether the weight is a parameter as it is or scaled, which an author has to project."""
        entry = None if self.map is None else self.map.positivity
        return entry is not None and entry.projects

    def from_end(self, tensor: Tensor, shape: torch.Size) -> Tensor:
        """What is of the form of the pre-activation, in a shape of the operation's result."""
        moved = tensor.reshape([shape[dimension] for dimension in self.order])
        return moved.permute(sorted(range(len(shape)), key=self.order.__getitem__))

    @property
    def passes_gradient_at_zero(self) -> bool:
        """Whether a raw value that stands for a weight of zero gets the gradient of the weight.

        By the function of the network: of maps that are the same elsewhere, such as ``relu(raw)``
        and ``raw.clamp(min=0)``, one may have a slope at zero and the other none.
        """
        if self.map is None or self.raw is None or self.map.positivity is None:
            return False
        if self.map.positivity.projects or is_flat_at_zero(self.map.positivity):
            return self.map.positivity.projects  # as of whatever has these values
        raw = self.map.positivity.inverse(torch.zeros_like(self.raw))
        return has_slope(self.map.forward, raw, self.map.gain)


@dataclass(eq=False)
class PreActivation:
    """What the results of one or more operations add up to, before the next function bends it.

    Where they are summed on the way, as over the positions of a row, it is these sums.

    Attributes:
        call: the call that computes it.
        constrained: operations in it that need non-negative weights.
        free: operations in it that read an affine function of the convex arguments.
        squared: free operations that enter it through a square.
        biases: parameters that shift it, the most suitable first.
        output: whether no constrained operation follows.
        normalised: whether a normalisation that initialises itself is in it.
        said: whether the user has chosen its bias, or none.
        noise: random part of the bias, one number or as many as the bias has.
        summed: whether results of operations are summed, averaged or selected from on the way.
        units: if so, dimension of the units in it; None if all of its numbers are of one.
    """

    call: Call
    constrained: list[FoundLayer] = field(default_factory=list)
    free: list[FoundLayer] = field(default_factory=list)
    squared: list[FoundLayer] = field(default_factory=list)
    biases: list[BiasOption] = field(default_factory=list)
    output: bool = False
    normalised: bool = False
    said: bool = False
    noise: float | Tensor = 0.0
    summed: bool = False
    units: int | None = None

    @property
    def name(self) -> str:
        """Of the layer that it belongs to."""
        return self.first.name

    @property
    def first(self) -> FoundLayer:
        """The operation whose result has the form in which it is seen, but for sums."""
        return (self.constrained + self.free)[0]

    def place(self) -> tuple[Call, Product]:
        """The call in whose shape it is seen, and what says which numbers in it are of one unit."""
        call = self.first.call
        assert call.product is not None
        if self.summed:
            return self.call, replace(call.product, units=self.units)
        return call, call.product

    def seen(self, tensor: Tensor, shape: torch.Size) -> Tensor:
        """What has its form, in the shape in which it is seen."""
        return tensor.reshape(shape) if self.summed else self.first.from_end(tensor, shape)

    def formed(self, tensor: Tensor) -> Tensor:
        """The inverse of :meth:`seen`, but for reshapes."""
        return tensor if self.summed else tensor.permute(self.first.order)


@dataclass(eq=False)
class Found:
    """What was found in a network.

    Attributes:
        layers: linear operations that depend on the inputs and have a parameter, in order.
        pre_activations: in order; one without constrained layers is that of a first layer.
        returns_gradient: whether ``forward`` differentiates the network.
        needs_gradient: whether it can be called with inputs alone that require gradients.
        output: of the network on the traced rows; None if it was not computed.
        rows: number of them.
        unseen: parameters that act on the convex path in calls that are no layers.
    """

    layers: list[FoundLayer]
    pre_activations: list[PreActivation]
    returns_gradient: bool
    needs_gradient: bool
    output: Any
    rows: int
    unseen: list[Unseen]


def find_layers(
    network: nn.Module,
    inputs: Inputs,
    convex: Convex = 0,
    call: Callable[..., Tensor] | None = None,
    layers: Options | None = None,
) -> list[FoundLayer]:
    """The linear operations of a network that depend on its inputs, in the order of their calls.

    The network is as before afterwards. What keeps a layer from being initialised is in its
    ``problem``; nothing is raised for it. :func:`find` also gives the pre-activations.

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
        return find_prepared(network, arguments, columns, call, layers or {}, evaluation.starting)


def find_prepared(
    network: nn.Module,
    arguments: tuple[Tensor, ...],
    columns: Mapping[int, Any],
    call: Callable[..., Tensor] | None,
    options: Options,
    starting: Mapping[str, nn.Module],
) -> Found:
    """:func:`find` in a network in evaluation mode, which is not restored."""
    for parameter in network.parameters():
        if parameter.is_leaf and parameter.is_floating_point():
            parameter.requires_grad_()
    rows = min(_ROWS, len(arguments[0]) // 2)
    halves = _halves(arguments, columns, rows)
    trace, output, needs_gradient = _trace(network, halves, columns, call, rows)
    if trace.lost:
        raise ValueError(
            f"a tensor that {trace.lost} uses is computed in a way that cannot be seen, as by a "
            "torch.autograd.Function, torch.vmap or reentrant torch.utils.checkpoint; write it "
            "with functions of torch, or say with call= which part of the network to look at"
        )
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    curved = _curved_parameters(trace, names)
    found = [
        _found_layer(network, trace, one, names, curved)
        if one.product
        else _elementwise_hypernetwork(trace, one)
        for one in trace.calls
    ]
    layers = [layer for layer in found if layer]
    for layer in layers:
        product = layer.call.product
        layer.curved = product is None or trace.dependence(product.input) == Dependence.CURVED
    constrained = {id(layer.raw) for layer in layers if layer.role == "constrained"}
    unseen = find_unseen(trace, names, constrained)
    accepted = {one.parameter for one in unseen if options.get(one.parameter) == {"keep": True}}
    unseen = [one for one in unseen if one.parameter not in accepted]
    accepted -= {name for layer in layers for name in (layer.name, layer.parameter)}
    options = {name: said for name, said in options.items() if name not in accepted}
    _apply_options(layers, options, dict(network.named_parameters()))
    pre_activations = _pre_activations(network, trace, layers, starting, options)
    return Found(
        layers, pre_activations, trace.returns_gradient, needs_gradient, output, 2 * rows, unseen
    )


def ways_to_sums(found: Found) -> dict[int, Way]:
    """From every operation, by ``id`` of its layer, to the pre-activation that sums its results."""
    return {
        id(layer): Way(layer.call, one.call)
        for one in found.pre_activations
        if one.summed
        for layer in one.constrained + one.free
    }


def problems_of(found: Found, problem_of: Mapping[FoundLayer, str], purpose: str) -> list[str]:
    """What keeps a network from being worked on: each problem once, after the names that have it.

    Args:
        found: in the network.
        problem_of: every layer; "" is none.
        purpose: of looking for convex layers.

    Raises:
        ValueError: if there is no problem, but no convex layer either.
    """
    problems = [
        f"{', '.join(layer.name for layer in problem_of if problem_of[layer] == one)}: {one}"
        for one in dict.fromkeys(problem_of.values())
        if one
    ]
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
                trace,
            ):
                output = run(network, inputs, call)
            return trace, output, requires_grad
        except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
            problem = error
    raise not_callable(network, halves, problem) from problem


def _found_layer(
    network: nn.Module,
    trace: Trace,
    call: Call,
    names: Mapping[int, str],
    curved_parameters: Collection[int],
) -> FoundLayer | None:
    """The layer of a linear operation, None for one without parameters.

    A parameter is constrained if one of its uses is.
    """
    product = call.product
    assert product is not None
    level, weight_level = trace.dependence(product.input), trace.dependence(product.weight)
    if weight_level > Dependence.CONSTANT:
        if level <= max(weight_level, Dependence.AFFINE):
            return None  # a product of data
        return _hypernetwork(call, product.weight)
    leaves, curved = call.leaves_of(product.weight), level == Dependence.CURVED
    if curved and any(
        leaf.requires_grad and leaf.is_leaf and id(leaf) not in names for leaf in leaves
    ):
        problem = "its weight is no parameter of the network; register it, as in nn.ParameterList"
        return FoundLayer(_described(call), "constrained", product.name, call, problem=problem)
    leaves = [leaf for leaf in leaves if id(leaf) in names]
    if not leaves:
        return None
    raw = max(leaves, key=lambda leaf: (leaf.numel() == product.weight.numel(), leaf.numel()))
    parameter = names[id(raw)]
    layer = FoundLayer(_layer_name(network, parameter), "free", product.name, call, raw, parameter)
    if level <= Dependence.CONTEXT:
        layer.role = "context"
        return layer
    owner = parameter.rpartition(".")[0]
    layer.problem = _hook_problem(network.get_submodule(owner))
    if layer.problem:
        layer.name, layer.role = owner or parameter, "constrained" if curved else "free"
        return layer
    layer.map = find_map(call, product.weight, raw) or inverted_map(network, call, parameter)
    if id(raw) in curved_parameters or is_kept_positive(layer.map, raw):
        layer.role = "constrained"
        layer.gated = _is_gated(trace, call)
        if layer.map is None:
            layer.problem = (
                f"its weight is computed from {parameter} in a way that cannot be inverted, as "
                "with a mask, a bound, a softmax or a copy for every row; say the map without that "
                f"with layers={{{layer.name!r}: {{'positivity': ..., 'gain': ...}}}}, or "
                "give its parametrization a right_inverse, or leave it as it is: {'keep': True}"
            )
    if not product.weight.requires_grad:
        layer.problem = _WITHOUT_GRADIENTS
    return layer


def _curved_parameters(trace: Trace, names: Mapping[int, str]) -> set[int]:
    """Parameters that a linear operation multiplies what is not affine by, by ``id``."""
    products = [(call, call.product) for call in trace.calls if call.product]
    return {
        id(leaf)
        for call, product in products
        if trace.dependence(product.input) == Dependence.CURVED
        for leaf in call.leaves_of(product.weight)
        if id(leaf) in names
    }


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
    return FoundLayer(_described(call), "constrained", call.name, call, problem=problem)


def _elementwise_hypernetwork(trace: Trace, call: Call) -> FoundLayer | None:
    """A product in which every feature gets many weights from the context, to be summed later."""
    if call.name not in MULTIPLICATIONS or call.value is None:
        return None
    operands = {trace.dependence(t): t for t in tensors_in(call.args, call.kwargs)}
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


def _is_gated(trace: Trace, call: Call) -> bool:
    """Whether a factor of the input depends on other arguments, and differs between rows now."""
    assert call.product is not None
    maker = call.made_by.get(id(call.product.input))
    return (
        maker is not None
        and maker.name in MULTIPLICATIONS
        and any(
            trace.dependence(t) == Dependence.CONTEXT and t.ndim > 0 and bool((t != t[:1]).any())
            for t in tensors_in(maker.args)
        )
    )


def _apply_options(
    layers: list[FoundLayer], options: Options, parameters: Mapping[str, Tensor]
) -> None:
    """What the user says about layers, in place of what was found."""
    for name, said in options.items():
        chosen = [layer for layer in layers if name in (layer.name, layer.parameter)]
        if not chosen:
            known = ", ".join(dict.fromkeys(layer.name for layer in layers))
            raise ValueError(f"layers names {name!r}, which is none of {known}")
        for option in said:
            check_choice(f"an option of layers[{name!r}]", option, dict.fromkeys(_OPTIONS))
        if said.get("bias") is not None:
            check_choice(f"the bias of layers[{name!r}]", said["bias"], dict(parameters))
        if "positivity" in said or "gain" in said:
            entry = said.get("positivity", "projection")
            if not isinstance(entry, Positivity):
                entry = check_choice(f"positivity of layers[{name!r}]", entry, MAPS)
            for layer in chosen:
                product, raw = layer.call.product, layer.raw
                if product and raw is not None and raw.numel() == product.weight.numel():
                    gain = float(said.get("gain", 1.0))
                    layer.map = said_map(product.weight, raw, entry, gain)
                    layer.role, layer.problem = "constrained", ""
        keep = said.get("keep", False)
        if not isinstance(keep, bool):
            raise ValueError(f"keep of layers[{name!r}] must be True or False, got {keep!r}")
        for layer in chosen:
            layer.kept |= keep
            if layer.kept and layer.raw is not None:
                layer.problem = ""  # nothing is written to it


def _pre_activations(
    network: nn.Module,
    trace: Trace,
    layers: list[FoundLayer],
    starting: Mapping[str, nn.Module],
    options: Options,
) -> list[PreActivation]:
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
            user.product
            or user.value is None
            or len(operands) != 1
            or (scales and any(trace.dependence(t) for t in others))
            or not trace.is_affine(user, list(operands.values()))
        ):
            break
        (operand,) = operands.values()
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
            layer.problem = _WITHOUT_GRADIENTS
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
            coefficient, again = first.flatten() / summed(draw), second.flatten() / summed(other)
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
