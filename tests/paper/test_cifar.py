"""CIFAR-10, CIFAR-100 and Fashion-MNIST: archives in the official layout, made in the tests."""

import gzip
import hashlib
import io
import pickle
import shutil
import struct
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from convexinit_paper.data import cifar, images
from convexinit_paper.data.compat import import_torchvision
from convexinit_paper.data.files import DataError, DataFile
from convexinit_paper.data.images import load_images

ROWS = {"train": 8, "test": 6}  # per batch
NAMES = ("cifar10", "cifar100")
TITLES = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


class OldPickler(pickle.Pickler):
    """Writes arrays as NumPy under Python 2 did: bytes as strings, numbers for booleans."""

    def reducer_override(self, value):
        if isinstance(value, np.dtype):
            return np.dtype, ("u1", 0, 1), (3, "|", None, None, None, -1, -1, 0)
        if isinstance(value, np.ndarray):
            state = (1, value.shape, value.dtype, False, value.tobytes().decode("latin1"))
            return value.__reduce__()[0], (np.ndarray, (0,), "b"), state
        return NotImplemented


def batch(name: str, labels: list[int], seed: int) -> tuple[bytes, np.ndarray]:
    """A batch as published, and its pixels."""
    pixels = np.random.default_rng(seed).integers(0, 256, (len(labels), 3072), np.uint8)
    keys = {"labels": labels}
    if name == "cifar100":
        keys = {"coarse_labels": [label % 20 for label in labels], "fine_labels": labels}
    stream = io.BytesIO()
    OldPickler(stream, protocol=2).dump(
        {"batch_label": "a batch", "data": pixels, "filenames": ["x.png"] * len(labels), **keys}
    )
    return stream.getvalue(), pixels


class Published:
    """A small data set in the official layout, whose digests the loader knows."""

    def __init__(self, name: str, monkeypatch: pytest.MonkeyPatch):
        files = cifar.CIFAR[name]
        self.name = name
        self.contents: dict[str, bytes] = {}
        self.pixels: dict[str, list[np.ndarray]] = {"train": [], "test": []}
        self.labels: dict[str, list[int]] = {"train": [], "test": []}
        classes = 10 if name == "cifar10" else 100
        for split, names in (("train", files.train), ("test", files.test)):
            for file in names:
                start = 7 * len(self.contents)
                labels = [(start + row) % classes for row in range(ROWS[split])]
                self.contents[file], pixels = batch(name, labels, seed=start)
                self.pixels[split].append(pixels)
                self.labels[split] += labels
        meta = "batches.meta" if name == "cifar10" else "meta"
        members = {meta: b"never read", "readme.html": b"<html>", **self.contents}
        self.archive = self.pack({f"{files.folder}/{key}": members[key] for key in members})
        self.files = replace(
            files,
            archive=DataFile(files.archive.path, len(self.archive), md5(self.archive), "md5"),
            train={key: md5(self.contents[key]) for key in files.train},
            test={key: md5(self.contents[key]) for key in files.test},
        )
        monkeypatch.setitem(cifar.CIFAR, name, self.files)

    @staticmethod
    def pack(members: dict[str, bytes]) -> bytes:
        stream = io.BytesIO()
        with tarfile.open(fileobj=stream, mode="w:gz") as archive:
            for name, content in members.items():
                member = tarfile.TarInfo(name)
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
        return stream.getvalue()

    def put_archive(self, data_dir: Path) -> Path:
        path = data_dir / self.files.archive.path
        path.write_bytes(self.archive)
        return path

    def put_folder(self, data_dir: Path) -> Path:
        folder = data_dir / self.files.folder
        folder.mkdir()
        for name, content in self.contents.items():
            (folder / name).write_bytes(content)
        return folder


@pytest.fixture(params=NAMES)
def published(request, monkeypatch) -> Published:
    return Published(request.param, monkeypatch)


def assert_complete(published: Published, data_dir: Path) -> None:
    data = load_images(published.name, data_dir)
    for split in ("train", "test"):
        inputs, labels = getattr(data, f"{split}_inputs"), getattr(data, f"{split}_labels")
        expected = np.concatenate(published.pixels[split])
        # Official layout: 1,024 red values row by row, then green, then blue.
        assert inputs.shape == (len(expected), 3, 32, 32)
        assert inputs.dtype == torch.uint8
        assert inputs[1, 2, 3, 4] == expected[1, 2 * 1024 + 3 * 32 + 4]
        np.testing.assert_array_equal(inputs.flatten(1).numpy(), expected)
        assert labels.dtype == torch.int64
        assert labels.tolist() == published.labels[split]
    assert data.num_classes == {"cifar10": 10, "cifar100": 100}[published.name]
    assert data.title == TITLES[published.name]


# --- reading --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_digests_and_names_are_those_of_torchvision(name):
    official = getattr(import_torchvision().datasets, name.upper())
    files = cifar.CIFAR[name]
    assert (files.archive.path, files.archive.digest) == (official.filename, official.tgz_md5)
    assert files.archive.algorithm == "md5"
    assert files.folder == official.base_folder
    assert [list(item) for item in files.train.items()] == official.train_list
    assert [list(item) for item in files.test.items()] == official.test_list


@pytest.mark.filterwarnings("error")
def test_archive(published, tmp_path):
    published.put_archive(tmp_path)
    assert_complete(published, tmp_path)


@pytest.mark.filterwarnings("error")
def test_folder_that_torchvision_unpacked(published, tmp_path):
    published.put_folder(tmp_path)
    assert_complete(published, tmp_path)


def test_reading_agrees_with_torchvision(published, tmp_path, monkeypatch):
    official = getattr(import_torchvision().datasets, published.name.upper())
    for attribute, part in (("train_list", "train"), ("test_list", "test")):
        monkeypatch.setattr(official, attribute, [*getattr(published.files, part).items()])
    monkeypatch.setattr(official, "_load_meta", lambda self: None)
    published.put_folder(tmp_path)
    data = load_images(published.name, tmp_path)
    for train in (True, False):
        theirs = official(tmp_path, train=train)
        inputs = data.train_inputs if train else data.test_inputs
        labels = data.train_labels if train else data.test_labels
        np.testing.assert_array_equal(inputs.permute(0, 2, 3, 1).numpy(), theirs.data)
        assert labels.tolist() == theirs.targets


def test_archive_is_preferred_and_replaces_a_damaged_folder(published, tmp_path):
    folder = published.put_folder(tmp_path)
    next(folder.iterdir()).write_bytes(b"damaged")
    published.put_archive(tmp_path)
    assert_complete(published, tmp_path)


# --- what is missing or damaged -------------------------------------------------------------------


def message(name: str, data_dir: Path) -> str:
    with pytest.raises(DataError) as caught:
        load_images(name, data_dir)
    text = str(caught.value)
    assert len(text.splitlines()) <= 10
    assert f"python scripts/download_data.py {name} --data-dir {data_dir}" in text
    assert "CONVEXINIT_DATA" in text
    assert ("experiment=cifar10_jpeg" in text) == (name == "cifar10")
    assert ("dataset=image_folder" in text) == (name == "cifar10")
    return text


class Payload:
    """Leaves a trace where it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("name", NAMES)
def test_missing(name, tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        text = message(name, folder)
        assert str(folder / cifar.CIFAR[name].archive.path) in text
        assert "missing" in text
    (tmp_path / cifar.CIFAR[name].archive.path).touch()
    assert f"use data_dir={tmp_path}" in message(name, tmp_path / "nowhere")


def test_truncated_archive(published, tmp_path):
    path = published.put_archive(tmp_path)
    path.write_bytes(published.archive[:-100])
    assert "truncated" in message(published.name, tmp_path)


@pytest.mark.parametrize("form", ["archive", "folder"])
def test_nothing_is_unpickled_before_its_digest_is_right(published, tmp_path, form):
    trace = tmp_path / "executed"
    attack = pickle.dumps(Payload(trace))
    first = next(iter(published.contents))
    if form == "folder":
        (published.put_folder(tmp_path) / first).write_bytes(attack)
    else:
        # As long as the right archive, so that its size does not give it away.
        archive = published.pack({f"{published.files.folder}/{first}": attack})
        padding = b"\0" * (len(published.archive) - len(archive))
        published.put_archive(tmp_path).write_bytes(archive + padding)
    assert "damaged: its md5 is" in message(published.name, tmp_path)
    assert not trace.exists()
    pickle.loads(attack)
    assert trace.exists()


@pytest.mark.parametrize("fault", ["missing", "not readable"])
def test_batches_of_a_folder(published, tmp_path, fault):
    path = published.put_folder(tmp_path) / next(iter(published.files.test))
    path.unlink()
    if fault == "not readable":
        path.mkdir()
    text = message(published.name, tmp_path)
    assert str(path) in text
    assert f"fault: {fault}" in text


# --- downloads ------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch):
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def serve(official: type, published: Published, server, monkeypatch, prefix: str = "") -> None:
    address, folder = server
    (folder / published.files.archive.path).write_bytes(published.archive)
    url = f"{address}/{prefix}{published.files.archive.path}"
    monkeypatch.setattr(official, "url", url)


def test_download(published, script, server, tmp_path, monkeypatch, capsys):
    official = getattr(import_torchvision().datasets, published.name.upper())
    serve(official, published, server, monkeypatch)
    data_dir = tmp_path / "new" / "data"
    arguments = [published.name, "--data-dir", str(data_dir)]
    assert script.main(arguments) == 0
    assert "1 file downloaded" in capsys.readouterr().out
    assert [path.name for path in data_dir.iterdir()] == [published.files.archive.path]
    assert_complete(published, data_dir)
    assert script.main(arguments) == 0
    assert "already there" in capsys.readouterr().out


def test_nothing_is_downloaded_where_torchvision_unpacked_it(
    published, script, tmp_path, monkeypatch, capsys
):
    official = getattr(import_torchvision().datasets, published.name.upper())
    monkeypatch.setattr(official, "url", "http://127.0.0.1:9/")
    folder = published.put_folder(tmp_path)
    assert script.main([published.name, "--data-dir", str(tmp_path)]) == 0
    shutil.rmtree(folder)
    assert script.main([published.name, "--data-dir", str(tmp_path)]) == 1
    assert "refused" in capsys.readouterr().err


def test_download_breaks_off_or_is_another_file(
    published, script, server, tmp_path, monkeypatch, capsys
):
    official = getattr(import_torchvision().datasets, published.name.upper())
    serve(official, published, server, monkeypatch, prefix="cut/")
    arguments = [published.name, "--data-dir", str(tmp_path)]
    assert script.main(arguments) == 1
    serve(official, published, server, monkeypatch)
    served = server[1] / published.files.archive.path
    served.write_bytes(published.archive[:-1] + bytes([published.archive[-1] ^ 1]))
    assert script.main(arguments) == 1
    errors = capsys.readouterr().err
    assert "the connection was lost after" in errors
    assert "damaged: its md5 is" in errors
    assert list(tmp_path.iterdir()) == []


# --- Fashion-MNIST --------------------------------------------------------------------------------


@pytest.fixture
def fashion(monkeypatch) -> dict[str, bytes]:
    """A small Fashion-MNIST, whose digests the loader knows: contents by path."""
    generator = np.random.default_rng(0)
    contents = {}
    for file, rows in zip(images.FASHION_MNIST_FILES, (20, 20, 10, 10), strict=True):
        if "images" in file.path:
            raw = struct.pack(">4i", 2051, rows, 28, 28) + generator.bytes(rows * 784)
        else:
            raw = struct.pack(">2i", 2049, rows) + bytes(row % 10 for row in range(rows))
        contents[file.path] = gzip.compress(raw)
    files = tuple(
        DataFile(path, len(content), md5(content), "md5") for path, content in contents.items()
    )
    monkeypatch.setattr(images, "FASHION_MNIST_FILES", files)
    return contents


def put(contents: dict[str, bytes], data_dir: Path) -> None:
    for path, content in contents.items():
        (data_dir / path).parent.mkdir(parents=True, exist_ok=True)
        (data_dir / path).write_bytes(content)


def test_fashion_digests_and_names_are_those_of_torchvision():
    official = import_torchvision().datasets.FashionMNIST
    ours = [(Path(file.path).name, file.digest) for file in images.FASHION_MNIST_FILES]
    assert ours == official.resources
    assert {file.path.split("/")[0] for file in images.FASHION_MNIST_FILES} == {official.__name__}


@pytest.mark.filterwarnings("error")
def test_fashion_reading_agrees_with_torchvision(fashion, tmp_path):
    put(fashion, tmp_path)
    data = load_images("fashion_mnist", tmp_path)
    for path, content in fashion.items():  # theirs wants the files uncompressed
        (tmp_path / path).with_suffix("").write_bytes(gzip.decompress(content))
    for train in (True, False):
        theirs = import_torchvision().datasets.FashionMNIST(tmp_path, train=train)
        inputs = data.train_inputs if train else data.test_inputs
        labels = data.train_labels if train else data.test_labels
        assert torch.equal(inputs, theirs.data.unsqueeze(1))
        assert torch.equal(labels, theirs.targets)
        assert inputs.dtype == torch.uint8
        assert labels.dtype == torch.int64
    assert (data.num_classes, data.title) == (10, "Fashion-MNIST")


def test_fashion_missing_and_damaged(fashion, tmp_path):
    assert "missing" in message("fashion_mnist", tmp_path)
    put(fashion, tmp_path)
    path = tmp_path / images.FASHION_MNIST_FILES[2].path
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)
    assert "damaged: its md5 is" in message("fashion_mnist", tmp_path)


def test_fashion_download(fashion, script, server, tmp_path, monkeypatch, capsys):
    address, folder = server
    monkeypatch.setattr(script, "FASHION_MNIST_FILES", images.FASHION_MNIST_FILES)
    monkeypatch.setattr(
        import_torchvision().datasets.FashionMNIST, "mirrors", ["http://127.0.0.1:9/", address]
    )
    for path, content in fashion.items():
        (folder / Path(path).name).write_bytes(content)
    arguments = ["fashion_mnist", "--data-dir", str(tmp_path / "data")]
    assert script.main(arguments) == 0
    assert "4 files downloaded" in capsys.readouterr().out
    assert load_images("fashion_mnist", tmp_path / "data").train_inputs.shape == (20, 1, 28, 28)
    assert script.main(arguments) == 0
    assert "already there" in capsys.readouterr().out
