"""Networks that other people wrote: every kind is found and filled, or refused as a whole."""

import ast
import copy
import itertools
import math
import re
import warnings

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from convexinit import (
    CNN,
    MLP,
    PICNN,
    ConvexDifference,
    check_signal,
    init_icnn_,
    is_convex,
    keep_convex,
    lsuv_init_,
    parameter_groups,
    project_,
)
from convexinit.finding import find, find_layers
from convexinit.found import Found
from convexinit.stacking import stack_networks
from support.another_device import AnotherDevice
from support.foreign_networks import (
    FOREIGN,
    INPUTS,
    Energy,
    Ensemble,
    Hypernetwork,
    MappedLinear,
    Normalised,
    TransportPotential,
    normal,
)
from support.networks import generator, unchanged
from support.signals import pre_activations

ROWS, FRESH = 1021, 2039


def built(name, depth=None, seed=0):
    """A network of a kind, its author's draw."""
    kind = FOREIGN[name]
    torch.manual_seed(seed)
    return kind.build(depth or kind.depth)


def initialised(name, depth=None, seed=0, **options):
    """The same after ``init_icnn_``; warnings are tested elsewhere."""
    kind = FOREIGN[name]
    network = built(name, depth, seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        init_icnn_(
            network, kind.inputs(ROWS, seed), generator=generator(seed), **kind.options, **options
        )
    return network


def convex_arguments(name):
    convex = FOREIGN[name].options.get("convex", 0)
    return (convex,) if isinstance(convex, int) else convex


def moments(signal):
    """Mean over everything, and variance over the rows averaged over the units."""
    return float(signal.detach().mean()), float(signal.detach().var(0).mean())


def signals_of(network, name, rows, seed):
    call = (lambda net, x: net.potential(x)) if name == "gradient" else None
    return pre_activations(network, FOREIGN[name].inputs(rows, seed), convex_arguments(name), call)


# One unit between two layers: convex functions of one number after another are so skewed that no
# thousand rows know their variance.
@pytest.mark.parametrize("name", [name for name in FOREIGN if name != "branching"])
@pytest.mark.parametrize("method", ["moments", "orthogonal"])
def test_every_kind_starts_at_the_target_on_fresh_inputs(name, method):
    network = initialised(name, method=method)
    signals = signals_of(network, name, FRESH, 7)
    assert len(signals) >= FOREIGN[name].depth - 1
    for signal in signals:
        mean, variance = moments(signal)
        assert abs(mean) < 0.1
        assert variance == pytest.approx(1.0, rel=0.2)


@pytest.mark.slow
@pytest.mark.parametrize("name", FOREIGN)
def test_the_default_device_of_torch_changes_nothing(name):
    """All draws are of the processor; the network, its inputs and results have devices already."""
    kind, inputs = FOREIGN[name], FOREIGN[name].inputs(ROWS, 0)
    expected, network = initialised(name), built(name)
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        init_icnn_(network, inputs, generator=generator(0), **kind.options)
        check_signal(network, inputs, convex_arguments(name))
        parameter_groups(network, 1e-3, inputs, convex=convex_arguments(name))
    assert all(map(torch.equal, network.parameters(), expected.parameters()))


@pytest.mark.slow
@pytest.mark.parametrize("name", FOREIGN)
def test_on_another_device_every_kind_does_as_on_the_processor(name):
    kind, convex = FOREIGN[name], convex_arguments(name)
    rows = kind.inputs(ROWS, 0)
    with AnotherDevice() as device:
        start_and_step(device.there(built(name)), device.there(rows), convex, kind.options)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", FOREIGN)
def test_on_a_gpu_every_kind_starts_as_on_the_processor(name):
    kind, convex = FOREIGN[name], convex_arguments(name)
    rows = kind.inputs(ROWS, 0)
    inputs = tuple(one.cuda() for one in rows)
    expected, network = initialised(name), built(name).cuda()
    report = start_and_step(network, inputs, convex, kind.options)
    assert all(one.is_cuda for one in network.parameters())
    for one, other in zip(report.rows, check_signal(expected, rows, convex).rows, strict=True):
        assert one.std == pytest.approx(other.std, rel=1e-2, abs=1e-3)


def start_and_step(network, inputs, convex, options):
    """All that is done to a network until its first step; its signals at the start."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        init_icnn_(network, inputs, generator=generator(0), **options)
        optimizer = torch.optim.Adam(parameter_groups(network, 1e-3, inputs, convex=convex))
        keep_convex(optimizer, network, inputs=inputs, convex=convex)
    report = check_signal(network, inputs, convex)
    output = network(*inputs)
    (output[0] if isinstance(output, tuple) else output).sum().backward()
    optimizer.step()
    if not isinstance(network, Energy):  # which returns a gradient
        assert is_convex(network, inputs, convex)
    return report


def test_deep_variances_on_fresh_inputs_are_off_because_rows_are_few_and_not_with_more():
    kind, off, expected = FOREIGN["softplus property"], {}, {}
    for rows, seed in itertools.product((512, 8192), range(4)):
        torch.manual_seed(seed)
        network = init_icnn_(kind.build(8), kind.inputs(rows, seed), generator=generator(seed))
        own, fresh = (
            pre_activations(network, kind.inputs(count, place))
            for count, place in ((rows, seed), (8191, 7))
        )
        shares = [(s - s.mean(0)).square().mean(1) for s in own]
        errors = [(s.square().sum() / s.sum() ** 2 - 1 / rows).sqrt() for s in shares]
        expected.setdefault(rows, []).append(torch.stack(errors))
        off.setdefault(rows, []).append(torch.tensor([moments(s)[1] - 1 for s in fresh]))
    for rows, values in off.items():
        seen, predicted = (torch.stack(v).square().mean().sqrt() for v in (values, expected[rows]))
        assert 0.5 < seen / predicted < 2.0
    assert max(abs(values).max() for values in off[512]) > 0.15
    assert max(abs(values).max() for values in off[8192]) < 0.1


@pytest.mark.slow
@pytest.mark.parametrize("name", FOREIGN)
def test_three_times_as_deep_every_kind_starts_at_the_target_on_its_own_inputs(name):
    network = initialised(name, 3 * FOREIGN[name].depth)
    # Normalisations before a layer are initialised after it was filled, again and again.
    tolerance = 0.2 if name == "ActNorm before" else 0.05
    for signal in signals_of(network, name, ROWS, 0):
        mean, variance = moments(signal)
        assert abs(mean) < tolerance
        assert variance == pytest.approx(1.0, rel=tolerance)


@pytest.mark.parametrize(
    "weight_of",
    [
        torch.relu,
        torch.abs,
        torch.square,
        lambda raw: torch.relu(raw) / 7,
        lambda raw: raw.clamp(min=0),  # whose slope at 0 is 1 in torch 2.13, and 0 in 2.14
        lambda raw: torch.where(raw < 0, raw.exp(), raw),
        lambda raw: raw / 7,
    ],
)
def test_orthogonal_zeros_are_raised_where_the_function_of_the_network_has_no_slope(weight_of):
    zero = torch.zeros((), requires_grad=True)
    (slope,) = torch.autograd.grad(weight_of(zero), zero)
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Linear(INPUTS, 20), nn.Softplus(),
        MappedLinear(20, 20, weight_of), nn.Softplus(), MappedLinear(20, 1, weight_of),
    )  # fmt: skip
    inputs = normal(ROWS, INPUTS, seed=0)
    init_icnn_(network, inputs, method="orthogonal", generator=generator())
    assert (network[2].weight == 0).any() == (slope != 0)
    network(inputs).sum().backward()
    assert (network[2].raw.grad != 0).all()


@pytest.mark.parametrize("name", ["softplus property", "elu plus one", "critic of lists"])
def test_the_default_explodes_before(name):
    """What is repaired: these grow by a factor of ten and more a layer as their authors draw."""
    first, *_, last = signals_of(built(name, 6), name, ROWS, 0)
    assert moments(last)[1] > 1e6 * moments(first)[1]


@pytest.mark.parametrize("name", FOREIGN)
def test_every_kind_is_convex_afterwards(name):
    kind = FOREIGN[name]
    network = initialised(name).double().eval()
    first, second = ([t.double() for t in kind.inputs(200, seed)] for seed in (3, 4))
    if name == "gradient":
        network = network.net
    for index in set(range(len(first))) - set(convex_arguments(name)):
        second[index] = first[index]
    middle = [(a + b) / 2 for a, b in zip(first, second, strict=True)]

    def value(inputs):
        output = network(*(t.clone() for t in inputs))
        return (output[0] if isinstance(output, tuple) else output).detach()

    gap = value(middle) - (value(first) + value(second)) / 2
    assert float(gap.max()) <= 1e-9 * float(value(first).abs().max())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("softplus potential", ("projection", 1.0)),
        ("softplus property", ("softplus", 1.0)),
        ("softplus over fan_in", ("softplus", 1 / 48)),
        ("softplus over root", ("softplus", 48**-0.5)),
        ("divided by its size", ("softplus", 1.0)),
        ("elu plus one", ("elu", 1.0)),
        ("squared softplus", ("squared_softplus", 1 / 12)),
        ("relu in forward", ("clip", 1.0)),
        ("exp in forward", ("exp", 1.0)),
        ("absolute value", ("abs", 1.0)),
        ("softplus with temperature", ("softplus_5", 1.0)),
        ("parametrize without inverse", ("numerical", 1.0)),
        ("parametrize by rows", ("right_inverse", 1.0)),
        ("clamped critic", ("projection", 1.0)),
    ],
)
def test_maps_and_gains_are_found(name, expected):
    kind = FOREIGN[name]
    layers = find_layers(built(name), kind.inputs(64, 0), kind.options.get("convex", 0))
    constrained = [layer for layer in layers if layer.role == "constrained"]
    assert len(constrained) == kind.depth
    for layer in constrained:
        assert layer.map.name == expected[0]
        assert layer.map.gain == pytest.approx(expected[1], rel=1e-5)


def test_roles_biases_and_squares_are_found():
    found = find(built("softplus potential"), normal(64, INPUTS, seed=0))
    names = [[layer.name for layer in one.constrained + one.free] for one in found.pre_activations]
    assert names == [["wx.0"], ["wz.0", "wx.1"], ["wz.1", "wx.2"], ["wz.2", "wx.3"]]
    assert [one.biases[0].name for one in found.pre_activations] == [
        f"wx.{k}.bias" for k in range(4)
    ]
    assert [one.output for one in found.pre_activations] == [False, False, False, True]
    found = find(built("quadratic skips"), normal(64, INPUTS, seed=0))
    assert [one.squared[0].parameter for one in found.pre_activations[:-1]] == [
        f"quadratic_layers.{k}.factor" for k in range(3)
    ]
    layers = find_layers(
        built("partially convex, relu"), FOREIGN["partially convex, relu"].inputs(64, 0), 1
    )
    roles = {layer.name: layer.role for layer in layers}
    assert {roles[f"wz.{k}"] for k in range(2)} == {"constrained"}
    assert {roles[f"wy.{k}"] for k in range(3)} == {"free"}
    assert {roles[name] for name in ("context.0", "wu.0", "wyu.1", "wzu.0")} == {"context"}


def state_of(network):
    return (
        copy.deepcopy(network.state_dict()),
        [module.training for module in network.modules()],
        [parameter.requires_grad for parameter in network.parameters()],
        [{k for k in vars(module) if not k.startswith("_")} for module in network.modules()],
        torch.get_rng_state(),
    )


def same(first, second):
    return all(torch.equal(first[0][name], second[0][name]) for name in first[0] | second[0]) and (
        first[1:4] == second[1:4] and torch.equal(first[4], second[4])
    )


class Unbiased(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(i, 8, bias=i == INPUTS) for i in (INPUTS, 8, 8))

    def forward(self, x):
        for layer in self.layers:
            x = F.softplus(layer(x))
        return x


class LowRank(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(INPUTS, 8)
        self.left, self.right = (nn.Parameter(torch.randn(s)) for s in ((1, 2), (2, 8)))

    def forward(self, x):
        return F.linear(F.softplus(self.first(x)), F.softplus(self.left @ self.right))


class Unregistered(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.hidden = nn.Linear(INPUTS, 8), [nn.Parameter(torch.rand(1, 8))]

    def forward(self, x):
        return F.linear(F.softplus(self.first(x)), self.hidden[0])


def hooked(function, place):
    """A layer whose weight a hook computes."""
    network = nn.Sequential(
        nn.Linear(INPUTS, 8), nn.Softplus(), nn.Linear(8, 8), nn.Softplus(), nn.Linear(8, 1)
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, and in use
        function(network[place])
    return network


def by_members(signal, weight, bias):
    return torch.einsum("rmi,mio->rmo", signal, weight) + bias


def by_broadcast(signal, weight, bias):
    return (signal[:, :, None] @ weight)[:, :, 0] + bias


class Mean(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = TransportPotential(2)

    def forward(self, x):
        return self.net(x).mean()


X = normal(64, INPUTS, seed=0)
MANY = normal(512, INPUTS, seed=0)  # of which no variance rests on a few
CONTEXT = FOREIGN["partially convex, relu"].inputs(64, 0)


@pytest.mark.parametrize(
    ("build", "inputs", "options", "message"),
    [
        (lambda: Hypernetwork(2), CONTEXT, {"convex": 1}, "hypernetwork"),
        (Unbiased, X, {}, r"layers\.1: no parameter shifts"),
        (LowRank, X, {}, r"right: its weight is computed .*cannot be inverted"),
        (Unregistered, X, {}, "no parameter of the network"),
        *(
            (lambda multiply=multiply: Ensemble(multiply), X, {"method": method},
             rf"weights\.1, weights\.2: .*3 members of an ensemble, which {name} .*torch\.stack\)$")
            for method in ("moments", "orthogonal")
            for name, multiply in {
                "baddbmm": lambda x, w, b: torch.baddbmm(b, x, w),
                "bmm": lambda x, w, b: torch.bmm(x, w) + b,
                "matmul": lambda x, w, b: x @ w + b,
                "einsum": lambda x, w, b: torch.einsum("mri,mio->mro", x, w) + b,
            }.items()
        ),
        (lambda: Ensemble(by_members, True), X, {}, "neither a matrix nor .*method=.moments"),
        (lambda: hooked(nn.utils.weight_norm, 0), X, {}, r" 0: .*parametrizations\.weight_norm"),
        (lambda: hooked(nn.utils.weight_norm, 2), X, {}, r" 2: .*parametrizations\.weight_norm"),
        (lambda: hooked(nn.utils.spectral_norm, 2), X, {}, " 2: .*remove_spectral_norm"),
        (lambda: torch.compile(TransportPotential(2)), X, {}, "is compiled.*network._orig_mod"),
        (Mean, X, {}, "one value or vector for each row.*call="),
        (lambda: nn.Linear(INPUTS, 1), X, {}, "no convex layer"),
        (lambda: TransportPotential(2), X[:1].expand(9, -1), {}, "inputs do not vary"),
        (lambda: TransportPotential(2), X * math.nan, {}, "inputs must be finite"),
        (lambda: TransportPotential(2), X[:1], {}, "at least two"),
        (lambda: TransportPotential(2), X[:, :2], {}, "cannot be called"),
        (lambda: TransportPotential(2), "relu", {}, "inputs must be a tensor"),
        (lambda: TransportPotential(2), X, {"convex": 1}, "convex must name"),
        (lambda: TransportPotential(2), X, {"layers": {"wy": {}}}, "'wy', which is none of wx.0"),
        (lambda: TransportPotential(2), X, {"layers": {"wz.0": {"bias": "wx.2.bias"}}}, "wz.0"),
        (lambda: TransportPotential(2), X, {"layers": {"wz.0": {"scale": 2}}}, "positivity, gain"),
        (lambda: TransportPotential(2), X, {"skip": "none"}, "skip must be"),
        (lambda: TransportPotential(2), X, {"activation": "elu"}, "activation is measured"),
        (lambda: stack_networks([MLP([INPUTS, 4, 1])] * 2), X, {}, "before they are stacked"),
    ],
)  # fmt: skip
def test_what_is_refused_leaves_everything_as_it_was(build, inputs, options, message):
    torch.manual_seed(0)
    network = build()
    for parameter in list(network.parameters())[:1]:
        parameter.requires_grad_(False)
    before, draws = state_of(network), generator()
    with pytest.raises(ValueError, match=message):
        init_icnn_(network, inputs, generator=draws, **options)
    assert same(before, state_of(network))
    assert torch.equal(draws.get_state(), generator().get_state())


def test_lazy_layers_are_refused_wherever_layers_are_found():
    network = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.Linear(8, 1))
    optimiser = torch.optim.SGD(network[2].parameters(), lr=0.1)
    for find_in in (
        lambda: init_icnn_(network, X),
        lambda: check_signal(network, X),
        lambda: keep_convex(optimiser, network, inputs=X),
        lambda: is_convex(network, X),
    ):
        with pytest.raises(ValueError, match=r"0\.weight does not exist yet; run a batch"):
            find_in()
    network(X)
    init_icnn_(network, X)


@pytest.mark.parametrize("multiply", [by_members, by_broadcast])
def test_members_that_come_after_the_rows_are_drawn(multiply):
    network = Ensemble(multiply, rows_first=True)
    inputs = normal(ROWS, INPUTS, seed=0)
    init_icnn_(network, inputs, method="moments", generator=generator())
    output = network(inputs).detach()
    assert output.shape == (ROWS, 3)
    assert output.mean(0).tolist() == pytest.approx([0] * 3, abs=0.01)
    assert float(output.var(0).mean()) == pytest.approx(1, rel=0.05)


class Expanded(nn.Module):
    """Products of a batch with one matrix, which is expanded to every row."""

    def __init__(self, multiply):
        super().__init__()
        self.first, self.last, self.multiply = nn.Linear(INPUTS, 8), nn.Linear(8, 1), multiply
        self.weight, self.bias = nn.Parameter(torch.rand(8, 8)), nn.Parameter(torch.zeros(8))

    def forward(self, x):
        z = self.first(x).relu()
        return self.last((self.multiply(z, self.weight) + self.bias).relu())


@pytest.mark.parametrize(
    "multiply",
    [
        lambda z, w: torch.bmm(z[:, None], w.expand(len(z), -1, -1))[:, 0],
        lambda z, w: torch.bmm(w[None].expand(len(z), -1, -1), z[:, :, None]).squeeze(2),
        lambda z, w: (z[:, None] @ F.softplus(w).mT.expand(z.shape[0], 8, 8))[:, 0],
    ],
)
@pytest.mark.parametrize("method", ["moments", "orthogonal"])
def test_one_matrix_for_every_row_is_a_layer(multiply, method):
    torch.manual_seed(0)
    network, inputs = Expanded(multiply), normal(ROWS, INPUTS, seed=0)
    init_icnn_(network, inputs, method=method, generator=generator())
    rows = check_signal(network, inputs).rows
    assert [(row.layer, row.bias) for row in rows] == [
        ("first", "first.bias"), ("weight", "bias"), ("last", "last.bias")
    ]  # fmt: skip
    assert [row.std for row in rows] == pytest.approx([1, 1, 1], abs=0.01)
    assert [row.mean for row in rows] == pytest.approx([0, 0, 0], abs=0.01)


def test_copies_for_every_row_are_named():
    network = Expanded(lambda z, w: torch.bmm(z[:, None], w.repeat(len(z), 1, 1))[:, 0])
    with pytest.raises(ValueError, match=r"weight: .*or a copy for every row"):
        init_icnn_(network, X)


def test_inference_mode_is_no_obstacle():
    network = built("relu in forward")
    with torch.inference_mode():
        init_icnn_(network, normal(ROWS, INPUTS, seed=0), method="orthogonal")
    for signal in pre_activations(network, (normal(ROWS, INPUTS, seed=0),)):
        assert moments(signal) == (pytest.approx(0, abs=0.01), pytest.approx(1, rel=0.01))
    network(X).sum().backward()
    with torch.inference_mode():
        network = built("relu in forward")
        with pytest.raises(ValueError, match=r"0\.weight was made in inference mode"):
            init_icnn_(network, X)


def test_success_changes_parameters_and_running_statistics_alone():
    network = built("strided convolutions").train()
    network.stem.weight.requires_grad_(False)
    before = state_of(network)
    init_icnn_(network, FOREIGN["strided convolutions"].inputs(64, 0), generator=generator())
    after = state_of(network)
    assert after[1:4] == before[1:4]
    assert torch.equal(after[4], before[4])  # a generator of its own was given
    for name, buffer in network.named_buffers():
        assert torch.equal(buffer, before[0][name]) == ("running" not in name)


def test_same_generator_same_network_and_another_draw_without():
    first, second = (initialised("squared start").state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    draws = []
    for _ in range(2):
        network = built("softplus property")
        torch.manual_seed(3)
        for _ in range(2):
            init_icnn_(network, X)
            draws.append(network[2].raw.detach().clone())
    assert torch.equal(draws[0], draws[2])
    assert not torch.equal(draws[0], draws[1])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["softplus potential", "elu plus one", "parametrize with inverse"])
def test_other_data_types(name, dtype):
    network = built(name).to(dtype)
    inputs = normal(ROWS, INPUTS, seed=0).to(dtype)
    init_icnn_(network, inputs, generator=generator())
    assert {parameter.dtype for parameter in network.parameters()} == {dtype}
    for signal in pre_activations(network, (inputs,)):
        assert moments(signal) == (pytest.approx(0, abs=0.1), pytest.approx(1, rel=0.1))


def test_moments_that_rest_on_a_few_rows_are_reported():
    """Those of squares of squares; of other rows they would be others."""
    network, rows = MLP([6, *[64] * 5, 1], "squared_relu"), normal(512, 6, seed=0)
    with pytest.warns(UserWarning, match=r"rest on a few of the rows.*layers\.5.*mean=10"):
        init_icnn_(network, rows, generator=generator())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        init_icnn_(network, rows, mean=10.0, generator=generator())
        init_icnn_(MLP([6, *[64] * 20, 1]), rows, generator=generator())


def test_activations_that_grow_too_fast_are_refused():
    network = MLP([6, 64, 64, 64, 1], "exp")
    with unchanged(network), pytest.raises(ValueError, match="before it grows or falls too fast"):
        init_icnn_(network, normal(512, 6, seed=0), generator=generator())


@pytest.mark.parametrize("size", [1e-30, 1e20])
def test_inputs_whose_squares_are_beyond_their_type_are_to_be_standardised(size):
    inputs, network = normal(ROWS, INPUTS, seed=0), built("softplus potential", 2)
    before = state_of(network)
    with pytest.raises(ValueError, match=r"Argument 0 has .* variances in float32: standardise"):
        init_icnn_(network, size * inputs)
    assert same(state_of(network), before)
    init_icnn_(network.double(), size * inputs.double())
    assert network(size * inputs.double()).var().item() == pytest.approx(1, rel=0.05)


def test_inputs_that_the_network_standardises_may_have_any_size():
    inputs, network = 1e-30 * normal(ROWS, INPUTS, seed=0), built("softplus potential", 2)
    init_icnn_(network, inputs, call=lambda network, x: network(x / 1e-30))
    assert network(inputs / 1e-30).var().item() == pytest.approx(1, rel=0.05)


def test_squares_count_as_the_layers_before_them_leave_them():
    class Squares(nn.Module):
        def __init__(self):
            super().__init__()
            self.plain = nn.Linear(INPUTS, 32)
            self.chain = nn.Sequential(*(nn.Linear(inputs, 32) for inputs in (INPUTS, 32, 32)))
            self.out = nn.Sequential(nn.CELU(), nn.Linear(32, 1))

        def first(self, x):
            return self.plain(x) + self.chain(x).square()

        def forward(self, x):
            return self.out(self.first(x))

    torch.manual_seed(0)
    network = init_icnn_(Squares(), X, generator=generator())
    for signal in (network.first(X), network(X)):
        mean, variance = signal.mean(), signal.var(0).mean()
        assert (mean.item(), variance.item()) == pytest.approx((0, 1), abs=0.03)


class WithoutMean(nn.Module):
    """The mean of a kernel is taken off it."""

    def forward(self, weight):
        return weight - weight.mean((2, 3), keepdim=True)


def test_free_weights_that_are_a_linear_function_of_a_parameter_are_scaled():
    torch.manual_seed(0)
    first = nn.Conv2d(1, 8, 3)
    parametrize.register_parametrization(first, "weight", WithoutMean())
    network = nn.Sequential(first, nn.ReLU(), nn.Conv2d(8, 1, 3), nn.Flatten())
    images = normal(200, 1, 8, 8, seed=0)
    before = first.weight.clone()
    init_icnn_(network, images, generator=generator())
    assert float(first(images).var()) == pytest.approx(1, abs=0.02)
    ratio = first.weight / before
    assert torch.allclose(ratio, ratio.mean(), rtol=1e-4)


@pytest.mark.parametrize("chain", [False, True])
@pytest.mark.parametrize("before", [False, True])
def test_squares_are_scaled_with_their_biases(chain, before):
    class Squared(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.mid = nn.Linear(INPUTS, 24), nn.Linear(24, 24)
            widths = [INPUTS, 24, 24] if chain else [INPUTS, 24]
            self.skip = nn.Sequential(*itertools.starmap(nn.Linear, itertools.pairwise(widths)))
            self.last = nn.Linear(24, 1)
            for parameter in self.skip.parameters():
                nn.init.normal_(parameter, std=3.0)

        def hidden(self, x):
            z, square = self.first(x), self.skip(x).square()
            if before:
                return self.mid(F.softplus(z + square))
            return self.mid(F.softplus(z)) + square

        def forward(self, x):
            return self.last(F.softplus(self.hidden(x)))

    torch.manual_seed(0)
    network = init_icnn_(Squared(), X, generator=generator())
    for signal in (network.hidden(X), network(X)):
        assert moments(signal) == (pytest.approx(0, abs=0.03), pytest.approx(1, abs=0.03))


class Stretched(nn.Module):
    """Half of the columns are doubled."""

    def forward(self, weight):
        return weight * torch.tensor([1.0, 2.0]).repeat(weight.shape[1] // 2)


@pytest.mark.parametrize(("bends", "message"), [(Stretched(), ""), (nn.Tanh(), "variance 0.")])
def test_free_weights_of_maps_with_negative_values_are_scaled_or_reported(bends, message):
    torch.manual_seed(0)
    first = nn.Linear(INPUTS, 16)
    parametrize.register_parametrization(first, "weight", bends)
    network = nn.Sequential(first, nn.ReLU(), nn.Linear(16, 1))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        init_icnn_(network, MANY, generator=generator())
    assert [message in str(one.message) for one in caught] == [True] * bool(message)
    assert message or float(first(MANY).var(0).mean()) == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("value", [0.0, 0.3])
def test_free_weights_without_a_size_stay_as_they_are(value):
    class Beside(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.beside = nn.Linear(INPUTS, 16), nn.Linear(INPUTS, 16, bias=False)
            self.last, self.raw = nn.Linear(16, 1), self.beside.weight
            nn.init.constant_(self.raw, value)

        def forward(self, x):
            beside = F.linear(x, self.raw - self.raw.mean(1, keepdim=True))
            return self.last(F.relu(self.first(x) + beside))

    torch.manual_seed(0)
    network = init_icnn_(Beside(), X, generator=generator())
    assert bool((network.raw == value).all())
    assert moments(network.first(X)) == pytest.approx((0, 1), abs=0.02)


def test_free_weights_of_half_precision_are_scaled():
    torch.manual_seed(0)
    first = nn.Conv2d(1, 32, 5)
    nn.init.normal_(first.weight, std=100.0)  # whose squares add up to more than the type holds
    parametrize.register_parametrization(first, "weight", WithoutMean())
    network = nn.Sequential(first, nn.ReLU(), nn.Conv2d(32, 1, 3), nn.Flatten()).half()
    images = normal(100, 1, 8, 8, seed=0).half()
    init_icnn_(network, images, generator=generator())
    assert float(first(images).float().var()) == pytest.approx(1, abs=0.03)


def test_layers_that_cannot_be_centred_are_accepted_together():
    torch.manual_seed(0)
    layers = [nn.Linear(INPUTS, 16), nn.Softplus()]
    for _ in range(2):
        layers += [nn.Linear(16, 16, bias=False), nn.Softplus()]
    network = nn.Sequential(*layers, nn.Linear(16, 1))
    accepted = {"2": {"bias": None}, "4": {"bias": None}}
    with pytest.raises(ValueError, match="2, 4: no parameter shifts") as error:
        init_icnn_(network, X)
    assert str(error.value).endswith(f"layers={accepted}")
    init_icnn_(network, X, layers=accepted, generator=generator())


def test_a_layer_that_cannot_be_centred_is_named_once():
    shared = nn.Linear(16, 16, bias=False)
    network = nn.Sequential(
        nn.Linear(INPUTS, 16), nn.ReLU(), shared, nn.ReLU(), shared, nn.ReLU(), nn.Linear(16, 1)
    )
    with pytest.raises(ValueError, match=r"initialised\. 2: no parameter shifts"):
        init_icnn_(network, X)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_shifts_rows_differently_is_no_bias(dtype):
    class SquaredSkip(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(INPUTS, 16), nn.Linear(16, 1)
            self.mid, self.skip = nn.Linear(16, 16, bias=False), nn.Linear(INPUTS, 16)
            nn.init.constant_(self.skip.bias, 3.0)

        def forward(self, x):
            return self.last(F.relu(self.mid(F.relu(self.first(x))) + self.skip(x).square()))

    torch.manual_seed(0)
    with pytest.raises(ValueError, match="mid: no parameter shifts"):
        init_icnn_(SquaredSkip().to(dtype), X.to(dtype))


@pytest.mark.parametrize("bends", [F.softplus, torch.tanh, torch.sinh])
def test_biases_that_a_map_bends_are_reported_as_they_are(bends):
    class Bent(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(INPUTS, 16), nn.Linear(16, 1)
            self.weight, self.raw = nn.Parameter(torch.rand(16, 16)), nn.Parameter(torch.zeros(16))

        def hidden(self, x):
            return F.relu(self.first(x)) @ self.weight + bends(self.raw)

        def forward(self, x):
            return self.last(F.relu(self.hidden(x)))

    torch.manual_seed(0)
    network = Bent()
    words = r"layer weight has the mean ([-.\d]+) and the variance ([.\d]+), as the map behind raw"
    with pytest.warns(UserWarning, match=words) as caught:
        init_icnn_(network, MANY, variance=9.0, generator=generator())
    (told,) = filter(None, (re.search(words, str(one.message)) for one in caught))
    mean, variance = moments(network.hidden(MANY).detach())
    assert [float(number) for number in told.groups()] == pytest.approx([mean, variance], rel=0.01)


@pytest.mark.parametrize("shared", [False, True])
def test_first_layers_whose_units_cannot_be_centred_are_reported(shared):
    class Uncentred(nn.Sequential):
        def __init__(self):
            first = nn.Linear(INPUTS, 32, bias=False)
            super().__init__(first, nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1))
            self.shift = nn.Parameter(torch.zeros(1)) if shared else 0.0

        def forward(self, x):
            return nn.Sequential(*list(self)[1:])(self[0](x) + self.shift)

    torch.manual_seed(0)
    network, inputs = Uncentred(), MANY + 5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        init_icnn_(network, MANY, generator=generator())
        assert not check_signal(network, MANY).rows[0].verdict
    with pytest.warns(UserWarning, match="centre each unit of these layers: 0; the means") as told:
        init_icnn_(network, inputs, generator=generator())
    means = (network[0](inputs) + network.shift).mean(0)
    apart = f"{float(means.square().mean().sqrt().detach()):.3g} standard deviations"
    assert [apart in str(one.message) for one in told] == [True]
    verdict = check_signal(network, inputs).rows[0].verdict
    assert verdict.startswith("units are not centred, by ")
    assert verdict.endswith("no parameter shifts units apart")


def test_no_variance_is_too_large_to_tell_its_rows():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        init_icnn_(built("softplus potential"), MANY, variance=1e20, generator=generator())


def test_warnings_name_the_layer():
    with pytest.warns(UserWarning, match=r"multiplied by a gate .*: wz\.0, wz\.1;"):
        init_icnn_(built("partially convex, relu"), CONTEXT, convex=1)
    with pytest.warns(UserWarning, match="no parameter can centre the output layer out"):
        init_icnn_(built("squared start"), X)
    with pytest.warns(UserWarning, match="not convex in argument 0"):
        init_icnn_(TransportPotential(2, torch.sin), X)


def test_context_stays_as_it_is():
    network = built("partially convex, softplus")
    before = copy.deepcopy(network.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        init_icnn_(network, CONTEXT, convex=1)
    changed = {
        name for name, value in network.state_dict().items() if (value != before[name]).any()
    }
    assert {name.split(".")[0] for name in changed} <= {"wz", "wy", "wu"}
    assert {name for name in changed if name.startswith("wu")} <= {f"wu.{k}.bias" for k in range(3)}


def test_biases_of_context_are_taken_where_there_are_no_others():
    class Conditioned(nn.Module):
        def __init__(self, bias):
            super().__init__()
            self.context, self.first = nn.Linear(3, 16), nn.Linear(INPUTS, 16, bias=bias)
            self.last = nn.Linear(16, 1)

        def forward(self, u, y):
            return self.last(F.softplus(self.context(u) + self.first(y)))

    inputs = normal(ROWS, 3, seed=1), normal(ROWS, INPUTS, seed=2)
    for bias in (False, True):
        torch.manual_seed(0)
        network = Conditioned(bias)
        before = network.context.bias.detach().clone()
        init_icnn_(network, inputs, convex=1, generator=generator())
        assert torch.equal(network.context.bias, before) is bias
        mean, _ = moments(network.context(inputs[0]) + network.first(inputs[1]))
        assert abs(mean) < 1e-3


@pytest.mark.parametrize("shared", [False, True])
def test_biases_of_context_that_are_read_elsewhere_are_reported(shared):
    class Conditioned(nn.Module):
        def __init__(self):
            super().__init__()
            self.context = nn.Linear(3, 16)
            self.first, self.middle = (nn.Linear(n, 16, bias=n != 16) for n in (INPUTS, 16))
            self.last = nn.Linear(16, 1)

        def forward(self, u, y):
            context = self.context(u)
            z = F.softplus(self.first(y))
            z = F.softplus(self.middle(z) + context)
            return self.last(z * F.softplus(context) if shared else z)

    torch.manual_seed(0)
    network, inputs = Conditioned(), (normal(ROWS, 3, seed=1), normal(ROWS, INPUTS, seed=2))
    before = network.context.bias.detach().clone()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        init_icnn_(network, inputs, convex=1, generator=generator())
    messages = [str(one.message) for one in caught if "elsewhere" in str(one.message)]
    assert len(messages) == shared
    assert not torch.equal(network.context.bias, before)
    if shared:
        assert "to centre middle," in messages[0]
        assert "as by a gate: context.bias." in messages[0]
        network.context.bias.data.copy_(before)
        said = ast.literal_eval(messages[0].split("layers=")[1])
        init_icnn_(network, inputs, convex=1, layers=said, generator=generator())
        assert torch.equal(network.context.bias, before)


@pytest.mark.parametrize("at", [torch.zeros_like, torch.ones_like])
def test_biases_of_layers_that_are_used_at_a_fixed_point_too_are_not_those_of_others(at):
    class Lyapunov(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.middle = nn.Linear(INPUTS, 16), nn.Linear(16, 16)
            self.last = nn.Linear(16, 1)

        def potential(self, y):
            z = F.softplus(self.first(y))
            for layer in (self.middle, self.last):
                z = F.linear(F.softplus(z), F.softplus(layer.weight), layer.bias)
            return z

        def forward(self, y):
            return self.potential(y) - self.potential(at(y))

    torch.manual_seed(0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        init_icnn_(Lyapunov(), normal(ROWS, INPUTS, seed=2), generator=generator())
    assert not [one for one in caught if "elsewhere" in str(one.message)]


class EinsumGate(nn.Module):
    """A gate and a matrix in one einsum, or one after the other."""

    def __init__(self, at_once):
        super().__init__()
        self.at_once = at_once
        self.first, self.gate, self.skip = nn.Linear(INPUTS, 16), nn.Linear(2, 16), nn.Linear(2, 1)
        self.last = nn.Parameter(torch.randn(16, 1))

    def forward(self, context, x):
        z, gate, weight = F.relu(self.first(x)), self.gate(context).sigmoid(), self.last.square()
        if self.at_once:
            return torch.einsum("...i, ...i, io -> ...o", z, gate, weight) + self.skip(context)
        return (z * gate) @ weight + self.skip(context)


def test_an_einsum_of_a_gate_and_a_matrix_is_filled_like_the_two():
    inputs, filled = (normal(len(X), 2, seed=1), X), []
    for at_once in (True, False):
        torch.manual_seed(0)
        with pytest.warns(UserWarning, match="multiplied by a gate"):
            filled.append(init_icnn_(EinsumGate(at_once), inputs, convex=1, generator=generator()))
    for one, other in zip(*(network.parameters() for network in filled), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


@pytest.mark.parametrize("between", [nn.Dropout(0.1), nn.Flatten(), lambda z: 0.5 * z])
def test_gates_are_seen_behind_what_follows_them(between):
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.skip = nn.Linear(INPUTS, 16), nn.Linear(INPUTS, 1)
            self.gate, self.last = nn.Linear(2, 16), nn.Linear(16, 1)

        def forward(self, context, x):
            z = F.relu(self.first(x)) * F.relu(self.gate(context))
            return self.last(between(z)) + self.skip(x)

    torch.manual_seed(0)
    network, inputs = Gated(), (normal(len(X), 2, seed=1), X)
    with pytest.warns(UserWarning, match="multiplied by a gate .*: last;"):
        init_icnn_(network, inputs, convex=1, generator=generator())
    assert float(network.skip(X).var()) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize("seed", range(2))
def test_deep_gates_that_shut_leave_the_target_on_fresh_inputs(seed):
    name = "partially convex, relu"
    network, inputs = built(name, 8, seed), FOREIGN[name].inputs
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "what these layers read is multiplied by a gate")
        warnings.filterwarnings("ignore", "the variances of these layers rest on a few")
        warnings.simplefilter("error", append=True)
        init_icnn_(network, inputs(ROWS, 0), convex=1, generator=generator())
    for signal in pre_activations(network, inputs(FRESH, 7), convex=(1,)):
        assert moments(signal) == (pytest.approx(0, abs=0.1), pytest.approx(1, rel=0.2))


class Chosen(nn.Sequential):
    """Its output is multiplied by, or chosen with, what is no floating-point number."""

    def __init__(self, choose):
        super().__init__(nn.Linear(4, 16), nn.Softplus(), nn.Linear(16, 2))
        self.choose = choose

    def forward(self, x, number):
        return self.choose(super().forward(x), number[:, None])


@pytest.mark.parametrize(
    "choose",
    [
        lambda z, number: z * (number > 1),
        lambda z, number: number * z,
        lambda z, _: torch.where(z > 0, z, 0.1 * z),
        lambda z, _: z.masked_fill(z < 0, 0.0),
    ],
)
def test_outputs_that_truth_values_or_whole_numbers_act_on_are_filled(choose):
    network = Chosen(choose)
    inputs = torch.randn(ROWS, 4), torch.randint(1, 4, (ROWS,))
    init_icnn_(network, inputs, generator=generator())
    output = nn.Sequential.forward(network, inputs[0])
    assert moments(output) == pytest.approx((0.0, 1.0), abs=1e-3)


def of_both(z):
    """The sum of a stack that is used once more."""
    return z.sum(0) + 0 * z.std(0)


def changed(parts):
    """The sum of what was stacked before a part of it was changed."""
    z = torch.stack(parts)
    parts[0].zero_()
    return z.sum(0)


class Stacking(nn.Module):
    """Adds the convex path and the skip connection up by a function of both."""

    def __init__(self, add):
        super().__init__()
        self.first, self.last = nn.Linear(4, 32), MappedLinear(32, 1, F.softplus)
        self.convex = nn.ModuleList(MappedLinear(32, 32, F.softplus) for _ in range(3))
        self.skips = nn.ModuleList(nn.Linear(4, 32) for _ in range(3))
        self.add, self.sums = add, []

    def forward(self, x):
        z, self.sums = F.softplus(self.first(x)), []
        for convex, skip in zip(self.convex, self.skips, strict=True):
            self.sums.append(self.add([convex(z), skip(x)]))
            z = F.softplus(self.sums[-1])
        return self.last(z)


@pytest.mark.parametrize(
    ("add", "followed"),
    [
        (lambda parts: torch.stack(parts).sum(0), True),
        (lambda parts: torch.sum(torch.stack(parts, dim=0), dim=0), True),
        (lambda parts: torch.stack(parts, 0).mean(axis=0), True),
        (lambda parts: of_both(torch.stack(parts)), False),
        (changed, False),
    ],
)
def test_sums_of_a_stack_are_sums_of_what_was_stacked(add, followed):
    torch.manual_seed(0)
    network, x = Stacking(add), torch.randn(ROWS, 4)
    expected = network(x)
    init_icnn_(network, x, generator=generator())
    assert not torch.equal(network(x), expected)
    found = [moments(signal) for signal in network.sums]
    assert all((mean, variance) == pytest.approx((0, 1), abs=0.02) for mean, variance in found) == (
        followed
    )


class Mixed(nn.Module):
    """A fixed matrix mixes the nodes of a graph, between weights and bias of every layer."""

    def __init__(self, depth=3):
        super().__init__()
        self.register_buffer("adjacency", torch.full((5, 5), 0.2) + 0.3 * torch.eye(5))
        sizes = [4] + [16] * depth
        pairs = list(itertools.pairwise(sizes))
        self.weights = nn.ParameterList(torch.randn(pair) for pair in pairs)
        self.biases = nn.ParameterList(torch.zeros(outputs) for _, outputs in pairs)
        self.last, self.sums = MappedLinear(16, 1, F.softplus), []

    def forward(self, x):
        self.sums = []
        for weight, bias in zip(self.weights, self.biases, strict=True):
            positive = weight if x.shape[-1] == 4 else F.softplus(weight)
            self.sums.append(self.adjacency @ (x @ positive) + bias)
            x = F.softplus(self.sums[-1])
        return self.last(x).sum(1)


def test_what_a_fixed_matrix_mixes_before_the_bias_is_at_the_target():
    torch.manual_seed(0)
    network, x = Mixed(), torch.randn(ROWS, 5, 4)
    init_icnn_(network, x, generator=generator())
    network(x)
    for signal in network.sums:
        assert moments(signal) == pytest.approx((0, 1), abs=0.05)


class ShutGate(nn.Module):
    """A gate for all units that is shut in every row, before the last layer."""

    def __init__(self, skip, gain=1.0, power=1):
        super().__init__()
        self.gain, self.power = gain, power
        self.first, self.last = nn.Linear(INPUTS, 32), nn.Linear(32, 1)
        self.skip = nn.Linear(INPUTS, 1) if skip else None
        self.gate = nn.Linear(2, 1)
        nn.init.constant_(self.gate.bias, -100.0)

    def forward(self, context, x):
        z = self.gain * self.last(F.relu(self.first(x)) * F.relu(self.gate(context)))
        return z if self.skip is None else z + self.skip(x) ** self.power


@pytest.mark.parametrize("method", ["orthogonal", "moments"])
@pytest.mark.parametrize(
    ("gain", "variance", "power"), [(1.0, 1.0, 1), (0.1, 0.25, 1), (1.0, 1.0, 2)]
)
def test_what_is_behind_a_shut_gate_is_filled_without_moments(method, gain, variance, power):
    torch.manual_seed(0)
    network, inputs = ShutGate(True, gain, power), (normal(len(X), 2, seed=1), X)
    with pytest.warns(UserWarning, match="is zero in every row: last;"):
        init_icnn_(
            network, inputs, convex=1, method=method, variance=variance, generator=generator()
        )
    weight = gain * network.last.weight
    assert bool((weight >= 0).all())
    assert float(weight.square().sum()) == pytest.approx(variance, rel=0.2)
    assert float(network(*inputs).var(correction=0)) == pytest.approx(variance, rel=0.01)


def test_a_gate_that_is_shut_in_the_first_rows_is_one_that_shuts():
    torch.manual_seed(0)
    network, context = ShutGate(skip=True), normal(len(X), 2, seed=1)
    context[:20, 0] = -9
    nn.init.zeros_(network.gate.bias)
    nn.init.ones_(network.gate.weight)
    with pytest.warns(UserWarning, match="multiplied by a gate .*: last;"):
        init_icnn_(network, (context, X), convex=1, generator=generator())
    assert float(network.skip(X).var()) == pytest.approx(0.5, abs=0.02)


@pytest.mark.parametrize(("size", "raised"), [(0.01, False), (0.1, True)])
def test_gates_that_differ_much_from_row_to_row_leave_half_to_skips(size, raised):
    torch.manual_seed(0)
    network, inputs = ShutGate(skip=True), (normal(len(X), 2, seed=1), X)
    nn.init.ones_(network.gate.bias)
    nn.init.constant_(network.gate.weight, size)
    assert bool((network.gate(inputs[0]) > 0).all())
    nn.init.constant_(network.skip.weight, 0.1)
    before = float(network.skip(X).var())
    with pytest.warns(UserWarning, match="multiplied by a gate .*: last;"):
        init_icnn_(network, inputs, convex=1, generator=generator())
    expected = 0.5 if raised else before
    assert float(network.skip(X).var()) == pytest.approx(expected, abs=0.02)


def test_what_is_behind_a_shut_gate_alone_is_refused():
    with pytest.raises(ValueError, match="reads is zero in every row, as behind a gate that is"):
        init_icnn_(ShutGate(skip=False), (normal(len(X), 2, seed=1), X), convex=1)


def test_a_muted_convex_path_stays_muted():
    before = built("muted").state_dict()
    network = initialised("muted")
    after = network.state_dict()
    for name in (name for name in before if name.startswith("wz")):
        assert torch.equal(before[name], after[name])


def test_what_a_convex_path_adds_that_stays_is_called_that():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 1))
    nn.init.constant_(network[2].weight, 5.0)
    with pytest.warns(UserWarning, match="layer 2 has .* add stays as it is with skip='only'"):
        init_icnn_(network, normal(256, 6, seed=0), skip="only")


class Bounded(nn.Sequential):
    """A network that can be called some times, or with some numbers of rows alone."""

    times, sizes = 100, ()

    def forward(self, x):
        self.times -= 1
        if self.times < 0 or (self.sizes and len(x) not in self.sizes):
            raise RuntimeError("out of bounds")
        return super().forward(x)


def bounded(activation=nn.ReLU):
    torch.manual_seed(0)
    hidden = (nn.Linear(16, 16), activation())
    return Bounded(nn.Linear(6, 16), activation(), *hidden, nn.Linear(16, 1))


@pytest.mark.parametrize("times", [0, 1])
def test_errors_of_a_network_are_called_that_in_every_pass(times):
    network = bounded()
    network.times = times
    before = network[0].weight.detach().clone()
    with pytest.raises(ValueError, match="cannot be called with these inputs: out of bounds"):
        init_icnn_(network, normal(256, 6, seed=0))
    assert torch.equal(network[0].weight, before)


def test_networks_that_refuse_the_points_of_the_convexity_test_are_filled():
    # Convex, but no function of which that is known without values.
    network, inputs = bounded(lambda: nn.Threshold(0.0, 0.0)), normal(256, 6, seed=0)
    network.sizes = 16, 256  # of the trace, and of all rows
    with pytest.warns(UserWarning, match="whether the network is convex is not known: .*bounds"):
        init_icnn_(network, inputs)
    assert float(network(inputs).detach().var()) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize("seen", [False, True])
def test_normalisation_is_initialised_again(seen):
    network = built("ActNorm after")
    if seen:
        network.train()(100 * X)
    init_icnn_(network, normal(ROWS, INPUTS, seed=0), generator=generator())
    assert all(int(norm.initialized) == 1 for norm in network.norm)
    for signal in pre_activations(network, FOREIGN["ActNorm after"].inputs(FRESH, 7)):
        assert moments(signal) == (pytest.approx(0, abs=0.1), pytest.approx(1, rel=0.2))


def test_other_moments_of_a_normalisation_are_reported():
    torch.manual_seed(0)
    with pytest.warns(UserWarning, match="as a normalisation decides"):
        init_icnn_(Normalised(1), X, variance=0.25, generator=generator())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        init_icnn_(
            Normalised(1), MANY, method="moments", bias_noise=0.5, rho=0.3, generator=generator()
        )


def test_what_the_user_says():
    network = built("linear start")
    nn.init.normal_(network.blocks[0].weight)  # so that nothing shows that it is constrained
    init_icnn_(network, X, layers={"blocks.0": {"positivity": "projection"}})
    assert (network.blocks[0].weight >= 0).all()
    network = Unbiased()
    init_icnn_(network, X, layers={f"layers.{k}": {"bias": None} for k in (1, 2)})
    assert moments(pre_activations(network, (X,))[1])[1] == pytest.approx(1, rel=0.05)


def test_columns_of_an_argument():
    """Convex in the action alone: what reads the state is context and stays."""

    class Critic(nn.Module):
        def __init__(self):
            super().__init__()
            self.encode, self.first = nn.Linear(4, 8), nn.Linear(2, 8)
            self.mix, self.out = nn.Linear(8, 8), nn.Linear(8, 1)

        def forward(self, x):
            state, action = x[:, :4], x[:, 4:]
            context = torch.tanh(self.encode(state))
            return self.out(F.softplus(self.first(action) + self.mix(context)))

    layers = find_layers(Critic(), X, {0: slice(4, None)})
    assert {layer.name: layer.role for layer in layers} == {
        "encode": "context", "first": "free", "mix": "context", "out": "constrained"
    }  # fmt: skip


def test_networks_of_this_library_too():
    for network, size in ((MLP([6, 30, 30, 2], skip=True), 6), (CNN((1, 6, 6), [8, 8], 2), 36)):
        inputs = normal(ROWS, size, seed=0)
        init_icnn_(network, inputs, generator=generator())
        for signal in network.pre_activations(inputs)[:-1]:
            assert moments(signal.movedim(1, -1).flatten(0, -2)) == (
                pytest.approx(0, abs=0.05), pytest.approx(1, rel=0.05)
            )  # fmt: skip


@pytest.mark.parametrize("method", ["moments", "orthogonal"])
@pytest.mark.parametrize("positivity", ["projection", "softplus", "clip"])
def test_partially_convex_networks_of_this_library_too(method, positivity):
    torch.manual_seed(0)
    network = PICNN([INPUTS, 40, 40, 40, 1], 3, "softplus", positivity)
    inputs = normal(ROWS, INPUTS, seed=0), normal(ROWS, 3, seed=1)
    context = copy.deepcopy(network.context_layers.state_dict() | network.gates.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # gates start at 1 whatever the context
        init_icnn_(network, inputs, method=method, generator=generator())
    for signal in network.pre_activations(normal(FRESH, INPUTS, seed=7), normal(FRESH, 3, seed=8)):
        assert moments(signal) == (pytest.approx(0, abs=0.1), pytest.approx(1, rel=0.2))
    assert is_convex(network, inputs)
    after = network.context_layers.state_dict() | network.gates.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in context.items())


def test_both_parts_of_a_difference_are_filled_by_themselves():
    network = ConvexDifference(
        ConvexDifference(MLP([INPUTS, 30, 30, 1]), built("softplus property")), Normalised(3)
    )
    inputs = normal(ROWS, INPUTS, seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        init_icnn_(network, inputs, generator=generator())
    for part in (network.minuend.minuend, network.minuend.subtrahend, network.subtrahend):
        for signal in pre_activations(part, (inputs,)):
            assert moments(signal) == (pytest.approx(0, abs=0.05), pytest.approx(1, rel=0.05))
        assert moments(part(inputs)) == (pytest.approx(0, abs=0.05), pytest.approx(1, rel=0.05))


@pytest.mark.parametrize(
    ("second", "options", "message"),
    [
        (lambda: nn.Linear(INPUTS, 8), {}, "no convex layer"),
        (Unbiased, {}, r"subtrahend\.layers\.1: no parameter shifts"),
        (lambda: MLP([INPUTS, 9, 1]), {"layers": {"layers.1": {"bias": None}}}, "network.minuend"),
    ],
)  # fmt: skip
def test_a_difference_of_which_a_part_cannot_be_filled_stays_as_it_is(second, options, message):
    network = ConvexDifference(MLP([INPUTS, 9, 8]), second())
    before, draws = state_of(network), generator()
    with pytest.raises(ValueError, match=message):
        init_icnn_(network, X, generator=draws, **options)
    assert same(before, state_of(network))
    assert torch.equal(draws.get_state(), generator().get_state())


def test_layers_that_are_used_again_are_named_once():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.enter, self.hidden = nn.Linear(INPUTS, 8), nn.Linear(8, 8)

        def forward(self, x):
            z = F.softplus(self.enter(x))
            for _ in range(3):
                z = F.softplus(F.linear(z, self.hidden.weight.softmax(1), self.hidden.bias))
            return z

    with pytest.raises(ValueError, match=r"initialised\. hidden: its weight"):
        init_icnn_(Tied(), normal(ROWS, INPUTS, seed=0))


def test_layers_that_are_used_again_are_filled_at_their_first_use():
    """Weight, bias and skip are the same in all hidden layers."""

    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.enter, self.hidden = nn.Linear(INPUTS, 32), nn.Linear(32, 32)
            self.leave = nn.Linear(32, 1)
            nn.init.uniform_(self.hidden.weight, 0, 1 / 32)

        def forward(self, x):
            z = F.softplus(self.enter(x))
            for _ in range(3):
                z = F.softplus(self.hidden(z) + self.enter(x))
            return self.leave(z)

    torch.manual_seed(0)
    network, inputs = Tied(), normal(ROWS, INPUTS, seed=0)
    with pytest.warns(UserWarning, match="first use: hidden; .* with the mean"):
        init_icnn_(network, inputs, generator=generator())
    first, again, *_ = pre_activations(network, (inputs,))
    assert moments(first) == (pytest.approx(0, abs=0.01), pytest.approx(1, rel=0.01))
    assert moments(again) == (pytest.approx(0, abs=0.01), pytest.approx(1.1, abs=0.1))
    assert moments(network(inputs)) == (pytest.approx(0, abs=0.01), pytest.approx(1, rel=0.01))
    assert float((again - network.enter(inputs)).var(0).mean()) > 0.05  # the convex path


def test_few_passes():
    """A step is three passes or so; ten of them are the limit that the documents name."""
    network, passes = built("softplus potential", 9), []
    network.register_forward_pre_hook(lambda *_: passes.append(1))
    init_icnn_(network, normal(ROWS, INPUTS, seed=0))
    assert len(passes) <= 6


class Spread(nn.Module):
    """A layer whose result is weighted by position, or whose bias two layers share."""

    def __init__(self, shared):
        super().__init__()
        self.shared, self.first, self.last = shared, nn.Linear(6, 16), nn.Linear(16, 1)
        self.middle = nn.ModuleList(nn.Linear(16, 16, bias=False) for _ in range(2))
        self.bias = nn.ParameterList(torch.zeros(16) for _ in range(2))
        self.register_buffer("weights", torch.linspace(0.5, 2.0, 3)[:, None])

    def forward(self, x):
        z = F.softplus(self.first(x)[:, None] * (1.0 if self.shared else self.weights))
        for layer, bias in zip(self.middle, self.bias, strict=True):
            z = layer(z) * (1.0 if self.shared else self.weights)
            z = F.softplus(z + (self.bias[0] if self.shared else bias))
        return self.last(z)[:, 0]


@pytest.mark.parametrize("build", [*FOREIGN, lambda: Spread(True), lambda: Spread(False)])
@pytest.mark.parametrize("method", ["moments", "orthogonal"])
@pytest.mark.filterwarnings("ignore")
def test_another_pass_changes_nothing_where_it_is_left_out(build, method, monkeypatch):
    states = []
    for foresees in (True, False):
        if not foresees:
            monkeypatch.setattr(Found, "is_foreseen", lambda *_: False)
        torch.manual_seed(0)
        kind = FOREIGN.get(build) if isinstance(build, str) else None
        network = kind.build(kind.depth) if kind else build()
        inputs, options = (kind.inputs(256, 0), kind.options) if kind else (X, {})
        init_icnn_(network, inputs, generator=generator(), method=method, **options)
        states.append(network.state_dict())
    # Normalisations start on the signal of the pass, which rounds in another way once it is right.
    error = 1e-6 if "ActNorm" in str(build) else 0.0
    for name, value in states[0].items():
        assert torch.allclose(value, states[1][name], rtol=error, atol=error)


class Counted(TorchFunctionMode):
    """Counts calls of softplus on as many raw values."""

    def __init__(self, size):
        super().__init__()
        self.size, self.count = size, 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if getattr(function, "__name__", "") == "softplus":
            self.count += args[0].numel() == self.size
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(("power", "most"), [(1.0, 12), (1.5, 30)])
def test_maps_are_computed_a_few_times(power, most):
    """Each time costs as much as in a pass; a map without a name is inverted by a table."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Linear(INPUTS, 80), nn.Softplus(),
        MappedLinear(80, 80, lambda raw: F.softplus(raw) ** power), nn.Softplus(),
        nn.Linear(80, 1),
    )  # fmt: skip
    with Counted(80 * 80) as counted:
        init_icnn_(network, normal(ROWS, INPUTS, seed=0), generator=generator())
    assert 4 < counted.count <= most


@settings(deadline=None, max_examples=60)
@given(
    temperature=st.floats(0.2, 8), power=st.sampled_from([1.0, 1.5, 2.0]),
    gain=st.floats(1e-3, 10), shift=st.floats(-2, 2), transposed=st.booleans(),
)  # fmt: skip
@example(temperature=0.25, power=1.0, gain=1.0, shift=0.00195, transposed=False)
def test_any_map_that_grows_is_inverted(temperature, power, gain, shift, transposed):
    def weight_of(raw):
        weight = gain * F.softplus(raw + shift, beta=temperature) ** power
        return weight.T if transposed else weight

    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(5, 5), nn.Softplus(), MappedLinear(5, 5, weight_of))
    layer = find_layers(network, torch.randn(16, 5))[-1]
    asked = torch.empty(5, 5).log_normal_(-2, 1.5, generator=generator())
    layer.map.write(asked)
    assert torch.allclose(network[2].weight, asked, rtol=1e-3)


def test_maps_are_found_whatever_the_default_data_type_is():
    def names():
        torch.manual_seed(0)
        network = nn.Sequential(nn.Linear(5, 7), nn.ReLU(), MappedLinear(7, 3, torch.square))
        return [layer.map.name for layer in find_layers(network.double(), inputs)]

    inputs = torch.randn(16, 5, dtype=torch.float64)
    before, default = names(), torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        assert names() == before == ["projection", "square"]
    finally:
        torch.set_default_dtype(default)


def test_a_network_that_does_not_train_does_afterwards():
    inputs = normal(512, INPUTS, seed=0)
    target = inputs.abs().sum(1, keepdim=True)
    target = (target - target.mean()) / target.std()
    losses = []
    for initialise in (lambda net: net, lambda net: init_icnn_(net, inputs, generator=generator())):
        network = initialise(built("softplus property", 6))
        optimiser = torch.optim.Adam(network.parameters(), lr=2e-3)
        for _ in range(150):
            optimiser.zero_grad()
            loss = (network(inputs) - target).square().mean()
            loss.backward()
            optimiser.step()
        losses.append(float(loss))
    assert losses[0] > 1e3
    assert losses[1] < 0.5


@pytest.mark.parametrize("kept", ["0", "2", "4"])
@pytest.mark.parametrize("frozen", [False, True])
def test_layers_that_are_to_be_kept(kept, frozen):
    """They are measured, and nothing is written to them; frozen ones are filled otherwise."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Linear(INPUTS, 20), nn.Softplus(), nn.Linear(20, 20), nn.Softplus(),
        nn.Linear(20, 20), nn.Softplus(), nn.Linear(20, 1),
    )  # fmt: skip
    layer, inputs = network[int(kept)], normal(ROWS, INPUTS, seed=0)
    nn.init.uniform_(layer.weight, 0, 1)
    layer.requires_grad_(not frozen)
    before = copy.deepcopy(network.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        init_icnn_(network, inputs, layers={kept: {"keep": True}}, generator=generator())
    after = network.state_dict()
    same = {name for name, value in after.items() if torch.equal(value, before[name])}
    assert same == {f"{kept}.weight", f"{kept}.bias"}
    signals = [*pre_activations(network, (inputs,)), network(inputs)]
    del signals[int(kept) // 2]
    for signal in signals:
        assert moments(signal) == (pytest.approx(0, abs=0.05), pytest.approx(1, rel=0.05))
    init_icnn_(network, inputs, generator=generator())
    assert not torch.equal(layer.weight, before[f"{kept}.weight"])


def test_a_kept_skip_connection_counts():
    network, inputs = TransportPotential(3), normal(ROWS, INPUTS, seed=0)
    skip = network.wx[1]
    before = copy.deepcopy(skip.state_dict())
    layers = {"wx.1": {"keep": True}}
    with pytest.raises(ValueError, match=r"wz\.0: no parameter shifts"):  # the bias was the skip's
        init_icnn_(network, inputs, layers=layers)
    layers["wz.0"] = {"bias": None}
    init_icnn_(network, inputs, layers=layers, generator=generator())
    assert all(torch.equal(value, before[name]) for name, value in skip.state_dict().items())
    signals = pre_activations(network, (inputs,))
    assert moments(signals[1])[1] == pytest.approx(1, rel=0.05)
    assert moments(signals[2]) == (pytest.approx(0, abs=0.05), pytest.approx(1, rel=0.05))
    with pytest.raises(ValueError, match=r"keep of layers.* must be True or False"):
        init_icnn_(network, inputs, layers={"wx.1": {"keep": "yes"}})


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (["wz.0"], "layers must be a dictionary by names of layers"),
        (
            {"wz.0": True},
            "must be a dictionary with some of positivity, gain, bias, keep, got True",
        ),
        ({"wz.0": None}, "must be a dictionary with some of"),
        ({"wz.0": {"gain": "x"}}, r"gain of layers\['wz.0'\] must be a number"),
        ({"wz.0": {"gain": -1.0}}, r"gain of layers\['wz.0'\] must be a number in \(0, inf\)"),
        ({"wz.0": {"gain": 0}}, r"must be a number in \(0, inf\)"),
    ],
)
def test_what_is_said_of_layers_has_the_right_types(layers, message):
    network = TransportPotential(2)
    with unchanged(network), pytest.raises(ValueError, match=message):
        init_icnn_(network, X, layers=layers)


@pytest.mark.parametrize("fixed", [0.0, 0.1, 0.7])
@pytest.mark.parametrize("scale", [0.05, 0.3, 3.0])
@pytest.mark.parametrize("hidden", [False, True])
def test_what_is_fixed_is_not_taken_for_a_trainable_square(fixed, scale, hidden):
    """The bias centres the sum that occurs, a fixed quadratic function included."""

    class Quadratic(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(INPUTS, 24), nn.Linear(24, 1)
            self.hidden, self.factor = nn.Linear(24, 24), nn.Parameter(torch.randn(INPUTS, INPUTS))
            self.factor.data *= scale

        def forward(self, x):
            square = (x @ self.factor).square().sum(1, keepdim=True)
            square = square + fixed * x.square().sum(1, keepdim=True) / 2
            z = self.hidden(F.softplus(self.first(x)))
            z = self.last(F.softplus(z + square if hidden else z))
            return z if hidden else z + square

    torch.manual_seed(0)
    network, inputs = Quadratic(), normal(ROWS, INPUTS, seed=0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        init_icnn_(network, inputs, generator=generator())
    signals = [*pre_activations(network, (inputs,)), network(inputs)]
    for signal in signals:
        assert abs(moments(signal)[0]) < 0.02
    if fixed < 0.7:
        assert not caught
        assert moments(signals[1 if hidden else 2])[1] == pytest.approx(1, rel=0.05)


class Operations(TorchDispatchMode):
    """Counts what torch computes; for small networks, time is proportional to it."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "name", ["softplus property", "divided with bias", "linear start", "softplus potential"]
)
def test_the_operations_and_rows_are_those_of_a_few_steps(name):
    network = built(name, depth=6)
    inputs = FOREIGN[name].inputs(ROWS, 0)
    optimiser = torch.optim.Adam(network.parameters())
    rows = []
    network.register_forward_pre_hook(lambda _, arguments: rows.append(len(arguments[0])))
    with Operations() as initialising:
        init_icnn_(network, inputs)
    # Traced and filled.
    assert len(rows) == 2
    assert sum(rows) == ROWS + 16
    for _ in range(2):  # moments exist from the second step on
        optimiser.zero_grad()
        with Operations() as step:
            network(*inputs).square().mean().backward()
            optimiser.step()
    assert initialising.count < 8 * step.count  # 4.6 to 7 when this was written


def test_functions_that_are_no_modules_are_refused_with_what_to_give():
    network, x = MLP([6, 8, 1]), normal(16, 6, seed=0)
    optimiser = torch.optim.Adam(network.parameters())
    for call in (
        lambda f: init_icnn_(f, x), init_icnn_, lambda f: check_signal(f, x),
        lambda f: keep_convex(optimiser, f, inputs=x), lambda f: parameter_groups(f, 1e-3, x),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"must be a torch\.nn\.Module, got method; .*call="):
            call(network.forward)
    for without_call in (project_, lambda f: lsuv_init_(f, x)):
        with pytest.raises(ValueError, match=r"got method; give .* that holds the parameters$"):
            without_call(network.forward)


@pytest.mark.parametrize("layer", [nn.Conv2d, nn.ConvTranspose2d])
def test_every_group_of_a_convolution_is_orthogonal(layer):
    torch.manual_seed(0)
    grouped = layer(16, 16, 3, padding=1, groups=4)
    network = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), grouped, nn.ReLU(), nn.Flatten(),
        nn.Linear(16 * 16, 1),
    )  # fmt: skip
    init_icnn_(network, torch.randn(256, 1, 4, 4), method="orthogonal")
    for block in grouped.weight.detach()[:, :, 1, 1].chunk(4):
        assert torch.equal((block > 0).sum(0), torch.ones(4)), "no channel is lost"
        assert torch.equal((block > 0).sum(1), torch.ones(4))
