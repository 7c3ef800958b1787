"""Options without effect are warned about; what counts as that is what is really drawn."""

import pytest
import torch

from convexinit_paper.experiments import run_experiment
from convexinit_paper.request.config import composed
from convexinit_paper.training.models import INITIALISATIONS, build_network
from convexinit_paper.training.randomness import seeded_generator
from convexinit_paper.training.unused import without_effect
from support.requests import model_settings

WIDTHS = [6, 9, 9, 2]
OTHER = {"rho": 0.1, "variance": 2.0, "bias_noise": 0.5, "bias_rule": "centred",
         "distribution": "gamma", "positivity": "exp"}  # fmt: skip
VARIANTS = [
    *(("icnn", init) for init in INITIALISATIONS),
    *(("nonconvex", init) for init in ("he", "orthogonal")),
]


def drawn(*overrides):
    inputs = torch.randn(64, WIDTHS[0], generator=torch.Generator().manual_seed(1))
    network = build_network(
        model_settings(*overrides), WIDTHS, seeded_generator(0, "weights"), inputs=inputs
    )
    return [*network.state_dict().values(), network(inputs)]


def messages(*overrides):
    return without_effect(composed(*overrides))


@pytest.mark.parametrize("option", OTHER)
@pytest.mark.parametrize(("model", "init"), VARIANTS)
def test_an_option_is_named_where_the_network_is_the_same_without_it(model, init, option):
    if init == "bias_only" and option in ("distribution", "bias_rule"):
        pytest.skip("the one uses up other random numbers, the other is refused by itself")
    usual = [f"model={model}", f"model.init={init}"]
    changed = [*usual, f"model.{option}={OTHER[option]}"]
    is_same = all(map(torch.equal, drawn(*usual), drawn(*changed)))
    assert bool(messages(*changed)) == is_same
    assert not messages(*usual)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["model=icnn_orthogonal", "model.rho=0.1"],
            "model.rho=0.1 has no effect where model.init=orthogonal, but with "
            "model.init=principled, bias_only, principled_lsuv",
        ),
        (
            ["model=nonconvex", "model.bias_noise=0.5"],
            "model.bias_noise=0.5 has no effect where model.convex=false, but with "
            "model.convex=true and model.init=principled, bias_only, principled_lsuv",
        ),
        (
            ["model=nonconvex", "model.positivity=exp"],
            "model.positivity=exp has no effect where model.convex=false, but with "
            "model.convex=true",
        ),
    ],
)
def test_with_what_it_has_an_effect_is_said(overrides, message):
    assert messages(*overrides) == [message]


@pytest.mark.parametrize(
    "given",
    [
        ["model.num_hidden=3"],
        ["model.width=64"],
        ["model.widths=[64, 32]", "model.num_hidden=null"],
    ],
)
def test_widths_of_a_model_have_no_effect_in_an_experiment_with_its_own(given):
    assert messages("experiment=signal_propagation", *given) == [
        f"{given[0]} has no effect here, as signal.widths are those of all layers"
    ]
    assert not messages("experiment=signal_propagation")
    assert not messages("experiment=mnist", *given)


def test_groups_of_seeds_have_an_effect_where_images_are_trained_on():
    message = ["seeds_at_once=2 has no effect in this experiment"]
    for experiment in ("tox21", "level_sets", "signal_propagation", "your_network", "autoencoder"):
        assert messages(f"experiment={experiment}", "seeds_at_once=2") == message
    for experiment in ("mnist", "depth", "generalisation", "generalisation_final"):
        assert not messages(f"experiment={experiment}", "seeds_at_once=2")


def test_minutes_between_checkpoints_have_an_effect_where_checkpoints_go_by_time():
    message = ["checkpoint_minutes=5 has no effect in this experiment"]
    for experiment in ("level_sets", "signal_propagation", "your_network", "autoencoder"):
        assert messages(f"experiment={experiment}", "checkpoint_minutes=5") == message
        assert not messages(f"experiment={experiment}", "checkpoint_minutes=10")
    for experiment in ("mnist", "depth", "generalisation", "generalisation_final", "tox21"):
        assert not messages(f"experiment={experiment}", "checkpoint_minutes=5")


def test_a_run_warns_and_goes_on(tmp_path):
    config = composed(
        "model=icnn", "model.rho=0.1", "trainer.epochs=1", "seeds=1", f"results_dir={tmp_path}"
    )
    with pytest.warns(UserWarning, match="model.rho=0.1 has no effect where model.init=he"):
        assert (run_experiment(config) / "metrics.csv").exists()


def test_defaults_that_are_written_out_and_other_sections_pass():
    assert not messages("model=icnn", "model.rho=0.5", "model.distribution=lognormal")
    assert not messages("experiment=your_network")
    assert not without_effect({"task": "depth", "model": {"init": "of one's own", "rho": 0.1}})
