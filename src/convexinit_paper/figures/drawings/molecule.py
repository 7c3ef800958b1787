"""Molecules as vector outlines."""

from __future__ import annotations

import re
from typing import Any
from xml.etree import ElementTree

from matplotlib.axes import Axes
from matplotlib.patches import PathPatch
from matplotlib.path import Path as Outline

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
