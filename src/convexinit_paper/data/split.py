"""Random split of a training set into training and validation samples."""

import torch
from torch import Tensor


def random_split(n: int, fraction: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw the validation samples at random, without replacement.

    The paper's protocol is ``fraction=0.1``, with a new split for every seed.

    Args:
        n: number of samples, at least 2.
        fraction: share of the samples used for validation, in [0, 1). The number of samples is
            rounded to the nearest integer, but a fraction above 0 leaves at least one sample on
            either side.
        generator: source of randomness, on the CPU.

    Returns:
        Indices of the training samples and of the validation samples, int64, in random order.
        Together they are a permutation of 0..n-1.

    Raises:
        ValueError: n or fraction out of range.
    """
    if n < 2:
        raise ValueError(f"a split needs n >= 2 samples, got n={n}")
    if not 0 <= fraction < 1:
        raise ValueError(f"the validation fraction must lie in [0, 1), got {fraction}")
    num_validation = min(max(round(n * fraction), 1), n - 1) if fraction > 0 else 0
    order = torch.randperm(n, generator=generator)
    return order[num_validation:], order[:num_validation]
