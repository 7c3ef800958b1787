import json
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from convexinit_paper.figures import (
    figure_1,
    figure_6,
    loss_figures,
    precision,
    style,
    training_loss,
    training_summary,
)
from convexinit_paper.figures.__main__ import main
from convexinit_paper.figures.select import TITLES, Panel, commands, select
from convexinit_paper.store.errors import RunError
from convexinit_paper.store.runs import COLUMNS, read_runs
from support.stored import (
    batch_losses,
    composed,
    config_of,
    store_run,
    store_signal,
    store_training,
)

DIGITS = loss_figures.DIGITS
FIGURE_2 = loss_figures.FIGURES["figure-2"]


@pytest.fixture
def root(tmp_path):
    return tmp_path / "results"


def runs_in(root):
    return read_runs(root / "runs")


# --- Which runs are used ---------------------------------------------------------------------


@pytest.mark.parametrize("model", TITLES)
def test_titles_are_those_of_the_configuration(model):
    assert composed("digits", model).model.title == TITLES[model]


def test_a_panel_fixes_all_options_but_the_free_ones():
    options = Panel("mnist", "").options("icnn_init")
    assert options["model.num_hidden"] == 5
    assert options["model.init"] == "principled"
    assert options["trainer.batch_size"] == 64
    assert not {"seeds", "trainer.epochs", "data_dir", "model.title"} & set(options)


def test_ablations_are_not_taken_for_the_paper_s_setting(root):
    wanted = store_training(root, "icnn_init")
    store_training(root, "icnn_init", model__bias_noise=0.5)
    store_training(root, "icnn_init", model__init="bias_only")
    store_training(root, "icnn_init", trainer__learning_rate=0.1, trainer__epochs=50)
    selection = select(DIGITS, runs_in(root))
    assert {model: run.folder for model, run in selection.runs.items()} == {"icnn_init": wanted}


def test_a_panel_can_ask_for_other_options(root):
    store_training(root, "icnn_init")
    wanted = store_training(root, "icnn_init", model__bias_noise=0.5)
    panel = Panel("digits", "random bias", {"icnn_init": {"model.bias_noise": 0.5}, "icnn": {}})
    selection = select(panel, runs_in(root))
    assert selection.runs["icnn_init"].folder == wanted
    assert selection.missing == ["icnn"]
    empty = select(panel, [])
    assert empty.commands(Path("results/recorded")) == [
        "python run.py -m experiment=digits model=icnn_init model.bias_noise=0.5",
        "python run.py -m experiment=digits model=icnn",
    ]


def test_trainer_settings_are_never_mixed(root):
    for model in ("nonconvex", "icnn"):
        store_training(root, model, trainer__epochs=5)
    other = store_training(root, "icnn_skip", trainer__epochs=7)
    selection = select(DIGITS, runs_in(root))
    assert list(selection.runs) == ["nonconvex", "icnn"]
    assert selection.missing == ["icnn_skip", "icnn_init"]
    assert [(run.folder, why) for run, why in selection.unused] == [
        (other, "trainer.epochs=7 instead of 5")
    ]


def test_more_variants_go_before_more_epochs(root):
    for model in ("nonconvex", "icnn"):
        store_training(root, model)
    store_training(root, "icnn", trainer__epochs=100)
    assert list(select(DIGITS, runs_in(root)).runs) == ["nonconvex", "icnn"]


def test_among_equally_complete_sets_the_largest_is_used(root):
    store_training(root, "icnn", trainer__epochs=3)  # 3 seeds x 3 epochs
    many = store_training(root, "icnn", batch_losses(20, 5))  # 5 seeds x 2 epochs
    assert select(DIGITS, runs_in(root)).runs["icnn"].folder == many


def test_equally_good_sets_are_an_error(root):
    store_training(root, "icnn")
    store_training(root, "icnn", trainer__device="cpu")
    with pytest.raises(RunError, match=r"equally well; they differ in trainer\.device"):
        select(DIGITS, runs_in(root))


def test_among_equal_sets_the_most_precise_is_used(root):
    for name in ("tf32", "float32", "bfloat16"):
        store_training(root, "icnn", trainer__precision=name)
    selection = select(DIGITS, runs_in(root))
    assert selection.runs["icnn"].config["trainer"]["precision"] == "float32"


def test_runs_older_than_an_option_still_count(root):
    config = config_of(root, "digits", "icnn", 1)
    del config["model"]["bias_rule"]
    store_run(config, pd.DataFrame(columns=COLUMNS))
    assert list(select(DIGITS, runs_in(root)).runs) == ["icnn"]


def test_an_option_younger_than_a_run_has_its_default(root):
    config = config_of(root, "digits", "icnn_init", 1)
    del config["model"]["bias_noise"]
    store_run(config, pd.DataFrame(columns=COLUMNS))
    noisy = {"icnn_init": {"model.bias_noise": 0.5}}
    assert not select(Panel("digits", "random bias", noisy), runs_in(root)).runs
    quiet = {"icnn_init": {"model.bias_noise": 0.0}}
    assert select(Panel("digits", "no bias", quiet), runs_in(root)).runs


def test_variants_of_one_model(root):
    wanted = {
        name: store_training(root, "icnn_init", model__rho=rho)
        for rho, name in loss_figures.RHO.items()
        if rho != 0.9
    }
    store_training(root, "icnn_init", model__bias_noise=0.5)
    panel = Panel("digits", "rho", loss_figures.variants("icnn_init", *loss_figures.RHO.values()))
    selection = select(panel, runs_in(root))
    middle = loss_figures.RHO[0.5]
    assert {name: run.folder for name, run in selection.runs.items()} == {
        "icnn_init": wanted[middle], **wanted
    }  # fmt: skip
    assert selection.missing == [loss_figures.RHO[0.9]]
    assert selection.unused == []
    assert (
        "model=icnn_init model.rho=0.9 seeds=3" in selection.commands(Path("results/recorded"))[0]
    )


def test_missing_runs_are_as_few_sweeps_as_possible():
    depths = [
        select(Panel("mnist", "", {name: {"model.num_hidden": depth} for name in TITLES}), [])
        for depth in (3, 7)
    ]
    other = select(
        Panel("mnist", "", loss_figures.variants(*loss_figures.RHO.values(), "nonconvex")), []
    )
    assert commands([*depths, other, other], Path("results/recorded")) == [
        "python run.py -m experiment=mnist model=nonconvex,icnn,icnn_skip,icnn_init "
        "model.num_hidden=3,7",
        "python run.py -m experiment=mnist model=icnn_init model.rho=0.1,0.5,0.9",
        "python run.py -m experiment=mnist model=nonconvex",
    ]


def test_something_else_is_shown_only_where_nothing_was_run(root):
    panel = Panel("mnist", "MNIST", instead=DIGITS)
    assert select(panel, runs_in(root)).panel is panel
    store_training(root, "icnn")
    assert select(panel, runs_in(root)).panel is DIGITS
    store_training(root, "icnn", experiment="mnist")
    assert select(panel, runs_in(root)).panel is panel


def test_options_that_a_search_chose_may_differ(root):
    store_training(root, "icnn", trainer__learning_rate=0.1)
    store_training(root, "nonconvex", trainer__learning_rate=0.2)
    panel = Panel("digits", "best", chosen=["trainer.learning_rate"])
    assert list(select(panel, runs_in(root)).runs) == ["nonconvex", "icnn"]
    assert list(select(DIGITS, runs_in(root)).runs) == []
    store_training(root, "icnn", trainer__learning_rate=0.3)
    with pytest.raises(RunError, match=r"in the choice of trainer\.learning_rate"):
        select(panel, runs_in(root))


def test_commands_complete_what_was_found(root):
    store_training(root, "icnn")
    selection = select(DIGITS, runs_in(root))
    assert selection.commands(root / "runs") == [
        "python run.py -m experiment=digits model=nonconvex,icnn_skip,icnn_init seeds=3 "
        f"trainer.device=auto trainer.epochs=2 trainer.precision=float32 results_dir={root}"
    ]


# --- Figure 2 --------------------------------------------------------------------------------


def test_quartiles_against_numpy(root):
    losses = np.random.default_rng(0).lognormal(size=(7, 400))
    store_training(root, "icnn", losses)
    table = FIGURE_2.table([select(DIGITS, runs_in(root))])
    assert list(table.columns) == [
        "dataset", "model", "epoch", "step", "seeds", "q25", "median", "q75",
    ]  # fmt: skip
    stride = table["step"].diff().iloc[1]
    assert stride == 2  # 400 updates in about 150 points
    q25, median, q75 = np.quantile(losses[:, ::2], [0.25, 0.5, 0.75], axis=0)
    np.testing.assert_allclose(table["q25"], q25, rtol=1e-6)
    np.testing.assert_allclose(table["median"], median, rtol=1e-6)
    np.testing.assert_allclose(table["q75"], q75, rtol=1e-6)
    np.testing.assert_array_equal(table["epoch"], (table["step"] - 1) // 200 + 1)
    assert set(table["dataset"]) == {"digits"}
    assert set(table["seeds"]) == {7}


def test_long_runs_are_drawn_every_50_updates(root):
    store_training(root, "icnn", batch_losses(8440, 1))  # MNIST: 10 epochs of 844 updates
    step = FIGURE_2.table([select(DIGITS, runs_in(root))])["step"]
    assert step.tolist() == list(range(1, 8441, 50))


def test_thinned_runs_are_drawn_at_the_same_steps():
    for total in (7, 20, 400, 600, 630, 8440, 21_100):
        steps = np.arange(1, total + 1)
        kept = np.array([*training_loss.drawn_steps(steps), total])
        np.testing.assert_array_equal(
            training_loss.drawn_steps(np.unique(kept)), training_loss.drawn_steps(steps)
        )


def test_diverged_seeds_are_left_out_and_counted(root):
    losses = batch_losses(20, 4)
    losses[1, 15:] = np.nan
    losses[2, 3] = np.inf
    store_training(root, "icnn", losses)
    store_training(root, "nonconvex", batch_losses(20, 4))
    selections = [select(DIGITS, runs_in(root))]
    table = FIGURE_2.table(selections)
    icnn = table[table["model"] == "ICNN"]
    assert set(icnn["seeds"]) == {2}
    np.testing.assert_allclose(icnn["median"], losses[[0, 3]].mean(0), rtol=1e-6)
    assert "diverged, not shown: ICNN 2 of 4 on digits" in texts(FIGURE_2.draw(selections, table))


def test_a_variant_whose_seeds_all_diverged(root):
    store_training(root, "icnn", np.full((3, 20), np.nan))
    store_training(root, "nonconvex")
    selections = [select(DIGITS, runs_in(root))]
    table = FIGURE_2.table(selections)
    icnn = table[table["model"] == "ICNN"]
    assert set(icnn["seeds"]) == {0}
    assert icnn["median"].isna().all()
    assert "diverged, not shown: ICNN 3 of 3 on digits" in texts(FIGURE_2.draw(selections, table))


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_panels_without_any_positive_loss_can_be_drawn(root, tmp_path, value):
    store_training(root, "icnn", np.full((3, 20), value))
    selections = [select(DIGITS, runs_in(root))]
    figure = FIGURE_2.draw(selections, FIGURE_2.table(selections))
    assert style.save(figure, tmp_path / "figure")


def test_losses_that_reach_zero_can_be_drawn(root, tmp_path):
    losses = batch_losses(20, 3)
    store_training(root, "icnn", losses)
    store_training(root, "nonconvex", np.where(np.arange(20) < 3, losses, 0.0))
    store_training(root, "icnn_skip", np.where(np.arange(20) % 2, losses, 0.0))
    selections = [select(DIGITS, runs_in(root))]
    figure = FIGURE_2.draw(selections, FIGURE_2.table(selections))
    assert style.save(figure, tmp_path / "figure")
    low, high = figure.axes[0].get_ylim()
    assert 0 < low < 1.5 * np.exp(-1)  # the lowest quartile above zero
    assert high > 2.5 * np.exp(-1 / 20)


def test_data_sets_that_were_not_run(root):
    store_training(root, "icnn")
    selections = [select(panel, runs_in(root)) for panel in FIGURE_2.panels("paper")]
    words = texts(FIGURE_2.draw(selections, FIGURE_2.table(selections)))
    assert "digits (3 seeds, 2 epochs)" in words
    assert "MNIST" not in words
    assert "not run: MNIST" in words
    assert "not run: CIFAR-100" in words
    assert "not run: non-convex, ICNN + skip, ICNN + init on digits" in words
    command = "python run.py -m experiment=cifar100 model=nonconvex,icnn,icnn_skip,icnn_init"
    assert command in words


def test_precision_is_named_unless_it_is_float32(root):
    for model in TITLES:
        store_training(root, model, trainer__precision="tf32")
    selections = [select(DIGITS, runs_in(root))]
    assert "digits (3 seeds, 2 epochs, tf32)" in texts(
        FIGURE_2.draw(selections, FIGURE_2.table(selections))
    )


def test_depths_are_a_row_for_every_data_set_with_runs(root):
    for depth in (3, 5):
        options = {"model__num_hidden": depth, "trainer__precision": "tf32"}
        store_training(root, "icnn", experiment="mnist", **options)
    figure_5 = loss_figures.FIGURES["figure-5"]
    selections = [select(panel, runs_in(root)) for panel in figure_5.panels("paper")]
    table = figure_5.table(selections)
    assert list(table["dataset"].unique()) == ["MNIST, 3 hidden layers", "MNIST, 5 hidden layers"]
    figure = figure_5.draw(selections, table)
    assert len(figure.axes) == 3
    words = texts(figure)
    assert "MNIST,\n3 hidden layers (3 seeds, 2 epochs, tf32)" in words
    assert "not run" in words
    assert (
        "python run.py -m experiment=cifar100 model=nonconvex,icnn,icnn_skip,icnn_init "
        "model.num_hidden=3,5,7" in words
    )


@pytest.mark.parametrize("name", loss_figures.FIGURES)
def test_every_variant_has_a_colour_of_its_own(root, name):
    figure = loss_figures.FIGURES[name]
    panel = figure.panels("paper")[0]
    colours = {**style.COLOURS, **figure.colours}
    used = [colours[variant] for variant in panel.variants]
    assert len(set(used)) == len(used)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("figure-7", {"model__bias_noise": 0.5}),
        ("figure-8", {"model__init": "bias_only"}),
        ("figure-9", {"model__rho": 0.1}),
        ("figure-10", {"model__positivity": "exp"}),
        ("positivity", {"model__positivity": "neg_exp"}),
    ],
)
def test_ablations_are_drawn_with_names_of_their_own(root, name, options):
    low = store_training(root, "icnn_init", batch_losses(20, 3, 0.1), "mnist", **options)
    store_training(root, "icnn_init", experiment="mnist")
    figure = loss_figures.FIGURES[name]
    selections = [select(panel, runs_in(root)) for panel in figure.panels("paper")]
    table = figure.table(selections)
    ours = [v for v, run in selections[0].runs.items() if run.folder == low]
    assert len(ours) == 1
    assert table.query("model == @ours[0]")["median"].max() < 0.2
    words = texts(figure.draw(selections, table))
    assert ours[0] in words
    assert "MNIST (3 seeds, 2 epochs)" in words


def test_a_panel_without_the_subject_of_the_figure_is_not_drawn(root, tmp_path, capsys):
    store_training(root, "nonconvex", experiment="mnist")
    arguments = ["--runs", str(root / "runs"), "--out", str(tmp_path)]
    with pytest.raises(SystemExit, match="no runs for figure-10"):
        main(["figure-10", *arguments])
    assert "figure-10: MNIST: missing ICNN (exp), ICNN + skip (exp)" in capsys.readouterr().out
    store_training(root, "icnn", experiment="mnist", model__positivity="exp")
    main(["figure-10", *arguments])
    table = pd.read_csv(tmp_path / "tables" / "figure-10.csv")
    assert set(table["model"]) == {"non-convex", "ICNN (exp)"}


def test_whatever_is_drawn_is_recorded():
    assert loss_figures.experiments() == {"mnist", "cifar10", "cifar10_jpeg", "cifar100", "digits"}


def test_a_summary_has_every_run_once(root):
    for model in TITLES:
        store_training(root, model, experiment="mnist")
    store_training(root, "icnn_init", experiment="mnist", model__bias_noise=0.5)
    store_training(root, "icnn", experiment="mnist", model__num_hidden=3, trainer__precision="tf32")
    store_training(root, "icnn")
    selections = [select(panel, runs_in(root)) for panel in training_summary.panels("paper")]
    table = training_summary.table(selections)
    assert list(zip(table["dataset"], table["model"], strict=True)) == [
        *(("MNIST", title) for title in TITLES.values()),
        ("MNIST", loss_figures.RANDOM_BIAS),
        ("digits", "ICNN"),
        ("MNIST, 3 hidden layers", "ICNN"),
    ]
    text = training_summary.markdown(table)
    assert "| MNIST, 3 hidden layers, tf32 | ICNN | 3 | 2 |" in text
    assert "| MNIST | ICNN | 3 | 2 |" in text


def test_precisions_are_compared_on_the_seeds_that_both_runs_have(root):
    for model in ("icnn", "nonconvex", "icnn_init"):
        store_training(root, model, batch_losses(20, 4), "mnist")
    diverged = batch_losses(20, 3)
    diverged[0, 5:] = np.nan
    options = {"trainer__precision": "bfloat16"}
    store_training(root, "nonconvex", batch_losses(20, 3), "mnist", **options)
    store_training(root, "icnn", diverged, "mnist", **options)
    store_training(root, "icnn")  # digits have no runs in bfloat16
    selections = precision.selections("paper", runs_in(root))
    assert [selection.panel.title for selection in selections] == ["MNIST"] * 2
    table = precision.table(selections)
    assert table["model"].tolist() == ["non-convex", "ICNN"]
    assert table["seeds"].tolist() == [3, 3]
    assert (table[[f"{metric}_float32" for metric in precision.METRICS]] == 0.5).all(axis=None)
    text = precision.markdown(table)
    assert "| MNIST | non-convex | 3 | 2 | 0.500 / 0.500 | 0.500 / 0.500 | 0.500 / 0.500 |" in text


def test_precisions_of_other_lengths_are_not_compared(root):
    store_training(root, "icnn", experiment="mnist")
    store_training(
        root, "icnn", experiment="mnist", trainer__precision="bfloat16", trainer__epochs=1
    )
    assert precision.selections("paper", runs_in(root)) == []


def test_long_titles_break_before_the_number_of_seeds(root):
    for model in TITLES:
        store_training(root, model, experiment="cifar10_jpeg", trainer__precision="bfloat16")
        store_training(root, model, experiment="mnist")
    selections = [select(panel, runs_in(root)) for panel in FIGURE_2.panels("paper")]
    words = texts(FIGURE_2.draw(selections, FIGURE_2.table(selections)))
    assert "CIFAR-10 (JPEG copy)\n(3 seeds, 2 epochs, bfloat16)" in words


def test_curves_stay_clear_of_the_inset(root):
    # The worst curve for an inset in the upper right corner: one that does not fall.
    store_training(root, "icnn", np.full((3, 100), 2.3) * np.array([[0.5], [1.0], [2.0]]))
    selections = [select(DIGITS, runs_in(root))]
    figure = FIGURE_2.draw(selections, FIGURE_2.table(selections))
    low, high = figure.axes[0].get_ylim()
    height = np.log(1.5 * 2.3 / low) / np.log(high / low)  # of the upper quartile
    assert 0 < height < training_loss.INSET_BOX[1]


def test_a_variant_that_never_learns_does_not_hide_the_others_in_the_inset(root):
    store_training(root, "nonconvex", batch_losses(200, 3, 0.02))
    store_training(root, "icnn_init", batch_losses(200, 3, 0.04))
    store_training(root, "icnn", np.full((3, 200), 2.3))
    selections = [select(DIGITS, runs_in(root))]
    figure = FIGURE_2.draw(selections, FIGURE_2.table(selections))
    (inset,) = figure.axes[0].child_axes
    assert 0.04 < inset.get_ylim()[1] < 0.2


def test_the_frame_of_what_is_zoomed_stays_clear_of_the_inset(root):
    # Losses that are highest where the zoom begins, and low below the inset.
    store_training(root, "icnn", np.geomspace(10.0, 0.01, 100) * np.array([[0.9], [1.0], [1.1]]))
    selections = [select(DIGITS, runs_in(root))]
    figure = FIGURE_2.draw(selections, FIGURE_2.table(selections))
    (axes,) = figure.axes
    (inset,) = axes.child_axes
    low, high = axes.get_ylim()
    top = np.log(inset.get_ylim()[1] / low) / np.log(high / low)
    assert 0 < top < training_loss.INSET_BOX[1] - 0.1


def test_the_last_tick_label_fits_into_the_figure(root):
    for experiment in ("mnist", "cifar10_jpeg"):  # the second panel reaches the right border
        store_training(root, "icnn", batch_losses(7040, 2), experiment)
    selections = [select(panel, runs_in(root)) for panel in FIGURE_2.panels("paper")]
    with style.paper():
        drawn = FIGURE_2.draw(selections, FIGURE_2.table(selections))
        renderer = FigureCanvasAgg(drawn).get_renderer()
        drawn.draw(renderer)
        label = next(text for text in drawn.axes[1].get_xticklabels() if text.get_text() == "7000")
        assert label.get_window_extent(renderer).x1 <= drawn.bbox.x1


def test_remarks_fit_into_the_figure(root):
    losses = batch_losses(20, 3)
    losses[1, 15:] = np.nan
    for experiment in ("mnist", "cifar10_jpeg"):
        for model in TITLES:
            store_training(root, model, losses, experiment, model__positivity="exp")
    figure = loss_figures.FIGURES["figure-10"]
    selections = [select(panel, runs_in(root)) for panel in figure.panels("paper")]
    with style.paper():
        drawn = figure.draw(selections, figure.table(selections))
        renderer = FigureCanvasAgg(drawn).get_renderer()
        boxes = [text.get_window_extent(renderer) for text in drawn.texts]
    words = " ".join(text.get_text() for text in drawn.texts)
    for title in ("MNIST", "CIFAR-10 (JPEG copy)"):
        variants = (f"{name} 1 of 3" for name in loss_figures.EXP.values())
        assert f"diverged, not shown: {', '.join(variants)} on {title}" in words
    assert "not run: non-convex on MNIST" in words
    for box in boxes:
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= drawn.bbox.x1
    # One below the other, from top to bottom.
    for upper, lower in pairwise(boxes):
        assert lower.y1 <= upper.y0 + 1


def test_what_a_copy_is_shown_instead_of_is_named(root, tmp_path, capsys):
    for model in TITLES:
        store_training(root, model, experiment="cifar10_jpeg")
    selections = [select(panel, runs_in(root)) for panel in FIGURE_2.panels("paper")]
    words = texts(FIGURE_2.draw(selections, FIGURE_2.table(selections)))
    command = "python run.py -m experiment=cifar10 model=nonconvex,icnn,icnn_skip,icnn_init"
    assert "CIFAR-10 (JPEG copy) (3 seeds, 2 epochs)" in words
    assert words[words.index("not run: CIFAR-10") + 1] == command
    main(["figure-2", "--runs", str(root / "runs"), "--out", str(tmp_path)])
    output = capsys.readouterr().out
    assert "figure-2: CIFAR-10: missing non-convex, ICNN" in output
    assert f"figure-2:   to produce: {command}" in output
    assert "CIFAR-10 (JPEG copy): missing" not in output


def texts(figure: Figure):
    return [artist.get_text() for artist in figure.findobj(lambda a: hasattr(a, "get_text"))]


def test_summary_counts_diverged_seeds_as_the_worst(root):
    folder = store_training(root, "icnn", batch_losses(20, 4))
    summary = json.loads((folder / "summary.json").read_text())
    for seed, accuracy in enumerate([0.9, 0.8, 0.7]):
        summary["seeds"][str(seed)] |= {"train_loss": seed + 0.1, "test_accuracy": accuracy}
    summary["seeds"]["3"] |= {
        "status": "diverged", "train_loss": float("nan"), "test_accuracy": 0.1,
    }  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(summary))
    (row,) = training_summary.table([select(DIGITS, runs_in(root))]).to_dict("records")
    assert (row["seeds"], row["diverged"], row["epochs"]) == (4, 1, 2)
    assert row["train_loss_median"] == pytest.approx((1.1 + 2.1) / 2)
    assert row["train_loss_max"] == np.inf
    assert (row["test_accuracy_min"], row["test_accuracy_max"]) == (0.1, 0.9)
    text = training_summary.markdown(pd.DataFrame([row]))
    assert "| digits | ICNN | 4 | 2 | 1.600 (0.100 to inf) |" in text
    large = training_summary.markdown(pd.DataFrame([row | {"train_loss_median": 1234567.8}]))
    assert "| 1.2e+06 (0.100 to inf) |" in large


# --- Figure 1 --------------------------------------------------------------------------------


def test_figure_1_statistics_over_seeds(root):
    for model in ("icnn", "nonconvex"):
        store_signal(root, model)
    (panel,) = figure_1.panels("paper")
    table = figure_1.table([select(panel, runs_in(root))])
    assert list(table["model"].unique()) == ["non-convex", "ICNN"]
    row = table.query("model == 'ICNN' and layer == 2 and quantity == 'variance'").iloc[0]
    assert row["measured"] == pytest.approx(1.25)  # seeds 0, 1, 2 plus 2 / 8
    assert row["measured_std"] == pytest.approx(1.0)
    assert row["predicted"] == pytest.approx(1.0)
    assert row["seeds"] == 3
    assert table.query("quantity == 'pearson'")["predicted"].isna().all()


def test_figure_1_shows_measured_beside_predicted(root):
    store_signal(root, "icnn")
    selections = [select(panel, runs_in(root)) for panel in figure_1.panels("paper")]
    words = texts(figure_1.draw(selections, figure_1.table(selections)))
    assert "(a) ICNN" in words
    assert "layer 2 (300 units)" in words
    assert words.count("1.25") == 3
    assert "mean 1.25" in words  # of the correlation matrix


def test_figure_6_shows_all_settings(root):
    for model in TITLES:
        store_signal(root, model)
    store_signal(root, "icnn_init", model__bias_noise=0.5)
    selections = [select(panel, runs_in(root)) for panel in figure_6.panels("paper")]
    assert not selections[0].missing
    words = texts(figure_6.draw(selections, figure_6.table(selections)))
    assert "(c) ICNN + init" in words
    assert "(d) ICNN + init (random bias)" in words
    assert "(e) ICNN + skip" in words


def test_figure_1_without_prediction_or_pictures(root, tmp_path):
    folder = store_signal(root, "icnn", predicted=False)
    (folder / "arrays.npz").unlink()
    selections = [select(panel, runs_in(root)) for panel in figure_1.panels("demo")]
    figure = figure_1.draw(selections, figure_1.table(selections))
    words = texts(figure)
    assert words.count("not finite") == 4
    assert words.count("–") == 12
    assert style.save(figure, tmp_path / "figure")


@pytest.mark.parametrize(
    ("value", "text"),
    [(-0.001, "0.00"), (-1.256, "−1.26"), (43.96, "44.0"), (3266.3, "3266"), (4.8e7, "4.8e+07")],
)
def test_plain_numbers(value, text):
    assert figure_1.plain(value) == text


# --- Files and command line ------------------------------------------------------------------


def test_files_are_valid_and_the_same_twice(root, tmp_path, capsys):
    for model in TITLES:
        store_training(root, model)
        store_signal(root, model)
    store_signal(root, "icnn_init", model__bias_noise=0.5)
    contents = []
    for out in (tmp_path / "one", tmp_path / "two"):
        main(["--scale", "demo", "--runs", str(root / "runs"), "--out", str(out)])
        files = [path for path in sorted(out.rglob("*")) if path.is_file()]
        contents.append({str(path.relative_to(out)): path.read_bytes() for path in files})
    assert contents[0] == contents[1]
    assert sorted(contents[0]) == [
        "figures/figure-1.pdf",
        "figures/figure-1.png",
        "figures/figure-2.pdf",
        "figures/figure-2.png",
        "figures/figure-6.pdf",
        "figures/figure-6.png",
        "tables/figure-1.csv",
        "tables/figure-2.csv",
        "tables/figure-6.csv",
        "tables/training-summary.csv",
        "tables/training-summary.md",
    ]
    for name, content in contents[0].items():
        if name.endswith(".pdf"):
            assert content.startswith(b"%PDF-")
            assert content.rstrip().endswith(b"%%EOF")
            assert b"CreationDate" not in content
            assert b"/Type3" not in content.replace(b" ", b"")
        elif name.endswith(".png"):
            assert content.startswith(b"\x89PNG\r\n\x1a\n")
            assert content.endswith(b"IEND\xaeB`\x82")
    output = capsys.readouterr().out
    assert "figure-2: digits: 3 seeds x 2 epochs; runs nonconvex-" in output
    # No runs are stored for the others, which say so.
    assert not [line for line in output.splitlines() if "figure-2: digits: missing" in line]
    assert "signal propagation: missing" not in output
    assert f"figure-2: wrote {tmp_path / 'two' / 'tables' / 'figure-2.csv'}" in output


def test_missing_variants_are_named_with_their_command(root, tmp_path, capsys):
    store_training(root, "icnn")
    main(["figure-2", "--scale", "demo", "--runs", str(root / "runs"), "--out", str(tmp_path)])
    output = capsys.readouterr().out
    assert "figure-2: digits: missing non-convex, ICNN + skip, ICNN + init" in output
    assert "to produce: python run.py -m experiment=digits model=nonconvex,icnn_skip," in output
    assert (tmp_path / "figures" / "figure-2.png").exists()


def test_nothing_to_draw(tmp_path, capsys):
    with pytest.raises(
        SystemExit,
        match=r"error: no runs for figure-1, figure-2,.* training-summary,.* table-1.* in",
    ):
        main(["--runs", str(tmp_path / "nowhere"), "--out", str(tmp_path)])
    output = capsys.readouterr().out
    assert "experiment=mnist model=nonconvex,icnn,icnn_skip,icnn_init" in output
    assert list(tmp_path.iterdir()) == []


def test_a_figure_asked_for_by_name_has_to_exist(root, tmp_path):
    store_training(root, "icnn")
    arguments = ["--scale", "demo", "--runs", str(root / "runs"), "--out", str(tmp_path)]
    main(arguments)  # without names, what has runs is drawn
    with pytest.raises(SystemExit, match="error: no runs for figure-1 in"):
        main(["figure-1", "figure-2", *arguments])


def test_unknown_names_and_damaged_runs(root, tmp_path, capsys):
    with pytest.raises(SystemExit) as error:
        main(["figure-99"])
    assert error.value.code == 2
    assert "choose from figure-1, figure-2, figure-5, figure-7" in capsys.readouterr().err
    folder = store_training(root, "icnn")
    (folder / "summary.json").write_text("{")
    with pytest.raises(SystemExit, match="cannot be read"):
        main(["--runs", str(root / "runs"), "--out", str(tmp_path)])


def test_a_place_that_cannot_be_written_to(root, tmp_path):
    store_training(root, "icnn")
    (tmp_path / "file").write_text("")
    arguments = ["figure-2", "--scale", "demo", "--runs", str(root / "runs")]
    with pytest.raises(SystemExit, match=r"error: .*file"):
        main([*arguments, "--out", str(tmp_path / "file")])


def test_settings_do_not_leak():
    import matplotlib as mpl

    before = mpl.rcParams["font.size"]
    with style.paper():
        assert mpl.rcParams["font.size"] == style.SETTINGS["font.size"]
    assert mpl.rcParams["font.size"] == before


def test_figures_need_no_torch():
    code = "import sys, convexinit_paper.figures.__main__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_stored_configurations_survive_a_round_trip(root):
    # Selection compares values read back from YAML with those of the protocol.
    folder = store_training(root, "icnn")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert json.dumps(config["trainer"]["learning_rate"]) == "0.001"
