"""The model variants of the experiments, built and initialised from ``conf/model``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Generator

from convexinit.config import require
from convexinit.init import (
    BIAS_RULES,
    DISTRIBUTIONS,
    he_normal_,
    init_icnn_,
    lecun_normal_,
)
from convexinit.nn import MLP, Linear, project_, stack_networks
from convexinit.positivity import POSITIVITY
from convexinit.training import seeded_generator

INITIALISATIONS = ("he", "principled", "bias_only")


@dataclass(frozen=True)
class ModelSettings:
    """Architecture and initialisation of a network; defaults live in ``conf/network``.

    Attributes:
        title: name in figures.
        convex: whether the network is input-convex.
        skip: whether the input is added to every later layer through a linear map.
        init: "he" (the usual default, zero bias), "principled" (the paper's), or "bias_only"
            (He weights with the paper's bias, appendix C.4).
        num_hidden: number of hidden layers, at least 1.
        width: units of every hidden layer; None for as many as inputs.
        activation: name of the activation.
        positivity: how weights are kept non-negative.
        rho: target correlation of the principled initialisation, in (0, 1).
        variance: its target variance, greater than 0.
        bias_noise: its share of random bias, in [0, 1).
        distribution: its weight distribution.
        bias_rule: its rule for the bias.
    """

    title: str
    convex: bool
    skip: bool
    init: str
    num_hidden: int
    width: int | None
    activation: str
    positivity: str
    rho: float
    variance: float
    bias_noise: float
    distribution: str
    bias_rule: str

    def __post_init__(self) -> None:
        require(0.0 < self.rho < 1.0, "model.rho", "between 0 and 1, both excluded", self.rho)
        require(0.0 < self.variance < float("inf"), "model.variance", "above 0", self.variance)
        require(0.0 <= self.bias_noise < 1.0, "model.bias_noise", "in [0, 1)", self.bias_noise)
        require(self.num_hidden >= 1, "model.num_hidden", "at least 1", self.num_hidden)
        require(
            self.width is None or self.width >= 1,
            "model.width",
            "at least 1, or null for the number of inputs",
            self.width,
        )
        for option, names in (
            ("init", INITIALISATIONS),
            ("positivity", POSITIVITY),
            ("distribution", DISTRIBUTIONS),
            ("bias_rule", BIAS_RULES),
        ):
            value = getattr(self, option)
            require(value in names, f"model.{option}", f"one of {', '.join(names)}", value)
        require(
            self.init != "bias_only" or self.bias_rule == "sampled",
            "model.bias_rule",
            "sampled where model.init=bias_only",
            self.bias_rule,
        )
        require(
            self.convex or self.init == "he",
            "model.init",
            "he where model.convex=false",
            self.init,
        )

    def widths(self, inputs: int, outputs: int) -> list[int]:
        """Widths of all layers, input and output included."""
        return [inputs, *[self.width or inputs] * self.num_hidden, outputs]


@torch.no_grad()
def build_network(
    settings: ModelSettings,
    widths: list[int],
    generator: Generator,
    input_dropout: float = 0.0,
    hidden_dropout: float = 0.0,
) -> MLP:
    """Build a network and draw its initial weights.

    Args:
        settings: the model variant.
        widths: widths of all layers, input and output included.
        generator: source of all random numbers.
        input_dropout: see :class:`convexinit.nn.MLP`.
        hidden_dropout: see :class:`convexinit.nn.MLP`.
    """
    network = MLP(
        widths,
        settings.activation,
        settings.convex,
        settings.positivity,
        settings.skip,
        input_dropout,
        hidden_dropout,
    )
    if settings.init in ("principled", "bias_only"):
        init_icnn_(
            network,
            settings.activation,
            settings.rho,
            settings.variance,
            settings.bias_noise,
            distribution=settings.distribution,
            bias_rule=settings.bias_rule,
            generator=generator,
        )
    layers = cast("list[Linear]", list(network.layers))
    if settings.init in ("he", "bias_only"):
        first, *later = layers
        lecun_normal_(first.weight, generator)
        for layer in later:
            # Raw values: "default" means He whatever the positivity map makes of them.
            he_normal_(layer.weight, generator)
    if settings.init == "he":
        for layer in layers:
            layer.bias.zero_()
    for skip in cast("list[Linear]", list(network.skips)):
        bound = skip.in_features**-0.5  # the default of torch.nn.Linear
        skip.weight.uniform_(-bound, bound, generator=generator)
    return project_(network)


def build_stack(
    settings: ModelSettings,
    widths: list[int],
    seeds: list[int],
    input_dropout: float = 0.0,
    hidden_dropout: float = 0.0,
) -> MLP:
    """One network per seed (:func:`build_network`), stacked."""
    return stack_networks(
        [
            build_network(
                settings, widths, seeded_generator(seed, "weights"), input_dropout, hidden_dropout
            )
            for seed in seeds
        ]
    )
