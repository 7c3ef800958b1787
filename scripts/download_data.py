"""Download the raw files of a data set, check them by digest, and put them into place.

    python scripts/download_data.py mnist --data-dir data

A file is written to a temporary folder beside its destination and renamed once its digest is
right, so that the destination holds the complete file or none. Files that are already there and
intact are kept; damaged ones are replaced. To add a data set, write one function that takes the
data folder and returns the number of files it downloaded, and name it in ``DOWNLOADERS``.
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
from http.client import HTTPException
from pathlib import Path
from urllib.request import Request, urlopen

from tqdm import tqdm

from convexinit.data.compat import import_torchvision
from convexinit.data.files import DataFile, find_fault
from convexinit.data.images import MNIST_FILES

TIMEOUT = 30  # seconds without an answer
CHUNK = 1 << 18  # bytes


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


DOWNLOADERS: dict[str, Callable[[Path], int]] = {"mnist": download_mnist}


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
    target = data_dir / file.path
    faults = []
    with staging_folder(target.parent) as folder:
        part = folder / target.name
        for url in urls:
            try:
                write(part, read_gzip(url), file)
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
    request = Request(url, headers={"User-Agent": "convexinit"})
    try:
        with urlopen(request, timeout=TIMEOUT) as response, gzip.open(response) as stream:
            while chunk := stream.read(CHUNK):
                yield chunk
    except (OSError, HTTPException, EOFError, zlib.error, ValueError) as error:
        raise DownloadError(" ".join(str(error).split()) or type(error).__name__) from error


def write(path: Path, chunks: Iterator[bytes], file: DataFile) -> None:
    """Write chunks to ``path``, and check that the result is the wanted file.

    Raises:
        DownloadError: the content is not that of ``file``; it is not read past the size of it.
        OSError: the disk is full, or the like.
    """
    written = 0
    bar = tqdm(desc=path.name, total=file.size, unit="B", unit_scale=True, disable=None)
    with bar, path.open("wb") as stream:
        for chunk in chunks:
            written += len(chunk)
            if written > file.size:
                raise DownloadError(f"more than the expected {file.size:,} bytes")
            stream.write(chunk)
            bar.update(len(chunk))
    fault = find_fault(path, file)
    if fault is not None:
        raise DownloadError(fault)


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
        epilog="Files that are already there and intact are kept. "
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
