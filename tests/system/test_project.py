"""The project's own files agree with each other."""

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
