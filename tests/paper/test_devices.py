"""Training on another device than the CPU: a real GPU where there is one, else a make-believe.

The make-believe device has no memory and computes nothing, but it refuses, as a GPU does, to mix
its tensors with those of the CPU.
"""

import contextlib
import itertools
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from convexinit.dropout import seed_dropout_
from convexinit.init_network import init_icnn_
from convexinit.networks import CNN, MLP
from convexinit.stacking import stack_networks
from convexinit_paper.training.loop import Split, train
from convexinit_paper.training.objectives import (
    CLASSIFICATION,
    Objective,
    masked_binary_cross_entropy,
)
from convexinit_paper.training.randomness import seeded_generator
from convexinit_paper.training.settings import PRECISIONS, TrainerSettings

SEEDS, FEATURES, CLASSES, SAMPLES = range(3), 36, 5, 20
TOXICITY = Objective(masked_binary_cross_entropy, lambda logits, targets: {})
NETWORKS = {
    "icnn_init": lambda: init_icnn_(MLP([FEATURES, 8, 8, CLASSES])),
    "icnn_skip": lambda: MLP([FEATURES, 8, 8, CLASSES], skip=True),
    "nonconvex": lambda: MLP([FEATURES, 8, 8, CLASSES], convex=False),
    "exp, dropout": lambda: MLP(
        [FEATURES, 8, CLASSES], positivity="exp", input_dropout=0.5, hidden_dropout=0.5
    ),
    "convolutional": lambda: init_icnn_(CNN((1, 6, 6), [4, 4], CLASSES)),
}
TARGETS = {
    "classes": (CLASSIFICATION, lambda: torch.randint(CLASSES, (SAMPLES,))),
    "tasks": (TOXICITY, lambda: torch.rand(SAMPLES, CLASSES).round()),
}


def stack_of(name):
    """A small stack of networks, with generators for its dropout."""
    torch.manual_seed(0)
    stack = stack_networks([NETWORKS[name]() for _ in SEEDS])
    return seed_dropout_(stack, [seeded_generator(seed, "dropout") for seed in SEEDS])


def trained(stack, targets, precision, device):
    """History of two epochs of a stack."""
    objective, draw = TARGETS[targets]
    rows = torch.arange(SAMPLES).expand(len(SEEDS), -1)
    data = Split(torch.rand(SAMPLES, FEATURES), draw(), rows)
    settings = TrainerSettings(2, 8, 1e-3, 0.0, "equal", 0, precision, "cpu")
    generators = [seeded_generator(seed, "batches") for seed in SEEDS]
    # The settings would refuse a device that this machine does not have.
    with mock.patch.object(TrainerSettings, "torch_device", return_value=torch.device(device)):
        return train(stack, data, {"test": data}, generators, settings, objective)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("targets", TARGETS)
def test_a_gpu_agrees_with_the_cpu(name, targets):
    here, there = (
        trained(stack_of(name), targets, "float32", device) for device in ("cpu", "cuda")
    )
    torch.testing.assert_close(there.batch_losses, here.batch_losses, rtol=1e-4, atol=1e-5)
    for one, other in zip(there.measurements, here.measurements, strict=True):
        assert one.values == pytest.approx(other.values, rel=1e-4, abs=1e-5)


@pytest.mark.slow
def test_nothing_is_left_on_the_cpu():
    """In a process of its own, as a device cannot be taken back."""
    code = "import test_devices as tests; tests.on_a_make_believe_device()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def on_a_make_believe_device():
    """Train every network on a device that is none."""
    from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

    _setup_privateuseone_for_python_backend("believe")
    torch.believe.get_amp_supported_dtype = lambda: [torch.bfloat16]
    library = torch.library.Library("_", "IMPL", "AutocastPrivateUse1")
    library.fallback(torch.library.fallthrough_kernel)
    for name, targets, precision in itertools.product(NETWORKS, TARGETS, PRECISIONS):
        print(name, targets, precision)
        stack = stack_of(name)
        with FakeTensorMode() as mode, without_numbers():
            for module in stack.modules():
                for key, parameter in list(module.named_parameters(recurse=False)):
                    there = mode.from_tensor(parameter).detach().to("believe")
                    setattr(module, key, torch.nn.Parameter(there))
            # Module.to would exchange parameters in place, which make-believe tensors refuse.
            stack.to = lambda device, stack=stack: stack
            history = trained(stack, targets, precision, "believe")
        assert history.batch_losses.shape == (len(SEEDS), 6)
        assert history.batch_losses.device.type == "cpu"


@contextlib.contextmanager
def without_numbers():
    """Let the make-believe tensors answer where numbers are read."""
    answers = {
        "tolist": lambda tensor: [0.0] * len(tensor),
        "item": lambda tensor: 0.0,
        "__float__": lambda tensor: 0.0,
        "__bool__": lambda tensor: False,
    }
    with contextlib.ExitStack() as patches:
        for method, answer in answers.items():
            patches.enter_context(mock.patch.object(Tensor, method, answer))
        yield
