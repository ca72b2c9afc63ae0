"""The verifier against the kernels themselves: run uncompiled on memory that notes every access, they touch what the
verifier derives from their rows, all of it and nothing else; also when a row has been tampered with."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from refnet.kernels import executor, simd, verify
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
    x = net.conv(x, "depthwise", 20, 3, stride=2, padding=1, groups=20)
    y = net.conv(x, "depthwise2", 20, 3, padding=1, groups=20)
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
    outputs = (linear, moved, net.add("cells", "cells", valid), blocked)
    graph = checks.graph_of(net, *outputs)
    plan: checks.Plan = checks.at_lanes(lanes).plan.compile_plan(
        graph, checks.random_weights(graph)
    )
    assert set(checks.opcodes(plan)) == {*executor.OPCODES} - {"probe"}
    return plan


@functools.cache
def plan_of_larger_patches(lanes: int) -> checks.Plan:
    """Winograd layers of patches that make 6 x 6 outputs, one of which rectifies as it reads and one adds."""
    net = checks.Net((20, 17, 29))
    x = net.conv("input", "first", 20, 1)
    t = net.conv(net.add("relu", "a", x), "winograd", 24, 3, padding=1)
    t = net.conv(net.add("relu", "t", t), "winograd2", 20, 3, padding=1)
    graph = checks.graph_of(net, net.add("add", "z", x, t))
    with checks.only(6):
        plan: checks.Plan = checks.at_lanes(lanes).plan.compile_plan(
            graph, checks.random_weights(graph)
        )
    assert plan.explain().count("F(6x6,3x3) (2") == 2
    return plan


PLANS = (plan_of_every_kernel, plan_of_larger_patches)


def run_row(kernels: ModuleType, plan: checks.Plan, number: int) -> dict[str, Memory]:
    """Run one row of a plan, uncompiled; the memory that it ran on."""
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
    """What a row touched outside of the ranges that the verifier derived."""
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
    size = kernels.executor.ROW
    for number, step in enumerate(plan.steps):
        memory = run_row(kernels, plan, number)
        access = kernels.verify.accessed(plan.program[number * size :][:size], plan.program)
        assert touched_elsewhere(access, memory) == {}, step
        for name, ranges in (("arena", access.writes), ("output", access.output)):
            for start, stop in ranges:
                # Cells of several channels lie between each other: those of a row need not fill its range.
                if name == "arena" or step.name != "cells":
                    assert memory[name].written[start:stop].all(), (step, "leaves gaps")


@settings(max_examples=150)
@given(data=st.data())
def test_a_tampered_row_is_refused_or_stays_in_its_ranges(data: st.DataObject) -> None:
    """Any integer of any row or list, a little or much too large or small: what the verifier still accepts can run."""
    lanes = simd.LANES
    kernels, plan = checks.at_lanes(lanes), data.draw(st.sampled_from(PLANS))(lanes)
    size = kernels.executor.ROW
    number = data.draw(st.integers(0, plan.rows - 1))
    position = data.draw(
        st.integers(number * size + 1, number * size + 28)
        | st.integers(plan.rows * size, len(plan.program) - 1)
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
    memory = run_row(kernels, tampered, number)
    access = kernels.verify.accessed(program[number * size :][:size], program)
    assert touched_elsewhere(access, memory) == {}, plan.steps[number]
