"""Square crops of faces.

A face's crop is a square about the middle of its box, its side the box's longer side times a margin,
black outside the image, resized bilinearly. It may be turned about its middle, with a head that leans.
"""

from __future__ import annotations

import math

import numpy as np

from refnet.arrays import Array
from refnet.errors import ShapeError
from refnet.media.resize import resize, warp

#: A crop may reach this many times the image's longer side beyond what is useful; a larger box is an
#: error of its maker, and would only fill memory with black.
LARGEST_CROP = 4


def square_crop(box: Array, margin: float = 1.0) -> tuple[int, int, int]:
    """(x0, y0, side) of the square about the middle of `box` (xyxy), in whole pixels."""
    x1, y1, x2, y2 = map(float, box)
    side = max(1, math.floor(max(x2 - x1, y2 - y1) * margin + 0.5))
    return math.floor((x1 + x2 - side) / 2), math.floor((y1 + y2 - side) / 2), side


def turned(turns: Array) -> Array:
    """(..., 2, 2) float64: the rotations by `turns` (...), degrees clockwise as seen, of x and y with y down."""
    angles = np.radians(np.asarray(turns, np.float64))
    c, s = np.cos(angles), np.sin(angles)
    return np.asarray(np.stack([np.stack([c, -s], -1), np.stack([s, c], -1)], -2))


def in_image(fractions: Array, crops: Array, turns: Array) -> Array:
    """Points (F, K, 2), fractions of crops (F, 3) turned by `turns` (F,) degrees, in image pixels."""
    straight = crops[:, None, :2] + fractions * crops[:, None, 2:]
    if not turns.any():
        return np.asarray(straight, np.float32)
    middles = (crops[:, :2] + crops[:, 2:] / 2)[:, None]
    about = middles + (straight - middles) @ turned(turns).swapaxes(1, 2)
    return np.asarray(np.where((turns == 0)[:, None, None], straight, about), np.float32)


def crops_about(points: Array, turns: Array, margin: float) -> Array:
    """(F, 3) the square crops, turned by `turns` (F,) degrees, about points (F, K, 2).

    The side is the longer side of the box about the points as the crop sees them, times `margin`.
    """
    seen = points @ turned(turns) if turns.any() else points
    low, high = seen.min(axis=1), seen.max(axis=1)
    half = np.where((turns != 0)[:, None], (high - low).max(axis=1, keepdims=True), high - low) / 2
    middle = (low + high) / 2
    if turns.any():
        back = (turned(turns) @ middle[..., None])[..., 0]
        middle = np.where((turns == 0)[:, None], middle, back)
    boxes = np.concatenate([low, high], axis=1)
    boxes = np.where(
        (turns == 0)[:, None], boxes, np.concatenate([middle - half, middle + half], axis=1)
    )
    return np.array([square_crop(box, margin) for box in boxes], np.int64).reshape(-1, 3)


def cut(image: Array, crop: tuple[int, int, int] | Array, size: int, turn: float = 0.0) -> Array:
    """The square `crop` (x0, y0, side) of `image`, black outside, as uint8 (size, size, 3).

    Args:
        turn: degrees clockwise, as seen, by which the crop is turned about its middle; a head that leans
            by as much stands upright in it.

    Raises:
        ShapeError: the crop is far larger than the image.
    """
    x0, y0, side = map(int, crop)
    height, width = image.shape[:2]
    if side > LARGEST_CROP * max(height, width):
        raise ShapeError(
            f"a crop of {side} pixels is more than {LARGEST_CROP} times the {width}×{height} image; are "
            "the boxes in pixels of this image?"
        )
    if turn:
        return _cut_turned(image, (x0, y0, side), size, turn)
    left, top = max(x0, 0), max(y0, 0)
    right, bottom = min(x0 + side, width), min(y0 + side, height)
    if right - left == bottom - top == side:
        region = image[top:bottom, left:right]
    else:
        region = np.zeros((side, side, 3), np.uint8)
        if right > left and bottom > top:
            region[top - y0 : bottom - y0, left - x0 : right - x0] = image[top:bottom, left:right]
    return region if side == size else resize(region, (size, size))


def _cut_turned(image: Array, crop: tuple[int, int, int], size: int, turn: float) -> Array:
    """The same of a crop that is turned."""
    x0, y0, side = crop
    matrix = turned(np.array(turn)) * (side / size)
    # Pixel i covers i to i + 1, so that its middle is at i + 0.5.
    middle = np.array([x0 + side / 2, y0 + side / 2])
    shift = middle - matrix @ np.full(2, size / 2 - 0.5) - 0.5
    return warp(image, np.concatenate([matrix, shift[:, None]], axis=1), (size, size))
