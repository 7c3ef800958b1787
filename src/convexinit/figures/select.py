"""Which stored runs a figure is drawn from.

The rule: a panel belongs to an experiment of ``conf/``, and a run belongs to the panel only if its
options are those of that experiment and variant. Only the options in :data:`FREE` may differ, but
all variants in a panel must share them. If there are several such sets of runs, the one with the
most variants is taken, and among these the one with the most seeds x epochs; two equally good sets
are an error. Which runs were used is always reported.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from convexinit.config import CONF
from convexinit.runs import PLACES, Run, RunError

# Titles of the model variants, in the order of legends.
TITLES = {
    "nonconvex": "non-convex",
    "icnn": "ICNN",
    "icnn_skip": "ICNN + skip",
    "icnn_init": "ICNN + init",
}
# Options that decide how far and on what a run was trained, not what was trained.
FREE = ("seeds", "trainer.epochs", "trainer.precision", "trainer.device")
# Runs that differ in these are of another panel, and are not reported as nearly fitting.
KINDS = ("dataset.name", "codec.name")
# Options that name a run without changing its numbers.
LABELS = ("name", "task", "model.name", "model.title", *PLACES)


@dataclass(frozen=True)
class Panel:
    """The runs that one panel of a figure compares.

    Attributes:
        experiment: name of the experiment.
        title: what is written above the panel.
        variants: names of the model variants; each with the options in which it departs from the
            experiment, such as ``{"model.num_hidden": 3}``.
        groups: choices of configuration groups other than the experiment's own, such as
            ``{"codec": "ecfp"}``.
    """

    experiment: str
    title: str
    variants: Mapping[str, Mapping[str, Any]] = field(
        default_factory=lambda: {name: {} for name in TITLES}
    )
    groups: Mapping[str, str] = field(default_factory=dict)

    def options(self, variant: str) -> dict[str, Any]:
        """All options that are fixed for a variant."""
        choices = tuple(f"{group}={choice}" for group, choice in self.groups.items())
        return {**_options_of(self.experiment, variant, choices), **self.variants[variant]}


@cache
def _options_of(experiment: str, variant: str, choices: tuple[str, ...]) -> dict[str, Any]:
    """Options of an experiment and a variant in ``conf/`` by dotted name, but for free ones."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        config = compose("config", [f"experiment={experiment}", f"model={variant}", *choices])
    options = flatten(OmegaConf.to_container(config, resolve=True))  # type: ignore[arg-type]
    return {name: value for name, value in options.items() if name not in FREE}


@dataclass(frozen=True)
class Selection:
    """The stored runs for a panel.

    Attributes:
        panel: what was looked for.
        runs: the run of every variant that was found, in the order of the panel.
        common: the options that these runs share beyond the fixed ones.
        unused: runs of variants that were not found, with what they do differently.
    """

    panel: Panel
    runs: dict[str, Run]
    common: dict[str, Any]
    unused: list[tuple[Run, str]]

    @property
    def missing(self) -> list[str]:
        """Variants without a run."""
        return [variant for variant in self.panel.variants if variant not in self.runs]

    def commands(self, root: Path) -> list[str]:
        """Commands that produce the missing runs.

        Args:
            root: the folder that runs are read from.
        """
        # What was found is to be completed, so its free options are asked for again.
        free = {name: value for name, value in self.common.items() if name in FREE}
        place = {}
        if root.name == "runs" and root.parent != Path("results"):
            place = {"results_dir": str(root.parent)}
        by_options: dict[str, list[str]] = {}
        for variant in self.missing:
            options = {**self.panel.groups, **self.panel.variants[variant], **free, **place}
            arguments = "".join(f" {_argument(*option)}" for option in options.items())
            by_options.setdefault(arguments, []).append(variant)
        return [
            f"python run.py -m experiment={self.panel.experiment} model={','.join(variants)}"
            f"{arguments}"
            for arguments, variants in by_options.items()
        ]


def select(panel: Panel, runs: list[Run]) -> Selection:
    """Find the runs for a panel, by the rule at the top of this module.

    Args:
        panel: what to look for.
        runs: stored runs of any experiments.

    Raises:
        RunError: if two sets of runs fit equally well.
    """
    candidates = [
        (run, flatten(run.config))
        for run in runs
        if run.config["name"] == panel.experiment and run.config["model"]["name"] in panel.variants
    ]
    sets: dict[str, dict[str, Run]] = {}
    for run, options in candidates:
        fixed = panel.options(run.config["model"]["name"])
        if all(options.get(name, value) == value for name, value in fixed.items()):
            common = {name: options[name] for name in options if name not in fixed}
            key = json.dumps(common, sort_keys=True)
            sets.setdefault(key, {})[run.config["model"]["name"]] = run
    best = _best(panel, sets)
    found = sets.get(best, {})
    common = json.loads(best)
    unused = [
        (run, _differences(options, {**common, **panel.options(run.config["model"]["name"])}))
        for run, options in candidates
        if (model := run.config["model"]["name"]) not in found
        and all(options.get(kind) == panel.options(model).get(kind) for kind in KINDS)
    ]
    ordered = {variant: found[variant] for variant in panel.variants if variant in found}
    return Selection(panel, ordered, common, unused)


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Options of a configuration by their dotted names, without :data:`LABELS`.

    Example:
        >>> flatten({"seeds": [0, 1], "model": {"rho": 0.5}, "data_dir": "data"})
        {'seeds': [0, 1], 'model.rho': 0.5}
    """
    flat: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{name}.")
        elif name not in LABELS:
            flat[name] = value
    return flat


def _best(panel: Panel, sets: dict[str, dict[str, Run]]) -> str:
    """Key of the set of runs to use, ``"{}"`` if there is none."""

    def merit(key: str) -> tuple[int, int]:
        common = json.loads(key)
        return len(sets[key]), len(common["seeds"]) * common.get("trainer.epochs", 1)

    ranked = sorted(sets, key=merit, reverse=True)
    if not ranked:
        return "{}"
    if len(ranked) > 1 and merit(ranked[0]) == merit(ranked[1]):
        first, second = (json.loads(key) for key in ranked[:2])
        names = sorted(n for n in first | second if first.get(n) != second.get(n))
        folders = [str(next(iter(sets[key].values())).folder) for key in ranked[:2]]
        raise RunError(
            f"two sets of runs fit the panel {panel.title} equally well; they differ in "
            f"{', '.join(names)}.\n"
            f"One holds {folders[0]},\nthe other {folders[1]}.\n"
            "Move one set to another folder."
        )
    return ranked[0]


def _differences(options: dict[str, Any], reference: dict[str, Any]) -> str:
    """The options whose values are not those of a reference, as ``name=value instead of value``."""
    return ", ".join(
        f"{name}={options[name]} instead of {reference[name]}"
        for name in reference
        if name in options and options[name] != reference[name]
    )


def _argument(name: str, value: Any) -> str:
    """An option as an argument of ``run.py``."""
    if name == "seeds" and value == list(range(len(value))):
        value = len(value)
    text = "null" if value is None else json.dumps(value, separators=(",", ":"))
    return shlex.quote(f"{name}={text.strip(chr(34))}")
