"""Image data sets in the configuration, and in runs from raw files to stored metrics."""

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image

from convexinit_paper.data.datasets import (
    DatasetSettings,
    ImageFolderSettings,
    dataset_settings,
    load_dataset,
)
from convexinit_paper.data.files import DataError
from convexinit_paper.data.images import ImageData, load_images
from convexinit_paper.data.preprocessing import normalise, whiten
from convexinit_paper.data.sources import ImageArrays
from convexinit_paper.experiments import run_experiment
from convexinit_paper.request.config import CONF, ConfigError
from convexinit_paper.store.runs import read_run

VISION = ("mnist", "fashion_mnist", "cifar10", "cifar100", "cifar10_jpeg")


def composed(*options: str) -> dict:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return OmegaConf.to_container(compose("config", list(options)), resolve=True)


@pytest.fixture
def stripes(tmp_path):
    """A data folder with images of horizontal and vertical stripes, 6 x 6 pixels."""
    generator = np.random.default_rng(0)
    for split, count in (("train", 60), ("test", 20)):
        for name in ("across", "down"):
            folder = tmp_path / "data" / "stripes" / split / name
            folder.mkdir(parents=True)
            for number in range(count):
                values = np.tile(generator.integers(0, 256, 6, np.uint8)[:, None], (1, 6))
                image = Image.fromarray(values if name == "across" else values.T.copy())
                image.save(folder / f"{number:02}.png")
    return tmp_path / "data"


# --- configuration --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VISION)
def test_experiments_follow_the_protocol_of_figure_2(name):
    config = composed(f"experiment={name}", "model=icnn_init")
    assert (config["name"], config["task"]) == (name, "training_dynamics")
    assert config["model"]["num_hidden"] == 5
    assert config["model"]["width"] is None  # as wide as the input
    assert config["seeds"] == 10
    expected = {"epochs": 10, "batch_size": 64, "learning_rate": 1e-3, "weight_decay": 0.0}
    assert expected.items() <= config["trainer"].items()
    assert config["dataset"]["name"] == name
    assert config["dataset"]["validation_fraction"] == 0.1
    assert config["dataset"]["preprocessing"] == "normalise"


def test_the_jpeg_copy_is_called_that():
    settings = dataset_settings(composed("experiment=cifar10_jpeg")["dataset"])
    assert isinstance(settings, ImageFolderSettings)
    assert settings.title == "CIFAR-10 (JPEG copy)"
    assert settings.path == "cifar10_jpeg/cifar10_jpeg.tar.xz"
    assert settings.size is None


def test_settings_of_a_data_set_with_a_loader_of_its_own():
    settings = dataset_settings(composed("dataset=cifar100")["dataset"])
    assert settings == DatasetSettings("cifar100", 0.1, "normalise")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["dataset=image_folder"], "dataset.path must be a folder or archive"),
        (["dataset=cifar10_jpeg", "dataset.size=0"], "dataset.size must be at least 1"),
        (["dataset=cifar10_jpeg", "dataset.size=large"], "dataset.size"),
        (["dataset=cifar10_jpeg", "dataset.path=null"], "dataset.path"),
        (["dataset.preprocessing=whiten"], "dataset.preprocessing must be one of normalise, pca"),
        (["dataset.validation_fraction=1"], "dataset.validation_fraction"),
        (["+dataset.path=x"], "the option dataset.title is missing"),
        (["+dataset.size=3"], "there is no option dataset.size"),
    ],
)
def test_wrong_options(options, expected):
    with pytest.raises(ConfigError, match=expected):
        dataset_settings(composed(*options)["dataset"])


def test_all_of_an_image_folder_reaches_the_loader(stripes, tmp_path, monkeypatch):
    settings = ImageFolderSettings("image_folder", 0.1, "zca", "stripes", "Stripes", 3)
    data = load_dataset(settings, stripes, tmp_path / "results")
    assert data.train_inputs.shape == (120, 9)  # resized, grey
    assert data.title == "Stripes"
    assert len(list((tmp_path / "results" / "cache").iterdir())) == 1
    # Whitened: variance one in all directions there are. Three rows and three columns that share
    # their mean have five.
    covariance = np.cov(data.train_inputs.numpy(), rowvar=False, bias=True)
    expected = [0] * 4 + [1] * 5
    np.testing.assert_allclose(np.linalg.eigvalsh(covariance), expected, atol=0.02)
    # An absolute path needs no data folder, and ~ is the home folder.
    monkeypatch.setenv("HOME", str(stripes))
    for path in (str(stripes / "stripes"), "~/stripes"):
        again = load_dataset(
            ImageFolderSettings("image_folder", 0.1, "zca", path, "Stripes", 3),
            "nowhere",
            tmp_path / "results",
        )
        assert torch.equal(again.train_inputs, data.train_inputs)


@pytest.mark.parametrize("how", ["normalise", "pca", "zca"])
def test_preprocessing_reaches_the_data(how, tmp_path):
    images = load_images("digits", tmp_path)
    expected = normalise(images) if how == "normalise" else whiten(images, how)
    actual = load_dataset(DatasetSettings("digits", 0.1, how), tmp_path, tmp_path)
    assert torch.equal(actual.train_inputs, expected.train_inputs)
    assert torch.equal(actual.test_inputs, expected.test_inputs)


@pytest.mark.parametrize(
    ("name", "change", "fault"),
    [
        ("train_inputs", lambda images: images.astype(np.float32), "train_inputs float32"),
        ("test_inputs", lambda images: images.reshape(6, -1), r"test_inputs uint8 \[6, 8\]"),
        ("test_inputs", lambda images: images[:, :, :1], r"\[6, 2, 2, 2\], but test_inputs"),
        ("test_inputs", lambda images: images[:0], "in place of uint8"),
        ("train_labels", lambda labels: labels[:5], r"train_labels int64 \[5\]"),
        ("test_labels", lambda labels: labels.astype(np.int32), r"in place of int64 \[6\]"),
        ("train_labels", lambda labels: labels + 1, "from 1 to 3 in place of 0 to 2"),
        ("test_labels", lambda labels: labels - 1, "test_labels from -1 to 1"),
    ],
)
def test_arrays_of_a_reader_that_are_not_images_with_labels(name, change, fault):
    images, labels = np.zeros((6, 2, 2, 2), np.uint8), np.arange(6) % 3
    arrays = ImageArrays(images, labels, images, labels)
    ImageData.of(arrays, 3, "Pets")
    with pytest.raises(DataError, match=f"The data set Pets cannot be used.*{fault}"):
        ImageData.of(arrays._replace(**{name: change(getattr(arrays, name))}), 3, "Pets")


def test_missing_jpeg_copy(tmp_path):
    settings = dataset_settings(composed("dataset=cifar10_jpeg")["dataset"])
    with pytest.raises(DataError, match=r"cifar10_jpeg\.tar\.xz") as caught:
        load_dataset(settings, tmp_path, tmp_path)
    assert "data_dir=" in str(caught.value)


# --- runs -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["normalise", "pca", "zca"])
def test_a_run_on_images_of_ones_own(stripes, tmp_path, how):
    config = composed(
        "dataset=image_folder",
        "dataset.path=stripes",
        f"dataset.preprocessing={how}",
        "dataset.title=Stripes",
        "model.num_hidden=1",
        "seeds=2",
        "trainer.epochs=15",
        "trainer.batch_size=16",
        f"data_dir={stripes}",
        f"results_dir={tmp_path / 'results'}",
    )
    run = read_run(run_experiment(config))
    assert run.config["dataset"]["preprocessing"] == how
    for seed in ("0", "1"):
        assert run.summary["seeds"][seed]["status"] == "finished"
        # Half of the test images are of either class.
        assert run.summary["seeds"][seed]["test_accuracy"] > 0.75
    assert set(run.metrics["split"]) == {"train", "validation", "test"}


def test_the_same_run_with_another_preprocessing_is_another_run(stripes, tmp_path):
    folders = {
        run_experiment(
            composed(
                "dataset.preprocessing=" + how,
                "trainer.epochs=1",
                "seeds=1",
                f"results_dir={tmp_path}",
            )
        )
        for how in ("normalise", "pca", "zca")
    }
    assert len(folders) == 3
    losses = {round(read_run(folder).summary["seeds"]["0"]["train_loss"], 6) for folder in folders}
    assert len(losses) == 3
