"""Run a network that anybody wrote, and leave it as it was."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parameter import is_lazy

from convexinit.assignment import give_back_, is_finite
from convexinit.checks import check_tensor
from convexinit.nested import replace

Inputs = Tensor | tuple[Tensor, ...]
Convex = int | Sequence[int] | Mapping[int, Any]

# What networks raise if they are called with inputs that do not fit, where our own errors, of type
# ValueError, pass; and where all comes from the network.
MISFITS = (RuntimeError, TypeError, IndexError)
NOT_CALLABLE = (*MISFITS, ValueError, AttributeError)

_FEW = 128  # rows of a first batch that is followed by one of all rows
Hook = Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]


def as_tuple(inputs: Inputs) -> tuple[Tensor, ...]:
    """Inputs as a tuple of tensors, checked."""
    if isinstance(inputs, (tuple, list)):
        arguments = tuple(inputs)
        for index, argument in enumerate(arguments):
            if argument is None:
                raise ValueError(
                    f"inputs[{index}] is None; give what is no tensor with call=, as in "
                    "call=lambda network, x: network(x, None)"
                )
            check_tensor(f"inputs[{index}]", argument)
    else:
        arguments = (check_tensor("inputs", inputs),)
    for argument in arguments:
        if argument.is_meta or argument.layout is not torch.strided:
            raise ValueError(
                "inputs must be dense tensors with values, not sparse or on the device meta; "
                "to_dense() makes one of a sparse tensor"
            )
    if not arguments:
        raise ValueError("inputs must be a tensor or a tuple of tensors, as the network takes them")
    if min(argument.ndim for argument in arguments) == 0:
        raise ValueError("inputs must have rows: their first dimension is the samples")
    lengths = {len(argument) for argument in arguments}
    if len(lengths) > 1 or min(lengths) < 2:
        raise ValueError(
            f"inputs must have the same number of rows, at least two; got {sorted(lengths)}"
        )
    return arguments


def convex_columns(convex: Convex, arguments: tuple[Tensor, ...]) -> dict[int, Any]:
    """The columns in which a network is convex, by argument; ``...`` for all of them."""
    if isinstance(convex, int):
        convex = (convex,)
    if not isinstance(convex, (Mapping, Sequence)):
        raise ValueError(f"convex must be an index, several, or a dictionary; got {convex!r}")
    columns = dict(convex) if isinstance(convex, Mapping) else dict.fromkeys(convex, ...)
    for index in columns:
        if index not in range(len(arguments)):
            raise ValueError(
                f"convex must name floating-point arguments from 0 to {len(arguments) - 1}; "
                f"got {index!r}"
            )
        if not arguments[index].is_floating_point():
            name = "inputs" if len(arguments) == 1 else f"inputs[{index}]"
            raise ValueError(
                f"{name} must be floating point, got {arguments[index].dtype}, as the network is "
                f"to be convex in it: give {name}.float(), or name another argument with convex="
            )
        try:
            size = arguments[index][..., columns[index]].numel()
        except (IndexError, TypeError):
            size = 0
        if not size:
            raise ValueError(
                f"convex names no columns of argument {index}, which has the shape "
                f"{list(arguments[index].shape)}; got {columns[index]!r}"
            )
    if not columns:
        raise ValueError("convex must name at least one argument")
    return columns


def checked(inputs: Inputs, convex: Convex) -> tuple[tuple[Tensor, ...], dict[int, Any]]:
    """Inputs that are finite and vary where the network is convex, and the columns of that."""
    arguments = as_tuple(inputs)
    columns = convex_columns(convex, arguments)
    for index, argument in enumerate(arguments):
        if argument.is_floating_point() and not is_finite(argument):
            raise ValueError(f"inputs must be finite; argument {index} is not")
    for index, chosen in columns.items():
        values = arguments[index][..., chosen]
        # The first and the last mostly show it.
        if torch.equal(values[0], values[-1]) and bool((values == values[:1]).all()):
            raise ValueError(
                f"inputs do not vary: all rows of argument {index} are the same; give rows of data"
            )
    return arguments, columns


def scale_remark(arguments: Sequence[Tensor], columns: Mapping[int, Any]) -> str:
    """What to add to an error where squares of convex inputs are too large or small, or ""."""
    for index, chosen in columns.items():
        values = arguments[index][..., chosen]
        limits = torch.finfo(torch.promote_types(values.dtype, torch.float32))
        size = float(values.abs().max())
        # Squares are summed up, of which the sum has to be within limits too.
        if not limits.tiny**0.5 < size < 1e-4 * limits.max**0.5:
            kind = "large" if size > 1 else "small"
            return (
                f". Argument {index} has values up to {size:.3g}, too {kind} for variances in "
                f"{limits.dtype}: standardise it"
            )
    return ""


def run(network: nn.Module, arguments: Sequence[Tensor], call: Callable[..., Tensor] | None) -> Any:
    """The result of the convex function."""
    return network(*arguments) if call is None else call(network, *arguments)


def first_of(output: Any) -> Any:
    """The function's value, which is the first where a network gives several things."""
    return output[0] if isinstance(output, (tuple, list)) and output else output


def forward(
    network: nn.Module, arguments: tuple[Tensor, ...], call: Callable[..., Tensor] | None
) -> Any:
    """What a network gives on copies of its inputs; as a ValueError what it raises."""
    problem: Exception
    # Without gradients, which is faster, with them, and with inputs that require them.
    for gradients, requires_grad in ((False, False), (True, False), (True, True)):
        copies = [
            t.detach().clone().requires_grad_(
                t.is_floating_point() and (requires_grad or t.requires_grad)
            )
            for t in arguments
        ]  # fmt: skip
        try:
            with torch.set_grad_enabled(gradients):
                return run(network, copies, call)
        except NOT_CALLABLE as error:
            problem = error
    raise not_callable(network, arguments, problem) from problem


def gives_numbers(
    network: nn.Module,
    arguments: Sequence[Tensor],
    call: Callable[..., Tensor] | None,
    rows: int,
) -> bool:
    """Whether a network gives one number for each of a few rows, where it differentiates itself.

    As an energy does that is returned beside its gradient. Also where that is not known.
    """
    try:
        output = first_of(forward(network, tuple(one[:rows] for one in arguments), call))
    except ValueError:
        return True
    return isinstance(output, Tensor) and output.numel() == rows


def not_callable(network: nn.Module, arguments: Sequence[Tensor], problem: Exception) -> ValueError:
    """What to say of a network that raises something when it is called with its inputs."""
    hint = ""
    known = {parameter.dtype for parameter in network.parameters()}
    given = {argument.dtype for argument in arguments if argument.is_floating_point()}
    if len(known) == 1 and (others := given - known):
        hint = f" (its parameters are {known.pop()}, the inputs {others.pop()}: convert either)"
    if isinstance(problem, TypeError) and "argument" in str(problem):
        if len(arguments) > 1:
            hint += f" (inputs are {len(arguments)} tensors: give those that it takes alone, of a "
            hint += "batch of data without its targets)"
        hint += " (arguments that are no tensors, or have names, are given with call=, as in "
        hint += "call=lambda network, x: network(x, scale=2.0))"
    if isinstance(problem, IndexError):
        hint += f" (it was called with {len(arguments[0])} rows, as each is taken for a sample of "
        hint += "its own: of one graph, give several inputs, [graphs, nodes, features])"
    return ValueError(f"the network cannot be called with these inputs: {problem}{hint}")


class Snapshot:
    """The state of a network, to be given back.

    Parameters, buffers, attributes of modules, modes and ``requires_grad``.

    Args:
        network: any network.
        flags: other tensors whose values are to be given back.

    Attributes:
        parameters: of the network.
        numbers: ``id`` of its parameters and buffers.
    """

    def __init__(self, network: nn.Module, flags: Iterable[Tensor] = ()) -> None:
        self._modules = [
            (
                module,
                {k: v for k, v in vars(module).items() if not k.startswith("_")},
                dict(module._parameters),
                dict(module._buffers),
            )
            for module in network.modules()
        ]
        tensors = {
            id(tensor): tensor
            for _, _, parameters, buffers in self._modules
            for tensor in (*parameters.values(), *buffers.values())
            if tensor is not None
        }
        self.numbers = tensors.keys()
        own = {id(t) for _, _, parameters, _ in self._modules for t in parameters.values()}
        self.parameters = [tensor for number, tensor in tensors.items() if number in own]
        saved = [*tensors.values(), *(flag for flag in flags if id(flag) not in tensors)]
        self._tensors = [(t, t.detach().clone(), t.requires_grad) for t in saved]

    @torch.no_grad()
    def has_changed(self, tensors: Iterable[Tensor | None]) -> bool:
        """Whether some of these are not as they were; sparse ones are not looked at."""
        numbers = set(map(id, tensors))
        return not all(
            torch.equal(tensor, value)
            for tensor, value, _ in self._tensors
            if id(tensor) in numbers and tensor.layout is torch.strided
        )

    @torch.no_grad()
    def restore(self, kept: Iterable[Tensor] = (), modules: Iterable[nn.Module] = ()) -> None:
        """Give the network its state back.

        Args:
            kept: tensors whose values stay.
            modules: those that stay as their first batch has made them: their flags, buffers, new
                parameters in place of others, and new tensors in place of attributes.
        """
        numbers = {id(tensor) for tensor in kept}
        left = [(module, _made_by_batch(module), dict(module._parameters)) for module in modules]
        for module, found, _ in left:
            numbers |= {id(tensor) for tensor in (*module._buffers.values(), *found.values())}
        for module, attributes, parameters, buffers in self._modules:
            for key in [k for k in vars(module) if not k.startswith("_") and k not in attributes]:
                del vars(module)[key]
            vars(module).update(attributes)
            module._parameters.clear()
            module._parameters.update(parameters)
            module._buffers.clear()
            module._buffers.update(buffers)
        for tensor, value, requires_grad in self._tensors:
            if tensor.is_leaf and tensor.requires_grad != requires_grad:
                tensor.requires_grad_(requires_grad)
            if id(tensor) not in numbers:
                give_back_(tensor, value)
        for module, found, parameters in left:
            vars(module).update({k: v for k, v in found.items() if k in vars(module)})
            for key, new in parameters.items():
                old = module._parameters.get(key)
                if old is None or new is None or old.shape != new.shape:
                    module._parameters[key] = new
                    vars(module).pop(key, None)
                elif old is not new:
                    old.copy_(new)


def _flags(module: nn.Module) -> dict[str, Any]:
    """Attributes and buffers of a module that may say whether it has seen its first batch."""
    return {
        key: value
        for key, value in {**vars(module), **module._buffers}.items()
        if "init" in key.lower()
        and (isinstance(value, bool) or (isinstance(value, Tensor) and value.numel() == 1))
    }


def _made_by_batch(module: nn.Module) -> dict[str, Any]:
    """Flags of a module, and tensors that it has as attributes."""
    own = vars(module).items()
    tensors = {k: v for k, v in own if isinstance(v, Tensor) and v.grad_fn is None}
    return {**tensors, **_flags(module)}


def _values(module: nn.Module) -> dict[str, float]:
    return {key: float(value) for key, value in _flags(module).items()}


def _set(module: nn.Module, values: Mapping[str, float]) -> None:
    """Give flags of a module other values."""
    flags = _flags(module)
    for key, value in values.items():
        if isinstance(flags[key], Tensor):
            flags[key].fill_(value)
        else:
            setattr(module, key, bool(value))


@contextmanager
def before_calls(modules: Iterable[nn.Module], hook: Hook) -> Iterator[None]:
    """In it, ``hook(module, args, kwargs)`` comes before every call of these modules."""
    handles = [module.register_forward_pre_hook(hook, with_kwargs=True) for module in modules]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class Evaluation:
    """A network in evaluation mode, see :func:`evaluated`.

    Attributes:
        starting: modules that initialise themselves on their first batch (ActNorm), by name; at
            first all that have a flag that may say so.
        again: whether all of them are to see their first batch again.
        renewed: those that see it while one of the functions of the network is filled.
        statistics: running means and variances of batch normalisations, but of those that are in
            evaluation mode in a network that is not.
        snapshot: of the network as it was.
        keeps: whether ``kept``, and what a first batch has set, stays at the end.
        kept: parameters and statistics.
    """

    def __init__(
        self,
        network: nn.Module,
        arguments: tuple[Tensor, ...],
        call: Callable[..., Tensor] | None,
        again: bool,
    ) -> None:
        self.again = again
        self.renewed: set[nn.Module] = set()
        self.starting = {name: module for name, module in network.named_modules() if _flags(module)}
        self.statistics = [
            tensor
            for module in network.modules()
            if isinstance(module, _BatchNorm) and (module.training or not network.training)
            for tensor in (module.running_mean, module.running_var)
            if tensor is not None
        ]
        # The flags that a first batch sets, once that was seen; others are options.
        self._set_by_batch: dict[nn.Module, set[str]] = {}
        flags = [flag for module in self.starting.values() for flag in _flags(module).values()]
        self.snapshot = Snapshot(network, [flag for flag in flags if isinstance(flag, Tensor)])
        self.keeps = False
        self.kept: list[Tensor] = [*self.snapshot.parameters, *self.statistics]
        self._network, self._arguments, self._call = network, arguments, call

    def reset(self, module: nn.Module) -> None:
        """Let a module take its next batch for its first one."""
        _set(module, dict.fromkeys(self._set_by_batch.get(module, _flags(module)), 0.0))

    @torch.no_grad()
    def start(self, again: Collection[str] = (), rows: int | None = None) -> None:
        """Give modules their first batch: those that have not seen one, and ``again`` these.

        Args:
            again: names.
            rows: of the batch, None for all.
        """
        self._network.eval()
        known = self._set_by_batch
        # Those with a flag that is not set may be new, and others of their flags options.
        new = {
            name
            for name in again
            if self.starting[name] not in known and 0.0 in _values(self.starting[name]).values()
        }
        waiting = self._start({*again} - new, rows)
        if others := {name for name in new if self.starting[name] not in known}:
            waiting |= self._start(others, rows)
        for name in waiting:
            if self.starting[name] not in known:
                del self.starting[name]  # what its flags say is something else

    def _start(self, again: Collection[str], rows: int | None) -> set[str]:
        """Reset these modules, and give a first batch to those with a flag that is not set.

        Returns:
            Names of the modules to which it was given.
        """
        given = {name: _values(module) for name, module in self.starting.items()}
        for name in again:
            self.reset(self.starting[name])
        before = {name: _values(module) for name, module in self.starting.items()}
        waiting = {name for name, values in before.items() if 0.0 in values.values()}
        if not waiting:
            return waiting
        for name in waiting:
            self.starting[name].training = True
        try:
            forward(self._network, tuple(a[:rows] for a in self._arguments), self._call)
        except ValueError:  # where it takes no other number of rows
            forward(self._network, self._arguments, self._call)
        self._network.eval()
        for name in waiting:
            module, old = self.starting[name], before[name]
            after = _values(module)
            if now_set := {key for key, value in after.items() if value and not old.get(key)}:
                self._set_by_batch[module] = now_set
            options = {k: v for k, v in given[name].items() if v and not (old[k] or after[k])}
            _set(module, options)
        return waiting

    @contextmanager
    def first_batches(self, modules: Collection[nn.Module]) -> Iterator[None]:
        """In it, modules take what they are called with first for their first batch.

        Calls of torch that they make of it are not seen by a mode around.
        """
        waiting = set(modules)

        @torch.no_grad()
        def start(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if module not in waiting:
                return
            waiting.remove(module)
            self.reset(module)
            module.training = True
            with torch._C.DisableTorchFunction():
                module.forward(*replace(args, torch.clone), **replace(kwargs, torch.clone))
            module.training = False

        with before_calls(modules, start):
            yield

    def leave(self, parts: Collection[str]) -> None:
        """Modules, by name, that are to be as before at the end, with all that is in them."""
        modules = [self._network.get_submodule(part) for part in parts]
        left = {id(t) for module in modules for t in (*module.parameters(), *module.buffers())}
        self.kept = [tensor for tensor in self.kept if id(tensor) not in left]
        self.starting = {
            name: module for name, module in self.starting.items() if not is_within(name, parts)
        }


def is_within(name: str, parts: Iterable[str]) -> bool:
    """Whether a module, by name, is one of these or inside of one."""
    return any(f"{name}.".startswith(f"{part}.") for part in parts)


@contextmanager
def _without_autocast_cache() -> Iterator[None]:
    """In an ``autocast`` around, weights are cast anew by every call, as they change in between."""
    enabled = torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        yield
    finally:
        torch.clear_autocast_cache()
        torch.set_autocast_cache_enabled(enabled)


def _uncompiled() -> AbstractContextManager[Any]:
    """In it, functions of ``torch.compile`` run as they were written, so that calls are seen."""
    set_stance = getattr(torch.compiler, "set_stance", None)
    # What it needs takes seconds to import, and was imported where anything is compiled.
    if set_stance is None or "torch._dynamo" not in sys.modules:
        return nullcontext()
    return cast("AbstractContextManager[Any]", set_stance("force_eager"))


def check_exists(network: nn.Module) -> None:
    """Raise ValueError for a network with parameters or buffers that have no values yet."""
    for name, tensor in (*network.named_parameters(), *network.named_buffers()):
        if is_lazy(tensor) or tensor.is_meta:
            raise ValueError(
                f"{name} does not exist yet; run a batch through a network with lazy layers, or "
                "move one from the device meta, before"
            )


def _check_watchable(network: nn.Module) -> None:
    check_exists(network)
    for name, parameter in network.named_parameters():
        if parameter.is_inference():
            raise ValueError(
                f"{name} was made in inference mode and cannot change; build it out of it"
            )
    for module in network.modules():
        compiled = getattr(module, "_compiled_call_impl", None) or "_orig_mod" in module._modules
        if compiled or isinstance(module, torch.jit.ScriptModule):
            raise ValueError(
                "the network is compiled, so that its calls cannot be seen; give the network that "
                "was compiled (of torch.compile: network._orig_mod), which has the same parameters"
            )


@contextmanager
def evaluated(
    network: nn.Module,
    arguments: tuple[Tensor, ...],
    call: Callable[..., Tensor] | None,
    again: bool = False,
) -> Iterator[Evaluation]:
    """A network in evaluation mode, which is as before afterwards, as is the random state.

    Args:
        network: any network.
        arguments: that it can be called with.
        call: see :func:`convexinit.init_icnn_`.
        again: whether modules that have seen their first batch are to see it again.

    Raises:
        ValueError: if a part of the network is compiled or has parameters that do not exist yet, or
            that were made in inference mode, or it cannot be called to give modules a first batch.
    """
    _check_watchable(network)
    evaluation = Evaluation(network, arguments, call, again)
    device = arguments[0].device
    try:
        with (
            torch.inference_mode(False),
            _without_autocast_cache(),
            _uncompiled(),
            torch.random.fork_rng([device] if device.type == "cuda" else []),
        ):
            evaluation.start(evaluation.starting, _FEW) if again else evaluation.start()
            yield evaluation
    finally:
        if evaluation.keeps:
            evaluation.snapshot.restore(evaluation.kept, evaluation.starting.values())
        else:
            evaluation.snapshot.restore()
