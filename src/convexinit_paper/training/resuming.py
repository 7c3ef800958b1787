"""Trainings that can be interrupted at any step, and go on with the same numbers."""

from __future__ import annotations

import time
from typing import Any

from torch import Generator, Tensor, nn, optim

from convexinit.dropout import Dropout
from convexinit_paper.store.checkpoints import Checkpoint
from convexinit_paper.store.provenance import git_revision
from convexinit_paper.training.history import added


class TrainingState:
    """How far a training has come: what its checkpoint holds, and where it goes on from.

    If there is a checkpoint that fits, network, optimiser and losses are set to what they were
    then; one of something else is set aside with a warning.

    Args:
        checkpoint: None for a training that is not saved.
        network: what is trained.
        optimiser: of its parameters.
        losses: ``[..., steps]`` of all batches of the whole training, filled step by step.
        kept: what else the training needs to go on, at its beginning: tensors, numbers, strings,
            lists and dictionaries.

    Attributes:
        step: steps that are done; whoever trains counts them.
        kept: as above, by now.
        earlier: seconds spent by earlier processes, by the revision of their code.
    """

    def __init__(
        self,
        checkpoint: Checkpoint | None,
        network: nn.Module,
        optimiser: optim.Optimizer,
        losses: Tensor,
        **kept: Any,
    ) -> None:
        self.step = 0
        self.kept = kept
        self.earlier: dict[str, float] = {}
        self._begin = time.perf_counter()
        self._checkpoint = checkpoint
        self._network, self._optimiser, self._losses = network, optimiser, losses
        layers = [module for module in network.modules() if isinstance(module, Dropout)]
        self._dropout = list(dict.fromkeys(source for part in layers for source in part.generators))
        saved = checkpoint.load() if checkpoint else None
        if checkpoint and saved is not None:
            if self._fits(saved):
                self._restore(saved)
            else:
                checkpoint.set_aside("is of another network, other data or another version")

    def spent(self) -> dict[str, float]:
        """Seconds of the training until now, by the revision of the code that trained."""
        return added(self.earlier, {git_revision(): time.perf_counter() - self._begin})

    def save_if_due(self) -> None:
        """Save if the last state is old enough."""
        if self._checkpoint and self._checkpoint.due():
            self.save()

    def save(self) -> None:
        """Write everything to the checkpoint, if there is one."""
        if self._checkpoint:
            self._checkpoint.save(self._state())

    def _state(self) -> dict[str, Any]:
        return {
            "network": self._network.state_dict(),
            "optimiser": self._optimiser.state_dict(),
            "losses": self._losses,
            "dropout": states_of(self._dropout),
            "step": self.step,
            "spent": self.spent(),
            **self.kept,
        }

    def _fits(self, saved: dict[str, Any]) -> bool:
        """Whether the same code saved such a network, in a training of as many steps."""
        expected = self._state()
        if expected.keys() != saved.keys():
            return False
        ours, theirs = ({**state["network"], "": state["losses"]} for state in (expected, saved))
        return ours.keys() == theirs.keys() and all(
            isinstance(theirs[name], Tensor) and theirs[name].shape == tensor.shape
            for name, tensor in ours.items()
        )

    def _restore(self, saved: dict[str, Any]) -> None:
        self._network.load_state_dict(saved["network"])
        self._optimiser.load_state_dict(saved["optimiser"])
        self._losses.copy_(saved["losses"])
        set_states(self._dropout, saved["dropout"])
        self.step, self.earlier = saved["step"], saved["spent"]
        self.kept = {name: saved[name] for name in self.kept}


def states_of(generators: list[Generator]) -> list[Tensor]:
    """Where generators are in their streams of random numbers."""
    return [generator.get_state() for generator in generators]


def set_states(generators: list[Generator], states: list[Tensor]) -> None:
    """Let generators go on from where others were."""
    for generator, state in zip(generators, states, strict=True):
        generator.set_state(state)
