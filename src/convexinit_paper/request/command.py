"""One short message for whatever goes wrong on the command line."""

from __future__ import annotations

import argparse
import contextlib
import glob
import multiprocessing
import os
import re
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterable
from functools import cache
from itertools import takewhile
from typing import Any

from hydra import compose, initialize_config_dir
from hydra._internal import utils as hydra_utils
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import CompactHydraException, HydraException, OverrideParseException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError

from convexinit_paper.request.config import CONF
from convexinit_paper.request.options import ConfigError
from convexinit_paper.request.paths import OPTIONS, with_user_path
from convexinit_paper.request.process import is_interruption
from convexinit_paper.request.quoting import argument, run_command
from convexinit_paper.request.suggestions import did_you_mean

MAX_LINES = 10
# Flags of Hydra of which a command has one at most.
MODES = {
    "--run": "runs once",
    "--multirun": "is for sweeps",
    "--cfg": "shows the options of one run",
    "--info": "shows where options come from",
    "--shell-completion": "is for shells",
}
NAME = re.compile(r"(~|\+{0,2})[a-zA-Z][\w./@:-]*", re.ASCII)  # of an option in Hydra's grammar
# Some programs make other dashes of those that are typed.
DASHES = "-\N{HYPHEN}\N{EN DASH}\N{EM DASH}\N{MINUS SIGN}"
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


def checked_arguments(arguments: list[str]) -> list[str]:
    """The arguments of the command line as Hydra takes them.

    Args:
        arguments: of ``run.py``.

    Raises:
        ConfigError: for flags that there are not or that do not go together, and for words that
            are no options.

    Example:
        >>> checked_arguments(["seeds=2", "-m", "model=icnn,icnn_init"])
        ['seeds=2', 'model=icnn,icnn_init', '-m']
        >>> checked_arguments(["--experiment=mnist"])
        Traceback (most recent call last):
        convexinit_paper.request.options.ConfigError: there is no flag --experiment
        Options are written without dashes: python run.py experiment=mnist
        python run.py --help lists all options.
    """
    parser = hydra_utils.get_args_parser()
    known = {*parser._option_string_actions} - {"--experimental-rerun"}  # from files never written
    for word in arguments:
        flag = word.partition("=")[0]
        if _is_flag(flag) and flag not in known:
            name = flag.lstrip(DASHES)
            meant = known & {f"-{name}", f"--{name}"}
            if meant:
                raise ConfigError(f"there is no flag {flag}; did you mean {meant.pop()}?")
            raise ConfigError(_no_flag(flag, arguments, known))
    try:
        parser.exit_on_error = False
        options, flags = _options_and_flags(arguments, parser)
        given = parser.parse_args([*options, *flags])
    except argparse.ArgumentError as error:
        raise ConfigError(f"{error}\npython run.py --hydra-help explains the flags.") from error
    if given.help or given.hydra_help:
        return [*options, *flags]
    modes = [mode for mode in MODES if getattr(given, mode.strip("-").replace("-", "_"))]
    if len(modes) > 1:
        meanings = ", ".join(f"{mode} {MODES[mode]}" for mode in modes)
        raise ConfigError(f"{' and '.join(modes)} do not go together: {meanings}. Leave one out.")
    for flag, example in (("resolve", "--resolve"), ("package", "--package trainer")):
        if vars(given)[flag] and not given.cfg:
            raise ConfigError(f"--{flag} goes with --cfg: python run.py --cfg job {example}")
    # All that a command is but for its mode.
    places = ("config_path", "config_name", "config_dir")
    words = [
        *(
            f"--{place.replace('_', '-')}={vars(given)[place]}"
            for place in places
            if vars(given)[place]
        ),
        *options,
    ]
    for index, word in enumerate(options):
        name, equal, value = word.partition("=")
        if name.startswith("hydra.") and value.lstrip("'\"").startswith("~"):
            raise ConfigError(
                f"~ is not replaced in options of Hydra; write the whole path: {word}"
            )
        if equal and not NAME.fullmatch(name):
            raise ConfigError(
                f"{word}: {name!r} is no name of an option\npython run.py --help lists all options."
            )
        first = next(word for word in options if word.partition("=")[0] == name)
        if word != first:
            raise ConfigError(_given_twice(first, word, words))
        if (CONF / name).is_dir() and (value.startswith("[") or value == "null"):
            raise ConfigError(
                f"{word}: {name} takes one choice; for a run with each of several: "
                + _sweep(name, value.strip("[]") if "[" in value else "...", words)
            )
        if not equal and not word.startswith("~"):
            whole = [*(["-m"] if given.multirun else []), *words]
            raise ConfigError(_no_option(options[max(index - 1, 0) :], word, whole))
        if not given.multirun and _is_sweep(word):
            raise ConfigError(_several_values(word, words))
    return [*map(_with_user_path, options), *flags]


def _with_user_path(word: str) -> str:
    """An argument with a home folder in place of ``~``, which Hydra reads in quotes alone."""
    name, _, value = word.partition("=")
    if name not in OPTIONS or not value.startswith("~") or "," in value:
        return word
    return argument(name, with_user_path(name, value))


def _is_flag(word: str) -> bool:
    """Whether a word begins as a flag does, and is not dashes alone."""
    return word.lstrip(DASHES) not in ("", word)


def _options_and_flags(
    arguments: list[str], parser: argparse.ArgumentParser
) -> tuple[list[str], list[str]]:
    """Options, and flags with their values: Hydra refuses options on both sides of a flag."""
    options, flags, rest = [], [], [word for word in arguments if word != "--"]
    while rest:
        word = rest.pop(0)
        action = parser._option_string_actions.get(word.partition("=")[0])
        if action is None:
            options.append(word)
            continue
        flags.append(word)
        takes_value = action.nargs != 0 and "=" not in word
        if takes_value and _is_value(rest, needed=action.nargs is None):
            flags.append(rest.pop(0))
    return options, flags


def _is_value(rest: list[str], needed: bool) -> bool:
    """Whether a flag's value comes next; where none is needed, an option is none."""
    return bool(rest) and not _is_flag(rest[0]) and (needed or "=" not in rest[0])


def _no_flag(flag: str, arguments: list[str], known: Collection[str]) -> str:
    """What to say of a flag that there is not.

    Args:
        flag: the first of those.
        arguments: of the command.
        known: flags that there are.
    """
    words, rest = [], [*arguments]
    while rest:
        word = rest.pop(0)
        name, equal, value = word.partition("=")
        if _is_flag(name) and name not in known:
            if not equal:
                value = rest.pop(0) if _is_value(rest, needed=False) else "..."
            word = f"{name.strip(DASHES)}={value}"
        words.append(word)
    return (
        f"there is no flag {flag}\nOptions are written without dashes: {run_command(words)}\n"
        "python run.py --help lists all options."
    )


def _sweep(name: str, values: str, words: Iterable[str]) -> str:
    """The command of these words, with a run for each value of an option."""
    others = (word for word in words if word.partition("=")[0] != name)
    return run_command(["-m", *others, f"{name}={values}"])


def _given_twice(first: str, second: str, words: Iterable[str]) -> str:
    """What to say of an option that has two values, of which Hydra takes the last in silence."""
    name, _, value = first.partition("=")
    values = f"{value},{second.partition('=')[2]}"
    swept = name not in OPTIONS and not name.startswith(("hydra.", "~"))
    more = f"\nFor a run with each of them: {_sweep(name, values, words)}" if swept else ""
    return f"{name} is given twice, as {first} and {second}; leave one out{more}"


def _no_option(options: list[str], word: str, words: Iterable[str]) -> str:
    """What to say of a word that is no option.

    Args:
        options: from the one before the word on, if there is one.
        word: the first that has no equal sign.
        words: of the command.
    """
    lines = [f"{word}: missing EQUAL sign; options are written name=value"]
    groups = sorted(path.parent.name for path in CONF.glob(f"*/{glob.escape(word)}.yaml"))
    for group in ["experiment"] if "experiment" in groups else groups:
        meant = (argument(group, word) if one == word else one for one in words)
        lines.append(f"If it was meant as one: {run_command(meant)}")
    if word in _option_names():
        lines.append(f"Did you mean {word}=...?")
    first, *others = options
    name, equal, value = first.partition("=")
    if equal and not groups:
        value = " ".join([value, *takewhile(lambda other: "=" not in other, others)])
        whole = f"{name}={value}" if value.startswith(("[", "{")) else argument(name, value)
        lines.append(f"If it belongs to the value before it, quote both: {shlex.quote(whole)}")
    return "\n".join([*lines, "python run.py --help lists all options."])


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


def run_reported(function: Callable[[], Any]) -> Any:
    """What the function returns; the process ends with one message if it fails."""
    try:
        return function()
    except (KeyboardInterrupt, Exception) as error:
        if is_interruption(error):
            sys.stderr.write("\nInterrupted. Finished runs are stored; ask again to go on.\n")
            sys.exit(130)
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
    if isinstance(error, OverrideParseException):
        text = _not_readable(error.override, text)
    elif isinstance(error, CompactHydraException):
        text = text.split("Config search path:")[0].strip()
        misspelt = re.search(r"Could not override '([^']+)'", text)
        if misspelt:
            text = f"this experiment has no option {misspelt[1]}.{_suggestion(misspelt[1])}"
            text += "\npython run.py --help lists all options."
        choice = re.search(
            r"Could not find '(.+)/([^/]*)'\s+Available options in .*?:(.*)", text, re.DOTALL
        )
        if choice:
            text = _no_choice(choice[1], choice[2], choice[3].split())
        if text.startswith("Cannot find primary config"):
            text += (
                "\nExperiments are chosen by experiment=<name>; python run.py --help lists them."
            )
    elif isinstance(error, InterpolationResolutionError):
        name = error.full_key
        text = (
            f"{name}: {text.splitlines()[0]}\n"
            f"If ${{ belongs to the value, a backslash goes before it: '{name}=\"\\${{...\"'"
        )
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


def _is_sweep(override: str) -> bool:
    """Whether an option has several values; of one that cannot be read Hydra says so."""
    with contextlib.suppress(HydraException):
        return OverridesParser.create().parse_override(override).is_sweep_override()
    return False


def _several_values(override: str, words: Iterable[str]) -> str:
    """What to say of values with commas where there is no sweep.

    Args:
        override: the option.
        words: of the command.
    """
    name, _, value = override.partition("=")
    lines = [f"{override} has several values."]
    if name not in OPTIONS:
        lines.append(f"For a run with each of them: {run_command(['-m', *words])}")
        if "(" not in value:
            lines.append(f"For a list: {shlex.quote(f'{name}=[{value}]')}")
    lines.append(f"If they are one value: {shlex.quote(argument(name, value))}")
    return "\n".join(lines)


def _is_ours(error: BaseException) -> bool:
    return type(error).__module__.startswith(("convexinit.", "convexinit_paper."))


def _suggestion(name: str) -> str:
    """A hint for a misspelt option, or an empty string."""
    options = _option_names()
    # An option of other experiments is not misspelt.
    return "" if name in options else did_you_mean(name, options)


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
