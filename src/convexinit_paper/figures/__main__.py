"""Draw the figures and tables from stored runs: ``python -m convexinit_paper.figures --help``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from convexinit_paper import demo
from convexinit_paper.figures import style
from convexinit_paper.figures.catalogue import FIGURES, Figure
from convexinit_paper.figures.select import Selection
from convexinit_paper.figures.text import counted
from convexinit_paper.figures.variants import title_of
from convexinit_paper.request.paths import path_argument
from convexinit_paper.request.process import begin_command
from convexinit_paper.store.errors import RunError
from convexinit_paper.store.runs import Run, read_runs

# Where figures and tables of other runs than these go: what is committed stays what it is.
DRAWN = "drawn"
# Where runs are read from, and where figures and tables go.
FOLDERS = {
    "paper": (Path("results/recorded"), Path("results")),
    "demo": (demo.RESULTS / "runs", demo.RESULTS),
}
EPILOG = """\
Each figure NAME becomes OUT/figures/NAME.pdf, .png and OUT/tables/NAME.csv, the numbers in it;
a table becomes OUT/tables/NAME.csv and .md; table-1 also .tex, and its sign tests in two files.
claims becomes OUT/claims.md and .csv: the paper's claims, checked on the stored runs.
What is missing is printed with the command that produces it; such runs go to results/runs, and
what is drawn of them to results/drawn:
  python -m convexinit_paper.figures --runs results/runs

Which runs are used: those made with exactly the options that the figure's protocol fixes (model,
batch size, learning rate, ...). The variants in a panel share all other options too (seeds, epochs,
device, ...), but for those that a search chose for each variant (figure-3, figure-11). Of several
such sets, the one with the most variants is drawn, then the one with the most seeds x epochs, then
the one of the highest precision. The runs used are printed.
"""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    result = argparse.ArgumentParser(
        prog="python -m convexinit_paper.figures",
        description="Draw figures and their tables from stored runs.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"figures to draw: {', '.join(FIGURES)} (default: all that have runs)",
    )
    result.add_argument(
        "--scale",
        choices=FOLDERS,
        default="paper",
        help="demo: only what trains on built-in data; paper: all panels (default)",
    )
    result.add_argument(
        "--runs",
        type=path_argument,
        metavar="FOLDER",
        help="holds one folder of runs per experiment (default: "
        + ", ".join(f"{runs} at scale {scale}" for scale, (runs, _) in FOLDERS.items())
        + ")",
    )
    result.add_argument(
        "--out",
        type=path_argument,
        metavar="FOLDER",
        help="where figures/ and tables/ are written (default: "
        + ", ".join(f"{out} at scale {scale}" for scale, (_, out) in FOLDERS.items())
        + f"; with --runs the folder {DRAWN} beside that one)",
    )
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; exits with code 1 and one message if nothing asked for can be drawn."""
    command_line = parser()
    options = command_line.parse_args(arguments)
    for name in options.names:
        if name not in FIGURES:
            command_line.error(f"unknown figure {name!r}; choose from {', '.join(FIGURES)}")
    root, out = FOLDERS[options.scale]
    if options.runs not in (None, root):
        root, out = options.runs, options.runs.parent / DRAWN
    out = options.out or out
    drawn: dict[str, bool] = {}
    reported: set[str] = set()
    failures: dict[str, list[str]] = {}
    try:
        runs = read_runs(root)
        for name in options.names or FIGURES:
            try:
                drawn[name] = draw(FIGURES[name], runs, options.scale, root, out, reported)
            except RunError as error:
                failures.setdefault(str(error), []).append(name)
    except RunError as error:
        sys.exit("error: " + str(error).replace("with results_dir=...", "with --runs"))
    except OSError as error:  # of a full disk without the name of a file
        place, reason = error.filename or out, error.strerror or error
        sys.exit(f"error: {place}: {reason}\n--out chooses another folder.")
    if failures:
        sys.exit(_told(failures))
    if not drawn or not (all if options.names else any)(drawn.values()):
        undrawn = ", ".join(name for name, done in drawn.items() if not done)
        sys.exit(
            f"error: no runs for {undrawn} in {root}{_state(root)}. Run the commands above, or "
            "choose another folder with --runs."
        )


def _told(failures: dict[str, list[str]]) -> str:
    """The first message, and for which figures there are others.

    Args:
        failures: names of figures by message.
    """
    first, *others = failures.items()
    message, names = first
    text = f"error: {', '.join(names)}: {message}"
    if others:
        rest = ", ".join(name for _, names in others for name in names)
        text += f"\nAnother error is in each of {rest}; drawn alone they show it."
    return text


def _state(root: Path) -> str:
    """What may be wrong with a folder in which no runs were found, as the end of a phrase."""
    if not root.is_dir():
        return ", which is no folder" if root.exists() else ", which does not exist"
    return f" (there are some in {root / 'runs'})" if (root / "runs").is_dir() else ""


def draw(
    figure: Figure, runs: Sequence[Run], scale: str, root: Path, out: Path, reported: set[str]
) -> bool:
    """Draw one figure and write its tables; report what was used, written and missing.

    Args:
        figure: of the catalogue.
        runs: all stored runs.
        scale: "paper" or "demo".
        root: the folder that the runs were read from.
        out: the folder for ``figures/`` and ``tables/``.
        reported: what was said for other figures, which is not said again.

    Returns:
        Whether there was anything to draw.
    """
    name = figure.name
    selections = figure.selections(scale, runs)
    for selection in selections:
        for line in report(selection, root):
            if line not in reported:
                print(f"{name}: {line}")
                reported.add(line)
    if not any(map(figure.is_shown, selections)):
        return False
    numbers = figure.table(selections)
    contents: dict[str, str | pd.DataFrame] = {".csv": numbers}
    if figure.markdown is not None:
        contents[".md"] = figure.markdown(numbers)
    if figure.more_files is not None:
        contents |= figure.more_files(selections, numbers)
    files = [
        style.save_table(content, out / figure.folder / f"{name}{end}")
        for end, content in contents.items()
    ]
    if figure.draw is not None:
        with style.paper():
            files += style.save(figure.draw(selections, numbers), out / "figures" / name)
    for path in files:
        print(f"{name}: wrote {path}")
    return True


def report(selection: Selection, root: Path) -> list[str]:
    """Lines that say which runs a panel uses, which are missing, and how to produce those.

    Args:
        selection: the runs of the panel.
        root: the folder that runs were read from.
    """
    title = selection.panel.title
    lines = []
    if selection.runs:
        extent = counted(len(selection.common["seeds"]), "seed")
        if "trainer.epochs" in selection.common:
            extent += f" x {counted(selection.common['trainer.epochs'], 'epoch')}"
        folders = ", ".join(run.folder.name for run in selection.runs.values())
        lines.append(f"{title}: {extent}; runs {folders}")
    for part in selection.incomplete:
        missing = ", ".join(map(title_of, part.missing))
        lines.append(f"{part.panel.title}: missing {missing}")
        lines += [
            f"  stored, but not of this set: {run.folder.name} ({difference})"
            for run, difference in part.unused
        ]
        lines += [f"  to produce: {command}" for command in part.commands(root)]
    return lines


if __name__ == "__main__":
    begin_command()
    main()
