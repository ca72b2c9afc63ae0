"""What every writer of graphs asks first: whether its table holds all operations of the graph."""

from __future__ import annotations

from collections.abc import Collection

from refnet.errors import UnsupportedError
from refnet.graph import Graph


def require_writers(graph: Graph, writers: Collection[str], form: str) -> None:
    """Refuse a graph with an operation that cannot be written.

    Args:
        writers: the operations that can be.
        form: what is written, such as "ONNX".

    Raises:
        UnsupportedError: it names every operation that is lacking, and the first layer of each.
    """
    lacking: dict[str, str] = {}
    for node in graph.nodes:
        if node.op not in writers:
            lacking.setdefault(node.op, node.name)
    if lacking:
        named = ", ".join(f"{op!r} (layer {name})" for op, name in lacking.items())
        raise UnsupportedError(
            f"{graph.name} cannot be written as {form}, which lacks {named} here"
        )
