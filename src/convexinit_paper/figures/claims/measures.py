"""What claims are about: numbers of a run, or of the theory, and how they are written."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from convexinit_paper.data.registry import DATA_SETS
from convexinit_paper.figures.curves import batch_losses, quartiles
from convexinit_paper.figures.tables.statistics import spread
from convexinit_paper.figures.tables.table_1 import last_aurocs
from convexinit_paper.store.runs import Run

# A network has begun to learn when the loss is below this share of that of guessing.
BEGUN_SHARE = 0.5
EARLY_EPOCHS = 5
QUANTITIES = ("mean", "variance", "correlation")


@dataclass(frozen=True)
class Measure:
    """Something that claims are about.

    Attributes:
        words: what it is; ``{}`` stands for variants.
        of: its value for a run; without a run, if it follows from formulas alone.
        shown: the value as it is written.
    """

    words: str
    of: Callable[..., Any]
    shown: Callable[[Any], str]


def listed(values: Iterable[object], form: str = "{}") -> str:
    """Values, one after the other.

    Example:
        >>> listed([0.5, 2.0], "{:.2f}")
        '0.50, 2.00'
    """
    return ", ".join(form.format(value) for value in values)


# --- Training losses -------------------------------------------------------------------------


class Loss(NamedTuple):
    """A training loss in nats.

    Attributes:
        value: the loss.
        guess: that of predicting all classes of the data set with equal probability.
    """

    value: float
    guess: float


def train_losses(run: Run) -> np.ndarray:
    """Training loss of every seed in nats, ``[seeds]``: the median over its last epoch's batches.

    Seeds that diverged count as infinite.
    """
    seeds = {int(seed): final["train_loss"] for seed, final in run.summary["seeds"].items()}
    losses = [math.inf if seed in run.diverged else loss for seed, loss in seeds.items()]
    return np.array(losses, dtype=float)


def guessing(run: Run) -> float:
    """The loss in nats of predicting all classes with equal probability."""
    classes = DATA_SETS[run.config["dataset"]["name"]].classes
    if classes is None:
        raise ValueError(f"{run.config['dataset']['name']} has no classes to guess")
    return math.log(classes)


def first_below(run: Run, share: float) -> float:
    """The first update whose median batch loss is below a share of the loss of guessing, or inf.

    Of the updates that figures draw. Seeds that diverged count as infinite.
    """
    losses = batch_losses(run).reindex(columns=run.config["seeds"])
    losses[sorted(run.diverged)] = math.inf
    medians = losses.droplevel("epoch").median(axis=1)
    return min(medians.index[medians < share * guessing(run)].astype(float), default=math.inf)


def fall(run: Run) -> tuple[float, float]:
    """The median loss on the first batch, and that in the last epoch."""
    first = float(quartiles(batch_losses(run), run)["median"].iloc[0])
    return first, float(np.median(train_losses(run)))


FINAL_LOSS = Measure(
    "median training loss of {} in the last epoch",
    lambda run: Loss(float(np.median(train_losses(run))), guessing(run)),
    lambda loss: f"{loss.value:.3g}",
)
WORST_LOSS = Measure(
    "training loss of the worst seed of {} in the last epoch",
    lambda run: Loss(float(train_losses(run).max()), guessing(run)),
    lambda loss: f"{loss.value:.3g}",
)
UPPER_LOSS = Measure(
    "upper quartile over the seeds of the training loss of {} in the last epoch",
    lambda run: Loss(
        float(np.quantile(train_losses(run), 0.75, method="inverted_cdf")), guessing(run)
    ),
    lambda loss: f"{loss.value:.3g}",
)
BEGINNING = Measure(
    f"the median batch loss of {{}} falls below {BEGUN_SHARE:.0%} of the loss of guessing",
    lambda run: first_below(run, BEGUN_SHARE),
    lambda update: "never" if math.isinf(update) else f"update {update:.0f}",
)
FALL = Measure(
    "median loss of {} on the first batch",
    fall,
    lambda losses: "{:.3g} at first, {:.3g} at last".format(*losses),
)

# --- Generalisation and toxicity, in percent ---------------------------------------------------


def accuracies(run: Run) -> pd.Series:
    """Test accuracy in percent by epoch, the median over the seeds; 0 for seeds that diverged."""
    rows = run.metrics.query("split == 'test' and metric == 'accuracy'")
    by_seed = rows.pivot_table("value", "epoch", "seed").reindex(columns=run.config["seeds"])
    by_seed[sorted(run.diverged)] = 0.0
    return 100 * by_seed.median(axis=1)


def percent(value: float) -> str:
    """A share in percent.

    Example:
        >>> percent(97.25)
        '97.2%'
    """
    return f"{value:.1f}%"


FINAL_ACCURACY, FINAL_ACCURACIES, ACCURACIES = (
    Measure(words, lambda run: float(accuracies(run).iloc[-1]), percent)
    for words in (
        "median test accuracy of {} after the last epoch",
        "median test accuracies of {} after the last epoch",
        "median test accuracies after the last epoch",
    )
)
EARLY_ACCURACY = Measure(
    f"mean over the first {EARLY_EPOCHS} epochs of the median test accuracy of {{}}",
    lambda run: float(accuracies(run).loc[1:EARLY_EPOCHS].mean()),
    percent,
)
MEAN_AUROC = Measure(
    "mean AUROC over the assays (median over the seeds) of {}",
    lambda run: spread(last_aurocs(run).mean(axis=1).to_numpy()).median,
    percent,
)
AUROC_AT_50 = Measure(
    "mean AUROC over the assays (median over the seeds) of {} after epoch 50",
    lambda run: (
        100
        * run.metrics.query("split == 'test' and metric == 'auroc' and epoch <= 50")
        .groupby("epoch")["value"]
        .median()
        .iloc[-1]
    ),
    percent,
)
AVERAGE_AUROC = Measure(
    "AVG of {}",
    lambda run: spread(last_aurocs(run).mean(axis=0).to_numpy()).median,
    lambda auroc: f"{auroc:.2f} here",
)
AUROCS = Measure("sign test of {}", last_aurocs, str)

# --- Signal propagation ----------------------------------------------------------------------


class Signals(NamedTuple):
    """Pre-activations by layer from the second on, the mean over the seeds.

    Attributes:
        measured: columns ``mean, variance, correlation``.
        predicted: the same by the theory.
        targets: mean 0, variance 1 and the correlation ``rho`` of the initialisation, or 0 for a
            network whose weights have mean zero.
    """

    measured: pd.DataFrame
    predicted: pd.DataFrame
    targets: dict[str, float]


def signals(run: Run) -> Signals:
    """The signals of a run of the experiment ``signal_propagation``."""
    rows = run.metrics[run.metrics["step"] > 1]
    measured, predicted = (
        rows[rows["split"] == split]
        .pivot_table("value", "step", "metric", aggfunc="mean", dropna=False)
        .reindex(columns=list(QUANTITIES))
        for split in ("measured", "predicted")
    )
    rho = run.config["model"]["rho"] if run.config["model"]["convex"] else 0.0
    targets = {"mean": 0.0, "variance": 1.0, "correlation": rho}
    return Signals(measured, predicted.reindex(measured.index), targets)


def gaussian_distances(run: Run) -> pd.Series:
    """How far pre-activations are from Gaussian, by layer from the second on.

    Returns:
        The largest difference between the distribution function of the first seed's histogram and
        that of the Gaussian of the same mean and variance; 1 for a layer without histogram.
    """
    layers = range(2, len(run.config["signal"]["widths"]))
    return pd.Series({layer: _gaussian_distance(run, layer) for layer in layers})


def _gaussian_distance(run: Run, layer: int) -> float:
    if f"histogram_{layer}" not in run.arrays:
        return 1.0
    counts, edges = run.arrays[f"histogram_{layer}"], run.arrays[f"edges_{layer}"]
    centres = (edges[1:] + edges[:-1]) / 2
    mean = float(np.average(centres, weights=counts))
    deviation = math.sqrt(float(np.average((centres - mean) ** 2, weights=counts)))
    if deviation == 0.0:
        return 1.0
    found = np.cumsum(counts) / counts.sum()
    gaussian = np.array([NormalDist(mean, deviation).cdf(float(edge)) for edge in edges[1:]])
    return float(np.abs(found - gaussian).max())


def by_layer(values: pd.Series) -> str:
    """Values, one after the other, with three digits."""
    return listed(values, "{:.3g}")


def _quantity(name: str) -> Measure:
    return Measure(
        f"{name} of the pre-activations of {{}}",
        signals,
        lambda found: by_layer(found.measured[name]),
    )


QUANTITY = {name: _quantity(name) for name in QUANTITIES}
SHIFT = Measure(
    "the mean of {}",
    signals,
    lambda found: "; ".join(
        f"{name} {by_layer(found.measured[name])}" for name in ("mean", "variance")
    ),
)
PREDICTION = Measure(
    "{}",
    signals,
    lambda found: "; ".join(
        f"{name} {by_layer(found.measured[name])}, predicted {by_layer(found.predicted[name])}"
        for name in QUANTITIES
    ),
)
GAUSSIAN_DISTANCES = Measure("the distribution function of {}", gaussian_distances, by_layer)
GAUSSIAN_DISTANCE = Measure(
    "the largest difference of the distribution function from a Gaussian's, mean over the layers "
    "after the first,",
    lambda run: float(gaussian_distances(run).mean()),
    "{:.3f}".format,
)

# --- Level sets ------------------------------------------------------------------------------


def walks(run: Run) -> pd.DataFrame:
    """Metrics of the walks of a run: one row per task, the mean over the seeds."""
    return run.metrics.pivot_table("value", "split", "metric", aggfunc="mean", dropna=False)


def by_task(found: pd.DataFrame) -> str:
    """Metrics of walks, one task after the other."""
    return "; ".join(f"{task}: {listed(row, '{:.2g}')}" for task, row in found.iterrows())


def _walk(words: str, *metrics: str) -> Measure:
    return Measure(words, lambda run: walks(run)[list(metrics)], by_task)


RESIDUAL = Measure(
    "a walk of {}",
    walks,
    lambda found: "; ".join(
        f"{task}: residual {row['residual']:.1g}, {row['failed']:.0%} failed"
        for task, row in found.iterrows()
    ),
)
QED_RANGE = _walk("median over the walks of {} of the range of QED on a walk", "qed_range")
VALID = _walk("the points on walks of {}", "valid")
OWN_CHANGE = _walk(
    "median change of the prediction of {} by decoding and encoding", "own_change", "target_change"
)
CROSSED = Measure(
    "a level of {}", lambda run: 100 * float(walks(run)["crossed_twice"].mean()), percent
)

# --- Theory ----------------------------------------------------------------------------------

FAN_INS = (200, 784, 3072)
SMALL_FAN_INS = (2, 10)
CORRELATIONS = (0.1, 0.5, 0.9)


def fixed_point_error() -> float:
    """The largest change of mean 0, variance 1 or correlation ``rho`` by one layer."""
    from convexinit.theory import SignalMoments, propagate, solve_init

    errors = []
    for fan_in in FAN_INS:
        for rho in CORRELATIONS:
            layer = solve_init(fan_in, "relu", rho)
            after = propagate(SignalMoments(0.0, 1.0, rho), layer, fan_in)
            errors.append((after.mean, after.variance - 1.0, after.correlation - rho))
    return float(np.abs(errors).max())


def correlation_slopes() -> list[float]:
    """By how much a layer changes a small deviation of the correlation alone."""
    from convexinit.theory import fixed_point_stability

    return [fixed_point_stability(fan_in).correlation_slope for fan_in in FAN_INS]


def spectral_radii() -> list[float]:
    """By how much a layer changes deviations of mean, variance and correlation at most."""
    from convexinit.theory import fixed_point_stability

    return [fixed_point_stability(fan_in).spectral_radius for fan_in in FAN_INS]


def uniform_ends() -> list[float]:
    """Lower ends of uniform distributions with the mean and variance of the weights."""
    from convexinit.theory import solve_init

    layers = [solve_init(fan_in) for fan_in in (*SMALL_FAN_INS, *FAN_INS)]
    return [layer.weight_mean - math.sqrt(3.0 * layer.weight_var) for layer in layers]


FIXED_POINT = Measure(
    f"for fan_in {listed(FAN_INS)} and ρ {listed(CORRELATIONS)}, a ReLU layer that is drawn so "
    "changes mean 0, variance 1 and correlation ρ",
    fixed_point_error,
    "largest change {:.1g}".format,
)
SLOPES = Measure(
    f"for ρ = 0.5 and fan_in {listed(FAN_INS)} the slope of the correlation map at the fixed point",
    correlation_slopes,
    lambda factors: listed(factors, "{:.3g}"),
)
SPECTRAL_RADII = Measure(
    f"for ρ = 0.5 and fan_in {listed(FAN_INS)} the spectral radius of the map of mean, variance "
    "and correlation at the fixed point",
    spectral_radii,
    lambda factors: listed(factors, "{:.3g}"),
)
UNIFORM_ENDS = Measure(
    f"for ρ = 0.5 and fan_in {listed((*SMALL_FAN_INS, *FAN_INS))} the lower end of the uniform "
    "distribution with the mean and variance of the weights",
    uniform_ends,
    lambda ends: listed(ends, "{:.2g}"),
)
