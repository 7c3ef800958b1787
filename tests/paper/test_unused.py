"""Options that would have no effect are refused; what counts as that is what is really drawn."""

import pytest
import torch

from convexinit_paper.experiments import request_of
from convexinit_paper.request.config import composed
from convexinit_paper.request.options import ConfigError
from convexinit_paper.request.unused import USES, refuse_without_effect
from convexinit_paper.training.models import INITIALISATIONS, build_network
from convexinit_paper.training.randomness import seeded_generator
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


def is_refused(*overrides):
    try:
        refuse_without_effect(composed(*overrides)["model"])
    except ConfigError:
        return True
    return False


@pytest.mark.parametrize("option", OTHER)
@pytest.mark.parametrize(("model", "init"), VARIANTS)
def test_an_option_is_refused_where_the_network_is_the_same_without_it(model, init, option):
    if init == "bias_only" and option in ("distribution", "bias_rule"):
        pytest.skip("the one uses up other random numbers, the other is refused by itself")
    usual = [f"model={model}", f"model.init={init}"]
    changed = [*usual, f"model.{option}={OTHER[option]}"]
    is_same = all(map(torch.equal, drawn(*usual), drawn(*changed)))
    assert is_refused(*changed) == is_same
    assert not is_refused(*usual)


def test_every_initialisation_says_what_it_uses():
    assert tuple(USES) == INITIALISATIONS


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["model=icnn_orthogonal", "model.rho=0.1"],
            "model.rho=0.1 has no effect where model.init=orthogonal; leave it out, or choose "
            "model.init=principled, bias_only, principled_lsuv",
        ),
        (
            ["model=nonconvex", "model.bias_noise=0.5"],
            "model.bias_noise=0.5 has no effect where model.convex=false; leave it out, or choose "
            "model.convex=true and model.init=principled, bias_only, principled_lsuv",
        ),
        (
            ["model=nonconvex", "model.positivity=exp"],
            "model.positivity=exp has no effect where model.convex=false; leave it out, or choose "
            "model.convex=true",
        ),
    ],
)
def test_what_to_choose_instead_is_named(overrides, message):
    with pytest.raises(ConfigError) as error:
        request_of(composed(*overrides))
    assert str(error.value) == message


def test_defaults_that_are_written_out_and_other_sections_pass():
    assert request_of(composed("model=icnn", "model.rho=0.5", "model.distribution=lognormal"))
    assert request_of(composed("experiment=your_network"))
    refuse_without_effect({"init": "of one's own", "rho": 0.1})
