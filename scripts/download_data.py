"""Download the raw files of a data set, check them by digest, and put them into place.

    python scripts/download_data.py mnist --data-dir data    (or fashion_mnist, cifar10, cifar100)
    python scripts/download_data.py tox21 --data-dir data
    python scripts/download_data.py cddd --data-dir data     (the weights of the descriptor)

A file is written to a temporary folder beside its destination and renamed once it was found right,
so that the destination holds the complete file or none. Files that are already there and intact are
kept; damaged ones are replaced. Which files there are, where, and what is known of them is said by
the modules of ``convexinit_paper.data.sources``.
"""

import argparse
import errno
import os
import socket
import sys
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from gzip import BadGzipFile
from http.client import HTTPException
from pathlib import Path
from ssl import SSLError
from urllib.error import URLError

from convexinit_paper.data.registry import DATA_SETS
from convexinit_paper.data.sources import Download
from convexinit_paper.request.paths import path_argument
from convexinit_paper.request.process import begin_command

SECONDS = 30.0  # without an answer

# What a server and its answer can lead to; other errors of the operating system are those of the
# disk.
BAD_ANSWER = (
    *(URLError, ConnectionError, TimeoutError, SSLError, HTTPException),
    *(BadGzipFile, EOFError, zlib.error, ValueError),
)


class DownloadError(RuntimeError):
    """A file could not be had from any of its sources."""


def downloads_of(name: str) -> list[Download]:
    """The files of a data set, or the weights of CDDD."""
    if name != "cddd":
        return DATA_SETS[name].downloads()
    from convexinit.molecules.cddd import URL, WEIGHTS, find_weights_fault

    return [Download(str(WEIGHTS), [URL], lambda data_dir: find_weights_fault(data_dir / WEIGHTS))]


def download(file: Download, data_dir: Path) -> None:
    """Download one file; it appears complete or not at all.

    Args:
        file: from where, and how it is checked.
        data_dir: folder that its path is relative to; made if need be.

    Raises:
        DownloadError: no source delivers the file; says for each source why.
        OSError: the file cannot be written.
    """
    # Imported here: --help needs no torch. Its function follows redirections as torchvision's does,
    # but never asks again without encryption.
    from torch.hub import download_url_to_file

    target = data_dir / file.path
    faults = []
    # The temporary folder is a data folder, so that the file is checked as it will be there.
    with staging_folder(target.parent) as folder:
        part = folder / file.path
        part.parent.mkdir(parents=True, exist_ok=True)
        for url in file.urls:
            try:
                download_url_to_file(url, str(part), progress=sys.stderr.isatty())
                if file.unpack is not None:
                    part.write_bytes(file.unpack(part))
                fault = file.fault(folder)
            except BAD_ANSWER as error:
                fault = " ".join(str(error).split()) or type(error).__name__
            if fault is None:
                part.replace(target)
                return
            faults.append(f"{url}: {fault}")
    raise DownloadError("\n  ".join([f"{target.name} could not be downloaded:", *faults]))


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
    extents = {name: source.extent for name, source in DATA_SETS.items() if source.extent}
    extents["cddd"] = "the weights of the descriptor, one file, 210 MB"
    parser = argparse.ArgumentParser(
        description="Download the raw files of a data set and check them by digest.",
        epilog=" ".join(f"{name}: {extent}." for name, extent in extents.items())
        + " Files that are already there and intact are kept. "
        "Exit status: 0 complete, 1 not complete, 2 wrong arguments.",
    )
    parser.add_argument("dataset", choices=extents, help="the data set to download")
    parser.add_argument(
        "--data-dir",
        type=path_argument,
        default=os.environ.get("CONVEXINIT_DATA", "data"),
        help="folder for all raw data; default: the environment variable CONVEXINIT_DATA if set, "
        "else 'data' (now: %(default)s)",
    )
    options = parser.parse_args(arguments)
    data_dir = options.data_dir.resolve()
    try:
        missing = [file for file in downloads_of(options.dataset) if file.fault(data_dir)]
        for file in missing:
            download(file, data_dir)
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
    plural = "" if len(missing) == 1 else "s"
    action = f"{len(missing)} file{plural} downloaded" if missing else "already there"
    print(f"{options.dataset}: complete and verified in {data_dir} ({action})")
    return 0


if __name__ == "__main__":
    begin_command()
    socket.setdefaulttimeout(SECONDS)  # torch would wait for ever
    sys.exit(main())
