"""The register tile that every product runs on.

A tile sums `pixels x blocks` vectors of outputs over a list of *segments*. A segment is (offset, lanes): `lanes` input
channels that lie side by side at x[offset:] for the first pixel, and one pixel further for each next one. A 1x1
convolution has one segment per channel block, a k x k convolution k * k of them, the Winograd product one per block
again. Segments carry offsets, so a concatenation is a longer list and costs nothing; and they carry counts, so a
half-empty block costs only its real channels.

The output blocks of a layer are cut into *panels* of 1, 2 or 4 blocks, the widths of a tile. Weights are packed panel
by panel, in the order in which a tile reads them: [bias, then channels, then slopes if the activation has
them][blocks][LANES]. While a tile multiplies, it asks for the weights of the next panel, or of whatever is packed after them: the weights of a network do not fit the
second-level cache, and waiting for them took 6 % of the time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .epilogue import finish_tile, slope_rows
from .instructions import (
    BLOCK_PITCH,
    BLOCKS,
    DEPTH,
    FLAGS,
    INPUT_BLOCKS,
    KERNEL_ROWS,
    OUT_COLUMNS,
    PHASE,
    RESIDUAL,
    SECOND,
    SEGMENT_COUNT,
    SINGLE,
    STRIDE,
)
from .simd import (
    LANES,
    REGISTERS,
    Integers,
    Pointer,
    at,
    kernel,
    prefetch,
    tile_bias,
    tile_fma,
    tile_part,
    tile_window,
)

# Of 32 registers, 14 x 2 sums, two vectors of weights and one scalar take 31. Of 16, 6 x 2 + 2 + 1 take 15, and
# 12 + 1 + 1 take 14. One more would make LLVM keep sums in memory, inside the innermost loop.
#: Most pixels of a tile that is 1 or 2 blocks wide: sums, weights and one scalar fill the registers.
MOST_PIXELS = (0, 14, 14) if REGISTERS == 32 else (0, 12, 6)


@kernel
def panel_width(blocks: int, single: int) -> int:
    """How many of the remaining output blocks the next panel takes. A layer of a single pixel (a linear one) takes
    four, to keep enough independent sums in flight."""
    if single != 0 and blocks >= 4:
        return 4
    return min(blocks, 2)


def _tile(pixels: int, blocks: int, pixel_pitch: int) -> Callable[..., None]:
    @kernel
    def tile(
        instruction: Integers, x: Pointer, segments: Integers, w: Pointer, y: Pointer, ahead: int
    ) -> None:
        sums = tile_bias(pixels, blocks, w, 0)
        # The bias comes first, then the channels in the order of the segments: weights are read from front to back.
        position = blocks * LANES
        for s in range(instruction[SEGMENT_COUNT]):
            offset = segments[2 * s]
            if pixel_pitch == 1:
                # Segments of an image are one lane each, and its weights fit the first-level cache.
                sums = tile_fma(sums, x, offset, pixel_pitch, w, position)
                position += blocks * LANES
                continue
            for lane in range(segments[2 * s + 1]):
                sums = tile_fma(sums, x, offset + lane, pixel_pitch, w, position)
                # 7 to 9 % of pfld at width 1, 2 % of LFFD (Zen 5, 2026-11-22); in a burst before the tile, nothing.
                # One cache line for each channel, so that requests are spread over the whole tile.
                prefetch(w, position + ahead)
                position += blocks * LANES
        # Read from the instruction here rather than passed on: small layers notice each argument of a tile.
        finish_tile(
            sums,
            y,
            instruction[BLOCK_PITCH],
            instruction[FLAGS],
            instruction[SECOND],
            instruction[RESIDUAL],
            at(w, position),
        )

    return tile


def _any_tile(most: int, blocks: int, pixel_pitch: int) -> Callable[..., None]:
    """The tile of as many pixels as asked for, up to `most`: every remainder has its own, there is no slow tail.

    Generated, because a chain of `if`s is all that compiled code needs: if n == 14: tile14(...) and so on down.
    """
    arguments = "instruction, x, segments, w, y, ahead"
    namespace: dict[str, Any] = {"__name__": __name__}
    namespace |= {f"tile{n}": _tile(n, blocks, pixel_pitch) for n in range(1, most + 1)}
    # A tile's size is part of its type, so that its sums can be registers: one function for each size.
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
        instruction: Integers,
        x: Pointer,
        segments: Integers,
        w: Pointer,
        y: Pointer,
        pixels: int,
        ahead: int,
    ) -> None:
        # 15 pixels are tiles of 8 and 7 rather than 14 and 1: a tile of one pixel waits for each of its additions.
        # As many tiles as needed, of as equal a size as possible.
        tiles = (pixels + most - 1) // most
        small = pixels // tiles
        larger = pixels - small * tiles
        for t in range(tiles):
            n = small
            if t < larger:
                n += 1
            # Two tiles ask for the two halves of the next weights.
            any_tile(n, instruction, x, segments, w, y, ahead + (t & 1) * LANES)
            x, y = at(x, n * LANES), at(y, n * LANES)

    return panel


def _planar_panel(blocks: int) -> Callable[..., None]:
    most = MOST_PIXELS[blocks]
    large, small, single = (_tile(n, blocks, 1) for n in (most, 4, 1))

    @kernel
    def panel(
        instruction: Integers,
        x: Pointer,
        segments: Integers,
        w: Pointer,
        y: Pointer,
        pixels: int,
        ahead: int,
    ) -> None:
        # Pixels that are made twice get the same bits, but would not if their residual lay under their result:
        # this is why a PLANAR instruction never writes in place.
        # The last tile overlaps the one before it and computes a few pixels again.
        n = most
        if pixels < most:
            n = 4
        if pixels < 4:
            n = 1
        first = 0
        # Only three sizes of tiles are compiled for images, which one layer of a network reads.
        while first < pixels:
            p = min(first, pixels - n)
            source, target = at(x, p), at(y, p * LANES)
            if n == most:
                large(instruction, source, segments, w, target, ahead)
            elif n == 4:
                small(instruction, source, segments, w, target, ahead)
            else:
                single(instruction, source, segments, w, target, ahead)
            first += n

    return panel


_one, _two = _panel(1), _panel(2)
_four = _tile(1, 4, LANES)
_planar_one, _planar_two = _planar_panel(1), _planar_panel(2)


@kernel
def multiply(
    instruction: Integers, x: Pointer, segments: Integers, w: Pointer, y: Pointer, pixels: int
) -> None:
    """y[b][p] = sum over segments, for all output blocks and consecutive pixels; `instruction` says the rest."""
    rows = instruction[DEPTH] + 1 + slope_rows(instruction[FLAGS])
    done = 0
    while done < instruction[BLOCKS]:
        width = panel_width(instruction[BLOCKS] - done, instruction[SINGLE])
        # What this panel's weights take, which is also how far the next panel's are away.
        floats = rows * width * LANES
        if width == 2:
            _two(instruction, x, segments, w, y, pixels, floats)
        elif width == 1:
            _one(instruction, x, segments, w, y, pixels, floats)
        else:
            _four(instruction, x, segments, w, y, floats)
        w, y = at(w, floats), at(y, width * instruction[BLOCK_PITCH])
        done += width


@kernel
def multiply_planar(
    instruction: Integers, x: Pointer, segments: Integers, w: Pointer, y: Pointer, pixels: int
) -> None:
    """As `multiply`, where neighbouring pixels of x are neighbouring floats: the image itself. Every segment is 1 lane."""
    rows = instruction[DEPTH] + 1 + slope_rows(instruction[FLAGS])
    done = 0
    while done < instruction[BLOCKS]:
        width = min(instruction[BLOCKS] - done, 2)
        floats = rows * width * LANES
        if width == 2:
            _planar_two(instruction, x, segments, w, y, pixels, floats)
        else:
            _planar_one(instruction, x, segments, w, y, pixels, floats)
        w, y = at(w, floats), at(y, width * instruction[BLOCK_PITCH])
        done += width


#: Pixels of a row, and of both, of a pair of rows: 20 sums, nine taps and one broadcast take 30 of 32 registers.
PAIR_PIXELS = 10
PAIR_SUMS = 2 * PAIR_PIXELS


@kernel
def _pair(
    instruction: Integers, x: Pointer, plane: int, pitch: int, w: Pointer, y: Pointer
) -> None:
    """`PAIR_PIXELS` pixels of two rows of outputs."""
    sums, position = tile_bias(PAIR_SUMS, 1, w, 0), LANES
    for channel in range(instruction[INPUT_BLOCKS]):
        sums = tile_window(sums, 2, x, channel * plane, pitch, instruction[PHASE], w, position)
        position += 9 * LANES
    slopes = at(w, position)
    flags, second, residual = instruction[FLAGS], instruction[SECOND], instruction[RESIDUAL]
    upper, lower = tile_part(sums, 0, PAIR_PIXELS), tile_part(sums, PAIR_PIXELS, PAIR_PIXELS)
    finish_tile(upper, y, 0, flags, second, residual, slopes)
    below = at(y, instruction[OUT_COLUMNS] * LANES)
    finish_tile(lower, below, 0, flags, second, residual, slopes)


@kernel
def pairs(instruction: Integers, segments: Integers) -> int:
    """1 where `multiply_pair` does an image's layer: one block of outputs, of at least `PAIR_PIXELS` columns, by a
    3x3 window of stride 2, as first layers have; and registers for nine taps."""
    if REGISTERS < 32 or instruction[BLOCKS] != 1 or instruction[OUT_COLUMNS] < PAIR_PIXELS:
        return 0
    if instruction[STRIDE] != 2 or instruction[KERNEL_ROWS] != 3:
        return 0
    if instruction[SEGMENT_COUNT] != 9 * instruction[INPUT_BLOCKS]:
        return 0
    # Nine taps in three rows, and not apart from each other: the third column is the first one's neighbour.
    return int(segments[2 * 2] == segments[0] + 1)


@kernel
def multiply_pair(instruction: Integers, x: Pointer, plane: int, w: Pointer, y: Pointer) -> None:
    """Two rows of outputs, as `multiply_planar` makes each, bit for bit; channels of x are `plane` floats apart.

    There each multiplication loads and broadcasts a number of its own, one a cycle, and a core could do two
    multiplications. Here a number is broadcast once for all windows of the tile that it is under, 1.7 on average.
    """
    pitch, first = 2 * instruction[PHASE], 0
    # The last tile overlaps the one before it, as in `_planar_panel`.
    while first < instruction[OUT_COLUMNS]:
        p = min(first, instruction[OUT_COLUMNS] - PAIR_PIXELS)
        _pair(instruction, at(x, p), plane, pitch, w, at(y, p * LANES))
        first += PAIR_PIXELS


def panels(blocks: int, single: int) -> list[int]:
    """Widths of the panels that `blocks` output blocks are cut into."""
    widths: list[int] = []
    while sum(widths) < blocks:
        widths.append(int(panel_width(blocks - sum(widths), single)))
    return widths


def pack(
    channels: NDArray[Any],
    bias: NDArray[Any],
    outputs: Sequence[int],
    single: int,
    slopes: NDArray[Any] | None = None,
) -> NDArray[np.float32]:
    """Weights in the order in which tiles read them.

    Args:
        channels: (depth, O): a row for every input channel that the segments visit, in their order.
        bias: (O,).
        outputs: the logical output channel of every physical lane, -1 where the lane is padding; a multiple of
            LANES long.
        single: 1 for a layer of a single pixel, as for `panel_width`.
        slopes: (O,), where the activation has them.
    """
    # Padding lanes get weights and biases of zero: they cost nothing, since their block is computed anyway.
    lanes = np.asarray(outputs)
    last = [] if slopes is None else [slopes[None]]
    rows = np.concatenate([bias[None], channels, *last]).astype(np.float64)
    # Rounded to float32 once, at the end: folded batch norms arrive in float64.
    wide = np.where(lanes >= 0, rows[:, np.maximum(lanes, 0)], 0.0)
    parts, first = [], 0
    for width in panels(len(lanes) // LANES, single):
        parts.append(wide[:, first : first + width * LANES].ravel())
        first += width * LANES
    return np.concatenate(parts).astype(np.float32)
