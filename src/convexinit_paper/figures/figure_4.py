"""Figure 4: one walk along a level set of predicted toxicity per task, with its molecules.

Which walk is shown is not chosen by hand: of the first seed, the one with the most distinct valid
molecules, and of several such the one with the widest range of QED. Between start and target, at
most five of these molecules are shown, evenly spread over the walk.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Outline

from convexinit_paper.figures import style
from convexinit_paper.figures.level_sets import SCALES
from convexinit_paper.figures.select import TITLES, Panel, Selection
from convexinit_paper.store.errors import RunError
from convexinit_paper.store.runs import Run

BETWEEN = 5  # molecules shown between start and target
ROW_HEIGHT = 1.3  # inches
HEADER_HEIGHT = 0.3
FOOTER_HEIGHT = 0.36
MODEL = "icnn_init"
# Pixels of a drawing; bonds of small molecules are not longer than this many.
CANVAS = (240, 205)
BOND = 34
_SVG = "{http://www.w3.org/2000/svg}"
_CODES = {
    "M": [Outline.MOVETO],
    "L": [Outline.LINETO],
    "Q": [Outline.CURVE3] * 2,
    "C": [Outline.CURVE4] * 3,
}


def panels(scale: str) -> list[Panel]:
    """The walks of the paper's variant, on Tox21 or (scale "demo") on the stand-in."""
    return [Panel("level_sets", "level sets", {MODEL: SCALES[scale]})]


def table(selections: Sequence[Selection]) -> pd.DataFrame:
    """The molecules in the figure, in order.

    Returns:
        ``task, seed, trajectory, role`` ("start", "level set", "target"), ``point`` (of the walk;
        empty for the target, which is not on the level set), ``smiles, toxicity`` (predicted
        probability, at the point of the walk), ``own_toxicity`` (predicted from the molecule's own
        code; empty if it has none), ``qed``, ``similarity_start``, ``similarity_target``.

    Raises:
        RunError: no walk of the run has a valid molecule.
    """
    (selection,) = selections
    (run,) = selection.runs.values()
    tasks = run.summary["tasks"]
    return pd.concat([example(run, task) for task in tasks], ignore_index=True)


def example(run: Run, task: str) -> pd.DataFrame:
    """Molecules of the walk that is shown for a task; columns as in :func:`table`.

    Raises:
        RunError: there is no walk.
    """
    walks, points = stored_table(run, "trajectories"), stored_table(run, "points")
    walks, points = walks[walks["task"] == task], points[points["task"] == task]
    seed = walks["seed"].min()
    walks = walks[(walks["seed"] == seed) & (walks["status"] == "walked") & walks["in_box"]]
    valid = points[
        (points["seed"] == seed)
        & points["trajectory"].isin(walks["trajectory"])
        & (points["smiles"] != "")
    ]
    if valid.empty:
        raise RunError(f"the run in {run.folder} has no walk for {task} that could be shown.")
    merits = valid.groupby("trajectory").agg(
        distinct=("smiles", "nunique"), low=("qed", "min"), high=("qed", "max")
    )
    merits["range"] = merits["high"] - merits["low"]
    number = merits.sort_values(["distinct", "range"], ascending=False, kind="stable").index[0]
    walk = walks.set_index("trajectory").loc[number]
    ends = [walk["start"], walk["target"]]
    distinct = valid[valid["trajectory"] == number].drop_duplicates("smiles")
    between = distinct[~distinct["smiles"].isin(ends)]
    shown = np.linspace(0, len(between) - 1, min(BETWEEN, len(between))).round().astype(int)
    rows = [
        {
            "role": "level set",
            "point": row["point"],
            "smiles": row["smiles"],
            "toxicity": sigmoid(row["logit"]),
            "own_toxicity": sigmoid(row["own_logit"]),
            "qed": row["qed"],
            "similarity_start": row["similarity_start"],
            "similarity_target": row["similarity_target"],
        }
        for row in between.iloc[shown].to_dict("records")
    ]
    for role, logit, place in (("start", "level", 0), ("target", "target_logit", len(rows) + 1)):
        row = {
            "role": role,
            "point": 0 if role == "start" else np.nan,
            "smiles": walk[role],
            "toxicity": sigmoid(walk[logit]),
            "own_toxicity": sigmoid(walk[logit]),
            "qed": walk[f"{role}_qed"],
            "similarity_start": 1.0 if role == "start" else walk["similarity"],
            "similarity_target": 1.0 if role == "target" else walk["similarity"],
        }
        rows.insert(place, row)
    result = pd.DataFrame(rows)
    result.insert(0, "task", task)
    result.insert(1, "seed", seed)
    result.insert(2, "trajectory", number)
    return result


def stored_table(run: Run, name: str) -> pd.DataFrame:
    """A table that a run keeps in its arrays, one array per column.

    Raises:
        RunError: the run has no such table.
    """
    columns = {
        key.removeprefix(f"{name}."): values
        for key, values in run.arrays.items()
        if key.startswith(f"{name}.")
    }
    if not columns:
        raise RunError(f"the run in {run.folder} has no table of {name}: all seeds diverged.")
    return pd.DataFrame(columns)


def sigmoid(logit: float) -> float:
    """Probability of a logit.

    Example:
        >>> sigmoid(0.0)
        0.5
    """
    return float(1.0 / (1.0 + np.exp(-logit)))


def draw(selections: Sequence[Selection], numbers: pd.DataFrame) -> Figure:
    """Draw one row per task.

    Args:
        selections: the runs for :func:`panels`.
        numbers: from :func:`table`.
    """
    (selection,) = selections
    (run,) = selection.runs.values()
    tasks = list(dict.fromkeys(numbers["task"]))
    columns = BETWEEN + 2
    height = HEADER_HEIGHT + ROW_HEIGHT * len(tasks) + FOOTER_HEIGHT
    figure = Figure(figsize=(style.TEXT_WIDTH, height))
    for index, task in enumerate(tasks):
        here = numbers[numbers["task"] == task].to_dict("records")
        top = 1 - (HEADER_HEIGHT + ROW_HEIGHT * index) / height
        places = [0, *_spread(len(here) - 2), columns - 1]
        for place, row in zip(places, here, strict=True):
            # 0.46 inches below are for text, 0.16 above for the task.
            axes = figure.add_axes(
                (
                    place / columns,
                    top - (ROW_HEIGHT - 0.46) / height,
                    1 / columns,
                    (ROW_HEIGHT - 0.62) / height,
                )
            )
            _draw_cell(axes, row)
        figure.text(0.008, top, task, va="top", fontweight="bold", fontsize=7.5)
        final = run.summary["seeds"][str(here[0]["seed"])]
        if final.get(f"test_auroc_{task}") is not None:
            score = f"test AUROC {final[f'test_auroc_{task}']:.2f}"
            figure.text(0.992, top, score, ha="right", va="top", fontsize=5.8, color=style.MUTED)
        if index:
            figure.add_artist(_rule(top + 0.07 / height))
    _draw_header(figure, columns)
    _draw_footer(figure, run, numbers)
    return figure


def _spread(count: int) -> list[int]:
    """Columns of the molecules between start and target, with gaps in the middle if need be."""
    return (
        [int(column) for column in np.linspace(1, BETWEEN, count).round()]
        if count > 1
        else ([(BETWEEN + 1) // 2] * count)
    )


def _rule(height: float) -> Any:
    from matplotlib.lines import Line2D

    return Line2D([0.008, 0.992], [height, height], color=style.MUTED, linewidth=0.3)


def _draw_cell(axes: Axes, row: dict[str, Any]) -> None:
    draw_molecule(axes, row["smiles"])
    own = "–" if np.isnan(row["own_toxicity"]) else percent(row["own_toxicity"])
    lines = [
        (f"QED {row['qed']:.2f}", "black", "bold"),
        (f"predicted {percent(row['toxicity'])}", "black", "normal"),
    ]
    if row["role"] == "level set":
        lines.append((f"decoded {own}", style.MUTED, "normal"))
    for line, (text, colour, weight) in enumerate(lines):
        axes.annotate(
            text, (0.5, 0), (0, -2 - 8 * line), xycoords="axes fraction",
            textcoords="offset points", ha="center", va="top", fontsize=6.5,
            color=colour, fontweight=weight,
        )  # fmt: skip


def _draw_header(figure: Figure, columns: int) -> None:
    y = 1 - 0.06 / figure.get_figheight()
    texts = ("start", "target")
    for text, place in zip(texts, (0.5, columns - 0.5), strict=True):
        figure.text(place / columns, y, text, ha="center", va="top", fontsize=7.5)
    figure.text(0.5, y, "level set", ha="center", va="top", fontsize=7.5)
    arrow = {"arrowstyle": "->", "color": style.MUTED, "linewidth": 0.6}
    line = 1 - 0.12 / figure.get_figheight()
    for begin, end in ((1.05 / columns, 0.44), (0.56, (columns - 1.05) / columns)):
        figure.axes[0].annotate(
            "", (end, line), (begin, line), xycoords="figure fraction",
            textcoords="figure fraction", arrowprops=arrow, annotation_clip=False,
        )  # fmt: skip


def _draw_footer(figure: Figure, run: Run, numbers: pd.DataFrame) -> None:
    codec = f"{run.config['codec']['name']} codes ({run.summary['codec'][:8]})"
    seed = numbers["seed"].iloc[0]
    lines = [
        f"Walks with the most distinct molecules. {run.summary['dataset']}, {codec}, "
        f"{TITLES[MODEL]}, seed {seed}.",
        "predicted: probability of the label at the point of the walk; decoded: the same for the "
        "code of the decoded molecule.",
    ]
    for line, text in enumerate(lines):
        figure.text(
            0.008, (0.2 - 0.11 * line) / figure.get_figheight(), text,
            color=style.MUTED, fontsize=5.8, va="center",
        )  # fmt: skip


def percent(probability: float) -> str:
    """A probability in percent with two significant digits.

    Example:
        >>> [percent(value) for value in (0.0148, 0.25, 0.0004)]
        ['1.5%', '25%', '0.04%']
    """
    value = 100 * probability
    return f"{value:.2f}%" if value < 0.1 else f"{value:.1f}%" if value < 10 else f"{value:.0f}%"


def draw_molecule(axes: Axes, smiles: str) -> None:
    """Draw a molecule as vector outlines, with RDKit's layout.

    Args:
        axes: is filled; its own frame is hidden.
        smiles: valid.
    """
    from rdkit import Chem
    from rdkit.Chem.Draw import rdMolDraw2D

    width, height = CANVAS
    canvas = rdMolDraw2D.MolDraw2DSVG(width, height)
    options: Any = canvas.drawOptions()  # the stubs of RDKit give its fields a wrong type
    options.clearBackground = False
    options.fixedBondLength = BOND
    options.bondLineWidth = 2
    options.minFontSize = 13
    options.padding = 0.06
    rdMolDraw2D.PrepareAndDrawMolecule(canvas, Chem.MolFromSmiles(smiles))
    canvas.FinishDrawing()
    axes.set_axis_off()
    axes.set_aspect("equal")
    axes.set_xlim(0, width)
    axes.set_ylim(height, 0)
    # Points of the page per pixel of the drawing.
    box = axes.get_position()
    page = axes.figure.get_size_inches()  # type: ignore[union-attr]
    scale = 72 * min(box.width * page[0] / width, box.height * page[1] / height)
    for path in ElementTree.fromstring(canvas.GetDrawingText()).iter(f"{_SVG}path"):
        looks = dict(re.findall(r"([\w-]+):([^;]+)", path.get("style", ""))) | path.attrib
        outline = parse_outline(path.get("d", ""))
        filled = looks.get("fill", "none") != "none"
        axes.add_patch(
            PathPatch(
                outline,
                facecolor=looks["fill"] if filled else "none",
                edgecolor="none" if looks.get("stroke", "none") == "none" else looks["stroke"],
                linewidth=scale * float(looks.get("stroke-width", "1").removesuffix("px")),
                capstyle="round",
                snap=False,  # moved to whole pixels, the arms of a plus sign vanish
                joinstyle="round",
                clip_on=False,
            )
        )


def parse_outline(text: str) -> Outline:
    """The outline that the ``d`` attribute of an SVG path describes (absolute M, L, Q, C, Z).

    Example:
        >>> parse_outline("M 0,0 L 1,2 Z").vertices.tolist()
        [[0.0, 0.0], [1.0, 2.0], [0.0, 0.0]]
    """
    vertices: list[tuple[float, float]] = []
    codes: list[Any] = []
    begin = (0.0, 0.0)
    for command, arguments in re.findall(r"([MLQCZ])([^MLQCZ]*)", text):
        numbers = [float(number) for number in re.findall(r"-?\d+(?:\.\d+)?", arguments)]
        points = list(zip(numbers[::2], numbers[1::2], strict=True))
        if command == "Z":
            points, kinds = [begin], [Outline.CLOSEPOLY]
        else:
            kinds = _CODES[command] * (len(points) // len(_CODES[command]))
        if command == "M":
            begin = points[0]
        vertices += points
        codes += kinds
    return Outline(vertices, codes)
