"""Initialise a whole network, layer by layer, before any data is seen."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Any, cast

import torch
from torch import Generator, Tensor, nn
from torch.nn.modules.dropout import _DropoutNd
from torch.nn.parameter import is_lazy

from convexinit.activations import Activation, check_convex_activation
from convexinit.assignment import assign_, is_close, unchanged_on_error
from convexinit.checks import (
    check_choice,
    check_function,
    check_generator,
    check_module,
    check_number,
    check_unchanged,
)
from convexinit.difference import parts_of
from convexinit.dropout import Dropout, grows_noise
from convexinit.evaluation import Convex, Inputs
from convexinit.filling import fill_network_
from convexinit.filling_pass import Target
from convexinit.found import Options
from convexinit.init import (
    BIAS_RULES,
    DISTRIBUTIONS,
    BiasRule,
    Distribution,
    lecun_normal_,
    moments_init_,
)
from convexinit.layers import CONVOLUTIONS, ConvexLayer, Network, check_not_stacked
from convexinit.networks import (
    MLP,
    PICNN,
    activation_of,
    added_variance,
    counted_variance,
    skips_of,
)
from convexinit.orthogonal import LayerPlan, orthogonal_layer_, plan_layers, raise_zeros_
from convexinit.positivity import Positivity
from convexinit.theory import solve_init

_BEFORE = "initialise networks before they are stacked"
_OF_MOMENTS = 'belongs to method="moments"; give that too, or leave it out'


@torch.no_grad()
def init_icnn_(
    model: Network,
    inputs: Inputs | None = None,
    activation: Activation | None = None,
    rho: float = 0.5,
    variance: float = 1.0,
    bias_noise: float = 0.0,
    mean: float = 0.0,
    distribution: Distribution | str = "lognormal",
    bias_rule: BiasRule | str = "sampled",
    generator: Generator | None = None,
    method: str = "orthogonal",
    convex: Convex = 0,
    call: Callable[..., Tensor] | None = None,
    layers: Options | None = None,
    skip: str = "counted",
) -> Network:
    """Initialise a whole input-convex network for stable signal propagation.

    With ``inputs``, any network (:mod:`convexinit.finding`), on the moments measured at each of its
    layers. Where results are summed or averaged before anything bends them, as over the positions
    of a row, the moments are those of the sums. Without, one of the layers of this library, in
    theory, as follows.

    With ``method="moments"``, the paper's, every convex layer
    (:class:`~convexinit.ConvexLinear`, :class:`~convexinit.ConvexConv2d`)
    gets :func:`~convexinit.moments_init_` with its own fan-in; the weights are carried through the
    inverse of the layer's positivity map, and through the ``right_inverse`` of a parametrization
    (``torch.nn.utils.parametrize``) if there is one. The network's first layer, if it is an
    unconstrained linear or convolution layer, gets LeCun's initialisation and zero bias, scaled to
    ``variance`` and ``mean``. All other layers, such as skip connections, stay as they are.

    With ``method="orthogonal"`` every convex layer gets :func:`~convexinit.orthogonal_init_`, and
    the scales and biases of :func:`convexinit.orthogonal.plan_layers`, so that networks of any
    depth start alike. Where layers first widen and then narrow, copies of a unit go to different
    sums, and every row is scaled by what its unit really is the sum of. Give hidden layers smaller
    steps the more there are (:func:`~convexinit.parameter_groups`). Where a map lets no gradient
    through to weights of zero (all but projection, neg-exp and abs), zeros start slightly above it.
    Inputs are taken to have mean 0 and variance 1, and units of the first layer to be independent:
    of a few inputs they are alike, and an output that sums many of them varies more than planned.
    What the skip connections of an :class:`~convexinit.MLP` or :class:`~convexinit.PICNN` bring to
    a layer counts as part of its variance, and is scaled to half of it where it is more; what
    those of other networks, or a context, bring is not known. With ``inputs`` all of this is
    measured.
    Dropout in many hidden layers is warned of; without ``inputs`` a module counts as often as it is
    registered, also if ``forward`` uses it several times.

    Both parts of a :class:`~convexinit.difference.ConvexDifference` are initialised like this, one
    after the other, with ``inputs`` and without.

    Args:
        model: network whose first layer is registered first; not a stack of networks.
        inputs: a batch of data, as the network takes it: a tensor, or a tuple of tensors. Then
            ``activation`` and ``bias_rule`` are of no use, as what they say is measured.
        activation: the activation between the layers: a name in
            :data:`convexinit.activations.ACTIVATIONS` or any elementwise callable. None for that of
            the MLP, CNN or PICNN that the network is or holds, and for ReLU without one.
        rho: see :func:`~convexinit.moments_init_`. With ``inputs`` units are more alike than that
            where features are correlated, as in deeper layers: weights that differ enough to make
            up for it are mostly small, and seldom large.
        variance: see :func:`~convexinit.moments_init_`.
        bias_noise: see :func:`~convexinit.moments_init_`.
        mean: see :func:`~convexinit.moments_init_`.
        distribution: see :func:`~convexinit.moments_init_`.
        bias_rule: see :func:`~convexinit.moments_init_`.
        generator: source of randomness.
        method: "moments" or "orthogonal", which takes ``activation`` and ``variance`` alone, and
            with ``inputs`` also ``mean`` and ``bias_noise``.
        convex: which of the inputs the network is convex in: an index, several, or a dictionary
            from indices to columns, ``{0: slice(3, None)}`` for all but the first three.
        call: ``call(network, *inputs)`` is the convex function, where ``network(*inputs)`` is not.
        layers: what cannot be found, by the name of the layer or its parameter: ``"positivity"`` (a
            name or a :class:`~convexinit.positivity.Positivity`), ``"gain"`` (factor between what
            the map gives and the weight), ``"bias"`` (name of the parameter that centres the
            pre-activation, None for none); ``{"keep": True}`` leaves a layer with all its
            parameters as it is, or one that cannot be followed. Frozen parameters are filled
            otherwise, as by torch.nn.init.
        skip: "counted", or "only" to leave the weights of constrained layers as they are, for
            networks that start on their skip connections alone.

    Returns:
        ``model``.

    Raises:
        ValueError: if the network has no convex layer, has stacked weights, or weights that are
            computed so that they cannot be set, or that do not exist yet (lazy layers), or an
            argument is out of range or not used by the method; with ``inputs`` also if they do not
            fit, or a layer cannot be followed or filled. The network is unchanged then.

    Example:
        >>> from convexinit import MLP, ConvexLinear
        >>> network = nn.Sequential(nn.Linear(8, 64), nn.Softplus(), ConvexLinear(64, 1))
        >>> network = init_icnn_(network, activation="softplus")
        >>> network = init_icnn_(MLP([8, 64, 64, 1], "softplus"))  # which knows its activation
    """
    # Whatever is wrong raises here, before anything is filled.
    check_module("model", model)
    check_generator(generator)
    check_choice("method", method, dict.fromkeys(("moments", "orthogonal")))
    if inputs is not None:
        check_not_stacked(model, _BEFORE)
        check_choice("skip", skip, dict.fromkeys(("counted", "only")))
        measured = {"activation": activation, "bias_rule": bias_rule}
        check_unchanged(init_icnn_, measured, "is measured on the inputs; leave it out")
        if method == "orthogonal":
            of_moments = {"rho": rho, "distribution": distribution}
            check_unchanged(init_icnn_, of_moments, _OF_MOMENTS)
        rho = check_number("rho", rho, 0.0, 1.0)
        variance, mean = check_number("variance", variance, 0.0), check_number("mean", mean)
        bias_noise = check_number("bias_noise", bias_noise, 0.0, 1.0, ends="[)")
        draw = check_function("distribution", distribution, DISTRIBUTIONS)
        bias_variance = bias_noise * (1 - rho) * variance
        target = Target(
            rho, variance - bias_variance, mean, math.sqrt(bias_variance),
            draw if method == "moments" else None, skip == "counted",
        )  # fmt: skip
        fill_network_(model, inputs, target, convex, call, layers, generator)
        return model
    traced: dict[str, Any] = {"convex": convex, "call": call, "layers": layers, "skip": skip}
    check_unchanged(init_icnn_, traced, "says what is traced; give inputs= as well")
    parts = parts_of(model)
    activations = [activation_of(part) if activation is None else activation for part in parts]
    if method == "orthogonal":
        chosen = {
            "rho": rho, "bias_noise": bias_noise, "mean": mean, "distribution": distribution,
            "bias_rule": bias_rule,
        }  # fmt: skip
        check_unchanged(init_icnn_, chosen, _OF_MOMENTS)
        messages = _init_orthogonal_(model, activations, variance, generator)
        messages += [m for part in parts for m in grows_noise(_dropouts(part))]
    else:
        _init_moments_(
            model, activations, rho=rho, variance=variance, bias_noise=bias_noise, mean=mean,
            distribution=check_function("distribution", distribution, DISTRIBUTIONS),
            bias_rule=check_function("bias_rule", bias_rule, BIAS_RULES), generator=generator,
        )  # fmt: skip
        messages = []
    for message in messages + _not_convex(activations):
        warnings.warn(message, stacklevel=3)
    return model


def _not_convex(activations: Sequence[Activation]) -> list[str]:
    """Warnings of activations between convex layers that are not convex and non-decreasing."""
    messages = []
    for activation in dict.fromkeys(activations):
        try:
            check_convex_activation(activation)
        except ValueError as error:
            messages.append(str(error))
    return messages


def _dropouts(network: nn.Module) -> list[float]:
    """Probabilities of dropout in hidden layers, by classes: after the first layer.

    As often as a module is registered; how often ``forward`` uses it is seen with inputs alone.
    """
    if isinstance(network, MLP):
        return [network.hidden_dropout.probability] * (len(network.layers) - 1)
    modules = [module for _, module in network.named_modules(remove_duplicate=False)]
    modules = modules[modules.index(next(iter(initialised_layers(network).values()))) :]
    return [
        float(module.probability if isinstance(module, Dropout) else module.p)
        for module in modules
        if isinstance(module, (Dropout, _DropoutNd))
    ]


def _init_moments_(model: nn.Module, activations: Sequence[Activation], **options: Any) -> None:
    """Fill all layers with the paper's moments.

    Args:
        model: the network.
        activations: of its parts.
        options: of :func:`~convexinit.moments_init_`, all but the activation.
    """
    variance, mean, generator = (options[name] for name in ("variance", "mean", "generator"))
    of_layer: dict[nn.Module, Activation] = {}
    for part, own in zip(parts_of(model), activations, strict=True):
        solve_init(1, own, options["rho"], variance, options["bias_noise"], mean)
        of_layer |= dict.fromkeys(part.modules(), own)
    with unchanged_on_error(model):
        for name, layer in initialised_layers(model).items():
            weight, bias = parameters_of(layer)
            weight, bias = weight.clone(), None if bias is None else bias.clone()
            if isinstance(layer, ConvexLayer):
                moments_init_(weight, bias, of_layer[layer], **options)
            else:
                lecun_normal_(weight, generator).mul_(math.sqrt(variance))
                if bias is not None:
                    bias.fill_(mean)
            assign_parameters_(layer, weight, bias, name)


def _init_orthogonal_(
    model: nn.Module,
    activations: Sequence[Activation],
    variance: float,
    generator: Generator | None,
) -> list[str]:
    """Fill all layers, and return warnings."""
    uncentred = []
    with unchanged_on_error(model):
        parts = [initialised_layers(part) for part in parts_of(model)]
        skips = skips_of(model)
        _scale_skips_(model, skips.values(), variance)
        plans = []
        for own, part in zip(activations, parts, strict=True):
            convex = [layer for layer in part.values() if isinstance(layer, ConvexLayer)]
            added = [counted_variance(skips.get(layer), variance) for layer in convex]
            plans.append(plan_layers(own, [*map(_group_size, convex[:-1])], variance, added))
        for part, plan in zip(parts, plans, strict=True):
            uncentred += _fill_orthogonal_(part, plan, variance, generator)
    messages = []
    if uncentred:
        messages.append(
            "the pre-activations of these layers have another mean than they should, as they have "
            f"no bias: {', '.join(uncentred)}; build them with bias=True"
        )
    filled = {layer for part in parts for layer in part.values()}
    if others := _other_layers(model, filled):
        messages.append(
            f"these layers stay as they are: {', '.join(others)}. What they add to others, as skip "
            "connections do, is not counted; give a batch of inputs, init_icnn_(network, inputs), "
            "on which it is"
        )
    return messages


def _fill_orthogonal_(
    layers: dict[str, nn.Module], plan: LayerPlan, variance: float, generator: Generator | None
) -> list[str]:
    """Fill the layers of one network as planned, and return the names of those that lack a bias."""
    uncentred = []
    convex = {name: layer for name, layer in layers.items() if isinstance(layer, ConvexLayer)}
    (name, first), *_ = layers.items()
    if name not in convex:
        weight, bias = parameters_of(first)
        weight = lecun_normal_(weight.clone(), generator).mul_(math.sqrt(variance))
        if bias is not None:
            bias = torch.full_like(bias, plan.mean)
        elif plan.mean:
            uncentred.append(name)
        assign_parameters_(first, weight, bias, name)
    shares = None
    for (name, layer), scale, shift, mean, spread in zip(
        convex.items(), plan.scales, plan.biases, plan.feature_means, plan.feature_variances,
        strict=True,
    ):  # fmt: skip
        if shares is not None and len(shares) != _channels_in(layer):
            shares = None  # positions of an image became units
        weight = torch.empty_like(layer.weight)
        groups = int(getattr(layer, "groups", 1))
        shares = orthogonal_layer_(weight, scale, groups, shares, generator)
        if (weight == 0).any() and not _zeros_get_gradients(layer, weight):
            raise_zeros_(weight, weight[0].numel(), len(convex))
        # The shift of the plan is for a feature, the mean of which this unit may multiply.
        bias = shift + (scale - weight.flatten(1).sum(1)) * mean
        if layer.bias is None and bias.abs().max() > 0.1 * scale * math.sqrt(spread):
            uncentred.append(name)
        assign_parameters_(layer, weight, None if layer.bias is None else bias, name)
    return uncentred


def _other_layers(network: nn.Module, filled: Collection[nn.Module]) -> list[str]:
    """Names of affine layers that are neither filled nor in networks of which all is known."""
    known = {
        module
        for part in network.modules()
        if isinstance(part, (MLP, PICNN))
        for module in part.modules()
    }
    return [
        name
        for name, module in network.named_modules()
        if isinstance(module, (nn.Linear, *CONVOLUTIONS))
        and module not in filled
        and module not in known
    ]


def _scale_skips_(network: nn.Module, skips: Iterable[nn.Module], variance: float) -> None:
    """Scale down skip connections that would add more than they are to have of the variance."""
    names = {module: name for name, module in network.named_modules()}
    for skip in skips:
        counted, added = counted_variance(skip, variance), added_variance(skip)
        if counted < added:
            weight = math.sqrt(counted / added) * parameters_of(skip)[0]
            assign_(skip, "weight", weight, names[skip])


@torch.inference_mode(False)
@torch.enable_grad()
def _zeros_get_gradients(layer: ConvexLayer, weight: Tensor) -> bool:
    """Whether zeros get gradients in what they are computed from, beside those of other weights.

    As the layer really computes them: its map, a parametrization and a subclass may each flatten
    them.

    Args:
        layer: stays as it is.
        weight: that it is to use, some of them zero.
    """
    try:
        copied = copy.deepcopy(layer).requires_grad_()
        copied.assign_weight_(weight.clone())
        used, parameters = copied.nonnegative_weight, list(copied.parameters())

        def slope(chosen: Tensor) -> float:
            """Root of the mean square gradient that these weights hand on."""
            gradients = torch.autograd.grad(
                used[chosen].sum(), parameters, retain_graph=True, allow_unused=True
            )
            squares = (float(g.double().square().sum()) for g in gradients if g is not None)
            return math.sqrt(sum(squares) / int(chosen.sum()))

        # The lowest of them: rounding may lift some zeros to where a ReLU has a slope.
        return slope(used == used[weight == 0].min()) >= 0.5 * slope(weight > 0)
    except (ValueError, RuntimeError):
        return False  # zeros cannot be assigned, but a little more perhaps


def _group_size(layer: ConvexLayer) -> int:
    """How many inputs each unit or channel of a layer sums if its weights are orthogonal."""
    return max(1, round(_channels_in(layer) / len(layer.weight)))


def _channels_in(layer: ConvexLayer) -> int:
    return layer.weight.shape[1] * int(getattr(layer, "groups", 1))


def parameters_of(layer: nn.Module) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of a layer, typed."""
    return cast("tuple[Tensor, Tensor | None]", (layer.weight, layer.bias))


@torch.no_grad()
def assign_parameters_(layer: nn.Module, weight: Tensor, bias: Tensor | None, name: str) -> None:
    """Set the weights that a layer uses, which are non-negative if it is convex, and its bias.

    Raises:
        ValueError: if the layer does not use them then, see :func:`convexinit.assignment.assign_`.
    """
    if isinstance(layer, ConvexLayer):
        layer.assign_weight_(weight, name)
        used = layer.nonnegative_weight
        if used.lt(0).any() or not is_close(used, weight):
            raise ValueError(
                f"the layer {name} does not use the weights that were assigned to it, as "
                f"nonnegative_weight of {type(layer).__name__} computes others"
            )
    else:
        assign_(layer, "weight", weight, name)
    if bias is not None:
        assign_(layer, "bias", bias, name)


def initialised_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Convex layers of a network, and its first layer: those that initialisers fill, by name.

    Raises:
        ValueError: if a part of the network has no convex layer, or weights are stacked, have no
            values yet, or are shared by layers of different maps.
    """
    names = {module: name or "itself" for name, module in model.named_modules()}
    initialised: dict[str, nn.Module] = {}
    for part in parts_of(model):
        layers = [
            module
            for module in part.modules()
            if isinstance(module, (ConvexLayer, nn.Linear, *CONVOLUTIONS))
        ]
        if not any(isinstance(layer, ConvexLayer) for layer in layers):
            raise ValueError(
                "the network has no convex layer to initialise; build it from "
                "convexinit.ConvexLinear or convexinit.ConvexConv2d, or give "
                "convexinit.init_icnn_ a batch of inputs, on which it finds layers of any class"
            )
        for layer in layers:
            if is_lazy(layer.weight) or layer.weight.is_meta:
                raise ValueError(
                    f"the weight of the layer {names[layer]} does not exist yet; run a batch "
                    "through a network with lazy layers, or move one from the device meta, before "
                    "it is initialised"
                )
        check_not_stacked(part, _BEFORE)
        initialised |= {
            names[layer]: layer
            for index, layer in enumerate(layers)
            if index == 0 or isinstance(layer, ConvexLayer)
        }
    maps: dict[Tensor, Positivity | None] = {}
    for name, filled in initialised.items():
        raw, positivity = filled._parameters.get("weight"), getattr(filled, "positivity", None)
        if raw is not None and maps.setdefault(raw, positivity) != positivity:
            raise ValueError(
                f"the layer {name} shares its weight with one that uses it by another map "
                "(positivity); give each a weight of its own"
            )
    return initialised
