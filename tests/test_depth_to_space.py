"""Channels that become pixels; transposed and grouped convolutions, which are made of other layers."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refnet.errors import ShapeError
from refnet.kernels import partition, runner
from tests import kernel_checks as checks

SIDE = st.integers(1, 8)


@settings(max_examples=40)
@given(
    channels=st.integers(1, 20),
    rows=SIDE,
    columns=SIDE,
    block=st.integers(1, 3),
    first=st.booleans(),
)
def test_channels_become_squares_of_pixels(
    channels: int, rows: int, columns: int, block: int, first: bool
) -> None:
    net = checks.Net((channels * block**2, rows, columns))
    y = net.add("depth_to_space", "y", "input", block=block, depth_first=first)
    checks.check(checks.graph_of(net, y), 0.0, runs="depth_to_space")


@settings(max_examples=40)
@given(
    channels=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    rows=SIDE,
    columns=SIDE,
    side=st.integers(1, 3),
    op=st.sampled_from(["", "relu", "relu6", "leaky_relu", "sigmoid"]),
    bias=st.booleans(),
)
def test_transposed_convolutions_without_overlap_equal_the_definition(
    channels: tuple[int, int], rows: int, columns: int, side: int, op: str, bias: bool
) -> None:
    taken, made = channels
    net = checks.Net((taken, rows, columns))
    parameters = {"weight": ("w", (taken, made, side, side))} | (
        {"bias": ("b", (made,))} if bias else {}
    )
    window: Any = {"kernel": (side, side), "stride": (side, side), "padding": (0, 0)}
    window |= {"output_padding": (0, 0), "dilation": (1, 1)}
    y = net.add("conv_transpose", "up", "input", parameters=parameters, groups=1, **window)
    if op:
        slope: Any = {"slope": 0.1} if op == "leaky_relu" else {}
        y = net.add(op, "y", y, **slope)
    plan = checks.check(checks.graph_of(net, y), checks.DIRECT, runs="depth_to_space")
    assert {"add", "gather"} & {*checks.opcodes(plan)} == set()


def test_the_convolution_and_its_activation_may_both_be_read() -> None:
    net = checks.Net((5, 3, 4))
    window: Any = {"kernel": (2, 2), "stride": (2, 2), "padding": (0, 0)}
    window |= {"output_padding": (0, 0), "dilation": (1, 1)}
    weight = {"weight": ("w", (5, 7, 2, 2))}
    y = net.add("conv_transpose", "up", "input", parameters=weight, groups=1, **window)
    graph = checks.graph_of(net, y, net.add("relu", "y", y))
    checks.check(graph, checks.DIRECT, runs="depth_to_space")


PAIR = st.tuples(st.integers(1, 3), st.integers(1, 3))


@settings(max_examples=80)
@given(
    channels=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    groups=st.sampled_from([1, 1, 2, 3]),
    size=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    kernel=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    stride=PAIR,
    dilation=PAIR,
    padding=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    more=st.tuples(st.integers(-2, 2), st.integers(-2, 2)),
    op=st.sampled_from(["", "relu", "sigmoid"]),
)
def test_transposed_convolutions_of_any_window(
    channels: tuple[int, int],
    groups: int,
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    dilation: tuple[int, int],
    padding: tuple[int, int],
    more: tuple[int, int],
    op: str,
) -> None:
    taken, made = (n * groups for n in channels)
    window: Any = {"stride": stride, "padding": padding, "dilation": dilation}
    net = checks.Net((taken, *size))
    try:
        y = net.conv_transpose(
            *("input", "up", made, kernel), groups=groups, output_padding=more, **window
        )
    except ShapeError:
        return  # more is cut off than there is
    y = net.add(op, "y", y) if op else y
    checks.check(checks.graph_of(net, y), checks.WINOGRAD)


@settings(max_examples=30)
@given(
    channels=st.integers(2, 40),
    rows=SIDE,
    columns=SIDE,
    window=st.sampled_from([(4, 2, 1, 0), (3, 2, 1, 1), (3, 2, 0, 0), (6, 3, 2, 1), (2, 2, 0, 0)]),
)
def test_transposed_depthwise_convolutions(
    channels: int, rows: int, columns: int, window: tuple[int, int, int, int]
) -> None:
    """4x4 of stride 2 and padding 1 is bilinear upsampling."""
    kernel, stride, padding, more = map(checks.pair, window)
    net = checks.Net((channels, rows, columns))
    y = net.conv_transpose(
        *("input", "up", channels, kernel),
        stride=stride,
        padding=padding,
        output_padding=more,
        groups=channels,
    )
    checks.check(checks.graph_of(net, y), checks.DIRECT, runs="spread")


@pytest.mark.parametrize(
    ("window", "runs"),
    [
        ((4, 2, 1, 0), "depth_to_space"),  # a 3x3 convolution to four pixels
        ((3, 2, 1, 1), "depth_to_space"),
        ((6, 2, 2, 0), "depth_to_space"),
        ((3, 2, 1, 0), "spread"),  # one row and one column fewer than twice as many
        ((3, 2, 0, 0), "spread"),
        ((2, 1, 0, 0), "spread"),
    ],
)
def test_squares_where_windows_make_them(window: tuple[int, int, int, int], runs: str) -> None:
    kernel, stride, padding, more = map(checks.pair, window)
    net = checks.Net((20, 9, 10))
    y = net.conv_transpose(
        *("input", "up", 24, kernel), stride=stride, padding=padding, output_padding=more
    )
    plan = checks.check(checks.graph_of(net, y), checks.WINOGRAD, runs=runs)
    assert len({"depth_to_space", "spread"} & {*checks.opcodes(plan)}) == 1


@settings(max_examples=20)
@given(
    groups=st.integers(2, 5),
    taken=st.integers(1, 9),
    made=st.integers(1, 9),
    kernel=st.integers(1, 3),
    bias=st.booleans(),
)
def test_grouped_convolutions(groups: int, taken: int, made: int, kernel: int, bias: bool) -> None:
    net = checks.Net((groups * taken, 7, 8))
    x = net.add("relu", "first", net.conv("input", "point", groups * taken, 1))
    y = net.conv(x, "conv", groups * made, kernel, padding=kernel // 2, groups=groups)
    graph = checks.graph_of(net, net.conv(net.add("relu", "relu", y), "last", 3, 1))
    plan = checks.check(graph, checks.WINOGRAD)
    assert "gather" not in checks.opcodes(plan)


def test_threads_share_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partition, "LEAST_WORK", 1)
    net = checks.Net((20, 7, 5))
    y = net.add("depth_to_space", "y", "input", block=2, depth_first=True)
    plan, x = checks.compile_plan(checks.graph_of(net, y), {}), checks.image((20, 7, 5))
    one, three = runner.Runner(plan), runner.Runner(plan, 3)
    three.__dict__["_large"] = True
    assert sum(shared for _, _, shared in three._partitioned().phases) == 1
    np.testing.assert_array_equal(three.run(x)[0][0], one.run(x)[0][0])
