"""Initialisation of whole networks: which layers, with which moments, and what is refused."""

import math

import pytest
import torch
from torch import nn

from convexinit import (
    CNN,
    MLP,
    ConvexConv2d,
    ConvexDifference,
    ConvexLinear,
    init_icnn_,
    parameter_groups,
    solve_init,
)
from convexinit.positivity import POSITIVITY
from convexinit.stacking import stack_networks
from support.networks import generator, unchanged


def foreign():
    """Layers of torch and of this library in one sequence."""
    return nn.Sequential(
        nn.Conv2d(3, 40, 3), nn.ReLU(), ConvexConv2d(40, 30, 3), nn.ReLU(),
        nn.Flatten(), ConvexLinear(270, 20),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("network", "first_fan_in", "fan_ins"),
    [
        (MLP([20, 100, 300, 50]), 20, [100, 300]),
        (CNN((3, 7, 8), [50, 40, 6], 5), 27, [50 * 9, 40 * 9, 6 * 2 * 2]),
        (foreign(), 27, [40 * 9, 270]),
    ],
    ids=["MLP", "CNN", "foreign"],
)
@pytest.mark.parametrize("rho", [0.3, 0.5])
def test_every_layer_is_initialised_with_its_own_fan_in(network, first_fan_in, fan_ins, rho):
    assert init_icnn_(network, rho=rho, method="moments", generator=generator()) is network
    first, *later = [layer for layer in network.modules() if hasattr(layer, "weight")]
    for layer, fan_in in zip(later, fan_ins, strict=True):
        expected = solve_init(fan_in, rho=rho)
        assert torch.allclose(layer.bias, torch.tensor(expected.bias_mean))
        weight = layer.weight.detach()
        assert (weight >= 0).all()
        error = math.sqrt(expected.weight_var / weight.numel())
        assert float(weight.mean()) == pytest.approx(expected.weight_mean, abs=5 * error)
    assert float(first.weight.detach().var()) == pytest.approx(1 / first_fan_in, rel=0.2)
    assert (first.bias == 0).all()


@pytest.mark.parametrize("positivity", sorted(POSITIVITY))
def test_the_initialisation_is_carried_through_the_positivity_map(positivity):
    plain, mapped = (
        init_icnn_(MLP([5, 50, 40], positivity=name), method="moments", generator=generator(3))
        for name in ("projection", positivity)
    )
    assert torch.allclose(
        mapped.layers[1].nonnegative_weight, plain.layers[1].weight, rtol=1e-4, atol=1e-7
    )


@pytest.mark.parametrize("inputs", [None, torch.randn(9, 3, generator=generator())])
@pytest.mark.parametrize("options", [{"rho": 0.3}, {"distribution": "gamma"}])
def test_options_of_the_other_method_are_refused(inputs, options):
    with pytest.raises(ValueError, match=r'(rho|distribution) belongs to method="moments"; give'):
        init_icnn_(MLP([3, 5, 1]), inputs, **options)


def test_a_first_layer_needs_no_bias():
    network = nn.Sequential(nn.Linear(3, 50, bias=False), nn.ReLU(), ConvexLinear(50, 1))
    init_icnn_(network, method="moments", variance=4.0, generator=generator())
    assert float(network[0].weight.var()) == pytest.approx(4 / 3, rel=0.3)


def test_same_generator_state_gives_the_same_network():
    first = init_icnn_(MLP([3, 10, 10, 1]), generator=generator(5))
    second = init_icnn_(MLP([3, 10, 10, 1]), generator=generator(5))
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_only_the_first_layer_and_convex_layers_are_touched():
    class PassThrough(nn.Module):
        def __init__(self):
            super().__init__()
            self.from_input = nn.ModuleList([nn.Linear(7, 9), nn.Linear(7, 9), nn.Linear(7, 1)])
            self.between = nn.ModuleList([ConvexLinear(9, 9), ConvexLinear(9, 1)])

    network = PassThrough()
    left = r"stay as they are: from_input\.1, from_input\.2\. .*init_icnn_\(network, inputs\)"
    with unchanged(network.from_input[1:]), pytest.warns(UserWarning, match=left):
        init_icnn_(network)
    assert (network.from_input[0].bias == 0).all()
    network = MLP([5, 8, 8, 2], skip=True)
    with unchanged(network.skips):
        init_icnn_(network, method="moments")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rho": 1.5}, r"rho .* got 1\.5"),
        ({"variance": -1}, "variance"),
        ({"mean": "x"}, "mean"),
        ({"activation": "rleu"}, "activation"),
        ({"distribution": "uniform"}, r"distribution .*lognormal, gamma"),
        ({"distribution": None}, "distribution"),
        ({"bias_rule": "none"}, r"bias_rule .*sampled, centred"),
    ],
)
def test_a_refused_argument_leaves_the_network_unchanged(arguments, message):
    network = MLP([3, 5, 1])
    with unchanged(network), pytest.raises(ValueError, match=message):
        init_icnn_(network, method="moments", **arguments)


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (stack_networks([MLP([3, 5, 1])] * 2), "before they are stacked"),
        (stack_networks([CNN((1, 4, 4), [3, 3], 1)] * 2), "before they are stacked"),
        (nn.Linear(3, 3), "no convex layer"),
        (torch.jit.script(nn.Linear(3, 3)), "no convex layer"),
    ],
)
def test_a_refused_network_is_left_unchanged(network, message):
    with unchanged(network), pytest.raises(ValueError, match=message):
        init_icnn_(network)


@pytest.mark.parametrize("method", ["moments", "orthogonal"])
def test_a_network_of_the_library_knows_its_activation(method):
    start = [MLP([5, 30, 30, 2], "softplus") for _ in range(2)]
    for network, told in zip(start, [{}, {"activation": "softplus"}], strict=True):
        init_icnn_(network, method=method, generator=generator(), **told)
    for one, other in zip(*(network.parameters() for network in start), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("method", ["moments", "orthogonal"])
def test_networks_inside_of_others_keep_their_activations(method):
    widths = [5, *[30] * 9, 1]
    parts = [MLP(widths, name) for name in ("softplus", "relu")]
    source = generator()
    init_icnn_(ConvexDifference(nn.Sequential(parts[0]), parts[1]), method=method, generator=source)
    source = generator()
    for part, name in zip(parts, ("softplus", "relu"), strict=True):
        alone = init_icnn_(MLP(widths, name), method=method, generator=source)
        assert all(map(torch.equal, part.parameters(), alone.parameters()))
    steps = [
        [group["lr"] for group in parameter_groups(network, 1e-3)]
        for network in (parts[0], nn.Sequential(parts[0]))
    ]
    assert steps[0] == steps[1]


def test_missing_biases_that_the_start_needs_are_named():
    hidden, last = [(ConvexLinear(16, n, bias=False), nn.ReLU()) for n in (16, 3)]
    network = nn.Sequential(nn.Linear(5, 16, bias=False), nn.ReLU(), *hidden, last[0])
    with pytest.warns(UserWarning, match="no bias: 4; build") as warned:  # others would be 0
        init_icnn_(network)
    assert len(warned) == 1
    deep = [part for _ in range(19) for part in (nn.Softplus(), ConvexLinear(16, 16))]
    with pytest.warns(UserWarning, match="no bias: 0; build"):
        init_icnn_(nn.Sequential(nn.Linear(5, 16, bias=False), *deep), activation="softplus")


@pytest.mark.parametrize("method", ["moments", "orthogonal"])
@pytest.mark.parametrize("activation", [nn.functional.gelu, torch.abs])
def test_activations_that_are_not_convex_are_named(method, activation):
    with pytest.warns(UserWarning, match=f"{activation.__name__}.* so the network is not convex"):
        init_icnn_(
            nn.Sequential(nn.Linear(3, 5), ConvexLinear(5, 5)), None, activation, method=method
        )


def test_parameters_instead_of_a_network_are_refused():
    parameters = MLP([3, 5, 1]).parameters()
    for function in (init_icnn_, lambda model: parameter_groups(model, 1e-3)):
        with pytest.raises(ValueError, match=r"model must be a torch\.nn\.Module, got generator"):
            function(parameters)
