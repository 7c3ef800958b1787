"""Data-driven initialisation: what it reaches, and what it cannot change."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from convexinit import (
    CNN,
    MLP,
    PICNN,
    ConvexDifference,
    ConvexLinear,
    init_icnn_,
    lsuv_init_,
    project_,
)
from convexinit.init import he_normal_, lecun_normal_
from convexinit.positivity import POSITIVITY
from convexinit.stacking import stack_networks
from support.networks import generator, unchanged


@torch.no_grad()
def he_network(network, seed=0):
    """The default initialisation of the experiments."""
    draws = generator(seed)
    for index, layer in enumerate(network.layers):
        (lecun_normal_ if index == 0 else he_normal_)(layer.weight, draws)
        layer.bias.zero_()
    return project_(network)


def batch(inputs, rows=200, seed=1):
    # Neither centred nor of variance 1, with features that are correlated.
    draws = torch.randn(rows, inputs, generator=generator(seed))
    return 3.0 * draws + 2.0 * draws[:, :1] + 1.5


def pooled(signal):
    """Mean and variance of pre-activations over everything, in NumPy."""
    values = signal.detach().double().numpy()
    return values.mean(), values.var()


def per_unit(signal):
    """Mean of every unit, and the variance over the inputs averaged over the units."""
    values = np.moveaxis(signal.detach().double().numpy(), 1, -1)
    values = values.reshape(-1, values.shape[-1])
    return values.mean(0), values.var(0).mean()


def correlation(signal):
    """Mean over pairs of units, over inputs of any mean: E[s_i s_j] - mean^2, over the variance."""
    values = signal.detach().double().numpy()
    units = values.shape[1]
    covariance = (values - values.mean()).T @ (values - values.mean()) / len(values)
    return (covariance.sum() / covariance.trace() - 1) / (units - 1)


def pearson(signal):
    """Mean of the correlation coefficients of pairs of units; NaN if one of them is constant."""
    values = signal.detach().double().numpy()
    units = values.shape[1]
    with np.errstate(invalid="ignore", divide="ignore"):
        return (np.corrcoef(values, rowvar=False).sum() - units) / (units * (units - 1))


def networks(positivity="projection"):
    return [
        (MLP([8, 40, 30, 20, 3], positivity=positivity), 8),
        (CNN((2, 6, 5), [8, 7, 6], 3, positivity=positivity), 60),
    ]


@pytest.mark.parametrize("positivity", sorted(POSITIVITY))
@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize(("variance", "mean"), [(1.0, 0.0), (0.3, -0.7)])
def test_every_layer_reaches_the_target_moments(positivity, centred, variance, mean):
    for network, size in networks(positivity):
        inputs = batch(size)
        he_network(network)
        assert pooled(network.pre_activations(inputs)[-1])[1] != pytest.approx(variance, rel=0.1)
        returned = lsuv_init_(network, inputs, variance, mean, per_unit=centred)
        assert returned is network
        for signal in network.pre_activations(inputs):
            means, spread = (per_unit if centred else pooled)(signal)
            np.testing.assert_allclose(means, mean, atol=2e-3)
            assert spread == pytest.approx(variance, rel=2e-3)
        for layer in network.layers[1:]:
            assert (layer.nonnegative_weight >= 0).all()
        assert network.layers[0].weight.min() < 0


@pytest.mark.parametrize("positivity", sorted(POSITIVITY))
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_reaches_the_target_moments_up_to_rounding(positivity, dtype):
    network = he_network(MLP([8, 40, 30, 3], positivity=positivity)).to(dtype)
    inputs = batch(8).to(dtype)
    lsuv_init_(network, inputs)
    for signal in network.pre_activations(inputs):
        mean, spread = pooled(signal)
        assert (mean, spread) == pytest.approx((0.0, 1.0), abs=0.1)
    with pytest.raises(ValueError, match="use more inputs"):
        lsuv_init_(network, inputs[:1].expand(50, -1) + 0 * inputs[:50], per_unit=True)


def test_the_correction_of_one_layer_in_closed_form():
    first, last = nn.Linear(1, 1).double(), ConvexLinear(1, 1).double()
    for layer, weight, bias in ((first, 3.0, 2.0), (last, 5.0, 1.0)):
        nn.init.constant_(layer.weight, weight)
        nn.init.constant_(layer.bias, bias)
    inputs = torch.tensor([[-1.0], [1.0]], dtype=torch.float64)
    lsuv_init_(nn.Sequential(first, nn.ReLU(), last), inputs)
    # 3 x + 2 has mean 2 and deviation 3; relu of -1 and 1 is 0 and 1, of deviation 1/2.
    values = [layer.weight.item() for layer in (first, last)] + [
        first.bias.item(),
        last.bias.item(),
    ]
    assert values == pytest.approx([1.0, 2.0, 0.0, -1.0], abs=1e-12)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 1000), positivity=st.sampled_from(sorted(POSITIVITY)))
def test_scaling_and_centring_change_no_correlation_of_a_layer(seed, positivity):
    network = he_network(MLP([8, 30, 30, 20], positivity=positivity).double(), seed)
    before = [(layer.weight.clone(), layer.bias.clone()) for layer in network.layers]
    inputs = batch(8, seed=seed).double()
    lsuv_init_(network, inputs)
    signal = inputs
    for layer, (weight, bias) in zip(network.layers, before, strict=True):
        after = layer(signal).detach()
        weight = weight if layer is network.layers[0] else layer.positivity.forward(weight)
        original = (signal @ weight.T + bias).detach()
        assert correlation(after) == pytest.approx(correlation(original), rel=1e-6)
        with np.errstate(invalid="ignore"):
            np.testing.assert_allclose(
                np.corrcoef(after.numpy(), rowvar=False),
                np.corrcoef(original.numpy(), rowvar=False),
                atol=1e-6,
            )
        signal = torch.relu(after)


def test_default_weights_end_fully_correlated_and_principled_ones_do_not():
    widths = [100, 300, 300, 300, 300, 50]
    inputs, fresh = (torch.randn(500, 100, generator=generator(seed)) for seed in (2, 3))

    def correlations(network):
        """Of the first and the last layer, pooled and by units."""
        first, *_, last = network.pre_activations(fresh)
        return pearson(first), correlation(last), pearson(last)

    for per_unit in (False, True):
        network = lsuv_init_(he_network(MLP(widths)), inputs, per_unit=per_unit)
        first, *last = correlations(network)
        assert abs(first) < 0.05
        assert min(last) > 0.95
    # Without LSUV the units are as correlated: only the scale was repaired.
    assert correlations(he_network(MLP(widths)))[-1] > 0.95

    network = lsuv_init_(init_icnn_(MLP(widths), method="moments", generator=generator()), inputs)
    assert 0.25 < correlations(network)[1] < 0.75  # around the target of 1/2


def test_a_second_pass_changes_nothing():
    network, size = networks()[1]
    inputs = batch(size)
    lsuv_init_(he_network(network), inputs)
    before = [parameter.clone() for parameter in network.parameters()]
    lsuv_init_(network, inputs)
    for a, b in zip(before, network.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-5)


def test_random_biases_keep_their_share():
    """Biases scale with the weights, so that a layer's random bias is not lost."""
    network = init_icnn_(MLP([8, 50, 40]), bias_noise=0.5, method="moments", generator=generator())
    before = network.layers[1].bias.clone()
    lsuv_init_(network, batch(8))
    after = network.layers[1].bias
    assert float(np.corrcoef(before.detach(), after.detach())[0, 1]) == pytest.approx(1.0)
    assert float(after.detach().std()) > 0


def test_a_layer_without_bias_is_scaled_alone():
    network = nn.Sequential(nn.Linear(4, 20), nn.ReLU(), ConvexLinear(20, 10, bias=False))
    inputs = batch(4)
    lsuv_init_(network, inputs)
    mean, variance = pooled(network(inputs))
    assert variance == pytest.approx(1.0, rel=1e-4)
    assert mean > 0.1


def test_a_shared_layer_is_corrected_at_its_first_use():
    torch.manual_seed(0)
    shared = ConvexLinear(6, 6)
    network = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), shared, nn.ReLU(), shared)
    inputs = batch(4)
    lsuv_init_(network, inputs)
    mean, variance = pooled(network[:3](inputs))
    assert (mean, variance) == pytest.approx((0.0, 1.0), abs=1e-4)


def test_skip_connections_stay_and_both_parts_of_a_difference_are_corrected():
    network = he_network(MLP([8, 20, 20, 3], skip=True))
    with unchanged(network.skips):
        lsuv_init_(network, batch(8))

    parts = [he_network(MLP([8, 20, 3]), seed) for seed in range(2)]
    lsuv_init_(ConvexDifference(*parts), batch(8))
    for part in parts:
        for signal in part.pre_activations(batch(8)):
            assert pooled(signal) == pytest.approx((0.0, 1.0), abs=1e-3)


def test_a_network_that_works_in_place_leaves_the_batch_alone():
    network = nn.Sequential(
        nn.ReLU(inplace=True), nn.Linear(4, 20), nn.ReLU(inplace=True), ConvexLinear(20, 10)
    )
    inputs = batch(4)
    before = inputs.clone()
    lsuv_init_(network, inputs)
    assert torch.equal(inputs, before)
    assert pooled(network(inputs)) == pytest.approx((0.0, 1.0), abs=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"variance": 0.0}, r"variance must be a number in \(0, inf\)"),
        ({"mean": math.nan}, "mean must be a number"),
        ({"inputs": batch(8)[:1], "per_unit": True}, r"layers\.0 have variance.*more inputs"),
        ({"inputs": batch(8)[:1].expand(50, -1), "per_unit": True}, r"layers\.0 have variance"),
        ({"inputs": batch(8) * math.nan}, "variance nan"),
    ],
)
def test_refused_arguments_leave_the_network_unchanged(change, message):
    network = he_network(MLP([8, 20, 3]))
    with unchanged(network), pytest.raises(ValueError, match=message):
        lsuv_init_(network, **{"inputs": batch(8), **change})
    assert not any(layer._forward_hooks for layer in network.modules())


def test_refused_networks():
    network, inputs = he_network(MLP([8, 20, 3])), batch(8)
    with pytest.raises(ValueError, match="before they are stacked"):
        lsuv_init_(stack_networks([network, network]), inputs[None].expand(2, -1, -1))
    with pytest.raises(ValueError, match="no convex layer"):
        lsuv_init_(MLP([8, 20, 3], convex=False), inputs)
    nn.init.normal_(network.layers[1].weight)
    with pytest.raises(ValueError, match=r"layers\.1 has negative weights; call .*project_"):
        lsuv_init_(network, inputs)


def test_networks_of_several_inputs():
    network = PICNN([6, 16, 16, 1], context=3)
    for layer in (*network.skips, *network.context_shifts):
        nn.init.zeros_(layer.weight)
    inputs = torch.randn(256, 6, generator=generator()), torch.randn(256, 3)
    outputs = lsuv_init_(network, inputs)(*inputs)
    assert float(outputs.var(correction=0)) == pytest.approx(1.0, rel=1e-3)
