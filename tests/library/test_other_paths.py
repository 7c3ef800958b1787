"""Networks that make other calls with all rows than with the few that are traced."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from convexinit import check_signal, init_icnn_, parameter_groups
from support.foreign_networks import INPUTS, normal
from support.networks import unchanged

FEW = 16  # rows that are traced


class Branch(nn.Module):
    """Adds a layer and a skip connection up, or does something else with many rows."""

    def __init__(self, squared, otherwise):
        super().__init__()
        self.power, self.otherwise = 2 if squared else 1, otherwise
        self.first, self.skip = nn.Linear(INPUTS, 12), nn.Linear(INPUTS, 12)
        self.middle, self.other = nn.Linear(12, 12), nn.Linear(12, 12)
        self.last = nn.Linear(12, 1)

    def forward(self, x):
        z = F.relu(self.first(x))
        zeros = torch.zeros_like(z)
        skipped = self.skip(x) ** self.power
        if len(x) > FEW:
            return self.otherwise(self, z, skipped, zeros)
        return self.last(F.relu(self.middle(z) + skipped))


def ends(network, z, skipped, zeros):
    return z


def has_no_layer(network, z, skipped, zeros):
    return network.last(F.relu(z.sin() + skipped))


def has_a_constant_for_a_layer(network, z, skipped, zeros):
    return network.last(F.relu((zeros + 0) + skipped))


def has_another_layer(network, z, skipped, zeros):
    return network.last(F.relu(network.other(z) + skipped))


def has_another_sum(network, z, skipped, zeros):
    return network.last(F.relu(network.middle(z).sub(skipped)))


def has_no_sum(network, z, skipped, zeros):
    return network.middle(z).max(1)[0]


@pytest.mark.parametrize("squared", [False, True])
@pytest.mark.parametrize(
    "otherwise",
    [
        ends, has_no_layer, has_a_constant_for_a_layer, has_another_layer, has_another_sum,
        has_no_sum,
    ],
)  # fmt: skip
def test_they_are_refused_and_stay(otherwise, squared):
    network, inputs = Branch(squared, otherwise), normal(64, INPUTS, seed=1)
    with unchanged(network):
        with pytest.raises(ValueError, match="makes other calls from one pass to the next"):
            init_icnn_(network, inputs)
        for measure in (check_signal, lambda *of: parameter_groups(of[0], 1e-3, of[1])):
            with pytest.raises(ValueError, match="with all inputs than with a few of them"):
                measure(network, inputs)


class Plain(nn.Linear):
    """Its weight without a gradient where gradients are off."""

    def __init__(self, inputs, outputs, without):
        super().__init__(inputs, outputs)
        self.without = without

    def forward(self, z):
        weight = self.weight if torch.is_grad_enabled() else self.without(self.weight)
        return F.linear(z, weight, self.bias)


@pytest.mark.parametrize(
    "without", [lambda w: w.detach(), lambda w: w.data, lambda w: w.view(w.shape)]
)
def test_a_weight_without_gradients_is_the_same(without):
    inputs = normal(512, INPUTS, seed=1)
    network = nn.Sequential(
        Plain(INPUTS, 12, without), nn.ReLU(), Plain(12, 12, without), nn.ReLU(), nn.Linear(12, 1)
    )
    init_icnn_(network, inputs)
    with torch.no_grad():
        assert check_signal(network, inputs).healthy


def test_a_computed_weight_of_another_shape_is_another_path():
    class Mapped(nn.Linear):
        def forward(self, z):
            return F.linear(z, F.softplus(self.weight), self.bias)

    def has_another_shape(network, z, skipped, zeros):
        return network.last(F.relu(network.other(z) + skipped))

    network, inputs = Branch(False, has_another_shape), normal(64, INPUTS, seed=1)
    network.middle, network.other = Mapped(12, 12), Mapped(12, 1)
    with unchanged(network), pytest.raises(ValueError, match="makes other calls from one pass"):
        init_icnn_(network, inputs)
    with pytest.raises(ValueError, match="with all inputs than with a few of them"):
        check_signal(network, inputs)


def test_few_rows_take_one_path():
    inputs = normal(FEW, INPUTS, seed=1)
    network = Branch(False, ends)
    assert [row.layer for row in check_signal(network, inputs).rows] == ["first", "middle", "last"]


class Equilibrium(nn.Module):
    """The fixed point of a layer: solved for, then one step with gradients."""

    def __init__(self, gradients):
        super().__init__()
        self.gradients = gradients
        self.skip, self.out = nn.Linear(INPUTS, 32), nn.Linear(32, 1)
        self.convex = nn.Linear(32, 32, bias=False)
        nn.init.uniform_(self.convex.weight, 0, 1 / 32)

    def step(self, z, x):
        return F.softplus(self.convex(z) + self.skip(x))

    def after_steps(self, x, steps):
        z = x.new_zeros(len(x), 32)
        for _ in range(steps):
            z = self.step(z, x)
        return self.out(z)

    def forward(self, x):
        z, before = x.new_zeros(len(x), 32), torch.ones(())
        with torch.set_grad_enabled(self.gradients):
            while (z - before).norm() > 1e-4 * z.norm():
                z, before = self.step(z, x), z
        return self.out(self.step(z, x))


@pytest.mark.parametrize(
    ("gradients", "message"),
    [
        (False, "convex: it is computed without gradients .* call=lambda network, x: network.aft"),
        (True, "other calls from one pass to the next.* call="),
    ],
)
def test_of_a_fixed_point_a_few_steps_are_filled(gradients, message):
    torch.manual_seed(0)
    network, inputs = Equilibrium(gradients), normal(1024, INPUTS, seed=1)
    with unchanged(network), pytest.raises(ValueError, match=message):
        init_icnn_(network, inputs)
    with pytest.warns(UserWarning, match="set at its first use: convex"):
        init_icnn_(network, inputs, call=lambda network, x: network.after_steps(x, 10))
    with torch.no_grad():
        output = network(inputs)
    assert float(output.var()) == pytest.approx(1, abs=0.02)
    assert float(output.mean()) == pytest.approx(0, abs=0.02)
