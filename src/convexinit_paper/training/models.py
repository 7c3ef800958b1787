"""The model variants of the experiments, built and initialised from ``conf/model``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Generator, Tensor, nn

from convexinit.difference import ConvexDifference
from convexinit.init import BIAS_RULES, DISTRIBUTIONS, he_normal_, lecun_normal_
from convexinit.init_network import init_icnn_
from convexinit.layers import Linear, project_
from convexinit.lsuv import lsuv_init_
from convexinit.networks import CNN, MLP
from convexinit.positivity import POSITIVITY
from convexinit.stacking import stack_networks
from convexinit_paper.request.config import ConfigError, require
from convexinit_paper.training.loop import Split, epoch_order
from convexinit_paper.training.randomness import seeded_generator

INITIALISATIONS = ("he", "principled", "bias_only", "lsuv", "principled_lsuv")
DATA_DRIVEN = ("lsuv", "principled_lsuv")
ARCHITECTURES = ("fully_connected", "convolutional")


@dataclass(frozen=True)
class ModelSettings:
    """Architecture and initialisation of a network; defaults live in ``conf/network``.

    Attributes:
        title: name in figures.
        convex: whether the network is input-convex.
        skip: whether the input is added to every later layer through a linear map; not in a
            convolutional network.
        init: "he" (the usual default, zero bias), "principled" (the paper's), "bias_only"
            (He weights with the paper's bias, Figure 8), "lsuv" or "principled_lsuv" ("he" or
            "principled", then scaled and centred on inputs, :func:`convexinit.lsuv_init_`).
        architecture: "fully_connected" (:class:`convexinit.MLP`) or "convolutional"
            (:class:`convexinit.CNN`, for images).
        difference: whether the model is the difference of two such networks
            (:class:`convexinit.ConvexDifference`), with twice the parameters.
        num_hidden: number of hidden layers, at least 1; None where ``widths`` are given.
        width: units of every hidden layer, channels of a convolution; None for as many as inputs.
        widths: units of every constrained hidden layer, at least 1; None where ``num_hidden`` is
            given. The first, unconstrained layer comes before these and is as wide as the input.
        activation: name of the activation.
        positivity: how weights are kept non-negative.
        rho: target correlation of the principled initialisation, in (0, 1).
        variance: its target variance, greater than 0.
        bias_noise: its share of random bias, in [0, 1).
        distribution: its weight distribution.
        bias_rule: its rule for the bias; LSUV centres every unit if it is "centred", otherwise
            every layer.
    """

    title: str
    convex: bool
    skip: bool
    init: str
    architecture: str
    difference: bool
    num_hidden: int | None
    width: int | None
    widths: list[int] | None
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
        self._check_widths()
        for option, names in (
            ("init", INITIALISATIONS),
            ("architecture", ARCHITECTURES),
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
        require(
            self.convex or not self.difference,
            "model.difference",
            "false where model.convex=false",
            self.difference,
        )
        if self.architecture == "convolutional":
            condition = "where model.architecture=convolutional"
            require(not self.skip, "model.skip", f"false {condition}", self.skip)
            require(
                self.width is not None, "model.width", f"a number of channels {condition}", None
            )

    def require_fully_connected(self) -> None:
        """Raise ConfigError for a convolutional network, where inputs are not images."""
        require(
            self.architecture == "fully_connected",
            "model.architecture",
            "fully_connected where inputs are not images",
            self.architecture,
        )

    def _check_widths(self) -> None:
        if self.widths is None:
            require(
                self.num_hidden is not None and self.num_hidden >= 1,
                "model.num_hidden",
                "at least 1 where model.widths is null",
                self.num_hidden,
            )
            require(
                self.width is None or self.width >= 1,
                "model.width",
                "at least 1, or null for the number of inputs",
                self.width,
            )
            return
        require(
            bool(self.widths) and min(self.widths) >= 1,
            "model.widths",
            "null, or a list of widths of at least 1 such as [1000,10000]",
            self.widths,
        )
        for option in ("num_hidden", "width"):
            value = getattr(self, option)
            require(value is None, f"model.{option}", "null where model.widths is given", value)

    def layer_widths(self, inputs: int, outputs: int) -> list[int]:
        """Widths of all layers, input and output included.

        In the paper's search for hyper-parameters the unconstrained first layer maps the input to
        its own width, so that all layers of which ``widths`` gives the widths are constrained.
        """
        if self.widths is not None:
            return [inputs, inputs, *self.widths, outputs]
        return [inputs, *[self.width or inputs] * (self.num_hidden or 0), outputs]


def build_network(
    settings: ModelSettings,
    widths: list[int],
    generator: Generator,
    input_dropout: float = 0.0,
    hidden_dropout: float = 0.0,
    image_shape: tuple[int, int, int] | None = None,
    inputs: Tensor | None = None,
) -> nn.Module:
    """Build a network and draw its initial weights.

    Args:
        settings: the model variant.
        widths: widths of all layers, input and output included.
        generator: source of all random numbers.
        input_dropout: see :class:`convexinit.networks.MLP`; not for convolutional networks.
        hidden_dropout: see :class:`convexinit.networks.MLP`; not for convolutional networks.
        image_shape: (channels, height, width), if inputs are images.
        inputs: batch ``[batch, inputs]`` that data-driven initialisations look at.

    Raises:
        ConfigError: for a convolutional network if inputs are not images, and for a data-driven
            initialisation without inputs, or that fails on them.
    """
    if image_shape is None:
        settings.require_fully_connected()

    def initialised() -> MLP | CNN:
        network: MLP | CNN
        if image_shape is not None and settings.architecture == "convolutional":
            network = CNN(
                image_shape,
                widths[1:-1],
                widths[-1],
                settings.activation,
                settings.convex,
                settings.positivity,
            )
        else:
            network = MLP(
                widths,
                settings.activation,
                settings.convex,
                settings.positivity,
                settings.skip,
                input_dropout,
                hidden_dropout,
            )
        return _initialise_(network, settings, generator, inputs)

    return ConvexDifference(initialised(), initialised()) if settings.difference else initialised()


@torch.no_grad()
def _initialise_(
    network: MLP | CNN, settings: ModelSettings, generator: Generator, inputs: Tensor | None
) -> MLP | CNN:
    """Draw the initial weights of a network, in place; arguments as in :func:`build_network`."""
    if settings.init in ("principled", "bias_only", "principled_lsuv"):
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
    if settings.init in ("he", "bias_only", "lsuv"):
        first, *later = layers
        lecun_normal_(first.weight, generator)
        for layer in later:
            # Raw values: "default" means He whatever the positivity map makes of them.
            he_normal_(layer.weight, generator)
    if settings.init in ("he", "lsuv"):
        for layer in layers:
            layer.bias.zero_()
    if isinstance(network, MLP):
        for skip in cast("list[Linear]", list(network.skips)):
            bound = skip.in_features**-0.5  # the default of torch.nn.Linear
            skip.weight.uniform_(-bound, bound, generator=generator)
    project_(network)
    if settings.init in DATA_DRIVEN:
        if inputs is None:
            raise ConfigError(
                f"model.init={settings.init} needs inputs, which this experiment has none of"
            )
        network.eval()  # as if there were no dropout, like the other initialisations
        try:
            lsuv_init_(network, inputs, settings.variance, per_unit=settings.bias_rule == "centred")
        except ValueError as error:
            raise ConfigError(f"model.init={settings.init}: {error}") from error
        network.train()
    return network


def initial_batches(training: Split, seeds: list[int], size: int) -> Tensor:
    """Inputs ``[seeds, size, inputs]`` that data-driven initialisations look at.

    Args:
        training: rows of every seed's network.
        seeds: draw the batch, without replacement and independently of what they draw else.
        size: number of rows; all of them if there are fewer.
    """
    generators = [seeded_generator(seed, "initial batch") for seed in seeds]
    inputs, _ = training.batch(epoch_order(training.rows, generators)[:, :size])
    return inputs


def build_stack(
    settings: ModelSettings,
    widths: list[int],
    seeds: list[int],
    input_dropout: float = 0.0,
    hidden_dropout: float = 0.0,
    image_shape: tuple[int, int, int] | None = None,
    batches: Tensor | None = None,
) -> nn.Module:
    """One network per seed (:func:`build_network`), stacked.

    Args:
        settings: see :func:`build_network`.
        widths: see :func:`build_network`.
        seeds: one network each.
        input_dropout: see :func:`build_network`.
        hidden_dropout: see :func:`build_network`.
        image_shape: see :func:`build_network`.
        batches: ``[seeds, batch, inputs]`` from :func:`initial_batches`.
    """
    return stack_networks(
        [
            build_network(
                settings,
                widths,
                seeded_generator(seed, "weights"),
                input_dropout,
                hidden_dropout,
                image_shape,
                None if batches is None else batches[index],
            )
            for index, seed in enumerate(seeds)
        ]
    )
