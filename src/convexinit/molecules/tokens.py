"""SMILES as sequences of token numbers: single symbols, and frequent groups of them.

A group such as ``c1ccccc1`` or ``C(=O)N`` is one token, which makes sequences about four times
shorter than symbols alone. Groups are found by byte-pair encoding (Sennrich et al. 2016; for SMILES
Li and Fourches 2021).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property

import numpy as np

# The symbols of Winter et al. (2019), in which multi-letter elements stay together.
SYMBOL = re.compile(r"Cl|Br|[#%)(+\-0-9:=@CBFIHONPS\[\]cionps]")
SYMBOLS = ("Cl", "Br", *"#%)(+-0123456789:=@CBFIHONPS[]cionps")

# The first tokens of every vocabulary.
PADDING, START, END = 0, 1, 2
SPECIAL = ("<padding>", "<start>", "<end>")

# Why a molecule has no tokens, in a few words.
NO_TOKEN = "with characters that are in no token"

_SEPARATOR = -1


def split_symbols(smiles: str) -> list[str] | None:
    """Symbols of a SMILES string, or None if it has characters that are no symbol.

    Example:
        >>> split_symbols("CCl"), split_symbols("CC[Na]")
        (['C', 'Cl'], None)
    """
    symbols = SYMBOL.findall(smiles)
    return symbols if sum(map(len, symbols)) == len(smiles) else None


class Vocabulary:
    """Tokens and their numbers.

    Text is cut greedily, always at the longest token that fits.

    Args:
        tokens: all tokens, the three special ones first.
    """

    def __init__(self, tokens: Sequence[str]) -> None:
        if tuple(tokens[: len(SPECIAL)]) != SPECIAL:
            raise ValueError(f"a vocabulary begins with {', '.join(SPECIAL)}")
        self.tokens = tuple(tokens)
        self._numbers = {token: number for number, token in enumerate(self.tokens)}

    def __len__(self) -> int:
        """Number of tokens, the special ones included."""
        return len(self.tokens)

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        longest_first = sorted(self.tokens[len(SPECIAL) :], key=len, reverse=True)
        return re.compile("|".join(map(_token_pattern, longest_first)))

    def encode(self, smiles: str) -> list[int]:
        """Token numbers without start and end.

        Raises:
            ValueError: some character is in no token.
        """
        tokens = self._pattern.findall(smiles)
        if sum(map(len, tokens)) != len(smiles):
            raise ValueError(f"{smiles!r} contains characters that are in no token")
        return [self._numbers[token] for token in tokens]

    def decode(self, numbers: Sequence[int]) -> str:
        """Text of token numbers up to the first end token."""
        tokens = []
        for number in numbers:
            if number == END:
                break
            if number >= len(SPECIAL):
                tokens.append(self.tokens[number])
        return "".join(tokens)


def _token_pattern(token: str) -> str:
    """Pattern of one token, which must not end between the letters of Cl or Br."""
    guard = {"C": "(?!l)", "B": "(?!r)"}.get(token[-1], "")
    return re.escape(token) + guard


def learn_vocabulary(texts: Sequence[str], size: int) -> Vocabulary:
    """Byte-pair encoding: join the most frequent pair of neighbours again and again.

    Args:
        texts: SMILES strings made of :data:`SYMBOLS` only.
        size: number of tokens to reach, at least that of all symbols and special tokens. Stays
            below where no pair occurs twice.

    Raises:
        ValueError: size out of range, or a text with other characters.
    """
    tokens = [*SPECIAL, *SYMBOLS]
    if size < len(tokens):
        raise ValueError(f"size must be at least {len(tokens)}, got {size}")
    numbers = {token: number for number, token in enumerate(tokens)}
    flat: list[int] = []
    for text in texts:
        symbols = split_symbols(text)
        if symbols is None:
            raise ValueError(f"{text!r} contains characters that are no SMILES symbol")
        flat += [numbers[symbol] for symbol in symbols]
        flat.append(_SEPARATOR)
    sequence = np.array(flat, dtype=np.int64)
    while len(tokens) < size:
        left, right = sequence[:-1], sequence[1:]
        pairs = np.where((left >= 0) & (right >= 0), left * size + right, 0)
        counts = np.bincount(pairs)
        counts[0] = 0  # neighbours across a separator; no text holds padding
        best = int(counts.argmax())
        if counts[best] < 2:
            break
        first, second = divmod(best, size)
        tokens.append(tokens[first] + tokens[second])
        sequence = _join(sequence, np.flatnonzero(pairs == best), len(tokens) - 1)
    return Vocabulary(tokens)


def _join(sequence: np.ndarray, places: np.ndarray, token: int) -> np.ndarray:
    """Replace the pairs that begin at ``places`` by one token; overlapping ones from the left."""
    # In a run of overlapping places (as in CCC for the pair CC) every second one counts.
    starts = np.r_[True, np.diff(places) > 1]
    run = np.arange(len(places)) - np.maximum.accumulate(
        np.where(starts, np.arange(len(places)), 0)
    )
    places = places[run % 2 == 0]
    sequence = sequence.copy()
    sequence[places] = token
    return np.delete(sequence, places + 1)
