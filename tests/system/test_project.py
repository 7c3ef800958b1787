"""The project's own files agree with each other."""

import subprocess
import sys
import tomllib

import pytest
import yaml

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


def test_the_library_examples_of_the_readme_run():
    readme = (ROOT / "README.md").read_text()
    examples = [part.split("```")[0] for part in readme.split("```python\n")[1:]]
    assert len(examples) == 2
    for example in examples:
        exec(compile(example, "README.md", "exec"), {})


@pytest.mark.parametrize("name", ["training-summary", "autoencoder", "table-1-by-epoch"])
def test_the_results_in_the_readme_are_the_recorded_ones(name):
    table = (ROOT / "results" / "tables" / f"{name}.md").read_text()
    assert table in (ROOT / "README.md").read_text()
