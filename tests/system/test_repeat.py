"""A run is made again from its config.yaml alone, with the same numbers."""

import shutil

import pandas as pd
import pytest
import yaml

from convexinit_paper.repeat import compare, main, repeated_folder
from convexinit_paper.store.runs import COLUMNS, Run
from support.commands import folder_of, run
from support.data import ROOT
from support.runs import rewrite


def table(*values):
    rows = [(0, 1, step, "train", "batch_loss", value) for step, value in enumerate(values)]
    return pd.DataFrame(rows, columns=COLUMNS)


def test_config_yaml_alone_makes_the_same_run(tmp_path, capsys):
    # Options of every kind that differ from the defaults.
    first = run(
        "seeds=[1,4]", "trainer.epochs=2", "model=icnn_skip", "model.num_hidden=2",
        "dataset.validation_fraction=0.2", "trainer.weight_decay=1e-4", results_dir=tmp_path / "a",
    )  # fmt: skip
    folder = folder_of(first)
    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copyfile(folder / "config.yaml", alone / "config.yaml")

    # Hydra's own way, in another folder (Hydra leaves a log there).
    again = run(
        "--config-path", str(alone), "--config-name", "config",
        cwd=tmp_path, results_dir=tmp_path / "b",
    )  # fmt: skip
    assert again.returncode == 0, again.stderr
    copy = folder_of(again)
    assert copy.relative_to(tmp_path / "b") == folder.relative_to(tmp_path / "a")
    assert (copy / "metrics.csv").read_bytes() == (folder / "metrics.csv").read_bytes()

    main([str(folder)])
    output = capsys.readouterr().out
    assert f"run: {tmp_path / 'a' / 'repeated'}" in output
    assert "identical: all " in output

    # Numbers that are not what its configuration gives.
    metrics = pd.read_csv(folder / "metrics.csv")
    metrics.loc[7, "value"] *= 1.001
    rewrite(folder, metrics)
    with pytest.raises(SystemExit):
        main([str(folder), "--results-dir", str(tmp_path / "c")])
    output = capsys.readouterr().out
    assert "different: 1 of" in output
    assert "torch" in output

    # A damaged run is not made again.
    (folder / "metrics.csv").write_text("seed,epoch,step,split,metric,value\n0,x,1,a,b,1\n")
    with pytest.raises(SystemExit):
        main([str(folder), "--results-dir", str(tmp_path / "d")])
    assert capsys.readouterr().err.startswith(f"error: the run in {folder} cannot be read")
    assert not (tmp_path / "d").exists()


def test_a_run_under_another_name_than_that_of_an_experiment_is_made_again(tmp_path, capsys):
    folder = folder_of(run("seeds=1", "trainer.epochs=1", "name=mine", results_dir=tmp_path))
    main([str(folder)])
    assert "identical: all " in capsys.readouterr().out


def test_a_recorded_run_is_made_again_on_any_machine(tmp_path, capsys):
    """Numbers differ between machines, so only the way from the file to the run is tested."""
    [recorded] = [
        path.parent
        for path in (ROOT / "results" / "recorded" / "digits").glob("nonconvex-*/config.yaml")
        if yaml.safe_load(path.read_text())["model"]["num_hidden"] == 3
    ]
    short = tmp_path / recorded.name
    shutil.copytree(recorded, short)
    config = yaml.safe_load((short / "config.yaml").read_text())
    config["trainer"]["epochs"], config["seeds"] = 1, [0]
    (short / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(SystemExit):
        main([str(short), "--results-dir", str(tmp_path / "results")])
    output = capsys.readouterr().out
    assert "measurements are not there" in output  # the other epochs and seeds
    assert len(list(tmp_path.glob("results/runs/digits/nonconvex-*/metrics.csv"))) == 1


@pytest.mark.parametrize(
    ("folder", "expected"),
    [
        ("results/runs/digits/icnn-0", "results/repeated"),
        ("results/recorded/digits/icnn-0", "results/repeated"),
        ("results/../elsewhere/runs/digits/icnn-0", "elsewhere/repeated"),
        ("copies/icnn-0", "copies/repeated"),
    ],
)
def test_a_run_is_made_again_in_the_folder_of_results_that_it_lies_in(tmp_path, folder, expected):
    assert repeated_folder(Run(tmp_path / folder, {"name": "digits"}, {})) == tmp_path / expected


@pytest.mark.parametrize(
    ("again", "expected", "is_equal"),
    [
        (table(1.0, float("nan"), 3.0), "identical: all 3", True),
        (table(1.0000001, float("nan"), 3.0), "identical to six digits", True),
        (table(1.01, float("nan"), 3.0), "different: 1 of 3 measurements, by", False),
        (table(1.0, 2.0, 3.0), "different: 1 of 3", False),
        (table(1.0, float("nan")), "different: 1 of 3 measurements are not there", False),
        (table(1.0, float("nan"), 3.0, 4.0), "identical: all 3", True),
    ],
)  # fmt: skip
def test_tables_are_compared_by_value(again, expected, is_equal):
    verdict, same = compare(table(1.0, float("nan"), 3.0), again)
    assert verdict.startswith(expected)
    assert same == is_equal


def test_messages_name_the_arguments_of_this_command(tmp_path, capsys):
    recorded, *_ = (ROOT / "results" / "recorded" / "mnist").glob("icnn-*")
    places = ["--results-dir", str(tmp_path), "--data-dir", str(tmp_path / "none")]
    with pytest.raises(SystemExit):
        main([str(recorded), *places])
    assert "To use another folder:  --data-dir=<folder>" in capsys.readouterr().err


def test_a_folder_without_a_run_is_named(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([str(tmp_path)])
    assert f"there is no run in {tmp_path}" in capsys.readouterr().err
