"""Every data set that is read from files: complete, missing and damaged ones."""

import gzip
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from convexinit_paper.data.compat import official
from convexinit_paper.data.datasets import load_multitask
from convexinit_paper.data.files import DataError, DataFile, find_fault
from convexinit_paper.data.images import ImageData, load_images
from convexinit_paper.data.registry import DATA_SETS
from support.data import write
from support.published import SMALL, Published, small_fashion_mnist, small_mnist

IMAGES = [name for name in SMALL if name != "tox21"]
TORCHVISION = {
    "mnist": "MNIST", "fashion_mnist": "FashionMNIST", "cifar10": "CIFAR10", "cifar100": "CIFAR100"
}  # fmt: skip


@pytest.fixture
def published(request, monkeypatch) -> Published:
    return SMALL[request.param](monkeypatch)


every_data_set = pytest.mark.parametrize("published", SMALL, indirect=True)
all_images = pytest.mark.parametrize("published", IMAGES, indirect=True)


def load(name: str, data_dir: Path):
    return (load_multitask if name == "tox21" else load_images)(name, data_dir)


def listing(folder: Path) -> list[tuple[str, int, int]]:
    return sorted(
        (str(path.relative_to(folder)), path.stat().st_size, path.stat().st_mtime_ns)
        for path in folder.rglob("*")
    )


# --- reading --------------------------------------------------------------------------------------


def assert_is(data: ImageData, published: Published) -> None:
    tensors = (data.train_inputs, data.train_labels, data.test_inputs, data.test_labels)
    for tensor, array in zip(tensors, published.arrays, strict=True):
        np.testing.assert_array_equal(tensor.numpy(), array)
        assert tensor.dtype == (torch.uint8 if array.ndim == 4 else torch.int64)
    source = DATA_SETS[published.name]
    assert (data.num_classes, data.title, data.white) == (source.classes, source.title, 255)


@pytest.mark.filterwarnings("error")
@all_images
def test_images_and_labels(published, tmp_path):
    assert_is(load_images(published.name, write(published.files, tmp_path)), published)


@all_images
def test_reading_agrees_with_torchvision(published, tmp_path):
    data = load_images(published.name, write(published.files, tmp_path))
    write(published.unpacked, tmp_path)
    for train in (True, False):
        theirs = official(TORCHVISION[published.name])(tmp_path, train=train)
        inputs = data.train_inputs if train else data.test_inputs
        labels = data.train_labels if train else data.test_labels
        pixels = np.asarray(theirs.data).reshape(len(labels), *inputs.shape[2:], -1)
        np.testing.assert_array_equal(inputs.permute(0, 2, 3, 1).numpy(), pixels)
        np.testing.assert_array_equal(labels, theirs.targets)


@every_data_set
def test_reading_writes_nothing(published, tmp_path):
    before = listing(write(published.files, tmp_path))
    load(published.name, str(tmp_path))
    assert listing(tmp_path) == before


# --- compressed or not ----------------------------------------------------------------------------

both_mnists = pytest.mark.parametrize("published", ["mnist", "fashion_mnist"], indirect=True)


def forms(published: Published) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """The files uncompressed and compressed."""
    folder = Path(next(iter(published.files))).parent
    packed = {f"{folder}/{name}": content for name, content in published.web.items()}
    return published.unpacked, packed


@both_mnists
def test_files_may_be_compressed_or_not(published, tmp_path):
    plain, packed = forms(published)
    mixed = dict([*list(plain.items())[:2], *list(packed.items())[2:]])
    for number, files in enumerate((plain, packed, plain | packed, mixed)):
        data_dir = write(files, tmp_path / str(number))
        before = listing(data_dir)
        assert_is(load_images(published.name, data_dir), published)
        assert listing(data_dir) == before


@both_mnists
def test_of_both_forms_the_intact_one_is_read(published, tmp_path):
    plain, packed = forms(published)
    for path, content in (plain | packed).items():
        data_dir = write(plain | packed, tmp_path)
        for damaged in (content[:-5], b"", content + b"\0"):
            (data_dir / path).write_bytes(damaged)
            assert_is(load_images(published.name, data_dir), published)


def test_damaged_archive_of_mnist_alone(tmp_path, monkeypatch):
    published = small_mnist(monkeypatch)
    _, packed = forms(published)
    other = gzip.compress(gzip.decompress(next(iter(packed.values())))[:-1] + b"\0")
    for path, content in packed.items():
        for damaged, fault in (
            (content[:-9], "damaged: Compressed file ended"),
            (content[:12] + b"\xff" * 9 + content[21:], "damaged: "),
            (b"<html>log in</html>", "damaged: Not a gzipped file"),
            (other, "damaged: its sha256 is"),
        ):
            (write(packed, tmp_path) / path).write_bytes(damaged)
            text = message("mnist", tmp_path, tmp_path / path)
            assert f"  fault: {fault}" in text
    assert DATA_SETS["mnist"].downloads()[0].fault(write(packed, tmp_path)) is None


def test_uncompressed_fashion_mnist_is_checked_as_far_as_it_is_known(tmp_path, monkeypatch):
    plain, _ = forms(small_fashion_mnist(monkeypatch))
    images, labels, *_ = plain
    for path, damaged, fault in (
        (images, plain[images][:-1], "it has 15,695 bytes, expected 15,696"),
        (images, plain[labels], "damaged: it does not begin as files of this name do"),
        (images, b"", "damaged: it does not begin"),
        (labels, plain[labels][:-1] + b"\x0a", "damaged: a label is above 9"),
        (labels, None, "missing"),
    ):
        place = write(plain, tmp_path) / path
        place.unlink() if damaged is None else place.write_bytes(damaged)
        shown = place.with_name(f"{place.name}.gz") if damaged is None else place
        assert f"  fault: {fault}" in message("fashion_mnist", tmp_path, shown)
    write(plain, tmp_path)
    write({labels: plain[list(plain)[3]]}, tmp_path)  # those of the test images
    with pytest.raises(DataError, match="20 images and 10 labels"):
        load_images("fashion_mnist", tmp_path)


def test_cache_of_old_torchvision_is_not_read(tmp_path, monkeypatch):
    """Old versions left `processed/*.pt`, which torchvision's class prefers to the files."""
    small = small_mnist(monkeypatch)
    processed = write(small.files, tmp_path) / "MNIST" / "processed"
    processed.mkdir()
    for name in ("training.pt", "test.pt"):
        torch.save((torch.zeros(1, 28, 28), torch.zeros(1)), processed / name)
    assert_is(load_images("mnist", tmp_path), small)


# --- missing and damaged files --------------------------------------------------------------------


def message(name: str, data_dir: Path, path: Path) -> str:
    """The error for one file of a data set, which says what to do."""
    with pytest.raises(DataError) as caught:
        load(name, data_dir)
    text = str(caught.value)
    assert len(text.splitlines()) <= 10
    assert f"  file:  {path}\n" in text
    assert f"python scripts/download_data.py {name} --data-dir {data_dir}" in text
    assert "data_dir=" in text
    assert "CONVEXINIT_DATA" in text
    assert ("experiment=cifar10_jpeg" in text) == (name == "cifar10")
    assert ("dataset=image_folder" in text) == (name == "cifar10")
    return text


@every_data_set
@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (None, "missing"),
        (lambda content: content[:-7], "truncated: it has "),
        (lambda content: content + b"\0", "too long: it has "),
        (lambda content: content[:-9] + bytes([content[-9] ^ 1]) + content[-8:], "damaged: its "),
    ],
)
def test_every_file(published, tmp_path, change, fault):
    files = published.unpacked if published.name == "tox21" else published.files
    data_dir = write(files, tmp_path)
    for name, content in files.items():
        path = data_dir / name
        path.unlink() if change is None else path.write_bytes(change(content))
        assert f"  fault: {fault}" in message(published.name, data_dir, path)
        path.write_bytes(content)
    load(published.name, data_dir)


@pytest.fixture
def mnist(tmp_path, monkeypatch) -> tuple[Path, Path]:
    """A data folder, and the first file in it."""
    small = small_mnist(monkeypatch)
    return write(small.files, tmp_path), tmp_path / next(iter(small.files))


def test_folder_in_place_of_a_file(mnist):
    data_dir, path = mnist
    path.unlink()
    path.mkdir()
    assert "not a file" in message("mnist", data_dir, path)


def test_unreadable_file(tmp_path, monkeypatch):
    """Permissions do not bind the superuser, so the refusal is simulated."""

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "file").write_bytes(b"abc")
    monkeypatch.setattr(Path, "open", refuse)
    fault = find_fault(tmp_path / "file", DataFile("file", 3, "0" * 64))
    assert fault == "not readable: Permission denied"


@pytest.mark.parametrize(("kind", "state"), [("nothing", "does not exist"), ("file", "is not a")])
def test_data_folder_that_is_none(mnist, tmp_path, kind, state):
    folder = tmp_path / "two words"
    if kind == "file":
        folder.touch()
    with pytest.raises(DataError, match=rf"data folder {folder} {state}") as caught:
        load_images("mnist", folder)
    # Nothing could be downloaded to a file.
    assert (f"--data-dir '{folder}'" in str(caught.value)) == (kind == "nothing")
    assert folder.exists() == (kind == "file")


@pytest.mark.parametrize("below", ["MNIST", "MNIST/raw"])
def test_folder_one_too_deep_is_recognised(mnist, below):
    data_dir, path = mnist
    folder = data_dir / below
    text = message("mnist", folder, folder / path.relative_to(data_dir))
    assert re.search(rf"use data_dir={data_dir}$", text, re.MULTILINE)


def test_relative_folder_is_shown_in_full(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as caught:
        load_images("mnist", "data")
    assert f"  file:  {tmp_path / 'data' / 'MNIST'}" in str(caught.value)
    assert "another folder: use" not in str(caught.value)
