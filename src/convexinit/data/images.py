"""Image data sets: raw files in, tensors out, the whole set in memory.

To add a data set, write one function ``(data_dir) -> ImageData`` and name it in ``_LOADERS``.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from convexinit.data.compat import import_torchvision
from convexinit.data.files import DataFile, check_files


@dataclass(frozen=True)
class ImageData:
    """Raw images, as stored in the source files.

    Attributes:
        train_inputs: uint8 [n, channels, height, width].
        train_labels: int64 [n], in 0..num_classes-1.
        test_inputs: uint8 [m, channels, height, width].
        test_labels: int64 [m].
        num_classes: number of classes.
        title: the name used in figures, e.g. "MNIST".
    """

    train_inputs: Tensor
    train_labels: Tensor
    test_inputs: Tensor
    test_labels: Tensor
    num_classes: int
    title: str


@dataclass(frozen=True)
class Dataset:
    """Inputs of a network, ready for training.

    Attributes:
        train_inputs: float32 [n, d].
        train_labels: int64 [n], in 0..num_classes-1.
        test_inputs: float32 [m, d].
        test_labels: int64 [m].
        num_classes: number of classes.
        title: the name used in figures, e.g. "MNIST".
    """

    train_inputs: Tensor
    train_labels: Tensor
    test_inputs: Tensor
    test_labels: Tensor
    num_classes: int
    title: str


# The four original files, uncompressed, where torchvision looks for them, in the order
# training images, training labels, test images, test labels.
MNIST_FILES = (
    DataFile(
        "MNIST/raw/train-images-idx3-ubyte",
        47_040_016,
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    ),
    DataFile(
        "MNIST/raw/train-labels-idx1-ubyte",
        60_008,
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    ),
    DataFile(
        "MNIST/raw/t10k-images-idx3-ubyte",
        7_840_016,
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    ),
    DataFile(
        "MNIST/raw/t10k-labels-idx1-ubyte",
        10_008,
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
)


def load_images(name: str, data_dir: str | Path) -> ImageData:
    """Read a data set into memory.

    Args:
        name: "digits" (built into scikit-learn, needs no files) or "mnist".
        data_dir: folder that holds the raw files; it is only read, and may be read-only.

    Raises:
        ValueError: there is no data set of that name.
        DataError: a file is missing or damaged.
    """
    if name not in _LOADERS:
        raise ValueError(f"unknown image data set {name!r}; known: {', '.join(_LOADERS)}")
    return _LOADERS[name](Path(data_dir).expanduser())


def normalise(data: ImageData) -> Dataset:
    """Normalise every channel with its mean and standard deviation on the training set, flatten.

    The test set is normalised with the constants of the training set, as the paper does.

    Raises:
        ValueError: a channel is constant over the training set.
    """
    mean, std = channel_statistics(data.train_inputs)
    if not std.gt(0).all():
        raise ValueError(f"{data.title}: a channel is constant and cannot be normalised")
    mean, std = mean.float().view(-1, 1, 1), std.float().view(-1, 1, 1)

    def apply(images: Tensor) -> Tensor:
        return images.float().sub_(mean).div_(std).flatten(1)

    return Dataset(
        train_inputs=apply(data.train_inputs),
        train_labels=data.train_labels,
        test_inputs=apply(data.test_inputs),
        test_labels=data.test_labels,
        num_classes=data.num_classes,
        title=data.title,
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


def _load_digits(data_dir: Path) -> ImageData:
    """The 1,797 handwritten digits of scikit-learn, 8 x 8 pixels with values 0..16.

    They come without a test set. Ours is always the same: 360 samples (20%), drawn at random
    with seed 0 and stratified by class, so that 1,437 remain for training.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = torch.from_numpy(digits.images).to(torch.uint8).unsqueeze(1)
    labels = torch.from_numpy(digits.target).long()
    train, test = train_test_split(
        range(len(labels)), test_size=360, stratify=digits.target, random_state=0
    )
    return ImageData(
        train_inputs=images[train],
        train_labels=labels[train],
        test_inputs=images[test],
        test_labels=labels[test],
        num_classes=10,
        title="Digits",
    )


def _load_mnist(data_dir: Path) -> ImageData:
    """MNIST: 60,000 training and 10,000 test images of 28 x 28 pixels."""
    return _load_idx("mnist", "MNIST", MNIST_FILES, data_dir)


def _load_idx(name: str, title: str, files: tuple[DataFile, ...], data_dir: Path) -> ImageData:
    """Ten classes of grey images in four IDX files, ordered as in ``MNIST_FILES``."""
    check_files(name, files, data_dir)
    # The readers that torchvision's MNIST class uses. The class itself would prefer the cache of
    # an old torchvision version, if there is one in the folder, to the files just checked.
    idx = import_torchvision().datasets.mnist
    train_images, train_labels, test_images, test_labels = [
        str(data_dir / file.path) for file in files
    ]
    return ImageData(
        train_inputs=idx.read_image_file(train_images).unsqueeze(1),
        train_labels=idx.read_label_file(train_labels),
        test_inputs=idx.read_image_file(test_images).unsqueeze(1),
        test_labels=idx.read_label_file(test_labels),
        num_classes=10,
        title=title,
    )


_LOADERS: dict[str, Callable[[Path], ImageData]] = {
    "digits": _load_digits,
    "mnist": _load_mnist,
}
