"""The two forms of CIFAR-10 and CIFAR-100; small archives in the official layout."""

import pickle
from pathlib import Path

import pytest

from convexinit_paper.data.compat import official
from convexinit_paper.data.files import DataError
from convexinit_paper.data.images import load_images
from convexinit_paper.data.registry import DATA_SETS
from support.data import write
from support.published import Published, packed, small_cifar


@pytest.fixture(params=["cifar10", "cifar100"])
def published(request, monkeypatch) -> Published:
    return small_cifar(request.param, monkeypatch)


def assert_complete(published: Published, data_dir: Path) -> None:
    data = load_images(published.name, data_dir)
    assert (data.train_inputs.numpy() == published.arrays[0]).all()
    assert data.test_labels.tolist() == published.arrays[3].tolist()


def message(name: str, data_dir: Path) -> str:
    with pytest.raises(DataError) as caught:
        load_images(name, data_dir)
    return str(caught.value)


@pytest.mark.filterwarnings("error")
def test_folder_that_torchvision_unpacked(published, tmp_path):
    assert_complete(published, write(published.unpacked, tmp_path))


def test_archive_is_preferred_and_replaces_a_damaged_folder(published, tmp_path):
    write(published.unpacked, tmp_path)
    (tmp_path / next(iter(published.unpacked))).write_bytes(b"damaged")
    assert_complete(published, write(published.files, tmp_path))


def test_folder_stands_in_for_a_damaged_archive(published, tmp_path):
    write(published.unpacked, tmp_path)
    [archive] = published.files
    (tmp_path / archive).write_bytes(published.files[archive][:-1])
    assert_complete(published, tmp_path)
    assert DATA_SETS[published.name].downloads()[0].fault(tmp_path) is None
    # If both are damaged, the archive is what can be fetched again.
    (tmp_path / next(iter(published.unpacked))).write_bytes(b"damaged")
    assert f"  file:  {tmp_path / archive}\n  fault: truncated" in message(published.name, tmp_path)


@pytest.mark.parametrize("fault", ["missing", "not readable", "damaged: its md5 is"])
def test_batches_of_a_folder(published, tmp_path, fault):
    write(published.unpacked, tmp_path)
    for name, content in published.unpacked.items():
        path = tmp_path / name
        path.unlink()
        if fault == "not readable":
            path.mkdir()
        elif fault != "missing":
            path.write_bytes(content + b"\0")
        text = message(published.name, tmp_path)
        assert f"  file:  {path}\n  fault: {fault}" in text
        path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)
        path.write_bytes(content)


class Payload:
    """Leaves a trace where it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("form", ["archive", "folder"])
def test_nothing_is_unpickled_before_its_digest_is_right(published, tmp_path, form):
    trace = tmp_path / "executed"
    attack = pickle.dumps(Payload(trace))
    first = next(iter(published.unpacked))
    if form == "folder":
        write(published.unpacked | {first: attack}, tmp_path)
    else:
        # As long as the right archive, so that its size does not give it away.
        (name, right), archive = *published.files.items(), packed({first: attack})
        write({name: archive + bytes(len(right) - len(archive))}, tmp_path)
    assert "damaged: its md5 is" in message(published.name, tmp_path)
    assert not trace.exists()
    pickle.loads(attack)
    assert trace.exists()


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_missing_where_there_is_nothing(name, tmp_path):
    path = tmp_path / official(name.upper()).filename
    assert f"  file:  {path}\n  fault: missing" in message(name, tmp_path)
    path.touch()
    assert f"use data_dir={tmp_path}" in message(name, tmp_path / "nowhere")
