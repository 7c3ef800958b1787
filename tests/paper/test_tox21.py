"""Multi-task molecule data: Tox21 in its published forms, the stand-in, and the download."""

import hashlib
import io
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import ModuleType
from urllib.parse import parse_qs, urlparse

import numpy as np
import pytest
from rdkit import Chem, rdBase

from convexinit_paper.data import tox21
from convexinit_paper.data.files import DataError, DataFile, check_files
from convexinit_paper.data.multitask import MoleculeSet, MultitaskData, load_multitask
from convexinit_paper.data.structural_alerts import ALERTS, HEAVY_ATOMS
from convexinit_paper.data.tox21 import (
    ASSAY_FILES,
    TASKS,
    TEST_FILES,
    TRAIN_SDF,
    VALIDATION_FILE,
    FormatError,
    Row,
    merge,
    parse_sdf,
    read_assay,
    read_final,
    read_sdf,
    read_structures,
)
from support.data import real_data_dir

needs_tox21 = pytest.mark.skipif(
    not (real_data_dir() / "tox21").is_dir(),
    reason=f"Tox21 is not in {real_data_dir()}; set CONVEXINIT_DATA to its folder",
)

PUBLISHED = [task.replace(".", "-") for task in TASKS]
SDF_NAME = Path(TRAIN_SDF).name


@pytest.fixture(scope="session")
def real() -> MultitaskData:
    return load_multitask("tox21", real_data_dir())


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A data folder of its own with the real files in it."""
    folder = tmp_path / "data"
    for file in (*ASSAY_FILES, VALIDATION_FILE, *TEST_FILES):
        path = folder / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes((real_data_dir() / file.path).read_bytes())
    return folder


def sdf_record(sample_id: str, block: str, labels: dict[str, str]) -> str:
    """One record as in the published training set: the sample ID is the title line."""
    lines = block.split("\n")
    lines[0] = sample_id
    text = "\n".join(lines)
    properties = {"Formula": "C2", "FW": "1.0", "DSSTox_CID": "7", **labels}
    return text + "".join(f">  <{k}>\n{v}\n\n" for k, v in properties.items()) + "$$$$\n"


def block_of(smiles: str) -> str:
    with rdBase.BlockLogs():
        molecule = Chem.MolFromSmiles(smiles)
    if molecule is None:  # structures that RDKit refuses exist in the published SDF, too
        return "\n\n\n  1  0  0  0  0  0  0  0  0  0999 V2000\n  no atom\nM  END\n"
    return Chem.MolToMolBlock(molecule)


def assay_lines(task: str) -> list[list[str]]:
    """The lines of a per-assay file, by plain text alone."""
    path = real_data_dir() / "tox21" / "train" / f"{task.replace('.', '-').lower()}.smiles"
    return [line.split("\t") for line in path.read_text().split("\n") if line]


@pytest.fixture(scope="session")
def train_sdf() -> bytes:
    """The training set as an SDF, made from the per-assay files, in another order than theirs."""
    smiles, labels = {}, defaultdict(dict)
    for task, name in zip(TASKS, PUBLISHED, strict=True):
        for text, sample_id, label in assay_lines(task):
            smiles[sample_id] = text
            labels[sample_id][name] = label
    blocks = {text: block_of(text) for text in set(smiles.values())}
    ids = sorted(smiles, key=lambda sample_id: hashlib.sha256(sample_id.encode()).digest())
    return "".join(sdf_record(i, blocks[smiles[i]], labels[i]) for i in ids).encode()


def zipped(content: bytes, *names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name in names:
            archive.writestr(name, content)
    return buffer.getvalue()


def listing(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


# --- The real data -------------------------------------------------------------------------------


@needs_tox21
def test_sizes_and_names(real: MultitaskData) -> None:
    assert real.title == "Tox21"
    assert [len(real.train), len(real.validation), len(real.test)] == [11_764, 296, 647]
    for part in (real.train, real.validation, real.test):
        assert part.labels.shape == (len(part.smiles), 12)
        assert part.labels.dtype == np.float32
        assert len(part.sample_ids) == len(set(part.sample_ids)) == len(part.smiles)
        assert all(part.smiles)
        assert set(np.unique(part.labels[np.isfinite(part.labels)])) == {0.0, 1.0}
        # Each task can be scored, and each sample has a label.
        assert all({0.0, 1.0} <= set(column) for column in part.labels.T)
        assert np.isfinite(part.labels).any(1).all()
    splits = [set(part.sample_ids) for part in (real.train, real.validation, real.test)]
    assert len(set.union(*splits)) == 11_764 + 296 + 647


def test_tasks_are_those_of_the_papers_table() -> None:
    rows = (
        "NR.AhR NR.AR NR.AR.LBD NR.Aromatase NR.ER NR.ER.LBD",
        "SR.ATAD5 SR.HSE SR.MMP SR.p53 NR.PPAR.gamma SR.ARE",
    )
    assert " ".join(TASKS) == " ".join(rows)
    files = [Path(file.path).stem for file in ASSAY_FILES]
    assert files == [name.lower() for name in PUBLISHED]


@needs_tox21
def test_training_labels_are_those_of_the_assay_files(real: MultitaskData) -> None:
    index = {sample_id: row for row, sample_id in enumerate(real.train.sample_ids)}
    for column, task in enumerate(TASKS):
        expected = np.full(len(index), np.nan)
        for smiles, sample_id, label in assay_lines(task):
            expected[index[sample_id]] = float(label)
            assert real.train.smiles[index[sample_id]] == smiles
        np.testing.assert_array_equal(real.train.labels[:, column], expected)


@needs_tox21
def test_label_counts(real: MultitaskData) -> None:
    """Negative and positive training labels per task, as counted with cut, sort and uniq."""
    expected = {
        "NR.AhR": (7219, 950),
        "NR.AR": (8982, 380),
        "NR.AR.LBD": (8296, 303),
        "NR.Aromatase": (6866, 360),
        "NR.ER": (6760, 937),
        "NR.ER.LBD": (8307, 446),
        "SR.ATAD5": (8753, 338),
        "SR.HSE": (7722, 428),
        "SR.MMP": (6178, 1142),
        "SR.p53": (8097, 537),
        "NR.PPAR.gamma": (7962, 222),
        "SR.ARE": (6069, 1098),
    }
    counts = [(int((x == 0).sum()), int((x == 1).sum())) for x in real.train.labels.T]
    assert dict(zip(real.tasks, counts, strict=True)) == expected


@needs_tox21
def test_validation_labels_are_those_of_the_sdf(real: MultitaskData) -> None:
    text = (real_data_dir() / VALIDATION_FILE.path).read_text()
    for column, name in enumerate(PUBLISHED):
        values = Counter(part.split("\n")[1] for part in text.split(f"<{name}>")[1:])
        labels = real.validation.labels[:, column]
        assert values == Counter({"0": int((labels == 0).sum()), "1": int((labels == 1).sum())})
    assert real.validation.sample_ids[0] == "NCGC00261443-01"
    first = dict(zip(TASKS, real.validation.labels[0], strict=True))
    assert first["SR.ATAD5"] == 1
    assert first["NR.AR"] == 0


@needs_tox21
def test_validation_structures_are_those_of_the_smiles_file(real: MultitaskData) -> None:
    """The SDF is read alone: the file beside it has the same samples and structures."""
    path = (real_data_dir() / VALIDATION_FILE.path).with_suffix(".smiles")
    lines = [line.split("\t") for line in path.read_text().splitlines()]
    assert [sample_id for _, sample_id in lines] == real.validation.sample_ids

    def flat(smiles: str) -> str:
        return Chem.MolToSmiles(Chem.MolFromSmiles(smiles), isomericSmiles=False)

    assert [flat(text) for text, _ in lines] == [flat(text) for text in real.validation.smiles]


@needs_tox21
def test_test_labels_are_those_of_the_table(real: MultitaskData) -> None:
    structures, table = [
        [line.split("\t") for line in (real_data_dir() / file.path).read_text().splitlines()]
        for file in TEST_FILES
    ]
    assert [list(pair) for pair in zip(real.test.smiles, real.test.sample_ids, strict=True)] == (
        structures[1:]
    )
    labels = {row[0]: dict(zip(table[0][1:], row[1:], strict=True)) for row in table[1:]}
    text = {0.0: "0", 1.0: "1"}
    for sample_id, row in zip(real.test.sample_ids, real.test.labels, strict=True):
        assert [text.get(x, "x") for x in row] == [labels[sample_id][name] for name in PUBLISHED]


@needs_tox21
def test_notes_of_the_real_data(real: MultitaskData) -> None:
    notes = real.notes
    assert notes["train_source"] == "12 files train/*.smiles"
    assert notes["train_samples"] == 11_764
    assert notes["train_distinct_smiles"] == 8_043
    assert notes["train_labels"] == 98_352
    assert notes["train_labels_in_conflict_between_samples"] == 513
    for part in ("train", "validation", "test"):
        for key in ("repeated_labels", "conflicting_labels", "sample_ids_with_two_smiles"):
            assert notes[f"{part}_{key}"] == 0


@needs_tox21
def test_reading_writes_nothing(copy: Path) -> None:
    before = listing(copy)
    load_multitask("tox21", str(copy))
    assert listing(copy) == before


# --- The training set as SDF ---------------------------------------------------------------------


@needs_tox21
def test_both_forms_give_the_same(copy: Path, real: MultitaskData, train_sdf: bytes) -> None:
    """Here as the archive that is published; bare in the tests of the download."""
    shutil.rmtree(copy / "tox21" / "train")
    path = copy / "tox21" / "tox21_10k_data_allsdf"
    path.write_bytes(zipped(train_sdf, SDF_NAME))
    data = load_multitask("tox21", copy)
    assert data.train.sample_ids == real.train.sample_ids
    np.testing.assert_array_equal(data.train.labels, real.train.labels)
    # Structures that cannot be read keep their place and their labels.
    unreadable = [i for i, text in enumerate(data.train.smiles) if not text]
    assert {real.train.smiles[i] for i in unreadable} == {
        "[Cl-][Pt]1([Cl-])NCCN1",
        "[NH4+].[NH4+].[Cl-][Pt++]([Cl-])([Cl-])[Cl-]",
    }
    assert len(unreadable) == data.notes["train_unreadable_records"] == 3
    assert data.notes["train_source"] == path.name
    for i in range(0, 11_764, 97):
        if data.train.smiles[i]:
            expected = Chem.MolFromSmiles(real.train.smiles[i])
            actual = Chem.MolFromSmiles(data.train.smiles[i])
            assert Chem.MolToSmiles(actual, isomericSmiles=False) == Chem.MolToSmiles(
                expected, isomericSmiles=False
            )


@needs_tox21
def test_sdf_stands_in_for_a_damaged_assay_file(copy: Path, train_sdf: bytes) -> None:
    (copy / ASSAY_FILES[3].path).write_bytes(b"CCO\tS-1\t0\n")
    (copy / TRAIN_SDF).write_bytes(train_sdf)
    assert load_multitask("tox21", copy).notes["train_source"] == SDF_NAME


@needs_tox21
def test_sdf_with_a_record_too_few(copy: Path, train_sdf: bytes) -> None:
    shutil.rmtree(copy / "tox21" / "train")
    end = train_sdf.rindex(b"$$$$", 0, -10) + 5
    (copy / TRAIN_SDF).write_bytes(train_sdf[:end])
    assert tox21.find_train_fault(copy) == "11,763 distinct samples, expected 11,764"
    with pytest.raises(DataError, match="11,763 distinct samples, expected 11,764") as caught:
        load_multitask("tox21", copy)
    assert_helpful(str(caught.value), copy, copy / TRAIN_SDF)

    # Cut within a record.
    (copy / TRAIN_SDF).write_bytes(train_sdf[:-100])
    with pytest.raises(DataError, match="no end of record 11,764"):
        load_multitask("tox21", copy)


@needs_tox21
def test_damaged_archive(copy: Path, train_sdf: bytes) -> None:
    shutil.rmtree(copy / "tox21" / "train")
    path = copy / "tox21" / "tox21_10k_data_all.sdf.zip"
    content = bytearray(zipped(train_sdf, SDF_NAME))
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="not a readable ZIP archive") as caught:
        load_multitask("tox21", copy)
    assert_helpful(str(caught.value), copy, path)


@needs_tox21
def test_validation_set_as_archive(copy: Path, real: MultitaskData) -> None:
    bare = copy / VALIDATION_FILE.path
    content = bare.read_bytes()
    bare.unlink()
    archive = bare.with_name("tox21_10k_challenge_testsdf")
    archive.write_bytes(zipped(content, "tox21_10k_challenge_test.sdf"))
    data = load_multitask("tox21", copy)
    assert data.validation.sample_ids == real.validation.sample_ids
    np.testing.assert_array_equal(data.validation.labels, real.validation.labels)

    changed = content.replace(b">  <SR-ATAD5>\n1", b">  <SR-ATAD5>\n0", 1)
    archive.write_bytes(zipped(changed, "tox21_10k_challenge_test.sdf"))
    with pytest.raises(DataError, match="does not have the expected sha256"):
        load_multitask("tox21", copy)


# --- Formats -------------------------------------------------------------------------------------


def label_row(**labels: float) -> tuple[tuple[int, float], ...]:
    return tuple((TASKS.index(name.replace("_", ".")), value) for name, value in labels.items())


def test_assay_file() -> None:
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
        (b"CCO S-1 1", "line 1 does not"),
        (b"CCO\tS-1\t2", "line 1: the label '2' is neither 0 nor 1 nor missing"),
        (b"\x00\xff\x9d" * 40, "line 1 does not"),
    ],
)
def test_assay_file_of_another_form(content: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        list(read_assay(content, task=0))


def final_labels(*rows: str, names: list[str] = PUBLISHED) -> bytes:
    return "\n".join(["\t".join(["Sample ID", *names]), *rows]).encode()


def test_final_set_is_joined_by_sample_id_and_column_name() -> None:
    names = PUBLISHED[::-1]
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
        (final_labels(), "not about the same samples"),
        (final_labels("S-1" + "\t0" * 12, names=[*PUBLISHED[:-1], "other"]), "header"),
        (final_labels("S-1" + "\t0" * 12, names=[PUBLISHED[0], *PUBLISHED[:-1]]), "header"),
        (b"", "header"),
    ],
)
def test_final_set_of_another_form(labels: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        list(read_final(b"#SMILES\tSample ID\nCCO\tS-1\n", labels))


@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_sdf(newline: str) -> None:
    text = (
        sdf_record("S-1", block_of("Oc1ccccc1"), {"NR-AhR": "1", "SR-ARE": "0"})
        + sdf_record("S-2", block_of("not a molecule"), {"NR-AhR": "0"})
        + sdf_record("compound", block_of("CC(=O)O"), {"Compound Batch ID": "S-3", "SR-p53": "x"})
        + sdf_record("S-4", block_of(""), {"SR-MMP": ""})
    ).replace("\n", newline)
    rows = list(read_structures(parse_sdf(text.encode())))
    assert rows == [
        Row("S-1", "Oc1ccccc1", label_row(NR_AhR=1.0, SR_ARE=0.0)),
        Row("S-2", "", label_row(NR_AhR=0.0)),
        Row("S-3", "CC(=O)O", ()),
        Row("S-4", "", ()),
    ]


def test_sdf_written_by_rdkit() -> None:
    buffer = io.StringIO()
    writer = Chem.SDWriter(buffer)
    molecule = Chem.MolFromSmiles("C[C@H](N)C(=O)O")
    molecule.SetProp("_Name", "S-1")
    for name, value in zip(PUBLISHED, "010101010101", strict=True):
        molecule.SetProp(name, value)
    writer.write(molecule)
    writer.close()
    merged = merge(read_structures(parse_sdf(buffer.getvalue().encode())))
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
def test_sdf_of_another_form(content: bytes, message: str) -> None:
    with pytest.raises(FormatError, match=message):
        parse_sdf(content)


def test_no_messages_of_rdkit(capfd: pytest.CaptureFixture[str]) -> None:
    records = parse_sdf(sdf_record("S-1", block_of("not a molecule"), {}).encode())
    assert next(read_structures(records)).smiles == ""
    assert capfd.readouterr() == ("", "")


ETHANOL = sdf_record("S-1", block_of("CCO"), {"NR-AR": "1"}).encode()


@pytest.mark.parametrize("name", ["any.sdf", "folder/any.SDF", "../../any.sdf", "/any.sdf"])
def test_archive_is_read_whatever_the_names(tmp_path: Path, name: str) -> None:
    path = tmp_path / "a" / "b" / "archive"
    path.parent.mkdir(parents=True)
    path.write_bytes(zipped(ETHANOL, name, "README.txt", "__MACOSX/._any.sdf"))
    assert read_sdf(path) == ETHANOL
    assert listing(tmp_path) == ["a", "a/b", "a/b/archive"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (zipped(ETHANOL, "a.sdf", "b.sdf"), "2 SDF files instead of one"),
        (zipped(ETHANOL, "a.txt"), "0 SDF files instead of one"),
        (zipped(ETHANOL, "a.sdf")[:-30], "not a readable ZIP archive"),
        (b"PK", "not a readable ZIP archive"),
    ],
)
def test_archive_of_another_form(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "archive").write_bytes(content)
    with pytest.raises(FormatError, match=message):
        read_sdf(tmp_path / "archive")


def test_archive_that_grows_without_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "archive").write_bytes(zipped(b"\n" * 1_000_000, "a.sdf"))
    monkeypatch.setattr(tox21, "MAX_SDF_BYTES", 10_000)
    with pytest.raises(FormatError, match="more than 10,000 bytes"):
        read_sdf(tmp_path / "archive")


def test_rows_of_one_sample() -> None:
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


# --- Missing and damaged files -------------------------------------------------------------------


def assert_helpful(message: str, data_dir: Path, path: Path) -> None:
    assert len(message.splitlines()) <= 10
    assert str(path) in message
    assert f"python scripts/download_data.py tox21 --data-dir {data_dir}" in message
    assert "data_dir=" in message
    assert "CONVEXINIT_DATA" in message


@needs_tox21
@pytest.mark.parametrize("file", [ASSAY_FILES[0], VALIDATION_FILE, *TEST_FILES])
def test_damaged_file(copy: Path, file: DataFile) -> None:
    path = copy / file.path
    content = path.read_bytes()
    for change, message in (
        (content[:-7], "truncated"),
        (content[:-2] + b"!\n", "damaged: its sha256 is"),
        (None, "missing"),
    ):
        path.unlink()
        if change is not None:
            path.write_bytes(change)
        with pytest.raises(DataError, match=message) as caught:
            load_multitask("tox21", copy)
        assert_helpful(str(caught.value), copy, path)
        path.touch()


def test_no_files_at_all(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="missing") as caught:
        load_multitask("tox21", tmp_path)
    assert_helpful(str(caught.value), tmp_path, tmp_path / TRAIN_SDF)
    with pytest.raises(DataError, match=r"nowhere does not exist\."):
        load_multitask("tox21", tmp_path / "nowhere")


@needs_tox21
def test_folder_one_too_deep_is_recognised(copy: Path) -> None:
    for below in ("tox21", "tox21/train"):
        with pytest.raises(DataError) as caught:
            load_multitask("tox21", copy / below)
        assert f"use data_dir={copy}\n" in str(caught.value)


def test_unknown_name_lists_the_known_ones(tmp_path: Path) -> None:
    message = "unknown multi-task data set 'tox'; known: tox21, structural_alerts"
    with pytest.raises(ValueError, match=f"^{message}$"):
        load_multitask("tox", tmp_path)


def test_rdkit_is_imported_only_when_needed() -> None:
    code = (
        "import sys, convexinit_paper.data.multitask, convexinit_paper.data.tox21\n"
        "print([name for name in ('rdkit', 'torch', 'pandas') if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


# --- Structural alerts ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def alerts() -> MultitaskData:
    return load_multitask("structural_alerts", "needs no files")


def splits_of(data: MultitaskData) -> list[MoleculeSet]:
    return [data.train, data.validation, data.test]


def test_alerts_say_what_they_are(alerts: MultitaskData) -> None:
    assert alerts.title == "Structural alerts (stand-in for Tox21)"
    assert alerts.tasks == tuple(ALERTS)
    assert [len(part) for part in splits_of(alerts)] == [1_400, 300, 300]


def test_alert_molecules_are_distinct_readable_and_of_varied_size(alerts: MultitaskData) -> None:
    smiles = [text for part in splits_of(alerts) for text in part.smiles]
    molecules = [Chem.MolFromSmiles(text) for text in smiles]
    assert None not in molecules
    assert len({Chem.MolToSmiles(molecule) for molecule in molecules}) == 2_000
    sizes = np.array([molecule.GetNumHeavyAtoms() for molecule in molecules])
    assert sizes.min() >= HEAVY_ATOMS[0]
    assert sizes.max() <= HEAVY_ATOMS[1]
    assert sizes.std() > 3
    ids = [name for part in splits_of(alerts) for name in part.sample_ids]
    assert len(set(ids)) == 2_000


def test_alert_labels(alerts: MultitaskData) -> None:
    labels = np.concatenate([part.labels for part in splits_of(alerts)])
    smiles = [text for part in splits_of(alerts) for text in part.smiles]
    assert labels.dtype == np.float32
    # 24,000 labels, each missing with probability 0.05: standard deviation 0.0014.
    assert np.isnan(labels).mean() == pytest.approx(0.05, abs=0.005)
    for part in splits_of(alerts):
        share = np.nanmean(part.labels, axis=0)
        assert share.min() >= 0.05
        assert share.max() <= 0.6
    # No two tasks are nearly the same.
    filled = np.where(np.isnan(labels), np.nanmean(labels, axis=0), labels)
    assert np.abs(np.triu(np.corrcoef(filled.T), 1)).max() < 0.3

    by_hand = {  # each group by a rule on the text, where one exists
        "aromatic-nitro": lambda text: "[N+]" in text,  # also aliphatic: necessary only
        "nitrile": lambda text: "#N" in text or "N#" in text,
        "alkyl-halide": lambda text: "Cl" in text or "Br" in text,
        "aromatic-halide": lambda text: any(x in text for x in ("F", "Cl", "Br")),
        "sulfonamide": lambda text: "S" in text and "N" in text,
    }
    for task, rule in by_hand.items():
        column = labels[:, alerts.tasks.index(task)]
        assert all(rule(text) for text, label in zip(smiles, column, strict=True) if label == 1)
    nitrile = labels[:, alerts.tasks.index("nitrile")]
    assert not any(
        by_hand["nitrile"](text) for text, x in zip(smiles, nitrile, strict=True) if x == 0
    )


@pytest.mark.parametrize(
    ("smiles", "expected"),
    [
        ("O=[N+]([O-])c1ccccc1", {"aromatic-nitro"}),
        ("CC[N+](=O)[O-]", set()),
        ("Nc1ccccc1", {"aniline"}),
        ("CN(C)c1ccccc1", {"aniline"}),
        ("CC(=O)Nc1ccccc1", set()),
        ("CS(=O)(=O)Nc1ccccc1", {"sulfonamide"}),
        ("CS(C)(=O)=O", set()),
        ("Oc1ccccc1", {"phenol"}),
        ("OCc1ccccc1", set()),
        ("C=CC(C)=O", {"michael-acceptor"}),
        ("C=CCC(C)=O", set()),
        ("Clc1ccccc1", {"aromatic-halide"}),
        ("ClCc1ccccc1", {"alkyl-halide"}),
        ("FC(F)(F)c1ccccc1", set()),
        ("CC(=O)O", {"carboxylic-acid"}),
        ("CC(=O)OC", set()),
        ("CC=O", {"aldehyde"}),
        ("CN(C)C", {"tertiary-amine"}),
        ("CN(C)C=O", set()),
        ("c1ccsc1", {"thiophene-or-furan"}),
        ("c1cscn1", set()),
        ("CC#N", {"nitrile"}),
    ],
)
def test_alerts_on_textbook_molecules(smiles: str, expected: set[str]) -> None:
    molecule = Chem.MolFromSmiles(smiles)
    found = {
        task
        for task, smarts in ALERTS.items()
        if molecule.HasSubstructMatch(Chem.MolFromSmarts(smarts))
    }
    assert found == expected


def test_alerts_never_change(alerts: MultitaskData) -> None:
    again = load_multitask("structural_alerts", "")
    for first, second in zip(splits_of(alerts), splits_of(again), strict=True):
        assert first.smiles == second.smiles
        np.testing.assert_array_equal(first.labels, second.labels)
    # Recorded results rest on these molecules and their split.
    text = "\n".join(text for part in splits_of(alerts) for text in part.smiles)
    digest = hashlib.sha256(text.encode()).hexdigest()
    assert digest == "80ab713f9f43ac2519adc8173280025a06cc825afe2c685e0ca51ea50f2b1bef"
    labels = np.concatenate([part.labels for part in splits_of(alerts)])
    digest = hashlib.sha256(np.nan_to_num(labels, nan=2).astype(np.uint8).tobytes()).hexdigest()
    assert digest == "2defe71dc3df86f1113480903839bcc39bc378ea599f9f09e4293c17864b1ee1"


def test_alerts_load_quickly() -> None:
    times = []
    for _ in range(2):  # shared machines: the better of two
        start = time.process_time()
        load_multitask("structural_alerts", "")
        times.append(time.process_time() - start)
    assert min(times) < 3


# --- Downloads -----------------------------------------------------------------------------------


class Handler(BaseHTTPRequestHandler):
    """Answers ``?id=NAME`` as the address of the challenge does; a name may be set to break off."""

    def __init__(self, *args: object, served: dict[str, bytes], cut: set[str]) -> None:
        self.served, self.cut = served, cut
        super().__init__(*args)

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        (name,) = parse_qs(urlparse(self.path).query)["id"]
        if name not in self.served:
            return self.send_error(404)
        content = self.served[name]
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) // 2] if name in self.cut else content)
        self.close_connection = True


@pytest.fixture
def server(
    script: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[dict[str, bytes], set[str]]]:
    """What a local server in the place of the official one serves, and what it breaks off."""
    served: dict[str, bytes] = {}
    cut: set[str] = set()
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    handler = partial(Handler, served=served, cut=cut)
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as instance:
        thread = threading.Thread(target=instance.serve_forever)
        thread.start()
        url = f"http://127.0.0.1:{instance.server_port}/tox21/challenge/download?id="
        monkeypatch.setattr(script, "TOX21_URL", url)
        yield served, cut
        instance.shutdown()
        thread.join()


@pytest.fixture
def official(server: tuple[dict[str, bytes], set[str]], train_sdf: bytes) -> dict[str, bytes]:
    """The four official downloads; names inside the archives try to leave the folder."""
    served, _ = server
    test_sdf = (real_data_dir() / VALIDATION_FILE.path).read_bytes()
    served |= {
        "tox21_10k_data_allsdf": zipped(train_sdf, f"../../{SDF_NAME}"),
        "tox21_10k_challenge_testsdf": zipped(test_sdf, "/tmp/tox21_10k_challenge_test.sdf"),
        "tox21_10k_challenge_scoresmiles": (real_data_dir() / TEST_FILES[0].path).read_bytes(),
        "tox21_10k_challenge_scoretxt": (real_data_dir() / TEST_FILES[1].path).read_bytes(),
    }
    return served


def test_the_official_address(script: ModuleType) -> None:
    assert script.TOX21_URL == "https://tripod.nih.gov/tox21/challenge/download?id="


@needs_tox21
def test_download(
    script: ModuleType,
    official: dict[str, bytes],
    real: MultitaskData,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data_dir = tmp_path / "new" / "data"
    arguments = ["tox21", "--data-dir", str(data_dir)]
    assert script.main(arguments) == 0
    assert "(4 files downloaded)" in capsys.readouterr().out
    files = [TRAIN_SDF, VALIDATION_FILE.path, *(file.path for file in TEST_FILES)]
    assert listing(tmp_path) == sorted(
        ["new", "new/data", "new/data/tox21", *(f"new/data/{path}" for path in files)]
    )
    check_files("tox21", [VALIDATION_FILE, *TEST_FILES], data_dir)
    data = load_multitask("tox21", data_dir)
    np.testing.assert_array_equal(data.train.labels, real.train.labels)

    # What is there and intact is kept; what is damaged is downloaded again, alone.
    assert script.main(arguments) == 0
    assert "already there" in capsys.readouterr().out
    for path, served in ((TRAIN_SDF, "allsdf"), (TEST_FILES[0].path, "scoresmiles")):
        (data_dir / path).write_bytes(b"damaged")
        kept = {name: content for name, content in official.items() if name.endswith(served)}
        others = {name: content for name, content in official.items() if name not in kept}
        for name in others:
            del official[name]
        assert script.main(arguments) == 0
        assert "(1 file downloaded)" in capsys.readouterr().out
        official |= others


@needs_tox21
def test_assay_files_need_no_download_of_the_training_set(
    script: ModuleType,
    official: dict[str, bytes],
    copy: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert script.main(["tox21", "--data-dir", str(copy)]) == 0
    assert "already there" in capsys.readouterr().out
    # One of them damaged: the other form is fetched, and read from then on.
    (copy / ASSAY_FILES[0].path).write_bytes(b"damaged")
    assert script.main(["tox21", "--data-dir", str(copy)]) == 0
    assert "(1 file downloaded)" in capsys.readouterr().out
    assert (copy / TRAIN_SDF).is_file()
    assert tox21.find_train_fault(copy) is None


RECORDS = ETHANOL + ETHANOL.replace(b"S-1", b"S-2")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "404"),
        (b"<html>log in first</html>", "not a readable ZIP archive"),
        (zipped(RECORDS, "a.sdf")[:-40], "not a readable ZIP archive"),
        (zipped(RECORDS, "a.sdf", "b.sdf"), "2 SDF files instead of one"),
        (zipped(RECORDS, "a.txt"), "0 SDF files instead of one"),
        (zipped(RECORDS[:-20], "a.sdf"), "no end of record 2"),
        (zipped(RECORDS, "a.sdf"), "2 distinct samples, expected 11,764"),
        (zipped(b"", "a.sdf"), "no records"),
    ],
)
def test_wrong_training_set_is_refused(
    script: ModuleType,
    server: tuple[dict[str, bytes], set[str]],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    content: bytes | None,
    message: str,
) -> None:
    if content is not None:
        server[0]["tox21_10k_data_allsdf"] = content
    assert script.main(["tox21", "--data-dir", str(tmp_path / "data")]) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {SDF_NAME} could not be downloaded:")
    assert message in error
    assert len(error.splitlines()) <= 10
    assert listing(tmp_path) == []


@needs_tox21
@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("tox21_10k_challenge_testsdf", VALIDATION_FILE),
        ("tox21_10k_challenge_scoresmiles", TEST_FILES[0]),
        ("tox21_10k_challenge_scoretxt", TEST_FILES[1]),
    ],
)
def test_files_of_known_digest_are_checked(
    script: ModuleType,
    official: dict[str, bytes],
    server: tuple[dict[str, bytes], set[str]],
    copy: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    file: DataFile,
) -> None:
    path = copy / file.path
    content = path.read_bytes()
    path.unlink()
    arguments = ["tox21", "--data-dir", str(copy)]
    original = official[name]
    for changed, message in (
        (content[:-7], "truncated"),
        (content[:-2] + b"!\n", "damaged: its sha256"),
        (content + b"\n" * 1_000_000, "more than the expected"),
    ):
        official[name] = zipped(changed, "a.sdf") if file is VALIDATION_FILE else changed
        assert script.main(arguments) == 1
        assert message in capsys.readouterr().err
        assert not path.exists()

    official[name] = original
    server[1].add(name)
    assert script.main(arguments) == 1
    assert "the connection was lost after" in capsys.readouterr().err
    server[1].clear()
    assert script.main(arguments) == 0
    assert path.read_bytes() == content
    assert not [name for name in listing(copy) if ".download" in name]


def test_help_names_tox21(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        script.main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert ",tox21," in text
    assert "no known digest" in text
