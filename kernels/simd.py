"""Explicit SIMD: what a kernel may do to vectors, and what each operation means.

A *vector* is `LANES` float32 values in one register; a *tile* is `pixels x blocks` vectors that stay in registers
while a reduction runs. Every function below is its own definition in NumPy: a kernel is plain Python and can be run
as such, slowly, with a `Pointer` being a one-dimensional array that starts where the pointer points. When kernels are
compiled, `simd_llvm.py` replaces each call by LLVM's own vector instructions, without bounds checks: the plan has
proved every offset before.

The lane count is one constant, chosen at import: 16 with AVX-512, 8 with AVX, else 4. `REFNET_LANES` overrides it.
"""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from . import host

Pointer: TypeAlias = NDArray[np.float32]
Integers: TypeAlias = NDArray[np.int64]
Vector: TypeAlias = NDArray[np.float32]
Tile: TypeAlias = NDArray[np.float32]
F = TypeVar("F", bound=Callable[..., Any])

#: Every function that compiled code may call, in the order of definition: callees come before their callers.
KERNELS: list[Callable[..., Any]] = []


def kernel(function: F) -> F:
    """Mark a function as compiled code. It stays plain Python until `machine_code.entry` compiles all of them."""
    KERNELS.append(function)
    return function


def _host_lanes() -> int:
    chosen = os.environ.get("REFNET_LANES", "")
    if chosen:
        if chosen not in ("4", "8", "16"):
            raise ValueError(
                f"REFNET_LANES is {chosen!r}; expected 4, 8 or 16, or unset for the host's width"
            )
        return int(chosen)
    if host.features() >= {"avx512f", "avx512vl"}:
        return 16
    # A wider vector than the registers would run too, as two or four registers, but registers would not suffice.
    return 8 if "avx" in host.features() else 4


LANES: int = _host_lanes()
# AVX-512 and NEON have 32, AVX and SSE 16.
#: Vector registers that a tile of this width may plan with.
REGISTERS: int = 32 if LANES == 16 or platform.machine().lower() in ("arm64", "aarch64") else 16
#: The length of memory of which only the address is known.
_ENDLESS = 1 << 40


def floats_of(address: int) -> Pointer:
    """The pointer to the floats at an address."""
    return np.ctypeslib.as_array((ctypes.c_float * _ENDLESS).from_address(int(address)))


def integers_of(address: int) -> Integers:
    """The pointer to the integers at an address."""
    return np.ctypeslib.as_array((ctypes.c_int64 * _ENDLESS).from_address(int(address)))


def at(pointer: Pointer, offset: int) -> Pointer:
    """The pointer moved by `offset` floats."""
    return pointer[offset:]


def integers_at(pointer: Integers, offset: int) -> Integers:
    """The pointer moved by `offset` integers."""
    return pointer[offset:]


def prefetch(source: Pointer, offset: int) -> None:
    """Ask for the cache line of source[offset], which is read soon. A hint only: it may lie anywhere."""


def load(source: Pointer, offset: int) -> Vector:
    """source[offset : offset + LANES] as one vector."""
    return source[offset : offset + LANES].copy()


def store(target: Pointer, offset: int, vector: Vector) -> None:
    """target[offset : offset + LANES] = vector."""
    target[offset : offset + LANES] = vector


def broadcast(source: Pointer, offset: int) -> Vector:
    """LANES copies of source[offset]."""
    return np.full(LANES, source[offset], np.float32)


def splat(scalar: float) -> Vector:
    """LANES copies of a scalar, rounded to float32."""
    return np.full(LANES, scalar, np.float32)


def fma(a: Vector, b: Vector, c: Vector) -> Vector:
    """a * b + c, rounded once."""
    # Products of float32 are exact in float64. Their sum is rounded twice, which differs from once in rare ties only.
    return (a.astype(np.float64) * b + c).astype(np.float32)


def add(a: Vector, b: Vector) -> Vector:
    """a + b."""
    return a + b


def sub(a: Vector, b: Vector) -> Vector:
    """a - b."""
    return a - b


def mul(a: Vector, b: Vector) -> Vector:
    """a * b."""
    return a * b


def div(a: Vector, b: Vector) -> Vector:
    """a / b."""
    return a / b


def maximum(bound: Vector, a: Vector) -> Vector:
    """The larger of the two; a NaN in `a` stays NaN, as in PyTorch's ReLU."""
    # In this order, comparison and selection are one instruction on x86: MAXPS returns its second operand for NaN.
    return np.where(bound > a, bound, a)


def minimum(bound: Vector, a: Vector) -> Vector:
    """The smaller of the two; a NaN in `a` stays NaN."""
    return np.where(bound < a, bound, a)


def evens(a: Vector, b: Vector) -> Vector:
    """Elements 0, 2, 4, ... of the two vectors, one after the other."""
    return np.concatenate([a, b])[::2]


def largest(a: Vector) -> Vector:
    """LANES copies of the largest element, by halves: lane i meets lane i xor LANES / 2, then LANES / 4, ..."""
    for distance in halves():
        a = maximum(a, a[np.arange(LANES) ^ distance])
    return a


def total(a: Vector) -> Vector:
    """LANES copies of the sum of all elements, by halves as in `largest`: the order is always the same."""
    # Halves are what a shuffle can exchange; a sum from left to right would be LANES dependent additions.
    for distance in halves():
        a = a + a[np.arange(LANES) ^ distance]
    return a


def any_nan(a: Vector) -> int:
    """1 where an element is NaN, else 0."""
    return int(np.isnan(a).any())


def halves() -> list[int]:
    """LANES / 2, LANES / 4, ..., 1."""
    return [LANES >> i for i in range(1, LANES.bit_length())]


def power_of_two(a: Vector) -> Vector:
    """2 ** a for integral a in -126..127, and 0 for -127: the integer goes straight into the exponent's bits."""
    return ((a.astype(np.int32) + 127) << 23).view(np.float32)


def tile_bias(pixels: int, blocks: int, bias: Pointer, offset: int) -> Tile:
    """A tile whose every pixel holds the `blocks` vectors at bias[offset:]."""
    rows = bias[offset : offset + blocks * LANES].reshape(1, blocks, LANES)
    return np.repeat(rows, pixels, axis=0)


def tile_fma(
    tile: Tile, x: Pointer, offset: int, pixel_pitch: int, w: Pointer, w_offset: int
) -> Tile:
    """tile[p, b] + x[offset + p * pixel_pitch] * w[w_offset + b * LANES :]: one input channel's share of every output."""
    # As in `fma`: one rounding but for rare ties, as the hardware's instruction has it.
    pixels, blocks, _ = tile.shape
    scalars = x[offset : offset + (pixels - 1) * pixel_pitch + 1 : pixel_pitch].astype(np.float64)
    rows = w[w_offset : w_offset + blocks * LANES].reshape(1, blocks, LANES)
    return (scalars[:, None, None] * rows + tile).astype(np.float32)


def tile_window(
    tile: Tile,
    rows: int,
    x: Pointer,
    offset: int,
    pitch: int,
    phase: int,
    w: Pointer,
    w_offset: int,
) -> Tile:
    """tile[r * P + p, b] + the nine taps of pixel p of row r, of one input channel, under a 3x3 window of stride 2.

    x[offset + row * pitch :] are the even columns of a row of the input, and `phase` floats further its odd ones;
    w[w_offset + (3 * i + j) * B * LANES :] are the B vectors of the tap in row i and column j of the window.
    """
    pixels, blocks = tile.shape[0] // rows, tile.shape[1]
    for i, j in np.ndindex(3, 3):
        taps = [
            x[offset + (2 * r + i) * pitch + j % 2 * phase + j // 2 + p]
            for r, p in np.ndindex(rows, pixels)
        ]
        first = w_offset + (3 * i + j) * blocks * LANES
        tile = tile_fma(tile, np.array(taps, np.float32), 0, 1, w, first)
    return tile


def tile_part(tile: Tile, first: int, pixels: int) -> Tile:
    """Pixels `first` to `first + pixels` of a tile."""
    return tile[first : first + pixels]


def tile_clamp(tile: Tile, low: float, high: float) -> Tile:
    """Every element limited to low..high: ReLU with high = infinity, ReLU6 with high = 6."""
    low32, high32 = np.float32(low), np.float32(high)
    bounded: Tile = np.where(low32 > tile, low32, tile)
    return np.where(high32 < bounded, high32, bounded)


def tile_leak(tile: Tile, slopes: Pointer) -> Tile:
    """tile[p, b] where it is positive, slopes[b * LANES :] times it elsewhere."""
    zero, blocks = np.float32(0), tile.shape[1]
    rows = slopes[0 : blocks * LANES].reshape(1, blocks, LANES)
    leaking: Tile = rows * np.where(zero < tile, zero, tile) + np.where(zero > tile, zero, tile)
    return leaking


def tile_add(tile: Tile, source: Pointer, offset: int, pitch: int) -> Tile:
    """tile[p, b] + source[offset + b * pitch + p * LANES :]."""
    added = tile.copy()
    for pixel, block in np.ndindex(tile.shape[:2]):
        added[pixel, block] += load(source, offset + block * pitch + pixel * LANES)
    return added


def tile_store(tile: Tile, target: Pointer, offset: int, pitch: int) -> None:
    """target[offset + b * pitch + p * LANES :] = tile[p, b]."""
    for pixel, block in np.ndindex(tile.shape[:2]):
        store(target, offset + block * pitch + pixel * LANES, tile[pixel, block])
