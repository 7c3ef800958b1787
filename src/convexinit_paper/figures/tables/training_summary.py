"""Table "training-summary": where the runs behind the figures of training losses ended."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from convexinit_paper.figures.select import Selection
from convexinit_paper.figures.text import markdown_table
from convexinit_paper.figures.variants import title_of
from convexinit_paper.store.runs import Run
from convexinit_paper.training.settings import PRECISIONS

LARGE = 1000.0  # from here on in powers of ten
METRICS = ("train_loss", "validation_loss", "test_loss", "test_accuracy")


def table(selections: Sequence[Selection]) -> pd.DataFrame:
    """One row per run, grouped by data set; a run that several figures draw has one row.

    Returns:
        ``dataset, model, seeds, diverged, epochs, precision`` and, for each of :data:`METRICS`, its
        minimum, median and maximum over the seeds after the last epoch. Losses are in nats; the
        training loss of a seed is the median over the batches of its last epoch. Seeds that
        diverged count as infinite loss and accuracy 0.
    """
    rows: dict[Path, tuple[str, str, Run]] = {}
    for selection in selections:
        for variant, run in selection.runs.items():
            rows.setdefault(run.folder, (selection.panel.title, title_of(variant), run))
    titles = list(dict.fromkeys(title for title, _, _ in rows.values()))
    ordered = sorted(rows.values(), key=lambda row: titles.index(row[0]))
    return pd.DataFrame([_row(*row) for row in ordered])


def _row(dataset: str, model: str, run: Run) -> dict[str, Any]:
    final = final_metrics(run)
    row = {
        "dataset": dataset,
        "model": model,
        "seeds": len(final),
        "diverged": len(run.diverged),
        "epochs": run.config["trainer"]["epochs"],
        "precision": run.config["trainer"]["precision"],
    }
    for metric in METRICS:
        values = final[metric]
        row |= {
            f"{metric}_min": values.min(),
            f"{metric}_median": values.median(),
            f"{metric}_max": values.max(),
        }
    return row


def final_metrics(run: Run) -> pd.DataFrame:
    """Where every seed of a run ended.

    Returns:
        :data:`METRICS`, one row per seed, which is the index. Seeds that diverged have infinite
        loss and accuracy 0.
    """
    final = pd.DataFrame.from_dict(run.summary["seeds"], orient="index").rename(index=int)
    for metric in METRICS:
        worst = 0.0 if metric.endswith("accuracy") else float("inf")
        final[metric] = final[metric].astype(float).fillna(worst)
    return final[list(METRICS)]


def markdown(numbers: pd.DataFrame) -> str:
    """The table for people: ``median (minimum to maximum)`` over the seeds.

    The precision is named where it is not the highest.
    """
    header = [
        "data set", "model", "seeds", "epochs", "training loss", "test loss", "test accuracy"
    ]  # fmt: skip
    rows = []
    for row in numbers.to_dict("records"):
        cells = [
            "{} ({} to {})".format(
                *(_number(row[f"{metric}_{name}"]) for name in ("median", "min", "max"))
            )
            for metric in ("train_loss", "test_loss", "test_accuracy")
        ]
        dataset = row["dataset"]
        if row["precision"] != PRECISIONS[0]:
            dataset += f", {row['precision']}"
        rows.append([dataset, row["model"], str(row["seeds"]), str(row["epochs"]), *cells])
    return markdown_table(header, rows)


def _number(value: float) -> str:
    return f"{value:.3f}" if value < LARGE else f"{value:.1e}"
