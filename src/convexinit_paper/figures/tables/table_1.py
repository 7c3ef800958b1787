"""Table 1: AUROC on the test set of Tox21, and sign tests between the model variants.

AUROCs are in percent, after the last epoch. Of every assay, the median over the seeds is shown and,
as error, the larger distance of the median to the 5% and 95% quantiles. AVG is the same statistic
over the assays, each with its mean over the seeds, so that its error is the spread between assays:
this definition gives the paper's AVG from the paper's own rows (up to rounding, and medians in
place of means). "mean" is the same statistic over the seeds again, of each seed's mean over the
assays: its error says how much a repetition would change it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import pandas as pd

from convexinit_paper.figures.panels import CODECS
from convexinit_paper.figures.select import Selection
from convexinit_paper.figures.tables import published
from convexinit_paper.figures.tables.statistics import SignTest, sign_test, spread
from convexinit_paper.figures.text import counted, markdown_table
from convexinit_paper.figures.variants import MODELS, title_of
from convexinit_paper.store.errors import RunError
from convexinit_paper.store.runs import Run

SHOWN_EPOCHS = (0, 10, 20, 30, 50, 100, 200, 300)
DASH = "–"
PLUS_MINUS = "±"

# Sign tests: this variant against the others.
PROPOSED = "icnn_init"
OTHERS = ("icnn", "icnn_skip", "nonconvex")


def last_aurocs(run: Run) -> pd.DataFrame:
    """Test AUROC in percent after the last epoch: one row per seed, one column per assay."""
    rows = run.metrics.query("split == 'test'")
    rows = rows[rows["epoch"] == rows["epoch"].max()]
    # A seed that diverged has no AUROC at all, and still is a row.
    table = rows.pivot_table("value", "seed", "metric", dropna=False)
    names = [f"auroc_{task}" for task in noted(run, "tasks")]
    return 100.0 * table.reindex(columns=names).set_axis(noted(run, "tasks"), axis=1)


def compared(first: pd.DataFrame, second: pd.DataFrame) -> SignTest:
    """Sign test of whether AUROCs tend to be higher than others, by pairs of assay and seed.

    Args:
        first: of one run, from :func:`last_aurocs`.
        second: of another.
    """
    return sign_test(first.to_numpy(), second.loc[first.index, first.columns].to_numpy())


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
        :data:`published.TITLE`; they have no "mean".

    Raises:
        RunError: if the variants in a panel were trained on different codes.
    """
    rows = [
        {
            "dataset": noted(run, "dataset"),
            "codec": CODECS[run.config["codec"]["name"]],
            "model": title_of(model),
            "seeds": len(run.config["seeds"]),
            **_row(last_aurocs(run)),
        }
        for selection in selections
        if one_codec(selection)
        for model, run in selection.runs.items()
    ]
    # What the paper measured does not compare with another data set.
    if any(row["dataset"] == published.DATASET for row in rows):
        rows += [_paper_row(model) for model in MODELS]
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
        "dataset": published.DATASET,
        "codec": published.TITLE,
        "model": title_of(model),
        "seeds": published.SEEDS,
    }
    for assay, median, error in zip(published.ASSAYS, *published.AUROCS[model], strict=True):
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
                rows.append(
                    (
                        noted(runs[other], "dataset"),
                        CODECS[runs[other].config["codec"]["name"]],
                        title_of(PROPOSED),
                        title_of(other),
                        *compared(last_aurocs(runs[PROPOSED]), last_aurocs(runs[other])),
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
        ".md": markdown(numbers, remarks),
        ".tex": latex(numbers, remarks),
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
                    model=title_of(model),
                )
            )
    return pd.concat(parts, ignore_index=True)[["dataset", "codec", "model", "epoch", "auroc"]]


def by_epoch_markdown(numbers: pd.DataFrame) -> str:
    """The table for people, at the epochs :data:`SHOWN_EPOCHS` that all variants have."""
    keys = ["dataset", "codec", "model"]
    wide = numbers.pivot_table(index=keys, columns="epoch", values="auroc", sort=False)
    epochs = [epoch for epoch in SHOWN_EPOCHS if epoch in wide and wide[epoch].notna().all()]
    header = ["data set", *keys[1:], *(f"epoch {epoch}" for epoch in epochs)]
    rows = [
        [*cast("tuple[str, ...]", names), *(f"{value:.1f}" for value in values)]
        for names, values in wide[epochs].iterrows()
    ]
    return markdown_table(header, rows)


def beside_paper(numbers: pd.DataFrame) -> bool:
    """Whether :func:`table` holds the paper's rows: whether ours compare with them."""
    return bool((numbers["codec"] == published.TITLE).any())


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
        result.append(published.NOTE)
    else:
        result.append(
            "This data set is a built-in stand-in: its values say that the experiment works, and "
            "do not compare with the paper's."
        )
    ours = numbers[numbers["codec"] != published.TITLE]
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
        f"{counted(len(selection.common['seeds']), 'seed')}, "
        f"{counted(run.config['trainer']['epochs'], 'epoch')}; "
        f"{counted(molecules, 'test molecule')}, {sum(excluded.values())} more have no code"
    )
    reasons = ", ".join(f"{reason}: {count}" for reason, count in excluded.items())
    lines = [f"{text} ({reasons})." if reasons else f"{text}."]
    if selection.missing:
        lines.append(
            f"Not run: {', '.join(map(title_of, selection.missing))} on {selection.panel.title}."
        )
    for model, run in selection.runs.items():
        if run.diverged:
            lines.append(
                f"{title_of(model)} on {selection.panel.title}: "
                f"{counted(len(run.diverged), 'seed')} diverged and left out."
            )
    return lines


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


def markdown(numbers: pd.DataFrame, remarks: Sequence[str]) -> str:
    """Table 1 in Markdown, notes below.

    Args:
        numbers: from :func:`table`.
        remarks: from :func:`notes`.
    """
    columns = columns_of(numbers)
    template = f"{{}} {PLUS_MINUS} {{}}"
    body = markdown_table(
        ["codec", "model", *columns],
        [
            [row["codec"], row["model"], *cells(row, columns, template, DASH)]
            for row in numbers.to_dict("records")
        ],
    )
    return f"**{title(numbers)}**\n\n{body}\n" + "".join(f"- {remark}\n" for remark in remarks)


def latex(numbers: pd.DataFrame, remarks: Sequence[str]) -> str:
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
    rows = []
    for row in tests.to_dict("records"):
        counts = [str(row[name]) for name in SignTest._fields if name != "p"]
        labels = [row[name] for name in ("dataset", "codec", "model", "against")]
        rows.append([*labels, *counts, f"{row['p']:.2g}"])
    remarks = [
        "One-sided sign test over the pairs of assay and seed of the AUROCs on the test set: p is "
        "the probability of at least as many wins by chance. Ties, and pairs without one of the "
        "two values (missing), do not count.",
        "The pairs are not independent: all seeds of an assay are judged on the same test "
        "molecules, and many molecules are in several assays. p is therefore too small; the test "
        "is the paper's.",
    ]
    if comparable:
        paper = " and ".join(
            f"{p:.2g} against {title_of(model)}" for model, p in published.P_VALUES.items()
        )
        remarks.append(f"The paper reports p = {paper} (with CDDD).")
    else:
        remarks.append("These are not the paper's data, but a stand-in.")
    return markdown_table(header, rows) + "\n" + "".join(f"- {remark}\n" for remark in remarks)
