"""Operations on single elements: sigmoid, addition and activation, product, scale and shift between limits; the check for
NaN and infinity; the measure of a core's peak."""

from __future__ import annotations

from .epilogue import INFINITY, LEAKY, RELU, RELU6, leak
from .instructions import CONSTANTS, FLAGS, OTHER, PIXELS, ROUNDS, STEP, X, Y
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
    kernel,
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
    # 1 / ln 2 times x.
    n = sub(fma(x, splat(1.4426950408889634), magic), magic)
    # ln 2 is taken away in two parts. The first one, 355/512, has so few bits that n times it is exact.
    r = fma(n, splat(-0.693359375), x)
    r = fma(n, splat(2.12194440e-4), r)
    # Horner's scheme. The first term left out, r^8 / 8!, is at most 5e-9, where rounding to float32 errs by up to 6e-8.
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
def sigmoid(
    instruction: Integers,
    program: Integers,
    arena: Pointer,
    weights: Pointer,
    image: Pointer,
    output: Pointer,
) -> None:
    """SIGMOID: y = 1 / (1 + exp(-x)), PIXELS vectors."""
    one = splat(1.0)
    for i in range(instruction[PIXELS]):
        # e ** 88 is finite, so 1 + e is: very negative inputs give tiny numbers rather than NaN.
        e = exponential(sub(splat(0.0), load(arena, instruction[X] + i * LANES)))
        store(arena, instruction[Y] + i * LANES, div(one, add(one, e)))


@kernel
def add_vectors(
    instruction: Integers,
    program: Integers,
    arena: Pointer,
    weights: Pointer,
    image: Pointer,
    output: Pointer,
) -> None:
    """ADD: y = activation(x + other), or of x alone where OTHER is -1; PIXELS vectors. CONSTANTS has the slopes."""
    low, high = splat(-INFINITY), splat(INFINITY)
    if instruction[FLAGS] & (RELU | RELU6):
        low = splat(0.0)
    if instruction[FLAGS] & RELU6:
        high = splat(6.0)
    slope = low
    if instruction[FLAGS] & LEAKY:
        slope = load(weights, instruction[CONSTANTS])
    for i in range(instruction[PIXELS]):
        # Limits of infinity stand for no activation: the loop waits for memory, not for two instructions more.
        value = load(arena, instruction[X] + i * LANES)
        if instruction[OTHER] >= 0:
            value = add(value, load(arena, instruction[OTHER] + i * LANES))
        if instruction[FLAGS] & LEAKY:
            value = leak(value, slope)
        store(arena, instruction[Y] + i * LANES, minimum(high, maximum(low, value)))


@kernel
def multiply_vectors(
    instruction: Integers,
    program: Integers,
    arena: Pointer,
    weights: Pointer,
    image: Pointer,
    output: Pointer,
) -> None:
    """MULTIPLY: y = x * other, PIXELS vectors; with a STEP of 0 all by the same one, a gate of their channels."""
    for i in range(instruction[PIXELS]):
        factor = load(arena, instruction[OTHER] + i * instruction[STEP])
        store(
            arena, instruction[Y] + i * LANES, mul(load(arena, instruction[X] + i * LANES), factor)
        )


@kernel
def affine(
    instruction: Integers,
    program: Integers,
    arena: Pointer,
    weights: Pointer,
    image: Pointer,
    output: Pointer,
) -> None:
    """AFFINE: y = x * scale + shift, not below the first limit nor above the second one; PIXELS vectors."""
    constants = at(weights, instruction[CONSTANTS])
    scale, shift = broadcast(constants, 0), broadcast(constants, 1)
    low, high = broadcast(constants, 2), broadcast(constants, 3)
    for i in range(instruction[PIXELS]):
        value = fma(load(arena, instruction[X] + i * LANES), scale, shift)
        store(arena, instruction[Y] + i * LANES, minimum(high, maximum(low, value)))


@kernel
def probe(
    instruction: Integers,
    program: Integers,
    arena: Pointer,
    weights: Pointer,
    image: Pointer,
    output: Pointer,
) -> None:
    """PROBE: nothing but independent fused multiply-adds, 24 in a round. What the core reaches here is the peak that
    benchmarks are compared with."""
    # Twelve sums that do not depend on each other: a multiply-add takes four cycles and two can begin in each, so
    # eight would do; twelve leave room for whatever else the core does.
    a = load(arena, instruction[Y])
    b = load(arena, instruction[Y] + LANES)
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = s8 = s9 = s10 = s11 = a
    for _ in range(2 * instruction[ROUNDS]):
        s0, s1, s2, s3 = fma(s0, a, b), fma(s1, a, b), fma(s2, a, b), fma(s3, a, b)
        s4, s5, s6, s7 = fma(s4, a, b), fma(s5, a, b), fma(s6, a, b), fma(s7, a, b)
        s8, s9, s10, s11 = fma(s8, a, b), fma(s9, a, b), fma(s10, a, b), fma(s11, a, b)
    total = add(add(add(s0, s1), add(s2, s3)), add(add(s4, s5), add(s6, s7)))
    total = add(total, add(add(s8, s9), add(s10, s11)))
    store(arena, instruction[Y] + 2 * LANES, total)


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
    # Float by float: a vector would reach past the image, into memory that may not be ours.
    while i < size:
        s1 = fma(broadcast(image, i), zero, s1)
        i += 1
    return any_nan(add(add(s0, s1), add(s2, s3)))
