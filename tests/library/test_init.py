"""Initialisers of one layer against the moments that they promise."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from convexinit import lognormal_init_, moments_init_, orthogonal_init_, solve_init
from convexinit.init import (
    DISTRIBUTIONS,
    fan_in_of,
    gamma_,
    he_normal_,
    lecun_normal_,
    lognormal_,
)
from support.networks import ACTIVATIONS, generator


@pytest.mark.parametrize("distribution", DISTRIBUTIONS.values(), ids=DISTRIBUTIONS)
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


@pytest.mark.parametrize("distribution", DISTRIBUTIONS.values(), ids=DISTRIBUTIONS)
@pytest.mark.parametrize(
    ("mean", "variance"),
    [(0.0, 1.0), (1.0, 0.0)],
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


def test_random_bias_has_the_promised_spread():
    weight, bias = torch.empty(20_000, 10), torch.empty(20_000)
    lognormal_init_(weight, bias, bias_noise=0.5, generator=generator())
    expected = solve_init(10, bias_noise=0.5)
    assert expected.bias_var == pytest.approx(0.25)
    assert float(bias.var()) == pytest.approx(0.25, rel=0.05)
    assert float(bias.mean()) == pytest.approx(expected.bias_mean, abs=0.02)


def test_centred_bias_removes_the_mean_of_every_unit():
    weight, bias = torch.empty(30, 200, dtype=torch.float64), torch.empty(30, dtype=torch.float64)
    moments_init_(weight, bias, bias_rule="centred", generator=generator())
    unit_means = weight.sum(1) / math.sqrt(2 * math.pi) + bias
    assert torch.allclose(unit_means, torch.zeros(30, dtype=torch.float64), atol=1e-12)
    moments_init_(weight, bias, mean=0.7, bias_rule="centred", generator=generator())
    shifted = torch.relu(torch.randn(2_000_000, generator=generator()) + 0.7).mean()
    assert float((weight.sum(1) * shifted + bias).mean()) == pytest.approx(0.7, abs=0.01)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_centred_bias_in_half_precision_is_off_by_its_own_rounding_alone(dtype):
    weight, bias = torch.empty(30, 4000, dtype=dtype), torch.empty(30, dtype=dtype)
    moments_init_(weight, bias, bias_rule="centred", generator=generator())
    exact = -weight.double().sum(1) / math.sqrt(2 * math.pi)
    # Rounded twice: as the mean of all units, and with the unit's own part.
    assert ((bias - exact).abs() <= torch.finfo(dtype).eps * exact.abs().clamp_min(1)).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_gamma_weights_are_zero_or_normal_numbers(dtype):
    """Denormal ones would make products on a CPU slow."""
    weight = gamma_(torch.empty(300, 300, dtype=dtype), 1e-3, 1e-3, generator())
    assert (weight == 0).any()
    assert weight[weight > 0].min() >= torch.finfo(dtype).tiny


@pytest.mark.slow
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(
    "rho",
    [pytest.param(0.2, marks=pytest.mark.slow), 0.5, pytest.param(0.8, marks=pytest.mark.slow)],
)
def test_real_layers_keep_the_signal_at_the_fixed_point(activation, rho):
    """Pooled over 10 layers of 500 units: mean 0, variance 1, correlation rho.

    The weights are gamma-distributed: log-normal weights of the same moments are so heavy-tailed
    that the variance of a sample of any practical size has not converged.
    """
    shared = torch.randn(4000, 1, generator=generator(1))
    own = torch.randn(4000, 500, generator=generator(2))
    start = math.sqrt(rho) * shared + math.sqrt(1 - rho) * own
    features = getattr(nn.functional, activation)(start)
    signals = []
    for seed in range(10):
        weight, bias = torch.empty(500, 500), torch.empty(500)
        moments_init_(
            weight, bias, activation, rho, distribution="gamma", generator=generator(seed)
        )
        signals.append(features @ weight.T + bias)
    signal = torch.stack(signals)
    mean = signal.mean()
    variance = signal.var()
    pairs = (signal.mean(2) ** 2).mean() * 500 / 499 - (signal**2).mean() / 499
    correlation = (pairs - mean**2) / variance
    # 4000 inputs share a factor of variance rho, so the mean has an error of sqrt(rho / 4000).
    assert float(mean) == pytest.approx(0.0, abs=4 * math.sqrt(rho / 4000))
    assert float(variance) == pytest.approx(1.0, abs=0.08)
    assert float(correlation) == pytest.approx(rho, abs=0.04)


def test_a_bias_of_another_layer_and_a_seed_as_generator_are_refused():
    weight, bias = torch.full((3, 4), 7.0), torch.full((4,), 7.0)
    with pytest.raises(ValueError, match=r"each of the 3 outputs of the weight; got shape \(4,\)"):
        moments_init_(weight, bias)
    for fill in (moments_init_, orthogonal_init_):
        with pytest.raises(ValueError, match=r"torch\.Generator, got 0; of a seed"):
            fill(weight, generator=0)
    assert (weight == 7).all()
    assert (bias == 7).all()
