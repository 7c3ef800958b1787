"""The panels of figures and tables: which variants are compared, on which data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from convexinit_paper import demo
from convexinit_paper.data.registry import DATA_SETS
from convexinit_paper.figures.select import FREE, Panel
from convexinit_paper.figures.variants import (
    BIAS_ONLY,
    CONVEX,
    EXP,
    MODELS,
    POSITIVITY,
    RANDOM_BIAS,
    RHO,
    STEP_SIZES,
    Variants,
    variants,
)
from convexinit_paper.sweeps.grid_search import CELLS, FINAL, grid_names, varied_options

# The paper's data sets of images, and what is shown of one that was not run.
IMAGES = ("mnist", "cifar10", "cifar100")
COPIES = {"cifar10": "cifar10_jpeg"}
# What the official CIFAR-100 and CDDD need and we could not get; all else lacks time alone.
OUT_OF_REACH = {"cifar100": "data", "cddd": "weights"}
CODECS = {"autoencoder": "autoencoder", "ecfp": "ECFP", "cddd": "CDDD"}
PAPER = variants(*MODELS)
WITH_ORTHOGONAL = variants(*MODELS, "icnn_orthogonal")


def of_demo(
    training: demo.Training, title: str, models: Sequence[str] = (), chosen: Sequence[str] = ()
) -> Panel:
    """What the demo trains, or some model variants of that."""
    fixed = {name: value for name, value in training.options.items() if name not in FREE}
    compared = dict.fromkeys(models or training.models, fixed)
    return Panel(training.experiment, title, compared, training.groups, chosen)


def lacking(panel: Panel) -> str:
    """What runs that are not there lack, in a word: data, weights, or time."""
    names = (panel.experiment, *panel.groups.values())
    return next((OUT_OF_REACH[name] for name in names if name in OUT_OF_REACH), "time")


# --- Training losses: Figures 2, 5, 7 to 10, and two of our own ----------------------------------


def on_image(name: str, compared: Variants, more: str = "") -> Panel:
    """Trainings on a data set of images, which the experiment is named after.

    Args:
        name: of the data set.
        compared: see :class:`Panel`.
        more: what the title says after the data set.
    """
    instead = on_image(COPIES[name], compared, more) if name in COPIES else None
    return Panel(name, f"{DATA_SETS[name].title}{more}", compared, instead=instead)


def on_images(compared: Variants) -> list[Panel]:
    """The same on each of the paper's data sets of images."""
    return [on_image(name, compared) for name in IMAGES]


def of_depth(name: str, depth: int, compared: Variants = PAPER) -> Panel:
    """The same for networks with so many hidden layers."""
    deep = {model: {**options, "model.num_hidden": depth} for model, options in compared.items()}
    return on_image(name, deep, f", {depth} hidden layers")


DIGITS = of_demo(demo.DIGITS, DATA_SETS["digits"].title)
DYNAMICS = on_images(WITH_ORTHOGONAL)
DEPTHS = [[of_depth(name, depth) for depth in (3, 5, 7)] for name in IMAGES]
OTHER_DEPTHS = [of_depth(name, depth) for name in IMAGES for depth in (3, 7)]
# Random biases where networks are deep: too deep for the paper's initialisation, but for CIFAR-10.
DEEP_RANDOM_BIASES = [
    of_depth("digits", 5),
    *(
        of_depth(name, depth, variants(RANDOM_BIAS))
        for name, depth in (("digits", 5), ("mnist", 7), ("cifar10", 7))
    ),
]
RANDOM_BIASES = on_images(variants("nonconvex", "icnn", "icnn_init", RANDOM_BIAS))
BIASES_ALONE = on_images(variants("nonconvex", "icnn", "icnn_init", BIAS_ONLY))
CORRELATIONS = on_images(variants("nonconvex", *RHO.values()))
EXPONENTIALS = on_images(variants("nonconvex", *EXP.values()))
BASELINES = on_image(
    "mnist",
    variants("nonconvex", "icnn", "icnn_init", "icnn_lsuv", "icnn_init_lsuv", "icnn_difference"),
)
POSITIVITIES = on_image("mnist", variants(*POSITIVITY.values()))

# --- Depth: two figures of our own ---------------------------------------------------------------

AT_ANY_DEPTH = variants(
    "nonconvex",
    "nonconvex_orthogonal",
    "icnn",
    "icnn_skip",
    "icnn_init",
    RANDOM_BIAS,
    "icnn_orthogonal",
)


def as_deep(name: str, depth: int, compared: Variants, **more: Any) -> Panel:
    """Trainings of the experiment on depth, on a data set of images."""
    groups = {} if name == "digits" else {"dataset": name}
    changes = {"model.num_hidden": depth, **more}
    deep = {variant: {**options, **changes} for variant, options in compared.items()}
    return Panel("depth", f"{DATA_SETS[name].title}, {depth} hidden layers", deep, groups)


MANY_DEPTHS = [
    *(as_deep("digits", depth, AT_ANY_DEPTH) for depth in (3, 5, 7, 10, 20, 50)),
    of_depth("mnist", 5, AT_ANY_DEPTH),
    *(as_deep("mnist", depth, AT_ANY_DEPTH, **{"model.width": 784}) for depth in (20, 50)),
]
ACTIVATIONS = [
    replace(panel, title=f"{panel.title}, {name}")
    for name in ("leaky_relu", "elu", "softplus", "squared_relu")
    for depth in (5, 20)
    for panel in [
        as_deep("digits", depth, variants("icnn_orthogonal"), **{"model.activation": name})
    ]
]
STARTS = ("icnn_init", RANDOM_BIAS, "icnn_orthogonal")
FAILURES = [panel.of(STARTS) for panel in (*MANY_DEPTHS, of_depth("cifar10", 5, AT_ANY_DEPTH))]
STEPS = [as_deep("digits", depth, variants(*STEP_SIZES.values())) for depth in (20, 50)]

# --- Signals in untrained networks: Figures 1 and 6 ----------------------------------------------

SIGNALS, ALL_SIGNALS = (
    Panel("signal_propagation", "signal propagation", variants(*names))
    for names in (
        ("nonconvex", "icnn", "icnn_init"),
        ("nonconvex", "icnn", "icnn_init", RANDOM_BIAS, "icnn_skip"),
    )
)

# --- Networks that other people wrote ------------------------------------------------------------

YOUR_NETWORK = Panel("your_network", "networks of others", variants("your_network"))

# --- Generalisation: Figures 3 and 11, and the search behind them --------------------------------


def generalising(name: str, compared: Variants) -> Panel:
    """Final runs of a search on a data set of images."""
    instead = generalising(COPIES[name], compared) if name in COPIES else None
    title, groups = DATA_SETS[name].title, {"dataset": name}
    return Panel(FINAL, title, compared, groups, varied_options(), instead)


def searched(name: str, grid: str, compared: Variants, positivity: str) -> Panel:
    """The cells of a grid on a data set of images, for weights of some positivity."""
    instead = searched(COPIES[name], grid, compared, positivity) if name in COPIES else None
    title, groups = DATA_SETS[name].title, {"grid": grid, "dataset": name}
    return Panel(CELLS, f"{title}, {positivity}, grid {grid}", compared, groups, (), instead)


SEARCHED_IMAGES = ("mnist", "cifar10")
GENERALISATION = [generalising(name, WITH_ORTHOGONAL) for name in SEARCHED_IMAGES]
GENERALISATION_DEMO = of_demo(demo.FINAL, DATA_SETS["digits"].title, chosen=varied_options())
GENERALISATION_EXP = [
    generalising(name, variants("nonconvex", *EXP.values())) for name in SEARCHED_IMAGES
]
SEARCHES = [
    searched(name, grid, compared, positivity)
    for positivity, compared in (
        ("projection", WITH_ORTHOGONAL),
        ("exp", {model: {"model.positivity": "exp"} for model in CONVEX}),
    )
    for name in SEARCHED_IMAGES
    for grid in grid_names()
    if grid != demo.GRID
]
SEARCH_DEMO = of_demo(demo.SEARCH, f"{DATA_SETS['digits'].title}, projection, grid {demo.GRID}")

# --- Molecules: Table 1, the codec, and walks along level sets -----------------------------------

TOXICITY = [
    Panel("tox21", f"{DATA_SETS['tox21'].title}, {title}", groups={"codec": codec})
    for codec, title in CODECS.items()
]
TOXICITY_ORTHOGONAL = replace(TOXICITY[0], variants=variants("icnn_init", "icnn_orthogonal"))
TOXICITY_DEMO = of_demo(demo.TOXICITY, f"{DATA_SETS['structural_alerts'].title}, autoencoder")
AUTOENCODER = Panel("autoencoder", "autoencoder", variants("autoencoder"))
LEVEL_SETS = Panel("level_sets", "level sets")
LEVEL_SETS_DEMO = of_demo(demo.LEVEL_SETS, "level sets")
WALKS = replace(LEVEL_SETS, variants=variants("icnn_init"))
WALKS_DEMO = of_demo(demo.LEVEL_SETS, "level sets", ["icnn_init"])
