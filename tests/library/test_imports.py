"""What the modules of both packages import, at any level, read without importing them."""

import ast
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from support.data import ROOT

SOURCES = ROOT / "src"


def modules_of(package: str) -> dict[str, Path]:
    """Files of a package by the names of their modules."""
    return {
        ".".join(path.relative_to(SOURCES).with_suffix("").parts).removesuffix(".__init__"): path
        for path in (SOURCES / package).rglob("*.py")
    }


def imports_of(path: Path) -> Iterator[str]:
    """Names that are imported: modules, and what may be one (``package.name``)."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def packages_used(path: Path) -> set[str]:
    """Packages that a file imports, those of the standard library left out."""
    return {name.partition(".")[0] for name in imports_of(path)} - sys.stdlib_module_names


@pytest.mark.parametrize("name", modules_of("convexinit"))
def test_the_library_needs_torch_alone_and_its_molecules_numpy_and_rdkit(name):
    allowed = {"convexinit", "torch"}
    if name.startswith("convexinit.molecules"):
        allowed |= {"numpy", "rdkit"}
    assert packages_used(modules_of("convexinit")[name]) <= allowed


@pytest.mark.parametrize("package", ["convexinit", "convexinit_paper"])
def test_no_circle_of_imports(package):
    modules = modules_of(package)

    def needs(path: Path) -> set[str]:
        names = set(imports_of(path))
        return (names | {name.rpartition(".")[0] for name in names - modules.keys()}) & {*modules}

    graph = {name: needs(path) - {name} for name, path in modules.items()}
    assert sum(map(len, graph.values())) > len(graph) / 2
    TopologicalSorter(graph).prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize(
    "path", sorted((ROOT / "tests" / "library").glob("*.py")), ids=lambda path: path.stem
)
def test_tests_of_the_library_do_without_the_pipeline(path):
    assert "convexinit_paper" not in packages_used(path)
