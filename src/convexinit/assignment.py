"""Writing to weights and biases so that a network really uses what was written."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize


def check_fillable(name: str, tensor: Tensor) -> None:
    """Raise ValueError unless numbers that are written to a tensor stay where they are used.

    A tensor that was computed from others without gradients cannot be told from one of its own.

    Args:
        name: of the tensor, for the message.
        tensor: what is to be filled in place: a parameter, any other leaf of the autograd graph, or
            a view of one.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> check_fillable("weight", layer.weight[:1])
        >>> check_fillable("weight", 2 * layer.weight)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
        ValueError: weight is computed from other tensors, so that ...
    """
    if not isinstance(tensor, Tensor):
        raise ValueError(f"{name} must be a tensor; got {type(tensor).__name__}")
    if is_lazy(tensor):
        raise ValueError(
            f"{name} has no shape yet, as its layer is lazy; run a batch through the network first"
        )
    if not tensor.is_floating_point():
        raise ValueError(f"{name} must be floating point; got {tensor.dtype}")
    root = tensor if tensor._base is None else tensor._base
    if not root.is_leaf:
        raise ValueError(
            f"{name} is computed from other tensors, so that what is written to it is lost; give "
            "the parameter itself, remove what computes it (for example with "
            "torch.nn.utils.parametrize.remove_parametrizations), or call convexinit.init_icnn_ "
            "on the network"
        )
    if any(
        size > 1 and step == 0 for size, step in zip(tensor.shape, tensor.stride(), strict=True)
    ):
        raise ValueError(f"{name} is expanded, several entries in one place; give a clone of it")
    if tensor.is_inference() and not torch.is_inference_mode_enabled():
        raise ValueError(f"{name} was made in inference mode and cannot change; give a clone of it")


def is_held(layer: nn.Module, attribute: str) -> bool:
    """Whether a layer holds a weight or bias itself, instead of computing it from others."""
    own = {**layer._buffers, **layer._parameters}.get(attribute)
    return own is not None and getattr(layer, attribute) is own


@torch.no_grad()
def assign_(layer: nn.Module, attribute: str, value: Tensor, name: str) -> None:
    """Set the weight or the bias of a layer.

    One that the layer holds is filled in place. One that a parametrization computes
    (``torch.nn.utils.parametrize``) is set through its ``right_inverse``, and then compared.

    Args:
        layer: any layer.
        attribute: "weight" or "bias".
        value: of the shape of the attribute.
        name: of the layer, for the message.

    Raises:
        ValueError: if the attribute is computed and does not become ``value``. What it is computed
            from may have changed then, see :func:`unchanged_on_error`.
    """
    where = f"the {attribute} of the layer {name}"
    if is_held(layer, attribute):
        tensor = getattr(layer, attribute)
        check_fillable(where, tensor)
        tensor.copy_(value)
        return
    problem = "is not a parameter of its own"
    if parametrize.is_parametrized(layer, attribute):
        problem = "has a parametrization that cannot give it the values asked for"
        try:
            setattr(layer, attribute, value.to(getattr(layer, attribute), copy=True))
        except (RuntimeError, ValueError, TypeError) as error:
            raise _not_assigned(where, f"{problem} ({error})", attribute) from error
        if is_close(getattr(layer, attribute), value):
            return
    raise _not_assigned(where, problem, attribute)


def _not_assigned(where: str, problem: str, attribute: str) -> ValueError:
    return ValueError(
        f"{where} is computed: it {problem}. Remove what computes it "
        f"(torch.nn.utils.parametrize.remove_parametrizations(layer, {attribute!r}), "
        "torch.nn.utils.remove_weight_norm, torch.nn.utils.prune.remove), and apply it again "
        "afterwards; or give it a parametrization with an exact right_inverse"
    )


def is_finite(tensor: Tensor) -> bool:
    """Whether all numbers are finite."""
    # The sum is faster by far, but may be infinite where no number is.
    return math.isfinite(float(tensor.detach().sum())) or bool(tensor.isfinite().all())


def is_close(used: Tensor, asked: Tensor) -> bool:
    """Whether two tensors agree up to rounding, as a whole."""
    if used.dtype == asked.dtype and torch.equal(used, asked):
        return is_finite(used)
    used, asked, precision = used.double(), asked.double(), torch.finfo(used.dtype).eps
    norm = torch.linalg.vector_norm
    return bool(norm(used - asked) <= precision**0.5 * norm(asked))


@torch.no_grad()
def give_back_(tensor: Tensor, value: Tensor) -> None:
    """Give a tensor the value that it had."""
    # Not written to without need, as tensors of the inference mode refuse it. Sparse ones cannot be
    # compared.
    if tensor.layout is not torch.strided or not torch.equal(tensor, value):
        tensor.copy_(value)


@contextmanager
def unchanged_on_error(*modules: nn.Module) -> Iterator[None]:
    """Give parameters and buffers back their values if the block raises.

    Example:
        >>> layer = nn.Linear(1, 1)
        >>> before = layer.bias.item()
        >>> try:
        ...     with unchanged_on_error(layer):
        ...         _ = nn.init.constant_(layer.bias, 5.0)
        ...         raise ValueError
        ... except ValueError:
        ...     layer.bias.item() == before
        True
    """
    registries: list[tuple[dict[str, Any], dict[str, Any]]] = [
        (registry, dict(registry))
        for module in modules
        for part in module.modules()
        for registry in (part._parameters, part._buffers)
    ]
    values = [
        (tensor, tensor.detach().clone())
        for _, entries in registries
        for tensor in entries.values()
        if tensor is not None and not is_lazy(tensor) and not tensor.is_meta
    ]
    try:
        yield
    except BaseException:
        for registry, entries in registries:
            now = dict(registry)
            # Registries of scripted modules cannot be written to.
            if any(now.get(name) is not tensor for name, tensor in entries.items()):
                registry.update(entries)
        for tensor, value in values:
            give_back_(tensor, value)
        raise
