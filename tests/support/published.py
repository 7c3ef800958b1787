"""Small data sets in the forms in which the real ones are published, known by their digests."""

import gzip
import hashlib
import io
import pickle
import struct
import tarfile
import zipfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem, rdBase

from convexinit_paper.data.compat import official
from convexinit_paper.data.files import DataFile
from convexinit_paper.data.sources import cifar, mnist, tox21

PUBLISHED_TASKS = [task.replace(".", "-") for task in tox21.TASKS]


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def data_file(path: str, content: bytes) -> DataFile:
    return DataFile(path, len(content), hashlib.sha256(content).hexdigest())


@dataclass
class Published:
    """A small data set.

    Attributes:
        name: in the registry.
        files: what belongs into the data folder, by path.
        web: what servers offer, by name.
        point: makes the addresses of the data set begin with a URL.
        arrays: the content: training images, labels, test images, labels.
        unpacked: what torchvision makes of the files, by path.
    """

    name: str
    files: dict[str, bytes]
    web: dict[str, bytes]
    point: Callable[[str], None]
    arrays: tuple[np.ndarray, ...] = ()
    unpacked: dict[str, bytes] = field(default_factory=dict)


# --- MNIST and Fashion-MNIST ----------------------------------------------------------------------


def idx_contents(seed: int) -> tuple[list[bytes], tuple[np.ndarray, ...]]:
    """Four files in the order of torchvision, and the arrays in them."""
    generator = np.random.default_rng(seed)
    contents, arrays = [], []
    for rows in (20, 10):
        images = generator.integers(0, 256, (rows, 1, 28, 28), np.uint8)
        labels = np.arange(rows) % 10
        contents.append(struct.pack(">4i", 2051, rows, 28, 28) + images.tobytes())
        contents.append(struct.pack(">2i", 2049, rows) + labels.astype(np.uint8).tobytes())
        arrays += [images, labels]
    return contents, tuple(arrays)


def small_mnist(monkeypatch: pytest.MonkeyPatch) -> Published:
    contents, arrays = idx_contents(0)
    paths = [file.path for file in mnist.MNIST_FILES]
    files = dict(zip(paths, contents, strict=True))
    monkeypatch.setattr(mnist, "MNIST_FILES", [data_file(*item) for item in files.items()])

    def point(url: str) -> None:
        monkeypatch.setattr(official("MNIST"), "mirrors", [url])

    web = {f"{Path(path).name}.gz": gzip.compress(content) for path, content in files.items()}
    return Published("mnist", files, web, point, arrays, files)


def small_fashion_mnist(monkeypatch: pytest.MonkeyPatch) -> Published:
    known = official("FashionMNIST")
    contents, arrays = idx_contents(1)
    web = {
        name: gzip.compress(content)
        for (name, _), content in zip(known.resources, contents, strict=True)
    }
    monkeypatch.setattr(known, "resources", [(name, md5(web[name])) for name in web])
    sizes = tuple(map(len, web.values()))
    monkeypatch.setitem(vars(mnist.FASHION), "sizes", sizes)

    def point(url: str) -> None:
        monkeypatch.setattr(known, "mirrors", [url])

    files = {f"FashionMNIST/raw/{name}": content for name, content in web.items()}
    unpacked = {path.removesuffix(".gz"): gzip.decompress(files[path]) for path in files}
    return Published("fashion_mnist", files, web, point, arrays, unpacked)


# --- CIFAR-10 and CIFAR-100 -----------------------------------------------------------------------


class OldPickler(pickle.Pickler):
    """Writes arrays as NumPy under Python 2 did: bytes as strings, numbers for booleans."""

    def reducer_override(self, value):
        if isinstance(value, np.dtype):
            return np.dtype, ("u1", 0, 1), (3, "|", None, None, None, -1, -1, 0)
        if isinstance(value, np.ndarray):
            state = (1, value.shape, value.dtype, False, value.tobytes().decode("latin1"))
            return value.__reduce__()[0], (np.ndarray, (0,), "b"), state
        return NotImplemented


def cifar_batch(name: str, pixels: np.ndarray, labels: list[int]) -> bytes:
    keys = {"labels": labels}
    if name == "cifar100":
        keys = {"coarse_labels": [label % 20 for label in labels], "fine_labels": labels}
    stream = io.BytesIO()
    OldPickler(stream, protocol=2).dump(
        {"batch_label": "a batch", "data": pixels, "filenames": ["x.png"] * len(labels), **keys}
    )
    return stream.getvalue()


def packed(members: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def small_cifar(name: str, monkeypatch: pytest.MonkeyPatch) -> Published:
    known = official(name.upper())
    classes = 10 if name == "cifar10" else 100
    batches: dict[str, bytes] = {}
    arrays: list[np.ndarray] = []
    for attribute, rows in (("train_list", 8), ("test_list", 6)):
        names = [batch for batch, _ in getattr(known, attribute)]
        pixels = np.random.default_rng(rows).integers(0, 256, (len(names), rows, 3072), np.uint8)
        labels = np.arange(7, 7 + len(names) * rows) % classes
        for part, label, batch in zip(pixels, labels.reshape(-1, rows), names, strict=True):
            batches[batch] = cifar_batch(name, part, label.tolist())
        # Official layout: 1,024 red values row by row, then green, then blue.
        arrays += [pixels.reshape(-1, 3, 32, 32), labels]
        monkeypatch.setattr(known, attribute, [[batch, md5(batches[batch])] for batch in names])
    monkeypatch.setattr(known, "_load_meta", lambda self: None)
    members = {known.meta["filename"]: b"never read", "readme.html": b"<html>", **batches}
    archive = packed({f"{known.base_folder}/{key}": members[key] for key in members})
    monkeypatch.setattr(known, "tgz_md5", md5(archive))
    ours = {"cifar10": cifar.CIFAR10, "cifar100": cifar.CIFAR100}[name]
    monkeypatch.setitem(vars(ours), "size", len(archive))

    def point(url: str) -> None:
        monkeypatch.setattr(known, "url", url + known.filename)

    files = {known.filename: archive}
    unpacked = {f"{known.base_folder}/{batch}": batches[batch] for batch in batches}
    return Published(name, files, files, point, tuple(arrays), unpacked)


# --- Tox21 ----------------------------------------------------------------------------------------

# Two samples of one molecule that disagree, and one that RDKit cannot read from an SDF.
TRAIN = {
    "S-3": ("CCO", dict.fromkeys(PUBLISHED_TASKS, "0")),
    "S-1": ("CCO", {**dict.fromkeys(PUBLISHED_TASKS[:3], "1"), "SR-ARE": "0"}),
    "S-4": ("Oc1ccccc1", {"NR-AR": "1", "SR-p53": "0"}),
    "S-2": ("[Cl-][Pt]1([Cl-])NCCN1", {"NR-AR": "0"}),
    "S-5": ("CC(=O)O", {"SR-MMP": "1"}),
}
VALIDATION = {"V-1": ("CCN", {"NR-AR": "0", "SR-ARE": "1"}), "V-2": ("c1ccccc1", {"NR-ER": "1"})}
TEST = {"T-1": ("CC", {"NR-AhR": "1"}), "T-2": ("CCC", {"SR-p53": "0"})}


def block_of(smiles: str) -> str:
    with rdBase.BlockLogs():
        molecule = Chem.MolFromSmiles(smiles)
    if molecule is None:  # structures that RDKit refuses exist in the published SDF, too
        return "\n\n\n  1  0  0  0  0  0  0  0  0  0999 V2000\n  no atom\nM  END\n"
    return Chem.MolToMolBlock(molecule)


def sdf_record(sample_id: str, block: str, labels: dict[str, str]) -> str:
    """One record as in the published training set: the sample ID is the title line."""
    lines = block.split("\n")
    lines[0] = sample_id
    text = "\n".join(lines)
    properties = {"Formula": "C2", "FW": "1.0", "DSSTox_CID": "7", **labels}
    return text + "".join(f">  <{k}>\n{v}\n\n" for k, v in properties.items()) + "$$$$\n"


def sdf(samples: dict[str, tuple[str, dict[str, str]]]) -> bytes:
    blocks = {smiles: block_of(smiles) for smiles, _ in samples.values()}
    return "".join(
        sdf_record(name, blocks[smiles], labels) for name, (smiles, labels) in samples.items()
    ).encode()


def zipped(content: bytes, *names: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name in names:
            archive.writestr(name, content)
    return buffer.getvalue()


def final_labels(*rows: str, names: list[str] = PUBLISHED_TASKS) -> bytes:
    return "\n".join(["\t".join(["Sample ID", *names]), *rows]).encode()


def small_tox21(monkeypatch: pytest.MonkeyPatch) -> Published:
    """The training set is an SDF on the web; its other form is ``unpacked``."""
    lines = defaultdict(list)
    for sample_id, (smiles, labels) in TRAIN.items():
        for task, label in labels.items():
            lines[task].append(f"{smiles}\t{sample_id}\t{label}\n")
    assays = {
        file.path: "".join(lines[task]).encode()
        for file, task in zip(tox21.ASSAY_FILES, PUBLISHED_TASKS, strict=True)
    }
    smiles = "\n".join(["#SMILES\tSample ID", *(f"{TEST[key][0]}\t{key}" for key in TEST)])
    rows = [
        "\t".join([key, *(labels.get(task, "x") for task in PUBLISHED_TASKS)])
        for key, (_, labels) in TEST.items()
    ]
    known = [tox21.VALIDATION_FILE.path, *(file.path for file in tox21.TEST_FILES)]
    contents = dict(
        zip(known, [sdf(VALIDATION), smiles.encode(), final_labels(*rows)], strict=True)
    )
    validation, *test = [data_file(*item) for item in contents.items()]
    monkeypatch.setattr(tox21, "VALIDATION_FILE", validation)
    monkeypatch.setattr(tox21, "TEST_FILES", tuple(test))
    monkeypatch.setattr(tox21, "ASSAY_FILES", [data_file(*item) for item in assays.items()])
    for split, samples in (("TRAIN", TRAIN), ("VALIDATION", VALIDATION)):
        monkeypatch.setattr(tox21, f"{split}_SIZE", len(samples))

    def point(url: str) -> None:
        monkeypatch.setattr(tox21, "URL", f"{url}download?id=")

    files = {tox21.TRAIN_SDF: sdf(TRAIN), **contents}
    web = {  # names inside the archives try to leave the folder
        "tox21_10k_data_allsdf": zipped(files[tox21.TRAIN_SDF], "../../tox21_10k_data_all.sdf"),
        "tox21_10k_challenge_testsdf": zipped(sdf(VALIDATION), "/tmp/tox21_challenge_test.sdf"),
        "tox21_10k_challenge_scoresmiles": contents[known[1]],
        "tox21_10k_challenge_scoretxt": contents[known[2]],
    }
    return Published("tox21", files, web, point, unpacked={**assays, **contents})


SMALL: dict[str, Callable[[pytest.MonkeyPatch], Published]] = {
    "mnist": small_mnist,
    "fashion_mnist": small_fashion_mnist,
    "cifar10": lambda monkeypatch: small_cifar("cifar10", monkeypatch),
    "cifar100": lambda monkeypatch: small_cifar("cifar100", monkeypatch),
    "tox21": small_tox21,
}
