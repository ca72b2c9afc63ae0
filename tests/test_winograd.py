"""Winograd F(4x4, 3x3): any size, edges, fused rectification of the input, residual and two stores."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from refnet.kernels import choice, winograd
from tests import kernel_checks as checks

SIDE = st.integers(18, 37)


@settings(max_examples=30)
@given(taken=st.integers(40, 70), made=st.integers(40, 70), height=SIDE, width=SIDE)
def test_any_shape_equals_the_definition(taken: int, made: int, height: int, width: int) -> None:
    net = checks.Net((taken, height, width))
    y = net.conv("input", "conv", made, 3, padding=1)
    graph = checks.graph_of(net, net.add("relu", "act", y))
    checks.check(graph, checks.WINOGRAD, runs="winograd")


@settings(max_examples=10)
@given(height=SIDE, width=SIDE)
def test_a_pre_activation_pair(height: int, width: int) -> None:
    """z + conv(relu(conv(relu(z)))): the first layer rectifies as it reads, the second adds and stores twice."""
    net = checks.Net((3, height, width))
    z = net.conv("input", "conv2", 64, 1)
    a = net.add("relu", "a", z)
    t = net.add("relu", "t", net.conv(a, "conv3", 64, 3, padding=1))
    z = net.add("add", "sum", z, net.conv(t, "conv4", 64, 3, padding=1))
    a = net.add("relu", "b", z)
    graph = checks.graph_of(net, z, net.conv(a, "head", 10, 1))
    plan = checks.check(graph, checks.WINOGRAD)
    assert checks.opcodes(plan).count("winograd") == 2
    assert "combine" not in checks.opcodes(plan)
    assert "rectifies its input" in plan.explain()


def test_transform_of_a_kernel_is_its_polynomial_product() -> None:
    """With G's points 0, 1, -1, 2, -2, infinity: G g is g's polynomial at the points, scaled."""
    g = np.array([2.0, -3.0, 5.0])
    values = [np.polyval(g[::-1], x) for x in (0, 1, -1, 2, -2)] + [g[2]]
    scale = np.array([1 / 4, -1 / 6, -1 / 6, 1 / 24, 1 / 24, 1])
    assert_allclose(winograd.KERNEL_TRANSFORM @ g, scale * values, rtol=1e-14)
    weight = np.arange(2 * 3 * 9.0).reshape(2, 3, 3, 3)
    assert winograd.transform_kernel(weight).shape == (36, 3, 2)


def test_the_choice_follows_the_cost() -> None:
    """Large maps of many channels take Winograd; a tiny map, where weights would be streamed for nothing, does not."""
    for side, expected in ((60, True), (2, False)):
        net = checks.Net((64, side, side))
        net.conv("input", "conv", 64, 3, padding=1)
        assert choice.runs_as_winograd(net.nodes[0], net.shape) is expected
