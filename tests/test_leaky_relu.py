"""Leaky ReLUs and PReLUs: absorbed by every kind of layer, alone, on either side of an addition, and of two slopes."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refnet.graph import Graph
from tests import kernel_checks as checks

#: {kernel: channels of the input, layer}.
LAYERS = {
    "pointwise": (20, {"kernel": 1}),
    "dense": (20, {"kernel": 3, "stride": 2, "padding": 1}),
    "winograd": (20, {"kernel": 3, "padding": 1}),
    "planar": (3, {"kernel": 3, "padding": 1}),
    "depthwise": (20, {"kernel": 3, "padding": 1, "groups": 20}),
    "depthwise_window": (20, {"kernel": 5, "padding": 2, "groups": 20}),
}


def prelu(net: checks.Net, name: str, x: str) -> str:
    return net.add("prelu", name, x, parameters={"slope": (f"{name}.slope", (net.shape[x][0],))})


def weights_of(graph: Graph) -> dict[str, Any]:
    """Seeded weights with slopes of every kind: negative ones, 0, 1 and larger ones."""
    weights = dict(checks.random_weights(graph, 1))
    for node in graph.nodes:
        if node.op == "prelu":
            slopes = weights[node.parameters["slope"]]
            drawn = np.random.default_rng(len(slopes)).normal(0.5, 1, len(slopes))
            drawn[:2] = (0, 1)[: len(slopes)]
            weights[node.parameters["slope"]] = drawn.astype(np.float32)
    return weights


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


@pytest.mark.parametrize("kind", LAYERS)
def test_slopes_may_be_above_1(kind: str) -> None:
    channels, layer = LAYERS[kind]
    net = checks.Net((channels, 9, 10))
    x = "input" if kind == "planar" else net.conv("input", "first", channels, 1)
    y = net.add("leaky_relu", "leaky", net.conv(x, "layer", 20, **layer), slope=1.5)
    checks.check(checks.graph_of(net, y), checks.WINOGRAD)


@pytest.mark.parametrize("kind", LAYERS)
def test_a_layer_absorbs_slopes_by_channel(kind: str) -> None:
    channels, layer = LAYERS[kind]
    net = checks.Net((channels, 26, 29))
    x = "input" if kind == "planar" else net.conv("input", "first", channels, 1)
    y = prelu(net, "prelu", net.conv(x, "layer", 20, **layer))
    graph = checks.graph_of(net, y)
    plan = checks.check(graph, checks.WINOGRAD, weights=weights_of(graph), runs=kind)
    assert "add" not in checks.opcodes(plan)
    assert ", prelu" in plan.explain()


@settings(max_examples=30)
@given(
    channels=st.integers(1, 70),
    outputs=st.integers(1, 70),
    kernel=st.sampled_from([1, 3]),
    sides=st.tuples(st.integers(1, 7), st.integers(1, 17)),
    kind=st.sampled_from(["", "added", "twice"]),
)
def test_slopes_by_channel_in_any_number_of_blocks(
    channels: int, outputs: int, kernel: int, sides: tuple[int, int], kind: str
) -> None:
    """Panels of one, two and four blocks; before and after an addition; stored with and without."""
    net = checks.Net((channels, *sides))
    y = net.conv("input", "layer", outputs, kernel, padding=kernel // 2)
    if kind == "added":
        y = net.add("add", "sum", y, net.conv("input", "other", outputs, 1))
    z = prelu(net, "prelu", y)
    graph = checks.graph_of(net, *((y, z) if kind == "twice" else (z,)))
    plan = checks.check(graph, checks.WINOGRAD, weights=weights_of(graph))
    assert "prelu of block" not in plan.explain()


def test_slopes_by_channel_on_either_side_of_an_addition() -> None:
    """One layer has room for one list of slopes."""
    net = checks.Net((20, 6, 6))
    before = prelu(net, "before", net.conv("input", "layer", 20, 3, padding=1))
    y = prelu(net, "after", net.add("add", "sum", before, net.conv("input", "other", 20, 1)))
    graph = checks.graph_of(net, y)
    checks.check(graph, checks.DIRECT, weights=weights_of(graph))


@settings(max_examples=20)
@given(channels=st.integers(1, 40), sides=st.tuples(st.integers(1, 5), st.integers(1, 5)))
def test_slopes_by_channel_alone(channels: int, sides: tuple[int, int]) -> None:
    net = checks.Net((channels, *sides))
    graph = checks.graph_of(net, prelu(net, "prelu", "input"))
    plan = checks.check(graph, checks.DIRECT, weights=weights_of(graph), runs="add")
    assert "prelu of block 0" in plan.explain()


def test_slopes_by_channel_of_concatenations_and_moved_pixels() -> None:
    """Where a plain activation would move to the parts, one with a list of slopes stays."""
    net = checks.Net((20, 6, 6))
    joined = net.add(
        "concat", "joined", *(net.conv("input", f"p{n}", n, 1) for n in (8, 20)), axis=1
    )
    x = prelu(
        net,
        "first",
        net.conv_transpose(prelu(net, "prelu", joined), "up", 6, (2, 2), stride=(2, 2)),
    )
    graph = checks.graph_of(net, net.conv(x, "next", 5, 1))
    checks.check(graph, checks.DIRECT, weights=weights_of(graph))


def test_parts_of_a_concatenation_absorb_it() -> None:
    net = checks.Net((20, 6, 6))
    parts = [net.conv("input", f"part{i}", n, 1) for i, n in enumerate((8, 20))]
    joined = net.add("concat", "joined", *parts, axis=1)
    y = net.add("leaky_relu", "leaky", joined, slope=0.1)
    graph = checks.graph_of(net, net.conv(y, "next", 5, 1))
    assert "add" not in checks.opcodes(checks.check(graph, checks.DIRECT))
