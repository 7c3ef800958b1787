"""Maps to non-negative weights."""

import pytest
import torch

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


def test_neg_exp_is_defined_as_in_the_literature_and_safe_for_large_weights():
    raw = torch.tensor([-1.0, 0.0, 2.0, 1000.0], requires_grad=True)
    weight = POSITIVITY["neg_exp"].forward(raw)
    assert torch.allclose(weight, torch.tensor([torch.e**-1, 0.0, 2.0, 1000.0]))
    weight.sum().backward()
    assert raw.grad.isfinite().all()
