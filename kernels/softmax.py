"""Softmax over the channels of every pixel."""

from __future__ import annotations

from .elementwise import exponential
from .epilogue import INFINITY
from .instructions import BLOCKS, CONSTANTS, FIRST, INPUTS, LAST, PIXELS, Y
from .simd import (
    LANES,
    Integers,
    Pointer,
    add,
    at,
    div,
    integers_at,
    kernel,
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
def softmax(
    instruction: Integers,
    program: Integers,
    arena: Pointer,
    weights: Pointer,
    image: Pointer,
    output: Pointer,
) -> None:
    """SOFTMAX: y = exp(x - max x) / sum exp(x - max x), pixels FIRST to LAST of PIXELS.

    CONSTANTS are a limit for each lane of each block: infinity where a channel lives, -infinity where none does,
    whatever lies there in memory; the exponential of the latter is 0. A NaN among the channels leaves no limit of its
    own, but infinity less infinity: every probability of that pixel becomes NaN, as in the definition.
    """
    pixels, blocks = instruction[PIXELS], instruction[BLOCKS]
    limits = at(weights, instruction[CONSTANTS])
    inputs = integers_at(program, instruction[INPUTS])
    for p in range(instruction[FIRST], instruction[LAST]):
        # The maximum of each lane first, over all blocks; then of all lanes.
        # Less its maximum, no exponent is positive: nothing overflows, and one term of the sum is exactly 1.
        most = splat(-INFINITY)
        for block in range(blocks):
            x = load(arena, inputs[block] + p * LANES)
            most = maximum(minimum(x, load(limits, block * LANES)), most)
        most = largest(most)
        y = at(arena, instruction[Y] + p * LANES)
        # Exponentials are stored, summed and then divided, block by block: a pixel's stay in the first-level cache.
        sums = splat(0.0)
        for block in range(blocks):
            x = load(arena, inputs[block] + p * LANES)
            e = exponential(sub(minimum(x, load(limits, block * LANES)), most))
            store(y, block * pixels * LANES, e)
            sums = add(sums, e)
        # Padding lanes have added exact zeros, and halves are added in a fixed order: bits depend on nothing else.
        sums = total(sums)
        for block in range(blocks):
            store(y, block * pixels * LANES, div(load(y, block * pixels * LANES), sums))
