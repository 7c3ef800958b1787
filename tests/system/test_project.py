"""The project's own files agree with each other."""

import itertools
import re
import shlex
import subprocess
import sys
import tomllib

import pytest
import yaml

import convexinit
from convexinit_paper.figures.__main__ import FIGURES
from convexinit_paper.figures.select import flatten
from convexinit_paper.request.config import composed
from support.data import ROOT
from support.readme import python_examples


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


def test_the_library_examples_of_the_readme_run():
    examples = python_examples()
    assert examples
    for example in examples:
        exec(compile(example, "README.md", "exec"), {})


def demo_runs():
    """Options of all runs that ``make paper-figures SCALE=demo`` asks for."""
    makefile = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    makefile = makefile.replace("$(VARIANTS)", "nonconvex,icnn,icnn_skip,icnn_init")
    demo = makefile.split("ifeq ($(SCALE),demo)")[1].split("else ifeq")[0]
    for line in demo.splitlines():
        if "run.py" not in line:
            continue
        arguments = [word for word in shlex.split(line.split("run.py")[1]) if word != "-m"]
        [models] = [word for word in arguments if word.startswith("model=")]
        others = [word for word in arguments if word != models]
        for model in models.removeprefix("model=").split(","):
            yield composed(*others, f"model={model}")


def test_the_demo_makes_every_run_that_its_figures_draw():
    runs = list(demo_runs())
    assert len(runs) > 15
    for name, figure in FIGURES.items():
        # The table of the grid search reads its cells by itself.
        for panel in figure.panels("demo") if hasattr(figure, "panels") else ():
            for variant in panel.variants:
                fitting = [
                    config
                    for config in runs
                    if config["name"] == panel.experiment and panel.fits(variant, flatten(config))
                ]
                assert fitting, (name, panel.title, variant)


@pytest.mark.parametrize("name", ["training-summary", "autoencoder", "table-1-by-epoch"])
def test_the_results_in_the_readme_are_the_recorded_ones(name):
    table = (ROOT / "results" / "tables" / f"{name}.md").read_text()
    assert table in (ROOT / "README.md").read_text()
