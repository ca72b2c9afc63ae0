"""Softmax over channels: maps, vectors and cells, channels anywhere in their blocks, extreme logits."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from refnet import ops
from refnet.graph import Graph
from refnet.kernels import elementwise, instructions, partition, runner, simd, softmax
from tests import kernel_checks as checks

SIDE = st.integers(1, 9)
EPSILON = float(np.finfo(np.float32).eps)


def softmax_graph(shape: tuple[int, int, int]) -> Graph:
    """Nothing but a softmax over the channels of the input."""
    net = checks.Net(shape)
    return checks.graph_of(net, net.add("softmax", "y", "input", axis=1))


def run(
    x: np.ndarray[Any, np.dtype[np.float32]], lanes: int = simd.LANES
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The engine's softmax over axis 1 of (N, C, H, W), guarded."""
    kernels = checks.at_lanes(lanes)
    plan = kernels.compiler.compile_plan(softmax_graph(x.shape[1:]), {}, guard=16)
    (y,) = kernels.guard.run_guarded(plan, x)
    return y  # type: ignore[no-any-return]


@pytest.mark.parametrize("lanes", checks.LANE_COUNTS)
@settings(max_examples=40)
@given(
    channels=st.integers(1, 70),
    height=SIDE,
    width=SIDE,
    scale=st.sampled_from([0.01, 1.0, 30.0, 1e3, 1e30]),
    seed=st.integers(0, 99),
)
def test_any_shape_equals_the_definition_to_the_last_bits(
    lanes: int, channels: int, height: int, width: int, scale: float, seed: int
) -> None:
    """Relative to every single probability: rounding x - max x costs half a unit of that difference, the exponential,
    the sum and the division a few units more. What is below float32's normal numbers is 0 or close to it."""
    x = np.float32(scale) * checks.image((channels, height, width), seed)
    wide = x.astype(np.float64)
    expected = ops.softmax(wide, axis=1)
    y = run(x, lanes)
    bound = (4 + np.abs(wide - wide.max(1, keepdims=True)) / 2) * EPSILON * expected
    assert (np.abs(y - expected) <= np.maximum(bound, np.finfo(np.float32).tiny)).all()
    np.testing.assert_allclose(y.sum(1), 1, atol=1e-6)


def test_one_channel_gives_1_and_equal_channels_equal_shares() -> None:
    assert_array_equal(run(checks.image((1, 3, 3))), 1)
    np.testing.assert_allclose(run(np.full((1, 7, 2, 2), -3e38, np.float32)), 1 / 7, rtol=1e-6)


@pytest.mark.parametrize("lanes", checks.LANE_COUNTS)
def test_infinite_logits_give_0_or_nan_as_in_the_definition(lanes: int) -> None:
    """Minus infinity is a probability of exactly 0; a pixel that has no finite maximum is NaN, and no other is."""
    x = checks.image((21, 2, 3))
    x[0, 4] = x[0, 20] = -np.inf
    x[0, 20, 0, 0] = 3e38
    x[0, :, 1, 1] = -np.inf
    x[0, 7, 0, 2] = np.inf
    with np.errstate(invalid="ignore"):
        expected = ops.softmax(x.astype(np.float64), axis=1)
    y = run(x, lanes)
    np.testing.assert_allclose(y, expected, rtol=1e-6)
    assert (y[0, 4][[0, 0, 1, 1], [0, 1, 0, 2]] == 0).all()
    assert np.isnan(y[0, :, 1, 1]).all() and np.isnan(y[0, :, 0, 2]).all()


@pytest.mark.parametrize("lanes", checks.LANE_COUNTS)
def test_a_nan_spoils_its_own_pixel_only(lanes: int) -> None:
    x = checks.image((18, 3, 3))
    x[0, 17, 1, 2] = np.nan
    spoilt = np.isnan(run(x, lanes)).all(axis=1)
    assert_array_equal(spoilt[0], np.arange(9).reshape(3, 3) == 5)


@settings(max_examples=40)
@given(counts=st.lists(st.integers(1, 20), min_size=1, max_size=3), data=st.data())
def test_channels_anywhere_in_their_blocks_equal_the_definition(
    counts: list[int], data: st.DataObject
) -> None:
    """Of a slice of a concatenation, whose blocks hold other channels as well, and sliced again."""
    net = checks.Net((6, 4, 5))
    joined = net.add(
        "concat",
        "joined",
        *(net.conv("input", f"part{i}", c, 1) for i, c in enumerate(counts)),
        axis=1,
    )
    start = data.draw(st.integers(0, sum(counts) - 1))
    stop = data.draw(st.integers(start + 1, sum(counts)))
    y = net.add("softmax", "y", net.add("slice", "cut", joined, start=start, stop=stop), axis=1)
    half = net.add("slice", "half", y, start=(stop - start) // 2, stop=stop - start)
    whole = net.add("softmax", "whole", joined, axis=1)
    checks.check(checks.graph_of(net, y, half, net.conv(whole, "next", 3, 1)), checks.DIRECT)


def test_other_channels_of_a_block_do_not_matter() -> None:
    """Not even where they are NaN: the slice's own channels decide."""
    net = checks.Net((8, 2, 2))
    cut = net.add("slice", "cut", "input", start=2, stop=5)
    graph = checks.graph_of(net, net.add("softmax", "y", cut, axis=1))
    x = checks.image((8, 2, 2))
    x[0, [0, 1, 5, 6, 7]] = np.array([np.nan, np.inf, 3e38, np.nan, -np.inf])[:, None, None]
    (y,) = checks.run_guarded(checks.compile_plan(graph, {}, guard=16), x)
    np.testing.assert_allclose(y, ops.softmax(x[:, 2:5].astype(np.float64), axis=1), rtol=1e-6)


@pytest.mark.parametrize("axis", [1, -1])
@pytest.mark.parametrize("features", [1, 5, 130])
def test_vectors_equal_the_definition(axis: int, features: int) -> None:
    net = checks.Net((7, 3, 2))
    flat = net.add("flatten", "flat", "input")
    y = net.add("softmax", "y", net.linear(flat, "fc", features), axis=axis)
    graph = checks.graph_of(net, y, net.add("softmax", "z", flat, axis=axis))
    assert checks.opcodes(checks.check(graph, checks.DIRECT)).count("softmax") == 2


@pytest.mark.parametrize("axis", [2, -1])
def test_cells_equal_the_definition(axis: int) -> None:
    """The last axis of (N, cells, C), before and after scales are joined."""
    net = checks.Net((6, 5, 4))
    cells = []
    for i, size in enumerate((1, 2)):
        x = net.conv("input", f"scale{i}", 8, 3, stride=size, padding=1)
        cells.append(net.add("cells", f"cells{i}", net.conv(x, f"head{i}", 3, 1)))
    joined = net.add("concat", "all", *cells, axis=1)
    outputs = [net.add("softmax", f"y{i}", x, axis=axis) for i, x in enumerate((joined, cells[1]))]
    checks.check(checks.graph_of(net, *outputs, joined), checks.DIRECT)


@pytest.mark.parametrize("axis", [2, 3, -1, 0])
def test_a_softmax_over_rows_columns_or_images_is_refused(axis: int) -> None:
    net = checks.Net((6, 5, 4))
    graph = checks.graph_of(net, net.add("softmax", "y", "input", axis=axis))
    with pytest.raises(checks.UnsupportedError, match=f"y is a softmax along axis {axis} of"):
        checks.compile_plan(graph, {})


def test_a_softmax_over_all_cells_is_refused() -> None:
    net = checks.Net((6, 5, 4))
    graph = checks.graph_of(net, net.add("softmax", "y", net.add("cells", "c", "input"), axis=1))
    with pytest.raises(checks.UnsupportedError, match="y is a softmax along axis 1"):
        checks.compile_plan(graph, {})


def test_threads_share_the_pixels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partition, "LEAST_WORK", 1)
    graph = softmax_graph((20, 9, 11))
    plan, x = checks.compile_plan(graph, {}), checks.image((20, 9, 11))
    one, three = runner.Runner(plan), runner.Runner(plan, 3)
    three.__dict__["_large"] = True
    assert_array_equal(three.run(x)[0], one.run(x)[0])
    assert [shared for _, _, shared in three._partitioned().phases] == [False, True, False]


def test_the_exponential_is_accurate_to_one_unit() -> None:
    """A thousandth of all floats from -88 to 88; below the smallest normal number it gives way to 0."""
    magnitudes = np.arange(0, 0x42B00001, 1009).astype(np.uint32).view(np.float32)
    for floats in (magnitudes, -magnitudes):
        x = floats[: floats.size // simd.LANES * simd.LANES].reshape(-1, simd.LANES)
        expected = np.exp(x.astype(np.float64))
        error = np.abs(elementwise.exponential(x) - expected)
        unit = np.spacing(expected.astype(np.float32))
        normal = expected >= np.finfo(np.float32).tiny
        assert (error[normal] <= unit[normal]).all()
        assert (error[~normal] <= np.finfo(np.float32).tiny).all()
    assert_array_equal(elementwise.exponential(simd.splat(float("-inf"))), 0)


def test_the_kernel_is_plain_python() -> None:
    """Uncompiled, over NumPy's definitions of the operations, it gives the compiled kernel's values."""
    channels = simd.LANES + 3
    x = checks.image((channels, 2, 1))
    blocks = np.full((2, 2, simd.LANES), np.nan, np.float32)
    blocks[0], blocks[1, :, :3] = x[0, : simd.LANES, :, 0].T, x[0, simd.LANES :, :, 0].T
    arena = np.concatenate([blocks.ravel(), np.full(blocks.size, np.nan, np.float32)])
    limits = np.full(2 * simd.LANES, -np.inf, np.float32)
    limits[:channels] = np.inf
    program = np.array([0, 2 * simd.LANES])
    instruction = np.zeros(instructions.WIDTH, np.int64)
    instruction[instructions.Y], instruction[instructions.PIXELS] = blocks.size, 2
    instruction[instructions.BLOCKS], instruction[instructions.LAST] = 2, 2
    softmax.softmax(instruction, program, arena, limits, arena[:0], arena[:0])
    y = arena[blocks.size :].reshape(2, 2, simd.LANES).transpose(0, 2, 1).reshape(-1, 2)
    np.testing.assert_allclose(y[:channels], run(x)[0, :, :, 0], rtol=5e-7)
    assert_array_equal(y[channels:], 0)
