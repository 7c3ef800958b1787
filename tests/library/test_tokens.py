"""SMILES as tokens: nothing is lost, and frequent groups are found."""

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convexinit.molecules.tokens import (
    SPECIAL,
    SYMBOLS,
    Vocabulary,
    learn_vocabulary,
    split_symbols,
)
from support.codecs import DRUGS


def join_naively(tokens: list[str], pair: tuple[str, str]) -> list[str]:
    joined: list[str] = []
    i = 0
    while i < len(tokens):
        if tuple(tokens[i : i + 2]) == pair:
            joined.append(tokens[i] + tokens[i + 1])
            i += 2
        else:
            joined.append(tokens[i])
            i += 1
    return joined


def test_byte_pair_encoding_joins_a_most_frequent_pair_in_every_round():
    texts = [*DRUGS, "CCCCCCCCC", "CCCC", "ClCCl"]
    vocabulary = learn_vocabulary(texts, len(SPECIAL) + len(SYMBOLS) + 40)
    learned = vocabulary.tokens[len(SPECIAL) + len(SYMBOLS) :]
    assert len(learned) == 40
    current = [split_symbols(text) for text in texts]
    for token in learned:
        counts = Counter(pair for tokens in current for pair in pairwise(tokens))
        pairs = [pair for pair, count in counts.items() if count == max(counts.values())]
        (pair,) = [pair for pair in pairs if "".join(pair) == token]
        current = [join_naively(tokens, pair) for tokens in current]


def test_a_vocabulary_stays_small_where_no_pair_occurs_twice():
    assert learn_vocabulary(["CN", "CO"], 60).tokens == (*SPECIAL, *SYMBOLS)


def test_text_is_cut_at_the_longest_token():
    vocabulary = Vocabulary([*SPECIAL, *SYMBOLS, "CC", "CCC", "c1ccccc1"])
    assert [vocabulary.tokens[n] for n in vocabulary.encode("CCCCCc1ccccc1Cl")] == [
        "CCC", "CC", "c1ccccc1", "Cl",
    ]  # fmt: skip


@given(st.lists(st.sampled_from(SYMBOLS), max_size=60))
def test_encoding_loses_nothing(symbols):
    text = "".join(symbols)
    vocabulary = Vocabulary([*SPECIAL, *SYMBOLS, "CC", "C(=O)", "1ccc", "[n", "H]", "CB", "ClC"])
    assert vocabulary.decode(vocabulary.encode(text)) == text


def test_atoms_of_two_letters_are_never_cut():
    vocabulary = Vocabulary([*SPECIAL, *SYMBOLS, "CC", "CB"])
    assert [vocabulary.tokens[n] for n in vocabulary.encode("CCClCBr")] == ["CC", "Cl", "C", "Br"]


def test_unknown_characters_are_refused():
    vocabulary = Vocabulary([*SPECIAL, *SYMBOLS])
    with pytest.raises(ValueError, match="in no token"):
        vocabulary.encode("CC[Na]")
    assert split_symbols("C/C=C/C") is None
    with pytest.raises(ValueError, match="no SMILES symbol"):
        learn_vocabulary(["CC[Na]"], 60)
    with pytest.raises(ValueError, match="size must be at least"):
        learn_vocabulary(["CC"], 10)
    with pytest.raises(ValueError, match="begins with"):
        Vocabulary(["C", "N"])


def test_decoding_stops_at_the_end_token():
    vocabulary = Vocabulary([*SPECIAL, "C", "N"])
    assert vocabulary.decode([1, 3, 4, 2, 3]) == "CN"
