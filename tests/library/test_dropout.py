"""Dropout with masks from random bytes: rates, independence of stacked networks, gradients."""

import math

import pytest
import torch
from scipy import stats

from convexinit.dropout import Dropout, random_bytes, seed_dropout_
from convexinit.networks import MLP
from convexinit.stacking import stack_networks
from support.networks import generator


def generators(seeds):
    return [generator(seed) for seed in seeds]


def seeded(probability, seeds=(0,)):
    return seed_dropout_(Dropout(probability), generators(seeds))


def within_binomial_bounds(count, trials, probability):
    """Whether a count is one that chance gives but once in a million."""
    low, high = stats.binom.interval(1 - 1e-6, trials, probability)
    return low <= count <= high


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.7, 0.99])
def test_rate_and_mean(probability):
    layer = seeded(probability)
    inputs = torch.ones(400, 500)
    output = layer(inputs)
    exact = layer.dropped_bytes / 256
    assert abs(exact - probability) <= 1 / 512
    zeros = int((output == 0).sum())
    assert within_binomial_bounds(zeros, inputs.numel(), exact)
    # What remains is scaled so that means are kept.
    assert output[output != 0].unique().tolist() == [pytest.approx(1 / (1 - exact))]
    deviation = math.sqrt(exact / (1 - exact) / inputs.numel())
    assert float(output.mean()) == pytest.approx(1.0, abs=5 * deviation)


def test_rates_of_units_and_of_samples_are_even():
    zeros = seeded(0.7)(torch.ones(2000, 64)) == 0
    exact = round(0.7 * 256) / 256
    for dim, trials in ((0, 2000), (1, 64)):
        assert all(
            within_binomial_bounds(count, trials, exact) for count in zeros.sum(dim).tolist()
        )


def test_neighbouring_units_are_independent():
    kept = (seeded(0.5)(torch.ones(1000, 257)) != 0).double()
    for distance in (1, 2, 8, 256):
        left, right = kept[:, :-distance].flatten(), kept[:, distance:].flatten()
        agree = int((left == right).sum())
        assert within_binomial_bounds(agree, len(left), 0.5)


@pytest.mark.parametrize("seeds", [[3], [0, 3, 5], [5, 3]])
def test_masks_do_not_depend_on_the_neighbours_in_the_stack(seeds):
    inputs = torch.randn(16, 37, generator=generator())
    alone = seeded(0.5, [3])
    stacked = seeded(0.5, seeds)
    for rows in (16, 16, 7):  # the last batch of an epoch is smaller
        here = stacked(inputs[:rows].expand(len(seeds), -1, -1))
        assert torch.equal(here[seeds.index(3)], alone(inputs[None, :rows])[0])


def test_a_network_and_its_place_in_a_stack_agree():
    networks = {
        seed: MLP([9, 8, 8, 2], input_dropout=0.7, hidden_dropout=0.5) for seed in (0, 3, 5)
    }
    inputs = torch.randn(3, 6, 9, generator=generator())
    stack = seed_dropout_(stack_networks(list(networks.values())), generators([0, 3, 5]))
    alone = seed_dropout_(stack_networks([networks[3]]), generators([3]))
    for _ in range(3):
        torch.testing.assert_close(stack(inputs)[1], alone(inputs[1:2])[0])


def test_networks_of_a_stack_have_different_masks():
    output = seeded(0.5, [0, 1])(torch.ones(2, 50, 50))
    agree = int((output[0] == output[1]).sum())
    assert within_binomial_bounds(agree, 2500, 0.5)


def test_generators_advance_and_can_be_repeated():
    layer = seeded(0.5)
    inputs = torch.ones(1, 20, 20)
    first, second = layer(inputs), layer(inputs)
    assert not torch.equal(first, second)
    assert torch.equal(seeded(0.5)(inputs), first)


def test_without_generators_torch_s_own_is_used():
    layer = Dropout(0.5)
    torch.manual_seed(1)
    first = layer(torch.ones(100))
    torch.manual_seed(1)
    assert torch.equal(layer(torch.ones(100)), first)
    assert 0 < int((first == 0).sum()) < 100


def test_identity_in_evaluation_and_without_dropout():
    inputs = torch.randn(5, 7)
    layer = seeded(0.9).eval()
    before = layer.generators[0].get_state()
    assert layer(inputs) is inputs
    assert torch.equal(layer.generators[0].get_state(), before)
    assert seeded(0.0)(inputs) is inputs


def test_gradients_pass_where_values_do():
    inputs = torch.full((4, 300), 2.0, requires_grad=True)
    output = seeded(0.7)(inputs)
    output.sum().backward()
    torch.testing.assert_close(inputs.grad * 2.0, output.detach())
    assert 0 < int((inputs.grad == 0).sum()) < inputs.numel()


def test_later_steps_leave_earlier_masks_alone():
    # Autograd keeps the masks of all layers until the backward pass.
    layer = seeded(0.5)
    inputs = torch.ones(1, 100, requires_grad=True)
    first, second = layer(inputs), layer(inputs)
    (gradient,) = torch.autograd.grad(first.sum(), inputs)
    torch.testing.assert_close(gradient, first.detach())
    assert not torch.equal(first, second)


@pytest.mark.parametrize("shape", [(1,), (3, 5), (2, 3, 7), (4, 8, 16)])
@pytest.mark.parametrize("count", [0, 1])
def test_shape_and_type_of_bytes(shape, count):
    result = random_bytes(shape, generators(range(count)), torch.device("cpu"))
    assert tuple(result.shape) == shape
    assert result.dtype == torch.uint8


def test_every_bit_of_every_byte_is_random():
    values = random_bytes((100_000 * 8,), generators([0]), torch.device("cpu")).view(-1, 8)
    for place in range(8):  # of the byte in its word: the last holds the sign
        for bit in range(8):
            ones = int((values[:, place] >> bit & 1).sum())
            assert within_binomial_bounds(ones, len(values), 0.5), (place, bit)
    counts = values.flatten().bincount(minlength=256)
    assert stats.chisquare(counts.numpy()).pvalue > 1e-6


@pytest.mark.parametrize("probability", [-0.1, 1.0])
def test_probabilities_out_of_range(probability):
    with pytest.raises(ValueError, match=r"probability must be a number in \[0, 1\)"):
        Dropout(probability)


def test_some_units_are_left_however_close_to_one():
    assert int((seeded(0.9999)(torch.ones(100_000)) != 0).sum()) > 0


def test_torch_func_and_compile_see_a_network_with_dropout():
    network, inputs = MLP([8, 16, 1], hidden_dropout=0.5), torch.ones(64, 8)
    outputs = torch.func.vmap(network, randomness="different")(inputs)
    assert len(outputs.unique()) > 1
    compiled = torch.compile(network, backend="eager", fullgraph=True)
    assert len(compiled(inputs).unique()) > 1


def test_seeds_are_no_generators():
    with pytest.raises(ValueError, match=r"torch\.Generator, got 0; of a seed"):
        seed_dropout_(Dropout(0.5), [0])
