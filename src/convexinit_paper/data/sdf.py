"""Records of an SDF, the file format of structures with properties, bare or in a ZIP archive."""

import io
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

# Far above the 50 MB or so of the largest one that is read: more would fill the memory.
MAX_BYTES = 500_000_000


class FormatError(ValueError):
    """The content of a file is not what it should be; the message says so in a few words."""


@dataclass(frozen=True)
class Record:
    """One molecule of an SDF, its structure not yet read.

    Attributes:
        title: the first line.
        mol_block: the structure, as a connection table; begins with the title.
        properties: pairs of name and value.
    """

    title: str
    mol_block: str
    properties: list[tuple[str, str]]

    def smiles(self) -> str:
        """The structure as RDKit writes it; the empty string if it cannot read it."""
        from rdkit import Chem, rdBase

        with rdBase.BlockLogs():  # unreadable structures are counted instead
            molecule = Chem.MolFromMolBlock(self.mol_block)
        return "" if molecule is None else Chem.MolToSmiles(molecule)


def read_sdf(path: Path) -> bytes:
    """Content of an SDF, bare or the only one in a ZIP archive, whatever the file's name.

    Nothing is written; an archive is checked by its checksum, and the name inside of it serves
    only to tell that it is an SDF.

    Raises:
        FormatError: it is too large, or the archive is damaged or does not hold exactly one SDF.
        OSError: the file cannot be read.
    """
    if path.stat().st_size > MAX_BYTES:
        raise FormatError(f"more than {MAX_BYTES:,} bytes")
    content = path.read_bytes()
    return _unzip(content) if content.startswith(b"PK") else content


def _unzip(content: bytes) -> bytes:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = [
                member
                for member in archive.infolist()
                if member.filename.lower().endswith(".sdf")
                and not member.filename.startswith("__MACOSX/")  # notes of the Finder
            ]
            if len(members) != 1:
                raise FormatError(f"a ZIP archive with {len(members)} SDF files instead of one")
            with archive.open(members[0]) as stream:
                # Not the size that the archive claims: it may claim anything.
                result = stream.read(MAX_BYTES + 1)
    except FormatError:
        raise
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError) as error:
        # RuntimeError: encrypted, or compressed in a way that Python does not know.
        raise FormatError(f"not a readable ZIP archive: {error}") from error
    if len(result) > MAX_BYTES:
        raise FormatError(f"an SDF of more than {MAX_BYTES:,} bytes")
    return result


def parse_sdf(content: bytes) -> list[Record]:
    r"""Records of an SDF; the structures are not read.

    RDKit's own reader drops the properties of a structure that it cannot read, so the properties
    are read here.

    Raises:
        FormatError: there is no record, or an incomplete one.

    Example:
        >>> parse_sdf(b"S-1\n\n\n  0  0\nM  END\n> <NR-AR>\n1\n\n$$$$\n")[0].properties
        [('NR-AR', '1')]
    """
    # Latin-1 reads any bytes; SDFs are ASCII, and others then fail where it matters.
    lines = content.decode("latin-1").splitlines()
    records: list[Record] = []
    start = 0
    for end, line in enumerate(lines):
        if line.startswith("$$$$"):
            records.append(_parse_record(lines[start:end], number=len(records) + 1))
            start = end + 1
    if any(line.strip() for line in lines[start:]):
        raise FormatError(f"truncated or not an SDF: no end of record {len(records) + 1:,}")
    if not records:
        raise FormatError("no records")
    return records


def _parse_record(lines: list[str], number: int) -> Record:
    end = next((i for i, line in enumerate(lines) if line.startswith("M  END")), None)
    if end is None:
        raise FormatError(f"record {number:,}: no structure")
    block, rest = lines[: end + 1], lines[end + 1 :]
    # "> <name>", perhaps with more around the name; the value is on the next line.
    properties = [
        (line[line.find("<") + 1 : line.rfind(">")], value.strip())
        for line, value in zip(rest, [*rest[1:], ""], strict=True)
        if line.startswith(">")
    ]
    return Record(lines[0].strip(), "\n".join([*block, ""]), properties)
