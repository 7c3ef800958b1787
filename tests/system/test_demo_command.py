"""The demo and the figures as commands."""

import os
import signal
import subprocess
import sys

from support.data import ROOT


def start_demo(*commands):
    """The demo as a process, with other commands, each a program of Python."""
    code = (
        "from convexinit_paper import demo\n"
        f"demo.commands = lambda: {[['-c', command] for command in commands]}\n"
        "demo.main()"
    )
    return subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def test_the_first_command_that_fails_ends_the_demo():
    demo = start_demo("pass", "exit(7)", "print()")
    output, _ = demo.communicate(timeout=60)
    assert output == "python -c pass\npython -c 'exit(7)'\n"
    assert demo.returncode == 7


def test_ctrl_c_lets_the_command_end_in_good_order():
    waiting = (
        "import sys, time\n"
        "try:\n    print('started', flush=True)\n    time.sleep(60)\n"
        "except KeyboardInterrupt:\n    time.sleep(0.5)\n    print('stored')\n    sys.exit(130)\n"
    )
    demo = start_demo(waiting, "print('next')")
    while demo.stdout.readline() != "started\n":
        assert demo.poll() is None
    os.killpg(demo.pid, signal.SIGINT)
    output, _ = demo.communicate(timeout=60)
    assert output == "stored\n"
    assert demo.returncode == 130


def test_make_runs_the_demo():
    said = subprocess.run(
        ["make", "--no-print-directory", "--dry-run", "paper-figures", "SCALE=demo"],
        capture_output=True, text=True, check=True, cwd=ROOT,
    ).stdout  # fmt: skip
    assert said.splitlines()[-1].endswith("-m convexinit_paper.demo")


def test_figures_need_no_torch():
    code = "import sys, convexinit_paper.figures.__main__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
