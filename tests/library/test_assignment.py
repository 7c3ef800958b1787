"""Weights that are computed: set through their parametrization, or refused by name."""

import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune

from convexinit import (
    ConvexConv2d,
    ConvexLinear,
    init_icnn_,
    lognormal_init_,
    lsuv_init_,
    moments_init_,
    orthogonal_init_,
    project_,
)
from convexinit.init import (
    centred_bias_,
    gamma_,
    he_normal_,
    lecun_normal_,
    lognormal_,
    sampled_bias_,
)
from convexinit.layers import Linear, projected_weights
from convexinit.positivity import POSITIVITY
from convexinit.theory import solve_init
from support.networks import convex_weights, generator, unchanged


class Doubled(nn.Module):
    """A parametrization with an exact inverse."""

    def forward(self, raw):
        return 2 * raw

    def right_inverse(self, weight):
        return weight / 2


class Shifted(nn.Module):
    """A parametrization without inverse, which can become negative."""

    def forward(self, raw):
        return raw - 0.01


class Computed(ConvexLinear):
    """A convex layer whose weight is a property."""

    def __init__(self, *sizes, **options):
        super().__init__(*sizes, **options)
        self.raw = nn.Parameter(torch.randn(self.out_features, self.in_features))

    @property
    def weight(self):
        return -self.raw


class Doubling(ConvexLinear):
    """A convex layer with a map of its own."""

    @property
    def nonnegative_weight(self):
        return 2 * self.weight.abs()


def old(function):
    def apply(layer):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecated, and used
            return function(layer)

    return apply


INVERTIBLE = {
    "weight_norm": parametrizations.weight_norm,
    "doubled": lambda layer: parametrize.register_parametrization(layer, "weight", Doubled()),
    "bias": lambda layer: parametrize.register_parametrization(layer, "bias", Doubled()),
    "weight and bias": lambda layer: INVERTIBLE["bias"](INVERTIBLE["doubled"](layer)),
}
NOT_INVERTIBLE = {
    "old weight_norm": old(nn.utils.weight_norm),
    "spectral_norm": parametrizations.spectral_norm,
    "old spectral_norm": nn.utils.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "pruned": lambda layer: prune.l1_unstructured(layer, "weight", 0.3),
    "shifted": lambda layer: parametrize.register_parametrization(layer, "weight", Shifted()),
}


def network(parametrise, positivity="projection", index=2, convolution=False):
    """Of which layer ``index`` is parametrised."""
    layers = [
        nn.Linear(8, 16), nn.ReLU(),
        ConvexLinear(16, 12, positivity=positivity), nn.ReLU(),
        ConvexLinear(12, 2, positivity=positivity),
    ]  # fmt: skip
    if convolution:
        layers[2:3] = [
            nn.Unflatten(1, (16, 1, 1)),
            ConvexConv2d(16, 12, 1, positivity=positivity),
            nn.Flatten(),
        ]
        index = 3
    parametrise(layers[index])
    return nn.Sequential(*layers)


def batch():
    return torch.randn(64, 8, generator=generator())


@pytest.mark.parametrize("name", INVERTIBLE)
@pytest.mark.parametrize("positivity", sorted(POSITIVITY))
@pytest.mark.parametrize("index", [0, 2])
def test_invertible_parametrizations_get_the_weights_of_plain_layers(name, positivity, index):
    models = [network(way, positivity, index) for way in (INVERTIBLE[name], lambda layer: layer)]
    for initialise in (
        lambda model: init_icnn_(model, bias_noise=0.1, method="moments", generator=generator()),
        lambda model: lsuv_init_(model, batch()),
    ):
        for model in models:
            initialise(model)
        for layer, plain in zip(*models, strict=True):
            if hasattr(plain, "weight"):
                assert torch.allclose(layer.weight, plain.weight, atol=1e-5)
                assert torch.allclose(layer.bias, plain.bias, atol=1e-5)
        with torch.no_grad():
            assert torch.allclose(models[0](batch()), models[1](batch()), atol=1e-3)
    for model in models:
        model[2].reset_parameters()
        assert float(model[2].bias.detach().mean()) == pytest.approx(solve_init(16).bias_mean)


class Inverted(nn.Module):
    """A parametrization by any map and its inverse."""

    def __init__(self, forward, inverse):
        super().__init__()
        self.forward, self.right_inverse = forward, inverse


class Clipped(ConvexLinear):
    """A convex layer whose own property clips, whatever its map says."""

    @property
    def nonnegative_weight(self):
        return torch.relu(self.weight)


def parametrised(layer, forward, inverse):
    return parametrize.register_parametrization(layer, "weight", Inverted(forward, inverse))


@pytest.mark.filterwarnings("ignore:the (pre-activation of|variances of)")
@pytest.mark.parametrize("inputs", [None, batch()], ids=["theory", "inputs"])
@pytest.mark.parametrize(
    ("middle", "kept"),
    [
        *(
            (lambda name=name: ConvexLinear(16, 12, positivity=name),
             name in ("projection", "neg_exp", "abs"))
            for name in POSITIVITY
        ),
        (lambda: parametrised(ConvexLinear(16, 12), torch.square, torch.sqrt), False),
        (lambda: parametrised(ConvexLinear(16, 12), torch.relu, torch.clone), False),
        (lambda: parametrised(ConvexLinear(16, 12, positivity="exp"), torch.neg, torch.neg), False),
        (lambda: parametrised(ConvexLinear(16, 12), lambda w: w / 7, lambda w: 7 * w), True),
        (lambda: parametrised(ConvexLinear(16, 12), lambda w: w.mT, lambda w: w.mT), True),
        (lambda: Clipped(16, 12), False),
    ],
)  # fmt: skip
def test_zeros_are_raised_where_what_is_computed_gives_them_no_gradient(middle, kept, inputs):
    torch.manual_seed(0)
    layer = middle()
    model = nn.Sequential(
        nn.Linear(8, 16), nn.Softplus(), layer, nn.Softplus(), ConvexLinear(12, 2)
    )
    init_icnn_(model, inputs, generator=generator())
    # Maps with logarithms as inverses hold no exact zeros.
    assert bool((layer.nonnegative_weight < 1e-30).any()) == kept
    model(batch()).square().sum().backward()
    (gradient,) = [p.grad for p in layer.parameters() if p.ndim == 2]
    assert (gradient != 0).all()


def test_zeros_stay_under_weight_norm_and_get_gradients():
    layer = parametrizations.weight_norm(ConvexLinear(16, 12))
    init_icnn_(nn.Sequential(nn.Linear(8, 16), layer), generator=generator())
    zeros = layer.nonnegative_weight == 0
    assert zeros.any()
    layer(torch.rand(32, 16, generator=generator())).square().sum().backward()
    assert (layer.parametrizations.weight.original1.grad[zeros] != 0).all()


@pytest.mark.parametrize("name", INVERTIBLE)
@pytest.mark.parametrize("convolution", [False, True], ids=["linear", "convolution"])
def test_projection_reaches_parametrised_weights(name, convolution):
    model, source = network(INVERTIBLE[name], convolution=convolution), generator()
    for _ in range(3):
        for parameter in model.parameters():
            nn.init.normal_(parameter, generator=source)
        before = [weight.detach() for weight in convex_weights(model)]
        assert all((weight < 0).any() for weight in before)
        assert project_(model) is model
        for weight, negative in zip(convex_weights(model), before, strict=True):
            assert (weight >= 0).all()
            assert torch.allclose(weight, negative.clamp_min(0), atol=1e-6)


def test_projection_refuses_rows_of_zeros_under_weight_norm_and_changes_nothing():
    model = network(parametrizations.weight_norm)
    with torch.no_grad():
        model[2].weight = torch.full((12, 16), -1.0)
    with unchanged(model), pytest.raises(ValueError, match=r"layer 2 is computed.*Remove"):
        project_(model)


@pytest.mark.parametrize("name", NOT_INVERTIBLE)
@pytest.mark.parametrize("index", [0, 2])
def test_other_computed_weights_are_refused_and_nothing_changes(name, index):
    for initialise in (init_icnn_, lambda model: lsuv_init_(model, batch())):
        model = network(NOT_INVERTIBLE[name], "clip", index)
        message = rf"the weight of the layer {index} is computed.*Remove"
        with unchanged(model), pytest.raises(ValueError, match=message):
            initialise(model)


@pytest.mark.parametrize("name", NOT_INVERTIBLE)
def test_projection_refuses_negative_weights_that_it_cannot_change(name):
    model = network(NOT_INVERTIBLE[name])
    for parameter in model[2:].parameters():
        nn.init.normal_(parameter, generator=generator())
    with unchanged(model), pytest.raises(ValueError, match="the weight of the layer 2 is computed"):
        project_(model)
    with pytest.raises(ValueError, match="layer 2 is computed; call project_"):
        projected_weights(model)
    # Where nothing is to be projected there is nothing to refuse.
    project_(network(NOT_INVERTIBLE[name], "softplus"))


class AlmostDoubled(Doubled):
    """Its inverse is exact but for a little, by which zeros become negative."""

    def forward(self, raw):
        return 2 * raw - 1e-9


def test_projection_refuses_weights_that_stay_negative():
    model = nn.Sequential(ConvexLinear(2, 2))
    parametrize.register_parametrization(model[0], "weight", AlmostDoubled())
    with torch.no_grad():
        model[0].weight = torch.tensor([[1.0, -1.0], [2.0, 3.0]])
    with (
        unchanged(model),
        pytest.raises(ValueError, match="layer 0 is computed and stays negative"),
    ):
        project_(model)


def test_weights_that_are_properties_are_refused():
    model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), Computed(16, 2))
    for function in (init_icnn_, project_):
        with unchanged(model), pytest.raises(ValueError, match=r"layer 2 is computed.*Remove"):
            function(model)
    with torch.no_grad():
        model[2].raw.copy_(-model[2].raw.abs())
    with unchanged(model):
        project_(model)  # is non-negative as it is


def test_layers_with_a_map_of_their_own_are_refused():
    for initialise in (init_icnn_, lambda model: lsuv_init_(model, batch())):
        model = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), Doubling(16, 2))
        with unchanged(model), pytest.raises(ValueError, match=r"layer 2 does not use.*Doubling"):
            initialise(model)


def test_a_failure_in_the_middle_leaves_the_network_unchanged():
    def fails_later(weight, mean, variance, source):
        if weight.shape[1] == 12:
            raise RuntimeError("out of numbers")
        return weight.fill_(mean)

    model = network(parametrizations.weight_norm)
    with unchanged(model), pytest.raises(RuntimeError, match="out of numbers"):
        init_icnn_(model, distribution=fails_later, method="moments")


MOMENTS = solve_init(3)
FILLERS = {
    "lognormal_init_": lognormal_init_,
    "moments_init_": moments_init_,
    "the bias of lognormal_init_": lambda bias: lognormal_init_(torch.empty(3, 3), bias[0]),
    "lecun_normal_": lecun_normal_,
    "he_normal_": he_normal_,
    "orthogonal_init_": orthogonal_init_,
    "lognormal_": lambda weight: lognormal_(weight, 1.0, 1.0),
    "gamma_": lambda weight: gamma_(weight, 1.0, 1.0),
    "sampled_bias_": lambda bias: sampled_bias_(bias[0], torch.ones(3, 3), MOMENTS, 0.4),
    "centred_bias_": lambda bias: centred_bias_(bias[0], torch.ones(3, 3), MOMENTS, 0.4),
}


@pytest.mark.parametrize("fill", FILLERS.values(), ids=FILLERS)
@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (lambda: parametrizations.weight_norm(nn.Linear(3, 3)).weight, "is computed"),
        (lambda: old(nn.utils.weight_norm)(nn.Linear(3, 3)).weight, "is computed"),
        (lambda: prune.identity(nn.Linear(3, 3), "weight").weight, "is computed"),
        (lambda: Computed(3, 3).weight, "is computed"),
        (lambda: (2 * nn.Linear(3, 3).weight)[:2], "is computed"),
        (lambda: torch.empty(1, 1).expand(3, 3), "is expanded"),
        (lambda: torch.empty(3, 3, dtype=torch.int64), "must be floating point"),
    ],
    ids=["weight_norm", "old weight_norm", "pruned", "property", "view", "expanded", "integers"],
)
def test_tensors_that_do_not_keep_what_is_written_are_refused(fill, tensor, message):
    with pytest.raises(ValueError, match=message):
        fill(tensor())


@pytest.mark.parametrize("fill", FILLERS.values(), ids=FILLERS)
def test_parameters_their_parts_and_free_tensors_are_filled(fill):
    for make in (
        lambda: nn.Linear(3, 3).weight,
        lambda: nn.Linear(3, 6).weight[:3],
        lambda: nn.Linear(3, 3).weight.data,
        lambda: torch.zeros(3, 3),
    ):
        tensor = make()
        before = tensor.detach().clone()
        fill(tensor)
        assert (
            not torch.equal(tensor.detach(), before)
            or fill is FILLERS["the bias of lognormal_init_"]
        )


def test_tensors_of_the_inference_mode_are_filled_there_alone():
    with torch.inference_mode():
        weight = lognormal_init_(torch.empty(3, 3))
        layer = ConvexLinear(3, 3)
    for fill, tensor in ((lognormal_init_, weight), (init_icnn_, layer)):
        with pytest.raises(ValueError, match="inference mode"):
            fill(tensor)


def lazy_networks():
    return [
        (0, nn.Sequential(nn.LazyLinear(16), nn.ReLU(), ConvexLinear(16, 1))),
        (1, nn.Sequential(nn.Flatten(), nn.LazyLinear(16), nn.ReLU(), ConvexLinear(16, 1))),
        (2, nn.Sequential(nn.Linear(8, 16), ConvexLinear(16, 16), nn.LazyLinear(1))),
    ]


@pytest.mark.filterwarnings("ignore:these layers stay as they are")
@pytest.mark.parametrize("initialise", [init_icnn_, lambda model: lsuv_init_(model, batch())])
def test_lazy_layers_are_refused_until_they_have_seen_a_batch(initialise):
    for index, model in lazy_networks():
        message = rf"layer {index} does not exist yet; run a batch through"
        with pytest.raises(ValueError, match=message):
            initialise(model)
        model(batch())
        assert initialise(model) is model
    with pytest.raises(ValueError, match=r"does not exist yet.*device meta"):
        initialise(nn.Sequential(ConvexLinear(8, 1, device="meta")))


@pytest.mark.parametrize(
    "fill", [lognormal_init_, he_normal_, lecun_normal_, moments_init_, orthogonal_init_]
)
def test_a_lazy_weight_is_refused(fill):
    with pytest.raises(ValueError, match=r"has no shape yet.*run a batch through"):
        fill(nn.LazyLinear(3).weight)


@pytest.mark.parametrize("first", [Linear(3, 3), ConvexLinear(3, 3, positivity="softplus")])
@pytest.mark.parametrize(
    "initialise",
    [
        init_icnn_,
        lambda model: init_icnn_(model, method="moments"),
        lambda model: lsuv_init_(project_(model), torch.randn(8, 3)),
    ],
)
def test_one_weight_is_not_filled_for_two_maps(initialise, first):
    model = nn.Sequential(first, nn.ReLU(), ConvexLinear(3, 3), nn.ReLU(), ConvexLinear(3, 1))
    model[2].weight = model[0].weight
    with pytest.raises(ValueError, match=r"the layer 2 shares its weight with one .* another map"):
        initialise(model)
