"""Download the raw files of a data set, check them by digest, and put them into place.

    python scripts/download_data.py mnist --data-dir data    (or fashion_mnist, cifar10, cifar100)
    python scripts/download_data.py tox21 --data-dir data
    python scripts/download_data.py cddd --data-dir data     (the weights of the descriptor)

A file is written to a temporary folder beside its destination and renamed once its digest is
right, so that the destination holds the complete file or none. Files that are already there and
intact are kept; damaged ones are replaced. Archives are unpacked to names of our own: those inside
them are never used for a file. Of one file, the training set of Tox21, no digest is known: its
archive must be intact and hold one SDF, with complete records, known labels and 11,764 distinct
sample IDs.

To add a data set, write one function that takes the data folder and returns the number of files it
downloaded, and name it in ``DOWNLOADERS``.
"""

import argparse
import errno
import gzip
import os
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.request import Request, urlopen

from tqdm import tqdm

from convexinit.molecules.cddd import URL, WEIGHTS, find_weights_fault
from convexinit_paper.data.cifar import CIFAR, read_cifar
from convexinit_paper.data.compat import import_torchvision
from convexinit_paper.data.files import DataError, DataFile, find_fault
from convexinit_paper.data.images import FASHION_MNIST_FILES, MNIST_FILES
from convexinit_paper.data.tox21 import (
    MAX_SDF_BYTES,
    TEST_FILES,
    TRAIN_SDF,
    VALIDATION_FILE,
    FormatError,
    find_train_fault,
    find_train_sdf_fault,
    unzip_sdf,
)

MAX_WEIGHTS_BYTES = 250_000_000
TIMEOUT = 30  # seconds without an answer
CHUNK = 1 << 18  # bytes
MAX_ARCHIVE_BYTES = 100_000_000  # the largest archive of Tox21 has a few million

TOX21_URL = "https://tripod.nih.gov/tox21/challenge/download?id="


class DownloadError(RuntimeError):
    """A file could not be had from any of its sources."""


def download_mnist(data_dir: Path) -> int:
    """MNIST, from the mirrors that torchvision knows: four files, each compressed with gzip."""
    missing = [file for file in MNIST_FILES if find_fault(data_dir / file.path, file)]
    if not missing:
        return 0
    mirrors = import_torchvision().datasets.MNIST.mirrors
    for file in missing:
        archive = Path(file.path).name + ".gz"
        download_gzip([mirror.rstrip("/") + "/" + archive for mirror in mirrors], file, data_dir)
    return len(missing)


def download_fashion_mnist(data_dir: Path) -> int:
    """Fashion-MNIST, from the mirror that torchvision knows: four files, which stay compressed."""
    missing = [file for file in FASHION_MNIST_FILES if find_fault(data_dir / file.path, file)]
    if not missing:
        return 0
    mirrors = import_torchvision().datasets.FashionMNIST.mirrors
    for file in missing:
        urls = [mirror.rstrip("/") + "/" + Path(file.path).name for mirror in mirrors]
        download_plain(urls, file, data_dir)
    return len(missing)


def download_cifar(data_dir: Path, name: str) -> int:
    """One of the CIFAR data sets, from its home page: one archive, which is not unpacked.

    Nothing is downloaded if it is there as torchvision unpacks it.
    """
    try:
        read_cifar(name, data_dir)
        return 0
    except DataError:
        url = getattr(import_torchvision().datasets, name.upper()).url
        download_plain([url], CIFAR[name].archive, data_dir)
        return 1


def download_tox21(data_dir: Path) -> int:
    """The Tox21 challenge data, from NIH: two archives of one SDF each, and two text files.

    The training set is left alone if it is there in its other form, the per-assay files, which
    this address does not offer.
    """
    downloaded = 0
    if find_train_fault(data_dir) is not None:
        target = data_dir / TRAIN_SDF
        download([TOX21_URL + "tox21_10k_data_allsdf"], target, write_train_sdf)
        downloaded += 1
    for file, name, read in (
        (VALIDATION_FILE, "tox21_10k_challenge_testsdf", read_sdf),
        (TEST_FILES[0], "tox21_10k_challenge_scoresmiles", read_plain),
        (TEST_FILES[1], "tox21_10k_challenge_scoretxt", read_plain),
    ):
        if find_fault(data_dir / file.path, file):
            fetch = partial(write_from, read=read, file=file)
            download([TOX21_URL + name], data_dir / file.path, fetch)
            downloaded += 1
    return downloaded


def download_cddd(data_dir: Path) -> int:
    """The published weights of the CDDD descriptor, converted to one NumPy archive."""
    if find_weights_fault(data_dir / WEIGHTS) is None:
        return 0
    download([URL], data_dir / WEIGHTS, write_cddd)
    return 1


DOWNLOADERS: dict[str, Callable[[Path], int]] = {
    "mnist": download_mnist,
    "fashion_mnist": download_fashion_mnist,
    "cifar10": partial(download_cifar, name="cifar10"),
    "cifar100": partial(download_cifar, name="cifar100"),
    "tox21": download_tox21,
    "cddd": download_cddd,
}


def download_gzip(urls: Sequence[str], file: DataFile, data_dir: Path) -> None:
    """Download and uncompress one file; it appears under its name complete or not at all.

    The name of the result comes from ``file``; names inside the archive are not used.

    Args:
        urls: sources of the same gzip-compressed file, tried in order.
        file: the uncompressed file.
        data_dir: folder that the file's path is relative to; made if need be.

    Raises:
        DownloadError: no source delivers the file; says for each source why.
        OSError: the file cannot be written.
    """
    download(urls, data_dir / file.path, partial(write_from, read=read_gzip, file=file))


def download_plain(urls: Sequence[str], file: DataFile, data_dir: Path) -> None:
    """Download one file as it is; arguments and errors as for :func:`download_gzip`."""
    download(urls, data_dir / file.path, partial(write_from, read=read_plain, file=file))


def download(urls: Sequence[str], target: Path, fetch: Callable[[Path, str], None]) -> None:
    """Download one file; it appears as ``target`` complete or not at all.

    Args:
        urls: sources of the same file, tried in order.
        target: where the file belongs; its folder is made if need be.
        fetch: given a temporary path and a URL, writes the file there and checks it.

    Raises:
        DownloadError: no source delivers the file; says for each source why.
        OSError: the file cannot be written.
    """
    faults = []
    with staging_folder(target.parent) as folder:
        part = folder / target.name
        for url in urls:
            try:
                fetch(part, url)
            except DownloadError as error:
                faults.append(f"{url}: {error}")
                continue
            part.replace(target)
            return
    raise DownloadError("\n  ".join([f"{target.name} could not be downloaded:", *faults]))


def read_gzip(url: str) -> Iterator[bytes]:
    """Uncompressed content of a gzip file on the web, in chunks.

    Raises:
        DownloadError: the source cannot be reached, refuses, breaks off, or sends no gzip file.
    """
    with network_errors(), open_url(url) as response, gzip.open(response) as stream:
        while chunk := stream.read(CHUNK):
            yield chunk


def read_plain(url: str) -> Iterator[bytes]:
    """Content of a file on the web, in chunks.

    Raises:
        DownloadError: the source cannot be reached, refuses, or breaks off.
    """
    with network_errors(), open_url(url) as response:
        length = response.headers.get("Content-Length")
        read = 0
        while chunk := response.read(CHUNK):
            read += len(chunk)
            yield chunk
        # Asked for chunks, the standard library takes a lost connection for the end of the file.
        if length is not None and read != int(length):
            raise DownloadError(f"the connection was lost after {read:,} of {int(length):,} bytes")


def read_sdf(url: str) -> Iterator[bytes]:
    """The SDF in a ZIP archive on the web.

    Raises:
        DownloadError: as for :func:`read_plain`, or it is not an archive of one SDF.
    """
    archive = bytearray()
    for chunk in read_plain(url):
        archive += chunk
        if len(archive) > MAX_ARCHIVE_BYTES:
            raise DownloadError(f"an archive of more than {MAX_ARCHIVE_BYTES:,} bytes")
    try:
        yield unzip_sdf(bytes(archive))
    except FormatError as error:
        raise DownloadError(str(error)) from error


def open_url(url: str) -> HTTPResponse:
    """Send a request; the response is a stream."""
    request = Request(url, headers={"User-Agent": "convexinit"})
    response: HTTPResponse = urlopen(request, timeout=TIMEOUT)
    return response


@contextmanager
def network_errors() -> Iterator[None]:
    """Turn the many errors of a download into one, with a message of one line."""
    try:
        yield
    except (OSError, HTTPException, EOFError, zlib.error, ValueError) as error:
        raise DownloadError(" ".join(str(error).split()) or type(error).__name__) from error


def write(path: Path, chunks: Iterator[bytes], file: DataFile) -> None:
    """Write chunks to ``path``, and check that the result is the wanted file.

    Raises:
        DownloadError: the content is not that of ``file``; it is not read past the size of it.
        OSError: the disk is full, or the like.
    """
    copy(path, chunks, limit=file.size, total=file.size)
    fault = find_fault(path, file)
    if fault is not None:
        raise DownloadError(fault)


def write_from(
    path: Path, url: str, read: Callable[[str], Iterator[bytes]], file: DataFile
) -> None:
    """Write what ``read`` gets from a URL to ``path``; errors as for :func:`write`."""
    write(path, read(url), file)


def write_train_sdf(path: Path, url: str) -> None:
    """Write the training set of Tox21 to ``path``, and check what can be known about it.

    Raises:
        DownloadError: it cannot be had, or is not what it should be.
        OSError: the disk is full, or the like.
    """
    copy(path, read_sdf(url), limit=MAX_SDF_BYTES)
    fault = find_train_sdf_fault(path)
    if fault is not None:
        raise DownloadError(fault)


def write_cddd(path: Path, url: str) -> None:
    """Write the weights of CDDD to ``path``, and check them by digest.

    Raises:
        DownloadError: they cannot be had, or are not what they should be.
        OSError: the disk is full, or the like.
    """
    copy(path, read_plain(url), MAX_WEIGHTS_BYTES)
    fault = find_weights_fault(path)
    if fault is not None:
        raise DownloadError(fault)


def copy(path: Path, chunks: Iterator[bytes], limit: int, total: int | None = None) -> None:
    """Write chunks to ``path`` and show the progress.

    Args:
        path: written anew.
        chunks: the content.
        limit: bytes; more are an error, and are not read.
        total: the number of bytes to come, if it is known.

    Raises:
        DownloadError: more than ``limit`` bytes.
        OSError: the disk is full, or the like.
    """
    written = 0
    bar = tqdm(desc=path.name, total=total, unit="B", unit_scale=True, disable=None)
    with bar, path.open("wb") as stream:
        for chunk in chunks:
            written += len(chunk)
            if written > limit:
                raise DownloadError(f"more than the expected {limit:,} bytes")
            stream.write(chunk)
            bar.update(len(chunk))


@contextmanager
def staging_folder(parent: Path) -> Iterator[Path]:
    """A temporary folder inside ``parent``, on the same disk, so that a rename is atomic.

    ``parent`` is made if need be. At the end the temporary folder is removed, and so are the
    folders that were made here and are still empty.
    """
    made = [folder for folder in (parent, *parent.parents) if not folder.exists()]
    try:
        parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=parent) as folder:
            yield Path(folder)
    finally:
        for empty in made:
            with suppress(OSError):
                empty.rmdir()


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status."""
    parser = argparse.ArgumentParser(
        description="Download the raw files of a data set and check them by digest.",
        epilog="mnist: four files, 55 MB. fashion_mnist: four files, 31 MB. cifar10, cifar100: an "
        "archive each, 170 MB. tox21: four files from NIH; its training set has no "
        "known digest: the archive, records, labels and number of samples are checked instead. "
        "cddd: the weights of the descriptor, one file, 210 MB. "
        "Files that are already there and intact are kept. "
        "Exit status: 0 complete, 1 not complete, 2 wrong arguments.",
    )
    parser.add_argument("dataset", choices=DOWNLOADERS, help="the data set to download")
    parser.add_argument(
        "--data-dir",
        type=Path,
        default=Path(os.environ.get("CONVEXINIT_DATA", "data")),
        help="folder for all raw data; default: the environment variable CONVEXINIT_DATA if set, "
        "else 'data' (now: %(default)s)",
    )
    options = parser.parse_args(arguments)
    data_dir = options.data_dir.expanduser().resolve()
    try:
        downloaded = DOWNLOADERS[options.dataset](data_dir)
    except DownloadError as error:
        advice = (
            f"Complete files under {data_dir} are kept, nothing unfinished is left there.\n"
            "Try again later; or, without internet access, run this command on another machine,\n"
            "copy its data folder here, and name it with data_dir=<folder> or CONVEXINIT_DATA."
        )
        print(f"error: {error}\n{advice}", file=sys.stderr)
        return 1
    except OSError as error:
        reason = "the disk is full" if error.errno == errno.ENOSPC else str(error)
        print(f"error: cannot write to {data_dir}: {reason}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("error: interrupted; run the same command again to go on", file=sys.stderr)
        return 1
    plural = "" if downloaded == 1 else "s"
    action = f"{downloaded} file{plural} downloaded" if downloaded else "already there"
    print(f"{options.dataset}: complete and verified in {data_dir} ({action})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
