"""Graph to graph, on the way to a plan: what need not be computed, or is cheaper in another form.

Every rewrite leaves the outputs as they are, up to rounding in float64. None depends on the size of an image.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from refnet.graph import Graph, Node, consumers

from .algorithm import is_by_channel
from .fusion import RELUS
from .layout import blocks_of

Weights = dict[str, NDArray[Any]]


def simplify(graph: Graph, weights: Mapping[str, NDArray[Any]]) -> tuple[Graph, Weights]:
    """The graph that is planned: dead code gone, transposed and grouped convolutions made of plain ones, lone batch norms made convolutions, input
    normalisation folded, two-logit softmaxes made sigmoids, activations and additions moved to the parts of a
    concatenation.

    What changes is computed in float64; all other weights are passed on as they are."""
    # First, so that the passes count only consumers that matter; again at the end, since they leave nodes behind.
    graph = name_pools(drop_dead(graph))
    graph, new = unfold_transposed(graph, weights)
    graph, new = spread_transposed(graph, new)
    graph, new = split_groups(graph, new)
    graph, new = scale_channels(graph, new)
    graph, new = fold_normalization(graph, new)
    graph, new = collapse_softmax(graph, new)
    graph, new = collapse_softmax_of_cells(graph, new)
    graph, new = merge_heads(pass_concats(graph), new)
    return drop_dead(distribute_additions(distribute_activations(graph))), new


def drop_dead(graph: Graph) -> Graph:
    """Without the nodes that no output needs."""
    needed = set(graph.outputs)
    kept: list[Node] = []
    for node in reversed(graph.nodes):
        if node.name in needed:
            needed.update(node.inputs)
            kept.append(node)
    return replace(graph, nodes=tuple(reversed(kept)))


#: {what reduces all rows and columns: the pool that it is}.
POOLS = {"mean": "global_average_pool", "max": "global_max_pool"}


def name_pools(graph: Graph) -> Graph:
    """The mean or the maximum of all rows and columns is a global pool."""
    shapes = graph.shapes()
    nodes = []
    for node in graph.nodes:
        over = node.op == "reduce" and set(node.attributes["axes"]) == {2, 3}
        if over and len(shapes[node.inputs[0]]) == 3 and node.attributes["kind"] in POOLS:
            node = replace(node, op=POOLS[node.attributes["kind"]], attributes={})
        nodes.append(node)
    return replace(graph, nodes=tuple(nodes))


def unfold_transposed(graph: Graph, weights: Mapping[str, NDArray[Any]]) -> tuple[Graph, Weights]:
    """A transposed convolution that makes a square of pixels of each one is a convolution to all pixels of the square,
    and these put where they belong; an activation of it comes before that, on the smaller map.

    The convolution is 1x1 where the windows neither overlap nor leave gaps. Where they overlap, it has the taps of all
    pixels of the square, and zeros where a pixel has no such tap: 3x3 for 4x4 windows of stride 2 and padding 1."""
    consuming = consumers(graph)
    nodes: list[Node] = []
    gone: set[str] = set()
    # Copies, so that the caller's mappings stay as they are.
    weights, state = dict(weights), dict(graph.state_dict)
    for node in graph.nodes:
        if node.name in gone:
            continue
        reach = _square(node)
        if reach is None:
            nodes.append(node)
            continue
        weight, block = weights[node.parameters["weight"]], node.attributes["stride"][0]
        names = {"weight": f"{node.name}.unfolded"}
        weights[names["weight"]] = _unfolded(weight, node, reach)
        if "bias" in node.parameters:
            names["bias"] = f"{node.name}.unfolded_bias"
            weights[names["bias"]] = np.tile(weights[node.parameters["bias"]], block**2)
        for name in names.values():
            state[name] = weights[name].shape
        size = (2 * reach[0] + 1, 2 * reach[1] + 1)
        window = {"kernel": size, "stride": (1, 1), "padding": reach, "dilation": (1, 1)}
        last, taps = node.name, f"{node.name} unfolded"
        nodes.append(Node(taps, "conv", node.inputs, {**window, "groups": 1}, names))
        readers = consuming[node.name]
        # Before the pixels move, the activation follows a convolution directly, which can absorb it.
        if len(readers) == 1 and _moves(readers[0]) and node.name not in graph.outputs:
            (reader,) = readers
            last = reader.name
            gone.add(last)
            nodes.append(replace(reader, name=f"{last} unfolded", inputs=(taps,)))
        square = {"block": block, "depth_first": True}
        nodes.append(Node(last, "depth_to_space", (nodes[-1].name,), square))
    return replace(graph, nodes=tuple(nodes), state_dict=state), weights


def _square(node: Node) -> tuple[int, int] | None:
    """Of a transposed convolution that makes a square of pixels of each one, how many pixels further up or down, left or
    right the pixels of a square read. None where it makes something else, or where spreading is as cheap."""
    a = node.attributes
    if node.op != "conv_transpose" or a["groups"] != 1 or a["stride"][0] != a["stride"][1]:
        return None
    keys = ("kernel", "stride", "padding", "output_padding", "dilation")
    axes = [tuple(a[key][axis] for key in keys) for axis in (0, 1)]
    # Of n pixels, (n - 1) s - 2 p + d (k - 1) + 1 + more are made; that shall be n s.
    if any(d * (k - 1) + 1 + more - 2 * p != s for k, s, p, more, d in axes):
        return None
    rows, columns = (
        max((abs(source) for _, _, source in _taps(node, axis)), default=0) for axis in (0, 1)
    )
    cheap = (2 * rows + 1) * (2 * columns + 1) <= a["kernel"][0] * a["kernel"][1]
    return (rows, columns) if cheap else None


def _taps(node: Node, axis: int) -> list[tuple[int, int, int]]:
    """(place in the square, tap, pixel that it reads, counted from the one that the square is made of) along an axis: pixel
    n adds its tap k at n s - p + d k."""
    a = node.attributes
    stride, padding, dilation = (a[key][axis] for key in ("stride", "padding", "dilation"))
    return [
        (place, tap, (place + padding - dilation * tap) // stride)
        for place in range(stride)
        for tap in range(a["kernel"][axis])
        if (place + padding - dilation * tap) % stride == 0
    ]


def _unfolded(weight: NDArray[Any], node: Node, reach: tuple[int, int]) -> NDArray[Any]:
    """Weights (C, O, kh, kw) of a transposed convolution as those of a convolution to all pixels of a square, row by row."""
    taken, made, *_ = weight.shape
    block, (rows, columns) = node.attributes["stride"][0], reach
    wide = np.zeros((block, block, made, taken, 2 * rows + 1, 2 * columns + 1), weight.dtype)
    for row, i, above in _taps(node, 0):
        for column, j, left in _taps(node, 1):
            wide[row, column, :, :, above + rows, left + columns] = weight[:, :, i, j].T
    return wide.reshape(-1, taken, *wide.shape[4:])


def spread_transposed(graph: Graph, weights: Mapping[str, NDArray[Any]]) -> tuple[Graph, Weights]:
    """Any other transposed convolution is a convolution with the mirrored kernel of a map on which the pixels stand
    `stride` apart, in a frame of zeros as wide as the kernel reaches.

    That map is written as a transposed convolution with one tap of 1 by itself, whose negative padding is the frame."""
    nodes: list[Node] = []
    weights, state = dict(weights), dict(graph.state_dict)
    for node in graph.nodes:
        if node.op != "conv_transpose":
            nodes.append(node)
            continue
        a, names = node.attributes, {**node.parameters, "weight": f"{node.name}.mirrored"}
        weight, groups = weights[node.parameters["weight"]], a["groups"]
        taken, made, *kernel = weight.shape
        # (C, O / groups, kh, kw) to (O, C / groups, kh, kw).
        grouped = weight.reshape(groups, taken // groups, made, *kernel).swapaxes(1, 2)
        mirrored = grouped.reshape(groups * made, taken // groups, *kernel)[:, :, ::-1, ::-1]
        spread, one = f"{node.name} spread", f"{node.name}.spread"
        weights[names["weight"]], weights[one] = mirrored, np.ones((taken, 1, 1, 1))
        state[names["weight"]], state[one] = mirrored.shape, (taken, 1, 1, 1)
        cut = tuple(
            p - d * (k - 1)
            for p, d, k in zip(a["padding"], a["dilation"], a["kernel"], strict=True)
        )
        window = {"kernel": (1, 1), "dilation": (1, 1), "padding": cut, "groups": taken}
        nodes.append(Node(spread, "conv_transpose", node.inputs, {**a, **window}, {"weight": one}))
        window = {"kernel": a["kernel"], "stride": (1, 1), "padding": (0, 0)}
        attributes = {**window, "dilation": a["dilation"], "groups": groups}
        nodes.append(Node(node.name, "conv", (spread,), attributes, names))
    return replace(graph, nodes=tuple(nodes), state_dict=state), weights


def split_groups(graph: Graph, weights: Mapping[str, NDArray[Any]]) -> tuple[Graph, Weights]:
    """A grouped convolution is a concatenation of convolutions of slices, except where each channel is a group of its own."""
    nodes: list[Node] = []
    weights, state = dict(weights), dict(graph.state_dict)
    for node in graph.nodes:
        groups = node.attributes["groups"] if node.op == "conv" else 1
        if groups == 1 or is_by_channel(node, graph):
            nodes.append(node)
            continue
        made, taken, *_ = graph.state_dict[node.parameters["weight"]]
        parts = []
        for group in range(groups):
            names = {}
            for role, name in node.parameters.items():
                names[role] = f"{node.name}.{role} of group {group}"
                first, last = made // groups * group, made // groups * (group + 1)
                weights[names[role]] = weights[name][first:last]
                state[names[role]] = weights[names[role]].shape
            cut, part = f"{node.name} input of group {group}", f"{node.name} group {group}"
            channels = {"start": group * taken, "stop": (group + 1) * taken}
            nodes.append(Node(cut, "slice", node.inputs, channels))
            nodes.append(Node(part, "conv", (cut,), {**node.attributes, "groups": 1}, names))
            parts.append(part)
        nodes.append(Node(node.name, "concat", tuple(parts), {"axis": 1}))
    return replace(graph, nodes=tuple(nodes), state_dict=state), weights


def scale_channels(graph: Graph, weights: Mapping[str, NDArray[Any]]) -> tuple[Graph, Weights]:
    """A batch norm that no convolution has taken in, or a factor and an addend for each channel of a map, is a 1x1
    convolution of each channel by itself."""
    shapes = graph.shapes()
    nodes: list[Node] = []
    weights, state = dict(weights), dict(graph.state_dict)
    for node in graph.nodes:
        shape = shapes[node.name]
        if not _is_scaling(node, graph, shapes):
            nodes.append(node)
            continue
        p = {role: weights[name].astype(np.float64) for role, name in node.parameters.items()}
        one, zero = np.ones(shape[0]), np.zeros(shape[0])
        scale, shift = one * p.get("weight", one).ravel(), zero + p.get("bias", zero).ravel()
        if node.op == "batch_norm":
            scale = scale / np.sqrt(p["running_var"] + node.attributes["epsilon"])
            shift = shift - p["running_mean"] * scale
        names = {"weight": f"{node.name}.scale", "bias": f"{node.name}.shift"}
        for name, array in zip(names.values(), (scale.reshape(-1, 1, 1, 1), shift), strict=True):
            weights[name], state[name] = array, array.shape
        window = {"kernel": (1, 1), "stride": (1, 1), "padding": (0, 0), "dilation": (1, 1)}
        attributes = {**window, "groups": shape[0]}
        nodes.append(Node(node.name, "conv", node.inputs, attributes, names))
    return replace(graph, nodes=tuple(nodes), state_dict=state), weights


def _is_scaling(node: Node, graph: Graph, shapes: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether a node multiplies each channel of a map by a constant and adds another one."""
    if len(shapes[node.name]) != 3 or node.op not in ("batch_norm", "affine"):
        return False
    if node.op == "batch_norm":
        return True
    # One number for all channels, or one for each, at every pixel.
    sizes = [graph.state_dict[name] for name in node.parameters.values()]
    return shapes[node.name] == shapes[node.inputs[0]] and all(s[1:] == (1, 1) for s in sizes)


def fold_normalization(graph: Graph, weights: Mapping[str, NDArray[Any]]) -> tuple[Graph, Weights]:
    """Move (x - mean) / std into the convolutions that read it: w / std and b - sum(w) mean / std.

    Exact only without padding, since a padded zero is a zero after the normalisation.
    """
    consuming = consumers(graph)
    nodes = list(graph.nodes)
    weights = dict(weights)
    state = dict(graph.state_dict)
    for node in graph.nodes:
        users = consuming[node.name]
        foldable = node.op == "normalize" and node.name not in graph.outputs
        # All consumers or none: otherwise the normalisation would be computed as well.
        if not foldable or any(u.op != "conv" or u.attributes["padding"] != (0, 0) for u in users):
            continue
        mean, std = node.attributes["mean"], node.attributes["std"]
        for user in users:
            weight = weights[user.parameters["weight"]].astype(np.float64) / std
            # w (x - mean) / std + b = (w / std) x + (b - sum(w / std) mean).
            bias = -weight.sum(axis=(1, 2, 3)) * mean
            if "bias" in user.parameters:
                bias = bias + weights[user.parameters["bias"]]
            names = {"weight": f"{user.name}.normalized", "bias": f"{user.name}.normalized_bias"}
            for name, array in zip(names.values(), (weight, bias), strict=True):
                weights[name], state[name] = array, array.shape
            at = next(i for i, n in enumerate(nodes) if n.name == user.name)
            nodes[at] = replace(user, inputs=node.inputs, parameters=names)
    return replace(graph, nodes=tuple(nodes), state_dict=state), weights


def collapse_softmax(graph: Graph, weights: Mapping[str, NDArray[Any]]) -> tuple[Graph, Weights]:
    """softmax(a, b) of which only one channel is read is sigmoid(a - b): one output channel instead of two."""
    consuming = consumers(graph)
    nodes = {node.name: node for node in graph.nodes}
    weights, state = dict(weights), dict(graph.state_dict)
    for softmax in graph.nodes:
        conv = graph.node.get(softmax.inputs[0])
        taken = consuming[softmax.name]
        # One channel can stand for two only where nothing reads the other one: the convolution has two channels and
        # one consumer, the softmax one consumer, which takes a single channel. In groups, their inputs would differ.
        if (
            softmax.op != "softmax"
            or softmax.attributes["axis"] != 1
            or conv is None
            or conv.op != "conv"
            or graph.state_dict[conv.parameters["weight"]][0] != 2
            or conv.attributes["groups"] != 1
            or len(consuming[conv.name]) != 1
            or {softmax.name, conv.name} & set(graph.outputs)
            or len(taken) != 1
            or taken[0].op != "slice"
            or taken[0].attributes["stop"] - taken[0].attributes["start"] != 1
        ):
            continue
        # exp(a) / (exp(a) + exp(b)) = 1 / (1 + exp(b - a)).
        chosen = taken[0].attributes["start"]
        names = {}
        for role, name in conv.parameters.items():
            new = f"{conv.name}.{role}.difference"  # others may read the same tensor
            wide = weights[name].astype(np.float64)
            weights[new] = wide[chosen, None] - wide[1 - chosen, None]
            names[role], state[new] = new, weights[new].shape
        nodes[conv.name] = replace(conv, parameters=names)
        nodes[softmax.name] = replace(softmax, op="sigmoid", attributes={})
        nodes[taken[0].name] = replace(taken[0], attributes={"start": 0, "stop": 1})
    return replace(graph, nodes=tuple(nodes.values()), state_dict=state), weights


def collapse_softmax_of_cells(
    graph: Graph, weights: Mapping[str, NDArray[Any]]
) -> tuple[Graph, Weights]:
    """softmax(a, b) of every cell, of logits that convolutions make, is sigmoid(a - b), sigmoid(b - a): one exponential for
    all cells of a pixel instead of one for each."""
    consuming = consumers(graph)
    nodes = {node.name: node for node in graph.nodes}
    weights, state = dict(weights), dict(graph.state_dict)

    def made_by(name: str, op: str) -> Node | None:
        node = graph.node.get(name)
        alone = len(consuming[name]) == 1 and name not in graph.outputs
        return node if node is not None and node.op == op and alone else None

    for softmax in graph.nodes:
        if softmax.op != "softmax" or softmax.attributes["axis"] != 2:
            continue
        joined = made_by(softmax.inputs[0], "concat")
        if joined is not None and joined.attributes["axis"] != 1:
            continue
        convs = []
        for name in joined.inputs if joined is not None else softmax.inputs:
            pairs = made_by(name, "reshape")
            cells = made_by(pairs.inputs[0], "cells") if pairs is not None else None
            conv = made_by(cells.inputs[0], "conv") if cells is not None else None
            if pairs is None or tuple(pairs.attributes["shape"]) != (-1, 2):
                conv = None
            # In groups, the inputs of two logits would differ.
            if conv is not None and conv.attributes["groups"] == 1:
                convs.append(conv)
        if len(convs) != len(joined.inputs if joined is not None else softmax.inputs):
            continue
        for conv in convs:
            names = {}
            for role, name in conv.parameters.items():
                new = f"{conv.name}.{role}.differences"  # others may read the same tensor
                wide = weights[name].astype(np.float64).reshape(-1, 2, *weights[name].shape[1:])
                weights[new] = (wide - wide[:, ::-1]).reshape(weights[name].shape)
                names[role], state[new] = new, weights[new].shape
            nodes[conv.name] = replace(conv, parameters=names)
        nodes[softmax.name] = replace(softmax, op="sigmoid", attributes={})
    return replace(graph, nodes=tuple(nodes.values()), state_dict=state), weights


def pass_concats(graph: Graph) -> Graph:
    """What takes just one part out of a concatenation reads the part instead."""
    shapes = graph.shapes()
    same: dict[str, str] = {}
    nodes = []
    for node in graph.nodes:
        node = replace(node, inputs=tuple(same.get(name, name) for name in node.inputs))
        joined = graph.node.get(node.inputs[0])
        if node.op == "take" and joined is not None and joined.op == "concat":
            axis, a = joined.attributes["axis"], node.attributes
            length = shapes[joined.name][axis - 1]
            wanted = (*slice(a["start"], a["stop"]).indices(length)[:2], a["step"], a["axis"])
            start = 0
            for part in joined.inputs:
                stop = start + shapes[part][axis - 1]
                if wanted == (start, stop, 1, axis) and node.name not in graph.outputs:
                    same[node.name] = same.get(part, part)
                start = stop
        if node.name not in same:
            nodes.append(node)
    return replace(graph, nodes=tuple(nodes))


def merge_heads(graph: Graph, weights: Mapping[str, NDArray[Any]]) -> tuple[Graph, Weights]:
    """1x1 convolutions of one tensor, each with few channels and a convolution by channel after it, as one of each: a
    block of lanes costs the same however many channels it holds."""
    consuming = consumers(graph)
    weights, state = dict(weights), dict(graph.state_dict)
    heads: dict[tuple[Any, ...], list[tuple[Node, Node]]] = {}
    for node in graph.nodes:
        readers = consuming[node.name]
        if len(readers) != 1 or node.name in graph.outputs or not _is_1x1(node):
            continue
        (reader,) = readers
        a, count = reader.attributes, state[node.parameters["weight"]][0]
        by_channel = (
            reader.op == "conv"
            and a["groups"] == count == state[reader.parameters["weight"]][0]
            and not any(user.op in (*RELUS, "add") for user in consuming[reader.name])
        )
        if by_channel:
            window = tuple(a[key] for key in ("kernel", "stride", "padding", "dilation"))
            biased = "bias" in node.parameters, "bias" in reader.parameters
            heads.setdefault((node.inputs, window, biased), []).append((node, reader))
    # {name: what stands in its place}.
    instead: dict[str, list[Node]] = {}
    for members in heads.values():
        counts = [state[node.parameters["weight"]][0] for node, _ in members]
        if blocks_of(sum(counts)) == sum(map(blocks_of, counts)):
            continue
        made: list[Node] = []
        for layers in zip(*members, strict=True):
            names = {}
            name = " with ".join((layers[0].name, ", ".join(n.name for n in layers[1:])))
            for role in layers[0].parameters:
                new = f"{name}.{role}"
                weights[new] = np.concatenate([weights[n.parameters[role]] for n in layers])
                names[role], state[new] = new, weights[new].shape
            inputs = (made[-1].name,) if made else layers[0].inputs
            groups = sum(counts) if made else 1
            attributes = {**layers[0].attributes, "groups": groups}
            made.append(Node(name, "conv", inputs, attributes, names))
        start = 0
        for (_, reader), count in zip(members, counts, strict=True):
            part = {"axis": 1, "start": start, "stop": start + count, "step": 1}
            made.append(Node(reader.name, "take", (made[1].name,), part))
            start += count
        instead |= {node.name: [] for pair in members for node in pair}
        instead[members[0][0].name] = made
    nodes = [new for node in graph.nodes for new in instead.get(node.name, [node])]
    return replace(graph, nodes=tuple(nodes), state_dict=state), weights


def _is_1x1(node: Node) -> bool:
    a = node.attributes
    return (
        node.op == "conv"
        and (a["kernel"], a["stride"], a["padding"], a["groups"]) == ((1, 1), (1, 1), (0, 0), 1)
        and len(node.inputs) == 1
    )


def distribute_activations(graph: Graph) -> Graph:
    """relu(concat(a, b)) = concat(relu(a), relu(b)): the layers that make a and b can then apply it."""
    consuming = consumers(graph)
    nodes: list[Node] = []
    for node in graph.nodes:
        name = node.inputs[0]
        # A part that others read too would be needed with and without its activation: nothing would be saved.
        if (
            not _moves(node)
            or name not in graph.node
            or not _only(graph, consuming, name, "concat")
            or any(len(consuming[x]) > 1 or x in graph.outputs for x in graph.node[name].inputs)
        ):
            nodes.append(node)
            continue
        joined = graph.node[name]
        parts = [
            replace(node, name=f"{node.name} of {part}", inputs=(part,)) for part in joined.inputs
        ]
        nodes += [*parts, replace(joined, name=node.name, inputs=tuple(p.name for p in parts))]
    return replace(graph, nodes=tuple(nodes))


def _moves(node: Node) -> bool:
    """Whether this is an activation that is the same on any channels: all but one that has a slope for each."""
    return node.op in RELUS and not node.parameters


def distribute_additions(graph: Graph) -> Graph:
    """concat(a, b) + s = concat(a + s[:n], b + s[n:]): the sums can then be made where a and b are made."""
    consuming, shapes = consumers(graph), graph.shapes()
    nodes: list[Node] = []
    for node in graph.nodes:
        joined = [
            graph.node[x]
            for x in node.inputs
            if x in graph.node
            and _only(graph, consuming, x, "concat")
            and graph.node[x].attributes["axis"] == 1
        ]
        # Of two concatenations, parts need not end at the same channels. Lists of cells have no channels to cut.
        if (
            node.op != "add"
            or len(node.inputs) != 2
            or len(joined) != 1
            or len(shapes[node.name]) != 3
        ):
            nodes.append(node)
            continue
        (other,) = (x for x in node.inputs if x != joined[0].name)
        # Slices of the other addend are lists of blocks and cost nothing, if blocks begin where parts do.
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


def cut(graph: Graph, layers: Collection[str]) -> tuple[Graph, tuple[Node, ...]]:
    """The graph without some layers and all that need them, its outputs being what these layers read and those of the
    graph that are left; and the layers that were cut off."""
    gone = set(layers)
    for node in graph.nodes:
        if gone & set(node.inputs):
            gone.add(node.name)
    rest = tuple(node for node in graph.nodes if node.name in gone)
    # What the engine still makes for the caller comes first; what only the cut layers read follows, each tensor once.
    wanted = [*graph.outputs, *(name for node in rest for name in node.inputs)]
    outputs = tuple(dict.fromkeys(name for name in wanted if name not in gone))
    return drop_dead(replace(graph, outputs=outputs)), rest


def _only(graph: Graph, consuming: Mapping[str, list[Node]], name: str, op: str) -> bool:
    node = graph.node[name]
    return node.op == op and len(consuming[name]) == 1 and name not in graph.outputs
