"""Networks of many depths: how signals and gradients start, layer by layer, and how they train."""

from __future__ import annotations

from dataclasses import replace

import pandas as pd
import torch

from convexinit.networks import CNN, MLP
from convexinit_paper.data.datasets import load_dataset
from convexinit_paper.experiments import training_dynamics
from convexinit_paper.experiments.training_dynamics import Settings
from convexinit_paper.request.options import require
from convexinit_paper.request.request import Request
from convexinit_paper.store.runs import COLUMNS, Outcome
from convexinit_paper.training.machine import prepare_process
from convexinit_paper.training.models import build_stack
from convexinit_paper.training.objectives import CLASSIFICATION

SAMPLES = 512  # of the training set, that untrained networks are looked at with

__all__ = ["Settings", "run"]


def run(settings: Settings, request: Request) -> Outcome:
    """Measure the untrained networks, then train them as :mod:`training_dynamics` does.

    In the table the measurements have the split "initial", and ``step`` counts the layers from 1.
    """
    require(not settings.model.difference, "model.difference", "false in this experiment", True)
    prepare_process()
    initial = initial_signals(settings, request)
    outcome = training_dynamics.run(settings, request)
    return replace(outcome, metrics=pd.concat([initial, outcome.metrics], ignore_index=True))


def initial_signals(settings: Settings, request: Request) -> pd.DataFrame:
    """Signals and gradients of every layer of the untrained networks, on training data.

    Returns:
        Tidy table (columns of ``runs.COLUMNS``) of ``mean`` (of the pre-activations of a layer),
        ``variance`` (over the data, mean over the units) and ``gradient_norm`` (of the loss, by
        the weights of the layer before their positivity map).
    """
    data = load_dataset(settings.dataset, request.data_dir, request.results_dir)
    inputs, labels = data.train_inputs[:SAMPLES], data.train_labels[:SAMPLES]
    widths = settings.model.layer_widths(inputs.shape[1], data.num_classes)
    rows: list[tuple[int, int, int, str, str, float]] = []
    for seed in request.seeds:
        network = build_stack(settings.model, widths, [seed], image_shape=data.image_shape)
        assert isinstance(network, (MLP, CNN))
        signals = [signal[0].flatten(1) for signal in network.pre_activations(inputs[None])]
        loss = CLASSIFICATION.loss(signals[-1][None], labels[None]).sum()
        weights = [layer.get_parameter("weight") for layer in network.layers]
        gradients = torch.autograd.grad(loss, weights)
        for number, (signal, gradient) in enumerate(zip(signals, gradients, strict=True), 1):
            measured = {
                "mean": signal.mean(),
                "variance": signal.var(0).mean(),
                "gradient_norm": gradient.norm(),
            }
            rows += [
                (seed, 0, number, "initial", name, value.item()) for name, value in measured.items()
            ]
    return pd.DataFrame(rows, columns=COLUMNS)
