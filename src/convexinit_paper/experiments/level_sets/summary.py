"""Walks in numbers, and their tables as arrays."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd
import torch


def summarise(trajectories: pd.DataFrame, points: pd.DataFrame, low: float) -> dict[str, float]:
    """What a set of walks was like, in numbers.

    Shares of walks are over all of them. What is said of molecules is over the walks that stay in
    the box of known codes; the start itself, which is given, does not count among the points.

    Args:
        trajectories: from :func:`judge`.
        points: from :func:`judge`.
        low: the logit below which predicted toxicity counts as low.

    Returns:
        - ``trajectories``, their number, and shares of them: ``failed``, ``left_box``
        - ``points_in_hull``: share of the points of all walks that are certainly in the hull
        - ``residual``: the largest; ``crossed_twice``, ``mean_above``, ``midpoints_above``: means;
          ``midpoint_excess``: the largest, in logits
        - ``valid``: share of points that decode to a molecule
        - medians over the walks: ``distinct`` (different molecules on it, with the start),
          ``qed_min``, ``qed_max``, ``qed_range``, and ``qed_gain``, the best QED of a molecule
          that is still low, minus that of the start
        - ``toxicity``: median over the walks of the predicted probability, constant by design
        - ``own_change``: median over valid points of ``|own_logit - level|``; beside it
          ``target_change``, the same for the targets: how much molecules drawn at random differ
        - ``still_low``: share of the molecules whose own prediction is at most ``low``
        - ``similarity_start``, ``similarity_target``: medians over valid points;
          ``similarity_ends``: of start and target
    """
    walked = trajectories[trajectories["status"] == "walked"]
    kept = walked[walked["in_box"]]
    later = points[points["point"] > 0]
    inside = points[points["trajectory"].isin(kept["trajectory"])].merge(
        kept[["trajectory", "level", "start_qed"]], on="trajectory"
    )
    molecules = inside[inside["smiles"] != ""]
    new = molecules[molecules["point"] > 0]
    per_walk = molecules.groupby("trajectory")
    still_low = molecules[molecules["own_logit"] <= low]
    gain = (still_low["qed"] - still_low["start_qed"]).groupby(still_low["trajectory"]).max()
    extremes = per_walk["qed"].agg(["min", "max"])
    return {
        "trajectories": float(len(trajectories)),
        "failed": (trajectories["status"] != "walked").mean(),
        "left_box": 1.0 - len(kept) / len(walked) if len(walked) else float("nan"),
        "points_in_hull": later["in_hull"].astype(float).mean(),
        "residual": walked["residual"].max(),
        "crossed_twice": trajectories["crossed_twice"].mean(),
        "mean_above": trajectories["mean_above"].mean(),
        "midpoints_above": walked["midpoints_above"].mean(),
        "midpoint_excess": walked["midpoint_excess"].max(),
        "valid": (inside.loc[inside["point"] > 0, "smiles"] != "").mean(),
        "distinct": per_walk["smiles"].nunique().median(),
        "qed_min": extremes["min"].median(),
        "qed_max": extremes["max"].median(),
        "qed_range": (extremes["max"] - extremes["min"]).median(),
        "qed_gain": gain.median(),
        "toxicity": float(torch.tensor(kept["level"].median()).sigmoid()),
        "own_change": (new["own_logit"] - new["level"]).abs().median(),
        "target_change": (kept["target_logit"] - kept["level"]).abs().median(),
        "still_low": (new["own_logit"].dropna() <= low).mean(),
        "similarity_start": new["similarity_start"].median(),
        "similarity_target": new["similarity_target"].median(),
        "similarity_ends": kept["similarity"].median(),
    }


def as_arrays(name: str, tables: Iterable[pd.DataFrame]) -> dict[str, np.ndarray]:
    """One array per column of a table in parts; texts as Unicode, so that they load without code.

    Example:
        >>> as_arrays("t", [pd.DataFrame({"a": [1], "b": ["x"]})])
        {'t.a': array([1]), 't.b': array(['x'], dtype='<U1')}
    """
    parts = list(tables)
    if not parts:
        return {}
    table = pd.concat(parts, ignore_index=True)
    return {
        f"{name}.{column}": np.array(
            table[column].tolist(), dtype=None if table[column].dtype.kind in "fiub" else np.str_
        )
        for column in table
    }
