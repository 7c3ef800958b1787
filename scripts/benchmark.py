"""Speed of training, each figure as a ratio to something measured in the same run.

    python scripts/benchmark.py            (or: make bench)

Machines differ and are noisy, so no time stands alone. The ceiling is what the matrix products of
a training step take on their own: products of the same shapes, on data that stays in the cache.
Both sides of every ratio are measured in turns; the table gives the median over the rounds and the
range. Inputs are random numbers of the shape of the data set, as speed does not depend on them.
Codes of molecules are measured on the built-in stand-in for Tox21; their rates are given beside the
ratios.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset
from tqdm import tqdm

from convexinit.dropout import seed_dropout_
from convexinit.init_network import init_icnn_
from convexinit.layers import ConvexLinear, project_
from convexinit.level_sets import walk_level_set
from convexinit.molecules.autoencoder import WEIGHTS, Autoencoder, AutoencoderCodec, load
from convexinit.molecules.cddd import CDDDNetwork
from convexinit.molecules.cddd import tokenise as tokenise_cddd
from convexinit.molecules.ecfp import ECFPCodec
from convexinit.networks import MLP
from convexinit.stacking import stack_networks
from convexinit_paper.data.sources.structural_alerts import load_structural_alerts
from convexinit_paper.request.process import begin_command
from convexinit_paper.training.loop import Split, train
from convexinit_paper.training.machine import prepare_process
from convexinit_paper.training.objectives import Objective, masked_binary_cross_entropy
from convexinit_paper.training.randomness import seeded_generator
from convexinit_paper.training.settings import TrainerSettings

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Shape:
    """A training problem: layer widths, batch size, and samples per network and epoch."""

    widths: list[int]
    batch: int
    samples: int

    @property
    def steps(self) -> int:
        """Optimiser steps in an epoch."""
        return self.samples // self.batch


MNIST = Shape([784] * 6 + [10], 64, 64 * 120)
DIGITS = Shape([64] * 6 + [10], 64, 64 * 60)
TOX21 = Shape([512, 128, 128, 12], 256, 256 * 46)
TOX21_DROPOUT = (0.7, 0.5)  # of inputs and of hidden units
KNOWN_LABELS = 0.7


def seconds(action: Callable[[], object]) -> float:
    """Duration of one call."""
    begin = time.perf_counter()
    action()
    return time.perf_counter() - begin


def ceiling(shape: Shape) -> Callable[[], None]:
    """The matrix products of an epoch of one network: forward, input and weight gradients."""
    products: list[tuple[Tensor, Tensor, Tensor]] = []
    for index, (fan_in, width) in enumerate(zip(shape.widths[:-1], shape.widths[1:], strict=True)):
        inputs = torch.randn(shape.batch, fan_in)
        weight = torch.randn(width, fan_in)
        gradient = torch.randn(shape.batch, width)
        products.append((inputs, weight.T, torch.empty(shape.batch, width)))
        products.append((gradient.T, inputs, torch.empty(width, fan_in)))
        if index > 0:  # no gradient is needed for the network's input
            products.append((gradient, weight, torch.empty(shape.batch, fan_in)))

    def run() -> None:
        for _ in range(shape.steps):
            for left, right, out in products:
                torch.mm(left, right, out=out)

    return run


def network_of(shape: Shape, seed: int) -> MLP:
    """An ICNN with the principled initialisation."""
    return init_icnn_(MLP(shape.widths), generator=seeded_generator(seed, "weights"))


def pipeline(shape: Shape, seeds: int, precision: str = "float32") -> Callable[[], None]:
    """One epoch of the project's own loop, validation after it included (10% of the samples)."""
    generator = torch.Generator().manual_seed(0)
    count = shape.samples * 10 // 9
    inputs = torch.randn(count, shape.widths[0], generator=generator)
    targets = torch.randint(shape.widths[-1], (count,), generator=generator)
    rows = torch.arange(count).expand(seeds, -1)
    stack = stack_networks([network_of(shape, seed) for seed in range(seeds)])
    settings = TrainerSettings(1, shape.batch, 1e-3, 0.0, "equal", 0, precision, "cpu")

    def run() -> None:
        train(
            stack,
            Split(inputs, targets, rows[:, : shape.samples]),
            {"validation": Split(inputs, targets, rows[:, shape.samples :])},
            [seeded_generator(seed, "batches") for seed in range(seeds)],
            settings,
        )

    return run


class Images(Dataset):
    """Images as bytes, converted one by one, as most training scripts do."""

    def __init__(self, shape: Shape) -> None:
        self.images = torch.randint(256, (shape.samples, shape.widths[0]), dtype=torch.uint8)
        self.labels = torch.randint(shape.widths[-1], (shape.samples,))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return (self.images[index].float() / 255 - 0.1307) / 0.3081, self.labels[index]


def plain_loop(shape: Shape) -> Callable[[], None]:
    """One epoch of the loop that people usually write: DataLoader, Adam, ``.item()``."""
    network = network_of(shape, 0)
    optimiser = torch.optim.Adam(network.parameters())
    loader = DataLoader(Images(shape), batch_size=shape.batch, shuffle=True)

    def run() -> None:
        total = 0.0
        for inputs, targets in loader:
            optimiser.zero_grad()
            loss = F.cross_entropy(network(inputs), targets)
            loss.backward()
            optimiser.step()
            project_(network)
            total += loss.item()

    return run


def toxicity_labels(shape: Shape, count: int) -> Tensor:
    """Random binary labels ``[count, tasks]``, some of them missing, as in Tox21."""
    labels = torch.randint(2, (count, shape.widths[-1])).float()
    return labels.masked_fill(torch.rand_like(labels) > KNOWN_LABELS, torch.nan)


def toxicity_pipeline(shape: Shape, seeds: int) -> Callable[[], None]:
    """One epoch of the experiment tox21 without held-out sets, all seeds stacked."""
    stack = stack_networks(
        [
            init_icnn_(MLP(shape.widths, "relu", True, "projection", False, *TOX21_DROPOUT))
            for _ in range(seeds)
        ]
    )
    seed_dropout_(stack, [seeded_generator(seed, "dropout") for seed in range(seeds)])
    rows = torch.arange(shape.samples).expand(seeds, -1)
    data = Split(
        torch.rand(shape.samples, shape.widths[0]), toxicity_labels(shape, shape.samples), rows
    )
    settings = TrainerSettings(1, shape.batch, 1e-3, 0.0, "equal", 0, "float32", "cpu")
    objective = Objective(masked_binary_cross_entropy, lambda logits, targets: {})

    def run() -> None:
        generators = [seeded_generator(seed, "batches") for seed in range(seeds)]
        train(stack, data, {}, generators, settings, objective)

    return run


def toxicity_plain_loop(shape: Shape, loader: bool) -> Callable[[], None]:
    """One epoch of one seed as most scripts write it: ``nn.Dropout``, Adam, ``.item()``.

    Args:
        shape: of the problem.
        loader: whether samples come one by one from a DataLoader; if not, batches are cut out of
            tensors in memory.
    """
    before, after = TOX21_DROPOUT
    layers: list[nn.Module] = [nn.Dropout(before), nn.Linear(shape.widths[0], shape.widths[1])]
    for size in pairwise(shape.widths[1:]):
        layers += [nn.ReLU(), nn.Dropout(after), ConvexLinear(*size)]
    network = init_icnn_(nn.Sequential(*layers))
    optimiser = torch.optim.Adam(network.parameters())
    data = TensorDataset(
        torch.rand(shape.samples, shape.widths[0]), toxicity_labels(shape, shape.samples)
    )

    def batches() -> Iterator[tuple[Tensor, Tensor]]:
        for rows in torch.randperm(shape.samples).split(shape.batch):
            yield data.tensors[0][rows], data.tensors[1][rows]

    def run() -> None:
        total = 0.0
        source = DataLoader(data, shape.batch, shuffle=True) if loader else batches()
        for inputs, targets in source:
            optimiser.zero_grad()
            known = ~targets.isnan()
            loss = F.binary_cross_entropy_with_logits(network(inputs)[known], targets[known])
            loss.backward()
            optimiser.step()
            project_(network)
            total += loss.item()

    return run


def recurrent_ceiling(network: Autoencoder, molecules: int, steps: int) -> Callable[[], None]:
    """The matrix products of encoding: ``steps`` tokens of ``molecules`` molecules at once."""
    cells = (network.encoder1, network.encoder2)
    weights = [
        cast("Tensor", weight).detach()
        for cell in cells
        for weight in (cell.weight_ih_l0, cell.weight_hh_l0)
    ]
    products = [(torch.randn(molecules, weight.shape[1]), weight.T) for weight in weights]

    def run() -> None:
        for _ in range(steps):
            for left, right in products:
                torch.mm(left, right)

    return run


Prepared = tuple[int, Callable[[], object]]  # how many things are done in one call, and the call


def codec_rates(rounds: int) -> Iterator[tuple[str, Callable[[], list[float]]]]:
    """Name and measurement (per second) of what is done with molecules."""

    def rate(prepare: Callable[[], Prepared]) -> Callable[[], list[float]]:
        def measure() -> list[float]:
            count, action = prepare()
            return [count / seconds(action) for _ in range(max(rounds // 2, 1))]

        return measure

    yield "standardise, molecules", rate(lambda: _of_molecules(ECFPCodec().prepare))
    yield "ecfp encode, molecules", rate(lambda: _of_molecules(ECFPCodec().encode))
    yield "autoencoder encode (standardised), molecules", rate(_autoencoder_encode)
    yield "autoencoder decode, greedy, codes", rate(lambda: _decode(512, beam=1))
    yield "autoencoder decode, beam 10, codes", rate(lambda: _decode(128, beam=10))
    yield "cddd encode (random weights), molecules", rate(_cddd_encode)
    yield "level sets of an ICNN 512-128-128-1, points", rate(_level_sets)


@cache
def _molecules() -> list[str]:
    return load_structural_alerts().train.smiles


@cache
def _autoencoder() -> tuple[AutoencoderCodec, list[str], np.ndarray]:
    """The codec, and standardised molecules and codes of all molecules."""
    codec, smiles = load(WEIGHTS), _molecules()
    canonical = [form.smiles for form in codec.prepare(smiles) if form.smiles]
    return codec, canonical, codec.encode(smiles)


def _of_molecules(function: Callable[[list[str]], object]) -> Prepared:
    return len(_molecules()), partial(function, _molecules())


def _autoencoder_encode() -> Prepared:
    codec, canonical, _ = _autoencoder()
    return len(canonical), partial(codec._encode_canonical, canonical)


def _decode(count: int, beam: int) -> Prepared:
    codec, _, codes = _autoencoder()
    return count, partial(codec.decode, codes[:count], beam)


def _cddd_encode() -> Prepared:
    sequences = [tokens for text in _autoencoder()[1][:64] if (tokens := tokenise_cddd(text))]
    return len(sequences), partial(CDDDNetwork().eval().encode, sequences)


def _level_sets() -> Prepared:
    network = init_icnn_(MLP([512, 128, 128, 1])).double()
    starts, targets = torch.from_numpy(_autoencoder()[2][:400]).double().chunk(2)
    return 2000, lambda: walk_level_set(lambda x: network(x).squeeze(1), starts, targets)


def sweep(launcher: list[str], threads: int) -> Callable[[], None]:
    """Two cells of a sweep as a user starts it, program start included."""
    command = [
        sys.executable, str(ROOT / "run.py"), "-m", "seeds=2", "trainer.epochs=12",
        "model.width=784", "model=icnn,icnn_init", "force=true", *launcher,
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}

    def run() -> None:
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run(
                [*command, f"results_dir={folder}"],
                env=environment,
                check=True,
                stdout=subprocess.DEVNULL,
            )

    return run


def ratios(
    rounds: int, first: Callable[[], object], second: Callable[[], object], scale: float = 1.0
) -> list[float]:
    """Duration of ``first`` over that of ``second``, times ``scale``, measured in turns."""
    first(), second()  # warm-up
    return [seconds(first) / seconds(second) * scale for _ in range(rounds)]


def encoding_share(rounds: int) -> list[float]:
    """Matrix products of encoding over encoding itself, for 512 sequences of 15 tokens."""
    network = load(WEIGHTS).network
    tokens = torch.randint(3, 40, (512, 15))

    @torch.inference_mode()
    def encode() -> None:
        network.encode(tokens, torch.full((512,), 15))

    return ratios(rounds, recurrent_ceiling(network, 512, 15), encode)


class _SoftplusWeights(nn.Linear):
    """A layer as others write it."""

    def forward(self, inputs: Tensor) -> Tensor:
        return F.linear(inputs, F.softplus(self.weight), self.bias)


def start_in_steps(units: int, hidden: int, rounds: int) -> list[float]:
    """Duration of ``init_icnn_`` for a network of others over that of a training step."""
    layers: list[nn.Module] = [nn.Linear(16, units), nn.Softplus()]
    for _ in range(hidden - 1):
        layers += [_SoftplusWeights(units, units), nn.Softplus()]
    network = nn.Sequential(*layers, _SoftplusWeights(units, 1))
    inputs = torch.randn(512, 16)
    targets = inputs.abs().sum(1, keepdim=True)
    optimiser = torch.optim.Adam(network.parameters())

    def steps() -> None:
        for _ in range(10):
            optimiser.zero_grad()
            (network(inputs) - targets).square().mean().backward()
            optimiser.step()

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the variances of these layers rest on a few")
        return ratios(rounds, lambda: init_icnn_(network, inputs), steps, scale=10)


def one_after_the_other(shape: Shape, seeds: int) -> Callable[[], None]:
    """The project's own loop for single networks, in turn."""
    runs = [pipeline(shape, 1) for _ in range(seeds)]

    def run() -> None:
        for single in runs:
            single()

    return run


def comparisons(rounds: int) -> Iterator[tuple[str, str, Callable[[], list[float]]]]:
    """Name, goal and measurement of every line of the table."""
    yield (
        "MNIST step, 1 seed: share of the ceiling",
        ">= 0.60",
        lambda: ratios(rounds, ceiling(MNIST), pipeline(MNIST, 1)),
    )
    yield (
        "MNIST step, 10 stacked seeds: share of the ceiling",
        "",
        lambda: ratios(rounds, ceiling(MNIST), pipeline(MNIST, 10), scale=10),
    )
    yield (
        "MNIST step, 1 seed, bfloat16: share of the float32 ceiling",
        "",
        lambda: ratios(rounds, ceiling(MNIST), pipeline(MNIST, 1, "bfloat16")),
    )
    yield (
        "MNIST epoch: times faster than a DataLoader loop",
        "> 1",
        lambda: ratios(rounds, plain_loop(MNIST), pipeline(MNIST, 1)),
    )
    yield (
        "MNIST, 10 seeds: stacked over one after the other",
        "",
        lambda: ratios(rounds, one_after_the_other(MNIST, 10), pipeline(MNIST, 10)),
    )
    yield (
        "digits, 10 seeds: stacked over one after the other",
        "> 1",
        lambda: ratios(rounds, one_after_the_other(DIGITS, 10), pipeline(DIGITS, 10)),
    )
    yield (
        "digits, 10 seeds: stacked over DataLoader loops",
        ">= 5",
        lambda: ratios(rounds, plain_loop(DIGITS), pipeline(DIGITS, 10), scale=10),
    )
    yield (
        "tox21, 10 seeds: stacked over nn.Dropout, in memory",
        ">= 5",
        lambda: ratios(
            rounds, toxicity_plain_loop(TOX21, False), toxicity_pipeline(TOX21, 10), scale=10
        ),
    )
    yield (
        "tox21, 10 seeds: stacked over nn.Dropout, DataLoader",
        ">= 5",
        lambda: ratios(
            rounds, toxicity_plain_loop(TOX21, True), toxicity_pipeline(TOX21, 10), scale=10
        ),
    )
    yield (
        "tox21: products alone, over nn.Dropout in memory (the bound)",
        "",
        lambda: ratios(rounds, toxicity_plain_loop(TOX21, False), ceiling(TOX21)),
    )
    for units, hidden in ((64, 3), (64, 8), (256, 3), (512, 8)):
        yield (
            f"init_icnn_(network, inputs), {hidden} layers of {units}: training steps",
            "< 10",
            partial(start_in_steps, units, hidden, rounds),
        )
    yield "autoencoder encode: share of the ceiling", "", lambda: encoding_share(rounds)
    cores = torch.get_num_threads()
    yield (
        f"sweep: joblib, one thread a worker, over basic with {cores} threads",
        "> 1",
        lambda: ratios(max(rounds // 3, 1), sweep([], cores), sweep(["hydra/launcher=joblib"], 1)),
    )


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=7, help="measurements of every ratio")
    parser.add_argument("--only", default="", help="only lines that contain this text")
    arguments = parser.parse_args()
    if arguments.rounds < 1:
        parser.error("--rounds must be at least 1")
    lines = [line for line in comparisons(arguments.rounds) if arguments.only in line[0]]
    rates = [line for line in codec_rates(arguments.rounds) if arguments.only in line[0]]
    if not lines and not rates:
        parser.error(f"no line contains {arguments.only!r}; without --only all are shown")
    prepare_process()
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    flops = 2 * 64 * 784 * sum(MNIST.widths[1:]) * 3 - 2 * 64 * 784 * 784
    rate = flops * MNIST.steps / min(seconds(ceiling(MNIST)) for _ in range(5))
    print(f"ceiling: {rate / 1e9:.0f} GFLOP/s in products of the MNIST network's shapes\n")
    if lines:
        print(f"{'':62} median      range        goal")
    for name, goal, measure in tqdm(lines, disable=None):
        values = measure()
        middle = statistics.median(values)
        tqdm.write(f"{name:62} {middle:6.2f}  {min(values):5.2f}-{max(values):5.2f}   {goal}")
    if rates:
        print(f"\n{'':62} median      range, per second")
    for name, measure in rates:
        values = measure()
        middle = statistics.median(values)
        print(f"{name:62} {middle:6.0f}  {min(values):5.0f}-{max(values):5.0f}")


if __name__ == "__main__":
    begin_command()
    main()
