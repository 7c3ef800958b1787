"""Tests of convexity: what they find, what they must not find, and what they leave alone."""

import copy
import re
import warnings

import pytest
import torch
import torch.nn.functional as F
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from convexinit import MLP, ConvexDifference, init_icnn_, is_convex, keep_convex
from convexinit.positivity import POSITIVITY
from convexinit.stacking import stack_networks
from support.foreign_networks import INPUTS, Energy
from support.networks import ACTIVATIONS, generator, randomised, unchanged

CURVED = torch.diag(torch.tensor([3.0, 1.0, 0.5, -0.25]))
ROTATION = torch.linalg.qr(torch.randn(4, 4, generator=generator(), dtype=torch.float64)).Q
SADDLE = (ROTATION @ CURVED.double() @ ROTATION.T).float()
CONVEX = {
    "square": lambda x: x.square().sum(1),
    "norm": lambda x: x.norm(dim=1),
    "largest": lambda x: x.amax(1),
    "log-sum-exp": lambda x: x.logsumexp(1),
    "affine": lambda x: x.sum(1) - 7,
    "constant": lambda x: 0 * x.sum(1),
    "far from zero": lambda x: 1e4 + x.square().sum(1),
    "of a large constant": lambda x: (1e4 + x.square().sum(1)) - 1e4,
    "steep": lambda x: (8 * x).sum(1).exp(),
    "two outputs": lambda x: torch.stack([x.square().sum(1), x[:, 0].abs()], 1),
}
NOT_CONVEX = {
    "concave": lambda x: -x.square().sum(1),
    "concave kink": lambda x: 5 * x[:, 0] - 0.1 * F.relu(x[:, 1]),
    "saddle": lambda x: ((x @ SADDLE.to(x.dtype)) * x).sum(1),
    "sine": lambda x: x.sum(1).sin(),
    "narrow dent": lambda x: x.square().sum(1) - 0.2 * (-100 * x[:, 0].square()).exp(),
    "second output": lambda x: torch.stack([x.square().sum(1), -x[:, 0].abs()], 1),
}
DTYPES = [torch.bfloat16, torch.float32, torch.float64]


def points(dtype=torch.float32, size=4, rows=200, seed=0):
    return torch.randn(rows, size, generator=generator(seed), dtype=torch.float64).to(dtype)


def exact_gap(function, pair):
    """Of the pair of points that was returned, in float64."""
    first, second = (point.double() for point in pair)
    with torch.no_grad():
        return function((first + second) / 2) - (function(first) + function(second)) / 2


@pytest.mark.parametrize("function", CONVEX.values(), ids=CONVEX)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_convex_functions_give_no_alarm(function, dtype, seed):
    report = is_convex(function, points(dtype, seed=seed), generator=generator(seed))
    assert report
    assert report.pair is None
    assert report.gap <= report.tolerance


@pytest.mark.parametrize("function", NOT_CONVEX.values(), ids=NOT_CONVEX)
@pytest.mark.parametrize("dtype", DTYPES[1:], ids=str)
def test_violations_are_found_and_shown_by_a_pair(function, dtype):
    report = is_convex(function, points(dtype))
    assert not report
    shown = exact_gap(function, report.pair).reshape(-1)[report.output]
    assert float(shown) == pytest.approx(report.gap, abs=report.tolerance)
    assert report.gap > report.tolerance > 0
    assert f"output {report.output} is" in str(report)


def test_the_smallest_curvature_is_the_eigenvalue_of_the_hessian_in_its_direction():
    report = is_convex(NOT_CONVEX["saddle"], points(torch.float64))
    assert report.curvature == pytest.approx(-0.5, abs=1e-6)
    assert float(report.direction @ ROTATION[:, 3]) ** 2 == pytest.approx(1, abs=1e-6)
    size = 60  # more than there are steps of Lanczos' method
    basis = torch.linalg.qr(points(torch.float64, size, size)).Q
    eigenvalues = torch.linspace(1, 3, size, dtype=torch.float64)
    eigenvalues[7] = -1
    hessian = basis @ eigenvalues.diag() @ basis.T
    report = is_convex(lambda x: ((x @ hessian) * x).sum(1) / 2, points(torch.float64, size))
    assert report.curvature == pytest.approx(-1, abs=1e-3)
    assert float(report.direction @ basis[:, 7]) ** 2 == pytest.approx(1, abs=1e-2)


def test_the_curvature_of_a_network_is_that_of_torch():
    network = randomised(MLP([3, 8, 8, 1], "softplus", convex=False).double())
    report = is_convex(network, points(torch.float64, 3))
    assert not report
    at = report.curved_at
    hessian = torch.autograd.functional.hessian(lambda x: network(x).sum(), at).reshape(3, 3)
    assert report.curvature == pytest.approx(float(torch.linalg.eigvalsh(hessian)[0]), abs=1e-9)
    torch.testing.assert_close(hessian @ report.direction, report.curvature * report.direction)


def test_a_direction_that_hardly_any_pair_shows_is_found_by_the_curvature():
    """Convex in 39 of 40 dimensions, and the 40th is small."""

    def function(x):
        return 10 * x[:, 1:].square().sum(1) - 0.1 * x[:, 0].square()

    inputs = points(torch.float64, 40)
    first, second = inputs[:100], inputs[100:]
    gaps = function((first + second) / 2) - (function(first) + function(second)) / 2
    assert (gaps < 0).all()
    report = is_convex(function, inputs)
    assert report.curvature == pytest.approx(-0.2, abs=1e-3)
    assert not report
    assert report.gap > 0


def test_functions_without_second_derivatives_are_tested_by_pairs_alone():
    def function(x, sign=1):
        with torch.no_grad():
            return sign * x.square().sum(1)

    assert is_convex(function, points())
    report = is_convex(lambda x: function(x, -1), points())
    assert not report
    assert report.curvature is None
    assert "smallest curvature: unknown" in str(report)
    assert is_convex(MLP([4, 5, 1]), points()).curvature == 0  # piecewise linear


@settings(deadline=None, max_examples=60)
@example("relu", [11, 11, 10, 10, 11, 11], "square", torch.float32, "randomised", 1e-3, 115)
@given(
    activation=st.sampled_from(ACTIVATIONS),
    hidden=st.lists(st.integers(1, 40), min_size=1, max_size=8),
    positivity=st.sampled_from(sorted(POSITIVITY)),
    dtype=st.sampled_from(DTYPES),
    start=st.sampled_from(["default", "randomised", "initialised"]),
    scale=st.sampled_from([1e-3, 1.0, 1e3]),
    seed=st.integers(0, 1000),
)
def test_rounding_gives_no_alarm_for_networks(
    activation, hidden, positivity, dtype, start, scale, seed
):
    """Also for those whose signal explodes or drowns in a constant, and inputs of any size.

    That of the example is lost in float32: its values move less than they are rounded.
    """
    network = MLP([4, *hidden, 2], activation, positivity=positivity)
    if start == "randomised":
        randomised(network, seed)
    elif start == "initialised":
        init_icnn_(network, activation=activation, generator=generator(seed))
    inputs = scale * points(seed=seed)
    report = is_convex(network.to(dtype), inputs.to(dtype), pairs=200, generator=generator(seed))
    assert report, report
    assert report.negative_weights == ()


class OfItsOwnType(nn.Module):
    """A network that cannot be evaluated in float64."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        return self.network(x.float())


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("seed", range(5))
def test_networks_that_name_their_data_type_are_tested_in_it(activation, seed):
    network = OfItsOwnType(MLP([4, 30, 30, 30, 30, 1], activation))
    init_icnn_(network, activation=activation, generator=generator(seed))
    report = is_convex(network, points(seed=seed), generator=generator(seed))
    assert report
    assert report.tolerance > 1e-7
    randomised(network.network, seed)
    assert is_convex(network, points(seed=seed), generator=generator(seed))
    assert not is_convex(network, points(seed=seed), call=lambda network, x: -network(x))
    assert next(network.parameters()).dtype == torch.float32


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_planted_negative_weight_is_named_whether_or_not_it_shows(activation):
    network = init_icnn_(
        MLP([4, 30, 30, 1], activation), activation=activation, generator=generator()
    )
    with torch.no_grad():
        network.layers[2].weight[0, 4] = -10.0
    report = is_convex(network, points())
    assert not report
    assert float(exact_gap(copy.deepcopy(network).double(), report.pair)) > 0
    (found,) = report.negative_weights
    assert (found.layer, found.count, found.of, found.smallest) == ("layers.2", 1, 30, -10.0)
    assert "negative weights: layers.2: 1 of 30, the smallest -10" in str(report)

    with torch.no_grad():
        network.layers[2].weight[0, 4] = -1e-9
    report = is_convex(network, points())
    assert report  # too little to show
    assert len(report.negative_weights) == 1


class PartlyConvex(nn.Module):
    def forward(self, x, y, z):
        return (y.square() * x.exp()).sum(1) + z.abs().sum((1, 2)) - x.square().sum(1)

    def slope(self, x, y, z):
        return 2 * (y * x.exp()).sum(1)


@pytest.mark.parametrize(
    ("convex", "expected"),
    [(1, True), (2, True), ([1, 2], True), (0, False), ([0, 1], False), ([0, 1, 2], False)],
)
def test_convexity_in_some_of_the_arguments(convex, expected):
    inputs = points(seed=1), points(seed=2), points(size=6, seed=3).unflatten(1, (2, 3))
    report = is_convex(PartlyConvex(), inputs, convex=convex)
    assert bool(report) == expected
    if not expected:
        network = PartlyConvex()
        first, second = report.pair
        middle = [(a + b) / 2 for a, b in zip(first, second, strict=True)]
        gap = network(*middle) - (network(*first) + network(*second)) / 2
        assert float(gap) == pytest.approx(report.gap, rel=1e-5)  # in float32
        for index, (a, b) in enumerate(zip(first, second, strict=True)):
            moved = index == convex if isinstance(convex, int) else index in convex
            assert torch.equal(a, b) != moved


def test_another_function_of_the_network_can_be_tested():
    network, inputs = (
        PartlyConvex(),
        (points(seed=1), points(seed=2), points().unflatten(1, (2, 2))),
    )
    assert is_convex(network, inputs, convex=1, call=PartlyConvex.slope)
    assert not is_convex(network, inputs, convex=0, call=PartlyConvex.slope)


@pytest.mark.parametrize(
    ("columns", "expected"), [(slice(2, 4), True), ([3], True), (slice(0, 2), False), (..., False)]
)
def test_convexity_in_a_part_of_a_concatenation(columns, expected):
    """Of a state and an action, say."""

    def critic(joint):
        state, action = joint.split(2, 1)
        return (action.square() * state.exp() - state.square()).sum(1)

    report = is_convex(critic, points(), convex={0: columns})
    assert bool(report) == expected
    assert len(report.direction) == points()[:, columns].shape[1]


def test_images_are_tested_in_their_own_shape():
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1),
        nn.Softplus(),
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(36, 1),
    )
    with torch.no_grad():
        network[4].weight.abs_()
    images = points(size=36).unflatten(1, (1, 6, 6))
    assert is_convex(network, images)
    with torch.no_grad():
        network[4].weight.neg_()
    report = is_convex(network, images)
    assert not report
    assert report.pair[0].shape == (1, 1, 6, 6)
    assert report.direction.shape == (36,)


def test_the_network_is_left_as_it_was():
    network = nn.Sequential(
        nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.9), nn.Linear(8, 1)
    )
    network[1].eval()
    network[2].register_forward_hook(lambda module, inputs, output: torch.rand(1) and output)
    modes = [module.training for module in network.modules()]
    state = torch.get_rng_state()
    with unchanged(network):
        first, again = (is_convex(network, points()) for _ in range(2))
    assert [module.training for module in network.modules()] == modes
    assert all(parameter.grad is None for parameter in network.parameters())
    assert torch.equal(state, torch.get_rng_state())
    assert (first.gap, first.curvature) == (again.gap, again.curvature)


class SlopeOf(nn.Module):
    """A gradient, as networks of forces and of transport maps return it."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, x):
        x = x if x.requires_grad else x.requires_grad_()
        return torch.autograd.grad(self.network(x).sum(), x, create_graph=True)[0]


@pytest.mark.parametrize("gradients", [True, False])
def test_networks_that_differentiate_themselves_and_callers_without_gradients(gradients):
    network = SlopeOf(randomised(MLP([4, 9, 1], "squared_relu")))
    with torch.set_grad_enabled(gradients):
        assert is_convex(network, points(), call=lambda network, x: network.network(x))
        assert not is_convex(network, points())


def test_a_difference_is_not_convex_though_its_weights_are_not_negative():
    network = ConvexDifference(MLP([4, 20, 1], "softplus"), MLP([4, 20, 1], "softplus"))
    report = is_convex(init_icnn_(network, activation="softplus", generator=generator()), points())
    assert not report
    assert report.negative_weights == ()


@pytest.mark.parametrize(
    ("function", "inputs", "options", "message"),
    [
        (MLP([4, 3, 1]), points(rows=1), {}, "same number of rows, at least two"),
        (MLP([4, 3, 1]), points()[:1].expand(9, 4), {}, "inputs do not vary"),
        (MLP([4, 3, 1]), points(), {"convex": 1}, "convex must name floating-point arguments"),
        (MLP([4, 3, 1]), points(), {"convex": []}, "convex must name"),
        (MLP([4, 3, 1]), points(), {"pairs": 0}, "pairs must be an integer"),
        (lambda x: x.sum(), points(), {}, r"one value, or vector, a row; got \[\] for"),
        (lambda x: (), points(), {}, r"got tuple .*call="),
        (lambda x: x.log(), points(), {}, "not finite"),
        (lambda x, y: x, (points(), points(rows=3)), {}, r"same number of rows.*\[3, 200\]"),
        (stack_networks([MLP([4, 3, 1])] * 200), points().unsqueeze(1), {}, "unstack"),
    ],
)  # fmt: skip
def test_what_cannot_be_tested_is_refused(function, inputs, options, message):
    with pytest.raises(ValueError, match=message):
        is_convex(function, inputs, **options)


def initialised(activation, width=32, depth=3, dtype=torch.float32, rows=256, **options):
    """Warnings of init_icnn_ about a network of any activation."""
    torch.manual_seed(0)
    layers = [nn.Linear(8, width), activation()]
    for _ in range(depth - 1):
        layers += [nn.Linear(width, width), activation()]
    network = nn.Sequential(*layers, nn.Linear(width, 1)).to(dtype)
    x = torch.randn(rows, 8, generator=torch.Generator().manual_seed(1)).to(dtype)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        init_icnn_(network, x, **options)
    return [message for message in (str(w.message) for w in caught) if "not convex" in message]


def bounded():
    """An activation that is not convex for the outermost of 256 rows alone."""
    return nn.Hardtanh(0.0, 6.5)


@pytest.mark.parametrize(
    "activation",
    [nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish, nn.ReLU6, bounded, nn.Tanh, nn.Tanhshrink],
)
def test_activations_that_are_not_convex_are_told_when_a_network_is_initialised(activation):
    for dtype in (torch.float32, torch.bfloat16):
        assert len(initialised(activation, dtype=dtype)) == 1


@settings(deadline=None, max_examples=60)
@given(
    activation=st.sampled_from([nn.ReLU, nn.Softplus, nn.LeakyReLU, nn.ELU]),
    width=st.integers(8, 48), depth=st.integers(1, 8), rows=st.sampled_from([40, 256]),
    dtype=st.sampled_from([torch.float32, torch.bfloat16]),
    copied=st.booleans(), method=st.sampled_from(["orthogonal", "moments"]),
)  # fmt: skip
def test_networks_that_are_convex_are_initialised_without_that_warning(
    activation, width, depth, rows, dtype, copied, method
):
    # What names its data type cannot be tested in another one.
    options = {} if copied else {"call": lambda network, x: network(x.to(dtype))}
    assert not initialised(activation, width, depth, dtype, rows, method=method, **options)


class Concave(nn.Module):
    """A value that actions maximise: its negative is convex."""

    def __init__(self):
        super().__init__()
        self.cost = MLP([4, 16, 16, 1], "softplus")

    def forward(self, x):
        return -self.cost(x)


def test_a_concave_network_is_told_to_name_its_negative():
    torch.manual_seed(0)
    network = Concave()
    optimizer = torch.optim.SGD(network.parameters(), 1.0)
    said = r"but concave; if it is meant to be, give call=(lambda network, \*inputs: .*)$"
    with pytest.warns(UserWarning, match=said) as caught:
        init_icnn_(network, points())
    with pytest.warns(UserWarning, match=said):
        keep_convex(optimizer, network, inputs=points())
    negative = eval(re.search(said, str(caught[0].message))[1])  # as pasted
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        init_icnn_(network, points(), call=negative)
        keep_convex(optimizer, network, inputs=points(), call=negative)
    with pytest.warns(UserWarning, match="give call=its negative$"):
        init_icnn_(network, points(), call=lambda network, x: network(x))


@pytest.mark.filterwarnings("ignore")  # the output cannot be centred
def test_a_network_that_returns_a_gradient_is_told_what_to_name():
    torch.manual_seed(0)
    network, x = Energy(2), torch.randn(64, INPUTS)
    init_icnn_(network, x)
    assert "name with call= what it differentiates" in str(is_convex(network, x))
    report = is_convex(network, x, call=lambda network, x: network.potential(x))
    assert report
    assert "call=" not in str(report)


def test_the_default_device_of_torch_is_for_the_network_alone():
    network, inputs = MLP([3, 30, 1], "softplus"), torch.randn(40, 3, generator=generator())
    expected = is_convex(network, inputs)
    with torch.device("meta"):
        found = is_convex(network, inputs)
    assert (found.gap, found.curvature) == (expected.gap, expected.curvature)


@pytest.mark.parametrize(("sign", "convex"), [(1, True), (-1, False)])
def test_functions_of_numbers(sign, convex):
    assert bool(is_convex(lambda x: sign * x.square(), torch.randn(50))) == convex


def test_errors_of_functions_that_are_no_networks_stay_their_own():
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes cannot be multiplied"):
        is_convex(lambda x: x @ torch.zeros(3, 1), torch.randn(50, 2))


def test_arguments_of_one_number_for_every_row():
    x, y = torch.randn(64, generator=generator(0)), torch.rand(64, generator=generator(1))
    assert is_convex(lambda x, y: y * x.square(), (x, y))
    assert not is_convex(lambda x, y: y * x.sin(), (x, y))
    assert not is_convex(lambda x, y: x * y, (x, y), convex=(0, 1))


class Rounding(nn.Module):
    """Computes its hidden layer in another type.

    Args:
        dtype: of the hidden layer.
        back: brings what it gives to the type of the rest.
        bend: what comes after it.
    """

    def __init__(self, dtype, back, bend=F.softplus):
        super().__init__()
        self.dtype, self.back, self.bend = dtype, back, bend
        self.first, self.hidden, self.last = nn.Linear(8, 32), nn.Linear(32, 32), nn.Linear(32, 1)
        for layer in (self.hidden, self.last):
            layer.weight.data.abs_()

    def forward(self, x):
        z = F.softplus(self.first(x)).to(self.dtype)
        hidden = F.linear(z, self.hidden.weight.to(self.dtype), self.hidden.bias.to(self.dtype))
        return self.last(self.bend(self.back(hidden, x)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("back", [lambda z, x: z.float(), lambda z, x: z.to(x.dtype)])
@pytest.mark.parametrize("seed", range(3))
def test_rounding_inside_of_a_network_is_no_alarm(dtype, back, seed):
    torch.manual_seed(seed)
    inputs = torch.randn(512, 8)
    assert is_convex(Rounding(dtype, back), inputs)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        init_icnn_(Rounding(dtype, back), inputs)
    assert not is_convex(Rounding(dtype, back, torch.sin), inputs)
