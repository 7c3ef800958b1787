"""The random split into training and validation samples."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from convexinit_paper.data.split import random_split


@settings(deadline=None)  # shared machines
@given(n=st.integers(2, 300), fraction=st.floats(0, 1, exclude_max=True), seed=st.integers(0, 99))
def test_split_is_a_partition(n, fraction, seed):
    train, validation = random_split(n, fraction, torch.Generator().manual_seed(seed))
    assert train.dtype == validation.dtype == torch.int64
    assert sorted(train.tolist() + validation.tolist()) == list(range(n))
    assert len(train) >= 1
    assert (len(validation) >= 1) == (fraction > 0)
    assert abs(len(validation) - n * fraction) <= 1

    again = random_split(n, fraction, torch.Generator().manual_seed(seed))
    assert torch.equal(again[0], train)
    assert torch.equal(again[1], validation)


def test_split_of_the_paper():
    splits = [random_split(60_000, 0.1, torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    assert [len(part) for part in splits[0]] == [54_000, 6_000]
    assert not torch.equal(splits[0][1], splits[1][1])
    # Independent splits share a tenth of their validation samples: 600, standard deviation 22.
    shared = torch.isin(splits[0][1], splits[1][1]).sum().item()
    assert 490 < shared < 710


@pytest.mark.parametrize(
    ("n", "fraction", "message"),
    [
        *((10, fraction, r"must lie in \[0, 1\)") for fraction in (-0.1, 1.0, float("nan"))),
        (1, 0.1, "n >= 2"),
    ],
)
def test_arguments_out_of_range(n, fraction, message):
    with pytest.raises(ValueError, match=message):
        random_split(n, fraction, torch.Generator())
