"""One network of others: started in one of three ways, looked at, and trained."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from convexinit import init_icnn_, keep_convex
from convexinit_paper.experiments.your_network.kinds import Kind
from convexinit_paper.experiments.your_network.tasks import Inputs
from convexinit_paper.request.options import Section, above, at_least, option
from convexinit_paper.training.randomness import seeded_generator

STARTS = ("default", "glue", "init_icnn_")
ACTIVATIONS = (F.softplus, F.relu, F.leaky_relu, F.celu)  # that the networks call
_DEEP = 6  # hidden layers, from which on the user's page advises to give more rows


@dataclass(frozen=True)
class TrialSettings(Section):
    """How networks are started and trained; defaults in ``conf/experiment``."""

    kinds: list[str] = option("of networks, by name")
    steps: int = option("of Adam", at_least(1))
    learning_rate: float = option("of Adam", above(0))
    rows: int = option("of the training set that init_icnn_ sees", at_least(2))
    deep_rows: int = option("likewise, from six hidden layers on", at_least(2))
    images: int = option("likewise, where rows are images: every position counts", at_least(2))

    def seen(self, inputs: Inputs, depth: int) -> Inputs:
        """What ``init_icnn_`` sees of the inputs of a training set, for so many hidden layers."""
        rows = self.deep_rows if depth >= _DEEP else self.rows
        return tuple(x[: self.images if inputs[0].ndim == 4 else rows] for x in inputs)


@dataclass(frozen=True)
class Data:
    """Rows of a task: inputs and targets for training, and others for testing."""

    inputs: Inputs
    target: Tensor
    test_inputs: Inputs
    test_target: Tensor


@dataclass
class Trial:
    """What came of one network from one start.

    Attributes:
        losses: relative loss on the test set, by the number of steps before; infinite if training
            diverged.
        signals: mean and variance of hidden pre-activations at the start, from the first layer on.
        cost: of ``init_icnn_``, in steps of the training that followed; NaN for other starts.
        refusal: what ``init_icnn_`` said of a network that it did not initialise.
    """

    losses: dict[int, float] = field(default_factory=dict)
    signals: list[tuple[float, float]] = field(default_factory=list)
    cost: float = math.nan
    refusal: str = ""


def draw_data(kind: Kind, seed: int, stream: str) -> Data:
    """The data of a task, whose function depends on the seed as well."""
    count = kind.task.train_rows
    generator = seeded_generator(seed, stream)
    inputs, target = kind.task.draw(count + kind.task.test_rows, generator)
    train, test = tuple(x[:count] for x in inputs), tuple(x[count:] for x in inputs)
    return Data(train, target[:count], test, target[count:])


@contextmanager
def global_random(seed: int, stream: str) -> Iterator[None]:
    """The global source of randomness, which networks of others draw from, by seed and purpose."""
    with torch.random.fork_rng([]):
        torch.manual_seed(seeded_generator(seed, stream).initial_seed())
        yield


def try_start(
    kind: Kind,
    network: nn.Module,
    depth: int,
    data: Data,
    start: str,
    settings: TrialSettings,
    seed: int,
) -> Trial:
    """Start a network in one of the ways of :data:`STARTS`, look at its signals, and train it.

    Args:
        kind: of the network.
        network: as its author starts it.
        depth: how many hidden layers it has.
        data: of its task.
        start: which way.
        settings: of all trials.
        seed: of the order of the rows, and of what is drawn.
    """
    trial = Trial()
    initial = settings.seen(data.inputs, depth)
    spent = math.nan
    with global_random(seed, start):
        try:
            if start == "glue" and kind.glue is not None:
                with torch.no_grad():
                    kind.glue(network)
            elif start == "init_icnn_":
                arguments = kind.view(network, initial)
                began = time.process_time()
                init_icnn_(network, arguments, convex=kind.convex, call=kind.call)
                spent = time.process_time() - began
        except ValueError as error:
            return Trial(refusal=str(error))
    if start != "init_icnn_":
        network(*initial)  # sets what a first batch sets, as init_icnn_ does
    optimiser = torch.optim.Adam(network.parameters(), settings.learning_rate)
    if weights := kind.clamped(network):
        keep_convex(optimiser, network, weights)
    signals = pre_activations(kind, network, data.test_inputs)
    trial.signals = [(float(s.mean()), float(s.var(0).mean())) for s in signals]
    trial.losses[0] = test_loss(kind, network, data)
    seconds = _train(kind, network, data, optimiser, settings, seed)
    trial.losses[settings.steps] = test_loss(kind, network, data)
    trial.cost = spent / seconds
    return trial


def test_loss(kind: Kind, network: nn.Module, data: Data) -> float:
    """Relative loss on the test set; infinite if it is not a number."""
    network.eval()
    loss = float(kind.task.test_loss(network, data.test_inputs, data.test_target).detach())
    network.train()
    return loss if math.isfinite(loss) else math.inf


def _train(
    kind: Kind,
    network: nn.Module,
    data: Data,
    optimiser: torch.optim.Optimizer,
    settings: TrialSettings,
    seed: int,
) -> float:
    """Train, for as long as the loss is finite; returns the time of a step (median, seconds)."""
    generator = seeded_generator(seed, "batches")
    times = []
    for _ in range(settings.steps):
        began = time.process_time()
        rows = torch.randint(len(data.target), (kind.task.batch_size,), generator=generator)
        optimiser.zero_grad()
        loss = kind.task.loss(network, tuple(x[rows] for x in data.inputs), data.target[rows])
        if not loss.isfinite():
            break
        loss.backward()
        optimiser.step()
        times.append(time.process_time() - began)
    return statistics.median(times) if times else math.nan


class _Activations(TorchFunctionMode):
    """Keeps what activations are called with, if it depends on the convex inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.signals: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in ACTIVATIONS and args[0].requires_grad:
            self.signals.append(args[0].detach().clone())
        return func(*args, **(kwargs or {}))


def pre_activations(kind: Kind, network: nn.Module, inputs: Inputs) -> list[Tensor]:
    """What the activations of the convex path read, in float64, ``[rows and positions, units]``.

    Independent of how ``init_icnn_`` finds layers: activations are recognised by name.
    """
    flags = [parameter.requires_grad for parameter in network.parameters()]
    convex = (kind.convex,) if isinstance(kind.convex, int) else kind.convex
    arguments = [x.detach().clone() for x in kind.view(network, inputs)]
    for index in convex:
        arguments[index].requires_grad_()
    network.requires_grad_(False)
    try:
        with _Activations() as seen:
            (kind.call or type(network).__call__)(network, *arguments)
    finally:
        for parameter, flag in zip(network.parameters(), flags, strict=True):
            parameter.requires_grad_(flag)
    return [signal.double().movedim(1, -1).flatten(0, -2) for signal in seen.signals]
