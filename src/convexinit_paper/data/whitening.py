"""PCA and ZCA whitening of pixels: inputs without correlations, of variance one.

The covariance matrix has the eigenvalues ``l`` and eigenvectors ``V`` (columns). A row ``x``
becomes ``(x - mean) @ matrix`` with ``matrix = V diag(1 / sqrt(l + epsilon))`` for PCA, and
``V diag(1 / sqrt(l + epsilon)) V^T`` for ZCA: the same, rotated back, which of all whitenings
changes the images least (Kessy et al. 2018, "Optimal whitening and decorrelation").

``epsilon`` is what the paper adds to the eigenvalues. It keeps directions that are (nearly)
constant over the training set bounded: nothing is scaled by more than ``1 / sqrt(epsilon) = 316``.
Where a feature is constant, as at the border of MNIST, the whitened training set is zero.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

EPSILON = 1e-5  # for pixels in [0, 1]
KINDS = ("pca", "zca")

# The product of 1,024 rows of integers in -128..127 has entries of at most 2^24 at every stage of
# the summation: float32 holds them exactly.
_EXACT_ROWS = 1024
_ROWS = 2048  # whitened at once, in float64
_MATRICES = 8  # of d x d float64 that are in memory at the same time, the eigensolver's included


@dataclass(frozen=True)
class Whitening:
    """An affine map that whitens pixels.

    Attributes:
        mean: of every feature over the training set, float64 ``[d]``, for pixels in [0, 1].
        matrix: float64 ``[d, d]``; PCA: columns by decreasing variance; ZCA: symmetric.
        white: the pixel value that counts as 1.
    """

    mean: Tensor
    matrix: Tensor
    white: int

    def apply(self, pixels: Tensor) -> Tensor:
        """Whiten pixels with these constants.

        The products are summed in float64: single terms are up to some hundred times as large as
        the result.

        Args:
            pixels: uint8 ``[n, d]``.

        Returns:
            float32 ``[n, d]``.
        """
        parts = [
            ((rows.double() / self.white - self.mean) @ self.matrix).float()
            for rows in pixels.split(_ROWS)
        ]
        return torch.cat(parts)


def whitening_bytes(features: int) -> int:
    """Memory that :func:`fit_whitening` takes for so many features, without the data, about."""
    return 8 * _MATRICES * features**2


def fit_whitening(pixels: Tensor, kind: str, white: int) -> Whitening:
    """The whitening of a training set, its pixels scaled to [0, 1] first.

    Args:
        pixels: uint8 ``[n, d]``, the training set.
        kind: "pca" or "zca".
        white: the pixel value that counts as 1.

    Raises:
        ValueError: kind out of range.
    """
    mean, covariance = pixel_moments(pixels)
    return Whitening(mean / white, whitening_matrix(covariance / white**2, kind, EPSILON), white)


def pixel_moments(pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and population covariance of every feature.

    All sums are of integers and exact, so that the result does not depend on the number of
    threads, and a constant feature has covariances of exactly zero.

    Args:
        pixels: uint8 ``[n, d]``; exact for n up to 700,000, and rounded as float64 beyond.

    Returns:
        Mean ``[d]`` and covariance ``[d, d]``, float64, in units of one grey level.
    """
    count, features = pixels.shape
    sums = torch.zeros(features, dtype=torch.float64)
    products = torch.zeros(features, features, dtype=torch.float64)
    for rows in pixels.split(_EXACT_ROWS):
        centred = rows.float().sub_(128)
        sums += centred.sum(0)
        products += centred.T @ centred
    # count * products and the outer product stay below 2^53, so that their difference is exact too.
    covariance = (count * products - torch.outer(sums, sums)) / count**2
    return sums / count + 128, covariance


def whitening_matrix(covariance: Tensor, kind: str, epsilon: float) -> Tensor:
    """The matrix that rows are multiplied with, from the covariance of the training set.

    Args:
        covariance: float64 ``[d, d]``.
        kind: "pca" or "zca".
        epsilon: added to the eigenvalues, above 0.

    Returns:
        float64 ``[d, d]``, see :class:`Whitening`. The signs of the PCA are fixed: of every
        eigenvector the entry of largest size is positive.

    Raises:
        ValueError: kind or epsilon out of range.
    """
    if kind not in KINDS:
        raise ValueError(f"the kind of whitening must be one of {', '.join(KINDS)}; got {kind!r}")
    if not epsilon > 0:
        raise ValueError(f"epsilon must be above 0, got {epsilon}")
    eigenvalues, vectors = (part.flip(-1) for part in torch.linalg.eigh(covariance))
    largest = vectors.gather(0, vectors.abs().argmax(0, keepdim=True))
    vectors = vectors * largest.sign()
    # Rounding makes eigenvalues of zero slightly negative.
    scaled = vectors * (eigenvalues.clamp(min=0) + epsilon).rsqrt()
    return scaled if kind == "pca" else scaled @ vectors.T
