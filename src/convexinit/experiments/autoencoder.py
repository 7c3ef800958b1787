"""Train the translation autoencoder that gives molecules their codes."""

from __future__ import annotations

import contextlib
import hashlib
import math
import pickle
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from rdkit import Chem
from rdkit.Chem import Crippen, Descriptors, rdMolDescriptors
from torch import Tensor
from tqdm import tqdm

from convexinit.config import checked, parse_seeds, require
from convexinit.data.multitask import load_multitask
from convexinit.data.smiles import is_held_out, load_smiles
from convexinit.molecules.autoencoder import (
    Autoencoder,
    Sizes,
    encode_tokens,
    greedy,
    to_arrays,
    translation_loss,
)
from convexinit.molecules.chemistry import canonical, standardise_all
from convexinit.molecules.recombine import recombine
from convexinit.molecules.tokens import (
    END,
    PADDING,
    START,
    Vocabulary,
    learn_vocabulary,
    split_symbols,
)
from convexinit.runs import COLUMNS, Outcome, RunError, run_folder
from convexinit.training import (
    check_device,
    device_name,
    prepare_process,
    resolve_device,
    seeded_generator,
)

# Molecules that the vocabulary is learned from, half of them in random spelling.
VOCABULARY_SAMPLE = 20_000
CHUNK = 1000  # molecules that a worker process treats at once
SORTED_BATCHES = 50  # batches among which molecules are sorted by length
PROPERTIES = {
    "logP": Crippen.MolLogP,
    "molar refractivity": Crippen.MolMR,
    "molecular weight": Descriptors.MolWt,
    "polar surface": rdMolDescriptors.CalcTPSA,
    "donors": rdMolDescriptors.CalcNumHBD,
    "acceptors": rdMolDescriptors.CalcNumHBA,
    "rotatable bonds": rdMolDescriptors.CalcNumRotatableBonds,
    "rings": rdMolDescriptors.CalcNumRings,
    "aromatic rings": rdMolDescriptors.CalcNumAromaticRings,
    "fraction sp3": rdMolDescriptors.CalcFractionCSP3,
    "charge": Chem.GetFormalCharge,
}


@dataclass(frozen=True)
class CorpusSettings:
    """What the autoencoder learns from; defaults in ``conf/experiment/autoencoder.yaml``.

    Attributes:
        recombined: attempts to make a new molecule per real one, at least 0.
        spellings: random SMILES of every molecule, at least 1.
        vocabulary: number of tokens, at least 41 (single symbols).
    """

    recombined: float
    spellings: int
    vocabulary: int

    def __post_init__(self) -> None:
        require(self.recombined >= 0, "corpus.recombined", "at least 0", self.recombined)
        require(self.spellings >= 1, "corpus.spellings", "at least 1", self.spellings)
        require(
            41 <= self.vocabulary <= 10_000, "corpus.vocabulary", "41 to 10000", self.vocabulary
        )


@dataclass(frozen=True)
class AutoencoderSettings:
    """Network and training; defaults in ``conf/experiment/autoencoder.yaml``.

    Attributes:
        steps: of Adam, at least 1.
        batch_size: molecules per step, at least 1.
        learning_rate: the highest, after warm-up; falls to 0 like a cosine. Above 0.
        warmup: steps in which the learning rate rises linearly, at least 0.
        clip: largest norm of the gradient, above 0.
        noise: standard deviation of the Gaussian noise on the code, at least 0.
        canonical_share: share of the inputs that are in canonical spelling, 0 to 1.
        property_weight: weight of the properties in the loss, at least 0.
        precision: "float32" or "bfloat16" (autocast).
        device: "cpu", "cuda", or "auto" for the GPU if there is one.
        checkpoint_every: steps between two checkpoints and evaluations, at least 1.
        evaluated: held-out molecules of such an evaluation, at least 1.
    """

    steps: int
    batch_size: int
    learning_rate: float
    warmup: int
    clip: float
    noise: float
    canonical_share: float
    property_weight: float
    precision: str
    device: str
    checkpoint_every: int
    evaluated: int

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "checkpoint_every", "evaluated"):
            require(
                getattr(self, name) >= 1, f"autoencoder.{name}", "at least 1", getattr(self, name)
            )
        require(self.learning_rate > 0, "autoencoder.learning_rate", "above 0", self.learning_rate)
        require(self.warmup >= 0, "autoencoder.warmup", "at least 0", self.warmup)
        require(self.clip > 0, "autoencoder.clip", "above 0", self.clip)
        require(self.noise >= 0, "autoencoder.noise", "at least 0", self.noise)
        require(
            0 <= self.canonical_share <= 1,
            "autoencoder.canonical_share",
            "0 to 1",
            self.canonical_share,
        )
        require(
            self.property_weight >= 0,
            "autoencoder.property_weight",
            "at least 0",
            self.property_weight,
        )
        require(
            self.precision in ("float32", "bfloat16"),
            "autoencoder.precision",
            "float32 or bfloat16",
            self.precision,
        )
        check_device("autoencoder.device", self.device)

    def torch_device(self) -> torch.device:
        """Device to train on."""
        return resolve_device(self.device)


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
    """

    tokens: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray
    properties: np.ndarray
    vocabulary: Vocabulary
    held_out: dict[str, list[str]]


def run(config: dict[str, Any]) -> Outcome:
    """Train one autoencoder (one seed), going on from its checkpoint if there is one."""
    prepare_process()
    seeds = parse_seeds(config["seeds"])
    require(len(seeds) == 1, "seeds", "one seed, for example [0]", seeds)
    settings = checked(AutoencoderSettings, config["autoencoder"], "autoencoder")
    corpus_settings = checked(CorpusSettings, config["corpus"], "corpus")
    checkpoint = Path(config["results_dir"]) / "checkpoints" / f"{run_folder(config).name}.pt"
    corpus = load_corpus(
        corpus_settings, config["data_dir"], seeds[0], Path(config["results_dir"]) / "cache"
    )
    sizes = checked(Sizes, config["model"], "model")
    network, history = train(corpus, sizes, settings, seeds[0], checkpoint)
    report = assess(network, corpus, seeds[0])
    rows = [(seeds[0], *row) for row in history]
    rows += [
        (seeds[0], 0, settings.steps, split, name, value)
        for split, metrics in report.items()
        for name, value in metrics.items()
    ]
    everything = report["held_out"]
    return Outcome(
        metrics=pd.DataFrame(rows, columns=COLUMNS),
        seeds={seeds[0]: {"status": "finished", **everything, **report["between"]}},
        device=device_name(settings.torch_device()),
        arrays=to_arrays(network, corpus.vocabulary),
    )


def load_corpus(settings: CorpusSettings, data_dir: str, seed: int, cache: Path) -> Corpus:
    """Read, standardise, recombine, spell and tokenise; keeps the result in ``cache``.

    Molecules of the Tox21 validation and test sets, and those of the held-out share
    (:func:`convexinit.data.smiles.is_held_out`), are in no training sequence.
    """
    tox21 = load_multitask("tox21", data_dir)
    raw = {**load_smiles(data_dir), "tox21_train": tox21.train.smiles}
    kept_back = [*tox21.validation.smiles, *tox21.test.smiles]
    digest = hashlib.sha256(repr((settings, seed, raw, kept_back, list(PROPERTIES))).encode())
    path = cache / f"corpus-{digest.hexdigest()[:16]}.npz"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(".part.npz")
        np.savez(part, **make_corpus(settings, raw, kept_back, tox21.test.smiles, seed))
        part.replace(path)
    with np.load(path, allow_pickle=False) as arrays:
        held_out = {
            name.removeprefix("held_out."): [str(text) for text in arrays[name]]
            for name in arrays.files
            if name.startswith("held_out.")
        }
        return Corpus(
            arrays["tokens"],
            arrays["starts"],
            arrays["lengths"],
            arrays["properties"],
            Vocabulary([str(token) for token in arrays["vocabulary"]]),
            held_out,
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
        sources = {source: _molecules(pool, texts, source) for source, texts in raw.items()}
        forbidden = _molecules(pool, kept_back, "kept back")
        held_out = {
            source: sorted(text for text in texts if is_held_out(text) and text not in forbidden)
            for source, texts in sources.items()
        }
        held_out["tox21_test"] = sorted(_molecules(pool, test, "tox21_test"))
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
                for part in tqdm(made, "recombining", len(chunks), disable=None)
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
        for part, values in tqdm(spelled, "spelling", len(starts), disable=None):
            texts += part
            properties.append(values)
    sample = texts[: len(real)][:: max(2 * len(real) // VOCABULARY_SAMPLE, 1)]
    vocabulary = learn_vocabulary(
        [text for spellings in sample for text in spellings[:2]], settings.vocabulary
    )
    sequences = [[START, *(vocabulary.encode(text) or []), END] for part in texts for text in part]
    lengths = np.array([len(sequence) for sequence in sequences])
    values = np.concatenate(properties)
    return {
        "tokens": np.concatenate(sequences).astype(np.int16),
        "starts": (np.cumsum(lengths) - lengths).reshape(len(texts), -1),
        "lengths": lengths.reshape(len(texts), -1),
        "properties": ((values - values.mean(0)) / values.std(0)).astype(np.float32),
        "vocabulary": np.array(vocabulary.tokens),
        **{f"held_out.{source}": np.array(texts) for source, texts in held_out.items()},
    }


def _molecules(pool: ProcessPoolExecutor, texts: list[str], source: str) -> set[str]:
    """Distinct standardised molecules of a source that the tokens can write."""
    chunks = [texts[start : start + CHUNK] for start in range(0, len(texts), CHUNK)]
    results = pool.map(standardise_all, chunks)
    return {
        result.smiles
        for part in tqdm(results, f"reading {source}", len(chunks), disable=None)
        for result in part
        if result.smiles is not None and split_symbols(result.smiles) is not None
    }


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
        properties.append([function(molecule) for function in PROPERTIES.values()])
    return texts, np.array(properties, dtype=np.float64)


def train(
    corpus: Corpus, sizes: Sizes, settings: AutoencoderSettings, seed: int, checkpoint: Path
) -> tuple[Autoencoder, list[tuple[int, int, str, str, float]]]:
    """Train, and write a checkpoint every now and then.

    Returns:
        The network, and rows (epoch, step, split, metric, value) of what was measured.
    """
    device = settings.torch_device()
    torch.manual_seed(seed)
    network = Autoencoder(sizes, len(corpus.vocabulary), corpus.properties.shape[1]).to(device)
    optimiser = torch.optim.Adam(network.parameters(), lr=settings.learning_rate, fused=True)
    history = Progress(torch.zeros(settings.steps))
    if checkpoint.exists():
        history = load_checkpoint(checkpoint, network, optimiser)
    watched = _watched(corpus, settings.evaluated)
    bar = tqdm(
        total=settings.steps, initial=history.step, desc="autoencoder", unit="step", disable=None
    )
    parts = torch.get_num_threads() if device.type == "cpu" else 1
    with _workers(parts) as workers:
        for step, rows, spellings in _batches(corpus, settings, seed, history.step):
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(step, settings)
            noise = settings.noise * torch.randn(
                len(rows), sizes.dimensions, generator=seeded_generator(seed, f"noise {step}")
            )
            loss, error = _accumulate_gradients(
                network, corpus, settings, rows, spellings, noise, workers, parts
            )
            torch.nn.utils.clip_grad_norm_(network.parameters(), settings.clip)
            optimiser.step()
            history.losses[step] = loss
            history.step = step + 1
            bar.update()
            if history.step % settings.checkpoint_every == 0 or history.step == settings.steps:
                metrics = reconstruct(network, corpus.vocabulary, watched)
                metrics["property_error"] = float(error)
                history.measured += [(history.step, name, metrics[name]) for name in metrics]
                save_checkpoint(checkpoint, network, optimiser, history)
                _report(history, metrics)
    bar.close()
    per_epoch = math.ceil(len(corpus.starts) / settings.batch_size)
    rows_of_losses = [
        ((step - 1) // per_epoch + 1, step, "train", "batch_loss", loss)
        for step, loss in enumerate(history.losses.tolist(), start=1)
    ]
    rows_of_metrics = [
        ((step - 1) // per_epoch + 1, step, "held_out", name, value)
        for step, name, value in history.measured
    ]
    return network.cpu().eval(), rows_of_losses + rows_of_metrics


@contextlib.contextmanager
def _workers(count: int) -> Iterator[ThreadPoolExecutor]:
    """One thread a core, each for a part of the batch.

    On two cores this is 1.2 times faster than one recurrent network whose small operations are
    shared by all cores, and does not suffer when other programs run beside it: those operations
    then wait for each other most of the time.
    """
    cores = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(count) as workers:
            yield workers
    finally:
        torch.set_num_threads(cores)


def _accumulate_gradients(
    network: Autoencoder,
    corpus: Corpus,
    settings: AutoencoderSettings,
    rows: np.ndarray,
    spellings: np.ndarray,
    noise: Tensor,
    workers: ThreadPoolExecutor,
    parts: int,
) -> tuple[float, float]:
    """Gradients of one batch; returns its loss per token and the error of the properties."""
    device = settings.torch_device()
    parameters = list(network.parameters())
    total = int(corpus.lengths[rows, 0].sum()) - len(rows)

    def work(part: int) -> tuple[float, float, tuple[Tensor, ...]]:
        some = slice(part, None, parts)
        inputs, lengths = gather(corpus, rows[some], spellings[some])
        targets, target_lengths = gather(corpus, rows[some], np.zeros_like(spellings[some]))
        properties = torch.from_numpy(corpus.properties[rows[some]])
        inputs, lengths, targets, properties, noises = (
            tensor.to(device) for tensor in (inputs, lengths, targets, properties, noise[some])
        )
        with torch.autocast(device.type, torch.bfloat16, settings.precision == "bfloat16"):
            # The spelling that is read has no start token.
            loss, error = translation_loss(
                network, inputs[:, 1:], lengths - 1, targets, properties, noises
            )
        # So that the sum over the parts is the mean over the batch.
        loss = loss * ((int(target_lengths.sum()) - len(targets)) / total)
        error = error * (len(targets) / len(rows))
        objective = loss + settings.property_weight * error
        return loss.item(), error.item(), torch.autograd.grad(objective, parameters)

    results = list(workers.map(work, range(min(parts, len(rows)))))
    for parameter, *gradients in zip(parameters, *(part[2] for part in results), strict=True):
        parameter.grad = torch.stack(gradients).sum(0) if len(gradients) > 1 else gradients[0]
    return sum(part[0] for part in results), sum(part[1] for part in results)


def _report(history: Progress, metrics: dict[str, float]) -> None:
    recent = history.losses[max(history.step - 200, 0) : history.step].mean().item()
    values = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
    tqdm.write(f"step {history.step}: loss {recent:.4f}, {values}")


@dataclass
class Progress:
    """How far training has come.

    Attributes:
        losses: ``[steps]`` of every batch, 0 for those to come.
        step: steps that are done.
        measured: (step, metric, value) on held-out molecules.
    """

    losses: Tensor
    step: int = 0
    measured: list[tuple[int, str, float]] = field(default_factory=list)


def load_checkpoint(
    checkpoint: Path, network: Autoencoder, optimiser: torch.optim.Optimizer
) -> Progress:
    """Go back to the state that :func:`save_checkpoint` wrote.

    Raises:
        RunError: the file is damaged.
    """
    try:
        saved = torch.load(checkpoint, weights_only=True)
        network.load_state_dict(saved["network"])
        optimiser.load_state_dict(saved["optimiser"])
        return Progress(saved["losses"], saved["step"], [tuple(row) for row in saved["measured"]])
    except (OSError, RuntimeError, KeyError, ValueError, pickle.UnpicklingError) as error:
        raise RunError(
            f"the checkpoint {checkpoint} cannot be read.\nRemove it to train from the beginning."
        ) from error


def save_checkpoint(
    checkpoint: Path,
    network: Autoencoder,
    optimiser: torch.optim.Optimizer,
    history: Progress,
) -> None:
    """Write a checkpoint under a temporary name and rename it."""
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    part = checkpoint.with_suffix(".part")
    torch.save(
        {
            "network": network.state_dict(),
            "optimiser": optimiser.state_dict(),
            "losses": history.losses,
            "step": history.step,
            "measured": history.measured,
        },
        part,
    )
    part.replace(checkpoint)


def learning_rate(step: int, settings: AutoencoderSettings) -> float:
    """Learning rate of a step (from 0): linear warm-up, then half a cosine down to 0."""
    rise = min((step + 1) / (settings.warmup + 1), 1.0)
    return settings.learning_rate * rise * 0.5 * (1 + math.cos(math.pi * step / settings.steps))


def _batches(
    corpus: Corpus, settings: AutoencoderSettings, seed: int, done: int
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Steps from ``done`` on: number of the step, molecules, and which spelling of each is read."""
    count, spellings = corpus.starts.shape
    per_epoch = math.ceil(count / settings.batch_size)
    for epoch in range(done // per_epoch, math.ceil(settings.steps / per_epoch)):
        source = np.random.default_rng([seed, epoch])
        order = source.permutation(count)
        spelling = source.integers(1, spellings, count)
        spelling[source.random(count) < settings.canonical_share] = 0
        longest = corpus.lengths[:, 0] + corpus.lengths[np.arange(count), spelling]
        group = SORTED_BATCHES * settings.batch_size
        order = np.concatenate(
            [
                part[np.argsort(longest[part], kind="stable")]
                for part in (order[start : start + group] for start in range(0, count, group))
            ]
        )
        batches = source.permutation(per_epoch)
        for index, batch in enumerate(batches):
            step = epoch * per_epoch + index
            if done <= step < settings.steps:
                rows = order[batch * settings.batch_size : (batch + 1) * settings.batch_size]
                yield step, rows, spelling[rows]


def gather(corpus: Corpus, rows: np.ndarray, spellings: np.ndarray) -> tuple[Tensor, Tensor]:
    """Sequences of some molecules, padded at the end, and their lengths."""
    starts, lengths = corpus.starts[rows, spellings], corpus.lengths[rows, spellings]
    places = np.arange(lengths.max())
    inside = places < lengths[:, None]
    tokens = np.where(inside, corpus.tokens[np.where(inside, starts[:, None] + places, 0)], PADDING)
    return torch.from_numpy(tokens.astype(np.int64)), torch.from_numpy(lengths)


def _watched(corpus: Corpus, count: int) -> list[str]:
    """Held-out molecules of all sources that are looked at during training."""
    everything = sorted(set().union(*corpus.held_out.values()))
    return everything[:: max(len(everything) // count, 1)][:count]


def reconstruct(
    network: Autoencoder, vocabulary: Vocabulary, molecules: list[str]
) -> dict[str, float]:
    """Share of molecules that come back exactly, and share of valid strings (greedy decoding)."""
    decoded = translate(network, vocabulary, molecules)
    results = [canonical(text) for text in decoded]
    return {
        "exact": float(np.mean([a == b for a, b in zip(results, molecules, strict=True)])),
        "valid": float(np.mean([result is not None for result in results])),
    }


def translate(network: Autoencoder, vocabulary: Vocabulary, molecules: list[str]) -> list[str]:
    """Encode and decode."""
    sequences = [[*(vocabulary.encode(text) or []), END] for text in molecules]
    written = greedy(network, encode_tokens(network, sequences))
    return [vocabulary.decode(numbers) for numbers in written]


def assess(network: Autoencoder, corpus: Corpus, seed: int) -> dict[str, dict[str, float]]:
    """Final quality."""
    report = {}
    everything = sorted(set().union(*corpus.held_out.values()))
    report["held_out"] = reconstruct(network, corpus.vocabulary, everything)
    for source, molecules in corpus.held_out.items():
        report[source] = reconstruct(network, corpus.vocabulary, molecules)
    report["between"] = {}
    return report
