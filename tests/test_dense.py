"""Direct k x k convolutions, of channel blocks and of the image itself."""

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
