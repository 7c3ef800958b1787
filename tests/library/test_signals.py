"""Pre-activations apart from their means, against float64."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from convexinit.signals import Signal, mean_variance
from support.networks import generator


def drawn(rows, units, scale=1.0, seed=0):
    source = generator(seed)
    return 3 * torch.randn(units, generator=source) + scale * torch.randn(
        rows, units, generator=source
    )


def test_the_variance_of_many_rows_is_exact():
    values = drawn(2**22, 4)
    assert Signal.of(values).variance == pytest.approx(mean_variance(values.double()), rel=1e-6)


@given(
    rows=st.integers(2, 50), units=st.integers(1, 9), scale=st.floats(0.01, 100),
    ratio=st.floats(1.01, 100), seed=st.integers(0, 99),
)  # fmt: skip
def test_a_part_and_the_rest_have_the_variance_together(rows, units, scale, ratio, seed):
    part, rest = drawn(rows, units, seed=seed), drawn(rows, units, scale, seed + 100)
    wanted = ratio * mean_variance(rest.double())
    factor = Signal.of(part).factor_beside(Signal.of(rest), wanted)
    whole = Signal.of(rest).plus(Signal.of(part), factor)
    expected = rest.double() + factor * part.double()
    assert factor > 0
    assert torch.allclose((whole.means + whole.deviations).double(), expected, rtol=1e-3, atol=1e-3)
    least = 0.1 * mean_variance(rest.double()) / mean_variance(part.double())
    if factor**2 > 1.01 * least:
        assert mean_variance(expected) == pytest.approx(wanted, rel=1e-3)
