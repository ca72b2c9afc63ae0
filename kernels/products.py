"""What a convolution needs to know to write its row: windows, results, and weights in the order of lanes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from refnet.graph import Node

from . import layout
from .fusion import Epilogue
from .layout import Plane, Tensor, Value
from .simd import LANES
from .steps import values_of

if TYPE_CHECKING:
    from .convolutions import Convolutions

#: Floats of inputs that a group of pixels, or a band of rows, may fill: it shall stay in the second-level cache.
CACHE = 1 << 16
PLANAR_CHANNELS = 4


class Window:
    """Sizes of a dense window, and where its taps lie in scratch."""

    def __init__(self, node: Node, shape: tuple[int, ...], made: tuple[int, ...]) -> None:
        a = node.attributes
        self.taps: tuple[int, int] = a["kernel"]
        self.stride: int = a["stride"][0]
        self.padding: tuple[int, int] = a["padding"]
        _, self.rows, self.in_columns = shape
        _, self.out_rows, self.out_columns = made
        image = len(shape) == 3 and shape[0] <= PLANAR_CHANNELS
        self.copies = image or self.stride > 1 or self.padding != (0, 0)
        self.phase = -(-(self.in_columns + 2 * self.padding[1]) // self.stride)
        #: Pixels between a row and the next one.
        self.pitch = self.stride * self.phase if self.copies else self.in_columns

    def __str__(self) -> str:
        return f"{self.taps[0]}x{self.taps[1]}/{self.stride}"

    def band_rows(self, band: int) -> int:
        """Input rows that `band` output rows read."""
        return (band - 1) * self.stride + self.taps[0]

    def band(self, floats: int) -> int:
        """Output rows of a band whose inputs, `floats` a pixel, fit the cache."""
        most = CACHE // (floats * self.pitch)
        return int(min(max((most - self.taps[0]) // self.stride + 1, 1), self.out_rows))

    def offsets(self, scale: int) -> list[int]:
        """Distance of each tap from the first one, `scale` floats being one pixel."""
        phases = self.stride if self.copies else 1
        return [
            (i * self.pitch + (j % phases) * self.phase + j // phases) * scale
            for i in range(self.taps[0])
            for j in range(self.taps[1])
        ]

    def columns(self) -> list[int]:
        """The columns ROWS to COPY of a DENSE row."""
        head = [self.rows, self.in_columns, self.stride, *self.padding]
        return [*head, self.taps[0], self.phase, self.out_columns, int(self.copies)]


class Results:
    """What a layer stores, and the columns of its row that say where; `pitch` pixels from plane to plane."""

    def __init__(
        self,
        lanes: tuple[int, ...],
        flags: int,
        first: Tensor | None,
        second: Tensor | None,
        residual: Tensor | None,
        pitch: int,
    ) -> None:
        self.lanes, self.flags, self.pitch = lanes, flags, pitch
        self.first, self.second, self.residual = first, second, residual

    @property
    def main(self) -> Tensor:
        made = self.first if self.first is not None else self.second
        assert made is not None
        return made

    def runs(self) -> list[tuple[int, int]]:
        """Stretches of output planes whose residual planes lie behind each other."""
        lists = [t.planes for t in (self.main, self.residual) if t is not None]
        return layout.runs(self.pitch, *lists)

    def contiguous(self, lowering: Convolutions) -> Results:
        """The same, with a residual in one stretch: moved together if it is not."""
        if self.residual is not None and len(self.runs()) > 1:
            self.residual = lowering.moved(self.residual, self.lanes, "residual")
        return self

    def head(self, opcode: int, first: int, last: int, packed: int, single: int) -> list[int]:
        """Columns 0 to 11, those of the steps still empty."""
        y = self.main.planes[first].address
        second = self.second.planes[first].address - y if self.second is not None else 0
        residual = self.residual.planes[first].address - y if self.residual is not None else 0
        return [
            *(opcode, y, self.pitch * LANES, last - first, packed),
            *(0, 0, 0, self.flags, second, residual, single),
        ]

    def reads(self, first: int, last: int) -> tuple[Value, ...]:
        return values_of(self.residual.planes[first:last]) if self.residual is not None else ()

    def writes(self) -> tuple[Value, ...]:
        return values_of(*(t.planes for t in (self.first, self.second) if t is not None))

    def in_place(self, *inputs: Tensor) -> tuple[Value, Value] | None:
        """(residual, result) that may share memory: each pixel of the one is read just before the other is written.

        Not where the layer reads the residual as its input as well, and only where both are whole values."""
        if self.residual is None or (self.second is not None and self.first is not None):
            return None
        (old, *more), (new, *_) = values_of(self.residual.planes), values_of(self.main.planes)
        whole = [Plane(old, plane.offset) for plane in self.main.planes] == list(
            self.residual.planes
        )
        if (
            more
            or not whole
            or old.floats != new.floats
            or old in values_of(*(t.planes for t in inputs))
        ):
            return None
        return old, new


def fusion_note(epilogue: Epilogue) -> str:
    """What a layer is fused with, for people."""
    parts = []
    if epilogue.residual and epilogue.residual_first:
        parts.append(f"+ {epilogue.residual}")
    if epilogue.activation:
        parts.append(epilogue.activation)
    if epilogue.second:
        added = (
            f"+ {epilogue.residual} " if epilogue.residual and not epilogue.residual_first else ""
        )
        parts.append(f"and {added}{epilogue.second_activation}".rstrip())
    return "".join(f", {part}" for part in parts)


def input_rows(source: Tensor, channels: NDArray[Any]) -> NDArray[Any]:
    """Rows of `channels` (C, O) in the order in which steps visit the source's lanes; zeros for padding."""
    order = [
        lane
        for i, n in enumerate(source.counts())
        for lane in source.lanes[i * LANES : i * LANES + n]
    ]
    index = np.array(order)
    return np.where(index[:, None] >= 0, channels[np.maximum(index, 0)], 0.0)


def by_lane(bias: NDArray[Any], lanes: Sequence[int]) -> NDArray[np.float32]:
    index = np.array(lanes)
    return np.where(index >= 0, bias[np.maximum(index, 0)], 0.0).astype(np.float32)
