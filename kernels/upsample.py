"""Larger maps: every pixel becomes a rectangle, of copies or of pixels of other channels."""

from __future__ import annotations

from .instructions import (
    BLOCKS,
    COLUMNS,
    FIRST,
    INPUTS,
    LAST,
    REPEAT_COLUMNS,
    REPEAT_ROWS,
    ROWS,
    Y,
)
from .simd import LANES, Integers, Pointer, at, integers_at, kernel, load, store


@kernel
def upsample(
    instruction: Integers,
    program: Integers,
    arena: Pointer,
    weights: Pointer,
    image: Pointer,
    output: Pointer,
) -> None:
    """UPSAMPLE: input rows FIRST to LAST, each pixel written to REPEAT_ROWS x REPEAT_COLUMNS places."""
    rows, columns = instruction[ROWS], instruction[COLUMNS]
    down, across = instruction[REPEAT_ROWS], instruction[REPEAT_COLUMNS]
    # Floats from one row of the result to the next. Threads share the rows of the input, and so write rows of the
    # result that no other one does.
    line = columns * across * LANES
    inputs = integers_at(program, instruction[INPUTS])
    for block in range(instruction[BLOCKS]):
        for r in range(instruction[FIRST], instruction[LAST]):
            x = at(arena, inputs[block] + r * columns * LANES)
            y = at(arena, instruction[Y] + (block * rows + r) * down * line)
            for c in range(columns):
                # One load for all copies: the stores are what takes the time.
                value = load(x, c * LANES)
                for i in range(down):
                    for j in range(across):
                        store(y, i * line + (c * across + j) * LANES, value)


@kernel
def depth_to_space(
    instruction: Integers,
    program: Integers,
    arena: Pointer,
    weights: Pointer,
    image: Pointer,
    output: Pointer,
) -> None:
    """DEPTH_TO_SPACE: input rows FIRST to LAST; pixel (i, j) of a rectangle comes from the blocks that INPUTS has from
    (i * REPEAT_COLUMNS + j) * BLOCKS on."""
    rows, columns = instruction[ROWS], instruction[COLUMNS]
    down, across = instruction[REPEAT_ROWS], instruction[REPEAT_COLUMNS]
    blocks, line = instruction[BLOCKS], columns * across * LANES
    inputs = integers_at(program, instruction[INPUTS])
    for block in range(blocks):
        for r in range(instruction[FIRST], instruction[LAST]):
            for i in range(down):
                y = at(arena, instruction[Y] + ((block * rows + r) * down + i) * line)
                for j in range(across):
                    # Each place of a rectangle has blocks of its own (`lower.depth_to_space`): a pixel is a vector.
                    place = inputs[(i * across + j) * blocks + block]
                    x = at(arena, place + r * columns * LANES)
                    for c in range(columns):
                        store(y, (c * across + j) * LANES, load(x, c * LANES))
