"""Means and maxima of maps and windows."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refnet import reference
from tests import kernel_checks as checks


@settings(max_examples=30)
@given(channels=st.integers(1, 40), height=st.integers(1, 12), width=st.integers(1, 12))
def test_the_mean_of_a_map_equals_the_definition(channels: int, height: int, width: int) -> None:
    net = checks.Net((channels, height, width))
    graph = checks.graph_of(net, net.global_average("input", "pool"))
    checks.check(graph, checks.DIRECT, runs="global_average")


@pytest.mark.parametrize(
    ("op", "runs"), [("global_average_pool", "global_average"), ("global_max_pool", "window_pool")]
)
@settings(max_examples=20)
@given(channels=st.integers(1, 40), height=st.integers(1, 12), width=st.integers(1, 12))
def test_a_map_of_any_size(op: str, runs: str, channels: int, height: int, width: int) -> None:
    """One network, and one number for each channel whatever the size of its maps."""
    net = checks.Net((channels, 5, 5))
    x = net.add("relu", "relu", net.conv("input", "conv", 20, 1))
    later = net.conv(x, "later", 3, 1)
    y = net.linear(net.add("flatten", "flat", net.add(op, "pool", x)), "linear", 7)
    image = checks.image((channels, height, width))
    plan = checks.check(checks.graph_of(net, y, later), checks.DIRECT, image, runs=runs)
    # The map is still in cache.
    layers = [instruction.name for instruction in plan.instructions]
    assert layers.index("conv") + 1 == layers.index("pool") == layers.index("later") - 1


@pytest.mark.parametrize("op", ["max_pool", "average_pool"])
@settings(max_examples=20)
@given(side=st.integers(5, 14), kernel=st.integers(1, 4), stride=st.integers(1, 3))
def test_any_window_equals_the_definition(op: str, side: int, kernel: int, stride: int) -> None:
    net = checks.Net((9, side, side + 1))
    graph = checks.graph_of(
        net,
        net.add(
            op, "pool", "input", kernel=(kernel, kernel), stride=(stride, stride), padding=(0, 0)
        ),
    )
    checks.check(graph, checks.DIRECT, runs="window_pool")


@pytest.mark.parametrize("op", ["max_pool", "average_pool"])
@settings(max_examples=10)
@given(rows=st.integers(2, 5), columns=st.integers(2, 5))
def test_attributes_that_change_nothing_are_accepted(op: str, rows: int, columns: int) -> None:
    """Rounding sizes up, and counting padding, where windows fill the map and nothing is padded."""
    net = checks.Net((9, 2 * rows, 2 * columns))
    more: Any = {} if op == "max_pool" else {"count_padding": False}
    window: Any = {"kernel": (2, 2), "stride": (2, 2), "padding": (0, 0), "ceil": True, **more}
    graph = checks.graph_of(net, net.add(op, "pool", "input", **window))
    checks.check(graph, checks.DIRECT, runs="window_pool")


@pytest.mark.parametrize("op", ["max_pool", "average_pool"])
@settings(max_examples=30)
@given(
    size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    kernel=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    ceil=st.booleans(),
)
def test_windows_that_reach_outside(
    op: str,
    size: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    ceil: bool,
) -> None:
    """Padding, and last windows that are not whole; a mean has all of its window in the padded map."""
    ceil &= op == "max_pool"
    rows, columns = (max(k - n, p) for k, n, p in zip(kernel, size, padding, strict=True))
    net = checks.Net((9, *size))
    window: Any = {"kernel": kernel, "stride": stride, "padding": (rows, columns), "ceil": ceil}
    y = net.add(op, "pool", "input", **window)
    graph, x = checks.graph_of(net, y), checks.image((9, *size))
    (expected,) = reference.run(graph, {}, x)
    (found,) = checks.run_guarded(checks.compile_plan(graph, {}, guard=16), x)
    # A window may lie in the padding as a whole; its maximum is that of nothing.
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("op", ["max_pool", "average_pool"])
def test_a_padded_pool_in_a_network(op: str) -> None:
    """The stem of a residual network, at every width of vectors."""
    net = checks.Net((3, 17, 18))
    x = net.add("relu", "relu", net.conv("input", "stem", 20, 3, stride=2, padding=1))
    window: Any = {"kernel": (3, 3), "stride": (2, 2), "padding": (1, 1)}
    x = net.conv(net.add(op, "pool", x, **window), "next", 8, 1)
    plan = checks.check(checks.graph_of(net, x), checks.DIRECT, runs="window_pool")
    assert checks.opcodes(plan)[1:3] == ["spread", "window_pool"]


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"padding": (1, 1), "count_padding": False}, "leaves out its padding"),
        ({"padding": (0, 0), "ceil": True}, "hang over the edge"),
        ({"padding": (0, 0), "dilation": (2, 2)}, "pools with dilation"),
    ],
)
def test_means_of_differently_many_values_and_gaps_are_refused(
    attributes: dict[str, Any], message: str
) -> None:
    net = checks.Net((3, 6, 7))
    window: Any = {"kernel": (2, 2), "stride": (2, 2), **attributes}
    net.add("average_pool", "pool", "input", **window)
    with pytest.raises(checks.UnsupportedError, match=message):
        checks.compile_plan(checks.graph_of(net, "pool"), {})
