"""What every command begins with, so that it works whatever surrounds its process."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import sys
import warnings
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

ESCAPED = "convexinit.escaped"  # name of the rule for characters that an output cannot show


def begin_command() -> None:
    """Prepare a process that was started as a command, before it reads or writes anything.

    All text is UTF-8 whatever the locale, and output that nobody reads any more is no error. A
    folder of data that is set to nothing counts as not set. Ctrl-C ends it without a traceback.
    """
    sys.excepthook = _show
    if not os.environ.get("CONVEXINIT_DATA"):
        os.environ.pop("CONVEXINIT_DATA", None)
    _use_utf8()
    codecs.register_error(ESCAPED, _escape)
    sys.stdout, sys.stderr = _outlet(sys.stdout), _outlet(sys.stderr)
    show_warnings_shortly()


def show_warnings_shortly() -> None:
    """Let warnings of this project be shown as ``warning: <text>``, without a line of its code."""
    usual = warnings.formatwarning

    def shortly(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        line: str | None = None,
    ) -> str:
        if category is UserWarning and "site-packages" not in filename:
            return f"warning: {message}\n"
        return usual(message, category, filename, lineno, line)

    warnings.formatwarning = shortly


def is_interruption(error: BaseException | None) -> bool:
    """Whether it is Ctrl-C, or an error that came up while a package tidied up after it."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Show an error that nobody handles."""
    if is_interruption(error):
        sys.stderr.write("\nInterrupted.\n")
    else:
        sys.__excepthook__(kind, error, trace)


def _use_utf8() -> None:
    """Start this process again in Python's UTF-8 mode, if the locale has another encoding.

    The encoding of file names and arguments can be chosen at the start of Python alone. Processes
    that this one starts inherit the mode.
    """
    if sys.getfilesystemencoding() == "utf-8" or os.environ.get("PYTHONUTF8") == "1":
        return
    os.environ["PYTHONUTF8"] = "1"
    arguments: list[bytes] | list[str] = sys.orig_argv
    with contextlib.suppress(OSError):  # as bytes, which not every locale gives back unchanged
        arguments = Path("/proc/self/cmdline").read_bytes().split(b"\0")[:-1]
    os.execv(sys.executable, [sys.executable, "-X", "utf8", *arguments[1:]])


class _Outlet(io.FileIO):
    """An output of this process; what is written after its reader has gone is dropped."""

    failed = False

    def write(self, data: Any, /) -> int:
        """Write bytes; returns how many.

        Raises:
            SystemExit: the first time that results cannot be written, as on a full disk.
        """
        try:
            return super().write(data)
        except OSError as error:
            first, self.failed = not self.failed, True
            if first and self.fileno() == 1 and not isinstance(error, BrokenPipeError):
                sys.exit(f"error: the output of this command cannot be written: {error.strerror}")
            return len(data)


def _outlet(stream: TextIO | None) -> TextIO:
    """An output in place of ``stream``, which fails neither on text nor on a reader that left."""
    if stream is None:  # closed by who started the process
        return Path(os.devnull).open("w", encoding="utf-8")
    stream.flush()
    raw = _Outlet(stream.fileno(), "w", closefd=False)
    return io.TextIOWrapper(
        io.BufferedWriter(raw),
        encoding=stream.encoding,
        errors=ESCAPED,
        line_buffering=True,  # what fails does so here, not when Python ends
    )


def _escape(error: UnicodeError) -> tuple[str | bytes, int]:
    """Undecodable bytes, such as those of a file name, as they were; other characters escaped."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    character = error.object[error.start]
    is_byte = "\udc80" <= character <= "\udcff"
    rule = "surrogateescape" if is_byte else "backslashreplace"
    return character.encode("ascii", rule), error.start + 1
