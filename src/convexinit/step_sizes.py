"""Step sizes of deep and wide input-convex networks, as parameter groups for an optimiser."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from convexinit.activations import Activation
from convexinit.calls import following
from convexinit.checks import check_module, check_number, check_unchanged
from convexinit.diagnostics import Measuring, measured
from convexinit.difference import convex_functions, parts_of
from convexinit.evaluation import Convex, Inputs, checked, evaluated
from convexinit.finding import find_prepared, problems_of
from convexinit.found import Found, FoundLayer, Options, PreActivation
from convexinit.layers import ConvexLayer, check_not_stacked
from convexinit.networks import CNN, MLP, activation_of, counted_variance, skips_of
from convexinit.orthogonal import plan_layers

# Inputs of a layer from which on its steps are smaller.
_MANY_INPUTS = 256


@dataclass(frozen=True)
class _Facts:
    """What the steps of a layer depend on.

    Attributes:
        weights: its parameters but for biases.
        biases: of the layer.
        fan_in: how many inputs a unit sums.
        depth: number of hidden convex layers, if it is one of them; 1 for any other layer.
        ratio: mean of the features that it reads over the standard deviation of the
            pre-activations that it makes of them; 0 where steps do not depend on it.
    """

    weights: Iterable[Tensor] = ()
    biases: Iterable[Tensor] = ()
    fan_in: int = 0
    depth: int = 1
    ratio: float = 0.0

    def divisors(self) -> Iterator[tuple[Tensor, float]]:
        """Parameters, and what the learning rate is divided by for each."""
        slower = max(1.0, self.fan_in / _MANY_INPUTS) * max(1.0, self.ratio)
        yield from ((weight, self.depth * slower) for weight in self.weights)
        yield from ((bias, self.depth) for bias in self.biases)


def parameter_groups(
    model: nn.Module,
    lr: float,
    inputs: Inputs | None = None,
    activation: Activation | None = None,
    variance: float = 1.0,
    convex: Convex = 0,
    call: Callable[..., Tensor] | None = None,
    layers: Options | None = None,
) -> list[dict[str, Any]]:
    """Parameters of a network for an optimiser, with smaller steps for deep and wide networks.

    A first update of Adam moves a pre-activation by up to the learning rate times the sum of the
    sizes of its inputs, and all those that an output sums in the same direction. Where a layer has
    more than 256 inputs, the step of its weights is ``lr * 256 / fan_in``: ``lr`` is that of a
    layer with up to 256.

    In hidden convex layers, whose inputs have a positive mean as after ReLU, such updates multiply
    the mean of the signal by ``1 + fan_in * lr / 2``, and ``L`` layers by that to the power of L.
    With a rate of ``lr / L`` for each of the L layers the product stays bounded at any depth. Where
    features are further from zero than the pre-activations made of them vary, as after softplus,
    the weights that they meet get smaller steps still, those of the outputs too (``rates`` of
    :class:`convexinit.orthogonal.LayerPlan`, which describes networks with an orthogonal start).
    Biases of other layers keep ``lr``. In an :class:`~convexinit.MLP` or :class:`~convexinit.CNN`
    that is not convex, for comparison, hidden layers are those between the first and the last.

    Smaller steps are slower where equal ones would do, below about eight layers or at a small
    ``lr``: raise ``lr``, up to ten times.

    With ``inputs``, the network may be anybody's; call :func:`~convexinit.init_icnn_` before. Its
    layers are found by tracing (:mod:`convexinit.finding`), and the network is as before
    afterwards. ``L`` is then the number of hidden convex layers on the longest way through the
    layer, so that layers whose results are added up, and parallel ones, count once. Biases are all
    parameters that shift a hidden convex layer, those of skip connections too. Of a weight that is
    computed, the parameter of the same size gets its steps, another (a gain, say) keeps ``lr``. How
    far features are from zero is measured; a last layer may start near zero, as its
    pre-activations count as varying as much as those before it. Without ``inputs`` the network is
    of layers of this library, which are taken to follow one another.

    Args:
        model: a network or, without ``inputs``, a stack of networks.
        lr: learning rate, greater than 0.
        inputs: a batch of data, as for :func:`~convexinit.init_icnn_`. Then ``activation`` and
            ``variance`` are of no use.
        activation: as for :func:`~convexinit.init_icnn_`.
        variance: as for :func:`~convexinit.init_icnn_`.
        convex: see :func:`~convexinit.init_icnn_`.
        call: see :func:`~convexinit.init_icnn_`.
        layers: see :func:`~convexinit.init_icnn_`.

    Returns:
        ``{"params": [...], "lr": ...}`` for every step size that occurs, from the largest, ``lr``,
        to the smallest. Each parameter is in one of them; one that several layers use gets the
        smallest of their steps. Optimisers of ``torch.optim`` take them, but for LBFGS, which takes
        no groups. Schedulers that set rates instead of multiplying them need one for each group:
        ``OneCycleLR(optimiser, max_lr=[group["lr"] for group in groups], ...)``.

    Raises:
        ValueError: if the network has no such layers, an argument is out of range or of no use, or
            the activation is not finite on the signals of such a network. With ``inputs``: if they
            do not fit, a layer cannot be followed, or a signal is not finite or does not vary; also
            for a stack.

    Example:
        >>> import torch
        >>> from convexinit import MLP, init_icnn_
        >>> groups = parameter_groups(MLP([8, 16, 16, 16, 1]), lr=1e-3)
        >>> [group["lr"] for group in groups]
        [0.001, 0.0005]
        >>> optimiser = torch.optim.Adam(groups)

        Of a network of any layers:

        >>> x = torch.randn(512, 8)
        >>> layers = [nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU()]
        >>> layers += [nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 1)]
        >>> network = init_icnn_(nn.Sequential(*layers), x)
        >>> [group["lr"] for group in parameter_groups(network, lr=1e-3, inputs=x)]
        [0.001, 0.0005]
    """
    check_module("model", model)
    lr = check_number("lr", lr, 0.0)
    if inputs is None:
        traced: dict[str, Any] = {"convex": convex, "call": call, "layers": layers or None}
        check_unchanged(parameter_groups, traced, "says what is traced; give inputs= as well")
        facts = [fact for part in parts_of(model) for fact in _known(part, activation, variance)]
    else:
        known = {"activation": activation, "variance": variance}
        check_unchanged(parameter_groups, known, "is measured on the inputs; leave it out")
        facts = _traced(model, inputs, convex, call, layers)
    divisors: dict[Tensor, float] = dict.fromkeys(model.parameters(), 1.0)
    for fact in facts:
        for parameter, divisor in fact.divisors():
            divisors[parameter] = max(divisors[parameter], divisor)
    groups: dict[float, list[Tensor]] = {1.0: []}
    for parameter, divisor in divisors.items():
        groups.setdefault(divisor, []).append(parameter)
    return [{"params": groups[divisor], "lr": lr / divisor} for divisor in sorted(groups)]


def _known(network: nn.Module, activation: Activation | None, variance: float) -> Iterator[_Facts]:
    """Facts of a network of layers of this library, by their classes and in theory."""
    layers = _later_layers(network)
    hidden = len(layers) - 1
    if hidden < 0:
        raise ValueError(
            "the network has no convex layer of this library, of which step sizes would be known; "
            "give a batch of inputs, inputs=..., on which layers of any class are found"
        )
    own = activation_of(network) if activation is None else activation
    skips = skips_of(network)
    added = [counted_variance(skips.get(layer), variance) for layer in layers]
    plan = plan_layers(own, [1] * hidden, variance, added)
    ratios = {layer: 1 / rate for layer, rate in zip(layers, plan.rates, strict=True)}
    for layer in {*filter(_fan_in, network.modules()), *layers}:
        named = dict(layer.named_parameters())
        biases = [named.pop("bias")] if "bias" in named else []
        depth = hidden if layer in layers[:-1] else 1
        yield _Facts(named.values(), biases, _fan_in(layer), depth, ratios.get(layer, 0.0))


def _later_layers(network: nn.Module) -> list[nn.Module]:
    """Convex layers, or all after the first of a network of ours that is not convex."""
    convex: list[nn.Module] = [m for m in network.modules() if isinstance(m, ConvexLayer)]
    if not convex and isinstance(network, (MLP, CNN)):
        return list(network.layers[1:])
    return convex


def _fan_in(layer: nn.Module) -> int:
    """Inputs that an output of the layer sums, 0 for modules that are no affine layer."""
    if isinstance(layer, nn.Linear):
        return layer.in_features
    if isinstance(layer, nn.modules.conv._ConvNd):
        return layer.in_channels // layer.groups * math.prod(layer.kernel_size)
    return 0


def _traced(
    network: nn.Module,
    inputs: Inputs,
    convex: Convex,
    call: Callable[..., Tensor] | None,
    options: Options | None,
) -> list[_Facts]:
    """Facts of a network of any layers, found and measured."""
    check_not_stacked(network, "leave inputs out")
    arguments, columns = checked(inputs, convex)
    functions = convex_functions(network, call, options)
    facts: list[_Facts] = []
    with evaluated(network, arguments, call) as evaluation:
        for function in functions:
            found = find_prepared(network, arguments, columns, function, options or {}, evaluation)
            own = {layer: _problem(layer) for layer in found.layers}
            if problems := problems_of(found, own, "of which step sizes would be known"):
                raise ValueError(f"step sizes cannot be told for all layers. {'; '.join(problems)}")
            watch, _ = measured(network, arguments, columns, function, found)
            facts += _found(found, watch)
    return facts


def _problem(layer: FoundLayer) -> str:
    """What keeps step sizes from being known: not a map without an inverse, such as a mask."""
    product, raw = layer.call.product, layer.raw
    if product is None or raw is None or raw.numel() != product.weight.numel():
        return layer.obstacle
    return layer.problem


def _found(found: Found, watch: Measuring) -> Iterator[_Facts]:
    depths, ratios = _depths(found), _ratios(found, watch)
    for layer in found.layers:
        product, result = layer.call.product, layer.call.value
        assert product is not None
        assert result is not None
        assert layer.owner is not None
        index = layer.call.index
        depth, ratio = depths.get(index, 1), ratios.get(index, 0.0)
        yield _Facts([layer.owner], (), product.fan_in(result), depth, ratio)
    for one in found.pre_activations:
        for layer in one.constrained[:1]:
            biases = [option.parameter for option in one.biases]
            yield _Facts(biases=biases, depth=depths[layer.call.index])


def _depths(found: Found) -> dict[int, int]:
    """Hidden convex layers on the longest way through each constrained operation, by its index.

    Operations that add up to one pre-activation are one layer. Of outputs it is 1.
    """
    convex = [one for one in found.pre_activations if one.constrained]
    places = {id(layer.call): one for one in convex for layer in one.constrained}
    later = {
        one: {places[id(call)] for call in following(one.call) if id(call) in places}
        for one in convex
    }
    hidden = [one for one in convex if not one.output]
    before: dict[PreActivation, int] = {}
    for one in hidden:
        before[one] = 1 + max((before[other] for other in before if one in later[other]), default=0)
    after: dict[PreActivation, int] = {}
    for one in reversed(hidden):
        after[one] = 1 + max((after[other] for other in later[one] if other in after), default=0)
    return {
        layer.call.index: before[one] + after[one] - 1 if one in before else 1
        for one in convex
        for layer in one.constrained
    }


def _ratios(found: Found, watch: Measuring) -> dict[int, float]:
    """Mean of what constrained operations read by the spread of what they make of it, by index."""
    ratios: dict[int, float] = {}
    largest = 0.0
    for one in found.pre_activations:
        std = watch.std(one)
        largest = max(largest, std)
        # A last layer may start near zero; the scale that it is to reach is that of the others.
        spread = largest if one.output else std
        for layer in one.constrained:
            mean = abs(watch.means[layer.call.index])
            if not (math.isfinite(mean) and 0 < spread < math.inf):
                raise ValueError(
                    f"the signal of the layer {layer.name} is not finite, or does not vary, with "
                    "these inputs; initialise the network before: init_icnn_(network, inputs)"
                )
            ratios[layer.call.index] = mean / spread
    return ratios
