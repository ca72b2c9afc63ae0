"""What a convolution or linear layer becomes, once its kernel is chosen (`choice.py`): packed weights and rows."""

from __future__ import annotations

import itertools
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from refnet.graph import Graph, Node

from . import depthwise as depthwise_kernel
from . import layout, pointwise
from .choice import WAYS, Choice, winograd_note, winograd_side
from .executor import DENSE, DEPTHWISE, PLANAR, POINTWISE, WINOGRAD
from .fusion import Epilogue
from .layout import Blob, Plane, Tensor, Value
from .pointwise import ACTIVATIONS, RESIDUAL_FIRST
from .products import (
    CACHE,
    Results,
    Window,
    by_lane,
    fusion_note,
    input_rows,
)
from .simd import LANES
from .steps import Step, Table, values_of
from .winograd import product_row, transform_kernel

#: {side: patches of a group}: whole tiles, whose transforms stay in the second-level cache.
WINOGRAD_GROUP = {4: 28, 6: 14}

#: Appends the step of a layer for part of its extent (pixels, patches or rows), and that extent: a layer is prepared
#: once, its weights packed, and emitted whole or in parts, from and to the whole tensors or bands of them.
Prepared: TypeAlias = tuple[Callable[[Tensor, Results, int, int], None], int]


class Convolutions(Choice, ABC):
    """The part of the lowering that turns convolutions into steps; `layers.Lowering` is the rest."""

    def __init__(
        self,
        graph: Graph,
        weights: Mapping[str, NDArray[Any]],
        shapes: Mapping[str, tuple[int, ...]],
    ) -> None:
        super().__init__(graph, shapes)
        self.weights = weights
        self.steps: list[Step] = []
        self.blob = Blob()
        self.tensors: dict[str, Tensor] = {}
        self.cells: dict[str, list[Tensor]] = {}
        self.blocked: dict[str, Tensor] = {}
        self.breaks: dict[str, frozenset[int]] = {}
        # Offset 0 of the weights is a row of zeros, what depthwise kernels read outside of the image.
        widths = [shape[2] for shape in shapes.values() if len(shape) == 3]
        self.blob.add(np.zeros(max(widths, default=1) * LANES, np.float32))

    @abstractmethod
    def stored(self, name: str) -> Tensor: ...

    @abstractmethod
    def matched(self, tensor: Tensor, lanes: tuple[int, ...], name: str) -> Tensor: ...

    @abstractmethod
    def moved(self, tensor: Tensor, lanes: tuple[int, ...], name: str) -> Tensor: ...

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

    def normalization(self, node: Node) -> tuple[float, float]:
        """(scale, shift) of (x - mean) / std."""
        mean, std = node.attributes["mean"], node.attributes["std"]
        return 1.0 / std, -mean / std

    def lower_convolution(self, node: Node, epilogue: Epilogue) -> None:
        """The steps of one layer, and the tensors that it makes."""
        kind = self.kind(node)
        if kind == "depthwise":
            self._lower_depthwise(node, epilogue)
            return
        name = node.inputs[0]
        if kind == "planar":
            source = Tensor(self.shapes[name], (), ())
        elif kind == "winograd" and name in self.tensors and self.tensors[name].planes:
            source = self.tensors[name]  # rectified as it is read, if need be
        else:
            source = self.stored(name)
        results = self.results(node, epilogue)
        if kind != "pointwise":
            results = results.contiguous(self)
        prepare = getattr(self, f"prepare_{kind}")
        emit, extent = prepare(node, epilogue, source, results.lanes)
        emit(source, results, 0, extent)

    def parameters(self, node: Node) -> tuple[NDArray[Any], NDArray[Any]]:
        """Weight and bias in float64; a missing bias is zero."""
        weight = self.weights[node.parameters["weight"]]
        return weight, self.weights.get(node.parameters.get("bias", ""), np.zeros(len(weight)))

    # ------------------------------------------------------------------------------ results

    def results(self, node: Node, epilogue: Epilogue) -> Results:
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
        first = made[epilogue.first] if epilogue.first is not None else None
        second = made[epilogue.second] if epilogue.second is not None else None
        return Results(lanes, epilogue.flags, first, second, residual, math.prod(shape[1:]))

    # ------------------------------------------------------------------------------ kernels

    def prepare_pointwise(
        self, node: Node, epilogue: Epilogue, source: Tensor, lanes: tuple[int, ...]
    ) -> Prepared:
        """A 1x1 convolution or a linear layer, by pixels."""
        weight, bias = self.parameters(node)
        single, counts = int(source.pixels == 1), source.counts()
        rows = input_rows(source, weight.reshape(len(weight), -1).T)
        depth = max(sum(counts), 1)
        group = max(CACHE // depth // 56, 1) * 56
        packed: dict[tuple[int, int], int] = {}

        def emit(source: Tensor, results: Results, start: int, stop: int) -> None:
            for run in results.runs():
                part = lanes[run[0] * LANES : run[1] * LANES]
                if run not in packed:
                    packed[run] = self.blob.add(pointwise.pack(rows, bias, part, single))

                def encode(table: Table, run: tuple[int, int] = run) -> list[int]:
                    places = zip(source.planes, counts, strict=True)
                    steps = [x for plane, n in places for x in (plane.address, n)]
                    head = results.head(POINTWISE, *run, packed[run], single)
                    head[5:8] = [table.list(steps), len(counts), sum(counts)]
                    return [*head, start, stop, group]

                note = f"{depth} -> {len(weight)} channels, pixels {start} to {stop}"
                reads = [*values_of(source.planes), *results.reads(*run)]
                writes = results.writes()
                self.step(POINTWISE, node.name, note + fusion_note(epilogue), reads, writes, encode)
                self.steps[-1].in_place = results.in_place(source)

        return emit, source.pixels

    def _lower_depthwise(self, node: Node, epilogue: Epilogue) -> None:
        weight, bias = self.parameters(node)
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

            note = f"{source.shape} -> {shape}, stride {stride}{fusion_note(epilogue)}"
            reads = values_of([x], [r] if r is not None else [])
            self.step(DEPTHWISE, node.name, note, reads, (y.value,), encode)
        self.tensors[epilogue.first] = made

    def prepare_winograd(
        self, node: Node, epilogue: Epilogue, source: Tensor, lanes: tuple[int, ...]
    ) -> Prepared:
        """F(4x4, 3x3) or F(6x6, 3x3), by patches."""
        side = winograd_side(node, self.shapes)
        points = (side + 2) ** 2
        weight, bias = self.parameters(node)
        _, rows, columns = source.shape
        counts, blocks = source.counts(), len(lanes) // LANES
        planes = len(source.planes)
        empty = np.zeros(len(bias))
        matrices = [input_rows(source, matrix) for matrix in transform_kernel(weight, side)]
        packed = np.concatenate([pointwise.pack(m, empty, lanes, 0) for m in matrices])
        weights, biases = self.blob.add(packed), self.blob.add(by_lane(bias, lanes))
        patches = -(-rows // side) * -(-columns // side)
        group = min(WINOGRAD_GROUP[side], patches)

        def emit(source: Tensor, results: Results, start: int, stop: int) -> None:
            floats = points * ((planes + blocks) * group + 2) * LANES
            scratch = Value(f"{node.name} patches", floats, private=True)

            def encode(table: Table) -> list[int]:
                steps = [x for i, n in enumerate(counts) for x in (i * group * LANES, n)]
                head = results.head(WINOGRAD, 0, blocks, weights, 0)
                head[5:8] = [table.list(steps), planes, sum(counts)]
                inputs = table.list([plane.address for plane in source.planes])
                product = table.list(product_row(group, blocks, planes, sum(counts)))
                tail = [rows, columns, int(source.rectify), biases, product, side]
                return [*head, start, stop, group, scratch.offset, inputs, planes, *tail]

            note = f"{WAYS[side]} {source.shape} -> {len(weight)} channels{fusion_note(epilogue)}"
            if source.rectify:
                note += ", rectifies its input"
            note += winograd_note(node, self.shapes)
            reads = [*values_of(source.planes), *results.reads(0, blocks)]
            writes = results.writes()
            self.step(WINOGRAD, node.name, note, reads, writes, encode, (scratch,))
            self.steps[-1].in_place = results.in_place(source)

        return emit, patches

    def prepare_dense(
        self, node: Node, epilogue: Epilogue, source: Tensor, lanes: tuple[int, ...]
    ) -> Prepared:
        """A direct window over channel blocks, by output rows."""
        weight, bias = self.parameters(node)
        window = Window(node, source.shape, self.shapes[node.name])
        counts, blocks, planes = source.counts(), len(lanes) // LANES, len(source.counts())
        taps = [input_rows(source, weight[:, :, i, j].T) for i, j in np.ndindex(window.taps)]
        ends = zip(np.cumsum(counts), counts, strict=True)
        rows = np.concatenate([tap[end - n : end] for end, n in ends for tap in taps])
        single = int(window.out_columns == 1)
        packed = self.blob.add(pointwise.pack(rows, bias, lanes, single))
        most = window.band(planes * LANES) if window.copies else window.out_rows

        def emit(source: Tensor, results: Results, start: int, stop: int) -> None:
            band = min(most, stop - start)
            plane = window.band_rows(band) * window.pitch * LANES
            scratch = (
                (Value(f"{node.name} band", planes * plane, private=True),) if window.copies else ()
            )

            def encode(table: Table) -> list[int]:
                inputs = [each.address for each in source.planes]  # `plane` is taken
                origins = [i * plane for i in range(planes)] if window.copies else inputs
                places = itertools.product(zip(origins, counts, strict=True), window.offsets(LANES))
                steps = [x for (origin, n), tap in places for x in (origin + tap, n)]
                head = results.head(DENSE, 0, blocks, packed, single)
                head[5:8] = [table.list(steps), len(steps) // 2, len(rows)]
                copied = scratch[0].offset if scratch else 0
                head += [start, stop, band, copied, table.list(inputs), planes]
                return [*head, *window.columns()]

            how = f"bands of {band} rows" if window.copies else "read in place"
            note = (
                f"{window} {source.shape} -> {self.shapes[node.name]}{fusion_note(epilogue)}, {how}"
            )
            note += winograd_note(node, self.shapes)
            reads = [*values_of(source.planes), *results.reads(0, blocks)]
            self.step(DENSE, node.name, note, reads, results.writes(), encode, scratch)

        return emit, window.out_rows

    def prepare_planar(
        self, node: Node, epilogue: Epilogue, source: Tensor, lanes: tuple[int, ...]
    ) -> Prepared:
        """A direct window over the caller's image, by output rows."""
        weight, bias = self.parameters(node)
        window = Window(node, source.shape, self.shapes[node.name])
        channels, blocks = source.shape[0], len(lanes) // LANES
        rows = weight.transpose(1, 2, 3, 0).reshape(-1, len(weight))
        packed = self.blob.add(pointwise.pack(rows, bias, lanes, 0))
        constants = np.array(self.images.get(node.inputs[0], (1.0, 0.0)), np.float32)
        normalization = self.blob.add(constants)
        most = window.band(channels)

        def emit(source: Tensor, results: Results, start: int, stop: int) -> None:
            band = min(most, stop - start)
            plane = window.band_rows(band) * window.pitch
            scratch = Value(f"{node.name} band", channels * plane, private=True)

            def encode(table: Table) -> list[int]:
                places = itertools.product(range(channels), window.offsets(1))
                steps = [x for channel, tap in places for x in (channel * plane + tap, 1)]
                head = results.head(PLANAR, 0, blocks, packed, 0)
                head[5:8] = [table.list(steps), len(steps) // 2, len(rows)]
                head += [start, stop, band, scratch.offset, 0, channels]
                return [*head, *window.columns(), normalization]

            note = (
                f"{window} image {source.shape} -> {self.shapes[node.name]}{fusion_note(epilogue)}"
            )
            reads, writes = results.reads(0, blocks), results.writes()
            self.step(PLANAR, node.name, note, reads, writes, encode, (scratch,))

        return emit, window.out_rows
