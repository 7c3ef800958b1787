"""Maps to non-negative weights."""

import copy
import math
import pickle
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils.parametrize import register_parametrization

from convexinit import ConvexConv2d, ConvexLinear, init_icnn_
from convexinit.positivity import (
    POSITIVITY,
    NonNegative,
    Positivity,
    has_slope,
    resolve_positivity,
    softplus,
)
from support.networks import generator


@pytest.mark.parametrize("positivity", POSITIVITY.values(), ids=POSITIVITY)
def test_maps_are_non_negative_and_inverted(positivity):
    weights = torch.logspace(-12, 3, 200, dtype=torch.float64)
    assert torch.allclose(positivity.forward(positivity.inverse(weights)), weights, rtol=1e-9)
    raw = torch.linspace(-20, 20, 401, dtype=torch.float64, requires_grad=True)
    if not positivity.projects:
        assert (positivity.forward(raw) >= 0).all()
    positivity.forward(raw).sum().backward()
    assert raw.grad.isfinite().all()
    assert positivity.inverse(torch.zeros(3)).isfinite().all()


DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


def smallest(dtype):
    """Smallest weight that is kept: the smallest normal number, in float16 the smallest at all."""
    return 2.0**-24 if dtype == torch.float16 else torch.finfo(dtype).tiny


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("positivity", POSITIVITY.values(), ids=POSITIVITY)
@settings(deadline=None, max_examples=30)
@given(data=st.data())
def test_all_weights_of_a_dtype_have_finite_raw_values_that_give_them_back(positivity, dtype, data):
    low = smallest(dtype)
    exponents = data.draw(st.lists(st.floats(math.log2(low), 15), min_size=1, max_size=50))
    weights = torch.tensor([2.0**exponent for exponent in exponents], dtype=torch.float64)
    weights = weights.to(dtype).clamp_min(low)
    raw = positivity.inverse(weights)
    assert raw.isfinite().all()
    assert raw.dtype == dtype
    # A raw value is rounded relative to its size; the slope of the map makes it one of the weight.
    # A map and its inverse are of up to three operations each, which round by half an eps or more.
    exact = raw.double().requires_grad_()
    (slope,) = torch.autograd.grad(positivity.forward(exact).sum(), exact)
    error = 4 * torch.finfo(dtype).eps * (exact.detach() * slope).abs().maximum(weights.double())
    again = positivity.forward(raw).double()
    assert ((again - weights.double()).abs() <= error + low / 2).all()
    assert (again > 0).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("positivity", POSITIVITY.values(), ids=POSITIVITY)
def test_weights_next_to_zero_have_finite_raw_values(positivity, dtype):
    tiny = torch.tensor([0.0, smallest(dtype) / 2, smallest(dtype) / 100], dtype=dtype)
    raw = positivity.inverse(tiny)
    assert raw.isfinite().all()
    assert (positivity.forward(raw) >= 0).all()
    assert (positivity.forward(raw).double() <= 1.5 * smallest(dtype)).all()


@pytest.mark.parametrize("beta", [1e-2, 0.3, 3.0, 1e3])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_softplus_of_any_temperature_has_finite_raw_values(dtype, beta):
    positivity = softplus(beta)
    weights = torch.tensor([0.0, smallest(dtype), 1e-3, 1.0, 30.0], dtype=dtype)
    raw = positivity.inverse(weights)
    assert raw.isfinite().all()
    error = 2 * smallest(dtype) / min(beta, 1)
    torch.testing.assert_close(positivity.forward(raw), weights, rtol=0.02, atol=error)


def test_neg_exp_is_defined_as_in_the_literature_and_safe_for_large_weights():
    raw = torch.tensor([-1.0, 0.0, 2.0, 1000.0], requires_grad=True)
    weight = POSITIVITY["neg_exp"].forward(raw)
    assert torch.allclose(weight, torch.tensor([torch.e**-1, 0.0, 2.0, 1000.0]))
    weight.sum().backward()
    assert raw.grad.isfinite().all()


def test_softplus_gives_back_weights_around_the_point_where_torch_makes_it_linear():
    softplus = POSITIVITY["softplus"]
    weights = torch.tensor([19.9, 20.0, 20 + 1e-9, 20 + 3e-9, 22.6, 1e3], dtype=torch.float64)
    again = softplus.forward(softplus.inverse(weights))
    torch.testing.assert_close(again, weights, rtol=1e-14, atol=0)


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("elu", lambda raw: F.elu(raw) + 1),
        ("abs", torch.abs),
        ("softplus_10", lambda raw: torch.log1p(torch.exp(10 * raw)) / 10),
    ],
)
def test_maps_are_those_of_published_networks(name, published):
    raw = torch.linspace(-3, 2, 101, dtype=torch.float64)
    torch.testing.assert_close(POSITIVITY[name].forward(raw), published(raw), rtol=1e-9, atol=0)


@pytest.mark.parametrize("positivity", POSITIVITY.values(), ids=POSITIVITY)
def test_gradients_agree_with_finite_differences_and_abs_has_one_at_zero(positivity):
    raw = torch.tensor([-2.3, -0.4, 0.3, 1.7], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(positivity.forward, (raw,))
    zero = positivity.inverse(torch.zeros(1, dtype=torch.float64)).requires_grad_()
    (slope,) = torch.autograd.grad(positivity.forward(zero), zero)
    # "clip" and "square" let none through there, and those whose weights only approach zero little.
    passes = positivity.name in ("projection", "neg_exp", "abs")
    assert float(slope) == float(passes) or 0 < float(slope) < 1e-300
    assert has_slope(positivity.forward, positivity.inverse(torch.zeros(1))) == passes


def test_a_map_of_ones_own_works_in_layers_and_is_known_by_its_name():
    own = softplus(3.0)
    assert own == copy.deepcopy(own) == pickle.loads(pickle.dumps(own))
    assert own.name == "softplus_3"
    assert softplus(10) == POSITIVITY["softplus_10"]
    assert softplus(1) == POSITIVITY["softplus"]
    assert resolve_positivity(own) is own
    layer, plain = (
        init_icnn_(ConvexLinear(50, 20, positivity=one), method="moments", generator=generator())
        for one in (own, "projection")
    )
    torch.testing.assert_close(layer.nonnegative_weight, plain.weight, rtol=1e-5, atol=1e-7)
    with pytest.raises(RuntimeError, match="trained with positivity='softplus_3'"):
        ConvexLinear(50, 20, positivity="softplus_10").load_state_dict(layer.state_dict())
    ConvexLinear(50, 20, positivity=softplus(3.0)).load_state_dict(layer.state_dict())
    with pytest.raises(ValueError, match="beta must be a number in"):
        softplus(0.0)


@pytest.mark.parametrize(
    "layer",
    [nn.Linear(9, 7), nn.Conv3d(2, 4, 3, groups=2), nn.GRUCell(3, 2), nn.Bilinear(2, 3, 4)],
    ids=lambda layer: type(layer).__name__,
)
@pytest.mark.parametrize("name", sorted(POSITIVITY.keys() - {"projection"}))
def test_any_weight_can_be_parametrised_assigned_and_trained(layer, name):
    layer = copy.deepcopy(layer)
    weight = "weight_ih" if isinstance(layer, nn.GRUCell) else "weight"
    before = getattr(layer, weight).detach().clone()
    register_parametrization(layer, weight, NonNegative(name))
    zero = POSITIVITY[name].forward(POSITIVITY[name].inverse(torch.zeros(())))
    torch.testing.assert_close(
        getattr(layer, weight), before.clamp_min(0) + zero, rtol=1e-5, atol=1e-6
    )
    given = torch.rand(before.shape, generator=generator()) + 0.1
    setattr(layer, weight, given)
    torch.testing.assert_close(getattr(layer, weight), given, rtol=1e-5, atol=0)
    optimiser = torch.optim.SGD(layer.parameters(), lr=0.5)
    for _ in range(5):
        optimiser.zero_grad()
        getattr(layer, weight).sum().backward()  # whose minimum is where all weights are zero
        optimiser.step()
    after = getattr(layer, weight).detach()
    assert (after >= 0).all()
    # neg_exp jumps up where a raw value crosses zero
    assert name == "neg_exp" or after.sum() < given.sum()
    assert NonNegative(name).extra_repr() == f"positivity={name}"


def test_a_parametrised_layer_starts_as_a_convex_one():
    """Through the right inverse, by the initialiser of whole networks."""
    layers = [ConvexConv2d(3, 5, 3, positivity=positivity) for positivity in ("projection", "exp")]
    register_parametrization(layers[0], "weight", NonNegative("softplus"))
    for layer in layers:
        init_icnn_(layer, method="moments", generator=generator())
    torch.testing.assert_close(layers[0].weight, layers[1].nonnegative_weight, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("forward", [torch.sin, F.silu, lambda raw: raw.sub_(1).relu_() - 0.1])
def test_a_map_that_gives_negative_weights_is_refused(forward):
    own = Positivity("own", forward, forward)
    for use in (partial(ConvexLinear, 3, 2), partial(ConvexConv2d, 3, 2, 1), NonNegative):
        with pytest.raises(
            ValueError, match=r"^positivity 'own' gives negative weights, such as -"
        ):
            use(positivity=own)


def test_a_map_is_not_tried_where_there_are_no_values():
    with FakeTensorMode():
        assert ConvexLinear(3, 2, positivity="exp").weight.shape == (2, 3)


def test_projection_is_no_parametrization():
    with pytest.raises(ValueError, match="leaves weights as they are; take another map"):
        NonNegative("projection")
    with pytest.raises(ValueError, match=r"positivity must be a .*Positivity or one of proj"):
        NonNegative("magic")


def test_the_state_of_a_parametrization_with_another_map_is_refused():
    first, other, same = (
        register_parametrization(nn.Linear(3, 2), "weight", NonNegative(name))
        for name in ("softplus", "exp", "softplus")
    )
    with pytest.raises(RuntimeError, match="'softplus', but here positivity is 'exp'"):
        other.load_state_dict(first.state_dict())
    same.load_state_dict(first.state_dict())
    assert torch.equal(same.weight, first.weight)
