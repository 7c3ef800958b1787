"""Table "training-summary": where the runs behind Figure 2 ended, and where the recipe fails."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from convexinit.figures import figure_2
from convexinit.figures.select import TITLES, Panel, Selection

METRICS = ("train_loss", "validation_loss", "test_loss", "test_accuracy")


# Random bias (appendix C.3), and five layers of 64 units: too narrow for the paper's
# initialisation, unless biases are random.
MORE_PANELS = [
    Panel("mnist", "MNIST, random bias", {"icnn_init": {"model.bias_noise": 0.5}}),
    Panel("digits", "digits, 5 hidden layers", {name: {"model.num_hidden": 5} for name in TITLES}),
    Panel(
        "digits",
        "digits, 5 hidden layers, random bias",
        {"icnn_init": {"model.num_hidden": 5, "model.bias_noise": 0.5}},
    ),
]


def panels(scale: str) -> list[Panel]:
    """The panels of Figure 2; at paper scale also those of :data:`MORE_PANELS`."""
    return figure_2.panels(scale) + (MORE_PANELS if scale == "paper" else [])


def table(selections: Sequence[Selection]) -> pd.DataFrame:
    """One row per data set and variant.

    Returns:
        ``dataset, model, seeds, diverged, epochs`` and, for each of :data:`METRICS`, its minimum,
        median and maximum over the seeds after the last epoch. Losses are in nats; the training
        loss of a seed is the median over the batches of its last epoch. Seeds that diverged count
        as infinite loss and accuracy 0.
    """
    rows = []
    for selection in selections:
        for model, run in selection.runs.items():
            seeds = pd.DataFrame(run.summary["seeds"].values())
            row = {
                "dataset": selection.panel.title,
                "model": TITLES[model],
                "seeds": len(seeds),
                "diverged": int((seeds["status"] == "diverged").sum()),
                "epochs": run.config["trainer"]["epochs"],
            }
            for metric in METRICS:
                worst = 0.0 if metric.endswith("accuracy") else float("inf")
                values = seeds[metric].astype(float).fillna(worst)
                row |= {
                    f"{metric}_min": values.min(),
                    f"{metric}_median": values.median(),
                    f"{metric}_max": values.max(),
                }
            rows.append(row)
    return pd.DataFrame(rows)


def markdown(numbers: pd.DataFrame) -> str:
    """The table for people: ``median (minimum to maximum)`` over the seeds."""
    header = [
        "data set", "model", "seeds", "epochs", "training loss", "test loss", "test accuracy"
    ]  # fmt: skip
    lines = [header, ["---"] * len(header)]
    for row in numbers.to_dict("records"):
        cells = [
            f"{row[f'{metric}_median']:.3f} ({row[f'{metric}_min']:.3f} to "
            f"{row[f'{metric}_max']:.3f})"
            for metric in ("train_loss", "test_loss", "test_accuracy")
        ]
        lines.append([row["dataset"], row["model"], str(row["seeds"]), str(row["epochs"]), *cells])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
