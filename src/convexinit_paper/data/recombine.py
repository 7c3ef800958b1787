"""New molecules from known ones: cut single bonds, join the pieces anew.

An autoencoder that has seen each of some 80,000 molecules dozens of times begins to remember them.
Recombined molecules have the same local chemistry in new arrangements.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence

from rdkit import Chem

from convexinit.molecules.chemistry import HEAVY_ATOMS, standardise

SMALLEST_PIECE = 3  # heavy atoms

_ATOM = re.compile(r"\[[^\]]+\]|Cl|Br|[BCNOPSFIcnops]")  # but hydrogen, in a SMILES
# A ring closure number that no piece uses: it bonds the first atoms of both pieces.
_BOND = "-%99"


def cut(smiles: str, source: random.Random) -> list[str]:
    """Cut a random single bond outside rings; both pieces as SMILES that begin at the cut.

    Args:
        smiles: a molecule.
        source: of randomness.

    Returns:
        Two pieces of at least three heavy atoms, or an empty list where no bond can be cut.
        Bonds between two atoms other than carbon are never cut.
    """
    molecule = Chem.MolFromSmiles(smiles)
    bonds = [
        bond.GetIdx()
        for bond in molecule.GetBonds()
        if bond.GetBondType() == Chem.BondType.SINGLE
        and not bond.IsInRing()
        and 6 in (bond.GetBeginAtom().GetAtomicNum(), bond.GetEndAtom().GetAtomicNum())
        and bond.GetBeginAtom().GetDegree() > 1
        and bond.GetEndAtom().GetDegree() > 1
    ]
    if not bonds:
        return []
    halves = Chem.FragmentOnBonds(molecule, [source.choice(bonds)], dummyLabels=[(0, 0)])
    pieces = []
    for piece in Chem.GetMolFrags(halves, asMols=True):
        mark = next(atom.GetIdx() for atom in piece.GetAtoms() if atom.GetAtomicNum() == 0)
        text = Chem.MolToSmiles(piece, rootedAtAtom=mark)
        if piece.GetNumHeavyAtoms() >= SMALLEST_PIECE and text[0] == "*":
            pieces.append(text[1:])
    return pieces if len(pieces) == 2 and all(map(_ATOM.match, pieces)) else []


def join(first: str, second: str) -> str | None:
    """Join two pieces at their first atoms; canonical SMILES, or None if that is no molecule.

    Example:
        >>> join("c1ccccc1", "CCO")
        'OCCc1ccccc1'
    """
    atoms = [_ATOM.match(piece) for piece in (first, second)]
    if not any(atom and atom[0] in "Cc" for atom in atoms):
        return None  # bonds between two atoms other than carbon are rarely stable
    joined = ".".join(
        piece[: len(atom[0])] + _BOND + piece[len(atom[0]) :]
        for piece, atom in zip((first, second), atoms, strict=True)
        if atom
    )
    return standardise(joined).smiles


def recombine(smiles: Sequence[str], count: int, seed: int) -> list[str]:
    """Molecules joined from pieces of two random molecules each.

    Args:
        smiles: molecules to take pieces from.
        count: number of attempts; the result is shorter, without duplicates and without the
            molecules that it began with.
        seed: of the random choices.

    Returns:
        Canonical SMILES inside the domain of the codes (:func:`standardise`), sorted.
    """
    source = random.Random(seed)
    pieces = [piece for text in smiles for piece in cut(text, source)]
    sizes = [_size(piece) for piece in pieces]
    made = set()
    for _ in range(count if pieces else 0):
        first, second = source.randrange(len(pieces)), source.randrange(len(pieces))
        if sizes[first] + sizes[second] <= HEAVY_ATOMS[1]:
            made.add(join(pieces[first], pieces[second]))
    return sorted(text for text in made.difference(smiles) if text is not None)


def _size(piece: str) -> int:
    """Heavy atoms of a piece, from its text."""
    return len(_ATOM.findall(piece))
