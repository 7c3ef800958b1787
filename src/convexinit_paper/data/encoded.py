"""Molecules of a data set as codes: what networks are trained on for several tasks at once."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from convexinit.molecules import load_codec
from convexinit.molecules.codec import Codec
from convexinit_paper.data.codes import encode_cached
from convexinit_paper.data.datasets import load_multitask
from convexinit_paper.data.multitask import MoleculeSet, MultitaskData
from convexinit_paper.request.options import ConfigError, Section, option


@dataclass(frozen=True)
class MoleculeSettings(Section):
    """Which molecules and labels; defaults in ``conf/dataset``."""

    name: str = option("of the data set")
    train_on_validation: bool = option(
        "whether the validation set is trained on as well, as for the paper's final models; if "
        "not, it is reported beside the test set"
    )


@dataclass(frozen=True)
class CodecSettings(Section):
    """How molecules become vectors; defaults in ``conf/codec``."""

    name: str = option("of the codec")
    digest: str | None = option(
        "of the codec, its weights and the rules for molecules; None accepts any. It makes stored "
        "results belong to the codes that they were made with"
    )
    standardise: bool = option(
        "whether every dimension of the codes is shifted and scaled to mean 0 and variance 1 over "
        "the training set"
    )


@dataclass(frozen=True)
class EncodedSet:
    """Molecules of one split that have a code.

    Attributes:
        smiles: as in the data set.
        codes: float32 ``[n, dimensions]``.
        labels: float32 ``[n, tasks]``, NaN where missing.
        excluded: ``[k, 3]`` sample ID, SMILES and reason of the molecules without code.
    """

    smiles: list[str]
    codes: Tensor
    labels: Tensor
    excluded: np.ndarray


@dataclass(frozen=True)
class EncodedData:
    """A data set whose molecules are codes.

    Attributes:
        title: of the data set.
        tasks: their names.
        notes: what the data set says of itself, such as how many samples it has of one molecule.
        sets: "train", and "test" and (where it is not trained on) "validation".
        shift: ``[dimensions]`` and
        scale: ``[dimensions]``: networks see ``(code - shift) / scale``.
    """

    title: str
    tasks: tuple[str, ...]
    notes: dict[str, int | str]
    sets: dict[str, EncodedSet]
    shift: Tensor
    scale: Tensor

    def inputs(self, codes: Tensor) -> Tensor:
        """What networks see of codes."""
        return (codes - self.shift) / self.scale


def open_codec(settings: CodecSettings, data_dir: str) -> Codec:
    """The codec of the configuration.

    Raises:
        ConfigError: its digest is not the expected one.
    """
    codec = load_codec(settings.name, data_dir=data_dir)
    if settings.digest is not None and codec.digest != settings.digest:
        raise ConfigError(
            f"codec.digest is {settings.digest}, but the codec {settings.name} at hand is "
            f"{codec.digest}; codec.digest=null accepts it"
        )
    return codec


def load_encoded(
    settings: MoleculeSettings, codec: Codec, standardise: bool, data_dir: str, cache: Path
) -> EncodedData:
    """Read the molecules of a data set and encode them.

    Args:
        settings: which data set.
        codec: makes the codes.
        standardise: see :class:`CodecSettings`.
        data_dir: folder of raw data.
        cache: folder in which codes are kept, and looked for first.

    Raises:
        ValueError: there is no data set of that name.
        DataError: a file is missing or damaged.
    """
    data = load_multitask(settings.name, data_dir)
    training = merged(data) if settings.train_on_validation else data.train
    raw = {"train": training, "test": data.test}
    if not settings.train_on_validation:
        raw["validation"] = data.validation
    sets = {name: encode_set(part, codec, cache) for name, part in raw.items()}
    codes = sets["train"].codes
    shift, scale = torch.zeros(codes.shape[1]), torch.ones(codes.shape[1])
    if standardise:
        shift = codes.mean(0)
        deviation = codes.std(0, correction=0)
        # A dimension that never varies carries nothing: it stays 0 after the shift.
        scale = torch.where(deviation > 0, deviation, 1.0)
    return EncodedData(data.title, data.tasks, data.notes, sets, shift, scale)


def merged(data: MultitaskData) -> MoleculeSet:
    """Training and validation set as one."""
    return MoleculeSet(
        data.train.smiles + data.validation.smiles,
        data.train.sample_ids + data.validation.sample_ids,
        np.concatenate([data.train.labels, data.validation.labels]),
    )


def encode_set(molecules: MoleculeSet, codec: Codec, cache: Path) -> EncodedSet:
    """Codes of the molecules that have one, and a list of the others with the reasons."""
    with warnings.catch_warnings():
        # The codec's warning about molecules without code: they are listed in the run instead.
        warnings.simplefilter("ignore")
        codes = encode_cached(codec, molecules.smiles, cache)
    usable = np.isfinite(codes).all(1)
    outside = np.flatnonzero(~usable)
    reasons = [form.reason for form in codec.prepare([molecules.smiles[row] for row in outside])]
    excluded = [
        (molecules.sample_ids[row], molecules.smiles[row], reason)
        for row, reason in zip(outside, reasons, strict=True)
    ]
    return EncodedSet(
        [molecules.smiles[row] for row in np.flatnonzero(usable)],
        torch.from_numpy(codes[usable]),
        torch.from_numpy(molecules.labels[usable]),
        np.array(excluded, dtype=np.str_).reshape(-1, 3),
    )


def count_reasons(excluded: np.ndarray) -> dict[str, int]:
    """How many molecules were left out, by reason, most frequent first."""
    reasons, counts = np.unique(excluded[:, 2], return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return {str(reasons[i]): int(counts[i]) for i in order}
