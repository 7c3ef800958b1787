"""Where the time of a training step goes, and what each measure of the engine is worth.

    python scripts/profile_step.py

The same loop as in ``convexinit_paper.training.loop.train``, with a clock between its parts (CPU
only). The products of a step on their own, on data that stays in the cache, are the ceiling. All
rows are measured in turns with it; numbers are medians over the rounds.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import torch
from torch import Tensor

from benchmark import DIGITS, MNIST, Shape, ceiling, network_of, seconds
from convexinit import layers
from convexinit.layers import clamp_negative_, projected_weights
from convexinit.stacking import stack_networks
from convexinit_paper.request.process import begin_command
from convexinit_paper.training.loop import Split
from convexinit_paper.training.machine import device_name, prepare_process
from convexinit_paper.training.objectives import cross_entropy

CIFAR = Shape([3072] * 6 + [10], 64, 64 * 8)
PARTS = ("batch", "forward", "loss", "backward", "Adam", "projection")
STEPS = 30


class Step:
    """The optimiser step of a stack of networks, part by part."""

    def __init__(self, shape: Shape, seeds: int, precision: str, fused: bool = True) -> None:
        generator = torch.Generator().manual_seed(0)
        self.network = stack_networks([network_of(shape, seed) for seed in range(seeds)])
        self.optimiser = torch.optim.Adam(self.network.parameters(), fused=fused, foreach=not fused)
        self.weights = projected_weights(self.network)
        inputs = torch.randn(shape.samples, shape.widths[0], generator=generator)
        targets = torch.randint(shape.widths[-1], (shape.samples,), generator=generator)
        order = torch.randperm(shape.samples, generator=generator).expand(seeds, -1)
        self.data = Split(inputs, targets, order)
        self.batch = shape.batch
        self.half = precision == "bfloat16"
        self.losses = torch.empty(seeds, STEPS)

    def run(self) -> list[float]:
        """Seconds of every part, for :data:`STEPS` steps together."""
        total = dict.fromkeys(PARTS, 0.0)
        rows = self.data.rows.shape[1]
        for number in range(STEPS):
            start = number * self.batch % rows
            marks = [time.perf_counter()]
            inputs, targets = self.data.batch(self.data.rows[:, start : start + self.batch])
            marks.append(time.perf_counter())
            with torch.autocast("cpu", torch.bfloat16, enabled=self.half):
                logits = self.network(inputs)
            marks.append(time.perf_counter())
            loss = cross_entropy(logits, targets)
            self.losses[:, number] = loss.detach()
            marks.append(time.perf_counter())
            self.optimiser.zero_grad()
            loss.sum().backward()
            marks.append(time.perf_counter())
            self.optimiser.step()
            marks.append(time.perf_counter())
            clamp_negative_(self.weights)
            marks.append(time.perf_counter())
            for part, begin, end in zip(PARTS, marks[:-1], marks[1:], strict=True):
                total[part] += end - begin
        return list(total.values())


def plain_affine(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """What the engine's affine map replaces: autograd's own derivative of ``baddbmm``."""
    if bias is None:
        return torch.bmm(inputs, weight.mT)
    return torch.baddbmm(bias.unsqueeze(1), inputs, weight.mT)


@contextmanager
def autograd_backward() -> Iterator[None]:
    """Train without the engine's own backward pass of stacked layers."""
    with mock.patch.object(layers, "affine", plain_affine):
        yield


@dataclass(frozen=True)
class Row:
    """One way to train, as a row of the table."""

    name: str
    shape: Shape
    seeds: int
    precision: str = "float32"
    fused: bool = True
    own_backward: bool = True
    compiled: bool = False


ROWS = [
    Row("MNIST, 1 seed", MNIST, 1),
    Row("MNIST, 1 seed, torch.compile", MNIST, 1, compiled=True),
    Row("MNIST, 10 seeds", MNIST, 10),
    Row("MNIST, 10 seeds, torch.compile", MNIST, 10, compiled=True),
    Row("MNIST, 10 seeds, bfloat16", MNIST, 10, "bfloat16"),
    Row("MNIST, 10 seeds, without own backward", MNIST, 10, own_backward=False),
    Row("MNIST, 10 seeds, without fused Adam", MNIST, 10, fused=False),
    Row("digits, 10 seeds", DIGITS, 10),
    Row("digits, 10 seeds, torch.compile", DIGITS, 10, compiled=True),
    Row("CIFAR, 1 seed", CIFAR, 1),
    Row("CIFAR, 1 seed, bfloat16", CIFAR, 1, "bfloat16"),
]


def measure(rounds: int) -> Iterator[tuple[str, float, float, list[float]]]:
    """Name, milliseconds a step and seed, share of the ceiling, and shares of the parts."""
    for row in ROWS:
        step = Step(row.shape, row.seeds, row.precision, row.fused)
        if row.compiled:
            step.network.compile()
        products = ceiling(Shape(row.shape.widths, row.shape.batch, row.shape.batch * STEPS))
        with nullcontext() if row.own_backward else autograd_backward():
            step.run()
            products()
            measured, bound = [], []
            for _ in range(rounds):
                measured.append(step.run())
                bound.append(seconds(products))
        del step
        totals = [sum(parts) for parts in measured]
        share = statistics.median(
            row.seeds * floor / total for floor, total in zip(bound, totals, strict=True)
        )
        parts = [
            statistics.median(part / total for part, total in zip(column, totals, strict=True))
            for column in zip(*measured, strict=True)
        ]
        yield row.name, 1000 * statistics.median(totals) / STEPS / row.seeds, share, parts


def without_prepared_process(rounds: int) -> float:
    """Duration of a step in a process as Python starts it, over that in a prepared one."""
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import statistics, torch\n"
        "from convexinit_paper.training.machine import prepare_process\n"
        "if sys.argv[1] == 'yes': prepare_process()\n"
        f"torch.set_num_threads({torch.get_num_threads()})\n"
        "from profile_step import MNIST, Step\n"
        "step = Step(MNIST, 10, 'float32')\n"
        "step.run()\n"
        "print(min(sum(step.run()) for _ in range(3)))\n"
    )

    def duration(prepared: str) -> float:
        command = [sys.executable, "-c", code, prepared]
        return float(
            subprocess.run(command, capture_output=True, encoding="utf-8", check=True).stdout
        )

    return statistics.median(duration("no") / duration("yes") for _ in range(max(rounds // 2, 1)))


def main() -> None:
    """Measure and print a Markdown table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="measurements of every row")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error("--rounds must be at least 1")
    prepare_process()
    print(f"{device_name(torch.device('cpu'))}; torch {torch.__version__}\n")
    header = ["", "ms a step and seed", "share of the ceiling", *PARTS]
    print(f"| {' | '.join(header)} |\n| {' | '.join(['---'] * len(header))} |")
    for name, milliseconds, share, parts in measure(arguments.rounds):
        cells = [name, f"{milliseconds:.1f}", f"{share:.2f}", *(f"{part:.0%}" for part in parts)]
        print(f"| {' | '.join(cells)} |", flush=True)
    ratio = without_prepared_process(arguments.rounds)
    print(f"\nWithout `prepare_process`: {ratio:.2f} times as long (MNIST, 10 seeds).")


if __name__ == "__main__":
    begin_command()
    main()
