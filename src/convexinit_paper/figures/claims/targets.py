"""What the orthogonal initialisation was meant to reach, set before any of its runs."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import pandas as pd

from convexinit_paper.figures import panels
from convexinit_paper.figures.claims import measures, relations, table
from convexinit_paper.figures.claims.claims import EPOCHS, TOXICITY_EPOCHS, Check, Claim
from convexinit_paper.figures.select import Selection
from convexinit_paper.figures.text import markdown_table
from convexinit_paper.figures.variants import RANDOM_BIAS

OURS = ["icnn_orthogonal"]
OTHER_ICNNS = ["icnn", "icnn_skip", "icnn_init", RANDOM_BIAS]
DIGITS = [panel for panel in panels.MANY_DEPTHS if panel.title.startswith("digits")]
MNIST = [panel for panel in panels.MANY_DEPTHS if panel not in DIGITS]
DIGITS_EPOCHS, DEEP_EPOCHS = 15, 3
VERDICTS = {table.REPRODUCED: "met", table.NOT_REPRODUCED: "missed"}

_learns = partial(
    Claim,
    "No seed stays at the loss of guessing.",
    "a",
    Check(measures.WORST_LOSS, relations.BELOW_GUESSING, OURS, threshold=0.5),
)
TARGETS: tuple[Claim, ...] = (
    _learns(DIGITS, DIGITS_EPOCHS),
    _learns(panels.ACTIVATIONS, DIGITS_EPOCHS),
    _learns(MNIST[:1]),
    _learns(MNIST[1:], DEEP_EPOCHS),
    Claim(
        "Five layers on MNIST learn as the non-convex network with He's initialisation does.",
        "b",
        Check(measures.FINAL_LOSS, relations.NOT_ABOVE, OURS, ["nonconvex"], threshold=1),
        MNIST[:1],
    ),
    Claim(
        "So does every seed, up to a factor of two.",
        "b",
        Check(measures.WORST_LOSS, relations.NOT_ABOVE, OURS, ["nonconvex"], threshold=2),
        MNIST[:1],
    ),
    Claim(
        "Deep networks learn as non-convex ones with orthogonal weights and the same steps do, up "
        "to a factor of two.",
        "c",
        Check(
            measures.FINAL_LOSS, relations.NOT_ABOVE, OURS, ["nonconvex_orthogonal"], threshold=2
        ),
        MNIST[1:],
        DEEP_EPOCHS,
    ),
    Claim(
        "It generalises as the best ICNN does.",
        "d",
        Check(measures.FINAL_ACCURACY, relations.NOT_FAR_BELOW, OURS, OTHER_ICNNS, 0.5),
        MNIST[:1],
    ),
    Claim(
        "On Tox21 it is good after 50 of 300 epochs.",
        "e",
        Check(measures.AUROC_AT_50, relations.AT_LEAST_POINTS, OURS, threshold=80),
        [panels.TOXICITY_ORTHOGONAL],
        TOXICITY_EPOCHS,
    ),
    Claim(
        "It ends as well as ICNN + init there.",
        "e",
        Check(measures.MEAN_AUROC, relations.NOT_FAR_BELOW, OURS, ["icnn_init"], 0),
        [panels.TOXICITY_ORTHOGONAL],
        TOXICITY_EPOCHS,
    ),
    Claim(
        "On CIFAR-10 it ends below ICNN + init.",
        "f",
        Check(measures.FINAL_LOSS, relations.BELOW, OURS, ["icnn_init"]),
        panels.DYNAMICS[1:2],
        EPOCHS,
    ),
)
PANELS = [panel for target in TARGETS for panel in target.evidence]


def judged(selections: Sequence[Selection]) -> pd.DataFrame:
    """One row per target and data set, columns as of :func:`table.table`."""
    numbers = table.table(selections, TARGETS)
    return numbers.replace({"verdict": VERDICTS})


def markdown(numbers: pd.DataFrame) -> str:
    """The table for people."""
    header = ["", "target", "data", "seeds", "met if", "verdict", "measured"]
    rows = []
    for row in numbers.to_dict("records"):
        data, seeds, verdict, measured = table.row_cells(row)
        rows.append([row["place"], row["claim"], data, seeds, row["criterion"], verdict, measured])
    return markdown_table(header, rows)
