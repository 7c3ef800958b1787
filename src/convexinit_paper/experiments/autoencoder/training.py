"""How the autoencoder is trained: Adam on translations of random into canonical SMILES."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from convexinit.molecules.autoencoder import Autoencoder, Sizes, translation_loss
from convexinit_paper.data.corpus import Corpus, gather
from convexinit_paper.experiments.autoencoder.assessment import reconstruct
from convexinit_paper.request.options import Section, above, at_least, between, one_of, option
from convexinit_paper.store.checkpoints import Checkpoint
from convexinit_paper.training.machine import set_precision
from convexinit_paper.training.randomness import seeded_generator
from convexinit_paper.training.resuming import TrainingState
from convexinit_paper.training.settings import DEVICES, resolve_device


class DivergedError(RuntimeError):
    """Training cannot go on."""


SORTED_BATCHES = 50  # batches among which molecules are sorted by length


@dataclass(frozen=True)
class AutoencoderSettings(Section):
    """How the autoencoder is trained; defaults in ``conf/experiment/autoencoder.yaml``."""

    steps: int = option("of Adam", at_least(1))
    batch_size: int = option("molecules per step", at_least(1))
    learning_rate: float = option("the highest, after warm-up; falls to 0 like a cosine", above(0))
    warmup: int = option("steps in which the learning rate rises linearly", at_least(0))
    clip: float = option("largest norm of the gradient", above(0))
    noise: float = option("standard deviation of the Gaussian noise on the code", at_least(0))
    canonical_share: float = option("of the inputs, in canonical spelling", between(0, 1))
    property_weight: float = option("of the properties in the loss", at_least(0))
    precision: str = option("bfloat16 is by autocast", one_of(("float32", "bfloat16")))
    device: str = option("auto for the GPU if there is one", *DEVICES)
    checkpoint_every: int = option("steps between two checkpoints and evaluations", at_least(1))
    evaluated: int = option("held-out molecules of such an evaluation", at_least(1))

    def torch_device(self) -> torch.device:
        """Device to train on."""
        return resolve_device(self.device)


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
    with _workers(parts) as workers, set_precision(settings.precision, device) as autocast:
        for step, rows, spellings in _batches(corpus, settings, seed, state.step):
            for group in optimiser.param_groups:
                group["lr"] = learning_rate(step, settings)
            noise = settings.noise * torch.randn(
                len(rows), sizes.dimensions, generator=seeded_generator(seed, f"noise {step}")
            )
            loss, error = _accumulate_gradients(
                network, corpus, settings, rows, spellings, noise, workers, parts, autocast
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
    autocast: Callable[[], contextlib.AbstractContextManager],
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
        with autocast():
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
