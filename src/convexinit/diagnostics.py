"""Whether the signal of a network is healthy, layer by layer, on its own inputs."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor, nn

from convexinit.calls import PassEnded, Watch, changes_in_place
from convexinit.checks import check_module
from convexinit.difference import convex_functions
from convexinit.evaluation import (
    Convex,
    Inputs,
    as_tuple,
    convex_columns,
    evaluated,
    first_of,
    gives_numbers,
    run,
)
from convexinit.finding import find_prepared
from convexinit.found import Found, FoundLayer, Options, PreActivation, ways_to_sums
from convexinit.layers import check_not_stacked
from convexinit.products import Dependence, as_product
from convexinit.signals import mean_variance

# From which factor a layer on the signal is said to explode or to vanish.
_FACTOR = 3.0
# Below which share of the variance the convex path is said to carry a constant.
_SHARE = 0.05
_ALIKE = 0.95  # correlation above which units are said to be alike
_DEAD = 0.5  # share of dead units that is mentioned


@dataclass(frozen=True)
class LayerSignal:
    """Pre-activations of one layer: what its operations add up to, before the activation.

    Numbers that do not exist (shares in a first layer, correlations of one unit, gradients that
    cannot be computed) are nan.

    Attributes:
        layer: name.
        operation: name of the function of torch, such as "linear".
        map: how the weights are kept non-negative, by name; "" for free layers.
        gain: factor between what the map gives and what the pre-activation gets.
        bias: name of the parameter that can centre the pre-activations; "" if there is none.
        mean: over rows, positions and units.
        std: root of the variance over rows and positions, averaged over the units.
        correlation: of two units, averaged over all pairs of units that vary.
        convex: share of the variance that comes through the convex path, from 0 to 1.
        skip: share of everything else: skip connections and what other arguments add.
        dead: share of units, from 0 to 1, that no gradient reaches on any row.
        gradient: norm of the gradient over that of the weight (of their raw values). The gradient
            is that of a sum of outputs with random signs, divided by the number of rows (of a
            single output for all rows: of itself); compare layers with each other.
        verdict: what is wrong, in words; "" for nothing.
    """

    layer: str
    operation: str
    map: str = ""
    gain: float = math.nan
    bias: str = ""
    mean: float = math.nan
    std: float = math.nan
    correlation: float = math.nan
    convex: float = math.nan
    skip: float = math.nan
    dead: float = math.nan
    gradient: float = math.nan
    verdict: str = ""


@dataclass(frozen=True)
class SignalReport:
    """What :func:`check_signal` measured: readable as text.

    Attributes:
        rows: one a layer, in the order of the forward pass.
        note: what dead units and gradients are those of, or why there are none, and parameters that
            the rows leave out; "" where there is nothing to say.
    """

    rows: tuple[LayerSignal, ...]
    note: str = ""

    @property
    def healthy(self) -> bool:
        """Whether there is nothing wrong with any layer."""
        return not any(row.verdict for row in self.rows)

    def __str__(self) -> str:
        names = [field.name for field in fields(LayerSignal)]
        table = [names, *([_shown(getattr(row, name)) for name in names] for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in table
        ]
        return "\n".join([*lines, *([self.note] if self.note else [])])

    def to_frame(self) -> Any:
        """The rows as a ``pandas.DataFrame``, which needs pandas."""
        names = [field.name for field in fields(LayerSignal)]
        frame = _imported("pandas", "to_frame()").DataFrame
        return frame([vars(row) for row in self.rows], columns=names)

    def plot(self) -> Any:
        """A ``matplotlib`` figure of all layers, which needs matplotlib.

        From left to right: mean with a band of one standard deviation; correlation, share of the
        convex path and of dead units; gradient over weight.
        """
        pyplot = _imported("matplotlib.pyplot", "plot()")
        layers = [row.layer for row in self.rows]
        figure, (signal, shares, gradients) = pyplot.subplots(
            1, 3, figsize=(12, 3.5), layout="constrained"
        )
        means, stds = ([getattr(row, name) for row in self.rows] for name in ("mean", "std"))
        signal.plot(layers, means, marker="o", label="mean")
        bounds = [[m + sign * s for m, s in zip(means, stds, strict=True)] for sign in (-1, 1)]
        signal.fill_between(layers, *bounds, alpha=0.3, label="standard deviation")
        # Linear around zero, so that signals that explode and others fit beside each other.
        signal.set_yscale("symlog", linthresh=1.0)
        signal.set_title("pre-activations")
        for name, label in (
            ("correlation", "correlation"), ("convex", "convex path"), ("dead", "dead units")
        ):  # fmt: skip
            shares.plot(layers, [getattr(row, name) for row in self.rows], marker="o", label=label)
        shares.set_ylim(-0.05, 1.05)
        shares.set_title("shares")
        gradients.plot(layers, [row.gradient for row in self.rows], marker="o", label="gradient")
        if any(row.gradient > 0 for row in self.rows):
            gradients.set_yscale("log")
        gradients.set_title("gradient / weight")
        for axes in (signal, shares, gradients):
            axes.tick_params(axis="x", rotation=45)
            axes.legend()
        return figure


def check_signal(
    network: nn.Module,
    inputs: Inputs,
    convex: Convex = 0,
    call: Callable[..., Tensor] | None = None,
    layers: Options | None = None,
) -> SignalReport:
    """Measure the signal in every layer of a network, anybody's, and say what is wrong with it.

    The layers are found by tracing (:func:`convexinit.finding.find_layers`). One forward and one
    backward pass on the inputs then measure what :class:`LayerSignal` describes, in evaluation
    mode. The network is as before afterwards.

    What the verdicts mean:

    - "explodes, 44 times a layer": the standard deviation is more than 3 times that of the layer
      before. "vanishes": less than a third (said of hidden layers alone).
    - "not centred": the mean, or those of single units (root mean square), are larger than the
      standard deviation; the parameter that could centre it is named (of all that exist, the most
      suitable one).
    - "convex path carries a constant": less than 5% of the variance comes through it.
    - "units are alike": correlated by more than 0.95.
    - "dead": no gradient reaches more than half of the units.
    - "8 of 64 weights negative": of those that keep the network convex.
    - "does not vary", "not finite", and what keeps a layer from being initialised.

    Dead units and gradients are those of the output, of the first if there are several. Where
    ``forward`` returns a gradient, they are those of the function that it differentiates; where it
    returns what cannot be differentiated (a dictionary, say), there are none. The note of the
    report says so, and ``call`` names another function. Both parts of a
    :class:`~convexinit.ConvexDifference` are measured, each by itself.

    Args:
        network: any network.
        inputs: tensor, or tuple of tensors, that it can be called with: typical ones, at least two
            rows.
        convex: see :func:`convexinit.init_icnn_`.
        call: see :func:`convexinit.init_icnn_`.
        layers: see :func:`convexinit.init_icnn_`.

    Raises:
        ValueError: if the network is a stack, has no linear operation with a parameter that depends
            on the inputs, does other things with all inputs than with a few of them, or the inputs
            or options do not fit.

    Example:
        >>> from convexinit import MLP, init_icnn_
        >>> network = init_icnn_(MLP([8, 64, 64, 1], "softplus"), activation="softplus")
        >>> report = check_signal(network, torch.randn(128, 8))
        >>> [row.layer for row in report.rows]
        ['layers.0', 'layers.1', 'layers.2']
    """
    check_module("network", network)
    check_not_stacked(network, "check each of convexinit.stacking.unstack_network")
    arguments = as_tuple(inputs)
    columns = convex_columns(convex, arguments)
    functions = [call] if layers else convex_functions(network, call, None)
    rows: list[LayerSignal] = []
    notes: list[str] = []
    with evaluated(network, arguments, call) as evaluation:
        for function in functions:
            found = find_prepared(network, arguments, columns, function, layers or {}, evaluation)
            if not found.layers:
                continue
            watch, output = measured(network, arguments, columns, function, found)
            if watch.differentiated is not None:
                output = watch.differentiated
                found.gives_numbers = gives_numbers(network, arguments, function, found.rows)
            dead, gradients = _differentiated(watch, output, found)
            rows += _rows(found, watch, dead, gradients, len(arguments[0]))
            notes += [_note(watch, output), _not_seen(found)]
    if not rows:
        raise ValueError(
            "no linear operation with a parameter depends on the inputs, so that there is "
            "no layer to check; call=... names the function to look at"
        )
    return SignalReport(tuple(rows), "; ".join(dict.fromkeys(filter(None, notes))))


class Measuring(Watch):
    """A pass that keeps what layers compute, and lets pre-activations be differentiated by.

    Attributes:
        results: of operations and of pre-activations, by the index of their call.
        alone: results of operations that add something to them, without that.
        means: of what constrained operations read, likewise.
        shifts: zeros that were added to pre-activations, by index.
        differentiated: what the network differentiates, None if it does not.
    """

    def __init__(self, inputs: list[tuple[Tensor, Dependence]], found: Found) -> None:
        super().__init__(inputs, found.trace.constants(), found.trace.splits)
        self._ends = {one.call.index for one in found.pre_activations}
        self._layers = {layer.call.index: layer for layer in found.layers}
        self._names = {index: layer.call.name for index, layer in self._layers.items()}
        self._names |= {one.call.index: one.call.name for one in found.pre_activations}
        self._constrained = {m.call.index for one in found.pre_activations for m in one.constrained}
        self._ways = ways_to_sums(found)
        self.results: dict[int, Tensor] = {}
        self.alone: dict[int, Tensor] = {}
        self.means: dict[int, float] = {}
        self.shifts: dict[int, Tensor] = {}
        self.differentiated: Tensor | None = None

    def on_gradient(self, differentiated: list[Tensor]) -> None:
        """See :meth:`convexinit.calls.Watch.on_gradient`."""
        first, *others = differentiated
        parts = [part.reshape(-1) for part in differentiated]
        self.differentiated = torch.cat(parts) if others else first
        super().on_gradient(differentiated)

    def by_unit(self, one: PreActivation, tensor: Tensor) -> Tensor:
        """``[rows and positions, units]`` from anything of the form of a pre-activation."""
        call, product = one.place()
        shape = self.results[call.index].shape
        return product.by_unit(one.seen(tensor, shape)).double()

    def part(self, one: PreActivation, layer: FoundLayer) -> Tensor:
        """What an operation adds to a pre-activation, ``[rows and positions, units]``."""
        shape = self.results[one.first.call.index].shape
        result = self.alone.get(layer.call.index, self.results[layer.call.index])
        return one.part(layer, result, shape, self._ways).double()

    def signal(self, one: PreActivation) -> Tensor:
        """A pre-activation, ``[rows and positions, units]``."""
        return self.by_unit(one, self.results[one.call.index])

    def std(self, one: PreActivation) -> float:
        """Root of the variance over rows and positions, averaged over the units."""
        return math.sqrt(mean_variance(self.signal(one)))

    def run(self, function: Callable[..., Any], args: Any, kwargs: Any, level: Dependence) -> Any:
        """Make the call, and keep its result if it belongs to a layer."""
        index = self.count
        if level and index in self._constrained:
            product = as_product(function, args, kwargs, self.dependence)
            if product:
                self.means[index] = float(product.input.detach().mean(dtype=torch.float64))
                if product.name == "addmm":
                    self.alone[index] = product.function(product.input, product.weight).detach()
        output = function(*args, **kwargs)
        # Calls that give no tensor, such as that of a shape, are not counted.
        if not level or index not in self._names or not isinstance(output, Tensor):
            return output
        name, layer = getattr(function, "__name__", ""), self._layers.get(index)
        if name != self._names[index] or (layer and not layer.is_called_with(args, kwargs)):
            raise ValueError(
                "the network did other things with all inputs than with a few of them, so that its "
                "layers cannot be told apart; give inputs that take one way through it, or say "
                "with call= which function does"
            )
        self.results[index] = output.detach().clone()  # as it may be changed in place
        if index in self._ends and torch.is_grad_enabled() and not changes_in_place(name):
            self.shifts[index] = torch.zeros_like(output, requires_grad=True)
            output = output + self.shifts[index]
        return output

    def on_call(
        self, index: int, function: Callable[..., Any], args: Any, kwargs: Any, output: Any
    ) -> None:
        """Keep what hands on the result of a layer."""
        for way in self._ways.values():
            way.see(index, function, args, kwargs, output)


def measured(
    network: nn.Module,
    arguments: tuple[Tensor, ...],
    columns: Mapping[int, Any],
    call: Callable[..., Tensor] | None,
    found: Found,
) -> tuple[Measuring, Any]:
    """A pass over all inputs, and the output of the network; None if there is none."""
    inputs = [
        argument.detach()
        .clone()
        .requires_grad_(argument.is_floating_point() and found.needs_gradient)
        for argument in arguments
    ]
    levels = [
        (tensor, Dependence.AFFINE if index in columns else Dependence.CONTEXT)
        for index, tensor in enumerate(inputs)
    ]
    watch, output = Measuring(levels, found), None
    with torch.enable_grad(), suppress(PassEnded), watch:
        output = run(network, inputs, call)
    needed = {one.call.index for one in found.pre_activations}
    needed |= {m.call.index for one in found.pre_activations for m in one.constrained + one.free}
    if not watch.results.keys() >= needed:
        raise ValueError("the network made fewer calls with all inputs than with a few of them")
    return watch, output


def _differentiated(
    watch: Measuring, output: Any, found: Found
) -> tuple[dict[int, Tensor], dict[int, float]]:
    """Gradients by pre-activations, by index, and norms over those of the weights, by layer."""
    output = first_of(output)
    if not _is_differentiable(output):
        return {}, {}
    source = torch.Generator().manual_seed(0)
    signs = torch.randint(2, output.shape, generator=source, device="cpu") * 2.0 - 1.0
    raws = {id(layer): layer.owner for layer in found.layers if layer.owner is not None}
    gradients = torch.autograd.grad(
        output,
        [*watch.shifts.values(), *raws.values()],
        signs.to(output) / max(1, len(output) if output.ndim else 1),
        allow_unused=True,
    )
    by_signal, by_raw = gradients[: len(watch.shifts)], gradients[len(watch.shifts) :]
    reached = {
        index: gradient
        for index, gradient in zip(watch.shifts, by_signal, strict=True)
        if gradient is not None
    }
    ratios = {
        key: float(gradient.double().norm() / raw.detach().double().norm())
        for (key, raw), gradient in zip(raws.items(), by_raw, strict=True)
        if gradient is not None
    }
    return reached, ratios


def _is_differentiable(output: Any) -> bool:
    return isinstance(output, Tensor) and output.requires_grad


def _note(watch: Measuring, output: Any) -> str:
    """Of a report on a network that does not return what is differentiated."""
    output = first_of(output)
    if not _is_differentiable(output):
        returned = "a tensor" if isinstance(output, Tensor) else type(output).__name__
        return (
            f"no gradients: the network returns {returned} that cannot be differentiated; say with "
            "call= what can, as in call=lambda network, x: network(x)['value']"
        )
    if watch.differentiated is not None:
        return (
            "the network returns a gradient: dead units and gradients are those of the function "
            "that it differentiates"
        )
    return ""


def _not_seen(found: Found) -> str:
    """What the report does not show."""
    layers = ", ".join(str(one) for one in found.unseen if one.is_layer or one.is_weight)
    if not layers:
        return ""
    return f"not seen: {layers}, used on the convex path in a way that cannot be followed"


def _rows(
    found: Found,
    watch: Measuring,
    reached: dict[int, Tensor],
    gradients: dict[int, float],
    rows: int,
) -> Iterator[LayerSignal]:
    """One row for every pre-activation, and for every layer that cannot be initialised."""
    before = math.nan
    measured = [id(m) for one in found.pre_activations for m in one.constrained + one.free]
    problems = [
        layer
        for layer in found.layers
        if layer.problem and layer.role != "context" and id(layer) not in measured
    ]
    everything: list[PreActivation | FoundLayer] = [*found.pre_activations, *problems]
    for one in sorted(everything, key=lambda one: one.call.index):
        if isinstance(one, FoundLayer):
            yield LayerSignal(one.name, one.call.name, verdict=one.problem)
            continue
        row = _row(one, found, watch, reached, gradients, before, rows)
        before = row.std
        yield row


def _row(
    one: PreActivation,
    found: Found,
    watch: Measuring,
    reached: dict[int, Tensor],
    gradients: dict[int, float],
    before: float,
    rows: int,
) -> LayerSignal:
    first, signal = one.first, watch.signal(one)
    convex = torch.zeros_like(signal)
    for layer in one.constrained:
        convex += watch.part(one, layer)
    by_row = len(watch.results[one.call.index]) == rows  # and not of means over rows, say
    variance, others = (
        mean_variance(part.reshape(rows, -1) if by_row else part)
        for part in (convex, signal - convex)
    )
    exists = one.constrained and variance + others > 0
    share = round(variance / (variance + others), 6) if exists else math.nan
    gradient = reached.get(one.call.index)
    gain = 1.0 if first.gains is None else float(first.gains.mean())
    row = LayerSignal(
        layer=one.name,
        operation=first.call.name,
        map=first.map.name if one.constrained and first.map else "",
        gain=gain * (first.map.gain if first.map else 1.0),
        bias=one.biases[0].name if one.biases else "",
        mean=float(signal.mean()),
        std=watch.std(one),
        correlation=_correlation(signal),
        convex=share,
        skip=1 - share,
        dead=math.nan
        if gradient is None
        else float((watch.by_unit(one, gradient) == 0).all(0).double().mean()),
        gradient=gradients.get(id(first), math.nan),
    )
    precision = torch.finfo(watch.results[one.call.index].dtype).eps
    problems = [m.obstacle for m in one.constrained + one.free if m.obstacle]
    problems += [
        f"{layer.negative} of {layer.call.product.weight.numel()} weights negative"
        for layer in one.constrained
        if layer.negative and layer.call.product
    ]
    centred = found.gives_numbers or not one.is_without_bias
    problems += _verdicts(row, before, one.output, precision, centred)
    apart = float((signal.mean(0) - row.mean).square().mean().sqrt())
    if abs(row.mean) <= row.std < apart and one.is_bent:
        shifts = one.biases and one.biases[0].per != "layer"
        remedy = f"`{row.bias}` could do it" if shifts else "no parameter shifts units apart"
        problems.append(f"units are not centred, by {apart / row.std:.3g} deviations; {remedy}")
    return replace(row, verdict="; ".join(dict.fromkeys(problems)))


def _verdicts(
    row: LayerSignal, before: float, output: bool, precision: float, centred: bool
) -> Iterator[str]:
    if not math.isfinite(row.mean) or not math.isfinite(row.std):
        yield "not finite"
        return
    if row.std <= precision * abs(row.mean):
        yield "does not vary"
        return
    growth = row.std / before if before else math.nan
    if growth > _FACTOR:
        yield f"explodes, {growth:.3g} times a layer"
    elif growth < 1 / _FACTOR and not output:
        yield f"vanishes, by {1 / growth:.3g} a layer"
    if centred and abs(row.mean) > row.std:
        remedy = f"`{row.bias}` could do it" if row.bias else "no parameter shifts all units alike"
        yield f"not centred; {remedy}"
    if row.convex < _SHARE:
        yield "convex path carries a constant"
    if row.correlation > _ALIKE:
        yield f"units are alike (correlation {row.correlation:.3f})"
    if row.dead > _DEAD:
        yield f"{row.dead:.0%} of the units are dead"


def _correlation(signal: Tensor) -> float:
    """Of two units of ``[rows, units]``, averaged over all pairs of units that vary."""
    centred = signal - signal.mean(0)
    norms = centred.norm(dim=0)
    varying = centred[:, norms > 0] / norms[norms > 0]
    units = varying.shape[1]
    if units < 2:
        return math.nan
    return float((varying.sum(1).square().sum() - units) / (units * (units - 1)))


def _shown(value: Any) -> str:
    """A cell of the table."""
    if isinstance(value, str):
        return value or "-"
    return "-" if math.isnan(value) else f"{value:.3g}"


def _imported(name: str, user: str) -> Any:
    """A package that the library does not need otherwise."""
    package = name.partition(".")[0]
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(f"{user} needs {package}; pip install {package}") from error
