"""Reproduces the paper from raw data to figures; works from a checkout of the project."""

from importlib.util import find_spec
from pathlib import Path

_ROOT = Path(__file__).parents[2]

# As the error of an import, Python prints it in one line where a module is started by `python -m`.
if not (_ROOT / "conf" / "config.yaml").is_file():
    raise ImportError(
        "the pipeline needs a checkout of the project convexinit, the folder with run.py and "
        f"conf/: start it there; {Path(__file__).parent} is an installed copy",
        name=__name__,
    )
if find_spec("hydra") is None:
    raise ImportError(
        f"the pipeline needs more packages: make install, or pip install --constraint "
        f"constraints.txt --editable '.[paper]', in {_ROOT}",
        name=__name__,
    )
