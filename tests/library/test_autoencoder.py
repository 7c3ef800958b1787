"""The autoencoder against its definition, one sample at a time, and its files of weights."""

from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from convexinit.molecules import WeightsError, autoencoder, load_codec
from convexinit.molecules.autoencoder import (
    Autoencoder,
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
from support.codecs import FORMS

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
    with pytest.raises(WeightsError, match=r"(?s)weights\.npz.*experiment=autoencoder"):
        load_codec("autoencoder", weights=path)


def test_a_changed_byte_in_compressed_weights_is_found(network, tmp_path):
    path = tmp_path / "weights.npz"
    np.savez_compressed(path, **to_arrays(network.float(), VOCABULARY))
    content = path.read_bytes()
    load_codec("autoencoder", weights=path)
    # Behind the 30 bytes and the name that begin an archive: compressed numbers, which zlib reads.
    for place in range(80, 120):
        path.write_bytes(content[:place] + bytes([content[place] ^ 255]) + content[place + 1 :])
        with pytest.raises(WeightsError, match=r"weights\.npz\n  fault: not an \.npz archive"):
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
    with pytest.raises(WeightsError, match=rf"weights\.npz\n  fault: .*{reason}"):
        load_codec("autoencoder", weights=path)


def test_an_array_that_is_missing_is_named(network, tmp_path):
    arrays = to_arrays(network.float(), VOCABULARY)
    del arrays["sizes.context"]
    np.savez(path := tmp_path / "weights.npz", **arrays)
    with pytest.raises(WeightsError, match=r"fault: it lacks sizes\.context"):
        load_codec("autoencoder", weights=path)


def test_a_single_array_is_no_file_of_weights(tmp_path):
    np.save(tmp_path / "weights.npy", np.zeros(3))
    with pytest.raises(WeightsError, match="cannot be used"):
        load_codec("autoencoder", weights=tmp_path / "weights.npy")


def test_weights_with_objects_are_not_executed(tmp_path):
    np.savez(tmp_path / "w.npz", tokens=np.array([{"a": 1}], dtype=object))
    with pytest.raises(WeightsError, match="cannot be used"):
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


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.filterwarnings("error")
def test_codes_are_decoded_in_any_form(codec, form):
    codes = codec.encode(MOLECULES[:2])
    codes = torch.from_numpy(codes).bfloat16().float().numpy()
    expected = codec.decode(codes)
    assert expected == codec.decode(codes[::-1])[::-1]
    assert codec.decode(FORMS[form](codes.copy())) == expected
    assert codec.decode(FORMS[form](codes.copy()), beam=2) == codec.decode(codes, beam=2)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_the_default_type_of_torch_plays_no_role(codec, dtype):
    codes = codec.encode(MOLECULES)
    expected = [codec.decode(codes, beam=beam) for beam in (1, 2)]
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        for one in (codec, load_codec("autoencoder")):
            np.testing.assert_array_equal(one.encode(MOLECULES), codes)
            assert [one.decode(codes, beam=beam) for beam in (1, 2)] == expected
    finally:
        torch.set_default_dtype(before)


def test_decoding_refuses_what_is_no_code(codec):
    assert codec.decode(np.zeros((0, 512))) == []
    with pytest.raises(ValueError, match="shape"):
        codec.decode(np.zeros(512))
    with pytest.raises(ValueError, match="finite"):
        codec.decode(np.full((2, 512), np.nan))
    for beam in (0, 1.5, "2", None):
        with pytest.raises(ValueError, match="beam must be an integer of at least 1, got"):
            codec.decode(np.zeros((1, 512)), beam=beam)
    assert codec.decode(np.zeros((1, 512)), beam=np.int64(2))


def test_shipped_weights_are_small():
    assert autoencoder.WEIGHTS.stat().st_size <= 12_000_000


def test_loading_leaves_the_random_numbers_of_the_process_as_they_were():
    state = torch.get_rng_state()
    load_codec("autoencoder")
    assert torch.equal(state, torch.get_rng_state())
