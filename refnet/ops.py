"""The vocabulary: every operation once, in plain NumPy, for any float dtype. It is the definition.

`refnet.operation` says what makes up an operation. Its functions and its entry in the table `OPS` are in one file: here,
in `windows.py` if it slides a window, in `rearrangements.py` if it moves values.

Legend: N images, C channels in, O channels out, H x W rows and columns, (kh, kw) kernel taps. Feature
maps are (N, C, H, W), vectors (N, F). A vector-Jacobian product takes the cotangent `dy` of the
output to the cotangents of the inputs; weights are constants here. Where a derivative jumps (ReLU
at 0, ReLU6 at 0 and 6, hard functions at their corners, ties of a maximum) the choice is PyTorch's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from refnet import rearrangements, windows
from refnet.arrays import Array as Array
from refnet.arrays import Pair as Pair
from refnet.arrays import Shape as Shape
from refnet.errors import ShapeError
from refnet.operation import Op
from refnet.receptive import (
    ReceptiveField,
    Region,
    all_makes,
    all_reads,
    broadcast_field,
    broadcast_reads,
    flattened_field,
    layer_reads,
    whole,
)

# ------------------------------------------------------------------------- affine and element-wise


def batch_norm(
    x: Array,
    weight: Array,
    bias: Array,
    running_mean: Array,
    running_var: Array,
    *,
    epsilon: float,
) -> Array:
    """Inference form (Ioffe & Szegedy 2015, §3.1): weight · (x - mean) / √(var + ε) + bias, by channel."""
    scale = weight / np.sqrt(running_var + x.dtype.type(epsilon))
    shift = bias - running_mean * scale
    y: Array = x * scale[:, None, None] + shift[:, None, None]
    return y


def batch_norm_vjp(
    dy: Array,
    inputs: Sequence[Array],
    y: Array,
    weight: Array,
    bias: Array,
    running_mean: Array,
    running_var: Array,
    *,
    epsilon: float,
) -> tuple[Array]:
    scale = weight / np.sqrt(running_var + dy.dtype.type(epsilon))
    return (dy * scale[:, None, None],)


def linear(x: Array, weight: Array, bias: Array) -> Array:
    """x (N, ..., F) times weight (O, F) transposed, plus bias (O,)."""
    return x @ weight.T + bias


def linear_shape(inputs: Sequence[Shape], parameters: Mapping[str, Shape]) -> Shape:
    (shape,), weight = inputs, parameters["weight"]
    if shape[-1:] != (weight[1],):
        raise ShapeError(
            f"a linear layer with weight {weight} takes ({weight[1]},) features, not {shape}"
        )
    return (*shape[:-1], weight[0])


def linear_field(
    inputs: Sequence[ReceptiveField], shapes: Sequence[Shape]
) -> ReceptiveField | None:
    """That of the vector; of a map, all columns together."""
    (seen,), (shape,) = inputs, shapes
    if len(shape) != 3:
        return seen
    return replace(seen, columns=seen.columns.whole(shape[2]))


def linear_vjp(
    dy: Array, inputs: Sequence[Array], y: Array, weight: Array, bias: Array
) -> tuple[Array]:
    return (dy @ weight,)


def relu(x: Array) -> Array:
    """max(x, 0)."""
    return np.maximum(x, 0)


def relu_vjp(dy: Array, inputs: Sequence[Array], y: Array) -> tuple[Array]:
    return (dy * (y > 0),)


def relu6(x: Array) -> Array:
    """min(max(x, 0), 6)  (Krizhevsky 2010)."""
    return np.clip(x, 0, 6)


def relu6_vjp(dy: Array, inputs: Sequence[Array], y: Array) -> tuple[Array]:
    return (dy * ((y > 0) & (y < 6)),)


def sigmoid(x: Array) -> Array:
    """1 / (1 + exp(-x)), without overflow on either side."""
    small = np.exp(-np.abs(x))
    y: Array = np.where(x >= 0, 1, small) / (1 + small)
    return y


def sigmoid_vjp(dy: Array, inputs: Sequence[Array], y: Array) -> tuple[Array]:
    return (dy * y * (1 - y),)


def leaky_relu(x: Array, *, slope: float) -> Array:
    """x where it is positive, slope · x elsewhere  (Maas et al. 2013)."""
    return np.where(x > 0, x, slope * x)


def leaky_relu_vjp(dy: Array, inputs: Sequence[Array], y: Array, *, slope: float) -> tuple[Array]:
    return (np.where(inputs[0] > 0, dy, slope * dy),)


def prelu(x: Array, slope: Array) -> Array:
    """leaky_relu with a slope (C,) of its own for each channel  (He et al. 2015, arXiv:1502.01852)."""
    return np.where(x > 0, x, _by_channel(slope, x) * x)


def prelu_vjp(dy: Array, inputs: Sequence[Array], y: Array, slope: Array) -> tuple[Array]:
    (x,) = inputs
    return (np.where(x > 0, dy, _by_channel(slope, x) * dy),)


def _by_channel(values: Array, x: Array) -> Array:
    """`values` (C,), shaped to broadcast over `x` (N, C, ...)."""
    return values.reshape(-1, *(1,) * (x.ndim - 2))


def elu(x: Array, *, alpha: float) -> Array:
    """x where it is positive, alpha · (exp(x) - 1) elsewhere  (Clevert et al. 2016, arXiv:1511.07289)."""
    # Capped, because `where` also computes what it does not take, and exp(x) of a large x overflows.
    return np.where(x > 0, x, alpha * np.expm1(np.minimum(x, 0)))


def elu_vjp(dy: Array, inputs: Sequence[Array], y: Array, *, alpha: float) -> tuple[Array]:
    (x,) = inputs
    return (np.where(x > 0, dy, dy * alpha * np.exp(np.minimum(x, 0))),)


def silu(x: Array) -> Array:
    """x · sigmoid(x)  (Elfwing et al. 2018, arXiv:1702.03118; also called Swish)."""
    y: Array = x * sigmoid(x)
    return y


def silu_vjp(dy: Array, inputs: Sequence[Array], y: Array) -> tuple[Array]:
    (x,) = inputs
    gate = sigmoid(x)
    return (dy * gate * (1 + x * (1 - gate)),)


def hard_sigmoid(x: Array, *, slope: float, shift: float) -> Array:
    """min(max(slope · x + shift, 0), 1); slope 1/6 and shift 1/2 in MobileNetV3 (Howard et al. 2019)."""
    return np.clip(slope * x + shift, 0, 1)


def hard_sigmoid_vjp(
    dy: Array, inputs: Sequence[Array], y: Array, *, slope: float, shift: float
) -> tuple[Array]:
    return (dy * slope * ((y > 0) & (y < 1)),)


def hard_swish(x: Array) -> Array:
    """x · min(max(x + 3, 0), 6) / 6  (Howard et al. 2019, arXiv:1905.02244)."""
    y: Array = x * np.clip(x + 3, 0, 6) / 6
    return y


def hard_swish_vjp(dy: Array, inputs: Sequence[Array], y: Array) -> tuple[Array]:
    (x,) = inputs
    return (dy * np.where(x >= 3, 1, np.where(x > -3, x / 3 + dy.dtype.type(0.5), 0)),)


def tanh(x: Array) -> Array:
    """(exp(x) - exp(-x)) / (exp(x) + exp(-x))."""
    return np.tanh(x)


def tanh_vjp(dy: Array, inputs: Sequence[Array], y: Array) -> tuple[Array]:
    return (dy * (1 - y * y),)


def exp(x: Array) -> Array:
    """e to the power of x; infinite beyond the dtype's range."""
    with np.errstate(over="ignore"):
        return np.exp(x)


def exp_vjp(dy: Array, inputs: Sequence[Array], y: Array) -> tuple[Array]:
    return (dy * y,)


def softmax(x: Array, *, axis: int | tuple[int, ...]) -> Array:
    """exp(x) / Σ exp(x) along `axis` of the batched array, or several together, shifted by the maximum
    against overflow."""
    e: Array = np.exp(x - x.max(axis, keepdims=True))
    e /= e.sum(axis, keepdims=True)
    return e


def softmax_vjp(
    dy: Array, inputs: Sequence[Array], y: Array, *, axis: int | tuple[int, ...]
) -> tuple[Array]:
    return (y * (dy - (dy * y).sum(axis, keepdims=True)),)


def softmax_makes(
    region: Region,
    shape: Shape,
    inputs: Sequence[Shape],
    parameters: Mapping[str, Shape],
    *,
    axis: int | tuple[int, ...],
) -> Region:
    return region if axis in (1, (1,)) else whole(shape)


def normalize(x: Array, *, mean: float, std: float) -> Array:
    """(x - mean) / std with one mean and one scale for all channels."""
    y: Array = (x - x.dtype.type(mean)) / x.dtype.type(std)
    return y


def normalize_vjp(
    dy: Array, inputs: Sequence[Array], y: Array, *, mean: float, std: float
) -> tuple[Array]:
    return (dy / dy.dtype.type(std),)


def same_shape(
    inputs: Sequence[Shape], parameters: Mapping[str, Shape], **attributes: Any
) -> Shape:
    """Element-wise: the output has the input's shape, and so have all further inputs."""
    if len(set(inputs)) != 1:
        raise ShapeError(f"an element-wise operation takes equal shapes, not {list(inputs)}")
    for role, shape in parameters.items():
        if shape != inputs[0][:1]:
            raise ShapeError(f"{role} has shape {shape} for {inputs[0][0]} channels")
    return inputs[0]


# ------------------------------------------------------------------- arithmetic that broadcasts


def clip(x: Array, *, low: float, high: float) -> Array:
    """min(max(x, low), high); a bound may be infinite."""
    return np.clip(x, x.dtype.type(low), x.dtype.type(high))


def clip_vjp(
    dy: Array, inputs: Sequence[Array], y: Array, *, low: float, high: float
) -> tuple[Array]:
    (x,) = inputs
    return (dy * ((x >= low) & (x <= high)),)


def power(x: Array, *, exponent: float) -> Array:
    """x to a constant power."""
    if exponent == 0.5:
        return np.sqrt(x)
    y: Array = x ** x.dtype.type(exponent)
    return y


def power_vjp(dy: Array, inputs: Sequence[Array], y: Array, *, exponent: float) -> tuple[Array]:
    (x,) = inputs
    return (dy * (dy.dtype.type(exponent) * x ** dy.dtype.type(exponent - 1)),)


def affine(x: Array, weight: Array | None = None, bias: Array | None = None) -> Array:
    """x · weight + bias with constants that broadcast to the shape of one image, or grow it."""
    y = x if weight is None else x * weight
    return y if bias is None else y + bias


def affine_vjp(
    dy: Array,
    inputs: Sequence[Array],
    y: Array,
    weight: Array | None = None,
    bias: Array | None = None,
) -> tuple[Array]:
    return (_summed(dy if weight is None else dy * weight, inputs[0].shape),)


def affine_makes(
    region: Region, shape: Shape, inputs: Sequence[Shape], parameters: Mapping[str, Shape]
) -> Region:
    local = all(sizes[1:] == (1, 1) for sizes in parameters.values())
    return region if local else whole(shape)


def broadcast_shape(
    inputs: Sequence[Shape], parameters: Mapping[str, Shape], **attributes: Any
) -> Shape:
    """NumPy's broadcasting of inputs and constants of one rank, image by image."""
    shapes = [*inputs, *parameters.values()]
    ranks = {len(shape) for shape in shapes}
    sizes = [set(column) - {1} for column in zip(*shapes, strict=False)]
    if len(ranks) != 1 or any(len(size) > 1 for size in sizes):
        raise ShapeError(f"shapes {shapes} do not broadcast")
    return tuple(size.pop() if size else 1 for size in sizes)


def broadcast_add(a: Array, b: Array) -> Array:
    """a + b for shapes that broadcast; `add` is for equal ones."""
    y: Array = a + b
    return y


def broadcast_add_vjp(dy: Array, inputs: Sequence[Array], y: Array) -> tuple[Array, ...]:
    return tuple(_summed(dy, x.shape) for x in inputs)


def subtract(a: Array, b: Array) -> Array:
    """a - b for shapes that broadcast."""
    y: Array = a - b
    return y


def subtract_vjp(dy: Array, inputs: Sequence[Array], y: Array) -> tuple[Array, Array]:
    a, b = inputs
    return _summed(dy, a.shape), _summed(-dy, b.shape)


def multiply(a: Array, b: Array) -> Array:
    """a · b for shapes that broadcast, such as a map and one factor for each of its channels."""
    y: Array = a * b
    return y


def multiply_vjp(dy: Array, inputs: Sequence[Array], y: Array) -> tuple[Array, Array]:
    a, b = inputs
    return _summed(dy * b, a.shape), _summed(dy * a, b.shape)


def multiply_opened(dy: Array, inputs: Sequence[Array], y: Array) -> tuple[Array, ...]:
    """Open, a product passes to its larger factors as they are: a smaller one is a gate."""
    return tuple(dy if x.shape == dy.shape else np.zeros(x.shape, dy.dtype) for x in inputs)


def divide(a: Array, b: Array) -> Array:
    """a / b for shapes that broadcast."""
    y: Array = a / b
    return y


def divide_vjp(dy: Array, inputs: Sequence[Array], y: Array) -> tuple[Array, Array]:
    a, b = inputs
    return _summed(dy / b, a.shape), _summed(-dy * y / b, b.shape)


def divide_opened(dy: Array, inputs: Sequence[Array], y: Array) -> tuple[Array, Array]:
    """Open, a quotient passes to what is divided."""
    return _summed(dy, inputs[0].shape), np.zeros(inputs[1].shape, dy.dtype)


def _summed(dy: Array, shape: Shape) -> Array:
    """The cotangent of an array of `shape` that was broadcast to that of `dy`."""
    axes = tuple(i for i, (d, s) in enumerate(zip(dy.shape, shape, strict=True)) if s == 1 != d)
    return dy.sum(axes, keepdims=True) if axes else dy


def reduce(x: Array, *, kind: str, axes: tuple[int, ...]) -> Array:
    """The "mean", "sum", "max" or "min" along `axes` of the batched array, which keep a size of 1."""
    y: Array = getattr(np, kind)(x, axes, keepdims=True)
    return y


def reduce_shape(
    inputs: Sequence[Shape], parameters: Mapping[str, Shape], *, kind: str, axes: tuple[int, ...]
) -> Shape:
    (shape,) = inputs
    if kind not in ("mean", "sum", "max", "min") or not set(axes) <= set(range(1, len(shape) + 1)):
        raise ShapeError(f"{shape} has no {kind} along {axes}")
    return tuple(1 if axis in axes else size for axis, size in enumerate(shape, 1))


def reduce_makes(
    region: Region,
    shape: Shape,
    inputs: Sequence[Shape],
    parameters: Mapping[str, Shape],
    *,
    kind: str,
    axes: tuple[int, ...],
) -> Region:
    return region if axes == (1,) else whole(shape)


def reduce_reads(
    region: Region | None, shape: Shape, *, kind: str, axes: tuple[int, ...]
) -> Region | None:
    return layer_reads(region, shape) if axes == (1,) else all_reads(region, shape)


def reduce_field(
    inputs: Sequence[ReceptiveField], shapes: Sequence[Shape], *, kind: str, axes: tuple[int, ...]
) -> ReceptiveField | None:
    """All rows, all columns or both, where these are what is reduced."""
    (seen,), (shape,) = inputs, shapes
    if len(shape) != 3:
        return seen
    rows = seen.rows.whole(shape[1]) if 2 in axes else seen.rows
    columns = seen.columns.whole(shape[2]) if 3 in axes else seen.columns
    return replace(seen, rows=rows, columns=columns)


def reduce_vjp(
    dy: Array, inputs: Sequence[Array], y: Array, *, kind: str, axes: tuple[int, ...]
) -> tuple[Array]:
    """Extremes share the cotangent among all values that are as large, as PyTorch's amax and amin do."""
    (x,) = inputs
    if kind in ("max", "min"):
        wins = (x == y).astype(dy.dtype)
        return (dy * wins / wins.sum(axes, keepdims=True),)
    count = math.prod(x.shape[axis] for axis in axes) if kind == "mean" else 1
    return (np.broadcast_to(dy / dy.dtype.type(count), x.shape),)


def reduce_opened(
    dy: Array, inputs: Sequence[Array], y: Array, *, kind: str, axes: tuple[int, ...]
) -> tuple[Array]:
    """Open, an extreme is a mean."""
    linear_kind = kind if kind in ("mean", "sum") else "mean"
    return reduce_vjp(dy, inputs, y, kind=linear_kind, axes=axes)


# ---------------------------------------------------------------------------------------- wiring


def add(*inputs: Array) -> Array:
    """Sum of two or more arrays of one shape, from left to right."""
    y = inputs[0] + inputs[1]
    for x in inputs[2:]:
        y += x
    return y


def add_vjp(dy: Array, inputs: Sequence[Array], y: Array) -> tuple[Array, ...]:
    return (dy,) * len(inputs)


def concat(*inputs: Array, axis: int) -> Array:
    """Arrays joined along `axis` of the batched arrays."""
    return np.concatenate(inputs, axis)


def concat_shape(inputs: Sequence[Shape], parameters: Mapping[str, Shape], *, axis: int) -> Shape:
    a = axis - 1  # shapes here have no batch axis
    rest = {(*s[:a], *s[a + 1 :]) for s in inputs}
    if len(rest) != 1:
        raise ShapeError(
            f"concat along axis {axis} takes shapes equal elsewhere, not {list(inputs)}"
        )
    return (*inputs[0][:a], sum(s[a] for s in inputs), *inputs[0][a + 1 :])


def concat_reads(region: Region | None, shape: Shape, *, axis: int) -> Region | None:
    return layer_reads(region, shape) if axis == 1 else all_reads(region, shape)


def concat_makes(
    region: Region,
    shape: Shape,
    inputs: Sequence[Shape],
    parameters: Mapping[str, Shape],
    *,
    axis: int,
) -> Region:
    return region if axis == 1 else whole(shape)


def concat_vjp(dy: Array, inputs: Sequence[Array], y: Array, *, axis: int) -> tuple[Array, ...]:
    ends = np.cumsum([x.shape[axis] for x in inputs])[:-1]
    return tuple(np.split(dy, ends, axis))


def slice_channels(x: Array, *, start: int, stop: int) -> Array:
    """Channels start ... stop - 1."""
    return x[:, start:stop]


def slice_shape(
    inputs: Sequence[Shape], parameters: Mapping[str, Shape], *, start: int, stop: int
) -> Shape:
    (shape,) = inputs
    if not 0 <= start < stop <= shape[0]:
        raise ShapeError(f"channels {start}:{stop} are not within {shape[0]} channels")
    return (stop - start, *shape[1:])


def slice_vjp(
    dy: Array, inputs: Sequence[Array], y: Array, *, start: int, stop: int
) -> tuple[Array]:
    dx = np.zeros(inputs[0].shape, dy.dtype)
    dx[:, start:stop] = dy
    return (dx,)


def flatten(x: Array) -> Array:
    """(N, C, H, W) -> (N, C·H·W), channel-major."""
    return x.reshape(len(x), -1) if len(x) else x.reshape(0, math.prod(x.shape[1:]))


def flatten_shape(inputs: Sequence[Shape], parameters: Mapping[str, Shape]) -> Shape:
    return (math.prod(inputs[0]),)


def cells(x: Array) -> Array:
    """(N, C, H, W) -> (N, H·W, C): one row for every cell, cells in row-major order."""
    n, c, h, w = x.shape
    return x.reshape(n, c, h * w).swapaxes(1, 2)


def cells_shape(inputs: Sequence[Shape], parameters: Mapping[str, Shape]) -> Shape:
    c, h, w = inputs[0]
    return (h * w, c)


def cells_vjp(dy: Array, inputs: Sequence[Array], y: Array) -> tuple[Array]:
    return (dy.swapaxes(1, 2).reshape(inputs[0].shape),)


# -------------------------------------------------------------------------------------- the table

#: Every operation by name: those of this file, and those that slide a window or move values, each declared in the file
#: that defines it.
OPS: Mapping[str, Op] = {
    "batch_norm": Op(batch_norm, same_shape, batch_norm_vjp),
    "linear": Op(
        linear, linear_shape, linear_vjp, field=linear_field, reads=all_reads, makes=all_makes
    ),
    "relu": Op(relu, same_shape, relu_vjp, gate=True),
    "relu6": Op(relu6, same_shape, relu6_vjp, gate=True),
    "leaky_relu": Op(leaky_relu, same_shape, leaky_relu_vjp, gate=True),
    "prelu": Op(prelu, same_shape, prelu_vjp, gate=True),
    "elu": Op(elu, same_shape, elu_vjp, gate=True),
    "silu": Op(silu, same_shape, silu_vjp, gate=True),
    "hard_sigmoid": Op(hard_sigmoid, same_shape, hard_sigmoid_vjp, gate=True),
    "hard_swish": Op(hard_swish, same_shape, hard_swish_vjp, gate=True),
    "tanh": Op(tanh, same_shape, tanh_vjp, gate=True),
    "exp": Op(exp, same_shape, exp_vjp, gate=True),
    "sigmoid": Op(sigmoid, same_shape, sigmoid_vjp, gate=True),
    "softmax": Op(softmax, same_shape, softmax_vjp, gate=True, makes=softmax_makes),
    "clip": Op(clip, same_shape, clip_vjp, gate=True),
    "power": Op(power, same_shape, power_vjp, gate=True),
    "affine": Op(affine, broadcast_shape, affine_vjp, reads=broadcast_reads, makes=affine_makes),
    "broadcast_add": Op(
        broadcast_add,
        broadcast_shape,
        broadcast_add_vjp,
        field=broadcast_field,
        reads=broadcast_reads,
    ),
    "subtract": Op(
        subtract, broadcast_shape, subtract_vjp, field=broadcast_field, reads=broadcast_reads
    ),
    "multiply": Op(
        multiply,
        broadcast_shape,
        multiply_vjp,
        field=broadcast_field,
        reads=broadcast_reads,
        opened=multiply_opened,
    ),
    "divide": Op(
        divide,
        broadcast_shape,
        divide_vjp,
        field=broadcast_field,
        reads=broadcast_reads,
        opened=divide_opened,
    ),
    "reduce": Op(
        reduce,
        reduce_shape,
        reduce_vjp,
        field=reduce_field,
        reads=reduce_reads,
        makes=reduce_makes,
        opened=reduce_opened,
    ),
    "normalize": Op(normalize, same_shape, normalize_vjp),
    "add": Op(add, same_shape, add_vjp),
    "concat": Op(concat, concat_shape, concat_vjp, reads=concat_reads, makes=concat_makes),
    "slice": Op(slice_channels, slice_shape, slice_vjp),
    "flatten": Op(flatten, flatten_shape, rearrangements.reshape_vjp, field=flattened_field),
    "cells": Op(cells, cells_shape, cells_vjp),
    **windows.OPS,
    **rearrangements.OPS,
}
