"""The kinds of networks that are compared, each with its habits, depths and task."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from torch import Tensor, nn

from convexinit_paper.experiments.your_network import glue, networks, tasks
from convexinit_paper.experiments.your_network.tasks import Inputs, Task


def _same(network: Any, inputs: Inputs) -> Inputs:
    return inputs


def _none(network: Any) -> Sequence[Tensor]:
    return ()


@dataclass(frozen=True)
class Kind:
    """A kind of networks.

    Attributes:
        title: for people.
        build: network of a width (units of hidden layers) and a number of hidden layers.
        task: what it is trained for.
        glue: fills it by hand; None where nobody can.
        clamped: weights that the training loop keeps non-negative.
        depths: the author's number of hidden layers, and two to three times that.
        convex: arguments that it is convex in.
        call: the convex function, of network and arguments; None for the network itself.
        view: arguments of the convex function, of network and inputs.
    """

    title: str
    build: Callable[[int, int], nn.Module]
    task: Task
    glue: Callable[[Any], None] | None
    clamped: Callable[[Any], Sequence[Tensor]] = _none
    depths: tuple[int, int] = (3, 8)
    convex: int | tuple[int, ...] = 0
    call: Callable[..., Tensor] | None = None
    view: Callable[[Any, Inputs], Inputs] = _same


def _weights(*names: str) -> Callable[[Any], list[Tensor]]:
    """The weights of layers, or lists of layers, of these names."""

    def weights(network: Any) -> list[Tensor]:
        layers = [module for name in names for module in network.get_submodule(name).modules()]
        return [layer.weight for layer in layers if isinstance(layer, (nn.Linear, nn.Conv2d))]

    return weights


KINDS: dict[str, Kind] = {
    "softplus": Kind(
        "softplus(W)",
        partial(networks.plain, networks.SoftplusLinear, 8),
        tasks.REGRESSION,
        glue.softplus_,
    ),
    "elu": Kind(
        "elu(W) + 1",
        partial(networks.plain, networks.EluLinear, 8),
        tasks.REGRESSION,
        glue.elu_,
    ),
    "divided": Kind(
        "softplus(W) / fan-in",
        partial(networks.plain, networks.DividedLinear, 8),
        tasks.REGRESSION,
        glue.divided_,
    ),
    "parametrize": Kind(
        "parametrize, softplus",
        partial(networks.plain, networks.ParametrizedLinear, 8),
        tasks.REGRESSION,
        glue.parametrized_,
    ),
    "normalised": Kind(
        "ActNorm, skips",
        partial(networks.Normalised, 8),
        tasks.REGRESSION,
        glue.normalised_,
    ),
    "uniform": Kind(
        "uniform weights, skips",
        partial(networks.Uniform, 8),
        tasks.REGRESSION,
        glue.uniform_,
        _weights("convex"),
    ),
    "critic": Kind(
        "critic, parameter lists",
        partial(networks.Critic, 6),
        tasks.CONTROL,
        glue.critic_,
        lambda network: list(network.from_z),
        (2, 6),
        (0, 1),
    ),
    "partially_convex": Kind(
        "partially convex, gates",
        partial(networks.PartiallyConvex, 3, 6),
        tasks.CONDITIONAL,
        glue.partially_convex_,
        _weights("convex"),
        (2, 6),
        1,
    ),
    "regulariser": Kind(
        "convolutional regulariser",
        lambda width, depth: networks.Regulariser(width // 8, depth),
        tasks.DENOISING,
        glue.leaky_,
        _weights("convex", "last"),
    ),
    "potential": Kind(
        "softplus, skips, no bias",
        partial(networks.Potential, 2),
        tasks.TRANSPORT,
        glue.potential_,
        _weights("wz"),
    ),
    "squared_start": Kind(
        "squared start, skips",
        partial(networks.SquaredStart, 2),
        tasks.TRANSPORT,
        glue.leaky_,
        _weights("convex", "last"),
    ),
    "quadratic_skips": Kind(
        "quadratic skips",
        partial(networks.QuadraticSkips, 2),
        tasks.TRANSPORT,
        glue.quadratic_skips_,
        _weights("convex", "last"),
    ),
    "muted": Kind(
        "muted convex path, skips",
        partial(networks.Muted, 2),
        tasks.TRANSPORT,
        glue.muted_,
    ),
    "gradient": Kind(
        "forward is a gradient",
        partial(networks.GradientMap, 2),
        tasks.PAIRS,
        glue.gradient_map_,
        _weights("icnn.wz"),
        call=networks.GradientMap.potential,
    ),
    "material": Kind(
        "convex in invariants",
        networks.Material,
        tasks.STRESSES,
        glue.material_,
        call=networks.Material.energy,
        view=lambda network, inputs: (network.minors(*inputs),),
    ),
    "hypernetwork": Kind(
        "hypernetwork",
        lambda width, depth: networks.Hypernetwork(3, 6, width // 4, depth),
        tasks.CONDITIONAL,
        None,
        depths=(2, 6),
        convex=1,
    ),
}
