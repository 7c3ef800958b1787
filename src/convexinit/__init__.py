"""Principled weight initialisation for input-convex neural networks; needs torch alone.

Beside the names below there are :mod:`convexinit.theory` (signal propagation in numbers),
:mod:`convexinit.stacking` (many networks as one), :mod:`convexinit.level_sets`, and
:mod:`convexinit.molecules`, which needs the extra ``molecules``.

Example:
    >>> import torch
    >>> from convexinit import ConvexLinear, init_icnn_
    >>> network = torch.nn.Sequential(
    ...     torch.nn.Linear(8, 64), torch.nn.ReLU(), ConvexLinear(64, 1)
    ... )
    >>> network = init_icnn_(network)
"""

from convexinit.convexity import is_convex
from convexinit.diagnostics import check_signal
from convexinit.difference import ConvexDifference
from convexinit.init import lognormal_init_, moments_init_
from convexinit.init_network import init_icnn_
from convexinit.layers import ConvexConv2d, ConvexLinear, project_
from convexinit.lsuv import lsuv_init_
from convexinit.networks import CNN, MLP, PICNN
from convexinit.orthogonal import orthogonal_init_
from convexinit.projection import keep_convex
from convexinit.step_sizes import parameter_groups
from convexinit.theory import solve_init

__all__ = [
    "CNN",
    "MLP",
    "PICNN",
    "ConvexConv2d",
    "ConvexDifference",
    "ConvexLinear",
    "check_signal",
    "init_icnn_",
    "is_convex",
    "keep_convex",
    "lognormal_init_",
    "lsuv_init_",
    "moments_init_",
    "orthogonal_init_",
    "parameter_groups",
    "project_",
    "solve_init",
]
