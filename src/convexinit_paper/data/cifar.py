"""CIFAR-10 and CIFAR-100 from their official Python version.

Its batches are pickles, which can run any code when they are read. So nothing is unpickled before
the digest of what is to be unpickled was found right.
"""

import hashlib
import pickle
import tarfile
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from convexinit_paper.data.files import DataFile, check_files, digest_fault, file_error

_SHAPE = (3, 32, 32)


@dataclass(frozen=True)
class CifarFiles:
    """The files of one data set.

    Attributes:
        archive: as published.
        folder: in the archive, and where torchvision unpacks it.
        train: names of the training batches in this folder, in order, with their md5.
        test: name of the test batch, with its md5.
        labels: key of the labels in a batch.
        hints: what else an error message should say.
    """

    archive: DataFile
    folder: str
    train: Mapping[str, str]
    test: Mapping[str, str]
    labels: str
    hints: tuple[str, ...] = ()


# The md5 of the archives are published at https://www.cs.toronto.edu/~kriz/cifar.html; those of the
# batches, by torchvision.
CIFAR = {
    "cifar10": CifarFiles(
        archive=DataFile(
            "cifar-10-python.tar.gz", 170_498_071, "c58f30108f718f92721af3b95e74349a", "md5"
        ),
        folder="cifar-10-batches-py",
        train={
            "data_batch_1": "c99cafc152244af753f735de768cd75f",
            "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        },
        test={"test_batch": "40351d587109b95175f43aff81a1287e"},
        labels="labels",
        hints=(
            "To do without:  experiment=cifar10_jpeg (a JPEG copy, named as such in figures), or",
            "  dataset=image_folder dataset.path=<folder or archive of images in class folders>",
        ),
    ),
    "cifar100": CifarFiles(
        archive=DataFile(
            "cifar-100-python.tar.gz", 169_001_437, "eb9058c3a382ffc7106e4002c42a8d85", "md5"
        ),
        folder="cifar-100-python",
        train={"train": "16019d7e3df5f24257cddd939b257f8d"},
        test={"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
        labels="fine_labels",
    ),
}


def read_cifar(name: str, data_dir: Path) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Read the archive, or where there is none the folder that torchvision unpacks it to.

    Args:
        name: "cifar10" or "cifar100".
        data_dir: folder that holds the archive or that folder.

    Returns:
        Training images, training labels, test images and test labels: uint8 ``[n, 3, 32, 32]`` and
        int64 ``[n]``.

    Raises:
        DataError: a file is missing or damaged.
    """
    files = CIFAR[name]
    unpacked = not (data_dir / files.archive.path).exists() and (data_dir / files.folder).is_dir()
    contents = dict((_read_folder if unpacked else _read_archive)(name, files, data_dir))
    batches = {batch: _unpickle(content) for batch, content in contents.items()}

    def images(names: Mapping[str, str]) -> Tensor:
        pixels = np.concatenate([batches[batch]["data"] for batch in names])
        return torch.from_numpy(pixels).view(-1, *_SHAPE)

    def labels(names: Mapping[str, str]) -> Tensor:
        return torch.tensor([label for batch in names for label in batches[batch][files.labels]])

    return images(files.train), labels(files.train), images(files.test), labels(files.test)


def _read_archive(name: str, files: CifarFiles, data_dir: Path) -> Iterator[tuple[str, bytes]]:
    """Contents of the batches in the archive, whose digest is checked first."""
    check_files(name, [files.archive], data_dir, *files.hints)
    wanted = {f"{files.folder}/{batch}": batch for batch in (*files.train, *files.test)}
    with tarfile.open(data_dir / files.archive.path, "r:gz") as archive:
        for member in archive:
            stream = archive.extractfile(member) if member.name in wanted else None
            if stream is not None:
                yield wanted[member.name], stream.read()


def _read_folder(name: str, files: CifarFiles, data_dir: Path) -> Iterator[tuple[str, bytes]]:
    """Contents of the batches in the unpacked folder, once the digest of each is right."""
    for batch, md5 in {**files.train, **files.test}.items():
        path = f"{files.folder}/{batch}"
        content = b""
        try:
            content = (data_dir / path).read_bytes()
            fault = digest_fault(hashlib.md5(content).hexdigest(), md5, "md5")
        except FileNotFoundError:
            fault = "missing"
        except OSError as error:
            fault = f"not readable: {error.strerror or error}"
        if fault is not None:
            raise file_error(name, path, data_dir, fault, *files.hints)
        yield batch, content


def _unpickle(content: bytes) -> dict:
    """One batch, written by Python 2, whose strings are bytes."""
    with warnings.catch_warnings():
        # NumPy dislikes how its versions of that time described the type of an array.
        warnings.simplefilter("ignore")
        return pickle.loads(content, encoding="latin1")
