"""How many networks fit into memory."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from convexinit.networks import MLP
from convexinit.stacking import stack_networks
from convexinit_paper.request.options import ConfigError
from convexinit_paper.training import memory
from convexinit_paper.training.loop import Split, train
from convexinit_paper.training.memory import (
    USABLE,
    available_bytes,
    fitting,
    group_bytes,
    require_memory,
    training_bytes,
)
from convexinit_paper.training.randomness import seeded_generator
from convexinit_paper.training.settings import TrainerSettings


@given(
    count=st.integers(1, 50),
    each=st.integers(1, 10**9),
    available=st.none() | st.integers(0, 10**11),
    most=st.none() | st.integers(1, 60),
)
def test_groups_hold_everyone_and_fit(count, each, available, most):
    groups = fitting(count, each, available, most)
    assert [network for group in groups for network in group] == list(range(count))
    sizes = [len(group) for group in groups]
    assert max(sizes) - min(sizes) <= 1
    assert most is None or max(sizes) <= most
    if available is not None:
        assert max(sizes) == 1 or max(sizes) * each <= USABLE * available
    # Fewer groups would not do.
    larger = -(-count // (len(groups) - 1)) if len(groups) > 1 else None
    if larger is not None:
        too_many = most is not None and larger > most
        assert too_many or (available is not None and larger * each > USABLE * available)


def train_stack(widths, batch, networks):
    """Train for two steps; returns the number of parameters of one network."""
    made = [MLP(widths) for _ in range(networks)]
    parameters = sum(parameter.numel() for parameter in made[0].parameters())
    stack = stack_networks(made)
    del made
    rows = torch.arange(256).expand(networks, -1)
    train(
        stack,
        Split(torch.randn(256, widths[0]), torch.zeros(256, dtype=torch.long), rows),
        {},
        [seeded_generator(seed, "batches") for seed in range(networks)],
        TrainerSettings(1, batch, 1e-3, 0.0, "equal", 0, "float32", "cpu"),
    )
    return parameters


def test_the_estimate_bounds_what_training_takes():
    """The rise of the peak of this process; tests before this one can only lower it."""
    resource = pytest.importorskip("resource")
    widths, batch, networks = [64, 2000, 2000, 10], 128, 3
    train_stack([64, 8, 10], batch, networks)  # modules that the first training loads
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    parameters = train_stack(widths, batch, networks)
    taken = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    estimate = networks * training_bytes(parameters, sum(widths), batch)
    assert taken < estimate / USABLE


def test_whatever_is_more_takes_more_memory():
    usual = {"parameters": 100, "units": 20, "batch_size": 8}
    for name, value in usual.items():
        assert training_bytes(**{**usual, name: value + 1}) > training_bytes(**usual)


def test_this_machine_has_memory():
    available = available_bytes(torch.device("cpu"))
    assert available is None or available > 2**20


def test_files_in_memory_do_not_count_as_used(tmp_path):
    (tmp_path / "memory.max").write_text("1000\n")
    (tmp_path / "memory.current").write_text("900\n")
    (tmp_path / "memory.stat").write_text(
        "anon 100\nfile 800\nactive_file 100\ninactive_file 700\n"
    )
    assert group_bytes(tmp_path) == 900
    (tmp_path / "memory.max").write_text("max\n")
    with pytest.raises(ValueError, match="max"):
        group_bytes(tmp_path)


def test_the_first_version_of_control_groups_is_read_too(tmp_path):
    memory = tmp_path / "memory"
    memory.mkdir()
    (memory / "memory.limit_in_bytes").write_text("1000\n")
    (memory / "memory.usage_in_bytes").write_text("900\n")
    (memory / "memory.stat").write_text(
        "inactive_file 0\ntotal_rss 100\ntotal_inactive_file 700\ntotal_active_file 100\n"
    )
    assert group_bytes(tmp_path) == 900
    (memory / "memory.limit_in_bytes").write_text(f"{2**63 - 4096}\n")  # none
    assert group_bytes(tmp_path) > 2**62


def test_what_does_not_fit_is_refused(monkeypatch):
    for free in (10**9, None):
        monkeypatch.setattr(memory, "available_bytes", lambda device, free=free: free)
        require_memory(10**9, "these", "fewer")
    monkeypatch.setattr(memory, "available_bytes", lambda device: 10**9)
    with pytest.raises(ConfigError, match=r"^these take at least 2\.0 GB .* 1\.0 GB .* use fewer$"):
        require_memory(2 * 10**9, "these", "fewer")


def test_a_training_that_does_not_fit_is_refused_before_it_begins(monkeypatch):
    # Two copies are there already: of 8 x 4 + 4 and 4 x 3 + 3 numbers.
    need = 3 * 4 * 2 * (8 * 4 + 4 + 4 * 3 + 3)
    monkeypatch.setattr(memory, "available_bytes", lambda device: need)
    train_stack([8, 4, 3], 64, 2)
    monkeypatch.setattr(memory, "available_bytes", lambda device: need - 1)
    with pytest.raises(ConfigError, match=r"102 parameters .* fewer seeds at once or a smaller"):
        train_stack([8, 4, 3], 64, 2)
    monkeypatch.setattr(memory, "available_bytes", lambda device: 4 * 2 * 4 - 1)
    with pytest.raises(ConfigError, match=r"the losses of 4 steps .* fewer trainer\.epochs"):
        train_stack([8, 4, 3], 64, 2)
