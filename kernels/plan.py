"""The compiler's back end: a graph and its weights become a table of integers, a blob of weights and an arena.

    compile_plan(graph, weights, input_shape) -> Plan

Layers are lowered one by one (`lowering` of layers to steps is in `layers.py`), values get their places by lifetime
(`memory.py`), every step is written as a row of the table, and `verify.py` proves that no row can leave its buffers or
read what nothing wrote. Then the table may run without bounds checks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refnet.graph import Graph

from .executor import OPCODES
from .fusion import simplify
from .layers import Lowering
from .layout import Value
from .memory import place
from .steps import Output, Step, Table, UnsupportedError
from .verify import verify

__all__ = ["Plan", "UnsupportedError", "compile_plan"]


@dataclass(frozen=True)
class Plan:
    """All that a run needs, for one graph, its weights and one input shape.

    Attributes:
        name: of the graph.
        input_shape: (C, H, W) of one image.
        program: int64, the table: ROW integers a step, then the integer lists that steps refer to.
        rows: number of steps.
        weights: float32, packed.
        arena: floats of scratch memory that a run needs, the last `private` of them once per thread.
        outputs: where each output lies in an image's `output_size` floats, and its shape.
        output_size: floats of all outputs of an image.
        steps: what each row does, for people and for the verifier.
    """

    name: str
    input_shape: tuple[int, int, int]
    program: NDArray[np.int64]
    rows: int
    weights: NDArray[np.float32]
    arena: int
    private: int
    outputs: tuple[Output, ...]
    output_size: int
    steps: tuple[Step, ...]

    def explain(self) -> str:
        """A line per step: what runs, how and why."""
        arena, weights = self.arena * 4 / 2**20, self.weights.nbytes / 2**20
        lines = [
            f"{self.name} on {self.input_shape}: {self.rows} steps, {arena:.2f} MiB of scratch, "
            f"{weights:.2f} MiB of weights"
        ]
        width = max((len(step.name) for step in self.steps), default=0)
        for number, step in enumerate(self.steps):
            lines.append(f"{number:4} {OPCODES[step.opcode]:15} {step.name:{width}}  {step.note}")
        return "\n".join(lines)


def place_all(steps: Sequence[Step], guard: int) -> tuple[int, int]:
    """Give every value of the steps its place: (shared floats, private floats behind them).

    Results take the place of residuals that nobody needs any more.
    """
    for number, step in enumerate(steps):
        for value in step.touched():
            value.first = number if value.first < 0 else value.first
            value.last = number
    values = dict.fromkeys(value for step in steps for value in step.touched())
    host: dict[Value, Value] = {}
    for number, step in enumerate(steps):
        if step.in_place and step.in_place[0].last == step.in_place[1].first == number:
            old, new = step.in_place
            host[new] = host.get(old, old)
            host[new].last = max(host[new].last, new.last)
    shared = place([v for v in values if v not in host and not v.private], guard)
    mine = [v for v in values if v.private]
    private = place(mine, guard)
    for value in mine:
        value.offset += shared
    for value, place_of in host.items():
        value.offset = place_of.offset
    return shared, private


def compile_plan(
    graph: Graph,
    weights: Mapping[str, NDArray[Any]],
    input_shape: tuple[int, int, int] | None = None,
    guard: int = 0,
) -> Plan:
    """The plan of `graph` for images of `input_shape` (C, H, W), by default the graph's own.

    Batch norms must have been folded. `guard` keeps that many floats free behind every value, for debugging.

    Raises:
        UnsupportedError: the engine has no kernel for one of the layers; the message says which and why.
        ShapeError: the network cannot take this input.
    """
    shape = graph.input_shape if input_shape is None else input_shape
    simplified, wide = simplify(graph, weights)
    lowering = Lowering(simplified, wide, shape)
    steps, outputs = lowering.lower()
    shared, private = place_all(steps, guard)
    table = Table(len(steps))
    for step in steps:
        table.write(step.encode(table))
    plan = Plan(
        name=graph.name,
        input_shape=(int(shape[0]), int(shape[1]), int(shape[2])),
        program=table.array(),
        rows=len(steps),
        weights=lowering.blob.array(),
        arena=shared + private,
        private=private,
        outputs=tuple(outputs),
        output_size=sum(output.size for output in outputs),
        steps=tuple(steps),
    )
    verify(plan)
    return plan
