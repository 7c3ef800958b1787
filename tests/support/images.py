"""Image files in class folders, made up."""

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from support.data import write

ARCHIVES = ("tar", "tar.gz", "tar.xz", "zip")
Files = dict[str, bytes]


def pixels(seed: int, shape: tuple[int, ...] = (5, 4, 3)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def png(image: np.ndarray | Image.Image, kind: str = "PNG", **options) -> bytes:
    """An image file without loss."""
    stream = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(stream, kind, **options)
    return stream.getvalue()


def split_files(prefix: str = "", shape: tuple[int, ...] = (5, 4, 3)) -> Files:
    """Three classes, two training images and one test image each."""
    return {
        f"{prefix}{split}/{name}/{number}.png": png(pixels(seed, shape))
        for seed, (split, name, number) in enumerate(
            [(split, name, number) for split, numbers in (("train", "01"), ("test", "0"))
             for name in ("bee", "ant", "cat") for number in numbers]
        )
    }  # fmt: skip


def plain_files(per_class: int = 10, names: tuple[str, ...] = ("a", "b")) -> Files:
    return {
        f"{name}/{number:03}.png": png(pixels(100 * place + number))
        for place, name in enumerate(names)
        for number in range(per_class)
    }


def write_archive(files: Files, path: Path) -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return path
    kind = path.suffix[1:].replace("tar", "")
    with tarfile.open(path, f"w:{kind}") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def stored(kind: str, files: Files, path: Path) -> Path:
    """The files in a folder of this name, or in an archive of this kind."""
    if kind == "folder":
        return write(files, path)
    return write_archive(files, path.with_name(f"{path.name}.{kind}"))
