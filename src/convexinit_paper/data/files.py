"""Raw data files: what each must be, and the error a user sees when one is not."""

import hashlib
import json
import os
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from convexinit_paper.request.quoting import argument

# The last line of errors about missing files.
ELSEWHERE = "To use another folder:  data_dir=<folder>, or the environment variable CONVEXINIT_DATA"

# Seconds after which a file that is changed once more has another time of change on any disk.
SETTLED = 5.0


class DataError(RuntimeError):
    """A data file is missing or damaged. The message says what, where and what to do."""


@dataclass(frozen=True)
class DataFile:
    """One raw file, named and identified.

    Attributes:
        path: relative to the data folder, with forward slashes.
        size: in bytes.
        digest: of the content, hexadecimal.
        algorithm: of the digest, "sha256" or, where its publisher gives no other, "md5".
    """

    path: str
    size: int
    digest: str
    algorithm: str = "sha256"


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
            digest = hashlib.file_digest(stream, file.algorithm).hexdigest()
    except OSError as error:
        return f"not readable: {error.strerror or error}"
    return digest_fault(digest, file.digest, file.algorithm)


def digest_fault(digest: str, expected: str, algorithm: str) -> str | None:
    """What is wrong with a content of this digest, in a few words; None if it is the right one."""
    if digest == expected:
        return None
    return f"damaged: its {algorithm} is {digest[:16]}..., expected {expected[:16]}..."


def digest_of(content: Any) -> str:
    """Short digest of bytes, or of anything that JSON can hold, as runs are known by.

    It begins with a word, so that no reader of options takes it for a number.

    Example:
        >>> digest_of(b"abc"), digest_of(["abc"])
        ('sha256-ba7816bf8f01cfea', 'sha256-02f393ea93585608')
    """
    text = content if isinstance(content, bytes) else json.dumps(content, sort_keys=True).encode()
    return _short(hashlib.sha256(text).hexdigest())


def file_digest(path: Path) -> str:
    """As :func:`digest_of` the content of a file.

    A process reads a file twice only if its size or times have changed, or if it is so new that
    they need not have.

    Raises:
        OSError: the file cannot be read.
    """
    status = path.stat()
    if time.time() - status.st_ctime < SETTLED:
        return _short(_sha256(path))
    return _short(_remembered_sha256(path, _state(status)))


def _short(hexadecimal: str) -> str:
    return f"sha256-{hexadecimal[:16]}"


def _state(status: os.stat_result) -> tuple[int, ...]:
    """What differs once a file has changed; its owner cannot set the time of change (ctime)."""
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


@lru_cache(maxsize=1_000_000)
def _remembered_sha256(path: Path, state: tuple[int, ...]) -> str:
    return _sha256(path)


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def check_files(name: str, files: Sequence[DataFile], data_dir: Path, *hints: str) -> None:
    """Check that a data set is there and intact: existence, size and digest of every file.

    Args:
        name: the data set, as ``scripts/download_data.py`` calls it.
        files: all files of the data set.
        data_dir: the folder that their paths are relative to. Nothing is written to it.
        hints: see :func:`file_error`.

    Raises:
        DataError: for the first file that is not right; at most ten lines.
    """
    for file in files:
        fault = find_fault(data_dir / file.path, file)
        if fault is not None:
            raise file_error(name, file.path, data_dir, fault, *hints)


def file_error(name: str, path: str, data_dir: Path, fault: str, *hints: str) -> DataError:
    """The error for one file of a data set that can be downloaded, in at most ten lines.

    Args:
        name: the data set, as ``scripts/download_data.py`` calls it.
        path: of the file, relative to the data folder.
        data_dir: the data folder.
        fault: what is wrong with the file, in a few words; "missing" if it is not there.
        hints: at most two lines that say what else can be done.
    """
    data_dir = data_dir.resolve()
    lines = [
        f"The data set {name} cannot be used because of one file.",
        f"  file:  {data_dir / path}",
        f"  fault: {fault}",
    ]
    if not data_dir.is_dir():
        state = "is not a folder" if data_dir.exists() else "does not exist"
        lines.append(f"The data folder {data_dir} {state}.")
    if fault == "missing":
        lines += [
            f"The file is in another folder: use {shlex.quote(argument('data_dir', str(folder)))}"
            for folder in (data_dir.parent, data_dir.parent.parent)
            if (folder / path).is_file()
        ][:1]
    if data_dir.is_dir() or not data_dir.exists():
        command = f"python scripts/download_data.py {name} --data-dir {shlex.quote(str(data_dir))}"
        lines.append(f"To download it:  {command}")
    lines += [ELSEWHERE, *hints]
    return DataError("\n".join(lines))
