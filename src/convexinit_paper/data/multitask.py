"""Molecules with many binary labels, some of them missing: raw files in, SMILES and labels out.

To add a data set, write one function ``(data_dir) -> MultitaskData`` in a module of its own and
name it in ``_LOADERS``.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np


@dataclass(frozen=True)
class MoleculeSet:
    """One split of a data set. A sample is one row; a molecule may have several samples.

    Attributes:
        smiles: one string a sample, as the source gives it: not standardised, and the empty string
            where the source's own record of the molecule cannot be read.
        sample_ids: one name a sample, distinct within the split.
        labels: float32 [n, tasks]: 0, 1, or NaN where the label is missing.
    """

    smiles: list[str]
    sample_ids: list[str]
    labels: np.ndarray

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.smiles)


@dataclass(frozen=True)
class MultitaskData:
    """A data set in its fixed splits.

    Attributes:
        title: the name used in tables and figures, e.g. "Tox21".
        tasks: names of the columns of the labels.
        train: the samples to train on.
        validation: the samples to select hyper-parameters on.
        test: the samples to report results on.
        notes: what is worth recording with a run, e.g. which files were read and how many labels
            contradicted each other.
    """

    title: str
    tasks: tuple[str, ...]
    train: MoleculeSet
    validation: MoleculeSet
    test: MoleculeSet
    notes: dict[str, int | str] = field(default_factory=dict)


def load_multitask(name: str, data_dir: str | Path) -> MultitaskData:
    """Read a data set into memory.

    Args:
        name: "tox21", or "structural_alerts" (built in, needs no files).
        data_dir: folder that holds the raw files; it is only read, and may be read-only.

    Raises:
        ValueError: there is no data set of that name.
        DataError: a file is missing or damaged.

    Example:
        >>> data = load_multitask("structural_alerts", "not needed")
        >>> data.train.labels.shape == (len(data.train.smiles), len(data.tasks))
        True
    """
    if name not in _LOADERS:
        raise ValueError(f"unknown multi-task data set {name!r}; known: {', '.join(_LOADERS)}")
    return _LOADERS[name](Path(data_dir).expanduser())


# The modules below import the classes above, and are imported only when their data are asked for.


def _load_tox21(data_dir: Path) -> MultitaskData:
    from convexinit_paper.data.tox21 import load_tox21

    return load_tox21(data_dir)


def _load_structural_alerts(data_dir: Path) -> MultitaskData:
    from convexinit_paper.data.structural_alerts import load_structural_alerts

    return load_structural_alerts()


_LOADERS: dict[str, Callable[[Path], MultitaskData]] = {
    "tox21": _load_tox21,
    "structural_alerts": _load_structural_alerts,
}
