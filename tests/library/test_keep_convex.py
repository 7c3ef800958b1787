"""Projection after every step of an optimiser."""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from convexinit import (
    CNN,
    MLP,
    ConvexDifference,
    ConvexLinear,
    init_icnn_,
    keep_convex,
    project_,
)
from convexinit.stacking import stack_networks
from support.foreign_networks import FOREIGN
from support.networks import convex_weights, generator, randomised, unchanged


def step(network, optimisers, inputs):
    def loss():
        for optimiser in optimisers:
            optimiser.zero_grad()
        value = (network(inputs) + inputs.sum()).square().mean()
        value.backward()
        return value

    loss()
    for optimiser in optimisers:
        optimiser.step(*[loss] * isinstance(optimiser, torch.optim.LBFGS))


def batch(*shape):
    return torch.randn(*shape, generator=generator())


NETWORKS = {
    "MLP": (lambda: MLP([4, 30, 30, 1], skip=True), (16, 4)),
    "CNN": (lambda: CNN((1, 4, 4), [6, 6], 2), (16, 16)),
    "stack": (
        lambda: stack_networks([randomised(MLP([4, 9, 9, 1]), i) for i in (0, 1)]),
        (2, 16, 4),
    ),
}


@pytest.mark.parametrize(("build", "shape"), NETWORKS.values(), ids=NETWORKS)
@pytest.mark.parametrize("optimiser", [torch.optim.Adam, torch.optim.SGD, torch.optim.RMSprop])
def test_it_trains_as_projection_by_hand_until_it_is_removed(build, shape, optimiser):
    hand, kept = randomised(build()), randomised(build())
    by_hand, by_hook = (optimiser(network.parameters(), lr=0.05) for network in (hand, kept))
    handle = keep_convex(by_hook, kept)
    for _ in range(4):
        step(hand, [by_hand], batch(*shape))
        assert any((weight < 0).any() for weight in convex_weights(hand))
        project_(hand)
        step(kept, [by_hook], batch(*shape))
        for ours, theirs in zip(kept.parameters(), hand.parameters(), strict=True):
            assert torch.equal(ours, theirs)
    handle.remove()
    step(kept, [by_hook], batch(*shape))
    assert any((weight < 0).any() for weight in convex_weights(kept))


def test_it_begins_with_a_projection():
    network = MLP([4, 9, 1])
    nn.init.constant_(network.layers[1].weight, -1.0)
    keep_convex(torch.optim.SGD(network.parameters(), lr=0.1), network)
    assert (network.layers[1].weight == 0).all()


def test_each_of_several_optimisers_projects():
    network = randomised(MLP([4, 30, 30, 1]))
    optimisers = [torch.optim.Adam(layer.parameters(), lr=0.1) for layer in network.layers]
    for optimiser in optimisers:
        keep_convex(optimiser, network)
    for _ in range(3):
        step(network, optimisers, batch(16, 4))
        assert all((weight >= 0).all() for weight in convex_weights(network))
    alone = randomised(MLP([4, 30, 30, 1]))
    last = torch.optim.SGD(alone.layers[2].parameters(), lr=10.0)
    keep_convex(last, alone)
    step(alone, [last], batch(16, 4))
    assert all((weight >= 0).all() for weight in convex_weights(alone))


def test_lbfgs_ends_every_step_convex():
    network = randomised(MLP([4, 30, 30, 1]))
    optimiser = torch.optim.LBFGS(network.parameters(), lr=0.1)
    keep_convex(optimiser, network)
    step(network, [optimiser], batch(16, 4))
    assert all((weight >= 0).all() for weight in convex_weights(network))


@pytest.mark.parametrize("positivity", ["clip", "exp", "softplus"])
def test_maps_that_need_no_projection_train_as_they_do_without(positivity):
    plain = randomised(MLP([4, 30, 30, 1], positivity=positivity))
    kept = copy.deepcopy(plain)
    optimisers = [torch.optim.Adam(network.parameters(), lr=0.05) for network in (plain, kept)]
    with unchanged(kept):
        keep_convex(optimisers[1], kept)
    assert (kept.layers[1].weight < 0).any()
    for _ in range(3):
        step(plain, optimisers[:1], batch(16, 4))
        step(kept, optimisers[1:], batch(16, 4))
    for ours, theirs in zip(kept.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert all((weight >= 0).all() for weight in convex_weights(kept))


class Foreign(nn.Module):
    def __init__(self):
        super().__init__()
        self.free = nn.Linear(4, 20)
        self.positive = nn.ParameterList([torch.randn(20, 20), torch.randn(1, 20)])

    def forward(self, x):
        return F.softplus(self.free(x) @ self.positive[0]) @ self.positive[1].T


def test_weights_of_layers_of_ones_own_are_kept():
    network = randomised(Foreign())
    optimiser = torch.optim.SGD(network.parameters(), lr=1.0)
    keep_convex(optimiser, network, weights=(weight for weight in network.positive))
    step(network, [optimiser], batch(16, 4))
    assert all((weight >= 0).all() for weight in network.positive)
    assert (network.free.weight < 0).any()


@pytest.mark.parametrize(
    ("name", "kept"),
    [
        ("softplus potential", ["wz"]),
        ("squared start", ["convex", "out"]),
        ("quadratic skips", ["convex_layers", "final_layer"]),
        ("critic of lists", ["from_z"]),
        ("partially convex, softplus", ["wz"]),
        ("convolutional regulariser", ["conv", "out"]),
        ("linear start", ["blocks.1", "head"]),  # blocks.0 reads an affine function
        ("relu in forward", []),
        ("softplus property", []),
        ("absolute value", []),
        ("parametrize with inverse", []),
        ("ActNorm after", []),
    ],
)
def test_weights_that_are_found_are_kept_and_no_others(name, kept):
    kind = FOREIGN[name]
    torch.manual_seed(0)
    network = kind.build(kind.depth)
    optimiser = torch.optim.SGD(network.parameters(), lr=1.0)
    convex = kind.options.get("convex", 0)
    keep_convex(optimiser, network, inputs=kind.inputs(64, 0), convex=convex)
    for parameter in network.parameters():
        parameter.grad = torch.full_like(parameter, 100.0)
    optimiser.step()
    for key, weight in network.named_parameters():
        if weight.ndim > 1:
            assert (weight >= 0).all() == any(key.startswith(f"{part}.") for part in kept)


def test_only_what_the_call_and_the_arguments_say_is_kept():
    torch.manual_seed(0)
    network = Foreign()
    network.other = nn.Linear(3, 20)
    inputs = (batch(16, 4), batch(16, 3))

    def call(net, x, context):
        return F.softplus(net.free(x) @ net.positive[0] + net.other(context)) @ net.positive[1].T

    optimiser = torch.optim.SGD(network.parameters(), lr=1.0)
    before = copy.deepcopy(network.state_dict())
    state = torch.get_rng_state()
    keep_convex(optimiser, network, inputs=inputs, call=call).remove()
    assert torch.equal(state, torch.get_rng_state())
    changed = {k for k, value in network.state_dict().items() if not torch.equal(value, before[k])}
    assert changed == {"positive.1"}  # positive.0 reads an affine function
    assert (network.positive[1] >= 0).all()
    keep_convex(optimiser, network, [network.positive[0]], inputs, call=call).remove()
    assert (network.positive[0] >= 0).all()


def test_layers_of_this_library_are_kept_beside_found_ones():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Linear(4, 8), nn.Softplus(), ConvexLinear(8, 8), nn.Softplus(),
        parametrizations.weight_norm(ConvexLinear(8, 8)), nn.Softplus(), nn.Linear(8, 1),
    )  # fmt: skip
    optimiser = torch.optim.SGD(network.parameters(), lr=1.0)
    keep_convex(optimiser, network, inputs=batch(16, 4))
    step(network, [optimiser], batch(16, 4))
    assert all((network[k].weight >= 0).all() for k in (2, 4, 6))
    assert (network[0].weight < 0).any()


def test_weights_under_a_parametrization_are_kept():
    network = randomised(MLP([4, 30, 30, 1]))
    parametrizations.weight_norm(network.layers[1])
    optimiser = torch.optim.Adam(network.parameters(), lr=0.02)
    keep_convex(optimiser, network)
    step(network, [optimiser], batch(16, 4))
    assert (network.layers[1].weight >= 0).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_weights_under_a_parametrization_are_kept_in_another_data_type(dtype):
    network = nn.Sequential(nn.Linear(4, 30), nn.ReLU(), nn.Linear(30, 1))
    parametrizations.weight_norm(network[2])
    optimiser = torch.optim.SGD(network.parameters(), lr=1.0)
    keep_convex(optimiser, network, inputs=batch(16, 4))
    step(network.to(dtype), [optimiser], batch(16, 4).to(dtype))
    assert (network[2].weight >= 0).all()


def test_what_has_no_effect_is_refused():
    network = Foreign()
    optimiser = torch.optim.Adam(network.parameters())
    with pytest.raises(ValueError, match=r"no convex layer to keep convex; .*weights=\[\.\.\.\]"):
        keep_convex(optimiser, network)
    with pytest.raises(ValueError, match=r"weights\[1\] is computed from other tensors"):
        keep_convex(optimiser, network, weights=[network.positive[0], network.positive[1].exp()])
    with pytest.raises(ValueError, match=r"weights\[0\] must be a tensor"):
        keep_convex(optimiser, network, weights=["positive.0"])
    computed = nn.Sequential(nn.Linear(4, 8), nn.Softplus(), nn.Linear(8, 1))
    parametrize.register_parametrization(computed[2], "weight", Doubled())
    nn.init.constant_(computed[2].parametrizations.weight.original, 1.0)  # today
    for other, message in (
        (
            computed,
            r"kept convex\. 2: its weight is computed from 2\.param.* negative.*NonNegative",
        ),
        (nn.Linear(4, 1), "no convex layer to keep convex: no linear operation"),
        (stack_networks([MLP([4, 3, 1])] * 2), "stack of networks; leave inputs out"),
    ):
        with unchanged(other), pytest.raises(ValueError, match=message):
            keep_convex(optimiser, other, inputs=batch(16, 4))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        step(network, [optimiser], batch(16, 4))
    assert (network.positive[0] < 0).any()


@pytest.mark.parametrize(
    ("module", "warns"),
    [(nn.LayerNorm(8), True), (nn.LayerNorm(8, elementwise_affine=False), True),
     (nn.Tanh(), True), (nn.Softplus(), False)],
)  # fmt: skip
def test_a_network_that_is_not_convex_all_the_same_is_warned_of(module, warns):
    torch.manual_seed(0)
    layers = [nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), module, nn.ReLU(), nn.Linear(8, 1)]
    network = nn.Sequential(*layers)
    before = [module.training for module in network.modules()]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        keep_convex(torch.optim.Adam(network.parameters()), network, inputs=batch(256, 4))
    assert [w.filename for w in caught] == [__file__] * warns
    assert all("is not convex in argument 0" in str(w.message) for w in caught)
    assert [module.training for module in network.modules()] == before


def test_inputs_that_do_not_vary_will_do():
    network = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        keep_convex(torch.optim.Adam(network.parameters()), network, inputs=torch.zeros(2, 4))
    assert (network[2].weight >= 0).all()


def test_both_parts_of_a_difference_are_looked_at():
    network = ConvexDifference(MLP([6, 8, 1], "softplus"), MLP([6, 8, 1], "softplus"))
    inputs = torch.randn(64, 6, generator=generator(0))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        keep_convex(torch.optim.Adam(network.parameters()), network, inputs=inputs)


def test_a_network_that_takes_one_number_of_rows_is_kept():
    class Fixed(nn.Sequential):
        def forward(self, x):
            return super().forward(x.reshape(16, 5))

    network = Fixed(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 1))
    inputs = torch.randn(16, 5, generator=generator(0))
    optimiser = torch.optim.SGD(network.parameters(), lr=10.0)
    keep_convex(optimiser, network, inputs=inputs)
    network(inputs).sum().backward()
    optimiser.step()
    assert network[2].weight.min() >= 0


def test_an_optimiser_of_another_network_is_refused():
    network, other = MLP([2, 4, 1]), MLP([2, 4, 1])
    with pytest.raises(ValueError, match="no parameter of the network"):
        keep_convex(torch.optim.SGD(other.parameters(), lr=0.1), network)


class Doubled(nn.Module):
    """A map whose weights have the sign of the raw values."""

    def forward(self, raw):
        return raw + raw.abs() * raw


def test_data_in_place_of_weights_is_refused_and_stays():
    network, inputs = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1)), batch(8, 2)
    optimiser, before = torch.optim.SGD(network.parameters()), inputs.clone()
    for weights in (inputs, (inputs, inputs)):
        with pytest.raises(ValueError, match=r"give a .*batch of data with inputs="):
            keep_convex(optimiser, network, weights)
    assert torch.equal(inputs, before)
    keep_convex(optimiser, network, weights=[network[2].weight.detach()[0]])
    assert network[2].weight.min() == 0
    with pytest.raises(ValueError, match=r"must be a torch\.optim\.Optimizer, got StepLR"):
        keep_convex(torch.optim.lr_scheduler.StepLR(optimiser, 1), network, inputs=inputs)


def test_lbfgs_does_not_diverge():
    torch.manual_seed(0)
    inputs = batch(128, 6)
    network = init_icnn_(MLP([6, 32, 32, 32, 1], skip=True), inputs)
    optimiser = torch.optim.LBFGS(network.parameters(), lr=0.1)
    keep_convex(optimiser, network)

    def loss():
        optimiser.zero_grad()
        value = (network(inputs) - inputs.abs().sum(1, keepdim=True)).square().mean()
        value.backward()
        return value

    losses = [float(optimiser.step(loss).detach()) for _ in range(20)]
    assert max(losses[10:]) < 0.1 * losses[0]
    with torch.no_grad():
        for weight in convex_weights(network):
            weight.fill_(1.0)
    optimiser.param_groups[0]["lr"] = 0.0
    optimiser.step(loss)
    assert optimiser.state  # which stays where nothing was projected
