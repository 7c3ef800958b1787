"""One short message for whatever goes wrong on the command line."""

from __future__ import annotations

import difflib
import multiprocessing
import os
import re
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import cache
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal import utils as hydra_utils
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import CompactHydraException
from omegaconf import DictConfig, OmegaConf

from convexinit_paper.request.config import CONF

MAX_LINES = 10
# Modules that warn when a process is interrupted while it loads or ends.
NOISY = (
    "torch.library",
    "multiprocessing.resource_tracker",
    "joblib.externals.loky.backend.resource_tracker",
)


def install_error_reports() -> None:
    """Make Hydra end with one message of at most ten lines, without a traceback.

    Hydra prints its search path below configuration errors, and a traceback below errors of the
    program; it offers no setting for either, so its reporting function is replaced. The
    environment variable ``HYDRA_FULL_ERROR=1`` still shows everything.
    """
    # So that a terminated run removes its unfinished files.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("Terminated. Finished runs are stored."))
    # Workers of a sweep that Ctrl-C stops would bury the message below warnings of their own.
    os.environ.setdefault("PYTHONWARNINGS", ",".join(f"ignore:::{name}" for name in NOISY))
    setattr(hydra_utils, "run_and_report", _run_and_report)  # noqa: B010


def multirun_first(arguments: list[str]) -> list[str]:
    """The arguments of the command line with ``-m`` at the front, if it is among them.

    Hydra refuses it between options.

    Example:
        >>> multirun_first(["seeds=2", "-m", "model=icnn,icnn_init"])
        ['-m', 'seeds=2', 'model=icnn,icnn_init']
    """
    return sorted(arguments, key=lambda argument: argument not in ("-m", "--multirun"))


@cache
def end_with_parent() -> None:
    """Let this process end soon after the one that made it, if it is a worker of a sweep.

    Workers of joblib notice nothing when the sweep is killed: they would wait for ever for somebody
    to take their results. The run that a worker leaves goes on from its checkpoint when it is asked
    for again.
    """
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        while os.getppid() == parent.pid:
            time.sleep(1)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _run_and_report(function: Callable[[], Any]) -> Any:
    try:
        return function()
    except KeyboardInterrupt:
        sys.stderr.write("\nInterrupted. Finished runs are stored; ask again to go on.\n")
        sys.exit(130)
    except Exception as error:
        if os.environ.get("HYDRA_FULL_ERROR", "0") not in ("", "0"):
            raise
        sys.stderr.write(f"error: {message_of(error)}\n")
        sys.exit(1)


def message_of(error: BaseException) -> str:
    """What went wrong, in at most ten lines.

    Errors that a user can cause say what to do; anything else is a fault of the program, so the
    message names the type and how to see the whole traceback.
    """
    text = str(error).strip()
    if isinstance(error, CompactHydraException):
        text = text.split("Config search path:")[0].strip()
        misspelt = re.search(r"Could not override '([^']+)'", text)
        if misspelt:
            text = f"this experiment has no option {misspelt[1]}.{_suggestion(misspelt[1])}"
            text += "\npython run.py --help lists all options."
    elif isinstance(error, OSError) and error.filename:
        text = (
            f"{error.filename}: {error.strerror}\nresults_dir=... chooses another place for runs."
        )
    elif "can't allocate memory" in text or "out of memory" in text:
        text = (
            "not enough memory for this network; try fewer seeds at once or a smaller model.width"
        )
    elif not isinstance(error, (ValueError, OSError)) and not _is_ours(error):
        text = f"{type(error).__name__}: {text}\nHYDRA_FULL_ERROR=1 shows where."
    lines = [line for line in text.splitlines() if line.strip()]
    if len(lines) > MAX_LINES:
        lines = [lines[0], ", ".join(line.strip() for line in lines[1:])]
    return "\n".join(lines)


def _is_ours(error: BaseException) -> bool:
    return type(error).__module__.startswith(("convexinit.", "convexinit_paper."))


def _suggestion(name: str) -> str:
    """A hint for a misspelt option, or an empty string."""
    options = _option_names()
    if name in options:  # of other experiments
        return ""
    by_last_part = [option for option in options if option.split(".")[-1] == name]
    close = by_last_part or difflib.get_close_matches(name, options, n=1, cutoff=0.6)
    return f" Did you mean {close[0]}?" if close else ""


def _option_names() -> list[str]:
    """Dotted names of all options of ``conf/``."""
    names: list[str] = []

    def collect(node: DictConfig, prefix: str) -> None:
        for key in node:
            names.append(f"{prefix}{key!s}")
            if OmegaConf.is_dict(node._get_node(key)):
                collect(node[key], f"{names[-1]}.")

    GlobalHydra.instance().clear()
    with initialize_config_dir(str(CONF), version_base="1.3"):
        collect(compose("config"), "")
    return names
