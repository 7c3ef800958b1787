"""Signal propagation against closed forms and simulated layers."""

import functools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from convexinit.activations import ACTIVATIONS, resolve_activation
from convexinit.moments import activation_moments
from convexinit.theory import (
    LayerMoments,
    SignalMoments,
    admissible_rho,
    correlation_map,
    fixed_point_stability,
    propagate,
    solve_init,
)
from support.moments import close, plain_relu, relu_cross, relu_moments


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_names_callables_and_modules_agree(name):
    modules = {
        "relu": nn.ReLU(inplace=True),
        "leaky_relu": nn.LeakyReLU(inplace=True),
        "softplus": nn.Softplus(),
        "elu": nn.ELU(inplace=True),
        "identity": nn.Identity(),
    }
    by_name = solve_init(50, name, mean=0.1)  # the mean switches off closed forms
    assert solve_init(50, resolve_activation(name), mean=0.1) == by_name
    if name in modules:
        assert solve_init(50, modules[name], mean=0.1) == by_name
        assert solve_init(50, modules[name]) == solve_init(50, name)


def test_recognised_functions_use_the_closed_form():
    for activation in (F.relu, torch.relu, nn.ReLU(), nn.LeakyReLU(0.0)):
        assert solve_init(50, activation) == solve_init(50)


def test_modules_with_parameters_and_other_defaults():
    expected = solve_init(50, nn.LeakyReLU(0.25))
    module = nn.PReLU(init=0.25)
    close(solve_init(50, module).weight_mean, expected.weight_mean, rel=1e-12)
    assert module.weight.dtype == torch.float32
    partial = functools.partial(F.leaky_relu, negative_slope=0.25)
    close(solve_init(50, partial).weight_mean, expected.weight_mean, rel=1e-12)
    single = solve_init(50, lambda s: F.leaky_relu(s.float(), 0.25))
    close(single.weight_mean, expected.weight_mean, rel=1e-6)
    softplus = solve_init(50, "softplus")
    with torch.device("meta"):
        assert solve_init(50, "softplus") == softplus


# --- One layer: against simulation ----------------------------------------------------------------


def simulate(layer, fan_in, activation, signal, *, weights, draws=40_000, rows=8, seed=0):
    """Moments of pre-activations over random weights, biases and inputs, with standard errors.

    Every draw is a layer of its own with `rows` features and one input, so that draws are
    independent. Raw moments (E[s], E[s^2], E[s_i s_j]) are plain averages over them.
    """
    rng = np.random.default_rng(seed)
    sums = np.zeros((3, draws))
    chunk = 2000
    for start in range(0, draws, chunk):
        share = np.sqrt(signal.correlation) * rng.standard_normal((chunk, 1))
        own = np.sqrt(1 - signal.correlation) * rng.standard_normal((chunk, fan_in))
        before = signal.mean + np.sqrt(signal.variance) * (share + own)
        features = activation(torch.from_numpy(before)).numpy()
        shape = (chunk, rows, fan_in)
        if weights == "normal":
            noise = rng.standard_normal(shape)
            matrix = layer.weight_mean + np.sqrt(layer.weight_var) * noise
        else:  # log-normal, parameters of Section 3.3
            moment = np.log(layer.weight_mean**2 + layer.weight_var)
            location = np.log(layer.weight_mean**2) - moment / 2
            scale = np.sqrt(moment - np.log(layer.weight_mean**2))
            matrix = np.exp(location + scale * rng.standard_normal(shape))
            assert (matrix >= 0).all()
        bias = layer.bias_mean + np.sqrt(layer.bias_var) * rng.standard_normal((chunk, rows))
        after = np.einsum("brn,bn->br", matrix, features) + bias
        total, square = after.sum(1), (after**2).sum(1)
        pairs = (total**2 - square) / (rows * (rows - 1))
        sums[:, start : start + chunk] = total / rows, square / rows, pairs
    return sums.mean(1), sums.std(1) / np.sqrt(draws)


def assert_simulation_agrees(signal, layer, fan_in, activation, weights, **options):
    after = propagate(signal, layer, fan_in, activation)
    expected = np.array(
        [after.mean, after.variance + after.mean**2, after.covariance + after.mean**2]
    )
    measured, errors = simulate(
        layer, fan_in, resolve_activation(activation), signal, weights=weights, **options
    )
    assert (np.abs(measured - expected) < 4.5 * errors + 1e-12).all(), (measured, expected, errors)
    assert errors[1] < 0.03 * expected[1]  # or else the comparison says little


@pytest.mark.parametrize(
    ("signal", "layer", "activation", "weights"),
    [
        # Eq. 2 and 3: centred weights, uncorrelated features out
        (SignalMoments(0, 1, 0.5), LayerMoments(0, 2 / 24, 0, 0), "relu", "normal"),
        # non-negative weights with an arbitrary bias, and a signal that is not centred
        (SignalMoments(0, 1, 0.5), LayerMoments(0.06, 0.02, -0.3, 0), "relu", "lognormal"),
        (SignalMoments(0.4, 2, 0.6), LayerMoments(0.06, 0.02, 0.1, 0.5), "relu", "lognormal"),
        (SignalMoments(-0.3, 0.5, 0.4), LayerMoments(0.05, 0.03, 0, 0.2), "softplus", "lognormal"),
        (SignalMoments(0, 1, 0.8), LayerMoments(-0.1, 0.03, 0.2, 0.1), "elu", "normal"),
    ],
)
def test_propagate_matches_simulated_layers(signal, layer, activation, weights):
    assert_simulation_agrees(signal, layer, 24, activation, weights)


@pytest.mark.parametrize(
    ("activation", "options"),
    [
        ("relu", {}),
        ("relu", {"rho": 0.2, "variance": 4.0, "bias_noise": 0.5}),
        ("softplus", {"rho": 0.6, "bias_noise": 0.3, "mean": -0.5}),
    ],
)
def test_solved_layers_keep_a_simulated_signal(activation, options):
    settings_ = {"rho": 0.5, "variance": 1.0, "mean": 0.0} | options
    rho, variance, mean = (settings_[key] for key in ("rho", "variance", "mean"))
    layer = solve_init(32, activation, **options)
    signal = SignalMoments(mean, variance, rho * variance)
    measured, errors = simulate(
        layer, 32, resolve_activation(activation), signal, weights="lognormal", seed=1
    )
    expected = np.array([mean, variance + mean**2, rho * variance + mean**2])
    assert (np.abs(measured - expected) < 4.5 * errors).all(), (measured, expected, errors)
    assert (errors < 0.025 * variance).all()


@pytest.mark.parametrize(
    ("activation", "signal"),
    [
        ("identity", SignalMoments(0.0, 1.0, 0.0)),
        (torch.square, SignalMoments(0.0, 0.5, 0.0)),
        (torch.square, SignalMoments(0.7, 2.0, 0.6)),
        ("softplus", SignalMoments(-1.0, 3.0, 0.3)),
    ],
)
@pytest.mark.parametrize("skip", [0.0, 0.4])
def test_other_inputs_and_a_skip_connection_lead_to_the_target(activation, signal, skip):
    rho, variance, mean = 0.4, 1.5, 0.2
    layer = solve_init(32, activation, rho, variance, 0.3, mean, inputs=signal, skip=skip)
    after = propagate(signal, layer, 32, activation)
    close(after.variance + skip * variance, variance, 1e-9)
    close(after.covariance, rho * variance, 1e-9)
    assert after.mean == pytest.approx(mean, abs=1e-9)
    close(layer.bias_var, 0.3 * (1 - rho - skip) * variance, 1e-12)
    assert_simulation_agrees(signal, layer, 32, activation, "lognormal")


def test_layers_after_a_quadratic_first_layer_and_beside_a_skip_connection():
    """Of real networks: correlated squares share the length of the input, 1 / sqrt(inputs)."""
    inputs, features, rows, draws, skip = 50, 100, 8, 4000, 0.25
    first = SignalMoments(0.0, 1.0, inputs**-0.5)
    layer = solve_init(features, torch.square, inputs=first, skip=skip)
    unaware = solve_init(features, torch.square)
    source = torch.Generator().manual_seed(0)
    x = torch.randn(draws, inputs, 1, generator=source)
    hidden = torch.randn(draws, features, inputs, generator=source) @ x / inputs**0.5
    skipped = torch.randn(draws, rows, inputs, generator=source) @ x * (skip / inputs) ** 0.5

    def pre_activations(moments: LayerMoments) -> Tensor:
        ratio = math.log1p(moments.weight_var / moments.weight_mean**2)
        weight = torch.empty(draws, rows, features).log_normal_(
            math.log(moments.weight_mean) - ratio / 2, ratio**0.5, generator=source
        )
        return (weight @ hidden.square() + moments.bias_mean + skipped)[..., 0]

    def moments_of(signal: Tensor) -> tuple[float, float, float]:
        mean = float(signal.mean())
        centred = signal - mean
        pairs = centred.sum(1).square() - centred.square().sum(1)
        return mean, float(centred.square().mean()), float(pairs.mean()) / (rows * (rows - 1))

    mean, variance, covariance = moments_of(pre_activations(layer))
    assert mean == pytest.approx(0.0, abs=0.05)
    assert variance == pytest.approx(1.0, abs=0.1)
    assert covariance == pytest.approx(0.5, abs=0.06)
    assert abs(moments_of(pre_activations(unaware))[2] - 0.5) > 0.3


@pytest.mark.parametrize("activation", ["relu", "softplus", torch.square])
def test_inputs_as_the_target_and_no_skip_connection_change_nothing(activation):
    plain = solve_init(70, activation, 0.3, 1.7, 0.2, 0.1)
    said = solve_init(70, activation, 0.3, 1.7, 0.2, 0.1, SignalMoments(0.1, 1.7, 0.3 * 1.7), 0.0)
    for name in ("weight_mean", "weight_var", "bias_mean", "bias_var"):
        close(getattr(said, name), getattr(plain, name), 1e-12)


def test_impossible_inputs_and_skip_connections_are_refused():
    for skip in (-0.1, 0.5, 1.0, math.nan):
        with pytest.raises(ValueError, match=r"skip must be a number in \[0, 0\.5\)"):
            solve_init(10, skip=skip)
    with pytest.raises(ValueError, match="variance of the inputs"):
        solve_init(10, inputs=SignalMoments(0.0, 0.0, 0.0))
    with pytest.raises(ValueError, match="correlation"):
        solve_init(10, inputs=SignalMoments(0.0, 1.0, 1.5))


# --- Fixed points ---------------------------------------------------------------------------------


def assert_fixed_point(fan_in, activation, rho, variance, bias_noise, mean=0.0, rel=1e-9):
    layer = solve_init(fan_in, activation, rho, variance, bias_noise, mean)
    after = propagate(SignalMoments(mean, variance, rho * variance), layer, fan_in, activation)
    scale = abs(layer.bias_mean) + math.sqrt(variance)
    assert after.mean == pytest.approx(mean, rel=0, abs=rel * scale)
    close(after.variance, variance, rel)
    close(after.covariance, rho * variance, rel)
    assert layer.weight_mean > 0
    assert layer.weight_var > 0
    close(layer.bias_var, bias_noise * (1 - rho) * variance, 1e-12)


@settings(max_examples=80, deadline=None)
@given(
    fan_in=st.integers(2, 10_000),
    rho=st.floats(0.01, 0.99),
    log_variance=st.floats(-3, 3),
    bias_noise=st.just(0.0) | st.floats(1e-6, 0.99),
    mean=st.sampled_from([0.0, 0.5, -0.5]),
    activation=st.one_of(
        st.floats(0, 1).map(nn.LeakyReLU),
        st.sampled_from(["relu", "softplus", "elu", "squared_relu", "identity", plain_relu]),
    ),
)
def test_propagate_reproduces_the_fixed_point(
    fan_in, rho, log_variance, bias_noise, mean, activation
):
    variance = 10**log_variance
    assert_fixed_point(fan_in, activation, rho, variance, bias_noise, mean * math.sqrt(variance))


@pytest.mark.parametrize("fan_in", [1, 10**7])
@pytest.mark.parametrize("rho", [1e-6, 1 - 1e-6])
@pytest.mark.parametrize("variance", [1e-6, 1e6])
@pytest.mark.parametrize("activation", ["relu", "identity", "softplus", "elu", nn.LeakyReLU(0.5)])
def test_extreme_arguments(fan_in, rho, variance, activation):
    assert_fixed_point(fan_in, activation, rho, variance, 0.5, rel=1e-7)
    stability = fixed_point_stability(fan_in, activation, rho, variance)
    assert math.isfinite(stability.spectral_radius)


@pytest.mark.parametrize("n", [1, 2, 100, 784, 10_000])
def test_relu_at_one_half_is_the_box_after_eq_12_with_its_sign(n):
    denominator = 6 * (math.pi - 1) + (n - 1) * (3 * math.sqrt(3) + 2 * math.pi - 6)
    layer = solve_init(n)
    close(layer.weight_mean, math.sqrt(6 * math.pi / (n * denominator)), 1e-13)
    close(layer.weight_var, 1 / n, 1e-13)
    close(layer.bias_mean, -math.sqrt(3 * n / denominator), 1e-13)
    assert layer.bias_var == 0


@pytest.mark.parametrize("n", [1, 3, 500])
@pytest.mark.parametrize("rho", [0.1, 0.5, 0.9])
def test_relu_is_eq_11_and_12(n, rho):
    bracket = math.sqrt(1 - rho**2) + rho * math.acos(-rho)
    mean_squared = 2 * math.pi / n * rho / (math.pi - n + (n - 1) * bracket)
    for activation in ("relu", plain_relu):
        layer = solve_init(n, activation, rho)
        close(layer.weight_var, 2 / n * (1 - rho))
        close(layer.weight_mean**2, mean_squared)
        close(layer.bias_mean, -n * layer.weight_mean / math.sqrt(2 * math.pi))


@pytest.mark.parametrize("activation", ["relu", "leaky_relu", plain_relu])
def test_only_the_bias_depends_on_the_variance_for_homogeneous_activations(activation):
    unit, scaled = solve_init(64, activation), solve_init(64, activation, variance=9.0)
    close(scaled.weight_mean, unit.weight_mean)
    close(scaled.weight_var, unit.weight_var)
    close(scaled.bias_mean, 3 * unit.bias_mean)


@pytest.mark.parametrize("activation", ["softplus", "elu"])
def test_weights_depend_on_the_variance_for_other_activations(activation):
    unit, scaled = solve_init(64, activation), solve_init(64, activation, variance=9.0)
    assert abs(scaled.weight_mean / unit.weight_mean - 1) > 0.02
    assert abs(scaled.weight_var / unit.weight_var - 1) > 0.02
    assert abs(scaled.bias_mean / (3 * unit.bias_mean) - 1) > 0.02


def test_random_bias_takes_its_share_from_the_weights():
    plain, noisy = solve_init(64, rho=0.4, variance=2.0), solve_init(64, "relu", 0.4, 2.0, 0.25)
    close(noisy.bias_var, 0.25 * 0.6 * 2.0)
    close(noisy.weight_var, 0.75 * plain.weight_var)
    assert (noisy.weight_mean, noisy.bias_mean) == (plain.weight_mean, plain.bias_mean)


def test_target_mean_moves_the_moments_and_the_bias():
    layer = solve_init(100, "relu", rho=0.3, variance=2.0, mean=0.8)
    first, var, cov = relu_moments(0.8, 2.0, 0.3)
    close(layer.weight_mean, math.sqrt(0.3 * 2 / (100 * (var + 99 * cov))), 1e-9)
    close(layer.weight_var, 0.7 * 2 / (100 * (var + first**2)), 1e-9)
    close(layer.bias_mean, 0.8 - 100 * layer.weight_mean * first, 1e-9)


# --- Stability ------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [0.01, 0.4, 0.8, 0.99])
@pytest.mark.parametrize(("activation", "rho"), [("relu", 0.5), ("softplus", 0.7), ("elu", 0.3)])
def test_correlation_returns_to_its_fixed_point(activation, rho, start):
    n = 10_000
    layer = solve_init(n, activation, rho)
    slope = fixed_point_stability(n, activation, rho).correlation_slope
    assert 0 < slope < 1
    correlation, gaps = start, []
    for _ in range(60):
        gaps.append(correlation - rho)
        correlation = correlation_map(correlation, layer, n, activation)
    small = next(i for i, gap in enumerate(gaps) if abs(gap) < 1e-4)
    close(gaps[small + 1] / gaps[small], slope, 1e-3)
    assert abs(gaps[-1]) < 1e-5


@pytest.mark.parametrize("activation", ["relu", nn.LeakyReLU(0.3), "softplus", "elu", "exp"])
@pytest.mark.parametrize("rho", [0.05, 0.5, 0.95])
@pytest.mark.parametrize(("n", "variance", "mean"), [(2, 1.0, 0.0), (1000, 3.0, -0.4)])
def test_stability_is_the_jacobian_of_propagate(activation, rho, n, variance, mean):
    layer = solve_init(n, activation, rho, variance, 0.2, mean)
    point = np.array([mean, variance, rho * variance])

    def after(state):
        signal = propagate(SignalMoments(*map(float, state)), layer, n, activation)
        return np.array([signal.mean, signal.variance, signal.covariance])

    np.testing.assert_allclose(after(point), point, rtol=1e-9, atol=1e-9)
    steps = 1e-4 * np.diag([math.sqrt(variance), variance, variance])
    columns = [(after(point + step) - after(point - step)) / (2 * step.sum()) for step in steps]
    jacobian = np.stack(columns, 1)
    stability = fixed_point_stability(n, activation, rho, variance, 0.2, mean)
    close(stability.spectral_radius, np.abs(np.linalg.eigvals(jacobian)).max(), 1e-5)
    close(stability.mean_slope, jacobian[0, 0], 1e-5)
    close(stability.variance_slope, jacobian[1] @ [0, 1, rho], 1e-5)
    ends = [correlation_map(rho + h, layer, n, activation, variance, mean) for h in (-1e-5, 1e-5)]
    close(stability.correlation_slope, (ends[1] - ends[0]) / 2e-5, 1e-6)
    assert stability.stable == (stability.spectral_radius < 1)


def test_correlation_slope_of_wide_relu_layers():
    # (1 - rho) * rho * C'(rho) / C(rho) with the covariance C of Eq. 7
    slope = 0.5 * 0.5 * (1 / 3) / (relu_cross(0.5) - 1 / (2 * math.pi))
    close(fixed_point_stability(10**7).correlation_slope, slope, 1e-6)
    close(fixed_point_stability(10**7, plain_relu).correlation_slope, slope, 1e-6)


def test_deviations_grow_by_the_spectral_radius():
    layer, n = solve_init(500), 500
    signal, deviations = SignalMoments(1e-6, 1.0, 0.5), []
    for _ in range(15):
        signal = propagate(signal, layer, n)
        deviations.append(signal.variance - 1)
    stability = fixed_point_stability(500)
    assert not stability.stable
    close(deviations[-1] / deviations[-2], stability.spectral_radius, 1e-2)


# --- Admissible correlations ----------------------------------------------------------------------


def test_every_correlation_inside_zero_and_one_is_admissible():
    assert admissible_rho(10) == (0.0, 1.0)
    assert admissible_rho(1, "softplus", 4.0) == (0.0, 1.0)


def test_uniform_weights_are_not_admissible_at_one_half():
    for n in (2, 3, 784):  # the paper's remark in Section 3.3
        layer = solve_init(n)
        assert layer.weight_mean - math.sqrt(3 * layer.weight_var) < 0
        assert admissible_rho(n, min_mean_over_std=math.sqrt(3))[0] > 0.5
    # It holds for N = 1 too, where rho / (1 - rho) = 3 Var[phi] / E[phi^2] at the lower end.
    odds = 3 * (0.5 - 1 / (2 * math.pi)) / 0.5
    close(admissible_rho(1, min_mean_over_std=math.sqrt(3))[0], odds / (1 + odds))
    # but not for every distribution: an exponential one has mean = std
    assert admissible_rho(1, min_mean_over_std=1.0)[0] < 0.5


@pytest.mark.slow
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("n", "ratio", "noise"), [(1, 1.5, 0.0), (30, 0.3, 0.5), (5000, 1.0, 0.0)])
def test_admissible_correlations_by_brute_force(activation, n, ratio, noise):
    low, high = admissible_rho(n, activation, 1.0, ratio, noise)
    assert 0 < low < 1
    assert high == 1
    candidates = [*np.linspace(0.02, 0.98, 9), low * (1 - 1e-7), low + (1 - low) * 1e-7]
    for rho in map(float, candidates):
        layer = solve_init(n, activation, rho, 1.0, noise)
        assert (layer.weight_mean > ratio * math.sqrt(layer.weight_var)) == (rho > low)


def test_admissible_correlations_of_very_wide_layers():
    low, _ = admissible_rho(10**7, min_mean_over_std=1.0)
    layer = solve_init(10**7, rho=low)
    close(layer.weight_mean, math.sqrt(layer.weight_var), 1e-7)
    with pytest.raises(ValueError, match=r"min_mean_over_std .* must be lower"):
        admissible_rho(10**7, min_mean_over_std=1e6)


# --- Bad input ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"fan_in": 0}, "at least 1, got 0"),
        ({"rho": 0}, r"rho must be a number in \(0, 1\), got 0"),
        ({"rho": 1.0}, r"rho must be a number in \(0, 1\), got 1.0"),
        ({"variance": 0.0}, r"variance must be a number in \(0, inf\), got 0.0"),
        ({"bias_noise": 1.0}, r"bias_noise must be a number in \[0, 1\), got 1.0"),
        ({"mean": math.inf}, r"mean must be a number in \(-inf, inf\), got inf"),
        ({"activation": "rleu"}, "one of relu, leaky_relu, softplus.*got 'rleu'"),
        ({"activation": 3}, "callable or one of .*got 3"),
        ({"activation": torch.zeros_like}, "constant"),
        ({"activation": lambda s: 5 + 0 * s}, "constant"),
        ({"activation": lambda s: F.relu(s - 50)}, "constant"),
        ({"activation": lambda s: torch.sigmoid(s + 60)}, "constant"),
        ({"activation": torch.log}, "not finite at 0"),
        ({"activation": Tensor.log_}, "not finite at 0"),
        ({"activation": "exp", "variance": 1e6}, "not finite at"),
        ({"activation": "exp", "variance": 40.0}, "grows too fast"),
        ({"activation": lambda s: (s**2 / 3).exp()}, "grows too fast"),
        ({"activation": torch.sum}, "elementwise"),
        ({"activation": lambda s: s[..., None]}, "elementwise"),
        ({"activation": lambda s: s.numpy()}, "elementwise.*ndarray"),
        ({"activation": lambda s: s + 0j}, "elementwise"),
        ({"activation": lambda s: torch.softmax(s, -1)}, "elementwise and not random"),
        ({"activation": nn.Dropout(0.5)}, "elementwise and not random"),
        ({"activation": nn.Linear(3, 3)}, "fails on a float64 tensor"),
        ({"activation": lambda s: torch.sin(1e5 * s)}, "too rough"),
    ],
)
def test_solve_init_rejects(arguments, message):
    with pytest.raises(ValueError, match=message):
        solve_init(**({"fan_in": 10} | arguments))


def test_other_functions_reject():
    layer = solve_init(10)
    with pytest.raises(ValueError, match=r"correlation must be a number in \[-1, 1\], got 1.5"):
        activation_moments("relu", correlation=1.5)
    with pytest.raises(ValueError, match=r"correlation .* got -2"):
        correlation_map(-2, layer, 10)
    with pytest.raises(ValueError, match="fan_in"):
        propagate(SignalMoments(0, 1, 0.5), layer, 2.0)
    with pytest.raises(ValueError, match=r"variance must be a number in \(0, inf\), got 0"):
        propagate(SignalMoments(0, 0, 0), layer, 10)
    with pytest.raises(ValueError, match=r"correlation .* got 2.0"):
        propagate(SignalMoments(0, 1, 2), layer, 10)
    with pytest.raises(ValueError, match=r"weight_var must be a number in \[0, inf\), got -1"):
        LayerMoments(0, -1, 0, 0)
    with pytest.raises(ValueError, match=r"min_mean_over_std must be a number in \[0, inf\)"):
        admissible_rho(10, min_mean_over_std=-1)
    with pytest.raises(ValueError, match="constant"):
        admissible_rho(10, torch.zeros_like)
    with pytest.raises(ValueError, match="rho"):
        fixed_point_stability(10, rho=1)
    assert math.isnan(SignalMoments(0, 0, 0).correlation)


def test_numpy_numbers_are_numbers():
    assert solve_init(np.int64(10), rho=np.float32(0.5), variance=np.float32(1)) == solve_init(10)
