"""The training loop: what it computes, and that stacked networks do not see each other."""

import math
import timeit

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from convexinit.init_network import init_icnn_
from convexinit.networks import MLP
from convexinit.stacking import stack_networks, unstack_network
from convexinit_paper.training import loop, machine
from convexinit_paper.training.loop import Split, diverged_at, epoch_order, evaluate, train
from convexinit_paper.training.objectives import CLASSIFICATION
from convexinit_paper.training.randomness import seeded_generator
from convexinit_paper.training.settings import TrainerSettings

INPUTS = torch.randn(300, 6, generator=torch.Generator().manual_seed(0))
TARGETS = (INPUTS[:, 0] + INPUTS[:, 1] ** 2 > 0.5).long()


def trainer(**options):
    defaults = {
        "epochs": 2,
        "batch_size": 32,
        "learning_rate": 1e-2,
        "weight_decay": 0.0,
        "step_sizes": "equal",
        "warmup": 0,
        "precision": "float32",
        "device": "cpu",
    }
    return TrainerSettings(**{**defaults, **options})


def network_of(seed, convex=True, positivity="projection", hidden=2):
    network = MLP([6, *[16] * hidden, 2], convex=convex, positivity=positivity)
    generator = seeded_generator(seed, "weights")
    if convex:
        return init_icnn_(network, generator=generator)
    for parameter in network.parameters():
        nn.init.normal_(parameter, std=0.2, generator=generator)
    return network


def run(seeds, convex=True, inputs=INPUTS, positivity="projection", hidden=2, **options):
    stack = stack_networks([network_of(seed, convex, positivity, hidden) for seed in seeds])
    rows = torch.stack(
        [torch.randperm(300, generator=seeded_generator(seed, "split")) for seed in seeds]
    )
    history = train(
        stack,
        Split(inputs, TARGETS, rows[:, :240]),
        {"validation": Split(inputs, TARGETS, rows[:, 240:])},
        [seeded_generator(seed, "batches") for seed in seeds],
        trainer(**options),
    )
    return stack, history


def plain_loop(
    seed, epochs=2, batch_size=32, learning_rate=1e-2, weight_decay=0.0, hidden=2,
    step_sizes="equal", warmup=0,
):  # fmt: skip
    """One network in the most ordinary PyTorch loop, with the projection after the step."""
    network = network_of(seed, hidden=hidden)
    rows = torch.randperm(300, generator=seeded_generator(seed, "split"))[:240]
    generator = seeded_generator(seed, "batches")
    optimiser = torch.optim.Adam(
        [
            {
                "params": layer.parameters(),
                "lr": learning_rate / (hidden - 1 if step_sizes == "by_layer" and inner else 1),
            }
            for layer, inner in zip(
                network.layers, [False, *[True] * (hidden - 1), False], strict=True
            )
        ],
        weight_decay=weight_decay,
    )
    schedule = torch.optim.lr_scheduler.LinearLR(
        optimiser, 1 / max(1, warmup), 1.0, max(0, warmup - 1)
    )
    losses = []
    for _ in range(epochs):
        order = rows[torch.randperm(240, generator=generator)]
        for batch in order.split(batch_size):
            loss = nn.functional.cross_entropy(network(INPUTS[batch]), TARGETS[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            for layer in network.layers[1:]:
                layer.weight.data.clamp_(min=0)
            losses.append(loss.item())
    return network, torch.tensor(losses)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"weight_decay": 0.1},
        {"batch_size": 50, "epochs": 3},
        {"hidden": 4, "step_sizes": "by_layer"},
        {"hidden": 4, "step_sizes": "by_layer", "warmup": 5},
        {"warmup": 50},
    ],
)
def test_training_agrees_with_a_plain_loop(options):
    stack, history = run([0, 5], **options)
    for index, seed in enumerate([0, 5]):
        network, losses = plain_loop(seed, **options)
        assert torch.allclose(history.batch_losses[index], losses, atol=2e-4)
        for name, parameter in network.named_parameters():
            assert torch.allclose(stack.get_parameter(name)[index], parameter, atol=2e-3), name


def test_losses_fall_and_weights_stay_non_negative():
    stack, history = run([0, 1, 2], epochs=20)
    begin, end = history.batch_losses[:, :5].mean(1), history.batch_losses[:, -5:].mean(1)
    assert (end < begin / 2).all()
    assert all((layer.weight >= 0).all() for layer in stack.layers[1:])
    assert any((layer.weight == 0).any() for layer in stack.layers[1:])


@settings(deadline=None, max_examples=15)
@given(
    seeds=st.lists(st.integers(0, 50), min_size=1, max_size=5, unique=True),
    convex=st.booleans(),
)
def test_a_seed_does_not_depend_on_its_neighbours(seeds, convex):
    together, history = run(seeds, convex)
    alone, alone_history = run(seeds[-1:], convex)
    assert torch.allclose(history.batch_losses[-1], alone_history.batch_losses[0], atol=1e-4)
    for stacked, single in zip(together.parameters(), alone.parameters(), strict=True):
        assert torch.allclose(stacked[-1], single[0], atol=1e-3)


def test_the_same_training_twice_gives_identical_numbers():
    first, second = run([3, 4]), run([3, 4])
    assert torch.equal(first[1].batch_losses, second[1].batch_losses)
    assert first[1].measurements == second[1].measurements


def test_a_diverged_network_is_named_and_alone():
    bad = stack_networks([network_of(0), network_of(1)])
    with torch.no_grad():
        bad.layers[0].weight[0].fill_(3e38)  # overflows in the first product
    rows = torch.arange(300).expand(2, -1)
    history = train(
        bad,
        Split(INPUTS, TARGETS, rows),
        {},
        [seeded_generator(seed, "batches") for seed in (0, 1)],
        trainer(),
    )
    assert history.diverged_at[0] is not None
    assert history.diverged_at[1] is None
    alone = stack_networks([network_of(1)])
    expected = train(
        alone, Split(INPUTS, TARGETS, rows[:1]), {}, [seeded_generator(1, "batches")], trainer()
    )
    assert torch.allclose(history.batch_losses[1], expected.batch_losses[0], atol=1e-5)


def test_a_network_that_diverges_in_its_last_step_is_named():
    _, history = run([0, 1], epochs=1, batch_size=240, learning_rate=1e38)
    assert history.batch_losses.isfinite().all()
    assert history.diverged_at == [1, 1]


def test_once_all_networks_are_lost_epochs_are_only_measured(monkeypatch):
    seen = []  # for every call whether the network was training
    forward = MLP.forward
    monkeypatch.setattr(
        MLP, "forward", lambda network, x: (seen.append(network.training), forward(network, x))[1]
    )
    options = {"epochs": 4, "batch_size": 60, "learning_rate": 1e38}
    _, history = run([0, 1], **options)
    assert seen.count(True) == 4, "training goes on in the first epoch alone"
    monkeypatch.setattr(loop, "all_lost", lambda stack: False)
    seen.clear()
    _, expected = run([0, 1], **options)
    assert seen.count(True) == 16
    assert torch.equal(history.batch_losses.isnan(), expected.batch_losses.isnan())
    assert history.diverged_at == expected.diverged_at == [2, 2]
    assert history.measurements[0] == expected.measurements[0]
    assert str(history.measurements) == str(expected.measurements)  # NaN differs from itself


def test_a_stack_with_one_sound_network_is_not_lost():
    stack = stack_networks([network_of(seed) for seed in range(3)])
    with torch.no_grad():
        stack.layers[1].weight[1, 0, 0] = math.nan
        stack.layers[0].bias[2, 3] = math.nan
        assert not loop.all_lost(stack)
        stack.layers[0].weight[0].fill_(math.inf)
        assert not loop.all_lost(stack)
        stack.layers[2].bias[0] = math.nan
    assert loop.all_lost(stack)


def test_the_step_of_divergence_is_counted_from_one():
    nan, inf = math.nan, math.inf
    losses = [[1.0, nan, 1.0], [1.0, 1.0, 1.0], [inf, 1.0, nan], [1.0, 1.0, 1.0], [1.0, nan, 1.0]]
    stack = stack_networks([network_of(seed) for seed in range(5)])
    with torch.no_grad():
        stack.layers[1].weight[3:].fill_(nan)  # noticed after the last step only
    assert diverged_at(torch.tensor(losses), stack) == [2, None, 1, 3, 2]


def test_evaluation_is_the_mean_over_all_rows(monkeypatch):
    monkeypatch.setattr("convexinit_paper.training.loop.EVALUATION_ROWS", 7)  # uneven chunks
    stack = stack_networks([network_of(0), network_of(1)])
    rows = torch.stack([torch.arange(20), torch.arange(100, 120)])
    measurements = evaluate(
        stack, {"test": Split(INPUTS, TARGETS, rows)}, CLASSIFICATION, 4, 40, torch.inference_mode
    )
    for index in range(2):
        logits = unstack_network(stack, index)(INPUTS[rows[index]])
        targets = TARGETS[rows[index]]
        loss = nn.functional.cross_entropy(logits, targets).item()
        accuracy = float((logits.argmax(1) == targets).double().mean())
        assert measurements[0].values[index] == pytest.approx(loss, rel=1e-5)
        assert measurements[1].values[index] == pytest.approx(accuracy)
    assert [(m.split, m.metric, m.epoch, m.step) for m in measurements] == [
        ("test", "loss", 4, 40),
        ("test", "accuracy", 4, 40),
    ]


def test_measurements_start_before_training():
    _, history = run([0], epochs=2)
    assert [m.epoch for m in history.measurements if m.metric == "loss"] == [0, 1, 2]
    assert history.steps_per_epoch == 8
    assert history.batch_losses.shape == (1, 16)


def test_epoch_order_shuffles_each_network_by_its_own_generator():
    rows = torch.stack([torch.arange(50), torch.arange(50, 100)])
    order = epoch_order(rows, [seeded_generator(0, "batches"), seeded_generator(1, "batches")])
    assert torch.equal(order.sort(1).values, rows)
    assert not torch.equal(order, rows)
    alone = epoch_order(rows[1:], [seeded_generator(1, "batches")])
    assert torch.equal(order[1], alone[0])


def test_streams_of_a_seed_differ():
    draws = {
        (seed, stream): float(torch.rand(1, generator=seeded_generator(seed, stream)))
        for seed in range(5)
        for stream in ("weights", "split", "batches")
    }
    assert len(set(draws.values())) == 15


def test_bfloat16_trains_about_as_well_and_keeps_float32_weights():
    stack, history = run([0, 1], epochs=10, precision="bfloat16")
    _, exact = run([0, 1], epochs=10)
    assert next(stack.parameters()).dtype == torch.float32
    ends = [h.batch_losses[:, -10:].mean() for h in (history, exact)]
    assert float(ends[0]) == pytest.approx(float(ends[1]), abs=0.1)
    assert not torch.equal(history.batch_losses, exact.batch_losses)


def test_slow_bfloat16_is_warned_of(monkeypatch, recwarn):
    monkeypatch.setattr(machine, "lacks_bfloat16", lambda: True)
    with pytest.warns(UserWarning, match="no instructions for bfloat16.*precision=float32"):
        run([0], precision="bfloat16", epochs=1)
    run([0], epochs=1)
    monkeypatch.setattr(machine, "lacks_bfloat16", lambda: False)
    run([0], precision="bfloat16", epochs=1)
    assert not recwarn


def test_bfloat16_is_slow_where_it_is_said_to_be():
    def seconds(dtype):
        a = torch.ones(256, 256, dtype=dtype)
        return min(timeit.repeat(lambda: a @ a, number=3, repeat=5))

    slow = seconds(torch.bfloat16) > 6 * seconds(torch.float32)
    assert machine.lacks_bfloat16() == slow


def test_other_settings_of_the_process_are_restored():
    before = torch.get_float32_matmul_precision()
    with pytest.warns(UserWarning, match="tf32 is for NVIDIA GPUs"):
        run([0], precision="tf32", epochs=1)
    assert torch.get_float32_matmul_precision() == before
