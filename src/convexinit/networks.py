"""Input-convex networks: fully-connected, partially convex, and convolutional."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, cast

from torch import Tensor, nn

from convexinit.activations import Activation, check_convex_activation, resolve_activation
from convexinit.checks import check_integer, check_sizes
from convexinit.dropout import Dropout
from convexinit.layers import Conv2d, ConvexConv2d, ConvexLayer, ConvexLinear, Linear
from convexinit.positivity import Positivity


class MLP(nn.Module):
    """Fully-connected network, input-convex if ``convex`` (Amos et al. 2017).

    The first layer is unconstrained; in a convex network all later layers are
    :class:`~convexinit.ConvexLinear`. With ``skip``, an unconstrained linear map of the network's
    input, without bias, is added to the pre-activation of every layer after the first.

    Args:
        widths: ``[inputs, hidden ..., outputs]``.
        activation: elementwise; in a convex network it has to be convex and non-decreasing.
        convex: whether weights after the first layer are non-negative.
        positivity: see :class:`~convexinit.ConvexLinear`; unused in a network that is not convex.
        skip: whether to add skip connections from the input.
        input_dropout: dropout probability of the inputs, in [0, 1). Skip connections see the same
            inputs as the first layer.
        hidden_dropout: dropout probability after every activation, in [0, 1).

    Raises:
        ValueError: for fewer than two widths, widths below 1, an unknown activation or positivity,
            an activation that would break convexity, or a probability out of range.

    Example:
        >>> import torch
        >>> network = MLP([2, 16, 16, 1])
        >>> network(torch.zeros(5, 2)).shape
        torch.Size([5, 1])
    """

    def __init__(
        self,
        widths: Sequence[int],
        activation: Activation = "relu",
        convex: bool = True,
        positivity: str | Positivity = "projection",
        skip: bool = False,
        input_dropout: float = 0.0,
        hidden_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        widths = check_sizes("widths", widths, 2)
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
        return _copies(self._signals(inputs))

    def _signals(self, inputs: Tensor) -> Iterator[Tensor]:
        inputs = self.input_dropout(inputs)
        signal = self.layers[0](inputs)
        yield signal
        for index, layer in enumerate(self.layers[1:]):
            signal = layer(self.hidden_dropout(self.activation(signal)))
            if self.skips:
                signal = signal + self.skips[index](inputs)
            yield signal

    def forward(self, inputs: Tensor) -> Tensor:
        """Map ``[batch, inputs]`` to ``[batch, outputs]``.

        A stack of networks maps ``[networks, batch, inputs]`` to ``[networks, batch, outputs]``.
        """
        return _last(self._signals(inputs))


class PICNN(nn.Module):
    """Partially input-convex network: convex in its inputs, anything in its context.

    The network of Amos et al. 2017, Section 3.2 (there y is what it is convex in, and x the
    context). A path of unconstrained layers carries the context. In every layer of the convex path
    it gates the features (by numbers of at least 0) and the inputs, which enter by skip
    connections, and shifts the pre-activations:

    ```
    s = W (phi(s-) * relu(G u + g)) + V (y * (H u + h)) + U u + b,    W >= 0
    u = phi(C u- + c)
    ```

    All gates start at 1, whatever the context, so that the convex path starts as an :class:`MLP`
    with ``skip``. :func:`~convexinit.init_icnn_` fills the first layer and the convex layers.

    Args:
        widths: ``[inputs, hidden ..., outputs]``; the path of the context has the same hidden
            layers.
        context: number of its inputs.
        activation: of both paths, see :class:`MLP`.
        positivity: see :class:`~convexinit.ConvexLinear`.

    Raises:
        ValueError: for fewer than two widths, sizes below 1, an unknown activation or positivity,
            or an activation that would break convexity.

    Example:
        >>> import torch
        >>> network = PICNN([2, 16, 16, 1], context=3)
        >>> network(torch.zeros(5, 2), torch.zeros(5, 3)).shape
        torch.Size([5, 1])
    """

    def __init__(
        self,
        widths: Sequence[int],
        context: int,
        activation: Activation = "relu",
        positivity: str | Positivity = "projection",
    ) -> None:
        super().__init__()
        inputs, *outputs = check_sizes("widths", widths, 2)
        context = check_integer("context", context)
        self.activation = resolve_activation(activation)
        check_convex_activation(activation)
        known = [context, *outputs[:-1]]  # what the context has become before each layer
        later = [*zip(known[1:], *zip(*pairwise(outputs), strict=True), strict=True)]
        self.layers = nn.ModuleList(
            [
                Linear(inputs, outputs[0]),
                *(ConvexLinear(size, width, positivity=positivity) for _, size, width in later),
            ]
        )
        self.skips = nn.ModuleList(Linear(inputs, width, bias=False) for *_, width in later)
        self.context_layers = nn.ModuleList(Linear(*size) for size in pairwise(known))
        self.context_shifts = nn.ModuleList(
            Linear(*size, bias=False) for size in zip(known, outputs, strict=True)
        )
        self.input_gates = nn.ModuleList(Linear(size, inputs) for size in known)
        self.gates = nn.ModuleList(Linear(known, size) for known, size, _ in later)
        for gate in (*self.input_gates, *self.gates):
            nn.init.zeros_(gate.weight)
            nn.init.ones_(gate.bias)

    def pre_activations(self, inputs: Tensor, context: Tensor) -> list[Tensor]:
        """Pre-activations of the convex path, the output last; shapes as in :meth:`forward`."""
        return _copies(self._signals(inputs, context))

    def _signals(self, inputs: Tensor, context: Tensor) -> Iterator[Tensor]:
        signal = self.layers[0](inputs * self.input_gates[0](context))
        yield (signal := signal + self.context_shifts[0](context))
        for index, layer in enumerate(self.layers[1:], 1):
            context = self.activation(self.context_layers[index - 1](context))
            gated = self.activation(signal) * self.gates[index - 1](context).relu()
            skipped = self.skips[index - 1](inputs * self.input_gates[index](context))
            yield (signal := layer(gated) + skipped + self.context_shifts[index](context))

    def forward(self, inputs: Tensor, context: Tensor) -> Tensor:
        """Map ``[batch, inputs]`` and ``[batch, context]`` to ``[batch, outputs]``.

        A stack of networks maps ``[networks, batch, ...]`` likewise.
        """
        return _last(self._signals(inputs, context))


def skips_of(network: nn.Module) -> dict[nn.Module, nn.Module]:
    """Skip connections of the networks of these classes that it is or holds, by layer beside.

    Only linear ones: of what else took their place nothing is known. Layers that a subclass added
    have none.
    """
    return {
        layer: skip
        for module in network.modules()
        if isinstance(module, (MLP, PICNN))
        for layer, skip in zip(module.layers[1:], module.skips, strict=False)
        if isinstance(skip, nn.Linear)
    }


def added_variance(skip: nn.Module) -> float:
    """Variance of what a skip connection makes of independent inputs of variance 1.

    Raises:
        ValueError: if it has no weights yet, or some that are not finite.
    """
    weight = cast("Tensor", skip.weight)  # a parametrization may compute it
    if weight.is_meta:
        raise ValueError(
            "a skip connection has no weights yet; move the network from the device meta, and "
            "give it weights, before"
        )
    variance = float(weight.detach().double().square().sum(-1).mean())
    if not math.isfinite(variance):
        raise ValueError(
            "a skip connection has weights that are not finite; give it others, as "
            "reset_parameters() of each of the modules in its network's skips does"
        )
    return variance


def counted_variance(skip: nn.Module | None, variance: float) -> float:
    """Of a layer's ``variance``, what its skip connection is to have: at most half; 0 without."""
    return 0.0 if skip is None else min(added_variance(skip), variance / 2)


class CNN(nn.Module):
    """Convolutional network, input-convex if ``convex`` (appendix A.5 of the paper).

    Convolutions with kernels of 3 x 3, of which every second one, from the first on, has stride 2;
    then one fully-connected layer. The first convolution is unconstrained; in a convex network all
    later layers are :class:`~convexinit.ConvexConv2d` and :class:`~convexinit.ConvexLinear`.

    At the border the outermost pixels are repeated. Zeros would leave fewer summands there, and
    biases that centre a full sum of non-negative terms would push these positions far below zero.

    Args:
        image_shape: (channels, height, width) of the inputs.
        channels: output channels of every convolution, at least one.
        outputs: number of outputs.
        activation: see :class:`MLP`.
        convex: see :class:`MLP`.
        positivity: see :class:`~convexinit.ConvexLinear`.

    Raises:
        ValueError: for sizes below 1, no convolution, an unknown activation or positivity, or an
            activation that would break convexity.

    Example:
        >>> import torch
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
        positivity: str | Positivity = "projection",
    ) -> None:
        super().__init__()
        channels, outputs = check_sizes("channels", channels, 1), check_integer("outputs", outputs)
        self.image_shape = tuple(check_sizes("image_shape", image_shape, 1))
        if len(self.image_shape) != 3:
            raise ValueError(f"image_shape must be (channels, height, width); got {image_shape}")
        self.activation = resolve_activation(activation)
        if convex:
            check_convex_activation(activation)
        layers: list[nn.Module] = []
        first, height, width = self.image_shape
        for index, size in enumerate(pairwise([first, *channels])):
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
        return _copies(self._signals(inputs))

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
        return _last(self._signals(inputs))


def _copies(signals: Iterator[Tensor]) -> list[Tensor]:
    """Copies, made before the next layer: an activation may work in place."""
    return [signal.clone() for signal in signals]


def _last(signals: Iterator[Tensor]) -> Tensor:
    """The last one, without keeping the others."""
    for signal in signals:
        last = signal
    return last


def activation_of(network: nn.Module) -> Activation:
    """That of the first network of this module that a network is or holds, ReLU without one.

    Convex ones come first: what is not convex may have another, as a network before them.
    """
    own = [part for part in network.modules() if isinstance(part, (MLP, CNN, PICNN))]
    convex = [part for part in own if any(isinstance(m, ConvexLayer) for m in part.modules())]
    return next((part.activation for part in [*convex, *own]), "relu")
