"""Lists of cells, the form of a detector's outputs: cut, joined, element by element and softmax, without a kernel for
what only renames or reorders."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import kernel_checks as checks

SIDE = st.integers(1, 6)


@settings(max_examples=40)
@given(
    width=st.integers(1, 5),
    anchors=st.lists(st.tuples(st.integers(1, 4), SIDE, SIDE), min_size=1, max_size=3),
    op=st.sampled_from(["", "softmax", "sigmoid", "leaky_relu", "relu6", "normalize"]),
)
def test_maps_of_several_sizes_become_one_list_in_order(
    width: int, anchors: list[tuple[int, int, int]], op: str
) -> None:
    """Maps of several sizes with several cells a pixel become one list."""
    net = checks.Net((6, 6, 6))
    parts = []
    for i, (count, down, across) in enumerate(anchors):
        pool: Any = {"kernel": (down, across), "stride": (1, 1), "padding": (0, 0)}
        x = net.conv(net.add("max_pool", f"pool{i}", "input", **pool), f"head{i}", count * width, 1)
        parts.append(
            net.add("reshape", f"cut{i}", net.add("cells", f"cells{i}", x), shape=(-1, width))
        )
    y = net.add("concat", "list", *parts, axis=1) if len(parts) > 1 else parts[0]
    attributes: Any = {"softmax": {"axis": 2}, "leaky_relu": {"slope": 0.1}}
    attributes["normalize"] = {"mean": 0.5, "std": 2.0}
    if op:
        y = net.add(op, "y", y, **attributes.get(op, {}))
    plan = checks.check(checks.graph_of(net, y), checks.DIRECT)
    assert checks.opcodes(plan).count("store_output") == len(parts)
    assert "gather" not in checks.opcodes(plan)


@pytest.mark.parametrize("shape", [(-1, 4), (-1, 12), (-1,), (2, 3, -1)])
def test_other_reshapes_are_refused(shape: tuple[int, ...]) -> None:
    net = checks.Net((6, 4, 2))
    y = net.add("reshape", "y", net.add("cells", "cells", "input"), shape=shape)
    with pytest.raises(checks.UnsupportedError, match="y reshapes"):
        checks.compile_plan(checks.graph_of(net, y), {})
