"""Any images in class folders, or an archive of them, as one data set in memory.

``train/<class>/*.jpg`` and ``test/<class>/*.jpg``, or ``<class>/*.jpg`` alone, which is split into
80% for training and 20% for the test, stratified by class and always the same way. All of it may
lie in one more folder. Labels are the positions of the classes in the order of their sorted names.

Files whose names begin with a dot, and those that desktops leave behind, are passed over, and so
is whatever is no image and lies outside of the class folders. Anything else has to be an image:
nothing is left out in silence.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
import torch

from convexinit_paper.data.archives import Listing, list_files, read_files
from convexinit_paper.data.cache import read_arrays, write_arrays
from convexinit_paper.data.files import DataError
from convexinit_paper.data.images import ImageData
from convexinit_paper.progress import counted

if TYPE_CHECKING:
    from PIL import Image

# What is decoded: formats whose readers are self-contained (that of EPS, say, runs Ghostscript).
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".pgm", ".ppm", ".tif", ".tiff", ".webp")
GREY, COLOUR = ("1", "L"), ("P", "RGB", "CMYK", "YCbCr")  # Pillow's names of pixel formats
LEFT_BEHIND = ("__MACOSX", "Thumbs.db", "desktop.ini")
MAX_FILE_BYTES = 100_000_000
SPLITS = ("train", "test")
TEST_SHARE = 0.2
SHOWN = 5  # names in an error message

_FORMAT = 1  # to be raised when the content of cached files changes


@dataclass(frozen=True)
class Layout:
    """Which file is an image of which class.

    Attributes:
        classes: sorted names.
        labels: of the images of each split, by path: "train" and "test", or "all" if the source
            does not split them. Sorted by path.
    """

    classes: list[str]
    labels: dict[str, dict[PurePosixPath, int]]


def load_image_folder(
    source: str | Path, title: str | None, size: int | None, cache_dir: str | Path
) -> ImageData:
    """Read images in class folders into memory; the second time, from a cache.

    Images are grey if all of them are, else RGB. Images with transparent pixels, several frames
    (animations) or more than eight bits a channel are refused, as there is no one way to convert
    them.

    Args:
        source: a folder, or an archive (.tar, .tar.gz, .tar.xz, .zip), which is not unpacked; only
            read.
        title: the name used in figures; None for the name of the folder or archive.
        size: height and width in pixels that every image is resized to (bilinear, smoothed, the
            sides not in proportion); None if they all have one size.
        cache_dir: folder for the decoded images; made if need be. Files in it are named after the
            digest of an archive, or of the paths, sizes and times of the files in a folder.

    Raises:
        DataError: something is missing, damaged, or not laid out as above.
    """
    source = Path(source).expanduser().resolve()
    if not source.exists():
        raise DataError(
            f"The images are missing: there is no {source}\n"
            "To use others:  dataset.path=<folder or archive of images in class folders>\n"
            "To use another data folder:  data_dir=<folder>, or the environment variable "
            "CONVEXINIT_DATA"
        )
    path = Path(cache_dir) / f"images-{_digest(source, size)}.npz"
    arrays = read_arrays(path, "images", _check)
    if arrays is None:
        arrays = _read(source, arrange(list_files(source), source), size)
        write_arrays(path, "images", **arrays)
    return ImageData(
        train_inputs=torch.from_numpy(arrays["train_inputs"]),
        train_labels=torch.from_numpy(arrays["train_labels"]),
        test_inputs=torch.from_numpy(arrays["test_inputs"]),
        test_labels=torch.from_numpy(arrays["test_labels"]),
        num_classes=int(arrays["train_labels"].max()) + 1,
        title=title or source.name,
    )


def arrange(listing: Listing, source: Path) -> Layout:
    """Find the classes in the paths of files.

    Args:
        listing: all files and folders.
        source: where they lie, for error messages.

    Raises:
        DataError: they are not laid out as this module says.
    """
    files, folders = (
        [path for path in sorted(paths) if not any(map(_is_left_behind, path.parts))]
        for paths in (listing.files, listing.folders)
    )
    root = _root(files)
    folders = sorted({*folders, *(parent for path in files for parent in path.parents)})
    tops = _inside(folders, root)
    if not set(tops) & set(SPLITS):
        classes = _classes(files, folders, root, source)
        return Layout(classes, {"all": _labels(files, root, classes, source, listing)})

    if set(tops) != set(SPLITS):
        raise DataError(
            f"{source} cannot be used: beside train and test there must be no other folder, and "
            f"both must be there; it has {_some(tops)}.\n"
            "Without both of them, class folders are split 80:20."
        )
    _refuse_images([path for path in files if path.parent == root], source)
    train, test = (_classes(files, folders, root / split, source) for split in SPLITS)
    if train != test:
        raise DataError(
            f"{source} cannot be used: train and test must have the same classes.\n"
            f"only in train: {_some(sorted(set(train) - set(test)))}\n"
            f"only in test: {_some(sorted(set(test) - set(train)))}"
        )
    return Layout(
        train,
        {split: _labels(files, root / split, train, source, listing) for split in SPLITS},
    )


def _is_left_behind(name: str) -> bool:
    return name.startswith(".") or name in LEFT_BEHIND


def _root(files: list[PurePosixPath]) -> PurePosixPath:
    """The folder that holds the class folders, or the folders train and test."""
    root = PurePosixPath()
    while True:
        inside = [path.relative_to(root) for path in files]
        tops = {path.parts[0] for path in inside}
        wrapped = len(tops) == 1 and not tops & set(SPLITS)
        if not wrapped or not any(len(path.parts) > 2 for path in inside):
            return root
        root /= tops.pop()


def _inside(paths: Iterable[PurePosixPath], folder: PurePosixPath) -> list[str]:
    """Names of the paths that lie directly in a folder."""
    return [path.name for path in paths if path.parent == folder and path != folder]


def _classes(
    files: list[PurePosixPath],
    folders: list[PurePosixPath],
    parent: PurePosixPath,
    source: Path,
) -> list[str]:
    """Sorted names of the class folders in ``parent``, of which there must be two at least."""
    classes = sorted(_inside(folders, parent))
    place = source / parent
    if len(classes) < 2:
        raise DataError(
            f"{place} cannot be used: it needs at least two class folders, and has {_some(classes)}"
        )
    filled = {path.relative_to(parent).parts[0] for path in files if path.is_relative_to(parent)}
    empty = [name for name in classes if name not in filled]
    if empty:
        raise DataError(f"{place} cannot be used: empty class folders: {_some(empty)}")
    return classes


def _labels(
    files: list[PurePosixPath],
    parent: PurePosixPath,
    classes: list[str],
    source: Path,
    listing: Listing,
) -> dict[PurePosixPath, int]:
    """Labels of the files in the class folders in ``parent``."""
    _refuse_images([path for path in files if path.parent == parent], source)
    numbers = {name: number for number, name in enumerate(classes)}
    labels = {
        path: numbers[path.relative_to(parent).parts[0]]
        for path in files
        if path.is_relative_to(parent) and path.parent != parent
    }
    for path in labels:
        if listing.files[path] > MAX_FILE_BYTES:
            raise _image_error(source, path, f"it has more than {MAX_FILE_BYTES:,} bytes")
    return labels


def _refuse_images(paths: list[PurePosixPath], source: Path) -> None:
    """Raise DataError for images that lie outside of class folders."""
    images = [str(path) for path in paths if path.suffix.lower() in SUFFIXES]
    if images:
        raise DataError(
            f"{source} cannot be used: images outside of class folders: {_some(images)}"
        )


def _some(names: list[str]) -> str:
    """The first few names."""
    if not names:
        return "none"
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" * (len(names) > SHOWN))


def _read(source: Path, layout: Layout, size: int | None) -> dict[str, np.ndarray]:
    """Decode all images: the arrays of ImageData by name."""
    labels = {path: label for split in layout.labels.values() for path, label in split.items()}
    images: dict[PurePosixPath, np.ndarray] = {}
    contents = read_files(source, set(labels))
    for path, content in counted(contents, source.name, len(labels), "images"):
        try:
            images[path] = decode(content, size)
        except ValueError as error:
            raise _image_error(source, path, str(error)) from error
        first = next(iter(images))
        if images[path].shape[:2] != images[first].shape[:2]:
            raise DataError(
                f"{source} cannot be used: its images have different sizes (height x width).\n"
                f"{first}: {_extent(images[first])}\n{path}: {_extent(images[path])}\n"
                "dataset.size=<pixels> resizes all of them to that height and width."
            )
    if all(image.ndim == 2 for image in images.values()):
        stacked = {path: image[None] for path, image in images.items()}
    else:
        stacked = {
            path: np.stack([image] * 3) if image.ndim == 2 else image.transpose(2, 0, 1)
            for path, image in images.items()
        }
    splits = _split(source, layout) if "all" in layout.labels else layout.labels
    arrays = {}
    for name in SPLITS:
        inputs = np.stack([stacked[path] for path in splits[name]])
        arrays[f"{name}_inputs"] = np.ascontiguousarray(inputs)
        arrays[f"{name}_labels"] = np.array([*splits[name].values()], np.int64)
    return arrays


def _split(source: Path, layout: Layout) -> dict[str, dict[PurePosixPath, int]]:
    """Split images at random with seed 0, stratified by class."""
    from sklearn.model_selection import train_test_split

    labels = layout.labels["all"]
    try:
        parts = train_test_split(
            list(labels), test_size=TEST_SHARE, stratify=[*labels.values()], random_state=0
        )
    except ValueError as error:
        raise DataError(
            f"{source} cannot be split into training and test set by class ({error}).\n"
            "Give it more images, or folders train and test with class folders each."
        ) from error
    return {
        name: {path: labels[path] for path in sorted(part)}
        for name, part in zip(SPLITS, parts, strict=True)
    }


def decode(content: bytes, size: int | None) -> np.ndarray:
    """Decode one image.

    Args:
        content: of an image file in one of the :data:`FORMATS`.
        size: height and width to resize to; None to leave it as it is.

    Returns:
        uint8 ``[height, width]`` if the image is grey, else ``[height, width, 3]``.

    Raises:
        ValueError: it is no image, or not one of one frame, with eight bits a channel and no
            transparent pixels.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            frames = getattr(image, "n_frames", 1)
            if frames > 1 and image.format != "MPO":  # a JPEG with a preview, as phones write it
                raise ValueError(f"it has {frames} frames or pages, and must have one")
            opaque = _without_transparency(image)
            if opaque.mode not in (*GREY, *COLOUR):
                raise ValueError(
                    f"its pixels have the format {opaque.mode}, and must be grey or colour with "
                    "eight bits a channel"
                )
            pixels = opaque.convert("L" if opaque.mode in GREY else "RGB")
            if size is not None:
                pixels = pixels.resize((size, size), Image.Resampling.BILINEAR)
            return np.array(pixels)
    except Image.UnidentifiedImageError:
        raise ValueError(f"it is no image in one of the formats {', '.join(FORMATS)}") from None
    except ValueError:
        raise
    except Exception as error:  # damaged bytes can make the readers fail in any way
        raise ValueError(f"it is damaged or cannot be decoded: {error}") from error


def _without_transparency(image: Image.Image) -> Image.Image:
    """The image without its alpha channel, which must be opaque everywhere."""
    if not image.has_transparency_data:
        return image
    with_alpha = image.convert("RGBA")
    if with_alpha.getchannel("A").getextrema()[0] != 255:
        raise ValueError("it has transparent pixels")
    return image.convert("L" if image.mode in ("L", "LA") else "RGB")


def _extent(image: np.ndarray) -> str:
    return f"{image.shape[0]} x {image.shape[1]}"


def _image_error(source: Path, path: PurePosixPath, fault: str) -> DataError:
    return DataError(
        f"{source} cannot be used because of one file in a class folder.\n"
        f"  file:  {path}\n  fault: {fault}\n"
        "Repair it or take it out."
    )


def _digest(source: Path, size: int | None) -> str:
    """Digest of all that the decoded images depend on."""
    import PIL

    if source.is_dir():
        listing = list_files(source)
        files = [
            [str(path), length, (source / path).stat().st_mtime_ns]
            for path, length in sorted(listing.files.items())
        ]
        content = json.dumps([str(source), files, sorted(map(str, listing.folders))])
    else:
        with source.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
    text = json.dumps([_FORMAT, PIL.__version__, size, content])
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _check(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Arrays from a file, if they are of the right kind."""
    content: dict[str, np.ndarray] = {}
    for name in SPLITS:
        inputs, labels = arrays[f"{name}_inputs"], arrays[f"{name}_labels"]
        if inputs.dtype != np.uint8 or inputs.ndim != 4 or labels.shape != inputs.shape[:1]:
            raise ValueError(f"it holds {inputs.dtype} {list(inputs.shape)}")
        content |= {f"{name}_inputs": inputs, f"{name}_labels": labels}
    return content
