"""Softmax over the channels of every pixel."""

from __future__ import annotations

from .elementwise import exponential
from .machine_code import kernel
from .pointwise import INFINITY
from .simd import (
    LANES,
    Integers,
    Pointer,
    add,
    at,
    div,
    integers_at,
    largest,
    load,
    maximum,
    minimum,
    splat,
    store,
    sub,
    total,
)


@kernel
def softmax(row: Integers, program: Integers, arena: Pointer, weights: Pointer) -> None:
    """Opcode SOFTMAX: y = exp(x - max x) / sum exp(x - max x); columns: y, pixels, blocks, weights, inputs, first
    pixel, last pixel.

    The weights are a limit for each lane of each block: infinity where a channel lives, -infinity where none does,
    whatever lies there in memory; the exponential of the latter is 0. A NaN among the channels leaves no limit of its
    own, but infinity less infinity: every probability of that pixel becomes NaN, as in the definition.
    """
    pixels, blocks = row[2], row[3]
    limits, inputs = at(weights, row[4]), integers_at(program, row[5])
    for p in range(row[6], row[7]):
        most = splat(-INFINITY)
        for block in range(blocks):
            x = load(arena, inputs[block] + p * LANES)
            most = maximum(minimum(x, load(limits, block * LANES)), most)
        most = largest(most)
        y = at(arena, row[1] + p * LANES)
        sums = splat(0.0)
        for block in range(blocks):
            x = load(arena, inputs[block] + p * LANES)
            e = exponential(sub(minimum(x, load(limits, block * LANES)), most))
            store(y, block * pixels * LANES, e)
            sums = add(sums, e)
        sums = total(sums)
        for block in range(blocks):
            store(y, block * pixels * LANES, div(load(y, block * pixels * LANES), sums))
