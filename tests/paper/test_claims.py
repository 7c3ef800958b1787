"""Every check is shown runs for which its claim is true, and runs for which it is false."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convexinit_paper.figures import claim_checks as checks
from convexinit_paper.figures import claims, loss_figures
from convexinit_paper.figures.__main__ import main
from convexinit_paper.figures.select import TITLES, Selection
from convexinit_paper.store.runs import COLUMNS, Run, read_runs
from support.stored import batch_losses, store_signal, store_training

LN10, LN100 = math.log(10), math.log(100)


def fabricated(config, seeds, metrics=(), arrays=None):
    run = Run(Path("nowhere"), config, {"seeds": seeds})
    run.__dict__["metrics"] = pd.DataFrame(list(metrics), columns=COLUMNS)
    run.__dict__["arrays"] = arrays or {}
    return run


def trained(losses, curve=None, dataset="mnist"):
    """A run whose seeds end at these training losses (None: diverged)."""
    seeds = {
        str(seed): {"status": "finished" if loss is not None else "diverged", "train_loss": loss}
        for seed, loss in enumerate(losses)
    }
    config = {"dataset": {"name": dataset}, "seeds": list(range(len(losses)))}
    curve = [] if curve is None else curve
    rows = [
        (seed, 1, step, "train", "batch_loss", value)
        for step, value in enumerate(curve, start=1)
        for seed in range(len(losses))
    ]
    return fabricated(config, seeds, rows)


def level(loss, dataset="mnist"):
    return trained([loss] * 5, dataset=dataset)


# --- Training losses -------------------------------------------------------------------------


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
    assert checks.is_reached(loss, reference, guess) is reached


@given(st.floats(1e-6, 10.0), st.floats(1e-6, 2.3))
def test_every_loss_is_at_its_own_level_and_lower_ones_are_too(loss, lower):
    assert checks.is_reached(loss, loss, LN10)
    if lower <= loss:
        assert checks.is_reached(lower, loss, LN10)


def test_seeds_that_diverged_are_infinitely_bad():
    run = trained([0.1, None, 0.3])
    assert checks.train_losses(run).tolist() == [0.1, math.inf, 0.3]
    runs = {"icnn_init": trained([0.02, None, None]), "nonconvex": level(0.02)}
    assert not checks.reaches("icnn_init", "nonconvex").judge(runs).holds


def test_the_loss_of_guessing_is_that_of_the_data_set():
    # The same losses are near each other among 100 classes, and far apart among 10.
    runs = {"icnn_init": level(1.2, "cifar100"), "nonconvex": level(0.9, "cifar100")}
    check = checks.reaches("icnn_init", "nonconvex")
    assert check.judge(runs).holds
    assert not check.judge({"icnn_init": level(1.2), "nonconvex": level(0.9)}).holds


def judged(check, **losses):
    return check.judge({name: level(loss) for name, loss in losses.items()}).holds


def test_reaching_a_level():
    check = checks.reaches("icnn_init", "nonconvex")
    assert judged(check, icnn_init=0.03, nonconvex=0.02)
    assert judged(check, icnn_init=0.001, nonconvex=0.02)
    assert not judged(check, icnn_init=0.05, nonconvex=0.02)
    words = check.judge({"icnn_init": level(0.03), "nonconvex": level(0.02)}).measured
    assert words == "ICNN + init: 0.03; non-convex: 0.02"


def test_three_quarters_of_the_seeds():
    check = checks.most_seeds_reach("icnn_init", "nonconvex")
    median = checks.reaches("icnn_init", "nonconvex")
    for stuck, holds in ((0, True), (2, True), (3, False), (4, False)):
        losses = [0.02] * (10 - stuck) + [2.3] * stuck
        runs = {"icnn_init": trained(losses), "nonconvex": level(0.02)}
        assert check.judge(runs).holds is holds
        assert median.judge(runs).holds


def test_missing_a_level():
    check = checks.misses(["icnn", "icnn_skip"], "nonconvex")
    assert judged(check, icnn=2.3, icnn_skip=1.0, nonconvex=0.02)
    assert not judged(check, icnn=2.3, icnn_skip=0.01, nonconvex=0.02)
    assert not judged(check, icnn=0.03, icnn_skip=1.0, nonconvex=0.02)


def test_the_same_level():
    check = checks.same_loss(["a", "b"], "icnn_init")
    assert judged(check, a=0.02, b=0.03, icnn_init=0.025)
    assert not judged(check, a=0.02, b=0.3, icnn_init=0.025)
    assert not judged(check, a=0.02, b=0.03, icnn_init=0.1)  # better is not the same
    assert not judged(check, a=2.3, b=2.3, icnn_init=2.3)  # nobody has learned


def test_lower_losses():
    check = checks.below("icnn_init", "icnn")
    assert judged(check, icnn_init=0.1, icnn=0.2)
    assert not judged(check, icnn_init=0.2, icnn=0.2)
    assert not judged(check, icnn_init=2.3, icnn=0.2)


def test_beginning_to_learn():
    fast, slow = [2.3, 1.1, 0.1], [2.3, 2.0, 1.1]
    check = checks.begins_before("icnn_init", "icnn")
    for ours, theirs, holds in (
        (fast, slow, True), (slow, fast, False), (fast, fast, False), ([2.3] * 3, [2.3] * 3, False),
        (slow, [2.3] * 3, True),
    ):  # fmt: skip
        runs = {"icnn_init": trained([0.1] * 3, ours), "icnn": trained([0.1] * 3, theirs)}
        assert check.judge(runs).holds is holds
    runs = {"icnn_init": trained([0.1] * 3, slow), "icnn": trained([0.1] * 3, [2.3] * 3)}
    assert check.judge(runs).measured == "ICNN + init: update 3; ICNN: never"
    runs["icnn_init"] = trained([0.1, None, None], slow)  # most seeds diverged
    assert check.judge(runs).measured == "ICNN + init: never; ICNN: never"


def test_falling_before_the_plateau():
    check = checks.falls_before_plateau("icnn")
    assert check.judge({"icnn": trained([2.3] * 3, [100.0, 2.3])}).holds
    assert not check.judge({"icnn": trained([2.3] * 3, [2.3, 2.3])}).holds


# --- Generalisation --------------------------------------------------------------------------


def with_accuracies(curve, diverged=(), seeds=5):
    """A run whose seeds have these test accuracies, in [0, 1], after epochs 0, 1, ..."""
    statuses = {
        str(seed): {"status": "diverged" if seed in diverged else "finished"}
        for seed in range(seeds)
    }
    rows = [
        (seed, epoch, epoch, "test", "accuracy", value)
        for epoch, value in enumerate(curve)
        for seed in range(seeds)
    ]
    rows += [(0, 9, 9, "validation", "accuracy", 1.0), (0, 9, 9, "test", "loss", 5.0)]
    return fabricated({"seeds": list(range(seeds))}, statuses, rows)


def accuracy_finding(check, **finals):
    return check.judge(
        {name: with_accuracies([0.1, final]) for name, final in finals.items()}
    ).holds


def test_accuracies_are_percentages_by_epoch():
    assert checks.accuracies(with_accuracies([0.1, 0.5])).to_dict() == {0: 10.0, 1: 50.0}
    assert checks.accuracies(with_accuracies([0.1, 0.5], diverged=[0, 1])).to_dict() == {
        0: 10.0,
        1: 50.0,
    }
    assert checks.accuracies(with_accuracies([0.1, 0.5], diverged=[0, 1, 2])).to_dict() == {
        0: 0,
        1: 0,
    }


def test_similar_accuracies():
    check = checks.similar_accuracies(["a", "b", "c"])
    assert accuracy_finding(check, a=0.98, b=0.97, c=0.965)
    assert not accuracy_finding(check, a=0.98, b=0.97, c=0.95)


def test_higher_accuracies():
    check = checks.higher_accuracy("a", ["b", "c"])
    assert accuracy_finding(check, a=0.5, b=0.4, c=0.45)
    assert not accuracy_finding(check, a=0.5, b=0.4, c=0.55)
    assert not accuracy_finding(check, a=0.5, b=0.5, c=0.4)


def test_higher_accuracies_in_early_epochs():
    check = checks.higher_accuracy_early("a", ["b"])
    early, late = [0.1, *[0.4] * 5, 0.4], [0.9, *[0.3] * 5, 0.9]
    assert check.judge({"a": with_accuracies(early), "b": with_accuracies(late)}).holds
    assert not check.judge({"a": with_accuracies(late), "b": with_accuracies(early)}).holds


def test_matching_accuracies():
    check = checks.accuracy_matches("a", "b")
    assert accuracy_finding(check, a=0.485, b=0.5)
    assert accuracy_finding(check, a=0.9, b=0.5)
    assert not accuracy_finding(check, a=0.47, b=0.5)
    check = checks.no_accuracy_gain(["a", "b"], "c")
    assert accuracy_finding(check, a=0.51, b=0.2, c=0.5)
    assert not accuracy_finding(check, a=0.51, b=0.53, c=0.5)


# --- Toxicity --------------------------------------------------------------------------------


def assayed(mean, spread=0.001, seeds=5, assays=4):
    """A run with AUROCs about a mean in every assay."""
    rng = np.random.default_rng(round(1e4 * mean))
    tasks = [f"assay {number}" for number in range(assays)]
    rows = [
        (seed, epoch, epoch, "test", f"auroc_{task}", mean * epoch + spread * rng.normal())
        for epoch in (0, 1)
        for seed in range(seeds)
        for task in tasks
    ]
    run = fabricated({"seeds": list(range(seeds))}, {}, rows)
    run.summary["tasks"] = tasks
    return run


def auroc_finding(check, **means):
    return check.judge({name: assayed(mean) for name, mean in means.items()}).holds


def test_sign_tests():
    check = checks.better_auroc("a", "b")
    assert auroc_finding(check, a=0.82, b=0.80)
    assert not auroc_finding(check, a=0.80, b=0.82)
    assert not auroc_finding(check, a=0.80, b=0.80)
    few = {"a": assayed(0.82, seeds=2, assays=2), "b": assayed(0.80, seeds=2, assays=2)}
    finding = check.judge(few)  # 4 wins of 4: p = 1/16
    assert not finding.holds
    assert finding.measured == "4 wins, 0 losses, p = 0.062"


def test_levels_of_auroc():
    check = checks.best_auroc("a", ["b", "c"])
    assert auroc_finding(check, a=0.82, b=0.80, c=0.81)
    assert not auroc_finding(check, a=0.81, b=0.80, c=0.82)
    check = checks.auroc_matches("a", "b")
    assert auroc_finding(check, a=0.81, b=0.82)
    assert not auroc_finding(check, a=0.79, b=0.82)


def test_the_published_auroc():
    check = checks.published_auroc("icnn_init")
    assert auroc_finding(check, icnn_init=0.80)
    assert not auroc_finding(check, icnn_init=0.84)
    assert not auroc_finding(check, icnn_init=0.77)
    assert "80.57" in check.criterion


# --- Signal propagation ----------------------------------------------------------------------


def signalled(measured, predicted=None, convex=True, histograms=None):
    """A run of three layers; the last two have these (mean, variance, correlation)."""
    first = (7.0, 7.0, 7.0)  # of the first layer, which no check looks at
    rows = [
        (seed, 0, layer, split, metric, value + jitter)
        for split, layers in (("measured", measured), ("predicted", predicted or measured))
        for layer, values in enumerate([first, *layers], start=1)
        for metric, value in zip(("mean", "variance", "correlation"), values, strict=True)
        for seed, jitter in ((0, -0.01), (1, 0.01))
    ]
    arrays = {}
    for layer, values in enumerate(histograms or [], start=2):
        arrays[f"histogram_{layer}"], arrays[f"edges_{layer}"] = np.histogram(values, 60)
    config = {
        "seeds": [0, 1], "model": {"rho": 0.5, "convex": convex}, "signal": {"widths": [9] * 4},
    }  # fmt: skip
    return fabricated(config, {}, rows, arrays)


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
    check = checks.keeps("icnn_init", quantity)
    fine = (0.0, 1.0, 0.5)
    assert check.judge({"icnn_init": signalled([good, good])}).holds
    assert not check.judge({"icnn_init": signalled([fine, bad])}).holds
    assert not check.judge({"icnn_init": signalled([bad, fine])}).holds


def test_the_target_correlation_of_other_networks_is_zero():
    check = checks.keeps("nonconvex", "correlation")
    assert check.judge({"nonconvex": signalled([(0, 1, 0), (0, 1, 0)], convex=False)}).holds
    assert not check.judge({"nonconvex": signalled([(0, 1, 0.5)] * 2, convex=False)}).holds


def test_shifts():
    check = checks.shifts("icnn")
    assert check.judge({"icnn": signalled([(0.0, 1.0, 0.5), (3.0, 1.0, 0.5)])}).holds
    assert check.judge({"icnn": signalled([(0.0, 1.0, 0.5), (0.0, 9.0, 0.5)])}).holds
    assert not check.judge({"icnn": signalled([(0.1, 1.1, 0.9), (-0.1, 0.9, 0.5)])}).holds


def test_predictions():
    check = checks.is_predicted("icnn")
    truth = [(10.0, 4.0, 0.5), (100.0, 90.0, 0.6)]
    assert check.judge({"icnn": signalled(truth, [(10.9, 5.0, 0.4), (103.0, 60.0, 0.7)])}).holds
    for wrong in [(11.5, 4.0, 0.5), (10.0, 1.0, 0.5), (10.0, 4.0, 0.9)]:
        assert not check.judge({"icnn": signalled(truth, [wrong, truth[1]])}).holds
    # A signal that the theory could not follow to the end is not predicted.
    assert not check.judge({"icnn": signalled(truth, truth[:1])}).holds


def test_distance_from_a_gaussian():
    rng = np.random.default_rng(0)
    normal, uniform = rng.normal(3.0, 2.0, 50_000), rng.uniform(-1, 1, 50_000)
    run = signalled([(0, 1, 0)] * 2, histograms=[normal, uniform])
    found = checks.gaussian_distances(run)
    assert found[2] < 0.01
    # Largest difference between x / 2 + 1/2 and the Gaussian of variance 1/3, near x = 0.7.
    assert found[3] == pytest.approx(0.058, abs=0.003)
    assert checks.gaussian_distances(signalled([(0, 1, 0)] * 2)).tolist() == [1.0, 1.0]


def test_gaussian_or_not():
    rng = np.random.default_rng(0)
    normal, skewed = rng.normal(size=20_000), rng.lognormal(size=20_000)
    near, far = (
        signalled([(0, 1, 0)] * 2, histograms=[normal, values]) for values in (normal, skewed)
    )
    check = checks.not_gaussian("icnn_init")
    assert check.judge({"icnn_init": far}).holds
    assert not check.judge({"icnn_init": near}).holds
    check = checks.more_gaussian("a", "b")
    assert check.judge({"a": near, "b": far}).holds
    assert not check.judge({"a": far, "b": near}).holds


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
    ("check", "bad"),
    [
        (checks.stays_on_level, {"residual": 1e-5}),
        (checks.stays_on_level, {"failed": 0.1}),
        (checks.qed_differs, {"qed_range": 0.05}),
        (checks.decodes, {"valid": 0.4}),
        (checks.decoded_keep_level, {"own_change": 0.02}),
    ],
)
def test_walks(check, bad):
    assert check("icnn_init").judge({"icnn_init": walked()}).holds
    assert not check("icnn_init").judge({"icnn_init": walked(**bad)}).holds


def test_only_convex_networks_have_such_levels():
    check = checks.only_convex_levels("icnn_init", "nonconvex")
    once, twice = walked(), walked(crossed_twice=0.2)
    assert check.judge({"icnn_init": once, "nonconvex": twice}).holds
    assert not check.judge({"icnn_init": twice, "nonconvex": twice}).holds
    assert not check.judge({"icnn_init": once, "nonconvex": once}).holds


# --- Theory ----------------------------------------------------------------------------------


def test_the_published_initialisation_by_its_closed_form():
    """The box after Eq. 12, for the numbers that the checks about formulas rest on."""
    from convexinit.theory import solve_init

    for n in checks.FAN_INS:
        layer = solve_init(n)
        below = 6 * (math.pi - 1) + (n - 1) * (3 * math.sqrt(3) + 2 * math.pi - 6)
        assert layer.weight_mean == pytest.approx(math.sqrt(6 * math.pi / (n * below)))
        assert layer.weight_var == pytest.approx(1 / n)
        assert layer.bias_mean == pytest.approx(-math.sqrt(3 * n / below))


def test_findings_about_formulas():
    assert checks.fixed_point().judge({}).holds
    assert checks.deviation_finding([(0.0, 1e-9, 0.0)]).holds
    assert not checks.deviation_finding([(0.0, 1e-9, 0.0), (0.0, 0.0, -1e-3)]).holds
    assert checks.shrinking_finding([0.5, -0.9]).holds
    assert not checks.shrinking_finding([0.5, -1.1]).holds
    assert checks.negative_finding([-0.1, -0.2]).holds
    assert not checks.negative_finding([-0.1, 0.2]).holds


# --- The table -------------------------------------------------------------------------------


def test_every_claim_needs_variants_of_its_panels():
    for claim in claims.CLAIMS:
        for panel in claim.panels:
            assert set(claim.check.needs) <= set(panel.variants)
    assert len({(claim.statement, claim.place) for claim in claims.CLAIMS}) == len(claims.CLAIMS)


def test_claims_about_exp_rho_and_biases_are_about_those():
    for name in (loss_figures.RANDOM_BIAS, loss_figures.BIAS_ONLY, *loss_figures.EXP.values()):
        assert any(name in claim.check.needs for claim in claims.CLAIMS) or "skip" in name


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


def table_of(root):
    runs = read_runs(root / "runs")
    from convexinit_paper.figures.select import select

    return claims.table([select(panel, runs) for panel in claims.panels("paper")])


def verdicts(root, statement):
    rows = table_of(root)
    rows = rows[rows["claim"].str.startswith(statement)]
    return dict(
        zip(rows["dataset"], zip(rows["verdict"], rows["measured"], strict=True), strict=True)
    )


LEARNS = "ICNN + init learns as"


def test_verdicts_on_stored_runs(root):
    with_losses(root, "nonconvex", 0.02)
    with_losses(root, "icnn_init", 0.03)
    assert verdicts(root, LEARNS) == {
        "MNIST": ("reproduced", "ICNN + init: 0.03; non-convex: 0.02"),
        "CIFAR-10": ("not run", ""),
        "CIFAR-100": ("not run", ""),
    }
    assert verdicts(root, "The initialisation lets")["MNIST"] == ("not run", "without ICNN")


def test_a_claim_can_fail_on_stored_runs(root):
    with_losses(root, "nonconvex", 0.02)
    with_losses(root, "icnn_init", 2.3)
    assert verdicts(root, LEARNS)["MNIST"][0] == "not reproduced"


@pytest.mark.parametrize(
    ("extent", "reason"),
    [({"epochs": 3}, "3 epochs instead of 10"), ({"seeds": 2}, "2 seeds, fewer than 3")],
)
def test_short_runs_say_nothing(root, extent, reason):
    for model in TITLES:
        with_losses(root, model, 0.02, **extent)
    assert verdicts(root, LEARNS)["MNIST"] == ("not run", reason)


def test_other_depths_have_verdicts_of_their_own(root):
    for model in TITLES:
        with_losses(root, model, 0.02)
        with_losses(root, model, 0.5 if model == "icnn_init" else 0.02, model__num_hidden=7)
    assert verdicts(root, LEARNS)["MNIST"][0] == "reproduced"
    assert verdicts(root, "At other depths")["MNIST, 7 hidden layers"][0] == "not reproduced"
    assert verdicts(root, "At other depths")["MNIST, 3 hidden layers"] == ("not run", "")


def test_the_files(root, tmp_path, capsys):
    for model in TITLES:
        with_losses(root, model, 0.02, trainer__precision="tf32")
        store_signal(root, model)
    main(["claims", "--runs", str(root / "runs"), "--out", str(tmp_path / "out")])
    text = (tmp_path / "out" / "claims.md").read_text()
    assert "| MNIST | 5, tf32 | **reproduced** | ICNN + init: 0.02; non-convex: 0.02 |" in text
    assert "|  |  |  | CIFAR-10; CIFAR-100 |  | not run |  |" in text
    assert "**not reproduced**" in text
    assert all(line.count(" | ") == 6 for line in text.splitlines() if line.startswith("|  |"))
    table = pd.read_csv(tmp_path / "out" / "claims.csv")
    assert set(table["verdict"]) == {"reproduced", "not reproduced", "not run"}
    assert f"Of {len(table)} pairs" in text
    output = capsys.readouterr().out
    assert "model=icnn_init model.init=bias_only" in output


def test_a_search_of_another_grid_is_named(tmp_path):
    panel = claims.GENERALISATION_MNIST
    runs = {name: with_accuracies([0.1] + 25 * [0.9]) for name in TITLES}
    common = {"seeds": list(range(5)), "trainer.epochs": 25, "trainer.precision": "float32"}
    for grid, shown in (("small", "5, grid small"), ("paper", "5")):
        found = Selection(panel, runs, {**common, "search.grid": grid}, [])
        nothing = [Selection(other, {}, {}, []) for other in claims.panels("paper")]
        table = claims.table([found if s.panel is panel else s for s in nothing])
        assert table["grid"].dropna().unique().tolist() == [grid]
        assert f"| MNIST | {shown} | **reproduced** |" in claims.markdown(table)


def test_every_claim_is_written_once_in_the_table():
    text = claims.markdown(
        claims.table([Selection(panel, {}, {}, []) for panel in claims.panels("paper")])
    )
    for claim in claims.CLAIMS:
        assert text.count(f"| {claim.statement} |") == 1
        assert claim.check.criterion in text
