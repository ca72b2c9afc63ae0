"""Layers that take turns row by row: the bits of whole layers, never storing what lies between them."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refnet.graph import Graph
from refnet.kernels import partition, runner, simd, streaming
from tests import kernel_checks as checks

POOL: Any = {"kernel": (2, 2), "stride": (2, 2), "padding": (0, 0)}


def streamed(graph: Graph, patch: pytest.MonkeyPatch, rows: int = 1, halos: int = 1) -> checks.Plan:
    """The plan whose every tensor may be streamed, in bands of so many rows, which makes the same bits as the whole."""
    for lanes in checks.LANE_COUNTS:
        module = checks.at_lanes(lanes).streaming
        patch.setattr(module, "STREAMED", 1 << 60)
    weights, x = checks.random_weights(graph, 1), checks.image(graph.input_shape)
    whole = checks.run_guarded(checks.check(graph, checks.WINOGRAD), x)
    for lanes in checks.LANE_COUNTS:
        module = checks.at_lanes(lanes).streaming
        patch.setattr(module, "STREAMED", 1)
        patch.setattr(module, "BAND_ROWS", rows)
        patch.setattr(module, "BAND_FLOATS", 0)
        patch.setattr(module, "MOST_HALOS", halos)
    plan = checks.check(graph, checks.WINOGRAD, weights=weights)
    for y, expected in zip(checks.run_guarded(plan, x), whole, strict=True):
        np.testing.assert_array_equal(y, expected)
    return plan


def stored(plan: checks.Plan) -> set[str]:
    """The tensors that lie in memory as a whole."""
    return {buffer.name for i in plan.instructions for buffer in i.writes if not buffer.per_thread}


def stem(height: int, width: int) -> Graph:
    """The first layers of a depthwise-separable detector."""
    net = checks.Net((3, height, width))
    x = net.add("relu", "first", net.conv("input", "planar", 16, 3, stride=2, padding=1))
    x = net.conv(net.conv(x, "point", 20, 1), "depth", 20, 3, padding=1, groups=20)
    x = net.add("max_pool", "pool", net.add("relu", "relu", x), **POOL)
    x = net.conv(x, "point2", 24, 1)
    x = net.conv(x, "depth2", 24, 3, stride=2, padding=1, groups=24)
    return checks.graph_of(net, net.add("leaky_relu", "last", x, slope=0.1))


@pytest.mark.parametrize("halos", [0, 1, 2])
def test_a_stem_is_one_stream_or_a_few(halos: int) -> None:
    graph = stem(37, 43)
    with pytest.MonkeyPatch.context() as patch:
        plan = streamed(graph, patch, halos=halos)
    # Which has a stride, the second depthwise layer costs few rows, and does not count.
    expected = {0: {"point", "last"}, 1: {"last"}, 2: {"last"}}
    assert stored(plan) == expected[halos]


@pytest.mark.parametrize("stride", [1, 2])
def test_a_stream_holds_one_depthwise_layer_without_a_stride(stride: int) -> None:
    net = checks.Net((3, 23, 26))
    x = net.conv("input", "planar", 16, 3, stride=2, padding=1)
    x = net.conv(net.conv(x, "depth", 16, 3, padding=1, groups=16), "point", 20, 1)
    x = net.conv(x, "depth2", 20, 3, stride=stride, padding=1, groups=20)
    graph = checks.graph_of(net, net.conv(x, "last", 5, 1))
    with pytest.MonkeyPatch.context() as patch:
        plan = streamed(graph, patch)
    assert stored(plan) == ({"point", "last"} if stride == 1 else {"last"})


@settings(max_examples=25)
@given(
    rows=st.integers(1, 5),
    size=st.tuples(st.integers(4, 17), st.integers(3, 17)),
    channels=st.integers(1, 24),
    stride=st.integers(1, 2),
    padding=st.integers(0, 1),
    op=st.sampled_from(["max_pool", "average_pool", "conv", ""]),
    first=st.sampled_from([1, 3]),
)
def test_bands_of_any_size_give_the_bits_of_the_whole(
    rows: int,
    size: tuple[int, int],
    channels: int,
    stride: int,
    padding: int,
    op: str,
    first: int,
) -> None:
    """A layer, a depthwise one, and a pool or a 1x1 convolution."""
    net = checks.Net((3 if first == 3 else 6, *size))
    x = net.conv("input", "first", channels, first, padding=first // 2)
    x = net.conv(x, "depth", channels, 3, stride=stride, padding=padding, groups=channels)
    window: Any = {"kernel": (1, 2), "stride": (2, 1), "padding": (0, 0)}
    if op == "conv":
        x = net.conv(x, "last", 9, 1)
    elif op and min(net.shape[x][1:]) >= 2:
        x = net.add(op, "last", x, **window)
    with pytest.MonkeyPatch.context() as patch:
        streamed(checks.graph_of(net, x), patch, rows)


@pytest.mark.parametrize("reason", ["output", "two readers", "residual", "small"])
def test_what_is_stored_anyway_is_not_streamed(reason: str) -> None:
    net = checks.Net((6, 12, 11))
    x = net.conv("input", "point", 8, 1)
    y = net.conv(x, "depth", 8, 3, padding=1, groups=8)
    outputs = [y]
    if reason == "output":
        outputs.append(x)
    if reason == "two readers":
        outputs.append(net.conv(x, "other", 8, 3, padding=1, groups=8))
    if reason == "residual":
        outputs[0] = net.add("add", "sum", y, x)
    graph = checks.graph_of(net, *outputs)
    with pytest.MonkeyPatch.context() as patch:
        if reason == "small":
            plan = checks.check(graph, checks.DIRECT)
        else:
            plan = streamed(graph, patch)
    assert all(i.band is None for i in plan.instructions)


@pytest.mark.parametrize("threads", [2, 3])
def test_threads_share_the_bands(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = stem(61, 53)
    plan = streamed(graph, monkeypatch)
    monkeypatch.setattr(partition, "LEAST_WORK", 1)
    x = checks.image(graph.input_shape)
    one, many = runner.Runner(plan), runner.Runner(plan, threads)
    many.__dict__["_large"] = True
    assert any(shared for _, _, shared in many._partitioned().phases)
    np.testing.assert_array_equal(many.run(x)[0][0], one.run(x)[0][0])


def test_bands_fill_the_cache() -> None:
    """As many rows as fit, so that few are made twice, and no more bands than an image is worth."""
    graph = stem(480, 640)
    plan = checks.compile_plan(graph, checks.random_weights(graph))
    bands: dict[str, int] = {}
    for i in plan.instructions:
        if i.band is not None:
            bands[i.band[0]] = max(bands.get(i.band[0], 0), i.band[1] + 1)
    assert set(bands) == {"planar"}
    # For each row two rows of 160 pixels, pooled and of the layer after it, and for each of these two rows of 320 pixels
    # of all that lies before the pool.
    planar, other, last = (-(-channels // simd.LANES) * simd.LANES for channels in (16, 20, 24))
    floats = 2 * 160 * (other + last) + 4 * 320 * (planar + 2 * other)
    rows = max(streaming.BAND_ROWS, streaming.BAND_FLOATS // floats)
    assert bands["planar"] == -(-60 // rows)
