"""Sweeps on a real Slurm of one node, started by ``scripts/slurm_one_node.sh``.

States of jobs come from the script's stand-in for ``sacct``, as there is no accounting database.
"""

import contextlib
import functools
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path

import pytest
import torch

from convexinit_paper.store.runs import read_runs
from hydra_plugins.convexinit_sweeps.launcher import heed_once
from support.commands import command, environment, stored
from support.data import ROOT

SCRIPT = ROOT / "scripts" / "slurm_one_node.sh"
SMALL = ("hydra/launcher=slurm", "hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=1")


def run_script(port, *arguments):
    variables = {**os.environ, "SLURM_PORT": str(port)}
    return subprocess.run(
        [SCRIPT, *arguments], capture_output=True, text=True, env=variables, check=False, timeout=60
    )


def free_port():
    """A port that is free together with the one after it."""
    for port in range(27917, 28917, 2):
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for number in (port, port + 1):
                stack.enter_context(socket.create_server(("127.0.0.1", number)))
            return port
    raise AssertionError("no free ports")


@pytest.fixture(scope="module")
def slurm():
    """Environment of a running Slurm."""
    if os.getuid() != 0:
        pytest.skip("a Slurm of one's own needs root")
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two cores, for two jobs at a time")
    if shutil.which("slurmctld", path=f"{os.environ['PATH']}:/usr/sbin") is None:
        pytest.skip("Slurm is not installed; scripts/slurm_one_node.sh install")
    script = functools.partial(run_script, free_port())
    folder = tempfile.mkdtemp(prefix="slurm-")
    started = script("start", folder)
    try:
        if started.returncode != 0:
            pytest.skip(f"Slurm does not start here: {started.stderr.strip()}")
        assert script("status", folder).returncode == 0
        assert script("stop", folder).returncode == 0
        assert script("status", folder).returncode != 0
        assert script("start", folder).returncode == 0  # in the same folder again
        yield environment(
            SLURM_CONF=f"{folder}/slurm.conf", PATH=f"{folder}/bin:{os.environ['PATH']}"
        )
    finally:
        stopped = script("stop", folder)
        assert stopped.returncode == 0, stopped.stderr
        assert "runs as" not in script("status", folder).stdout
        assert processes_of(folder) == []
        shutil.rmtree(folder)


def test_a_port_that_is_taken_is_named(slurm, tmp_path):
    first = free_port()
    with socket.create_server(("127.0.0.1", first + 1)):
        started = run_script(first, "start", tmp_path)
    assert started.returncode == 1
    assert f"error: port {first + 1} is taken" in started.stderr
    assert processes_of(tmp_path) == []


def processes_of(folder, *variables):
    """Ids of the processes with this folder, and these variables, in their environment."""
    wanted = [f"SLURM_CONF={folder}/", *variables]
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        with contextlib.suppress(OSError):  # it has ended
            content = path.read_bytes()
            if all(text.encode() in content for text in wanted):
                found.append(int(path.parent.name))
    return found


def halt_at_checkpoints(slurm, results_dir, epochs):
    """Halt the first jobs of a sweep over epochs, each as soon as it has a checkpoint.

    However fast the machine is, none of them comes to its end before it is signalled. Returns the
    ids of the processes that train.
    """
    folder = str(Path(slurm["SLURM_CONF"]).parent)
    halted = {}
    deadline = time.monotonic() + 60
    while len(halted) < len(epochs):
        assert time.monotonic() < deadline
        for path in results_dir.glob("checkpoints/digits/*/*.pt"):
            steps = torch.load(path, weights_only=True)["losses"].shape[1]
            [job] = [job for job, number in enumerate(epochs) if steps % number == 0]
            if job not in halted:
                [halted[job]] = [
                    process
                    for process in processes_of(folder, f"SLURM_ARRAY_TASK_ID={job}\0")
                    if Path(f"/proc/{process}/comm")
                    .read_text(encoding="utf-8")
                    .startswith("python")
                ]
                os.kill(halted[job], signal.SIGSTOP)
        time.sleep(0.05)
    return [halted[job] for job in sorted(halted)]


def start(slurm, results_dir, *options):
    return subprocess.Popen(
        command("-m", *SMALL, "seeds=1", *options, results_dir=results_dir),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=slurm,
    )


def test_a_sweep_with_a_failed_a_cancelled_and_a_preempted_job(slurm, tmp_path):
    options = ("trainer.epochs=500,501,1,-1", "checkpoint_minutes=0.005")
    sweep = start(slurm, tmp_path, *options)
    # The first two jobs train at the same time.
    _, second = halt_at_checkpoints(slurm, tmp_path, epochs=(500, 501))
    [cancelled] = [path.name for path in tmp_path.glob("sweeps/slurm/*_0")]
    [preempted] = [path.name for path in tmp_path.glob("sweeps/slurm/*_1")]
    subprocess.run(["scancel", cancelled], env=slurm, check=True)
    # The signal that warns a job before it is pre-empted or out of time.
    subprocess.run(["scancel", "--signal=USR2", preempted], env=slurm, check=True)
    os.kill(second, signal.SIGCONT)
    output, message = sweep.communicate(timeout=180)
    assert sweep.returncode == 1, message
    lines = message.strip().splitlines()
    assert "submitted 4 jobs" in lines[0]
    assert "sweep of 4 runs: 2 ran, 2 failed" in lines
    assert output.count("run: ") == 2
    [reason] = [line for line in lines if line.startswith("failed: trainer.epochs=500: ")]
    assert f"job {cancelled} ended without a result (state CANCELLED" in reason
    [reason] = [line for line in lines if line.startswith("failed: trainer.epochs=-1: ")]
    assert "trainer.epochs must be at least 1" in reason
    log = Path(reason.rsplit("(", 1)[1].removesuffix(")")).read_text(encoding="utf-8")
    assert "Traceback" in log
    assert "SLURM_JOB_ID" in log
    [errors] = tmp_path.glob(f"sweeps/slurm/{preempted}/*.err")
    assert "Caught signal SIGUSR2" in errors.read_text()
    before = stored(tmp_path)
    assert len(before) == 2
    # The pre-empted job was queued again, went on from its checkpoint and came to its end.
    assert epochs(tmp_path) == {1, 501}
    assert earlier_seconds(tmp_path, 501) > 0 == earlier_seconds(tmp_path, 1)

    again = start(slurm, tmp_path, *options)
    _, message = again.communicate(timeout=180)
    assert again.returncode == 1
    assert "submitted 2 jobs" in message
    assert "sweep of 4 runs: 1 ran, 2 stored before, 1 failed" in message
    assert before.items() <= stored(tmp_path).items()
    assert epochs(tmp_path) == {1, 500, 501}
    assert earlier_seconds(tmp_path, 500) > 0  # the cancelled one went on, too
    assert not list(tmp_path.glob("checkpoints/digits/*"))
    assert not list(tmp_path.glob("runs/digits/.*"))


def epochs(results_dir):
    return {run.config["trainer"]["epochs"] for run in read_runs(results_dir / "runs")}


def earlier_seconds(results_dir, epochs):
    [run] = [
        run for run in read_runs(results_dir / "runs") if run.config["trainer"]["epochs"] == epochs
    ]
    return run.summary["earlier_seconds"]


def test_a_warning_that_arrives_twice_is_heeded_once():
    received = []

    def queue_again(number, frame):
        received.append(number)
        # The second warning arrives while the first one is handled.
        signal.raise_signal(signal.SIGUSR2)

    before = signal.signal(signal.SIGUSR2, queue_again)
    try:
        heed_once(signal.SIGUSR2)
        signal.raise_signal(signal.SIGUSR2)
        signal.raise_signal(signal.SIGUSR2)
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert received == [signal.SIGUSR2]


def test_a_time_limit_that_leaves_no_time_is_refused(slurm, tmp_path):
    sweep = start(slurm, tmp_path, "hydra.launcher.timeout_min=1")
    _, message = sweep.communicate(timeout=60)
    assert sweep.returncode == 1
    assert "hydra.launcher.timeout_min must be at least" in message
    assert not list(tmp_path.glob("sweeps/slurm/*"))


def test_what_slurm_refuses_is_reported_at_once(slurm, tmp_path):
    sweep = start(slurm, tmp_path, "hydra.launcher.partition=none")
    _, message = sweep.communicate(timeout=60)
    assert sweep.returncode == 1
    assert "invalid partition specified: none" in message
    assert len(message.strip().splitlines()) <= 10
