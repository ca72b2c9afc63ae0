"""From layers to steps: which kernel runs a layer, in which layout, and what it is fused with.

`Lowering` walks the simplified graph in order. A layer whose residual is made later in the graph waits for it. Every
tensor ends up as a list of planes (`layout.py`); concatenations, slices and flattenings are list operations and make
no step at all. Which kernel a convolution runs on is decided in `choice.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refnet.graph import Graph, Node

from . import layout
from .choice import winograd_side
from .executor import (
    AFFINE,
    BLOCK,
    COMBINE,
    GATHER,
    GLOBAL_AVERAGE,
    SIGMOID,
    SOFTMAX,
    UNBLOCK,
    WINDOW_POOL,
)
from .fusion import RELUS, Epilogue, Fuser
from .layout import Plane, Tensor
from .pointwise import ACTIVATIONS
from .simd import LANES
from .steps import Output, Step, Table, UnsupportedError, values_of
from .streaming import Streaming

#: Besides activations, what makes a tensor whose channels lie in the same lanes as its operands'.
LANE_BY_LANE = ("add", "sigmoid", "softmax", "normalize", "average_pool", "max_pool")


class Lowering(Streaming):
    """One use: `lower()` returns the steps and the outputs; `blob` then holds the weights."""

    def __init__(
        self, graph: Graph, weights: Mapping[str, NDArray[Any]], shape: tuple[int, ...]
    ) -> None:
        super().__init__(graph, weights, graph.shapes(shape))
        self.fuser = Fuser(graph, self._lazy())
        self.breaks = self._breaks()
        self.makers: dict[str, Node] = {}
        self.epilogues: dict[str, Epilogue] = {}
        self.done: set[str] = set()
        for node in graph.nodes:
            names: tuple[str, ...] = (node.name,)
            if node.op in ("conv", "linear"):
                epilogue = self.fuser.epilogue(node, dual=not self.is_depthwise(node))
                self.epilogues[node.name] = epilogue
                names = epilogue.names
            for name in names:
                self.makers.setdefault(name, node)
        made = {name for epilogue in self.epilogues.values() for name in epilogue.names}
        for name in self.fuser.claimed - made:
            self.makers.pop(name, None)  # inside of a layer, between its two stores: nobody sees it

    def lower(self) -> tuple[list[Step], list[Output]]:
        """All steps, and where the outputs are."""
        for node in self.graph.nodes:
            if node.name in self.makers:
                self._emit(node.name)
        outputs: list[Output] = []
        for name in self.graph.outputs:
            offset = sum(output.size for output in outputs)
            outputs.append(Output(name, offset, self.shapes[name]))
            self._unblock(name, offset)
        return self.steps, outputs

    # ------------------------------------------------------------------------------ decisions ahead

    def _lazy(self) -> set[str]:
        """ReLUs that cost nothing because all their readers are Winograd layers, which rectify as they read. Where a
        layer could take the ReLU into its own epilogue and store nothing else, that is better still."""
        lazy = set()
        readers = Fuser(self.graph, set()).readers
        for node in self.graph.nodes:
            if node.op == "relu" and node.name not in self.graph.outputs:
                shared = len(readers[node.inputs[0]]) > 1 or node.inputs[0] in self.graph.outputs
                if shared and all(winograd_side(r, self.shapes) for r in readers[node.name]):
                    lazy.add(node.name)
        return lazy

    def _breaks(self) -> dict[str, frozenset[int]]:
        """{tensor: channels at which a new plane should begin}, because someone slices there. Tensors that must have
        the same layout (the two sides of an addition, of a depthwise convolution, of an activation) share them."""
        parent = {name: name for name in (self.graph.input, *self.graph.node)}

        def root(name: str) -> str:
            while parent[name] != name:
                name = parent[name]
            return name

        for node in self.graph.nodes:
            keeps = node.op in (*RELUS, *LANE_BY_LANE)
            if keeps or (node.op == "conv" and self.is_depthwise(node)):
                for name in node.inputs:
                    parent[root(name)] = root(node.name)
        cuts: dict[str, set[int]] = {name: set() for name in parent}
        for node in self.graph.nodes:
            if node.op == "slice":
                cuts[root(node.inputs[0])] |= {node.attributes["start"], node.attributes["stop"]}
        return {name: frozenset(cuts[root(name)]) for name in parent}

    # ------------------------------------------------------------------------------ one node

    def _emit(self, name: str) -> None:
        """Make the tensor `name`, after whatever it needs."""
        if name == self.graph.input or name in self.tensors or name in self.cells:
            return
        node = self.makers[name]
        if node.name in self.done:
            raise UnsupportedError(f"{name!r} is needed before the layer that makes it can run")
        self.done.add(node.name)
        epilogue = self.epilogues.get(node.name)
        for needed in node.inputs:
            self._emit(needed)
        if epilogue is not None and epilogue.residual is not None:
            self._emit(epilogue.residual)
        if epilogue is not None:
            self.lower_convolution(node, epilogue)
        else:
            handler: Callable[[Node], None] | None = getattr(self, f"_lower_{node.op}", None)
            if handler is None:
                raise UnsupportedError(f"the engine has no kernel for {node.op!r} ({node.name})")
            handler(node)
        for made in epilogue.names if epilogue else (node.name,):
            for reader in self.fuser.readers[made]:
                # A pool takes its mean while the map is still in cache.
                if reader.op == "average_pool" and reader.name in self.makers:
                    self._emit(reader.name)

    def _lower_concat(self, node: Node) -> None:
        if all(name in self.cells for name in node.inputs) and node.attributes["axis"] == 1:
            self.cells[node.name] = [t for name in node.inputs for t in self.cells[name]]
        elif node.attributes["axis"] == 1:
            self.tensors[node.name] = layout.concatenate([self.stored(x) for x in node.inputs])
        else:
            raise UnsupportedError(f"{node.name} concatenates along axis {node.attributes['axis']}")

    def _lower_slice(self, node: Node) -> None:
        source, attributes = self.stored(node.inputs[0]), node.attributes
        start, stop, _ = slice(attributes["start"], attributes["stop"]).indices(source.shape[0])
        self.tensors[node.name] = layout.slice_channels(source, start, stop)

    def _lower_flatten(self, node: Node) -> None:
        source = self.stored(node.inputs[0])
        self.tensors[node.name] = layout.flatten(source) if len(source.shape) == 3 else source

    def _lower_cells(self, node: Node) -> None:
        self.cells[node.name] = [self.stored(node.inputs[0])]

    def _lower_relu(self, node: Node) -> None:
        source = self.stored(node.inputs[0])
        if node.name in self.fuser.lazy:
            self.tensors[node.name] = Tensor(source.shape, source.planes, source.lanes, True)
        else:
            self._combine(node.name, [source], node.op)

    def _lower_relu6(self, node: Node) -> None:
        self._combine(node.name, [self.stored(node.inputs[0])], node.op)

    def _lower_add(self, node: Node) -> None:
        total = self.stored(node.inputs[0])
        for i, name in enumerate(node.inputs[1:], 1):
            other = self.matched(self.stored(name), total.lanes, name)
            last = i == len(node.inputs) - 1
            total = self._combine(
                node.name if last else f"{node.name} after {i}", [total, other], ""
            )

    def _combine(self, name: str, sources: list[Tensor], activation: str) -> Tensor:
        made = layout.allocate(name, sources[0].shape, sources[0].lanes)
        lists = [made.planes, *(source.planes for source in sources)]
        for first, last in layout.runs(made.pixels, *lists):
            self._combine_run(
                name, [planes[first] for planes in lists], (last - first) * made.pixels, activation
            )
        self.tensors[name] = made
        return made

    def _combine_run(self, name: str, places: list[Plane], vectors: int, activation: str) -> None:
        """One COMBINE row: places are the first planes of the result and of one or two operands."""

        def encode(_: Table) -> list[int]:
            y, x, *more = (place.address for place in places)
            other = more[0] if more else -1
            return [COMBINE, y, x, vectors, other, ACTIVATIONS[activation]]

        note = f"{len(places) - 1} operands {activation}".rstrip()
        self.step(COMBINE, name, note, values_of(places[1:]), values_of(places[:1]), encode)

    def _elementwise(self, node: Node, opcode: int, constants: int) -> None:
        source = self.stored(node.inputs[0])
        made = layout.allocate(node.name, source.shape, source.lanes)
        for first, last in layout.runs(made.pixels, made.planes, source.planes):
            y, x, vectors = made.planes[first], source.planes[first], (last - first) * made.pixels

            def encode(_: Table, y: Plane = y, x: Plane = x, vectors: int = vectors) -> list[int]:
                return [opcode, y.address, x.address, vectors, constants]

            self.step(opcode, node.name, str(made.shape), (x.value,), (y.value,), encode)
        self.tensors[node.name] = made

    def _lower_sigmoid(self, node: Node) -> None:
        self._elementwise(node, SIGMOID, 0)

    def _lower_softmax(self, node: Node) -> None:
        name, axis = node.inputs[0], node.attributes["axis"]
        shape = self.shapes[name]
        # A cell's channels are its last axis, all other tensors' channels their first one behind the batch.
        if axis % (len(shape) + 1) != (2 if name in self.cells else 1):
            raise UnsupportedError(
                f"{node.name} is a softmax along axis {axis} of (N, {', '.join(map(str, shape))}); "
                "the engine has a kernel for softmaxes over channels"
            )
        if name in self.cells:
            self.cells[node.name] = [self._softmax(node.name, part) for part in self.cells[name]]
        else:
            self.tensors[node.name] = self._softmax(node.name, self.stored(name))

    def _softmax(self, name: str, source: Tensor) -> Tensor:
        made = layout.allocate(name, source.shape, source.lanes)
        limits = np.where(np.asarray(source.lanes) >= 0, np.inf, -np.inf).astype(np.float32)
        constants, y, pixels = self.blob.add(limits), made.planes[0], made.pixels

        def encode(table: Table) -> list[int]:
            inputs = table.list([plane.address for plane in source.planes])
            head = [SOFTMAX, y.address, pixels, len(source.planes), constants]
            return [*head, inputs, 0, pixels]

        note = f"over {source.shape[0]} channels of {pixels} pixels"
        self.step(SOFTMAX, name, note, values_of(source.planes), (y.value,), encode)
        return made

    def _lower_normalize(self, node: Node) -> None:
        scale, shift = self.normalization(node)
        constants = np.array([scale, shift], np.float32)
        if node.inputs[0] == self.graph.input:
            self.images[node.name] = (scale, shift)
            self.tensors[node.name] = Tensor(self.shapes[node.name], (), ())  # blocked on demand
        else:
            self._elementwise(node, AFFINE, self.blob.add(constants))

    def _lower_max_pool(self, node: Node) -> None:
        self._pool(node, 1)

    def _lower_average_pool(self, node: Node) -> None:
        self._pool(node, 0)

    def _pool(self, node: Node, maximum: int) -> None:
        source = self.stored(node.inputs[0])
        kernel, stride = node.attributes["kernel"], node.attributes["stride"]
        if node.attributes["padding"] != (0, 0):
            raise UnsupportedError(f"{node.name} pools with padding {node.attributes['padding']}")
        shape = self.shapes[node.name]
        made = layout.allocate(node.name, shape, source.lanes)
        scale = self.blob.add(np.array([1.0 / (kernel[0] * kernel[1])], np.float32))
        whole = not maximum and tuple(kernel) == source.shape[1:]
        opcode = GLOBAL_AVERAGE if whole else WINDOW_POOL
        y = made.planes[0]

        def encode(table: Table) -> list[int]:
            inputs = table.list([plane.address for plane in source.planes])
            second = source.pixels if whole else maximum
            head = [opcode, y.address, second, len(source.planes), scale, inputs]
            return head if whole else [*head, *source.shape[1:], *shape[1:], *kernel, *stride]

        note = f"{source.shape} -> {shape}"
        self.step(opcode, node.name, note, values_of(source.planes), (y.value,), encode)
        self.tensors[node.name] = made

    # ------------------------------------------------------------------------------ ways in and out

    def stored(self, name: str) -> Tensor:
        """The tensor as planes in the arena, not rectified on reading; images are blocked on demand."""
        if name == self.graph.input or name in self.images:
            if name not in self.blocked:
                self.blocked[name] = self._block(name)
            return self.blocked[name]
        if name not in self.tensors:
            raise UnsupportedError(
                f"{name!r} is a list of cells; they can only be joined, or take a softmax"
            )
        tensor = self.tensors[name]
        return self._combine(name, [tensor], "relu") if tensor.rectify else tensor

    def _block(self, name: str) -> Tensor:
        shape = self.shapes[name]
        if len(shape) != 3:
            raise UnsupportedError(f"an input of shape {shape} is no image")
        constants = self.blob.add(np.array(self.images.get(name, (1.0, 0.0)), np.float32))
        made = layout.allocate(name, shape, layout.dense_lanes(shape[0]))
        y = made.planes[0]
        self.step(
            BLOCK,
            name,
            f"{shape} in blocks of {LANES}",
            (),
            (y.value,),
            lambda _: [BLOCK, y.address, made.pixels, shape[0], constants],
        )
        return made

    def matched(self, tensor: Tensor, lanes: tuple[int, ...], name: str) -> Tensor:
        """The same tensor with its channels in the given lanes; moved only where they lie elsewhere."""
        return tensor if tensor.lanes == tuple(lanes) else self.moved(tensor, lanes, name)

    def moved(self, tensor: Tensor, lanes: tuple[int, ...], name: str) -> Tensor:
        """A copy of the tensor in one stretch, its channels in the given lanes."""
        places = tensor.sources()
        made = layout.allocate(f"{name} moved", tensor.shape, lanes)
        y = made.planes[0]

        def encode(table: Table) -> list[int]:
            sources = [
                places[lane][0].address + places[lane][1] if lane >= 0 else -1 for lane in lanes
            ]
            return [GATHER, y.address, made.pixels, len(lanes), table.list(sources)]

        reads = values_of(tensor.planes)
        self.step(GATHER, name, "channels into another order", reads, (y.value,), encode)
        return made

    def _unblock(self, name: str, offset: int) -> None:
        """Copy an output into the caller's array: planar, or cell by cell."""
        if name in self.cells:
            parts = self.cells[name]
            for part in parts:
                channels = part.shape[0]
                self._unblock_step(name, part, offset, 1, channels)
                offset += part.pixels * channels
        else:
            tensor = self.stored(name)
            self._unblock_step(name, tensor, offset, tensor.pixels, 1)

    def _unblock_step(
        self, name: str, tensor: Tensor, offset: int, channel: int, pixel: int
    ) -> None:
        places: list[tuple[Plane, int]] = tensor.sources()

        def encode(table: Table) -> list[int]:
            sources = table.list([plane.address + lane for plane, lane in places])
            pixels = tensor.pixels
            return [UNBLOCK, offset, pixels, len(places), sources, channel, pixel, 0, pixels]

        reads = values_of([plane for plane, _ in places])
        self.step(UNBLOCK, name, f"{tensor.shape} to the caller", reads, (), encode)
