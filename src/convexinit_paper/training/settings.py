"""How networks are trained: the options of the section ``trainer``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from convexinit_paper.request.options import Range, Section, above, at_least, one_of, option

if TYPE_CHECKING:
    import torch

# From the highest to the lowest.
PRECISIONS = ("float32", "tf32", "bfloat16")
STEP_SIZES = ("auto", "equal", "by_layer")


def _is_usable(device: str) -> bool:
    import torch  # here, as figures read this module and need no torch

    return device != "cuda" or torch.cuda.is_available()


# The ranges of an option that names a device.
DEVICES = (
    one_of(("auto", "cpu", "cuda")),
    Range("cpu or auto, as this machine has no usable CUDA device", _is_usable),
)


@dataclass(frozen=True)
class TrainerSettings(Section):
    """How networks are trained; defaults in ``conf/trainer``."""

    epochs: int = option("passes over the training set", at_least(1))
    batch_size: int = option("samples per step; the last of an epoch may have fewer", at_least(1))
    learning_rate: float = option("of Adam", above(0))
    weight_decay: float = option(
        "L2 regularisation, added to the gradient as in torch.optim.Adam", at_least(0)
    )
    step_sizes: str = option(
        "equal in all layers, or by_layer, smaller in hidden layers the more there are, and in "
        "layers of many inputs (convexinit.parameter_groups); auto for by_layer where the "
        "initialisation is orthogonal",
        one_of(STEP_SIZES),
    )
    warmup: int = option("steps over which the rate rises in equal parts", at_least(0))
    precision: str = option(
        "tf32 is that of matrix products of NVIDIA GPUs, bfloat16 is by autocast: weights and Adam "
        "stay in float32",
        one_of(PRECISIONS),
    )
    device: str = option("auto for the GPU if there is one", *DEVICES)

    def for_initialisation(self, init: str) -> TrainerSettings:
        """The same with ``step_sizes`` "equal" or "by_layer", for an initialisation of a model."""
        if self.step_sizes != "auto":
            return self
        return replace(self, step_sizes="by_layer" if init == "orthogonal" else "equal")

    def torch_device(self) -> torch.device:
        """Device to train on."""
        return resolve_device(self.device)


def resolve_device(device: str) -> torch.device:
    """The device of that name; "auto" is the GPU if there is one."""
    import torch

    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)
