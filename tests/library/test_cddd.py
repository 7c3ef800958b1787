"""CDDD against a second implementation in NumPy, written as plainly as its definition reads."""

import hashlib
import io
import itertools
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from convexinit.molecules import WeightsError, cddd, load_codec
from convexinit.molecules.cddd import CDDDCodec, CDDDNetwork, build_network, detokenise, tokenise
from support.codecs import FORMS
from support.data import ROOT, real_data_dir

# --- The definition, one sample, one step, one gate at a time, in float64 -------------------------

END = 0


def sigmoid(x):
    return 1.0 / (1.0 + np.exp(-x))


def gru_cell(weights, layer, x, h):
    size = len(h)
    gate_kernel, gate_bias = weights[f"{layer}.gate_kernel"], weights[f"{layer}.gate_bias"]
    x_and_h = np.concatenate([x, h])
    r = sigmoid(x_and_h @ gate_kernel[:, :size] + gate_bias[:size])
    u = sigmoid(x_and_h @ gate_kernel[:, size:] + gate_bias[size:])
    x_and_reset_h = np.concatenate([x, r * h])
    c = np.tanh(
        x_and_reset_h @ weights[f"{layer}.candidate_kernel"] + weights[f"{layer}.candidate_bias"]
    )
    return u * h + (1 - u) * c


def hidden_sizes(weights):
    return [len(weights[f"encoder.layer{i}.candidate_bias"]) for i in range(3)]


def run_layers(weights, side, token, states):
    x = weights["embedding.table"][token]
    after = []
    for i, state in enumerate(states):
        x = gru_cell(weights, f"{side}.layer{i}", x, state)
        after.append(x)
    return after


def encode_one(weights, tokens):
    start = len(weights["embedding.table"]) - 1
    states = [np.zeros(size) for size in hidden_sizes(weights)]
    for token in [start, *tokens, END]:
        states = run_layers(weights, "encoder", token, states)
    joined = np.concatenate(states)
    return np.tanh(
        joined @ weights["encoder.bottleneck_kernel"] + weights["encoder.bottleneck_bias"]
    )


def initial_states(weights, code):
    joined = code @ weights["decoder.init_state_kernel"] + weights["decoder.init_state_bias"]
    first, second, _ = hidden_sizes(weights)
    return [joined[:first], joined[first : first + second], joined[first + second :]]


def decode_step(weights, token, states):
    """Log-probabilities of the next token, and the new states."""
    states = run_layers(weights, "decoder", token, states)
    logits = states[-1] @ weights["decoder.output_proj_kernel"]
    return logits - np.log(np.exp(logits).sum()), states


def log_likelihood_one(weights, code, tokens):
    states = initial_states(weights, code)
    token, total = len(weights["embedding.table"]) - 1, 0.0
    for following in [*tokens, END]:
        log_probabilities, states = decode_step(weights, token, states)
        total += log_probabilities[following]
        token = following
    return total


def greedy_one(weights, code, limit):
    states = initial_states(weights, code)
    token, found = len(weights["embedding.table"]) - 1, []
    while len(found) < limit:
        log_probabilities, states = decode_step(weights, token, states)
        token = int(np.argmax(log_probabilities))
        if token == END:
            break
        found.append(token)
    return found


def beam_one(weights, code, width, limit):
    """Best sequence of a beam search that always takes all its steps.

    Also whether the best one had ended some steps before it became the best.
    """
    start = len(weights["embedding.table"]) - 1
    beams = [(0.0, [start], initial_states(weights, code))]
    late = False
    for _ in range(limit):
        candidates = []
        for place, (score, tokens, states) in enumerate(beams):
            if tokens[-1] == END:
                candidates.append((-score, place, END, tokens, states))
                continue
            log_probabilities, after = decode_step(weights, tokens[-1], states)
            for token, value in enumerate(log_probabilities):
                candidates.append((-(score + value), place, token, [*tokens, token], after))
        candidates.sort(key=lambda candidate: candidate[:3])
        parent = candidates[0][1]
        late = late or (parent > 0 and beams[parent][1][-1] == END)
        beams = [(-negative, tokens, after) for negative, _, _, tokens, after in candidates[:width]]
    tokens = beams[0][1][1:]
    return tokens[:-1] if tokens[-1] == END else tokens, late


def exhaustive_one(weights, code, limit):
    """Most likely of all sequences that end within the limit, or reach it."""
    vocabulary = len(weights["embedding.table"])
    scored = {}

    def grow(tokens, score, states):
        if len(tokens) - 1 == limit or tokens[-1] == END:
            scored[tuple(tokens[1:])] = score
            return
        log_probabilities, after = decode_step(weights, tokens[-1], states)
        for token in range(vocabulary):
            grow([*tokens, token], score + log_probabilities[token], after)

    grow([vocabulary - 1], 0.0, initial_states(weights, code))
    return [token for token in max(scored, key=scored.__getitem__) if token != END]


# --- Weights --------------------------------------------------------------------------------------


def random_weights(seed, vocabulary=40, embedding=5, hidden=(6, 7, 8), code=4, output=4.0):
    """Weights for which gates and codes do not saturate, and tokens differ in likelihood."""
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return rng.standard_normal(shape) * 1.5 / np.sqrt(shape[0] if len(shape) > 1 else 4)

    weights = {"embedding.table": rng.standard_normal((vocabulary, embedding))}
    for side in ("encoder", "decoder"):
        for i, (inputs, size) in enumerate(itertools.pairwise([embedding, *hidden])):
            weights[f"{side}.layer{i}.gate_kernel"] = draw(inputs + size, 2 * size)
            weights[f"{side}.layer{i}.gate_bias"] = draw(2 * size)
            weights[f"{side}.layer{i}.candidate_kernel"] = draw(inputs + size, size)
            weights[f"{side}.layer{i}.candidate_bias"] = draw(size)
    total = sum(hidden)
    weights["encoder.bottleneck_kernel"] = draw(total, code)
    weights["encoder.bottleneck_bias"] = draw(code)
    weights["decoder.init_state_kernel"] = draw(code, total)
    weights["decoder.init_state_bias"] = draw(total)
    weights["decoder.output_proj_kernel"] = output * draw(hidden[-1], vocabulary)
    return weights


def network_of(weights) -> CDDDNetwork:
    """The implementation with these weights, in float64."""
    network = CDDDNetwork(
        *weights["embedding.table"].shape,
        hidden_sizes(weights),
        len(weights["encoder.bottleneck_bias"]),
    ).double()
    network.load_state_dict({name: torch.from_numpy(value) for name, value in weights.items()})
    return network.requires_grad_(False)


def ragged(seed, vocabulary=40, lengths=(3, 9, 1, 5, 9, 0, 2)):
    rng = np.random.default_rng(seed)
    return [rng.integers(1, vocabulary - 1, length).tolist() for length in lengths]


def codes_of(seed, count, size=4):
    return np.random.default_rng(seed).uniform(-1, 1, (count, size))


def save(path: Path, weights, **changes) -> Path:
    arrays = {name: value.astype(np.float32) for name, value in weights.items()}
    arrays = {name: value for name, value in {**arrays, **changes}.items() if value is not None}
    np.savez(path, **arrays)
    return path


@pytest.fixture(scope="module")
def weights():
    return random_weights(0)


def small_codec(weights) -> CDDDCodec:
    return CDDDCodec(build_network(dict(weights)), "test")


# --- The network ----------------------------------------------------------------------------------


def test_weights_of_these_tests_do_not_saturate(weights):
    """Otherwise mistakes in the gates could not be seen."""
    codes = np.array([encode_one(weights, tokens) for tokens in ragged(1)])
    assert 0.2 < np.abs(codes).mean() < 0.9
    state = np.random.default_rng(0).uniform(-1, 1, 7)
    inputs = np.random.default_rng(1).uniform(-1, 1, 6)
    kernel = weights["encoder.layer1.gate_kernel"]
    gates = sigmoid(np.concatenate([inputs, state]) @ kernel)
    assert gates.min() < 0.4
    assert gates.max() > 0.6
    assert 0.1 < gates.mean() < 0.9


@pytest.mark.parametrize("seed", range(3))
def test_encoder_is_that_of_the_definition(seed):
    weights = random_weights(seed)
    sequences = ragged(seed)
    expected = [encode_one(weights, tokens) for tokens in sequences]
    actual = network_of(weights).encode(sequences).numpy()
    np.testing.assert_allclose(actual, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("seed", range(3))
def test_decoder_is_that_of_the_definition(seed):
    weights = random_weights(seed)
    sequences = ragged(seed)
    codes = codes_of(seed, len(sequences))
    expected = [
        log_likelihood_one(weights, code, tokens)
        for code, tokens in zip(codes, sequences, strict=True)
    ]
    actual = network_of(weights).log_likelihood(torch.from_numpy(codes), sequences).numpy()
    np.testing.assert_allclose(actual, expected, rtol=1e-12)


def test_batch_has_no_influence(weights):
    network = network_of(weights)
    sequences = ragged(5)
    together = network.encode(sequences)
    for place, tokens in enumerate(sequences):
        alone = network.encode([tokens])
        torch.testing.assert_close(together[place], alone[0], rtol=0, atol=1e-14)
    codes = torch.from_numpy(codes_of(5, len(sequences)))
    likelihoods = network.log_likelihood(codes, sequences)
    found = network.search(codes, beam=3, limit=20)
    for place, tokens in enumerate(sequences):
        code = codes[place : place + 1]
        alone = network.log_likelihood(code, [tokens])
        torch.testing.assert_close(likelihoods[place], alone[0], rtol=0, atol=1e-12)
        assert network.search(code, beam=3, limit=20) == [found[place]]


def test_greedy_search():
    lengths = set()
    for seed in range(6):
        weights = random_weights(seed, vocabulary=8)
        codes = codes_of(seed, 15)
        expected = [greedy_one(weights, code, 12) for code in codes]
        assert network_of(weights).search(torch.from_numpy(codes), beam=1, limit=12) == expected
        lengths |= {len(tokens) for tokens in expected}
    assert 12 in lengths  # cut
    assert len(lengths) > 3  # and ended at different steps


@pytest.mark.parametrize("width", [2, 3, 10])
def test_beam_search(width):
    late, better = 0, 0
    for seed in range(6):
        weights = random_weights(seed, vocabulary=8, output=1.5)
        codes = codes_of(seed, 12)
        results = [beam_one(weights, code, width, 9) for code in codes]
        found = network_of(weights).search(torch.from_numpy(codes), beam=width, limit=9)
        assert found == [tokens for tokens, _ in results]
        late += sum(came_late for _, came_late in results)
        better += found != [greedy_one(weights, code, 9) for code in codes]
    assert late > 0  # sequences that had ended were kept until they became the best
    assert better > 0  # and the greedy search would not do


def test_wide_beam_search_is_exhaustive():
    limit, lengths = 4, set()
    for seed in range(8):
        weights = random_weights(seed, vocabulary=4, output=2.0)
        codes = codes_of(seed, 3)
        expected = [exhaustive_one(weights, code, limit) for code in codes]
        found = network_of(weights).search(torch.from_numpy(codes), beam=4**limit, limit=limit)
        assert found == expected
        lengths |= {len(tokens) for tokens in found}
    assert len(lengths) > 2


def test_equally_likely_tokens_come_in_their_order():
    weights = random_weights(0, vocabulary=6)
    weights["decoder.output_proj_kernel"][:] = 0.0
    codes = torch.from_numpy(codes_of(0, 3))
    assert network_of(weights).search(codes, beam=1, limit=5) == [[], [], []]  # the end is token 0
    # The end is almost impossible, all others are equally likely.
    network = network_of(weights)
    network.decoder.forward = _with_unlikely_end(network.decoder.forward)
    for beam in (1, 2, 7):
        assert network.search(codes, beam=beam, limit=5) == [[1] * 5] * 3


def _with_unlikely_end(forward):
    def wrapped(*arguments):
        logits, states = forward(*arguments)
        logits[:, END] = -50.0
        return logits, states

    return wrapped


def test_search_without_codes(weights):
    assert network_of(weights).search(torch.zeros(0, 4, dtype=torch.float64)) == []


@pytest.mark.slow
def test_full_size():
    weights = random_weights(0, embedding=32, hidden=(512, 1024, 2048), code=512, output=1.0)
    expected_shapes = {name: value.shape for name, value in weights.items()}
    network = CDDDNetwork()
    assert {name: tuple(v.shape) for name, v in network.state_dict().items()} == expected_shapes
    network = build_network(weights)  # float32
    sequences = [tokenise("CO"), tokenise("C#NCl")]
    expected = np.array([encode_one(weights, tokens) for tokens in sequences])
    assert 0.1 < np.abs(expected).mean() < 0.9
    with torch.no_grad():
        codes = network.encode(sequences)
        likelihoods = network.log_likelihood(codes, sequences).numpy()
    np.testing.assert_allclose(codes.numpy(), expected, atol=2e-5)
    reference = [
        log_likelihood_one(weights, code, tokens)
        for code, tokens in zip(expected, sequences, strict=True)
    ]
    np.testing.assert_allclose(likelihoods, reference, rtol=1e-4)
    found = network.search(codes, beam=1, limit=3)
    assert found == [greedy_one(weights, code, 3) for code in expected]


# --- Tokens ---------------------------------------------------------------------------------------

NUMBERED = """
    0 </s> 1 # 2 % 3 ) 4 ( 5 + 6 - 7 1 8 0 9 3 10 2 11 5 12 4 13 7 14 6 15 9 16 8 17 : 18 = 19 @
    20 C 21 B 22 F 23 I 24 H 25 O 26 N 27 P 28 S 29 [ 30 ] 31 c 32 i 33 o 34 n 35 p 36 s 37 Cl
    38 Br 39 <s>
"""
NUMBER_OF = dict(zip(NUMBERED.split()[1::2], map(int, NUMBERED.split()[::2]), strict=True))


def test_vocabulary():
    assert {token: number for number, token in enumerate(cddd.TOKENS)} == NUMBER_OF


@pytest.mark.parametrize(
    ("smiles", "tokens"),
    [
        ("CC(=O)Nc1ccc(Br)cc1", "C C ( = O ) N c 1 c c c ( Br ) c c 1"),
        ("C[N+](C)(C)CCl", "C [ N + ] ( C ) ( C ) C Cl"),
        ("c1ccc2[nH]ccc2c1%10", "c 1 c c c 2 [ n H ] c c c 2 c 1 % 1 0"),
        ("[13CH3]B(O)C#N", "[ 1 3 C H 3 ] B ( O ) C # N"),
        ("", ""),
    ],
)
def test_tokenise(smiles, tokens):
    expected = [NUMBER_OF[token] for token in tokens.split()]
    assert tokenise(smiles) == expected
    assert detokenise(expected) == smiles


@pytest.mark.parametrize("smiles", ["[Na]Cl", "C~C", "CC.O", "C/C=C/C", "C*", "Cr", "b1cccc1", "é"])
def test_characters_without_token(smiles):
    assert tokenise(smiles) is None


def test_text_ends_at_the_end_token():
    assert detokenise([39, 20, 37, 0, 20, 0]) == "CCl"


# --- The codec ------------------------------------------------------------------------------------


def test_codec_encodes_canonical_molecules(weights):
    codec = small_codec(weights)
    smiles = ["OCCCC", "C[C@H](N)C(=O)O.Cl", "c1ccccc1Br"]
    canonical = ["CCCCO", "CC(N)C(=O)O", "Brc1ccccc1"]
    codes = codec.encode(smiles)
    assert codes.dtype == np.float32
    expected = [encode_one(weights, tokenise(text)) for text in canonical]
    np.testing.assert_allclose(codes, expected, atol=1e-5)


def test_molecule_with_characters_that_are_no_tokens(weights):
    with pytest.warns(UserWarning, match=r"1 of 2 .*\(1 with characters that CDDD has no token"):
        codes = small_codec(weights).encode(["CCCCO", "c1ccbcc1CCC"])
    np.testing.assert_array_equal(np.isnan(codes).any(axis=1), [False, True])
    np.testing.assert_array_equal(np.isnan(codes).all(axis=1), [False, True])


def test_codec_decodes_what_the_search_finds():
    weights = random_weights(3)
    codec = small_codec(weights)
    codes = codes_of(3, 9).astype(np.float32)
    for beam in (1, 4):
        expected = [beam_one(weights, code, beam, 8)[0] for code in codes.astype(np.float64)]
        texts = codec.decode(codes, beam=beam, max_length=8)
        assert texts == [
            "".join(cddd.TOKENS[token] for token in tokens if token != 39) for tokens in expected
        ]
    assert len(set(texts)) > 1


def test_batches_of_the_decoder_have_no_influence(weights, monkeypatch):
    codec = small_codec(weights)
    codes = codes_of(4, 7)
    expected = codec.decode(codes, beam=3, max_length=10)
    monkeypatch.setattr(cddd, "BEAMS_AT_ONCE", 6)
    assert codec.decode(codes, beam=3, max_length=10) == expected
    monkeypatch.setattr(cddd, "BEAMS_AT_ONCE", 1)
    assert codec.decode(codes, beam=3, max_length=10) == expected
    assert codec.decode(codes[:0]) == []


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.filterwarnings("error")
def test_codes_are_decoded_in_any_form(weights, form):
    codec = small_codec(weights)
    codes = (np.round(codes_of(8, 5) * 64) / 64).astype(np.float32)
    expected = codec.decode(codes, beam=3, max_length=10)
    assert codec.decode(FORMS[form](codes.copy()), beam=3, max_length=10) == expected


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_the_default_type_of_torch_plays_no_role(weights, tmp_path, dtype):
    path = save(tmp_path / "weights.npz", weights)
    codec = load_codec("cddd", weights=path, check_digest=False)
    codes = codec.encode(["CCCCO", "c1ccccc1C"])
    expected = codec.decode(codes, beam=3, max_length=10)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        for one in (codec, load_codec("cddd", weights=path, check_digest=False)):
            np.testing.assert_array_equal(one.encode(["CCCCO", "c1ccccc1C"]), codes)
            assert one.decode(codes, beam=3, max_length=10) == expected
    finally:
        torch.set_default_dtype(before)


def test_default_beam_is_ten(weights):
    codec = small_codec(weights)
    codes = codes_of(6, 20)
    texts = codec.decode(codes, max_length=12)
    assert texts == codec.decode(codes, beam=10, max_length=12)
    assert texts != codec.decode(codes, beam=1, max_length=12)


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (np.zeros(4), r"shape \[n, 4\], got \[4\]"),
        (np.zeros((2, 5)), r"shape \[n, 4\], got \[2, 5\]"),
        (np.array([[0.0] * 4, [0, np.nan, 0, 0], [0, 0, np.inf, 0]]), "2 of 3 rows are not: 1, 2"),
        (np.full((1, 4), 1e300), "1 of 1 rows are not: 0"),
    ],
)
def test_decode_refuses(weights, codes, message):
    with pytest.raises(ValueError, match=message):
        small_codec(weights).decode(codes)


@pytest.mark.parametrize("options", [{"beam": 0}, {"max_length": 0}])
def test_decode_refuses_options(weights, options):
    with pytest.raises(ValueError, match="at least 1"):
        small_codec(weights).decode(np.zeros((1, 4)), **options)


def test_other_vocabulary_is_refused():
    with pytest.raises(ValueError, match="40 tokens, got 8"):
        CDDDCodec(CDDDNetwork(8, 2, (2, 2), 2), "test")


# --- Files of weights -----------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.float16])
def test_own_weights(weights, tmp_path, dtype):
    path = save(tmp_path / "own.npz", weights, **{k: v.astype(dtype) for k, v in weights.items()})
    codec = load_codec("cddd", weights=path, check_digest=False)
    rounded = {name: value.astype(dtype).astype(np.float64) for name, value in weights.items()}
    expected = [encode_one(rounded, tokenise("CCCCO"))]
    np.testing.assert_allclose(codec.encode(["CCCCO"]), expected, atol=1e-5)
    assert codec.name == "cddd"
    assert codec.dimensions == 4
    assert hashlib.sha256(path.read_bytes()).hexdigest() in codec.digest


def test_weights_are_found_in_the_data_folder(weights, tmp_path, monkeypatch):
    folder = tmp_path / "cddd"
    folder.mkdir()
    path = save(folder / "default_model_params.npz", weights)
    monkeypatch.setattr(cddd, "SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    assert load_codec("cddd", data_dir=tmp_path).dimensions == 4
    assert cddd.find_weights_fault(path) is None
    monkeypatch.setenv("CONVEXINIT_DATA", str(tmp_path))
    assert load_codec("cddd").dimensions == 4
    assert load_codec("cddd", weights=str(path)).dimensions == 4


def test_missing_weights(tmp_path, monkeypatch):
    monkeypatch.setenv("CONVEXINIT_DATA", str(tmp_path / "no data"))
    message = fault_of(load_codec, "cddd")
    assert "fault: missing" in message
    file = tmp_path / "no data/cddd/default_model_params.npz"
    assert f"curl --location --create-dirs --output '{file}' {cddd.URL}" in message


def test_other_digest(weights, tmp_path):
    path = save(tmp_path / "own.npz", weights)
    assert cddd.find_weights_fault(tmp_path / "absent") == "missing"
    assert "not the published weights" in cddd.find_weights_fault(path)
    message = fault_of(load_codec, "cddd", weights=path)
    assert "0c4bd08a593c78221c20506eca8e8b88b823b98e65ef3b3784ed4a63f266bd23" in message
    assert hashlib.sha256(path.read_bytes()).hexdigest() in message
    assert "curl" in message
    assert "check_digest=False" in message


class Trap:
    """Leaves a trace when it is unpickled."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self):
        return Path.touch, (self.place,)


def test_weights_of_another_form(weights, tmp_path):
    def fault(**changes):
        path = save(tmp_path / "changed.npz", weights, **changes)
        return fault_of(load_codec, "cddd", weights=path, check_digest=False)

    kernel = weights["encoder.layer1.gate_kernel"]
    assert "lacks encoder.layer1.gate_kernel (1 in all)" in fault(
        **{"encoder.layer1.gate_kernel": None}
    )
    for name in ("embedding.table", "encoder.layer0.candidate_bias", "encoder.bottleneck_bias"):
        assert f"lacks {name}" in fault(**{name: None})
    assert "has besides CDDD's weights extra (1 in all)" in fault(extra=np.zeros(1))
    assert "gate_kernel is float64 [14, 13], expected floating point [13, 14]" in fault(
        **{"encoder.layer1.gate_kernel": kernel.T}
    )
    assert "gate_kernel is int64" in fault(**{"encoder.layer1.gate_kernel": kernel.astype(int)})
    assert "embedding.table is float64 [39, 5]" in fault(
        **{"embedding.table": weights["embedding.table"][1:]}
    )
    assert "embedding.table is float64 []" in fault(**{"embedding.table": np.array(0.0)})
    for value in (np.nan, np.inf, 1e300):
        spoilt = kernel.copy()
        spoilt[3, 4] = value
        assert "gate_kernel has values that are not finite" in fault(
            **{"encoder.layer1.gate_kernel": spoilt}
        )
    trace = tmp_path / "trace"
    trap = np.array([Trap(trace)], dtype=object)
    assert "not an .npz archive of numbers" in fault(**{"encoder.layer1.gate_kernel": trap})
    assert not trace.exists()


def test_damaged_weights(weights, tmp_path):
    path = save(tmp_path / "damaged.npz", weights)
    content = path.read_bytes()
    flipped = bytearray(content)
    flipped[len(content) // 2] ^= 1
    array = io.BytesIO()
    np.save(array, np.zeros(3))
    for damaged in (content[: len(content) // 2], bytes(flipped), b"", b"text", array.getvalue()):
        path.write_bytes(damaged)
        message = fault_of(load_codec, "cddd", weights=path, check_digest=False)
        assert "not an .npz archive of numbers" in message
    assert "not readable" in fault_of(load_codec, "cddd", weights=tmp_path)


def fault_of(function, *arguments, **options) -> str:
    with pytest.raises(WeightsError) as caught:
        function(*arguments, **options)
    message = str(caught.value)
    assert message.count("\n") < 10
    return message


# --- The published weights, where they are --------------------------------------------------------

PLACES = [
    Path(os.environ.get("CONVEXINIT_CDDD", "")),
    *(folder / cddd.WEIGHTS for folder in (real_data_dir(), ROOT / "data")),
]
PUBLISHED = next((place for place in PLACES if place.is_file()), None)


@pytest.mark.skipif(
    PUBLISHED is None,
    reason="the published CDDD weights are not here; python scripts/download_data.py cddd, or set "
    "CONVEXINIT_CDDD to the file",
)
def test_published_weights_reconstruct_molecules():
    smiles = [
        "CC(=O)Oc1ccccc1C(=O)O",  # aspirin
        "CC(C)Cc1ccc(C(C)C(=O)O)cc1",  # ibuprofen
        "Cn1c(=O)c2c(ncn2C)n(C)c1=O",  # caffeine
        "CC(=O)Nc1ccc(O)cc1",  # paracetamol
        "CCN(CC)CCNC(=O)c1ccc(N)cc1",  # procainamide
    ]
    codec = load_codec("cddd", weights=PUBLISHED)
    codes = codec.encode(smiles)
    assert codes.shape == (5, 512)
    assert np.abs(codes).max() <= 1
    decoded = [item.smiles for item in codec.prepare(codec.decode(codes))]
    expected = [item.smiles for item in codec.prepare(smiles)]
    assert sum(a == b for a, b in zip(decoded, expected, strict=True)) >= 4


def test_pattern_is_that_of_the_reference():
    pattern = re.compile(r"Cl|Br|[#%\)\(\+\-1032547698:=@CBFIHONPS\[\]cionps]")
    characters = [chr(number) for number in range(32, 127)]
    for text in (*characters, *(a + b for a in characters for b in characters)):
        tokens = pattern.findall(text)
        assert (tokenise(text) is not None) == ("".join(tokens) == text)
