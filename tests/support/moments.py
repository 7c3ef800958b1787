"""Moments of activations in closed form, for comparison."""

import math

import pytest
from scipy import integrate


def plain_relu(s):
    """ReLU that is not recognised, and therefore integrated."""
    return s.clamp(min=0)


def close(value, expected, rel=1e-10):
    assert value == pytest.approx(expected, rel=rel, abs=0)


def relu_cross(r):
    """Eq. 7 at unit variance."""
    return (math.sqrt(1 - r**2) + r * math.acos(-r)) / (2 * math.pi)


def normal_tail(h):
    return math.erfc(h / math.sqrt(2)) / 2


def relu_moments(mean, variance, r):
    """Mean, variance and covariance of ReLU at any mean, from Price's theorem applied twice.

    d^2/dt^2 of the covariance of relu(x1 - h) and relu(x2 - h) is the joint density at (h, h).
    """
    std = math.sqrt(variance)
    h = -mean / std
    first = math.exp(-(h**2) / 2) / math.sqrt(2 * math.pi) - h * normal_tail(h)
    second = (1 + h**2) * normal_tail(h) - h * math.exp(-(h**2) / 2) / math.sqrt(2 * math.pi)

    def density(angle):  # t = sin(angle) takes away the singularity at t = 1
        t = math.sin(angle)
        return (r - t) * math.exp(-(h**2) / (1 + t)) / (2 * math.pi)

    tail, _ = integrate.quad(density, 0, math.asin(r), epsabs=0, epsrel=1e-12)
    covariance = r * normal_tail(h) ** 2 + tail
    return std * first, variance * (second - first**2), variance * covariance
