"""Figures 3 and 11, and the table of the search behind them."""

from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from convexinit_paper.figures import style
from convexinit_paper.figures.__main__ import main
from convexinit_paper.figures.catalogue import FIGURES
from convexinit_paper.figures.tables import grid_search
from convexinit_paper.figures.variants import MODELS, title_of
from convexinit_paper.store.errors import RunError
from convexinit_paper.sweeps.grid_search import grid_cells
from support.drawn import drawn, selected, table_of, words_in
from support.stored import cell_options, rising, store_cell, store_final


def only(root):
    """The one selection of Figure 3 in the demo."""
    (selection,) = selected(root, "figure-3", "demo")
    return selection


def test_quartiles_against_numpy(tmp_path):
    rng = np.random.default_rng(0)
    accuracy, loss = rng.uniform(size=(7, 6)), rng.lognormal(size=(7, 6))
    store_final(tmp_path, "icnn", (accuracy, loss), diverged=[2])
    table = table_of(tmp_path, "figure-3", "demo")
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
    selection = only(tmp_path)
    assert {model: run.folder for model, run in selection.runs.items()} == wanted
    table = table_of(tmp_path, "figure-3", "demo")
    (text,) = FIGURES["figure-3"].more_files([selection], table).values()
    assert "| digits | ICNN | 3 | 5 |" in text
    assert "widths [64], learning rate 0.01" in text


def test_searches_of_different_grids_are_not_mixed(tmp_path):
    store_final(tmp_path, "nonconvex", search__grid="small")
    for model in ("icnn", "icnn_init"):
        store_final(tmp_path, model)
    selection = only(tmp_path)
    assert list(selection.runs) == ["icnn", "icnn_init"]
    (command,) = selection.commands(tmp_path / "runs")
    assert "model=nonconvex,icnn_skip dataset=digits search.grid=demo seeds=3" in command


def test_two_choices_for_the_same_run_are_an_error(tmp_path):
    store_final(tmp_path, "icnn")
    store_final(tmp_path, "icnn", trainer__learning_rate=0.01)
    with pytest.raises(RunError, match=r"differ in the choice of trainer\.learning_rate"):
        only(tmp_path)


def test_curves_that_do_not_fit_are_named(tmp_path):
    stuck = np.full((3, 6), 0.113), np.full((3, 6), 2.301)
    store_final(tmp_path, "nonconvex")
    store_final(tmp_path, "icnn", stuck)
    store_final(tmp_path, "icnn_init", diverged=[0, 1])
    store_final(tmp_path, "icnn_skip", diverged=[0, 1, 2])
    figure = drawn(tmp_path, "figure-3", "demo")
    words = "\n".join(words_in(figure))
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
    figure = drawn(tmp_path, "figure-3", "demo")
    assert style.save(figure, tmp_path / "figure")


@pytest.mark.parametrize(("name", "count"), [("figure-3", 2), ("figure-11", 3)])
def test_data_sets_that_were_not_run(tmp_path, name, count):
    store_final(tmp_path, "nonconvex", dataset="mnist")
    selections = selected(tmp_path, name)
    assert [list(selection.runs) for selection in selections] == [["nonconvex"], []]
    words = words_in(drawn(tmp_path, name))
    assert "not run" in words  # in place of the column
    names = [name for name in selections[0].panel.variants if name != "nonconvex"]
    assert f"not run: {', '.join(map(title_of, names))} on MNIST; CIFAR-10" in words
    below = " ".join(" ".join(text.split()) for text in words)
    commands = [line for s in selections for line in s.commands(Path("results/runs"))]
    assert len(commands) == count
    for command in commands:
        assert command in below


def test_titles_and_labels_fit_into_the_figure(tmp_path):
    precision = {"trainer__precision": "bfloat16", "search__grid": "small"}
    store_final(tmp_path, "icnn", dataset="cifar10_jpeg", **precision)
    accuracy, loss = rising(3, 25)
    store_final(tmp_path, "icnn", (0.98 + 0.002 * accuracy, loss), dataset="mnist")
    with style.paper():
        figure = drawn(tmp_path, "figure-3")
        renderer = FigureCanvasAgg(figure).get_renderer()
        for axes in figure.axes:
            for text in (axes.title, axes.yaxis.label):
                axes.yaxis.get_tightbbox(renderer)  # puts the label where it belongs
                box = text.get_window_extent(renderer)
                assert box.x0 >= 0
                assert box.x1 <= figure.bbox.x1
    words = words_in(figure)
    assert "CIFAR-10 (JPEG copy)\n(3 seeds, bfloat16, grid small)" in words
    assert "test loss (nats)" in words


def test_the_official_cifar10_goes_before_its_copy(tmp_path):
    for dataset, title in (("cifar10_jpeg", "CIFAR-10 (JPEG copy)"), ("cifar10", "CIFAR-10")):
        folder = store_final(tmp_path, "icnn", dataset=dataset)
        _, selection = selected(tmp_path, "figure-3")
        assert selection.panel.title == title
        assert selection.runs["icnn"].folder == folder


def test_figure_11_compares_exp_with_the_same_baseline(tmp_path):
    baseline = store_final(tmp_path, "nonconvex", dataset="mnist")
    store_final(tmp_path, "icnn", dataset="mnist")
    wanted = store_final(tmp_path, "icnn", dataset="mnist", model__positivity="exp")
    selection, _ = selected(tmp_path, "figure-11")
    found = {model: run.folder for model, run in selection.runs.items()}
    assert found == {"nonconvex": baseline, "ICNN (exp)": wanted}
    (command,) = selection.commands(tmp_path / "runs")
    assert "model=icnn_skip,icnn_init dataset=mnist model.positivity=exp" in command


# --- The table of the search -----------------------------------------------------------------


def test_the_table_of_the_search(tmp_path):
    for index in range(4):
        store_cell(tmp_path, 0.5 + index / 100, **cell_options("demo", index))
    store_cell(tmp_path, 0.7, 0.2, "diverged", "icnn_init", **cell_options("demo", 0))
    (searches,) = selected(tmp_path, "grid-search", "demo")
    table = table_of(tmp_path, "grid-search", "demo")
    found = table.set_index("model")[["dataset", "cells", "of", "diverged_cells", "accuracy"]]
    assert found.loc["icnn"].tolist() == ["digits", 4, 4, 0, 0.53]
    assert found.loc["icnn_init"].tolist()[:4] == ["digits", 1, 4, 1]
    assert np.isnan(found.loc["icnn_init", "accuracy"])
    assert searches.missing == ["nonconvex", "icnn_skip", "icnn_init"]
    (command,) = searches.commands(tmp_path / "runs")
    assert "experiment=generalisation model=nonconvex,icnn_skip,icnn_init grid=demo" in command
    text = grid_search.markdown(table)
    assert "| digits | projection | ICNN | 4 of 4 (demo) | 0 | 0.5300 | [64, 64] | 0.001 |" in text
    assert "| digits | projection | ICNN + init | 1 of 4 (demo) | 1 | none |  |  |" in text
    cells = grid_search.more_files([searches], table)["-cells.csv"]
    assert cells["accuracy"].tolist() == [0.53, 0.52, 0.51, 0.50, 0.7]
    assert cells["widths"].tolist() == [[64, 64], [64], [64, 64], [64], [64]]


def test_the_most_complete_grid_is_shown(tmp_path):
    for index in range(len(grid_cells("small"))):
        options = {"dataset": "mnist", **cell_options("small", index)}
        store_cell(tmp_path, 0.5 + index / 100, **options)
        if index == 2:
            store_cell(tmp_path, 0.5, model__positivity="exp", **options)
    table = table_of(tmp_path, "grid-search")
    assert table[["dataset", "positivity", "model", "grid", "cells"]].to_numpy().tolist() == [
        ["MNIST", "projection", "icnn", "small", 8],  # all, as of cifar_small, which has fewer
        ["MNIST", "exp", "icnn", "cifar_small", 1],  # of 4 instead of 8
    ]
    assert "nan" not in grid_search.markdown(table)  # cifar_small varies no preprocessing
    searches = selected(tmp_path, "grid-search")
    assert [searches[place].panel.groups for place in (1, 3)] == [  # nothing is stored
        {"grid": "paper", "dataset": "cifar10"}
    ] * 2
    assert "nonconvex" not in searches[2].found


def test_the_search_on_the_official_cifar10_goes_before_that_on_its_copy(tmp_path):
    for dataset, title in (("cifar10_jpeg", "CIFAR-10 (JPEG copy)"), ("cifar10", "CIFAR-10")):
        store_cell(tmp_path, 0.5, dataset=dataset, **cell_options("small", 0))
        assert table_of(tmp_path, "grid-search")["dataset"].tolist() == [title]


def test_files_from_the_command_line(tmp_path, capsys):
    for model in MODELS:
        store_final(tmp_path, model)
        for index in range(4):
            store_cell(tmp_path, 0.5, model=model, epochs=5, **cell_options("demo", index))
    arguments = ["--scale", "demo", "--runs", str(tmp_path / "runs"), "--out", str(tmp_path)]
    main(["figure-3", "grid-search", *arguments])
    written = sorted(path.name for path in (tmp_path / "tables").iterdir())
    assert written == [
        "figure-3.csv", "figure-3.md", "grid-search-cells.csv", "grid-search.csv", "grid-search.md",
    ]  # fmt: skip
    assert "missing" not in capsys.readouterr().out
