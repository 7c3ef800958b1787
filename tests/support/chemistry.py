"""The molecules that CDDD's published preprocessing makes, with RDKit's own remover of salts."""

from rdkit import Chem
from rdkit.Chem.SaltRemover import SaltRemover

_REMOVER = SaltRemover()


def published_form(smiles: str) -> str | None:
    """Canonical SMILES without salts, stereochemistry and isotopes; of the largest fragments the
    first one. The rules about elements and sizes are not among it.

    None for what RDKit cannot read.
    """
    molecule = Chem.MolFromSmiles(smiles)
    if molecule is None:
        return None
    stripped = _REMOVER.StripMol(molecule, dontRemoveEverything=True)
    parts = Chem.MolToSmiles(stripped, isomericSmiles=False).split(".")
    sizes = [Chem.MolFromSmiles(part).GetNumAtoms() for part in parts]
    return Chem.MolToSmiles(Chem.MolFromSmiles(parts[sizes.index(max(sizes))]))
