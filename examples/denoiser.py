"""Denoise images with a convex regulariser that somebody else wrote.

    python examples/denoiser.py FOLDER

A noisy image is improved by a few steps down ``|x - noisy|^2 / 2 + R(x)``, where R is convex, so
that there is one best image. R is trained through these steps, once from its author's start and
once from ``init_icnn_``. The picture ``denoiser.png`` goes to FOLDER.
"""

import argparse
import copy
import math
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from sklearn.datasets import load_digits
from torch import Tensor, nn

from convexinit import init_icnn_, keep_convex

STEPS, BATCH, CHANNELS, DEPTH = 200, 32, 8, 6
NOISE, DESCENT, RATE = 0.3, 2, 0.5


class Regulariser(nn.Module):
    """Convex energy of images ``[n, 1, h, w]``: convolutions, one value an image."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, CHANNELS, 3, padding=1)
        self.convex = nn.ModuleList(
            nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False) for _ in range(DEPTH - 1)
        )
        self.skips = nn.ModuleList(nn.Conv2d(1, CHANNELS, 3, padding=1) for _ in self.convex)
        self.last = nn.Conv2d(CHANNELS, 1, 3, padding=1, bias=False)
        for layer in [*self.convex, self.last]:
            nn.init.uniform_(layer.weight, 0, 0.1)
        self.strength = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """Energies ``[n, 1]``."""
        z = F.softplus(self.first(x))
        for layer, skip in zip(self.convex, self.skips, strict=True):
            z = F.softplus(layer(z) + skip(x))
        return self.last(z).mean((2, 3))

    def denoise(self, noisy: Tensor) -> Tensor:
        """Images after some steps of gradient descent."""
        x = noisy.clone().requires_grad_()
        for _ in range(DESCENT):
            (slope,) = torch.autograd.grad(self(x).sum(), x, create_graph=True)
            x = x - RATE * (x - noisy + self.strength.exp() * slope)
        return x


def decibel(restored: Tensor, clean: Tensor) -> float:
    """Peak signal-to-noise ratio of images between 0 and 1."""
    return -10 * math.log10((restored.detach() - clean).square().mean())


def train(network: Regulariser, images: Tensor) -> None:
    """Train on noise that is drawn anew in every step."""
    optimiser = torch.optim.Adam(network.parameters(), 3e-3)
    keep_convex(optimiser, network, inputs=images[:BATCH])
    for _ in range(STEPS):
        clean = images[torch.randint(len(images), (BATCH,))]
        noisy = clean + NOISE * torch.randn_like(clean)
        optimiser.zero_grad()
        (network.denoise(noisy) - clean).square().mean().backward()
        optimiser.step()


def main(folder: Path) -> None:
    """Train from both starts, print the quality of unseen images, and draw some."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    images = torch.tensor(load_digits().images / 16, dtype=torch.float32)[:, None]
    images, clean = images[:1500], images[1500:]
    noisy = clean + NOISE * torch.randn_like(clean)
    default = Regulariser()
    ours = init_icnn_(copy.deepcopy(default), images[:256] + NOISE * torch.randn(256, 1, 8, 8))
    rows = {"clean": clean, f"noisy\n{decibel(noisy, clean):.1f} dB": noisy}
    for name, network in {"default start": default, "init_icnn_": ours}.items():
        before = decibel(network.denoise(noisy), clean)
        train(network, images)
        restored = network.denoise(noisy).detach()
        after = decibel(restored, clean)
        print(f"{name}: {before:.3g} dB before training, {after:.3g} dB after")
        rows[f"{name}\n{after:.1f} dB"] = restored
    figure = Figure(figsize=(7, 3), layout="constrained")
    grid = figure.subplots(len(rows), 10)
    for line, (name, shown) in zip(grid, rows.items(), strict=True):
        line[0].set_ylabel(name, fontsize=7)
        for panel, image in zip(line, shown, strict=False):
            panel.imshow(image[0], cmap="gray_r", vmin=0, vmax=1)
            panel.set(xticks=[], yticks=[])
    figure.savefig(folder / "denoiser.png", dpi=150)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="made if it is not there")
    try:
        main(parser.parse_args().folder.expanduser())
    except OSError as error:
        sys.exit(f"error: {error}")
