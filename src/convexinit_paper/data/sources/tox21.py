"""The Tox21 challenge data (NIH, 2014): twelve assays, official splits, as published.

All files are in ``data_dir/tox21``:

- Training set, 11,764 samples, in one of two forms. The twelve per-assay files ``train/*.smiles``
  (SMILES, sample ID, label) are read if they are complete and intact, because their digests are
  known. Otherwise the SDF ``tox21_10k_data_all.sdf`` is read, bare or as the ZIP archive of the
  official download. No digest of it is known, so what can be counted is checked: one SDF, complete
  records, a distinct ID for each, 11,764 of them, and no label but 0, 1 and missing.
- Leaderboard set, 296 samples ("test" in the file names): the validation set. The SDF holds both
  structures and labels and is the only source. The SMILES file that is published beside it adds no
  label, gives the same structures (but for the stereochemistry of one) and would be one more file
  to fetch.
- Final evaluation set, 647 samples ("score" in the file names): the test set.

A molecule that was measured in several batches has one sample for each, with an ID of its own and
labels that may differ; they stay separate samples, as published. Rows with the same ID are one
sample. Where they contradict each other on a label, that label becomes missing, because neither
row is known to be the better one; the published files have no such case. In an SDF, a structure
that RDKit cannot read becomes the empty SMILES and keeps its labels, so that the sample is counted
with the molecules that cannot be encoded, and not lost.
"""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

import numpy as np

from convexinit_paper.data.files import (
    DataFile,
    check_files,
    digest_of,
    file_error,
    find_fault,
)
from convexinit_paper.data.multitask import MoleculeSet, MultitaskData
from convexinit_paper.data.sdf import FormatError, Record, parse_sdf, read_sdf
from convexinit_paper.data.sources import Download, MultitaskSource

TITLE = "Tox21"
URL = "https://tripod.nih.gov/tox21/challenge/download?id="

# The names and the order of the paper's table 1 (there, the last but one has a Greek gamma). With
# hyphens for dots they are the names in the published files.
TASKS = (
    "NR.AhR", "NR.AR", "NR.AR.LBD", "NR.Aromatase", "NR.ER", "NR.ER.LBD",
    "SR.ATAD5", "SR.HSE", "SR.MMP", "SR.p53", "NR.PPAR.gamma", "SR.ARE",
)  # fmt: skip
_COLUMNS = {task.replace(".", "-"): column for column, task in enumerate(TASKS)}
_LABELS = {"0": 0.0, "1": 1.0, "x": np.nan, "": np.nan}

TRAIN_SIZE, VALIDATION_SIZE = 11_764, 296

# One file for each task: size and sha256.
_ASSAYS = (
    (472_354, "8b57bcfec402bbe76ac008a5e243341de5b4c92f891324b34351c5534827aebb"),
    (547_819, "500659a727640a3f724dec2baaf372361bf5b47248736b25ba72211f0cbdf796"),
    (490_611, "e2cc1b983a8d82decc0ee37b2888fd656c35988d4be9e070d0ffc437c6160794"),
    (405_949, "ead6133b5b88c71537a4d7e387e5378b427a5146fd9b68e894b849d896496583"),
    (435_821, "11c00153d4cd8c68ce25432d960796963c55681b35b98eb2a65def023a399d70"),
    (505_603, "8deb96ec74235eb2442ee6367a115d9e27a6b74808fdb9d09e80a77586b512e0"),
    (520_487, "720df91bedc0f909ee231614f5c6cb6e8112cf86f6ca9763e215eca32b3106a4"),
    (438_565, "99216c1c22068c6ce537f870e4820937e1006b0ecfc6401da8386b69add7b41f"),
    (414_765, "3c49070dd4c73861bb6dd2bc4a249780ee993d0c098e937268a05b5eaafca1b8"),
    (494_124, "1fa72a15760a228c9b649b9b90675556f205b101445936181980a9ad87792052"),
    (455_392, "d9962585e65b170f2423dd13c3384ae8fcb33434b5bbf2a3800357441c5ea28f"),
    (376_444, "a28559984b7a36a4a9f9e80eee5d3de97a39b7df1d7e9742d6ed8477c42b70fb"),
)
ASSAY_FILES = [
    DataFile(f"tox21/train/{task.replace('.', '-').lower()}.smiles", *known)
    for task, known in zip(TASKS, _ASSAYS, strict=True)
]
TRAIN_SDF = "tox21/tox21_10k_data_all.sdf"
VALIDATION_FILE = DataFile(
    "tox21/tox21_10k_challenge_test.sdf",
    718_068,
    "98ef9e89a030962ec27c5b437d6daf415234a45479dc4c86c72006f9e3b9b4db",
)
TEST_FILES = (
    DataFile(
        "tox21/tox21_10k_challenge_score.smiles",
        34_889,
        "57e4fef6d42f7867486967fe6c1a9e98c42aaed43023745c460ff0d102ce5786",
    ),
    DataFile(
        "tox21/tox21_10k_challenge_score.txt",
        25_993,
        "f1c38159ee253120f94747a8153bb19ddbe332107603cc01e5da3bffde1a73d2",
    ),
)


@dataclass(frozen=True)
class Row:
    """What one row of a file says about a sample.

    Attributes:
        sample_id: the sample, e.g. "NCGC00261443-01".
        smiles: its structure; empty if it cannot be read.
        labels: pairs of a column of TASKS and a label that is not missing, 0 or 1.
    """

    sample_id: str
    smiles: str
    labels: tuple[tuple[int, float], ...]


@dataclass(frozen=True)
class Merged:
    """Rows brought together by sample ID.

    Attributes:
        samples: one row a sample, in the order of first appearance.
        repeated: labels given again for a sample and task that had one already.
        conflicting: pairs of sample and task with both labels; they count as missing.
        renamed: rows whose SMILES differs from that of the first row of the same sample, which
            is kept.
    """

    samples: MoleculeSet
    repeated: int
    conflicting: int
    renamed: int


def load_tox21(data_dir: Path) -> MultitaskData:
    """Read the official splits into memory.

    The training samples are sorted by ID: both published forms give the same rows in the same
    order. The other two sets keep the order of their files.

    Args:
        data_dir: the folder that holds the folder ``tox21``. Nothing is written to it.

    Raises:
        DataError: a file is missing or damaged; at most ten lines.

    Example:
        >>> data = load_tox21(Path("data"))  # doctest: +SKIP
        >>> len(data.train), len(data.validation), len(data.test)  # doctest: +SKIP
        (11764, 296, 647)
    """
    # All files are found and checked before the first one is parsed, which takes longer.
    train_sdf = _find_train(data_dir)
    validation_sdf = _find_validation(data_dir)
    check_files("tox21", TEST_FILES, data_dir)
    rows: Iterable[Row]
    if train_sdf is None:
        source = f"{len(TASKS)} files train/*.smiles"
        contents = [(data_dir / file.path).read_bytes() for file in ASSAY_FILES]
        rows = chain.from_iterable(map(read_assay, contents, range(len(TASKS))))
    else:
        source = train_sdf.name
        rows = _load_sdf(train_sdf, data_dir, TRAIN_SIZE)
    train = merge(sorted(rows, key=lambda row: row.sample_id))
    validation = merge(_load_sdf(validation_sdf, data_dir, VALIDATION_SIZE, VALIDATION_FILE))
    test = merge(read_final(*((data_dir / file.path).read_bytes() for file in TEST_FILES)))
    notes: dict[str, int | str] = {"train_source": source}
    for name, part in (("train", train), ("validation", validation), ("test", test)):
        notes |= {f"{name}_{key}": value for key, value in _count(part).items()}
    return MultitaskData(TITLE, TASKS, train.samples, validation.samples, test.samples, notes)


def tox21_content(data_dir: Path) -> str | None:
    """Digest of the training set if it is read from the SDF, whose official content is not known.

    All other files are known by their digests.

    Raises:
        DataError: the SDF cannot be read.
    """
    path = None if _assays_intact(data_dir) else _find_sdf(data_dir, TRAIN_SDF, TRAIN_SIZE)
    if path is None:
        return None
    try:
        return digest_of(read_sdf(path))
    except FormatError as error:
        fault = str(error)
    except OSError as error:
        fault = f"not readable: {error.strerror or error}"
    raise file_error("tox21", path.relative_to(data_dir).as_posix(), data_dir, fault)


def find_train_fault(data_dir: Path) -> str | None:
    """What is wrong with the training set; None if it is there and intact in either form.

    Structures are not read, so this is quick and needs no RDKit.
    """
    if _assays_intact(data_dir):
        return None
    path = _find_sdf(data_dir, TRAIN_SDF, TRAIN_SIZE)
    return "missing" if path is None else _read_checked(path, TRAIN_SIZE)[1]


def tox21_downloads() -> list[Download]:
    """From NIH: two archives of one SDF each, and two text files.

    The per-assay files, the other form of the training set, are not offered there.
    """
    return [
        Download(TRAIN_SDF, [f"{URL}tox21_10k_data_allsdf"], find_train_fault, read_sdf),
        Download.of(VALIDATION_FILE, [f"{URL}tox21_10k_challenge_testsdf"], read_sdf),
        Download.of(TEST_FILES[0], [f"{URL}tox21_10k_challenge_scoresmiles"]),
        Download.of(TEST_FILES[1], [f"{URL}tox21_10k_challenge_scoretxt"]),
    ]


# --- From files to rows --------------------------------------------------------------------------


def read_assay(content: bytes, task: int) -> Iterator[Row]:
    r"""Rows of one per-assay file: SMILES, sample ID and label, separated by tabs.

    Args:
        content: the file, without a header line.
        task: the column of TASKS that its labels belong to.

    Raises:
        FormatError: a line that is not of this form; names the line.

    Example:
        >>> list(read_assay(b"CCO\tS-1\t1", task=0))
        [Row(sample_id='S-1', smiles='CCO', labels=((0, 1.0),))]
    """
    for number, (smiles, sample_id, label) in _table(content, width=3, first=1):
        yield Row(sample_id, smiles, _label(task, label, f"line {number}"))


def read_final(smiles_content: bytes, label_content: bytes) -> Iterator[Row]:
    r"""Rows of the final evaluation set: a table of structures and a table of labels.

    The two are joined by sample ID. Both start with a header line; the order of the tasks is
    taken from it, and "x" is a missing label.

    Raises:
        FormatError: a table is not of this form, or the two are about different samples.

    Example:
        >>> header = "\t".join(["Sample ID", *(task.replace(".", "-") for task in TASKS)])
        >>> labels = f"{header}\nS-1\t0" + 11 * "\tx"
        >>> list(read_final(b"#SMILES\tSample ID\nCCO\tS-1", labels.encode()))
        [Row(sample_id='S-1', smiles='CCO', labels=((0, 0.0),))]
    """
    header = _text(label_content).split("\n", 1)[0].rstrip("\r").split("\t")
    if header[0] != "Sample ID" or set(header[1:]) != set(_COLUMNS) or len(header) != 13:
        raise FormatError("the header of the labels does not name the sample ID and all 12 tasks")
    columns = [_COLUMNS[name] for name in header[1:]]
    labels = {}
    for number, (sample_id, *values) in _table(label_content, width=13, first=2):
        if sample_id in labels:
            raise FormatError(f"line {number} of the labels: {sample_id!r} for the second time")
        pairs = zip(columns, values, strict=True)
        where = f"line {number} of the labels"
        labels[sample_id] = sum((_label(column, value, where) for column, value in pairs), ())
    structures = [values for _, values in _table(smiles_content, width=2, first=2)]
    if {sample_id for _, sample_id in structures} != labels.keys():
        raise FormatError("the structures and the labels are not about the same samples")
    for smiles, sample_id in structures:
        yield Row(sample_id, smiles, labels[sample_id])


def read_sdf_rows(content: bytes) -> list[tuple[Row, Record]]:
    """Rows of an SDF, still without structures, and the records that these can be read from.

    Raises:
        FormatError: no record, an incomplete one, one without sample ID, or a label that is
            neither 0 nor 1 nor missing.
    """
    pairs = []
    for number, record in enumerate(parse_sdf(content), 1):
        where = f"record {number:,}"
        sample_id = dict(record.properties).get("Compound Batch ID", record.title)
        if not sample_id:
            raise FormatError(f"{where}: no sample ID")
        labels = (
            _label(_COLUMNS[name], value, f"{where}, {name}")
            for name, value in record.properties
            if name in _COLUMNS
        )
        pairs.append((Row(sample_id, "", sum(labels, ())), record))
    return pairs


def with_structures(pairs: Iterable[tuple[Row, Record]]) -> Iterator[Row]:
    """The rows with their structures, as RDKit writes them."""
    return (replace(row, smiles=record.smiles()) for row, record in pairs)


def merge(rows: Iterable[Row]) -> Merged:
    """Bring the rows of each sample together; contradictory labels become missing.

    Example:
        >>> rows = [Row("S-1", "CCO", ((0, 1.0), (2, 0.0))), Row("S-1", "CCO", ((0, 0.0),))]
        >>> merged = merge(rows)
        >>> merged.samples.labels[0, :3], merged.conflicting
        (array([nan, nan,  0.], dtype=float32), 1)
    """
    smiles: dict[str, str] = {}
    votes: dict[str, dict[int, set[float]]] = {}
    repeated = renamed = 0
    for row in rows:
        renamed += smiles.setdefault(row.sample_id, row.smiles) != row.smiles
        seen = votes.setdefault(row.sample_id, {})
        for task, label in row.labels:
            repeated += task in seen
            seen.setdefault(task, set()).add(label)
    labels = np.full((len(smiles), len(TASKS)), np.nan, dtype=np.float32)
    conflicting = 0
    for index, seen in enumerate(votes.values()):
        for task, values in seen.items():
            if len(values) == 1:
                (labels[index, task],) = values
            else:
                conflicting += 1
    samples = MoleculeSet(list(smiles.values()), list(smiles), labels)
    return Merged(samples, repeated, conflicting, renamed)


def _table(content: bytes, width: int, first: int) -> Iterator[tuple[int, list[str]]]:
    """Line number and fields of every line from line ``first`` on that is not blank."""
    for number, line in enumerate(_text(content).splitlines(), 1):
        if number < first or not line.strip():
            continue
        fields = line.split("\t")
        if len(fields) != width or not all(fields):
            raise FormatError(f"line {number} does not consist of {width} fields between tabs")
        yield number, fields


def _label(task: int, value: str, where: str) -> tuple[tuple[int, float], ...]:
    """The pair of task and label, or nothing if the label is missing."""
    if value not in _LABELS:
        raise FormatError(f"{where}: the label {value[:20]!r} is neither 0 nor 1 nor missing")
    return () if np.isnan(_LABELS[value]) else ((task, _LABELS[value]),)


def _text(content: bytes) -> str:
    # The files are ASCII. Latin-1 reads any bytes, and foreign ones then fail where they matter.
    return content.decode("latin-1")


# --- From the data folder to splits --------------------------------------------------------------


def _find_train(data_dir: Path) -> Path | None:
    """The SDF of the training set, or None if the per-assay files are to be read.

    Raises:
        DataError: neither form is there, or the per-assay files are not intact and no SDF is there.
    """
    if _assays_intact(data_dir):
        return None
    path = _find_sdf(data_dir, TRAIN_SDF, TRAIN_SIZE)
    if path is None:
        # Where some of the assay files are there, or all of them just above the data folder, the
        # error is about these; else about the SDF, which is what the download script fetches.
        near = (data_dir, *data_dir.resolve().parents[:2])
        if any((folder / file.path).exists() for folder in near for file in ASSAY_FILES):
            check_files("tox21", ASSAY_FILES, data_dir)
        raise file_error("tox21", TRAIN_SDF, data_dir, "missing")
    return path


def _find_validation(data_dir: Path) -> Path:
    path = _find_sdf(data_dir, VALIDATION_FILE.path, VALIDATION_SIZE, VALIDATION_FILE)
    bare = data_dir / VALIDATION_FILE.path
    if path is None or path == bare:
        check_files("tox21", [VALIDATION_FILE], data_dir)
    return path or bare


def _load_sdf(path: Path, data_dir: Path, size: int, file: DataFile | None = None) -> Iterator[Row]:
    """Rows of an SDF with ``size`` samples, which is ``file`` once unpacked, if that is known.

    Raises:
        DataError: the file is not that.
    """
    pairs, fault = _read_checked(path, size, file)
    if fault is not None:
        raise file_error("tox21", path.relative_to(data_dir).as_posix(), data_dir, fault)
    return with_structures(pairs)


def _read_checked(
    path: Path, size: int, file: DataFile | None = None
) -> tuple[list[tuple[Row, Record]], str | None]:
    """What an SDF holds, and what is wrong with it."""
    try:
        content = read_sdf(path)
        if file is not None and hashlib.sha256(content).hexdigest() != file.digest:
            return [], "damaged: the SDF in it does not have the expected sha256"
        pairs = read_sdf_rows(content)
    except FormatError as error:
        return [], str(error)
    except OSError as error:
        return [], f"not readable: {error.strerror or error}"
    found = len({row.sample_id for row, _ in pairs})
    return pairs, None if found == size else f"{found:,} distinct samples, expected {size:,}"


def _assays_intact(data_dir: Path) -> bool:
    return all(find_fault(data_dir / file.path, file) is None for file in ASSAY_FILES)


def _find_sdf(data_dir: Path, name: str, size: int, file: DataFile | None = None) -> Path | None:
    """An SDF under its own name, or the archive of it under any of the names it is saved as.

    Of several the first that is intact, as :func:`_load_sdf` says; of damaged ones the first.
    """
    path = data_dir / name
    stem = path.with_suffix("").name
    names = [path.name, f"{stem}sdf", f"{stem}sdf.zip", f"{stem}.sdf.zip", f"{stem}.zip"]
    there = [path.with_name(name) for name in names if path.with_name(name).is_file()]
    if len(there) > 1:
        intact = (path for path in there if _read_checked(path, size, file)[1] is None)
        return next(intact, there[0])
    return there[0] if there else None


def _count(merged: Merged) -> dict[str, int]:
    """What is worth recording about a split; see the keys."""
    samples = merged.samples
    readable = [
        Row(text, text, tuple((task, x) for task, x in enumerate(row) if np.isfinite(x)))
        for text, row in zip(samples.smiles, samples.labels, strict=True)
        if text
    ]
    by_structure = merge(readable)
    return {
        "samples": len(samples),
        "distinct_smiles": len(by_structure.samples),
        "unreadable_records": len(samples) - len(readable),
        "labels": int(np.isfinite(samples.labels).sum()),
        "positive_labels": int((samples.labels == 1).sum()),
        "repeated_labels": merged.repeated,
        "conflicting_labels": merged.conflicting,
        "sample_ids_with_two_smiles": merged.renamed,
        # Pairs of a SMILES and a task on which its samples disagree: kept as they are.
        "labels_in_conflict_between_samples": by_structure.conflicting,
    }


DATA_SETS = {
    "tox21": MultitaskSource(
        TITLE,
        load=load_tox21,
        content=tox21_content,
        downloads=tox21_downloads,
        extent="four files; the training set has no known digest, so that its archive, "
        "records, labels and number of samples are checked instead",
    )
}
