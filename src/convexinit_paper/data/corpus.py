"""What the autoencoder learns from: molecules of all sources in many spellings, as tokens."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import rdkit
import torch
from rdkit import Chem
from rdkit.Chem import rdMolDescriptors
from torch import Tensor

from convexinit.molecules.chemistry import RULES, standardise_all
from convexinit.molecules.tokens import (
    END,
    NO_TOKEN,
    PADDING,
    SPECIAL,
    START,
    SYMBOLS,
    Vocabulary,
    learn_vocabulary,
    split_symbols,
)
from convexinit_paper.data.cache import read_arrays, write_arrays
from convexinit_paper.data.datasets import load_multitask
from convexinit_paper.data.files import digest_of
from convexinit_paper.data.multitask import MultitaskData
from convexinit_paper.data.recombine import recombine
from convexinit_paper.data.smiles import is_held_out, load_smiles
from convexinit_paper.progress import with_progress
from convexinit_paper.request.options import Section, at_least, between, option

_FORMAT = 3  # to be raised when tokens, spellings or recombination change
# Digest of the molecules that the weights in this package, and recorded runs, were trained on.
KNOWN = "sha256-67104e90640eabab"
# Molecules that the vocabulary is learned from, half of them in random spelling.
VOCABULARY_SAMPLE = 20_000
CHUNK = 1000  # molecules that a worker process treats at once
PROPERTIES = (
    "logP",
    "molar refractivity",
    "molecular weight",
    "polar surface",
    "donors",
    "acceptors",
    "rotatable bonds",
    "rings",
    "aromatic rings",
    "fraction sp3",
    "charge",
)


@dataclass(frozen=True)
class CorpusSettings(Section):
    """What the autoencoder learns from; defaults in ``conf/experiment/autoencoder.yaml``."""

    recombined: float = option("attempts to make a new molecule per real one", at_least(0))
    spellings: int = option("random SMILES of every molecule", at_least(1))
    vocabulary: int = option(
        "number of tokens: 3 special ones, 38 single symbols, and groups of these",
        between(len(SPECIAL) + len(SYMBOLS), 10_000),
    )


@dataclass(frozen=True)
class Corpus:
    """Molecules to learn from, as token sequences.

    Attributes:
        tokens: all sequences in one array, each between start and end token.
        starts: ``[molecules, spellings + 1]`` place of each sequence in ``tokens``; the first
            spelling is the canonical one.
        lengths: ``[molecules, spellings + 1]``, start and end included.
        properties: ``[molecules, properties]`` of mean 0 and variance 1.
        vocabulary: the tokens.
        held_out: canonical SMILES that are not in the corpus, by source.
        sources: for each source how many SMILES were "given", how many "distinct" molecules they
            are, and how many were left out for which reason.
    """

    tokens: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    properties: np.ndarray
    vocabulary: Vocabulary
    held_out: dict[str, list[str]]
    sources: dict[str, dict[str, int]]


def load_corpus(settings: CorpusSettings, data_dir: str, seed: int, cache: Path) -> Corpus:
    """Read, standardise, recombine, spell and tokenise; keeps the result in the folder ``cache``.

    Molecules of the Tox21 validation and test sets, and those of the held-out share
    (:func:`convexinit_paper.data.smiles.is_held_out`), are in no training sequence.
    """
    tox21 = load_multitask("tox21", data_dir)
    raw = _raw(tox21, data_dir)
    kept_back = [*tox21.validation.smiles, *tox21.test.smiles]
    content = (
        _FORMAT, RULES, rdkit.__version__, settings, seed, raw, kept_back, list(PROPERTIES),
    )  # fmt: skip
    digest = hashlib.sha256(repr(content).encode())
    path = cache / f"corpus-{digest.hexdigest()[:16]}.npz"
    corpus = read_arrays(path, "molecules", from_arrays)
    if corpus is None:
        arrays = make_corpus(settings, raw, kept_back, tox21.test.smiles, seed)
        write_arrays(path, "molecules", **arrays)
        corpus = from_arrays(arrays)
    return corpus


def corpus_content(data_dir: str) -> str | None:
    """Digest of the molecules that are learned from, as a run on them is known by.

    Validation and test molecules of Tox21 are always the same.

    Args:
        data_dir: folder of raw data.

    Returns:
        None for those that the autoencoder of this package has learned from.

    Raises:
        DataError: a file is missing or damaged.
    """
    content = digest_of(_raw(load_multitask("tox21", data_dir), data_dir))
    return None if content == KNOWN else content


def _raw(tox21: MultitaskData, data_dir: str) -> dict[str, list[str]]:
    """SMILES to learn from, by source."""
    return {**load_smiles(data_dir), "tox21_train": tox21.train.smiles}


def from_arrays(arrays: Mapping[str, np.ndarray]) -> Corpus:
    """The corpus made by :func:`make_corpus`."""
    return Corpus(
        arrays["tokens"],
        arrays["starts"],
        arrays["lengths"],
        arrays["properties"],
        Vocabulary(arrays["vocabulary"].tolist()),
        {
            name.removeprefix("held_out."): arrays[name].tolist()
            for name in arrays
            if name.startswith("held_out.")
        },
        json.loads(str(arrays["sources"])),
    )


def make_corpus(
    settings: CorpusSettings,
    raw: dict[str, list[str]],
    kept_back: list[str],
    test: list[str],
    seed: int,
) -> dict[str, np.ndarray]:
    """The arrays of a corpus; all processors work on it.

    Args:
        settings: what to make.
        raw: SMILES by source.
        kept_back: SMILES of molecules that must not be learned from.
        test: the part of ``kept_back`` that is reported as the source "tox21_test".
        seed: of recombination and spelling.
    """
    with ProcessPoolExecutor() as pool:
        read = {source: _molecules(pool, texts, source) for source, texts in raw.items()}
        sources = {source: molecules for source, (molecules, _) in read.items()}
        forbidden, _ = _molecules(pool, kept_back, "kept back")
        held_out = {
            source: sorted(text for text in texts if is_held_out(text) and text not in forbidden)
            for source, texts in sources.items()
        }
        held_out["tox21_test"] = sorted(_molecules(pool, test, "tox21_test")[0])
        real = sorted(
            text
            for text in set().union(*sources.values())
            if not is_held_out(text) and text not in forbidden
        )
        chunks = [real[start :: len(real) // CHUNK + 1] for start in range(len(real) // CHUNK + 1)]
        made = pool.map(
            recombine,
            chunks,
            [round(len(chunk) * settings.recombined) for chunk in chunks],
            [seed * len(chunks) + number for number in range(len(chunks))],
        )
        known = {*real, *forbidden}
        new = sorted(
            {
                text
                for part in with_progress(made, "recombining", len(chunks), "chunks")
                for text in part
                if text not in known and not is_held_out(text)
            }
        )
        molecules = real + new
        starts = range(0, len(molecules), CHUNK)
        spelled = pool.map(
            spell,
            [molecules[start : start + CHUNK] for start in starts],
            [settings.spellings] * len(starts),
            [seed + start for start in starts],
        )
        texts, properties = [], []
        for part, values in with_progress(spelled, "spelling", len(starts), "chunks"):
            texts += part
            properties.append(values)
    sample = texts[: len(real)][:: max(2 * len(real) // VOCABULARY_SAMPLE, 1)]
    vocabulary = learn_vocabulary(
        [text for spellings in sample for text in spellings[:2]], settings.vocabulary
    )
    sequences = [[START, *vocabulary.encode(text), END] for part in texts for text in part]
    lengths = np.array([len(sequence) for sequence in sequences])
    values = np.concatenate(properties)
    return {
        "tokens": np.concatenate(sequences).astype(np.int16),
        "starts": (np.cumsum(lengths) - lengths).reshape(len(texts), -1),
        "lengths": lengths.reshape(len(texts), -1),
        "properties": normalised(values).astype(np.float32),
        "vocabulary": np.array(vocabulary.tokens),
        "sources": np.array(json.dumps({source: counts for source, (_, counts) in read.items()})),
        **{f"held_out.{source}": np.array(texts) for source, texts in held_out.items()},
    }


def _molecules(
    pool: ProcessPoolExecutor, texts: list[str], source: str
) -> tuple[set[str], dict[str, int]]:
    """Distinct standardised molecules of a source that the tokens can write, and what is counted.

    The counts are those of :class:`Corpus` for a source.
    """
    chunks = [texts[start : start + CHUNK] for start in range(0, len(texts), CHUNK)]
    results = pool.map(standardise_all, chunks)
    molecules: set[str] = set()
    reasons: Counter[str] = Counter()
    for part in with_progress(results, f"reading {source}", len(chunks), "chunks"):
        for result in part:
            if result.smiles is None:
                reasons[str(result.reason)] += 1
            elif split_symbols(result.smiles) is None:
                reasons[NO_TOKEN] += 1
            else:
                molecules.add(result.smiles)
    counts = {"given": len(texts), "distinct": len(molecules)}
    return molecules, counts | dict(reasons.most_common())


def spell(molecules: list[str], spellings: int, seed: int) -> tuple[list[list[str]], np.ndarray]:
    """Canonical and random spellings of molecules, and their properties.

    Args:
        molecules: canonical SMILES.
        spellings: random spellings of each.
        seed: of the random spellings.

    Returns:
        ``spellings + 1`` SMILES for each molecule, and properties ``[molecules, properties]``.
    """
    texts, properties = [], []
    for number, text in enumerate(molecules):
        molecule = Chem.MolFromSmiles(text)
        random = Chem.MolToRandomSmilesVect(molecule, spellings, randomSeed=seed + number)
        texts.append([text, *random])
        properties.append(describe(molecule))
    return texts, np.array(properties, dtype=np.float64)


def describe(molecule: Chem.Mol) -> list[float]:
    """The :data:`PROPERTIES` of a molecule."""
    log_p, refractivity = rdMolDescriptors.CalcCrippenDescriptors(molecule)
    return [
        log_p,
        refractivity,
        rdMolDescriptors._CalcMolWt(molecule),
        rdMolDescriptors.CalcTPSA(molecule),
        rdMolDescriptors.CalcNumHBD(molecule),
        rdMolDescriptors.CalcNumHBA(molecule),
        rdMolDescriptors.CalcNumRotatableBonds(molecule),
        rdMolDescriptors.CalcNumRings(molecule),
        rdMolDescriptors.CalcNumAromaticRings(molecule),
        rdMolDescriptors.CalcFractionCSP3(molecule),
        Chem.GetFormalCharge(molecule),
    ]


def normalised(values: np.ndarray) -> np.ndarray:
    """Columns shifted and scaled to mean 0 and variance 1; a constant one becomes 0."""
    deviation = values.std(0)
    return (values - values.mean(0)) / np.where(deviation > 0, deviation, 1.0)


def gather(corpus: Corpus, rows: np.ndarray, spellings: np.ndarray) -> tuple[Tensor, Tensor]:
    """Sequences of some molecules, padded at the end, and their lengths."""
    starts, lengths = corpus.starts[rows, spellings], corpus.lengths[rows, spellings]
    places = np.arange(lengths.max())
    inside = places < lengths[:, None]
    tokens = np.where(inside, corpus.tokens[np.where(inside, starts[:, None] + places, 0)], PADDING)
    return torch.from_numpy(tokens.astype(np.int64)), torch.from_numpy(lengths)
