"""Image data: loading, normalisation, splits, downloads, and what happens with damaged files."""

import gzip
import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from convexinit_paper.data import compat
from convexinit_paper.data.files import DataError, DataFile, check_files, find_fault
from convexinit_paper.data.images import (
    MNIST_FILES,
    ImageData,
    channel_statistics,
    load_images,
    normalise,
)
from convexinit_paper.data.split import random_split
from support.data import ROOT

CLOSED_PORT = "http://127.0.0.1:9/"

# Samples per class, as in the published description of MNIST.
MNIST_TRAIN_COUNTS = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
MNIST_TEST_COUNTS = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]


@pytest.fixture(scope="session")
def mnist_dir() -> Path:
    candidates = [os.environ.get("CONVEXINIT_TEST_DATA"), os.environ.get("CONVEXINIT_DATA")]
    folders = [Path(folder) for folder in candidates if folder] + [ROOT.parent / "shared" / "data"]
    for folder in folders:
        if (folder / "MNIST" / "raw").is_dir():
            return folder.resolve()
    pytest.skip("needs real MNIST: set CONVEXINIT_TEST_DATA to a folder that holds MNIST/raw")


@pytest.fixture(scope="session")
def mnist(mnist_dir: Path) -> ImageData:
    return load_images("mnist", mnist_dir)


@pytest.fixture
def mnist_copy(mnist_dir: Path, tmp_path: Path) -> Path:
    """A data folder with links to the big files and copies of the two label files."""
    for file in MNIST_FILES:
        path = tmp_path / file.path
        path.parent.mkdir(parents=True, exist_ok=True)
        if "labels" in file.path:
            path.write_bytes((mnist_dir / file.path).read_bytes())
        else:
            path.symlink_to(mnist_dir / file.path)
    return tmp_path


def listing(folder: Path) -> list[tuple[str, int, int]]:
    return sorted(
        (str(path.relative_to(folder)), path.lstat().st_size, path.lstat().st_mtime_ns)
        for path in folder.rglob("*")
    )


# --- MNIST -------------------------------------------------------------------------------------


def test_mnist_is_what_it_is_known_to_be(mnist: ImageData) -> None:
    assert mnist.train_inputs.shape == (60_000, 1, 28, 28)
    assert mnist.test_inputs.shape == (10_000, 1, 28, 28)
    assert mnist.train_inputs.dtype == mnist.test_inputs.dtype == torch.uint8
    assert mnist.train_labels.dtype == mnist.test_labels.dtype == torch.int64
    assert mnist.train_labels.bincount().tolist() == MNIST_TRAIN_COUNTS
    assert mnist.test_labels.bincount().tolist() == MNIST_TEST_COUNTS
    assert mnist.train_labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert mnist.test_labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert mnist.num_classes == 10
    assert mnist.title == "MNIST"


def test_mnist_constants_are_the_usual_ones(mnist: ImageData) -> None:
    mean, std = channel_statistics(mnist.train_inputs)
    assert mean.item() / 255 == pytest.approx(0.1307, abs=5e-5)
    assert std.item() / 255 == pytest.approx(0.3081, abs=5e-5)


def test_mnist_normalised(mnist: ImageData) -> None:
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


def test_reading_writes_nothing(mnist_copy: Path) -> None:
    before = listing(mnist_copy)
    load_images("mnist", str(mnist_copy))
    assert listing(mnist_copy) == before


def test_cache_of_old_torchvision_is_not_read(mnist_copy: Path) -> None:
    """Old versions left `processed/*.pt`, which torchvision's class prefers to the files."""
    processed = mnist_copy / "MNIST" / "processed"
    processed.mkdir()
    for name in ("training.pt", "test.pt"):
        torch.save((torch.zeros(1, 28, 28), torch.zeros(1)), processed / name)
    assert len(load_images("mnist", mnist_copy).train_labels) == 60_000


# --- Missing and damaged files -----------------------------------------------------------------


def assert_helpful(message: str, data_dir: Path, path: Path) -> None:
    assert len(message.splitlines()) <= 10
    assert str(path) in message
    assert f"python scripts/download_data.py mnist --data-dir {data_dir}" in message
    assert "data_dir=" in message
    assert "CONVEXINIT_DATA" in message


@pytest.mark.parametrize("index", range(4))
def test_missing_file(mnist_copy: Path, index: int) -> None:
    path = mnist_copy / MNIST_FILES[index].path
    path.unlink()
    with pytest.raises(DataError, match="missing") as caught:
        load_images("mnist", mnist_copy)
    assert_helpful(str(caught.value), mnist_copy, path)


def test_truncated_file(mnist_copy: Path) -> None:
    path = mnist_copy / MNIST_FILES[1].path
    path.write_bytes(path.read_bytes()[:12_345])
    with pytest.raises(
        DataError, match=r"truncated: it has 12,345 bytes, expected 60,008"
    ) as caught:
        load_images("mnist", mnist_copy)
    assert_helpful(str(caught.value), mnist_copy, path)


def test_file_with_appended_byte(mnist_copy: Path) -> None:
    path = mnist_copy / MNIST_FILES[1].path
    path.write_bytes(path.read_bytes() + b"\0")
    with pytest.raises(DataError, match=r"too long: it has 60,009 bytes"):
        load_images("mnist", mnist_copy)


def test_one_damaged_byte(mnist_copy: Path) -> None:
    path = mnist_copy / MNIST_FILES[3].path
    content = bytearray(path.read_bytes())
    content[5_000] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match="damaged: its sha256 is") as caught:
        load_images("mnist", mnist_copy)
    assert_helpful(str(caught.value), mnist_copy, path)


def test_folder_in_place_of_file(mnist_copy: Path) -> None:
    path = mnist_copy / MNIST_FILES[1].path
    path.unlink()
    path.mkdir()
    with pytest.raises(DataError, match="not a file"):
        load_images("mnist", mnist_copy)


def test_unreadable_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Permissions do not bind the superuser, so the refusal is simulated."""

    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    (tmp_path / "file").write_bytes(b"abc")
    monkeypatch.setattr(Path, "open", refuse)
    fault = find_fault(tmp_path / "file", DataFile("file", 3, "0" * 64))
    assert fault == "not readable: Permission denied"


def test_missing_data_folder(tmp_path: Path) -> None:
    folder = tmp_path / "nowhere"
    with pytest.raises(DataError, match=rf"data folder {folder} does not exist") as caught:
        load_images("mnist", folder)
    assert_helpful(str(caught.value), folder, folder / MNIST_FILES[0].path)
    assert not folder.exists()


def test_data_folder_that_is_a_file(tmp_path: Path) -> None:
    file = tmp_path / "data"
    file.touch()
    with pytest.raises(DataError, match=rf"data folder {file} is not a folder"):
        load_images("mnist", file)


def test_empty_data_folder(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load_images("mnist", tmp_path)
    assert_helpful(str(caught.value), tmp_path, tmp_path / MNIST_FILES[0].path)
    assert "another folder: use" not in str(caught.value)


@pytest.mark.parametrize("below", ["MNIST", "MNIST/raw"])
def test_folder_one_too_deep_is_recognised(mnist_copy: Path, below: str) -> None:
    with pytest.raises(DataError) as caught:
        load_images("mnist", mnist_copy / below)
    assert re.search(rf"use data_dir={mnist_copy}$", str(caught.value), re.MULTILINE)
    assert len(str(caught.value).splitlines()) <= 10


def test_command_is_quoted(tmp_path: Path) -> None:
    with pytest.raises(DataError) as caught:
        load_images("mnist", tmp_path / "two words")
    assert f"--data-dir '{tmp_path}/two words'" in str(caught.value)


def test_relative_folder_is_shown_in_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as caught:
        load_images("mnist", "data")
    assert str(tmp_path / "data" / MNIST_FILES[0].path) in str(caught.value)


def test_unknown_name_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown image data set 'mnits'; known: digits, mnist"):
        load_images("mnits", tmp_path)


# --- Digits ------------------------------------------------------------------------------------


def test_digits(tmp_path: Path) -> None:
    from sklearn.datasets import load_digits

    data = load_images("digits", tmp_path / "not needed")
    assert data.train_inputs.shape == (1_437, 1, 8, 8)
    assert data.test_inputs.shape == (360, 1, 8, 8)
    assert data.train_inputs.dtype == torch.uint8
    assert data.train_labels.dtype == data.test_labels.dtype == torch.int64

    # Stratified: each class has its share of the test set, to within one sample.
    target = torch.from_numpy(load_digits().target)
    share = data.test_labels.bincount() - target.bincount() * 360 / 1_797
    assert share.abs().max() < 1

    # Disjoint and complete: train and test together are the source's samples, each once.
    def rows(images: torch.Tensor, labels: torch.Tensor) -> list[tuple[int, ...]]:
        return [(*map(int, x), int(y)) for x, y in zip(images.flatten(1), labels, strict=True)]

    ours = rows(data.train_inputs, data.train_labels) + rows(data.test_inputs, data.test_labels)
    source = rows(torch.from_numpy(load_digits().images), target)
    assert sorted(ours) == sorted(source)


def test_digits_split_never_changes(tmp_path: Path) -> None:
    first, second = load_images("digits", tmp_path), load_images("digits", tmp_path)
    assert torch.equal(first.train_inputs, second.train_inputs)
    assert torch.equal(first.test_labels, second.test_labels)
    # Recorded results rest on this split: it must not change with a scikit-learn version either.
    digest = hashlib.sha256(first.train_inputs.numpy().tobytes()).hexdigest()
    assert digest == "5760f944f9d4583320655eb3932bdbb8a1d7ecccece1d5e8ac73699a93fdf434"


# --- Normalisation -----------------------------------------------------------------------------


def image_data(train: torch.Tensor, test: torch.Tensor) -> ImageData:
    labels = [torch.zeros(len(part), dtype=torch.int64) for part in (train, test)]
    return ImageData(train, labels[0], test, labels[1], num_classes=1, title="Noise")


def test_normalise_is_per_channel_with_constants_of_the_training_set() -> None:
    generator = torch.Generator().manual_seed(0)
    train = torch.randint(0, 256, (50, 3, 4, 5), generator=generator, dtype=torch.uint8)
    train[:, 1] //= 4
    test = torch.randint(0, 256, (7, 3, 4, 5), generator=generator, dtype=torch.uint8)
    data = normalise(image_data(train, test))

    std, mean = torch.std_mean(train.double(), dim=(0, 2, 3), correction=0, keepdim=True)
    for actual, images in ((data.train_inputs, train), (data.test_inputs, test)):
        expected = ((images.double() - mean) / std).flatten(1)
        torch.testing.assert_close(actual.double(), expected, rtol=0, atol=1e-5)
    assert data.train_inputs.shape == (50, 60)


def test_normalise_leaves_the_raw_images_alone() -> None:
    train = torch.arange(64, dtype=torch.uint8).view(4, 1, 4, 4)
    raw = image_data(train, train)
    normalise(raw)
    assert torch.equal(raw.train_inputs, torch.arange(64, dtype=torch.uint8).view(4, 1, 4, 4))


def test_constant_channel_is_refused() -> None:
    images = torch.full((3, 1, 2, 2), 7, dtype=torch.uint8)
    with pytest.raises(ValueError, match="Noise: a channel is constant"):
        normalise(image_data(images, images))


# --- Random split ------------------------------------------------------------------------------


@settings(deadline=None)  # shared machines
@given(n=st.integers(2, 300), fraction=st.floats(0, 1, exclude_max=True), seed=st.integers(0, 99))
def test_split_is_a_partition(n: int, fraction: float, seed: int) -> None:
    train, validation = random_split(n, fraction, torch.Generator().manual_seed(seed))
    assert train.dtype == validation.dtype == torch.int64
    assert sorted(train.tolist() + validation.tolist()) == list(range(n))
    assert len(train) >= 1
    assert (len(validation) >= 1) == (fraction > 0)
    assert abs(len(validation) - n * fraction) <= 1

    again = random_split(n, fraction, torch.Generator().manual_seed(seed))
    assert torch.equal(again[0], train)
    assert torch.equal(again[1], validation)


def test_split_of_the_paper() -> None:
    splits = [random_split(60_000, 0.1, torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    assert [len(part) for part in splits[0]] == [54_000, 6_000]
    assert not torch.equal(splits[0][1], splits[1][1])
    # Independent splits share a tenth of their validation samples: 600, standard deviation 22.
    shared = torch.isin(splits[0][1], splits[1][1]).sum().item()
    assert 490 < shared < 710


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 10, float("nan")])
def test_split_refuses_fraction(fraction: float) -> None:
    with pytest.raises(ValueError, match=r"must lie in \[0, 1\)"):
        random_split(10, fraction, torch.Generator())


def test_split_refuses_too_few_samples() -> None:
    with pytest.raises(ValueError, match="n >= 2"):
        random_split(1, 0.1, torch.Generator())


# --- Importing torchvision ---------------------------------------------------------------------


def test_torchvision_imports_and_stays_the_same() -> None:
    torchvision = compat.import_torchvision()
    assert compat.import_torchvision() is torchvision
    assert torchvision.datasets.MNIST.mirrors
    assert torchvision.transforms.functional is not None


def test_nothing_is_declared_where_torchvision_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    loadable = ModuleType("torchvision")
    monkeypatch.setitem(sys.modules, "torchvision", loadable)
    monkeypatch.setattr(compat, "_library", None)
    assert compat.import_torchvision() is loadable
    assert compat._library is None


@pytest.mark.parametrize("error", [ImportError("No module"), RuntimeError("something else")])
def test_other_failures_of_torchvision_are_not_hidden(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(name: str) -> None:
        raise error

    monkeypatch.setattr(compat, "_library", None)
    monkeypatch.setattr(compat.importlib, "import_module", fail)
    with pytest.raises(type(error), match=str(error)):
        compat.import_torchvision()
    assert compat._library is None


def test_heavy_packages_are_imported_only_when_needed() -> None:
    code = (
        "import sys, convexinit_paper.data.images\n"
        "heavy = ('torchvision', 'sklearn', 'pandas', 'PIL')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


# --- Downloads ---------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


CONTENT = os.urandom(300_000)
SMALL = DataFile("Small/raw/values", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())


def serve(folder: Path, content: bytes, name: str = "values.gz") -> None:
    (folder / name).write_bytes(gzip.compress(content, 1))


def set_mirrors(monkeypatch: pytest.MonkeyPatch, *mirrors: str) -> None:
    mnist_class = compat.import_torchvision().datasets.MNIST
    monkeypatch.setattr(mnist_class, "mirrors", list(mirrors))


def test_download_of_all_mnist(
    script: ModuleType,
    server: tuple[str, Path],
    mnist_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    address, folder = server
    for file in MNIST_FILES:
        serve(folder, (mnist_dir / file.path).read_bytes(), Path(file.path).name + ".gz")
    set_mirrors(monkeypatch, CLOSED_PORT, address)  # the second serves where the first does not

    data_dir = tmp_path / "new" / "data"
    assert script.main(["mnist", "--data-dir", str(data_dir)]) == 0
    assert "complete and verified" in capsys.readouterr().out
    check_files("mnist", MNIST_FILES, data_dir)
    assert len(listing(data_dir)) == 6  # MNIST, raw, four files

    # Now a file is damaged: it alone is downloaded again.
    before = listing(data_dir)
    labels = data_dir / MNIST_FILES[3].path
    labels.write_bytes(b"damaged")
    assert script.main(["mnist", "--data-dir", str(data_dir)]) == 0
    assert "1 file downloaded" in capsys.readouterr().out
    check_files("mnist", MNIST_FILES, data_dir)
    changed = {name for name, _, _ in set(listing(data_dir)) - set(before)}
    assert changed == {"MNIST/raw", MNIST_FILES[3].path}


def test_download_when_already_complete(
    script: ModuleType,
    mnist_dir: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    set_mirrors(monkeypatch, CLOSED_PORT)
    before = listing(mnist_dir / "MNIST")
    monkeypatch.setenv("CONVEXINIT_DATA", str(mnist_dir))
    assert script.main(["mnist"]) == 0
    output = capsys.readouterr()
    assert "already there" in output.out
    assert str(mnist_dir) in output.out
    assert output.err == ""
    assert listing(mnist_dir / "MNIST") == before


def test_download_without_network(
    script: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    set_mirrors(monkeypatch, CLOSED_PORT, CLOSED_PORT)
    assert script.main(["mnist", "--data-dir", str(tmp_path / "new" / "data")]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("error: ")
    assert CLOSED_PORT + "train-images-idx3-ubyte.gz" in output.err
    assert "refused" in output.err
    assert "CONVEXINIT_DATA" in output.err
    assert len(output.err.splitlines()) <= 10
    assert listing(tmp_path) == []


def test_download_of_unknown_name(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        script.main(["mnits"])
    assert caught.value.code == 2
    assert "choose from" in capsys.readouterr().err


def test_download_to_a_place_that_cannot_be_written(
    script: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    set_mirrors(monkeypatch, CLOSED_PORT)
    (tmp_path / "file").touch()
    assert script.main(["mnist", "--data-dir", str(tmp_path / "file")]) == 1
    error = capsys.readouterr().err
    assert f"error: cannot write to {tmp_path}/file" in error
    assert len(error.splitlines()) == 1


def test_full_disk_is_not_blamed_on_the_network(
    script: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    set_mirrors(monkeypatch, CLOSED_PORT)
    monkeypatch.setattr(script, "write", full)
    assert script.main(["mnist", "--data-dir", str(tmp_path / "data")]) == 1
    assert capsys.readouterr().err.strip().endswith("the disk is full")
    assert listing(tmp_path) == []


def test_interrupt_leaves_nothing(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(path: Path, *_: object) -> None:
        path.write_bytes(b"half")
        raise KeyboardInterrupt

    set_mirrors(monkeypatch, CLOSED_PORT)
    monkeypatch.setattr(script, "write", interrupt)
    assert script.main(["mnist", "--data-dir", str(tmp_path / "data")]) == 1
    assert listing(tmp_path) == []


def test_connection_lost_half_way(
    script: ModuleType, server: tuple[str, Path], tmp_path: Path
) -> None:
    address, folder = server
    serve(folder, CONTENT)
    with pytest.raises(script.DownloadError, match="end-of-stream"):
        script.download_gzip([f"{address}/cut/values.gz"], SMALL, tmp_path)
    assert listing(tmp_path) == []

    # The next source takes over.
    urls = [f"{address}/cut/values.gz", f"{address}/values.gz"]
    script.download_gzip(urls, SMALL, tmp_path)
    assert (tmp_path / SMALL.path).read_bytes() == CONTENT


def test_failed_download_leaves_the_old_file(
    script: ModuleType, server: tuple[str, Path], tmp_path: Path
) -> None:
    address, folder = server
    serve(folder, CONTENT)
    (tmp_path / SMALL.path).parent.mkdir(parents=True)
    (tmp_path / SMALL.path).write_bytes(b"old")
    with pytest.raises(script.DownloadError):
        script.download_gzip([f"{address}/cut/values.gz"], SMALL, tmp_path)
    assert [name for name, _, _ in listing(tmp_path)] == ["Small", "Small/raw", SMALL.path]
    assert (tmp_path / SMALL.path).read_bytes() == b"old"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (CONTENT[:-1] + bytes([CONTENT[-1] ^ 1]), "damaged: its sha256"),
        (CONTENT[:-1], "truncated"),
        (CONTENT + b"\0" * 50_000_000, "more than the expected"),
    ],
)
def test_wrong_content_is_refused(
    script: ModuleType, server: tuple[str, Path], tmp_path: Path, content: bytes, message: str
) -> None:
    address, folder = server
    serve(folder, content)
    with pytest.raises(script.DownloadError, match=message):
        script.download_gzip([f"{address}/values.gz"], SMALL, tmp_path)
    assert listing(tmp_path) == []


def test_answers_that_are_no_archive_are_refused(
    script: ModuleType, server: tuple[str, Path], tmp_path: Path
) -> None:
    address, folder = server
    (folder / "page.gz").write_text("<html>log in first</html>")
    urls = [f"{address}/page.gz", f"{address}/absent.gz"]
    with pytest.raises(script.DownloadError, match=r"(?s)Not a gzipped file.*404") as caught:
        script.download_gzip(urls, SMALL, tmp_path)
    assert len(str(caught.value).splitlines()) == 3
    assert listing(tmp_path) == []


def test_help_names_the_data_sets() -> None:
    result = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "download_data.py"), "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "mnist" in result.stdout
    assert "CONVEXINIT_DATA" in result.stdout
