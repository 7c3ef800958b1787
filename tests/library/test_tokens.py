import random
from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rdkit import Chem

from convexinit.molecules.chemistry import canonical, standardise
from convexinit.molecules.tokens import (
    SPECIAL,
    SYMBOLS,
    Vocabulary,
    learn_vocabulary,
    split_symbols,
)
from convexinit_paper.data.recombine import cut, join, recombine
from convexinit_paper.data.smiles import HELD_OUT, is_held_out, load_smiles
from convexinit_paper.data.sources.structural_alerts import load_structural_alerts


@pytest.fixture(scope="module")
def molecules():
    data = load_structural_alerts()
    return sorted(set(data.train.smiles + data.test.smiles))


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


def test_byte_pair_encoding_joins_a_most_frequent_pair_in_every_round(molecules):
    texts = [*molecules[:200], "CCCCCCCCC", "CCCC", "ClCCl"]
    vocabulary = learn_vocabulary(texts, len(SPECIAL) + len(SYMBOLS) + 40)
    learned = vocabulary.tokens[len(SPECIAL) + len(SYMBOLS) :]
    assert len(learned) == 40
    current = [split_symbols(text) for text in texts]
    for token in learned:
        counts = Counter(pair for tokens in current for pair in pairwise(tokens))
        pairs = [pair for pair, count in counts.items() if count == max(counts.values())]
        (pair,) = [pair for pair in pairs if "".join(pair) == token]
        current = [join_naively(tokens, pair) for tokens in current]


def test_text_is_cut_at_the_longest_token(molecules):
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


def test_cut_pieces_join_to_the_same_molecule(molecules):
    source = random.Random(0)
    cuts = [(text, cut(text, source)) for text in molecules[:300]]
    cuts = [(text, pieces) for text, pieces in cuts if pieces]
    assert len(cuts) > 200
    for text, pieces in cuts:
        assert join(*pieces) == standardise(text).smiles
        assert join(*reversed(pieces)) == standardise(text).smiles


def test_recombined_molecules_are_new_valid_and_in_the_domain(molecules):
    made = recombine(molecules[:200], 300, seed=3)
    assert len(made) > 150
    assert not set(made) & set(molecules[:200])
    assert all(standardise(text).smiles == text for text in made)
    assert made == recombine(molecules[:200], 300, seed=3)
    assert made != recombine(molecules[:200], 300, seed=4)


def test_pieces_never_join_two_heteroatoms():
    assert join("O", "NC") is None
    assert join("OC", "CC") == "CCOC"


def test_the_held_out_share_depends_on_the_molecule_alone():
    texts = [f"{'C' * a}{atom}{'C' * b}" for a in range(1, 60) for atom in "NOS" for b in range(60)]
    share = sum(map(is_held_out, texts)) / len(texts)
    # Five standard deviations of a binomial around the promised share.
    assert abs(share - HELD_OUT) < 5 * (HELD_OUT * (1 - HELD_OUT) / len(texts)) ** 0.5


@pytest.mark.parametrize(
    ("smiles", "form", "reason"),
    [
        ("C[C@H](N)C(=O)O.Cl", "CC(N)C(=O)O", None),
        ("[Na+].[O-]C(=O)CCC", "CCCC(=O)[O-]", None),
        ("F/C=C/F", "FC=CF", None),
        ("CC[Hg]CC", None, "an element other than"),
        ("CCO", None, "fewer than 4"),
        ("C" * 51, None, "more than 50"),
        ("C(F)(F)C(I)(I)C(I)(I)I", None, "weight"),
        ("C" * 20, None, "logP"),
        ("c1ccccc", None, "not readable"),
        ("", None, "empty"),
        ("\ud800", None, "not readable"),
        ("\u0421CCCO", None, "not readable"),  # a Cyrillic letter that looks like C
        ("CCCCO\u2603", None, "not readable"),
    ],
)
def test_standardisation(smiles, form, reason):
    result = standardise(smiles)
    assert result.smiles == form
    assert (result.reason is None) == (reason is None)
    assert reason is None or reason in result.reason


def test_standardisation_changes_nothing_the_second_time(molecules):
    for text in molecules[:300]:
        mixed = Chem.MolToSmiles(Chem.MolFromSmiles(text), doRandom=True) + ".[Na+]"
        once = standardise(mixed).smiles
        assert once == canonical(once) == standardise(once).smiles == standardise(text).smiles


def test_smiles_files_are_read_by_source(tmp_path):
    (tmp_path / "smiles").mkdir()
    (tmp_path / "smiles/a.smi").write_text("CCO ethanol\n\nCCN\n")
    (tmp_path / "smiles/b.smi").write_text("CCC\n")
    assert load_smiles(tmp_path) == {"a": ["CCO", "CCN"], "b": ["CCC"]}


def test_missing_and_damaged_smiles_files_are_named(tmp_path):
    with pytest.raises(RuntimeError, match=r"smiles/\*\.smi"):
        load_smiles(tmp_path)
    (tmp_path / "smiles").mkdir()
    (tmp_path / "smiles/a.smi").write_bytes(b"CC\xff\xfe")
    with pytest.raises(RuntimeError, match=r"a\.smi cannot be read"):
        load_smiles(tmp_path)
