"""A network as data: a list of nodes in execution order, and walks over it.

    Node    one operation: name, op, inputs, attributes, parameters
    Graph   nodes, outputs and the tensors they read; shapes, counts and the summary are walks
    Builder appends nodes with running shape inference, so that a network reads like its table

Names of parameters are PyTorch's state-dict names, so that a checkpoint loads by name.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from refnet.errors import OptionError, ShapeError
from refnet.ops import OPS, Pair, Shape

#: Buffers of a batch norm; all other tensors of a state dict are trained.
BUFFERS = ("running_mean", "running_var", "num_batches_tracked")


@dataclass(frozen=True)
class Node:
    """One operation of a graph.

    Attributes:
        name: unique in the graph; also the name of the node's one output tensor.
        op: a key of `refnet.ops.OPS`.
        inputs: names of earlier nodes, or the graph's input.
        attributes: the operation's keywords, such as kernel, stride, padding.
        parameters: role to state-dict name, such as {"weight": "conv1.0.weight"}.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    parameters: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Graph:
    """A network: nodes in execution order, and every tensor that its checkpoint holds.

    Attributes:
        name: the network's name, such as "pfld-ultralight".
        input_shape: (C, H, W) of one image; exact where `fixed_size`, else what the summary assumes.
        fixed_size: whether only this height and width can run (a fully connected layer bakes them in).
        nodes: in execution order; a node reads only earlier ones.
        outputs: names of the nodes whose tensors a run returns, in order.
        state_dict: {name: shape} of every tensor of a PyTorch checkpoint of this network, in its order.
        options: what the network was built with, all of it; JSON-able.
    """

    name: str
    input_shape: Shape
    fixed_size: bool
    nodes: tuple[Node, ...]
    outputs: tuple[str, ...]
    state_dict: Mapping[str, Shape]
    options: Mapping[str, Any] = field(default_factory=dict)
    input: str = "input"

    def __post_init__(self) -> None:
        known = {self.input}
        for node in self.nodes:
            if node.op not in OPS:
                raise OptionError(f"node {node.name!r} has op {node.op!r}; known: {', '.join(OPS)}")
            if unknown := [x for x in node.inputs if x not in known]:
                raise OptionError(
                    f"node {node.name!r} reads {unknown}, which no earlier node makes"
                )
            if missing := [p for p in node.parameters.values() if p not in self.state_dict]:
                raise OptionError(f"node {node.name!r} reads {missing}, absent from the state dict")
            if node.name in known:
                raise OptionError(f"two nodes are named {node.name!r}")
            known.add(node.name)
        if unknown := [x for x in self.outputs if x not in known]:
            raise OptionError(f"outputs {unknown} are made by no node")

    @cached_property
    def parameters(self) -> dict[str, Shape]:
        """{name: shape} of the tensors that a node reads, in the state dict's order."""
        read = {name for node in self.nodes for name in node.parameters.values()}
        return {name: shape for name, shape in self.state_dict.items() if name in read}

    @cached_property
    def ignored(self) -> dict[str, Shape]:
        """{name: shape} of the tensors that a checkpoint also holds and no node reads."""
        return {n: s for n, s in self.state_dict.items() if n not in self.parameters}

    @cached_property
    def node(self) -> dict[str, Node]:
        """{name: node}."""
        return {node.name: node for node in self.nodes}

    def shapes(self, input_shape: Shape | None = None) -> dict[str, Shape]:
        """{tensor name: shape of one image} for every node and the input, without the batch axis.

        Args:
            input_shape: (C, H, W); the graph's own by default.

        Raises:
            ShapeError: the network cannot take this input; the message says which it can.
        """
        shape = self.input_shape if input_shape is None else tuple(input_shape)
        if len(shape) != 3 or shape[0] != self.input_shape[0]:
            raise ShapeError(
                f"{self.name} takes images of {self.input_shape[0]} channels, (C, H, W), not {shape}"
            )
        if self.fixed_size and shape != self.input_shape:
            raise ShapeError(
                f"this {self.name} was built for {self.input_shape}, (C, H, W), and got {shape}; resize "
                "the image, or build the network with another input_size"
            )
        known: dict[str, Shape] = {self.input: shape}
        for node in self.nodes:
            parameters = {role: self.state_dict[name] for role, name in node.parameters.items()}
            inputs = [known[name] for name in node.inputs]
            try:
                known[node.name] = OPS[node.op].shape(inputs, parameters, **node.attributes)
            except ShapeError as error:
                raise ShapeError(
                    f"{self.name} on {shape}: at node {node.name!r}, {error}"
                ) from None
        return known

    def macs(self, input_shape: Shape | None = None) -> dict[str, int]:
        """{node name: multiply-accumulates of one image}: convolutions and linear layers, no more."""
        shapes = self.shapes(input_shape)
        return {
            node.name: math.prod(shapes[node.name][1:])
            * math.prod(self.state_dict[node.parameters["weight"]])
            for node in self.nodes
            if node.op in ("conv", "linear")
        }

    @property
    def parameter_count(self) -> int:
        """Number of trained values in the state dict (buffers of batch norms not counted)."""
        return sum(math.prod(s) for n, s in self.state_dict.items() if not n.endswith(BUFFERS))

    @property
    def buffer_count(self) -> int:
        """Number of running means and variances in the state dict."""
        return sum(math.prod(s) for n, s in self.state_dict.items() if n.endswith(BUFFERS[:2]))

    def summary(self, input_shape: Shape | None = None) -> str:
        """A table of layers: op, output shape, parameters, MACs, receptive field and jump."""
        from refnet.summary import summarize

        return summarize(self, input_shape)

    def __str__(self) -> str:
        return self.summary()


@dataclass(frozen=True)
class Window:
    """The square window of a convolution: kernel × kernel taps, zero padding on every side."""

    kernel: int
    stride: int = 1
    padding: int = 0
    groups: int = 1


POINTWISE = Window(1)


class Builder:
    """Appends nodes to a graph in the making; every method returns the new tensor's name.

    `form` "training" writes a convolution and its batch norm as two nodes; "inference" writes one
    convolution with a bias, as after folding.
    """

    def __init__(self, input_shape: Shape, form: str = "training") -> None:
        self.input_shape = input_shape
        self.form = form
        self.nodes: list[Node] = []
        self.state_dict: dict[str, Shape] = {}
        self.shape: dict[str, Shape] = {"input": input_shape}

    def add(
        self,
        op: str,
        name: str,
        *inputs: str,
        parameters: Mapping[str, tuple[str, Shape]] | None = None,
        **attributes: Any,
    ) -> str:
        """Append a node; `parameters` maps a role to (state-dict name, shape)."""
        parameters = parameters or {}
        self.state_dict.update(parameters.values())
        names = {role: tensor for role, (tensor, _) in parameters.items()}
        shapes = {role: shape for role, (_, shape) in parameters.items()}
        self.shape[name] = OPS[op].shape([self.shape[x] for x in inputs], shapes, **attributes)
        self.nodes.append(Node(name, op, inputs, attributes, names))
        return name

    def conv(
        self,
        x: str,
        prefix: str,
        channels: int,
        window: Window,
        *,
        bias: bool = True,
        name: str | None = None,
    ) -> str:
        """A convolution whose tensors are `prefix`.weight and, with `bias`, `prefix`.bias."""
        k, s, p, groups = window.kernel, window.stride, window.padding, window.groups
        parameters: dict[str, tuple[str, Shape]] = {
            "weight": (f"{prefix}.weight", (channels, self.shape[x][0] // groups, k, k))
        }
        if bias:
            parameters["bias"] = (f"{prefix}.bias", (channels,))
        return self.add(
            "conv",
            name or prefix,
            x,
            parameters=parameters,
            kernel=(k, k),
            stride=(s, s),
            padding=(p, p),
            dilation=(1, 1),
            groups=groups,
        )

    def batch_norm(self, x: str, prefix: str) -> str:
        """A batch norm whose tensors are `prefix`.weight, .bias, .running_mean and .running_var."""
        roles = ("weight", "bias", "running_mean", "running_var")
        parameters = {role: (f"{prefix}.{role}", self.shape[x][:1]) for role in roles}
        name = self.add("batch_norm", prefix, x, parameters=parameters, epsilon=1e-5)
        self.state_dict[f"{prefix}.num_batches_tracked"] = ()
        return name

    def conv_norm(self, x: str, conv: str, norm: str, channels: int, window: Window) -> str:
        """A convolution and its batch norm; one convolution with a bias in the inference form."""
        if self.form == "inference":
            return self.conv(x, conv, channels, window)
        return self.batch_norm(self.conv(x, conv, channels, window, bias=False), norm)

    def linear(self, x: str, prefix: str, features: int, name: str | None = None) -> str:
        """A fully connected layer whose tensors are `prefix`.weight and `prefix`.bias."""
        weight = (f"{prefix}.weight", (features, *self.shape[x]))
        bias = (f"{prefix}.bias", (features,))
        return self.add("linear", name or prefix, x, parameters={"weight": weight, "bias": bias})

    def global_average(self, x: str, name: str) -> str:
        """The mean of each channel of the square map `x`, as a vector (C,)."""
        size: Pair = (self.shape[x][1], self.shape[x][2])
        pooled = self.add("average_pool", name, x, kernel=size, stride=size, padding=(0, 0))
        return self.add("flatten", f"{name}.flat", pooled)

    def graph(
        self, name: str, outputs: tuple[str, ...], options: Mapping[str, Any], *, fixed_size: bool
    ) -> Graph:
        """The finished graph."""
        return Graph(
            name=name,
            input_shape=self.input_shape,
            fixed_size=fixed_size,
            nodes=tuple(self.nodes),
            outputs=outputs,
            state_dict=self.state_dict,
            options=dict(options),
        )


def consumers(graph: Graph) -> dict[str, list[Node]]:
    """{tensor name: the nodes that read it}, for every tensor, in execution order."""
    readers: dict[str, list[Node]] = {name: [] for name in (graph.input, *graph.node)}
    for node in graph.nodes:
        for name in node.inputs:
            readers[name].append(node)
    return readers


def last_uses(graph: Graph) -> Iterator[tuple[Node, tuple[str, ...]]]:
    """Each node in order, with the tensors that nobody reads after it and that are no output."""
    last = {name: node.name for node in graph.nodes for name in node.inputs}
    for node in graph.nodes:
        done = {x for x in node.inputs if last[x] == node.name and x not in graph.outputs}
        yield node, tuple(done)
