"""Any images in class folders, or an archive of them, as one data set in memory.

What lies where is said in :mod:`convexinit_paper.data.class_folders`. Without folders train and
test, images are split into 80% for training and 20% for the test, stratified by class and always
the same way.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np

from convexinit_paper.data.archives import list_files, read_files
from convexinit_paper.data.cache import read_arrays, write_arrays
from convexinit_paper.data.class_folders import SPLITS, Layout, arrange
from convexinit_paper.data.files import ELSEWHERE, DataError, digest_of, file_digest
from convexinit_paper.data.images import ImageData
from convexinit_paper.data.sources import ImageArrays
from convexinit_paper.progress import with_progress
from convexinit_paper.training.memory import BYTES, require_memory

if TYPE_CHECKING:
    from PIL import Image

# What is decoded: formats whose readers are self-contained (that of EPS, say, runs Ghostscript).
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "PPM", "TIFF", "WEBP")
GREY, COLOUR = ("1", "L"), ("P", "RGB", "CMYK", "YCbCr")  # Pillow's names of pixel formats
MAX_FILE_BYTES = 100_000_000
TEST_SHARE = 0.2

_FORMAT = 2  # to be raised when the content of cached files changes


def load_image_folder(
    source: str | Path, title: str | None, size: int | None, cache_dir: str | Path
) -> ImageData:
    """Read images in class folders into memory; the second time, from a cache.

    Images are grey if all of them are, else RGB. They are turned upright where the camera noted how
    it was held (EXIF). Images with transparent pixels, several frames
    (animations) or more than eight bits a channel are refused, as there is no one way to convert
    them.

    Args:
        source: a folder, or an archive (.tar, .tar.gz, .tar.xz, .zip), which is not unpacked; only
            read.
        title: the name used in figures; None for the name of the folder or archive.
        size: height and width in pixels that every image is resized to (bilinear, smoothed, the
            sides not in proportion); None if they all have one size.
        cache_dir: folder for the decoded images; made if need be. Files in it are named after
            what :func:`image_content` says.

    Raises:
        DataError: something is missing, damaged, or not laid out as above.
        ConfigError: there is too little memory.
    """
    source = Path(source).expanduser().resolve()
    content = image_content(source)
    path = Path(cache_dir).expanduser() / f"images-{_cache_name(content, size)}.npz"
    arrays = read_arrays(path, "images", _check)
    if arrays is None:
        arrays = _read(source, size)
        if image_content(source) != content:
            raise DataError(f"{source} has changed while it was read; ask again")
        write_arrays(path, "images", **arrays._asdict())
    classes = int(arrays.train_labels.max()) + 1
    return ImageData.of(arrays, classes, title or source.name)


def image_content(source: Path) -> str:
    """Digest of the images in a folder or archive, as a run on them is known by.

    That of an archive is the digest of the file, that of a folder one of the paths in it and the
    contents of all images. Where either lies, its name, times and what is passed over do not count.

    Args:
        source: folder or archive.

    Raises:
        DataError: it is missing, cannot be read, or is not laid out as above.
    """
    source = source.expanduser().resolve()
    if not source.exists():
        raise DataError(
            f"The images are missing: there is no {source}\n"
            "To use others:  dataset.path=<folder or archive of images in class folders>\n"
            f"{ELSEWHERE}"
        )
    try:
        if not source.is_dir():
            return file_digest(source)
        layout = arrange(list_files(source), source)
        paths = sorted(path for labels in layout.labels.values() for path in labels)
        return digest_of([[str(path), file_digest(source / path)] for path in paths])
    except OSError as error:
        raise DataError(f"{error.filename or source} cannot be read: {error.strerror}") from error


def _read(source: Path, size: int | None) -> ImageArrays:
    """Find the classes and decode all images."""
    listing = list_files(source)
    layout = arrange(listing, source)
    paths = {path for labels in layout.labels.values() for path in labels}
    for path in sorted(paths):
        if listing.files[path] > MAX_FILE_BYTES:
            raise _image_error(source, path, f"it has more than {MAX_FILE_BYTES:,} bytes")
    images: dict[PurePosixPath, np.ndarray] = {}
    contents = read_files(source, paths)
    channels = 0
    if size is not None:
        _require_memory(source, len(paths), (size, size, 1))
    for path, content in with_progress(contents, source.name, len(paths), "images"):
        try:
            images[path] = np.atleast_3d(decode(content, size))
        except ValueError as error:
            raise _image_error(source, path, str(error)) from error
        first = next(iter(images))
        if images[path].shape[:2] != images[first].shape[:2]:
            raise DataError(
                f"{source} cannot be used: its images have different sizes (height x width).\n"
                f"{first}: {_extent(images[first])}\n{path}: {_extent(images[path])}\n"
                "dataset.size=<pixels> resizes all of them to that height and width."
            )
        if images[path].shape[2] > channels:
            channels = images[path].shape[2]
            _require_memory(source, len(paths), images[path].shape)

    def arrays(labels: dict[PurePosixPath, int]) -> tuple[np.ndarray, np.ndarray]:
        stacked = np.stack(
            [np.broadcast_to(images[path], (*images[path].shape[:2], channels)) for path in labels]
        )
        inputs = np.ascontiguousarray(stacked.transpose(0, 3, 1, 2))
        return inputs, np.array([*labels.values()], np.int64)

    splits = _split(source, layout) if "all" in layout.labels else layout.labels
    return ImageArrays(*arrays(splits["train"]), *arrays(splits["test"]))


def _require_memory(source: Path, count: int, shape: tuple[int, ...]) -> None:
    """Raise ConfigError if so many images do not fit, as bytes and as inputs of networks."""
    pixels = count * math.prod(shape)
    require_memory(
        (1 + BYTES) * pixels,
        f"{source}: {count:,} images of {shape[0]:,} x {shape[1]:,} pixels",
        "a smaller dataset.size=<pixels>, or fewer images",
    )


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
    """Decode one image, upright.

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
            opaque = _without_transparency(_upright(image))
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


def _upright(image: Image.Image) -> Image.Image:
    """The image as it is to be looked at: cameras that are held upright store it lying (EXIF)."""
    from PIL import ImageOps

    image.load()  # damaged pixels are not to be taken for what comes next
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # notes beside the pixels that cannot be read say nothing of them
        return image


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


def _cache_name(content: str, size: int | None) -> str:
    """Digest of all that the decoded images depend on."""
    import PIL

    text = json.dumps([_FORMAT, PIL.__version__, size, content])
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _check(arrays: Mapping[str, np.ndarray]) -> ImageArrays:
    """Arrays from a file, if they are of the right kind."""
    content = ImageArrays(*(arrays[name] for name in ImageArrays._fields))
    for inputs, labels in (content[:2], content[2:]):
        if inputs.dtype != np.uint8 or inputs.ndim != 4 or labels.shape != inputs.shape[:1]:
            raise ValueError(f"it holds {inputs.dtype} {list(inputs.shape)}")
    return content
