"""Graph to graph, with the weights: each pass leaves every output as it is, and is proved so in float64.

`fold` turns the training form of a network, as its checkpoints hold it, into the inference form:

    fold_batch_norm     a batch norm after a convolution, transposed or not, moves into its weight and bias
    merge_branches      parallel convolutions (and batch norms) of one input, added, become one

Folding happens in float64 and is cast back once (Vasu et al. 2022, §3.2, for the algebra).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from refnet.errors import OptionError
from refnet.graph import Graph, Node, consumers
from refnet.ops import Array

Weights = Mapping[str, Array]


def fold(graph: Graph, weights: Weights) -> tuple[Graph, dict[str, Array]]:
    """The inference form of `graph` and its weights: batch norms folded, branches merged.

    The result names its tensors as `refnet.build(..., form="inference")` does and equals it node for
    node where the network has such a form; a graph without batch norms comes back unchanged.
    """
    return merge_branches(*fold_batch_norm(graph, weights))


def fold_batch_norm(graph: Graph, weights: Weights) -> tuple[Graph, dict[str, Array]]:
    """Move every batch norm that alone reads a convolution into that convolution.

    W' = W · s and b' = β + (b - μ) · s with s = γ / √(v + ε), by output channel; exact with zero
    padding, since the norm comes after it. A tensor that several nodes read is not changed.
    """
    readers = consumers(graph)
    reads = Counter(name for node in graph.nodes for name in set(node.parameters.values()))
    folded: dict[str, Array] = {}
    renamed: dict[str, str] = {}
    nodes: list[Node] = []
    for node in graph.nodes:
        source = graph.node.get(node.inputs[0])
        if (
            node.op == "batch_norm"
            and source is not None
            and source.op in ("conv", "conv_transpose")
            and _absorbable(source, graph, readers)
            and (names := _own_tensors(source, reads))
        ):
            weight, bias = names
            scale, shift = norm_affine(node, weights)
            folded[weight] = _double(weights[weight]) * _by_output(scale, source, weights[weight])
            had = source.parameters.get("bias")
            folded[bias] = shift + (_double(weights[had]) * scale if had else 0.0)
            at = next(i for i, n in enumerate(nodes) if n.name == source.name)
            nodes[at] = replace(source, parameters={"weight": weight, "bias": bias})
            renamed[node.name] = source.name
        else:
            nodes.append(node)
    return _rebuilt(graph, nodes, renamed, weights, folded)


def merge_branches(graph: Graph, weights: Weights) -> tuple[Graph, dict[str, Array]]:
    """Make one convolution of every sum whose addends are convolutions and batch norms of one input.

    A narrower kernel is centred in the widest one; a bare batch norm is the identity kernel, scaled.
    The merged tensors are named after the sum: `X.sum` becomes `X.reparam_conv`.
    """
    readers = consumers(graph)
    merged: dict[str, Array] = {}
    renamed: dict[str, str] = {}
    dropped: set[str] = set()
    replaced: dict[str, Node] = {}
    for node in graph.nodes:
        branches = [graph.node[name] for name in node.inputs if name in graph.node]
        convs = [b for b in branches if b.op == "conv"]
        if node.op != "add" or not convs or len(branches) != len(node.inputs):
            continue
        widest = max(convs, key=lambda b: b.attributes["kernel"])
        if not all(_absorbable(b, graph, readers) and _mergeable(b, widest) for b in branches):
            continue
        prefix = f"{node.name.removesuffix('.sum')}.reparam_conv"
        weight, bias = _merged_kernel(branches, widest, weights)
        merged[f"{prefix}.weight"], merged[f"{prefix}.bias"] = weight, bias
        names = {"weight": f"{prefix}.weight", "bias": f"{prefix}.bias"}
        replaced[node.name] = Node(prefix, "conv", widest.inputs, widest.attributes, names)
        renamed[node.name] = prefix
        dropped.update(node.inputs)
    nodes = [replaced.get(n.name, n) for n in graph.nodes if n.name not in dropped]
    return _rebuilt(graph, nodes, renamed, weights, merged)


def _by_output(scale: Array, conv: Node, weight: Array) -> Array:
    """`scale`, by output channel, shaped to broadcast over the weight of `conv`."""
    if conv.op == "conv":
        return scale[:, None, None, None]
    # A transposed weight is (C, O / groups, kh, kw), the channels of each group one after the other.
    rows = scale.reshape(conv.attributes["groups"], -1)
    return np.repeat(rows, len(weight) // len(rows), axis=0)[:, :, None, None]


def _absorbable(node: Node, graph: Graph, readers: Mapping[str, list[Node]]) -> bool:
    """Whether `node` may be absorbed by its consumer: it has exactly one, and is no output of the graph."""
    return len(readers[node.name]) == 1 and node.name not in graph.outputs


def _own_tensors(conv: Node, reads: Mapping[str, int]) -> tuple[str, str] | None:
    """The names of a convolution's weight and bias, the latter new where it has none; None where another node reads
    a tensor of one of these names."""
    weight = conv.parameters["weight"]
    had = conv.parameters.get("bias")
    bias = had or f"{weight.removesuffix('.weight')}.bias"
    alone = reads[weight] == 1 and reads.get(bias, 0) == (1 if had else 0)
    return (weight, bias) if alone else None


def norm_affine(node: Node, weights: Weights) -> tuple[Array, Array]:
    """(s, t) in float64, such that the batch norm `node` is x · s + t by channel."""
    p = {role: _double(weights[name]) for role, name in node.parameters.items()}
    scale = p["weight"] / np.sqrt(p["running_var"] + node.attributes["epsilon"])
    return scale, p["bias"] - p["running_mean"] * scale


def _double(x: Array) -> Array:
    return x.astype(np.float64)


def _mergeable(branch: Node, widest: Node) -> bool:
    """Whether `branch` reads the same pixels for the same unit as the centre of `widest`."""
    a, w = branch.attributes, widest.attributes
    if branch.op not in ("conv", "batch_norm") or branch.inputs != widest.inputs:
        return False
    if branch.op == "batch_norm":
        return bool(
            w["stride"] == (1, 1)
            and all(2 * p == k - 1 for p, k in zip(w["padding"], w["kernel"], strict=True))
        )
    centred = all(
        wide >= k and (wide - k) % 2 == 0 and wp - p == (wide - k) // 2
        for k, p, wide, wp in zip(a["kernel"], a["padding"], w["kernel"], w["padding"], strict=True)
    )
    return bool(
        centred
        and a["stride"] == w["stride"]
        and a["groups"] == w["groups"]
        and a["dilation"] == w["dilation"] == (1, 1)
    )


def _merged_kernel(branches: list[Node], widest: Node, weights: Weights) -> tuple[Array, Array]:
    """The sum of the branches as one kernel and bias, in float64."""
    shape = weights[widest.parameters["weight"]].shape
    weight, bias = np.zeros(shape), np.zeros(shape[0])
    kh, kw = shape[2:]
    for branch in branches:
        if branch.op == "batch_norm":
            scale, shift = norm_affine(branch, weights)
            channel = np.arange(shape[0])
            weight[channel, channel % shape[1], kh // 2, kw // 2] += scale
            bias += shift
            continue
        w = weights[branch.parameters["weight"]]
        top, left = (kh - w.shape[2]) // 2, (kw - w.shape[3]) // 2
        weight[:, :, top : top + w.shape[2], left : left + w.shape[3]] += w
        if "bias" in branch.parameters:
            bias += weights[branch.parameters["bias"]]
    return weight, bias


def _rebuilt(
    graph: Graph,
    nodes: list[Node],
    renamed: Mapping[str, str],
    weights: Weights,
    changed: Mapping[str, Array],
) -> tuple[Graph, dict[str, Array]]:
    """The graph of `nodes`, inputs and outputs renamed, with the weights that they read."""
    nodes = [replace(n, inputs=tuple(renamed.get(x, x) for x in n.inputs)) for n in nodes]
    read = [name for node in nodes for name in node.parameters.values()]
    # Folding works in float64; whoever started in float32 gets float32 back, rounded once.
    kept = {
        name: changed[name].astype(_dtype(weights)) if name in changed else weights[name]
        for name in read
    }
    options = {**graph.options, "form": "inference"} if "form" in graph.options else graph.options
    state_dict = {name: array.shape for name, array in kept.items()}
    outputs = tuple(renamed.get(name, name) for name in graph.outputs)
    if len(set(outputs)) != len(outputs):
        raise OptionError(f"{graph.name}: a pass would join two outputs into one: {outputs}")
    new = replace(
        graph, nodes=tuple(nodes), outputs=outputs, state_dict=state_dict, options=options
    )
    return new, kept


def _dtype(weights: Weights) -> np.dtype[np.generic]:
    return np.result_type(*weights.values())
