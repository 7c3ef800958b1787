"""Independent streams of random numbers, by seed and purpose."""

from __future__ import annotations

import hashlib

from torch import Generator


def seeded_generator(seed: int, stream: str) -> Generator:
    """Random numbers of one seed for one purpose.

    Streams of a seed are independent, so that for example all model variants see the same batches.

    Args:
        seed: the seed, at least 0.
        stream: the purpose, for example "weights", "split" or "batches".
    """
    digest = hashlib.sha256(f"{seed}/{stream}".encode()).digest()
    return Generator().manual_seed(int.from_bytes(digest[:8], "little") >> 1)
