"""The cache of codes."""

import errno
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from convexinit.molecules import load_codec
from convexinit.molecules.codec import check_codes
from convexinit_paper.data.codes import cache_file, encode_cached
from support.codecs import MOLECULES, LetterCodec


@pytest.fixture(autouse=True)
def _warnings_are_errors():
    """A test that expects a warning says so."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_second_time_nothing_is_encoded(tmp_path):
    codec = LetterCodec()
    folder = tmp_path / "a" / "b"
    first = encode_cached(codec, MOLECULES, folder)
    asked = len(codec.batches)
    assert asked == 1
    second = encode_cached(codec, tuple(MOLECULES), str(folder))
    assert len(codec.batches) == asked
    np.testing.assert_array_equal(first, second)
    assert second.dtype == np.float32
    second[0] = 7  # belongs to the caller
    np.testing.assert_array_equal(encode_cached(codec, MOLECULES, folder), first)
    assert [path.name for path in folder.iterdir()] == [cache_file(codec, MOLECULES, folder).name]


def test_other_molecules_or_another_codec_are_encoded(tmp_path):
    for smiles in (
        MOLECULES,
        MOLECULES[::-1],
        MOLECULES[:4],
        [MOLECULES[0] + MOLECULES[1], *MOLECULES[2:]],
        [],
    ):
        codec = LetterCodec()
        np.testing.assert_array_equal(encode_cached(codec, smiles, tmp_path), codec.encode(smiles))
        assert len(codec.batches) == (2 if smiles else 0)
    codec.digest = "letters-2"
    encode_cached(codec, MOLECULES, tmp_path)
    assert len(codec.batches) == 1
    assert len(list(tmp_path.iterdir())) == 6


def test_warning_about_molecules_is_repeated(tmp_path):
    codec = LetterCodec()
    smiles = ["CC", "CCCCO", "CCCSCC", "CC"]
    messages = []
    for _ in range(2):
        with pytest.warns(UserWarning) as caught:  # noqa: PT030
            codes = encode_cached(codec, smiles, tmp_path)
        messages += [str(warning.message) for warning in caught]
        np.testing.assert_array_equal(np.isnan(codes).all(axis=1), [1, 0, 1, 1])
    assert len(codec.batches) == 1
    assert len(messages) == 2
    assert messages[0] == messages[1]
    assert "3 of 4 molecules" in messages[0]


def damage(kind: str, path: Path) -> None:
    content = bytearray(path.read_bytes())
    if kind == "truncated":
        path.write_bytes(content[:-40])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "one bit":
        place = content.index(np.float32(4).tobytes())  # in the codes themselves
        content[place] ^= 1
        path.write_bytes(content)
    elif kind == "other shape":
        np.savez(path, codes=np.zeros((2, 3), np.float32))
    elif kind == "other type":
        np.savez(path, codes=np.zeros((5, 3)))
    elif kind == "other name":
        np.savez(path, vectors=np.zeros((5, 3), np.float32))
    elif kind == "objects":
        np.savez(path, codes=np.array([{}], dtype=object))
    elif kind == "not an archive":
        with path.open("wb") as stream:
            np.save(stream, np.zeros((5, 3), np.float32))
    elif kind == "folder":
        path.unlink()
        path.mkdir()


@pytest.mark.parametrize(
    "kind",
    [
        "truncated",
        "empty",
        "one bit",
        "other shape",
        "other type",
        "other name",
        "objects",
        "not an archive",
    ],
)
def test_damaged_file_is_replaced(tmp_path, kind):
    codec = LetterCodec()
    expected = encode_cached(codec, MOLECULES, tmp_path)
    path = cache_file(codec, MOLECULES, tmp_path)
    damage(kind, path)
    with pytest.warns(UserWarning, match="cannot be used") as caught:
        codes = encode_cached(codec, MOLECULES, tmp_path)
    assert len(caught) == 1
    assert str(path) in str(caught[0].message)
    np.testing.assert_array_equal(codes, expected)
    assert len(codec.batches) == 2
    encode_cached(codec, MOLECULES, tmp_path)
    assert len(codec.batches) == 2


def test_folder_in_place_of_the_file(tmp_path):
    codec = LetterCodec()
    expected = encode_cached(codec, MOLECULES, tmp_path)
    damage("folder", cache_file(codec, MOLECULES, tmp_path))
    with pytest.warns(UserWarning):  # noqa: PT030
        codes = encode_cached(codec, MOLECULES, tmp_path)
    np.testing.assert_array_equal(codes, expected)


def not_cached(folder: Path) -> None:
    codec = LetterCodec()
    with pytest.warns(UserWarning, match="cannot be cached") as caught:
        codes = encode_cached(codec, MOLECULES, folder)
    assert len(caught) == 1
    assert str(folder) in str(caught[0].message)
    np.testing.assert_array_equal(codes, codec.encode(MOLECULES))


def test_cache_below_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    not_cached(tmp_path / "file")
    not_cached(tmp_path / "file" / "folder")


@pytest.mark.skipif(os.geteuid() == 0, reason="the superuser may write everywhere")
def test_read_only_folder(tmp_path):
    tmp_path.chmod(0o500)
    try:
        not_cached(tmp_path)
    finally:
        tmp_path.chmod(0o700)


@pytest.mark.parametrize("step", ["open", "write", "rename"])
def test_disk_that_is_full_or_read_only(tmp_path, monkeypatch, step):
    def fail(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    open_ = Path.open
    if step == "write":
        monkeypatch.setattr(np, "savez", fail)
    elif step == "rename":
        monkeypatch.setattr(Path, "replace", fail)
    else:
        monkeypatch.setattr(
            Path,
            "open",
            lambda path, mode="r", **options: (
                fail() if "x" in mode else open_(path, mode, **options)
            ),
        )
    not_cached(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_interrupt_leaves_nothing_behind(tmp_path, monkeypatch):
    def interrupt(stream, **_):
        stream.write(b"half of it")
        raise KeyboardInterrupt

    monkeypatch.setattr(np, "savez", interrupt)
    with pytest.raises(KeyboardInterrupt):
        encode_cached(LetterCodec(), MOLECULES, tmp_path)
    assert list(tmp_path.iterdir()) == []


WRITER = """
import sys
from pathlib import Path
import numpy as np
from convexinit.molecules import load_codec
from convexinit_paper.data.codes import cache_file, encode_cached

folder, codec, smiles = Path(sys.argv[1]), load_codec("ecfp", dimensions=20000), sys.argv[2:]
expected = codec.encode(smiles)
for _ in range(60):
    assert np.array_equal(encode_cached(codec, smiles, folder), expected)
    cache_file(codec, smiles, folder).unlink(missing_ok=True)
encode_cached(codec, smiles, folder)
"""


@pytest.mark.slow
def test_several_writers_at_once(tmp_path):
    writers = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", WRITER, str(tmp_path), *MOLECULES],
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for writer in writers:
        _, errors = writer.communicate(timeout=120)
        assert writer.returncode == 0, errors
    codec = load_codec("ecfp", dimensions=20000)
    path = cache_file(codec, MOLECULES, tmp_path)
    assert list(tmp_path.iterdir()) == [path]
    np.testing.assert_array_equal(
        encode_cached(codec, MOLECULES, tmp_path), codec.encode(MOLECULES)
    )


def test_cache_takes_a_list(tmp_path):
    with pytest.raises(TypeError, match="list of SMILES"):
        encode_cached(LetterCodec(), "CCCCO", tmp_path)


def test_columns_of_tables_are_encoded_and_tables_are_not(tmp_path):
    table = pd.DataFrame({"smiles": ["CCCCO", "CCOCC"]}, index=[7, 3])
    expected = LetterCodec().encode(["CCCCO", "CCOCC"])
    for kind in (object, "string", "category"):
        column = table["smiles"].astype(kind)
        np.testing.assert_array_equal(LetterCodec().encode(column), expected)
        np.testing.assert_array_equal(encode_cached(LetterCodec(), column, tmp_path), expected)
    for encode in (LetterCodec().encode, lambda x: encode_cached(LetterCodec(), x, tmp_path)):
        with pytest.raises(TypeError, match="expected a list of SMILES, got a DataFrame"):
            encode(table)
    np.testing.assert_array_equal(check_codes(pd.DataFrame(expected), 3), expected)
