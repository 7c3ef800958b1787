"""How good an autoencoder is on molecules that it was not trained on."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from torch import Tensor

from convexinit.molecules.autoencoder import (
    Autoencoder,
    AutoencoderCodec,
    encode_tokens,
    greedy,
    tokenise,
)
from convexinit.molecules.chemistry import canonical
from convexinit.molecules.tokens import Vocabulary
from convexinit_paper.data.corpus import Corpus

PAIRS = 200  # of molecules, for the codes between them
SEARCHES: dict[str, dict[str, Any]] = {
    "greedy": {"beam": 1},
    "beam": {"beam": 10, "nearest": False},
    "nearest of beam": {"beam": 10},
}
LENGTHS = (1, 21, 41, 61, 201)  # bounds of the reported ranges, in characters


def reconstruct(
    network: Autoencoder, vocabulary: Vocabulary, molecules: list[str]
) -> dict[str, float]:
    """Share of molecules that come back exactly, and share of valid strings (greedy decoding)."""
    return shares(judge(molecules, translate(network, vocabulary, molecules, greedy)))


Search = Callable[[Autoencoder, Tensor], list[list[int]]]


def translate(
    network: Autoencoder, vocabulary: Vocabulary, molecules: list[str], search: Search
) -> list[str]:
    """Encode and decode canonical SMILES."""
    written = search(network, encode_tokens(network, tokenise(vocabulary, molecules)))
    return [vocabulary.decode(numbers) for numbers in written]


def judge(molecules: list[str], decoded: list[str]) -> np.ndarray:
    """For each molecule whether it came back exactly, and whether the string is valid.

    Args:
        molecules: canonical SMILES.
        decoded: what became of each.

    Returns:
        bool ``[n, 2]``.
    """
    forms = [canonical(text) for text in decoded]
    exact = [form == molecule for form, molecule in zip(forms, molecules, strict=True)]
    return np.stack([exact, [form is not None for form in forms]], axis=1)


def shares(judgement: np.ndarray) -> dict[str, float]:
    """Shares of what :func:`judge` found."""
    exact, valid = judgement.mean(0)
    return {"exact": float(exact), "valid": float(valid)}


def assess(network: Autoencoder, corpus: Corpus, seed: int) -> dict[str, dict[str, float]]:
    """Quality on molecules that were never trained on.

    Returns:
        Metrics by set: "held_out" (all held-out molecules), each source, each range of lengths
        (characters of the canonical SMILES), and the sets of :func:`assess_searches`. Sources and
        ranges without molecules are left out.
    """
    molecules = sorted(set().union(*corpus.held_out.values()))
    judgement = judge(molecules, translate(network, corpus.vocabulary, molecules, greedy))
    row = {molecule: number for number, molecule in enumerate(molecules)}
    report = {"held_out": {**shares(judgement), "molecules": len(molecules)}}
    lengths = np.array([len(text) for text in molecules])
    parts = {name: [row[text] for text in texts] for name, texts in corpus.held_out.items()}
    for low, high in pairwise(LENGTHS):
        inside = (lengths >= low) & (lengths < high)
        parts[f"length {low} to {high - 1}"] = np.flatnonzero(inside).tolist()
    for name, rows in parts.items():
        if len(rows):
            report[name] = {**shares(judgement[rows]), "molecules": len(rows)}
    codec = AutoencoderCodec(network, corpus.vocabulary, digest="")
    return report | assess_searches(codec, molecules, seed)


def assess_searches(
    codec: AutoencoderCodec, molecules: list[str], seed: int
) -> dict[str, dict[str, float]]:
    """Quality of all ways of decoding, for codes of molecules and for codes between two of them.

    Args:
        codec: with the trained network.
        molecules: canonical SMILES that were not trained on.
        seed: of the pairs that lines are drawn between.

    Returns:
        For each of :data:`SEARCHES` shares of "exact" and "valid" among the codes of (at most
        1,000) molecules, and under the name with " between" the share of "valid" strings over nine
        points of each of (at most 200) lines, and for each tenth of the line.
    """
    source = np.random.default_rng(seed)
    some = [molecules[row] for row in source.permutation(len(molecules))[: 5 * PAIRS]]
    codes = codec.encode(some)
    start, end = (codes[source.integers(0, len(codes), PAIRS)] for _ in range(2))
    report: dict[str, dict[str, float]] = {}
    for name, options in SEARCHES.items():
        decoded = codec.decode(codes, **options)
        report[name] = {**shares(judge(some, decoded)), "molecules": len(some)}
        valid = {}
        for tenth in range(1, 10):
            texts = codec.decode(start + (end - start) * (tenth / 10), **options)
            valid[f"valid_{tenth / 10}"] = float(np.mean([canonical(t) is not None for t in texts]))
        report[f"{name} between"] = {"valid": float(np.mean(list(valid.values()))), **valid}
    return report
