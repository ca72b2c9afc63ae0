"""Layers that run band by band, so that what lies between them is never stored whole.

Two cases matter. In a *stream of rows*, each layer reads only what the one before it makes: the first layer of a detector,
whose output is the largest tensor of all, and a strided convolution; or 1x1 and depthwise convolutions and pools in turn.
Rows around a band that a window needs are made twice. In a *stream of pixels*, 1x1 convolutions on a large map are a tree:
a detection head. The layers take turns, a band of rows or pixels each, and hand over tensors that fit the cache; 8K images
then need little more memory than the trunk.
"""

from __future__ import annotations

import math

from refnet.graph import Node

from . import layout, lower_pool
from .emitter import Emitter
from .fusion import Epilogue
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

#: Floats from which on a tensor is streamed: 1 MiB, a Zen 5 core's second-level cache.
STREAMED = 1 << 18
#: Pixels and rows of a band, and how many bands there are at most: each is an instruction of every layer. Bands half as
#: large run no faster (LFFD, widths 0.5 and 1, 640x480, 2026-11-26), and planning takes longer the more there are.
BAND_PIXELS, BAND_ROWS, MOST_BANDS = 504, 4, 128
# 2 MiB is more than the second-level cache holds, but rows around a band are made twice, and smaller bands have more of
# them: with half of this, CenterFace takes 3 % longer, slim-320 and lffd-light 2, YuNet-n 1, LFFD as long (Zen 5,
# 640x480, 2026-11-27).
#: Floats of all that lies between the layers of a band of rows.
BAND_FLOATS = 1 << 19
#: Depthwise layers without a stride that a stream of rows may hold after its first layer: each makes all layers before it
#: do more rows. Streams with two of them lost time on detectors (a Xeon with 16 lanes, 2026-11-26). One with a stride reads
#: few rows more than the band's own, and a large map: streaming it takes 7 % off RFB-640 (Zen 5, 2026-11-27).
MOST_HALOS = 1
#: {kind of a layer: what it can be streamed into row by row}.
STREAMS = {
    "planar": ("dense", "pointwise", "depthwise"),
    "pointwise": ("depthwise",),
    "depthwise": ("pool", "pointwise"),
    "pool": ("pointwise",),
}


def lower_convolution(emitter: Emitter, node: Node) -> None:
    """Emit one layer, or all layers that it streams into."""
    # Streams of pixels first: a tree of 1x1 convolutions may branch, a chain of rows may not.
    if _streamed_into(emitter, node):
        _stream_pixels(emitter, node)
        return
    chain = _chain(emitter, node)
    if len(chain) > 1:
        _stream_rows(emitter, chain)
    else:
        lower_whole(emitter, node)


def _chain(emitter: Emitter, head: Node) -> list[Node]:
    """`head` and the layers that it can be streamed into row by row, each the only one that reads what the one before it
    makes."""
    chain, halos = [head], 0
    kind = _kind(emitter, head)
    if kind not in ("planar", "pointwise", "depthwise"):
        return chain
    while True:
        if not _is_passing(emitter, chain[-1]):
            return chain
        (reader,) = emitter.fusion.consumers[_made(emitter, chain[-1])]
        after = _kind(emitter, reader)
        if after not in STREAMS.get(kind, ()) or not _is_ready(emitter, reader):
            return chain
        # Rows around a band are made twice by all layers before this one, if they are many beside its own.
        halos += after == "depthwise" and reader.attributes["stride"][0] == 1
        if halos > MOST_HALOS:
            return chain
        chain.append(reader)
        kind = after


def _kind(emitter: Emitter, node: Node) -> str:
    """The algorithm of a layer; "pool" of a pool over windows, and "" of what is never streamed."""
    if node.name in emitter.algorithms:
        return emitter.algorithms[node.name].name if node.op == "conv" else ""
    if node.op not in ("max_pool", "average_pool") or lower_pool.is_global(emitter, node):
        return ""
    # The frame of other windows is made of the whole map.
    return "pool" if lower_pool.is_inside(emitter, node) else ""


def _made(emitter: Emitter, node: Node) -> str:
    """The tensor that a layer of a stream makes."""
    epilogue = emitter.fusion.epilogues.get(node.name)
    return node.name if epilogue is None else str(epilogue.first)


def _is_passing(emitter: Emitter, node: Node) -> bool:
    """Whether what a layer makes can be handed over in bands: too large for the cache, and read by one layer."""
    name, epilogue = _made(emitter, node), emitter.fusion.epilogues.get(node.name)
    # A residual or a second store is a whole tensor, which a band would have to be cut out of.
    if epilogue is not None and (epilogue.first is None or epilogue.second or epilogue.residual):
        return False
    if name in emitter.graph.outputs or len(emitter.fusion.consumers[name]) != 1:
        return False
    return math.prod(emitter.shapes[name]) >= STREAMED


def _is_ready(emitter: Emitter, node: Node) -> bool:
    """Whether a layer has nothing else to wait for, and a kernel."""
    epilogue = emitter.fusion.epilogues.get(node.name)
    if epilogue is None:
        return lower_pool.refusal(emitter, node) is None
    return epilogue.residual is None and epilogue.first is not None and not epilogue.second


def _streamed_into(emitter: Emitter, node: Node) -> list[Node]:
    """The 1x1 convolutions that can take the output of this one band by band; none if it must be stored."""
    algorithms, epilogues = emitter.algorithms, emitter.fusion.epilogues
    epilogue, shape = epilogues[node.name], emitter.shapes[node.name]
    name = epilogue.first
    if algorithms[node.name].name != "pointwise" or name is None or len(shape) != 3:
        return []
    # A tensor that is stored anyway, or that fits the cache, gains nothing.
    if epilogue.second or epilogue.residual or math.prod(shape) < STREAMED:
        return []
    readers = emitter.fusion.consumers[name]
    fits = all(
        reader.op == "conv"
        and algorithms[reader.name].name == "pointwise"
        and epilogues[reader.name].residual is None
        for reader in readers
    )
    return readers if fits and name not in emitter.graph.outputs else []


def _band(name: str, like: Tensor, first: int, pixels: int) -> Tensor:
    """Pixels first to first + pixels of a tensor that exists only in bands. Its blocks are addressed as if it were
    whole: they begin where pixel 0 would lie, before the buffer."""
    buffer = Buffer(f"{name} from {first}", len(like.lanes) * pixels, per_thread=True)
    offsets = range(-first * LANES, buffer.floats - first * LANES, pixels * LANES)
    blocks = tuple([Block(buffer, offset) for offset in offsets])
    return Tensor(like.shape, blocks, like.lanes)


def _unstored(emitter: Emitter, node: Node, lanes: tuple[int, ...] | None = None) -> Tensor:
    """The tensor of a streamed layer, without blocks, in the lanes of its input where channels stay in them."""
    name, shape = _made(emitter, node), emitter.shapes[node.name]
    if lanes is None:
        lanes = layout.dense_lanes(shape[0], emitter.block_starts.get(name, ()))
    tensor = emitter.tensors[name] = Tensor(shape, (), lanes)
    return tensor


def _into(emitter: Emitter, node: Node, band: Tensor, pixels: int) -> Destination:
    """The destination of a layer that stores one band only."""
    epilogue = emitter.fusion.epilogues.get(node.name, Epilogue(node.name))
    return Destination(band.lanes, epilogue.flags, band, None, None, pixels)


def _stream_rows(emitter: Emitter, chain: list[Node]) -> None:
    """Layers one after the other; rows at the seams of bands are made twice by all but the last one."""
    head, *_, last = chain
    planar = emitter.algorithms[head.name].name == "planar"
    source = image_of(emitter, head) if planar else emitter.stored(head.inputs[0])
    #: What lies before, between and after the layers; inner tensors have no blocks.
    tensors, layers = [source], list[_Rows]()
    for node in chain:
        kind, taken = _kind(emitter, node), tensors[-1]
        lanes = taken.lanes if kind in ("depthwise", "pool") else None
        if node is not last:
            made = _unstored(emitter, node, lanes)
        elif kind == "pool":
            target = lower_pool.destination(emitter, node, taken.lanes)
            made = target.main
        else:
            epilogue = emitter.fusion.epilogues[node.name]
            target = destination(emitter, node, epilogue, taken if lanes else None)
            made = target.main
        layers.append(_Rows(emitter, node, kind, taken, made))
        tensors.append(made)
    # Known only after all layers are prepared: their strides say how many rows of each a band holds.
    size = _band_rows(tensors[1:-1], layers)
    extent = tensors[-1].shape[1]
    for start in range(0, extent, size):
        stop, before = min(start + size, extent), len(emitter.instructions)
        # The rows that each layer makes, from the last one back to the first.
        rows = [(start, stop)]
        for layer in reversed(layers[1:]):
            rows.append(layer.reads(*rows[-1]))
        taken = source
        for node, layer, made, (top, bottom) in zip(
            chain, layers, tensors[1:], reversed(rows), strict=True
        ):
            if node is last:
                layer.emit(taken, target, top, bottom)
                break
            # Only this band's rows have memory. Threads run bands in any order: no row is kept for the next one.
            pixels, columns = (bottom - top) * made.shape[2], made.shape[2]
            band = _band(node.name, made, top * columns, pixels)
            layer.emit(taken, _into(emitter, node, band, pixels), top, bottom)
            taken = band
        _mark(emitter, before, head.name, start // size)


class _Rows:
    """A layer of a stream of rows."""

    def __init__(
        self, emitter: Emitter, node: Node, kind: str, taken: Tensor, made: Tensor
    ) -> None:
        self.kind, self.rows, self._taken = kind, made.shape[1], taken
        if kind == "pool":
            self._layer: Prepared = lower_pool.Windows(emitter, node)
        else:
            self._layer = ALGORITHMS[kind](emitter, node, taken, made.lanes)
        # A 1x1 convolution counts pixels, all others rows.
        self._unit = made.shape[2] if kind == "pointwise" else 1
        a = node.attributes
        self.stride, self._padding = a["stride"][0], a["padding"][0]
        self._span = (a["kernel"][0] - 1) * a.get("dilation", (1, 1))[0] + 1

    def reads(self, start: int, stop: int) -> tuple[int, int]:
        """The rows of its input that rows start to stop need; at least one, though a band whose windows lie in the
        padding reads none."""
        rows = self._taken.shape[1]
        top = min(max(start * self.stride - self._padding, 0), rows - 1)
        bottom = min((stop - 1) * self.stride - self._padding + self._span, rows)
        return top, max(bottom, top + 1)

    def emit(self, source: Tensor, destination: Destination, start: int, stop: int) -> None:
        """Emit rows start to stop."""
        self._layer.emit(source, destination, start * self._unit, stop * self._unit)


def _band_rows(between: list[Tensor], layers: list[_Rows]) -> int:
    """Output rows of a band: as many as BAND_FLOATS holds of what lies between the layers, since rows around it are made
    twice; BAND_ROWS for the first layer and a dense one, which read several rows for each that they make."""
    last = layers[-1]
    least = max(BAND_ROWS, -(-last.rows // MOST_BANDS))
    if last.kind == "dense":
        return least
    floats, scale = 0, 1
    for tensor, layer in zip(reversed(between), reversed(layers[1:]), strict=True):
        scale *= layer.stride
        floats += len(tensor.lanes) * tensor.shape[2] * scale
    return int(max(least, BAND_FLOATS // floats))


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
