"""Initialisers against the moments that they promise, and whole networks at their fixed point."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from convexinit import ConvexConv2d, ConvexLinear, init_icnn_, lognormal_init_, solve_init
from convexinit.init import (
    centred_bias_,
    fan_in_of,
    gamma_,
    he_normal_,
    lecun_normal_,
    lognormal_,
    moments_init_,
)
from convexinit.networks import MLP
from convexinit.positivity import POSITIVITY
from convexinit.stacking import stack_networks


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("distribution", [lognormal_, gamma_])
@pytest.mark.parametrize(("mean", "variance"), [(1.0, 0.1), (0.5, 0.25), (3.0, 2.0)])
def test_distributions_have_the_mean_and_variance_asked_for(distribution, mean, variance):
    draws = distribution(torch.empty(1_000_000, dtype=torch.float64), mean, variance, generator())
    assert (draws >= 0).all()
    assert float(draws.mean()) == pytest.approx(mean, abs=5 * math.sqrt(variance / 1e6))
    kurtosis_error = float(((draws - mean) ** 2).std()) / 1e3
    assert float(draws.var()) == pytest.approx(variance, abs=5 * kurtosis_error)


@settings(deadline=None)
@given(
    mean=st.floats(1e-6, 1e3),
    ratio=st.floats(1e-4, 1e4),
)
def test_the_underlying_normal_gives_the_moments_exactly(mean, ratio):
    variance = ratio * mean**2
    logs = lognormal_(torch.empty(20_000, dtype=torch.float64), mean, variance, generator()).log()
    # Closed form of the log-normal moments, from the paper's parameters by another route.
    scale = math.sqrt(math.log1p(ratio))
    assert float(logs.std()) == pytest.approx(scale, rel=0.03)
    assert float(logs.mean()) == pytest.approx(
        math.log(mean) - scale**2 / 2, abs=5 * scale / math.sqrt(20_000) + 1e-9
    )


@pytest.mark.parametrize("distribution", [lognormal_, gamma_])
@pytest.mark.parametrize(
    ("mean", "variance"),
    [(0.0, 1.0), (-1.0, 1.0), (1.0, -1.0), (1.0, 0.0), (math.nan, 1.0), (1.0, math.inf)],
)
def test_distributions_refuse_impossible_moments(distribution, mean, variance):
    with pytest.raises(ValueError, match=r"(mean|variance) must be a number in \(0, inf\)"):
        distribution(torch.empty(3), mean, variance)


def test_lecun_and_he_scale_with_the_fan_in():
    assert float(lecun_normal_(torch.empty(400, 500), generator()).var()) == pytest.approx(
        1 / 500, rel=0.02
    )
    assert float(he_normal_(torch.empty(400, 20, 5, 5), generator()).var()) == pytest.approx(
        2 / 500, rel=0.02
    )


def test_fan_in_of_grouped_convolutions():
    assert fan_in_of(nn.Conv2d(8, 4, 3, groups=2).weight) == 4 * 9
    with pytest.raises(ValueError, match="two dimensions"):
        fan_in_of(torch.empty(3))


def test_init_icnn_uses_the_fan_in_of_each_layer():
    network = init_icnn_(MLP([20, 100, 300, 50]), rho=0.3, generator=generator())
    for layer, fan_in in zip(network.layers[1:], (100, 300), strict=True):
        expected = solve_init(fan_in, rho=0.3)
        assert torch.allclose(layer.bias, torch.tensor(expected.bias_mean))
        # The sample mean of 300 x 100 (50 x 300) independent log-normal weights.
        error = math.sqrt(expected.weight_var / layer.weight.numel())
        assert float(layer.weight.detach().mean()) == pytest.approx(
            expected.weight_mean, abs=5 * error
        )
    assert float(network.layers[0].weight.detach().var()) == pytest.approx(1 / 20, rel=0.1)
    assert (network.layers[0].bias == 0).all()


def test_init_icnn_leaves_skip_connections_alone():
    network = MLP([5, 8, 8, 2], skip=True)
    before = [skip.weight.clone() for skip in network.skips]
    init_icnn_(network)
    assert all(
        torch.equal(skip.weight, old) for skip, old in zip(network.skips, before, strict=True)
    )


@pytest.mark.parametrize("positivity", sorted(POSITIVITY))
def test_the_initialisation_is_carried_through_the_positivity_map(positivity):
    plain = init_icnn_(MLP([5, 50, 40]), generator=generator(3))
    mapped = init_icnn_(MLP([5, 50, 40], positivity=positivity), generator=generator(3))
    assert torch.allclose(
        mapped.layers[1].nonnegative_weight, plain.layers[1].weight, rtol=1e-4, atol=1e-7
    )


def test_convolutions_and_sequences_of_foreign_modules():
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), ConvexConv2d(8, 16, 3), nn.ReLU(),
        nn.Flatten(), ConvexLinear(16, 1),
    )  # fmt: skip
    init_icnn_(network, generator=generator())
    assert torch.allclose(network[2].bias, torch.tensor(solve_init(72).bias_mean))
    assert (network[2].weight >= 0).all()
    assert float(network[0].weight.detach().var()) == pytest.approx(1 / 27, rel=0.25)


def test_random_bias_has_the_promised_spread():
    weight, bias = torch.empty(20_000, 10), torch.empty(20_000)
    lognormal_init_(weight, bias, bias_noise=0.5, generator=generator())
    expected = solve_init(10, bias_noise=0.5)
    assert expected.bias_var == pytest.approx(0.25)
    assert float(bias.var()) == pytest.approx(0.25, rel=0.05)
    assert float(bias.mean()) == pytest.approx(expected.bias_mean, abs=0.02)


def test_centred_bias_removes_the_mean_of_every_unit():
    weight, bias = torch.empty(30, 200, dtype=torch.float64), torch.empty(30, dtype=torch.float64)
    moments_init_(weight, bias, bias_rule=centred_bias_, generator=generator())
    unit_means = weight.sum(1) / math.sqrt(2 * math.pi) + bias
    assert torch.allclose(unit_means, torch.zeros(30, dtype=torch.float64), atol=1e-12)
    moments_init_(weight, bias, mean=0.7, bias_rule=centred_bias_, generator=generator())
    shifted = torch.relu(torch.randn(2_000_000, generator=generator()) + 0.7).mean()
    assert float((weight.sum(1) * shifted + bias).mean()) == pytest.approx(0.7, abs=0.01)


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "softplus", "elu"])
@pytest.mark.parametrize("rho", [0.2, 0.5, 0.8])
def test_real_layers_keep_the_signal_at_the_fixed_point(activation, rho):
    """Pooled over 20 layers of 500 units: mean 0, variance 1, correlation rho.

    The weights are gamma-distributed: log-normal weights of the same moments are so heavy-tailed
    that the variance of a sample of any practical size has not converged.
    """
    function = getattr(nn.functional, activation)
    shared = torch.randn(4000, 1, generator=generator(1))
    own = torch.randn(4000, 500, generator=generator(2))
    start = math.sqrt(rho) * shared + math.sqrt(1 - rho) * own
    signals = []
    for seed in range(20):
        weight, bias = torch.empty(500, 500), torch.empty(500)
        moments_init_(weight, bias, activation, rho, distribution=gamma_, generator=generator(seed))
        signals.append(function(start) @ weight.T + bias)
    signal = torch.stack(signals)
    mean = signal.mean()
    variance = signal.var()
    pairs = (signal.mean(2) ** 2).mean() * 500 / 499 - (signal**2).mean() / 499
    correlation = (pairs - mean**2) / variance
    # 4000 inputs share a factor of variance rho, so the mean has an error of sqrt(rho / 4000).
    assert float(mean) == pytest.approx(0.0, abs=4 * math.sqrt(rho / 4000))
    assert float(variance) == pytest.approx(1.0, abs=0.08)
    assert float(correlation) == pytest.approx(rho, abs=0.04)


def test_the_published_bias_without_its_sign_would_be_caught():
    layer = ConvexLinear(100, 10)
    init_icnn_(nn.Sequential(nn.Linear(5, 100), nn.ReLU(), layer))
    assert (layer.bias < 0).all()


def test_same_generator_state_gives_the_same_network():
    first = init_icnn_(MLP([3, 10, 10, 1]), generator=generator(5))
    second = init_icnn_(MLP([3, 10, 10, 1]), generator=generator(5))
    assert all(
        torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True)
    )


def test_a_refused_initialisation_leaves_the_network_unchanged():
    network = MLP([3, 5, 1])
    before = [parameter.clone() for parameter in network.parameters()]
    for arguments in ({"rho": 1.5}, {"variance": -1}, {"mean": "x"}, {"distribution": None}):
        with pytest.raises(ValueError, match=r"rho|variance|mean|distribution"):
            init_icnn_(network, **arguments)
    with pytest.raises(ValueError, match="before they are stacked"):
        init_icnn_(stack_networks([network, network]))
    assert all(torch.equal(a, b) for a, b in zip(before, network.parameters(), strict=True))


def test_only_the_first_layer_and_convex_layers_are_touched():
    class PassThrough(nn.Module):
        def __init__(self):
            super().__init__()
            self.from_input = nn.ModuleList([nn.Linear(7, 9), nn.Linear(7, 9), nn.Linear(7, 1)])
            self.between = nn.ModuleList([ConvexLinear(9, 9), ConvexLinear(9, 1)])

    network = PassThrough()
    before = [layer.weight.clone() for layer in network.from_input]
    init_icnn_(network)
    unchanged = [torch.equal(a, b.weight) for a, b in zip(before, network.from_input, strict=True)]
    assert unchanged == [False, True, True]


def test_errors_name_what_to_do():
    with pytest.raises(ValueError, match="no convex layer"):
        init_icnn_(nn.Linear(3, 3))
    with pytest.raises(ValueError, match=r"lognormal.*gamma"):
        init_icnn_(MLP([3, 3, 1]), distribution="uniform")
    with pytest.raises(ValueError, match=r"sampled.*centred"):
        init_icnn_(MLP([3, 3, 1]), bias_rule="none")
    with pytest.raises(ValueError, match=r"1\.5"):
        init_icnn_(MLP([3, 3, 1]), rho=1.5)
