"""CDDD, continuous and data-driven descriptors of molecules (Winter et al. 2019), in PyTorch.

A sequence-to-sequence network that was trained to translate any SMILES of a molecule into the
canonical one. The code is the state in between. This is the published network, for its published
weights, which a user has to download; networks of other sizes work the same way.
"""

from __future__ import annotations

import itertools
import shlex
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

from convexinit.checks import check_integer
from convexinit.molecules.chemistry import RULES
from convexinit.molecules.codec import Codec, check_codes
from convexinit.molecules.tokens import split_symbols
from convexinit.molecules.weights import WeightsError, fault_of, read_arrays

# The converted weights, about 200 MB.
URL = (
    "https://github.com/OlivierBeq/jax-cddd/releases/download/model_weights/"
    "default_model_params.npz"
)
SHA256 = "0c4bd08a593c78221c20506eca8e8b88b823b98e65ef3b3784ed4a63f266bd23"
WEIGHTS = Path("cddd/default_model_params.npz")  # in the data folder

# The number of a token is its place; the order is that of the published weights. The first token
# ends a sequence, the last one starts it.
TOKENS = ("</s>", *"#%)(+-1032547698:=@CBFIHONPS[]cionps", "Cl", "Br", "<s>")
_END = 0
_NUMBERS = {token: number for number, token in enumerate(TOKENS)}

BEAM = 10
# 50 heavy atoms, each in brackets with hydrogens and a charge, would still fit.
MAX_LENGTH = 256
BEAMS_AT_ONCE = 1024


def tokenise(smiles: str) -> list[int] | None:
    """Token numbers of a SMILES, without start and end; None if it has characters without token.

    Example:
        >>> tokenise("CCl"), tokenise("[Na]C")
        ([20, 37], None)
    """
    symbols = split_symbols(smiles)
    return None if symbols is None else [_NUMBERS[symbol] for symbol in symbols]


def detokenise(numbers: Sequence[int]) -> str:
    """Text of token numbers up to the first end; start tokens are left out.

    Example:
        >>> detokenise([20, 37, 0, 20])
        'CCl'
    """
    return "".join(TOKENS[number] for number in _until_end(numbers) if TOKENS[number] != "<s>")


def _until_end(numbers: Sequence[int]) -> list[int]:
    return list(itertools.takewhile(lambda number: number != _END, numbers))


class GRULayer(nn.Module):
    """Gated recurrent layer as TensorFlow defined it, which is not ``torch.nn.GRU``.

    Of the gates, reset comes before update; the reset gate multiplies the state before the matrix
    product, not after it::

        r, u = split(sigmoid([x, h] gate_kernel + gate_bias))
        c = tanh([x, r * h] candidate_kernel + candidate_bias)
        h' = u * h + (1 - u) * c

    Args:
        inputs: size of each input x.
        hidden: size of the state h.
    """

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.inputs = inputs
        self.gate_kernel = nn.Parameter(torch.empty(inputs + hidden, 2 * hidden))
        self.gate_bias = nn.Parameter(torch.ones(2 * hidden))
        self.candidate_kernel = nn.Parameter(torch.empty(inputs + hidden, hidden))
        self.candidate_bias = nn.Parameter(torch.zeros(hidden))
        nn.init.xavier_uniform_(self.gate_kernel)
        nn.init.xavier_uniform_(self.candidate_kernel)

    def project(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """What inputs ``[n, inputs]`` contribute to gates ``[n, 2 * hidden]`` and candidates."""
        return (
            torch.addmm(self.gate_bias, inputs, self.gate_kernel[: self.inputs]),
            torch.addmm(self.candidate_bias, inputs, self.candidate_kernel[: self.inputs]),
        )

    def step(self, gates: Tensor, candidate: Tensor, state: Tensor) -> Tensor:
        """Next state ``[n, hidden]`` from projected inputs and the state ``[n, hidden]``."""
        gates = torch.addmm(gates, state, self.gate_kernel[self.inputs :]).sigmoid()
        reset, update = gates.chunk(2, dim=1)
        kernel = self.candidate_kernel[self.inputs :]
        candidate = torch.addmm(candidate, reset * state, kernel).tanh()
        return torch.lerp(candidate, state, update)

    def forward(self, inputs: Tensor, sizes: list[int], state: Tensor) -> Tensor:
        """States after each step, for packed sequences, the longest first.

        Args:
            inputs: ``[steps of all sequences, inputs]``: the first step of every sequence, then
                the second of every sequence that has one, and so on.
            sizes: number of sequences that have a first step, a second step, and so on.
            state: initial ``[sequences, hidden]``.

        Returns:
            ``[steps of all sequences, hidden]``, in the order of the inputs.
        """
        gates, candidates = self.project(inputs)  # of all steps in one product
        states = []
        for gate, candidate in zip(gates.split(sizes), candidates.split(sizes), strict=True):
            # Sequences that have ended drop out, and with them their rows.
            state = self.step(gate, candidate, state[: len(gate)])
            states.append(state)
        return torch.cat(states)


class _Embedding(nn.Module):
    """Table ``[vocabulary, size]`` of token embeddings."""

    def __init__(self, vocabulary: int, size: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(vocabulary, size))
        nn.init.xavier_uniform_(self.table)


class _Encoder(nn.Module):
    """Stacked recurrent layers, whose final states become the code."""

    def __init__(self, embedding: int, hidden: Sequence[int], code: int) -> None:
        super().__init__()
        self.layers = _add_layers(self, embedding, hidden)
        self.bottleneck_kernel = nn.Parameter(torch.empty(sum(hidden), code))
        self.bottleneck_bias = nn.Parameter(torch.zeros(code))
        nn.init.xavier_uniform_(self.bottleneck_kernel)

    def forward(self, signal: Tensor, sizes: list[int]) -> Tensor:
        """Codes ``[n, code]`` for packed sequences, see :class:`GRULayer`."""
        last = _last_steps(sizes).to(signal.device)
        finals = []
        for layer in self.layers:
            initial = signal.new_zeros(sizes[0], len(layer.candidate_bias))
            signal = layer(signal, sizes, initial)
            finals.append(signal[last])
        return torch.addmm(
            self.bottleneck_bias, torch.cat(finals, dim=1), self.bottleneck_kernel
        ).tanh()


class _Decoder(nn.Module):
    """Stacked recurrent layers that start from the code and predict token after token."""

    def __init__(self, embedding: int, hidden: Sequence[int], code: int, vocabulary: int) -> None:
        super().__init__()
        self.hidden = list(hidden)
        self.layers = _add_layers(self, embedding, hidden)
        self.init_state_kernel = nn.Parameter(torch.empty(code, sum(hidden)))
        self.init_state_bias = nn.Parameter(torch.zeros(sum(hidden)))
        self.output_proj_kernel = nn.Parameter(torch.empty(hidden[-1], vocabulary))
        nn.init.xavier_uniform_(self.init_state_kernel)
        nn.init.xavier_uniform_(self.output_proj_kernel)

    def initial_states(self, codes: Tensor) -> list[Tensor]:
        """States ``[n, hidden]`` of every layer for codes ``[n, code]``."""
        states = torch.addmm(self.init_state_bias, codes, self.init_state_kernel)
        return list(states.split(self.hidden, dim=1))

    def forward(
        self, signal: Tensor, sizes: list[int], states: Sequence[Tensor]
    ) -> tuple[Tensor, list[Tensor]]:
        """Logits ``[steps, vocabulary]`` and states ``[steps, hidden]``, as :class:`GRULayer`."""
        after = []
        for layer, state in zip(self.layers, states, strict=True):
            signal = layer(signal, sizes, state)
            after.append(signal)
        return signal @ self.output_proj_kernel, after


def _add_layers(module: nn.Module, inputs: int, hidden: Sequence[int]) -> list[GRULayer]:
    """Layers ``layer0``, ``layer1``, ...: the names that the weights have in their file."""
    layers = [GRULayer(*sizes) for sizes in pairwise([inputs, *hidden])]
    for index, layer in enumerate(layers):
        module.add_module(f"layer{index}", layer)
    return layers


def _last_steps(sizes: list[int]) -> Tensor:
    """Place of the last step of each sequence, ``[n]``, among the steps of packed sequences."""
    running = torch.tensor(sizes)
    sequences = torch.arange(sizes[0])
    lengths = (running.unsqueeze(1) > sequences).sum(0)
    starts = running.cumsum(0) - running
    return starts[lengths - 1] + sequences


class CDDDNetwork(nn.Module):
    """The network on token numbers. Parameters have the names of the published weights.

    The first token of the vocabulary ends a sequence, the last one starts it.

    Args:
        vocabulary: number of tokens.
        embedding: size of the token embedding, which encoder and decoder share.
        hidden: sizes of the recurrent layers, from the first to the last.
        code: length of the code.

    Example:
        >>> network = CDDDNetwork(vocabulary=6, embedding=3, hidden=[4, 5], code=2)
        >>> network.encode([[1, 2, 3], [4]]).shape
        torch.Size([2, 2])
    """

    def __init__(
        self,
        vocabulary: int = len(TOKENS),
        embedding: int = 32,
        hidden: Sequence[int] = (512, 1024, 2048),
        code: int = 512,
    ) -> None:
        super().__init__()
        self.start = vocabulary - 1
        self.embedding = _Embedding(vocabulary, embedding)
        self.encoder = _Encoder(embedding, hidden, code)
        self.decoder = _Decoder(embedding, hidden, code, vocabulary)

    def encode(self, sequences: Sequence[Sequence[int]]) -> Tensor:
        """Codes ``[n, code]`` of token sequences, given without start and end.

        The result for a sequence does not depend on the others.
        """
        rows = [torch.tensor([self.start, *tokens, _END]) for tokens in sequences]
        tokens, sizes, _, backwards = _pack(rows, self.embedding.table.device)
        return self.encoder(self.embedding.table[tokens], sizes)[backwards]

    def log_likelihood(self, codes: Tensor, sequences: Sequence[Sequence[int]]) -> Tensor:
        """Log-probability ``[n]`` in nats that a code ``[n, code]`` is decoded into a sequence.

        Args:
            codes: on the device of the network.
            sequences: one for each code, without start and end; the end is part of the
                probability.
        """
        # What goes in beside what has to come out, so that both are packed in the same order.
        rows = [torch.tensor(list(pairwise([self.start, *tokens, _END]))) for tokens in sequences]
        pairs, sizes, order, backwards = _pack(rows, codes.device)
        inputs, targets = pairs.unbind(1)
        states = self.decoder.initial_states(codes[order])
        logits, _ = self.decoder(self.embedding.table[inputs], sizes, states)
        steps = logits.log_softmax(dim=1).gather(1, targets.unsqueeze(1)).squeeze(1)
        sequence_of_step = torch.cat([torch.arange(size) for size in sizes]).to(codes.device)
        totals = steps.new_zeros(len(codes)).index_add(0, sequence_of_step, steps)
        return totals[backwards]

    @torch.no_grad()
    def search(self, codes: Tensor, beam: int = BEAM, limit: int = MAX_LENGTH) -> list[list[int]]:
        """The sequence of the highest probability that a beam search finds for each code.

        In each step the ``beam`` most likely sequences go on; those that have ended stay among
        them. Of equally likely ones, that of the better beam comes first, then that of the lower
        token. A beam of one is the greedy search.

        Args:
            codes: ``[n, code]``, on the device of the network.
            beam: how many sequences go on.
            limit: on the length of a sequence with its end; what has not ended there is cut.

        Returns:
            Token numbers without start and end, one list for each code.
        """
        count, vocabulary = len(codes), len(self.embedding.table)
        found: list[list[int]] = [[] for _ in range(count)]
        pending = torch.arange(count, device=codes.device)
        states = [s.repeat_interleave(beam, 0) for s in self.decoder.initial_states(codes)]
        # At the start all beams are the same: only the first one counts. Sums in float64, so that
        # rounding does not decide between the tokens of an unlikely sequence.
        scores = codes.new_full((count, beam), -torch.inf, dtype=torch.float64)
        scores[:, 0] = 0.0
        history = torch.full((count, beam, 1), self.start, device=codes.device)
        only_end = codes.new_full((vocabulary,), -torch.inf, dtype=torch.float64)
        only_end[_END] = 0.0
        for _ in range(limit):
            if len(pending) == 0:
                break
            last = history[:, :, -1]
            signal = self.embedding.table[last.flatten()]
            logits, states = self.decoder(signal, [len(signal)], states)
            steps = logits.double().log_softmax(1).view(-1, beam, vocabulary)
            steps = torch.where((last == _END).unsqueeze(2), only_end, steps)
            totals = (scores.unsqueeze(2) + steps).flatten(1)
            ordered = totals.sort(dim=1, descending=True, stable=True)  # equal ones as they come
            scores, order = (part[:, :beam] for part in ordered)
            parents, tokens = order // vocabulary, order % vocabulary
            rows = torch.arange(len(parents), device=codes.device).unsqueeze(1)
            history = torch.cat([history[rows, parents], tokens.unsqueeze(2)], dim=2)
            # Probabilities only fall, so that an ended sequence in the first place stays there.
            going_on = tokens[:, 0] != _END
            for place, sequence in zip(
                pending[~going_on].tolist(), history[~going_on, 0, 1:].tolist(), strict=True
            ):
                found[place] = _until_end(sequence)
            sources = (rows * beam + parents)[going_on].flatten()
            states = [state[sources] for state in states]
            pending, scores, history = (part[going_on] for part in (pending, scores, history))
        for place, sequence in zip(pending.tolist(), history[:, 0, 1:].tolist(), strict=True):
            found[place] = _until_end(sequence)
        return found


def _pack(rows: list[Tensor], device: torch.device) -> tuple[Tensor, list[int], Tensor, Tensor]:
    """Packed steps of sequences, the sizes of the steps (see :class:`GRULayer`), and two orders.

    Returns:
        Steps, sizes, the order in which the sequences are packed, and the way back.
    """
    packed = pack_sequence(rows, enforce_sorted=False)
    order = cast("Tensor", packed.sorted_indices).to(device)
    return packed.data.to(device), packed.batch_sizes.tolist(), order, order.argsort()


class CDDDCodec(Codec):
    """Molecules to CDDD codes and back.

    Args:
        network: for the vocabulary :data:`TOKENS`.
        digest: identifies its weights; that of the codec names the rules as well.
        device: to compute on.

    Raises:
        ValueError: if the network has another vocabulary.
    """

    name = "cddd"

    def __init__(
        self, network: CDDDNetwork, digest: str, device: str | torch.device = "cpu"
    ) -> None:
        if len(network.embedding.table) != len(TOKENS):
            raise ValueError(
                f"the network must have {len(TOKENS)} tokens, got {len(network.embedding.table)}"
            )
        self.network = network.to(device).requires_grad_(False)
        self.digest = f"cddd-{digest}-rules-{RULES}"
        self.dimensions = len(network.encoder.bottleneck_bias)

    @torch.inference_mode()
    def _encode_canonical(self, canonical: list[str]) -> np.ndarray:
        sequences = [tokens for text in canonical if (tokens := tokenise(text)) is not None]
        return self.network.encode(sequences).cpu().numpy()

    def _refusal(self, canonical: str) -> str | None:
        return "with characters that CDDD has no token for" if tokenise(canonical) is None else None

    def decode(
        self, codes: ArrayLike | Tensor, beam: int = BEAM, max_length: int = MAX_LENGTH
    ) -> list[str]:
        """Most likely string for each code ``[n, dimensions]``, valid SMILES or not.

        Args:
            codes: any finite numbers, as an array, a tensor or a list; codes of molecules lie
                between -1 and 1.
            beam: width of the beam search; 1 is the greedy search, which is faster.
            max_length: in tokens, the end included; longer strings are cut.

        Raises:
            ValueError: codes of another shape or that are not finite; ``beam`` or ``max_length``
                below 1 or no integer.
        """
        beam, max_length = check_integer("beam", beam), check_integer("max_length", max_length)
        inputs = torch.from_numpy(check_codes(codes, self.dimensions))
        device = self.network.embedding.table.device
        return [
            detokenise(numbers)
            for batch in inputs.split(max(1, BEAMS_AT_ONCE // beam))
            for numbers in self.network.search(batch.to(device), beam, max_length)
        ]


def load(weights: Path, check_digest: bool = True, device: str | torch.device = "cpu") -> CDDDCodec:
    """The codec with weights from a file. No code in the file is executed.

    Args:
        weights: the ``.npz`` file.
        check_digest: whether it must be the published file. False for weights of one's own, whose
            sizes may differ.
        device: to compute on.

    Raises:
        WeightsError: if the file is missing, damaged or another one.
    """
    try:
        arrays, digest = read_arrays(weights, SHA256 if check_digest else None)
        network = build_network(arrays)
    except (OSError, ValueError) as error:
        file = shlex.quote(str(weights.resolve()))
        raise WeightsError(
            "CDDD",
            weights,
            error,
            f"To download them:  curl --location --create-dirs --output {file} {URL}",
            'Or name the file:  load_codec("cddd", weights=...); other weights than the published',
            "ones need check_digest=False.",
        ) from error
    return CDDDCodec(network, digest, device)


def find_weights_fault(path: Path) -> str | None:
    """What is wrong with a file of the published weights, in a few words; None if it is right."""
    try:
        read_arrays(path, SHA256)
    except (OSError, ValueError) as error:
        return fault_of(error)
    return None


def build_network(arrays: dict[str, np.ndarray]) -> CDDDNetwork:
    """The network of these weights, whose sizes follow from their shapes.

    Raises:
        ValueError: if a weight is missing, too many, or of a wrong shape or type.
    """
    sizes = _sizes(arrays)
    with torch.device("meta"):  # shapes alone: the values come from the arrays
        network = CDDDNetwork(**sizes)
    expected = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
    for fault, names in (
        ("lacks", expected.keys() - arrays.keys()),
        ("has besides CDDD's weights", arrays.keys() - expected.keys()),
    ):
        if names:
            raise ValueError(f"it {fault} {', '.join(sorted(names)[:3])} ({len(names)} in all)")
    state = {}
    for name, shape in expected.items():
        array = arrays[name]
        if array.dtype.kind != "f" or list(array.shape) != shape:
            raise ValueError(
                f"{name} is {array.dtype} {list(array.shape)}, expected floating point {shape}"
            )
        with np.errstate(over="ignore"):
            array = np.ascontiguousarray(array, dtype=np.float32)
        if not np.isfinite(array).all():
            raise ValueError(f"{name} has values that are not finite")
        state[name] = torch.from_numpy(array)
    network.load_state_dict(state, assign=True)
    return network


def _sizes(arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Arguments of :class:`CDDDNetwork`, the published ones where a weight that tells is absent."""
    sizes: dict[str, Any] = {}
    table = arrays.get("embedding.table")
    if table is not None and table.ndim == 2:
        sizes["embedding"] = table.shape[1]
    names = (f"encoder.layer{index}.candidate_bias" for index in itertools.count())
    hidden = [arrays[name].size for name in itertools.takewhile(arrays.__contains__, names)]
    if hidden:
        sizes["hidden"] = hidden
    bias = arrays.get("encoder.bottleneck_bias")
    if bias is not None:
        sizes["code"] = bias.size
    return sizes
