"""Table "precision": what training in bfloat16 changes, by pairs of runs that are equal otherwise.

Both runs of a pair train the same seeds from the same weights on the same batches. Rounding makes
their paths part soon, so single seeds differ by as much as two seeds do; what counts is whether
they end at the same level.
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from convexinit_paper.figures.select import Panel, Selection, select
from convexinit_paper.figures.tables.training_summary import final_metrics
from convexinit_paper.figures.text import markdown_table
from convexinit_paper.figures.variants import title_of
from convexinit_paper.store.runs import Run

PRECISIONS = ("float32", "bfloat16")  # that are compared
METRICS = ("train_loss", "test_loss", "test_accuracy")


def pairs(panels: Sequence[Panel], runs: Sequence[Run]) -> list[Selection]:
    """The runs of panels in both precisions, where they can be compared.

    Returns:
        Pairs, float32 first: of as many epochs, with seeds and variants in common.
    """
    result = []
    for panel in panels:
        wide, narrow = (
            select(panel, [run for run in runs if _precision(run) == precision])
            for precision in PRECISIONS
        )
        if (
            wide.runs.keys() & narrow.runs.keys()
            and wide.common["trainer.epochs"] == narrow.common["trainer.epochs"]
            and _common_seeds(wide, narrow)
        ):
            result += [wide, narrow]
    return result


def _precision(run: Run) -> str | None:
    return run.config.get("trainer", {}).get("precision")


def _common_seeds(wide: Selection, narrow: Selection) -> list[int]:
    return [seed for seed in wide.common["seeds"] if seed in narrow.common["seeds"]]


def table(selections: Sequence[Selection]) -> pd.DataFrame:
    """One row per data set and variant with runs in both precisions.

    Returns:
        ``dataset, model, seeds, epochs`` and, for each of :data:`METRICS` and precisions, the
        median over the seeds that both runs have, after the last epoch: ``train_loss_float32``,
        ``train_loss_bfloat16`` and so on. Losses are in nats.
    """
    rows = []
    for wide, narrow in zip(selections[::2], selections[1::2], strict=True):
        seeds = _common_seeds(wide, narrow)
        for variant in [variant for variant in wide.runs if variant in narrow.runs]:
            row = {
                "dataset": wide.panel.title,
                "model": title_of(variant),
                "seeds": len(seeds),
                "epochs": wide.common["trainer.epochs"],
            }
            finals = [
                final_metrics(selection.runs[variant]).loc[seeds] for selection in (wide, narrow)
            ]
            row |= {
                f"{metric}_{precision}": final[metric].median()
                for metric in METRICS
                for precision, final in zip(PRECISIONS, finals, strict=True)
            }
            rows.append(row)
    return pd.DataFrame(rows)


def markdown(numbers: pd.DataFrame) -> str:
    """The table for people, losses and accuracies as ``float32 / bfloat16``."""
    header = ["data set", "model", "seeds", "epochs", *(m.replace("_", " ") for m in METRICS)]
    rows = [
        [
            row["dataset"],
            row["model"],
            str(row["seeds"]),
            str(row["epochs"]),
            *(
                " / ".join(f"{row[f'{metric}_{precision}']:.3f}" for precision in PRECISIONS)
                for metric in METRICS
            ),
        ]
        for row in numbers.to_dict("records")
    ]
    note = "Medians over the seeds that both runs have, as float32 / bfloat16."
    return f"{markdown_table(header, rows)}\n{note}\n"
