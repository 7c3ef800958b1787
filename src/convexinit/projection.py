"""Keep networks convex while they are trained."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from convexinit.assignment import check_fillable
from convexinit.evaluation import Convex, Inputs
from convexinit.finding import find_layers, no_convex_layer
from convexinit.init_network import check_not_stacked
from convexinit.layers import ConvexLayer, clamp_negative_, project_


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
    and whose input is not affine in the convex arguments. Weights that are non-negative by their
    forward pass, as in softplus(w), need nothing and stay as they are.

    With several optimisers, call it once for each. LBFGS evaluates the network within a step, where
    it need not be convex.

    Args:
        optimizer: any, of all parameters of the network or of some.
        network: a network or, without ``inputs``, a stack of networks.
        weights: more parameters that must not be negative.
        inputs: tensor ``[rows, ...]``, or tuple of tensors, that the network can be called with; at
            least two rows. The network is called once, and its random state is as before.
        convex: see :func:`~convexinit.init_icnn_`.
        call: see :func:`~convexinit.init_icnn_`.

    Returns:
        A handle; ``handle.remove()`` ends it.

    Raises:
        ValueError: if there is nothing to keep convex, or the optimiser has no parameter of the
            network; if one of ``weights`` is computed, or a weight that was found is computed and
            negative; if ``inputs`` do not fit; or as :func:`~convexinit.project_`.

    Example:
        >>> network = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 1))
        >>> optimiser = torch.optim.SGD(network.parameters(), lr=10.0)
        >>> handle = keep_convex(optimiser, network, inputs=torch.randn(8, 2))
        >>> network(torch.ones(4, 2)).sum().backward()
        >>> optimiser.step()
        >>> bool((network[2].weight >= 0).all())
        True
    """
    others = list(weights)
    for index, weight in enumerate(others):
        check_fillable(f"weights[{index}]", weight)
    of_library = {
        id(parameter): parameter
        for module in network.modules()
        if isinstance(module, ConvexLayer)
        for parameter in module.parameters()
    }
    if inputs is not None:
        known = of_library | {id(weight): weight for weight in others}
        others += _raw_weights(network, inputs, convex, call, known)
    elif not others and not of_library:
        raise ValueError(
            "the network has no convex layer to keep convex; give inputs=, on which constrained "
            "weights are found, or name the parameters that must not be negative: weights=[...]"
        )

    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    if trained.isdisjoint(map(id, [*network.parameters(), *others])):
        raise ValueError(
            "the optimizer has no parameter of the network; give the one that trains it"
        )

    def project(*_: Any) -> None:
        project_(network)
        clamp_negative_([weight.detach() for weight in others])

    project()
    return optimizer.register_step_post_hook(project)


def _raw_weights(
    network: nn.Module,
    inputs: Inputs,
    convex: Convex,
    call: Callable[..., Tensor] | None,
    known: Collection[int],
) -> list[Tensor]:
    """Parameters that are weights of convex layers as they are; those of ``known`` id left out."""
    check_not_stacked(network)
    layers = [layer for layer in find_layers(network, inputs, convex, call) if layer.curved]
    if not layers:
        raise no_convex_layer("to keep convex")
    found: dict[int, Tensor] = {}
    for layer in layers:
        product, raw = layer.call.product, layer.raw
        if id(raw) in known or product is None or id(product.weight) in known:
            continue
        if raw is not None and layer.is_raw:
            found[id(raw)] = raw
        elif product.weight.lt(0).any():
            problem = layer.problem or (
                f"its weight is computed from {layer.parameter} and negative in places; compute "
                "one that is at least 0, as convexinit.positivity.NonNegative does"
            )
            raise ValueError(f"the network cannot be kept convex. {layer.name}: {problem}")
    return list(found.values())
