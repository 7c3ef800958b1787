"""Kills at random moments, processes that compete, damaged files: nothing finished is ever lost.

Runs are stored by real processes through ``run_experiment``; only the experiment itself is replaced
by one that takes milliseconds.
"""

import contextlib
import errno
import multiprocessing
import os
import random
import signal
import subprocess
import time
import types
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from convexinit_paper import experiments
from convexinit_paper.experiments import request_of, run_experiment
from convexinit_paper.store import runs
from convexinit_paper.store.errors import RunError
from convexinit_paper.store.failures import failure_log
from convexinit_paper.store.locks import claimed
from convexinit_paper.store.runs import COLUMNS, Outcome, is_intact, read_runs
from support.commands import VARIANTS, start_sweep
from support.runs import config_of, mounted

FORK = multiprocessing.get_context("fork")
RHOS = [0.1, 0.2, 0.3, 0.4, 0.5]


@dataclass(frozen=True)
class FakeDataset:
    pass


@dataclass(frozen=True)
class FakeModel:
    rho: float


@dataclass(frozen=True)
class FakeSettings:
    dataset: FakeDataset
    model: FakeModel


@pytest.fixture
def fake(monkeypatch):
    """A module in the place of an experiment; its ``run`` may be replaced."""
    module = types.SimpleNamespace(Settings=FakeSettings, run=measure)
    monkeypatch.setattr(experiments, "task_module", lambda task: module)
    return module


def measure(settings, request):
    """Numbers that depend on the settings alone."""
    time.sleep(0.003)
    rng = np.random.default_rng(round(100 * settings.model.rho))
    rows = [
        (seed, 1, step, "train", "batch_loss", value)
        for seed in request.seeds
        for step, value in enumerate(rng.normal(size=40).round(6), start=1)
    ]
    table = pd.DataFrame(rows, columns=COLUMNS)
    seeds = {seed: {"status": "finished"} for seed in request.seeds}
    return Outcome(table, seeds, "none", {"matrix": rng.normal(size=(3, 3))})


def request(results_dir, rho, **options):
    return {
        **config_of(results_dir, **options),
        "task": "training_dynamics",
        "model": {"name": "icnn", "rho": rho},
        "seeds": 2,
    }


def sweep(results_dir):
    for rho in RHOS:
        run_experiment(request(results_dir, rho))


def force_for_ever(results_dir):
    while True:
        run_experiment(request(results_dir, RHOS[0], force=True))


def kill_after(seconds, target, *arguments):
    process = FORK.Process(target=target, args=arguments)
    process.start()
    time.sleep(seconds)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    return process.exitcode


def visible(results_dir):
    return {run.folder: run.metrics for run in read_runs(results_dir / "runs")}


def hidden(results_dir):
    return [path for path in results_dir.rglob("*") if path.name.startswith(".")]


def test_sweeps_killed_at_random_moments_complete_with_the_same_numbers(fake, tmp_path):
    begin = time.monotonic()
    sweep(tmp_path / "calm")
    longest = time.monotonic() - begin  # a busy machine takes longer
    calm = {folder.name: table for folder, table in visible(tmp_path / "calm").items()}
    assert len(calm) == len(RHOS)
    chance = random.Random(0)
    kills, begun, completed = 0, 0, 0
    while kills < 40:
        results = tmp_path / f"killed-{begun}"
        begun += 1
        before = {}
        while len(before) < len(RHOS) and kills < 40:
            kills += kill_after(chance.uniform(0, longest), sweep, results) == -signal.SIGKILL
            now = {folder: folder.stat().st_ino for folder in visible(results)}
            assert before.items() <= now.items()  # neither lost nor made again
            before = now
            for folder, table in visible(results).items():
                pd.testing.assert_frame_equal(table, calm[folder.name])
        sweep(results)
        after = visible(results)
        assert {folder.name for folder in after} == set(calm)
        for folder, table in after.items():
            pd.testing.assert_frame_equal(table, calm[folder.name])
        # Staging folders are gone; a lock's file may be left of a kill just after a run was stored.
        assert all(path.suffix == ".lock" for path in hidden(results))
        for rho in RHOS:
            run_experiment(request(results, rho, force=True))
        assert hidden(results) == []
        completed += 1
    assert completed >= 2


def test_a_forced_run_that_is_killed_never_hides_the_old_one(fake, tmp_path):
    folder = run_experiment(request(tmp_path, RHOS[0]))
    expected = pd.read_csv(folder / "metrics.csv")
    chance = random.Random(1)
    for _ in range(20):
        exit_code = kill_after(chance.uniform(0.02, 0.08), force_for_ever, tmp_path)
        assert exit_code == -signal.SIGKILL
        assert is_intact(folder)
        pd.testing.assert_frame_equal(pd.read_csv(folder / "metrics.csv"), expected)


def test_without_exchange_of_folders_the_next_request_brings_the_old_run_back(
    fake, tmp_path, monkeypatch
):
    """Killed exactly between the two renames, where the file system has no exchange (NFS)."""
    monkeypatch.setattr(runs, "_exchange", lambda *_: False)
    folder = run_experiment(request(tmp_path, RHOS[0]))
    inode = folder.stat().st_ino

    def forced_and_killed():
        rename = Path.rename

        def rename_and_die(self, target):
            result = rename(self, target)
            if Path(target).parent.name.startswith(".old-"):
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        Path.rename = rename_and_die
        run_experiment(request(tmp_path, RHOS[0], force=True))

    process = FORK.Process(target=forced_and_killed)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not folder.exists()

    fake.run = lambda *_: pytest.fail("computed again")
    assert run_experiment(request(tmp_path, RHOS[0])) == folder
    assert folder.stat().st_ino == inode
    assert hidden(tmp_path) == []


def check_replacement(results_dir):
    folder = run_experiment(request(results_dir, RHOS[0]))
    inode = folder.stat().st_ino
    run_experiment(request(results_dir, RHOS[0], force=True))
    assert folder.stat().st_ino != inode
    assert is_intact(folder)
    assert hidden(results_dir) == []


def test_a_run_is_replaced_in_one_step_where_that_is_possible(fake, tmp_path, monkeypatch):
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        folder.mkdir()
        (folder / folder.name).touch()
    if not runs._exchange(one, other):
        pytest.skip("this file system cannot exchange folders")
    assert (one / "other").exists()
    assert (other / "one").exists()
    monkeypatch.setattr(runs, "_replace_in_two_steps", lambda *_: pytest.fail("two steps"))
    check_replacement(tmp_path)


def test_two_steps_replace_a_run_too(fake, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "_exchange", lambda *_: False)
    check_replacement(tmp_path)


def test_sweeps_at_the_same_time_share_the_work(fake, tmp_path, capfd):
    """Every run is computed once, by one of four identical sweeps."""
    log = tmp_path / "log"

    def counted(settings, request):
        with log.open("a") as file:
            file.write(f"{settings.model.rho}\n")
        time.sleep(0.05)
        return measure(settings, request)

    fake.run = counted
    processes = [FORK.Process(target=sweep, args=(tmp_path / "results",)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert sorted(map(float, log.read_text().split())) == RHOS
    assert len(visible(tmp_path / "results")) == len(RHOS)
    assert hidden(tmp_path) == []
    message = capfd.readouterr().err
    assert "waiting for process" in message
    assert str(tmp_path / "results" / "runs" / "digits" / "icnn-") in message


def test_the_lock_of_a_dead_process_holds_nobody_up(fake, tmp_path):
    config = request(tmp_path, RHOS[0])

    def hold():
        with claimed(request_of(config).folder):
            signal.pause()

    assert kill_after(0.3, hold) == -signal.SIGKILL
    assert [path.suffix for path in hidden(tmp_path)] == [".lock"]
    begin = time.monotonic()
    run_experiment(config)
    assert time.monotonic() - begin < 2
    assert hidden(tmp_path) == []


def test_a_lock_is_held_until_the_work_is_done(tmp_path):
    folder = tmp_path / "runs" / "digits" / "icnn-0"
    log = tmp_path / "log"

    def work(name):
        with claimed(folder), log.open("a", buffering=1) as file:
            for _ in range(20):
                file.write(f"{name}\n")
                time.sleep(0.001)

    processes = [FORK.Process(target=work, args=(name,)) for name in "abcdefgh"]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    lines = log.read_text().split()
    groups = [lines[start : start + 20] for start in range(0, len(lines), 20)]
    assert sorted(group[0] for group in groups) == list("abcdefgh")
    assert all(len(set(group)) == 1 for group in groups)


def test_the_file_of_a_lock_goes_before_the_lock(tmp_path, monkeypatch):
    """Else another process could lock the file just before it loses its name."""
    release, seen = runs.FileLock.release, []

    def watched(self, *arguments, **options):
        seen.append(Path(self.lock_file).exists())
        release(self, *arguments, **options)

    monkeypatch.setattr(runs.FileLock, "release", watched)
    with claimed(tmp_path / "runs" / "digits" / "icnn-0"):
        assert len(hidden(tmp_path)) == 1
    assert seen[0] is False


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_where_there_are_no_locks_runs_are_made_without(fake, tmp_path, monkeypatch, number):
    def no_locks(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", no_locks)
    assert is_intact(run_experiment(request(tmp_path, RHOS[0])))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metrics.csv", None),
        ("metrics.csv", b""),
        ("metrics.csv", b"seed,epoch,step,split,metric,value\n0,1,1,train,batch_l"),
        ("metrics.csv", b"seed,epoch,step,split,metric,value\n0,1,1,train,batch_loss,0.1"),
        ("summary.json", None),
        ("summary.json", b'{"seeds": {'),
        ("config.yaml", b"{ ["),
        ("config.yaml", b"name: ${"),
        ("config.yaml", b"name: digits\nseeds: [0, 1]\nmodel: {name: icnn}\n"),
        ("arrays.npz", b"PK\3\4"),
        ("arrays.npz", b""),
        ("arrays.npz", None),
    ],
)
def test_a_damaged_run_is_set_aside_and_computed_again(fake, tmp_path, capfd, name, content):
    folder = run_experiment(request(tmp_path, RHOS[0]))
    before = pd.read_csv(folder / "metrics.csv")
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(content)
    assert run_experiment(request(tmp_path, RHOS[0])) == folder
    pd.testing.assert_frame_equal(pd.read_csv(folder / "metrics.csv"), before)
    [aside] = (tmp_path / "damaged" / "digits").iterdir()
    if content is not None:
        assert (aside / name).read_bytes() == content
    message = capfd.readouterr().err
    assert str(folder) in message
    assert str(aside) in message
    assert len(read_runs(tmp_path / "runs")) == 1


@pytest.mark.parametrize("name", ["config.yaml", "metrics.csv", "arrays.npz"])
def test_no_byte_of_a_run_can_change_unnoticed(fake, tmp_path, name):
    path = run_experiment(request(tmp_path, RHOS[0])) / name
    content = path.read_bytes()
    for position in range(0, len(content), len(content) // 40):
        path.write_bytes(
            content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]
        )
        assert not is_intact(path.parent)
    lines = content.splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:-1]))  # cut off between two lines
    assert not is_intact(path.parent)
    path.write_bytes(content)
    assert is_intact(path.parent)


def test_a_failure_is_recorded_until_the_run_succeeds(fake, tmp_path):
    def fail(*_):
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "a.csv")

    fake.run = fail
    log = failure_log(request_of(request(tmp_path, RHOS[0])).folder)
    with pytest.raises(FileNotFoundError):
        run_experiment(request(tmp_path, RHOS[0]))
    assert log.read_text().startswith("a.csv: No such file or directory")
    assert "raise FileNotFoundError(errno.ENOENT" in log.read_text()
    fake.run = measure
    run_experiment(request(tmp_path, RHOS[0]))
    assert not log.exists()


def test_being_stopped_is_no_failure(fake, tmp_path):
    def stopped(*_):
        raise KeyboardInterrupt

    fake.run = stopped
    with pytest.raises(KeyboardInterrupt):
        run_experiment(request(tmp_path, RHOS[0]))
    assert not (tmp_path / "failed").exists()
    assert hidden(tmp_path) == []


@contextlib.contextmanager
def tmpfs(folder, options):
    mounted(folder, options)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def remount(folder, options):
    subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True)


def test_a_sweep_on_a_full_disk_goes_on_when_there_is_space(fake, tmp_path):
    with tmpfs(tmp_path / "mount", "size=48k") as place:
        with pytest.raises(RunError, match=r"No space left on device"):
            sweep(place)
        kept = visible(place)
        assert 1 <= len(kept) < len(RHOS)
        assert [path for path in hidden(place) if path.suffix != ".lock"] == []
        remount(place, "size=2m")
        sweep(place)
        assert len(visible(place)) == len(RHOS)
        assert {folder.stat().st_ino for folder in kept} <= {
            folder.stat().st_ino for folder in visible(place)
        }


def test_stored_runs_are_found_on_read_only_storage(fake, tmp_path):
    with tmpfs(tmp_path / "mount", "size=2m") as place:
        folder = run_experiment(request(place, RHOS[0]))
        remount(place, "ro")
        assert run_experiment(request(place, RHOS[0])) == folder
        with pytest.raises(RunError, match=r"Read-only file system.*\n.*results_dir"):
            run_experiment(request(place, RHOS[1]))


def test_two_real_sweeps_at_the_same_time(tmp_path):
    options = ("seeds=1", "trainer.epochs=2", f"model={VARIANTS}")
    sweeps = [start_sweep(tmp_path, *options) for _ in range(2)]
    for process in sweeps:
        _, message = process.communicate(timeout=120)
        assert process.returncode == 0, message
    assert len(visible(tmp_path)) == 4
    assert hidden(tmp_path / "runs") == []
    assert not (tmp_path / "damaged").exists()
