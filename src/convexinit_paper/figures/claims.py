"""Table "claims": what the paper claims, and whether the recorded runs reproduce it.

Each claim is judged by a check of :mod:`convexinit_paper.figures.claim_checks`, on each data set by
itself, and on the runs that the figures draw. Where a variant was not run, or not for as long as in
the paper, nothing is said about the claim.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import pandas as pd

from convexinit_paper.figures import claim_checks as checks
from convexinit_paper.figures import figure_3, figure_6, level_sets, table_1
from convexinit_paper.figures.claim_checks import Check
from convexinit_paper.figures.loss_figures import (
    BIAS_ONLY,
    DIFFERENCE,
    EXP,
    FIGURES,
    RANDOM_BIAS,
    RHO,
    data_sets,
)
from convexinit_paper.figures.select import TITLES, Panel, Selection, title_of

# Beside the folders of figures and tables.
FOLDER = "."
REPRODUCED, NOT_REPRODUCED, NOT_RUN = "reproduced", "not reproduced", "not run"
# A verdict on a median over seeds needs at least so many of the paper's ten.
FEWEST_SEEDS = 3
EPOCHS, GENERALISATION_EPOCHS, TOXICITY_EPOCHS = 10, 25, 300
NOTE = """\
Claims are in our words, losses in nats. "Not run" also stands for runs that are too short, have too
few seeds or lack a variant; `python -m convexinit_paper.figures claims` prints the commands for
what is missing. "Our reading": what a claim rests on is a figure, or an appendix that is not at
hand.

Criteria and thresholds are in `src/convexinit_paper/figures/claim_checks.py`. When they were
written, the runs of Figures 1, 2 and 7 on MNIST, and of Table 1 and the level sets with autoencoder
codes, were known; no others were, and no threshold has been adapted to a run. What counts as too
few seeds was lowered from five to three when CIFAR-10 was to be trained without a GPU; three of ten
epochs were known then.
"""


@dataclass(frozen=True)
class Claim:
    """A claim of the paper.

    Attributes:
        statement: what the paper says, in our words.
        place: where it says so.
        check: how it is tested.
        panels: the runs it is tested on, by data set; none for a claim about the theory.
        epochs: how long these were trained in the paper; None if they were not.
        seeds: fewer are no evidence.
    """

    statement: str
    place: str
    check: Check
    panels: Sequence[Panel] = ()
    epochs: int | None = EPOCHS
    seeds: int = FEWEST_SEEDS


IMAGES = data_sets({name: {} for name in TITLES})
CIFAR = IMAGES[1:]
DEEPER = [
    panel
    for panel in FIGURES["figure-5"].paper
    if panel.variants["icnn"]["model.num_hidden"] != 5  # which is Figure 2
]
SIGNALS = figure_6.panels("paper")
GENERALISATION_MNIST, GENERALISATION_CIFAR = figure_3.panels("paper")
TOXICITY = table_1.panels("paper")
LEVEL_SETS = level_sets.panels("paper")
CONVEX = ("icnn", "icnn_skip", "icnn_init")


def training_claims() -> Iterator[Claim]:
    """Section 5.1, training dynamics, and appendix C."""
    yield Claim(
        "With the default initialisation an ICNN learns slowly or not at all.",
        "Sections 1 and 5.1, Figure 2",
        checks.misses(["icnn"], "nonconvex"),
        IMAGES,
    )
    yield Claim(
        "Its loss falls before it reaches a plateau.",
        "caption of Figure 2",
        checks.falls_before_plateau("icnn"),
        IMAGES,
    )
    yield Claim(
        "The initialisation lets an ICNN reach a lower loss in ten epochs.",
        "abstract, Section 5.1, Figure 2",
        checks.below("icnn_init", "icnn"),
        IMAGES,
    )
    yield Claim(
        "It accelerates learning.",
        "abstract, Section 5.1, Figure 2",
        checks.begins_before("icnn_init", "icnn"),
        IMAGES,
    )
    yield Claim(
        "ICNN + init learns as the non-convex network does.",
        "Section 5.1, Figure 2",
        checks.reaches("icnn_init", "nonconvex"),
        IMAGES,
    )
    yield Claim(
        "And not only in the median: the band of Figure 2 is the inter-quartile range.",
        "Section 5.1, Figure 2 (our reading)",
        checks.most_seeds_reach("icnn_init", "nonconvex"),
        IMAGES,
    )
    yield Claim(
        "ICNNs without the initialisation, with skip connections or without, cannot lower the loss "
        "to the level of the non-convex network on CIFAR-10 and CIFAR-100.",
        "Section 5.1",
        checks.misses(["icnn", "icnn_skip"], "nonconvex"),
        CIFAR,
    )
    yield Claim(
        "Skip connections are not needed if an ICNN is initialised well.",
        "abstract, Sections 1 and 3.1",
        checks.reaches("icnn_init", "icnn_skip"),
        IMAGES,
    )
    yield Claim(
        "The initialisation lowers the loss at other depths, too.",
        "appendix C.2, Figure 5 (our reading)",
        checks.below("icnn_init", "icnn"),
        DEEPER,
    )
    yield Claim(
        "At other depths, too, ICNN + init learns as the non-convex network does.",
        "appendix C.2, Figure 5 (our reading)",
        checks.reaches("icnn_init", "nonconvex"),
        DEEPER,
    )
    yield Claim(
        "Random biases make no difference to training.",
        "appendix C.3, Figure 7 (our reading)",
        checks.same_loss([RANDOM_BIAS], "icnn_init"),
        FIGURES["figure-7"].paper,
    )
    yield Claim(
        "The bias alone is not enough. (Corrected: the published figure shows the full method "
        "by mistake.)",
        "appendix C, Figure 8",
        checks.misses([BIAS_ONLY], "icnn_init"),
        FIGURES["figure-8"].paper,
    )
    yield Claim(
        "The choice of ρ makes little difference.",
        "appendix C.4, Figure 9 (our reading)",
        checks.same_loss([RHO[0.1], RHO[0.9]], RHO[0.5]),
        FIGURES["figure-9"].paper,
    )
    yield Claim(
        "The initialisation lowers the loss of ICNNs that are re-parameterised by exp, too.",
        "appendix C.5, Figure 10 (our reading)",
        checks.below(EXP["icnn_init"], EXP["icnn"]),
        FIGURES["figure-10"].paper,
    )
    yield Claim(
        "Re-parameterised by exp, too, ICNN + init learns as the non-convex network does.",
        "appendix C.5, Figure 10 (our reading)",
        checks.reaches(EXP["icnn_init"], "nonconvex"),
        FIGURES["figure-10"].paper,
    )
    yield Claim(
        "Convexity causes no problems that the difference of two ICNNs would have to solve.",
        "Section 4",
        checks.reaches("icnn_init", DIFFERENCE),
        FIGURES["baselines"].paper,
    )


def generalisation_claims() -> Iterator[Claim]:
    """Section 5.1, generalisation."""
    others = ("icnn", "icnn_skip")
    yield Claim(
        "On MNIST all variants reach similar accuracies.",
        "Section 5.1, Figure 3",
        checks.similar_accuracies(tuple(TITLES)),
        [GENERALISATION_MNIST],
        GENERALISATION_EPOCHS,
    )
    yield Claim(
        "On CIFAR-10 ICNN + init generalises better than other ICNNs.",
        "Section 5.1, Figure 3",
        checks.higher_accuracy("icnn_init", others),
        [GENERALISATION_CIFAR],
        GENERALISATION_EPOCHS,
    )
    yield Claim(
        "It does so in early epochs already.",
        "Section 5.1, Figure 3",
        checks.higher_accuracy_early("icnn_init", others),
        [GENERALISATION_CIFAR],
        GENERALISATION_EPOCHS,
    )
    yield Claim(
        "It almost matches the accuracy of non-convex networks.",
        "Section 5.1, Figure 3",
        checks.accuracy_matches("icnn_init", "nonconvex"),
        [GENERALISATION_CIFAR],
        GENERALISATION_EPOCHS,
    )
    yield Claim(
        "ICNNs do not generalise better than non-convex networks.",
        "Section 4",
        checks.no_accuracy_gain(CONVEX, "nonconvex"),
        [GENERALISATION_MNIST, GENERALISATION_CIFAR],
        GENERALISATION_EPOCHS,
    )


def toxicity_claims() -> Iterator[Claim]:
    """Section 5.2."""
    yield Claim(
        "ICNN + init is significantly better than ICNN.",
        "Section 5.2 (p = 2.6e-13)",
        checks.better_auroc("icnn_init", "icnn"),
        TOXICITY,
        TOXICITY_EPOCHS,
    )
    yield Claim(
        "ICNN + init is significantly better than ICNN + skip.",
        "Section 5.2 (p = 5.5e-14)",
        checks.better_auroc("icnn_init", "icnn_skip"),
        TOXICITY,
        TOXICITY_EPOCHS,
    )
    yield Claim(
        "ICNN + init is the best of the ICNNs.",
        "caption of Table 1",
        checks.best_auroc("icnn_init", ("icnn", "icnn_skip")),
        TOXICITY,
        TOXICITY_EPOCHS,
    )
    yield Claim(
        "ICNN + init is close to the non-convex network.",
        "Sections 5.2 and 6, Table 1",
        checks.auroc_matches("icnn_init", "nonconvex"),
        TOXICITY,
        TOXICITY_EPOCHS,
    )
    yield Claim(
        "ICNN + init has the AUROC of Table 1.",
        "Table 1",
        checks.published_auroc("icnn_init"),
        TOXICITY,
        TOXICITY_EPOCHS,
    )


def signal_claims() -> Iterator[Claim]:
    """Signal propagation in untrained networks: Figures 1 and 6."""

    def measured(statement: str, place: str, check: Check) -> Claim:
        return Claim(statement, place, check, SIGNALS, epochs=None)

    yield measured(
        "In a default ICNN the distribution of the signals shifts from layer to layer.",
        "Section 1, Figure 1",
        checks.shifts("icnn"),
    )
    for quantity in ("mean", "variance"):
        yield measured(
            f"The usual initialisation of non-convex networks keeps the {quantity}.",
            "Section 2.1, Figure 1",
            checks.keeps("nonconvex", quantity),
        )
    for quantity in ("mean", "variance", "correlation"):
        yield measured(
            f"ICNN + init keeps the {quantity} from layer to layer.",
            "Sections 3.2 and 6, Figure 1",
            checks.keeps("icnn_init", quantity),
        )
    yield measured(
        "The generalised theory describes signals under weights of non-zero mean.",
        "Section 2.2",
        checks.is_predicted("icnn"),
    )
    yield measured(
        "Pre-activations in an initialised ICNN are not Gaussian.",
        "Sections 3.2 and 6, Figure 1",
        checks.not_gaussian("icnn_init"),
    )
    yield measured(
        "Random biases make them more Gaussian.",
        "Sections 3.2 and 6, appendix C.3, Figure 6",
        checks.more_gaussian(RANDOM_BIAS, "icnn_init"),
    )


def level_set_claims() -> Iterator[Claim]:
    """Section 5.3: one network each."""

    def walked(statement: str, place: str, check: Check) -> Claim:
        return Claim(statement, place, check, LEVEL_SETS, TOXICITY_EPOCHS, seeds=1)

    yield walked(
        "A walk along a level set keeps the predicted toxicity.",
        "Section 5.3, Figure 4",
        checks.stays_on_level("icnn_init"),
    )
    yield walked(
        "Its points can be decoded to molecules.",
        "Section 5.3, Figure 4",
        checks.decodes("icnn_init"),
    )
    yield walked(
        "The drug-likeness of these molecules differs.",
        "Section 5.3, Figure 4",
        checks.qed_differs("icnn_init"),
    )
    yield walked(
        "Their own predicted toxicity stays constant.",
        "Section 5.3, Figure 4",
        checks.decoded_keep_level("icnn_init"),
    )
    yield walked(
        "Level sets can be followed because the network is convex, and not in regular networks.",
        "Sections 5 and 5.3",
        checks.only_convex_levels("icnn_init", "nonconvex"),
    )


def theory_claims() -> Iterator[Claim]:
    """Section 3 and appendix B, about the formulas alone."""
    yield Claim(
        "The moments of the initialisation solve the fixed-point equations (with the sign of the "
        "bias corrected).",
        "Section 3.3, Eq. 8 to 12",
        checks.fixed_point(),
    )
    yield Claim(
        "The correlation returns to its fixed point.",
        "appendix B.4 (our reading)",
        checks.correlation_is_stable(),
    )
    yield Claim(
        "Signal propagation is stable.",
        "Section 6 (our reading)",
        checks.moments_are_stable(),
    )
    yield Claim(
        "Weights with these moments cannot be drawn from a uniform distribution.",
        "Section 3.3",
        checks.uniform_is_negative(),
    )


CLAIMS = (
    *training_claims(),
    *generalisation_claims(),
    *toxicity_claims(),
    *signal_claims(),
    *level_set_claims(),
    *theory_claims(),
)


def panels(scale: str) -> list[Panel]:
    """The panels of all claims, one after the other; the demo has none."""
    return [panel for claim in CLAIMS for panel in claim.panels] if scale == "paper" else []


def table(selections: Sequence[Selection]) -> pd.DataFrame:
    """One row per claim and data set.

    Returns:
        ``claim, place, criterion, dataset, seeds, epochs, precision, grid, verdict, measured``; the
        extent of the runs is empty where there are none, and the grid where nothing was searched.

    Args:
        selections: the runs for :func:`panels`, in the same order.
    """
    remaining = iter(selections)
    rows = []
    for claim in CLAIMS:
        labels = {
            "claim": claim.statement, "place": claim.place, "criterion": claim.check.criterion,
        }  # fmt: skip
        if not claim.panels:
            rows.append({**labels, "dataset": "formulas", **verdict(claim, {})})
        for _ in claim.panels:
            selection = next(remaining)
            rows.append({**labels, "dataset": selection.panel.title, **judged(claim, selection)})
    extent = {"seeds": "Int64", "epochs": "Int64", "precision": "object", "grid": "object"}
    columns = [*labels, "dataset", *extent, "verdict", "measured"]
    return pd.DataFrame(rows).reindex(columns=columns).astype(extent)


def judged(claim: Claim, selection: Selection) -> dict[str, Any]:
    """The extent of the runs of a claim on one data set, and the verdict on it."""
    if not selection.runs:
        return {"verdict": NOT_RUN, "measured": ""}
    seeds, epochs = len(selection.common["seeds"]), selection.common.get("trainer.epochs")
    extent = {
        "seeds": seeds, "epochs": epochs, "precision": selection.common.get("trainer.precision"),
        "grid": selection.common.get("search.grid"),
    }  # fmt: skip
    missing = [title_of(name) for name in claim.check.needs if name not in selection.runs]
    if missing:
        return {**extent, "verdict": NOT_RUN, "measured": f"without {', '.join(missing)}"}
    if epochs != claim.epochs:
        why = f"{epochs} epochs instead of {claim.epochs}"
        return {**extent, "verdict": NOT_RUN, "measured": why}
    if seeds < claim.seeds:
        why = f"{seeds} seeds, fewer than {claim.seeds}"
        return {**extent, "verdict": NOT_RUN, "measured": why}
    return {**extent, **verdict(claim, selection.runs)}


def verdict(claim: Claim, runs: checks.Runs) -> dict[str, Any]:
    """Whether a claim holds for runs, and the numbers that decide it."""
    finding = claim.check.judge(runs)
    return {
        "verdict": REPRODUCED if finding.holds else NOT_REPRODUCED,
        "measured": finding.measured,
    }


def markdown(numbers: pd.DataFrame) -> str:
    """The table for people: a claim is written once, and what was not run at all is one row."""
    counts = numbers["verdict"].value_counts()
    summary = ", ".join(
        f"{counts.get(name, 0)} {name}" for name in (REPRODUCED, NOT_REPRODUCED, NOT_RUN)
    )
    header = ["claim", "in the paper", "holds if", "data", "seeds", "verdict", "measured"]
    lines = [header, ["---"] * len(header)]
    for texts, rows in numbers.groupby(["claim", "place", "criterion"], sort=False):
        absent = (rows["verdict"] == NOT_RUN) & rows["seeds"].isna()
        cells = [_cells(row) for row in rows[~absent].to_dict("records")]
        if absent.any():
            cells.append(["; ".join(rows.loc[absent, "dataset"]), "", NOT_RUN, ""])
        lines += [
            [*(cast("tuple[str, ...]", texts) if number == 0 else ("", "", "")), *row]
            for number, row in enumerate(cells)
        ]
    body = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return (
        "# Claims of the paper, and what the recorded runs say\n\n"
        f"Of {len(numbers)} pairs of claim and data set: {summary}.\n\n"
        f"{NOTE}\n{checks.LEVEL}\n\n{body}"
    )


def _cells(row: dict[Hashable, Any]) -> list[str]:
    """Data, seeds (with precision and grid, if not those of the paper), verdict and numbers."""
    seeds = "" if pd.isna(row["seeds"]) else str(row["seeds"])
    if isinstance(row["precision"], str) and row["precision"] != "float32":
        seeds += f", {row['precision']}"
    if isinstance(row["grid"], str) and row["grid"] != figure_3.SEARCHED:
        seeds += f", grid {row['grid']}"
    bold = "" if row["verdict"] == NOT_RUN else "**"
    return [row["dataset"], seeds, f"{bold}{row['verdict']}{bold}", row["measured"]]
