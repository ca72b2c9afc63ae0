"""Images in other sizes, and apart by channels: by OpenCV, or where that is missing by the same arithmetic in NumPy.

OpenCV resizes bytes in integers (linear) and single precision (averages); what is here has the same bits and takes
several times as long. So networks find the same with either, but for faces that are turned upright first (`warp`).
"""

from __future__ import annotations

from functools import cache
from types import ModuleType

import numpy as np

from refnet.arrays import Array, Pair
from refnet.errors import DependencyError
from refnet.media.images import opencv

#: OpenCV's weights of linear sampling are whole 2048ths.
_ONE = 2048


def resize(
    image: Array, size: Pair | None = None, *, scale: float = 1.0, averaged: bool = False
) -> Array:
    """`image` (H, W, C) uint8 in another size, as `cv2.resize` makes it.

    Args:
        size: (width, height) of the result; without it, `scale` times that of the image, rounded.
        scale: of both sides.
        averaged: each pixel is the average of those in its place, for images that become smaller;
            otherwise it is sampled linearly between four.
    """
    cv2 = _opencv()
    if cv2 is None:
        return _resize(image, size, scale, averaged)
    method = cv2.INTER_AREA if averaged else cv2.INTER_LINEAR
    factors = {"fx": scale, "fy": scale} if size is None else {}
    return np.asarray(cv2.resize(image, size or (0, 0), interpolation=method, **factors))


def warp(image: Array, matrix: Array, size: Pair) -> Array:
    """`image` (H, W, C) uint8 as seen through an affine map, black outside, sampled linearly.

    As `cv2.warpAffine`, whose arithmetic differs between its versions; without OpenCV values are those of
    OpenCV 5 but for about one in ten thousand, which differs by one.

    Args:
        matrix: (2, 3), from (x, y, 1) of the result to x and y in the image.
        size: (width, height) of the result.
    """
    cv2 = _opencv()
    if cv2 is None:
        return _warp(image, matrix, size)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(image, matrix, size, flags=flags))


def planes(image: Array) -> list[Array]:
    """The channels of `image` (H, W, C) uint8, each (H, W)."""
    cv2 = _opencv()
    # Taken apart by OpenCV they lie in one piece each, from which NumPy makes floats in half of the time.
    return list(image.transpose(2, 0, 1) if cv2 is None else cv2.split(image))


def _warp(image: Array, matrix: Array, size: Pair) -> Array:
    y, x = np.mgrid[: size[1], : size[0]]
    place = matrix[:, :2] @ np.stack([x.ravel(), y.ravel()]) + matrix[:, 2:]
    # Between the edge and the black around it, values are sampled like others; further out all is black.
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)))
    limits = np.array(padded.shape[1::-1], np.float64)[:, None] - 1
    place = np.clip(place + 1, 0, limits)
    first = np.minimum(np.floor(place), limits - 1).astype(np.int64)
    (right, down), (column, row) = (place - first)[:, :, None], first
    upper = padded[row, column] * (1 - right) + padded[row, column + 1] * right
    lower = padded[row + 1, column] * (1 - right) + padded[row + 1, column + 1] * right
    made: Array = np.rint(upper * (1 - down) + lower * down)
    return made.astype(np.uint8).reshape(size[1], size[0], -1)


@cache
def _opencv() -> ModuleType | None:
    """OpenCV; None where it cannot be imported, which is tried once."""
    try:
        return opencv()
    except DependencyError:
        return None


def _resize(image: Array, size: Pair | None, scale: float, averaged: bool) -> Array:
    sides = image.shape[:2]
    if size is None:
        made, factors = [max(1, round(side * scale)) for side in sides], (1 / scale, 1 / scale)
    else:
        made = [size[1], size[0]]
        factors = (1 / (size[1] / sides[0]), 1 / (size[0] / sides[1]))
    if tuple(made) == sides:
        return image.copy()
    whole = [round(factor) for factor in factors]
    if all(abs(a - b) < np.finfo(float).eps for a, b in zip(factors, whole, strict=True)):
        if averaged or whole == [2, 2]:  # which is what linear sampling comes to
            return _averaged_blocks(image, made, whole)
    elif averaged:
        return _averaged(image, made, factors)
    return _linear(image, made, factors)


def _linear(image: Array, made: list[int], factors: tuple[float, float]) -> Array:
    y0, y1, a0, a1 = _between(image.shape[0], made[0], factors[0], False)
    x0, x1, b0, b1 = _between(image.shape[1], made[1], factors[1], True)
    pixels = image.astype(np.int32)
    rows = (pixels[:, x0] * b0[:, None] + pixels[:, x1] * b1[:, None]) >> 4
    upper = (rows[y0] * a0[:, None, None]) >> 16
    lower = (rows[y1] * a1[:, None, None]) >> 16
    return ((upper + lower + 2) >> 2).astype(np.uint8)


def _between(side: int, made: int, factor: float, edges: bool) -> tuple[Array, Array, Array, Array]:
    """Of every pixel along a side of the result, the two of the image that it lies between, and their weights.

    Args:
        edges: beyond the middles of the outermost pixels these count alone.
    """
    place = ((np.arange(made) + 0.5) * factor - 0.5).astype(np.float32)
    first = np.floor(place).astype(np.int64)
    share = (place - first).astype(np.float32)
    if edges:
        share[(first < 0) | (first >= side - 1)] = 0
        first = first.clip(0, side - 1)
    weights = [np.rint(w * _ONE).astype(np.int32) for w in (np.float32(1) - share, share)]
    return first.clip(0, side - 1), (first + 1).clip(0, side - 1), weights[0], weights[1]


def _averaged_blocks(image: Array, made: list[int], block: list[int]) -> Array:
    """The averages of blocks of whole pixels; those at the lower and right edge may be cut."""
    sums: Array = image.astype(np.int32)
    counts: Array = np.ones(1, np.int64)
    for axis in (0, 1):
        starts = np.arange(made[axis]) * block[axis]
        ends = np.minimum(starts + block[axis], image.shape[axis])
        sums = np.add.reduceat(sums.take(np.arange(ends[-1]), axis), starts, axis)
        counts = counts[..., None] * (ends - starts)
    counts = counts.reshape(made)[:, :, None]
    if block == [2, 2]:
        whole = (sums + 2) >> 2
    else:
        whole = np.rint(sums.astype(np.float32) * np.float32(1 / np.prod(block)))
    cut = np.rint(sums.astype(np.float32) / counts.astype(np.float32))
    return np.where(counts == np.prod(block), whole, cut).astype(np.uint8)


def _averaged(image: Array, made: list[int], factors: tuple[float, float]) -> Array:
    """The averages of areas that begin and end within pixels, which count by their shares."""
    found: Array = image.astype(np.float32)
    for axis in (1, 0):
        # In OpenCV's order: along the rows first, and from left to right, since sums are rounded.
        total: Array = np.zeros(1, np.float32)
        for at, share in _shares(image.shape[axis], made[axis], factors[axis]):
            total = total + found.take(at, axis) * (
                share[:, None] if axis else share[:, None, None]
            )
        found = total
    return np.rint(found).clip(0, 255).astype(np.uint8)


def _shares(side: int, made: int, factor: float) -> list[tuple[Array, Array]]:
    """The pixels that become one of the result, and their shares: of all the first ones, all the second ones, and so
    on, with the share 0 where there is none."""
    start = np.arange(made) * factor
    end, extent = start + factor, np.minimum(factor, side - start)
    last = np.minimum(np.floor(end).astype(np.int64), side - 1)
    first = np.minimum(np.ceil(start).astype(np.int64), last)
    before, after = first - start, end - last
    terms = [(first - 1, np.where(before > 1e-3, before / extent, 0))]
    for i in range(int((last - first).max())):
        terms.append((first + i, np.where(first + i < last, 1 / extent, 0)))
    terms.append(
        (last, np.where(after > 1e-3, np.minimum(np.minimum(after, 1), extent) / extent, 0))
    )
    return [(at.clip(0, side - 1), share.astype(np.float32)) for at, share in terms]
