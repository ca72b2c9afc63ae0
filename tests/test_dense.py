"""Direct k x k convolutions, of channel blocks and of the image itself."""

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests import kernel_checks as checks

SIDE = st.integers(2, 24)


@settings(max_examples=80)
@given(
    taken=st.integers(5, 40),
    made=st.integers(1, 40),
    height=SIDE,
    width=SIDE,
    kernel=st.integers(1, 7),
    stride=st.integers(1, 3),
    padding=st.integers(0, 3),
)
def test_any_window_equals_the_definition(
    taken: int, made: int, height: int, width: int, kernel: int, stride: int, padding: int
) -> None:
    assume(min(checks.window_size(side, kernel, stride, padding) for side in (height, width)) >= 1)
    net = checks.Net((taken, height, width))
    y = net.conv("input", "conv", made, kernel, stride=stride, padding=padding)
    checks.check(checks.graph_of(net, net.add("relu", "act", y)), checks.WINOGRAD)


@settings(max_examples=80)
@given(
    taken=st.integers(1, 4),
    made=st.integers(1, 40),
    height=SIDE,
    width=st.integers(2, 70),
    kernel=st.integers(1, 5),
    stride=st.integers(1, 3),
    padding=st.integers(0, 2),
)
def test_any_first_layer_equals_the_definition(
    taken: int, made: int, height: int, width: int, kernel: int, stride: int, padding: int
) -> None:
    assume(min(checks.window_size(side, kernel, stride, padding) for side in (height, width)) >= 1)
    net = checks.Net((taken, height, width))
    y = net.conv("input", "conv", made, kernel, stride=stride, padding=padding)
    plan = checks.check(checks.graph_of(net, net.add("relu6", "act", y)), checks.DIRECT)
    assert checks.opcodes(plan) == ["planar", "store_output"]


@settings(max_examples=60)
@given(
    taken=st.integers(1, 4),
    made=st.integers(1, 16),
    height=st.integers(3, 16),
    width=st.integers(17, 80),
    padding=st.integers(0, 1),
    apart=st.booleans(),
    act=st.sampled_from(["relu", "leaky_relu", "none", "stored twice"]),
)
def test_first_layers_of_stride_2_are_done_by_pairs_of_rows(
    taken: int, made: int, height: int, width: int, padding: int, apart: bool, act: str
) -> None:
    """Of at most one block; taps that lie apart are not, and give the right numbers all the same."""
    net = checks.Net((taken, height, width))
    dilation = (1, 2 if apart else 1)
    y = net.conv("input", "conv", made, 3, stride=2, padding=padding, dilation=dilation)
    outputs = [y]
    if act == "leaky_relu":
        outputs = [net.add("leaky_relu", "act", y, slope=0.3)]
    elif act != "none":
        outputs = [net.add("relu", "act", y), y][: 1 + (act == "stored twice")]
    checks.check(checks.graph_of(net, *outputs), checks.DIRECT)


def test_a_row_is_the_same_bits_by_itself_and_in_a_pair() -> None:
    """The fifth of five rows is by itself; of six it is in a pair, over zeros where it had padding."""
    image, rows = checks.image((3, 11, 50)), []
    image[:, :, 9:] = 0
    for height in (9, 11):
        net = checks.Net((3, height, 50))
        graph = checks.graph_of(net, net.conv("input", "conv", 16, 3, stride=2, padding=1))
        plan = checks.compile_plan(
            graph, checks.random_weights(graph, 1), (3, height, 50), guard=16
        )
        (y,) = checks.run_guarded(plan, image[:, :, :height].copy())
        rows.append(y[0, :, 4])
    np.testing.assert_array_equal(rows[0], rows[1])


@pytest.mark.parametrize("padding", [0, 1])
def test_normalization_is_folded_or_done_while_reading(padding: int) -> None:
    """Without padding it moves into the weights; with padding, a padded zero must stay zero."""
    net = checks.Net((3, 13, 17))
    y = net.add("normalize", "normalize", "input", mean=127.5, std=127.5)
    graph = checks.graph_of(net, net.conv(y, "conv", 10, 3, stride=2, padding=padding))
    x = 127 + 60 * checks.image((3, 13, 17))
    assert checks.opcodes(checks.check(graph, checks.DIRECT, x)) == ["planar", "store_output"]


def test_many_groups_of_rows_join_without_a_seam() -> None:
    net = checks.Net((24, 70, 90))
    y = net.conv("input", "conv", 9, 3, stride=2)
    plan = checks.check(checks.graph_of(net, y), checks.DIRECT)
    assert "groups of" in plan.explain()


def test_a_valid_head_reads_its_input_in_place() -> None:
    net = checks.Net((32, 7, 7))
    graph = checks.graph_of(net, net.conv("input", "conv8", 128, 7))
    assert "read in place" in checks.check(graph, checks.DIRECT).explain()


def test_residual_of_scattered_blocks_is_gathered() -> None:
    net = checks.Net((8, 11, 11))
    parts = [net.conv("input", f"part{i}", 16, 1) for i in range(3)]
    joined = net.add("concat", "joined", parts[0], parts[1], parts[2], axis=1)
    z = net.conv(joined, "conv", 48, 3, stride=1, padding=1)
    graph = checks.graph_of(net, net.add("add", "sum", z, net.add("relu", "a", joined)), joined)
    checks.check(graph, checks.WINOGRAD)
