"""From symbols to integers: instructions name their buffers, and the assembler writes the program once all buffers
have their places, as a linker resolves relocations.

An operand is an integer, or what becomes one: a buffer or block (where it lies in the arena), a distance between two
blocks, or a tuple of operands (the place of a list with these integers).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from .instructions import OPCODE, WIDTH
from .layout import Block, Buffer


class Distance(NamedTuple):
    """Floats from `start` to `end`."""

    end: Block
    start: Block


Operand: TypeAlias = int | Buffer | Block | Distance | tuple["Operand", ...]


@dataclass(eq=False, slots=True)
class Instruction:
    """One instruction of a plan, before its operands are integers.

    Attributes:
        opcode: of `instructions.py`.
        name: the layer, for people.
        note: shapes and the choice that was made, for people.
        operands: {field: operand}; all other fields are zero.
        reads, writes: the buffers that it touches; scratch is both written and read by the instruction itself.
        scratch: buffers that live for this instruction only.
        in_place: (residual, result) that may share memory, if no later instruction reads the residual.
        band: (stream, number) for an instruction that makes one band of a stream; bands may run in any order.
    """

    opcode: int
    name: str
    note: str
    operands: Mapping[int, Operand]
    reads: tuple[Buffer, ...]
    writes: tuple[Buffer, ...]
    scratch: tuple[Buffer, ...] = ()
    in_place: tuple[Buffer, Buffer] | None = None
    band: tuple[str, int] | None = None

    def touched(self) -> tuple[Buffer, ...]:
        """Every buffer that must be in memory while the instruction runs."""
        return (*self.reads, *self.writes, *self.scratch)


class Assembler:
    """Writes the program of one thread.

    Each thread has its own copy of the buffers that are `per_thread`. Only their addresses differ between the
    programs, so thread t assembles with a shift of t * per_thread floats.
    """

    def __init__(self, shift: int = 0) -> None:
        self._shift = shift
        self._lists: list[int] = []
        #: {integers of a list: its position}, so that equal lists share one place.
        self._positions: dict[tuple[int, ...], int] = {}

    def program(self, instructions: Iterable[Instruction]) -> NDArray[np.int64]:
        """The program: WIDTH integers for each instruction, then the lists."""
        # Lists lie after all instructions, so where they begin must be known before the first one is written.
        instructions = tuple(instructions)
        start = len(instructions) * WIDTH
        integers: list[int] = []
        for instruction in instructions:
            line = [0] * WIDTH
            line[OPCODE] = instruction.opcode
            for column, operand in instruction.operands.items():
                # A tuple's field holds the place of its list, every other operand's field the operand itself.
                if type(operand) is int:
                    line[column] = operand
                elif type(operand) is tuple:
                    line[column] = start + self._list(operand)
                else:
                    line[column] = self._integer(operand)
            integers += line
        return np.array(integers + self._lists, np.int64)

    def _integer(self, operand: Operand) -> int:
        if type(operand) is Block:
            # The common case: a plan has thousands of blocks in its lists.
            buffer, offset = operand
            return buffer.offset + offset + (self._shift if buffer.per_thread else 0)
        if type(operand) is int:
            return operand
        if type(operand) is Buffer:
            return operand.offset + (self._shift if operand.per_thread else 0)
        assert type(operand) is Distance, operand
        return self._integer(operand.end) - self._integer(operand.start)

    def _list(self, operands: tuple[Operand, ...]) -> int:
        """The position of a list with these integers, counted from the first list."""
        # By value, after addresses are known: two operands may be different symbols of one place.
        key = tuple([x if type(x) is int else self._integer(x) for x in operands])
        # Bands of a stream have equal lists of taps; a program without this would be several times as long.
        position = self._positions.get(key)
        if position is None:
            position = self._positions[key] = len(self._lists)
            self._lists += key
        return position
