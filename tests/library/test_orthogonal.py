"""Non-negative orthogonal weights, and networks of any depth that start with them."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from convexinit import (
    CNN,
    MLP,
    ConvexLinear,
    init_icnn_,
    orthogonal_init_,
    parameter_groups,
    project_,
)
from convexinit.orthogonal import plan_layers
from convexinit.positivity import POSITIVITY
from support.networks import generator

SIZES = st.integers(1, 40)


@settings(deadline=None, max_examples=60)
@given(rows=SIZES, columns=SIZES, seed=st.integers(0, 2**31), gain=st.floats(0.1, 10))
def test_rows_or_columns_are_orthonormal(rows, columns, seed, gain):
    weight = torch.empty(rows, columns, dtype=torch.float64)
    assert orthogonal_init_(weight, gain, generator=generator(seed)) is weight
    assert (weight >= 0).all()
    product = weight @ weight.T if rows <= columns else weight.T @ weight
    assert torch.allclose(product, gain**2 * torch.eye(len(product), dtype=torch.float64))
    # Every one of the many belongs to one of the few, and these share them equally.
    supports = (weight > 0).sum(int(rows <= columns))
    assert supports.sum() == max(rows, columns)
    assert supports.max() - supports.min() <= 1


@settings(deadline=None, max_examples=30)
@given(
    blocks=st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 5)),
    kernel=st.lists(st.integers(1, 4), min_size=1, max_size=3),
)
def test_convolutions_get_a_delta_kernel_in_every_group(blocks, kernel):
    groups, rows, columns = blocks
    weight = orthogonal_init_(torch.empty(groups * rows, columns, *kernel), groups=groups)
    middle = weight[(..., *(size // 2 for size in kernel))]
    assert ((weight > 0).sum() == (middle > 0).sum()).all()
    for block in middle.chunk(groups):
        product = block @ block.T if rows <= columns else block.T @ block
        assert torch.allclose(product, torch.eye(len(product)), atol=1e-6)


def test_draws_differ_and_can_be_repeated():
    draws = [orthogonal_init_(torch.empty(9, 9), generator=generator(seed)) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((3,), {}, "at least two dimensions"),
        ((4, 4), {"gain": 0.0}, r"gain must be a number in \(0, inf\)"),
        ((4, 4), {"groups": 3}, "groups must divide the 4 outputs, got 3"),
    ],
)
def test_wrong_arguments_are_named(shape, options, message):
    with pytest.raises(ValueError, match=message):
        orthogonal_init_(torch.empty(shape), **options)


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "elu", F.celu, "softplus"])
@pytest.mark.parametrize("sizes", [[], [1] * 4, [1] * 19, [1] * 49, [2, 1, 3, 1, 2, 5]])
def test_plans_hold_for_units_drawn_at_random(activation, sizes):
    """Half of the variance is kept, and moments are those of a simulation."""
    plan = plan_layers(activation, sizes)
    phi = activation if callable(activation) else getattr(F, activation)
    source = generator()
    first = phi(plan.mean + torch.randn(100_000, dtype=torch.float64, generator=source))
    features = first
    for size, scale, bias, mean in zip(
        sizes, plan.scales, plan.biases, plan.feature_means[:-1], strict=True
    ):
        group = [features[torch.randperm(len(features), generator=source)] for _ in range(size - 1)]
        received = sum(group, features) / size**0.5
        features = phi(scale * received + bias - scale * (size**0.5 - 1) * mean)
    assert float(features.var()) == pytest.approx(plan.feature_variance, rel=0.1)
    assert float(features.mean()) == pytest.approx(plan.feature_means[-1], abs=0.03)
    if set(sizes) <= {1}:
        assert torch.corrcoef(torch.stack([first, features]))[0, 1] ** 2 > 0.45


@pytest.mark.parametrize("activation", [torch.tanh, "elu", "softplus"])
def test_no_other_scale_and_bias_is_closer_to_the_identity(activation):
    plan = plan_layers(activation, [1])
    phi = activation if callable(activation) else getattr(F, activation)
    features = phi(plan.mean + torch.randn(100_000, dtype=torch.float64, generator=generator()))

    def misfit(scale, bias):
        return float((phi(scale * features + bias) - features).square().mean())

    [scale], [bias] = plan.scales, plan.biases
    least = misfit(scale, bias)
    for factor, shift in [(1.1, 0), (0.9, 0), (1, 0.1), (1, -0.1), (1.1, -0.1), (0.9, 0.1)]:
        assert misfit(factor * scale, bias + shift) > least


WIDTHS = [
    [30] + [60] * 20 + [5],
    [30, 60, 40, 20, 10, 5],
    [30, 20, 50, 100, 200, 7],
    [30, 64, 33, 100, 100, 17, 1],
]  # fmt: skip


@pytest.mark.parametrize("positivity", sorted(POSITIVITY))
@pytest.mark.parametrize("activation", ["relu", "elu", "softplus"])
@pytest.mark.parametrize("widths", WIDTHS)
def test_outputs_vary_and_are_nearly_centred_at_any_depth(widths, activation, positivity):
    """Less so where a layer sums units that an earlier one copied: they are not independent."""
    means, variances = [], []
    for seed in range(8):
        network = MLP(widths, activation, positivity=positivity).double()
        init_icnn_(network, activation=activation, method="orthogonal", generator=generator(seed))
        inputs = torch.randn(2000, widths[0], dtype=torch.float64, generator=generator(seed))
        outputs = network(inputs).detach()
        means.append(outputs.mean())
        variances.append(outputs.var(0).mean())
    variance = float(sum(variances)) / 8
    assert 0.2 < variance < 10.0
    assert abs(float(sum(means))) / 8 < 0.75 * variance**0.5


@pytest.mark.parametrize("positivity", sorted(POSITIVITY))
def test_weights_of_zero_do_not_freeze(positivity):
    """Nearly all weights move in a few steps of Adam, whatever the map."""
    network = MLP([10, 20, 20, 20, 3], positivity=positivity)
    init_icnn_(network, method="orthogonal", generator=generator())
    layers = [layer for layer in network.modules() if isinstance(layer, ConvexLinear)]
    before = [layer.nonnegative_weight.clone() for layer in layers]
    optimiser = torch.optim.Adam(parameter_groups(network, 1e-2))
    inputs = torch.randn(64, 10, generator=generator(1))
    labels = torch.randint(3, (64,), generator=generator(2))
    for _ in range(20):
        optimiser.zero_grad()
        F.cross_entropy(network(inputs), labels).backward()
        optimiser.step()
        project_(network)
    for layer, old in zip(layers, before, strict=True):
        moved = (layer.nonnegative_weight - old).abs() > 1e-6
        assert moved.float().mean() > 0.3
        assert (layer.nonnegative_weight >= 0).all()


def test_convolutional_networks_keep_the_signal():
    network = CNN((1, 12, 12), [8] * 10, 3)
    init_icnn_(network, method="orthogonal", generator=generator())
    signals = network.pre_activations(torch.randn(200, 144, generator=generator()))
    # Of every second layer only every second pixel is seen.
    spreads = [float(signal.detach().var()) for signal in signals[1:-1]]
    assert max(spreads) == pytest.approx(min(spreads), rel=0.2)


def test_a_deep_relu_network_starts_as_a_shallow_one():
    """Outputs and gradients of the first layer, but for the order of the units."""
    losses = []
    for depth in (1, 30):
        network = MLP([6, *[12] * depth, 12, 1]).double()
        init_icnn_(network, method="orthogonal", generator=generator())
        inputs = torch.randn(50, 6, dtype=torch.float64, generator=generator(1))
        network(inputs).sum().backward()
        losses.append(network.layers[0].weight.grad.norm())
    assert torch.allclose(*losses)


@pytest.mark.parametrize(
    "options",
    [
        {"rho": 0.4},
        {"bias_noise": 0.5},
        {"mean": 1.0},
        {"distribution": "gamma"},
        {"bias_rule": "centred"},
    ],
)
def test_arguments_of_the_other_method_are_refused(options):
    network = MLP([3, 4, 1])
    before = [parameter.clone() for parameter in network.parameters()]
    with pytest.raises(ValueError, match=f'{next(iter(options))} belongs to method="moments"'):
        init_icnn_(network, method="orthogonal", **options)
    with pytest.raises(ValueError, match="method must be one of moments, orthogonal"):
        init_icnn_(network, method="identity")
    assert all(torch.equal(*pair) for pair in zip(before, network.parameters(), strict=True))


def test_step_sizes_fall_with_the_number_of_hidden_convex_layers():
    network = MLP([5, 6, 7, 8, 9, 2], skip=True)
    others, hidden = parameter_groups(network, 0.3)
    assert hidden["lr"] == pytest.approx(0.1)
    assert others["lr"] == 0.3
    assert {id(p) for p in hidden["params"]} == {
        id(p) for layer in network.layers[1:-1] for p in layer.parameters()
    }
    assert len(others["params"]) + len(hidden["params"]) == len(list(network.parameters()))
    assert len(parameter_groups(MLP([5, 6, 2]), 0.3)) == 1
    with pytest.raises(ValueError, match="lr must be a number in"):
        parameter_groups(network, -1.0)


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "elu", "softplus", F.celu])
@pytest.mark.parametrize("depth", [5, 30])
def test_every_seed_learns(activation, depth):
    inputs = torch.randn(256, 8, generator=generator())
    labels = (inputs.square().sum(1) > 8).long()
    for seed in range(3):
        network = MLP([8, *[32] * depth, 2], activation)
        init_icnn_(network, activation=activation, method="orthogonal", generator=generator(seed))
        optimiser = torch.optim.Adam(parameter_groups(network, 3e-3))
        for _ in range(300):
            loss = F.cross_entropy(network(inputs), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            project_(network)
        assert float(loss.detach()) < 0.5 * math.log(2)
