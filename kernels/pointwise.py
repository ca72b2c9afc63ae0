"""The register tile that every dense product runs on, and the 1x1 convolution made of it.

A tile sums `pixels x blocks` vectors of outputs over a list of *steps*. A step is (offset, lanes): `lanes` input
channels that lie side by side at x[offset:] for the first pixel, and one pixel step further for each next one. A 1x1
convolution has one step per channel block, a k x k convolution k * k of them, the Winograd product one per block
again. Steps carry addresses, so a concatenation is a longer list of steps and costs nothing; and they carry counts,
so a half-empty block costs only its real channels.

Weights are packed panel by panel, in the order in which a tile reads them: [bias, then channels][blocks][LANES].
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
    tile_add,
    tile_bias,
    tile_clamp,
    tile_fma,
    tile_store,
)

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
        x: Pointer,
        steps: Integers,
        count: int,
        w: Pointer,
        y: Pointer,
        plane: int,
        flags: int,
        second: int,
        residual: int,
    ) -> None:
        sums = tile_bias(pixels, blocks, w, 0)
        position = blocks * LANES
        for s in range(count):
            offset = steps[2 * s]
            for lane in range(steps[2 * s + 1]):
                sums = tile_fma(sums, x, offset + lane, step, w, position)
                position += blocks * LANES
        if flags & RESIDUAL_FIRST:
            sums = tile_add(sums, y, residual, plane)
        if flags & RELU:
            sums = tile_clamp(sums, 0.0, INFINITY)
        if flags & RELU6:
            sums = tile_clamp(sums, 0.0, 6.0)
        if flags & STORE_FIRST:
            tile_store(sums, y, 0, plane)
        if flags & STORE_SECOND:
            if flags & RESIDUAL_SECOND:
                sums = tile_add(sums, y, residual, plane)
            if flags & SECOND_RELU:
                sums = tile_clamp(sums, 0.0, INFINITY)
            if flags & SECOND_RELU6:
                sums = tile_clamp(sums, 0.0, 6.0)
            tile_store(sums, y, second, plane)

    return tile


def _any_tile(most: int, blocks: int, step: int) -> Callable[..., None]:
    """The tile of as many pixels as asked for, up to `most`: every remainder has its own, there is no slow tail.

    Generated, because a chain of `if`s is all that compiled code needs: if n == 14: tile14(...) and so on down.
    """
    arguments = "x, steps, count, w, y, plane, flags, second, residual"
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
        x: Pointer,
        steps: Integers,
        count: int,
        w: Pointer,
        y: Pointer,
        plane: int,
        pixels: int,
        flags: int,
        second: int,
        residual: int,
    ) -> None:
        # As many tiles as needed, of as equal a size as possible.
        tiles = (pixels + most - 1) // most
        small = pixels // tiles
        larger = pixels - small * tiles
        for t in range(tiles):
            n = small
            if t < larger:
                n += 1
            any_tile(n, x, steps, count, w, y, plane, flags, second, residual)
            x, y = at(x, n * LANES), at(y, n * LANES)

    return panel


def _planar_panel(blocks: int) -> Callable[..., None]:
    most = MOST_PIXELS[blocks]
    large, small, single = (_tile(n, blocks, 1) for n in (most, 4, 1))

    @kernel
    def panel(
        x: Pointer,
        steps: Integers,
        count: int,
        w: Pointer,
        y: Pointer,
        plane: int,
        pixels: int,
        flags: int,
        second: int,
        residual: int,
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
                large(source, steps, count, w, target, plane, flags, second, residual)
            elif n == 4:
                small(source, steps, count, w, target, plane, flags, second, residual)
            else:
                single(source, steps, count, w, target, plane, flags, second, residual)
            first += n

    return panel


_one, _two = _panel(1), _panel(2)
_four = _tile(1, 4, LANES)
_planar_one, _planar_two = _planar_panel(1), _planar_panel(2)


@kernel
def multiply(
    x: Pointer,
    steps: Integers,
    count: int,
    depth: int,
    w: Pointer,
    y: Pointer,
    plane: int,
    pixels: int,
    blocks: int,
    flags: int,
    second: int,
    residual: int,
    single: int,
) -> None:
    """y[b][p] = sum over steps, for `blocks` output blocks and consecutive pixels. `depth` is the sum of all lanes;
    `second` and `residual` are distances from y."""
    done = 0
    while done < blocks:
        width = panel_width(blocks - done, single)
        out = at(y, done * plane)
        if width == 2:
            _two(x, steps, count, w, out, plane, pixels, flags, second, residual)
        elif width == 1:
            _one(x, steps, count, w, out, plane, pixels, flags, second, residual)
        else:
            _four(x, steps, count, w, out, plane, flags, second, residual)
        w = at(w, (depth + 1) * width * LANES)
        done += width


@kernel
def multiply_planar(
    x: Pointer,
    steps: Integers,
    count: int,
    w: Pointer,
    y: Pointer,
    plane: int,
    pixels: int,
    blocks: int,
    flags: int,
    second: int,
    residual: int,
) -> None:
    """As `multiply`, where neighbouring pixels of x are neighbouring floats: the image itself. Every step is 1 lane."""
    done = 0
    while done < blocks:
        out = at(y, done * plane)
        if blocks - done >= 2:
            _planar_two(x, steps, count, w, out, plane, pixels, flags, second, residual)
            w = at(w, (count + 1) * 2 * LANES)
            done += 2
        else:
            _planar_one(x, steps, count, w, out, plane, pixels, flags, second, residual)
            done += 1


@kernel
def pointwise(row: Integers, program: Integers, arena: Pointer, weights: Pointer) -> None:
    """Opcode POINTWISE; columns: y, plane, blocks, weights, steps, count, depth, flags, second, residual, single,
    first pixel, last pixel, group.

    A group of pixels goes through all panels before the next one, so that its inputs are read from far memory once.
    """
    steps = integers_at(program, row[5])
    first = row[12]
    while first < row[13]:
        pixels = min(row[14], row[13] - first)
        multiply(
            at(arena, first * LANES),
            steps,
            row[6],
            row[7],
            at(weights, row[4]),
            at(arena, row[1] + first * LANES),
            row[2],
            pixels,
            row[3],
            row[8],
            row[9],
            row[10],
            row[11],
        )
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
