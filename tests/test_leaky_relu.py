"""Leaky ReLUs: absorbed by every kind of layer, alone, on either side of an addition, and of two slopes."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests import kernel_checks as checks

#: {kernel: channels of the input, layer}.
LAYERS = {
    "pointwise": (20, {"kernel": 1}),
    "dense": (20, {"kernel": 3, "stride": 2, "padding": 1}),
    "winograd": (20, {"kernel": 3, "padding": 1}),
    "planar": (3, {"kernel": 3, "padding": 1}),
    "depthwise": (20, {"kernel": 3, "padding": 1, "groups": 20}),
}


@pytest.mark.parametrize("slope", [0.1, -0.5, 1.0, 0.0])
@pytest.mark.parametrize("kind", LAYERS)
def test_a_layer_absorbs_it(kind: str, slope: float) -> None:
    channels, layer = LAYERS[kind]
    net = checks.Net((channels, 26, 29))
    x = "input" if kind == "planar" else net.conv("input", "first", channels, 1)
    y = net.add("leaky_relu", "leaky", net.conv(x, "layer", 20, **layer), slope=slope)
    plan = checks.check(checks.graph_of(net, y), checks.WINOGRAD, runs=kind)
    assert "add" not in checks.opcodes(plan)


@pytest.mark.parametrize("kind", LAYERS)
def test_layers_absorb_it_on_either_side_of_an_addition(kind: str) -> None:
    channels, layer = LAYERS[kind]
    net = checks.Net((channels, 26, 29))
    x = "input" if kind == "planar" else net.conv("input", "first", channels, 1)
    y = net.add("leaky_relu", "before", net.conv(x, "layer", 20, **layer), slope=0.25)
    other = net.conv(x, "other", 20, **LAYERS["dense" if layer.get("stride") else "winograd"][1])
    y = net.add("leaky_relu", "after", net.add("add", "sum", y, other), slope=0.25)
    plan = checks.check(checks.graph_of(net, y), checks.WINOGRAD)
    if kind != "depthwise":
        assert "add" not in checks.opcodes(plan)


def test_two_slopes_are_not_one() -> None:
    net = checks.Net((20, 6, 6))
    parts = [net.conv("input", f"layer{i}", 20, 1) for i in range(2)]
    parts = [net.add("leaky_relu", f"leaky{i}", part, slope=0.25) for i, part in enumerate(parts)]
    y = net.add("leaky_relu", "after", net.add("add", "sum", *parts), slope=0.5)
    checks.check(checks.graph_of(net, y), checks.DIRECT, runs="add")


def test_a_layer_stores_its_sums_as_well() -> None:
    net = checks.Net((20, 6, 6))
    y = net.conv("input", "layer", 20, 1)
    leaky = net.add("leaky_relu", "leaky", y, slope=0.1)
    plan = checks.check(checks.graph_of(net, y, leaky), checks.DIRECT)
    assert "add" not in checks.opcodes(plan)


@settings(max_examples=20)
@given(channels=st.integers(1, 40), slope=st.floats(-1, 1, width=32))
def test_alone_it_equals_the_definition(channels: int, slope: float) -> None:
    net = checks.Net((channels, 5, 6))
    y = net.add("leaky_relu", "leaky", "input", slope=slope)
    checks.check(checks.graph_of(net, y), checks.DIRECT, runs="add")


def test_slopes_above_1_are_refused() -> None:
    net = checks.Net((4, 5, 6))
    graph = checks.graph_of(net, net.add("leaky_relu", "leaky", "input", slope=1.5))
    with pytest.raises(checks.UnsupportedError, match=r"slope 1\.5"):
        checks.compile_plan(graph, {})


def test_parts_of_a_concatenation_absorb_it() -> None:
    net = checks.Net((20, 6, 6))
    parts = [net.conv("input", f"part{i}", n, 1) for i, n in enumerate((8, 20))]
    joined = net.add("concat", "joined", *parts, axis=1)
    y = net.add("leaky_relu", "leaky", joined, slope=0.1)
    graph = checks.graph_of(net, net.conv(y, "next", 5, 1))
    assert "add" not in checks.opcodes(checks.check(graph, checks.DIRECT))
