"""Folders and archives of images: layouts, hostile and damaged ones, and the cache."""

import io
import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path, PurePosixPath

import numpy as np
import pytest
import torch
from PIL import Image

from convexinit_paper.data import image_folder
from convexinit_paper.data.archives import list_files, read_files
from convexinit_paper.data.files import DataError
from convexinit_paper.data.image_folder import arrange, decode, load_image_folder
from support.data import JPEG_COPY, needs_jpeg_copy, real_data_dir

ARCHIVES = ("tar", "tar.gz", "tar.xz", "zip")
Files = dict[str, bytes]


def pixels(seed: int, shape: tuple[int, ...] = (5, 4, 3)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def png(image: np.ndarray | Image.Image, kind: str = "PNG", **options) -> bytes:
    """An image file without loss."""
    stream = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(stream, kind, **options)
    return stream.getvalue()


def split_files(prefix: str = "", shape: tuple[int, ...] = (5, 4, 3)) -> Files:
    """Three classes, two training images and one test image each."""
    return {
        f"{prefix}{split}/{name}/{number}.png": png(pixels(seed, shape))
        for seed, (split, name, number) in enumerate(
            [(split, name, number) for split, numbers in (("train", "01"), ("test", "0"))
             for name in ("bee", "ant", "cat") for number in numbers]
        )
    }  # fmt: skip


def plain_files(per_class: int = 10, names: tuple[str, ...] = ("a", "b")) -> Files:
    return {
        f"{name}/{number:03}.png": png(pixels(100 * place + number))
        for place, name in enumerate(names)
        for number in range(per_class)
    }


def write_folder(files: Files, folder: Path) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


def write_archive(files: Files, path: Path) -> Path:
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
        return path
    kind = path.suffix[1:].replace("tar", "")
    with tarfile.open(path, f"w:{kind}") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


@pytest.fixture
def load(tmp_path: Path) -> Callable:
    """Load a folder or archive, with a cache of its own."""

    def load_(source: Path, title: str | None = "Pets", size: int | None = None):
        return load_image_folder(source, title, size, tmp_path / "cache")

    return load_


def message(load: Callable, source: Path, **options) -> str:
    with pytest.raises(DataError) as caught:
        load(source, **options)
    assert len(str(caught.value).splitlines()) <= 10
    assert source.name in str(caught.value)
    return str(caught.value)


# --- layouts --------------------------------------------------------------------------------------


def assert_is_split_files(data, shape=(5, 4, 3)) -> None:
    seeds = {"bee": (0, 1, 6), "ant": (2, 3, 7), "cat": (4, 5, 8)}
    order = ("ant", "bee", "cat")  # sorted
    train = [pixels(seed, shape) for name in order for seed in seeds[name][:2]]
    test = [pixels(seeds[name][2], shape) for name in order]
    for inputs, expected in ((data.train_inputs, train), (data.test_inputs, test)):
        assert inputs.dtype == torch.uint8
        assert inputs.is_contiguous()
        theirs = np.stack(expected).reshape(len(expected), 5, 4, -1).transpose(0, 3, 1, 2)
        np.testing.assert_array_equal(inputs.numpy(), theirs)
    assert data.train_labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert data.test_labels.tolist() == [0, 1, 2]
    assert data.train_labels.dtype == data.test_labels.dtype == torch.int64
    assert (data.num_classes, data.title) == (3, "Pets")


@pytest.mark.parametrize("prefix", ["", "pets/", "./", "a/b/"])
@pytest.mark.parametrize("kind", ["folder", *ARCHIVES])
def test_training_and_test_images(tmp_path, load, kind, prefix):
    files = split_files(prefix)
    if kind == "folder":
        source = write_folder(files, tmp_path / "pets")
    else:
        source = write_archive(files, tmp_path / f"pets.{kind}")
    for _ in range(2):  # decoded, and from the cache
        assert_is_split_files(load(source))


def test_grey_images(tmp_path, load):
    source = write_folder(split_files(shape=(5, 4)), tmp_path / "pets")
    assert_is_split_files(load(source), shape=(5, 4))


def test_grey_images_among_coloured_ones_become_rgb(tmp_path, load):
    files = split_files()
    files["train/ant/0.png"] = png(pixels(2, (5, 4)))
    data = load(write_folder(files, tmp_path / "pets"))
    assert data.train_inputs.shape == (6, 3, 5, 4)
    for channel in range(3):
        np.testing.assert_array_equal(data.train_inputs[0, channel].numpy(), pixels(2, (5, 4)))


def test_title_is_the_name_by_default(tmp_path, load):
    assert load(write_folder(split_files(), tmp_path / "pets"), title=None).title == "pets"


def test_order_in_an_archive_does_not_matter(tmp_path, load):
    files = split_files()
    source = write_archive(dict(reversed(files.items())), tmp_path / "pets.tar")
    assert_is_split_files(load(source))


def test_images_may_lie_deeper(tmp_path, load):
    files = {name.replace("/0", "/x/0").replace("/1", "/y/z/1"): content
             for name, content in split_files().items()}  # fmt: skip
    assert_is_split_files(load(write_folder(files, tmp_path / "pets")))


def test_what_desktops_leave_behind_is_passed_over(tmp_path, load):
    files = split_files("pets/")
    for name in (
        "pets/.DS_Store", "pets/train/._ant", "pets/train/ant/._0.png", ".cache/x.png",
        "__MACOSX/pets/train/ant/0.png", "pets/train/ant/Thumbs.db", "pets/README.txt",
        "pets/train/labels.csv",
    ):  # fmt: skip
        files[name] = b"no image"
    assert_is_split_files(load(write_archive(files, tmp_path / "pets.tar.gz")))


def test_links_in_a_folder_are_followed(tmp_path, load):
    target = write_folder(split_files(), tmp_path / "elsewhere")
    source = tmp_path / "pets"
    source.mkdir()
    (source / "train").symlink_to(target / "train")
    write_folder({k: v for k, v in split_files().items() if k.startswith("test")}, source)
    (source / "test" / "ant" / "0.png").unlink()
    (source / "test" / "ant" / "0.png").symlink_to(target / "test" / "ant" / "0.png")
    assert_is_split_files(load(source))
    (source / "train" / "ant" / "again").symlink_to(target / "train")
    assert "is a link to a folder" in message(load, source)


def test_nothing_is_written_but_the_cache(tmp_path, load):
    source = write_folder(split_files(), tmp_path / "pets")
    before = sorted((path, path.stat().st_mtime_ns) for path in source.rglob("*"))
    load(source)
    assert sorted((path, path.stat().st_mtime_ns) for path in source.rglob("*")) == before
    archive = write_archive(split_files(), tmp_path / "pets.zip")
    load(archive)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "pets", "pets.zip"]


# --- split ----------------------------------------------------------------------------------------


def test_images_without_a_split_are_split_80_to_20_by_class(tmp_path, load):
    files = plain_files(30, ("a", "b")) | {
        name.replace("a/", "c/"): png(pixels(1000 + number))
        for number, name in enumerate(plain_files(10, ("a",)))
    }
    data = load(write_folder(files, tmp_path / "pets"))
    assert data.train_labels.bincount().tolist() == [24, 24, 8]
    assert data.test_labels.bincount().tolist() == [6, 6, 2]
    # Disjoint and complete, each with its own label.
    rows = {
        (np.asarray(image).tobytes(), label)
        for inputs, labels in (
            (data.train_inputs, data.train_labels),
            (data.test_inputs, data.test_labels),
        )
        for image, label in zip(inputs.permute(0, 2, 3, 1).numpy(), labels.tolist(), strict=True)
    }
    expected = {
        (np.asarray(Image.open(io.BytesIO(content))).tobytes(), "abc".index(name[0]))
        for name, content in files.items()
    }
    assert rows == expected


def test_the_split_is_always_the_same(tmp_path, load):
    """Results rest on it: the test images must not change with a version of scikit-learn."""
    files = plain_files()
    data = load(write_folder(files, tmp_path / "pets"))
    images = {pixels(100 * place + n).tobytes(): f"{'ab'[place]}{n}"
              for place in range(2) for n in range(10)}  # fmt: skip
    names = [images[image.permute(1, 2, 0).numpy().tobytes()] for image in data.test_inputs]
    assert names == ["a0", "a5", "b4", "b7"]
    archive = write_archive(dict(reversed(files.items())), tmp_path / "pets.tar")
    assert torch.equal(load(archive).test_inputs, data.test_inputs)


@pytest.mark.parametrize("per_class", [1, 2])
def test_too_few_images_to_split(tmp_path, load, per_class):
    source = write_folder(plain_files(per_class, tuple("abcdef")), tmp_path / "pets")
    if per_class == 1:
        assert "cannot be split" in message(load, source)
    else:
        source = write_folder({"g/0.png": png(pixels(1))}, source)
        assert "cannot be split" in message(load, source)


# --- bad layouts ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"train/dog/0.png": b""}, "only in train: dog"),
        ({"test/dog/0.png": b""}, "only in test: dog"),
        ({"validation/ant/0.png": b""}, "it has test, train, validation"),
        ({"ant.png": b""}, "images outside of class folders: ant.png"),
        ({"train/ant.JPEG": b""}, "images outside of class folders: train/ant.JPEG"),
        ({"train/ant/labels.csv": b"0,ant"}, "file:  train/ant/labels.csv"),
        ({"train/ant/2.png": b""}, "file:  train/ant/2.png"),
        ({"train/ant/2.png": png(pixels(0))[:-30]}, "damaged or cannot be decoded"),
        ({"train/ant/2.eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n"}, "no image"),
    ],
)
@pytest.mark.parametrize("kind", ["folder", "tar.gz"])
def test_bad_layout(tmp_path, load, kind, change, expected):
    files = split_files() | change
    if kind == "folder":
        source = write_folder(files, tmp_path / "pets")
    else:
        source = write_archive(files, tmp_path / f"pets.{kind}")
    assert expected in message(load, source)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("split", ["train", "test"])
def test_one_split_alone(tmp_path, load, split):
    files = {name: content for name, content in split_files().items() if name.startswith(split)}
    text = message(load, write_folder(files, tmp_path / "pets"))
    assert f"it has {split}." in text


@pytest.mark.parametrize("prefix", ["", "pets/"])
def test_one_class_alone(tmp_path, load, prefix):
    files = {f"{prefix}{name}": content for name, content in plain_files(9, ("a",)).items()}
    text = message(load, write_folder(files, tmp_path / "x"))
    assert "at least two class folders" in text


@pytest.mark.parametrize("kind", ["folder", "tar", "zip"])
def test_empty_class_folder(tmp_path, load, kind):
    source = write_folder(split_files(), tmp_path / "pets")
    (source / "test" / "dog").mkdir()
    (source / "train" / "dog").mkdir()
    if kind == "tar":
        with tarfile.open(tmp_path / "pets.tar", "w") as archive:
            archive.add(source, "pets")
        source = tmp_path / "pets.tar"
    elif kind == "zip":
        (tmp_path / "pets.zip").touch()
        with zipfile.ZipFile(tmp_path / "pets.zip", "w") as archive:
            for path in sorted(source.rglob("*")):
                archive.write(path, path.relative_to(source))
        source = tmp_path / "pets.zip"
    assert "empty class folders: dog" in message(load, source)


@pytest.mark.parametrize("kind", ["folder", "tar", "zip"])
def test_nothing_at_all(tmp_path, load, kind):
    source = tmp_path / f"pets.{kind}"
    if kind == "folder":
        source.mkdir()
    else:
        write_archive({}, source)
    assert "at least two class folders, and has none" in message(load, source)


def test_missing_source(tmp_path, load):
    text = message(load, tmp_path / "pets")
    assert str(tmp_path / "pets") in text
    assert "dataset.path=" in text
    assert "data_dir=" in text


def test_file_that_is_no_archive(tmp_path, load):
    source = tmp_path / "pets.tar.gz"
    for content in (b"", b"text", png(pixels(0))):
        source.write_bytes(content)
        assert "neither a folder nor a readable archive" in message(load, source)


# --- sizes and pixel formats ----------------------------------------------------------------------


def test_different_sizes(tmp_path, load):
    files = split_files()
    large = Image.fromarray(pixels(2)).resize((40, 50), Image.Resampling.NEAREST)
    files["train/ant/0.png"] = png(large)
    source = write_folder(files, tmp_path / "pets")
    text = message(load, source)
    assert "dataset.size=" in text
    assert "50 x 40" in text
    assert "5 x 4" in text

    data = load(source, size=8)
    assert data.train_inputs.shape == (6, 3, 8, 8)
    # Against an average over areas, which is what smoothing comes to for ten times as many pixels.
    mean = data.train_inputs[0].float().mean((1, 2))
    np.testing.assert_allclose(mean, np.asarray(large).mean((0, 1)), atol=4)
    assert load(source, size=4).train_inputs.shape == (6, 3, 4, 4)


@pytest.mark.parametrize(
    ("image", "options"),
    [
        (Image.fromarray(pixels(0)), {"kind": "BMP"}),
        (Image.fromarray(pixels(0)), {"kind": "TIFF"}),
        (Image.fromarray(pixels(0)), {"kind": "PPM"}),
        (Image.fromarray(pixels(0)), {"kind": "WEBP", "lossless": True}),
        (Image.fromarray(pixels(0)).quantize(20), {}),
        (Image.fromarray(pixels(0)).convert("RGBA"), {}),
        (Image.fromarray(pixels(0)).convert("CMYK"), {"kind": "TIFF"}),
    ],
)
def test_colour_formats(image, options):
    actual = decode(png(image, **options), None)
    assert actual.dtype == np.uint8
    np.testing.assert_array_equal(actual, np.asarray(image.convert("RGB")))


@pytest.mark.parametrize("mode", ["L", "1", "LA"])
def test_grey_formats(mode):
    image = Image.fromarray(pixels(0, (5, 4))).convert(mode)
    actual = decode(png(image), None)
    np.testing.assert_array_equal(actual, np.asarray(image.convert("L")))
    assert actual.max() > 200


def test_jpeg_is_close():
    smooth = np.add.outer(np.arange(32), np.arange(32))[..., None] * np.array([1, 2, 3])
    actual = decode(png(smooth.astype(np.uint8), "JPEG", quality=95), None)
    assert np.abs(actual.astype(int) - smooth.astype(np.uint8)).mean() < 3


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.fromarray(pixels(0, (5, 4, 4)), "RGBA"), "transparent pixels"),
        (Image.fromarray(pixels(0, (5, 4, 2)), "LA"), "transparent pixels"),
        (Image.fromarray(pixels(0, (5, 4)).astype(np.uint16) * 257), "I;16"),
        (Image.fromarray(pixels(0, (5, 4)).astype(np.float32)), "format F"),
    ],
)
def test_pixel_formats_that_are_refused(image, expected):
    content = png(image, "TIFF" if image.mode == "F" else "PNG")
    with pytest.raises(ValueError, match=expected):
        decode(content, None)


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "PNG", "WEBP"])
def test_images_of_several_frames_are_refused(kind):
    first, *others = (Image.fromarray(pixels(seed)) for seed in range(3))
    several = png(first, kind, save_all=True, append_images=others)
    with pytest.raises(ValueError, match="3 frames or pages"):
        decode(several, None)
    alone = png(first, kind, save_all=True)
    assert decode(alone, None).shape == (5, 4, 3)


def test_photos_with_a_preview_are_read():
    first, preview = (Image.fromarray(np.full((5, 4, 3), value, np.uint8)) for value in (200, 20))
    content = png(first, "MPO", save_all=True, append_images=[preview])
    assert decode(content, None).min() > 190


def test_large_file_is_not_read(tmp_path, load, monkeypatch):
    monkeypatch.setattr(image_folder, "MAX_FILE_BYTES", 1000)
    files = split_files() | {"train/ant/2.png": b"\0" * 1001}
    text = message(load, write_archive(files, tmp_path / "pets.zip"))
    assert "more than 1,000 bytes" in text


# --- hostile and damaged archives -----------------------------------------------------------------


@pytest.mark.parametrize("name", ["/tmp/x.png", "../x.png", "train/../../x.png"])
@pytest.mark.parametrize("kind", ARCHIVES)
def test_members_outside_of_the_folder(tmp_path, load, kind, name):
    source = write_archive(split_files() | {name: png(pixels(0))}, tmp_path / f"pets.{kind}")
    assert f"is refused: {name} lies outside" in message(load, source)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (tarfile.SYMTYPE, "a link"),
        (tarfile.LNKTYPE, "a link"),
        (tarfile.CHRTYPE, "neither file nor folder"),
        (tarfile.FIFOTYPE, "neither file nor folder"),
    ],
)
def test_links_and_devices_in_tar_archives(tmp_path, load, kind, expected):
    source = write_archive(split_files(), tmp_path / "pets.tar")
    with tarfile.open(source, "a") as archive:
        member = tarfile.TarInfo("train/ant/2.png")
        member.type = kind
        member.linkname = "train/ant/1.png"
        archive.addfile(member)
    assert f"is refused: train/ant/2.png is {expected}" in message(load, source)


def test_links_in_zip_archives(tmp_path, load):
    source = write_archive(split_files(), tmp_path / "pets.zip")
    with zipfile.ZipFile(source, "a") as archive:
        member = zipfile.ZipInfo("train/ant/2.png")
        member.external_attr = 0o120777 << 16
        archive.writestr(member, "/etc/passwd")
    assert "is refused: train/ant/2.png is a link" in message(load, source)


@pytest.mark.parametrize("kind", ["tar", "zip"])
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_member_that_is_there_twice(tmp_path, load, kind):
    source = write_archive(split_files(), tmp_path / f"pets.{kind}")
    if kind == "tar":
        with tarfile.open(source, "a") as archive:
            archive.addfile(tarfile.TarInfo("./train/ant/0.png"))
    else:
        with zipfile.ZipFile(source, "a") as archive:
            archive.writestr("train/ant/0.png", b"")
    assert "holds train/ant/0.png twice" in message(load, source)


@pytest.mark.parametrize("kind", ARCHIVES)
def test_truncated_archive(tmp_path, load, kind):
    source = write_archive(split_files(), tmp_path / f"pets.{kind}")
    content = source.read_bytes()
    end = len(content.rstrip(b"\0"))  # a tar archive ends in zeros
    for length in (end // 3, end // 2, end - 20):
        source.write_bytes(content[:length])
        text = message(load, source)
        assert "damaged" in text or "neither a folder nor a readable archive" in text


@pytest.mark.parametrize("kind", ["tar.gz", "tar.xz", "zip"])
def test_one_damaged_byte_anywhere(tmp_path, load, kind):
    """Compressed archives have checksums: whatever is damaged, nothing else is ever read."""
    source = write_archive(split_files(), tmp_path / f"pets.{kind}")
    content = source.read_bytes()
    for place in range(40, len(content), len(content) // 25):
        damaged = bytearray(content)
        damaged[place] ^= 0x10
        source.write_bytes(damaged)
        with suppress(DataError):
            assert_is_split_files(load(source))  # bytes that do not matter, such as times


def test_damaged_header_inside_a_tar_archive(tmp_path, load):
    """The standard library takes it for the end of the archive."""
    source = write_archive(split_files(), tmp_path / "pets.tar")
    content = bytearray(source.read_bytes())
    with tarfile.open(source) as archive:
        fourth = archive.getmembers()[3].offset
    content[fourth + 148] ^= 1  # its checksum
    source.write_bytes(content)
    with tarfile.open(source) as archive:
        assert len(archive.getmembers()) == 3
    assert f"its entry at byte {fourth:,} is not readable" in message(load, source)


def test_encrypted_zip_archive(tmp_path, load):
    source = write_archive(split_files(), tmp_path / "pets.zip")
    content = bytearray(source.read_bytes())
    for signature, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        place = -1
        while (place := content.find(signature, place + 1)) >= 0:
            content[place + offset] |= 1
    source.write_bytes(content)
    assert "encrypted" in message(load, source)


def test_unreadable_folder(tmp_path, load, monkeypatch):
    source = write_folder(split_files(), tmp_path / "pets")

    def refuse(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    text = message(load, source)
    assert "test/ant/0.png cannot be read: Permission denied" in text


# --- cache ----------------------------------------------------------------------------------------


@pytest.fixture
def decoded(monkeypatch) -> list[int]:
    """One entry for every image that is decoded."""
    calls: list[int] = []

    def count(content: bytes, size: int | None) -> np.ndarray:
        calls.append(len(content))
        return decode(content, size)

    monkeypatch.setattr(image_folder, "decode", count)
    return calls


@pytest.mark.parametrize("kind", ["folder", "tar.gz"])
def test_second_time_nothing_is_decoded(tmp_path, load, decoded, kind):
    if kind == "folder":
        source = write_folder(split_files(), tmp_path / "pets")
    else:
        source = write_archive(split_files(), tmp_path / f"pets.{kind}")
    load(source)
    assert len(decoded) == 9
    load(source, title="Other title")
    assert len(decoded) == 9
    load(source, size=4)
    assert len(decoded) == 18
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_changed_images_are_decoded_again(tmp_path, load, decoded):
    source = write_folder(split_files(), tmp_path / "pets")
    load(source)
    path = source / "train" / "ant" / "0.png"
    old = path.stat()
    path.write_bytes(png(pixels(77)))
    os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns + 1))
    data = load(source)
    assert len(decoded) == 18
    np.testing.assert_array_equal(data.train_inputs[0].permute(1, 2, 0).numpy(), pixels(77))
    (source / "train" / "ant" / "1.png").unlink()
    assert len(load(source).train_labels) == 5
    (source / "train" / "dog").mkdir()
    assert "only in train: dog" in message(load, source) or "empty" in message(load, source)


def test_archive_is_known_by_its_content(tmp_path, load, decoded):
    source = write_archive(split_files(), tmp_path / "pets.tar")
    load(source)
    moved = source.rename(tmp_path / "moved.tar")
    os.utime(moved)
    load(moved)
    assert len(decoded) == 9
    other = split_files() | {"train/ant/0.png": png(pixels(77))}
    load(write_archive(other, moved))
    assert len(decoded) == 18


def test_damaged_cache_is_replaced(tmp_path, load, decoded):
    source = write_folder(split_files(), tmp_path / "pets")
    load(source)
    (file,) = (tmp_path / "cache").iterdir()
    content = bytearray(file.read_bytes())
    for damaged in (content[:-40], content[:400] + b"\xff" + content[401:], b""):
        file.write_bytes(damaged)
        with pytest.warns(UserWarning, match="cached images in .* cannot be used"):
            assert_is_split_files(load(source))
    np.savez(file, train_inputs=np.zeros(3))
    with pytest.warns(UserWarning, match="cannot be used"):
        assert_is_split_files(load(source))
    assert_is_split_files(load(source))
    assert len(decoded) == 9 * 5


def test_cache_that_cannot_be_written(tmp_path):
    source = write_folder(split_files(), tmp_path / "pets")
    (tmp_path / "file").touch()
    with pytest.warns(UserWarning, match="images cannot be cached"):
        data = load_image_folder(source, "Pets", None, tmp_path / "file" / "cache")
    assert_is_split_files(data)


def test_two_processes_at_once(tmp_path):
    source = write_archive(plain_files(60), tmp_path / "pets.tar.gz")
    code = (
        "import sys; from convexinit_paper.data.image_folder import load_image_folder as load\n"
        "print(int(load(sys.argv[1], None, None, sys.argv[2]).train_inputs.long().sum()))"
    )
    arguments = [sys.executable, "-W", "error", "-c", code, str(source), str(tmp_path / "cache")]
    both = [subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    sums = {process.communicate(timeout=120)[0] for process in both}
    assert [process.returncode for process in both] == [0, 0]
    (file,) = (tmp_path / "cache").iterdir()
    with np.load(file) as arrays:
        assert sums == {f"{arrays['train_inputs'].sum()}\n"}


# --- the JPEG copy of CIFAR-10 --------------------------------------------------------------------


@needs_jpeg_copy
def test_jpeg_copy_of_cifar10(tmp_path, load):
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
    files = {str(path): content for path, content in read_files(source, some)}
    data = load(write_archive(files, tmp_path / "some.tar"))
    assert data.train_inputs.shape == (500, 3, 32, 32)
    assert data.test_inputs.shape == (100, 3, 32, 32)
    # The channel means that are published for CIFAR-10.
    mean = data.train_inputs.double().mean((0, 2, 3)) / 255
    np.testing.assert_allclose(mean, [0.4914, 0.4822, 0.4465], atol=0.03)
