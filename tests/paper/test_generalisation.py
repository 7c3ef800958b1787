"""The search for hyper-parameters, and its final runs."""

import itertools
import os
import shlex
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from omegaconf import OmegaConf

from convexinit.layers import ConvexLinear
from convexinit_paper.experiments import best_of_grid, run_experiment
from convexinit_paper.experiments.best_of_grid import final_config
from convexinit_paper.request.config import composed
from convexinit_paper.request.options import ConfigError
from convexinit_paper.store.errors import RunError
from convexinit_paper.store.runs import COLUMNS, read_runs
from convexinit_paper.sweeps.grid_search import grid_cells, grid_names
from convexinit_paper.training.models import build_network
from support.data import ROOT
from support.drawn import selected
from support.requests import model_settings
from support.stored import cell_options, config_of, store_cell, store_final, store_run

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
    config = composed("experiment=generalisation_final")
    for option in grid_cells(name)[0]:
        section, _ = option.split(".")
        assert section in config


# --- Which cell is best ----------------------------------------------------------------------


def demo_cell(index):
    return cell_options("demo", index)


def final_of(root, **options):
    options = {"search__grid": "demo", **options}
    return config_of(root, "generalisation_final", "icnn", "dataset=digits", **options)


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
    store_cell(tmp_path, dataset="mnist", **better)
    store_cell(tmp_path, 0.99, model__widths=[7])  # not of the grid
    unvalidated = config_of(
        tmp_path, "generalisation", "icnn", "dataset=digits", dataset__validation_fraction=0.0
    )
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
    with pytest.raises(RunError, match="holds 0 of 4 cells"):  # they have its default
        chosen(tmp_path, model__bias_rule="centred")


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
    (selection,) = selected(tmp_path, "figure-3", "demo")  # other figures are drawn all the same
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


@pytest.mark.slow
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
