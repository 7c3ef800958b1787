"""Which stored runs a figure is drawn from.

The rule: a panel belongs to an experiment of ``conf/``, and a run belongs to the panel only if its
options are those of that experiment and variant. Only the options in :data:`FREE` may differ, but
all variants in a panel must share them. If there are several such sets of runs, the one with the
most variants is taken, and among these the one with the most seeds x epochs, and among these the
one of the highest precision; two equally good sets are an error. Which runs were used is always
reported.

Runs that follow a search for hyper-parameters may also differ in what it chose for each variant.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from convexinit_paper.figures.variants import MODELS, Variants, variants
from convexinit_paper.request.config import composed
from convexinit_paper.request.quoting import argument, run_command
from convexinit_paper.store.errors import RunError
from convexinit_paper.store.matching import RunSet, Wanted, flatten, run_sets
from convexinit_paper.store.runs import Run

# Options that decide how far and on what a run was trained or searched for, not what was trained.
FREE = ("seeds", "trainer.epochs", "trainer.precision", "trainer.device", "search.grid")
# Runs that differ in these are of another panel, and are not reported as nearly fitting.
KINDS = ("dataset.name", "codec.name")


@dataclass(frozen=True)
class Panel:
    """The runs that one panel of a figure compares.

    Attributes:
        experiment: name of the experiment.
        title: what is written above the panel.
        variants: what is compared, such as ``{"icnn": {"model.num_hidden": 3}}``.
        groups: choices of configuration groups other than the experiment's own, such as
            ``{"codec": "ecfp"}``.
        chosen: options that a search chose for every variant on its own, so that they may differ
            between the variants.
        instead: what is shown if there are no runs at all.
    """

    experiment: str
    title: str
    variants: Variants = field(default_factory=lambda: variants(*MODELS))
    groups: Mapping[str, str] = field(default_factory=dict)
    chosen: Collection[str] = ()
    instead: Panel | None = None

    def of(self, names: Collection[str]) -> Panel:
        """The same panel with some of its variants alone."""
        chosen = {name: value for name, value in self.variants.items() if name in names}
        instead = self.instead and self.instead.of(names)
        return replace(self, variants=chosen, instead=instead)

    def model(self, variant: str) -> str:
        """The model variant of ``conf/`` behind a name in this panel."""
        return self.variants[variant].get("model", variant)

    def changes(self, variant: str) -> dict[str, Any]:
        """The options in which a variant departs from those of ``conf/``."""
        return {name: value for name, value in self.variants[variant].items() if name != "model"}

    def wanted(self, variant: str) -> Wanted:
        """What the run of a variant is like: the options that are fixed for it."""
        choices = tuple(argument(group, choice) for group, choice in self.groups.items())
        defaults = _options_of(self.experiment, self.model(variant), choices)
        options = {**defaults, **self.changes(variant)}
        fixed = {name: value for name, value in options.items() if name not in self.chosen}
        return Wanted(self.experiment, self.model(variant), fixed, defaults)

    def wanted_among(self, runs: Iterable[Run]) -> dict[str, Wanted]:
        """What the runs of those variants are like that any run is of.

        Without the others, whose options would be composed for nothing: that takes 0.1 s each.
        """
        kinds = {(run.config["name"], run.config["model"]["name"]) for run in runs}
        return {
            variant: self.wanted(variant)
            for variant in self.variants
            if (self.experiment, self.model(variant)) in kinds
        }


@cache
def _options_of(experiment: str, variant: str, choices: tuple[str, ...]) -> dict[str, Any]:
    """Options of an experiment and a variant in ``conf/`` by dotted name, but for free ones."""
    arguments = argument("experiment", experiment), argument("model", variant), *choices
    options = flatten(composed(*arguments))
    return {name: value for name, value in options.items() if name not in FREE}


@dataclass(frozen=True)
class Selection:
    """The stored runs for a panel.

    Attributes:
        panel: what was looked for.
        runs: the run of every variant that was found, in the order of the panel.
        common: the options that these runs share beyond the fixed ones.
        unused: runs of variants that were not found, with what they do differently.
        replaced: the panel without runs that this one is shown instead of; None if it is itself
            what was asked for.
    """

    panel: Panel
    runs: dict[str, Run]
    common: dict[str, Any]
    unused: list[tuple[Run, str]]
    replaced: Panel | None = field(default=None, kw_only=True)

    @property
    def missing(self) -> list[str]:
        """Variants without a run."""
        return [variant for variant in self.panel.variants if variant not in self.runs]

    @property
    def incomplete(self) -> list[Selection]:
        """Of this selection and the panel that it replaces those that lack runs."""
        replaced = [] if self.replaced is None else [Selection(self.replaced, {}, {}, [])]
        return [*([self] if self.missing else []), *replaced]

    def commands(self, root: Path) -> list[str]:
        """Commands that produce the missing runs.

        Args:
            root: the folder that runs are read from.
        """
        return commands([self], root)

    def requests(self, root: Path) -> list[dict[str, Any]]:
        """The missing runs: for each, its options.

        Args:
            root: the folder that runs are read from.
        """
        # What was found is to be completed, so its free options are asked for again.
        free = {name: value for name, value in self.common.items() if name in FREE}
        if "seeds" in free:
            free["seeds"] = _shortest(free["seeds"])
        place = {}
        if root.name == "runs" and root.parent != Path("results"):
            place = {"results_dir": str(root.parent)}
        panel = self.panel
        return [
            {"experiment": panel.experiment, "model": panel.model(variant)}
            | {**panel.groups, **panel.changes(variant), **free, **place}
            for variant in self.missing
        ]


def commands(selections: Iterable[Selection], root: Path) -> list[str]:
    """Commands that produce the missing runs of several panels, as few as sweeps allow.

    Args:
        selections: the runs of the panels.
        root: the folder that runs are read from.
    """
    requests = [request for selection in selections for request in selection.requests(root)]
    sweeps: list[dict[str, tuple[Any, ...]]] = [
        {name: (value,) for name, value in request.items()}
        for index, request in enumerate(requests)
        if request not in requests[:index]
    ]
    # Requests that differ in one option alone are one sweep over that option.
    for name in dict.fromkeys(name for sweep in sweeps for name in sweep):
        joined: dict[str, dict[str, tuple[Any, ...]]] = {}
        for sweep in sweeps:
            others = repr([name in sweep, sorted((sweep | {name: ()}).items())])
            if others in joined and name in sweep:
                joined[others][name] += sweep[name]
            else:
                joined[others] = dict(sweep)
        sweeps = list(joined.values())
    return [
        run_command(["-m", *(argument(name, *values) for name, values in sweep.items())])
        for sweep in sweeps
    ]


def select(panel: Panel, runs: Sequence[Run]) -> Selection:
    """Find the runs for a panel, by the rule at the top of this module.

    Args:
        panel: what to look for.
        runs: stored runs of any experiments.

    Raises:
        RunError: if two sets of runs fit equally well.
    """
    wanted = panel.wanted_among(runs)
    ranked = run_sets(wanted, runs, panel.chosen)
    for one in ranked:
        for rivals in one.runs.values():
            _check_same_choice(panel, rivals)
    if not ranked and panel.instead is not None:
        instead = select(panel.instead, runs)
        if instead.runs:
            return replace(instead, replaced=panel)
    _check_unrivalled(panel, ranked)
    best: RunSet[str] = ranked[0] if ranked else RunSet({}, {})
    found = {variant: best.runs[variant][0] for variant in wanted if variant in best.runs}
    kindred = [
        (run, variant, flatten(run.config))
        for run in runs
        for variant, one in wanted.items()
        if variant not in found and one.is_kind_of(run.config)
    ]
    unused = [
        (run, _differences(options, {**best.shared, **wanted[variant].fixed}))
        for run, variant, options in kindred
        if all(options.get(kind) == wanted[variant].fixed.get(kind) for kind in KINDS)
        # What sets a variant apart is not a small difference.
        and all(options.get(name) == value for name, value in panel.changes(variant).items())
    ]
    return Selection(panel, found, best.shared, unused)


def _check_unrivalled(panel: Panel, ranked: Sequence[RunSet[str]]) -> None:
    """Raise RunError if the two best sets of runs are equally good."""
    if len(ranked) > 1 and ranked[0].merit == ranked[1].merit:
        first, second = (one.shared for one in ranked[:2])
        names = sorted(n for n in first | second if first.get(n) != second.get(n))
        folders = [str(next(iter(one.runs.values()))[0].folder) for one in ranked[:2]]
        raise RunError(
            f"two sets of runs fit the panel {panel.title} equally well; they differ in "
            f"{', '.join(names)}.\n"
            f"One holds {folders[0]},\nthe other {folders[1]}.\n"
            "Move one set to another folder."
        )


def _check_same_choice(panel: Panel, rivals: Sequence[Run]) -> None:
    """Raise RunError if runs of a variant differ in what a search chose for them."""
    first, *others = rivals
    for other in others:
        one, two = flatten(first.config), flatten(other.config)
        differing = [name for name in panel.chosen if one.get(name) != two.get(name)]
        if differing:
            raise RunError(
                f"two runs of {panel.title} fit equally well; they differ in the choice of "
                f"{', '.join(differing)}:\n{first.folder} and\n{other.folder}.\n"
                "Move the one that is out of date to another folder."
            )


def _differences(options: dict[str, Any], reference: dict[str, Any]) -> str:
    """The options whose values are not those of a reference, as ``name=value instead of value``."""
    return ", ".join(
        f"{name}={options[name]} instead of {reference[name]}"
        for name in reference
        if name in options and options[name] != reference[name]
    )


def _shortest(seeds: list[int]) -> int | list[int]:
    """Seeds as ``run.py`` takes them: how many, if they are the first ones."""
    return len(seeds) if seeds == list(range(len(seeds))) else seeds
