"""Depthwise convolution: 3x3 of stride 1 or 2 and padding 0 or 1, and any other window.

3x3: a row of outputs is one walk from left to right: the nine taps stay in registers, three rows of inputs slide past
under them, so every input vector is loaded once for each of the three output rows that it touches. Rows outside of
the image are read from a row of zeros, columns outside are zero registers; nothing is padded in memory.

Any other window reads a copy of the map in a frame of zeros, so that no window leaves it. TILE outputs of a row stay in
registers, and each tap is loaded once for all of them. The frame is wide enough for a whole number of tiles.

Weights: [blocks][bias, then the taps row by row, then the slope if the activation has one][LANES].
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .epilogue import INFINITY, LEAKY, RELU, RELU6, RESIDUAL_FIRST, finish, leak, slope_rows
from .instructions import (
    BLOCK_PITCH,
    BLOCKS,
    COLUMNS,
    DILATION,
    DILATION_COLUMNS,
    FIRST,
    FLAGS,
    INPUT_PITCH,
    KERNEL_COLUMNS,
    KERNEL_ROWS,
    LAST,
    LEFT,
    OUT_COLUMNS,
    RESIDUAL,
    ROWS,
    SECOND,
    STRIDE,
    STRIDE_COLUMNS,
    TOP,
    WEIGHTS,
    ZEROS,
    X,
    Y,
)
from .simd import (
    LANES,
    Integers,
    Pointer,
    Vector,
    add,
    at,
    fma,
    kernel,
    load,
    maximum,
    minimum,
    splat,
    store,
)

#: Outputs of a row that `depthwise_window` makes at once: enough sums to hide the latency of a multiply-add.
TILE = 8


@kernel
def _slide(
    top: Pointer,
    middle: Pointer,
    bottom: Pointer,
    w: Pointer,
    y: Pointer,
    columns: int,
    out_columns: int,
    stride: int,
    padding: int,
    low: Vector,
    high: Vector,
    residual: int,
    added: int,
    slope: Vector,
    leaky: int,
) -> None:
    """One row of outputs of one block; low and high are the activation's limits, or `slope` is a leaky ReLU's."""
    # Nine taps, nine inputs, bias and limits take 22 of 32 registers. Where there are 16, LLVM loads some of them again
    # for each pixel, from the first-level cache.
    bias = load(w, 0)
    w0, w1, w2 = load(w, LANES), load(w, 2 * LANES), load(w, 3 * LANES)
    w3, w4, w5 = load(w, 4 * LANES), load(w, 5 * LANES), load(w, 6 * LANES)
    w6, w7, w8 = load(w, 7 * LANES), load(w, 8 * LANES), load(w, 9 * LANES)
    # Three columns of inputs at a time, each of a top, middle and bottom vector: 0 left of the output, 1 above it, 2
    # right of it. Column 0 begins outside of the map where there is padding.
    zero = splat(0.0)
    t0, m0, b0 = zero, zero, zero
    if padding == 0:
        t0, m0, b0 = load(top, 0), load(middle, 0), load(bottom, 0)
    column = (1 - padding) * LANES
    # Columns 2 * LANES further per output with stride 2; only the last window may reach past the right edge.
    last = columns * LANES
    # Two loops rather than one with a test in it. Both sum in the same fixed order: bias, then row by row.
    if stride == 1:
        t1, m1, b1 = load(top, column), load(middle, column), load(bottom, column)
        column += LANES
        for q in range(out_columns):
            t2, m2, b2 = zero, zero, zero
            if column < last:
                t2, m2, b2 = load(top, column), load(middle, column), load(bottom, column)
            upper = fma(w2, t2, fma(w1, t1, fma(w0, t0, bias)))
            value = fma(w5, m2, fma(w4, m1, fma(w3, m0, upper)))
            value = fma(w8, b2, fma(w7, b1, fma(w6, b0, value)))
            if added:
                value = add(value, load(y, q * LANES + residual))
            if leaky:
                value = leak(value, slope)
            store(y, q * LANES, minimum(high, maximum(low, value)))
            # The window moves by one column: two of the three stay in their registers.
            t0, m0, b0, t1, m1, b1 = t1, m1, b1, t2, m2, b2
            column += LANES
    else:
        for q in range(out_columns):
            t1, m1, b1 = load(top, column), load(middle, column), load(bottom, column)
            column += LANES
            t2, m2, b2 = zero, zero, zero
            if column < last:
                t2, m2, b2 = load(top, column), load(middle, column), load(bottom, column)
            upper = fma(w2, t2, fma(w1, t1, fma(w0, t0, bias)))
            value = fma(w5, m2, fma(w4, m1, fma(w3, m0, upper)))
            value = fma(w8, b2, fma(w7, b1, fma(w6, b0, value)))
            if added:
                value = add(value, load(y, q * LANES + residual))
            if leaky:
                value = leak(value, slope)
            store(y, q * LANES, minimum(high, maximum(low, value)))
            # The window moves by two columns: one stays.
            t0, m0, b0 = t2, m2, b2
            column += LANES


@kernel
def depthwise(
    instruction: Integers,
    program: Integers,
    arena: Pointer,
    weights: Pointer,
    image: Pointer,
    output: Pointer,
) -> None:
    """DEPTHWISE: output rows FIRST to LAST of every block. Of the flags, an activation and RESIDUAL_FIRST."""
    rows, columns = instruction[ROWS], instruction[COLUMNS]
    out_columns = instruction[OUT_COLUMNS]
    stride, flags = instruction[STRIDE], instruction[FLAGS]
    zeros = at(weights, instruction[ZEROS])
    # Limits that let everything pass stand for no activation: two instructions a vector, and no branch.
    low, high = splat(-INFINITY), splat(INFINITY)
    if flags & (RELU | RELU6):
        low = splat(0.0)
    if flags & RELU6:
        high = splat(6.0)
    # Bias and taps, and the slope.
    size = (10 + slope_rows(flags)) * LANES
    for block in range(instruction[BLOCKS]):
        x = at(arena, instruction[X] + block * instruction[INPUT_PITCH])
        w = at(weights, instruction[WEIGHTS] + block * size)
        # The last vector: the slope, or a tap that stands for none.
        slope = load(w, size - LANES)
        y = at(arena, instruction[Y] + block * instruction[BLOCK_PITCH])
        # All rows of a block before the next block: with stride 1, two of a row's three input rows are still in
        # cache from the row before.
        for r in range(instruction[FIRST], instruction[LAST]):
            source = r * stride - instruction[TOP]
            # A row outside of the map is one of zeros, so that the walk needs no test.
            top = middle = bottom = zeros
            if source >= 0:
                top = at(x, source * columns * LANES)
            if source + 1 < rows:
                middle = at(x, (source + 1) * columns * LANES)
            if source + 2 < rows:
                bottom = at(x, (source + 2) * columns * LANES)
            _slide(
                top,
                middle,
                bottom,
                w,
                at(y, r * out_columns * LANES),
                columns,
                out_columns,
                stride,
                instruction[LEFT],
                low,
                high,
                instruction[RESIDUAL],
                flags & RESIDUAL_FIRST,
                slope,
                flags & LEAKY,
            )


@kernel
def _tile(
    x: Pointer,
    w: Pointer,
    y: Pointer,
    count: int,
    rows: int,
    columns: int,
    down: int,
    across: int,
    step: int,
    flags: int,
    second: int,
    residual: int,
    slope: Vector,
) -> None:
    """TILE outputs side by side, of which the first `count` are stored. Distances in floats: `rows` and `columns` from
    the first tap to beyond the last one, `down` and `across` from tap to tap, `step` from window to window."""
    s0 = s1 = s2 = s3 = s4 = s5 = s6 = s7 = load(w, 0)
    tap = LANES
    i = 0
    while i < rows:
        j = i
        while j < i + columns:
            v, corner = load(w, tap), at(x, j)
            s0, s1 = fma(v, load(corner, 0), s0), fma(v, load(corner, step), s1)
            s2, s3 = fma(v, load(corner, 2 * step), s2), fma(v, load(corner, 3 * step), s3)
            s4, s5 = fma(v, load(corner, 4 * step), s4), fma(v, load(corner, 5 * step), s5)
            s6, s7 = fma(v, load(corner, 6 * step), s6), fma(v, load(corner, 7 * step), s7)
            tap += LANES
            j += across
        i += down
    finish(s0, y, 0, flags, second, residual, slope)
    if count > 1:
        finish(s1, y, LANES, flags, second, residual, slope)
    if count > 2:
        finish(s2, y, 2 * LANES, flags, second, residual, slope)
    if count > 3:
        finish(s3, y, 3 * LANES, flags, second, residual, slope)
    if count > 4:
        finish(s4, y, 4 * LANES, flags, second, residual, slope)
    if count > 5:
        finish(s5, y, 5 * LANES, flags, second, residual, slope)
    if count > 6:
        finish(s6, y, 6 * LANES, flags, second, residual, slope)
    if count > 7:
        finish(s7, y, 7 * LANES, flags, second, residual, slope)


@kernel
def depthwise_window(
    instruction: Integers,
    program: Integers,
    arena: Pointer,
    weights: Pointer,
    image: Pointer,
    output: Pointer,
) -> None:
    """DEPTHWISE_WINDOW: output rows FIRST to LAST of every block, of windows that all lie inside of the frame."""
    line, out_columns = instruction[COLUMNS] * LANES, instruction[OUT_COLUMNS]
    down, across = instruction[DILATION] * line, instruction[DILATION_COLUMNS] * LANES
    rows, columns = instruction[KERNEL_ROWS] * line, instruction[KERNEL_COLUMNS] * LANES
    step = instruction[STRIDE_COLUMNS] * LANES
    # The bias, the slope if there is one, then the taps.
    size = (1 + slope_rows(instruction[FLAGS])) * LANES
    i = 0
    while i < instruction[KERNEL_ROWS]:
        j = 0
        while j < instruction[KERNEL_COLUMNS]:
            size += LANES
            j += instruction[DILATION_COLUMNS]
        i += instruction[DILATION]
    for block in range(instruction[BLOCKS]):
        x = at(arena, instruction[X] + block * instruction[INPUT_PITCH])
        w = at(weights, instruction[WEIGHTS] + block * size)
        slope = load(w, size - LANES)
        y = at(arena, instruction[Y] + block * instruction[BLOCK_PITCH])
        for r in range(instruction[FIRST], instruction[LAST]):
            source = r * instruction[STRIDE] * line
            c = 0
            while c < out_columns:
                _tile(
                    at(x, source + c * step),
                    w,
                    at(y, (r * out_columns + c) * LANES),
                    out_columns - c,
                    rows,
                    columns,
                    down,
                    across,
                    step,
                    instruction[FLAGS],
                    instruction[SECOND],
                    instruction[RESIDUAL],
                    slope,
                )
                c += TILE


def pack(
    weight: NDArray[Any],
    bias: NDArray[Any],
    channels: Sequence[int],
    slopes: NDArray[Any] | None = None,
) -> NDArray[np.float32]:
    """Weights (C, 1, kh, kw), bias (C,) and slopes (C,), where there are any, by physical lane: `channels` has the
    logical channel of each, or -1."""
    # Taps of zero for padding lanes: these hold anything, but each lane only ever meets itself.
    lanes = np.asarray(channels)
    last = [] if slopes is None else [slopes[:, None]]
    rows = np.concatenate([bias[:, None], weight.reshape(len(bias), -1), *last], axis=1)
    wide = np.where(lanes[:, None] >= 0, rows[np.maximum(lanes, 0)], 0.0)
    size = rows.shape[1]
    return wide.reshape(-1, LANES, size).transpose(0, 2, 1).astype(np.float32).ravel()
