"""Faces made unrecognisable: blurred, in coarse squares, or covered."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from refnet.arrays import Array
from refnet.errors import OptionError
from refnet.media.images import opencv

METHODS = ("blur", "pixelate", "solid")
SHAPES = ("ellipse", "box")

#: Squares along the longer side of a pixelated face.
SQUARES = 8


def hidden(
    image: Array, boxes: Iterable[Array], *, method: str, shape: str, margin: float
) -> Array:
    """A copy of `image` (H, W, 3) uint8 in which every box is hidden.

    Args:
        boxes: (4,) each, xyxy in image pixels; may leave the image.
        method: "blur", "pixelate" in 8 squares along the longer side, or "solid" black.
        shape: "ellipse" or "box".
        margin: share of a box's width and height by which it grows on each side.

    Raises:
        OptionError: an argument is out of range.
    """
    if method not in METHODS:
        raise OptionError(f"method is one of {', '.join(METHODS)}, not {method!r}")
    if shape not in SHAPES:
        raise OptionError(f"shape is one of {', '.join(SHAPES)}, not {shape!r}")
    canvas = image.copy()
    for box in boxes:
        x1, y1, x2, y2 = grown(box, margin, image.shape)
        if x2 <= x1 or y2 <= y1:
            continue
        region = canvas[y1:y2, x1:x2]
        covered = _covered(region, method)
        if shape == "ellipse":
            inside = _ellipse(np.asarray(box, np.float64), margin, (x1, y1, x2, y2))
            covered = np.where(inside[:, :, None], covered, region)
        canvas[y1:y2, x1:x2] = covered
    return canvas


def grown(box: Array, margin: float, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """`box` grown by `margin` of its width and height on each side, in whole pixels inside the image.

    Raises:
        OptionError: the margin is negative or no number.
    """
    if not isinstance(margin, int | float) or not 0 <= margin <= 10:
        raise OptionError(f"margin is a share of the box from 0 to 10, not {margin!r}")
    x1, y1, x2, y2 = map(float, box)
    dx, dy = margin * (x2 - x1), margin * (y2 - y1)
    height, width = shape[:2]
    left, top = max(0, int(np.floor(x1 - dx))), max(0, int(np.floor(y1 - dy)))
    return left, top, min(width, int(np.ceil(x2 + dx))), min(height, int(np.ceil(y2 + dy)))


def _covered(region: Array, method: str) -> Array:
    """What stands in the place of `region`."""
    if method == "solid":
        return np.zeros_like(region)
    cv2 = opencv()
    height, width = region.shape[:2]
    step = max(height, width) / SQUARES
    coarse = (max(1, round(width / step)), max(1, round(height / step)))
    small = cv2.resize(region, coarse, interpolation=cv2.INTER_AREA)
    # Either way no more is left of a face than its few squares: a mere blur could be undone.
    smooth = cv2.INTER_NEAREST if method == "pixelate" else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(small, (width, height), interpolation=smooth))


def _ellipse(box: Array, margin: float, bounds: tuple[int, int, int, int]) -> Array:
    """(H, W) bool of the pixels in `bounds` inside the ellipse that fills the grown box."""
    x1, y1, x2, y2 = bounds
    middle, radii = (box[:2] + box[2:]) / 2, (box[2:] - box[:2]) * (0.5 + margin)
    x = (np.arange(x1, x2) + 0.5 - middle[0]) / radii[0]
    y = (np.arange(y1, y2) + 0.5 - middle[1]) / radii[1]
    return np.asarray(x[None] ** 2 + y[:, None] ** 2 <= 1)
