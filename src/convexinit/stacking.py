"""Many equally built networks as one, and back."""

from __future__ import annotations

import copy
import functools
import types
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from convexinit.layers import Network, is_stacked


def stack_networks(networks: Sequence[Network]) -> Network:
    """Copy of equally built networks as one, every parameter with a leading dimension.

    Args:
        networks: at least one network of the same architecture, of layers from
            :mod:`convexinit.layers`. Only the values of parameters may differ.

    Returns:
        Network with parameters ``[networks, ...]`` that maps ``[networks, batch, in]`` to
        ``[networks, batch, out]``.

    Raises:
        ValueError: for an empty sequence; for networks that differ in structure, options (map of
            the weights, activation, mode, ...), buffers or data type, with the first difference;
            for weights that are computed (``torch.nn.utils.parametrize``) or do not exist yet; for
            layers of torch with parameters.

    Example:
        >>> from convexinit import MLP
        >>> stack_networks([MLP([2, 3, 1]), MLP([2, 3, 1], positivity="exp")])
        Traceback (most recent call last):
        ValueError: network 1 differs from network 0: layers.1.positivity is exp, not projection
    """
    if not networks:
        raise ValueError("there must be at least one network to stack")
    _check_parameters(networks[0])
    for index, network in enumerate(networks[1:], 1):
        difference = first_difference(networks[0], network)
        if difference:
            raise ValueError(f"network {index} differs from network 0: {difference}")
    return _with_parameters(
        networks[0],
        lambda name: torch.stack([network.get_parameter(name) for network in networks]),
    )


def unstack_network(stacked: Network, index: int) -> Network:
    """Copy of network ``index`` out of a stack made by :func:`stack_networks`.

    Raises:
        ValueError: for a network that is no stack.
    """
    if not any(map(is_stacked, stacked.modules())):
        raise ValueError("the network is no stack; make one with stack_networks")
    return _with_parameters(stacked, lambda name: stacked.get_parameter(name)[index].clone())


@torch.no_grad()
def _with_parameters(network: Network, value: Callable[[str], Tensor]) -> Network:
    network = copy.deepcopy(network)
    made: dict[nn.Parameter, nn.Parameter] = {}
    # With duplicates: a parameter may be shared by several layers.
    for name, parameter in list(network.named_parameters(remove_duplicate=False)):
        if parameter not in made:
            made[parameter] = nn.Parameter(value(name), parameter.requires_grad)
        path, _, attribute = name.rpartition(".")
        setattr(network.get_submodule(path), attribute, made[parameter])
    return network


def _check_parameters(network: nn.Module) -> None:
    """Raise ValueError if a network computes its weights, or has none yet."""
    for name, module in network.named_modules():
        where = f"{name or 'the network'} ({type(module).__name__})"
        attributes = [value for value in vars(module).values() if isinstance(value, Tensor)]
        if (
            parametrize.is_parametrized(module)
            or not all(value.is_leaf for value in attributes)
            # A property is in place of the parameter of that name.
            or any(getattr(module, key) is not own for key, own in module._parameters.items())
        ):
            raise ValueError(
                f"the weights of {where} are computed and cannot be stacked; remove what computes "
                "them, for example with torch.nn.utils.parametrize.remove_parametrizations"
            )
        if any(is_lazy(parameter) for parameter in module.parameters(recurse=False)):
            raise ValueError(
                f"the weights of {where} do not exist yet; run a batch through the network first"
            )
        # Whatever users wrote may compute many networks at once.
        if module._parameters and type(module).__module__.startswith("torch.nn."):
            raise ValueError(
                f"{where} is a layer of torch, which computes one network alone; take those of "
                "convexinit: layers.Linear, layers.Conv2d, ConvexLinear, ConvexConv2d"
            )


def first_difference(first: nn.Module, other: nn.Module) -> str:
    """What a network has that the first has not, besides values of parameters; "" for nothing.

    Example:
        >>> first_difference(nn.Linear(1, 2), nn.Linear(1, 3))
        'out_features is 3, not 2'
    """
    ours, theirs = dict(first.named_modules()), dict(other.named_modules())
    for name in ours | theirs:
        if name not in theirs:
            return f"it has no {name}"
        if name not in ours:
            return f"it has {name}"
        module, counterpart = ours[name], theirs[name]
        if type(module) is not type(counterpart):
            kinds = type(counterpart).__name__, type(module).__name__
            return "{} is {}, not {}".format(name or "it", *kinds)
        options, others = _options(module), _options(counterpart)
        for key in options | others:
            if key not in options or key not in others or not _same(options[key], others[key]):
                shown = [_shown(table.get(key, "missing")) for table in (others, options)]
                return "{} is {}, not {}".format(f"{name}.{key}".removeprefix("."), *shown)
    shared, others_shared = _shared(first), _shared(other)
    for name, owner in others_shared.items():
        if owner != shared[name]:
            return f"{name} is the parameter {owner}, not {shared[name]}"
    return ""


def _shared(network: nn.Module) -> dict[str, str]:
    """For each name of a parameter, the first that the same one has."""
    owners: dict[nn.Parameter, str] = {}
    named = network.named_parameters(remove_duplicate=False)
    return {name: owners.setdefault(parameter, name) for name, parameter in named}


def _options(module: nn.Module) -> dict[str, Any]:
    """Everything that makes a module besides its submodules and the values of its parameters."""
    return {
        **{key: value for key, value in vars(module).items() if not key.startswith("_")},
        **module._buffers,
        "hooks": [*module._forward_pre_hooks.values(), *module._forward_hooks.values()],
        **{key: _kind(parameter) for key, parameter in module._parameters.items()},
    }


def _kind(parameter: Tensor | None) -> str:
    if parameter is None:
        return "missing"
    trained = "trained" if parameter.requires_grad else "frozen"
    return f"{list(parameter.shape)} {parameter.dtype} on {parameter.device}, {trained}"


def _same(first: Any, other: Any) -> bool:
    """Whether two options are equal; functions and objects by what they are made of."""
    if first is other:
        return True
    if type(first) is not type(other) or isinstance(first, type):
        return False
    if isinstance(first, torch.Generator):
        return True  # every network draws from its own
    if isinstance(first, Tensor):
        return first.dtype == other.dtype and torch.equal(first, other)
    if isinstance(first, nn.Module):
        return not first_difference(first, other)
    if isinstance(first, dict):
        return first.keys() == other.keys() and all(_same(first[key], other[key]) for key in first)
    if isinstance(first, (list, tuple)):
        return len(first) == len(other) and all(map(_same, first, other))
    if isinstance(first, (types.FunctionType, types.MethodType, functools.partial)):
        return _same(_parts(first), _parts(other))
    compares = type(first).__eq__ is not object.__eq__  # type: ignore[comparison-overlap]
    if not compares and hasattr(first, "__dict__"):
        return _same(vars(first), vars(other))
    return bool(first == other)


def _parts(function: Any) -> tuple[Any, ...]:
    """What a function computes with, so that a lambda of every network is the same function."""
    if isinstance(function, functools.partial):
        return function.func, function.args, function.keywords
    if isinstance(function, types.MethodType):
        return (function.__func__,)  # bound to the network of its own
    code, cells = function.__code__, function.__closure__ or ()
    return (
        (code.co_code, code.co_consts, code.co_names),
        function.__defaults__,
        function.__kwdefaults__,
        tuple(cell.cell_contents for cell in cells),
    )


def _shown(value: Any) -> str:
    """A name, if there is one, or what is printed, in short."""
    name = getattr(value, "name", None) or getattr(value, "__name__", None)
    text = name or (value if isinstance(value, str) else repr(value))
    return text if len(text) <= 60 else f"{text[:57]}..."
