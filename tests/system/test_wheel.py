"""The wheel in an environment of its own: with torch alone, then with the extra for molecules.

The tests run in their order, as the second step adds packages to the environment of the first.
"""

import email
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from support.data import ROOT
from support.readme import python_examples

TORCH = next(
    line
    for line in (ROOT / "constraints.txt").read_text().splitlines()
    if line.startswith("torch==")
)
# Of the pipeline, by the names that they are imported with.
PIPELINE = ["hydra", "omegaconf", "pandas", "rdkit", "wandb", "matplotlib", "sklearn", "tqdm"]
COMMANDS = [
    ".".join(path.relative_to(ROOT / "src").with_suffix("").parts).removesuffix(".__main__")
    for path in sorted((ROOT / "src" / "convexinit_paper").rglob("*.py"))
    if '\nif __name__ == "__main__":\n' in path.read_text(encoding="utf-8")
]


class Environment:
    """A virtual environment; its commands run outside of the checkout."""

    def __init__(self, folder: Path) -> None:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        self.folder = folder

    def python(self, *arguments, **variables):
        """Run its Python with arguments; the result with what it printed."""
        environment = {**os.environ, **variables}
        if "PYTHONPATH" not in variables:
            environment.pop("PYTHONPATH", None)
        command = [self.folder / "bin" / "python", *arguments]
        return subprocess.run(
            command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False
        )

    def run(self, code):
        result = self.python("-c", code)
        assert result.returncode == 0, result.stderr
        return result.stdout

    def pip(self, *arguments):
        return self.python("-m", "pip", "--quiet", "--disable-pip-version-check", *arguments)

    def packages(self):
        code = "import importlib.metadata as m; print(*(d.name for d in m.distributions()))"
        return set(self.run(code).split())


@pytest.fixture(scope="module")
def torch_alone(tmp_path_factory):
    environment = Environment(tmp_path_factory.mktemp("environment"))
    result = environment.pip("install", "--no-compile", TORCH)
    if result.returncode != 0:
        pytest.skip(f"pip cannot install {TORCH} here: {result.stderr.splitlines()[-1]}")
    return environment


@pytest.fixture(scope="module")
def wheel(torch_alone, tmp_path_factory):
    """Built from the tracked files alone."""
    copy, target = tmp_path_factory.mktemp("copy"), tmp_path_factory.mktemp("wheel")
    inputs = ["src", "pyproject.toml", "README.md", "LICENSE"]
    listed = subprocess.run(
        ["git", "ls-files", "-z", *inputs], cwd=ROOT, capture_output=True, text=True, check=True
    )
    for name in filter(None, listed.stdout.split("\0")):
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, copy / name)
    result = torch_alone.pip("wheel", "--no-deps", "--wheel-dir", target, copy)
    assert result.returncode == 0, result.stderr
    (built,) = target.iterdir()
    return built


@pytest.fixture(scope="module")
def installed(torch_alone, wheel):
    before = torch_alone.packages()
    result = torch_alone.pip("install", wheel)
    assert result.returncode == 0, result.stderr
    assert torch_alone.packages() - before == {"convexinit"}
    return torch_alone


def test_the_wheel_says_what_it_is_and_needs(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        (metadata,) = [name for name in names if name.endswith(".dist-info/METADATA")]
        fields = email.message_from_bytes(archive.read(metadata))
    for field in ("Summary", "Author", "Keywords", "Project-URL", "License-File"):
        assert fields[field], field
    assert fields["License-Expression"] == "MIT"
    assert "Typing :: Typed" in fields.get_all("Classifier")
    needed = [name for name in fields.get_all("Requires-Dist") if "extra ==" not in name]
    assert len(needed) == 1
    assert needed[0].startswith("torch>=")
    assert {"molecules", "paper"} <= set(fields.get_all("Provides-Extra"))
    assert {name.partition("/")[0] for name in names if ".dist-info" not in name} == {
        "convexinit",
        "convexinit_paper",
    }
    assert {f"{package}/py.typed" for package in ("convexinit", "convexinit_paper")} <= set(names)


def test_the_example_of_the_readme_runs_with_torch_alone(installed):
    code = f"import importlib.util as i; print([n for n in {PIPELINE} if i.find_spec(n)])"
    assert installed.run(code).strip() == "[]"
    example = next(code for code in python_examples() if "convexinit" in code)
    place = installed.run(f"{example}\nimport convexinit\nprint(convexinit.__file__)\n")
    assert Path(place.strip()).is_relative_to(installed.folder)


def test_without_its_extra_the_package_for_molecules_names_it(installed):
    result = installed.python("-c", "import convexinit.molecules")
    assert result.returncode != 0
    assert "pip install 'convexinit[molecules]'" in result.stderr.splitlines()[-1]


@pytest.mark.parametrize("module", COMMANDS)
def test_commands_of_the_pipeline_ask_for_a_checkout_in_one_line(installed, module):
    result = installed.python("-m", module, "--help")
    assert (result.returncode, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert "needs a checkout of the project convexinit, the folder with run.py and conf/" in line


@pytest.mark.parametrize("module", COMMANDS)
def test_commands_in_a_checkout_ask_for_missing_packages_in_one_line(installed, module):
    result = installed.python("-m", module, "--help", PYTHONPATH=str(ROOT / "src"))
    assert (result.returncode, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert "make install" in line


def test_molecules_are_encoded_and_decoded_with_the_extra(installed, wheel):
    constraints = ROOT / "constraints.txt"
    result = installed.pip("install", "--constraint", constraints, f"{wheel}[molecules]")
    assert result.returncode == 0, result.stderr
    code = (
        "from convexinit.molecules import load_codec\n"
        "codec = load_codec('autoencoder')\n"
        "print(codec.decode(codec.encode(['OCC(=O)c1ccccc1'])))\n"
    )
    assert installed.run(code).strip() == "['O=C(CO)c1ccccc1']"
