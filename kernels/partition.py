"""One image on several threads: a program for each thread, with its share of every instruction.

An instruction over pixels, rows or patches is cut into contiguous shares; bands of a stream are dealt out whole; what
cannot be cut, or is too small, the first thread does alone. Between *phases* the threads wait for each other. Memory
that lives within an instruction or a band is every thread's own. How a result is computed does not depend on who
computes it, so the bits are the same for any number of threads.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from . import verify
from .assembler import Assembler, Instruction
from .instructions import BLOCKS, FIRST, LAST, NOTHING, SHARES
from .plan import Plan
from .simd import LANES

#: Multiply-accumulates, or values moved, below which waiting for each other costs more than sharing gains.
LEAST_WORK = 1 << 20


@dataclass(frozen=True)
class Partition:
    """A plan for several threads.

    Attributes:
        programs: one for each thread.
        phases: (first instruction, last instruction, whether every thread has work in it), in order.
        arena: floats of all threads together.
    """

    programs: tuple[NDArray[np.int64], ...]
    phases: tuple[tuple[int, int, bool], ...]
    arena: int


def work(instruction: Instruction) -> int:
    """About how many multiply-accumulates an instruction takes; 0 for what is never cut."""

    def value(column: int) -> int:
        operand = instruction.operands.get(column, 0)
        assert isinstance(operand, int)
        return operand

    share = SHARES.get(instruction.opcode)
    if share is None:
        return 0
    results = (value(LAST) - value(FIRST)) * value(BLOCKS) * LANES
    return results * share.work(value)


def partition(plan: Plan, threads: int) -> Partition:
    """The programs and phases of `plan` on so many threads, proved.

    Raises:
        PlanError: a thread would touch what the plan's own instruction does not; a defect of this file.
    """
    phases = _phases(plan)
    programs = tuple(
        # Each thread has its own scratch. Only those addresses differ between the programs.
        Assembler(shift=thread * plan.per_thread).program(_shares(plan, phases, thread, threads))
        for thread in range(threads)
    )
    # Shares are cut by arithmetic on operands; the proof reads the integers that came out of it.
    verify.verify_partition(plan, programs, phases)
    return Partition(programs, phases, plan.arena + (threads - 1) * plan.per_thread)


def _phases(plan: Plan) -> tuple[tuple[int, int, bool], ...]:
    """Streams and large instructions are phases of their own, runs of small ones one phase together."""
    phases: list[tuple[int, int, bool]] = []
    names: list[str] = []
    for number, instruction in enumerate(plan.instructions):
        band = instruction.band
        # A stream is one phase, though its instructions are many: its bands do not depend on each other.
        shared = band is not None or work(instruction) >= LEAST_WORK
        name = band[0] if band is not None else (f"{number}" if shared else "")
        if names and names[-1] == name and (band is not None or not shared):
            phases[-1] = (phases[-1][0], number + 1, shared)
        else:
            phases.append((number, number + 1, shared))
            names.append(name)
    return tuple(phases)


def _shares(
    plan: Plan, phases: tuple[tuple[int, int, bool], ...], thread: int, threads: int
) -> Iterator[Instruction]:
    """What one thread does of each instruction; NOTHING if that is nothing."""
    for first, last, shared in phases:
        instructions = plan.instructions[first:last]
        bands = 1 + max((i.band[1] for i in instructions if i.band is not None), default=0)
        for instruction in instructions:
            if not shared:
                mine = instruction if thread == 0 else None
            elif instruction.band is not None:
                # Contiguous bands: neighbours read overlapping rows, which one core then has in its cache.
                start, stop = bands * thread // threads, bands * (thread + 1) // threads
                mine = instruction if start <= instruction.band[1] < stop else None
            else:
                mine = _share(instruction, thread, threads)
            yield mine or replace(instruction, opcode=NOTHING, operands={})


def _share(instruction: Instruction, thread: int, threads: int) -> Instruction | None:
    """A contiguous share of an instruction, cut at multiples of its grain; None where nothing is left for a thread."""
    first, last = instruction.operands[FIRST], instruction.operands[LAST]
    assert isinstance(first, int) and isinstance(last, int)
    grain = SHARES[instruction.opcode].grain
    start, stop = (
        first + (last - first) * t // threads // grain * grain for t in (thread, thread + 1)
    )
    # The last share takes what is left after the last whole grain.
    if thread == threads - 1:
        stop = last
    if start >= stop:
        return None
    return replace(instruction, operands={**instruction.operands, FIRST: start, LAST: stop})
