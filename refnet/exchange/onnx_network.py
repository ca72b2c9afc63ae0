"""A network and its weights from an ONNX file, as far as refnet's vocabulary reaches; needs the package onnx.

Names are kept: a node is called by its ONNX output, a parameter by its initializer. The file is read at one size of
the image, where all that it computes about shapes is plain arithmetic, and then at a few others: if the same network
comes out at all of them, it runs at any size.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from refnet.errors import OptionError, RefnetError, ShapeError
from refnet.exchange.onnx_builder import OnnxBuilder, Value, limited
from refnet.exchange.onnx_fold import FOLDS, fold
from refnet.exchange.onnx_ops import READERS
from refnet.exchange.onnx_patterns import Patterns
from refnet.exchange.onnx_proto import OnnxGraph, OnnxNode, read_onnx_graph, shown
from refnet.graph import Graph, Node
from refnet.ops import Array, Pair, Shape

#: Sides to read a file at that leaves the size of its image open, until one fits.
_SIDES = (640, 320, 256, 224, 192, 128, 112, 96, 64, 32)
#: What an image is enlarged by to see whether the network stays the same: (rows, columns).
_MORE = ((1, 1), (2, 3), (4, 7), (8, 13), (16, 27), (32, 32), (64, 96))
#: No file computes more elements from constants.
MOST_FOLDED = 1 << 25
#: What operators that are not read are made for.
_KINDS = {
    "it is quantised; use the float network that it was made from": (
        "QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "QLinearConv", "QLinearMatMul",
        "ConvInteger", "MatMulInteger",
    ),
    "it has branches and loops, which are not run": ("If", "Loop", "Scan", "SequenceMap"),
    "it removes boxes itself; export the network without that step": ("NonMaxSuppression", "NonZero", "TopK"),
}  # fmt: skip


def read_network(
    path: str | os.PathLike[str], input_size: int | Pair | None = None
) -> tuple[Graph, dict[str, Array]]:
    """The network in an ONNX file, and its weights.

    Args:
        input_size: a side or (height, width) of the image, where the file does not fix it.

    Raises:
        DependencyError: the package onnx is absent.
        CheckpointError: the file cannot be read.
        OptionError: the network uses what the vocabulary does not hold; all of it is named.
        ShapeError: the size of the image is not one that the network takes, or is open and has to be given.
    """
    file = read_onnx_graph(path)
    name = shown(file.name)
    try:
        _check_vocabulary(file)
        first, free = _sized(file, input_size)
    except (OptionError, ShapeError) as error:
        raise type(error)(f"{name}: {shown(str(error))}") from None
    nodes = first.nodes if free else [_windowed(node, first.shapes) for node in first.nodes]
    graph = Graph(
        name=name,
        input_shape=first.shapes["input"],
        fixed_size=not free,
        nodes=tuple(nodes),
        outputs=first.outputs,
        state_dict={key: array.shape for key, array in first.weights.items()},
    )
    return graph, first.weights


@dataclass(frozen=True)
class _Network:
    """What a file says at one size of the image."""

    nodes: list[Node]
    outputs: tuple[str, ...]
    weights: dict[str, Array]
    shapes: Mapping[str, Shape]


# ------------------------------------------------------------------------------------------- sizes


def _sized(file: OnnxGraph, input_size: int | Pair | None) -> tuple[_Network, bool]:
    """The network at the size that the file or the caller gives, and whether it takes any other."""
    channels, sides = _image(file)
    given = _pair(input_size)
    if given is not None:
        first = _network(file, (channels, *given))
        free = _is_free(file, first)
        if sides not in ((None, None), given) and not free[1]:
            fixed = " × ".join("any" if side is None else str(side) for side in sides)
            raise ShapeError(f"it is fixed to {fixed} and cannot take {given[0]} × {given[1]}")
        return free
    if None not in sides:
        return _is_free(file, _network(file, (channels, sides[0] or 0, sides[1] or 0)))
    for side in _SIDES:
        try:
            first = _network(file, (channels, sides[0] or side, sides[1] or side))
        except ShapeError:
            continue
        found = _is_free(file, first)
        if found[1]:
            return found
        break
    raise ShapeError(
        "it leaves the size of its input open, and its layers depend on it; pass input_size=, such as "
        "(480, 640)"
    )


def _pair(input_size: int | Pair | None) -> Pair | None:
    if input_size is None:
        return None
    pair = [input_size, input_size] if isinstance(input_size, int) else list(input_size)
    if len(pair) != 2 or not all(isinstance(side, int) and side > 0 for side in pair):
        raise OptionError(f"input_size is a side or (height, width), not {input_size!r}")
    return pair[0], pair[1]


def _image(file: OnnxGraph) -> tuple[int, tuple[int | None, int | None]]:
    """(channels, (height, width)) of the one image that the network takes."""
    if len(file.inputs) != 1:
        names = ", ".join(repr(shown(value.name)) for value in file.inputs[:8]) or "none"
        raise OptionError(f"a network here takes one image; the inputs of this one are {names}")
    dims = file.inputs[0].dims
    if dims is None or len(dims) != 4 or dims[1] is None:
        sizes = (
            "of any shape" if dims is None else f"{tuple('any' if d is None else d for d in dims)}"
        )
        raise ShapeError(f"a network here takes images (N, C, H, W), not inputs {sizes}")
    limited([d for d in dims[1:] if d is not None])
    return dims[1], (dims[2], dims[3])


def _is_free(file: OnnxGraph, first: _Network) -> tuple[_Network, bool]:
    """`first`, with nothing in it that depends on its size, and True; or as it is, and False."""
    channels, height, width = first.shapes["input"]
    sizes = [(2 * height, 3 * width), *((height + a, width + b) for a, b in _MORE)]
    others: list[tuple[Shape, _Network | None]] = []
    general = first.nodes
    for size in sizes:
        shape: Shape = (channels, *size)
        try:
            other = _network(file, shape)
        except RefnetError:
            others.append((shape, None))
            continue
        others.append((shape, other))
        merged = _merged(general, other.nodes)
        if merged is None or not _same(first.weights, other.weights):
            return first, False
        general = merged
    # Where the general network runs at another size, it must be what the file says at that size.
    graph = Graph(
        "general", first.shapes["input"], False, tuple(general), first.outputs,
        {key: array.shape for key, array in first.weights.items()},
    )  # fmt: skip
    for shape, at_size in others:
        try:
            runs = graph.shapes(shape)
        except ShapeError:
            continue
        if at_size is None or any(runs[name] != at_size.shapes[name] for name in runs):
            return first, False
    if all(at_size is None for _, at_size in others):
        return first, False
    return replace(first, nodes=general), True


def _merged(nodes: Sequence[Node], others: Sequence[Node]) -> list[Node] | None:
    """The nodes that are right at both sizes; None where there are none."""
    if len(nodes) != len(others):
        return None
    made = []
    for node, other in zip(nodes, others, strict=True):
        if node == other:
            made.append(node)
            continue
        if node.op != "reshape" or replace(other, attributes=node.attributes) != node:
            return None
        pair = node.attributes["shape"], other.attributes["shape"]
        if len(pair[0]) != len(pair[1]):
            return None
        shape = tuple(a if a == b else -1 for a, b in zip(*pair, strict=True))
        if shape.count(-1) > 1:
            return None
        made.append(replace(node, attributes={"shape": shape}))
    return made


def _same(weights: Mapping[str, Array], others: Mapping[str, Array]) -> bool:
    return weights.keys() == others.keys() and all(
        array is others[name] or np.array_equal(array, others[name])
        for name, array in weights.items()
    )


def _windowed(node: Node, shapes: Mapping[str, Shape]) -> Node:
    """A pool over the whole map as a window of its size, where that size is fixed."""
    op = node.op.removeprefix("global_")
    if op == node.op:
        return node
    size = shapes[node.inputs[0]][1:]
    return replace(node, op=op, attributes={"kernel": size, "stride": size, "padding": (0, 0)})


# ------------------------------------------------------------------------------------------- nodes


def _check_vocabulary(file: OnnxGraph) -> None:
    """Refuse a file with operators that are not read, naming them all.

    Raises:
        OptionError: there are such.
    """
    unknown = sorted({node.op for node in file.nodes} - {*READERS, *FOLDS})
    if not unknown:
        return
    reasons = [why for why, ops in _KINDS.items() if set(ops) & set(unknown)]
    if foreign := sorted({op.rpartition(".")[0] for op in unknown if "." in op}):
        reasons.append(
            f"operators of {', '.join(map(shown, foreign))} are a runtime's own; use the file before it was "
            "optimised"
        )
    because = f" ({'; '.join(reasons)})" if reasons else ""
    raise OptionError(
        f"it uses {', '.join(map(shown, unknown[:24]))}, which refnet's vocabulary does not hold"
        f"{because}; it reads {', '.join(sorted(READERS))}"
    )


def _network(file: OnnxGraph, shape: Shape) -> _Network:
    """The network at one size of the image.

    Raises:
        OptionError: some nodes ask for what is not supported; all are named.
        ShapeError: the network does not take this size.
    """
    limited(shape)
    net = OnnxBuilder(file.inputs[0].name, shape, file.constants, set(file.outputs))
    problems: list[RefnetError] = []
    lost: set[str] = set()
    for node in file.nodes:
        if lost.intersection(node.inputs):
            lost.update(node.outputs)
            continue
        try:
            _read(net, node)
        except (OptionError, ShapeError) as error:
            problems.append(type(error)(f"{node.op} {shown(node.outputs[0])!r}: {error}"))
            lost.update(node.outputs)
    for problem in problems:
        if isinstance(problem, ShapeError):
            raise problem
    if problems:
        named = dict.fromkeys(map(str, problems))
        more = f"; and {len(named) - 8} more" if len(named) > 8 else ""
        raise OptionError("; ".join(list(named)[:8]) + more)
    outputs = _outputs(net, file)
    nodes = _needed(net.builder.nodes, outputs)
    patterns = Patterns(nodes, net.builder.shape, outputs)
    nodes = patterns.replaced()
    read = {name for node in nodes for name in node.parameters.values()}
    weights = {name: array for name, array in net.weights.items() if name in read}
    return _Network(nodes, outputs, weights, patterns.shapes)


def _read(net: OnnxBuilder, node: OnnxNode) -> None:
    """Say what the outputs of `node` are: constants where all its inputs are, else tensors."""
    for name in node.inputs:
        if name and name not in net.known:
            raise OptionError(f"nothing makes its input {shown(name)!r}")
    constants = net.constants(node)
    if node.op == "Constant" or (
        any(node.inputs)
        and all(
            value is not None for value, name in zip(constants, node.inputs, strict=True) if name
        )
    ):
        if node.op not in FOLDS:
            raise OptionError("its inputs are all constant")
        made = fold(node, constants)
        net.folded += sum(array.size for array in made if array.flags.owndata)
        if net.folded > MOST_FOLDED:
            raise OptionError("all that the file computes from constants is too large")
        net.define(node, *made)
    elif node.op in READERS:
        READERS[node.op](net, node)
    else:
        raise OptionError("it is supported for constants only")


def _outputs(net: OnnxBuilder, file: OnnxGraph) -> tuple[str, ...]:
    """The graph's outputs, each a node of its own that is called by the output's name."""
    made: list[str] = []
    for output in file.outputs:
        value = net.known.get(output)
        if not isinstance(value, Value):
            raise OptionError(f"its output {shown(output)!r} does not depend on the image")
        name = shown(output)[:200]
        if value.name == "input" or value.name in made:
            axes = net.of_image(value)
            value = net.add("slice", name, value, batch=value.batch, start=0, stop=axes[0])
        elif value.name != name and value.name not in file.outputs:
            value = _renamed(net, value, name)
        made.append(value.name)
    return tuple(made)


def _renamed(net: OnnxBuilder, value: Value, name: str) -> Value:
    """`value` called `name`, wherever it is read."""
    new = net.fresh(name)
    builder = net.builder
    builder.nodes = [
        replace(
            node,
            name=new if node.name == value.name else node.name,
            inputs=tuple(new if x == value.name else x for x in node.inputs),
        )
        for node in builder.nodes
    ]
    builder.shape[new] = builder.shape[value.name]
    for key, known in net.known.items():
        if isinstance(known, Value) and known.name == value.name:
            net.known[key] = Value(new, known.batch)
    return Value(new, value.batch)


def _needed(nodes: Sequence[Node], outputs: Sequence[str]) -> list[Node]:
    """The nodes that the outputs depend on."""
    wanted = set(outputs)
    needed = []
    for node in reversed(nodes):
        if node.name in wanted:
            needed.append(node)
            wanted.update(node.inputs)
    return needed[::-1]
