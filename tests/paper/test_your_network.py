import math

import numpy as np
import pandas as pd
import pytest
import torch

from convexinit import is_convex
from convexinit_paper.experiments.your_network import KINDS, STARTS
from convexinit_paper.experiments.your_network.kinds import Kind
from convexinit_paper.experiments.your_network.trials import (
    TrialSettings,
    draw_data,
    global_random,
    pre_activations,
    try_start,
)
from convexinit_paper.figures.drawings.your_network import DEFAULT, OURS, TARGETS, markdown
from convexinit_paper.request.options import ConfigError
from convexinit_paper.store.runs import COLUMNS
from support.drawn import drawn, table_of
from support.requests import run_task
from support.stored import config_of, store_run

SETTINGS = TrialSettings([], steps=3, learning_rate=3e-3, rows=256, deep_rows=300, images=200)


def built(kind: Kind, depth: int):
    with global_random(0, "network"):
        return kind.build(16, depth)


@pytest.mark.slow
@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.glue])
@pytest.mark.filterwarnings("ignore:.*(no parameter can centre|multiplied by a gate)")
def test_every_network_is_convex_after_training(name, start):
    kind = KINDS[name]
    network = built(kind, 2)
    data = draw_data(kind, 0, "data")
    trial = try_start(kind, network, 2, data, start, SETTINGS, 0)
    assert not trial.refusal
    arguments = kind.view(network, tuple(x[:64] for x in data.test_inputs))
    network.eval().double()
    arguments = tuple(x.detach().double() for x in arguments)
    generator = torch.Generator().manual_seed(0)
    assert is_convex(network, arguments, kind.convex, kind.call, 200, generator)


def test_a_hypernetwork_is_refused():
    kind = KINDS["hypernetwork"]
    data = draw_data(kind, 0, "data")
    trial = try_start(kind, built(kind, 2), 2, data, "init_icnn_", SETTINGS, 0)
    assert "another network" in trial.refusal
    assert not trial.losses


def test_deep_networks_see_more_rows_and_images_are_fewer():
    rows, images = torch.zeros(1000, 3), torch.zeros(1000, 1, 4, 4)
    shown = [len(SETTINGS.seen((x,), depth)[0]) for x in (rows, images) for depth in (5, 6)]
    assert shown == [256, 300, 200, 200]


def test_pre_activations_are_those_of_the_convex_path():
    kind = KINDS["partially_convex"]
    network = built(kind, 2)
    u, y = draw_data(kind, 0, "data").test_inputs
    first, second = pre_activations(kind, network, (u, y))
    expected = network.direct[0](y) + network.shift[0](u)
    torch.testing.assert_close(first, expected.detach().double())
    after = torch.tanh(network.context[0](u))
    gated = expected.relu() * torch.nn.functional.softplus(network.gate[0](after))
    expected = network.convex[0](gated) + network.direct[1](y) + network.shift[1](after)
    torch.testing.assert_close(second, expected.detach().double())


def test_maps_and_stresses_are_gradients_of_their_tasks():
    """Targets of the two tasks on gradients, against numerical differences of a potential."""
    step = 1e-3
    (x,), target = KINDS["material"].task.draw(50, torch.Generator().manual_seed(0))

    def energy(f):
        determinant = torch.linalg.det(f)
        return f.square().sum((1, 2)) / 2 - determinant + 2 * (determinant - 1) ** 2

    for i, j in np.ndindex(2, 2):
        shift = torch.zeros(2, 2, dtype=torch.float64)
        shift[i, j] = step
        slope = (energy(x.double() + shift) - energy(x.double() - shift)) / (2 * step)
        torch.testing.assert_close(slope.float(), target[:, i, j], atol=1e-3, rtol=1e-3)


def test_the_experiment_stores_every_start_and_repeats():
    options = [
        "experiment=your_network", "your_network.kinds=[critic,hypernetwork]", "seeds=1",
        "model.width=16", "your_network.steps=2", "your_network.rows=128",
    ]  # fmt: skip
    outcome = run_task(*options)
    metrics = outcome.metrics
    parts = {split for split in metrics["split"] if split.startswith("critic")}
    assert parts == {f"critic/{depth}/{start}" for depth in (2, 6) for start in STARTS}
    losses = metrics[(metrics["metric"] == "test_loss") & (metrics["split"] == "critic/6/default")]
    assert list(losses["step"]) == [0, 2]
    layers = metrics[(metrics["metric"] == "mean") & (metrics["split"] == "critic/6/init_icnn_")]
    assert list(layers["step"]) == [1, 2, 3, 4, 5, 6]
    assert set(outcome.notes["cost"]) == {"critic/2", "critic/6"}
    assert set(outcome.notes["refused"]) == {"hypernetwork/2", "hypernetwork/6"}
    pd.testing.assert_frame_equal(run_task(*options).metrics, metrics)


def test_kinds_that_are_unknown_are_named():
    with pytest.raises(ConfigError, match=r"your_network\.kinds must be a list of some of softpl"):
        run_task("experiment=your_network", "your_network.kinds=[gru]")


def store(root, losses, signals, cost):
    """A run of one kind; losses by depth and start, moments by depth and start."""
    rows = []
    for (depth, start), values in losses.items():
        split = f"critic/{depth}/{start}"
        rows += [(seed, 0, 250, split, "test_loss", value) for seed, value in enumerate(values)]
        rows += [(seed, 0, 0, split, "test_loss", 7.0) for seed in range(len(values))]
        for layer, (mean, variance) in enumerate(signals[depth, start], 1):
            for seed in range(len(values)):
                rows.append((seed, 0, layer, split, "mean", mean))
                rows.append((seed, 0, layer, split, "variance", variance))
    config = config_of(root, "your_network", "your_network", seeds=[0, 1, 2])
    seeds = {seed: {"status": "finished"} for seed in range(3)}
    notes = {"titles": {"critic": "a critic"}, "cost": {"critic/2": cost, "critic/6": cost}}
    return store_run(config, pd.DataFrame(rows, columns=COLUMNS), seeds, **notes, refused={})


def test_the_table_judges_by_the_targets_and_the_figure_shows_every_seed(tmp_path):
    root, good = tmp_path, [(0.05, 1.1), (-0.05, 0.9)]
    losses = {
        (2, "default"): [1.0, 1.1, 1.2], (2, "glue"): [0.9] * 3, (2, "init_icnn_"): [1.25] * 3,
        (6, "default"): [math.inf] * 3, (6, "glue"): [1e6] * 3, (6, "init_icnn_"): [0.5] * 3,
    }  # fmt: skip
    signals = {
        **{(depth, start): good for depth in (2, 6) for start in ("glue", "init_icnn_")},
        (2, "default"): [(0.0, 1.0), (3.0, 4.0)],
        (6, "default"): [(0.0, 1.0), (3.0, 16.0)],
    }
    store(root, losses, signals, [9.0, 10.0, 12.0])
    table = table_of(root, "your-network")
    assert markdown(table).count("| 10.0 | missed: cost |") == 2
    shallow, deep = table.to_dict("records")
    assert (shallow["kind"], shallow["deep"], deep["deep"]) == ("a critic", False, True)
    assert (shallow[DEFAULT], shallow[OURS], deep[DEFAULT]) == (1.1, 1.25, math.inf)
    assert (shallow["growth"], deep["growth"]) == (2.0, 4.0)
    assert shallow["largest_mean"] == 0.05
    assert [shallow[name] for name in TARGETS] == ["met", "met", "met", "", "missed"]
    assert [deep[name] for name in TARGETS] == ["met", "met", "met", "met", "missed"]
    figure = drawn(root, "your-network")
    marks = [line.get_marker() for line in figure.axes[1].get_lines() if len(line.get_xdata()) < 4]
    assert marks.count("^") == 2  # the default and the glue at the border
    assert all(axes.get_ylim()[0] < 0.5 for axes in figure.axes)
    points = [line for line in figure.axes[0].get_lines() if line.get_marker() in "osD"]
    assert all(len(line.get_xdata()) == 3 for line in points)
    assert len(points) == 3
