"""How networks are trained: the options of the section ``trainer``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from convexinit_paper.request.config import require

if TYPE_CHECKING:
    import torch

# From the highest to the lowest.
PRECISIONS = ("float32", "tf32", "bfloat16")

DEVICES = ("auto", "cpu", "cuda")


@dataclass(frozen=True)
class TrainerSettings:
    """How networks are trained; defaults live in ``conf/trainer``.

    Attributes:
        epochs: passes over the training set, at least 1.
        batch_size: samples per step, at least 1; the last batch of an epoch may be smaller.
        learning_rate: of Adam, greater than 0.
        weight_decay: L2 regularisation, added to the gradient as in ``torch.optim.Adam``, at
            least 0.
        precision: "float32", "tf32" (matrix products of NVIDIA GPUs) or "bfloat16" (autocast;
            weights and Adam stay in float32).
        device: "cpu", "cuda", or "auto" for the GPU if there is one.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    precision: str
    device: str

    def __post_init__(self) -> None:
        require(self.epochs >= 1, "trainer.epochs", "at least 1", self.epochs)
        require(self.batch_size >= 1, "trainer.batch_size", "at least 1", self.batch_size)
        require(
            0.0 < self.learning_rate < math.inf,
            "trainer.learning_rate",
            "above 0",
            self.learning_rate,
        )
        require(
            0.0 <= self.weight_decay < math.inf,
            "trainer.weight_decay",
            "at least 0",
            self.weight_decay,
        )
        require(
            self.precision in PRECISIONS,
            "trainer.precision",
            f"one of {', '.join(PRECISIONS)}",
            self.precision,
        )
        check_device("trainer.device", self.device)

    def torch_device(self) -> torch.device:
        """Device to train on."""
        return resolve_device(self.device)


def check_device(option: str, device: str) -> None:
    """Raise ConfigError if ``device`` is unknown or this machine has no such device."""
    import torch  # here, as figures read this module and need no torch

    require(device in DEVICES, option, f"one of {', '.join(DEVICES)}", device)
    require(
        device != "cuda" or torch.cuda.is_available(),
        option,
        "cpu or auto, as this machine has no usable CUDA device",
        device,
    )


def resolve_device(device: str) -> torch.device:
    """The device of that name; "auto" is the GPU if there is one."""
    import torch

    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)
