"""Our own translation autoencoder: random SMILES in, canonical SMILES out, 512 numbers between.

The idea is that of CDDD (Winter et al. 2019): whoever translates any spelling of a molecule into
its canonical one has understood the molecule and not its spelling. Sequences are short, because
frequent groups of symbols are single tokens (:mod:`convexinit.molecules.tokens`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import ArrayLike
from torch import Tensor, nn

from convexinit.checks import check_integer
from convexinit.molecules.chemistry import RULES, canonical
from convexinit.molecules.codec import Codec, check_codes
from convexinit.molecules.tokens import END, NO_TOKEN, PADDING, START, Vocabulary, split_symbols
from convexinit.molecules.weights import WeightsError, read_arrays

# The weights that come with the package.
WEIGHTS = Path(__file__).with_name("autoencoder.npz")

LONGEST = 120  # tokens that decoding writes at most
ROWS = 512  # sequences that are encoded or decoded at once


@dataclass(frozen=True)
class Sizes:
    """Sizes of the network, all at least 1.

    Attributes:
        dimensions: of the code.
        embedding: units of a token's embedding.
        encoder: units of both recurrent layers of the encoder.
        decoder: units of both recurrent layers of the decoder.
        context: units of the projected code that the decoder sees at every step.
    """

    dimensions: int
    embedding: int
    encoder: int
    decoder: int
    context: int

    def __post_init__(self) -> None:
        for name, value in asdict(self).items():
            check_integer(name, value)


class Autoencoder(nn.Module):
    """Two recurrent layers on either side of a code in (-1, 1).

    Args:
        sizes: of all layers.
        tokens: size of the vocabulary.
        properties: number of molecular properties that are predicted from the code in training.
    """

    def __init__(self, sizes: Sizes, tokens: int, properties: int) -> None:
        super().__init__()
        self.sizes = sizes
        self.embedding = nn.Embedding(tokens, sizes.embedding, padding_idx=PADDING)
        # One module a layer, because the last state is read off at each sequence's own end.
        self.encoder1 = nn.GRU(sizes.embedding, sizes.encoder, batch_first=True)
        self.encoder2 = nn.GRU(sizes.encoder, sizes.encoder, batch_first=True)
        self.bottleneck = nn.Linear(2 * sizes.encoder, sizes.dimensions)
        self.context = nn.Linear(sizes.dimensions, sizes.context)
        self.decoder = nn.GRU(
            sizes.embedding + sizes.context, sizes.decoder, num_layers=2, batch_first=True
        )
        self.output = nn.Linear(sizes.decoder, tokens)
        self.properties = nn.Linear(sizes.dimensions, properties)

    def encode(self, tokens: Tensor, lengths: Tensor) -> Tensor:
        """Codes ``[n, dimensions]`` in (-1, 1).

        Args:
            tokens: ``[n, longest]``, padded at the end.
            lengths: ``[n]`` tokens of every sequence, at least 1.
        """
        states = self.encoder2(self.encoder1(self.embedding(tokens))[0])[0]
        inside = torch.arange(tokens.shape[1], device=tokens.device) < lengths[:, None]
        mean = (states * inside[..., None]).sum(1) / lengths[:, None]
        last = states[torch.arange(len(tokens), device=tokens.device), lengths - 1]
        return torch.tanh(self.bottleneck(torch.cat([last, mean.to(last.dtype)], 1)))

    def logits(self, codes: Tensor, tokens: Tensor) -> Tensor:
        """Scores ``[n, length, tokens]`` of the token that follows each prefix (teacher forcing).

        Args:
            codes: ``[n, dimensions]``.
            tokens: ``[n, length]``, beginning with the start token.
        """
        return self.step(self.context(codes), tokens, None)[0]

    def step(self, context: Tensor, tokens: Tensor, state: Tensor | None) -> tuple[Tensor, Tensor]:
        """Read tokens ``[n, length]``; scores ``[n, length, tokens]`` and the state after them."""
        embedded = self.embedding(tokens)
        repeated = context[:, None].expand(-1, tokens.shape[1], -1).to(embedded.dtype)
        outputs, state = self.decoder(torch.cat([embedded, repeated], 2), state)
        return self.output(outputs), state


def translation_loss(
    network: Autoencoder,
    inputs: Tensor,
    lengths: Tensor,
    targets: Tensor,
    properties: Tensor,
    noise: Tensor,
) -> tuple[Tensor, Tensor]:
    """Mean cross-entropy per token (nats), and mean squared error of the properties.

    Args:
        network: the autoencoder.
        inputs: ``[n, longest]`` tokens of some spelling of each molecule.
        lengths: ``[n]`` their lengths.
        targets: ``[n, longest + 2]`` canonical spelling between start and end, padded.
        properties: ``[n, properties]``, of mean 0 and variance 1.
        noise: ``[n, dimensions]``, added to the codes.
    """
    codes = network.encode(inputs, lengths)
    guess = network.properties(codes)
    logits = network.logits(codes + noise, targets[:, :-1])
    translation = F.cross_entropy(
        logits.float().flatten(0, 1), targets[:, 1:].flatten(), ignore_index=PADDING
    )
    return translation, F.mse_loss(guess.float(), properties)


def tokenise(vocabulary: Vocabulary, canonical: Sequence[str]) -> list[list[int]]:
    """What the encoder reads: the tokens of each SMILES and the end token."""
    return [[*vocabulary.encode(text), END] for text in canonical]


def padded(sequences: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Token sequences as one array ``[n, longest]`` padded at the end, and their lengths."""
    lengths = torch.tensor([len(sequence) for sequence in sequences])
    tokens = torch.full((len(sequences), int(lengths.max())), PADDING)
    for row, sequence in enumerate(sequences):
        tokens[row, : len(sequence)] = torch.tensor(sequence)
    return tokens, lengths


@torch.inference_mode()
def encode_tokens(network: Autoencoder, sequences: Sequence[Sequence[int]]) -> Tensor:
    """Codes ``[n, dimensions]`` of token sequences, in batches of similar length."""
    device = network.embedding.weight.device
    codes = torch.empty(
        len(sequences), network.sizes.dimensions, device=device, dtype=torch.float32
    )
    order = sorted(range(len(sequences)), key=lambda row: len(sequences[row]))
    for start in range(0, len(order), ROWS):
        rows = order[start : start + ROWS]
        tokens, lengths = padded([sequences[row] for row in rows])
        codes[rows] = network.encode(tokens.to(device), lengths.to(device))
    return codes


@torch.inference_mode()
def greedy(network: Autoencoder, codes: Tensor) -> list[list[int]]:
    """The most likely token at every step, up to the end token or :data:`LONGEST` tokens."""
    results: list[list[int]] = []
    for part in codes.split(ROWS):
        context, state = network.context(part), None
        tokens = torch.full((len(part), 1), START, device=codes.device)
        written = torch.full((len(part), LONGEST), END, device=codes.device)
        open_rows = torch.arange(len(part), device=codes.device)
        for position in range(LONGEST):
            scores, state = network.step(context, tokens, state)
            tokens = scores[:, -1].argmax(1, keepdim=True)
            written[open_rows, position] = tokens[:, 0]
            going = tokens[:, 0] != END
            if not going.any():
                break
            # Finished sequences leave the batch: most are half as long as the longest.
            open_rows, tokens, context = open_rows[going], tokens[going], context[going]
            state = state[:, going].contiguous()
        results += written.tolist()
    return results


@torch.inference_mode()
def beam_search(network: Autoencoder, codes: Tensor, width: int) -> list[list[list[int]]]:
    """The ``width`` most likely sequences that a beam finds for each code, the best one first.

    Hypotheses are compared by their total log-likelihood. A search ends when all are complete, or
    at :data:`LONGEST` tokens.

    Args:
        network: the autoencoder.
        codes: ``[n, dimensions]``.
        width: hypotheses that are kept, at least 1.
    """
    results: list[list[list[int]]] = []
    for part in codes.split(max(ROWS // width, 1)):
        results += _beam_search(network, part, width)
    return results


def _beam_search(network: Autoencoder, codes: Tensor, width: int) -> list[list[list[int]]]:
    count = len(codes)
    context = network.context(codes).repeat_interleave(width, 0)
    tokens = torch.full((count * width, 1), START)
    state: Tensor | None = None
    written = torch.zeros(count, width, 0, dtype=torch.long)
    # At first all hypotheses are the same: only one counts.
    totals = torch.full((count, width), -torch.inf)
    totals[:, 0] = 0.0
    ended = torch.zeros(count, width, dtype=torch.bool)
    first = torch.arange(count)[:, None] * width
    for _ in range(LONGEST):
        scores, state = network.step(context, tokens, state)
        gains = scores[:, -1].log_softmax(1).view(count, width, -1)
        # A complete hypothesis goes on with its end token, at no cost.
        gains = gains.masked_fill(ended[..., None], -torch.inf)
        gains[..., END] = gains[..., END].masked_fill(ended, 0.0)
        vocabulary = gains.shape[-1]
        totals, places = (totals[..., None] + gains).flatten(1).topk(width, 1)
        parents, chosen = places // vocabulary, places % vocabulary
        written = torch.cat(
            [written.gather(1, parents[..., None].expand_as(written)), chosen[..., None]], 2
        )
        ended = chosen == END
        if ended.all():
            break
        rows = (first + parents).flatten()
        state, tokens = state[:, rows].contiguous(), chosen.view(-1, 1)
    return written.tolist()


def to_arrays(network: Autoencoder, vocabulary: Vocabulary) -> dict[str, np.ndarray]:
    """Weights (float16), sizes and vocabulary as arrays, which load without executing code."""
    weights = {
        f"weights.{name}": tensor.detach().half().numpy()
        for name, tensor in network.state_dict().items()
    }
    sizes = {f"sizes.{name}": np.array(value) for name, value in asdict(network.sizes).items()}
    return {**weights, **sizes, "tokens": np.array(vocabulary.tokens)}


def from_arrays(arrays: dict[str, np.ndarray]) -> tuple[Autoencoder, Vocabulary]:
    """Network (float32, for evaluation) and vocabulary written by :func:`to_arrays`.

    Raises:
        KeyError, TypeError, ValueError, RuntimeError: an array is missing, or has a wrong shape or
            type, or values that are not finite.
    """
    vocabulary = Vocabulary([str(token) for token in arrays["tokens"]])
    sizes = Sizes(**{name: int(arrays[f"sizes.{name}"]) for name in Sizes.__dataclass_fields__})
    with torch.device("meta"):  # shapes alone: drawing values would move torch's random state
        network = Autoencoder(sizes, len(vocabulary), len(arrays["weights.properties.bias"]))
    state = {
        name.removeprefix("weights."): torch.from_numpy(array).float()
        for name, array in arrays.items()
        if name.startswith("weights.")
    }
    for name, tensor in state.items():
        if not tensor.isfinite().all():
            raise ValueError(f"{name} has values that are not finite")
    network.load_state_dict(state, assign=True)
    return network.eval(), vocabulary


class AutoencoderCodec(Codec):
    """SMILES to codes in (-1, 1) and back.

    Args:
        network: a trained autoencoder, in evaluation mode.
        vocabulary: its tokens.
        digest: of the file that both come from; that of the codec names the rules as well.

    Example:
        >>> codec = load(WEIGHTS)
        >>> codec.decode(codec.encode(["OCC(=O)c1ccccc1"]))
        ['O=C(CO)c1ccccc1']
    """

    name = "autoencoder"

    def __init__(self, network: Autoencoder, vocabulary: Vocabulary, digest: str) -> None:
        self.network = network
        self.vocabulary = vocabulary
        self.dimensions = network.sizes.dimensions
        self.digest = f"{digest}-rules-{RULES}"

    def _encode_canonical(self, canonical: list[str]) -> np.ndarray:
        return encode_tokens(self.network, tokenise(self.vocabulary, canonical)).numpy()

    def _refusal(self, canonical: str) -> str | None:
        return None if split_symbols(canonical) else NO_TOKEN

    def decode(self, codes: ArrayLike | Tensor, beam: int = 1, nearest: bool = True) -> list[str]:
        """One string for each code ``[n, dimensions]``, valid SMILES or not.

        Args:
            codes: any finite numbers, as an array, a tensor or a list; codes of molecules lie
                between -1 and 1.
            beam: width of the beam search; 1 takes the most likely token at every step.
            nearest: of the molecules in a beam, take the one whose own code is nearest to the
                given one, instead of the most likely string. Where no string in the beam is a
                molecule, the most likely one is returned.

        Raises:
            ValueError: codes of another shape or that are not finite; ``beam`` below 1 or no
                integer.
        """
        beam = check_integer("beam", beam)
        inputs = torch.from_numpy(check_codes(codes, self.dimensions))
        if len(inputs) == 0:
            return []
        if beam == 1:
            return [self.vocabulary.decode(numbers) for numbers in greedy(self.network, inputs)]
        beams = [
            [self.vocabulary.decode(numbers) for numbers in hypotheses]
            for hypotheses in beam_search(self.network, inputs, beam)
        ]
        return self._nearest(inputs, beams) if nearest else [texts[0] for texts in beams]

    def _nearest(self, codes: Tensor, beams: list[list[str]]) -> list[str]:
        """Of the strings for each code the molecule with the nearest code, else the first."""
        forms = [[canonical(text) for text in texts] for texts in beams]
        known = {form for row in forms for form in row if form and split_symbols(form)}
        molecules = sorted(known)
        found = dict(
            zip(
                molecules,
                encode_tokens(self.network, tokenise(self.vocabulary, molecules)),
                strict=True,
            )
        )
        results = []
        for code, texts, row in zip(codes, beams, forms, strict=True):
            distances = [
                float((found[form] - code).square().sum()) if form in found else math.inf
                for form in row
            ]
            results.append(texts[distances.index(min(distances))])
        return results


def load(weights: Path) -> AutoencoderCodec:
    """The codec with weights from a file. No code in the file is executed.

    Args:
        weights: the ``.npz`` file that comes with the package, or the ``arrays.npz`` of a run of
            the experiment that trains the autoencoder.

    Raises:
        WeightsError: if the file is missing or damaged.
    """
    try:
        arrays, digest = read_arrays(weights)
        network, vocabulary = from_arrays(arrays)
    except Exception as error:  # numbers of any shape and type can be in the file
        advice = "In a checkout of the project, python run.py experiment=autoencoder trains others."
        raise WeightsError("the autoencoder", weights, error, advice) from error
    return AutoencoderCodec(network, vocabulary, digest[:16])
