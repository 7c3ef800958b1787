"""Figure 11: as Figure 3, for weights that are kept positive by ``exp`` (appendix C.5).

The non-convex network has no such weights; its runs are those of Figure 3.
"""

from __future__ import annotations

from convexinit_paper.figures import figure_3
from convexinit_paper.figures.figure_3 import draw, more_files, table
from convexinit_paper.figures.loss_figures import EXP, variants
from convexinit_paper.figures.select import TITLES, Panel

__all__ = ["draw", "more_files", "panels", "table"]

CONVEX = [name for name in TITLES if name != "nonconvex"]


def panels(scale: str) -> list[Panel]:
    """One panel per data set; the demo has none."""
    if scale == "demo":
        return []
    return figure_3.panels_of(scale, variants("nonconvex", *EXP.values()))
