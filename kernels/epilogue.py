"""What a layer does with its sums before it stores them, as bits of the field FLAGS, and the two forms that obey them.

    [+ residual] activation, store; then, if there is a second output, [+ residual] activation, store there

`finish_tile` does it for a register tile, `finish` for one vector. Additions and activations cost nothing there: the
sums are in registers already. A leaky ReLU has a slope for each channel, packed behind the layer's weights; PReLU is
the same.
"""

from __future__ import annotations

from .simd import (
    Pointer,
    Tile,
    Vector,
    add,
    fma,
    kernel,
    load,
    maximum,
    minimum,
    splat,
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
ACTIVATIONS = {"": 0, "relu": RELU, "relu6": RELU6, "leaky_relu": LEAKY, "prelu": LEAKY}
INFINITY = float("inf")


@kernel
def slope_rows(flags: int) -> int:
    """1 where slopes are packed behind the weights, a vector for each block, else 0."""
    if flags & (LEAKY | SECOND_LEAKY):
        return 1
    return 0


@kernel
def leak(value: Vector, slope: Vector) -> Vector:
    """The value where it is positive, `slope` times it elsewhere."""
    # One of the two summands is zero, so nothing is rounded twice, and slopes may be of any size.
    return fma(slope, minimum(splat(0.0), value), maximum(splat(0.0), value))


@kernel
def finish_tile(
    sums: Tile, y: Pointer, pitch: int, flags: int, second: int, residual: int, slopes: Pointer
) -> None:
    """Finish a tile: y[b * pitch + p * LANES] for its pixels p and blocks b, whose slopes are slopes[b * LANES]."""
    # Each flag is one branch for a whole tile, and goes the same way for a whole layer: processors predict it.
    if flags & RESIDUAL_FIRST:
        sums = tile_add(sums, y, residual, pitch)
    if flags & RELU:
        sums = tile_clamp(sums, 0.0, INFINITY)
    # Of max(0, x) the bound comes first, so that a NaN stays one, as in PyTorch; see `simd.maximum`.
    if flags & RELU6:
        sums = tile_clamp(sums, 0.0, 6.0)
    if flags & LEAKY:
        sums = tile_leak(sums, slopes)
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
            sums = tile_leak(sums, slopes)
        tile_store(sums, y, second, pitch)


@kernel
def finish(
    value: Vector, y: Pointer, offset: int, flags: int, second: int, residual: int, slope: Vector
) -> None:
    """Finish one vector, whose result is y[offset:] and whose slopes are `slope`."""
    if flags & RESIDUAL_FIRST:
        value = add(value, load(y, offset + residual))
    if flags & (RELU | RELU6):
        value = maximum(splat(0.0), value)
    if flags & RELU6:
        value = minimum(splat(6.0), value)
    if flags & LEAKY:
        value = leak(value, slope)
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
            value = leak(value, slope)
        store(y, offset + second, value)
