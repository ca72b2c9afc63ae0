"""Graph to graph, on the way to a plan: what need not be computed, and which layers run as one.

The first half rewrites the graph, with its weights in float64, into one whose outputs are the same. The second half
finds what a convolution can do with its results before it stores them: add a residual, apply an activation, store
twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refnet.graph import Graph, Node, consumers

from .pointwise import ACTIVATIONS, RESIDUAL_FIRST, RESIDUAL_SECOND, STORE_FIRST, STORE_SECOND

Weights = dict[str, NDArray[Any]]
RELUS = ("relu", "relu6")


def simplify(graph: Graph, weights: Mapping[str, NDArray[Any]]) -> tuple[Graph, Weights]:
    """The graph that is planned: dead code gone, input normalisation folded, two-logit softmaxes made sigmoids,
    additions moved to the parts of a concatenation."""
    wide: Weights = {name: np.asarray(w, np.float64) for name, w in weights.items()}
    graph = drop_dead(graph)
    graph, wide = fold_normalization(graph, wide)
    graph, wide = collapse_softmax(graph, wide)
    return drop_dead(distribute_additions(graph)), wide


def drop_dead(graph: Graph) -> Graph:
    """Without the nodes that no output needs."""
    needed = set(graph.outputs)
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        if node.name in needed:
            needed.update(node.inputs)
            kept.append(node)
    return replace(graph, nodes=tuple(reversed(kept)))


def fold_normalization(graph: Graph, weights: Weights) -> tuple[Graph, Weights]:
    """Move (x - mean) / std into the convolutions that read it: w / std and b - sum(w) mean / std.

    Exact only without padding, since a padded zero is a zero after the normalisation.
    """
    readers = consumers(graph)
    nodes = list(graph.nodes)
    weights = dict(weights)
    state = dict(graph.state_dict)
    for node in graph.nodes:
        users = readers[node.name]
        foldable = node.op == "normalize" and node.name not in graph.outputs
        if not foldable or any(u.op != "conv" or u.attributes["padding"] != (0, 0) for u in users):
            continue
        mean, std = node.attributes["mean"], node.attributes["std"]
        for user in users:
            weight = weights[user.parameters["weight"]] / std
            bias = -weight.sum(axis=(1, 2, 3)) * mean
            if "bias" in user.parameters:
                bias = bias + weights[user.parameters["bias"]]
            names = {"weight": f"{user.name}.normalized", "bias": f"{user.name}.normalized_bias"}
            for name, array in zip(names.values(), (weight, bias), strict=True):
                weights[name], state[name] = array, array.shape
            at = next(i for i, n in enumerate(nodes) if n.name == user.name)
            nodes[at] = replace(user, inputs=node.inputs, parameters=names)
    return replace(graph, nodes=tuple(nodes), state_dict=state), weights


def collapse_softmax(graph: Graph, weights: Weights) -> tuple[Graph, Weights]:
    """softmax(a, b) of which only one channel is read is sigmoid(a - b): one output channel instead of two."""
    readers = consumers(graph)
    nodes = {node.name: node for node in graph.nodes}
    weights, state = dict(weights), dict(graph.state_dict)
    for softmax in graph.nodes:
        conv = graph.node.get(softmax.inputs[0])
        taken = readers[softmax.name]
        if (
            softmax.op != "softmax"
            or softmax.attributes["axis"] != 1
            or conv is None
            or conv.op != "conv"
            or graph.state_dict[conv.parameters["weight"]][0] != 2
            or conv.attributes["groups"] != 1
            or len(readers[conv.name]) != 1
            or {softmax.name, conv.name} & set(graph.outputs)
            or len(taken) != 1
            or taken[0].op != "slice"
            or taken[0].attributes["stop"] - taken[0].attributes["start"] != 1
        ):
            continue
        chosen = taken[0].attributes["start"]
        names = {}
        for role, name in conv.parameters.items():
            new = f"{conv.name}.{role}.difference"  # others may read the same tensor
            weights[new] = weights[name][chosen, None] - weights[name][1 - chosen, None]
            names[role], state[new] = new, weights[new].shape
        nodes[conv.name] = replace(conv, parameters=names)
        nodes[softmax.name] = replace(softmax, op="sigmoid", attributes={})
        nodes[taken[0].name] = replace(taken[0], attributes={"start": 0, "stop": 1})
    return replace(graph, nodes=tuple(nodes.values()), state_dict=state), weights


def distribute_additions(graph: Graph) -> Graph:
    """concat(a, b) + s = concat(a + s[:n], b + s[n:]): the sums can then be made where a and b are made."""
    readers, shapes = consumers(graph), graph.shapes()
    nodes: list[Node] = []
    for node in graph.nodes:
        joined = [
            graph.node[x]
            for x in node.inputs
            if x in graph.node
            and _only(graph, readers, x, "concat")
            and graph.node[x].attributes["axis"] == 1
        ]
        if (
            node.op != "add"
            or len(node.inputs) != 2
            or len(joined) != 1
            or len(shapes[node.name]) != 3
        ):
            nodes.append(node)
            continue
        (other,) = (x for x in node.inputs if x != joined[0].name)
        parts, first = [], 0
        for part in joined[0].inputs:
            stop = first + shapes[part][0]
            name = f"{node.name}[{first}:{stop}]"
            cut = Node(f"{name} addend", "slice", (other,), {"start": first, "stop": stop})
            parts.append(Node(name, "add", (part, cut.name)))
            nodes += [cut, parts[-1]]
            first = stop
        names = tuple(part.name for part in parts)
        nodes.append(Node(node.name, "concat", names, {"axis": 1}))
    return replace(graph, nodes=tuple(nodes))


def _only(graph: Graph, readers: Mapping[str, list[Node]], name: str, op: str) -> bool:
    node = graph.node[name]
    return node.op == op and len(readers[name]) == 1 and name not in graph.outputs


@dataclass
class Epilogue:
    """What a layer does with its sums.

    [+ residual if residual_first], activation, store as `first`; then [+ residual if not residual_first],
    second_activation, store as `second`. None means: not stored, not added.
    """

    first: str | None
    activation: str = ""
    residual: str | None = None
    residual_first: bool = True
    second: str | None = None
    second_activation: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors that the layer makes."""
        return tuple(name for name in (self.first, self.second) if name is not None)

    @property
    def flags(self) -> int:
        """The same as bits, for the tiles."""
        flags = ACTIVATIONS[self.activation] | ACTIVATIONS[self.second_activation] << 2
        flags |= STORE_FIRST if self.first is not None else 0
        flags |= STORE_SECOND if self.second is not None else 0
        if self.residual is not None:
            flags |= RESIDUAL_FIRST if self.residual_first else RESIDUAL_SECOND
        return flags


class Fuser:
    """Decides, node by node, which activations and additions a layer takes in."""

    def __init__(self, graph: Graph, lazy: set[str]) -> None:
        self.graph = graph
        self.readers = consumers(graph)
        self.claimed: set[str] = set()
        self.lazy = lazy
        #: {tensor: what else must be made before it}, because its layer adds that on the way.
        self.awaits: dict[str, str] = {}

    def epilogue(self, node: Node, dual: bool) -> Epilogue:
        """The epilogue of `node`; `dual` says whether its kernel can store twice."""
        plan = Epilogue(node.name)
        relu = self._sole(node.name, RELUS)
        if relu:
            plan.first, plan.activation = relu.name, relu.op
            self.claimed.add(relu.name)
        current = plan.first or node.name
        added = self._addition(current, node)
        alone = len(self.readers[current]) == 1 and current not in self.graph.outputs
        if added and alone and not plan.activation:
            plan.residual = self._other(added, current)
            plan.first = current = added.name
            relu = self._sole(current, RELUS)
            if relu:
                plan.first, plan.activation = relu.name, relu.op
                return self._claim(node, plan, added, relu)
            self._claim(node, plan, added)
        elif added and dual:
            plan.residual, plan.residual_first = self._other(added, current), False
            plan.first = None if alone else current
            plan.second = added.name
            relu = self._sole(added.name, RELUS)
            if relu:
                plan.second, plan.second_activation = relu.name, relu.op
            return self._claim(node, plan, added, relu)
        if not plan.activation and dual:
            rectified = [r for r in self.readers[current] if r.op in RELUS and self._free(r)]
            if rectified:
                plan.second, plan.second_activation = rectified[0].name, rectified[0].op
        return self._claim(node, plan)

    def _claim(self, node: Node, plan: Epilogue, *nodes: Node | None) -> Epilogue:
        taken = {node.name, *plan.names, *(n.name for n in nodes if n is not None)}
        self.claimed.update(taken - {node.name})
        if plan.residual is not None:
            self.awaits.update(dict.fromkeys(taken, plan.residual))
        return plan

    def _free(self, node: Node) -> bool:
        return node.name not in self.claimed and node.name not in self.lazy

    def _sole(self, name: str, ops: tuple[str, ...]) -> Node | None:
        """The one reader of `name`, if it is of these ops and free to take."""
        readers = self.readers[name]
        if len(readers) != 1 or name in self.graph.outputs:
            return None
        return readers[0] if readers[0].op in ops and self._free(readers[0]) else None

    def _addition(self, name: str, node: Node) -> Node | None:
        """An addition of `name` to something that does not depend on `node`."""
        for reader in self.readers[name]:
            if reader.op == "add" and len(set(reader.inputs)) == 2 and self._free(reader):
                other = self._other(reader, name)
                if len(reader.inputs) == 2 and not self._depends(other, node.name):
                    return reader
        return None

    def _depends(self, name: str, on: str) -> bool:
        """Whether `name` can only be made after `on`, in the graph or by what has been fused so far."""
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
