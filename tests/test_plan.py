"""Plans: drawn graphs against the reference, what is fused, how memory is placed, and what the verifier catches."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import refnet
from refnet import cli
from refnet.cli import info
from refnet.kernels import instructions, layout, memory, verify
from refnet.passes import fold
from refnet.random_weights import random_weights
from tests import kernel_checks as checks
from tests.drawn_graphs import Drawing


@settings(max_examples=250)
@given(data=st.data(), size=st.integers(1, 12))
def test_any_graph_of_the_vocabulary_equals_the_reference(data: st.DataObject, size: int) -> None:
    drawing = Drawing(data)
    for _ in range(size):
        drawing.grow()
    if len(drawing.names) == 1:
        return
    checks.check(drawing.graph(), checks.WINOGRAD)


@settings(max_examples=60)
@given(data=st.data(), size=st.integers(2, 9))
def test_streams_and_shares_of_any_graph_equal_the_reference(
    data: st.DataObject, size: int
) -> None:
    """The same with every tensor streamed that can be, in the smallest bands, and every instruction shared by three threads."""
    with pytest.MonkeyPatch.context() as patch:
        engines = [checks.at_lanes(lanes) for lanes in checks.LANE_COUNTS]
        for kernels in engines:
            patch.setattr(kernels.streaming, "STREAMED", 1)
            patch.setattr(kernels.streaming, "BAND_PIXELS", 14)
            patch.setattr(kernels.streaming, "BAND_ROWS", 1)
            patch.setattr(kernels.streaming, "BAND_FLOATS", 0)
            patch.setattr(kernels.streaming, "MOST_HALOS", 2)
            patch.setattr(kernels.partition, "LEAST_WORK", 1)
        drawing = Drawing(data)
        drawing.names.append(drawing.net.conv("input", "first", 20, 3, padding=1))
        for i in range(drawing.draw(0, 3)):
            drawing.names.append(drawing.net.conv(drawing.names[-1], f"head{i}", 9 + i, 1))
        for _ in range(size):
            drawing.grow()
        graph = checks.graph_of(drawing.net, drawing.names[-1])
        checks.check(graph, checks.WINOGRAD)
        x = checks.image(graph.input_shape)
        for kernels in engines:
            plan = kernels.compiler.compile_plan(graph, random_weights(graph))
            one, three = kernels.runner.Runner(plan), kernels.runner.Runner(plan, 3)
            three.__dict__["_large"] = True
            np.testing.assert_array_equal(three.run(x)[0], one.run(x)[0])


def test_a_4k_image_needs_little_more_than_its_trunk() -> None:
    """Two maps of 539 x 959 x 64 floats are 265 MB; the first layer's output alone would be 530."""
    graph = refnet.build("lffd-face-v2")
    plan = checks.compile_plan(graph, random_weights(graph), (3, 2160, 3840))
    assert plan.arena * 4 < 300e6


def compiled(name: str, **options: Any) -> checks.Plan:
    graph = refnet.build(name, **options)
    return checks.compile_plan(*fold(graph, random_weights(graph)))


def test_networks_are_planned_without_copies() -> None:
    """Concatenations, slices and residuals cost nothing in the networks that we ship."""
    for name in ("pfld", "pfld-msfc", "pfld-ultralight", "pfld-ultralight-slim", "pfld-ghostone"):
        for width in (0.25, 1.0):
            assert not {"gather", "add", "load_image"} & set(
                checks.opcodes(compiled(name, width=width))
            ), name
    for name in ("lffd-face-v1", "lffd-plate-small"):
        assert not {"gather", "add", "affine"} & set(checks.opcodes(compiled(name))), name


def test_explain_names_every_layer_and_its_kernel() -> None:
    text = compiled("lffd-face-v2", input_size=(160, 160)).explain()
    assert "lffd-face-v2 on (3, 160, 160)" in text
    assert "F(4x4,3x3)" in text and "ReLU on load" in text and "MiB of scratch" in text


def test_explain_names_the_fields_too() -> None:
    """The first layer of pfld, 3 x 3 with stride 2 and padding 1 on 112 x 112 pixels."""
    _, first, named, *_ = compiled("pfld", width=0.25).explain(fields=True).splitlines()
    assert first.split()[:2] == ["0", "planar"]
    assert {"ROWS 112", "KERNEL_ROWS 3", "STRIDE 2", "TOP 1"} <= {*named.strip().split(", ")}


@pytest.mark.parametrize("change", ["stride", "groups and stride", "softmax"])
def test_what_the_engine_cannot_run_is_said(change: str) -> None:
    net = checks.Net((6, 8, 8))
    window: Any = {
        "kernel": (3, 3),
        "stride": (1, 1),
        "padding": (1, 1),
        "dilation": (1, 1),
        "groups": 1,
    }
    window |= {
        "stride": {"stride": (1, 2)},
        "groups and stride": {"stride": (1, 2), "groups": 3},
    }.get(change, {})
    weight = ("w", (6, 6 // window["groups"], 3, 3))
    y = net.add("conv", "conv", "input", parameters={"weight": weight}, **window)
    if change == "softmax":
        y = net.add("softmax", "softmax", y, axis=2)
    graph = checks.graph_of(net, y)
    with pytest.raises(
        checks.UnsupportedError,
        match="softmax" if change == "softmax" else r"conv( group 0)? is a conv.* one stride",
    ):
        checks.compile_plan(graph, random_weights(graph))
    if change == "softmax":
        return  # the engine can run what comes before it
    with pytest.warns(RuntimeWarning, match="NumPy runs instead"):
        model = refnet.Model(graph, random_weights(graph))
        assert model(checks.image((6, 8, 8))).shape[0] == 1  # type: ignore[union-attr]
    assert model.backend == "numpy"


def test_info_says_what_cannot_run(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    net = checks.Net((6, 8, 8))
    graph = checks.graph_of(net, net.add("softmax", "over_columns", "input", axis=3))
    monkeypatch.setattr(info, "read_graph", lambda name: graph)
    assert cli.main(["info", "tinynet", "--plan"]) == 1
    said = capsys.readouterr().err
    assert "cannot run drawn: over_columns is a softmax along axis 3 of (N, 6, 8, 8)" in said


@settings(max_examples=60)
@given(
    lives=st.lists(
        st.tuples(st.integers(1, 200), st.integers(0, 20), st.integers(0, 8)),
        min_size=1,
        max_size=30,
    )
)
def test_buffers_that_live_together_never_overlap(lives: list[tuple[int, int, int]]) -> None:
    buffers = [
        layout.Buffer(str(i), floats, first=first, last=first + length)
        for i, (floats, first, length) in enumerate(lives)
    ]
    size = memory.place(buffers, guard=3)
    for i, a in enumerate(buffers):
        assert (
            a.offset >= 0 and a.offset + a.floats + 3 <= size and a.offset % memory.ALIGNMENT == 0
        )
        for b in buffers[:i]:
            if a.first <= b.last and b.first <= a.last:
                assert a.offset + a.floats + 3 <= b.offset or b.offset + b.floats + 3 <= a.offset


def test_memory_is_shared_over_time() -> None:
    plan = compiled("pfld")
    buffers = {buffer for i in plan.instructions for buffer in i.touched()}
    assert plan.arena < sum(buffer.floats for buffer in buffers) / 3


@pytest.mark.parametrize("kind", ["needed later", "also the input", "free"])
def test_a_result_takes_the_place_of_a_residual_that_nobody_needs(kind: str) -> None:
    net = checks.Net((6, 5, 6))
    window: Any = {"kernel": (2, 2), "stride": (1, 1), "padding": (0, 0)}
    z = net.add("max_pool", "z", net.conv("input", "before", 40, 1), **window)
    x = net.add("average_pool", "x", "input", **window)
    y = net.conv(z if kind == "also the input" else x, "conv", 40, 1)
    outputs = [net.add("add", "sum", z, net.add("relu", "act", y))]
    if kind == "needed later":
        outputs.append(net.conv(z, "later", 5, 1))
    plan = checks.check(checks.graph_of(net, *outputs), checks.DIRECT)
    (instruction,) = (i for i in plan.instructions if i.name == "conv")
    (result,) = instruction.writes
    residual = next(buffer for buffer in instruction.reads if buffer.name == "z")
    assert (result.offset == residual.offset) is (kind == "free")


def broken(plan: checks.Plan, number: int, column: int, value: int) -> checks.Plan:
    program = plan.program.copy()
    program[number * instructions.WIDTH + column] = value
    return replace(plan, program=program)


def test_the_verifier_refuses_what_would_leave_its_buffers() -> None:
    """Every offset and every size of every instruction, made too large or negative, is refused or changes nothing it guards."""
    plan = compiled("pfld-ultralight", width=0.25)
    verify.verify(plan)
    outside = plan.arena + plan.output_size
    for number, instruction in enumerate(plan.instructions):
        fields = instructions.FIELDS[instruction.opcode]
        size = next(f for f in (instructions.BLOCKS, instructions.DEPTH) if f in fields)
        for column, value in ((instructions.Y, outside), (instructions.Y, -16), (size, 1 << 10)):
            with pytest.raises(verify.PlanError):
                verify.verify(broken(plan, number, column, value))
        for column in {instructions.WEIGHTS, instructions.CONSTANTS} & {*fields}:
            with pytest.raises(verify.PlanError):
                verify.verify(broken(plan, number, column, len(plan.weights)))
        for column in {*range(1, instructions.WIDTH)} - {*fields}:
            with pytest.raises(verify.PlanError, match="has no use for its field"):
                verify.verify(broken(plan, number, column, 1))


def test_the_verifier_refuses_reads_of_what_nothing_wrote() -> None:
    plan = compiled("pfld", width=0.25)
    first, second, *others = plan.instructions
    program, width = plan.program.copy(), instructions.WIDTH
    program[:width] = plan.program[width : 2 * width]
    program[width : 2 * width] = plan.program[:width]
    swapped = replace(plan, program=program, instructions=(second, first, *others))
    with pytest.raises(verify.PlanError, match="which nothing wrote"):
        verify.verify(swapped)


def test_folding_keeps_float64_until_the_end() -> None:
    """(x - 127.5) / 127.5 folded into the first layer: exact to float32's last bits."""
    net = checks.Net((3, 9, 9))
    y = net.add("normalize", "normalize", "input", mean=127.5, std=127.5)
    graph = checks.graph_of(net, net.conv(y, "conv", 8, 3, stride=2))
    x = np.random.default_rng(0).integers(0, 256, (1, 3, 9, 9)).astype(np.float32)
    checks.check(graph, 2e-6, x)
