"""SMILES to vectors and back; needs the extra ``molecules``: numpy and rdkit.

Example:
    >>> from convexinit.molecules import load_codec
    >>> load_codec("ecfp").encode(["CCCCO", "c1ccccc1"]).shape
    (2, 2048)
"""

from __future__ import annotations

import os
import pkgutil
from importlib import import_module
from pathlib import Path
from typing import Any

try:
    import numpy  # noqa: F401
    import rdkit  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        f"convexinit.molecules needs {error.name}: pip install 'convexinit[molecules]'",
        name=error.name,
    ) from error

from convexinit.checks import check_choice
from convexinit.molecules.codec import Codec, NoDecoderError
from convexinit.molecules.weights import WeightsError

__all__ = ["Codec", "NoDecoderError", "WeightsError", "load_codec"]


def load_codec(
    name: str,
    weights: str | Path | None = None,
    data_dir: str | Path | None = None,
    **options: Any,
) -> Codec:
    """A way to turn molecules into vectors, by its name.

    Every module of this package with a function ``load(weights, **options)`` is a codec. Its
    constant WEIGHTS is the path of the weights: absolute where they come with the package, relative
    to the data folder where they do not, None where there are none.

    Args:
        name: "autoencoder" (this project's own), "cddd" (Winter et al. 2019) or "ecfp"
            (fingerprints, which cannot be decoded).
        weights: file with the weights; None for those that come with the package (autoencoder), or
            that lie in the data folder (cddd).
        data_dir: the data folder; None for the environment variable CONVEXINIT_DATA, or "data" if
            that is not set.
        options: see the function ``load`` of the codec's module.

    Raises:
        ValueError: if there is no codec of that name.
        WeightsError: if the weights are missing or damaged.
    """
    codec = check_choice("codec", name, _codecs())
    if weights is None and codec.WEIGHTS is not None:
        weights = Path(data_dir or os.environ.get("CONVEXINIT_DATA") or "data") / codec.WEIGHTS
    loaded: Codec = codec.load(None if weights is None else Path(weights).expanduser(), **options)
    return loaded


def _codecs() -> dict[str, Any]:
    """The modules of this package that are codecs, by their names."""
    names = [module.name for module in pkgutil.iter_modules(__path__)]
    modules = {name: import_module(f"{__name__}.{name}") for name in names}
    return {name: module for name, module in modules.items() if hasattr(module, "load")}
