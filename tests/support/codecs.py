"""Molecules, and a codec that tests can watch."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from convexinit.molecules import Codec

MOLECULES = ["CCCCO", "c1ccccc1C", "CC(=O)Oc1ccccc1C(=O)O", "CCN(CC)CC", "CC(C)Cc1ccccc1"]


# Canonical or not, with rings, branches, charges and halogens.
DRUGS = [
    "CC(=O)Oc1ccccc1C(=O)O",
    "CC(C)Cc1ccc(cc1)C(C)C(=O)O",
    "Cn1c(=O)c2c(ncn2C)n(C)c1=O",
    "CC(=O)Nc1ccc(O)cc1",
    "CCN(CC)CCNC(=O)c1ccc(N)cc1",
    "CCN(CC)CC(=O)Nc1c(C)cccc1C",
    "COc1ccc2cc(ccc2c1)C(C)C(=O)O",
    "OC(=O)Cc1ccccc1Nc1c(Cl)cccc1Cl",
    "CN1C(=O)CN=C(c2ccccc2)c2cc(Cl)ccc12",
    "CN1CCC[C@H]1c1cccnc1",
    "CNCCC(Oc1ccc(cc1)C(F)(F)F)c1ccccc1",
    "CN(C)CCCN1c2ccccc2Sc2ccc(Cl)cc12",
    "CC(C)NCC(O)COc1cccc2ccccc12",
    "CC(C)NCC(O)COc1ccc(CC(N)=O)cc1",
    "CC(C)(C)NCC(O)c1ccc(O)c(CO)c1",
    "Nc1ccc(cc1)S(=O)(=O)N",
    "Cc1cc(NS(=O)(=O)c2ccc(N)cc2)no1",
    "NC(=O)N1c2ccccc2C=Cc2ccccc12",
    "CC1(C)SC2C(NC(=O)Cc3ccccc3)C(=O)N2C1C(=O)O",
    "OC(=O)c1cn(C2CC2)c2cc(N3CCNCC3)c(F)cc2c1=O",
    "CCC(=C(c1ccccc1)c1ccc(OCCN(C)C)cc1)c1ccccc1",
    "COc1cc2c(cc1OC)CCN(C)C2",
    "CN(C)C(=N)NC(N)=N",
    "CC(=O)CC(c1ccccc1)c1c(O)c2ccccc2oc1=O",
    "Clc1ccc(cc1)C(c1ccccc1)N1CCN(CCOCC(=O)O)CC1",
    "Fc1ccc(cc1)C(=O)CCCN1CCC(O)(CC1)c1ccc(Cl)cc1",
    "CCOC(=O)c1ccc(N)cc1",
    "COC(=O)C1=C(C)NC(C)=C(C1c1ccccc1[N+](=O)[O-])C(=O)OC",
    "C[N+](C)(C)CCOC(C)=O",
    "Cc1ccc(cc1)-c1cc(nn1-c1ccc(cc1)S(N)(=O)=O)C(F)(F)F",
]


class ArrayLike:
    """What NumPy can read without being an array, such as a data frame."""

    def __init__(self, codes: np.ndarray) -> None:
        self._codes = codes

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.array(self._codes, dtype=dtype)


def _read_only(codes: np.ndarray) -> np.ndarray:
    codes.flags.writeable = False
    return codes


# The same codes, float32 [n, dimensions], as users may have them. They have few digits, so that
# nothing is lost.
FORMS: dict[str, Callable[[np.ndarray], Any]] = {
    "negative strides": lambda codes: codes[::-1].copy()[::-1],
    "negative strides within a row": lambda codes: codes[:, ::-1].copy()[:, ::-1],
    "columns first": np.asfortranarray,
    "every second row": lambda codes: codes.repeat(2, 0)[::2],
    "read-only": _read_only,
    "float64": lambda codes: codes.astype(np.float64),
    "float16": lambda codes: codes.astype(np.float16),
    "long double": lambda codes: codes.astype(np.longdouble),
    "big-endian": lambda codes: codes.astype(">f4"),
    "list": lambda codes: codes.tolist(),
    "tuples": lambda codes: tuple(map(tuple, codes)),
    "list of arrays": list,
    "array-like": ArrayLike,
    "tensor": torch.tensor,
    "tensor with gradient": lambda codes: torch.tensor(codes, requires_grad=True),
    "result with gradient": lambda codes: 1 * torch.tensor(codes, requires_grad=True),
    "parameter": lambda codes: torch.nn.Parameter(torch.tensor(codes)),
    "tensor of bfloat16": lambda codes: torch.tensor(codes).bfloat16(),
    "tensor of float16": lambda codes: torch.tensor(codes).half(),
    "tensor of float64": lambda codes: torch.tensor(codes).double(),
    "transposed tensor": lambda codes: torch.tensor(codes.T).T,
    "negated view": lambda codes: torch._neg_view(torch.tensor(-codes)),
    "inference tensor": torch.inference_mode()(torch.tensor),
    "list of tensors": lambda codes: list(torch.tensor(codes, requires_grad=True)),
    "list of bfloat16": lambda codes: list(torch.tensor(codes).bfloat16()),
}


class LetterCodec(Codec):
    """Counts letters. Remembers what it was asked for."""

    name = "letters"
    dimensions = 3
    digest = "letters-1"

    def __init__(self) -> None:
        self.batches: list[list[str]] = []

    def _encode_canonical(self, canonical):
        self.batches.append(canonical)
        return np.array([[text.count(letter) for letter in "CcO"] for text in canonical])

    def _refusal(self, canonical):
        return "with a sulphur atom" if "S" in canonical else None


def letters(canonical):
    return [canonical.count(letter) for letter in "CcO"]
