"""A graph in the making from ONNX: tensors that remember where the file keeps their batch axis.

A file is read as if for one image, so that all its shape arithmetic is plain numbers; refnet then computes every
image of a batch so. ONNX has the batch as an axis like any other: heads fold it into a list of boxes or move it.
`Value` says where it is, and `shape` puts it back as a size of 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from refnet.builder import Builder
from refnet.errors import OptionError, ShapeError
from refnet.exchange.onnx_proto import LARGEST, OnnxNode, shown
from refnet.ops import Array, Shape

#: No tensor of one image has more elements: 1 GiB of float32.
MOST = 1 << 28


@dataclass(frozen=True)
class Value:
    """A tensor of the graph.

    Attributes:
        name: of the node that makes it.
        batch: which axis of ONNX's tensor is the batch; None where it has none, being of one image.
    """

    name: str
    batch: int | None = 0


class OnnxBuilder:
    """Collects nodes and weights, and what is known of every ONNX tensor.

    Args:
        constants: {name: array} of the initialisers.
        kept: names of the graph's outputs, which nothing may take the place of.
    """

    def __init__(
        self, input_name: str, input_shape: Shape, constants: Mapping[str, Array], kept: set[str]
    ) -> None:
        self.builder = Builder(input_shape)
        self.kept = kept
        self.known: dict[str, Value | Array] = {**constants, input_name: Value("input")}
        self.weights: dict[str, Array] = {}
        self.folded = 0  # elements that were computed from constants
        self.names = {"input"}

    # ---------------------------------------------------------------------------------- reading

    def tensor(self, node: OnnxNode, position: int = 0) -> Value:
        """The tensor that is the node's input at `position`.

        Raises:
            OptionError: there is none, or a constant.
        """
        if position >= len(node.inputs) or not node.inputs[position]:
            raise OptionError(f"input {position + 1} is missing")
        value = self.known[node.inputs[position]]
        if not isinstance(value, Value):
            raise OptionError(f"its input {shown(node.inputs[position])!r} is a constant")
        return value

    def constant(self, node: OnnxNode, position: int) -> Array | None:
        """The constant input at `position`; None where there is none.

        Raises:
            OptionError: the input is computed.
        """
        if position >= len(node.inputs) or not node.inputs[position]:
            return None
        value = self.known[node.inputs[position]]
        if isinstance(value, Value):
            name = shown(node.inputs[position])
            raise OptionError(f"its input {name!r} is computed; a constant is expected")
        return value

    def demanded(self, node: OnnxNode, position: int) -> Array:
        """The constant input at `position`.

        Raises:
            OptionError: there is none.
        """
        value = self.constant(node, position)
        if value is None:
            raise OptionError(f"input {position + 1} is missing")
        return value

    def constants(self, node: OnnxNode) -> list[Array | None]:
        """All inputs of `node`, None for tensors."""
        given = [self.known[name] if name else None for name in node.inputs]
        return [None if isinstance(value, Value) else value for value in given]

    def of_image(self, value: Value) -> Shape:
        """The shape of one image of `value`, without the batch axis."""
        return self.builder.shape[value.name]

    def shape(self, value: Value) -> list[int]:
        """The shape that ONNX sees for one image."""
        sizes = list(self.of_image(value))
        if value.batch is not None:
            sizes.insert(value.batch, 1)
        return sizes

    def axis(self, value: Value, axis: int) -> int:
        """ONNX's axis, counted from the front, as one of the batched array; 0 is the batch."""
        if value.batch is None:
            return axis + 1
        if axis == value.batch:
            return 0
        return axis + 1 if axis < value.batch else axis

    def map(self, node: OnnxNode) -> Value:
        """The node's first input as a map (C, H, W) with the batch in front.

        Raises:
            OptionError: it is no map.
        """
        value = self.tensor(node)
        sizes = self.shape(value)
        if len(sizes) != 4 or sizes[0] != 1:
            raise OptionError(f"it takes images (N, C, H, W), and its input is {tuple(sizes)}")
        return self.with_batch(value, 0, f"{node.outputs[0]}/map")

    # ---------------------------------------------------------------------------------- making

    def fresh(self, name: str) -> str:
        """`name` as it may be shown, unlike all other nodes' names."""
        name = base = shown(name)[:200] or "unnamed"
        while name in self.names:
            name = f"{base}.{len(self.names)}"
        self.names.add(name)
        return name

    def add(
        self,
        op: str,
        name: str,
        *inputs: Value | str,
        batch: int | None = 0,
        parameters: Mapping[str, tuple[str, Array]] | None = None,
        **attributes: Any,
    ) -> Value:
        """Append a node; `parameters` maps a role to (name, array).

        Raises:
            ShapeError, OptionError: the inputs do not fit, or the result would be too large.
        """
        roles = {role: self._parameter(*given) for role, given in (parameters or {}).items()}
        sources = [x if isinstance(x, str) else x.name for x in inputs]
        made = self.builder.add(op, self.fresh(name), *sources, parameters=roles, **attributes)
        shape = self.builder.shape[made]
        if math.prod(shape) > MOST or max(shape, default=1) > MOST:
            raise OptionError(f"its result of {shape} is too large")
        if min(shape, default=1) < 1:
            raise ShapeError(f"its result of {shape} is empty")
        return Value(made, batch)

    def _parameter(self, name: str, array: Array) -> tuple[str, Shape]:
        """Register a parameter; (name, shape) as the builder takes it."""
        if array.dtype.kind != "f":
            array = array.astype(np.float32)
        name = base = shown(name)[:200] or "constant"
        while name in self.weights:
            held = self.weights[name]
            if held is array or (held.shape == array.shape and np.array_equal(held, array)):
                return name, array.shape
            name = f"{base}.{len(self.weights)}"
        self.weights[name] = array
        return name, array.shape

    def define(self, node: OnnxNode, *values: Value | Array) -> None:
        """Say what the node's outputs are."""
        self.known.update(
            (name, value) for name, value in zip(node.outputs, values, strict=False) if name
        )

    def reshaped(self, value: Value, sizes: Sequence[int], name: str) -> Value:
        """`value` as ONNX's Reshape makes it; the batch is the first axis if that has size 1."""
        batch = 0 if sizes and sizes[0] == 1 else None
        return self.with_shape(value, tuple(sizes[1:] if batch == 0 else sizes), batch, name)

    def with_shape(self, value: Value, shape: Shape, batch: int | None, name: str) -> Value:
        """`value` with images of `shape`, and ONNX's batch axis at `batch`."""
        if self.of_image(value) == shape:
            return Value(value.name, batch)
        if len(shape) == 1:
            return self.add("flatten", name, value, batch=batch)
        return self.add("reshape", name, value, batch=batch, shape=shape)

    def with_batch(self, value: Value, batch: int | None, name: str) -> Value:
        """The same ONNX tensor, with another of its axes of size 1 seen as the batch."""
        if value.batch == batch:
            return value
        sizes = self.shape(value)
        if batch is not None:
            if batch >= len(sizes) or sizes[batch] != 1:
                raise OptionError(f"of {tuple(sizes)}, axis {batch} is expected to be the batch")
            del sizes[batch]
        return self.with_shape(value, tuple(sizes), batch, name)

    def aligned(
        self, values: Sequence[Value | Array], name: str
    ) -> tuple[list[Value | Array], int | None]:
        """Operands of one rank that broadcast image by image, and where the result's batch axis is."""
        shapes = [self.shape(v) if isinstance(v, Value) else list(v.shape) for v in values]
        rank = max(map(len, shapes))
        shapes = [[1] * (rank - len(sizes)) + sizes for sizes in shapes]
        places = [
            value.batch + rank - len(self.shape(value))
            for value in values
            if isinstance(value, Value) and value.batch is not None
        ]
        batch = next((p for p in places if all(sizes[p] == 1 for sizes in shapes)), None)
        made: list[Value | Array] = []
        for i, (value, sizes) in enumerate(zip(values, shapes, strict=True)):
            inner = [size for axis, size in enumerate(sizes) if axis != batch]
            if isinstance(value, Value):
                made.append(self.with_shape(value, tuple(inner), batch, f"{name}/{i}"))
            else:
                made.append(value.reshape(inner))
        return made, batch


def limited(shape: Sequence[int]) -> None:
    """Refuse an image of `shape` that no network here takes.

    Raises:
        ShapeError: it is too large.
    """
    if max(shape) > LARGEST or math.prod(shape) > MOST:
        raise ShapeError(f"an input of {tuple(shape)} is too large")
