"""Folding: same outputs in float64, and exactly the graph that the inference form builds."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parity.formula import formula_weights
from refnet import build, passes, reference
from refnet.builder import Builder, Window
from refnet.graph import Graph
from refnet.ops import Array
from refnet.random_weights import random_weights
from tests.drawn_graphs import Drawing

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


@pytest.mark.parametrize("step", [passes.fold_batch_norm, passes.merge_branches])
@pytest.mark.parametrize(("name", "options"), FORMS)
def test_each_pass_alone_leaves_the_outputs(step: Any, name: str, options: dict[str, Any]) -> None:
    graph = build(name, **options)
    weights = double(formula_weights(graph.parameters))
    passed, passed_weights = step(graph, weights)
    assert relative_error(graph, weights, passed, passed_weights) < 1e-12
    if step is passes.fold_batch_norm:
        left = {node.inputs[0] for node in passed.nodes if node.op == "batch_norm"}
        assert not any(node.op == "conv" and node.name in left for node in passed.nodes)


@settings(max_examples=150)
@given(data=st.data(), size=st.integers(1, 10))
def test_any_graph_equals_its_passed_form(data: st.DataObject, size: int) -> None:
    """Each pass alone, and both: readers, outputs and neighbours of what is folded are drawn, too."""
    drawing = Drawing(data, norms=True)
    for _ in range(size):
        drawing.grow()
    if len(drawing.names) == 1:
        return
    graph = drawing.graph(most=4)
    weights = double(random_weights(graph))
    for step in (passes.fold_batch_norm, passes.merge_branches, passes.fold):
        assert relative_error(graph, weights, *step(graph, weights)) < 1e-12


def unchanged(step: Any, graph: Graph) -> None:
    """Assert that a pass does not apply to any node of the graph."""
    weights = double(random_weights(graph))
    passed, kept = step(graph, weights)
    assert passed.nodes == graph.nodes
    assert all(kept[name] is weights[name] for name in weights)


def plain_conv(
    net: Builder,
    x: str,
    name: str,
    weight: str,
    kernel: tuple[int, int] = (1, 1),
    **parameters: Any,
) -> str:
    """A convolution of as many channels as it reads, padded to its size, with tensors of any name."""
    shape = (net.shape[x][0], net.shape[x][0], *kernel)
    return net.add(
        "conv",
        name,
        x,
        parameters={"weight": (weight, shape), **parameters},
        kernel=kernel,
        stride=(1, 1),
        padding=(kernel[0] // 2, kernel[1] // 2),
        dilation=(1, 1),
        groups=1,
    )


def test_a_norm_of_anything_but_a_convolution_stays() -> None:
    net = Builder((3, 5, 5))
    first = net.batch_norm("input", "of_the_input")
    second = net.batch_norm(net.add("relu", "act", first), "of_an_activation")
    graph = net.graph("norms", (second,), {}, fixed_size=False)
    unchanged(passes.fold, graph)


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_a_transposed_convolution_takes_its_norm_in(groups: int) -> None:
    net = Builder((4, 5, 6))
    window: dict[str, Any] = {"kernel": (3, 2), "stride": (2, 2), "padding": (1, 0)}
    weight = {"weight": ("up.weight", (4, 3, 3, 2))}
    up = net.add(
        "conv_transpose", "up", "input", parameters=weight, groups=groups, dilation=(1, 1),
        output_padding=(1, 0), **window,
    )  # fmt: skip
    graph = net.graph("up", (net.batch_norm(up, "norm"),), {}, fixed_size=False)
    weights = double(formula_weights(graph.parameters))
    folded, folded_weights = passes.fold(graph, weights)
    assert [node.op for node in folded.nodes] == ["conv_transpose"]
    assert relative_error(graph, weights, folded, folded_weights) < 1e-13


def test_a_weight_that_two_convolutions_read_is_not_changed() -> None:
    net = Builder((3, 5, 5))
    x = net.batch_norm(plain_conv(net, "input", "a", "shared.weight"), "a.norm")
    y = net.batch_norm(plain_conv(net, x, "b", "shared.weight"), "b.norm")
    unchanged(passes.fold, net.graph("shared", (y,), {}, fixed_size=False))


def test_a_new_bias_does_not_take_another_tensors_name() -> None:
    net = Builder((3, 5, 5))
    x = net.batch_norm(plain_conv(net, "input", "a", "a.weight"), "a.norm")
    y = plain_conv(net, x, "b", "b.weight", bias=("a.bias", (3,)))
    unchanged(passes.fold, net.graph("taken", (y,), {}, fixed_size=False))


@pytest.mark.parametrize("seen", ["output", "reader"])
def test_a_branch_that_somebody_else_sees_is_not_merged(seen: str) -> None:
    net = Builder((3, 5, 5))
    a = net.conv("input", "a", 3, Window(3, padding=1))
    total = net.add("add", "sum", a, net.conv("input", "b", 3, Window(1)))
    other = a if seen == "output" else net.add("relu", "act", a)
    unchanged(passes.merge_branches, net.graph("seen", (total, other), {}, fixed_size=False))


def test_a_branch_added_twice_is_not_merged() -> None:
    net = Builder((3, 5, 5))
    a = net.conv("input", "a", 3, Window(3, padding=1))
    unchanged(
        passes.merge_branches,
        net.graph("twice", (net.add("add", "s", a, a),), {}, fixed_size=False),
    )


def test_kernels_of_which_none_holds_the_other_are_not_merged() -> None:
    """A cross of 1x3 and 3x1; a 3x3 beside them holds both."""
    for wide in (False, True):
        net = Builder((3, 5, 5))
        kernels = [(1, 3), (3, 1), *([(3, 3)] if wide else [])]
        parts = [
            plain_conv(net, "input", f"c{kh}{kw}", f"w{kh}{kw}", (kh, kw)) for kh, kw in kernels
        ]
        graph = net.graph("cross", (net.add("add", "sum", *parts),), {}, fixed_size=False)
        if not wide:
            unchanged(passes.merge_branches, graph)
        weights = double(random_weights(graph))
        merged, kept = passes.merge_branches(graph, weights)
        assert len(merged.nodes) == (1 if wide else 3)
        assert relative_error(graph, weights, merged, kept) < 1e-13


def test_an_identity_of_another_size_or_input_is_not_merged() -> None:
    net = Builder((3, 7, 7))
    inner = net.conv("input", "inner", 3, Window(3, padding=1))
    other = net.add(
        "add", "other", net.conv(inner, "c", 3, Window(3, padding=1)), net.batch_norm("input", "n")
    )
    even = net.add("relu", "even", other)
    shifted = net.add(
        "add", "s", net.conv(even, "d", 3, Window(1)), net.conv(inner, "e", 3, Window(1))
    )
    unchanged(passes.merge_branches, net.graph("apart", (shifted,), {}, fixed_size=False))


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
