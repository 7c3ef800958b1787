"""Table "failures": how many seeds of each initialisation never learn."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from convexinit_paper.figures.claims.measures import guessing
from convexinit_paper.figures.select import Selection
from convexinit_paper.figures.tables.training_summary import final_metrics
from convexinit_paper.figures.text import markdown_table
from convexinit_paper.figures.variants import title_of

# A seed that ends above this share of the loss of guessing has not learned.
NOT_LEARNED = 0.9


def table(selections: Sequence[Selection]) -> pd.DataFrame:
    """One row per run.

    Returns:
        ``dataset, model, seeds, epochs, failed, train_loss``: how many seeds end above
        :data:`NOT_LEARNED` of the loss of guessing or diverge, and the median training loss.
    """
    rows = []
    for selection in selections:
        for variant, run in selection.runs.items():
            losses = final_metrics(run)["train_loss"]
            rows.append(
                {
                    "dataset": selection.panel.title,
                    "model": title_of(variant),
                    "seeds": len(losses),
                    "epochs": run.config["trainer"]["epochs"],
                    "failed": int((losses > NOT_LEARNED * guessing(run)).sum()),
                    "train_loss": losses.median(),
                }
            )
    return pd.DataFrame(rows)


def markdown(numbers: pd.DataFrame) -> str:
    """The table for people: ``failed of seeds`` of every model."""
    models = list(dict.fromkeys(numbers["model"]))
    rows = []
    for dataset, runs in numbers.groupby("dataset", sort=False):
        cells = {row["model"]: f"{row['failed']} of {row['seeds']}" for _, row in runs.iterrows()}
        epochs = str(runs["epochs"].iloc[0])
        rows.append([str(dataset), epochs, *(cells.get(model, "not run") for model in models)])
    return markdown_table(["data set", "epochs", *models], rows)
