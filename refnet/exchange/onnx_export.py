"""A network with its weights as an ONNX file, for whichever runtime there is.

The table `WRITERS` gives every operation its ONNX form (opset 13); the batch axis is free, and so are height and width
where the network is fully convolutional. What is written is the graph as it stands: fold it first (`refnet.passes`)
for the inference form, as `refnet export` does.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from refnet.exchange.writers import require_writers
from refnet.files import write_file
from refnet.graph import Graph, Node
from refnet.ops import Array
from refnet.optional import require
from refnet.passes import fold

OPSET = 13


def to_onnx(graph: Graph, weights: Mapping[str, Array], *, fold_first: bool = True) -> bytes:
    """The serialised ONNX model of `graph` with float32 weights, checked by onnx.checker.

    Args:
        fold_first: fold batch norms and merge branches, as every runtime would.

    Raises:
        DependencyError: the package onnx is missing.
        UnsupportedError: an operation has no ONNX form here.
    """
    onnx = require("onnx", "writing ONNX", "refnet[onnx]")
    if fold_first:
        graph, weights = fold(graph, weights)
    require_writers(graph, WRITERS, "ONNX")
    writer = _Writer(graph, onnx)
    for name, array in weights.items():
        writer.constant(name, array)
    for node in graph.nodes:
        WRITERS[node.op](writer, node, list(node.inputs))
    model = writer.model()
    onnx.checker.check_model(model, full_check=True)
    serialised: bytes = model.SerializeToString()
    return serialised


def export_onnx(graph: Graph, weights: Mapping[str, Array], path: str | os.PathLike[str]) -> int:
    """Write `to_onnx(graph, weights)` to a file; the number of bytes.

    Raises:
        OutputError: the file cannot be written. And as `to_onnx`.
    """
    data = to_onnx(graph, weights)
    write_file(path, [data])
    return len(data)


class _Writer:
    """Collects nodes and constants."""

    def __init__(self, graph: Graph, onnx: Any) -> None:
        self.graph, self.onnx = graph, onnx
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def constant(self, name: str, values: Any, dtype: Any = np.float32) -> str:
        array = np.ascontiguousarray(values, dtype)
        self.constants.append(self.onnx.numpy_helper.from_array(array, name))
        return name

    def node(self, op: str, inputs: list[str], output: str, **attributes: Any) -> None:
        node = self.onnx.helper.make_node(op, inputs, [output], name=output, **attributes)
        self.nodes.append(node)

    def _conv(self, node: Node, inputs: list[str]) -> None:
        a, roles = node.attributes, ("weight", "bias")
        inputs += [node.parameters[role] for role in roles if role in node.parameters]
        window = {"kernel_shape": a["kernel"], "strides": a["stride"], "dilations": a["dilation"]}
        self.node("Conv", inputs, node.name, pads=[*a["padding"]] * 2, group=a["groups"], **window)

    def _batch_norm(self, node: Node, inputs: list[str]) -> None:
        roles = ("weight", "bias", "running_mean", "running_var")
        inputs += [node.parameters[role] for role in roles]
        self.node("BatchNormalization", inputs, node.name, epsilon=node.attributes["epsilon"])

    def _linear(self, node: Node, inputs: list[str]) -> None:
        inputs += [node.parameters["weight"], node.parameters["bias"]]
        self.node("Gemm", inputs, node.name, transB=1)

    def _relu6(self, node: Node, inputs: list[str]) -> None:
        bounds = (f"{node.name}/low", 0.0), (f"{node.name}/high", 6.0)
        self.node("Clip", inputs + [self.constant(n, v) for n, v in bounds], node.name)

    def _pool(self, op: str, node: Node, inputs: list[str], **more: Any) -> None:
        a = node.attributes
        window = {"kernel_shape": a["kernel"], "strides": a["stride"], "pads": [*a["padding"]] * 2}
        self.node(op, inputs, node.name, **window, **more)

    def _average_pool(self, node: Node, inputs: list[str]) -> None:
        self._pool("AveragePool", node, inputs, count_include_pad=1)

    def _max_pool(self, node: Node, inputs: list[str]) -> None:
        self._pool("MaxPool", node, inputs)

    def _concat(self, node: Node, inputs: list[str]) -> None:
        self.node("Concat", inputs, node.name, axis=node.attributes["axis"])

    def _softmax(self, node: Node, inputs: list[str]) -> None:
        self.node("Softmax", inputs, node.name, axis=node.attributes["axis"])

    def _slice(self, node: Node, inputs: list[str]) -> None:
        a = node.attributes
        numbers = {"start": a["start"], "stop": a["stop"], "axis": 1}
        inputs += [self.constant(f"{node.name}/{k}", [v], np.int64) for k, v in numbers.items()]
        self.node("Slice", inputs, node.name)

    def _normalize(self, node: Node, inputs: list[str]) -> None:
        mean = self.constant(f"{node.name}/mean", node.attributes["mean"])
        std = self.constant(f"{node.name}/std", node.attributes["std"])
        self.node("Sub", [*inputs, mean], f"{node.name}/centred")
        self.node("Div", [f"{node.name}/centred", std], node.name)

    def _cells(self, node: Node, inputs: list[str]) -> None:
        channels = self.graph.shapes()[node.inputs[0]][0]
        shape = self.constant(f"{node.name}/shape", [0, channels, -1], np.int64)
        self.node("Reshape", [*inputs, shape], f"{node.name}/flat")
        self.node("Transpose", [f"{node.name}/flat"], node.name, perm=[0, 2, 1])

    def model(self) -> Any:
        helper, kind = self.onnx.helper, self.onnx.TensorProto.FLOAT
        channels, height, width = self.graph.input_shape
        sides = [height, width] if self.graph.fixed_size else ["height", "width"]
        shapes = self.graph.shapes()
        outputs = []
        for name in self.graph.outputs:
            shape: list[Any] = ["batch", *shapes[name]]
            if not self.graph.fixed_size:
                free = [f"{name}/{i}" for i in range(1, len(shape))]
                channel = 1 if len(shape) == 4 else 2
                shape = [
                    "batch",
                    *(
                        x if i == channel else f
                        for i, (x, f) in enumerate(zip(shape[1:], free, strict=True), 1)
                    ),
                ]
            outputs.append(helper.make_tensor_value_info(name, kind, shape))
        source = helper.make_tensor_value_info(self.graph.input, kind, ["batch", channels, *sides])
        graph = helper.make_graph(self.nodes, self.graph.name, [source], outputs, self.constants)
        operators = [helper.make_opsetid("", OPSET)]
        return helper.make_model(
            graph, opset_imports=operators, ir_version=8, producer_name="refnet"
        )


Write = Callable[[_Writer, Node, list[str]], None]


def _plain(operator: str) -> Write:
    """Writes an operation whose ONNX form is an operator and its inputs, no more."""

    def write(writer: _Writer, node: Node, inputs: list[str]) -> None:
        writer.node(operator, inputs, node.name)

    return write


#: What writes an operation, given its node and a list of the names of its inputs.
WRITERS: Mapping[str, Write] = {
    "conv": _Writer._conv,
    "batch_norm": _Writer._batch_norm,
    "linear": _Writer._linear,
    "relu": _plain("Relu"),
    "relu6": _Writer._relu6,
    "sigmoid": _plain("Sigmoid"),
    "softmax": _Writer._softmax,
    "normalize": _Writer._normalize,
    "average_pool": _Writer._average_pool,
    "max_pool": _Writer._max_pool,
    "add": _plain("Sum"),
    "concat": _Writer._concat,
    "slice": _Writer._slice,
    "flatten": _plain("Flatten"),
    "cells": _Writer._cells,
}
