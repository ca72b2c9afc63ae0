"""The values in an ONNX file, as refnet writes them: attributes, windows and the input's shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from refnet.errors import OptionError, ShapeError
from refnet.ops import Pair


def node_attributes(node: Any) -> dict[str, Any]:
    """{name: value} of a node, tensors as arrays."""
    from onnx import TensorProto, helper, numpy_helper

    values = {a.name: helper.get_attribute_value(a) for a in node.attribute}
    return {
        ("value" if name.startswith("value") else name): (
            numpy_helper.to_array(value)
            if isinstance(value, TensorProto)
            else np.asarray(value)
            if name.startswith("value")
            else value
        )
        for name, value in values.items()
    }


def window(
    attributes: Mapping[str, Any], kernel: Sequence[int], shape: Sequence[int]
) -> dict[str, Pair]:
    """kernel, stride, padding and dilation of a window over a map of `shape` (C, H, W)."""
    if len(kernel) != 2:
        raise OptionError("only windows over rows and columns are known")
    stride = tuple(attributes.get("strides", (1, 1)))
    dilation = tuple(attributes.get("dilations", (1, 1)))
    mode = attributes.get("auto_pad", b"NOTSET")
    mode = mode.decode() if isinstance(mode, bytes) else mode
    if mode in ("SAME_UPPER", "SAME_LOWER"):
        total = [
            max((-(-size // s) - 1) * s + d * (k - 1) + 1 - size, 0)
            for size, k, s, d in zip(shape[1:], kernel, stride, dilation, strict=True)
        ]
        before = [t // 2 if mode == "SAME_UPPER" else t - t // 2 for t in total]
        pads = [*before, *(t - b for t, b in zip(total, before, strict=True))]
    else:
        pads = [0] * 4 if mode == "VALID" else list(attributes.get("pads", (0, 0, 0, 0)))
    if pads[:2] != pads[2:]:
        raise OptionError(
            f"it pads top and left by {pads[:2]}, bottom and right by {pads[2:]}; only equal padding on "
            "both sides is known"
        )
    return {
        "kernel": (int(kernel[0]), int(kernel[1])),
        "stride": (int(stride[0]), int(stride[1])),
        "padding": (int(pads[0]), int(pads[1])),
        "dilation": (int(dilation[0]), int(dilation[1])),
    }


def input_shape(name: str, value: Any, input_size: int | Pair | None) -> tuple[int, int, int]:
    """(C, H, W) of the network's input, its open sides taken from `input_size`."""
    dims = [d.dim_value or None for d in value.type.tensor_type.shape.dim]
    if len(dims) != 4 or dims[1] is None:
        raise ShapeError(f"{name}: a network here takes images (N, C, H, W), not {dims}")
    height, width = dims[2:]
    if input_size is not None:
        pair = (input_size, input_size) if isinstance(input_size, int) else input_size
        fixed = [d for d in ((height, pair[0]), (width, pair[1])) if d[0] not in (None, d[1])]
        if fixed:
            raise ShapeError(f"{name} is fixed to {height} × {width} and cannot take {pair}")
        height, width = pair
    if height is None or width is None:
        raise ShapeError(
            f"{name} leaves the size of its input open; pass input_size=, such as (480, 640)"
        )
    return dims[1], height, width
