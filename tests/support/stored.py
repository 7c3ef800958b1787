"""Made-up stored runs for figures, tables and claims."""

from copy import deepcopy
from functools import cache

import numpy as np
import pandas as pd

from convexinit_paper.figures.tables import published
from convexinit_paper.figures.tables.training_summary import METRICS
from convexinit_paper.request.config import composed
from convexinit_paper.store.runs import COLUMNS, Outcome
from convexinit_paper.sweeps.grid_search import grid_cells
from support.runs import stored

ASSAYS = published.ASSAYS[:-1]  # AVG is none
STAND_IN = "Structural alerts (stand-in for Tox21)"

usual = cache(composed)


def config_of(root, experiment, model, *choices, **options):
    """A configuration of ``conf/``; options by name, with ``__`` for the dot."""
    config = deepcopy(usual(f"experiment={experiment}", f"model={model}", *choices))
    for name, value in {"results_dir": str(root), **options}.items():
        *sections, last = name.split("__")
        place = config
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = value
    return config


def store_run(config, metrics, seeds=None, arrays=None, **notes):
    """Store a run; without ``seeds``, those with a value that is not finite diverged."""
    if seeds is None:
        bad = set(metrics.loc[~np.isfinite(metrics["value"].astype(float)), "seed"])
        seeds = {
            seed: {
                "status": "diverged" if seed in bad else "finished",
                **dict.fromkeys(METRICS, 0.5),
            }
            for seed in config["seeds"]
        }
    return stored(config, Outcome(metrics, seeds, "CPU", arrays or {}, notes))


# --- Training losses -------------------------------------------------------------------------


def batch_losses(steps, seeds, level=1.0):
    """A loss ``[seeds, steps]`` that falls, and differs between the seeds."""
    step = np.arange(1, steps + 1)
    return level * np.exp(-step / steps) * (1 + np.arange(seeds))[:, None]


def store_training(root, model="icnn", losses=None, experiment="digits", **options):
    losses = batch_losses(20, 3) if losses is None else losses
    count, steps = losses.shape
    options = {"seeds": list(range(count)), "trainer__epochs": 2, **options}
    step = np.tile(np.arange(1, steps + 1), count)
    metrics = pd.DataFrame(
        {
            "seed": np.repeat(np.arange(count), steps),
            "epoch": (step - 1) // -(-steps // 2) + 1,
            "step": step,
            "split": "train",
            "metric": "batch_loss",
            "value": losses.flatten(),
        }
    )
    # Rows that do not belong in the figure.
    other = pd.DataFrame([[0, 1, 10, "validation", "loss", 1e6]], columns=COLUMNS)
    return store_run(config_of(root, experiment, model, **options), pd.concat([metrics, other]))


# --- Signals ---------------------------------------------------------------------------------


def store_signal(root, model, predicted=True, seeds=3, **options):
    config = config_of(root, "signal_propagation", model, seeds=list(range(seeds)), **options)
    rng = np.random.default_rng(0)
    rows, arrays = [], {}
    for layer in range(1, len(config["signal"]["widths"])):
        for seed in range(seeds):
            for metric in ("mean", "variance", "correlation", "pearson"):
                rows.append((seed, 0, layer, "measured", metric, seed + layer / 8))
                if predicted and metric != "pearson":
                    rows.append((seed, 0, layer, "predicted", metric, 0.5 * layer))
        counts, edges = np.histogram(rng.normal(size=1000), 20)
        arrays |= {f"histogram_{layer}": counts, f"edges_{layer}": edges}
        arrays[f"correlations_{layer}"] = np.eye(8, dtype=np.float16)
    return store_run(config, pd.DataFrame(rows, columns=COLUMNS), arrays=arrays)


# --- Grid search and generalisation ----------------------------------------------------------


def store_cell(
    root,
    accuracy,
    loss=0.5,
    status="finished",
    model="icnn",
    epochs=25,
    dataset="digits",
    **options,
):
    """A run whose seeds have these validation accuracies, losses and states."""
    accuracies = np.atleast_1d(accuracy)
    losses, states = (np.broadcast_to(value, accuracies.shape) for value in (loss, status))
    seeds = {
        seed: {
            "status": str(state),
            "train_loss": 0.1,
            "validation_accuracy": float(accuracy),
            "validation_loss": float(loss),
        }
        for seed, (accuracy, loss, state) in enumerate(zip(accuracies, losses, states, strict=True))
    }
    options = {"seeds": list(seeds), "trainer__epochs": epochs, **options}
    config = config_of(root, "generalisation", model, f"dataset={dataset}", **options)
    return store_run(config, pd.DataFrame(columns=COLUMNS), seeds)


def cell_options(grid, index):
    """Options of a cell of a grid, for :func:`store_cell`."""
    return {name.replace(".", "__"): value for name, value in grid_cells(grid)[index].items()}


def rising(seeds, epochs, final=0.98):
    """Accuracies and losses ``[seeds, epochs + 1]`` that become better and differ by seed."""
    learned = 1 - np.exp(-np.arange(epochs + 1))
    accuracy = final * (0.1 + 0.9 * learned) - 0.001 * np.arange(seeds)[:, None]
    return accuracy, 2.3 * (1 - learned) + 1 - accuracy


def store_final(root, model="icnn", curves=None, diverged=(), dataset="digits", **options):
    """A final run as the search stores it: as composed, with the chosen options.

    Accuracy and loss on the test set, ``curves``, are ``[seeds, epochs + 1]``.
    """
    accuracy, loss = rising(3, 5) if curves is None else curves
    count, epochs = accuracy.shape
    seed, epoch = np.mgrid[:count, :epochs].reshape(2, -1)
    columns = {"seed": seed, "epoch": epoch, "step": 12 * epoch, "split": "test"}
    parts = [
        pd.DataFrame({**columns, "metric": metric, "value": values.flatten()})
        for metric, values in (("accuracy", accuracy), ("loss", loss))
    ]
    # Rows that do not belong in the figure.
    others = [(0, 1, 12, "validation", "accuracy", 9.0), (0, 1, 12, "train", "batch_loss", 9.0)]
    parts.append(pd.DataFrame(others, columns=COLUMNS))
    seeds = {s: {"status": "diverged" if s in diverged else "finished"} for s in range(count)}
    grid = options.pop("search__grid", "demo")
    options = {"seeds": list(seeds), "trainer__epochs": epochs - 1, **options}
    config = config_of(root, "generalisation_final", model, f"dataset={dataset}", **options)
    # Without the option that made the search give up or not.
    config |= {"task": "final_training", "search": {"grid": grid}}
    return store_run(config, pd.concat(parts), seeds)


# --- Toxicity --------------------------------------------------------------------------------


def store_toxicity(
    root, model, aurocs, codec="ecfp", dataset="tox21", digest="codes-1", diverged=()
):
    """A run with test AUROCs ``[seeds, assays]``, as fractions, after its last epoch."""
    seeds = range(len(aurocs))
    names = [f"auroc_{assay}" for assay in ASSAYS]
    rows = [
        (seed, epoch, 10 * epoch, split, metric, value if (split, epoch) == ("test", 5) else 0.123)
        for epoch in (0, 4, 5)
        for split in ("test", "validation")
        for seed, values in zip(seeds, aurocs, strict=True)
        for metric, value in [
            ("loss", 0.4),
            *zip(names, values, strict=True),
            ("auroc", np.mean(values)),
        ]
    ]
    rows += [(seed, 5, 51, "train", "batch_loss", 0.5) for seed in seeds]
    return store_run(
        config_of(root, "tox21", model, f"codec={codec}", f"dataset={dataset}", seeds=list(seeds)),
        pd.DataFrame(rows, columns=COLUMNS),
        {seed: {"status": "diverged" if seed in diverged else "finished"} for seed in seeds},
        dataset="Tox21" if dataset == "tox21" else STAND_IN,
        tasks=list(ASSAYS),
        codec=digest,
        molecules={"train": 100, "test": 40},
        excluded={"train": {}, "test": {"fewer than 4 heavy atoms": 2, "empty": 1}},
    )
