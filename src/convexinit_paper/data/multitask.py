"""Molecules with many binary labels, some of them missing."""

from dataclasses import dataclass, field

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
