"""What a layer does with its sums before it stores them, as bits of the field FLAGS, and the two forms that obey them.

    [+ residual] activation, store; then, if there is a second output, [+ residual] activation, store there

`finish_tile` does it for a register tile, `finish` for one vector. Additions and activations cost nothing there: the
sums are in registers already.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from .simd import (
    Pointer,
    Tile,
    Vector,
    add,
    kernel,
    load,
    maximum,
    minimum,
    mul,
    splat,
    splat_bits,
    store,
    tile_add,
    tile_clamp,
    tile_leak,
    tile_store,
)

# The bits of a second activation are those of the first one, times 4; 512 stays free for what may follow LEAKY.
RELU, RELU6 = 1, 2
SECOND_RELU, SECOND_RELU6 = 4, 8
RESIDUAL_FIRST, RESIDUAL_SECOND = 16, 32
STORE_FIRST, STORE_SECOND = 64, 128
LEAKY, SECOND_LEAKY = 256, 1024
#: {activation: its bits}; those of a second activation lie two bits higher.
ACTIVATIONS = {"": 0, "relu": RELU, "relu6": RELU6, "leaky_relu": LEAKY}
INFINITY = float("inf")


@lru_cache(maxsize=256)
def float_bits(value: float) -> int:
    """The 32 bits of a float, as instructions hold it."""
    return int(np.float32(value).view(np.uint32))


@kernel
def finish_tile(
    sums: Tile, y: Pointer, pitch: int, flags: int, second: int, residual: int, slope: int
) -> None:
    """Finish a tile: y[b * pitch + p * LANES] for its pixels p and blocks b; `slope` are the bits of a leaky ReLU's."""
    # Each flag is one branch for a whole tile, and goes the same way for a whole layer: processors predict it.
    if flags & RESIDUAL_FIRST:
        sums = tile_add(sums, y, residual, pitch)
    if flags & RELU:
        sums = tile_clamp(sums, 0.0, INFINITY)
    # Of max(0, x) the bound comes first, so that a NaN stays one, as in PyTorch; see `simd.maximum`.
    if flags & RELU6:
        sums = tile_clamp(sums, 0.0, 6.0)
    # The larger of both is the leaky ReLU only for slopes up to 1; `lower` refuses all others.
    if flags & LEAKY:
        sums = tile_leak(sums, splat_bits(slope))
    if flags & STORE_FIRST:
        tile_store(sums, y, 0, pitch)
    if flags & STORE_SECOND:
        # The sums go on from what was stored first: `conv, relu, store` may be followed by `+ residual, relu, store`.
        if flags & RESIDUAL_SECOND:
            sums = tile_add(sums, y, residual, pitch)
        if flags & SECOND_RELU:
            sums = tile_clamp(sums, 0.0, INFINITY)
        if flags & SECOND_RELU6:
            sums = tile_clamp(sums, 0.0, 6.0)
        if flags & SECOND_LEAKY:
            sums = tile_leak(sums, splat_bits(slope))
        tile_store(sums, y, second, pitch)


@kernel
def finish(
    value: Vector, y: Pointer, offset: int, flags: int, second: int, residual: int, slope: int
) -> None:
    """Finish one vector, whose result is y[offset:]."""
    if flags & RESIDUAL_FIRST:
        value = add(value, load(y, offset + residual))
    if flags & (RELU | RELU6):
        value = maximum(splat(0.0), value)
    if flags & RELU6:
        value = minimum(splat(6.0), value)
    if flags & LEAKY:
        value = maximum(mul(splat_bits(slope), value), value)
    if flags & STORE_FIRST:
        store(y, offset, value)
    if flags & STORE_SECOND:
        if flags & RESIDUAL_SECOND:
            value = add(value, load(y, offset + residual))
        if flags & (SECOND_RELU | SECOND_RELU6):
            value = maximum(splat(0.0), value)
        if flags & SECOND_RELU6:
            value = minimum(splat(6.0), value)
        if flags & SECOND_LEAKY:
            value = maximum(mul(splat_bits(slope), value), value)
        store(y, offset + second, value)
