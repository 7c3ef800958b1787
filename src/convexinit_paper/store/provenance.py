"""Which machine, code and packages made a run."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

PACKAGES = ("convexinit", "torch", "numpy", "pandas", "hydra-core", "scikit-learn", "rdkit")


def provenance() -> dict[str, Any]:
    """System, Python, versions of packages and revision of the code, for the summary of a run.

    A package that is not installed, as RDKit need not be to train on images, is left out.
    """
    versions = {name: _version(name) for name in PACKAGES}
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "packages": {name: version for name, version in versions.items() if version is not None},
        "git_revision": git_revision(),
    }


@cache
def _version(package: str) -> str | None:
    """Version of a package, None if it is not installed; asked once in a process."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


@cache
def git_revision() -> str:
    """Revision of the source tree, with "-dirty" if it was changed, or "unknown".

    It is unknown where the code is not in a repository that tracks it, such as a copy that was
    unpacked inside another one. Changes are those of files that git knows, and files in ``src`` and
    ``conf`` that it does not. Asked once in a process, so that it is the revision at the time of
    the first call.
    """
    try:
        _git("ls-files", "--error-unmatch", "--", Path(__file__).name)
        revision = _git("describe", "--always", "--abbrev=40", "--exclude=*", "--dirty")
        added = _git("ls-files", "--others", "--exclude-standard", "--", ":/src", ":/conf")
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return f"{revision}-dirty" if added and not revision.endswith("-dirty") else revision


def _git(*arguments: str) -> str:
    """What git says in the folder of this file, whatever repository the environment names."""
    environment = {name: value for name, value in os.environ.items() if name[:4] != "GIT_"}
    result = subprocess.run(
        ["git", "-C", str(Path(__file__).parent), *arguments],
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=True,
        timeout=20,
        env=environment,
    )
    return result.stdout.strip()
