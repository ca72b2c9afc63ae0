"""Boxes as continuous rectangles: x1, y1, x2, y2 in pixels.

Non-maximum suppression has measures of overlap of its own; see `refnet.detection.nms`.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from refnet.arrays import Array


def area(boxes: Array) -> Array:
    """Areas (...) of `boxes` (..., 4); 0 where a box has its corners out of order."""
    return np.asarray(np.maximum(boxes[..., 2:] - boxes[..., :2], 0).prod(axis=-1))


def clip(boxes: Array, shape: Sequence[int]) -> Array:
    """`boxes` (..., 4) cut to an image of `shape` (H, W, ...)."""
    height, width = shape[:2]
    return np.clip(boxes, 0, np.array([width, height] * 2, np.float32))


def intersection(boxes: Array, others: Array) -> Array:
    """(N, M) float64: the area that every pair of `boxes` (N, 4) and `others` (M, 4) shares."""
    a, b = np.asarray(boxes, np.float64)[:, None], np.asarray(others, np.float64)[None]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    return np.asarray(np.maximum(sides, 0).prod(axis=2))


def iou(boxes: Array, others: Array) -> Array:
    """(N, M) float64: intersection over union of every pair of `boxes` (N, 4) and `others` (M, 4).

    0 where both boxes are without area.
    """
    a, b = (np.asarray(own, np.float64) for own in (boxes, others))
    shared = intersection(a, b)
    union = area(a)[:, None] + area(b) - shared
    return np.asarray(np.divide(shared, union, out=np.zeros_like(shared), where=union > 0))
