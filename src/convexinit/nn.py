"""Convex layers and the networks of the experiments.

All layers here also compute many networks at once: when their parameters carry a leading
dimension of ``networks`` (see :func:`stack_networks`), inputs and outputs carry it too.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any, Literal, TypeVar, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from convexinit.activations import checked_activation
from convexinit.init import lognormal_init_
from convexinit.positivity import positivity_of, resolve_positivity
from convexinit.theory import Activation, resolve_activation

Network = TypeVar("Network", bound=nn.Module)


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
    return _StackedAffine.apply(inputs, weight, bias)


class _StackedAffine(torch.autograd.Function):
    """Batched affine map whose weight gradient has the memory layout of the weight.

    Differentiating ``torch.baddbmm`` gives a transposed gradient, which autograd then copies into
    place at the cost of about a third of a training step on the CPU.
    """

    @staticmethod
    def forward(ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(inputs, weight)
        if bias is None:
            return torch.bmm(inputs, weight.mT)
        return torch.baddbmm(bias.unsqueeze(1), inputs, weight.mT)

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


class Linear(nn.Linear):
    """Unconstrained affine layer, ``torch.nn.Linear`` for one network or many."""

    def forward(self, input: Tensor) -> Tensor:
        """Map ``[..., in]`` to ``[..., out]``, see :func:`affine`."""
        return affine(input, self.weight, self.bias)


class ConvexLinear(Linear):
    """Affine layer with non-negative weights: convex and non-decreasing in its input.

    ``weight`` holds the raw values; :attr:`nonnegative_weight` is what the forward pass uses.
    A new layer is initialised for ReLU (:func:`convexinit.lognormal_init_`); use
    :func:`convexinit.init_icnn_` for other activations.

    Args:
        in_features: size of each input, the fan-in.
        out_features: size of each output.
        bias: whether the layer has a bias, which is never constrained.
        positivity: how weights are kept non-negative, a name in
            :data:`convexinit.positivity.POSITIVITY`. The default "projection" needs a call of
            :func:`project_` after every optimiser step.
        device: of the parameters.
        dtype: of the parameters.

    Raises:
        ValueError: if ``positivity`` is unknown.

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
        positivity: str = "projection",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.positivity = resolve_positivity(positivity)
        super().__init__(in_features, out_features, bias, device, dtype)

    @property
    def nonnegative_weight(self) -> Tensor:
        """Weights that the forward pass uses, ``[out, in]``, all at least 0."""
        return self.positivity.forward(self.weight)

    def reset_parameters(self) -> None:
        """Initialise for ReLU, see :func:`convexinit.lognormal_init_`."""
        _reset_convex_layer_(self)

    def forward(self, input: Tensor) -> Tensor:
        """Map ``[..., in]`` to ``[..., out]``, see :func:`affine`."""
        return affine(input, self.nonnegative_weight, self.bias)

    def extra_repr(self) -> str:
        """Arguments of the layer, for printing."""
        return f"{super().extra_repr()}, positivity={self.positivity.name}"


class Conv2d(nn.Conv2d):
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


class ConvexConv2d(Conv2d):
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
        ValueError: if ``positivity`` is unknown.
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
        positivity: str = "projection",
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        self.positivity = resolve_positivity(positivity)
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias,
            padding_mode, device, dtype,
        )  # fmt: skip

    @property
    def nonnegative_weight(self) -> Tensor:
        """Weights that the forward pass uses, ``[out, in / groups, *kernel]``, all at least 0."""
        return self.positivity.forward(self.weight)

    def reset_parameters(self) -> None:
        """Initialise for ReLU, see :func:`convexinit.lognormal_init_`."""
        _reset_convex_layer_(self)

    def forward(self, input: Tensor) -> Tensor:
        """Map images as :class:`Conv2d` does."""
        return self._convolve(input, self.nonnegative_weight)

    def extra_repr(self) -> str:
        """Arguments of the layer, for printing."""
        return f"{super().extra_repr()}, positivity={self.positivity.name}"


@torch.no_grad()
def _reset_convex_layer_(layer: ConvexLinear | ConvexConv2d) -> None:
    lognormal_init_(layer.weight, layer.bias)
    layer.weight.copy_(layer.positivity.inverse(layer.weight))


class Dropout(nn.Module):
    """Dropout with masks from raw random bytes, for one network or a stack.

    On a CPU a mask from bytes takes a fifth of the time of ``torch.nn.Dropout``, which draws a
    floating point number for every unit. The price: probabilities are multiples of 1/256.

    Each network of a stack draws from its own generator (:func:`seed_dropout_`), so that its masks
    do not depend on the networks beside it.

    Args:
        probability: of setting a unit to zero, in [0, 1); rounded to the next multiple of 1/256.
            What remains is divided by the probability of remaining, so that means are kept.

    Raises:
        ValueError: if ``probability`` is out of range.

    Example:
        >>> layer = seed_dropout_(Dropout(0.5), [torch.Generator().manual_seed(0)])
        >>> layer(torch.ones(1, 8))
        tensor([[0., 2., 2., 2., 2., 0., 0., 2.]])
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        if not 0.0 <= probability < 1.0:
            raise ValueError(f"a dropout probability must lie in [0, 1); got {probability}")
        # A probability below 1 leaves some units, however close to 1 it is.
        self.dropped_bytes = min(round(256 * probability), 255)
        self.generators: list[torch.Generator] = []

    def forward(self, input: Tensor) -> Tensor:
        """Input ``[..., units]`` with random zeros in training, unchanged in evaluation.

        With several generators the first dimension is that of the networks.
        """
        if not self.training or self.dropped_bytes == 0:
            return input
        # Compared in place, the mask stays in bytes: to make booleans, to convert them, and to
        # multiply with them is several times as slow on a CPU.
        kept = random_bytes(input.shape, self.generators, input.device).ge_(self.dropped_bytes)
        return input * kept.to(input.dtype).mul_(256.0 / (256 - self.dropped_bytes))

    def extra_repr(self) -> str:
        """Probability, for printing."""
        return f"probability={self.dropped_bytes / 256}"


def random_bytes(
    shape: Sequence[int], generators: Sequence[torch.Generator], device: torch.device
) -> Tensor:
    """Uniform random bytes.

    Args:
        shape: of the result; its first dimension is split among several generators.
        generators: sources of randomness; none for torch's own.
        device: of the result. Bytes are drawn where their generator lives.
    """
    count = max(len(generators), 1)
    size = math.prod(shape) // count
    words = torch.empty(
        count, -(-size // 8), dtype=torch.int64, device=generators[0].device if generators else None
    )
    sources: Sequence[torch.Generator | None] = generators or [None]
    for row, generator in zip(words, sources, strict=True):
        # The whole range of 64 bits; without a lower bound the highest bit would always be 0.
        row.random_(torch.iinfo(torch.int64).min, None, generator=generator)
    return words.view(torch.uint8)[:, :size].reshape(shape).to(device)


def seed_dropout_(model: Network, generators: Sequence[torch.Generator]) -> Network:
    """Let every :class:`Dropout` of a network draw from these generators, one for each network.

    Args:
        model: one network, or a stack of as many networks as there are generators.
        generators: sources of randomness, shared by all layers.

    Returns:
        The model itself.
    """
    for module in model.modules():
        if isinstance(module, Dropout):
            module.generators = list(generators)
    return model


class MLP(nn.Module):
    """Fully-connected network, input-convex if ``convex`` (Amos et al. 2017).

    The first layer is unconstrained; in a convex network all later layers are
    :class:`ConvexLinear`. With ``skip``, an unconstrained linear map of the network's input,
    without bias, is added to the pre-activation of every layer after the first.

    Args:
        widths: ``[inputs, hidden ..., outputs]``.
        activation: elementwise; in a convex network it has to be convex and non-decreasing.
        convex: whether weights after the first layer are non-negative.
        positivity: see :class:`ConvexLinear`; unused in a network that is not convex.
        skip: whether to add skip connections from the input.
        input_dropout: dropout probability of the inputs, in [0, 1). Skip connections see the same
            inputs as the first layer.
        hidden_dropout: dropout probability after every activation, in [0, 1).

    Raises:
        ValueError: for fewer than two widths, widths below 1, an unknown activation or positivity,
            an activation that would break convexity, or a probability out of range.

    Example:
        >>> network = MLP([2, 16, 16, 1])
        >>> network(torch.zeros(5, 2)).shape
        torch.Size([5, 1])
    """

    def __init__(
        self,
        widths: Sequence[int],
        activation: Activation = "relu",
        convex: bool = True,
        positivity: str = "projection",
        skip: bool = False,
        input_dropout: float = 0.0,
        hidden_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        if len(widths) < 2 or min(widths) < 1:
            raise ValueError(f"widths must be at least two positive integers; got {list(widths)}")
        self.activation = resolve_activation(activation)
        if convex:
            check_convex_activation(activation)
        first, *later = pairwise(widths)
        self.layers = nn.ModuleList(
            [
                Linear(*first),
                *(
                    ConvexLinear(*size, positivity=positivity) if convex else Linear(*size)
                    for size in later
                ),
            ]
        )
        self.skips = nn.ModuleList(
            Linear(widths[0], width, bias=False) for _, width in later if skip
        )
        self.input_dropout = Dropout(input_dropout)
        self.hidden_dropout = Dropout(hidden_dropout)

    def pre_activations(self, inputs: Tensor) -> list[Tensor]:
        """Pre-activations of every layer, the output last; shapes as in :meth:`forward`."""
        inputs = self.input_dropout(inputs)
        signals = [self.layers[0](inputs)]
        for index, layer in enumerate(self.layers[1:]):
            signal = layer(self.hidden_dropout(self.activation(signals[-1])))
            if self.skips:
                signal = signal + self.skips[index](inputs)
            signals.append(signal)
        return signals

    def forward(self, inputs: Tensor) -> Tensor:
        """Map ``[batch, inputs]`` to ``[batch, outputs]``.

        A stack of networks maps ``[networks, batch, inputs]`` to ``[networks, batch, outputs]``.
        """
        return self.pre_activations(inputs)[-1]


class CNN(nn.Module):
    """Convolutional network, input-convex if ``convex`` (appendix A.5 of the paper).

    Convolutions with kernels of 3 x 3, of which every second one, from the first on, has stride 2;
    then one fully-connected layer. The first convolution is unconstrained; in a convex network all
    later layers are :class:`ConvexConv2d` and :class:`ConvexLinear`.

    At the border the outermost pixels are repeated. Zeros would leave fewer summands there, and
    biases that centre a full sum of non-negative terms would push these positions far below zero.

    Args:
        image_shape: (channels, height, width) of the inputs.
        channels: output channels of every convolution, at least one.
        outputs: number of outputs.
        activation: see :class:`MLP`.
        convex: see :class:`MLP`.
        positivity: see :class:`ConvexLinear`.

    Raises:
        ValueError: for sizes below 1, no convolution, an unknown activation or positivity, or an
            activation that would break convexity.

    Example:
        >>> network = CNN((1, 8, 8), [16, 16, 16], 10)
        >>> network(torch.zeros(5, 64)).shape
        torch.Size([5, 10])
    """

    def __init__(
        self,
        image_shape: tuple[int, int, int],
        channels: Sequence[int],
        outputs: int,
        activation: Activation = "relu",
        convex: bool = True,
        positivity: str = "projection",
    ) -> None:
        super().__init__()
        if len(image_shape) != 3 or not channels or min(*image_shape, *channels, outputs) < 1:
            raise ValueError(
                "image_shape must be (channels, height, width), and channels at least one number; "
                f"all positive: got {image_shape}, {list(channels)} and outputs={outputs}"
            )
        self.image_shape = tuple(image_shape)
        self.activation = resolve_activation(activation)
        if convex:
            check_convex_activation(activation)
        layers: list[nn.Module] = []
        height, width = image_shape[1:]
        for index, size in enumerate(pairwise([image_shape[0], *channels])):
            stride = 2 if index % 2 == 0 else 1
            # 3 x 3 pixels with a border of one
            height, width = (math.ceil(side / stride) for side in (height, width))
            options: dict[str, Any] = {
                "kernel_size": 3, "stride": stride, "padding": 1, "padding_mode": "replicate"
            }  # fmt: skip
            if convex and index > 0:
                layers.append(ConvexConv2d(*size, **options, positivity=positivity))
            else:
                layers.append(Conv2d(*size, **options))
        fan_in = channels[-1] * height * width
        layers.append(
            ConvexLinear(fan_in, outputs, positivity=positivity)
            if convex
            else Linear(fan_in, outputs)
        )
        self.layers = nn.ModuleList(layers)

    def pre_activations(self, inputs: Tensor) -> list[Tensor]:
        """Pre-activations of every layer, the output last.

        Args:
            inputs: as in :meth:`forward`.

        Returns:
            ``[..., batch, channels, height, width]`` for convolutions, ``[..., batch, outputs]``.
        """
        return list(self._signals(inputs))

    def _signals(self, inputs: Tensor) -> Iterator[Tensor]:
        *convolutions, last = self.layers
        signal = inputs.unflatten(-1, self.image_shape)
        for layer in convolutions:
            signal = layer(signal)
            yield signal
            signal = self.activation(signal)
        yield last(signal.flatten(-3))

    def forward(self, inputs: Tensor) -> Tensor:
        """Map ``[batch, inputs]``, flattened images, to ``[batch, outputs]``.

        A stack of networks maps ``[networks, batch, inputs]`` to ``[networks, batch, outputs]``.
        """
        # One at a time, so that without gradients only the last is kept.
        for signal in self._signals(inputs):
            output = signal
        return output


def check_convex_activation(activation: Activation) -> None:
    """Raise ValueError if an activation is visibly not convex and non-decreasing.

    The check looks at a grid over [-10, 10], so that it can prove a violation, not its absence.
    """
    values = checked_activation(activation)(torch.linspace(-10, 10, 2001, dtype=torch.float64))
    slopes = values.diff()
    tolerance = 1e-9 * float(values.abs().max())
    if slopes.min() < -tolerance:
        raise ValueError(f"activation {activation!r} decreases, so the network is not convex")
    if slopes.diff().min() < -tolerance:
        raise ValueError(
            f"activation {activation!r} is not convex; use for example relu, leaky_relu, elu "
            "or softplus"
        )


def projected_weights(model: nn.Module) -> list[Tensor]:
    """Raw weights that have to be projected after every optimiser step (without gradient)."""
    return [
        cast("Tensor", module.weight).detach()
        for module in model.modules()
        if (positivity := positivity_of(module)) is not None and positivity.projects
    ]


def project_(model: Network) -> Network:
    """Set the negative weights of convex layers to zero, in place (Amos et al. 2017).

    Does nothing for layers that are non-negative by their forward pass.

    Example:
        >>> network = MLP([2, 16, 1])
        >>> optimiser = torch.optim.Adam(network.parameters())
        >>> network(torch.ones(4, 2)).sum().backward()
        >>> optimiser.step()
        >>> network = project_(network)
    """
    clamp_negative_(projected_weights(model))
    return model


def clamp_negative_(weights: list[Tensor]) -> None:
    """Set negative entries to zero, in place."""
    if weights:
        torch._foreach_clamp_min_(weights, 0.0)


def stack_networks(networks: Sequence[Network]) -> Network:
    """Copy of equally built networks as one, every parameter with a leading dimension.

    Args:
        networks: at least one network of the same architecture, of layers from this module.

    Returns:
        Network with parameters ``[networks, ...]`` that maps ``[networks, batch, in]`` to
        ``[networks, batch, out]``.

    Raises:
        ValueError: for an empty sequence.
    """
    if not networks:
        raise ValueError("there must be at least one network to stack")
    return _with_parameters(
        networks[0],
        lambda name: torch.stack([network.get_parameter(name) for network in networks]),
    )


def unstack_network(stacked: Network, index: int) -> Network:
    """Copy of network ``index`` out of a stack made by :func:`stack_networks`."""
    return _with_parameters(stacked, lambda name: stacked.get_parameter(name)[index].clone())


@torch.no_grad()
def _with_parameters(network: Network, value: Callable[[str], Tensor]) -> Network:
    network = copy.deepcopy(network)
    for name, _ in list(network.named_parameters()):
        path, _, attribute = name.rpartition(".")
        setattr(network.get_submodule(path), attribute, nn.Parameter(value(name)))
    return network
