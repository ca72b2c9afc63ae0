"""A network with its weights as an ONNX file, for whichever runtime there is.

The table `WRITERS` gives every operation its ONNX form, of opset 13 or any later one up to 24; the batch axis is free,
and so are height and width where the network is fully convolutional. What is written is the graph as it stands: fold it first (`refnet.passes`)
for the inference form, as `refnet export` does.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from refnet.errors import OptionError
from refnet.exchange.writers import require_writers
from refnet.files import write_file
from refnet.graph import Graph, Node
from refnet.ops import Array
from refnet.optional import require
from refnet.passes import fold

OPSET, NEWEST_OPSET = 13, 24
#: The opset from which on an operation is one operator.
HARD_SWISH_OPSET, SWISH_OPSET = 14, 24


def to_onnx(
    graph: Graph, weights: Mapping[str, Array], *, fold_first: bool = True, opset: int = OPSET
) -> bytes:
    """The serialised ONNX model of `graph` with float32 weights, checked by onnx.checker.

    Args:
        fold_first: fold batch norms and merge branches, as every runtime would.
        opset: the version of ONNX's operators, 13 to 24. A later one has hard_swish (14) and silu (24)
            as one operator each; fewer runtimes read it.

    Raises:
        DependencyError: the package onnx is missing.
        UnsupportedError: an operation has no ONNX form here.
        OptionError: the opset is none of these, or the package onnx does not know it.
    """
    onnx = require("onnx", "writing ONNX", "refnet[onnx]")
    newest = min(NEWEST_OPSET, onnx.defs.onnx_opset_version())
    if not OPSET <= opset <= newest:
        raise OptionError(f"opset is one of {OPSET} to {newest}, not {opset}")
    if fold_first:
        graph, weights = fold(graph, weights)
    require_writers(graph, WRITERS, "ONNX")
    writer = _Writer(graph, onnx, opset)
    for name, array in _broadcastable(graph, weights).items():
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


def _broadcastable(graph: Graph, weights: Mapping[str, Array]) -> dict[str, Array]:
    """The weights, slopes of maps as (C, 1, 1): ONNX broadcasts them from the last axis on."""
    shapes, shaped = graph.shapes(), dict(weights)
    for node in graph.nodes:
        if "slope" in node.parameters:
            name = node.parameters["slope"]
            rank = len(shapes[node.name])
            if shaped[name].ndim not in (1, rank):
                raise OptionError(f"{name} is the slope of tensors of different ranks")
            shaped[name] = shaped[name].reshape(-1, *(1,) * (rank - 1))
    return shaped


class _Writer:
    """Collects nodes and constants."""

    def __init__(self, graph: Graph, onnx: Any, opset: int) -> None:
        self.graph, self.onnx, self.opset = graph, onnx, opset
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

    def _leaky_relu(self, node: Node, inputs: list[str]) -> None:
        self.node("LeakyRelu", inputs, node.name, alpha=node.attributes["slope"])

    def _prelu(self, node: Node, inputs: list[str]) -> None:
        self.node("PRelu", [*inputs, node.parameters["slope"]], node.name)

    def _elu(self, node: Node, inputs: list[str]) -> None:
        self.node("Elu", inputs, node.name, alpha=node.attributes["alpha"])

    def _hard_sigmoid(self, node: Node, inputs: list[str]) -> None:
        a = node.attributes
        self.node("HardSigmoid", inputs, node.name, alpha=a["slope"], beta=a["shift"])

    def _hard_swish(self, node: Node, inputs: list[str]) -> None:
        if self.opset >= HARD_SWISH_OPSET:
            self.node("HardSwish", inputs, node.name)
        else:
            self._gated("HardSigmoid", node, inputs, alpha=1 / 6, beta=0.5)

    def _silu(self, node: Node, inputs: list[str]) -> None:
        if self.opset >= SWISH_OPSET:
            self.node("Swish", inputs, node.name)
        else:
            self._gated("Sigmoid", node, inputs)

    def _gated(self, gate: str, node: Node, inputs: list[str], **attributes: float) -> None:
        """The product of a tensor and `gate` of it."""
        self.node(gate, inputs, f"{node.name}/gate", **attributes)
        self.node("Mul", [*inputs, f"{node.name}/gate"], node.name)

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
        operators = [helper.make_opsetid("", self.opset)]
        # Runtimes of today all read version 8 of the file format; later opsets need a later one.
        version = max(8, helper.find_min_ir_version_for(operators))
        return helper.make_model(
            graph, opset_imports=operators, ir_version=version, producer_name="refnet"
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
    "tanh": _plain("Tanh"),
    "exp": _plain("Exp"),
    "leaky_relu": _Writer._leaky_relu,
    "prelu": _Writer._prelu,
    "elu": _Writer._elu,
    "hard_sigmoid": _Writer._hard_sigmoid,
    "hard_swish": _Writer._hard_swish,
    "silu": _Writer._silu,
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
