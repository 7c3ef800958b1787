"""SMILES to vectors and back.

Example:
    >>> from convexinit.molecules import load_codec
    >>> load_codec("ecfp").encode(["CCCCO", "c1ccccc1"]).shape
    (2, 2048)
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

from convexinit.molecules.codec import Codec, NoDecoderError
from convexinit_paper.data.codes import encode_cached

__all__ = ["Codec", "NoDecoderError", "encode_cached", "load_codec"]

# Module and class; imported on first use, because torch and RDKit take seconds to load.
_CODECS = {
    "autoencoder": ("autoencoder", "AutoencoderCodec"),
    "cddd": ("cddd", "CDDDCodec"),
    "ecfp": ("ecfp", "ECFPCodec"),
}


def load_codec(name: str, weights: str | Path | None = None, **options: Any) -> Codec:
    """A way to turn molecules into vectors, by its name.

    Args:
        name: "autoencoder" (this project's own), "cddd" (Winter et al. 2019) or "ecfp"
            (fingerprints, which cannot be decoded).
        weights: file with the weights. None for those that come with the package (autoencoder), or
            those that ``scripts/download_data.py`` puts into the data folder (cddd).
        options: see ``load`` of the codec's class.

    Raises:
        ValueError: if there is no codec of that name.
        convexinit_paper.data.files.DataError: if the weights are missing or damaged.
    """
    if name not in _CODECS:
        raise ValueError(f"no codec {name!r}; there are {', '.join(_CODECS)}")
    module, class_name = _CODECS[name]
    codec_class = getattr(import_module(f"{__name__}.{module}"), class_name)
    codec: Codec = codec_class.load(weights, **options)
    return codec
