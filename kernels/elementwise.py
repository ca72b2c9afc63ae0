"""Operations on single elements, and the ways between the caller's planar arrays and channel blocks."""

from __future__ import annotations

from .machine_code import kernel
from .pointwise import INFINITY, RELU, RELU6
from .simd import (
    LANES,
    Integers,
    Pointer,
    Vector,
    add,
    any_nan,
    at,
    broadcast,
    div,
    fma,
    integers_at,
    load,
    maximum,
    minimum,
    mul,
    power_of_two,
    splat,
    store,
    sub,
)


@kernel
def exponential(x: Vector) -> Vector:
    """e ** x, to 1 unit in the last place; below -87.7 exactly 0, above 88 constant.

    Cody & Waite's reduction: x = n ln 2 + r, |r| <= ln 2 / 2, then Taylor's series of e ** r to the seventh power.
    """
    # At -88, n is -127, whose power of two is 0.
    x = minimum(splat(88.0), maximum(splat(-88.0), x))
    # Adding and subtracting 1.5 * 2 ** 23 rounds to the nearest integer.
    magic = splat(12582912.0)
    n = sub(fma(x, splat(1.4426950408889634), magic), magic)
    r = fma(n, splat(-0.693359375), x)
    r = fma(n, splat(2.12194440e-4), r)
    series = splat(1.0 / 5040)
    series = fma(series, r, splat(1.0 / 720))
    series = fma(series, r, splat(1.0 / 120))
    series = fma(series, r, splat(1.0 / 24))
    series = fma(series, r, splat(1.0 / 6))
    series = fma(series, r, splat(0.5))
    series = fma(series, r, splat(1.0))
    series = fma(series, r, splat(1.0))
    return mul(series, power_of_two(n))


@kernel
def sigmoid(row: Integers, arena: Pointer) -> None:
    """Opcode SIGMOID; columns: y, x, vectors."""
    one = splat(1.0)
    for i in range(row[3]):
        e = exponential(sub(splat(0.0), load(arena, row[2] + i * LANES)))
        store(arena, row[1] + i * LANES, div(one, add(one, e)))


@kernel
def combine(row: Integers, arena: Pointer) -> None:
    """Opcode COMBINE: y = activation(x0 + x1), or of x0 alone; columns: y, x0, vectors, x1 or -1, flags."""
    low, high = splat(-INFINITY), splat(INFINITY)
    if row[5] & (RELU | RELU6):
        low = splat(0.0)
    if row[5] & RELU6:
        high = splat(6.0)
    for i in range(row[3]):
        value = load(arena, row[2] + i * LANES)
        if row[4] >= 0:
            value = add(value, load(arena, row[4] + i * LANES))
        store(arena, row[1] + i * LANES, minimum(high, maximum(low, value)))


@kernel
def not_finite(image: Pointer, size: int) -> int:
    """1 where one of `size` floats is NaN or infinite, else 0.

    Zero times a finite value is zero, any other gives NaN, and a sum that has met NaN stays NaN. Four sums hide the
    latency of the additions."""
    zero = splat(0.0)
    s0 = s1 = s2 = s3 = zero
    i = 0
    while i + 4 * LANES <= size:
        s0, s1 = fma(load(image, i), zero, s0), fma(load(image, i + LANES), zero, s1)
        s2 = fma(load(image, i + 2 * LANES), zero, s2)
        s3 = fma(load(image, i + 3 * LANES), zero, s3)
        i += 4 * LANES
    while i + LANES <= size:
        s0 = fma(load(image, i), zero, s0)
        i += LANES
    while i < size:
        s1 = fma(broadcast(image, i), zero, s1)
        i += 1
    return any_nan(add(add(s0, s1), add(s2, s3)))


@kernel
def affine(row: Integers, arena: Pointer, weights: Pointer) -> None:
    """Opcode AFFINE: y = x * scale + shift; columns: y, x, vectors, weights (scale, shift)."""
    scale, shift = broadcast(weights, row[4]), broadcast(weights, row[4] + 1)
    for i in range(row[3]):
        store(arena, row[1] + i * LANES, fma(load(arena, row[2] + i * LANES), scale, shift))


@kernel
def gather_channels(row: Integers, program: Integers, arena: Pointer) -> None:
    """Opcode GATHER: another order of channels; columns: y, pixels, lanes, sources. Each physical lane of y has the
    arena offset of its first pixel in the table of sources, or -1 for zeros."""
    pixels = row[2]
    sources = integers_at(program, row[4])
    for lane in range(row[3]):
        block = lane // LANES
        y = at(arena, row[1] + block * pixels * LANES + lane - block * LANES)
        if sources[lane] >= 0:
            x = at(arena, sources[lane])
            for p in range(pixels):
                y[p * LANES] = x[p * LANES]
        else:
            for p in range(pixels):
                y[p * LANES] = 0.0


@kernel
def block_image(row: Integers, arena: Pointer, weights: Pointer, image: Pointer) -> None:
    """Opcode BLOCK: the caller's (C, H, W) into channel blocks; columns: y, pixels, channels, weights (scale, shift)."""
    pixels, channels = row[2], row[3]
    constants = at(weights, row[4])
    scale, shift = constants[0], constants[1]
    lanes = (channels + LANES - 1) // LANES * LANES
    for lane in range(lanes):
        block = lane // LANES
        y = at(arena, row[1] + block * pixels * LANES + lane - block * LANES)
        if lane < channels:
            x = at(image, lane * pixels)
            for p in range(pixels):
                y[p * LANES] = x[p] * scale + shift
        else:
            for p in range(pixels):
                y[p * LANES] = 0.0


@kernel
def unblock(row: Integers, program: Integers, arena: Pointer, output: Pointer) -> None:
    """Opcode UNBLOCK: channels back into the caller's array; columns: y (offset in the output), pixels, channels,
    sources (table of arena offsets), channel pitch, pixel pitch, first pixel, last pixel."""
    sources = integers_at(program, row[4])
    for channel in range(row[3]):
        x = at(arena, sources[channel])
        y = at(output, row[1] + channel * row[5])
        for p in range(row[7], row[8]):
            y[p * row[6]] = x[p * LANES]


@kernel
def probe(row: Integers, arena: Pointer) -> None:
    """Opcode PROBE: nothing but independent fused multiply-adds, 24 in a round; columns: y, rounds. What the core
    reaches here is the peak that benchmarks are compared with."""
    a = load(arena, row[1])
    b = load(arena, row[1] + LANES)
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = s8 = s9 = s10 = s11 = a
    for _ in range(2 * row[2]):
        s0, s1, s2, s3 = fma(s0, a, b), fma(s1, a, b), fma(s2, a, b), fma(s3, a, b)
        s4, s5, s6, s7 = fma(s4, a, b), fma(s5, a, b), fma(s6, a, b), fma(s7, a, b)
        s8, s9, s10, s11 = fma(s8, a, b), fma(s9, a, b), fma(s10, a, b), fma(s11, a, b)
    total = add(add(add(s0, s1), add(s2, s3)), add(add(s4, s5), add(s6, s7)))
    total = add(total, add(add(s8, s9), add(s10, s11)))
    store(arena, row[1] + 2 * LANES, total)
