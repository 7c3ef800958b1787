"""Importing torchvision."""

import sys
from types import ModuleType

import pytest

from convexinit_paper.data import compat


def test_torchvision_imports_and_stays_the_same():
    torchvision = compat.import_torchvision()
    assert compat.import_torchvision() is torchvision
    assert compat.official("MNIST") is torchvision.datasets.MNIST
    assert torchvision.transforms.functional is not None


def test_nothing_is_declared_where_torchvision_loads(monkeypatch):
    loadable = ModuleType("torchvision")
    monkeypatch.setitem(sys.modules, "torchvision", loadable)
    monkeypatch.setattr(compat, "_library", None)
    assert compat.import_torchvision() is loadable
    assert compat._library is None


@pytest.mark.parametrize("error", [ImportError("No module"), RuntimeError("something else")])
def test_other_failures_of_torchvision_are_not_hidden(monkeypatch, error):
    def fail(name: str) -> None:
        raise error

    monkeypatch.setattr(compat, "_library", None)
    monkeypatch.setattr(compat.importlib, "import_module", fail)
    with pytest.raises(type(error), match=str(error)):
        compat.import_torchvision()
    assert compat._library is None
