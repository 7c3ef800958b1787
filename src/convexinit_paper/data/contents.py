"""What a run's data is, by content: a run on other data is another run.

Data that users bring (folders and archives of images, ``smiles/*.smi``, files whose official
content is not known) is named by a digest, which stands in the configuration of the run as the
option ``content`` of its section. Data of a known digest, which its reader compares, is known by
name alone, and so is what is built in.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from convexinit_paper.data import registry
from convexinit_paper.data.datasets import image_source
from convexinit_paper.data.files import DataError
from convexinit_paper.data.image_folder import image_content
from convexinit_paper.store.identity import Config

# A codec that needs no digest, as that of its weights is known.
CODECS_KNOWN_BY_NAME = ("cddd",)


def with_contents(config: Config) -> Config:
    """The configuration with the digests of what its data is now.

    Args:
        config: the resolved configuration; if it has digests already, its data must have them.

    Raises:
        DataError: the data is missing, or it is not what the configuration says.

    Example:
        >>> with_contents({"data_dir": "data", "dataset": {"name": "digits"}})["dataset"]
        {'name': 'digits'}
    """
    found: Config = {}
    for section, content_of in SECTIONS.items():
        options = config.get(section)
        if not isinstance(options, Mapping):
            continue
        given, content = options.get("content"), content_of(options, config["data_dir"])
        if given not in (None, content):
            raise DataError(
                f"The data is not what the run is known by: {section}.content is {given}, but what "
                f"is there has {content or 'no digest, as it is known by name'}.\n"
                f"Use that data again (data_dir=...), or leave {section}.content out."
            )
        rest = {name: value for name, value in options.items() if name != "content"}
        found[section] = rest | ({} if content is None else {"content": content})
    codec = config.get("codec")
    if isinstance(codec, Mapping) and codec.get("digest", "") is None:
        found["codec"] = {**codec, "digest": _codec_digest(codec["name"], config["data_dir"])}
    return {**config, **found}


def check_contents(config: Config) -> None:
    """Check that data is still what the run is known by, for those who have just read it.

    Args:
        config: from :func:`with_contents`.

    Raises:
        DataError: it is missing or has changed.
    """
    if with_contents(config) != config:
        raise DataError("The data has changed while it was read; ask for the run again.")


def _of_dataset(options: Mapping[str, Any], data_dir: str) -> str | None:
    source = registry.DATA_SETS.get(options["name"])
    path = options.get("path")
    if path is None:
        return None if source is None else source.content(Path(data_dir).expanduser())
    if not isinstance(path, str) or path == "":
        return None  # refused when the options are checked
    content = image_content(image_source(path, data_dir))
    return None if source is not None and content == source.known else content


def _of_corpus(options: Mapping[str, Any], data_dir: str) -> str | None:
    # RDKit is loaded for those who need it alone.
    from convexinit_paper.data.corpus import corpus_content

    return corpus_content(data_dir)


def _codec_digest(name: str, data_dir: str) -> str | None:
    if name in CODECS_KNOWN_BY_NAME:
        return None
    from convexinit.molecules import load_codec

    return load_codec(name, data_dir=data_dir).digest


SECTIONS = {"dataset": _of_dataset, "corpus": _of_corpus}
