"""The table of all data sets: their titles, numbers of classes, readers and addresses by name."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import TypeVar

from convexinit_paper.data import sources
from convexinit_paper.data.sources import Source

Kind = TypeVar("Kind", bound=Source)


def find_data_sets() -> dict[str, Source]:
    """The entries ``DATA_SETS`` of all modules of :mod:`convexinit_paper.data.sources`."""
    found: dict[str, Source] = {}
    for module in iter_modules(sources.__path__, f"{sources.__name__}."):
        found |= import_module(module.name).DATA_SETS
    return found


DATA_SETS = find_data_sets()


def find_source(kind: type[Kind], name: str) -> Kind:
    """The data set of this kind and name.

    Raises:
        ValueError: there is none; names those that there are.

    Example:
        >>> find_source(Source, "cifar100").classes
        100
    """
    known = {key: source for key, source in DATA_SETS.items() if isinstance(source, kind)}
    if name not in known:
        raise ValueError(f"unknown {kind.KIND} data set {name!r}; known: {', '.join(known)}")
    return known[name]
