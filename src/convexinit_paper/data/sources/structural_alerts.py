"""Twelve structural alerts on enumerated molecules: a stand-in for Tox21 that needs no files.

Small drug-like molecules are put together from the cores, substituents, linkers and end groups
below. A label says whether a molecule contains a group that toxicologists look for, such as an
aromatic nitro group: what a network has to learn here is chemistry, but not toxicity. The sizes
of the tasks (rare positives, missing labels, twelve columns) resemble those of Tox21, and results
must be labelled as what they are, which the title does.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from convexinit_paper.data.multitask import MoleculeSet, MultitaskData
from convexinit_paper.data.sources import MultitaskSource

if TYPE_CHECKING:
    from rdkit.Chem import Mol

TITLE = "structural alerts"
SIZES = (1_400, 300, 300)  # training, validation, test
HEAVY_ATOMS = (6, 35)  # both included
LOG_P = 5.0  # excluded bound of the magnitude
MISSING = 0.05  # share of the labels
SUBSTITUTED = 0.7  # probability of a substituent, at each of two places
SEED = 0

# Task and SMARTS. Conjugation with a carbonyl or sulfonyl group takes away what makes an amine
# an aniline, hence the exclusions.
ALERTS = {
    "aromatic-nitro": "c[N+](=O)[O-]",
    "aniline": "c[NX3;!$(N[C,S]=[O,N,S]);!+]",
    "phenol": "c[OX2H1]",
    "michael-acceptor": "[CX3;!R]=[CX3;!R]-[CX3]=[OX1]",
    "aromatic-halide": "c[F,Cl,Br,I]",
    "alkyl-halide": "[CX4][Cl,Br]",
    "sulfonamide": "[#6][SX4](=O)(=O)[NX3]",
    "carboxylic-acid": "[#6][CX3](=O)[OX2H1]",
    "aldehyde": "[#6][CX3H1]=[OX1]",
    "tertiary-amine": "[NX3;H0]([CX4])([CX4])[CX4]",
    "thiophene-or-furan": "[s,o]1cccc1",
    "nitrile": "[#6]C#[NX1]",
}

# Each has three places: {a} and {c} for substituents, {b} for a linker with its end group.
_CORES = (
    "c1({a})cc({c})c({b})cc1", "c1({a})cc({b})cc({c})c1", "c1({a})c({b})cccc1{c}",
    "c1({a})nc({c})c({b})cc1", "c1({a})cnc({b})c({c})c1", "c1({a})nc({b})cc({c})n1",
    "c1({a})ccc2cc({b})cc({c})c2c1", "c1({a})ccc2nc({b})cc({c})c2c1",
    "c1({a})ccc2[nH]c({b})c({c})c2c1", "c1({a})cc({c})c2sc({b})nc2c1",
    "c1({a})cc({c})c2c(c1)ccc(=O)n2{b}", "c1({a})ccc2c(c1)OC({b})CC2{c}",
    "c1({a})ccc2c(c1)C({b})CCC2{c}", "c1({a})sc({b})cc1{c}", "c1({a})oc({b})cc1{c}",
    "n1({b})nc({a})cc1{c}", "n1c({a})c({c})sc1{b}", "C1({a})CCC({b})C({c})C1",
    "C1({a})CC({c})N(C)C({b})C1", "C1({a})COC({b})C({c})C1",
    "C1({a})CCC2(C)C(CCC3C2CCC2(C)C3CCC2{b})C1{c}", "C({a})CC({b})CC{c}",
    "C({a})(C)CCN(C)CC({c}){b}",
)  # fmt: skip

# Some are named twice or thrice: their alerts would be too rare otherwise.
_SUBSTITUENTS = (
    "C", "CC", "C(C)C", "C(C)(C)C", "OC", "OCC", "OC(C)C", "O", "O", "O", "N", "NC", "N(C)C", "F",
    "Cl", "Br", "[N+](=O)[O-]", "[N+](=O)[O-]", "C#N", "CC#N", "C(F)(F)F", "C(=O)O", "CC(=O)O",
    "C(=O)OC", "C(C)=O", "C=O", "C=O", "C(=O)N", "S(N)(=O)=O", "S(C)(=O)=O", "SC", "CO", "CN(C)C",
    "CCl", "CCBr", "CCCCl", "C=CC(=O)OC", "C=CC(C)=O", "NC(C)=O",
)  # fmt: skip

# Always between two carbon atoms, or a carbon and a nitrogen of an aromatic ring.
_LINKERS = (
    "", "C", "CC", "CO", "C(=O)", "C(=O)N", "C(=O)NC", "CC(=O)N", "CNC(=O)", "C(=O)O", "COC(=O)",
    "CS", "CNC", "CN(C)C", "CNS(=O)(=O)", "C=C", "C=CC(=O)", "C(=O)C=C", "CCCC",
)  # fmt: skip

# Rings are numbered from 8, so that they cannot meet those of the cores.
_ENDS = (
    "C", "CCC", "CC(C)C", "CCCCCC", "CCN(CC)CC", "CCO", "CCCl", "CC#N", "c9ccccc9", "c9ccc(C)cc9",
    "c9ccc(Cl)cc9", "c9cc(F)ccc9", "c9ccc(O)cc9", "c9ccc(OC)c(OC)c9", "c9ccc([N+](=O)[O-])cc9",
    "c9ccc(N)cc9", "c9ccc(C=O)cc9", "c9ccc(C(=O)O)cc9", "c9ccc(C#N)cc9", "c9ccc(S(N)(=O)=O)cc9",
    "c9ccncc9", "c9ccco9", "c9cccs9", "c9c[nH]c8ccccc98", "c9ccc8ccccc8c9", "C9CCCCC9",
    "C9CCN(C)CC9", "C9CCOCC9",
)  # fmt: skip


def load_structural_alerts() -> MultitaskData:
    """Enumerate the molecules and label them; the same every time.

    Returns:
        2,000 distinct molecules with canonical SMILES, split at random, once and for all.
        5% of the labels, chosen at random, are missing.
    """
    texts, table = _enumerated()
    smiles, labels = list(texts), table.copy()
    ids = [f"SA-{number:04d}" for number in range(1, len(smiles) + 1)]
    # The molecules are in random order already: the splits are slices.
    bounds = np.cumsum([0, *SIZES])
    train, validation, test = [
        MoleculeSet(smiles[i:j], ids[i:j], labels[i:j]) for i, j in pairwise(bounds)
    ]
    return MultitaskData(
        title=f"{TITLE.capitalize()} (stand-in for Tox21)",
        tasks=tuple(ALERTS),
        train=train,
        validation=validation,
        test=test,
        notes={
            "source": "molecules enumerated by convexinit; labels are SMARTS matches",
            "missing_labels": int(np.isnan(labels).sum()),
        },
    )


@cache
def _enumerated() -> tuple[tuple[str, ...], np.ndarray]:
    """The molecules and their labels ``[molecules, alerts]``: a second of work, done once."""
    from rdkit import Chem

    generator = random.Random(SEED)
    alerts = [Chem.MolFromSmarts(smarts) for smarts in ALERTS.values()]
    texts: list[str] = []
    labels: list[list[float]] = []
    known: set[str] = set()
    while len(texts) < sum(SIZES):
        molecule = Chem.MolFromSmiles(_draw(generator))
        text = Chem.MolToSmiles(molecule)
        if text in known or not _is_small(molecule):
            continue
        known.add(text)
        texts.append(text)
        labels.append([float(molecule.HasSubstructMatch(alert)) for alert in alerts])
    table = np.array(labels, dtype=np.float32)
    missing = [[generator.random() < MISSING for _ in ALERTS] for _ in texts]
    table[np.array(missing)] = np.nan
    return tuple(texts), table


def _draw(generator: random.Random) -> str:
    """A core with a linker and an end group, and a substituent or hydrogen at two more places."""
    linker, end = _choose(_LINKERS, generator), _choose(_ENDS, generator)
    a, c = [
        _choose(_SUBSTITUENTS, generator) if generator.random() < SUBSTITUTED else "[H]"
        for _ in range(2)
    ]
    return _choose(_CORES, generator).format(a=a, b=linker + end, c=c)


def _is_small(molecule: Mol) -> bool:
    """Whether the molecule is of the wanted size, and within the domain of the molecule codes."""
    from rdkit.Chem.rdMolDescriptors import CalcCrippenDescriptors

    size = molecule.GetNumHeavyAtoms()
    log_p, _ = CalcCrippenDescriptors(molecule)
    return HEAVY_ATOMS[0] <= size <= HEAVY_ATOMS[1] and abs(log_p) < LOG_P


def _choose(options: Sequence[str], generator: random.Random) -> str:
    # Only random() is promised to give the same numbers in later versions of Python.
    return options[int(generator.random() * len(options))]


DATA_SETS = {
    "structural_alerts": MultitaskSource(TITLE, load=lambda data_dir: load_structural_alerts())
}
