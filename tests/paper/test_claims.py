"""Every check is shown runs for which its claim is true, and runs for which it is false."""

import json
import math
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convexinit.theory import solve_init
from convexinit_paper.figures.__main__ import main
from convexinit_paper.figures.catalogue import FIGURES
from convexinit_paper.figures.claims import measures, relations
from convexinit_paper.figures.claims.claims import CLAIMS, Check
from convexinit_paper.figures.claims.measures import Loss, Measure
from convexinit_paper.figures.claims.relations import is_reached
from convexinit_paper.figures.claims.table import PANELS, markdown, table
from convexinit_paper.figures.panels import GENERALISATION
from convexinit_paper.figures.select import Selection
from convexinit_paper.figures.variants import BIAS_ONLY, EXP, MODELS, RANDOM_BIAS
from convexinit_paper.store.runs import COLUMNS, Run
from support.drawn import table_of
from support.stored import batch_losses, store_signal, store_training

LN10, LN100 = math.log(10), math.log(100)


def fabricated(config, seeds, metrics=(), arrays=None, **notes):
    run = Run(Path("nowhere"), config, {"seeds": seeds, **notes})
    run.__dict__["metrics"] = pd.DataFrame(list(metrics), columns=COLUMNS)
    run.__dict__["arrays"] = arrays or {}
    return run


def statuses(count, diverged=(), **final):
    return {
        str(seed): {"status": "diverged" if seed in diverged else "finished", **final}
        for seed in range(count)
    }


# --- Training losses -------------------------------------------------------------------------


def trained(losses, curve=(), dataset="mnist"):
    """A run whose seeds end at these training losses (None: diverged)."""
    count = len(losses)
    seeds = statuses(count, [seed for seed, loss in enumerate(losses) if loss is None])
    for final, loss in zip(seeds.values(), losses, strict=True):
        final["train_loss"] = loss
    rows = [
        (seed, 1, step, "train", "batch_loss", value)
        for step, value in enumerate(curve, start=1)
        for seed in range(count)
    ]
    return fabricated({"dataset": {"name": dataset}, "seeds": list(range(count))}, seeds, rows)


def level(loss, dataset="mnist"):
    return trained([loss] * 5, dataset=dataset)


@pytest.mark.parametrize(
    ("loss", "reference", "guess", "reached"),
    [
        (0.039, 0.02, LN10, True),
        (0.041, 0.02, LN10, False),  # more than twice
        (1e-9, 0.02, LN10, True),
        (1.0 + 0.09 * (LN10 - 1.0), 1.0, LN10, True),
        (1.0 + 0.11 * (LN10 - 1.0), 1.0, LN10, False),  # less than 90% of the way
        (4.6, 2.5, LN100, False),  # not twice, but still guessing
        (math.inf, 0.02, LN10, False),
    ],
)
def test_levels_of_loss(loss, reference, guess, reached):
    assert is_reached(Loss(loss, guess), Loss(reference, guess)) is reached


@given(st.floats(1e-6, 10.0), st.floats(1e-6, 2.3))
def test_every_loss_is_at_its_own_level_and_lower_ones_are_too(loss, lower):
    assert is_reached(Loss(loss, LN10), Loss(loss, LN10))
    if lower <= loss:
        assert is_reached(Loss(lower, LN10), Loss(loss, LN10))


REACHES = Check(measures.FINAL_LOSS, relations.AT_LEVEL, ["icnn_init"], ["nonconvex"])
MISS = Check(measures.FINAL_LOSS, relations.NOT_AT_LEVEL, ["icnn", "icnn_skip"], ["nonconvex"])
SAME = Check(measures.FINAL_LOSS, relations.SAME_LEVEL, ["icnn", "icnn_skip"], ["icnn_init"])
LOWER = Check(measures.FINAL_LOSS, relations.BELOW, ["icnn_init"], ["icnn"])


@pytest.mark.parametrize(
    ("check", "losses", "holds"),
    [
        (REACHES, {"icnn_init": 0.03, "nonconvex": 0.02}, True),
        (REACHES, {"icnn_init": 0.001, "nonconvex": 0.02}, True),
        (REACHES, {"icnn_init": 0.05, "nonconvex": 0.02}, False),
        (MISS, {"icnn": 2.3, "icnn_skip": 1.0, "nonconvex": 0.02}, True),
        (MISS, {"icnn": 2.3, "icnn_skip": 0.01, "nonconvex": 0.02}, False),
        (MISS, {"icnn": 0.03, "icnn_skip": 1.0, "nonconvex": 0.02}, False),
        (SAME, {"icnn": 0.02, "icnn_skip": 0.03, "icnn_init": 0.025}, True),
        (SAME, {"icnn": 0.02, "icnn_skip": 0.3, "icnn_init": 0.025}, False),
        (SAME, {"icnn": 0.02, "icnn_skip": 0.03, "icnn_init": 0.1}, False),  # better is not same
        (SAME, {"icnn": 2.3, "icnn_skip": 2.3, "icnn_init": 2.3}, False),  # nobody has learned
        (LOWER, {"icnn_init": 0.1, "icnn": 0.2}, True),
        (LOWER, {"icnn_init": 0.2, "icnn": 0.2}, False),
        (LOWER, {"icnn_init": 2.3, "icnn": 0.2}, False),
    ],
)
def test_training_losses(check, losses, holds):
    finding = check.judge({name: level(loss) for name, loss in losses.items()})
    assert finding.holds is holds


def test_findings_name_the_numbers():
    finding = REACHES.judge({"icnn_init": level(0.03), "nonconvex": level(0.02)})
    assert finding.measured == "ICNN + init: 0.03; non-convex: 0.02"


def test_seeds_that_diverged_are_infinitely_bad():
    assert measures.train_losses(trained([0.1, None, 0.3])).tolist() == [0.1, math.inf, 0.3]
    runs = {"icnn_init": trained([0.02, None, None]), "nonconvex": level(0.02)}
    assert not REACHES.judge(runs).holds


@pytest.mark.parametrize(("dataset", "holds"), [("cifar100", True), ("mnist", False)])
def test_the_loss_of_guessing_is_that_of_the_data_set(dataset, holds):
    # The same losses are near each other among 100 classes, and far apart among 10.
    runs = {"icnn_init": level(1.2, dataset), "nonconvex": level(0.9, dataset)}
    assert REACHES.judge(runs).holds is holds


@pytest.mark.parametrize(("stuck", "holds"), [(0, True), (2, True), (3, False), (4, False)])
def test_three_quarters_of_the_seeds(stuck, holds):
    most = Check(measures.UPPER_LOSS, relations.AT_LEVEL, ["icnn_init"], ["nonconvex"])
    losses = [0.02] * (10 - stuck) + [2.3] * stuck
    runs = {"icnn_init": trained(losses), "nonconvex": level(0.02)}
    assert most.judge(runs).holds is holds
    assert REACHES.judge(runs).holds


FAST, SLOW, NEVER = [2.3, 1.1, 0.1], [2.3, 2.0, 1.1], [2.3] * 3


@pytest.mark.parametrize(
    ("ours", "theirs", "losses", "holds", "words"),
    [
        (FAST, SLOW, [0.1] * 3, True, "ICNN + init: update 2; ICNN: update 3"),
        (SLOW, FAST, [0.1] * 3, False, "ICNN + init: update 3; ICNN: update 2"),
        (FAST, FAST, [0.1] * 3, False, "ICNN + init: update 2; ICNN: update 2"),
        (NEVER, NEVER, [0.1] * 3, False, "ICNN + init: never; ICNN: never"),
        (SLOW, NEVER, [0.1] * 3, True, "ICNN + init: update 3; ICNN: never"),
        # Most seeds diverged.
        (SLOW, NEVER, [0.1, None, None], False, "ICNN + init: never; ICNN: never"),
    ],
)
def test_beginning_to_learn(ours, theirs, losses, holds, words):
    check = Check(measures.BEGINNING, relations.EARLIER, ["icnn_init"], ["icnn"])
    runs = {"icnn_init": trained(losses, ours), "icnn": trained([0.1] * 3, theirs)}
    assert check.judge(runs) == (holds, words)


@pytest.mark.parametrize(("first", "holds"), [(100.0, True), (2.3, False)])
def test_falling_before_the_plateau(first, holds):
    check = Check(measures.FALL, relations.FALLS, ["icnn"], threshold=2.0)
    assert check.judge({"icnn": trained(NEVER, [first, 2.3])}).holds is holds


# --- Generalisation and toxicity ---------------------------------------------------------------


def with_accuracies(curve, diverged=(), seeds=5):
    """A run whose seeds have these test accuracies, in [0, 1], after epochs 0, 1, ..."""
    rows = [
        (seed, epoch, epoch, "test", "accuracy", value)
        for epoch, value in enumerate(curve)
        for seed in range(seeds)
    ]
    rows += [(0, 9, 9, "validation", "accuracy", 1.0), (0, 9, 9, "test", "loss", 5.0)]
    return fabricated({"seeds": list(range(seeds))}, statuses(seeds, diverged), rows)


@pytest.mark.parametrize(
    ("diverged", "expected"), [([], [10, 50]), ([0, 1], [10, 50]), ([0, 1, 2], [0, 0])]
)
def test_accuracies_are_percentages_by_epoch(diverged, expected):
    found = measures.accuracies(with_accuracies([0.1, 0.5], diverged))
    assert found.to_dict() == dict(enumerate(expected))


def assayed(mean, seeds=5, assays=4):
    """A run with AUROCs about a mean in every assay."""
    rng = np.random.default_rng(round(1e4 * mean))
    tasks = [f"assay {number}" for number in range(assays)]
    rows = [
        (seed, epoch, epoch, "test", f"auroc_{task}", mean * epoch + 0.001 * rng.normal())
        for epoch in (0, 1)
        for seed in range(seeds)
        for task in tasks
    ]
    return fabricated({"seeds": list(range(seeds))}, {}, rows, tasks=tasks)


def final(accuracy):
    return with_accuracies([0.1, accuracy])


def early(accuracy):
    return with_accuracies([0.9 - accuracy, *[accuracy] * 5, 0.9 - accuracy])


@pytest.mark.parametrize(
    ("made", "measure", "relation", "threshold", "values", "others", "holds"),
    [
        (final, measures.ACCURACIES, relations.TOGETHER, 2, [0.98, 0.97, 0.965], [], True),
        (final, measures.ACCURACIES, relations.TOGETHER, 2, [0.98, 0.97, 0.95], [], False),
        (final, measures.FINAL_ACCURACY, relations.ABOVE, None, [0.5], [0.4, 0.45], True),
        (final, measures.FINAL_ACCURACY, relations.ABOVE, None, [0.5], [0.4, 0.55], False),
        (final, measures.FINAL_ACCURACY, relations.ABOVE, None, [0.5], [0.5, 0.4], False),
        (early, measures.EARLY_ACCURACY, relations.ABOVE, None, [0.4], [0.3], True),
        (early, measures.EARLY_ACCURACY, relations.ABOVE, None, [0.3], [0.4], False),
        (final, measures.FINAL_ACCURACY, relations.NOT_FAR_BELOW, 2, [0.485], [0.5], True),
        (final, measures.FINAL_ACCURACY, relations.NOT_FAR_BELOW, 2, [0.9], [0.5], True),
        (final, measures.FINAL_ACCURACY, relations.NOT_FAR_BELOW, 2, [0.47], [0.5], False),
        (final, measures.FINAL_ACCURACIES, relations.NOT_FAR_ABOVE, 2, [0.51, 0.2], [0.5], True),
        (final, measures.FINAL_ACCURACIES, relations.NOT_FAR_ABOVE, 2, [0.51, 0.53], [0.5], False),
        (assayed, measures.MEAN_AUROC, relations.ABOVE, None, [0.82], [0.80, 0.81], True),
        (assayed, measures.MEAN_AUROC, relations.ABOVE, None, [0.81], [0.80, 0.82], False),
        (assayed, measures.MEAN_AUROC, relations.NOT_FAR_BELOW, 2, [0.81], [0.82], True),
        (assayed, measures.MEAN_AUROC, relations.NOT_FAR_BELOW, 2, [0.79], [0.82], False),
        (assayed, measures.AVERAGE_AUROC, relations.AS_PUBLISHED, 80.57, [0.80], [], True),
        (assayed, measures.AVERAGE_AUROC, relations.AS_PUBLISHED, 80.57, [0.84], [], False),
        (assayed, measures.AVERAGE_AUROC, relations.AS_PUBLISHED, 80.57, [0.77], [], False),
        (assayed, measures.AUROCS, relations.BETTER, 0.05, [0.82], [0.80], True),
        (assayed, measures.AUROCS, relations.BETTER, 0.05, [0.80], [0.82], False),
        (assayed, measures.AUROCS, relations.BETTER, 0.05, [0.80], [0.80], False),
    ],
)
def test_percentages(made, measure, relation, threshold, values, others, holds):
    runs = {str(place): made(value) for place, value in enumerate([*values, *others])}
    names = list(runs)
    check = Check(measure, relation, names[: len(values)], names[len(values) :], threshold)
    assert check.judge(runs).holds is holds


def test_sign_tests_of_few_pairs():
    check = Check(measures.AUROCS, relations.BETTER, ["a"], ["b"], 0.05)
    few = {"a": assayed(0.82, seeds=2, assays=2), "b": assayed(0.80, seeds=2, assays=2)}
    # 4 wins of 4: p = 1/16
    assert check.judge(few) == (False, "4 wins, 0 losses, p = 0.062")


# --- Signal propagation ----------------------------------------------------------------------


def signalled(measured, predicted=None, convex=True, histograms=()):
    """A run of three layers; the last two have these (mean, variance, correlation)."""
    first = (7.0, 7.0, 7.0)  # of the first layer, which no check looks at
    rows = [
        (seed, 0, layer, split, metric, value + jitter)
        for split, layers in (("measured", measured), ("predicted", predicted or measured))
        for layer, values in enumerate([first, *layers], start=1)
        for metric, value in zip(measures.QUANTITIES, values, strict=True)
        for seed, jitter in ((0, -0.01), (1, 0.01))
    ]
    arrays = {}
    for layer, values in enumerate(histograms, start=2):
        arrays[f"histogram_{layer}"], arrays[f"edges_{layer}"] = np.histogram(values, 60)
    config = {
        "seeds": [0, 1], "model": {"rho": 0.5, "convex": convex}, "signal": {"widths": [9] * 4},
    }  # fmt: skip
    return fabricated(config, {}, rows, arrays)


def keeps(quantity):
    return Check(measures.QUANTITY[quantity], relations.KEPT[quantity], ["a"])


@pytest.mark.parametrize(
    ("quantity", "good", "bad"),
    [
        ("mean", (-0.4, 1.0, 0.5), (0.6, 1.0, 0.5)),
        ("variance", (0.0, 0.6, 0.5), (0.0, 0.4, 0.5)),
        ("variance", (0.0, 1.9, 0.5), (0.0, 2.1, 0.5)),
        ("correlation", (0.0, 1.0, 0.3), (0.0, 1.0, 0.2)),
        ("correlation", (0.0, 1.0, 0.7), (0.0, 1.0, math.nan)),
    ],
)
def test_quantities_that_are_kept(quantity, good, bad):
    fine = (0.0, 1.0, 0.5)
    for layers, holds in (([good, good], True), ([fine, bad], False), ([bad, fine], False)):
        assert keeps(quantity).judge({"a": signalled(layers)}).holds is holds


@pytest.mark.parametrize(("correlation", "holds"), [(0.0, True), (0.5, False)])
def test_the_target_correlation_of_other_networks_is_zero(correlation, holds):
    run = signalled([(0, 1, correlation)] * 2, convex=False)
    assert keeps("correlation").judge({"a": run}).holds is holds


@pytest.mark.parametrize(
    ("layers", "holds"),
    [
        ([(0.0, 1.0, 0.5), (3.0, 1.0, 0.5)], True),
        ([(0.0, 1.0, 0.5), (0.0, 9.0, 0.5)], True),
        ([(0.1, 1.1, 0.9), (-0.1, 0.9, 0.5)], False),
    ],
)
def test_shifts(layers, holds):
    check = Check(measures.SHIFT, relations.SHIFTS, ["a"])
    assert check.judge({"a": signalled(layers)}).holds is holds


TRUTH = [(10.0, 4.0, 0.5), (100.0, 90.0, 0.6)]


@pytest.mark.parametrize(
    ("predicted", "holds"),
    [
        ([(10.9, 5.0, 0.4), (103.0, 60.0, 0.7)], True),
        ([(11.5, 4.0, 0.5), TRUTH[1]], False),
        ([(10.0, 1.0, 0.5), TRUTH[1]], False),
        ([(10.0, 4.0, 0.9), TRUTH[1]], False),
        (TRUTH[:1], False),  # the theory could not follow the signal to the end
    ],
)
def test_predictions(predicted, holds):
    check = Check(measures.PREDICTION, relations.PREDICTED, ["a"])
    assert check.judge({"a": signalled(TRUTH, predicted)}).holds is holds


def test_distance_from_a_gaussian():
    rng = np.random.default_rng(0)
    normal, uniform = rng.normal(3.0, 2.0, 50_000), rng.uniform(-1, 1, 50_000)
    found = measures.gaussian_distances(signalled([(0, 1, 0)] * 2, histograms=[normal, uniform]))
    assert found[2] < 0.01
    # Largest difference between x / 2 + 1/2 and the Gaussian of variance 1/3, near x = 0.7.
    assert found[3] == pytest.approx(0.058, abs=0.003)
    assert measures.gaussian_distances(signalled([(0, 1, 0)] * 2)).tolist() == [1.0, 1.0]


def test_gaussian_or_not():
    rng = np.random.default_rng(0)
    normal, skewed = rng.normal(size=20_000), rng.lognormal(size=20_000)
    near, far = (
        signalled([(0, 1, 0)] * 2, histograms=[normal, values]) for values in (normal, skewed)
    )
    other = Check(measures.GAUSSIAN_DISTANCES, relations.FAR_FROM_GAUSSIAN, ["a"], threshold=0.1)
    assert other.judge({"a": far}).holds
    assert not other.judge({"a": near}).holds
    nearer = Check(measures.GAUSSIAN_DISTANCE, relations.SMALLER, ["a"], ["b"])
    assert nearer.judge({"a": near, "b": far}).holds
    assert not nearer.judge({"a": far, "b": near}).holds


# --- Level sets ------------------------------------------------------------------------------

GOOD = {
    "residual": 1e-9, "failed": 0.0, "qed_range": 0.3, "valid": 0.9, "own_change": 0.001,
    "target_change": 0.1, "crossed_twice": 0.0,
}  # fmt: skip


def walked(**metrics):
    """A run with two tasks, of which the second has these metrics."""
    rows = [
        (0, 300, 1, task, metric, value)
        for task, values in (("A", GOOD), ("B", {**GOOD, **metrics}))
        for metric, value in values.items()
    ]
    return fabricated({"seeds": [0]}, {}, rows)


@pytest.mark.parametrize(
    ("measure", "relation", "threshold", "bad"),
    [
        (measures.RESIDUAL, relations.ON_LEVEL, None, {"residual": 1e-5}),
        (measures.RESIDUAL, relations.ON_LEVEL, None, {"failed": 0.1}),
        (measures.QED_RANGE, relations.AT_LEAST, 0.1, {"qed_range": 0.05}),
        (measures.VALID, relations.DECODED, 0.5, {"valid": 0.4}),
        (measures.OWN_CHANGE, relations.SMALL_CHANGE, 0.1, {"own_change": 0.02}),
    ],
)
def test_walks(measure, relation, threshold, bad):
    check = Check(measure, relation, ["a"], threshold=threshold)
    assert check.judge({"a": walked()}).holds
    assert not check.judge({"a": walked(**bad)}).holds


@pytest.mark.parametrize(
    ("convex", "other", "holds"), [(0.0, 0.2, True), (0.2, 0.2, False), (0.0, 0.0, False)]
)
def test_only_convex_networks_have_such_levels(convex, other, holds):
    check = Check(measures.CROSSED, relations.CROSSED_ONCE, ["a"], ["b"])
    runs = {"a": walked(crossed_twice=convex), "b": walked(crossed_twice=other)}
    assert check.judge(runs).holds is holds


# --- Theory ----------------------------------------------------------------------------------


@pytest.mark.parametrize("n", measures.FAN_INS)
def test_the_published_initialisation_by_its_closed_form(n):
    """The box after Eq. 12, for the numbers that the checks about formulas rest on."""
    layer = solve_init(n)
    below = 6 * (math.pi - 1) + (n - 1) * (3 * math.sqrt(3) + 2 * math.pi - 6)
    assert layer.weight_mean == pytest.approx(math.sqrt(6 * math.pi / (n * below)))
    assert layer.weight_var == pytest.approx(1 / n)
    assert layer.bias_mean == pytest.approx(-math.sqrt(3 * n / below))


@pytest.mark.parametrize(
    ("relation", "threshold", "good", "bad"),
    [
        (relations.AT_MOST, 1e-6, 1e-9, 1e-3),
        (relations.ALL_SMALL, 1.0, [0.5, -0.9], [0.5, -1.1]),
        (relations.ALL_BELOW, 1.0, [0.5, 0.9], [0.5, 1.1]),
        (relations.ALL_BELOW_ZERO, 0.0, [-0.1, -0.2], [-0.1, 0.2]),
    ],
)
def test_findings_about_formulas(relation, threshold, good, bad):
    for value, holds in ((good, True), (bad, False)):
        check = Check(Measure("", lambda value=value: value, str), relation, threshold=threshold)
        assert check.judge({}).holds is holds


def test_the_fixed_point_is_one():
    assert measures.fixed_point_error() < 1e-9


# --- The table -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def text_without_runs():
    return markdown(table([Selection(panel, {}, {}, []) for panel in PANELS]))


@pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim.statement)
def test_every_claim_can_be_judged_and_is_written_once(claim, text_without_runs):
    for panel in claim.panels:
        assert set(claim.check.needs) <= set(panel.variants)
    assert bool(claim.panels) == bool(claim.check.needs)
    criterion = claim.check.criterion
    assert not re.search(r"[{}]|\bnan", criterion)
    assert text_without_runs.count(f"| {claim.statement} |") == 1
    assert criterion in text_without_runs


def test_claims_about_exp_and_biases_are_about_those():
    needed = {name for claim in CLAIMS for name in claim.check.needs}
    assert {RANDOM_BIAS, BIAS_ONLY, EXP["icnn"], EXP["icnn_init"]} <= needed


@pytest.fixture
def root(tmp_path):
    return tmp_path / "results"


def with_losses(root, model, loss, seeds=5, experiment="mnist", epochs=10, **options):
    folder = store_training(
        root, model, batch_losses(20, seeds), experiment, trainer__epochs=epochs, **options
    )
    summary = json.loads((folder / "summary.json").read_text())
    for seed in summary["seeds"].values():
        seed["train_loss"] = loss
    (folder / "summary.json").write_text(json.dumps(summary))


def verdicts(root, statement):
    rows = table_of(root, "claims")
    rows = rows[rows["claim"].str.startswith(statement)]
    found = zip(rows["verdict"], rows["measured"], strict=True)
    return dict(zip(rows["dataset"], found, strict=True))


LEARNS = "ICNN + init learns as"


@pytest.mark.parametrize(("loss", "verdict"), [(0.03, "reproduced"), (2.3, "not reproduced")])
def test_verdicts_on_stored_runs(root, loss, verdict):
    with_losses(root, "nonconvex", 0.02)
    with_losses(root, "icnn_init", loss)
    assert verdicts(root, LEARNS) == {
        "MNIST": (verdict, f"ICNN + init: {loss}; non-convex: 0.02"),
        "CIFAR-10": ("not run", "time"),
        "CIFAR-100": ("not run", "data"),
    }
    assert verdicts(root, "The initialisation lets")["MNIST"] == ("not run", "time: without ICNN")


@pytest.mark.parametrize(
    ("extent", "reason"),
    [({"epochs": 3}, "3 epochs instead of 10"), ({"seeds": 2}, "2 seeds, fewer than 3")],
)
def test_short_runs_say_nothing(root, extent, reason):
    for model in MODELS:
        with_losses(root, model, 0.02, **extent)
    assert verdicts(root, LEARNS)["MNIST"] == ("not run", f"time: {reason}")


def test_other_depths_have_verdicts_of_their_own(root):
    for model in MODELS:
        with_losses(root, model, 0.02)
        with_losses(root, model, 0.5 if model == "icnn_init" else 0.02, model__num_hidden=7)
    assert verdicts(root, LEARNS)["MNIST"][0] == "reproduced"
    other = verdicts(root, "At other depths")
    assert other["MNIST, 7 hidden layers"][0] == "not reproduced"
    assert other["MNIST, 3 hidden layers"] == ("not run", "time")


def test_variants_that_a_claim_is_not_about_have_no_say_in_its_runs(root):
    for model in MODELS:
        with_losses(root, model, 0.02, trainer__precision="bfloat16")
    with_losses(root, "nonconvex", 0.02, seeds=6)
    with_losses(root, "icnn_init", 2.3, seeds=6)
    assert verdicts(root, LEARNS)["MNIST"][0] == "not reproduced"
    assert verdicts(root, "Skip connections are not")["MNIST"][0] == "reproduced"


def test_the_files(root, tmp_path, capsys):
    for model in MODELS:
        with_losses(root, model, 0.02, trainer__precision="tf32")
        store_signal(root, model)
    main(["claims", "--runs", str(root / "runs"), "--out", str(tmp_path / "out")])
    text = (tmp_path / "out" / "claims.md").read_text()
    assert "| MNIST | 5, tf32 | **reproduced** | ICNN + init: 0.02; non-convex: 0.02 |" in text
    assert (
        "|  |  |  | CIFAR-10 |  | not run | time |\n|  |  |  | CIFAR-100 |  | not run | data |"
        in text
    )
    assert "|  |  |  | Tox21, CDDD |  | not run | weights |" in text
    assert "**not reproduced**" in text
    assert all(line.count(" | ") == 6 for line in text.splitlines() if line.startswith("|  |"))
    numbers = pd.read_csv(tmp_path / "out" / "claims.csv")
    assert set(numbers["verdict"]) == {"reproduced", "not reproduced", "not run"}
    assert f"Of {len(numbers)} pairs" in text
    assert "model=icnn_init model.init=bias_only" in capsys.readouterr().out


@pytest.mark.parametrize(("grid", "shown"), [("small", "5, grid small"), ("paper", "5")])
def test_a_search_of_another_grid_is_named(grid, shown):
    panel = GENERALISATION[0]
    runs = {name: with_accuracies([0.1] + 25 * [0.9]) for name in MODELS}
    common = {"seeds": list(range(5)), "trainer.epochs": 25, "trainer.precision": "float32"}
    found = Selection(panel, runs, {**common, "search.grid": grid}, [])
    numbers = table(
        [
            found
            if (other.experiment, other.title) == (panel.experiment, panel.title)
            else Selection(other, {}, {}, [])
            for other in PANELS
        ]
    )
    assert numbers["grid"].dropna().unique().tolist() == [grid]
    assert f"| MNIST | {shown} | **reproduced** |" in FIGURES["claims"].markdown(numbers)
