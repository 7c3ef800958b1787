"""Networks that other people wrote: by their own start, filled by hand, and by ``init_icnn_``."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product

import pandas as pd
import torch

from convexinit_paper.experiments.your_network.kinds import KINDS
from convexinit_paper.experiments.your_network.trials import (
    STARTS,
    TrialSettings,
    draw_data,
    global_random,
    try_start,
)
from convexinit_paper.progress import with_progress
from convexinit_paper.request.options import Section, at_least, option, require
from convexinit_paper.request.request import Request
from convexinit_paper.store.runs import COLUMNS, Outcome, seed_summary
from convexinit_paper.training.machine import device_name, prepare_process


@dataclass(frozen=True)
class NetworkSettings(Section):
    """What all networks share; defaults in ``conf/model``."""

    name: str = option("of the variant")
    width: int = option("units of hidden layers; convolutions have an eighth", at_least(8))


@dataclass(frozen=True)
class Settings:
    """Sections of the configuration."""

    model: NetworkSettings
    your_network: TrialSettings

    def __post_init__(self) -> None:
        kinds = self.your_network.kinds
        known = bool(kinds) and {*kinds} <= {*KINDS}
        require(known, "your_network.kinds", f"a list of some of {', '.join(KINDS)}", kinds)


def run(settings: Settings, request: Request) -> Outcome:
    """Train every kind of network at both of its depths, from each of its starts.

    In the table, ``split`` is "<kind>/<hidden layers>/<start>". ``test_loss`` has as ``step`` the
    training steps before it, and is infinite where training diverged. ``mean`` (over the rows and
    units) and ``variance`` (over the rows, mean over the units) of the hidden pre-activations, of
    the network at its start on the test set, have as ``step`` the number of the layer, from 1.

    In the summary, ``titles`` are those of the kinds, ``cost`` is the time of ``init_icnn_`` in
    steps of the training that follows, a number a seed, and ``refused`` what it said of networks
    that it did not initialise.
    """
    prepare_process()
    rows: list[tuple[int, int, int, str, str, float]] = []
    cost: dict[str, list[float]] = {}
    refused: dict[str, str] = {}
    cells = [(name, depth) for name in settings.your_network.kinds for depth in KINDS[name].depths]
    trials = [*product(cells, request.seeds)]
    with _one_thread():
        for (name, depth), seed in with_progress(trials, "training", len(trials), "networks"):
            kind, place = KINDS[name], f"{name}/{depth}"
            with global_random(seed, f"{place}/network"):
                network = kind.build(settings.model.width, depth)
            data = draw_data(kind, seed, f"{name}/data")
            for start in STARTS:
                if start == "glue" and kind.glue is None:
                    continue
                trial = try_start(
                    kind, copy.deepcopy(network), depth, data, start, settings.your_network, seed
                )
                split = f"{place}/{start}"
                for layer, (mean, variance) in enumerate(trial.signals, 1):
                    rows.append((seed, 0, layer, split, "mean", mean))
                    rows.append((seed, 0, layer, split, "variance", variance))
                for step, loss in trial.losses.items():
                    rows.append((seed, 0, step, split, "test_loss", loss))
                if trial.refusal:
                    refused[place] = trial.refusal
                elif start == "init_icnn_":
                    cost.setdefault(place, []).append(round(trial.cost, 2))
    return Outcome(
        metrics=pd.DataFrame(rows, columns=COLUMNS),
        # A start that diverges is a result: the seeds of this experiment are not lost by it.
        seeds={seed: seed_summary(diverged=False) for seed in request.seeds},
        device=device_name(torch.device("cpu")),
        notes={
            "titles": {name: KINDS[name].title for name in settings.your_network.kinds},
            "cost": cost,
            "refused": refused,
        },
    )


@contextmanager
def _one_thread() -> Iterator[None]:
    """Small networks are fastest on one thread, and their times comparable."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
