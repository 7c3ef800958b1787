"""Find what the layers of a network add up to, and the parameters that shift it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from functools import cache, partial

import torch
from torch import Tensor, nn

from convexinit.assignment import is_close
from convexinit.calls import Call, calls_between, changes_in_place, following, leads_only_to
from convexinit.found import BiasOption, FoundLayer, Options, PreActivation, biases_of_context
from convexinit.tracing import DIVISIONS, MULTIPLICATIONS, RESHAPES, SUMS, Trace

_SCALINGS = MULTIPLICATIONS | DIVISIONS
_Coefficients = dict[str, dict[str, Tensor]]  # by parameter; for each unit, position or all

WITHOUT_GRADIENTS = (
    "it is computed without gradients (detach, no_grad, .data or reentrant "
    "torch.utils.checkpoint), so that nothing can be learned; of a fixed point that is solved for "
    "like that give ten steps with gradients: call=lambda network, x: network.after_steps(x, 10)"
)


def find_pre_activations(
    network: nn.Module,
    parameters: Mapping[str, Tensor],
    trace: Trace,
    layers: list[FoundLayer],
    renewed: Collection[nn.Module],
    late: Mapping[str, nn.Module],
    options: Options,
) -> list[PreActivation]:
    """What the layers add up to, in the order of the calls.

    Args:
        network: that was traced.
        parameters: of it, by name.
        trace: of it.
        layers: found in the trace; those through which no gradient comes get a ``problem``.
        renewed: modules that initialise themselves on what layers give when these are filled.
        late: others that do so on their first batch, by name.
        options: what the user says about layers.
    """
    signal = [layer for layer in layers if layer.role != "context" and not layer.problem]
    ends: dict[int, Call] = {}
    found: dict[int, PreActivation] = {}
    read = {call for module in renewed for call in trace.entered[module][0]}
    for layer in signal:
        ends[id(layer)], summed, layer.order = _end_of(trace, layer.call, read)
        end = ends[id(layer)]
        one = found.setdefault(id(end), PreActivation(end))
        one.starts = one.normalised = end in read
        if one.starts and not one.constrained + one.free:
            behind, *form = _end_of(trace, layer.call, ())
            one.behind = behind if form == [summed, layer.order] else None
        if summed:
            one.summed, one.units = True, _units_after(layer.call, end)
        (one.constrained if layer.role == "constrained" else one.free).append(layer)
    weights = {id(layer.owner) for layer in layers}
    parameters = {name: p for name, p in parameters.items() if id(p) not in weights}
    squares: set[int] = set()
    _differentiate_all(found.values(), signal, ends, trace, parameters, squares)
    # A free operation that is squared and added to a pre-activation has no target of its own.
    pre_activations = [
        one
        for one in found.values()
        if one.constrained or not all(id(layer) in squares for layer in one.free)
    ]
    pre_activations.sort(key=lambda one: one.call.index)
    constrained = {id(layer.call) for layer in signal if layer.role == "constrained"}
    context = biases_of_context(layers)
    users: dict[str, int] = {}
    for one in pre_activations:
        one.output = not any(id(call) in constrained for call in following(one.call))
        for option in one.biases:
            users[option.name] = users.get(option.name, 0) + 1
    for one in pre_activations:
        one.squared_biases = list(_biases_of(one.squared, found, ends, trace))
        _sort_biases(network, one, users, late, context)
        _choose_bias(one, options)
    return pre_activations


def _biases_of(
    layers: list[FoundLayer],
    found: Mapping[int, PreActivation],
    ends: Mapping[int, Call],
    trace: Trace,
) -> Iterator[Tensor]:
    """Parameters that shift these layers, and do nothing else."""
    for number in dict.fromkeys(id(ends[id(layer)]) for layer in layers):
        for option in found[number].biases:
            if len(trace.users[id(option.parameter)]) == 1:
                yield option.parameter


def _end_of(trace: Trace, call: Call, read: Collection[Call]) -> tuple[Call, bool, tuple[int, ...]]:
    """The last call to which the result of an operation is passed on, scaled, shifted or summed.

    Args:
        trace: of the network.
        call: the operation.
        read: calls whose results are not followed further.

    Returns:
        The call; whether numbers of a row are summed, averaged or selected from on the way; if they
        are not, the order of the dimensions of the operation's result in it.
    """
    assert call.value is not None
    end, current, same, summed = call, call, True, False
    most = size = call.value.numel()
    alone, mixed = len(call.operands) <= 2, False  # no bias beside input and weight
    order, shape = tuple(range(call.value.ndim)), call.value.shape
    while len(current.consumers) == 1 and current not in read:
        (user,) = current.consumers
        operands = {id(t): t for t in user.operands if user.made_by.get(id(t)) is current}
        others = [t for t in user.operands if id(t) not in operands]
        scales = user.name in _SCALINGS
        if (
            (trace.is_weighted(user) and not _is_added(user, operands))
            or user.value is None
            or len(operands) != 1
            or (scales and any(trace.dependence(t) for t in others))
            or not trace.is_affine(user, list(operands.values()))
        ):
            break
        (operand,) = operands.values()
        # A part of a tensor that is written to does not go on alone, nor does what it was before.
        if operand is not current.output or _is_written_to(user):
            break
        alone = alone and not any(t.requires_grad or trace.dependence(t) for t in others)
        numbers = user.value.numel()
        same = same and numbers == size
        if same and not trace.is_elementwise(user, operand):
            moved = trace.order_of(user, operand)
            same = moved is not None and [*operand.shape] == [shape[d] for d in order]
            if moved is not None and same:
                order = tuple(order[dimension] for dimension in moved)
        rows_first = order[:1] == (0,)
        by_row = user.name in RESHAPES or (not same and trace.is_row_by_row(user, operand))
        if not (same or (rows_first and by_row)):
            break
        current, most = user, max(most, numbers)
        if same:
            end = user
        # A fixed matrix may give as many as it reads, and so may indices. What was shifted before
        # is left to that.
        moves = user.product is not None or numbers == size
        mixed = mixed or (not same and alone and moves)
        fewer = numbers < most or (mixed and numbers == size)
        if not same and fewer and numbers <= size and len(user.value) == 2 * trace.rows:
            end, summed = user, True
    return end, summed, order


def _is_added(user: Call, operands: Mapping[int, Tensor]) -> bool:
    """Whether a linear operation adds an operand to its result, as ``addmm`` does."""
    product = user.product
    if product is None or {id(product.input), id(product.weight)} & operands.keys():
        return False
    return user.name == "addmm" and "out" not in user.kwargs


def _is_part(tensor: Tensor) -> bool:
    """Whether a tensor is a view of another one that has more numbers."""
    return tensor._base is not None and tensor._base.numel() > tensor.numel()


def _is_written_to(call: Call) -> bool:
    """Whether a call takes a part of a tensor, to which is written there or in a view of it."""
    part = call.output
    if changes_in_place(call.name) or not _is_part(part):
        return False
    views = [
        user
        for user in call.consumers
        if isinstance(user.output, Tensor) and user.output._base is part._base
    ]
    return any(changes_in_place(view.name) or _is_written_to(view) for view in views)


def _units_after(call: Call, end: Call) -> int | None:
    """Dimension of the units of an operation in a sum of its results, None if there is none."""
    product, before, after = call.product, call.value, end.value
    assert product is not None
    assert before is not None
    assert after is not None
    if product.units is None:
        return None
    from_front, from_back = before.ndim + product.units, after.ndim + product.units
    for place in (from_front, from_back, *range(1, after.ndim)):
        if 0 < place < after.ndim and after.shape[place] == before.shape[product.units]:
            return place
    return from_back if before.ndim == after.ndim else None


def _differentiate_all(
    found: Iterable[PreActivation],
    signal: list[FoundLayer],
    ends: dict[int, Call],
    trace: Trace,
    parameters: Mapping[str, Tensor],
    squares: set[int],
) -> None:
    """Factors between operations and pre-activations, squares in them, and what can shift them."""
    leading = trace.leading_to(ends.values())
    shifts = {
        id(layer): leading[id(layer.call)] for layer in signal if layer.call.shift is not None
    }
    shifting = {
        name: set[int]().union(*(leading[id(user)] for user in trace.users.get(id(p), ())))
        for name, p in parameters.items()
    }
    shared = set[int]().union(*(to for to in (*shifts.values(), *shifting.values()) if len(to) > 1))
    together: list[_Gradients] = []
    for one in found:
        number = id(one.call)
        if one.call.value is None or not one.call.value.requires_grad:
            for layer in one.constrained + one.free:
                layer.problem = WITHOUT_GRADIENTS
            continue
        gradients = _Gradients(
            one,
            [layer for layer in signal if number in shifts.get(id(layer), ())],
            {name: p for name, p in parameters.items() if number in shifting[name]},
        )
        if number in shared:
            _differentiate([gradients], ends, trace, squares)
        else:
            together.append(gradients)
    _differentiate(together, ends, trace, squares)


class _Gradients:
    """A pre-activation that is differentiated by what leads to it.

    Attributes:
        one: the pre-activation.
        layers: whose results lead to it.
        candidates: parameters that may shift all rows alike, by name.
        sizes: how many numbers these have that are for a unit, a position or all.
    """

    def __init__(
        self, one: PreActivation, layers: list[FoundLayer], parameters: Mapping[str, Tensor]
    ) -> None:
        self.one, self.layers = one, layers
        self.shifts = [layer.call.shift for layer in layers if layer.call.shift is not None]
        seen_as, self.product = one.place()
        assert seen_as.value is not None
        assert one.call.value is not None
        self.like, self.value = seen_as.value, one.call.value
        units, positions = self.product.units_in(self.like.shape), self.like[0].numel()
        self.sizes = {"unit": units, "position": positions, "layer": 1}
        if self.product.units == -1 and self.like.ndim == 2:
            del self.sizes["position"]  # the same as units
        # A bias before a sum may have a number for each of the units there.
        self.candidates = {
            name: p
            for name, p in parameters.items()
            if one.summed or p.numel() in self.sizes.values()
        }
        values = [self.value, *(layer.call.value for layer in layers)]
        self.results = [value for value in values if value is not None]
        self._source = torch.Generator().manual_seed(3)

    def draw(self) -> Tensor:
        """Random weights of the entries."""
        draw = torch.rand(self.value.shape, generator=self._source, device="cpu") + 0.5
        return draw.to(self.value)

    def other_draw(self) -> Tensor:
        """Others, a few of which outweigh the rest: half precision hides no difference of rows."""
        return (
            torch.rand(self.value.shape, generator=self._source, device="cpu").pow(8).to(self.value)
        )

    def balanced_draw(self) -> Tensor:
        """One for half of the rows and minus one for others: what shifts all alike adds up to 0."""
        signs = torch.ones(len(self.value), *[1] * (self.value.ndim - 1), device="cpu")
        order = torch.randperm(len(signs), generator=self._source, device="cpu")
        signs[order[: len(signs) // 2]] = -1
        return signs.expand(self.value.shape).to(self.value)

    def coefficients(
        self, draw: Tensor, names: Iterable[str], slopes: Iterable[Tensor | None]
    ) -> _Coefficients:
        """By what parameters are multiplied if they shift all rows alike, given their gradients."""
        summed = cache(partial(self._summed, draw))
        return {
            # No more precise than the parameter, whatever it is brought to in the network, and than
            # the results of the operations.
            name: {
                per: (slope.flatten() / summed(per)).to(_coarsest([slope, *self.results]))
                for per, size in self.sizes.items()
                if slope.numel() == size or (self.one.summed and per == "layer")
            }
            for name, slope in zip(names, slopes, strict=True)
            if slope is not None
        }

    def is_bias(self, trace: Trace, parameter: Tensor) -> bool | None:
        """Whether a parameter is a number for each unit that is added to all rows alike.

        As the calls that read it show: not if it scales what depends on the inputs. None where they
        do not show it.
        """
        users = trace.users.get(id(parameter), [])
        if self.one.summed or len(users) != 1:
            return None
        (user,) = users
        if user.name in _SCALINGS:
            return False if _depending(trace, user) else None
        if parameter.numel() != self.sizes["unit"] or not leads_only_to(user, self.one.call):
            return None
        later = calls_between(user, self.one.call)
        scaled = all(
            call.name in SUMS or (call.name in _SCALINGS and _is_first_alone(trace, call))
            for call in later
        )
        return True if scaled and self._is_added_by_unit(user, parameter) else None

    def _is_added_by_unit(self, user: Call, parameter: Tensor) -> bool:
        """Whether a call adds each number of a parameter to the unit of the same place."""
        reading = [t for t in user.operands if any(p is parameter for p in user.leaves_of(t))]
        if user.value is None or not all(_has_same_entries(t, parameter) for t in reading):
            return False
        if product := user.product:
            by_unit = product.name == "linear" or product.is_convolution
            alike = user.value.ndim == self.like.ndim and product.units == self.product.units
            return by_unit and alike and all(t is not product.weight for t in reading)
        matrices = user.value.ndim == 2 == self.like.ndim and self.product.units == -1
        in_rows = all(t.shape[-1:] == (parameter.numel(),) == (t.numel(),) for t in reading)
        return user.name in SUMS and matrices and in_rows

    def _summed(self, draw: Tensor, per: str) -> Tensor:
        """Gradient by what is added to all rows: for each unit, each position or as one number."""
        draw = self.one.seen(draw, self.like.shape)
        if per == "unit":
            return self.product.by_unit(draw).sum(0)
        return draw.sum(0).flatten() if per == "position" else draw.sum().reshape(1)


def _has_same_entries(tensor: Tensor, parameter: Tensor) -> bool:
    """Whether a tensor is a parameter, or a view of all of its numbers in their order."""
    return tensor is parameter or (
        tensor._base is parameter
        and tensor.data_ptr() == parameter.data_ptr()
        and tensor.numel() == parameter.numel()
        and tensor.is_contiguous()
        and parameter.is_contiguous()
    )


def _depending(trace: Trace, call: Call) -> list[Tensor]:
    """Operands that depend on the inputs."""
    return [t for t in call.operands if trace.dependence(t)]


def _is_first_alone(trace: Trace, call: Call) -> bool:
    """Whether no operand but the first depends on the inputs."""
    return [id(t) for t in _depending(trace, call)] == [id(call.operands[0])]


def _coarsest(tensors: Iterable[Tensor]) -> torch.dtype:
    """The type of the tensors that has the fewest digits."""
    return max((tensor.dtype for tensor in tensors), key=lambda dtype: torch.finfo(dtype).eps)


def _differentiate(
    together: list[_Gradients], ends: dict[int, Call], trace: Trace, squares: set[int]
) -> None:
    """The gradients of pre-activations that nothing leads to two of."""
    draws = [one.draw() for one in together]
    wanted = [[*one.shifts, *one.candidates.values()] for one in together]
    first = _gradients_of(together, draws, wanted)
    found: list[_Coefficients] = []
    for one, draw, gradients in zip(together, draws, first, strict=True):
        _scale(one, draw, gradients[: len(one.layers)], ends, trace, squares)
        found.append(one.coefficients(draw, one.candidates, gradients[len(one.layers) :]))
    # Random draws do not give ones by chance. Others have to be the same for other draws.
    doubtful = []
    for one, known in zip(together, found, strict=True):
        roles = {
            name: one.is_bias(trace, one.candidates[name])
            for name, options in known.items()
            if not _is_one(next(iter(options.values())))
        }
        for name in [name for name, is_bias in roles.items() if is_bias is False]:
            del known[name]
        doubtful.append([name for name, is_bias in roles.items() if is_bias is None])
    again: list[_Coefficients] = [{} for _ in together]
    if any(doubtful):
        again = _differentiate_again(together, found, doubtful)
    for one, known, repeated in zip(together, found, again, strict=True):
        _choose_biases(one, known, repeated)


def _differentiate_again(
    together: list[_Gradients], found: list[_Coefficients], doubtful: list[list[str]]
) -> list[_Coefficients]:
    """Coefficients of some parameters for other draws; those by which rows differ are removed.

    Args:
        together: pre-activations.
        found: coefficients of each.
        doubtful: names of the parameters, for each.
    """
    draws = [one.other_draw() for one in together]
    wanted = [
        [one.candidates[name] for name in names]
        for one, names in zip(together, doubtful, strict=True)
    ]
    others = _gradients_of(together, draws, wanted)
    balanced = _gradients_of(together, [one.balanced_draw() for one in together], wanted)
    again = []
    for one, known, draw, names, slopes, differences in zip(
        together, found, draws, doubtful, others, balanced, strict=True
    ):
        again.append(one.coefficients(draw, names, slopes))
        for name in _varying(one, known, names, differences):
            del known[name]
    return again


def _varying(
    gradients: _Gradients,
    known: _Coefficients,
    names: Iterable[str],
    slopes: Iterable[Tensor | None],
) -> list[str]:
    """Parameters that rows differ by, such as gains: a signal may hide how little they do.

    Args:
        gradients: of a pre-activation.
        known: its coefficients.
        names: of parameters.
        slopes: gradients by them for as many rows with one as with minus one.
    """
    rows_first = gradients.product.units != -gradients.like.ndim
    if len(gradients.value) % 2 or not rows_first:
        return []
    # Sums are made in float32 at least, and zero but for their rounding.
    rounding = 8 * min(
        torch.finfo(dtype).eps for dtype in (torch.float32, _coarsest(gradients.results))
    )
    varying = []
    for name, slope in zip(names, slopes, strict=True):
        if not known[name]:
            continue
        largest = max(float(one.abs().max()) for one in known[name].values())
        summed = gradients.value.numel() / gradients.candidates[name].numel()
        if slope is not None and bool((slope.abs() > rounding * summed * largest).any()):
            varying.append(name)
    return varying


def _gradients_of(
    together: list[_Gradients], draws: list[Tensor], wanted: list[list[Tensor]]
) -> list[list[Tensor | None]]:
    """Of the sums that the draws make of the entries of each, by what is wanted of each."""
    flat = [tensor for tensors in wanted for tensor in tensors]
    if not flat:
        return [[] for _ in wanted]
    parts = zip(together, draws, wanted, strict=True)
    # A sum, as torch imports a lot on the first call with ``grad_outputs``.
    with torch.enable_grad():
        sums = [(one.value * draw).sum() for one, draw, tensors in parts if tensors]
        whole = sum(sums[1:], sums[0])
    gradients = iter(torch.autograd.grad(whole, flat, retain_graph=True, allow_unused=True))
    return [[next(gradients) for _ in tensors] for tensors in wanted]


def _scale(
    gradients: _Gradients,
    draw: Tensor,
    slopes: list[Tensor | None],
    ends: dict[int, Call],
    trace: Trace,
    squares: set[int],
) -> None:
    """Factors between operations and a pre-activation, and squares in it."""
    one = gradients.one
    for layer, slope in zip(gradients.layers, slopes, strict=True):
        if slope is None:
            continue
        if layer in one.constrained + one.free and one.summed:
            layer.gains = slope.new_ones(1).float()  # no more than a scale
        elif layer in one.constrained + one.free:
            product, drawn = layer.call.product, layer.from_end(draw, slope.shape)
            assert product is not None
            if torch.equal(slope, drawn):
                layer.gains = slope.new_ones(product.units_in(slope.shape)).float()
                continue
            factors = product.by_unit((slope / drawn).float())
            layer.gains = factors.mean(0)
            layer.even = bool(((factors - layer.gains).abs() <= 1e-3 * layer.gains.abs()).all())
        elif layer.role == "free" and _is_squared(trace, ends[id(layer)]):
            one.squared.append(layer)
            squares.add(id(layer))


def _choose_biases(gradients: _Gradients, found: _Coefficients, again: _Coefficients) -> None:
    """Keep parameters that shift all rows of a pre-activation alike.

    Args:
        gradients: of the pre-activation.
        found: its coefficients.
        again: those of other draws, for what is not known without.
    """
    # Those that are added as they are first: others may be gains of a signal that does not vary.
    for name, options in sorted(found.items(), key=lambda item: item[0] in again):
        for per, coefficient in options.items():
            same = name not in again or is_close(coefficient, again[name][per])
            if same and bool((coefficient != 0).all()):
                parameter = gradients.candidates[name]
                gradients.one.biases.append(BiasOption(name, parameter, coefficient.detach(), per))
                break


def _is_one(coefficient: Tensor) -> bool:
    """Whether a coefficient is 1, up to rounding."""
    precision = torch.finfo(coefficient.dtype).eps ** 0.75
    return bool(((coefficient - 1).abs() <= precision).all())


def _is_squared(trace: Trace, end: Call) -> bool:
    """Whether what bends a result next is of degree two."""
    while True:
        operands = [
            (user, operand)
            for user in end.consumers
            for operand in user.operands
            if user.made_by.get(id(operand)) is end
        ]
        if not operands:
            return False
        user, operand = operands[0]
        if user.product or not trace.is_affine(user, [operand]):
            return not user.product and abs(trace.degree(user, operand) - 2.0) < 0.1
        end = user


def _sort_biases(
    network: nn.Module,
    one: PreActivation,
    users: Mapping[str, int],
    late: Mapping[str, nn.Module],
    context: Collection[str],
) -> None:
    """Those with the fewest uses first, of every unit before common ones, normalisations last.

    Those of layers of other inputs come after others, as these are to stay as they are.
    """
    for option in one.biases:
        path = option.name.rpartition(".")[0]
        owner = type(network.get_submodule(path)).__name__ if path else ""
        option.normalises = path in late or "norm" in owner.lower()
        one.normalised |= path in late
    one.biases.sort(
        key=lambda o: (o.per == "layer", o.normalises, o.name in context, users[o.name])
    )


def _choose_bias(one: PreActivation, options: Options) -> None:
    """Put the bias that the user names first, or none if it is to be none."""
    for layer in one.constrained + one.free:
        said = options.get(layer.name, options.get(layer.parameter, {}))
        if "bias" in said:
            one.said = True
            chosen = [option for option in one.biases if option.name == said["bias"]]
            if said["bias"] is not None and not chosen:
                raise ValueError(
                    f"{said['bias']} does not shift every row of the layer {layer.name} alike; "
                    f"these do: {', '.join(option.name for option in one.biases) or 'none'}"
                )
            one.biases = chosen
