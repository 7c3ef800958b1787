"""Model variants of the experiments: what is built from options, and what is refused."""

import pandas as pd
import pytest
import torch

from convexinit.networks import CNN, MLP
from convexinit.positivity import POSITIVITY, Positivity
from convexinit_paper.data.datasets import dataset_settings, load_dataset
from convexinit_paper.request.config import composed, parse_section
from convexinit_paper.request.options import ConfigError
from convexinit_paper.training import memory
from convexinit_paper.training.loop import Split
from convexinit_paper.training.models import (
    build_network,
    build_stack,
    count_parameters,
    initial_batches,
)
from convexinit_paper.training.randomness import seeded_generator
from convexinit_paper.training.settings import TrainerSettings
from support.requests import model_settings, run_task

WIDTHS = [12, 20, 20, 3]


def split_of(seeds, rows=50):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(80, 12, generator=generator)
    orders = [torch.randperm(80, generator=seeded_generator(seed, "split")) for seed in seeds]
    return Split(inputs, torch.zeros(80, dtype=torch.long), torch.stack(orders)[:, :rows])


def parameters_of(network):
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["model.num_hidden=0"], "model.num_hidden must be at least 1 where model.widths is null"),
        (
            ["model.widths=[10]"],
            "model.num_hidden must be null where model.widths is given",
        ),
        (
            ["model.widths=[10]", "model.num_hidden=null", "model.width=3"],
            "model.width must be null where model.widths is given",
        ),
        (["model.widths=[10,ten]"], r"model.widths\[1\]"),
        (
            ["model.init=bias_only", "model.bias_rule=centred"],
            "model.bias_rule must be sampled where model.init=bias_only",
        ),
        (
            ["model=nonconvex", "model.init=lsuv"],
            "model.init must be he or orthogonal where model.convex=false",
        ),
        (
            ["model=nonconvex", "model.difference=true"],
            "model.difference must be false where model.convex=false",
        ),
        (
            ["model=icnn_skip", "network@model=convolutional"],
            "model.skip must be false where model.architecture=convolutional",
        ),
        (
            ["network@model=convolutional", "model.width=null"],
            "model.width must be a number of channels where model.architecture=convolutional",
        ),
    ],
)
def test_options_that_exclude_each_other_are_named(overrides, message):
    with pytest.raises(ConfigError, match=message):
        model_settings(*overrides)


def test_a_map_in_the_table_that_gives_negative_weights_is_refused(monkeypatch):
    monkeypatch.setitem(POSITIVITY, "exp", Positivity("exp", torch.sin, torch.asin))
    with pytest.raises(ConfigError, match=r"^model\.positivity 'exp' gives negative weights"):
        model_settings("model.positivity=exp")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["network@model=convolutional"], "model.architecture must be fully_connected where"),
        (["model=icnn_lsuv"], "model.init=lsuv needs inputs"),
    ],
)
def test_a_network_without_images_or_inputs_is_refused(overrides, message):
    with pytest.raises(ConfigError, match=message):
        build_network(model_settings(*overrides), WIDTHS, seeded_generator(0, "weights"))


def test_inputs_on_which_lsuv_fails_are_refused():
    settings = model_settings("model=icnn_lsuv", "model.bias_rule=centred")
    with pytest.raises(ConfigError, match=r"model.init=lsuv: .*variance 0"):
        build_network(settings, WIDTHS, seeded_generator(0, "weights"), inputs=torch.ones(4, 12))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["experiment=signal_propagation", "network@model=convolutional"],
            "model.architecture must be fully_connected where",
        ),
        (
            ["experiment=signal_propagation", "model=icnn_difference"],
            "model.difference must be false in this experiment",
        ),
        (
            ["experiment=tox21", "network@model=convolutional"],
            "model.architecture must be fully_connected where",
        ),
    ],
)
def test_what_an_experiment_cannot_do_is_refused(overrides, message):
    with pytest.raises(ConfigError, match=message):
        run_task(*overrides)


def test_a_difference_has_two_draws_and_twice_the_parameters():
    generator = seeded_generator(0, "weights")
    difference = build_network(model_settings("model=icnn_difference"), WIDTHS, generator)
    alone = build_network(model_settings("model=icnn_init"), WIDTHS, seeded_generator(0, "weights"))
    assert parameters_of(difference) == 2 * parameters_of(alone)
    for a, b in zip(difference.minuend.parameters(), alone.parameters(), strict=True):
        assert torch.equal(a, b)
    first, second = (part.layers[1].weight for part in difference.children())
    assert not torch.equal(first, second)


def test_convolutional_networks_take_the_shape_of_the_images():
    settings = model_settings("network@model=convolutional", "model.width=6", "model.num_hidden=3")
    network = build_network(
        settings, settings.layer_widths(2 * 4 * 5, 7), seeded_generator(0, "weights"),
        image_shape=(2, 4, 5),
    )  # fmt: skip
    assert isinstance(network, CNN)
    assert [layer.weight.shape[:2] for layer in network.layers] == [(6, 2), (6, 6), (6, 6), (7, 12)]


def test_initial_batches_are_training_rows_of_their_seed_alone():
    seeds = [3, 5]
    training = split_of(seeds)
    batches = initial_batches(training, seeds, 16)
    assert batches.shape == (2, 16, 12)
    assert torch.equal(batches[1], initial_batches(split_of([5]), [5], 16)[0])
    assert initial_batches(training, seeds, 1000).shape == (2, 50, 12)
    for batch, rows in zip(batches, training.rows, strict=True):
        known = {tuple(row) for row in training.inputs[rows].tolist()}
        drawn = {tuple(row) for row in batch.tolist()}
        assert drawn <= known
        assert len(drawn) == 16


@pytest.mark.parametrize("model", ["icnn_lsuv", "icnn_init_lsuv"])
def test_lsuv_normalises_every_network_of_a_stack_on_its_own_batch(model):
    seeds = [0, 4]
    batches = initial_batches(split_of(seeds), seeds, 32)
    settings = model_settings(f"model={model}", "model.variance=0.5")
    stack = build_stack(settings, WIDTHS, seeds, 0.5, 0.5, batches=batches)
    assert isinstance(stack, MLP)
    assert stack.training
    for signal in stack.eval().pre_activations(batches):
        assert torch.allclose(signal.mean((1, 2)), torch.zeros(2), atol=1e-3)
        assert torch.allclose(signal.var((1, 2), correction=0), torch.full((2,), 0.5), rtol=1e-3)


@pytest.mark.parametrize(
    "overrides",
    [
        ["model=icnn_lsuv"],
        ["model=icnn_difference"],
        ["network@model=convolutional", "model=icnn_init", "model.width=8"],
        *(
            pytest.param(overrides, marks=pytest.mark.slow)
            for overrides in (
                ["model=icnn_init_lsuv", "model.bias_rule=centred"],
                ["network@model=convolutional", "model=nonconvex", "model.width=8"],
                ["network@model=convolutional", "model=icnn", "model.width=8"],
                ["network@model=convolutional", "model=icnn_lsuv", "model.width=8"],
                ["network@model=convolutional", "model=icnn_difference", "model.width=8"],
            )
        ),
    ],
)
def test_a_run_learns_and_a_seed_does_not_depend_on_its_neighbours(overrides):
    def metrics(seeds):
        return run_task(
            "experiment=digits", *overrides, "model.num_hidden=2", f"seeds={seeds}",
            "trainer.epochs=2", "trainer.learning_rate=3e-3", "trainer.device=cpu",
        ).metrics  # fmt: skip

    together, alone = metrics([0, 1]), metrics([1])
    together = together[together["seed"] == 1].reset_index(drop=True)
    pd.testing.assert_frame_equal(together, alone, atol=1e-3)
    losses = alone[alone["metric"] == "batch_loss"]["value"]
    assert losses.tail(5).mean() < losses.head(5).mean()


def test_the_convolutional_experiment_is_that_of_mnist_with_another_network():
    plain, convolutional = (
        composed(f"experiment={name}", "model=icnn_init")
        for name in ("mnist", "mnist_convolutional")
    )
    assert convolutional["model"].pop("architecture") == "convolutional"
    assert plain["model"].pop("architecture") == "fully_connected"
    for option in ("num_hidden", "width"):
        plain["model"].pop(option), convolutional["model"].pop(option)
    assert {**plain, "name": "mnist_convolutional"} == convolutional


def test_signals_of_lsuv_are_measured_without_prediction():
    metrics = run_task("experiment=signal_propagation", "model=icnn_lsuv", "seeds=1").metrics
    assert set(metrics["split"]) == {"measured"}
    variance = metrics[metrics["metric"] == "variance"]["value"]
    assert variance.between(0.8, 1.25).all()
    correlation = metrics[metrics["metric"] == "correlation"]["value"]
    assert correlation.iloc[-1] > 0.9


@pytest.mark.parametrize("model", ["icnn_orthogonal", "nonconvex_orthogonal"])
def test_signals_of_orthogonal_weights_are_measured_without_prediction(model):
    metrics = run_task("experiment=signal_propagation", f"model={model}", "seeds=1").metrics
    assert set(metrics["split"]) == {"measured"}


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", "softplus"])
def test_orthogonal_weights_of_any_sign_keep_the_second_moment(activation):
    network = build_network(
        model_settings("model=nonconvex_orthogonal", f"model.activation={activation}"),
        [256] * 8,
        seeded_generator(0, "weights"),
    )
    inputs = torch.randn(500, 256, generator=torch.Generator().manual_seed(0))
    for layer in network.layers[1:]:
        product = layer.weight @ layer.weight.T
        assert torch.allclose(product, product[0, 0] * torch.eye(256), atol=1e-4)
    for signal in network.pre_activations(inputs):
        assert signal.square().mean().item() == pytest.approx(1.0, rel=0.15)


def test_orthogonal_starts_have_their_own_step_sizes_unless_told_otherwise():
    def resolved(model, step_sizes):
        config = composed(f"model={model}", f"trainer.step_sizes={step_sizes}")
        trainer = parse_section(TrainerSettings, config["trainer"], "trainer")
        return trainer.for_initialisation(config["model"]["init"]).step_sizes

    assert resolved("icnn_init", "auto") == "equal"
    assert resolved("icnn_orthogonal", "auto") == "by_layer"
    assert resolved("nonconvex_orthogonal", "auto") == "by_layer"
    assert resolved("icnn_init", "by_layer") == "by_layer"
    assert resolved("icnn_orthogonal", "equal") == "equal"


@pytest.mark.parametrize("network", ["fully_connected", "convolutional"])
def test_signals_at_the_start_of_the_experiment_depth(network):
    """Against gradients of one network alone."""
    overrides = [
        "experiment=depth", f"network@model={network}", "model=icnn_orthogonal",
        "model.num_hidden=4", "model.width=12", "trainer.epochs=1", "seeds=[3]",
    ]  # fmt: skip
    metrics = run_task(*overrides).metrics.query("split == 'initial'")
    data = load_dataset(dataset_settings(composed(*overrides)["dataset"]), "none", "none")
    settings = model_settings(*overrides)
    widths = settings.layer_widths(64, 10)
    alone = build_network(settings, widths, seeded_generator(3, "weights"), image_shape=(1, 8, 8))
    inputs, labels = data.train_inputs[:512], data.train_labels[:512]
    torch.nn.functional.cross_entropy(alone(inputs), labels).backward()
    signals = alone.pre_activations(inputs)
    for number, (layer, signal) in enumerate(zip(alone.layers, signals, strict=True), 1):
        measured = metrics[metrics["step"] == number].set_index("metric")["value"]
        assert measured["gradient_norm"] == pytest.approx(layer.weight.grad.norm().item(), rel=1e-3)
        assert measured["mean"] == pytest.approx(signal.mean().item(), rel=1e-3, abs=1e-5)
        assert measured["variance"] == pytest.approx(signal.var(0).mean().item(), rel=1e-3)
    assert set(metrics["step"]) == {1, 2, 3, 4, 5}
    assert set(metrics["seed"]) == {3}


@pytest.mark.parametrize(
    "options",
    [["model=nonconvex"], ["model=icnn_skip"], ["model=icnn_difference", "model.positivity=exp"]],
)
def test_networks_that_do_not_fit_are_refused_before_they_are_built(monkeypatch, options):
    settings = model_settings(*options)
    count = count_parameters(settings, WIDTHS)
    assert count == parameters_of(build_network(settings, WIDTHS, seeded_generator(0, "weights")))
    monkeypatch.setattr(memory, "available_bytes", lambda device: 2 * 4 * count * 3)
    build_stack(settings, WIDTHS, [0, 1, 2])
    monkeypatch.setattr(memory, "available_bytes", lambda device: 2 * 4 * count * 3 - 1)
    with pytest.raises(ConfigError, match=rf"3 networks of {count:,} parameters .*model\.width"):
        build_stack(settings, WIDTHS, [0, 1, 2])
    settings = model_settings("network@model=convolutional", *options[1:])
    shape, widths = (1, 8, 8), [64, 4, 4, 10]
    network = build_network(settings, widths, seeded_generator(0, "weights"), image_shape=shape)
    assert count_parameters(settings, widths, shape) == parameters_of(network)
