"""From layers to instructions.

`lower` walks the rewritten graph in order; a layer whose residual is made later in the graph waits for it. LOWERINGS
has a function for each operation. Every tensor ends up as a list of blocks (`layout.py`): concatenations, slices and
flattenings are list operations and emit nothing. A list of cells, such as a detector's boxes, is kept as the maps whose
pixels they are, and so are its reshapes; only where an output is stored do cells get their order. Convolutions and linear
layers are in `lower_convolution.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refnet.graph import Graph, Node

from . import layout
from .algorithm import UnsupportedError, choose, is_by_channel, is_depthwise, is_image
from .assembler import Operand
from .emitter import Emitter, Shapes, Weights
from .epilogue import INFINITY
from .fusion import RELUS, Fusion, deferred_relus, fuse
from .instructions import (
    AFFINE,
    BLOCK_PITCH,
    BLOCKS,
    CHANNEL_PITCH,
    COLUMNS,
    CONSTANTS,
    DEPTH,
    DEPTH_TO_SPACE,
    FIRST,
    INPUTS,
    LAST,
    MULTIPLY,
    OTHER,
    OUT_COLUMNS,
    PIXEL_PITCH,
    PIXELS,
    PLACES,
    REPEAT_COLUMNS,
    REPEAT_ROWS,
    RESAMPLE,
    ROWS,
    SIGMOID,
    SOFTMAX,
    STEP,
    STORE_OUTPUT,
    UPSAMPLE,
    X,
    Y,
)
from .layout import Tensor
from .lower_pool import MEANS, pool
from .packing import PackedWeights, channel_limits
from .plan import Output
from .simd import LANES
from .streaming import lower_convolution

#: Besides activations, what makes a tensor whose channels lie in the same lanes as its operands'.
LANE_BY_LANE = (
    *("add", "sigmoid", "softmax", "normalize", "average_pool", "max_pool", "upsample"),
    "upsample_linear",
    *("global_average_pool", "global_max_pool", "conv_transpose", "pad"),
    *("multiply", "silu", "hard_sigmoid", "hard_swish", "clip"),
)


class Decisions:
    """What is decided for a graph, once for images of all sizes that it comes out the same for."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._starts: dict[str, frozenset[int]] = {}
        self._fusions: dict[tuple[frozenset[str], tuple[bool, ...]], Fusion] = {}

    def starts(self, shapes: Shapes) -> dict[str, frozenset[int]]:
        """As `block_starts`, which asks shapes for channels alone; these are the same in images of all sizes."""
        self._starts = self._starts or block_starts(self.graph, shapes)
        return self._starts

    def fusion(self, shapes: Shapes) -> Fusion:
        """As `fuse`, which asks shapes for these two things alone."""
        depthwise = [
            is_depthwise(n, self.graph, shapes) for n in self.graph.nodes if n.op == "conv"
        ]
        key = deferred_relus(self.graph, shapes), tuple(depthwise)
        if key not in self._fusions:
            self._fusions[key] = fuse(self.graph, shapes)
        return self._fusions[key]


def lower(
    decided: Decisions, weights: Weights, shapes: Shapes, packed: PackedWeights
) -> tuple[Emitter, list[Output]]:
    """All instructions, in the emitter that made them, and where the outputs are.

    Raises:
        UnsupportedError: the engine has no kernel for one of the layers; the message says which and why.
    """
    graph = decided.graph
    layers = [node for node in graph.nodes if node.op in ("conv", "linear")]
    algorithms = {node.name: choose(node, graph, shapes) for node in layers}
    fusion, starts = decided.fusion(shapes), decided.starts(shapes)
    emitter = Emitter(graph, weights, shapes, packed, fusion, algorithms, starts)
    # Algorithms and fusions are decided for the whole graph before the first instruction is emitted: a layer must
    # know its consumers.
    begun: set[str] = set()
    for node in graph.nodes:
        if node.name in fusion.producers:
            _make(emitter, node.name, begun)
    outputs: list[Output] = []
    for name in graph.outputs:
        output = Output(name, sum(output.size for output in outputs), shapes[name])
        outputs.append(output)
        _store_output(emitter, output)
    return emitter, outputs


def block_starts(graph: Graph, shapes: Shapes) -> dict[str, frozenset[int]]:
    """{tensor: channels at which a new block should begin}, because a slice starts or ends there. Tensors that must
    have the same layout (the operands of an addition, both sides of a depthwise convolution or an activation) share
    them."""
    parent = {name: name for name in (graph.input, *graph.node)}

    def root(name: str) -> str:
        while parent[name] != name:
            name = parent[name]
        return name

    for node in graph.nodes:
        if node.op in (*RELUS, *LANE_BY_LANE) or is_by_channel(node, graph):
            for name in node.inputs:
                parent[root(name)] = root(node.name)
    # Sets of tensors that share a layout are united above; a slice of one of them counts for all.
    cuts: dict[str, set[int]] = {name: set() for name in parent}
    for node in graph.nodes:
        if node.op == "slice":
            cuts[root(node.inputs[0])] |= {node.attributes["start"], node.attributes["stop"]}
        if node.op == "depth_to_space" and node.attributes["depth_first"]:
            # Each place of a square is a slice of its own.
            made, (taken, *_) = shapes[node.name][0], shapes[node.inputs[0]]
            cuts[root(node.inputs[0])] |= {*range(0, taken, made)}
    return {name: frozenset(cuts[root(name)]) for name in parent}


def _make(emitter: Emitter, name: str, begun: set[str]) -> None:
    """Make the tensor `name`, after whatever it needs."""
    if name == emitter.graph.input or name in emitter.tensors or name in emitter.cells:
        return
    node = emitter.fusion.producers[name]
    # Fusion rules this out; if it fails, an error is better than an endless recursion.
    if node.name in begun:
        raise UnsupportedError(f"{name!r} is needed before the layer that makes it can run")
    begun.add(node.name)
    epilogue = emitter.fusion.epilogues.get(node.name)
    for needed in node.inputs:
        _make(emitter, needed, begun)
    # What a layer adds to its sums is made before it, even if it comes later in the graph.
    if epilogue is not None and epilogue.residual is not None:
        _make(emitter, epilogue.residual, begun)
    try:
        if node.op not in LOWERINGS:
            raise UnsupportedError(f"the engine has no kernel for {node.op!r} ({node.name})")
        LOWERINGS[node.op](emitter, node)
    except UnsupportedError as error:
        error.layer = node.name
        raise
    for made in epilogue.names if epilogue else (node.name,):
        for reader in emitter.fusion.consumers[made]:
            # A pool takes its mean while the map is still in cache.
            if reader.op in MEANS and reader.name in emitter.fusion.producers:
                _make(emitter, reader.name, begun)


# --------------------------------------------------------------------------- operations on lists


def concat(emitter: Emitter, node: Node) -> None:
    """Joined lists of blocks, or of cells."""
    if node.attributes["axis"] != 1:
        raise UnsupportedError(f"{node.name} concatenates along axis {node.attributes['axis']}")
    if all(name in emitter.cells for name in node.inputs):
        emitter.cells[node.name] = [part for name in node.inputs for part in emitter.cells[name]]
    else:
        parts = [emitter.stored(name) for name in node.inputs]
        emitter.tensors[node.name] = layout.concatenate(parts)


def slice_channels(emitter: Emitter, node: Node) -> None:
    """A shorter list of blocks."""
    source, attributes = emitter.stored(node.inputs[0]), node.attributes
    # As NumPy understands negative and open ends.
    start, stop, _ = slice(attributes["start"], attributes["stop"]).indices(source.shape[0])
    emitter.tensors[node.name] = layout.slice_channels(source, start, stop)


def take(emitter: Emitter, node: Node) -> None:
    """Channels of a map, wherever they lie in its blocks, or of every cell."""
    name, a = node.inputs[0], node.attributes
    over_channels = 2 if name in emitter.cells else 1
    if a["step"] != 1 or a["axis"] != over_channels:
        raise UnsupportedError(
            f"{node.name} takes {a['start']}:{a['stop']}:{a['step']} along axis {a['axis']}; the engine takes "
            "neighbouring channels, of a map or of every cell"
        )
    width = emitter.shapes[name][over_channels - 1]
    start, stop, _ = slice(a["start"], a["stop"]).indices(width)
    if name in emitter.cells:
        parts = emitter.cells[name]
        emitter.cells[node.name] = [layout.take_cells(p, width, start, stop) for p in parts]
    else:
        emitter.tensors[node.name] = layout.slice_channels(emitter.stored(name), start, stop)


def flatten(emitter: Emitter, node: Node) -> None:
    """Every pixel a block of its own."""
    source = emitter.stored(node.inputs[0])
    emitter.tensors[node.name] = layout.flatten(source) if len(source.shape) == 3 else source


def cells(emitter: Emitter, node: Node) -> None:
    """A list of one map."""
    emitter.cells[node.name] = [emitter.stored(node.inputs[0])]


def reshape(emitter: Emitter, node: Node) -> None:
    """The same map or vector, or the same maps: the cells of a pixel lie side by side in an output, in the order of its channels."""
    name, shape = node.inputs[0], emitter.shapes[node.name]
    maps = emitter.cells.get(name)
    if all(len(s) in (1, 3) and s[1:] in ((), (1, 1)) for s in (shape, emitter.shapes[name])):
        # A vector, and a map of one pixel: gates are computed as the one and used as the other.
        source = emitter.stored(name)
        emitter.tensors[node.name] = Tensor(shape, source.blocks, source.lanes)
        return
    if maps is None or len(shape) != 2 or any(part.shape[0] % shape[1] for part in maps):
        raise UnsupportedError(
            f"{node.name} reshapes {emitter.shapes[name]} to {shape}; the engine can cut the rows of a list of "
            "cells into equal parts, and make a map of one pixel a vector"
        )
    emitter.cells[node.name] = maps


# ------------------------------------------------------------------------- operations on elements


def _each(emitter: Emitter, node: Node, make: Callable[[Tensor], Tensor]) -> None:
    """An operation on single elements: on a map or vector, or on all maps of a list of cells."""
    name = node.inputs[0]
    if name in emitter.cells:
        emitter.cells[node.name] = [make(part) for part in emitter.cells[name]]
    else:
        emitter.tensors[node.name] = make(emitter.stored(name))


def relu(emitter: Emitter, node: Node) -> None:
    """Left to those who load it, or computed."""
    if node.name in emitter.fusion.deferred_relus:
        source = emitter.stored(node.inputs[0])
        emitter.tensors[node.name] = Tensor(source.shape, source.blocks, source.lanes, True)
    else:
        activation(emitter, node)


def activation(emitter: Emitter, node: Node) -> None:
    """ReLU, ReLU6 or leaky ReLU."""
    slope = node.attributes.get("slope", 0.0)
    _each(emitter, node, lambda part: emitter.sum(node.name, [part], node.op, slope))


def prelu(emitter: Emitter, node: Node) -> None:
    """A leaky ReLU with a slope for each channel."""
    slopes = np.asarray(emitter.weights[node.parameters["slope"]], np.float64)
    emitter.leaking(node.name, emitter.stored(node.inputs[0]), slopes)


def add(emitter: Emitter, node: Node) -> None:
    """Two addends at a time."""
    total = emitter.stored(node.inputs[0])
    for i, name in enumerate(node.inputs[1:], 1):
        # The sum is made lane by lane, so the addends' channels must lie in equal lanes.
        other = emitter.in_lanes(emitter.stored(name), total.lanes, name)
        last = i == len(node.inputs) - 1
        total = emitter.added(node.name if last else f"{node.name} after {i}", [total, other], "")


def sigmoid(emitter: Emitter, node: Node) -> None:
    """1 / (1 + exp(-x))."""
    _each(
        emitter,
        node,
        lambda part: emitter.vectors(SIGMOID, node.name, str(part.shape), {}, [part]),
    )


def normalize(emitter: Emitter, node: Node) -> None:
    """(x - mean) / std; of the image itself, left to the kernels that load it."""
    mean, std = node.attributes["mean"], node.attributes["std"]
    scale, shift = 1.0 / std, -mean / std
    if is_image(node.name, emitter.graph):
        emitter.images[node.name] = (scale, shift)
        emitter.tensors[node.name] = Tensor(emitter.shapes[node.name], (), ())
        return
    _each(emitter, node, lambda part: _affine(emitter, node.name, part, scale, shift))


def _affine(
    emitter: Emitter,
    name: str,
    part: Tensor,
    scale: float,
    shift: float,
    low: float = -INFINITY,
    high: float = INFINITY,
) -> Tensor:
    """x * scale + shift, not below `low` nor above `high`."""
    operands: dict[int, Operand] = {CONSTANTS: emitter.constants(scale, shift, low, high)}
    return emitter.vectors(AFFINE, name, str(part.shape), operands, [part])


def clip(emitter: Emitter, node: Node) -> None:
    """x between two limits."""
    low, high = node.attributes["low"], node.attributes["high"]
    _each(emitter, node, lambda part: _affine(emitter, node.name, part, 1.0, 0.0, low, high))


def hard_sigmoid(emitter: Emitter, node: Node) -> None:
    """A line between 0 and 1."""
    line = node.attributes["slope"], node.attributes["shift"], 0.0, 1.0
    _each(emitter, node, lambda part: _affine(emitter, node.name, part, *line))


def gated(emitter: Emitter, node: Node) -> None:
    """SiLU and hard swish: x times its sigmoid, or the hard one."""

    def make(part: Tensor) -> Tensor:
        name, note = f"{node.name} gate", str(part.shape)
        if node.op == "silu":
            gate = emitter.vectors(SIGMOID, name, note, {}, [part])
        else:
            gate = _affine(emitter, name, part, 1 / 6, 0.5, 0.0, 1.0)
        return emitter.vectors(MULTIPLY, node.name, note, {STEP: LANES}, [part, gate])

    _each(emitter, node, make)


def multiply(emitter: Emitter, node: Node) -> None:
    """Element by element, or every channel of a map by a factor of its own."""
    shapes = [emitter.shapes[name] for name in node.inputs]
    names = list(node.inputs)
    if shapes[0][1:] == (1, 1):
        names.reverse()
        shapes.reverse()
    whole = emitter.stored(names[0])
    other = emitter.in_lanes(emitter.stored(names[1]), whole.lanes, names[1])
    if shapes[0] == shapes[1]:
        note, operands = str(whole.shape), {STEP: LANES}
        product = emitter.vectors(MULTIPLY, node.name, note, operands, [whole, other])
        emitter.tensors[node.name] = product
        return
    if shapes[1] != (shapes[0][0], 1, 1):
        raise UnsupportedError(
            f"{node.name} multiplies {shapes[0]} by {shapes[1]}; the engine has a kernel for equal shapes and for "
            "one factor a channel"
        )
    result = emitter.allocate(node.name, whole.shape, whole.lanes)
    for i, (x, gate, y) in enumerate(zip(whole.blocks, other.blocks, result.blocks, strict=True)):
        places: dict[int, Operand] = {Y: y, X: x, OTHER: gate, PIXELS: whole.pixels}
        emitter.emit(MULTIPLY, node.name, f"gate of block {i}", places, [x, gate], [y])


def softmax(emitter: Emitter, node: Node) -> None:
    """Over the channels: the last axis of cells, the first one after the batch of all other tensors."""
    name, axis = node.inputs[0], node.attributes["axis"]
    shape = emitter.shapes[name]
    # Axes count the batch, shapes do not.
    over_channels = 2 if name in emitter.cells else 1
    if not isinstance(axis, int) or axis % (len(shape) + 1) != over_channels:
        raise UnsupportedError(
            f"{node.name} is a softmax along axis {axis} of (N, {', '.join(map(str, shape))}); "
            "the engine has a kernel for softmaxes over channels"
        )
    if name in emitter.cells:
        made = []
        for part in emitter.cells[name]:
            # A pixel that has several cells has a softmax for each of them.
            starts = range(0, part.shape[0], shape[1])
            cuts = [layout.slice_channels(part, i, i + shape[1]) for i in starts]
            made.append(layout.concatenate([_softmax(emitter, node.name, cut) for cut in cuts]))
        emitter.cells[node.name] = made
    else:
        emitter.tensors[node.name] = _softmax(emitter, node.name, emitter.stored(name))


def _softmax(emitter: Emitter, name: str, source: Tensor) -> Tensor:
    result = layout.allocate(name, source.shape, source.lanes)
    # A softmax must leave out padding lanes, whose content is arbitrary.
    limits = emitter.packed.get(
        ("channel limits", source.lanes), lambda: channel_limits(source.lanes)
    )
    operands: dict[int, Operand] = {
        Y: result.blocks[0],
        PIXELS: result.pixels,
        BLOCKS: len(source.blocks),
        CONSTANTS: limits,
        INPUTS: source.blocks,
        FIRST: 0,
        LAST: result.pixels,
    }
    note = f"over {source.shape[0]} channels of {result.pixels} pixels"
    emitter.emit(SOFTMAX, name, note, operands, source.blocks, result.blocks)
    return result


# ----------------------------------------------------------------------------- operations on maps


def upsample(emitter: Emitter, node: Node) -> None:
    """Every pixel repeated."""
    source, (down, across) = emitter.stored(node.inputs[0]), node.attributes["factor"]
    _, rows, columns = source.shape
    result = emitter.allocate(node.name, emitter.shapes[node.name], source.lanes)
    operands: dict[int, Operand] = {
        Y: result.blocks[0],
        BLOCKS: len(source.blocks),
        INPUTS: source.blocks,
        ROWS: rows,
        COLUMNS: columns,
        REPEAT_ROWS: down,
        REPEAT_COLUMNS: across,
        FIRST: 0,
        LAST: rows,
    }
    note = f"{source.shape} -> {result.shape}"
    emitter.emit(UPSAMPLE, node.name, note, operands, source.blocks, result.blocks)


def upsample_linear(emitter: Emitter, node: Node) -> None:
    """Pixels between those of the input."""
    a, (_, *sizes) = node.attributes, emitter.shapes[node.inputs[0]]
    places, shares = [], []
    for size, factor in zip(sizes[::-1], a["factor"][::-1], strict=True):
        at = np.arange(size * factor, dtype=np.float64)
        if a["coordinates"] == "align_corners":
            at *= (size - 1) / max(size * factor - 1, 1)
        else:
            at = (at + 0.5) / factor - 0.5 if a["coordinates"] == "half_pixel" else at / factor
        at = at.clip(0, size - 1)
        one = at.astype(np.int64)
        places.append(np.stack([one, np.minimum(one + 1, size - 1)], axis=1))
        shares += (at - one).tolist()
    _resampled(emitter, node, places, shares)


def _resampled(
    emitter: Emitter, node: Node, places: Sequence[NDArray[Any]], shares: Sequence[float] = ()
) -> None:
    """Pixels from (one, other) columns and rows of the input, copies of the first of them if there are no shares."""
    source = emitter.stored(node.inputs[0])
    result = emitter.allocate(node.name, emitter.shapes[node.name], source.lanes)
    operands: dict[int, Operand] = {
        Y: result.blocks[0],
        BLOCKS: len(result.blocks),
        BLOCK_PITCH: result.pixels * LANES,
        INPUTS: source.blocks,
        ROWS: source.shape[1],
        COLUMNS: source.shape[2],
        OUT_COLUMNS: result.shape[2],
        PLACES: tuple(np.concatenate(places).ravel().tolist()),
        CONSTANTS: emitter.constants(*shares) if shares else -1,
        FIRST: 0,
        LAST: result.shape[1],
    }
    note = f"{source.shape} -> {result.shape}"
    emitter.emit(RESAMPLE, node.name, note, operands, source.blocks, result.blocks)


def spread(emitter: Emitter, node: Node) -> None:
    """What is left of a transposed convolution before the convolution that `rewrites.spread_transposed` made of it."""
    a, name = node.attributes, node.inputs[0]
    (top, left), (_, rows, columns) = a["padding"], emitter.shapes[node.name]
    if (a["kernel"], a["groups"]) != ((1, 1), emitter.shapes[name][0]):
        raise UnsupportedError(f"{node.name} is a transposed convolution that was not rewritten")
    source = emitter.stored(name)
    emitter.tensors[node.name] = emitter.spread(
        node.name, source, (rows, columns), (-top, -left), a["stride"]
    )


def pad(emitter: Emitter, node: Node) -> None:
    """A map in a frame of one value, or of its own pixels."""
    (channels, *corner), mode = node.attributes["widths"], node.attributes["mode"]
    if len(corner) != 2 or any(channels):
        raise UnsupportedError(
            f"{node.name} pads by {node.attributes['widths']}; the engine has a kernel for rows and columns"
        )
    if mode != "constant":
        sizes = emitter.shapes[node.inputs[0]][1:]
        copied = [
            np.pad(np.arange(size), widths, mode=mode)
            for size, widths in zip(sizes[::-1], corner[::-1], strict=True)
        ]
        _resampled(emitter, node, [np.stack([of, of], axis=1) for of in copied])
        return
    (top, _), (left, _) = corner
    _, rows, columns = emitter.shapes[node.name]
    emitter.tensors[node.name] = emitter.spread(
        *(node.name, emitter.stored(node.inputs[0]), (rows, columns), (top, left)),
        value=node.attributes["value"],
    )


def depth_to_space(emitter: Emitter, node: Node) -> None:
    """Every pixel a square, whose pixels come from different channels."""
    shape, block = emitter.shapes[node.name], node.attributes["block"]
    made, square = shape[0], block**2
    lanes = layout.dense_lanes(made, emitter.block_starts.get(node.name, ()))
    # Blocks of which each makes one pixel of every square, in the lanes of the result.
    step, stride = (made, 1) if node.attributes["depth_first"] else (1, square)
    wanted = tuple(
        place * step + lane * stride if lane >= 0 else -1
        for place in range(square)
        for lane in lanes
    )
    # `block_starts` has asked the layer before for these lanes, where they are slices; else they are gathered.
    source = emitter.in_lanes(emitter.stored(node.inputs[0]), wanted, node.inputs[0])
    result = emitter.allocate(node.name, shape, lanes)
    operands: dict[int, Operand] = {
        Y: result.blocks[0],
        BLOCKS: len(result.blocks),
        INPUTS: source.blocks,
        ROWS: source.shape[1],
        COLUMNS: source.shape[2],
        REPEAT_ROWS: block,
        REPEAT_COLUMNS: block,
        FIRST: 0,
        LAST: source.shape[1],
    }
    note = f"{source.shape} -> {shape}"
    emitter.emit(DEPTH_TO_SPACE, node.name, note, operands, source.blocks, result.blocks)


# ---------------------------------------------------------------------------------------- outputs


def _store_output(emitter: Emitter, output: Output) -> None:
    """Copy an output into the caller's array: plane by plane, or cell by cell."""
    if output.name not in emitter.cells:
        tensor = emitter.stored(output.name)
        _store(emitter, output.name, tensor, output.offset, tensor.pixels, 1)
        return
    offset = output.offset
    # Cells of one pixel lie side by side, so a map's channels are one float apart and its pixels as many as it has.
    for part in emitter.cells[output.name]:
        channels = part.shape[0]
        _store(emitter, output.name, part, offset, 1, channels)
        offset += part.pixels * channels


def _store(
    emitter: Emitter, name: str, tensor: Tensor, offset: int, channel_pitch: int, pixel_pitch: int
) -> None:
    places = tensor.sources()
    operands: dict[int, Operand] = {
        Y: offset,
        PIXELS: tensor.pixels,
        DEPTH: len(places),
        INPUTS: tuple(places),
        CHANNEL_PITCH: channel_pitch,
        PIXEL_PITCH: pixel_pitch,
    }
    emitter.emit(STORE_OUTPUT, name, f"{tensor.shape} to the caller", operands, places)


#: {operation: what emits it}.
LOWERINGS: Mapping[str, Callable[[Emitter, Node], None]] = {
    "conv": lower_convolution,
    "linear": lower_convolution,
    "concat": concat,
    "slice": slice_channels,
    "take": take,
    "flatten": flatten,
    "cells": cells,
    "reshape": reshape,
    "relu": relu,
    "relu6": activation,
    "leaky_relu": activation,
    "prelu": prelu,
    "add": add,
    "sigmoid": sigmoid,
    "multiply": multiply,
    "silu": gated,
    "hard_swish": gated,
    "hard_sigmoid": hard_sigmoid,
    "clip": clip,
    "softmax": softmax,
    "normalize": normalize,
    "average_pool": pool,
    "max_pool": pool,
    "global_average_pool": pool,
    "global_max_pool": pool,
    "upsample": upsample,
    "upsample_linear": upsample_linear,
    "conv_transpose": spread,
    "pad": pad,
    "depth_to_space": depth_to_space,
}
