"""The look of all figures, and how figures and tables are written."""

from __future__ import annotations

import io
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib.figure import Figure

from convexinit_paper.store.files import complete_file

# Widths in inches of a single-column paper such as NeurIPS: the text, and a figure of one panel.
TEXT_WIDTH = 5.5
PANEL_WIDTH = 3.4
# Heights in inches.
TITLE_LINE = 0.13
LEGEND_LINE = 0.16

# Colours that remain distinct for colour-blind readers (Okabe and Ito 2008, "Color Universal
# Design").
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
BLUE, VERMILION, PURPLE, YELLOW = "#0072B2", "#D55E00", "#CC79A7", "#F0E442"
# The paper's variants keep their colours in all figures; these are left for others.
COLOURS = {
    "nonconvex": BLACK,
    "icnn": VERMILION,
    "icnn_skip": GREEN,
    "icnn_init": BLUE,
    "icnn_orthogonal": PURPLE,
}
OTHERS = (ORANGE, SKY, PURPLE, YELLOW)
# What the theory predicts (the purple of Tol's "bright" scheme), and remarks.
PREDICTION = "#AA3377"
MUTED = "#666666"

SETTINGS: dict[Any, Any] = {
    "font.size": 7.0,
    "axes.titlesize": 7.5,
    "axes.labelsize": 7.0,
    "legend.fontsize": 7.0,
    "xtick.labelsize": 6.0,
    "ytick.labelsize": 6.0,
    "axes.linewidth": 0.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.major.width": 0.5,
    "ytick.major.width": 0.5,
    "xtick.minor.width": 0.35,
    "ytick.minor.width": 0.35,
    "xtick.major.size": 2.0,
    "ytick.major.size": 2.0,
    "xtick.minor.size": 1.2,
    "ytick.minor.size": 1.2,
    "lines.linewidth": 1.0,
    "legend.frameon": False,
    # Text stays text: journals ask for TrueType (42), and it can be searched and copied.
    "pdf.fonttype": 42,
    "savefig.dpi": 300,
}


def paper() -> AbstractContextManager[None]:
    """Context in which figures are drawn and saved; nothing leaks into the caller's settings."""
    return mpl.rc_context({**mpl.rcParamsDefault, "backend": "agg", **SETTINGS})


def save(figure: Figure, path: Path) -> list[Path]:
    """Write a figure as PDF and PNG, the same bytes for the same figure.

    Args:
        figure: drawn and saved within :func:`paper`.
        path: where to write, without suffix; its folder is made.

    Returns:
        The files written.
    """
    # Files without dates are equal when figures are equal.
    dateless = {"pdf": {"CreationDate": None}, "png": None}
    files = []
    for suffix, metadata in dateless.items():
        buffer = io.BytesIO()
        figure.savefig(buffer, format=suffix, metadata=metadata)
        files.append(write(path.with_name(f"{path.name}.{suffix}"), buffer.getvalue()))
    return files


def save_table(table: pd.DataFrame | str, path: Path) -> Path:
    """Write a text, or numbers as CSV with six significant digits; returns ``path``."""
    text = table if isinstance(table, str) else table.to_csv(index=False, float_format="%.6g")
    return write(path, text.encode())


def write(path: Path, content: bytes) -> Path:
    """Write a file that appears complete or not at all; its folder is made."""
    with complete_file(path) as unfinished:
        unfinished.write_bytes(content)
    return path
