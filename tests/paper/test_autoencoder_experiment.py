"""Training of the autoencoder: its corpus, its resuming, and the run that it leaves."""

from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from convexinit.molecules import autoencoder, cddd, load_codec
from convexinit.molecules.autoencoder import Sizes
from convexinit.molecules.chemistry import canonical, standardise
from convexinit_paper.data import corpus as corpora
from convexinit_paper.data.corpus import (
    Corpus,
    CorpusSettings,
    from_arrays,
    gather,
    load_corpus,
    make_corpus,
)
from convexinit_paper.data.smiles import is_held_out
from convexinit_paper.data.sources.structural_alerts import load_structural_alerts
from convexinit_paper.experiments import run_experiment
from convexinit_paper.experiments.autoencoder.assessment import judge, shares
from convexinit_paper.experiments.autoencoder.training import (
    AutoencoderSettings,
    learning_rate,
    train,
)
from convexinit_paper.request.options import ConfigError
from convexinit_paper.store.checkpoints import Checkpoint
from convexinit_paper.store.provenance import git_revision
from convexinit_paper.store.runs import read_run
from support.data import ROOT

pytestmark = pytest.mark.slow

SMALL = Sizes(dimensions=6, embedding=5, encoder=7, decoder=8, context=4)


def test_the_shipped_weights_belong_to_the_configuration():
    codec = load_codec("autoencoder")
    configured = OmegaConf.load(ROOT / "conf/codec/autoencoder.yaml")
    assert configured.digest == codec.digest
    assert OmegaConf.load(ROOT / "conf/codec/ecfp.yaml").digest == load_codec("ecfp").digest
    published = cddd.CDDDCodec(cddd.CDDDNetwork(embedding=1, hidden=[1], code=1), cddd.SHA256)
    assert OmegaConf.load(ROOT / "conf/codec/cddd.yaml").digest == published.digest
    shape = OmegaConf.load(ROOT / "conf/model/autoencoder.yaml")
    assert {name: shape[name] for name in Sizes.__dataclass_fields__} == vars(codec.network.sizes)


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory):
    """A corpus of the built-in molecules."""
    data = load_structural_alerts()
    raw = {"a": data.train.smiles[:500], "b": data.train.smiles[400:700]}
    arrays = make_corpus(
        CorpusSettings(recombined=0.5, spellings=2, vocabulary=80),
        raw,
        data.validation.smiles + data.test.smiles,
        data.test.smiles,
        seed=0,
    )
    return raw, from_arrays(arrays)


def texts_of(corpus: Corpus, spelling: int) -> list[str]:
    rows = np.arange(len(corpus.starts))
    tokens, lengths = gather(corpus, rows, np.full(len(rows), spelling))
    return [
        corpus.vocabulary.decode(row[1:length].tolist())
        for row, length in zip(tokens, lengths, strict=True)
    ]


def test_held_out_molecules_are_in_no_training_sequence(stand_in):
    raw, corpus = stand_in
    learned = set(texts_of(corpus, 0))
    kept_back = set().union(*corpus.held_out.values())
    assert not learned & kept_back
    assert kept_back > {standardise(text).smiles for text in load_structural_alerts().test.smiles}
    real = {standardise(text).smiles for part in raw.values() for text in part}
    assert {text for text in real if not is_held_out(text)} - kept_back <= learned
    assert len(learned - real) > 100  # recombined
    for source, part in raw.items():
        shares_held = [is_held_out(standardise(text).smiles) for text in part]
        assert len(corpus.held_out[source]) <= sum(shares_held)


def test_a_damaged_cache_is_made_again(small_config):
    settings = CorpusSettings(**small_config["corpus"])
    cache = Path(small_config["results_dir"]) / "cache"
    expected = load_corpus(settings, small_config["data_dir"], 0, cache)
    (stored,) = cache.iterdir()
    content = stored.read_bytes()
    again = load_corpus(settings, small_config["data_dir"], 0, cache)
    assert np.array_equal(again.tokens, expected.tokens)
    stored.write_bytes(content[: len(content) // 2])
    with pytest.warns(UserWarning, match="cached molecules .* cannot be used"):
        again = load_corpus(settings, small_config["data_dir"], 0, cache)
    assert np.array_equal(again.tokens, expected.tokens)
    assert again.held_out == expected.held_out
    assert stored.read_bytes() == content


def test_all_spellings_are_of_the_same_molecule(stand_in):
    _, corpus = stand_in
    first = texts_of(corpus, 0)
    assert all(canonical(text) == text for text in first)
    for spelling in (1, 2):
        texts = texts_of(corpus, spelling)
        assert [canonical(text) for text in texts] == first
        assert sum(a != b for a, b in zip(texts, first, strict=True)) > len(first) / 2


def test_properties_are_standardised(stand_in):
    _, corpus = stand_in
    varying = corpus.properties.std(0) > 0
    assert varying.sum() >= 9
    assert np.abs(corpus.properties.mean(0)).max() < 1e-4
    assert np.allclose(corpus.properties.std(0)[varying], 1, atol=1e-3)


OPTIONS = AutoencoderSettings(
    steps=8, batch_size=32, learning_rate=1e-3, warmup=2, clip=1.0, noise=0.05,
    canonical_share=0.5, property_weight=0.1, precision="float32", device="cpu",
    checkpoint_every=3, evaluated=5,
)  # fmt: skip


def test_training_goes_on_from_its_checkpoint_with_the_same_numbers(
    stand_in, tmp_path, monkeypatch
):
    _, corpus = stand_in
    whole, history = train(corpus, SMALL, OPTIONS, 0, Checkpoint(tmp_path / "whole.pt", 0))
    assert len(history.rows()) == OPTIONS.steps + len(history.measured)

    class KilledError(Exception):
        pass

    def killed(step, options):
        if step == 7:
            raise KilledError
        return learning_rate(step, options)

    monkeypatch.setattr("convexinit_paper.experiments.autoencoder.training.learning_rate", killed)
    with pytest.raises(KilledError):
        train(corpus, SMALL, OPTIONS, 0, Checkpoint(tmp_path / "part.pt", 0))
    monkeypatch.undo()
    part = torch.load(tmp_path / "part.pt", weights_only=True)
    torch.save({**part, "spent": {"another revision": 5.0}}, tmp_path / "part.pt")
    resumed, again = train(corpus, SMALL, OPTIONS, 0, Checkpoint(tmp_path / "part.pt", 0))
    assert again.rows() == history.rows()
    assert history.earlier == {}
    assert again.earlier == {"another revision": 5.0}
    assert again.spent.keys() == {"another revision", git_revision()}
    assert 0 < history.spent[git_revision()] < 100
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
    (tmp_path / "part.pt").write_bytes(b"damaged")
    with pytest.warns(UserWarning, match=r"part\.pt is damaged"):
        _, anew = train(corpus, SMALL, OPTIONS, 0, Checkpoint(tmp_path / "part.pt", 0))
    assert anew.rows() == history.rows()
    torch.save({"step": 6}, tmp_path / "part.pt")
    with pytest.warns(UserWarning, match=r"part\.pt is of (.* )?another version"):
        _, anew = train(corpus, SMALL, OPTIONS, 0, Checkpoint(tmp_path / "part.pt", 0))
    assert anew.rows() == history.rows()


def test_training_does_not_depend_on_the_number_of_workers(stand_in, tmp_path):
    _, corpus = stand_in
    losses = []
    for threads in (1, 3):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            _, history = train(corpus, SMALL, OPTIONS, 0, Checkpoint(tmp_path / f"{threads}.pt", 0))
        finally:
            torch.set_num_threads(before)
        losses.append(history.losses)
    assert np.allclose(*losses, rtol=1e-4)
    assert len(set(losses[0].tolist())) == OPTIONS.steps


def test_learning_rate_rises_then_falls_to_zero():
    rates = [learning_rate(step, OPTIONS) for step in range(OPTIONS.steps)]
    assert rates[0] < rates[1] < rates[2]
    assert rates[2:] == sorted(rates[2:], reverse=True)
    assert max(rates) <= OPTIONS.learning_rate
    assert rates[-1] < 0.05 * OPTIONS.learning_rate


def test_judging():
    result = judge(["CCO", "CCN", "CCC"], ["OCC", "CCCN", "C1C"])
    assert result.tolist() == [[True, True], [False, True], [False, False]]
    assert shares(result) == {"exact": pytest.approx(1 / 3), "valid": pytest.approx(2 / 3)}


@pytest.fixture
def small_config(tmp_path, monkeypatch):
    (tmp_path / "smiles").mkdir()
    data = load_structural_alerts()
    (tmp_path / "smiles/a.smi").write_text("\n".join(data.train.smiles[:300]))
    monkeypatch.setattr(corpora, "load_multitask", lambda name, folder: data)
    return {
        "name": "autoencoder",
        "task": "autoencoder",
        "seeds": [0],
        "data_dir": str(tmp_path),
        "results_dir": str(tmp_path / "results"),
        "force": False,
        "checkpoint_minutes": 10,
        "seeds_at_once": None,
        "model": {"name": "autoencoder", **vars(SMALL)},
        "corpus": {"recombined": 0.2, "spellings": 1, "vocabulary": 60},
        "autoencoder": vars(OPTIONS),
    }


def test_the_run_holds_its_weights_its_quality_and_its_sources(small_config):
    source = Path(small_config["data_dir"]) / "smiles/b.smi"
    source.write_text("\n".join(["CCCCO", "OCCCC", "no molecule", "CC[Hg]CC", "C~CCC", "CCCN"]))
    run = read_run(run_experiment(small_config))
    codec = autoencoder.load(run.folder / "arrays.npz")
    assert codec.dimensions == SMALL.dimensions
    final = run.metrics[run.metrics["step"] == OPTIONS.steps]
    assert {"held_out", "a", "tox21_test", "beam", "greedy between"} <= set(final["split"])
    assert run.summary["seeds"]["0"]["status"] == "finished"
    assert (run.metrics["metric"] == "batch_loss").sum() == OPTIONS.steps
    assert run.summary["sources"]["b"] == {
        "given": 6,
        "distinct": 2,
        "not readable as SMILES": 1,
        "an element other than B C N O F P S Cl Br I": 1,
        "with characters that are in no token": 1,
    }
    assert "b" not in set(run.metrics["split"])  # it has no held-out molecules to assess
    assert not run.metrics["value"].isna().any()


@pytest.mark.parametrize(
    ("section", "option", "value"),
    [
        ("autoencoder", "steps", 0),
        ("autoencoder", "noise", -1.0),
        ("autoencoder", "precision", "float8"),
        ("autoencoder", "device", "tpu"),
        ("autoencoder", "canonical_share", 2.0),
        ("corpus", "vocabulary", 3),
        ("corpus", "spellings", 0),
        ("model", "dimensions", 0),
    ],
)
def test_wrong_options_are_named(small_config, section, option, value):
    config = {**small_config, section: {**small_config[section], option: value}}
    with pytest.raises(ConfigError, match=rf"{section}\.{option}"):
        run_experiment(config)
