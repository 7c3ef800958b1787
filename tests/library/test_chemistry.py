"""Standardised molecules."""

import pytest
from rdkit import Chem

from convexinit.molecules.chemistry import canonical, standardise
from support.codecs import DRUGS


@pytest.mark.parametrize(
    ("smiles", "form", "reason"),
    [
        ("C[C@H](N)C(=O)O.Cl", "CC(N)C(=O)O", None),
        ("[Na+].[O-]C(=O)CCC", "CCCC(=O)[O-]", None),
        ("F/C=C/F", "FC=CF", None),
        ("CC[Hg]CC", None, "an element other than"),
        ("CCO", None, "fewer than 4"),
        ("C" * 51, None, "more than 50"),
        ("C(F)(F)C(I)(I)C(I)(I)I", None, "weight"),
        ("C" * 20, None, "logP"),
        ("c1ccccc", None, "not readable"),
        ("", None, "empty"),
        ("\ud800", None, "not readable"),
        ("\u0421CCCO", None, "not readable"),  # a Cyrillic letter that looks like C
        ("CCCCO\u2603", None, "not readable"),
    ],
)
def test_standardisation(smiles, form, reason):
    result = standardise(smiles)
    assert result.smiles == form
    assert (result.reason is None) == (reason is None)
    assert reason is None or reason in result.reason


def test_standardisation_changes_nothing_the_second_time():
    for text in DRUGS:
        mixed = Chem.MolToSmiles(Chem.MolFromSmiles(text), doRandom=True) + ".[Na+]"
        once = standardise(mixed).smiles
        assert once == canonical(once) == standardise(once).smiles == standardise(text).smiles
