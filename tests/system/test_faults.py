"""Kills at random moments, processes that compete, damaged files: nothing finished is ever lost.

Runs are stored by real processes through ``run_experiment``; only the experiment itself is replaced
by one that takes milliseconds.
"""

import dataclasses
import errno
import itertools
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import types
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from convexinit_paper import experiments
from convexinit_paper.experiments import request_of, run_experiment
from convexinit_paper.store import locks
from convexinit_paper.store.errors import AccessError, RunError
from convexinit_paper.store.failures import failure_log
from convexinit_paper.store.identity import run_folder
from convexinit_paper.store.locks import claimed
from convexinit_paper.store.runs import (
    COLUMNS,
    Outcome,
    is_intact,
    read_run,
    read_runs,
    seed_summary,
)
from convexinit_paper.store.staging import staging
from convexinit_paper.sweeps.sweep import jobs_of, summary, unfinished
from support.commands import VARIANTS, command, environment, folder_of, run, start_sweep
from support.runs import config_of, hidden, outcome_of, stored, tmpfs, write

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
    seeds = {seed: seed_summary(diverged=False) for seed in request.seeds}
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


def kill_after(seconds, target, *arguments):
    process = FORK.Process(target=target, args=arguments)
    process.start()
    time.sleep(seconds)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    return process.exitcode


def visible(results_dir):
    return {run.folder: run.metrics for run in read_runs(results_dir / "runs")}


def test_sweeps_killed_at_random_moments_complete_with_the_same_numbers(fake, tmp_path):
    begin = time.monotonic()
    sweep(tmp_path / "calm")
    longest = time.monotonic() - begin  # a busy machine takes longer
    calm = {folder.name: table for folder, table in visible(tmp_path / "calm").items()}
    assert len(calm) == len(RHOS)
    chance = random.Random(0)
    kills = 0
    for attempt in range(5):
        results = tmp_path / f"killed-{attempt}"
        before = {}
        for _ in range(8):
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
        # A lock's file or an empty folder may be left of a kill just after a run was stored.
        assert all(path.suffix == ".lock" or not [*path.iterdir()] for path in hidden(results))
        for rho in RHOS:
            run_experiment(request(results, rho, force=True))
        assert hidden(results) == []
    assert kills


def store_for_ever(results_dir):
    config = config_of(results_dir)
    for value in itertools.count():
        for some in ({**config, "seeds": [value]}, config):
            with claimed(run_folder(some)):
                write(some, value)


def test_no_half_written_run_is_read_after_a_kill(tmp_path):
    """SIGKILL at random moments while runs are written and replaced."""
    for attempt in range(10):
        assert kill_after(0.2 + 0.03 * attempt, store_for_ever, tmp_path) == -signal.SIGKILL
        runs = read_runs(tmp_path / "runs")
        for left in runs:
            assert len(left.metrics) == 2
            assert left.metrics["value"].diff().iloc[1] == 1.0
            assert left.arrays["matrix"].shape == (3, 3)
    assert len(runs) > 1


def die_before(change, results_dir):
    """Force a run, but die just before the given change of the file system, counted from 1."""
    changes = itertools.count(1)

    def watch(event, arguments):
        writes = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        changed = writes or event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir")
        if changed and next(changes) == change:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    run_experiment(request(results_dir, RHOS[0], force=True))


def test_a_forced_run_killed_at_any_moment_leaves_the_old_run_or_the_new_one(fake, tmp_path):
    def another(settings, request):
        return measure(FakeSettings(settings.dataset, FakeModel(RHOS[1])), request)

    def numbers(run):
        return run.metrics["value"].tolist()

    seen, moved = [], 0
    for change in itertools.count(1):
        results = tmp_path / str(change)
        fake.run = measure
        folder = run_experiment(request(results, RHOS[0]))
        old = numbers(read_run(folder))
        fake.run = another
        process = FORK.Process(target=die_before, args=(change, results))
        process.start()
        process.join()
        [left] = read_runs(results / "runs")
        seen.append(numbers(left) == old)
        moved += not folder.exists()
        fake.run = lambda *_: pytest.fail("computed again")
        assert run_experiment(request(results, RHOS[0])) == folder
        assert numbers(read_run(folder)) == numbers(left)
        fake.run = another
        run_experiment(request(results, RHOS[0], force=True))
        assert hidden(results) == []
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
    assert moved == 1  # between two renames, when the old run lies beside its place
    assert seen == sorted(seen, reverse=True)
    assert seen[0]
    assert not seen[-1]


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
    release, seen = locks.FileLock.release, []

    def watched(self, *arguments, **options):
        seen.append(Path(self.lock_file).exists())
        release(self, *arguments, **options)

    monkeypatch.setattr(locks.FileLock, "release", watched)
    with claimed(tmp_path / "runs" / "digits" / "icnn-0"):
        assert len(hidden(tmp_path)) == 1
    assert seen[0] is False


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK])
def test_where_there_are_no_locks_runs_are_made_without(fake, tmp_path, monkeypatch, number):
    def no_locks(*_):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("fcntl.flock", no_locks)
    folder = run_experiment(request(tmp_path, RHOS[0]))
    inode = folder.stat().st_ino
    assert run_experiment(request(tmp_path, RHOS[0], force=True)) == folder
    assert folder.stat().st_ino != inode
    assert is_intact(folder)


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


def test_a_full_disk_loses_no_finished_run(tmp_path):
    with tmpfs(tmp_path / "mount", "size=200k") as place:
        kept = write(config_of(place))
        large = outcome_of()
        large = dataclasses.replace(large, metrics=pd.concat([large.metrics] * 20_000))
        with pytest.raises(RunError, match=r"No space left on device.*\n.*results_dir"):
            stored(config_of(place, seeds=[7]), large)
        assert [run.folder for run in read_runs(place / "runs")] == [kept]
        assert list(kept.parent.iterdir()) == [kept]


def test_stored_runs_are_found_on_read_only_storage(fake, tmp_path):
    with tmpfs(tmp_path / "mount", "size=2m") as place:
        folder = run_experiment(request(place, RHOS[0]))
        remount(place, "ro")
        assert run_experiment(request(place, RHOS[0])) == folder
        fake.run = lambda *_: pytest.fail("work started")
        with pytest.raises(RunError, match=r"Read-only file system.*\n.*results_dir"):
            run_experiment(request(place, RHOS[1]))
        with (
            pytest.raises(RunError, match=r"Read-only file system.*\n.*results_dir"),
            staging(run_folder(config_of(place))),
        ):
            pytest.fail("work started")


# --- Runs of other users -------------------------------------------------------------------------


NOBODY = 65534


@pytest.fixture
def shared(tmp_path_factory):
    """A folder that everybody can write to, as ``tmp_path`` is not."""
    if os.getuid() != 0:
        pytest.skip("needs root, to become another user")
    with tempfile.TemporaryDirectory() as place:
        Path(place).chmod(0o777)
        yield Path(place)


def as_nobody(function, *arguments):
    """What another user gets: the result of a function, or the error that it raises."""
    receiver, sender = FORK.Pipe(duplex=False)

    def become_and_call():
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        try:
            sender.send(function(*arguments))
        except Exception as error:
            sender.send(error)

    process = FORK.Process(target=become_and_call)
    process.start()
    sender.close()
    result = receiver.recv()
    process.join()
    return result


def tree(folder):
    return sorted(path.relative_to(folder) for path in folder.rglob("*"))


@pytest.fixture
def colleague(fake, shared):
    """A run of root's in a shared folder; and the function under test may not compute it again."""
    folder = run_experiment(request(shared, RHOS[0]))
    for place in (shared / "runs", folder.parent):
        place.chmod(0o777)
    fake.run = lambda *_: pytest.fail("computed again")
    return folder


@pytest.mark.parametrize(
    "closed",
    [
        lambda folder: [folder],
        lambda folder: [*folder.iterdir()],
        lambda folder: [folder / "config.yaml"],
        lambda folder: [folder / "metrics.csv"],
        lambda folder: [folder / "arrays.npz"],
        lambda folder: [folder / "summary.json"],
        lambda folder: [folder, *folder.iterdir()],
        lambda folder: [folder.parent],
        lambda folder: [folder.parents[1]],
    ],
)
def test_a_run_that_only_its_owner_can_read_is_said_to_be_that(colleague, shared, closed):
    for place in closed(colleague):
        place.chmod(0o700 if place.is_dir() else 0o600)
    before = tree(shared)
    for error in (
        as_nobody(run_experiment, request(shared, RHOS[0])),
        as_nobody(lambda: [(one.arrays, one.metrics) for one in read_runs(shared / "runs")]),
    ):
        assert isinstance(error, AccessError)
        message = str(error)
        assert "cannot be read: Permission denied" in message
        assert "belongs to root" in message
        assert "chmod -R a+rX /" in message
        assert len(message.splitlines()) <= 10
    assert tree(shared) == before
    assert is_intact(colleague)


def test_runs_in_a_folder_that_only_its_owner_can_enter_are_said_to_be_that(colleague, shared):
    shared.chmod(0o700)
    error = as_nobody(lambda: len(read_runs(shared / "runs")))
    assert isinstance(error, AccessError)
    assert f"{shared} belongs to root" in str(error)


def test_a_lock_that_only_its_owner_can_open_is_said_to_be_that(fake, shared):
    folder = request_of(request(shared, RHOS[0])).folder
    folder.parent.mkdir(parents=True)
    with claimed(folder):
        (lock,) = folder.parent.iterdir()
        lock.chmod(0o600)
        for place in (shared / "runs", folder.parent):
            place.chmod(0o777)
        error = as_nobody(run_experiment, request(shared, RHOS[0]))
    assert isinstance(error, AccessError)
    assert f"{lock} belongs to root" in str(error)
    assert f"chmod -R a+rw {lock}" in str(error)


def test_in_a_sweep_a_run_of_another_user_is_one_failure(colleague, shared):
    colleague.chmod(0o700)
    configs = [request(shared, rho) for rho in RHOS]
    options = [[f"model.rho={rho}"] for rho in RHOS]
    jobs = as_nobody(jobs_of, options, configs)
    assert [job.refusal is None for job in jobs] == [False, True, True, True, True]
    failed = as_nobody(unfinished, jobs[:1], {})
    assert "belongs to root" in summary(jobs[:1], failed)


@pytest.mark.parametrize("mode", [0o755, 0o700])
def test_a_run_of_another_user_is_not_forced_in_vain(colleague, shared, mode):
    colleague.chmod(mode)
    before = tree(shared)
    error = as_nobody(run_experiment, request(shared, RHOS[0], force=True))
    assert isinstance(error, RunError)
    assert "is to be replaced, but cannot be moved" in str(error)
    assert "belongs to root" in str(error)
    assert [path for path in tree(shared) if path.parts[0] != "failed"] == before


def test_a_damaged_run_of_another_user_stays(colleague, shared):
    (colleague / "metrics.csv").write_text("")
    before = tree(shared)
    error = as_nobody(run_experiment, request(shared, RHOS[0]))
    assert isinstance(error, RunError)
    assert "is damaged, but cannot be moved" in str(error)
    assert "belongs to root" in str(error)
    assert tree(shared) == before


def test_stored_runs_are_returned_where_nothing_can_be_written(colleague, shared):
    for place in (shared, *shared.rglob("*")):
        place.chmod(0o555 if place.is_dir() else 0o444)
    assert as_nobody(run_experiment, request(shared, RHOS[0])) == colleague
    jobs = as_nobody(jobs_of, [["model.rho=0.1"]], [request(shared, RHOS[0])])
    assert [job.missing for job in jobs] == [False]
    assert "Permission denied" in str(as_nobody(run_experiment, request(shared, RHOS[1])))


def test_a_disk_that_does_not_answer_sets_no_run_aside(fake, tmp_path, monkeypatch):
    folder = run_experiment(request(tmp_path, RHOS[0]))
    before = tree(tmp_path)

    def fail(*_, **__):
        raise OSError(errno.EIO, os.strerror(errno.EIO), str(folder / "metrics.csv"))

    monkeypatch.setattr(pd, "read_csv", fail)
    with pytest.raises(AccessError, match=r"Input/output error.*\nTry again later"):
        run_experiment(request(tmp_path, RHOS[0]))
    assert tree(tmp_path) == before


def test_two_real_sweeps_at_the_same_time(tmp_path):
    options = ("seeds=1", "trainer.epochs=2", f"model={VARIANTS}")
    sweeps = [start_sweep(tmp_path, *options) for _ in range(2)]
    for process in sweeps:
        _, message = process.communicate(timeout=120)
        assert process.returncode == 0, message
    assert len(visible(tmp_path)) == 4
    assert hidden(tmp_path / "runs") == []
    assert not (tmp_path / "damaged").exists()


def test_a_killed_run_goes_on_when_asked_again(tmp_path):
    """Killed after its first checkpoint; groups of seeds have their own."""
    options = ("seeds=3", "trainer.epochs=25", "checkpoint_minutes=0")
    process = subprocess.Popen(
        command(*options, "seeds_at_once=2", results_dir=tmp_path / "a"), env=environment()
    )
    checkpoints = tmp_path / "a/checkpoints/digits"
    deadline = time.monotonic() + 120
    while not list(checkpoints.glob("*/seeds-2-3.pt")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert visible(tmp_path / "a") == {}

    # Now there is memory for all at once.
    resumed = read_run(folder_of(run(*options, "seeds_at_once=null", results_dir=tmp_path / "a")))
    assert resumed.summary["earlier_seconds"] > 0
    assert resumed.summary["earlier_revisions"] == [resumed.summary["git_revision"]]
    whole = read_run(folder_of(run(*options, "seeds_at_once=3", results_dir=tmp_path / "b")))
    assert resumed.folder.name == whole.folder.name
    # Networks in other stacks agree to rounding, as everywhere.
    keys = ["seed", "epoch", "step", "split", "metric"]
    both = resumed.metrics.merge(whole.metrics, on=keys)
    assert len(both) == len(whole.metrics) == len(resumed.metrics)
    early = both[both["epoch"] <= 2]
    assert (early["value_x"] - early["value_y"]).abs().max() < 1e-3
    assert not list(checkpoints.glob("*"))
