"""Train the translation autoencoder that gives molecules their codes."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from convexinit.molecules.autoencoder import (
    Autoencoder,
    AutoencoderCodec,
    Sizes,
    encode_tokens,
    greedy,
    to_arrays,
    tokenise,
    translation_loss,
)
from convexinit.molecules.chemistry import canonical
from convexinit.molecules.tokens import Vocabulary
from convexinit_paper.data.corpus import Corpus, CorpusSettings, gather, load_corpus
from convexinit_paper.request.config import checked, parse_seeds, require
from convexinit_paper.store.checkpoints import Checkpoint, checkpoint_of
from convexinit_paper.store.runs import COLUMNS, Outcome, seed_summary
from convexinit_paper.training.machine import device_name, prepare_process
from convexinit_paper.training.randomness import seeded_generator
from convexinit_paper.training.resuming import TrainingState
from convexinit_paper.training.settings import check_device, resolve_device


class DivergedError(RuntimeError):
    """Training cannot go on."""


PAIRS = 200  # of molecules, for the codes between them
SEARCHES: dict[str, dict[str, Any]] = {
    "greedy": {"beam": 1},
    "beam": {"beam": 10, "nearest": False},
    "nearest of beam": {"beam": 10},
}
LENGTHS = (1, 21, 41, 61, 201)  # bounds of the reported ranges, in characters
SORTED_BATCHES = 50  # batches among which molecules are sorted by length


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


def run(config: dict[str, Any]) -> Outcome:
    """Train one autoencoder (one seed), going on from its checkpoint if there is one."""
    prepare_process()
    seeds = parse_seeds(config["seeds"])
    require(len(seeds) == 1, "seeds", "one seed, for example [0]", seeds)
    settings = checked(AutoencoderSettings, config["autoencoder"], "autoencoder")
    sizes = checked(Sizes, config["model"], "model")
    corpus_settings = checked(CorpusSettings, config["corpus"], "corpus")
    corpus = load_corpus(
        corpus_settings, config["data_dir"], seeds[0], Path(config["results_dir"]) / "cache"
    )
    network, history = train(corpus, sizes, settings, seeds[0], checkpoint_of(config))
    report = assess(network, corpus, seeds[0])
    per_epoch = math.ceil(len(corpus.starts) / settings.batch_size)
    rows = [
        (seeds[0], (step - 1) // per_epoch + 1, step, split, name, value)
        for step, split, name, value in history.rows()
    ]
    rows += [
        (seeds[0], 0, settings.steps, split, name, value)
        for split, metrics in report.items()
        for name, value in metrics.items()
    ]
    return Outcome(
        metrics=pd.DataFrame(rows, columns=COLUMNS),
        seeds={
            seeds[0]: seed_summary(
                diverged=False,
                exact=report["held_out"]["exact"],
                valid=report["held_out"]["valid"],
                **{
                    f"{name.replace(' ', '_')}_valid": report[name]["valid"]
                    for name in report
                    if name.endswith("between")
                },
            )
        },
        device=device_name(settings.torch_device()),
        arrays=to_arrays(network, corpus.vocabulary),
        notes={
            "training_seconds": round(sum(history.spent.values()), 1),
            "molecules": len(corpus.starts),
            "sources": corpus.sources,
        },
        earlier=history.earlier,
    )


def train(
    corpus: Corpus, sizes: Sizes, settings: AutoencoderSettings, seed: int, checkpoint: Checkpoint
) -> tuple[Autoencoder, Progress]:
    """Train, and save the state now and then; returns the network on the CPU."""
    device = settings.torch_device()
    torch.manual_seed(seed)
    network = Autoencoder(sizes, len(corpus.vocabulary), corpus.properties.shape[1]).to(device)
    optimiser = torch.optim.Adam(network.parameters(), lr=settings.learning_rate, fused=True)
    losses = torch.zeros(settings.steps)
    state = TrainingState(checkpoint, network, optimiser, losses, measured=[])
    watched = _watched(corpus, settings.evaluated)
    bar = tqdm(
        total=settings.steps, initial=state.step, desc="autoencoder", unit="step", disable=None
    )
    parts = torch.get_num_threads() if device.type == "cpu" else 1
    with _workers(parts) as workers:
        for step, rows, spellings in _batches(corpus, settings, seed, state.step):
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
            if not math.isfinite(loss):
                raise DivergedError(
                    f"the autoencoder's loss is not finite any more at step {step + 1}; "
                    "try a lower autoencoder.learning_rate"
                )
            losses[step] = loss
            state.step = step + 1
            bar.update()
            if state.step % settings.checkpoint_every == 0 or state.step == settings.steps:
                metrics = reconstruct(network, corpus.vocabulary, watched)
                metrics["property_error"] = float(error)
                state.kept["measured"] += [(state.step, name, metrics[name]) for name in metrics]
                state.save()
                _report(state.step, losses, metrics)
    bar.close()
    history = Progress(losses, state.kept["measured"], state.spent(), state.earlier)
    return network.cpu().eval(), history


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


def _report(step: int, losses: Tensor, metrics: dict[str, float]) -> None:
    recent = losses[max(step - 200, 0) : step].mean().item()
    values = ", ".join(f"{name} {value:.4f}" for name, value in metrics.items())
    tqdm.write(f"step {step}: loss {recent:.4f}, {values}")


@dataclass(frozen=True)
class Progress:
    """What happened during training.

    Attributes:
        losses: ``[steps]`` of every batch.
        measured: (step, metric, value) on held-out molecules.
        spent: seconds of the training, by the revision of the code that trained.
        earlier: the part of them that other processes spent, which this one went on from.
    """

    losses: Tensor
    measured: list[tuple[int, str, float]]
    spent: dict[str, float]
    earlier: dict[str, float]

    def rows(self) -> list[tuple[int, str, str, float]]:
        """All that was measured: step, split, metric, value."""
        losses = [
            (step, "train", "batch_loss", loss)
            for step, loss in enumerate(self.losses.tolist(), start=1)
        ]
        return losses + [(step, "held_out", name, value) for step, name, value in self.measured]


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
        shuffled = np.arange(count)
        source.shuffle(shuffled)
        spelling = np.asarray(source.integers(1, spellings, size=count))
        spelling[source.random(count) < settings.canonical_share] = 0
        longest = corpus.lengths[:, 0] + corpus.lengths[np.arange(count), spelling]
        group = SORTED_BATCHES * settings.batch_size
        groups = [shuffled[start : start + group] for start in range(0, count, group)]
        ordered = [rows[np.argsort(longest[rows], kind="stable")] for rows in groups]
        order = np.concatenate(ordered)
        batches = np.arange(per_epoch)
        source.shuffle(batches)
        for step, number in enumerate(batches.tolist(), start=epoch * per_epoch):
            if done <= step < settings.steps:
                start = number * settings.batch_size
                batch = order[start : start + settings.batch_size]
                yield step, batch, spelling[batch]


def _watched(corpus: Corpus, count: int) -> list[str]:
    """Held-out molecules of all sources that are looked at during training."""
    everything = sorted(set().union(*corpus.held_out.values()))
    return everything[:: max(len(everything) // count, 1)][:count]


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
