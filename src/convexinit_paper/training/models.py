"""The model variants of the experiments, built and initialised from ``conf/model``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Generator, Tensor, nn

from convexinit.activations import ACTIVATIONS, check_convex_activation
from convexinit.difference import ConvexDifference
from convexinit.init import BIAS_RULES, DISTRIBUTIONS, he_normal_, lecun_normal_
from convexinit.init_network import init_icnn_
from convexinit.layers import Linear, project_
from convexinit.lsuv import lsuv_init_
from convexinit.moments import activation_moments
from convexinit.networks import CNN, MLP
from convexinit.positivity import POSITIVITY, resolve_positivity
from convexinit.stacking import stack_networks
from convexinit_paper.request.options import (
    FRACTION,
    ConfigError,
    Range,
    Section,
    above,
    at_least,
    one_of,
    option,
    or_null,
    require,
)
from convexinit_paper.training.loop import Split, epoch_order
from convexinit_paper.training.memory import BYTES, FEWER_WEIGHTS, require_memory
from convexinit_paper.training.randomness import seeded_generator

OF_MOMENTS = ("rho", "variance", "bias_noise", "distribution", "bias_rule")
# Each with the options that it uses in a convex network.
INITIALISATIONS: dict[str, tuple[str, ...]] = {
    "he": (),
    "principled": OF_MOMENTS,
    "orthogonal": ("variance",),
    "bias_only": ("rho", "variance", "bias_noise"),
    "lsuv": ("variance", "bias_rule"),
    "principled_lsuv": OF_MOMENTS,
}
DATA_DRIVEN = ("lsuv", "principled_lsuv")
ARCHITECTURES = ("fully_connected", "convolutional")


@dataclass(frozen=True)
class ModelSettings(Section):
    """Architecture and initialisation of a network; defaults in ``conf/network``."""

    title: str = option("name in figures")
    convex: bool = option("whether the network is input-convex")
    skip: bool = option(
        "whether the input is added to every later layer through a linear map; not in a "
        "convolutional network"
    )
    init: str = option(
        "he (the usual default, zero bias), principled (the paper's), orthogonal (non-negative "
        "orthogonal weights; without that constraint those of Saxe et al. 2014), bias_only (He "
        "weights with the paper's bias, Figure 8), lsuv or principled_lsuv (he or principled, then "
        "scaled and centred on inputs, convexinit.lsuv_init_)",
        one_of(INITIALISATIONS),
    )
    architecture: str = option(
        "fully_connected (convexinit.MLP) or convolutional (convexinit.CNN, for images)",
        one_of(ARCHITECTURES),
    )
    difference: bool = option(
        "whether the model is the difference of two such networks (convexinit.ConvexDifference), "
        "with twice the parameters"
    )
    num_hidden: int | None = option("number of hidden layers; None where widths are given")
    width: int | None = option(
        "units of every hidden layer, channels of a convolution",
        or_null(at_least(1), "for the number of inputs"),
    )
    widths: list[int] | None = option(
        "units of every constrained hidden layer; the first, unconstrained layer comes before "
        "these and is as wide as the input. None where num_hidden is given",
        Range(
            "null, or a list of widths of at least 1 such as [1000,10000]",
            lambda widths: widths is None or (bool(widths) and min(widths) >= 1),
        ),
    )
    activation: str = option("of all layers but the last", one_of(ACTIVATIONS))
    positivity: str = option("how weights are kept non-negative", one_of(POSITIVITY))
    rho: float = option(
        "target correlation of the principled initialisation",
        Range("between 0 and 1, both excluded", lambda rho: 0 < rho < 1),
    )
    variance: float = option("its target variance", above(0))
    bias_noise: float = option("its share of random bias", FRACTION)
    distribution: str = option("its weight distribution", one_of(DISTRIBUTIONS))
    bias_rule: str = option(
        "its rule for the bias; LSUV centres every unit if it is centred, otherwise every layer",
        one_of(BIAS_RULES),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        resolve_positivity(self.positivity)
        if self.convex:
            check_convex_activation(self.activation)
        if self.widths is None:
            enough = self.num_hidden is not None and self.num_hidden >= 1
            require(enough, "num_hidden", "at least 1", self.num_hidden, "widths is null")
        else:
            for name in ("num_hidden", "width"):
                value = getattr(self, name)
                require(value is None, name, "null", value, "widths is given")
        if self.init == "bias_only":
            is_sampled = self.bias_rule == "sampled"
            require(is_sampled, "bias_rule", "sampled", self.bias_rule, "init=bias_only")
        if not self.convex:
            usual = ("he", "orthogonal")
            require(self.init in usual, "init", "he or orthogonal", self.init, "convex=false")
            require(not self.difference, "difference", "false", self.difference, "convex=false")
        if self.architecture == "convolutional":
            where = "architecture=convolutional"
            require(not self.skip, "skip", "false", self.skip, where)
            require(self.width is not None, "width", "a number of channels", None, where)

    def require_fully_connected(self) -> None:
        """Raise ConfigError for a convolutional network, where inputs are not images."""
        require(
            self.architecture == "fully_connected",
            "model.architecture",
            "fully_connected where inputs are not images",
            self.architecture,
        )

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
        network = _raw_network(settings, widths, input_dropout, hidden_dropout, image_shape)
        return _initialise_(network, settings, generator, inputs)

    return ConvexDifference(initialised(), initialised()) if settings.difference else initialised()


def _raw_network(
    settings: ModelSettings,
    widths: list[int],
    input_dropout: float = 0.0,
    hidden_dropout: float = 0.0,
    image_shape: tuple[int, int, int] | None = None,
) -> MLP | CNN:
    """A network before its weights are drawn; arguments as in :func:`build_network`."""
    if image_shape is not None and settings.architecture == "convolutional":
        return CNN(
            image_shape,
            widths[1:-1],
            widths[-1],
            settings.activation,
            settings.convex,
            settings.positivity,
        )
    return MLP(
        widths,
        settings.activation,
        settings.convex,
        settings.positivity,
        settings.skip,
        input_dropout,
        hidden_dropout,
    )


def count_parameters(
    settings: ModelSettings, widths: list[int], image_shape: tuple[int, int, int] | None = None
) -> int:
    """Number of parameters of a network, which takes no memory; arguments as in build_network."""
    with torch.device("meta"):
        network = _raw_network(settings, widths, image_shape=image_shape)
    count = sum(parameter.numel() for parameter in network.parameters())
    return 2 * count if settings.difference else count


@torch.no_grad()
def _initialise_(
    network: MLP | CNN, settings: ModelSettings, generator: Generator, inputs: Tensor | None
) -> MLP | CNN:
    """Draw the initial weights of a network, in place; arguments as in :func:`build_network`."""
    layers = cast("list[Linear]", list(network.layers))
    first, *later = layers
    if settings.init in ("principled", "bias_only", "principled_lsuv"):
        init_icnn_(
            network,
            activation=settings.activation,
            rho=settings.rho,
            variance=settings.variance,
            bias_noise=settings.bias_noise,
            distribution=settings.distribution,
            bias_rule=settings.bias_rule,
            generator=generator,
            method="moments",
        )
    elif settings.init == "orthogonal" and settings.convex:
        init_icnn_(
            network,
            activation=settings.activation,
            variance=settings.variance,
            method="orthogonal",
            generator=generator,
        )
    elif settings.init == "orthogonal":
        lecun_normal_(first.weight, generator)
        # Keeps the second moment of the signal from layer to layer.
        gain = activation_moments(settings.activation).second_moment ** -0.5
        for layer in later:
            nn.init.orthogonal_(layer.weight, gain, generator)
    if settings.init in ("he", "bias_only", "lsuv"):  # bias_only keeps the biases drawn above
        lecun_normal_(first.weight, generator)
        for layer in later:
            # Raw values: "default" means He whatever the positivity map makes of them.
            he_normal_(layer.weight, generator)
    if settings.init in ("he", "lsuv") or not settings.convex:
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

    Raises:
        ConfigError: as :func:`build_network`, or if the networks do not fit into memory.
    """
    parameters = count_parameters(settings, widths, image_shape)
    require_memory(
        2 * BYTES * parameters * len(seeds),  # each alone, and in the stack
        f"{len(seeds)} networks of {parameters:,} parameters"
        if len(seeds) > 1
        else f"the {parameters:,} parameters of a network",
        FEWER_WEIGHTS,
    )
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
