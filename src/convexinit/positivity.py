"""Ways to keep the weights of a convex layer non-negative (one line of the table each)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from convexinit.checks import check_choice


def _at_least_smallest(weight: Tensor) -> Tensor:
    """Weights with zeros and what is next to them raised to where a logarithm is finite.

    That is the smallest normal number, as processors may flush smaller ones to zero. In float16,
    where it is no smaller than many weights of a wide layer, it is the smallest number of all:
    arithmetic of float16 passes through float32, which flushes none of them.
    """
    half = weight.dtype == torch.float16
    return weight.clamp_min(2.0**-24 if half else torch.finfo(weight.dtype).tiny)


def _identity(weight: Tensor) -> Tensor:
    return weight


def _log(weight: Tensor) -> Tensor:
    return _at_least_smallest(weight).log()


def _softplus_inverse(weight: Tensor) -> Tensor:
    weight = _at_least_smallest(weight)
    raw = weight + torch.log(-torch.expm1(-weight))
    # Above 20, F.softplus is the identity, and in float64 that differs from log(1 + exp).
    return torch.where(raw > 20, weight, raw)


def _neg_exp(raw: Tensor) -> Tensor:
    # The clamp keeps the unused branch finite: exp(large) would turn its zero gradient into NaN.
    return torch.where(raw < 0, raw.clamp_max(0.0).exp(), raw)


@dataclass(frozen=True)
class Positivity:
    """A map from raw, trainable values to non-negative weights.

    Attributes:
        name: name used in configurations.
        forward: elementwise map, applied in every forward pass.
        inverse: raw values for given non-negative weights, so that an initialisation of the
            weights carries over to the raw values.
        projects: whether negative raw values have to be set to zero after every optimiser step
            (:func:`convexinit.layers.project_`); ``forward`` is the identity in that case.
    """

    name: str
    forward: Callable[[Tensor], Tensor]
    inverse: Callable[[Tensor], Tensor]
    projects: bool = False


POSITIVITY: dict[str, Positivity] = {
    positivity.name: positivity
    for positivity in (
        # Amos et al. 2017
        Positivity("projection", _identity, _identity, projects=True),
        # relu(w) in the forward pass
        Positivity("clip", torch.relu, _identity),
        # exp(w); Hoedt & Klambauer 2023, appendix C.5
        Positivity("exp", torch.exp, _log),
        # exp(w) where w < 0, else w; Sivaprasad et al. 2021
        Positivity("neg_exp", _neg_exp, _identity),
        # w^2; Nesterov et al. 2022
        Positivity("square", torch.square, torch.sqrt),
        # log(1 + exp(w)), common in optimal transport code
        Positivity("softplus", F.softplus, _softplus_inverse),
    )
}


def resolve_positivity(name: str) -> Positivity:
    """Return the map called ``name``.

    Raises:
        ValueError: for an unknown name; the message lists the known ones.

    Example:
        >>> resolve_positivity("exp").forward(torch.zeros(1))
        tensor([1.])
    """
    return check_choice("positivity", name, POSITIVITY)
