"""The search for hyper-parameters, its final runs, and Figures 3 and 11."""

import importlib.util
import itertools
import os
import shlex
import subprocess
import sys
from copy import deepcopy
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from omegaconf import OmegaConf

from convexinit.layers import ConvexLinear
from convexinit_paper.experiments import best_of_grid, run_experiment
from convexinit_paper.experiments.best_of_grid import final_config
from convexinit_paper.figures import figure_3, figure_11, grid_search, style
from convexinit_paper.figures.__main__ import main
from convexinit_paper.figures.select import TITLES, select, title_of
from convexinit_paper.request.config import composed
from convexinit_paper.request.options import ConfigError
from convexinit_paper.store.errors import RunError
from convexinit_paper.store.runs import COLUMNS, Outcome, read_runs
from convexinit_paper.sweeps.grid_search import grid_cells, grid_names
from convexinit_paper.training.models import build_network
from support.data import ROOT
from support.requests import model_settings
from support.runs import stored

usual = cache(composed)


def config_of(root, experiment, model="icnn", dataset="digits", **options):
    """A configuration of ``conf/``; options by name, with ``__`` for the dot."""
    arguments = [f"experiment={experiment}", f"model={model}", f"dataset={dataset}"]
    config = deepcopy(usual(*arguments)) | {"results_dir": str(root)}
    for name, value in options.items():
        *sections, last = name.split("__")
        place = config
        for section in sections:
            place = place[section]
        place[last] = value
    return config


# --- Layers ----------------------------------------------------------------------------------


def test_every_listed_layer_is_constrained():
    settings = model_settings("experiment=generalisation", "model=icnn", "model.widths=[30,50]")
    widths = settings.layer_widths(20, 10)
    assert widths == [20, 20, 30, 50, 10]
    layers = list(build_network(settings, widths, torch.Generator().manual_seed(0)).layers)
    assert [tuple(layer.weight.shape) for layer in layers] == [
        (20, 20), (30, 20), (50, 30), (10, 50),
    ]  # fmt: skip
    assert [isinstance(layer, ConvexLinear) for layer in layers] == [False, True, True, True]
    assert [bool(layer.weight.min() < 0) for layer in layers] == [True, False, False, False]


def test_without_widths_all_layers_are_equal():
    settings = model_settings("model.num_hidden=2")
    assert settings.layer_widths(20, 10) == [20, 20, 20, 10]
    settings = model_settings("model.num_hidden=2", "model.width=7")
    assert settings.layer_widths(20, 10) == [20, 7, 7, 10]


# --- Grids -----------------------------------------------------------------------------------


def test_the_grid_of_the_paper():
    one, ten = 1000, 10_000
    widths = [[one], [ten], [one, one], [one, ten], [ten, one], [ten, ten]]
    widths += [[one, one, one], [one, ten, one], [ten, one, ten], [ten, ten, ten]]
    expected = itertools.product(
        ["normalise", "pca", "zca"], [0.01, 0.001, 0.0001], [0, 0.01], widths
    )
    names = [
        "dataset.preprocessing", "trainer.learning_rate", "trainer.weight_decay", "model.widths"
    ]  # fmt: skip
    assert list(grid_cells("paper")[0]) == names
    assert [tuple(cell.values()) for cell in grid_cells("paper")] == list(expected)


def test_the_small_grid_is_a_part_of_the_paper_s():
    usual = {"trainer.weight_decay": 0.0}
    assert all({**usual, **cell} in grid_cells("paper") for cell in grid_cells("small"))
    assert 6 <= len(grid_cells("small")) <= 12


@pytest.mark.parametrize("name", grid_names())
def test_grids_vary_options_of_the_final_run(name):
    config = usual("experiment=generalisation_final")
    for option in grid_cells(name)[0]:
        section, _ = option.split(".")
        assert section in config


# --- Which cell is best ----------------------------------------------------------------------


def store_cell(root, accuracy, loss=0.5, status="finished", model="icnn", epochs=25, **options):
    """A run whose seeds have these validation accuracies, losses and states."""
    accuracies = np.atleast_1d(accuracy)
    losses, states = (np.broadcast_to(value, accuracies.shape) for value in (loss, status))
    config = config_of(
        root, "generalisation", model, seeds=list(range(len(accuracies))), trainer__epochs=epochs,
        **options,
    )  # fmt: skip
    seeds = {
        seed: {
            "status": str(states[seed]),
            "train_loss": 0.1,
            "validation_accuracy": float(accuracies[seed]),
            "validation_loss": float(losses[seed]),
        }
        for seed in config["seeds"]
    }
    return store_run(config, pd.DataFrame(columns=COLUMNS), seeds)


def store_run(config, metrics, seeds):
    return stored(config, Outcome(metrics, seeds, "CPU"))


def demo_cell(index):
    """Options of a cell of the demo grid, for ``store_cell``."""
    cell = grid_cells("demo")[index]
    return {name.replace(".", "__"): value for name, value in cell.items()}


def final_of(root, **options):
    return config_of(root, "generalisation_final", **{"search__grid": "demo", **options})


def chosen(root, **options):
    """Index of the cell that the final run takes its options from."""
    config = final_config(final_of(root, **options))
    return grid_cells("demo").index(
        {
            "trainer.learning_rate": config["trainer"]["learning_rate"],
            "model.widths": config["model"]["widths"],
        }
    )


def test_the_highest_accuracy_wins(tmp_path):
    for best in range(4):
        root = tmp_path / str(best)
        for index in range(4):
            store_cell(root, 0.9 if index == best else 0.8, **demo_cell(index))
        assert chosen(root) == best


def test_accuracies_are_averaged_over_the_seeds(tmp_path):
    for index, accuracy in enumerate([[0.9, 0.6], [0.8, 0.8], [0.7, 0.7], [0.99, 0.5]]):
        store_cell(tmp_path, accuracy, **demo_cell(index))
    assert chosen(tmp_path) == 1


def test_ties_go_to_the_lower_loss_and_then_to_the_first(tmp_path):
    for root, losses, best in (
        (tmp_path / "loss", [0.5, 0.4, 0.3, 0.4], 2),
        (tmp_path / "first", [0.5, 0.4, 0.4, 0.4], 1),
    ):
        for index, loss in enumerate(losses):
            store_cell(root, 0.9, loss, **demo_cell(index))
        assert chosen(root) == best


@pytest.mark.parametrize("loss", [0.1, float("nan")])
def test_diverged_cells_never_win(tmp_path, loss):
    store_cell(tmp_path, [0.99, 0.99], loss, ["finished", "diverged"], **demo_cell(0))
    store_cell(tmp_path, [0.2, 0.2], **demo_cell(1))
    store_cell(tmp_path, [0.3, 0.3], **demo_cell(2))
    store_cell(tmp_path, [0.98, 0.98], loss, "diverged", **demo_cell(3))
    assert chosen(tmp_path) == 2
    for index in (1, 2):
        store_cell(tmp_path, [0.99, 0.99], loss, "diverged", **demo_cell(index))
    with pytest.raises(RunError, match="all of them diverged"):
        chosen(tmp_path)


def test_only_cells_of_the_same_kind_count(tmp_path):
    for index in range(4):
        store_cell(tmp_path, 0.5 + index / 100, **demo_cell(index))
        store_cell(tmp_path, 0.6 - index / 100, **demo_cell(index), model__positivity="exp")
    better = {**demo_cell(0), "accuracy": 0.99}
    store_cell(tmp_path, model="icnn_init", **better)
    store_cell(tmp_path, epochs=3, **better)
    store_cell(tmp_path, trainer__batch_size=64, **better)
    store_cell(tmp_path, dataset__name="mnist", **better)
    store_cell(tmp_path, 0.99, model__widths=[7])  # not of the grid
    unvalidated = config_of(tmp_path, "generalisation", dataset__validation_fraction=0.0)
    store_run(unvalidated, pd.DataFrame(columns=COLUMNS), {0: {"status": "finished"}})
    assert chosen(tmp_path) == 3
    assert chosen(tmp_path, model__positivity="exp") == 0
    # Cells have one seed, final runs ten; precision and device may differ too.
    assert chosen(tmp_path, seeds=10, trainer__precision="bfloat16") == 3


def test_cells_of_different_seeds_are_not_mixed(tmp_path):
    for index in range(4):
        store_cell(tmp_path, 0.5 + index / 100, **demo_cell(index))
    store_cell(tmp_path, [0.99, 0.99], **demo_cell(1))
    assert chosen(tmp_path) == 3
    for index in (0, 2, 3):  # now the set with more seeds is complete
        store_cell(tmp_path, [0.6, 0.6], **demo_cell(index))
    assert chosen(tmp_path) == 1


def test_cells_older_than_an_option_still_count(tmp_path):
    for index in range(4):
        folder = store_cell(tmp_path, 0.5 + index / 100, **demo_cell(index))
        config = OmegaConf.load(folder / "config.yaml")
        del config.model["bias_rule"]
        OmegaConf.save(config, folder / "config.yaml")
    assert chosen(tmp_path) == 3


def test_a_missing_cell_is_refused_unless_asked_for(tmp_path):
    with pytest.raises(RunError, match="holds 0 of 4 cells of the grid demo for icnn on digits"):
        chosen(tmp_path, search__incomplete=True)
    for index in range(3):
        store_cell(tmp_path, 0.9 + index / 100, **demo_cell(index), epochs=5)
    with pytest.raises(RunError, match=r"(?s)3 of 4 cells.*search\.incomplete=true") as error:
        chosen(tmp_path, trainer__epochs=5)
    assert (
        "python run.py experiment=generalisation grid=demo dataset=digits model=icnn "
        f"trainer.epochs=5 results_dir={tmp_path} 'seeds=[0]'"
    ) in str(error.value)
    assert chosen(tmp_path, trainer__epochs=5, search__incomplete=True) == 2


def test_wrong_search_options(tmp_path):
    with pytest.raises(ConfigError, match=r"search\.grid must be one of cifar_small, demo"):
        run_experiment(final_of(tmp_path, search__grid="dem"))
    with pytest.raises(ConfigError, match=r"there is no option search\.gird"):
        run_experiment(final_of(tmp_path, search__gird="demo"))
    with pytest.raises(ConfigError, match=r"trainer\.learning_rate must be left as it is"):
        run_experiment(final_of(tmp_path, trainer__learning_rate=0.5))


@pytest.mark.parametrize("name", ["trainer.learning_rat", "seeds"])
def test_a_grid_that_varies_what_is_no_option(tmp_path, monkeypatch, name):
    monkeypatch.setattr(best_of_grid, "grid_cells", lambda grid: [{name: 1}, {name: 2}])
    with pytest.raises(ConfigError, match=f"grid demo varies {name}, which is no option"):
        chosen(tmp_path)
    store_final(tmp_path, "icnn")
    (selection,) = selected(tmp_path)  # figures of other grids are drawn all the same
    assert list(selection.runs) == ["icnn"]


def test_the_cells_are_printed(tmp_path, capsys):
    for index in range(4):
        status = "diverged" if index == 3 else "finished"
        store_cell(tmp_path, 0.5 + index / 100, status=status, **demo_cell(index))
    chosen(tmp_path)
    header, columns, *rows = capsys.readouterr().out.splitlines()
    assert header.startswith("4 of 4 cells of the grid demo for icnn on digits")
    assert columns.split()[:3] == ["learning_rate", "widths", "accuracy"]
    assert [row.split("]")[1].split()[0] for row in rows] == ["0.52", "0.51", "0.50", "0.53"]


# --- Real runs -------------------------------------------------------------------------------


def shell(command):
    return subprocess.run(
        [sys.executable, str(ROOT / "run.py"), *shlex.split(command)[2:]],
        capture_output=True, text=True, check=False, timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HYDRA_FULL_ERROR": "0"},
    )  # fmt: skip


def test_from_the_grid_to_the_final_run(tmp_path):
    root = tmp_path / "results"
    asked = (
        "python run.py experiment=generalisation_final search.grid=demo seeds=2 dataset=digits "
        f"model=icnn_init trainer.epochs=2 results_dir={root}"
    )
    refused = shell(asked)
    assert refused.returncode != 0
    assert "Traceback" not in refused.stderr
    command = refused.stderr.split("To run what is missing: ")[1].splitlines()[0]

    # The command in the message makes exactly the cells of the grid.
    assert shell(command).returncode == 0
    cells = read_runs(root / "runs", "generalisation")
    options_of = [
        {
            "trainer.learning_rate": run.config["trainer"]["learning_rate"],
            "model.widths": run.config["model"]["widths"],
        }
        for run in cells
    ]
    assert sorted(options_of, key=str) == sorted(grid_cells("demo"), key=str)

    # The winner, from the metrics after the last epoch.
    accuracies = [
        run.metrics.query("split == 'validation' and metric == 'accuracy' and epoch == 2")["value"]
        for run in cells
    ]
    best = options_of[int(np.argmax([values.mean() for values in accuracies]))]
    # A sweep chooses once, whatever its workers do.
    swept = shell(f"{asked} -m hydra/launcher=joblib")
    assert swept.returncode == 0, swept.stderr
    assert swept.stdout.count("4 of 4 cells of the grid demo") == 1
    (run,) = read_runs(root / "runs", "generalisation_final")
    assert run.config["model"]["widths"] == best["model.widths"]
    assert run.config["trainer"]["learning_rate"] == best["trainer.learning_rate"]
    assert set(run.metrics["split"]) == {"train", "test"}
    assert run.metrics["step"].max() == 2 * 12  # all 1437 digits in batches of 128

    # Asking again, without a sweep, trains nothing.
    config = composed(*shlex.split(asked)[2:])
    before = (run.folder / "summary.json").stat().st_mtime_ns
    assert run_experiment(config) == run.folder
    assert (run.folder / "summary.json").stat().st_mtime_ns == before

    # Its configuration alone makes the same run where there are no cells.
    elsewhere = run_experiment({**run.config, "results_dir": str(tmp_path / "elsewhere")})
    assert elsewhere.name == run.folder.name
    (again,) = read_runs(tmp_path / "elsewhere" / "runs")
    pd.testing.assert_frame_equal(again.metrics, run.metrics, rtol=1e-6)


# --- Figures ---------------------------------------------------------------------------------


def metrics_of(accuracy, loss, diverged=()):
    """Metrics and seeds of a run; accuracy and loss are ``[seeds, epochs + 1]``."""
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
    return pd.concat(parts), seeds


def rising(seeds, epochs, final=0.98):
    """Accuracies and losses ``[seeds, epochs + 1]`` that become better and differ by seed."""
    learned = 1 - np.exp(-np.arange(epochs + 1))
    accuracy = final * (0.1 + 0.9 * learned) - 0.001 * np.arange(seeds)[:, None]
    return accuracy, 2.3 * (1 - learned) + 1 - accuracy


def store_final(root, model="icnn", curves=None, diverged=(), dataset="digits", **options):
    """A final run as the search stores it: as composed, with the chosen options."""
    accuracy, loss = rising(3, 5) if curves is None else curves
    metrics, seeds = metrics_of(accuracy, loss, diverged)
    options = {"seeds": list(seeds), "trainer__epochs": accuracy.shape[1] - 1, **options}
    config = config_of(root, "generalisation_final", model, dataset, **options)
    grid = options.get("search__grid", "demo")
    return store_run({**config, "task": "final_training", "search": {"grid": grid}}, metrics, seeds)


def selected(root, scale="demo", figure=figure_3):
    runs = read_runs(root / "runs")
    return [select(panel, runs) for panel in figure.panels(scale)]


def texts(figure):
    return [artist.get_text() for artist in figure.findobj(lambda a: hasattr(a, "get_text"))]


def test_quartiles_against_numpy(tmp_path):
    rng = np.random.default_rng(0)
    accuracy, loss = rng.uniform(size=(7, 6)), rng.lognormal(size=(7, 6))
    store_final(tmp_path, "icnn", (accuracy, loss), diverged=[2])
    table = figure_3.table(selected(tmp_path))
    assert list(table.columns) == [
        "dataset", "model", "metric", "epoch", "seeds", "q25", "median", "q75",
    ]  # fmt: skip
    assert set(table["seeds"]) == {6}
    for metric, values in (("accuracy", accuracy), ("loss", loss)):
        rows = table[table["metric"] == metric]
        assert rows["epoch"].tolist() == list(range(6))
        expected = np.quantile(np.delete(values, 2, axis=0), [0.25, 0.5, 0.75], axis=0)
        np.testing.assert_allclose(rows[["q25", "median", "q75"]].T, expected, rtol=1e-6)


def test_variants_may_have_different_choices(tmp_path):
    wanted = {
        "nonconvex": store_final(tmp_path, "nonconvex", model__widths=[64, 64]),
        "icnn": store_final(tmp_path, "icnn", trainer__learning_rate=0.01, model__widths=[64]),
    }
    store_final(tmp_path, "icnn", model__positivity="exp")
    store_final(tmp_path, "icnn", model__rho=0.1)
    (selection,) = selected(tmp_path)
    assert {model: run.folder for model, run in selection.runs.items()} == wanted
    (text,) = figure_3.more_files([selection], figure_3.table([selection])).values()
    assert "| digits | ICNN | 3 | 5 |" in text
    assert "widths [64], learning rate 0.01" in text


def test_searches_of_different_grids_are_not_mixed(tmp_path):
    store_final(tmp_path, "nonconvex", search__grid="small")
    for model in ("icnn", "icnn_init"):
        store_final(tmp_path, model)
    (selection,) = selected(tmp_path)
    assert list(selection.runs) == ["icnn", "icnn_init"]
    (command,) = selection.commands(tmp_path / "runs")
    assert "model=nonconvex,icnn_skip dataset=digits search.grid=demo seeds=3" in command


def test_two_choices_for_the_same_run_are_an_error(tmp_path):
    store_final(tmp_path, "icnn")
    store_final(tmp_path, "icnn", trainer__learning_rate=0.01)
    with pytest.raises(RunError, match=r"differ in the choice of trainer\.learning_rate"):
        selected(tmp_path)


def test_curves_that_do_not_fit_are_named(tmp_path):
    stuck = np.full((3, 6), 0.113), np.full((3, 6), 2.301)
    store_final(tmp_path, "nonconvex")
    store_final(tmp_path, "icnn", stuck)
    store_final(tmp_path, "icnn_init", diverged=[0, 1])
    store_final(tmp_path, "icnn_skip", diverged=[0, 1, 2])
    selections = selected(tmp_path)
    figure = figure_3.draw(selections, figure_3.table(selections))
    words = "\n".join(texts(figure))
    assert "digits (3 seeds, grid demo)" in words
    assert "not in view: ICNN, at last 0.113" in words
    assert "not in view: ICNN, at last 2.301" in words
    assert "not in view: non-convex" not in words
    assert "diverged, not shown: ICNN + skip 3 of 3, ICNN + init 2 of 3 on digits" in words
    accuracy, loss = (axes.get_ylim() for axes in figure.axes)
    assert 0.113 < accuracy[0] < 0.9 < 0.98 < accuracy[1] <= 1.0
    assert loss[1] < 2.3
    assert style.save(figure, tmp_path / "figure")


def test_a_panel_in_which_everything_diverged_can_be_drawn(tmp_path):
    store_final(tmp_path, "icnn", diverged=[0, 1, 2])
    selections = selected(tmp_path)
    figure = figure_3.draw(selections, figure_3.table(selections))
    assert style.save(figure, tmp_path / "figure")


@pytest.mark.parametrize("figure", [figure_3, figure_11])
def test_data_sets_that_were_not_run(tmp_path, figure):
    store_final(tmp_path, "nonconvex", dataset="mnist")
    selections = selected(tmp_path, "paper", figure)
    assert [list(selection.runs) for selection in selections] == [["nonconvex"], []]
    words = texts(figure.draw(selections, figure.table(selections)))
    assert "not run" in words  # in place of the column
    names = [name for name in selections[0].panel.variants if name != "nonconvex"]
    assert f"not run: {', '.join(map(title_of, names))} on MNIST; CIFAR-10" in words
    below = " ".join(" ".join(text.split()) for text in words)
    commands = [line for s in selections for line in s.commands(Path("results/runs"))]
    assert len(commands) == (3 if figure is figure_11 else 2)
    for command in commands:
        assert command in below


def test_titles_and_labels_fit_into_the_figure(tmp_path):
    precision = {"trainer__precision": "bfloat16", "search__grid": "small"}
    store_final(tmp_path, "icnn", dataset="cifar10_jpeg", **precision)
    accuracy, loss = rising(3, 25)
    store_final(tmp_path, "icnn", (0.98 + 0.002 * accuracy, loss), dataset="mnist")
    selections = selected(tmp_path, "paper")
    with style.paper():
        figure = figure_3.draw(selections, figure_3.table(selections))
        renderer = FigureCanvasAgg(figure).get_renderer()
        for axes in figure.axes:
            for text in (axes.title, axes.yaxis.label):
                axes.yaxis.get_tightbbox(renderer)  # puts the label where it belongs
                box = text.get_window_extent(renderer)
                assert box.x0 >= 0
                assert box.x1 <= figure.bbox.x1
    words = texts(figure)
    assert "CIFAR-10 (JPEG copy)\n(3 seeds, bfloat16, grid small)" in words
    assert "test loss (nats)" in words


def test_the_official_cifar10_goes_before_its_copy(tmp_path):
    copy = store_final(tmp_path, "icnn", dataset="cifar10_jpeg")
    _, selection = selected(tmp_path, "paper")
    assert selection.panel.title == "CIFAR-10 (JPEG copy)"
    assert selection.runs["icnn"].folder == copy
    official = store_final(tmp_path, "icnn", dataset="cifar10")
    _, selection = selected(tmp_path, "paper")
    assert selection.panel.title == "CIFAR-10"
    assert selection.runs["icnn"].folder == official


def test_figure_11_compares_exp_with_the_same_baseline(tmp_path):
    baseline = store_final(tmp_path, "nonconvex", dataset="mnist")
    store_final(tmp_path, "icnn", dataset="mnist")
    wanted = store_final(tmp_path, "icnn", dataset="mnist", model__positivity="exp")
    selection, _ = selected(tmp_path, "paper", figure_11)
    found = {model: run.folder for model, run in selection.runs.items()}
    assert found == {"nonconvex": baseline, "ICNN (exp)": wanted}
    (command,) = selection.commands(tmp_path / "runs")
    assert "model=icnn_skip,icnn_init dataset=mnist model.positivity=exp" in command


# --- The table of the search -----------------------------------------------------------------


def test_the_table_of_the_search(tmp_path):
    for index in range(4):
        store_cell(tmp_path, 0.5 + index / 100, **demo_cell(index))
    store_cell(tmp_path, 0.7, 0.2, "diverged", "icnn_init", **demo_cell(0))
    searches = grid_search.selections("demo", read_runs(tmp_path / "runs"))
    table = grid_search.table(searches)
    found = table.set_index("model")[["dataset", "cells", "of", "diverged_cells", "accuracy"]]
    assert found.loc["icnn"].tolist() == ["digits", 4, 4, 0, 0.53]
    assert found.loc["icnn_init"].tolist()[:4] == ["digits", 1, 4, 1]
    assert np.isnan(found.loc["icnn_init", "accuracy"])
    assert searches[0].missing == ["nonconvex", "icnn_skip", "icnn_init"]
    (command,) = searches[0].commands(tmp_path / "runs")
    assert "experiment=generalisation model=nonconvex,icnn_skip,icnn_init grid=demo" in command
    text = grid_search.markdown(table)
    assert "| digits | projection | ICNN | 4 of 4 (demo) | 0 | 0.5300 | [64, 64] | 0.001 |" in text
    assert "| digits | projection | ICNN + init | 1 of 4 (demo) | 1 | none |  |  |" in text
    cells = grid_search.more_files(searches, table)["-cells.csv"]
    assert cells["accuracy"].tolist() == [0.53, 0.52, 0.51, 0.50, 0.7]
    assert cells["widths"].tolist() == [[64, 64], [64], [64, 64], [64], [64]]


def test_the_most_complete_grid_is_shown(tmp_path):
    for number, cell in enumerate(grid_cells("small")):
        options = {name.replace(".", "__"): value for name, value in cell.items()}
        store_cell(tmp_path, 0.5 + number / 100, dataset="mnist", **options)
        if number == 2:
            exp = {"model__positivity": "exp", "dataset": "mnist"}
            store_cell(tmp_path, 0.5, **exp, **options)
    searches = grid_search.selections("paper", read_runs(tmp_path / "runs"))
    shown = {(s.dataset, s.positivity): s.grid for s in searches}
    assert shown["MNIST", "projection"] == "small"
    assert shown["MNIST", "exp"] == "small"
    assert shown["CIFAR-10", "exp"] == "paper"  # nothing is stored
    table = grid_search.table(searches)
    assert table["cells"].tolist() == [8, 1]
    assert "nonconvex" not in next(s for s in searches if s.positivity == "exp").found


def test_the_search_on_the_official_cifar10_goes_before_that_on_its_copy(tmp_path):
    options = {name.replace(".", "__"): value for name, value in grid_cells("small")[0].items()}
    for dataset, title in (("cifar10_jpeg", "CIFAR-10 (JPEG copy)"), ("cifar10", "CIFAR-10")):
        store_cell(tmp_path, 0.5, dataset=dataset, **options)
        searches = grid_search.selections("paper", read_runs(tmp_path / "runs"))
        assert grid_search.table(searches)["dataset"].tolist() == [title]
        assert [s.dataset for s in searches if s.positivity == "exp"] == ["MNIST", "CIFAR-10"]


def test_files_from_the_command_line(tmp_path, capsys):
    for model in TITLES:
        store_final(tmp_path, model)
        for index in range(4):
            store_cell(tmp_path, 0.5, model=model, epochs=5, **demo_cell(index))
    arguments = ["--scale", "demo", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path)]
    main(["figure-3", "grid-search", *arguments])
    written = sorted(path.name for path in (tmp_path / "tables").iterdir())
    assert written == [
        "figure-3.csv", "figure-3.md", "grid-search-cells.csv", "grid-search.csv", "grid-search.md",
    ]  # fmt: skip
    assert "missing" not in capsys.readouterr().out


# --- Recording -------------------------------------------------------------------------------


def test_recorded_cells_are_small_and_give_the_same_figure(tmp_path):
    spec = importlib.util.spec_from_file_location("record", ROOT / "scripts" / "record_runs.py")
    recording = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(recording)
    accuracy, loss = (np.round(values, 4) for values in rising(3, 25))
    folder = store_final(tmp_path, "icnn", (accuracy, loss))
    steps = pd.DataFrame({"seed": 0, "epoch": 1, "step": range(10_000), "split": "train",
                          "metric": "batch_loss", "value": 1.0})  # fmt: skip
    metrics = pd.concat([pd.read_csv(folder / "metrics.csv"), steps])
    metrics.to_csv(folder / "metrics.csv", index=False)
    (run,) = read_runs(tmp_path / "runs")
    recorded = recording.record(run, tmp_path / "recorded")
    assert "batch_loss" not in (recorded / "metrics.csv").read_text()
    tables = [
        figure_3.table([select(panel, read_runs(place)) for panel in figure_3.panels("demo")])
        for place in (tmp_path / "runs", tmp_path / "recorded")
    ]
    pd.testing.assert_frame_equal(*tables)
    assert tables[0]["epoch"].max() == 25
