"""The vocabulary: every operation once, in plain NumPy, for any float dtype. It is the definition.

An operation is five functions of the same keywords (a node's attributes and parameters):

    forward(x, ..., **parameters, **attributes) -> y
    shape(inputs, parameters, **attributes)     -> shape of y for one image, without the batch axis
    vjp(dy, inputs, y, **parameters, **attributes) -> one cotangent per input
    field(inputs, shapes, **attributes)         -> the receptive field of y
    reads(region, shape, **attributes)          -> region of an input that a region of y depends on

The last two are those of `refnet.receptive` by default, which suit whatever slides a window (it has an
attribute `kernel`) and whatever keeps each unit in its place.

Legend: N images, C channels in, O channels out, H x W rows and columns, (kh, kw) kernel taps. Feature
maps are (N, C, H, W), vectors (N, F). A vector-Jacobian product takes the cotangent `dy` of the
output to the cotangents of the inputs; weights are constants here. Where a derivative jumps (ReLU
at 0, ReLU6 at 0 and 6, hard functions at their corners, ties of a maximum) the choice is PyTorch's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from refnet import windows
from refnet.arrays import Array as Array
from refnet.arrays import Pair as Pair
from refnet.arrays import Shape as Shape
from refnet.errors import ShapeError
from refnet.receptive import ReceptiveField, Region, flattened_field, layer_field, layer_reads

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
    """x (N, F) times weight (O, F) transposed, plus bias (O,)."""
    return x @ weight.T + bias


def linear_shape(inputs: Sequence[Shape], parameters: Mapping[str, Shape]) -> Shape:
    (shape,), weight = inputs, parameters["weight"]
    if shape != (weight[1],):
        raise ShapeError(
            f"a linear layer with weight {weight} takes ({weight[1]},) features, not {shape}"
        )
    return (weight[0],)


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


def softmax(x: Array, *, axis: int) -> Array:
    """exp(x) / Σ exp(x) along `axis` of the batched array, shifted by the maximum against overflow."""
    e: Array = np.exp(x - x.max(axis, keepdims=True))
    e /= e.sum(axis, keepdims=True)
    return e


def softmax_vjp(dy: Array, inputs: Sequence[Array], y: Array, *, axis: int) -> tuple[Array]:
    return (y * (dy - (dy * y).sum(axis, keepdims=True)),)


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
    """Arrays one behind the other along `axis` of the batched arrays."""
    return np.concatenate(inputs, axis)


def concat_shape(inputs: Sequence[Shape], parameters: Mapping[str, Shape], *, axis: int) -> Shape:
    a = axis - 1  # shapes here have no batch axis
    rest = {(*s[:a], *s[a + 1 :]) for s in inputs}
    if len(rest) != 1:
        raise ShapeError(
            f"concat along axis {axis} takes shapes equal elsewhere, not {list(inputs)}"
        )
    return (*inputs[0][:a], sum(s[a] for s in inputs), *inputs[0][a + 1 :])


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


def reshape_vjp(dy: Array, inputs: Sequence[Array], y: Array) -> tuple[Array]:
    return (dy.reshape(inputs[0].shape),)


def upsample(x: Array, *, factor: Pair) -> Array:
    """(N, C, H, W) -> (N, C, H · rows, W · columns): every pixel repeated, factor (rows, columns) times."""
    return x.repeat(factor[0], axis=2).repeat(factor[1], axis=3)


def upsample_shape(
    inputs: Sequence[Shape], parameters: Mapping[str, Shape], *, factor: Pair
) -> Shape:
    if len(inputs[0]) != 3 or min(factor) < 1:
        raise ShapeError(
            f"upsampling takes a map (C, H, W) and whole factors from 1 on, not {inputs[0]} and {factor}"
        )
    c, h, w = inputs[0]
    return (c, h * factor[0], w * factor[1])


def upsample_vjp(dy: Array, inputs: Sequence[Array], y: Array, *, factor: Pair) -> tuple[Array]:
    n, c, h, w = inputs[0].shape
    return (dy.reshape(n, c, h, factor[0], w, factor[1]).sum((3, 5)),)


# -------------------------------------------------------------------------------------- the table


@dataclass(frozen=True)
class Op:
    """One operation.

    Attributes:
        forward, shape, vjp, field, reads: see the module's documentation.
        gate: an element-wise non-linearity, or a softmax. An open network, which is linear, has the
            identity in its place.
        opened: the vector-Jacobian product in an open network, of an operation that is no gate and is
            not linear either; None where it is the same.
        outside: what a window meets beyond the borders of its input.
    """

    forward: Callable[..., Array]
    shape: Callable[..., Shape]
    vjp: Callable[..., tuple[Array, ...]]
    gate: bool = False
    field: Callable[..., ReceptiveField | None] = layer_field
    reads: Callable[..., Region | None] = layer_reads
    opened: Callable[..., tuple[Array, ...]] | None = None
    outside: float = 0.0


OPS: Mapping[str, Op] = {
    "conv": Op(windows.conv, windows.conv_shape, windows.conv_vjp),
    "batch_norm": Op(batch_norm, same_shape, batch_norm_vjp),
    "linear": Op(linear, linear_shape, linear_vjp),
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
    "softmax": Op(softmax, same_shape, softmax_vjp, gate=True),
    "normalize": Op(normalize, same_shape, normalize_vjp),
    "average_pool": Op(windows.average_pool, windows.pool_shape, windows.average_pool_vjp),
    "max_pool": Op(
        windows.max_pool,
        windows.pool_shape,
        windows.max_pool_vjp,
        opened=windows.average_pool_vjp,
        outside=-math.inf,
    ),
    "add": Op(add, same_shape, add_vjp),
    "concat": Op(concat, concat_shape, concat_vjp),
    "slice": Op(slice_channels, slice_shape, slice_vjp),
    "flatten": Op(flatten, flatten_shape, reshape_vjp, field=flattened_field),
    "cells": Op(cells, cells_shape, cells_vjp),
    "upsample": Op(upsample, upsample_shape, upsample_vjp),
}
