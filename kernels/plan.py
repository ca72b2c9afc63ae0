"""A plan: all that a run needs, for one network and one image size."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from refnet.graph import Node

from .assembler import Instruction
from .instructions import NAMES, OPCODES, WIDTH

# Counted against `refnet.engine.PLAN_MEMORY`, which decides how many plans a model keeps.
#: Bytes that an instruction takes besides its integers, with its operands and buffers: 1.5 to 2 KB were measured, 2026-11-26.
INSTRUCTION_BYTES = 2048


class Output(NamedTuple):
    """One output of an image: `offset` floats into the image's outputs."""

    name: str
    offset: int
    shape: tuple[int, ...]

    @property
    def size(self) -> int:
        """Number of floats."""
        return math.prod(self.shape)


# Frozen, since threads run one plan at once and no lock guards it.
@dataclass(frozen=True)
class Plan:
    """A program, and what it runs on.

    Attributes:
        name: of the graph.
        input_shape: (C, H, W) of one image.
        program: int64, WIDTH integers an instruction, then the lists that instructions point to.
        weights: float32, packed; read-only, and shared with the plans of other image sizes.
        arena: floats of working memory, the last `per_thread` of them once for each thread.
        outputs: where each output lies in an image's `output_size` floats, and its shape.
        output_size: floats of all outputs of an image.
        instructions: what the program was assembled from, for people, the verifier and partitions.
        rest: layers that the caller runs on the outputs, in order, because there are no kernels for them.
    """

    name: str
    input_shape: tuple[int, int, int]
    program: NDArray[np.int64]
    weights: NDArray[np.float32]
    arena: int
    per_thread: int
    outputs: tuple[Output, ...]
    output_size: int
    instructions: tuple[Instruction, ...]
    rest: tuple[Node, ...] = ()

    @property
    def nbytes(self) -> int:
        """About the bytes that the plan itself takes, without weights and arena."""
        return self.program.nbytes + INSTRUCTION_BYTES * len(self.instructions)

    def explain(self, *, fields: bool = False) -> str:
        """A line per instruction: what runs, how and why; with `fields`, another one with the integers of its fields by
        name. Last, the layers that run outside of the engine."""
        arena, weights = self.arena * 4 / 2**20, self.weights.nbytes / 2**20
        lines = [
            f"{self.name} on {self.input_shape}: {len(self.instructions)} instructions, "
            f"{arena:.2f} MiB of scratch, {weights:.2f} MiB of weights"
        ]
        width = max((len(i.name) for i in self.instructions), default=0)
        for number, i in enumerate(self.instructions):
            lines.append(f"{number:4} {OPCODES[i.opcode]:15} {i.name:{width}}  {i.note}")
            if fields:
                # From the program, not from the operands: what is shown is what runs.
                integers = self.program[number * WIDTH : (number + 1) * WIDTH]
                named = (f"{NAMES[column]} {integers[column]}" for column in sorted(i.operands))
                lines.append(f"     {', '.join(named)}")
        # Layers without an instruction run after all others, on the outputs.
        lines += [
            f"   - {'numpy':15} {n.name:{width}}  {n.op} of {', '.join(n.inputs)}"
            for n in self.rest
        ]
        return "\n".join(lines)
