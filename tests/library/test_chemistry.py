"""Standardised molecules."""

import re
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rdkit import Chem
from rdkit.Chem.SaltRemover import SaltRemover

from convexinit.molecules.chemistry import SALTS, Standardised, canonical, standardise
from support.chemistry import published_form
from support.codecs import DRUGS

# Of one size in heavy atoms, some also of one weight.
SAME_SIZE = ["CCCCCCCN", "CC(C)CCCCN", "OCCCCCCO", "c1ccccc1CC", "CCCCCCCBr", "C1CCNCC1CO"]
COUNTER_IONS = [
    "Cl",
    "[Na+]",
    "O",
    "[NH4+]",
    "OS(O)(=O)=O",
    "CS(=O)(=O)O",
    "CC([O-])=O",
    "[2H]O[2H]",
]


@pytest.mark.parametrize(
    ("smiles", "form", "reason"),
    [
        ("C[C@H](N)C(=O)O.Cl", "CC(N)C(=O)O", None),
        ("[Na+].[O-]C(=O)CCC", "CCCC(=O)[O-]", None),
        ("F/C=C/F", "FC=CF", None),
        # A known salt is no molecule to be coded, however large it is beside the other fragments.
        ("CSC(N)=N.CSC(N)=N.OS(O)(=O)=O", "CSC(=N)N", None),
        ("CCN1C=C[N+](C)=C1.CC2=CC=C(C=C2)S([O-])(=O)=O", "CCn1cc[n+](C)c1", None),
        ("NCCCC.OC(=O)C(O)C(O)C(O)=O", "CCCCN", None),
        ("NCCCC.OC(=O)/C=C\\C(O)=O.O.Br", "CCCCN", None),
        ("NC(N)=N.OP(O)(O)=O", "N=C(N)N", None),
        ("CCCC[NH3+].F[P-](F)(F)(F)(F)F", "CCCC[NH3+]", None),
        # What is left last stays, even where it is on the list.
        ("[Na+].CC([O-])=O", "CC(=O)[O-]", None),
        ("[H+].CC([O-])=O", "CC(=O)[O-]", None),
        ("[Ca++].[Ca++].CC([O-])=O.CC([O-])=O.O.O", "CC(=O)[O-]", None),
        ("OS(O)(=O)=O", "O=S(=O)(O)O", None),
        # Other metals are not on the list, and stay.
        ("[Hg++].CC([O-])=O.CC([O-])=O", None, "an element other than"),
        ("CC(=O)O[Hg]OC(C)=O", None, "an element other than"),
        ("C[Hg+].CC([O-])=O", None, "an element other than"),
        ("O.O.[Zn++].CC([O-])=O.CC([O-])=O", None, "an element other than"),
        ("[Fe++].[O-]S([O-])(=O)=O", None, "an element other than"),
        ("NN.OS(O)(=O)=O", None, "fewer than 4"),
        # Isotopes, atom maps, explicit hydrogens.
        ("[2H]C([2H])([2H])C(N)Cc1ccccc1", "CC(N)Cc1ccccc1", None),
        ("[2H]O[2H].[13CH3]CC[15NH2]", "CCCN", None),
        ("[CH3:1][CH2:2][CH2:3][OH:4].[Na+:5]", "CCCO", None),
        ("[H]C([H])([H])C([H])([H])C([H])([H])O[H]", "CCCO", None),
        ("[H][C@]([2H])(C)CO", "CCCO", None),
        ("[2H]/C(C)=C(/[2H])CO", "CC=CCO", None),
        # Of fragments of one size the first one in alphabetical order.
        ("OCCCCCCO.CCCCCCCN", "CCCCCCCN", None),
        ("CCCCCCCN.OCCCCCCO", "CCCCCCCN", None),
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


def test_salts_are_those_of_rdkit():
    assert [Chem.MolToSmarts(Chem.MolFromSmarts(text)) for text in SALTS[1:]] == [
        Chem.MolToSmarts(salt) for salt in SaltRemover().salts
    ]


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_the_form_does_not_depend_on_how_a_molecule_is_written(data):
    parts = data.draw(st.lists(st.sampled_from([*SAME_SIZE, *DRUGS]), min_size=1, max_size=3))
    parts += data.draw(st.lists(st.sampled_from(COUNTER_IONS), max_size=3))
    expected = standardise(".".join(parts))
    assert expected.smiles == published_form(".".join(parts))
    if expected.smiles is not None:
        assert expected.smiles == canonical(expected.smiles)
        assert standardise(expected.smiles) == expected
    written = []
    for text in data.draw(st.permutations(parts)):
        molecule = Chem.MolFromSmiles(text)
        if data.draw(st.booleans()):
            molecule = Chem.AddHs(molecule)
        for atom in molecule.GetAtoms():
            atom.SetIsotope(data.draw(st.sampled_from([0, 0, 0, 2, 3, 13, 18, 200])))
            atom.SetAtomMapNum(data.draw(st.sampled_from([0, 0, 0, 1, 2, 77])))
        order = data.draw(st.permutations(range(molecule.GetNumAtoms())))
        written.append(Chem.MolToSmiles(Chem.RenumberAtoms(molecule, list(order)), canonical=False))
    assert standardise(".".join(written)) == expected


def test_standardisation_changes_nothing_the_second_time():
    for text in DRUGS:
        mixed = Chem.MolToSmiles(Chem.MolFromSmiles(text), doRandom=True) + ".[Na+]"
        once = standardise(mixed).smiles
        assert once == canonical(once) == standardise(once).smiles == standardise(text).smiles


@given(
    st.sampled_from(DRUGS),
    st.sampled_from([*map(chr, range(33)), "\x7f", "\x85", "\xa0", "\u2028", "\u3000", "\ufeff"]),
    st.sampled_from(["", "CCCCN", "aspirin", "junk CC(", "|^1:0|", "50-78-2"]),
    st.booleans(),
)
def test_a_text_with_more_in_it_is_no_smiles(smiles, character, more, before):
    text = more + character + smiles if before else smiles + character + more
    assert standardise(text) == Standardised(None, "not readable as SMILES")
    assert canonical(text) is None


# --- RDKit's log ----------------------------------------------------------------------------------

LOG = """
import sys
from concurrent.futures import ThreadPoolExecutor
from rdkit import Chem, rdBase

def say(what):
    print(what, file=sys.stderr, flush=True)
    Chem.MolFromSmiles("C1CC")

say("before")
from convexinit.molecules import load_codec
from convexinit.molecules.chemistry import canonical
say("imported")
for name in ("ecfp", "autoencoder"):
    codec = load_codec(name)
    say(name)
    codec.encode(["C1CCCC", "[H]", "CCCCO", "c1cccc1", "F(F)(F)CCC"])
    canonical("C1CCC")
    say("encoded")
    for wrong in (["CCCCO", None], "CCCCO"):
        try:
            codec.encode(wrong)
        except TypeError:
            say("refused")
codec.decode(codec.encode(["CCCCO"]), beam=3)
say("decoded")
with ThreadPoolExecutor(8) as pool:
    list(pool.map(codec.prepare, [["C1CC", "CCCCO", "c1cccc1"] * 50] * 40))
say("threads")
rdBase.DisableLog("rdApp.error")
codec.prepare(["C1CC", "CCCCO"])
say("off")
"""


@pytest.mark.slow
def test_the_log_of_rdkit_stays_as_the_caller_has_it():
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LOG], capture_output=True, text=True, check=True
    )
    said = [re.sub(r"^\[[\d:]+\] ", "", line) for line in run.stderr.splitlines()]
    error = "SMILES Parse Error: unclosed ring for input: 'C1CC'"
    expected = ["before", "imported"]
    expected += ["ecfp", "encoded", "refused", "refused"]
    expected += ["autoencoder", "encoded", "refused", "refused", "decoded", "threads"]
    assert said[-1] == "off"
    assert [line for line in said if line != error] == [*expected, "off"]
    assert said.count(error) == len(expected)
