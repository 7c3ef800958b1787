"""The arguments of ``run.py``, checked before Hydra reads them: it takes much in silence."""

from __future__ import annotations

import argparse
import contextlib
import glob
import re
import shlex
from collections.abc import Collection, Iterable
from itertools import takewhile

from hydra import compose, initialize_config_dir
from hydra._internal import utils as hydra_utils
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from convexinit_paper.request.config import CONF
from convexinit_paper.request.options import ConfigError
from convexinit_paper.request.paths import OPTIONS, with_user_path
from convexinit_paper.request.quoting import argument, run_command

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
    _check_known(arguments, known)
    try:
        parser.exit_on_error = False
        options, flags = _options_and_flags(arguments, parser)
        given = parser.parse_args([*options, *flags])
    except argparse.ArgumentError as error:
        raise ConfigError(f"{error}\npython run.py --hydra-help explains the flags.") from error
    if given.help or given.hydra_help:
        return [*options, *flags]
    _check_together(given)
    places = {name: vars(given)[name] for name in ("config_path", "config_name", "config_dir")}
    # All that the command is but for its mode.
    words = [f"--{name.replace('_', '-')}={place}" for name, place in places.items() if place]
    words += options
    for index, word in enumerate(options):
        _check_option(word, options, words)
        if "=" not in word and not word.startswith("~"):
            whole = [*(["-m"] if given.multirun else []), *words]
            raise ConfigError(_no_option(options[max(index - 1, 0) :], word, whole))
        if not given.multirun and _is_sweep(word):
            raise ConfigError(_several_values(word, words))
    return [*map(_with_user_path, options), *flags]


def _check_known(arguments: list[str], known: set[str]) -> None:
    """Raise ConfigError for the first flag that there is not.

    Args:
        arguments: of the command.
        known: flags that there are.
    """
    for word in arguments:
        flag = word.partition("=")[0]
        if _is_flag(flag) and flag not in known:
            name = flag.lstrip(DASHES)
            meant = known & {f"-{name}", f"--{name}"}
            if meant:
                raise ConfigError(f"there is no flag {flag}; did you mean {meant.pop()}?")
            raise ConfigError(_no_flag(flag, arguments, known))


def _check_together(given: argparse.Namespace) -> None:
    """Raise ConfigError for flags that do not go together, or not without another."""
    modes = [mode for mode in MODES if getattr(given, mode.strip("-").replace("-", "_"))]
    if len(modes) > 1:
        meanings = ", ".join(f"{mode} {MODES[mode]}" for mode in modes)
        raise ConfigError(f"{' and '.join(modes)} do not go together: {meanings}. Leave one out.")
    for flag, example in (("resolve", "--resolve"), ("package", "--package trainer")):
        if vars(given)[flag] and not given.cfg:
            raise ConfigError(f"--{flag} goes with --cfg: python run.py --cfg job {example}")


def _check_option(word: str, options: list[str], words: Iterable[str]) -> None:
    """Raise ConfigError for an option that Hydra would refuse in words of its own, or misread.

    Args:
        word: the option and its value.
        options: all of the command.
        words: of the command.
    """
    name, equal, value = word.partition("=")
    if name.startswith("hydra.") and value.lstrip("'\"").startswith("~"):
        raise ConfigError(f"~ is not replaced in options of Hydra; write the whole path: {word}")
    if equal and not NAME.fullmatch(name):
        raise ConfigError(
            f"{word}: {name!r} is no name of an option\npython run.py --help lists all options."
        )
    first = next(other for other in options if other.partition("=")[0] == name)
    if word != first:
        raise ConfigError(_given_twice(first, word, words))
    if _is_group(name) and (value.startswith("[") or value == "null"):
        raise ConfigError(
            f"{word}: {name} takes one choice; for a run with each of several: "
            + _sweep(name, value.strip("[]") if "[" in value else "...", words)
        )


def _is_group(name: str) -> bool:
    """Whether an option is a choice of a file of the configuration."""
    return (CONF / name).is_dir()


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
    if word in option_names():
        lines.append(f"Did you mean {word}=...?")
    first, *others = options
    name, equal, value = first.partition("=")
    if equal and not groups:
        value = " ".join([value, *takewhile(lambda other: "=" not in other, others)])
        whole = f"{name}={value}" if value.startswith(("[", "{")) else argument(name, value)
        lines.append(f"If it belongs to the value before it, quote both: {shlex.quote(whole)}")
    return "\n".join([*lines, "python run.py --help lists all options."])


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
        if "(" not in value and not _is_group(name):
            lines.append(f"For a list: {shlex.quote(f'{name}=[{value}]')}")
    if not _is_group(name):
        lines.append(f"If they are one value: {shlex.quote(argument(name, value))}")
    return "\n".join(lines)


def option_names() -> list[str]:
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
