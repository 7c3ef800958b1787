"""Which stored runs a panel is drawn from."""

import json
from pathlib import Path

import pandas as pd
import pytest
import yaml

from convexinit_paper.figures.panels import DIGITS
from convexinit_paper.figures.select import Panel, commands, select
from convexinit_paper.figures.variants import MODELS, RHO, TITLES, variants
from convexinit_paper.store.errors import RunError
from convexinit_paper.store.runs import COLUMNS, read_runs
from support.stored import batch_losses, config_of, store_run, store_training

RECORDED = Path("results/recorded")
NOISY = {"icnn_init": {"model.bias_noise": 0.5}}


@pytest.fixture
def root(tmp_path):
    return tmp_path / "results"


def found(panel, root):
    """The folders of the runs of a panel."""
    runs = select(panel, read_runs(root / "runs")).runs
    return {variant: run.folder for variant, run in runs.items()}


@pytest.mark.parametrize("model", TITLES)
def test_titles_are_those_of_the_configuration(root, model):
    assert config_of(root, "digits", model)["model"]["title"] == TITLES[model]


def test_a_panel_fixes_all_options_but_the_free_ones():
    fixed = Panel("mnist", "").wanted("icnn_init").fixed
    assert fixed["model.num_hidden"] == 5
    assert fixed["model.init"] == "principled"
    assert fixed["trainer.batch_size"] == 64
    assert not {"seeds", "trainer.epochs", "data_dir", "model.title"} & set(fixed)


def test_ablations_are_not_taken_for_the_paper_s_setting(root):
    wanted = store_training(root, "icnn_init")
    store_training(root, "icnn_init", model__bias_noise=0.5)
    store_training(root, "icnn_init", model__init="bias_only")
    store_training(root, "icnn_init", trainer__learning_rate=0.1, trainer__epochs=50)
    assert found(DIGITS, root) == {"icnn_init": wanted}


def test_a_panel_can_ask_for_other_options(root):
    store_training(root, "icnn_init")
    wanted = store_training(root, "icnn_init", model__bias_noise=0.5)
    panel = Panel("digits", "random bias", {**NOISY, "icnn": {}})
    assert found(panel, root) == {"icnn_init": wanted}
    assert select(panel, []).commands(RECORDED) == [
        "python run.py -m experiment=digits model=icnn_init model.bias_noise=0.5",
        "python run.py -m experiment=digits model=icnn",
    ]


def test_trainer_settings_are_never_mixed(root):
    for model in ("nonconvex", "icnn"):
        store_training(root, model, trainer__epochs=5)
    other = store_training(root, "icnn_skip", trainer__epochs=7)
    selection = select(DIGITS, read_runs(root / "runs"))
    assert list(selection.runs) == ["nonconvex", "icnn"]
    assert selection.missing == ["icnn_skip", "icnn_init"]
    assert [(run.folder, why) for run, why in selection.unused] == [
        (other, "trainer.epochs=7 instead of 5")
    ]


def test_more_variants_go_before_more_epochs(root):
    for model in ("nonconvex", "icnn"):
        store_training(root, model)
    store_training(root, "icnn", trainer__epochs=100)
    assert list(found(DIGITS, root)) == ["nonconvex", "icnn"]


def test_among_equally_complete_sets_the_largest_is_used(root):
    store_training(root, "icnn", trainer__epochs=3)  # 3 seeds x 3 epochs
    many = store_training(root, "icnn", batch_losses(20, 5))  # 5 seeds x 2 epochs
    assert found(DIGITS, root) == {"icnn": many}


def test_among_equal_sets_the_most_precise_is_used(root):
    runs = {
        name: store_training(root, "icnn", trainer__precision=name)
        for name in ("tf32", "float32", "bfloat16")
    }
    assert found(DIGITS, root) == {"icnn": runs["float32"]}


def test_equally_good_sets_are_an_error(root):
    store_training(root, "icnn")
    store_training(root, "icnn", trainer__device="cpu")
    with pytest.raises(RunError, match=r"equally well; they differ in trainer\.device"):
        found(DIGITS, root)


@pytest.mark.parametrize(
    ("noise", "fits"), [({}, True), ({"model.bias_noise": 0.0}, True), (NOISY["icnn_init"], False)]
)
def test_an_option_younger_than_a_run_has_its_default(root, noise, fits):
    config = config_of(root, "digits", "icnn_init", seeds=[0])
    del config["model"]["bias_noise"]
    store_run(config, pd.DataFrame(columns=COLUMNS))
    assert bool(found(Panel("digits", "", {"icnn_init": noise}), root)) is fits


def test_variants_of_one_model(root):
    wanted = {
        name: store_training(root, "icnn_init", model__rho=rho)
        for rho, name in RHO.items()
        if rho != 0.9
    }
    store_training(root, "icnn_init", model__bias_noise=0.5)
    panel = Panel("digits", "rho", variants("icnn_init", *RHO.values()))
    assert found(panel, root) == {"icnn_init": wanted[RHO[0.5]], **wanted}
    selection = select(panel, read_runs(root / "runs"))
    assert selection.missing == [RHO[0.9]]
    assert selection.unused == []
    assert "model=icnn_init model.rho=0.9 seeds=3" in selection.commands(RECORDED)[0]


def test_missing_runs_are_as_few_sweeps_as_possible():
    depths = [
        select(Panel("mnist", "", {name: {"model.num_hidden": depth} for name in MODELS}), [])
        for depth in (3, 7)
    ]
    other = select(Panel("mnist", "", variants(*RHO.values(), "nonconvex")), [])
    assert commands([*depths, other, other], RECORDED) == [
        "python run.py -m experiment=mnist model=nonconvex,icnn,icnn_skip,icnn_init "
        "model.num_hidden=3,7",
        "python run.py -m experiment=mnist model=icnn_init model.rho=0.1,0.5,0.9",
        "python run.py -m experiment=mnist model=nonconvex",
    ]


def test_something_else_is_shown_only_where_nothing_was_run(root):
    panel = Panel("mnist", "MNIST", instead=DIGITS)

    def shown():
        return select(panel, read_runs(root / "runs")).panel

    assert shown() is panel
    store_training(root, "icnn")
    assert shown() is DIGITS
    store_training(root, "icnn", experiment="mnist")
    assert shown() is panel


def test_options_that_a_search_chose_may_differ(root):
    store_training(root, "icnn", trainer__learning_rate=0.1)
    store_training(root, "nonconvex", trainer__learning_rate=0.2)
    panel = Panel("digits", "best", chosen=["trainer.learning_rate"])
    assert list(found(panel, root)) == ["nonconvex", "icnn"]
    assert found(DIGITS, root) == {}
    store_training(root, "icnn", trainer__learning_rate=0.3)
    with pytest.raises(RunError, match=r"in the choice of trainer\.learning_rate"):
        found(panel, root)


def test_commands_complete_what_was_found(root):
    store_training(root, "icnn")
    assert select(DIGITS, read_runs(root / "runs")).commands(root / "runs") == [
        "python run.py -m experiment=digits model=nonconvex,icnn_skip,icnn_init seeds=3 "
        f"trainer.device=auto trainer.epochs=2 trainer.precision=float32 results_dir={root}"
    ]


def test_stored_configurations_survive_a_round_trip(root):
    # Selection compares values read back from YAML with those of the protocol.
    folder = store_training(root, "icnn")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert json.dumps(config["trainer"]["learning_rate"]) == "0.001"
