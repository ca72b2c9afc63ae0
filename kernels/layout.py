"""Where tensors lie: values in the arena, planes in values, channels in the lanes of planes.

A *value* is a stretch of the arena that one layer writes. A *plane* is one block of LANES channels of a map:
[pixels][LANES] floats at some offset of a value. A *tensor* is a list of planes and, for every lane of every plane,
the logical channel that lives there, or -1. So a concatenation is a longer list and a slice a shorter one; nothing is
copied, planes may lie in different values, and channels may be padded in the middle.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from .simd import LANES


@dataclass(eq=False)
class Value:
    """A stretch of the arena.

    Attributes:
        name: the tensor it belongs to, for people.
        floats: its size.
        offset: where it begins in the arena; -1 until memory is planned.
        private: whether each thread of a run has its own; true of what lives within one step or one band.
        first, last: the first and the last step that touch it.
    """

    name: str
    floats: int
    private: bool = False
    offset: int = -1
    first: int = -1
    last: int = -1


@dataclass(frozen=True)
class Plane:
    """One block of channels: [pixels][LANES] floats, `offset` floats into a value."""

    value: Value
    offset: int

    @property
    def address(self) -> int:
        """Offset in the arena, once memory is planned."""
        return self.value.offset + self.offset


@dataclass(frozen=True)
class Tensor:
    """A feature map (C, H, W) or a vector (F,) of one image.

    Attributes:
        shape: its logical shape.
        planes: its blocks of channels, in the order of `lanes`.
        lanes: the logical channel of every physical lane, -1 for padding; len(planes) * LANES of them.
        rectify: readers must take max(0, x): the tensor is the ReLU of what is stored.
    """

    shape: tuple[int, ...]
    planes: tuple[Plane, ...]
    lanes: tuple[int, ...]
    rectify: bool = False

    @property
    def pixels(self) -> int:
        """Number of pixels of a plane."""
        return math.prod(self.shape[1:])

    def counts(self) -> list[int]:
        """For each plane, how many of its first lanes hold all of its channels."""
        lanes = np.asarray(self.lanes).reshape(-1, LANES) >= 0
        used = np.where(lanes, np.arange(1, LANES + 1), 0)
        return [int(count) for count in used.max(axis=1)]

    def sources(self) -> list[tuple[Plane, int]]:
        """For each logical channel, its plane and lane."""
        places: list[tuple[Plane, int] | None] = [None] * self.shape[0]
        for physical, channel in enumerate(self.lanes):
            if channel >= 0:
                places[channel] = (self.planes[physical // LANES], physical % LANES)
        return [place for place in places if place is not None]


def dense_lanes(channels: int, breaks: Iterable[int] = ()) -> tuple[int, ...]:
    """Channels one after the other; at every break a new plane begins, so that a slice there finds whole planes."""
    lanes: list[int] = []
    ends = sorted({b for b in breaks if 0 < b < channels} | {channels})
    for first, end in zip([0, *ends], ends, strict=False):
        lanes += range(first, end)
        lanes += [-1] * (-len(lanes) % LANES)
    return tuple(lanes)


def allocate(name: str, shape: tuple[int, ...], lanes: Sequence[int]) -> Tensor:
    """A tensor in a value of its own."""
    plane = math.prod(shape[1:]) * LANES
    value = Value(name, len(lanes) // LANES * plane)
    planes = tuple(Plane(value, i * plane) for i in range(len(lanes) // LANES))
    return Tensor(shape, planes, tuple(lanes))


def concatenate(tensors: Sequence[Tensor]) -> Tensor:
    """Tensors one behind the other along the channels."""
    lanes: list[int] = []
    first = 0
    for tensor in tensors:
        lanes += [lane + first if lane >= 0 else -1 for lane in tensor.lanes]
        first += tensor.shape[0]
    planes = tuple(plane for tensor in tensors for plane in tensor.planes)
    return Tensor((first, *tensors[0].shape[1:]), planes, tuple(lanes))


def slice_channels(tensor: Tensor, start: int, stop: int) -> Tensor:
    """Channels start to stop: the planes that hold any of them, other lanes ignored."""
    planes, lanes = [], []
    for i, plane in enumerate(tensor.planes):
        kept = [
            lane - start if start <= lane < stop else -1
            for lane in tensor.lanes[i * LANES : (i + 1) * LANES]
        ]
        if max(kept) >= 0:
            planes.append(plane)
            lanes += kept
    return Tensor((stop - start, *tensor.shape[1:]), tuple(planes), tuple(lanes))


def flatten(tensor: Tensor) -> Tensor:
    """(C, H, W) as a vector: every pixel becomes a plane of one pixel."""
    pixels = tensor.pixels
    planes, lanes = [], []
    for i, plane in enumerate(tensor.planes):
        block = tensor.lanes[i * LANES : (i + 1) * LANES]
        for p in range(pixels):
            planes.append(Plane(plane.value, plane.offset + p * LANES))
            lanes += [lane * pixels + p if lane >= 0 else -1 for lane in block]
    return Tensor((tensor.shape[0] * pixels,), tuple(planes), tuple(lanes))


def runs(pixels: int, *lists: Sequence[Plane]) -> list[tuple[int, int]]:
    """(first, last) of stretches of planes that lie directly behind each other in every one of the lists."""
    found: list[tuple[int, int]] = []
    first = 0
    for i in range(1, len(lists[0]) + 1):
        joined = i < len(lists[0]) and all(
            planes[i].value is planes[i - 1].value
            and planes[i].offset == planes[i - 1].offset + pixels * LANES
            for planes in lists
        )
        if not joined:
            found.append((first, i))
            first = i
    return found


@dataclass
class Blob:
    """All packed weights of a plan, one array behind the other, each at the start of a cache line."""

    parts: list[np.ndarray[tuple[int], np.dtype[np.float32]]] = field(default_factory=list)
    size: int = 0

    def add(self, array: np.ndarray[tuple[int], np.dtype[np.float32]]) -> int:
        """Append; return the offset in floats."""
        offset = self.size
        padded = np.concatenate([array, np.zeros(-len(array) % 16, np.float32)])
        self.parts.append(padded)
        self.size += len(padded)
        return offset

    def array(self) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
        """All of it."""
        return np.concatenate(self.parts)
