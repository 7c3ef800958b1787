"""Networks that hold sparse matrices, as of a graph or of finite elements."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from convexinit import check_signal, init_icnn_, is_convex, parameter_groups
from convexinit.assignment import unchanged_on_error
from support.foreign_networks import INPUTS, normal
from support.networks import generator

INTO = {"dense": lambda m: m, "coo": torch.Tensor.to_sparse, "csr": torch.Tensor.to_sparse_csr}
X = normal(64, INPUTS, seed=1)


class Mixed(nn.Module):
    """``mix(matrix, columns)`` acts on the inputs, or on features that are convex in them."""

    def __init__(self, layout, mix, features):
        super().__init__()
        self.mix, self.features = mix, features
        self.register_buffer("matrix", INTO[layout](torch.eye(INPUTS) + torch.eye(INPUTS).roll(1)))
        self.first, self.last = nn.Linear(INPUTS, INPUTS), nn.Linear(INPUTS, 1)

    def forward(self, x):
        if not self.features:
            return self.last(self.mix(self.matrix, self.first(x).T).T)
        return self.last(self.mix(self.matrix, F.relu(self.first(x)).T).T)


def product(matrix, columns):
    return F.relu(matrix @ columns)


def in_place(matrix, columns):
    return (matrix @ columns).relu_()


def sparse_product(matrix, columns):
    multiply = torch.mm if matrix.layout is torch.strided else torch.sparse.mm
    return F.relu(multiply(matrix, columns))


@pytest.mark.parametrize("features", [False, True])
@pytest.mark.parametrize("mix", [product, in_place, sparse_product])
@pytest.mark.parametrize("layout", ["coo", "csr"])
@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
def test_they_do_as_dense_ones(layout, mix, features):
    outputs = []
    for name in ("dense", layout):
        torch.manual_seed(0)
        network = init_icnn_(Mixed(name, mix, features), X, generator=generator(0))
        assert network.matrix.layout is INTO[name](torch.eye(2)).layout
        outputs.append((network(X), [row.std for row in check_signal(network, X).rows]))
        assert is_convex(network, X)
        assert len(parameter_groups(network, 1e-3, X)) == 1
    assert torch.allclose(outputs[0][0], outputs[1][0], atol=1e-5)
    assert outputs[0][1] == pytest.approx(outputs[1][1], rel=1e-5)


def test_they_get_their_values_back():
    network = Mixed("coo", product, False)
    before = network.matrix.to_dense()

    def fail():
        with unchanged_on_error(network):
            network.matrix.mul_(2.0)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert torch.equal(network.matrix.to_dense(), before)
