"""Checks of arguments: what they take, and what they say of the rest."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convexinit.checks import check_choice, check_function, check_integer, check_number

NO_NUMBERS = [None, "0.5", True, [0.5], 0.5j, math.nan]


@given(
    value=st.floats() | st.integers(-3, 3) | st.sampled_from([-1.0, 1.0]).map(np.float32),
    ends=st.sampled_from(["()", "[)", "(]", "[]"]),
)
def test_numbers_inside_the_interval_are_returned_and_no_others(value, ends):
    inside = -1 < value < 1 or (value == -1 and ends[0] == "[") or (value == 1 and ends[1] == "]")
    if inside:
        result = check_number("rho", value, -1, 1, ends)
        assert (type(result), result) == (float, value)
        return
    with pytest.raises(ValueError, match="rho must be a number in") as caught:
        check_number("rho", value, -1, 1, ends)
    assert str(caught.value) == f"rho must be a number in {ends[0]}-1, 1{ends[1]}, got {value!r}"


@pytest.mark.parametrize("value", NO_NUMBERS)
def test_what_is_no_number_is_refused(value):
    with pytest.raises(ValueError, match="number in \\(-inf, inf\\), got"):
        check_number("mean", value)


@given(value=st.integers(), least=st.integers(-2, 2), kind=st.sampled_from([int, np.int64]))
def test_integers_from_the_least_on_are_returned_and_no_others(value, least, kind):
    if abs(value) < 2**63:
        value = kind(value)
    if value >= least:
        result = check_integer("steps", value, least)
        assert (type(result), result) == (int, value)
    else:
        with pytest.raises(ValueError, match=f"steps must be an integer of at least {least}, got"):
            check_integer("steps", value, least)


@pytest.mark.parametrize("value", [*NO_NUMBERS, 2.0])
def test_what_is_no_integer_is_refused(value):
    with pytest.raises(ValueError, match="an integer of at least 1, got"):
        check_integer("steps", value)


def test_names_are_looked_up_and_callables_are_their_own_entry():
    table = {"sine": math.sin, "cosine": math.cos}
    assert check_choice("map", "sine", table) is math.sin
    assert check_function("map", "cosine", table) is math.cos
    assert check_function("map", math.exp, table) is math.exp
    for value in ("tangent", None, 3, [], math.exp):
        with pytest.raises(ValueError, match="map must be one of sine, cosine, got"):
            check_choice("map", value, table)
    for value in ("tangent", None, 3):
        with pytest.raises(ValueError, match="map must be a callable or one of sine, cosine, got"):
            check_function("map", value, table)
