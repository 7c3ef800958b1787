"""Where the checkout and real data lie, what tests skip without, and files that they write."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def real_data_dir() -> Path:
    """Folder of real data: CONVEXINIT_DATA, or ``shared/data`` beside the checkout."""
    return Path(os.environ.get("CONVEXINIT_DATA", ROOT.parent / "shared" / "data"))


needs_mnist = pytest.mark.skipif(
    not (real_data_dir() / "MNIST" / "raw").is_dir(),
    reason=f"MNIST is not in {real_data_dir()}; set CONVEXINIT_DATA to its folder",
)

JPEG_COPY = Path("cifar10_jpeg") / "cifar10_jpeg.tar.xz"

needs_jpeg_copy = pytest.mark.skipif(
    not (real_data_dir() / JPEG_COPY).is_file(),
    reason=f"{JPEG_COPY} is not in {real_data_dir()}; set CONVEXINIT_DATA to its folder",
)

needs_tox21 = pytest.mark.skipif(
    not (real_data_dir() / "tox21").is_dir(),
    reason=f"Tox21 is not in {real_data_dir()}; set CONVEXINIT_DATA to its folder",
)


def write(files: dict[str, bytes], folder: Path) -> Path:
    """Write files, by their paths in a folder; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder
