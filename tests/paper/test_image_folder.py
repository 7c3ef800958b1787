"""Images in class folders: layouts, formats, the split and the cache."""

import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from convexinit_paper.data import image_folder
from convexinit_paper.data.files import DataError
from convexinit_paper.data.image_folder import decode, load_image_folder
from convexinit_paper.request.options import ConfigError
from convexinit_paper.training import memory
from support.data import write
from support.images import ARCHIVES, pixels, plain_files, png, split_files, stored, write_archive


@pytest.fixture
def load(tmp_path: Path) -> Callable:
    """Load a folder or archive, with a cache of its own."""

    def load_(source: Path, title: str | None = "Pets", size: int | None = None):
        return load_image_folder(source, title, size, tmp_path / "cache")

    return load_


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """A folder of three classes."""
    return write(split_files(), tmp_path / "pets")


def message(load: Callable, source: Path) -> str:
    with pytest.raises(DataError) as caught:
        load(source)
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
    source = stored(kind, split_files(prefix), tmp_path / "pets")
    for _ in range(2):  # decoded, and from the cache
        assert_is_split_files(load(source))


def test_grey_images(tmp_path, load):
    grey = split_files(shape=(5, 4))
    assert_is_split_files(load(write(grey, tmp_path / "grey")), shape=(5, 4))
    # Among coloured ones they become RGB.
    files = split_files() | {"train/ant/0.png": grey["train/ant/0.png"]}
    data = load(write(files, tmp_path / "pets"))
    assert data.train_inputs.shape == (6, 3, 5, 4)
    for channel in range(3):
        np.testing.assert_array_equal(data.train_inputs[0, channel].numpy(), pixels(2, (5, 4)))


def test_title_is_the_name_by_default(pets, load):
    assert load(pets, title=None).title == "pets"


def test_order_in_an_archive_does_not_matter(tmp_path, load):
    files = dict(reversed(split_files().items()))
    assert_is_split_files(load(write_archive(files, tmp_path / "pets.tar")))


def test_images_may_lie_deeper(tmp_path, load):
    files = {name.replace("/0", "/x/0").replace("/1", "/y/z/1"): content
             for name, content in split_files().items()}  # fmt: skip
    assert_is_split_files(load(write(files, tmp_path / "pets")))


def test_what_desktops_leave_behind_is_passed_over(tmp_path, load):
    files = split_files("pets/")
    for name in (
        "pets/.DS_Store", "pets/train/._ant", "pets/train/ant/._0.png", ".cache/x.png",
        "__MACOSX/pets/train/ant/0.png", "pets/train/ant/Thumbs.db", "pets/README.txt",
        "pets/train/labels.csv",
    ):  # fmt: skip
        files[name] = b"no image"
    assert_is_split_files(load(write_archive(files, tmp_path / "pets.tar.gz")))


def test_nothing_is_written_but_the_cache(pets, tmp_path, load):
    before = sorted((path, path.stat().st_mtime_ns) for path in pets.rglob("*"))
    load(pets)
    assert sorted((path, path.stat().st_mtime_ns) for path in pets.rglob("*")) == before
    load(stored("zip", split_files(), tmp_path / "pets"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "pets", "pets.zip"]


# --- split ----------------------------------------------------------------------------------------


def test_images_without_a_split_are_split_80_to_20_by_class(tmp_path, load):
    files = plain_files(30, ("a", "b")) | {
        name.replace("a/", "c/"): png(pixels(1000 + number))
        for number, name in enumerate(plain_files(10, ("a",)))
    }
    data = load(write(files, tmp_path / "pets"))
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
    data = load(write(files, tmp_path / "pets"))
    images = {pixels(100 * place + n).tobytes(): f"{'ab'[place]}{n}"
              for place in range(2) for n in range(10)}  # fmt: skip
    names = [images[image.permute(1, 2, 0).numpy().tobytes()] for image in data.test_inputs]
    assert names == ["a0", "a5", "b4", "b7"]
    archive = write_archive(dict(reversed(files.items())), tmp_path / "pets.tar")
    assert torch.equal(load(archive).test_inputs, data.test_inputs)


@pytest.mark.parametrize(
    "files",
    [plain_files(1, tuple("abcdef")), plain_files(2, tuple("abcdef")) | plain_files(1, "g")],
)
def test_too_few_images_to_split(tmp_path, load, files):
    assert "cannot be split" in message(load, write(files, tmp_path / "pets"))


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
    source = stored(kind, split_files() | change, tmp_path / "pets")
    assert expected in message(load, source)
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("split", ["train", "test"])
def test_one_split_alone(tmp_path, load, split):
    files = {name: content for name, content in split_files().items() if name.startswith(split)}
    assert f"it has {split}." in message(load, write(files, tmp_path / "pets"))


@pytest.mark.parametrize(
    ("files", "found"),
    [
        ({}, "none"),
        (plain_files(9, ("a",)), "a"),
        ({"pets/a/0.png": b"", "pets/a/1.png": b""}, "a"),
    ],
)
@pytest.mark.parametrize("kind", ["folder", "tar", "zip"])
def test_too_few_classes(tmp_path, load, kind, files, found):
    text = message(load, stored(kind, files, tmp_path / "pets"))
    assert f"at least two class folders, and has {found}" in text


@pytest.mark.parametrize("kind", ["folder", "tar", "zip"])
def test_empty_class_folder(pets, load, kind):
    for split in ("train", "test"):
        (pets / split / "dog").mkdir()
    source = pets
    if kind != "folder":
        shutil.make_archive(str(pets), kind, pets)
        source = pets.with_suffix(f".{kind}")
    assert "empty class folders: dog" in message(load, source)


def test_missing_source(tmp_path, load):
    text = message(load, tmp_path / "pets")
    assert str(tmp_path / "pets") in text
    assert "dataset.path=" in text
    assert "data_dir=" in text


# --- sizes and pixel formats ----------------------------------------------------------------------


def test_different_sizes(pets, load):
    large = Image.fromarray(pixels(2)).resize((40, 50), Image.Resampling.NEAREST)
    write({"train/ant/0.png": png(large)}, pets)
    text = message(load, pets)
    assert "dataset.size=" in text
    assert "50 x 40" in text
    assert "5 x 4" in text

    data = load(pets, size=8)
    assert data.train_inputs.shape == (6, 3, 8, 8)
    # Against an average over areas, which is what smoothing comes to for ten times as many pixels.
    mean = data.train_inputs[0].float().mean((1, 2))
    np.testing.assert_allclose(mean, np.asarray(large).mean((0, 1)), atol=4)
    assert load(pets, size=4).train_inputs.shape == (6, 3, 4, 4)


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
        *((Image.fromarray(pixels(0, (5, 4))).convert(mode), {}) for mode in ("L", "1", "LA")),
    ],
)
def test_pixel_formats(image, options):
    actual = decode(png(image, **options), None)
    assert actual.dtype == np.uint8
    assert actual.max() > 200
    colours = "L" if image.mode in ("L", "1", "LA") else "RGB"
    np.testing.assert_array_equal(actual, np.asarray(image.convert(colours)))


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


# What is done to an array [height, width] to look at it, by the orientation that a camera noted.
UPRIGHT = {
    1: lambda image: image,
    2: np.fliplr,
    3: lambda image: np.rot90(image, 2),
    4: np.flipud,
    5: lambda image: image.swapaxes(0, 1),
    6: lambda image: np.rot90(image, -1),  # the camera was turned to the left: clockwise back
    7: lambda image: np.rot90(image, 2).swapaxes(0, 1),
    8: np.rot90,
}


def with_orientation(image: Image.Image, orientation: int, kind: str, **options) -> bytes:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return png(image, kind, exif=exif, **options)


SHARP = {"quality": 100, "subsampling": 0}


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize(
    ("kind", "options", "modes"),
    [
        ("JPEG", SHARP, ("RGB", "L")),
        ("MPO", SHARP, ("RGB", "L")),
        ("PNG", {}, ("RGB", "L", "P", "RGBA")),
        ("TIFF", {}, ("RGB", "L", "P", "RGBA")),
        ("WEBP", {"lossless": True}, ("RGB", "RGBA")),
    ],
)
def test_images_are_turned_upright(orientation, kind, options, modes):
    # Large even blocks, which JPEG keeps.
    blocks = np.kron(np.arange(6).reshape(3, 2) * 40, np.ones((16, 16))).astype(np.uint8)
    expected = UPRIGHT[orientation](blocks)
    for mode in modes:
        image = Image.fromarray(blocks).convert(mode)
        actual = decode(with_orientation(image, orientation, kind, **options), None)
        assert actual.shape[:2] == expected.shape
        assert np.abs(np.atleast_3d(actual).astype(int) - expected[..., None]).max() <= 3


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_orientations_that_do_not_exist_are_passed_over(orientation):
    content = with_orientation(Image.fromarray(pixels(0)), orientation, "PNG")
    np.testing.assert_array_equal(decode(content, None), pixels(0))


def test_notes_that_cannot_be_read_do_not_spoil_the_image():
    for exif in (b"Exif\0\0nonsense", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff", b"Exif\0\0"):
        content = png(Image.fromarray(pixels(0)), exif=exif)
        np.testing.assert_array_equal(decode(content, None), pixels(0))


def test_sizes_are_compared_once_images_are_upright(tmp_path, load):
    lying = Image.fromarray(np.rot90(pixels(2)).copy())
    files = split_files() | {"train/ant/0.png": with_orientation(lying, 6, "PNG")}
    assert_is_split_files(load(write(files, tmp_path / "pets")))
    files |= {"train/ant/0.png": with_orientation(Image.fromarray(pixels(2)), 6, "PNG")}
    assert "4 x 5" in message(load, write(files, tmp_path / "lying"))


def test_images_without_notes_are_what_they_were_before():
    jpeg = png(Image.fromarray(pixels(0, (32, 32, 3))), "JPEG")
    expected = np.asarray(Image.open(io.BytesIO(jpeg)))
    np.testing.assert_array_equal(decode(jpeg, None), expected)


def test_large_file_is_not_read(tmp_path, load, monkeypatch):
    monkeypatch.setattr(image_folder, "MAX_FILE_BYTES", 1000)
    files = split_files() | {"train/ant/2.png": b"\0" * 1001}
    text = message(load, write_archive(files, tmp_path / "pets.zip"))
    assert "more than 1,000 bytes" in text


@pytest.mark.parametrize(
    ("count", "size", "expected"),
    [
        (0, 50_000, "50,000 x 50,000 pixels take"),  # one of them alone is too large
        (1, 20, "20 x 20 pixels take"),
        (1, None, "5 x 4 pixels take"),
    ],
)
def test_images_that_do_not_fit_into_memory_are_not_decoded(
    pets, load, decoded, monkeypatch, count, size, expected
):
    height, width = (size, size) if size else (5, 4)
    monkeypatch.setattr(memory, "available_bytes", lambda device: 9 * 5 * 3 * height * width - 1)
    if count == 0:
        monkeypatch.setattr(memory, "available_bytes", lambda device: 16 * 10**9)
    with pytest.raises(ConfigError, match=rf"9 images of {expected} .* dataset\.size") as caught:
        load(pets, size=size)
    assert str(pets) in str(caught.value)
    assert len(decoded) == count


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
    source = stored(kind, split_files(), tmp_path / "pets")
    load(source)
    assert len(decoded) == 9
    load(source, title="Other title")
    assert len(decoded) == 9
    load(source, size=4)
    assert len(decoded) == 18
    assert len(list((tmp_path / "cache").iterdir())) == 2


def test_changed_images_are_decoded_again(pets, load, decoded):
    load(pets)
    path = pets / "train" / "ant" / "0.png"
    old = path.stat()
    path.write_bytes(png(pixels(77)))
    os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns + 1))
    data = load(pets)
    assert len(decoded) == 18
    np.testing.assert_array_equal(data.train_inputs[0].permute(1, 2, 0).numpy(), pixels(77))
    # What a disk says of a file is no proof of what is in it.
    path.write_bytes(png(pixels(78)))
    os.utime(path, ns=(old.st_atime_ns, old.st_mtime_ns + 1))
    data = load(pets)
    np.testing.assert_array_equal(data.train_inputs[0].permute(1, 2, 0).numpy(), pixels(78))
    (pets / "train" / "ant" / "1.png").unlink()
    assert len(load(pets).train_labels) == 5
    (pets / "train" / "dog").mkdir()
    assert "empty class folders: dog" in message(load, pets)


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


def test_damaged_cache_is_replaced(pets, tmp_path, load, decoded):
    load(pets)
    (file,) = (tmp_path / "cache").iterdir()
    content = bytearray(file.read_bytes())
    for damaged in (content[:-40], content[:400] + b"\xff" + content[401:], b""):
        file.write_bytes(damaged)
        with pytest.warns(UserWarning, match="cached images in .* cannot be used"):
            assert_is_split_files(load(pets))
    np.savez(file, train_inputs=np.zeros(3))
    with pytest.warns(UserWarning, match="cannot be used"):
        assert_is_split_files(load(pets))
    assert_is_split_files(load(pets))
    assert len(decoded) == 9 * 5


def test_cache_that_cannot_be_written(pets, tmp_path):
    (tmp_path / "file").touch()
    with pytest.warns(UserWarning, match="images cannot be cached"):
        data = load_image_folder(pets, "Pets", None, tmp_path / "file" / "cache")
    assert_is_split_files(data)
