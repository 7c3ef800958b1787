"""What all molecule codes have in common: SMILES in, one vector each out, and back where possible.

A codec says how canonical SMILES become vectors. Everything around it is here: standardising,
molecules that appear more than once, batches, and molecules that cannot be encoded.
"""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import ArrayLike
from torch import Tensor

from convexinit.molecules.chemistry import Standardised, standardise_all

EXAMPLES = 3  # SMILES shown in a warning
ROWS = 10  # row numbers shown in an error
BATCH_CHARACTERS = 8192


class NoDecoderError(NotImplementedError):
    """The codes of this codec cannot be turned back into molecules."""


class Codec(ABC):
    """SMILES to vectors, and vectors to SMILES.

    A codec of one's own defines the attributes, ``_encode_canonical``, and ``decode`` if it can.

    Attributes:
        name: as in :func:`convexinit.molecules.load_codec`.
        dimensions: length of a code.
        digest: identifies the codec, its weights and the rules for molecules
            (:data:`convexinit.molecules.chemistry.RULES`); codecs of equal digest give equal codes.
    """

    name: str
    dimensions: int
    digest: str

    def encode(self, smiles: Sequence[str]) -> np.ndarray:
        """Codes of molecules; each distinct molecule is computed once.

        Warns once, with counts and examples, if there are molecules that cannot be encoded.

        Args:
            smiles: any SMILES strings, with nothing before or after the SMILES; salts,
                stereochemistry, isotopes, atom maps and the order of atoms play no role.

        Returns:
            float32 ``[n, dimensions]``; rows of NaN for molecules that cannot be encoded.

        Raises:
            TypeError: a single string, or a list with something else than strings.
        """
        smiles = check_smiles(smiles)
        prepared = self.prepare(smiles)
        distinct = list(dict.fromkeys(item.smiles for item in prepared if item.smiles is not None))
        rows = {text: row for row, text in enumerate(distinct)}
        # The last row is that of all molecules that cannot be encoded.
        codes = np.full((len(distinct) + 1, self.dimensions), np.nan, dtype=np.float32)
        for batch in batches_by_length(distinct):
            codes[[rows[text] for text in batch]] = self._encode_canonical(batch)
        warn_not_encodable(self.name, smiles, [item.reason for item in prepared])
        places = [-1 if item.smiles is None else rows[item.smiles] for item in prepared]
        return codes[np.array(places, dtype=np.intp)]

    def prepare(self, smiles: Sequence[str]) -> list[Standardised]:
        """For each SMILES the canonical form that is encoded, or the reason why there is none."""
        return [
            Standardised(None, reason)
            if item.smiles is not None and (reason := self._refusal(item.smiles))
            else item
            for item in standardise_all(check_smiles(smiles))
        ]

    def decode(self, codes: ArrayLike | Tensor, beam: int = 1) -> list[str]:
        """Strings for codes ``[n, dimensions]``, as they come: they need not be valid SMILES.

        Args:
            codes: any finite numbers, as an array, a tensor or a list.
            beam: width of the beam search; 1 takes the most likely token at every step.

        Raises:
            NoDecoderError: if this codec cannot decode.
            ValueError: codes of another shape, or that are not finite.
        """
        raise NoDecoderError(
            f"{self.name} codes cannot be decoded into molecules; "
            'use load_codec("autoencoder") or load_codec("cddd")'
        )

    @abstractmethod
    def _encode_canonical(self, canonical: list[str]) -> np.ndarray:
        """Codes ``[n, dimensions]`` of a batch of distinct canonical SMILES of similar length."""

    def _refusal(self, canonical: str) -> str | None:
        """Why this codec cannot encode a standardised molecule, in a few words; None if it can."""
        return None


def check_smiles(smiles: Iterable[str]) -> list[str]:
    """The SMILES as a list.

    Raises:
        TypeError: a single string, which would be taken for a list of one-atom molecules,
            something without an order, or a list with something else than strings.
    """
    if isinstance(smiles, (str, bytes)):
        raise TypeError(f"expected a list of SMILES, got one string: write [{smiles!r}]")
    # A set has no order that the codes could come in; a dict and a table would give their keys.
    if (
        not isinstance(smiles, Iterable)
        or isinstance(smiles, (set, frozenset, Mapping))
        or getattr(smiles, "ndim", 1) != 1
    ):
        raise TypeError(f"expected a list of SMILES, got a {type(smiles).__name__}")
    smiles = list(smiles)
    for place, text in enumerate(smiles):
        if not isinstance(text, str):
            raise TypeError(
                f"expected a list of SMILES strings, but item {place} is {text!r} "
                f"({type(text).__name__})"
            )
    return smiles


def check_codes(codes: ArrayLike | Tensor, dimensions: int) -> np.ndarray:
    """The codes as a new float32 array ``[n, dimensions]``, which ``torch.from_numpy`` takes.

    Args:
        codes: an array of any strides and type of numbers, a tensor on any device, or a list of
            rows, each of them a list, an array or a tensor.
        dimensions: of a code.

    Raises:
        ValueError: another shape, no real numbers, or rows that are not finite; names the rows.
    """
    try:
        given = _as_array(codes)
    except (RuntimeError, TypeError, ValueError) as error:  # numpy's and torch's own
        raise ValueError(
            f"codes must be an array of real numbers [n, {dimensions}], got a "
            f"{type(codes).__name__}: {str(error).splitlines()[0]}"
        ) from error
    if given.dtype.kind not in "fiub":
        raise ValueError(f"codes must be real numbers, got an array of {given.dtype}")
    if given.ndim != 2 or given.shape[1] != dimensions:
        raise ValueError(f"codes must have the shape [n, {dimensions}], got {list(given.shape)}")
    with np.errstate(over="ignore"):  # what is too large for float32 is reported below
        result = np.array(given, dtype=np.float32, order="C")
    wrong = np.flatnonzero(~np.isfinite(result).all(axis=1))
    if len(wrong):
        shown = ", ".join(map(str, wrong[:ROWS])) + (", ..." if len(wrong) > ROWS else "")
        raise ValueError(
            f"codes must be finite, but {len(wrong)} of {len(result)} rows are not: {shown}"
        )
    return result


def _as_array(codes: ArrayLike | Tensor) -> np.ndarray:
    """An array of what may be a tensor, a masked array, or a list with tensors for rows."""
    if isinstance(codes, Tensor):
        # NumPy has no bfloat16 and no float8.
        return (codes.float() if codes.is_floating_point() else codes).numpy(force=True)
    if isinstance(codes, (list, tuple)):
        codes = [_as_array(row) if isinstance(row, Tensor) else row for row in codes]
    if isinstance(codes, np.ma.MaskedArray):  # what is masked is missing
        codes = np.ma.filled(codes.astype(np.float64), np.nan)
    return np.asarray(codes)


def batches_by_length(texts: Sequence[str], limit: int = BATCH_CHARACTERS) -> Iterator[list[str]]:
    """Batches of texts of similar length, the longest first.

    Args:
        texts: in any order.
        limit: on the number of texts times the length of the longest, which bounds the memory.

    Example:
        >>> list(batches_by_length(["C", "CCCC", "CC", "CCC"], limit=8))
        [['CCCC', 'CCC'], ['CC', 'C']]
    """
    ordered = sorted(texts, key=len, reverse=True)
    start = 0
    while start < len(ordered):
        size = max(1, limit // max(1, len(ordered[start])))
        yield ordered[start : start + size]
        start += size


def warn_not_encodable(name: str, smiles: Sequence[str], reasons: Sequence[str | None]) -> None:
    """Warn once if there are reasons against some molecules: how many for each, and examples.

    Args:
        name: of the codec.
        smiles: all molecules.
        reasons: for each of them, why it cannot be encoded, or None.
    """
    counts: dict[str, int] = {}
    for reason in filter(None, reasons):
        counts[reason] = counts.get(reason, 0) + 1
    if not counts:
        return
    listed = "; ".join(
        f"{count} {reason}" for reason, count in sorted(counts.items(), key=lambda item: -item[1])
    )
    affected = dict.fromkeys(
        text for text, reason in zip(smiles, reasons, strict=True) if reason is not None
    )
    examples = ", ".join(map(repr, list(affected)[:EXAMPLES]))
    warnings.warn(
        f"{sum(counts.values())} of {len(smiles)} molecules cannot be encoded by {name}, "
        f"their codes are NaN ({listed}), for example {examples}",
        stacklevel=3,
    )
