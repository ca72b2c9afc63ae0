"""Weights in the order in which kernels read them, packed once for a network and shared by the plans of all sizes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .layout import used_lanes
from .simd import LANES

#: Floats of a cache line, where every packed array begins.
ALIGNMENT = 16


def aligned(floats: int) -> NDArray[np.float32]:
    """Uninitialised float32 memory that begins at a cache line."""
    buffer = np.empty((floats + ALIGNMENT) * 4, np.uint8)
    start = -buffer.ctypes.data % (ALIGNMENT * 4)
    return buffer[start : start + floats * 4].view(np.float32)


class PackedWeights:
    """All packed weights of a network, one array after the other in one stretch of memory.

    A plan refers to them by offsets from the start, so its memory must not move while it can run. Memory for
    `expected` floats is reserved at once: pages that are never written cost nothing. If that does not suffice, what
    comes next goes into a larger copy; plans that exist keep the memory that they were made with.
    """

    def __init__(self, expected: int = 1 << 16) -> None:
        self._memory = aligned(expected)
        self._used = 0
        self._offsets: dict[Hashable, int] = {}

    def get(self, key: Hashable, make: Callable[[], NDArray[np.float32]]) -> int:
        """The offset in floats of the array of that key, made and added if it is not there yet.

        The key must name everything that the array depends on: the layer, the algorithm, and the lanes that its
        output and input channels lie in.
        """
        offset = self._offsets.get(key)
        if offset is None:
            offset = self._offsets[key] = self._add(make())
        return offset

    def _add(self, array: NDArray[np.float32]) -> int:
        offset, end = self._used, self._used + len(array)
        self._used = -(-end // ALIGNMENT) * ALIGNMENT
        if self._used > len(self._memory):
            # `view` gave plans the old memory, which they keep alive and which stays as it is.
            larger = aligned(2 * self._used)
            larger[:offset] = self._memory[:offset]
            self._memory = larger
        self._memory[offset:end] = array
        # The rest of the cache line: memory from `np.empty` may hold anything, and `view` shows it.
        self._memory[end : self._used] = 0.0
        return offset

    def view(self) -> NDArray[np.float32]:
        """What has been packed so far, read-only."""
        packed = self._memory[: self._used]
        packed.flags.writeable = False
        return packed


def input_rows(lanes: tuple[int, ...], channels: NDArray[Any]) -> NDArray[Any]:
    """Rows of `channels` (C, O) in the order in which segments visit the lanes of an input; zeros for padding."""
    # Kernels visit a block's first lanes up to the last one that holds a channel; -1 among them are gaps.
    order = [
        lane for i, n in enumerate(used_lanes(lanes)) for lane in lanes[i * LANES : i * LANES + n]
    ]
    index = np.array(order)
    return np.where(index[:, None] >= 0, channels[np.maximum(index, 0)], 0.0)


def by_lane(values: NDArray[Any], lanes: Sequence[int]) -> NDArray[np.float32]:
    """The value of the channel that lives in each lane; zero for padding."""
    index = np.array(lanes)
    return np.where(index >= 0, values[np.maximum(index, 0)], 0.0).astype(np.float32)


def channel_limits(lanes: Sequence[int]) -> NDArray[np.float32]:
    """Infinity for lanes that hold a channel, minus infinity for all others."""
    return np.where(np.asarray(lanes) >= 0, np.inf, -np.inf).astype(np.float32)
