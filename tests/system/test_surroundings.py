"""Commands where users call them: beside notebooks, in any locale, in pipes and shared folders."""

import os
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from convexinit_paper.request.command import run_reported
from convexinit_paper.store.runs import read_runs
from support.commands import SHORT, command, environment, run, run_prepared
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


def test_what_cannot_be_written_is_said_once_and_the_run_is_stored(tmp_path):
    """As where the disk that the output goes to is full."""
    said = "error: the output of this command cannot be written: No space left on device\n"
    arguments = command(*SHORT, results_dir=tmp_path)
    assert piped(arguments, "> /dev/full") == (1, said)
    assert len(read_runs(tmp_path / "runs")) == 1
    assert piped([sys.executable, "run.py", "--help"], "> /dev/full") == (1, said)
    assert piped(arguments, "2> /dev/full") == (0, "")


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


# --- Locales -------------------------------------------------------------------------------------


# Of the last one Python cannot encode again what it has decoded.
@pytest.fixture(params=["C", "de_DE.ISO-8859-1", "ja_JP.EUC-JP"])
def locale(request, tmp_path_factory):
    """Variables of a locale whose encoding is not UTF-8."""
    variables = {"LC_ALL": request.param, "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    if request.param != "C":
        place = tmp_path_factory.mktemp("locales")
        made = shutil.which("localedef") and subprocess.run(
            ["localedef", "-i", *request.param.replace(".", " -f ").split(), place / request.param],
            capture_output=True,
            check=False,
        )
        if not (place / request.param).is_dir():
            pytest.skip(f"this system cannot make the locale {request.param}: {made}")
        variables["LOCPATH"] = str(place)
    return variables


def bytes_of(arguments, **variables):
    return subprocess.run(
        list(map(str, arguments)),
        capture_output=True,
        cwd=ROOT,
        env=environment(**variables),
        timeout=300,
        check=False,
    )


def test_runs_are_the_same_in_every_locale(tmp_path, locale):
    results, title = tmp_path / "Größe ρ", 'model.title="Größe ρ"'
    ask = [sys.executable, "run.py", *SHORT, title, f'results_dir="{results}"']
    result = bytes_of(ask, **locale)
    assert (result.returncode, result.stderr) == (0, b"")
    folder = Path(result.stdout.decode().strip().removeprefix("run: "))
    assert folder.parents[2] == results
    config = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    assert (config["model"]["title"], config["results_dir"]) == ("Größe ρ", str(results))
    before = (folder / "summary.json").stat().st_mtime_ns
    for variables in (locale, {}, locale | {"PYTHONIOENCODING": "ascii"}):
        again = bytes_of(ask, **variables)
        assert (again.returncode, again.stderr) == (0, b"")
        if "PYTHONIOENCODING" not in variables:
            assert again.stdout == result.stdout
    assert (folder / "summary.json").stat().st_mtime_ns == before
    assert [path.name for path in results.iterdir()] == ["runs"]
    assert [path.name for path in tmp_path.iterdir()] == [results.name]


def test_sweeps_and_failures_in_other_locales(tmp_path, locale):
    results = tmp_path / "Größe"
    sweep = ["-m", "hydra/launcher=joblib", *SHORT, "model.rho=0.5,0.6", 'model.title="ρ"']
    result = bytes_of([sys.executable, "run.py", *sweep, f'results_dir="{results}"'], **locale)
    assert result.returncode == 0, result.stderr
    assert len(read_runs(results / "runs")) == 2
    failed = bytes_of(
        [sys.executable, "run.py", "-m", 'model.activation="ρ",tanh', f'results_dir="{results}"'],
        **locale,
    )
    assert failed.returncode == 1
    assert b"Traceback" not in failed.stderr
    assert "'ρ'" in failed.stderr.decode()
    assert sum("'ρ'" in log.read_text(encoding="utf-8") for log in results.glob("failed/*/*")) == 1


def test_figures_in_other_locales(tmp_path, locale):
    root, out = tmp_path / "Größe" / "runs", tmp_path / "Bilder ä"
    drawn = bytes_of(
        [sys.executable, "-m", "convexinit_paper.figures", "figure-9", "--out", out], **locale
    )
    assert drawn.returncode == 0, drawn.stderr
    assert "ρ" in (out / "tables" / "figure-9.csv").read_text(encoding="utf-8")
    root.mkdir(parents=True)
    none = bytes_of(
        [sys.executable, "-m", "convexinit_paper.figures", "figure-2", "--runs", root], **locale
    )
    assert none.returncode == 1
    assert f"""'results_dir="{root.parent}"'""" in none.stdout.decode()


def test_file_names_that_are_not_utf_8(tmp_path):
    results = os.fsencode(tmp_path) + b"/Gr\xf6\xdfe"
    ask = [sys.executable, "run.py", *SHORT, b'results_dir="' + results + b'"']
    for _ in range(2):
        result = subprocess.run(ask, capture_output=True, cwd=ROOT, env=environment(), check=False)
        assert (result.returncode, result.stderr) == (0, b"")
        assert result.stdout.startswith(b"run: " + results)
    assert [path.name for path in Path(os.fsdecode(results)).iterdir()] == ["runs"]


# --- Home folders --------------------------------------------------------------------------------


def in_home(tmp_path, *options):
    """``run.py`` in one folder, with another one as home."""
    for name in ("home", "here"):
        (tmp_path / name).mkdir(exist_ok=True)
    return run_prepared(
        *SHORT, *options, cwd=tmp_path / "here",
        HOME=str(tmp_path / "home"), PYTHONPATH=str(ROOT / "src"),
    )  # fmt: skip


@pytest.mark.parametrize("flags", [(), ("-m",), ("-m", "hydra/launcher=joblib")])
@pytest.mark.parametrize("quote", ["", '"'])
def test_results_in_the_home_folder(tmp_path, flags, quote):
    options = (*flags, f"results_dir={quote}~/runs{quote}")
    first = in_home(tmp_path, *options)
    assert first.returncode == 0, first.stderr
    (run,) = read_runs(tmp_path / "home" / "runs" / "runs")
    assert first.stdout == f"run: {run.folder}\n"
    before = (run.folder / "summary.json").stat().st_mtime_ns
    assert in_home(tmp_path, *options).stdout == first.stdout
    assert (run.folder / "summary.json").stat().st_mtime_ns == before
    assert list((tmp_path / "here").iterdir()) == []


@pytest.mark.parametrize(
    "options",
    [
        ("results_dir=~no-such-user/x",),
        ("-m", "results_dir=~no-such-user/x"),
        ("results_dir=$HOME/x",),
        ("data_dir=~no-such-user/x", "results_dir=~/runs"),
        ("logger=wandb", "logger.folder=~no-such-user/x", "results_dir=~/runs"),
        ("hydra.run.dir=~/x", "results_dir=~/runs"),
        ("-m", "hydra.sweep.dir='~/x'", "results_dir=~/runs"),
        ("-m", "hydra/launcher=local", "hydra.launcher.submitit_folder=~/x", "results_dir=~/runs"),
    ],
)
def test_paths_that_stand_for_no_folder_are_refused_before_work_begins(tmp_path, options):
    result = in_home(tmp_path, *options)
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) <= 10
    assert "is no" in result.stderr  # replaced, or home folder
    assert list((tmp_path / "here").iterdir()) == list((tmp_path / "home").iterdir()) == []


def test_a_folder_of_data_that_is_set_to_nothing_is_not_set(tmp_path):
    assert run(*SHORT, results_dir=tmp_path / "runs", CONVEXINIT_DATA="").returncode == 0
    result = run("experiment=mnist", results_dir=tmp_path / "runs", CONVEXINIT_DATA="")
    assert f"--data-dir {ROOT / 'data'}" in result.stderr


@pytest.mark.parametrize(
    "program",
    [
        *([f"{ROOT / 'scripts' / name}.py"] for name in ("benchmark", "record_runs")),
        *(["-m", f"convexinit_paper.{name}"] for name in ("figures", "repeat", "tracking")),
    ],
)
def test_ctrl_c_ends_every_command_without_a_traceback(program, tmp_path):
    # As soon as the command begins to read its arguments.
    (tmp_path / "sitecustomize.py").write_text(
        "import argparse, signal\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "argparse.ArgumentParser.parse_args = lambda *_: signal.raise_signal(signal.SIGINT)\n"
    )
    path = os.pathsep.join([str(tmp_path), str(ROOT / "src")])
    done = subprocess.run(
        [sys.executable, *program], capture_output=True, text=True, check=False,
        env=environment(PYTHONPATH=path),
    )  # fmt: skip
    assert done.returncode == -signal.SIGINT
    assert done.stderr == "\nInterrupted.\n"


def test_an_error_that_comes_of_ctrl_c_is_none(capsys):
    def interrupted():
        try:
            raise KeyboardInterrupt
        finally:
            raise AttributeError("half made")

    with pytest.raises(SystemExit) as end:
        run_reported(interrupted)
    assert end.value.code == 130
    assert capsys.readouterr().err.startswith("\nInterrupted. ")
