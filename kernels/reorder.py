"""The ways between the caller's planar arrays and channel blocks, and channels into other lanes."""

from __future__ import annotations

from .instructions import (
    BLOCKS,
    CHANNEL_PITCH,
    CONSTANTS,
    DEPTH,
    INPUTS,
    PIXEL_PITCH,
    PIXELS,
    Y,
)
from .simd import LANES, Integers, Pointer, at, integers_at, kernel


@kernel
def load_image(
    instruction: Integers,
    program: Integers,
    arena: Pointer,
    weights: Pointer,
    image: Pointer,
    output: Pointer,
) -> None:
    """LOAD_IMAGE: the caller's image (DEPTH, rows, columns) into channel blocks, x * scale + shift on the way. Lanes
    without a channel become zeros."""
    pixels, channels = instruction[PIXELS], instruction[DEPTH]
    constants = at(weights, instruction[CONSTANTS])
    scale, shift = constants[0], constants[1]
    # Padding lanes are written as well: a kernel may read them, and times a weight of zero, NaN would be NaN.
    lanes = (channels + LANES - 1) // LANES * LANES
    # Lane by lane: the image is read in its own order, once, and written with gaps, which the cache absorbs.
    for lane in range(lanes):
        block = lane // LANES
        y = at(arena, instruction[Y] + block * pixels * LANES + lane - block * LANES)
        if lane < channels:
            x = at(image, lane * pixels)
            for p in range(pixels):
                y[p * LANES] = x[p] * scale + shift
        else:
            for p in range(pixels):
                y[p * LANES] = 0.0


@kernel
def store_output(
    instruction: Integers,
    program: Integers,
    arena: Pointer,
    weights: Pointer,
    image: Pointer,
    output: Pointer,
) -> None:
    """STORE_OUTPUT: DEPTH channels into the caller's array. INPUTS has the first pixel of each channel; Y counts from the
    start of the image's outputs."""
    sources = integers_at(program, instruction[INPUTS])
    for channel in range(instruction[DEPTH]):
        # Every channel has a place of its own: the channels of an output may lie in any lanes of any blocks.
        x = at(arena, sources[channel])
        y = at(output, instruction[Y] + channel * instruction[CHANNEL_PITCH])
        for p in range(instruction[PIXELS]):
            y[p * instruction[PIXEL_PITCH]] = x[p * LANES]


@kernel
def gather(
    instruction: Integers,
    program: Integers,
    arena: Pointer,
    weights: Pointer,
    image: Pointer,
    output: Pointer,
) -> None:
    """GATHER: channels into other lanes. INPUTS has, for each lane of y, the offset of its first pixel, or -1 for
    zeros."""
    pixels = instruction[PIXELS]
    sources = integers_at(program, instruction[INPUTS])
    for lane in range(instruction[BLOCKS] * LANES):
        block = lane // LANES
        y = at(arena, instruction[Y] + block * pixels * LANES + lane - block * LANES)
        # Zeros, not whatever lies there: products visit all lanes up to a block's last channel, with weights of
        # zero for gaps, and zero times NaN would be NaN.
        if sources[lane] >= 0:
            x = at(arena, sources[lane])
            for p in range(pixels):
                y[p * LANES] = x[p * LANES]
        else:
            for p in range(pixels):
                y[p * LANES] = 0.0
