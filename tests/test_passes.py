"""Folding: same outputs in float64, and exactly the graph that the inference form builds."""

from typing import Any

import numpy as np
import pytest

from parity.formula import formula_weights
from refnet import build, passes, reference
from refnet.graph import Builder, Graph, Window
from refnet.ops import Array
from refnet.random_weights import random_weights

FORMS: list[tuple[str, dict[str, Any]]] = [
    ("pfld", {"width": 0.25}),
    ("pfld-msfc", {"width": 0.25}),
    ("pfld-ultralight", {"width": 0.25}),
    ("pfld-ultralight-slim", {"width": 0.125}),  # odd channel counts, so modules are cut
    ("pfld-ghostone", {"width": 0.25}),
    ("pfld-polaris", {"width": 0.25}),
    ("pfld-polaris", {"width": 0.5, "bn8": "applied", "activation": "relu6", "conv2": "depthwise"}),
    ("pfld-polaris-auxiliary", {}),
]


def double(weights: dict[str, Any]) -> dict[str, Array]:
    return {name: w.astype(np.float64) for name, w in weights.items()}


def relative_error(graph: Graph, weights: Any, other: Graph, other_weights: Any) -> float:
    x = np.random.default_rng(0).standard_normal((2, *graph.input_shape))
    pairs = zip(
        reference.run(graph, weights, x), reference.run(other, other_weights, x), strict=True
    )
    return max(float(abs(a - b).max() / max(1, abs(a).max())) for a, b in pairs)


@pytest.mark.parametrize(("name", "options"), FORMS)
def test_folded_equals_unfolded(name: str, options: dict[str, Any]) -> None:
    graph = build(name, **options)
    weights = double(formula_weights(graph.parameters))
    folded, folded_weights = passes.fold(graph, weights)
    assert not any(node.op == "batch_norm" for node in folded.nodes)
    assert relative_error(graph, weights, folded, folded_weights) < 1e-13


@pytest.mark.parametrize(("name", "options"), FORMS)
def test_folded_graph_is_the_inference_form(name: str, options: dict[str, Any]) -> None:
    graph = build(name, **options)
    folded, weights = passes.fold(graph, random_weights(graph))
    expected = build(name, **options, form="inference")
    assert folded == expected
    assert dict(folded.options) == dict(expected.options)
    assert {n: w.shape for n, w in weights.items()} == expected.state_dict


def test_folding_rounds_once() -> None:
    """float32 weights fold in float64: each folded value is the nearest float32 to the exact one."""
    graph = build("pfld", width=0.25)
    weights = random_weights(graph)
    _, single = passes.fold(graph, weights)
    _, exact = passes.fold(graph, double(weights))
    for name, w in single.items():
        assert w.dtype == np.float32
        np.testing.assert_array_equal(w, exact[name].astype(np.float32))


def test_networks_without_norms_are_left_alone() -> None:
    graph = build("lffd-plate-small")
    weights = random_weights(graph)
    folded, kept = passes.fold(graph, weights)
    assert folded == graph
    assert all(kept[name] is weights[name] for name in weights)


def test_a_convolution_with_another_reader_is_not_folded() -> None:
    net = Builder((3, 5, 5))
    c = net.conv("input", "c", 3, Window(3, padding=1))
    n = net.batch_norm(c, "n")
    for outputs in ((net.add("add", "sum", c, n),), (n, c)):
        graph = net.graph("shared", outputs, {}, fixed_size=False)
        weights = double(random_weights(graph))
        folded, kept = passes.fold_batch_norm(graph, weights)
        assert any(node.op == "batch_norm" for node in folded.nodes)
        assert relative_error(graph, weights, folded, kept) == 0


def test_convolutions_of_different_inputs_or_strides_are_not_merged() -> None:
    net = Builder((3, 5, 5))
    a = net.conv("input", "a", 3, Window(3, padding=1))
    b = net.conv(a, "b", 3, Window(3, padding=1))
    off_centre = net.add(
        "add", "s2", net.conv(b, "c", 2, Window(2)), net.conv(b, "d", 2, Window(4, padding=1))
    )
    graph = net.graph("apart", (net.add("add", "s1", a, b), off_centre), {}, fixed_size=False)
    weights = double(random_weights(graph))
    merged, kept = passes.merge_branches(graph, weights)
    assert [node.name for node in merged.nodes] == [
        "a",
        "b",
        "s2.reparam_conv",  # kernels 2 and 4 share a centre at padding 0 and 1
        "s1",
    ]
    assert relative_error(graph, weights, merged, kept) < 1e-14
