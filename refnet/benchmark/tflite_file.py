"""A folded graph as a TensorFlow Lite file, written with the schema that LiteRT itself ships.

Maps are (N, H, W, C) there. Padding is "same" or "valid"; where "same" would pad other sides than the graph does
(stride 2 on an even size), a PAD goes in front, which XNNPACK fuses with the convolution after it.
Source: TensorFlow Lite schema, version 3.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from refnet.benchmark.fused import fused_activations
from refnet.errors import UnsupportedError
from refnet.exchange.writers import require_writers
from refnet.graph import Graph, Node
from refnet.ops import Array, Shape
from refnet.optional import require


def to_tflite(graph: Graph, weights: Mapping[str, Array], batch: int) -> bytes:
    """The serialised model of a graph without batch norms, for exactly `batch` images, float32.

    Raises:
        DependencyError: ai-edge-litert is missing.
        UnsupportedError: the graph has an operation that cannot be written here.
    """
    require_writers(graph, WRITERS, "TensorFlow Lite")
    writer = _Writer(graph, weights, batch)
    for node in graph.nodes:
        if node.name not in writer.done:
            writer.write(node)
    return writer.model()


class _Writer:
    def __init__(self, graph: Graph, weights: Mapping[str, Array], batch: int) -> None:
        self.schema: Any = require(
            "ai_edge_litert.schema_py_generated", "writing TensorFlow Lite", "ai-edge-litert"
        )
        self.graph, self.weights, self.batch = graph, weights, batch
        self.shapes = graph.shapes()
        self.tensors: list[Any] = []
        self.buffers: list[Any] = [self.schema.BufferT()]  # the first is empty, by convention
        self.operators: list[Any] = []
        self.codes: dict[int, int] = {}
        self.index: dict[str, int] = {}
        self.fused = fused_activations(graph, ("conv", "linear", "add"))
        self.done: set[str] = set()
        self.value(graph.input)

    def tensor(self, name: str, shape: Sequence[int], data: Array | None = None) -> int:
        made = self.schema.TensorT()
        made.name, made.shape = name, np.asarray(shape, np.int32)
        kinds = self.schema.TensorType
        integer = data is not None and data.dtype == np.int32
        made.type, made.buffer = (kinds.INT32 if integer else kinds.FLOAT32), 0
        if data is not None:
            buffer = self.schema.BufferT()
            buffer.data = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
            made.buffer = len(self.buffers)
            self.buffers.append(buffer)
        self.tensors.append(made)
        return len(self.tensors) - 1

    def constant(self, name: str, values: Any, dtype: Any = np.float32) -> int:
        array = np.ascontiguousarray(values, dtype)
        return self.tensor(name, array.shape, array)

    def value(self, name: str) -> int:
        """The tensor of a node, or of the input."""
        self.index[name] = self.tensor(name, self.layout(self.shapes[name]))
        return self.index[name]

    def layout(self, shape: Shape) -> tuple[int, ...]:
        if len(shape) == 3:
            return (self.batch, shape[1], shape[2], shape[0])
        return (self.batch, *shape)

    def operator(self, kind: str, inputs: Sequence[int], output: int, **options: Any) -> None:
        """One operator; `options` are the fields of its options table, `table` that table's name."""
        made, schema = self.schema.OperatorT(), self.schema
        code = getattr(schema.BuiltinOperator, kind)
        made.opcodeIndex = self.codes.setdefault(code, len(self.codes))
        made.inputs, made.outputs = np.asarray(inputs, np.int32), np.asarray([output], np.int32)
        if table := options.pop("table", None):
            made.builtinOptions = getattr(schema, f"{table}T")()
            made.builtinOptionsType = getattr(schema.BuiltinOptions, table)
            for field, value in options.items():
                setattr(made.builtinOptions, field, value)
        self.operators.append(made)

    def write(self, node: Node) -> None:
        activation, output = self.fused.get(node.name), node.name
        kinds, fused = self.schema.ActivationFunctionType, 0
        if activation is not None:
            output = activation.name
            self.done.add(output)
            fused = kinds.RELU if activation.op == "relu" else kinds.RELU6
        inputs = [self.index[name] for name in node.inputs]
        WRITERS[node.op](self, node, inputs, self.value(output), fused)

    def padded(self, node: Node, source: int) -> tuple[int, int]:
        """The tensor to read and the kind of padding for a window over it, with a PAD if need be."""
        a, (_, height, width) = node.attributes, self.shapes[node.inputs[0]]
        kinds = self.schema.Padding
        if a["padding"] == (0, 0):
            return source, kinds.VALID
        sides = zip((height, width), a["kernel"], a["stride"], a["padding"], strict=True)
        if all(max((-(-n // s) - 1) * s + k - n, 0) == 2 * p for n, k, s, p in sides):
            return source, kinds.SAME
        if node.op == "max_pool":
            raise UnsupportedError(f"a padded maximum ({node.name}) is not written here")
        (ph, pw), channels = a["padding"], self.shapes[node.inputs[0]][0]
        shape = (self.batch, height + 2 * ph, width + 2 * pw, channels)
        target = self.tensor(f"{node.name}/padded", shape)
        by = self.constant(f"{node.name}/pads", [(0, 0), (ph, ph), (pw, pw), (0, 0)], np.int32)
        self.operator("PAD", [source, by], target, table="PadOptions")
        return target, kinds.VALID

    def _conv(self, node: Node, inputs: list[int], output: int, fused: int) -> None:
        a, weight = node.attributes, self.weights[node.parameters["weight"]]
        channels = self.shapes[node.inputs[0]][0]
        source, padding = self.padded(node, inputs[0])
        bias = np.zeros(len(weight))
        if "bias" in node.parameters:
            bias = self.weights[node.parameters["bias"]]
        (sh, sw), (dh, dw) = a["stride"], a["dilation"]
        options = {"padding": padding, "strideH": sh, "strideW": sw, "dilationHFactor": dh}
        options |= {"dilationWFactor": dw, "fusedActivationFunction": fused}
        depthwise = a["groups"] == channels > 1
        axes = (1, 2, 3, 0) if depthwise else (0, 2, 3, 1)
        kernel = self.constant(f"{node.name}/weight", weight.transpose(axes))
        operands = [source, kernel, self.constant(f"{node.name}/bias", bias)]
        if depthwise:
            options |= {"table": "DepthwiseConv2DOptions"}
            options |= {"depthMultiplier": len(weight) // channels}
            self.operator("DEPTHWISE_CONV_2D", operands, output, **options)
        else:
            self.operator("CONV_2D", operands, output, table="Conv2DOptions", **options)

    def _linear(self, node: Node, inputs: list[int], output: int, fused: int) -> None:
        for role in ("weight", "bias"):
            values = self.weights[node.parameters[role]]
            inputs.append(self.constant(f"{node.name}/{role}", values))
        options = {"table": "FullyConnectedOptions", "fusedActivationFunction": fused}
        self.operator("FULLY_CONNECTED", inputs, output, **options)

    def _relu(self, node: Node, inputs: list[int], output: int, fused: int) -> None:
        self.operator("RELU", inputs, output)

    def _relu6(self, node: Node, inputs: list[int], output: int, fused: int) -> None:
        self.operator("RELU6", inputs, output)

    def _sigmoid(self, node: Node, inputs: list[int], output: int, fused: int) -> None:
        self.operator("LOGISTIC", inputs, output)

    def _softmax(self, node: Node, inputs: list[int], output: int, fused: int) -> None:
        self.operator("SOFTMAX", inputs, output, table="SoftmaxOptions", beta=1.0)

    def _add(self, node: Node, inputs: list[int], output: int, fused: int) -> None:
        first, *others = inputs
        for i, other in enumerate(others, 1):
            last = i == len(others)
            shape = self.layout(self.shapes[node.name])
            target = output if last else self.tensor(f"{node.name}/{i}", shape)
            options = {"table": "AddOptions", "fusedActivationFunction": fused if last else 0}
            self.operator("ADD", [first, other], target, **options)
            first = target

    def _concat(self, node: Node, inputs: list[int], output: int, fused: int) -> None:
        axis = self.axis(node)
        self.operator("CONCATENATION", inputs, output, table="ConcatenationOptions", axis=axis)

    def axis(self, node: Node) -> int:
        """The axis of a node as it lies there; channels of maps are the last one."""
        axis = int(node.attributes.get("axis", 1))
        return (0, 3, 1, 2)[axis] if len(self.shapes[node.name]) == 3 else axis

    def _slice(self, node: Node, inputs: list[int], output: int, fused: int) -> None:
        """Channels, or what a node takes along another axis."""
        a, axis = node.attributes, self.axis(node)
        if a.get("step", 1) != 1:
            raise UnsupportedError(f"{node.name} leaves out places, which is not written here")
        length = self.layout(self.shapes[node.inputs[0]])[axis]
        shape = self.layout(self.shapes[node.name])
        begin = [0] * len(shape)
        begin[axis] = slice(a["start"], a["stop"]).indices(length)[0]
        inputs.append(self.constant(f"{node.name}/begin", begin, np.int32))
        inputs.append(self.constant(f"{node.name}/size", shape, np.int32))
        self.operator("SLICE", inputs, output, table="SliceOptions")

    def _reshape(self, node: Node, inputs: list[int], output: int, fused: int) -> None:
        if 3 in (len(self.shapes[node.name]), len(self.shapes[node.inputs[0]])):
            raise UnsupportedError(f"a reshape of a map ({node.name}) is not written here")
        self.reshape(node.name, inputs[0], output, (self.batch, *self.shapes[node.name]))

    def _upsample(self, node: Node, inputs: list[int], output: int, fused: int) -> None:
        size = self.constant(f"{node.name}/size", self.shapes[node.name][1:], np.int32)
        options = {"alignCorners": False, "halfPixelCenters": False}
        table = "ResizeNearestNeighborOptions"
        self.operator("RESIZE_NEAREST_NEIGHBOR", [inputs[0], size], output, table=table, **options)

    def _conv_transpose(self, node: Node, inputs: list[int], output: int, fused: int) -> None:
        a, weight = node.attributes, self.weights[node.parameters["weight"]]
        plain = a["groups"] == 1 and a["dilation"] == (1, 1)
        if not plain or any((*a["padding"], *a["output_padding"])):
            raise UnsupportedError(
                f"transposed convolutions such as {node.name} are not written here"
            )
        bias = np.zeros(weight.shape[1])
        if "bias" in node.parameters:
            bias = self.weights[node.parameters["bias"]]
        size = self.layout(self.shapes[node.name])
        operands = [
            self.constant(f"{node.name}/size", size, np.int32),
            self.constant(f"{node.name}/weight", weight.transpose(1, 2, 3, 0)),
            *(inputs[0], self.constant(f"{node.name}/bias", bias)),
        ]
        (sh, sw), padding = a["stride"], self.schema.Padding.VALID
        options = {"strideH": sh, "strideW": sw, "padding": padding}
        self.operator("TRANSPOSE_CONV", operands, output, table="TransposeConvOptions", **options)

    def _affine(self, node: Node, inputs: list[int], output: int, fused: int) -> None:
        shape = self.shapes[node.name]
        if len(shape) == 3:
            raise UnsupportedError(f"constants of a map ({node.name}) are not written here")
        kinds = {"weight": ("MUL", "MulOptions"), "bias": ("ADD", "AddOptions")}
        roles, source = [role for role in kinds if role in node.parameters], inputs[0]
        for role in roles:
            numbers = self.constant(
                f"{node.name}/{role}", self.weights[node.parameters[role]][None]
            )
            last = role == roles[-1]
            made = output if last else self.tensor(f"{node.name}/product", self.layout(shape))
            kind, table = kinds[role]
            self.operator(kind, [source, numbers], made, table=table)
            source = made

    def _exp(self, node: Node, inputs: list[int], output: int, fused: int) -> None:
        self.operator("EXP", inputs, output, table="ExpOptions")

    def _subtract(self, node: Node, inputs: list[int], output: int, fused: int) -> None:
        self.operator("SUB", inputs, output, table="SubOptions")

    def _pool(self, kind: str, node: Node, source: int, output: int) -> None:
        (kh, kw), (sh, sw) = node.attributes["kernel"], node.attributes["stride"]
        source, padding = self.padded(node, source)
        options = {"filterHeight": kh, "filterWidth": kw, "strideH": sh, "strideW": sw}
        self.operator(kind, [source], output, table="Pool2DOptions", padding=padding, **options)

    def _average_pool(self, node: Node, inputs: list[int], output: int, fused: int) -> None:
        self._pool("AVERAGE_POOL_2D", node, inputs[0], output)

    def _max_pool(self, node: Node, inputs: list[int], output: int, fused: int) -> None:
        self._pool("MAX_POOL_2D", node, inputs[0], output)

    def reshape(self, name: str, source: int, output: int, shape: Sequence[int]) -> None:
        inputs = [source, self.constant(f"{name}/shape", shape, np.int32)]
        self.operator("RESHAPE", inputs, output, table="ReshapeOptions", newShape=list(shape))

    def _flatten(self, node: Node, inputs: list[int], output: int, fused: int) -> None:
        source, shape = inputs[0], self.shapes[node.inputs[0]]
        if len(shape) == 3 and shape[1] * shape[2] > 1:
            planar = self.tensor(f"{node.name}/planar", (self.batch, *shape))
            order = self.constant(f"{node.name}/order", [0, 3, 1, 2], np.int32)
            self.operator("TRANSPOSE", [source, order], planar, table="TransposeOptions")
            source = planar
        self.reshape(node.name, source, output, (self.batch, *self.shapes[node.name]))

    def _cells(self, node: Node, inputs: list[int], output: int, fused: int) -> None:
        self.reshape(node.name, inputs[0], output, (self.batch, *self.shapes[node.name]))

    def _normalize(self, node: Node, inputs: list[int], output: int, fused: int) -> None:
        centred = self.tensor(f"{node.name}/centred", self.layout(self.shapes[node.name]))
        mean = self.constant(f"{node.name}/mean", [node.attributes["mean"]])
        scale = self.constant(f"{node.name}/scale", [1 / node.attributes["std"]])
        self.operator("SUB", [inputs[0], mean], centred, table="SubOptions")
        self.operator("MUL", [centred, scale], output, table="MulOptions")

    def model(self) -> bytes:
        schema = self.schema
        part, model = schema.SubGraphT(), schema.ModelT()
        part.name, part.tensors, part.operators = self.graph.name, self.tensors, self.operators
        part.inputs = np.asarray([self.index[self.graph.input]], np.int32)
        outputs = [self.index[name] for name in self.graph.outputs]
        part.outputs = np.asarray(outputs, np.int32)
        model.version, model.subgraphs, model.buffers = 3, [part], self.buffers
        model.operatorCodes = []
        for code in self.codes:
            made = schema.OperatorCodeT()
            made.builtinCode, made.deprecatedBuiltinCode = code, min(code, 127)
            # With a bias, a transposed convolution is one of the third version.
            made.version = 3 if code == schema.BuiltinOperator.TRANSPOSE_CONV else 1
            model.operatorCodes.append(made)
        builder = _aligned_builder()
        builder.Finish(model.Pack(builder), file_identifier=b"TFL3")
        return bytes(builder.Output())


#: What writes an operation, given its node, the tensors of its inputs and its output, and the code of
#: the activation that is fused with it.
WRITERS: Mapping[str, Callable[[_Writer, Node, list[int], int, int], None]] = {
    "conv": _Writer._conv,
    "linear": _Writer._linear,
    "relu": _Writer._relu,
    "relu6": _Writer._relu6,
    "sigmoid": _Writer._sigmoid,
    "softmax": _Writer._softmax,
    "normalize": _Writer._normalize,
    "average_pool": _Writer._average_pool,
    "max_pool": _Writer._max_pool,
    "add": _Writer._add,
    "concat": _Writer._concat,
    "slice": _Writer._slice,
    "flatten": _Writer._flatten,
    "cells": _Writer._cells,
    "reshape": _Writer._reshape,
    "take": _Writer._slice,
    "upsample": _Writer._upsample,
    "conv_transpose": _Writer._conv_transpose,
    "affine": _Writer._affine,
    "exp": _Writer._exp,
    "subtract": _Writer._subtract,
}


def _aligned_builder() -> Any:
    """A builder whose vectors of bytes, which are the weights, start at multiples of 16 as the schema asks."""
    plain: Any = require("flatbuffers", "writing TensorFlow Lite", "flatbuffers").Builder

    def start(builder: Any, size: int, number: int, alignment: int) -> Any:
        return plain.StartVector(builder, size, number, 16 if size == 1 else alignment)

    return type("AlignedBuilder", (plain,), {"StartVector": start})(1 << 20)
