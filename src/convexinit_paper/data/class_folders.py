"""Classes and labels of images from the folders that they lie in.

``train/<class>/*.jpg`` and ``test/<class>/*.jpg``, or ``<class>/*.jpg`` alone. All of it may lie
in one more folder. Labels are the positions of the classes in the order of their sorted names.

Files whose names begin with a dot, and those that desktops leave behind, are passed over, and so
is whatever is no image and lies outside of the class folders. Anything else has to be an image:
nothing is left out in silence. torchvision's ``ImageFolder`` finds classes in the same way, but
reads no archives, and takes any folder for a class and leaves out any file with another suffix.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from convexinit_paper.data.archives import Listing
from convexinit_paper.data.files import DataError

SPLITS = ("train", "test")
SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".pgm", ".ppm", ".tif", ".tiff", ".webp")
LEFT_BEHIND = ("__MACOSX", "Thumbs.db", "desktop.ini")
SHOWN = 5  # names in an error message


@dataclass(frozen=True)
class Layout:
    """Which file is an image of which class.

    Attributes:
        classes: sorted names.
        labels: of the images of each split, by path: "train" and "test", or "all" if the source
            does not split them. Sorted by path.
    """

    classes: list[str]
    labels: dict[str, dict[PurePosixPath, int]]


def arrange(listing: Listing, source: Path) -> Layout:
    """Find the classes in the paths of files.

    Args:
        listing: all files and folders.
        source: where they lie, for error messages.

    Raises:
        DataError: they are not laid out as this module says.
    """
    files = [path for path in sorted(listing.files) if not _is_left_behind(path)]
    listed = {path for path in listing.folders if not _is_left_behind(path)}
    folders = sorted(listed.union(*(path.parents for path in files)))
    root = _root(files)
    tops = [path.name for path in folders if path.parent == root != path]
    if set(tops) == set(SPLITS):
        _refuse_images(files, root, source)
        places = {split: root / split for split in SPLITS}
    elif not set(tops) & set(SPLITS):
        places = {"all": root}
    else:
        raise DataError(
            f"{source} cannot be used: beside train and test there must be no other folder, and "
            f"both must be there; it has {_some(tops)}.\n"
            "Without both of them, class folders are split 80:20."
        )
    images = {split: _by_class(files, folders, place, source) for split, place in places.items()}
    first, *others = images.values()
    for other in others:
        if list(first) != list(other):
            raise DataError(
                f"{source} cannot be used: train and test must have the same classes.\n"
                f"only in train: {_some(name for name in first if name not in other)}\n"
                f"only in test: {_some(name for name in other if name not in first)}"
            )
    for place in places.values():
        _refuse_images(files, place, source)
    labels = {
        split: {path: label for label, paths in enumerate(found.values()) for path in paths}
        for split, found in images.items()
    }
    return Layout(list(first), labels)


def _is_left_behind(path: PurePosixPath) -> bool:
    return any(name.startswith(".") or name in LEFT_BEHIND for name in path.parts)


def _root(files: list[PurePosixPath]) -> PurePosixPath:
    """The folder that holds the class folders, or the folders train and test."""
    root = PurePosixPath()
    while True:
        inside = [path.relative_to(root) for path in files]
        tops = {path.parts[0] for path in inside}
        wrapped = len(tops) == 1 and not tops & set(SPLITS)
        if not wrapped or not any(len(path.parts) > 2 for path in inside):
            return root
        root /= tops.pop()


def _by_class(
    files: list[PurePosixPath], folders: list[PurePosixPath], parent: PurePosixPath, source: Path
) -> dict[str, list[PurePosixPath]]:
    """The files in each class folder in ``parent``; there must be two at least, none empty."""
    found: dict[str, list[PurePosixPath]] = {
        path.name: [] for path in folders if path.parent == parent != path
    }
    for path in files:
        if parent in path.parents and parent != path.parent:
            found[path.relative_to(parent).parts[0]].append(path)
    fault = None
    if len(found) < 2:
        fault = f"it needs at least two class folders, and has {_some(found)}"
    elif not all(found.values()):
        fault = f"empty class folders: {_some(name for name in found if not found[name])}"
    if fault:
        raise DataError(f"{source / parent} cannot be used: {fault}")
    return found


def _refuse_images(files: list[PurePosixPath], folder: PurePosixPath, source: Path) -> None:
    """Raise DataError for images that lie in a folder of class folders."""
    images = [
        str(path) for path in files if path.parent == folder and path.suffix.lower() in SUFFIXES
    ]
    if images:
        raise DataError(
            f"{source} cannot be used: images outside of class folders: {_some(images)}"
        )


def _some(names: Iterable[str]) -> str:
    """The first few names."""
    names = list(names)
    if not names:
        return "none"
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" * (len(names) > SHOWN))
