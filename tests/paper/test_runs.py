"""Stored runs: written completely or not at all, and read back."""

import errno
import json
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from convexinit_paper.store import provenance
from convexinit_paper.store.errors import RunError
from convexinit_paper.store.identity import run_folder
from convexinit_paper.store.locks import claimed
from convexinit_paper.store.provenance import git_revision
from convexinit_paper.store.runs import COLUMNS, is_stored, read_run, read_runs
from convexinit_paper.store.staging import staging
from support.runs import config_of, hidden, outcome_of, rewrite, write


def test_a_run_is_read_back_as_it_was_written(tmp_path):
    config = config_of(tmp_path)
    folder = write(config)
    run = read_run(folder)
    assert run.config == config
    pd.testing.assert_frame_equal(run.metrics, outcome_of().metrics)
    assert run.summary["seeds"]["1"] == {"status": "diverged", "step": 3}
    assert run.diverged == {1}
    assert run.summary["wall_time_seconds"] == 1.5
    assert run.summary["device"] == "a processor"
    assert run.summary["packages"]["torch"]
    assert np.array_equal(run.arrays["matrix"], np.eye(3))
    assert sorted(path.name for path in folder.parent.iterdir()) == [folder.name]


def test_two_processes_that_store_the_same_run_at_once(tmp_path):
    config = config_of(tmp_path)
    for _ in range(20):
        with ThreadPoolExecutor(4) as pool:
            folders = list(pool.map(lambda value: write(config, value), [1.0, 2.0, 3.0, 4.0]))
        assert set(folders) == {run_folder(config)}
        assert read_run(folders[0]).metrics["value"].diff().iloc[1] == 1.0
        assert [path.name for path in folders[0].parent.iterdir()] == [folders[0].name]


@pytest.mark.parametrize("works_again", [False, True])
def test_a_run_that_cannot_be_replaced_stays(tmp_path, monkeypatch, works_again):
    """Beside its place, if it cannot be moved back either."""
    folder = write(config_of(tmp_path), 1.0)
    rename = Path.rename

    def broken(self, target):
        if target == folder and not (works_again and self.name == folder.name):
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    with monkeypatch.context() as patches:
        patches.setattr(Path, "rename", broken)
        with pytest.raises(RunError, match="Input/output error"):
            write(config_of(tmp_path), 2.0)
    assert folder.exists() == works_again
    [run] = read_runs(tmp_path / "runs")
    with claimed(folder):
        assert read_run(folder).metrics["value"].tolist() == [1.0, 2.0]
    assert run.folder.name == folder.name
    assert hidden(tmp_path) == []


def test_storing_again_replaces_the_run(tmp_path):
    config = config_of(tmp_path)
    write(config, 1.0)
    folder = write(config, 2.0)
    assert read_run(folder).metrics["value"].tolist() == [2.0, 3.0]
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_a_failure_leaves_nothing_behind(tmp_path):
    folder = run_folder(config_of(tmp_path))

    class AnyError(Exception):
        pass

    with pytest.raises(AnyError), staging(folder) as place:  # noqa: PT012
        (place / "metrics.csv").write_text("half")
        raise AnyError
    assert not folder.exists()
    assert list(folder.parent.iterdir()) == []


def test_runs_of_one_experiment_or_of_all(tmp_path):
    runs = [write(config_of(tmp_path, name=name)) for name in ("digits", "mnist")]
    assert [run.folder for run in read_runs(tmp_path / "runs")] == runs
    assert [run.folder for run in read_runs(tmp_path / "runs", "mnist")] == runs[1:]
    assert read_runs(tmp_path / "elsewhere") == []


def test_incomplete_and_hidden_folders_are_not_runs(tmp_path):
    folder = write(config_of(tmp_path))
    half = folder.with_name("half-1234567890")
    half.mkdir()
    (half / "summary.json").write_text("{}")
    hidden = folder.with_name(".digits-abc")
    folder.rename(hidden)
    assert not is_stored(half)
    assert read_runs(tmp_path / "runs") == []


@pytest.mark.parametrize("name", ["summary.json", "config.yaml", "metrics.csv", "arrays.npz"])
def test_a_damaged_run_is_named(tmp_path, name):
    folder = write(config_of(tmp_path))
    (folder / name).write_text("{ [")
    with pytest.raises(RunError, match=folder.name):
        _ = [read_run(folder).metrics, read_run(folder).arrays]


def test_metrics_that_are_not_as_they_were_written_are_not_read(tmp_path):
    folder = write(config_of(tmp_path))
    path = folder / "metrics.csv"
    path.write_text(path.read_text().replace("batch_loss,1", "batch_loss,9"))
    with pytest.raises(RunError, match=r"metrics\.csv is not as it was written"):
        _ = read_run(folder).metrics


@pytest.mark.parametrize("row", ["x,1,1,train,loss,1", "0,,1,train,loss,1", "0,1,1,train,loss,x"])
def test_words_in_the_place_of_numbers_are_no_metrics(tmp_path, row):
    folder = write(config_of(tmp_path))
    rewrite(folder, pd.DataFrame([row.split(",")], columns=COLUMNS))
    with pytest.raises(RunError, match="cannot be read"):
        _ = read_run(folder).metrics


def test_nan_survives_the_round_trip(tmp_path):
    config = config_of(tmp_path)
    folder = write(config, float("nan"))
    assert read_run(folder).metrics["value"].isna().all()
    assert json.loads((folder / "summary.json").read_text())["git_revision"]


def git(folder, *arguments):
    options = ("-c", "user.name=a", "-c", "user.email=a@b.c", "-c", "protocol.file.allow=always")
    return subprocess.run(
        ["git", "-C", folder, *options, *arguments],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A copy of the code, not in a repository, that is asked for its revision."""
    source = tmp_path / "project" / "src" / "convexinit"
    source.mkdir(parents=True)
    (source / "runs.py").touch()
    monkeypatch.setattr(provenance, "__file__", str(source / "runs.py"))
    return source


def commit(folder, what="."):
    git(folder, "add", what)
    git(folder, "commit", "-m", "a commit")
    return git(folder, "rev-parse", "HEAD")


ask = git_revision.__wrapped__  # past the cache


def test_the_revision_says_whether_the_tree_was_changed(source, monkeypatch):
    root = source.parents[1]
    git(root, "init")
    revision = commit(root)
    git(root, "tag", "-a", "v1", "-m", "a tag")
    (root / "sweep.log").touch()
    assert ask() == revision
    (source / "added.py").touch()
    assert ask() == f"{revision}-dirty"
    revision = commit(root)
    assert ask() == revision
    (source / "runs.py").write_text("changed")
    assert ask() == f"{revision}-dirty"
    monkeypatch.setenv("PATH", str(root))
    assert ask() == "unknown"


@pytest.mark.parametrize("ignored", [False, True])
def test_a_copy_inside_another_repository_has_no_revision(source, tmp_path, ignored):
    git(tmp_path, "init")
    (tmp_path / ".gitignore").write_text("project\n" if ignored else "")
    (tmp_path / "thesis.tex").touch()
    commit(tmp_path, ".gitignore")
    commit(tmp_path, "thesis.tex")
    assert ask() == "unknown"


@pytest.mark.parametrize(
    "names", [["GIT_DIR"], ["GIT_DIR", "GIT_WORK_TREE"], ["GIT_DIR", "GIT_INDEX_FILE"]]
)
@pytest.mark.parametrize("tracked", [False, True])
def test_the_revision_is_not_of_a_repository_that_the_environment_names(
    source, tmp_path, monkeypatch, names, tracked
):
    root = source.parents[1]
    if tracked:
        git(root, "init")
    revision = commit(root) if tracked else "unknown"
    # With a file of the same name in the same place.
    other = tmp_path / "other"
    (other / "src" / "convexinit").mkdir(parents=True)
    (other / "src" / "convexinit" / "runs.py").write_text("another")
    git(other, "init")
    commit(other)
    places = {
        "GIT_DIR": other / ".git",
        "GIT_WORK_TREE": other,
        "GIT_INDEX_FILE": other / ".git/index",
    }
    for name in names:
        monkeypatch.setenv(name, str(places[name]))
    assert ask() == revision


def test_packages_that_are_not_installed_are_left_out(monkeypatch):
    monkeypatch.setattr(provenance, "PACKAGES", ("torch", "no-such-package"))
    assert list(provenance.provenance()["packages"]) == ["torch"]


def test_worktrees_and_submodules_have_their_own_revision(source, tmp_path, monkeypatch):
    root, outer = source.parents[1], tmp_path / "outer"
    git(root, "init")
    revision = commit(root)
    git(root, "worktree", "add", tmp_path / "tree")
    outer.mkdir()
    git(outer, "init")
    git(outer, "submodule", "add", root, "inner")
    commit(outer)
    for place in (tmp_path / "tree", outer / "inner"):
        copy = place / "src" / "convexinit" / "runs.py"
        monkeypatch.setattr(provenance, "__file__", str(copy))
        assert ask() == revision
        copy.write_text("changed")
        assert ask() == f"{revision}-dirty"
