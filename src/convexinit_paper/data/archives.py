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
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from convexinit_paper.data.files import DataError

KINDS = ".tar, .tar.gz, .tar.xz or .zip"


@dataclass(frozen=True)
class Listing:
    """What a folder or an archive holds.

    Attributes:
        files: path and size in bytes of every file, relative to the folder or archive.
        folders: paths of the folders that are listed; archives may leave them out.
    """

    files: dict[PurePosixPath, int]
    folders: set[PurePosixPath]


def list_files(source: Path) -> Listing:
    """What lies below a folder or in an archive.

    Links below a folder are followed, as they are the user's own; links in archives are refused.

    Args:
        source: folder, or archive of one of the :data:`KINDS`.

    Raises:
        DataError: it is not there, is damaged, or is an archive that is refused.
    """
    with _errors(source):
        kind = _kind(source)
        return {"folder": _list_folder, "tar": _list_tar, "zip": _list_zip}[kind](source)


def read_files(source: Path, paths: set[PurePosixPath]) -> Iterator[tuple[PurePosixPath, bytes]]:
    """Contents of files, in the order in which they lie in an archive.

    Args:
        source: see :func:`list_files`, which has to be called first.
        paths: of the files to read.

    Raises:
        DataError: the source is damaged.
    """
    with _errors(source):
        kind = _kind(source)
        yield from {"folder": _read_folder, "tar": _read_tar, "zip": _read_zip}[kind](source, paths)


def _kind(source: Path) -> str:
    if source.is_dir():
        return "folder"
    if not source.exists():
        raise DataError(f"{source} does not exist")
    if tarfile.is_tarfile(source):
        return "tar"
    if zipfile.is_zipfile(source):
        return "zip"
    raise DataError(f"{source} is neither a folder nor a readable archive ({KINDS})")


@contextmanager
def _errors(source: Path) -> Iterator[None]:
    """Turn everything that damaged bytes and disks lead to into DataError."""
    try:
        yield
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
        if isinstance(error, DataError):
            raise
        raise DataError(f"the archive {source} is damaged or cannot be read: {error}") from error


def _list_folder(source: Path) -> Listing:
    listing = Listing({}, set())
    seen = set()

    def fail(error: OSError) -> None:
        raise error

    for name, folders, files in os.walk(source, onerror=fail, followlinks=True):
        here = Path(name)
        status = here.stat()
        if (status.st_dev, status.st_ino) in seen:
            raise DataError(f"{here} is a link to a folder that lies below {source} as well")
        seen.add((status.st_dev, status.st_ino))
        relative = PurePosixPath(here.relative_to(source).as_posix())
        listing.folders.update(relative / folder for folder in folders)
        listing.files.update({relative / file: (here / file).stat().st_size for file in files})
    return listing


def _read_folder(source: Path, paths: set[PurePosixPath]) -> Iterator[tuple[PurePosixPath, bytes]]:
    for path in sorted(paths):
        yield path, (source / path).read_bytes()


def _list_tar(source: Path) -> Listing:
    listing = Listing({}, set())
    with tarfile.open(source) as archive:
        for member in archive:
            path = _member_path(source, member.name)
            if member.isdir():
                listing.folders.add(path)
            elif member.isfile():
                _add_file(source, listing, path, member.size)
            else:
                kind = "a link" if member.issym() or member.islnk() else "neither file nor folder"
                raise DataError(f"the archive {source} is refused: {member.name} is {kind}")
        _check_end(archive)
    return listing


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


def _read_tar(source: Path, paths: set[PurePosixPath]) -> Iterator[tuple[PurePosixPath, bytes]]:
    with tarfile.open(source) as archive:
        for member in archive:
            path = PurePosixPath(member.name)
            stream = archive.extractfile(member) if path in paths and member.isfile() else None
            if stream is not None:
                yield path, stream.read()


def _list_zip(source: Path) -> Listing:
    listing = Listing({}, set())
    with zipfile.ZipFile(source) as archive:
        for member in archive.infolist():
            path = _member_path(source, member.filename)
            if stat.S_ISLNK(member.external_attr >> 16):
                raise DataError(f"the archive {source} is refused: {member.filename} is a link")
            if member.is_dir():
                listing.folders.add(path)
            else:
                _add_file(source, listing, path, member.file_size)
    return listing


def _read_zip(source: Path, paths: set[PurePosixPath]) -> Iterator[tuple[PurePosixPath, bytes]]:
    with zipfile.ZipFile(source) as archive:
        for member in archive.infolist():
            path = PurePosixPath(member.filename)
            if path in paths:
                yield path, archive.read(member)


def _add_file(source: Path, listing: Listing, path: PurePosixPath, size: int) -> None:
    if path in listing.files:
        raise DataError(f"the archive {source} is refused: it holds {path} twice")
    listing.files[path] = size


def _member_path(source: Path, name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise DataError(f"the archive {source} is refused: {name} lies outside of its folder")
    return path
