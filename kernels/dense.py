"""Direct k x k convolution of any stride and padding, by groups of rows.

The input rows of a group of output rows are copied into scratch with their padding, columns that a stride would skip sorted apart
(*phases*: with stride 2, even columns and odd columns). There, every tap of every pixel is one segment of the register
tile, at a constant distance from its neighbour pixel. The copy costs one load and one store where the product costs
k * k * O multiplications. A convolution without stride and padding needs no copy and reads its input where it lies.

Scratch: [blocks][rows of the group][phases][columns of a phase][LANES]; for the first layer, which reads the image
itself, [channels][rows][phases][columns].
"""

from __future__ import annotations

from .instructions import (
    COLUMNS,
    CONSTANTS,
    COPY,
    FIRST,
    GROUP,
    INPUT_BLOCKS,
    INPUTS,
    KERNEL_ROWS,
    LAST,
    LEFT,
    OUT_COLUMNS,
    PHASE,
    ROWS,
    SCRATCH,
    SEGMENTS,
    STRIDE,
    TOP,
    WEIGHTS,
    Y,
)
from .register_tile import multiply, multiply_pair, multiply_planar, pairs
from .simd import (
    LANES,
    Integers,
    Pointer,
    at,
    evens,
    fma,
    integers_at,
    kernel,
    load,
    prefetch,
    splat,
    store,
)


@kernel
def _copy_row(
    x: Pointer, scratch: Pointer, columns: int, stride: int, left: int, phase: int
) -> None:
    """One blocked row into its phases, zeros left and right of it."""
    # Phase q holds the columns q, q + stride, ... of the padded row, one after the other. A window that moves by the
    # stride then moves by one pixel within each phase, as the register tile wants it.
    zero = splat(0.0)
    for q in range(stride):
        target = at(scratch, q * phase * LANES)
        for i in range(phase):
            column = i * stride + q - left
            if column >= 0 and column < columns:
                store(target, i * LANES, load(x, column * LANES))
            else:
                store(target, i * LANES, zero)


@kernel
def _zero_row(scratch: Pointer, floats: int) -> None:
    for i in range(floats):
        scratch[i] = 0.0


@kernel
def _copy_planar_row(
    x: Pointer,
    scratch: Pointer,
    columns: int,
    stride: int,
    left: int,
    phase: int,
    scale: float,
    shift: float,
) -> None:
    """One row of an image into its phases, normalised on the way; padding stays zero."""
    for q in range(stride):
        target = at(scratch, q * phase)
        # The first and last column of this phase that lie inside of the image.
        # Column i of phase q is column i * stride + q - left of the image.
        first = (left - q + stride - 1) // stride
        if first < 0:
            first = 0
        last = (columns - 1 + left - q) // stride + 1
        if last > phase:
            last = phase
        for i in range(first):
            target[i] = 0.0
        source = at(x, first * stride + q - left)
        # Most first layers have stride 2, and their image is the largest tensor that is copied: both phases are
        # taken from the same two vectors.
        done = 0
        if stride == 2:
            # The last vector is left to the loop below: it would read one float past the row.
            factor, summand = splat(scale), splat(shift)
            while done + LANES < last - first:
                pair = evens(load(source, 2 * done), load(source, 2 * done + LANES))
                store(target, first + done, fma(pair, factor, summand))
                # The image lies in the third-level cache or further: its next row is asked for in time.
                prefetch(source, 2 * done + columns)
                prefetch(source, 2 * done + columns + LANES)
                done += LANES
        for i in range(done, last - first):
            target[first + i] = source[i * stride] * scale + shift
        for i in range(last, phase):
            target[i] = 0.0


@kernel
def dense(
    instruction: Integers,
    program: Integers,
    arena: Pointer,
    weights: Pointer,
    image: Pointer,
    output: Pointer,
) -> None:
    """DENSE: output rows FIRST to LAST of a k x k convolution of channel blocks."""
    stride, phase, columns, group = (
        instruction[STRIDE],
        instruction[PHASE],
        instruction[COLUMNS],
        instruction[GROUP],
    )
    segments, inputs = (
        integers_at(program, instruction[SEGMENTS]),
        integers_at(program, instruction[INPUTS]),
    )
    w, y = at(weights, instruction[WEIGHTS]), at(arena, instruction[Y])
    # Floats from a row to the next one: of the copy, or of the map itself where it is read in place.
    pitch = stride * phase * LANES
    if instruction[COPY] == 0:
        pitch = columns * LANES
    scratch = at(arena, instruction[SCRATCH])
    # Blocks of the copy are as far apart as a full group needs, also in the last group: segments are constant.
    group_rows = (group - 1) * stride + instruction[KERNEL_ROWS]
    # A group's rows fit the second-level cache, from which the tiles read each of them for all taps and panels.
    first = instruction[FIRST]
    while first < instruction[LAST]:
        last = min(first + group, instruction[LAST])
        # Where nothing is copied, segments are places in the arena; else they are distances within scratch.
        base = arena
        if instruction[COPY] != 0:
            for block in range(instruction[INPUT_BLOCKS]):
                for i in range((last - first - 1) * stride + instruction[KERNEL_ROWS]):
                    source = first * stride - instruction[TOP] + i
                    target = at(scratch, (block * group_rows + i) * pitch)
                    # Rows of padding lie above and below the map.
                    if source >= 0 and source < instruction[ROWS]:
                        x = at(arena, inputs[block] + source * columns * LANES)
                        _copy_row(x, target, columns, stride, instruction[LEFT], phase)
                    else:
                        _zero_row(target, pitch)
            base = scratch
        # One row of outputs at a time: consecutive pixels of a tile must be consecutive in the copy.
        for r in range(first, last):
            start = r
            if instruction[COPY] != 0:
                start = (r - first) * stride
            out = at(y, r * instruction[OUT_COLUMNS] * LANES)
            multiply(
                instruction, at(base, start * pitch), segments, w, out, instruction[OUT_COLUMNS]
            )
        first = last


@kernel
def planar(
    instruction: Integers,
    program: Integers,
    arena: Pointer,
    weights: Pointer,
    image: Pointer,
    output: Pointer,
) -> None:
    """PLANAR: output rows FIRST to LAST of a k x k convolution of the caller's image (C, H, W): most first layers."""
    stride, phase, group = instruction[STRIDE], instruction[PHASE], instruction[GROUP]
    segments = integers_at(program, instruction[SEGMENTS])
    w, y = at(weights, instruction[WEIGHTS]), at(arena, instruction[Y])
    constants = at(weights, instruction[CONSTANTS])
    scale, shift = constants[0], constants[1]
    pitch = stride * phase
    scratch = at(arena, instruction[SCRATCH])
    group_rows = (group - 1) * stride + instruction[KERNEL_ROWS]
    paired = pairs(instruction, segments)
    first = instruction[FIRST]
    while first < instruction[LAST]:
        last = min(first + group, instruction[LAST])
        # Every channel is a plane of its own; normalising while copying costs one instruction a vector.
        for channel in range(instruction[INPUT_BLOCKS]):
            for i in range((last - first - 1) * stride + instruction[KERNEL_ROWS]):
                source = first * stride - instruction[TOP] + i
                target = at(scratch, (channel * group_rows + i) * pitch)
                if source >= 0 and source < instruction[ROWS]:
                    x = at(image, (channel * instruction[ROWS] + source) * instruction[COLUMNS])
                    _copy_planar_row(
                        x,
                        target,
                        instruction[COLUMNS],
                        stride,
                        instruction[LEFT],
                        phase,
                        scale,
                        shift,
                    )
                else:
                    _zero_row(target, pitch)
        r = first
        while r < last:
            source = at(scratch, (r - first) * stride * pitch)
            out = at(y, r * instruction[OUT_COLUMNS] * LANES)
            if paired != 0 and r + 1 < last:
                multiply_pair(instruction, source, group_rows * pitch, w, out)
                r += 2
            else:
                multiply_planar(instruction, source, segments, w, out, instruction[OUT_COLUMNS])
                r += 1
        first = last
