"""Sweeps: what is launched, what is reported, and that one failure stops nothing else."""

import contextlib
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import termios
import time

import pytest

from convexinit_paper.experiments import request_of
from convexinit_paper.progress import Throttle
from convexinit_paper.request.config import composed
from convexinit_paper.request.options import ConfigError
from convexinit_paper.store.failures import failure_log
from convexinit_paper.store.identity import run_folder
from convexinit_paper.store.runs import read_runs
from convexinit_paper.sweeps import sweep
from convexinit_paper.sweeps.sweep import jobs_of, progress, summary, unfinished
from support.commands import command, environment, run, start_sweep
from support.data import ROOT
from support.runs import write

TINY = ("seeds=1", "trainer.epochs=1")


def sweep_over(results_dir, rhos, *options):
    overrides = [("seeds=2", f"model.rho={rho}") for rho in rhos]
    places = (f"results_dir={results_dir}", *options)
    return jobs_of(overrides, [composed(*own, *places) for own in overrides])


def stored(results_dir, rho, value=1.0):
    config = composed("seeds=2", f"model.rho={rho}", f"results_dir={results_dir}")
    return write(request_of(config).config, value)


def record_failure(job, text):
    failure_log(job.folder).parent.mkdir(parents=True, exist_ok=True)
    failure_log(job.folder).write_text(f"{text}\n\nTraceback")


def test_only_what_is_not_stored_is_missing(tmp_path):
    stored(tmp_path, 0.1)
    damaged = stored(tmp_path, 0.2)
    (damaged / "metrics.csv").write_text("seed,epoch")
    jobs = sweep_over(tmp_path, [0.1, 0.2, 0.3])
    assert [job.missing for job in jobs] == [False, True, True]
    assert [job.title for job in jobs] == ["model.rho=0.1", "model.rho=0.2", "model.rho=0.3"]
    assert all(job.missing for job in sweep_over(tmp_path, [0.1, 0.2], "force=true"))


def test_a_run_that_is_asked_for_twice_is_launched_once(tmp_path):
    assert len(sweep_over(tmp_path, [0.5, 0.50, 0.4])) == 2


def test_a_wrong_option_ends_the_sweep_before_anything_runs(tmp_path):
    with pytest.raises(ConfigError, match="force"):
        sweep_over(tmp_path, [0.1], "force=perhaps")


def test_a_forced_run_counts_when_it_is_stored_anew(tmp_path):
    stored(tmp_path, 0.1, 1.0)
    [job] = sweep_over(tmp_path, [0.1], "force=true")
    assert not job.is_done
    stored(tmp_path, 0.1, 2.0)
    assert job.is_done


def test_the_summary_names_every_run_that_failed(tmp_path, capfd):
    stored(tmp_path, 0.1)
    jobs = sweep_over(tmp_path, [0.1, 0.2, 0.3, 0.4, 0.5])
    with progress(jobs):
        stored(tmp_path, 0.2)
        record_failure(jobs[2], "no such file")
        time.sleep(0.7)
        assert capfd.readouterr().out.count("run: ") == 2
    failed = unfinished(jobs, {jobs[3].folder: "job 7 was cancelled"})
    assert summary(jobs, failed).splitlines() == [
        "sweep of 5 runs: 1 ran, 1 stored before, 3 failed",
        f"failed: model.rho=0.3: no such file ({failure_log(jobs[2].folder)})",
        "failed: model.rho=0.4: job 7 was cancelled",
        "failed: model.rho=0.5: ended without a result; ask again",
    ]


def test_a_log_says_how_many_runs_are_done(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(sweep, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(sweep, "Throttle", lambda: Throttle(seconds=0))
    jobs = sweep_over(tmp_path, [0.1, 0.2, 0.3])
    with progress(jobs):
        stored(tmp_path, 0.2)
        time.sleep(0.1)
        record_failure(jobs[0], "no such file")
    assert capfd.readouterr().err.splitlines() == [
        "sweep: 0 of 3 runs done",
        "sweep: 1 of 3 runs done",
        "sweep: 1 of 3 runs done, 1 failed",
    ]


def test_old_failures_are_forgotten_when_their_runs_are_asked_for_again(tmp_path):
    [job] = sweep_over(tmp_path, [0.1])
    record_failure(job, "an old error")
    [job] = sweep_over(tmp_path, [0.1])
    assert "an old error" not in unfinished([job], {})[job]


@pytest.mark.parametrize("launcher", ["basic", "joblib", "local"])
def test_one_failure_stops_no_other_run(tmp_path, launcher):
    options = (
        "-m",
        f"hydra/launcher={launcher}",
        *TINY,
        "model=icnn_init",
        f"results_dir={tmp_path}",
    )
    result = run(*options, "model.rho=1.5,0.5,2.5,0.4", results_dir=tmp_path)
    assert result.returncode == 1
    assert {run.config["model"]["rho"] for run in read_runs(tmp_path / "runs")} == {0.4, 0.5}
    lines = result.stderr.strip().splitlines()
    assert "sweep of 4 runs: 2 ran, 2 failed" in lines
    failed = [line for line in lines if line.startswith("failed: ")]
    logs = [path.read_text() for path in sorted((tmp_path / "failed" / "digits").iterdir())]
    assert len(failed) == len(logs) == 2
    for rho in (1.5, 2.5):
        assert any(f"model.rho={rho}: model.rho must be" in line for line in failed)
        [log] = [log for log in logs if f"got {rho}" in log]
        assert "Traceback" in log
        assert f"rho: {rho}" in log  # of the configuration
    assert "Traceback" not in result.stderr
    assert sorted(result.stdout.split()[1::2]) == sorted(
        str(run.folder) for run in read_runs(tmp_path / "runs")
    )


def test_a_sweep_of_stored_runs_launches_nothing(tmp_path):
    first = run("-m", *TINY, "model=icnn,icnn_init", results_dir=tmp_path)
    assert first.returncode == 0, first.stderr
    assert "sweep of 2 runs: 2 ran" in first.stderr
    # Any job would fail, as there is no such partition and mostly no Slurm at all.
    options = ("-m", *TINY, "hydra/launcher=slurm", "hydra.launcher.partition=none")
    again = run(*options, "model=icnn,icnn_init", results_dir=tmp_path)
    assert again.returncode == 0, again.stderr
    assert again.stderr.strip() == "sweep of 2 runs: 2 stored before"
    assert again.stdout == first.stdout
    more = run(*options, "model=icnn,icnn_skip", results_dir=tmp_path)
    assert more.returncode == 1
    assert "failed: model=icnn_skip" in more.stderr
    assert len(more.stderr.strip().splitlines()) <= 10


def test_a_failure_is_recorded_where_its_run_will_be_looked_for(tmp_path):
    options = ("experiment=mnist", "seeds=1", "trainer.epochs=1", "model=icnn")
    missing = run(*options, f"data_dir={tmp_path / 'data'}", results_dir=tmp_path)
    assert missing.returncode == 1
    [log] = tmp_path.glob("failed/mnist/icnn-*.log")
    assert "scripts/download_data.py mnist" in log.read_text().splitlines()[0]
    config = read_config(log)
    assert failure_log(run_folder(config)) == log


def test_a_sweep_goes_on_when_nobody_reads_its_output(tmp_path):
    process = subprocess.Popen(
        command("-m", *TINY, "model=icnn,icnn_init", results_dir=tmp_path),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment(), cwd=ROOT,
    )  # fmt: skip
    process.stdout.close()
    message = process.stderr.read()
    assert process.wait() == 0
    assert message.splitlines() == ["sweep of 2 runs: 2 ran"]
    process.stderr.close()


def test_workers_end_with_the_sweep_that_is_killed(tmp_path):
    options = ("seeds=1", "trainer.epochs=100000", "checkpoint_minutes=0.001")
    sweep_process = start_sweep(tmp_path, *options, "hydra/launcher=joblib")
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("checkpoints/digits/*/*.pt")):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    os.kill(sweep_process.pid, signal.SIGKILL)  # but not its workers
    try:
        sweep_process.communicate(timeout=30)  # until all of them have closed stderr
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(sweep_process.pid, signal.SIGKILL)


def read_config(log):
    from omegaconf import OmegaConf

    text = log.read_text().split("\n\n")[2]
    return OmegaConf.to_container(OmegaConf.create(text))


def test_a_terminal_shows_how_far_the_sweep_is(tmp_path):
    terminal, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    process = subprocess.Popen(
        command("-m", *TINY, "model=icnn,icnn_init", results_dir=tmp_path),
        stdin=end, stdout=end, stderr=end, env=environment(), cwd=ROOT,
    )  # fmt: skip
    os.close(end)
    shown = b""
    try:
        while part := os.read(terminal, 4096):
            shown += part
    except OSError:  # how Linux says that the other end is closed
        pass
    os.close(terminal)
    assert process.wait() == 0
    for count in ("0/2", "1/2", "2/2"):
        assert re.search(rf"sweep: +\d+%.* {count} ", shown.decode()), count
    assert shown.decode().count("run: ") == 2
