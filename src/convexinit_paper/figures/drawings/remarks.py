"""Lines of small print at the bottom of a figure: which seeds diverged, and what was not run."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from convexinit_paper.figures import style
from convexinit_paper.figures.select import Selection, commands
from convexinit_paper.figures.text import counted
from convexinit_paper.figures.variants import title_of
from convexinit_paper.training.settings import PRECISIONS

LINE = 0.1  # inches
LENGTH = 128  # characters in a line as wide as the text
REMARK: dict[str, Any] = {"fontsize": 5.5}
COMMAND: dict[str, Any] = {"fontsize": 4.8, "family": "monospace"}

# A line: its text and its font.
Remark = tuple[str, dict[str, Any]]


def remarks_on(
    selections: Sequence[Selection], shown: Sequence[Selection], length: int = LENGTH
) -> list[Remark]:
    """All lines below a figure.

    Args:
        selections: the runs per panel.
        shown: those that are drawn.
        length: characters in a line.
    """
    return diverged(shown, length) + missing(selections, length)


def diverged(selections: Sequence[Selection], length: int) -> list[Remark]:
    """Lines that count the seeds that diverged."""
    lines: list[Remark] = []
    for selection in selections:
        counts = [
            f"{title_of(variant)} {len(run.diverged)} of {len(run.config['seeds'])}"
            for variant, run in selection.runs.items()
            if run.diverged
        ]
        if counts:
            text = f"diverged, not shown: {', '.join(counts)} on {selection.panel.title}"
            lines += [(line, REMARK) for line in textwrap.wrap(text, length)]
    return lines


def missing(selections: Sequence[Selection], length: int) -> list[Remark]:
    """Lines that name the runs that are missing, and the commands that produce them."""
    lines: list[Remark] = []
    incomplete = [part for selection in selections for part in selection.incomplete]
    for experiment in dict.fromkeys(selection.panel.experiment for selection in incomplete):
        here = [selection for selection in incomplete if selection.panel.experiment == experiment]
        what = "; ".join(
            f"{', '.join(map(title_of, selection.missing))} on {selection.panel.title}"
            if selection.runs
            else selection.panel.title
            for selection in here
        )
        lines += [(line, REMARK) for line in textwrap.wrap(f"not run: {what}", length)]
        for command in commands(here, Path("results/runs")):
            lines += [
                (line, COMMAND)
                for line in textwrap.wrap(
                    command, length, subsequent_indent="    ", break_on_hyphens=False,
                    break_long_words=False,
                )
            ]  # fmt: skip
    return lines


def height_of(remarks: Sequence[Remark]) -> float:
    """The room in inches that lines need."""
    return LINE * len(remarks) + (0.04 if remarks else 0.0)


def draw_remarks(figure: Figure, remarks: Sequence[Remark]) -> None:
    """Write lines at the bottom of a figure."""
    width, height = figure.get_size_inches()
    for line, (text, font) in enumerate(remarks, 1):
        place = (0.08 / width, (height_of(remarks) - LINE * line) / height)
        figure.text(*place, text, color=style.MUTED, **font)


def extent(selection: Selection, full_epochs: int = 0) -> str:
    """How many seeds the variants in a panel share, and what was less than in the paper.

    That is: the epochs if there are fewer than ``full_epochs``, and the precision if it is not
    the highest.
    """
    parts = [counted(len(selection.common["seeds"]), "seed")]
    epochs = selection.common.get("trainer.epochs", full_epochs)
    if epochs < full_epochs:
        parts.append(counted(epochs, "epoch"))
    precision = selection.common.get("trainer.precision", PRECISIONS[0])
    if precision != PRECISIONS[0]:
        parts.append(precision)
    return ", ".join(parts)
