"""``run.py`` as a user meets it: real processes, typing errors, interruptions."""

import json
import os
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import time

import pandas as pd
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from convexinit_paper.store.runs import read_runs
from support.commands import (
    SHORT,
    VARIANTS,
    command,
    environment,
    folder_of,
    run,
    start_sweep,
    stored,
    wait_for_runs,
)
from support.data import ROOT, needs_mnist, real_data_dir


def test_a_run_is_complete_and_found_again(tmp_path):
    first = run(*SHORT, results_dir=tmp_path)
    assert first.returncode == 0, first.stderr
    assert first.stderr == ""  # no progress bar where there is no terminal
    folder = folder_of(first)
    metrics = pd.read_csv(folder / "metrics.csv")
    assert list(metrics.columns) == ["seed", "epoch", "step", "split", "metric", "value"]
    losses = metrics[(metrics["split"] == "train") & (metrics["metric"] == "batch_loss")]
    steps_per_epoch = 21  # 1437 - 144 training digits in batches of 64
    assert (
        losses.groupby("seed")["step"].apply(list).tolist()
        == [list(range(1, 2 * steps_per_epoch + 1))] * 2
    )
    summary = json.loads((folder / "summary.json").read_text())
    assert set(summary["seeds"]) == {"0", "1"}
    assert {"wall_time_seconds", "device", "packages", "git_revision"} <= set(summary)

    before = (folder / "summary.json").stat().st_mtime_ns
    again = run(*SHORT, "data_dir=elsewhere", results_dir=tmp_path)
    assert folder_of(again) == folder
    assert (folder / "summary.json").stat().st_mtime_ns == before

    forced = run(*SHORT, "force=true", results_dir=tmp_path)
    assert folder_of(forced) == folder
    assert (folder / "summary.json").stat().st_mtime_ns != before
    pd.testing.assert_frame_equal(pd.read_csv(folder / "metrics.csv"), metrics)


def test_seeds_are_numbers_or_lists_and_do_not_influence_each_other(tmp_path):
    both = folder_of(run("seeds=2", "trainer.epochs=2", results_dir=tmp_path))
    named = folder_of(run("seeds=[0,1]", "trainer.epochs=2", results_dir=tmp_path))
    assert both == named
    alone = folder_of(run("seeds=[1]", "trainer.epochs=2", results_dir=tmp_path))
    assert alone != both
    table, single = (pd.read_csv(folder / "metrics.csv") for folder in (both, alone))
    table = table[table["seed"] == 1].reset_index(drop=True)
    pd.testing.assert_frame_equal(table, single, atol=1e-4)


@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_a_sweep_runs_what_is_not_stored(tmp_path, launcher):
    options = ("-m", f"hydra/launcher={launcher}", *SHORT)
    first = run(*options, "model=nonconvex,icnn", results_dir=tmp_path)
    assert first.returncode == 0, first.stderr
    times = stored(tmp_path)
    assert len(times) == 2
    second = run(*options, f"model={VARIANTS}", results_dir=tmp_path)
    assert second.returncode == 0, second.stderr
    runs = read_runs(tmp_path / "runs")
    assert {run.config["model"]["name"] for run in runs} == set(VARIANTS.split(","))
    assert all(path.stat().st_mtime_ns == moment for path, moment in times.items())


def test_the_flag_of_a_sweep_may_stand_between_options(tmp_path):
    result = run("trainer.epochs=1", "-m", "seeds=1,[1]", results_dir=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("run: ") == 2


def test_launchers_give_the_same_numbers(tmp_path):
    for launcher in ("basic", "joblib"):
        result = run(
            "-m", f"hydra/launcher={launcher}", *SHORT, "model=icnn_init",
            results_dir=tmp_path / launcher,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
    one, other = (
        read_runs(tmp_path / launcher / "runs")[0].metrics for launcher in ("basic", "joblib")
    )
    pd.testing.assert_frame_equal(one, other)


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("model=icn", "icnn_init"),
        ("experiment=mnits", "Did you mean mnist?\nChoose from autoencoder, cifar10,"),
        ("model=", "there is no model=.\nChoose from autoencoder, icnn, "),
        ("experiment=MNIST", "Did you mean mnist?"),
        ("model.widths=5", "model.widths: must be a list such as [5]; got 5"),
        ("hydra/launcher=job", "Did you mean joblib?"),
        ("hydra/launcher=joblib", "to use it: python run.py -m hydra/launcher=joblib results_dir="),
        ("hydra.launcher.n_jobs=2", "To see those of one part:\npython run.py --cfg hydra --pack"),
        ("network=convolutional", "no option network. It is chosen as network@model=...\n"),
        ("dataset=minst", "digits"),
        ("rho=1.5", "Did you mean model.rho?"),
        ("trainer.epoch=3", "Did you mean trainer.epochs?"),
        ("trainer.lr=1e-3", "Did you mean trainer.learning_rate?"),
        ("model.rho=1.5", "model.rho must be between 0 and 1"),
        ("seeds=two", "seeds must be"),
        ("trainer.epochs=many", "trainer.epochs"),
        ("model.activation=tanh", "model.activation must be one of relu, leaky_relu"),
        (
            "dataset.path=images",
            "dataset.path. It goes with dataset=cifar10_jpeg or dataset=image_",
        ),
        (
            "logger.mode=online",
            "this experiment has no option logger.mode. It goes with logger=wandb",
        ),
        ("signal.bins=3", "signal.bins. It goes with experiment=signal_propagation."),
        ("trainer.epochs", "EQUAL"),
        ("model.width=10000000", "fewer seeds at once or a smaller model.width"),
        ("trainer.epochs=9999999999999", "fewer trainer.epochs"),
        ("+trainer.epoch=3", "there is no option trainer.epoch"),
        ("+anything=3", "does not use the option anything"),
        ("~seeds", "seeds must be"),
        ("data_dir=/x/${y}", """'data_dir="\\${...\"'"""),
        ("~task", "task must be"),
    ],
)
def test_wrong_options_end_with_one_short_message(tmp_path, option, expected):
    result = run(option, results_dir=tmp_path)
    assert result.returncode != 0
    assert expected in result.stderr
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) <= 10
    assert not list(tmp_path.glob("runs/*/*"))


@pytest.mark.parametrize("mode", [[], ["-m", "hydra/launcher=joblib"]])
def test_a_warning_is_one_line(tmp_path, mode):
    result = run(*mode, *SHORT, "model=icnn", "model.rho=0.1", results_dir=tmp_path)
    assert result.returncode == 0
    first, *rest = result.stderr.splitlines()
    assert first.startswith("warning: model.rho=0.1 has no effect where model.init=he, but with ")
    assert all(line.startswith("sweep of ") for line in rest)


def test_several_values_of_a_group_are_a_sweep_and_nothing_else(tmp_path):
    result = run("model=icnn,icnn_init", results_dir=tmp_path)
    assert result.stderr.splitlines()[1:] == [
        f"For a run with each of them: python run.py -m model=icnn,icnn_init results_dir={tmp_path}"
    ]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--experiment=mnist", "python run.py experiment=mnist"),
        ("-experiment=mnist", "python run.py experiment=mnist"),
        ("--experiment mnist", "python run.py experiment=mnist"),
        ("-model=icnn", "python run.py model=icnn"),
        ("--trainer.epochs=3", "python run.py trainer.epochs=3"),
        ("--experimental-rerun=job.pickle", "there is no flag --experimental-rerun"),
        ("--force", "python run.py --help"),
        ("\N{EM DASH}experiment=mnist", "python run.py experiment=mnist"),
        ("\N{EN DASH}m seeds=1,2", "did you mean -m?"),
        ("/model=icnn", "'/model' is no name of an option"),
        ("=2", "'' is no name of an option"),
        ("model=[icnn,icnn_init] seeds=2", "python run.py -m seeds=2 model=icnn,icnn_init"),
        ("trainer=null", "trainer takes one choice"),
        ("-m --cfg job", "--multirun and --cfg do not go together"),
        ("-c job seeds=1 -m", "--multirun and --cfg do not go together"),
        ("--info -m", "--multirun and --info do not go together"),
        ("--resolve", "--cfg job --resolve"),
        ("--package trainer", "--cfg job --package trainer"),
        ("--info nothing", "python run.py --hydra-help"),
        ("--cfg", "python run.py --hydra-help"),
        ("-cn", "python run.py --hydra-help"),
        ("--config-name mnist", "experiment=<name>"),
        ("help", "python run.py --help"),
        ("digits", "python run.py experiment=digits"),
        ("icnn_init seeds=2", "python run.py model=icnn_init"),
        ("-m digits", "python run.py -m experiment=digits"),
        ("seeds=2 digits", "python run.py seeds=2 experiment=digits"),
        ("--model icnn -m seeds=1,2", "python run.py model=icnn -m seeds=1,2"),
        ("trainer.epochs 3", "trainer.epochs=..."),
        ("dataset.title=my images", """'dataset.title="my images"'"""),
        ("dataset.title=my own images seeds=2", """'dataset.title="my own images"'"""),
        ("seeds=[3, 7, 9] model=icnn", "'seeds=[3, 7, 9]'"),
        ("seeds=[1,2", "seeds=[3,7]"),
        ("model=icnn,icnn_init", "python run.py -m model=icnn,icnn_init"),
        ("seeds=3,7", "'seeds=[3,7]'"),
        (
            "experiment=mnist seeds=3,7 model=icnn",
            "python run.py -m experiment=mnist seeds=3,7 model=icnn",
        ),
        ("seeds=range(1,3) model=icnn,icnn_init", "-m 'seeds=range(1,3)' model=icnn,icnn_init"),
        (
            "--config-dir conf/model seeds=3,7",
            "python run.py -m --config-dir=conf/model seeds=3,7",
        ),
        ("seeds=2 --cfg job seeds=3", "seeds is given twice, as seeds=2 and seeds=3"),
        ("seeds=2 --cfg job traner.epochs=3", "Did you mean trainer.epochs?"),
        ("seeds=2 --cfg job digits", "digits: missing EQUAL sign"),
        ("seeds=2 --info all seeds=3", "seeds is given twice"),
        ("seeds=2 --help traner.epochs=3", "Did you mean trainer.epochs?"),
        ("model=icnn seeds=2 model=icnn_init", "python run.py -m seeds=2 model=icnn,icnn_init"),
        ("experiment=generalisation_final grid=demo", "search.grid=demo"),
        ("-m hydra.sweeper.max_batch_size=-1", "at least 1, or null for all; got -1"),
        ("-m results_dir=a seeds=2 results_dir=b", "results_dir is given twice"),
    ],
)
def test_wrong_words_and_flags_end_with_what_to_type(tmp_path, arguments, expected):
    words = arguments.split()
    result = subprocess.run(
        [sys.executable, ROOT / "run.py", *words],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment(),
        check=False,
    )
    assert result.returncode != 0
    assert expected in result.stderr
    assert result.stderr.startswith("error: ")
    assert "Traceback" not in result.stderr
    assert len(result.stderr.strip().splitlines()) <= 10
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    ["--cfg job", "seeds=2 --cfg job", "seeds=2 --info", "--info all", "--info defaults", "--help"],
)
def test_flags_that_show_something(tmp_path, arguments):
    result = run(*arguments.split(), results_dir=tmp_path)
    assert result.returncode == 0
    assert result.stdout
    assert result.stderr == ""


@pytest.mark.parametrize(
    "name", ["lr=0.1", "Ergebnisse (1)", "Größe", "it's", "{a}", "x,y", "a'(b"]
)
def test_folders_that_need_quotes_are_quoted_in_the_message(tmp_path, name):
    results = tmp_path / name
    refused = run(*SHORT, results_dir=results)
    assert refused.returncode != 0
    assert list(tmp_path.iterdir()) == []
    quoted = shlex.split(refused.stderr.splitlines()[-1].split(": ")[-1])
    assert len(quoted) == 1
    assert OverridesParser.create().parse_override(quoted[0]).value() == str(results)


def test_a_folder_with_a_comma_is_no_sweep(tmp_path):
    result = run("-m", *SHORT, results_dir=f"{tmp_path}/x,y")
    assert result.returncode != 0
    assert f"""'results_dir="{tmp_path}/x,y"'""" in result.stderr
    assert list(tmp_path.iterdir()) == []
    quoted = subprocess.run(
        [sys.executable, ROOT / "run.py", "-m", *SHORT, f'results_dir="{tmp_path}/x,y"'],
        capture_output=True,
        text=True,
        env=environment(),
        check=False,
    )
    assert quoted.returncode == 0, quoted.stderr
    assert len(stored(tmp_path / "x,y")) == 1
    assert [path.name for path in tmp_path.iterdir()] == ["x,y"]


@pytest.mark.parametrize("place", ["null", "''", "2024"])
def test_results_in_a_folder_without_a_name(tmp_path, place):
    result = run(results_dir=place, cwd=tmp_path)
    assert result.returncode == 1
    assert "results_dir must be the name of a folder, in quotes if it is a number" in result.stderr
    assert "HYDRA_FULL_ERROR" not in result.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_whole_traceback_is_shown_on_request(tmp_path):
    result = run("model.rho=1.5", results_dir=tmp_path, HYDRA_FULL_ERROR="1")
    assert result.returncode != 0
    assert "Traceback" in result.stderr


def test_missing_data_names_the_command_that_gets_it(tmp_path):
    result = run("experiment=mnist", f"data_dir={tmp_path / 'none'}", results_dir=tmp_path)
    assert result.returncode != 0
    assert "scripts/download_data.py mnist" in result.stderr
    assert "data_dir" in result.stderr
    assert len(result.stderr.strip().splitlines()) <= 10


def test_seeds_that_diverge_are_warned_of(tmp_path):
    result = run("seeds=2", "trainer.epochs=1", "trainer.learning_rate=1e30", results_dir=tmp_path)
    assert result.returncode == 0, result.stderr
    assert "2 of 2 seeds diverged" in result.stderr
    assert str(folder_of(result) / "summary.json") in result.stderr


def test_results_in_an_impossible_place(tmp_path):
    (tmp_path / "file").write_text("")
    result = run(results_dir=tmp_path / "file" / "results")
    assert result.returncode != 0
    assert "results_dir" in result.stderr
    assert len(result.stderr.strip().splitlines()) <= 10


@needs_mnist
def test_a_truncated_file_is_named(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    shutil.copytree(real_data_dir() / "MNIST" / "raw", raw)
    path = raw / "t10k-images-idx3-ubyte"
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:1000])
    result = run("experiment=mnist", f"data_dir={tmp_path}", results_dir=tmp_path)
    assert result.returncode != 0
    assert str(path) in result.stderr
    assert len(result.stderr.strip().splitlines()) <= 10


@needs_mnist
def test_real_mnist_separates_the_variants_within_one_epoch(tmp_path):
    """The paper's main claim at its smallest, with random bias, for which every seed learns."""
    losses = {}
    for model in ("icnn", "icnn_init"):
        result = run(
            "experiment=mnist", f"model={model}", "seeds=2", "trainer.epochs=1",
            "model.width=200", "model.bias_noise=0.5",
            f"data_dir={real_data_dir()}", results_dir=tmp_path,
        )  # fmt: skip
        assert result.returncode == 0, result.stderr
        summary = json.loads((folder_of(result) / "summary.json").read_text())
        losses[model] = [seed["train_loss"] for seed in summary["seeds"].values()]
    assert min(losses["icnn"]) > 2.0
    assert max(losses["icnn_init"]) < 0.7


@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_ctrl_c_keeps_what_is_finished_and_the_sweep_goes_on_when_asked_again(tmp_path, launcher):
    options = ("seeds=1", "trainer.epochs=40", f"hydra/launcher={launcher}")
    process = start_sweep(tmp_path, *options)
    wait_for_runs(tmp_path, 1)
    os.killpg(process.pid, signal.SIGINT)  # what a terminal sends
    _, message = process.communicate(timeout=60)
    assert process.returncode not in (0, None)
    assert "Traceback" not in message
    assert len(message.strip().splitlines()) <= 10
    kept = stored(tmp_path)
    assert 1 <= len(kept) <= 4
    if launcher == "basic":  # joblib kills its workers before they can clean up
        assert not list(tmp_path.glob("runs/*/.*"))

    again = run("-m", f"model={VARIANTS}", *options, results_dir=tmp_path)
    assert again.returncode == 0, again.stderr
    assert len(read_runs(tmp_path / "runs")) == 4
    assert all(path.stat().st_mtime_ns == moment for path, moment in kept.items())


def test_a_killed_sweep_goes_on_with_the_same_numbers(tmp_path):
    options = ("seeds=1", "trainer.epochs=20")
    undisturbed = run("-m", f"model={VARIANTS}", *options, results_dir=tmp_path / "calm")
    assert undisturbed.returncode == 0
    for count in (0, 1, 2):
        process = start_sweep(tmp_path / "killed", *options)
        wait_for_runs(tmp_path / "killed", count)
        time.sleep(0.1)
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        read_runs(tmp_path / "killed" / "runs")  # whatever is there can be read
    final = run("-m", f"model={VARIANTS}", *options, results_dir=tmp_path / "killed")
    assert final.returncode == 0
    calm, killed = (
        {run.folder.name: run.metrics for run in read_runs(tmp_path / name / "runs")}
        for name in ("calm", "killed")
    )
    assert calm.keys() == killed.keys()
    for name, metrics in calm.items():
        pd.testing.assert_frame_equal(metrics, killed[name])


def test_help_is_quick_and_names_the_options(tmp_path):
    # Time of the processor, which other programs do not prolong.
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    result = subprocess.run(
        command("--help", results_dir=tmp_path),
        capture_output=True, text=True, check=False, env=environment(),
    )  # fmt: skip
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 3
    assert result.returncode == 0
    for text in ("icnn_skip", "trainer", "python run.py -m", "convexinit_paper.figures"):
        assert text in result.stdout
