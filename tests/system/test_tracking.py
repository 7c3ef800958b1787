"""Weights & Biases: local files hold what metrics.csv holds, and no fault of theirs costs a run."""

import json
import math
import shlex
import shutil
import subprocess
import sys
from contextlib import contextmanager

import pandas as pd
import pytest
import yaml

from convexinit_paper import experiments
from convexinit_paper.request.config import composed
from convexinit_paper.request.request import WandbSettings
from convexinit_paper.store.locks import claimed
from convexinit_paper.store.runs import COLUMNS, Outcome, read_run, read_runs
from convexinit_paper.tracking import history, log_run, main
from support.commands import SHORT, environment, folder_of, run
from support.data import ROOT
from support.runs import config_of, stored


def records(results_dir):
    """What an offline run wrote, as (kind, record): a log in the format of LevelDB.

    Blocks of 32 KiB, the first with a header of 7 bytes; in them pieces with a checksum (4 bytes),
    a length (2) and a type (1: whole, 2 to 4: first, middle and last part of a record).
    """
    from wandb.proto.wandb_internal_pb2 import Record

    [path] = results_dir.glob("wandb/offline-run-*/run-*.wandb")
    data, position, parts = path.read_bytes(), 7, b""
    while position < len(data):
        if 32768 - position % 32768 < 7:  # no room for another piece: zeros
            position += 32768 - position % 32768
            continue
        length = int.from_bytes(data[position + 4 : position + 6], "little")
        kind = data[position + 6]
        piece = data[position + 7 : position + 7 + length]
        parts = piece if kind in (1, 2) else parts + piece
        if kind in (1, 4):
            record = Record.FromString(parts)
            yield record.WhichOneof("record_type"), record
        position += 7 + length


def items(update):
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in update}


def recorded_metrics(results_dir):
    """The history of an offline run in the layout of metrics.csv."""
    rows = []
    for kind, record in records(results_dir):
        if kind != "history":
            continue
        values = items(record.history.item)
        for key, value in values.items():
            if key.startswith("seed_"):
                seed, split, metric = key.split("/")
                seed = int(seed.removeprefix("seed_"))
                row = (seed, values["epoch"], values["step"], split, metric, float(value))
                rows.append(row)
    return pd.DataFrame(rows, columns=COLUMNS)


def assert_same_rows(one, other):
    keys = COLUMNS[:-1]
    assert not one.duplicated(keys).any()
    one, other = (table.sort_values(keys, ignore_index=True) for table in (one, other))
    pd.testing.assert_frame_equal(one, other, check_exact=True, check_dtype=False)


def test_the_history_read_back_from_local_files_is_metrics_csv(tmp_path):
    result = run(*SHORT, "logger=wandb", "model=icnn", results_dir=tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    folder = folder_of(result)
    assert_same_rows(recorded_metrics(tmp_path), pd.read_csv(folder / "metrics.csv"))
    kinds = dict(records(tmp_path))  # the last record of each kind
    assert kinds["run"].run.run_group == "digits"
    assert kinds["run"].run.display_name == "icnn"
    assert kinds["run"].run.project == "convexinit"
    options = items(kinds["run"].run.config.update)
    assert options["trainer"] == yaml.safe_load((folder / "config.yaml").read_text())["trainer"]
    logged = {}
    for kind, record in records(tmp_path):
        if kind == "summary":
            logged |= items(record.summary.update)
    summary = json.loads((folder / "summary.json").read_text())
    assert logged["seed_1"] == summary["seeds"]["1"]
    assert logged["git_revision"] == summary["git_revision"]

    # The same run for csv, disabled, and once more is stored in the same folder.
    for options in (("logger=csv",), ("logger=wandb", "logger.mode=disabled"), ("logger=wandb",)):
        again = run(*SHORT, *options, "model=icnn", results_dir=tmp_path)
        assert folder_of(again) == folder
        assert again.stderr == ""


@pytest.mark.parametrize("mode", [[], ["-m"]])
def test_a_run_that_was_stored_without_being_sent_is_named(tmp_path, mode):
    folder = folder_of(run(*SHORT, results_dir=tmp_path))
    again = run(*mode, *SHORT, "logger=wandb", results_dir=tmp_path)
    assert again.returncode == 0
    assert not (tmp_path / "wandb").exists()
    warning, command, *_ = again.stderr.splitlines()
    assert warning == "warning: runs that were stored before are not sent (1); this sends them:"
    arguments = shlex.split(command)[3:]
    assert str(folder) in arguments
    main(arguments)
    assert_same_rows(recorded_metrics(tmp_path), read_run(folder).metrics)


def test_a_run_that_another_process_stored_without_sending_it_is_named(
    tmp_path, monkeypatch, capsys
):
    options = [*SHORT, f"results_dir={tmp_path}"]

    @contextmanager
    def claimed_after_another(folder):
        monkeypatch.setattr(experiments, "claimed", claimed)
        experiments.run_experiment(composed(*options))
        with claimed(folder):
            yield

    monkeypatch.setattr(experiments, "claimed", claimed_after_another)
    folder = experiments.run_experiment(composed(*options, "logger=wandb"))
    assert f"--mode offline {folder} " in capsys.readouterr().err


def test_who_is_not_logged_in_is_told_so_in_one_message(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "convexinit_paper.tracking", "--mode=online", fabricated(tmp_path)],
        capture_output=True, text=True, check=False, cwd=tmp_path,
        env=environment(HOME=str(tmp_path), WANDB_API_KEY=""),
    )  # fmt: skip
    assert result.returncode == 1
    assert result.stderr.startswith("error: ")
    assert "wandb login" in result.stderr
    assert "Traceback" not in result.stderr


LOSS = {(1, 1, "train", "batch_loss"): 1.0}


def fabricated(results_dir, values=LOSS):
    rows = [
        (seed, epoch, step, split, metric, value)
        for (epoch, step, split, metric), value in values.items()
        for seed in (0, 3)
    ]
    config = config_of(results_dir, seeds=[0, 3])
    return stored(config, Outcome(pd.DataFrame(rows, columns=COLUMNS), {0: {}, 3: {}}, "none"))


def wandb_settings(folder, mode="offline"):
    return WandbSettings(mode, "p", None, str(folder))


def test_diverged_losses_and_equal_steps_survive(tmp_path):
    """NaN and infinity; two epochs at one step, and one metric of two splits."""
    values = {
        (0, 0, "validation", "loss"): 2.5,
        (1, 1, "train", "batch_loss"): math.inf,
        (1, 2, "train", "batch_loss"): math.nan,
        (1, 2, "validation", "loss"): -math.inf,
        (1, 2, "test", "loss"): 1e-30,
        (2, 2, "validation", "loss"): 0.123456789,
    }
    folder = fabricated(tmp_path, values)
    log_run(folder, wandb_settings(tmp_path))
    assert_same_rows(recorded_metrics(tmp_path), read_run(folder).metrics)
    steps = [(row["step"], row["epoch"]) for row in history(read_run(folder))]
    assert steps == [(0, 0), (1, 1), (2, 1), (2, 2)]


def test_a_fault_of_wandb_is_a_warning(tmp_path, monkeypatch, capsys):
    folder = fabricated(tmp_path)
    monkeypatch.setattr("wandb.init", lambda **_: 1 / 0)
    log_run(folder, wandb_settings(tmp_path))
    message = capsys.readouterr().err
    assert "the run is stored, but was not logged (ZeroDivisionError" in message
    assert f"python -m convexinit_paper.tracking --mode offline {folder}" in message


def test_disabled_writes_nothing(tmp_path):
    log_run(fabricated(tmp_path), wandb_settings(tmp_path, "disabled"))
    assert not (tmp_path / "wandb").exists()
    assert len(read_runs(tmp_path / "runs")) == 1


def test_stored_runs_and_figures_are_sent_by_hand(tmp_path, capsys):
    folder = fabricated(tmp_path)
    figure = ROOT / "results" / "figures" / "figure-1.png"
    main(["--folder", str(tmp_path / "run"), str(folder)])
    assert_same_rows(recorded_metrics(tmp_path / "run"), read_run(folder).metrics)
    main(["--folder", str(tmp_path / "figure"), str(figure)])
    [image] = (tmp_path / "figure").glob("wandb/offline-run-*/files/media/images/*.png")
    assert image.read_bytes() == figure.read_bytes()
    for path, message in ((str(tmp_path), "there is no run in"), ("a.png", "there is no file")):
        with pytest.raises(SystemExit):
            main(["--folder", str(tmp_path), path])
        assert message in capsys.readouterr().err


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_offline_touches_no_network(tmp_path):
    folder = fabricated(tmp_path)
    trace = tmp_path / "trace"
    tracking = [
        sys.executable,
        "-m",
        "convexinit_paper.tracking",
        "--folder",
        str(tmp_path),
        str(folder),
    ]
    subprocess.run(
        ["strace", "-f", "-e", "trace=connect,sendto,sendmsg", "-o", trace, *tracking],
        check=True,
        env=environment(),
        cwd=ROOT,
    )
    calls = trace.read_text()
    assert "AF_UNIX" in calls  # wandb's own service
    assert "AF_INET" not in calls
    assert recorded_metrics(tmp_path).shape == (2, 6)
