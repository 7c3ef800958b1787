"""Networks: convex before and after training, alone and stacked, and what they compute."""

import copy
import itertools
import math
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.ndimage import correlate
from torch import nn
from torch.autograd import forward_ad

from convexinit import CNN, MLP, ConvexConv2d, ConvexDifference, ConvexLinear, init_icnn_
from convexinit.difference import parts_of
from convexinit.positivity import POSITIVITY
from convexinit.stacking import stack_networks, unstack_network
from support.networks import (
    ACTIVATIONS,
    convex_weights,
    convexity_gap,
    generator,
    randomised,
    train_a_little,
)

KINDS = ["MLP", "CNN", "difference", "foreign first layers"]
STACKABLE = KINDS[:3]


@st.composite
def architectures(draw, kinds=KINDS, convex=(True,)):
    """A function that builds a network in float64, the size of its inputs, and its activation."""
    activation = draw(st.sampled_from(ACTIVATIONS))
    positivity, convex = draw(st.sampled_from(sorted(POSITIVITY))), draw(st.sampled_from(convex))
    hidden = draw(st.lists(st.integers(1, 12), min_size=1, max_size=3))
    kind = draw(st.sampled_from(kinds))
    skip, image_shape = draw(st.booleans()), draw(st.tuples(*[st.integers(1, 5)] * 3))

    def build():
        if kind == "CNN":
            network = CNN(image_shape, hidden, 2, activation, convex, positivity)
        elif kind == "foreign first layers":
            network = nn.Sequential(
                nn.Unflatten(1, image_shape),
                nn.Conv2d(image_shape[0], 4, 3, padding=1),
                nn.ReLU(),
                ConvexConv2d(4, 3, 3, padding=1, positivity=positivity),
                nn.ReLU(),
                nn.Flatten(),
                ConvexLinear(3 * math.prod(image_shape[1:]), 1, positivity=positivity),
            )
        else:
            parts = [MLP([3, *hidden, 2], activation, convex, positivity, skip) for _ in range(2)]
            network = ConvexDifference(*parts) if kind == "difference" else parts[0]
        return network.double()

    return build, 3 if kind in ("MLP", "difference") else math.prod(image_shape), activation


@settings(deadline=None, max_examples=120)
@given(architecture=architectures(), seed=st.integers(0, 10_000), principled=st.booleans())
def test_networks_are_convex_before_and_after_training(architecture, seed, principled):
    build, inputs, activation = architecture
    network = randomised(build(), seed)
    if principled:
        init_icnn_(network, activation=activation, generator=generator(seed))
    before = copy.deepcopy(network.state_dict())
    for trained in (False, True):
        if trained:
            train_a_little(network, inputs, generator(seed))
        # Both parts of a difference, which as a whole need not be convex.
        for part in parts_of(network):
            assert convexity_gap(part, inputs, generator(seed)) < 1e-9
        assert all((weight >= 0).all() for weight in convex_weights(network))
    after = network.state_dict()
    assert any(not torch.equal(value, after[name]) for name, value in before.items())


@pytest.mark.parametrize(
    ("network", "inputs"),
    [(MLP([3, 20, 20, 1], convex=False), 3), (CNN((1, 4, 4), [8, 8], 1, convex=False), 16)],
)
def test_the_convexity_check_can_fail(network, inputs):
    assert not convex_weights(network)
    assert convexity_gap(randomised(network.double()), inputs, generator()) > 1e-3


@settings(deadline=None, max_examples=60)
@given(architecture=architectures(STACKABLE, convex=(True, False)), count=st.integers(1, 4))
def test_a_stack_computes_and_differentiates_each_network_alone(architecture, count):
    build, size, _ = architecture
    networks = [randomised(build(), seed) for seed in range(count)]
    inputs = torch.randn(count, 11, size, generator=generator(count), dtype=torch.float64)
    stack = stack_networks(networks)
    outputs = stack(inputs)
    outputs.square().sum().backward()
    for index, network in enumerate(networks):
        alone = network(inputs[index])
        alone.square().sum().backward()
        assert torch.allclose(outputs[index], alone, atol=1e-12)
        for name, parameter in network.named_parameters():
            stacked = stack.get_parameter(name)
            assert torch.allclose(stacked.grad[index], parameter.grad, atol=1e-10), name
        assert torch.equal(unstack_network(stack, index)(inputs[index]), alone)


@pytest.mark.parametrize(
    "networks",
    [[MLP([4, 5, 3, 2], "softplus", skip=True) for _ in range(2)],
     [CNN((1, 2, 2), [3, 2], 2, "softplus") for _ in range(2)]],
    ids=["MLP", "CNN"],
)  # fmt: skip
def test_transforms_of_torch_func_take_a_stack_as_its_networks(networks):
    networks = [randomised(network.double(), seed) for seed, network in enumerate(networks)]
    stack = stack_networks(networks)
    batches = torch.randn(3, 2, 5, 4, generator=generator(), dtype=torch.float64)

    def loss(parameters, inputs):
        return torch.func.functional_call(stack, parameters, inputs).square().sum()

    def outputs(inputs):
        return stack(inputs).sum((1, 2))

    parameters = dict(stack.named_parameters())
    gradients = torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, batches)
    for index, network in enumerate(networks):
        for batch, inputs in enumerate(batches):
            alone = torch.autograd.grad(
                network(inputs[index]).square().sum(), list(network.parameters())
            )
            for (name, _), gradient in zip(network.named_parameters(), alone, strict=True):
                assert torch.allclose(gradients[name][batch, index], gradient, atol=1e-10), name

    (inputs,) = batches[:1]
    jacobian = torch.autograd.functional.jacobian(outputs, inputs)
    hessian = torch.autograd.functional.hessian(lambda inputs: outputs(inputs).sum(), inputs)
    for transform in (torch.func.jacrev, torch.func.jacfwd):
        assert torch.allclose(transform(outputs)(inputs), jacobian)
    assert torch.allclose(torch.func.hessian(lambda x: outputs(x).sum())(inputs), hessian)
    with forward_ad.dual_level():
        dual = forward_ad.unpack_dual(outputs(forward_ad.make_dual(inputs, batches[1])))
    assert torch.allclose(dual.tangent, (jacobian * batches[1]).sum((1, 2, 3)))


def test_convolutions_are_those_of_scipy_with_repeated_borders():
    network = randomised(CNN((2, 5, 4), [3, 4], 2).double())
    inputs = torch.randn(1, 40, generator=generator(1), dtype=torch.float64)
    image = inputs[0].view(2, 5, 4).numpy()
    for layer, stride in zip(network.layers[:2], (2, 1), strict=True):
        weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
        image = np.stack(
            [
                sum(
                    correlate(channel, kernel, mode="nearest")
                    for channel, kernel in zip(image, kernels, strict=True)
                )
                + shift
                for kernels, shift in zip(weight, bias, strict=True)
            ]
        )[:, ::stride, ::stride]
        image = np.maximum(image, 0.0)
    last = network.layers[2]
    expected = last.weight.detach().numpy() @ image.ravel() + last.bias.detach().numpy()
    np.testing.assert_allclose(network(inputs)[0].detach().numpy(), expected, rtol=1e-10)


def test_every_position_of_an_image_sums_over_its_full_fan_in():
    """Constant features give the same pre-activation everywhere, at the border too."""
    network = init_icnn_(CNN((1, 6, 6), [5, 4, 3], 2).double(), generator=generator())
    for layer, channels in zip(network.layers[1:3], (5, 4), strict=True):
        signal = layer(torch.ones(1, channels, 6, 6, dtype=torch.float64))
        corner = signal[..., :1, :1]
        assert torch.allclose(signal, corner.expand_as(signal))
        assert torch.allclose(corner[0, :, 0, 0], layer.weight.sum((1, 2, 3)) + layer.bias)


@pytest.mark.parametrize(
    ("network", "shapes"),
    [
        (MLP([20, 7, 6, 2], skip=True), [(7,), (6,), (2,)]),
        (CNN((1, 5, 4), [3, 4], 2), [(3, 3, 2), (4, 3, 2), (2,)]),
    ],
)
def test_pre_activations_end_with_the_output(network, shapes):
    inputs = torch.randn(6, 20, generator=generator())
    signals = network.pre_activations(inputs)
    assert [signal.shape[1:] for signal in signals] == shapes
    assert torch.equal(signals[-1], network(inputs))


def test_networks_can_be_copied_saved_and_loaded(tmp_path):
    network = MLP([3, 4, 1], positivity="exp")
    torch.save(network.state_dict(), tmp_path / "weights.pt")
    other = MLP([3, 4, 1], positivity="exp")
    other.load_state_dict(torch.load(tmp_path / "weights.pt", weights_only=True))
    inputs = torch.randn(6, 3)
    assert torch.equal(other(inputs), network(inputs))
    assert torch.equal(copy.deepcopy(network)(inputs), network(inputs))


@pytest.mark.parametrize(
    "build", [lambda activation: MLP([4, 6, 5, 1], activation, skip=True),
              lambda activation: CNN((1, 2, 2), [4, 3], 1, activation)], ids=["MLP", "CNN"],
)  # fmt: skip
def test_an_activation_that_works_in_place_leaves_pre_activations_alone(build):
    network = build(nn.ReLU(inplace=True))
    other = build("relu")
    other.load_state_dict(network.state_dict())
    inputs = torch.randn(6, 4, generator=generator())
    signals, expected = network.pre_activations(inputs), other.pre_activations(inputs)
    for signal, right in zip(signals, expected, strict=True):
        assert torch.equal(signal, right)
    assert torch.equal(network(inputs), expected[-1])


LOADED = {
    "MLP": lambda positivity: MLP([3, 9, 9, 1], positivity=positivity),
    "CNN": lambda positivity: CNN((1, 3, 1), [4, 4], 1, positivity=positivity),
    "difference": lambda positivity: ConvexDifference(
        MLP([3, 4, 1], positivity=positivity), MLP([3, 4, 1], positivity=positivity)
    ),
    "own": lambda positivity: nn.Sequential(
        nn.Linear(3, 9), nn.ReLU(), ConvexLinear(9, 1, positivity=positivity)
    ),
    "stack": lambda positivity: stack_networks([MLP([3, 4, 1], positivity=positivity)] * 2),
}


@pytest.mark.parametrize("build", LOADED.values(), ids=LOADED)
@pytest.mark.parametrize("source", sorted(POSITIVITY))
def test_a_state_is_loaded_into_networks_of_its_own_map_alone(build, source, tmp_path):
    saved = randomised(build(source))
    torch.save(saved.state_dict(), tmp_path / "weights.pt")
    states = (
        saved.state_dict(),
        torch.load(tmp_path / "weights.pt", weights_only=True),
        copy.deepcopy(saved.state_dict()),
    )
    ways = list(itertools.product(states, ({}, {"strict": False}, {"assign": True})))
    for state, options in ways:
        network = randomised(build(source), 1)
        network.load_state_dict(copy.deepcopy(state), **options)
        for name, value in saved.state_dict().items():
            assert torch.equal(network.state_dict()[name], value)
    # Into every other map in one of the ways, and in each way from one of the maps.
    names = sorted(POSITIVITY)
    for number, positivity in enumerate(names, names.index(source)):
        if positivity == source:
            continue
        state, options = ways[number % len(ways)]
        network = randomised(build(positivity), 1)
        before = [weight.clone() for weight in convex_weights(network)]
        message = rf"positivity='{source}', but here positivity is '{positivity}'"
        with pytest.raises(RuntimeError, match=message) as caught:
            network.load_state_dict(copy.deepcopy(state), **options)
        assert len(str(caught.value).splitlines()) <= 10
        for weight, kept in zip(convex_weights(network), before, strict=True):
            assert torch.equal(weight, kept)


def test_a_state_may_be_written_to_a_plain_dictionary():
    network = MLP([3, 4, 1])
    state = network.state_dict(destination={})
    assert state.keys() == network.state_dict().keys()


def test_states_keep_the_keys_and_tensors_of_torch():
    ours, torchs = MLP([3, 4, 1]), nn.ModuleList([nn.Linear(3, 4), nn.Linear(4, 1)])
    assert list(ours.layers.state_dict()) == list(torchs.state_dict())
    assert all(isinstance(value, torch.Tensor) for value in ours.state_dict().values())
    torchs.load_state_dict(ours.layers.state_dict())


@pytest.mark.parametrize("positivity", sorted(POSITIVITY))
def test_states_that_name_no_map_are_loaded_unless_they_break_convexity(positivity):
    network = MLP([3, 9, 9, 1], positivity=positivity)
    unnamed = dict(randomised(MLP([3, 9, 9, 1], positivity=positivity)).state_dict())
    network.load_state_dict(unnamed)
    assert torch.equal(network.layers[1].weight, unnamed["layers.1.weight"])
    negative = dict(randomised(MLP([3, 9, 9, 1], positivity="softplus")).state_dict())
    unconstrained = randomised(MLP([3, 9, 9, 1], convex=False)).state_dict()
    if positivity == "projection":
        for state in (negative, unconstrained, dict(unconstrained)):
            with pytest.raises(RuntimeError, match=r"layers\.1\.weight has negative values"):
                network.load_state_dict(state)
        network.load_state_dict({name: value.abs() for name, value in unconstrained.items()})
    else:
        network.load_state_dict(negative)
        with pytest.raises(RuntimeError, match=f"positivity=None, but here .*'{positivity}'"):
            network.load_state_dict(unconstrained)


@pytest.mark.parametrize("positivity", sorted(POSITIVITY))
def test_a_network_without_constraint_takes_weights_that_are_used_as_they_are(positivity):
    network, convex = (
        MLP([3, 9, 1], convex=False),
        randomised(MLP([3, 9, 1], positivity=positivity)),
    )
    if positivity == "projection":
        network.load_state_dict(convex.state_dict())
        inputs = torch.randn(5, 3)
        assert torch.equal(network(inputs), convex(inputs))
    else:
        with pytest.raises(RuntimeError, match=f"positivity='{positivity}', but here .* None"):
            network.load_state_dict(convex.state_dict())


class Counter(nn.Module):
    def __init__(self, start):
        super().__init__()
        self.register_buffer("count", torch.tensor(start))


def shared(tied):
    layers = nn.Sequential(ConvexLinear(3, 3), ConvexLinear(3, 3), ConvexLinear(3, 3))
    if tied:
        layers[2].weight = layers[1].weight
    return layers


def hooked():
    network = nn.Sequential(ConvexLinear(2, 2))
    network[0].register_forward_hook(double)
    return network


def double(module, inputs, output):
    return 2 * output


class Halved(ConvexLinear):
    """A layer whose weight is a property."""

    @property
    def weight(self):
        return self._parameters["weight"] / 2


def frozen():
    network = MLP([3, 4, 1])
    network.layers[0].weight.requires_grad_(False)
    return network


@pytest.mark.parametrize(
    ("first", "other", "message"),
    [
        (MLP([3, 4, 1]), MLP([3, 4, 1], positivity="exp"),
         r"network 1 .*layers\.1\.positivity is exp, not projection"),
        (CNN((1, 4, 4), [3, 3], 1), CNN((1, 4, 4), [3, 3], 1, positivity="clip"),
         r"layers\.1\.positivity is clip, not projection"),
        (MLP([3, 4, 1]), MLP([3, 4, 1], "softplus"), "activation is softplus, not relu"),
        (MLP([3, 4, 1], nn.LeakyReLU(0.1)), MLP([3, 4, 1], nn.LeakyReLU(0.2)),
         r"activation\.negative_slope is 0\.2, not 0\.1"),
        (MLP([3, 4, 1], nn.ReLU()), MLP([3, 4, 1], nn.ELU()), "activation is ELU, not ReLU"),
        (MLP([3, 4, 1], lambda s: s.relu()), MLP([3, 4, 1], lambda s: s.exp()), "activation is"),
        (MLP([3, 4, 1]), MLP([3, 5, 1]), r"layers\.0\.out_features is 5, not 4"),
        (MLP([3, 4, 1]), MLP([3, 4, 4, 1]), r"layers\.1\.out_features is 4, not 1"),
        (MLP([3, 4, 4]), MLP([3, 4, 4, 4]), r"it has layers\.2"),
        (MLP([3, 4, 4, 4]), MLP([3, 4, 4]), r"it has no layers\.2"),
        (MLP([3, 4, 1]), MLP([3, 4, 1], skip=True), r"it has skips\.0"),
        (MLP([3, 4, 1]), MLP([3, 4, 1], convex=False), r"layers\.1 is Linear, not ConvexLinear"),
        (MLP([3, 4, 1]), MLP([3, 4, 1]).double(), r"layers\.0\.weight is .*float64.*not.*float32"),
        (MLP([3, 4, 1]), MLP([3, 4, 1], hidden_dropout=0.5),
         r"hidden_dropout\.dropped_bytes is 128, not 0"),
        (MLP([3, 4, 1]), MLP([3, 4, 1]).eval(), "training is False, not True"),
        (MLP([3, 4, 1]), frozen(), r"layers\.0\.weight is .*frozen, not .*trained"),
        (CNN((1, 4, 9), [3], 1), CNN((1, 6, 6), [3], 1), r"image_shape is \(1, 6, 6\), not"),
        (CNN((1, 4, 4), [3], 1), MLP([16, 3, 1]), "it is MLP, not CNN"),
        (Counter(1), Counter(2), r"count is tensor\(2\), not tensor\(1\)"),
        (nn.Sequential(ConvexLinear(2, 2)), nn.Sequential(ConvexLinear(2, 2, bias=False)),
         r"0\.bias is missing, not"),
        (shared(False), shared(True), r"2\.weight is the parameter 1\.weight, not 2\.weight"),
        (shared(True), shared(False), r"2\.weight is the parameter 2\.weight, not 1\.weight"),
        (nn.Sequential(ConvexLinear(2, 2)), hooked(), r"0\.hooks is \[.*\], not \[\]"),
    ],
)  # fmt: skip
def test_networks_that_differ_in_more_than_their_weights_are_not_stacked(first, other, message):
    with pytest.raises(ValueError, match=message) as caught:
        stack_networks([first, other])
    assert "\n" not in str(caught.value)
    stack_networks([other, other])


class Holding(ConvexLinear):
    """A layer that holds something."""

    def __init__(self, held):
        super().__init__(2, 2)
        self.held = held


class Scale:
    def __init__(self, by):
        self.by = by

    def multiply(self, x):
        return self.by * x


@pytest.mark.parametrize(
    "hold",
    [
        lambda by: {"by": by},
        lambda by: [nn.LeakyReLU(by)],
        Scale,
        lambda by: partial(torch.mul, other=by),
    ],
)
def test_what_networks_hold_is_compared_by_what_it_is_made_of(hold):
    stack_networks([Holding(hold(0.1)), Holding(hold(0.1))])
    with pytest.raises(ValueError, match="held is"):
        stack_networks([Holding(hold(0.1)), Holding(hold(0.2))])


def test_generators_and_what_methods_are_bound_to_belong_to_each_network():
    for first, other in (
        (generator(1), generator(2)),
        (Scale(0.1).multiply, Scale(0.2).multiply),
    ):
        stack_networks([Holding(first), Holding(other)])


def test_nothing_is_no_stack():
    with pytest.raises(ValueError, match="at least one network to stack"):
        stack_networks([])


def test_networks_of_equal_activations_are_stacked():
    def build(slope):
        return MLP([3, 4, 1], lambda s: torch.maximum(s, slope * s))

    stack_networks([build(0.1), build(0.1)])
    with pytest.raises(ValueError, match="activation is"):
        stack_networks([build(0.1), build(0.2)])


def test_a_stack_keeps_what_is_frozen_and_what_is_shared():
    stack = stack_networks([frozen(), frozen()])
    assert [parameter.requires_grad for parameter in stack.parameters()] == [False] + 3 * [True]
    networks = [shared(True), shared(True)]
    stack = stack_networks(networks)
    assert stack[1].weight is stack[2].weight
    inputs = torch.randn(2, 5, 3)
    for index, network in enumerate(networks):
        assert torch.allclose(stack(inputs)[index], network(inputs[index]), atol=1e-6)
        assert torch.equal(unstack_network(stack, index)(inputs[index]), network(inputs[index]))


def test_computed_and_lazy_weights_are_not_stacked():
    for parametrise in (nn.utils.parametrizations.weight_norm, nn.utils.weight_norm):
        network = MLP([3, 4, 1])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the old weight_norm is deprecated, and used
            parametrise(network.layers[1])
        with pytest.raises(ValueError, match=r"layers\.1 .* are computed and cannot be stacked"):
            stack_networks([network, network])
    network = MLP([3, 4, 1])
    network.layers[1].__class__ = Halved
    with pytest.raises(ValueError, match=r"layers\.1 \(Halved\) are computed"):
        stack_networks([network, network])
    lazy = nn.Sequential(nn.LazyLinear(4), ConvexLinear(4, 1))
    with pytest.raises(ValueError, match=r"0 .* do not exist yet; run a batch"):
        stack_networks([lazy, lazy])


def test_layers_of_torch_are_not_stacked_and_one_network_is_no_stack():
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), ConvexLinear(4, 1))
    with pytest.raises(ValueError, match=r"0 \(Linear\) is a layer of torch, .*layers\.Linear"):
        stack_networks([network, network])
    with pytest.raises(ValueError, match="is no stack"):
        unstack_network(network, 0)


@pytest.mark.parametrize("widths", [[3], [], [3, 0, 1], [3, -1], 3, "31", [3, 4.0, 1], [3, True]])
def test_impossible_widths_are_refused(widths):
    with pytest.raises(ValueError, match="widths must be positive integers"):
        MLP(widths)


@pytest.mark.parametrize(
    "arguments",
    [((1, 4), [3], 1), ((1, 0, 4), [3], 1), ((1, 4, 4), [], 1), ((1, 4, 4), [3, 0], 1),
     ((1, 4, 4), [3], 0), (4, [3], 1), ((1, 4, 4), 3, 1), ((1, 4, 4), [3], "1")],
)  # fmt: skip
def test_impossible_sizes_of_images_are_refused(arguments):
    with pytest.raises(ValueError, match=r"(image_shape|channels|outputs) must be"):
        CNN(*arguments)


@pytest.mark.parametrize("build", [MLP, CNN])
def test_activations_that_break_convexity_are_refused(build):
    sizes = {MLP: ([2, 3, 1],), CNN: ((1, 4, 4), [3], 1)}[build]
    with pytest.raises(ValueError, match="is not convex"):
        build(*sizes, activation=torch.tanh)
    build(*sizes, activation=torch.tanh, convex=False)
