"""Folders and archives of files: all that is in them, or an error."""

import os
import tarfile
import zipfile
from contextlib import suppress
from pathlib import Path

import pytest

from convexinit_paper.data.archives import list_files, read_files
from convexinit_paper.data.files import DataError
from support.data import write
from support.images import ARCHIVES, stored

FILES = {f"train/{name}/{number}.png": os.urandom(70) for name in "abc" for number in range(3)}
FIRST, *_, LAST = FILES


def read(source: Path) -> dict[str, bytes]:
    listing = list_files(source)
    contents = {str(path): content for path, content in read_files(source, set(listing.files))}
    assert {str(path): size for path, size in listing.files.items()} == {
        path: len(content) for path, content in contents.items()
    }
    return contents


def message(source: Path) -> str:
    with pytest.raises(DataError) as caught:
        read(source)
    assert len(str(caught.value).splitlines()) == 1
    assert str(source) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", ["folder", *ARCHIVES])
def test_all_files_are_read(tmp_path, kind):
    source = stored(kind, FILES, tmp_path / "source")
    assert read(source) == FILES
    some = {path for path in list_files(source).files if path.name == "1.png"}
    assert {str(path) for path, _ in read_files(source, some)} == {
        f"train/{x}/1.png" for x in "abc"
    }
    assert list(tmp_path.iterdir()) == [source]


def test_links_in_a_folder_are_followed(tmp_path):
    source = write(FILES, tmp_path / "source")
    elsewhere = write({"x/0.png": b"one", "1.png": b"two"}, tmp_path / "elsewhere")
    (source / "folder").symlink_to(elsewhere / "x")
    (source / "file.png").symlink_to(elsewhere / "1.png")
    assert read(source) == FILES | {"folder/0.png": b"one", "file.png": b"two"}
    (source / "train" / "again").symlink_to(source / "train")
    assert "is a link to a folder" in message(source)


def test_names_are_utf_8_whatever_the_locale(tmp_path, monkeypatch):
    monkeypatch.setattr(tarfile.TarFile, "encoding", "latin-1")
    monkeypatch.setattr(tarfile.TarFile, "format", tarfile.GNU_FORMAT)
    files = {"Bär/ü.png": b"one"}
    with tarfile.open(tmp_path / "source.tar", "w", encoding="utf-8") as archive:
        archive.add(write(files, tmp_path / "folder"), ".")
    assert read(tmp_path / "source.tar") == files


# --- hostile archives -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["/tmp/x.png", "../x.png", "train/../../x.png"])
@pytest.mark.parametrize("kind", ARCHIVES)
def test_members_outside_of_the_folder(tmp_path, kind, name):
    source = stored(kind, FILES | {name: b"x"}, tmp_path / "source")
    assert f"is refused: {name} lies outside" in message(source)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (tarfile.SYMTYPE, "a link"),
        (tarfile.LNKTYPE, "a link"),
        (tarfile.CHRTYPE, "neither file nor folder"),
        (tarfile.FIFOTYPE, "neither file nor folder"),
    ],
)
def test_links_and_devices_in_tar_archives(tmp_path, kind, expected):
    source = stored("tar", FILES, tmp_path / "source")
    with tarfile.open(source, "a") as archive:
        member = tarfile.TarInfo("train/a/9.png")
        member.type = kind
        member.linkname = FIRST
        archive.addfile(member)
    assert f"is refused: train/a/9.png is {expected}" in message(source)


def test_links_in_zip_archives(tmp_path):
    source = stored("zip", FILES, tmp_path / "source")
    with zipfile.ZipFile(source, "a") as archive:
        member = zipfile.ZipInfo("train/a/9.png")
        member.external_attr = 0o120777 << 16
        archive.writestr(member, "/etc/passwd")
    assert "is refused: train/a/9.png is a link" in message(source)


@pytest.mark.parametrize("kind", ["tar", "zip"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_member_that_is_there_twice(tmp_path, kind):
    source = stored(kind, FILES, tmp_path / "source")
    if kind == "tar":
        with tarfile.open(source, "a") as archive:
            archive.addfile(tarfile.TarInfo(f"./{FIRST}"))
    else:
        with zipfile.ZipFile(source, "a") as archive:
            archive.writestr(FIRST, b"")
    assert f"holds {FIRST} twice" in message(source)


# --- missing and damaged ones ---------------------------------------------------------------------


def test_nothing_there(tmp_path):
    assert "does not exist" in message(tmp_path / "source")


@pytest.mark.parametrize("content", [b"", b"text", os.urandom(600)])
def test_file_that_is_no_archive(tmp_path, content):
    source = write({"source.tar.gz": content}, tmp_path) / "source.tar.gz"
    assert "neither a folder nor a readable archive" in message(source)


def test_unreadable_folder(tmp_path, monkeypatch):
    source = write(FILES, tmp_path / "source")

    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert ".png cannot be read: Permission denied" in message(source)


@pytest.mark.parametrize("kind", ARCHIVES)
def test_truncated_archive(tmp_path, kind):
    source = stored(kind, FILES, tmp_path / "source")
    content = source.read_bytes()
    end = len(content.rstrip(b"\0"))  # a tar archive ends in zeros
    for length in (end // 3, end // 2, end - 20):
        source.write_bytes(content[:length])
        text = message(source)
        assert "damaged" in text or "neither a folder nor a readable archive" in text


@pytest.mark.parametrize("kind", ["tar.gz", "tar.xz", "zip"])
def test_one_damaged_byte_anywhere(tmp_path, kind):
    """Compressed archives have checksums: whatever is damaged, nothing else is ever read."""
    source = stored(kind, FILES, tmp_path / "source")
    content = source.read_bytes()
    for place in range(40, len(content), len(content) // 60):
        damaged = bytearray(content)
        damaged[place] ^= 0x10
        source.write_bytes(damaged)
        with suppress(DataError):
            assert read(source) == FILES  # bytes that do not matter, such as times


def test_damaged_header_inside_a_tar_archive(tmp_path):
    """The standard library takes it for the end of the archive."""
    source = stored("tar", FILES, tmp_path / "source")
    content = bytearray(source.read_bytes())
    with tarfile.open(source) as archive:
        fourth = archive.getmembers()[3].offset
    content[fourth + 148] ^= 1  # its checksum
    source.write_bytes(content)
    with tarfile.open(source) as archive:
        assert len(archive.getmembers()) == 3
    assert f"its entry at byte {fourth:,} is not readable" in message(source)


def test_encrypted_zip_archive(tmp_path):
    source = stored("zip", FILES, tmp_path / "source")
    content = bytearray(source.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = -1
        while (place := content.find(signature, place + 1)) >= 0:
            content[place + offset] |= 1
    source.write_bytes(content)
    assert "encrypted" in message(source)
    assert message(source).endswith("unpack it and give the folder")
