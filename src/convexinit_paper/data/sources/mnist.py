"""MNIST and Fashion-MNIST: four files each, named as torchvision names them, and in its order.

Both are read compressed or not, whatever is there and intact. torchvision does not read them: it
wants all of them uncompressed, and does not check the digests.
"""

import gzip
import hashlib
import struct
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from convexinit_paper.data.files import (
    DataError,
    DataFile,
    digest_fault,
    digest_of,
    file_error,
    find_fault,
)
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


@dataclass(frozen=True)
class Found:
    """One form of a file.

    Attributes:
        path: relative to the data folder.
        fault: what is wrong with it, in a few words; None if it is the right content.
        content: uncompressed; empty if there is a fault.
    """

    path: str
    fault: str | None
    content: bytes = b""


def best(*forms: Callable[[], Found]) -> Found:
    """The first form without fault; without one, the first that is there, or the first of all."""
    faulty = []
    for form in forms:
        found = form()
        if found.fault is None:
            return found
        faulty.append(found)
    return next((found for found in faulty if found.fault != "missing"), faulty[0])


def contents(name: str, forms: Iterable[Found], data_dir: Path) -> Iterator[bytes]:
    """The contents of the files of a data set.

    Raises:
        DataError: one has a fault.
    """
    for found in forms:
        if found.fault is not None:
            raise file_error(name, found.path, data_dir, found.fault)
        yield found.content


def published(path: str, data_dir: Path, file: DataFile, read: Callable[[Path], bytes]) -> Found:
    """A file that is known by its digest, read with ``read`` if it is that."""
    fault = find_fault(data_dir / path, file)
    return Found(path, fault, b"" if fault is not None else read(data_dir / path))


def find_mnist(data_dir: Path, file: DataFile) -> Found:
    """A file of MNIST, of which the uncompressed content is known, uncompressed or not."""

    def compressed() -> Found:
        path = f"{file.path}.gz"
        try:
            content = gunzip(data_dir / path)
        except FileNotFoundError:
            return Found(path, "missing")
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            return Found(path, f"damaged: {error}")
        except OSError as error:
            return Found(path, f"not readable: {error.strerror or error}")
        digest = hashlib.new(file.algorithm, content).hexdigest()
        return Found(path, digest_fault(digest, file.digest, file.algorithm), content)

    return best(lambda: published(file.path, data_dir, file, Path.read_bytes), compressed)


def load_mnist(data_dir: Path) -> ImageArrays:
    """60,000 training and 10,000 test images of 28 x 28 pixels."""
    forms = (find_mnist(data_dir, file) for file in MNIST_FILES)
    return _arrays(contents("mnist", forms, data_dir))


def mnist_downloads() -> list[Download]:
    """Compressed, from the mirrors that torchvision knows."""
    from convexinit_paper.data.compat import official

    def download(file: DataFile) -> Download:
        urls = [f"{url}{Path(file.path).name}.gz" for url in official("MNIST").mirrors]
        return Download(file.path, urls, lambda folder: find_mnist(folder, file).fault, gunzip)

    return [download(file) for file in MNIST_FILES]


@dataclass(frozen=True)
class CompressedFiles:
    """Four files that stay compressed, as digests are published only of these.

    Where one of them is missing or damaged, it is read uncompressed. What can be seen of that is
    checked, and a run on it is known by its content.

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

    def find(self, data_dir: Path) -> Iterator[Found]:
        """The files, compressed or not."""
        for file in self.files():
            yield best(
                partial(published, file.path, data_dir, file, gunzip),
                partial(_unknown, file.path.removesuffix(".gz"), data_dir),
            )

    def load(self, data_dir: Path) -> ImageArrays:
        """Images and labels in the numbers and size of MNIST."""
        arrays = _arrays(contents(self.name, self.find(data_dir), data_dir))
        for images, labels in (arrays[:2], arrays[2:]):
            if len(images) != len(labels):
                raise DataError(
                    f"The data set {self.name} in {data_dir.resolve()} cannot be used: it has "
                    f"{len(images):,} images and {len(labels):,} labels of them."
                )
        return arrays

    def content(self, data_dir: Path) -> str | None:
        """Digest of the files that are read uncompressed; None if there are none."""
        plain = {
            found.path: digest_of(found.content)
            for found in self.find(data_dir)
            if found.fault is None and not found.path.endswith(".gz")
        }
        return digest_of(plain) if plain else None

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


def _unknown(path: str, data_dir: Path) -> Found:
    """An uncompressed file of which no digest is known."""
    try:
        content = (data_dir / path).read_bytes()
    except FileNotFoundError:
        return Found(path, "missing")
    except OSError as error:
        return Found(path, f"not readable: {error.strerror or error}")
    kind, count = struct.unpack(">2I", content[:8].ljust(8, b"\0"))
    size = {2049: 8 + count, 2051: 16 + 28 * 28 * count}.get(kind)
    if size is None or (kind == 2051) != ("images" in path):
        return Found(path, "damaged: it does not begin as files of this name do")
    if len(content) != size:
        return Found(path, f"it has {len(content):,} bytes, expected {size:,}")
    if kind == 2049 and max(content[8:], default=0) > 9:
        return Found(path, "damaged: a label is above 9")
    return Found(path, None, content)


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
        content=FASHION.content,
        downloads=FASHION.downloads,
        extent="four files, 31 MB",
    ),
}
