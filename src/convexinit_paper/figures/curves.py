"""Curves over the seeds of a run: quartiles, and the updates at which losses are drawn."""

from __future__ import annotations

import numpy as np
import pandas as pd

from convexinit_paper.store.runs import Run

DRAWN_EVERY = 50  # updates
FEWEST_POINTS = 150


def quartiles(values: pd.DataFrame, run: Run) -> pd.DataFrame:
    """Quartiles over the seeds that did not diverge.

    Args:
        values: one column per seed of the run.
        run: says which seeds diverged.

    Returns:
        ``seeds`` (how many these are), ``q25, median, q75``, for each row of ``values``.
    """
    kept = values[[seed for seed in values if seed not in run.diverged]]
    return pd.DataFrame(
        {
            "seeds": kept.shape[1],
            "q25": kept.quantile(0.25, axis=1),
            "median": kept.quantile(0.5, axis=1),
            "q75": kept.quantile(0.75, axis=1),
        },
        index=kept.index,
    )


def batch_losses(run: Run) -> pd.DataFrame:
    """Losses of training batches in nats, of the updates that are drawn.

    Returns:
        One row per ``epoch, step``, one column per seed.
    """
    rows = run.metrics.query("split == 'train' and metric == 'batch_loss'")
    # (A pivot table would leave out seeds whose losses are not finite.)
    losses = rows.set_index(["epoch", "step", "seed"])["value"].unstack("seed")  # noqa: PD010
    steps = losses.index.get_level_values("step")
    return losses[steps.isin(drawn_steps(steps.to_numpy()))]


def drawn_steps(steps: np.ndarray) -> np.ndarray:
    """The updates that are drawn: every 50th, or more where that leaves fewer than 150.

    Args:
        steps: the updates of a run that are stored, in order, the last one among them.
    """
    stride = min(DRAWN_EVERY, max(1, int(steps.max(initial=0)) // FEWEST_POINTS))
    return steps[(steps - 1) % stride == 0]
