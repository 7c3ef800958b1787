"""Stored runs: written completely or not at all, found again, read back as one table."""

import errno
import json
import multiprocessing
import os
import signal
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from convexinit_paper.store import runs
from convexinit_paper.store.errors import RunError
from convexinit_paper.store.identity import identity, is_stored, run_folder
from convexinit_paper.store.locks import staging
from convexinit_paper.store.provenance import git_revision
from convexinit_paper.store.runs import COLUMNS, Outcome, read_run, read_runs, store, tidy_table
from support.runs import config_of, mounted, outcome_of, write


def test_a_run_is_read_back_as_it_was_written(tmp_path):
    config = config_of(tmp_path)
    folder = write(config)
    run = read_run(folder)
    assert run.config == config
    pd.testing.assert_frame_equal(run.metrics, outcome_of().metrics)
    assert run.summary["seeds"]["1"] == {"status": "diverged", "step": 3}
    assert run.summary["wall_time_seconds"] == 1.5
    assert run.summary["device"] == "a processor"
    assert run.summary["packages"]["torch"]
    assert np.array_equal(run.arrays["matrix"], np.eye(3))
    assert sorted(path.name for path in folder.parent.iterdir()) == [folder.name]


def test_places_and_logging_do_not_change_where_a_run_is_found(tmp_path):
    config = config_of(tmp_path)
    same = {**config, "data_dir": "/elsewhere", "force": True, "logger": {"name": "wandb"}}
    assert run_folder(same) == run_folder(config)
    for other in ({"seeds": [0]}, {"model": {"name": "icnn", "rho": 0.4}}, {"trainer": {}}):
        assert run_folder({**config, **other}) != run_folder(config)
    assert "results_dir" not in identity(config)


def test_a_number_may_be_written_in_two_ways(tmp_path):
    assert run_folder(config_of(tmp_path, decay=0)) == run_folder(config_of(tmp_path, decay=0.0))
    assert run_folder(config_of(tmp_path, decay=0)) != run_folder(config_of(tmp_path, decay=False))


def test_two_processes_that_store_the_same_run_at_once(tmp_path):
    config = config_of(tmp_path)
    for _ in range(20):
        with ThreadPoolExecutor(4) as pool:
            folders = list(pool.map(lambda value: write(config, value), [1.0, 2.0, 3.0, 4.0]))
        assert set(folders) == {run_folder(config)}
        assert read_run(folders[0]).metrics["value"].diff().iloc[1] == 1.0
        assert [path.name for path in folders[0].parent.iterdir()] == [folders[0].name]


def test_a_run_that_cannot_be_replaced_stays(tmp_path, monkeypatch):
    folder = write(config_of(tmp_path), 1.0)
    rename = Path.rename

    def fail_for_new_runs(self, target):
        if self.name.startswith(".") and Path(target) == folder:
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", fail_for_new_runs)
    with pytest.raises(RunError, match="Input/output error"):
        write(config_of(tmp_path), 2.0)
    assert read_run(folder).metrics["value"].tolist() == [1.0, 2.0]


def test_the_order_of_options_does_not_matter(tmp_path):
    config = config_of(tmp_path)
    assert run_folder(dict(reversed(config.items()))) == run_folder(config)


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


def store_for_ever(results_dir):
    config = config_of(results_dir)
    value = 0.0
    while True:
        write({**config, "seeds": [int(value)]}, value)
        write(config, value)
        value += 1.0


def test_no_half_written_run_is_read_after_a_kill(tmp_path):
    """SIGKILL at random moments while runs are written and replaced."""
    context = multiprocessing.get_context("fork")
    for attempt in range(20):
        process = context.Process(target=store_for_ever, args=(tmp_path,))
        process.start()
        time.sleep(0.2 + 0.017 * attempt)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        runs = read_runs(tmp_path / "runs")
        for run in runs:
            assert len(run.metrics) == 2
            assert run.metrics["value"].diff().iloc[1] == 1.0
            assert run.arrays["matrix"].shape == (3, 3)
    assert len(runs) > 1


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


def test_a_read_only_place_is_noticed_before_the_work_starts(tmp_path):
    place = tmp_path / "mount"
    mounted(place, "ro,size=1m")
    try:
        with (
            pytest.raises(RunError, match=r"Read-only file system.*\n.*results_dir"),
            staging(run_folder(config_of(place))),
        ):
            pytest.fail("work started")
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_full_disk_loses_no_finished_run(tmp_path):
    place = tmp_path / "mount"
    mounted(place, "size=200k")
    try:
        kept = write(config_of(place))
        large = config_of(place, seeds=[7])
        outcome = outcome_of()
        metrics = pd.concat([outcome.metrics] * 20_000)
        with (
            pytest.raises(RunError, match=r"No space left on device.*\n.*results_dir"),
            staging(run_folder(large)) as staged,
        ):
            store(staged, run_folder(large), large, Outcome(metrics, {}, "x"), 1.0)
        assert [run.folder for run in read_runs(place / "runs")] == [kept]
        assert list(kept.parent.iterdir()) == [kept]
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_many_runs_become_one_tidy_table(tmp_path):
    write(config_of(tmp_path))
    write(config_of(tmp_path, model={"name": "nonconvex"}), 5.0)
    write(config_of(tmp_path, name="mnist", dataset={"name": "mnist"}), 7.0)
    table = tidy_table(read_runs(tmp_path / "runs"))
    assert list(table.columns) == ["run", "experiment", "dataset", "model", *COLUMNS]
    assert set(zip(table["experiment"], table["model"], table["value"], strict=True)) == {
        ("digits", "icnn", 1.0),
        ("digits", "icnn", 2.0),
        ("digits", "nonconvex", 5.0),
        ("digits", "nonconvex", 6.0),
        ("mnist", "icnn", 7.0),
        ("mnist", "icnn", 8.0),
    }
    assert len(read_runs(tmp_path / "runs", "mnist")) == 1
    assert tidy_table([]).empty


def test_nan_survives_the_round_trip(tmp_path):
    config = config_of(tmp_path)
    folder = write(config, float("nan"))
    assert read_run(folder).metrics["value"].isna().all()
    assert json.loads((folder / "summary.json").read_text())["git_revision"]


def test_the_revision_says_whether_the_tree_was_changed(tmp_path, monkeypatch):
    def git(*arguments):
        options = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        return subprocess.run(
            ["git", "-C", tmp_path, *options, *arguments],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()

    source = tmp_path / "src" / "convexinit"
    source.mkdir(parents=True)
    monkeypatch.setattr(runs, "__file__", str(source / "runs.py"))
    git("init")
    (source / "runs.py").touch()
    git("add", ".")
    git("commit", "-m", "first")
    git("tag", "-a", "v1", "-m", "a tag")
    revision = git("rev-parse", "HEAD")
    ask = git_revision.__wrapped__  # past the cache
    (tmp_path / "sweep.log").touch()
    assert ask() == revision
    (source / "added.py").touch()
    assert ask() == f"{revision}-dirty"
    git("add", ".")
    git("commit", "-m", "second")
    assert ask() == git("rev-parse", "HEAD")
    (source / "runs.py").write_text("changed")
    assert ask() == f"{git('rev-parse', 'HEAD')}-dirty"
    monkeypatch.setenv("PATH", str(tmp_path))
    assert ask() == "unknown"
