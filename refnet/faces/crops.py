"""Square crops of faces.

A face's crop is a square about the middle of its box, its side the box's longer side times a margin,
black outside the image, resized bilinearly.
"""

from __future__ import annotations

import math

import numpy as np

from refnet.arrays import Array
from refnet.errors import ShapeError
from refnet.media.images import opencv

#: A crop may reach this many times the image's longer side beyond what is useful; a larger box is an
#: error of its maker, and would only fill memory with black.
LARGEST_CROP = 4


def square_crop(box: Array, margin: float = 1.0) -> tuple[int, int, int]:
    """(x0, y0, side) of the square about the middle of `box` (xyxy), in whole pixels."""
    x1, y1, x2, y2 = map(float, box)
    side = max(1, math.floor(max(x2 - x1, y2 - y1) * margin + 0.5))
    return math.floor((x1 + x2 - side) / 2), math.floor((y1 + y2 - side) / 2), side


def cut(image: Array, crop: tuple[int, int, int] | Array, size: int) -> Array:
    """The square `crop` (x0, y0, side) of `image`, black outside, as uint8 (size, size, 3).

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
    region = np.zeros((side, side, 3), np.uint8)
    left, top = max(x0, 0), max(y0, 0)
    right, bottom = min(x0 + side, width), min(y0 + side, height)
    if right > left and bottom > top:
        region[top - y0 : bottom - y0, left - x0 : right - x0] = image[top:bottom, left:right]
    if side == size:
        return region
    cv2 = opencv()
    return np.asarray(cv2.resize(region, (size, size), interpolation=cv2.INTER_LINEAR))
