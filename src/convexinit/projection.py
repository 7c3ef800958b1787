"""Keep networks convex while they are trained."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from convexinit.assignment import check_fillable, is_close, unchanged_on_error
from convexinit.checks import check_module
from convexinit.convexity import not_convex
from convexinit.difference import convex_functions
from convexinit.evaluation import NOT_CALLABLE, Convex, Inputs, as_tuple, convex_columns, evaluated
from convexinit.finding import apart_from_all, apart_remarks, find, no_convex_layer
from convexinit.found import Found, FoundLayer
from convexinit.layers import ConvexLayer, check_not_stacked, clamp_negative_, project_layers_
from convexinit.proof import nearly_convex
from convexinit.unseen import UNDERSTOOD
from convexinit.weight_maps import WeightMap


def keep_convex(
    optimizer: torch.optim.Optimizer,
    network: nn.Module,
    weights: Iterable[Tensor] = (),
    inputs: Inputs | None = None,
    convex: Convex = 0,
    call: Callable[..., Tensor] | None = None,
) -> RemovableHandle:
    """Set negative weights of a network to zero, now and after every step of an optimiser.

    These are the weights of convex layers of this library, as :func:`~convexinit.project_` sets
    them, and with ``inputs`` also those of any other class, found by tracing
    (:mod:`convexinit.finding`): the weights that a linear operation uses as they are, or scaled,
    and whose input is not affine in the convex arguments. Of a parameter that multiplies features
    beside inputs, in one tensor, these are the columns for features. Weights that are non-negative
    by their forward pass, as in softplus(w), need nothing and stay as they are. Those of a
    parametrization with a ``right_inverse``, such as ``weight_norm``, are projected through it.

    With several optimisers, call it once for each. A copy of an optimiser, or one that was
    unpickled, projects nothing, and parameters that replace others (``load_state_dict(...,
    assign=True)``) are not known: call it again. Loading states into the same optimiser and network
    needs nothing.

    LBFGS evaluates the network within a step, where it need not be convex, and starts anew where a
    step was projected, without the curvature that it has learnt: give weights a map instead
    (:class:`convexinit.positivity.NonNegative`), with which it is far better.

    Args:
        optimizer: any, of all parameters of the network or of some.
        network: a network or, without ``inputs``, a stack of networks.
        weights: more parameters that must not be negative.
        inputs: tensor ``[rows, ...]``, or tuple of tensors, that the network can be called with; at
            least two rows. The network is called a few times, and its random state is as before;
            a warning says if it is not convex on them all the same (not of a network that
            returns a gradient, nor where that cannot be tested).
        convex: see :func:`~convexinit.init_icnn_`.
        call: see :func:`~convexinit.init_icnn_`.

    Returns:
        A handle; ``handle.remove()`` ends it.

    Raises:
        ValueError: if there is nothing to keep convex, or the optimiser has no parameter of the
            network; if one of ``weights`` is computed or no parameter, or a weight that was found
            is computed and can be negative; if a parameter acts on the convex path in a way that
            cannot be followed; if ``inputs`` do not fit; or as :func:`~convexinit.project_`.

    Example:
        >>> network = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 1))
        >>> optimiser = torch.optim.SGD(network.parameters(), lr=10.0)
        >>> handle = keep_convex(optimiser, network, inputs=torch.randn(8, 2))
        >>> network(torch.ones(4, 2)).sum().backward()
        >>> optimiser.step()
        >>> bool((network[2].weight >= 0).all())
        True
    """
    check_module("network", network)
    if not hasattr(optimizer, "register_step_post_hook"):
        raise ValueError(
            f"optimizer must be a torch.optim.Optimizer, got {type(optimizer).__name__}"
        )
    trained = [p for group in optimizer.param_groups for p in group["params"]]
    others = _named_weights(weights, [*network.parameters(), *trained])
    written: dict[str, WeightMap] = {}
    parts: list[tuple[Tensor, Tensor]] = []
    of_library = {
        id(parameter): parameter
        for module in network.modules()
        if isinstance(module, ConvexLayer)
        for parameter in module.parameters()
    }
    if inputs is not None:
        known = of_library | {id(weight): weight for weight in others}
        check_not_stacked(network, "leave inputs out")
        functions = convex_functions(network, call, None)
        founds = [find(network, inputs, convex, function) for function in functions]
        raws, written = _raw_weights(network, founds, known)
        parts = [(raw._base, _entries_of(raw)) for raw in raws if raw._base is not None]
        others += [raw for raw in raws if raw._base is None]
    elif not others and not of_library:
        raise ValueError(
            "the network has no convex layer to keep convex; give inputs=, on which constrained "
            "weights are found, or name the parameters that must not be negative: weights=[...]"
        )

    if set(map(id, trained)).isdisjoint(map(id, [*network.parameters(), *others])):
        raise ValueError(
            "the optimizer has no parameter of the network; give the one that trains it"
        )

    # With the curvature between points that it did not choose, LBFGS diverges.
    remembered = trained if isinstance(optimizer, torch.optim.LBFGS) else []

    def project(*_: Any) -> None:
        before = [parameter.detach().clone() for parameter in remembered]
        project_layers_(network)
        clamp_negative_([weight.detach() for weight in others])
        for weight, entries in parts:
            weight.detach().masked_fill_(entries.to(weight.device) & (weight < 0), 0.0)
        _project_written_(written)
        if not all(map(torch.equal, before, remembered)):
            optimizer.state.clear()

    with unchanged_on_error(network):
        project()
    handle = optimizer.register_step_post_hook(project)
    if inputs is not None:
        arguments = as_tuple(inputs)
        columns = convex_columns(convex, arguments)
        messages = []
        with evaluated(network, arguments, call):
            for function, found in zip(functions, founds, strict=True):
                # What cannot be tested, as inputs that do not vary, will do to find layers.
                with suppress(*NOT_CALLABLE):
                    messages += not_convex(
                        network, arguments, columns, function, found.returns_gradient
                    ) or nearly_convex(found.trace)
        for message in messages:
            warnings.warn(message, stacklevel=2)
    return handle


def _named_weights(weights: Iterable[Tensor], parameters: Iterable[Tensor]) -> list[Tensor]:
    """The argument ``weights`` of :func:`keep_convex`, in which negative numbers are lost.

    Raises:
        ValueError: if one of them is no parameter, nor a part of one of these, as a batch of data.
    """
    if isinstance(weights, Tensor):
        raise ValueError(
            "weights must be a list of parameters, got a tensor; give a parameter with "
            "weights=[...], and a batch of data with inputs="
        )
    named = list(weights)
    for index, weight in enumerate(named):
        check_fillable(f"weights[{index}]", weight)
        if isinstance(weight, nn.Parameter) or weight.requires_grad:
            continue
        places = {parameter.untyped_storage().data_ptr() for parameter in parameters}
        if weight.untyped_storage().data_ptr() not in places:
            raise ValueError(
                f"weights[{index}] is no parameter of the network or the optimizer; give a batch "
                "of data with inputs="
            )
    return named


def _raw_weights(
    network: nn.Module, founds: Sequence[Found], known: Collection[int]
) -> tuple[list[Tensor], dict[str, WeightMap]]:
    """Parameters, or parts, that are weights as they are, and maps that can be written, by layer.

    Args:
        network: any.
        founds: what was found in each convex function of it.
        known: parameters, by ``id``, that are left out.
    """
    unseen = [one for found in founds for one in found.unseen if id(one.raw) not in known]
    layers = [
        layer
        for found in founds
        for layer in found.layers
        if layer.curved
        and id(layer.owner) not in known
        and not (layer.call.product and id(layer.call.product.weight) in known)
    ]
    positive = "compute one that is at least 0, as convexinit.positivity.NonNegative does"
    named = "name with weights=[...] what must not be negative"
    problems = []
    if uses := ", ".join(str(one) for one in unseen if one.is_weight):
        problems.append(
            f"{uses}: used on the convex path in a way that cannot be followed; write it with "
            f"{UNDERSTOOD}, or {named}"
        )
    if not problems and not any(layer.curved for found in founds for layer in found.layers):
        raise no_convex_layer("to keep convex")
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    bounded = [str(one) for one in unseen if one.bounded and not one.is_weight]
    factors = [one.parameter for one in unseen if one.only_negative and not one.is_weight]
    raws: dict[int, Tensor] = {}
    written: dict[str, WeightMap] = {}
    for layer in layers:
        turning, scaling, unknown = _turned_by(layer, names, known)
        problem = ""
        if layer.raw is not None and layer.is_raw:
            raws[id(layer.raw)] = layer.raw
            factors += scaling
            if turning:
                problem = (
                    f"its weight becomes negative with {', '.join(turning)} too; name them with "
                    f"weights=[...] if they must not be negative, or {positive}"
                )
        elif turning or unknown or layer.negative:
            if layer.map is not None and layer.map.name == "right_inverse":
                written[layer.name] = layer.map
                continue
            problem = layer.problem
            if not problem and (turning or layer.negative):
                problem = (
                    f"its weight is computed from {layer.parameter} and can be negative, with "
                    f"{', '.join(turning) or 'what it is now'}; {positive}, or {named}"
                )
        if unknown and not problem:
            problem = (
                "whether its weight can be negative is not known, as it cannot be computed from "
                f"other values of {', '.join(unknown)}; {positive}, or {named}"
            )
        if problem:
            problems.append(f"{layer.name}: {problem}")
    if problems:
        raise ValueError(f"the network cannot be kept convex. {'; '.join(dict.fromkeys(problems))}")
    if factors:
        warnings.warn(
            "the network stays convex only while these factors of its convex path are not negative:"
            f" {', '.join(dict.fromkeys(factors))}; name them with weights=[...], or compute them "
            "by a map such as softplus",
            stacklevel=3,
        )
    if bounded:
        warnings.warn(
            "the network stays convex only while these are not above 1 either: "
            f"{', '.join(dict.fromkeys(bounded))}; compute them by a map such as sigmoid",
            stacklevel=3,
        )
    for message in apart_remarks(apart_from_all(founds), "projected"):
        warnings.warn(message, stacklevel=3)
    return list(raws.values()), written


@torch.no_grad()
def _turned_by(
    layer: FoundLayer, names: Mapping[int, str], known: Collection[int]
) -> tuple[list[str], list[str], list[str]]:
    """Parameters with which a weight can become negative, that only scale it, and that are unknown.

    By the map of the network, whatever their values are now. A weight that is used as it is, or
    scaled, turns with itself: that parameter is left out. Unknown are those of whose other values
    the weight cannot be computed.
    """
    turning: list[str] = []
    scaling: list[str] = []
    unknown: list[str] = []
    product = layer.call.product
    if product is None:
        return turning, scaling, unknown
    for leaf in layer.call.leaves_of(product.weight):
        if id(leaf) not in names or id(leaf) in known or (layer.is_raw and leaf is layer.owner):
            continue
        source = torch.Generator().manual_seed(6)
        draws = 3 * torch.randn(leaf.shape, generator=source, device="cpu").to(leaf)
        if layer.is_raw:
            draws = draws.abs()
        try:
            first, second = (
                layer.call.function_of(leaf, product.weight)(values) for values in (draws, -draws)
            )
        except Exception:
            unknown.append(names[id(leaf)])
            continue
        if layer.is_raw:  # which may be negative now, until it is projected
            if is_close(first, -second):
                scaling.append(names[id(leaf)])
            elif bool((first * second < 0).any()):
                turning.append(names[id(leaf)])
        elif bool(torch.fmin(first, second).lt(0).any()):  # or NaN, as of a logarithm
            turning.append(names[id(leaf)])
    return turning, scaling, unknown


def _entries_of(part: Tensor) -> Tensor:
    """Which entries of a parameter a view of it has, true or false in the shape of the parameter.

    Views do not follow a parameter to another device.
    """
    whole = part._base
    assert whole is not None
    entries = torch.empty_strided(whole.shape, whole.stride(), dtype=torch.bool).zero_()
    first = part.storage_offset() - whole.storage_offset()
    entries.as_strided(part.shape, part.stride(), first).fill_(True)
    return entries


@torch.no_grad()
def _project_written_(maps: Mapping[str, WeightMap]) -> None:
    """Raise negative weights of layers through maps that invert themselves."""
    for name, one in maps.items():
        weight = one.forward(torch.empty(0))
        if weight.lt(0).any():
            # Not to zero: some maps, such as weight_norm, cannot give a row of zeros.
            one.write(weight.clamp_min(torch.finfo(weight.dtype).eps ** 2))
            if not (one.forward(torch.empty(0)) >= 0).all():
                raise ValueError(
                    f"{name}: its weight is computed by a parametrization and stays negative after "
                    "it was set to zero; remove the parametrization"
                )
