"""Winograd convolutions F(4x4, 3x3) and F(6x6, 3x3): 3 x 3, stride 1, padding 1, with a quarter or a fifth of the
multiplications.

Lavin & Gray 2016 (arXiv:1509.09308), §4: a patch of inputs d, two wider than the `side` x `side` outputs Y made of it,
and the kernel g give Y = A^T [(G g G^T) * (B^T d B)] A. The product in the middle is (side + 2)^2 independent matrix
products over channels, run on the same register tiles as a 1x1 convolution. A group of patches goes through all three
phases before the next group, so that its transforms stay in cache.

Points of interpolation are 0, 1, -1, 2, -2 and infinity, for side 6 also 1/2 and -1/2. A holds their plain powers, and
the scale of B's rows is such that its coefficients, too, are exact in float32 and small: 21/4 at most. All that is not
exact, 1/6 and 1/24 or 2/9, 1/90 and 32/45, lies in G, which is applied in float64. Points of opposite sign share the
even and the odd part of their polynomial.

Scratch: inputs [points][blocks][group][LANES], then products [points][output blocks][group][LANES], then one patch and
one half-transformed patch of a vector for each point.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .epilogue import INFINITY, STORE_FIRST, finish, slope_rows
from .instructions import (
    BIAS,
    BLOCK_PITCH,
    BLOCKS,
    COLUMNS,
    DEPTH,
    FIRST,
    FLAGS,
    GROUP,
    INPUT_BLOCKS,
    INPUTS,
    LAST,
    PRODUCT,
    RELU_ON_LOAD,
    RESIDUAL,
    ROWS,
    SCRATCH,
    SECOND,
    SEGMENT_COUNT,
    SEGMENTS,
    SIDE,
    WEIGHTS,
    WIDTH,
    Y,
)
from .register_tile import multiply
from .simd import (
    LANES,
    Integers,
    Pointer,
    Vector,
    add,
    at,
    fma,
    integers_at,
    kernel,
    load,
    maximum,
    splat,
    store,
    sub,
)

# That of side 4 is the one of the paper's §4.3. The paper has none for side 6: its rows follow from the same
# construction, (1, x, x^2) over the product of the differences from x to all other points, times that row's scale.
#: {side: G}: a row for every point x holds 1, x and x^2, times a constant.
KERNEL_TRANSFORMS = {
    4: np.array([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]) / 24,
    6: np.array(
        [
            *([90, 0, 0], [-20, -20, -20], [-20, 20, -20], [1, 2, 4], [1, -2, 4]),
            *([64, 32, 16], [64, -32, 16], [0, 0, 90]),
        ]
    )
    / 90,
}


@kernel
def _input_4(source: Pointer, pitch: int, target: Pointer, target_pitch: int, low: Vector) -> None:
    """B^T applied to six vectors; `low` rectifies them on the way, or is minus infinity."""
    d0, d1 = maximum(low, load(source, 0)), maximum(low, load(source, pitch))
    d2, d3 = maximum(low, load(source, 2 * pitch)), maximum(low, load(source, 3 * pitch))
    d4, d5 = maximum(low, load(source, 4 * pitch)), maximum(low, load(source, 5 * pitch))
    # The first and the last row of B^T belong to the points 0 and infinity. Rows 1 and 2 belong to the points 1 and -1,
    # rows 3 and 4 to 2 and -2: each pair is even + odd and even - odd, which halves its multiplications.
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
def _input_6(source: Pointer, pitch: int, target: Pointer, target_pitch: int, low: Vector) -> None:
    """B^T applied to eight vectors, as `_input_4` to six."""
    d0, d1 = maximum(low, load(source, 0)), maximum(low, load(source, pitch))
    d2, d3 = maximum(low, load(source, 2 * pitch)), maximum(low, load(source, 3 * pitch))
    d4, d5 = maximum(low, load(source, 4 * pitch)), maximum(low, load(source, 5 * pitch))
    d6, d7 = maximum(low, load(source, 6 * pitch)), maximum(low, load(source, 7 * pitch))
    # The points 0 and infinity; then the pairs 1, -1, then 2, -2, then 1/2, -1/2, as in `_input_4`.
    store(target, 0, fma(splat(5.25), sub(d4, d2), sub(d0, d6)))
    store(target, 7 * target_pitch, fma(splat(5.25), sub(d3, d5), sub(d7, d1)))
    even, odd = fma(splat(-4.25), d4, add(d2, d6)), fma(splat(-4.25), d3, add(d1, d5))
    store(target, target_pitch, add(even, odd))
    store(target, 2 * target_pitch, sub(even, odd))
    even = fma(splat(0.25), d2, fma(splat(-1.25), d4, d6))
    odd = fma(splat(0.25), d1, fma(splat(-1.25), d3, d5))
    store(target, 3 * target_pitch, fma(splat(2.0), odd, even))
    store(target, 4 * target_pitch, fma(splat(-2.0), odd, even))
    even = fma(splat(4.0), d2, fma(splat(-5.0), d4, d6))
    odd = fma(splat(4.0), d1, fma(splat(-5.0), d3, d5))
    store(target, 5 * target_pitch, fma(splat(0.5), odd, even))
    store(target, 6 * target_pitch, fma(splat(-0.5), odd, even))


@kernel
def _output_4(source: Pointer, pitch: int) -> tuple[Vector, ...]:
    """A^T applied to six vectors `pitch` apart."""
    m0, m1, m2 = load(source, 0), load(source, pitch), load(source, 2 * pitch)
    m3, m4, m5 = load(source, 3 * pitch), load(source, 4 * pitch), load(source, 5 * pitch)
    # Row i of A^T holds the points' i-th powers: even powers of x and -x are equal and meet the pair's sum, odd ones
    # its difference. The point infinity has only the highest power, in the last row.
    s12, d12, s34, d34 = add(m1, m2), sub(m1, m2), add(m3, m4), sub(m3, m4)
    y0, y1 = add(m0, add(s12, s34)), fma(splat(2.0), d34, d12)
    y2, y3 = fma(splat(4.0), s34, s12), add(fma(splat(8.0), d34, d12), m5)
    return y0, y1, y2, y3


@kernel
def _output_6(source: Pointer, pitch: int) -> tuple[Vector, ...]:
    """A^T applied to eight vectors `pitch` apart."""
    m0, m1, m2 = load(source, 0), load(source, pitch), load(source, 2 * pitch)
    m3, m4, m5 = load(source, 3 * pitch), load(source, 4 * pitch), load(source, 5 * pitch)
    m6, m7 = load(source, 6 * pitch), load(source, 7 * pitch)
    s12, d12, s34, d34 = add(m1, m2), sub(m1, m2), add(m3, m4), sub(m3, m4)
    s56, d56 = add(m5, m6), sub(m5, m6)
    y0 = add(add(m0, s12), add(s34, s56))
    y1 = fma(splat(2.0), d34, fma(splat(0.5), d56, d12))
    y2 = fma(splat(4.0), s34, fma(splat(0.25), s56, s12))
    y3 = fma(splat(8.0), d34, fma(splat(0.125), d56, d12))
    y4 = fma(splat(16.0), s34, fma(splat(0.0625), s56, s12))
    y5 = add(fma(splat(32.0), d34, fma(splat(0.03125), d56, d12)), m7)
    return y0, y1, y2, y3, y4, y5


@kernel
def _half_4(source: Pointer, pitch: int, half: Pointer) -> None:
    """A^T applied to a column of products, stored as a column of `half`."""
    y0, y1, y2, y3 = _output_4(source, pitch)
    # A column of `half` is written, so that its rows, which are read next, lie side by side.
    store(half, 0, y0)
    store(half, 6 * LANES, y1)
    store(half, 12 * LANES, y2)
    store(half, 18 * LANES, y3)


@kernel
def _half_6(source: Pointer, pitch: int, half: Pointer) -> None:
    """As `_half_4`."""
    y0, y1, y2, y3, y4, y5 = _output_6(source, pitch)
    store(half, 0, y0)
    store(half, 8 * LANES, y1)
    store(half, 16 * LANES, y2)
    store(half, 24 * LANES, y3)
    store(half, 32 * LANES, y4)
    store(half, 40 * LANES, y5)


@kernel
def _row_4(
    half: Pointer,
    bias: Vector,
    y: Pointer,
    columns: int,
    flags: int,
    second: int,
    residual: int,
    slope: Vector,
) -> None:
    """A^T applied to a row of `half`: up to four output pixels."""
    y0, y1, y2, y3 = _output_4(half, LANES)
    # Written out, since results are values in registers, which no index selects. A pixel beyond the edge must not be
    # stored: it would be the first one of the next row.
    finish(add(bias, y0), y, 0, flags, second, residual, slope)
    if columns > 1:
        finish(add(bias, y1), y, LANES, flags, second, residual, slope)
    if columns > 2:
        finish(add(bias, y2), y, 2 * LANES, flags, second, residual, slope)
    if columns > 3:
        finish(add(bias, y3), y, 3 * LANES, flags, second, residual, slope)


@kernel
def _row_6(
    half: Pointer,
    bias: Vector,
    y: Pointer,
    columns: int,
    flags: int,
    second: int,
    residual: int,
    slope: Vector,
) -> None:
    """A^T applied to a row of `half`: up to six output pixels."""
    y0, y1, y2, y3, y4, y5 = _output_6(half, LANES)
    finish(add(bias, y0), y, 0, flags, second, residual, slope)
    if columns > 1:
        finish(add(bias, y1), y, LANES, flags, second, residual, slope)
    if columns > 2:
        finish(add(bias, y2), y, 2 * LANES, flags, second, residual, slope)
    if columns > 3:
        finish(add(bias, y3), y, 3 * LANES, flags, second, residual, slope)
    if columns > 4:
        finish(add(bias, y4), y, 4 * LANES, flags, second, residual, slope)
    if columns > 5:
        finish(add(bias, y5), y, 5 * LANES, flags, second, residual, slope)


def _inputs(side: int, transform: Callable[..., None]) -> Callable[..., None]:
    """The first phase: B^T d B of `count` patches of all blocks."""
    # A constant in each of the two compiled versions, so that LLVM unrolls the loops over a patch.
    size = side + 2

    @kernel
    def transform_patch(
        source: Pointer, pitch: int, half: Pointer, target: Pointer, target_pitch: int, low: Vector
    ) -> None:
        """One patch of one block: columns into `half`, then its rows into places `target_pitch` apart."""
        # The ReLU belongs to inputs: a half-transformed patch has negative values of its own.
        never = splat(-INFINITY)
        for j in range(size):
            transform(at(source, j * LANES), pitch, at(half, j * LANES), size * LANES, low)
        for i in range(size):
            line = at(half, i * size * LANES)
            transform(line, LANES, at(target, i * size * target_pitch), target_pitch, never)

    @kernel
    def gather(x: Pointer, rows: int, columns: int, top: int, left: int, patch: Pointer) -> None:
        """A patch that reaches over the image's edge, zeros outside."""
        zero = splat(0.0)
        for i in range(size):
            for j in range(size):
                r, c = top + i, left + j
                if r >= 0 and r < rows and c >= 0 and c < columns:
                    store(patch, (i * size + j) * LANES, load(x, (r * columns + c) * LANES))
                else:
                    store(patch, (i * size + j) * LANES, zero)

    @kernel
    def transform_inputs(
        instruction: Integers, program: Integers, arena: Pointer, first: int, count: int
    ) -> None:
        rows, columns, input_blocks, group = (
            instruction[ROWS],
            instruction[COLUMNS],
            instruction[INPUT_BLOCKS],
            instruction[GROUP],
        )
        inputs = integers_at(program, instruction[INPUTS])
        across = (columns + side - 1) // side
        # Both places for one patch lie after all products: every block of every patch uses them again.
        transformed = at(arena, instruction[SCRATCH])
        patch = at(transformed, size * size * (input_blocks + instruction[BLOCKS]) * group * LANES)
        half = at(patch, size * size * LANES)
        # A deferred ReLU is one instruction for each vector that is loaded; minus infinity lets everything pass.
        low = splat(-INFINITY)
        if instruction[RELU_ON_LOAD]:
            low = splat(0.0)
        # Points are the outermost index: each of them is a map of `group` pixels, as `multiply` reads it.
        pitch = input_blocks * group * LANES
        for t in range(count):
            i = (first + t) // across
            top, left = i * side - 1, (first + t - i * across) * side - 1
            # Most patches lie inside of the map and are read where they lie; only those at the edges are copied.
            inside = top >= 0 and left >= 0 and top + size <= rows and left + size <= columns
            for block in range(input_blocks):
                x = at(arena, inputs[block])
                target = at(transformed, (block * group + t) * LANES)
                if inside:
                    source = at(x, (top * columns + left) * LANES)
                    transform_patch(source, columns * LANES, half, target, pitch, low)
                else:
                    gather(x, rows, columns, top, left, patch)
                    transform_patch(patch, size * LANES, half, target, pitch, low)

    return transform_inputs


def _outputs(
    side: int, transform: Callable[..., None], finish_row: Callable[..., None]
) -> Callable[..., None]:
    """The last phase: A^T m A of `count` patches of all output blocks, and all that a layer does with its sums."""
    size = side + 2

    @kernel
    def transform_outputs(
        instruction: Integers, arena: Pointer, weights: Pointer, first: int, count: int
    ) -> None:
        rows, columns, input_blocks, group = (
            instruction[ROWS],
            instruction[COLUMNS],
            instruction[INPUT_BLOCKS],
            instruction[GROUP],
        )
        blocks = instruction[BLOCKS]
        across = (columns + side - 1) // side
        products = at(arena, instruction[SCRATCH] + size * size * input_blocks * group * LANES)
        half = at(products, size * size * (blocks * group + 1) * LANES)
        pitch = blocks * group * LANES
        for t in range(count):
            i = (first + t) // across
            top, left = i * side, (first + t - i * across) * side
            # The last patches hang over the edges, where what they make is dropped.
            height, width = min(side, rows - top), min(side, columns - left)
            # The transform back is the only place that knows final sums: bias, residual and activation come here.
            for block in range(blocks):
                source = at(products, (block * group + t) * LANES)
                for j in range(size):
                    transform(at(source, j * pitch), size * pitch, at(half, j * LANES))
                bias = load(weights, instruction[BIAS] + block * LANES)
                # Behind the biases, if the activation has any; else this is not used.
                slope = bias
                if slope_rows(instruction[FLAGS]):
                    slope = load(weights, instruction[BIAS] + (blocks + block) * LANES)
                y = at(
                    arena,
                    instruction[Y]
                    + block * instruction[BLOCK_PITCH]
                    + (top * columns + left) * LANES,
                )
                for r in range(height):
                    finish_row(
                        at(half, r * size * LANES),
                        bias,
                        at(y, r * columns * LANES),
                        width,
                        instruction[FLAGS],
                        instruction[SECOND],
                        instruction[RESIDUAL],
                        slope,
                    )

    return transform_outputs


_inputs_4, _inputs_6 = _inputs(4, _input_4), _inputs(6, _input_6)
_outputs_4, _outputs_6 = _outputs(4, _half_4, _row_4), _outputs(6, _half_6, _row_6)


@kernel
def winograd(
    instruction: Integers,
    program: Integers,
    arena: Pointer,
    weights: Pointer,
    image: Pointer,
    output: Pointer,
) -> None:
    """WINOGRAD: patches FIRST to LAST, GROUP of them together. Weights: a packed matrix per point, one after the other,
    each with a bias of zero."""
    input_blocks, group, blocks, side = (
        instruction[INPUT_BLOCKS],
        instruction[GROUP],
        instruction[BLOCKS],
        instruction[SIDE],
    )
    segments, products_of = (
        integers_at(program, instruction[SEGMENTS]),
        integers_at(program, instruction[PRODUCT]),
    )
    points = (side + 2) * (side + 2)
    # Each point's matrix begins with a row of biases, as every packed matrix does; these are zero.
    floats = (instruction[DEPTH] + 1) * blocks * LANES
    transformed = at(arena, instruction[SCRATCH])
    products = at(transformed, points * input_blocks * group * LANES)
    first = instruction[FIRST]
    while first < instruction[LAST]:
        count = min(group, instruction[LAST] - first)
        if side == 6:
            _inputs_6(instruction, program, arena, first, count)
        else:
            _inputs_4(instruction, program, arena, first, count)
        # One matrix product for each point. All of them run on the register tile, with the group's patches as pixels.
        for e in range(points):
            x = at(transformed, e * input_blocks * group * LANES)
            y = at(products, e * blocks * group * LANES)
            multiply(
                products_of, x, segments, at(weights, instruction[WEIGHTS] + e * floats), y, count
            )
        if side == 6:
            _outputs_6(instruction, arena, weights, first, count)
        else:
            _outputs_4(instruction, arena, weights, first, count)
        first += count


def product(group: int, blocks: int, inputs: int, depth: int) -> tuple[int, ...]:
    """The instruction of the products: `depth` channels in `inputs` input blocks, `blocks` output blocks, `group`
    patches. It lies in a list of the program; the products are stored in scratch and nothing else is done with them."""
    # No residual and no activation: these apply to what comes out of the transform back.
    fields = {
        BLOCK_PITCH: group * LANES,
        BLOCKS: blocks,
        SEGMENT_COUNT: inputs,
        DEPTH: depth,
        FLAGS: STORE_FIRST,
    }
    return tuple(fields.get(column, 0) for column in range(WIDTH))


def transform_kernel(weight: NDArray[Any], side: int) -> NDArray[np.float64]:
    """(O, C, 3, 3) to G g G^T, (points, C, O), in float64."""
    # In float64, since 1/6 or 32/45 are not exact in binary: `pack` rounds the products once. Points come first, and
    # then input channels, which are the rows that `pack` takes.
    g = KERNEL_TRANSFORMS[side]
    transformed = np.einsum("ia,jb,ocab->ijco", g, g, weight.astype(np.float64), optimize=True)
    return np.ascontiguousarray(transformed.reshape(len(g) ** 2, *weight.shape[1::-1]))
