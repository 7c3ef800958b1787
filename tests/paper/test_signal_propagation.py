import math

import numpy as np
import pytest

from convexinit.layers import ConvexLinear
from convexinit_paper.experiments import run_experiment
from convexinit_paper.experiments.signal_propagation import (
    SignalSettings,
    layer_moments,
    measure,
    moments_of_mapped_normal,
    pictures,
    predict,
    propagate_samples,
)
from convexinit_paper.request.config import composed
from convexinit_paper.store.runs import COLUMNS, read_run
from convexinit_paper.training.models import build_network
from convexinit_paper.training.randomness import seeded_generator
from support.requests import model_settings, run_task

SMALL = ("signal.widths=[20,30,25,120]", "signal.samples=50", "signal.bins=10", "seeds=2")


def run(*overrides):
    return run_task("experiment=signal_propagation", "model=icnn", *SMALL, *overrides)


def ensemble(model, widths, samples, seeds):
    """Means and standard errors of what the theory predicts, over networks as well as inputs.

    A network's own mean differs from the expectation; Var[mean] is what the pooled variance and
    covariance of single networks lack.
    """
    settings = SignalSettings(widths, samples, bins=10)
    measured = [
        [measure(signal) for signal in propagate_samples(model, settings, seed)]
        for seed in range(seeds)
    ]
    layers = []
    for layer in range(len(widths) - 1):
        mean = np.array([network[layer]["mean"] for network in measured])
        variance = np.array([network[layer]["variance"] for network in measured])
        covariance = variance * np.array([network[layer]["correlation"] for network in measured])
        own = (mean - mean.mean()) ** 2 * seeds / (seeds - 1)
        layers.append(
            {
                name: (values.mean(), values.std(ddof=1) / math.sqrt(seeds))
                for name, values in (
                    ("mean", mean),
                    ("variance", variance + own),
                    ("covariance", covariance + own),
                )
            }
        )
    return layers


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        ["model=nonconvex"],
        ["model=icnn"],
        ["model=icnn_skip"],
        ["model=icnn", "model.positivity=softplus"],
        ["model=icnn", "model.init=bias_only"],
        # A high correlation and a small fan-in keep the log-normal's tails light enough to sample.
        ["model=icnn_init", "model.rho=0.9"],
        [
            "model=icnn_init",
            "model.rho=0.9",
            "model.bias_noise=0.5",
            "model.variance=2.0",
            "model.positivity=exp",
        ],
    ],
)
def test_prediction_agrees_with_wide_networks(overrides):
    # The first layer is Gaussian only if the inputs outnumber its units: |x|^2 / n is then 1.
    fan_in = 60 if "model=icnn_init" in overrides else 250
    widths = [4000, fan_in, 600]
    model = model_settings(*overrides)
    predicted = predict(model, widths)
    assert len(predicted) == 2
    for layer, moments in zip(ensemble(model, widths, 256, 12), predicted, strict=True):
        for quantity, (value, error) in layer.items():
            expected = getattr(moments, quantity)
            # Leaves room for the 4000 inputs not being infinitely many.
            assert abs(value - expected) < 4 * error + 0.01 * abs(moments.variance), quantity


def test_deep_icnn_stays_predictable():
    # From layer 3 on, no unit of the default ICNN is ever negative, and ReLU does nothing.
    widths = [6000, 300, 300, 300, 300]
    model = model_settings("model=icnn")
    measured, predicted = ensemble(model, widths, 256, 12), predict(model, widths)
    mean, error = measured[3]["mean"]
    assert abs(mean - predicted[3].mean) < 4 * error
    assert measured[3]["variance"][0] == pytest.approx(predicted[3].variance, rel=0.15)
    assert predicted[3].mean > 100  # the default explodes


def test_principled_fixed_point_is_not_reached_from_uncorrelated_features():
    # LeCun's first layer has correlation 0, not rho; the theory itself says what comes of it.
    moments = predict(model_settings("model=icnn_init"), [200, 400, 300, 400, 100])
    assert [round(m.variance, 2) for m in moments] == [1.0, 0.5, 0.26, 0.06]
    assert moments[3].correlation < 0.05


def test_pooled_statistics_against_brute_force():
    rng = np.random.default_rng(0)
    signal = 100 + rng.normal(size=(40, 7)) + 3 * rng.normal(size=(40, 1)) + np.arange(7)
    mean, variance = np.mean(signal), np.var(signal)
    pairs = [(i, j) for i in range(7) for j in range(7) if i != j]
    products = [np.mean(signal[:, i] * signal[:, j]) for i, j in pairs]
    pearson = [np.corrcoef(signal[:, i], signal[:, j])[0, 1] for i, j in pairs]
    measured = measure(signal)
    assert measured["mean"] == pytest.approx(mean)
    assert measured["variance"] == pytest.approx(variance)
    assert measured["correlation"] == pytest.approx((np.mean(products) - mean**2) / variance)
    assert measured["pearson"] == pytest.approx(np.mean(pearson))
    assert measured["correlation"] != pytest.approx(measured["pearson"], abs=0.01)


def test_units_that_never_vary_have_no_correlation():
    assert math.isnan(measure(np.ones((5, 3)))["correlation"])
    assert math.isnan(measure(np.array([[1.0, 2.0], [1.0, 3.0]]))["pearson"])


@pytest.mark.parametrize("positivity", ["projection", "clip"])
def test_clipped_normal_in_closed_form(positivity):
    mean, variance = moments_of_mapped_normal(positivity, 0.02)
    assert mean == pytest.approx(math.sqrt(0.02 / (2 * math.pi)))
    assert variance + mean**2 == pytest.approx(0.01)


@pytest.mark.parametrize(
    "overrides",
    [
        ["model=nonconvex"],
        *(
            ["model=icnn", f"model.positivity={positivity}"]
            for positivity in ("projection", "clip", "exp", "neg_exp", "square", "softplus")
        ),
        ["model=icnn", "model.init=bias_only"],
        ["model=icnn_init", "model.rho=0.9", "model.bias_noise=0.3"],
        ["model=icnn_init", "model.rho=0.9", "model.positivity=square"],
    ],
)
def test_layer_moments_are_those_of_the_weights_drawn(overrides):
    model = model_settings(*overrides)
    network = build_network(model, [10, 10, 40_000], seeded_generator(0, "weights"))
    layer = network.layers[1]
    weights = layer.nonnegative_weight if isinstance(layer, ConvexLinear) else layer.weight
    weights, biases = weights.detach().double(), layer.bias.detach().double()
    moments = layer_moments(model, 10)
    scale = math.sqrt(moments.weight_var)
    assert float(weights.mean()) == pytest.approx(moments.weight_mean, abs=0.01 * scale)
    assert float(weights.var()) == pytest.approx(moments.weight_var, rel=0.03)
    bias_scale = math.sqrt(moments.bias_var)
    assert float(biases.mean()) == pytest.approx(moments.bias_mean, abs=0.03 * bias_scale + 1e-6)
    assert float(biases.var()) == pytest.approx(moments.bias_var, rel=0.03, abs=1e-9)


def test_no_prediction_for_biases_that_depend_on_the_weights():
    assert predict(model_settings("model=icnn_init", "model.bias_rule=centred"), [10, 20, 20]) == []
    outcome = run("model=icnn_init", "model.bias_rule=centred")
    assert set(outcome.metrics["split"]) == {"measured"}


def test_table_and_pictures():
    outcome = run()
    table = outcome.metrics
    assert list(table.columns) == COLUMNS
    assert set(table["step"]) == {1, 2, 3}
    assert set(table["epoch"]) == {0}
    # per seed and layer: four measured and three predicted numbers
    assert table.groupby(["seed", "step", "split"]).size().unique().tolist() == [4, 3]
    assert outcome.seeds == {0: {"status": "finished"}, 1: {"status": "finished"}}
    matrix = outcome.arrays["correlations_3"]
    assert matrix.shape == (100, 100)
    assert matrix.dtype == np.float16
    assert outcome.arrays["correlations_1"].shape == (30, 30)
    assert outcome.arrays["edges_2"].shape == (11,)
    first_signals = propagate_samples(
        model_settings("model=icnn"), SignalSettings([20, 30, 25, 120], 50, 10), 0
    )
    counts, _ = np.histogram(first_signals[1], outcome.arrays["edges_2"])
    np.testing.assert_array_equal(counts, outcome.arrays["histogram_2"])
    assert counts.sum() > 0.98 * first_signals[1].size


def test_seeds_do_not_influence_each_other():
    both, alone = run("seeds=[0,7]").metrics, run("seeds=[7]").metrics
    of_seven = both[both["seed"] == 7].reset_index(drop=True)
    np.testing.assert_array_equal(of_seven["value"], alone["value"])
    of_zero = both[both["seed"] == 0].reset_index(drop=True)
    assert not np.array_equal(of_zero["value"], alone["value"])


def test_explosion_is_recorded_as_divergence():
    outcome = run("model.activation=exp", "signal.widths=[50,200,200,200,200]")
    assert {seed["status"] for seed in outcome.seeds.values()} == {"diverged"}
    assert "histogram_1" in outcome.arrays
    predicted = outcome.metrics[outcome.metrics["split"] == "predicted"]
    assert predicted["step"].max() < 4  # the last layer has no moments


def test_pictures_of_a_constant_layer():
    arrays = pictures([np.ones((4, 3))], bins=5)
    assert arrays["histogram_1"].sum() == 12
    assert np.isnan(arrays["correlations_1"]).all()


def test_whole_experiment_from_the_command_line_options(tmp_path):
    folder = run_experiment(
        composed(
            "experiment=signal_propagation", "model=icnn_skip", "seeds=1", "signal.samples=20",
            "signal.widths=[10,20,5]", f"results_dir={tmp_path}",
        )
    )  # fmt: skip
    stored = read_run(folder)
    assert folder.parent == tmp_path / "runs" / "signal_propagation"
    assert set(stored.metrics["step"]) == {1, 2}
    assert stored.arrays["correlations_2"].shape == (5, 5)
