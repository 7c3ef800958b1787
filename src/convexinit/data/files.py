"""Raw data files: what each must be, and the error a user sees when one is not."""

import hashlib
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


class DataError(RuntimeError):
    """A data file is missing or damaged. The message says what, where and what to do."""


@dataclass(frozen=True)
class DataFile:
    """One raw file, named and identified.

    Attributes:
        path: relative to the data folder, with forward slashes.
        size: in bytes.
        sha256: digest of the content, hexadecimal.
    """

    path: str
    size: int
    sha256: str


def find_fault(path: Path, file: DataFile) -> str | None:
    """Compare the file at ``path`` with what it should be.

    Returns:
        What is wrong with it, in a few words; None if it is the right file.
    """
    try:
        if not path.exists():
            return "missing"
        if not path.is_file():
            return "not a file"
        size = path.stat().st_size
        if size != file.size:
            kind = "truncated" if size < file.size else "too long"
            return f"{kind}: it has {size:,} bytes, expected {file.size:,}"
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        return f"not readable: {error.strerror or error}"
    if digest != file.sha256:
        return f"damaged: its sha256 is {digest[:16]}..., expected {file.sha256[:16]}..."
    return None


def check_files(name: str, files: Sequence[DataFile], data_dir: Path) -> None:
    """Check that a data set is there and intact: existence, size and digest of every file.

    Args:
        name: the data set, as ``scripts/download_data.py`` calls it.
        files: all files of the data set.
        data_dir: the folder that their paths are relative to. Nothing is written to it.

    Raises:
        DataError: for the first file that is not right; at most ten lines.
    """
    for file in files:
        fault = find_fault(data_dir / file.path, file)
        if fault is not None:
            raise DataError(_message(name, file, data_dir.resolve(), fault))


def _message(name: str, file: DataFile, data_dir: Path, fault: str) -> str:
    lines = [
        f"The data set {name} cannot be used because of one file.",
        f"  file:  {data_dir / file.path}",
        f"  fault: {fault}",
    ]
    if not data_dir.is_dir():
        state = "is not a folder" if data_dir.exists() else "does not exist"
        lines.append(f"The data folder {data_dir} {state}.")
    if fault == "missing":
        lines += [
            f"The file is in another folder: use data_dir={shlex.quote(str(folder))}"
            for folder in (data_dir.parent, data_dir.parent.parent)
            if (folder / file.path).is_file()
        ][:1]
    command = f"python scripts/download_data.py {name} --data-dir {shlex.quote(str(data_dir))}"
    lines += [
        f"To download it:  {command}",
        "To use another folder:  data_dir=<folder>, or the environment variable CONVEXINIT_DATA",
    ]
    return "\n".join(lines)
