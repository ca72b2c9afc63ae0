"""Where channels lie: concatenations, slices and flattenings as lists of blocks, and the planner's decisions about
memory, each switched off in turn."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

import refnet
from refnet.graph import Graph
from refnet.kernels import fusion, layout, lower, lower_convolution, simd, streaming
from refnet.ops import Array
from refnet.passes import fold
from refnet.random_weights import random_weights
from tests import kernel_checks as checks

LANES = simd.LANES
COUNTS = st.lists(st.integers(1, 2 * LANES + 3), min_size=1, max_size=4)


class Memory:
    """An arena in which tensors are written and read channel by channel."""

    def __init__(self) -> None:
        self.floats = np.full(1 << 16, np.nan)
        self.end = 0

    def write(self, content: Array, starts: Sequence[int]) -> layout.Tensor:
        """A tensor (C, H, W) in a buffer of its own, with blocks that begin at `starts`."""
        tensor = layout.allocate("t", content.shape, layout.dense_lanes(len(content), starts))
        tensor.blocks[0].buffer.offset = self.end
        self.end += tensor.blocks[0].buffer.floats
        for lane, channel in enumerate(tensor.lanes):
            if channel >= 0:
                start = tensor.blocks[lane // LANES].address + lane % LANES
                stop = start + tensor.pixels * LANES
                self.floats[start:stop:LANES] = content[channel].ravel()
        return tensor

    def read(self, tensor: layout.Tensor) -> Array:
        """The content of a tensor."""
        rows = []
        for source in tensor.sources():
            start = source.address
            rows.append(self.floats[start : start + tensor.pixels * LANES : LANES])
        return np.array(rows).reshape(tensor.shape)


@settings(max_examples=80)
@given(counts=COUNTS, data=st.data())
def test_concatenations_slices_and_flattenings_move_nothing(
    counts: list[int], data: st.DataObject
) -> None:
    memory, rng = Memory(), np.random.default_rng(0)
    contents = [rng.standard_normal((count, 2, 3)) for count in counts]
    starts = [data.draw(st.lists(st.integers(0, count), max_size=2)) for count in counts]
    parts = [memory.write(c, b) for c, b in zip(contents, starts, strict=True)]
    joined, expected = layout.concatenate(parts), np.concatenate(contents)
    assert_array_equal(memory.read(joined), expected)
    start = data.draw(st.integers(0, sum(counts) - 1))
    stop = data.draw(st.integers(start + 1, sum(counts)))
    cut, expected = layout.slice_channels(joined, start, stop), expected[start:stop]
    assert_array_equal(memory.read(cut), expected)
    again, twice = layout.concatenate([cut, parts[0]]), np.concatenate([expected, contents[0]])
    assert_array_equal(memory.read(again), twice)
    assert_array_equal(memory.read(layout.flatten(again)), twice.ravel())
    for tensor in (joined, cut, again, layout.flatten(cut)):
        assert len(tensor.lanes) == len(tensor.blocks) * LANES
        last = [
            max(i for i, c in enumerate(block) if c >= 0) + 1 for block in lanes_by_block(tensor)
        ]
        assert tensor.counts() == tuple(last)


def lanes_by_block(tensor: layout.Tensor) -> list[tuple[int, ...]]:
    return [tensor.lanes[i : i + LANES] for i in range(0, len(tensor.lanes), LANES)]


@given(count=st.integers(1, 70), starts=st.lists(st.integers(-3, 80), max_size=4))
def test_lanes_hold_every_channel_once_and_start_blocks_where_asked(
    count: int, starts: list[int]
) -> None:
    lanes = layout.dense_lanes(count, starts)
    assert [lane for lane in lanes if lane >= 0] == list(range(count))
    assert all(lanes.index(b) % LANES == 0 for b in starts if 0 < b < count)


@settings(max_examples=80)
@given(data=st.data(), pixels=st.integers(1, 5))
def test_runs_are_the_longest_stretches_of_neighbours(data: st.DataObject, pixels: int) -> None:
    buffers = [layout.Buffer(name, 0) for name in "ab"]
    drawn = st.tuples(st.integers(0, 1), st.integers(0, 3))
    size = data.draw(st.integers(1, 8))
    lists = [
        [
            layout.Block(buffers[v], i * pixels * LANES)
            for v, i in data.draw(st.lists(drawn, min_size=size, max_size=size))
        ]
        for _ in range(2)
    ]
    distances = [
        {(p[i].buffer is p[i - 1].buffer, p[i].offset - p[i - 1].offset) for p in lists}
        for i in range(1, size)
    ]
    joins = [distance == {(True, pixels * LANES)} for distance in distances]
    first = [0, *(i for i, joined in enumerate(joins, 1) if not joined)]
    assert layout.runs(pixels, *lists) == list(zip(first, [*first[1:], size], strict=True))


# ------------------------------------------------------------------------- decisions, on and off

NETWORKS: list[tuple[str, dict[str, Any]]] = [
    ("lffd-face-v1", {"input_size": (141, 133)}),
    ("lffd-face-v2", {"input_size": (141, 133)}),
    ("pfld-ultralight", {"width": 0.25}),
    ("pfld-ghostone", {"width": 0.25}),
    ("basketnet", {"input_size": (150, 131)}),
]


def outputs_and_plan(graph: Graph, weights: Any) -> tuple[tuple[Array, ...], checks.Plan]:
    plan = checks.compile_plan(graph, weights, guard=16)
    return checks.run_guarded(plan, checks.image(graph.input_shape)), plan


def compared(name: str, options: dict[str, Any], off: Callable[[pytest.MonkeyPatch], None]) -> Any:
    """(largest difference of the outputs, plan as it is, plan with something switched off)."""
    graph = refnet.build(name, **options)
    folded = fold(graph, random_weights(graph))
    ours, plan = outputs_and_plan(*folded)
    with pytest.MonkeyPatch.context() as patch:
        off(patch)
        others, other_plan = outputs_and_plan(*folded)
    difference = max(np.abs(a - b).max() for a, b in zip(ours, others, strict=True))
    return difference, plan, other_plan


@pytest.mark.parametrize(("name", "options"), NETWORKS)
def test_results_in_the_place_of_residuals_change_no_bit_and_save_memory(
    name: str, options: dict[str, Any]
) -> None:
    def off(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(lower_convolution.Destination, "in_place", lambda *_: None)

    difference, plan, other = compared(name, options, off)
    assert difference == 0
    assert plan.arena <= other.arena
    if name == "lffd-face-v2":
        assert any(i.in_place for i in plan.instructions)
        assert not any(i.in_place for i in other.instructions)


@pytest.mark.parametrize(("name", "options"), [n for n in NETWORKS if "pfld" not in n[0]])
def test_streams_agree_with_whole_layers(name: str, options: dict[str, Any]) -> None:
    def off(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(streaming, "STREAMED", 1 << 60)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streaming, "STREAMED", 1)
        difference, plan, other = compared(name, options, off)
    assert difference <= checks.DIRECT
    assert any(i.band for i in plan.instructions)
    assert not any(i.band for i in other.instructions)


@pytest.mark.parametrize("name", ["lffd-face-v1", "lffd-face-v2"])
def test_relus_applied_on_load_agree_with_stored_ones(name: str) -> None:
    def off(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(fusion, "deferred_relus", lambda *_: frozenset())

    difference, plan, other = compared(name, {"input_size": (141, 133)}, off)
    assert difference <= checks.DIRECT
    assert "ReLU on load" not in other.explain()
    if name == "lffd-face-v2":
        assert "ReLU on load" in plan.explain()


def test_blocks_that_begin_where_a_slice_does_save_gathering() -> None:
    def off(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(lower, "block_starts", lambda *_: {})

    difference, plan, other = compared("pfld-ultralight-slim", {"width": 0.125}, off)
    assert difference <= checks.DIRECT
    assert "gather" not in checks.opcodes(plan)
    assert "gather" in checks.opcodes(other)
