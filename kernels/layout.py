"""Where tensors lie: buffers in the arena, blocks in buffers, channels in the lanes of blocks.

A *buffer* is a stretch of the arena that one layer writes. A *block* is LANES channels of a map, [pixels][LANES]
floats at some offset of a buffer. A *tensor* is a list of blocks and, for every lane of every block, the logical
channel that lives there, or -1. So a concatenation is a longer list and a slice a shorter one; nothing is copied,
blocks may lie in different buffers, and channels may be padded in the middle.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from .simd import LANES


# Compared by identity: two buffers of one size are two places, and buffers are keys of dictionaries.
@dataclass(eq=False, slots=True)
class Buffer:
    """A stretch of the arena.

    Attributes:
        name: the tensor it belongs to, for people.
        floats: its size.
        per_thread: whether each thread of a run has its own; true of what lives within one instruction or one band.
        offset: where it begins in the arena; -1 until memory is planned.
        first, last: the first and the last instruction that touch it.
    """

    name: str
    floats: int
    per_thread: bool = False
    offset: int = -1
    first: int = -1
    last: int = -1


class Block(NamedTuple):
    """One block of channels: [pixels][LANES] floats, `offset` floats into a buffer."""

    buffer: Buffer
    offset: int

    @property
    def address(self) -> int:
        """Offset in the arena, once memory is planned."""
        return self.buffer.offset + self.offset

    def at(self, offset: int) -> Block:
        """The block moved by `offset` floats."""
        return Block(self.buffer, self.offset + offset)


@dataclass(frozen=True)
class Tensor:
    """A feature map (C, H, W) or a vector (F,) of one image.

    Attributes:
        shape: its logical shape.
        blocks: its blocks of channels, in the order of `lanes`.
        lanes: the logical channel of every physical lane, -1 for padding; len(blocks) * LANES of them.
        relu_on_load: consumers must take max(0, x): the tensor is the ReLU of what is stored.
    """

    shape: tuple[int, ...]
    blocks: tuple[Block, ...]
    lanes: tuple[int, ...]
    relu_on_load: bool = False

    @property
    def pixels(self) -> int:
        """Number of pixels of a block."""
        return math.prod(self.shape[1:])

    def counts(self) -> tuple[int, ...]:
        """For each block, how many of its first lanes hold all of its channels."""
        return used_lanes(self.lanes)

    def sources(self) -> list[Block]:
        """For each logical channel, where its first pixel lies."""
        # Lanes need not be in the order of channels, and some hold none.
        places: list[Block | None] = [None] * self.shape[0]
        for physical, channel in enumerate(self.lanes):
            if channel >= 0:
                places[channel] = self.blocks[physical // LANES].at(physical % LANES)
        return [place for place in places if place is not None]


@lru_cache(maxsize=1024)
def used_lanes(lanes: tuple[int, ...]) -> tuple[int, ...]:
    """For each block of lanes, how many of its first ones hold all of its channels."""
    held = np.asarray(lanes).reshape(-1, LANES) >= 0
    # Products visit a block's first lanes up to the last one that holds a channel; a gap before it costs as much as a
    # channel. Cached, since every band of a stream asks again.
    used = np.where(held, np.arange(1, LANES + 1), 0)
    return tuple(int(count) for count in used.max(axis=1))


def blocks_of(channels: int) -> int:
    """Blocks that hold so many channels."""
    return -(-channels // LANES)


def dense_lanes(channels: int, block_starts: Collection[int] = ()) -> tuple[int, ...]:
    """Channels one after the other; at each of `block_starts` a new block begins, so that a slice there finds whole
    blocks."""
    lanes: list[int] = []
    # Each part between two starts is rounded up to whole blocks with lanes of padding.
    ends = sorted({b for b in block_starts if 0 < b < channels} | {channels})
    for first, end in zip([0, *ends], ends, strict=False):
        lanes += range(first, end)
        lanes += [-1] * (-len(lanes) % LANES)
    return tuple(lanes)


def allocate(name: str, shape: tuple[int, ...], lanes: Sequence[int]) -> Tensor:
    """A tensor in a buffer of its own."""
    # One buffer for all blocks, one after the other: most kernels step from block to block by a constant.
    floats, count = math.prod(shape[1:]) * LANES, len(lanes) // LANES
    buffer = Buffer(name, count * floats)
    return Tensor(shape, tuple(Block(buffer, i * floats) for i in range(count)), tuple(lanes))


def concatenate(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors one after the other along the channels."""
    lanes: list[int] = []
    first = 0
    for tensor in tensors:
        lanes += [lane + first if lane >= 0 else -1 for lane in tensor.lanes]
        first += tensor.shape[0]
    blocks = tuple(block for tensor in tensors for block in tensor.blocks)
    return Tensor((first, *tensors[0].shape[1:]), blocks, tuple(lanes))


def slice_channels(tensor: Tensor, start: int, stop: int) -> Tensor:
    """Channels start to stop: the blocks that hold any of them, other lanes ignored."""
    blocks, lanes = [], []
    for i, block in enumerate(tensor.blocks):
        kept = [
            lane - start if start <= lane < stop else -1
            for lane in tensor.lanes[i * LANES : (i + 1) * LANES]
        ]
        # A block that holds none of the channels is not read at all.
        if max(kept) >= 0:
            blocks.append(block)
            lanes += kept
    return Tensor((stop - start, *tensor.shape[1:]), tuple(blocks), tuple(lanes))


def take_cells(tensor: Tensor, width: int, start: int, stop: int) -> Tensor:
    """Of every `width` channels, which are a cell, those from `start` to `stop`; other lanes ignored."""
    kept = [c for c in range(tensor.shape[0]) if start <= c % width < stop]
    number = {channel: i for i, channel in enumerate(kept)}
    lanes = tuple(number.get(lane, -1) for lane in tensor.lanes)
    return Tensor((len(kept), *tensor.shape[1:]), tensor.blocks, lanes)


def flatten(tensor: Tensor) -> Tensor:
    """(C, H, W) as a vector: every pixel becomes a block of one pixel."""
    pixels = tensor.pixels
    blocks, lanes = [], []
    # Channels of one pixel lie side by side, so a pixel is a block of a map that has one pixel. A vector's channel
    # is counted channel by channel, as in NumPy's reshape.
    for i, block in enumerate(tensor.blocks):
        channels = tensor.lanes[i * LANES : (i + 1) * LANES]
        for p in range(pixels):
            blocks.append(block.at(p * LANES))
            lanes += [channel * pixels + p if channel >= 0 else -1 for channel in channels]
    return Tensor((tensor.shape[0] * pixels,), tuple(blocks), tuple(lanes))


def runs(pixels: int, *lists: Sequence[Block]) -> list[tuple[int, int]]:
    """(first, last) of stretches of blocks that lie directly after each other in every one of the lists."""
    found: list[tuple[int, int]] = []
    first = 0
    for i in range(1, len(lists[0]) + 1):
        # All lists at once, since one instruction steps through all of its tensors together.
        joined = i < len(lists[0]) and all(
            blocks[i].buffer is blocks[i - 1].buffer
            and blocks[i].offset == blocks[i - 1].offset + pixels * LANES
            for blocks in lists
        )
        if not joined:
            found.append((first, i))
            first = i
    return found


def buffers_of(*lists: Sequence[Block]) -> tuple[Buffer, ...]:
    """The buffers that blocks lie in, each once."""
    # A dictionary rather than a set: plans must come out the same in every process, in the order of the buffers too.
    found: dict[Buffer, None] = {}
    for blocks in lists:
        for block in blocks:
            found[block.buffer] = None
    return tuple(found)
