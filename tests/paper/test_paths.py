"""``~`` in every option and argument that takes a path."""

import pytest

from convexinit.molecules import load_codec
from convexinit_paper import experiments, repeat, tracking
from convexinit_paper.data.codes import encode_cached
from convexinit_paper.data.datasets import dataset_settings, load_dataset
from convexinit_paper.experiments import request_of
from convexinit_paper.figures.__main__ import main as figures
from convexinit_paper.request.config import composed
from convexinit_paper.request.options import ConfigError
from convexinit_paper.request.paths import expanded, user_path
from convexinit_paper.request.quoting import argument
from convexinit_paper.store.runs import read_run
from support.images import plain_files
from support.images import stored as images_stored
from support.runs import config_of, write
from support.stored import store_training


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home folder, and another folder to work in, where no folder "~" may appear."""
    home, here = tmp_path / "home", tmp_path / "here"
    home.mkdir()
    here.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(here)
    yield home
    assert list(here.iterdir()) == []


def test_home_folders_are_replaced_at_the_beginning_alone(home):
    assert expanded("~") == str(home)
    assert expanded("~/a b/~") == f"{home}/a b/~"
    assert str(user_path("~root/x")) == "/root/x"
    for path in ("", "/a/~/b", "a~", "./~", "./$x", "a$b", "/$HOME"):
        assert expanded(path) == path


@pytest.mark.parametrize("path", ["~no-such-user/x", "~no-such-user", "$HOME/x", "${HOME}/x", "$x"])
def test_what_no_folder_can_stand_for_is_refused(home, path):
    with pytest.raises(ConfigError, match=r"\./"):
        expanded(path)


@pytest.mark.parametrize("name", ["results_dir", "data_dir", "dataset.path", "logger.folder"])
def test_every_option_of_the_configuration(home, name):
    options = ("dataset=image_folder", "dataset.path=x", "logger=wandb")
    config = request_of(composed(*options, argument(name, "~/x"))).config
    for part in name.split("."):
        config = config[part]
    assert config == f"{home}/x"
    with pytest.raises(ConfigError, match=f"^{name}: there is no home folder ~no-such-user"):
        request_of(composed(*options, argument(name, "~no-such-user/x")))


def test_the_environment_variable_of_the_data(home, monkeypatch):
    monkeypatch.setenv("CONVEXINIT_DATA", "~/data")
    assert request_of(composed()).data_dir == f"{home}/data"
    assert request_of(composed("logger=wandb", "results_dir='~/x'")).logger.folder == f"{home}/x"


def test_a_home_folder_and_its_path_are_the_same_run(home, monkeypatch):
    monkeypatch.setattr(experiments, "is_intact", lambda folder: True)
    options = composed("results_dir='~/runs'")
    folder = experiments.run_experiment(options)
    assert folder.is_relative_to(home / "runs")
    assert experiments.run_experiment({**options, "results_dir": f"{home}/runs"}) == folder


def test_arguments_of_commands(home, capsys, monkeypatch):
    store_training(home / "results", "icnn")
    figures(["figure-2", "--scale", "demo", "--runs", "~/results/runs", "--out", "~/out"])
    assert (home / "out" / "figures" / "figure-2.png").is_file()
    assert f"results_dir={home}/results" in capsys.readouterr().out

    folder = write(config_of(home / "results"))
    named = f"~/{folder.relative_to(home)}"
    tracking.main(["--mode", "disabled", "--folder", "~/wandb", named])
    assert (home / "wandb").is_dir()

    def asked(config):
        request = request_of({**composed(), **{name: config[name] for name in places}})
        assert {name: getattr(request, name) for name in places} == places
        return folder

    places = {"results_dir": f"{home}/again", "data_dir": f"{home}/data"}
    monkeypatch.setattr(repeat, "run_experiment", asked)
    repeat.main([named, "--results-dir", "~/again", "--data-dir", "~/data"])
    assert read_run(folder).config["results_dir"] == f"{home}/results"


def test_arguments_that_name_no_home_folder(home, capsys):
    for main, *arguments in (
        (figures, "--runs"),
        (figures, "--out"),
        (tracking.main,),
        (tracking.main, "x", "--folder"),
        (repeat.main,),
        (repeat.main, "x", "--results-dir"),
        (repeat.main, "x", "--data-dir"),
    ):
        with pytest.raises(SystemExit):
            main([*arguments, "~no-such-user/x"])
        message = capsys.readouterr().err
        assert "there is no home folder ~no-such-user" in message
        assert "Traceback" not in message


def test_paths_of_functions(home):
    encode_cached(load_codec("ecfp"), ["CCCCO"], "~/cache")
    assert len(list((home / "cache").iterdir())) == 1
    images_stored("folder", plain_files(), home / "data" / "set")
    options = composed("dataset=image_folder", "dataset.path='~/data/set'")["dataset"]
    load_dataset(dataset_settings(options), "~/elsewhere", "~/results")
    assert len(list((home / "results" / "cache").iterdir())) == 1
