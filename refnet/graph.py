"""A network as data: a list of nodes in execution order, and walks over it.

    Node    one operation: name, op, inputs, attributes, parameters
    Graph   nodes, outputs and the tensors they read; shapes, counts and the summary are walks

`refnet.builder` writes one down. Names of parameters are PyTorch's state-dict names, so that a
checkpoint loads by name.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from refnet.errors import OptionError, ShapeError
from refnet.ops import OPS, Shape
from refnet.receptive import ReceptiveField, of_pixels

#: Buffers of a batch norm; all other tensors of a state dict are trained.
BUFFERS = ("running_mean", "running_var", "num_batches_tracked")

#: Of the summary's table.
HEADINGS = ("layer", "op", "output shape", "parameters", "MACs", "receptive field", "jump")


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
        # How often the weight is applied: at every place of the output, or of the input.
        places = {
            "conv": lambda node: shapes[node.name][1:],
            "conv_transpose": lambda node: shapes[node.inputs[0]][1:],
            "linear": lambda node: shapes[node.name][:-1],
        }
        return {
            node.name: math.prod(places[node.op](node))
            * math.prod(self.state_dict[node.parameters["weight"]])
            for node in self.nodes
            if node.op in places
        }

    @property
    def parameter_count(self) -> int:
        """Number of trained values in the state dict (buffers of batch norms not counted)."""
        return sum(math.prod(s) for n, s in self.state_dict.items() if not n.endswith(BUFFERS))

    @property
    def buffer_count(self) -> int:
        """Number of running means and variances in the state dict."""
        return sum(math.prod(s) for n, s in self.state_dict.items() if n.endswith(BUFFERS[:2]))

    def receptive_fields(
        self, input_shape: Shape | None = None
    ) -> dict[str, ReceptiveField | None]:
        """{tensor name: receptive field} of the input and every node; see `refnet.receptive_field`."""
        shapes = self.shapes(input_shape)
        fields: dict[str, ReceptiveField | None] = {self.input: of_pixels()}
        for node in self.nodes:
            inputs = [fields[name] for name in node.inputs]
            known = [field for field in inputs if field is not None]
            fields[node.name] = None
            if len(known) == len(inputs):
                rule = OPS[node.op].field
                fields[node.name] = rule(
                    known, [shapes[name] for name in node.inputs], **node.attributes
                )
        return fields

    def summary(self, input_shape: Shape | None = None) -> str:
        """A table of layers: op, output shape, parameters, MACs, receptive field and jump.

        Args:
            input_shape: (C, H, W) of one image; the graph's own by default.
        """
        from refnet.tables import align

        shapes, macs = self.shapes(input_shape), self.macs(input_shape)
        fields = self.receptive_fields(input_shape)
        rows = [
            (
                node.name,
                _operation(node),
                _product(shapes[node.name]),
                _count(_trained(self, node)),
                _count(macs.get(node.name, 0)),
                *_seen(fields[node.name]),
            )
            for node in self.nodes
        ]
        options = ", ".join(f"{key}={value}" for key, value in self.options.items())
        outputs = ", ".join(f"{name} {_product(shapes[name])}" for name in self.outputs)
        footer = (
            f"input        {_product(shapes[self.input])}\n"
            f"outputs      {outputs}\n"
            f"parameters   {self.parameter_count:,} trained, {self.buffer_count:,} in buffers\n"
            f"MACs         {sum(macs.values()):,}"
        )
        title = f"{self.name} ({options})" if options else self.name
        return "\n".join([title, "", *align([HEADINGS, *rows], right=range(3, 7)), "", footer])

    def __str__(self) -> str:
        return self.summary()


def consumers(graph: Graph) -> dict[str, list[Node]]:
    """{tensor name: the nodes that read it}, for every tensor, in execution order."""
    readers: dict[str, list[Node]] = {name: [] for name in (graph.input, *graph.node)}
    for node in graph.nodes:
        for name in node.inputs:
            readers[name].append(node)
    return readers


def last_uses(graph: Graph) -> Iterator[tuple[Node, tuple[str, ...]]]:
    """Each node in order, with the tensors that no later node reads and that are no output."""
    last = {name: node.name for node in graph.nodes for name in node.inputs}
    for node in graph.nodes:
        done = {x for x in node.inputs if last[x] == node.name and x not in graph.outputs}
        yield node, tuple(done)


# ------------------------------------------------------------------------------ cells of the summary


def _operation(node: Node) -> str:
    """The op and its window, such as "conv 3×3 s2 p1 g64"."""
    attributes = node.attributes
    if "kernel" not in attributes:
        return node.op
    parts = [f"{node.op} {attributes['kernel'][0]}×{attributes['kernel'][1]}"]
    for key, default in (("stride", (1, 1)), ("padding", (0, 0)), ("dilation", (1, 1))):
        a, b = attributes.get(key, default)
        if (a, b) != default:
            parts.append(f"{key[0]}{a}" if a == b else f"{key[0]}{a}×{b}")
    if attributes.get("groups", 1) != 1:
        parts.append(f"g{attributes['groups']}")
    return " ".join(parts)


def _trained(graph: Graph, node: Node) -> int:
    """Number of values in the node's trained tensors."""
    names = [name for role, name in node.parameters.items() if role not in BUFFERS]
    return sum(math.prod(graph.state_dict[name]) for name in names)


def _product(shape: Shape) -> str:
    return " × ".join(map(str, shape))


def _count(number: int) -> str:
    return f"{number:,}" if number else ""


def _seen(field: ReceptiveField | None) -> tuple[str, str]:
    """Size and jump of a receptive field, one number each where rows and columns agree."""
    if field is None:
        return "by branch", ""
    (rows, columns), (down, across) = field.size, field.jump
    size = str(rows) if rows == columns else f"{rows}×{columns}"
    if not down and not across:
        return size, ""
    return size, str(down) if down == across else f"{down}×{across}"
