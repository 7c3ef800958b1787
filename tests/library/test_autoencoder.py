import json
import signal
import subprocess
import sys
import time
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from convexinit.molecules import autoencoder, load_codec
from convexinit.molecules.autoencoder import (
    Autoencoder,
    AutoencoderCodec,
    Sizes,
    beam_search,
    encode_tokens,
    greedy,
    padded,
    to_arrays,
    translation_loss,
)
from convexinit.molecules.chemistry import canonical, standardise
from convexinit.molecules.tokens import END, PADDING, SPECIAL, START, SYMBOLS, Vocabulary
from convexinit_paper.data import corpus as corpora
from convexinit_paper.data.corpus import (
    Corpus,
    CorpusSettings,
    from_arrays,
    gather,
    load_corpus,
    make_corpus,
)
from convexinit_paper.data.files import DataError
from convexinit_paper.data.smiles import is_held_out
from convexinit_paper.data.structural_alerts import load_structural_alerts
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

SMALL = Sizes(dimensions=6, embedding=5, encoder=7, decoder=8, context=4)
VOCABULARY = Vocabulary([*SPECIAL, *SYMBOLS, "CC", "C(=O)"])


@pytest.fixture
def network():
    torch.manual_seed(0)
    network = Autoencoder(SMALL, len(VOCABULARY), 3).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.mul_(3.0)  # so that decoding neither ends at once nor repeats one token
    return network.eval()


sequences = st.lists(
    st.lists(st.integers(3, len(VOCABULARY) - 1), min_size=1, max_size=9), min_size=1, max_size=6
)


def gru_by_hand(cell, inputs, state):
    """One layer of PyTorch's recurrent units, step by step from their definition."""
    states = []
    for x in inputs:
        r, z, n = (cell.weight_ih_l0 @ x + cell.bias_ih_l0).chunk(3)
        hr, hz, hn = (cell.weight_hh_l0 @ state + cell.bias_hh_l0).chunk(3)
        gate = torch.sigmoid(z + hz)
        state = (1 - gate) * torch.tanh(n + torch.sigmoid(r + hr) * hn) + gate * state
        states.append(state)
    return states


@given(sequences)
@settings(deadline=None, max_examples=20)
def test_codes_are_those_of_each_sequence_alone(batch):
    torch.manual_seed(0)
    network = Autoencoder(SMALL, len(VOCABULARY), 3).double().eval()
    with torch.no_grad():
        codes = network.encode(*padded(batch))
        for sequence, code in zip(batch, codes, strict=True):
            states = [network.embedding.weight[token] for token in sequence]
            for cell in (network.encoder1, network.encoder2):
                states = gru_by_hand(cell, states, torch.zeros(SMALL.encoder).double())
            features = torch.cat([states[-1], torch.stack(states).mean(0)])
            expected = torch.tanh(network.bottleneck.weight @ features + network.bottleneck.bias)
            assert torch.allclose(code, expected, atol=1e-12)
            assert code.abs().max() < 1


def test_encoding_does_not_depend_on_batches(network, monkeypatch):
    batch = [[3 + (i * j) % 30 for j in range(1 + i % 11)] for i in range(40)]
    network = network.float()
    together = encode_tokens(network, batch)
    monkeypatch.setattr(autoencoder, "ROWS", 3)
    assert torch.allclose(encode_tokens(network, batch), together, atol=1e-6)
    assert torch.allclose(encode_tokens(network, batch[7:8]), together[7:8], atol=1e-6)


def next_scores(network, code, prefix):
    tokens = torch.tensor([[START, *prefix]])
    return network.logits(code[None], tokens)[0, -1].log_softmax(0)


@torch.no_grad()
def test_greedy_search_takes_the_best_token_of_the_full_prefix(network, monkeypatch):
    monkeypatch.setattr(autoencoder, "LONGEST", 12)
    torch.manual_seed(1)
    codes = torch.rand(30, SMALL.dimensions).double() * 2 - 1
    network.output.bias[END] += 2.0
    lengths = set()
    for code, written in zip(codes, greedy(network, codes), strict=True):
        expected = []
        while len(expected) < 12 and (not expected or expected[-1] != END):
            expected.append(int(next_scores(network, code, expected).argmax()))
        lengths.add(len(expected))
        assert written[: len(expected)] == expected
        assert all(token == END for token in written[len(expected) :])
    assert len(lengths) > 1  # sequences of a batch end at different steps


@torch.no_grad()
def test_a_wide_beam_finds_the_most_likely_sequence(monkeypatch):
    limit, tokens = 3, 6
    monkeypatch.setattr(autoencoder, "LONGEST", limit)
    torch.manual_seed(5)
    network = Autoencoder(SMALL, tokens, 1).double().eval()
    for parameter in network.parameters():
        parameter.mul_(4.0)
    codes = torch.rand(5, SMALL.dimensions).double() * 2 - 1
    found = beam_search(network, codes, width=tokens**limit)
    narrow = beam_search(network, codes, width=1)
    assert [rows[0] for rows in narrow] == [
        row[: len(narrow[0][0])] for row in greedy(network, codes)
    ]
    for code, (written, *_) in zip(codes, found, strict=True):
        best, best_score = None, -np.inf
        for sequence in product(range(tokens), repeat=limit):
            end = sequence.index(END) if END in sequence else limit
            if any(token != END for token in sequence[end:]):
                continue
            score, prefix = 0.0, []
            for token in sequence[: end + 1]:
                score += float(next_scores(network, code, prefix)[token])
                prefix.append(token)
            if score > best_score:
                best, best_score = list(sequence), score
        assert written == best[: len(written)]


def test_translation_loss_is_the_mean_over_tokens(network):
    targets = torch.tensor([[START, 5, 6, END, PADDING], [START, 7, 8, 9, END]])
    inputs, lengths = padded([[5, 6, END], [7, 8, 9, END]])
    properties, noise = torch.randn(2, 3).double(), torch.randn(2, SMALL.dimensions).double()
    loss, error = translation_loss(network, inputs, lengths, targets, properties, noise)
    codes = network.encode(inputs, lengths)
    terms = [
        -next_scores(network, codes[row] + noise[row], targets[row, 1:place].tolist())[
            targets[row, place]
        ]
        for row, length in ((0, 4), (1, 5))
        for place in range(1, length)
    ]
    assert loss.item() == pytest.approx(torch.stack(terms).mean().item(), rel=1e-6)
    guess = codes @ network.properties.weight.T + network.properties.bias
    assert error.item() == pytest.approx(F.mse_loss(guess, properties).item(), rel=1e-6)


def test_weights_survive_saving_in_half_precision(network, tmp_path):
    network = network.float()
    np.savez(tmp_path / "w.npz", **to_arrays(network, VOCABULARY))
    with np.load(tmp_path / "w.npz", allow_pickle=False) as arrays:
        again, vocabulary = autoencoder.from_arrays(dict(arrays))
    assert vocabulary.tokens == VOCABULARY.tokens
    for old, new in zip(network.parameters(), again.parameters(), strict=True):
        assert torch.equal(old.half().float(), new)


@pytest.mark.parametrize("content", [b"", b"no archive", None])
def test_damaged_weights_are_named(tmp_path, content):
    path = tmp_path / "weights.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"weights\.npz.*experiment=autoencoder|weights\.npz"):
        load_codec("autoencoder", weights=path)


def test_a_changed_byte_in_compressed_weights_is_found(network, tmp_path):
    path = tmp_path / "weights.npz"
    np.savez_compressed(path, **to_arrays(network.float(), VOCABULARY))
    content = path.read_bytes()
    load_codec("autoencoder", weights=path)
    # Behind the 30 bytes and the name that begin an archive: compressed numbers, which zlib reads.
    for place in range(80, 120):
        path.write_bytes(content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :])
        with pytest.raises(DataError, match=r"weights\.npz cannot be used"):
            load_codec("autoencoder", weights=path)


@pytest.mark.parametrize(
    ("name", "array", "reason"),
    [
        ("weights.output.bias", np.full(len(VOCABULARY), np.nan), "output.bias .* not finite"),
        ("weights.output.bias", np.full(len(VOCABULARY), "a"), "type"),
        ("weights.output.bias", np.zeros(2), ""),
        ("sizes.context", np.zeros(2), ""),
        ("sizes.context", np.array(0), "context"),
    ],
)
def test_weights_that_make_no_network_are_named(network, tmp_path, name, array, reason):
    path = tmp_path / "weights.npz"
    np.savez(path, **to_arrays(network.float(), VOCABULARY) | {name: array})
    with pytest.raises(DataError, match=rf"weights\.npz cannot be used: .*{reason}"):
        load_codec("autoencoder", weights=path)


def test_a_single_array_is_no_file_of_weights(tmp_path):
    np.save(tmp_path / "weights.npy", np.zeros(3))
    with pytest.raises(DataError, match="cannot be used"):
        load_codec("autoencoder", weights=tmp_path / "weights.npy")


def test_weights_with_objects_are_not_executed(tmp_path):
    np.savez(tmp_path / "w.npz", tokens=np.array([{"a": 1}], dtype=object))
    with pytest.raises(DataError, match="cannot be used"):
        load_codec("autoencoder", weights=tmp_path / "w.npz")


# The weights that come with the package.

MOLECULES = [
    "CC(=O)Oc1ccccc1C(=O)O",
    "CN1C=NC2=C1C(=O)N(C)C(=O)N2C",
    "CC(C)Cc1ccc(cc1)C(C)C(=O)O",
    "OCC(=O)c1ccccc1",
    "Nc1ccc(cc1)S(=O)(=O)N",
    "CCN(CC)CCNC(=O)c1ccc(N)cc1",
]


@pytest.fixture(scope="module")
def codec():
    return load_codec("autoencoder")


def test_known_molecules_come_back(codec):
    decoded = codec.decode(codec.encode(MOLECULES))
    exact = [canonical(a) == standardise(b).smiles for a, b in zip(decoded, MOLECULES, strict=True)]
    assert sum(exact) >= 5
    assert codec.decode(codec.encode(MOLECULES[:1]), beam=5) == [standardise(MOLECULES[0]).smiles]


def test_codes_are_bounded_finite_and_in_order(codec):
    texts = [*MOLECULES, "CC[Hg]CC", MOLECULES[0] + ".Cl"]
    with pytest.warns(UserWarning, match="1 of 8 molecules cannot be encoded"):
        codes = codec.encode(texts)
    assert codes.shape == (8, 512)
    assert codes.dtype == np.float32
    assert np.isnan(codes[6]).all()
    assert np.abs(np.delete(codes, 6, 0)).max() <= 1
    assert np.array_equal(codes[0], codes[7])
    assert np.allclose(codec.encode(MOLECULES[3:4])[0], codes[3], atol=1e-5)


def test_the_molecule_of_the_beam_with_the_nearest_code_is_taken(codec, monkeypatch):
    texts = ["C1CC", "CCO", "CCN"]
    hypotheses = [[*codec.vocabulary.encode(text), END] for text in texts]
    beams = [hypotheses, hypotheses, hypotheses[:1]]
    monkeypatch.setattr(autoencoder, "beam_search", lambda *_: beams)
    # Codes outside of the small molecules of the beam, which CDDD's rules would refuse.
    own = autoencoder.encode_tokens(
        codec.network, autoencoder.tokenise(codec.vocabulary, ["CCO", "CCN"])
    ).numpy()
    codes = np.stack([0.9 * own[0] + 0.1 * own[1], 0.2 * own[0] + 0.8 * own[1], own[0]])
    assert codec.decode(codes, beam=3) == ["CCO", "CCN", "C1CC"]
    assert codec.decode(codes, beam=3, nearest=False) == ["C1CC"] * 3


def test_decoding_refuses_what_is_no_code(codec):
    assert codec.decode(np.zeros((0, 512))) == []
    with pytest.raises(ValueError, match="shape"):
        codec.decode(np.zeros(512))
    with pytest.raises(ValueError, match="finite"):
        codec.decode(np.full((2, 512), np.nan))
    for beam in (0, 1.5, "2", None):
        with pytest.raises(ValueError, match="beam must be an integer of at least 1; got"):
            codec.decode(np.zeros((1, 512)), beam=beam)
    assert codec.decode(np.zeros((1, 512)), beam=np.int64(2))


def test_shipped_weights_are_small_and_belong_to_the_configuration(codec):
    assert autoencoder.WEIGHTS.stat().st_size <= 12_000_000
    configured = OmegaConf.load(ROOT / "conf/codec/autoencoder.yaml")
    assert configured.digest == codec.digest
    shape = OmegaConf.load(ROOT / "conf/model/autoencoder.yaml")
    assert {name: shape[name] for name in Sizes.__dataclass_fields__} == vars(codec.network.sizes)


# Training.


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
    with pytest.warns(UserWarning, match=r"part\.pt is of another version"):
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
        "checkpoint_minutes": 0,
        "seeds_at_once": None,
        "model": {"name": "autoencoder", **vars(SMALL)},
        "corpus": {"recombined": 0.2, "spellings": 1, "vocabulary": 60},
        "autoencoder": vars(OPTIONS),
    }


def test_the_run_holds_its_weights_its_quality_and_its_sources(small_config):
    source = Path(small_config["data_dir"]) / "smiles/b.smi"
    source.write_text("\n".join(["CCCCO", "OCCCC", "no molecule", "CC[Hg]CC", "C~CCC", "CCCN"]))
    run = read_run(run_experiment(small_config))
    codec = AutoencoderCodec.load(run.folder / "arrays.npz")
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


def test_a_killed_training_goes_on_when_asked_again(tmp_path):
    """A real process, killed after its first checkpoint."""
    code = (
        "import sys, json\n"
        "from convexinit_paper.data import corpus\n"
        "from convexinit_paper.data.structural_alerts import load_structural_alerts\n"
        "corpus.load_multitask = lambda name, folder: load_structural_alerts()\n"
        "from convexinit_paper.experiments import run_experiment\n"
        "print(run_experiment(json.loads(sys.argv[1])))\n"
    )
    (tmp_path / "smiles").mkdir()
    smiles = load_structural_alerts().train.smiles[:200]
    (tmp_path / "smiles/a.smi").write_text("\n".join(smiles))
    config = {
        "name": "autoencoder", "task": "autoencoder", "seeds": [0], "force": False,
        "checkpoint_minutes": 0, "seeds_at_once": None,
        "data_dir": str(tmp_path), "results_dir": str(tmp_path / "results"),
        "model": {"name": "autoencoder", **vars(SMALL)},
        "corpus": {"recombined": 0.0, "spellings": 1, "vocabulary": 60},
        "autoencoder": {**vars(OPTIONS), "steps": 400, "checkpoint_every": 20},
    }  # fmt: skip
    command = [sys.executable, "-c", code, json.dumps(config)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "results").glob("checkpoints/autoencoder/*/*.pt")):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not list((tmp_path / "results/runs").glob("*/*/summary.json"))
    again = subprocess.run(command, capture_output=True, text=True, check=True)
    run = read_run(tmp_path / again.stdout.splitlines()[-1])
    assert run.summary["earlier_revisions"] == [run.summary["git_revision"]]
    losses = run.metrics[run.metrics["metric"] == "batch_loss"]["value"]
    assert not list((tmp_path / "results").glob("checkpoints/autoencoder/*"))
    assert len(losses) == 400
    assert (losses > 0).all()
