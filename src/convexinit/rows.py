"""A network as a function of the rows of its convex arguments."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from convexinit.evaluation import (
    Convex,
    Inputs,
    Snapshot,
    as_tuple,
    check_exists,
    convex_columns,
    first_of,
    run,
)


@contextmanager
def in_evaluation_mode(network: Any) -> Iterator[None]:
    """Put a network in evaluation mode; its state and the random one are as before afterwards."""
    with torch.random.fork_rng([]):
        if not isinstance(network, nn.Module):
            yield
            return
        check_exists(network)
        snapshot = Snapshot(network)
        try:
            network.eval()
            yield
        finally:
            snapshot.restore()


class Rows:
    """A function of the convex arguments, flattened to one vector a row.

    Attributes:
        precision: of the least precise values so far.
        points: ``[rows, dimensions]``, the convex arguments.
        spread: ``[dimensions]``, standard deviations of the points; where there is none, that over
            all dimensions.
    """

    def __init__(
        self, network: Any, call: Callable[..., Any] | None, inputs: Inputs, convex: Convex
    ) -> None:
        self.alone, self.inputs = isinstance(inputs, Tensor), as_tuple(inputs)
        self.convex = convex_columns(convex, self.inputs)
        self.dtypes = [argument.dtype for argument in self.inputs]
        self.precision = 0.0
        network, self.inputs = _in_float64(network, call, self.inputs)
        self.function = network if call is None else partial(call, network)
        flat = [
            self.inputs[index].detach()[..., columns].reshape(len(self.inputs[index]), -1)
            for index, columns in self.convex.items()
        ]
        self.sizes = [part.shape[1] for part in flat]
        self.points = torch.cat(flat, 1)
        spread = self.points.double().std(0)
        if not spread.any():
            raise ValueError("the inputs do not vary in the arguments named by convex")
        self.spread = torch.where(spread > 0, spread, spread.square().mean().sqrt())

    def given(self, points: Tensor, rows: Tensor) -> Any:
        """:meth:`arguments` in the data types of the inputs."""
        arguments = [
            argument.to(dtype)
            for argument, dtype in zip(self.arguments(points, rows), self.dtypes, strict=True)
        ]
        return arguments[0] if self.alone else tuple(arguments)

    def representable(self, points: Tensor) -> Tensor:
        """Points rounded to what :meth:`given` can give."""
        parts = points.split(self.sizes, 1)
        dtypes = [self.dtypes[index] for index in self.convex]
        rounded = [p.to(dtype).to(points) for p, dtype in zip(parts, dtypes, strict=True)]
        return torch.cat(rounded, 1)

    def arguments(self, points: Tensor, rows: Tensor) -> list[Tensor]:
        """Arguments of the function.

        Args:
            points: ``[m, dimensions]``, of the convex arguments.
            rows: ``[m]``, rows of the inputs that the other arguments are taken from.
        """
        arguments = [argument[rows] for argument in self.inputs]
        parts = points.split(self.sizes, 1)
        for (index, columns), part in zip(self.convex.items(), parts, strict=True):
            target = arguments[index][..., columns]
            arguments[index][..., columns] = part.to(target.dtype).reshape(target.shape)
        return arguments

    def __call__(self, points: Tensor, rows: Tensor) -> Tensor:
        """Float64 values ``[m, outputs]``, see :meth:`arguments`."""
        # As many rows at once as the function was given, which it has the memory for.
        size = max(len(self.points), 256)
        try:
            parts = [
                self._values(points[start : start + size], rows[start : start + size])
                for start in range(0, len(points), size)
            ]
        except RuntimeError:
            if torch.is_grad_enabled():
                raise
            with torch.enable_grad():  # which it may need inside, to differentiate something
                return self(points, rows).detach()
        return torch.cat(parts)

    def coarsest(self, points: Tensor, rows: Tensor) -> float:
        """Precision of the least precise of all numbers that are computed on the way."""
        with _Precisions() as seen:
            self(points, rows)
        return max(torch.finfo(dtype).eps for dtype in seen.dtypes)

    def _values(self, points: Tensor, rows: Tensor) -> Tensor:
        values = first_of(self.function(*self.arguments(points, rows)))
        if not isinstance(values, Tensor) or values.ndim == 0 or len(values) != len(points):
            got = list(values.shape) if isinstance(values, Tensor) else type(values).__name__
            raise ValueError(
                f"the network must return one value, or vector, a row; got {got} for {len(points)} "
                "rows; call=... names the function that should be convex"
            )
        if not values.isfinite().all():
            raise ValueError("the network returns values that are not finite on these inputs")
        self.precision = max(self.precision, torch.finfo(values.dtype).eps)
        return values.double().reshape(len(values), -1)


class _Precisions(TorchFunctionMode):
    """Sees the floating-point types of what calls give, as of ``z.bfloat16()``."""

    def __init__(self) -> None:
        super().__init__()
        self.dtypes = {torch.float64}

    def __torch_function__(
        self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        output = function(*args, **(kwargs or {}))
        if isinstance(output, Tensor) and output.is_floating_point():
            self.dtypes.add(output.dtype)
        return output


def _in_float64(
    network: Any, call: Callable[..., Any] | None, arguments: tuple[Tensor, ...]
) -> tuple[Any, tuple[Tensor, ...]]:
    """A copy of a network, and its arguments, in float64; both as they are if it does not work."""
    precise = tuple(a.double() if a.is_floating_point() else a for a in arguments)
    try:
        twin = _twin(network) if isinstance(network, nn.Module) else network
        run(twin, [argument[:2].clone() for argument in precise], call)
    except Exception:  # whatever code of other people raises
        return network, arguments
    return twin, precise


def _twin(network: nn.Module) -> nn.Module:
    """A copy in float64, whose parameters need no gradients."""
    # What is in ``known`` already is not copied, which saves most of the time.
    known: dict[int, Any] = {
        id(parameter): nn.Parameter(parameter.detach().double(), requires_grad=False)
        for parameter in network.parameters()
        if type(parameter) is nn.Parameter and parameter.is_floating_point()
    }
    for module in network.modules():
        of_hooks = (v for v in vars(module).values() if type(v) in (dict, OrderedDict) and not v)
        known.update((id(empty), type(empty)()) for empty in of_hooks)
    return copy.deepcopy(network, known).double()
