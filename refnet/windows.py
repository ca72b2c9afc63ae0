"""Operations that slide a window over a map: convolution and pooling. See `refnet.ops` for the legend."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from refnet.arrays import Array, Pair, Shape
from refnet.errors import ShapeError


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
