"""A folded graph as ncnn's pair of files, ReLUs fused as its own optimiser does.

The format is described in `refnet.checkpoints.ncnn`. A blob has one reader there, so a tensor that several read passes
through a Split. Axes do not count the batch, of which ncnn has none: channels are axis 0.
Source: Tencent/ncnn, docs/developer-guide/operators.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count

import numpy as np

from refnet.benchmark.fused import fused_activations
from refnet.errors import UnsupportedError
from refnet.graph import Graph, Node, consumers
from refnet.ops import Array

POOLS = {"max_pool": 0, "average_pool": 1}


def to_ncnn(graph: Graph, weights: Mapping[str, Array]) -> tuple[str, bytes]:
    """The `.param` text and the `.bin` bytes of a graph without batch norms, float32.

    Raises:
        UnsupportedError: the graph has an operation that has no layer here, or a name with a space.
    """
    for name in (graph.input, *graph.node):
        if len(name.split()) != 1:
            raise UnsupportedError(f"ncnn's files have no names with spaces, such as {name!r}")
    writer = _Writer(graph, weights)
    writer.layer("Input", graph.input, (), graph.input)
    for node in graph.nodes:
        if node.name not in writer.done:
            writer.write(node)
    blobs = sum(int(line.split()[3]) for line in writer.lines)
    header = ["7767517", f"{len(writer.lines)} {blobs}"]
    return "\n".join([*header, *writer.lines, ""]), b"".join(writer.data)


class _Writer:
    def __init__(self, graph: Graph, weights: Mapping[str, Array]) -> None:
        self.graph, self.weights = graph, weights
        self.shapes = graph.shapes()
        self.lines: list[str] = []
        self.data: list[bytes] = []
        self.fused = fused_activations(graph, ("conv", "linear"))
        self.done: set[str] = set()
        #: How many read a tensor; an output is read once more, by the caller, under its own name.
        self.reads = {
            name: len(nodes) + (name in graph.outputs) for name, nodes in consumers(graph).items()
        }
        self.copies: dict[str, list[str]] = {}
        self.numbers = count()

    def layer(self, kind: str, name: str, inputs: tuple[str, ...], output: str, *keys: str) -> None:
        """One line, and a Split after it where several read its blob."""
        sources = [self.copies[x].pop() if x in self.copies else x for x in inputs]
        readers = self.reads.get(output, 1)
        made = output if readers < 2 else f"{output}/all"
        words = [kind, name, str(len(sources)), "1", *sources, made, *keys]
        self.lines.append(" ".join(words))
        if readers > 1:
            copies = [f"{output}/{i}" for i in range(readers)]
            if output in self.graph.outputs:
                copies[0] = output
            self.lines.append(
                " ".join(["Split", f"{output}/split", "1", str(readers), made, *copies])
            )
            self.copies[output] = copies[output in self.graph.outputs :]

    def write(self, node: Node) -> None:
        activation, output, keys = self.fused.get(node.name), node.name, []
        if activation is not None:
            output = activation.name
            self.done.add(output)
            keys = ["9=1"] if activation.op == "relu" else ["9=3", "-23310=2,0.0,6.0"]
        if node.op == "normalize":
            centred = f"{output}/centred"
            mean, std = node.attributes["mean"], node.attributes["std"]
            self.layer("BinaryOp", centred, node.inputs, centred, "0=1", "1=1", f"2={mean:.9e}")
            self.layer("BinaryOp", output, (centred,), output, "0=3", "1=1", f"2={std:.9e}")
        elif node.op == "affine":
            self._affine(node)
        elif node.op == "cells":
            flat, channels = f"{output}/flat", self.shapes[node.inputs[0]][0]
            self.layer("Reshape", flat, node.inputs, flat, "0=-1", f"1={channels}")
            self.layer("Permute", output, (flat,), output, "0=1")
        else:
            kind, own = self._kind(node)
            self.layer(kind, node.name, node.inputs, output, *own, *keys)

    def _affine(self, node: Node) -> None:
        """A product with stored numbers and a sum with others."""
        source, roles = node.inputs, [r for r in ("weight", "bias") if r in node.parameters]
        for role in roles:
            numbers = self.weights[node.parameters[role]]
            name, made = f"{node.name}/{role}", f"{node.name}/product"
            if role == roles[-1]:
                made = node.name
            self.lines.append(" ".join(["MemoryData", name, "0 1", name, *_sizes(numbers.shape)]))
            self.data.append(np.ascontiguousarray(numbers, "<f4").tobytes())
            self.layer("BinaryOp", made, (*source, name), made, f"0={2 if role == 'weight' else 0}")
            source = (made,)

    def _kind(self, node: Node) -> tuple[str, list[str]]:
        """ncnn's name of the layer and its keys."""
        a = node.attributes
        match node.op:
            case "conv":
                return self._conv(node)
            case "linear":
                size = self._weights(node)
                outputs = self.shapes[node.name][0]
                return "InnerProduct", [f"0={outputs}", "1=1", f"2={size}"]
            case "relu":
                return "ReLU", []
            case "relu6":
                return "Clip", ["0=0.0", "1=6.0"]
            case "sigmoid":
                return "Sigmoid", []
            case "flatten":
                return "Flatten", []
            case "add":
                return "Eltwise", ["0=1"]
            case "concat":
                return "Concat", [f"0={a['axis'] - 1}"]
            case "softmax":
                return "Softmax", [f"0={a['axis'] - (a['axis'] > 0)}", "1=1"]
            case "slice":
                start, stop = f"-23309=1,{a['start']}", f"-23310=1,{a['stop']}"
                return "Crop", [start, stop, "-23311=1,0"]
            case "upsample":
                return "Interp", ["0=1", f"1={a['factor'][0]}", f"2={a['factor'][1]}"]
            case "reshape":
                return "Reshape", _sizes(self.shapes[node.name])
            case "take" if a["step"] == 1:
                axis, length = a["axis"] - 1, self.shapes[node.inputs[0]][a["axis"] - 1]
                first, last, _ = slice(a["start"], a["stop"]).indices(length)
                return "Crop", [f"-23309=1,{first}", f"-23310=1,{last}", f"-23311=1,{axis}"]
            case "subtract":
                return "BinaryOp", ["0=1"]
            case "exp":
                return "UnaryOp", ["0=7"]
            case "conv_transpose":
                return self._conv_transpose(node)
            case "max_pool" | "average_pool":
                keys = [f"0={POOLS[node.op]}", *_window(a), "5=1"]
                return "Pooling", [*keys, "6=1"] if node.op == "average_pool" else keys
        raise UnsupportedError(f"no layer of ncnn is known here for {node.op!r} ({node.name})")

    def _conv(self, node: Node) -> tuple[str, list[str]]:
        a, size = node.attributes, self._weights(node)
        keys = [f"0={self.shapes[node.name][0]}", f"1={a['kernel'][1]}", f"11={a['kernel'][0]}"]
        for key, pair in ((2, a["dilation"]), (3, a["stride"]), (4, a["padding"])):
            keys += [f"{key}={pair[1]}", f"{key + 10}={pair[0]}"]
        keys += [f"5={int('bias' in node.parameters)}", f"6={size}"]
        if a["groups"] == 1:
            return "Convolution", keys
        return "ConvolutionDepthWise", [*keys, f"7={a['groups']}"]

    def _conv_transpose(self, node: Node) -> tuple[str, list[str]]:
        a = node.attributes
        if a["groups"] != 1 or any(a["output_padding"]):
            raise UnsupportedError(
                f"transposed convolutions such as {node.name} are not written here"
            )
        # ncnn stores these by output channel too.
        size = self._weights(node, (1, 0, 2, 3))
        keys = [f"0={self.shapes[node.name][0]}", f"1={a['kernel'][1]}", f"11={a['kernel'][0]}"]
        for key, pair in ((2, a["dilation"]), (3, a["stride"]), (4, a["padding"])):
            keys += [f"{key}={pair[1]}", f"{key + 10}={pair[0]}"]
        return "Deconvolution", [*keys, f"5={int('bias' in node.parameters)}", f"6={size}"]

    def _weights(self, node: Node, order: tuple[int, ...] | None = None) -> int:
        """Append the node's weights, tagged as float32, their axes in `order`, and its bias; the number of weights."""
        weight = self.weights[node.parameters["weight"]]
        if order is not None:
            weight = weight.transpose(order)
        self.data += [bytes(4), np.ascontiguousarray(weight, "<f4").tobytes()]
        if "bias" in node.parameters:
            bias = self.weights[node.parameters["bias"]]
            self.data.append(np.ascontiguousarray(bias, "<f4").tobytes())
        return weight.size


def _sizes(shape: Sequence[int]) -> list[str]:
    """The keys of a shape, whose last axis comes first."""
    return [f"{key}={size}" for key, size in enumerate(reversed(shape))]


def _window(a: Mapping[str, tuple[int, int]]) -> list[str]:
    keys = []
    for key, pair in ((1, a["kernel"]), (2, a["stride"]), (3, a["padding"])):
        keys += [f"{key}={pair[1]}", f"{key + 10}={pair[0]}"]
    return keys
