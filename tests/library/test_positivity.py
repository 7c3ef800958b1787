"""Maps to non-negative weights."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from convexinit.positivity import POSITIVITY


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
@settings(deadline=None)
@given(data=st.data())
def test_all_weights_of_a_dtype_have_finite_raw_values_that_give_them_back(positivity, dtype, data):
    low = smallest(dtype)
    exponents = data.draw(st.lists(st.floats(math.log2(low), 15), min_size=1, max_size=50))
    weights = torch.tensor([2.0**exponent for exponent in exponents], dtype=torch.float64)
    weights = weights.to(dtype).clamp_min(low)
    raw = positivity.inverse(weights)
    assert raw.isfinite().all()
    assert raw.dtype == dtype
    # A raw value is rounded relative to its size, which for logarithms is an error of the weight.
    error = 2 * torch.finfo(dtype).eps * raw.abs().double().clamp_min(1)
    again = positivity.forward(raw).double()
    assert ((again - weights.double()).abs() <= error * weights.double() + low / 2).all()
    assert (again > 0).all()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("positivity", POSITIVITY.values(), ids=POSITIVITY)
def test_weights_next_to_zero_have_finite_raw_values(positivity, dtype):
    tiny = torch.tensor([0.0, smallest(dtype) / 2, smallest(dtype) / 100], dtype=dtype)
    raw = positivity.inverse(tiny)
    assert raw.isfinite().all()
    assert (positivity.forward(raw) >= 0).all()
    assert (positivity.forward(raw).double() <= 1.5 * smallest(dtype)).all()


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
