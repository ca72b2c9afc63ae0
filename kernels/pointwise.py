"""The register tile that every dense product runs on, and the 1x1 convolution made of it.

A tile sums `pixels x blocks` vectors of outputs over a list of *steps*. A step is (offset, lanes): `lanes` input
channels that lie side by side at x[offset:] for the first pixel, and one pixel step further for each next one. A 1x1
convolution has one step per channel block, a k x k convolution k * k of them, the Winograd product one per block
again. Steps carry addresses, so a concatenation is a longer list of steps and costs nothing; and they carry counts,
so a half-empty block costs only its real channels.

Weights are packed panel by panel, in the order in which a tile reads them: [bias, then channels][blocks][LANES]. While
a tile multiplies, it asks for the weights of the next panel, or of whatever is packed behind: the weights of a network
do not fit the second-level cache, and waiting for them took 6 % of the time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .machine_code import kernel
from .simd import (
    LANES,
    REGISTERS,
    Integers,
    Pointer,
    at,
    integers_at,
    prefetch,
    tile_add,
    tile_bias,
    tile_clamp,
    tile_fma,
    tile_store,
)

# Columns of a row that is a product: POINTWISE, DENSE, PLANAR and WINOGRAD share them. DEPTH is the number of input
# channels, over all COUNT steps; SECOND and RESIDUAL are distances from y; SINGLE is 1 for a layer of a single pixel.
Y, PLANE, BLOCKS, WEIGHTS, STEPS, COUNT, DEPTH = range(1, 8)
FLAGS, SECOND, RESIDUAL, SINGLE, FIRST, LAST, PIXELS = range(8, 15)

# What a tile does with its sums, as bits of `flags`: [+ residual], activation, store; then, if there is a second
# output, [+ residual], activation, store there.
RELU, RELU6 = 1, 2
SECOND_RELU, SECOND_RELU6 = 4, 8
RESIDUAL_FIRST, RESIDUAL_SECOND = 16, 32
STORE_FIRST, STORE_SECOND = 64, 128
ACTIVATIONS = {"": 0, "relu": RELU, "relu6": RELU6}

#: Most pixels of a tile that is 1 or 2 blocks wide: sums, weights and one scalar fill the registers.
MOST_PIXELS = (0, 14, 14) if REGISTERS == 32 else (0, 12, 6)
INFINITY = float("inf")


@kernel
def panel_width(blocks: int, single: int) -> int:
    """How many of the remaining output blocks the next panel takes. A layer of a single pixel (a linear one) takes
    four, to keep enough independent sums in flight."""
    if single != 0 and blocks >= 4:
        return 4
    return min(blocks, 2)


def _tile(pixels: int, blocks: int, step: int) -> Callable[..., None]:
    @kernel
    def tile(
        row: Integers, x: Pointer, steps: Integers, w: Pointer, y: Pointer, ahead: int
    ) -> None:
        sums = tile_bias(pixels, blocks, w, 0)
        position = blocks * LANES
        for s in range(row[COUNT]):
            offset = steps[2 * s]
            for lane in range(steps[2 * s + 1]):
                sums = tile_fma(sums, x, offset + lane, step, w, position)
                prefetch(w, position + ahead)
                position += blocks * LANES
        flags, plane = row[FLAGS], row[PLANE]
        if flags & RESIDUAL_FIRST:
            sums = tile_add(sums, y, row[RESIDUAL], plane)
        if flags & RELU:
            sums = tile_clamp(sums, 0.0, INFINITY)
        if flags & RELU6:
            sums = tile_clamp(sums, 0.0, 6.0)
        if flags & STORE_FIRST:
            tile_store(sums, y, 0, plane)
        if flags & STORE_SECOND:
            if flags & RESIDUAL_SECOND:
                sums = tile_add(sums, y, row[RESIDUAL], plane)
            if flags & SECOND_RELU:
                sums = tile_clamp(sums, 0.0, INFINITY)
            if flags & SECOND_RELU6:
                sums = tile_clamp(sums, 0.0, 6.0)
            tile_store(sums, y, row[SECOND], plane)

    return tile


def _any_tile(most: int, blocks: int, step: int) -> Callable[..., None]:
    """The tile of as many pixels as asked for, up to `most`: every remainder has its own, there is no slow tail.

    Generated, because a chain of `if`s is all that compiled code needs: if n == 14: tile14(...) and so on down.
    """
    arguments = "row, x, steps, w, y, ahead"
    namespace: dict[str, Any] = {"__name__": __name__}
    namespace |= {f"tile{n}": _tile(n, blocks, step) for n in range(1, most + 1)}
    lines = [f"def choose(n, {arguments}):"]
    lines += [f"    if n == {n}: return tile{n}({arguments})" for n in range(most, 0, -1)]
    exec("\n".join(lines), namespace)
    choose: Callable[..., None] = kernel(namespace["choose"])
    return choose


def _panel(blocks: int) -> Callable[..., None]:
    most = MOST_PIXELS[blocks]
    any_tile = _any_tile(most, blocks, LANES)

    @kernel
    def panel(
        row: Integers, x: Pointer, steps: Integers, w: Pointer, y: Pointer, pixels: int, ahead: int
    ) -> None:
        # As many tiles as needed, of as equal a size as possible.
        tiles = (pixels + most - 1) // most
        small = pixels // tiles
        larger = pixels - small * tiles
        for t in range(tiles):
            n = small
            if t < larger:
                n += 1
            # Two tiles ask for the two halves of the next weights.
            any_tile(n, row, x, steps, w, y, ahead + (t & 1) * LANES)
            x, y = at(x, n * LANES), at(y, n * LANES)

    return panel


def _planar_panel(blocks: int) -> Callable[..., None]:
    most = MOST_PIXELS[blocks]
    large, small, single = (_tile(n, blocks, 1) for n in (most, 4, 1))

    @kernel
    def panel(
        row: Integers, x: Pointer, steps: Integers, w: Pointer, y: Pointer, pixels: int, ahead: int
    ) -> None:
        # The last tile overlaps the one before it and computes a few pixels again.
        n = most
        if pixels < most:
            n = 4
        if pixels < 4:
            n = 1
        first = 0
        while first < pixels:
            p = min(first, pixels - n)
            source, target = at(x, p), at(y, p * LANES)
            if n == most:
                large(row, source, steps, w, target, ahead)
            elif n == 4:
                small(row, source, steps, w, target, ahead)
            else:
                single(row, source, steps, w, target, ahead)
            first += n

    return panel


_one, _two = _panel(1), _panel(2)
_four = _tile(1, 4, LANES)
_planar_one, _planar_two = _planar_panel(1), _planar_panel(2)


@kernel
def multiply(
    row: Integers, x: Pointer, steps: Integers, w: Pointer, y: Pointer, pixels: int
) -> None:
    """y[b][p] = sum over steps, for all output blocks and consecutive pixels; `row` says the rest."""
    done = 0
    while done < row[BLOCKS]:
        width = panel_width(row[BLOCKS] - done, row[SINGLE])
        floats = (row[DEPTH] + 1) * width * LANES
        if width == 2:
            _two(row, x, steps, w, y, pixels, floats)
        elif width == 1:
            _one(row, x, steps, w, y, pixels, floats)
        else:
            _four(row, x, steps, w, y, floats)
        w, y = at(w, floats), at(y, width * row[PLANE])
        done += width


@kernel
def multiply_planar(
    row: Integers, x: Pointer, steps: Integers, w: Pointer, y: Pointer, pixels: int
) -> None:
    """As `multiply`, where neighbouring pixels of x are neighbouring floats: the image itself. Every step is 1 lane."""
    done = 0
    while done < row[BLOCKS]:
        width = min(row[BLOCKS] - done, 2)
        floats = (row[DEPTH] + 1) * width * LANES
        if width == 2:
            _planar_two(row, x, steps, w, y, pixels, floats)
        else:
            _planar_one(row, x, steps, w, y, pixels, floats)
        w, y = at(w, floats), at(y, width * row[PLANE])
        done += width


@kernel
def pointwise(row: Integers, program: Integers, arena: Pointer, weights: Pointer) -> None:
    """Opcode POINTWISE; columns FIRST and LAST are pixels, PIXELS are so many that go through all panels before the
    next ones, so that their inputs are read from far memory once."""
    steps, w = integers_at(program, row[STEPS]), at(weights, row[WEIGHTS])
    first = row[FIRST]
    while first < row[LAST]:
        pixels = min(row[PIXELS], row[LAST] - first)
        y = at(arena, row[Y] + first * LANES)
        multiply(row, at(arena, first * LANES), steps, w, y, pixels)
        first += pixels


def panels(blocks: int, single: int) -> list[int]:
    """Widths of the panels that `blocks` output blocks are cut into."""
    widths: list[int] = []
    while sum(widths) < blocks:
        widths.append(int(panel_width(blocks - sum(widths), single)))
    return widths


def pack(
    channels: NDArray[Any], bias: NDArray[Any], outputs: Sequence[int], single: int
) -> NDArray[np.float32]:
    """Weights in the order in which tiles read them.

    Args:
        channels: (depth, O): a row for every input channel that the steps visit, in their order.
        bias: (O,).
        outputs: the logical output channel of every physical lane, -1 where the lane is padding; a multiple of
            LANES long.
        single: 1 for a layer of a single pixel, as for `panel_width`.
    """
    lanes = np.asarray(outputs)
    rows = np.concatenate([bias[None], channels]).astype(np.float64)
    wide = np.where(lanes >= 0, rows[:, np.maximum(lanes, 0)], 0.0)
    parts, first = [], 0
    for width in panels(len(lanes) // LANES, single):
        parts.append(wide[:, first : first + width * LANES].ravel())
        first += width * LANES
    return np.concatenate(parts).astype(np.float32)
