"""Depthwise convolution: 3x3 with both strides and both paddings, any other window, maps down to the smallest."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refnet.kernels import partition, runner
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


PAIR = st.tuples(st.integers(1, 3), st.integers(1, 3))


@pytest.mark.parametrize("kernel", [1, 2, 4, 5, 7])
@pytest.mark.parametrize("stride", [1, 2])
@settings(max_examples=10)
@given(channels=st.integers(2, 40), height=SIDE, width=SIDE, padding=st.integers(0, 8))
def test_any_size_equals_the_definition(
    kernel: int, stride: int, channels: int, height: int, width: int, padding: int
) -> None:
    padding = max(padding, kernel - min(height, width) // 2)
    net = checks.Net((channels, height, width))
    window = {"stride": stride, "padding": padding, "groups": channels}
    y = net.conv("input", "conv", channels, kernel, **window)
    checks.check(checks.graph_of(net, y), checks.DIRECT, runs="depthwise_window")


@settings(max_examples=40)
@given(
    channels=st.integers(2, 40),
    size=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    stride=PAIR,
    dilation=PAIR,
    extra=st.tuples(st.integers(0, 2), st.integers(0, 2)),
)
def test_any_window_equals_the_definition(
    channels: int,
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    extra: tuple[int, int],
) -> None:
    """Rows and columns each with a size, a stride, a dilation and a padding of their own."""
    span = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    rows, columns = (
        max(-(-(s - n) // 2), 0) + more for s, n, more in zip(span, size, extra, strict=True)
    )
    net = checks.Net((channels, *size))
    window = {"stride": stride, "dilation": dilation, "padding": (rows, columns)}
    y = net.conv("input", "conv", channels, kernel, groups=channels, **window)
    checks.check(checks.graph_of(net, y), checks.DIRECT)


@pytest.mark.parametrize("width", [1, 2])
@pytest.mark.parametrize("stride", [1, 2])
@settings(max_examples=10)
@given(channels=st.integers(2, 40), height=st.integers(1, 9))
def test_maps_narrower_than_three_columns(
    width: int, stride: int, channels: int, height: int
) -> None:
    net = checks.Net((channels, height, width))
    y = net.conv("input", "conv", channels, 3, stride=stride, padding=1, groups=channels)
    checks.check(checks.graph_of(net, y), checks.DIRECT, runs="depthwise_window")


@pytest.mark.parametrize("activation", ["relu", "relu6"])
@pytest.mark.parametrize("first", [True, False])
def test_a_window_has_every_epilogue(activation: str, first: bool) -> None:
    """A residual before or after the activation, and what is read as well stored a second time."""
    net = checks.Net((21, 9, 8))
    y = net.conv("input", "conv", 21, 5, padding=2, groups=21)
    if first:
        y = net.add(activation, "act", net.add("add", "sum", y, "input"))
        graph = checks.graph_of(net, y)
    else:
        y = net.add(activation, "act", y)
        graph = checks.graph_of(net, y, net.add("add", "sum", y, "input"))
    plan = checks.check(graph, checks.DIRECT, 9 * checks.image((21, 9, 8)))
    assert [x for x in checks.opcodes(plan) if x != "store_output"] == [
        *("load_image", "spread", "depthwise_window"),
    ]


def test_a_residual_that_lies_in_two_places() -> None:
    net = checks.Net((40, 6, 7))
    parts = [net.conv("input", f"part{i}", 20, 1) for i in range(2)]
    joined = net.add("concat", "joined", *parts, axis=1)
    y = net.conv(joined, "conv", 40, 5, padding=2, groups=40)
    graph = checks.graph_of(net, net.add("add", "sum", y, joined))
    checks.check(graph, checks.DIRECT, runs="depthwise_window")


def test_threads_share_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partition, "LEAST_WORK", 1)
    net = checks.Net((20, 13, 11))
    y = net.conv("input", "conv", 20, 5, stride=2, padding=2, groups=20)
    graph = checks.graph_of(net, y)
    plan = checks.compile_plan(graph, checks.random_weights(graph))
    x = checks.image((20, 13, 11))
    one, three = runner.Runner(plan), runner.Runner(plan, 3)
    three.__dict__["_large"] = True
    assert [shared for _, _, shared in three._partitioned().phases] == [False, True, True, False]
    np.testing.assert_array_equal(three.run(x)[0][0], one.run(x)[0][0])
