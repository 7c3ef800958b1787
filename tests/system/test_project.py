"""The project's own files agree with each other."""

import shlex
import subprocess
import sys
import tomllib

import pytest
import yaml

from convexinit_paper.figures.__main__ import FIGURES
from convexinit_paper.figures.select import flatten
from convexinit_paper.request.config import composed
from support.data import ROOT


def pinned() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [*project["dependencies"], *project["optional-dependencies"]["dev"]]


def test_every_dependency_is_pinned():
    assert all("==" in requirement for requirement in pinned())


def test_conda_environment_has_the_versions_of_pyproject():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text())
    packages = environment["dependencies"][-1]["pip"]
    assert sorted(packages) == sorted([*pinned(), "--editable ."])


def test_constraints_have_the_versions_of_pyproject():
    def normal(requirement):
        return requirement.strip().lower().replace("_", "-")

    lines = (ROOT / "constraints.txt").read_text().splitlines()
    constraints = dict(normal(line).split("==") for line in lines)
    for requirement in pinned():
        name, version = normal(requirement).split("==")
        if not name.startswith("torch"):  # CPU and GPU builds differ in their version's suffix
            assert constraints[name] == version


@pytest.mark.parametrize("module", ["theory", "init", "nn", "positivity", "level_sets"])
def test_the_library_half_needs_torch_alone(module):
    check = f"import sys, convexinit.{module}; print(*sys.modules)"
    output = subprocess.run(
        [sys.executable, "-c", check], capture_output=True, text=True, check=True
    ).stdout.split()
    heavy = {"hydra", "omegaconf", "pandas", "matplotlib", "sklearn", "scipy", "torchvision"}
    assert not heavy & set(output)


def test_public_names_are_importable_and_listed():
    import convexinit

    for name in convexinit.__all__:
        assert getattr(convexinit, name).__doc__
    with pytest.raises(AttributeError, match="nothing"):
        convexinit.nothing  # noqa: B018


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
