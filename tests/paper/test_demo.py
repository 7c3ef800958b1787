"""The demo trains what its figures draw."""

import pytest

from convexinit_paper import demo
from convexinit_paper.figures.catalogue import CATALOGUE
from convexinit_paper.request.config import composed
from convexinit_paper.store.matching import flatten
from convexinit_paper.sweeps.grid_search import grid_cells


@pytest.fixture(scope="module")
def runs():
    """The configurations of all runs that the demo asks for, but for cells of the grid."""
    requests = [training.arguments() for training in demo.TRAININGS]
    assert all(request[0] == "-m" for request in requests)
    return [
        composed(*(word for word in request[1:] if not word.startswith("model=")), f"model={model}")
        for training, request in zip(demo.TRAININGS, requests, strict=True)
        for model in training.models
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    "figure", [figure for figure in CATALOGUE if figure.demo], ids=lambda figure: figure.name
)
def test_the_demo_makes_every_run_that_its_figures_draw(figure, runs):
    for panel in figure.demo:
        for variant in panel.variants:
            wanted = panel.wanted(variant)
            assert any(
                wanted.is_kind_of(config) and wanted.fits(flatten(config)) for config in runs
            ), (panel.title, variant)


def test_the_demo_draws_from_every_experiment_that_it_trains():
    drawn = {panel.experiment for figure in CATALOGUE for panel in figure.demo}
    assert drawn == {training.experiment for training in demo.TRAININGS}
    assert grid_cells(demo.GRID)
