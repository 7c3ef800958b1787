"""Reproduces the paper from raw data to figures; works from a checkout of the project."""

import sys
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import NoReturn

_ROOT = Path(__file__).parents[2]
# Of the packages that the pipeline needs, those without which most of it cannot be imported.
_MODULES = ("torch", "torchvision", "hydra", "filelock", "pandas", "matplotlib", "rdkit", "sklearn")


def _refuse(message: str) -> NoReturn:
    """Raise an ImportError, which Python shows in one line where nobody handles it."""
    error = ImportError(message, name=__name__)
    show = sys.excepthook

    def in_one_line(
        kind: type[BaseException], raised: BaseException, trace: TracebackType | None
    ) -> None:
        if raised is error:
            sys.stderr.write(f"error: {message}\n")
        else:
            show(kind, raised, trace)

    sys.excepthook = in_one_line
    raise error


if not (_ROOT / "conf" / "config.yaml").is_file():
    _refuse(
        "the pipeline needs a checkout of the project convexinit, the folder with run.py and "
        f"conf/: start it there; {Path(__file__).parent} is an installed copy"
    )
_missing = [name for name in _MODULES if find_spec(name) is None]
if _missing:
    _refuse(
        f"the pipeline needs more packages ({', '.join(_missing)}): make install, or pip install "
        f"--constraint constraints.txt --editable '.[paper]', in {_ROOT}"
    )
