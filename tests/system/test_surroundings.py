"""Commands where users call them: beside notebooks, in any locale, in pipes and shared folders."""

import subprocess
import sys

import pytest

from support.commands import environment
from support.data import ROOT


def module(name, *arguments, cwd=ROOT, **variables):
    """A module of the pipeline as a process."""
    return subprocess.run(
        [sys.executable, "-m", f"convexinit_paper.{name}", *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=environment(**variables),
        timeout=300,
        check=False,
    )


# --- Drawing -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "variables",
    [
        {"MPLBACKEND": "module://matplotlib_inline.backend_inline"},  # what notebooks export
        {"MPLBACKEND": "no such backend"},
        {"MPLBACKEND": "TkAgg", "DISPLAY": ""},
        {"MPLCONFIGDIR": "{tmp_path}"},
        {"MATPLOTLIBRC": "{tmp_path}/matplotlibrc"},
        {"MPLCONFIGDIR": "/proc/none"},
    ],
)
def test_drawing_needs_no_backend_and_no_settings_of_the_user(tmp_path, variables):
    (tmp_path / "matplotlibrc").write_bytes(b"backend: none\nfont.size: \xff\n")
    variables = {name: value.format(tmp_path=tmp_path) for name, value in variables.items()}
    out = tmp_path / "out"
    result = module("figures", "figure-1", "--out", out, **variables)
    assert result.returncode == 0, result.stderr
    assert (out / "figures" / "figure-1.png").is_file()


def test_settings_of_matplotlib_that_cannot_be_read_are_named(tmp_path):
    (tmp_path / "matplotlibrc").write_bytes(b"font.size: \xff\n")
    result = module("figures", "--help", cwd=tmp_path)
    assert result.returncode == 1
    assert f"damaged file matplotlibrc in {tmp_path}" in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr
