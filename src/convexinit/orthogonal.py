"""Non-negative orthogonal weights, with which input-convex networks of any depth start alike.

The only non-negative matrices that keep all lengths are those with orthonormal columns (or, where a
layer narrows, rows). Non-negative vectors are orthogonal if and only if no two of them are above
zero in the same place: such a matrix is a permutation, or groups its inputs or outputs. It passes
every unit on by itself, so that what a deep network computes at its start is a function of one
number, applied to each unit of the first layer: :func:`plan_layers` chooses the scales and biases
with which this function changes least from layer to layer.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from convexinit.activations import Activation, checked_activation
from convexinit.checks import check_integer, check_number

# Means of the first pre-activations that are tried, in standard deviations.
_MEANS = (0.0, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0)
# Share of the variance of the last features that those of the first layer must explain.
_KEPT = 0.5
_POINTS = 10001  # units that are followed
_NEWTON_STEPS = 60


@torch.no_grad()
def orthogonal_init_(
    weight: Tensor, gain: float = 1.0, groups: int = 1, generator: Generator | None = None
) -> Tensor:
    """Fill ``weight`` with a random non-negative matrix that has orthonormal rows or columns.

    The counterpart of ``torch.nn.init.orthogonal_`` for weights that must not be negative: where a
    layer has as many outputs as inputs, a permutation; where it narrows, every output is the sum of
    a group of inputs, divided by the root of its size; where it widens, every input goes to a group
    of outputs likewise. Groups differ in size by one at most. Convolutions get this matrix in the
    middle of their kernel, and zeros elsewhere, as ``torch.nn.init.dirac_``.

    Args:
        weight: ``[out, in]``, or ``[out, in / groups, *kernel]``.
        gain: factor of the matrix, greater than 0.
        groups: of a convolution, each of which gets a matrix of its own.
        generator: source of randomness.

    Returns:
        ``weight``.

    Raises:
        ValueError: if ``weight`` has fewer than two dimensions, ``gain`` is out of range, or
            ``groups`` does not divide the number of outputs.

    Example:
        >>> weight = orthogonal_init_(torch.empty(2, 4))
        >>> torch.allclose(weight @ weight.T, torch.eye(2))
        True
    """
    gain = check_number("gain", gain, 0.0)
    groups = check_integer("groups", groups)
    if weight.ndim < 2:
        raise ValueError(
            f"a weight needs at least two dimensions, [out, in]; got shape {tuple(weight.shape)}"
        )
    if weight.numel() == 0:
        raise ValueError(f"a weight needs entries; got shape {tuple(weight.shape)}")
    if len(weight) % groups:
        raise ValueError(f"groups must divide the {len(weight)} outputs, got {groups}")
    taps = weight.zero_()
    for size in weight.shape[2:]:
        taps = taps.select(2, size // 2)  # of the first dimension of the kernel that is left
    for block in taps.chunk(groups):
        block.copy_(gain * _disjoint(len(block), block.shape[1], generator))
    return weight


def _disjoint(rows: int, columns: int, generator: Generator | None) -> Tensor:
    """Float64 ``[rows, columns]`` with orthonormal rows, or columns where these are fewer."""
    few, many = sorted((rows, columns))
    device = torch.device("cpu") if generator is None else generator.device
    members, owners = (torch.randperm(n, generator=generator, device=device) for n in (many, few))
    matrix = torch.zeros(few, many, dtype=torch.float64, device=device)
    matrix[owners[torch.arange(many, device=device) % few], members] = 1.0
    matrix /= matrix.sum(1, keepdim=True).sqrt()
    return matrix if rows == few else matrix.T


@dataclass(frozen=True)
class LayerPlan:
    """Scales and biases of a network of non-negative orthogonal weights.

    The pre-activations of the first layer are ``s = mean + std z`` with ``z`` standard normal. A
    later hidden layer receives features ``h = phi(s)`` and computes ``scale u + bias``, where ``u``
    is a feature, or the sum of a group of them with the mean and variance of one.

    Attributes:
        mean: of the pre-activations of the first layer.
        scales: of the weights of every later hidden layer.
        biases: of these layers.
        feature_means: E[phi(s)] of every hidden layer, the first included.
        feature_variance: Var[phi(s)] of the last hidden layer.
    """

    mean: float
    scales: tuple[float, ...]
    biases: tuple[float, ...]
    feature_means: tuple[float, ...]
    feature_variance: float


def plan_layers(
    activation: Activation, group_sizes: Sequence[int], variance: float = 1.0
) -> LayerPlan:
    """Choose scales and biases with which an activation is closest to the identity, layer by layer.

    In every layer, scale and bias minimise ``E[(phi(scale u + bias) - u)^2]`` over what it
    receives: the activation is as close to the identity *on it* as an affine map before it allows.
    ReLU needs nothing, as it is the identity on what it put out itself. Smooth activations are the
    identity only far from their bend: of several means of the first pre-activations the smallest is
    taken with which, after as many layers, half of the variance of a unit of the first layer is
    kept (the one that keeps most if none does). A larger mean keeps more and makes the network more
    linear. Units of a group are taken to be independent.

    Args:
        activation: a name or an elementwise callable.
        group_sizes: for every hidden layer after the first, how many inputs each unit sums: 1 where
            layers do not narrow.
        variance: of the pre-activations of the first layer, greater than 0.

    Raises:
        ValueError: if an argument is out of range, or features are constant or not finite.

    Example:
        >>> plan = plan_layers("relu", [1] * 49)
        >>> plan.mean, set(plan.scales), set(plan.biases)
        (0.0, {1.0}, {0.0})
    """
    sizes = [check_integer("group_sizes", size) for size in group_sizes]
    std = math.sqrt(check_number("variance", variance, 0.0))
    phi = checked_activation(activation)
    quantiles = (torch.arange(_POINTS, dtype=torch.float64, device="cpu") + 0.5) / _POINTS
    z = torch.special.ndtri(quantiles)
    best, kept = None, 0.0
    for mean in _MEANS:
        alone = _follow(phi, mean * std + std * z, [1] * len(sizes))
        if alone is not None and (best is None or alone[1] > kept):
            best, kept = mean * std, alone[1]
        if kept >= _KEPT:
            break
    followed = None if best is None else _follow(phi, best + std * z, sizes)
    if best is None or followed is None:
        raise ValueError(
            "activation must vary and be finite on the pre-activations of a network; it does not "
            f"for a variance of {variance:g}"
        )
    steps, _, means, feature_variance = followed
    scales, biases = zip(*steps, strict=True) if steps else ((), ())
    return LayerPlan(best, scales, biases, means, feature_variance)


def _follow(
    phi: Callable[[Tensor], Tensor], first: Tensor, group_sizes: Sequence[int]
) -> tuple[list[tuple[float, float]], float, tuple[float, ...], float] | None:
    """Follow the pre-activations of a population of units from layer to layer.

    Args:
        phi: the activation.
        first: ``[units]`` pre-activations of the first layer, in ascending order.
        group_sizes: see :func:`plan_layers`.

    Returns:
        Scale and bias of every layer after the first; the squared correlation between the features
        of the first and the last layer; the mean of the features of every layer, and the variance
        of the last. None where features are constant or not finite.
    """
    source = Generator().manual_seed(0)
    features = start = phi(first)
    step, steps, means = (1.0, 0.0), [], [float(features.mean())]
    for size in group_sizes:
        others = [
            features[torch.randperm(len(features), generator=source)] for _ in range(size - 1)
        ]
        received = sum(others, features) / math.sqrt(size) - (math.sqrt(size) - 1) * means[-1]
        step = _closest_to_identity(phi, received, *step)
        features = step[0] * received + step[1]
        if not features.isfinite().all():
            return None
        features = phi(features)
        steps.append(step)
        means.append(float(features.mean()))
    centred, start = features - features.mean(), start - start.mean()
    variance, start_variance = float(centred.square().mean()), float(start.square().mean())
    if not 0.0 < variance * start_variance < math.inf:
        return None
    kept = float((centred * start).mean()) ** 2 / (variance * start_variance)
    return steps, kept, tuple(means), variance


def _closest_to_identity(
    phi: Callable[[Tensor], Tensor], received: Tensor, scale: float, bias: float
) -> tuple[float, float]:
    """Scale and bias that minimise ``E[(phi(scale u + bias) - u)^2]``, by damped Newton steps."""

    def misfit(scale: float, bias: float) -> float:
        return float((phi(scale * received + bias) - received).square().mean())

    error, damping = misfit(scale, bias), 1e-9
    for _ in range(_NEWTON_STEPS):
        if error == 0.0 or damping > 1e6:
            break
        inputs = scale * received + bias
        width = 1e-6 * (1.0 + inputs.abs())
        slope = (phi(inputs + width) - phi(inputs - width)) / (2 * width)
        by_both = torch.stack([slope * received, slope])  # derivatives by scale and bias
        curvature = by_both @ by_both.T / len(received)
        step = torch.linalg.solve(
            curvature + damping * torch.eye(2, dtype=torch.float64, device="cpu"),
            by_both @ (phi(inputs) - received) / len(received),
        ).tolist()
        # A scale stays above zero.
        trial = max(scale - step[0], scale / 4), bias - step[1]
        trial_error = misfit(*trial)
        if trial_error < error:
            converged = error - trial_error < 1e-10 * error
            (scale, bias), error, damping = trial, trial_error, damping / 10
            if converged:
                break
        else:
            damping *= 10
    return scale, bias
