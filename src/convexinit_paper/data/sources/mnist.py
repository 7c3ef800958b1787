"""MNIST and Fashion-MNIST: four files each, named as torchvision names them, and in its order.

They are not read by torchvision: it wants all of them uncompressed, and does not check the digests.
"""

import gzip
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from convexinit_paper.data.files import DataFile, check_files
from convexinit_paper.data.sources import Download, ImageArrays, ImageSource

MAX_BYTES = 100_000_000  # a small gzip file can hold any number of them

# Training images, training labels, test images and test labels; uncompressed, as torchvision
# leaves them.
_MNIST = {
    "train-images-idx3-ubyte": (
        47_040_016,
        "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    ),
    "train-labels-idx1-ubyte": (
        60_008,
        "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    ),
    "t10k-images-idx3-ubyte": (
        7_840_016,
        "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    ),
    "t10k-labels-idx1-ubyte": (
        10_008,
        "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
    ),
}
MNIST_FILES = [DataFile(f"MNIST/raw/{name}", *known) for name, known in _MNIST.items()]


def load_mnist(data_dir: Path) -> ImageArrays:
    """60,000 training and 10,000 test images of 28 x 28 pixels."""
    check_files("mnist", MNIST_FILES, data_dir)
    return _arrays((data_dir / file.path).read_bytes() for file in MNIST_FILES)


def mnist_downloads() -> list[Download]:
    """Compressed, from the mirrors that torchvision knows."""
    from convexinit_paper.data.compat import official

    return [
        Download.of(
            file, [f"{url}{Path(file.path).name}.gz" for url in official("MNIST").mirrors], gunzip
        )
        for file in MNIST_FILES
    ]


@dataclass(frozen=True)
class CompressedFiles:
    """Four files that stay compressed, as digests are published only of these.

    Attributes:
        name: of the data set, in the registry.
        torchvision: its class there, which knows names, digests and addresses.
        sizes: of the files, in bytes.
    """

    name: str
    torchvision: str
    sizes: tuple[int, int, int, int]

    def files(self) -> list[DataFile]:
        """The files as published."""
        from convexinit_paper.data.compat import official

        return [
            DataFile(f"{self.torchvision}/raw/{name}", size, md5, "md5")
            for (name, md5), size in zip(
                official(self.torchvision).resources, self.sizes, strict=True
            )
        ]

    def load(self, data_dir: Path) -> ImageArrays:
        """Images and labels in the numbers and size of MNIST."""
        files = self.files()
        check_files(self.name, files, data_dir)
        return _arrays(gunzip(data_dir / file.path) for file in files)

    def downloads(self) -> list[Download]:
        """From the mirrors that torchvision knows."""
        from convexinit_paper.data.compat import official

        return [
            Download.of(
                file, [f"{url}{Path(file.path).name}" for url in official(self.torchvision).mirrors]
            )
            for file in self.files()
        ]


def gunzip(path: Path) -> bytes:
    """Content of a gzip file, no more than ``MAX_BYTES`` of it."""
    with gzip.open(path) as stream:
        return stream.read(MAX_BYTES)


def _arrays(contents: Iterable[bytes]) -> ImageArrays:
    """The arrays in four files, known by their digests, and so are the lengths of their headers."""
    train_images, train_labels, test_images, test_labels = [
        np.frombuffer(bytearray(content), np.uint8) for content in contents
    ]
    return ImageArrays(
        train_images[16:].reshape(-1, 1, 28, 28),
        train_labels[8:].astype(np.int64),
        test_images[16:].reshape(-1, 1, 28, 28),
        test_labels[8:].astype(np.int64),
    )


FASHION = CompressedFiles("fashion_mnist", "FashionMNIST", (26_421_880, 29_515, 4_422_102, 5_148))

DATA_SETS = {
    "mnist": ImageSource(
        "MNIST", 10, load=load_mnist, downloads=mnist_downloads, extent="four files, 55 MB"
    ),
    "fashion_mnist": ImageSource(
        "Fashion-MNIST",
        10,
        load=FASHION.load,
        downloads=FASHION.downloads,
        extent="four files, 31 MB",
    ),
}
