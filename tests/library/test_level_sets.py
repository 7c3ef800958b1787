"""Walks along level sets: on the level, independent by row, towards the target, clear refusals."""

import math
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from convexinit.init_network import init_icnn_
from convexinit.level_sets import LevelSetError, _interior_point, walk_level_set
from convexinit.networks import MLP

METHODS = ["interpolate", "track"]


def squared_norm(points):
    return points.square().sum(1)


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def quadratic(inputs, seed=0, dtype=torch.float64):
    root = normal(inputs, inputs, seed=seed)
    matrix = (root @ root.T / inputs + 0.1 * torch.eye(inputs)).to(dtype)
    centre = normal(inputs, seed=seed + 1, dtype=dtype)
    return lambda x: ((x - centre) @ matrix * (x - centre)).sum(1), matrix, centre


def network(inputs, activation, skip, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    net = MLP([inputs, 32, 32, 1], activation, skip=skip)
    for linear in net.skips:  # drawn from torch's own source, which earlier tests moved
        torch.nn.init.zeros_(linear.weight)
    init_icnn_(net, activation=activation, generator=generator)
    with torch.no_grad():
        for linear in net.skips:
            linear.weight.normal_(0, inputs**-0.5, generator=generator)
    net = net.to(dtype).eval()
    return lambda x: net(x).squeeze(1)


@cache
def convex_functions(inputs, dtype=torch.float64):
    planes = normal(20, inputs, seed=8, dtype=dtype), normal(20, seed=9, dtype=dtype)
    functions = {
        "quadratic": quadratic(inputs, dtype=dtype)[0],
        "two-norm": lambda x: x.norm(dim=1),
        "one-norm": lambda x: x.abs().sum(1),
        "maximum": lambda x: x.amax(1),
        "max-affine": lambda x: (x @ planes[0].T + planes[1]).amax(1),
        "log-sum-exp": lambda x: x.logsumexp(1),
        "sum of exponentials": lambda x: (5 * x).exp().sum(1),
        "affine": lambda x: x @ planes[0][0] - 3,
    }
    for activation in ("relu", "softplus"):
        for skip in (False, True):
            functions[f"{activation} skip={skip}"] = network(inputs, activation, skip, dtype=dtype)
    return functions


def residuals(f, points):
    """Distances ``[n]`` from the level of the first point, relative to max(1, |level|)."""
    with torch.no_grad():
        values = f(points.flatten(0, 1)).view(points.shape[:2])
    return (values - values[:, :1]).abs().amax(1) / values[:, 0].abs().clamp_min(1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", convex_functions(2))
@pytest.mark.parametrize(
    ("dtype", "tol"), [(torch.float64, 1e-6), (torch.float64, 1e-11), (torch.float32, 1e-5)]
)
def test_every_point_lies_on_the_level(name, method, dtype, tol):
    for inputs in (1, 2, 12):
        if inputs == 1 and name == "relu skip=False":
            continue  # some of the starts lie on its flat bottom
        f = convex_functions(inputs, dtype)[name]
        start, target = (2 * normal(16, inputs, seed=seed, dtype=dtype) for seed in (1, 2))
        points = walk_level_set(f, start, target, steps=7, method=method, tol=tol)
        assert points.shape == (16, 8, inputs)
        assert points.dtype == dtype
        assert not points.requires_grad
        assert torch.equal(points[:, 0], start)
        assert residuals(f, points).max() <= tol
        if inputs == 12 and name != "affine":
            # A walk moves: it does not satisfy the level by staying where it is.
            assert ((points[:, -1] - start).norm(dim=1) > 0.1).all()


@pytest.mark.parametrize("inputs", [2, 30, 512])
def test_interpolation_meets_quadratic_forms_where_the_ray_does(inputs):
    f, matrix, centre = quadratic(inputs)
    start, target = normal(5, inputs, seed=3), 1.5 * normal(5, inputs, seed=4)
    points = walk_level_set(f, start, target, steps=6, tol=1e-12)

    share = torch.linspace(0, 1, 7, dtype=torch.float64).view(-1, 1)
    segment = start.unsqueeze(1) + share * (target - start).unsqueeze(1)
    interior = _interior_point(f, segment, f(start)).unsqueeze(1)
    assert (f(interior.squeeze(1)) < f(segment.flatten(0, 1)).view(5, 7).amin(1)).all()
    ray = segment - interior
    a = (ray @ matrix * ray).sum(2)
    b = (ray @ matrix * (interior - centre)).sum(2)
    c = ((interior - centre) @ matrix * (interior - centre)).sum(2) - f(start).unsqueeze(1)
    length = (-b + (b * b - a * c).sqrt()) / a
    torch.testing.assert_close(points, interior + length.unsqueeze(2) * ray, rtol=0, atol=1e-8)


@pytest.mark.parametrize("method", METHODS)
@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    inputs=st.integers(1, 6),
    kind=st.sampled_from(["quadratic", "max-affine", "relu", "softplus"]),
    offset=st.sampled_from([0.0, -3.0, 500.0]),
    scale=st.sampled_from([1e-2, 1.0, 30.0]),
    steps=st.integers(1, 6),
    tol=st.sampled_from([1e-4, 1e-6, 1e-10]),
)
def test_generated_problems_stay_on_the_level(
    method, seed, inputs, kind, offset, scale, steps, tol
):
    if kind == "quadratic":
        convex = quadratic(inputs, seed)[0]
    elif kind == "max-affine":
        planes, shift = normal(8, inputs, seed=seed), normal(8, seed=seed + 1)
        planes[0] = -planes[1:].mean(0)  # bounded below
        convex = lambda x: (x @ planes.T + shift).amax(1)  # noqa: E731
    else:
        convex = network(inputs, kind, seed % 2 == 0, seed)
    start, target = (scale * normal(4, inputs, seed=seed + k) for k in (2, 3))

    def f(points):
        return convex(points) + offset

    try:
        points = walk_level_set(f, start, target, steps, method, tol)
    except LevelSetError as error:
        # Rightly refused if nothing around is visibly lower.
        for row in error.rows:
            around = start[row] + scale * normal(2000, inputs, seed=seed + 9) * (
                10.0 ** -(torch.arange(2000) % 6).double().unsqueeze(1)
            )
            assert f(around).min() >= f(start[row : row + 1]).min() - 1e-9 * (1 + abs(offset))
    else:
        assert residuals(f, points).max() <= tol


@pytest.mark.parametrize("method", METHODS)
def test_rows_do_not_depend_on_their_neighbours(method):
    start, target = normal(9, 5, seed=1), 3 * normal(9, 5, seed=2)
    start[4] *= 1e3
    for f in (squared_norm, lambda x: x.logsumexp(1), lambda x: x.amax(1)):
        together = walk_level_set(f, start, target, 4, method)
        alone = [walk_level_set(f, start[[i]], target[[i]], 4, method) for i in range(9)]
        assert torch.equal(together, torch.cat(alone))
    assert walk_level_set(squared_norm, start[:0], target[:0], 4, method).shape == (0, 5, 5)


def test_points_of_an_interpolation_do_not_depend_on_each_other_beyond_the_interior_point():
    start, target = normal(3, 4, seed=1), normal(3, 4, seed=2)
    points = walk_level_set(squared_norm, start, target, 8)
    on_level = points[:, -1]
    again = walk_level_set(squared_norm, start, on_level, 8)
    assert torch.equal(again[:, -1], on_level)  # a target on the level is reached exactly
    assert (again.diff(dim=1).norm(dim=2).amax(1) < 0.5 * (on_level - start).norm(dim=1)).all()


@pytest.mark.parametrize("inputs", [2, 3, 50])
def test_tracking_follows_the_great_circle_to_the_target(inputs):
    start, target = (
        torch.nn.functional.normalize(normal(20, inputs, seed=seed), dim=1) * 3 for seed in (5, 6)
    )
    keep = (start * target).sum(1) > -8  # not nearly opposite
    start, target = start[keep], target[keep]
    points = walk_level_set(squared_norm, start, target, 40, "track", tol=1e-9)
    distance = (points - target.unsqueeze(1)).norm(dim=2)
    assert (distance.diff(dim=1) < 0).all()
    assert (distance[:, -1] < 0.02 * distance[:, 0]).all()
    # In the plane of start, target and centre: nothing is left outside of its orthonormal basis.
    basis, _ = torch.linalg.qr(torch.stack([start, target], dim=2))
    outside = points - points @ basis @ basis.mT
    assert outside.norm(dim=2).max() < 1e-9


def test_tracking_steps_leave_along_the_tangent():
    f, matrix, centre = quadratic(6)
    start, target = normal(10, 6, seed=3), normal(10, 6, seed=4)
    points = walk_level_set(f, start, target, 400, "track", tol=1e-12)
    step = points[:, 1] - start
    gradient = (start - centre) @ matrix
    gradient /= gradient.norm(dim=1, keepdim=True)
    tangent = target - start
    tangent = tangent - (tangent * gradient).sum(1, keepdim=True) * gradient
    torch.testing.assert_close(400 * step, tangent, rtol=0.05, atol=0.05)


def test_tracking_ends_where_the_target_is_normal_to_the_level_set():
    start, target = normal(8, 3, seed=1), 4 * normal(8, 3, seed=2)
    end = walk_level_set(squared_norm, start, target, 60, "track")[:, -1]
    cosine = torch.nn.functional.cosine_similarity(end, target)
    start_cosine = torch.nn.functional.cosine_similarity(start, target)
    assert (cosine > start_cosine).all()
    assert (cosine > 0.99).all()


@pytest.mark.parametrize("method", METHODS)
def test_functions_without_lower_bound(method):
    # Two planes: the sublevel sets are wedges, along which rays outwards never return.
    def f(points):
        return torch.maximum(points[:, 0], 0.5 * points[:, 0] + points[:, 1])

    start, target = 2 + normal(30, 4, seed=1), 40 * normal(30, 4, seed=2) - 100
    points = walk_level_set(f, start, target, 5, method)
    assert residuals(f, points).max() <= 1e-6


@pytest.mark.parametrize("method", METHODS)
def test_flat_bottoms_and_targets_at_the_minimum(method):
    def flat(points):
        return (points.norm(dim=1) - 2).relu()

    start = torch.tensor([[5.0, 0.0], [3.0, 3.0]], dtype=torch.float64)
    for target in (torch.zeros_like(start), -start, torch.ones_like(start), start):
        for f in (flat, squared_norm):
            points = walk_level_set(f, start, target, 4, method)
            assert residuals(f, points).max() <= 1e-6
    assert torch.allclose(walk_level_set(flat, start, start, 4, method), start.unsqueeze(1))


@pytest.mark.parametrize("facets", [2, 3, 6])
def test_a_start_on_a_kink_is_left(facets):
    # All planes meet at the start, and their mean, which autograd returns, is no descent direction.
    planes = 10 * normal(20, facets, 8, seed=facets)
    planes[:, :, 0] = 1.0
    for rows in planes:
        f = lambda x, rows=rows: (x @ rows.T).amax(1)  # noqa: E731
        start = torch.zeros(1, 8, dtype=torch.float64)
        points = walk_level_set(f, start, start + normal(1, 8, seed=1), 3)
        assert residuals(f, points).max() <= 1e-6


@pytest.mark.parametrize("method", METHODS)
def test_outside_of_the_domain_counts_as_above(method):
    def barrier(points):  # NaN or infinite for coordinates that are not positive
        return (points - points.log()).sum(1)

    start = torch.tensor([[0.5, 2.0, 1.5]], dtype=torch.float64)
    target = torch.tensor([[6.0, -4.0, 0.0]], dtype=torch.float64)
    points = walk_level_set(barrier, start, target, 5, method)
    assert residuals(barrier, points).max() <= 1e-6
    assert (points > 0).all()


@pytest.mark.parametrize("method", METHODS)
def test_a_minimal_start_is_refused_by_row(method):
    minimal = torch.zeros(5, 3, dtype=torch.float64)
    minimal[[0, 1, 3]] = normal(3, 3)
    for f in (squared_norm, lambda x: x.abs().amax(1), lambda x: x.norm(dim=1) + 100):
        with pytest.raises(LevelSetError, match=r"no point below .* row\(s\) \[2, 4\]") as caught:
            walk_level_set(f, minimal, normal(5, 3, seed=1), method=method)
        assert caught.value.rows == [2, 4]
    with pytest.raises(ValueError, match="and 20 more") as caught:
        walk_level_set(squared_norm, torch.zeros(30, 3), torch.ones(30, 3), method=method)
    assert caught.value.rows == list(range(30))
    with pytest.raises(ValueError, match="no point below"):
        walk_level_set(lambda x: x[:, 0] * 0 + 1, normal(2, 3), normal(2, 3), method=method)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_minimum_found_up_to_rounding_is_refused(dtype):
    _, matrix, _ = quadratic(64)
    for seed in range(5):
        slope = normal(64, seed=seed)
        start = torch.linalg.solve(matrix, slope).to(dtype).unsqueeze(0)

        def f(x, slope=slope):
            return (x @ matrix.to(dtype) * x).sum(1) / 2 - x @ slope.to(dtype)

        with pytest.raises(LevelSetError, match="no point below"):
            walk_level_set(f, start, normal(1, 64, seed=9))


def test_functions_without_gradient():
    for f in (
        lambda x: squared_norm(x.detach()),
        lambda x: torch.from_numpy((x**2).numpy()).sum(1),
    ):
        start, target = normal(4, 3), -0.5 * normal(4, 3)
        with pytest.warns(UserWarning, match="no gradient"):
            points = walk_level_set(f, start, target)
        assert residuals(f, points).max() <= 1e-6
        with (
            pytest.raises(ValueError, match="no gradient"),
            pytest.warns(UserWarning, match="no gradient"),
        ):
            walk_level_set(f, start, target, method="track")
        with pytest.raises(ValueError, match="no gradient"):
            walk_level_set(f, start, 5 * start)


@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_gradient_modes_and_parameters_are_left_alone(context):
    net = MLP([3, 8, 1], "softplus").double()
    start = normal(2, 3).requires_grad_()
    with context():
        inside = walk_level_set(lambda x: net(x).squeeze(1), start, normal(2, 3, seed=1))
        assert not torch.is_grad_enabled()
    outside = walk_level_set(lambda x: net(x).squeeze(1), start, normal(2, 3, seed=1))
    assert torch.equal(inside, outside)
    assert start.grad is None
    assert all(parameter.grad is None for parameter in net.parameters())


def in_place_functions():
    """Functions that work in place, with others that compute the same."""
    weight, buffer = normal(3, 8, seed=5).abs(), torch.empty(1000, dtype=torch.float64)

    def in_one_buffer(points):
        return buffer[: len(points)].copy_(squared_norm(points).detach())

    return {
        "relu": (
            lambda x: torch.nn.functional.relu(x, inplace=True).matmul(weight).sum(1),
            lambda x: x.relu().matmul(weight).sum(1),
        ),
        "square": (lambda x: x.square_().sum(1), squared_norm),
        "one buffer": (
            lambda x: squared_norm(x) if x.requires_grad else in_one_buffer(x),
            squared_norm,
        ),
    }


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", in_place_functions())
@pytest.mark.parametrize("given", [False, True], ids=["searched", "given"])
def test_functions_that_work_in_place_change_nothing_of_the_caller(name, method, given):
    in_place, pure = in_place_functions()[name]
    tensors = [1 + normal(6, 3).abs(), normal(6, 3, seed=1)]
    tensors += [torch.full_like(tensors[0], 1e-3)] if given else []
    copies = [tensor.clone() for tensor in tensors]

    def walk(f, start, target, interior=None):
        return walk_level_set(f, start, target, 5, method, interior=interior)

    points = walk(in_place, *copies)
    for copied, tensor in zip(copies, tensors, strict=True):
        assert torch.equal(copied, tensor)
    assert torch.equal(points[:, 0], tensors[0])
    assert torch.equal(points, walk(pure, *tensors))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("scale", [1e-4, 1e-30])
def test_a_relative_tolerance_holds_on_levels_far_below_1(method, scale):
    start, target = (scale * normal(20, 3, seed=seed) for seed in (1, 2))
    functions = [
        squared_norm,
        lambda x: x.abs().sum(1),
        lambda x: 1e-8 * (x / scale).logsumexp(1),
        lambda x: 1e-8 * ((x[:, 0] / scale).exp() - 7),  # negative
    ]
    for f in functions:
        points = walk_level_set(f, start, target, 5, method, relative=True)
        values = f(points.flatten(0, 1)).view(20, 6)
        error = (values - values[:, :1]).abs().amax(1) / values[:, 0].abs()
        assert error.max() <= 1e-6
        assert ((points[:, -1] - start).norm(dim=1) > 0.05 * scale).all()


@pytest.mark.parametrize("method", METHODS)
def test_by_default_a_tolerance_is_absolute_below_1_and_relative_above(method):
    start, target = normal(20, 3, seed=1), normal(20, 3, seed=2)
    for level in (1e-8, 1e8):
        start *= (level / squared_norm(start)).sqrt().unsqueeze(1)
        values = squared_norm(walk_level_set(squared_norm, start, target, 5, method).flatten(0, 1))
        assert (values - level).abs().max() <= 1e-6 * max(1, level)
    with pytest.raises(LevelSetError, match=r"up to .* \* \|level\|, more than tol=1e-20"):
        walk_level_set(squared_norm, start, target, method=method, tol=1e-20, relative=True)


def test_a_level_of_0_has_no_relative_tolerance():
    start, target = normal(4, 3, seed=1), normal(4, 3, seed=2)
    start[2] = 0.0
    f = lambda x: x.sum(1)  # noqa: E731
    with pytest.raises(LevelSetError, match=r"is 0, and tol relative, in row\(s\) \[2\]") as caught:
        walk_level_set(f, start, target, relative=True)
    assert caught.value.rows == [2]
    assert residuals(f, walk_level_set(f, start, target)).max() <= 1e-6


@pytest.mark.parametrize("method", METHODS)
def test_a_tolerance_that_the_dtype_cannot_meet_is_refused(method):
    start, target = normal(4, 50, dtype=torch.float32), normal(4, 50, seed=1, dtype=torch.float32)
    with pytest.raises(LevelSetError, match=r"more than tol=1e-12.*torch.float32"):
        walk_level_set(squared_norm, start, target, method=method, tol=1e-12)
    points = walk_level_set(squared_norm, start.double(), target, method=method, tol=1e-12)
    assert residuals(squared_norm, points).max() <= 1e-12


def test_random_functions_are_refused():
    dropout = torch.nn.Dropout()
    with pytest.raises(LevelSetError, match="deterministic"):
        walk_level_set(lambda x: squared_norm(dropout(x)) + 1, normal(3, 20), normal(3, 20, seed=1))


def test_values_that_are_not_finite_are_refused_by_row():
    start, target = normal(4, 3), normal(4, 3, seed=1)
    for bad in (math.nan, math.inf):
        broken = start.clone()
        broken[1, 2] = bad
        with pytest.raises(LevelSetError, match=r"start is not finite in row\(s\) \[1\]"):
            walk_level_set(squared_norm, broken, target)
        with pytest.raises(LevelSetError, match=r"target is not finite in row\(s\) \[1\]"):
            walk_level_set(squared_norm, target, broken)
    positive = start.abs()
    positive[2] = -1.0
    with pytest.raises(LevelSetError, match=r"f\(start\) is not finite in row\(s\) \[2\]"):
        walk_level_set(lambda x: -x.sum(1).log(), positive, target)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "walk"}, "method must be one of interpolate, track, got 'walk'"),
        ({"steps": 0}, "steps must be an integer of at least 1"),
        ({"tol": 0.0}, "tol must be a number in"),
        ({"target": torch.ones(4, 2)}, r"same shape .* \(4, 3\) and \(4, 2\)"),
        ({"target": torch.ones(1, 3)}, "same shape"),
        ({"start": torch.ones(3), "target": torch.ones(3)}, "same shape"),
        ({"start": torch.ones(4, 0), "target": torch.ones(4, 0)}, "d at least 1"),
        ({"start": torch.ones(4, 3, dtype=torch.int64)}, r"start must be .*give start\.float"),
        ({"target": torch.ones(4, 3, dtype=torch.complex64)}, "real"),
        ({"start": [[1.0, 2.0, 3.0]]}, r"start must be a tensor, got list; torch\.as_tensor"),
        ({"target": np.ones((4, 3))}, r"target must be a tensor, got ndarray; torch\.as_tensor"),
        ({"interior": np.ones((4, 3))}, "interior must be a tensor, got ndarray"),
        ({"f": lambda x: x.sum(1, keepdim=True)}, r"it returned \[4, 1\].*squeeze"),
        ({"f": lambda x: x.sum()}, r"it returned \[\]"),
        ({"f": lambda x: 1.0}, "it returned float"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    good = {"f": squared_norm, "start": torch.ones(4, 3), "target": torch.zeros(4, 3)}
    with pytest.raises(ValueError, match=message):
        walk_level_set(**(good | arguments))


def test_the_target_takes_the_dtype_of_start():
    start, target = normal(2, 3, dtype=torch.float32), torch.tensor([[1, 2, 3], [4, 5, 6]])
    assert walk_level_set(squared_norm, start, target, tol=1e-5).dtype == torch.float32


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", convex_functions(6))
def test_a_given_interior_point_replaces_the_search(name, method):
    f = convex_functions(6)[name]
    cloud = 2 * normal(200, 6, seed=7)
    order = f(cloud).argsort()
    start, target = cloud[order[60:90]], cloud[order[100:130]]
    lowest = cloud[order[0]].expand_as(start)
    points = walk_level_set(f, start, target, 5, method, tol=1e-9, interior=lowest)
    assert residuals(f, points).max() <= 1e-9
    assert torch.equal(points[:, 0], start)
    if (name, method) != ("affine", "track"):  # where tangential steps stay on the level
        searched = walk_level_set(f, start, target, 5, method, tol=1e-9)
        assert (points - searched).norm(dim=2).amax() > 1e-3  # it is used


def test_points_pulled_inwards_lie_between_the_interior_point_and_the_segment():
    start = torch.tensor([[3.0, 0.0]], dtype=torch.float64)
    target = torch.tensor([[3.0, 6.0]], dtype=torch.float64)
    interior = torch.tensor([[0.0, 2.0]], dtype=torch.float64)
    points = walk_level_set(squared_norm, start, target, 3, interior=interior)[0, 1:]
    share = torch.linspace(0, 1, 4, dtype=torch.float64)[1:].unsqueeze(1)
    rays = start + share * (target - start) - interior
    lengths = ((points - interior) * rays).sum(1) / rays.square().sum(1)
    torch.testing.assert_close(points, interior + lengths.unsqueeze(1) * rays)
    assert ((lengths > 0) & (lengths < 1)).all()


def test_an_interior_point_that_is_not_below_the_level_is_refused_by_row():
    start, target = 3 + normal(5, 3).abs(), normal(5, 3, seed=1)
    interior = torch.zeros(5, 3, dtype=torch.float64)
    interior[1] = start[1]  # on the level
    interior[3] = 2 * start[3]  # above it
    with pytest.raises(
        LevelSetError, match=r"interior is not below .* row\(s\) \[1, 3\]"
    ) as caught:
        walk_level_set(squared_norm, start, target, interior=interior)
    assert caught.value.rows == [1, 3]
    interior[2, 0] = math.nan
    with pytest.raises(LevelSetError, match=r"interior is not finite in row\(s\) \[2\]"):
        walk_level_set(squared_norm, start, target, interior=interior)


@pytest.mark.parametrize("interior", [torch.zeros(3), torch.zeros(1, 3), [[0.0] * 3] * 4])
def test_interior_points_of_another_shape_are_refused(interior):
    with pytest.raises(ValueError, match="interior must be"):
        walk_level_set(squared_norm, torch.ones(4, 3), torch.zeros(4, 3), interior=interior)


def test_the_search_is_frugal():
    count = 0

    def counted(points):
        nonlocal count
        count += len(points)
        return points.logsumexp(1)

    start, target = normal(50, 30), normal(50, 30, seed=1)
    for method in METHODS:
        count = 0
        walk_level_set(counted, start, target, 20, method)
        assert count < 15 * 50 * 20
