"""The table of seeds that never learn."""

import math
from pathlib import Path

import pytest

from convexinit_paper.figures.panels import FAILURES
from convexinit_paper.figures.select import Selection
from convexinit_paper.figures.tables.failures import markdown, table
from convexinit_paper.store.runs import Run


def run_with(losses, dataset="digits"):
    seeds = {
        str(seed): {"train_loss": loss, "validation_loss": 0, "test_loss": 0, "test_accuracy": 0}
        for seed, loss in enumerate(losses)
    }
    config = {"dataset": {"name": dataset}, "trainer": {"epochs": 15}}
    return Run(Path("run"), config, {"seeds": seeds})


@pytest.mark.parametrize(
    ("losses", "failed"),
    [([0.01, 1.9], 0), ([0.01, 2.2], 1), ([math.log(10), 300.0], 2), ([None, 0.01], 1)],
)
def test_seeds_near_the_loss_of_guessing_and_diverged_ones_are_counted(losses, failed):
    selection = Selection(FAILURES[0], {"icnn_init": run_with(losses)}, {}, [])
    numbers = table([selection])
    assert numbers["failed"].tolist() == [failed]
    assert f"| {failed} of 2 |" in markdown(numbers)


def test_what_was_not_run_is_named():
    first, second = (
        Selection(panel, {name: run_with([0.1]) for name in names}, {}, [])
        for panel, names in zip(
            FAILURES, [("icnn_init", "icnn_orthogonal"), ("icnn_init",)], strict=False
        )
    )
    text = markdown(table([first, second]))
    assert "| digits, 5 hidden layers | 15 | 0 of 1 | not run |" in text
