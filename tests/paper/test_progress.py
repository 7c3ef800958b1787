"""What a training says of its progress where there is no terminal."""

import pytest
import torch

from convexinit_paper import progress
from convexinit_paper.progress import Throttle, TrainingProgress, with_progress


@pytest.fixture
def clock(monkeypatch):
    """Seconds that the test may set."""
    now = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_a_throttle_waits_from_one_time_to_the_next(clock):
    throttle = Throttle(60)
    answers = []
    for seconds in (0, 59, 1, 30, 31, 0):
        clock[0] += seconds
        answers.append(throttle.due())
    assert answers == [False, False, True, False, True, False]


def test_a_log_has_a_line_every_minute(clock, capsys):
    shown = TrainingProgress("MNIST, ICNN", epochs=10, steps_per_epoch=20, done=50)
    for _ in range(50):
        clock[0] += 2.5
        shown.step(torch.tensor([0.5, 0.1234567, 0.1], requires_grad=True))
    shown.close()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == [
        "MNIST, ICNN: epoch 4 of 10, step 74 of 200, loss 0.123, 6 min left",
        "MNIST, ICNN: epoch 5 of 10, step 98 of 200, loss 0.123, 5 min left",
    ]


def test_short_trainings_are_silent(clock, capsys):
    shown = TrainingProgress("MNIST, ICNN", epochs=1, steps_per_epoch=50, done=0)
    for _ in range(50):
        clock[0] += 1
        shown.step(torch.ones(2))
    shown.close()
    assert capsys.readouterr().err == ""


def test_a_log_has_a_count_every_minute(clock, capsys):
    for _ in with_progress(iter(range(6)), "walks", 6, "pairs"):
        clock[0] += 25
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == ["walks: 3 of 6 pairs"]
