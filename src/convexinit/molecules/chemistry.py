"""From any SMILES to the canonical form that the molecule codes are made for, or a reason why not.

The rules are those of the CDDD descriptor (Winter et al. 2019, supplementary material): the largest
fragment without stereochemistry, and only small organic molecules.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rdkit import Chem, rdBase
from rdkit.Chem import rdMolDescriptors

ELEMENTS = ("B", "C", "N", "O", "F", "P", "S", "Cl", "Br", "I")
# Bounds are excluded for weight and logP, included for heavy atoms.
WEIGHT = (12.0, 600.0)
HEAVY_ATOMS = (4, 50)
LOG_P = (-5.0, 7.0)

_SYMBOLS = {*ELEMENTS, "H"}

# Unreadable SMILES are counted and reported by the functions below.
rdBase.DisableLog("rdApp.*")


@dataclass(frozen=True)
class Standardised:
    """What became of one SMILES.

    Attributes:
        smiles: canonical SMILES of the largest fragment, without stereochemistry; None if the
            molecule is outside the domain of the codes.
        reason: why it is outside, in a few words; None if it is inside.
    """

    smiles: str | None
    reason: str | None


def standardise(smiles: str) -> Standardised:
    """Largest fragment, no stereochemistry, canonical form; or the first rule that it breaks.

    Example:
        >>> standardise("C[C@H](N)C(=O)O.Cl").smiles
        'CC(N)C(=O)O'
        >>> standardise("CC[Hg]CC").reason
        'an element other than B C N O F P S Cl Br I'
    """
    molecule = _read(smiles)
    if molecule is None:
        return Standardised(None, "not readable as SMILES")
    if molecule.GetNumAtoms() == 0:
        return Standardised(None, "empty")
    fragments = Chem.GetMolFrags(molecule, asMols=True)
    molecule = max(
        fragments, key=lambda part: (part.GetNumHeavyAtoms(), rdMolDescriptors._CalcMolWt(part))
    )
    Chem.RemoveStereochemistry(molecule)
    # Removing stereochemistry can make explicit hydrogens superfluous: the second reading of the
    # text gives the form that does not change any more.
    molecule = Chem.MolFromSmiles(Chem.MolToSmiles(molecule))
    if molecule is None:
        return Standardised(None, "not readable as SMILES")
    reason = _outside(molecule)
    return Standardised(None if reason else Chem.MolToSmiles(molecule), reason)


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

    RDKit leaves out a foreign letter at either end, such as a Cyrillic C, and would read a smaller
    molecule; half of a surrogate pair, which a damaged file can hold, is no text for it at all.
    """
    return Chem.MolFromSmiles(smiles) if smiles.isascii() else None


def standardise_all(smiles: Sequence[str]) -> list[Standardised]:
    """:func:`standardise` for many, each distinct string once."""
    known = {text: standardise(text) for text in dict.fromkeys(smiles)}
    return [known[text] for text in smiles]
