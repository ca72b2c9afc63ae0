"""What an ONNX file computes without looking at the image: shapes, prepared weights, grids of anchors.

`fold(node, inputs)` is the node's result for constant inputs. Every function here makes arrays of bounded size
only, so that a small file cannot ask for all memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from refnet.errors import OptionError
from refnet.exchange.onnx_proto import OnnxNode
from refnet.ops import Array

#: No constant that is computed has more elements.
MOST = 1 << 23
#: TensorProto.DataType -> dtype. bfloat16 is computed in float32.
DTYPES: Mapping[int, str] = {
    1: "f4", 2: "u1", 3: "i1", 4: "u2", 5: "i2", 6: "i4", 7: "i8", 9: "?", 10: "f2", 11: "f8",
    12: "u4", 13: "u8", 16: "f4",
}  # fmt: skip
Inputs = Sequence[Array | None]


def fold(node: OnnxNode, inputs: Inputs) -> list[Array]:
    """The outputs of `node` for constant `inputs`, None for those that are left out.

    Raises:
        OptionError: it cannot be computed, or would be too large.
    """
    try:
        with np.errstate(all="ignore"):
            made = FOLDS[node.op](node, list(inputs))
    except (ArithmeticError, LookupError, TypeError, ValueError, MemoryError) as error:
        if isinstance(error, OptionError):
            raise
        shapes = [None if x is None else x.shape for x in inputs]
        raise OptionError(f"it cannot be computed from constants of shapes {shapes}") from error
    outputs = made if isinstance(made, list) else [made]
    return [np.asarray(array) for array in outputs]


def axes_of(node: OnnxNode, inputs: Inputs, position: int) -> list[int] | None:
    """The axes that a node names as an attribute or, since opset 13 or 18, as an input; None for none."""
    if position < len(inputs) and (given := inputs[position]) is not None:
        return [int(axis) for axis in given.reshape(-1)]
    axes = node.integers("axes")
    return None if axes is None else list(axes)


def axis_of(axis: int, rank: int) -> int:
    """`axis` counted from the front.

    Raises:
        OptionError: there is no such axis.
    """
    if not -rank <= axis < rank:
        raise OptionError(f"there is no axis {axis} in an array of {rank} axes")
    return axis % rank


def reshaped(shape: Sequence[int], target: Sequence[int], *, allow_zero: bool = False) -> list[int]:
    """The sizes that Reshape makes of `shape` for `target`: 0 keeps a size, -1 is what remains.

    Raises:
        OptionError: the sizes do not fit.
    """
    sizes = [
        shape[i] if size == 0 and not allow_zero and i < len(shape) else size
        for i, size in enumerate(map(int, target))
    ]
    total, rest = math.prod(shape), math.prod(size for size in sizes if size != -1)
    if sizes.count(-1) == 1 and rest > 0 and total % rest == 0:
        sizes[sizes.index(-1)] = total // rest
    if any(size < 0 for size in sizes) or math.prod(sizes) != total:
        raise OptionError(f"{tuple(shape)} cannot be reshaped to {tuple(map(int, target))}")
    return sizes


def slices_of(node: OnnxNode, inputs: Inputs, rank: int) -> list[tuple[int, int, int, int]]:
    """(axis, start, end, step) of a Slice, as attributes before opset 10, as inputs since."""
    if node.opset < 10:
        lists = [node.attributes.get(key) for key in ("starts", "ends", "axes")] + [None]
    else:
        given = [*inputs[1:5], None, None, None, None][:4]
        lists = [None if x is None else [int(v) for v in x.reshape(-1)] for x in given]
    starts, ends, axes, steps = lists
    if not isinstance(starts, list) or not isinstance(ends, list):
        raise OptionError("it says not where the slice begins and ends")
    axes = list(range(len(starts))) if axes is None else [axis_of(int(a), rank) for a in axes]
    steps = [1] * len(starts) if steps is None else steps
    if not len(starts) == len(ends) == len(axes) == len(steps) or 0 in steps:
        raise OptionError("its starts, ends, axes and steps do not fit each other")
    return list(zip(axes, map(int, starts), map(int, ends), map(int, steps), strict=True))


def split_sizes(node: OnnxNode, inputs: Inputs, size: int) -> list[int]:
    """The sizes of the parts of a Split: given, or as equal as can be, the last one smaller."""
    parts = len(node.outputs)
    if len(inputs) > 1 and inputs[1] is not None:
        sizes = [int(v) for v in inputs[1].reshape(-1)]
    elif (given := node.integers("split")) is not None:
        sizes = list(given)
    else:
        most = -(-size // parts)
        sizes = [most] * (parts - 1)
        sizes.append(size - sum(sizes))
    if len(sizes) != parts or sum(sizes) != size or any(s < 0 for s in sizes):
        raise OptionError(f"it cannot split {size} into {sizes}")
    return sizes


def squeezed(shape: Sequence[int], axes: Sequence[int] | None) -> list[int]:
    """`shape` without `axes`, or without every size of 1.

    Raises:
        OptionError: one of the axes has another size.
    """
    gone = (
        {i for i, size in enumerate(shape) if size == 1}
        if axes is None
        else {axis_of(a, len(shape)) for a in axes}
    )
    if any(shape[i] != 1 for i in gone):
        raise OptionError(f"{tuple(shape)} cannot be squeezed along {sorted(gone)}")
    return [size for i, size in enumerate(shape) if i not in gone]


def unsqueezed(shape: Sequence[int], axes: Sequence[int]) -> list[int]:
    """`shape` with new axes of size 1, counted in the result."""
    rank = len(shape) + len(axes)
    new = {axis_of(a, rank) for a in axes}
    if len(new) != len(axes):
        raise OptionError(f"axes {list(axes)} name one axis twice")
    rest = iter(shape)
    return [1 if i in new else next(rest) for i in range(rank)]


def _limited(*shapes: Sequence[int]) -> tuple[int, ...]:
    """The shape that arrays of `shapes` broadcast to, if it is small enough."""
    shape = np.broadcast_shapes(*(tuple(map(int, s)) for s in shapes))
    if any(size < 0 for size in shape) or math.prod(shape) > MOST:
        raise OptionError(f"a constant of shape {shape} is too large")
    return shape


def _binary(function: Callable[[Array, Array], Array]) -> Callable[[OnnxNode, Inputs], Array]:
    def computed(node: OnnxNode, inputs: Inputs) -> Array:
        total = _given(inputs, 0)
        for i in range(1, len(inputs)):
            other = _given(inputs, i)
            _limited(total.shape, other.shape)
            total = function(total, other)
        return total

    return computed


def _unary(function: Callable[[Array], Array]) -> Callable[[OnnxNode, Inputs], Array]:
    return lambda node, inputs: function(_given(inputs, 0)).astype(_given(inputs, 0).dtype)


def _given(inputs: Inputs, position: int) -> Array:
    if position >= len(inputs) or (array := inputs[position]) is None:
        raise OptionError(f"input {position + 1} is missing")
    return array


def _whole(array: Array) -> list[int]:
    """The elements of `array` as whole numbers."""
    return [int(value) for value in array.reshape(-1)]


def _divide(a: Array, b: Array) -> Array:
    """Whole numbers are divided towards zero, as in C."""
    if a.dtype.kind in "iu":
        if not b.all():
            raise OptionError("it divides by zero")
        quotient: Array = np.sign(a) * np.sign(b) * (np.abs(a) // np.abs(b))
        return quotient.astype(a.dtype)
    return np.divide(a, b)


def _power(a: Array, b: Array) -> Array:
    return np.power(a.astype(np.float64), b).astype(a.dtype)


def _cast(node: OnnxNode, inputs: Inputs) -> Array:
    kind = node.integer("to", 0)
    if kind not in DTYPES:
        raise OptionError(f"it casts to ONNX's element type {kind}")
    return _given(inputs, 0).astype(DTYPES[kind])


def _constant(node: OnnxNode, inputs: Inputs) -> Array:
    kinds = {
        "value": None,
        "value_float": "f4",
        "value_floats": "f4",
        "value_int": "i8",
        "value_ints": "i8",
    }
    for name, dtype in kinds.items():
        if name in node.attributes:
            value = node.attributes[name]
            if dtype is None and not isinstance(value, np.ndarray):
                break
            return np.asarray(value, dtype)
    raise OptionError(f"it holds {', '.join(node.attributes) or 'nothing'}, not numbers")


def _shape(node: OnnxNode, inputs: Inputs) -> Array:
    return shape_values(node, _given(inputs, 0).shape)


def shape_values(node: OnnxNode, shape: Sequence[int]) -> Array:
    """What Shape gives for an array of `shape`: all sizes, or since opset 15 those of start to end."""
    bounds = node.integer("start", 0, -64, 64), node.attributes.get("end")
    end = len(shape) if bounds[1] is None else node.integer("end", 0, -64, 64)
    return np.array(list(shape)[slice(bounds[0], end)], np.int64)


def _gather(node: OnnxNode, inputs: Inputs) -> Array:
    array, indices = _given(inputs, 0), _given(inputs, 1)
    axis = axis_of(node.integer("axis", 0, -64, 64), array.ndim)
    _limited((math.prod(array.shape) // max(array.shape[axis], 1) * indices.size,))
    return np.take(array, indices, axis)


def _slice(node: OnnxNode, inputs: Inputs) -> Array:
    array = _given(inputs, 0)
    index: list[slice] = [slice(None)] * array.ndim
    for axis, start, end, step in slices_of(node, inputs, array.ndim):
        # Going backwards, an end before the first element is written as a very negative number.
        stop = None if step < 0 and end < -array.shape[axis] else end
        index[axis] = slice(start, stop, step)
    return array[tuple(index)]


def _split(node: OnnxNode, inputs: Inputs) -> list[Array]:
    array = _given(inputs, 0)
    axis = axis_of(node.integer("axis", 0, -64, 64), array.ndim)
    return np.split(array, np.cumsum(split_sizes(node, inputs, array.shape[axis]))[:-1], axis)


def _concat(node: OnnxNode, inputs: Inputs) -> Array:
    arrays = [_given(inputs, i) for i in range(len(inputs))]
    _limited((sum(a.size for a in arrays),))
    return np.concatenate(arrays, node.integer("axis", 0, -64, 64))


def _reshape(node: OnnxNode, inputs: Inputs) -> Array:
    array, target = _given(inputs, 0), _given(inputs, 1)
    sizes = reshaped(array.shape, _whole(target), allow_zero=node.flag("allowzero"))
    return array.reshape(sizes)


def _flatten(node: OnnxNode, inputs: Inputs) -> Array:
    array = _given(inputs, 0)
    axis = node.integer("axis", 1, -array.ndim, array.ndim)
    axis = axis if axis >= 0 else axis + array.ndim
    return array.reshape(math.prod(array.shape[:axis]), math.prod(array.shape[axis:]))


def _transpose(node: OnnxNode, inputs: Inputs) -> Array:
    return np.transpose(_given(inputs, 0), node.integers("perm"))


def _squeeze(node: OnnxNode, inputs: Inputs) -> Array:
    array = _given(inputs, 0)
    return array.reshape(squeezed(array.shape, axes_of(node, inputs, 1)))


def _unsqueeze(node: OnnxNode, inputs: Inputs) -> Array:
    array = _given(inputs, 0)
    return array.reshape(unsqueezed(array.shape, axes_of(node, inputs, 1) or []))


def _constant_of_shape(node: OnnxNode, inputs: Inputs) -> Array:
    value = node.attributes.get("value", np.zeros(1, np.float32))
    shape = _limited(_whole(_given(inputs, 0)))
    return np.full(list(shape), np.asarray(value).reshape(-1)[0])


def _expand(node: OnnxNode, inputs: Inputs) -> Array:
    array = _given(inputs, 0)
    shape = _limited(array.shape, _whole(_given(inputs, 1)))
    return np.broadcast_to(array, shape)


def _tile(node: OnnxNode, inputs: Inputs) -> Array:
    array, repeats = _given(inputs, 0), [int(v) for v in _given(inputs, 1).reshape(-1)]
    if any(r < 0 for r in repeats):
        raise OptionError(f"it repeats {repeats} times")
    _limited((array.size * math.prod(repeats),))
    return np.tile(array, repeats)


def _range(node: OnnxNode, inputs: Inputs) -> Array:
    start, limit, step = (_given(inputs, i).reshape(-1)[0] for i in range(3))
    _limited((max(math.ceil((float(limit) - float(start)) / float(step)), 0),))
    return np.arange(start, limit, step, dtype=_given(inputs, 0).dtype)


def _where(node: OnnxNode, inputs: Inputs) -> Array:
    arrays = [_given(inputs, i) for i in range(3)]
    _limited(*(a.shape for a in arrays))
    return np.where(*arrays)


def _reduce(function: Callable[..., Any], since: int) -> Callable[[OnnxNode, Inputs], Array]:
    def computed(node: OnnxNode, inputs: Inputs) -> Array:
        array = _given(inputs, 0)
        axes = axes_of(node, inputs, 1) if node.opset >= since else axes_of(node, (), 1)
        if not axes and node.flag("noop_with_empty_axes"):
            return array
        along = None if not axes else tuple(axis_of(a, array.ndim) for a in axes)
        return np.asarray(
            function(array, axis=along, keepdims=node.flag("keepdims", True)), array.dtype
        )

    return computed


def _scatter_nd(node: OnnxNode, inputs: Inputs) -> Array:
    array, indices, updates = np.array(_given(inputs, 0)), _given(inputs, 1), _given(inputs, 2)
    if node.text("reduction", "none") != "none":
        raise OptionError("it adds up what it scatters")
    array[tuple(np.moveaxis(indices, -1, 0))] = updates
    return array


def _clip(node: OnnxNode, inputs: Inputs) -> Array:
    given = [*inputs[1:3], None, None][:2]
    low = given[0] if given[0] is not None else node.attributes.get("min")
    high = given[1] if given[1] is not None else node.attributes.get("max")
    array = _given(inputs, 0)
    return array if low is None and high is None else np.clip(array, low, high)


def _matmul(node: OnnxNode, inputs: Inputs) -> Array:
    a, b = _given(inputs, 0), _given(inputs, 1)
    _limited((max(a.size, 1) * (b.shape[-1] if b.ndim else 1),))
    return np.asarray(a @ b)


FOLDS: Mapping[str, Callable[[OnnxNode, Inputs], Array | list[Array]]] = {
    "Abs": _unary(np.abs),
    "Add": _binary(np.add),
    "And": _binary(np.logical_and),
    "Cast": _cast,
    "Ceil": _unary(np.ceil),
    "Clip": _clip,
    "Concat": _concat,
    "Constant": _constant,
    "ConstantOfShape": _constant_of_shape,
    "Cos": _unary(np.cos),
    "Div": _binary(_divide),
    "Dropout": lambda node, inputs: _given(inputs, 0),
    "Equal": _binary(np.equal),
    "Exp": _unary(np.exp),
    "Expand": _expand,
    "Flatten": _flatten,
    "Floor": _unary(np.floor),
    "Gather": _gather,
    "Greater": _binary(np.greater),
    "GreaterOrEqual": _binary(np.greater_equal),
    "Identity": lambda node, inputs: _given(inputs, 0),
    "Less": _binary(np.less),
    "LessOrEqual": _binary(np.less_equal),
    "Log": _unary(np.log),
    "MatMul": _matmul,
    "Max": _binary(np.maximum),
    "Min": _binary(np.minimum),
    "Mod": _binary(np.mod),
    "Mul": _binary(np.multiply),
    "Neg": _unary(np.negative),
    "Not": _unary(np.logical_not),
    "Or": _binary(np.logical_or),
    "Pow": _binary(_power),
    "Range": _range,
    "Reciprocal": _unary(np.reciprocal),
    "ReduceMax": _reduce(np.max, 18),
    "ReduceMean": _reduce(np.mean, 18),
    "ReduceMin": _reduce(np.min, 18),
    "ReduceProd": _reduce(np.prod, 18),
    "ReduceSum": _reduce(np.sum, 13),
    "Reshape": _reshape,
    "Round": _unary(np.round),
    "ScatterND": _scatter_nd,
    "Shape": _shape,
    "Sin": _unary(np.sin),
    "Size": lambda node, inputs: np.array(_given(inputs, 0).size, np.int64),
    "Slice": _slice,
    "Split": _split,
    "Sqrt": _unary(np.sqrt),
    "Squeeze": _squeeze,
    "Sub": _binary(np.subtract),
    "Sum": _binary(np.add),
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Where": _where,
    "Xor": _binary(np.logical_xor),
}
