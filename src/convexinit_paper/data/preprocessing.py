"""From raw images to inputs of a network: normalised or whitened, and flattened."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from convexinit_paper.data.images import ImageData
from convexinit_paper.data.whitening import fit_whitening, whitening_bytes
from convexinit_paper.training.memory import BYTES, require_memory

# What needs less memory than images that do not fit.
SMALLER_IMAGES = "smaller images (dataset.size of a folder of images)"


@dataclass(frozen=True)
class ImageInputs:
    """Images as inputs of a network, ready for training.

    Attributes:
        train_inputs: float32 [n, d].
        train_labels: int64 [n], in 0..num_classes-1.
        test_inputs: float32 [m, d].
        test_labels: int64 [m].
        num_classes: number of classes.
        title: the name used in figures, e.g. "MNIST".
        image_shape: channels, height and width of the images that inputs are, flattened.
    """

    train_inputs: Tensor
    train_labels: Tensor
    test_inputs: Tensor
    test_labels: Tensor
    num_classes: int
    title: str
    image_shape: tuple[int, int, int]


def preprocess(data: ImageData, how: str) -> ImageInputs:
    """Turn images into inputs of a network.

    All constants come from the whole training set, the samples that seeds hold out for validation
    included, as in the original experiments: seeds that train as one stacked network share their
    inputs.

    Args:
        data: raw images.
        how: one of :data:`PREPROCESSING`: "normalise" (every channel), "pca" or "zca" (whitening).

    Raises:
        ValueError: ``how`` is unknown, :func:`normalise` fails, or there is too little memory.
    """
    if how not in PREPROCESSING:
        raise ValueError(f"unknown pre-processing {how!r}; known: {', '.join(PREPROCESSING)}")
    pixels = data.train_inputs.numel() + data.test_inputs.numel()
    require_memory(BYTES * pixels, f"{data.title}: the inputs of networks", SMALLER_IMAGES)
    return PREPROCESSING[how](data)


def normalise(data: ImageData) -> ImageInputs:
    """Normalise every channel with its mean and standard deviation on the training set, flatten.

    The test set is normalised with the constants of the training set, as the paper does.

    Raises:
        ValueError: a channel is constant over the training set.
    """
    mean, std = channel_statistics(data.train_inputs)
    if not std.gt(0).all():
        raise ValueError(f"{data.title}: a channel is constant and cannot be normalised")
    mean, std = mean.float().view(-1, 1, 1), std.float().view(-1, 1, 1)

    return _apply(lambda images: images.float().sub_(mean).div_(std).flatten(1), data)


def whiten(data: ImageData, kind: str) -> ImageInputs:
    """Whiten the pixels, scaled to [0, 1], with constants of the training set; see ``whitening``.

    Pixels are scaled and nothing else: ``whitening.EPSILON``, which is added to the eigenvalues,
    is relative to pixels in [0, 1].

    Args:
        data: raw images.
        kind: "pca" or "zca".

    Raises:
        ValueError: the kind is unknown, or the images are too large for the free memory.
    """
    features = data.train_inputs[0].numel()
    require_memory(
        whitening_bytes(features),
        f"{data.title}: the matrices of {kind} whitening of {features:,} pixel values",
        f"{SMALLER_IMAGES} or dataset.preprocessing=normalise",
    )
    whitening = fit_whitening(data.train_inputs.flatten(1), kind, data.white)
    return _apply(lambda images: whitening.apply(images.flatten(1)), data)


PREPROCESSING: dict[str, Callable[[ImageData], ImageInputs]] = {
    "normalise": normalise,
    "pca": partial(whiten, kind="pca"),
    "zca": partial(whiten, kind="zca"),
}


def _apply(function: Callable[[Tensor], Tensor], data: ImageData) -> ImageInputs:
    """Inputs from the images of both sets."""
    channels, height, width = data.train_inputs.shape[1:]
    return ImageInputs(
        train_inputs=function(data.train_inputs),
        train_labels=data.train_labels,
        test_inputs=function(data.test_inputs),
        test_labels=data.test_labels,
        num_classes=data.num_classes,
        title=data.title,
        image_shape=(channels, height, width),
    )


def channel_statistics(images: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of every channel, over all images and pixels.

    Computed from the histogram of the 256 possible values, which is exact: the result does not
    depend on the number of threads.

    Args:
        images: uint8 [n, channels, height, width].

    Returns:
        Mean and population standard deviation, float64 [channels], in units of one grey level.
    """
    counts = torch.stack(
        [channel.flatten().bincount(minlength=256) for channel in images.unbind(1)]
    )
    share = counts.double() / counts.sum(1, keepdim=True)
    levels = torch.arange(256, dtype=torch.float64)
    mean = share @ levels
    variance = (share * (levels - mean[:, None]) ** 2).sum(1)
    return mean, variance.sqrt()
