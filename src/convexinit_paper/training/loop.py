"""The training loop: many seeds as one stacked network, data in memory, no work per sample."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn

from convexinit.layers import clamp_negative_, projected_weights
from convexinit.step_sizes import parameter_groups
from convexinit_paper.progress import TrainingProgress
from convexinit_paper.store.checkpoints import Checkpoint
from convexinit_paper.training.history import History, Measurement
from convexinit_paper.training.machine import set_precision
from convexinit_paper.training.memory import BYTES, FEWER_WEIGHTS, require_memory
from convexinit_paper.training.objectives import CLASSIFICATION, Objective
from convexinit_paper.training.resuming import TrainingState, set_states, states_of
from convexinit_paper.training.settings import TrainerSettings

EVALUATION_ROWS = 2048


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
    (its numbers stay NaN) and is named in the result; once all are lost, epochs are only measured.

    Args:
        network: stack from :func:`convexinit.stacking.stack_networks`, maps
            ``[networks, batch, features]`` to logits ``[networks, batch, classes]``.
        training: rows to train on.
        held_out: sets to evaluate before training and after every epoch, by name.
        generators: source of the batch order for every network, on the CPU.
        settings: number of epochs, batch size, optimiser, precision, device; ``step_sizes`` is not
            "auto".
        objective: loss and metrics.
        description: label of the progress bar, or of the lines that stand for it in a log.
        checkpoint: where the state is saved now and then. If there is one already, training goes
            on from it, with the same numbers as without interruption.

    Raises:
        ConfigError: there is too little memory.
    """
    device = settings.torch_device()
    count, rows = training.rows.shape
    steps = math.ceil(rows / settings.batch_size)
    require_memory(
        BYTES * count * settings.epochs * steps,
        f"the losses of {settings.epochs * steps:,} steps",
        "fewer trainer.epochs",
    )
    if device.type == "cpu":  # elsewhere torch says so
        parameters = sum(parameter.numel() for parameter in network.parameters())
        what = f"the gradients and two moments of Adam of {parameters:,} parameters"
        require_memory(3 * BYTES * parameters, what, FEWER_WEIGHTS)
    network.to(device)
    training = training.to(device)
    held_out = {name: split.to(device) for name, split in held_out.items()}
    rate = settings.learning_rate
    groups: Iterable[Any] = network.parameters()
    if settings.step_sizes == "by_layer":
        groups = parameter_groups(network, rate)
    optimiser = torch.optim.Adam(groups, lr=rate, weight_decay=settings.weight_decay, fused=True)
    rates = [group["lr"] for group in optimiser.param_groups]
    constrained = projected_weights(network)
    losses = torch.empty(count, settings.epochs * steps, device=device)
    state = TrainingState(
        checkpoint, network, optimiser, losses, measurements=[], orders=states_of(generators)
    )
    progress = TrainingProgress(description, settings.epochs, steps, state.step)

    with set_precision(settings.precision, device) as autocast:

        def measure(epoch: int) -> None:
            measured = evaluate(network, held_out, objective, epoch, state.step, autocast)
            state.kept["measurements"] += map(asdict, measured)

        if state.step == 0:
            clamp_negative_(constrained)
            measure(0)
        for epoch in range(state.step // steps + 1, settings.epochs + 1):
            set_states(generators, state.kept["orders"])
            order = epoch_order(training.rows, generators)
            first = state.step % steps * settings.batch_size
            if all_lost(network):
                losses[:, state.step : epoch * steps] = torch.nan
                progress.step(losses[:, state.step], epoch * steps - state.step)
                state.step, first = epoch * steps, rows
            for start in range(first, rows, settings.batch_size):
                inputs, targets = training.batch(order[:, start : start + settings.batch_size])
                with autocast():
                    logits = network(inputs)
                loss = objective.loss(logits, targets)
                share = min(1.0, (state.step + 1) / max(1, settings.warmup))
                for group, full in zip(optimiser.param_groups, rates, strict=True):
                    group["lr"] = share * full
                optimiser.zero_grad()
                loss.sum().backward()
                optimiser.step()
                clamp_negative_(constrained)
                losses[:, state.step] = loss.detach()
                state.step += 1
                progress.step(loss)
                if state.step % steps:
                    state.save_if_due()
            measure(epoch)
            state.kept["orders"] = states_of(generators)
            state.save_if_due()
    progress.close()
    losses = losses.cpu()
    measurements = [Measurement(**fields) for fields in state.kept["measurements"]]
    return History(losses, steps, measurements, diverged_at(losses, network), state.earlier)


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


def all_lost(stack: nn.Module) -> bool:
    """Whether every network has a weight of NaN, from which no step of training leads back.

    Args:
        stack: with parameters ``[networks, ...]``.
    """
    lost = [parameter.isnan().flatten(1).any(1) for parameter in stack.parameters()]
    return bool(torch.stack(lost).any(0).all())


def diverged_at(losses: Tensor, stack: nn.Module) -> list[int | None]:
    """First step (from 1) of each network with a loss or, at the end, a weight that is not finite.

    Args:
        losses: ``[networks, steps]``, on the CPU.
        stack: with parameters ``[networks, ...]``.
    """
    weights = [parameter.isfinite().flatten(1).all(1) for parameter in stack.parameters()]
    bad = ~losses.isfinite()
    bad[:, -1] |= ~torch.stack(weights).all(0).cpu()
    return [int(row.int().argmax()) + 1 if row.any() else None for row in bad]
