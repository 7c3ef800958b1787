"""Which stored runs were made with given options, and which of them belong together.

An option that a run lacks is younger than the run, which was made with what is now its default: a
new option hides no run.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from convexinit_paper.store.identity import PLACES, Config
from convexinit_paper.store.runs import Run
from convexinit_paper.training.settings import PRECISIONS

# Options that name a run, or the place of its data, without changing its numbers.
LABELS = ("name", "task", "model.name", "model.title", "dataset.path", *PLACES)

Label = TypeVar("Label", bound=Hashable)


@dataclass(frozen=True)
class Wanted:
    """What a run is to be like.

    Attributes:
        experiment: its name.
        model: name of its model variant.
        fixed: the values of options, by dotted name.
        defaults: the values of options that a run may be too old to have.
    """

    experiment: str
    model: str
    fixed: Mapping[str, Any]
    defaults: Mapping[str, Any] = field(default_factory=dict)

    def is_kind_of(self, config: Config) -> bool:
        """Whether a configuration is of this experiment and model variant."""
        return (config["name"], config["model"]["name"]) == (self.experiment, self.model)

    def fits(self, options: Mapping[str, Any]) -> bool:
        """Whether the options of a run, as of :func:`flatten`, have the fixed values."""
        return all(
            options.get(name, self.defaults.get(name)) == value
            for name, value in self.fixed.items()
        )


@dataclass(frozen=True)
class RunSet(Generic[Label]):
    """Runs that share all options but those that are fixed for each.

    Attributes:
        shared: the options that they share, by dotted name.
        runs: by label; several of a label differ in what a search chose for them.
    """

    shared: dict[str, Any]
    runs: dict[Label, list[Run]]

    @property
    def merit(self) -> tuple[int, int, int]:
        """The larger, the better: number of labels, seeds x epochs, and precision."""
        precision = self.shared.get("trainer.precision", PRECISIONS[0])
        return (
            len(self.runs),
            len(self.shared["seeds"]) * self.shared.get("trainer.epochs", 1),
            -PRECISIONS.index(precision),
        )


def run_sets(
    wanted: Mapping[Label, Wanted], runs: Iterable[Run], chosen: Collection[str] = ()
) -> list[RunSet[Label]]:
    """Stored runs that fit, as sets that share all other options; the best set first.

    Args:
        wanted: what runs are to be like, by label.
        runs: stored runs of any experiments.
        chosen: options in which the runs of a set may differ.
    """
    sets: dict[str, RunSet[Label]] = {}
    for run in runs:
        kindred = {label: one for label, one in wanted.items() if one.is_kind_of(run.config)}
        options = flatten(run.config) if kindred else {}
        for label, one in kindred.items():
            if one.fits(options):
                names = sorted({*options} - {*one.fixed} - {*chosen})
                shared = {name: options[name] for name in names}
                sets.setdefault(json.dumps(shared), RunSet(shared, {})).runs.setdefault(
                    label, []
                ).append(run)
    return sorted(sets.values(), key=lambda one: one.merit, reverse=True)


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Options of a configuration by their dotted names, without :data:`LABELS`.

    Example:
        >>> flatten({"seeds": [0, 1], "model": {"rho": 0.5}, "data_dir": "data"})
        {'seeds': [0, 1], 'model.rho': 0.5}
    """
    flat: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if name in LABELS:
            continue
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{name}.")
        else:
            flat[name] = value
    return flat
