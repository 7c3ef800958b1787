"""Walk along a level set of a network that somebody else wrote.

    python examples/level_set_walk.py FOLDER

The network learns which points lie in a region. It is convex, so that the points of equal
prediction bound a convex set, and every ray from the inside meets them once: the walk goes from one
point to another at constant prediction. It is trained from its author's start and from
``init_icnn_``. The picture ``level_set_walk.png`` goes to FOLDER.
"""

import argparse
import copy
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from torch import Tensor, nn

from convexinit import init_icnn_, keep_convex
from convexinit.level_sets import walk_level_set

STEPS, BATCH, WIDTH, DEPTH = 400, 128, 64, 6


class Classifier(nn.Module):
    """Convex logits ``[n]`` of points ``[n, 2]``; plain layers, ReLU, no skips."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(2, WIDTH)
        self.convex = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(DEPTH - 1))
        self.last = nn.Linear(WIDTH, 1)
        for layer in [*self.convex, self.last]:
            nn.init.uniform_(layer.weight, 0, 0.1)

    def forward(self, x: Tensor) -> Tensor:
        """Above 0 outside of the region."""
        z = self.first(x)
        for layer in [*self.convex, self.last]:
            z = layer(F.relu(z))
        return z.squeeze(1)


def sample(n: int) -> tuple[Tensor, Tensor]:
    """Points ``[n, 2]``, and whether they lie outside of half a disc of radius 1.5."""
    x = 4 * torch.rand(n, 2) - 2
    return x, ((x.norm(dim=1) > 1.5) | (x[:, 0] + x[:, 1] > 0.8)).float()


def train(network: Classifier, steps: int) -> None:
    """Fit the points."""
    optimiser = torch.optim.Adam(network.parameters(), 1e-3)
    keep_convex(optimiser, network, [layer.weight for layer in [*network.convex, network.last]])
    for _ in range(steps):
        x, outside = sample(BATCH)
        optimiser.zero_grad()
        F.binary_cross_entropy_with_logits(network(x), outside).backward()
        optimiser.step()


def main(folder: Path) -> None:
    """Train from both starts, print how well they fit, walk, and draw both walks."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    default = Classifier()
    ours = init_icnn_(copy.deepcopy(default), sample(1024)[0])
    (x, outside), axis = sample(2000), torch.linspace(-2, 2, 161)
    plane = torch.cartesian_prod(axis, axis)
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    starts = {"default start": default, "init_icnn_": ours}
    for panel, (name, network) in zip(panels, starts.items(), strict=True):
        losses = []
        for steps in (0, STEPS):
            train(network, steps)
            loss = F.binary_cross_entropy_with_logits(network(x), outside)
            losses.append(float(loss.detach()))
        right = ((network(x) > 0) == outside.bool()).float().mean()
        print(f"{name}: loss {losses[0]:.3g} before training, {losses[1]:.3g} after; ", end="")
        print(f"{right:.1%} of unseen points right")
        panel.set_title(f"{name}: {right:.1%} right")
        network.double()
        values = network(plane.double()).detach().view(161, 161)
        panel.contourf(axis, axis, values.T, 20, cmap="cividis")
        panel.set(aspect="equal", xlim=(-2, 2), ylim=(-2, 2))
        start, end = torch.tensor([[-1.0, -1.1]]).double(), torch.tensor([[-0.6, 1.2]]).double()
        try:
            walk = walk_level_set(
                network, start, end, steps=12, tol=1e-9, interior=torch.zeros_like(start)
            )
        except ValueError as error:
            print(f"  no walk: {error}")
            continue
        spread = float(network(walk[0]).detach().std())
        print(f"  walk of {len(walk[0]) - 1} steps; predictions differ by {spread:.1g}")
        panel.plot(*walk[0].T, "o-", color="#D55E00", ms=3)
    figure.savefig(folder / "level_set_walk.png", dpi=150)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="made if it is not there")
    try:
        main(parser.parse_args().folder.expanduser())
    except OSError as error:
        sys.exit(f"error: {error}")
