"""What docs/theory.md states about orthogonal starts, each by a simulation."""

import math
from statistics import median

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from convexinit import MLP, init_icnn_, orthogonal_init_, parameter_groups, project_
from convexinit.orthogonal import plan_layers
from support.networks import generator

# Mean over standard deviation of ReLU of a standard normal.
RELU_RATIO = 1 / math.sqrt(math.pi - 1)


def features(units, rows, seed=0):
    """``[rows, units]``, ReLU of independent standard normal numbers."""
    values = torch.randn(rows, units, dtype=torch.float64, generator=generator(seed))
    return values.relu()


def permutation(units, seed):
    return orthogonal_init_(torch.empty(units, units, dtype=torch.float64), 1.0, 1, generator(seed))


def shift(layers, units, extra, rows=200):
    """Mean of the pre-activations after as many layers less that before, in their std."""
    signal = start = features(units, rows)
    for index in range(layers):
        added = extra(units, generator(index + 1))
        signal = (signal @ (permutation(units, index) + added).T).relu()
    return float((signal - start).mean() / start.std())


def raised(step):
    """Half of the weights, chosen at random, rise by a step."""
    return lambda units, source: step * (torch.rand(units, units, generator=source) < 0.5)


# Why the average fixed point does not hold for a draw


def variances_over_data(method):
    """Of the pre-activations of every hidden layer, the median over five draws."""
    rows = []
    for seed in range(5):
        network = MLP([100, *[400] * 6, 1])
        init_icnn_(network, method=method, generator=generator(seed))
        signals = network.pre_activations(torch.randn(300, 100, generator=generator(100 + seed)))
        rows.append([float(signal.detach().var(0).mean()) for signal in signals[:-1]])
    return [median(column) for column in zip(*rows, strict=True)]


def test_draws_lose_the_variance_that_the_fixed_point_keeps_on_average():
    drawn = variances_over_data("moments")
    assert drawn[0] == pytest.approx(1.0, rel=0.1)
    assert drawn[-1] < 0.05
    kept = variances_over_data("orthogonal")
    assert kept[1:] == pytest.approx([0.5 - 0.5 / math.pi] * 5, rel=0.1)


# Why only disjoint supports keep lengths


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**31), size=st.integers(2, 12))
def test_sums_of_two_units_are_longer_by_what_their_columns_share(seed, size):
    weight = torch.rand(size, size, dtype=torch.float64, generator=generator(seed))
    weight /= weight.norm(dim=0)
    first, second = weight[:, 0], weight[:, 1]
    length = (first + second).square().sum()
    assert torch.isclose(length, 2 + 2 * first @ second)
    assert first @ second > 0  # as both have all entries above zero
    signal = features(size, 5, seed)
    assert torch.allclose((signal @ permutation(size, seed).T).norm(dim=1), signal.norm(dim=1))


def test_all_singular_values_of_a_deep_network_are_zero_or_one():
    """Dynamical isometry: of the last features by the first pre-activations, at any depth."""
    network = MLP([5, *[20] * 30, 1]).double()
    init_icnn_(network, method="orthogonal", generator=generator())

    def tail(signal):
        for layer in network.layers[1:-1]:
            signal = layer(signal.relu())
        return signal.relu()

    first = network.layers[0](torch.randn(5, dtype=torch.float64, generator=generator(1)))
    jacobian = torch.autograd.functional.jacobian(tail, first.detach())
    values = torch.linalg.svdvals(jacobian)
    assert torch.isclose(values, values.round(), atol=1e-9).all()
    assert int(values.sum()) == int((first > 0).sum()) > 0


# What stays weak


@pytest.mark.parametrize("inputs", [2, 8, 64])
def test_an_output_varies_by_what_units_of_few_inputs_share(inputs):
    """E[rho^2] = 1 / d times 1 / (4 pi), by which the covariance of ReLU grows with rho^2."""
    units = 512
    predicted = 1 + units / inputs / (4 * math.pi) / (0.5 - 0.5 / math.pi)
    variances = []
    for seed in range(8):
        network = init_icnn_(MLP([inputs, units, units, 1]), generator=generator(seed))
        signal = network(torch.randn(1000, inputs, generator=generator(100 + seed)))
        variances.append(float(signal.detach().var()))
    assert sum(variances) / len(variances) == pytest.approx(predicted, rel=0.25)
    rows = torch.randn(1000, inputs, generator=generator(100))
    assert float(init_icnn_(network, rows)(rows).detach().var()) == pytest.approx(1, rel=0.05)


@pytest.mark.parametrize(("outputs", "differ"), [(1, 16), (2, 32), (10, 64)])
def test_copies_that_meet_in_a_sum_stay_alike(outputs, differ):
    """Of 16 units, in a layer of 64."""
    network = init_icnn_(MLP([8, 16, 64, outputs]), generator=generator())
    optimiser = torch.optim.Adam(parameter_groups(network, 3e-3))
    inputs = torch.randn(256, 8, generator=generator(1))
    targets = torch.randn(256, outputs, generator=generator(2))
    for _ in range(50):
        optimiser.zero_grad()
        F.mse_loss(network(inputs), targets).backward()
        optimiser.step()
        project_(network)
    units = network.pre_activations(inputs)[1].detach().T
    assert len(torch.unique(units.div(units.std()).mul(100).round(), dim=0)) == differ


# The gain of the mean, and the largest step


@pytest.mark.parametrize(
    ("activation", "low", "high"),
    [("relu", 0.37, 0.42), ("elu", 0.43, 0.49), ("softplus", 0.17, 0.55)],
)
@pytest.mark.parametrize("layers", [3, 10])
def test_a_step_of_adam_raises_about_half_of_the_weights_at_most(layers, activation, low, high):
    """From zero, and so the sum of the weights of a unit by about N x rate / 2 at most."""
    network = MLP([50, *[128] * (layers + 1), 10], activation)
    init_icnn_(network, method="orthogonal", generator=generator())
    zeros = [layer.weight == 0 for layer in network.layers[1:-1]]
    rate = 1e-3
    optimiser = torch.optim.Adam(network.parameters(), rate)
    inputs = torch.randn(256, 50, generator=generator(1))
    labels = torch.randint(10, (256,), generator=generator(2))
    F.cross_entropy(network(inputs), labels).backward()
    optimiser.step()
    project_(network)
    for layer, raised in zip(network.layers[1:-1], zeros, strict=True):
        share = float(layer.weight.detach()[raised].mean()) / rate
        assert low - 0.02 < share < high + 0.02


@pytest.mark.parametrize("layers", [1, 5, 20])
def test_the_mean_grows_as_a_power_of_the_depth(layers):
    step, units = 1e-3, 300
    predicted = RELU_RATIO * ((1 + units * step / 2) ** layers - 1)
    assert shift(layers, units, raised(step)) == pytest.approx(predicted, rel=0.05)


@pytest.mark.parametrize("layers", [5, 20, 60])
def test_the_largest_step_moves_the_signal_by_one_standard_deviation(layers):
    """2 log(1 + std / mean) / (N L), which is 1.8 / (N L) for ReLU."""
    units = 300
    step = 2 * math.log(1 + 1 / RELU_RATIO) / (units * layers)
    assert step * units * layers == pytest.approx(1.80, abs=0.01)
    moved = shift(layers, units, raised(step))
    assert 0.85 < moved < 1.02  # (1 + x / L)^L stays below exp(x)


@pytest.mark.parametrize("mean", [0.0, 3.0, 30.0])
@pytest.mark.parametrize("layers", [4, 40])
def test_a_rate_of_one_over_depth_and_ratio_bounds_the_shift(mean, layers):
    """By exp(N x rate / 2) - 1, whatever the depth and the mean of the features."""
    units, rate = 200, 5e-3
    signal = start = features(units, 100) + mean
    ratio = float(start.mean() / start.std())
    step = rate / (layers * max(1.0, ratio))
    for index in range(layers):
        signal = signal @ (permutation(units, index) + raised(step)(units, generator(index))).T
    moved = float((signal - start).mean() / start.std())
    bound = math.exp(units * rate / 2) - 1
    assert 0.25 * bound < moved < bound


def test_step_sizes_follow_depth_and_ratio():
    """In closed form: far from zero softplus is a line, with features at mean and std 1."""
    groups = parameter_groups(MLP([5, *[8] * 6, 1], "identity"), 1e-2)
    assert [group["lr"] for group in groups] == pytest.approx([1e-2, 2e-3])
    groups = parameter_groups(MLP([5, 8, 1], lambda s: s + 10), 1e-2)
    assert [group["lr"] for group in groups] == pytest.approx([1e-2, 1e-3], rel=1e-3)


# Many inputs


@pytest.mark.parametrize("inputs", [128, 256, 1024])
def test_an_update_moves_pre_activations_by_the_sum_of_their_inputs(inputs):
    """Inputs that are one number each, as bright images: E|x| is sqrt(2 / pi)."""
    rate = 1e-4
    brightness = torch.randn(1000, 1, generator=generator(0))
    images = brightness.expand(-1, inputs)
    moved = {}
    for steps in ("equal", "by_layer"):
        network = init_icnn_(MLP([inputs, 64, 64, 1]), generator=generator(1))
        before = network.layers[0](images)
        groups = network.parameters() if steps == "equal" else parameter_groups(network, rate)
        optimiser = torch.optim.Adam(groups, lr=rate)
        network(images).mean().backward()
        optimiser.step()
        moved[steps] = float((network.layers[0](images) - before).detach().abs().mean())
    assert moved["equal"] == pytest.approx(rate * inputs * math.sqrt(2 / math.pi), rel=0.05)
    assert moved["by_layer"] == pytest.approx(
        rate * min(inputs, 256) * math.sqrt(2 / math.pi), rel=0.05
    )


# What noise is allowed


def noise(mean):
    """Uniform weights of a mean, on top of the permutation."""
    return lambda units, source: 2 * mean * torch.rand(units, units, generator=source)


def test_noise_is_a_step_that_was_taken_before():
    """With N x mean = 0.4 twenty layers are lost; with 0.1 for all layers little happens."""
    units, layers = 300, 20
    lost = shift(layers, units, noise(0.4 / units))
    assert lost == pytest.approx(RELU_RATIO * (1.4**layers - 1), rel=0.05)
    little = shift(layers, units, noise(0.1 / (units * layers)))
    assert little == pytest.approx(RELU_RATIO * (math.exp(0.1) - 1), rel=0.05)
    assert little < 0.08


def test_biases_take_away_the_mean_but_not_what_units_share():
    """Then all units move together with their average, which varies by 1 / sqrt(N)."""
    units, layers, gain = 200, 10, 0.15
    start = features(units, 3000)
    start = start - start.mean(0)
    signal, product = start, torch.eye(units, dtype=torch.float64)
    for index in range(layers):
        signal = signal @ (permutation(units, index) + noise(gain / units)(units, generator())).T
        product = permutation(units, index) @ product
    common = (signal - start @ product.T).mean(1)
    predicted = ((1 + gain) ** layers - 1) / math.sqrt(units)
    assert float(common.std() / start.std()) == pytest.approx(predicted, rel=0.1)


# The rule for scale and bias


def after(layers, activation, scale, bias):
    """Standard deviation of the features of a layer, from pre-activations N(0, 1)."""
    signal = activation(torch.randn(50_000, dtype=torch.float64, generator=generator()))
    for _ in range(layers):
        signal = activation(scale(signal) * signal + bias(signal))
    return float(signal.std())


def test_a_bias_alone_loses_what_softplus_halves():
    """Its slope is about 1/2 around zero: centred and centred again, the signal is gone."""
    lost = after(10, F.softplus, lambda s: 1.0, lambda s: -s.mean())
    assert lost < 2.0**-10
    plan = plan_layers("softplus", [1] * 10)
    assert math.sqrt(plan.feature_variances[-1]) > 0.3


def test_relu_again_is_relu_but_centred_again_it_clips_again():
    assert after(20, F.relu, lambda s: 1.0, lambda s: 0.0) == pytest.approx(
        math.sqrt(0.5 - 0.5 / math.pi), rel=0.02
    )
    assert after(20, F.relu, lambda s: 1.0, lambda s: -s.mean()) < 0.2


@pytest.mark.parametrize(("layers", "mean"), [(5, 11), (20, 91)])
def test_squared_activations_need_a_mean_that_grows_with_depth(layers, mean):
    """A square of m + d is m^2 + 2 m d but for d^2; layer by layer that adds up to L d / (2 m)."""
    plan = plan_layers("squared_relu", [1] * (layers - 1))
    signal = plan.mean + torch.tensor([-0.1, 0.0, 0.1], dtype=torch.float64)
    for scale, bias in zip((*plan.scales[:-1], 1.0), (*plan.biases[:-1], 0.0), strict=True):
        signal = scale * signal.square() + bias
    lower, middle, upper = signal.tolist()
    bend = (upper - 2 * middle + lower) / (upper - lower) / 0.1
    assert bend == pytest.approx(layers / (2 * plan.mean), rel=0.1)
    assert round(plan.mean) == mean
