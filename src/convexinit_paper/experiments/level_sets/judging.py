"""What walks are like: their points are decoded and measured."""

from __future__ import annotations

import warnings
from functools import cache

import pandas as pd
import torch
from rdkit import Chem, DataStructs
from rdkit.Chem import QED, rdFingerprintGenerator
from torch import Tensor

from convexinit.level_sets import ConvexFunction
from convexinit.molecules.chemistry import canonical
from convexinit.molecules.codec import Codec
from convexinit_paper.experiments.level_sets.convexity import crossed_twice, midpoints
from convexinit_paper.experiments.level_sets.molecules import Library
from convexinit_paper.experiments.level_sets.settings import LevelSetSettings
from convexinit_paper.experiments.level_sets.walking import Walks


def judge(
    f: ConvexFunction, walks: Walks, library: Library, codec: Codec, settings: LevelSetSettings
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Decode all points and measure what there is to measure.

    Returns:
        One row per walk: ``trajectory`` (its number), ``status``, ``start``, ``target`` (canonical
        SMILES), ``level``, ``target_logit``, ``start_qed``, ``target_qed``, ``similarity`` (of
        start and target), ``residual`` (the largest ``|f - level| / max(1, |level|)``),
        ``in_box`` (all of its points), ``mean_above`` (whether the mean code of the molecules that
        are predicted less toxic is not below the level), ``crossed_twice`` (share of rays that
        cross the level more than once), ``midpoints_above`` (share of the midpoints between two of
        its points that are above the level) and ``midpoint_excess`` (by how much at most, in
        logits).

        And one row per point: ``trajectory``, ``point`` (0 is the start), ``text`` (as decoded),
        ``smiles`` (canonical, empty if not valid), ``qed``, ``logit`` (of the code),
        ``own_logit`` (of the code of the decoded molecule), ``similarity_start``,
        ``similarity_target``, ``in_box``, ``in_hull`` (certainly in the convex hull of known
        codes). Walks that failed have none.
    """
    walked = torch.tensor([status == "walked" for status in walks.status], dtype=torch.bool)
    numbers = walked.nonzero().squeeze(1)
    points = walks.points[numbers]
    count, length, _ = points.shape
    allowed = settings.tol * walks.level.abs().clamp_min(1.0)

    starts, targets = (
        [str(item.smiles) for item in codec.prepare([library.smiles[row] for row in rows])]
        for rows in (walks.start, walks.target)
    )
    texts = codec.decode(points.flatten(0, 1).float().numpy(), settings.beam) if count else []
    smiles = [canonical(text) or "" for text in texts]
    logits = f(points.flatten(0, 1))
    in_box = (points == library.clamp(points)).all(2)
    of_point = numbers.repeat_interleave(length).tolist()
    judged = pd.DataFrame(
        {
            "trajectory": of_point,
            "point": list(range(length)) * count,
            "text": texts,
            "smiles": smiles,
            "qed": [qed(text) for text in smiles],
            "logit": logits.numpy(),
            "own_logit": own_values(f, codec, smiles).numpy(),
            "similarity_start": [
                similarity(text, starts[row]) for text, row in zip(smiles, of_point, strict=True)
            ],
            "similarity_target": [
                similarity(text, targets[row]) for text, row in zip(smiles, of_point, strict=True)
            ],
            "in_box": in_box.flatten().numpy(),
            "in_hull": in_hull(f, walks, settings)[numbers].flatten().numpy(),
        }
    )
    residual = torch.full_like(walks.level, torch.nan)
    residual[numbers] = (logits.view(count, length) - walks.level[numbers].unsqueeze(1)).abs().amax(
        1
    ) / walks.level[numbers].abs().clamp_min(1.0)
    above, excess = midpoints(f, walks.points, walks.level, allowed)
    inside = torch.zeros_like(walked)
    inside[numbers] = in_box.all(1)
    table = pd.DataFrame(
        {
            "trajectory": range(len(walked)),
            "status": walks.status,
            "start": starts,
            "target": targets,
            "level": walks.level.numpy(),
            "target_logit": f(library.codes[walks.target]).numpy(),
            "start_qed": [qed(text) for text in starts],
            "target_qed": [qed(text) for text in targets],
            "similarity": [similarity(*pair) for pair in zip(starts, targets, strict=True)],
            "residual": residual.numpy(),
            "in_box": inside.numpy(),
            "mean_above": (walks.mean_logit >= walks.level).numpy(),
            "crossed_twice": crossed_twice(
                f, walks.segment, walks.interior, walks.level, allowed
            ).numpy(),
            "midpoints_above": above.numpy(),
            "midpoint_excess": excess.numpy(),
        }
    )
    return table, judged


def in_hull(f: ConvexFunction, walks: Walks, settings: LevelSetSettings) -> Tensor:
    """Whether points are certainly in the convex hull of known codes, ``[n, steps + 1]``.

    Those that interpolation pulls inwards are: they lie between a point of the segment and the
    interior point, both of which are in the hull. Of others it is not known, except for the start.
    """
    certain = torch.zeros(walks.segment.shape[:2], dtype=torch.bool)
    if settings.method == "interpolate" and settings.interior != "descent":
        values = f(walks.segment.flatten(0, 1)).view(certain.shape)
        certain = values >= walks.level.unsqueeze(1)
    certain[:, 0] = True
    return certain


def own_values(f: ConvexFunction, codec: Codec, smiles: list[str]) -> Tensor:
    """Values of ``f`` for the molecules' own codes, ``[n]``; NaN for those without code."""
    values = torch.full((len(smiles),), torch.nan, dtype=torch.float64)
    rows = [row for row, text in enumerate(smiles) if text]
    with warnings.catch_warnings():
        # The codec's warning about molecules without code: the value tells.
        warnings.simplefilter("ignore")
        codes = codec.encode([smiles[row] for row in rows])
    values[rows] = f(torch.from_numpy(codes).double())
    return values


@cache
def qed(smiles: str) -> float:
    """Quantitative estimate of drug-likeness (Bickerton et al. 2012), in [0, 1]; NaN if empty.

    Example:
        >>> round(qed("CC(=O)Oc1ccccc1C(=O)O"), 2)
        0.55
    """
    return float(QED.qed(Chem.MolFromSmiles(smiles))) if smiles else float("nan")


@cache
def fingerprint(smiles: str) -> DataStructs.ExplicitBitVect:
    """ECFP4 of 2048 bits."""
    return _MORGAN.GetFingerprint(Chem.MolFromSmiles(smiles))


_MORGAN = rdFingerprintGenerator.GetMorganGenerator(radius=2, fpSize=2048)


def similarity(first: str, second: str) -> float:
    """Tanimoto similarity of two molecules by ECFP4, in [0, 1]; NaN if one is empty."""
    if not first or not second:
        return float("nan")
    return float(DataStructs.TanimotoSimilarity(fingerprint(first), fingerprint(second)))
