"""The machine that trains: precision of its products, settings of the process, its name."""

from __future__ import annotations

import contextlib
import ctypes
import platform
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch


@contextlib.contextmanager
def set_precision(
    precision: str, device: torch.device
) -> Iterator[Callable[[], contextlib.AbstractContextManager]]:
    """Set the precision of matrix products for the time of a training.

    Warns of bfloat16 on a processor without instructions for it, and of tf32 on any.

    Args:
        precision: one of :data:`convexinit_paper.training.settings.PRECISIONS`.
        device: on which the products are computed.

    Yields:
        What makes the context of a forward pass.
    """
    if precision == "bfloat16" and device.type == "cpu" and lacks_bfloat16():
        warnings.warn(
            f"{_processor()} has no instructions for bfloat16: products take 30 times as long as "
            "with precision=float32, or longer",
            stacklevel=3,
        )
    if precision == "tf32" and device.type == "cpu":
        warnings.warn(
            "precision=tf32 is for NVIDIA GPUs; on processors products are as with float32",
            stacklevel=3,
        )
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    try:
        yield lambda: torch.autocast(device.type, torch.bfloat16, precision == "bfloat16")
    finally:
        torch.set_float32_matmul_precision(before)


def lacks_bfloat16() -> bool:
    """Whether torch has to emulate products in bfloat16 on this processor number by number."""
    return torch.backends.cpu.get_cpu_capability() == "AVX2"


def prepare_process() -> None:
    """Settings of the whole process that make training on a CPU faster.

    To be called before torch has started its threads, which inherit the first of them:

    - Denormal numbers count as zero: units that stopped learning leave moments of Adam that shrink
      into that range, where arithmetic is slow.
    - glibc keeps large freed blocks: gradients are freed and allocated again in every step, and
      Linux would map and clear their pages each time.
    """
    torch.set_flush_denormal(True)
    if sys.platform == "linux":
        with contextlib.suppress(OSError, AttributeError):
            mallopt = ctypes.CDLL(None).mallopt
            mallopt(-3, 1 << 30)  # M_MMAP_THRESHOLD: serve blocks below 1 GiB from the heap
            mallopt(-1, (1 << 31) - 1)  # M_TRIM_THRESHOLD: keep up to 2 GiB of free heap


def device_name(device: torch.device) -> str:
    """Name of the processor; of a CPU also its instructions and the number of torch's threads."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    instructions = torch.backends.cpu.get_cpu_capability()
    return f"{_processor()} ({instructions}), {torch.get_num_threads()} threads"


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
