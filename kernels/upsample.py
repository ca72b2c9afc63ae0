"""Larger maps: every pixel becomes a rectangle, of copies or of pixels of other channels; pixels between others, or copies
of those at the edge; or pixels stand apart from each other, or in a frame."""

from __future__ import annotations

from .instructions import (
    BLOCK_PITCH,
    BLOCKS,
    COLUMNS,
    CONSTANTS,
    FIRST,
    INPUTS,
    LAST,
    LEFT,
    OUT_COLUMNS,
    PLACES,
    REPEAT_COLUMNS,
    REPEAT_ROWS,
    ROWS,
    STRIDE,
    STRIDE_COLUMNS,
    TOP,
    Y,
)
from .simd import (
    LANES,
    Integers,
    Pointer,
    Vector,
    at,
    broadcast,
    fma,
    integers_at,
    kernel,
    load,
    store,
    sub,
)


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


@kernel
def _between(one: Vector, other: Vector, share: Vector) -> Vector:
    """From `one` by `share` of the way to `other`."""
    return fma(sub(other, one), share, one)


@kernel
def resample(
    instruction: Integers,
    program: Integers,
    arena: Pointer,
    weights: Pointer,
    image: Pointer,
    output: Pointer,
) -> None:
    """RESAMPLE: output rows FIRST to LAST. Each pixel lies between two columns and two rows of the input, which PLACES
    names, by shares that CONSTANTS has in the same order; without CONSTANTS, -1, it is a copy of the first of them."""
    line, out_columns = instruction[COLUMNS] * LANES, instruction[OUT_COLUMNS]
    inputs = integers_at(program, instruction[INPUTS])
    across = integers_at(program, instruction[PLACES])
    down = integers_at(across, 2 * out_columns)
    shares = at(weights, max(instruction[CONSTANTS], 0))
    for block in range(instruction[BLOCKS]):
        x = at(arena, inputs[block])
        for r in range(instruction[FIRST], instruction[LAST]):
            y = at(
                arena, instruction[Y] + block * instruction[BLOCK_PITCH] + r * out_columns * LANES
            )
            upper, lower = at(x, down[2 * r] * line), at(x, down[2 * r + 1] * line)
            if instruction[CONSTANTS] < 0:
                for c in range(out_columns):
                    store(y, c * LANES, load(upper, across[2 * c] * LANES))
            else:
                way = broadcast(shares, out_columns + r)
                for c in range(out_columns):
                    left, right = across[2 * c] * LANES, across[2 * c + 1] * LANES
                    share = broadcast(shares, c)
                    above = _between(load(upper, left), load(upper, right), share)
                    below = _between(load(lower, left), load(lower, right), share)
                    store(y, c * LANES, _between(above, below, way))


@kernel
def spread(
    instruction: Integers,
    program: Integers,
    arena: Pointer,
    weights: Pointer,
    image: Pointer,
    output: Pointer,
) -> None:
    """SPREAD: output rows FIRST to LAST. Pixel (r, c) goes to (TOP + r * STRIDE, LEFT + c * STRIDE_COLUMNS), where the
    result has such a place; everywhere else is the value of CONSTANTS."""
    rows, columns = instruction[ROWS], instruction[COLUMNS]
    out_columns, line = instruction[OUT_COLUMNS], instruction[OUT_COLUMNS] * LANES
    stride, step = instruction[STRIDE], instruction[STRIDE_COLUMNS]
    top, left = instruction[TOP], instruction[LEFT]
    inputs = integers_at(program, instruction[INPUTS])
    filling = broadcast(weights, instruction[CONSTANTS])
    # Columns begin to end of the map have a place.
    begin = 0
    while begin < columns and left + begin * step < 0:
        begin += 1
    end = columns
    while end > begin and left + (end - 1) * step >= out_columns:
        end -= 1
    start = left + begin * step
    for block in range(instruction[BLOCKS]):
        y = at(arena, instruction[Y] + block * instruction[BLOCK_PITCH])
        source = 0
        for r in range(instruction[FIRST], instruction[LAST]):
            while source < rows and top + source * stride < r:
                source += 1
            held = begin
            if source < rows and top + source * stride == r:
                held = end
            to = at(y, r * line)
            c = 0
            # Pixels that are neighbours leave nothing to fill between them.
            if step == 1 and begin < held:
                while c < start:
                    store(to, c * LANES, filling)
                    c += 1
                c = start + held - begin
            while c < out_columns:
                store(to, c * LANES, filling)
                c += 1
            x = at(arena, inputs[block] + source * columns * LANES)
            for column in range(begin, held):
                store(to, (left + column * step) * LANES, load(x, column * LANES))
