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

from convexinit.difference import ConvexDifference
from convexinit.init import lognormal_init_
from convexinit.init_network import init_icnn_, lsuv_init_
from convexinit.layers import ConvexConv2d, ConvexLinear, project_
from convexinit.networks import CNN, MLP
from convexinit.theory import solve_init

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
