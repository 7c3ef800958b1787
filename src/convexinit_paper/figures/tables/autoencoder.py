"""Table "autoencoder": how well codes of molecules that were never trained on are decoded."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from convexinit_paper.figures.select import Selection
from convexinit_paper.figures.text import markdown_table

# What the sets of a run are called in the table; other sets keep their names.
TITLES = {
    "held_out": "all held-out molecules",
    "greedy": "some of them, greedy search",
    "beam": "some of them, beam of 10",
    "nearest of beam": "some of them, nearest molecule in a beam of 10",
    "greedy between": "codes between two of them, greedy search",
    "beam between": "codes between two of them, beam of 10",
    "nearest of beam between": "codes between two of them, nearest molecule in a beam of 10",
}


def table(selections: Sequence[Selection]) -> pd.DataFrame:
    """One row per set of molecules.

    Returns:
        ``set, molecules, exact, valid``: shares in [0, 1] of molecules that come back exactly (same
        canonical SMILES) and of decoded strings that are valid, by greedy search if not said
        otherwise. For codes between molecules ``molecules`` is empty, and nothing can come back.
    """
    rows = []
    for selection in selections:
        for run in selection.runs.values():
            final = run.metrics[run.metrics["step"] == run.metrics["step"].max()]
            final = final[final["epoch"] == 0]  # the assessment after training
            for name, metrics in final.groupby("split", sort=False):
                values = dict(zip(metrics["metric"], metrics["value"], strict=True))
                rows.append(
                    {
                        "set": TITLES.get(str(name), str(name).replace("_", " ")),
                        "molecules": values.get("molecules"),
                        "exact": values.get("exact"),
                        "valid": values["valid"],
                    }
                )
    return pd.DataFrame(rows).astype({"molecules": "Int64"})


def markdown(numbers: pd.DataFrame) -> str:
    """The table for people, in percent."""
    rows = [
        [
            row["set"],
            "" if pd.isna(row["molecules"]) else str(row["molecules"]),
            *(
                "" if pd.isna(row[name]) else f"{100 * row[name]:.1f}"
                for name in ("exact", "valid")
            ),
        ]
        for row in numbers.to_dict("records")
    ]
    return markdown_table(["set", "molecules", "exact (%)", "valid (%)"], rows)
