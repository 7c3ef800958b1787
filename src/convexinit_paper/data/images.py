"""Raw images of a data set, the whole set in memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

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
        """From the arrays that a reader gives; shares their memory."""
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
