"""The claims of the paper, as data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from math import nan
from typing import NamedTuple

from convexinit_paper.figures import panels
from convexinit_paper.figures.claims import measures, relations
from convexinit_paper.figures.claims.measures import Measure
from convexinit_paper.figures.claims.relations import LOSS_FACTOR, SIMILAR_POINTS, Relation
from convexinit_paper.figures.select import Panel
from convexinit_paper.figures.tables import published
from convexinit_paper.figures.variants import (
    BIAS_ONLY,
    CONVEX,
    EXP,
    MODELS,
    RANDOM_BIAS,
    RHO,
    title_of,
)
from convexinit_paper.store.runs import Run

# A verdict on a median over seeds needs at least so many of the paper's ten.
FEWEST_SEEDS = 3
EPOCHS, GENERALISATION_EPOCHS, TOXICITY_EPOCHS = 10, 25, 300
SIGNIFICANCE = 0.05


class Finding(NamedTuple):
    """What runs say about a claim.

    Attributes:
        holds: whether it is true.
        measured: the numbers that decide it, in words.
    """

    holds: bool
    measured: str


@dataclass(frozen=True)
class Check:
    """That a measure of some variants stands in a relation to that of others, or to a threshold.

    Attributes:
        measure: what is measured.
        relation: what has to be true of it.
        models: the variants that it is about; none if it is about formulas.
        others: the variants that they are compared with.
        threshold: for relations that have one.
    """

    measure: Measure
    relation: Relation
    models: Sequence[str] = ()
    others: Sequence[str] = ()
    threshold: float = nan

    @property
    def needs(self) -> list[str]:
        """The variants whose runs decide it."""
        return [*self.models, *self.others]

    @property
    def criterion(self) -> str:
        """When it holds, in words."""
        models, others = (
            " and ".join(map(title_of, names)) for names in (self.models, self.others)
        )
        measure = self.measure.words.format(models)
        return self.relation.words.format(
            measure=measure, models=models, others=others, threshold=self.threshold
        )

    def judge(self, runs: Mapping[str, Run]) -> Finding:
        """Whether it holds for the runs of its variants.

        Args:
            runs: by variant, at least :attr:`needs`; none for a check of formulas.
        """
        found = {name: self.measure.of(runs[name]) for name in self.needs}
        values = [found[name] for name in self.models] if found else [self.measure.of()]
        others = [found[name] for name in self.others]
        if self.relation.shown is not None:
            measured = self.relation.shown(values, others, self.threshold)
        elif len(found) > 1:
            measured = "; ".join(
                f"{title_of(name)}: {self.measure.shown(value)}" for name, value in found.items()
            )
        else:
            measured = self.measure.shown(values[0])
        return Finding(bool(self.relation.holds(values, others, self.threshold)), measured)


@dataclass(frozen=True)
class Claim:
    """A claim of the paper.

    Attributes:
        statement: what the paper says, in our words.
        place: where it says so.
        check: how it is judged.
        panels: the runs it is judged on, by data set; none for a claim about formulas.
        epochs: how long these were trained in the paper; None if they were not.
        seeds: fewer are no evidence.
    """

    statement: str
    place: str
    check: Check
    panels: Sequence[Panel] = ()
    epochs: int | None = EPOCHS
    seeds: int = FEWEST_SEEDS

    @property
    def evidence(self) -> list[Panel]:
        """Its panels, with the variants alone whose runs decide it."""
        return [panel.of(self.check.needs) for panel in self.panels]


# Section 5.1, training dynamics, and appendix C.
TRAINING = (
    Claim(
        "With the default initialisation an ICNN learns slowly or not at all.",
        "Sections 1 and 5.1, Figure 2",
        Check(measures.FINAL_LOSS, relations.NOT_AT_LEVEL, ["icnn"], ["nonconvex"]),
        panels.DYNAMICS,
    ),
    Claim(
        "Its loss falls before it reaches a plateau.",
        "caption of Figure 2",
        Check(measures.FALL, relations.FALLS, ["icnn"], threshold=LOSS_FACTOR),
        panels.DYNAMICS,
    ),
    Claim(
        "The initialisation lets an ICNN reach a lower loss in ten epochs.",
        "abstract, Section 5.1, Figure 2",
        Check(measures.FINAL_LOSS, relations.BELOW, ["icnn_init"], ["icnn"]),
        panels.DYNAMICS,
    ),
    Claim(
        "It accelerates learning.",
        "abstract, Section 5.1, Figure 2",
        Check(measures.BEGINNING, relations.EARLIER, ["icnn_init"], ["icnn"]),
        panels.DYNAMICS,
    ),
    Claim(
        "ICNN + init learns as the non-convex network does.",
        "Section 5.1, Figure 2",
        Check(measures.FINAL_LOSS, relations.AT_LEVEL, ["icnn_init"], ["nonconvex"]),
        panels.DYNAMICS,
    ),
    Claim(
        "And not only in the median: the band of Figure 2 is the inter-quartile range.",
        "Section 5.1, Figure 2 (our reading)",
        Check(measures.UPPER_LOSS, relations.AT_LEVEL, ["icnn_init"], ["nonconvex"]),
        panels.DYNAMICS,
    ),
    Claim(
        "ICNNs without the initialisation, with skip connections or without, cannot lower the loss "
        "to the level of the non-convex network on CIFAR-10 and CIFAR-100.",
        "Section 5.1",
        Check(measures.FINAL_LOSS, relations.NOT_AT_LEVEL, ["icnn", "icnn_skip"], ["nonconvex"]),
        panels.DYNAMICS[1:],
    ),
    Claim(
        "Skip connections are not needed if an ICNN is initialised well.",
        "abstract, Sections 1 and 3.1",
        Check(measures.FINAL_LOSS, relations.AT_LEVEL, ["icnn_init"], ["icnn_skip"]),
        panels.DYNAMICS,
    ),
    Claim(
        "The initialisation lowers the loss at other depths, too.",
        "appendix C.2, Figure 5 (our reading)",
        Check(measures.FINAL_LOSS, relations.BELOW, ["icnn_init"], ["icnn"]),
        panels.OTHER_DEPTHS,
    ),
    Claim(
        "At other depths, too, ICNN + init learns as the non-convex network does.",
        "appendix C.2, Figure 5 (our reading)",
        Check(measures.FINAL_LOSS, relations.AT_LEVEL, ["icnn_init"], ["nonconvex"]),
        panels.OTHER_DEPTHS,
    ),
    Claim(
        "Random biases make no difference to training.",
        "appendix C.3, Figure 7 (our reading)",
        Check(measures.FINAL_LOSS, relations.SAME_LEVEL, [RANDOM_BIAS], ["icnn_init"]),
        panels.RANDOM_BIASES,
    ),
    Claim(
        "The bias alone is not enough. (Corrected: the published figure shows the full method "
        "by mistake.)",
        "appendix C, Figure 8",
        Check(measures.FINAL_LOSS, relations.NOT_AT_LEVEL, [BIAS_ONLY], ["icnn_init"]),
        panels.BIASES_ALONE,
    ),
    Claim(
        "The choice of ρ makes little difference.",
        "appendix C.4, Figure 9 (our reading)",
        Check(measures.FINAL_LOSS, relations.SAME_LEVEL, [RHO[0.1], RHO[0.9]], [RHO[0.5]]),
        panels.CORRELATIONS,
    ),
    Claim(
        "The initialisation lowers the loss of ICNNs that are re-parameterised by exp, too.",
        "appendix C.5, Figure 10 (our reading)",
        Check(measures.FINAL_LOSS, relations.BELOW, [EXP["icnn_init"]], [EXP["icnn"]]),
        panels.EXPONENTIALS,
    ),
    Claim(
        "Re-parameterised by exp, too, ICNN + init learns as the non-convex network does.",
        "appendix C.5, Figure 10 (our reading)",
        Check(measures.FINAL_LOSS, relations.AT_LEVEL, [EXP["icnn_init"]], ["nonconvex"]),
        panels.EXPONENTIALS,
    ),
    Claim(
        "Convexity causes no problems that the difference of two ICNNs would have to solve.",
        "Section 4",
        Check(measures.FINAL_LOSS, relations.AT_LEVEL, ["icnn_init"], ["icnn_difference"]),
        [panels.BASELINES],
    ),
)

# Section 5.1, generalisation.
_generalises = partial(Claim, epochs=GENERALISATION_EPOCHS)
GENERALISATION = (
    _generalises(
        "On MNIST all variants reach similar accuracies.",
        "Section 5.1, Figure 3",
        Check(measures.ACCURACIES, relations.TOGETHER, MODELS, threshold=SIMILAR_POINTS),
        panels.GENERALISATION[:1],
    ),
    _generalises(
        "On CIFAR-10 ICNN + init generalises better than other ICNNs.",
        "Section 5.1, Figure 3",
        Check(measures.FINAL_ACCURACY, relations.ABOVE, ["icnn_init"], ["icnn", "icnn_skip"]),
        panels.GENERALISATION[1:],
    ),
    _generalises(
        "It does so in early epochs already.",
        "Section 5.1, Figure 3",
        Check(measures.EARLY_ACCURACY, relations.ABOVE, ["icnn_init"], ["icnn", "icnn_skip"]),
        panels.GENERALISATION[1:],
    ),
    _generalises(
        "It almost matches the accuracy of non-convex networks.",
        "Section 5.1, Figure 3",
        Check(
            measures.FINAL_ACCURACY,
            relations.NOT_FAR_BELOW,
            ["icnn_init"],
            ["nonconvex"],
            SIMILAR_POINTS,
        ),
        panels.GENERALISATION[1:],
    ),
    _generalises(
        "ICNNs do not generalise better than non-convex networks.",
        "Section 4",
        Check(
            measures.FINAL_ACCURACIES,
            relations.NOT_FAR_ABOVE,
            CONVEX,
            ["nonconvex"],
            SIMILAR_POINTS,
        ),
        panels.GENERALISATION,
    ),
)

# Section 5.2.
_predicts_toxicity = partial(Claim, panels=panels.TOXICITY, epochs=TOXICITY_EPOCHS)
TOXICITY = (
    _predicts_toxicity(
        "ICNN + init is significantly better than ICNN.",
        "Section 5.2 (p = 2.6e-13)",
        Check(measures.AUROCS, relations.BETTER, ["icnn_init"], ["icnn"], SIGNIFICANCE),
    ),
    _predicts_toxicity(
        "ICNN + init is significantly better than ICNN + skip.",
        "Section 5.2 (p = 5.5e-14)",
        Check(measures.AUROCS, relations.BETTER, ["icnn_init"], ["icnn_skip"], SIGNIFICANCE),
    ),
    _predicts_toxicity(
        "ICNN + init is the best of the ICNNs.",
        "caption of Table 1",
        Check(measures.MEAN_AUROC, relations.ABOVE, ["icnn_init"], ["icnn", "icnn_skip"]),
    ),
    _predicts_toxicity(
        "ICNN + init is close to the non-convex network.",
        "Sections 5.2 and 6, Table 1",
        Check(
            measures.MEAN_AUROC,
            relations.NOT_FAR_BELOW,
            ["icnn_init"],
            ["nonconvex"],
            SIMILAR_POINTS,
        ),
    ),
    _predicts_toxicity(
        "ICNN + init has the AUROC of Table 1.",
        "Table 1",
        Check(
            measures.AVERAGE_AUROC,
            relations.AS_PUBLISHED,
            ["icnn_init"],
            threshold=published.AUROCS["icnn_init"][0][published.ASSAYS.index("AVG")],
        ),
    ),
)

# Signal propagation in untrained networks: Figures 1 and 6.
_propagates = partial(Claim, panels=[panels.ALL_SIGNALS], epochs=None)
SIGNALS = (
    _propagates(
        "In a default ICNN the distribution of the signals shifts from layer to layer.",
        "Section 1, Figure 1",
        Check(measures.SHIFT, relations.SHIFTS, ["icnn"]),
    ),
    *(
        _propagates(
            f"The usual initialisation of non-convex networks keeps the {quantity}.",
            "Section 2.1, Figure 1",
            Check(measures.QUANTITY[quantity], relations.KEPT[quantity], ["nonconvex"]),
        )
        for quantity in ("mean", "variance")
    ),
    *(
        _propagates(
            f"ICNN + init keeps the {quantity} from layer to layer.",
            "Sections 3.2 and 6, Figure 1",
            Check(measures.QUANTITY[quantity], relations.KEPT[quantity], ["icnn_init"]),
        )
        for quantity in measures.QUANTITIES
    ),
    _propagates(
        "The generalised theory describes signals under weights of non-zero mean.",
        "Section 2.2",
        Check(measures.PREDICTION, relations.PREDICTED, ["icnn"]),
    ),
    _propagates(
        "Pre-activations in an initialised ICNN are not Gaussian.",
        "Sections 3.2 and 6, Figure 1",
        Check(
            measures.GAUSSIAN_DISTANCES, relations.FAR_FROM_GAUSSIAN, ["icnn_init"], threshold=0.1
        ),
    ),
    _propagates(
        "Random biases make them more Gaussian.",
        "Sections 3.2 and 6, appendix C.3, Figure 6",
        Check(measures.GAUSSIAN_DISTANCE, relations.SMALLER, [RANDOM_BIAS], ["icnn_init"]),
    ),
)

# Section 5.3: one network each.
_walks = partial(Claim, panels=[panels.LEVEL_SETS], epochs=TOXICITY_EPOCHS, seeds=1)
LEVEL_SETS = (
    _walks(
        "A walk along a level set keeps the predicted toxicity.",
        "Section 5.3, Figure 4",
        Check(measures.RESIDUAL, relations.ON_LEVEL, ["icnn_init"]),
    ),
    _walks(
        "Its points can be decoded to molecules.",
        "Section 5.3, Figure 4",
        Check(measures.VALID, relations.DECODED, ["icnn_init"], threshold=0.5),
    ),
    _walks(
        "The drug-likeness of these molecules differs.",
        "Section 5.3, Figure 4",
        Check(measures.QED_RANGE, relations.AT_LEAST, ["icnn_init"], threshold=0.1),
    ),
    _walks(
        "Their own predicted toxicity stays constant.",
        "Section 5.3, Figure 4",
        Check(measures.OWN_CHANGE, relations.SMALL_CHANGE, ["icnn_init"], threshold=0.1),
    ),
    _walks(
        "Level sets can be followed because the network is convex, and not in regular networks.",
        "Sections 5 and 5.3",
        Check(measures.CROSSED, relations.CROSSED_ONCE, ["icnn_init"], ["nonconvex"]),
    ),
)

# Section 3 and appendix B, about the formulas alone.
THEORY = (
    Claim(
        "The moments of the initialisation solve the fixed-point equations (with the sign of the "
        "bias corrected).",
        "Section 3.3, Eq. 8 to 12",
        Check(measures.FIXED_POINT, relations.AT_MOST, threshold=1e-6),
    ),
    Claim(
        "The correlation returns to its fixed point.",
        "appendix B.4 (our reading)",
        Check(measures.SLOPES, relations.ALL_SMALL, threshold=1.0),
    ),
    Claim(
        "Signal propagation is stable.",
        "Section 6 (our reading)",
        Check(measures.SPECTRAL_RADII, relations.ALL_BELOW, threshold=1.0),
    ),
    Claim(
        "Weights with these moments cannot be drawn from a uniform distribution.",
        "Section 3.3",
        Check(measures.UNIFORM_ENDS, relations.ALL_BELOW_ZERO, threshold=0.0),
    ),
)

CLAIMS: tuple[Claim, ...] = (
    *TRAINING,
    *GENERALISATION,
    *TOXICITY,
    *SIGNALS,
    *LEVEL_SETS,
    *THEORY,
)
