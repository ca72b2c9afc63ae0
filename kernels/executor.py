"""One compiled function runs a whole network: it walks the plan's table and calls a kernel for every row.

Everything it needs comes as raw pointers and sizes, so it holds no Python object, releases the GIL for its whole
run, and one compilation serves every network.
"""

from __future__ import annotations

from .dense import dense, planar
from .depthwise import depthwise
from .elementwise import (
    affine,
    block_image,
    combine,
    gather_channels,
    not_finite,
    probe,
    sigmoid,
    unblock,
)
from .machine_code import kernel
from .pointwise import pointwise
from .pooling import global_average, window_pool
from .simd import Integers, Pointer, at, floats_of, integers_at, integers_of
from .softmax import softmax
from .winograd import winograd

#: Integers of a table row; the first is its opcode, the columns of the others are listed at each kernel.
ROW = 32
(
    PLANAR,
    DENSE,
    POINTWISE,
    DEPTHWISE,
    WINOGRAD,
    GLOBAL_AVERAGE,
    WINDOW_POOL,
    SIGMOID,
    SOFTMAX,
    COMBINE,
    AFFINE,
    GATHER,
    BLOCK,
    UNBLOCK,
    PROBE,
) = range(15)
OPCODES = [
    "planar",
    "dense",
    "pointwise",
    "depthwise",
    "winograd",
    "global_average",
    "window_pool",
    "sigmoid",
    "softmax",
    "combine",
    "affine",
    "gather",
    "block",
    "unblock",
    "probe",
]


@kernel
def execute(
    program: Integers,
    first: int,
    last: int,
    weights: Pointer,
    arena: Pointer,
    image_size: int,
    output_size: int,
    check: int,
    image: Pointer,
    images: int,
    output: Pointer,
) -> int:
    """Run rows first to last of the table for every image; images and outputs follow each other in memory.

    Returns how many images hold NaN or infinity where `check` is 1; 0 unseen where it is 0.
    """
    refused = 0
    for n in range(images):
        if check:
            refused += not_finite(at(image, n * image_size), image_size)
        for i in range(first, last):
            row = integers_at(program, i * ROW)
            op = row[0]
            if op == POINTWISE:
                pointwise(row, program, arena, weights)
            elif op == DEPTHWISE:
                depthwise(row, arena, weights)
            elif op == WINOGRAD:
                winograd(row, program, arena, weights)
            elif op == DENSE:
                dense(row, program, arena, weights)
            elif op == PLANAR:
                planar(row, program, arena, weights, at(image, n * image_size))
            elif op == GLOBAL_AVERAGE:
                global_average(row, program, arena, weights)
            elif op == WINDOW_POOL:
                window_pool(row, program, arena, weights)
            elif op == SIGMOID:
                sigmoid(row, arena)
            elif op == SOFTMAX:
                softmax(row, program, arena, weights)
            elif op == COMBINE:
                combine(row, arena)
            elif op == AFFINE:
                affine(row, arena, weights)
            elif op == GATHER:
                gather_channels(row, program, arena)
            elif op == BLOCK:
                block_image(row, arena, weights, at(image, n * image_size))
            elif op == UNBLOCK:
                unblock(row, program, arena, at(output, n * output_size))
            elif op == PROBE:
                probe(row, arena)
    return refused


@kernel
def enter(call: Integers, image: Pointer, images: int, output: Pointer) -> int:
    """`execute` as Python calls it: all that stays the same from call to call lies ready in a `machine_code.Call`, since
    Python takes 40 ns for each argument."""
    program, first, last = integers_of(call[0]), call[1], call[2]
    weights, arena = floats_of(call[3]), floats_of(call[4])
    image_size, output_size, check = call[5], call[6], call[7]
    return execute(
        program,
        first,
        last,
        weights,
        arena,
        image_size,
        output_size,
        check,
        image,
        images,
        output,
    )
