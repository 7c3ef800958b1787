"""Every figure and table: what it shows, on which runs, and what computes and draws it.

To add one, write an entry here, and a module with its functions if none of those there will do.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from matplotlib.figure import Figure as Drawing

from convexinit_paper.figures import panels, style
from convexinit_paper.figures.claims import table as claims
from convexinit_paper.figures.claims import targets
from convexinit_paper.figures.drawings import (
    depths,
    generalisation,
    signals,
    walks,
    your_network,
)
from convexinit_paper.figures.drawings.training_loss import LossCurves
from convexinit_paper.figures.select import Panel, Selection, select
from convexinit_paper.figures.tables import (
    autoencoder,
    failures,
    grid_search,
    level_sets,
    precision,
    table_1,
    training_summary,
)
from convexinit_paper.figures.variants import (
    BIAS_ONLY,
    EXP,
    MODELS,
    POSITIVITY,
    RANDOM_BIAS,
    RHO,
    STEP_SIZES,
)
from convexinit_paper.store.runs import Run


def of_each(panels: Sequence[Panel], runs: Sequence[Run]) -> list[Selection]:
    """The runs of every panel by itself."""
    return [select(panel, runs) for panel in panels]


def has_runs(selection: Selection) -> bool:
    """Whether there is a run to show."""
    return bool(selection.runs)


@dataclass(frozen=True)
class Figure:
    """A figure or table.

    Attributes:
        name: of its files, and on the command line.
        says: what it shows, in one sentence.
        table: the numbers, from its selections.
        paper: its panels at the scale "paper", in reading order.
        demo: at the scale "demo"; none if the demo does not train for it.
        draw: the drawing, from selections and numbers; None for a table.
        markdown: the table for people, from the numbers.
        more_files: texts and tables by the end of the file's name, from selections and numbers.
        find: from panels and stored runs to selections.
        is_shown: whether a selection is something to show; without any, nothing is written.
        folder: where tables go.
    """

    name: str
    says: str
    table: Callable[[Sequence[Any]], pd.DataFrame]
    paper: Sequence[Panel]
    demo: Sequence[Panel] = ()
    draw: Callable[[Sequence[Any], pd.DataFrame], Drawing] | None = None
    markdown: Callable[[pd.DataFrame], str] | None = None
    more_files: Callable[[Sequence[Any], pd.DataFrame], Mapping[str, Any]] | None = None
    find: Callable[[Sequence[Panel], Sequence[Run]], Sequence[Selection]] = of_each
    is_shown: Callable[[Selection], bool] = has_runs
    folder: str = "tables"

    def selections(self, scale: str, runs: Sequence[Run]) -> Sequence[Selection]:
        """The stored runs that it shows at the scale "paper" or "demo"."""
        return self.find(self.demo if scale == "demo" else self.paper, runs)


def losses(
    name: str, says: str, paper: Sequence[Panel], demo: Sequence[Panel] = (), **look: Any
) -> Figure:
    """A figure of training losses; ``look`` as for :class:`LossCurves`."""
    curves = LossCurves(**look)
    return Figure(name, says, curves.table, paper, demo, curves.draw, is_shown=curves.is_shown)


LOSSES = (
    losses(
        "figure-2",
        "Training loss of input-convex networks with the paper's initialisation and without, with "
        "skip connections, and of a non-convex network.",
        [*panels.DYNAMICS, panels.DIGITS],
        [panels.DIGITS],
    ),
    losses(
        "figure-5",
        "Training loss of networks with three, five and seven hidden layers.",
        [panel for row in panels.DEPTHS for panel in row],
        columns=3,
        together=3,
    ),
    losses(
        "figure-7",
        "Training loss with random biases in place of constant ones.",
        panels.RANDOM_BIASES,
        subject=[RANDOM_BIAS],
        colours={RANDOM_BIAS: style.SKY},
    ),
    losses(
        "figure-8",
        "Training loss with the paper's bias but the usual weights.",
        panels.BIASES_ALONE,
        subject=[BIAS_ONLY],
        colours={BIAS_ONLY: style.PURPLE},
    ),
    losses(
        "figure-9",
        "Training loss for three target correlations ρ of the initialisation.",
        panels.CORRELATIONS,
        subject=[RHO[0.1], RHO[0.9]],
        colours=dict(zip(RHO.values(), (style.ORANGE, style.BLUE, style.PURPLE), strict=True)),
    ),
    losses(
        "figure-10",
        "Training loss of networks whose weights are kept positive by exp instead of projection.",
        panels.EXPONENTIALS,
        subject=list(EXP.values()),
        colours={name: style.COLOURS[model] for model, name in EXP.items()},
    ),
    losses(
        "baselines",
        "Training loss with another way to start (LSUV), by itself or after the paper's, and of "
        "the difference of two input-convex networks, which is not convex.",
        [panels.BASELINES],
        subject=[variant for variant in panels.BASELINES.variants if variant not in MODELS],
    ),
    losses(
        "positivity",
        "Training loss for six ways to keep weights non-negative, which the paper does not "
        "compare.",
        [panels.POSITIVITIES],
        subject=[name for positivity, name in POSITIVITY.items() if positivity != "projection"],
        colours=dict(
            zip(
                POSITIVITY.values(),
                (style.BLUE, style.SKY, style.VERMILION, style.ORANGE, style.GREEN, style.PURPLE),
                strict=True,
            )
        ),
    ),
    losses(
        "step-sizes",
        "Training loss of deep networks with non-negative orthogonal weights: steps of hidden "
        "layers divided by their number, warm-up over a hundred steps, and neither.",
        panels.STEPS,
        colours=dict(
            zip(STEP_SIZES.values(), (style.PURPLE, style.SKY, style.ORANGE), strict=True)
        ),
    ),
)

CATALOGUE = (
    Figure(
        "figure-1",
        "Signals in untrained networks, layer by layer, beside what the theory predicts.",
        signals.table,
        [panels.SIGNALS],
        [panels.SIGNALS],
        signals.draw,
    ),
    *LOSSES,
    Figure(
        "depth",
        "Training loss of networks with three to fifty hidden layers, every seed a point, and the "
        "signals and gradients that they start with.",
        depths.table,
        panels.MANY_DEPTHS,
        draw=depths.draw,
        more_files=depths.more_files,
    ),
    Figure(
        "your-network",
        "Test loss of networks in the habits of many authors, trained from their own start, from "
        "the paper's moments written by hand, and from init_icnn_; every seed a point.",
        your_network.table,
        [panels.YOUR_NETWORK],
        draw=your_network.draw,
        markdown=your_network.markdown,
    ),
    Figure(
        "figure-6",
        "As Figure 1, for all variants and with random biases.",
        signals.table,
        [panels.ALL_SIGNALS],
        [panels.ALL_SIGNALS],
        signals.draw,
    ),
    Figure(
        "training-summary",
        "Losses and accuracies at the end of all runs behind the figures of training losses.",
        training_summary.table,
        [*(panel for figure in LOSSES for panel in figure.paper), *panels.DEEP_RANDOM_BIASES],
        [panel for figure in LOSSES for panel in figure.demo],
        markdown=training_summary.markdown,
    ),
    Figure(
        "failures",
        "How many seeds of each initialisation never learn.",
        failures.table,
        panels.FAILURES,
        markdown=failures.markdown,
    ),
    Figure(
        "precision",
        "What training in bfloat16 instead of float32 changes.",
        precision.table,
        LOSSES[0].paper,
        LOSSES[0].demo,
        markdown=precision.markdown,
        find=precision.pairs,
    ),
    Figure(
        "autoencoder",
        "How well molecules come back from the codes of the autoencoder.",
        autoencoder.table,
        [panels.AUTOENCODER],
        markdown=autoencoder.markdown,
    ),
    Figure(
        "table-1",
        "Toxicity of molecules: AUROC on the twelve assays of Tox21, with sign tests between the "
        "variants.",
        table_1.table,
        panels.TOXICITY,
        [panels.TOXICITY_DEMO],
        more_files=table_1.more_files,
    ),
    Figure(
        "figure-3",
        "Accuracy and loss on the test set after every epoch, with the options that a search "
        "chose for every variant.",
        generalisation.table,
        panels.GENERALISATION,
        [panels.GENERALISATION_DEMO],
        generalisation.draw,
        more_files=generalisation.more_files,
    ),
    Figure(
        "figure-11",
        "As Figure 3, for weights that are kept positive by exp.",
        generalisation.table,
        panels.GENERALISATION_EXP,
        (),
        generalisation.draw,
        more_files=generalisation.more_files,
    ),
    Figure(
        "grid-search",
        "The best cell of every search for hyper-parameters.",
        grid_search.table,
        panels.SEARCHES,
        [panels.SEARCH_DEMO],
        markdown=grid_search.markdown,
        more_files=grid_search.more_files,
        find=grid_search.searches,
    ),
    Figure(
        "figure-4",
        "Walks between molecules along a level set: the predicted toxicity stays, the "
        "drug-likeness (QED) changes.",
        walks.table,
        [panels.WALKS],
        [panels.WALKS_DEMO],
        walks.draw,
    ),
    Figure(
        "level-sets",
        "What walks along level sets are like, for convex and non-convex networks.",
        level_sets.table,
        [panels.LEVEL_SETS],
        [panels.LEVEL_SETS_DEMO],
        markdown=level_sets.markdown,
    ),
    Figure(
        "targets",
        "What the orthogonal initialisation was meant to reach, and whether it does.",
        targets.judged,
        targets.PANELS,
        markdown=targets.markdown,
    ),
    Figure(
        "claims",
        "What the paper claims, and whether the stored runs reproduce it.",
        claims.table,
        claims.PANELS,
        markdown=claims.markdown,
        folder=".",
    ),
)
FIGURES = {figure.name: figure for figure in CATALOGUE}


def experiments_with_losses() -> set[str]:
    """The experiments whose batch losses are drawn."""
    drawn = [panel for figure in LOSSES for panel in figure.paper]
    instead = [panel.instead for panel in drawn if panel.instead is not None]
    return {panel.experiment for panel in [*drawn, *instead]}
