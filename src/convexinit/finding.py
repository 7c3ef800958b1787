"""Find the layers of a network that anybody wrote, and the parameters behind them.

:func:`find_layers` runs the network once on a few rows of its inputs
(:class:`convexinit.tracing.Trace`). A linear operation whose input is not affine in the convex
arguments needs non-negative weights to keep the network convex; one whose input is affine is free
(first layer, skip connection), unless its weights are made non-negative; one whose input depends on
other arguments alone is context. No names, classes or order of registration are used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convexinit.assignment import is_close
from convexinit.checks import check_choice
from convexinit.positivity import POSITIVITY, Positivity, has_slope
from convexinit.tracing import (
    MULTIPLICATIONS,
    Call,
    Dependence,
    PassEnded,
    Trace,
    following,
    tensors_in,
)

Inputs = Tensor | tuple[Tensor, ...]
Convex = int | Sequence[int] | Mapping[int, Any]
Options = Mapping[str, Mapping[str, Any]]

_ROWS = 8  # in each half of the rows that are traced
_OPTIONS = ("positivity", "gain", "bias")


# One more that networks use in their own code, beside those of the layers of this library.
_MAPS = {
    **POSITIVITY,
    "squared_softplus": Positivity(
        "squared_softplus",
        lambda raw: F.softplus(raw).square(),
        lambda weight: POSITIVITY["softplus"].inverse(weight.sqrt()),
    ),
}


def _softplus_of(temperature: float) -> Positivity:
    """Softplus of ``temperature`` times the raw values, divided by it."""
    return Positivity(
        f"softplus with temperature {temperature:.3g}",
        lambda raw: F.softplus(temperature * raw) / temperature,
        lambda weight: POSITIVITY["softplus"].inverse(temperature * weight) / temperature,
    )


@dataclass(eq=False)
class WeightMap:
    """How the weight of an operation is computed from a parameter.

    Attributes:
        name: of the map, "numerical" for one that is inverted by bisection, "right_inverse" for a
            parametrization that inverts itself.
        gain: factor between what the map gives and the weight.
        layout: order of the parameter's dimensions in the weight.
        forward: the weight from raw values, in the shape of the parameter.
        write: makes a weight the one that the network uses, up to rounding.
        positivity: the map by itself, without gain; None if only the network computes it.
    """

    name: str
    gain: float
    layout: tuple[int, ...]
    forward: Callable[[Tensor], Tensor]
    write: Callable[[Tensor], None]
    positivity: Positivity | None = None


@dataclass(eq=False)
class BiasOption:
    """A parameter that shifts a pre-activation by the same amount for every row.

    Attributes:
        name: of the parameter.
        parameter: itself.
        coefficient: shift of the pre-activation by the parameter, one number or ``[units]``.
        per: "unit", "position" (and unit) or "layer".
        shared: whether it shifts other pre-activations as well.
        normalises: whether it belongs to a normalisation.
    """

    name: str
    parameter: Tensor
    coefficient: Tensor
    per: str
    shared: bool = False
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
        gated: whether the input is multiplied by a gate that depends on other inputs.
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
    gated: bool = False
    problem: str = ""

    @property
    def passes_gradient_at_zero(self) -> bool:
        """Whether a raw value that stands for a weight of zero gets the gradient of the weight.

        By the function of the network: of maps that are the same elsewhere, such as ``relu(raw)``
        and ``raw.clamp(min=0)``, one may have a slope at zero and the other none.
        """
        if self.map is None or self.raw is None or self.map.positivity is None:
            return False
        raw = self.map.positivity.inverse(torch.zeros_like(self.raw))
        return has_slope(self.map.forward, raw, self.map.gain)


@dataclass(eq=False)
class PreActivation:
    """What the results of one or more operations add up to, before the next function bends it.

    Attributes:
        call: the call that computes it.
        constrained: operations in it that need non-negative weights.
        free: operations in it that read an affine function of the convex arguments.
        squared: free operations that enter it through a square.
        biases: parameters that shift it, the most suitable first.
        output: whether no constrained operation follows.
        normalised: whether a normalisation that initialises itself is in it.
        noise: random part of the bias, one number or as many as the bias has.
    """

    call: Call
    constrained: list[FoundLayer] = field(default_factory=list)
    free: list[FoundLayer] = field(default_factory=list)
    squared: list[FoundLayer] = field(default_factory=list)
    biases: list[BiasOption] = field(default_factory=list)
    output: bool = False
    normalised: bool = False
    noise: float | Tensor = 0.0

    @property
    def name(self) -> str:
        """Of the layer that it belongs to."""
        return (self.constrained + self.free)[0].name


@dataclass(eq=False)
class Found:
    """What was found in a network.

    Attributes:
        layers: linear operations that depend on the inputs and have a parameter, in order.
        pre_activations: in order; one without constrained layers is that of a first layer.
        returns_gradient: whether ``forward`` differentiates the network.
        output: of the network on the traced rows; None if it was not computed.
        rows: number of them.
    """

    layers: list[FoundLayer]
    pre_activations: list[PreActivation]
    returns_gradient: bool
    output: Any
    rows: int


class Snapshot:
    """The state of a network, to be given back.

    Parameters, buffers, attributes of modules, modes and ``requires_grad``.
    """

    def __init__(self, network: nn.Module) -> None:
        self._modules = [
            (
                module,
                {k: v for k, v in vars(module).items() if not k.startswith("_")},
                dict(module._parameters),
                dict(module._buffers),
            )
            for module in network.modules()
        ]
        tensors = {
            id(tensor): tensor
            for _, _, parameters, buffers in self._modules
            for tensor in (*parameters.values(), *buffers.values())
            if tensor is not None
        }
        self._tensors = [(t, t.detach().clone(), t.requires_grad) for t in tensors.values()]

    @torch.no_grad()
    def restore(self, kept: Iterable[Tensor] = (), modules: Iterable[nn.Module] = ()) -> None:
        """Give the network its state back.

        Args:
            kept: tensors whose values stay.
            modules: those whose flags and buffers stay.
        """
        numbers = {id(tensor) for tensor in kept}
        for module in modules:
            numbers |= {id(buffer) for buffer in module._buffers.values()}
        flags = [(module, _flags(module)) for module in modules]
        for module, attributes, parameters, buffers in self._modules:
            for key in [k for k in vars(module) if not k.startswith("_") and k not in attributes]:
                del vars(module)[key]
            vars(module).update(attributes)
            module._parameters.clear()
            module._parameters.update(parameters)
            module._buffers.clear()
            module._buffers.update(buffers)
        for tensor, value, requires_grad in self._tensors:
            if tensor.is_leaf:
                tensor.requires_grad_(requires_grad)
            if id(tensor) not in numbers and not torch.equal(tensor, value):
                tensor.copy_(value)
        for module, found in flags:
            vars(module).update({k: v for k, v in found.items() if k in vars(module)})


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
    snapshot = Snapshot(network)
    device = arguments[0].device
    try:
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            starting = reset_first_batch_(network)
            prepare_(network, arguments, call, starting)
            return find_prepared(network, arguments, columns, call, layers or {}, starting)
    finally:
        snapshot.restore()


def as_tuple(inputs: Inputs) -> tuple[Tensor, ...]:
    """Inputs as a tuple of tensors, checked."""
    arguments = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)
    if not arguments or not all(isinstance(argument, Tensor) for argument in arguments):
        raise ValueError("inputs must be a tensor or a tuple of tensors, as the network takes them")
    if min(argument.ndim for argument in arguments) == 0:
        raise ValueError("inputs must have rows: their first dimension is the samples")
    lengths = {len(argument) for argument in arguments}
    if len(lengths) > 1 or min(lengths) < 2:
        raise ValueError(
            f"inputs must have the same number of rows, at least two; got {sorted(lengths)}"
        )
    return arguments


def convex_columns(convex: Convex, arguments: tuple[Tensor, ...]) -> dict[int, Any]:
    """The columns in which a network is convex, by argument; ``...`` for all of them."""
    if isinstance(convex, int):
        convex = (convex,)
    columns = dict(convex) if isinstance(convex, Mapping) else dict.fromkeys(convex, ...)
    for index in columns:
        if not 0 <= index < len(arguments) or not arguments[index].is_floating_point():
            raise ValueError(
                f"convex must name floating-point arguments from 0 to {len(arguments) - 1}; "
                f"got {index!r}"
            )
    if not columns:
        raise ValueError("convex must name at least one argument")
    return columns


def run(network: nn.Module, arguments: Sequence[Tensor], call: Callable[..., Tensor] | None) -> Any:
    """The result of the convex function."""
    return network(*arguments) if call is None else call(network, *arguments)


def _flags(module: nn.Module) -> dict[str, Any]:
    """Attributes and buffers of a module that say whether it has seen its first batch."""
    return {
        key: value
        for key, value in {**vars(module), **module._buffers}.items()
        if "init" in key.lower()
        and (isinstance(value, bool) or (isinstance(value, Tensor) and value.numel() == 1))
    }


@torch.no_grad()
def reset_first_batch_(network: nn.Module) -> dict[str, nn.Module]:
    """Tell modules that initialise themselves on their first batch (ActNorm) that it is to come.

    Returns:
        Modules with such a flag, by name.
    """
    starting = {name: module for name, module in network.named_modules() if _flags(module)}
    for module in starting.values():
        for key, value in _flags(module).items():
            if isinstance(value, Tensor):
                value.zero_()
            else:
                setattr(module, key, False)
    return starting


@torch.no_grad()
def prepare_(
    network: nn.Module,
    arguments: tuple[Tensor, ...],
    call: Callable[..., Tensor] | None,
    starting: dict[str, nn.Module],
) -> None:
    """Put a network in evaluation mode, after a first batch for modules that wait for it."""
    network.eval()
    if starting:
        for module in starting.values():
            module.training = True
        forward(network, arguments, call)
        for name in [name for name, module in starting.items() if not any(_flags(module).values())]:
            del starting[name]  # what its flag says is something else
        network.eval()


def forward(
    network: nn.Module, arguments: tuple[Tensor, ...], call: Callable[..., Tensor] | None
) -> Any:
    """What a network gives on copies of its inputs; as a ValueError what it raises."""
    problem: Exception
    for requires_grad in (False, True):
        copies = [
            t.detach().clone().requires_grad_(
                t.is_floating_point() and (requires_grad or t.requires_grad)
            )
            for t in arguments
        ]  # fmt: skip
        try:
            with torch.enable_grad():
                return run(network, copies, call)
        except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
            problem = error
    raise ValueError(f"the network cannot be called with these inputs: {problem}") from problem


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
    trace, output = _trace(network, halves, columns, call, rows)
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    found = [
        _found_layer(network, trace, one, names)
        if one.product
        else _elementwise_hypernetwork(trace, one)
        for one in trace.calls
    ]
    layers = [layer for layer in found if layer]
    _apply_options(layers, options, dict(network.named_parameters()))
    pre_activations = _pre_activations(network, trace, layers, starting, options)
    return Found(layers, pre_activations, trace.returns_gradient, output, 2 * rows)


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
) -> tuple[Trace, Any]:
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
            with torch.enable_grad(), suppress(PassEnded), trace:
                output = run(network, inputs, call)
            return trace, output
        except (RuntimeError, TypeError, ValueError, IndexError, AttributeError) as error:
            problem = error
    raise ValueError(f"the network cannot be called with these inputs: {problem}") from problem


def _found_layer(
    network: nn.Module, trace: Trace, call: Call, names: Mapping[int, str]
) -> FoundLayer | None:
    """The layer of a linear operation, None for one without parameters."""
    product = call.product
    assert product is not None
    level, weight_level = trace.dependence(product.input), trace.dependence(product.weight)
    if weight_level > Dependence.CONSTANT:
        if level <= max(weight_level, Dependence.AFFINE):
            return None  # a product of data
        return _hypernetwork(call, product.weight)
    leaves = call.leaves_of(product.weight)
    if level == Dependence.CURVED and any(
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
    if level == Dependence.CONTEXT:
        layer.role = "context"
        return layer
    layer.map = find_map(call, product.weight, raw) or _right_inverse(network, call, parameter)
    if level == Dependence.CURVED or _is_kept_positive(layer.map, raw):
        layer.role = "constrained"
        layer.gated = _is_gated(trace, call)
        if layer.map is None:
            layer.problem = (
                f"its weight is computed from {parameter} in a way that cannot be inverted; "
                f"say how with layers={{{layer.name!r}: {{'positivity': ..., 'gain': ...}}}}, or "
                "give its parametrization a right_inverse"
            )
    return layer


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
    assert call.product is not None
    maker = call.made_by.get(id(call.product.input))
    return (
        maker is not None
        and maker.name in MULTIPLICATIONS
        and any(trace.dependence(t) == Dependence.CONTEXT for t in tensors_in(maker.args))
    )


def _draws(like: Tensor, scale: float = 1.0) -> Tensor:
    """The same random numbers every time, in the shape of a parameter, in float32 at least."""
    draws = torch.randn(like.shape, generator=torch.Generator().manual_seed(1)) * scale
    return draws.to(like.device, torch.promote_types(like.dtype, torch.float32))


@torch.no_grad()
def _is_kept_positive(weight_map: WeightMap | None, raw: Tensor) -> bool:
    """Whether weights cannot be negative, or look as if they were not meant to be."""
    if weight_map is None or weight_map.name == "right_inverse":
        return False
    if weight_map.name in {name for name, entry in _MAPS.items() if entry.projects}:
        return raw.numel() >= 8 and bool((raw >= 0).all() and (raw > 0).any())
    return bool((weight_map.forward(_draws(raw, 3.0)) >= 0).all())


@torch.no_grad()
def find_map(call: Call, weight: Tensor, raw: Tensor) -> WeightMap | None:
    """How an operand of a call is computed from a parameter of the same size, entry by entry."""
    if raw.numel() != weight.numel():
        return None

    def forward(values: Tensor) -> Tensor:
        return call.recompute(weight, raw, values)

    if weight is raw:
        layout = tuple(range(raw.ndim))
        entry = _MAPS["projection"]
        return WeightMap(entry.name, 1.0, layout, forward, _writer(_same, layout, raw), entry)
    draws = _draws(raw, 1.5)
    try:
        if not is_close(forward(raw.detach()), weight.detach()):
            return None
        result = forward(draws)
    except (RuntimeError, TypeError):
        return None
    if result.shape != weight.shape:
        return None
    for layout in permutations(range(raw.ndim)):
        if draws.permute(layout).shape != weight.shape and layout != tuple(range(raw.ndim)):
            continue
        for name, entry in (_MAPS | _as_softplus(forward, draws)).items():
            mapped = entry.forward(draws).permute(layout).reshape(weight.shape)
            gain = float((mapped * result).sum() / mapped.square().sum())
            if gain > 0 and _agree(result, gain * mapped):
                # Weights that are normalised have a gain of their own every time.
                again = entry.forward(2 * draws).permute(layout).reshape(weight.shape)
                if not _agree(forward(2 * draws), gain * again):
                    continue
                write = _writer(_divided(entry, gain), layout, raw)
                return WeightMap(name, gain, layout, forward, write, entry)
        if _is_elementwise(forward, draws, result, layout):
            write = _writer(_inverse_of(forward, layout, raw), layout, raw)
            return WeightMap("numerical", 1.0, layout, forward, write)
    return None


def _agree(first: Tensor, second: Tensor) -> bool:
    """Whether all entries agree, the small ones up to the rounding of large ones."""
    precision = torch.finfo(first.dtype).eps
    largest = float(first.abs().max())
    return torch.allclose(first, second.to(first), precision**0.5, precision * largest)


def _as_softplus(forward: Callable[[Tensor], Tensor], like: Tensor) -> dict[str, Positivity]:
    """The softplus that a map is if it is one, from its value at 0 and its slope far above."""
    at_zero, at_40, at_80 = (
        float(forward(torch.full_like(like, value)).flatten()[0]) for value in (0.0, 40.0, 80.0)
    )
    slope = (at_80 - at_40) / 40
    if not (0 < slope < math.inf and at_zero > 0):
        return {}
    entry = _softplus_of(slope * math.log(2) / at_zero)
    return {entry.name: entry}


def _divided(entry: Positivity, gain: float) -> Callable[[Tensor], Tensor]:
    return lambda weight: entry.inverse(weight / gain)


def _same(weight: Tensor) -> Tensor:
    return weight


def _in_shape_of(raw: Tensor, weight: Tensor, layout: tuple[int, ...]) -> Tensor:
    """The entries of a weight where the parameter has them."""
    order = sorted(range(raw.ndim), key=lambda dimension: layout[dimension])
    return weight.reshape([raw.shape[dimension] for dimension in layout]).permute(order)


def _writer(
    inverse: Callable[[Tensor], Tensor], layout: tuple[int, ...], raw: Tensor
) -> Callable[[Tensor], None]:
    """What writes a weight to the parameter behind it, given the inverse of its map."""

    @torch.no_grad()
    def write(weight: Tensor) -> None:
        raw.copy_(inverse(_in_shape_of(raw, weight, layout)))

    return write


def _is_elementwise(
    forward: Callable[[Tensor], Tensor], draws: Tensor, result: Tensor, layout: tuple[int, ...]
) -> bool:
    """Whether every weight depends on one raw value and grows with it."""
    source = torch.Generator().manual_seed(2)
    chosen = (torch.rand(draws.shape, generator=source) < 0.5).to(draws.device)
    change = forward(draws + chosen) - result
    chosen = chosen.permute(layout).reshape(result.shape)
    grows = forward(draws + 20.0) - result
    return bool((change[~chosen] == 0).all() and (change >= 0).all() and (grows > 0).all())


def _inverse_of(
    forward: Callable[[Tensor], Tensor], layout: tuple[int, ...], raw: Tensor
) -> Callable[[Tensor], Tensor]:
    """Inverse of a positive map that grows with every raw value, entry by entry."""

    def to_raw(weight: Tensor) -> Tensor:
        return _in_shape_of(raw, weight, layout)

    def inverse(target: Tensor) -> Tensor:
        target = target.to(torch.promote_types(raw.dtype, torch.float32))
        logarithm = target.clamp_min(torch.finfo(target.dtype).tiny).log()

        def misfit(values: Tensor) -> Tensor:
            # Of logarithms, in which the maps that are in use are nearly straight.
            weight = to_raw(forward(values)).to(target)
            return weight.clamp_min(torch.finfo(target.dtype).tiny).log() - logarithm

        low, high = torch.full_like(target, -1.0), torch.full_like(target, 1.0)
        below, above = misfit(low), misfit(high)
        for _ in range(20):
            if not ((below > 0).any() or (above < 0).any()):
                break
            low, high = torch.where(below > 0, 2 * low, low), torch.where(above < 0, 2 * high, high)
            below, above = misfit(low), misfit(high)
        values = low
        for _ in range(30):  # the Illinois algorithm
            values = ((low * above - high * below) / (above - below)).nan_to_num()
            values = torch.where((values > low) & (values < high), values, (low + high) / 2)
            error = misfit(values)
            if bool((error.abs() <= 4 * torch.finfo(target.dtype).eps).all()):
                break
            left = error < 0
            low, high = torch.where(left, values, low), torch.where(left, high, values)
            below, above = (
                torch.where(left, error, below / 2), torch.where(left, above / 2, error),
            )  # fmt: skip
        return values

    return inverse


def _right_inverse(network: nn.Module, call: Call, parameter: str) -> WeightMap | None:
    """The map of a parametrization that inverts itself."""
    path, found, rest = f".{parameter}".partition(".parametrizations.")
    if not found:
        return None
    module, attribute = network.get_submodule(path[1:]), rest.partition(".")[0]
    assert call.product is not None
    before = call.product.weight.detach()
    try:
        setattr(module, attribute, before.clone())
    except (RuntimeError, ValueError, TypeError, NotImplementedError):
        return None
    if not is_close(getattr(module, attribute), before):
        return None
    return WeightMap(
        "right_inverse", 1.0, (), lambda _: getattr(module, attribute).detach(),
        lambda weight: setattr(module, attribute, weight.to(before)),
    )  # fmt: skip


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
                entry = check_choice(f"positivity of layers[{name!r}]", entry, _MAPS)
            for layer in chosen:
                _say_map(layer, entry, float(said.get("gain", 1.0)))


def _say_map(layer: FoundLayer, entry: Positivity, gain: float) -> None:
    product, raw = layer.call.product, layer.raw
    if product is None or raw is None or raw.numel() != product.weight.numel():
        return
    layout = tuple(range(raw.ndim))
    if raw.shape != product.weight.shape:
        layout = layout[::-1]

    def forward(values: Tensor) -> Tensor:
        return (gain * entry.forward(values)).permute(layout).reshape(product.weight.shape)

    write = _writer(_divided(entry, gain), layout, raw)
    layer.map = WeightMap(entry.name, gain, layout, forward, write, entry)
    layer.role, layer.problem = "constrained", ""


def _pre_activations(
    network: nn.Module,
    trace: Trace,
    layers: list[FoundLayer],
    starting: Mapping[str, nn.Module],
    options: Options,
) -> list[PreActivation]:
    signal = [layer for layer in layers if layer.role != "context" and not layer.problem]
    ends = {id(layer): _end_of(trace, layer.call) for layer in signal}
    found: dict[int, PreActivation] = {}
    for layer in signal:
        one = found.setdefault(id(ends[id(layer)]), PreActivation(ends[id(layer)]))
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


def _end_of(trace: Trace, call: Call) -> Call:
    """The last call to which the result of an operation is passed on, scaled and shifted only."""
    assert call.value is not None
    current = call
    while len(current.consumers) == 1:
        (user,) = current.consumers
        operands = {
            id(t): t
            for t in tensors_in(user.args, user.kwargs)
            if user.made_by.get(id(t)) is current
        }
        others = [t for t in tensors_in(user.args, user.kwargs) if id(t) not in operands]
        scales = user.name in MULTIPLICATIONS | {"div", "__truediv__"}
        if (
            user.product
            or user.value is None
            or user.value.numel() != call.value.numel()
            or len(operands) != 1
            or (scales and any(trace.dependence(t) for t in others))
            or not trace.is_affine(user, list(operands.values()))
            or not trace.is_elementwise(user, next(iter(operands.values())))
        ):
            break
        current = user
    return current


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
    value, product = one.call.value, members[0].call.product
    assert value is not None
    assert product is not None
    like = members[0].call.value
    assert like is not None
    units = product.by_unit(like).shape[1]
    sizes = {1, units, like[0].numel()}
    candidates = {name: p for name, p in parameters.items() if p.numel() in sizes}
    shifts = [layer.call.shift for layer in earlier if layer.call.shift is not None]
    wanted = [*shifts, *candidates.values()]
    source = torch.Generator().manual_seed(3)
    draws = [(torch.rand(value.shape, generator=source) + 0.5).to(value) for _ in range(2)]
    if not value.requires_grad:
        for layer in members:
            layer.problem = "it is computed without gradients, so that nothing can be learned"
        return
    # A sum, as torch imports a lot on the first call with ``grad_outputs``.
    with torch.enable_grad():
        sums_of = [(value * draw).sum() for draw in draws]
    gradients = [
        torch.autograd.grad(one_sum, wanted, retain_graph=True, allow_unused=True)
        for one_sum in sums_of
    ]
    for layer, *parts in zip(earlier, *(g[: len(shifts)] for g in gradients), strict=False):
        first, second = parts
        if first is None or second is None:
            continue
        if layer in members:
            slope = (first.reshape(like.shape) / draws[0].reshape(like.shape)).float()
            layer.gains = product.by_unit(slope).mean(0)
        elif layer.role == "free" and _is_squared(trace, ends[id(layer)]):
            one.squared.append(layer)
            squares.add(id(layer))
    weighted = [product.by_unit(draw.reshape(like.shape)) for draw in draws]
    positions = [draw.reshape(like.shape).sum(0).flatten() for draw in draws]
    sums = {
        "unit": [draw.sum(0) for draw in weighted],
        "position": positions,
        "layer": [draw.sum().reshape(1) for draw in weighted],
    }
    for index, (name, parameter) in enumerate(candidates.items(), len(shifts)):
        first, second = (g[index] for g in gradients)
        if first is None or second is None:
            continue
        for per, (one_sum, other_sum) in sums.items():
            if parameter.numel() != one_sum.numel():
                continue
            coefficient, again = first.flatten() / one_sum, second.flatten() / other_sum
            if is_close(coefficient, again) and bool((coefficient != 0).all()):
                one.biases.append(BiasOption(name, parameter, coefficient.detach(), per))
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
    """Own biases first, of every unit before common ones, those of normalisations last."""
    for option in one.biases:
        path = option.name.rpartition(".")[0]
        owner = type(network.get_submodule(path)).__name__ if path else ""
        option.shared = users[option.name] > 1
        option.normalises = path in starting or "norm" in owner.lower()
        one.normalised |= path in starting
    one.biases.sort(key=lambda o: (o.per == "layer", o.normalises, o.shared))


def _choose_bias(one: PreActivation, options: Options) -> None:
    """Put the bias that the user names first, or none if it is to be none."""
    for layer in one.constrained + one.free:
        said = options.get(layer.name, options.get(layer.parameter, {}))
        if "bias" in said:
            chosen = [option for option in one.biases if option.name == said["bias"]]
            if said["bias"] is not None and not chosen:
                raise ValueError(
                    f"{said['bias']} does not shift every row of the layer {layer.name} alike; "
                    f"these do: {', '.join(option.name for option in one.biases) or 'none'}"
                )
            one.biases = chosen
