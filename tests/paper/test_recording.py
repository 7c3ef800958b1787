"""Recorded runs are small, and give the same figures and tables."""

import importlib.util
import sys

import numpy as np
import pandas as pd
import pytest

from convexinit_paper.figures.catalogue import experiments_with_losses
from convexinit_paper.figures.tables import table_1
from convexinit_paper.store.runs import COLUMNS, read_run
from support.data import ROOT
from support.drawn import table_of
from support.runs import rewrite
from support.stored import ASSAYS, rising, store_final, store_toxicity


@pytest.fixture(scope="module")
def recording():
    spec = importlib.util.spec_from_file_location("record", ROOT / "scripts" / "record_runs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def toxicity(root):
    aurocs = np.random.default_rng(0).uniform(0.5, 1.0, (10, len(ASSAYS))).round(4)
    return store_toxicity(root, "icnn", aurocs)


def rows(split, metric, epochs, steps=0, seeds=1):
    """Metrics of all seeds after these epochs (or updates), with random values."""
    epochs, steps = np.broadcast_arrays(epochs, steps)
    table = pd.DataFrame({"epoch": epochs, "step": steps, "split": split, "metric": metric})
    parts = [table.assign(seed=seed) for seed in range(seeds)]
    values = np.random.default_rng(0).uniform(0.1, 1.0, seeds * len(table))
    return pd.concat(parts, ignore_index=True).assign(value=values)[COLUMNS]


def test_whatever_is_drawn_is_recorded():
    images = {"mnist", "cifar10", "cifar10_jpeg", "cifar100", "digits"}
    assert experiments_with_losses() == {*images, "depth"}


def test_what_figure_2_draws_is_kept(recording):
    steps = np.arange(1, 8441)
    losses = rows("train", "batch_loss", 1, steps)
    assert recording.thin(losses, "mnist")["step"].tolist() == [*range(1, 8441, 50), 8440]
    assert recording.thin(losses, "tox21")["step"].tolist() == [*range(1, 8441, 56), 8440]
    assert recording.thin(losses, "generalisation").empty
    few = rows("test", "loss", np.arange(31))
    assert recording.thin(few, "mnist")["epoch"].tolist() == list(range(31))


def test_a_recorded_run_of_tox21_is_small_and_gives_the_same_table(tmp_path, recording):
    """As many rows as ten seeds, 300 epochs of 47 steps and twelve assays make."""
    folder = toxicity(tmp_path)
    steps, epochs = np.arange(1, 300 * 47 + 1), np.arange(301)
    names = [*(f"auroc_{assay}" for assay in ASSAYS), "auroc", "loss"]
    metrics = [rows("test", name, epochs, 47 * epochs, seeds=10) for name in names]
    metrics.append(rows("train", "batch_loss", (steps - 1) // 47 + 1, steps, seeds=10))
    rewrite(folder, pd.concat(metrics), float_format="%.9g")
    excluded = {"excluded.test": np.array([["ID", "[Hg]", "an element"]])}
    np.savez_compressed(folder / "arrays.npz", **excluded)
    copy = recording.record(read_run(folder), tmp_path)
    assert (copy / "metrics.csv").stat().st_size < 100_000
    np.testing.assert_array_equal(read_run(copy).arrays["excluded.test"], excluded["excluded.test"])
    before, after = (table_1.last_aurocs(read_run(place)) for place in (folder, copy))
    pd.testing.assert_frame_equal(before, after, rtol=1e-5)
    kept = read_run(copy).metrics
    means = kept.query("metric == 'auroc' and seed == 3")["epoch"]
    assert means.tolist() == list(range(0, 301, 10))
    assert kept.query("metric == 'batch_loss'")["step"].max() == 300 * 47


def test_recorded_final_runs_are_small_and_give_the_same_figure(tmp_path, recording):
    accuracy, loss = (np.round(values, 4) for values in rising(3, 25))
    folder = store_final(tmp_path, "icnn", (accuracy, loss))
    steps = rows("train", "batch_loss", 1, np.arange(10_000))
    rewrite(folder, pd.concat([pd.read_csv(folder / "metrics.csv"), steps]))
    recorded = recording.record(read_run(folder), tmp_path / "recorded" / "runs")
    assert "batch_loss" not in (recorded / "metrics.csv").read_text()
    before, after = (
        table_of(root, "figure-3", "demo") for root in (tmp_path, tmp_path / "recorded")
    )
    pd.testing.assert_frame_equal(before, after)
    assert before["epoch"].max() == 25


def test_weights_are_not_recorded(tmp_path, recording):
    folder = toxicity(tmp_path)
    weights = {"weights.layer": np.ones(4), "sizes.encoder": np.ones(1), "tokens": np.array(["C"])}
    np.savez_compressed(folder / "arrays.npz", kept=np.arange(3), **weights)
    assert list(read_run(recording.record(read_run(folder), tmp_path)).arrays) == ["kept"]
    np.savez_compressed(folder / "arrays.npz", **weights)
    copy = recording.record(read_run(folder), tmp_path)
    assert not (copy / "arrays.npz").exists()
    # Of its files only the checksums are gone, as they are not those of the whole run.
    assert read_run(copy).summary == {
        name: value for name, value in read_run(folder).summary.items() if name != "sha256"
    }


def test_nothing_that_was_asked_for_is_left_out_and_nothing_damaged_recorded(
    tmp_path, recording, monkeypatch
):
    metrics = toxicity(tmp_path) / "metrics.csv"

    def call(*experiments, out=tmp_path / "recorded"):
        places = ["--runs", str(tmp_path / "runs"), "--out", str(out)]
        monkeypatch.setattr(sys, "argv", ["record_runs.py", *experiments, *places])
        recording.main()

    with pytest.raises(SystemExit, match="no finished runs of mnits in"):
        call("tox21", "mnits")
    with pytest.raises(SystemExit, match=r"(?s)cannot write to .* with --out$"):
        call(out=metrics)
    assert not (tmp_path / "recorded").exists()
    call("tox21")
    assert len(list(tmp_path.glob("recorded/tox21/*/metrics.csv"))) == 1
    metrics.write_bytes(metrics.read_bytes().replace(b"0.5", b"0.6"))
    with pytest.raises(SystemExit, match=f"{metrics.parent} is damaged"):
        call(out=tmp_path / "again")
    assert not (tmp_path / "again").exists()
