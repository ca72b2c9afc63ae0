"""Winograd F(4x4, 3x3) and F(6x6, 3x3): any size, edges, a ReLU on load, residual and two stores."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from refnet.kernels import algorithm, winograd
from tests import kernel_checks as checks

SIZES = st.integers(18, 37)
SIDES = pytest.mark.parametrize("side", [4, 6])
POINTS = (0, 1, -1, 2, -2, 1 / 2, -1 / 2)


def transforms(side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A^T, G, and the B^T that makes them an algorithm: sum over i of A[o, i] G[i, j] B[i, k] = (k == o + j)."""
    a = np.array([[x**k for x in POINTS[: side + 1]] + [k == side - 1] for k in range(side)])
    g = winograd.KERNEL_TRANSFORMS[side]
    pairs = (a[:, None] * g.T[None]).reshape(3 * side, side + 2)
    wanted = [[k == o + j for k in range(side + 2)] for o in range(side) for j in range(3)]
    b = np.linalg.lstsq(pairs, np.array(wanted, float))[0]
    assert_allclose(pairs @ b, wanted, atol=1e-11)
    return a, g, b


def tolerance(side: int, channels: int) -> float:
    """Each product carries a rounding error of 2^-24 sqrt(channels) of its own size, a random walk. The transforms
    make products larger than outputs, for independent inputs and weights by a factor whose square is the sum below,
    along each axis. The largest error of many is as many standard deviations as is the largest output."""
    a, g, b = transforms(side)
    gain = ((a * a) @ ((g * g).sum(axis=1) * (b * b).sum(axis=1))).max() / 3
    return float(gain * 2.0**-24 * math.sqrt(channels))


@SIDES
@settings(max_examples=20)
@given(taken=st.integers(40, 70), made=st.integers(40, 70), height=SIZES, width=SIZES)
def test_any_shape_equals_the_definition(
    side: int, taken: int, made: int, height: int, width: int
) -> None:
    net = checks.Net((taken, height, width))
    y = net.conv("input", "conv", made, 3, padding=1)
    graph = checks.graph_of(net, net.add("relu", "act", y))
    with checks.only(side):
        plan = checks.check(graph, tolerance(side, taken), runs="winograd")
    assert f"F({side}x{side},3x3)" in plan.instructions[-2].note


@SIDES
@settings(max_examples=8)
@given(height=SIZES, width=SIZES)
def test_a_pre_activation_pair_defers_its_relu_and_stores_twice(
    side: int, height: int, width: int
) -> None:
    """z + conv(relu(conv(relu(z)))): the first layer applies the ReLU on load, the second adds and stores twice."""
    net = checks.Net((3, height, width))
    z = net.conv("input", "conv2", 64, 1)
    a = net.add("relu", "a", z)
    t = net.add("relu", "t", net.conv(a, "conv3", 64, 3, padding=1))
    z = net.add("add", "sum", z, net.conv(t, "conv4", 64, 3, padding=1))
    a = net.add("relu", "b", z)
    graph = checks.graph_of(net, z, net.conv(a, "head", 10, 1))
    with checks.only(side):
        plan = checks.check(graph, checks.WINOGRAD)
    assert plan.explain().count(f"F({side}x{side},3x3) (64") == 2
    assert "add" not in checks.opcodes(plan)
    assert "ReLU on load" in plan.explain()


@SIDES
def test_transforms_are_exact_in_float32_but_for_the_kernels(side: int) -> None:
    """With the points of the module's text, A and B hold whole numbers of 1/32; nothing is rounded but G, in float64."""
    a, _, b = transforms(side)
    assert_allclose(32 * a, np.round(32 * a), atol=1e-11)
    assert_allclose(32 * b, np.round(32 * b), atol=1e-11)
    assert abs(b).max() < 5.3
    weight = np.arange(2 * 3 * 9.0).reshape(2, 3, 3, 3)
    assert winograd.transform_kernel(weight, side).shape == ((side + 2) ** 2, 3, 2)


def test_the_choice_follows_the_cost() -> None:
    """Large maps of many channels take the larger patches; smaller maps, where these hang over the edges and stream
    their weights for little work, the smaller ones; and a tiny map none."""
    for height, width, channels, expected in (
        *((119, 159, 64, 6), (59, 79, 128, 6), (29, 39, 64, 4)),
        *((14, 19, 128, 4), (2, 2, 64, 0)),
    ):
        net = checks.Net((channels, height, width))
        net.conv("input", "conv", channels, 3, padding=1)
        assert algorithm.winograd_side(net.nodes[0], net.shape) == expected


def test_the_plan_says_which_and_why() -> None:
    net = checks.Net((64, 60, 60))
    net.conv("input", "conv", 64, 3, padding=1)
    graph = checks.graph_of(net, "conv")
    explained = checks.compile_plan(graph, checks.random_weights(graph)).explain()
    *_, why = next(line for line in explained.splitlines() if "F(6x6,3x3) (64" in line).split(";")
    ways = [estimate.rsplit(" ", 1) for estimate in why.partition(": ")[2].split(", ")]
    assert [name for name, _ in ways] == ["F(6x6,3x3)", "F(4x4,3x3)", "direct"]
    assert [float(cycles) for _, cycles in ways] == sorted(float(cycles) for _, cycles in ways)
