"""The weights of an ONNX model: its initialisers, and the layers that read them in graph order.

Exporters fold batch norms into convolutions and then number the folded tensors (`onnx::Conv_591`),
so that names say nothing; the order of the Conv and Gemm nodes does (see `identify.py`). The `onnx`
package parses the protobuf; it is optional: `pip install refnet[onnx]`.
"""

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from refnet.checkpoints.elements import ELEMENT_TYPES, Array, finished
from refnet.checkpoints.layers import Layer
from refnet.errors import CheckpointError
from refnet.optional import require

# TensorProto.DataType -> element type, and the field that holds it where raw_data is empty
_KINDS = {
    1: ("float32", "float_data"),
    2: ("uint8", "int32_data"),
    3: ("int8", "int32_data"),
    4: ("uint16", "int32_data"),
    5: ("int16", "int32_data"),
    6: ("int32", "int32_data"),
    7: ("int64", "int64_data"),
    9: ("bool", "int32_data"),
    10: ("float16", "int32_data"),
    11: ("float64", "double_data"),
    12: ("uint32", "uint64_data"),
    13: ("uint64", "uint64_data"),
    16: ("bfloat16", "int32_data"),
}
_EXTERNAL = 1
#: No tensor of a file beside the model is larger: a sparse file may claim any size.
_LARGEST = 1 << 31


def is_onnx(head: bytes) -> bool:
    """Whether `head` starts a ModelProto: ir_version (field 1), then a field of the model."""
    fields = (0x12, 0x1A, 0x22, 0x28, 0x32, 0x3A, 0x42, 0x72)  # producer_name ... metadata_props
    return len(head) > 2 and head[0] == 0x08 and 1 <= head[1] < 64 and head[2] in fields


def read_onnx(
    data: bytes, folder: Path | None = None
) -> tuple[dict[str, Array], tuple[Layer, ...], dict[str, str]]:
    """The initialisers by name, the Conv and Gemm layers in graph order, and what the model says.

    A Gemm that multiplies by its weight untransposed has it turned to (outputs, inputs). `folder` is
    where the model lies, for tensors that it keeps in files beside it. Raises DependencyError without
    the `onnx` package, CheckpointError where a file is cut off or damaged, or missing.
    """
    model = parse(data)
    graph = model.graph
    nodes = [_checked(node) for node in graph.node]
    protos = {_text(proto.name): proto for proto in graph.initializer}
    aliases: dict[str, str] = {}
    for node in nodes:
        if node.op_type == "Identity" and len(node.input) == 1 and len(node.output) == 1:
            aliases[node.output[0]] = aliases.get(node.input[0], node.input[0])
        for attribute in node.attribute if node.op_type == "Constant" else ():
            if attribute.name == "value" and len(node.output) == 1:
                protos[node.output[0]] = attribute.t
    tensors = {name: array_of(proto, name, folder) for name, proto in protos.items()}
    layers = [layer for node in nodes if (layer := _layer(node, tensors, aliases)) is not None]
    operators = Counter(_operator(node, tensors, aliases) for node in nodes)
    metadata = {
        "producer": f"{_text(model.producer_name)} {_text(model.producer_version)}".strip(),
        "operators": " ".join(f"{op}={count}" for op, count in sorted(operators.items())),
    }
    return tensors, tuple(layers), metadata


def parse(data: bytes) -> Any:
    """The ModelProto in `data`.

    Raises DependencyError without the `onnx` package, CheckpointError where it is cut off or damaged.
    """
    onnx = require("onnx", "reading ONNX files", "refnet[onnx]")
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        return onnx.load_model_from_string(data)
    except DecodeError as error:
        raise CheckpointError("its ONNX protobuf is cut off or damaged") from error


def _text(value: object) -> str:
    """`value`, which protobuf gives as bytes where it is not UTF-8."""
    if not isinstance(value, str):
        raise CheckpointError("a name in its ONNX graph is not text. The file is damaged.")
    return value


def _checked(node: Any) -> Any:
    """`node`, if all its names are text."""
    for name in (node.op_type, node.name, *node.input, *node.output):
        _text(name)
    return node


def _operator(node: Any, tensors: dict[str, Array], aliases: dict[str, str]) -> str:
    """The name of an operator. A Clip without an upper bound at 0 is a Relu, one that is not between 0 and 6 has its
    bounds in its name."""
    if node.op_type != "Clip":
        return "".join(str(node.op_type).split())[:80]
    attributes = {attribute.name: attribute.f for attribute in node.attribute}
    bounds: list[object] = [attributes.get("min"), attributes.get("max")]
    if len(node.input) > 1:  # since opset 11
        bounds = [
            _scalar(tensors.get(aliases.get(name, name))) if name else None
            for name in node.input[1:3]
        ]
    if bounds == [0, None] or bounds == [0]:
        return "Relu"
    return "Clip" if bounds == [0, 6] else f"Clip({','.join(map(str, bounds))})"


def _scalar(array: Array | None) -> object:
    return array.item() if array is not None and array.size == 1 else "?"


def _layer(node: Any, tensors: dict[str, Array], aliases: dict[str, str]) -> Layer | None:
    names = [aliases.get(name, name) for name in node.input]
    if node.op_type not in ("Conv", "Gemm") or len(names) < 2 or names[1] not in tensors:
        return None
    bias = names[2] if len(names) > 2 and names[2] else None
    if bias is not None and bias not in tensors:
        raise CheckpointError(f"the bias of node {node.name[:80]!r} is not among its tensors")
    if node.op_type == "Conv":
        return Layer("conv", names[1], bias)
    attributes = {attribute.name: attribute for attribute in node.attribute}
    if any(key in attributes and attributes[key].f != 1.0 for key in ("alpha", "beta")):
        raise CheckpointError(f"the fully connected node {node.name[:80]!r} scales its product")
    if "transB" not in attributes or attributes["transB"].i == 0:
        weight = tensors[names[1]]
        if weight.ndim != 2:
            raise CheckpointError(f"the weight of node {node.name[:80]!r} is not a matrix")
        tensors[names[1]] = finished(weight.T, "plain")
    return Layer("linear", names[1], bias)


def array_of(proto: Any, name: str, folder: Path | None = None) -> Array:
    """The read-only array in a TensorProto; bfloat16 widened to float32.

    Raises CheckpointError where its bytes are not those of its shape, its type is none of numbers, or
    it lies in a file that is absent or outside of `folder`.
    """
    if proto.data_type not in _KINDS:
        raise CheckpointError(f"tensor {name[:80]!r} has ONNX's element type {proto.data_type}")
    kind, field = _KINDS[proto.data_type]
    dtype = np.dtype("<" + ELEMENT_TYPES[kind])
    shape = tuple(proto.dims)
    try:
        if any(size < 0 for size in shape):
            raise ValueError
        if proto.data_location == _EXTERNAL:
            flat = np.frombuffer(_external(proto, name, folder, dtype, shape), dtype)
        elif proto.raw_data:
            flat = np.frombuffer(proto.raw_data, dtype)
        else:
            values = np.array(getattr(proto, field))
            half = kind in ("float16", "bfloat16")  # their bits are stored as integers
            flat = values.astype(np.uint16).view(dtype) if half else values.astype(dtype)
        return finished(flat.reshape(shape), kind)
    except CheckpointError:
        raise
    except (ValueError, OverflowError) as error:
        raise CheckpointError(
            f"tensor {name[:80]!r} does not hold the numbers that its shape {shape} asks for"
        ) from error


def _external(
    proto: Any, name: str, folder: Path | None, dtype: np.dtype[Any], shape: tuple[int, ...]
) -> bytes:
    """The bytes of a tensor that the model keeps in a file beside it, which may be in no other folder."""
    record = {entry.key: entry.value for entry in proto.external_data}
    location = record.get("location", "")
    if folder is None or not location:
        raise CheckpointError(f"tensor {name[:80]!r} lies in another file, which is not known")
    size = math.prod(shape) * dtype.itemsize
    try:
        offset, length = int(record.get("offset", 0)), int(record.get("length", size))
        inside = folder.resolve()
        path = (inside / location).resolve()
        if not path.is_relative_to(inside) or "\0" in location:
            raise CheckpointError(
                f"tensor {name[:80]!r} is said to lie in {location[:80]!r}, outside of the model's folder"
            )
        if not path.is_file():
            raise CheckpointError(
                f"its weights lie in {location[:80]!r}, and there is no such file beside it"
            )
        if length != size or size > _LARGEST or not 0 <= offset <= path.stat().st_size - length:
            raise CheckpointError(
                f"tensor {name[:80]!r} of {size:,} bytes is said to be bytes {offset} to "
                f"{offset + length} of {location[:80]!r}, which holds {path.stat().st_size:,}"
            )
        with path.open("rb") as file:
            file.seek(offset)
            content: bytes = file.read(length)
            return content
    except CheckpointError:
        raise
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"tensor {name[:80]!r} cannot be read from {location[:80]!r}: {error}"
        ) from error
