"""Files of SMILES, and molecules recombined from them."""

import gzip
import random

import pytest

from convexinit.molecules.chemistry import standardise
from convexinit_paper.data.recombine import cut, join, recombine
from convexinit_paper.data.smiles import HELD_OUT, is_held_out, load_smiles
from convexinit_paper.data.sources.structural_alerts import load_structural_alerts
from support.data import write


@pytest.fixture(scope="module")
def molecules():
    data = load_structural_alerts()
    return sorted(set(data.train.smiles + data.test.smiles))


def test_cut_pieces_join_to_the_same_molecule(molecules):
    source = random.Random(0)
    cuts = [(text, cut(text, source)) for text in molecules[:150]]
    cuts = [(text, pieces) for text, pieces in cuts if pieces]
    assert len(cuts) > 100
    for text, pieces in cuts:
        assert join(*pieces) == standardise(text).smiles
        assert join(*reversed(pieces)) == standardise(text).smiles


def test_recombined_molecules_are_new_valid_and_in_the_domain(molecules):
    made = recombine(molecules[:200], 150, seed=3)
    assert len(made) > 75
    assert not set(made) & set(molecules[:200])
    assert all(standardise(text).smiles == text for text in made)
    assert made == recombine(molecules[:200], 150, seed=3)
    assert made != recombine(molecules[:200], 150, seed=4)


def test_pieces_never_join_two_heteroatoms():
    assert join("O", "NC") is None
    assert join("OC", "CC") == "CCOC"


def test_the_held_out_share_depends_on_the_molecule_alone():
    texts = [f"{'C' * a}{atom}{'C' * b}" for a in range(1, 60) for atom in "NOS" for b in range(60)]
    share = sum(map(is_held_out, texts)) / len(texts)
    # Five standard deviations of a binomial around the promised share.
    assert abs(share - HELD_OUT) < 5 * (HELD_OUT * (1 - HELD_OUT) / len(texts)) ** 0.5


def test_smiles_files_are_read_by_source(tmp_path):
    (tmp_path / "smiles").mkdir()
    (tmp_path / "smiles/a.smi").write_text("CCO ethanol\n\nCCN\n")
    (tmp_path / "smiles/b.smi").write_text("CCC\n")
    assert load_smiles(tmp_path) == {"a": ["CCO", "CCN"], "b": ["CCC"]}


def test_compressed_smiles_files_are_read(tmp_path):
    write(
        {
            "smiles/a.smi.gz": gzip.compress(b"CCO ethanol\n"),
            "smiles/b.smi": b"CCN\n",
            "smiles/b.smi.gz": b"damaged",
            "smiles/c.smi": b"CC\xff\xfe",
            "smiles/c.smi.gz": gzip.compress(b"CCC"),
            "smiles/.d.smi": b"\xff",
            "smiles/e.txt": b"not read",
        },
        tmp_path,
    )
    assert load_smiles(tmp_path) == {"a": ["CCO"], "b": ["CCN"], "c": ["CCC"]}
    for damaged in (b"no archive", gzip.compress(b"CCO ethanol\n")[:-9]):
        write({"smiles/a.smi.gz": damaged}, tmp_path)
        with pytest.raises(RuntimeError, match=r"a\.smi\.gz cannot be read"):
            load_smiles(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        "\ufeffCCO\nCCN",
        "\ufeffCCO ethanol\r\nCCN\r\n",
        "CCO\n\ufeffCCN\n\ufeff",  # several files in one
        "\ufeff CCO\tethanol\n\ufeff\n  CCN\n",
        "CCO a\u2028b\x0cc\x85d\nCCN e\x1cf\x0bg",  # characters that end lines elsewhere
        "CCO |r| ethanol\rCCN\n",
    ],
)
def test_no_line_of_a_smiles_file_is_lost_or_torn(tmp_path, content):
    (tmp_path / "smiles").mkdir()
    (tmp_path / "smiles/a.smi").write_bytes(content.encode())
    assert load_smiles(tmp_path) == {"a": ["CCO", "CCN"]}


def test_missing_and_damaged_smiles_files_are_named(tmp_path):
    with pytest.raises(RuntimeError, match=r"smiles/\*\.smi"):
        load_smiles(tmp_path)
    (tmp_path / "smiles").mkdir()
    for content in (b"CC\xff\xfe", "CC\n".encode("utf-16"), "CC\n".encode("utf-16-le")):
        (tmp_path / "smiles/a.smi").write_bytes(content)
        with pytest.raises(RuntimeError, match=r"(?si)a\.smi cannot be read.*save it as UTF-8"):
            load_smiles(tmp_path)
