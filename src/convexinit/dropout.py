"""Dropout for one network or a stack of networks."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from convexinit.checks import check_generator, check_number
from convexinit.layers import Network

# Dropout that an orthogonal start bears: in so many hidden layers, or up to this probability.
_FEW_LAYERS, _WEAK = 2, 0.1


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
        probability = check_number("probability", probability, 0.0, 1.0, ends="[)")
        # A probability below 1 leaves some units, however close to 1 it is.
        self.dropped_bytes = min(round(256 * probability), 255)
        self.generators: list[torch.Generator] = []

    def forward(self, input: Tensor) -> Tensor:
        """Input ``[..., units]`` with random zeros in training, unchanged in evaluation.

        With several generators the first dimension is that of the networks.
        """
        if self.dropped_bytes == 0:
            return input
        # torch.compile and torch.func follow torch's own draws alone; that of torch 2.4 does not
        # follow the second question either, which it need not come to.
        transformed = torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()
        if not self.training or (transformed and not self.generators):
            # Through a function of torch, so that whoever watches calls sees it.
            return nn.functional.dropout(input, self.probability, self.training)
        # Compared in place, the mask stays in bytes: to make booleans, to convert them, and to
        # multiply with them is several times as slow on a CPU.
        kept = random_bytes(input.shape, self.generators, input.device).ge_(self.dropped_bytes)
        return input * kept.to(input.dtype).mul_(256.0 / (256 - self.dropped_bytes))

    @property
    def probability(self) -> float:
        """Of setting a unit to zero."""
        return self.dropped_bytes / 256

    def extra_repr(self) -> str:
        """Probability, for printing."""
        return f"probability={self.probability}"


def grows_noise(probabilities: Sequence[float]) -> list[str]:
    """A warning where dropout acts in too many hidden layers of an orthogonal start.

    Args:
        probabilities: of the hidden layers.
    """
    strong = [p for p in probabilities if p > _WEAK]
    if len(strong) <= _FEW_LAYERS:
        return []
    return [
        f"dropout acts in {len(strong)} hidden layers. Orthogonal weights pass on every unit by "
        "itself, so that its noise is never averaged and grows from layer to layer; "
        'give method="moments", bias_noise=0.5, or drop inputs and the first hidden layers alone'
    ]


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

    Raises:
        ValueError: for something else than generators.
    """
    for generator in generators:
        check_generator(generator)
    for module in model.modules():
        if isinstance(module, Dropout):
            module.generators = list(generators)
    return model
