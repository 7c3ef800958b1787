"""Moments of activations against scipy and closed forms."""

import math

import pytest
import torch
import torch.nn.functional as F
from scipy import integrate
from torch import nn

from convexinit.moments import activation_moments
from support.moments import close, plain_relu, relu_cross, relu_moments


def scipy_moments(phi, mean, variance, r):
    """Mean, variance and covariance by scipy, over quadrants, with kinks at zero allowed."""
    std = math.sqrt(variance)
    density = 1 / (2 * math.pi * math.sqrt(1 - r**2))

    def moment(power):
        def integrand(x):
            return phi(mean + std * x) ** power * math.exp(-(x**2) / 2) / math.sqrt(2 * math.pi)

        kink = -mean / std
        parts = [
            integrate.quad(integrand, *ends, epsabs=1e-15, epsrel=1e-13, limit=200)[0]
            for ends in ((-13, kink), (kink, 13))
        ]
        return sum(parts)

    def joint(y, x):
        exponent = (x**2 - 2 * r * x * y + y**2) / (2 * (1 - r**2))
        return phi(mean + std * x) * phi(mean + std * y) * density * math.exp(-exponent)

    kink, cross = -mean / std, 0.0
    for x in ((-9, kink), (kink, 9)):
        for y in ((-9, kink), (kink, 9)):
            cross += integrate.dblquad(joint, *x, *y, epsabs=1e-12, epsrel=1e-11)[0]
    first = moment(1)
    return first, moment(2) - first**2, cross - first**2


MATH_ACTIVATIONS = {
    "softplus": lambda s: max(s, 0) + math.log1p(math.exp(-abs(s))),
    "elu": lambda s: s if s > 0 else math.expm1(s),
    "leaky_relu": lambda s: s if s > 0 else 0.01 * s,
}


@pytest.mark.parametrize("name", MATH_ACTIVATIONS)
@pytest.mark.parametrize(
    ("mean", "variance", "r"), [(0.0, 1.0, 0.5), (-0.7, 2.5, 0.3), (0.4, 0.3, -0.6)]
)
def test_moments_match_scipy(name, mean, variance, r):
    moments = activation_moments(name, mean=mean, variance=variance, correlation=r)
    first, var, cov = scipy_moments(MATH_ACTIVATIONS[name], mean, variance, r)
    close(moments.mean, first)
    close(moments.variance, var)
    close(moments.covariance, cov, rel=1e-9)  # what dblquad reaches
    close(moments.second_moment, var + first**2)
    close(moments.cross_moment, cov + first**2)


@pytest.mark.parametrize(
    "r", [-1.0, -0.999, -0.3, -1e-6, 0.0, 1e-6, 0.01, 0.5, 0.99, 1 - 1e-6, 1.0]
)
@pytest.mark.parametrize("variance", [1e-6, 1.0, 1e6])
def test_relu_moments_are_eq_7(r, variance):
    for activation in ("relu", plain_relu):
        moments = activation_moments(activation, variance=variance, correlation=r)
        close(moments.mean, math.sqrt(variance / (2 * math.pi)))
        close(moments.second_moment, variance / 2)
        assert moments.cross_moment == pytest.approx(
            variance * relu_cross(r), rel=1e-10, abs=1e-15 * variance
        )


@pytest.mark.parametrize("slope", [0.0, 0.01, 0.3, 1.0])
@pytest.mark.parametrize("r", [-0.4, 1e-6, 0.5, 1 - 1e-6])
def test_leaky_relu_closed_form_and_quadrature_agree(slope, r):
    closed = activation_moments(nn.LeakyReLU(slope), variance=3.0, correlation=r)
    numeric = activation_moments(lambda s: F.leaky_relu(s, slope), variance=3.0, correlation=r)
    assert closed.mean == pytest.approx(numeric.mean, rel=1e-11, abs=1e-14)
    close(closed.variance, numeric.variance, rel=1e-11)
    close(closed.covariance, numeric.covariance, rel=1e-11)
    # Reference, section 2.
    cross = slope**2 * r + slope * (1 - slope) * r + (1 - slope) ** 2 * relu_cross(r)
    assert closed.cross_moment == pytest.approx(3 * cross, rel=1e-12, abs=1e-15)
    close(closed.second_moment, 3 * (1 + slope**2) / 2, rel=1e-14)


@pytest.mark.parametrize("mean", [-3.0, -0.5, 0.2, 4.0])
@pytest.mark.parametrize("r", [1e-6, 0.5, 0.999, 1 - 1e-6])
@pytest.mark.parametrize("variance", [0.25, 9.0])
def test_relu_moments_at_nonzero_mean(mean, r, variance):
    moments = activation_moments("relu", mean=mean, variance=variance, correlation=r)
    expected = relu_moments(mean, variance, r)
    for value, reference in zip(
        (moments.mean, moments.variance, moments.covariance), expected, strict=True
    ):
        close(value, reference, rel=1e-9)


@pytest.mark.parametrize(
    ("kink", "variance"),
    [(0.3, 0.01), (0.3, 1.0), (0.3, 1e6), (-1.0, 4.0), (2.0, 1.0), (-6.0, 1e6)],
)
@pytest.mark.parametrize("r", [1e-6, 0.5, 1 - 1e-6])
def test_kinks_away_from_zero(kink, variance, r):
    moments = activation_moments(lambda s: F.relu(s - kink), variance=variance, correlation=r)
    expected = relu_moments(-kink, variance, r)
    for value, reference in zip(
        (moments.mean, moments.variance, moments.covariance), expected, strict=True
    ):
        close(value, reference, rel=1e-9)


@pytest.mark.parametrize("r", [-0.5, 1e-6, 0.3, 1 - 1e-6])
def test_closed_forms_of_other_activations(r):
    mean, variance = 0.3, 2.0
    moments = activation_moments("exp", mean=mean, variance=variance, correlation=r)
    close(moments.mean, math.exp(mean + variance / 2))
    close(moments.variance, math.exp(2 * mean + variance) * math.expm1(variance))
    close(moments.covariance, math.exp(2 * mean + variance) * math.expm1(variance * r))

    moments = activation_moments("squared_relu", variance=variance, correlation=r)
    angle = math.acos(r)  # arc-cosine kernel of order 2 (Cho and Saul, 2009)
    kernel = 3 * math.sin(angle) * r + (math.pi - angle) * (1 + 2 * r**2)
    close(moments.mean, variance / 2)
    close(moments.second_moment, 1.5 * variance**2)
    close(moments.cross_moment, variance**2 * kernel / (2 * math.pi))

    moments = activation_moments(torch.abs, variance=variance, correlation=r)
    close(moments.mean, math.sqrt(2 * variance / math.pi))
    cross = math.sqrt(1 - r**2) + r * math.asin(r)
    close(moments.cross_moment, 2 * variance / math.pi * cross)

    moments = activation_moments(torch.erf, variance=variance, correlation=r)
    assert moments.mean == pytest.approx(0, abs=1e-14)
    close(moments.covariance, 2 / math.pi * math.asin(2 * variance * r / (1 + 2 * variance)))

    moments = activation_moments(lambda s: (s > 0).double(), variance=variance, correlation=r)
    close(moments.covariance, math.asin(r) / (2 * math.pi))

    moments = activation_moments("identity", mean=mean, variance=variance, correlation=r)
    close(moments.mean, mean)
    close(moments.covariance, r * variance)


def test_small_variance_is_not_lost_against_a_large_mean():
    # softplus is log 2 + s/2 + s^2/8 + O(s^4) about zero
    moments = activation_moments("softplus", variance=1e-6, correlation=1e-6)
    close(moments.covariance, 1e-12 / 4, rel=1e-6)
