"""Pooling: the mean of a whole map, and mean or maximum over windows that lie inside of the map."""

from __future__ import annotations

from .machine_code import kernel
from .pointwise import INFINITY
from .simd import (
    LANES,
    Integers,
    Pointer,
    add,
    at,
    broadcast,
    integers_at,
    load,
    maximum,
    mul,
    splat,
    store,
)


@kernel
def global_average(row: Integers, program: Integers, arena: Pointer, weights: Pointer) -> None:
    """Opcode GLOBAL_AVERAGE; columns: y, pixels, blocks, weights (one value: 1 / pixels), inputs.

    Four partial sums hide the latency of the additions; their order is always the same."""
    pixels = row[2]
    inputs = integers_at(program, row[5])
    scale = broadcast(weights, row[4])
    for block in range(row[3]):
        x = at(arena, inputs[block])
        s0 = s1 = s2 = s3 = splat(0.0)
        p = 0
        while p + 4 <= pixels:
            s0, s1 = add(s0, load(x, p * LANES)), add(s1, load(x, (p + 1) * LANES))
            s2, s3 = add(s2, load(x, (p + 2) * LANES)), add(s3, load(x, (p + 3) * LANES))
            p += 4
        while p < pixels:
            s0 = add(s0, load(x, p * LANES))
            p += 1
        store(arena, row[1] + block * LANES, mul(scale, add(add(s0, s1), add(s2, s3))))


@kernel
def window_pool(row: Integers, program: Integers, arena: Pointer, weights: Pointer) -> None:
    """Opcode WINDOW_POOL; columns: y, maximum (1) or mean (0), blocks, weights (1 / window size), inputs, input rows,
    input columns, output rows, output columns, kernel rows, kernel columns, row stride, column stride."""
    columns, out_columns = row[7], row[9]
    inputs = integers_at(program, row[5])
    scale = broadcast(weights, row[4])
    for block in range(row[3]):
        x = at(arena, inputs[block])
        y = at(arena, row[1] + block * row[8] * out_columns * LANES)
        for r in range(row[8]):
            for c in range(out_columns):
                corner = at(x, (r * row[12] * columns + c * row[13]) * LANES)
                total, largest = splat(0.0), splat(-INFINITY)
                for i in range(row[10]):
                    for j in range(row[11]):
                        value = load(corner, (i * columns + j) * LANES)
                        total, largest = add(total, value), maximum(largest, value)
                if row[2] != 0:
                    store(y, (r * out_columns + c) * LANES, largest)
                else:
                    store(y, (r * out_columns + c) * LANES, mul(scale, total))
