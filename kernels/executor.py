"""One compiled function runs a whole network: it walks the program and calls a kernel for every instruction.

Everything it needs comes as raw pointers and sizes, so it holds no Python object, releases the GIL for its whole
run, and one compilation serves every network.
"""

from __future__ import annotations

# These imports also list the kernels in `simd.KERNELS`, each after those that it calls, as Numba needs them.
from .dense import dense, planar
from .depthwise import depthwise, depthwise_window
from .elementwise import add_vectors, affine, multiply_vectors, not_finite, probe, sigmoid
from .instructions import (
    ADD,
    AFFINE,
    DENSE,
    DEPTH_TO_SPACE,
    DEPTHWISE,
    DEPTHWISE_WINDOW,
    GATHER,
    GLOBAL_AVERAGE,
    LOAD_IMAGE,
    MULTIPLY,
    OPCODE,
    PLANAR,
    POINTWISE,
    PROBE,
    RESAMPLE,
    SIGMOID,
    SOFTMAX,
    SPREAD,
    STORE_OUTPUT,
    UPSAMPLE,
    WIDTH,
    WINDOW_POOL,
    WINOGRAD,
)
from .pointwise import pointwise
from .pooling import global_average, window_pool
from .reorder import gather, load_image, store_output
from .simd import Integers, Pointer, at, floats_of, integers_at, integers_of, kernel
from .softmax import softmax
from .upsample import depth_to_space, resample, spread, upsample
from .winograd import winograd


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
    """Run instructions first to last of the program for every image; images and outputs follow each other in memory.

    Returns how many images hold NaN or infinity where `check` is 1; 0 unseen where it is 0.
    """
    refused = 0
    # Images outside, instructions inside: an arena holds one image, whose maps stay in cache from layer to layer.
    for n in range(images):
        source, target = at(image, n * image_size), at(output, n * output_size)
        # Just before the image is used, so that it is read from far memory once.
        if check:
            refused += not_finite(source, image_size)
        for i in range(first, last):
            # A pointer into the program: fields are loads from there, nothing is copied.
            instruction = integers_at(program, i * WIDTH)
            opcode = instruction[OPCODE]
            # Written out, since Numba has no table of functions that a linker could inline. NOTHING has no branch.
            if opcode == POINTWISE:
                # All kernels take the same arguments: those that one has no use for cost nothing once it is inlined.
                pointwise(instruction, program, arena, weights, source, target)
            elif opcode == DEPTHWISE:
                depthwise(instruction, program, arena, weights, source, target)
            elif opcode == DEPTHWISE_WINDOW:
                depthwise_window(instruction, program, arena, weights, source, target)
            elif opcode == WINOGRAD:
                winograd(instruction, program, arena, weights, source, target)
            elif opcode == DENSE:
                dense(instruction, program, arena, weights, source, target)
            elif opcode == PLANAR:
                planar(instruction, program, arena, weights, source, target)
            elif opcode == GLOBAL_AVERAGE:
                global_average(instruction, program, arena, weights, source, target)
            elif opcode == WINDOW_POOL:
                window_pool(instruction, program, arena, weights, source, target)
            elif opcode == SIGMOID:
                sigmoid(instruction, program, arena, weights, source, target)
            elif opcode == SOFTMAX:
                softmax(instruction, program, arena, weights, source, target)
            elif opcode == ADD:
                add_vectors(instruction, program, arena, weights, source, target)
            elif opcode == MULTIPLY:
                multiply_vectors(instruction, program, arena, weights, source, target)
            elif opcode == AFFINE:
                affine(instruction, program, arena, weights, source, target)
            elif opcode == UPSAMPLE:
                upsample(instruction, program, arena, weights, source, target)
            elif opcode == RESAMPLE:
                resample(instruction, program, arena, weights, source, target)
            elif opcode == SPREAD:
                spread(instruction, program, arena, weights, source, target)
            elif opcode == DEPTH_TO_SPACE:
                depth_to_space(instruction, program, arena, weights, source, target)
            elif opcode == GATHER:
                gather(instruction, program, arena, weights, source, target)
            elif opcode == LOAD_IMAGE:
                load_image(instruction, program, arena, weights, source, target)
            elif opcode == STORE_OUTPUT:
                store_output(instruction, program, arena, weights, source, target)
            elif opcode == PROBE:
                probe(instruction, program, arena, weights, source, target)
    return refused


@kernel
def enter(call: Integers, image: Pointer, images: int, output: Pointer) -> int:
    """`execute` as Python calls it: all that stays the same from call to call lies ready in a `machine_code.Call`, since
    Python takes 40 ns for each argument."""
    # In the order of `machine_code.Call`, whose members are eight bytes each.
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
