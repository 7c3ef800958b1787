"""Walks between molecules: on the level, in the box; what breaks without convexity; Figure 4."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from omegaconf import OmegaConf
from rdkit import Chem
from rdkit.Chem import rdFingerprintGenerator

from convexinit.molecules import Codec, load_codec
from convexinit_paper.data import encoded
from convexinit_paper.data.datasets import load_multitask
from convexinit_paper.data.multitask import MoleculeSet
from convexinit_paper.experiments import run_experiment
from convexinit_paper.experiments.level_sets.convexity import crossed_twice, midpoints
from convexinit_paper.experiments.level_sets.molecules import Library, at_bottom, low_window
from convexinit_paper.experiments.level_sets.settings import LevelSetSettings
from convexinit_paper.experiments.level_sets.summary import as_arrays, summarise
from convexinit_paper.experiments.level_sets.walking import walk_where_possible
from convexinit_paper.figures import catalogue
from convexinit_paper.figures.__main__ import main
from convexinit_paper.figures.drawings.molecule import draw_molecule, parse_outline
from convexinit_paper.figures.drawings.walks import percent, stored_table
from convexinit_paper.figures.select import Panel
from convexinit_paper.request.config import CONF, composed
from convexinit_paper.request.options import ConfigError
from convexinit_paper.store.runs import read_run
from support.drawn import drawn as draw
from support.drawn import table_of, words_in

pytestmark = pytest.mark.slow

TASKS = ["tertiary-amine", "michael-acceptor"]


class NearestCodec(Codec):
    """Projected fingerprints; decoding names the nearest known molecule, and nonsense far away."""

    name = "nearest"
    dimensions = 24
    # The one that the configuration asks for, so that figures take its runs.
    digest = OmegaConf.load(CONF / "codec" / "autoencoder.yaml").digest

    def __init__(self, smiles):
        self._generator = rdFingerprintGenerator.GetMorganGenerator(radius=1, fpSize=256)
        self._weights = np.random.default_rng(0).normal(size=(256, self.dimensions)) / 5
        self.known = list(dict.fromkeys(item.smiles for item in self.prepare(smiles)))
        self.codes = self._encode_canonical(self.known)

    def _encode_canonical(self, canonical):
        bits = [self._generator.GetFingerprintAsNumPy(Chem.MolFromSmiles(x)) for x in canonical]
        return np.tanh(np.stack(bits) @ self._weights).astype(np.float32)

    def decode(self, codes, beam=1):
        distances = ((self.codes - codes[:, None]) ** 2).sum(2)
        return [self.known[row.argmin()] if row.min() < 5 else "C1CC(" for row in distances]


def config_of(results, model="icnn_init", *options):
    arguments = [
        "experiment=level_sets", f"model={model}", "dataset.name=structural_alerts",
        "trainer.epochs=20", "trainer.batch_size=64", "trainer.device=cpu",
        "trainer.learning_rate=5e-3",
        "dropout.input=0.0", "dropout.hidden=0.0", "model.bias_noise=0.5",
        f"level_sets.tasks=[{','.join(TASKS)}]", "level_sets.trajectories=12",
        "level_sets.steps=5", f"results_dir={results}", *options,
    ]  # fmt: skip
    return composed(*arguments)


def head(molecules, count):
    return MoleculeSet(
        molecules.smiles[:count], molecules.sample_ids[:count], molecules.labels[:count]
    )


@pytest.fixture(scope="module")
def data():
    """A part of the stand-in, because standardising molecules takes most of the time."""
    full = load_multitask("structural_alerts", "")
    return dataclasses.replace(
        full,
        train=head(full.train, 600),
        validation=head(full.validation, 50),
        test=head(full.test, 50),
    )


@pytest.fixture(scope="module")
def codec(data):
    return NearestCodec(data.train.smiles + data.validation.smiles + data.test.smiles)


@pytest.fixture(scope="module")
def replaced(codec, data):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(encoded, "load_codec", lambda name, **_: codec)
        patch.setattr(encoded, "load_multitask", lambda *_: data)
        yield


@pytest.fixture(scope="module")
def runs(replaced, tmp_path_factory):
    results = tmp_path_factory.mktemp("results")
    return {
        model: read_run(run_experiment(config_of(results, model)))
        for model in ("icnn_init", "nonconvex")
    }


def value(run, task, metric):
    rows = run.metrics.query("split == @task and metric == @metric")
    return rows["value"].item()


# --- The experiment ------------------------------------------------------------------------------


def test_walks_stay_on_the_level_and_in_the_box(runs, codec):
    for run in runs.values():
        walks = stored_table(run, "trajectories")
        points = stored_table(run, "points")
        assert walks.groupby("task").size().to_dict() == dict.fromkeys(TASKS, 12)
        walked = walks[walks["status"] == "walked"]
        assert walked["residual"].max() <= 1e-9
        assert walked["in_box"].all()
        joined = points.merge(walked, on=["task", "trajectory"], suffixes=("", "_walk"))
        assert len(joined) == len(points) == 6 * len(walked)
        np.testing.assert_allclose(joined["logit"], joined["level"], rtol=2e-9, atol=2e-9)
        # A walk starts at its molecule, which returns from its code, and does not stay there.
        first = joined[joined["point"] == 0]
        assert (first["smiles"] == first["start"]).all()
        assert (first["similarity_start"] == 1).all()
        np.testing.assert_allclose(first["own_logit"], first["level"], rtol=1e-5, atol=1e-5)
        assert joined.groupby(["task", "trajectory"])["smiles"].nunique().mean() > 1.5


def test_starts_are_predicted_low_but_not_lowest(runs, codec):
    walks = stored_table(runs["icnn_init"], "trajectories")
    for _, here in walks.groupby("task"):
        assert here["level"].max() < here["target_logit"].max()
        assert here["level"].min() > here["target_logit"].min()  # of targets at the bottom
        assert (here["start"] != here["target"]).all()
        assert set(here["start"]) <= set(codec.known)


def test_nothing_breaks_in_a_convex_network_and_something_in_another(runs):
    for task in TASKS:
        for metric in ("failed", "crossed_twice", "mean_above", "midpoints_above"):
            assert value(runs["icnn_init"], task, metric) == 0
        assert value(runs["nonconvex"], task, "midpoints_above") > 0


def test_the_summary_holds_the_metrics_of_every_task(runs):
    run = runs["icnn_init"]
    assert run.summary["tasks"] == TASKS
    assert "stand-in" in run.summary["dataset"]
    assert run.summary["data"]["missing_labels"] > 0
    final = run.summary["seeds"]["0"]
    for task in TASKS:
        for metric in ("valid", "distinct", "qed_range", "own_change", "similarity_start"):
            assert final[f"{task}_{metric}"] == pytest.approx(value(run, task, metric))
    assert set(run.metrics["epoch"]) == {20}


def test_the_same_request_gives_the_same_walks(runs, tmp_path):
    again = read_run(run_experiment(config_of(tmp_path)))
    pd.testing.assert_frame_equal(again.metrics, runs["icnn_init"].metrics)


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("level_sets.tasks=[phenol,phenyl]", "level_sets.tasks must be .*aniline"),
        ("level_sets.tasks=[]", "level_sets.tasks must be"),
    ],
)
def test_wrong_tasks_are_named(replaced, tmp_path, option, message):
    with pytest.raises(ConfigError, match=message):
        run_experiment(config_of(tmp_path, "icnn_init", option))


def test_codes_that_cannot_be_decoded_are_refused(replaced, tmp_path, monkeypatch):
    monkeypatch.setattr(encoded, "load_codec", load_codec)
    with pytest.raises(ConfigError, match=r"codec.name must be .*codec=autoencoder.*'ecfp'"):
        run_experiment(config_of(tmp_path, "icnn_init", "codec=ecfp"))


def test_a_codec_from_which_nothing_returns_is_refused(replaced, codec, tmp_path, monkeypatch):
    monkeypatch.setattr(codec, "decode", lambda codes, beam: ["CC"] * len(codes), raising=True)
    with pytest.raises(ConfigError, match=r"level_sets.round_trip=false"):
        run_experiment(config_of(tmp_path))


# --- Its parts -----------------------------------------------------------------------------------


def bowl(points):
    return points.square().sum(1)


def two_wells(points):
    """Not convex: wells around -2 and 2 on the first axis, a ridge between them."""
    return (points[:, 0].abs() - 2).square() + points[:, 1:].square().sum(1)


@pytest.mark.parametrize(("f", "crossed"), [(bowl, 0.0), (two_wells, 1.0)])
def test_rays_that_cross_twice_are_found(f, crossed):
    interior = torch.tensor([[-2.0, 0.0]], dtype=torch.float64)
    segment = torch.tensor([[[1.5, 0.1], [1.5, -0.1]]], dtype=torch.float64)
    level = torch.tensor([4.5 if f is bowl else 1.0], dtype=torch.float64)
    assert f(interior) < level
    share = crossed_twice(f, segment, interior, level, torch.full((1,), 1e-9))
    assert share.tolist() == [crossed]


def test_midpoints_above_the_level_are_found():
    points = torch.tensor([[[-1.0, 0.0], [1.0, 0.0], [-3.0, 0.0]]], dtype=torch.float64)
    level, allowed = torch.ones(1, dtype=torch.float64), torch.full((1,), 1e-9)
    above, excess = midpoints(two_wells, points, level, allowed)
    # Of the three midpoints 0, -2 and -1, the first is on the ridge, at 4.
    assert above.tolist() == [pytest.approx(1 / 3)]
    assert excess.tolist() == [3.0]
    circle = points / points.norm(dim=2, keepdim=True)
    assert [part.tolist() for part in midpoints(bowl, circle, level, allowed)] == [[0.0], [0.0]]


def settings(**options):
    usual = composed("experiment=level_sets")["level_sets"]
    return LevelSetSettings(**{**usual, **options})


def test_walks_that_fail_do_not_keep_the_others():
    ends = torch.tensor([[[3.0, 0.0], [0.0, 4.0]]] * 3, dtype=torch.float64)
    segment = torch.lerp(ends[:, :1], ends[:, 1:], torch.linspace(0, 1, 5).double().view(-1, 1))
    interior = torch.tensor([[0.0, 0.0], [5.0, 0.0], [1.0, 0.0]], dtype=torch.float64)
    points, status = walk_where_possible(bowl, segment, interior, settings(steps=4))
    assert status == ["walked", "interior is not below the level f(start)", "walked"]
    assert points[1].isnan().all()
    assert torch.allclose(points[[0, 2]].square().sum(2), torch.tensor(9.0).double(), atol=1e-8)


def test_rays_go_on_along_the_faces_of_the_box():
    library = Library([], torch.tensor([[-1.0, -1.0], [1.0, 1.0]], dtype=torch.float64))
    start = torch.tensor([[1.0, 0.9]], dtype=torch.float64)
    target = torch.tensor([[0.9, -0.2]], dtype=torch.float64)
    segment = torch.lerp(start, target, torch.tensor([[0.0], [1.0]]).double())
    interior = torch.zeros_like(start)
    free, _ = walk_where_possible(bowl, segment[None], interior, settings(steps=1))
    kept, _ = walk_where_possible(bowl, segment[None], interior, settings(steps=1), library.clamp)
    assert free.abs().max() > 1.1
    assert kept.abs().max() <= 1.0
    assert bowl(kept[:, 1]).item() == pytest.approx(1.81, abs=1e-8)


def test_a_flat_bottom_is_no_place_to_start():
    values = torch.tensor([1.0, 1.0, 1.0 + 1e-12, 2.0, 3.0, 4.0], dtype=torch.float64)
    assert at_bottom(values).tolist() == [True] * 3 + [False] * 3
    assert low_window(values, [0.0, 1.0]) == (2.0, 4.0)
    assert low_window(torch.ones(5), [0.1, 0.4]) == (1.0, 1.0)


def test_summary_numbers():
    trajectories = pd.DataFrame(
        {
            "trajectory": [0, 1, 2, 3], "status": ["walked", "walked", "walked", "no"],
            "level": [0.0, 0.0, 0.0, 0.0], "start_qed": [0.5, 0.5, 0.5, 0.5],
            "target_logit": [2.0, 4.0, 9.0, 9.0], "in_box": [True, True, False, False],
            "residual": [1e-8, 2e-8, 3e-8, np.nan], "similarity": [0.1, 0.3, 0.9, 0.9],
            "crossed_twice": [0.0, 0.5, 0.5, 1.0], "mean_above": [False, True, True, True],
            "midpoints_above": [0.0, 0.3, 0.3, np.nan], "midpoint_excess": [0.0, 1.0, 2.0, np.nan],
        }
    )  # fmt: skip
    points = pd.DataFrame(
        {
            "trajectory": [0, 0, 0, 1, 1, 1, 2, 2, 2], "point": [0, 1, 2] * 3,
            "smiles": ["A", "B", "", "A", "C", "C", "A", "", ""],
            "qed": [0.5, 0.9, np.nan, 0.5, 0.2, 0.2, 0.5, np.nan, np.nan],
            "own_logit": [0.0, 0.1, np.nan, 0.0, 3.0, 3.0, 0.0, np.nan, np.nan],
            "similarity_start": [1, 0.2, np.nan, 1, 0.4, 0.4, 1, np.nan, np.nan],
            "similarity_target": [0, 0.6, np.nan, 0, 0.8, 0.8, 0, np.nan, np.nan],
            "in_hull": [True, True, False, True, True, True, True, False, False],
        }
    )  # fmt: skip
    summary = summarise(trajectories, points, low=0.5)
    expected = {
        "trajectories": 4, "failed": 1 / 4, "left_box": 1 / 3, "residual": 3e-8,
        "points_in_hull": 3 / 6, "crossed_twice": 0.5, "mean_above": 0.75, "midpoints_above": 0.2,
        "midpoint_excess": 2, "valid": 3 / 4, "distinct": 2, "qed_min": 0.35, "qed_max": 0.7,
        "qed_range": 0.35, "qed_gain": (0.4 + 0.0) / 2, "toxicity": 0.5, "own_change": 3.0,
        "target_change": 3.0, "still_low": 1 / 3, "similarity_start": 0.4,
        "similarity_target": 0.8, "similarity_ends": 0.2,
    }  # fmt: skip
    assert summary == pytest.approx(expected)


def test_tables_survive_as_arrays(tmp_path):
    table = pd.DataFrame(
        {"text": ["", "C#N", "é"], "number": [1.5, np.nan, 2.0], "yes": [True] * 3}
    )
    np.savez(tmp_path / "arrays.npz", **as_arrays("t", [table[:1], table[1:]]))
    with np.load(tmp_path / "arrays.npz", allow_pickle=False) as archive:
        for name in table:
            np.testing.assert_array_equal(archive[f"t.{name}"], table[name])


# --- Figure 4 and its table ----------------------------------------------------------------------


@pytest.fixture
def drawn(runs, monkeypatch, tmp_path, capsys):
    """Figure and table from the runs above, whose options are taken as those of the figures."""
    root = runs["icnn_init"].folder.parents[1]
    options = {
        "level_sets.tasks": TASKS, "level_sets.steps": 5, "level_sets.trajectories": 12,
        "dropout.input": 0.0, "dropout.hidden": 0.0, "model.bias_noise": 0.5,
        "trainer.batch_size": 64, "trainer.learning_rate": 5e-3,
    }  # fmt: skip
    for name, models in (("figure-4", ["icnn_init"]), ("level-sets", ["nonconvex", "icnn_init"])):
        compared = dict.fromkeys(models, options)
        panel = Panel("level_sets", "level sets", compared, {"dataset": "structural_alerts"})
        figure = dataclasses.replace(catalogue.FIGURES[name], demo=[panel])
        monkeypatch.setitem(catalogue.FIGURES, name, figure)
    arguments = ["--scale", "demo", "--runs", str(root), "--out", str(tmp_path)]
    main(["figure-4", "level-sets", *arguments])
    return tmp_path, root, capsys.readouterr().out


def test_files_are_written(drawn):
    folder, _, output = drawn
    pdf = (folder / "figures" / "figure-4.pdf").read_bytes()
    assert pdf.startswith(b"%PDF-")
    assert b"/Subtype /Image" not in pdf  # molecules are outlines
    assert (folder / "figures" / "figure-4.png").read_bytes().startswith(b"\x89PNG")
    assert "missing" not in output
    table = pd.read_csv(folder / "tables" / "level-sets.csv")
    assert len(table) == 4
    assert set(table["model"]) == {"non-convex", "ICNN + init"}
    assert (table.query("model == 'ICNN + init'")["crossed_twice"] == 0).all()
    assert (
        "| non-convex | tertiary-amine | 0% | 12 |"
        in (folder / "tables" / "level-sets.md").read_text()
    )


def test_still_low_stands_beside_what_chance_would_give(drawn, runs):
    folder, _, _ = drawn
    table = pd.read_csv(folder / "tables" / "level-sets.csv").set_index(["model", "task"])
    quantiles = runs["icnn_init"].config["level_sets"]["low_toxicity"]
    for task in TASKS:
        row = table.loc[("ICNN + init", task)]
        # Values of which as many are at the bottom as the network has molecules there.
        values = torch.linspace(0.0, 1.0, 10_000, dtype=torch.float64)
        values[: round(row["at_bottom"] * 10_000)] = -1.0
        _, low = low_window(values, quantiles)
        share = (values <= low).double().mean().item()
        assert row["low_by_chance"] == pytest.approx(share, abs=2e-3)


def test_the_walk_shown_has_the_most_distinct_molecules(drawn, runs):
    folder, _, _ = drawn
    shown = pd.read_csv(folder / "tables" / "figure-4.csv")
    points = stored_table(runs["icnn_init"], "points")
    for task, rows in shown.groupby("task"):
        valid = points[(points["task"] == task) & (points["smiles"] != "")]
        distinct = valid.groupby("trajectory")["smiles"].nunique()
        assert distinct[rows["trajectory"].iloc[0]] == distinct.max()
        assert rows["role"].tolist() == ["start", *["level set"] * (len(rows) - 2), "target"]
        on_level = rows[rows["role"] != "target"]["toxicity"]
        assert on_level.max() - on_level.min() < 1e-6
        assert rows["smiles"].is_unique


def test_the_figure_says_what_it_shows(drawn):
    _, root, _ = drawn
    numbers = table_of(root.parent, "figure-4", "demo")
    words = words_in(draw(root.parent, "figure-4", "demo"))
    assert any("stand-in for Tox21" in text and "seed 0" in text for text in words)
    assert set(TASKS) <= set(words)
    for row in numbers.to_dict("records"):
        assert f"QED {row['qed']:.2f}" in words
        assert f"predicted {percent(row['toxicity'])}" in words


def test_a_positive_charge_is_drawn_with_all_its_arms():
    figure = Figure(figsize=(0.8, 0.7), dpi=300)
    axes = figure.add_axes((0, 0, 1, 1))
    draw_molecule(axes, "Nc1cc(O)c([N+](=O)[O-])cc1Cl")
    # Snapped to pixels, narrow outlines with right angles lose width: the plus looks like a dash.
    assert {patch.get_snap() for patch in axes.patches} == {False}


def test_missing_runs_are_named_with_their_command(tmp_path, capsys):
    with pytest.raises(SystemExit, match="no runs for figure-4"):
        main(["figure-4", "--runs", str(tmp_path), "--out", str(tmp_path)])
    assert "run.py -m experiment=level_sets model=icnn_init" in capsys.readouterr().out


def test_outlines_of_svg_paths():
    outline = parse_outline("M 1.5,2 L 3,4 Q 1,1 -2,0 Z M 0,0 L 1,1")
    assert outline.vertices.tolist() == [
        [1.5, 2], [3, 4], [1, 1], [-2, 0], [1.5, 2], [0, 0], [1, 1],
    ]  # fmt: skip
    assert outline.codes.tolist() == [1, 2, 3, 3, 79, 1, 2]


def test_stored_texts_are_json_safe(runs):
    # NaN has no place in JSON: metrics without value are null.
    text = (runs["nonconvex"].folder / "summary.json").read_text()
    assert json.loads(text, parse_constant=lambda name: pytest.fail(name))
