"""Operations that move values and change none: orders of axes, shapes, parts, borders, larger grids.

See `refnet.ops` for the legend. Axes are those of the batched array, so that axis 0 is the batch's and stays first;
shapes are those of one image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from refnet.arrays import Array, Pair, Shape
from refnet.errors import ShapeError
from refnet.operation import Op
from refnet.receptive import (
    ReceptiveField,
    Region,
    all_makes,
    all_reads,
    layer_reads,
    moved_field,
    scaled_field,
    whole,
)

#: Before and after, along every axis of one image.
Widths = tuple[tuple[int, int], ...]


def transpose(x: Array, *, order: tuple[int, ...]) -> Array:
    """The axes of `x` in another order, the batch axis first: `order` begins with 0."""
    return x.transpose(order)


def transpose_shape(
    inputs: Sequence[Shape], parameters: Mapping[str, Shape], *, order: tuple[int, ...]
) -> Shape:
    (shape,) = inputs
    if sorted(order) != list(range(len(shape) + 1)) or order[0] != 0:
        raise ShapeError(f"{order} is no order of the axes of (N, {', '.join(map(str, shape))})")
    return tuple(shape[axis - 1] for axis in order[1:])


def transpose_vjp(
    dy: Array, inputs: Sequence[Array], y: Array, *, order: tuple[int, ...]
) -> tuple[Array]:
    return (dy.transpose(np.argsort(order)),)


def list_field(
    inputs: Sequence[ReceptiveField], shapes: Sequence[Shape], **attributes: Any
) -> ReceptiveField | None:
    """That of the input's units, for one that is a list; a map in another order has no rows and columns."""
    return None if len(shapes[0]) == 3 else inputs[0]


def reshape(x: Array, *, shape: Shape) -> Array:
    """Every image of `x` in another shape, one size of which may be -1: what remains."""
    return x.reshape(len(x), *_whole(shape, x.shape[1:]))


def reshape_shape(
    inputs: Sequence[Shape], parameters: Mapping[str, Shape], *, shape: Shape
) -> Shape:
    return _whole(shape, inputs[0])


def reshape_vjp(dy: Array, inputs: Sequence[Array], y: Array, **attributes: Any) -> tuple[Array]:
    return (dy.reshape(inputs[0].shape),)


def _whole(shape: Shape, source: Shape) -> Shape:
    """`shape` with -1 replaced by what is left of `source`."""
    total, known = math.prod(source), math.prod(size for size in shape if size != -1)
    if shape.count(-1) == 1 and known > 0 and total % known == 0:
        shape = tuple(total // known if size == -1 else size for size in shape)
    if math.prod(shape) != total or min(shape, default=0) < 0:
        raise ShapeError(f"{source} cannot be reshaped to {shape}")
    return shape


def take(x: Array, *, axis: int, start: int, stop: int | None, step: int) -> Array:
    """x[start:stop:step] along `axis`, with Python's meaning of negative numbers; None is the end."""
    return x[_index(axis, start, stop, step)]


def take_shape(
    inputs: Sequence[Shape],
    parameters: Mapping[str, Shape],
    *,
    axis: int,
    start: int,
    stop: int | None,
    step: int,
) -> Shape:
    (shape,) = inputs
    if not 1 <= axis <= len(shape) or step == 0:
        raise ShapeError(f"nothing can be taken along axis {axis} of {shape} in steps of {step}")
    size = len(range(*slice(start, stop, step).indices(shape[axis - 1])))
    if size == 0:
        raise ShapeError(f"{start}:{stop}:{step} takes nothing of {shape} along axis {axis}")
    return (*shape[: axis - 1], size, *shape[axis:])


def take_vjp(
    dy: Array,
    inputs: Sequence[Array],
    y: Array,
    *,
    axis: int,
    start: int,
    stop: int | None,
    step: int,
) -> tuple[Array]:
    dx = np.zeros(inputs[0].shape, dy.dtype)
    dx[_index(axis, start, stop, step)] = dy
    return (dx,)


def take_field(
    inputs: Sequence[ReceptiveField],
    shapes: Sequence[Shape],
    *,
    axis: int,
    start: int,
    stop: int | None,
    step: int,
) -> ReceptiveField | None:
    (seen,), (shape,) = inputs, shapes
    if axis == 1 or len(shape) != 3:
        return seen
    if step < 0:  # mirrored: units go one way, pixels the other
        return None
    first = range(*slice(start, stop, step).indices(shape[axis - 1])).start
    rows = axis == 2
    return moved_field(seen, (first, 0) if rows else (0, first), (step, 1) if rows else (1, step))


def take_reads(
    region: Region | None, shape: Shape, *, axis: int, start: int, stop: int | None, step: int
) -> Region | None:
    return layer_reads(region, shape) if axis == 1 else all_reads(region, shape)


def take_makes(
    region: Region,
    shape: Shape,
    inputs: Sequence[Shape],
    parameters: Mapping[str, Shape],
    *,
    axis: int,
    start: int,
    stop: int | None,
    step: int,
) -> Region:
    return region if axis == 1 else whole(shape)


def _index(axis: int, start: int, stop: int | None, step: int) -> tuple[slice, ...]:
    return (*[slice(None)] * axis, slice(start, stop, step))


def pad(x: Array, *, widths: Widths, mode: str, value: float) -> Array:
    """`x` with a border: `widths` gives (before, after) along every axis of one image.

    The border holds `value` with mode "constant", the nearest value with "edge", the image mirrored at its
    outermost values with "reflect".
    """
    if mode == "constant":
        return np.pad(x, ((0, 0), *widths), constant_values=value)
    if mode == "edge":
        return np.pad(x, ((0, 0), *widths), mode="edge")
    return np.pad(x, ((0, 0), *widths), mode="reflect")


def pad_shape(
    inputs: Sequence[Shape],
    parameters: Mapping[str, Shape],
    *,
    widths: Widths,
    mode: str,
    value: float,
) -> Shape:
    (shape,) = inputs
    fits = len(widths) == len(shape) and all(min(pair) >= 0 for pair in widths)
    if not fits or mode not in ("constant", "edge", "reflect"):
        raise ShapeError(f"{shape} cannot be padded by {widths} with mode {mode!r}")
    if mode == "reflect" and any(
        max(pair) >= size for pair, size in zip(widths, shape, strict=True)
    ):
        raise ShapeError(f"{shape} is too small to be mirrored by {widths}")
    return tuple(size + sum(pair) for size, pair in zip(shape, widths, strict=True))


def pad_vjp(
    dy: Array, inputs: Sequence[Array], y: Array, *, widths: Widths, mode: str, value: float
) -> tuple[Array]:
    """Every value gets the sum over the places that it was copied to."""
    dx = dy
    for axis, ((before, after), size) in enumerate(
        zip(widths, inputs[0].shape[1:], strict=True), 1
    ):
        if not before and not after:
            continue
        inner = np.take(dx, range(before, before + size), axis)
        if mode != "constant":
            target = np.moveaxis(inner, axis, 0)
            source = np.moveaxis(dx, axis, 0)
            for i in range(before):
                target[0 if mode == "edge" else before - i] += source[i]
            for i in range(after):
                target[size - 1 if mode == "edge" else size - 2 - i] += source[before + size + i]
        dx = inner
    return (dx,)


def pad_field(
    inputs: Sequence[ReceptiveField],
    shapes: Sequence[Shape],
    *,
    widths: Widths,
    mode: str,
    value: float,
) -> ReceptiveField | None:
    if len(shapes[0]) != 3:
        return inputs[0]
    return moved_field(inputs[0], (-widths[1][0], -widths[2][0]), (1, 1))


def pad_reads(
    region: Region | None, shape: Shape, *, widths: Widths, mode: str, value: float
) -> Region | None:
    """With a border of zeros, the region beyond the map too: what is there is zero as well."""
    if len(shape) != 3 or region is None or not _of_zeros(mode, value):
        return all_reads(region, shape)
    top, left = widths[1][0], widths[2][0]
    return Region(region.top - top, region.bottom - top, region.left - left, region.right - left)


def pad_makes(
    region: Region,
    shape: Shape,
    inputs: Sequence[Shape],
    parameters: Mapping[str, Shape],
    *,
    widths: Widths,
    mode: str,
    value: float,
) -> Region:
    return region if _of_zeros(mode, value) else whole(shape)


def _of_zeros(mode: str, value: float) -> bool:
    return mode == "constant" and value == 0


def depth_to_space(x: Array, *, block: int, depth_first: bool) -> Array:
    """(N, C·b², H, W) -> (N, C, H·b, W·b): every b² channels become a b × b square of pixels.

    With `depth_first` the channel is b·row + column of the square, times C, plus the new channel (ONNX's
    DCR); else the new channel times b², plus b·row + column (CRD, PyTorch's pixel shuffle).
    """
    n, c, h, w = x.shape
    if depth_first:
        y = x.reshape(n, block, block, c // block**2, h, w).transpose(0, 3, 4, 1, 5, 2)
    else:
        y = x.reshape(n, c // block**2, block, block, h, w).transpose(0, 1, 4, 2, 5, 3)
    return y.reshape(n, c // block**2, h * block, w * block)


def depth_to_space_shape(
    inputs: Sequence[Shape], parameters: Mapping[str, Shape], *, block: int, depth_first: bool
) -> Shape:
    (shape,) = inputs
    if len(shape) != 3 or block < 1 or shape[0] % block**2:
        raise ShapeError(f"{shape} has no channels for {block} × {block} squares")
    return shape[0] // block**2, shape[1] * block, shape[2] * block


def depth_to_space_vjp(
    dy: Array, inputs: Sequence[Array], y: Array, *, block: int, depth_first: bool
) -> tuple[Array]:
    return (space_to_depth(dy, block=block, depth_first=depth_first),)


def depth_to_space_field(
    inputs: Sequence[ReceptiveField], shapes: Sequence[Shape], *, block: int, depth_first: bool
) -> ReceptiveField | None:
    return upsample_field(inputs, shapes, factor=(block, block))


def depth_to_space_reads(
    region: Region | None, shape: Shape, *, block: int, depth_first: bool
) -> Region | None:
    return upsample_reads(region, shape, factor=(block, block))


def depth_to_space_makes(
    region: Region,
    shape: Shape,
    inputs: Sequence[Shape],
    parameters: Mapping[str, Shape],
    *,
    block: int,
    depth_first: bool,
) -> Region:
    return upsample_makes(region, shape, inputs, parameters, factor=(block, block))


def space_to_depth(x: Array, *, block: int, depth_first: bool) -> Array:
    """The inverse of `depth_to_space`: (N, C, H, W) -> (N, C·b², H / b, W / b)."""
    n, c, h, w = x.shape
    squares = x.reshape(n, c, h // block, block, w // block, block)
    order = (0, 3, 5, 1, 2, 4) if depth_first else (0, 1, 3, 5, 2, 4)
    return squares.transpose(order).reshape(n, c * block**2, h // block, w // block)


def space_to_depth_shape(
    inputs: Sequence[Shape], parameters: Mapping[str, Shape], *, block: int, depth_first: bool
) -> Shape:
    (shape,) = inputs
    if len(shape) != 3 or block < 1 or shape[1] % block or shape[2] % block:
        raise ShapeError(f"{shape} cannot be cut into {block} × {block} squares")
    return shape[0] * block**2, shape[1] // block, shape[2] // block


def space_to_depth_vjp(
    dy: Array, inputs: Sequence[Array], y: Array, *, block: int, depth_first: bool
) -> tuple[Array]:
    return (depth_to_space(dy, block=block, depth_first=depth_first),)


def space_to_depth_field(
    inputs: Sequence[ReceptiveField], shapes: Sequence[Shape], *, block: int, depth_first: bool
) -> ReceptiveField | None:
    """That of a window of `block` by `block` units."""
    (seen,) = inputs
    rows, columns = (axis.window(block, block, 0, 1) for axis in (seen.rows, seen.columns))
    return replace(seen, rows=rows, columns=columns)


def space_to_depth_reads(
    region: Region | None, shape: Shape, *, block: int, depth_first: bool
) -> Region | None:
    return layer_reads(region, shape, kernel=(block, block), stride=(block, block))


def shuffle(x: Array, *, groups: int) -> Array:
    """The channels of `groups` groups, taken in turn from each (Zhang et al. 2018, §3.1)."""
    n, c, h, w = x.shape
    return x.reshape(n, groups, c // groups, h, w).swapaxes(1, 2).reshape(x.shape)


def shuffle_shape(
    inputs: Sequence[Shape], parameters: Mapping[str, Shape], *, groups: int
) -> Shape:
    (shape,) = inputs
    if len(shape) != 3 or groups < 1 or shape[0] % groups:
        raise ShapeError(f"{shape} has no channels in {groups} groups")
    return shape


def shuffle_vjp(dy: Array, inputs: Sequence[Array], y: Array, *, groups: int) -> tuple[Array]:
    return (shuffle(dy, groups=dy.shape[1] // groups),)


def upsample(x: Array, *, factor: Pair) -> Array:
    """Nearest neighbour: every value becomes `factor` rows by columns of itself."""
    return x.repeat(factor[0], 2).repeat(factor[1], 3)


def upsample_shape(
    inputs: Sequence[Shape], parameters: Mapping[str, Shape], *, factor: Pair
) -> Shape:
    (shape,) = inputs
    if len(shape) != 3 or min(factor) < 1:
        raise ShapeError(
            f"upsampling takes a map (C, H, W) and whole factors from 1 on, not {shape} and {factor}"
        )
    return shape[0], shape[1] * factor[0], shape[2] * factor[1]


def upsample_vjp(dy: Array, inputs: Sequence[Array], y: Array, *, factor: Pair) -> tuple[Array]:
    n, c, h, w = inputs[0].shape
    return (dy.reshape(n, c, h, factor[0], w, factor[1]).sum((3, 5)),)


def upsample_field(
    inputs: Sequence[ReceptiveField], shapes: Sequence[Shape], *, factor: Pair
) -> ReceptiveField | None:
    """Unit u sees what unit ⌊u / factor⌋ of the input sees."""
    rows, columns = ((1 - f, 0) for f in factor)
    return scaled_field(inputs[0], factor, (rows, columns))


def upsample_reads(region: Region | None, shape: Shape, *, factor: Pair) -> Region | None:
    if region is None or len(shape) != 3:
        return all_reads(region, shape)
    return Region(
        region.top // factor[0],
        -(-region.bottom // factor[0]),
        region.left // factor[1],
        -(-region.right // factor[1]),
    )


def upsample_makes(
    region: Region,
    shape: Shape,
    inputs: Sequence[Shape],
    parameters: Mapping[str, Shape],
    *,
    factor: Pair,
) -> Region:
    """Whole squares of copies."""
    return Region(
        region.top // factor[0] * factor[0],
        -(-region.bottom // factor[0]) * factor[0],
        region.left // factor[1] * factor[1],
        -(-region.right // factor[1]) * factor[1],
    )


def upsample_linear(x: Array, *, factor: Pair, coordinates: str) -> Array:
    """Bilinear interpolation to `factor` times the rows and columns.

    Output pixel i lies at (i + 1/2) / f - 1/2 of the input with coordinates "half_pixel", at i / f with
    "asymmetric", and at i (H - 1) / (H f - 1) with "align_corners"; beyond the outermost pixels the
    value is theirs.
    """
    rows, columns = _interpolations(x, factor, coordinates)
    y: Array = rows @ x @ columns.T
    return y


def upsample_linear_shape(
    inputs: Sequence[Shape], parameters: Mapping[str, Shape], *, factor: Pair, coordinates: str
) -> Shape:
    if coordinates not in ("half_pixel", "asymmetric", "align_corners"):
        raise ShapeError(f"{coordinates!r} is no way to place pixels")
    return upsample_shape(inputs, parameters, factor=factor)


def upsample_linear_vjp(
    dy: Array, inputs: Sequence[Array], y: Array, *, factor: Pair, coordinates: str
) -> tuple[Array]:
    rows, columns = _interpolations(inputs[0], factor, coordinates)
    return (rows.T @ dy @ columns,)


def upsample_linear_field(
    inputs: Sequence[ReceptiveField], shapes: Sequence[Shape], *, factor: Pair, coordinates: str
) -> ReceptiveField | None:
    """Unit u sees what two units of the input see; None with aligned corners, whose distance is no constant."""
    if coordinates == "align_corners":
        return None
    # In numerators over 2 f: unit u lies at (2 u + 1 - f) / 2 f with half pixels, else at 2 u / 2 f.
    shifts = [1 - f if coordinates == "half_pixel" else 0 for f in factor]
    rows, columns = (
        (
            min((2 * u + a) // (2 * f) * f - u for u in range(f)),
            max(-(-(2 * u + a) // (2 * f)) * f - u for u in range(f)),
        )
        for f, a in zip(factor, shifts, strict=True)
    )
    return scaled_field(inputs[0], factor, (rows, columns))


def _interpolations(x: Array, factor: Pair, coordinates: str) -> tuple[Array, Array]:
    """The matrices (outputs, inputs) that interpolate rows and columns."""
    rows, columns = (
        _interpolation(size, f, coordinates).astype(x.dtype)
        for size, f in zip(x.shape[2:], factor, strict=True)
    )
    return rows, columns


def _interpolation(size: int, factor: int, coordinates: str) -> Array:
    at = np.arange(size * factor, dtype=np.float64)
    if coordinates == "half_pixel":
        at = (at + 0.5) / factor - 0.5
    elif coordinates == "asymmetric":
        at = at / factor
    else:
        at = at * (size - 1) / max(size * factor - 1, 1)
    at = np.clip(at, 0, size - 1)
    low = np.floor(at).astype(np.int64)
    high, output = np.minimum(low + 1, size - 1), np.arange(len(at))
    matrix = np.zeros((len(at), size))
    matrix[output, low] += 1 - (at - low)
    matrix[output, high] += at - low
    return matrix


#: {name: operation}, all that this file defines.
OPS: Mapping[str, Op] = {
    "transpose": Op(
        transpose,
        transpose_shape,
        transpose_vjp,
        field=list_field,
        reads=all_reads,
        makes=all_makes,
    ),
    "reshape": Op(
        reshape,
        reshape_shape,
        reshape_vjp,
        field=list_field,
        reads=all_reads,
        makes=all_makes,
    ),
    "take": Op(
        take,
        take_shape,
        take_vjp,
        field=take_field,
        reads=take_reads,
        makes=take_makes,
    ),
    "pad": Op(
        pad,
        pad_shape,
        pad_vjp,
        field=pad_field,
        reads=pad_reads,
        makes=pad_makes,
    ),
    "depth_to_space": Op(
        depth_to_space,
        depth_to_space_shape,
        depth_to_space_vjp,
        field=depth_to_space_field,
        reads=depth_to_space_reads,
        makes=depth_to_space_makes,
    ),
    "space_to_depth": Op(
        space_to_depth,
        space_to_depth_shape,
        space_to_depth_vjp,
        field=space_to_depth_field,
        reads=space_to_depth_reads,
    ),
    "shuffle": Op(shuffle, shuffle_shape, shuffle_vjp),
    "upsample": Op(
        upsample,
        upsample_shape,
        upsample_vjp,
        field=upsample_field,
        reads=upsample_reads,
        makes=upsample_makes,
    ),
    "upsample_linear": Op(
        upsample_linear,
        upsample_linear_shape,
        upsample_linear_vjp,
        field=upsample_linear_field,
        reads=all_reads,
        makes=all_makes,
    ),
}
