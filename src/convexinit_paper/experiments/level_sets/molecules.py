"""Known molecules, and which of them walks start at and lead to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from convexinit.molecules.chemistry import canonical
from convexinit.molecules.codec import Codec
from convexinit_paper.data.encoded import EncodedData
from convexinit_paper.experiments.level_sets.settings import LevelSetSettings
from convexinit_paper.request.options import ConfigError


@dataclass(frozen=True)
class Library:
    """Known molecules, each once.

    Attributes:
        smiles: as in the data set.
        codes: float64 ``[n, dimensions]``.
    """

    smiles: list[str]
    codes: Tensor

    def clamp(self, points: Tensor) -> Tensor:
        """The closest points ``[..., dimensions]`` in the box of the codes."""
        return points.clamp(self.codes.amin(0), self.codes.amax(0))


def known_molecules(data: EncodedData) -> Library:
    """All molecules of the data set that have a code, each SMILES once."""
    codes = {
        smiles: code
        for part in data.sets.values()
        for smiles, code in zip(part.smiles, part.codes, strict=True)
    }
    return Library(list(codes), torch.stack(list(codes.values())).double())


def at_bottom(values: Tensor) -> Tensor:
    """Which of values ``[n]`` are the lowest, up to rounding."""
    lowest = values.min()
    return values <= lowest + 1e-9 * lowest.abs().clamp_min(1.0)


def low_window(values: Tensor, quantiles: Sequence[float]) -> tuple[float, float]:
    """Values at two quantiles of those that are not the lowest; all the lowest if there are none.

    Example:
        >>> low_window(torch.tensor([1.0, 1.0, 1.0, 2.0, 3.0, 4.0]), [0.0, 0.5])
        (2.0, 3.0)
    """
    above = values[~at_bottom(values)]
    lower, upper = (above if len(above) else values[:1]).quantile(values.new_tensor(quantiles))
    return float(lower), float(upper)


def draw(
    order: Tensor, count: int, library: Library, codec: Codec, settings: LevelSetSettings
) -> Tensor:
    """The first ``count`` rows of ``order``, of molecules that return if ``settings`` ask for it.

    Returns:
        At most ``count`` rows; fewer if there are not as many.

    Raises:
        ConfigError: no molecule returns.
    """
    found = order[:0]
    for rows in order.split(max(1, count + count // 4)):
        kept = rows[returns(codec, library, rows, settings.beam)] if settings.round_trip else rows
        found = torch.cat([found, kept])[:count]
        if len(found) == count:
            break
    if count and len(order) and not len(found):
        raise ConfigError(
            f"level_sets.round_trip is true, but none of {len(order)} molecules returns from its "
            f"code of the codec {codec.name}; level_sets.round_trip=false accepts all"
        )
    return found


def returns(codec: Codec, library: Library, rows: Tensor, beam: int) -> Tensor:
    """Whether the codes of molecules are decoded to the same molecules, ``[len(rows)]``."""
    prepared = codec.prepare([library.smiles[row] for row in rows])
    decoded = codec.decode(library.codes[rows].float().numpy(), beam)
    same = [canonical(text) == item.smiles for text, item in zip(decoded, prepared, strict=True)]
    return torch.tensor(same, dtype=torch.bool)
