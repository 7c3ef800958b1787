"""What is found in a network that anybody wrote: layers, and what they add up to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from convexinit.assignment import is_close
from convexinit.calls import Call, Way, leads_only_to
from convexinit.evaluation import first_of
from convexinit.nested import tensors_in
from convexinit.positivity import has_slope, is_flat_at_zero
from convexinit.products import Dependence, Product
from convexinit.tracing import DIVISIONS, MULTIPLICATIONS, SUMS, Trace
from convexinit.unseen import Unseen
from convexinit.weight_maps import WeightMap

Options = Mapping[str, Mapping[str, Any]]


@dataclass(eq=False)
class BiasOption:
    """A parameter that shifts a pre-activation by the same amount for every row.

    Attributes:
        name: of the parameter.
        parameter: itself.
        coefficient: shift of the pre-activation by the parameter, one number or ``[units]``.
        per: "unit", "position" (and unit) or "layer".
        normalises: whether it belongs to a normalisation.
    """

    name: str
    parameter: Tensor
    coefficient: Tensor
    per: str
    normalises: bool = False


@dataclass(eq=False)
class FoundLayer:
    """A linear operation of a network.

    Attributes:
        name: of the layer: the path of its parameter without ".weight".
        role: "constrained", "free" or "context".
        call: the call that was traced.
        raw: the parameter behind the weight, or the part of it that is; None if there is none.
        parameter: its name, "" if there is none.
        map: how the weight is computed from it; None if that was not found.
        gains: ``[units]`` factors from the result of the operation to the pre-activation.
        even: whether these are the same for all rows and positions.
        curved: whether the input is not affine in the convex arguments, so that negative weights
            may end convexity.
        gated: whether the input is multiplied by a gate that differs with other inputs.
        uneven: whether that gate is zero in some rows, or differs much between them.
        closed: whether the input is zero in every row, as behind a gate that is.
        order: of the dimensions of its result in the pre-activation.
        kept: whether the user says that it is to stay as it is.
        problem: what keeps it from being followed, "" for nothing.
    """

    name: str
    role: str
    call: Call
    raw: Tensor | None = None
    parameter: str = ""
    map: WeightMap | None = None
    gains: Tensor | None = None
    even: bool = True
    curved: bool = False
    gated: bool = False
    uneven: bool = False
    closed: bool = False
    order: tuple[int, ...] = ()
    kept: bool = False
    problem: str = ""

    @property
    def obstacle(self) -> str:
        """What keeps it from being initialised, "" for nothing: its problem, or an unknown map."""
        if self.problem or self.kept or self.map or self.raw is None or self.role != "constrained":
            return self.problem
        return (
            "its weight is computed from a parameter in a way that cannot be inverted, as with a "
            "mask, a bound, a softmax or a copy for every row; say the map "
            "around which a mask or a bound is with layers={name: {'positivity': ..., 'gain': "
            "...}}, or give its parametrization a right_inverse, or leave it as it is: "
            "{'keep': True}"
        )

    @property
    def owner(self) -> Tensor | None:
        """The parameter that it has, or has a part of."""
        return self.raw if self.raw is None or self.raw._base is None else self.raw._base

    @property
    def negative(self) -> int:
        """How many weights are negative that should not be."""
        product = self.call.product
        if self.role != "constrained" or product is None:
            return 0
        return int(product.weight.detach().lt(0).sum())

    @property
    def is_raw(self) -> bool:
        """Whether the weight is a parameter as it is or scaled, which an author has to project."""
        entry = None if self.map is None else self.map.positivity
        return entry is not None and entry.projects

    def is_called_with(self, args: Any, kwargs: Any) -> bool:
        """Whether a call at its place in another pass has its weight, as far as is known.

        A parameter is known by its memory, as a network may detach it where gradients are off; what
        is computed from one, by its shape.
        """
        product, raw = self.call.product, self.raw
        if product is None or raw is None or product.expanded is not None:
            return True
        if product.weight is raw:
            return any(_is_same(t, raw) for t in tensors_in(args, kwargs))
        shape = product.weight.shape
        # One that is copied for every row has another with other rows.
        return shape.numel() != raw.numel() or any(
            t.shape == shape for t in tensors_in(args, kwargs)
        )

    def from_end(self, tensor: Tensor, shape: torch.Size) -> Tensor:
        """What is of the form of the pre-activation, in a shape of the operation's result."""
        moved = tensor.reshape([shape[dimension] for dimension in self.order])
        return moved.permute(sorted(range(len(shape)), key=self.order.__getitem__))

    @property
    def passes_gradient_at_zero(self) -> bool:
        """Whether a raw value that stands for a weight of zero gets the gradient of the weight.

        By the function of the network: of maps that are the same elsewhere, such as ``relu(raw)``
        and ``raw.clamp(min=0)``, one may have a slope at zero and the other none.
        """
        if self.map is None or self.raw is None or self.map.positivity is None:
            return False
        if self.map.positivity.projects or is_flat_at_zero(self.map.positivity):
            return self.map.positivity.projects  # as of whatever has these values
        raw = self.map.positivity.inverse(torch.zeros_like(self.raw))
        return has_slope(self.map.forward, raw, self.map.gain)


def biases_of_context(layers: Sequence[FoundLayer]) -> dict[str, Call]:
    """Biases of layers that read other inputs alone, by name, and the calls of these.

    Layers that read convex inputs too, as those of ``g(x) - g(0)``, are left out.
    """
    own = {layer.name for layer in layers if layer.role != "context"}
    return {
        f"{layer.name}.bias": layer.call
        for layer in layers
        if layer.role == "context" and layer.name not in own
    }


@dataclass(eq=False)
class PreActivation:
    """What the results of one or more operations add up to, before the next function bends it.

    Where they are summed on the way, as over the positions of a row, it is these sums.

    Attributes:
        call: the call that computes it.
        constrained: operations in it that need non-negative weights.
        free: operations in it that read an affine function of the convex arguments.
        squared: free operations that enter it through a square.
        squared_biases: parameters that shift these, and do nothing else.
        biases: parameters that shift it, the most suitable first.
        output: whether no constrained operation follows.
        normalised: whether a normalisation that initialises itself is in it, or reads it.
        starts: whether it reads it, and does so on what comes of filling.
        behind: then, the call to which it is passed on from there, if that keeps its form.
        said: whether the user has chosen its bias, or none.
        noise: random part of the bias, one number or as many as the bias has.
        summed: whether results of operations are summed, averaged or selected from on the way.
        units: if so, dimension of the units in it; None if all of its numbers are of one.
    """

    call: Call
    constrained: list[FoundLayer] = field(default_factory=list)
    free: list[FoundLayer] = field(default_factory=list)
    squared: list[FoundLayer] = field(default_factory=list)
    squared_biases: list[Tensor] = field(default_factory=list)
    biases: list[BiasOption] = field(default_factory=list)
    output: bool = False
    normalised: bool = False
    starts: bool = False
    behind: Call | None = None
    said: bool = False
    noise: float | Tensor = 0.0
    summed: bool = False
    units: int | None = None

    @property
    def name(self) -> str:
        """Of the layer that it belongs to."""
        return self.first.name

    @property
    def first(self) -> FoundLayer:
        """The operation whose result has the form in which it is seen, but for sums."""
        return (self.constrained + self.free)[0]

    @property
    def is_bent(self) -> bool:
        """Whether anything but linear operations reads it, of which the bias centres what comes."""
        return not all(user.product for user in self.call.consumers)

    @property
    def is_without_bias(self) -> bool:
        """Whether it is one of the last, and nothing can centre it."""
        return bool(self.constrained) and self.output and not (self.biases or self.said)

    def place(self) -> tuple[Call, Product]:
        """The call in whose shape it is seen, and what says which numbers in it are of one unit."""
        call = self.first.call
        assert call.product is not None
        if self.summed:
            return self.call, replace(call.product, units=self.units)
        return call, call.product

    def seen(self, tensor: Tensor, shape: torch.Size) -> Tensor:
        """What has its form, in the shape in which it is seen."""
        return tensor.reshape(shape) if self.summed else self.first.from_end(tensor, shape)

    def formed(self, tensor: Tensor) -> Tensor:
        """The inverse of :meth:`seen`, but for reshapes."""
        return tensor if self.summed else tensor.permute(self.first.order)

    def part(
        self, layer: FoundLayer, result: Tensor, shape: torch.Size, ways: Mapping[int, Way]
    ) -> Tensor:
        """What an operation adds to it, ``[rows and positions, units]``.

        Args:
            layer: the operation.
            result: of the operation, without a bias of its own.
            shape: of the result of the first operation in the pass at hand.
            ways: see :func:`ways_to_sums`.
        """
        if self.summed:
            return self.place()[1].by_unit(
                ways[id(layer)].linear([result], [torch.zeros_like(result)])
            )
        product = layer.call.product
        assert product is not None
        # In place, as it is of use here alone.
        scaled = product.by_unit(result).mul_(torch.nan if layer.gains is None else layer.gains)
        if layer is self.first:
            return scaled
        moved = product.from_units(scaled, result.shape).permute(layer.order)
        return self.place()[1].by_unit(self.seen(moved, shape))


@dataclass(eq=False)
class Found:
    """What was found in a network.

    Attributes:
        layers: linear operations that depend on the inputs and have a parameter, in order.
        pre_activations: in order; one without constrained layers is that of a first layer.
        returns_gradient: whether ``forward`` differentiates the network.
        needs_gradient: whether it can be called with inputs alone that require gradients.
        output: of the network on the traced rows; None if it was not computed.
        rows: number of them.
        unseen: parameters that act on the convex path in calls that are no layers.
        trace: of the network.
        apart: parts that have none in what the network differentiates first, if it does.
        renewed: modules that initialise themselves on what layers give when these are filled.
        late: others that do so on their first batch, by name: those that hold layers, are called
            several times, or as functions.
        not_followed: affine functions of convex inputs that no layer computes, but that are bent:
            calls, by the names of the parameters behind them.
        gives_numbers: whether the output is convex, and no gradient, of which a constant is lost.
    """

    layers: list[FoundLayer]
    pre_activations: list[PreActivation]
    returns_gradient: bool
    needs_gradient: bool
    output: Any
    rows: int
    unseen: list[Unseen]
    trace: Trace
    apart: list[str]
    renewed: list[nn.Module]
    late: Mapping[str, nn.Module]
    not_followed: dict[str, Call]
    gives_numbers: bool = True

    @property
    def last(self) -> list[Call]:
        """Calls of the pre-activations that no constrained operation follows."""
        return [one.call for one in self.pre_activations if one.output]

    @cached_property
    def end(self) -> Call | None:
        """The call that makes the output of these alone; None if that is no more than one of them.

        Of a network that returns a gradient, that is what it differentiates, row by row. What is
        added to the output later, as a function of the inputs, is left out.
        """
        result = self.trace.differentiated_rows if self.returns_gradient else first_of(self.output)
        return self.trace.end_after(self.last, result)

    @cached_property
    def gated(self) -> dict[int, PreActivation]:
        """Those that gates multiply before anything bends them, by the index of the last such call.

        The others after them are at most sums, with functions of other inputs too.
        """
        ends = {_behind_gates(self.trace, one): one for one in self.pre_activations}
        return {end.index: one for end, one in ends.items() if end is not None and not one.output}

    def is_foreseen(self, one: PreActivation) -> bool:
        """Whether what is written to layers and bias of a pre-activation acts there alone.

        Then it is known, without another pass, what it will be.
        """
        members = one.constrained + one.free + one.squared
        users = self.trace.users
        for layer in members:
            if users.get(id(layer.raw)) != [layer.call]:
                # Unless each has a part of it that no other has.
                sharing = [other for other in members if other.owner is layer.owner]
                apart = len({id(other.raw) for other in sharing}) == len(sharing)
                if not apart or {*users.get(id(layer.owner), ())} != {m.call for m in sharing}:
                    return False
        biases = one.squared_biases + [option.parameter for option in one.biases[:1]]
        ways = [[layer.call] for layer in members]
        ways += [users.get(id(bias), []) for bias in biases]
        return (
            (one.starts or not one.normalised)
            and self.bent.isdisjoint(map(id, biases))
            and (one.summed or all(layer.even for layer in one.constrained + one.free))
            and all(len(way) == 1 and leads_only_to(way[0], one.call) for way in ways)
        )

    @cached_property
    def bent(self) -> set[int]:
        """Numbers (``id``) of the biases that calls read other than affine functions of."""
        biases = {
            id(bias): bias
            for one in self.pre_activations
            for bias in one.squared_biases + [option.parameter for option in one.biases[:1]]
        }
        return {number for number, bias in biases.items() if not self._acts_as_affine(bias)}

    def _acts_as_affine(self, parameter: Tensor) -> bool:
        """Whether calls read affine functions of a parameter, such as itself."""
        for call in self.trace.users.get(id(parameter), []):
            for operand in call.operands:
                leaves = [] if self.trace.dependence(operand) else call.leaves_of(operand)
                if operand is parameter or all(leaf is not parameter for leaf in leaves):
                    continue
                # At unequal distances, as odd functions are straight at equal ones.
                try:
                    low, middle, high = (
                        call.function_of(parameter, operand)(parameter.detach() + shift).detach()
                        for shift in (-10.0, 0.0, 5.0)
                    )
                    straight = is_close(low + 2 * high, 3 * middle)
                except RuntimeError:  # as where they choose which numbers are taken
                    return False
                if not straight:
                    return False
        return True


def _behind_gates(trace: Trace, one: PreActivation) -> Call | None:
    """The last call that multiplies a pre-activation by functions of other inputs, or adds them.

    None if there is none, or it is not bent then, but added to others, say.
    """
    call, gated = one.call, False
    while len(call.consumers) == 1:
        (user,) = call.consumers
        moving = [t for t in user.operands if user.made_by.get(id(t)) is call]
        others = [trace.dependence(t) for t in user.operands if t is not call.output]
        scales = user.name in MULTIPLICATIONS | DIVISIONS
        if (
            not (scales or user.name in SUMS)
            or max(others, default=Dependence.CONSTANT) > Dependence.CONTEXT
            or getattr(user.value, "shape", None) != getattr(one.call.value, "shape", None)
            or not trace.is_affine(user, moving)
        ):
            break
        call, gated = user, gated or (scales and Dependence.CONTEXT in others)
    bent = gated and any(
        not user.product
        and not trace.is_affine(user, [t for t in user.operands if user.made_by.get(id(t)) is call])
        for user in call.consumers
    )
    return call if bent else None


def _is_same(tensor: Tensor, parameter: Tensor) -> bool:
    """Whether a tensor is a parameter, or a view of all of it in its form."""
    return tensor is parameter or (
        tensor.layout == parameter.layout == torch.strided
        and tensor.data_ptr() == parameter.data_ptr()
        and (tensor.shape, tensor.stride()) == (parameter.shape, parameter.stride())
    )


def ways_to_sums(found: Found) -> dict[int, Way]:
    """From every operation, by ``id`` of its layer, to the pre-activation that sums its results."""
    return {
        id(layer): Way([layer.call], one.call)
        for one in found.pre_activations
        if one.summed
        for layer in one.constrained + one.free
    }
