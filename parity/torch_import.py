"""A torch module as a refnet model, by torch.export: for the closed form and the fields of any network.

    from parity.torch_import import from_torch
    model = from_torch(module, (3, 480, 640))
    refnet.receptive_field(model.graph)

The module runs once on an example image, so that its own Python may decide by shapes; what is exported
must be within refnet's vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import fx, nn

from refnet.builder import Builder
from refnet.errors import OptionError, ShapeError
from refnet.graph import Graph
from refnet.model import Model
from refnet.ops import Array, Pair

Arguments = Mapping[str, Any]


def from_torch(module: nn.Module, input_shape: tuple[int, int, int], name: str = "") -> Model:
    """The refnet model of a torch module in evaluation mode, with its weights.

    Args:
        input_shape: (C, H, W) of one image.
        name: of the graph; the module's class by default.

    Raises:
        OptionError: the module uses what refnet's vocabulary does not hold; the message names it.
    """
    example = torch.zeros(1, *input_shape)
    exported = torch.export.export(module.eval(), (example,))
    importer = _Importer(exported, input_shape)
    graph = importer.graph(name or type(module).__name__)
    return Model(graph, {n: importer.weights[n] for n in graph.parameters}, backend="numpy")


class _Importer:
    """Walks an exported program and appends what it finds to a builder."""

    def __init__(self, exported: torch.export.ExportedProgram, input_shape: Sequence[int]) -> None:
        channels, height, width = input_shape
        self.builder = Builder((channels, height, width))
        signature = exported.graph_signature
        self.parameter = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        self.nodes: list[fx.Node] = list(exported.graph.nodes)
        self.weights: dict[str, Array] = {
            name: tensor.detach().cpu().numpy()
            for name, tensor in (*exported.state_dict.items(), *exported.constants.items())
            if isinstance(tensor, torch.Tensor)
        }
        self.names: dict[fx.Node, str] = {}
        self.parts: dict[fx.Node, list[str]] = {}
        self.channels_last: set[fx.Node] = set()

    def graph(self, name: str) -> Graph:
        outputs: list[str] = []
        for node in self.nodes:
            if node.op == "placeholder":
                if node.name not in self.parameter:
                    self.names[node] = "input"
            elif node.op == "output":
                outputs = [self.tensor(one) for one in node.args[0]]  # type: ignore[union-attr]
            else:
                self._call(node)
        fixed = any(node.op in ("flatten", "linear") for node in self.builder.nodes)
        return self.builder.graph(name, tuple(dict.fromkeys(outputs)), {}, fixed_size=fixed)

    def _call(self, node: fx.Node) -> None:
        """Append what `node` computes."""
        target = str(node.target)
        operation = target.split(".")[1] if target.startswith("aten.") else node.name.split("_")[0]
        operation = operation.removesuffix("_")
        if operation == "getitem":
            source, index = node.args
            self.names[node] = self.parts[source][index]  # type: ignore[index]
            return
        if operation not in _READERS:
            raise OptionError(f"{node.name}: {target} is not in refnet's vocabulary")
        try:
            _READERS[operation](self, node, _bound(node))
        except (ShapeError, OptionError) as error:
            raise OptionError(f"{node.name}: {target}: {error}") from None

    def tensor(self, node: Any) -> str:
        """Our name of a traced tensor."""
        if not isinstance(node, fx.Node) or node not in self.names:
            raise OptionError(f"{node} is no tensor that refnet knows")
        if node in self.channels_last:
            raise OptionError("a map with channels last can only become a list of cells")
        return self.names[node]

    def shape(self, name: str) -> tuple[int, ...]:
        return self.builder.shape[name]

    def add(self, node: fx.Node, op: str, *inputs: str, **attributes: Any) -> None:
        """Append a node, under its parameters' name where it has some."""
        parameters = attributes.get("parameters") or {}
        weight = parameters["weight"][0] if parameters else node.name
        name = fresh = weight.removesuffix(".weight")
        while fresh in self.builder.shape:  # a layer that is used again
            fresh = f"{name}.{node.name}"
        self.names[node] = self.builder.add(op, fresh, *inputs, **attributes)

    def parameters(self, **nodes: fx.Node | None) -> dict[str, tuple[str, tuple[int, ...]]]:
        """{role: (state-dict name, shape)} of the parameters that are there."""
        names = {
            role: self.parameter[node.name] for role, node in nodes.items() if node is not None
        }
        return {role: (name, self.weights[name].shape) for role, name in names.items()}

    # ------------------------------------------------------------------ one method an operation

    def conv(self, node: fx.Node, a: Arguments) -> None:
        if isinstance(a["padding"], str):
            raise OptionError("only padding in numbers is supported")
        self.add(
            node,
            "conv",
            self.tensor(a["input"]),
            parameters=self.parameters(weight=a["weight"], bias=a["bias"]),
            kernel=self.weights[self.parameter[a["weight"].name]].shape[2:],
            stride=_pair(a["stride"]),
            padding=_pair(a["padding"]),
            dilation=_pair(a["dilation"]),
            groups=a["groups"],
        )

    def batch_norm(self, node: fx.Node, a: Arguments) -> None:
        roles = ("weight", "bias", "running_mean", "running_var")
        parameters = self.parameters(**{role: a[role] for role in roles})
        self.add(
            node, "batch_norm", self.tensor(a["input"]), parameters=parameters, epsilon=a["eps"]
        )

    def linear(self, node: fx.Node, a: Arguments) -> None:
        parameters = self.parameters(weight=a["weight"], bias=a["bias"])
        if a["bias"] is None:
            weight = parameters["weight"][0]
            self.weights[f"{weight}.zeros"] = self.weights[weight][:, 0] * 0
            parameters["bias"] = (f"{weight}.zeros", self.weights[f"{weight}.zeros"].shape)
        self.add(node, "linear", self.tensor(a["input"]), parameters=parameters)

    def relu(self, node: fx.Node, a: Arguments) -> None:
        self.add(node, "relu", self.tensor(a["self"]))

    def relu6(self, node: fx.Node, a: Arguments) -> None:
        if (a.get("min_val", 0), a.get("max_val", 6)) != (0, 6):
            raise OptionError("of bounds only those of ReLU6, 0 and 6, are supported")
        self.add(node, "relu6", self.tensor(a["self"]))

    def sigmoid(self, node: fx.Node, a: Arguments) -> None:
        self.add(node, "sigmoid", self.tensor(a["self"]))

    def softmax(self, node: fx.Node, a: Arguments) -> None:
        x = self.tensor(a["self"])
        self.add(node, "softmax", x, axis=a["dim"] % (len(self.shape(x)) + 1))

    def arithmetic(self, node: fx.Node, a: Arguments) -> None:
        """A sum of tensors; or a number added, subtracted, multiplied or divided by."""
        operation, x, other = (
            str(node.target).split(".")[1].removesuffix("_"),
            a["self"],
            a["other"],
        )
        if isinstance(other, fx.Node):
            if operation != "add" or a.get("alpha", 1) != 1:
                raise OptionError("only sums of tensors are supported, not products or differences")
            self.add(node, "add", self.tensor(x), self.tensor(other))
        elif operation in ("add", "sub") and other == 0:
            self.names[node] = self.tensor(x)
        else:
            mean, std = {
                "add": (-other, 1.0),
                "sub": (other, 1.0),
                "mul": (0.0, 1 / other if other else math.inf),
                "div": (0.0, other),
            }[operation]
            self.add(node, "normalize", self.tensor(x), mean=float(mean), std=float(std))

    def concat(self, node: fx.Node, a: Arguments) -> None:
        inputs = [self.tensor(x) for x in a["tensors"]]
        self.add(node, "concat", *inputs, axis=a["dim"] % (len(self.shape(inputs[0])) + 1))

    def slice(self, node: fx.Node, a: Arguments) -> None:
        x = self.tensor(a["self"])
        sizes = (1, *self.shape(x))
        start, stop, step = slice(a["start"], a["end"], a["step"]).indices(sizes[a["dim"]])
        if (start, stop, step) == (0, sizes[a["dim"]], 1):
            self.names[node] = x
        elif a["dim"] == 1 and step == 1:
            self.add(node, "slice", x, start=start, stop=stop)
        else:
            raise OptionError("only slices of channels, one after the other, are supported")

    def split(self, node: fx.Node, a: Arguments) -> None:
        x = self.tensor(a["self"])
        count = self.shape(x)[0]
        if a["dim"] != 1:
            raise OptionError("only splits of channels are supported")
        if "chunks" in a:
            step: Any = -(-count // a["chunks"])
        else:
            step = a.get("split_sizes", a.get("split_size"))
        sizes = step if isinstance(step, (list, tuple)) else [step] * -(-count // step)
        self.parts[node] = []
        start = 0
        for i, size in enumerate(sizes):
            stop = min(start + size, count)
            name = self.builder.add("slice", f"{node.name}.{i}", x, start=start, stop=stop)
            self.parts[node].append(name)
            start = stop

    def pool(self, node: fx.Node, a: Arguments) -> None:
        op = "max_pool" if "max" in str(node.target) else "average_pool"
        padding = _pair(a["padding"])
        if a["ceil_mode"] or _pair(a.get("dilation", 1)) != (1, 1):
            raise OptionError("pooling with dilation or rounding up is not supported")
        if (any(padding) and not a.get("count_include_pad", True)) or a.get("divisor_override"):
            raise OptionError("an average that leaves padding out of its count is not supported")
        kernel = _pair(a["kernel_size"])
        stride = _pair(a["stride"] or kernel)
        x = self.tensor(a["self"])
        self.add(node, op, x, kernel=kernel, stride=stride, padding=padding)

    def global_average(self, node: fx.Node, a: Arguments) -> None:
        x = self.tensor(a["self"])
        size = (self.shape(x)[1], self.shape(x)[2])
        axes = sorted(axis % 4 for axis in a["dim"] or ()) if "dim" in a else [2, 3]
        if axes != [2, 3] or _pair(a.get("output_size", 1)) != (1, 1):
            raise OptionError("of means only those over all rows and columns are supported")
        pooled = self.builder.add(
            "average_pool", f"{node.name}.map", x, kernel=size, stride=size, padding=(0, 0)
        )
        if a.get("keepdim", True):
            self.names[node] = pooled
        else:
            self.add(node, "flatten", pooled)

    def flatten(self, node: fx.Node, a: Arguments) -> None:
        if a["start_dim"] != 1 or a["end_dim"] not in (-1, len(self.shape(self.tensor(a["self"])))):
            raise OptionError("only flattening an image's features into one vector is supported")
        self._flat(node, self.tensor(a["self"]))

    def reshape(self, node: fx.Node, a: Arguments) -> None:
        shape = tuple(a.get("size", a.get("shape", ())))
        if a["self"] in self.channels_last:
            x = self.names[a["self"]]
            if len(shape) != 3 or shape[2] not in (-1, self.shape(x)[0]):
                raise OptionError(f"a map with channels last, viewed as {shape}, is not supported")
            self.add(node, "cells", x)
            return
        x = self.tensor(a["self"])
        if shape[1:] == self.shape(x):
            self.names[node] = x
        elif len(shape) == 2 and shape[1] in (-1, math.prod(self.shape(x))):
            self._flat(node, x)
        else:
            raise OptionError(f"{self.shape(x)} viewed as {shape} is not supported")

    def permute(self, node: fx.Node, a: Arguments) -> None:
        if tuple(a["dims"]) != (0, 2, 3, 1):
            raise OptionError(f"the order {a['dims']} of axes is not supported")
        self.names[node] = self.tensor(a["self"])
        self.channels_last.add(node)

    def squeeze(self, node: fx.Node, a: Arguments) -> None:
        x = self.tensor(a["self"])
        if self.shape(x)[1:] != (1, 1) or len(node.meta["val"].shape) != 2:
            raise OptionError("only a map of one unit can be squeezed into a vector")
        self._flat(node, x)

    def same(self, node: fx.Node, a: Arguments) -> None:
        source = next(iter(a.values()))
        if source in self.channels_last:
            self.channels_last.add(node)
        self.names[node] = self.names[source]

    def _flat(self, node: fx.Node, x: str) -> None:
        if len(self.shape(x)) == 1:
            self.names[node] = x
        else:
            self.add(node, "flatten", x)


_READERS: Mapping[str, Callable[[_Importer, fx.Node, Arguments], None]] = {
    **dict.fromkeys(("add", "sub", "mul", "div"), _Importer.arithmetic),
    **dict.fromkeys(("adaptive_avg_pool2d", "mean"), _Importer.global_average),
    **dict.fromkeys(("max_pool2d", "avg_pool2d"), _Importer.pool),
    **dict.fromkeys(("split", "split_with_sizes", "chunk"), _Importer.split),
    **dict.fromkeys(("view", "reshape", "_unsafe_view"), _Importer.reshape),
    **dict.fromkeys(("dropout", "contiguous", "clone", "alias", "detach"), _Importer.same),
    **dict.fromkeys(("hardtanh", "relu6"), _Importer.relu6),
    "batch_norm": _Importer.batch_norm,
    "cat": _Importer.concat,
    "conv2d": _Importer.conv,
    "flatten": _Importer.flatten,
    "linear": _Importer.linear,
    "permute": _Importer.permute,
    "relu": _Importer.relu,
    "sigmoid": _Importer.sigmoid,
    "slice": _Importer.slice,
    "softmax": _Importer.softmax,
    "squeeze": _Importer.squeeze,
}


def _bound(node: fx.Node) -> dict[str, Any]:
    """{argument: value} of a call, defaults included."""
    schema = node.target._schema.arguments  # type: ignore[union-attr]
    bound = {argument.name: argument.default_value for argument in schema}
    bound.update(zip(bound, node.args, strict=False))
    bound.update(node.kwargs)
    return bound


def _pair(value: Any) -> Pair:
    """An int, a list of one or a pair, as torch takes them, as a pair."""
    values = [value] if isinstance(value, int) else list(value)
    return int(values[0]), int(values[-1])
