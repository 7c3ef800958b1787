"""One short message for whatever goes wrong on the command line."""

from __future__ import annotations

import multiprocessing
import os
import re
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from hydra._internal import utils as hydra_utils
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import OmegaConf
from omegaconf.errors import InterpolationResolutionError

from convexinit_paper.request.arguments import option_names
from convexinit_paper.request.config import CONF
from convexinit_paper.request.options import ConfigError
from convexinit_paper.request.process import is_interruption
from convexinit_paper.request.quoting import argument, run_command
from convexinit_paper.request.suggestions import did_you_mean

MAX_LINES = 10
T = TypeVar("T")
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
    setattr(hydra_utils, "run_and_report", run_reported)  # noqa: B010


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


def check_launcher() -> None:
    """Refuse a launcher in a command that is no sweep: the run would not be launched by it.

    Raises:
        ConfigError: the launcher is not the default.
    """
    config = HydraConfig.get()
    launcher = config.runtime.choices["hydra/launcher"]
    if config.mode == RunMode.RUN and launcher != "basic":
        words = (word for word in sys.argv[1:] if word not in ("--run", "-r"))
        raise ConfigError(
            f"hydra/launcher={launcher} is for sweeps; to use it: {run_command(['-m', *words])}"
        )


def run_reported(function: Callable[[], T], reworded: Callable[[str], str] = str) -> T:
    """What the function returns; the process ends with one message if it fails.

    Args:
        function: what is to be done.
        reworded: the message, where it is not about options of ``run.py``.
    """
    try:
        return function()
    except (KeyboardInterrupt, Exception) as error:
        if is_interruption(error):
            sys.stderr.write("\nInterrupted. Finished runs are stored; ask again to go on.\n")
            sys.exit(130)
        if os.environ.get("HYDRA_FULL_ERROR", "0") not in ("", "0"):
            raise
        sys.stderr.write(f"error: {reworded(message_of(error))}\n")
        sys.exit(1)


def message_of(error: BaseException) -> str:
    """What went wrong, in at most ten lines.

    Errors that a user can cause say what to do; anything else is a fault of the program, so the
    message names the type and how to see the whole traceback.
    """
    lines = [line for line in _text_of(error).splitlines() if line.strip()]
    if len(lines) > MAX_LINES:
        lines = [lines[0], ", ".join(line.strip() for line in lines[1:])]
    return "\n".join(lines)


def _text_of(error: BaseException) -> str:
    """What went wrong, in any number of lines."""
    text = str(error).strip()
    if isinstance(error, OverrideParseException):
        return _not_readable(error.override, text)
    if isinstance(error, CompactHydraException):
        return _not_composed(text.split("Config search path:")[0].strip())
    if isinstance(error, InterpolationResolutionError):
        name = error.full_key
        return (
            f"{name}: {text.splitlines()[0]}\n"
            f"If ${{ belongs to the value, a backslash goes before it: '{name}=\"\\${{...\"'"
        )
    if isinstance(error, OSError) and error.filename:
        return (
            f"{error.filename}: {error.strerror}\nresults_dir=... chooses another place for runs."
        )
    if "can't allocate memory" in text or "out of memory" in text:
        return (
            "not enough memory for this network; try fewer seeds at once or a smaller model.width"
        )
    if isinstance(error, (ValueError, OSError)) or _is_ours(error):
        return text
    return f"{type(error).__name__}: {text}\nHYDRA_FULL_ERROR=1 shows where."


def _not_composed(text: str) -> str:
    """What to say where Hydra cannot compose the configuration.

    Args:
        text: what Hydra says.
    """
    misspelt = re.search(r"Could not override '([^']+)'", text)
    if misspelt and misspelt[1].startswith("hydra."):
        return (
            f"the chosen parts of Hydra have no option {misspelt[1]}. To see those of one part:\n"
            "python run.py --cfg hydra --package hydra.launcher hydra/launcher=joblib"
        )
    if misspelt:
        return (
            f"this experiment has no option {misspelt[1]}.{_suggestion(misspelt[1])}\n"
            "python run.py --help lists all options."
        )
    choice = re.search(
        r"Could not find '(.+)/([^/]*)'\s+Available options in .*?:(.*)", text, re.DOTALL
    )
    if choice:
        return _no_choice(choice[1], choice[2], choice[3].split())
    if text.startswith("Cannot find primary config"):
        return (
            f"{text}\nExperiments are chosen by experiment=<name>; python run.py --help lists them."
        )
    return text


def _no_choice(group: str, name: str, choices: list[str]) -> str:
    """What to say of a choice that a group of the configuration has not.

    Args:
        group: its name.
        name: what was chosen.
        choices: that there are.
    """
    hint = did_you_mean(name.lower(), choices)
    return f"there is no {group}={name}.{hint}\nChoose from {', '.join(choices)}."


def _not_readable(override: str, reason: str) -> str:
    """What to say of an argument that Hydra's grammar does not have."""
    name, _, value = override.partition("=")
    if value.startswith(("[", "{")):
        reason = reason.splitlines()[0]
        return f"{override} cannot be read: {reason}\nA list is written seeds=[3,7]."
    return (
        f"{override} cannot be read: the value has signs with a meaning of their own, such as\n"
        "comma, equal sign, brackets, quotes, and letters beyond ASCII.\n"
        f"In quotes it is taken as it stands: {shlex.quote(argument(name, value))}"
    )


def _is_ours(error: BaseException) -> bool:
    return type(error).__module__.startswith(("convexinit.", "convexinit_paper."))


def _suggestion(name: str) -> str:
    """A hint for an option that there is not, or an empty string."""
    options = option_names()
    # A file of options that others begin with, as those of models do with one of conf/network.
    for path in CONF.glob("*/*.yaml"):
        if f"/{name}@_here_" in path.read_text(encoding="utf-8"):
            return f" It is chosen as {name}@{path.parent.name}=..."
    # An option of other experiments is not misspelt.
    if name in options:
        return ""
    choices = _choices_with(name)
    return f" It goes with {' or '.join(choices)}." if choices else did_you_mean(name, options)


def _choices_with(name: str) -> list[str]:
    """The choices, such as ``dataset=image_folder``, that have an option which is not in all.

    Args:
        name: of the option, with its section.
    """
    section, _, option = name.rpartition(".")
    if not section:
        return []
    own = [path for path in (CONF / section).glob("*.yaml") if option in _keys(path)]
    experiments = [
        path for path in (CONF / "experiment").glob("*.yaml") if option in _keys(path, section)
    ]
    return [f"{path.parent.name}={path.stem}" for path in sorted(own or experiments)]


def _keys(path: Path, *sections: str) -> list[str]:
    """Names of the options in a file of the configuration, or in a section of it."""
    options: Any = OmegaConf.load(path)
    for section in sections:
        options = options.get(section, {})
    return [*options]
