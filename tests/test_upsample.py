"""Larger maps: of repeated pixels, by any factors, alone and in a top-down path; between pixels; and past the edges."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

import refnet
from refnet.errors import ShapeError
from refnet.kernels import partition, runner
from refnet.random_weights import random_weights
from tests import kernel_checks as checks

SIDE, FACTOR = st.integers(1, 9), st.integers(1, 4)


@settings(max_examples=40)
@given(channels=st.integers(1, 40), height=SIDE, width=SIDE, factor=st.tuples(FACTOR, FACTOR))
def test_every_pixel_is_repeated(
    channels: int, height: int, width: int, factor: tuple[int, int]
) -> None:
    net = checks.Net((channels, height, width))
    graph = checks.graph_of(net, net.add("upsample", "y", "input", factor=factor))
    plan = checks.check(graph, 0.0, runs="upsample")
    x = checks.image((channels, height, width))
    (y,) = checks.run_guarded(plan, x)
    assert_array_equal(y, np.kron(x, np.ones((1, 1, *factor), np.float32)))


def test_a_top_down_path_has_no_addition_left() -> None:
    """As in feature pyramids: a lateral 1x1 convolution takes in the sum, and no addition is left."""
    net = checks.Net((20, 12, 14))
    top = net.conv("input", "down", 24, 3, stride=2, padding=1)
    lateral = net.conv("input", "lateral", 24, 1)
    total = net.add("add", "sum", lateral, net.add("upsample", "up", top, factor=(2, 2)))
    graph = checks.graph_of(net, net.conv(total, "smooth", 8, 3, padding=1), top)
    plan = checks.check(graph, checks.WINOGRAD)
    assert {"add", "gather"} & {*checks.opcodes(plan)} == set()


@settings(max_examples=15)
@given(counts=st.lists(st.integers(1, 20), min_size=1, max_size=3), data=st.data())
def test_channels_anywhere_in_their_blocks_are_repeated(
    counts: list[int], data: st.DataObject
) -> None:
    net = checks.Net((6, 3, 4))
    parts = [net.conv("input", f"part{i}", c, 1) for i, c in enumerate(counts)]
    joined = net.add("concat", "joined", *parts, axis=1)
    start = data.draw(st.integers(0, sum(counts) - 1))
    cut = net.add("slice", "cut", joined, start=start, stop=sum(counts))
    y = net.add("upsample", "y", cut, factor=(3, 2))
    checks.check(checks.graph_of(net, y, net.conv(y, "next", 3, 1)), checks.DIRECT)


def test_threads_share_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partition, "LEAST_WORK", 1)
    net = checks.Net((20, 7, 5))
    graph = checks.graph_of(net, net.add("upsample", "y", "input", factor=(2, 3)))
    plan, x = checks.compile_plan(graph, {}), checks.image((20, 7, 5))
    one, three = runner.Runner(plan), runner.Runner(plan, 3)
    three.__dict__["_large"] = True
    assert_array_equal(three.run(x)[0], one.run(x)[0])
    assert [shared for _, _, shared in three._partitioned().phases] == [False, True, False]


def test_engine_and_gradient_equal_the_reference() -> None:
    net = checks.Net((3, 6, 6))
    y = net.add("upsample", "y", net.conv("input", "conv", 5, 3, stride=2), factor=(2, 2))
    graph = checks.graph_of(net, y)
    model = refnet.Model(graph, random_weights(graph), backend="compiled")
    x = checks.image((3, 6, 6))
    np.testing.assert_allclose(model(x), model.run(x, backend="numpy"), atol=1e-5)
    wide = x.astype(np.float64)
    cotangent = np.random.default_rng(1).standard_normal((1, 5, 4, 4))
    gradient = model.vjp(wide, cotangent)
    step = np.random.default_rng(2).standard_normal(wide.shape)
    slope = np.asarray(model(wide + step)) - np.asarray(model(wide))  # the network is affine
    np.testing.assert_allclose((gradient * step).sum(), (cotangent * slope).sum(), rtol=1e-9)


@settings(max_examples=40)
@given(
    channels=st.integers(1, 40),
    height=SIDE,
    width=SIDE,
    rows=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    columns=st.tuples(st.integers(0, 3), st.integers(0, 3)),
    value=st.sampled_from([0.0, 1.5, -np.inf]),
)
def test_a_map_in_a_frame(
    channels: int,
    height: int,
    width: int,
    rows: tuple[int, int],
    columns: tuple[int, int],
    value: float,
) -> None:
    net = checks.Net((channels, height, width))
    widths = ((0, 0), rows, columns)
    graph = checks.graph_of(
        net, net.add("pad", "y", "input", widths=widths, mode="constant", value=value)
    )
    plan = checks.compile_plan(graph, {}, guard=16)
    assert "spread" in checks.opcodes(plan)
    x = checks.image((channels, height, width))
    (y,) = checks.run_guarded(plan, x)
    assert_array_equal(y, np.pad(x, ((0, 0), *widths), constant_values=value))


def test_a_frame_of_channels_is_refused() -> None:
    net, widths = checks.Net((3, 6, 6)), ((0, 1), (0, 0), (0, 0))
    y = net.add("pad", "y", "input", widths=widths, mode="constant", value=0.0)
    graph = checks.graph_of(net, y)
    with pytest.raises(checks.UnsupportedError, match="pads by"):
        checks.compile_plan(graph, {})


@pytest.mark.parametrize("factor", [(0, 1), (1, -1)])
def test_a_factor_below_one_is_refused(factor: tuple[int, int]) -> None:
    with pytest.raises(ShapeError, match="whole factors"):
        checks.Net((3, 6, 6)).add("upsample", "y", "input", factor=factor)
    with pytest.raises(ShapeError, match="takes a map"):
        net = checks.Net((3, 2, 2))
        net.add("upsample", "y", net.add("flatten", "f", "input"), factor=(2, 2))


@settings(max_examples=40)
@given(
    channels=st.integers(1, 40),
    height=SIDE,
    width=SIDE,
    factor=st.tuples(FACTOR, FACTOR),
    coordinates=st.sampled_from(["half_pixel", "asymmetric", "align_corners"]),
)
def test_pixels_between_pixels(
    channels: int, height: int, width: int, factor: tuple[int, int], coordinates: str
) -> None:
    net = checks.Net((channels, height, width))
    y = net.add("upsample_linear", "y", "input", factor=factor, coordinates=coordinates)
    checks.check(checks.graph_of(net, y), checks.DIRECT, runs="resample")


@settings(max_examples=40)
@given(
    channels=st.integers(1, 40),
    height=st.integers(2, 9),
    width=st.integers(2, 9),
    mode=st.sampled_from(["edge", "reflect"]),
    data=st.data(),
)
def test_borders_of_a_maps_own_pixels(
    channels: int, height: int, width: int, mode: str, data: st.DataObject
) -> None:
    net = checks.Net((channels, height, width))
    most = 12 if mode == "edge" else 1
    rows, columns = (
        data.draw(st.tuples(*[st.integers(0, most if most > 1 else size - 1)] * 2))
        for size in (height, width)
    )
    y = net.add("pad", "y", "input", widths=((0, 0), rows, columns), mode=mode, value=0.0)
    plan = checks.check(checks.graph_of(net, y), 0.0, runs="resample")
    x = checks.image((channels, height, width))
    (y_found,) = checks.run_guarded(plan, x)
    wanted: Any = np.pad
    assert_array_equal(y_found, wanted(x, ((0, 0), (0, 0), rows, columns), mode=mode))


def test_a_decoder_runs_whole_in_the_engine_and_shares_its_rows_among_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Mirrored borders, convolutions, and maps that grow between their pixels: small networks that paint."""
    monkeypatch.setattr(partition, "LEAST_WORK", 1)
    net = checks.Net((6, 14, 12))
    x = net.add("pad", "pad", "input", widths=((0, 0), (1, 1), (1, 1)), mode="reflect", value=0.0)
    x = net.add("relu", "act", net.conv(x, "conv", 20, 3))
    x = net.add("upsample_linear", "up", x, factor=(2, 2), coordinates="half_pixel")
    joined = net.add("concat", "joined", x, net.conv(x, "more", 7, 1), axis=1)
    graph = checks.graph_of(net, net.conv(joined, "last", 3, 3, padding=1), joined)
    plan = checks.check(graph, checks.WINOGRAD)
    assert checks.opcodes(plan).count("resample") == 2
    one, three = runner.Runner(plan), runner.Runner(plan, 3)
    three.__dict__["_large"] = True
    image = checks.image((6, 14, 12))
    for ours, theirs in zip(*(run.run(image)[0] for run in (one, three)), strict=True):
        assert_array_equal(ours, theirs)
