"""From the configuration to settings: every option, its type and its range."""

import dataclasses
import math
import pickle
import re
from typing import get_type_hints

import pytest
import torch

from convexinit_paper.experiments import best_of_grid, request_of, task_module
from convexinit_paper.request.config import (
    CONF,
    composed,
    overrides_between,
    parse_section,
    parse_settings,
)
from convexinit_paper.request.options import ConfigError, OutOfRangeError, Section
from convexinit_paper.request.request import SHARED, parse_request
from convexinit_paper.request.suggestions import did_you_mean
from convexinit_paper.store.identity import PLACES
from convexinit_paper.store.matching import flatten

FINAL = ["experiment=generalisation_final", "task=final_training", "~search.incomplete"]
REQUESTS = [
    *([f"experiment={path.stem}"] for path in sorted((CONF / "experiment").glob("*.yaml"))),
    ["dataset=image_folder", "dataset.path=images"],
    ["logger=wandb"],
]


@pytest.fixture(scope="module")
def sections():
    """All kinds of sections, each with its name and usual options."""
    search = composed("experiment=generalisation_final")["search"]
    found = {best_of_grid.SearchSettings: ("search", search)}
    for overrides in REQUESTS:
        request = request_of(composed(*(FINAL if FINAL[0] in overrides else overrides)))
        settings = parse_settings(task_module(request.task).Settings, request.config)
        for name, part in {**vars(settings), "logger": request.logger}.items():
            if isinstance(part, Section):
                found[type(part)] = (name, vars(part))
    return found


def test_a_value_out_of_range_is_named(monkeypatch, sections):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    ranges = [
        (kind, *usual, field, allowed)
        for kind, usual in sections.items()
        for field in dataclasses.fields(kind)
        for allowed in field.metadata["ranges"]
    ]
    assert len(ranges) > 40
    values = {"float": [-1.0, math.nan, math.inf], "int": [-1], "str": ["", "cuda"]}
    for kind, section, usual, field, allowed in ranges:
        hint = str(get_type_hints(kind)[field.name])
        candidates = (
            [[0]] if "list" in hint else next(values[name] for name in values if name in hint)
        )
        outside = [value for value in candidates if not allowed.holds(value)]
        message = f"{section}.{field.name} must be {allowed.words}; got "
        assert outside, message
        for value in outside:
            with pytest.raises(ConfigError, match=f"^{re.escape(message)}"):
                parse_section(kind, {**usual, field.name: value}, section)


def test_options_that_are_missing_unknown_or_of_another_type_are_named(sections):
    for kind, (section, usual) in sections.items():
        assert parse_section(kind, usual, section) == kind(**usual)
        for field in dataclasses.fields(kind):
            rest = {name: value for name, value in usual.items() if name != field.name}
            message = rf"the option {section}\.{field.name} is missing"
            with pytest.raises(ConfigError, match=message):
                parse_section(kind, rest, section)
            with pytest.raises(ConfigError, match=rf"^{section}\.{field.name}\b"):
                parse_section(kind, {**usual, field.name: {"a": "mapping"}}, section)
        with pytest.raises(ConfigError, match=rf"there is no option {section}\.other"):
            parse_section(kind, {**usual, "other": 1}, section)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["seeds=0"], "seeds must be a number from 1"),
        (["seeds=[1,1]"], "a list of distinct seeds"),
        (["seeds=two"], "seeds must be"),
        (["force=perhaps"], "force must be true or false; got 'perhaps'"),
        (["data_dir=null"], "data_dir must be the name of a folder"),
        (["results_dir=2024"], "results_dir must be the name of a folder"),
        (["checkpoint_minutes=-1"], "checkpoint_minutes must be a number, at least 0"),
        (["seeds_at_once=0"], "seeds_at_once must be null for as many"),
        (["logger.name=tensorboard"], "logger must be csv or wandb"),
        (["logger=wandb", "logger.mode=x"], "logger.mode must be one of online"),
        (["name=a/b"], "name must be letters, digits"),
        (["model.name=a/b"], "model.name must be letters, digits"),
        (["task=training"], "task must be one of autoencoder, best_of_grid"),
        (["task=tox21"], "the experiment digits needs the section codec"),
        (["+anything=3"], "the experiment digits does not use the option anything"),
        (["+codec.name=ecfp"], "the experiment digits does not use the option codec"),
        (["+lr=3"], r"not use the option lr\. Did you mean trainer\.learning_rate\?"),
    ],
)
def test_wrong_options_of_all_experiments_are_named(overrides, message):
    with pytest.raises(ConfigError, match=message):
        request_of(composed(*overrides))


def test_a_task_without_a_model_is_told_what_runs_are_stored_by():
    config = composed()
    del config["model"]
    with pytest.raises(ConfigError, match=r"model\.name must be letters, digits"):
        parse_request(config, ["dataset", "trainer"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["experiment=your_network", "model=icnn"],
            "this experiment has no model to choose: leave model=icnn out. It has instead "
            "model.width and the options of your_network, which python run.py "
            "experiment=your_network --help lists.",
        ),
        (
            ["experiment=autoencoder", "model=icnn_skip"],
            "this experiment has no model to choose: leave model=icnn_skip out.",
        ),
        (["model=your_network"], "model=your_network is not for this experiment; choose one of "),
        (
            ["experiment=tox21", "dataset=mnist"],
            "dataset=mnist is not for this experiment; choose one of dataset=structural_alerts, ",
        ),
        (["dataset=tox21"], "dataset=tox21 is not for this experiment; choose one of dataset="),
        # What is wrong here is not the choice.
        (["dataset=image_folder"], "dataset.path must be a folder"),
        (["experiment=your_network", "model.width=1"], "model.width must be at least 8"),
        (["+trainer.lr=1"], "there is no option trainer.lr. Did you mean trainer.learning_rate?"),
        (["~model.rho"], "the option model.rho is missing"),
    ],
)
def test_what_can_be_chosen_instead_is_named(overrides, message):
    config = composed(*overrides)
    with pytest.raises(ConfigError, match=f"^{re.escape(message)}"):
        parse_settings(task_module(config["task"]).Settings, config)


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("trainer.lr", "trainer.learning_rate"),
        ("lr", "trainer.learning_rate"),
        ("trainer.wd", "trainer.weight_decay"),
        ("trainer.epoch", "trainer.epochs"),
        ("trainr.epochs", "trainer.epochs"),
        ("trainer.step", "trainer.step_sizes"),
        ("model.depth", "model.num_hidden"),
        ("model.initialisation", "model.init"),
        ("rho", "model.rho"),
        ("data_dri", "data_dir"),
        ("trainer.momentum", None),
        ("anything", None),
    ],
)
def test_what_may_have_been_meant_is_of_the_same_section_first(name, meant):
    config = composed()
    options = [*config, *flatten(config)]
    assert did_you_mean(name, options) == ("" if meant is None else f" Did you mean {meant}?")


def test_options_of_all_experiments_either_decide_numbers_or_are_places():
    assert {"name", "task", "seeds", *PLACES} == SHARED


@pytest.mark.parametrize(("seeds", "written"), [("3", [0, 1, 2]), ("[3,7]", [3, 7])])
def test_seeds_are_written_out(seeds, written):
    request = request_of(composed(f"seeds={seeds}"))
    assert request.seeds == request.config["seeds"] == written


def test_the_difference_of_configurations_is_a_command():
    before = composed("experiment=generalisation_final")
    after = {**before, "task": "final_training", "search": {"grid": "paper"}}
    after["model"] = {**after["model"], "widths": [10, 20], "rho": 0.25, "width": None}
    arguments = overrides_between(before, after)
    assert len(arguments) == 4
    assert composed("experiment=generalisation_final", *arguments) == after
    assert overrides_between(after, after) == []


def test_errors_survive_the_way_between_processes():
    error = OutOfRangeError("init", "he", "lsuv", "convex=false").within("model")
    assert str(error) == "model.init must be he where model.convex=false; got 'lsuv'"
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
