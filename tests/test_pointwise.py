"""The register tile and the 1x1 convolution: every remainder of pixels and channels, every epilogue."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose

from refnet.kernels import epilogue, instructions, register_tile, simd
from tests import kernel_checks as checks

LANES = simd.LANES
CHANNELS = st.integers(1, 70)
SIDE = st.integers(1, 15)


@settings(max_examples=60)
@given(taken=st.integers(5, 70), made=CHANNELS, height=SIDE, width=SIDE)
@example(taken=LANES, made=2 * LANES, height=14, width=14)
@example(taken=130, made=1, height=1, width=1)
def test_any_shape_equals_the_definition(taken: int, made: int, height: int, width: int) -> None:
    net = checks.Net((taken, height, width))
    graph = checks.graph_of(net, net.conv("input", "conv", made, 1))
    checks.check(graph, checks.DIRECT, runs="pointwise")


def test_every_number_of_pixels_has_its_tile() -> None:
    """All remainders of the largest tile, one and two blocks wide."""
    for pixels in range(1, 2 * max(register_tile.MOST_PIXELS) + 2):
        for made in (LANES, 2 * LANES, 3 * LANES):
            net = checks.Net((5, 1, pixels))
            checks.check(checks.graph_of(net, net.conv("input", "conv", made, 1)), checks.DIRECT)


@pytest.mark.parametrize("activation", ["relu", "relu6"])
@settings(max_examples=15)
@given(made=st.integers(1, 40), width=st.integers(1, 30))
def test_residual_and_activation_are_fused(activation: str, made: int, width: int) -> None:
    """act(conv(x) + x') and conv(x) itself, and act(x' + act(conv(x))): all epilogues of a tile."""
    for inner in (False, True):
        net = checks.Net((6, 2, width))
        other = net.conv("input", "other", made, 1)
        y = net.conv("input", "conv", made, 1)
        y = net.add(activation, "inner", y) if inner else y
        total = net.add("add", "sum", y, other)
        graph = checks.graph_of(net, net.add(activation, "outer", total))
        plan = checks.check(graph, checks.DIRECT, 9 * checks.image((6, 2, width)))
        assert checks.opcodes(plan).count("add") == 0


def test_a_tensor_and_its_relu_are_stored_by_one_tile() -> None:
    net = checks.Net((20, 5, 7))
    z = net.conv("input", "conv", 33, 1)
    a = net.add("relu", "a", z)
    graph = checks.graph_of(net, z, net.conv(a, "next", 9, 1))
    assert checks.opcodes(checks.check(graph, checks.DIRECT)).count("add") == 0


def test_a_linear_layer_is_a_pointwise_one_of_one_pixel() -> None:
    for features in (1, 3, 64, 131):
        net = checks.Net((7, 3, 2))
        graph = checks.graph_of(
            net, net.linear(net.add("flatten", "flat", "input"), "fc", features)
        )
        checks.check(graph, checks.DIRECT)


def test_nan_stays_nan_through_relu() -> None:
    """As in PyTorch: a broken input shows, instead of becoming 0."""
    for activation in ("relu", "relu6"):
        net = checks.Net((4, 3, 3))
        y = net.add(activation, "act", net.conv("input", "conv", 4, 1))
        graph = checks.graph_of(net, y)
        x = checks.image((4, 3, 3))
        x[0, 2, 1, 1] = np.nan
        plan = checks.compile_plan(graph, checks.random_weights(graph))
        (y_out,) = checks.run_guarded(plan, x)
        assert np.isnan(y_out[0, :, 1, 1]).all()
        assert np.isfinite(np.delete(y_out.reshape(4, 9), 4, 1)).all()


def test_panels_cover_all_blocks() -> None:
    for blocks in range(1, 40):
        assert (
            sum(register_tile.panels(blocks, 0)) == sum(register_tile.panels(blocks, 1)) == blocks
        )
        assert max(register_tile.panels(blocks, 0)) <= 2


def test_kernels_are_plain_python() -> None:
    """The same source, not compiled: every SIMD operation is its own NumPy definition."""
    pixels, depth, made = 3, LANES + 2, LANES
    rng = np.random.default_rng(0)
    x = rng.standard_normal((2, pixels, LANES)).astype(np.float32)
    w, b = rng.standard_normal((depth, made)), rng.standard_normal(made)
    packed = register_tile.pack(w, b, range(made), 0)
    y = np.zeros(pixels * LANES, np.float32)
    segments = np.array([0, LANES, pixels * LANES, 2])
    flags = epilogue.RELU | epilogue.STORE_FIRST
    instruction = np.zeros(instructions.WIDTH, np.int64)
    instruction[instructions.BLOCK_PITCH], instruction[instructions.BLOCKS] = pixels * LANES, 1
    instruction[instructions.SEGMENT_COUNT], instruction[instructions.DEPTH] = 2, depth
    instruction[instructions.FLAGS] = flags
    register_tile.multiply(instruction, x.ravel(), segments, packed, y, pixels)
    inputs = np.concatenate([x[0], x[1, :, :2]], axis=1)
    assert_allclose(y.reshape(pixels, made), np.maximum(inputs @ w + b, 0), atol=1e-5)
    assert simd.LANES in (4, 8, 16)
