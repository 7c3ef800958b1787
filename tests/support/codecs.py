"""Molecules, and a codec that tests can watch."""

import numpy as np

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
