"""The data sets of the experiments, read as ``conf/dataset`` says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convexinit_paper.data.image_folder import load_image_folder
from convexinit_paper.data.images import load_images
from convexinit_paper.data.multitask import MultitaskData
from convexinit_paper.data.preprocessing import PREPROCESSING, ImageInputs, preprocess
from convexinit_paper.data.registry import find_source
from convexinit_paper.data.sources import MultitaskSource
from convexinit_paper.request.config import checked, require


@dataclass(frozen=True)
class DatasetSettings:
    """Which images, how they are pre-processed, and how many of them are held out.

    Attributes:
        name: name of the data set.
        validation_fraction: share of the training set that each seed holds out, in [0, 1); with 0
            there are no validation metrics.
        preprocessing: "normalise", "pca" or "zca"; see
            :func:`convexinit_paper.data.preprocessing.preprocess`.
    """

    name: str
    validation_fraction: float
    preprocessing: str

    def __post_init__(self) -> None:
        require(
            0.0 <= self.validation_fraction < 1.0,
            "dataset.validation_fraction",
            "at least 0 and below 1",
            self.validation_fraction,
        )
        require(
            self.preprocessing in PREPROCESSING,
            "dataset.preprocessing",
            f"one of {', '.join(PREPROCESSING)}",
            self.preprocessing,
        )


@dataclass(frozen=True)
class ImageFolderSettings(DatasetSettings):
    """Images in class folders; see :func:`convexinit_paper.data.image_folder.load_image_folder`.

    Attributes:
        path: folder or archive, absolute or relative to the data folder.
        title: name in figures; None for that of the folder or archive.
        size: height and width that images are resized to, at least 1; None if all have one size.
    """

    path: str
    title: str | None
    size: int | None

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.path != "",
            "dataset.path",
            "a folder or archive of images in class folders, such as dataset.path=flowers.tar.gz",
            self.path,
        )
        require(
            self.size is None or self.size >= 1,
            "dataset.size",
            "at least 1, or null if all images have one size",
            self.size,
        )


def dataset_settings(options: dict[str, Any]) -> DatasetSettings:
    """Checked settings from the section ``dataset``: of a folder of images if it names a path.

    Raises:
        ConfigError: an option is missing, has a wrong type, or is out of range.
    """
    return checked(
        ImageFolderSettings if "path" in options else DatasetSettings, options, "dataset"
    )


def load_dataset(
    settings: DatasetSettings, data_dir: str | Path, results_dir: str | Path
) -> ImageInputs:
    """Read a data set of images into memory and pre-process it.

    Args:
        settings: which one, and how.
        data_dir: folder of raw data; only read.
        results_dir: folder of results; decoded images are kept in ``cache`` below it.

    Raises:
        ValueError: there is no data set of that name, or its images cannot be normalised.
        DataError: a file is missing or damaged.
    """
    if isinstance(settings, ImageFolderSettings):
        source = Path(data_dir).expanduser() / Path(settings.path).expanduser()
        cache = Path(results_dir) / "cache"
        images = load_image_folder(source, settings.title, settings.size, cache)
    else:
        images = load_images(settings.name, data_dir)
    return preprocess(images, settings.preprocessing)


def load_multitask(name: str, data_dir: str | Path) -> MultitaskData:
    """Read a data set of molecules into memory.

    Args:
        name: "tox21", or "structural_alerts" (built in, needs no files).
        data_dir: folder that holds the raw files; it is only read, and may be read-only.

    Raises:
        ValueError: there is no data set of that name.
        DataError: a file is missing or damaged.

    Example:
        >>> data = load_multitask("structural_alerts", "not needed")
        >>> data.train.labels.shape == (len(data.train.smiles), len(data.tasks))
        True
    """
    return find_source(MultitaskSource, name).load(Path(data_dir).expanduser())
