"""One image on several threads: the table of a plan, once per thread, each with its share of every step.

A step over pixels, rows or patches is cut into contiguous shares; bands of a stream are dealt out whole; what cannot be
cut, or is too small, the first thread does alone. Between *phases* the threads wait for each other. Memory that lives
within a step or a band is every thread's own. How a result is computed does not depend on who computes it, so the bits
are the same for any number of threads.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from . import executor as ops
from .executor import ROW
from .plan import Plan
from .steps import Step, Table

#: {opcode: (column of the first, column behind the last, smallest share)}
SHARED = {
    ops.POINTWISE: (12, 13, 14),
    ops.DENSE: (12, 13, 1),
    ops.PLANAR: (12, 13, 1),
    ops.WINOGRAD: (12, 13, 1),
    ops.DEPTHWISE: (13, 14, 1),
    ops.SOFTMAX: (6, 7, 1),
    ops.UNBLOCK: (7, 8, 64),
}
#: Multiply-accumulates, or values moved, below which waiting for each other costs more than sharing gains.
LEAST_WORK = 1 << 20
NOTHING = len(ops.OPCODES)


@dataclass(frozen=True)
class Parts:
    """A plan for several threads.

    Attributes:
        programs: one table per thread.
        phases: (first row, last row, whether every thread has work in it); they run one after the other.
        arena: floats of all threads together.
    """

    programs: tuple[NDArray[np.int64], ...]
    phases: tuple[tuple[int, int, bool], ...]
    arena: int


def work(row: NDArray[np.int64]) -> int:
    """About how many vector operations a row takes, times LANES; 0 for what cannot be shared."""
    if int(row[0]) not in SHARED:
        return 0
    first, last, _ = SHARED[int(row[0])]
    extent = int(row[last] - row[first])
    match int(row[0]):
        case ops.POINTWISE:
            return extent * int(row[7]) * int(row[3]) * 16
        case ops.DENSE | ops.PLANAR:
            return extent * int(row[25]) * int(row[7]) * int(row[3]) * 16
        case ops.WINOGRAD:
            return (int(row[23]) + 2) ** 2 * extent * int(row[7]) * int(row[3]) * 16
        case ops.DEPTHWISE:
            return extent * int(row[8]) * 9 * int(row[3]) * 16
        case ops.SOFTMAX:
            return extent * 30 * int(row[3]) * 16
    return 0


def split(plan: Plan, threads: int) -> Parts:
    """The tables and phases of `plan` on so many threads."""
    phases = _phases(plan)
    programs = []
    moved = {v: v.offset for step in plan.steps for v in step.touched() if v.private}
    try:
        for thread in range(threads):
            for value, offset in moved.items():
                value.offset = offset + thread * plan.private
            programs.append(_program(plan, phases, thread, threads))
    finally:
        for value, offset in moved.items():
            value.offset = offset
    return Parts(tuple(programs), phases, plan.arena + (threads - 1) * plan.private)


def _phases(plan: Plan) -> tuple[tuple[int, int, bool], ...]:
    """Streams and large steps are phases of their own, runs of small steps one phase together."""
    phases: list[tuple[int, int, bool]] = []
    names: list[str] = []
    for number, step in enumerate(plan.steps):
        row = plan.program[number * ROW : (number + 1) * ROW]
        shared = step.band is not None or work(row) >= LEAST_WORK
        name = step.band[0] if step.band is not None else (f"{number}" if shared else "")
        if names and names[-1] == name and (step.band is not None or not shared):
            phases[-1] = (phases[-1][0], number + 1, shared)
        else:
            phases.append((number, number + 1, shared))
            names.append(name)
    return tuple(phases)


def _program(
    plan: Plan, phases: tuple[tuple[int, int, bool], ...], thread: int, threads: int
) -> NDArray[np.int64]:
    table = Table(plan.rows)
    for first, last, shared in phases:
        steps = plan.steps[first:last]
        bands = 1 + max((step.band[1] for step in steps if step.band is not None), default=0)
        for step in steps:
            row = step.encode(table)
            if not _takes(step, row, shared, thread, threads, bands):
                row[0] = NOTHING
            table.write(row)
    return table.array()


def _takes(step: Step, row: list[int], shared: bool, thread: int, threads: int, bands: int) -> bool:
    """Whether the thread has work in the row, which is cut to its share."""
    if not shared:
        return thread == 0
    if step.band is not None:
        return bands * thread // threads <= step.band[1] < bands * (thread + 1) // threads
    first, last, least = SHARED[row[0]]
    start, extent = row[first], row[last] - row[first]
    bounds = [start + extent * t // threads // least * least for t in (thread, thread + 1)]
    if thread == threads - 1:
        bounds[1] = row[last]
    row[first], row[last] = bounds
    return bounds[0] < bounds[1]
