"""Non-negative orthogonal weights, and networks of any depth that start with them."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from convexinit import (
    CNN,
    MLP,
    PICNN,
    ConvexLinear,
    init_icnn_,
    orthogonal_init_,
    parameter_groups,
    project_,
)
from convexinit.activations import resolve_activation
from convexinit.orthogonal import orthogonal_layer_, plan_layers
from convexinit.positivity import POSITIVITY
from convexinit.stacking import stack_networks
from support.networks import generator

SIZES = st.integers(1, 40)


def flat_softplus(s):
    """Softplus so smooth that it is nearly a line, and far from zero: log(2) / 0.1."""
    return F.softplus(s, beta=0.1)


@settings(deadline=None, max_examples=40)
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
    middle = weight[(..., *((size - 1) // 2 for size in kernel))]
    assert ((weight > 0).sum() == (middle > 0).sum()).all()
    for block in middle.chunk(groups):
        product = block @ block.T if rows <= columns else block.T @ block
        assert torch.allclose(product, torch.eye(len(product)), atol=1e-6)


@pytest.mark.parametrize("side", [1, 2, 3, 4])
def test_kernels_of_any_size_keep_images_in_place(side):
    """With a border as of padding="same"."""
    weight = orthogonal_init_(torch.empty(3, 3, side, side), generator=generator())
    images = torch.randn(2, 3, 5, 5, generator=generator())
    moved = F.conv2d(F.pad(images, [(side - 1) // 2, side // 2] * 2), weight)
    assert torch.equal(moved, images[:, weight.sum((2, 3)).argmax(1)])


def test_draws_differ_and_can_be_repeated():
    draws = [orthogonal_init_(torch.empty(9, 9), generator=generator(seed)) for seed in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


@pytest.mark.parametrize(
    ("shape", "options", "message"),
    [
        ((3,), {}, "at least two dimensions"),
        ((0, 4), {}, r"needs entries; got shape \(0, 4\)"),
        ((4, 4), {"gain": 0.0}, r"gain must be a number in \(0, inf\)"),
        ((4, 4), {"groups": 3}, "groups must divide the 4 outputs, got 3"),
    ],
)
def test_wrong_arguments_are_named(shape, options, message):
    with pytest.raises(ValueError, match=message):
        orthogonal_init_(torch.empty(shape), **options)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (2 * nn.Linear(3, 3).weight, "computed from other tensors"),
        (torch.zeros(2, 4, dtype=torch.int64), "floating point"),  # where 1 / sqrt(2) would be 0
        ([[1.0]], "must be a tensor"),
    ],
)
def test_what_would_not_keep_the_matrix_is_refused(weight, message):
    with pytest.raises(ValueError, match=message):
        orthogonal_init_(weight)


@pytest.mark.parametrize("sizes", [[], [1] * 19, [2, 1, 3, 1, 2, 5]])
@pytest.mark.parametrize(
    "activation", ["relu", "leaky_relu", "elu", "softplus", flat_softplus, "squared_relu"]
)
def test_plans_hold_for_units_drawn_at_random(activation, sizes):
    """Half of the variance is kept, and moments are those of a simulation."""
    plan = plan_layers(activation, sizes)
    phi = resolve_activation(activation)
    source = generator()
    first = phi(plan.mean + torch.randn(100_000, dtype=torch.float64, generator=source))
    features = first
    hidden = zip(plan.scales[:-1], plan.biases[:-1], plan.feature_means[:-1], strict=True)
    for size, (scale, bias, mean) in zip(sizes, hidden, strict=True):
        group = [features[torch.randperm(len(features), generator=source)] for _ in range(size - 1)]
        received = sum(group, features) / size**0.5
        features = phi(scale * received + bias - scale * (size**0.5 - 1) * mean)
    spread = plan.feature_variances[-1] ** 0.5
    assert float(features.std()) == pytest.approx(spread, rel=0.05)
    assert float(features.mean()) == pytest.approx(plan.feature_means[-1], abs=0.1 * spread)
    outputs = plan.scales[-1] * features + plan.biases[-1]
    assert float(outputs.std()) == pytest.approx(1, rel=0.05)
    assert float(outputs.mean()) == pytest.approx(0, abs=0.1)
    if set(sizes) <= {1}:
        assert torch.corrcoef(torch.stack([first, features]))[0, 1] ** 2 > 0.45


def test_steps_are_smaller_by_how_far_features_are_from_zero():
    """In closed form: those of ReLU, and of softplus where it is a line, log(2) / beta + s / 2."""
    assert set(plan_layers("relu", [1] * 9).rates) == {1.0}
    *_, outputs = plan_layers(flat_softplus, []).rates
    assert outputs == pytest.approx(1 / (10 * math.log(2)), rel=0.01)


def test_activations_that_outgrow_all_bounds_are_refused():
    with pytest.raises(ValueError, match="6 hidden layers keep too little"):
        plan_layers("exp", [1] * 5)
    plan = plan_layers("exp", [1] * 5, variance=1e-4)
    assert plan.feature_means[-1] == pytest.approx(1.0, rel=0.01)  # there exp(s) is 1 + s


@pytest.mark.parametrize(
    "activation", [torch.ones_like, lambda s: torch.where(s.abs() < 8, s, torch.inf)]
)
def test_activations_that_are_constant_or_end_where_tails_are_are_refused(activation):
    with pytest.raises(ValueError, match="3 hidden layers keep too little"):
        plan_layers(activation, [1, 1])


@pytest.mark.parametrize(
    ("activation", "message"), [(torch.sum, "elementwise"), (lambda s: s @ s[:-1], "fails on")]
)
def test_functions_that_are_no_activations_are_named(activation, message):
    with pytest.raises(ValueError, match=message):
        plan_layers(activation, [1])


@pytest.mark.parametrize("activation", [torch.tanh, "elu", "softplus"])
def test_no_other_scale_and_bias_is_closer_to_the_identity(activation):
    plan = plan_layers(activation, [1])
    phi = resolve_activation(activation)
    features = phi(plan.mean + torch.randn(100_000, dtype=torch.float64, generator=generator()))

    def misfit(scale, bias):
        return float((phi(scale * features + bias) - features).square().mean())

    (scale, _), (bias, _) = plan.scales, plan.biases
    least = misfit(scale, bias)
    for factor, shift in [(1.1, 0), (0.9, 0), (1, 0.1), (1, -0.1), (1.1, -0.1), (0.9, 0.1)]:
        assert misfit(factor * scale, bias + shift) > least


WIDTHS = [
    [30] + [60] * 8 + [5],
    [30, 60, 40, 20, 10, 5],
    [30, 20, 50, 100, 200, 7],  # sums of 28 units of which 8 are copies
    [30, 64, 33, 100, 100, 17, 1],
]


def output_moments(widths, activation, positivity, seeds=6):
    """Mean of the outputs and variance over inputs, averaged over draws."""
    means, variances = [], []
    for seed in range(seeds):
        network = MLP(widths, activation, positivity=positivity).double()
        init_icnn_(network, activation=activation, method="orthogonal", generator=generator(seed))
        inputs = torch.randn(1000, widths[0], dtype=torch.float64, generator=generator(100 + seed))
        outputs = network(inputs).detach()
        means.append(float(outputs.mean()))
        variances.append(float(outputs.var(0).mean()))
    return sum(means) / seeds, sum(variances) / seeds


@pytest.mark.slow
@pytest.mark.parametrize("activation", ["relu", "elu", "softplus"])
@pytest.mark.parametrize("widths", WIDTHS)
def test_outputs_vary_as_planned_and_are_centred(widths, activation):
    mean, variance = output_moments(widths, activation, "projection")
    assert 0.5 < variance < 3
    assert abs(mean) < 0.4 * variance**0.5


@pytest.mark.parametrize("positivity", sorted(POSITIVITY))
def test_outputs_are_the_same_with_every_map(positivity):
    """But for what weights of zero start with where a map has no gradient there."""
    ours = output_moments(WIDTHS[0], "relu", positivity, 2)
    assert ours == pytest.approx(output_moments(WIDTHS[0], "relu", "projection", 2), abs=0.2)


@settings(deadline=None, max_examples=25)
@given(widths=st.lists(st.integers(1, 30), min_size=2, max_size=5), seed=st.integers(0, 2**31))
def test_every_unit_has_the_same_variance_whatever_is_copied(widths, seed):
    """What units have of independent sources, by matrix products."""
    product, shares = torch.eye(widths[0]), None
    for rows, columns in zip(widths[1:], widths, strict=False):
        weight = torch.empty(rows, columns)
        shares = orthogonal_layer_(weight, 0.5, shares=shares, generator=generator(seed))
        product = weight @ product / 0.5
        covariance = torch.eye(rows) if shares is None else shares @ shares.T
        assert torch.allclose(product @ product.T, covariance, atol=1e-5)
        assert torch.allclose(covariance.diag(), torch.ones(rows))


def test_copies_go_to_different_groups():
    weight = torch.empty(6, 2)
    shares = orthogonal_layer_(weight, 1.0, generator=generator())
    for seed in range(20):
        orthogonal_layer_(weight := torch.empty(3, 6), 1.0, 1, shares, generator(seed))
        assert torch.allclose((weight > 0).float() @ shares, torch.ones(3, 2))


@pytest.mark.parametrize("widths", [[8, 16, 32, 10], [8, 16, 64, 10]])
def test_outputs_that_sum_copies_differ(widths):
    for seed in range(5):
        network = init_icnn_(MLP(widths), generator=generator(seed))
        sums = network.layers[2].weight @ network.layers[1].weight
        assert len(torch.unique(sums, dim=0)) == 10


@pytest.mark.parametrize("kernel", [(3,), (3, 3)])
def test_copied_channels_of_grouped_convolutions(kernel):
    """As the same layer without groups, written as a block-diagonal matrix."""
    weight = torch.empty(12, 2, *kernel)
    shares = orthogonal_layer_(weight, 1.0, 2, generator=generator())
    middle = weight[(..., *[1] * len(kernel))]
    assert torch.allclose(shares, torch.block_diag(*middle.chunk(2)))
    narrow = torch.empty(4, 6, *kernel)
    made = orthogonal_layer_(narrow, 2.0, 2, shares, generator())
    middle = torch.block_diag(*narrow[(..., *[1] * len(kernel))].chunk(2))
    assert torch.allclose(middle @ shares, 2 * made, atol=1e-6)
    assert torch.allclose(made.norm(dim=1), torch.ones(4))


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


@pytest.mark.parametrize("stacked", [False, True])
def test_step_sizes_fall_with_the_number_of_inputs(stacked):
    """Weights of layers with up to 256 inputs, and all biases, keep the steps that depth asks."""
    network = MLP([1024, 512, 256, 128, 1], skip=True)
    names = {parameter: name for name, parameter in network.named_parameters()}
    if stacked:
        network = stack_networks([network, network])
        names = {parameter: name for name, parameter in network.named_parameters()}
    rates = {
        names[parameter]: group["lr"]
        for group in parameter_groups(network, 0.8)
        for parameter in group["params"]
    }
    assert rates == pytest.approx({
        "layers.0.weight": 0.2, "layers.0.bias": 0.8,
        "layers.1.weight": 0.2, "layers.1.bias": 0.4, "skips.0.weight": 0.2,
        "layers.2.weight": 0.4, "layers.2.bias": 0.4, "skips.1.weight": 0.2,
        "layers.3.weight": 0.8, "layers.3.bias": 0.8, "skips.2.weight": 0.2,
    })  # fmt: skip


def test_step_sizes_of_convolutions_follow_channels_and_kernel():
    network = CNN((3, 8, 8), [64, 64, 32], outputs=2)  # 3 * 9, 64 * 9, 64 * 9, 32 * 4 inputs
    rates = {
        parameter: group["lr"]
        for group in parameter_groups(network, 0.9)
        for parameter in group["params"]
    }
    slower = 0.9 / 2 * 256 / 576
    assert [rates[layer.weight] for layer in network.layers] == pytest.approx(
        [0.9, slower, slower, 0.9]
    )


def test_step_sizes_need_layers_of_this_library_and_a_rate():
    network = MLP([5, 6, 7, 2])
    with pytest.raises(ValueError, match="lr must be a number in"):
        parameter_groups(network, -1.0)
    with pytest.raises(ValueError, match="no convex layer of this library"):
        parameter_groups(nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 1)), 0.3)


def train(networks, steps=200, lr=3e-3, activation=None):
    """Cross-entropies, before and after, of a stack on a task that is not linear."""
    inputs = torch.randn(128, 8, generator=generator())
    labels = (inputs.square().sum(1) > 8).long().expand(len(networks), -1)
    stack = stack_networks(networks)
    optimiser = torch.optim.Adam(parameter_groups(stack, lr, activation=activation))
    losses = []
    for _ in range(steps):
        outputs = stack(inputs.expand(len(networks), -1, -1))
        each = F.cross_entropy(outputs.mT, labels, reduction="none").mean(1)
        losses.append(each.detach())
        optimiser.zero_grad()
        each.sum().backward()
        optimiser.step()
        project_(stack)
    return stack, losses


@pytest.mark.slow
@pytest.mark.parametrize(
    ("activation", "depth"),
    [
        pytest.param("relu", 12, marks=pytest.mark.slow),
        ("leaky_relu", 5),
        pytest.param("elu", 5, marks=pytest.mark.slow),
        pytest.param("softplus", 6, marks=pytest.mark.slow),
        (flat_softplus, 5),
        pytest.param(F.celu, 3, marks=pytest.mark.slow),
        ("squared_relu", 3),
        pytest.param(lambda s: s + torch.sqrt(s * s + 1), 5, marks=pytest.mark.slow),
    ],
)
def test_every_seed_learns(activation, depth):
    networks = [
        init_icnn_(MLP([8, *[32] * depth, 2], activation), activation=activation,
            method="orthogonal",
                   generator=generator(seed))
        for seed in range(3)
    ]  # fmt: skip
    _, losses = train(networks)
    assert float(losses[-1].max()) < 0.5 * math.log(2)


def test_deep_networks_of_squared_activations_stay_finite():
    """They start nearly linear and stay so: stable, but no better than that."""
    networks = [
        init_icnn_(MLP([8, *[32] * 8, 2], "squared_relu"), activation="squared_relu",
            method="orthogonal",
                   generator=generator(seed))
        for seed in range(3)
    ]  # fmt: skip
    _, losses = train(networks, steps=50)
    assert float(torch.stack(losses).max()) < 3
    assert (losses[-1] < losses[0]).all()


@pytest.mark.parametrize("positivity", ["projection", "clip", "square", "exp", "softplus"])
def test_what_hidden_layers_learn_under_every_map(positivity):
    """Maps of exp and softplus, flat near zero, keep the zeros; the others fill them in.

    Left out is neg-exp, which jumps at zero and diverges here.
    """
    network = MLP([8, *[32] * 5, 2], positivity=positivity)
    init_icnn_(network, method="orthogonal", generator=generator())
    stack, losses = train([network], steps=150)
    filled = [
        float((layer.nonnegative_weight > 3e-3).float().mean()) for layer in stack.layers[1:-1]
    ]
    if positivity in ("exp", "softplus"):
        assert filled == pytest.approx([1 / 32] * 4)
    else:
        assert min(filled) > 3 / 32
    assert losses[-1] < 0.5 * losses[0]


@pytest.mark.parametrize("skips", [[0.3] * 4, [0.1, 0.4, 0.0, 0.2]])
@pytest.mark.parametrize("activation", ["relu", "softplus", "leaky_relu"])
def test_skip_connections_are_counted(activation, skips):
    """Against units drawn at random, every layer with a skip connection is centred."""
    plan = plan_layers(activation, [1, 2, 1], skips=skips)
    phi = resolve_activation(activation)
    source = generator()

    def drawn():
        return torch.randn(200_000, dtype=torch.float64, generator=source)

    assert plan.mean == 0.0
    signal = drawn()
    layers = zip([1, 2, 1, 1], plan.scales, plan.biases, plan.feature_means, skips, strict=True)
    for size, scale, bias, mean, skip in layers:
        features = phi(signal)
        group = [features[torch.randperm(len(features), generator=source)] for _ in range(size)]
        shift = bias - scale * (size**0.5 - 1) * mean
        signal = scale * sum(group) / size**0.5 + shift + skip**0.5 * drawn()
        if skip:
            assert float(signal.mean()) == pytest.approx(0, abs=0.02)
            assert float(signal.std()) == pytest.approx(1, rel=0.05)  # of 10,001 units


@pytest.mark.parametrize("skips", [[0.3], [0.3, 1.0], [-0.1, 0.3], [math.nan, 0.3]])
def test_skip_connections_that_leave_nothing_are_refused(skips):
    with pytest.raises(ValueError, match="skips must be 2 variances, at least 0 and less than"):
        plan_layers("relu", [1], skips=skips)


@pytest.mark.parametrize(
    ("variance", "gain", "share"), [(1, 1, 1 / 3), (0.25, 1, 0.5), (1, 3, 0.5)]
)
@pytest.mark.parametrize("activation", ["relu", "softplus"])
def test_networks_with_skip_connections_start_centred(activation, variance, gain, share):
    torch.manual_seed(0)  # of skip connections
    # With as many inputs units are nearly independent, as plans take them to be.
    network = MLP([256, *[128] * 8, 2], activation, skip=True)
    with torch.no_grad():
        for skip in network.skips:
            skip.weight *= gain
    init_icnn_(network, variance=variance, generator=generator())
    signals = network.pre_activations(torch.randn(4000, 256, generator=generator(1)))
    for signal in signals[:-1]:
        assert abs(float(signal.mean())) < 0.05 * variance**0.5
        assert float(signal.var(0).mean()) == pytest.approx(variance, rel=0.1)
    for skip in network.skips[:-1]:
        assert float(skip.weight.square().sum(1).mean()) == pytest.approx(share * variance, rel=0.1)


def test_skip_connections_of_zero_are_none():
    networks = [MLP([8, 16, 16, 1], "softplus", skip=skip) for skip in (False, True)]
    for skip in networks[1].skips:
        nn.init.zeros_(skip.weight)
    plain, zero = (init_icnn_(n, generator=generator()).layers.parameters() for n in networks)
    assert all(map(torch.equal, plain, zero))


def test_skip_connections_of_partially_convex_networks_are_counted():
    torch.manual_seed(0)
    network = init_icnn_(PICNN([256, *[128] * 6, 1], context=4), generator=generator())
    inputs = torch.randn(4000, 256, generator=generator(1)), torch.zeros(4000, 4)
    for signal in network.pre_activations(*inputs)[:-1]:
        assert abs(float(signal.mean(0).mean())) < 0.1
        assert float(signal.var(0).mean()) == pytest.approx(1, rel=0.1)


def test_skip_connections_train():
    networks = [MLP([8, *[32] * 10, 2], skip=True) for _ in range(3)]
    for seed, network in enumerate(networks):
        init_icnn_(network, method="orthogonal", generator=generator(seed))
    _, losses = train(networks, steps=100)
    assert float(losses[-1].max()) < 0.5 * math.log(2)


def test_plans_do_not_depend_on_the_default_device_of_torch():
    expected = plan_layers("softplus", [2, 1], skips=[0.1, 0.2, 0.3])
    with torch.device("meta"):
        assert plan_layers("softplus", [2, 1], skips=[0.1, 0.2, 0.3]) == expected


def test_skip_connections_that_compute_their_weights_are_scaled_through_them():
    network = MLP([8, 32, 32, 1], skip=True)
    nn.utils.parametrizations.weight_norm(network.skips[0])
    nn.init.constant_(network.skips[0].parametrizations.weight.original0, 5.0)
    init_icnn_(network, generator=generator())
    assert float(network.skips[0].weight.square().sum(1).mean()) == pytest.approx(0.5)
    assert parameter_groups(network, lr=1e-3)


def test_what_took_the_place_of_a_skip_connection_is_not_counted():
    networks = [MLP([8, 8, 8, 8], "softplus", skip=True) for _ in range(2)]
    networks[0].skips[0] = nn.Identity()
    nn.init.zeros_(networks[1].skips[0].weight)
    del networks[0].skips[1], networks[1].skips[1]
    plain, zero = (init_icnn_(n, generator=generator()).layers.parameters() for n in networks)
    assert all(map(torch.equal, plain, zero))
    assert parameter_groups(networks[0], lr=1e-3)


def test_skip_connections_without_finite_weights_are_refused():
    network = MLP([8, 32, 1], skip=True)
    nn.init.constant_(network.skips[0].weight, math.nan)
    for function in (init_icnn_, lambda network: parameter_groups(network, lr=1e-3)):
        with pytest.raises(ValueError, match="not finite; give it others"):
            function(network)
        with pytest.raises(ValueError, match=r"not exist yet|no weights yet"):
            function(MLP([8, 32, 1], skip=True).to("meta"))


def test_the_activation_is_that_of_the_convex_network():
    before = MLP([8, 32, 32], torch.tanh, convex=False)
    network = nn.Sequential(before, MLP([32, 32, 32, 1], "softplus"))
    first, second = copy.deepcopy(network), copy.deepcopy(network)
    init_icnn_(first, generator=generator())
    init_icnn_(second, activation="softplus", generator=generator())
    assert all(map(torch.equal, first.parameters(), second.parameters()))
