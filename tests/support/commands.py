"""Commands of the project as real processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from support.data import ROOT

VARIANTS = "nonconvex,icnn,icnn_skip,icnn_init"

SHORT = ("seeds=2", "trainer.epochs=2")


def command(*options, results_dir):
    return [sys.executable, str(ROOT / "run.py"), *options, f"results_dir={results_dir}"]


def environment(**variables):
    return {**os.environ, "OMP_NUM_THREADS": "1", "HYDRA_FULL_ERROR": "0", **variables}


def run(*options, results_dir, cwd=ROOT, **variables):
    return subprocess.run(
        command(*options, results_dir=results_dir),
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment(**variables),
        timeout=300,
        check=False,
    )


def folder_of(result):
    last = result.stdout.strip().splitlines()[-1]
    assert last.startswith("run: ")
    return Path(last.removeprefix("run: "))


def start_sweep(tmp_path, *options):
    return subprocess.Popen(
        command("-m", f"model={VARIANTS}", *options, results_dir=tmp_path),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        start_new_session=True,
        # A shell that runs the tests in the background makes its children ignore Ctrl-C.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def stored(results_dir):
    """Summaries of complete runs, with the moment at which they were written."""
    summaries = results_dir.glob("runs/*/[!.]*/summary.json")
    return {path: path.stat().st_mtime_ns for path in summaries}


def wait_for_runs(tmp_path, count):
    deadline = time.monotonic() + 120
    while len(stored(tmp_path)) < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)
