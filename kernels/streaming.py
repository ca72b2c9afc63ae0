"""Layers that run band by band, so that what lies between them is never stored whole.

Two cases matter: the first layer of a detector, whose output is the largest tensor of all and is read by one strided
convolution; and detection heads, trees of 1x1 convolutions on a large map. Their layers take turns, a band of rows or
pixels each, and hand over tensors that fit the cache; 8K images then need little more memory than the trunk.
"""

from __future__ import annotations

from dataclasses import replace

from refnet.graph import Node

from . import layout
from .convolutions import Convolutions, Prepared
from .fusion import Epilogue, Fuser
from .layout import Plane, Tensor, Value
from .products import Results
from .simd import LANES

#: Floats from which on a tensor is streamed.
STREAMED = 1 << 18
#: Pixels and rows of a band, and how many bands there are at most: each is a row of the table.
BAND_PIXELS, BAND_ROWS, MOST_BANDS = 252, 4, 128


class Streaming(Convolutions):
    """Convolutions, streamed where that pays."""

    fuser: Fuser
    epilogues: dict[str, Epilogue]

    def lower_convolution(self, node: Node, epilogue: Epilogue) -> None:
        """The steps of one layer, or of the whole tree of layers that it streams into."""
        kind = self.kind(node)
        readers = self._readers(node, epilogue) if kind in ("planar", "pointwise") else []
        if readers and kind == "planar":
            self._stream_rows(node, readers[0])
        elif readers:
            self._stream_pixels(node)
        else:
            super().lower_convolution(node, epilogue)

    def _readers(self, node: Node, epilogue: Epilogue) -> list[Node]:
        """The layers that can take this one's output band by band; none if it must be stored."""
        name, shape = epilogue.first, self.shapes[node.name]
        if name is None or len(shape) != 3 or epilogue.second or epilogue.residual:
            return []
        floats = shape[0] * shape[1] * shape[2]
        readers = self.fuser.readers[name]
        wanted = "dense" if self.kind(node) == "planar" else "pointwise"
        fits = all(
            reader.op == "conv"
            and self.kind(reader) == wanted
            and self.epilogues[reader.name].residual is None
            for reader in readers
        )
        if floats < STREAMED or name in self.graph.outputs or not readers or not fits:
            return []
        return readers if wanted == "pointwise" or len(readers) == 1 else []

    def _band(self, name: str, like: Tensor, first: int, pixels: int) -> Tensor:
        """Pixels first to first + pixels of a tensor that exists only in bands; addressed as if it were whole."""
        value = Value(f"{name} from {first}", len(like.lanes) * pixels, private=True)
        offsets = range(-first * LANES, value.floats - first * LANES, pixels * LANES)
        return replace(like, planes=tuple(Plane(value, offset) for offset in offsets))

    def _unstored(self, node: Node) -> Tensor:
        """The tensor of a streamed layer, without planes."""
        epilogue = self.epilogues[node.name]
        assert epilogue.first is not None
        shape = self.shapes[node.name]
        lanes = layout.dense_lanes(shape[0], self.breaks.get(epilogue.first, ()))
        tensor = Tensor(shape, (), lanes)
        self.tensors[epilogue.first] = tensor
        return tensor

    def _stream_rows(self, node: Node, reader: Node) -> None:
        """The first layer and the strided one behind it; rows at the seams of bands are computed twice."""
        epilogue, then = self.epilogues[node.name], self.epilogues[reader.name]
        image, between = Tensor(self.shapes[node.inputs[0]], (), ()), self._unstored(node)
        emit_first, rows = self.prepare_planar(node, epilogue, image, between.lanes)
        results = self.results(reader, then)
        emit_second, extent = self.prepare_dense(reader, then, between, results.lanes)
        a = reader.attributes
        stride, padding, taps = a["stride"][0], a["padding"][0], a["kernel"][0]
        columns = between.shape[2]
        size = max(BAND_ROWS, -(-extent // MOST_BANDS))
        for start in range(0, extent, size):
            stop = min(start + size, extent)
            # At least one row, though a band whose windows lie in the padding reads none.
            top = min(max(start * stride - padding, 0), rows - 1)
            bottom = max(min((stop - 1) * stride - padding + taps, rows), top + 1)
            band = self._band(node.name, between, top * columns, (bottom - top) * columns)
            emit_first(image, self._inner(epilogue, band, (bottom - top) * columns), top, bottom)
            emit_second(band, results, start, stop)
            self._mark(node.name, start // size, 2)

    def _stream_pixels(self, root: Node) -> None:
        """A tree of 1x1 convolutions."""
        source = self.stored(root.inputs[0])
        inner: dict[str, Tensor] = {}
        leaves: dict[str, Results] = {}
        prepared: list[tuple[Node, Prepared]] = []

        def prepare(node: Node, taken: Tensor) -> None:
            epilogue = self.epilogues[node.name]
            readers = self._readers(node, epilogue)
            if readers:
                inner[node.name] = self._unstored(node)
                lanes = inner[node.name].lanes
            else:
                leaves[node.name] = self.results(node, epilogue)
                lanes = leaves[node.name].lanes
            prepared.append((node, self.prepare_pointwise(node, epilogue, taken, lanes)))
            for reader in readers:
                prepare(reader, inner[node.name])

        prepare(root, source)
        pixels = source.pixels
        size = max(BAND_PIXELS, -(-pixels // MOST_BANDS // 14) * 14)
        for start in range(0, pixels, size):
            stop = min(start + size, pixels)
            bands, before = {root.inputs[0]: source}, len(self.steps)
            for node, (emit, _) in prepared:
                epilogue = self.epilogues[node.name]
                results = leaves.get(node.name)
                if results is None:
                    band = self._band(node.name, inner[node.name], start, stop - start)
                    bands[str(epilogue.first)] = band
                    results = self._inner(epilogue, band, stop - start)
                emit(bands[node.inputs[0]], results, start, stop)
            self._mark(root.name, start // size, len(self.steps) - before)

    def _mark(self, stream: str, band: int, count: int) -> None:
        """Note for the last `count` steps which band of which stream they make."""
        for step in self.steps[-count:]:
            step.band = (stream, band)

    @staticmethod
    def _inner(epilogue: Epilogue, band: Tensor, pitch: int) -> Results:
        """Results of a layer that stores one band only."""
        return Results(band.lanes, epilogue.flags, band, None, None, pitch)
