"""The files of a folder or an archive, read one after the other and never unpacked.

Archives may come from anywhere. Those with members that would leave their folder if they were
unpacked (absolute paths, ``..``), with links or with devices are refused as a whole: whoever made
them had something else in mind than images.
"""

from __future__ import annotations

import lzma
import os
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from convexinit_paper.data.files import DataError

KINDS = ".tar, .tar.gz, .tar.xz or .zip"
FILE, FOLDER, LINK, OTHER = "a file", "a folder", "a link", "neither file nor folder"


class Listing(NamedTuple):
    """What a folder or an archive holds.

    Attributes:
        files: path and size in bytes of every file, relative to the folder or archive.
        folders: paths of the folders that are listed; archives may leave them out.
    """

    files: dict[PurePosixPath, int]
    folders: set[PurePosixPath]


class Member(NamedTuple):
    """Something in a folder or an archive.

    Attributes:
        name: its path as it is written there.
        kind: one of the four above.
        size: in bytes.
        read: gives the content of a file, before the next member is asked for.
    """

    name: str
    kind: str
    size: int
    read: Callable[[], bytes]


def list_files(source: Path) -> Listing:
    """What lies below a folder or in an archive.

    Links below a folder are followed, as they are the user's own; links in archives are refused.

    Args:
        source: folder, or archive of one of the :data:`KINDS`.

    Raises:
        DataError: it is not there, is damaged, or is an archive that is refused.
    """
    listing = Listing({}, set())
    with _errors(source):
        for member in _members(source):
            path = PurePosixPath(member.name)
            if path.is_absolute() or ".." in path.parts:
                raise _refused(source, f"{member.name} lies outside of its folder")
            if member.kind in (LINK, OTHER):
                raise _refused(source, f"{member.name} is {member.kind}")
            if path in listing.files:
                raise _refused(source, f"it holds {path} twice")
            if member.kind == FOLDER:
                listing.folders.add(path)
            else:
                listing.files[path] = member.size
    return listing


def read_files(source: Path, paths: set[PurePosixPath]) -> Iterator[tuple[PurePosixPath, bytes]]:
    """Contents of files, in the order in which they lie in an archive.

    Args:
        source: see :func:`list_files`, which has to be called first.
        paths: of the files to read.

    Raises:
        DataError: the source is damaged.
    """
    with _errors(source):
        for member in _members(source):
            if PurePosixPath(member.name) in paths:
                yield PurePosixPath(member.name), member.read()


def _refused(source: Path, reason: str) -> DataError:
    return DataError(f"the archive {source} is refused: {reason}")


@contextmanager
def _errors(source: Path) -> Iterator[None]:
    """Turn everything that damaged bytes and disks lead to into DataError."""
    try:
        yield
    except DataError:
        raise
    except OSError as error:
        place = error.filename or source
        raise DataError(f"{place} cannot be read: {error.strerror or error}") from error
    except (
        EOFError,
        tarfile.TarError,
        zipfile.BadZipFile,
        zlib.error,
        lzma.LZMAError,
        NotImplementedError,  # compression methods that zipfile does not know
        RuntimeError,  # encrypted members
    ) as error:
        raise DataError(
            f"the archive {source} is damaged or cannot be read: {error}; copy or download it "
            "again, or unpack it and give the folder"
        ) from error


def _members(source: Path) -> Iterator[Member]:
    if source.is_dir():
        return _in_folder(source)
    if not source.exists():
        raise DataError(f"{source} does not exist")
    if tarfile.is_tarfile(source):
        return _in_tar(source)
    if zipfile.is_zipfile(source):
        return _in_zip(source)
    raise DataError(f"{source} is neither a folder nor a readable archive ({KINDS})")


def _in_folder(source: Path) -> Iterator[Member]:
    seen = set()

    def fail(error: OSError) -> None:
        raise error

    for name, folders, files in os.walk(source, onerror=fail, followlinks=True):
        here = Path(name)
        status = here.stat()
        if (status.st_dev, status.st_ino) in seen:
            raise DataError(f"{here} is a link to a folder that lies below {source} as well")
        seen.add((status.st_dev, status.st_ino))
        for kind, entries in ((FOLDER, folders), (FILE, files)):
            for path in (here / entry for entry in sorted(entries)):
                relative = path.relative_to(source).as_posix()
                yield Member(relative, kind, path.stat().st_size, path.read_bytes)


def _in_tar(source: Path) -> Iterator[Member]:
    def read(member: tarfile.TarInfo) -> bytes:
        stream = archive.extractfile(member)
        assert stream is not None  # it is a file
        return stream.read()

    # Names are UTF-8 whatever the locale says.
    with tarfile.open(source, encoding="utf-8") as archive:
        for member in archive:
            kind = FOLDER if member.isdir() else FILE if member.isfile() else OTHER
            kind = LINK if member.issym() or member.islnk() else kind
            yield Member(member.name, kind, member.size, partial(read, member))
        _check_end(archive)


def _check_end(archive: tarfile.TarFile) -> None:
    """Raise an error if an archive ends too early.

    The standard library takes a damaged header for the end, and the checksum of a compressed file
    is compared only if it is read to its last byte.
    """
    stream = archive.fileobj
    assert stream is not None
    stream.seek(archive.offset)
    if stream.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError(f"its entry at byte {archive.offset:,} is not readable")
    while stream.read(1 << 20):
        pass


def _in_zip(source: Path) -> Iterator[Member]:
    with zipfile.ZipFile(source) as archive:
        for member in archive.infolist():
            kind = LINK if stat.S_ISLNK(member.external_attr >> 16) else FILE
            kind = FOLDER if member.is_dir() else kind
            yield Member(member.filename, kind, member.file_size, partial(archive.read, member))
