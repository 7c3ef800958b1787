"""Test whether a function is convex, by its values, its curvature and its weights.

Values can prove that a function is not convex, never that it is: a test that finds nothing has
looked at finitely many pairs of points.
"""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Generator, Tensor, nn

from convexinit.checks import check_integer
from convexinit.evaluation import Convex, Inputs, Snapshot, as_tuple, convex_columns, run
from convexinit.finding import Found, find
from convexinit.layers import check_not_stacked

# F.softplus is linear above 20, so that activations of torch are only this accurate in float64.
_ACCURACY = math.exp(-20)
_CURVED_POINTS = 32  # at which the curvature is looked at
_LANCZOS_STEPS = 24
_QUICKLY_CURVED = (16, 8, 6)  # points, dimensions and steps in the quick test
# What the quick test looks at; close pairs where there are other arguments, and where not.
_LINES, _POINTS_ON_LINE, _CLOSE_PAIRS = 32, 9, (288, 32)


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
        direction: ``[dimensions]`` of this curvature, of length 1, over all convex arguments.
        curved_at: the point, as arguments of the function with one row.
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
            the network is a stack, or the function does not return finite values ``[rows]`` or
            ``[rows, ...]`` (or these first in a tuple).

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
    with _evaluated(network), torch.enable_grad():
        function = _Rows(network, call, inputs, convex)
        curvature = _curvature(function, generator)
        first, second, rows = _pairs(function, curvature, pairs, generator)
        gaps, scales = _gaps(function, first, second, rows)
        tolerances = _rounding(function, first, second, rows, generator) * scales
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
    function = _Rows(network, call, inputs, convex)
    with torch.enable_grad():
        curvature = _curvature(function, generator, *_QUICKLY_CURVED)
    with torch.no_grad():
        points, rows, (one, between, other) = _on_lines(function, curvature, generator)
        values = function(points, rows)
        gaps, scales = _compared(values[one], values[between], values[other])
        # Small values may be the difference of large ones inside of the network.
        least = function.precision**0.75 * scales.max()
        above = gaps > (_least_rounding(function) * scales).clamp_min(least)
        if above.any():
            pairs = points[one], points[other], rows[one]
            above &= gaps > _rounding(function, *pairs, generator) * scales
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


@contextmanager
def _evaluated(network: Any) -> Iterator[None]:
    """Put a network in evaluation mode, and give it back its state afterwards."""
    if not isinstance(network, nn.Module):
        yield
        return
    snapshot = Snapshot(network)
    try:
        network.eval()
        yield
    finally:
        snapshot.restore()


class _Rows:
    """A function of the convex arguments, flattened to one vector a row.

    Attributes:
        precision: of the least precise values so far.
        points: ``[rows, dimensions]``, the convex arguments.
        spread: ``[dimensions]``, standard deviations of the points; where there is none, that over
            all dimensions.
    """

    def __init__(
        self, network: Any, call: Callable[..., Any] | None, inputs: Inputs, convex: Convex
    ) -> None:
        self.alone, self.inputs = isinstance(inputs, Tensor), as_tuple(inputs)
        self.convex = convex_columns(convex, self.inputs)
        self.dtypes = [argument.dtype for argument in self.inputs]
        self.precision = 0.0
        network, self.inputs = _in_float64(network, call, self.inputs)
        self.function = network if call is None else partial(call, network)
        flat = [
            self.inputs[index].detach()[..., columns].flatten(1)
            for index, columns in self.convex.items()
        ]
        self.sizes = [part.shape[1] for part in flat]
        self.points = torch.cat(flat, 1)
        spread = self.points.double().std(0)
        if not spread.any():
            raise ValueError("the inputs do not vary in the arguments named by convex")
        self.spread = torch.where(spread > 0, spread, spread.square().mean().sqrt())

    def given(self, points: Tensor, rows: Tensor) -> Any:
        """:meth:`arguments` in the data types of the inputs."""
        arguments = [
            argument.to(dtype)
            for argument, dtype in zip(self.arguments(points, rows), self.dtypes, strict=True)
        ]
        return arguments[0] if self.alone else tuple(arguments)

    def representable(self, points: Tensor) -> Tensor:
        """Points rounded to what :meth:`given` can give."""
        parts = points.split(self.sizes, 1)
        dtypes = [self.dtypes[index] for index in self.convex]
        rounded = [p.to(dtype).to(points) for p, dtype in zip(parts, dtypes, strict=True)]
        return torch.cat(rounded, 1)

    def arguments(self, points: Tensor, rows: Tensor) -> list[Tensor]:
        """Arguments of the function.

        Args:
            points: ``[m, dimensions]``, of the convex arguments.
            rows: ``[m]``, rows of the inputs that the other arguments are taken from.
        """
        arguments = [argument[rows] for argument in self.inputs]
        parts = points.split(self.sizes, 1)
        for (index, columns), part in zip(self.convex.items(), parts, strict=True):
            target = arguments[index][..., columns]
            arguments[index][..., columns] = part.to(target.dtype).reshape(target.shape)
        return arguments

    def __call__(self, points: Tensor, rows: Tensor) -> Tensor:
        """Float64 values ``[m, outputs]``, see :meth:`arguments`."""
        # As many rows at once as the function was given, which it has the memory for.
        size = max(len(self.points), 256)
        parts = [
            self._values(points[start : start + size], rows[start : start + size])
            for start in range(0, len(points), size)
        ]
        return torch.cat(parts)

    def _values(self, points: Tensor, rows: Tensor) -> Tensor:
        values = self.function(*self.arguments(points, rows))
        if isinstance(values, (tuple, list)) and values:
            values = values[0]
        if not isinstance(values, Tensor) or values.ndim == 0 or len(values) != len(points):
            got = list(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise ValueError(
                f"the network must return one value, or vector, a row; got {got} for {len(points)} "
                "rows; call=... names the function that should be convex"
            )
        if not values.isfinite().all():
            raise ValueError("the network returns values that are not finite on these inputs")
        self.precision = max(self.precision, torch.finfo(values.dtype).eps)
        return values.double().reshape(len(values), -1)


def _in_float64(
    network: Any, call: Callable[..., Any] | None, arguments: tuple[Tensor, ...]
) -> tuple[Any, tuple[Tensor, ...]]:
    """A copy of a network, and its arguments, in float64; both as they are if it does not work."""
    precise = tuple(a.double() if a.is_floating_point() else a for a in arguments)
    try:
        twin = _twin(network) if isinstance(network, nn.Module) else network
        run(twin, [argument[:2].clone() for argument in precise], call)
    except Exception:  # whatever code of other people raises
        return network, arguments
    return twin, precise


def _twin(network: nn.Module) -> nn.Module:
    """A copy in float64, whose parameters need no gradients."""
    # What is in ``known`` already is not copied, which saves most of the time.
    known: dict[int, Any] = {
        id(parameter): nn.Parameter(parameter.detach().double(), requires_grad=False)
        for parameter in network.parameters()
        if type(parameter) is nn.Parameter and parameter.is_floating_point()
    }
    for module in network.modules():
        of_hooks = (v for v in vars(module).values() if type(v) in (dict, OrderedDict) and not v)
        known.update((id(empty), type(empty)()) for empty in of_hooks)
    return copy.deepcopy(network, known).double()


Pairs = tuple[Tensor, Tensor, Tensor]  # both ends [pairs, dimensions], and rows [pairs]


def _far_pairs(function: _Rows, count: int, generator: Generator) -> Pairs:
    """Two rows, with the other arguments of the first."""
    rows = torch.randint(len(function.points), (2, count), generator=generator)
    return function.points[rows[0]], function.points[rows[1]], rows[0]


def _close_pairs(function: _Rows, count: int, generator: Generator) -> Pairs:
    """Points on either side of a row."""
    rows = torch.randint(len(function.points), (count,), generator=generator)
    exponents = torch.rand(count, 1, generator=generator, dtype=torch.float64)
    step = 0.5 * 0.002**exponents * _gaussian(function, count, generator)
    return *_either_side(function.points[rows], step), rows


def _pairs_along(function: _Rows, curvature: _Curvature) -> Pairs:
    """Points on either side of one along a direction, at distances down to 0.001 deviations."""
    lengths = 2.0 ** -torch.arange(10, dtype=torch.float64, device=function.spread.device)
    step = lengths[:, None] * function.spread.square().mean().sqrt() * curvature.direction
    return *_either_side(curvature.point.expand_as(step), step), curvature.row.expand(len(step))


def _pairs(
    function: _Rows, curvature: _Curvature | None, count: int, generator: Generator
) -> Pairs:
    """Far, close and along the direction of a negative curvature; of values that inputs can have.

    Args:
        function: to be looked at.
        curvature: of the function.
        count: of far pairs, and of close ones.
        generator: source of randomness.
    """
    sampled = [_far_pairs(function, count, generator), _close_pairs(function, count, generator)]
    if curvature is not None and curvature.value < 0:
        sampled.append(_pairs_along(function, curvature))
    first, second, rows = (torch.cat(parts) for parts in zip(*sampled, strict=True))
    return function.representable(first), function.representable(second), rows


def _on_lines(
    function: _Rows, curvature: _Curvature | None, generator: Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Points on lines from the outermost rows to others, close pairs and their midpoints.

    Returns:
        Points ``[m, dimensions]``, their rows ``[m]``, and ``[3, triples]`` places of the ends of
        pairs, with that of the midpoint between them.
    """
    distances = ((function.points - function.points.mean(0)) / function.spread).norm(dim=1)
    rows = distances.topk(min(_LINES, len(distances))).indices.cpu()
    others = torch.randint(len(distances), rows.shape, generator=generator)
    shares = torch.linspace(0, 1, _POINTS_ON_LINE, dtype=torch.float64, device=distances.device)
    first, second = function.points[rows], function.points[others]
    lines = first + shares[:, None, None] * (second - first)
    alone = sum(function.sizes) == sum(argument[0].numel() for argument in function.inputs)
    pairs = [_close_pairs(function, _CLOSE_PAIRS[alone], generator)]
    if curvature is not None and curvature.value < 0:
        pairs.append(_pairs_along(function, curvature))
    one, other, close_rows = (torch.cat(parts) for parts in zip(*pairs, strict=True))
    points = [lines.flatten(0, 1).to(first.dtype), one, _middle(one, other), other]
    all_rows = torch.cat([rows.repeat(len(shares)), close_rows.repeat(3)])
    return torch.cat(points), all_rows, _triples(len(rows), len(one))


@lru_cache(16)
def _triples(lines: int, pairs: int) -> Tensor:
    """Places of points, ``[3, triples]``: at equal distances on a line, and in pairs.

    The first points of all lines come first; the pairs' midpoints are between their ends.
    """
    places = torch.arange(_POINTS_ON_LINE * lines + 3 * pairs, device="cpu")
    places, in_pairs = places.split([_POINTS_ON_LINE * lines, 3 * pairs])
    places = places.view(_POINTS_ON_LINE, -1)
    on_lines = [
        torch.stack([places[: -2 * step], places[step:-step], places[2 * step :]]).flatten(1)
        for step in range(1, _POINTS_ON_LINE // 2 + 1)
    ]
    return torch.cat([*on_lines, in_pairs.view(3, -1)], 1)


def _gaussian(function: _Rows, count: int, generator: Generator) -> Tensor:
    """``[count, dimensions]`` steps with the spread of the inputs."""
    size = (count, function.points.shape[1])
    noise = torch.randn(size, generator=generator, dtype=torch.float64)
    return noise.to(function.spread.device) * function.spread


def _either_side(points: Tensor, step: Tensor) -> tuple[Tensor, Tensor]:
    points, dtype = points.double(), points.dtype
    return (points - step).to(dtype), (points + step).to(dtype)


def _middle(first: Tensor, second: Tensor) -> Tensor:
    return ((first.double() + second.double()) / 2).to(first.dtype)


def _gaps(function: _Rows, first: Tensor, second: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """:func:`_compared` for pairs of points."""
    points = torch.cat([first, _middle(first, second), second])
    # Not without gradients: some networks differentiate themselves.
    one, between, other = function(points, rows.repeat(3)).detach().chunk(3)
    return _compared(one, between, other)


def _compared(one: Tensor, between: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Values at midpoints less the mean of those at the ends, and how large values are.

    Returns:
        Both ``[pairs, outputs]``.
    """
    typical = between.abs().median(0).values
    scales = one.abs() + other.abs() + between.abs() + typical
    return between - (one + other) / 2, scales


def _rounding(
    function: _Rows, first: Tensor, second: Tensor, rows: Tensor, generator: Generator
) -> float:
    """Largest gap that rounding makes, relative to the values.

    It is four times the largest of as many gaps between points so close that convexity hardly
    shows, around the points that the pairs are made of.
    """
    centres = torch.stack([first, second, (first + second) / 2])
    choice = torch.randint(3, (len(rows),), generator=generator)
    centres = centres[choice, torch.arange(len(rows))]
    precision = torch.finfo(centres.dtype).eps
    # From the last digit on, to where a curvature of 1 moves values by less than the last digit.
    exponents = 1 - torch.rand(len(rows), 1, generator=generator, dtype=torch.float64) / 3
    step = precision ** exponents.to(centres.device) * (
        _gaussian(function, len(rows), generator) + centres.abs()
    )
    gaps, scales = _gaps(function, *_either_side(centres, step), rows)
    largest = (gaps / scales.clamp_min(torch.finfo(torch.float64).tiny)).max()
    return max(4 * float(largest), _least_rounding(function))


def _least_rounding(function: _Rows) -> float:
    """What :func:`_rounding` is at least."""
    return 4 * max(function.precision, _ACCURACY)


@dataclass(frozen=True)
class _Curvature:
    """Smallest curvature: its value, ``[dimensions]`` direction and point, and ``[1]`` row."""

    value: float
    direction: Tensor
    point: Tensor
    row: Tensor


def _curvature(
    function: _Rows,
    generator: Generator,
    count: int = _CURVED_POINTS,
    exact: int = _LANCZOS_STEPS,
    steps: int = _LANCZOS_STEPS,
) -> _Curvature | None:
    """Smallest curvature over some rows and outputs.

    From whole Hessians, or by the method of Rayleigh and Ritz on Krylov spaces, orthogonalised in
    full. None for functions that cannot be differentiated twice.

    Args:
        function: to be looked at.
        generator: source of randomness.
        count: of rows.
        exact: dimensions up to which Hessians are computed.
        steps: dimensions of the spaces beyond that.
    """
    rows = torch.randperm(len(function.points), generator=generator)[:count]
    size = function.points.shape[1]
    # As many copies of a point as its Hessian has columns, which come at once then.
    copies = size if size <= exact else 1
    repeated = rows.repeat_interleave(copies)
    points = function.points[repeated].detach().requires_grad_()
    try:
        values = function(points, repeated)
        outputs = torch.randint(values.shape[1], (len(rows),), generator=generator)
        outputs = outputs.repeat_interleave(copies)
        chosen = values[torch.arange(len(repeated)), outputs].sum()
        (slope,) = torch.autograd.grad(chosen, points, create_graph=True)
        product = _hessian_product(slope, points)
        if copies == size:
            axes = torch.eye(size, dtype=torch.float64, device=points.device)
            spanned = axes.expand(len(rows), -1, -1)
            mapped = product(spanned.flatten(0, 1)).view_as(spanned)
        else:
            spanned, mapped = _krylov_space(product, points, steps, generator)
    except RuntimeError:  # of torch, where something has no derivative
        return None
    projected = spanned @ mapped.mT
    eigenvalues, eigenvectors = torch.linalg.eigh((projected + projected.mT) / 2)
    worst = int(eigenvalues[:, 0].argmin())
    direction = eigenvectors[worst, :, 0] @ spanned[worst]
    return _Curvature(
        float(eigenvalues[worst, 0]),
        nn.functional.normalize(direction, dim=0),
        function.points[rows[worst]],
        rows[worst : worst + 1],
    )


def _krylov_space(
    product: Callable[[Tensor], Tensor], points: Tensor, steps: int, generator: Generator
) -> tuple[Tensor, Tensor]:
    """Orthonormal vectors ``[rows, steps, dimensions]`` and their products with the Hessian."""
    basis: list[Tensor] = []
    images: list[Tensor] = []
    vector = torch.zeros_like(points, dtype=torch.float64)
    for _ in range(steps):
        noise = torch.randn(points.shape, generator=generator, dtype=torch.float64)
        noise, vector = _orthogonal_to(basis, torch.stack([noise.to(points.device), vector]))
        # In an invariant space there is nothing left; go on somewhere else.
        lost = vector.norm(dim=1) <= 1e-6
        vector = nn.functional.normalize(torch.where(lost[:, None], noise, vector), dim=1)
        basis.append(vector)
        images.append(product(vector))
        if not images[0].any():
            break  # piecewise linear: the Hessian is zero
        vector = nn.functional.normalize(images[-1], dim=1)
    return torch.stack(basis, 1), torch.stack(images, 1)


def _hessian_product(slope: Tensor, points: Tensor) -> Callable[[Tensor], Tensor]:
    """Products of the Hessian of each row with a vector, from its gradient."""

    def product(vectors: Tensor) -> Tensor:
        if not slope.requires_grad:  # constant, as of linear functions
            return torch.zeros_like(vectors)
        (image,) = torch.autograd.grad(
            slope, points, vectors.to(slope.dtype), retain_graph=True, allow_unused=True
        )
        return torch.zeros_like(vectors) if image is None else image.detach().double()

    return product


def _orthogonal_to(basis: list[Tensor], vectors: Tensor) -> Tensor:
    """Remove from ``[..., rows, dimensions]`` what a basis spans; twice, because of rounding."""
    if basis:
        spanned = torch.stack(basis, 2)  # [rows, dimensions, vectors]
        for _ in range(2):
            parts = vectors.unsqueeze(-2) @ spanned
            vectors = vectors - (parts @ spanned.mT).squeeze(-2)
    return vectors
