"""Fill the layers of a network that anybody wrote, on the moments measured at each of them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Generator, Tensor, nn

from convexinit.convexity import largest_gap
from convexinit.difference import ConvexDifference, parts_of
from convexinit.dropout import grows_noise
from convexinit.evaluation import (
    Convex,
    Evaluation,
    Inputs,
    as_tuple,
    convex_columns,
    evaluated,
    run,
)
from convexinit.finding import (
    Found,
    FoundLayer,
    Options,
    PreActivation,
    find_prepared,
    problems_of,
    ways_to_sums,
)
from convexinit.init import Distribution
from convexinit.orthogonal import orthogonal_init_, raise_zeros_
from convexinit.tracing import (
    Dependence,
    PassEnded,
    Product,
    Watch,
    as_product,
    calls_between,
    following,
    replace,
    tensors_in,
)
from convexinit.unseen import unseen_remarks

# Passes over all layers: one that draws, the others correct what it could not foresee.
_PASSES = 5
_PASSES_WITH_FIRST_BATCH = 2  # after which normalisations stay as they are
_PRECISE = 0.01  # deviation of mean or variance, in units of the target, that is left as it is
_TOLERATED = (0.1, 0.2)  # deviations of mean and variance that are not reported
_FEWEST_ROWS = 10.0  # that a variance may rest on without being reported
# Share of the variance of a pre-activation that comes through the convex path at least.
_CONVEX_SHARE = 0.5


AnyPass = TypeVar("AnyPass", bound="_Pass")


@dataclass(frozen=True)
class Target:
    """What the pre-activations are to be.

    Attributes:
        rho: correlation between two units of what comes through the convex path.
        variance: of every unit over the inputs, that of random biases left out.
        mean: of every unit.
        bias_std: standard deviation of random biases.
        draw: fills weights, given mean, variance and generator; None for orthogonal ones.
        convex_path: whether constrained layers are drawn; otherwise they stay as they are.
    """

    rho: float
    variance: float
    mean: float
    bias_std: float
    draw: Distribution | None
    convex_path: bool

    @property
    def std(self) -> float:
        """Standard deviation of every unit over the inputs."""
        return math.sqrt(self.variance)


class Deviation(NamedTuple):
    """How far a pre-activation is from its target.

    Attributes:
        mean: its distance from that of the target, in standard deviations.
        variance: its relative distance.
        rows: on how many the variance rests: all of them if they share in it alike.
    """

    mean: float
    variance: float
    rows: float

    @property
    def is_small(self) -> bool:
        """Whether no further pass is needed."""
        return max(abs(self.mean), abs(self.variance)) < _PRECISE


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
    arguments = as_tuple(inputs)
    columns = convex_columns(convex, arguments)
    check_values(arguments, columns)
    functions = convex_functions(network, call, layers)
    random_state = torch.get_rng_state()
    state = None if generator is None else generator.get_state()
    if generator is None:
        generator = torch.Generator().manual_seed(int(torch.randint(2**62, ())))
    try:
        with evaluated(network, arguments, call, again=True) as evaluation:
            messages = []
            for function in functions:
                found = find_prepared(
                    network, arguments, columns, function, layers or {}, evaluation.starting
                )
                kept = _take_kept(network, found)
                _check_found(found, target)
                reached = _fill_(
                    network, arguments, columns, function, found, kept, target, evaluation,
                    generator,
                )  # fmt: skip
                messages += _remarks(found, reached, target) + unseen_remarks(found.unseen)
                if target.convex_path and target.draw is None:
                    messages += grows_noise(_hidden_dropouts(found))
                if not found.returns_gradient:
                    try:
                        messages += not_convex(network, arguments, columns, function)
                    except ValueError as error:
                        messages.append(f"whether the network is convex is not known: {error}")
            evaluation.keeps = True
    except BaseException:
        torch.set_rng_state(random_state)
        if state is not None:
            generator.set_state(state)
        raise
    for message in messages:
        warnings.warn(message, stacklevel=4)


def convex_functions(
    network: nn.Module, call: Callable[..., Tensor] | None, layers: Options | None
) -> list[Callable[..., Tensor] | None]:
    """``call`` for what is convex by itself: both parts of a difference, else as it was given."""
    if call or not isinstance(network, ConvexDifference):
        return [call]
    if layers:
        raise ValueError(
            "layers= cannot be given for both parts of a difference at once; give it for each by "
            "itself: for network.minuend and for network.subtrahend"
        )
    return [lambda _, *inputs, part=part: part(*inputs) for part in parts_of(network)]


def check_values(arguments: tuple[Tensor, ...], columns: Mapping[int, Any]) -> None:
    """Raise ValueError for inputs that are not finite, or whose rows are all the same."""
    for index, argument in enumerate(arguments):
        if argument.is_floating_point() and not argument.isfinite().all():
            raise ValueError(f"inputs must be finite; argument {index} is not")
    for index, chosen in columns.items():
        values = arguments[index][..., chosen]
        if bool((values == values[:1]).all()):
            raise ValueError(
                f"inputs do not vary: all rows of argument {index} are the same; give rows of data"
            )


def _check_found(found: Found, target: Target) -> None:
    """Raise one error for everything that is missing."""
    problem_of = {
        layer: layer.problem or _not_fillable(layer, target.convex_path and target.draw is None)
        for layer in found.layers
    }
    problems = problems_of(found, problem_of, "to initialise")
    for one in found.pre_activations:
        known = any(problem_of[layer] or layer.kept for layer in one.constrained)
        if one.constrained and not (one.biases or one.output or one.said or known):
            name = one.constrained[0].name
            problems.append(
                f"{name}: no parameter shifts its pre-activation by the same amount for every row, "
                "so that it cannot be centred; give it or its skip connection a bias, or accept "
                f"that with layers={{{name!r}: {{'bias': None}}}}"
            )
    if problems:
        raise ValueError("the network cannot be initialised. " + "; ".join(problems))
    output = found.output
    if isinstance(output, (tuple, list)) and output:
        output = output[0]
    if not found.returns_gradient and not (
        isinstance(output, Tensor) and output.ndim > 0 and len(output) == found.rows
    ):
        shape = list(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise ValueError(
            f"the network must give one value or vector for each row; it gives {shape} for "
            f"{found.rows} rows. Say with call= which function is convex: "
            "call=lambda network, x: network.potential(x)"
        )


def _not_fillable(layer: FoundLayer, orthogonal: bool) -> str:
    """What keeps weights of more dimensions than a matrix from being filled, "" for nothing.

    Args:
        layer: without another problem.
        orthogonal: whether its weights are to be orthogonal.
    """
    product = layer.call.product
    if product is None or layer.role != "constrained" or product.is_convolution:
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
            'give method="moments"'
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
) -> dict[PreActivation, Deviation]:
    """Fill all layers; by how much they were off in the last pass."""
    levels = [
        Dependence.AFFINE if index in columns else Dependence.CONTEXT
        for index in range(len(arguments))
    ]
    statistics = set(map(id, evaluation.statistics))
    rescaled = _take_rescaled(found, statistics)

    def watched(watch: Callable[[list[tuple[Tensor, Dependence]]], AnyPass]) -> AnyPass:
        copies = [argument.detach().clone() for argument in arguments]
        watching = watch(list(zip(copies, levels, strict=True)))
        with torch.no_grad(), watching, suppress(PassEnded):
            run(network, copies, call)
        watching.check_complete()
        return watching

    squares = _squares(found, watched)
    for number in range(_PASSES):
        filling = watched(
            partial(
                _Filling, found=found, target=target, generator=generator, drawing=number == 0,
                statistics=statistics, rescaled=rescaled, kept=kept, squares=squares,
            )
        )  # fmt: skip
        if number > 0 and filling.is_precise():
            break
        if evaluation.starting and number < _PASSES_WITH_FIRST_BATCH:
            evaluation.start(again=True)
    return filling.deviations


def _squares(
    found: Found, watched: Callable[[Callable[[Any], _Silenced]], _Silenced]
) -> dict[PreActivation, Tensor]:
    """What layers add to pre-activations through a square, each in the form of its call.

    They read the inputs alone, so that it does not matter what other layers compute.

    Args:
        found: layers of the network.
        watched: makes a pass.
    """
    affected = [one for one in found.pre_activations if one.squared]
    if not affected:
        return {}
    constrained = {m.call.index for one in found.pre_activations for m in one.constrained}
    squared = {layer.call.index for one in affected for layer in one.squared}
    whole, rest = (
        watched(partial(_Silenced, found=found, silent=off)).signals
        for off in (constrained, constrained | squared)
    )
    return {one: whole[one.call.index] - rest[one.call.index] for one in affected}


def _normalises(name: str, args: Any, statistics: Collection[int]) -> bool:
    """Whether a call is a batch normalisation that is to use the statistics of the batch."""
    return name == "batch_norm" and any(id(tensor) in statistics for tensor in args[1:3])


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
                if _normalises(call.name, call.args, statistics):
                    layers.add(id(layer))
                    shifts |= {id(t) for c in calls[:index] for t in tensors_in(c.args, c.kwargs)}
        one.normalised |= layers >= set(map(id, members))
        one.biases = [option for option in one.biases if id(option.parameter) not in shifts]
    return layers


def _take_kept(network: nn.Module, found: Found) -> set[int]:
    """Numbers (``id``) of the parameters of layers that stay; none of them is a bias any more."""
    modules = dict(network.named_modules())
    kept = {
        id(parameter)
        for layer in found.layers
        if layer.kept
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


def _write_(layer: FoundLayer, weight: Tensor) -> None:
    """Make a weight the one that the network uses.

    Raises:
        ValueError: if it does not become that.
    """
    assert layer.map is not None
    assert layer.raw is not None
    layer.map.write(weight)
    used = layer.map.forward(layer.raw.detach())
    error, size = (float(torch.linalg.vector_norm(w)) for w in (used - weight, weight))
    if not error <= 0.05 * size:
        raise ValueError(
            f"the weight of the layer {layer.name} does not become what is written to "
            f"{layer.parameter}: its map ({layer.map.name}) does not reach the weights needed, "
            f"from {float(weight.min()):.3g} to {float(weight.max()):.3g}. Use a map that "
            "does, such as softplus; weights more alike are smaller: method='moments', rho=0.9. "
            "Remove a parametrization that normalises "
            "(torch.nn.utils.parametrize.remove_parametrizations), or leave the layer as it is: "
            f"layers={{{layer.name!r}: {{'keep': True}}}}"
        )


@dataclass
class _Operand:
    """What a layer computes in the pass at hand: its parts, before anything is changed in place."""

    layer: FoundLayer
    product: Product
    inputs: Tensor
    weight: Tensor
    shape: torch.Size = field(default_factory=torch.Size)

    def sums(self) -> tuple[float, float]:
        """Variance over the rows of a unit's inputs, summed up, and summed variances."""
        assert self.layer.gains is not None
        values, units = self.inputs, self.layer.gains.square().mean()
        dimensions = [d for d in range(values.ndim) if d != values.ndim + self.product.features]
        centred = values - values.mean(dimensions, keepdim=True)
        scale = centred.abs().max().clamp_min(torch.finfo(values.dtype).tiny)
        centred /= scale
        of_sum = _variance(self.product.sum_inputs(centred, self.weight))
        summed = self.product.sum_inputs(centred.square(), self.weight).mean()
        factor = float(scale.double().square() * units)
        return of_sum * factor, float(summed) * factor


class _Pass(Watch):
    """A pass over all layers that were found."""

    def __init__(self, inputs: list[tuple[Tensor, Dependence]], found: Found) -> None:
        super().__init__(inputs)
        self._ends = {one.call.index: one for one in found.pre_activations}
        self._last = max(self._ends)

    def check_complete(self) -> None:
        """Raise ValueError if the network did other things than in the pass that was traced."""
        if self.count <= self._last:
            raise ValueError(_OTHER_PATH)


class _Silenced(_Pass):
    """A pass in which some operations have weights of zero.

    Attributes:
        signals: pre-activations, by the index of their call.
    """

    def __init__(
        self, inputs: list[tuple[Tensor, Dependence]], found: Found, silent: set[int]
    ) -> None:
        super().__init__(inputs, found)
        self._silent = silent
        self.signals: dict[int, Tensor] = {}

    def run(self, function: Callable[..., Any], args: Any, kwargs: Any, level: Dependence) -> Any:
        """Make the call, without its weight where it is to be silent."""
        if level and self.count in self._silent:
            product = as_product(function, args, kwargs, self.dependence)
            if product is not None:
                return _without_weight(product, function, args, kwargs)
        return function(*args, **kwargs)

    def on_call(self, index: int, function: Any, args: Any, kwargs: Any, output: Any) -> None:
        """Keep a pre-activation."""
        if index in self._ends:
            if not isinstance(output, Tensor):
                raise ValueError(_OTHER_PATH)
            precise = torch.promote_types(output.dtype, torch.float32)
            self.signals[index] = output.detach().to(precise, copy=True)


def _without_weight(product: Product, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """The result of a linear operation with weights of zero."""
    weight = product.weight if product.expanded is None else product.expanded
    new = {id(weight): torch.zeros_like(weight)}
    rows = len(product.input)
    alike = 1 < product.input.ndim == product.weight.ndim
    alike &= product.name == "linear" or product.is_convolution
    if alike:  # the bias alone, which one row shows
        new[id(product.input)] = product.input[:1]
    args, kwargs = (replace(a, lambda t: new.get(id(t), t)) for a in (args, kwargs))
    output = function(*args, **kwargs)
    return output.repeat(rows, *[1] * (output.ndim - 1)) if alike else output


class _Filling(_Pass):
    """A pass that fills each layer when its pre-activation is there, and corrects that on the way.

    The calls after it see the corrected pre-activation, so that one pass fills all layers.
    """

    def __init__(
        self,
        inputs: list[tuple[Tensor, Dependence]],
        found: Found,
        target: Target,
        generator: Generator,
        drawing: bool,
        statistics: Collection[int],
        rescaled: set[int],
        kept: set[int],
        squares: dict[PreActivation, Tensor],
    ) -> None:
        super().__init__(inputs, found)
        self._target, self._generator, self._drawing = target, generator, drawing
        members = [layer for one in found.pre_activations for layer in one.constrained + one.free]
        self._layers = {layer.call.index: layer for layer in members}
        self._operands: dict[int, _Operand] = {}
        self._ways = ways_to_sums(found)
        self._used = set(kept)  # also parameters of earlier pre-activations, which stay
        self._statistics, self._rescaled, self._squares = statistics, rescaled, squares
        self.deviations: dict[PreActivation, Deviation] = {}

    def is_precise(self) -> bool:
        """Whether no pre-activation was far from its target."""
        return all(one.is_small for one in self.deviations.values())

    def run(self, function: Callable[..., Any], args: Any, kwargs: Any, level: Dependence) -> Any:
        """Keep what a linear operation reads before it is called."""
        layer = self._layers.get(self.count) if level else None
        if layer is None:
            if _normalises(getattr(function, "__name__", ""), args, self._statistics):
                kwargs = {**kwargs, "training": True, "momentum": 1.0}
            return function(*args, **kwargs)
        product = as_product(function, args, kwargs, self.dependence)
        if product is None or product.name != layer.operation:
            output = function(*args, **kwargs)
            if tensors_in(output):
                raise ValueError(_OTHER_PATH)
            return output  # a size, say, which is not counted
        precise = torch.promote_types(product.input.dtype, torch.float32)
        operand = _Operand(
            layer, product, product.input.detach().to(precise, copy=True),
            product.weight.detach().to(precise),
        )  # fmt: skip
        if self._drawing and self._is_drawn(layer):
            # What was there before may be so large that nothing else is left beside it.
            output = _without_weight(product, function, args, kwargs)
        else:
            output = function(*args, **kwargs)
        operand.shape = output.shape
        self._operands[id(layer)] = operand
        return output

    def _is_drawn(self, layer: FoundLayer) -> bool:
        """Whether the weights of a layer are still to be filled in this pass."""
        return (
            self._target.convex_path
            and layer.role == "constrained"
            and id(layer.raw) not in self._used
            and (self._drawing or id(layer) not in self._rescaled)
        )

    def on_call(self, index: int, function: Any, args: Any, kwargs: Any, output: Any) -> None:
        """Fill the layers of a pre-activation."""
        for way in self._ways.values():
            way.see(index, function, args, kwargs, output)
        one = self._ends.get(index)
        if one is None:
            return
        if not isinstance(output, Tensor) or getattr(function, "__name__", "") != one.call.name:
            raise ValueError(_OTHER_PATH)
        self._fill(one, output)
        self._used |= {id(layer.raw) for layer in one.constrained + one.free + one.squared}
        self._used |= {id(option.parameter) for option in one.biases[:1]}
        if index == self._last and not self._statistics:
            self.count += 1
            raise PassEnded

    @torch.no_grad()
    def _fill(self, one: PreActivation, output: Tensor) -> None:
        if all(layer.kept for layer in one.constrained + one.free):
            return
        try:
            constrained = [self._operands[id(layer)] for layer in one.constrained]
            free = [self._operands[id(layer)] for layer in one.free]
        except KeyError:
            raise ValueError(_OTHER_PATH) from None
        product, shape = self._place(one, output)
        signal = product.by_unit(one.seen(output.detach(), shape))
        signal = signal.to(torch.promote_types(signal.dtype, torch.float32))
        fillable = [operand for operand in constrained if self._is_drawn(operand.layer)]
        if self._drawing:
            rest = signal
            weights = [self._draw(operand, len(fillable)) for operand in fillable]
            parts = [self._part(one, o, w) for o, w in zip(fillable, weights, strict=True)]
        else:
            if one.normalised or self._is_near(one, signal):
                return
            weights = [operand.weight for operand in fillable]
            parts = [self._part(one, operand, operand.weight) for operand in fillable]
            rest = signal - sum(parts)
        rest = self._scale_rest(one, free, parts, rest)
        signal = rest
        if parts:
            whole = sum(parts[1:], parts[0])
            if not (_is_finite(rest) and 0 < _variance(whole) < math.inf):
                raise ValueError(
                    f"what the layer {one.name} reads is not finite, or does not vary, with these "
                    "inputs: an activation before it grows or falls too fast"
                )
            factor = _factor(whole, rest, self._target.variance)
            for operand, weight in zip(fillable, weights, strict=True):
                _write_(operand.layer, factor * weight)
            signal = rest + factor * whole
        signal = self._centre(one, signal, product, shape)
        whole = one.formed(product.from_units(signal, shape))
        output.data.copy_(whole.reshape(output.shape))

    def _place(self, one: PreActivation, output: Tensor) -> tuple[Product, torch.Size]:
        """What says which numbers of a pre-activation are of one unit, and in which shape."""
        shape = output.shape if one.summed else self._operands[id(one.first)].shape
        return one.place()[1], shape

    def _part(self, one: PreActivation, operand: _Operand, weight: Tensor) -> Tensor:
        """What a weight adds to a pre-activation, ``[rows and positions, units]``."""
        layer, result = operand.layer, operand.product.function(operand.inputs, weight)
        if one.summed:
            return one.place()[1].by_unit(self._ways[id(layer)].linear(result))
        assert layer.gains is not None
        own = operand.product.by_unit(result) * layer.gains
        if layer is one.first:
            return own
        moved = operand.product.from_units(own, operand.shape).permute(layer.order)
        product, shape = self._place(one, moved)
        return product.by_unit(one.seen(moved, shape))

    def _is_near(self, one: PreActivation, signal: Tensor) -> bool:
        """Whether a pre-activation has the moments of the target; keeps by how much it has not."""
        means = signal.mean(0)
        mean = float((means - self._target.mean - one.noise).mean())
        shares = (signal - means).square().mean(1)
        variance = float(shares.mean()) / self._target.variance - 1
        rows = float(shares.sum().square() / shares.square().sum())
        self.deviations[one] = Deviation(
            mean / self._target.std if one.biases else 0.0, variance, rows
        )
        return self.deviations[one].is_small

    def _draw(self, operand: _Operand, parts: int) -> Tensor:
        """Weights whose part has the correlation of the target; their scale comes later."""
        weight = torch.empty(
            operand.weight.shape, dtype=operand.weight.dtype, device=self._generator.device
        )
        if self._target.draw is None:
            return self._orthogonal(operand, weight).to(operand.weight)
        of_sum, summed = operand.sums()
        if not (math.isfinite(of_sum + summed) and min(of_sum, summed) > 0):
            raise ValueError(
                f"what the layer {operand.layer.name} reads does not vary with these inputs; use "
                "more inputs, or others"
            )
        rho, variance = self._target.rho, self._target.variance / parts
        mean, own = math.sqrt(rho * variance / of_sum), (1 - rho) * variance / summed
        return self._target.draw(weight, mean, own, self._generator).to(operand.weight)

    def _orthogonal(self, operand: _Operand, weight: Tensor) -> Tensor:
        """Non-negative orthogonal weights, in the layout of the operation."""
        matrix = weight.unsqueeze(0) if weight.ndim == 1 else weight
        orthogonal_init_(
            matrix.mT if operand.product.transposed else matrix, 1.0, 1, self._generator
        )
        if not operand.layer.passes_gradient_at_zero:
            fan_in = matrix.shape[-2] if operand.product.transposed else matrix[0].numel()
            raise_zeros_(weight, fan_in, len(self._ends))
        return weight

    def _scale_rest(
        self, one: PreActivation, free: list[_Operand], parts: list[Tensor], rest: Tensor
    ) -> Tensor:
        """Scale free weights: to the target, or where they leave too little to the convex path."""
        limit = self._target.variance * ((1 - _CONVEX_SHARE) if parts else 1.0)
        if parts and _variance(rest) <= 1.05 * limit:
            return rest
        kept = self._used | self._rescaled
        scaled = [o for o in free if o.layer.map and not {id(o.layer), id(o.layer.raw)} & kept]
        squared = one.squared
        if not all(layer.map and id(layer.raw) not in kept for layer in squared):
            squared = []
        linear = sum((self._part(one, o, o.weight) for o in scaled), torch.zeros_like(rest))
        scalable = linear
        if squared:
            product, shape = self._place(one, self._squares[one])
            square = product.by_unit(one.seen(self._squares[one], shape))
            scalable = linear + square
        others = rest - scalable
        if _variance(scalable) <= 0:
            return rest
        scale = _factor(scalable, others, limit)
        if abs(scale - 1) < _PRECISE / 2 or (parts and scale > 1):
            return rest
        for operand in scaled:
            _write_(operand.layer, scale * operand.weight)
        for layer in squared:
            assert layer.map is not None
            assert layer.raw is not None
            _write_(layer, math.sqrt(scale) * layer.map.forward(layer.raw.detach()))
        if squared:
            self._squares[one] *= scale
        return scale * scalable + others

    def _centre(
        self, one: PreActivation, signal: Tensor, product: Product, shape: torch.Size
    ) -> Tensor:
        """Set the bias so that the whole pre-activation has the mean of the target."""
        if one.normalised:
            return (signal - signal.mean(0)) / signal.std(0, correction=0).clamp_min(1e-12)
        if not one.biases or id(one.biases[0].parameter) in self._used:
            return signal
        option = one.biases[0]
        in_shape = product.from_units(signal, shape)
        means = {
            "unit": lambda: signal.mean(0),
            "position": lambda: in_shape.mean(0).flatten(),
            "layer": lambda: signal.mean().reshape(1),
        }[option.per]()
        if self._drawing and self._target.bias_std > 0 and one.constrained:
            one.noise = self._target.bias_std * torch.randn(
                means.shape, generator=self._generator, device=self._generator.device
            ).to(means)
        shift = self._target.mean + one.noise - means
        # Of a sum over units each of them takes its share.
        share = len(means) / option.parameter.numel()
        change = (share * shift / option.coefficient).reshape(option.parameter.shape)
        option.parameter.add_(change.to(option.parameter))
        if option.per == "position":
            return product.by_unit(in_shape + shift.reshape(shape[1:]))
        return signal + shift


def _is_finite(signal: Tensor) -> bool:
    # The sum is faster by far, but may be infinite where no number is.
    return math.isfinite(float(signal.sum())) or bool(signal.isfinite().all())


def _variance(signal: Tensor) -> float:
    """Variance over the rows (and positions), averaged over the units."""
    return float((signal - signal.mean(0)).square().mean())


def _factor(part: Tensor, rest: Tensor, variance: float) -> float:
    """Factor of a part with which it and the rest have this variance together."""
    part, rest = part - part.mean(0), rest - rest.mean(0)
    own, common, others = (
        float(product.mean()) for product in (part.square(), part * rest, rest.square())
    )
    # Where the rest cannot be scaled, a little of the signal comes through this part all the same.
    least = math.sqrt(0.1 * others / own)
    if variance <= others:
        return least
    return max(least, (-common + math.sqrt(common**2 + own * (variance - others))) / own)


def _remarks(found: Found, reached: Mapping[PreActivation, Deviation], target: Target) -> list[str]:
    """Warnings about single layers of a network that is filled."""
    members = [layer for one in found.pre_activations for layer in one.constrained]
    messages = []
    if gated := ", ".join(layer.name for layer in members if layer.gated):
        messages.append(
            f"what these layers read is multiplied by a gate that depends on other inputs: {gated};"
            " their moments hold on average over the rows that were given"
        )
    few: dict[str, float] = {}
    used: set[int] = set()
    for one in found.pre_activations:
        mean, variance, rows = reached.get(one, Deviation(0.0, 0.0, math.inf))
        own = {id(layer.raw) for layer in one.constrained + one.free}
        own |= {id(option.parameter) for option in one.biases[:1]}
        again, used = own & used, own | used
        if one.constrained and one.output and not one.biases and not one.said:
            messages.append(
                f"no parameter can centre the output layer {one.name}; the mean of the output "
                "stays what the weights make it"
            )
        elif abs(mean) > _TOLERATED[0] or abs(variance) > _TOLERATED[1]:
            messages.append(
                f"the pre-activation of the layer {one.name} has the mean "
                f"{target.mean + mean * target.std:.3g} and the variance "
                f"{(1 + variance) * target.variance:.3g}, as "
                + (
                    "a weight or bias of it was set at its first use"
                    if again
                    else "what is added to it varies more than the target, or differs from pass to "
                    "pass"
                )
            )
        elif rows < _FEWEST_ROWS:
            few[one.name] = rows
    if few:
        messages.append(
            "the variances of these layers rest on a few of the rows, as few as "
            f"{min(few.values()):.0f}, and will be others on other rows: {', '.join(few)}. Give "
            "more rows; where activations grow as squares, a mean far from zero, as mean=10, with "
            "which they bend less, or fewer layers"
        )
    return messages


def not_convex(
    network: nn.Module,
    arguments: tuple[Tensor, ...],
    columns: Mapping[int, Any],
    call: Callable[..., Tensor] | None,
) -> list[str]:
    """A warning if a network is above the mean of two points at their midpoint.

    Raises:
        ValueError: if that cannot be tested.
    """
    gap = largest_gap(network, arguments, columns, call)
    if gap <= 0:
        return []
    return [
        f"the network is not convex in argument {', '.join(map(str, columns))}: at the midpoint of "
        f"two points it is up to {gap:.3g} above their mean. Look for activations that are not "
        "convex and increasing, for normalisations of every row (LayerNorm) and for gates below "
        "zero, or say what is convex with convex= or call="
    ]


_OTHER_PATH = (
    "the network makes other calls from one pass to the next, so that its layers cannot be filled "
    "one after the other; give it a branch that depends on shapes alone, or say with call= which "
    "function to follow"
)
