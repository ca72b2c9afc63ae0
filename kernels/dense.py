"""Direct k x k convolution of any stride and padding, by bands of rows.

A band of input rows is copied into scratch with its padding, columns that a stride would skip sorted apart
(*phases*: with stride 2, even columns and odd columns). There, every tap of every pixel is one step of the register
tile, at a constant distance from its neighbour pixel. The copy costs one load and one store where the product costs
k * k * O multiplications. A convolution without stride and padding needs no copy and reads its input where it lies.

Scratch: [blocks][rows of the band][phases][columns of a phase][LANES]; for the first layer, which reads the image
itself, [channels][rows][phases][columns].
"""

from __future__ import annotations

from .machine_code import kernel
from .pointwise import FIRST, LAST, STEPS, WEIGHTS, Y, multiply, multiply_planar
from .simd import LANES, Integers, Pointer, at, evens, fma, integers_at, load, splat, store

# Columns of a DENSE or PLANAR row, after those that all products share; FIRST and LAST are output rows.
BAND, SCRATCH, INPUTS, PLANES = 14, 15, 16, 17
ROWS, COLUMNS, STRIDE, TOP, LEFT = 18, 19, 20, 21, 22
TAP_ROWS, PHASE, OUT_COLUMNS, COPY = 23, 24, 25, 26
NORMALIZATION = 27


@kernel
def _copy_row(
    x: Pointer, scratch: Pointer, columns: int, stride: int, left: int, phase: int
) -> None:
    """One blocked row into its phases, zeros left and right of it."""
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
        first = (left - q + stride - 1) // stride
        if first < 0:
            first = 0
        last = (columns - 1 + left - q) // stride + 1
        if last > phase:
            last = phase
        for i in range(first):
            target[i] = 0.0
        source = at(x, first * stride + q - left)
        done = 0
        if stride == 2:
            # The last vector is left to the loop below: it would read one float past the row.
            factor, summand = splat(scale), splat(shift)
            while done + LANES < last - first:
                pair = evens(load(source, 2 * done), load(source, 2 * done + LANES))
                store(target, first + done, fma(pair, factor, summand))
                done += LANES
        for i in range(done, last - first):
            target[first + i] = source[i * stride] * scale + shift
        for i in range(last, phase):
            target[i] = 0.0


@kernel
def dense(row: Integers, program: Integers, arena: Pointer, weights: Pointer) -> None:
    """Opcode DENSE: a k x k convolution of blocked inputs."""
    stride, phase, columns, band = row[STRIDE], row[PHASE], row[COLUMNS], row[BAND]
    steps, inputs = integers_at(program, row[STEPS]), integers_at(program, row[INPUTS])
    w, y = at(weights, row[WEIGHTS]), at(arena, row[Y])
    pitch = stride * phase * LANES
    if row[COPY] == 0:
        pitch = columns * LANES
    scratch = at(arena, row[SCRATCH])
    band_rows = (band - 1) * stride + row[TAP_ROWS]
    first = row[FIRST]
    while first < row[LAST]:
        last = min(first + band, row[LAST])
        base = arena
        if row[COPY] != 0:
            for block in range(row[PLANES]):
                for i in range((last - first - 1) * stride + row[TAP_ROWS]):
                    source = first * stride - row[TOP] + i
                    target = at(scratch, (block * band_rows + i) * pitch)
                    if source >= 0 and source < row[ROWS]:
                        x = at(arena, inputs[block] + source * columns * LANES)
                        _copy_row(x, target, columns, stride, row[LEFT], phase)
                    else:
                        _zero_row(target, pitch)
            base = scratch
        for r in range(first, last):
            start = r
            if row[COPY] != 0:
                start = (r - first) * stride
            out = at(y, r * row[OUT_COLUMNS] * LANES)
            multiply(row, at(base, start * pitch), steps, w, out, row[OUT_COLUMNS])
        first = last


@kernel
def planar(
    row: Integers, program: Integers, arena: Pointer, weights: Pointer, image: Pointer
) -> None:
    """Opcode PLANAR: a k x k convolution of the caller's image (C, H, W), usually the first layer."""
    stride, phase, band = row[STRIDE], row[PHASE], row[BAND]
    steps = integers_at(program, row[STEPS])
    w, y = at(weights, row[WEIGHTS]), at(arena, row[Y])
    constants = at(weights, row[NORMALIZATION])
    scale, shift = constants[0], constants[1]
    pitch = stride * phase
    scratch = at(arena, row[SCRATCH])
    band_rows = (band - 1) * stride + row[TAP_ROWS]
    first = row[FIRST]
    while first < row[LAST]:
        last = min(first + band, row[LAST])
        for channel in range(row[PLANES]):
            for i in range((last - first - 1) * stride + row[TAP_ROWS]):
                source = first * stride - row[TOP] + i
                target = at(scratch, (channel * band_rows + i) * pitch)
                if source >= 0 and source < row[ROWS]:
                    x = at(image, (channel * row[ROWS] + source) * row[COLUMNS])
                    _copy_planar_row(
                        x, target, row[COLUMNS], stride, row[LEFT], phase, scale, shift
                    )
                else:
                    _zero_row(target, pitch)
        for r in range(first, last):
            source = at(scratch, (r - first) * stride * pitch)
            out = at(y, r * row[OUT_COLUMNS] * LANES)
            multiply_planar(row, source, steps, w, out, row[OUT_COLUMNS])
        first = last
