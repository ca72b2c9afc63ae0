"""Means and maxima of maps and windows."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import kernel_checks as checks


@settings(max_examples=30)
@given(channels=st.integers(1, 40), height=st.integers(1, 12), width=st.integers(1, 12))
def test_the_mean_of_a_map(channels: int, height: int, width: int) -> None:
    net = checks.Net((channels, height, width))
    graph = checks.graph_of(net, net.global_average("input", "pool"))
    checks.check(graph, checks.DIRECT, runs="global_average")


@pytest.mark.parametrize("op", ["max_pool", "average_pool"])
@settings(max_examples=20)
@given(side=st.integers(5, 14), kernel=st.integers(1, 4), stride=st.integers(1, 3))
def test_windows(op: str, side: int, kernel: int, stride: int) -> None:
    net = checks.Net((9, side, side + 1))
    graph = checks.graph_of(
        net,
        net.add(
            op, "pool", "input", kernel=(kernel, kernel), stride=(stride, stride), padding=(0, 0)
        ),
    )
    checks.check(graph, checks.DIRECT, runs="window_pool")


def test_padding_is_refused() -> None:
    net = checks.Net((3, 6, 6))
    net.add("max_pool", "pool", "input", kernel=(2, 2), stride=(2, 2), padding=(1, 1))
    with pytest.raises(checks.UnsupportedError, match="pools with padding"):
        checks.compile_plan(checks.graph_of(net, "pool"), {})
