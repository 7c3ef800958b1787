"""Table 1: statistics, sign tests, and the files made from stored runs."""

import io
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from convexinit_paper.figures.__main__ import main
from convexinit_paper.figures.tables import published, table_1
from convexinit_paper.figures.tables.statistics import binomial_tail, sign_test, spread
from convexinit_paper.figures.variants import MODELS, title_of
from convexinit_paper.store.errors import RunError
from support.data import ROOT
from support.drawn import selected, table_of
from support.stored import ASSAYS, STAND_IN, store_toxicity

PAPER = ROOT.parent / "shared" / "paper.md"
needs_paper = pytest.mark.skipif(not PAPER.is_file(), reason=f"the paper's text is not at {PAPER}")


def random_aurocs(seed=0, seeds=10):
    return np.random.default_rng(seed).uniform(0.5, 1.0, (seeds, len(ASSAYS))).round(4)


def sign_tests_of(root):
    return table_1.sign_tests(selected(root, "table-1"))


@pytest.fixture
def root(tmp_path):
    return tmp_path / "results"


def written(root, out, scale="paper"):
    main(["table-1", "--scale", scale, "--runs", str(root / "runs"), "--out", str(out)])
    return {path.name: path.read_text() for path in (out / "tables").iterdir()}


# --- Statistics ------------------------------------------------------------------------------


@given(st.lists(st.floats(0.0, 100.0), min_size=1, max_size=30))
def test_median_and_error_against_sorting(values):
    def quantile(level):  # linear interpolation between the two nearest, by hand
        ordered = sorted(values)
        place = level * (len(ordered) - 1)
        below = int(place)
        above = min(below + 1, len(ordered) - 1)
        return ordered[below] + (place - below) * (ordered[above] - ordered[below])

    median, error = spread(np.array(values))
    assert median == pytest.approx(quantile(0.5), abs=1e-9)
    expected = max(quantile(0.5) - quantile(0.05), quantile(0.95) - quantile(0.5))
    assert error == pytest.approx(expected, abs=1e-9)


def test_values_that_are_not_finite_are_left_out():
    values = np.array([1.0, np.nan, 3.0, np.inf])
    assert spread(values) == spread(np.array([1.0, 3.0]))
    assert np.isnan(spread(np.array([np.nan]))).all()


@given(st.integers(0, 150), st.integers(0, 150))
@settings(max_examples=50, deadline=None)
def test_binomial_tail_against_scipy(wins, losses):
    expected = 1.0
    if wins + losses:
        expected = stats.binomtest(wins, wins + losses, 0.5, alternative="greater").pvalue
    assert binomial_tail(wins, losses) == pytest.approx(expected, rel=1e-9)


def test_sign_test_counts_every_pair_once():
    first = np.array([[2.0, 1.0, 5.0], [np.nan, 1.0, 4.0]])
    second = np.array([[1.0, 1.0, 6.0], [1.0, np.inf, 3.0]])
    result = sign_test(first, second)
    assert result == (2, 1, 1, 2, 0.5)
    other_way = sign_test(second, first)
    assert (other_way.wins, other_way.losses, other_way.ties) == (1, 2, 1)
    assert sign_test(first[:, :0], second[:, :0]).p == 1.0


# --- The paper's numbers -----------------------------------------------------------------------


@needs_paper
def test_the_paper_s_rows_are_those_of_its_table():
    text = PAPER.read_text().split("Table 1: Area under the ROC curve")[1]
    titles = {
        "ICNN+init (ours)": "icnn_init",
        "ICNN": "icnn",
        "ICNN+skip": "icnn_skip",
        "non-convex": "nonconvex",
    }
    names: list[str] = []
    found: dict[str, list[tuple[float, float]]] = {model: [] for model in published.AUROCS}
    for line in text.splitlines():
        head, *entries = (entry.strip() for entry in line.split("\t"))
        if not head and entries and entries[0].startswith(("NR.", "SR.")):
            names += [re.sub(r"\s*\$\\gamma\$", ".gamma", entry) for entry in entries if entry]
        elif head in titles:
            pairs = (re.findall(r"\d+\.\d+", entry) for entry in entries if entry)
            found[titles[head]] += [(float(median), float(error)) for median, error in pairs]
    assert tuple(names) == published.ASSAYS
    assert {
        model: tuple(zip(*pairs, strict=True)) for model, pairs in found.items()
    } == published.AUROCS


@needs_paper
def test_the_paper_s_p_values_are_those_of_its_text():
    text = PAPER.read_text()
    values = re.findall(r"-value\s+\$(\d\.\de-\d+)\$", text)
    assert [float(value) for value in values] == list(published.P_VALUES.values())


def test_our_average_is_the_paper_s():
    # The paper's AVG from its own rows: over assays, not over seeds, whose error would be below 5.
    for medians, errors in published.AUROCS.values():
        median, error = spread(np.array(medians[:-1]))
        assert median == pytest.approx(medians[-1], abs=0.2)
        assert error == pytest.approx(errors[-1], abs=0.2)


def test_the_permutation_named_in_the_note_fits_the_other_rows():
    others = np.mean(
        [published.AUROCS[model][0] for model in MODELS if model != "icnn_skip"], axis=0
    )
    printed = dict(zip(published.ASSAYS, published.AUROCS["icnn_skip"][0], strict=True))
    named = re.search(r"label files, (.*), they", published.NOTE)[1].split(", ")
    assert sorted(named) == sorted(published.ASSAYS[6:12])
    read = {**printed, **dict(zip(named, [printed[x] for x in ASSAYS[6:]], strict=True))}
    gap = {
        label: max(abs(row[assay] - others[i]) for i, assay in enumerate(ASSAYS) if i >= 6)
        for label, row in (("printed", printed), ("read", read))
    }
    assert gap["printed"] > 10
    assert gap["read"] < 4
    assert read["SR.MMP"] == 92.09
    assert read["NR.PPAR.gamma"] == 75.93


# --- From stored runs ----------------------------------------------------------------------------


def test_statistics_of_a_run_against_numpy(root):
    aurocs = random_aurocs()
    store_toxicity(root, "icnn", aurocs)
    table = table_of(root, "table-1")
    row = table.iloc[0]
    assert (row["dataset"], row["codec"], row["model"], row["seeds"]) == (
        "Tox21", "ECFP", "ICNN", 10,
    )  # fmt: skip
    columns = {assay: aurocs[:, i] for i, assay in enumerate(ASSAYS)}
    columns |= {"AVG": aurocs.mean(0), "mean": aurocs.mean(1)}
    assert list(columns) == table_1.columns_of(table)
    for name, values in columns.items():
        low, median, high = 100 * np.quantile(values, [0.05, 0.5, 0.95])
        assert row[name] == pytest.approx(median)
        assert row[f"{name}_error"] == pytest.approx(max(median - low, high - median))


def test_codecs_and_variants_are_in_order_and_the_paper_last(root):
    for model in reversed(MODELS):
        store_toxicity(root, model, random_aurocs(), "ecfp")
    store_toxicity(root, "icnn", random_aurocs(1), "autoencoder")
    numbers = table_of(root, "table-1")
    assert list(zip(numbers["codec"], numbers["model"], strict=True)) == [
        ("autoencoder", "ICNN"),
        *(("ECFP", title) for title in map(title_of, MODELS)),
        *(("paper (CDDD)", title) for title in map(title_of, MODELS)),
    ]
    paper = numbers[numbers["codec"] == "paper (CDDD)"].set_index("model")
    assert paper.loc["ICNN + skip", "SR.MMP"] == 75.40  # as published
    assert paper.loc["ICNN + init", "AVG_error"] == 11.84
    assert paper["mean"].isna().all()


def test_sign_tests_per_codec(root):
    base = random_aurocs(2, seeds=3)
    better, worse = base + 0.01, base - 0.01
    better[0, 0] = base[0, 0]  # one tie
    better[1, 2] = base[1, 2] - 0.01  # one loss
    worse[2, 1] = np.nan
    store_toxicity(root, "icnn_init", better)
    store_toxicity(root, "icnn", base)
    store_toxicity(root, "icnn_skip", worse)
    store_toxicity(root, "icnn_init", base, "autoencoder")  # nothing to compare with
    tests = sign_tests_of(root)
    assert list(tests["codec"].unique()) == ["ECFP"]
    assert list(tests["model"].unique()) == ["ICNN + init"]
    assert list(tests["against"]) == ["ICNN", "ICNN + skip"]
    pairs = 3 * len(ASSAYS)
    first, second = tests.to_dict("records")
    assert (first["wins"], first["losses"], first["ties"], first["missing"]) == (pairs - 2, 1, 1, 0)
    expected = stats.binomtest(pairs - 2, pairs - 1, alternative="greater").pvalue
    assert first["p"] == pytest.approx(expected)
    assert (second["wins"] + second["losses"] + second["ties"], second["missing"]) == (pairs - 1, 1)


def test_pairs_are_of_the_same_seed_and_assay(root):
    # Shifted by one seed, the same numbers would win in half of the pairs only.
    base = np.linspace(0.5, 0.9, 10)[:, None] + np.zeros((1, len(ASSAYS)))
    store_toxicity(root, "icnn_init", base + 0.001)
    store_toxicity(root, "icnn", base)
    (row,) = sign_tests_of(root).to_dict("records")
    assert row["wins"] == base.size


def test_a_diverged_seed_and_an_assay_without_auroc(root, tmp_path):
    aurocs = random_aurocs(seeds=4)
    aurocs[:, 3] = np.nan
    aurocs[2] = np.nan
    store_toxicity(root, "icnn", aurocs, diverged=[2])
    numbers = table_of(root, "table-1")
    row = numbers.iloc[0]
    assert np.isnan(row[ASSAYS[3]])
    assert row[ASSAYS[0]] == pytest.approx(100 * np.median(aurocs[[0, 1, 3], 0]))
    assert row["mean"] == pytest.approx(100 * np.median(np.nanmean(aurocs[[0, 1, 3]], 1)))
    files = written(root, tmp_path / "out")
    text = files["table-1.md"]
    assert "| ECFP | ICNN | " in text
    assert text.splitlines()[4].split(" | ")[2 + 3] == "–"
    assert "–: no AUROC, as not both labels occur or scores are not finite: NR.Aromatase." in text
    assert "ICNN on Tox21, ECFP: 1 seed diverged and left out." in text
    assert " & -- & " in files["table-1.tex"]


def test_networks_that_learned_nothing_are_named(root, tmp_path):
    store_toxicity(root, "icnn", np.full((3, len(ASSAYS)), 0.5))
    text = written(root, tmp_path / "out")["table-1.md"]
    assert "50.00 ± 0.00: networks that give all molecules the same score" in text


def test_runs_with_different_codes_are_not_compared(root):
    store_toxicity(root, "icnn", random_aurocs(), digest="codes-1")
    store_toxicity(root, "icnn_init", random_aurocs(), digest="codes-2")
    with pytest.raises(RunError, match=r"used different codes: codes-1 in .*; codes-2 in") as error:
        table_of(root, "table-1")
    assert "force=true" in str(error.value)


def test_a_run_that_does_not_say_its_data_set(root):
    folder = store_toxicity(root, "icnn", random_aurocs())
    summary = folder / "summary.json"
    summary.write_text(summary.read_text().replace('"dataset"', '"other"'))
    with pytest.raises(RunError, match="does not say its dataset"):
        table_of(root, "table-1")


# --- Files -----------------------------------------------------------------------------------


def test_files_agree_with_each_other(root, tmp_path):
    for number, model in enumerate(MODELS):
        store_toxicity(root, model, random_aurocs(number))
    files = written(root, tmp_path / "out")
    assert sorted(files) == [
        "table-1-by-epoch.csv",
        "table-1-by-epoch.md",
        "table-1-sign-tests.csv",
        "table-1-sign-tests.md",
        "table-1.csv",
        "table-1.md",
        "table-1.tex",
    ]
    numbers = pd.read_csv(tmp_path / "out" / "tables" / "table-1.csv")
    names = [*ASSAYS, "AVG", "mean"]

    def agree(row, entries):
        """The numbers of the CSV, but for the digits that people are not shown."""
        assert len(entries) == len(names)
        for name, entry in zip(names, entries, strict=True):
            if np.isnan(row[name]):
                assert entry in ("–", "--")
            else:
                digits = [float(text) for text in re.findall(r"\d+\.\d\d", entry)]
                assert digits == pytest.approx([row[name], row[f"{name}_error"]], abs=0.0052)

    lines = [line for line in files["table-1.md"].splitlines() if line.startswith("|")]
    cells = [line.strip("| ").split(" | ") for line in lines]
    assert cells[0] == ["codec", "model", *names]
    assert len(cells) == 2 + len(numbers) == 2 + 8
    for row, entries in zip(numbers.to_dict("records"), cells[2:], strict=True):
        assert entries[:2] == [row["codec"], row["model"]]
        agree(row, entries[2:])

    tex = files["table-1.tex"]
    columns = re.search(r"\\begin\{tabular\}\{(l+r+)\}", tex)[1]
    body = [line for line in tex.splitlines() if line.endswith("\\\\")]
    assert {line.count("&") for line in body} == {len(columns) - 1}
    assert len(body) == 2 * (1 + len(numbers))
    blocks = [line.removesuffix(" \\\\").split(" & ")[2:] for line in body]
    half = len(blocks) // 2
    joined = [a + b for a, b in zip(blocks[:half], blocks[half:], strict=True)]
    assert joined[0] == names
    for row, entries in zip(numbers.to_dict("records"), joined[1:], strict=True):
        agree(row, entries)
    assert re.findall(r"\\(?:begin|end)\{(\w+)\}", tex) == [
        "table", "tabular", "tabular", "table",
    ]  # fmt: skip
    assert tex.count("{") - tex.count("\\{") == tex.count("}") - tex.count("\\}")
    assert tex.count("$") % 2 == 0
    assert not re.search(r"(?<!\\)[%_#]", tex.split("\n", 1)[1])
    assert tex.isascii()

    tests = pd.read_csv(tmp_path / "out" / "tables" / "table-1-sign-tests.csv")
    assert list(tests["against"]) == ["ICNN", "ICNN + skip", "non-convex"]
    for row in tests.to_dict("records"):
        counts = " | ".join(str(row[name]) for name in ("wins", "losses", "ties", "missing"))
        line = f"| Tox21 | ECFP | ICNN + init | {row['against']} | {counts} | {row['p']:.2g} |"
        assert line in files["table-1-sign-tests.md"]
    assert "not independent" in files["table-1-sign-tests.md"]
    assert "2.6e-13 against ICNN and 5.5e-14 against ICNN + skip" in files["table-1-sign-tests.md"]


def test_notes_say_on_what_the_table_rests(root, tmp_path):
    store_toxicity(root, "icnn", random_aurocs(seeds=3))
    text = written(root, tmp_path / "out")["table-1.md"]
    assert (
        "ECFP (codec codes-1): 3 seeds, 300 epochs; 40 test molecules, 3 more have no code" in text
    )
    assert "(fewer than 4 heavy atoms: 2, empty: 1)" in text
    assert "Not run: non-convex, ICNN + skip, ICNN + init on Tox21, ECFP." in text
    assert "Our inference" in text


def test_learning_over_epochs_is_that_of_the_stored_runs(root, tmp_path):
    aurocs = random_aurocs(seeds=3)
    store_toxicity(root, "icnn", aurocs)
    store_toxicity(root, "icnn_init", random_aurocs(1, seeds=3))
    files = written(root, tmp_path / "out")
    numbers = pd.read_csv(io.StringIO(files["table-1-by-epoch.csv"]))
    icnn = numbers[numbers["model"] == "ICNN"].set_index("epoch")["auroc"]
    assert icnn[5] == pytest.approx(100 * np.median(aurocs.mean(1)))
    assert icnn[0] == pytest.approx(12.3)
    header, _, first, second = files["table-1-by-epoch.md"].splitlines()
    assert header == "| data set | codec | model | epoch 0 |"
    assert first == "| Tox21 | ECFP | ICNN | 12.3 |"
    assert "ICNN + init" in second


def test_missing_runs_are_named_with_their_command(root, tmp_path, capsys):
    store_toxicity(root, "icnn", random_aurocs(seeds=3))
    written(root, tmp_path / "out")
    output = capsys.readouterr().out
    assert "table-1: Tox21, ECFP: missing non-convex, ICNN + skip, ICNN + init" in output
    assert "experiment=tox21 model=nonconvex,icnn_skip,icnn_init codec=ecfp seeds=3" in output
    assert "table-1: Tox21, CDDD: missing non-convex, ICNN, ICNN + skip, ICNN + init" in output
    assert "model=nonconvex,icnn,icnn_skip,icnn_init codec=cddd" in output


def test_a_stand_in_is_labelled_and_not_set_beside_the_paper(root, tmp_path):
    for model in MODELS:
        store_toxicity(root, model, random_aurocs(), "autoencoder", "structural_alerts")
    with pytest.raises(SystemExit, match="no runs for table-1"):
        written(root, tmp_path / "paper")
    files = written(root, tmp_path / "out", "demo")
    for name, text in files.items():
        assert STAND_IN in text, name
        assert "CDDD" not in text, name
        assert "75.40" not in text, name
    assert "do not compare with the paper's" in files["table-1.md"]
    assert "do not compare with the paper's" in files["table-1.tex"]
    assert "The paper reports" not in files["table-1-sign-tests.md"]
