"""Codes of molecules on disk, so that nothing is encoded twice.

A file holds the codes of one list of molecules. Its name is a digest of the list, of the codec, and
of what decides the canonical forms: the rules for molecules and the version of RDKit.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from convexinit.molecules.chemistry import RULES
from convexinit.molecules.codec import Codec, check_smiles, warn_not_encodable
from convexinit_paper.data.cache import read_arrays, write_arrays
from convexinit_paper.request.paths import user_path

_FORMAT = 3  # to be raised when the content of the files changes


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
    path = cache_file(codec, smiles, user_path(folder))
    shape = (len(smiles), codec.dimensions)
    codes = read_arrays(path, "codes", lambda arrays: _check(arrays["codes"], shape))
    if codes is not None:
        _warn_again(codec, smiles, codes)
        return codes
    codes = codec.encode(smiles)
    write_arrays(path, "codes", codes=codes)
    return codes


def cache_file(codec: Codec, smiles: Sequence[str], folder: Path) -> Path:
    """The file that holds the codes of these molecules, in this order, once it is written."""
    import rdkit

    text = json.dumps([_FORMAT, RULES, rdkit.__version__, codec.digest, list(smiles)])
    return folder / f"{codec.name}-{hashlib.sha256(text.encode()).hexdigest()[:24]}.npz"


def _check(codes: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Codes from a file, if they are of the right kind."""
    if codes.shape != shape or codes.dtype != np.float32:
        raise ValueError(f"it holds {codes.dtype} {list(codes.shape)}, not {list(shape)}")
    return codes


def _warn_again(codec: Codec, smiles: list[str], codes: np.ndarray) -> None:
    """The warning that came with the codes when they were computed."""
    missing = np.flatnonzero(np.isnan(codes).any(axis=1))
    if len(missing):
        reasons: list[str | None] = [None] * len(smiles)
        prepared = codec.prepare([smiles[row] for row in missing])
        for row, item in zip(missing, prepared, strict=True):
            reasons[row] = item.reason
        warn_not_encodable(codec.name, smiles, reasons)
