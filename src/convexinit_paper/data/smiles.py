"""Collections of molecules: one SMILES a line, one file a source."""

from __future__ import annotations

import hashlib
from pathlib import Path

from convexinit_paper.data.files import ELSEWHERE, DataError

# Share of the molecules that no training of the autoencoder sees.
HELD_OUT = 0.05


def load_smiles(data_dir: str | Path) -> dict[str, list[str]]:
    """All SMILES of the files ``smiles/*.smi``, as they stand there.

    What follows a SMILES in its line, after a blank or a tab, is its name and is left out.

    Args:
        data_dir: folder of all raw data.

    Returns:
        SMILES by source, the name of the file.

    Raises:
        DataError: there is no such file, or one cannot be read.
    """
    folder = Path(data_dir).expanduser() / "smiles"
    paths = sorted(folder.glob("*.smi"))
    if not paths:
        raise DataError(
            f"There are no molecules in {folder.resolve()}\n"
            "The autoencoder learns from any files smiles/*.smi there, one SMILES a line.\n"
            f"{ELSEWHERE}"
        )
    sources = {}
    for path in paths:
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise DataError(f"{path} cannot be read: {error}\nSave it as UTF-8.") from error
        except OSError as error:
            raise DataError(f"{path} cannot be read: {error}") from error
        # A byte-order mark begins a file, or stands inside of one that was joined from several.
        lines = text.replace("\ufeff", "").split("\n")
        sources[path.stem] = [line.split()[0] for line in lines if line.strip()]
    return sources


def is_held_out(canonical: str) -> bool:
    """Whether a molecule belongs to the held-out share; depends on nothing but its SMILES.

    Example:
        >>> is_held_out("CCO")
        False
    """
    digest = hashlib.sha256(canonical.encode()).digest()
    return int.from_bytes(digest[:8], "big") < HELD_OUT * 2**64
