"""Commands of the project as real processes."""

import atexit
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from functools import cache
from pathlib import Path

from support.data import ROOT

VARIANTS = "nonconvex,icnn,icnn_skip,icnn_init"

SHORT = ("seeds=2", "trainer.epochs=2")


def command(*options, results_dir):
    return [sys.executable, str(ROOT / "run.py"), *options, f"results_dir={results_dir}"]


def environment(**variables):
    return {**os.environ, "OMP_NUM_THREADS": "1", "HYDRA_FULL_ERROR": "0", **variables}


@cache
def prepared():
    """A process of :mod:`support.prepared`."""
    process = subprocess.Popen(
        [sys.executable, Path(__file__).with_name("prepared.py")],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(),
    )  # fmt: skip
    atexit.register(process.kill)
    return process


def run(*options, results_dir, cwd=ROOT, **variables):
    """``python run.py`` in a process of its own, but with packages that are imported already."""
    return run_prepared(*options, f"results_dir={results_dir}", cwd=cwd, **variables)


def run_prepared(*options, cwd, **variables):
    """The same with nothing but these options."""
    arguments = [str(ROOT / "run.py"), *options]
    with tempfile.TemporaryDirectory() as place:
        output, errors = Path(place, "output"), Path(place, "errors")
        output.touch()
        errors.touch()
        call = {
            "arguments": arguments, "folder": str(cwd), "environment": environment(**variables),
            "output": str(output), "errors": str(errors),
        }  # fmt: skip
        server = prepared()
        print(json.dumps(call), file=server.stdin, flush=True)
        status = int(server.stdout.readline())
        return subprocess.CompletedProcess(
            arguments, status, output.read_text("utf-8"), errors.read_text("utf-8")
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
