"""Move one cloud of points onto another with a network that somebody else wrote.

    python examples/optimal_transport.py FOLDER

The map of least squared distance is the gradient of a convex function f (Brenier's theorem). Two
potentials are trained on the dual of optimal transport, f and its conjugate g: the smallest mean
of f and g with ``f(x) + g(y) >= <x, y>``, where a square penalises what is missing (Seguy et al.
2018, "Large-scale optimal transport and mapping estimation"). They start once as their author lets
them, and once by ``init_icnn_``. The picture ``optimal_transport.png`` goes to FOLDER.
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

STEPS, BATCH, WIDTH, DEPTH, PENALTY = 500, 256, 64, 6, 100


class Potential(nn.Module):
    """Convex function of points ``[n, 2]``: quadratic first layer, skips, no bias beside them."""

    def __init__(self) -> None:
        super().__init__()
        self.square = nn.Linear(2, WIDTH, bias=False)
        self.skips = nn.ModuleList(nn.Linear(2, WIDTH) for _ in range(DEPTH))
        self.convex = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(DEPTH - 1))
        self.last = nn.Linear(WIDTH, 1, bias=False)
        for layer in [*self.convex, self.last]:
            nn.init.uniform_(layer.weight, 0, 0.1)

    def forward(self, x: Tensor) -> Tensor:
        """Values ``[n, 1]``."""
        z = F.softplus(self.square(x) ** 2 + self.skips[0](x))
        for layer, skip in zip(self.convex, self.skips[1:], strict=True):
            z = F.softplus(layer(z) + skip(x))
        return self.last(z)

    def gradient(self, x: Tensor) -> Tensor:
        """Where points ``[n, 2]`` are moved to."""
        x = x.detach().requires_grad_()
        return torch.autograd.grad(self(x).sum(), x)[0]


def source(n: int) -> Tensor:
    """A round cloud."""
    return torch.randn(n, 2)


def target(n: int) -> Tensor:
    """Eight small clouds on a circle."""
    angle = torch.randint(8, (n,)) * torch.pi / 4
    return 2 * torch.stack([angle.cos(), angle.sin()], 1) + 0.15 * torch.randn(n, 2)


def distance(x: Tensor, y: Tensor) -> float:
    """Energy distance between two clouds, 0 if they are alike (Székely and Rizzo 2013)."""
    within = torch.cdist(x, x).mean() + torch.cdist(y, y).mean()
    return float(2 * torch.cdist(x, y).mean() - within)


def train(f: Potential, g: Potential) -> None:
    """Solve the dual; the gradients become the maps there and back."""
    optimiser = torch.optim.Adam([*f.parameters(), *g.parameters()], 3e-3)
    keep_convex(optimiser, f, [m.weight for p in (f, g) for m in [*p.convex, p.last]])
    for _ in range(STEPS):
        x, y = source(BATCH), target(BATCH)
        values = f(x) + g(y).T  # [BATCH, BATCH]
        missing = F.relu(x @ y.T - values)
        optimiser.zero_grad()
        (values.mean() + PENALTY * missing.square().mean()).backward()
        optimiser.step()


def main(folder: Path) -> None:
    """Train from both starts, print how far the clouds are apart, and draw where points go."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    default = Potential(), Potential()
    ours = copy.deepcopy(default)
    init_icnn_(ours[0], source(1024))
    init_icnn_(ours[1], target(1024))
    x, y = source(1000), target(1000)
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    panels = figure.subplots(1, 3, sharex=True, sharey=True)
    panels[0].set_title(f"before: distance {distance(x, y):.3f}")
    panels[0].plot(*x.T, ".", ms=2, color="#D55E00")
    starts = {"default start": default, "init_icnn_": ours}
    for panel, (name, (f, g)) in zip(panels[1:], starts.items(), strict=True):
        before = distance(f.gradient(x), y)
        train(f, g)
        moved = f.gradient(x)
        after = distance(moved, y)
        print(f"{name}: distance {before:.3g} before training, {after:.3g} after")
        panel.set_title(f"{name}: distance {after:.3f}")
        panel.plot(*torch.stack([x, moved])[:, :150].unbind(2), "-", lw=0.3, color="#999999")
        panel.plot(*moved.T, ".", ms=2, color="#D55E00")
    for panel in panels:
        panel.plot(*y.T, ".", ms=1, color="#0072B2", alpha=0.4, zorder=0)
        panel.set(xlim=(-4, 4), ylim=(-4, 4), aspect="equal")
    figure.savefig(folder / "optimal_transport.png", dpi=150)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="made if it is not there")
    try:
        main(parser.parse_args().folder.expanduser())
    except OSError as error:
        sys.exit(f"error: {error}")
