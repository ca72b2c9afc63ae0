"""From a network to plans.

    compiler = Compiler(graph, weights)
    plan = compiler.plan(shape)

What does not depend on the size of an image happens once: the graph is rewritten (`rewrites.py`), and weights are
packed when a layer is first lowered with them (`packing.py`). For each size, layers are lowered to instructions
(`lower.py`), buffers get their places by lifetime (`memory.py`), the assembler writes the program, and `verify.py`
proves that no instruction can leave its buffers or read what no other one wrote. Then the program may run without
bounds checks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from numpy.typing import NDArray

from refnet.graph import Graph, Node

from .algorithm import UnsupportedError
from .assembler import Assembler
from .layout import blocks_of
from .lower import Decisions, lower
from .memory import place_all
from .packing import PackedWeights
from .plan import Plan
from .rewrites import cut, simplify
from .simd import LANES
from .verify import verify

__all__ = ["Compiler", "UnsupportedError", "compile_plan"]


#: Operations that are too slow without the engine to be left to the caller.
PRODUCTS = ("conv", "conv_transpose", "linear")


class Compiler:
    """Makes the plans of one network, which share its packed weights.

    Not safe to use from several threads at once. Batch norms should have been folded: each that is left is a layer.
    """

    def __init__(self, graph: Graph, weights: Mapping[str, NDArray[Any]]) -> None:
        self.graph, self.weights = simplify(graph, weights)
        # Packed layer by layer while the first size is lowered; later sizes find most of it there.
        self._packed = PackedWeights(_packed_floats(self.graph))
        self._decided = Decisions(self.graph)

    def plan(
        self, shape: tuple[int, int, int] | None = None, guard: int = 0, *, partial: bool = False
    ) -> Plan:
        """The plan for images of `shape` (C, H, W), by default the graph's own.

        `guard` keeps that many floats free after every buffer, for debugging. `partial` allows for layers that the engine
        has no kernel for, if no convolution or linear layer needs them: `Plan.rest` has these and all that need them.

        Raises:
            UnsupportedError: the engine has no kernel for one of the layers; the message says which and why.
            ShapeError: the network cannot take this input.
        """
        graph, decided = self.graph, self._decided
        channels, height, width = graph.input_shape if shape is None else shape
        # Also raises ShapeError where the network cannot take this size, before anything is lowered.
        shapes = graph.shapes((channels, height, width))
        rest: tuple[Node, ...] = ()
        while True:
            try:
                emitter, outputs = lower(decided, self.weights, shapes, self._packed)
                break
            except UnsupportedError as error:
                if not partial or error.layer is None:
                    raise
                # Of the whole graph each time: what was cut off before counts as well, with all that needs it.
                graph, rest = cut(self.graph, {error.layer, *(node.name for node in rest)})
                if any(node.op in PRODUCTS for node in rest) or not graph.nodes:
                    raise
                decided = Decisions(graph)
        shared, per_thread = place_all(emitter.instructions, guard)
        plan = Plan(
            name=graph.name,
            input_shape=(int(channels), int(height), int(width)),
            program=Assembler().program(emitter.instructions),
            # Taken after lowering, which packs what this size needs and no size before it did.
            weights=self._packed.view(),
            arena=shared + per_thread,
            per_thread=per_thread,
            outputs=tuple(outputs),
            rest=rest,
            output_size=sum(output.size for output in outputs),
            instructions=tuple(emitter.instructions),
        )
        # The kernels check nothing themselves: a plan that is not proved must not leave this function.
        verify(plan)
        return plan


def compile_plan(
    graph: Graph,
    weights: Mapping[str, NDArray[Any]],
    shape: tuple[int, int, int] | None = None,
    guard: int = 0,
) -> Plan:
    """The plan of `graph` for one image size; as `Compiler.plan`."""
    return Compiler(graph, weights).plan(shape, guard)


def _packed_floats(graph: Graph) -> int:
    """About the floats of all packed weights, rather too many: each 3x3 layer for all its algorithms."""
    floats = 1 << 16
    for node in graph.nodes:
        if node.op in ("conv", "linear"):
            made, *rest = graph.state_dict[node.parameters["weight"]]
            depth = math.prod(rest)
            # F(4x4, 3x3) has 36 matrices and F(6x6, 3x3) 64, where the direct product has 9.
            winograd = (36 + 64) * (rest[0] + 1) if tuple(rest[1:]) == (3, 3) else 0
            floats += (blocks_of(made) + 1) * LANES * (depth + LANES + winograd)
    return floats
