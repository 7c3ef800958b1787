"""What a pass computes at a layer: what its operations read, and what they add up to."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from convexinit.found import FoundLayer
from convexinit.nested import replace
from convexinit.products import Product

# Units in the last place by which terms of a sum are off at most that a function of a row gives, as
# it adds them up before, and with which the sum itself is rounded.
_ROUNDED = 10.0


@dataclass
class Signal:
    """A pre-activation, or a part of one, apart from its means over the rows (and positions).

    Attributes:
        means: ``[units]``.
        deviations: from them, ``[rows and positions, units]``.
    """

    means: Tensor
    deviations: Tensor

    @classmethod
    def of(cls, values: Tensor) -> Signal:
        """From values, ``[rows and positions, units]``."""
        means = values.mean(0)
        return cls(means, values - means)

    @cached_property
    def _squares(self) -> Tensor:
        """Of the deviations of a row, summed."""
        return torch.linalg.vector_norm(self.deviations, dim=1).square()

    @cached_property
    def variance(self) -> float:
        """Over the rows, averaged over the units."""
        return float(self._squares.mean()) / self.deviations.shape[1]

    def effective_rows(self) -> float:
        """On how many rows the variance rests: all of them if they share in it alike."""
        # The squares may be too large to be squared again.
        shares = self._squares / self._squares.sum()
        concentration = float(shares.dot(shares))
        return 1 / concentration if concentration > 0 else math.nan

    def plus(self, other: Signal, factor: float) -> Signal:
        """The sum with a multiple of another part."""
        return Signal(
            self.means.add(other.means, alpha=factor),
            self.deviations.add(other.deviations, alpha=factor),
        )

    def factor_beside(self, rest: Signal, variance: float) -> float:
        """Factor with which this part and the rest have a variance together."""
        own, others = self.variance, rest.variance
        common = float((self.deviations * rest.deviations).mean()) if others else 0.0
        # Where the rest cannot be scaled, a little comes through this part all the same.
        least = math.sqrt(0.1 * others / own)
        if variance <= others:
            return least
        return max(least, (-common + math.sqrt(common**2 + own * (variance - others))) / own)


@dataclass
class Operand:
    """What a layer computes in the pass at hand: its parts, before anything is changed in place.

    Attributes:
        layer: whose operation it is.
        product: the operation.
        inputs: of it.
        weight: of it.
        shape: of the result.
        dtype: of the result.
    """

    layer: FoundLayer
    product: Product
    inputs: Tensor
    weight: Tensor
    shape: torch.Size = field(default_factory=torch.Size)
    dtype: torch.dtype = torch.float32

    @property
    def squared_gain(self) -> float:
        """Of the gains, averaged over the units."""
        assert self.layer.gains is not None
        return float(self.layer.gains.square().mean())

    @property
    def is_zero(self) -> bool:
        """Whether it reads nothing but zeros."""
        return not (self.inputs[:1].any() or self.inputs.any())  # the first row mostly shows it

    def sums(self) -> tuple[float, float]:
        """Variance over the rows of a unit's inputs, summed up, and summed variances."""
        values = self.inputs
        dimensions = [d for d in range(values.ndim) if d != values.ndim + self.product.features]
        centred = values - values.mean(dimensions, keepdim=True)
        scale = centred.abs().max().clamp_min(torch.finfo(values.dtype).tiny)
        centred /= scale
        of_sum = mean_variance(self.product.sum_inputs(centred, self.weight))
        summed = self.product.sum_inputs(centred.square(), self.weight).mean()
        factor = float(scale.double().square()) * self.squared_gain
        return of_sum * factor, float(summed) * factor

    def rounding(self, weight: Tensor) -> float:
        """Variance of the result with a weight that rounding may be the only reason for.

        Where numbers are stored, each is off by half a unit in the last place of their type; what
        adds them up, before or in the operation, does so in float32 or in more.
        """
        units = self.product.units_in(self.shape)
        sizes = (float(torch.linalg.vector_norm(t)) for t in (self.inputs, weight))
        of_units = math.prod(sizes) ** 2 / self.inputs.numel()
        stored = max(torch.finfo(t).eps for t in (self.product.input.dtype, self.dtype)) / 2
        summed = _ROUNDED * torch.finfo(self.inputs.dtype).eps
        return (stored**2 + summed**2 * weight.numel() / units) * of_units / units


def without_weight(product: Product, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    """The result of a linear operation with weights of zero."""
    weight = product.weight if product.expanded is None else product.expanded
    new = {id(weight): torch.zeros_like(weight)}
    rows = len(product.input)
    by_row = product.name == "linear" or product.is_convolution
    alike = by_row and 1 < product.input.ndim == product.weight.ndim
    if alike:  # the bias alone, which one row shows
        new[id(product.input)] = product.input[:1]
    args, kwargs = (replace(a, lambda t: new.get(id(t), t)) for a in (args, kwargs))
    output = function(*args, **kwargs)
    return output.repeat(rows, *[1] * (output.ndim - 1)) if alike else output


def mean_variance(signal: Tensor) -> float:
    """Variance over the rows (and positions), the first dimension, averaged over the units."""
    return float((signal - signal.mean(0)).square().mean())
