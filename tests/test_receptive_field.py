"""The closed form: published tables, non-square windows, joins, and the support of real gradients."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import refnet
import refnet.weights
from refnet import reference
from refnet.builder import Builder, Window
from refnet.fields.branches import branches
from refnet.fields.effective_receptive_field import constant_weights, effective_receptive_field
from refnet.fields.receptive_field import misalignments, receptive_field
from refnet.fields.unit_gradient import ending_at, unit_gradient
from refnet.graph import Graph
from refnet.ops import OPS
from refnet.receptive import Axis, whole

# Branch: receptive field, stride and centre of unit 0, of the LFFD deploy graphs.
BRANCHES = {
    "lffd-face-v1": [
        *((55, 4, 3), (71, 4, 3), (111, 8, 7), (143, 8, 7)),
        *((223, 16, 15), (383, 32, 31), (511, 32, 31), (639, 32, 31)),
    ],
    "lffd-face-v2": [(55, 4, 3), (95, 8, 7), (175, 16, 15), (335, 32, 31), (655, 64, 63)],
    "lffd-head": [(55, 4, 3), (95, 8, 7), (175, 16, 15), (335, 32, 31)],
    "lffd-pedestrian": [(143, 8, 7), (223, 16, 15), (383, 32, 31), (703, 64, 63)],
    "lffd-plate": [(223, 16, 15), (383, 32, 31), (703, 64, 63)],
    "lffd-plate-small": [(223, 16, 15), (383, 32, 31), (703, 64, 63)],
}
BRANCHES["basketnet"] = BRANCHES["lffd-face-v1"]

# The receptive field behind every trunk convolution.
TRUNKS = {
    "lffd-face-v1": "3 7 15 23 31 39 47 55 63 71 79 95 111 127 143 159 191 223 255 319 383 447 511 575 639",
    "lffd-face-v2": "3 7 15 23 31 39 47 55 63 79 95 111 143 175 207 271 335 399 527 655",
    "lffd-head": "3 7 15 23 31 39 47 55 63 79 95 111 143 175 207 271 335",
    "lffd-pedestrian": "3 7 15 31 47 63 79 95 111 127 143 159 191 223 255 319 383 447 575 703",
    "lffd-plate": "3 7 15 31 63 95 127 159 191 223 255 319 383 447 575 703",
    "lffd-plate-small": "3 7 15 31 63 95 127 159 191 223 255 319 383 447 575 703",
}


@pytest.mark.parametrize("network", BRANCHES)
def test_branches_match_the_published_table(network: str) -> None:
    found = branches(refnet.build(network))
    for axis in ("rows", "columns"):
        axes = [getattr(branch.field, axis) for branch in found]
        assert [(a.size, a.jump, a.centre) for a in axes] == BRANCHES[network]


@pytest.mark.parametrize("network", TRUNKS)
def test_trunk_matches_the_published_sequence(network: str) -> None:
    fields = receptive_field(refnet.build(network))
    sizes = [int(size) for size in TRUNKS[network].split()]
    for layer, size in enumerate(sizes, 1):
        field = fields[f"conv{layer}"]
        assert field is not None
        assert field.size == (size, size)


@pytest.mark.parametrize("network", refnet.networks())
def test_every_network_is_in_line(network: str) -> None:
    graph = refnet.build(network)
    assert misalignments(graph) == ()
    assert all(field is None or field.aligned for field in receptive_field(graph).values())


def test_objects_are_those_of_the_configurations() -> None:
    sizes = [b.objects for b in branches(refnet.build("lffd-face-v1"))]
    assert sizes == [
        *((10, 15), (15, 20), (20, 40), (40, 70), (70, 110), (110, 250), (250, 400), (400, 560))
    ]
    assert branches(refnet.build("pfld"))[0].objects is None


def test_an_axis_follows_the_recurrence() -> None:
    axis = Axis(0, 0, 1).window(kernel=3, stride=2, padding=1, dilation=2)
    assert (axis.first, axis.last, axis.jump) == (-1, 3, 2)
    assert (axis.size, axis.centre) == (5, Fraction(1))
    assert axis.span(3) == (5, 10)
    assert axis.whole(4) == Axis(-1, 9, 0)
    assert Axis(0, 1, 2).centre == Fraction(1, 2)


@pytest.mark.parametrize(
    ("pixel", "unit"), [(-50, 0), (3, 0), (4.9, 0), (5, 0), (5.1, 1), (31.5, 7), (1e6, 9)]
)
def test_the_nearest_unit_is_the_lower_of_two_as_near(pixel: float, unit: int) -> None:
    axis = Axis(0, 6, 4)  # centres 3, 7, 11, ...
    assert axis.nearest(pixel, 10) == unit


def test_box_is_that_of_the_unit() -> None:
    field = branches(refnet.build("tinynet"))[0].field
    assert field.box((64, 64)) == (232, 232, 287, 287)  # the published support, rows 232 to 286
    assert field.box((0, 1)) == (-20, -24, 35, 31)


def _two_paths(build: Any) -> Graph:
    net = Builder((1, 32, 32))
    stem = net.conv("input", "stem", 1, Window(1))
    return net.graph("drawn", (build(net, stem),), {}, fixed_size=False)


def test_even_windows_may_be_in_line() -> None:
    def join(net: Builder, stem: str) -> str:
        low = net.add("average_pool", "low", stem, kernel=(2, 2), stride=(1, 1), padding=(0, 0))
        wide = net.add("max_pool", "wide", stem, kernel=(2, 4), stride=(1, 1), padding=(0, 1))
        return net.add("add", "sum", low, wide)

    field = receptive_field(_two_paths(join))["sum"]
    assert field is not None
    assert field.aligned
    assert field.size == (2, 4)
    assert field.start == (Fraction(1, 2), Fraction(1, 2))


def test_paths_out_of_line_are_reported() -> None:
    def shifted(net: Builder, stem: str) -> str:
        down = net.conv(stem, "down", 1, Window(3, stride=2, padding=1))
        shrunk = net.conv(stem, "shrunk", 1, Window(2, stride=2))
        return net.add("add", "sum", down, shrunk)

    (report,) = misalignments(_two_paths(shifted))
    field = receptive_field(_two_paths(shifted))["sum"]
    assert field is not None
    assert not field.aligned
    assert field.offset == (Fraction(1, 2), Fraction(1, 2))
    assert (field.rows.first, field.rows.last) == (-1, 1)
    assert report.node == "sum"
    assert "down" in str(report)
    assert "1/2" in str(report)


def test_paths_of_different_jumps_have_no_field() -> None:
    def join(net: Builder, stem: str) -> str:
        wide = net.conv(stem, "wide", 1, Window(18))  # 15 × 15 units, jump 1
        down = net.conv(stem, "down", 1, Window(3, stride=2))  # 15 × 15 units, jump 2
        return net.add("add", "sum", wide, down)

    graph = _two_paths(join)
    assert receptive_field(graph)["sum"] is None
    (report,) = misalignments(graph)
    assert "jump 2×2" in str(report)


# ---------------------------------------------------------------- against the support of gradients


@pytest.mark.parametrize("network", BRANCHES)
def test_support_of_the_gradient_is_the_closed_form(network: str) -> None:
    # The support does not depend on the width, and narrow networks take a tenth of the time.
    options = {} if network == "basketnet" else {"width": 0.125}
    graph = refnet.build(network, **options)
    for branch, (size, _, _) in zip(branches(graph), BRANCHES[network], strict=True):
        field = effective_receptive_field(graph, branch.tensor)
        assert field.map.shape == (size, size)
        assert (field.map > 0).all()


@pytest.mark.parametrize(
    "network", [n for n in refnet.networks() if n.startswith("pfld") and "auxiliary" not in n]
)
def test_the_support_in_every_stage_of_pfld_is_the_closed_form(network: str) -> None:
    # The folded form has the same windows in fewer nodes.
    graph = refnet.build(network, form="inference")
    shapes, fields = graph.shapes(), receptive_field(graph)
    maps = [node.name for node in graph.nodes if len(shapes[node.name]) == 3]
    sides = {shapes[name][1]: name for name in maps if shapes[name][1] > 1}
    assert len(sides) >= 4
    for name in sides.values():  # the last map of every resolution
        closed = fields[name]
        assert closed is not None
        field = effective_receptive_field(graph, name)
        x1, y1, x2, y2 = field.support
        assert (y2 - y1, x2 - x1) == closed.size


GATES: dict[str, dict[str, Any]] = {
    "relu": {},
    "relu6": {},
    "leaky_relu": {"slope": 0.1},
    "prelu": {},
    "elu": {"alpha": 1.0},
    "silu": {},
    "hard_sigmoid": {"slope": 0.2, "shift": 0.5},
    "hard_swish": {},
    "tanh": {},
    "exp": {},
    "sigmoid": {},
    "softmax": {"axis": 1},
    "clip": {"low": -0.5, "high": 0.5},
    "power": {"exponent": 3.0},
}


@pytest.mark.parametrize("op", GATES)
def test_gates_keep_every_unit_in_its_place(op: str) -> None:
    """In closed form, in the cone of a gradient, and in the open network, which has the identity there."""
    net = Builder((2, 14, 15))
    net.conv("input", "a", 3, Window(3, stride=2, padding=1))
    slopes = {"slope": ("gate.slope", (3,))} if op == "prelu" else None
    gate = net.add(op, "gate", "a", parameters=slopes, **GATES[op])
    output = net.conv(gate, "b", 2, Window(3, padding=1))
    graph = net.graph("gated", (output,), {}, fixed_size=False)
    fields = receptive_field(graph)
    assert fields["gate"] == fields["a"]
    rng = np.random.default_rng(0)
    weights = {name: rng.normal(size=shape) for name, shape in graph.parameters.items()}
    x = rng.normal(size=(2, 14, 15))
    cotangent = np.zeros((1, *graph.shapes()[output]))
    cotangent[0, :, 3, 7] = 1, -2
    for opened in (False, True):
        wired = graph
        if opened:
            nodes = [replace(n, inputs=("a",)) if n.name == "b" else n for n in graph.nodes]
            wired = replace(graph, nodes=tuple(n for n in nodes if n.name != "gate"))
        expected = reference.vjp(wired, weights, x[None], [cotangent])[0]
        seen = graph.input_shape if opened else x
        gradient, region = unit_gradient(graph, weights, seen, (3, 7), cotangent[0, :, 3, 7])
        found = np.zeros_like(expected)
        found[region.of(whole(x.shape))] = gradient
        np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)


def test_every_gate_is_tested() -> None:
    assert GATES.keys() == {name for name, op in OPS.items() if op.gate}


@st.composite
def drawn_graphs(draw: st.DrawFn) -> Graph:
    """A branching network with windows of any shape, which may leave gaps."""
    net = Builder((2, 97, 113))
    maps = ["input"]
    for i in range(draw(st.integers(2, 7))):
        x = draw(st.sampled_from(maps[-3:]))
        kind = draw(st.sampled_from(["conv", "conv", "pool", "add", "concat"]))
        same = [m for m in maps if net.shape[m] == net.shape[x]]
        if kind in ("add", "concat") and len(same) > 1:
            other = draw(st.sampled_from([m for m in same if m != x]))
            attributes: dict[str, Any] = {"axis": 1} if kind == "concat" else {}
            maps.append(net.add(kind, f"{kind}{i}", x, other, **attributes))
            continue
        pair = st.tuples(st.integers(1, 4), st.integers(1, 4))
        kernel = draw(pair)
        stride = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
        padding = draw(st.tuples(*(st.integers(0, k // 2) for k in kernel)))
        window: dict[str, Any] = {"kernel": kernel, "stride": stride, "padding": padding}
        if kind == "pool":
            maps.append(net.add("average_pool", f"pool{i}", x, **window))
            continue
        window["dilation"] = draw(st.tuples(st.integers(1, 2), st.integers(1, 2)))
        weight = (f"conv{i}.weight", (2, net.shape[x][0], *kernel))
        parameters = {"weight": weight}
        maps.append(net.add("conv", f"conv{i}", x, parameters=parameters, groups=1, **window))
    return net.graph("drawn", (maps[-1],), {}, fixed_size=False)


@given(drawn_graphs(), st.data())
@settings(max_examples=120)
def test_the_support_in_drawn_graphs_is_the_closed_form(graph: Graph, data: st.DataObject) -> None:
    output = graph.outputs[0]
    field = receptive_field(graph)[output]
    _, height, width = graph.shapes()[output]
    unit = (data.draw(st.integers(0, height - 1)), data.draw(st.integers(0, width - 1)))
    part = ending_at(graph, output)
    cotangent = np.ones(part.shapes()[output][0])
    weights = constant_weights(part, 1.0)
    gradient, region = unit_gradient(part, weights, graph.input_shape, unit, cotangent)
    rows, columns = np.nonzero(gradient.sum(0))
    if field is None or not len(rows):
        # Paths of different jumps, or a unit that sees nothing but padding: there is no claim to test.
        assert field is None or _outside(field.box(unit), graph.input_shape) or _gaps(graph)
        return
    x1, y1, x2, y2 = field.box(unit)
    seen = (
        columns.min() + region.left,
        rows.min() + region.top,
        columns.max() + region.left + 1,
        rows.max() + region.top + 1,
    )
    if x1 >= 0 and y1 >= 0 and x2 <= 113 and y2 <= 97:
        assert seen == (x1, y1, x2, y2)
    else:  # clipped by the image, and by gaps at its border
        assert seen[0] >= max(x1, 0)
        assert seen[1] >= max(y1, 0)
        assert seen[2] <= min(x2, 113)
        assert seen[3] <= min(y2, 97)


def _outside(box: tuple[int, int, int, int], shape: tuple[int, ...]) -> bool:
    x1, y1, x2, y2 = box
    return x2 <= 0 or y2 <= 0 or x1 >= shape[2] or y1 >= shape[1]


def _gaps(graph: Graph) -> bool:
    """Whether a window steps or reaches over pixels, so that a unit at the border may see none."""
    return any(
        s > k or d > 1
        for node in graph.nodes
        if "kernel" in node.attributes
        for k, s, d in zip(
            node.attributes["kernel"],
            node.attributes["stride"],
            node.attributes.get("dilation", (1, 1)),
            strict=True,
        )
    )


def test_a_name_a_file_a_model_and_a_graph_are_all_networks() -> None:
    model = refnet.load("lffd-face-v2")
    want = refnet.receptive_field(model.graph)
    path = refnet.weights.released("lffd-face-v2", {})
    assert path is not None
    nets: list[str | Path | refnet.Model] = ["lffd-face-v2", "lffd-face-v2:width=0.5", path, model]
    for net in nets:
        assert refnet.receptive_field(net) == want
    erf = refnet.effective_receptive_field("tinynet")
    np.testing.assert_array_equal(
        erf.map, refnet.effective_receptive_field(refnet.build("tinynet")).map
    )
