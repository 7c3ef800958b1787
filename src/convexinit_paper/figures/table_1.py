"""Table 1: AUROC on the test set of Tox21, and sign tests between the model variants.

AUROCs are in percent, after the last epoch. Of every assay, the median over the seeds is shown and,
as error, the larger distance of the median to the 5% and 95% quantiles. AVG is the same statistic
over the assays, each with its mean over the seeds, so that its error is the spread between assays:
this definition gives the paper's AVG from the paper's own rows (up to rounding, and medians in
place of means). "mean" is the same statistic over the seeds again, of each seed's mean over the
assays: its error says how much a repetition would change it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import Any, NamedTuple, cast

import numpy as np
import pandas as pd

from convexinit_paper.figures.select import TITLES, Panel, Selection
from convexinit_paper.store.errors import RunError
from convexinit_paper.store.runs import Run

CODECS = {"autoencoder": "autoencoder", "ecfp": "ECFP", "cddd": "CDDD"}
# The title and options of the data set, and the codecs, at each scale.
SCALES: dict[str, tuple[str, dict[str, str], tuple[str, ...]]] = {
    "paper": ("Tox21", {}, tuple(CODECS)),
    "demo": ("structural alerts", {"dataset": "structural_alerts"}, ("autoencoder",)),
}
QUANTILES = (0.05, 0.95)
# Columns after those of the assays.
SUMMARIES = ("AVG", "mean")
SHOWN_EPOCHS = (0, 10, 20, 30, 50, 100, 200, 300)
LABELS = ["dataset", "codec", "model", "seeds"]

# Sign tests: this variant against the others.
PROPOSED = "icnn_init"
OTHERS = ("icnn", "icnn_skip", "nonconvex")

# The paper's Table 1 as published, in percent: medians, then errors.
PAPER_TITLE = "paper (CDDD)"
PAPER_DATASET = "Tox21"
PAPER_SEEDS = 10
PAPER_ASSAYS = (
    "NR.AhR", "NR.AR", "NR.AR.LBD", "NR.Aromatase", "NR.ER", "NR.ER.LBD",
    "SR.ATAD5", "SR.HSE", "SR.MMP", "SR.p53", "NR.PPAR.gamma", "SR.ARE", "AVG",
)  # fmt: skip
PAPER = {
    "nonconvex": (
        (91.01, 79.21, 86.19, 83.63, 77.88, 74.32, 78.93, 80.12, 93.99, 82.17, 82.70, 78.30, 81.31),
        (0.65, 1.73, 2.50, 0.34, 1.13, 1.59, 1.68, 2.57, 0.39, 0.96, 1.21, 0.90, 11.03),
    ),
    "icnn": (
        (90.56, 81.28, 78.14, 80.46, 77.30, 78.15, 74.25, 78.64, 93.19, 81.32, 75.00, 76.11, 78.33),
        (0.63, 4.82, 3.15, 1.74, 0.78, 1.02, 3.26, 1.42, 0.59, 0.43, 1.73, 0.82, 13.42),
    ),
    "icnn_skip": (
        (89.83, 68.12, 74.17, 78.95, 76.95, 81.92, 75.93, 78.23, 75.40, 78.25, 92.09, 79.32, 78.29),
        (0.21, 1.74, 2.20, 0.45, 0.48, 1.16, 1.26, 0.50, 0.88, 0.93, 0.41, 0.97, 12.56),
    ),
    "icnn_init": (
        (91.29, 81.84, 81.36, 82.40, 78.37, 77.85, 77.01, 80.05, 93.69, 81.10, 77.46, 76.80, 80.57),
        (0.58, 2.43, 3.58, 1.09, 0.80, 0.90, 1.67, 1.36, 0.27, 0.46, 2.50, 0.33, 11.84),
    ),
}
# Its p-values of ICNN + init, in the text.
PAPER_P = {"icnn": 2.6e-13, "icnn_skip": 5.5e-14}
# Our inference; AVG does not depend on the order.
PAPER_NOTE = (
    "Rows of the paper are printed as published. Our inference, not a correction by its authors: "
    "in its ICNN + skip row the last six assays look permuted. Read in the order of the label "
    "files, NR.PPAR.gamma, SR.ARE, SR.ATAD5, SR.HSE, SR.MMP, SR.p53, they fit all other rows "
    "(SR.MMP would be 92.09 instead of 75.40, NR.PPAR.gamma 75.93 instead of 92.09)."
)
DASH = "–"
PLUS_MINUS = "±"


def panels(scale: str) -> list[Panel]:
    """One panel per codec at the scale "paper" or "demo"."""
    dataset, groups, codecs = SCALES[scale]
    return [
        Panel(
            "tox21",
            f"{dataset}, {CODECS[codec]}",
            groups={**groups, "codec": codec},
        )
        for codec in codecs
    ]


# --- Statistics ----------------------------------------------------------------------------------


class Spread(NamedTuple):
    """The statistic of Table 1.

    Attributes:
        median: of the values.
        error: the larger distance of the median to the quantiles :data:`QUANTILES`.
    """

    median: float
    error: float


def spread(values: np.ndarray) -> Spread:
    """Median and error of the finite values among ``[n]``; NaN if there are none.

    Quantiles are interpolated linearly between the two nearest values.

    Example:
        >>> spread(np.array([0.0, 1.0, 2.0, 3.0, 14.0])).median
        2.0
    """
    finite = values[np.isfinite(values)]
    if not finite.size:
        return Spread(math.nan, math.nan)
    low, median, high = np.quantile(finite, [QUANTILES[0], 0.5, QUANTILES[1]])
    return Spread(float(median), float(max(median - low, high - median)))


class SignTest(NamedTuple):
    """Outcome of a sign test over pairs of values.

    Attributes:
        wins: pairs whose first value is larger,
        losses: and smaller,
        ties: and equal; ties do not count.
        missing: pairs with a value that is not finite; they do not count either.
        p: probability of at least as many wins if both sides were equally likely to win.
    """

    wins: int
    losses: int
    ties: int
    missing: int
    p: float


def sign_test(first: np.ndarray, second: np.ndarray) -> SignTest:
    """One-sided sign test of whether the values of ``first`` tend to be larger.

    Args:
        first: any shape.
        second: the same shape; the values at the same place are a pair.

    Example:
        >>> sign_test(np.array([1.0, 2.0, 3.0]), np.array([0.0, 0.0, 3.0]))
        SignTest(wins=2, losses=0, ties=1, missing=0, p=0.25)
    """
    known = np.isfinite(first) & np.isfinite(second)
    difference = first[known] - second[known]
    wins, losses = int((difference > 0).sum()), int((difference < 0).sum())
    return SignTest(
        wins, losses, int((difference == 0).sum()), int((~known).sum()), binomial_tail(wins, losses)
    )


def binomial_tail(wins: int, losses: int) -> float:
    """Probability of at least ``wins`` heads in ``wins + losses`` tosses of a fair coin, exact.

    Example:
        >>> binomial_tail(3, 1)
        0.3125
    """
    tosses = wins + losses
    outcomes = sum(math.comb(tosses, heads) for heads in range(wins, tosses + 1))
    return float(Fraction(outcomes, 2**tosses))


# --- From stored runs ----------------------------------------------------------------------------


def last_aurocs(run: Run) -> pd.DataFrame:
    """Test AUROC in percent after the last epoch: one row per seed, one column per assay."""
    rows = run.metrics.query("split == 'test'")
    rows = rows[rows["epoch"] == rows["epoch"].max()]
    # A seed that diverged has no AUROC at all, and still is a row.
    table = rows.pivot_table("value", "seed", "metric", dropna=False)
    names = [f"auroc_{task}" for task in noted(run, "tasks")]
    return 100.0 * table.reindex(columns=names).set_axis(noted(run, "tasks"), axis=1)


def noted(run: Run, name: str) -> Any:
    """What the summary of a run says under ``name``.

    Raises:
        RunError: if it says nothing.
    """
    if name not in run.summary:
        raise RunError(
            f"the run in {run.folder} does not say its {name}.\nAsk for it again with force=true."
        )
    return run.summary[name]


def table(selections: Sequence[Selection]) -> pd.DataFrame:
    """Table 1: one row per codec and variant, and those of the paper below, if they compare.

    Returns:
        ``dataset, codec, model, seeds``; then for each assay, for AVG and for the mean, named
        ``X``, the columns ``X`` and ``X_error`` in percent. The codec of the paper's rows is
        :data:`PAPER_TITLE`; they have no "mean".

    Raises:
        RunError: if the variants in a panel were trained on different codes.
    """
    rows = [
        {
            "dataset": noted(run, "dataset"),
            "codec": CODECS[run.config["codec"]["name"]],
            "model": TITLES[model],
            "seeds": len(run.config["seeds"]),
            **_row(last_aurocs(run)),
        }
        for selection in selections
        if one_codec(selection)
        for model, run in selection.runs.items()
    ]
    # What the paper measured does not compare with another data set.
    if any(row["dataset"] == PAPER_DATASET for row in rows):
        rows += [_paper_row(model) for model in TITLES]
    return pd.DataFrame(rows)


def one_codec(selection: Selection) -> str | None:
    """The codec and the digest of its weights that all runs of a panel share; None without runs.

    Raises:
        RunError: if they differ: the autoencoder was trained again between two runs.
    """
    codecs = {noted(run, "codec"): run.folder for run in selection.runs.values()}
    if len(codecs) > 1:
        found = "; ".join(f"{codec} in {folder}" for codec, folder in codecs.items())
        raise RunError(
            f"runs for {selection.panel.title} used different codes: {found}.\n"
            "Ask for the older ones again with force=true."
        )
    return next(iter(codecs), None)


def _row(aurocs: pd.DataFrame) -> dict[str, float]:
    """Statistics of one run by column."""
    values = {task: spread(aurocs[task].to_numpy()) for task in aurocs}
    values["AVG"] = spread(aurocs.mean(axis=0).to_numpy())
    values["mean"] = spread(aurocs.mean(axis=1).to_numpy())
    return {
        name: number
        for column, (median, error) in values.items()
        for name, number in ((column, median), (f"{column}_error", error))
    }


def _paper_row(model: str) -> dict[str, Any]:
    row: dict[str, Any] = {
        "dataset": PAPER_DATASET,
        "codec": PAPER_TITLE,
        "model": TITLES[model],
        "seeds": PAPER_SEEDS,
    }
    for assay, median, error in zip(PAPER_ASSAYS, *PAPER[model], strict=True):
        row |= {assay: median, f"{assay}_error": error}
    return row


def sign_tests(selections: Sequence[Selection]) -> pd.DataFrame:
    """Sign tests of ICNN + init against the other variants, over pairs of assay and seed.

    Returns:
        ``dataset, codec, model, against, wins, losses, ties, missing, p``, one row per codec and
        other variant for which both have runs.
    """
    columns = ["dataset", "codec", "model", "against", *SignTest._fields]
    rows = []
    for selection in selections:
        runs = selection.runs
        for other in OTHERS:
            if PROPOSED in runs and other in runs:
                first, second = last_aurocs(runs[PROPOSED]), last_aurocs(runs[other])
                rows.append(
                    (
                        noted(runs[other], "dataset"),
                        CODECS[runs[other].config["codec"]["name"]],
                        TITLES[PROPOSED],
                        TITLES[other],
                        *sign_test(
                            first.to_numpy(), second.loc[first.index, first.columns].to_numpy()
                        ),
                    )
                )
    return pd.DataFrame(rows, columns=columns)


# --- For people ----------------------------------------------------------------------------------


def more_files(
    selections: Sequence[Selection], numbers: pd.DataFrame
) -> dict[str, str | pd.DataFrame]:
    """Everything beside the CSV of :func:`table`, by the end of the file's name."""
    remarks = notes(selections, numbers)
    tests = sign_tests(selections)
    epochs = by_epoch(selections)
    return {
        ".md": markdown_table(numbers, remarks),
        ".tex": latex_table(numbers, remarks),
        "-sign-tests.csv": tests,
        "-sign-tests.md": sign_tests_markdown(tests, beside_paper(numbers)),
        "-by-epoch.csv": epochs,
        "-by-epoch.md": by_epoch_markdown(epochs),
    }


def by_epoch(selections: Sequence[Selection]) -> pd.DataFrame:
    """How fast the variants learn.

    Returns:
        ``dataset, codec, model, epoch, auroc``: the mean AUROC over the assays (in percent), the
        median over the seeds. Recorded runs hold it for about every tenth epoch.
    """
    parts = []
    for selection in selections:
        for model, run in selection.runs.items():
            rows = run.metrics[
                (run.metrics["metric"] == "auroc") & (run.metrics["split"] == "test")
            ]
            medians = 100 * rows.groupby("epoch")["value"].median()
            parts.append(
                medians.rename("auroc")
                .reset_index()
                .assign(
                    dataset=run.summary["dataset"],
                    codec=CODECS[run.config["codec"]["name"]],
                    model=TITLES[model],
                )
            )
    return pd.concat(parts, ignore_index=True)[["dataset", "codec", "model", "epoch", "auroc"]]


def by_epoch_markdown(numbers: pd.DataFrame) -> str:
    """The table for people, at the epochs :data:`SHOWN_EPOCHS` that all variants have."""
    keys = ["dataset", "codec", "model"]
    wide = numbers.pivot_table(index=keys, columns="epoch", values="auroc", sort=False)
    epochs = [epoch for epoch in SHOWN_EPOCHS if epoch in wide and wide[epoch].notna().all()]
    header = ["data set", *keys[1:], *(f"epoch {epoch}" for epoch in epochs)]
    lines = [header, ["---"] * len(header)]
    for names, values in wide[epochs].iterrows():
        lines.append([*cast("tuple[str, ...]", names), *(f"{value:.1f}" for value in values)])
    return _markdown_rows(lines)


def beside_paper(numbers: pd.DataFrame) -> bool:
    """Whether :func:`table` holds the paper's rows: whether ours compare with them."""
    return bool((numbers["codec"] == PAPER_TITLE).any())


def title(numbers: pd.DataFrame) -> str:
    """Heading of the table: what is measured, on which data."""
    return f"AUROC on the test set in percent: {numbers['dataset'].iloc[0]}"


def notes(selections: Sequence[Selection], numbers: pd.DataFrame) -> list[str]:
    """Sentences below the table: how to read it, on what it rests, and what is missing."""
    result = [
        "Assays and mean: median over the seeds ± the larger distance to the 5% and 95% quantiles; "
        "mean is that of a seed over the assays. AVG: the same statistic over the assays, so that "
        "its error is the spread between assays."
    ]
    result += [line for selection in selections for line in _extent(selection)]
    if beside_paper(numbers):
        result.append(PAPER_NOTE)
    else:
        result.append(
            "This data set is a built-in stand-in: its values say that the experiment works, and "
            "do not compare with the paper's."
        )
    ours = numbers[numbers["codec"] != PAPER_TITLE]
    empty = [name for name in columns_of(numbers) if ours[name].isna().any()]
    if empty:
        result.append(
            f"{DASH}: no AUROC, as not both labels occur or scores are not finite: "
            f"{', '.join(empty)}."
        )
    if ((ours["mean"] == 50.0) & (ours["mean_error"] == 0.0)).any():
        result.append("A mean of 50.00 ± 0.00: networks that give all molecules the same score.")
    return result


def _extent(selection: Selection) -> list[str]:
    """On what the rows of one codec rest."""
    if not selection.runs:
        return []
    run = next(iter(selection.runs.values()))
    molecules = noted(run, "molecules")["test"]
    excluded = noted(run, "excluded")["test"]
    text = (
        f"{CODECS[run.config['codec']['name']]} (codec {one_codec(selection)}): "
        f"{_count(len(selection.common['seeds']), 'seed')}, "
        f"{_count(run.config['trainer']['epochs'], 'epoch')}; "
        f"{_count(molecules, 'test molecule')}, {sum(excluded.values())} more have no code"
    )
    reasons = ", ".join(f"{reason}: {count}" for reason, count in excluded.items())
    lines = [f"{text} ({reasons})." if reasons else f"{text}."]
    if selection.missing:
        lines.append(
            f"Not run: {', '.join(TITLES[model] for model in selection.missing)} on "
            f"{selection.panel.title}."
        )
    for model, run in selection.runs.items():
        diverged = sum(seed["status"] == "diverged" for seed in run.summary["seeds"].values())
        if diverged:
            lines.append(
                f"{TITLES[model]} on {selection.panel.title}: "
                f"{_count(diverged, 'seed')} diverged and left out."
            )
    return lines


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def columns_of(numbers: pd.DataFrame) -> list[str]:
    """The columns that hold medians, in order."""
    return [name for name in numbers if f"{name}_error" in numbers]


def cells(row: dict[str, Any], columns: Sequence[str], template: str, dash: str) -> list[str]:
    """Values of one row with two decimals.

    Args:
        row: of :func:`table`.
        columns: whose values.
        template: with places for the median and the error.
        dash: what stands for a missing value.
    """
    return [
        dash
        if pd.isna(row[name])
        else template.format(f"{row[name]:.2f}", f"{row[f'{name}_error']:.2f}")
        for name in columns
    ]


def markdown_table(numbers: pd.DataFrame, remarks: Sequence[str]) -> str:
    """Table 1 in Markdown, notes below.

    Args:
        numbers: from :func:`table`.
        remarks: from :func:`notes`.
    """
    columns = columns_of(numbers)
    template = f"{{}} {PLUS_MINUS} {{}}"
    lines = [
        ["codec", "model", *columns],
        ["---"] * (2 + len(columns)),
        *(
            [row["codec"], row["model"], *cells(row, columns, template, DASH)]
            for row in numbers.to_dict("records")
        ),
    ]
    body = _markdown_rows(lines)
    return f"**{title(numbers)}**\n\n{body}\n" + "".join(f"- {remark}\n" for remark in remarks)


def _markdown_rows(lines: Sequence[Sequence[str]]) -> str:
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def latex_table(numbers: pd.DataFrame, remarks: Sequence[str]) -> str:
    """Table 1 for LaTeX with booktabs: two blocks of columns, as in the paper.

    Args:
        numbers: from :func:`table`.
        remarks: from :func:`notes`.
    """
    columns = columns_of(numbers)
    half = -(-len(columns) // 2)
    records = numbers.to_dict("records")
    lines = [
        "% made by python -m convexinit_paper.figures table-1; needs \\usepackage{booktabs}",
        "\\begin{table}",
        f"\\caption{{{escaped(title(numbers))}. {escaped(' '.join(remarks))}}}",
        "\\centering\\scriptsize",
        f"\\begin{{tabular}}{{ll{'r' * half}}}",
        "\\toprule",
    ]
    for start in (0, half):
        if start:
            lines.append("\\midrule")
        block = columns[start : start + half]
        filler = [""] * (half - len(block))
        lines += [_latex_row(["codec", "model", *map(escaped, block), *filler]), "\\midrule"]
        for before, row in zip([None, *records], records, strict=False):
            new = before is None or before["codec"] != row["codec"]
            if new and before is not None:
                lines.append("\\addlinespace")
            name = escaped(row["codec"]) if new else ""
            values = cells(row, block, "${} \\pm {}$", "--")
            lines.append(_latex_row([name, escaped(row["model"]), *values, *filler]))
    lines += ["\\bottomrule", "\\end{tabular}", "\\end{table}"]
    return "\n".join(lines) + "\n"


def _latex_row(entries: Sequence[str]) -> str:
    return f"{' & '.join(entries)} \\\\"


def escaped(text: str) -> str:
    r"""Text with the characters that mean something to LaTeX written out.

    Example:
        >>> print(escaped("5% of a_b"))
        5\% of a\_b
    """
    special = {
        "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}",
        PLUS_MINUS: "$\\pm$", DASH: "--", **{sign: f"\\{sign}" for sign in "%&_#${}"},
    }  # fmt: skip
    return "".join(special.get(character, character) for character in text)


def sign_tests_markdown(tests: pd.DataFrame, comparable: bool) -> str:
    """The sign tests in Markdown, notes below.

    Args:
        tests: from :func:`sign_tests`.
        comparable: whether they are on the paper's data.
    """
    header = ["data set", "codec", "model", "against", *SignTest._fields]
    lines = [header, ["---"] * len(header)]
    for row in tests.to_dict("records"):
        counts = [str(row[name]) for name in SignTest._fields if name != "p"]
        labels = [row[name] for name in ("dataset", "codec", "model", "against")]
        lines.append([*labels, *counts, f"{row['p']:.2g}"])
    remarks = [
        "One-sided sign test over the pairs of assay and seed of the AUROCs on the test set: p is "
        "the probability of at least as many wins by chance. Ties, and pairs without one of the "
        "two values (missing), do not count.",
        "The pairs are not independent: all seeds of an assay are judged on the same test "
        "molecules, and many molecules are in several assays. p is therefore too small; the test "
        "is the paper's.",
    ]
    if comparable:
        paper = " and ".join(f"{p:.2g} against {TITLES[model]}" for model, p in PAPER_P.items())
        remarks.append(f"The paper reports p = {paper} (with CDDD).")
    else:
        remarks.append("These are not the paper's data, but a stand-in.")
    return _markdown_rows(lines) + "\n" + "".join(f"- {remark}\n" for remark in remarks)
