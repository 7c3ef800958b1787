"""What fits into memory: data, and networks that are trained at once as one stack."""

from __future__ import annotations

import contextlib
from itertools import pairwise
from pathlib import Path

import torch

from convexinit_paper.request.options import ConfigError

# Share of the free memory that a stack may take: the estimate below knows no temporary buffers.
USABLE = 0.7
# Weights, gradients, two moments of Adam, and one more copy while networks are built or stacked.
COPIES = 5
# Pre-activations and activations, and the gradients of both.
SIGNALS = 4
BYTES = 4  # of a float32
# What needs less memory than networks that do not fit.
FEWER_WEIGHTS = "fewer seeds at once or a smaller model.width"


def training_bytes(parameters: int, units: int, batch_size: int) -> int:
    """Memory that training takes for each network of a stack, as an estimate from above.

    Args:
        parameters: of a network.
        units: of all its layers.
        batch_size: samples in a step.
    """
    return BYTES * (COPIES * parameters + SIGNALS * batch_size * units)


def available_bytes(device: torch.device) -> int | None:
    """Free memory of a device, or None where the system does not say.

    On Linux the smaller of the machine's and of the control group's, which limits containers.
    """
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    sizes = []
    with contextlib.suppress(OSError, ValueError, StopIteration):
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        kibibytes = next(line.split()[1] for line in lines if line.startswith("MemAvailable:"))
        sizes.append(1024 * int(kibibytes))
    with contextlib.suppress(OSError, ValueError):  # the limit is "max" where there is none
        sizes.append(group_bytes(Path("/sys/fs/cgroup")))
    return min(sizes, default=None)


def require_memory(needed: int, what: str, advice: str) -> None:
    """Refuse what does not fit into memory, before the system ends the process for it.

    Args:
        needed: bytes, as an estimate from below.
        what: takes them, in words that can come before "take".
        advice: options that take less, in words that can follow "use".

    Raises:
        ConfigError: so many bytes are not free.
    """
    free = available_bytes(torch.device("cpu"))
    if free is not None and needed > free:
        raise ConfigError(
            f"{what} take at least {needed / 1e9:,.1f} GB of memory, and {free / 1e9:,.1f} GB "
            f"are free; use {advice}"
        )


def group_bytes(group: Path) -> int:
    """Free memory of a control group, the folder of all its controllers given.

    Files that were read and are kept in memory count as used there, but give way when it is needed.
    Version 1 of control groups has a folder for each controller, and a limit that no machine
    reaches where there is none.

    Raises:
        OSError, ValueError: it has no limit.
    """
    maximum, current, total = "memory.max", "memory.current", ""
    if not (group / maximum).is_file() and (group / "memory").is_dir():
        group /= "memory"
        maximum, current, total = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"
    limit, used = (int((group / name).read_text(encoding="utf-8")) for name in (maximum, current))
    statistics = dict(
        line.split() for line in (group / "memory.stat").read_text(encoding="utf-8").splitlines()
    )
    files = sum(int(statistics.get(f"{total}{name}_file", 0)) for name in ("inactive", "active"))
    return limit - used + files


def fitting(count: int, each: int, available: int | None, most: int | None = None) -> list[range]:
    """Split networks into as few groups as fit into memory, of sizes as equal as possible.

    Args:
        count: number of networks, at least 1.
        each: bytes that each of them takes.
        available: bytes that are free; None for unknown, which is taken as enough.
        most: networks in a group at most; None for no limit.

    Example:
        >>> fitting(10, each=3, available=20)
        [range(0, 4), range(4, 7), range(7, 10)]
    """
    size = count if available is None else max(1, int(USABLE * available / each))
    groups = -(-count // min(size, most or count))
    bounds = [-(-count * group // groups) for group in range(groups + 1)]
    return [range(start, end) for start, end in pairwise(bounds)]
