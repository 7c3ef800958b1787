"""Test whether a function is convex, by its values, its curvature and its weights.

Values can prove that a function is not convex, never that it is: a test that finds nothing has
looked at finitely many pairs of points.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Generator, Tensor, nn

from convexinit.calls import PassEnded, Watch
from convexinit.checks import check_generator, check_integer
from convexinit.curvature import curvature_of
from convexinit.evaluation import MISFITS, Convex, Inputs, first_of, not_callable, run
from convexinit.finding import find
from convexinit.found import Found
from convexinit.layers import check_not_stacked
from convexinit.midpoints import (
    compared,
    draw_pairs,
    gaps_between,
    least_rounding,
    on_lines,
    rounding,
)
from convexinit.products import Dependence
from convexinit.rows import Rows, in_evaluation_mode

_QUICKLY_CURVED = (16, 8, 6)  # points, dimensions and steps in the quick test


@dataclass(frozen=True)
class NegativeWeights:
    """Negative weights of one layer that should have none.

    Attributes:
        layer: its name.
        count: how many are negative.
        of: how many there are.
        smallest: of them.
    """

    layer: str
    count: int
    of: int
    smallest: float

    def __str__(self) -> str:
        return f"{self.layer}: {self.count} of {self.of}, the smallest {self.smallest:.3g}"


@dataclass(frozen=True)
class ConvexityReport:
    """What :func:`is_convex` found; true if no pair of points shows a violation.

    Attributes:
        pairs: number of pairs that were looked at.
        gap: of the pair that is worst beside its tolerance, the value at the midpoint less the mean
            of the values at the ends: above 0 where a function is not convex.
        tolerance: how much of this gap rounding may explain.
        pair: both ends if the gap exceeds the tolerance, as arguments of the function with one row;
            else None.
        output: the output that shows the gap.
        curvature: smallest eigenvalue of the Hessian with respect to the convex arguments, over
            some rows and outputs: exact up to 24 dimensions, beyond them an upper bound by
            Lanczos' method. 0 for functions that are piecewise linear; None for functions that
            cannot be differentiated twice. Not part of the verdict, as it has no tolerance; but
            pairs along its direction are.
        direction: ``[dimensions]`` of this curvature, of length 1, over all convex arguments; None
            where there is none.
        curved_at: the point, as arguments of the function with one row; None likewise.
        negative_weights: of layers that should have none, see :func:`negative_weights`; None if
            layers cannot be found, as in functions that are no networks. Not part of the verdict:
            a network may be convex in spite of them, on these inputs at least.
        unknown_weights: of which it is not known whether they are negative where they should not
            be; "" for nothing.
        differentiates: whether the network differentiates itself, so that what it returns may be a
            gradient.
    """

    pairs: int
    gap: float
    tolerance: float
    pair: tuple[Any, Any] | None
    output: int
    curvature: float | None
    direction: Tensor | None
    curved_at: Any
    negative_weights: tuple[NegativeWeights, ...] | None
    unknown_weights: str = ""
    differentiates: bool = False

    def __bool__(self) -> bool:
        return self.pair is None

    def __str__(self) -> str:
        if self:
            verdict = f"convex on {self.pairs} pairs of points"
        else:
            verdict = (
                f"not convex: output {self.output} is {self.gap:.3g} higher between two points "
                f"than on average at them (rounding explains {self.tolerance:.1g})"
            )
            if self.differentiates:
                verdict += (
                    "; if the network returns a gradient, name with call= what it differentiates"
                )
        curvature = "unknown" if self.curvature is None else f"{self.curvature:.3g}"
        parts = [*map(str, self.negative_weights or ())]
        if self.unknown_weights or self.negative_weights is None:
            parts.append(
                f"unknown of {self.unknown_weights}" if self.unknown_weights else "unknown"
            )
        weights = "; ".join(parts) or "none"
        return f"{verdict}\nsmallest curvature: {curvature}\nnegative weights: {weights}"


def is_convex(
    network: Callable[..., Tensor],
    inputs: Inputs,
    convex: Convex = 0,
    call: Callable[..., Tensor] | None = None,
    pairs: int = 500,
    generator: Generator | None = None,
) -> ConvexityReport:
    """Test whether a network is convex in one of its arguments, or in several together.

    The value at the midpoint of two points must not exceed the mean of the values at them. Pairs
    are rows of the inputs, points close to one row on either side of it (at 0.001 to 0.5 standard
    deviations), and points along the direction of the most negative curvature. Each output has to
    be convex.

    Rounding should make no false alarm. A copy of the network is tested in float64, whatever its
    data type: its function, not its rounding. Where that fails (a network that cannot be copied, or
    names a data type in its code), the network itself is tested. In either case rounding is
    measured on the function, at points moved by so little that only rounding tells them apart. That
    it misses where values hardly move beside a large constant inside of the network, which matters
    without float64 alone.

    The network is tested in evaluation mode, and left as it was.

    Args:
        network: a network, or any function of tensors.
        inputs: its argument, or a tuple of its arguments, each ``[rows, ...]``: typical ones, at
            least two rows.
        convex: position of the argument in which the network should be convex, or several, or
            ``{position: columns}`` for a part of the last dimension, a slice or a list of indices.
            Everything else keeps the values of its row.
        call: what should be convex, where ``forward`` returns something else: a function of the
            network and its arguments, such as ``lambda network, x: network.potential(x)``.
        pairs: number of pairs of rows, and number of close pairs.
        generator: source of randomness, on the CPU; one with a fixed seed if None.

    Raises:
        ValueError: if an argument is out of range, the inputs have fewer than two different rows,
            the network is a stack or cannot be called with them, or the function does not return
            finite values ``[rows]`` or ``[rows, ...]`` (or these first in a tuple).

    Example:
        >>> from convexinit import MLP
        >>> network = MLP([3, 20, 20, 1])
        >>> inputs = torch.randn(100, 3)
        >>> bool(is_convex(network, inputs))
        True
        >>> bool(is_convex(network, inputs, call=lambda network, x: -network(x)))
        False
    """
    check_integer("pairs", pairs)
    check_generator(generator)
    generator = Generator().manual_seed(0) if generator is None else generator
    weights, unknown, differentiates = None, "", False
    if isinstance(network, nn.Module):
        check_not_stacked(network, "test each of convexinit.stacking.unstack_network")
        with suppress(ValueError, RuntimeError):  # where layers cannot be found
            found = find(network, inputs, convex, call)
            weights, differentiates = tuple(_negative_weights(found)), found.returns_gradient
            unknown = ", ".join(
                str(one) for one in found.unseen if one.breaks and not one.only_negative
            )
    with in_evaluation_mode(network), torch.enable_grad():
        function = Rows(network, call, inputs, convex)
        try:
            curvature = curvature_of(function, generator)
            first, second, rows = draw_pairs(function, curvature, pairs, generator)
            gaps, scales = gaps_between(function, first, second, rows)
            tolerances = rounding(function, first, second, rows, generator) * scales
        except MISFITS as error:
            if not isinstance(network, nn.Module):
                raise
            raise not_callable(network, function.inputs, error) from error
    # A gap of 0 beside a tolerance of 0 (of a function that is 0 everywhere) is none.
    excess = (gaps - tolerances) / scales.clamp_min(torch.finfo(torch.float64).tiny)
    worst, output = divmod(int(excess.argmax()), excess.shape[1])
    gap, tolerance = float(gaps[worst, output]), float(tolerances[worst, output])
    ends = [function.given(point[worst : worst + 1], rows[worst : worst + 1])
            for point in (first, second)]  # fmt: skip
    return ConvexityReport(
        pairs=len(gaps),
        gap=gap,
        tolerance=tolerance,
        pair=(ends[0], ends[1]) if gap > tolerance else None,
        output=output,
        curvature=None if curvature is None else curvature.value,
        direction=None if curvature is None else curvature.direction,
        curved_at=None
        if curvature is None
        else function.given(curvature.point[None], curvature.row),
        negative_weights=weights,
        unknown_weights=unknown,
        differentiates=differentiates,
    )


def largest_gap(
    network: nn.Module, inputs: Inputs, convex: Convex, call: Callable[..., Tensor] | None
) -> float:
    """:func:`is_convex` by fewer means: the largest gap that rounding does not explain, or 0.

    Points are equally spaced on lines, so that each is in several pairs or between them. Lines
    start at the outermost rows, as activations may bend the wrong way for large values alone.
    Rounding is measured only where there is a gap.

    Args:
        network: in evaluation mode; one that does not differentiate itself.
        inputs: see :func:`is_convex`.
        convex: see :func:`is_convex`.
        call: see :func:`is_convex`.

    Raises:
        ValueError: see :func:`is_convex`.
    """
    generator = Generator().manual_seed(0)
    function = Rows(network, call, inputs, convex)
    with torch.enable_grad():
        curvature = curvature_of(function, generator, *_QUICKLY_CURVED)
    with torch.no_grad():
        points, rows, (one, between, other) = on_lines(function, curvature, generator)
        values = function(points, rows)
        gaps, scales = compared(values[one], values[between], values[other])
        # Small values may be the difference of large ones inside of the network.
        least = function.precision**0.75 * scales.max()
        above = gaps > (least_rounding(function) * scales).clamp_min(least)
        if above.any():
            pairs = points[one], points[other], rows[one]
            above &= gaps > rounding(function, *pairs, generator) * scales
    return float(gaps[above].max()) if above.any() else 0.0


def negative_weights(
    network: nn.Module,
    inputs: Inputs,
    convex: Convex = 0,
    call: Callable[..., Tensor] | None = None,
) -> Iterator[NegativeWeights]:
    """Negative weights of layers that should have none; layers without any are left out.

    That is of linear operations whose input is not affine in the convex arguments
    (:mod:`convexinit.finding`), whatever the class of the layer.

    Args:
        network: see :func:`is_convex`.
        inputs: see :func:`is_convex`.
        convex: see :func:`is_convex`.
        call: see :func:`is_convex`.

    Raises:
        ValueError: if layers cannot be found.

    Example:
        >>> network = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1, bias=False))
        >>> _ = nn.init.constant_(network[2].weight, -1.0)
        >>> print(*negative_weights(network, torch.randn(8, 2)))
        2: 4 of 4, the smallest -1
    """
    yield from _negative_weights(find(network, inputs, convex, call))


def _negative_weights(found: Found) -> Iterator[NegativeWeights]:
    """Of layers, each once, and of other parameters that multiply the convex path."""
    negative = {layer.name: layer for layer in found.layers if layer.negative}
    for name, layer in negative.items():
        assert layer.call.product is not None
        weight = layer.call.product.weight.detach()
        yield NegativeWeights(name, layer.negative, weight.numel(), float(weight.min()))
    for one in found.unseen:
        if one.negative:
            weight = one.operand
            yield NegativeWeights(one.parameter, one.negative, weight.numel(), float(weight.min()))


class _Differentiating(Watch):
    """A pass that ends where a network differentiates itself.

    Attributes:
        parts: what it differentiates; where it adds rows up for that, before.
    """

    def __init__(self, inputs: list[Tensor]) -> None:
        super().__init__([(tensor, Dependence.AFFINE) for tensor in inputs])
        self.parts: list[Tensor] = []
        self._summed: dict[int, tuple[Tensor, Tensor]] = {}  # with the sum, see Watch

    def run(self, function: Callable[..., Any], args: Any, kwargs: Any, level: Dependence) -> Any:
        """Make the call."""
        output = function(*args, **kwargs)
        sums = level and getattr(function, "__name__", "") in {"sum", "mean"}
        if sums and args and output.ndim == 0 < args[0].ndim:
            self._summed[id(output)] = output, args[0].reshape(len(args[0]), -1).sum(1)
        return output

    def on_gradient(self, differentiated: list[Tensor]) -> None:
        """See :meth:`Watch.on_gradient`."""
        self.parts = [self._summed.get(id(part), (part, part))[1] for part in differentiated]
        raise PassEnded


def differentiated_by(call: Callable[..., Tensor] | None) -> Callable[..., Tensor]:
    """What a network differentiates first, as a function of the network and its arguments."""

    def values(network: nn.Module, *inputs: Tensor) -> Tensor:
        copies = [
            t.clone().requires_grad_() if t.is_floating_point() and not t.requires_grad else t
            for t in inputs
        ]
        watch = _Differentiating(copies)
        with torch.enable_grad(), suppress(PassEnded), watch:
            run(network, copies, call)
        return watch.parts[0] if len(watch.parts) == 1 else torch.stack(watch.parts, -1)

    return values


def not_convex(
    network: nn.Module,
    arguments: tuple[Tensor, ...],
    columns: Mapping[int, Any],
    call: Callable[..., Tensor] | None,
    differentiates: bool = False,
) -> list[str]:
    """A warning if a network is above the mean of two points at their midpoint.

    Args:
        network: in evaluation mode.
        arguments: of the network.
        columns: see :func:`~convexinit.evaluation.convex_columns`.
        call: see :func:`is_convex`.
        differentiates: whether it returns a gradient; what it is the gradient of is tested then.

    Raises:
        ValueError: if that cannot be tested.
    """
    function = differentiated_by(call) if differentiates else call
    gap = largest_gap(network, arguments, columns, function)
    if gap <= 0:
        return []
    name = "what the network differentiates" if differentiates else "the network"
    of = f"argument {', '.join(map(str, columns))}"

    def negated(network: nn.Module, *inputs: Tensor) -> Tensor:
        return cast("Tensor", -first_of(run(network, inputs, call)))

    if not differentiates and largest_gap(network, arguments, columns, negated) <= 0:
        negative = "lambda network, *inputs: -network(*inputs)" if call is None else "its negative"
        return [
            f"{name} is not convex in {of} but concave; if it is meant to be, give call={negative}"
        ]
    return [
        f"{name} is not convex in {of}: at the midpoint of two points it is up to {gap:.3g} above "
        "their mean. Look for activations that are not "
        "convex and increasing, for normalisations of every row (LayerNorm) and for gates below "
        "zero, or say what is convex with convex= or call="
    ]
