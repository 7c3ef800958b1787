"""Passes over all layers of a network that fill them, each on the moments measured at it."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from convexinit.assignment import is_finite
from convexinit.calls import PassEnded, Watch, Way
from convexinit.evaluation import first_of
from convexinit.found import Found, FoundLayer, PreActivation, ways_to_sums
from convexinit.init import Distribution
from convexinit.nested import tensors_in
from convexinit.orthogonal import orthogonal_init_, raise_zeros_
from convexinit.products import Dependence, Product, as_product
from convexinit.signals import Operand, Signal, mean_variance, without_weight

_PRECISE = 0.01  # deviation of mean or variance, in units of the target, that is left as it is
# Share of the variance of a pre-activation that comes through the convex path at least.
_CONVEX_SHARE = 0.5
_SMALL_BIAS = 0.25  # change of a bias within a square that is left out, for a target of 1


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

    def variance_of(self, one: PreActivation) -> float:
        """Variance of a pre-activation over the inputs; normalised, it has no random biases."""
        return self.variance + (self.bias_std**2 if one.normalised else 0.0)


class Deviation(NamedTuple):
    """How far a pre-activation is from its target.

    Attributes:
        mean: its distance from that of the target, in standard deviations.
        apart: how far the means of units are from it that no bias shifts by itself, likewise (root
            mean square).
        variance: its relative distance.
        rows: on how many the variance rests: all of them if they share in it alike.
    """

    mean: float
    apart: float
    variance: float
    rows: float

    @property
    def is_small(self) -> bool:
        """Whether no further pass is needed."""
        return max(abs(self.mean), abs(self.variance)) < _PRECISE

    def differs_from(self, before: Deviation | None) -> bool:
        """Whether a pass has changed more than rounding does."""
        if before is None:
            return True
        pairs = (self.mean, before.mean), (self.variance, before.variance)
        return not all(math.isclose(*pair, rel_tol=1e-3, abs_tol=1e-3) for pair in pairs)


def normalises(name: str, args: Any, statistics: Collection[int]) -> bool:
    """Whether a call is a batch normalisation that is to use the statistics of the batch."""
    return name == "batch_norm" and any(id(tensor) in statistics for tensor in args[1:3])


def _write_(layer: FoundLayer, weight: Tensor) -> float:
    """Make a weight the one that the network uses; returns its relative error.

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
    return error / size if size > 0 else 0.0


class Filling(Watch):
    """A pass that fills each layer when its pre-activation is there, and corrects that on the way.

    The calls after it see the corrected pre-activation, so that one pass fills all layers.

    Attributes:
        deviations: of each pre-activation, after it was corrected if that is foreseen.
        output: of ``found.end``, None where there is none.
        gated: mean and variance of pre-activations behind the gates that multiply them.
        error: that was raised here, and not by the network; None if there was none.
    """

    def __init__(
        self,
        inputs: list[tuple[Tensor, Dependence]],
        found: Found,
        target: Target,
        generator: Generator,
        drawing: bool,
        writing: bool,
        statistics: Collection[int],
        rescaled: set[int],
        kept: set[int],
    ) -> None:
        super().__init__(inputs, found.trace.constants(), found.trace.splits)
        self._target, self._generator = target, generator
        self._drawing, self._writing = drawing, writing
        self._ends = {one.call.index: one for one in found.pre_activations}
        self._last = max(self._ends)
        members = [layer for one in found.pre_activations for layer in one.constrained + one.free]
        self._layers = {layer.call.index: layer for layer in members}
        self._operands: dict[int, Operand] = {}
        self._ways = ways_to_sums(found)
        self._squares = {
            one: Way([layer.call for layer in one.squared], one.call)
            for one in found.pre_activations
            if one.squared
        }
        # Of operations that are squared: their results, and those without their weights.
        self._squared = {layer.call.index for one in self._squares for layer in one.squared}
        self._results: dict[int, tuple[Tensor, Tensor]] = {}
        # Pre-activations that are measured behind a normalisation that reads them.
        self._behind = {
            one.behind.index: one
            for one in found.pre_activations
            if one.behind and one.behind.index not in self._ends
        }
        self._used = set(kept)  # also parameters of earlier pre-activations, which stay
        self._statistics, self._rescaled = statistics, rescaled
        self._starts = bool(found.renewed)
        self._gated = found.gated
        end = found.end
        self._end, self._end_name = (-1, "") if end is None else (end.index, end.name)
        self._bent = found.bent
        self._foreseen = not drawing or (
            not statistics and not rescaled and all(map(found.is_foreseen, found.pre_activations))
        )
        self.deviations: dict[PreActivation, Deviation] = {}
        self.output: Tensor | None = None
        self.gated: dict[PreActivation, tuple[float, float]] = {}
        self.error: Exception | None = None

    def check_complete(self) -> None:
        """Raise ValueError if the network did other things than in the pass that was traced."""
        if self.count <= self._last:
            raise ValueError(_OTHER_PATH)

    @contextmanager
    def _here(self) -> Iterator[None]:
        """Notes what is raised, so that it can be told from what the network raises."""
        try:
            yield
        except Exception as error:
            self.error = error
            raise

    def is_precise(self) -> bool:
        """Whether no pre-activation is far from its target, as far as is known.

        After weights were drawn that is known where another pass would change nothing.
        """
        # A normalisation fixes the moments of what comes before it, whatever is written there.
        return self._foreseen and all(
            one.normalised or deviation.is_small for one, deviation in self.deviations.items()
        )

    def run(self, function: Callable[..., Any], args: Any, kwargs: Any, level: Dependence) -> Any:
        """Make the call, and keep what it gives if it is an operation that is squared."""
        product = None
        if level and self.count in self._squared:
            product = as_product(function, args, kwargs, self.dependence)
        if product is None:
            return self._run(function, args, kwargs, level)
        without = without_weight(product, function, args, kwargs)
        output = self._run(function, args, kwargs, level)
        self._results[self.count] = output.detach().clone(), without.detach()
        return output

    def _run(self, function: Callable[..., Any], args: Any, kwargs: Any, level: Dependence) -> Any:
        """Keep what a linear operation reads before it is called."""
        layer = self._layers.get(self.count) if level else None
        if layer is None:
            if normalises(getattr(function, "__name__", ""), args, self._statistics):
                kwargs = {**kwargs, "training": True, "momentum": 1.0}
            return function(*args, **kwargs)
        product = as_product(function, args, kwargs, self.dependence)
        if (
            product is None
            or product.name != layer.call.name
            or not layer.is_called_with(args, kwargs)
        ):
            output = function(*args, **kwargs)
            with self._here():
                if tensors_in(output):
                    raise ValueError(_OTHER_PATH)
            return output  # a size, say, which is not counted
        precise = torch.promote_types(product.input.dtype, torch.float32)
        # It may be changed in place before the pre-activation is there, if that comes later.
        later = self.count not in self._ends
        operand = Operand(
            layer, product, product.input.detach().to(precise, copy=later),
            product.weight.detach().to(precise),
        )  # fmt: skip
        if self._drawing and self._is_drawn(layer):
            # What was there before may be so large that nothing else is left beside it.
            output = without_weight(product, function, args, kwargs)
        else:
            output = function(*args, **kwargs)
        operand.shape, operand.dtype = output.shape, output.dtype
        self._operands[id(layer)] = operand
        return output

    def _is_drawn(self, layer: FoundLayer) -> bool:
        """Whether the weights of a layer are still to be filled in this pass."""
        return (
            self._target.convex_path
            and layer.role == "constrained"
            and self._used.isdisjoint((id(layer.raw), id(layer.owner)))
            and (self._drawing or id(layer) not in self._rescaled)
        )

    def on_call(self, index: int, function: Any, args: Any, kwargs: Any, output: Any) -> None:
        """Fill the layers of a pre-activation."""
        for way in (*self._ways.values(), *self._squares.values()):
            way.see(index, function, args, kwargs, output)
        if one := self._ends.get(index):
            with self._here():
                name = getattr(function, "__name__", "")
                if not isinstance(output, Tensor) or name != one.call.name:
                    raise ValueError(_OTHER_PATH)
                self._fill(one, output)
            self._used |= {id(layer.raw) for layer in one.constrained + one.free + one.squared}
            self._used |= {id(option.parameter) for option in one.biases[:1]}
        if (one := self._behind.get(index)) and (signal := self._signal_of(one, output)):
            self._measure(one, signal)
        if (one := self._gated.get(index)) and (signal := self._signal_of(one, output)):
            self.gated[one] = float(signal.means.mean()), signal.variance
        if index == self._end and getattr(function, "__name__", "") == self._end_name:
            self.output = first_of(output).detach()
        if index == max(self._last, self._end) and not (self._statistics or self._starts):
            self.count += 1
            raise PassEnded

    def _signal_of(self, one: PreActivation, output: Any) -> Signal | None:
        """What later calls made of a pre-activation, None if that has another form."""
        product, shape = self._place(one, output)
        if not isinstance(output, Tensor) or output.numel() != shape.numel():
            return None
        return Signal.of(_by_unit(one, output.detach(), product, shape))

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
        values = _by_unit(one, output.detach(), product, shape)
        fillable = [operand for operand in constrained if self._is_drawn(operand.layer)]
        if any(operand.is_zero for operand in fillable):
            fillable = self._without_closed(one, fillable, free)
        if self._drawing:
            weights = [self._draw(operand, len(fillable)) for operand in fillable]
        else:
            if one.starts:
                return
            self._measure(one, Signal.of(values))
            if one.normalised or self.deviations[one].is_small or not self._writing:
                return
            weights = [operand.weight for operand in fillable]
        parts = [self._part(one, o, w) for o, w in zip(fillable, weights, strict=True)]
        if not self._drawing:
            values = values - sum(parts)
        signal = self._scale_rest(one, free, bool(parts), Signal.of(values))
        if parts:
            whole = Signal.of(sum(parts[1:], parts[0]))
            rounding = sum(map(partial(self._rounding, one), fillable, weights))
            if not (math.isfinite(signal.variance) and rounding < whole.variance < math.inf):
                raise ValueError(_unfit(one, fillable, whole.variance))
            factor = whole.factor_beside(signal, self._target.variance)
            for operand, weight in zip(fillable, weights, strict=True):
                self._write_(operand.layer, factor * weight)
            signal = signal.plus(whole, factor)
        signal = self._centre(one, signal, product, shape)
        if self._drawing and self._foreseen and not one.starts:
            self._measure(one, signal)
            self._foreseen &= self._operands[id(one.first)].dtype.itemsize >= 4
        formed = one.formed(product.from_units(signal.deviations.add_(signal.means), shape))
        output.data.copy_(formed.reshape(output.shape))

    def _without_closed(
        self, one: PreActivation, operands: list[Operand], free: list[Operand]
    ) -> list[Operand]:
        """Fill operations that read zeros in every row, and return the others.

        As behind a gate that is shut, and that training may open. There is nothing to measure, so
        that what they read is taken to be independent, of variance 1.
        """
        closed = [operand for operand in operands if operand.is_zero]
        others = [operand for operand in operands if not operand.is_zero]
        if not (others or free or one.squared):
            raise ValueError(_unfit(one, closed, 0.0))
        for operand in closed if self._drawing else []:
            noise = torch.randn(
                operand.inputs.shape, generator=torch.Generator().manual_seed(0), device="cpu"
            )
            operand.inputs = noise.to(operand.inputs)
            weight = self._draw(operand, len(operands))
            own = mean_variance(self._part(one, operand, weight))
            share = self._target.variance / len(operands)
            self._write_(operand.layer, math.sqrt(share / own) * weight if own > 0 else weight)
            operand.layer.closed = True
        return others

    def _write_(self, layer: FoundLayer, weight: Tensor) -> None:
        """Make a weight the one that the network uses; see :func:`_write_`."""
        error = _write_(layer, weight)
        self._foreseen &= not self._drawing or error < _PRECISE / 10

    def _place(self, one: PreActivation, output: Tensor) -> tuple[Product, torch.Size]:
        """What says which numbers of a pre-activation are of one unit, and in which shape."""
        shape = output.shape if one.summed else self._operands[id(one.first)].shape
        return one.place()[1], shape

    def _part(self, one: PreActivation, operand: Operand, weight: Tensor) -> Tensor:
        """What a weight adds to a pre-activation, ``[rows and positions, units]``."""
        result = operand.product.function(operand.inputs, weight)
        return one.part(operand.layer, result, self._operands[id(one.first)].shape, self._ways)

    def _rounding(self, one: PreActivation, operand: Operand, weight: Tensor) -> float:
        """Variance of what a weight adds that rounding may be the only reason for."""
        if not self._drawing:
            return 0.0  # as it was more when the weight was drawn
        if one.summed:
            noise = torch.randn(
                operand.shape, generator=torch.Generator().manual_seed(0), device="cpu"
            ).to(weight.device, operand.dtype)
            added = self._ways[id(operand.layer)].linear([noise], [torch.zeros_like(noise)])
            return operand.rounding(weight) * mean_variance(added.to(weight.dtype))
        return operand.rounding(weight) * operand.squared_gain

    def _measure(self, one: PreActivation, signal: Signal) -> None:
        """Keep by how much a pre-activation is off the moments of the target."""
        away = (signal.means - one.noise - self._target.mean) / self._target.std
        apart = not one.biases or one.biases[0].per == "layer"
        self.deviations[one] = Deviation(
            float(away.mean()) if one.biases or one.starts else 0.0,
            float(away.square().mean().sqrt()) if apart else 0.0,
            signal.variance / self._target.variance_of(one) - 1,
            signal.effective_rows(),
        )

    def _draw(self, operand: Operand, parts: int) -> Tensor:
        """Weights whose part has the correlation of the target; their scale comes later."""
        weight, layer = self._free_draw(operand, parts), operand.layer
        if layer.map is None or not layer.map.said:
            return weight
        assert layer.raw is not None
        layer.map.write(weight)
        return layer.map.forward(layer.raw.detach())

    def _free_draw(self, operand: Operand, parts: int) -> Tensor:
        """Weights as if any could be written."""
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
        if of_sum <= operand.squared_gain * operand.rounding(torch.ones_like(operand.weight)):
            raise ValueError(_sums_alike(operand.layer.name))
        rho, variance = self._target.rho, self._target.variance / parts
        mean, own = math.sqrt(rho * variance / of_sum), (1 - rho) * variance / summed
        return self._target.draw(weight, mean, own, self._generator).to(operand.weight)

    def _orthogonal(self, operand: Operand, weight: Tensor) -> Tensor:
        """Non-negative orthogonal weights, in the layout of the operation."""
        product = operand.product
        matrix = weight.unsqueeze(0) if weight.ndim == 1 else weight
        stored = matrix.mT if product.transposed else matrix
        orthogonal_init_(stored, 1.0, product.groups, self._generator)
        if not operand.layer.passes_gradient_at_zero:
            fan_in = matrix.shape[-2] if product.transposed else matrix[0].numel()
            raise_zeros_(weight, fan_in, len(self._ends))
        return weight

    def _scale_rest(
        self, one: PreActivation, free: list[Operand], convex: bool, rest: Signal
    ) -> Signal:
        """Scale free weights: to the target, or where they leave too little to the convex path.

        Also where that comes through gates that are uneven: what every layer lets through in fewer
        rows, or with other factors, would rest on a few of them in the end, and skip connections
        do not.
        """
        limit = self._target.variance * ((1 - _CONVEX_SHARE) if convex else 1.0)
        if not (free or one.squared):
            return rest
        raised = any(layer.uneven for layer in one.constrained)
        if convex and not raised and rest.variance <= 1.05 * limit:
            return rest
        kept = self._used | self._rescaled
        scaled = [
            operand
            for operand in free
            if (layer := operand.layer).map
            and kept.isdisjoint((id(layer), id(layer.raw), id(layer.owner)))
        ]
        squared = one.squared
        if not all(layer.map and id(layer.raw) not in kept for layer in squared):
            squared = []
        added = [self._part(one, operand, operand.weight) for operand in scaled]
        if squared:
            added.append(self._square(one))
        if not added:
            return rest
        scalable = Signal.of(sum(added[1:], added[0]))
        if scalable.variance <= 0:
            return rest
        others = rest.plus(scalable, -1.0)
        scale = scalable.factor_beside(others, limit)
        if abs(scale - 1) < _PRECISE / 2 or (convex and not raised and scale > 1):
            return rest
        # What is left of a much larger sum may be nothing but its rounding.
        self._foreseen &= not self._drawing or scale * _PRECISE > torch.finfo(rest.means.dtype).eps
        for operand in scaled:
            self._write_(operand.layer, scale * operand.weight)
        for layer in squared:
            assert layer.map is not None
            assert layer.raw is not None
            self._write_(layer, math.sqrt(scale) * layer.map.forward(layer.raw.detach()))
        if squared:
            root, least = math.sqrt(scale), _SMALL_BIAS * math.sqrt(self._target.std)
            for bias in one.squared_biases:
                if id(bias) not in kept and abs(1 - root) * float(bias.abs().max()) > least:
                    bias.mul_(root)
                    self._foreseen = False  # as its own square shifts the mean
        return others.plus(scalable, scale)

    def _square(self, one: PreActivation) -> Tensor:
        """What operations that are squared add, above what their biases do."""
        try:
            results = [self._results[layer.call.index] for layer in one.squared]
        except KeyError:
            raise ValueError(_OTHER_PATH) from None
        added = self._squares[one].linear(*zip(*results, strict=True))
        return _by_unit(one, added, *self._place(one, added))

    def _centre(
        self, one: PreActivation, signal: Signal, product: Product, shape: torch.Size
    ) -> Signal:
        """Set the bias so that the whole pre-activation has the mean of the target."""
        if one.normalised and not one.starts:
            spreads = signal.deviations.square().mean(0).sqrt()  # faster than std
            return Signal.of(signal.deviations / spreads.clamp_min(1e-12))
        if not one.biases or id(one.biases[0].parameter) in self._used:
            return signal
        option = one.biases[0]
        means = signal.means
        if option.per == "layer":
            means = means.mean().reshape(1)
        elif option.per == "position":
            in_shape = product.from_units(signal.means + signal.deviations, shape)
            means = in_shape.mean(0).flatten()
        noisy = self._target.bias_std > 0 and one.constrained and not one.normalised
        if self._drawing and noisy:
            one.noise = self._target.bias_std * torch.randn(
                means.shape, generator=self._generator, device=self._generator.device
            ).to(means)
        shift = self._target.mean + one.noise - means
        # Of a sum over units each of them takes its share.
        share = len(means) / option.parameter.numel()
        change = (share * shift / option.coefficient).reshape(option.parameter.shape)
        if id(option.parameter) in self._bent:
            change = change.clamp(-1, 1)  # further away the coefficient is another
        option.parameter.add_(change.to(option.parameter))
        if option.per == "position":
            return Signal.of(product.by_unit(in_shape + shift.reshape(shape[1:])))
        signal.means = signal.means + shift
        return signal


def _by_unit(one: PreActivation, tensor: Tensor, product: Product, shape: torch.Size) -> Tensor:
    """What has the form of a pre-activation, ``[rows and positions, units]``, in float32 at least.

    Args:
        one: the pre-activation.
        tensor: of its form.
        product: see :meth:`PreActivation.place`.
        shape: in which it is seen.
    """
    values = product.by_unit(one.seen(tensor, shape))
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _unfit(one: PreActivation, operands: list[Operand], variance: float) -> str:
    """What keeps operations from being filled whose results have this variance, or rest on more."""
    if all(operand.is_zero for operand in operands):
        return (
            f"what the layer {one.name} reads is zero in every row, as behind a gate that is shut "
            "there, or a ReLU of what has a mean far below zero; give the gate a positive bias, or "
            f"leave the layer as it is: layers={{{one.name!r}: {{'keep': True}}}}"
        )
    vary = any(mean_variance(o.inputs) > o.inputs.square().mean() * 1e-6 for o in operands)
    if vary and variance < math.inf and all(is_finite(o.inputs) for o in operands):
        return _sums_alike(one.name)
    return (
        f"what the layer {one.name} reads is not finite, or does not vary, with these inputs: an "
        "activation before it grows or falls too fast; use another, a smaller variance, or fewer "
        "layers"
    )


def _sums_alike(name: str) -> str:
    return (
        f"what the layer {name} reads adds up to the same in every row, but for rounding errors, "
        "as after a normalisation of every row (layer_norm, softmax, normalize). Leave that "
        f"out, or the layer as it is: layers={{{name!r}: {{'keep': True}}}}"
    )


_OTHER_PATH = (
    "the network makes other calls from one pass to the next, so that its layers cannot be filled "
    "one after the other; give it a branch that depends on shapes alone, but not on the number of "
    "rows, or say with call= which function to follow, for a fixed point a few of its steps"
)
