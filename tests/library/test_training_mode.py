"""What networks do in training alone: the start is the same there as in evaluation mode."""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm

from convexinit import MLP, ConvexLinear, check_signal, init_icnn_, is_convex
from support.networks import generator, unchanged

INPUTS = torch.randn(1021, 6, generator=generator())


def layers(*blocks):
    """A network of four convex layers, with blocks between an activation and the next layer."""
    made = [nn.Linear(6, 32), nn.Softplus()]
    for _ in range(3):
        made += [*(block() for block in blocks), nn.Linear(32, 32), nn.Softplus()]
    return nn.Sequential(*made, *(block() for block in blocks), nn.Linear(32, 1))


class Summed(nn.Module):
    """A skip connection or the convex path has a normalisation to itself."""

    def __init__(self, normalised):
        super().__init__()
        self.first, self.skip, self.hidden = nn.Linear(6, 32), nn.Linear(6, 32), nn.Linear(32, 32)
        self.out, self.norm, self.normalised = nn.Linear(32, 1), nn.BatchNorm1d(32), normalised

    def forward(self, x):
        z, skipped = self.hidden(F.softplus(self.first(x))), self.skip(x)
        if self.normalised == "skip":
            z = z + self.norm(skipped)
        elif self.normalised == "convex":
            z = self.norm(z) + skipped
        return self.out(F.softplus(z))


def recorded(network, x):
    """What the activations and the caller get."""
    got = []
    hooks = [
        m.register_forward_pre_hook(lambda _, args: got.append(args[0].detach()))
        for m in network.modules()
        if isinstance(m, nn.Softplus)
    ]
    got.append(network(x).detach())
    for hook in hooks:
        hook.remove()
    return got


NORMALISED = {
    "after the activation": lambda: layers(lambda: nn.BatchNorm1d(32)),
    "of the inputs": lambda: nn.Sequential(nn.BatchNorm1d(6), *layers()),
    "of pre-activations": lambda: nn.Sequential(
        nn.Linear(6, 32), nn.BatchNorm1d(32), nn.Softplus(),
        nn.Linear(32, 32, bias=False), nn.BatchNorm1d(32, momentum=None), nn.Softplus(),
        nn.Linear(32, 1),
    ),
    "of the outputs": lambda: nn.Sequential(*layers(), nn.Softplus(), nn.BatchNorm1d(1)),
    "of a skip connection": lambda: Summed("skip"),
    "of the convex path": lambda: Summed("convex"),
}  # fmt: skip


@pytest.mark.parametrize("method", ["orthogonal", "moments"])
@pytest.mark.parametrize("where", NORMALISED)
def test_batch_normalisations_start_alike_in_training_and_in_evaluation(where, method):
    torch.manual_seed(0)
    network = NORMALISED[where]()
    x = 3 * INPUTS + 2
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d):  # as if it had been trained on something else
            module.running_mean += 7
            module.running_var *= 40
    init_icnn_(network, x, method=method, generator=generator())
    assert network.training
    statistics = copy.deepcopy(dict(network.named_buffers()))
    evaluated = recorded(network.eval(), x)
    trained = recorded(network.train(), x)
    for one, other in zip(evaluated, trained, strict=True):
        assert float((one - other).abs().max()) < 0.02 * float(other.abs().max())
    hidden = trained[:-1] if where == "of the outputs" else trained
    for signal in hidden:
        assert float(signal.mean()) == pytest.approx(0, abs=0.05)
        assert float(signal.var(0).mean()) == pytest.approx(1, rel=0.15)
    assert all(int(v) == 0 for name, v in statistics.items() if name.endswith("tracked"))


def test_what_a_parametrization_keeps_in_training_stays():
    """Every weight that is computed in training changes the vectors of a spectral norm."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Linear(6, 16), nn.ReLU(), spectral_norm(nn.Linear(16, 16)), nn.ReLU(), nn.Linear(16, 1)
    )  # fmt: skip
    with unchanged(network):
        check_signal(network, INPUTS)
        is_convex(network, INPUTS)
        with pytest.raises(ValueError, match="does not reach the weights needed"):
            init_icnn_(network, INPUTS)


def test_statistics_stay_where_a_network_is_refused_or_they_are_frozen():
    network = layers(lambda: nn.BatchNorm1d(32))
    before = copy.deepcopy(dict(network.named_buffers()))
    with pytest.raises(ValueError, match="does not shift"):
        init_icnn_(network, INPUTS, layers={"3": {"bias": "0.bias"}})
    growing = nn.Sequential(*network, nn.Softplus(), *(Exponential() for _ in range(3)))
    growing.append(nn.Linear(1, 1))
    with pytest.raises(ValueError, match="grows or falls too fast"):
        init_icnn_(growing, 9 * INPUTS)
    assert all(torch.equal(value, before[name]) for name, value in network.named_buffers())
    network[2].eval()
    init_icnn_(network, INPUTS)
    same = {n.split(".")[0] for n, v in network.named_buffers() if torch.equal(v, before[n])}
    assert "2" in same
    frozen = {n for n, v in network.named_buffers() if n[0] == "2" and torch.equal(v, before[n])}
    assert frozen == {"2.running_mean", "2.running_var", "2.num_batches_tracked"}
    assert not torch.equal(network.get_buffer("5.running_mean"), before["5.running_mean"])


class Exponential(nn.Module):
    def forward(self, x):
        return (9 * x).exp()


def dropped(hidden, probability, of_inputs=0.0, layer=nn.Linear):
    """A network with dropout after every activation, and another of the inputs."""
    made = [nn.Dropout(of_inputs), nn.Linear(6, 16), nn.ReLU()]
    for _ in range(hidden - 1):
        made += [nn.Dropout(probability), layer(16, 16), nn.ReLU()]
    return nn.Sequential(*made, nn.Dropout(probability), layer(16, 1))


class SkippedInputs(nn.Module):
    """Dropout of what is read by three skip connections."""

    def __init__(self):
        super().__init__()
        self.skips = nn.ModuleList(nn.Linear(6, 16) for _ in range(4))
        self.hidden = nn.ModuleList(nn.Linear(16, 16) for _ in range(3))

    def forward(self, x):
        z = self.skips[0](x)
        for hidden, skip in zip(self.hidden, self.skips[1:], strict=True):
            z = hidden(F.relu(z)) + skip(F.dropout(x, 0.5, self.training))
        return z


@pytest.mark.parametrize(
    ("build", "warns"),
    [
        (lambda: dropped(3, 0.2), True),
        (lambda: dropped(2, 0.5, 0.7), False),
        (lambda: dropped(6, 0.1), False),
        (lambda: MLP([6, 16, 16, 16, 1], hidden_dropout=0.3), True),
        (lambda: MLP([6, 16, 16, 1], input_dropout=0.7, hidden_dropout=0.5), False),
        (SkippedInputs, False),
    ],
)
def test_dropout_in_many_hidden_layers_is_warned_of(build, warns):
    for options in ({"inputs": INPUTS}, {}):
        network = build()
        if not options and not isinstance(network, MLP):
            continue
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            init_icnn_(network, **options)
            messages = [
                str(w.message) for w in caught if "dropout acts in 3 hidden" in str(w.message)
            ]
            assert len(messages) == warns
            assert all(w.filename == __file__ for w in caught)
            init_icnn_(network, **options, method="moments")
        assert len(caught) == warns


def test_dropout_between_layers_of_this_library_is_warned_of():
    with pytest.warns(UserWarning, match="dropout acts in 4 hidden layers"):
        init_icnn_(dropped(4, 0.5, 0.5, ConvexLinear))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        init_icnn_(dropped(2, 0.5, 0.5, ConvexLinear))


def test_dropout_that_is_registered_several_times_counts_as_often():
    shared, layers = nn.Dropout(0.5), [ConvexLinear(16, 16) for _ in range(3)]
    hidden = [module for layer in layers for module in (layer, nn.ReLU(), shared)]
    with pytest.warns(UserWarning, match="dropout acts in 3 hidden layers"):
        init_icnn_(nn.Sequential(nn.Linear(6, 16), nn.ReLU(), *hidden, ConvexLinear(16, 1)))


def test_noise_of_dropout_grows_with_orthogonal_weights_only():
    """What the warning says: in evaluation mode the variance is 1 with either."""
    torch.manual_seed(0)
    variances = {}
    for method in ("orthogonal", "moments"):
        network = MLP([6, *[64] * 6, 1], hidden_dropout=0.5)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            init_icnn_(network, INPUTS, method=method, generator=generator())
        variances[method] = float(network(INPUTS).detach().var())
    assert variances["orthogonal"] > 10 * variances["moments"]


@pytest.mark.parametrize("cached", [True, False])
def test_in_autocast_the_weights_that_were_written_are_seen(cached):
    torch.manual_seed(0)
    network = layers()
    with torch.autocast("cpu", torch.bfloat16, cache_enabled=cached), warnings.catch_warnings():
        warnings.simplefilter("error")
        network(INPUTS)  # fills the cache
        init_icnn_(network, INPUTS, generator=generator())
        assert torch.is_autocast_cache_enabled() == cached
        signals = recorded(network, INPUTS)
    for signal in (*signals, *recorded(network, INPUTS)):
        assert float(signal.float().mean()) == pytest.approx(0, abs=0.05)
        assert float(signal.float().var(0).mean()) == pytest.approx(1, rel=0.1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_biases_are_found_where_results_of_autocast_are_brought_to_float32(dtype):
    class Mixed(nn.Sequential):
        def forward(self, x):
            with torch.autocast("cpu", dtype):
                x = F.softplus(self[2](F.softplus(self[0](x).float())).float())
            return self[4](x)

    torch.manual_seed(0)
    network = Mixed(*layers()[:4], nn.Linear(32, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        init_icnn_(network, INPUTS, generator=generator())
    rows = check_signal(network, INPUTS).rows
    assert [row.bias for row in rows] == ["0.bias", "2.bias", "4.bias"]
    assert [row.mean for row in rows] == pytest.approx([0] * 3, abs=0.02)
    assert [row.std for row in rows] == pytest.approx([1] * 3, abs=0.02)
