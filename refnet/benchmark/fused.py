"""Which activations a converter would fold into the layer before them."""

from __future__ import annotations

from refnet.graph import Graph, Node, consumers


def fused_activations(graph: Graph, ops: tuple[str, ...]) -> dict[str, Node]:
    """{layer: the ReLU or ReLU6 that alone reads it}, for layers whose op is one of `ops`."""
    readers = consumers(graph)
    found: dict[str, Node] = {}
    for node in graph.nodes:
        if node.op in ops and node.name not in graph.outputs and len(readers[node.name]) == 1:
            reader = readers[node.name][0]
            if reader.op in ("relu", "relu6"):
                found[node.name] = reader
    return found
