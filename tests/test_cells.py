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


@settings(max_examples=40)
@given(
    data=st.data(), width=st.integers(1, 7), cells=st.integers(1, 6), sides=st.tuples(SIDE, SIDE)
)
def test_columns_of_a_list_equal_the_definition(
    data: st.DataObject, width: int, cells: int, sides: tuple[int, int]
) -> None:
    """What is taken out of every cell is where it was, computed on and stored without being moved."""
    net = checks.Net((6, *sides))
    x = net.conv("input", "head", cells * width, 1)
    y = net.add("reshape", "cut", net.add("cells", "cells", x), shape=(-1, width))
    start = data.draw(st.integers(0, width - 1))
    stop = data.draw(st.sampled_from([None, *range(start + 1, width + 1)]))
    y = net.add("take", "columns", y, axis=2, start=start, stop=stop, step=1)
    again = net.add("take", "again", y, axis=2, start=-1, stop=None, step=1)
    outputs = y, again, net.add("normalize", "scaled", y, mean=0.5, std=2.0)
    assert "gather" not in checks.opcodes(
        checks.check(checks.graph_of(net, *outputs), checks.DIRECT)
    )


@settings(max_examples=20)
@given(data=st.data(), channels=st.integers(1, 40))
def test_channels_taken_from_anywhere_equal_the_definition(
    data: st.DataObject, channels: int
) -> None:
    net = checks.Net((3, 5, 4))
    x = net.conv("input", "layer", channels, 1)
    start = data.draw(st.integers(0, channels - 1))
    y = net.add("take", "y", x, axis=1, start=start, stop=None, step=1)
    checks.check(checks.graph_of(net, net.conv(y, "next", 3, 3, padding=1), y), checks.WINOGRAD)


@pytest.mark.parametrize("taken", [{"axis": 1, "step": 2}, {"axis": 2, "step": 1}])
def test_other_parts_of_maps_are_refused(taken: Any) -> None:
    net = checks.Net((6, 4, 4))
    graph = checks.graph_of(net, net.add("take", "y", "input", start=0, stop=3, **taken))
    with pytest.raises(checks.UnsupportedError, match="y takes"):
        checks.compile_plan(graph, {})


@pytest.mark.parametrize("shape", [(-1, 4), (-1, 12), (-1,), (2, 3, -1)])
def test_other_reshapes_are_refused(shape: tuple[int, ...]) -> None:
    net = checks.Net((6, 4, 2))
    y = net.add("reshape", "y", net.add("cells", "cells", "input"), shape=shape)
    with pytest.raises(checks.UnsupportedError, match="y reshapes"):
        checks.compile_plan(checks.graph_of(net, y), {})
