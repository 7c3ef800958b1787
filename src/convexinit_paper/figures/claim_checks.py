"""Checks of the paper's claims against stored runs: small functions of runs, and their thresholds.

A check says in words when a claim holds, which variants it needs, and judges their runs. All
thresholds are here. A check is not changed because of what it finds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import numpy as np
import pandas as pd

from convexinit_paper.figures.select import title_of
from convexinit_paper.figures.table_1 import PAPER, PAPER_ASSAYS, last_aurocs, sign_test, spread
from convexinit_paper.figures.training_loss import curve, drawn_steps
from convexinit_paper.store.runs import Run

# Two training losses are at the same level if the higher one is at most so many times the lower
# one, and has come at least this share of its way down from the loss of guessing.
LOSS_FACTOR = 2.0
DESCENT_SHARE = 0.9
# A network has begun to learn when the loss is below this share of that of guessing.
BEGUN_SHARE = 0.5
# Accuracies and AUROCs that are no more than so many percentage points apart are similar.
SIMILAR_POINTS = 2.0
EARLY_EPOCHS = 5
SIGNIFICANCE = 0.05
# Signals: mean in standard deviations, variance as a factor, correlation as a difference.
MEAN_TOLERANCE = 0.5
VARIANCE_FACTOR = 2.0
CORRELATION_TOLERANCE = 0.25
# Largest difference between a distribution function and that of the Gaussian of the same moments.
GAUSSIAN_DISTANCE = 0.1
# Level sets: in logits; shares of walks, of points, and of what molecules at random differ by.
LEVEL_TOLERANCE = 1e-6
MOST_FAILED = 0.05
MOST = 0.5
SMALL_CHANGE = 0.1
QED_RANGE = 0.1

CLASSES = {"mnist": 10, "cifar10": 10, "cifar10_jpeg": 10, "cifar100": 100}

Runs = Mapping[str, Run]


class Finding(NamedTuple):
    """What a check found.

    Attributes:
        holds: whether the claim does.
        measured: the numbers that decide it, in words.
    """

    holds: bool
    measured: str


@dataclass(frozen=True)
class Check:
    """A test of a claim.

    Attributes:
        needs: variants whose runs it looks at; none for a claim about the theory.
        criterion: when the claim holds, in words.
        judge: from the runs by variant to the finding.
    """

    needs: tuple[str, ...]
    criterion: str
    judge: Callable[[Runs], Finding]


# --- Training losses -------------------------------------------------------------------------


def train_losses(run: Run) -> np.ndarray:
    """Training loss of every seed in nats, ``[seeds]``: the median over its last epoch's batches.

    Seeds that diverged count as infinite.
    """
    seeds = run.summary["seeds"].values()
    losses = [seed["train_loss"] if seed["status"] == "finished" else math.inf for seed in seeds]
    return np.array(losses, dtype=float)


def guessing(run: Run) -> float:
    """The loss in nats of predicting all classes with equal probability."""
    return math.log(CLASSES[run.config["dataset"]["name"]])


def is_reached(loss: float, reference: float, guess: float) -> bool:
    """Whether a training loss is at the level of a reference, or lower.

    Args:
        loss: in nats.
        reference: in nats.
        guess: the loss of guessing.

    Example:
        >>> is_reached(0.03, 0.02, guess=2.3), is_reached(2.2, 1.2, guess=2.3)
        (True, False)
    """
    descent = max(guess - reference, 0.0)
    return loss <= LOSS_FACTOR * reference and loss <= reference + (1 - DESCENT_SHARE) * descent


LEVEL = (
    f"A training loss is at the level of another one if it is at most {LOSS_FACTOR:g} times as "
    f"high and has come at least {DESCENT_SHARE:.0%} of the way from the loss of guessing (all "
    "classes equally probable) down to the other one."
)


def reaches(model: str, reference: str) -> Check:
    """The final training loss of a variant is at the level of another's, or lower."""

    def judge(runs: Runs) -> Finding:
        losses = _medians(runs, (model, reference))
        reached = is_reached(losses[model], losses[reference], guessing(runs[model]))
        return Finding(reached, _losses(losses))

    return Check(
        (model, reference),
        f"median training loss of {title_of(model)} in the last epoch is at the level of "
        f"{title_of(reference)} or lower",
        judge,
    )


def most_seeds_reach(model: str, reference: str) -> Check:
    """Three quarters of the seeds of a variant end at the level of another variant, or lower."""

    def judge(runs: Runs) -> Finding:
        quartiles = {
            name: float(np.quantile(train_losses(runs[name]), 0.75, method="inverted_cdf"))
            for name in (model, reference)
        }
        reached = is_reached(quartiles[model], quartiles[reference], guessing(runs[model]))
        return Finding(reached, _losses(quartiles))

    return Check(
        (model, reference),
        f"upper quartile over the seeds of the training loss of {title_of(model)} in the last "
        f"epoch is at the level of {title_of(reference)} or lower",
        judge,
    )


def misses(models: Sequence[str], reference: str) -> Check:
    """The final training losses of variants are not at the level of another's."""

    def judge(runs: Runs) -> Finding:
        losses = _medians(runs, (*models, reference))
        guess = guessing(runs[reference])
        reached = [is_reached(losses[name], losses[reference], guess) for name in models]
        return Finding(not any(reached), _losses(losses))

    return Check(
        (*models, reference),
        f"median training loss of {_and(models)} in the last epoch is not at the level of "
        f"{title_of(reference)}",
        judge,
    )


def same_loss(models: Sequence[str], reference: str) -> Check:
    """The final training losses of variants are at the level of another's, not lower either.

    Two losses near that of guessing are no evidence: the reference must have begun to learn.
    """

    def judge(runs: Runs) -> Finding:
        losses = _medians(runs, (*models, reference))
        guess, base = guessing(runs[reference]), losses[reference]
        same = all(
            is_reached(losses[name], base, guess) and is_reached(base, losses[name], guess)
            for name in models
        )
        return Finding(same and base < BEGUN_SHARE * guess, _losses(losses))

    return Check(
        (*models, reference),
        f"median training loss of {_and(models)} in the last epoch is at the level of "
        f"{title_of(reference)} and the other way round, and the latter is below "
        f"{BEGUN_SHARE:.0%} of the loss of guessing",
        judge,
    )


def below(model: str, other: str) -> Check:
    """The final training loss of a variant is below another's."""

    def judge(runs: Runs) -> Finding:
        losses = _medians(runs, (model, other))
        return Finding(losses[model] < losses[other], _losses(losses))

    return Check(
        (model, other),
        f"median training loss of {title_of(model)} in the last epoch is below that of "
        f"{title_of(other)}",
        judge,
    )


def begins_before(model: str, other: str) -> Check:
    """A variant begins to learn after fewer updates than another."""

    def judge(runs: Runs) -> Finding:
        starts = {name: first_below(runs[name], BEGUN_SHARE) for name in (model, other)}
        words = "; ".join(
            f"{title_of(name)}: {'never' if math.isinf(start) else f'update {start:.0f}'}"
            for name, start in starts.items()
        )
        return Finding(starts[model] < starts[other], words)

    return Check(
        (model, other),
        f"the median batch loss of {title_of(model)} falls below {BEGUN_SHARE:.0%} of the loss of "
        f"guessing after fewer updates than that of {title_of(other)}",
        judge,
    )


def first_below(run: Run, share: float) -> float:
    """The first update whose median batch loss is below a share of the loss of guessing, or inf.

    Of the updates that figures draw. Seeds that diverged count as infinite.
    """
    rows = run.metrics.query("split == 'train' and metric == 'batch_loss'")
    losses = rows.pivot_table("value", "step", "seed").reindex(columns=run.config["seeds"])
    for seed in losses.columns:
        if run.summary["seeds"][str(seed)]["status"] == "diverged":
            losses[seed] = math.inf
    medians = losses.loc[drawn_steps(losses.index.to_numpy())].median(axis=1)
    return min(medians.index[medians < share * guessing(run)].astype(float), default=math.inf)


def falls_before_plateau(model: str) -> Check:
    """The loss of a variant falls from its first batch to the end of training."""

    def judge(runs: Runs) -> Finding:
        first = float(curve(runs[model])["median"].iloc[0])
        last = _medians(runs, (model,))[model]
        return Finding(first >= LOSS_FACTOR * last, f"{first:.3g} at first, {last:.3g} at last")

    return Check(
        (model,),
        f"median loss of {title_of(model)} on the first batch is at least {LOSS_FACTOR:g} times "
        "that in the last epoch",
        judge,
    )


def _medians(runs: Runs, names: Sequence[str]) -> dict[str, float]:
    return {name: float(np.median(train_losses(runs[name]))) for name in names}


def _losses(losses: Mapping[str, float]) -> str:
    return "; ".join(f"{title_of(name)}: {loss:.3g}" for name, loss in losses.items())


def _and(names: Sequence[str]) -> str:
    return " and ".join(map(title_of, names))


# --- Generalisation --------------------------------------------------------------------------


def accuracies(run: Run) -> pd.Series:
    """Test accuracy in percent by epoch, the median over the seeds; 0 for seeds that diverged."""
    rows = run.metrics.query("split == 'test' and metric == 'accuracy'")
    by_seed = rows.pivot_table("value", "epoch", "seed").reindex(columns=run.config["seeds"])
    for seed in by_seed.columns:
        if run.summary["seeds"][str(seed)]["status"] == "diverged":
            by_seed[seed] = 0.0
    return 100 * by_seed.median(axis=1)


@dataclass(frozen=True)
class Measure:
    """A number of a run in percent.

    Attributes:
        words: what it is, with ``{}`` in place of the variant.
        of: the number of a run.
    """

    words: str
    of: Callable[[Run], float]

    def all_of(self, runs: Runs, names: Sequence[str]) -> dict[str, float]:
        """The numbers of several variants by name."""
        return {name: self.of(runs[name]) for name in names}


FINAL_ACCURACY = Measure(
    "median test accuracy of {} after the last epoch",
    lambda run: float(accuracies(run).iloc[-1]),
)
EARLY_ACCURACY = Measure(
    f"mean over the first {EARLY_EPOCHS} epochs of the median test accuracy of {{}}",
    lambda run: float(accuracies(run).loc[1:EARLY_EPOCHS].mean()),
)
MEAN_AUROC = Measure(
    "mean AUROC over the assays (median over the seeds) of {}",
    lambda run: spread(last_aurocs(run).mean(axis=1).to_numpy()).median,
)


def _highest(measure: Measure, model: str, others: Sequence[str]) -> Check:
    """A measure of a variant is above those of others."""

    def judge(runs: Runs) -> Finding:
        found = measure.all_of(runs, (model, *others))
        return Finding(all(found[model] > found[name] for name in others), _percents(found))

    return Check(
        (model, *others),
        f"{measure.words.format(title_of(model))} is above that of {_and(others)}",
        judge,
    )


def _matches(measure: Measure, model: str, reference: str) -> Check:
    """A measure of a variant is similar to another's, or higher."""

    def judge(runs: Runs) -> Finding:
        found = measure.all_of(runs, (model, reference))
        return Finding(found[model] >= found[reference] - SIMILAR_POINTS, _percents(found))

    return Check(
        (model, reference),
        f"{measure.words.format(title_of(model))} is at most {SIMILAR_POINTS:g} points below that "
        f"of {title_of(reference)}",
        judge,
    )


def similar_accuracies(models: Sequence[str]) -> Check:
    """The final test accuracies of all variants are similar."""

    def judge(runs: Runs) -> Finding:
        final = FINAL_ACCURACY.all_of(runs, models)
        spread_of = max(final.values()) - min(final.values())
        return Finding(spread_of <= SIMILAR_POINTS, _percents(final))

    return Check(
        tuple(models),
        f"median test accuracies after the last epoch differ by at most {SIMILAR_POINTS:g} points",
        judge,
    )


def higher_accuracy(model: str, others: Sequence[str]) -> Check:
    """The final test accuracy of a variant is above those of others."""
    return _highest(FINAL_ACCURACY, model, others)


def higher_accuracy_early(model: str, others: Sequence[str]) -> Check:
    """The test accuracy of a variant is above those of others in the first epochs."""
    return _highest(EARLY_ACCURACY, model, others)


def accuracy_matches(model: str, reference: str) -> Check:
    """The final test accuracy of a variant is similar to another's, or higher."""
    return _matches(FINAL_ACCURACY, model, reference)


def no_accuracy_gain(models: Sequence[str], reference: str) -> Check:
    """The final test accuracies of variants are not above another's, or similar to it."""

    def judge(runs: Runs) -> Finding:
        final = FINAL_ACCURACY.all_of(runs, (*models, reference))
        limit = final[reference] + SIMILAR_POINTS
        return Finding(all(final[name] <= limit for name in models), _percents(final))

    return Check(
        (*models, reference),
        f"median test accuracies of {_and(models)} after the last epoch are at most "
        f"{SIMILAR_POINTS:g} points above that of {title_of(reference)}",
        judge,
    )


def _percents(values: Mapping[str, float]) -> str:
    return "; ".join(f"{title_of(name)}: {value:.1f}%" for name, value in values.items())


# --- Toxicity --------------------------------------------------------------------------------


def better_auroc(model: str, other: str) -> Check:
    """A sign test over pairs of assay and seed finds the AUROC of a variant to be higher."""

    def judge(runs: Runs) -> Finding:
        first, second = last_aurocs(runs[model]), last_aurocs(runs[other])
        test = sign_test(first.to_numpy(), second.loc[first.index, first.columns].to_numpy())
        words = f"{test.wins} wins, {test.losses} losses, p = {test.p:.2g}"
        return Finding(test.p < SIGNIFICANCE, words)

    return Check(
        (model, other),
        f"one-sided sign test of {title_of(model)} against {title_of(other)} over the pairs of "
        f"assay and seed: p < {SIGNIFICANCE:g}",
        judge,
    )


def best_auroc(model: str, others: Sequence[str]) -> Check:
    """The mean AUROC over the assays of a variant is above those of others."""
    return _highest(MEAN_AUROC, model, others)


def auroc_matches(model: str, reference: str) -> Check:
    """The mean AUROC over the assays of a variant is similar to another's, or higher."""
    return _matches(MEAN_AUROC, model, reference)


def published_auroc(model: str) -> Check:
    """The column AVG of Table 1 for a variant is similar to the published one."""
    published = PAPER[model][0][PAPER_ASSAYS.index("AVG")]

    def judge(runs: Runs) -> Finding:
        ours = spread(last_aurocs(runs[model]).mean(axis=0).to_numpy()).median
        words = f"{ours:.2f} here, {published:.2f} in the paper"
        return Finding(abs(ours - published) <= SIMILAR_POINTS, words)

    return Check(
        (model,),
        f"AVG of {title_of(model)} is within {SIMILAR_POINTS:g} points of the published "
        f"{published:.2f}",
        judge,
    )


# --- Signal propagation ----------------------------------------------------------------------


def signals(run: Run, split: str) -> pd.DataFrame:
    """``mean, variance, correlation`` by layer from the second on, the mean over the seeds.

    Args:
        run: of the experiment ``signal_propagation``.
        split: "measured" or "predicted".
    """
    rows = run.metrics[(run.metrics["split"] == split) & (run.metrics["step"] > 1)]
    means = rows.pivot_table("value", "step", "metric", aggfunc="mean", dropna=False)
    return means.reindex(columns=["mean", "variance", "correlation"])


def agrees(quantity: str, values: pd.Series, targets: pd.Series, variances: pd.Series) -> bool:
    """Whether a quantity is at its target in every layer; what is not finite is not.

    Args:
        quantity: "mean", "variance" or "correlation".
        values: by layer.
        targets: by layer.
        variances: by layer, the unit of means.
    """
    if quantity == "mean":
        close = (values - targets).abs() <= MEAN_TOLERANCE * np.sqrt(variances)
    elif quantity == "variance":
        close = (values / targets).between(1 / VARIANCE_FACTOR, VARIANCE_FACTOR)
    else:
        close = (values - targets).abs() <= CORRELATION_TOLERANCE
    return bool(len(close)) and bool(close.all())


TOLERANCES = {
    "mean": f"within {MEAN_TOLERANCE:g} standard deviations of",
    "variance": f"within a factor of {VARIANCE_FACTOR:g} of",
    "correlation": f"within {CORRELATION_TOLERANCE:g} of",
}


def keeps(model: str, quantity: str) -> Check:
    """A quantity stays at its target in all layers after the first.

    Targets are mean 0, variance 1 and the correlation ``rho`` of the initialisation, or 0 for a
    network whose weights have mean zero.
    """

    def judge(runs: Runs) -> Finding:
        found = signals(runs[model], "measured")[quantity]
        return Finding(_kept(runs[model], quantity), _by_layer(found))

    target = {"mean": "0", "variance": "1", "correlation": "its target"}[quantity]
    return Check(
        (model,),
        f"{quantity} of the pre-activations of {title_of(model)} is {TOLERANCES[quantity]} "
        f"{target} in every layer after the first (mean over the seeds)",
        judge,
    )


def _kept(run: Run, quantity: str) -> bool:
    found = signals(run, "measured")
    rho = run.config["model"]["rho"] if run.config["model"]["convex"] else 0.0
    target = {"mean": 0.0, "variance": 1.0, "correlation": rho}[quantity]
    constant = pd.Series(target, index=found.index)
    return agrees(quantity, found[quantity], constant, pd.Series(1.0, index=found.index))


def shifts(model: str) -> Check:
    """Mean or variance leave their targets in some layer after the first."""

    def judge(runs: Runs) -> Finding:
        found = signals(runs[model], "measured")
        kept = [_kept(runs[model], quantity) for quantity in ("mean", "variance")]
        words = f"mean {_by_layer(found['mean'])}; variance {_by_layer(found['variance'])}"
        return Finding(not all(kept), words)

    return Check(
        (model,),
        f"in some layer after the first the mean of {title_of(model)} is not "
        f"{TOLERANCES['mean']} 0, or the variance is not {TOLERANCES['variance']} 1",
        judge,
    )


def is_predicted(model: str) -> Check:
    """Mean, variance and correlation are those that the theory predicts, in all layers."""

    def judge(runs: Runs) -> Finding:
        measured, predicted = (signals(runs[model], split) for split in ("measured", "predicted"))
        predicted = predicted.reindex(measured.index)
        agreed = [
            agrees(name, measured[name], predicted[name], predicted["variance"])
            for name in TOLERANCES
        ]
        words = "; ".join(
            f"{name} {_by_layer(measured[name])}, predicted {_by_layer(predicted[name])}"
            for name in TOLERANCES
        )
        return Finding(all(agreed), words)

    limits = ", ".join(f"{name} {limit}" for name, limit in TOLERANCES.items())
    return Check(
        (model,),
        f"in every layer after the first of {title_of(model)}: {limits} the prediction",
        judge,
    )


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


def not_gaussian(model: str) -> Check:
    """Pre-activations are far from Gaussian in some layer after the first."""

    def judge(runs: Runs) -> Finding:
        found = gaussian_distances(runs[model])
        return Finding(bool((found >= GAUSSIAN_DISTANCE).any()), _by_layer(found))

    return Check(
        (model,),
        f"in some layer after the first the distribution function of {title_of(model)} differs "
        f"from that of a Gaussian by at least {GAUSSIAN_DISTANCE:g}",
        judge,
    )


def more_gaussian(model: str, other: str) -> Check:
    """Pre-activations are nearer to Gaussian than those of another variant."""

    def judge(runs: Runs) -> Finding:
        ours, theirs = (float(gaussian_distances(runs[name]).mean()) for name in (model, other))
        words = f"{title_of(model)}: {ours:.3f}; {title_of(other)}: {theirs:.3f}"
        return Finding(ours < theirs, words)

    return Check(
        (model, other),
        f"the largest difference of the distribution function from a Gaussian's, mean over the "
        f"layers after the first, is smaller for {title_of(model)} than for {title_of(other)}",
        judge,
    )


def _by_layer(values: pd.Series) -> str:
    return ", ".join(f"{value:.3g}" for value in values)


# --- Level sets ------------------------------------------------------------------------------


def walks(run: Run) -> pd.DataFrame:
    """Metrics of the walks of a run: one row per task, the mean over the seeds."""
    return run.metrics.pivot_table("value", "split", "metric", aggfunc="mean", dropna=False)


def stays_on_level(model: str) -> Check:
    """Walks succeed, and all of their points are on the level."""

    def judge(runs: Runs) -> Finding:
        found = walks(runs[model])
        holds = (found["residual"] <= LEVEL_TOLERANCE) & (found["failed"] <= MOST_FAILED)
        words = "; ".join(
            f"{task}: residual {row['residual']:.1g}, {row['failed']:.0%} failed"
            for task, row in found.iterrows()
        )
        return Finding(bool(holds.all()), words)

    return Check(
        (model,),
        f"no point of a walk of {title_of(model)} is further than {LEVEL_TOLERANCE:g} from its "
        "level (in logits, or as a share of levels above 1 in size), and at most "
        f"{MOST_FAILED:.0%} of the walks fail",
        judge,
    )


def _walk_check(model: str, criterion: str, metrics: Sequence[str], rule: Callable) -> Check:
    """A check that holds if a rule does for the walks of all tasks."""

    def judge(runs: Runs) -> Finding:
        found = walks(runs[model])
        words = "; ".join(
            f"{task}: {', '.join(f'{row[metric]:.2g}' for metric in metrics)}"
            for task, row in found.iterrows()
        )
        return Finding(bool(rule(found).all()), words)

    return Check((model,), criterion, judge)


def qed_differs(model: str) -> Check:
    """The drug-likeness of the molecules on a walk differs."""
    return _walk_check(
        model,
        f"median over the walks of {title_of(model)} of the range of QED on a walk is at least "
        f"{QED_RANGE:g}",
        ["qed_range"],
        lambda found: found["qed_range"] >= QED_RANGE,
    )


def decodes(model: str) -> Check:
    """Most points of a walk decode to molecules."""
    return _walk_check(
        model,
        f"more than {MOST:.0%} of the points on walks of {title_of(model)} decode to molecules",
        ["valid"],
        lambda found: found["valid"] > MOST,
    )


def decoded_keep_level(model: str) -> Check:
    """Decoded molecules, encoded again, are predicted as their points were."""
    return _walk_check(
        model,
        f"median change of the prediction of {title_of(model)} by decoding and encoding is at most "
        f"{SMALL_CHANGE:.0%} of the median difference of a random molecule from the level (in "
        "logits; given: both)",
        ["own_change", "target_change"],
        lambda found: found["own_change"] <= SMALL_CHANGE * found["target_change"],
    )


def only_convex_levels(model: str, other: str) -> Check:
    """Rays cross a level of one variant once, and those of another more than once."""

    def judge(runs: Runs) -> Finding:
        shares = {name: float(walks(runs[name])["crossed_twice"].mean()) for name in (model, other)}
        holds = shares[model] == 0.0 and shares[other] > 0.0
        return Finding(holds, _percents({name: 100 * share for name, share in shares.items()}))

    return Check(
        (model, other),
        f"no ray from the interior crosses a level of {title_of(model)} more than once, and some "
        f"rays do for {title_of(other)} (given: share of rays)",
        judge,
    )


# --- Theory ----------------------------------------------------------------------------------

FAN_INS = (200, 784, 3072)
TARGETS = (0.1, 0.5, 0.9)
FIXED_POINT_TOLERANCE = 1e-6


def fixed_point() -> Check:
    """One layer maps mean 0, variance 1 and correlation ``rho`` to themselves."""

    def judge(runs: Runs) -> Finding:
        from convexinit.theory import SignalMoments, propagate, solve_init

        errors = []
        for fan_in in FAN_INS:
            for rho in TARGETS:
                layer = solve_init(fan_in, "relu", rho)
                after = propagate(SignalMoments(0.0, 1.0, rho), layer, fan_in)
                errors.append((after.mean, after.variance - 1.0, after.correlation - rho))
        return deviation_finding(errors)

    return Check(
        (),
        f"for fan_in {_numbers(FAN_INS)} and ρ {_numbers(TARGETS)}, a ReLU layer that is drawn so "
        f"changes mean 0, variance 1 and correlation ρ by at most {FIXED_POINT_TOLERANCE:g}",
        judge,
    )


def deviation_finding(errors: Sequence[Sequence[float]]) -> Finding:
    """Whether all deviations from a fixed point are small."""
    largest = float(np.abs(errors).max())
    return Finding(largest <= FIXED_POINT_TOLERANCE, f"largest change {largest:.1g}")


def correlation_is_stable() -> Check:
    """Deviations of the correlation alone shrink."""

    def judge(runs: Runs) -> Finding:
        from convexinit.theory import fixed_point_stability

        return shrinking_finding([fixed_point_stability(n).correlation_slope for n in FAN_INS])

    return Check(
        (),
        f"for ρ = 0.5 and fan_in {_numbers(FAN_INS)} the slope of the correlation map at the fixed "
        "point is below 1 in size",
        judge,
    )


def moments_are_stable() -> Check:
    """Deviations of mean, variance and correlation together shrink."""

    def judge(runs: Runs) -> Finding:
        from convexinit.theory import fixed_point_stability

        return shrinking_finding([fixed_point_stability(n).spectral_radius for n in FAN_INS])

    return Check(
        (),
        f"for ρ = 0.5 and fan_in {_numbers(FAN_INS)} the spectral radius of the map of mean, "
        "variance and correlation at the fixed point is below 1",
        judge,
    )


def shrinking_finding(factors: Sequence[float]) -> Finding:
    """Whether all factors by which deviations change in a layer are below 1 in size."""
    return Finding(max(map(abs, factors)) < 1.0, _numbers([f"{factor:.3g}" for factor in factors]))


def uniform_is_negative() -> Check:
    """A uniform distribution with the moments of the weights reaches below zero."""

    def judge(runs: Runs) -> Finding:
        from convexinit.theory import solve_init

        layers = [solve_init(fan_in) for fan_in in (2, 10, *FAN_INS)]
        return negative_finding(
            [layer.weight_mean - math.sqrt(3.0 * layer.weight_var) for layer in layers]
        )

    return Check(
        (),
        f"for ρ = 0.5 and fan_in {_numbers((2, 10, *FAN_INS))} the lower end of the uniform "
        "distribution with the mean and variance of the weights is below zero",
        judge,
    )


def negative_finding(ends: Sequence[float]) -> Finding:
    """Whether all lower ends of uniform distributions are below zero."""
    return Finding(max(ends) < 0.0, _numbers([f"{end:.2g}" for end in ends]))


def _numbers(values: Sequence[object]) -> str:
    return ", ".join(map(str, values))
