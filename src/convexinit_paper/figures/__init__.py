"""Figures and tables from stored runs: ``python -m convexinit_paper.figures --help``.

``catalogue``: every figure and table, and what it shows; ``variants``, ``panels``: what is
compared; ``select``: the stored runs of a panel; ``drawings``, ``tables``, ``claims``: what is made
of them.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path


def _import_matplotlib() -> None:
    """Import matplotlib without the user's backend and settings, neither of which figures need.

    It cannot be imported where ``MPLBACKEND`` names a backend that is not installed here, such as
    that of a notebook, or where a file of settings cannot be read.

    Raises:
        ImportError: for a file of settings in the current folder, which matplotlib always reads.
    """
    package = find_spec("matplotlib")
    defaults = Path(package.origin or "").parent / "mpl-data" / "matplotlibrc" if package else ""
    kept = {name: os.environ.pop(name, None) for name in ("MPLBACKEND", "MATPLOTLIBRC")}
    os.environ["MATPLOTLIBRC"] = str(defaults)
    try:
        import matplotlib  # noqa: F401
    except (OSError, ValueError) as error:
        raise ImportError(
            f"matplotlib cannot read its settings ({error}); is there a damaged file matplotlibrc "
            f"in {Path.cwd()}?",
            name=__name__,
        ) from error
    finally:
        del os.environ["MATPLOTLIBRC"]
        os.environ.update({name: value for name, value in kept.items() if value is not None})


_import_matplotlib()
