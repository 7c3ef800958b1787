"""Names, titles and sizes of the data sets: the one place where they stand."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DataSet:
    """What is known of a data set before it is read.

    Attributes:
        title: name in figures and tables.
        classes: number of classes; None if its labels are no classes.
    """

    title: str
    classes: int | None = None


DATA_SETS = {
    "digits": DataSet("digits", 10),
    "mnist": DataSet("MNIST", 10),
    "fashion_mnist": DataSet("Fashion-MNIST", 10),
    "cifar10": DataSet("CIFAR-10", 10),
    "cifar10_jpeg": DataSet("CIFAR-10 (JPEG copy)", 10),
    "cifar100": DataSet("CIFAR-100", 100),
    "tox21": DataSet("Tox21"),
    "structural_alerts": DataSet("structural alerts"),
}
