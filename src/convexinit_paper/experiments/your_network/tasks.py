"""Small tasks for input-convex networks of several kinds, made up from one seed.

Losses on the test set are relative: 1 is that of the best constant, or of doing nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Generator, Tensor

from convexinit_paper.experiments.your_network.networks import gradient

NOISE = 0.3  # standard deviation, beside pixels from 0 to 1

Inputs = tuple[Tensor, ...]
Loss = Callable[[Any, Inputs, Tensor], Tensor]


@dataclass(frozen=True)
class Task:
    """What networks of a kind are trained for.

    Attributes:
        draw: this many rows of inputs and targets, from a generator that also decides the function
            that is to be learned.
        loss: that is minimised, of network, inputs and targets.
        test_loss: relative, see above.
        train_rows: in the training set.
        test_rows: in the test set.
        batch_size: rows per step of training.
    """

    draw: Callable[[int, Generator], tuple[Inputs, Tensor]]
    loss: Loss
    test_loss: Loss
    train_rows: int = 4096
    test_rows: int = 4096
    batch_size: int = 256


def relative_error(network: Any, inputs: Inputs, target: Tensor) -> Tensor:
    """Mean squared error over the variance of the targets, summed over their dimensions."""
    error = (network(*inputs).reshape(target.shape) - target).square()
    return error.mean() / (target - target.mean(0)).square().mean()


def _regression(rows: int, generator: Generator) -> tuple[Inputs, Tensor]:
    """A smooth maximum of eight affine functions, and a quadratic one in half of the inputs."""
    x = torch.randn(rows, 8, generator=generator)
    slopes = torch.randn(8, 8, generator=generator)
    target = (x @ slopes).logsumexp(1) + 0.5 * x[:, :4].square().sum(1)
    return (x,), (target - target.mean()) / target.std()


def _control(rows: int, generator: Generator) -> tuple[Inputs, Tensor]:
    """Cost of a step of a linear system: where it ends, and the effort."""
    state = torch.randn(rows, 4, generator=generator)
    action = torch.randn(rows, 2, generator=generator)
    after = state + action @ torch.randn(2, 4, generator=generator)
    target = after.abs().sum(1) + 0.5 * action.square().sum(1)
    return (state, action), (target - target.mean()) / target.std()


def _conditional(rows: int, generator: Generator) -> tuple[Inputs, Tensor]:
    """Convex in the second argument, with slopes that the first one shifts."""
    u = torch.randn(rows, 3, generator=generator)
    y = torch.randn(rows, 6, generator=generator)
    slopes = torch.randn(4, 6, 6, generator=generator)
    mixed = slopes[0] + 0.5 * torch.einsum("nk,kij->nij", u, slopes[1:])
    target = F.softplus(torch.einsum("ni,nij->nj", y, mixed)).sum(1)
    return (u, y), (target - target.mean()) / target.std()


def _transported(x: Tensor, corners: Tensor) -> Tensor:
    """Gradient of a convex function: points ``[n, 2]`` drawn towards corners ``[k, 2]``."""
    return 0.5 * x + 1.5 * (3 * x @ corners.T).softmax(1) @ corners


def _clouds(rows: int, generator: Generator) -> tuple[Inputs, Tensor]:
    """Points, and as targets ``[n, 2, 2]`` points of the other cloud and where each one belongs."""
    corners = F.normalize(torch.randn(4, 2, generator=generator))
    x, others = torch.randn(2, rows, 2, generator=generator)
    return (x,), torch.stack([_transported(others, corners), _transported(x, corners)], 1)


def _dual(network: Any, inputs: Inputs, target: Tensor) -> Tensor:
    """Dual of optimal transport; the conjugate is taken over the points of the batch."""
    values = network(*inputs)
    return (values + (inputs[0] @ target[:, 0].T - values).amax(0)[:, None]).mean()


def _map_error(network: Any, inputs: Inputs, target: Tensor) -> Tensor:
    """Error of the gradient as the map, relative to the variance of the target cloud."""
    return relative_error(lambda x: gradient(network, x), inputs, target[:, 1])


def _pairs(rows: int, generator: Generator) -> tuple[Inputs, Tensor]:
    """Points and where each one belongs."""
    inputs, target = _clouds(rows, generator)
    return inputs, target[:, 1]


def _images(rows: int, generator: Generator) -> tuple[Inputs, Tensor]:
    """Noisy images ``[n, 1, 8, 8]`` of digits, and clean ones."""
    images = torch.tensor(load_digits().images / 16, dtype=torch.float32)[:, None]
    clean = images[torch.randperm(len(images), generator=generator)[:rows]]
    return (clean + NOISE * torch.randn(clean.shape, generator=generator),), clean


def _denoising(network: Any, inputs: Inputs, target: Tensor) -> Tensor:
    """Error after one step down the energy, relative to the noise."""
    restored = inputs[0] - gradient(network, inputs[0])
    return (restored - target).square().mean() / NOISE**2


def _stresses(rows: int, generator: Generator) -> tuple[Inputs, Tensor]:
    """Deformations, and stresses of a compressible material (neo-Hooke)."""
    deformation = torch.eye(2) + 0.3 * torch.randn(rows, 2, 2, generator=generator)
    (a, b), (c, d) = deformation.movedim(0, 2)
    cofactor = torch.stack([torch.stack([d, -c], 1), torch.stack([-b, a], 1)], 1)
    determinant = (a * d - b * c)[:, None, None]
    return (deformation,), deformation + (4 * (determinant - 1) - 1) * cofactor


REGRESSION = Task(_regression, relative_error, relative_error)
CONTROL = Task(_control, relative_error, relative_error)
CONDITIONAL = Task(_conditional, relative_error, relative_error)
TRANSPORT = Task(_clouds, _dual, _map_error)
PAIRS = Task(_pairs, relative_error, relative_error)
DENOISING = Task(_images, _denoising, _denoising, train_rows=1200, test_rows=597, batch_size=32)
STRESSES = Task(_stresses, relative_error, relative_error)
