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
from bisect import bisect_left
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from convexinit.activations import Activation, NotFiniteError, checked_activation
from convexinit.assignment import check_fillable
from convexinit.checks import check_generator, check_integer, check_number

# Means of the first pre-activations that are tried, in standard deviations.
_MEANS = (0.0, *(2.0 ** (power / 2) for power in range(-2, 21)))
# Share of the variance of the last features that those of the first layer must explain, for normal
# units, and for some with the tails of Laplace's distribution.
_KEPT, _KEPT_IN_TAILS = 0.5, 0.25
_POINTS = 10_001  # units that are followed
_SPARSE = slice(5, None, 10)  # of these, when means are tried
_TAIL_POINTS = 100_001
_NEWTON_STEPS = 60
# What zeros that have to be above zero add to the gain of the mean, over all layers.
_BACKGROUND = 0.1


@torch.no_grad()
def orthogonal_init_(
    weight: Tensor, gain: float = 1.0, groups: int = 1, generator: Generator | None = None
) -> Tensor:
    """Fill ``weight`` with a random non-negative matrix that has orthonormal rows or columns.

    The counterpart of ``torch.nn.init.orthogonal_`` for weights that must not be negative: where a
    layer has as many outputs as inputs, a permutation; where it narrows, every output is the sum of
    a group of inputs, divided by the root of its size; where it widens, every input goes to a group
    of outputs likewise. Groups differ in size by one at most. Convolutions get this matrix in the
    middle of their kernel, where ``padding="same"`` moves nothing, and zeros elsewhere.

    Args:
        weight: ``[out, in]``, or ``[out, in / groups, *kernel]``: a parameter, or a tensor that is
            not computed from others.
        gain: factor of the matrix, greater than 0.
        groups: of a convolution, each of which gets a matrix of its own.
        generator: source of randomness.

    Returns:
        ``weight``.

    Raises:
        ValueError: if ``weight`` has fewer than two dimensions or no entries, is computed, expanded
            or not floating point, ``gain`` is out of range, or ``groups`` does not divide the
            number of outputs.

    Example:
        >>> weight = orthogonal_init_(torch.empty(2, 4))
        >>> torch.allclose(weight @ weight.T, torch.eye(2))
        True
    """
    gain = check_number("gain", gain, 0.0)
    groups = check_integer("groups", groups)
    check_generator(generator)
    check_fillable("weight", weight)
    if weight.ndim < 2:
        raise ValueError(
            f"a weight needs at least two dimensions, [out, in]; got shape {tuple(weight.shape)}"
        )
    if weight.numel() == 0:
        raise ValueError(f"a weight needs entries; got shape {tuple(weight.shape)}")
    if len(weight) % groups:
        raise ValueError(f"groups must divide the {len(weight)} outputs, got {groups}")
    return _fill_(weight, gain, [None] * groups, generator)


@torch.no_grad()
def orthogonal_layer_(
    weight: Tensor,
    scale: float,
    groups: int = 1,
    shares: Tensor | None = None,
    generator: Generator | None = None,
) -> Tensor | None:
    """Fill ``weight`` as :func:`orthogonal_init_`, with rows that give every output one variance.

    Where a network first widens and then narrows, units are copies of one another: their sum varies
    more than that of as many independent ones. Copies go to different groups where there are
    enough, and every row is scaled by what its output really is the sum of.

    Args:
        weight: as for :func:`orthogonal_init_`.
        scale: standard deviation of every output in those of an input.
        groups: as for :func:`orthogonal_init_`.
        shares: ``[in, sources]``, what every input has of independent sources of variance 1; rows
            of norm 1. None for independent inputs.
        generator: source of randomness.

    Returns:
        ``[out, sources]`` shares of the outputs, None if they are independent.

    Example:
        >>> shares = orthogonal_layer_(torch.empty(4, 2), 1.0)  # two copies of either input
        >>> _ = orthogonal_layer_(weight := torch.empty(1, 4), 1.0, shares=shares)
        >>> [round(entry, 4) for entry in weight.flatten().tolist()]  # of 2 a + 2 b, not of 4 units
        [0.3536, 0.3536, 0.3536, 0.3536]
    """
    channels = groups * weight.shape[1]
    if shares is None and len(weight) <= channels:
        _fill_(weight, scale, [None] * groups, generator)
        return None
    shares = torch.eye(channels, device="cpu") if shares is None else shares
    copies = torch.unique(shares, dim=0, return_inverse=True)[1]
    _fill_(weight, 1.0, copies.chunk(groups), generator)
    rows, columns, *_ = weight.cpu().nonzero(as_tuple=True)
    columns = columns + rows // (len(weight) // groups) * weight.shape[1]
    made = torch.zeros(len(weight), shares.shape[1], device="cpu")
    values = weight[weight != 0].to(made)
    made.index_add_(0, rows, values.unsqueeze(1) * shares[columns])
    norms = made.norm(dim=1)
    weight *= (scale / norms).to(weight).view(-1, *[1] * (weight.ndim - 1))
    return made / norms.unsqueeze(1)


def raise_zeros_(weight: Tensor, fan_in: int, layers: int) -> Tensor:
    """Raise zeros so little that those of all layers together hardly move the mean of any.

    For maps that let no gradient through to weights of zero.

    Args:
        weight: non-negative, filled in place.
        fan_in: number of inputs that an output sums.
        layers: number of layers with such weights.
    """
    return weight.clamp_min_(_BACKGROUND / (fan_in * layers))


def _fill_(
    weight: Tensor, gain: float, copies: Sequence[Tensor | None], generator: Generator | None
) -> Tensor:
    """Fill the middle of a kernel; ``copies`` as in :func:`_disjoint`, for every group."""
    taps = weight.zero_()
    for size in weight.shape[2:]:
        taps = taps.select(2, (size - 1) // 2)  # of the first dimension of the kernel that is left
    for block, same in zip(taps.chunk(len(copies)), copies, strict=True):
        block.copy_(gain * _disjoint(len(block), block.shape[1], generator, same))
    return weight


def _disjoint(
    rows: int, columns: int, generator: Generator | None, copies: Tensor | None = None
) -> Tensor:
    """Float64 ``[rows, columns]`` with orthonormal rows, or columns where these are fewer.

    Args:
        rows: how many.
        columns: how many.
        generator: source of randomness.
        copies: ``[columns]`` integers, the same for copies, which go to different rows.
    """
    few, many = sorted((rows, columns))
    device = torch.device("cpu") if generator is None else generator.device
    if copies is None or columns < many:
        members, order = (
            torch.randperm(n, generator=generator, device=device) for n in (many, few)
        )
        owners = order[torch.arange(many, device=device) % few]
    else:
        members = torch.arange(many, device=device)
        owners = _dealt(copies, few, generator).to(device)
    matrix = torch.zeros(few, many, dtype=torch.float64, device=device)
    matrix[owners, members] = 1.0
    if few < many:
        matrix /= matrix.sum(1, keepdim=True).sqrt()
    return matrix if rows == few else matrix.T


def _dealt(copies: Tensor, rows: int, generator: Generator | None) -> Tensor:
    """A row for every one of ``copies``: other rows for the same ones, and as many for each row.

    Which of the emptiest rows is left to chance, so that rows that share a unit differ in others.
    """
    device = torch.device("cpu") if generator is None else generator.device
    owners = torch.empty_like(copies, device=device)
    sizes = torch.zeros(rows, dtype=torch.float64, device=device)
    kinds = torch.randperm(int(copies.max()) + 1, generator=generator, device=device)
    for kind in kinds.tolist():
        same = (copies == kind).to(device)
        chances = torch.rand(rows, generator=generator, dtype=torch.float64, device=device)
        emptiest = (sizes + chances).argsort()
        owners[same] = emptiest[torch.arange(int(same.sum()), device=device) % rows]
        sizes += owners[same].bincount(minlength=rows)
    return owners


@dataclass(frozen=True)
class LayerPlan:
    """Scales and biases of a network of non-negative orthogonal weights.

    The pre-activations of the first layer are ``s = mean + std z`` with ``z`` standard normal. A
    later layer receives features ``h = phi(s)`` and computes ``scale u + bias``, where ``u`` is a
    feature, or the sum of a group of them with the mean and variance of one. The last layer, of the
    outputs, makes their mean 0 and their variance that of the first pre-activations. So does every
    later layer where skip connections add to it.

    Attributes:
        mean: of the pre-activations of the first layer.
        skips: variance that a skip connection adds to every later layer, the outputs' included.
        scales: of the weights of these layers.
        biases: of these layers.
        feature_means: E[phi(s)] that each of these layers receives.
        feature_variances: Var[phi(s)] that each of these layers receives.
    """

    mean: float
    skips: tuple[float, ...]
    scales: tuple[float, ...]
    biases: tuple[float, ...]
    feature_means: tuple[float, ...]
    feature_variances: tuple[float, ...]

    @property
    def rates(self) -> tuple[float, ...]:
        """Factors of the learning rate of the weights of every layer after the first, at most 1.

        If all weights of a unit rise by the same, its pre-activations move by that times the sum of
        the features, which is measured in their own standard deviations here. Features of ReLU have
        a mean of 0.7 of these; where it is more than 1, as with features that are far from zero,
        steps are smaller by as much.
        """
        layers = zip(
            self.scales, self.skips, self.feature_means, self.feature_variances, strict=True
        )
        return tuple(
            min(
                1.0,
                math.hypot(scale * math.sqrt(variance), math.sqrt(skip)) / max(abs(mean), 1e-300),
            )
            for scale, skip, mean, variance in layers
        )


def plan_layers(
    activation: Activation,
    group_sizes: Sequence[int],
    variance: float = 1.0,
    skips: Sequence[float] = (),
) -> LayerPlan:
    """Choose scales and biases with which an activation is closest to the identity, layer by layer.

    In every layer, scale and bias minimise ``E[(phi(scale u + bias) - u)^2]`` over what it
    receives: the activation is as close to the identity *on it* as an affine map before it allows.
    ReLU needs nothing, as it is the identity on what it put out itself. Smooth activations are the
    identity only far from their bend: of several means of the first pre-activations the smallest is
    taken with which, after as many layers, half of the variance of a unit of the first layer is
    kept, and a quarter if it is distributed as Laplace's and not as a normal variable: real data
    have such tails, in which activations that bend for ever would grow without bound. A larger mean
    keeps more and makes the network more linear. Units of a group are taken to be independent.

    With skip connections, which bring the inputs to every layer, nothing has to be kept: each layer
    is centred, and its scale makes up what they leave of the variance.

    Args:
        activation: a name or an elementwise callable.
        group_sizes: for every hidden layer after the first, how many inputs each unit sums: 1 where
            layers do not narrow.
        variance: of the pre-activations of the first layer and of the outputs, greater than 0.
        skips: variance that a skip connection adds to every layer after the first, the outputs'
            included, at least 0 and less than ``variance``. Empty if there are none.

    Raises:
        ValueError: if an argument is out of range, or no mean keeps as much.

    Example:
        >>> plan = plan_layers("relu", [1] * 49)
        >>> plan.mean, set(plan.scales[:-1]), set(plan.biases[:-1])
        (0.0, {1.0}, {0.0})
    """
    sizes = [check_integer("group_sizes", size) for size in group_sizes]
    std = math.sqrt(check_number("variance", variance, 0.0))
    phi = checked_activation(activation)
    added = tuple(skips) or (0.0,) * (len(sizes) + 1)
    if len(added) != len(sizes) + 1 or not 0.0 <= min(added) <= max(added) < variance:
        raise ValueError(
            f"skips must be {len(sizes) + 1} variances, at least 0 and less than variance, "
            f"{variance:g}; got {list(skips)}"
        )
    z = std * torch.special.ndtri(_levels(_POINTS))
    few = z[_SPARSE]
    levels = _levels(_TAIL_POINTS)
    # Quantiles of Laplace's distribution, of the same variance.
    tails = -std / 2**0.5 * (levels - 0.5).sign() * (1 - (2 * levels - 1).abs()).log()

    def holds(mean: float) -> bool:
        plan = _follow(phi, mean * std, few, [1] * len(sizes), variance, added)
        return (
            plan is not None
            and _kept(phi, mean * std + few, plan) >= _KEPT
            and _kept(phi, mean * std + tails, plan) >= _KEPT_IN_TAILS
        )

    # The larger the mean, the more is kept.
    place = 0 if any(added) or holds(0.0) else bisect_left(_MEANS, True, key=holds)
    plan = None
    if place < len(_MEANS):
        plan = _follow(phi, _MEANS[place] * std, z, sizes, variance, added)
    if plan is None:
        raise ValueError(
            f"activation bends so much that {len(sizes) + 1} hidden layers keep too little of "
            f"their inputs, with a variance of {variance:g}; try a smaller one, or fewer layers"
        )
    return plan


def _levels(points: int) -> Tensor:
    return (torch.arange(points, dtype=torch.float64, device="cpu") + 0.5) / points


def _follow(
    phi: Callable[[Tensor], Tensor],
    mean: float,
    deviations: Tensor,
    group_sizes: Sequence[int],
    variance: float,
    skips: tuple[float, ...],
) -> LayerPlan | None:
    """Follow the pre-activations of a population of units from layer to layer.

    Args:
        phi: the activation.
        mean: of the pre-activations of the first layer.
        deviations: ``[units]``, of these pre-activations from their mean.
        group_sizes: see :func:`plan_layers`.
        variance: see :func:`plan_layers`.
        skips: see :class:`LayerPlan`.

    Returns:
        None where features are constant or not finite.
    """
    source = Generator().manual_seed(0)

    def shuffled(values: Tensor) -> Tensor:
        return values[torch.randperm(len(values), generator=source, device="cpu")]

    def centred(skip: float) -> tuple[float, float]:
        scale = math.sqrt(variance - skip) / math.sqrt(variances[-1])
        return scale, -scale * means[-1]

    step, steps = (1.0, 0.0), []
    try:
        features = phi(mean + deviations)
        means, variances = [float(features.mean())], [float(features.var(correction=0))]
        for size, skip in zip(group_sizes, skips[:-1], strict=True):
            others = (shuffled(features) for _ in range(size - 1))
            received = sum(others, features) / math.sqrt(size) - (math.sqrt(size) - 1) * means[-1]
            step = centred(skip) if skip else _closest_to_identity(phi, received, *step)
            signal = step[0] * received + step[1]
            if skip:
                signal += math.sqrt(skip / variance) * shuffled(deviations)
            features = phi(signal)
            steps.append(step)
            means.append(float(features.mean()))
            variances.append(float(features.var(correction=0)))
    except NotFiniteError:
        return None
    if not 0.0 < min(variances) <= max(variances) < math.inf:
        return None
    scales, biases = zip(*steps, centred(skips[-1]), strict=True)
    return LayerPlan(mean, skips, scales, biases, tuple(means), tuple(variances))


def _kept(phi: Callable[[Tensor], Tensor], first: Tensor, plan: LayerPlan) -> float:
    """Squared correlation between what a population is after the first and the last hidden layer.

    It is 0 where that is not finite.
    """
    try:
        start = features = phi(first)
        for scale, bias in zip(plan.scales[:-1], plan.biases[:-1], strict=True):
            features = phi(scale * features + bias)
    except NotFiniteError:
        return 0.0
    kept = float(torch.corrcoef(torch.stack([start, features]))[0, 1]) ** 2
    return kept if math.isfinite(kept) else 0.0


def _closest_to_identity(
    phi: Callable[[Tensor], Tensor], received: Tensor, scale: float, bias: float
) -> tuple[float, float]:
    """Scale and bias that minimise ``E[(phi(scale u + bias) - u)^2]``, by damped Newton steps."""

    def misfit(scale: float, bias: float) -> float:
        try:
            return float((phi(scale * received + bias) - received).square().mean())
        except NotFiniteError:
            return math.inf

    error, damping = misfit(scale, bias), 1e-9
    for _ in range(_NEWTON_STEPS):
        if error == 0.0 or damping > 1e6:
            break
        inputs = scale * received + bias
        width = 1e-6 * (1.0 + inputs.abs())
        slope = (phi(inputs + width) - phi(inputs - width)) / (2 * width)
        by_both = torch.stack([slope * received, slope])  # derivatives by scale and bias
        curvature = by_both @ by_both.T / len(received)
        step = torch.linalg.solve_ex(
            curvature + damping * torch.eye(2, dtype=torch.float64, device="cpu"),
            by_both @ (phi(inputs) - received) / len(received),
        ).result.tolist()
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
