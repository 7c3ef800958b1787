"""How far the approximation of a convolution by a dense layer is off, in closed form and measured.

The figures of docs/theory.md, "Convolutions", are those of these tests.
"""

import pytest
import torch
from torch import nn

from convexinit import ConvexConv2d, init_icnn_, solve_init
from convexinit.moments import activation_moments
from convexinit.theory import SignalMoments, propagate
from support.networks import generator

CHANNELS, RHO, SIZE = 16, 0.5, 12


def one_layer(kernel: int, covered: int, same: bool) -> tuple[float, float]:
    """Mean and variance after a layer whose kernel covers some positions, the others being zero.

    Its inputs have the moments that it was initialised for, channel by channel; those of different
    positions are the same, or independent.
    """
    layer = solve_init(CHANNELS * kernel**2, rho=RHO)
    phi = activation_moments("relu", correlation=RHO)
    mean = covered * CHANNELS * layer.weight_mean * phi.mean + layer.bias_mean
    channels = CHANNELS * (phi.variance + (CHANNELS - 1) * phi.covariance)
    pairs = covered**2 if same else covered
    own = covered * CHANNELS * layer.weight_var * phi.second_moment
    return mean, own + layer.weight_mean**2 * pairs * channels


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("same", [False, True], ids=["independent", "same"])
def test_one_layer_is_as_far_off_as_its_closed_form_says(kernel, same):
    source = generator()
    sums = torch.zeros(2, 2, 2, dtype=torch.float64)  # moments, positions, both
    draws, images, positions = 200, 64, 1 if same else SIZE
    for _ in range(draws):
        layer = ConvexConv2d(CHANNELS, 8, kernel, padding=kernel // 2)
        # The fourth moment of log-normal weights would need far more draws.
        init_icnn_(layer, rho=RHO, distribution="gamma", method="moments", generator=source)
        share = torch.randn(images, 1, positions, positions, generator=source)
        own = torch.randn(images, CHANNELS, positions, positions, generator=source)
        signal = (RHO**0.5 * share + (1 - RHO) ** 0.5 * own).expand(-1, -1, SIZE, SIZE)
        with torch.no_grad():
            after = layer(torch.relu(signal)).double()
        for index, at in enumerate((SIZE // 2, 0)):  # the middle, and a corner
            values = after[:, :, at, at]
            sums[0, index] += values.mean()
            sums[1, index] += values.square().mean()
    means = sums[0, :, 0] / draws
    variances = sums[1, :, 0] / draws - means.square()
    corner = (kernel // 2 + 1) ** 2
    for index, covered in enumerate((kernel**2, corner)):
        mean, variance = one_layer(kernel, covered, same)
        assert float(means[index]) == pytest.approx(mean, abs=0.02)
        assert float(variances[index]) == pytest.approx(variance, rel=0.08)


def blurred(images):
    """White noise, or noise that hardly differs from pixel to pixel, of variance 1."""
    kernel = torch.ones(1, 1, 5, 5) / 5
    channels = images.flatten(0, 1).unsqueeze(1)
    return torch.conv2d(channels, kernel).reshape(*images.shape[:2], SIZE, SIZE)


def network_moments(kernel, padding_mode, smooth, draws=40, layers=4):
    """``[layers, 2]``: mean and variance of the pre-activations of convex layers, all positions."""
    source, total = generator(), torch.zeros(layers, 2, dtype=torch.float64)
    for _ in range(draws):
        convolutions = [
            (ConvexConv2d if index else nn.Conv2d)(
                CHANNELS if index else 3, CHANNELS, kernel, padding=kernel // 2,
                padding_mode=padding_mode,
            )
            for index in range(layers + 1)
        ]  # fmt: skip
        network = init_icnn_(
            nn.Sequential(*convolutions),
            bias_noise=0.5,
            distribution="gamma",
            method="moments",
            generator=source,
        )
        images = torch.randn(64, 3, SIZE + 4 * smooth, SIZE + 4 * smooth, generator=source)
        signal = blurred(images) if smooth else images
        with torch.no_grad():
            for index, layer in enumerate(network):
                signal = layer(torch.relu(signal) if index else signal)
                if index:
                    total[index - 1, 0] += signal.double().mean()
                    total[index - 1, 1] += signal.double().square().mean()
    means = total[:, 0] / draws
    return torch.stack([means, total[:, 1] / draws - means.square()], 1)


def dense_moments(kernel, layers=4):
    """What the theory of a dense layer says of the same networks."""
    fan_in = CHANNELS * kernel**2
    layer = solve_init(fan_in, bias_noise=0.5)
    signal, rows = SignalMoments(0.0, 1.0, 0.0), []
    for _ in range(layers):
        signal = propagate(signal, layer, fan_in)
        rows.append((signal.mean, signal.variance))
    return rows


@pytest.mark.slow
@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("smooth", [False, True], ids=["noise", "smooth"])
def test_repeated_borders_leave_networks_close_to_dense_ones_and_zeros_lower_the_mean(
    kernel, smooth
):
    expected = torch.tensor(dense_moments(kernel), dtype=torch.float64)
    repeated = network_moments(kernel, "replicate", smooth)
    assert ((repeated[:, 0] - expected[:, 0]).abs() < 0.25).all()
    ratios = repeated[:, 1] / expected[:, 1]
    assert ratios.min() > 0.8
    assert ratios.max() < 2.5
    zeros = network_moments(kernel, "zeros", smooth)
    # Share of the kernel's positions that are pixels, on average, in either direction.
    covered = 1 - (kernel**2 - 1) / (4 * kernel * SIZE)
    fan_in = CHANNELS * kernel**2
    full = fan_in * solve_init(fan_in).weight_mean * activation_moments("relu").mean
    assert float(zeros[0, 0]) == pytest.approx(-(1 - covered**2) * full, abs=0.1)
    assert (zeros[:3, 0] < repeated[:3, 0]).all()
