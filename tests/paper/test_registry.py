"""The table of data sets, and what is in it without any files."""

import hashlib

import pytest
import torch
from omegaconf import OmegaConf
from sklearn.datasets import load_digits

from convexinit_paper.data import registry, sources
from convexinit_paper.data.datasets import load_multitask
from convexinit_paper.data.images import load_images
from convexinit_paper.data.registry import DATA_SETS
from convexinit_paper.request.config import CONF

NEW = """
import numpy as np
from convexinit_paper.data.sources import ImageArrays, ImageSource

def load(data_dir):
    return ImageArrays(*2 * (np.zeros((3, 1, 2, 2), np.uint8), np.arange(3)))

DATA_SETS = {"zeros": ImageSource("Zeros", 3, load=load)}
"""


def test_every_data_set_can_be_asked_for():
    options = {path.stem: OmegaConf.load(path) for path in (CONF / "dataset").glob("*.yaml")}
    assert options.keys() == {*DATA_SETS, "image_folder"}
    for name, section in options.items():
        assert section.name == name
        if section.get("title") is not None:
            assert section.title == DATA_SETS[name].title


def test_a_module_is_all_that_a_new_data_set_needs(tmp_path, monkeypatch):
    (tmp_path / "zeros.py").write_text(NEW, encoding="utf-8")
    monkeypatch.setattr(sources, "__path__", [*sources.__path__, str(tmp_path)])
    found = registry.find_data_sets()
    assert found.keys() == {*DATA_SETS, "zeros"}
    monkeypatch.setattr(registry, "DATA_SETS", found)
    data = load_images("zeros", tmp_path)
    assert data.train_inputs.shape == (3, 1, 2, 2)
    assert (data.num_classes, data.title) == (3, "Zeros")


@pytest.mark.parametrize(
    ("load", "message"),
    [
        (load_images, "unknown image data set 'mnits'; known: cifar10, cifar100, digits, "),
        (load_multitask, "unknown multi-task data set 'mnits'; known: structural_alerts, tox21"),
    ],
)
def test_unknown_name_lists_the_known_ones(load, message, tmp_path):
    with pytest.raises(ValueError, match=f"^{message}"):
        load("mnits", tmp_path)


# --- digits ---------------------------------------------------------------------------------------


def test_digits(tmp_path):
    data = load_images("digits", tmp_path / "not needed")
    assert data.train_inputs.shape == (1_437, 1, 8, 8)
    assert data.test_inputs.shape == (360, 1, 8, 8)
    assert data.train_inputs.dtype == torch.uint8
    assert data.train_labels.dtype == data.test_labels.dtype == torch.int64
    assert data.white == data.train_inputs.max()

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


def test_digits_split_never_changes(tmp_path):
    """Recorded results rest on it: it must not change with a scikit-learn version either."""
    data = load_images("digits", tmp_path)
    digest = hashlib.sha256(data.train_inputs.numpy().tobytes()).hexdigest()
    assert digest == "5760f944f9d4583320655eb3932bdbb8a1d7ecccece1d5e8ac73699a93fdf434"
