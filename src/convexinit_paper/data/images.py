"""Raw images of a data set, the whole set in memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from convexinit_paper.data.files import DataError
from convexinit_paper.data.registry import find_source
from convexinit_paper.data.sources import ImageArrays, ImageSource


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

    @classmethod
    def of(cls, arrays: ImageArrays, num_classes: int, title: str, white: int = 255) -> ImageData:
        """From the arrays that a reader gives; shares their memory.

        Raises:
            DataError: they are not what the attributes say.
        """
        fault = arrays_fault(arrays, num_classes)
        if fault is not None:
            raise DataError(f"The data set {title} cannot be used, as its reader gives {fault}.")
        tensors = {name: torch.from_numpy(array) for name, array in arrays._asdict().items()}
        return cls(**tensors, num_classes=num_classes, title=title, white=white)


def load_images(name: str, data_dir: str | Path) -> ImageData:
    """Read a data set of the registry into memory.

    Args:
        name: "digits" (built into scikit-learn, needs no files), "mnist", "cifar10", ...
        data_dir: folder that holds the raw files; it is only read, and may be read-only.

    Raises:
        ValueError: there is no data set of that name.
        DataError: a file is missing or damaged.
    """
    source = find_source(ImageSource, name)
    arrays = source.load(Path(data_dir).expanduser())
    return ImageData.of(arrays, source.classes, source.title, source.white)


def arrays_fault(arrays: ImageArrays, classes: int) -> str | None:
    """What is wrong with the arrays of a reader, in a few words; None if nothing is.

    Args:
        arrays: of training and test set.
        classes: number of classes.
    """
    shape = arrays.train_inputs.shape[1:]
    for split, inputs, labels in (("train", *arrays[:2]), ("test", *arrays[2:])):
        if inputs.dtype != np.uint8 or inputs.ndim != 4 or inputs.size == 0:
            return f"{split}_inputs {_kind(inputs)} in place of uint8 [n, channels, height, width]"
        if inputs.shape[1:] != shape:
            return f"train_inputs {_kind(arrays.train_inputs)}, but test_inputs {_kind(inputs)}"
        if labels.dtype != np.int64 or labels.shape != inputs.shape[:1]:
            return f"{split}_labels {_kind(labels)} in place of int64 [{len(inputs)}]"
        if labels.min() < 0 or labels.max() >= classes:
            return (
                f"{split}_labels from {labels.min()} to {labels.max()} in place of 0 to "
                f"{classes - 1}"
            )
    return None


def _kind(array: np.ndarray) -> str:
    return f"{array.dtype} {list(array.shape)}"
