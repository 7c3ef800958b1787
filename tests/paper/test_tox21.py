"""The formats in which Tox21 is published, read from small files."""

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem

from convexinit_paper.data import sdf
from convexinit_paper.data.datasets import load_multitask
from convexinit_paper.data.files import DataError
from convexinit_paper.data.multitask import MultitaskData
from convexinit_paper.data.sdf import FormatError, parse_sdf, read_sdf
from convexinit_paper.data.sources import tox21
from convexinit_paper.data.sources.tox21 import (
    TASKS,
    TRAIN_SDF,
    Row,
    find_train_fault,
    merge,
    read_assay,
    read_final,
    read_sdf_rows,
    with_structures,
)
from support.data import write
from support.published import (
    PUBLISHED_TASKS,
    TEST,
    TRAIN,
    VALIDATION,
    Published,
    block_of,
    final_labels,
    sdf_record,
    small_tox21,
    zipped,
)


@pytest.fixture
def small(monkeypatch) -> Published:
    return small_tox21(monkeypatch)


@pytest.fixture
def assays(small, tmp_path) -> Path:
    """A data folder with the per-assay files."""
    return write(small.unpacked, tmp_path / "data")


@pytest.fixture
def sdfs(small, tmp_path) -> Path:
    """A data folder with the training set as SDF."""
    return write(small.files, tmp_path / "data")


def label_row(**labels: float) -> tuple[tuple[int, float], ...]:
    return tuple((TASKS.index(name.replace("_", ".")), value) for name, value in labels.items())


# --- the splits -----------------------------------------------------------------------------------


def expected_labels(samples: dict) -> np.ndarray:
    return np.array(
        [[float(samples[key][1].get(task, "nan")) for task in PUBLISHED_TASKS] for key in samples]
    )


def assert_is_small(data: MultitaskData) -> None:
    train = dict(sorted(TRAIN.items()))
    for part, samples in ((data.train, train), (data.validation, VALIDATION), (data.test, TEST)):
        assert part.sample_ids == list(samples)
        assert part.labels.dtype == np.float32
        np.testing.assert_array_equal(part.labels, expected_labels(samples))
        for found, (smiles, _) in zip(part.smiles, samples.values(), strict=True):
            assert found in (smiles, "" if "Pt" in smiles else smiles)
    assert (data.title, data.tasks) == ("Tox21", TASKS)


def test_training_set_in_assay_files(assays):
    data = load_multitask("tox21", assays)
    assert_is_small(data)
    assert all(data.train.smiles)
    assert data.notes["train_source"] == "12 files train/*.smiles"
    assert data.notes["train_samples"] == 5
    assert data.notes["train_distinct_smiles"] == 4
    assert data.notes["train_labels"] == 20
    assert data.notes["train_positive_labels"] == 5
    assert data.notes["train_labels_in_conflict_between_samples"] == 3


@pytest.mark.parametrize("name", ["all.sdf", "allsdf", "allsdf.zip", "all.sdf.zip", "all.zip"])
def test_training_set_as_sdf(sdfs, name):
    path = sdfs / "tox21" / f"tox21_10k_data_{name}"
    content = (sdfs / TRAIN_SDF).read_bytes()
    (sdfs / TRAIN_SDF).unlink()
    path.write_bytes(content if name == "all.sdf" else zipped(content, "any.sdf"))
    assert find_train_fault(sdfs) is None
    data = load_multitask("tox21", sdfs)
    assert_is_small(data)
    # A structure that cannot be read keeps its place and its labels.
    assert data.train.smiles[1] == ""
    assert data.notes["train_unreadable_records"] == 1
    assert data.notes["train_source"] == path.name


def test_sdf_stands_in_for_a_damaged_assay_file(small, assays):
    (assays / tox21.ASSAY_FILES[3].path).write_bytes(b"CCO\tS-1\t0\n")
    write({TRAIN_SDF: small.files[TRAIN_SDF]}, assays)
    assert load_multitask("tox21", assays).notes["train_source"] == Path(TRAIN_SDF).name


def cut_record(content: bytes) -> bytes:
    return content[: content.rindex(b"$$$$", 0, -10) + 5]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (cut_record, "4 distinct samples, expected 5"),
        (lambda content: content[:-20], "truncated or not an SDF: no end of record 5"),
        (lambda content: content.replace(b"\n1\n", b"\n7\n", 1), "the label '7' is neither"),
        (lambda content: zipped(content, "a.sdf")[:-40], "not a readable ZIP archive"),
    ],
)
def test_wrong_training_set(sdfs, change, fault):
    path = sdfs / TRAIN_SDF
    path.write_bytes(change(path.read_bytes()))
    assert fault in find_train_fault(sdfs)
    with pytest.raises(DataError) as caught:
        load_multitask("tox21", sdfs)
    lines = str(caught.value).splitlines()
    assert len(lines) <= 10
    assert lines[1] == f"  file:  {path}"
    assert fault in lines[2]
    assert any("python scripts/download_data.py tox21" in line for line in lines)


def test_validation_set_as_archive(assays, small):
    bare = assays / tox21.VALIDATION_FILE.path
    content = bare.read_bytes()
    bare.unlink()
    archive = bare.with_name("tox21_10k_challenge_testsdf")
    archive.write_bytes(zipped(content, bare.name))
    assert_is_small(load_multitask("tox21", assays))

    changed = content.replace(b">  <SR-ARE>\n1", b">  <SR-ARE>\n0", 1)
    archive.write_bytes(zipped(changed, bare.name))
    with pytest.raises(DataError, match="does not have the expected sha256"):
        load_multitask("tox21", assays)


@pytest.mark.parametrize("split", ["data_all", "challenge_test"])
def test_of_an_sdf_and_its_archive_the_intact_one_is_read(sdfs, split):
    bare = sdfs / "tox21" / f"tox21_10k_{split}.sdf"
    archive = bare.with_name(f"tox21_10k_{split}sdf.zip")
    content = bare.read_bytes()
    packed = zipped(content, bare.name)
    for first, second in ((content[:-20], packed), (content, packed[:-40])):
        bare.write_bytes(first)
        archive.write_bytes(second)
        assert_is_small(load_multitask("tox21", sdfs))
    bare.write_bytes(content[:-20])
    with pytest.raises(DataError, match="fault: truncated"):
        load_multitask("tox21", sdfs)


def test_no_training_set(assays):
    """Where nothing of it is there, the file to look for is the one that can be downloaded."""
    shutil.rmtree(assays / "tox21" / "train")
    with pytest.raises(DataError, match="missing") as caught:
        load_multitask("tox21", assays)
    assert str(assays / TRAIN_SDF) in str(caught.value)
    with pytest.raises(DataError, match=r"nowhere does not exist\."):
        load_multitask("tox21", assays / "nowhere")


@pytest.mark.parametrize("below", ["tox21", "tox21/train"])
def test_folder_one_too_deep_is_recognised(assays, below):
    with pytest.raises(DataError) as caught:
        load_multitask("tox21", assays / below)
    assert f"use data_dir={assays}\n" in str(caught.value)


# --- formats --------------------------------------------------------------------------------------


def test_tasks_are_those_of_the_papers_table():
    rows = (
        "NR.AhR NR.AR NR.AR.LBD NR.Aromatase NR.ER NR.ER.LBD",
        "SR.ATAD5 SR.HSE SR.MMP SR.p53 NR.PPAR.gamma SR.ARE",
    )
    assert " ".join(TASKS) == " ".join(rows)


def test_assay_file():
    rows = list(read_assay(b"CCO\tS-1\t1\nC[N+](C)C.[Cl-]\tS-2\t0\r\n\n", task=5))
    assert rows == [
        Row("S-1", "CCO", ((5, 1.0),)),
        Row("S-2", "C[N+](C)C.[Cl-]", ((5, 0.0),)),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"CCO\tS-1\t1\nCCO\tS-2", "line 2 does not consist of 3 fields"),
        (b"CCO\tS-1\t1\n\tS-2\t0", "line 2 does not consist of 3 fields"),
        (b"CCO\tS-1\t2", "line 1: the label '2' is neither 0 nor 1 nor missing"),
        (b"\x00\xff\x9d" * 40, "line 1 does not"),
    ],
)
def test_assay_file_of_another_form(content, message):
    with pytest.raises(FormatError, match=message):
        list(read_assay(content, task=0))


def test_final_set_is_joined_by_sample_id_and_column_name():
    names = PUBLISHED_TASKS[::-1]
    labels = final_labels("S-2\t1" + "\tx" * 11, "S-1" + "\tx" * 11 + "\t0", names=names)
    rows = list(read_final(b"#SMILES\tSample ID\nC\tS-1\nCC\tS-2\n", labels))
    assert rows == [Row("S-1", "C", ((0, 0.0),)), Row("S-2", "CC", ((11, 1.0),))]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (final_labels("S-1" + "\t0" * 12, "S-1" + "\t0" * 12), "'S-1' for the second time"),
        (final_labels("S-1" + "\t0" * 11), "line 2 does not consist of 13 fields"),
        (final_labels("S-1" + "\t?" * 12), r"line 2 of the labels: the label '\?'"),
        (final_labels("S-2" + "\t0" * 12), "not about the same samples"),
        (final_labels("S-1" + "\t0" * 12, names=[*PUBLISHED_TASKS[:-1], "other"]), "header"),
        (final_labels("", names=[PUBLISHED_TASKS[0], *PUBLISHED_TASKS[:-1]]), "header"),
        (b"", "header"),
    ],
)
def test_final_set_of_another_form(labels, message):
    with pytest.raises(FormatError, match=message):
        list(read_final(b"#SMILES\tSample ID\nCCO\tS-1\n", labels))


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_sdf(newline, capfd):
    text = (
        sdf_record("S-1", block_of("Oc1ccccc1"), {"NR-AhR": "1", "SR-ARE": "0"})
        + sdf_record("S-2", block_of("not a molecule"), {"NR-AhR": "0"})
        + sdf_record("compound", block_of("CC(=O)O"), {"Compound Batch ID": "S-3", "SR-p53": "x"})
        + sdf_record("S-4", block_of(""), {"SR-MMP": ""})
    ).replace("\n", newline)
    assert list(with_structures(read_sdf_rows(text.encode()))) == [
        Row("S-1", "Oc1ccccc1", label_row(NR_AhR=1.0, SR_ARE=0.0)),
        Row("S-2", "", label_row(NR_AhR=0.0)),
        Row("S-3", "CC(=O)O", ()),
        Row("S-4", "", ()),
    ]
    assert capfd.readouterr() == ("", "")  # no messages of RDKit


def test_sdf_written_by_rdkit():
    buffer = io.StringIO()
    writer = Chem.SDWriter(buffer)
    molecule = Chem.MolFromSmiles("C[C@H](N)C(=O)O")
    molecule.SetProp("_Name", "S-1")
    for name, value in zip(PUBLISHED_TASKS, "010101010101", strict=True):
        molecule.SetProp(name, value)
    writer.write(molecule)
    writer.close()
    merged = merge(with_structures(read_sdf_rows(buffer.getvalue().encode())))
    assert merged.samples.sample_ids == ["S-1"]
    assert merged.samples.labels.tolist() == [[0, 1] * 6]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no records"),
        (b"<html>log in first</html>", "truncated or not an SDF: no end of record 1"),
        (b"S-1\n$$$$\n", "record 1: no structure"),
        (sdf_record("", block_of("C"), {}).encode(), "record 1: no sample ID"),
        (sdf_record("S", block_of("C"), {"NR-AR": "7"}).encode(), "record 1, NR-AR: the label '7'"),
        (sdf_record("S", block_of("C"), {}).encode()[:-5], "no end of record 1"),
    ],
)
def test_sdf_of_another_form(content, message):
    with pytest.raises(FormatError, match=message):
        read_sdf_rows(content)


ETHANOL = sdf_record("S-1", block_of("CCO"), {"NR-AR": "1"}).encode()


@pytest.mark.parametrize("name", ["any.sdf", "folder/any.SDF", "../../any.sdf", "/any.sdf"])
def test_archive_is_read_whatever_the_names(tmp_path, name):
    path = tmp_path / "a" / "b" / "archive"
    content = zipped(ETHANOL, name, "README.txt", "__MACOSX/._any.sdf")
    write({"a/b/archive": content}, tmp_path)
    assert read_sdf(path) == ETHANOL
    assert [file for file in tmp_path.rglob("*") if file.is_file()] == [path]
    assert parse_sdf(read_sdf(path))[0].properties[-1] == ("NR-AR", "1")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (zipped(ETHANOL, "a.sdf", "b.sdf"), "2 SDF files instead of one"),
        (zipped(ETHANOL, "a.txt"), "0 SDF files instead of one"),
        (zipped(ETHANOL, "a.sdf")[:-30], "not a readable ZIP archive"),
        (b"PK", "not a readable ZIP archive"),
        (zipped(b"\n" * 1_000_000, "a.sdf"), "more than 100,000 bytes"),
        (b"\n" * 1_000_000, "more than 100,000 bytes"),
    ],
)
def test_archive_of_another_form(tmp_path, monkeypatch, content, message):
    monkeypatch.setattr(sdf, "MAX_BYTES", 100_000)
    (tmp_path / "archive").write_bytes(content)
    with pytest.raises(FormatError, match=message):
        read_sdf(tmp_path / "archive")


def test_rows_of_one_sample():
    merged = merge(
        [
            Row("S-2", "CCO", label_row(NR_AhR=1.0, NR_AR=0.0)),
            Row("S-1", "CCO", label_row(NR_AhR=0.0)),  # same structure, another sample
            Row("S-2", "OCC", label_row(NR_AhR=1.0, NR_AR=1.0, NR_ER=0.0)),
            Row("S-2", "CCO", label_row(NR_AR=1.0)),  # no vote: a contradiction stays one
        ]
    )
    assert merged.samples.sample_ids == ["S-2", "S-1"]
    assert merged.samples.smiles == ["CCO", "CCO"]
    expected = np.full((2, 12), np.nan, dtype=np.float32)
    expected[0, TASKS.index("NR.AhR")] = 1
    expected[0, TASKS.index("NR.ER")] = 0
    expected[1, TASKS.index("NR.AhR")] = 0
    np.testing.assert_array_equal(merged.samples.labels, expected)
    assert (merged.repeated, merged.conflicting, merged.renamed) == (3, 1, 1)
