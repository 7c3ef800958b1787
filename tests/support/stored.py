"""Made-up stored runs for figures and claims."""

from functools import cache

import numpy as np
import pandas as pd
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from convexinit_paper.figures import (
    training_summary,
)
from convexinit_paper.request.config import CONF
from convexinit_paper.store.runs import COLUMNS, Outcome
from support.runs import stored


@cache
def composed(experiment, model):
    with initialize_config_dir(str(CONF), version_base="1.3"):
        return compose("config", [f"experiment={experiment}", f"model={model}"])


def config_of(root, experiment, model, seeds, **options):
    config = OmegaConf.to_container(composed(experiment, model), resolve=True)
    config |= {"results_dir": str(root), "seeds": list(range(seeds))}
    for name, value in options.items():
        *sections, last = name.split("__")
        place = config
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = value
    return config


def store_run(config, metrics, arrays=None):
    final = dict.fromkeys(training_summary.METRICS, 0.5)
    bad = set(metrics.loc[~np.isfinite(metrics["value"].astype(float)), "seed"])
    seeds = {
        seed: {"status": "diverged" if seed in bad else "finished", **final}
        for seed in config["seeds"]
    }
    return stored(config, Outcome(metrics, seeds, "CPU", arrays or {}))


def batch_losses(steps, seeds, level=1.0):
    """A loss ``[seeds, steps]`` that falls, and differs between the seeds."""
    step = np.arange(1, steps + 1)
    return level * np.exp(-step / steps) * (1 + np.arange(seeds))[:, None]


def store_training(root, model="icnn", losses=None, experiment="digits", **options):
    losses = batch_losses(20, 3) if losses is None else losses
    count, steps = losses.shape
    config = config_of(root, experiment, model, count, **{"trainer__epochs": 2, **options})
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
    return store_run(config, pd.concat([metrics, other]))


def store_signal(root, model, predicted=True, seeds=3, **options):
    config = config_of(root, "signal_propagation", model, seeds, **options)
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
    return store_run(config, pd.DataFrame(rows, columns=COLUMNS), arrays)
