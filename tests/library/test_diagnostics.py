"""The signal of networks, layer by layer: its measures, its verdicts, and what it leaves alone."""

import importlib
import math
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from convexinit import CNN, MLP, PICNN, ConvexLinear, check_signal, init_icnn_
from convexinit.stacking import stack_networks
from support.foreign_networks import FOREIGN, Ensemble, Hypernetwork
from support.networks import generator, randomised, unchanged


def batch(size=4, rows=300, seed=0):
    return torch.randn(rows, size, generator=generator(seed))


def verdicts(network, inputs, **options):
    report = check_signal(network, inputs, **options)
    return {row.layer: row.verdict for row in report.rows}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_measures_are_those_of_the_pre_activations(dtype):
    network = randomised(MLP([4, 12, 10, 3], "softplus", skip=True)).to(dtype)
    inputs = batch().to(dtype)
    report = check_signal(network, inputs)
    assert [row.layer for row in report.rows] == ["layers.0", "layers.1", "layers.2"]
    signals = network.pre_activations(inputs)
    for index, (row, signal) in enumerate(zip(report.rows, signals, strict=True)):
        values = signal.detach().double().numpy()
        assert row.mean == pytest.approx(values.mean(), rel=1e-5)
        assert row.std == pytest.approx(np.sqrt(values.var(0).mean()), rel=1e-5)
        pairs = np.corrcoef(values, rowvar=False)[np.triu_indices(values.shape[1], 1)]
        assert row.correlation == pytest.approx(pairs.mean(), rel=1e-4, abs=1e-6)
        assert row.operation == "linear"
        assert row.bias == f"layers.{index}.bias"
        if index == 0:
            assert math.isnan(row.convex)
            assert math.isnan(row.skip)
            assert row.map == ""
            continue
        convex, skip = (
            part.detach().double().var(0, correction=0).mean()
            for part in (
                network.layers[index](F.softplus(signals[index - 1])),
                network.skips[index - 1](inputs),
            )
        )
        assert row.convex == pytest.approx(float(convex / (convex + skip)), rel=1e-4)
        assert row.skip == pytest.approx(1 - row.convex)
        assert row.map == "projection"
        assert row.gain == pytest.approx(1.0)
    output = network(inputs)
    signs = torch.randint(2, output.shape, generator=generator()) * 2 - 1
    (output * signs).sum().div(len(inputs)).backward()
    for row, layer in zip(report.rows, network.layers, strict=True):
        expected = float(layer.weight.grad.norm() / layer.weight.detach().norm())
        assert row.gradient == pytest.approx(expected, rel=1e-4)


def test_members_of_an_ensemble_are_measured_each_by_itself():
    torch.manual_seed(0)
    network, inputs = Ensemble(lambda z, w, b: z @ w + b), batch(6)
    with torch.no_grad():
        network.biases[1].uniform_(0, 5)
        signal = inputs.expand(3, -1, -1) @ network.weights[0]
        signal = F.softplus(signal) @ network.weights[1] + network.biases[1][:, None]
    row = check_signal(network, inputs).rows[1]
    assert row.bias == "biases.1"
    assert row.mean == pytest.approx(float(signal.mean()))
    assert row.std == pytest.approx(float(signal.var(1, correction=0).mean().sqrt()))


def test_dead_units_are_those_that_no_gradient_reaches():
    torch.manual_seed(0)
    network = MLP([4, 10, 8, 1])
    with torch.no_grad():
        network.layers[0].bias[:3] = -100.0
        network.layers[1].bias[:6] = -100.0
    rows = check_signal(network, batch()).rows
    silent = [(s <= 0).all(0).double().mean() for s in network.pre_activations(batch())]
    assert rows[1].dead == pytest.approx(float(silent[1]))
    assert rows[0].dead >= float(silent[0])  # or nothing behind a unit is alive with it
    assert rows[2].dead == 0
    assert f"{rows[1].dead:.0%} of the units are dead" in rows[1].verdict


def test_what_follows_a_layer_without_changing_it_hides_no_dead_units():
    network = nn.Sequential(
        nn.Linear(4, 8), nn.Dropout(0.1), nn.ReLU(), nn.Linear(8, 1), nn.Dropout(0.1)
    )
    nn.init.constant_(network[0].bias, -100.0)
    assert [row.dead for row in check_signal(network, batch()).rows] == [1, 0]


def test_convolutions_are_measured_by_channel():
    network = init_icnn_(CNN((1, 8, 8), [6, 6, 6], 2), generator=generator())
    inputs = batch(64)
    report = check_signal(network, inputs)
    assert [row.operation for row in report.rows] == ["conv2d"] * 3 + ["linear"]
    for row, signal in zip(report.rows, network.pre_activations(inputs), strict=True):
        channels = signal.detach().double().movedim(1, -1).flatten(0, -2)
        assert row.mean == pytest.approx(float(channels.mean()), rel=1e-4, abs=1e-6)
        assert row.std == pytest.approx(
            float(channels.var(0, correction=0).mean().sqrt()), rel=1e-3
        )


class Parts(nn.Module):
    """A convex layer beside a skip connection, without a bias of its own."""

    def __init__(self, bias=True, squared=False):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(4, 30)
        self.between = nn.ModuleList([nn.Linear(30, 30, bias=False) for _ in range(2)])
        self.skip = nn.ModuleList([nn.Linear(4, 30, bias=bias) for _ in range(2)])
        self.out = nn.Linear(30, 1)
        self.squared = squared
        with torch.no_grad():
            for layer in (*self.between, self.out):
                layer.weight.copy_(torch.rand(layer.weight.shape, generator=generator()) / 15)

    def forward(self, x):
        z = F.softplus(self.first(x))
        for between, skip in zip(self.between, self.skip, strict=True):
            shift = skip(x).square() if self.squared else skip(x)
            z = F.softplus(between(z) + shift)
        return self.out(z)


def test_the_parameter_that_could_centre_is_named_wherever_it_is():
    network = Parts()
    nn.init.constant_(network.skip[1].bias, 5.0)
    found = verdicts(network, batch())
    assert found["between.1"].startswith("not centred; `skip.1.bias` could do it")
    nn.init.constant_(network.skip[1].bias, -0.7)
    assert "centred" not in verdicts(network, batch())["between.1"]
    assert "no parameter shifts" in verdicts(Parts(bias=False), 3 + batch())["between.0"]
    assert "no parameter shifts" in verdicts(Parts(squared=True), batch())["between.1"]


def test_signals_that_explode_or_vanish_are_said_to_by_their_factor():
    network = nn.Sequential(
        nn.Linear(4, 30), nn.ReLU(), ConvexLinear(30, 30), nn.ReLU(), nn.Linear(30, 1)
    )
    init_icnn_(network, batch(), generator=generator())
    assert check_signal(network, batch()).healthy
    with torch.no_grad():
        network[2].weight *= 44
        network[2].bias *= 44
    report = check_signal(network, batch())
    ratio = report.rows[1].std / report.rows[0].std
    assert report.rows[1].verdict == f"explodes, {ratio:.3g} times a layer"
    assert not report.healthy
    with torch.no_grad():
        network[2].weight /= 44**2
        network[2].bias /= 44**2
    report = check_signal(network, batch())
    assert (
        report.rows[1].verdict
        == f"vanishes, by {report.rows[0].std / report.rows[1].std:.3g} a layer"
    )


def test_other_verdicts():
    network = Parts()
    with torch.no_grad():
        network.between[0].weight *= 0.01
    assert "convex path carries a constant" in verdicts(network, batch())["between.0"]

    network = MLP([4, 30, 30, 1])
    nn.init.constant_(network.layers[1].weight, 0.1)
    assert "units are alike (correlation 1.000)" in verdicts(network, batch())["layers.1"]

    nn.init.constant_(network.layers[0].bias, -1e3)
    assert verdicts(network, batch())["layers.1"] == "does not vary"

    nn.init.constant_(network.layers[1].bias, torch.inf)
    assert verdicts(network, batch())["layers.1"] == "not finite"


@pytest.mark.parametrize("name", FOREIGN)
def test_networks_of_other_people_are_measured_and_left_alone(name):
    torch.manual_seed(0)
    kind = FOREIGN[name]
    network, inputs = kind.build(kind.depth), kind.inputs(200, 0)
    options = {key: value for key, value in kind.options.items() if key in ("convex", "call")}
    modes = [module.training for module in network.modules()]
    trained = [parameter.requires_grad for parameter in network.parameters()]
    state = torch.get_rng_state()
    with unchanged(network):
        report = check_signal(network, inputs, **options)
    assert [module.training for module in network.modules()] == modes
    assert [parameter.requires_grad for parameter in network.parameters()] == trained
    assert all(parameter.grad is None for parameter in network.parameters())
    assert torch.equal(state, torch.get_rng_state())
    constrained = [row for row in report.rows if row.map]
    assert len(constrained) >= 2
    for row in report.rows:
        assert math.isfinite(row.mean)
        assert row.std > 0
        assert row.gradient > 0
    assert all(0 <= row.convex <= 1 and row.convex + row.skip == 1 for row in constrained)


def test_gradients_of_a_network_that_returns_one_are_of_what_it_differentiates():
    torch.manual_seed(0)
    network, (inputs,) = FOREIGN["gradient"].build(3), FOREIGN["gradient"].inputs(200, 0)
    report = check_signal(network, inputs)
    assert str(report).splitlines()[-1].startswith("the network returns a gradient: dead units")
    network.potential(inputs).sum().backward()
    for row in report.rows:
        weight = network.get_parameter(f"{row.layer}.weight")
        assert row.gradient == pytest.approx(
            float(weight.grad.norm() / weight.detach().norm()), rel=1e-4
        )
        assert row.dead == 0


def test_outputs_that_cannot_be_differentiated_are_measured_and_a_line_says_what_to_do():
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = randomised(MLP([4, 8, 8, 1]))

        def forward(self, x):
            return {"value": self.net(x)}

    report = check_signal(Wrapped(), batch())
    assert "the network returns dict that cannot be differentiated" in str(report)
    assert "call=" in report.note
    assert all(math.isfinite(row.std) and math.isnan(row.gradient) for row in report.rows)
    report = check_signal(Wrapped(), batch(), call=lambda network, x: network.net(x))
    assert report.note == ""
    assert all(row.gradient > 0 for row in report.rows)


def test_normalisations_get_their_first_batch_unless_they_have_seen_it():
    kind = FOREIGN["ActNorm after"]
    torch.manual_seed(0)
    network, (inputs,) = kind.build(kind.depth), kind.inputs(200, 0)
    for row in check_signal(network, inputs).rows[:-1]:
        assert (row.mean, row.std) == (pytest.approx(0, abs=1e-3), pytest.approx(1, abs=0.01))
    assert not any(norm.initialized for norm in network.norm)
    network(100 * inputs)  # it has seen other rows, on which it was trained, say
    with unchanged(network):
        rows = check_signal(network, inputs).rows
    assert rows[0].std == pytest.approx(0.01, rel=0.1)


@pytest.mark.parametrize(
    "name", ["softplus property", "elu plus one", "exp in forward", "softplus over root"]
)
def test_what_explodes_by_default_is_healthy_once_it_is_initialised(name):
    kind = FOREIGN[name]
    torch.manual_seed(0)
    network, inputs = kind.build(kind.depth), kind.inputs(300, 0)
    assert "explodes" in str(check_signal(network, inputs))
    init_icnn_(network, inputs, generator=generator())
    for row in check_signal(network, kind.inputs(300, 1)).rows[1:-1]:
        assert abs(row.mean) < 0.15
        assert row.std == pytest.approx(1, abs=0.15)
        assert "explodes" not in row.verdict


def test_a_partially_convex_network_counts_its_context_beside_the_convex_path():
    network = init_icnn_(PICNN([4, 20, 20, 1], 3), generator=generator())
    report = check_signal(network, (batch(), batch(3, seed=1)))
    assert [row.layer for row in report.rows] == ["layers.0", "layers.1", "layers.2"]
    assert all(0 < row.skip < 1 for row in report.rows[1:])


def test_layers_that_cannot_be_initialised_are_in_the_table():
    report = check_signal(Hypernetwork(3), (batch(3, seed=1), batch(6)), convex=1)
    assert "hypernetwork" in str(report)
    assert not report.healthy


def test_a_network_without_gradients_has_one_row_a_layer_that_says_so():
    class Silent(MLP):
        @torch.no_grad()
        def forward(self, x):
            return super().forward(x)

    report = check_signal(Silent([4, 8, 8, 1]), batch())
    assert [row.layer for row in report.rows] == ["layers.0", "layers.1", "layers.2"]
    assert all("computed without gradients" in row.verdict for row in report.rows)
    assert "a tensor that cannot be differentiated" in report.note


def test_text_has_one_line_a_layer_and_columns_in_line():
    report = check_signal(MLP([4, 8, 1]), batch())
    header, *lines = str(report).splitlines()
    assert header.split() == [
        "layer", "operation", "map", "gain", "bias", "mean", "std", "correlation", "convex", "skip",
        "dead", "gradient", "verdict",
    ]  # fmt: skip
    assert len(lines) == 2
    assert all(line[header.index("operation") :].startswith("linear") for line in lines)
    assert "nan" not in str(report)


def test_a_frame_and_a_figure_have_all_layers():
    report = check_signal(MLP([4, 8, 8, 1], skip=True), batch())
    frame = report.to_frame()
    assert list(frame["layer"]) == ["layers.0", "layers.1", "layers.2"]
    assert frame["std"].tolist() == [row.std for row in report.rows]
    importlib.import_module("matplotlib").use("agg")
    figure = report.plot()
    signal, shares, gradients = figure.axes
    assert signal.lines[0].get_ydata().tolist() == [row.mean for row in report.rows]
    assert len(shares.lines) == 3
    assert gradients.get_yscale() == "log"
    importlib.import_module("matplotlib.pyplot").close(figure)


def test_a_figure_without_gradients_has_no_logarithms_of_them():
    report = check_signal(MLP([4, 8, 1]), batch(), call=lambda network, x: network(x).detach())
    importlib.import_module("matplotlib").use("agg")
    figure = report.plot()
    assert figure.axes[2].get_yscale() == "linear"
    importlib.import_module("matplotlib.pyplot").close(figure)


@pytest.mark.parametrize(("method", "package"), [("to_frame", "pandas"), ("plot", "matplotlib")])
def test_a_missing_package_is_named(method, package, monkeypatch):
    def missing(name):
        raise ImportError(name)

    report = check_signal(MLP([4, 8, 1]), batch())
    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ImportError, match=rf"{method}\(\) needs {package}; pip install {package}"):
        getattr(report, method)()


@pytest.mark.parametrize(
    ("network", "inputs", "message"),
    [
        (stack_networks([MLP([4, 3, 1])] * 2), torch.zeros(2, 5, 4), "stack of networks"),
        (nn.ReLU(), batch(), "no linear operation with a parameter depends on the inputs"),
        (MLP([4, 3, 1]), batch(rows=1), "at least two"),
        (MLP([4, 3, 1]), batch(5), "cannot be called with these inputs"),
        (MLP([4, 3, 1]), (), "must be a tensor or a tuple of tensors"),
        (MLP([4, 3, 1]), torch.tensor(1.0), "must have rows"),
        (MLP([4, 3, 1]), batch().to_sparse(), "must be dense tensors with values"),
        (MLP([4, 3, 1]), batch().to("meta"), "must be dense tensors with values"),
    ],
)
def test_what_cannot_be_checked_is_refused(network, inputs, message):
    with unchanged(network), pytest.raises(ValueError, match=message):
        check_signal(network, inputs)


def test_biases_that_differ_between_positions_are_no_skip_connection():
    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.last = nn.Linear(5, 16), nn.Linear(16, 1)
            self.weight = nn.Parameter(torch.rand(4, 4, 4, 4))
            self.bias = nn.Parameter(10 * torch.randn(4, 4))

        def forward(self, x):
            z = F.softplus(self.first(x)).view(-1, 4, 4)
            heads = torch.einsum("nij,ijkl->nkl", z, self.weight) + self.bias
            return self.last(F.softplus(heads.flatten(1)))

    torch.manual_seed(0)
    row = check_signal(Heads(), torch.randn(100, 5)).rows[1]
    assert (row.convex, row.skip) == (1, 0)


def test_layers_may_read_means_over_rows():
    class Shared(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.mean, self.last = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, 1)

        def forward(self, x):
            z = F.softplus(self.first(x))
            return self.last(z + F.softplus(self.mean(z.mean(0, keepdim=True))))

    report = check_signal(Shared(), torch.randn(100, 5))
    assert [row.layer for row in report.rows] == ["first", "mean", "last"]


def test_what_nothing_bends_need_not_be_centred():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Linear(8, 6, bias=False), nn.Linear(6, 16), nn.Softplus(), ConvexLinear(16, 1)
    )
    inputs = torch.rand(512, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        init_icnn_(network, inputs, generator=generator())
    assert not any(row.verdict for row in check_signal(network, inputs).rows)
