"""The Tox21 experiment: AUROC, the masked loss, and whole runs on the built-in stand-in."""

import json

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score

from convexinit.molecules import load_codec
from convexinit_paper.data import encoded
from convexinit_paper.data.encoded import MoleculeSettings, encode_set, load_encoded
from convexinit_paper.data.sources.structural_alerts import ALERTS, load_structural_alerts
from convexinit_paper.experiments import run_experiment
from convexinit_paper.request.config import composed
from convexinit_paper.store.runs import read_run
from convexinit_paper.training.objectives import (
    auroc,
    masked_binary_cross_entropy,
    multitask_objective,
)

NAN = float("nan")

# --- AUROC -----------------------------------------------------------------------------------


@given(st.integers(0, 10_000), st.integers(2, 60), st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_auroc_against_sklearn(seed, n, levels):
    """Few distinct scores, so that many are equal; missing labels; classes that are missing."""
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, levels + 1, (2, n, 3)).astype(np.float32)
    scores[1] = rng.normal(size=(n, 3))
    labels = rng.choice([0.0, 1.0, NAN], (n, 3)).astype(np.float32)
    labels[:, 2] = np.where(rng.random(n) < 0.5, 1.0, NAN)
    result = auroc(torch.from_numpy(scores), torch.from_numpy(labels))
    assert result.shape == (2, 3)
    for task in range(3):
        known = ~np.isnan(labels[:, task])
        both = len(np.unique(labels[known, task])) == 2
        for network in range(2):
            value = float(result[network, task])
            if both:
                expected = roc_auc_score(labels[known, task], scores[network, known, task])
                assert value == pytest.approx(expected, abs=1e-6)
            else:
                assert np.isnan(value)


def test_auroc_of_constant_scores_is_a_half():
    labels = torch.tensor([[0.0], [1.0], [1.0]])
    assert auroc(torch.zeros(1, 3, 1), labels).tolist() == [[0.5]]


def test_a_network_with_scores_that_are_not_finite_has_no_auroc():
    labels = torch.tensor([[0.0, 0.0], [1.0, 1.0], [1.0, NAN]])
    scores = torch.zeros(3, 3, 2)
    scores[1, 0, 0] = NAN
    scores[2, 2, 0] = torch.inf
    scores[2, 2, 1] = torch.inf  # whose label is missing
    result = auroc(scores, labels)
    assert result[0].tolist() == [0.5, 0.5]
    assert result[1, 0].isnan()
    assert result[1, 1] == 0.5
    assert result[2, 0].isnan()
    assert result[2, 1] == 0.5


def test_auroc_is_exact_for_many_molecules():
    # Sums of ranks that float32 cannot hold.
    n = 40_000
    scores = torch.arange(n, dtype=torch.float32).view(1, n, 1)
    labels = (torch.arange(n) >= n // 2).float().view(n, 1)
    labels[0], labels[-1] = 1.0, 0.0
    expected = roc_auc_score(labels[:, 0].numpy(), scores[0, :, 0].numpy())
    assert float(auroc(scores, labels)) == pytest.approx(expected, abs=1e-7)


def test_the_mean_leaves_out_tasks_without_auroc():
    labels = torch.tensor([[[0.0, 1.0], [1.0, 1.0]]]).expand(2, -1, -1)
    logits = torch.tensor([[[0.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 0.0]]])
    metrics = multitask_objective(("a", "b")).metrics(logits, labels)
    assert list(metrics) == ["loss", "auroc_a", "auroc_b", "auroc"]
    assert metrics["auroc"].tolist() == [1.0, 0.0]
    assert metrics["auroc_b"].isnan().all()


# --- Loss ------------------------------------------------------------------------------------


def test_masked_loss_element_by_element_in_float64():
    rng = np.random.default_rng(0)
    logits = rng.normal(scale=20.0, size=(3, 17, 5)).astype(np.float32)
    targets = rng.choice([0.0, 1.0, NAN], (3, 17, 5)).astype(np.float32)
    loss = masked_binary_cross_entropy(torch.from_numpy(logits), torch.from_numpy(targets))
    for network in range(3):
        terms = [
            np.logaddexp(0.0, -x if y == 1 else x)
            for x, y in zip(
                logits[network].ravel().astype(np.float64), targets[network].ravel(), strict=True
            )
            if not np.isnan(y)
        ]
        assert float(loss[network]) == pytest.approx(np.mean(terms), rel=1e-5)


def test_missing_labels_have_no_gradient():
    logits = torch.randn(1, 4, 3, generator=torch.Generator().manual_seed(0)).requires_grad_()
    targets = torch.tensor([[[0.0, 1.0, NAN]] * 4])
    masked_binary_cross_entropy(logits, targets).sum().backward()
    expected = (logits.detach().sigmoid() - targets) / 8  # 8 of 12 labels are known
    torch.testing.assert_close(logits.grad[..., :2], expected[..., :2])
    assert logits.grad[..., 2].eq(0).all()


def test_a_batch_without_labels_costs_nothing():
    logits = torch.ones(2, 3, 4, requires_grad=True)
    loss = masked_binary_cross_entropy(logits, torch.full((2, 3, 4), NAN))
    assert loss.tolist() == [0.0, 0.0]
    loss.sum().backward()
    assert logits.grad.eq(0).all()


# --- Whole runs ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """One folder of results, so that molecules are encoded once."""
    return tmp_path_factory.mktemp("results")


def config_of(place, *overrides):
    return composed(
        "experiment=tox21", "dataset=structural_alerts", "codec=ecfp", "model=icnn_init",
        "trainer.epochs=2", "model.width=16", "trainer.device=cpu", f"results_dir={place}",
        *overrides,
    )  # fmt: skip


@pytest.fixture(scope="module")
def pair(place):
    return read_run(run_experiment(config_of(place, "seeds=2")))


def test_what_a_run_stores(pair):
    metrics = pair.metrics
    tasks = list(ALERTS)
    assert set(metrics["split"]) == {"train", "test"}
    names = {"loss", "auroc", *(f"auroc_{task}" for task in tasks)}
    assert set(metrics.query("split == 'test'")["metric"]) == names
    assert sorted(metrics.query("metric == 'auroc'")["epoch"].unique()) == [0, 1, 2]
    last = metrics.query("epoch == 2 and split == 'test' and seed == 1").set_index("metric")
    assert last.loc["auroc", "value"] == pytest.approx(
        last.loc[[f"auroc_{task}" for task in tasks], "value"].mean(), rel=1e-5
    )
    assert pair.summary["dataset"] == "Structural alerts (stand-in for Tox21)"
    assert pair.summary["tasks"] == tasks
    assert pair.summary["codec"] == load_codec("ecfp").digest
    assert pair.summary["data"] == load_structural_alerts().notes
    counts = {
        name: number + sum(pair.summary["excluded"][name].values())
        for name, number in pair.summary["molecules"].items()
    }
    assert counts == {"train": 1_700, "test": 300}  # the validation set is trained on
    assert pair.summary["seeds"]["1"]["test_auroc"] == pytest.approx(last.loc["auroc", "value"])


def test_a_seed_does_not_depend_on_its_neighbours(place, pair):
    alone = read_run(run_experiment(config_of(place, "seeds=[1]"))).metrics
    beside = pair.metrics.query("seed == 1").reset_index(drop=True)
    pd.testing.assert_frame_equal(beside, alone, atol=1e-4)


@pytest.mark.slow
def test_the_same_command_twice_gives_the_same_numbers(place, pair, tmp_path):
    again = read_run(run_experiment(config_of(tmp_path, "seeds=2")))
    assert again.folder.name == pair.folder.name
    for name in ("metrics.csv",):
        assert (again.folder / name).read_bytes() == (pair.folder / name).read_bytes()


def test_dropout_is_used(place, pair):
    without = config_of(place, "seeds=2", "dropout.input=0.0", "dropout.hidden=0.0")
    losses = read_run(run_experiment(without)).metrics.query("metric == 'batch_loss'")["value"]
    assert not np.allclose(losses, pair.metrics.query("metric == 'batch_loss'")["value"])


@pytest.mark.slow
def test_the_validation_set_can_be_held_out_and_codes_standardised(place):
    options = ("seeds=1", "dataset.train_on_validation=false", "codec.standardise=true")
    run = read_run(run_experiment(config_of(place, *options)))
    assert set(run.metrics["split"]) == {"train", "test", "validation"}
    assert run.summary["molecules"]["train"] == 1_400
    assert run.summary["molecules"]["validation"] == 300


def test_standardised_codes_have_mean_0_and_variance_1(place):
    data = load_encoded(
        MoleculeSettings("structural_alerts", train_on_validation=True), load_codec("ecfp"),
        standardise=True, data_dir="", cache=place / "cache",
    )  # fmt: skip
    codes = data.sets["train"].codes
    inputs = data.inputs(codes)
    varies = codes.std(0) > 0
    torch.testing.assert_close(inputs.mean(0), torch.zeros(codes.shape[1]), atol=1e-4, rtol=0)
    deviations = inputs[:, varies].std(0, correction=0)
    torch.testing.assert_close(deviations, torch.ones(int(varies.sum())), atol=1e-4, rtol=0)
    assert not bool(varies.all())
    assert inputs[:, ~varies].eq(0).all()
    assert data.inputs(data.sets["test"].codes).isfinite().all()


@pytest.mark.slow
def test_molecules_without_code_are_listed_with_reasons(place, monkeypatch):
    load = encoded.load_multitask

    def damaged(name, data_dir):
        data = load(name, data_dir)
        data.train.smiles[5] = "not a molecule"
        data.test.smiles[0] = "CC[Hg]CC"
        data.test.smiles[7] = ""
        return data

    monkeypatch.setattr(encoded, "load_multitask", damaged)
    run = read_run(run_experiment(config_of(place, "seeds=[4]", "trainer.epochs=1")))
    assert run.summary["molecules"] == {"train": 1_699, "test": 298}
    (unreadable,) = run.arrays["excluded.train"].tolist()
    assert unreadable[1:] == ["not a molecule", "not readable as SMILES"]
    metal, empty = run.arrays["excluded.test"].tolist()
    assert metal[1] == "CC[Hg]CC"
    assert metal[2].startswith("an element other than")
    assert empty[1:] == ["", "empty"]
    assert sum(run.summary["excluded"]["test"].values()) == 2
    assert json.dumps(run.summary)  # nothing that JSON cannot hold


def test_labels_stay_with_their_molecules(place):
    data = encoded.load_multitask("structural_alerts", "")
    data.test.smiles[3] = "not a molecule"
    codec = load_codec("ecfp")
    kept = encode_set(data.test, codec, place / "cache")
    rest = [row for row in range(len(data.test)) if row != 3]
    assert kept.smiles == [data.test.smiles[row] for row in rest]
    np.testing.assert_array_equal(kept.labels.numpy(), data.test.labels[rest])
    np.testing.assert_array_equal(kept.codes[3].numpy(), codec.encode([kept.smiles[3]])[0])


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("codec.name=morgan", r"codec must be one of autoencoder, cddd, ecfp, got 'morgan'"),
        ("codec.digest=abc", r"codec\.digest is abc, but the codec ecfp at hand is"),
        ("dataset.name=tox22", r"tox22.*known: structural_alerts, tox21"),
    ],
)
def test_unknown_codecs_and_data_sets_are_named(place, option, message):
    with pytest.raises(ValueError, match=message):
        run_experiment(config_of(place, option))
