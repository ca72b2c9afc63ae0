"""What lowering works with: the tensors made so far, the instructions that make them, and the ways to get a tensor into
the form that a kernel wants."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refnet.graph import Graph, Node

from . import layout
from .algorithm import Algorithm, UnsupportedError
from .assembler import Instruction, Operand
from .epilogue import ACTIVATIONS, LEAKY
from .fusion import Fusion
from .instructions import (
    ADD,
    BLOCK_PITCH,
    BLOCKS,
    COLUMNS,
    CONSTANTS,
    DEPTH,
    FIELDS,
    FIRST,
    FLAGS,
    GATHER,
    INPUTS,
    LAST,
    LEFT,
    LOAD_IMAGE,
    OTHER,
    OUT_COLUMNS,
    PIXELS,
    ROWS,
    SPREAD,
    STRIDE,
    STRIDE_COLUMNS,
    TOP,
    X,
    Y,
)
from .layout import Block, Buffer, Tensor, buffers_of
from .packing import PackedWeights, by_lane
from .simd import LANES

Weights = Mapping[str, NDArray[Any]]
Shapes = Mapping[str, tuple[int, ...]]


class Emitter:
    """The state of one lowering.

    Attributes:
        graph, weights, shapes: what is lowered: the rewritten graph, its parameters, {tensor: shape of one image}.
        packed: where packed weights go.
        fusion: which layers run as one.
        algorithms: {convolution or linear layer: how it is computed}.
        block_starts: {tensor: channels at which a new block should begin}.
        instructions: what has been emitted.
        tensors: {name: tensor} of what has been made, in the arena.
        cells: {name: maps} of tensors that are lists of cells, (N, cells, C): the maps whose pixels the cells are.
    """

    def __init__(
        self,
        graph: Graph,
        weights: Weights,
        shapes: Shapes,
        packed: PackedWeights,
        fusion: Fusion,
        algorithms: Mapping[str, Algorithm],
        block_starts: Mapping[str, frozenset[int]],
    ) -> None:
        self.graph, self.weights, self.shapes = graph, weights, shapes
        self.packed, self.fusion = packed, fusion
        self.algorithms, self.block_starts = algorithms, block_starts
        self.instructions: list[Instruction] = []
        self.tensors: dict[str, Tensor] = {}
        self.cells: dict[str, list[Tensor]] = {}
        #: {image: (scale, shift)}: the caller's image and its normalised forms. They lie in the arena only
        #: if a kernel needs them in channel blocks.
        self.images: dict[str, tuple[float, float]] = {graph.input: (1.0, 0.0)}
        self._loaded: dict[str, Tensor] = {}

    # ------------------------------------------------------------------------------ instructions

    def emit(
        self,
        opcode: int,
        name: str,
        note: str,
        operands: Mapping[int, Operand],
        reads: Sequence[Block] = (),
        writes: Sequence[Block] = (),
        scratch: tuple[Buffer, ...] = (),
        in_place: tuple[Buffer, Buffer] | None = None,
    ) -> None:
        """Append an instruction of the layer `name`; reads and writes are the blocks that it touches."""
        instruction = Instruction(
            *(opcode, name, note, operands, buffers_of(reads), buffers_of(writes)),
            *(scratch, in_place),
        )
        self.instructions.append(instruction)

    def allocate(self, name: str, shape: tuple[int, ...], lanes: Sequence[int]) -> Tensor:
        """A tensor in a buffer of its own, known by its name from now on."""
        tensor = self.tensors[name] = layout.allocate(name, shape, lanes)
        return tensor

    def parameters(self, node: Node) -> tuple[NDArray[Any], NDArray[Any]]:
        """Weight and bias in float64; a missing bias is zero."""
        # In float64 until weights are packed: transforms and folded norms are then rounded once.
        weight = np.asarray(self.weights[node.parameters["weight"]], np.float64)
        if "bias" not in node.parameters:
            return weight, np.zeros(len(weight))
        return weight, np.asarray(self.weights[node.parameters["bias"]], np.float64)

    def slopes(self, node: Node) -> NDArray[Any] | None:
        """The slopes (O,) of the activation that a layer absorbs; None where it has none."""
        slope = self.fusion.epilogues[node.name].slopes
        if isinstance(slope, str):
            return np.asarray(self.weights[slope], np.float64)
        return None if slope is None else np.full(self.shapes[node.name][0], slope)

    def packed_with(
        self, node: Node, made: str, *of: object, pack: Callable[[], NDArray[np.float32]]
    ) -> int:
        """The offset of what is `made` of a layer's parameters and of the slopes that it absorbs, by `pack` if it is not there.

        Args:
            of: what it depends on besides: no size of an image, so that plans of all sizes share it.
        """
        slopes = self.fusion.epilogues[node.name].slopes
        return self.packed.get((node.name, made, *of, slopes), pack)

    def constants(self, *values: float) -> int:
        """The offset in the weights of a few floats."""
        return self.packed.get(("constants", values), lambda: np.array(values, np.float32))

    # ------------------------------------------------------------------------------ tensors

    def stored(self, name: str) -> Tensor:
        """The tensor as blocks in the arena, its ReLU applied; an image is loaded when this is first asked for.

        Raises:
            UnsupportedError: it is a list of cells.
        """
        # Convolutions that read the image itself never ask for it here.
        if name in self.images:
            if name not in self._loaded:
                self._loaded[name] = self._load(name)
            return self._loaded[name]
        if name not in self.tensors:
            raise UnsupportedError(f"{name!r} is a list of cells, and this is an operation on maps")
        tensor = self.tensors[name]
        # A consumer that cannot apply a deferred ReLU needs it stored after all; later ones find it under its name.
        return self.added(name, [tensor], "relu") if tensor.relu_on_load else tensor

    def _load(self, name: str) -> Tensor:
        shape = self.shapes[name]
        if len(shape) != 3:
            raise UnsupportedError(f"an input of shape {shape} is no image")
        # Not known by its name: convolutions may still read the image as the caller gives it.
        image = layout.allocate(name, shape, layout.dense_lanes(shape[0]))
        operands: dict[int, Operand] = {
            Y: image.blocks[0],
            PIXELS: image.pixels,
            DEPTH: shape[0],
            CONSTANTS: self.constants(*self.images[name]),
        }
        note = f"{shape} in blocks of {LANES}"
        self.emit(LOAD_IMAGE, name, note, operands, writes=image.blocks)
        return image

    def in_lanes(self, tensor: Tensor, lanes: tuple[int, ...], name: str) -> Tensor:
        """The same tensor with its channels in the given lanes; copied only where they lie elsewhere."""
        return tensor if tensor.lanes == lanes else self.gathered(tensor, lanes, name)

    def gathered(self, tensor: Tensor, lanes: tuple[int, ...], name: str) -> Tensor:
        """A copy of the tensor in one buffer, its channels in the given lanes."""
        # One lane at a time, so this is slow; fusion and block starts avoid it in all networks that we ship.
        # By logical channel: where the tensor's own padding lies does not matter.
        places = tensor.sources()
        copy = layout.allocate(f"{name} moved", tensor.shape, lanes)
        operands: dict[int, Operand] = {
            Y: copy.blocks[0],
            PIXELS: copy.pixels,
            BLOCKS: len(copy.blocks),
            INPUTS: tuple(places[lane] if lane >= 0 else -1 for lane in lanes),
        }
        note = "channels into another order"
        self.emit(GATHER, name, note, operands, tensor.blocks, copy.blocks)
        return copy

    def spread(
        self,
        name: str,
        source: Tensor,
        size: tuple[int, int],
        corner: tuple[int, int],
        stride: tuple[int, int] = (1, 1),
        value: float = 0.0,
    ) -> Tensor:
        """Pixels of a map `stride` apart from each other on a map of `size` filled with `value`, the first one at `corner`;
        what falls outside is cut off."""
        result = layout.allocate(name, (source.shape[0], *size), source.lanes)
        operands: dict[int, Operand] = {
            Y: result.blocks[0],
            BLOCKS: len(result.blocks),
            BLOCK_PITCH: result.pixels * LANES,
            INPUTS: source.blocks,
            ROWS: source.shape[1],
            COLUMNS: source.shape[2],
            OUT_COLUMNS: size[1],
            CONSTANTS: self.constants(value),
            STRIDE: stride[0],
            STRIDE_COLUMNS: stride[1],
            TOP: corner[0],
            LEFT: corner[1],
            FIRST: 0,
            LAST: size[0],
        }
        note = f"{source.shape} -> {result.shape}, stride {stride}, from {corner}"
        self.emit(SPREAD, name, note, operands, source.blocks, result.blocks)
        return result

    def added(self, name: str, addends: list[Tensor], activation: str) -> Tensor:
        """The activation of the sum of one or two tensors in equal lanes, known by its name from now on."""
        total = self.tensors[name] = self.sum(name, addends, activation)
        return total

    def sum(
        self, name: str, addends: list[Tensor], activation: str = "", slope: float = 0.0
    ) -> Tensor:
        """The activation of the sum of one or two tensors in equal lanes."""
        note = f"{len(addends)} operands {activation}".rstrip()
        operands: dict[int, Operand] = {FLAGS: ACTIVATIONS[activation]}
        if operands[FLAGS] == LEAKY:
            operands[CONSTANTS] = self.constants(*[slope] * LANES)
        return self.vectors(ADD, name, note, operands, addends)

    def leaking(self, name: str, source: Tensor, slopes: NDArray[Any]) -> Tensor:
        """The leaky ReLU of a tensor with slopes (C,), in an instruction for each block, known by its name from now on."""
        result = self.allocate(name, source.shape, source.lanes)
        key = (name, "slopes", source.lanes)
        offset = self.packed.get(key, lambda: by_lane(slopes, source.lanes))
        for i, (x, y) in enumerate(zip(source.blocks, result.blocks, strict=True)):
            operands: dict[int, Operand] = {Y: y, X: x, OTHER: -1, PIXELS: source.pixels}
            operands |= {FLAGS: LEAKY, CONSTANTS: offset + i * LANES}
            self.emit(ADD, name, f"prelu of block {i}", operands, [x], [y])
        return result

    def vectors(
        self,
        opcode: int,
        name: str,
        note: str,
        operands: Mapping[int, Operand],
        inputs: Sequence[Tensor],
    ) -> Tensor:
        """Emit an operation from vector to vector, for each stretch in which the blocks of all tensors are
        neighbours; its result, in a buffer of its own."""
        result = layout.allocate(name, inputs[0].shape, inputs[0].lanes)
        lists = [result.blocks, *(tensor.blocks for tensor in inputs)]
        # A stretch is one loop over vectors, whatever blocks and pixels they belong to.
        for first, last in layout.runs(result.pixels, *lists):
            y, x, *other = (blocks[first] for blocks in lists)
            places: dict[int, Operand] = {Y: y, X: x, PIXELS: (last - first) * result.pixels}
            # An activation alone is an addition without a second addend.
            if OTHER in FIELDS[opcode]:
                places[OTHER] = other[0] if other else -1
            self.emit(opcode, name, note, {**operands, **places}, [x, *other], [y])
        return result
