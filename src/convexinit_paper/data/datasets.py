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
from convexinit_paper.request.config import parse_section
from convexinit_paper.request.options import (
    FRACTION,
    Range,
    Section,
    at_least,
    one_of,
    option,
    or_null,
)
from convexinit_paper.request.paths import user_path


@dataclass(frozen=True)
class DatasetSettings(Section):
    """Which images, how they are pre-processed, and how many of them are held out."""

    name: str = option("of the data set")
    validation_fraction: float = option(
        "share of the training set that each seed holds out; with 0 there are no validation "
        "metrics",
        FRACTION,
    )
    preprocessing: str = option(
        "see convexinit_paper.data.preprocessing.preprocess", one_of(PREPROCESSING)
    )


@dataclass(frozen=True)
class ImageFolderSettings(DatasetSettings):
    """Images in class folders; see :func:`convexinit_paper.data.image_folder.load_image_folder`."""

    path: str = option(
        "absolute, or relative to the data folder",
        Range(
            "a folder or archive of images in class folders, such as dataset.path=flowers.tar.gz",
            lambda path: path != "",
        ),
    )
    title: str | None = option("name in figures; None for that of the folder or archive")
    size: int | None = option(
        "height and width that images are resized to",
        or_null(at_least(1), "if all images have one size"),
    )


def dataset_settings(options: dict[str, Any]) -> DatasetSettings:
    """Checked settings from the section ``dataset``: of a folder of images if it names a path.

    Raises:
        ConfigError: an option is missing, has a wrong type, or is out of range.
    """
    return parse_section(
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
        source = image_source(settings.path, data_dir)
        cache = user_path(results_dir) / "cache"
        images = load_image_folder(source, settings.title, settings.size, cache)
    else:
        images = load_images(settings.name, data_dir)
    return preprocess(images, settings.preprocessing)


def image_source(path: str, data_dir: str | Path) -> Path:
    """The folder or archive of images that ``dataset.path`` names."""
    return Path(data_dir).expanduser() / Path(path).expanduser()


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
