"""An interrupted training goes on from its checkpoint as if nothing had happened."""

import os
import signal
import threading
import time

import pytest
import torch

from convexinit.dropout import seed_dropout_
from convexinit.networks import MLP
from convexinit.stacking import stack_networks
from convexinit_paper.experiments.training_dynamics import begun_groups
from convexinit_paper.store import checkpoints
from convexinit_paper.store.checkpoints import Checkpoint
from convexinit_paper.store.provenance import git_revision
from convexinit_paper.training import resuming
from convexinit_paper.training.loop import Split, train
from convexinit_paper.training.memory import fitting
from convexinit_paper.training.randomness import seeded_generator
from convexinit_paper.training.settings import TrainerSettings
from support.runs import tmpfs

INPUTS = torch.randn(100, 6, generator=torch.Generator().manual_seed(0))
TARGETS = (INPUTS[:, 0] > 0).long()
ROWS = torch.arange(100).expand(2, -1)


class KilledError(Exception):
    pass


class DyingCheckpoint(Checkpoint):
    """Saves whenever it can, and stops the training after so many states."""

    def __init__(self, path, states):
        super().__init__(path, every=0)
        self.states = states

    def save(self, state):
        super().save(state)
        self.states -= 1
        if self.states == 0:
            raise KilledError


def run(checkpoint=None):
    """Three epochs of seven batches for two networks with dropout."""
    networks = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        networks.append(MLP([6, 16, 16, 16, 2], hidden_dropout=0.5))
    stack = stack_networks(networks)
    seed_dropout_(stack, [seeded_generator(seed, "dropout") for seed in (0, 1)])
    history = train(
        stack,
        Split(INPUTS, TARGETS, ROWS[:, :80]),
        {"validation": Split(INPUTS, TARGETS, ROWS[:, 80:])},
        [seeded_generator(seed, "batches") for seed in (0, 1)],
        TrainerSettings(3, 12, 1e-2, 0.1, "by_layer", 9, "float32", "cpu"),
        checkpoint=checkpoint,
    )
    return stack, history


# The first state is in the first epoch; the 7th, 14th and 21st follow the evaluation of an epoch.
@pytest.mark.parametrize("states", [1, 6, 7, 8, 20, 21])
def test_an_interrupted_training_gives_the_same_numbers(tmp_path, states):
    whole, expected = run()
    with pytest.raises(KilledError):
        run(DyingCheckpoint(tmp_path / "a.pt", states))
    resumed, history = run(Checkpoint(tmp_path / "a.pt", 0))
    assert torch.equal(history.batch_losses, expected.batch_losses)
    assert history.measurements == expected.measurements
    assert history.diverged_at == expected.diverged_at == [None, None]
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
    assert list(history.earlier) == [git_revision()]
    assert history.earlier[git_revision()] > 0
    assert expected.earlier == {}


def test_an_interruption_can_be_interrupted(tmp_path, monkeypatch):
    _, expected = run()
    for revision, states in (("first", 3), ("second", 9), ("first", 5)):
        monkeypatch.setattr(resuming, "git_revision", lambda name=revision: name)
        with pytest.raises(KilledError):
            run(DyingCheckpoint(tmp_path / "a.pt", states))
    _, history = run(Checkpoint(tmp_path / "a.pt", 0))
    assert torch.equal(history.batch_losses, expected.batch_losses)
    assert list(history.earlier) == ["first", "second"]


def test_states_are_saved_now_and_then(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(checkpoints.time, "monotonic", lambda: now[0])
    checkpoint = Checkpoint(tmp_path / "a.pt", 60)
    assert not checkpoint.due()
    now[0] = 60.0
    assert checkpoint.due()
    checkpoint.save({})
    assert not checkpoint.due()
    now[0] = 121.0
    assert checkpoint.due()


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: b"damaged",
        lambda content: content[:4] + bytes(100),
        lambda content: content[:2000],
    ],
)
def test_a_damaged_checkpoint_is_set_aside(tmp_path, damage):
    path = tmp_path / "a.pt"
    Checkpoint(path, 0).save({"weights": torch.zeros(1000)})
    content = damage(path.read_bytes())
    path.write_bytes(content)
    with pytest.warns(UserWarning, match=r"a\.pt is damaged; it is set aside as a\.pt\.damaged"):
        assert Checkpoint(path, 0).load() is None
    assert (tmp_path / "a.pt.damaged").read_bytes() == content
    assert not path.exists()


def test_code_in_a_checkpoint_is_not_executed(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "executed"),)

    torch.save({"step": Evil()}, tmp_path / "a.pt")
    with pytest.warns(UserWarning, match="damaged"):
        assert Checkpoint(tmp_path / "a.pt", 0).load() is None
    assert not (tmp_path / "executed").exists()


def test_a_bit_that_was_flipped_is_noticed(tmp_path):
    path = tmp_path / "a.pt"
    Checkpoint(path, 0).save({"weights": torch.zeros(1000)})
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1  # within the numbers, so that the file can still be read
    path.write_bytes(content)
    assert torch.load(path)["weights"].count_nonzero() == 1
    with pytest.warns(UserWarning, match="damaged"):
        assert Checkpoint(path, 0).load() is None


@pytest.mark.parametrize(
    ("part", "change"),
    [
        ("spent", None),  # of another version
        ("another", 1),
        ("network", lambda network: {**network, "another": torch.ones(2)}),
        ("network", lambda network: {name: weight[:1] for name, weight in network.items()}),
        ("losses", lambda losses: losses[:, 1:]),
        ("losses", lambda losses: losses.tolist()),
    ],
)
def test_a_checkpoint_of_another_training_is_set_aside(tmp_path, part, change):
    with pytest.raises(KilledError):
        run(DyingCheckpoint(tmp_path / "a.pt", 3))
    checkpoint = Checkpoint(tmp_path / "a.pt", 1000)
    state = checkpoint.load()
    old = state.pop(part, None)
    if change:
        state[part] = change(old) if callable(change) else change
    checkpoint.save(state)
    reason = "another network, other data or another version; it is set aside"
    with pytest.warns(UserWarning, match=reason):
        _, history = run(checkpoint)
    assert torch.equal(history.batch_losses, run()[1].batch_losses)
    assert history.earlier == {}
    assert (tmp_path / "a.pt.damaged").exists()


@pytest.fixture
def interruptible():
    """Ctrl-C works here even where whoever started the tests ignores it, as nohup or "&" do."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def interrupted_save(checkpoint, state, seconds):
    threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGINT)).start()
    checkpoint.save(state)
    time.sleep(10)  # if the file is written before the interruption


def test_ctrl_c_while_a_checkpoint_is_written_stops_the_training(tmp_path, interruptible):
    checkpoint = Checkpoint(tmp_path / "a.pt", 0)
    state = {f"w{number}": torch.zeros(250_000) for number in range(50)}
    begin = time.monotonic()
    checkpoint.save(state)
    duration = time.monotonic() - begin
    for part in range(8):
        with pytest.raises(KeyboardInterrupt):
            interrupted_save(checkpoint, state, duration * part / 10)
        assert list(tmp_path.iterdir()) == [checkpoint.path]
    assert checkpoint.load().keys() == state.keys()


def test_a_full_disk_does_not_stop_the_training(tmp_path):
    with tmpfs(tmp_path / "mount", "size=16k") as place:
        with pytest.warns(UserWarning, match=r"is the disk full\?\); training goes on without"):
            _, history = run(Checkpoint(place / "a.pt", 0))
        assert not list(place.iterdir())
    assert torch.equal(history.batch_losses, run()[1].batch_losses)


@pytest.mark.parametrize(
    ("files", "planned", "expected"),
    [
        ([], 1, [10]),
        (["seeds-0-10.pt"], 1, [10]),
        (["seeds-0-4.pt", "seeds-4-7.pt"], 1, [4, 3, 3]),
        (["seeds-0-5.pt", "seeds-0-2.pt"], 1, [5, 5]),  # the larger of two earlier ones
        (["seeds-0-10.pt", "seeds-0-5.pt"], 2, [5, 5]),
        (["seeds-0-10.pt.damaged", "seeds-5-10.pt"], 1, [10]),
    ],
)
def test_groups_of_an_interrupted_training_stay(tmp_path, files, planned, expected):
    for name in files:
        (tmp_path / name).touch()
    groups = begun_groups(fitting(10, 1, None, 10 // planned), tmp_path)
    assert [len(group) for group in groups] == expected
    assert [seed for group in groups for seed in group] == list(range(10))


def test_groups_that_no_longer_fit_are_named(tmp_path):
    (tmp_path / "seeds-0-10.pt").touch()
    with pytest.warns(UserWarning, match="of 10 seeds at once, and no more fit now than 5"):
        groups = begun_groups(fitting(10, 1, None, 5), tmp_path)
    assert groups == [range(5), range(5, 10)]
