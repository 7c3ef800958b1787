"""How the weight of an operation is computed from a parameter, and how to write it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache, partial
from itertools import chain, permutations, product
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convexinit.assignment import is_close, unchanged_on_error
from convexinit.calls import Call
from convexinit.positivity import POSITIVITY, Positivity, looks_positive, softplus

_FEW = 256  # entries by which maps are told apart
_TABLE = 2**12  # values of a map that is inverted
_ABOVE_LEAST = 0.05  # by which weights are above the least that a map gives, relatively

# One more that networks use in their own code, beside those of the layers of this library.
MAPS = {
    **POSITIVITY,
    "squared_softplus": Positivity(
        "squared_softplus",
        lambda raw: F.softplus(raw).square(),
        lambda weight: POSITIVITY["softplus"].inverse(weight.sqrt()),
    ),
}


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
        said: whether the user says it, so that weights may differ from what is written, as with a
            mask or a bound.
    """

    name: str
    gain: float
    layout: tuple[int, ...]
    forward: Callable[[Tensor], Tensor]
    write: Callable[[Tensor], None]
    positivity: Positivity | None = None
    said: bool = False


Fit = tuple[Positivity, float, tuple[int, ...]]  # a map with gain and layout, as in WeightMap


def _draws(like: Tensor, scale: float = 1.0) -> Tensor:
    """The same random numbers every time, in the shape of a parameter, in float32 at least."""
    source = torch.Generator().manual_seed(1)
    draws = torch.randn(like.shape, generator=source, dtype=torch.float32, device="cpu") * scale
    return draws.to(like.device, torch.promote_types(like.dtype, torch.float32))


@dataclass
class Known:
    """What the layers of a network have in common.

    Attributes:
        fits: maps that were found.
        draws: random numbers and twice these, for parameters of a shape, type and device.
    """

    fits: list[Fit] = field(default_factory=list)
    draws: dict[Any, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def draws_for(self, raw: Tensor) -> tuple[Tensor, Tensor]:
        """The same for all parameters of a kind."""
        kind = raw.shape, raw.dtype, raw.device
        if kind not in self.draws:
            draws = _draws(raw, 1.5)
            self.draws[kind] = draws, 2 * draws
        return self.draws[kind]


def _probe(call: Call, weight: Tensor, raw: Tensor) -> Callable[[Tensor], Tensor]:
    """How an operand of a call is computed from raw values: NaN where it raises an error.

    As a matrix that has no inverse, or values that it refuses.
    """
    function = call.function_of(raw, weight)

    def forward(values: Tensor) -> Tensor:
        try:
            return function(values)
        except Exception:
            return values.sum() * torch.full_like(weight, torch.nan)

    return forward


@torch.no_grad()
def is_kept_positive(weight_map: WeightMap | None, raw: Tensor) -> bool:
    """Whether weights cannot be negative, or look as if they were not meant to be."""
    if weight_map is None or weight_map.name == "right_inverse":
        return False
    if weight_map.positivity is None:
        return bool((weight_map.forward(_draws(raw, 3.0)) >= 0).all())
    if weight_map.positivity.projects:
        return looks_positive(raw)
    return True


@torch.no_grad()
def find_map(call: Call, weight: Tensor, raw: Tensor, known: Known) -> WeightMap | None:
    """How an operand of a call is computed from a parameter of the same size, entry by entry.

    Args:
        call: a linear operation.
        weight: its operand.
        raw: the parameter.
        known: of other layers of the network, tried first; what is found is added.
    """
    if raw.numel() != weight.numel():
        return None
    forward = _probe(call, weight, raw)
    if weight is raw:
        layout = tuple(range(raw.ndim))
        entry = MAPS["projection"]
        return WeightMap(
            entry.name, 1.0, layout, forward, _writer(entry.inverse, layout, raw), entry
        )
    draws, doubled = known.draws_for(raw)
    result = forward(doubled)
    if result.shape != weight.shape or not is_close(forward(raw.detach()), weight.detach()):
        return None
    straight = tuple(range(raw.ndim))
    layouts = [
        layout
        for layout in permutations(straight)
        if draws.permute(layout).shape == weight.shape or layout == straight
    ]
    for fit in chain(known.fits, _fits(forward, draws, layouts)):
        entry, gain, layout = fit
        if layout not in layouts:
            continue
        expected = gain * entry.forward(doubled.permute(layout)).reshape(weight.shape)
        # All entries, and other values: weights that are normalised have a gain of their own.
        if _agree(result, expected):
            if fit not in known.fits:
                known.fits.append(fit)
            write = _writer(_divided(entry, gain), layout, raw)
            return WeightMap(entry.name, gain, layout, forward, write, entry)
    # What grows with the raw value, or where that is positive, as sqrt(raw^2 + 1e-6) does.
    starts: tuple[Callable[[Tensor], Tensor], ...] = (_identity, torch.exp)
    for layout, start in product(layouts, starts):
        grown = partial(_composed, forward, start)
        if _is_elementwise(grown, draws, layout):
            write = _writer(partial(_composed, start, _inverse_of(grown, layout, raw)), layout, raw)
            return WeightMap("numerical", 1.0, layout, forward, write)
    return None


def _composed(
    second: Callable[[Tensor], Tensor], first: Callable[[Tensor], Tensor], values: Tensor
) -> Tensor:
    return second(first(values))


def _identity(values: Tensor) -> Tensor:
    return values


def _some(values: Tensor) -> Tensor:
    """A few entries, from everywhere."""
    flat = values.flatten()
    return flat[:: max(1, len(flat) // _FEW)]


def _fits(
    forward: Callable[[Tensor], Tensor], draws: Tensor, layouts: Sequence[tuple[int, ...]]
) -> Iterator[Fit]:
    """Maps that fit a few entries: those that have a name, then the softplus that it may be."""
    weight, named = _some(forward(draws)), [*MAPS.values()]
    images = _mapped(draws.shape, tuple(layouts), draws.dtype, draws.device)
    for place, gain in _fitting(images, weight):
        yield named[place % len(named)], gain, layouts[place // len(named)]
    for entry in _as_softplus(forward, draws):
        for place, gain in _fitting(_images([entry], draws, layouts), weight):
            yield entry, gain, layouts[place]
    least = min(_value_at(forward, draws, value) for value in (-100.0, 0.0))
    if 0 < least < math.inf:
        for place, gain in _fitting(images, weight - least):
            entry = named[place % len(named)]
            if not entry.projects:
                yield _raised(entry, least / gain), gain, layouts[place // len(named)]


@lru_cache(64)
def _mapped(
    shape: torch.Size,
    layouts: tuple[tuple[int, ...], ...],
    dtype: torch.dtype,
    device: torch.device,
) -> Tensor:
    """:func:`_images` of all maps, which layers of a shape have in common."""
    draws = _draws(torch.empty(shape, dtype=dtype, device=device), 1.5)
    return _images([*MAPS.values()], draws, layouts)


def _images(
    entries: Sequence[Positivity], draws: Tensor, layouts: Sequence[tuple[int, ...]]
) -> Tensor:
    """``[layouts * maps, entries]``, what maps give for a few of the draws for a parameter."""
    few = [_some(draws.permute(layout)) for layout in layouts]
    return torch.stack([entry.forward(values) for values in few for entry in entries])


def _fitting(images: Tensor, weight: Tensor) -> list[tuple[int, float]]:
    """Which images of maps are a weight up to a factor, and this factor."""
    gains = (images * weight).sum(1) / images.square().sum(1)
    results = gains[:, None] * images
    precision = _precision(images, weight)
    tolerances = precision * weight.abs().max() + precision**0.75 * results.abs()
    fits = ((weight - results).abs() <= tolerances).all(1) & (gains > 0)
    return [(place, float(gains[place])) for place in fits.nonzero().flatten().tolist()]


def _precision(first: Tensor, second: Tensor) -> float:
    """Of the coarser of two, as a parameter may be brought to a finer type before its map."""
    return max(torch.finfo(first.dtype).eps, torch.finfo(second.dtype).eps)


def _agree(first: Tensor, second: Tensor) -> bool:
    """Whether all entries agree, the small ones up to the rounding of large ones."""
    precision = _precision(first, second)
    largest = float(first.abs().max())
    return math.isfinite(largest) and torch.allclose(
        first, second.to(first), precision**0.75, precision * largest
    )


def _as_softplus(forward: Callable[[Tensor], Tensor], like: Tensor) -> list[Positivity]:
    """The softplus that a map is if it is one, from its value at 0 and its slope far above."""
    at_zero, at_40, at_80 = (_value_at(forward, like, value) for value in (0.0, 40.0, 80.0))
    slope = (at_80 - at_40) / 40
    if not (at_zero > 0 and 0 < slope / at_zero < math.inf):
        return []
    return [softplus(slope * math.log(2) / at_zero)]


def _value_at(forward: Callable[[Tensor], Tensor], like: Tensor, value: float) -> float:
    """What a map makes of a number."""
    return float(forward(torch.full_like(like, value)).flatten()[0])


def _raised(entry: Positivity, offset: float) -> Positivity:
    """A map to which a number is added, such as what keeps weights from zero."""
    return Positivity(
        f"{entry.name} + {offset:.3g}",
        lambda raw: entry.forward(raw) + offset,
        lambda weight: entry.inverse((weight - offset).clamp_min(0)),
    )


def _divided(entry: Positivity, gain: float) -> Callable[[Tensor], Tensor]:
    return lambda weight: entry.inverse(weight / gain)


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
    forward: Callable[[Tensor], Tensor], draws: Tensor, layout: tuple[int, ...]
) -> bool:
    """Whether every weight depends on one raw value and grows with it."""
    result = forward(draws)
    source = torch.Generator().manual_seed(2)
    chosen = (torch.rand(draws.shape, generator=source, device="cpu") < 0.5).to(draws.device)
    changed, above, below = (forward(draws + shift) for shift in (chosen, 20.0, -20.0))
    chosen = chosen.permute(layout).reshape(result.shape)
    if not bool((changed == result)[~chosen].all() and (changed >= result).all()):
        return False
    endless = result == math.inf  # of maps that grow fast
    grows = bool((endless | (above > result)).all() and (below <= result).all())
    return grows and not bool(endless.all())


def _inverse_of(
    forward: Callable[[Tensor], Tensor], layout: tuple[int, ...], raw: Tensor
) -> Callable[[Tensor], Tensor]:
    """Inverse of a positive map that grows with every raw value, entry by entry."""
    dtype = torch.promote_types(raw.dtype, torch.float32)
    precision, tiny = torch.finfo(dtype).eps, torch.finfo(dtype).tiny

    def log_of(values: Tensor) -> Tensor:
        # Of logarithms, in which the maps that are in use are nearly straight.
        weight = _in_shape_of(raw, forward(values), layout)
        return weight.to(dtype).clamp_min(tiny).log()

    def ends(logarithm: Tensor) -> tuple[float, float, Tensor]:
        """Raw values below and above all that are asked for, or where the map ends before.

        And what the map gives at the first.
        """
        found = []
        for end in (-1.0, 1.0):
            reached = log_of(torch.full_like(logarithm, end))
            for _ in range(20):
                if bool(((reached - logarithm) * end >= 0).all()):
                    break
                further = log_of(torch.full_like(logarithm, 4 * end))
                if torch.equal(further, reached):
                    break
                end, reached = 4 * end, further
            found.append((end, reached))
        (low, least), (high, _) = found
        return low, high, least

    def guess(logarithm: Tensor, low: float, high: float) -> tuple[Tensor, Tensor, Tensor]:
        """Raw values by a table, and those around, as if the map was the same for all entries."""
        # As fine near zero as far from it, in digits.
        first, last = math.asinh(low), math.asinh(high)
        count = min(raw.numel(), _TABLE)
        grid = torch.linspace(first, last, count, dtype=dtype, device=raw.device).sinh()
        repeats = -(-raw.numel() // len(grid))
        table = log_of(grid.repeat(repeats)[: raw.numel()].reshape(raw.shape))
        table = table.flatten()[: len(grid)]
        above = torch.searchsorted(table, logarithm.contiguous()).clamp(1, len(grid) - 1)
        part = (logarithm - table[above - 1]) / (table[above] - table[above - 1])
        left, right = grid[above - 1], grid[above]
        values = left + part.nan_to_num().clamp(0, 1) * (right - left)
        return values, left, right

    def is_enough(error: Tensor, target: Tensor) -> bool:
        if bool((error.abs() <= precision**0.75).all()):
            return True
        # Rounding keeps small weights of some maps from more, and they matter less.
        return float((target * error).norm()) < 1e-4 * float(target.norm())

    def inverse(target: Tensor) -> Tensor:
        target = target.to(dtype)
        logarithm = target.clamp_min(tiny).log()
        first, last, least = ends(logarithm)
        # What is below all that the map gives is set where that has a slope.
        logarithm = torch.where(logarithm < least, least + _ABOVE_LEAST, logarithm)
        values, low, high = guess(logarithm, first, last)
        error = log_of(values) - logarithm
        below, above = log_of(low) - logarithm, log_of(high) - logarithm
        outside = (below > 0) | (above < 0)
        if bool(outside.any()):  # the map is another for other entries, or does not get there
            low, high = torch.where(outside, first, low), torch.where(outside, last, high)
            below, above = log_of(low) - logarithm, log_of(high) - logarithm
        for _ in range(30):  # the Illinois algorithm
            if is_enough(error, target):
                break
            left = error < 0
            low, high = torch.where(left, values, low), torch.where(left, high, values)
            below, above = (
                torch.where(left, error, below / 2), torch.where(left, above / 2, error),
            )  # fmt: skip
            values = ((low * above - high * below) / (above - below)).nan_to_num()
            values = torch.where((values > low) & (values < high), values, (low + high) / 2)
            error = log_of(values) - logarithm
        return values

    return inverse


@torch.no_grad()
def scaled_map(call: Call, weight: Tensor, raw: Tensor) -> WeightMap | None:
    """How a weight is scaled that is a linear function of a parameter, as with its mean taken off.

    It can be made a multiple of what it is, and nothing else.
    """
    forward = _probe(call, weight, raw)

    def write(wanted: Tensor) -> None:
        now = forward(raw.detach()).double()
        raw.mul_((wanted * now).sum() / now.square().sum())

    draws, other = _draws(raw).to(raw), _draws(raw, 2.0).roll(1).to(raw)
    point = draws - 2 * other
    first, second, both = map(forward, (draws, other, point))
    linear = is_close(forward(raw.detach()), weight.detach()) and _agree(both, first - 2 * second)
    # Of nothing but rounding errors, as of a constant without its mean, there are no multiples.
    now, raws, images, points = (float(t.double().norm()) for t in (weight, raw, both, point))
    if not linear or now * points <= _precision(raw, weight) ** 0.75 * images * raws:
        return None
    return WeightMap("scaled", 1.0, tuple(range(raw.ndim)), forward, write)


@torch.no_grad()
def parametrized_map(network: nn.Module, call: Call, parameter: str) -> WeightMap | None:
    """The map of a parametrization that inverts itself, with one behind it that has a name."""
    path, parametrized, rest = f".{parameter}".partition(".parametrizations.")
    assert call.product is not None
    if not parametrized:
        return None
    module, attribute = network.get_submodule(path[1:]), rest.partition(".")[0]
    weight = call.product.weight.detach()

    def made() -> Tensor:
        return cast("Tensor", getattr(module, attribute)).detach()

    if made().shape != weight.shape:
        return None
    for entry in MAPS.values():
        image = entry.forward(made())
        gain = float((image * weight).sum() / image.square().sum())
        if not (gain > 0 and is_close(gain * image, weight)):
            continue
        is_alone = entry.projects and is_close(image, weight)
        name, gain = ("right_inverse", 1.0) if is_alone else (entry.name, gain)

        def forward(_: Tensor, entry: Positivity = entry, gain: float = gain) -> Tensor:
            return gain * entry.forward(made())

        def write(weight: Tensor, entry: Positivity = entry, gain: float = gain) -> None:
            setattr(module, attribute, entry.inverse(weight / gain).to(made()))

        fits = _inverts(module, weight, forward, write)
        return WeightMap(name, gain, (), forward, write) if fits else None
    return None


def _inverts(
    module: nn.Module,
    weight: Tensor,
    forward: Callable[[Tensor], Tensor],
    write: Callable[[Tensor], None],
) -> bool:
    """Whether a weight stays what it is when it is written; the module is as before."""
    fits = False
    with suppress(Exception), unchanged_on_error(module):
        write(weight.clone())
        fits = is_close(forward(weight), weight)
        raise ValueError  # so that what was written is undone
    return fits


def said_map(call: Call, weight: Tensor, raw: Tensor, entry: Positivity, gain: float) -> WeightMap:
    """The map that the user says: ``gain`` times an entry, of a parameter or of its transpose."""
    layout = tuple(range(raw.ndim))
    if raw.shape != weight.shape:
        layout = layout[::-1]
    write = _writer(_divided(entry, gain), layout, raw)
    return WeightMap(entry.name, gain, layout, _probe(call, weight, raw), write, entry, said=True)
