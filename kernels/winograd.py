"""Winograd convolution F(4x4, 3x3): 3 x 3, stride 1, padding 1, with a quarter of the multiplications.

Lavin & Gray 2016 (arXiv:1509.09308), §4: a 6 x 6 patch of inputs d and the kernel g give 4 x 4 outputs
Y = A^T [(G g G^T) * (B^T d B)] A. The product in the middle is 36 independent matrix products over channels, run
on the same register tiles as a 1x1 convolution. A group of patches goes through all three phases before the next
group, so that its transforms stay in cache.

Scratch: inputs [36][blocks][group][LANES], then products [36][output blocks][group][LANES], then one patch and one
half-transformed patch of 36 vectors each.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from .depthwise import finish
from .machine_code import kernel
from .pointwise import (
    BLOCKS,
    DEPTH,
    FIRST,
    FLAGS,
    INFINITY,
    LAST,
    PLANE,
    RESIDUAL,
    SECOND,
    STEPS,
    STORE_FIRST,
    WEIGHTS,
    Y,
    multiply,
)
from .simd import (
    LANES,
    Integers,
    Pointer,
    Vector,
    add,
    at,
    fma,
    integers_at,
    load,
    maximum,
    splat,
    store,
    sub,
)

# Columns of a WINOGRAD row after those that all products share; FIRST and LAST are patches. PRODUCT is the place of
# another row, that of the 36 products: all of them store in scratch and do nothing else with their sums.
GROUP, SCRATCH, INPUTS, PLANES = 14, 15, 16, 17
ROWS, COLUMNS, RECTIFY, BIAS, PRODUCT = 18, 19, 20, 21, 22

#: G of F(4, 3), with the interpolation points 0, 1, -1, 2, -2 and infinity.
KERNEL_TRANSFORM = (
    np.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / 24
)


@kernel
def _transform_input(
    source: Pointer, pitch: int, target: Pointer, target_pitch: int, low: Vector
) -> None:
    """B^T applied to six vectors; `low` rectifies them on the way, or is minus infinity."""
    d0, d1 = maximum(low, load(source, 0)), maximum(low, load(source, pitch))
    d2, d3 = maximum(low, load(source, 2 * pitch)), maximum(low, load(source, 3 * pitch))
    d4, d5 = maximum(low, load(source, 4 * pitch)), maximum(low, load(source, 5 * pitch))
    four, minus_four, minus_five = splat(4.0), splat(-4.0), splat(-5.0)
    store(target, 0, fma(four, d0, fma(minus_five, d2, d4)))
    even, odd = fma(minus_four, d2, d4), fma(minus_four, d1, d3)
    store(target, target_pitch, add(even, odd))
    store(target, 2 * target_pitch, sub(even, odd))
    even, odd = sub(d4, d2), sub(d3, d1)
    odd = add(odd, odd)
    store(target, 3 * target_pitch, add(even, odd))
    store(target, 4 * target_pitch, sub(even, odd))
    store(target, 5 * target_pitch, fma(four, d1, fma(minus_five, d3, d5)))


@kernel
def _transform_patch(
    source: Pointer, pitch: int, half: Pointer, target: Pointer, target_pitch: int, low: Vector
) -> None:
    """B^T d B of one patch of one block: columns into `half`, then its rows into 36 places `target_pitch` apart."""
    never = splat(-INFINITY)
    for j in range(6):
        _transform_input(at(source, j * LANES), pitch, at(half, j * LANES), 6 * LANES, low)
    for i in range(6):
        _transform_input(
            at(half, i * 6 * LANES),
            LANES,
            at(target, i * 6 * target_pitch),
            target_pitch,
            never,
        )


@kernel
def _gather(x: Pointer, rows: int, columns: int, top: int, left: int, patch: Pointer) -> None:
    """A patch that reaches over the image's edge, zeros outside."""
    zero = splat(0.0)
    for i in range(6):
        for j in range(6):
            r, c = top + i, left + j
            if r >= 0 and r < rows and c >= 0 and c < columns:
                store(patch, (i * 6 + j) * LANES, load(x, (r * columns + c) * LANES))
            else:
                store(patch, (i * 6 + j) * LANES, zero)


@kernel
def _transform_half(source: Pointer, pitch: int, target: Pointer) -> None:
    """A^T applied to a column of products: six vectors `pitch` apart into four rows of `half`."""
    m0, m1, m2 = load(source, 0), load(source, pitch), load(source, 2 * pitch)
    m3, m4, m5 = load(source, 3 * pitch), load(source, 4 * pitch), load(source, 5 * pitch)
    s12, d12, s34, d34 = add(m1, m2), sub(m1, m2), add(m3, m4), sub(m3, m4)
    store(target, 0, add(m0, add(s12, s34)))
    store(target, 6 * LANES, fma(splat(2.0), d34, d12))
    store(target, 12 * LANES, fma(splat(4.0), s34, s12))
    store(target, 18 * LANES, add(fma(splat(8.0), d34, d12), m5))


@kernel
def _finish_row(
    half: Pointer,
    bias: Vector,
    y: Pointer,
    columns: int,
    flags: int,
    second: int,
    residual: int,
) -> None:
    """A^T applied to one row of `half`: up to four output pixels."""
    m0, m1, m2 = load(half, 0), load(half, LANES), load(half, 2 * LANES)
    m3, m4, m5 = load(half, 3 * LANES), load(half, 4 * LANES), load(half, 5 * LANES)
    s12, d12, s34, d34 = add(m1, m2), sub(m1, m2), add(m3, m4), sub(m3, m4)
    finish(add(bias, add(m0, add(s12, s34))), y, 0, flags, second, residual)
    if columns > 1:
        value = add(bias, fma(splat(2.0), d34, d12))
        finish(value, y, LANES, flags, second, residual)
    if columns > 2:
        value = add(bias, fma(splat(4.0), s34, s12))
        finish(value, y, 2 * LANES, flags, second, residual)
    if columns > 3:
        value = add(bias, add(fma(splat(8.0), d34, d12), m5))
        finish(value, y, 3 * LANES, flags, second, residual)


@kernel
def _transform_inputs(
    row: Integers, program: Integers, arena: Pointer, first: int, count: int
) -> None:
    rows, columns, planes, group = row[ROWS], row[COLUMNS], row[PLANES], row[GROUP]
    inputs = integers_at(program, row[INPUTS])
    across = (columns + 3) // 4
    transformed = at(arena, row[SCRATCH])
    patch = at(transformed, 36 * (planes + row[BLOCKS]) * group * LANES)
    half = at(patch, 36 * LANES)
    low = splat(-INFINITY)
    if row[RECTIFY]:
        low = splat(0.0)
    pitch = planes * group * LANES
    for t in range(count):
        i = (first + t) // across
        top, left = i * 4 - 1, (first + t - i * across) * 4 - 1
        inside = top >= 0 and left >= 0 and top + 6 <= rows and left + 6 <= columns
        for block in range(planes):
            x = at(arena, inputs[block])
            target = at(transformed, (block * group + t) * LANES)
            if inside:
                source = at(x, (top * columns + left) * LANES)
                _transform_patch(source, columns * LANES, half, target, pitch, low)
            else:
                _gather(x, rows, columns, top, left, patch)
                _transform_patch(patch, 6 * LANES, half, target, pitch, low)


@kernel
def _transform_outputs(
    row: Integers, arena: Pointer, weights: Pointer, first: int, count: int
) -> None:
    rows, columns, planes, group = row[ROWS], row[COLUMNS], row[PLANES], row[GROUP]
    blocks = row[BLOCKS]
    across = (columns + 3) // 4
    products = at(arena, row[SCRATCH] + 36 * planes * group * LANES)
    half = at(products, 36 * blocks * group * LANES + 36 * LANES)
    pitch = blocks * group * LANES
    for t in range(count):
        i = (first + t) // across
        top, left = i * 4, (first + t - i * across) * 4
        height, width = min(4, rows - top), min(4, columns - left)
        for block in range(blocks):
            source = at(products, (block * group + t) * LANES)
            for j in range(6):
                _transform_half(at(source, j * pitch), 6 * pitch, at(half, j * LANES))
            bias = load(weights, row[BIAS] + block * LANES)
            y = at(arena, row[Y] + block * row[PLANE] + (top * columns + left) * LANES)
            for r in range(height):
                _finish_row(
                    at(half, r * 6 * LANES),
                    bias,
                    at(y, r * columns * LANES),
                    width,
                    row[FLAGS],
                    row[SECOND],
                    row[RESIDUAL],
                )


@kernel
def winograd(row: Integers, program: Integers, arena: Pointer, weights: Pointer) -> None:
    """Opcode WINOGRAD. Weights: 36 packed matrices, one behind the other, each with a bias of zero."""
    planes, group, blocks = row[PLANES], row[GROUP], row[BLOCKS]
    steps, product = integers_at(program, row[STEPS]), integers_at(program, row[PRODUCT])
    floats = (row[DEPTH] + 1) * blocks * LANES
    transformed = at(arena, row[SCRATCH])
    products = at(transformed, 36 * planes * group * LANES)
    first = row[FIRST]
    while first < row[LAST]:
        count = min(group, row[LAST] - first)
        _transform_inputs(row, program, arena, first, count)
        for e in range(36):
            x = at(transformed, e * planes * group * LANES)
            y = at(products, e * blocks * group * LANES)
            multiply(product, x, steps, at(weights, row[WEIGHTS] + e * floats), y, count)
        _transform_outputs(row, arena, weights, first, count)
        first += count


def product_row(group: int, blocks: int, count: int, depth: int) -> list[int]:
    """The row of the 36 products: `group` patches of `count` input and `blocks` output blocks, in scratch."""
    return [0, 0, group * LANES, blocks, 0, 0, count, depth, STORE_FIRST, 0, 0, 0]


def transform_kernel(weight: NDArray[Any]) -> NDArray[np.float64]:
    """(O, C, 3, 3) to G g G^T, (36, C, O), in float64."""
    g = KERNEL_TRANSFORM
    transformed = np.einsum("ia,jb,ocab->ijco", g, g, weight.astype(np.float64), optimize=True)
    return np.ascontiguousarray(transformed.reshape(36, *weight.shape[1::-1]))
