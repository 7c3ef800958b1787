"""What figures compare: the model variants of ``conf/model``, and others made from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf

from convexinit_paper.request.config import CONF

# Variants by name, each with the options in which it departs from the experiment; "model" is its
# variant of ``conf/model``, if the name is not that of one.
Variants = Mapping[str, Mapping[str, Any]]

# Those of the paper, in the order of legends.
MODELS = ("nonconvex", "icnn", "icnn_skip", "icnn_init")
CONVEX = MODELS[1:]
TITLES: dict[str, str] = {
    path.stem: title
    for path in sorted((CONF / "model").glob("*.yaml"))
    if (title := OmegaConf.select(OmegaConf.load(path), "title")) is not None
}

# Names of the others, which are their titles as well.
RANDOM_BIAS = f"{TITLES['icnn_init']} (random bias)"
BIAS_ONLY = f"{TITLES['icnn_init']} (bias only)"
RHO = {rho: f"{TITLES['icnn_init']} (ρ = {rho})" for rho in (0.1, 0.5, 0.9)}
EXP = {model: f"{TITLES[model]} (exp)" for model in CONVEX}
POSITIVITY = {
    positivity: f"{TITLES['icnn_init']} ({positivity.replace('_', '-')})"
    for positivity in ("projection", "clip", "exp", "neg_exp", "square", "softplus")
}
# Ways to keep the first steps of deep networks small.
STEP_SIZES = {
    steps: f"{TITLES['icnn_orthogonal']} ({name})"
    for steps, name in (
        ("auto", "steps by depth"),
        ("warmup", "warm-up"),
        ("equal", "equal steps"),
    )
}
OTHERS: Variants = {
    STEP_SIZES["auto"]: {"model": "icnn_orthogonal"},
    STEP_SIZES["warmup"]: {
        "model": "icnn_orthogonal",
        "trainer.step_sizes": "equal",
        "trainer.warmup": 100,
    },
    STEP_SIZES["equal"]: {"model": "icnn_orthogonal", "trainer.step_sizes": "equal"},
    RANDOM_BIAS: {"model": "icnn_init", "model.bias_noise": 0.5},
    BIAS_ONLY: {"model": "icnn_init", "model.init": "bias_only"},
    **{name: {"model": "icnn_init", "model.rho": rho} for rho, name in RHO.items()},
    **{name: {"model": model, "model.positivity": "exp"} for model, name in EXP.items()},
    **{
        name: {"model": "icnn_init", "model.positivity": positivity}
        for positivity, name in POSITIVITY.items()
    },
}


def variants(*names: str) -> Variants:
    """Model variants of ``conf/model`` and those of :data:`OTHERS`, by name.

    Example:
        >>> dict(variants("icnn", BIAS_ONLY))["icnn"]
        {}
    """
    return {name: OTHERS.get(name, {}) for name in names}


def title_of(variant: str) -> str:
    """The name of a variant for people.

    Example:
        >>> title_of("icnn_skip")
        'ICNN + skip'
    """
    return TITLES.get(variant, variant)
