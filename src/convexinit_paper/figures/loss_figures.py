"""Figures 2, 5 and 7 to 10, and two of our own: what their panels compare, on which data."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from convexinit_paper.figures import style
from convexinit_paper.figures.select import TITLES, Panel
from convexinit_paper.figures.training_loss import LossFigure

Variants = Mapping[str, Mapping[str, Any]]

DEPTHS = (3, 5, 7)
# Names of what is compared beside the four model variants, and what it is.
RANDOM_BIAS = "ICNN + init (random bias)"
BIAS_ONLY = "ICNN + init (bias only)"
RHO = {rho: f"ICNN + init (ρ = {rho})" for rho in (0.1, 0.5, 0.9)}
EXP = {model: f"{TITLES[model]} (exp)" for model in ("icnn", "icnn_skip", "icnn_init")}
POSITIVITY = {
    positivity: f"ICNN + init ({positivity.replace('_', '-')})"
    for positivity in ("projection", "clip", "exp", "neg_exp", "square", "softplus")
}
LSUV = "ICNN + LSUV"
INIT_LSUV = "ICNN + init + LSUV"
DIFFERENCE = "ICNN - ICNN"
VARIANTS: Variants = {
    RANDOM_BIAS: {"model": "icnn_init", "model.bias_noise": 0.5},
    BIAS_ONLY: {"model": "icnn_init", "model.init": "bias_only"},
    **{name: {"model": "icnn_init", "model.rho": rho} for rho, name in RHO.items()},
    **{name: {"model": model, "model.positivity": "exp"} for model, name in EXP.items()},
    **{
        name: {"model": "icnn_init", "model.positivity": positivity}
        for positivity, name in POSITIVITY.items()
    },
    LSUV: {"model": "icnn_lsuv"},
    INIT_LSUV: {"model": "icnn_init_lsuv"},
    DIFFERENCE: {"model": "icnn_difference"},
}


def variants(*names: str) -> Variants:
    """Model variants and those of :data:`VARIANTS`, as :class:`Panel` wants them."""
    return {name: VARIANTS.get(name, {}) for name in names}


def data_sets(compared: Variants, more: str = "") -> list[Panel]:
    """One panel for each of the paper's data sets of images.

    Args:
        compared: see :class:`Panel`.
        more: what the titles say after the data set.
    """
    copy = Panel("cifar10_jpeg", f"CIFAR-10 (JPEG copy){more}", compared)
    return [
        Panel("mnist", f"MNIST{more}", compared),
        Panel("cifar10", f"CIFAR-10{more}", compared, instead=copy),
        Panel("cifar100", f"CIFAR-100{more}", compared),
    ]


def depth_panels() -> list[Panel]:
    """One row of panels per data set, one panel per depth."""
    columns = [
        data_sets(
            {name: {"model.num_hidden": depth} for name in TITLES}, f", {depth} hidden layers"
        )
        for depth in DEPTHS
    ]
    return [panel for row in zip(*columns, strict=True) for panel in row]


DIGITS = Panel("digits", "digits")
FIGURES = {
    "figure-2": LossFigure([*data_sets(variants(*TITLES)), DIGITS], demo=[DIGITS]),
    "figure-5": LossFigure(depth_panels(), columns=len(DEPTHS), together=len(DEPTHS)),
    "figure-7": LossFigure(
        data_sets(variants("nonconvex", "icnn", "icnn_init", RANDOM_BIAS)),
        subject=[RANDOM_BIAS],
        colours={RANDOM_BIAS: style.SKY},
    ),
    "figure-8": LossFigure(
        data_sets(variants("nonconvex", "icnn", "icnn_init", BIAS_ONLY)),
        subject=[BIAS_ONLY],
        colours={BIAS_ONLY: style.PURPLE},
    ),
    "figure-9": LossFigure(
        data_sets(variants("nonconvex", *RHO.values())),
        subject=[RHO[0.1], RHO[0.9]],
        colours=dict(zip(RHO.values(), (style.ORANGE, style.BLUE, style.PURPLE), strict=True)),
    ),
    "figure-10": LossFigure(
        data_sets(variants("nonconvex", *EXP.values())),
        subject=list(EXP.values()),
        colours={name: style.COLOURS[model] for model, name in EXP.items()},
    ),
    # Another way to start, by itself or after the paper's, and a way to do without convexity.
    "baselines": LossFigure(
        data_sets(variants("nonconvex", "icnn", "icnn_init", LSUV, INIT_LSUV, DIFFERENCE))[:1],
        subject=[LSUV, INIT_LSUV, DIFFERENCE],
        colours={LSUV: style.ORANGE, INIT_LSUV: style.SKY, DIFFERENCE: style.PURPLE},
    ),
    # Ways to keep weights non-negative; on MNIST alone, as the paper does not compare them.
    "positivity": LossFigure(
        data_sets(variants(*POSITIVITY.values()))[:1],
        subject=[name for positivity, name in POSITIVITY.items() if positivity != "projection"],
        colours=dict(
            zip(
                POSITIVITY.values(),
                (style.BLUE, style.SKY, style.VERMILION, style.ORANGE, style.GREEN, style.PURPLE),
                strict=True,
            )
        ),
    ),
}


def experiments() -> set[str]:
    """The experiments whose batch losses are drawn."""
    panels = [panel for figure in FIGURES.values() for panel in figure.paper]
    panels += [panel.instead for panel in panels if panel.instead is not None]
    return {panel.experiment for panel in panels}
