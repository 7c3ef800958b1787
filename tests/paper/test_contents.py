"""A run is known by what its data is, not by where it lies."""

import os
import shutil
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from convexinit.molecules import load_codec
from convexinit_paper.data import contents, corpus, registry
from convexinit_paper.data.contents import check_contents, with_contents
from convexinit_paper.data.files import DataError, file_digest
from convexinit_paper.data.multitask import MoleculeSet, MultitaskData
from convexinit_paper.experiments import identified, request_of, run_experiment
from convexinit_paper.figures import panels
from convexinit_paper.figures.select import select
from convexinit_paper.repeat import repeat
from convexinit_paper.request.config import ConfigError, composed
from convexinit_paper.store.errors import RunError
from convexinit_paper.store.identity import run_folder
from convexinit_paper.store.runs import read_run
from convexinit_paper.sweeps.grid_search import search, wanted_cells
from convexinit_paper.sweeps.sweep import jobs_of
from support.data import JPEG_COPY, needs_jpeg_copy, real_data_dir, write
from support.images import pixels, plain_files, png, split_files, write_archive
from support.published import small_fashion_mnist, small_tox21, zipped
from support.runs import write as write_run

IMAGES = ("dataset=image_folder", "dataset.path=pets", "seeds=1", "trainer.epochs=1")
OTHER = {"train/ant/0.png": png(pixels(77))}

usual = cache(composed)


def folder_of(data_dir: Path, *options: str) -> str:
    """Where the run on these images is stored, whatever they are."""
    config = {**usual(*IMAGES, *options), "data_dir": str(data_dir)}
    return identified(request_of(config)).folder.name


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """A folder of images in a data folder."""
    return write(split_files(), tmp_path / "data" / "pets")


# --- images ---------------------------------------------------------------------------------------


def change_one(pets: Path) -> None:
    """Another image of the same size in bytes, with the same time."""
    path = pets / "train/ant/0.png"
    status, content = path.stat(), bytearray(path.read_bytes())
    content[-20] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize(
    "change",
    [
        change_one,
        lambda pets: write(OTHER, pets),
        lambda pets: (pets / "train/ant/0.png").unlink(),
        lambda pets: write({"test/bee/7.png": png(pixels(7))}, pets),
        lambda pets: (pets / "train/ant/0.png").rename(pets / "train/bee/5.png"),
        lambda pets: [(pets / part / "ant").rename(pets / part / "ape") for part in SPLIT],
        lambda pets: shutil.rmtree(pets) or write(plain_files(), pets),
    ],
)
def test_other_images_are_another_run(pets, change):
    before = folder_of(pets.parent)
    change(pets)
    assert folder_of(pets.parent) != before


SPLIT = ("train", "test")


@pytest.mark.parametrize(
    "change",
    [
        lambda pets: [os.utime(path) for path in pets.rglob("*")],
        lambda pets: [path.chmod(0o600) for path in pets.rglob("*.png")],
        lambda pets: write({".DS_Store": b"x", "train/ant/._0.png": b"x", "Thumbs.db": b"y"}, pets),
        lambda pets: write({"readme.txt": b"Pets."}, pets),
        lambda pets: pets.rename(pets.with_name("hidden")) and pets.symlink_to("hidden"),
    ],
)
def test_what_is_not_content_does_not_count(pets, change):
    before = folder_of(pets.parent)
    change(pets)
    assert folder_of(pets.parent) == before


def test_the_same_images_elsewhere_are_the_same_run(pets, tmp_path):
    before = folder_of(pets.parent)
    shutil.copytree(pets.parent, tmp_path / "other")
    assert folder_of(tmp_path / "other") == before
    renamed = (tmp_path / "other" / "pets").rename(tmp_path / "other" / "animals")
    assert folder_of(tmp_path / "other", "dataset.path=animals") == before
    assert folder_of(tmp_path, f"dataset.path={renamed}") == before
    # Whatever else was asked for still counts.
    assert folder_of(pets.parent, "dataset.size=4") != before
    assert folder_of(pets.parent, "dataset.title=Pets") != before


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "tar.xz", "zip"])
def test_archives_are_known_by_their_bytes(pets, kind):
    archive = write_archive(split_files(), pets.with_name(f"pets.{kind}"))
    before = folder_of(pets.parent, f"dataset.path={archive.name}")
    assert before != folder_of(pets.parent)
    moved = archive.rename(archive.with_name(f"moved.{kind}"))
    os.utime(moved)
    assert folder_of(pets.parent, f"dataset.path={moved.name}") == before
    write_archive(split_files() | OTHER, moved)
    assert folder_of(pets.parent, f"dataset.path={moved.name}") != before


def test_no_other_datas_run_is_returned(pets, tmp_path):
    def ask(data_dir: Path, *options: str) -> Path:
        places = (f"data_dir={data_dir}", f"results_dir={tmp_path / 'results'}")
        return run_experiment(composed(*IMAGES, *places, *options))

    other = write(plain_files(), tmp_path / "other" / "pets").parent
    first, second = ask(pets.parent), ask(other)
    assert first != second
    assert read_run(first).metrics["value"].tolist() != read_run(second).metrics["value"].tolist()
    content = read_run(first).config["dataset"]["content"]
    assert content.startswith("sha256-")
    assert read_run(second).config["dataset"]["content"] != content
    for options in ((), ("force=true",)):
        with pytest.raises(DataError, match=r"nowhere/pets\n.*dataset\.path=") as caught:
            ask(tmp_path / "nowhere", *options)
        assert len(str(caught.value).splitlines()) <= 10
    # Both are found again, and the first is made again where its images are.
    stamps = [(folder / "summary.json").stat().st_mtime_ns for folder in (first, second)]
    assert [ask(pets.parent), ask(other)] == [first, second]
    assert [(one / "summary.json").stat().st_mtime_ns for one in (first, second)] == stamps
    again = repeat(read_run(first), str(tmp_path / "again"), str(pets.parent))
    assert again.name == first.name
    assert read_run(again).metrics.equals(read_run(first).metrics)
    with pytest.raises(DataError, match=rf"dataset\.content is {content}, but what is there has"):
        repeat(read_run(first), str(tmp_path / "again"), str(other))


def test_a_run_with_the_digest_of_its_data_needs_that_data(pets):
    config = composed(*IMAGES, f"data_dir={pets.parent}")
    content = with_contents(config)["dataset"]["content"]
    asked = composed(*IMAGES, f"data_dir={pets.parent}", f"+dataset.content={content}")
    assert with_contents(asked) == with_contents(config)
    check_contents(with_contents(asked))
    write(OTHER, pets)
    with pytest.raises(DataError, match="The data is not what the run is known by"):
        with_contents(asked)
    with pytest.raises(DataError):
        check_contents(asked)
    with pytest.raises(DataError, match="has changed while it was read"):
        check_contents(config)  # it had no digest when it was asked for


def test_data_known_by_name_has_no_digest():
    with pytest.raises(DataError, match="no digest, as it is known by name"):
        with_contents(composed("+dataset.content=sha256-0"))
    with pytest.raises(ConfigError, match=r"there is no option model\.content"):
        run_experiment(composed("+model.content=sha256-0"))


def test_images_that_change_while_they_are_read(pets, tmp_path, monkeypatch):
    config = composed(*IMAGES, f"data_dir={pets.parent}", f"results_dir={tmp_path}")
    load = contents.image_content

    def change(source: Path) -> str:
        content = load(source)
        write(OTHER, pets)
        return content

    monkeypatch.setattr(contents, "image_content", change)
    with pytest.raises(DataError, match="The data is not what"):
        run_experiment(config)
    assert not list(tmp_path.glob("runs/*/*/summary.json"))


def test_a_file_is_read_again_if_it_may_have_changed(tmp_path):
    path = tmp_path / "file"
    digests = set()
    for number in range(50):  # within one tick of the clock of the disk
        path.write_bytes(bytes([number]))
        os.utime(path, ns=(0, 0))
        digests.add(file_digest(path))
    assert len(digests) == 50


# --- sweeps and searches --------------------------------------------------------------------------


def test_a_sweep_launches_what_is_not_stored_for_these_images(pets, tmp_path):
    def jobs(data_dir: Path, *more: str) -> list:
        options = [(*IMAGES, f"results_dir={tmp_path}", f"data_dir={data_dir}")]
        options += [(*IMAGES, f"results_dir={tmp_path}", *more)] if more else []
        return jobs_of(options, [composed(*own) for own in options])

    [job] = jobs(pets.parent)
    assert job.missing
    config = composed(*IMAGES, f"results_dir={tmp_path}", f"data_dir={pets.parent}")
    assert write_run(identified(request_of(config)).config) == job.folder
    assert not jobs(pets.parent)[0].missing
    # A run without data fails by itself: the other one does not.
    assert [job.missing for job in jobs(pets.parent, "data_dir=nowhere")] == [False, True]
    write(OTHER, pets)
    [job] = jobs(pets.parent)
    assert job.missing
    assert job.folder.name != run_folder(config).name


def test_a_search_chooses_among_cells_of_the_same_images(pets, tmp_path):
    def final(data_dir: Path, *options: str) -> dict:
        usual = ("experiment=generalisation_final", "dataset=image_folder", "dataset.path=pets")
        return with_contents(composed(*usual, f"data_dir={data_dir}", *options))

    cell = composed(
        "experiment=generalisation", "dataset=image_folder", "dataset.path=pets", "seeds=[0]",
        f"data_dir={pets.parent}", f"results_dir={tmp_path}", "model.widths=[64]",
        "trainer.learning_rate=0.01",
    )  # fmt: skip
    cell["seeds"] = [0, 1]
    run = read_run(write_run(with_contents(cell)))
    for seed in run.summary["seeds"].values():
        seed |= {"validation_accuracy": 0.9, "validation_loss": 0.1}
    moved = shutil.copytree(pets, tmp_path / "other" / "cats").parent
    assert len(search("demo", wanted_cells(final(pets.parent)), [run]).cells) == 1
    same = final(moved, "dataset.path=cats")
    assert len(search("demo", wanted_cells(same), [run]).cells) == 1
    write(OTHER, pets)
    assert search("demo", wanted_cells(final(pets.parent)), [run]).cells == []
    # The command for missing cells names the images.
    with pytest.raises(RunError, match=r"dataset\.path=pets") as caught:
        request_of(composed(
            "experiment=generalisation_final", "dataset=image_folder", "dataset.path=pets",
            f"data_dir={pets.parent}", "search.grid=demo", f"results_dir={tmp_path / 'none'}",
        ))  # fmt: skip
    assert "content" not in str(caught.value)


# --- molecules ------------------------------------------------------------------------------------


@pytest.fixture
def smiles(tmp_path, monkeypatch) -> Path:
    """A data folder with molecules for the autoencoder, without Tox21."""
    part = MoleculeSet(["CCO"], ["T-1"], np.zeros((1, 1), np.float32))
    tox21 = MultitaskData("Tox21", ("task",), part, part, part, {})
    monkeypatch.setattr(corpus, "load_multitask", lambda name, folder: tox21)
    return write({"smiles/a.smi": b"CCO\nCCN\n", "smiles/b.smi": b"CCC one\n"}, tmp_path)


def content_of_corpus(data_dir: Path) -> str | None:
    config = usual("experiment=autoencoder", "model=autoencoder")
    return with_contents({**config, "data_dir": str(data_dir)})["corpus"].get("content")


def test_the_autoencoder_is_known_by_its_molecules(smiles, monkeypatch):
    before = content_of_corpus(smiles)
    write({"smiles/a.smi": b"CCO\nCCCN\n"}, smiles)
    changed = content_of_corpus(smiles)
    write({"smiles/a.smi": b"CCO\r\nCCN an amine\r\n", "smiles/._a.smi": b"\xff"}, smiles)
    assert content_of_corpus(smiles) == before
    write({"smiles/c.smi": b"C\n"}, smiles)
    assert len({before, changed, content_of_corpus(smiles)}) == 3
    (smiles / "smiles/c.smi").unlink()
    (smiles / "smiles/b.smi").rename(smiles / "smiles/d.smi")  # results are told by source
    assert content_of_corpus(smiles) not in (before, None)
    with pytest.raises(DataError, match="There are no molecules"):
        content_of_corpus(smiles / "nowhere")
    monkeypatch.setattr(corpus, "KNOWN", content_of_corpus(smiles))
    assert content_of_corpus(smiles) is None


def test_tox21_is_known_by_name_in_the_form_of_known_digests_alone(tmp_path, monkeypatch):
    small = small_tox21(monkeypatch)

    def content(files: dict[str, bytes], place: str) -> str | None:
        data_dir = write(files, tmp_path / place)
        config = usual("experiment=tox21", "codec=ecfp")
        return with_contents({**config, "data_dir": str(data_dir)})["dataset"].get("content")

    assert content(small.unpacked, "assays") is None
    first, *others = small.files
    bare = small.files[first]
    changed = bare.replace(b">  <SR-ARE>\n0", b">  <SR-ARE>\n1", 1)
    assert changed != bare
    sdf = content(small.files, "sdf")
    assert sdf is not None
    assert content({**small.files, first: zipped(bare, "any.sdf")}, "zip") == sdf
    assert content({**small.files, first: changed}, "changed") not in (None, sdf)
    assert content({name: small.files[name] for name in others}, "missing") is None
    with pytest.raises(DataError, match="not a readable ZIP archive"):
        content({**small.files, first: b"PK"}, "damaged")


def test_uncompressed_fashion_mnist_is_known_by_its_content(tmp_path, monkeypatch):
    small = small_fashion_mnist(monkeypatch)
    source = registry.DATA_SETS["fashion_mnist"]
    assert source.content(write(small.files, tmp_path / "gz")) is None
    assert source.content(write(small.files | small.unpacked, tmp_path / "both")) is None
    assert source.content(tmp_path / "nowhere") is None
    plain = source.content(write(small.unpacked, tmp_path / "plain"))
    path, content = next(iter(small.unpacked.items()))
    other = write({path: content[:-1] + bytes([content[-1] ^ 1])}, tmp_path / "plain")
    assert len({None, plain, source.content(other)}) == 3


def test_weights_of_a_codec_count_where_any_will_do():
    options = ("experiment=tox21", "dataset=structural_alerts")
    found = with_contents(composed(*options, "codec.digest=null"))
    assert found["codec"]["digest"] == load_codec("autoencoder").digest
    assert found == with_contents(composed(*options))
    found = with_contents(composed(*options, "codec=ecfp", "codec.digest=null"))
    assert found["codec"]["digest"] == load_codec("ecfp").digest
    # With weights of a known digest there is nothing to tell apart.
    found = with_contents(composed(*options, "codec=cddd", "codec.digest=null"))
    assert found["codec"]["digest"] is None


# --- what was stored before -----------------------------------------------------------------------


@needs_jpeg_copy
def test_the_jpeg_copy_is_known_by_name():
    config = composed("experiment=cifar10_jpeg", f"data_dir={real_data_dir()}")
    assert with_contents(config) == config


def test_another_archive_in_its_place_is_another_run(tmp_path):
    write_archive(split_files(), write({}, (tmp_path / JPEG_COPY).parent) / JPEG_COPY.name)
    config = composed("experiment=cifar10_jpeg", f"data_dir={tmp_path}")
    assert run_folder(with_contents(config)) != run_folder(config)


def test_figures_show_runs_on_ones_own_data_and_keep_them_apart(tmp_path):
    def store(**content: str) -> dict:
        config = composed("experiment=autoencoder", "model=autoencoder", f"results_dir={tmp_path}")
        config |= {"seeds": [0, 1], "corpus": {**config["corpus"], **content}}
        return read_run(write_run(config))

    first = store(content="sha256-0")
    assert select(panels.AUTOENCODER, [first]).runs == {"autoencoder": first}
    with pytest.raises(RunError, match=r"differ in corpus\.content"):
        select(panels.AUTOENCODER, [first, store(content="sha256-1")])
    with pytest.raises(RunError, match=r"differ in corpus\.content"):
        select(panels.AUTOENCODER, [first, store()])
