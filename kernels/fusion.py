"""Which layers run as one: what a convolution can do with its sums before it stores them. It can add a residual, apply
an activation, and store a second time.

`fuse` decides for a whole graph and changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from refnet.graph import Graph, Node, consumers

from .algorithm import is_depthwise, winograd_side
from .epilogue import (
    ACTIVATIONS,
    LEAKY,
    RESIDUAL_FIRST,
    RESIDUAL_SECOND,
    SECOND_LEAKY,
    STORE_FIRST,
    STORE_SECOND,
)

#: Activations that a layer can apply to its sums.
RELUS = ("relu", "relu6", "leaky_relu", "prelu")


@dataclass
class Epilogue:
    """What a layer does with its sums.

    [+ residual if residual_first], activation, store as `first`; then [+ residual if not residual_first],
    second_activation, store as `second`. None means: not stored, not added. `slope` is that of a leaky ReLU, or names
    those of a PReLU, of both activations if both have one.
    """

    first: str | None
    activation: str = ""
    residual: str | None = None
    residual_first: bool = True
    second: str | None = None
    second_activation: str = ""
    slope: float | str = 0.0

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors that the layer makes."""
        return tuple(name for name in (self.first, self.second) if name is not None)

    @property
    def flags(self) -> int:
        """The same as bits, for the kernels."""
        flags = ACTIVATIONS[self.activation] | ACTIVATIONS[self.second_activation] << 2
        flags |= STORE_FIRST if self.first is not None else 0
        flags |= STORE_SECOND if self.second is not None else 0
        if self.residual is not None:
            flags |= RESIDUAL_FIRST if self.residual_first else RESIDUAL_SECOND
        return flags

    @property
    def slopes(self) -> float | str | None:
        """`slope`, if an activation has one."""
        return self.slope if self.flags & (LEAKY | SECOND_LEAKY) else None

    @property
    def note(self) -> str:
        """The same in words, to follow a layer's own note."""
        parts = []
        if self.residual and self.residual_first:
            parts.append(f"+ {self.residual}")
        if self.activation:
            parts.append(self.activation)
        if self.second:
            added = f"+ {self.residual} " if self.residual and not self.residual_first else ""
            parts.append(f"and {added}{self.second_activation}".rstrip())
        return "".join(f", {part}" for part in parts)


class Fusion(NamedTuple):
    """What runs as one.

    Attributes:
        epilogues: {convolution or linear layer: what it does with its sums}.
        producers: {tensor: the node that makes it}, for every tensor that is made at all.
        consumers: {tensor: the nodes that read it}, in the order of the graph.
        deferred_relus: ReLUs that all their consumers apply as they load.
    """

    epilogues: Mapping[str, Epilogue]
    producers: Mapping[str, Node]
    consumers: Mapping[str, list[Node]]
    deferred_relus: frozenset[str]


def fuse(graph: Graph, shapes: Mapping[str, tuple[int, ...]]) -> Fusion:
    """Decide, layer by layer in the order of the graph, which activations and additions it absorbs."""
    fuser = _Fuser(graph, deferred_relus(graph, shapes))
    epilogues: dict[str, Epilogue] = {}
    producers: dict[str, Node] = {}
    for node in graph.nodes:
        names: tuple[str, ...] = (node.name,)
        # Layers earlier in the graph choose first: what they absorb is not free for later ones.
        if node.op in ("conv", "linear"):
            epilogues[node.name] = fuser.epilogue(node, dual=not is_depthwise(node, graph, shapes))
            names = epilogues[node.name].names
        for name in names:
            producers.setdefault(name, node)
    made = {name for epilogue in epilogues.values() for name in epilogue.names}
    for name in fuser.claimed - made:
        # Fused away: this tensor exists only in registers, so it has no producer.
        producers.pop(name, None)
    return Fusion(epilogues, producers, fuser.consumers, fuser.deferred)


def deferred_relus(graph: Graph, shapes: Mapping[str, tuple[int, ...]]) -> frozenset[str]:
    """ReLUs that cost nothing because all their consumers are Winograd layers, which can apply them as they load. Where
    a layer could take the ReLU into its own epilogue and store nothing else, that is better still."""
    deferred = set()
    readers = consumers(graph)
    for node in graph.nodes:
        if node.op == "relu" and node.name not in graph.outputs:
            # A ReLU that is its input's only consumer would be absorbed by the layer that makes that input.
            shared = len(readers[node.inputs[0]]) > 1 or node.inputs[0] in graph.outputs
            if shared and all(winograd_side(r, shapes) for r in readers[node.name]):
                deferred.add(node.name)
    return frozenset(deferred)


def _slope(node: Node) -> float | str:
    """The slope of a leaky ReLU, the name of those of a PReLU, 0 of the others."""
    return node.parameters.get("slope") or float(node.attributes.get("slope", 0.0))


class _Fuser:
    """The state of `fuse`: what has been absorbed so far."""

    def __init__(self, graph: Graph, deferred: frozenset[str]) -> None:
        self.graph = graph
        self.consumers = consumers(graph)
        self.claimed: set[str] = set()
        self.deferred = deferred
        #: {tensor: what else must be made before it}, because its layer adds that to its sums.
        self.awaits: dict[str, str] = {}

    def epilogue(self, node: Node, dual: bool) -> Epilogue:
        """The epilogue of `node`; `dual` says whether its kernel can store twice."""
        plan = Epilogue(node.name)
        # conv, ReLU: only the ReLU's result is stored.
        relu = self._sole(node.name, RELUS)
        if relu:
            plan.first, plan.activation, plan.slope = relu.name, relu.op, _slope(relu)
            self.claimed.add(relu.name)
        current = plan.first or node.name
        added = self._addition(current, node)
        alone = len(self.consumers[current]) == 1 and current not in self.graph.outputs
        # conv + residual [, ReLU]: the sum of the convolution is needed by nothing else and never stored.
        if added and alone and not plan.activation:
            plan.residual = self._other(added, current)
            plan.first = current = added.name
            relu = self._sole(current, RELUS)
            if relu:
                plan.first, plan.activation, plan.slope = relu.name, relu.op, _slope(relu)
                return self._claim(node, plan, added, relu)
            self._claim(node, plan, added)
        # conv [, ReLU] + residual [, ReLU]: what comes before the addition is stored first if others need it.
        elif added and dual:
            plan.residual, plan.residual_first = self._other(added, current), False
            plan.first = None if alone else current
            plan.second = added.name
            relu = self._sole(added.name, RELUS)
            sloped = relu and ACTIVATIONS[plan.activation] & ACTIVATIONS[relu.op] & LEAKY
            if relu and sloped and plan.slope != _slope(relu):
                relu = None  # there is one slope for both
            if relu:
                plan.second, plan.second_activation = relu.name, relu.op
                plan.slope = _slope(relu) or plan.slope
            return self._claim(node, plan, added, relu)
        # conv and its ReLU are both needed: one kernel stores both.
        if not plan.activation and dual:
            rectified = [r for r in self.consumers[current] if r.op in RELUS and self._free(r)]
            if rectified:
                plan.second, plan.second_activation = rectified[0].name, rectified[0].op
                plan.slope = _slope(rectified[0])
        return self._claim(node, plan)

    def _claim(self, node: Node, plan: Epilogue, *nodes: Node | None) -> Epilogue:
        taken = {node.name, *plan.names, *(n.name for n in nodes if n is not None)}
        self.claimed.update(taken - {node.name})
        if plan.residual is not None:
            # Whatever this layer makes now also waits for its residual: later decisions must not close a circle.
            self.awaits.update(dict.fromkeys(taken, plan.residual))
        return plan

    def _free(self, node: Node) -> bool:
        return node.name not in self.claimed and node.name not in self.deferred

    def _sole(self, name: str, ops: tuple[str, ...]) -> Node | None:
        """The one consumer of `name`, if it is of these ops and free to take."""
        readers = self.consumers[name]
        if len(readers) != 1 or name in self.graph.outputs:
            return None
        return readers[0] if readers[0].op in ops and self._free(readers[0]) else None

    def _addition(self, name: str, node: Node) -> Node | None:
        """An addition of `name` to something that does not depend on `node`."""
        for reader in self.consumers[name]:
            if reader.op == "add" and len(set(reader.inputs)) == 2 and self._free(reader):
                other = self._other(reader, name)
                if len(reader.inputs) == 2 and not self._depends(other, node.name):
                    return reader
        return None

    def _depends(self, name: str, on: str) -> bool:
        """Whether `name` can only be made after `on`, in the graph or by what has been fused so far."""
        # A walk upstream, over the graph and over what layers already wait for: without the latter, two layers could
        # each wait for the other's result.
        seen: set[str] = set()
        stack = [name]
        while stack:
            current = stack.pop()
            if current == on:
                return True
            if current not in seen and current in self.graph.node:
                seen.add(current)
                stack += self.graph.node[current].inputs
                if current in self.awaits:
                    stack.append(self.awaits[current])
        return False

    @staticmethod
    def _other(addition: Node, name: str) -> str:
        return next(x for x in addition.inputs if x != name)
