"""Layers without a kernel at the end of a network: the engine makes what they read, the reference does the rest."""

import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import refnet
from refnet import reference
from refnet.graph import Graph
from refnet.random_weights import random_weights
from tests import kernel_checks as checks
from tests.drawn_graphs import Drawing


def decoding(later: str = "") -> Graph:
    """A head whose boxes are decoded: offsets, and sizes as exponentials; `later` is an operation on a map after it."""
    net = checks.Net((3, 12, 10))
    x = net.add("relu", "relu", net.conv("input", "trunk", 20, 3, padding=1))
    y = net.add(
        "reshape", "list", net.add("cells", "cells", net.conv(x, "head", 8, 1)), shape=(-1, 4)
    )
    take: Any = {"axis": 2, "step": 1}
    place = net.add("take", "place", y, start=0, stop=2, **take)
    size = net.add("exp", "size", net.add("take", "log", y, start=2, stop=None, **take))
    corner = net.add("subtract", "corner", place, size)
    outputs = [net.add("concat", "boxes", corner, size, axis=2), net.conv(x, "other", 5, 1)]
    if later:
        outputs.append(net.conv(net.add("tanh", "tanh", x), later, 5, 1))
    return checks.graph_of(net, *outputs)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_decoding_runs_on_what_the_engine_has_made(threads: int) -> None:
    graph = decoding()
    model = refnet.Model(graph, random_weights(graph, 1), threads=threads)
    x = checks.image(graph.input_shape, images=3)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        outputs = model.run(x)
    for y, expected in zip(outputs, model.run(x, backend="numpy"), strict=True):
        assert y.shape == expected.shape
        np.testing.assert_allclose(y, expected, rtol=1e-5, atol=1e-5)
    plan = model.engine.plan()
    rest = ["size", "corner", "boxes"]
    assert sorted(node.name for node in plan.rest) == sorted(rest)
    assert [output.name for output in plan.outputs] == ["other", "log", "place"]
    assert "numpy           boxes" in plan.explain()
    assert "concat of corner, size" in plan.explain()


def test_the_compiler_alone_refuses_it() -> None:
    graph = decoding()
    with pytest.raises(checks.UnsupportedError, match="no kernel for 'exp'"):
        checks.compile_plan(graph, random_weights(graph))


def test_no_convolution_is_left_to_numpy() -> None:
    graph = decoding(later="later")
    model = refnet.Model(graph, random_weights(graph, 1))
    with pytest.raises(refnet.BackendError, match="no kernel for 'tanh'"):
        model.run(checks.image(graph.input_shape), backend="compiled")


def test_a_network_of_nothing_else_cannot_run_on_the_engine() -> None:
    net = checks.Net((3, 4, 4))
    graph = checks.graph_of(net, net.add("tanh", "tanh", "input"))
    with pytest.raises(refnet.BackendError, match="no kernel for 'tanh'"):
        refnet.Model(graph, {}).run(checks.image(graph.input_shape), backend="compiled")


@settings(max_examples=60)
@given(data=st.data(), before=st.integers(0, 5), after=st.integers(0, 4))
def test_any_graph_with_an_unknown_layer_equals_the_reference(
    data: st.DataObject, before: int, after: int
) -> None:
    drawing = Drawing(data)
    for _ in range(before):
        drawing.grow()
    unknown = drawing.net.add("tanh", "unknown", drawing.names[-1])
    drawing.names.append(unknown)
    for _ in range(after):
        drawing.grow()
    graph = drawing.graph(most=3)
    model = refnet.Model(graph, random_weights(graph, 1))
    x = checks.image(graph.input_shape, images=2)
    try:
        plan = model.engine.plan()
    except refnet.BackendError as error:
        assert "no kernel for 'tanh'" in str(error)
        return
    outputs, _ = model.engine.run(x)
    pairs = zip(outputs, reference.run(graph, model.weights, x), strict=True)
    for y, e in pairs:
        assert np.abs(y - e).max() <= checks.WINOGRAD * max(1.0, np.abs(e).max())
    assert not {"conv", "linear"} & {node.op for node in plan.rest}
