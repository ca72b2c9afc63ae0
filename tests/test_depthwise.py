"""Depthwise 3x3: both strides, both paddings, maps down to the smallest."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import kernel_checks as checks

SIDE = st.integers(3, 20)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("padding", [0, 1])
@settings(max_examples=25)
@given(channels=st.integers(2, 40), height=SIDE, width=SIDE)
def test_any_shape_equals_the_definition(
    stride: int, padding: int, channels: int, height: int, width: int
) -> None:
    net = checks.Net((channels, height, width))
    y = net.conv("input", "conv", channels, 3, stride=stride, padding=padding, groups=channels)
    checks.check(checks.graph_of(net, y), checks.DIRECT, runs="depthwise")


@pytest.mark.parametrize("height", [1, 2])
def test_maps_of_fewer_rows_than_the_kernel_equal_the_definition(height: int) -> None:
    net = checks.Net((5, height, 9))
    y = net.conv("input", "conv", 5, 3, padding=1, groups=5)
    checks.check(checks.graph_of(net, y), checks.DIRECT)


@pytest.mark.parametrize("activation", ["relu", "relu6"])
def test_residual_and_activation_are_fused(activation: str) -> None:
    net = checks.Net((21, 9, 8))
    y = net.conv("input", "conv", 21, 3, padding=1, groups=21)
    y = net.add(activation, "act", net.add("add", "sum", y, "input"))
    plan = checks.check(checks.graph_of(net, y), checks.DIRECT, 9 * checks.image((21, 9, 8)))
    assert checks.opcodes(plan) == ["load_image", "depthwise", "store_output"]


def test_a_ghost_module_writes_both_halves_in_place() -> None:
    """concat(primary, cheap(primary)) + shortcut: no copy, no separate addition."""
    net = checks.Net((24, 10, 11))
    primary = net.conv("input", "primary", 12, 1)
    cheap = net.conv(primary, "cheap", 12, 3, padding=1, groups=12)
    joined = net.add("concat", "joined", primary, cheap, axis=1)
    shortcut = net.conv("input", "shortcut", 24, 1)
    total = net.add("add", "sum", joined, shortcut)
    graph = checks.graph_of(net, net.conv(total, "next", 8, 1))
    plan = checks.check(graph, checks.DIRECT)
    assert not {"add", "gather"} & set(checks.opcodes(plan))
