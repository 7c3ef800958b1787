"""Extended-connectivity fingerprints (Rogers and Hahn 2010), as RDKit computes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from rdkit import Chem
from rdkit.Chem import rdFingerprintGenerator

from convexinit.checks import check_integer
from convexinit.molecules.chemistry import RULES
from convexinit.molecules.codec import Codec

WEIGHTS = None


class ECFPCodec(Codec):
    """Folded Morgan fingerprints as vectors of zeros and ones. They cannot be decoded.

    Args:
        dimensions: number of bits.
        radius: in bonds; 2 gives ECFP4.

    Raises:
        ValueError: for fewer than one bit or a negative radius.

    Example:
        >>> ECFPCodec(dimensions=1024).encode(["CCCCO", "c1ccccc1"]).shape
        (2, 1024)
    """

    name = "ecfp"

    def __init__(self, dimensions: int = 2048, radius: int = 2) -> None:
        self.dimensions = check_integer("dimensions", dimensions)
        radius = check_integer("radius", radius, least=0)
        self.digest = f"ecfp-{radius}-{dimensions}-rules-{RULES}"
        self._generator = rdFingerprintGenerator.GetMorganGenerator(radius, fpSize=dimensions)

    def _encode_canonical(self, canonical: list[str]) -> np.ndarray:
        bits = [
            self._generator.GetFingerprintAsNumPy(Chem.MolFromSmiles(text)) for text in canonical
        ]
        return np.stack(bits).astype(np.float32)


def load(weights: Path | None = None, dimensions: int = 2048, radius: int = 2) -> ECFPCodec:
    """The codec; ``weights`` must be None, as fingerprints have none.

    Raises:
        ValueError: if weights are given, and as the class.
    """
    if weights is not None:
        raise ValueError(f"ecfp has no weights; got weights={str(weights)!r}")
    return ECFPCodec(dimensions, radius)
