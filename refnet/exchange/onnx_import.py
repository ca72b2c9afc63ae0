"""Any network from an ONNX file, as far as refnet's vocabulary reaches; needs the package onnx.

Names are kept: a node is called by its ONNX output, a parameter by its initializer. The graph is walked
from its outputs back along the data, so that what an exporter adds to compute shapes is not even seen.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from refnet.builder import Builder
from refnet.errors import CheckpointError, OptionError, ShapeError
from refnet.exchange.onnx_values import input_shape, node_attributes, window
from refnet.graph import Graph
from refnet.model import Model
from refnet.ops import Array, Pair
from refnet.optional import require

#: Operators of one tensor and no attributes.
_PLAIN = {
    "Exp": "exp",
    "HardSwish": "hard_swish",
    "Relu": "relu",
    "Sigmoid": "sigmoid",
    "Tanh": "tanh",
}
#: Operations that change nothing at inference time.
_IDENTITIES = frozenset({"Identity", "Dropout", "Cast"})


def from_onnx(path: str | os.PathLike[str], input_size: int | Pair | None = None) -> Model:
    """The network in an ONNX file, with its weights, computed by the reference.

    Args:
        input_size: a side or (height, width), where the file leaves the size of its input open.

    Raises:
        DependencyError: the package onnx is absent.
        CheckpointError: the file cannot be read.
        OptionError: the network uses what the vocabulary does not hold; all such operations are named.
        ShapeError: the size of the input is open and `input_size` was not given, or does not fit.
    """
    onnx = require("onnx", "reading a network from ONNX", "refnet[onnx]")
    try:
        proto = onnx.load(os.fspath(path))
    except Exception as error:  # protobuf's own errors have no common root
        raise CheckpointError(f"cannot read {os.fspath(path)} as ONNX: {error}") from error
    importer = _Importer(proto, Path(path).stem, input_size)
    graph = importer.graph()
    return Model(
        graph, {name: importer.weights[name] for name in graph.parameters}, backend="numpy"
    )


class _Importer:
    """Walks an ONNX graph and appends what it finds to a builder."""

    def __init__(self, proto: Any, name: str, input_size: int | Pair | None) -> None:
        from onnx import numpy_helper

        self.name = name
        self.constants: dict[str, Array] = {
            tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer
        }
        self.nodes = list(proto.graph.node)
        for node in self.nodes:
            if node.op_type == "Constant":
                self.constants[node.output[0]] = node_attributes(node)["value"]
        self.outputs = [value.name for value in proto.graph.output]
        inputs = [value for value in proto.graph.input if value.name not in self.constants]
        if len(inputs) != 1:
            names = [value.name for value in inputs]
            raise OptionError(f"{name}: a network here takes one image; this one takes {names}")
        self.builder = Builder(input_shape(name, inputs[0], input_size))
        self.alias = {inputs[0].name: "input"}
        self.weights: dict[str, Array] = {}
        self.views: dict[str, tuple[str, str]] = {}

    def graph(self) -> Graph:
        """The graph of all nodes that an output needs."""
        nodes = self._needed()
        if unknown := sorted({n.op_type for n in nodes} - set(_READERS) - _IDENTITIES):
            raise OptionError(
                f"{self.name} uses {', '.join(unknown)}, which refnet's vocabulary does not hold; it "
                f"reads {', '.join(sorted(_READERS))}"
            )
        for node in nodes:
            try:
                if node.op_type in _IDENTITIES:
                    self.alias[node.output[0]] = self.tensor(node.input[0])
                else:
                    _READERS[node.op_type](self, node, node_attributes(node))
            except (ShapeError, OptionError) as error:
                raise type(error)(
                    f"{self.name}: {node.op_type} {node.output[0]!r}: {error}"
                ) from None
        outputs = tuple(dict.fromkeys(self.tensor(name) for name in self.outputs))
        self._drop_unread(outputs)
        fixed = any(node.op in ("flatten", "linear") for node in self.builder.nodes)
        return self.builder.graph(self.name, outputs, {}, fixed_size=fixed)

    def _needed(self) -> list[Any]:
        """The nodes that the outputs depend on by data, in execution order."""
        wanted = set(self.outputs)
        needed = []
        for node in reversed(self.nodes):
            if wanted.intersection(node.output) and node.op_type != "Constant":
                needed.append(node)
                several = ("Add", "Sum", "Concat", "Mul", "Sub", "Div")
                wanted.update(node.input if node.op_type in several else node.input[:1])
        return needed[::-1]

    def _drop_unread(self, outputs: tuple[str, ...]) -> None:
        """Take out nodes that nothing needs, such as the gate of what became one operation."""
        wanted, kept = set(outputs), []
        for node in reversed(self.builder.nodes):
            if node.name in wanted:
                wanted.update(node.inputs)
                kept.append(node)
        self.builder.nodes = kept[::-1]

    def tensor(self, name: str) -> str:
        """Our name of an ONNX tensor."""
        if name in self.views:
            raise OptionError(f"{name!r} is a rearranged map, which only a list of cells can use")
        if name in self.constants:
            raise OptionError(f"{name!r} is a constant where a tensor is expected")
        return self.alias.get(name, name)

    def constant(self, node: Any, position: int) -> Array | None:
        """The constant input at `position`; None where there is none.

        Raises:
            OptionError: the input is computed.
        """
        if position >= len(node.input) or not node.input[position]:
            return None
        if node.input[position] not in self.constants:
            raise OptionError(
                f"its input {node.input[position]!r} is computed; a constant is expected"
            )
        return self.constants[node.input[position]]

    def parameter(self, name: str, array: Array) -> tuple[str, tuple[int, ...]]:
        """Register a parameter; (name, shape) as the builder takes it."""
        if name in self.weights and self.weights[name].shape != array.shape:
            name = f"{name}.{len(self.weights)}"
        self.weights[name] = array
        return name, array.shape

    # ------------------------------------------------------------------ one method an operation

    def conv(self, node: Any, attributes: Mapping[str, Any]) -> None:
        weight = self.constant(node, 1)
        if weight is None or weight.ndim != 4:
            raise OptionError("only convolutions over rows and columns are known")
        x = self.tensor(node.input[0])
        taps: dict[str, Any] = window(attributes, weight.shape[2:], self.builder.shape[x])
        parameters = {"weight": self.parameter(node.input[1], weight)}
        bias = self.constant(node, 2)
        if bias is not None:
            parameters["bias"] = self.parameter(node.input[2], bias)
        self.builder.add(
            "conv",
            node.output[0],
            x,
            parameters=parameters,
            groups=attributes.get("group", 1),
            **taps,
        )

    def batch_norm(self, node: Any, attributes: Mapping[str, Any]) -> None:
        roles = ("weight", "bias", "running_mean", "running_var")
        parameters = {}
        for position, role in enumerate(roles, 1):
            array = self.constant(node, position)
            assert array is not None  # ONNX demands all five inputs
            parameters[role] = self.parameter(node.input[position], array)
        self.builder.add(
            "batch_norm",
            node.output[0],
            self.tensor(node.input[0]),
            parameters=parameters,
            epsilon=float(attributes.get("epsilon", 1e-5)),
        )

    def plain(self, node: Any, attributes: Mapping[str, Any]) -> None:
        """An operation of one tensor and no attributes."""
        self.builder.add(_PLAIN[node.op_type], node.output[0], self.tensor(node.input[0]))

    def leaky_relu(self, node: Any, attributes: Mapping[str, Any]) -> None:
        slope = float(attributes.get("alpha", 0.01))
        self.builder.add("leaky_relu", node.output[0], self.tensor(node.input[0]), slope=slope)

    def prelu(self, node: Any, attributes: Mapping[str, Any]) -> None:
        """Slopes by channel, or one for all channels."""
        x, slope = self.tensor(node.input[0]), self.constant(node, 1)
        assert slope is not None  # ONNX demands it
        shape = self.builder.shape[x]
        by_channel = (shape[0], *(1,) * (len(shape) - 1))
        if slope.size == 1:
            slope = np.full(shape[:1], slope.reshape(()))
        elif slope.shape in (by_channel, (1, *by_channel)):
            slope = slope.reshape(-1)
        else:
            raise OptionError(
                f"slopes {slope.shape} for {shape} are not one a channel, {by_channel}, nor one for all"
            )
        parameters = {"slope": self.parameter(node.input[1], slope)}
        self.builder.add("prelu", node.output[0], x, parameters=parameters)

    def elu(self, node: Any, attributes: Mapping[str, Any]) -> None:
        alpha = float(attributes.get("alpha", 1.0))
        self.builder.add("elu", node.output[0], self.tensor(node.input[0]), alpha=alpha)

    def hard_sigmoid(self, node: Any, attributes: Mapping[str, Any]) -> None:
        slope, shift = float(attributes.get("alpha", 0.2)), float(attributes.get("beta", 0.5))
        if np.float32(slope) == np.float32(1 / 6):
            slope = 1 / 6  # the file holds it in float32; a float64 run is to have the exact one
        x = self.tensor(node.input[0])
        self.builder.add("hard_sigmoid", node.output[0], x, slope=slope, shift=shift)

    def swish(self, node: Any, attributes: Mapping[str, Any]) -> None:
        if attributes.get("alpha", 1.0) != 1.0:
            raise OptionError("only x · sigmoid(x) is known, without a factor inside")
        self.builder.add("silu", node.output[0], self.tensor(node.input[0]))

    def clip(self, node: Any, attributes: Mapping[str, Any]) -> None:
        low, high = self.constant(node, 1), self.constant(node, 2)
        bounds = (
            float(low) if low is not None else attributes.get("min", -math.inf),
            float(high) if high is not None else attributes.get("max", math.inf),
        )
        if bounds not in ((0.0, 6.0), (0.0, math.inf)):
            raise OptionError(f"it clips to {bounds}; only ReLU6, (0, 6), is known")
        op = "relu6" if bounds[1] == 6 else "relu"
        self.builder.add(op, node.output[0], self.tensor(node.input[0]))

    def softmax(self, node: Any, attributes: Mapping[str, Any]) -> None:
        x = self.tensor(node.input[0])
        rank = len(self.builder.shape[x]) + 1
        axis = attributes.get("axis", -1) % rank
        self.builder.add("softmax", node.output[0], x, axis=axis)

    def arithmetic(self, node: Any, attributes: Mapping[str, Any]) -> None:
        """A sum of tensors, or a tensor by its own gate; or a scalar added, subtracted, multiplied or
        divided by."""
        known = [name for name in node.input if name in self.constants]
        if not known:
            names = [self.tensor(name) for name in node.input]
            if node.op_type == "Mul" and (gated := self._gated(names)):
                op, x = gated
                self.builder.add(op, node.output[0], x)
                return
            if node.op_type not in ("Add", "Sum"):
                raise OptionError(
                    "only sums of tensors are known, not their products or differences, except for "
                    "x · sigmoid(x) and x · hard_sigmoid(x)"
                )
            self.builder.add("add", node.output[0], *names)
            return
        x = next(name for name in node.input if name not in self.constants)
        value = self.constants[known[0]]
        if node.op_type == "Add" and self._add_bias(
            node.output[0], self.tensor(x), known[0], value
        ):
            return
        backwards = node.op_type in ("Sub", "Div") and node.input[0] in self.constants
        if value.size != 1 or backwards or node.op_type == "Sum":
            raise OptionError(
                "only a single number can be added, subtracted, multiplied or divided by"
            )
        number = float(value.reshape(()))
        mean, std = {
            "Add": (-number, 1.0),
            "Sub": (number, 1.0),
            "Mul": (0.0, 1 / number if number else math.inf),
            "Div": (0.0, number),
        }[node.op_type]
        self.builder.add("normalize", node.output[0], self.tensor(x), mean=mean, std=std)

    def _gated(self, names: list[str]) -> tuple[str, str] | None:
        """(operation, x) where the two tensors `names` are some x and a gate of it."""
        for x, gate in (names, names[::-1]):
            made = next((node for node in self.builder.nodes if node.name == gate), None)
            if made is None or made.inputs != (x,):
                continue
            if made.op == "sigmoid":
                return "silu", x
            if made.op == "hard_sigmoid" and made.attributes == {"slope": 1 / 6, "shift": 0.5}:
                return "hard_swish", x
        return None

    def _add_bias(self, output: str, x: str, name: str, value: Array) -> bool:
        """Whether `value` became the bias of the linear layer `x`, made by a MatMul without one."""
        made = next((node for node in self.builder.nodes if node.name == x), None)
        if made is None or made.op != "linear" or made.parameters["bias"] != f"{x}.zeros":
            return False
        if value.shape != self.builder.shape[x] or x in self.outputs:
            return False
        self.weights[f"{x}.zeros"] = value
        self.alias[output] = x
        return True

    def pool(self, node: Any, attributes: Mapping[str, Any]) -> None:
        x = self.tensor(node.input[0])
        taps: dict[str, Any] = window(attributes, attributes["kernel_shape"], self.builder.shape[x])
        op = "max_pool" if node.op_type == "MaxPool" else "average_pool"
        if taps.pop("dilation") != (1, 1) or attributes.get("ceil_mode", 0):
            raise OptionError("pooling with dilation or rounding up is not known")
        if (
            op == "average_pool"
            and any(taps["padding"])
            and not attributes.get("count_include_pad")
        ):
            raise OptionError("an average that leaves padding out of its count is not known")
        self.builder.add(op, node.output[0], x, **taps)

    def global_pool(self, node: Any, attributes: Mapping[str, Any]) -> None:
        x = self.tensor(node.input[0])
        shape = self.builder.shape[x]
        keep = attributes.get("keepdims", 1)
        if node.op_type == "ReduceMean":
            axes = attributes.get("axes", self.constant(node, 1))
            if axes is None or sorted(int(a) % 4 for a in axes) != [2, 3] or len(shape) != 3:
                raise OptionError("only means over rows and columns are known")
        size = (shape[1], shape[2])
        name = node.output[0]
        pooled = self.builder.add(
            "average_pool",
            name if keep else f"{name}.map",
            x,
            kernel=size,
            stride=size,
            padding=(0, 0),
        )
        if not keep:
            self.builder.add("flatten", name, pooled)

    def concat(self, node: Any, attributes: Mapping[str, Any]) -> None:
        names = [self.tensor(name) for name in node.input]
        rank = len(self.builder.shape[names[0]]) + 1
        self.builder.add("concat", node.output[0], *names, axis=attributes["axis"] % rank)

    def slice(self, node: Any, attributes: Mapping[str, Any]) -> None:
        x = self.tensor(node.input[0])
        count = self.builder.shape[x][0]
        given = [self.constant(node, position) for position in (1, 2, 3, 4)]
        starts, ends = (
            [int(v) for v in (attributes[key] if array is None else array)]
            for key, array in (("starts", given[0]), ("ends", given[1]))
        )
        axes = attributes.get("axes", range(len(starts))) if given[2] is None else given[2]
        steps = [1] if given[3] is None else given[3]
        if [int(a) for a in axes] != [1] or any(int(step) != 1 for step in steps):
            raise OptionError("only slices of channels, one after the other, are known")
        start, stop, _ = slice(starts[0], ends[0]).indices(count)
        self.builder.add("slice", node.output[0], x, start=start, stop=stop)

    def split(self, node: Any, attributes: Mapping[str, Any]) -> None:
        x = self.tensor(node.input[0])
        count, parts = self.builder.shape[x][0], len(node.output)
        given = self.constant(node, 1)
        equal = [-(-count // parts)] * (parts - 1)
        sizes = attributes.get("split", [*equal, count - sum(equal)]) if given is None else given
        if attributes.get("axis", 0) != 1:
            raise OptionError("only splits of channels are known")
        ends = np.cumsum([0, *sizes])
        for name, start, stop in zip(node.output, ends[:-1], ends[1:], strict=True):
            self.builder.add("slice", name, x, start=int(start), stop=int(stop))

    def flatten(self, node: Any, attributes: Mapping[str, Any]) -> None:
        x = self.tensor(node.input[0])
        if attributes.get("axis", 1) != 1:
            raise OptionError("only flattening an image's features into one vector is known")
        self._flatten(node.output[0], x)

    def _flatten(self, name: str, x: str) -> None:
        if len(self.builder.shape[x]) == 1:
            self.alias[name] = x
        else:
            self.builder.add("flatten", name, x)

    def reshape(self, node: Any, attributes: Mapping[str, Any]) -> None:
        """Flattening, or one half of making a list of cells."""
        source = node.input[0]
        computed = len(node.input) > 1 and node.input[1] not in self.constants
        target = [] if computed else [int(d) for d in self.constant(node, 1)]  # type: ignore[union-attr]
        if source in self.views:
            kind, x = self.views[source]
            channels = self.builder.shape[x][0]
            if kind == "channels last" and (
                computed or (len(target) == 3 and target[2] == channels)
            ):
                self.builder.add("cells", node.output[0], x)
                return
            raise OptionError(f"a map with channels last, reshaped to {target}, is not known")
        x = self.tensor(source)
        shape = self.builder.shape[x]
        if len(target) == 3 and len(shape) == 3 and target[1] in (0, shape[0]):
            self.views[node.output[0]] = ("flat cells", x)
        elif computed or (len(target) == 2 and target[1] in (-1, math.prod(shape))):
            self._flatten(node.output[0], x)
        else:
            raise OptionError(f"reshaping {shape} to {target} is not known")

    def squeeze(self, node: Any, attributes: Mapping[str, Any]) -> None:
        x = self.tensor(node.input[0])
        if self.builder.shape[x][1:] != (1, 1):
            raise OptionError("only a map of one unit can be squeezed")
        self._flatten(node.output[0], x)

    def transpose(self, node: Any, attributes: Mapping[str, Any]) -> None:
        """The other half of making a list of cells."""
        source, order = node.input[0], tuple(attributes.get("perm", ()))
        if source in self.views and self.views[source][0] == "flat cells" and order == (0, 2, 1):
            self.builder.add("cells", node.output[0], self.views[source][1])
        elif order == (0, 2, 3, 1):
            self.views[node.output[0]] = ("channels last", self.tensor(source))
        else:
            raise OptionError(f"the order {order} of axes is not known")

    def linear(self, node: Any, attributes: Mapping[str, Any]) -> None:
        weight = self.constant(node, 1)
        assert weight is not None  # ONNX demands it
        scale = (
            attributes.get("alpha", 1.0),
            attributes.get("beta", 1.0),
            attributes.get("transA", 0),
        )
        if weight.ndim != 2 or scale != (1.0, 1.0, 0):
            raise OptionError("only a plain matrix of weights, with a bias, is known")
        weight = weight if attributes.get("transB", 0) else np.ascontiguousarray(weight.T)
        bias, name = self.constant(node, 2), node.output[0]
        bias_name = f"{name}.zeros" if bias is None else node.input[2]
        filled = np.zeros(len(weight), weight.dtype) if bias is None else bias.reshape(-1)
        parameters = {
            "weight": self.parameter(node.input[1], weight),
            "bias": self.parameter(bias_name, np.broadcast_to(filled, len(weight))),
        }
        self.builder.add("linear", name, self.tensor(node.input[0]), parameters=parameters)


_READERS: Mapping[str, Callable[[_Importer, Any, Mapping[str, Any]], None]] = {
    "Add": _Importer.arithmetic,
    "AveragePool": _Importer.pool,
    "BatchNormalization": _Importer.batch_norm,
    "Clip": _Importer.clip,
    "Concat": _Importer.concat,
    "Conv": _Importer.conv,
    "Div": _Importer.arithmetic,
    "Elu": _Importer.elu,
    "Exp": _Importer.plain,
    "Flatten": _Importer.flatten,
    "Gemm": _Importer.linear,
    "GlobalAveragePool": _Importer.global_pool,
    "HardSigmoid": _Importer.hard_sigmoid,
    "HardSwish": _Importer.plain,
    "LeakyRelu": _Importer.leaky_relu,
    "MatMul": _Importer.linear,
    "MaxPool": _Importer.pool,
    "Mul": _Importer.arithmetic,
    "PRelu": _Importer.prelu,
    "ReduceMean": _Importer.global_pool,
    "Relu": _Importer.plain,
    "Reshape": _Importer.reshape,
    "Sigmoid": _Importer.plain,
    "Slice": _Importer.slice,
    "Softmax": _Importer.softmax,
    "Split": _Importer.split,
    "Squeeze": _Importer.squeeze,
    "Sub": _Importer.arithmetic,
    "Sum": _Importer.arithmetic,
    "Swish": _Importer.swish,
    "Tanh": _Importer.plain,
    "Transpose": _Importer.transpose,
}
