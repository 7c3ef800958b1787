"""Image data sets: raw files in, tensors out, the whole set in memory.

To add a data set, write one function ``(data_dir) -> ImageData`` and name it in ``_LOADERS``.
Images in class folders need none: see ``image_folder.py``.
"""

import gzip
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from convexinit_paper.data.cifar import read_cifar
from convexinit_paper.data.compat import import_torchvision
from convexinit_paper.data.files import DataFile, check_files
from convexinit_paper.data.whitening import fit_whitening, whitening_bytes
from convexinit_paper.training.memory import available_bytes


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
        white: the largest pixel value there can be.
    """

    train_inputs: Tensor
    train_labels: Tensor
    test_inputs: Tensor
    test_labels: Tensor
    num_classes: int
    title: str
    white: int = 255


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
        image_shape: (channels, height, width) of the images that inputs are, flattened.
    """

    train_inputs: Tensor
    train_labels: Tensor
    test_inputs: Tensor
    test_labels: Tensor
    num_classes: int
    title: str
    image_shape: tuple[int, int, int]


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

# The four files as published, where torchvision puts them, in the same order. Only of these are
# digests published (https://github.com/zalandoresearch/fashion-mnist): they stay compressed.
FASHION_MNIST_FILES = (
    DataFile(
        "FashionMNIST/raw/train-images-idx3-ubyte.gz",
        26_421_880,
        "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
        "md5",
    ),
    DataFile(
        "FashionMNIST/raw/train-labels-idx1-ubyte.gz",
        29_515,
        "25c81989df183df01b3e8a0aad5dffbe",
        "md5",
    ),
    DataFile(
        "FashionMNIST/raw/t10k-images-idx3-ubyte.gz",
        4_422_102,
        "bef4ecab320f06d8554ea6380940ec79",
        "md5",
    ),
    DataFile(
        "FashionMNIST/raw/t10k-labels-idx1-ubyte.gz",
        5_148,
        "bb300cfdad3c16e7a12a480ee83cd310",
        "md5",
    ),
)


def load_images(name: str, data_dir: str | Path) -> ImageData:
    """Read a data set into memory.

    Args:
        name: "digits" (built into scikit-learn, needs no files), "mnist", "fashion_mnist",
            "cifar10" or "cifar100".
        data_dir: folder that holds the raw files; it is only read, and may be read-only.

    Raises:
        ValueError: there is no data set of that name.
        DataError: a file is missing or damaged.
    """
    if name not in _LOADERS:
        raise ValueError(f"unknown image data set {name!r}; known: {', '.join(_LOADERS)}")
    return _LOADERS[name](Path(data_dir).expanduser())


def preprocess(data: ImageData, how: str) -> Dataset:
    """Turn images into inputs of a network.

    All constants come from the whole training set, the samples that seeds hold out for validation
    included, as in the original experiments: seeds that train as one stacked network share their
    inputs.

    Args:
        data: raw images.
        how: one of :data:`PREPROCESSING`: "normalise" (every channel), "pca" or "zca" (whitening).

    Raises:
        ValueError: ``how`` is unknown, or :func:`normalise` fails.
    """
    if how not in PREPROCESSING:
        raise ValueError(f"unknown pre-processing {how!r}; known: {', '.join(PREPROCESSING)}")
    return PREPROCESSING[how](data)


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

    return _apply(lambda images: images.float().sub_(mean).div_(std).flatten(1), data)


def whiten(data: ImageData, kind: str) -> Dataset:
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
    needed, free = whitening_bytes(features), available_bytes(torch.device("cpu"))
    if free is not None and needed > free:
        raise ValueError(
            f"{data.title}: {kind} whitening of {features:,} pixel values takes about "
            f"{needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free; use smaller images "
            "(dataset.size of a folder of images) or dataset.preprocessing=normalise"
        )
    whitening = fit_whitening(data.train_inputs.flatten(1), kind, data.white)
    return _apply(lambda images: whitening.apply(images.flatten(1)), data)


PREPROCESSING: dict[str, Callable[[ImageData], Dataset]] = {
    "normalise": normalise,
    "pca": partial(whiten, kind="pca"),
    "zca": partial(whiten, kind="zca"),
}


def _apply(function: Callable[[Tensor], Tensor], data: ImageData) -> Dataset:
    """Inputs from the images of both sets."""
    channels, height, width = data.train_inputs.shape[1:]
    return Dataset(
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
        white=16,
    )


def _load_mnist(data_dir: Path) -> ImageData:
    """MNIST: 60,000 training and 10,000 test images of 28 x 28 pixels."""
    check_files("mnist", MNIST_FILES, data_dir)
    # The readers that torchvision's MNIST class uses. The class itself would prefer the cache of
    # an old torchvision version, if there is one in the folder, to the files just checked.
    idx = import_torchvision().datasets.mnist
    train_images, train_labels, test_images, test_labels = [
        str(data_dir / file.path) for file in MNIST_FILES
    ]
    return ImageData(
        train_inputs=idx.read_image_file(train_images).unsqueeze(1),
        train_labels=idx.read_label_file(train_labels),
        test_inputs=idx.read_image_file(test_images).unsqueeze(1),
        test_labels=idx.read_label_file(test_labels),
        num_classes=10,
        title="MNIST",
    )


def _load_fashion_mnist(data_dir: Path) -> ImageData:
    """Fashion-MNIST: ten kinds of clothes, in the numbers and size of MNIST."""
    check_files("fashion_mnist", FASHION_MNIST_FILES, data_dir)
    train_images, train_labels, test_images, test_labels = [
        _read_gzip(data_dir / file.path) for file in FASHION_MNIST_FILES
    ]
    # The files are known by their digests, and so are the lengths of their headers.
    return ImageData(
        train_inputs=train_images[16:].view(-1, 1, 28, 28),
        train_labels=train_labels[8:].long(),
        test_inputs=test_images[16:].view(-1, 1, 28, 28),
        test_labels=test_labels[8:].long(),
        num_classes=10,
        title="Fashion-MNIST",
    )


def _read_gzip(path: Path) -> Tensor:
    """Uncompressed content of a file, uint8 [bytes]."""
    with gzip.open(path) as stream:
        return torch.frombuffer(bytearray(stream.read()), dtype=torch.uint8)


def _load_cifar10(data_dir: Path) -> ImageData:
    """CIFAR-10: 50,000 training and 10,000 test images of 3 x 32 x 32 pixels."""
    return ImageData(*read_cifar("cifar10", data_dir), num_classes=10, title="CIFAR-10")


def _load_cifar100(data_dir: Path) -> ImageData:
    """CIFAR-100: the same numbers and sizes, 100 classes (the fine labels)."""
    return ImageData(*read_cifar("cifar100", data_dir), num_classes=100, title="CIFAR-100")


_LOADERS: dict[str, Callable[[Path], ImageData]] = {
    "digits": _load_digits,
    "mnist": _load_mnist,
    "fashion_mnist": _load_fashion_mnist,
    "cifar10": _load_cifar10,
    "cifar100": _load_cifar100,
}
