"""What one unit depends on, by the regions that operations read and make: as the whole network says it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from refnet import reference
from refnet.builder import Builder
from refnet.fields.unit_gradient import ending_at, unit_gradient
from refnet.graph import Graph
from refnet.ops import Array

WINDOW: dict[str, Any] = {"kernel": (3, 3), "stride": (2, 2), "padding": (1, 1)}
TRANSPOSED: dict[str, Any] = {"output_padding": (1, 0), "dilation": (1, 1), "groups": 1}
CONV: dict[str, Any] = {
    "kernel": (3, 3),
    "stride": (1, 1),
    "padding": (1, 1),
    "dilation": (1, 1),
    "groups": 1,
}

CASES: list[tuple[str, dict[str, Any], dict[str, tuple[int, ...]]]] = [
    ("conv_transpose", {**WINDOW, **TRANSPOSED}, {"weight": (4, 4, 3, 3)}),
    ("max_pool", {**WINDOW, "ceil": True}, {}),
    ("average_pool", {**WINDOW, "ceil": True}, {}),
    ("average_pool", {**WINDOW, "count_padding": False}, {}),
    ("upsample", {"factor": (2, 3)}, {}),
    ("upsample_linear", {"factor": (2, 3), "coordinates": "half_pixel"}, {}),
    ("upsample_linear", {"factor": (2, 2), "coordinates": "align_corners"}, {}),
    ("pad", {"widths": ((0, 0), (0, 1), (2, 1)), "mode": "constant", "value": 0.0}, {}),
    ("pad", {"widths": ((0, 0), (0, 1), (2, 1)), "mode": "edge", "value": 0.0}, {}),
    ("take", {"axis": 2, "start": 1, "stop": None, "step": 2}, {}),
    ("take", {"axis": 3, "start": -1, "stop": None, "step": -1}, {}),
    ("transpose", {"order": (0, 1, 3, 2)}, {}),
    ("reshape", {"shape": (4, 6, -1)}, {}),
    ("depth_to_space", {"block": 2, "depth_first": True}, {}),
    ("space_to_depth", {"block": 2, "depth_first": False}, {}),
    ("shuffle", {"groups": 2}, {}),
    ("softmax", {"axis": (1, 2, 3)}, {}),
    ("softmax", {"axis": 2}, {}),
    ("affine", {}, {"weight": (4, 1, 1), "bias": (4, 12, 10)}),
    ("reduce", {"kind": "max", "axes": (1,)}, {}),
    ("reduce", {"kind": "mean", "axes": (2,)}, {}),
    ("clip", {"low": -0.1, "high": 0.2}, {}),
    ("linear", {}, {"weight": (7, 10), "bias": (7,)}),
]


def _weights(graph: Graph) -> dict[str, Array]:
    generator = np.random.default_rng(0)
    return {name: generator.normal(size=shape) for name, shape in graph.state_dict.items()}


def _graph(op: str, attributes: dict[str, Any], parameters: dict[str, tuple[int, ...]]) -> Graph:
    """A convolution, the operation, and a convolution after it."""
    net = Builder((3, 12, 10))
    first = net.add(
        "conv", "first", "input", parameters={"weight": ("first.weight", (4, 3, 3, 3))}, **CONV
    )
    roles = {role: (f"op.{role}", shape) for role, shape in parameters.items()}
    made = net.add(op, "op", first, parameters=roles, **attributes)
    weight = {"weight": ("last.weight", (2, net.shape[made][0], 3, 3))}
    last = net.add("conv", "last", made, parameters=weight, **CONV)
    return net.graph("drawn", (last,), {}, fixed_size=True)


def _products(inputs: tuple[str, ...]) -> Graph:
    """A map times one factor for each of its channels, which the whole map decides; then two maps joined by rows."""
    net = Builder((3, 12, 10))
    first = net.add(
        "conv", "first", "input", parameters={"weight": ("first.weight", (4, 3, 3, 3))}, **CONV
    )
    gate = net.add("sigmoid", "gate", net.add("global_average_pool", "mean", first))
    scaled = net.add("multiply", "scaled", first, gate)
    for op in inputs:
        scaled = net.add(op, op, scaled, gate)
    joined = net.add("concat", "joined", scaled, first, axis=2)
    last = net.add(
        "conv", "last", joined, parameters={"weight": ("last.weight", (2, 4, 3, 3))}, **CONV
    )
    return net.graph("gated", (last,), {}, fixed_size=True)


def _hold(graph: Graph, *, extent: bool = True) -> None:
    """The gradient of some units is the whole network's; with `extent`, their receptive fields hold it."""
    weights, shape = _weights(graph), graph.shapes()[graph.outputs[0]]
    x = np.random.default_rng(1).normal(size=graph.input_shape)
    cotangent = np.random.default_rng(2).normal(size=shape[0])
    field = graph.receptive_fields()[graph.outputs[0]]
    for unit in ((0, 0), (shape[1] // 2, shape[2] // 2), (shape[1] - 1, shape[2] - 1)):
        dy = np.zeros((1, *shape))
        dy[0, :, unit[0], unit[1]] = cotangent
        expected = reference.vjp(graph, weights, x[None], [dy])[0]
        gradient, region = unit_gradient(
            ending_at(graph, graph.outputs[0]), weights, x, unit, cotangent
        )
        found = np.zeros_like(expected)
        found[:, region.top : region.bottom, region.left : region.right] = gradient
        np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-12)
        opened, _ = unit_gradient(graph, weights, graph.input_shape, unit, cotangent)
        assert np.isfinite(opened).all()
        if extent and field is not None:
            left, top, right, bottom = field.box(unit)
            outside = expected.copy()
            outside[:, max(top, 0) : max(bottom, 0), max(left, 0) : max(right, 0)] = 0
            assert not outside.any()


@pytest.mark.parametrize(
    ("op", "attributes", "parameters"),
    [
        ("upsample", {"factor": (2, 3)}, {}),
        ("upsample_linear", {"factor": (2, 3), "coordinates": "half_pixel"}, {}),
        ("depth_to_space", {"block": 2, "depth_first": False}, {}),
        ("conv_transpose", {**WINDOW, **TRANSPOSED}, {"weight": (4, 4, 3, 3)}),
        ("take", {"axis": 2, "start": 1, "stop": None, "step": 2}, {}),
    ],
    ids=str,
)
def test_the_extent_of_every_unit_is_exact_where_units_differ(
    op: str, attributes: dict[str, Any], parameters: dict[str, tuple[int, ...]]
) -> None:
    """After upsampling, what each unit sees is exact: the gradient with all weights positive fills it."""
    net = Builder((3, 40, 42))
    conv = {**CONV, "stride": (6, 6)}
    made = net.add("conv", "first", "input", parameters={"weight": ("a", (4, 3, 3, 3))}, **conv)
    roles = {role: (f"op.{role}", shape) for role, shape in parameters.items()}
    made = net.add(op, "op", made, parameters=roles, **attributes)
    weight = {"weight": ("b", (2, net.shape[made][0], 2, 1))}
    window = {**CONV, "kernel": (2, 1), "padding": (0, 0)}
    last = net.add("conv", "last", made, parameters=weight, **window)
    graph = net.graph("drawn", (last,), {}, fixed_size=True)
    weights = {name: np.ones(shape) for name, shape in graph.state_dict.items()}
    field = graph.receptive_fields()[last]
    assert field is not None
    _, rows, columns = graph.shapes()[last]
    x = np.zeros((1, 3, 40, 42))
    for row in range(2, rows - 2):
        for column in range(3, columns - 3):
            dy = np.zeros((1, 2, rows, columns))
            dy[0, :, row, column] = 1
            seen = np.argwhere(reference.vjp(graph, weights, x, [dy])[0].any(0))
            (top, left), (bottom, right) = seen.min(0), seen.max(0) + 1
            x1, y1, x2, y2 = field.box((row, column))
            assert (max(x1, 0), max(y1, 0), min(x2, 42), min(y2, 40)) == (left, top, right, bottom)


@pytest.mark.parametrize(("op", "attributes", "parameters"), CASES, ids=lambda case: str(case)[:40])
def test_one_units_gradient_is_the_whole_networks(
    op: str, attributes: dict[str, Any], parameters: dict[str, tuple[int, ...]]
) -> None:
    # A softmax counts as a gate, and a repeated border brings inner pixels to units that lie outside.
    extent = op != "softmax" and attributes.get("mode") != "edge"
    _hold(_graph(op, attributes, parameters), extent=extent)


def test_the_gradient_through_products_and_joins_is_the_whole_networks() -> None:
    _hold(_products(()))
    _hold(_products(("broadcast_add", "subtract", "divide")))
