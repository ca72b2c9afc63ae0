"""An ONNX file as plain data, every field checked: nodes, constants, inputs, outputs. Nothing in it is executed.

What protobuf hands over may be of any type, size and spelling. Here it becomes names that can be shown,
attributes that are asked for by type and range, and read-only arrays; whatever else is refused in a sentence.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from refnet.checkpoints.onnx_file import array_of, parse
from refnet.errors import CheckpointError, OptionError
from refnet.ops import Array

#: The versions of ONNX's operators whose meaning is known here.
OPSETS = range(6, 29)
#: Names of ONNX's own domain.
DOMAINS = ("", "ai.onnx")
#: Whole numbers in a file, such as paddings, are below this.
LARGEST = 1 << 16
#: First bytes of what is often found under a name that ends in .onnx.
_OTHERS = {
    b"version https://git-lfs": "a Git LFS pointer, not the file itself; fetch it with `git lfs pull`",
    b"<!DOCTYPE": "a web page, not a model; download the file itself",
    b"<!doctype": "a web page, not a model; download the file itself",
    b"<html": "a web page, not a model; download the file itself",
    b"PK\x03\x04": "a zip archive, not an ONNX file; unpack it first",
    b"\x1f\x8b": "a gzip archive, not an ONNX file; unpack it first",
    b"ORTM": "ONNX Runtime's own .ort format; use the ONNX file that it was made from",
}


@dataclass(frozen=True)
class OnnxNode:
    """One node of an ONNX graph.

    Attributes:
        op: the operator, such as "Conv"; of another domain than ONNX's own, "domain.Operator".
        inputs, outputs: names of tensors; "" stands for one that is left out.
        attributes: {name: int, float, str, list of these, or array}.
        opset: the version of the operators that the file was written for.
    """

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    opset: int = OPSETS[-1]

    def integer(self, name: str, default: int, low: int = 0, high: int = LARGEST) -> int:
        """The attribute `name`, a whole number from `low` to `high`."""
        value = self.attributes.get(name, default)
        if not isinstance(value, int) or not low <= value <= high:
            raise OptionError(f"{name} is {_brief(value)}, not a whole number of {low} to {high}")
        return value

    def flag(self, name: str, default: bool = False) -> bool:
        """The attribute `name`, 0 or 1."""
        return bool(self.integer(name, int(default), 0, 1))

    def number(self, name: str, default: float) -> float:
        """The attribute `name`, a finite number."""
        value = self.attributes.get(name, default)
        if not isinstance(value, (int, float)) or not np.isfinite(value):
            raise OptionError(f"{name} is {_brief(value)}, not a number")
        return float(value)

    def text(self, name: str, default: str) -> str:
        """The attribute `name`, a word."""
        value = self.attributes.get(name, default)
        if not isinstance(value, str):
            raise OptionError(f"{name} is {_brief(value)}, not a word")
        return value

    def integers(
        self,
        name: str,
        default: Sequence[int] | None = None,
        *,
        count: int | None = None,
        low: int = -LARGEST,
        high: int = LARGEST,
    ) -> tuple[int, ...] | None:
        """The attribute `name`, `count` whole numbers from `low` to `high`; `default` where it is absent."""
        if name not in self.attributes:
            return None if default is None else tuple(default)
        values = self.attributes[name]
        whole = isinstance(values, list) and all(isinstance(v, int) for v in values)
        if not whole or not all(low <= v <= high for v in values):
            raise OptionError(f"{name} is {_brief(values)}, not whole numbers of {low} to {high}")
        if count is not None and len(values) != count:
            raise OptionError(f"{name} is {_brief(values)}; {count} numbers are expected")
        return tuple(values)


@dataclass(frozen=True)
class OnnxInput:
    """An input of a graph: its name, and its sizes, None where the file leaves one open."""

    name: str
    dims: tuple[int | None, ...] | None


@dataclass(frozen=True)
class OnnxGraph:
    """What an ONNX file holds.

    Attributes:
        name: the file's stem.
        nodes: those that the outputs depend on, each after the nodes that it reads.
        constants: {name: read-only array} of the initialisers.
        inputs: those that are no constants.
        outputs: names of tensors, in order.
        opset: the version of the operators.
        producer: the program that wrote the file, as it says.
    """

    name: str
    nodes: tuple[OnnxNode, ...]
    constants: Mapping[str, Array]
    inputs: tuple[OnnxInput, ...]
    outputs: tuple[str, ...]
    opset: int
    producer: str = ""


def read_onnx_graph(path: str | os.PathLike[str]) -> OnnxGraph:
    """The graph in an ONNX file, with weights from files beside it where it keeps them there.

    Raises:
        DependencyError: the package onnx is absent.
        CheckpointError: the file cannot be read, is no ONNX model, or contradicts itself.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise CheckpointError("it is a folder")
        if not path.is_file():
            raise CheckpointError("there is no such file")
        data = path.read_bytes()
        for head, words in _OTHERS.items():
            if data[:64].lstrip().startswith(head):
                raise CheckpointError(f"it is {words}")
        return _graph(parse(data), path)
    except (OSError, ValueError) as error:
        if isinstance(error, CheckpointError):
            raise CheckpointError(f"cannot read {path} as ONNX: {shown(str(error))}") from error
        raise CheckpointError(f"cannot read {path}: {error}") from error
    except MemoryError as error:
        raise CheckpointError(f"{path}: too large for this machine's memory") from error


def shown(name: str) -> str:
    """A name or message out of a file, as a terminal may show it."""
    clean = "".join(letter if letter.isprintable() else "?" for letter in name[:600])
    return clean if len(name) <= 600 else f"{clean} ..."


def _brief(value: Any) -> str:
    text = shown(repr(value)) if not isinstance(value, np.ndarray) else f"an array {value.shape}"
    return text if len(text) <= 60 else f"{text[:60]} ..."


def _graph(model: Any, path: Path) -> OnnxGraph:
    proto = model.graph
    versions = {_text(entry.domain): entry.version for entry in model.opset_import}
    opset = max((versions[d] for d in DOMAINS if d in versions), default=0)
    if not len(proto.node) and not len(proto.input):
        raise CheckpointError("it holds no graph")
    if len(model.functions):
        raise CheckpointError(
            "it defines functions of its own; inline them first with onnx.inliner.inline_local_functions"
        )
    if len(proto.sparse_initializer):
        raise CheckpointError("it holds sparse tensors; make them dense first")
    if opset not in OPSETS:
        raise CheckpointError(
            f"it is written for version {opset} of ONNX's operators; versions {OPSETS[0]} to "
            f"{OPSETS[-1]} are read"
        )
    constants: dict[str, Array] = {}
    for tensor in proto.initializer:
        name = _text(tensor.name)
        if name in constants:
            raise CheckpointError(f"two of its tensors are named {name[:80]!r}")
        constants[name] = array_of(tensor, name, path.parent)
    inputs = tuple(_input(value) for value in proto.input if value.name not in constants)
    outputs = tuple(_text(value.name) for value in proto.output)
    if not outputs:
        raise CheckpointError("its graph has no outputs")
    nodes = [_node(node, opset, path.parent) for node in proto.node]
    ordered = _ordered(nodes, outputs, {*constants, *(value.name for value in inputs)})
    producer = f"{_text(model.producer_name)} {_text(model.producer_version)}".strip()
    return OnnxGraph(path.stem, ordered, constants, inputs, outputs, opset, producer)


def _text(value: Any) -> str:
    """`value`, which protobuf gives as bytes where it is not UTF-8."""
    if not isinstance(value, str):
        raise CheckpointError("a name in its graph is not text; the file is damaged")
    return value


def _input(value: Any) -> OnnxInput:
    if not value.type.HasField("tensor_type"):
        raise CheckpointError(f"its input {value.name[:80]!r} is no tensor")
    kind = value.type.tensor_type
    dims: tuple[int | None, ...] | None = None
    if kind.HasField("shape"):
        # A size of 0 or less is how some exporters write one that is free.
        dims = tuple(d.dim_value if d.dim_value > 0 else None for d in kind.shape.dim)
    return OnnxInput(_text(value.name), dims)


def _node(node: Any, opset: int, folder: Path) -> OnnxNode:
    attributes: dict[str, Any] = {}
    for attribute in node.attribute:
        attributes[_text(attribute.name)] = _value(attribute, folder)
    domain, op = _text(node.domain), _text(node.op_type)
    return OnnxNode(
        op if domain in DOMAINS else f"{domain}.{op}",
        tuple(map(_text, node.input)),
        tuple(map(_text, node.output)),
        attributes,
        opset,
    )


def _value(attribute: Any, folder: Path) -> Any:
    """An attribute as int, float, str, list or array; a graph inside as the attribute's own name."""
    kind, name = attribute.type, _text(attribute.name)
    if attribute.ref_attr_name:
        raise CheckpointError(f"attribute {name[:80]!r} refers to one of a function")
    if kind == 1:
        return float(attribute.f)
    if kind == 2:
        return int(attribute.i)
    if kind == 3:
        return attribute.s.decode("utf-8", "replace")
    if kind == 4:
        return array_of(attribute.t, name, folder)
    if kind == 6:
        return [float(value) for value in attribute.floats]
    if kind == 7:
        return [int(value) for value in attribute.ints]
    if kind == 8:
        return [value.decode("utf-8", "replace") for value in attribute.strings]
    return name  # a graph, a sparse tensor: no operation that is read here has such an attribute


def _ordered(
    nodes: Sequence[OnnxNode], outputs: Sequence[str], known: set[str]
) -> tuple[OnnxNode, ...]:
    """The nodes that the outputs depend on, each after those it reads; in the file's order where it is one.

    Raises:
        CheckpointError: a tensor is made twice, or by no node, or from itself.
    """
    makers: dict[str, OnnxNode] = {}
    for node in nodes:
        for name in filter(None, node.outputs):
            if name in makers or name in known:
                raise CheckpointError(f"two of its nodes make the tensor {name[:80]!r}")
            makers[name] = node
    done: dict[int, OnnxNode] = {}
    entered: set[int] = set()
    stack: list[tuple[str, bool]] = [(name, False) for name in reversed(outputs)]
    while stack:
        name, left = stack.pop()
        maker = makers.get(name)
        if maker is None:
            if name not in known:
                raise CheckpointError(f"no node makes its tensor {name[:80]!r}")
            continue
        if left:
            done.setdefault(id(maker), maker)
        elif id(maker) not in done:
            if id(maker) in entered:
                raise CheckpointError(f"its tensor {name[:80]!r} is made from itself: a cycle")
            entered.add(id(maker))
            stack.append((name, True))
            stack.extend((x, False) for x in reversed(maker.inputs) if x)
    made = set(known)
    for node in nodes:
        if id(node) in done:
            if not made.issuperset(filter(None, node.inputs)):
                return tuple(done.values())
            made.update(node.outputs)
    return tuple(node for node in nodes if id(node) in done)
