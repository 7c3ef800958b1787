"""Layers whose inputs add up to the same in every row are refused, not filled on rounding."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from convexinit import init_icnn_
from support.foreign_networks import normal
from support.networks import generator

X = normal(512, 6, seed=0)


class Positive(nn.Linear):
    def forward(self, z):
        return F.linear(z, F.softplus(self.weight), self.bias)


class Deep(nn.Module):
    """Convex layers with a function of the features after each of them.

    Args:
        function: of features.
        hidden: number of layers between the first and the last.
        width: of them.
        read: function of the output.
    """

    def __init__(self, function, hidden=2, width=32, outputs=1, read=None):
        super().__init__()
        torch.manual_seed(0)
        self.function, self.read = function, read or (lambda s: s)
        self.first = nn.Linear(6, width)
        self.hidden = nn.ModuleList(Positive(width, width) for _ in range(hidden))
        self.last = Positive(width, outputs)

    def forward(self, x):
        z = self.function(self.first(x))
        for layer in self.hidden:
            z = self.function(layer(z))
        return self.read(self.last(z))


NORMALISED = {
    "layer_norm": lambda z: F.layer_norm(F.relu(z), z.shape[-1:]),
    "softmax": lambda z: z.softmax(-1),
    "normalize": lambda z: F.normalize(z.relu(), p=1, dim=-1),
    "by hand": lambda z: (z.relu() - z.relu().mean(-1, keepdim=True)) / z.relu().std(-1)[:, None],
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("method", ["orthogonal", "moments"])
@pytest.mark.parametrize("name", NORMALISED)
def test_features_with_the_same_sum_in_every_row_are_refused(name, method, dtype):
    network = Deep(NORMALISED[name]).to(dtype)
    before = network.last.weight.detach().clone()
    layer = "last" if method == "orthogonal" else r"hidden\.0"
    with pytest.raises(ValueError, match=f"the layer {layer} reads .* normalisation of every row"):
        init_icnn_(network, X.to(dtype), method=method)
    assert torch.equal(network.last.weight, before)


def test_low_precision_and_sums_of_positions_are_refused_too():
    half = Deep(NORMALISED["softmax"]).bfloat16()
    with pytest.raises(ValueError, match=r"the layer last reads .* normalisation of every row"):
        init_icnn_(half, X.bfloat16())
    rows = normal(512, 5, 6, seed=1)
    summed = Deep(
        lambda z: F.layer_norm(F.relu(z), z.shape[1:]), 0, read=lambda s: s.sum((1, 2))
    )  # fmt: skip
    with pytest.raises(ValueError, match=r"the layer last reads .* normalisation of every row"):
        init_icnn_(summed, rows)


@pytest.mark.parametrize(
    ("function", "mean", "hidden", "width"),
    [
        (F.softplus, 1000.0, 2, 32),
        (F.softplus, -8.0, 2, 32),
        (lambda z: F.relu(z).square(), 50.0, 3, 64),
        (F.relu, 0.0, 30, 32),
        (F.relu, 0.0, 1, 2048),
        (lambda z: F.layer_norm(F.relu(z), z.shape[-1:]) + z, 0.0, 2, 32),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.filterwarnings("ignore:the network is not convex", "ignore:the variances of these")
def test_what_varies_little_beside_its_mean_is_filled(function, mean, hidden, width, dtype):
    network = Deep(function, hidden, width).to(dtype)
    init_icnn_(network, X.to(dtype), mean=mean, generator=generator(1))
    assert float(network(X.to(dtype)).detach().var()) == pytest.approx(1.0, abs=0.1)


@pytest.mark.parametrize("method", ["orthogonal", "moments"])
@pytest.mark.parametrize("mean", [0.0, 10.0])
@pytest.mark.parametrize("width", [32, 1024])
@pytest.mark.filterwarnings("ignore:the pre-activation of the layer")
def test_what_low_precision_still_tells_is_filled(width, mean, method):
    network = Deep(F.softplus, 2, width).bfloat16()
    init_icnn_(network, X.bfloat16(), mean=mean, method=method, generator=generator(1))
    assert float(network(X.bfloat16()).detach().double().var()) == pytest.approx(1.0, abs=0.4)


def test_several_outputs_of_a_normalisation_of_rows_are_filled():
    network = init_icnn_(Deep(lambda z: F.layer_norm(F.softplus(z), z.shape[-1:]), outputs=4), X)
    assert float(network(X).detach().var(0).mean()) == pytest.approx(1.0, abs=0.02)


@pytest.mark.parametrize(("dtype", "size"), [(torch.float32, 1e8), (torch.float64, 1e16)])
def test_layers_of_large_inputs_are_corrected_where_the_old_scale_hid_the_new_one(dtype, size):
    inputs = size * X.to(dtype)
    network = init_icnn_(Deep(F.softplus).to(dtype), inputs, generator=generator())
    for signal in (network.first(inputs).detach(), network(inputs).detach()):
        assert float(signal.mean()) == pytest.approx(0, abs=0.01)
        assert float(signal.var(0).mean()) == pytest.approx(1, abs=0.01)
