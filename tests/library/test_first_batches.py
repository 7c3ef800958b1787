"""Modules that initialise themselves on the first batch that they see."""

import copy
import re
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from convexinit import ConvexDifference, check_signal, init_icnn_
from support.foreign_networks import INPUTS, ActNorm, normal
from support.networks import generator, unchanged

X, FRESH = normal(1024, INPUTS, seed=1), normal(4096, INPUTS, seed=2)
UNITS = 32


class Scaled(nn.Module):
    """Divides by a multiple of the standard deviation of its first batch; also out of training."""

    def __init__(self, multiple):
        super().__init__()
        self.multiple, self.scale = multiple, nn.Parameter(torch.ones(UNITS))
        self.register_buffer("is_init", torch.tensor(False))

    def forward(self, s):
        if not self.is_init.item():
            self.scale.data = 1 / (self.multiple * s.detach().std(0))
            self.is_init.fill_(True)
        return s * self.scale


class SelfScaled(nn.Module):
    """A layer that scales and shifts its own results by its first batch."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.rand(UNITS, UNITS))
        self.gain, self.bias = nn.Parameter(torch.ones(UNITS)), nn.Parameter(torch.zeros(UNITS))
        self.initialised = False

    def forward(self, z):
        result = F.linear(z, F.softplus(self.weight))
        if self.training and not self.initialised:
            self.gain.data = 1 / result.detach().std(0)
            self.bias.data = -result.detach().mean(0) * self.gain.data
            self.initialised = True
        return result * self.gain + self.bias


class Layers(nn.Module):
    """``join(network, k, z, x)`` is the pre-activation of hidden layer ``k``."""

    def __init__(self, join, depth=3, **parts):
        super().__init__()
        torch.manual_seed(0)
        self.join = join
        self.first = nn.Linear(INPUTS, UNITS)
        self.convex = nn.ModuleList(nn.Linear(UNITS, UNITS) for _ in range(depth))
        self.skip = nn.ModuleList(nn.Linear(INPUTS, UNITS) for _ in range(depth))
        self.norm = nn.ModuleList(ActNorm(UNITS) for _ in range(depth))
        self.last = nn.Linear(UNITS, 1)
        for name, part in parts.items():
            setattr(self, name, part)

    def signals(self, x):
        """Pre-activations of hidden layers, and the output."""
        signals, z = [], F.softplus(self.first(x))
        for k in range(len(self.convex)):
            signals.append(self.join(self, k, z, x))
            z = F.softplus(signals[-1])
        return [*signals, self.last(z)]

    def forward(self, x):
        return self.signals(x)[-1]


def moments(network, x=FRESH):
    """Mean and variance of each pre-activation."""
    with torch.no_grad():
        return [(float(s.mean()), float(s.var(0).mean())) for s in network.eval().signals(x)]


def initialised(network, x=X, **options):
    """The network after ``init_icnn_``, and its warnings."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        init_icnn_(network, x, generator=generator(), **options)
    return network, [str(one.message) for one in caught]


JOINS = {
    "after the sum": lambda n, k, z, x: n.norm[k](n.convex[k](z) + n.skip[k](x)),
    "before the layer": lambda n, k, z, x: n.convex[k](n.norm[k](z)) + n.skip[k](x),
    "beside the skip": lambda n, k, z, x: n.norm[k](n.convex[k](z)) + n.skip[k](x),
    "called as a function": lambda n, k, z, x: n.norm[k].forward(n.convex[k](z)),
    "with a name": lambda n, k, z, x: n.norm[k](x=n.convex[k](z)),
}


@pytest.mark.parametrize("join", JOINS.values(), ids=JOINS)
@pytest.mark.parametrize("method", ["orthogonal", "moments"])
def test_all_pre_activations_are_at_the_target(join, method):
    network, _ = initialised(Layers(join), method=method)
    assert all(one.initialized for one in network.norm)
    for mean, variance in moments(network):
        assert abs(mean) < 0.1
        assert variance == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("join", JOINS.values(), ids=JOINS)
def test_what_a_normalisation_has_is_that_of_the_batch_in_the_network_as_it_is_then(join):
    """The first batch once more, when all weights are filled, changes nothing."""
    network, _ = initialised(Layers(join))
    left = {name: value.clone() for name, value in network.state_dict().items()}
    for one in network.norm:
        one.initialized.zero_()
    network.train()(X)
    for name, value in network.state_dict().items():
        assert torch.allclose(value, left[name], atol=1e-4), name


def test_what_a_module_makes_of_its_first_batch_is_reported():
    def join(network, k, z, x):
        return network.scales[k](network.convex[k](z) + network.skip[k](x))

    scales = nn.ModuleList([Scaled(1.0), Scaled(3.0), Scaled(1.0)])
    network, (message,) = initialised(Layers(join, scales=scales))
    (_, variance), (_, third), (_, after), _ = moments(network, X)
    assert re.search(f"convex.1 has the mean .* the variance {third:.3g}, as a normal", message)
    assert third == pytest.approx(1 / 9, rel=0.01)
    assert variance == pytest.approx(after) == pytest.approx(1, rel=0.01)


def test_a_normalisation_that_several_layers_share_is_that_of_the_first():
    network, messages = initialised(Layers(lambda n, k, z, x: n.norm[0](n.convex[k](z))))
    (mean, variance), *later = moments(network, X)
    assert (mean, variance) == (pytest.approx(0, abs=0.01), pytest.approx(1, rel=0.01))
    for k, (mean, variance) in enumerate(later[:-1], 1):
        reported = [one for one in messages if f"of the layer convex.{k} has" in one]
        assert reported or (abs(mean) < 0.1 and variance == pytest.approx(1, abs=0.2))


def test_layers_that_scale_themselves_are_given_their_first_batch_after_they_are_filled():
    parts = nn.ModuleList(SelfScaled() for _ in range(2))
    network = Layers(lambda n, k, z, x: n.parts[k](z), depth=2, parts=parts)
    network, _ = initialised(network)
    assert all(part.initialised for part in parts)
    for mean, variance in moments(network):
        assert abs(mean) < 0.1
        assert variance == pytest.approx(1, abs=0.2)


def test_a_normalisation_that_no_layer_reads_has_seen_the_whole_batch():
    class Gradient(Layers):
        """Of a potential, normalised afterwards."""

        def forward(self, x):
            x = x if x.requires_grad else x.requires_grad_()
            with torch.enable_grad():
                (slope,) = torch.autograd.grad(super().forward(x).sum(), x, create_graph=True)
            return self.after(slope)

    network = Gradient(JOINS["after the sum"], after=ActNorm(INPUTS))
    network, _ = initialised(network)
    assert torch.allclose(network(X).mean(0), torch.zeros(INPUTS), atol=1e-4)
    for mean, variance in moments(network)[:-1]:
        assert abs(mean) < 0.1
        assert variance == pytest.approx(1, abs=0.2)


def test_an_error_of_a_first_batch_leaves_all_as_it_was():
    class Small(ActNorm):
        def forward(self, x):
            if self.training and len(x) > 500:
                raise RuntimeError("no memory")
            return super().forward(x)

    network = Layers(JOINS["after the sum"])
    network.norm[1] = Small(UNITS)
    with unchanged(network), pytest.raises(ValueError, match=r"cannot be called .*no memory"):
        init_icnn_(network, X)
    assert not network.norm[1]._forward_pre_hooks


class Option(ActNorm):
    """With an option that looks like a flag; ``value`` is by what the result is multiplied."""

    def __init__(self, value):
        super().__init__(UNITS)
        self.init_scale = value

    def forward(self, x):
        return super().forward(x) * (1.0 if self.init_scale is False else self.init_scale)


class OptionAlone(nn.Module):
    def __init__(self, value):
        super().__init__()
        self.init_scale = value

    def forward(self, x):
        return x * (0.1 if self.init_scale is False else self.init_scale)


@pytest.mark.parametrize("value", [True, False, torch.tensor(0.9)], ids=str)
@pytest.mark.parametrize("seen", [False, True])
@pytest.mark.parametrize("kind", [Option, OptionAlone])
def test_options_with_the_name_of_a_flag_are_left_as_they_are(kind, seen, value):
    network = Layers(JOINS["after the sum"])
    network.norm = nn.ModuleList(kind(copy.deepcopy(value)) for _ in range(3))
    if seen:
        network.train()(3 * X)
    network, _ = initialised(network)
    for one in network.norm:
        assert one.init_scale == value
        assert getattr(one, "initialized", True)
    for mean, variance in moments(network):
        assert abs(mean) < 0.1
        assert variance == pytest.approx(1, abs=0.25)


def test_a_check_leaves_flags_that_are_plain_tensors():
    network = Layers(JOINS["after the sum"])
    for one in network.norm:
        del one.initialized
        one.initialized = torch.tensor(0)
    check_signal(network, X)
    assert not any(one.initialized for one in network.norm)


def test_what_is_added_in_place_before_a_normalisation_is_no_layer_of_its_own():
    def join(network, k, z, x):
        s = network.convex[k](z)
        s += network.skip[k](x)
        return network.norm[k](s)

    network, _ = initialised(Layers(join))
    other, _ = initialised(Layers(JOINS["after the sum"]))
    for one, another in zip(network.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, another)


def test_a_normalisation_that_ends_with_an_activation_is_measured_before_it():
    class Bent(ActNorm):
        def forward(self, x):
            return F.softplus(super().forward(x))

    network = Layers(JOINS["after the sum"], first=nn.Sequential(nn.Linear(INPUTS, UNITS)))
    network.norm = nn.ModuleList(Bent(UNITS) for _ in range(3))
    _, messages = initialised(network)
    assert not messages


def test_a_few_rows_that_are_alike_do_not_matter():
    """Also of modules that see their first batch before the pass, and after it."""

    class Standardised(Scaled):
        def __init__(self):
            super().__init__(1.0)

    class Network(Layers):
        def signals(self, x):
            return super().signals(self.inputs.forward(x))

    x = X.clone()
    x[:, 0] = torch.arange(len(x)) >= len(x) / 2
    network, _ = initialised(Network(JOINS["after the sum"], inputs=Standardised()), x)
    for mean, variance in moments(network, x):
        assert abs(mean) < 0.1
        assert variance == pytest.approx(1, abs=0.2)


def test_normalisations_within_modules_that_scale_themselves_start_with_these():
    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.norm = nn.Linear(UNITS, UNITS), ActNorm(UNITS)
            nn.init.uniform_(self.linear.weight)
            self.initialised, self.scale = False, nn.Parameter(torch.ones(UNITS))

        def forward(self, z):
            result = self.norm(self.linear(z))
            if self.training and not self.initialised:
                self.scale.data, self.initialised = 1 / result.detach().std(0), True
            return result * self.scale

    parts = nn.ModuleList(Around() for _ in range(4))
    network, _ = initialised(Layers(lambda n, k, z, x: n.parts[k](z), depth=4, parts=parts))
    for _, variance in moments(network, X)[:-1]:
        assert variance == pytest.approx(1, abs=0.01)


def test_a_network_that_takes_one_number_of_rows_is_told_so():
    class Fixed(Layers):
        def signals(self, x):
            return super().signals(x.view(1024, INPUTS))

    network = Fixed(JOINS["after the sum"])
    message = r"can be called with 1024 rows, but not with \d+ of them"
    with unchanged(network), pytest.raises(ValueError, match=message):
        init_icnn_(network, X)


class Made(nn.Module):
    """Makes its scale and shift when it sees its first batch: what they are made with says how."""

    def __init__(self, make, before):
        super().__init__()
        self.make, self.initialised = make, False
        self.scale, self.shift = before(), before()

    def forward(self, s):
        if self.training and not self.initialised:
            self.scale = self.make(1 / s.detach().std(0))
            self.shift = self.make(-s.detach().mean(0) * self.scale.detach())
            self.initialised = True
        return s if self.scale is None else s * self.scale + self.shift


@pytest.mark.parametrize(
    ("make", "before"),
    [
        (nn.Parameter, lambda: nn.Parameter(torch.ones(UNITS))),
        (nn.Parameter, lambda: None),
        (lambda values: values, lambda: None),
    ],
)
@pytest.mark.parametrize("join", ["before the layer", "after the sum", "called as a function"])
def test_what_a_first_batch_makes_stays(join, make, before):
    network = Layers(JOINS[join])
    network.norm = nn.ModuleList(Made(make, before) for _ in range(3))
    parameters = dict(network.named_parameters())
    network, _ = initialised(network)
    assert all(dict(network.named_parameters())[name] is p for name, p in parameters.items())
    for mean, variance in moments(network):
        assert abs(mean) < 0.1
        assert variance == pytest.approx(1, abs=0.2)
    copies = copy.deepcopy(network).train()
    assert torch.equal(copies(X), network.eval()(X))


def test_a_normalisation_that_both_parts_of_a_difference_share_is_that_of_the_first():
    parts = Layers(JOINS["after the sum"]), Layers(JOINS["after the sum"])
    parts[1].norm = parts[0].norm
    initialised(ConvexDifference(*parts))
    for mean, variance in moments(parts[0]):
        assert abs(mean) < 0.1
        assert variance == pytest.approx(1, abs=0.2)


def test_what_a_normalisation_is_called_with_may_be_a_dictionary_of_its_own_kind():
    class Batch(dict):
        def tensor(self):
            return self["tensor"]

    class Norm(ActNorm):
        def forward(self, batch):
            return super().forward(batch.tensor())

    network = Layers(lambda n, k, z, x: n.norm[k](Batch(tensor=n.convex[k](z))))
    network.norm = nn.ModuleList(Norm(UNITS) for _ in range(3))
    for mean, variance in moments(initialised(network)[0]):
        assert abs(mean) < 0.1
        assert variance == pytest.approx(1, abs=0.2)


def test_an_output_that_is_summed_after_a_normalisation_is_measured():
    class Summed(Layers):
        def forward(self, x):
            return self.final(super().forward(x)).sum(1)

    network = Summed(JOINS["after the sum"], last=nn.Linear(UNITS, 3), final=ActNorm(3))
    nn.init.uniform_(network.last.weight)
    network, messages = initialised(network)
    variance = float(network(X).detach().var(correction=0))
    assert any(f"the output of the network has the variance {variance:.3g}" in m for m in messages)
