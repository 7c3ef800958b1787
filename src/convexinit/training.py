"""The training loop: many seeds as one stacked network, data in memory, no work per sample."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import math
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Generator, Tensor, nn

from convexinit.checkpoints import Checkpoint
from convexinit.config import require
from convexinit.nn import Dropout, clamp_negative_, projected_weights
from convexinit.progress import TrainingProgress
from convexinit.runs import git_revision

PRECISIONS = ("float32", "tf32", "bfloat16")
DEVICES = ("auto", "cpu", "cuda")
EVALUATION_ROWS = 2048


@dataclass(frozen=True)
class TrainerSettings:
    """How networks are trained; defaults live in ``conf/trainer``.

    Attributes:
        epochs: passes over the training set, at least 1.
        batch_size: samples per step, at least 1; the last batch of an epoch may be smaller.
        learning_rate: of Adam, greater than 0.
        weight_decay: L2 regularisation, added to the gradient as in ``torch.optim.Adam``, at
            least 0.
        precision: "float32", "tf32" (matrix products of NVIDIA GPUs) or "bfloat16" (autocast;
            weights and Adam stay in float32).
        device: "cpu", "cuda", or "auto" for the GPU if there is one.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    precision: str
    device: str

    def __post_init__(self) -> None:
        require(self.epochs >= 1, "trainer.epochs", "at least 1", self.epochs)
        require(self.batch_size >= 1, "trainer.batch_size", "at least 1", self.batch_size)
        require(
            0.0 < self.learning_rate < math.inf,
            "trainer.learning_rate",
            "above 0",
            self.learning_rate,
        )
        require(
            0.0 <= self.weight_decay < math.inf,
            "trainer.weight_decay",
            "at least 0",
            self.weight_decay,
        )
        require(
            self.precision in PRECISIONS,
            "trainer.precision",
            f"one of {', '.join(PRECISIONS)}",
            self.precision,
        )
        check_device("trainer.device", self.device)

    def torch_device(self) -> torch.device:
        """Device to train on."""
        return resolve_device(self.device)


def check_device(option: str, device: str) -> None:
    """Raise ConfigError if ``device`` is unknown or this machine has no such device."""
    require(device in DEVICES, option, f"one of {', '.join(DEVICES)}", device)
    require(
        device != "cuda" or torch.cuda.is_available(),
        option,
        "cpu or auto, as this machine has no usable CUDA device",
        device,
    )


def resolve_device(device: str) -> torch.device:
    """The device of that name; "auto" is the GPU if there is one."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)


@dataclass(frozen=True)
class Split:
    """Rows of one set (training, validation or test) for every network of a stack.

    Attributes:
        inputs: ``[n, features]``, shared by all networks.
        targets: ``[n]`` class labels, or ``[n, tasks]`` binary labels of several tasks.
        rows: ``[networks, m]``, the rows of ``inputs`` that belong to the set of each network.
    """

    inputs: Tensor
    targets: Tensor
    rows: Tensor

    def batch(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs ``[networks, batch, features]`` and targets ``[networks, batch, ...]`` of rows."""
        flat = rows.flatten()
        return (
            self.inputs.index_select(0, flat).view(*rows.shape, -1),
            self.targets.index_select(0, flat).view(*rows.shape, *self.targets.shape[1:]),
        )

    def of(self, networks: range) -> Split:
        """The rows of some of the networks."""
        return Split(self.inputs, self.targets, self.rows[networks.start : networks.stop])

    def to(self, device: torch.device) -> Split:
        """Copy on ``device``."""
        return Split(self.inputs.to(device), self.targets.to(device), self.rows.to(device))


@dataclass(frozen=True)
class Measurement:
    """One metric, measured for all networks at the end of an epoch (epoch 0: before training).

    Attributes:
        epoch: epochs of training so far.
        step: optimiser steps so far.
        split: "validation" or "test".
        metric: a name that the objective gives.
        values: one value per network.
    """

    epoch: int
    step: int
    split: str
    metric: str
    values: list[float]


@dataclass
class History:
    """What happened during training.

    Attributes:
        batch_losses: ``[networks, steps]`` mean loss of every training batch, before its update.
        steps_per_epoch: optimiser steps in an epoch.
        measurements: metrics of the held-out sets.
        diverged_at: for every network the first step (from 1) with a loss that is not finite,
            or None.
        earlier: seconds spent by earlier processes, from whose checkpoint training went on, by
            the revision of their code.
    """

    batch_losses: Tensor
    steps_per_epoch: int
    measurements: list[Measurement] = field(default_factory=list)
    diverged_at: list[int | None] = field(default_factory=list)
    earlier: dict[str, float] = field(default_factory=dict)


def joined(histories: Sequence[History]) -> History:
    """What happened to groups of networks that were trained one after the other, as one history."""
    measurements = [
        replace(same[0], values=[value for part in same for value in part.values])
        for same in zip(*(history.measurements for history in histories), strict=True)
    ]
    return History(
        torch.cat([history.batch_losses for history in histories]),
        histories[0].steps_per_epoch,
        measurements,
        [step for history in histories for step in history.diverged_at],
        added(*(history.earlier for history in histories)),
    )


@dataclass(frozen=True)
class Objective:
    """What networks are trained for, and what is measured on held-out sets.

    Attributes:
        loss: maps logits ``[networks, batch, outputs]`` and targets ``[networks, batch, ...]`` to
            the mean loss of every network ``[networks]``.
        metrics: maps the logits and targets of a whole set to values ``[networks]`` by name.
    """

    loss: Callable[[Tensor, Tensor], Tensor]
    metrics: Callable[[Tensor, Tensor], dict[str, Tensor]]


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy in nats, averaged over the batch: one value per network.

    Args:
        logits: ``[networks, batch, classes]``.
        targets: ``[networks, batch]``, in 0..classes-1.
    """
    losses = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none")
    return losses.view(targets.shape).mean(1)


def classification_metrics(logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Cross-entropy ("loss") and share of right classes ("accuracy"); shapes as above."""
    accuracy = (logits.argmax(-1) == targets).float().mean(1)
    return {"loss": cross_entropy(logits, targets), "accuracy": accuracy}


CLASSIFICATION = Objective(cross_entropy, classification_metrics)


def masked_binary_cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy in nats, averaged over the known labels: one value per network.

    Args:
        logits: ``[networks, batch, tasks]``.
        targets: ``[networks, batch, tasks]``, 0, 1, or NaN where the label is missing.

    Returns:
        ``[networks]``; 0 for a batch without any label.
    """
    known = ~targets.isnan()
    losses = F.binary_cross_entropy_with_logits(
        logits.float(), targets.nan_to_num(0.0), reduction="none"
    )
    return (losses * known).sum((1, 2)) / known.sum((1, 2)).clamp_min(1)


def seeded_generator(seed: int, stream: str) -> Generator:
    """Random numbers of one seed for one purpose.

    Streams of a seed are independent, so that for example all model variants see the same batches.

    Args:
        seed: the seed, at least 0.
        stream: the purpose, for example "weights", "split" or "batches".
    """
    digest = hashlib.sha256(f"{seed}/{stream}".encode()).digest()
    return Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)


def train(
    network: nn.Module,
    training: Split,
    held_out: dict[str, Split],
    generators: list[Generator],
    settings: TrainerSettings,
    objective: Objective = CLASSIFICATION,
    description: str = "training",
    checkpoint: Checkpoint | None = None,
) -> History:
    """Train a stack of networks with Adam, in place.

    Networks do not influence each other: each has its own rows, batch order and parameters, and
    every operation acts on each network alone. A network whose loss is no longer finite goes on
    (its numbers stay NaN) and is named in the result.

    Args:
        network: stack from :func:`convexinit.nn.stack_networks`, maps
            ``[networks, batch, features]`` to logits ``[networks, batch, classes]``.
        training: rows to train on.
        held_out: sets to evaluate before training and after every epoch, by name.
        generators: source of the batch order for every network, on the CPU.
        settings: number of epochs, batch size, optimiser, precision, device.
        objective: loss and metrics.
        description: label of the progress bar, or of the lines that stand for it in a log.
        checkpoint: where the state is saved now and then. If there is one already, training goes
            on from it, with the same numbers as without interruption.
    """
    begin = time.perf_counter()
    device = settings.torch_device()
    network.to(device)
    training = training.to(device)
    held_out = {name: split.to(device) for name, split in held_out.items()}
    optimiser = torch.optim.Adam(
        network.parameters(),
        lr=settings.learning_rate,
        weight_decay=settings.weight_decay,
        fused=True,
    )
    constrained = projected_weights(network)
    count, rows = training.rows.shape
    steps = math.ceil(rows / settings.batch_size)
    losses = torch.empty(count, settings.epochs * steps, device=device)
    history = History(losses, steps)

    done = 0  # optimiser steps
    orders = [generator.get_state() for generator in generators]
    state = checkpoint.load() if checkpoint else None
    if checkpoint and state is not None and not _fits(state, network, history):
        checkpoint.set_aside("is of another network, other data or another version")
        state = None
    if state is not None:
        done, orders = state["step"], state["orders"]
        _restore(state, network, optimiser, history)
    progress = TrainingProgress(description, settings.epochs, steps, done)

    def save() -> None:
        if checkpoint:
            spent = added(history.earlier, {git_revision(): time.perf_counter() - begin})
            checkpoint.save(
                _state(network, optimiser, history, spent) | {"step": done, "orders": orders}
            )

    with _numerics(settings, device) as autocast:
        if state is None:
            clamp_negative_(constrained)
            history.measurements += evaluate(network, held_out, objective, 0, 0, autocast)
        for epoch in range(done // steps + 1, settings.epochs + 1):
            for generator, order_state in zip(generators, orders, strict=True):
                generator.set_state(order_state)
            order = epoch_order(training.rows, generators)
            for start in range(done % steps * settings.batch_size, rows, settings.batch_size):
                inputs, targets = training.batch(order[:, start : start + settings.batch_size])
                with autocast():
                    logits = network(inputs)
                loss = objective.loss(logits, targets)
                optimiser.zero_grad()
                loss.sum().backward()
                optimiser.step()
                clamp_negative_(constrained)
                losses[:, done] = loss.detach()
                done += 1
                progress.step(loss)
                if checkpoint and done % steps and checkpoint.due():
                    save()
            history.measurements += evaluate(network, held_out, objective, epoch, done, autocast)
            orders = [generator.get_state() for generator in generators]
            if checkpoint and checkpoint.due():
                save()
        progress.close()
    history.batch_losses = losses.cpu()
    finite = finite_networks(network).tolist()
    history.diverged_at = [
        step if step is not None or still_finite else losses.shape[1]
        for step, still_finite in zip(first_non_finite(history.batch_losses), finite, strict=True)
    ]
    return history


def _state(
    network: nn.Module, optimiser: torch.optim.Optimizer, history: History, spent: dict[str, float]
) -> dict[str, Any]:
    """All that :func:`_restore` needs, but for the position in the epoch."""
    return {
        "network": network.state_dict(),
        "optimiser": optimiser.state_dict(),
        "losses": history.batch_losses,
        "measurements": [asdict(measurement) for measurement in history.measurements],
        "dropout": [generator.get_state() for generator in _dropout_generators(network)],
        "spent": spent,
    }


def added(*parts: Mapping[str, float]) -> dict[str, float]:
    """Sum of numbers by name.

    Example:
        >>> added({"a": 1.0}, {"a": 2.0, "b": 4.0})
        {'a': 3.0, 'b': 4.0}
    """
    names = dict.fromkeys(name for part in parts for name in part)
    return {name: sum(part.get(name, 0.0) for part in parts) for name in names}


def _fits(state: dict[str, Any], network: nn.Module, history: History) -> bool:
    """Whether a state was taken from such a network, in a training of as many steps.

    And by code that saves what this one does.
    """
    expected = {**network.state_dict(), "losses": history.batch_losses}
    found = {**state.get("network", {}), "losses": state.get("losses")}
    return (
        "spent" in state
        and expected.keys() == found.keys()
        and all(
            isinstance(found[name], Tensor) and found[name].shape == tensor.shape
            for name, tensor in expected.items()
        )
    )


def _restore(
    state: dict[str, Any],
    network: nn.Module,
    optimiser: torch.optim.Optimizer,
    history: History,
) -> None:
    """Go back to the state that :func:`_state` took."""
    network.load_state_dict(state["network"])
    optimiser.load_state_dict(state["optimiser"])
    history.batch_losses.copy_(state["losses"])
    history.measurements = [Measurement(**fields) for fields in state["measurements"]]
    history.earlier = state["spent"]
    for generator, saved in zip(_dropout_generators(network), state["dropout"], strict=True):
        generator.set_state(saved)


def _dropout_generators(network: nn.Module) -> list[Generator]:
    """Generators of all dropout layers, each once."""
    layers = [module for module in network.modules() if isinstance(module, Dropout)]
    return list(dict.fromkeys(generator for layer in layers for generator in layer.generators))


def epoch_order(rows: Tensor, generators: list[Generator]) -> Tensor:
    """Shuffle each network's rows ``[networks, m]`` with its own generator."""
    orders = [torch.randperm(rows.shape[1], generator=generator) for generator in generators]
    return rows.gather(1, torch.stack(orders).to(rows.device))


@torch.no_grad()
def evaluate(
    network: nn.Module,
    held_out: dict[str, Split],
    objective: Objective,
    epoch: int,
    step: int,
    autocast: Callable[[], contextlib.AbstractContextManager],
) -> list[Measurement]:
    """Metrics of every network on every held-out set."""
    network.eval()
    measurements = []
    for name, split in held_out.items():
        logits, targets = [], []
        for rows in split.rows.split(EVALUATION_ROWS, dim=1):
            inputs, part = split.batch(rows)
            with autocast():
                logits.append(network(inputs).float())
            targets.append(part)
        metrics = objective.metrics(torch.cat(logits, 1), torch.cat(targets, 1))
        measurements += [
            Measurement(epoch, step, name, metric, values.tolist())
            for metric, values in metrics.items()
        ]
    network.train()
    return measurements


def finite_networks(stack: nn.Module) -> Tensor:
    """Whether all parameters ``[networks, ...]`` of a network are finite: ``[networks]``."""
    parts = [parameter.isfinite().flatten(1).all(1) for parameter in stack.parameters()]
    return torch.stack(parts).all(0)


def first_non_finite(losses: Tensor) -> list[int | None]:
    """First step (from 1) at which each row of ``[networks, steps]`` is not finite, or None."""
    bad = ~losses.isfinite()
    return [int(row.int().argmax()) + 1 if row.any() else None for row in bad]


@contextlib.contextmanager
def _numerics(
    settings: TrainerSettings, device: torch.device
) -> Iterator[Callable[[], contextlib.AbstractContextManager]]:
    """Set the precision of matrix products for the time of a training; yields autocast."""
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if settings.precision == "tf32" else "highest")
    try:
        yield lambda: torch.autocast(
            device.type, torch.bfloat16, enabled=settings.precision == "bfloat16"
        )
    finally:
        torch.set_float32_matmul_precision(before)


def prepare_process() -> None:
    """Settings of the whole process that make training on a CPU faster.

    To be called before torch has started its threads, which inherit the first of them:

    - Denormal numbers count as zero: units that stopped learning leave moments of Adam that shrink
      into that range, where arithmetic is slow.
    - glibc keeps large freed blocks: gradients are freed and allocated again in every step, and
      Linux would map and clear their pages each time.
    """
    torch.set_flush_denormal(True)
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            mallopt = ctypes.CDLL(None).mallopt
            mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD: serve blocks below 1 GiB from the heap
            mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD: keep up to 2 GiB of free heap


def device_name(device: torch.device) -> str:
    """Name of the processor, and the number of threads that torch uses on a CPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_processor()}, {torch.get_num_threads()} threads"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
