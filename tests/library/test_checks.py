"""Checks of arguments: what they take, and what they say of the rest."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from convexinit import (
    CNN,
    MLP,
    PICNN,
    check_signal,
    init_icnn_,
    is_convex,
    keep_convex,
    lognormal_init_,
    lsuv_init_,
    parameter_groups,
    solve_init,
)
from convexinit.checks import check_choice, check_function, check_integer, check_number
from convexinit.finding import find_layers

NO_NUMBERS = [None, "0.5", True, [0.5], 0.5j, math.nan]


@given(
    value=st.floats() | st.integers(-3, 3) | st.sampled_from([-1.0, 1.0]).map(np.float32),
    ends=st.sampled_from(["()", "[)", "(]", "[]"]),
)
def test_numbers_inside_the_interval_are_returned_and_no_others(value, ends):
    inside = -1 < value < 1 or (value == -1 and ends[0] == "[") or (value == 1 and ends[1] == "]")
    if inside:
        result = check_number("rho", value, -1, 1, ends)
        assert (type(result), result) == (float, value)
        return
    with pytest.raises(ValueError, match="rho must be a number in") as caught:
        check_number("rho", value, -1, 1, ends)
    assert str(caught.value) == f"rho must be a number in {ends[0]}-1, 1{ends[1]}, got {value!r}"


@pytest.mark.parametrize("value", NO_NUMBERS)
def test_what_is_no_number_is_refused(value):
    with pytest.raises(ValueError, match="number in \\(-inf, inf\\), got"):
        check_number("mean", value)


@given(value=st.integers(), least=st.integers(-2, 2), kind=st.sampled_from([int, np.int64]))
def test_integers_from_the_least_on_are_returned_and_no_others(value, least, kind):
    if abs(value) < 2**63:
        value = kind(value)
    if value >= least:
        result = check_integer("steps", value, least)
        assert (type(result), result) == (int, value)
    else:
        with pytest.raises(ValueError, match=f"steps must be an integer of at least {least}, got"):
            check_integer("steps", value, least)


@pytest.mark.parametrize("value", [*NO_NUMBERS, 2.0])
def test_what_is_no_integer_is_refused(value):
    with pytest.raises(ValueError, match="an integer of at least 1, got"):
        check_integer("steps", value)


def test_names_are_looked_up_and_callables_are_their_own_entry():
    table = {"sine": math.sin, "cosine": math.cos}
    assert check_choice("map", "sine", table) is math.sin
    assert check_function("map", "cosine", table) is math.cos
    assert check_function("map", math.exp, table) is math.exp
    for value in ("tangent", None, 3, [], math.exp):
        with pytest.raises(ValueError, match="map must be one of sine, cosine, got"):
            check_choice("map", value, table)
    for value in ("tangent", None, 3):
        with pytest.raises(ValueError, match="map must be a callable or one of sine, cosine, got"):
            check_function("map", value, table)
    with pytest.raises(ValueError, match="got 'cosin'; did you mean 'cosine'"):
        check_choice("map", "cosin", table)
    with pytest.raises(ValueError, match=r"map must be a callable .*, got the class Sine"):
        check_function("map", type("Sine", (), {}), table)


@pytest.mark.parametrize(
    "use",
    [
        lambda activation: MLP([3, 4, 1], activation),
        lambda activation: PICNN([3, 4, 1], 2, activation),
        lambda activation: CNN((1, 6, 6), [4], 2, activation),
        lambda activation: init_icnn_(MLP([3, 4, 1]), activation=activation),
        lambda activation: init_icnn_(MLP([3, 4, 1]), activation=activation, method="moments"),
        lambda activation: lognormal_init_(torch.empty(4, 3), activation=activation),
        lambda activation: solve_init(10, activation),
    ],
)
def test_a_class_of_activations_and_a_misspelt_name_are_corrected(use):
    with pytest.raises(ValueError, match=r"the class ReLU; give an instance: activation=ReLU\(\)"):
        use(nn.ReLU)
    with pytest.raises(ValueError, match="got 'LeakyReLU'; did you mean 'leaky_relu'"):
        use("LeakyReLU")


@pytest.mark.parametrize(
    "use",
    [
        init_icnn_,
        lsuv_init_,
        check_signal,
        is_convex,
        find_layers,
        lambda network, inputs: keep_convex(
            torch.optim.SGD(network.parameters()), network, inputs=inputs
        ),
    ],
)
def test_inputs_of_another_type_are_told_how_to_become_tensors(use):
    network = MLP([3, 4, 1])
    for inputs in (np.ones((8, 3)), 3.0):
        with pytest.raises(ValueError, match=r"inputs must be a tensor, got .*torch\.as_tensor"):
            use(network, inputs)
    with pytest.raises(ValueError, match=r"inputs must be floating point, .*give inputs\.float"):
        use(network, torch.arange(24).reshape(8, 3))


def test_arguments_beside_the_convex_one_may_be_integers():
    class Chosen(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding, self.network = nn.Embedding(5, 2), MLP([4, 6, 1])

        def forward(self, x, index):
            return self.network(torch.cat([x, self.embedding(index)], 1))

    inputs = torch.randn(64, 2), torch.arange(64) % 5
    init_icnn_(Chosen(), inputs)
    with pytest.raises(ValueError, match=r"inputs\[1\] must be floating .*another argument with"):
        init_icnn_(Chosen(), inputs, convex=1)
    with pytest.raises(ValueError, match=r"inputs\[1\] must be a tensor, got ndarray"):
        init_icnn_(Chosen(), (inputs[0], inputs[1].numpy()))


def test_inputs_of_another_precision_than_the_network_are_named():
    with pytest.raises(
        ValueError, match=r"parameters are torch\.float32, the inputs torch\.float64"
    ):
        init_icnn_(MLP([3, 4, 1]), torch.randn(8, 3, dtype=torch.float64))


def of_inputs(network, inputs, **options):
    """Every function that takes inputs in the same way."""
    yield lambda: init_icnn_(network, inputs, **options)
    yield lambda: check_signal(network, inputs, **options)
    yield lambda: is_convex(network, inputs, **options)
    yield lambda: parameter_groups(network, 1e-3, inputs, **options)
    optimiser = torch.optim.SGD(network.parameters())
    yield lambda: keep_convex(optimiser, network, inputs=inputs, **options)


X = torch.randn(8, 3)


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({"x": X}, "got dict; give its tensors in a tuple"),
        (torch.utils.data.DataLoader(X), "got DataLoader; give .* of one batch"),
        (X.to("meta"), "dense tensors with values"),
        (X.to_sparse(), "dense tensors with values"),
    ],
)
def test_what_holds_no_batch_is_refused(inputs, message):
    for function in of_inputs(MLP([3, 4, 1]), inputs):
        with pytest.raises(ValueError, match=message):
            function()


@pytest.mark.parametrize("columns", [[9], [], slice(9, None), "x"])
def test_columns_that_are_none_are_refused(columns):
    for function in of_inputs(MLP([3, 4, 1]), X, convex={0: columns}):
        with pytest.raises(ValueError, match="convex names no columns of argument 0"):
            function()


def test_batches_with_targets_are_named():
    with pytest.raises(ValueError, match=r"inputs are 2 tensors: .*without its targets"):
        init_icnn_(MLP([3, 4, 1]), [X, X])
    with pytest.raises(ValueError, match="convex must be an index"):
        init_icnn_(MLP([3, 4, 1]), X, convex=0.0)


def test_seeds_are_no_generators():
    for options in ({"inputs": X}, {}, {"method": "moments"}):
        with pytest.raises(ValueError, match=r"generator must be .* got 0; .*manual_seed"):
            init_icnn_(MLP([3, 4, 1]), generator=0, **options)
    with pytest.raises(ValueError, match="generator must be"):
        is_convex(MLP([3, 4, 1]), X, generator=0)


def test_inputs_without_rows_are_refused():
    with pytest.raises(ValueError, match="inputs must have rows"):
        lsuv_init_(MLP([3, 4, 1]), X[:0])


def test_networks_of_the_inference_mode_are_tested():
    with torch.inference_mode():
        network = MLP([3, 4, 1])
    assert is_convex(network, X)


def test_parameters_that_are_spread_over_processes_are_refused():
    distributed, flat = MLP([3, 4, 1]), MLP([3, 4, 1])
    distributed.layers[1].weight.to_local = lambda: None  # what a DTensor has
    flat.layers[1].weight = nn.Parameter(torch.ones(2))
    for network in (distributed, flat):
        for function in (*of_inputs(network, X), lambda network=network: init_icnn_(network)):
            with pytest.raises(ValueError, match=r"spread over processes .* do this before"):
                function()


@pytest.mark.parametrize("inputs", [torch.randn(8, 4), X.double()[:, :2], (X, X)])
@pytest.mark.parametrize("function", [is_convex, lsuv_init_, check_signal])
def test_inputs_that_do_not_fit_are_named(function, inputs):
    with pytest.raises(ValueError, match="cannot be called with these inputs: "):
        function(MLP([3, 4, 1]), inputs)


def test_moments_of_inputs_are_no_tuples():
    with pytest.raises(ValueError, match=r"must be a convexinit\.theory\.SignalMoments, got tuple"):
        solve_init(10, inputs=(0.0, 1.0, 0.5))
