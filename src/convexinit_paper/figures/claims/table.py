"""Table "claims": what the paper claims, and whether the recorded runs reproduce it.

Where a variant was not run, or not for as long as in the paper, nothing is said about a claim.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, cast

import pandas as pd

from convexinit_paper.figures.claims.claims import CLAIMS, Claim
from convexinit_paper.figures.claims.relations import LEVEL
from convexinit_paper.figures.drawings.generalisation import SEARCHED
from convexinit_paper.figures.panels import lacking
from convexinit_paper.figures.select import Selection
from convexinit_paper.figures.text import markdown_table
from convexinit_paper.figures.variants import title_of
from convexinit_paper.store.runs import Run
from convexinit_paper.training.settings import PRECISIONS

# The panels of all claims, one after the other.
PANELS = [panel for claim in CLAIMS for panel in claim.evidence]
REPRODUCED, NOT_REPRODUCED, NOT_RUN = "reproduced", "not reproduced", "not run"
NOTE = """\
Claims are in our words, losses in nats. "Not run" also stands for runs that are too short, have too
few seeds or lack a variant. What was lacking is said in a word: time, data (CIFAR-100 could not be
had) or weights (those of CDDD); `python -m convexinit_paper.figures claims` prints the commands. A
claim is judged on the best set of runs of the variants that it is about. "Our reading": what a
claim rests on is a figure, or an appendix that is not at hand.

Criteria and thresholds are in `src/convexinit_paper/figures/claims`. When they were written, the
runs of Figures 1, 2 and 7 on MNIST, and of Table 1 and the level sets with autoencoder codes, were
known; no others were, and no threshold has been adapted to a run. What counts as too few seeds was
lowered from five to three when CIFAR-10 was to be trained without a GPU; three of ten epochs were
known then.
"""


def table(selections: Sequence[Selection], claims: Sequence[Claim] = CLAIMS) -> pd.DataFrame:
    """One row per claim and data set.

    Returns:
        ``claim, place, criterion, dataset, seeds, epochs, precision, grid, verdict, measured``; the
        extent of the runs is empty where there are none, and the grid where nothing was searched.

    Args:
        selections: the runs for the panels of the claims, in the same order.
        claims: those of the paper, or others.
    """
    remaining = iter(selections)
    rows = []
    for claim in claims:
        labels = {
            "claim": claim.statement, "place": claim.place, "criterion": claim.check.criterion,
        }  # fmt: skip
        if not claim.panels:
            rows.append({**labels, "dataset": "formulas", **verdict(claim, {})})
        for _ in claim.panels:
            selection = next(remaining)
            rows.append({**labels, "dataset": selection.panel.title, **judged(claim, selection)})
    extent = {"seeds": "Int64", "epochs": "Int64", "precision": "object", "grid": "object"}
    columns = [*labels, "dataset", *extent, "verdict", "measured"]
    return pd.DataFrame(rows).reindex(columns=columns).astype(extent)


def judged(claim: Claim, selection: Selection) -> dict[str, Any]:
    """The extent of the runs of a claim on one data set, and the verdict on it."""
    if not selection.runs:
        return {"verdict": NOT_RUN, "measured": lacking(selection.panel)}
    seeds, epochs = len(selection.common["seeds"]), selection.common.get("trainer.epochs")
    extent = {
        "seeds": seeds, "epochs": epochs, "precision": selection.common.get("trainer.precision"),
        "grid": selection.common.get("search.grid"),
    }  # fmt: skip
    missing = [title_of(name) for name in claim.check.needs if name not in selection.runs]
    if missing:
        why = f"without {', '.join(missing)}"
    elif epochs != claim.epochs:
        why = f"{epochs} epochs instead of {claim.epochs}"
    elif seeds < claim.seeds:
        why = f"{seeds} seeds, fewer than {claim.seeds}"
    else:
        return {**extent, **verdict(claim, selection.runs)}
    return {**extent, "verdict": NOT_RUN, "measured": f"time: {why}"}


def verdict(claim: Claim, runs: Mapping[str, Run]) -> dict[str, Any]:
    """Whether a claim holds for runs, and the numbers that decide it."""
    finding = claim.check.judge(runs)
    return {
        "verdict": REPRODUCED if finding.holds else NOT_REPRODUCED,
        "measured": finding.measured,
    }


def markdown(numbers: pd.DataFrame) -> str:
    """The table for people: a claim is written once; data sets not run for one reason are a row."""
    counts = numbers["verdict"].value_counts()
    summary = ", ".join(
        f"{counts.get(name, 0)} {name}" for name in (REPRODUCED, NOT_REPRODUCED, NOT_RUN)
    )
    header = ["claim", "in the paper", "holds if", "data", "seeds", "verdict", "measured"]
    lines: list[list[str]] = []
    for texts, rows in numbers.groupby(["claim", "place", "criterion"], sort=False):
        absent = (rows["verdict"] == NOT_RUN) & rows["seeds"].isna()
        cells = [row_cells(row) for row in rows[~absent].to_dict("records")]
        for lacked, data in rows[absent].groupby("measured", sort=False)["dataset"]:
            cells.append(["; ".join(data), "", NOT_RUN, str(lacked)])
        lines += [
            [*(cast("tuple[str, ...]", texts) if number == 0 else ("", "", "")), *row]
            for number, row in enumerate(cells)
        ]
    return (
        "# Claims of the paper, and what the recorded runs say\n\n"
        f"Of {len(numbers)} pairs of claim and data set: {summary}.\n\n"
        f"{NOTE}\n{LEVEL}\n\n{markdown_table(header, lines)}"
    )


def row_cells(row: dict[Hashable, Any]) -> list[str]:
    """Data, seeds (with precision and grid, if not those of the paper), verdict and numbers."""
    seeds = "" if pd.isna(row["seeds"]) else str(row["seeds"])
    if isinstance(row["precision"], str) and row["precision"] != PRECISIONS[0]:
        seeds += f", {row['precision']}"
    if isinstance(row["grid"], str) and row["grid"] != SEARCHED:
        seeds += f", grid {row['grid']}"
    bold = "" if row["verdict"] == NOT_RUN else "**"
    return [row["dataset"], seeds, f"{bold}{row['verdict']}{bold}", row["measured"]]
