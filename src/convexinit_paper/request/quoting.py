"""Options as text that reads back as the same value: in Hydra's grammar, and in a shell."""

from __future__ import annotations

import json
import math
import re
import shlex
from collections.abc import Iterable
from typing import Any

# Text that needs no quotes in Hydra's grammar, but for the words that are no text there.
PLAIN = re.compile(r"(?:\.{0,2}/)?[A-Za-z_][\w./-]*", re.ASCII)
NO_TEXT = ("null", "true", "false", "inf", "nan")


def option_text(value: Any) -> str:
    """The value of an option as ``run.py`` reads it.

    Args:
        value: text, number, bool, None, or a list of those.

    Example:
        >>> option_text([1, 2]), option_text(None), option_text("zca"), option_text("a,b")
        ('[1,2]', 'null', 'zca', '"a,b"')
    """
    if isinstance(value, str):
        return value if PLAIN.fullmatch(value) and value.lower() not in NO_TEXT else _quoted(value)
    if isinstance(value, list):
        return f"[{','.join(map(option_text, value))}]"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return json.dumps(value)


def _quoted(text: str) -> str:
    """Text in double quotes, as Hydra reads it; ``${`` in it is no reference to another option."""
    text = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)
    # Backslashes count only before a quote, the closing one among them.
    return (
        '"'
        + re.sub(r'(\\*)("|\Z)', lambda end: end[1] * 2 + end[2].replace('"', r"\""), text)
        + '"'
    )


def argument(name: str, *values: Any) -> str:
    """An argument of ``run.py``: an option and its value, or several values for a sweep.

    Example:
        >>> argument("seeds", [3, 7]), argument("model", "icnn", "icnn_init")
        ('seeds=[3,7]', 'model=icnn,icnn_init')
    """
    return f"{name}={','.join(map(option_text, values))}"


def run_command(arguments: Iterable[str]) -> str:
    """A command that can be pasted into a shell.

    Args:
        arguments: of ``run.py``, each as :func:`argument` gives it, and flags.

    Example:
        >>> print(run_command(["-m", argument("results_dir", "a=1")]))
        python run.py -m 'results_dir="a=1"'
    """
    return f"python run.py {shlex.join(arguments)}"
