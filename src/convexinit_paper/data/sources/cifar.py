"""CIFAR-10 and CIFAR-100 from their official Python version.

Its batches are pickles, which can run any code when they are read. So nothing is unpickled before
the digest of what is to be unpickled was found right. Names, digests and addresses are those that
torchvision knows. It does not read them itself: it unpacks the archive, which a shared folder that
is read-only does not allow, and does not say which file is wrong.
"""

import hashlib
import pickle
import tarfile
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from convexinit_paper.data.files import (
    DataError,
    DataFile,
    digest_fault,
    file_error,
    find_fault,
)
from convexinit_paper.data.sources import Download, ImageArrays, ImageSource, Source


@dataclass(frozen=True)
class CifarFiles:
    """One of the two data sets.

    Attributes:
        name: in the registry; in capitals, that of torchvision's class.
        size: of the archive, in bytes.
        labels: key of the labels in a batch.
        hints: what else an error message should say.
    """

    name: str
    size: int
    labels: str
    hints: tuple[str, ...] = ()

    @property
    def known(self) -> Any:
        """What torchvision knows of the files."""
        from convexinit_paper.data.compat import official

        return official(self.name.upper())

    @property
    def archive(self) -> DataFile:
        """The archive as published."""
        return DataFile(self.known.filename, self.size, self.known.tgz_md5, "md5")

    def load(self, data_dir: Path) -> ImageArrays:
        """50,000 training and 10,000 test images of 3 x 32 x 32 pixels.

        Args:
            data_dir: holds the archive or, where there is no intact one, the folder that
                torchvision unpacks it to.

        Raises:
            DataError: a file is missing or damaged.
        """
        known = self.known
        batches = {name: _unpickle(content) for name, content in self._contents(data_dir)}

        def arrays(listed: list[tuple[str, str]]) -> tuple[np.ndarray, np.ndarray]:
            parts = [batches[name] for name, _ in listed]
            images = np.concatenate([part["data"] for part in parts])
            labels = np.concatenate([part[self.labels] for part in parts])
            return images.reshape(-1, 3, 32, 32), labels.astype(np.int64)

        return ImageArrays(*arrays(known.train_list), *arrays(known.test_list))

    def downloads(self) -> list[Download]:
        """The archive, from the home page of the data set."""
        return [Download(self.known.filename, [self.known.url], self.find_fault)]

    def find_fault(self, data_dir: Path) -> str | None:
        """What is wrong with the archive; None also if it is unpacked and intact there."""
        fault = find_fault(data_dir / self.archive.path, self.archive)
        if fault is None or not self._is_unpacked(data_dir):
            return fault
        try:
            dict(self._folder(data_dir))
        except DataError:
            return f"{fault}, and damaged where it is unpacked"
        return None

    def _contents(self, data_dir: Path) -> Iterable[tuple[str, bytes]]:
        """Names and contents of the batches, once their digests are right."""
        fault = find_fault(data_dir / self.archive.path, self.archive)
        if fault is None:
            return self._archive_members(data_dir)
        if self._is_unpacked(data_dir):
            try:
                return list(self._folder(data_dir))
            except DataError:
                if fault == "missing":
                    raise
        raise file_error(self.name, self.archive.path, data_dir, fault, *self.hints)

    def _is_unpacked(self, data_dir: Path) -> bool:
        return (data_dir / self.known.base_folder).is_dir()

    def _batches(self) -> list[tuple[str, str]]:
        """Path in the archive, and md5, of every batch."""
        known = self.known
        listed = known.train_list + known.test_list
        return [(f"{known.base_folder}/{name}", md5) for name, md5 in listed]

    def _archive_members(self, data_dir: Path) -> Iterator[tuple[str, bytes]]:
        """Names and contents of the batches in the archive, whose digest is right."""
        paths = [path for path, _ in self._batches()]
        with tarfile.open(data_dir / self.archive.path, "r:gz") as archive:
            for member in archive:
                stream = archive.extractfile(member) if member.name in paths else None
                if stream is not None:
                    yield Path(member.name).name, stream.read()

    def _folder(self, data_dir: Path) -> Iterator[tuple[str, bytes]]:
        """Names and contents of the unpacked batches, once the digest of each is right."""
        for path, md5 in self._batches():
            content = b""
            try:
                content = (data_dir / path).read_bytes()
                fault = digest_fault(hashlib.md5(content).hexdigest(), md5, "md5")
            except FileNotFoundError:
                fault = "missing"
            except OSError as error:
                fault = f"not readable: {error.strerror or error}"
            if fault is not None:
                raise file_error(self.name, path, data_dir, fault, *self.hints)
            yield Path(path).name, content


def _unpickle(content: bytes) -> dict:
    """One batch, written by Python 2, whose strings are bytes."""
    with warnings.catch_warnings():
        # NumPy dislikes how its versions of that time described the type of an array.
        warnings.simplefilter("ignore")
        return pickle.loads(content, encoding="latin1")


CIFAR10 = CifarFiles(
    "cifar10",
    170_498_071,
    "labels",
    (
        "To do without:  experiment=cifar10_jpeg (a JPEG copy, named as such in figures), or",
        "  dataset=image_folder dataset.path=<folder or archive of images in class folders>",
    ),
)
CIFAR100 = CifarFiles("cifar100", 169_001_437, "fine_labels")

EXTENT = "one archive, 170 MB"

DATA_SETS = {
    "cifar10": ImageSource(
        "CIFAR-10", 10, load=CIFAR10.load, downloads=CIFAR10.downloads, extent=EXTENT
    ),
    "cifar100": ImageSource(
        "CIFAR-100", 100, load=CIFAR100.load, downloads=CIFAR100.downloads, extent=EXTENT
    ),
    # An archive of class folders: its reader and path are those of conf/dataset.
    "cifar10_jpeg": Source("CIFAR-10 (JPEG copy)", 10, known="sha256-2c1d2f26013ac128"),
}
