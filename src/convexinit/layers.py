"""Convex layers, and unconstrained ones to go with them.

All of them also compute many networks at once: when their parameters carry a leading dimension of
``networks`` (see :mod:`convexinit.stacking`), inputs and outputs carry it too.
"""

from __future__ import annotations

from typing import Any, Literal, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from convexinit.assignment import assign_, is_held, unchanged_on_error
from convexinit.checks import check_module
from convexinit.init import lognormal_init_
from convexinit.positivity import Mapped, Positivity, resolve_positivity

Network = TypeVar("Network", bound=nn.Module)

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


def affine(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Affine map of one network or of many.

    Args:
        inputs: ``[..., in]``, or ``[networks, batch, in]`` for stacked weights.
        weight: ``[out, in]`` or ``[networks, out, in]``.
        bias: ``[out]`` or ``[networks, out]``, or None.

    Returns:
        ``[..., out]`` or ``[networks, batch, out]``.
    """
    if weight.ndim == 2:
        return F.linear(inputs, weight, bias)
    kind = inputs.device.type
    if torch.is_autocast_enabled(kind):
        # Autocast does not see the products inside of _StackedAffine.
        dtype = torch.get_autocast_dtype(kind)
        inputs, weight = inputs.to(dtype), weight.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        # torch.func cannot see inside either. Written for it (``setup_context``, ``jvp``), every
        # call of _StackedAffine would take 10 microseconds more, a tenth of a step of small
        # networks, and torch.compile would refuse it.
        return _stacked_affine(inputs, weight, bias)
    return _StackedAffine.apply(inputs, weight, bias)


def _stacked_affine(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``[networks, batch, out]`` from ``[networks, batch, in]``, see :func:`affine`."""
    if bias is None:
        return torch.bmm(inputs, weight.mT)
    return torch.baddbmm(bias.unsqueeze(1), inputs, weight.mT)


class _StackedAffine(torch.autograd.Function):
    """Batched affine map whose weight gradient has the memory layout of the weight.

    Differentiating ``torch.baddbmm`` gives a transposed gradient, which autograd then copies into
    place at the cost of about a third of a training step on the CPU.
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        return _stacked_affine(inputs, weight, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (gradient,) = gradients
        inputs, weight = ctx.saved_tensors
        needs_inputs, needs_weight, needs_bias = ctx.needs_input_grad
        return (
            torch.bmm(gradient, weight) if needs_inputs else None,
            torch.bmm(gradient.mT, inputs) if needs_weight else None,
            gradient.sum(1) if needs_bias else None,
        )


class MappedLayer(Mapped):
    """A layer of this library."""


class Linear(MappedLayer, nn.Linear):
    """Unconstrained affine layer, ``torch.nn.Linear`` for one network or many."""

    def forward(self, input: Tensor) -> Tensor:
        """Map ``[..., in]`` to ``[..., out]``, see :func:`affine`."""
        return affine(input, self.weight, self.bias)


class ConvexLayer(MappedLayer):
    """What makes an affine layer convex and non-decreasing: non-negative weights.

    A class that constrains a layer names this one first among its bases, sets ``positivity`` before
    that layer is built, and computes with :attr:`nonnegative_weight`.

    Attributes:
        weight: raw values, which are trained.
        bias: never constrained; None for a layer without bias.
        positivity: the map from raw values to non-negative weights.
    """

    weight: Tensor
    bias: Any  # a tensor or None; torch types it differently in each of its layers
    positivity: Positivity

    @property
    def nonnegative_weight(self) -> Tensor:
        """Weights that the forward pass uses, in the shape of ``weight``, all at least 0."""
        return self.positivity.forward(self.weight)

    @torch.no_grad()
    def assign_weight_(self, weight: Tensor, name: str = "") -> None:
        """Set raw values so that these non-negative weights, of the same shape, are used.

        Args:
            weight: at least 0.
            name: of the layer, for the message.

        Raises:
            ValueError: if the raw values are computed and cannot be set.
        """
        # The raw value of the smallest weight: the given ones may be of higher precision.
        lowest = self.positivity.inverse(self.weight.new_zeros(()))
        raw = self.positivity.inverse(weight).clamp_min(lowest)
        assign_(self, "weight", raw, name or type(self).__name__)

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Initialise for ReLU, see :func:`convexinit.lognormal_init_`."""
        bias = None if self.bias is None else self.bias.detach().clone()
        self.assign_weight_(lognormal_init_(torch.empty_like(self.weight), bias))
        if bias is not None:
            assign_(self, "bias", bias, type(self).__name__)

    def extra_repr(self) -> str:
        """Arguments of the layer, for printing."""
        return f"{super().extra_repr()}, positivity={self.positivity.name}"


class ConvexLinear(ConvexLayer, Linear):
    """Affine layer with non-negative weights: convex and non-decreasing in its input.

    A new layer is initialised for ReLU (:func:`convexinit.lognormal_init_`); use
    :func:`convexinit.init_icnn_` for other activations.

    Args:
        in_features: size of each input, the fan-in.
        out_features: size of each output.
        bias: whether the layer has a bias, which is never constrained.
        positivity: how weights are kept non-negative, a name in
            :data:`convexinit.positivity.POSITIVITY` or a map of your own. The default "projection"
            needs a call of :func:`project_` after every optimiser step.
        device: of the parameters.
        dtype: of the parameters.

    Raises:
        ValueError: if ``positivity`` is unknown or gives negative weights.

    Example:
        >>> layer = ConvexLinear(3, 2, positivity="softplus")
        >>> layer(torch.zeros(5, 3)).shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        positivity: str | Positivity = "projection",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.positivity = resolve_positivity(positivity)
        super().__init__(in_features, out_features, bias, device, dtype)

    def forward(self, input: Tensor) -> Tensor:
        """Map ``[..., in]`` to ``[..., out]``, see :func:`affine`."""
        return affine(input, self.nonnegative_weight, self.bias)


class Conv2d(MappedLayer, nn.Conv2d):
    """Unconstrained convolution, ``torch.nn.Conv2d`` for one network or many."""

    def forward(self, input: Tensor) -> Tensor:
        """Map ``[batch, in, height, width]`` to ``[batch, out, height', width']``.

        A stack maps ``[networks, batch, in, height, width]``.
        """
        return self._convolve(input, self.weight)

    def _convolve(self, inputs: Tensor, weight: Tensor) -> Tensor:
        if weight.ndim == 4:
            return self._conv_forward(inputs, weight, self.bias)
        # One convolution for each network: a grouped convolution of the whole stack takes up to
        # twice the time on a CPU.
        biases = [None] * len(weight) if self.bias is None else self.bias
        return torch.stack(
            [self._conv_forward(*one) for one in zip(inputs, weight, biases, strict=True)]
        )


class ConvexConv2d(ConvexLayer, Conv2d):
    """Two-dimensional convolution with non-negative weights (paper, appendix A.5).

    As neighbouring positions are correlated, the fully-connected fixed point is an approximation
    here.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        kernel_size: side of the kernel, or (height, width).
        stride: see ``torch.nn.Conv2d``.
        padding: see ``torch.nn.Conv2d``.
        dilation: see ``torch.nn.Conv2d``.
        groups: see ``torch.nn.Conv2d``.
        bias: whether the layer has a bias, which is never constrained.
        padding_mode: see ``torch.nn.Conv2d``.
        positivity: see :class:`ConvexLinear`.
        device: of the parameters.
        dtype: of the parameters.

    Raises:
        ValueError: if ``positivity`` is unknown or gives negative weights.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: Literal["zeros", "reflect", "replicate", "circular"] = "zeros",
        positivity: str | Positivity = "projection",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.positivity = resolve_positivity(positivity)
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias,
            padding_mode, device, dtype,
        )  # fmt: skip

    def forward(self, input: Tensor) -> Tensor:
        """Map images as :class:`Conv2d` does."""
        return self._convolve(input, self.nonnegative_weight)


def _projected_layers(model: nn.Module) -> dict[str, ConvexLayer]:
    return {
        name or "itself": module
        for name, module in model.named_modules()
        if isinstance(module, ConvexLayer) and module.positivity.projects
    }


def projected_weights(model: nn.Module) -> list[Tensor]:
    """Raw weights that have to be projected after every optimiser step (without gradient).

    Raises:
        ValueError: if one of them is computed, which only :func:`project_` can project.
    """
    layers = _projected_layers(model)
    for name, layer in layers.items():
        if not is_held(layer, "weight"):
            raise ValueError(f"the weight of the layer {name} is computed; call project_ instead")
    return [layer.weight.detach() for layer in layers.values()]


def project_(model: Network) -> Network:
    """Set the negative weights of convex layers to zero, in place (Amos et al. 2017).

    Does nothing for layers that are non-negative by their forward pass. A weight with a
    parametrization (``torch.nn.utils.parametrize``) is projected through its ``right_inverse``.

    Raises:
        ValueError: if no layer is of this library, so that nothing would be projected; or if a
            weight is computed and has negative values that cannot be set to zero (under
            ``weight_norm`` those of a unit without a positive one, as a row of zeros has no
            direction). The network is unchanged then.

    Example:
        >>> network = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), ConvexLinear(16, 1))
        >>> optimiser = torch.optim.Adam(network.parameters())
        >>> network(torch.ones(4, 2)).sum().backward()
        >>> optimiser.step()
        >>> network = project_(network)
    """
    check_module("model", model, takes_call=False)
    if not any(isinstance(module, MappedLayer) for module in model.modules()):
        raise ValueError(
            "the network has no layer of this library to project; "
            "convexinit.keep_convex(optimizer, network, inputs=...) finds the weights of layers of "
            "any class that must not be negative, and projects them now and after every step"
        )
    project_layers_(model)
    return model


def project_layers_(model: nn.Module) -> None:
    """:func:`project_`, which a network without any layer of this library passes."""
    layers = _projected_layers(model)
    computed = {name: layer for name, layer in layers.items() if not is_held(layer, "weight")}
    if computed:
        _project_computed_(computed)
    clamp_negative_(
        [layer.weight.detach() for name, layer in layers.items() if name not in computed]
    )


@torch.no_grad()
def _project_computed_(layers: dict[str, ConvexLayer]) -> None:
    with unchanged_on_error(*layers.values()):
        for name, layer in layers.items():
            weight = layer.weight
            # A plain attribute is what a hook computed before the last optimiser step.
            if "weight" in vars(layer) or weight.lt(0).any():
                assign_(layer, "weight", weight.clamp_min(0), name)
            if layer.weight.lt(0).any():
                raise ValueError(
                    f"the weight of the layer {name} is computed and stays negative after it was "
                    "set to zero; remove its parametrization"
                )


def clamp_negative_(weights: list[Tensor]) -> None:
    """Set negative entries to zero, in place."""
    if weights:
        torch._foreach_clamp_min_(weights, 0.0)


def is_stacked(layer: nn.Module) -> bool:
    """Whether a layer has the weights of many networks (:mod:`convexinit.stacking`)."""
    kernel = layer.kernel_size if isinstance(layer, CONVOLUTIONS) else ()
    return _dimensions(layer) not in (0, 2 + len(kernel))


def check_not_stacked(network: nn.Module, remedy: str) -> None:
    """Raise ValueError for a stack of networks, with what to do instead, or for parts of one."""
    if any(map(_is_sharded, network.modules())):
        raise ValueError(
            "the parameters of the network are spread over processes (FSDP, tensor parallelism), "
            "and no process has all of them; do this before that. keep_convex(optimizer, network) "
            "without inputs, or with weights=[...], works afterwards too"
        )
    # Beside layers of one network, a weight of more dimensions is that of a layer of another kind.
    layers = [module for module in network.modules() if _dimensions(module)]
    if layers and all(map(is_stacked, layers)):
        raise ValueError(f"layers cannot be found in a stack of networks; {remedy}")


def _is_sharded(module: nn.Module) -> bool:
    """Whether a process has a part of the parameters of a module: distributed, or flat, tensors."""
    if any(hasattr(parameter, "to_local") for parameter in module.parameters(recurse=False)):
        return True
    return _dimensions(module) == 1


def _dimensions(module: nn.Module) -> int:
    """Of the weight of a linear layer or a convolution; 0 where there is none to look at.

    As under a parametrization, where it is neither stacked nor sharded: to compute it changes the
    buffers of some of them in training (``spectral_norm``).
    """
    if (
        not isinstance(module, (nn.Linear, *CONVOLUTIONS))
        or parametrize.is_parametrized(module, "weight")
        or is_lazy(module.weight)
    ):
        return 0
    return module.weight.ndim
