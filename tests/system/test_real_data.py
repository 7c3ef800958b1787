"""The real MNIST, Tox21 and JPEG copy of CIFAR-10, where they are at hand."""

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import PurePosixPath

import numpy as np
import pytest
import torch
from rdkit import Chem, rdBase

from convexinit.molecules.chemistry import SALTS, standardise, standardise_all
from convexinit_paper.data.archives import list_files, read_files
from convexinit_paper.data.class_folders import arrange
from convexinit_paper.data.datasets import load_multitask
from convexinit_paper.data.image_folder import load_image_folder
from convexinit_paper.data.images import load_images
from convexinit_paper.data.preprocessing import channel_statistics, normalise, preprocess
from convexinit_paper.data.sources.tox21 import TASKS, TEST_FILES, VALIDATION_FILE
from convexinit_paper.data.whitening import EPSILON
from support.chemistry import published_form
from support.data import JPEG_COPY, needs_jpeg_copy, needs_mnist, needs_tox21, real_data_dir, write
from support.published import PUBLISHED_TASKS, sdf, zipped

# --- MNIST ----------------------------------------------------------------------------------------

# Samples per class, as in the published description of MNIST.
MNIST_TRAIN_COUNTS = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
MNIST_TEST_COUNTS = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


@pytest.fixture(scope="module")
def mnist():
    return load_images("mnist", real_data_dir())


@needs_mnist
def test_mnist_is_what_it_is_known_to_be(mnist):
    assert mnist.train_inputs.shape == (60_000, 1, 28, 28)
    assert mnist.test_inputs.shape == (10_000, 1, 28, 28)
    assert mnist.train_labels.bincount().tolist() == MNIST_TRAIN_COUNTS
    assert mnist.test_labels.bincount().tolist() == MNIST_TEST_COUNTS
    assert mnist.train_labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert mnist.test_labels[:5].tolist() == [7, 2, 1, 0, 4]
    mean, std = channel_statistics(mnist.train_inputs)
    assert mean.item() / 255 == pytest.approx(0.1307, abs=5e-5)
    assert std.item() / 255 == pytest.approx(0.3081, abs=5e-5)


@needs_mnist
def test_mnist_normalised(mnist):
    data = normalise(mnist)
    assert data.train_inputs.shape == (60_000, 784)
    assert data.test_inputs.shape == (10_000, 784)
    assert data.train_inputs.dtype == data.test_inputs.dtype == torch.float32
    std, mean = torch.std_mean(data.train_inputs)
    assert mean.item() == pytest.approx(0, abs=1e-4)
    assert std.item() == pytest.approx(1, abs=1e-4)
    # The test set has the constants of the training set: black is the same number in both.
    black = -0.1307 / 0.3081
    assert data.train_inputs.min().item() == pytest.approx(black, abs=1e-3)
    assert data.test_inputs.min() == data.train_inputs.min()


@needs_mnist
def test_mnist_whitened(mnist):
    images = replace(mnist, train_inputs=mnist.train_inputs[:10_000])  # the rest takes long
    data = preprocess(images, "zca")
    pixels = images.train_inputs.flatten(1).double().numpy() / 255
    eigenvalues = np.linalg.eigvalsh(np.cov(pixels, rowvar=False, bias=True))
    expected = np.sort(eigenvalues / (eigenvalues + EPSILON))
    whitened = np.cov(data.train_inputs.double().numpy(), rowvar=False, bias=True)
    np.testing.assert_allclose(np.linalg.eigvalsh(whitened), expected, rtol=0, atol=1e-4)
    # Pixels at the border are black in all of these; in the whole training set, 67 of them.
    constant = images.train_inputs.flatten(1).amax(0) == 0
    assert constant.sum() >= 67
    assert data.train_inputs[:, constant].abs().max() < 1e-6
    assert data.train_inputs.abs().max() < 200
    assert data.test_inputs.abs().max() < 317  # 1 / sqrt(epsilon): white where all were black
    ordinary = (images.test_inputs.flatten(1)[:, constant] == 0).all(1)
    assert 0.99 < ordinary.double().mean() < 1
    test = data.test_inputs[ordinary].pow(2).mean().item()
    assert test < 1.5 * data.train_inputs.pow(2).mean().item()


# --- the JPEG copy of CIFAR-10 --------------------------------------------------------------------


@needs_jpeg_copy
def test_jpeg_copy_of_cifar10(tmp_path):
    """All names, and 60 images of each class (decoding all 60,000 takes long)."""
    source = real_data_dir() / JPEG_COPY
    layout = arrange(list_files(source), source)
    assert layout.classes == [
        "airplane", "automobile", "bird", "cat", "deer",
        "dog", "frog", "horse", "ship", "truck",
    ]  # fmt: skip
    for split, count in (("train", 5000), ("test", 1000)):
        assert np.bincount([*layout.labels[split].values()]).tolist() == [count] * 10

    some = {
        PurePosixPath(f"{split}/{name}/{number:04}.jpg")
        for split, count in (("train", 50), ("test", 10))
        for name in layout.classes
        for number in range(count)
    }
    write({str(path): content for path, content in read_files(source, some)}, tmp_path / "some")
    data = load_image_folder(tmp_path / "some", None, None, tmp_path / "cache")
    assert data.train_inputs.shape == (500, 3, 32, 32)
    assert data.test_inputs.shape == (100, 3, 32, 32)
    # The channel means that are published for CIFAR-10.
    mean = data.train_inputs.double().mean((0, 2, 3)) / 255
    np.testing.assert_allclose(mean, [0.4914, 0.4822, 0.4465], atol=0.03)


# --- Tox21 ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tox21():
    return load_multitask("tox21", real_data_dir())


def assay_lines(task: str) -> list[list[str]]:
    """The lines of a per-assay file, by plain text alone."""
    path = real_data_dir() / "tox21" / "train" / f"{task.replace('.', '-').lower()}.smiles"
    return [line.split("\t") for line in path.read_text().split("\n") if line]


@needs_tox21
def test_sizes_and_names_of_tox21(tox21):
    assert tox21.title == "Tox21"
    assert [len(tox21.train), len(tox21.validation), len(tox21.test)] == [11_764, 296, 647]
    for part in (tox21.train, tox21.validation, tox21.test):
        assert part.labels.shape == (len(part.smiles), 12)
        assert part.labels.dtype == np.float32
        assert len(part.sample_ids) == len(set(part.sample_ids)) == len(part.smiles)
        assert all(part.smiles)
        assert set(np.unique(part.labels[np.isfinite(part.labels)])) == {0.0, 1.0}
        # Each task can be scored, and each sample has a label.
        assert all({0.0, 1.0} <= set(column) for column in part.labels.T)
        assert np.isfinite(part.labels).any(1).all()
    splits = [set(part.sample_ids) for part in (tox21.train, tox21.validation, tox21.test)]
    assert len(set.union(*splits)) == 11_764 + 296 + 647


@needs_tox21
def test_molecules_of_tox21_are_those_that_cddd_makes(tox21):
    parts = (tox21.train, tox21.validation, tox21.test)
    texts = [text for part in parts for text in part.smiles]
    forms = [item.smiles for item in standardise_all(texts)]
    with rdBase.BlockLogs():
        for text, form in zip(texts, forms, strict=True):
            assert form is None or form == published_form(text)
    # Samples that have more than one fragment and are coded as one of the salts: these are nothing
    # but salts. There were 36 as long as the largest fragment was taken without stripping.
    salts = [Chem.MolFromSmarts(text) for text in SALTS]

    def is_salt(text):
        part = Chem.MolFromSmiles(text)
        return any(
            part.GetNumAtoms() == salt.GetNumAtoms() and part.HasSubstructMatch(salt)
            for salt in salts
        )

    plain = [text for text, form in zip(texts, forms, strict=True) if "." in text and form]
    plain = [text for text in plain if is_salt(standardise(text).smiles)]
    assert len(plain) == 16
    assert all(is_salt(fragment) for text in plain for fragment in text.split("."))


@needs_tox21
def test_training_labels_are_those_of_the_assay_files(tox21):
    index = {sample_id: row for row, sample_id in enumerate(tox21.train.sample_ids)}
    for column, task in enumerate(TASKS):
        expected = np.full(len(index), np.nan)
        for smiles, sample_id, label in assay_lines(task):
            expected[index[sample_id]] = float(label)
            assert tox21.train.smiles[index[sample_id]] == smiles
        np.testing.assert_array_equal(tox21.train.labels[:, column], expected)


@needs_tox21
def test_label_counts(tox21):
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
    counts = [(int((x == 0).sum()), int((x == 1).sum())) for x in tox21.train.labels.T]
    assert dict(zip(tox21.tasks, counts, strict=True)) == expected


@needs_tox21
def test_validation_labels_are_those_of_the_sdf(tox21):
    text = (real_data_dir() / VALIDATION_FILE.path).read_text()
    for column, name in enumerate(PUBLISHED_TASKS):
        values = Counter(part.split("\n")[1] for part in text.split(f"<{name}>")[1:])
        labels = tox21.validation.labels[:, column]
        assert values == Counter({"0": int((labels == 0).sum()), "1": int((labels == 1).sum())})
    assert tox21.validation.sample_ids[0] == "NCGC00261443-01"
    first = dict(zip(TASKS, tox21.validation.labels[0], strict=True))
    assert first["SR.ATAD5"] == 1
    assert first["NR.AR"] == 0


@needs_tox21
def test_validation_structures_are_those_of_the_smiles_file(tox21):
    """The SDF is read alone: the file beside it has the same samples and structures."""
    path = (real_data_dir() / VALIDATION_FILE.path).with_suffix(".smiles")
    lines = [line.split("\t") for line in path.read_text().splitlines()]
    assert [sample_id for _, sample_id in lines] == tox21.validation.sample_ids

    def flat(smiles: str) -> str:
        return Chem.MolToSmiles(Chem.MolFromSmiles(smiles), isomericSmiles=False)

    assert [flat(text) for text, _ in lines] == [flat(text) for text in tox21.validation.smiles]


@needs_tox21
def test_test_labels_are_those_of_the_table(tox21):
    structures, table = [
        [line.split("\t") for line in (real_data_dir() / file.path).read_text().splitlines()]
        for file in TEST_FILES
    ]
    assert [list(pair) for pair in zip(tox21.test.smiles, tox21.test.sample_ids, strict=True)] == (
        structures[1:]
    )
    labels = {row[0]: dict(zip(table[0][1:], row[1:], strict=True)) for row in table[1:]}
    text = {0.0: "0", 1.0: "1"}
    for sample_id, row in zip(tox21.test.sample_ids, tox21.test.labels, strict=True):
        assert [text.get(x, "x") for x in row] == [
            labels[sample_id][name] for name in PUBLISHED_TASKS
        ]


@needs_tox21
def test_notes_of_the_real_data(tox21):
    notes = tox21.notes
    assert notes["train_source"] == "12 files train/*.smiles"
    assert notes["train_samples"] == 11_764
    assert notes["train_distinct_smiles"] == 8_043
    assert notes["train_labels"] == 98_352
    assert notes["train_labels_in_conflict_between_samples"] == 513
    for part in ("train", "validation", "test"):
        for key in ("repeated_labels", "conflicting_labels", "sample_ids_with_two_smiles"):
            assert notes[f"{part}_{key}"] == 0


@needs_tox21
def test_both_forms_of_the_training_set_give_the_same(tox21, tmp_path, monkeypatch):
    """A tenth of the assay files as an SDF, in another order than theirs and in an archive."""
    unreadable = "[Cl-][Pt]1([Cl-])NCCN1", "[NH4+].[NH4+].[Cl-][Pt++]([Cl-])([Cl-])[Cl-]"
    train = tox21.train
    rows = [i for i in range(len(train)) if i % 10 == 0 or train.smiles[i] in unreadable]
    samples: dict[str, tuple[str, dict[str, str]]] = {
        train.sample_ids[i]: (train.smiles[i], {}) for i in rows
    }
    for task, name in zip(TASKS, PUBLISHED_TASKS, strict=True):
        for _, sample_id, label in assay_lines(task):
            if sample_id in samples:
                samples[sample_id][1][name] = label
    content = sdf(dict(sorted(samples.items(), key=lambda item: item[0][::-1])))
    archive = zipped(content, "tox21_10k_data_all.sdf")
    write({"tox21/tox21_10k_data_allsdf": archive}, tmp_path)
    for file in (VALIDATION_FILE, *TEST_FILES):
        shutil.copy(real_data_dir() / file.path, tmp_path / "tox21")
    monkeypatch.setattr("convexinit_paper.data.sources.tox21.TRAIN_SIZE", len(rows))
    data = load_multitask("tox21", tmp_path)
    assert data.train.sample_ids == [train.sample_ids[i] for i in rows]
    np.testing.assert_array_equal(data.train.labels, train.labels[rows])
    # Structures that cannot be read keep their place and their labels.
    assert data.notes["train_unreadable_records"] == 3
    for actual, i in zip(data.train.smiles, rows, strict=True):
        if train.smiles[i] in unreadable:
            assert actual == ""
        else:
            expected = Chem.MolFromSmiles(train.smiles[i])
            assert Chem.MolToSmiles(Chem.MolFromSmiles(actual), isomericSmiles=False) == (
                Chem.MolToSmiles(expected, isomericSmiles=False)
            )
