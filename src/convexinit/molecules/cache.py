"""Codes of molecules on disk, so that nothing is encoded twice.

A file holds the codes of one list of molecules. Its name is a digest of the list, of the codec and
of the version of RDKit, which decides the canonical forms. A cache is never needed: whatever is
wrong with it ends in a warning and in codes that are computed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import uuid
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from convexinit.molecules.codec import Codec, check_smiles, warn_not_encodable

_FORMAT = 1  # to be raised when the content of the files or the standardisation changes


def encode_cached(codec: Codec, smiles: Sequence[str], folder: str | Path) -> np.ndarray:
    """``codec.encode(smiles)``, from a file in ``folder`` if it was asked for before.

    Warns as ``encode`` does about molecules that cannot be encoded, whether or not the codes come
    from a file. Several processes may use the same folder at the same time.

    Args:
        codec: see :func:`convexinit.molecules.load_codec`.
        smiles: any SMILES strings.
        folder: of the cache; made if need be.

    Returns:
        float32 ``[n, dimensions]``.

    Raises:
        TypeError: as ``encode``.
    """
    smiles = check_smiles(smiles)
    path = cache_file(codec, smiles, Path(folder))
    codes = _read(path, (len(smiles), codec.dimensions))
    if codes is not None:
        _warn_again(codec, smiles, codes)
        return codes
    codes = codec.encode(smiles)
    _write(path, codes)
    return codes


def cache_file(codec: Codec, smiles: Sequence[str], folder: Path) -> Path:
    """The file that holds the codes of these molecules, in this order, once it is written."""
    import rdkit

    text = json.dumps([_FORMAT, rdkit.__version__, codec.digest, list(smiles)])
    return folder / f"{codec.name}-{hashlib.sha256(text.encode()).hexdigest()[:24]}.npz"


def _read(path: Path, shape: tuple[int, int]) -> np.ndarray | None:
    """The codes in a file; None, with a warning if there is a file, if there are none."""
    try:
        # The checksums of the zip format tell whether a byte has changed.
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as archive:
            codes = archive["codes"]
        if codes.shape != shape or codes.dtype != np.float32:
            raise ValueError(f"it holds {codes.dtype} {list(codes.shape)}, not {list(shape)}")
        return codes
    except (FileNotFoundError, NotADirectoryError):
        return None
    except Exception as error:  # damaged bytes can make the readers of zip and npy fail in any way
        reason = str(error).splitlines()[:1] or [type(error).__name__]
        warnings.warn(
            f"the cached codes in {path} cannot be used ({reason[0]}); they are computed again",
            stacklevel=3,
        )
        return None


def _write(path: Path, codes: np.ndarray) -> None:
    """Store codes under a name of their own and rename the file: it is complete or not there."""
    part = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with part.open("xb") as stream:
                np.savez(stream, codes=codes)
            part.replace(path)
        except BaseException:  # also Ctrl-C: no half of a file stays
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
            raise
    except OSError as error:
        warnings.warn(
            f"the codes cannot be cached in {path.parent} ({error.strerror or error}); "
            "they will be computed again next time",
            stacklevel=3,
        )


def _warn_again(codec: Codec, smiles: list[str], codes: np.ndarray) -> None:
    """The warning that came with the codes when they were computed."""
    missing = np.flatnonzero(np.isnan(codes).any(axis=1))
    if len(missing):
        reasons: list[str | None] = [None] * len(smiles)
        prepared = codec.prepare([smiles[row] for row in missing])
        for row, item in zip(missing, prepared, strict=True):
            reasons[row] = item.reason
        warn_not_encodable(codec.name, smiles, reasons)
