"""Figures 1 and 6: how signals propagate through untrained networks, measured and predicted.

The theory speaks of expectations over random parameters, and of features that are exchangeable.
One wide network stands in for that expectation if its statistics are pooled over the units of a
layer as well as over the inputs; this is what is compared with the prediction here. The usual
feature correlation matrix, which removes each unit's own mean, is recorded beside it ("pearson").
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pandas as pd
import torch

from convexinit.moments import activation_moments
from convexinit.networks import MLP
from convexinit.positivity import resolve_positivity
from convexinit.theory import LayerMoments, SignalMoments, propagate, solve_init
from convexinit_paper.request.options import Range, Section, at_least, option, require
from convexinit_paper.request.request import Request
from convexinit_paper.store.runs import COLUMNS, Outcome, seed_summary
from convexinit_paper.training.machine import device_name
from convexinit_paper.training.models import DATA_DRIVEN, ModelSettings, build_network
from convexinit_paper.training.randomness import seeded_generator

# Largest correlation matrix that is kept, in units: the figure could not show more.
KEPT_UNITS = 100
# Standard deviations on either side of the mean that a kept histogram covers.
HISTOGRAM_REACH = 5.0
# Variance that a skip connection adds. Weights from U(-b, b) with b = fan_in^(-1/2), the default
# of torch.nn.Linear, have variance 1 / (3 fan_in); the inputs have second moment 1.
SKIP_VARIANCE = 1.0 / 3.0


@dataclass(frozen=True)
class SignalSettings(Section):
    """What is propagated, and through which layers; defaults in ``conf/experiment``."""

    widths: list[int] = option(
        "units of all layers, input and output included",
        Range(
            "at least two widths of at least 2",
            lambda widths: len(widths) >= 2 and min(widths) >= 2,
        ),
    )
    samples: int = option("number of standard normal inputs per network", at_least(2))
    bins: int = option("of the histograms", at_least(2))


@dataclass(frozen=True)
class Settings:
    """Sections of the configuration."""

    model: ModelSettings
    signal: SignalSettings

    def __post_init__(self) -> None:
        self.model.require_fully_connected()
        require(not self.model.difference, "model.difference", "false in this experiment", True)


def run(settings: Settings, request: Request) -> Outcome:
    """Measure and predict the pre-activations of one untrained network per seed.

    In the table, ``step`` counts the layers from 1, ``split`` is "measured" or "predicted", and
    ``epoch`` is always 0. The prediction does not depend on the seed and is repeated for each.
    Histograms and correlation matrices are kept for the first seed.
    """
    seeds = request.seeds
    predicted = predict(settings.model, settings.signal.widths)
    rows: list[tuple[int, int, int, str, str, float]] = []
    seed_summaries: dict[int, dict[str, Any]] = {}
    arrays: dict[str, np.ndarray] = {}
    for seed in seeds:
        signals = propagate_samples(settings.model, settings.signal, seed)
        if seed == seeds[0]:
            arrays = pictures(signals, settings.signal.bins)
        finite = all(bool(np.isfinite(signal).all()) for signal in signals)
        seed_summaries[seed] = seed_summary(diverged=not finite)
        for layer, signal in enumerate(signals, start=1):
            rows += [
                (seed, 0, layer, "measured", metric, value)
                for metric, value in measure(signal).items()
            ]
        for layer, moments in enumerate(predicted, start=1):
            rows += [
                (seed, 0, layer, "predicted", metric, getattr(moments, metric))
                for metric in ("mean", "variance", "correlation")
            ]
    return Outcome(
        metrics=pd.DataFrame(rows, columns=COLUMNS),
        seeds=seed_summaries,
        device=device_name(torch.device("cpu")),
        arrays=arrays,
    )


@torch.inference_mode()
def propagate_samples(
    model: ModelSettings, settings: SignalSettings, seed: int
) -> list[np.ndarray]:
    """Pre-activations ``[samples, units]`` of every layer of one seed's network, in float64."""
    initial_batch, inputs = (
        torch.randn(settings.samples, settings.widths[0], generator=seeded_generator(seed, stream))
        for stream in ("initial batch", "inputs")
    )
    network = build_network(
        model, settings.widths, seeded_generator(seed, "weights"), inputs=initial_batch
    )
    signals = cast("MLP", network).pre_activations(inputs)
    return [signal.double().numpy() for signal in signals]


def measure(signal: np.ndarray) -> dict[str, float]:
    """Statistics of one layer, pooled over inputs and units.

    Args:
        signal: pre-activations ``[samples, units]``.

    Returns:
        ``mean`` and ``variance`` of all entries; ``correlation``, the mean over pairs of units
        i != j of E[s_i s_j] - mean^2, over the variance; and ``pearson``, the mean off-diagonal
        entry of the feature correlation matrix. NaN where a variance is zero.
    """
    units = signal.shape[1]
    mean = signal.mean()
    # Centred first, because mean^2 dwarfs the variance in deep layers of a badly scaled network.
    centred = signal - mean
    squares = (centred**2).sum(1)
    products_of_pairs = (centred.sum(1) ** 2 - squares) / (units * (units - 1))
    variance = squares.mean() / units
    matrix = correlation_matrix(signal)
    with np.errstate(invalid="ignore", divide="ignore"):
        correlation = products_of_pairs.mean() / variance
    return {
        "mean": float(mean),
        "variance": float(variance),
        "correlation": float(correlation),
        "pearson": float((matrix.sum() - units) / (units * (units - 1))),
    }


def correlation_matrix(signal: np.ndarray) -> np.ndarray:
    """Correlations ``[units, units]`` over the inputs; NaN for units that never vary."""
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.corrcoef(signal, rowvar=False)


def pictures(signals: list[np.ndarray], bins: int) -> dict[str, np.ndarray]:
    """What the figure shows of every layer: a histogram and a correlation matrix.

    Args:
        signals: pre-activations ``[samples, units]`` of every layer.
        bins: number of bins, which cover the mean plus and minus 5 standard deviations.

    Returns:
        For layers from 1, ``histogram_1`` (counts ``[bins]``), ``edges_1`` (``[bins + 1]``) and
        ``correlations_1`` (float16, at most the first 100 units). A layer with values that are
        not finite has none.
    """
    arrays: dict[str, np.ndarray] = {}
    for layer, signal in enumerate(signals, start=1):
        if not np.isfinite(signal).all():
            continue
        reach = HISTOGRAM_REACH * signal.std()
        limits = (signal.mean() - reach, signal.mean() + reach)
        counts, edges = np.histogram(signal, bins, limits)
        matrix = correlation_matrix(signal[:, :KEPT_UNITS])
        arrays[f"histogram_{layer}"] = counts
        arrays[f"edges_{layer}"] = edges
        arrays[f"correlations_{layer}"] = matrix.astype(np.float16)
    return arrays


def predict(model: ModelSettings, widths: list[int]) -> list[SignalMoments]:
    """Moments of the pre-activations of every layer by the theory.

    The start is exact: the first layer is LeCun's (with variance ``model.variance`` where the
    principled initialisation scales it), so that standard normal inputs give mean 0 and
    covariance 0. From there on, :func:`convexinit.theory.propagate` assumes pre-activations to be
    Gaussian.

    Args:
        model: the model variant.
        widths: widths of all layers, input and output included.

    Returns:
        One entry per layer. The list ends early where the signal vanishes or explodes beyond what
        the activation can take, and is empty where the theory does not apply: for biases that
        depend on the weights that were drawn (``bias_rule: centred``), for weights that are
        not drawn independently (orthogonal), and for initialisations that look at inputs.
    """
    if model.init in (*DATA_DRIVEN, "orthogonal"):
        return []
    if model.init != "he" and model.bias_rule != "sampled":
        return []
    first_variance = model.variance if model.init == "principled" else 1.0
    signals = [SignalMoments(mean=0.0, variance=first_variance, covariance=0.0)]
    for fan_in in widths[1:-1]:
        try:
            layer = layer_moments(model, fan_in)
            signal = propagate(signals[-1], layer, fan_in, model.activation)
        except ValueError:
            # The signal exploded beyond what the activation can take, or vanished. (Options out of
            # range are reported when the network is built.)
            break
        if model.skip:
            signal = SignalMoments(signal.mean, signal.variance + SKIP_VARIANCE, signal.covariance)
        signals.append(signal)
    return signals


def layer_moments(model: ModelSettings, fan_in: int) -> LayerMoments:
    """Moments of the weights and biases of a layer after the first, as the variant draws them.

    Args:
        model: the model variant.
        fan_in: number of inputs of the layer.
    """
    he_variance = 2.0 / fan_in
    if not model.convex:
        return LayerMoments(0.0, he_variance, 0.0, 0.0)
    he = moments_of_mapped_normal(model.positivity, he_variance)
    if model.init == "he":
        return LayerMoments(*he, 0.0, 0.0)
    principled = solve_init(fan_in, model.activation, model.rho, model.variance, model.bias_noise)
    if model.init == "bias_only":
        return LayerMoments(*he, principled.bias_mean, principled.bias_var)
    return principled


def moments_of_mapped_normal(positivity: str, variance: float) -> tuple[float, float]:
    """Mean and variance of weights whose raw values are drawn from N(0, variance).

    For projection and clipping, mean ``sqrt(variance / (2 pi))`` and second moment
    ``variance / 2``: a positivity map acts on Gaussians just as an activation does.

    Args:
        positivity: a name in :data:`convexinit.positivity.POSITIVITY`.
        variance: of the raw values.
    """
    resolved = resolve_positivity(positivity)
    # The projection sets negative raw values to zero before the first forward pass.
    mapping: Any = torch.relu if resolved.projects else resolved.forward
    moments = activation_moments(mapping, variance=variance)
    return moments.mean, moments.variance
