"""Files and folders as users write them: ``~`` and ``~name`` stand for home folders, everywhere."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from convexinit_paper.request.options import ConfigError

# Options of the configuration that name a file or folder.
OPTIONS = ("data_dir", "results_dir", "dataset.path", "logger.folder")


def expanded(path: str) -> str:
    """The path with its home folder in place of ``~`` or ``~name`` at the beginning.

    Nothing else is replaced, environment variables neither: shells do that.

    Raises:
        ConfigError: there is no such home folder, or the path begins with an environment variable.

    Example:
        >>> expanded("results/~"), expanded("./~/runs")
        ('results/~', './~/runs')
    """
    first = path.split("/")[0]
    if first.startswith("$"):
        raise ConfigError(
            f"{first} at the beginning of {path} is not replaced; leave out the single quotes, so "
            f"that the shell does it, or write ./{path} for a folder of that name"
        )
    home = os.path.expanduser(first)  # noqa: PTH111
    if first.startswith("~") and (home == first or not Path(home).is_dir()):
        raise ConfigError(
            f"there is no home folder {first} for {path}; write ./{path} for a folder of that name"
        )
    return home + path.removeprefix(first)


def user_path(path: str | Path) -> Path:
    """The path that a user means, see :func:`expanded`.

    Raises:
        ConfigError: there is no such home folder, or the path begins with an environment variable.
    """
    return Path(expanded(str(path)))


def path_argument(text: str) -> Path:
    """The same as ``type=`` of arguments of :mod:`argparse`, which shows the message."""
    try:
        return user_path(text)
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def with_user_paths(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration whose :data:`OPTIONS` are the paths that the user means.

    Args:
        config: a resolved configuration; values that are no text stay as they are.

    Raises:
        ConfigError: as :func:`expanded`, with the name of the option.
    """

    def walk(options: dict[str, Any], section: str) -> dict[str, Any]:
        return {name: expand(value, f"{section}{name}") for name, value in options.items()}

    def expand(value: Any, name: str) -> Any:
        if isinstance(value, dict):
            return walk(value, f"{name}.")
        return with_user_path(name, value) if name in OPTIONS and isinstance(value, str) else value

    return walk(config, "")


def with_user_path(name: str, value: str) -> str:
    """The value of one of :data:`OPTIONS` with its home folder.

    Raises:
        ConfigError: as :func:`expanded`, with the name of the option.
    """
    try:
        return expanded(value)
    except ConfigError as error:
        raise ConfigError(f"{name}: {error}") from error
