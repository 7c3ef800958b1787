"""Activations by name, and whether they keep a network convex."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convexinit.checks import check_function

Activation = str | Callable[[Tensor], Tensor]
"""A name in :data:`ACTIVATIONS`, or any elementwise function of a tensor (modules included)."""


def _squared_relu(s: Tensor) -> Tensor:
    return F.relu(s).square()


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,  # of slope 0.01
    "softplus": F.softplus,
    "elu": F.elu,
    "squared_relu": _squared_relu,
    "exp": torch.exp,
    "identity": nn.Identity(),
}


class NotFiniteError(ValueError):
    """An activation is infinite, or not a number, where it was evaluated."""


def resolve_activation(activation: Activation) -> Callable[[Tensor], Tensor]:
    """Return the function behind the name of an activation; a callable is returned as it is.

    Raises:
        ValueError: If it is neither a name in :data:`ACTIVATIONS` nor a callable.

    Example:
        >>> resolve_activation("relu")(torch.tensor([-1.0, 2.0]))
        tensor([0., 2.])
    """
    return check_function("activation", activation, ACTIVATIONS)


def checked_activation(activation: Activation) -> Callable[[Tensor], Tensor]:
    """Wrap an activation so that it computes in float64 and what it returns is checked."""
    phi = resolve_activation(activation)
    if isinstance(phi, nn.Module):
        phi = copy.deepcopy(phi).to("cpu", torch.float64)

    def evaluate(s: Tensor) -> Tensor:
        try:
            with torch.no_grad():
                values = phi(s.clone())  # a clone, because it may work in place
        except (RuntimeError, TypeError) as error:
            raise ValueError(f"activation fails on a float64 tensor: {error}") from error
        if not isinstance(values, Tensor) or values.is_complex() or values.shape != s.shape:
            got = list(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise ValueError(
                "activation must be elementwise: a real tensor in, one of the same shape out; "
                f"got {got} for {list(s.shape)}"
            )
        if not values.isfinite().all():
            raise NotFiniteError(
                f"activation is not finite at {float(s[~values.isfinite()][0]):g}, which its "
                "moments need: it must be finite within 23 standard deviations of the mean"
            )
        # A copy, because the activation may return a buffer that it fills again.
        return values.to(torch.float64, copy=True)

    return evaluate


def check_convex_activation(activation: Activation) -> None:
    """Raise ValueError if an activation is visibly not convex and non-decreasing.

    The check looks at a grid over [-10, 10], so that it can prove a violation, not its absence.
    """
    grid = torch.linspace(-10, 10, 2001, dtype=torch.float64, device="cpu")
    values = checked_activation(activation)(grid)
    slopes = values.diff()
    tolerance = 1e-9 * float(values.abs().max())
    name = getattr(activation, "__name__", activation)
    if slopes.min() < -tolerance:
        raise ValueError(f"activation {name!r} decreases, so the network is not convex")
    if slopes.diff().min() < -tolerance:
        raise ValueError(
            f"activation {name!r} is not convex; use for example relu, leaky_relu, elu or softplus"
        )
