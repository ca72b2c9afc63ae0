"""How each ONNX operator is written in refnet's vocabulary, in every version of it that is read.

A function takes the graph in the making and the node, and says what the node's outputs are. Where the meaning of
an operator changed between versions, `node.opset` decides.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from refnet.errors import OptionError
from refnet.exchange.onnx_builder import OnnxBuilder, Value
from refnet.exchange.onnx_fold import (
    axes_of,
    axis_of,
    reshaped,
    shape_values,
    slices_of,
    split_sizes,
    squeezed,
    unsqueezed,
)
from refnet.exchange.onnx_proto import LARGEST, OnnxNode, shown
from refnet.exchange.onnx_windows import WIDEST, OnnxWindow, window
from refnet.ops import Array, Pair

Reader = Callable[[OnnxBuilder, OnnxNode], None]
#: TensorProto.DataType of floats: casting one to another changes nothing that matters here.
FLOATS = (1, 10, 11, 16)

# ------------------------------------------------------------------------------- layers with weights


def conv(net: OnnxBuilder, node: OnnxNode) -> None:
    x, weight = net.map(node), net.demanded(node, 1)
    if weight.ndim != 4:
        raise OptionError("only convolutions over rows and columns are supported")
    taps = window(node, net.of_image(x)[1:], weight.shape[2:])
    groups = node.integer("group", 1, 1)
    x = x if taps.symmetric else _padded(net, node, x, taps, 0.0)
    value = net.add(
        "conv",
        node.outputs[0],
        x,
        parameters=_weight_and_bias(net, node, weight, len(weight)),
        **_taps(taps),
        dilation=taps.dilation,
        groups=groups,
    )
    net.define(node, value)


def conv_transpose(net: OnnxBuilder, node: OnnxNode) -> None:
    x, weight = net.map(node), net.demanded(node, 1)
    if weight.ndim != 4:
        raise OptionError("only convolutions over rows and columns are supported")
    groups = node.integer("group", 1, 1)
    size = net.of_image(x)[1:]
    # `auto_pad` means another thing here than in a convolution.
    bare = {k: v for k, v in node.attributes.items() if k != "auto_pad"}
    taps = window(OnnxNode(node.op, (), (), bare, node.opset), size, weight.shape[2:])
    more = node.integers("output_padding", (0, 0), count=2, low=0, high=WIDEST) or (0, 0)
    wanted = node.integers("output_shape", low=1)
    mode = node.text("auto_pad", "NOTSET")
    if mode not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER", ""):
        raise OptionError(f"auto_pad is {shown(mode)[:40]!r}")
    extents = [
        (n - 1) * s + d * (k - 1) + 1 + extra
        for n, s, d, k, extra in zip(
            size, taps.stride, taps.dilation, taps.kernel, more, strict=True
        )
    ]
    same = mode.startswith("SAME")
    if wanted is None and same:
        wanted = tuple(n * s for n, s in zip(size, taps.stride, strict=True))
    before, after = taps.before, taps.after
    if wanted is not None:
        total = [extent - size for extent, size in zip(extents, wanted[-2:], strict=True)]
        # A larger output than the kernels cover has zeros at its far side.
        first = [max(t // 2 if mode == "SAME_UPPER" else t - t // 2, 0) for t in total]
        before = first[0], first[1]
        after = total[0] - first[0], total[1] - first[1]
    kept = tuple(m + b - a for m, b, a in zip(more, before, after, strict=True))
    value = net.add(
        "conv_transpose",
        node.outputs[0],
        x,
        parameters=_weight_and_bias(net, node, weight, weight.shape[1] * groups),
        kernel=taps.kernel,
        stride=taps.stride,
        padding=before,
        output_padding=kept,
        dilation=taps.dilation,
        groups=groups,
    )
    net.define(node, value)


def _weight_and_bias(
    net: OnnxBuilder, node: OnnxNode, weight: Array, channels: int
) -> dict[str, tuple[str, Array]]:
    parameters = {"weight": (node.inputs[1], weight)}
    bias = net.constant(node, 2)
    if bias is not None:
        if bias.shape != (channels,):
            raise OptionError(f"a bias of shape {bias.shape} is not one of {channels} channels")
        parameters["bias"] = (node.inputs[2], bias)
    return parameters


def _taps(taps: OnnxWindow) -> dict[str, Any]:
    """kernel, stride and padding; none where the map was padded before."""
    padding = taps.before if taps.symmetric else (0, 0)
    return {"kernel": taps.kernel, "stride": taps.stride, "padding": padding}


def _padded(net: OnnxBuilder, node: OnnxNode, x: Value, taps: OnnxWindow, value: float) -> Value:
    """`x` with the border that a window of unequal paddings reads."""
    widths = ((0, 0), *zip(taps.before, taps.after, strict=True))
    name = f"{node.outputs[0]}/padded"
    return net.add("pad", name, x, widths=widths, mode="constant", value=value)


def linear(net: OnnxBuilder, node: OnnxNode) -> None:
    """Gemm, or MatMul with a constant matrix."""
    x, weight = net.tensor(node), net.demanded(node, 1)
    if weight.ndim != 2:
        raise OptionError("only a matrix of weights is supported")
    rank = len(net.shape(x))
    if x.batch == rank - 1:
        x = net.with_batch(
            x, 0 if net.shape(x)[0] == 1 and rank > 1 else None, f"{node.outputs[0]}/in"
        )
    bias: Array | None = None
    if node.op == "Gemm":
        if node.flag("transA") or rank != 2:
            raise OptionError("only a matrix of features, one row an image, is supported")
        weight = weight if node.flag("transB") else weight.T
        alpha, beta = node.number("alpha", 1.0), node.number("beta", 1.0)
        bias = net.constant(node, 2)
        weight = weight if alpha == 1 else weight * weight.dtype.type(alpha)
        bias = bias if bias is None or beta == 1 else bias * bias.dtype.type(beta)
    else:
        weight = weight.T
    name, outputs = node.outputs[0], len(weight)
    bias_name = f"{name}.zeros" if bias is None else node.inputs[2]
    filled = np.zeros(outputs, np.float32) if bias is None else bias
    if filled.size not in (1, outputs) or max(filled.shape, default=1) != filled.size:
        raise OptionError(f"a bias of shape {filled.shape} is not one of {outputs} features")
    parameters = {
        "weight": (node.inputs[1], np.ascontiguousarray(weight)),
        "bias": (bias_name, np.ascontiguousarray(np.broadcast_to(filled.reshape(-1), outputs))),
    }
    net.define(node, net.add("linear", name, x, batch=x.batch, parameters=parameters))


def batch_norm(net: OnnxBuilder, node: OnnxNode) -> None:
    if node.flag("training_mode"):
        raise OptionError("it is in training mode; export the network in evaluation mode")
    if not node.flag("spatial", True):
        raise OptionError("it has a mean for every pixel; one for each channel is supported")
    x = net.tensor(node)
    roles = ("weight", "bias", "running_mean", "running_var")
    given = {role: net.demanded(node, i) for i, role in enumerate(roles, 1)}
    epsilon = node.number("epsilon", 1e-5)
    channels = net.shape(x)[1] if len(net.shape(x)) > 1 else 0
    if any(array.shape != (channels,) for array in given.values()):
        raise OptionError(f"its means and scales are not those of {channels} channels")
    if min(float(given["running_var"].min()) + epsilon, epsilon) < 0:
        raise OptionError("a variance is negative")
    if len(net.shape(x)) == 4:
        x = net.map(node)
        parameters = {role: (node.inputs[i], given[role]) for i, role in enumerate(roles, 1)}
        value = net.add("batch_norm", node.outputs[0], x, parameters=parameters, epsilon=epsilon)
    else:
        p = {role: array.astype(np.float64) for role, array in given.items()}
        scale = p["weight"] / np.sqrt(p["running_var"] + epsilon)
        shift = p["bias"] - p["running_mean"] * scale
        broad = (channels, *[1] * (len(net.shape(x)) - 2))
        value = _affine(net, node, x, scale.reshape(broad), shift.reshape(broad), node.inputs[1:3])
    net.define(node, value)


# -------------------------------------------------------------------------------- element by element


def elementwise(op: str, **fixed: Any) -> Reader:
    """An operation without attributes of its own."""

    def read(net: OnnxBuilder, node: OnnxNode) -> None:
        x = net.tensor(node)
        net.define(node, net.add(op, node.outputs[0], x, batch=x.batch, **fixed))

    return read


def identity(net: OnnxBuilder, node: OnnxNode) -> None:
    net.define(node, net.tensor(node))


def dropout(net: OnnxBuilder, node: OnnxNode) -> None:
    training = net.constant(node, 2)
    if training is not None and training.any():
        raise OptionError("it is in training mode; export the network in evaluation mode")
    net.define(node, net.tensor(node))


def cast(net: OnnxBuilder, node: OnnxNode) -> None:
    if node.integer("to", 0) not in FLOATS:
        raise OptionError("it rounds a tensor to whole numbers")
    net.define(node, net.tensor(node))


def clip(net: OnnxBuilder, node: OnnxNode) -> None:
    """Bounds are attributes before opset 11, inputs since."""
    x = net.tensor(node)
    if node.opset < 11:
        low, high = (
            node.attributes.get(key, default)
            for key, default in (("min", -math.inf), ("max", math.inf))
        )
        bounds = [float(v) if isinstance(v, (int, float)) else math.nan for v in (low, high)]
    else:
        given = net.constant(node, 1), net.constant(node, 2)
        if any(v is not None and v.size != 1 for v in given):
            raise OptionError("each of its bounds is one number")
        bounds = [
            default if v is None else float(v.reshape(-1)[0])
            for v, default in zip(given, (-math.inf, math.inf), strict=True)
        ]
    net.define(node, _clipped(net, node, x, bounds[0], bounds[1]))


def _clipped(net: OnnxBuilder, node: OnnxNode, x: Value, low: float, high: float) -> Value:
    largest = float(np.finfo(np.float32).max)
    low, high = (-math.inf if low <= -largest else low), (math.inf if high >= largest else high)
    if math.isnan(low) or math.isnan(high) or low == math.inf or high == -math.inf:
        raise OptionError(f"it clips to {low} and {high}")
    if (low, high) == (-math.inf, math.inf):
        return x
    name = node.outputs[0]
    if (low, high) == (0.0, math.inf):
        return net.add("relu", name, x, batch=x.batch)
    if (low, high) == (0.0, 6.0):
        return net.add("relu6", name, x, batch=x.batch)
    # Where the bounds cross, ONNX gives the upper one everywhere.
    return net.add("clip", name, x, batch=x.batch, low=min(low, high), high=high)


def extreme(net: OnnxBuilder, node: OnnxNode) -> None:
    """Max or Min of a tensor and single numbers."""
    numbers = [value for value in net.constants(node) if value is not None]
    places = [i for i, value in enumerate(net.constants(node)) if value is None]
    if len(places) != 1 or any(value.size != 1 for value in numbers):
        raise OptionError("only the larger or smaller of a tensor and a single number is supported")
    x, values = net.tensor(node, places[0]), [float(v.reshape(-1)[0]) for v in numbers]
    if node.op == "Max":
        net.define(node, _clipped(net, node, x, max(values, default=-math.inf), math.inf))
    else:
        net.define(node, _clipped(net, node, x, -math.inf, min(values, default=math.inf)))


def softmax(net: OnnxBuilder, node: OnnxNode) -> None:
    """Along one axis since opset 13; before, along that axis and all after it, as if they were one."""
    x = net.tensor(node)
    sizes = net.shape(x)
    axis = axis_of(node.integer("axis", -1 if node.opset >= 13 else 1, -64, 64), len(sizes))
    together = [axis] if node.opset >= 13 else list(range(axis, len(sizes)))
    axes = [net.axis(x, a) for a in together if sizes[a] > 1 or a == axis]
    if node.opset < 13 and len(axes) > 1 and sizes[axis] == 1:
        axes = axes[1:]
    if 0 in axes:
        raise OptionError("it normalises the images of a batch together")
    chosen = axes[0] if len(axes) == 1 else tuple(axes)
    net.define(node, net.add("softmax", node.outputs[0], x, batch=x.batch, axis=chosen))


def leaky_relu(net: OnnxBuilder, node: OnnxNode) -> None:
    _gate(net, node, "leaky_relu", slope=node.number("alpha", 0.01))


def elu(net: OnnxBuilder, node: OnnxNode) -> None:
    _gate(net, node, "elu", alpha=node.number("alpha", 1.0))


def hard_sigmoid(net: OnnxBuilder, node: OnnxNode) -> None:
    slope, shift = node.number("alpha", 0.2), node.number("beta", 0.5)
    _gate(net, node, "hard_sigmoid", slope=slope, shift=shift)


def swish(net: OnnxBuilder, node: OnnxNode) -> None:
    if node.number("alpha", 1.0) != 1:
        raise OptionError("only x · sigmoid(x) is supported")
    _gate(net, node, "silu")


def _gate(net: OnnxBuilder, node: OnnxNode, op: str, **attributes: Any) -> None:
    x = net.tensor(node)
    net.define(node, net.add(op, node.outputs[0], x, batch=x.batch, **attributes))


def prelu(net: OnnxBuilder, node: OnnxNode) -> None:
    """One slope, or one for each channel."""
    x, slope = net.tensor(node), net.demanded(node, 1)
    sizes = net.shape(x)
    if slope.size == 1 and len(sizes) > 1:
        slope = np.broadcast_to(slope.reshape(-1), sizes[1]).reshape(-1, *[1] * (len(sizes) - 2))
    if node.opset < 7 and slope.ndim == 1:  # before slopes broadcast like any other operand
        slope = slope.reshape(-1, *[1] * (len(sizes) - 2))
    broad = [1] * (len(sizes) - slope.ndim) + list(slope.shape)
    channels = [size if axis == 1 else 1 for axis, size in enumerate(sizes)]
    if broad != channels or x.batch != 0:
        raise OptionError(f"slopes of shape {slope.shape} are not those of the channels of {sizes}")
    parameters = {"slope": (node.inputs[1], slope.reshape(-1))}
    net.define(node, net.add("prelu", node.outputs[0], x, parameters=parameters))


def power(net: OnnxBuilder, node: OnnxNode) -> None:
    x, exponent = net.tensor(node), net.demanded(node, 1)
    if exponent.size != 1 or not np.isfinite(exponent).all():
        raise OptionError("only one constant power is supported")
    number = float(exponent.reshape(-1)[0])
    net.define(node, net.add("power", node.outputs[0], x, batch=x.batch, exponent=number))


def negative(net: OnnxBuilder, node: OnnxNode) -> None:
    x = net.tensor(node)
    net.define(node, net.add("normalize", node.outputs[0], x, batch=x.batch, mean=0.0, std=-1.0))


# ---------------------------------------------------------------------------------------- arithmetic

_OF_TENSORS = {
    "Add": "broadcast_add",
    "Sum": "broadcast_add",
    "Sub": "subtract",
    "Mul": "multiply",
    "Div": "divide",
}


def arithmetic(net: OnnxBuilder, node: OnnxNode) -> None:
    """Sums, differences, products and quotients of tensors and constants."""
    if node.opset < 7 and "axis" in node.attributes:
        raise OptionError("it broadcasts from an axis that it names, as nothing has since opset 7")
    operands: list[Value | Array] = []
    for i, name in enumerate(node.inputs):
        if not name:
            raise OptionError(f"input {i + 1} is missing")
        operands.append(net.known[name])
    if node.op == "Sum" and len(operands) > 2 and all(isinstance(x, Value) for x in operands):
        values = [x for x in operands if isinstance(x, Value)]
        if len({(net.of_image(x), x.batch) for x in values}) == 1:
            net.define(node, net.add("add", node.outputs[0], *values, batch=values[0].batch))
            return
    total = operands[0]
    for i, other in enumerate(operands[1:], 1):
        last = i == len(operands) - 1
        name = node.outputs[0] if last else f"{node.outputs[0]}/{i}"
        total = _combined(net, node, total, other, name, i)
    net.define(node, total)


def _combined(
    net: OnnxBuilder, node: OnnxNode, a: Value | Array, b: Value | Array, name: str, position: int
) -> Value | Array:
    if isinstance(a, Value) and isinstance(b, Value):
        (first, second), batch = net.aligned((a, b), name)
        assert isinstance(first, Value) and isinstance(second, Value)
        equal = net.of_image(first) == net.of_image(second)
        op = "add" if equal and node.op in ("Add", "Sum") else _OF_TENSORS[node.op]
        return net.add(op, name, first, second, batch=batch)
    if isinstance(a, Value) and not isinstance(b, Value):
        return _with_constant(net, node, a, b, name, node.inputs[position], backwards=False)
    if isinstance(b, Value) and not isinstance(a, Value):
        return _with_constant(net, node, b, a, name, node.inputs[0], backwards=True)
    raise OptionError("it sums constants and tensors in turn")


def _with_constant(
    net: OnnxBuilder,
    node: OnnxNode,
    x: Value,
    value: Array,
    name: str,
    constant: str,
    *,
    backwards: bool,
) -> Value:
    """`x` and a constant; `backwards` where the constant comes first."""
    if node.op in ("Add", "Sum") and _became_bias(net, x, value):
        return x
    if not np.isfinite(value).all():
        raise OptionError(f"its constant {shown(constant)!r} is not finite")
    if node.op == "Div" and not backwards and not value.all():
        raise OptionError("it divides by zero")
    if value.size == 1 and value.ndim <= len(net.shape(x)) and (value.any() or node.op != "Mul"):
        return _with_number(net, node, x, float(value.reshape(())), name, backwards=backwards)
    wide = value.astype(np.float64)
    if node.op == "Div" and backwards:
        x = net.add("power", f"{name}/inverse", x, batch=x.batch, exponent=-1.0)
    (first, broad), batch = net.aligned((x, wide), name)
    assert isinstance(first, Value) and isinstance(broad, np.ndarray)
    weight, bias = {
        "Add": (None, broad),
        "Sum": (None, broad),
        "Sub": (-np.ones_like(broad), broad) if backwards else (None, -broad),
        "Mul": (broad, None),
        "Div": (broad, None) if backwards else (1 / np.where(broad == 0, 1, broad), None),
    }[node.op]
    return _affine_of(net, name, first, weight, bias, (constant, constant), batch)


def _affine(
    net: OnnxBuilder,
    node: OnnxNode,
    x: Value,
    weight: Array | None,
    bias: Array | None,
    names: Sequence[str],
) -> Value:
    given = [v for v in (weight, bias) if v is not None]
    (first, *broad), batch = net.aligned((x, *given), node.outputs[0])
    assert isinstance(first, Value)
    arrays = iter([v for v in broad if not isinstance(v, Value)])
    scale = None if weight is None else next(arrays)
    shift = None if bias is None else next(arrays)
    return _affine_of(net, node.outputs[0], first, scale, shift, names, batch)


def _affine_of(
    net: OnnxBuilder,
    name: str,
    x: Value,
    weight: Array | None,
    bias: Array | None,
    names: Sequence[str],
    batch: int | None,
) -> Value:
    parameters = {
        role: (source, np.asarray(array, np.float32))
        for role, source, array in zip(("weight", "bias"), names, (weight, bias), strict=True)
        if array is not None
    }
    return net.add("affine", name, x, batch=batch, parameters=parameters)


def _with_number(
    net: OnnxBuilder, node: OnnxNode, x: Value, number: float, name: str, *, backwards: bool
) -> Value:
    if node.op == "Div" and backwards:
        inverse = f"{name}/inverse" if number != 1 else name
        x = net.add("power", inverse, x, batch=x.batch, exponent=-1.0)
        if number == 1:
            return x
    if (number == 0 and node.op in ("Add", "Sum", "Sub") and not backwards) or (
        number == 1 and node.op in ("Mul", "Div")
    ):
        return x
    reciprocal = 1 / number if number else math.inf
    mean, std = {
        "Add": (-number, 1.0),
        "Sum": (-number, 1.0),
        "Sub": (number, -1.0 if backwards else 1.0),
        "Mul": (0.0, reciprocal),
        "Div": (0.0, reciprocal if backwards else number),
    }[node.op]
    return net.add("normalize", name, x, batch=x.batch, mean=mean, std=std)


def _became_bias(net: OnnxBuilder, x: Value, value: Array) -> bool:
    """Whether `value` became the bias of the linear layer `x`, made by a MatMul without one."""
    made = next((node for node in net.builder.nodes if node.name == x.name), None)
    if made is None or made.op != "linear" or not made.parameters["bias"].endswith(".zeros"):
        return False
    name = made.parameters["bias"]
    readers = [n for n in net.builder.nodes if x.name in n.inputs]
    held = net.weights[name]
    if readers or x.name in net.kept or value.reshape(-1).shape != held.shape or held.any():
        return False
    if value.ndim > len(net.shape(x)):
        return False
    net.weights[name] = np.asarray(value.reshape(-1), np.float32)
    return True


# ------------------------------------------------------------------------------------------- pooling


def pool(net: OnnxBuilder, node: OnnxNode) -> None:
    x = net.map(node)
    size = net.of_image(x)[1:]
    taps = window(node, size)
    ceil = node.flag("ceil_mode")
    maximum = node.op == "MaxPool"
    if any(p >= k for p, k in zip((*taps.before, *taps.after), taps.kernel * 2, strict=True)):
        raise OptionError("its padding is as large as its kernel")
    counted = node.flag("count_include_pad")
    attributes: dict[str, Any] = {}
    wanted = taps.positions(size, ceil=ceil)
    if maximum:
        if not taps.symmetric:
            x = _padded(net, node, x, taps, -math.inf)
    elif not counted and any((*taps.before, *taps.after)):
        attributes["count_padding"] = False
        if not taps.symmetric:
            # What lies beyond the last row does not count either, so only the number of windows matters.
            ceil = _symmetric(taps).positions(size) != wanted
            taps = _symmetric(taps)
    elif not taps.symmetric:
        x = _padded(net, node, x, taps, 0.0)
    if taps.dilation != (1, 1):
        attributes["dilation"] = taps.dilation
    if ceil:
        attributes["ceil"] = True
    op = "max_pool" if maximum else "average_pool"
    value = net.add(op, node.outputs[0], x, **_taps(taps), **attributes)
    if list(net.of_image(value)[1:]) != wanted:
        raise OptionError("its paddings differ from side to side in a way that is not supported")
    net.define(node, value)


def _symmetric(taps: OnnxWindow) -> OnnxWindow:
    return OnnxWindow(taps.kernel, taps.stride, taps.dilation, taps.before, taps.before)


def global_pool(net: OnnxBuilder, node: OnnxNode) -> None:
    op = "global_max_pool" if node.op == "GlobalMaxPool" else "global_average_pool"
    net.define(node, net.add(op, node.outputs[0], net.map(node)))


def reduce(net: OnnxBuilder, node: OnnxNode) -> None:
    """A mean, sum, maximum or minimum; the axes are an attribute before opset 18 (13 for sums)."""
    x, name = net.tensor(node), node.outputs[0]
    sizes = net.shape(x)
    given = net.constants(node) if node.opset >= (13 if node.op == "ReduceSum" else 18) else ()
    named = axes_of(node, given, 1)
    if not named and node.flag("noop_with_empty_axes"):
        net.define(node, x)
        return
    axes = sorted({axis_of(a, len(sizes)) for a in named or range(len(sizes))})
    if named and x.batch in axes:
        raise OptionError("it reduces the images of a batch to one")
    along = tuple(net.axis(x, axis) for axis in axes if axis != x.batch)
    kind = node.op.removeprefix("Reduce").lower()
    inner = name if node.flag("keepdims", True) else f"{name}/kept"
    if along == (2, 3) and len(sizes) == 4 and kind in ("mean", "max"):
        op = "global_max_pool" if kind == "max" else "global_average_pool"
        value = net.add(op, inner, x, batch=x.batch)
    elif along:
        value = net.add("reduce", inner, x, batch=x.batch, kind=kind, axes=along)
    else:
        value = x
    if not node.flag("keepdims", True):
        value = _squeezed(net, value, axes, name)
    net.define(node, value)


# ----------------------------------------------------------------------------------- parts and joins


def concat(net: OnnxBuilder, node: OnnxNode) -> None:
    values = [net.tensor(node, i) for i in range(len(node.inputs))]
    ranks = {len(net.shape(value)) for value in values}
    axis = axis_of(node.integer("axis", 1, -64, 64), len(net.shape(values[0])))
    if len(ranks) != 1:
        raise OptionError("it joins tensors of different ranks")
    batch = values[0].batch
    if batch == axis:
        # Joined along what was the batch: these are several tensors of one image.
        batch = None
    values = [
        net.with_batch(value, batch, f"{node.outputs[0]}/{i}") for i, value in enumerate(values)
    ]
    if len(values) == 1:
        net.define(node, values[0])
        return
    place = net.axis(values[0], axis)
    net.define(node, net.add("concat", node.outputs[0], *values, batch=batch, axis=place))


def slice_(net: OnnxBuilder, node: OnnxNode) -> None:
    x = net.tensor(node)
    sizes = net.shape(x)
    wanted = slices_of(
        node, [None, *(net.constant(node, i) for i in range(1, len(node.inputs)))], len(sizes)
    )
    for i, (axis, start, end, step) in enumerate(wanted):
        name = node.outputs[0] if i == len(wanted) - 1 else f"{node.outputs[0]}/{i}"
        x = _taken(net, x, axis, start, end, step, name)
    net.define(node, x)


def _taken(
    net: OnnxBuilder, x: Value, axis: int, start: int, end: int, step: int, name: str
) -> Value:
    """start:end:step of ONNX's `axis`."""
    size, place = net.shape(x)[axis], net.axis(x, axis)
    stop: int | None = end
    if (step > 0 and end >= LARGEST) or (step < 0 and end < -LARGEST):
        stop = None
    start = max(min(start, LARGEST), -LARGEST) if step > 0 or start < size else size - 1
    if step > 0 and start <= -size:
        start = 0
    first, last, _ = slice(start, stop, step).indices(size)
    if not len(range(first, last, step)):
        raise OptionError(f"it takes nothing: {start}:{end}:{step} of {size}")
    if (first, last, step) == (0, size, 1):
        return x
    if place == 0:
        raise OptionError("it takes some images of a batch")
    if place == 1 and step == 1:
        return net.add("slice", name, x, batch=x.batch, start=first, stop=last)
    return net.add("take", name, x, batch=x.batch, axis=place, start=start, stop=stop, step=step)


def split(net: OnnxBuilder, node: OnnxNode) -> None:
    x = net.tensor(node)
    sizes = net.shape(x)
    axis = axis_of(node.integer("axis", 0, -64, 64), len(sizes))
    given = [None, net.constant(node, 1) if node.opset >= 13 else None]
    start, parts = 0, []
    for name, size in zip(node.outputs, split_sizes(node, given, sizes[axis]), strict=True):
        parts.append(_taken(net, x, axis, start, start + size, 1, name or f"part/{start}"))
        start += size
    net.define(node, *parts)


def gather(net: OnnxBuilder, node: OnnxNode) -> None:
    """One place along an axis, or places at equal distances."""
    x, indices = net.tensor(node), net.demanded(node, 1)
    sizes = net.shape(x)
    axis = axis_of(node.integer("axis", 0, -64, 64), len(sizes))
    if indices.ndim > 1 or indices.size == 0 or indices.dtype.kind not in "iu":
        raise OptionError("it gathers in an order that is not supported")
    places = [int(i) + sizes[axis] if i < 0 else int(i) for i in indices.reshape(-1)]
    if not all(0 <= place < sizes[axis] for place in places):
        raise OptionError(f"it gathers beyond the {sizes[axis]} places of an axis")
    steps = {b - a for a, b in pairwise(places)} or {1}
    if len(steps) != 1 or steps == {0}:
        raise OptionError("it gathers in an order that is not supported")
    step, name = steps.pop(), node.outputs[0]
    end = places[-1] + (1 if step > 0 else -1)
    inner = name if indices.ndim else f"{name}/one"
    x = _taken(net, x, axis, places[0], end if end >= 0 else -LARGEST - 1, step, inner)
    if indices.ndim == 0:
        x = _squeezed(net, x, [axis], name)
    net.define(node, x)


# ----------------------------------------------------------------------------------- axes and shapes


def reshape(net: OnnxBuilder, node: OnnxNode) -> None:
    x, target = net.tensor(node), net.demanded(node, 1)
    sizes = reshaped(net.shape(x), target.reshape(-1).tolist(), allow_zero=node.flag("allowzero"))
    net.define(node, net.reshaped(x, sizes, node.outputs[0]))


def flatten(net: OnnxBuilder, node: OnnxNode) -> None:
    x = net.tensor(node)
    sizes = net.shape(x)
    axis = node.integer("axis", 1, -len(sizes), len(sizes))
    axis = axis if axis >= 0 else axis + len(sizes)
    pair = [math.prod(sizes[:axis]), math.prod(sizes[axis:])]
    net.define(node, net.reshaped(x, pair, node.outputs[0]))


def squeeze(net: OnnxBuilder, node: OnnxNode) -> None:
    x = net.tensor(node)
    sizes = net.shape(x)
    axes = axes_of(node, net.constants(node), 1)
    if axes is None:
        # Before the batch was free, its size of 1 was squeezed too; every image has its own then.
        axes = [i for i, size in enumerate(sizes) if size == 1]
    net.define(node, _squeezed(net, x, axes, node.outputs[0]))


def _squeezed(net: OnnxBuilder, x: Value, axes: Sequence[int], name: str) -> Value:
    sizes = net.shape(x)
    left = squeezed(sizes, axes)
    gone = {axis_of(a, len(sizes)) for a in axes}
    batch = x.batch
    if batch is not None:
        batch = None if batch in gone else batch - sum(a < batch for a in gone)
    inner = tuple(size for i, size in enumerate(left) if i != batch)
    return net.with_shape(x, inner, batch, name)


def unsqueeze(net: OnnxBuilder, node: OnnxNode) -> None:
    x = net.tensor(node)
    sizes = net.shape(x)
    axes = axes_of(node, net.constants(node), 1)
    if axes is None:
        raise OptionError("it names no axes")
    made = unsqueezed(sizes, axes)
    new = {axis_of(a, len(made)) for a in axes}
    old = [i for i in range(len(made)) if i not in new]
    # A tensor without a batch axis of its own gets the first new one.
    batch = old[x.batch] if x.batch is not None else (0 if 0 in new else None)
    inner = tuple(size for i, size in enumerate(made) if i != batch)
    net.define(node, net.with_shape(x, inner, batch, node.outputs[0]))


def transpose(net: OnnxBuilder, node: OnnxNode) -> None:
    x = net.tensor(node)
    rank = len(net.shape(x))
    order = node.integers("perm", tuple(reversed(range(rank))), count=rank, low=0) or ()
    if sorted(order) != list(range(rank)):
        raise OptionError(f"perm is {order}, no order of {rank} axes")
    batch = order.index(x.batch) if x.batch is not None else None
    inner = (0, *(net.axis(x, axis) for axis in order if axis != x.batch))
    if inner == tuple(range(len(inner))):
        net.define(node, Value(x.name, batch))
        return
    net.define(node, net.add("transpose", node.outputs[0], x, batch=batch, order=inner))


def depth_to_space(net: OnnxBuilder, node: OnnxNode) -> None:
    mode = node.text("mode", "DCR")
    if mode not in ("DCR", "CRD"):
        raise OptionError(f"mode is {shown(mode)[:40]!r}")
    _squares(net, node, "depth_to_space", depth_first=mode == "DCR")


def space_to_depth(net: OnnxBuilder, node: OnnxNode) -> None:
    mode = node.text("mode", "DCR")
    if mode not in ("DCR", "CRD"):
        raise OptionError(f"mode is {shown(mode)[:40]!r}")
    _squares(net, node, "space_to_depth", depth_first=mode == "DCR")


def _squares(net: OnnxBuilder, node: OnnxNode, op: str, *, depth_first: bool) -> None:
    x, block = net.map(node), node.integer("blocksize", 0, 1, WIDEST)
    net.define(node, net.add(op, node.outputs[0], x, block=block, depth_first=depth_first))


def pad(net: OnnxBuilder, node: OnnxNode) -> None:
    """Widths are attributes before opset 11, inputs since; negative ones cut off."""
    x = net.tensor(node)
    sizes = net.shape(x)
    axes = list(range(len(sizes)))
    value = node.number("value", 0.0)
    if node.opset >= 11:
        given = [int(v) for v in net.demanded(node, 1).reshape(-1)]
        filling, chosen = net.constant(node, 2), net.constant(node, 3)
        value = 0.0 if filling is None or not filling.size else float(filling.reshape(-1)[0])
        if chosen is not None:
            axes = [axis_of(int(a), len(sizes)) for a in chosen.reshape(-1)]
    else:
        given = list(node.integers("pads") or ())
    if len(given) != 2 * len(axes) or any(abs(v) > WIDEST for v in given):
        raise OptionError(f"its paddings are {shown(str(given))[:80]}")
    if math.isnan(value):
        raise OptionError("it pads with NaN")
    mode = node.text("mode", "constant")
    if mode not in ("constant", "edge", "reflect"):
        raise OptionError(f"padding with mode {shown(mode)[:40]!r} is not supported")
    name, cut = node.outputs[0], [(0, 0)] * len(sizes)
    widths = [(0, 0)] * len(sizes)
    for i, axis in enumerate(axes):
        before, after = given[i], given[i + len(axes)]
        widths[axis] = max(before, 0), max(after, 0)
        cut[axis] = max(-before, 0), max(-after, 0)
    if x.batch is not None and any((*widths[x.batch], *cut[x.batch])):
        raise OptionError("it pads the batch")
    for axis, (before, after) in enumerate(cut):
        if before or after:
            end = -after if after else LARGEST
            x = _taken(net, x, axis, before, end, 1, f"{name}/cut{axis}")
    inner = tuple(pair for axis, pair in enumerate(widths) if axis != x.batch)
    if any(any(pair) for pair in inner):
        x = net.add("pad", name, x, batch=x.batch, widths=inner, mode=mode, value=value)
    net.define(node, x)


# ------------------------------------------------------------------------------------------ resizing


def resize(net: OnnxBuilder, node: OnnxNode) -> None:
    """Resize and Upsample by whole factors, nearest or bilinear."""
    x = net.map(node)
    sizes = net.shape(x)
    old = node.op == "Upsample" or node.opset < 11
    mode = node.text("mode", "nearest")
    factors = _factors(net, node, sizes)
    if factors == (1, 1):
        net.define(node, x)
        return
    place = "asymmetric" if old else node.text("coordinate_transformation_mode", "half_pixel")
    rounding = "floor" if old else node.text("nearest_mode", "round_prefer_floor")
    if node.integer("antialias", 0) or node.integer("exclude_outside", 0):
        raise OptionError("antialiasing and leaving out what is outside are not supported")
    if place in ("pytorch_half_pixel", "half_pixel_symmetric"):
        place = "half_pixel"  # they differ where the factor is not whole, or the result one pixel
    if mode == "nearest" and all(_nearest(f, place, rounding) for f in factors):
        net.define(node, net.add("upsample", node.outputs[0], x, factor=factors))
    elif mode in ("linear", "bilinear") and place in ("half_pixel", "asymmetric", "align_corners"):
        value = net.add("upsample_linear", node.outputs[0], x, factor=factors, coordinates=place)
        net.define(node, value)
    else:
        detail = f"{shown(mode)[:20]}, {shown(place)[:30]}, {shown(rounding)[:30]}"
        raise OptionError(f"resizing with {detail} is not supported")


def _factors(net: OnnxBuilder, node: OnnxNode, sizes: Sequence[int]) -> Pair:
    """By how much rows and columns grow."""
    scales: list[float] | None = None
    wanted: Array | None = None
    if "scales" in node.attributes:  # Upsample in opset 7
        given = node.attributes["scales"]
        scales = [float(v) for v in given] if isinstance(given, list) else None
    elif node.op == "Upsample" or node.opset < 11:
        scales = [float(v) for v in net.demanded(node, 1).reshape(-1)]
    else:
        array = net.constant(node, 2)
        scales = None if array is None or not array.size else [float(v) for v in array.reshape(-1)]
        wanted = None if scales is not None else net.demanded(node, 3)
    axes = node.integers("axes")
    axes = tuple(range(len(sizes))) if axes is None else tuple(axis_of(a, len(sizes)) for a in axes)
    if wanted is not None:
        if node.text("keep_aspect_ratio_policy", "stretch") != "stretch":
            raise OptionError("it chooses its size by an aspect ratio")
        targets = [int(v) for v in wanted.reshape(-1)]
        if len(targets) == len(axes):
            scales = [t / sizes[a] for t, a in zip(targets, axes, strict=True)]
    if scales is None or len(scales) != len(axes):
        raise OptionError("it says not by how much it resizes")
    factors = [1.0] * len(sizes)
    for axis, scale in zip(axes, scales, strict=True):
        factors[axis] = scale
    if any(not 1 <= f <= WIDEST or f != int(f) for f in factors) or factors[:2] != [1, 1]:
        shape = tuple(round(f, 4) for f in factors)
        raise OptionError(f"it resizes by {shape}; rows and columns by whole factors are supported")
    return int(factors[2]), int(factors[3])


def _nearest(factor: int, place: str, rounding: str) -> bool:
    """Whether each pixel becomes `factor` pixels, in whatever way the file has it computed."""
    at = np.arange(4 * factor, dtype=np.float64)
    if place == "asymmetric":
        at = at / factor
    elif place == "half_pixel":
        at = (at + 0.5) / factor - 0.5
    else:
        return factor == 1
    if rounding not in _ROUNDINGS:
        return False
    chosen = np.clip(_ROUNDINGS[rounding](at), 0, 3)
    return bool((chosen == np.arange(4 * factor) // factor).all())


_ROUNDINGS: Mapping[str, Callable[[Array], Array]] = {
    "floor": np.floor,
    "ceil": np.ceil,
    "round_prefer_floor": lambda at: np.ceil(at - 0.5),
    "round_prefer_ceil": lambda at: np.floor(at + 0.5),
}


# ----------------------------------------------------------------------------------------- the table


def shape(net: OnnxBuilder, node: OnnxNode) -> None:
    net.define(node, shape_values(node, net.shape(net.tensor(node))))


def size(net: OnnxBuilder, node: OnnxNode) -> None:
    net.define(node, np.array(math.prod(net.shape(net.tensor(node))), np.int64))


def expand(net: OnnxBuilder, node: OnnxNode) -> None:
    x, target = net.tensor(node), net.demanded(node, 1)
    sizes = net.shape(x)
    if any(
        int(t) not in (1, s) for t, s in zip(target.reshape(-1)[::-1], sizes[::-1], strict=False)
    ) or target.size > len(sizes):
        raise OptionError("it repeats a tensor")
    net.define(node, x)


READERS: Mapping[str, Reader] = {
    "Add": arithmetic,
    "AveragePool": pool,
    "BatchNormalization": batch_norm,
    "Cast": cast,
    "Clip": clip,
    "Concat": concat,
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "DepthToSpace": depth_to_space,
    "Div": arithmetic,
    "Dropout": dropout,
    "Elu": elu,
    "Exp": elementwise("exp"),
    "Expand": expand,
    "Flatten": flatten,
    "Gather": gather,
    "Gemm": linear,
    "GlobalAveragePool": global_pool,
    "GlobalMaxPool": global_pool,
    "HardSigmoid": hard_sigmoid,
    "HardSwish": elementwise("hard_swish"),
    "Identity": identity,
    "LeakyRelu": leaky_relu,
    "MatMul": linear,
    "Max": extreme,
    "MaxPool": pool,
    "Min": extreme,
    "Mul": arithmetic,
    "Neg": negative,
    "PRelu": prelu,
    "Pad": pad,
    "Pow": power,
    "Reciprocal": elementwise("power", exponent=-1.0),
    "ReduceMax": reduce,
    "ReduceMean": reduce,
    "ReduceMin": reduce,
    "ReduceSum": reduce,
    "Relu": elementwise("relu"),
    "Reshape": reshape,
    "Resize": resize,
    "Shape": shape,
    "Sigmoid": elementwise("sigmoid"),
    "Size": size,
    "Slice": slice_,
    "Softmax": softmax,
    "SpaceToDepth": space_to_depth,
    "Split": split,
    "Sqrt": elementwise("power", exponent=0.5),
    "Squeeze": squeeze,
    "Sub": arithmetic,
    "Sum": arithmetic,
    "Swish": swish,
    "Tanh": elementwise("tanh"),
    "Transpose": transpose,
    "Unsqueeze": unsqueeze,
    "Upsample": resize,
}
