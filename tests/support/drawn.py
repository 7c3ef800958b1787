"""Figures of the catalogue, drawn from the runs of a test."""

from convexinit_paper.figures.catalogue import FIGURES
from convexinit_paper.store.runs import read_runs


def selected(root, name, scale="paper"):
    """Selections of a figure of the catalogue."""
    return FIGURES[name].selections(scale, read_runs(root / "runs"))


def table_of(root, name, scale="paper"):
    """Its numbers."""
    return FIGURES[name].table(selected(root, name, scale))


def drawn(root, name, scale="paper"):
    """Its drawing."""
    selections = selected(root, name, scale)
    return FIGURES[name].draw(selections, FIGURES[name].table(selections))


def words_in(figure):
    """Everything that is written in a drawing."""
    return [artist.get_text() for artist in figure.findobj(lambda a: hasattr(a, "get_text"))]
