"""What a convolution or linear layer becomes: the choice of algorithm, its packed weights and its rows.

1x1, stride 1               POINTWISE
depthwise 3x3               DEPTHWISE
3x3, stride 1, padding 1    WINOGRAD where the cost model says so
the image, few channels     PLANAR
anything else with groups=1 DENSE
linear                      POINTWISE with one pixel
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refnet.graph import Graph, Node

from . import depthwise as depthwise_kernel
from . import layout, pointwise
from .executor import DENSE, DEPTHWISE, PLANAR, POINTWISE, WINOGRAD
from .fusion import Epilogue
from .layout import Blob, Plane, Tensor, Value
from .pointwise import (
    ACTIVATIONS,
    RESIDUAL_FIRST,
    RESIDUAL_SECOND,
    STORE_FIRST,
    STORE_SECOND,
)
from .simd import LANES
from .steps import Step, Table, UnsupportedError, values_of
from .winograd import transform_kernel

#: Floats of inputs that a group of pixels, or a band of rows, may fill: it shall stay in the second-level cache.
CACHE = 1 << 16
PLANAR_CHANNELS = 4
WINOGRAD_GROUP = 28
#: Cycles per patch and block that the two Winograd transforms take, in vector operations; measured.
TRANSFORM_IN, TRANSFORM_OUT = 110, 100


def blocks_of(channels: int) -> int:
    """Planes that hold so many channels."""
    return -(-channels // LANES)


def runs_as_winograd(node: Node, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether a layer runs as F(4x4, 3x3): only where it takes fewer cycles than the direct product."""
    a = node.attributes
    if node.op != "conv" or a["groups"] != 1 or tuple(a["dilation"]) != (1, 1):
        return False
    if (a["kernel"], a["stride"], a["padding"]) != ((3, 3), (1, 1), (1, 1)):
        return False
    taken, (made, rows, columns) = shapes[node.inputs[0]][0], shapes[node.name]
    if taken <= PLANAR_CHANNELS:
        return False
    direct = 9 * taken * blocks_of(made) * rows * columns / 2
    patches = -(-rows // 4) * -(-columns // 4)
    transforms = TRANSFORM_IN * blocks_of(taken) + TRANSFORM_OUT * blocks_of(made)
    product = 36 * taken * blocks_of(made) / 2
    # A tile of few patches streams all weights for little work: at least seven patches' worth of time.
    return patches * transforms + max(patches, 7) * product < direct


class Convolutions:
    """The part of the lowering that turns convolutions into steps; `layers.Lowering` is the rest."""

    def __init__(
        self,
        graph: Graph,
        weights: Mapping[str, NDArray[Any]],
        shapes: Mapping[str, tuple[int, ...]],
    ) -> None:
        self.graph, self.weights, self.shapes = graph, weights, shapes
        self.steps: list[Step] = []
        self.blob = Blob()
        self.tensors: dict[str, Tensor] = {}
        self.cells: dict[str, list[Tensor]] = {}
        self.images: dict[str, tuple[float, float]] = {}
        self.blocked: dict[str, Tensor] = {}
        self.breaks: dict[str, frozenset[int]] = {}
        # Offset 0 of the weights is a row of zeros, what depthwise kernels read outside of the image.
        widths = [shape[2] for shape in shapes.values() if len(shape) == 3]
        self.blob.add(np.zeros(max(widths, default=1) * LANES, np.float32))

    def stored(self, name: str) -> Tensor:
        raise NotImplementedError

    def matched(self, tensor: Tensor, lanes: tuple[int, ...], name: str) -> Tensor:
        raise NotImplementedError

    def moved(self, tensor: Tensor, lanes: tuple[int, ...], name: str) -> Tensor:
        raise NotImplementedError

    def step(
        self,
        opcode: int,
        name: str,
        note: str,
        reads: Sequence[Value],
        writes: Sequence[Value],
        encode: Callable[[Table], list[int]],
        scratch: Sequence[Value] = (),
    ) -> None:
        """Append a step."""
        self.steps.append(
            Step(opcode, name, note, tuple(reads), tuple(writes), encode, scratch=tuple(scratch))
        )

    def is_depthwise(self, node: Node) -> bool:
        """Whether the depthwise kernel takes this layer."""
        a = node.attributes
        if node.op != "conv" or a["groups"] == 1 or tuple(a["kernel"]) != (3, 3):
            return False
        channels = self.graph.state_dict[node.parameters["weight"]][0]
        taken = self.shapes[node.inputs[0]][0]
        return (
            a["groups"] == channels == taken
            and tuple(a["dilation"]) == (1, 1)
            and tuple(a["stride"]) in ((1, 1), (2, 2))
            and tuple(a["padding"]) in ((0, 0), (1, 1))
            and self.shapes[node.inputs[0]][2] >= 3
        )

    def normalization(self, node: Node) -> tuple[float, float]:
        """(scale, shift) of (x - mean) / std."""
        mean, std = node.attributes["mean"], node.attributes["std"]
        return 1.0 / std, -mean / std

    def lower_convolution(self, node: Node, epilogue: Epilogue) -> None:
        """The steps of one layer, and the tensors that it makes."""
        weight = self.weights[node.parameters["weight"]]
        bias = self.weights.get(node.parameters.get("bias", ""), np.zeros(len(weight)))
        a = node.attributes
        if node.op == "linear":
            if len(self.shapes[node.inputs[0]]) != 1:
                raise UnsupportedError(f"{node.name} is linear over a map; flatten it first")
            self._lower_pointwise(node, epilogue, weight, bias)
        elif self.is_depthwise(node):
            self._lower_depthwise(node, epilogue, weight, bias)
        elif a["groups"] != 1 or tuple(a["dilation"]) != (1, 1) or a["stride"][0] != a["stride"][1]:
            raise UnsupportedError(
                f"{node.name} is a convolution with kernel {a['kernel']}, stride {a['stride']}, padding "
                f"{a['padding']}, dilation {a['dilation']} and {a['groups']} groups; the engine has kernels for "
                "groups=1 and for depthwise 3x3, without dilation, of one stride"
            )
        elif self._reads_image(node):
            self._lower_planar(node, epilogue, weight, bias)
        elif runs_as_winograd(node, self.shapes):
            self._lower_winograd(node, epilogue, weight, bias)
        elif (a["kernel"], a["stride"], a["padding"]) == ((1, 1), (1, 1), (0, 0)):
            self._lower_pointwise(node, epilogue, weight[:, :, 0, 0], bias)
        else:
            self._lower_dense(node, epilogue, weight, bias)

    def _reads_image(self, node: Node) -> bool:
        name = node.inputs[0]
        image = name == self.graph.input or name in self.images
        return image and self.shapes[name][0] <= PLANAR_CHANNELS

    # ------------------------------------------------------------------------------ results

    def _results(self, node: Node, epilogue: Epilogue) -> _Results:
        """Allocate what the layer makes, in the layout that its readers want, and find its residual."""
        shape = self.shapes[node.name]
        wanted = frozenset().union(*(self.breaks.get(name, ()) for name in epilogue.names))
        lanes = layout.dense_lanes(shape[0], wanted)
        residual = None
        if epilogue.residual is not None:
            residual = self.stored(epilogue.residual)
            lanes = residual.lanes  # it is there already: taking its layout saves moving it
        made = {name: layout.allocate(name, shape, lanes) for name in epilogue.names}
        self.tensors.update(made)
        flags = ACTIVATIONS[epilogue.activation]
        first = made[epilogue.first] if epilogue.first is not None else None
        second = made[epilogue.second] if epilogue.second is not None else None
        if first is not None:
            flags |= STORE_FIRST
        if second is not None:
            flags |= STORE_SECOND | ACTIVATIONS[epilogue.second_activation] << 2
        if residual is not None:
            flags |= RESIDUAL_FIRST if epilogue.residual_first else RESIDUAL_SECOND
        return _Results(lanes, flags, first, second, residual)

    # ------------------------------------------------------------------------------ kernels

    def _lower_pointwise(
        self, node: Node, epilogue: Epilogue, weight: NDArray[Any], bias: NDArray[Any]
    ) -> None:
        source = self.stored(node.inputs[0])
        results = self._results(node, epilogue)
        pixels, single = source.pixels, int(source.pixels == 1)
        counts, rows = source.counts(), _input_rows(source, weight.T)
        for first, last in results.runs(pixels):
            lanes = results.lanes[first * LANES : last * LANES]
            packed = self.blob.add(pointwise.pack(rows, bias, lanes, single))
            group = max(CACHE // max(sum(counts), 1) // 56, 1) * 56

            def encode(
                table: Table,
                first: int = first,
                last: int = last,
                packed: int = packed,
                group: int = group,
            ) -> list[int]:
                steps = [
                    x for p, n in zip(source.planes, counts, strict=True) for x in (p.address, n)
                ]
                head = results.head(POINTWISE, pixels, first, last, packed, single)
                head[5:8] = [table.list(steps), len(counts), sum(counts)]
                return [*head, 0, pixels, group]

            note = f"{sum(counts)} -> {weight.shape[0]} channels, {pixels} pixels{results.note(epilogue)}"
            reads = [*values_of(source.planes), *results.reads(first, last)]
            self.step(POINTWISE, node.name, note, reads, results.writes(), encode)

    def _lower_depthwise(
        self, node: Node, epilogue: Epilogue, weight: NDArray[Any], bias: NDArray[Any]
    ) -> None:
        source = self.stored(node.inputs[0])
        if epilogue.residual is not None:
            residual: Tensor | None = self.matched(
                self.stored(epilogue.residual), source.lanes, epilogue.residual
            )
        else:
            residual = None
        assert epilogue.first is not None
        shape = self.shapes[node.name]
        made = layout.allocate(epilogue.first, shape, source.lanes)
        stride, padding = node.attributes["stride"][0], node.attributes["padding"][0]
        flags = ACTIVATIONS[epilogue.activation] | (RESIDUAL_FIRST if residual else 0)
        pitch = (source.pixels, made.pixels)
        stretches = layout.runs(pitch[0], source.planes)
        if residual is not None:
            cuts = {i for run in layout.runs(pitch[1], residual.planes) for i in run}
            cuts |= {i for run in stretches for i in run}
            ordered = sorted(cuts)
            stretches = list(itertools.pairwise(ordered))
        for first, last in stretches:
            lanes = list(source.lanes[first * LANES : last * LANES])
            packed = self.blob.add(depthwise_kernel.pack(weight, bias, lanes))
            x, y = source.planes[first], made.planes[first]
            r = residual.planes[first] if residual is not None else None

            def encode(
                _: Table,
                x: Plane = x,
                y: Plane = y,
                r: Plane | None = r,
                blocks: int = last - first,
                packed: int = packed,
            ) -> list[int]:
                head = [
                    DEPTHWISE,
                    y.address,
                    x.address,
                    blocks,
                    packed,
                    *source.shape[1:],
                    *shape[1:],
                ]
                added = r.address - y.address if r is not None else 0
                return [*head, stride, padding, flags, added, 0, shape[1]]

            note = f"{source.shape} -> {shape}, stride {stride}{_note(epilogue)}"
            reads = values_of([x], [r] if r is not None else [])
            self.step(DEPTHWISE, node.name, note, reads, (y.value,), encode)
        self.tensors[epilogue.first] = made

    def _lower_winograd(
        self, node: Node, epilogue: Epilogue, weight: NDArray[Any], bias: NDArray[Any]
    ) -> None:
        name = node.inputs[0]
        source = self.tensors[name] if name in self.tensors else self.stored(name)
        if not source.planes:
            source = self.stored(name)
        results = self._results(node, epilogue).contiguous(self)
        _, rows, columns = source.shape
        counts, blocks = source.counts(), len(results.lanes) // LANES
        planes, group = len(source.planes), WINOGRAD_GROUP
        matrices = transform_kernel(weight)
        packed = np.concatenate(
            [
                pointwise.pack(_input_rows(source, m), np.zeros(len(bias)), results.lanes, 0)
                for m in matrices
            ]
        )
        weights = self.blob.add(packed)
        biases = self.blob.add(_by_lane(bias, results.lanes))
        patches = -(-rows // 4) * -(-columns // 4)
        group = min(group, patches)
        scratch = Value(f"{node.name} patches", 36 * ((planes + blocks) * group + 2) * LANES)

        def encode(table: Table) -> list[int]:
            steps = [x for i, n in enumerate(counts) for x in (i * group * LANES, n)]
            head = results.head(WINOGRAD, rows * columns, 0, blocks, weights, 0)
            head[5:8] = [table.list(steps), planes, sum(counts)]
            inputs = table.list([plane.address for plane in source.planes])
            tail = [rows, columns, int(source.rectify), biases]
            return [*head, 0, patches, group, scratch.offset, inputs, planes, *tail]

        note = f"F(4x4,3x3) {source.shape} -> {weight.shape[0]} channels{results.note(epilogue)}"
        if source.rectify:
            note += ", rectifies its input"
        reads = [*values_of(source.planes), *results.reads(0, blocks)]
        self.step(WINOGRAD, node.name, note, reads, results.writes(), encode, (scratch,))

    def _lower_dense(
        self, node: Node, epilogue: Epilogue, weight: NDArray[Any], bias: NDArray[Any]
    ) -> None:
        source = self.stored(node.inputs[0])
        results = self._results(node, epilogue).contiguous(self)
        window = _Window(node, source.shape, self.shapes[node.name])
        counts, blocks = source.counts(), len(results.lanes) // LANES
        taps = [
            _input_rows(source, weight[:, :, i, j].T)
            for i in range(window.taps[0])
            for j in range(window.taps[1])
        ]
        ends = np.cumsum(counts)
        rows = np.concatenate(
            [tap[end - n : end] for end, n in zip(ends, counts, strict=True) for tap in taps]
        )
        single = int(window.out_columns == 1)
        packed = self.blob.add(pointwise.pack(rows, bias, results.lanes, single))
        planes = len(source.planes)
        band = window.band(planes * LANES) if window.copies else window.out_rows
        floats = planes * LANES * window.band_rows(band) * window.pitch if window.copies else 0
        scratch = (Value(f"{node.name} band", floats),) if window.copies else ()

        def encode(table: Table) -> list[int]:
            offsets = [
                plane * window.band_rows(band) * window.pitch * LANES
                if window.copies
                else source.planes[plane].address
                for plane in range(planes)
            ]
            steps = [
                x
                for offset, n in zip(offsets, counts, strict=True)
                for tap in window.offsets(LANES)
                for x in (offset + tap, n)
            ]
            head = results.head(
                DENSE, window.out_rows * window.out_columns, 0, blocks, packed, single
            )
            head[5:8] = [table.list(steps), len(steps) // 2, len(rows)]
            inputs = table.list([plane.address for plane in source.planes])
            start = scratch[0].offset if scratch else 0
            return [*head, 0, window.out_rows, band, start, inputs, planes, *window.columns()]

        note = (
            f"{window} {source.shape} -> {self.shapes[node.name]}{results.note(epilogue)}"
            f"{f', bands of {band} rows' if window.copies else ', read in place'}"
        )
        reads = [*values_of(source.planes), *results.reads(0, blocks)]
        self.step(DENSE, node.name, note, reads, results.writes(), encode, scratch)

    def _lower_planar(
        self, node: Node, epilogue: Epilogue, weight: NDArray[Any], bias: NDArray[Any]
    ) -> None:
        name = node.inputs[0]
        shape = self.shapes[name]
        results = self._results(node, epilogue).contiguous(self)
        window = _Window(node, shape, self.shapes[node.name])
        channels, blocks = shape[0], len(results.lanes) // LANES
        rows = weight.transpose(1, 2, 3, 0).reshape(-1, weight.shape[0])
        packed = self.blob.add(pointwise.pack(rows, bias, results.lanes, 0))
        constants = self.blob.add(np.array(self.images.get(name, (1.0, 0.0)), np.float32))
        band = window.band(channels)
        scratch = Value(f"{node.name} band", channels * window.band_rows(band) * window.pitch)

        def encode(table: Table) -> list[int]:
            steps = [
                x
                for channel in range(channels)
                for tap in window.offsets(1)
                for x in (channel * window.band_rows(band) * window.pitch + tap, 1)
            ]
            head = results.head(PLANAR, window.out_rows * window.out_columns, 0, blocks, packed, 0)
            head[5:8] = [table.list(steps), len(steps) // 2, len(rows)]
            common = [0, window.out_rows, band, scratch.offset, 0, channels]
            return [*head, *common, *window.columns(), constants]

        note = f"{window} image {shape} -> {self.shapes[node.name]}{results.note(epilogue)}"
        reads = results.reads(0, blocks)
        self.step(PLANAR, node.name, note, reads, results.writes(), encode, (scratch,))


class _Window:
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


class _Results:
    """What a layer stores, and the columns of its row that say where."""

    def __init__(
        self,
        lanes: tuple[int, ...],
        flags: int,
        first: Tensor | None,
        second: Tensor | None,
        residual: Tensor | None,
    ) -> None:
        self.lanes, self.flags = lanes, flags
        self.first, self.second, self.residual = first, second, residual

    @property
    def main(self) -> Tensor:
        made = self.first if self.first is not None else self.second
        assert made is not None
        return made

    def runs(self, pixels: int) -> list[tuple[int, int]]:
        """Stretches of output planes whose residual planes lie behind each other."""
        lists = [t.planes for t in (self.main, self.residual) if t is not None]
        return layout.runs(pixels, *lists)

    def contiguous(self, lowering: Convolutions) -> _Results:
        """The same, with a residual in one stretch: moved together if it is not."""
        if self.residual is not None and len(self.runs(self.main.pixels)) > 1:
            self.residual = lowering.moved(self.residual, self.lanes, "residual")
        return self

    def head(
        self, opcode: int, pixels: int, first: int, last: int, packed: int, single: int
    ) -> list[int]:
        """Columns 0 to 11, those of the steps still empty."""
        y = self.main.planes[first].address
        second = self.second.planes[first].address - y if self.second is not None else 0
        residual = self.residual.planes[first].address - y if self.residual is not None else 0
        blocks = last - first
        return [
            opcode,
            y,
            pixels * LANES,
            blocks,
            packed,
            0,
            0,
            0,
            self.flags,
            second,
            residual,
            single,
        ]

    def reads(self, first: int, last: int) -> tuple[Value, ...]:
        return values_of(self.residual.planes[first:last]) if self.residual is not None else ()

    def writes(self) -> tuple[Value, ...]:
        return values_of(*(t.planes for t in (self.first, self.second) if t is not None))

    def note(self, epilogue: Epilogue) -> str:
        return _note(epilogue)


def _note(epilogue: Epilogue) -> str:
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


def _input_rows(source: Tensor, channels: NDArray[Any]) -> NDArray[Any]:
    """Rows of `channels` (C, O) in the order in which steps visit the source's lanes; zeros for padding."""
    order = [
        lane
        for i, n in enumerate(source.counts())
        for lane in source.lanes[i * LANES : i * LANES + n]
    ]
    index = np.array(order)
    return np.where(index[:, None] >= 0, channels[np.maximum(index, 0)], 0.0)


def _by_lane(bias: NDArray[Any], lanes: Sequence[int]) -> NDArray[np.float32]:
    index = np.array(lanes)
    return np.where(index >= 0, bias[np.maximum(index, 0)], 0.0).astype(np.float32)
