"""What the documents say can be done, and what they show comes from where it was computed."""

import csv
import doctest
import re
import shlex
import subprocess
import sys
from functools import cache
from itertools import product

import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser

import convexinit
from support.commands import environment
from support.data import ROOT

README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *ROOT.glob("docs/**/*.md")]
TABLES = [ROOT / "results" / "claims.md", *sorted(ROOT.glob("results/tables/*.md"))]


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def text_of(path):
    return path.read_text(encoding="utf-8")


def blocks(page, language=""):
    """The blocks of code of a page in one language; without one they are commands."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", text_of(page), re.DOTALL | re.MULTILINE)
    return [code for of, code in found if of == language]


def commands(program):
    """What the documents call a program with; placeholders in angle brackets become words."""
    found = set()
    for page in PAGES:
        spans = re.findall(r"`([^`\n]+)`", text_of(page))
        for line in [*"".join(blocks(page)).splitlines(), *spans]:
            line = re.sub(r"<([a-z]+)>", r"\1", line)
            called = re.match(rf"(?:nohup )?{re.escape(program)}(?= |$)([^#>|]*)", line)
            if called:
                found.add(called[1].strip())
    assert found, program
    return sorted(found)


def test_the_readme_is_short():
    assert len(text_of(README).split()) <= 1300


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files(page):
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", text_of(page))
    missing = [to for to in targets if "://" not in to and not (page.parent / to).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_python_examples_run(page):
    names = {}  # of a page, which is read from top to bottom
    for example in blocks(page, "python"):
        exec(compile(example, str(page), "exec"), names)
    assert doctest.testfile(str(page), module_relative=False, encoding="utf-8").failed == 0


@pytest.mark.parametrize("arguments", commands("python run.py"))
def test_options_of_runs_exist(arguments):
    given, unknown = get_args_parser().parse_known_args(shlex.split(arguments))
    assert not unknown
    choices = []
    for override in OverridesParser.create().parse_overrides(given.overrides):
        name, _, text = override.input_line.partition("=")
        values = override.sweep_string_iterator() if override.is_sweep_override() else [text]
        choices.append([f"{name}={value}" for value in values])
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        for cell in product(*choices):
            compose("config", list(cell), return_hydra_config=True)


@pytest.mark.parametrize("arguments", commands("make"))
def test_make_has_what_is_asked_for(arguments):
    dry = ["make", "--dry-run", *shlex.split(arguments)]
    result = subprocess.run(dry, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@cache
def help_of(program):
    command = [sys.executable, *program.split()[1:], "--help"]
    result = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, env=environment(), check=True
    )
    return result.stdout


@pytest.mark.parametrize(
    "program",
    [
        *(f"python -m convexinit_paper.{name}" for name in ("figures", "repeat", "tracking")),
        *(
            f"python scripts/{name}.py"
            for name in ("download_data", "profile_step", "record_runs", "ship_autoencoder")
        ),
    ],
)
def test_programs_know_the_options_and_names_they_are_given(program):
    words = {word for arguments in commands(program) for word in shlex.split(arguments)}
    known = set(re.findall(r"[\w-]+", help_of(program)))
    assert not {word for word in words if "/" not in word} - known


@pytest.mark.parametrize("table", TABLES, ids=name_of)
def test_tables_of_results_are_included_and_never_pasted(table):
    pages = [text_of(page) for page in PAGES]
    rows = {row for row in text_of(table).splitlines() if re.match(r"\|.*\d", row)}
    assert not [row for page in pages for row in page.splitlines() if row in rows]
    shown = any(f'--8<-- "{name_of(table)}' in page for page in pages)
    assert shown


def test_results_in_the_readme_are_those_of_the_claims():
    section = text_of(README).split("## Results")[1].split("\n## ")[0]
    rows = [tuple(row.strip("| ").split(" | ")) for row in section.splitlines() if "|" in row][2:]
    with (ROOT / "results" / "claims.csv").open(newline="", encoding="utf-8") as file:
        known = {
            (claim["claim"], claim["dataset"], claim["verdict"], claim["measured"])
            for claim in csv.DictReader(file)
        }
    assert 1 <= len(rows) <= 6
    assert set(rows) <= known
    [counts] = re.findall(r"Of \d+ pairs .*? not run\.", section)
    assert counts in text_of(ROOT / "results" / "claims.md")


def test_the_reference_lists_all_public_names():
    listed = re.findall(r"\[convexinit\.(\w+)\]", text_of(ROOT / "docs/reference/index.md"))
    assert sorted(listed) == sorted(convexinit.__all__)
