"""The project's own files agree with each other."""

import ast
import itertools
import re
import subprocess
import sys
import tomllib

import yaml

import convexinit
from support.data import ROOT


def normal(name: str) -> str:
    return name.strip().lower().replace("_", "-")


PINS = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines())


def test_every_package_that_is_installed_here_is_pinned():
    assert all(re.fullmatch(r"[0-9a-z.]+", version) for version in PINS.values())  # no +cpu
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    for requirement in itertools.chain(project["dependencies"], *extras.values()):
        name = re.match(r"[\w-]+", requirement)[0]
        assert name == "convexinit" or normal(name) in map(normal, PINS), requirement


def test_conda_users_get_the_same_packages():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    packages = environment["dependencies"][-1]["pip"]
    assert packages == ["--constraint constraints.txt", "--editable .[paper,dev]"]
    install = (ROOT / "Makefile").read_text()
    assert "--constraint constraints.txt --editable '.[paper,dev]'" in install


def test_the_library_is_imported_in_less_than_three_seconds():
    """Of the processor's time, so that programs beside the test do not count."""
    code = "import time, convexinit; print(time.process_time())"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    assert 0 < float(output) < 3


def test_public_names_are_importable_listed_and_documented():
    functions_and_classes = {
        name
        for name, value in vars(convexinit).items()
        if callable(value) and not name.startswith("_")
    }
    assert functions_and_classes == set(convexinit.__all__)
    assert all(getattr(convexinit, name).__doc__ for name in convexinit.__all__)


def test_every_text_file_is_utf_8_whatever_the_locale():
    """What ruff's rule cannot see: calls on paths whose type it does not know."""
    text = {"read_text", "write_text", "open"}
    elsewhere = {"os", "Image", "tarfile", "gzip", "archive"}  # no text, or of another module
    wrong = []
    for path in [ROOT / "run.py", *ROOT.glob("src/**/*.py"), *ROOT.glob("scripts/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            names = {keyword.arg for keyword in node.keywords}
            called = node.func
            if isinstance(called, ast.Attribute) and called.attr in text:
                binary = any("b" in str(getattr(mode, "value", "")) for mode in node.args[:1])
                other = isinstance(called.value, ast.Name) and called.value.id in elsewhere
                fine = "encoding" in names or other or (called.attr == "open" and binary)
            else:
                fine = not names & {"text", "universal_newlines"}
            if not fine:
                wrong.append(f"{path}:{node.lineno}")
    assert wrong == []
