"""Scale and centre a network on a batch of inputs."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from convexinit.assignment import unchanged_on_error
from convexinit.checks import check_floating, check_module, check_number, check_tensor
from convexinit.evaluation import MISFITS, Inputs, not_callable
from convexinit.init_network import assign_parameters_, initialised_layers, parameters_of
from convexinit.layers import CONVOLUTIONS, ConvexLayer, Network


@torch.no_grad()
def lsuv_init_(
    model: Network,
    inputs: Inputs,
    variance: float = 1.0,
    mean: float = 0.0,
    per_unit: bool = False,
) -> Network:
    """Scale and centre the pre-activations of every layer on a batch of inputs.

    LSUV, layer-sequential unit-variance (Mishkin & Matas 2016), for input-convex networks. It
    starts from weights drawn by any other initialisation. Layer by layer, in the order of the
    forward pass, the weights (and the bias with them) are multiplied by one positive number and
    the bias is shifted, so that the pre-activations of the layer have the target variance and mean
    on the batch. Non-negative weights stay non-negative, and are carried through the inverse of
    the layer's positivity map. One forward pass is enough: pre-activations depend on the scale of
    their own layer linearly.

    The original scales weights of mean zero and needs no bias; non-negative weights shift the mean
    of every layer, so that here it has to be removed as well. Two ways are offered:

    - one shift per layer (the default), the counterpart of Eq. 8 of the paper, where all units of a
      layer have the same bias. Variance and mean are those over inputs and units together.
    - one shift per unit (``per_unit``), the counterpart of
      :func:`~convexinit.init.centred_bias_`. The variance is that over the inputs, averaged over
      the units; differences between the units' means, which would count as variance otherwise, are
      removed, and with them biases drawn at random.

    What no scale or shift of a layer can change is the *correlation* of its pre-activations: for
    given inputs it depends on the fan-in and the ratio of the weights' squared mean to their
    variance, which only the draw decides. After He's initialisation with negative weights set to
    zero, correlations grow towards 1 within a few wide layers, as they do without LSUV: mean and
    variance are right, but the units say the same. (``per_unit`` does not help: what it removes,
    differences between the units' means, is variance that the units do not share.)

    The layers are those of :func:`~convexinit.init_icnn_`: all convex layers and the first layer;
    skip connections stay as they are, and what they add to a pre-activation is not counted. Layers
    that the forward pass does not reach stay as they are.

    Args:
        model: network with non-negative weights in its convex layers; not a stack of networks. It
            is run in its mode: call ``model.eval()`` before if dropout is not to count.
        inputs: batch that ``model`` can be called with, a tensor or a tuple of tensors; its first
            dimension is the samples.
        variance: target variance of the pre-activations, greater than 0.
        mean: target mean of the pre-activations. A layer without bias is scaled alone.
        per_unit: whether every unit (channel of a convolution) gets a shift of its own.

    Returns:
        ``model``.

    Raises:
        ValueError: if an argument is out of range or of another type, the network has no convex
            layer or stacked or negative weights, or ones that are computed or do not exist yet, or
            the pre-activations of a layer do not vary or are not finite, or the network cannot be
            called with ``inputs``; it is unchanged then.

    Example:
        >>> from convexinit import MLP
        >>> inputs = torch.randn(256, 8)
        >>> output = lsuv_init_(MLP([8, 64, 64, 1]), inputs)(inputs)
        >>> round(output.var(correction=0).item(), 3)
        1.0
    """
    check_module("model", model, takes_call=False)
    arguments = inputs if isinstance(inputs, tuple) else (check_floating("inputs", inputs),)
    for index, argument in enumerate(arguments):
        if not check_tensor(f"inputs[{index}]", argument).numel():
            raise ValueError(f"inputs must have rows, got the shape {list(argument.shape)}")
    variance, mean = check_number("variance", variance, 0.0), check_number("mean", mean)
    with unchanged_on_error(model):
        _scale_and_centre_(model, arguments, variance, mean, per_unit)
    return model


def _scale_and_centre_(
    model: nn.Module, inputs: Sequence[Tensor], variance: float, mean: float, per_unit: bool
) -> None:
    """:func:`lsuv_init_`, which may leave a part of the network changed when it raises."""
    layers = initialised_layers(model)
    names = {layer: name for name, layer in layers.items()}
    for name, layer in layers.items():
        if isinstance(layer, ConvexLayer) and layer.nonnegative_weight.lt(0).any():
            raise ValueError(
                f"the layer {name} has negative weights; call convexinit.project_ first"
            )
    corrections: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def correct(layer: nn.Module, _: tuple[Tensor, ...], signal: Tensor) -> Tensor:
        units = signal.movedim(_unit_dimension(layer), -1)
        if layer not in corrections:  # a layer that is used again keeps its first correction
            corrections[layer] = _scale_and_shift(units, variance, mean, per_unit, names[layer])
        scale, shift = corrections[layer]
        if layer.bias is None:
            shift = torch.zeros_like(shift)
        return (units * scale + shift).movedim(-1, _unit_dimension(layer)).to(signal.dtype)

    handles = [layer.register_forward_hook(correct) for layer in layers.values()]
    try:
        model(*(argument.clone() for argument in inputs))  # clones, as it may work in place
    except MISFITS as error:
        raise not_callable(model, inputs, error) from error
    finally:
        for handle in handles:
            handle.remove()
    for layer, (scale, shift) in corrections.items():
        weight, bias = parameters_of(layer)
        if isinstance(layer, ConvexLayer):
            weight = layer.nonnegative_weight.double()
        bias = None if bias is None else scale * bias + shift
        assign_parameters_(layer, scale * weight, bias, names[layer])


def _scale_and_shift(
    signal: Tensor, variance: float, mean: float, per_unit: bool, name: str
) -> tuple[Tensor, Tensor]:
    """Scale (one number) and shift (one number or ``[units]``) that give the target moments.

    Args:
        signal: pre-activations ``[..., units]``.
        variance: target variance.
        mean: target mean.
        per_unit: whether units are centred one by one.
        name: of the layer, for the error message.
    """
    precision = max(torch.finfo(signal.dtype).eps, torch.finfo(torch.float32).eps)
    signal = signal.double().flatten(0, -2)
    centre = signal.mean(0) if per_unit else signal.mean()
    measured = (signal - centre).square().mean()
    # Rounding leaves a little variance in pre-activations that are constant in truth.
    rounding = precision * float(signal.abs().max())
    if not rounding**2 < float(measured) < math.inf:
        raise ValueError(
            f"the pre-activations of the layer {name} have variance {measured:.3g} on "
            "these inputs, so that no scale gives them the target variance; use more inputs or "
            "another draw of the weights"
        )
    scale = (variance / measured).sqrt()
    return scale, mean - scale * centre


def _unit_dimension(layer: nn.Module) -> int:
    """Dimension of the units in a layer's output: the channels of a convolution, else the last."""
    return 1 - layer.weight.ndim if isinstance(layer, CONVOLUTIONS) else -1
