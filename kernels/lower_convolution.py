"""From a convolution or linear layer to instructions, once its algorithm is chosen (`algorithm.py`).

A layer is *prepared* once: its weights are packed for the lanes of its input and its results. Then it is emitted, whole
or in bands, from and to the whole tensors or bands of them.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from refnet.graph import Node

from . import depthwise as depthwise_kernel
from . import layout
from .algorithm import PLANAR_CHANNELS, WAYS
from .assembler import Distance, Operand
from .emitter import Emitter
from .fusion import Epilogue
from .instructions import (
    BIAS,
    BLOCK_PITCH,
    BLOCKS,
    COLUMNS,
    CONSTANTS,
    COPY,
    DENSE,
    DEPTH,
    DEPTHWISE,
    DEPTHWISE_WINDOW,
    DILATION,
    DILATION_COLUMNS,
    FIRST,
    FLAGS,
    GROUP,
    INPUT_BLOCKS,
    INPUT_PITCH,
    INPUTS,
    KERNEL_COLUMNS,
    KERNEL_ROWS,
    LAST,
    LEFT,
    OUT_COLUMNS,
    PHASE,
    PLANAR,
    POINTWISE,
    PRODUCT,
    RELU_ON_LOAD,
    RESIDUAL,
    ROWS,
    SCRATCH,
    SECOND,
    SEGMENT_COUNT,
    SEGMENTS,
    SIDE,
    SINGLE,
    STRIDE,
    STRIDE_COLUMNS,
    TOP,
    WEIGHTS,
    WINOGRAD,
    ZEROS,
    X,
    Y,
)
from .layout import Block, Buffer, Tensor, buffers_of
from .packing import by_lane, input_rows
from .register_tile import pack
from .simd import LANES
from .winograd import product, transform_kernel

# 256 KiB: a quarter of the second-level cache of a Zen 5 core. Weights and results pass through the rest of it.
#: Floats of inputs that a group of pixels, or of rows, may fill, so that it stays in the second-level cache.
CACHE = 1 << 16
# With 64 input and 64 output channels, 28 patches of 36 points are 504 KiB, 14 of 64 points 448 KiB. With 28 patches,
# side 6 would cost LFFD 2 % (Zen 5, 2026-11-22).
#: {side: patches of a group}: whole tiles, whose transforms stay in the second-level cache.
WINOGRAD_GROUP = {4: 28, 6: 14}
# So only the last group of a layer has tiles of fewer than 14 pixels.
#: Pixels of a group are a multiple of this: four of the largest tiles.
GROUP_PIXELS = 56


@dataclass
class Destination:
    """Where a layer stores its results, and what it adds to them.

    Attributes:
        lanes: the logical output channel of every physical lane.
        flags: of `epilogue.py`.
        first, second: what is stored; one of them may be absent.
        residual: what is added, in the same lanes.
        pixels: from one block of the results to the next.
    """

    lanes: tuple[int, ...]
    flags: int
    first: Tensor | None
    second: Tensor | None
    residual: Tensor | None
    pixels: int

    @property
    def main(self) -> Tensor:
        """The result that the field Y points to."""
        # A second result is found by its distance from the first one; alone, it takes the first one's place.
        result = self.first if self.first is not None else self.second
        assert result is not None
        return result

    def runs(self) -> list[tuple[int, int]]:
        """Stretches of output blocks whose residual blocks are neighbours."""
        if self.residual is None:
            return [(0, len(self.main.blocks))]
        return layout.runs(self.pixels, self.main.blocks, self.residual.blocks)

    def operands(self, first: int, last: int) -> dict[int, Operand]:
        """What an instruction says about its results, output blocks first to last."""
        y = self.main.blocks[first]
        operands: dict[int, Operand] = {
            Y: y,
            BLOCKS: last - first,
            BLOCK_PITCH: self.pixels * LANES,
            FLAGS: self.flags,
        }
        # Kernels add these distances to the place of a result, block by block: all three tensors have one layout.
        if self.first is not None and self.second is not None:
            operands[SECOND] = Distance(self.second.blocks[first], y)
        if self.residual is not None:
            operands[RESIDUAL] = Distance(self.residual.blocks[first], y)
        return operands

    def reads(self, first: int = 0, last: int | None = None) -> tuple[Block, ...]:
        """Blocks of the residual."""
        return self.residual.blocks[first:last] if self.residual is not None else ()

    def writes(self) -> list[Block]:
        """All blocks of the results."""
        tensors = (t for t in (self.first, self.second) if t is not None)
        return [block for tensor in tensors for block in tensor.blocks]

    def in_place(self, source: Tensor) -> tuple[Buffer, Buffer] | None:
        """(residual, result) that may share memory: each pixel of the one is read just before the other is written.

        Not where the layer reads the residual as its input as well, and only where both are whole buffers."""
        if self.residual is None or (self.second is not None and self.first is not None):
            return None
        # Block for block at equal offsets, or a result would be stored over a residual that is still needed.
        (old, *more), (new, *_) = buffers_of(self.residual.blocks), buffers_of(self.main.blocks)
        whole = tuple(Block(old, block.offset) for block in self.main.blocks)
        if more or whole != self.residual.blocks or old.floats != new.floats:
            return None
        return None if old in buffers_of(source.blocks) else (old, new)


class Prepared(Protocol):
    """A layer with packed weights. `extent` is what it can be cut into: pixels, patches or output rows."""

    extent: int

    def emit(self, source: Tensor, destination: Destination, start: int, stop: int) -> None:
        """Emit the layer for start to stop of its extent."""


def destination(
    emitter: Emitter, node: Node, epilogue: Epilogue, source: Tensor | None = None
) -> Destination:
    """Allocate what the layer makes, in the layout that its consumers want, or in that of a `source` whose channels stay
    in their lanes, and find its residual."""
    shape = emitter.shapes[node.name]
    # A second result shares the lanes of the first one, so both sides' wishes count.
    starts = frozenset().union(*(emitter.block_starts.get(name, ()) for name in epilogue.names))
    lanes = layout.dense_lanes(shape[0], starts)
    residual = None
    if epilogue.residual is not None:
        residual = emitter.stored(epilogue.residual)
        lanes = residual.lanes  # it is there already: taking its layout saves moving it
    if source is not None:
        lanes = source.lanes
        if residual is not None and epilogue.residual is not None:
            residual = emitter.in_lanes(residual, lanes, epilogue.residual)
    # Allocated here, before the layer is emitted: fused tensors get buffers by the names that their consumers know.
    made = {name: emitter.allocate(name, shape, lanes) for name in epilogue.names}
    first = made[epilogue.first] if epilogue.first is not None else None
    second = made[epilogue.second] if epilogue.second is not None else None
    return Destination(lanes, epilogue.flags, first, second, residual, math.prod(shape[1:]))


def lower_whole(emitter: Emitter, node: Node) -> None:
    """Emit a layer as a whole."""
    name = emitter.algorithms[node.name].name
    epilogue, taken = emitter.fusion.epilogues[node.name], node.inputs[0]
    if name == "planar":
        source = image_of(emitter, node)
    elif name == "winograd" and taken in emitter.tensors and emitter.tensors[taken].blocks:
        source = emitter.tensors[taken]  # its ReLU, if it has one, is applied on loading
    else:
        source = emitter.stored(taken)
    # A depthwise layer cannot move a channel to another lane, so its results take the layout of its input.
    by_channel = name in ("depthwise", "depthwise_window")
    target = destination(emitter, node, epilogue, source if by_channel else None)
    if (
        not by_channel
        and name != "pointwise"
        and target.residual is not None
        and len(target.runs()) > 1
    ):
        # One instruction makes all output blocks, so it needs one distance to all of the residual.
        target.residual = emitter.gathered(target.residual, target.lanes, "residual")
    prepared = ALGORITHMS[name](emitter, node, source, target.lanes)
    prepared.emit(source, target, 0, prepared.extent)


def image_of(emitter: Emitter, node: Node) -> Tensor:
    """The caller's image, which lies in no arena."""
    return Tensor(emitter.shapes[node.inputs[0]], (), ())


# -------------------------------------------------------------------------------------- products


class Pointwise:
    """A 1x1 convolution or a linear layer, by pixels."""

    def __init__(
        self, emitter: Emitter, node: Node, source: Tensor, lanes: tuple[int, ...]
    ) -> None:
        self.emitter, self.node, self.lanes = emitter, node, lanes
        self.extent = source.pixels
        self.in_lanes, self.counts = source.lanes, source.counts()
        # Panels of four blocks for one pixel, of two else: it decides how weights are packed, hence it is in the key.
        self.single = int(source.pixels == 1)
        self.epilogue = emitter.fusion.epilogues[node.name].note
        # An input of padding lanes only has a depth of 0.
        depth = sum(self.counts)
        self.note = f"{max(depth, 1)} -> {emitter.shapes[node.name][0]} channels"
        #: Fields that all bands share, and {(first, last output block): offset of their weights}.
        self._fields: dict[int, Operand] = {
            SEGMENT_COUNT: len(self.counts),
            DEPTH: depth,
            SINGLE: self.single,
            GROUP: max(CACHE // max(depth, 1) // GROUP_PIXELS, 1) * GROUP_PIXELS,
        }
        self._offsets: dict[tuple[int, int], int] = {}

    def emit(self, source: Tensor, destination: Destination, start: int, stop: int) -> None:
        """One instruction for each stretch of output blocks whose residual lies together."""
        places = zip(source.blocks, self.counts, strict=True)
        segments: tuple[Operand, ...] = tuple(itertools.chain.from_iterable(places))
        note = f"{self.note}, pixels {start} to {stop}{self.epilogue}"
        for first, last in destination.runs():
            self.emitter.emit(
                POINTWISE,
                self.node.name,
                note,
                {
                    **self._fields,
                    **destination.operands(first, last),
                    SEGMENTS: segments,
                    FIRST: start,
                    LAST: stop,
                    WEIGHTS: self._packed(first, last),
                },
                [*source.blocks, *destination.reads(first, last)],
                # Of all blocks, also of those that another stretch makes: lifetimes are of whole buffers.
                destination.writes(),
                in_place=destination.in_place(source),
            )

    def _packed(self, first: int, last: int) -> int:
        """The offset of the weights of output blocks first to last."""
        if (first, last) not in self._offsets:
            self._offsets[first, last] = self._pack(first, last)
        return self._offsets[first, last]

    def _pack(self, first: int, last: int) -> int:
        part = self.lanes[first * LANES : last * LANES]

        def make() -> NDArray[np.float32]:
            weight, bias = self.emitter.parameters(self.node)
            # (O, C, 1, 1) or (O, C) to one row for each lane that the segments visit.
            rows = input_rows(self.in_lanes, weight.reshape(len(weight), -1).T)
            return pack(rows, bias, part, self.single, self.emitter.slopes(self.node))

        of = (part, self.in_lanes, self.single)
        return self.emitter.packed_with(self.node, "pointwise", *of, pack=make)


class ConvGeometry:
    """Sizes of a dense window, and where its taps lie in the copied rows.

    Attributes:
        taps: rows and columns of the window.
        dilation: from one of them to the next.
        span: rows that a window covers.
        stride, padding: of the convolution; padding is (rows, columns).
        rows, columns: of the input; out_rows, out_columns: of the result.
        copies: whether input rows are copied, with their padding, before they are read.
        phase: columns of the copy that a stride puts side by side.
        pitch: pixels from a row to the next one.
    """

    def __init__(self, node: Node, shape: tuple[int, ...], made: tuple[int, ...]) -> None:
        a = node.attributes
        self.taps: tuple[int, int] = a["kernel"]
        self.stride: int = a["stride"][0]
        self.padding: tuple[int, int] = a["padding"]
        self.dilation: tuple[int, int] = a["dilation"]
        self.span = (self.taps[0] - 1) * self.dilation[0] + 1
        channels, self.rows, self.columns = shape
        _, self.out_rows, self.out_columns = made
        # The image is always copied: its rows are planes, and they are normalised on the way.
        image = channels <= PLANAR_CHANNELS
        self.copies = image or self.stride > 1 or self.padding != (0, 0)
        # A stride of 2 reads every other column: even and odd ones are kept apart, so that neighbours stay neighbours.
        self.phase = -(-(self.columns + 2 * self.padding[1]) // self.stride)
        self.pitch = self.stride * self.phase if self.copies else self.columns
        #: {(lanes of each block, floats of a block): segments}, which all bands of a size share.
        self._copied: dict[tuple[tuple[int, ...], int], tuple[int, ...]] = {}

    def __str__(self) -> str:
        dilated = f" dilated {self.dilation}" if self.dilation != (1, 1) else ""
        return f"{self.taps[0]}x{self.taps[1]}/{self.stride}{dilated}"

    def input_rows(self, group: int) -> int:
        """Input rows that `group` output rows read."""
        return int((group - 1) * self.stride + self.span)

    def group(self, floats: int) -> int:
        """Output rows whose inputs, `floats` a pixel, fit the cache."""
        # How many input rows fit, and how many output rows these make.
        most = CACHE // (floats * self.pitch)
        return int(min(max((most - self.span) // self.stride + 1, 1), self.out_rows))

    def offsets(self, scale: int) -> list[int]:
        """Distance of each tap from the first one, `scale` floats being one pixel."""
        # Column j of a window lies in phase j % stride, at j // stride from the window's own column.
        phases = self.stride if self.copies else 1
        down, across = self.dilation
        return [
            (i * down * self.pitch + (j * across % phases) * self.phase + j * across // phases)
            * scale
            for i in range(self.taps[0])
            for j in range(self.taps[1])
        ]

    def copied(self, counts: tuple[int, ...], floats: int, scale: int) -> tuple[int, ...]:
        """Segments within a copy whose blocks are `floats` apart and hold `counts` lanes; `scale` floats are one
        pixel."""
        if (counts, floats) not in self._copied:
            taps, places = self.offsets(scale), enumerate(counts)
            segments = [x for i, n in places for tap in taps for x in (i * floats + tap, n)]
            self._copied[counts, floats] = tuple(segments)
        return self._copied[counts, floats]

    def operands(self) -> dict[int, Operand]:
        """The fields that describe the window."""
        return {
            ROWS: self.rows,
            COLUMNS: self.columns,
            OUT_COLUMNS: self.out_columns,
            KERNEL_ROWS: self.span,
            STRIDE: self.stride,
            TOP: self.padding[0],
            LEFT: self.padding[1],
            PHASE: self.phase,
        }


class Dense:
    """A direct window over channel blocks, by output rows."""

    def __init__(
        self, emitter: Emitter, node: Node, source: Tensor, lanes: tuple[int, ...]
    ) -> None:
        self.emitter, self.node = emitter, node
        self.geometry = ConvGeometry(node, source.shape, emitter.shapes[node.name])
        self.extent = self.geometry.out_rows
        self.counts = source.counts()
        self.single = int(self.geometry.out_columns == 1)
        # Read in place, rows need no scratch, and one group may hold all of them.
        self.most = self.extent
        if self.geometry.copies:
            self.most = self.geometry.group(len(self.counts) * LANES)

        def make() -> NDArray[np.float32]:
            weight, bias = emitter.parameters(node)
            taps = [
                input_rows(source.lanes, weight[:, :, i, j].T)
                for i, j in np.ndindex(self.geometry.taps)
            ]
            # In the order of the segments: all taps of the first block, then of the next one.
            ends = zip(np.cumsum(self.counts), self.counts, strict=True)
            rows = np.concatenate([tap[end - n : end] for end, n in ends for tap in taps])
            return pack(rows, bias, lanes, self.single, emitter.slopes(node))

        of = (lanes, source.lanes, self.single)
        self.weights = emitter.packed_with(node, "dense", *of, pack=make)

    def emit(self, source: Tensor, destination: Destination, start: int, stop: int) -> None:
        """One instruction."""
        geometry, emitter, node = self.geometry, self.emitter, self.node
        group = min(self.most, stop - start)
        blocks, inputs = len(destination.lanes) // LANES, len(self.counts)
        size = math.prod(geometry.taps)
        operands: dict[int, Operand] = {
            WEIGHTS: self.weights,
            SEGMENT_COUNT: inputs * size,
            DEPTH: sum(self.counts) * size,
            SINGLE: self.single,
            FIRST: start,
            LAST: stop,
            GROUP: group,
            INPUTS: source.blocks,
            INPUT_BLOCKS: inputs,
            COPY: int(geometry.copies),
        }
        scratch: tuple[Buffer, ...] = ()
        if geometry.copies:
            floats = geometry.input_rows(group) * geometry.pitch * LANES
            # Segments point into the copy: the kernel adds the place of scratch.
            scratch = (Buffer(f"{node.name} rows", inputs * floats, per_thread=True),)
            operands |= {SCRATCH: scratch[0], SEGMENTS: geometry.copied(self.counts, floats, LANES)}
            how = f"groups of {group} rows"
        else:
            # Segments point into the map: without padding, every tap of every pixel lies in it.
            taps = geometry.offsets(LANES)
            places = zip(source.blocks, self.counts, strict=True)
            operands[SEGMENTS] = tuple(
                x for block, n in places for tap in taps for x in (block.at(tap), n)
            )
            how = "read in place"
        algorithm, epilogue = emitter.algorithms[node.name], emitter.fusion.epilogues[node.name]
        shape = emitter.shapes[node.name]
        emitter.emit(
            DENSE,
            node.name,
            f"{geometry} {source.shape} -> {shape}{epilogue.note}, {how}{algorithm.note}",
            {**operands, **geometry.operands(), **destination.operands(0, blocks)},
            [*source.blocks, *destination.reads()],
            destination.writes(),
            scratch,
        )


class Planar:
    """A direct window over the caller's image, by output rows."""

    def __init__(
        self, emitter: Emitter, node: Node, source: Tensor, lanes: tuple[int, ...]
    ) -> None:
        self.emitter, self.node = emitter, node
        self.geometry = ConvGeometry(node, source.shape, emitter.shapes[node.name])
        self.extent = self.geometry.out_rows
        self.most = self.geometry.group(source.shape[0])

        def make() -> NDArray[np.float32]:
            # (O, C, k, k) to a row for each tap of each channel: the order of the segments in the copy.
            weight, bias = emitter.parameters(node)
            rows = weight.transpose(1, 2, 3, 0).reshape(-1, len(weight))
            return pack(rows, bias, lanes, 0, emitter.slopes(node))

        self.weights = emitter.packed_with(node, "planar", lanes, pack=make)
        self.constants = emitter.constants(*emitter.images[node.inputs[0]])
        made = emitter.shapes[node.name]
        self.note = f"{self.geometry} image {source.shape} -> {made}"
        self.note += emitter.fusion.epilogues[node.name].note

    def emit(self, source: Tensor, destination: Destination, start: int, stop: int) -> None:
        """One instruction."""
        geometry, emitter, node = self.geometry, self.emitter, self.node
        group = min(self.most, stop - start)
        channels, blocks = source.shape[0], len(destination.lanes) // LANES
        # The image has no channel blocks: each of its channels is a plane, each tap of it a segment of one lane.
        floats = geometry.input_rows(group) * geometry.pitch
        scratch = Buffer(f"{node.name} rows", channels * floats, per_thread=True)
        count = channels * math.prod(geometry.taps)
        operands: dict[int, Operand] = {
            WEIGHTS: self.weights,
            CONSTANTS: self.constants,
            SEGMENTS: geometry.copied((1,) * channels, floats, 1),
            SEGMENT_COUNT: count,
            DEPTH: count,
            FIRST: start,
            LAST: stop,
            GROUP: group,
            SCRATCH: scratch,
            INPUT_BLOCKS: channels,
        }
        emitter.emit(
            PLANAR,
            node.name,
            self.note,
            {**operands, **geometry.operands(), **destination.operands(0, blocks)},
            destination.reads(),
            destination.writes(),
            (scratch,),
        )


class Winograd:
    """F(4x4, 3x3) or F(6x6, 3x3), by patches."""

    def __init__(
        self, emitter: Emitter, node: Node, source: Tensor, lanes: tuple[int, ...]
    ) -> None:
        self.emitter, self.node = emitter, node
        self.side = side = emitter.algorithms[node.name].side
        self.counts = source.counts()
        # Patches at the far edges hang over; what they make there is dropped.
        _, rows, columns = source.shape
        self.extent = -(-rows // side) * -(-columns // side)

        def make() -> NDArray[np.float32]:
            weight, bias = emitter.parameters(node)
            none = np.zeros(len(bias))  # the bias is added once, after the transform back
            matrices = transform_kernel(weight, side)
            # A matrix for each point, one after the other, as `winograd` steps through them.
            return np.concatenate(
                [pack(input_rows(source.lanes, m), none, lanes, 0) for m in matrices]
            )

        key = (node.name, "winograd", side, lanes, source.lanes)
        self.weights = emitter.packed.get(key, make)

        def make_bias() -> NDArray[np.float32]:
            slopes, bias = emitter.slopes(node), emitter.parameters(node)[1]
            parts = [bias] if slopes is None else [bias, slopes]
            return np.concatenate([by_lane(part, lanes) for part in parts])

        self.bias = emitter.packed_with(node, "bias", lanes, pack=make_bias)

    def emit(self, source: Tensor, destination: Destination, start: int, stop: int) -> None:
        """One instruction."""
        emitter, node, side = self.emitter, self.node, self.side
        _, rows, columns = source.shape
        inputs, blocks = len(self.counts), len(destination.lanes) // LANES
        group, depth = min(WINOGRAD_GROUP[side], self.extent), sum(self.counts)
        # Transformed inputs and products of a group, and two patches in passing.
        floats = ((side + 2) ** 2 * (inputs + blocks) * group + 2 * (side + 2) ** 2) * LANES
        # Each thread transforms patches of its own, so each needs its own place for them.
        scratch = Buffer(f"{node.name} patches", floats, per_thread=True)
        operands: dict[int, Operand] = {
            WEIGHTS: self.weights,
            BIAS: self.bias,
            SEGMENTS: tuple(x for i, n in enumerate(self.counts) for x in (i * group * LANES, n)),
            DEPTH: depth,
            FIRST: start,
            LAST: stop,
            GROUP: group,
            SCRATCH: scratch,
            INPUTS: source.blocks,
            INPUT_BLOCKS: inputs,
            ROWS: rows,
            COLUMNS: columns,
            RELU_ON_LOAD: int(source.relu_on_load),
            PRODUCT: product(group, blocks, inputs, depth),
            SIDE: side,
        }
        epilogue, made = emitter.fusion.epilogues[node.name], emitter.shapes[node.name][0]
        note = f"{WAYS[side]} {source.shape} -> {made} channels{epilogue.note}"
        note += ", ReLU on load" if source.relu_on_load else ""
        emitter.emit(
            WINOGRAD,
            node.name,
            note + emitter.algorithms[node.name].note,
            {**operands, **destination.operands(0, blocks)},
            [*source.blocks, *destination.reads()],
            destination.writes(),
            (scratch,),
            destination.in_place(source),
        )


class Depthwise:
    """A 3x3 convolution of each channel by itself, by output rows."""

    def __init__(
        self, emitter: Emitter, node: Node, source: Tensor, lanes: tuple[int, ...]
    ) -> None:
        self.emitter, self.node, self.lanes = emitter, node, lanes
        (stride, _), shape = node.attributes["stride"], emitter.shapes[node.name]
        self.extent = shape[1]
        self.epilogue = emitter.fusion.epilogues[node.name].note
        self.note = f"{source.shape} -> {shape}, stride {stride}"
        #: Fields that all bands share, and {(first, last block): offset of their weights}.
        self._fields: dict[int, Operand] = {
            ROWS: source.shape[1],
            COLUMNS: source.shape[2],
            OUT_COLUMNS: shape[2],
            STRIDE: stride,
            TOP: node.attributes["padding"][0],
            LEFT: node.attributes["padding"][1],
            ZEROS: _zeros(emitter, source.shape[2]),
        }
        self._offsets: dict[tuple[int, int], int] = {}

    def emit(self, source: Tensor, destination: Destination, start: int, stop: int) -> None:
        """One instruction for each stretch of blocks that lie at equal distances."""
        # A band's blocks are as far apart as its own pixels, not as those of the whole map that it stands for.
        emitter, node, pitch = self.emitter, self.node, _pitch(source)
        rows = "" if (start, stop) == (0, self.extent) else f", rows {start} to {stop}"
        # The kernel steps from block to block by a constant, so an instruction ends where either list has a gap.
        cuts = {i for run in layout.runs(pitch // LANES, source.blocks) for i in run}
        cuts |= {i for run in destination.runs() for i in run}
        for first, last in itertools.pairwise(sorted(cuts)):
            if (first, last) not in self._offsets:
                lanes = self.lanes[first * LANES : last * LANES]
                self._offsets[first, last] = _packed(emitter, node, lanes)
            places: dict[int, Operand] = {
                X: source.blocks[first],
                INPUT_PITCH: pitch,
                WEIGHTS: self._offsets[first, last],
                FIRST: start,
                LAST: stop,
            }
            emitter.emit(
                DEPTHWISE,
                node.name,
                f"{self.note}{rows}{self.epilogue}",
                {**self._fields, **places, **destination.operands(first, last)},
                [*source.blocks[first:last], *destination.reads(first, last)],
                destination.writes(),
            )


class DepthwiseWindow:
    """Any convolution of each channel by itself, by output rows, of a copy of its map in a frame of zeros."""

    def __init__(
        self, emitter: Emitter, node: Node, source: Tensor, lanes: tuple[int, ...]
    ) -> None:
        self.emitter, self.node, self.lanes = emitter, node, lanes
        self.extent = emitter.shapes[node.name][1]

    def emit(self, source: Tensor, destination: Destination, start: int, stop: int) -> None:
        """The copy, and one instruction for each stretch of blocks whose residual lies together."""
        emitter, node, a = self.emitter, self.node, self.node.attributes
        shape, stride, dilation = emitter.shapes[node.name], a["stride"], a["dilation"]
        _, rows, columns = shape
        # The last tile of a row reads for all of its outputs, also for those that are not stored.
        wide = -(-columns // depthwise_kernel.TILE) * depthwise_kernel.TILE
        span = [(k - 1) * d + 1 for k, d in zip(a["kernel"], dilation, strict=True)]
        size = (rows - 1) * stride[0] + span[0], (wide - 1) * stride[1] + span[1]
        frame = emitter.spread(f"{node.name} frame", source, size, a["padding"])
        operands: dict[int, Operand] = {
            INPUT_PITCH: frame.pixels * LANES,
            COLUMNS: size[1],
            OUT_COLUMNS: columns,
            KERNEL_ROWS: span[0],
            KERNEL_COLUMNS: span[1],
            STRIDE: stride[0],
            STRIDE_COLUMNS: stride[1],
            DILATION: dilation[0],
            DILATION_COLUMNS: dilation[1],
            FIRST: start,
            LAST: stop,
        }
        taps = f"{a['kernel'][0]}x{a['kernel'][1]}/{stride[0]}"
        note = f"{taps} {source.shape} -> {shape}{emitter.fusion.epilogues[node.name].note}"
        for first, last in destination.runs():
            places: dict[int, Operand] = {
                X: frame.blocks[first],
                WEIGHTS: _packed(emitter, node, self.lanes[first * LANES : last * LANES]),
            }
            result = destination.operands(first, last)
            emitter.emit(
                DEPTHWISE_WINDOW,
                node.name,
                note,
                {**operands, **places, **result},
                [*frame.blocks[first:last], *destination.reads(first, last)],
                destination.writes(),
            )


def _packed(emitter: Emitter, node: Node, lanes: tuple[int, ...]) -> int:
    """The offset of the weights of a depthwise layer for these lanes."""

    def make() -> NDArray[np.float32]:
        # By lanes, not by band: all bands of a stream ask for the same stretches of blocks.
        return depthwise_kernel.pack(*emitter.parameters(node), lanes, emitter.slopes(node))

    return emitter.packed_with(node, "depthwise", lanes, pack=make)


def _pitch(tensor: Tensor) -> int:
    """Floats from a block of a tensor to the next one where they are neighbours, also of one that is a band."""
    floats, blocks = tensor.pixels * LANES, tensor.blocks
    if len(blocks) > 1 and blocks[0].buffer.per_thread:
        floats = blocks[1].offset - blocks[0].offset
    return floats


def _zeros(emitter: Emitter, columns: int) -> int:
    """The offset of a row of zeros, which takes the place of rows outside of a map. Its length is rounded up to a power
    of two, so that images of many sizes share a few of them."""
    floats = (1 << max(columns - 1, 0).bit_length()) * LANES
    return emitter.packed.get(("zeros", floats), lambda: np.zeros(floats, np.float32))


#: {algorithm: what prepares a layer for it}.
ALGORITHMS: Mapping[str, Callable[[Emitter, Node, Tensor, tuple[int, ...]], Prepared]] = {
    "pointwise": Pointwise,
    "dense": Dense,
    "planar": Planar,
    "winograd": Winograd,
    "depthwise": Depthwise,
    "depthwise_window": DepthwiseWindow,
}
