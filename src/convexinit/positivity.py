"""Ways to keep the weights of a convex layer non-negative (one line of the table each)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convexinit.checks import check_choice, check_number


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


def _softplus_inverse(weight: Tensor, beta: float) -> Tensor:
    weight = _at_least_smallest(weight)
    # In float32 at least, and once more away from zero: beta may be far below 1.
    precise = weight.to(torch.promote_types(weight.dtype, torch.float32))
    scaled = precise if beta == 1.0 else _at_least_smallest(beta * precise)
    raw = precise + torch.log(-torch.expm1(-scaled)) / beta
    # Above 20, F.softplus is the identity, and in float64 that differs from log(1 + exp).
    return torch.where(beta * raw > 20, precise, raw).to(weight.dtype)


def _neg_exp(raw: Tensor) -> Tensor:
    # The clamp keeps the unused branch finite: exp(large) would turn its zero gradient into NaN.
    return torch.where(raw < 0, raw.clamp_max(0.0).exp(), raw)


def _elu(raw: Tensor) -> Tensor:
    # Not F.elu(raw) + 1, of which small weights are lost where 1 is added to almost -1.
    return torch.where(raw < 0, raw.clamp_max(0.0).exp(), raw + 1)


def _elu_inverse(weight: Tensor) -> Tensor:
    return torch.where(weight < 1, _log(weight), weight - 1)


def _abs(raw: Tensor) -> Tensor:
    # torch.abs has no gradient at zero, where weights could not get away again.
    return torch.where(raw < 0, -raw, raw)


@dataclass(frozen=True)
class Positivity:
    """A map from raw, trainable values to non-negative weights.

    Maps of the same name count as the same: stored states know theirs by it.

    Attributes:
        name: name used in configurations.
        forward: elementwise map, applied in every forward pass.
        inverse: raw values for given non-negative weights, so that an initialisation of the
            weights carries over to the raw values.
        projects: whether negative raw values have to be set to zero after every optimiser step
            (:func:`convexinit.layers.project_`); ``forward`` is the identity in that case.
    """

    name: str
    forward: Callable[[Tensor], Tensor] = field(compare=False)
    inverse: Callable[[Tensor], Tensor] = field(compare=False)
    projects: bool = False


def looks_positive(weight: Tensor) -> bool:
    """Whether there are enough weights that none of them is negative by chance."""
    return weight.numel() >= 8 and bool((weight >= 0).all() and (weight > 0).any())


@torch.inference_mode(False)
@torch.enable_grad()
def has_slope(forward: Callable[[Tensor], Tensor], raw: Tensor, scale: float = 1.0) -> bool:
    """Whether a map lets half of a gradient of the weights, or more, through to raw values.

    Args:
        forward: weights of raw values; each weight depends on one of them.
        raw: values at which the slope is taken, of any shape.
        scale: of the weights, to which the slope is compared.

    Example:
        >>> has_slope(torch.relu, torch.ones(3))
        True
        >>> has_slope(torch.relu, torch.zeros(3))
        False
    """
    raw = raw.detach().clone().requires_grad_()
    (slope,) = torch.autograd.grad(forward(raw).sum(), raw)
    return bool((slope >= 0.5 * scale).all())


@cache
def is_flat_at_zero(positivity: Positivity) -> bool:
    """Whether raw values for weights of zero, and those next to them, get hardly any gradient.

    Example:
        >>> [is_flat_at_zero(POSITIVITY[name]) for name in ("softplus", "clip")]
        [True, False]
    """
    raw = positivity.inverse(torch.zeros((), device="cpu"))
    return not any(has_slope(positivity.forward, raw + step) for step in (-0.01, 0.0, 0.01))


def softplus(beta: float) -> Positivity:
    """The map ``log(1 + exp(beta w)) / beta``, closer to ReLU the larger beta is.

    Args:
        beta: greater than 0; its inverse is the temperature.

    Raises:
        ValueError: if beta is out of range.

    Example:
        >>> softplus(100.0).forward(torch.tensor([-1.0, 1.0]))
        tensor([0., 1.])
    """
    beta = check_number("beta", beta, 0.0)
    return Positivity(
        "softplus" if beta == 1 else f"softplus_{beta:g}",
        partial(F.softplus, beta=beta),
        partial(_softplus_inverse, beta=beta),
    )


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
        softplus(1.0),
        # log(1 + exp(10 w)) / 10
        softplus(10.0),
        # elu(w) + 1: exp(w) where w < 0, else w + 1
        Positivity("elu", _elu, _elu_inverse),
        # |w|
        Positivity("abs", _abs, _identity),
    )
}


def resolve_positivity(positivity: str | Positivity) -> Positivity:
    """Return the map of this name; a map is returned as it is.

    Raises:
        ValueError: for an unknown name, where the message lists the known ones, and for a map that
            gives negative weights.

    Example:
        >>> resolve_positivity("exp").forward(torch.zeros(1))
        tensor([1.])
    """
    if not isinstance(positivity, Positivity):
        other = "a convexinit.positivity.Positivity or "
        positivity = check_choice("positivity", positivity, POSITIVITY, other)
    _check_non_negative(positivity)
    return positivity


@torch.no_grad()
def _check_non_negative(positivity: Positivity) -> None:
    """Raise ValueError if a map visibly gives negative weights.

    The check looks at a grid over [-10, 10], so that it can prove a violation, not its absence.
    """
    if positivity.projects:
        return
    raw = torch.linspace(-10, 10, 2001, dtype=torch.float64, device="cpu")
    try:
        weights = positivity.forward(raw.clone())  # a clone, because it may work in place
        least = float(weights.min())
    except RuntimeError:  # nothing to see, as in FakeTensorMode; a map that fails does so in use
        return
    if least < -1e-9:
        raise ValueError(
            f"positivity {positivity.name!r} gives negative weights, such as {least:.3g} for "
            f"{float(raw[weights.argmin()]):.3g}; a map must give at least 0 for every number"
        )


class Mapped(nn.Module):
    """A module whose state names the map from its raw values to the weights that it uses.

    The name is in the metadata of the state, where torch keeps versions, so that its keys are those
    of torch. A state whose raw values mean something else is refused when it is loaded, with the
    RuntimeError of ``load_state_dict``. States that were copied into plain dictionaries, or come
    from layers of torch, name no map: of these, negative weights are refused where they would have
    to be projected.
    """

    def _map(self) -> Positivity | None:
        """None for weights that are used as they are."""
        return getattr(self, "positivity", None)

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        super()._save_to_state_dict(destination, prefix, keep_vars)
        metadata = getattr(destination, "_metadata", {})
        if prefix[:-1] in metadata:
            positivity = self._map()
            metadata[prefix[:-1]]["positivity"] = positivity and positivity.name

    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Mapping[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        problem = self._mismatch(state_dict.get(f"{prefix}weight"), local_metadata)
        if problem:
            message = "another map of weights than this network has: "
            if not any(message in earlier for earlier in error_msgs):  # once for all layers
                error_msgs.append(f"the state is of {message}{prefix}weight {problem}")
            return
        super()._load_from_state_dict(
            state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )

    def _mismatch(self, weight: Tensor | None, metadata: Mapping[str, Any]) -> str:
        """What is wrong with raw values from elsewhere, "" if nothing is."""
        ours, theirs = self._map(), metadata.get("positivity")
        if theirs is None and ours is not None and ours.projects:
            if weight is None or weight.is_meta or not weight.lt(0).any():
                return ""
            return (
                f"has negative values, but positivity is {ours.name!r}; load it into a network "
                "with the map that it was trained with, or set them to zero before"
            )
        same = theirs == (None if ours is None else ours.name)
        as_they_are = ours is None and theirs in POSITIVITY and POSITIVITY[theirs].projects
        if "positivity" not in metadata or same or as_they_are:
            return ""
        return (
            f"was trained with positivity={theirs!r}, but here positivity is "
            f"{None if ours is None else ours.name!r}; build the network with the map of the state"
        )


class NonNegative(Mapped):
    """A positivity map as a parametrization of any weight (``torch.nn.utils.parametrize``).

    Weights that are negative when the layer is parametrised become zero, or what next to zero the
    map has: give the layer its initial weights afterwards.

    Args:
        positivity: a name in :data:`POSITIVITY` or a map, not "projection", which computes nothing.

    Raises:
        ValueError: if the map is unknown, "projection" or gives negative weights.

    Example:
        >>> from torch.nn.utils.parametrize import register_parametrization
        >>> from convexinit import lognormal_init_
        >>> layer = register_parametrization(nn.Linear(8, 4), "weight", NonNegative("softplus"))
        >>> layer.weight = lognormal_init_(torch.empty(4, 8), layer.bias)
        >>> bool((layer.weight > 0).all())
        True
    """

    def __init__(self, positivity: str | Positivity = "softplus") -> None:
        super().__init__()
        self.positivity = resolve_positivity(positivity)
        if self.positivity.projects:
            raise ValueError(
                f"positivity={self.positivity.name!r} leaves weights as they are; take another "
                "map, or convexinit.keep_convex, which sets negative weights to zero"
            )

    def forward(self, raw: Tensor) -> Tensor:
        """Weights, at least 0, of raw values of any shape."""
        return self.positivity.forward(raw)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """Raw values of weights of any shape; those below 0 count as 0."""
        return self.positivity.inverse(weight.clamp_min(0))

    def extra_repr(self) -> str:
        """The map, for printing."""
        return f"positivity={self.positivity.name}"
