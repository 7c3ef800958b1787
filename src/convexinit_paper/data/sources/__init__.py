"""The data sets, one module for each or for each format.

To add one, write a module here with a dictionary ``DATA_SETS``, or one more entry in that of a
module that reads its format, and ``conf/dataset/<name>.yaml``. Every experiment then takes it by
``dataset=<name>``, figures know its title, and ``scripts/download_data.py`` fetches its files.
Images in class folders need no module at all: see :mod:`convexinit_paper.data.image_folder`.

Modules here import torch, RDKit and the like only when they read: titles are asked for more often.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

from convexinit_paper.data.files import DataFile, find_fault
from convexinit_paper.data.multitask import MultitaskData


@dataclass(frozen=True)
class Download:
    """A file of a data set on the web.

    Attributes:
        path: where it belongs, relative to the data folder.
        urls: addresses of the same content, tried in order.
        fault: given a data folder, says in a few words what is wrong with the file there; None if
            nothing is.
        unpack: makes the content of the file from what was downloaded; None if they are the same.
            It may raise EOFError, ValueError, zlib.error or gzip.BadGzipFile.
    """

    path: str
    urls: Sequence[str]
    fault: Callable[[Path], str | None]
    unpack: Callable[[Path], bytes] | None = None

    @classmethod
    def of(
        cls, file: DataFile, urls: Sequence[str], unpack: Callable[[Path], bytes] | None = None
    ) -> Download:
        """Of a file that is known by its digest."""
        return cls(file.path, urls, lambda folder: find_fault(folder / file.path, file), unpack)


def no_downloads() -> list[Download]:
    """Of a data set that is built in, or that nobody offers."""
    return []


def known_by_name(data_dir: Path) -> None:
    """The content of a data set that is built in, or always compared with known digests."""


@dataclass(frozen=True)
class Source:
    """What is known of a data set before it is read.

    The base class is for data sets that ``conf/dataset`` says how to read.

    Attributes:
        title: name in figures and tables.
        classes: number of classes; None if its labels are no classes.
        downloads: its files on the web; a function, as their addresses may be torchvision's.
        extent: number and size of these files, for users.
        known: digest of what ``conf/dataset`` says how to read, None if none is known.
        content: given the data folder, the digest of what is read where this may be one or the
            other; None where the reader compares it with known digests. May raise DataError.
    """

    KIND: ClassVar = "known"

    title: str
    classes: int | None
    downloads: Callable[[], list[Download]] = field(default=no_downloads, kw_only=True)
    extent: str = field(default="", kw_only=True)
    known: str | None = field(default=None, kw_only=True)
    content: Callable[[Path], str | None] = field(default=known_by_name, kw_only=True)


class ImageArrays(NamedTuple):
    """Images and labels, as stored in the source files.

    Attributes:
        train_inputs: uint8 ``[n, channels, height, width]``.
        train_labels: int64 ``[n]``, in 0..classes-1.
        test_inputs: uint8 ``[m, channels, height, width]``.
        test_labels: int64 ``[m]``.
    """

    train_inputs: np.ndarray
    train_labels: np.ndarray
    test_inputs: np.ndarray
    test_labels: np.ndarray


@dataclass(frozen=True)
class ImageSource(Source):
    """Images of a known number of classes.

    Attributes:
        load: reads them from the data folder, which is not written to; raises DataError.
        white: the largest pixel value there can be.
    """

    KIND: ClassVar = "image"

    classes: int
    load: Callable[[Path], ImageArrays] = field(kw_only=True)
    white: int = field(default=255, kw_only=True)


@dataclass(frozen=True)
class MultitaskSource(Source):
    """Molecules with many binary labels.

    Attributes:
        load: reads them from the data folder, which is not written to; raises DataError.
    """

    KIND: ClassVar = "multi-task"

    classes: None = None
    load: Callable[[Path], MultitaskData] = field(kw_only=True)
