"""How the weight of an operation is computed from a parameter, and how to write it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import permutations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convexinit.assignment import is_close
from convexinit.positivity import POSITIVITY, Positivity, softplus
from convexinit.tracing import Call

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
    """

    name: str
    gain: float
    layout: tuple[int, ...]
    forward: Callable[[Tensor], Tensor]
    write: Callable[[Tensor], None]
    positivity: Positivity | None = None


def _draws(like: Tensor, scale: float = 1.0) -> Tensor:
    """The same random numbers every time, in the shape of a parameter, in float32 at least."""
    draws = torch.randn(like.shape, generator=torch.Generator().manual_seed(1)) * scale
    return draws.to(like.device, torch.promote_types(like.dtype, torch.float32))


@torch.no_grad()
def is_kept_positive(weight_map: WeightMap | None, raw: Tensor) -> bool:
    """Whether weights cannot be negative, or look as if they were not meant to be."""
    if weight_map is None or weight_map.name == "right_inverse":
        return False
    if weight_map.name in {name for name, entry in MAPS.items() if entry.projects}:
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
        entry = MAPS["projection"]
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
        for name, entry in (MAPS | _as_softplus(forward, draws)).items():
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
    if not (at_zero > 0 and 0 < slope / at_zero < math.inf):
        return {}
    entry = softplus(slope * math.log(2) / at_zero)
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


def inverted_map(network: nn.Module, call: Call, parameter: str) -> WeightMap | None:
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


def said_map(weight: Tensor, raw: Tensor, entry: Positivity, gain: float) -> WeightMap:
    """The map that the user says: ``gain`` times an entry, of a parameter or of its transpose."""
    layout = tuple(range(raw.ndim))
    if raw.shape != weight.shape:
        layout = layout[::-1]

    def forward(values: Tensor) -> Tensor:
        return (gain * entry.forward(values)).permute(layout).reshape(weight.shape)

    write = _writer(_divided(entry, gain), layout, raw)
    return WeightMap(entry.name, gain, layout, forward, write, entry)
