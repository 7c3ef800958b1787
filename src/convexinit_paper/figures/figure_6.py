"""Figure 6: as Figure 1, for all settings."""

from __future__ import annotations

from convexinit_paper.figures.figure_1 import draw, table
from convexinit_paper.figures.loss_figures import RANDOM_BIAS, variants
from convexinit_paper.figures.select import Panel

__all__ = ["draw", "panels", "table"]


def panels(scale: str) -> list[Panel]:
    """What the figure shows; the same at all scales."""
    settings = variants("nonconvex", "icnn", "icnn_init", RANDOM_BIAS, "icnn_skip")
    return [Panel("signal_propagation", "signal propagation", settings)]
