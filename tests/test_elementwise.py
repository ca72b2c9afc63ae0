"""Elementwise operations, concatenation and slicing, and the ways in and out of channel blocks."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import kernel_checks as checks


def test_sigmoid_equals_the_definition_over_the_whole_range() -> None:
    net = checks.Net((1, 1, 4001))
    graph = checks.graph_of(net, net.add("sigmoid", "y", "input"))
    x = np.linspace(-100, 100, 4001, dtype=np.float32).reshape(1, 1, 1, -1)
    with np.errstate(over="ignore"):
        checks.check(graph, 3e-7, x)


@pytest.mark.parametrize(
    ("op", "attributes"),
    [
        ("silu", {}),
        ("hard_swish", {}),
        ("hard_sigmoid", {"slope": 0.2, "shift": 0.5}),
        ("hard_sigmoid", {"slope": -1.5, "shift": 0.25}),
        ("clip", {"low": -1.0, "high": 2.5}),
        ("clip", {"low": float("-inf"), "high": 0.5}),
    ],
)
def test_gates_equal_the_definition_over_the_whole_range(op: str, attributes: Any) -> None:
    net = checks.Net((1, 1, 4001))
    graph = checks.graph_of(net, net.add(op, "y", "input", **attributes))
    x = np.linspace(-100, 100, 4001, dtype=np.float32).reshape(1, 1, 1, -1)
    with np.errstate(over="ignore"):
        checks.check(graph, 3e-7, x)


@settings(max_examples=25)
@given(
    channels=st.integers(1, 40),
    sides=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    gate=st.sampled_from(["same", "mean", "max", "squeezed"]),
    swapped=st.booleans(),
)
def test_products_equal_the_definition(
    channels: int, sides: tuple[int, int], gate: str, swapped: bool
) -> None:
    """With a map of the same shape, and with a gate, computed as a map of one pixel or as a vector."""
    net = checks.Net((3, *sides))
    x = net.conv("input", "layer", channels, 1)
    if gate == "same":
        other = net.conv("input", "other", channels, 1)
    else:
        kind = "max" if gate == "max" else "mean"
        other = net.add("reduce", "pool", x, kind=kind, axes=(2, 3))
    if gate == "squeezed":
        vector = net.add("reshape", "vector", other, shape=(-1,))
        excited = net.add(
            "hard_sigmoid", "gate", net.linear(vector, "linear", channels), slope=0.2, shift=0.5
        )
        other = net.add("reshape", "map", excited, shape=(-1, 1, 1))
    y = net.add("multiply", "y", *((other, x) if swapped else (x, other)))
    checks.check(checks.graph_of(net, net.conv(y, "next", 5, 1), y), checks.DIRECT, runs="multiply")


def test_products_of_other_shapes_are_refused() -> None:
    net = checks.Net((4, 5, 6))
    column = net.add("reduce", "column", "input", kind="mean", axes=(2,))
    graph = checks.graph_of(net, net.add("multiply", "y", "input", column))
    with pytest.raises(checks.UnsupportedError):
        checks.compile_plan(graph, {})


@pytest.mark.parametrize("chosen", [0, 1])
def test_a_softmax_of_two_is_a_sigmoid(chosen: int) -> None:
    net = checks.Net((12, 6, 7))
    y = net.add("softmax", "softmax", net.conv("input", "conv", 2, 1), axis=1)
    graph = checks.graph_of(net, net.add("slice", "score", y, start=chosen, stop=chosen + 1))
    checks.check(graph, checks.DIRECT, runs="sigmoid")


@settings(max_examples=25)
@given(counts=st.lists(st.integers(1, 20), min_size=2, max_size=4), data=st.data())
def test_concatenations_and_slices_of_any_channels_equal_the_definition(
    counts: list[int], data: st.DataObject
) -> None:
    net = checks.Net((5, 4, 6))
    parts = [net.conv("input", f"part{i}", c, 1) for i, c in enumerate(counts)]
    joined = net.add("concat", "joined", *parts, axis=1)
    start = data.draw(st.integers(0, sum(counts) - 1))
    stop = data.draw(st.integers(start + 1, sum(counts)))
    cut = net.add("slice", "cut", joined, start=start, stop=stop)
    depthwise = (
        net.conv(cut, "dw", stop - start, 3, padding=1, groups=stop - start)
        if stop - start > 1
        else cut
    )
    other = net.conv("input", "other", stop - start, 1)
    total = net.add("add", "sum", net.add("relu6", "r", depthwise), other)
    checks.check(checks.graph_of(net, net.conv(total, "last", 3, 1), joined, cut), checks.DIRECT)


def test_three_addends_and_a_tensor_added_to_itself_equal_the_definition() -> None:
    net = checks.Net((5, 4, 6))
    a, b, c = (net.conv("input", name, 9, 1) for name in "abc")
    total = net.add("add", "sum", a, b, c)
    checks.check(checks.graph_of(net, net.add("add", "twice", total, total), b), checks.DIRECT)


def test_cells_are_written_row_by_row() -> None:
    net = checks.Net((6, 5, 4))
    cells = []
    for i, size in enumerate((1, 2)):
        x = net.conv("input", f"scale{i}", 8, 3, stride=size, padding=1)
        cells.append(net.add("cells", f"cells{i}", net.conv(x, f"head{i}", 3, 1)))
    graph = checks.graph_of(net, net.add("concat", "all", *cells, axis=1))
    checks.check(graph, checks.DIRECT)


def test_normalize_anywhere_equals_the_definition() -> None:
    net = checks.Net((8, 7, 7))
    y = net.add("normalize", "first", "input", mean=0.5, std=0.25)
    y = net.conv(y, "dw", 8, 3, padding=1, groups=8)
    y = net.add("normalize", "second", net.add("relu", "act", y), mean=-1.0, std=2.0)
    checks.check(checks.graph_of(net, net.conv(y, "conv", 4, 3, padding=1)), checks.DIRECT)


@settings(max_examples=20)
@given(
    channels=st.integers(1, 40),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    kind=st.sampled_from(["batch_norm", "both", "weight", "bias", "one for all"]),
    image=st.booleans(),
)
def test_a_factor_and_an_addend_for_each_channel(
    channels: int, size: tuple[int, int], kind: str, image: bool
) -> None:
    """Of the image itself, or of what layers make that have other readers."""
    net = checks.Net((channels, *size))
    x = "input" if image else net.add("sigmoid", "first", "input")
    if kind == "batch_norm":
        y = net.batch_norm(x, "norm")
    else:
        wide = (1 if kind == "one for all" else channels, 1, 1)
        roles = ("weight", "bias") if kind in ("both", "one for all") else (kind,)
        y = net.add("affine", "norm", x, parameters={role: (f"{role}s", wide) for role in roles})
    y = net.add("relu", "relu", y)
    checks.check(checks.graph_of(net, y, net.conv(y, "next", 5, 1)), checks.DIRECT)


def test_constants_of_each_pixel_are_refused() -> None:
    net = checks.Net((3, 4, 5))
    y = net.add("affine", "y", "input", parameters={"weight": ("w", (1, 4, 5))})
    graph = checks.graph_of(net, net.conv(y, "next", 5, 1))
    with pytest.raises(checks.UnsupportedError, match="no kernel for 'affine'"):
        checks.compile_plan(graph, checks.random_weights(graph))
