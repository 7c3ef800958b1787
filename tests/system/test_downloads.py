"""scripts/download_data.py, from a server on this machine."""

import gzip
import hashlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from convexinit.molecules import cddd
from convexinit_paper.data.datasets import load_multitask
from convexinit_paper.data.files import DataFile
from convexinit_paper.data.images import load_images
from convexinit_paper.data.sources import Download, tox21
from convexinit_paper.data.sources.mnist import gunzip
from support.data import ROOT, write
from support.published import SMALL, Published, sdf_record, small_mnist, zipped
from support.server import CLOSED_PORT, Served, serving

SCRIPT = ROOT / "scripts" / "download_data.py"


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("download_data", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Served]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with serving() as served:
        yield served


@pytest.fixture(params=SMALL)
def published(request, monkeypatch, server) -> Published:
    """A data set that the server offers."""
    data = SMALL[request.param](monkeypatch)
    server.contents = dict(data.web)
    data.point(server.url)
    return data


@pytest.fixture
def fetch(script, capsys, tmp_path):
    """Run the script for a data set; its exit status and what it says."""

    def fetch_(name: str, data_dir: Path = tmp_path / "new" / "data") -> tuple[int, str]:
        status = script.main([name, "--data-dir", str(data_dir)])
        output = capsys.readouterr()
        assert (output.out == "") == (status != 0)
        assert output.err.startswith("error: ") or status == 0
        assert len(output.err.splitlines()) <= 10
        return status, output.out + output.err

    return fetch_


def load(name: str, data_dir: Path):
    return (load_multitask if name == "tox21" else load_images)(name, data_dir)


def listing(folder: Path) -> list[tuple[str, int, int]]:
    return sorted(
        (str(path.relative_to(folder)), path.lstat().st_size, path.lstat().st_mtime_ns)
        for path in folder.rglob("*")
    )


def contents(folder: Path) -> dict[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


# --- every data set -------------------------------------------------------------------------------


def test_complete_files_at_the_right_place(published, fetch, tmp_path):
    data_dir = tmp_path / "new" / "data"
    status, text = fetch(published.name)
    assert status == 0
    number = len(published.files)
    assert f"{number} file{'s' * (number > 1)} downloaded" in text
    assert contents(data_dir) == published.files
    load(published.name, data_dir)
    before = listing(tmp_path)
    assert "already there" in fetch(published.name)[1]
    assert listing(tmp_path) == before


def test_damaged_file_alone_is_downloaded_again(published, fetch, server, tmp_path):
    data_dir = write(published.files, tmp_path / "new" / "data")
    for path in published.files:
        (data_dir / path).write_bytes(b"damaged")
        before = listing(data_dir)
        assert "1 file downloaded" in fetch(published.name)[1]
        changed = {name for name, _, _ in set(listing(data_dir)) - set(before)}
        assert changed <= {path, str(Path(path).parent)}
    assert contents(data_dir) == published.files


def test_content_that_is_not_the_right_one_is_refused(published, fetch, server, tmp_path):
    for name, content in published.web.items():
        for wrong in (content[:-7], content[:-20] + b"!" + content[-19:], b"<html>log in</html>"):
            server.contents[name] = wrong
            status, text = fetch(published.name)
            assert status == 1
            assert name in text
        server.contents[name] = content
        server.cut.add(name)
        assert fetch(published.name)[0] == 1
        server.cut.clear()
        del server.contents[name]
        assert "404" in fetch(published.name)[1]
        server.contents[name] = content
    assert fetch(published.name)[0] == 0
    assert contents(tmp_path / "new" / "data") == published.files


def test_without_network(published, fetch, tmp_path):
    published.point(CLOSED_PORT)
    status, text = fetch(published.name)
    assert status == 1
    assert CLOSED_PORT in text
    assert "refused" in text
    assert "CONVEXINIT_DATA" in text
    assert listing(tmp_path) == []


@pytest.mark.parametrize("published", ["cifar10", "cifar100", "tox21"], indirect=True)
def test_another_form_of_the_data_needs_no_download(published, fetch, tmp_path):
    data_dir = write(published.unpacked, tmp_path / "new" / "data")
    assert "already there" in fetch(published.name)[1]
    # Once it is damaged, the form that is offered is fetched, and read from then on.
    (data_dir / next(iter(published.unpacked))).write_bytes(b"damaged")
    assert "1 file downloaded" in fetch(published.name)[1]
    load(published.name, data_dir)


# --- one file -------------------------------------------------------------------------------------

CONTENT = os.urandom(300_000)
FILE = DataFile("Small/raw/values", len(CONTENT), hashlib.sha256(CONTENT).hexdigest())


def test_the_next_source_takes_over(script, server, tmp_path):
    server.contents |= {"values.gz": gzip.compress(CONTENT, 1), "page.gz": b"<html>log in</html>"}
    server.contents["cut.gz"] = server.contents["values.gz"]
    server.cut.add("cut.gz")
    urls = [CLOSED_PORT, *(f"{server.url}{name}.gz" for name in ("cut", "page", "absent"))]
    with pytest.raises(script.DownloadError) as caught:
        script.download(Download.of(FILE, urls, gunzip), tmp_path)
    _, *faults = str(caught.value).splitlines()
    expected = ("refused", "end-of-stream", "Not a gzipped file", "404")
    for fault, url, words in zip(faults, urls, expected, strict=True):
        assert f"{url}: " in fault
        assert words in fault
    assert listing(tmp_path) == []

    urls += [f"{server.url}values.gz", CLOSED_PORT]
    script.download(Download.of(FILE, urls, gunzip), tmp_path)
    assert contents(tmp_path) == {FILE.path: CONTENT}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (CONTENT[:-1] + bytes([CONTENT[-1] ^ 1]), "damaged: its sha256"),
        (CONTENT[:-1], "truncated: it has 299,999 bytes, expected 300,000"),
        (CONTENT + bytes(200_000_000), "too long: it has 100,000,000 bytes"),
    ],
)
def test_what_is_wrong_is_said_and_the_old_file_stays(script, server, tmp_path, content, message):
    server.contents["values.gz"] = gzip.compress(content, 1)
    write({FILE.path: b"old"}, tmp_path)
    with pytest.raises(script.DownloadError, match=message):
        script.download(Download.of(FILE, [f"{server.url}values.gz"], gunzip), tmp_path)
    assert contents(tmp_path) == {FILE.path: b"old"}


# --- the training set of Tox21, which has no known digest -----------------------------------------

ETHANOL, SECOND = (sdf_record(name, "\n\n\n  0  0\nM  END\n", {}).encode() for name in "12")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"<html>log in first</html>", "truncated or not an SDF"),
        (zipped(ETHANOL + SECOND, "a.sdf")[:-40], "not a readable ZIP archive"),
        (zipped(ETHANOL + SECOND, "a.sdf", "b.sdf"), "2 SDF files instead of one"),
        (zipped(ETHANOL + SECOND, "a.txt"), "0 SDF files instead of one"),
        (zipped((ETHANOL + SECOND)[:-20], "a.sdf"), "no end of record 2"),
        (zipped(ETHANOL + SECOND, "a.sdf"), "2 distinct samples, expected 11,764"),
        (zipped(b"", "a.sdf"), "no records"),
    ],
)
def test_wrong_training_set_is_refused(server, fetch, tmp_path, monkeypatch, content, message):
    monkeypatch.setattr(tox21, "URL", f"{server.url}download?id=")
    server.contents["tox21_10k_data_allsdf"] = content
    status, text = fetch("tox21")
    assert status == 1
    assert text.startswith(f"error: {Path(tox21.TRAIN_SDF).name} could not be downloaded:")
    assert message in text
    assert listing(tmp_path) == []


def test_weights_of_cddd(server, fetch, tmp_path, monkeypatch):
    monkeypatch.setattr(cddd, "URL", f"{server.url}weights.npz")
    server.contents["weights.npz"] = b"PK another file"
    status, text = fetch("cddd")
    assert status == 1
    assert "expected 0c4bd08a" in text
    assert listing(tmp_path) == []
    monkeypatch.setattr(cddd, "find_weights_fault", lambda path: None)
    assert "already there" in fetch("cddd")[1]


# --- trouble on this side -------------------------------------------------------------------------


def test_place_that_cannot_be_written(fetch, tmp_path):
    (tmp_path / "file").touch()
    status, text = fetch("mnist", tmp_path / "file")
    assert status == 1
    assert f"error: cannot write to {tmp_path}/file" in text
    assert len(text.splitlines()) == 1


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (OSError(28, "No space left on device"), "the disk is full"),
        (KeyboardInterrupt(), "run the same command again to go on"),
    ],
)
def test_full_disk_and_interrupt_leave_nothing(fetch, tmp_path, monkeypatch, error, message):
    def fail(url: str, path: str, **_: object) -> None:
        Path(path).write_bytes(b"half")
        raise error

    monkeypatch.setattr("torch.hub.download_url_to_file", fail)
    status, text = fetch("mnist")
    assert status == 1
    assert text.strip().endswith(message)
    assert listing(tmp_path) == []


def test_unknown_name(script, capsys):
    with pytest.raises(SystemExit) as caught:
        script.main(["mnits"])
    assert caught.value.code == 2
    assert "choose from" in capsys.readouterr().err


def test_the_data_folder_is_that_of_the_environment(script, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("CONVEXINIT_DATA", str(write(small_mnist(monkeypatch).files, tmp_path)))
    assert script.main(["mnist"]) == 0
    assert str(tmp_path) in capsys.readouterr().out


def test_help_as_a_command():
    result = subprocess.run(
        [sys.executable, str(SCRIPT), "--help"], capture_output=True, text=True, check=True
    )
    text = " ".join(result.stdout.split())
    assert "{cifar10,cifar100,mnist,fashion_mnist,tox21,cddd}" in text
    assert "no known digest" in text
    assert "CONVEXINIT_DATA" in text
