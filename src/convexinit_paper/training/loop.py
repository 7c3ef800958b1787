"""The training loop: many seeds as one stacked network, data in memory, no work per sample."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn

from convexinit.dropout import Dropout
from convexinit.layers import clamp_negative_, projected_weights
from convexinit_paper.progress import TrainingProgress
from convexinit_paper.store.checkpoints import Checkpoint
from convexinit_paper.store.provenance import git_revision
from convexinit_paper.training.history import History, Measurement, added
from convexinit_paper.training.machine import numerics
from convexinit_paper.training.objectives import CLASSIFICATION, Objective
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
    (its numbers stay NaN) and is named in the result.

    Args:
        network: stack from :func:`convexinit.stacking.stack_networks`, maps
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

    with numerics(settings, device) as autocast:
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
