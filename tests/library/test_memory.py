"""How much of what a network computes is kept while it is initialised."""

import weakref

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from convexinit import init_icnn_
from support.networks import generator

ROWS, UNITS = 512, 16


class Alive(TorchFunctionMode):
    """Counts the results of calls that are as large as those of a layer, while they are kept."""

    def __init__(self):
        super().__init__()
        self.now, self.most = 0, 0

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.numel() == ROWS * UNITS:
            self.now += 1
            self.most = max(self.most, self.now)
            weakref.finalize(result, self._leave)
        return result

    def _leave(self):
        self.now -= 1


@pytest.mark.parametrize("method", ["orthogonal", "moments"])
def test_results_of_layers_are_kept_no_longer_than_the_network_keeps_them(method):
    most = []
    for depth in (3, 12):
        layers = [nn.Linear(4, UNITS), nn.Softplus()]
        for _ in range(depth):
            layers += [nn.Linear(UNITS, UNITS), nn.Softplus()]
        network = nn.Sequential(*layers, nn.Linear(UNITS, 1))
        x = torch.randn(ROWS, 4, generator=generator())
        with Alive() as alive:
            init_icnn_(network, x, generator=generator(), method=method)
        most.append(alive.most)
    assert most[0] == most[1] < 20
