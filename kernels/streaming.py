"""Layers that run band by band, so that what lies between them is never stored whole.

Two cases matter: the first layer of a detector, whose output is the largest tensor of all and is read by one strided
convolution; and detection heads, trees of 1x1 convolutions on a large map. Their layers take turns, a band of rows or
pixels each, and hand over tensors that fit the cache; 8K images then need little more memory than the trunk.
"""

from __future__ import annotations

import math

from refnet.graph import Node

from . import layout
from .emitter import Emitter
from .layout import Block, Buffer, Tensor
from .lower_convolution import (
    ALGORITHMS,
    Destination,
    Prepared,
    destination,
    image_of,
    lower_whole,
)
from .simd import LANES

#: Floats from which on a tensor is streamed.
STREAMED = 1 << 18
#: Pixels and rows of a band, and how many bands there are at most: each is an instruction of every layer. Bands half as
#: large run no faster (LFFD, widths 0.5 and 1, 640x480), and planning takes longer the more there are.
BAND_PIXELS, BAND_ROWS, MOST_BANDS = 504, 4, 128


def lower_convolution(emitter: Emitter, node: Node) -> None:
    """Emit one layer, or the whole tree of layers that it streams into."""
    readers = _streamed_into(emitter, node)
    if not readers:
        lower_whole(emitter, node)
    elif emitter.algorithms[node.name].name == "planar":
        _stream_rows(emitter, node, readers[0])
    else:
        _stream_pixels(emitter, node)


def _streamed_into(emitter: Emitter, node: Node) -> list[Node]:
    """The layers that can take this one's output band by band; none if it must be stored."""
    algorithms, epilogues = emitter.algorithms, emitter.fusion.epilogues
    epilogue, shape = epilogues[node.name], emitter.shapes[node.name]
    name, algorithm = epilogue.first, algorithms[node.name].name
    if algorithm not in ("planar", "pointwise") or name is None or len(shape) != 3:
        return []
    # A tensor that is stored anyway, or that fits the cache, gains nothing.
    if epilogue.second or epilogue.residual or math.prod(shape) < STREAMED:
        return []
    # The first layer makes rows for a strided window; 1x1 convolutions hand over pixels.
    readers = emitter.fusion.consumers[name]
    wanted = "dense" if algorithm == "planar" else "pointwise"
    fits = all(
        reader.op == "conv"
        and algorithms[reader.name].name == wanted
        and epilogues[reader.name].residual is None
        for reader in readers
    )
    if name in emitter.graph.outputs or not readers or not fits:
        return []
    return readers if wanted == "pointwise" or len(readers) == 1 else []


def _band(name: str, like: Tensor, first: int, pixels: int) -> Tensor:
    """Pixels first to first + pixels of a tensor that exists only in bands. Its blocks are addressed as if it were
    whole: they begin where pixel 0 would lie, before the buffer."""
    buffer = Buffer(f"{name} from {first}", len(like.lanes) * pixels, per_thread=True)
    offsets = range(-first * LANES, buffer.floats - first * LANES, pixels * LANES)
    blocks = tuple([Block(buffer, offset) for offset in offsets])
    return Tensor(like.shape, blocks, like.lanes)


def _unstored(emitter: Emitter, node: Node) -> Tensor:
    """The tensor of a streamed layer, without blocks."""
    name = emitter.fusion.epilogues[node.name].first
    assert name is not None
    shape = emitter.shapes[node.name]
    lanes = layout.dense_lanes(shape[0], emitter.block_starts.get(name, ()))
    tensor = emitter.tensors[name] = Tensor(shape, (), lanes)
    return tensor


def _into(emitter: Emitter, node: Node, band: Tensor, pixels: int) -> Destination:
    """The destination of a layer that stores one band only."""
    epilogue = emitter.fusion.epilogues[node.name]
    return Destination(band.lanes, epilogue.flags, epilogue.slope, band, None, None, pixels)


def _stream_rows(emitter: Emitter, node: Node, reader: Node) -> None:
    """The first layer and the strided one after it; rows at the seams of bands are computed twice."""
    image, between = image_of(emitter, node), _unstored(emitter, node)
    producer = ALGORITHMS["planar"](emitter, node, image, between.lanes)
    # The consumer's result is a whole tensor, of which each band writes its rows.
    target = destination(emitter, reader, emitter.fusion.epilogues[reader.name])
    consumer = ALGORITHMS["dense"](emitter, reader, between, target.lanes)
    a = reader.attributes
    stride, padding = a["stride"][0], a["padding"][0]
    span = (a["kernel"][0] - 1) * a["dilation"][0] + 1
    columns = between.shape[2]
    size = max(BAND_ROWS, -(-consumer.extent // MOST_BANDS))
    for start in range(0, consumer.extent, size):
        stop = min(start + size, consumer.extent)
        # At least one row, though a band whose windows lie in the padding reads none.
        top = min(max(start * stride - padding, 0), producer.extent - 1)
        bottom = max(min((stop - 1) * stride - padding + span, producer.extent), top + 1)
        pixels, before = (bottom - top) * columns, len(emitter.instructions)
        band = _band(node.name, between, top * columns, pixels)
        producer.emit(image, _into(emitter, node, band, pixels), top, bottom)
        consumer.emit(band, target, start, stop)
        _mark(emitter, before, node.name, start // size)


def _stream_pixels(emitter: Emitter, root: Node) -> None:
    """A tree of 1x1 convolutions."""
    source = emitter.stored(root.inputs[0])
    inner: dict[str, Tensor] = {}
    leaves: dict[str, Destination] = {}
    prepared: list[tuple[Node, Prepared]] = []

    def prepare(node: Node, taken: Tensor) -> None:
        readers = _streamed_into(emitter, node)
        if readers:
            inner[node.name] = _unstored(emitter, node)
            # Known before the first band, since weights are packed for the lanes of both sides.
            lanes = inner[node.name].lanes
        else:
            leaves[node.name] = destination(emitter, node, emitter.fusion.epilogues[node.name])
            lanes = leaves[node.name].lanes
        prepared.append((node, ALGORITHMS["pointwise"](emitter, node, taken, lanes)))
        for reader in readers:
            prepare(reader, inner[node.name])

    prepare(root, source)
    size = max(BAND_PIXELS, -(-source.pixels // MOST_BANDS // 14) * 14)
    for start in range(0, source.pixels, size):
        stop = min(start + size, source.pixels)
        bands, before = {root.inputs[0]: source}, len(emitter.instructions)
        for node, layer in prepared:
            target = leaves.get(node.name)
            if target is None:
                band = _band(node.name, inner[node.name], start, stop - start)
                bands[str(emitter.fusion.epilogues[node.name].first)] = band
                target = _into(emitter, node, band, stop - start)
            layer.emit(bands[node.inputs[0]], target, start, stop)
        # All layers of one band, before the next band: what they hand over is still in cache.
        _mark(emitter, before, root.name, start // size)


def _mark(emitter: Emitter, first: int, stream: str, band: int) -> None:
    """Note for all instructions from `first` on which band of which stream they make."""
    for instruction in emitter.instructions[first:]:
        instruction.band = (stream, band)
