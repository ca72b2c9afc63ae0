"""Pooling: the mean of a whole map, and mean or maximum over windows that lie inside of the map."""

from __future__ import annotations

from .epilogue import INFINITY
from .instructions import (
    BLOCK_PITCH,
    BLOCKS,
    COLUMNS,
    CONSTANTS,
    FIRST,
    INPUTS,
    KERNEL_COLUMNS,
    KERNEL_ROWS,
    LAST,
    MAXIMUM,
    OUT_COLUMNS,
    PIXELS,
    STRIDE,
    STRIDE_COLUMNS,
    Y,
)
from .simd import (
    LANES,
    Integers,
    Pointer,
    add,
    at,
    broadcast,
    integers_at,
    kernel,
    load,
    maximum,
    mul,
    splat,
    store,
)


@kernel
def global_average(
    instruction: Integers,
    program: Integers,
    arena: Pointer,
    weights: Pointer,
    image: Pointer,
    output: Pointer,
) -> None:
    """GLOBAL_AVERAGE: the mean over PIXELS pixels of each block.

    Four partial sums hide the latency of the additions; their order is always the same."""
    pixels = instruction[PIXELS]
    inputs = integers_at(program, instruction[INPUTS])
    # A mean is a product with 1 / area, which the plan has rounded once: a division would take several times as long.
    scale = broadcast(weights, instruction[CONSTANTS])
    for block in range(instruction[BLOCKS]):
        x = at(arena, inputs[block])
        s0 = s1 = s2 = s3 = splat(0.0)
        p = 0
        while p + 4 <= pixels:
            s0, s1 = add(s0, load(x, p * LANES)), add(s1, load(x, (p + 1) * LANES))
            s2, s3 = add(s2, load(x, (p + 2) * LANES)), add(s3, load(x, (p + 3) * LANES))
            p += 4
        # What is left goes to the first sum: at any place, as long as it is always the same one.
        while p < pixels:
            s0 = add(s0, load(x, p * LANES))
            p += 1
        store(arena, instruction[Y] + block * LANES, mul(scale, add(add(s0, s1), add(s2, s3))))


@kernel
def window_pool(
    instruction: Integers,
    program: Integers,
    arena: Pointer,
    weights: Pointer,
    image: Pointer,
    output: Pointer,
) -> None:
    """WINDOW_POOL: output rows FIRST to LAST, the maximum or the mean of each window; CONSTANTS is one over its size."""
    columns, out_columns = instruction[COLUMNS], instruction[OUT_COLUMNS]
    inputs = integers_at(program, instruction[INPUTS])
    scale = broadcast(weights, instruction[CONSTANTS])
    least = splat(-INFINITY)
    # Decided once, outside of all loops.
    square = 0
    if instruction[KERNEL_ROWS] == 2 and instruction[KERNEL_COLUMNS] == 2:
        square = instruction[MAXIMUM]
    for block in range(instruction[BLOCKS]):
        x = at(arena, inputs[block])
        y = at(arena, instruction[Y] + block * instruction[BLOCK_PITCH])
        for r in range(instruction[FIRST], instruction[LAST]):
            if square != 0:
                # The pools of almost all networks, without loops over the window.
                top = at(x, r * instruction[STRIDE] * columns * LANES)
                bottom = at(top, columns * LANES)
                for c in range(out_columns):
                    i = c * instruction[STRIDE_COLUMNS] * LANES
                    # In the order of the loops below, from minus infinity on: NaN and signed zeros come out the same.
                    value = maximum(maximum(least, load(top, i)), load(top, i + LANES))
                    value = maximum(maximum(value, load(bottom, i)), load(bottom, i + LANES))
                    store(y, (r * out_columns + c) * LANES, value)
                continue
            for c in range(out_columns):
                across = c * instruction[STRIDE_COLUMNS]
                corner = at(x, (r * instruction[STRIDE] * columns + across) * LANES)
                # Both are computed and one is stored: a branch would be in the innermost loop.
                total, largest = splat(0.0), splat(-INFINITY)
                # Windows lie inside of the map, which the lowering made sure of: no pixel needs a test.
                for i in range(instruction[KERNEL_ROWS]):
                    for j in range(instruction[KERNEL_COLUMNS]):
                        value = load(corner, (i * columns + j) * LANES)
                        total, largest = add(total, value), maximum(largest, value)
                if instruction[MAXIMUM] != 0:
                    store(y, (r * out_columns + c) * LANES, largest)
                else:
                    store(y, (r * out_columns + c) * LANES, mul(scale, total))
