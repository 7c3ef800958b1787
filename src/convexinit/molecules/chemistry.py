"""From any SMILES to the canonical form that the molecule codes are made for, or a reason why not.

The rules are those of the CDDD descriptor (Winter et al. 2019 and their published code): salts are
stripped, of the rest the largest fragment is taken, without stereochemistry and isotopes, and only
small organic molecules are kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from threading import Lock

from rdkit import Chem, rdBase
from rdkit.Chem import rdMolDescriptors

# Number of the rules below: to be raised when they give a molecule another form, so that codes and
# runs that were made with the old forms are not taken for new ones.
RULES = 2

ELEMENTS = ("B", "C", "N", "O", "F", "P", "S", "Cl", "Br", "I")
# Bounds are excluded for weight and logP, included for heavy atoms.
WEIGHT = (12.0, 600.0)
HEAVY_ATOMS = (4, 50)
LOG_P = (-5.0, 7.0)

# Fragments that are stripped, one pattern after the other: RDKit's list of salts, which CDDD uses.
# A pattern fits where it covers all atoms of a fragment; charges and hydrogens play no role.
SALTS = (
    "[#1]",  # in addition to RDKit's
    "[Cl,Br,I]",
    "[Li,Na,K,Ca,Mg]",
    "[O,N]",
    "[N](=O)(O)O",
    "[P](=O)(O)(O)O",
    "[P](F)(F)(F)(F)(F)F",
    "[S](=O)(=O)(O)O",
    "[CH3][S](=O)(=O)(O)",
    "c1cc([CH3])ccc1[S](=O)(=O)(O)",  # tosylate
    "[CH3]C(=O)O",
    "FC(F)(F)C(=O)O",
    "OC(=O)C=CC(=O)O",  # fumarate, maleate
    "OC(=O)C(=O)O",
    "OC(=O)C(O)C(O)C(=O)O",  # tartrate
    "C1CCCCC1[NH]C1CCCCC1",
)

UNREADABLE = "not readable as SMILES"

_SALTS = tuple(map(Chem.MolFromSmarts, SALTS))
# RDKit's log is one for the whole process: blocks of several threads must not overlap, or the first
# to end ends the others.
_SILENCE = Lock()
_SYMBOLS = {*ELEMENTS, "H"}


@dataclass(frozen=True)
class Standardised:
    """What became of one SMILES.

    Attributes:
        smiles: canonical SMILES of the largest fragment that is no salt, without stereochemistry,
            isotopes and atom maps; None if the molecule is outside the domain of the codes.
        reason: why it is outside, in a few words; None if it is inside.
    """

    smiles: str | None
    reason: str | None


def standardise(smiles: str) -> Standardised:
    """The form that codes are made for; or the first rule that the molecule breaks.

    Where only salts are left, they are the molecule: sodium acetate is acetate, but mercury
    acetate is mercury, because mercury is not among the :data:`SALTS`. Of fragments of one size the
    first in alphabetical order of their canonical SMILES is taken.

    Example:
        >>> standardise("C[C@H](N)C(=O)O.Cl").smiles
        'CC(N)C(=O)O'
        >>> standardise("CSC(N)=N.CSC(N)=N.OS(O)(=O)=O").smiles
        'CSC(=N)N'
        >>> standardise("CC[Hg]CC").reason
        'an element other than B C N O F P S Cl Br I'
    """
    molecule = _read(smiles)
    if molecule is None:
        return Standardised(None, UNREADABLE)
    if molecule.GetNumAtoms() == 0:
        return Standardised(None, "empty")
    Chem.RemoveStereochemistry(molecule)
    for atom in molecule.GetAtoms():
        atom.SetIsotope(0)
        atom.SetAtomMapNum(0)
    # Without all this, hydrogens that were explicit can be superfluous: the second reading of the
    # text gives the form that does not change any more.
    fragments = []
    for text in set(Chem.MolToSmiles(molecule).split(".")):
        fragment = _read(text)
        if fragment is None:
            return Standardised(None, UNREADABLE)
        fragments.append(fragment)
    forms = [
        (-fragment.GetNumHeavyAtoms(), Chem.MolToSmiles(fragment), fragment)
        for fragment in _without_salts(fragments)
    ]
    _, form, fragment = min(forms, key=lambda item: item[:2])
    reason = _outside(fragment)
    return Standardised(None if reason else form, reason)


def _without_salts(fragments: list[Chem.Mol]) -> list[Chem.Mol]:
    """The fragments that are not among the salts, or the last ones left where all are."""
    for salt in _SALTS:
        size = salt.GetNumAtoms()
        rest = [
            fragment
            for fragment in fragments
            if fragment.GetNumAtoms() != size or not fragment.HasSubstructMatch(salt)
        ]
        fragments = rest or fragments
    return fragments


def _outside(molecule: Chem.Mol) -> str | None:
    if any(atom.GetSymbol() not in _SYMBOLS for atom in molecule.GetAtoms()):
        return f"an element other than {' '.join(ELEMENTS)}"
    heavy_atoms = molecule.GetNumHeavyAtoms()
    if heavy_atoms < HEAVY_ATOMS[0]:
        return f"fewer than {HEAVY_ATOMS[0]} heavy atoms"
    if heavy_atoms > HEAVY_ATOMS[1]:
        return f"more than {HEAVY_ATOMS[1]} heavy atoms"
    if not WEIGHT[0] < rdMolDescriptors._CalcMolWt(molecule) < WEIGHT[1]:
        return f"weight not between {WEIGHT[0]:g} and {WEIGHT[1]:g}"
    if not LOG_P[0] < rdMolDescriptors.CalcCrippenDescriptors(molecule)[0] < LOG_P[1]:
        return f"logP not between {LOG_P[0]:g} and {LOG_P[1]:g}"
    return None


def canonical(smiles: str) -> str | None:
    """Canonical SMILES, or None for a string that is not a molecule (also for the empty one).

    Example:
        >>> canonical("OCC"), canonical("C1CC")
        ('CCO', None)
    """
    molecule = _read(smiles) if smiles else None
    return None if molecule is None else Chem.MolToSmiles(molecule)


def _read(smiles: str) -> Chem.Mol | None:
    """The molecule of a SMILES, or None if it is none.

    RDKit would read a smaller molecule from a text with more in it: it leaves out what follows a
    blank or a line break (a name, an extension, another SMILES), and any control character and
    foreign letter at either end, such as a Cyrillic C. Half of a surrogate pair, which a damaged
    file can hold, is no text for it at all.
    """
    if not smiles.isascii() or not smiles.isprintable() or " " in smiles:
        return None
    with _SILENCE, rdBase.BlockLogs():  # the callers count and report unreadable SMILES
        return Chem.MolFromSmiles(smiles)


def standardise_all(smiles: Sequence[str]) -> list[Standardised]:
    """:func:`standardise` for many, each distinct string once."""
    known = {text: standardise(text) for text in dict.fromkeys(smiles)}
    return [known[text] for text in smiles]
