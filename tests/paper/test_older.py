"""Stored runs that lack options which came later are found all the same."""

import shutil
from copy import deepcopy

import pytest

from convexinit_paper.experiments import request_of, task_module
from convexinit_paper.request.config import composed, parse_settings
from convexinit_paper.request.older import completed, is_older, stored_folder
from convexinit_paper.store.identity import identity, run_folder
from convexinit_paper.store.runs import read_run, read_runs
from support.data import ROOT

RECORDED = ROOT / "results" / "recorded"


def without(config, *options):
    config = deepcopy(config)
    for option in options:
        section, name = option.split(".")
        del config[section][name]
    return config


def test_a_run_that_lacks_options_is_that_of_their_defaults():
    now = composed("experiment=digits", "model=icnn")
    older = without(now, "model.skip", "trainer.precision")
    assert is_older(older, now)
    assert not is_older(now, now)  # it lacks nothing
    assert not is_older(now, older)


@pytest.mark.parametrize(
    "change", ["trainer.precision=bfloat16", "trainer.epochs=3", "seeds=2", "dataset=mnist"]
)
def test_another_value_is_another_run(change):
    older = without(composed("experiment=digits", "model=icnn"), "model.skip", "trainer.precision")
    assert not is_older(older, composed("experiment=digits", "model=icnn", change))


def test_runs_under_the_name_of_no_experiment_have_no_defaults(tmp_path):
    now = {**composed("experiment=digits", "model=icnn"), "name": "mine"}
    older = without(now, "model.skip")
    assert not is_older(older, now)
    assert completed(older)["model"] == older["model"]
    assert completed(older)["results_dir"] == now["results_dir"]


def test_recorded_runs_that_lack_options_are_found_by_todays_requests(tmp_path):
    """Among all recorded runs of their experiment, each finds its own folder."""
    shutil.copytree(RECORDED / "mnist", tmp_path / "runs/mnist")
    recorded = read_runs(RECORDED, "mnist")
    runs = [run for run in recorded if "architecture" not in run.config["model"]]
    assert len(runs) > 3
    for run in runs:
        now = composed("experiment=mnist", f"model={run.config['model']['name']}")
        for section in ("model", "trainer", "dataset"):
            now[section] |= run.config[section]
        config = {**now, "seeds": run.config["seeds"], "results_dir": str(tmp_path)}
        assert not run_folder(config).exists()
        assert stored_folder(config).name == run.folder.name


def test_runs_that_cannot_be_read_are_those_of_no_request(tmp_path):
    config = {**composed("experiment=digits", "model=icnn"), "results_dir": str(tmp_path)}
    damaged = tmp_path / "runs/digits/icnn-0123456789"
    damaged.mkdir(parents=True)
    (damaged / "config.yaml").write_text("model: [", encoding="utf-8")
    assert stored_folder(config) == run_folder(config)


@pytest.mark.parametrize("experiment", sorted(path.name for path in RECORDED.iterdir()))
def test_a_recorded_run_can_be_asked_for_again(experiment):
    first, *_ = sorted(RECORDED.glob(f"{experiment}/*/config.yaml"))
    request = request_of(completed(identity(read_run(first.parent).config)))
    parse_settings(task_module(request.task).Settings, request.config)
