"""From a pool to instructions: the mean of a whole map, or windows, whole or in bands of rows. Windows that reach outside of
their map are those of a copy of it in a frame."""

from __future__ import annotations

import math

from refnet.graph import Node

from .algorithm import UnsupportedError
from .assembler import Operand
from .emitter import Emitter
from .epilogue import STORE_FIRST
from .instructions import (
    BLOCK_PITCH,
    BLOCKS,
    COLUMNS,
    CONSTANTS,
    FIRST,
    GLOBAL_AVERAGE,
    INPUTS,
    KERNEL_COLUMNS,
    KERNEL_ROWS,
    LAST,
    MAXIMUM,
    OUT_COLUMNS,
    PIXELS,
    ROWS,
    STRIDE,
    STRIDE_COLUMNS,
    WINDOW_POOL,
    Y,
)
from .layout import Tensor
from .lower_convolution import Destination
from .simd import LANES

#: Pools that are made as soon as their map is, while it is still in cache.
MEANS = ("average_pool", "global_average_pool", "global_max_pool")


def pool(emitter: Emitter, node: Node) -> None:
    """The mean of a whole map, or mean or maximum over windows."""
    source = emitter.stored(node.inputs[0])
    if reason := refusal(emitter, node):
        raise UnsupportedError(reason)
    # A pool works lane by lane, so channels stay in their lanes, and padding lanes hold whatever comes out.
    target = destination(emitter, node, source.lanes)
    if not is_global(emitter, node):
        windows = Windows(emitter, node)
        if not is_inside(emitter, node):
            # What is outside never is the largest, and counts as zeros in a mean.
            outside = 0.0 if node.op == "average_pool" else -math.inf
            source = emitter.spread(
                f"{node.name} frame",
                source,
                _reach(emitter, node),
                node.attributes["padding"],
                value=outside,
            )
        windows.emit(source, target, 0, windows.extent)
        return
    # The mean of a whole map has a kernel of its own, with four sums in flight.
    result = target.main
    operands: dict[int, Operand] = {
        Y: result.blocks[0],
        BLOCKS: len(source.blocks),
        INPUTS: source.blocks,
        CONSTANTS: emitter.constants(1.0 / source.pixels),
        PIXELS: source.pixels,
    }
    note = f"{source.shape} -> {result.shape}"
    emitter.emit(GLOBAL_AVERAGE, node.name, note, operands, source.blocks, result.blocks)


def is_global(emitter: Emitter, node: Node) -> bool:
    """Whether a pool is the mean of its whole map."""
    # This follows from the image's size: on a larger one, the same pool is one over windows.
    size = emitter.shapes[node.inputs[0]][1:]
    if node.op == "average_pool":
        return tuple(node.attributes["kernel"]) == size and is_inside(emitter, node)
    return node.op == "global_average_pool"


def is_inside(emitter: Emitter, node: Node) -> bool:
    """Whether all windows of a pool lie inside of its map."""
    if "padding" not in node.attributes:
        return True  # a whole map
    size = emitter.shapes[node.inputs[0]][1:]
    reach = _reach(emitter, node)
    return node.attributes["padding"] == (0, 0) and reach[0] <= size[0] and reach[1] <= size[1]


def _reach(emitter: Emitter, node: Node) -> tuple[int, int]:
    """Rows and columns from the beginning of the first window of a pool to the end of the last one."""
    a, (_, *made) = node.attributes, emitter.shapes[node.name]
    rows, columns = (
        (n - 1) * s + k for n, s, k in zip(made, a["stride"], a["kernel"], strict=True)
    )
    return rows, columns


def refusal(emitter: Emitter, node: Node) -> str | None:
    """Why the kernels cannot run a pool: its windows have gaps, or their means count differently many values. None where
    they can."""
    a = node.attributes
    if a.get("dilation", (1, 1)) != (1, 1):
        return f"{node.name} pools with dilation {a['dilation']}"
    if node.op != "average_pool" or is_inside(emitter, node):
        return None
    if a["padding"] != (0, 0) and not a.get("count_padding", True):
        return f"{node.name} is a mean that leaves out its padding {a['padding']}"
    size = emitter.shapes[node.inputs[0]][1:]
    ends = (n + 2 * p for n, p in zip(size, a["padding"], strict=True))
    if any(end > most for end, most in zip(_reach(emitter, node), ends, strict=True)):
        return f"{node.name} is a mean over windows that hang over the edge of its map"
    return None


def destination(emitter: Emitter, node: Node, lanes: tuple[int, ...]) -> Destination:
    """Allocate what a pool makes, its channels in the lanes of its input."""
    result = emitter.allocate(node.name, emitter.shapes[node.name], lanes)
    return Destination(lanes, STORE_FIRST, result, None, None, result.pixels)


class Windows:
    """A pool over windows, by output rows."""

    def __init__(self, emitter: Emitter, node: Node) -> None:
        self.emitter, self.node = emitter, node
        self.extent = emitter.shapes[node.name][1]

    def emit(self, source: Tensor, destination: Destination, start: int, stop: int) -> None:
        """One instruction."""
        emitter, node, a = self.emitter, self.node, self.node.attributes
        # A maximum of the whole map is that of a window as large.
        kernel = a.get("kernel", source.shape[1:])
        stride, shape = a.get("stride", kernel), emitter.shapes[node.name]
        result = destination.main
        operands: dict[int, Operand] = {
            Y: result.blocks[0],
            BLOCKS: len(source.blocks),
            # Of the destination, which may be a band of the result.
            BLOCK_PITCH: destination.pixels * LANES,
            INPUTS: source.blocks,
            # A maximum has it too, since the kernel loads it before it knows.
            CONSTANTS: emitter.constants(1.0 / (kernel[0] * kernel[1])),
            MAXIMUM: int(node.op != "average_pool"),
            ROWS: source.shape[1],
            COLUMNS: source.shape[2],
            OUT_COLUMNS: shape[2],
            KERNEL_ROWS: kernel[0],
            KERNEL_COLUMNS: kernel[1],
            STRIDE: stride[0],
            STRIDE_COLUMNS: stride[1],
            FIRST: start,
            LAST: stop,
        }
        note = f"{source.shape} -> {shape}"
        if (start, stop) != (0, self.extent):
            note += f", rows {start} to {stop}"
        emitter.emit(WINDOW_POOL, node.name, note, operands, source.blocks, result.blocks)
