"""Commands where users call them: beside notebooks, in any locale, in pipes and shared folders."""

import shlex
import subprocess
import sys

import pytest

from convexinit_paper.store.runs import read_runs
from support.commands import SHORT, command, environment
from support.data import ROOT


def module(name, *arguments, cwd=ROOT, **variables):
    """A module of the pipeline as a process."""
    return subprocess.run(
        [sys.executable, "-m", f"convexinit_paper.{name}", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment(**variables),
        timeout=300,
        check=False,
    )


# --- Drawing -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "variables",
    [
        {"MPLBACKEND": "module://matplotlib_inline.backend_inline"},  # what notebooks export
        {"MPLBACKEND": "no such backend"},
        {"MPLBACKEND": "TkAgg", "DISPLAY": ""},
        {"MPLCONFIGDIR": "{tmp_path}"},
        {"MATPLOTLIBRC": "{tmp_path}/matplotlibrc"},
        {"MPLCONFIGDIR": "/proc/none"},
    ],
)
def test_drawing_needs_no_backend_and_no_settings_of_the_user(tmp_path, variables):
    (tmp_path / "matplotlibrc").write_bytes(b"backend: none\nfont.size: \xff\n")
    variables = {name: value.format(tmp_path=tmp_path) for name, value in variables.items()}
    out = tmp_path / "out"
    result = module("figures", "figure-1", "--out", out, **variables)
    assert result.returncode == 0, result.stderr
    assert (out / "figures" / "figure-1.png").is_file()


def test_settings_of_matplotlib_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "matplotlibrc").write_bytes(b"font.size: \xff\n")
    result = module("figures", "--help", cwd=tmp_path)
    assert result.returncode == 1
    assert f"damaged file matplotlibrc in {tmp_path}" in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr


# --- Pipes ---------------------------------------------------------------------------------------


def piped(arguments, tail):
    """A command with a shell's redirections behind it; its own exit code, and what else it says."""
    result = subprocess.run(
        ["bash", "-c", f"{shlex.join(map(str, arguments))} {tail}; exit ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment(),
        timeout=300,
        check=False,
    )
    return result.returncode, result.stderr


@pytest.mark.parametrize("tail", ["| true", "2>&1 | true", ">&-", "| head -c 1", ">&- 2>&-"])
def test_a_run_is_stored_though_nobody_reads_what_it_prints(tmp_path, tail):
    assert piped(command(*SHORT, results_dir=tmp_path), tail) == (0, "")
    assert len(read_runs(tmp_path / "runs")) == 1
    assert piped(command(*SHORT, results_dir=tmp_path), tail) == (0, "")


def test_no_command_minds_a_pipe_that_is_closed(tmp_path):
    assert piped(command(*SHORT, results_dir=tmp_path), "| true") == (0, "")
    (run,) = read_runs(tmp_path / "runs")
    python = [sys.executable, "-m"]
    for arguments in (
        [sys.executable, "run.py", "--help"],
        [sys.executable, "run.py", "--cfg", "job"],
        [*python, "convexinit_paper.figures", "figure-1", "--out", tmp_path / "out"],
        [*python, "convexinit_paper.figures", "--help"],
        [*python, "convexinit_paper.repeat", run.folder, "--results-dir", tmp_path / "again"],
        [*python, "convexinit_paper.tracking", run.folder, "--folder", tmp_path / "wandb"],
        [*python, "convexinit_paper.demo", "--help"],
        [sys.executable, "scripts/record_runs.py", "--runs", tmp_path / "runs", "--out", tmp_path],
    ):
        assert piped(arguments, "| true") == (0, ""), arguments


# --- Missing packages ----------------------------------------------------------------------------


@pytest.mark.parametrize("path", [str(ROOT / "src"), ""])
@pytest.mark.parametrize("script", ["run.py", "scripts/download_data.py"])
def test_without_the_packages_of_the_pipeline_there_is_one_line(script, path):
    if script != "run.py" and not path:
        pytest.skip("needs the project itself")
    result = subprocess.run(
        [sys.executable, "-S", script],  # -S: without installed packages
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment(PYTHONPATH=path),
        check=False,
    )
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert "make install" in line
