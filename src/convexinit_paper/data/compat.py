"""torchvision's knowledge of data sets, also where its compiled operators do not load.

The torchvision wheel of the package registry is a CUDA build. Beside a CPU build of torch its
compiled library does not load, and ``import torchvision`` then stops because it registers shape
functions for two operators that do not exist. Data sets use neither of them, so it is enough to
declare the two operators without an implementation.
"""

import importlib
import sys
from types import ModuleType
from typing import Any

import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)

# A Library takes its declarations back when it is collected: this reference keeps it alive.
_library: torch.library.Library | None = None


def official(name: str) -> Any:
    """A class of ``torchvision.datasets``: it knows names, digests and addresses of files.

    Example:
        >>> official("CIFAR10").filename
        'cifar-10-python.tar.gz'
    """
    return getattr(import_torchvision().datasets, name)


def import_torchvision() -> ModuleType:
    """Import torchvision; declare its two missing operators only if the import fails for them.

    Returns:
        The module ``torchvision``. Later calls return the same module.

    Raises:
        ImportError: torchvision is not installed.
        RuntimeError: torchvision does not load for another reason; the error is its own.
    """
    global _library
    try:
        return importlib.import_module("torchvision")
    except RuntimeError as error:
        if _library is not None or "operator torchvision::" not in str(error):
            raise
    # The failed import leaves some of its submodules behind; they must be loaded afresh.
    for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
        del sys.modules[name]
    _library = torch.library.Library("torchvision", "DEF")
    for schema in _SCHEMAS:
        _library.define(schema)
    return importlib.import_module("torchvision")
