"""Collections of molecules: one SMILES a line, one file a source."""

from __future__ import annotations

import gzip
import hashlib
import io
import zlib
from pathlib import Path

from convexinit_paper.data.files import ELSEWHERE, DataError

# Share of the molecules that no training of the autoencoder sees.
HELD_OUT = 0.05


def load_smiles(data_dir: str | Path) -> dict[str, list[str]]:
    """All SMILES of the files ``smiles/*.smi`` or ``smiles/*.smi.gz``, as they stand there.

    Hidden files are passed over.

    What follows a SMILES in its line, after a blank or a tab, is its name and is left out.

    Args:
        data_dir: folder of all raw data.

    Returns:
        SMILES by source, the name of the file. Of a file that is there in both forms, the first
        that can be read.

    Raises:
        DataError: there is no such file, or one cannot be read.
    """
    folder = Path(data_dir).expanduser() / "smiles"
    forms: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("[!.]*")):
        name = path.name.removesuffix(".gz")
        if name.endswith(".smi"):
            forms.setdefault(name.removesuffix(".smi"), []).append(path)
    if not forms:
        raise DataError(
            f"There are no molecules in {folder.resolve()}\n"
            "The autoencoder learns from any files smiles/*.smi there, one SMILES a line.\n"
            f"{ELSEWHERE}"
        )
    return {source: _read(paths) for source, paths in forms.items()}


def _read(forms: list[Path]) -> list[str]:
    """The SMILES of the first of these files that can be read."""
    first: DataError | None = None
    for path in forms:
        try:
            content = path.read_bytes()
            if path.suffix == ".gz":
                content = gzip.decompress(content)
            text = io.StringIO(content.decode("utf-8"), newline=None).read()
            if "\0" in text:
                raise ValueError("it holds zero bytes, as UTF-16 does; save it as UTF-8")
        except UnicodeDecodeError as error:
            first = first or DataError(f"{path} cannot be read: {error}\nSave it as UTF-8.")
        except (OSError, EOFError, ValueError, zlib.error) as error:
            first = first or DataError(f"{path} cannot be read: {error}")
        else:
            # A byte-order mark begins a file, or stands inside of one joined from several.
            lines = text.replace("\ufeff", "").split("\n")
            return [line.split()[0] for line in lines if line.strip()]
    assert first is not None  # there is a file
    raise first


def is_held_out(canonical: str) -> bool:
    """Whether a molecule belongs to the held-out share; depends on nothing but its SMILES.

    Example:
        >>> is_held_out("CCO")
        False
    """
    digest = hashlib.sha256(canonical.encode()).digest()
    return int.from_bytes(digest[:8], "big") < HELD_OUT * 2**64
