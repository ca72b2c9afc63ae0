"""Operations that slide a window over a map: convolution and pooling. See `refnet.ops` for the legend."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from refnet.arrays import Array, Pair, Shape
from refnet.errors import ShapeError
from refnet.operation import Op
from refnet.receptive import (
    ReceptiveField,
    Region,
    all_makes,
    all_reads,
    flattened_field,
    layer_reads,
    scaled_field,
    whole,
)


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


def conv_transpose(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    *,
    kernel: Pair,
    stride: Pair,
    padding: Pair,
    output_padding: Pair,
    dilation: Pair,
    groups: int,
) -> Array:
    """The transposed convolution of x (N, C, H, W) by weight (C, O / groups, kh, kw), plus bias (O,).

    Each value of `x`, times the kernel, is added at `stride` times its place. `padding` rows and columns are
    cut off on every side (or, where that is less than nothing, added as zeros), and `output_padding` more (of zeros, or
    less than nothing) are kept at the bottom and on the right.
    """
    window = {"kernel": kernel, "stride": stride, "padding": padding, "dilation": dilation}
    o = weight.shape[1] * groups
    _, rows, columns = _spread(x.shape[1:], o, output_padding=output_padding, **window)
    n, c, h, w = x.shape
    y = np.zeros((n, o, *_canvas(h, w, rows, columns, **window)), x.dtype)
    grouped = x.reshape(n, groups, c // groups, h * w)
    for i, j, patch in _patches(_inside(y, padding), h, w, kernel, stride, dilation):
        tap = weight[:, :, i, j]
        if groups == c == o:
            patch += tap.T.reshape(c, 1, 1) * x
        else:
            matrix = tap.reshape(groups, c // groups, o // groups).swapaxes(1, 2)
            patch += (matrix @ grouped).reshape(n, o, h, w)
    top, left = (max(p, 0) for p in padding)
    y = y[:, :, top : top + rows, left : left + columns]
    return y if bias is None else y + bias[:, None, None]


def conv_transpose_shape(
    inputs: Sequence[Shape],
    parameters: Mapping[str, Shape],
    *,
    kernel: Pair,
    stride: Pair,
    padding: Pair,
    output_padding: Pair,
    dilation: Pair,
    groups: int,
) -> Shape:
    """(O, rows, columns), after checking the weight against the input's channels."""
    (shape,), weight = inputs, parameters["weight"]
    if len(weight) != 4 or weight[0] != shape[0] or shape[0] % groups or weight[2:] != kernel:
        raise ShapeError(
            f"a transposed conv of {shape[0]} channels in {groups} groups with a {kernel} kernel takes a "
            f"weight of shape ({shape[0]}, outputs / {groups}, {kernel[0]}, {kernel[1]}), not {weight}"
        )
    window = {"kernel": kernel, "stride": stride, "padding": padding, "dilation": dilation}
    return _spread(shape, weight[1] * groups, output_padding=output_padding, **window)


def conv_transpose_vjp(
    dy: Array,
    inputs: Sequence[Array],
    y: Array,
    weight: Array,
    bias: Array | None = None,
    *,
    kernel: Pair,
    stride: Pair,
    padding: Pair,
    output_padding: Pair,
    dilation: Pair,
    groups: int,
) -> tuple[Array]:
    """The convolution: every tap gathers where it scattered."""
    (x,) = inputs
    (n, c, h, w), o = x.shape, dy.shape[1]
    window = {"kernel": kernel, "stride": stride, "padding": padding, "dilation": dilation}
    canvas = np.zeros((n, o, *_canvas(h, w, dy.shape[2], dy.shape[3], **window)), dy.dtype)
    top, left = (max(p, 0) for p in padding)
    canvas[:, :, top : top + dy.shape[2], left : left + dy.shape[3]] = dy
    dx = np.zeros(x.shape, dy.dtype)
    grouped = dx.reshape(n, groups, c // groups, h * w)
    for i, j, patch in _patches(_inside(canvas, padding), h, w, kernel, stride, dilation):
        matrix = weight[:, :, i, j].reshape(groups, c // groups, o // groups)
        grouped += matrix @ patch.reshape(n, groups, o // groups, h * w)
    return (dx,)


def conv_transpose_field(
    inputs: Sequence[ReceptiveField],
    shapes: Sequence[Shape],
    *,
    kernel: Pair,
    stride: Pair,
    padding: Pair,
    output_padding: Pair,
    dilation: Pair,
    groups: int,
) -> ReceptiveField | None:
    """Unit u sees the input's units ⌈(u + p - d (k - 1)) / s⌉ to ⌊(u + p) / s⌋."""
    rows, columns = (
        (p - d * (k - 1), p) for p, d, k in zip(padding, dilation, kernel, strict=True)
    )
    return scaled_field(inputs[0], stride, (rows, columns))


def _spread(
    shape: Shape,
    channels: int,
    *,
    kernel: Pair,
    stride: Pair,
    padding: Pair,
    output_padding: Pair,
    dilation: Pair,
) -> Shape:
    """Shape of a transposed convolution's output over `shape` (C, H, W)."""
    if len(shape) != 3:
        raise ShapeError(f"a window slides over (channels, rows, columns), not over {shape}")
    rows, columns = (
        (shape[1 + a] - 1) * stride[a]
        - 2 * padding[a]
        + dilation[a] * (kernel[a] - 1)
        + 1
        + output_padding[a]
        for a in (0, 1)
    )
    if rows < 1 or columns < 1:
        raise ShapeError(f"a transposed conv leaves nothing of a {shape[1]}×{shape[2]} map")
    return channels, rows, columns


def _canvas(
    height: int,
    width: int,
    rows: int,
    columns: int,
    *,
    kernel: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
) -> Pair:
    """Size of the map that all kernels fit into, before `padding` is cut off and `rows`, `columns` are kept; with the
    zeros of a padding below nothing in front."""
    high, wide = (
        max((size - 1) * stride[a] + dilation[a] * (kernel[a] - 1) + 1, padding[a] + kept)
        + max(-padding[a], 0)
        for a, (size, kept) in enumerate(((height, rows), (width, columns)))
    )
    return high, wide


def _inside(canvas: Array, padding: Pair) -> Array:
    """A canvas behind the zeros that a padding below nothing puts in front."""
    return canvas[:, :, max(-padding[0], 0) :, max(-padding[1], 0) :]


def _pooled(
    shape: Shape, kernel: Pair, stride: Pair, padding: Pair, dilation: Pair, ceil: bool
) -> Shape:
    """Shape of a pool's output over `shape`; with `ceil`, of all windows that begin before the padding on
    the far side."""
    made = _windowed(shape, shape[0], kernel, stride, padding, dilation)
    if not ceil:
        return made
    rows, columns = (
        made[1 + a]
        + (
            (shape[1 + a] + 2 * padding[a] - dilation[a] * (kernel[a] - 1) - 1) % stride[a] > 0
            and made[1 + a] * stride[a] < shape[1 + a] + padding[a]
        )
        for a in (0, 1)
    )
    return made[0], rows, columns


def _extended(
    x: Array, made: Shape, kernel: Pair, stride: Pair, dilation: Pair, value: float
) -> Array:
    """`x`, padded already, with rows and columns of `value` after it until the windows of `made` fit."""
    more = [
        max((made[1 + a] - 1) * stride[a] + dilation[a] * (kernel[a] - 1) + 1 - x.shape[2 + a], 0)
        for a in (0, 1)
    ]
    if not any(more):
        return x
    return np.pad(x, ((0, 0), (0, 0), (0, more[0]), (0, more[1])), constant_values=value)


def average_pool(
    x: Array,
    *,
    kernel: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair = (1, 1),
    ceil: bool = False,
    count_padding: bool = True,
) -> Array:
    """Mean over each window; padding counts as zeros (PyTorch's count_include_pad), or not at all.

    With `ceil`, a last window may reach beyond the padding; what is there never counts.
    """
    made = _pooled(x.shape[1:], kernel, stride, padding, dilation, ceil)
    padded = _extended(_pad(x, padding), made, kernel, stride, dilation, 0)
    total = np.zeros((len(x), *made), x.dtype)
    for _, _, patch in _patches(padded, made[1], made[2], kernel, stride, dilation):
        total += patch
    total /= _counted(x, made, kernel, stride, padding, dilation, ceil, count_padding)
    return total


def _counted(
    x: Array,
    made: Shape,
    kernel: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair,
    ceil: bool,
    count_padding: bool,
) -> Array:
    """How many values each window of a mean counts, as an array that broadcasts to the means."""
    if count_padding and not ceil:
        return np.asarray(math.prod(kernel), x.dtype)
    ones = np.ones((1, 1, *x.shape[2:]), x.dtype)
    ones = _pad(ones, padding, float(count_padding))
    ones = _extended(ones, made, kernel, stride, dilation, 0)
    count = np.zeros((1, 1, *made[1:]), x.dtype)
    for _, _, patch in _patches(ones, made[1], made[2], kernel, stride, dilation):
        count += patch
    return np.maximum(count, 1)


def average_pool_vjp(
    dy: Array,
    inputs: Sequence[Array],
    y: Array,
    *,
    kernel: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair = (1, 1),
    ceil: bool = False,
    count_padding: bool = True,
) -> tuple[Array]:
    (x,), made = inputs, dy.shape[1:]
    padded = _pad(x, padding)
    dx = np.zeros_like(_extended(padded, made, kernel, stride, dilation, 0))
    share = dy / _counted(x, made, kernel, stride, padding, dilation, ceil, count_padding).astype(
        dy.dtype
    )
    for _, _, patch in _patches(dx, made[1], made[2], kernel, stride, dilation):
        patch += share
    return (_crop(dx[:, :, : padded.shape[2], : padded.shape[3]], padding),)


def average_pool_reads(
    region: Region | None,
    shape: Shape,
    *,
    kernel: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair = (1, 1),
    ceil: bool = False,
    count_padding: bool = True,
) -> Region | None:
    if not _is_local(padding, ceil, count_padding):
        return all_reads(region, shape)
    return layer_reads(
        region, shape, kernel=kernel, stride=stride, padding=padding, dilation=dilation
    )


def average_pool_makes(
    region: Region,
    shape: Shape,
    inputs: Sequence[Shape],
    parameters: Mapping[str, Shape],
    *,
    kernel: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair = (1, 1),
    ceil: bool = False,
    count_padding: bool = True,
) -> Region:
    return region if _is_local(padding, ceil, count_padding) else whole(shape)


def _is_local(padding: Pair, ceil: bool, count_padding: bool) -> bool:
    """Whether all windows count as many values, at the borders as well."""
    return not ceil and (count_padding or not any(padding))


def max_pool(
    x: Array,
    *,
    kernel: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair = (1, 1),
    ceil: bool = False,
) -> Array:
    """Maximum over each window; padding never wins. With `ceil`, a last window may reach beyond the padding."""
    made = _pooled(x.shape[1:], kernel, stride, padding, dilation, ceil)
    padded = _extended(_pad(x, padding, -np.inf), made, kernel, stride, dilation, -np.inf)
    y = np.full((len(x), *made), -np.inf, x.dtype)
    for _, _, patch in _patches(padded, made[1], made[2], kernel, stride, dilation):
        np.maximum(y, patch, out=y)
    return y


def max_pool_vjp(
    dy: Array,
    inputs: Sequence[Array],
    y: Array,
    *,
    kernel: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair = (1, 1),
    ceil: bool = False,
) -> tuple[Array]:
    """The whole cotangent goes to the first maximum of each window, in row-major order."""
    made = dy.shape[1:]
    inner = _pad(inputs[0], padding, -np.inf)
    padded = _extended(inner, made, kernel, stride, dilation, -np.inf)
    dx = np.zeros_like(padded)
    taken = np.zeros(dy.shape, bool)
    sources = _patches(padded, made[1], made[2], kernel, stride, dilation)
    targets = _patches(dx, made[1], made[2], kernel, stride, dilation)
    for (_, _, source), (_, _, target) in zip(sources, targets, strict=True):
        wins = (source == y) & ~taken
        target += dy * wins
        taken |= wins
    return (_crop(dx[:, :, : inner.shape[2], : inner.shape[3]], padding),)


def pool_shape(
    inputs: Sequence[Shape],
    parameters: Mapping[str, Shape],
    *,
    kernel: Pair,
    stride: Pair,
    padding: Pair,
    dilation: Pair = (1, 1),
    ceil: bool = False,
    count_padding: bool = True,
) -> Shape:
    return _pooled(inputs[0], kernel, stride, padding, dilation, ceil)


def global_average_pool(x: Array) -> Array:
    """Mean of each channel over all rows and columns: (N, C, H, W) -> (N, C, 1, 1)."""
    y: Array = x.mean((2, 3), keepdims=True)
    return y


def global_average_pool_vjp(dy: Array, inputs: Sequence[Array], y: Array) -> tuple[Array]:
    (x,) = inputs
    return (np.broadcast_to(dy / dy.dtype.type(math.prod(x.shape[2:])), x.shape),)


def global_max_pool(x: Array) -> Array:
    """Maximum of each channel over all rows and columns: (N, C, H, W) -> (N, C, 1, 1)."""
    y: Array = x.max((2, 3), keepdims=True)
    return y


def global_max_pool_vjp(dy: Array, inputs: Sequence[Array], y: Array) -> tuple[Array]:
    """The whole cotangent goes to the first maximum, in row-major order."""
    (x,) = inputs
    flat = np.zeros((*x.shape[:2], math.prod(x.shape[2:])), dy.dtype)
    first = x.reshape(flat.shape).argmax(2)[..., None]
    np.put_along_axis(flat, first, dy.reshape(*x.shape[:2], 1), 2)
    return (flat.reshape(x.shape),)


def global_pool_shape(inputs: Sequence[Shape], parameters: Mapping[str, Shape]) -> Shape:
    if len(inputs[0]) != 3:
        raise ShapeError(f"a map is pooled, (channels, rows, columns), not {inputs[0]}")
    return inputs[0][0], 1, 1


#: {name: operation}, all that this file defines.
OPS: Mapping[str, Op] = {
    "conv": Op(conv, conv_shape, conv_vjp),
    "conv_transpose": Op(
        conv_transpose,
        conv_transpose_shape,
        conv_transpose_vjp,
        field=conv_transpose_field,
        reads=all_reads,
        makes=all_makes,
    ),
    "average_pool": Op(
        average_pool,
        pool_shape,
        average_pool_vjp,
        reads=average_pool_reads,
        makes=average_pool_makes,
    ),
    "max_pool": Op(
        max_pool,
        pool_shape,
        max_pool_vjp,
        opened=average_pool_vjp,
        outside=-math.inf,
    ),
    "global_average_pool": Op(
        global_average_pool,
        global_pool_shape,
        global_average_pool_vjp,
        field=flattened_field,
        reads=all_reads,
    ),
    "global_max_pool": Op(
        global_max_pool,
        global_pool_shape,
        global_max_pool_vjp,
        opened=global_average_pool_vjp,
        field=flattened_field,
        reads=all_reads,
    ),
}
