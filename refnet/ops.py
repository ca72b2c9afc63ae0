"""The vocabulary: every operation once, in plain NumPy, for any float dtype. It is the definition.

An operation is three functions of the same keywords (a node's attributes and parameters):

    forward(x, ..., **parameters, **attributes) -> y
    shape(inputs, parameters, **attributes)     -> shape of y for one image, without the batch axis
    vjp(dy, inputs, y, **parameters, **attributes) -> one cotangent per input

Legend: N images, C channels in, O channels out, H x W rows and columns, (kh, kw) kernel taps. Feature
maps are (N, C, H, W), vectors (N, F). A vector-Jacobian product takes the cotangent `dy` of the
output to the cotangents of the inputs; weights are constants here. Where a derivative jumps (ReLU
at 0, ReLU6 at 0 and 6, ties of a maximum) the choice is PyTorch's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from refnet.errors import ShapeError

Array: TypeAlias = NDArray[Any]
Shape: TypeAlias = tuple[int, ...]
Pair: TypeAlias = tuple[int, int]


def window_size(size: int, kernel: int, stride: int, padding: int, dilation: int = 1) -> int:
    """Number of positions of a window along one axis: floor((size + 2p - d(k - 1) - 1) / s) + 1."""
    return (size + 2 * padding - dilation * (kernel - 1) - 1) // stride + 1


def _windowed(
    shape: Shape, channels: int, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair = (1, 1)
) -> Shape:
    """Shape of a sliding window's output over `shape` (C, H, W)."""
    if len(shape) != 3:
        raise ShapeError(f"a window slides over (channels, rows, columns), not over {shape}")
    rows, columns = (
        window_size(shape[1 + a], kernel[a], stride[a], padding[a], dilation[a]) for a in (0, 1)
    )
    if rows < 1 or columns < 1:
        raise ShapeError(
            f"a {kernel[0]}×{kernel[1]} window does not fit a {shape[1]}×{shape[2]} map; "
            "the input is too small for this network"
        )
    return channels, rows, columns


def _patches(
    padded: Array, rows: int, columns: int, kernel: Pair, stride: Pair, dilation: Pair
) -> Iterator[tuple[int, int, Array]]:
    """For every kernel tap (i, j), the view (N, C, rows, columns) of what it reads."""
    for i, j in np.ndindex(*kernel):
        top, left = i * dilation[0], j * dilation[1]
        yield (
            i,
            j,
            padded[
                :,
                :,
                top : top + stride[0] * (rows - 1) + 1 : stride[0],
                left : left + stride[1] * (columns - 1) + 1 : stride[1],
            ],
        )


def _pad(x: Array, padding: Pair, value: float = 0.0) -> Array:
    """`x` with `padding` rows and columns of `value` on every side."""
    (ph, pw) = padding
    if ph == pw == 0:
        return x
    return np.pad(x, ((0, 0), (0, 0), (ph, ph), (pw, pw)), constant_values=value)


def _crop(padded: Array, padding: Pair) -> Array:
    """Inverse of `_pad`."""
    (ph, pw), (rows, columns) = padding, padded.shape[2:]
    return padded[:, :, ph : rows - ph, pw : columns - pw]


# ---------------------------------------------------------------------------------- convolution


def conv(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    *,
    kernel: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> Array:
    """Cross-correlation of x (N, C, H, W) with weight (O, C / groups, kh, kw), zero-padded, plus bias (O,)."""
    n, c, o = x.shape[0], x.shape[1], weight.shape[0]
    _, rows, columns = _windowed(x.shape[1:], o, kernel, stride, padding, dilation)
    y = np.zeros((n, o, rows, columns), x.dtype)
    grouped = y.reshape(n, groups, o // groups, rows * columns)
    for i, j, patch in _patches(_pad(x, padding), rows, columns, kernel, stride, dilation):
        tap = weight[:, :, i, j]
        if groups == c == o:  # depthwise: a 1 x 1 matrix product per channel is a plain product
            y += tap[:, :, None] * patch
        else:
            grouped += tap.reshape(groups, o // groups, c // groups) @ patch.reshape(
                n, groups, c // groups, rows * columns
            )
    if bias is not None:
        y += bias[:, None, None]
    return y


def conv_shape(
    inputs: Sequence[Shape],
    parameters: Mapping[str, Shape],
    *,
    kernel: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> Shape:
    """(O, rows, columns), after checking the weight against the input's channels."""
    (shape,), weight = inputs, parameters["weight"]
    expected = (weight[0], shape[0] // groups, *kernel)
    if weight != expected or shape[0] % groups or weight[0] % groups:
        raise ShapeError(
            f"a conv of {shape[0]} channels in {groups} groups with a {kernel} kernel takes a weight "
            f"of shape {expected}, not {weight}"
        )
    return _windowed(shape, weight[0], kernel, stride, padding, dilation)


def conv_vjp(
    dy: Array,
    inputs: Sequence[Array],
    y: Array,
    weight: Array,
    bias: Array | None = None,
    *,
    kernel: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    groups: int,
) -> tuple[Array]:
    """The transposed convolution: every tap scatters what it gathered."""
    (x,) = inputs
    (n, c), o = x.shape[:2], weight.shape[0]
    rows, columns = dy.shape[2:]
    dx = np.zeros_like(_pad(x, padding))
    grouped = dy.reshape(n, groups, o // groups, rows * columns)
    for i, j, patch in _patches(dx, rows, columns, kernel, stride, dilation):
        tap = weight[:, :, i, j]
        if groups == c == o:
            patch += tap[:, :, None] * dy
        else:
            transposed = tap.reshape(groups, o // groups, c // groups).swapaxes(1, 2)
            patch += (transposed @ grouped).reshape(patch.shape)
    return (_crop(dx, padding),)


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


# ---------------------------------------------------------------------------------- activations


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


# ---------------------------------------------------------------------------------- pooling


def average_pool(x: Array, *, kernel: Pair, stride: Pair, padding: Pair) -> Array:
    """Mean over each window; padding counts as zeros (PyTorch's count_include_pad)."""
    _, rows, columns = _windowed(x.shape[1:], x.shape[1], kernel, stride, padding)
    patches = _patches(_pad(x, padding), rows, columns, kernel, stride, (1, 1))
    total = np.zeros((*x.shape[:2], rows, columns), x.dtype)
    for _, _, patch in patches:
        total += patch
    total /= x.dtype.type(math.prod(kernel))
    return total


def average_pool_vjp(
    dy: Array, inputs: Sequence[Array], y: Array, *, kernel: Pair, stride: Pair, padding: Pair
) -> tuple[Array]:
    dx = np.zeros_like(_pad(inputs[0], padding))
    share = dy / dy.dtype.type(math.prod(kernel))
    for _, _, patch in _patches(dx, dy.shape[2], dy.shape[3], kernel, stride, (1, 1)):
        patch += share
    return (_crop(dx, padding),)


def max_pool(x: Array, *, kernel: Pair, stride: Pair, padding: Pair) -> Array:
    """Maximum over each window; padding never wins."""
    _, rows, columns = _windowed(x.shape[1:], x.shape[1], kernel, stride, padding)
    y = np.full((*x.shape[:2], rows, columns), -np.inf, x.dtype)
    for _, _, patch in _patches(_pad(x, padding, -np.inf), rows, columns, kernel, stride, (1, 1)):
        np.maximum(y, patch, out=y)
    return y


def max_pool_vjp(
    dy: Array, inputs: Sequence[Array], y: Array, *, kernel: Pair, stride: Pair, padding: Pair
) -> tuple[Array]:
    """The whole cotangent goes to the first maximum of each window, in row-major order."""
    padded = _pad(inputs[0], padding, -np.inf)
    dx = np.zeros_like(padded)
    taken = np.zeros(dy.shape, bool)
    sources = _patches(padded, dy.shape[2], dy.shape[3], kernel, stride, (1, 1))
    targets = _patches(dx, dy.shape[2], dy.shape[3], kernel, stride, (1, 1))
    for (_, _, source), (_, _, target) in zip(sources, targets, strict=True):
        wins = (source == y) & ~taken
        target += dy * wins
        taken |= wins
    return (_crop(dx, padding),)


def pool_shape(
    inputs: Sequence[Shape],
    parameters: Mapping[str, Shape],
    *,
    kernel: Pair,
    stride: Pair,
    padding: Pair,
) -> Shape:
    return _windowed(inputs[0], inputs[0][0], kernel, stride, padding)


# ---------------------------------------------------------------------------------- wiring


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


# ---------------------------------------------------------------------------------- the table


@dataclass(frozen=True)
class Op:
    """One operation: its forward, its shape rule and its vector-Jacobian product."""

    forward: Callable[..., Array]
    shape: Callable[..., Shape]
    vjp: Callable[..., tuple[Array, ...]]


OPS: Mapping[str, Op] = {
    "conv": Op(conv, conv_shape, conv_vjp),
    "batch_norm": Op(batch_norm, same_shape, batch_norm_vjp),
    "linear": Op(linear, linear_shape, linear_vjp),
    "relu": Op(relu, same_shape, relu_vjp),
    "relu6": Op(relu6, same_shape, relu6_vjp),
    "sigmoid": Op(sigmoid, same_shape, sigmoid_vjp),
    "softmax": Op(softmax, same_shape, softmax_vjp),
    "normalize": Op(normalize, same_shape, normalize_vjp),
    "average_pool": Op(average_pool, pool_shape, average_pool_vjp),
    "max_pool": Op(max_pool, pool_shape, max_pool_vjp),
    "add": Op(add, same_shape, add_vjp),
    "concat": Op(concat, concat_shape, concat_vjp),
    "slice": Op(slice_channels, slice_shape, slice_vjp),
    "flatten": Op(flatten, flatten_shape, reshape_vjp),
    "cells": Op(cells, cells_shape, cells_vjp),
}
