"""A network with its weights as an ONNX file, for whichever runtime there is.

The table `WRITERS` gives every operation its ONNX form, of opset 13 or any later one up to 24; the batch axis is free,
and so are height and width where the network is fully convolutional. What is written is the graph as it stands: fold it first (`refnet.passes`)
for the inference form, as `refnet export` does.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from refnet.errors import OptionError, ShapeError
from refnet.exchange.writers import require_writers
from refnet.files import write_file
from refnet.graph import Graph, Node
from refnet.ops import Array
from refnet.optional import require
from refnet.passes import fold

OPSET, NEWEST_OPSET = 13, 24
#: The opset from which on an operation is one operator.
HARD_SWISH_OPSET, SWISH_OPSET = 14, 24
#: The opset from which on an average may be one of dilated windows.
DILATED_AVERAGE_OPSET = 19
#: The opset from which on the axes of means and extremes are an input.
REDUCED_AXES_OPSET = 18


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
        self.shapes = graph.shapes()
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
        weight, bias = node.parameters["weight"], node.parameters["bias"]
        if len(self.shapes[node.inputs[0]]) == 1:
            self.node("Gemm", [*inputs, weight, bias], node.name, transB=1)
            return
        self.node("Transpose", [weight], f"{node.name}/weight", perm=[1, 0])
        self.node("MatMul", [*inputs, f"{node.name}/weight"], f"{node.name}/product")
        self.node("Add", [f"{node.name}/product", bias], node.name)

    def _conv_transpose(self, node: Node, inputs: list[str]) -> None:
        a, roles = node.attributes, ("weight", "bias")
        inputs += [node.parameters[role] for role in roles if role in node.parameters]
        # What is kept beyond the padding is less padding at the far side, and zeros once that is used up.
        less = [min(p, more) for p, more in zip(a["padding"], a["output_padding"], strict=True)]
        ends = [p - cut for p, cut in zip(a["padding"], less, strict=True)]
        rest = [more - cut for more, cut in zip(a["output_padding"], less, strict=True)]
        window = {"kernel_shape": a["kernel"], "strides": a["stride"], "dilations": a["dilation"]}
        self.node(
            "ConvTranspose",
            inputs,
            node.name,
            pads=[*a["padding"], *ends],
            output_padding=rest,
            group=a["groups"],
            **window,
        )

    def _affine(self, node: Node, inputs: list[str]) -> None:
        steps = [
            (op, node.parameters[role])
            for op, role in (("Mul", "weight"), ("Add", "bias"))
            if role in node.parameters
        ]
        source = inputs[0]
        for i, (op, constant) in enumerate(steps, 1):
            made = node.name if i == len(steps) else f"{node.name}/scaled"
            self.node(op, [source, constant], made)
            source = made

    def _clip(self, node: Node, inputs: list[str]) -> None:
        bounds = (("low", node.attributes["low"]), ("high", node.attributes["high"]))
        inputs += [
            self.constant(f"{node.name}/{key}", value) if math.isfinite(value) else ""
            for key, value in bounds
        ]
        self.node("Clip", inputs, node.name)

    def _power(self, node: Node, inputs: list[str]) -> None:
        exponent = node.attributes["exponent"]
        if exponent in (0.5, -1.0):
            self.node("Sqrt" if exponent == 0.5 else "Reciprocal", inputs, node.name)
        else:
            inputs.append(self.constant(f"{node.name}/exponent", exponent))
            self.node("Pow", inputs, node.name)

    def _pad(self, node: Node, inputs: list[str]) -> None:
        widths = [(0, 0), *node.attributes["widths"]]
        pads = [before for before, _ in widths] + [after for _, after in widths]
        inputs.append(self.constant(f"{node.name}/pads", pads, np.int64))
        inputs.append(self.constant(f"{node.name}/value", node.attributes["value"]))
        self.node("Pad", inputs, node.name, mode=node.attributes["mode"])

    def _transpose(self, node: Node, inputs: list[str]) -> None:
        self.node("Transpose", inputs, node.name, perm=list(node.attributes["order"]))

    def _reshape(self, node: Node, inputs: list[str]) -> None:
        shape = [0, *node.attributes["shape"]]
        inputs.append(self.constant(f"{node.name}/shape", shape, np.int64))
        self.node("Reshape", inputs, node.name)

    def _take(self, node: Node, inputs: list[str]) -> None:
        a, info = node.attributes, np.iinfo(np.int64)
        stop = a["stop"]
        if stop is None:
            stop = info.max if a["step"] > 0 else info.min
        numbers = {"start": a["start"], "stop": stop, "axis": a["axis"], "step": a["step"]}
        inputs += [self.constant(f"{node.name}/{k}", [v], np.int64) for k, v in numbers.items()]
        self.node("Slice", inputs, node.name)

    def _depth_to_space(self, node: Node, inputs: list[str]) -> None:
        a = node.attributes
        mode = "DCR" if a["depth_first"] else "CRD"
        self.node("DepthToSpace", inputs, node.name, blocksize=a["block"], mode=mode)

    def _space_to_depth(self, node: Node, inputs: list[str]) -> None:
        if not node.attributes["depth_first"]:
            raise OptionError(
                f"{node.name} orders its channels as no SpaceToDepth of opset 24 does"
            )
        self.node("SpaceToDepth", inputs, node.name, blocksize=node.attributes["block"])

    def _shuffle(self, node: Node, inputs: list[str]) -> None:
        groups, channels = node.attributes["groups"], self.shapes[node.name][0]
        shape = self.constant(f"{node.name}/groups", [0, groups, channels // groups, -1], np.int64)
        self.node("Reshape", [*inputs, shape], f"{node.name}/parts")
        self.node("Transpose", [f"{node.name}/parts"], f"{node.name}/turned", perm=[0, 2, 1, 3])
        self.node("Shape", inputs, f"{node.name}/shape")
        self.node("Reshape", [f"{node.name}/turned", f"{node.name}/shape"], node.name)

    def _upsample(self, node: Node, inputs: list[str]) -> None:
        how = {"coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}
        self._resize(node, inputs, mode="nearest", **how)

    def _upsample_linear(self, node: Node, inputs: list[str]) -> None:
        how = node.attributes["coordinates"]
        self._resize(node, inputs, mode="linear", coordinate_transformation_mode=how)

    def _resize(self, node: Node, inputs: list[str], **attributes: str) -> None:
        scales = self.constant(f"{node.name}/scales", [1, 1, *node.attributes["factor"]])
        self.node("Resize", [*inputs, "", scales], node.name, **attributes)

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
        if "dilation" in a:
            if op == "AveragePool" and self.opset < DILATED_AVERAGE_OPSET:
                raise OptionError(
                    f"{node.name} averages dilated windows, as ONNX does since opset "
                    f"{DILATED_AVERAGE_OPSET}"
                )
            more["dilations"] = a["dilation"]
        if a.get("ceil", False):
            more["ceil_mode"] = 1
        self.node(op, inputs, node.name, **window, **more)

    def _average_pool(self, node: Node, inputs: list[str]) -> None:
        counted = int(node.attributes.get("count_padding", True))
        self._pool("AveragePool", node, inputs, count_include_pad=counted)

    def _max_pool(self, node: Node, inputs: list[str]) -> None:
        self._pool("MaxPool", node, inputs)

    def _reduce(self, node: Node, inputs: list[str]) -> None:
        kind, axes = node.attributes["kind"], list(node.attributes["axes"])
        if kind == "sum" or self.opset >= REDUCED_AXES_OPSET:
            inputs.append(self.constant(f"{node.name}/axes", axes, np.int64))
            self.node(f"Reduce{kind.title()}", inputs, node.name)
        else:
            self.node(f"Reduce{kind.title()}", inputs, node.name, axes=axes)

    def _concat(self, node: Node, inputs: list[str]) -> None:
        self.node("Concat", inputs, node.name, axis=node.attributes["axis"])

    def _softmax(self, node: Node, inputs: list[str]) -> None:
        axis = node.attributes["axis"]
        if isinstance(axis, int):
            self.node("Softmax", inputs, node.name, axis=axis)
            return
        sizes, first = self.shapes[node.name], min(axis)
        if any(a not in axis and sizes[a - 1] != 1 for a in range(first, len(sizes) + 1)):
            raise OptionError(
                f"{node.name} is a softmax over axes {axis} together, which are not the last"
            )
        flat = self.constant(f"{node.name}/rows", [0] * first + [-1], np.int64)
        self.node("Reshape", [*inputs, flat], f"{node.name}/flat")
        self.node("Softmax", [f"{node.name}/flat"], f"{node.name}/shares", axis=first)
        self.node("Shape", inputs, f"{node.name}/shape")
        self.node("Reshape", [f"{node.name}/shares", f"{node.name}/shape"], node.name)

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

    def _fixed(self, name: str) -> list[bool]:
        """Of each axis of an output, whether its size is the same for all images."""
        sizes = self.shapes[name]
        if self.graph.fixed_size:
            return [True] * len(sizes)
        channels, height, width = self.graph.input_shape
        try:
            others = self.graph.shapes((channels, 2 * height, 3 * width))[name]
        except ShapeError:
            return [False] * len(sizes)
        return [a == b for a, b in zip(sizes, others, strict=True)]

    def model(self) -> Any:
        helper, kind = self.onnx.helper, self.onnx.TensorProto.FLOAT
        channels, height, width = self.graph.input_shape
        sides = [height, width] if self.graph.fixed_size else ["height", "width"]
        outputs = []
        for name in self.graph.outputs:
            sizes = [
                size if fixed else f"{name}/{axis}"
                for axis, (size, fixed) in enumerate(
                    zip(self.shapes[name], self._fixed(name), strict=True), 1
                )
            ]
            outputs.append(helper.make_tensor_value_info(name, kind, ["batch", *sizes]))
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
    "broadcast_add": _plain("Add"),
    "subtract": _plain("Sub"),
    "multiply": _plain("Mul"),
    "divide": _plain("Div"),
    "affine": _Writer._affine,
    "clip": _Writer._clip,
    "power": _Writer._power,
    "reduce": _Writer._reduce,
    "global_average_pool": _plain("GlobalAveragePool"),
    "global_max_pool": _plain("GlobalMaxPool"),
    "conv_transpose": _Writer._conv_transpose,
    "pad": _Writer._pad,
    "transpose": _Writer._transpose,
    "reshape": _Writer._reshape,
    "take": _Writer._take,
    "depth_to_space": _Writer._depth_to_space,
    "space_to_depth": _Writer._space_to_depth,
    "shuffle": _Writer._shuffle,
    "upsample": _Writer._upsample,
    "upsample_linear": _Writer._upsample_linear,
}
