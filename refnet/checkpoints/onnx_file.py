"""The weights of an ONNX model: its initialisers, and the layers that read them in graph order.

Exporters fold batch norms into convolutions and then number the folded tensors (`onnx::Conv_591`),
so that names say nothing; the order of the Conv and Gemm nodes does (see `identify.py`). The `onnx`
package parses the protobuf; it is optional: `pip install refnet[onnx]`.
"""

from collections import Counter
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


def is_onnx(head: bytes) -> bool:
    """Whether `head` starts a ModelProto: ir_version (field 1), then a field of the model."""
    fields = (0x12, 0x1A, 0x22, 0x28, 0x32, 0x3A, 0x42, 0x72)  # producer_name ... metadata_props
    return len(head) > 2 and head[0] == 0x08 and 1 <= head[1] < 64 and head[2] in fields


def read_onnx(data: bytes) -> tuple[dict[str, Array], tuple[Layer, ...], dict[str, str]]:
    """The initialisers by name, the Conv and Gemm layers in graph order, and what the model says.

    A Gemm that multiplies by its weight untransposed has it turned to (outputs, inputs). Raises
    DependencyError without the `onnx` package, CheckpointError where the file is cut off or
    damaged, or its tensors lie in other files.
    """
    onnx = require("onnx", "reading weights from ONNX", "refnet[onnx]")
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        model = onnx.load_model_from_string(data)
    except DecodeError as error:
        raise CheckpointError("its ONNX protobuf is cut off or damaged") from error
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
    tensors = {name: _tensor(proto, name) for name, proto in protos.items()}
    layers = [layer for node in nodes if (layer := _layer(node, tensors, aliases)) is not None]
    operators = Counter(node.op_type for node in nodes)
    metadata = {
        "producer": f"{_text(model.producer_name)} {_text(model.producer_version)}".strip(),
        "operators": " ".join(f"{op}={count}" for op, count in sorted(operators.items())),
    }
    return tensors, tuple(layers), metadata


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


def _tensor(proto: Any, name: str) -> Array:
    if proto.data_location == _EXTERNAL:
        raise CheckpointError(
            f"tensor {name[:80]!r} lies in another file. Save the model in one file "
            f"(onnx.save(..., save_as_external_data=False))."
        )
    if proto.data_type not in _KINDS:
        raise CheckpointError(f"tensor {name[:80]!r} has ONNX's element type {proto.data_type}")
    kind, field = _KINDS[proto.data_type]
    dtype = np.dtype("<" + ELEMENT_TYPES[kind])
    shape = tuple(proto.dims)
    try:
        if proto.raw_data:
            flat = np.frombuffer(proto.raw_data, dtype)
        else:
            values = np.array(getattr(proto, field))
            half = kind in ("float16", "bfloat16")  # their bits are stored as integers
            flat = values.astype(np.uint16).view(dtype) if half else values.astype(dtype)
        if any(size < 0 for size in shape):
            raise ValueError
        return finished(flat.reshape(shape), kind)
    except (ValueError, OverflowError) as error:
        raise CheckpointError(
            f"tensor {name[:80]!r} does not hold the numbers that its shape {shape} asks for"
        ) from error
