"""Principled weight initialisation for input-convex neural networks.

The names below are the library half of the project; it needs torch alone.

Example:
    >>> import torch
    >>> from convexinit import ConvexLinear, init_icnn_
    >>> network = torch.nn.Sequential(
    ...     torch.nn.Linear(8, 64), torch.nn.ReLU(), ConvexLinear(64, 1)
    ... )
    >>> network = init_icnn_(network)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convexinit.difference import ConvexDifference
    from convexinit.init import init_icnn_, lognormal_init_, lsuv_init_
    from convexinit.nn import CNN, MLP, ConvexConv2d, ConvexLinear, project_
    from convexinit.theory import solve_init

_MODULES = {
    "CNN": "nn",
    "MLP": "nn",
    "ConvexConv2d": "nn",
    "ConvexDifference": "difference",
    "ConvexLinear": "nn",
    "init_icnn_": "init",
    "lognormal_init_": "init",
    "lsuv_init_": "init",
    "project_": "nn",
    "solve_init": "theory",
}

__all__ = [
    "CNN",
    "MLP",
    "ConvexConv2d",
    "ConvexDifference",
    "ConvexLinear",
    "init_icnn_",
    "lognormal_init_",
    "lsuv_init_",
    "project_",
    "solve_init",
]


def __getattr__(name: str) -> Any:
    # Imported on first use: torch takes seconds to load, which `run.py --help` does not need.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
