"""The verifier against the kernels themselves: run uncompiled on memory that notes every access, they touch what the
verifier derives from their integers, all of it and nothing else; also when these have been tampered with."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from refnet.kernels import instructions, layout, simd, verify
from tests import kernel_checks as checks

MARGIN = 1 << 12


class StrayError(Exception):
    """A kernel touched what lies far outside of its buffer."""


@dataclass
class Memory:
    """A buffer, and which of its elements have been read and written since `forget`."""

    values: NDArray[Any]
    read: NDArray[np.bool_] = field(init=False)
    written: NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        self.size = len(self.values)
        self.values = np.concatenate([self.values, np.zeros(2 * MARGIN, self.values.dtype)])
        self.forget()

    def forget(self) -> None:
        self.read, self.written = (np.zeros(self.size + 2 * MARGIN, bool) for _ in range(2))

    def at(self, start: int, stop: int, step: int) -> slice:
        """The slice of `values`, in which what lies before the buffer comes last."""
        if start < -MARGIN or stop > self.size + MARGIN or stop <= start:
            raise StrayError(f"{start}:{stop} of {self.size}")
        if start < 0:
            start, stop = start + self.size + 2 * MARGIN, stop + self.size + 2 * MARGIN
            if stop > self.size + 2 * MARGIN:
                raise StrayError("across the start of a buffer")
        return slice(start, stop, step)

    def stray(self, touched: NDArray[np.bool_], ranges: Iterable[verify.Range]) -> list[int]:
        """The first elements that were touched outside of the ranges."""
        allowed = np.zeros(self.size + 2 * MARGIN, bool)
        for start, stop in ranges:
            allowed[start:stop] = True
        return [int(i) for i in np.flatnonzero(touched & ~allowed)[:4]]


class Pointer:
    """What a kernel sees of a `Memory`: a position in it that can be moved, read and written."""

    def __init__(self, memory: Memory, position: int = 0) -> None:
        self.memory, self.position = memory, position

    def _place(self, key: Any) -> slice:
        if isinstance(key, slice):
            first, last = self.position + int(key.start), self.position + int(key.stop)
            return self.memory.at(first, last, int(key.step or 1))
        return self.memory.at(self.position + int(key), self.position + int(key) + 1, 1)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice) and key.stop is None:
            return Pointer(self.memory, self.position + int(key.start))
        place = self._place(key)
        self.memory.read[place] = True
        content = self.memory.values[place].copy()
        return content if isinstance(key, slice) else content[0]

    def __setitem__(self, key: Any, content: Any) -> None:
        place = self._place(key)
        self.memory.written[place] = True
        self.memory.values[place] = content


@functools.cache
def plan_of_every_kernel(lanes: int) -> checks.Plan:
    """Small layers, among them one of every kind."""
    net = checks.Net((3, 11, 10))
    x = net.conv(net.add("normalize", "n", "input", mean=1.0, std=2.0), "planar", 40, 3, padding=1)
    t = net.conv(net.add("relu", "a", x), "winograd", 48, 3, padding=1)
    t = net.conv(net.add("relu", "t", t), "winograd2", 40, 3, padding=1)
    x = net.conv(net.add("add", "z", x, t), "dense", 20, 3, stride=2, padding=1)
    x = net.add("prelu", "sloped", x, parameters={"slope": ("sloped.slope", (20,))})
    x = net.conv(x, "depthwise", 20, 3, stride=2, padding=1, groups=20)
    y = net.conv(x, "depthwise2", 20, 3, padding=1, groups=20)
    y = net.add("prelu", "sloped2", y, parameters={"slope": ("sloped2.slope", (20,))})
    x = net.add("normalize", "affine", net.add("add", "w", x, y), mean=0.5, std=2.0)
    window: Any = {"kernel": (2, 2), "stride": (1, 1), "padding": (0, 0)}
    x = net.add("max_pool", "pool", x, **window)
    x = net.add("concat", "joined", net.add("slice", "cut", x, start=3, stop=10), x, axis=1)
    y = net.add("add", "sum", net.add("softmax", "soft", x, axis=1), net.add("sigmoid", "sig", x))
    low, high = (net.add("slice", f"from {i}", x, start=i, stop=i + 11) for i in (1, 5))
    moved = net.add("add", "moved", low, high)
    valid = net.conv(y, "valid", 17, 2)
    linear = net.linear(net.global_average(y, "mean"), "linear", 70)
    blocked = net.add("average_pool", "blocked", "input", **window)
    larger = net.add("upsample", "larger", valid, factor=(2, 3))
    larger = net.add("upsample_linear", "soft2", larger, factor=(1, 2), coordinates="half_pixel")
    square = net.add(
        "depth_to_space", "square", net.conv(y, "four", 12, 1), block=2, depth_first=True
    )
    square = net.conv(square, "window", 3, 5, stride=2, dilation=(1, 2), padding=4, groups=3)
    square = net.add("add", "again", net.add("relu", "act", square), square)
    leaky = net.add("leaky_relu", "leaky", square, slope=0.1)
    leaky = net.add("multiply", "gated", net.add("global_max_pool", "gate", leaky), leaky)
    leaky = net.add("hard_swish", "hard", leaky)
    outputs = (linear, moved, net.add("cells", "cells", valid), blocked, larger, leaky)
    graph = checks.graph_of(net, *outputs)
    plan: checks.Plan = checks.at_lanes(lanes).compiler.compile_plan(
        graph, checks.random_weights(graph)
    )
    assert set(checks.opcodes(plan)) == {*instructions.OPCODES} - {"nothing", "probe"}
    return plan


@functools.cache
def plan_of_larger_patches(lanes: int) -> checks.Plan:
    """Winograd layers of patches that make 6 x 6 outputs, one of which applies a ReLU on load and one adds."""
    net = checks.Net((20, 17, 29))
    x = net.conv("input", "first", 20, 1)
    t = net.conv(net.add("relu", "a", x), "winograd", 24, 3, padding=1)
    t = net.conv(net.add("relu", "t", t), "winograd2", 20, 3, padding=1)
    x = net.add("prelu", "y", net.add("add", "z", x, t), parameters={"slope": ("slope", (20,))})
    graph = checks.graph_of(net, x)
    with checks.only(6):
        plan: checks.Plan = checks.at_lanes(lanes).compiler.compile_plan(
            graph, checks.random_weights(graph)
        )
    assert plan.explain().count("F(6x6,3x3) (2") == 2
    return plan


PLANS = (plan_of_every_kernel, plan_of_larger_patches)


def run_one(kernels: ModuleType, plan: checks.Plan, number: int) -> dict[str, Memory]:
    """Run one instruction of a plan, uncompiled; the memory that it ran on."""
    memory = {
        "program": Memory(plan.program),
        "weights": Memory(plan.weights),
        "arena": Memory(np.zeros(plan.arena, np.float32)),
        "image": Memory(np.zeros(int(np.prod(plan.input_shape)), np.float32)),
        "output": Memory(np.zeros(plan.output_size, np.float32)),
    }
    pointers = {name: Pointer(array) for name, array in memory.items()}
    with np.errstate(all="ignore"):
        kernels.executor.execute(
            *(pointers["program"], number, number + 1, pointers["weights"], pointers["arena"]),
            *(memory["image"].size, plan.output_size, 0, pointers["image"], 1, pointers["output"]),
        )
    return memory


def touched_elsewhere(access: Any, memory: dict[str, Memory]) -> dict[str, list[int]]:
    """What an instruction touched outside of the ranges that the verifier derived."""
    arena = memory["arena"]
    nothing: list[verify.Range] = []
    program = memory["program"]
    found = {
        "arena read": arena.stray(arena.read, access.reads + access.writes + access.scratch),
        "arena written": arena.stray(arena.written, access.writes + access.scratch),
        "output written": memory["output"].stray(memory["output"].written, access.output),
        "output read": memory["output"].stray(memory["output"].read, nothing),
        "program read": program.stray(program.read, [(0, program.size)]),
    }
    for name, ranges in (("weights", access.weights), ("image", access.image)):
        found[f"{name} read"] = memory[name].stray(memory[name].read, ranges)
        found[f"{name} written"] = memory[name].stray(memory[name].written, nothing)
    return {what: where for what, where in found.items() if where}


@pytest.mark.parametrize("plan_of", PLANS)
@pytest.mark.parametrize("lanes", checks.LANE_COUNTS)
def test_kernels_touch_what_the_verifier_says(
    lanes: int, plan_of: Callable[[int], checks.Plan]
) -> None:
    kernels, plan = checks.at_lanes(lanes), plan_of(lanes)
    program = kernels.verify.Program(plan.program, len(plan.instructions))
    for number, instruction in enumerate(plan.instructions):
        memory = run_one(kernels, plan, number)
        access = kernels.verify.accessed(program, number)
        assert touched_elsewhere(access, memory) == {}, instruction
        for name, ranges in (("arena", access.writes), ("output", access.output)):
            for start, stop in ranges:
                # Cells of several channels lie between each other: those of one map need not fill its range.
                if name == "arena" or instruction.name != "cells":
                    assert memory[name].written[start:stop].all(), (instruction, "leaves gaps")


@pytest.mark.parametrize("lanes", checks.LANE_COUNTS)
def test_kernels_read_the_fields_of_their_opcode_and_all_of_them(lanes: int) -> None:
    kernels = checks.at_lanes(lanes)
    read: dict[int, set[int]] = {}
    for plan_of in PLANS:
        plan = plan_of(lanes)
        for number, instruction in enumerate(plan.instructions):
            start = number * instructions.WIDTH
            columns = run_one(kernels, plan, number)["program"].read[start:][: instructions.WIDTH]
            read.setdefault(instruction.opcode, set()).update(np.flatnonzero(columns).tolist())
    # How many rows a map has, the verifier alone needs to know: no window, and no place, leaves them.
    for opcode in (instructions.WINDOW_POOL, instructions.RESAMPLE):
        read[opcode].add(instructions.ROWS)
    for opcode, fields in read.items():
        assert fields == {instructions.OPCODE, *instructions.FIELDS[opcode]}, opcode


def test_a_message_is_made_only_when_something_is_wrong() -> None:
    class Unprintable:
        def __str__(self) -> str:
            raise AssertionError("formatted")

    verify._require(True, "%s", Unprintable())
    with pytest.raises(AssertionError, match="formatted"):
        verify._require(False, "%s", Unprintable())


@settings(max_examples=200)
@given(
    writes=st.lists(
        st.tuples(st.integers(0, 40), st.integers(0, 12), st.integers(0, 3)), max_size=30
    ),
    data=st.data(),
)
def test_owners_equal_a_table_of_floats(
    writes: list[tuple[int, int, int]], data: st.DataObject
) -> None:
    buffers = [layout.Buffer(str(i), 60, offset=0) for i in range(4)]
    owners, table = verify._Owners(), np.full(60, -1)
    for start, size, owner in writes:
        owners.write(start, start + size, buffers[owner])
        table[start : start + size] = owner
        for _ in range(3):
            a = data.draw(st.integers(0, 50))
            b, who = a + data.draw(st.integers(0, 9)), data.draw(st.integers(0, 3))
            held = owners.hold(a, b, [buffers[who]])
            assert held == bool((table[a:b] == who).all())


@given(
    ranges=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 9)), max_size=12),
    others=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 9)), max_size=12),
)
def test_merged_ranges_and_their_overlaps_equal_sets_of_floats(
    ranges: list[tuple[int, int]], others: list[tuple[int, int]]
) -> None:
    def floats(ranges: Iterable[verify.Range]) -> set[int]:
        return {i for start, stop in ranges for i in range(start, stop)}

    a, b = ([(start, start + size) for start, size in r] for r in (ranges, others))
    merged = verify._merged(a)
    assert floats(merged) == floats(a)
    assert all(x[1] < y[0] for x, y in itertools.pairwise(merged))
    assert verify._overlap(merged, verify._merged(b)) == bool(floats(a) & floats(b))


@settings(max_examples=100)
@given(st.data(), st.integers(1, 30), st.integers(1, 30), st.sampled_from([4, 6]))
def test_the_pixels_of_patches_equal_a_drawn_map(
    data: st.DataObject, rows: int, columns: int, side: int
) -> None:
    across = -(-columns // side)
    count = -(-rows // side) * across
    first = data.draw(st.integers(0, count))
    last = data.draw(st.integers(first, count))
    expected = np.zeros((rows, columns), bool)
    for patch in range(first, last):
        top, left = patch // across * side, patch % across * side
        expected[top : top + side, left : left + side] = True
    made = np.zeros(rows * columns, bool)
    for start, stop in verify._patches(first, last, side, rows, columns):
        made[start:stop] = True
    np.testing.assert_array_equal(made.reshape(rows, columns), expected)


@settings(max_examples=150)
@given(data=st.data())
def test_a_tampered_instruction_is_refused_or_stays_in_its_ranges(data: st.DataObject) -> None:
    """Any field of any instruction or list, a little or much too large or small: what the verifier still accepts can run."""
    lanes = simd.LANES
    kernels, plan = checks.at_lanes(lanes), data.draw(st.sampled_from(PLANS))(lanes)
    count = len(plan.instructions)
    number = data.draw(st.integers(0, count - 1))
    column = st.sampled_from(instructions.FIELDS[plan.instructions[number].opcode])
    position = data.draw(
        column.map(lambda column: number * instructions.WIDTH + column)
        | st.integers(count * instructions.WIDTH, len(plan.program) - 1)
    )
    change = data.draw(
        st.sampled_from([-1, 1, -lanes, lanes, 3 * lanes, -2, 2, -(1 << 20), 1 << 20])
    )
    program = plan.program.copy()
    program[position] += change
    tampered = replace(plan, program=program)
    try:
        kernels.verify.verify(tampered)
    except kernels.verify.PlanError:
        return
    memory = run_one(kernels, tampered, number)
    access = kernels.verify.accessed(kernels.verify.Program(program, count), number)
    assert touched_elsewhere(access, memory) == {}, plan.instructions[number]
