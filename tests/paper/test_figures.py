"""Figures of training losses and signals, the tables beside them, and the command line."""

import errno
import json
import os
import shutil
from itertools import pairwise

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from convexinit_paper.figures import style
from convexinit_paper.figures.__main__ import main
from convexinit_paper.figures.catalogue import CATALOGUE, FIGURES, LOSSES
from convexinit_paper.figures.curves import drawn_steps
from convexinit_paper.figures.drawings import signals, training_loss
from convexinit_paper.figures.tables import precision
from convexinit_paper.figures.variants import EXP, MODELS, RANDOM_BIAS, TITLES
from support.drawn import drawn, selected, table_of, words_in
from support.stored import batch_losses, store_signal, store_training


@pytest.fixture
def root(tmp_path):
    return tmp_path / "results"


def test_the_catalogue_says_what_every_figure_shows():
    assert len(FIGURES) == len(CATALOGUE)
    for figure in CATALOGUE:
        assert figure.says[0].isupper() or figure.says[0].isdigit()
        assert figure.says.endswith(".")
        assert ". " not in figure.says  # one sentence


# --- Training losses -------------------------------------------------------------------------


def test_quartiles_against_numpy(root):
    losses = np.random.default_rng(0).lognormal(size=(7, 400))
    store_training(root, "icnn", losses)
    table = table_of(root, "figure-2", "demo")
    assert list(table.columns) == [
        "dataset", "model", "epoch", "step", "seeds", "q25", "median", "q75",
    ]  # fmt: skip
    assert table["step"].tolist() == list(range(1, 401, 2))  # 400 updates in about 150 points
    expected = np.quantile(losses[:, ::2], [0.25, 0.5, 0.75], axis=0)
    np.testing.assert_allclose(table[["q25", "median", "q75"]].T, expected, rtol=1e-6)
    np.testing.assert_array_equal(table["epoch"], (table["step"] - 1) // 200 + 1)
    assert set(table["dataset"]) == {"digits"}
    assert set(table["seeds"]) == {7}


def test_long_runs_are_drawn_every_50_updates(root):
    store_training(root, "icnn", batch_losses(8440, 1))  # MNIST: 10 epochs of 844 updates
    assert table_of(root, "figure-2", "demo")["step"].tolist() == list(range(1, 8441, 50))


@pytest.mark.parametrize("total", [7, 20, 400, 600, 630, 8440, 21_100])
def test_thinned_runs_are_drawn_at_the_same_steps(total):
    shown = drawn_steps(np.arange(1, total + 1))
    np.testing.assert_array_equal(drawn_steps(np.unique([*shown, total])), shown)


@pytest.mark.parametrize("diverged", [[1, 2], [0, 1, 2, 3]])
def test_diverged_seeds_are_left_out_and_counted(root, diverged):
    losses = batch_losses(20, 4)
    losses[diverged, 15:] = np.nan
    losses[diverged[-1], 3] = np.inf
    store_training(root, "icnn", losses)
    store_training(root, "nonconvex", batch_losses(20, 4))
    table = table_of(root, "figure-2", "demo")
    icnn = table[table["model"] == "ICNN"]
    assert set(icnn["seeds"]) == {4 - len(diverged)}
    left = np.delete(losses, diverged, axis=0)
    expected = np.median(left, axis=0) if len(left) else np.full(20, np.nan)
    np.testing.assert_allclose(icnn["median"], expected, rtol=1e-6)
    words = words_in(drawn(root, "figure-2", "demo"))
    assert f"diverged, not shown: ICNN {len(diverged)} of 4 on digits" in words


@pytest.mark.parametrize("value", [0.0, np.nan])
def test_panels_without_any_positive_loss_can_be_drawn(root, tmp_path, value):
    store_training(root, "icnn", np.full((3, 20), value))
    assert style.save(drawn(root, "figure-2", "demo"), tmp_path / "figure")


def test_losses_that_reach_zero_can_be_drawn(root, tmp_path):
    losses = batch_losses(20, 3)
    store_training(root, "icnn", losses)
    store_training(root, "nonconvex", np.where(np.arange(20) < 3, losses, 0.0))
    store_training(root, "icnn_skip", np.where(np.arange(20) % 2, losses, 0.0))
    figure = drawn(root, "figure-2", "demo")
    assert style.save(figure, tmp_path / "figure")
    low, high = figure.axes[0].get_ylim()
    assert 0 < low < 1.5 * np.exp(-1)  # the lowest quartile above zero
    assert high > 2.5 * np.exp(-1 / 20)


def test_data_sets_that_were_not_run(root):
    store_training(root, "icnn")
    words = words_in(drawn(root, "figure-2"))
    assert "digits (3 seeds, 2 epochs)" in words
    assert "MNIST" not in words
    assert "not run: MNIST" in words
    assert "not run: CIFAR-100" in words
    assert "not run: non-convex, ICNN + skip, ICNN + init on digits" in words
    models = "model=nonconvex,icnn,icnn_skip,icnn_init,icnn_orthogonal"
    assert f"python run.py -m experiment=cifar100 {models}" in words


def test_depths_are_a_row_for_every_data_set_with_runs(root):
    for depth in (3, 5):
        options = {"model__num_hidden": depth, "trainer__precision": "tf32"}
        store_training(root, "icnn", experiment="mnist", **options)
    titles = list(table_of(root, "figure-5")["dataset"].unique())
    assert titles == ["MNIST, 3 hidden layers", "MNIST, 5 hidden layers"]
    figure = drawn(root, "figure-5")
    assert len(figure.axes) == 3
    words = words_in(figure)
    assert "MNIST,\n3 hidden layers (3 seeds, 2 epochs, tf32)" in words
    assert "not run" in words
    assert (
        "python run.py -m experiment=cifar100 model=nonconvex,icnn,icnn_skip,icnn_init "
        "model.num_hidden=3,5,7" in words
    )


@pytest.mark.slow
@pytest.mark.parametrize("figure", LOSSES, ids=lambda figure: figure.name)
def test_every_variant_has_a_colour_of_its_own(root, figure):
    panel = figure.paper[0]
    variants = panel.variants
    for variant in variants:
        named = {name.replace(".", "__"): value for name, value in panel.changes(variant).items()}
        store_training(root, panel.model(variant), experiment=panel.experiment, **named)
    lines = drawn(root, figure.name).legends[0].get_lines()
    assert len({line.get_color() for line in lines}) == len(lines) == len(variants)


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
    runs = selected(root, name)[0].runs
    (ours,) = [variant for variant, run in runs.items() if run.folder == low]
    assert table_of(root, name).query("model == @ours")["median"].max() < 0.2
    words = words_in(drawn(root, name))
    assert ours in words
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


def test_long_titles_break_before_the_number_of_seeds(root):
    for model in MODELS:
        store_training(root, model, experiment="cifar10_jpeg", trainer__precision="bfloat16")
        store_training(root, model, experiment="mnist", trainer__precision="tf32")
    words = words_in(drawn(root, "figure-2"))
    assert "CIFAR-10 (JPEG copy)\n(3 seeds, 2 epochs, bfloat16)" in words
    assert "MNIST (3 seeds, 2 epochs, tf32)" in words


def test_curves_stay_clear_of_the_inset(root):
    # The worst curve for an inset in the upper right corner: one that does not fall.
    store_training(root, "icnn", np.full((3, 100), 2.3) * np.array([[0.5], [1.0], [2.0]]))
    low, high = drawn(root, "figure-2", "demo").axes[0].get_ylim()
    height = np.log(1.5 * 2.3 / low) / np.log(high / low)  # of the upper quartile
    assert 0 < height < training_loss.INSET_BOX[1]


def test_a_variant_that_never_learns_does_not_hide_the_others_in_the_inset(root):
    store_training(root, "nonconvex", batch_losses(200, 3, 0.02))
    store_training(root, "icnn_init", batch_losses(200, 3, 0.04))
    store_training(root, "icnn", np.full((3, 200), 2.3))
    (inset,) = drawn(root, "figure-2", "demo").axes[0].child_axes
    assert 0.04 < inset.get_ylim()[1] < 0.2


def test_the_frame_of_what_is_zoomed_stays_clear_of_the_inset(root):
    # Losses that are highest where the zoom begins, and low below the inset.
    store_training(root, "icnn", np.geomspace(10.0, 0.01, 100) * np.array([[0.9], [1.0], [1.1]]))
    (axes,) = drawn(root, "figure-2", "demo").axes
    (inset,) = axes.child_axes
    low, high = axes.get_ylim()
    top = np.log(inset.get_ylim()[1] / low) / np.log(high / low)
    assert 0 < top < training_loss.INSET_BOX[1] - 0.1


def test_the_last_tick_label_fits_into_the_figure(root):
    for experiment in ("mnist", "cifar10_jpeg"):  # the second panel reaches the right border
        store_training(root, "icnn", batch_losses(7040, 2), experiment)
    with style.paper():
        figure = drawn(root, "figure-2")
        renderer = FigureCanvasAgg(figure).get_renderer()
        figure.draw(renderer)
        labels = figure.axes[1].get_xticklabels()
        (label,) = [text for text in labels if text.get_text() == "7000"]
        assert label.get_window_extent(renderer).x1 <= figure.bbox.x1


def test_remarks_fit_into_the_figure(root):
    losses = batch_losses(20, 3)
    losses[1, 15:] = np.nan
    for experiment in ("mnist", "cifar10_jpeg"):
        for model in MODELS:
            store_training(root, model, losses, experiment, model__positivity="exp")
    with style.paper():
        figure = drawn(root, "figure-10")
        renderer = FigureCanvasAgg(figure).get_renderer()
        boxes = [text.get_window_extent(renderer) for text in figure.texts]
    words = " ".join(text.get_text() for text in figure.texts)
    for title in ("MNIST", "CIFAR-10 (JPEG copy)"):
        variants = (f"{name} 1 of 3" for name in EXP.values())
        assert f"diverged, not shown: {', '.join(variants)} on {title}" in words
    assert "not run: non-convex on MNIST" in words
    for box in boxes:
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.x1 <= figure.bbox.x1
    # One below the other, from top to bottom.
    for upper, lower in pairwise(boxes):
        assert lower.y1 <= upper.y0 + 1


def test_what_a_copy_is_shown_instead_of_is_named(root, tmp_path, capsys):
    models = [*MODELS, "icnn_orthogonal"]
    for model in models:
        store_training(root, model, experiment="cifar10_jpeg")
    words = words_in(drawn(root, "figure-2"))
    command = f"python run.py -m experiment=cifar10 model={','.join(models)}"
    assert "CIFAR-10 (JPEG copy) (3 seeds, 2 epochs)" in words
    assert words[words.index("not run: CIFAR-10") + 1] == command
    main(["figure-2", "--runs", str(root / "runs"), "--out", str(tmp_path)])
    output = capsys.readouterr().out
    assert "figure-2: CIFAR-10: missing non-convex, ICNN" in output
    assert f"figure-2:   to produce: {command}" in output
    assert "CIFAR-10 (JPEG copy): missing" not in output


# --- Tables of the same runs -----------------------------------------------------------------


def test_a_summary_has_every_run_once(root):
    for model in MODELS:
        store_training(root, model, experiment="mnist")
    store_training(root, "icnn_init", experiment="mnist", model__bias_noise=0.5)
    store_training(root, "icnn", experiment="mnist", model__num_hidden=3, trainer__precision="tf32")
    store_training(root, "icnn")
    table = table_of(root, "training-summary")
    assert list(zip(table["dataset"], table["model"], strict=True)) == [
        *(("MNIST", TITLES[model]) for model in MODELS),
        ("MNIST", RANDOM_BIAS),
        ("digits", "ICNN"),
        ("MNIST, 3 hidden layers", "ICNN"),
    ]
    text = FIGURES["training-summary"].markdown(table)
    assert "| MNIST, 3 hidden layers, tf32 | ICNN | 3 | 2 |" in text
    assert "| MNIST | ICNN | 3 | 2 |" in text


def test_summary_counts_diverged_seeds_as_the_worst(root):
    folder = store_training(root, "icnn", batch_losses(20, 4))
    summary = json.loads((folder / "summary.json").read_text())
    for seed, accuracy in enumerate([0.9, 0.8, 0.7]):
        summary["seeds"][str(seed)] |= {"train_loss": seed + 0.1, "test_accuracy": accuracy}
    summary["seeds"]["3"] |= {
        "status": "diverged", "train_loss": float("nan"), "test_accuracy": 0.1,
    }  # fmt: skip
    (folder / "summary.json").write_text(json.dumps(summary))
    (row,) = table_of(root, "training-summary", "demo").to_dict("records")
    assert (row["seeds"], row["diverged"], row["epochs"]) == (4, 1, 2)
    assert row["train_loss_median"] == pytest.approx((1.1 + 2.1) / 2)
    assert row["train_loss_max"] == np.inf
    assert (row["test_accuracy_min"], row["test_accuracy_max"]) == (0.1, 0.9)
    markdown = FIGURES["training-summary"].markdown
    assert "| digits | ICNN | 4 | 2 | 1.600 (0.100 to inf) |" in markdown(pd.DataFrame([row]))
    large = markdown(pd.DataFrame([row | {"train_loss_median": 1234567.8}]))
    assert "| 1.2e+06 (0.100 to inf) |" in large


def test_precisions_are_compared_on_the_seeds_that_both_runs_have(root):
    for model in ("icnn", "nonconvex", "icnn_init"):
        store_training(root, model, batch_losses(20, 4), "mnist")
    diverged = batch_losses(20, 3)
    diverged[0, 5:] = np.nan
    options = {"trainer__precision": "bfloat16"}
    store_training(root, "nonconvex", batch_losses(20, 3), "mnist", **options)
    store_training(root, "icnn", diverged, "mnist", **options)
    store_training(root, "icnn")  # digits have no runs in bfloat16
    assert [selection.panel.title for selection in selected(root, "precision")] == ["MNIST"] * 2
    table = table_of(root, "precision")
    assert table["model"].tolist() == ["non-convex", "ICNN"]
    assert table["seeds"].tolist() == [3, 3]
    assert (table[[f"{metric}_float32" for metric in precision.METRICS]] == 0.5).all(axis=None)
    text = precision.markdown(table)
    assert "| MNIST | non-convex | 3 | 2 | 0.500 / 0.500 | 0.500 / 0.500 | 0.500 / 0.500 |" in text


def test_precisions_of_other_lengths_are_not_compared(root):
    store_training(root, "icnn", experiment="mnist")
    options = {"trainer__precision": "bfloat16", "trainer__epochs": 1}
    store_training(root, "icnn", experiment="mnist", **options)
    assert selected(root, "precision") == []


# --- Signals ---------------------------------------------------------------------------------


def test_signals_are_averaged_over_the_seeds(root):
    for model in ("icnn", "nonconvex"):
        store_signal(root, model)
    table = table_of(root, "figure-1")
    assert list(table["model"].unique()) == ["non-convex", "ICNN"]
    row = table.query("model == 'ICNN' and layer == 2 and quantity == 'variance'").iloc[0]
    assert row["measured"] == pytest.approx(1.25)  # seeds 0, 1, 2 plus 2 / 8
    assert row["measured_std"] == pytest.approx(1.0)
    assert row["predicted"] == pytest.approx(1.0)
    assert row["seeds"] == 3
    assert table.query("quantity == 'pearson'")["predicted"].isna().all()


def test_figure_1_shows_measured_beside_predicted(root):
    store_signal(root, "icnn")
    words = words_in(drawn(root, "figure-1"))
    assert "(a) ICNN" in words
    assert "layer 2 (300 units)" in words
    assert words.count("1.25") == 3
    assert "mean 1.25" in words  # of the correlation matrix


def test_figure_6_shows_all_settings(root):
    for model in MODELS:
        store_signal(root, model)
    store_signal(root, "icnn_init", model__bias_noise=0.5)
    assert not selected(root, "figure-6")[0].missing
    words = words_in(drawn(root, "figure-6"))
    assert "(c) ICNN + init" in words
    assert "(d) ICNN + init (random bias)" in words
    assert "(e) ICNN + skip" in words


def test_signals_without_prediction_or_pictures(root, tmp_path):
    folder = store_signal(root, "icnn", predicted=False)
    (folder / "arrays.npz").unlink()
    figure = drawn(root, "figure-1", "demo")
    words = words_in(figure)
    assert words.count("not finite") == 4
    assert words.count("–") == 12
    assert style.save(figure, tmp_path / "figure")


@pytest.mark.parametrize(
    ("value", "text"),
    [(-0.001, "0.00"), (-1.256, "−1.26"), (43.96, "44.0"), (3266.3, "3266"), (4.8e7, "4.8e+07")],
)
def test_plain_numbers(value, text):
    assert signals.plain(value) == text


# --- Files and command line ------------------------------------------------------------------


@pytest.mark.slow
def test_files_are_valid_and_the_same_twice(root, tmp_path, capsys):
    for model in MODELS:
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
        *(f"figures/figure-{n}.{suffix}" for n in (1, 2, 6) for suffix in ("pdf", "png")),
        *(f"tables/figure-{n}.csv" for n in (1, 2, 6)),
        *(f"tables/training-summary.{suffix}" for suffix in ("csv", "md")),
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


def test_figures_of_runs_of_ones_own_lie_beside_them_and_replace_no_others(
    root, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    store_training(root, "icnn")
    main(["figure-2", "--scale", "demo", "--runs", str(root / "runs")])
    assert (root / "drawn" / "figures" / "figure-2.pdf").exists()
    assert not (root / "figures").exists()
    shutil.copytree(root / "runs", "results/demo/runs")
    main(["figure-2", "--scale", "demo", "--runs", "results/demo/runs"])  # the usual ones
    assert (tmp_path / "results" / "demo" / "figures" / "figure-2.pdf").exists()


@pytest.mark.slow
def test_nothing_to_draw(tmp_path, capsys):
    names = r"figure-1, figure-2,.* training-summary,.* table-1.*"
    with pytest.raises(SystemExit, match=f"error: no runs for {names} in"):
        main(["--runs", str(tmp_path / "nowhere"), "--out", str(tmp_path)])
    output = capsys.readouterr().out
    assert "experiment=mnist model=nonconvex,icnn,icnn_skip,icnn_init" in output
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_does_not_hold_runs_is_said_to_be_that(root, tmp_path):
    store_training(root, "icnn")
    (tmp_path / "file").write_text("")
    for place, state in (
        (tmp_path / "nowhere", ", which does not exist"),
        (tmp_path / "file", ", which is no folder"),
        (root, f" (there are some in {root / 'runs'})"),
    ):
        with pytest.raises(SystemExit) as error:
            main(["figure-2", "--scale", "demo", "--runs", str(place), "--out", str(tmp_path)])
        assert f"no runs for figure-2 in {place}{state}. Run" in str(error.value)


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


def test_a_full_disk_is_said_to_be_that(root, tmp_path, monkeypatch):
    def full(path, content):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))  # without a file, as when writing

    store_training(root, "icnn")
    monkeypatch.setattr(style, "write", full)
    arguments = ["figure-2", "--scale", "demo", "--runs", str(root / "runs")]
    with pytest.raises(SystemExit) as error:
        main([*arguments, "--out", str(tmp_path)])
    assert str(error.value).startswith(f"error: {tmp_path}: No space left on device\n--out ")


def test_an_error_of_several_figures_is_said_once(root, tmp_path):
    for experiment in ("digits", "depth"):
        for seed in (8, 9):
            store_training(root, "icnn", batch_losses(20, 1), experiment, seeds=[seed])
    names = ["figure-2", "training-summary", "depth"]
    with pytest.raises(SystemExit) as error:
        main([*names, "--runs", str(root / "runs"), "--out", str(tmp_path)])
    first, *others = str(error.value).splitlines()
    assert first.startswith("error: figure-2, training-summary: two sets of runs fit the panel")
    assert others[-1] == "Another error is in each of depth; drawn alone they show it."
    assert len(others) == 4


def test_settings_do_not_leak():
    before = mpl.rcParams["font.size"]
    with style.paper():
        assert mpl.rcParams["font.size"] == style.SETTINGS["font.size"]
    assert mpl.rcParams["font.size"] == before


# --- Depths ----------------------------------------------------------------------------------


def test_depths_show_every_seed_and_the_signals_of_one_depth(root):
    for depth in (5, 20):
        options = {"model__num_hidden": depth, "experiment": "depth"}
        for model in ("icnn", "icnn_orthogonal"):
            store_training(root, model, **options)
    table = table_of(root, "depth")
    assert set(table["hidden_layers"]) == {5, 20}
    assert table.groupby(["hidden_layers", "model"])["seed"].apply(list).map(len).eq(3).all()
    figure = drawn(root, "depth")
    losses = figure.axes[0]
    assert losses.get_title() == "digits (3 seeds)"
    points = [line for line in losses.get_lines() if line.get_marker() == "."]
    assert len(points) == 4
    assert all(len(line.get_xdata()) == 3 for line in points)
    assert [label.get_text() for label in losses.get_xticklabels()] == ["5", "20"]
    assert any(word.startswith("not run: ") for word in words_in(figure))
