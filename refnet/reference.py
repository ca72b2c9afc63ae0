"""The reference executor: walks a graph with the NumPy definitions of `refnet.ops`.

It is slow and right. Whatever runs faster is tested against it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from refnet.errors import ShapeError
from refnet.graph import Graph, Node, last_uses
from refnet.ops import OPS, Array


def _parameters(node: Node, weights: Mapping[str, Array]) -> dict[str, Array]:
    return {role: weights[name] for role, name in node.parameters.items()}


def _forward(node: Node, tensors: Mapping[str, Array], weights: Mapping[str, Array]) -> Array:
    inputs = [tensors[name] for name in node.inputs]
    return OPS[node.op].forward(*inputs, **_parameters(node, weights), **node.attributes)


def run(graph: Graph, weights: Mapping[str, Array], x: Array) -> tuple[Array, ...]:
    """The graph's outputs for `x` (N, C, H, W), in the order of `graph.outputs`.

    `weights` and `x` have one dtype, float32 or float64; so have the outputs. A tensor is freed
    after its last reader.

    Raises:
        ShapeError: the network cannot take this shape.
    """
    graph.shapes(x.shape[1:])
    tensors = {graph.input: x}
    for node, done in last_uses(graph):
        tensors[node.name] = _forward(node, tensors, weights)
        for name in done:
            del tensors[name]
    return tuple(tensors[name] for name in graph.outputs)


def finish(nodes: Sequence[Node], weights: Mapping[str, Array], tensors: dict[str, Array]) -> None:
    """Add the results of `nodes`, in execution order, to the tensors that they read."""
    for node in nodes:
        tensors[node.name] = _forward(node, tensors, weights)


def activations(graph: Graph, weights: Mapping[str, Array], x: Array) -> dict[str, Array]:
    """{tensor name: array} of the input and every node, for `x` (N, C, H, W)."""
    graph.shapes(x.shape[1:])
    tensors = {graph.input: x}
    for node in graph.nodes:
        tensors[node.name] = _forward(node, tensors, weights)
    return tensors


def vjp(
    graph: Graph, weights: Mapping[str, Array], x: Array, cotangents: Sequence[Array | None]
) -> Array:
    """The vector-Jacobian product: the gradient of Σ ⟨cotangent, output⟩ by `x`, shape of `x`.

    Args:
        cotangents: one array per output, of the output's shape; None stands for zeros.

    Raises:
        ShapeError: a cotangent is missing or misshapen, or the network cannot take `x`.
    """
    if len(cotangents) != len(graph.outputs):
        raise ShapeError(
            f"{graph.name} has {len(graph.outputs)} outputs {graph.outputs} and takes as many "
            f"cotangents (None for zeros), not {len(cotangents)}"
        )
    tensors = activations(graph, weights, x)
    gradient: dict[str, Array] = {}
    for name, cotangent in zip(graph.outputs, cotangents, strict=True):
        if cotangent is None:
            continue
        if cotangent.shape != tensors[name].shape:
            raise ShapeError(
                f"the cotangent of output {name!r} has shape {cotangent.shape}; the output's is "
                f"{tensors[name].shape}"
            )
        gradient[name] = gradient.get(name, 0) + cotangent.astype(x.dtype)
    for node in reversed(graph.nodes):
        y, dy = tensors.pop(node.name), gradient.pop(node.name, None)
        if dy is None:
            continue
        inputs = [tensors[name] for name in node.inputs]
        parameters = _parameters(node, weights)
        products = OPS[node.op].vjp(dy, inputs, y, **parameters, **node.attributes)
        for name, product in zip(node.inputs, products, strict=True):
            gradient[name] = gradient[name] + product if name in gradient else product
    return gradient.get(graph.input, np.zeros_like(x))
