"""Non-maximum suppression: of boxes that show one object, the one with the highest score.

Greedy: the box with the highest score is kept, every box that overlaps it too much is suppressed,
and so on with the rest. Overlap has three measures:

    lower-area     intersection / area of the lower-scored box; the intersection counts both edge
                   pixels (+1), the area does not, so that the ratio may exceed 1. LFFD's own.
    iou            intersection / union, of boxes as continuous rectangles.
    inclusive-iou  intersection / union, both edge pixels counted (+1) everywhere. BasketNet's own.

Equal scores: the box that stands last in the input is picked first, as where LFFD's code takes boxes
from the end of an ascending, stable sort. So the result depends on the order of the input only among
equal scores. Those are common at the top: a softmax in float32 cannot come closer to 1 than 6e-8.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from refnet.errors import OptionError, ShapeError
from refnet.ops import Array

MEASURES = ("lower-area", "iou", "inclusive-iou")


def sorted_by_score(scores: Array, top_k: int | None = None) -> Array:
    """Indices (K,) int64 of the `top_k` highest of `scores` (N,), descending; of equals, last first."""
    return np.argsort(np.asarray(scores), kind="stable")[::-1][:top_k]


def suppress(
    boxes: Any,
    scores: Any,
    threshold: float,
    measure: str = "lower-area",
    *,
    labels: Any = None,
    top_k: int | None = None,
) -> Array:
    """Greedy non-maximum suppression.

    Args:
        boxes: (N, 4) x1, y1, x2, y2; computed in float32.
        scores: (N,).
        threshold: boxes that overlap a kept one by more are suppressed ("inclusive-iou": by as much
            or more, as its source has it).
        measure: one of `MEASURES`; see the module.
        labels: (N,) classes; boxes of different classes do not suppress each other. All one class
            by default.
        top_k: the number of boxes, highest scores first, that take part; all by default.

    Returns:
        (K,) int64: indices of the kept boxes in the order picked, which is by falling score.

    Raises:
        ShapeError: the arrays do not fit each other. OptionError: the measure is unknown.
    """
    boxes = np.asarray(boxes, np.float32)
    scores = np.asarray(scores)
    if boxes.ndim != 2 or boxes.shape[1] != 4 or scores.shape != boxes.shape[:1]:
        raise ShapeError(f"boxes are (N, 4) and scores (N,), not {boxes.shape} and {scores.shape}")
    if measure not in MEASURES:
        raise OptionError(f"measure is one of {', '.join(MEASURES)}, not {measure!r}")
    order = sorted_by_score(scores, top_k)
    if labels is None:
        return order[_greedy(boxes[order], threshold, measure)]
    labels = np.asarray(labels)
    if labels.shape != scores.shape:
        raise ShapeError(f"labels are (N,) as the scores, {scores.shape}, not {labels.shape}")
    kept = []
    for label in np.unique(labels[order]):
        members = np.flatnonzero(labels[order] == label)
        kept.append(members[_greedy(boxes[order][members], threshold, measure)])
    return order[np.sort(np.concatenate(kept))] if kept else order


def _greedy(boxes: Array, threshold: float, measure: str) -> Array:
    """Indices of the kept rows of `boxes`, which stand in order of falling score."""
    overlap = _OVERLAPS[measure]
    suppresses = np.greater_equal if measure == "inclusive-iou" else np.greater
    kept = []
    rest = np.arange(len(boxes))
    while rest.size:
        kept.append(rest[0])
        ratio = overlap(boxes[rest[0]], boxes[rest[1:]])
        rest = rest[1:][~suppresses(ratio, np.float32(threshold))]
    return np.array(kept, np.int64)


def _sides(boxes: Array, extra: int = 0) -> tuple[Array, Array]:
    return boxes[..., 2] - boxes[..., 0] + extra, boxes[..., 3] - boxes[..., 1] + extra


def _area(boxes: Array, extra: int = 0) -> Array:
    width, height = _sides(boxes, extra)
    return width * height


def _intersection(box: Array, others: Array, extra: int) -> Array:
    """Area that `box` (4,) shares with each of `others` (N, 4)."""
    shared = np.concatenate(
        [np.maximum(box[:2], others[:, :2]), np.minimum(box[2:], others[:, 2:])], 1
    )
    width, height = _sides(shared, extra)
    return np.maximum(width, 0) * np.maximum(height, 0)


def _ratio(intersection: Array, area: Array) -> Array:
    """intersection / area; a box without area that touches the other is wholly covered: infinite."""
    ratio = np.where(intersection > 0, np.float32(np.inf), np.float32(0))
    np.divide(intersection, area, out=ratio, where=area > 0)
    return ratio


def _lower_area(box: Array, others: Array) -> Array:
    return _ratio(_intersection(box, others, 1), _area(others))


def _iou(box: Array, others: Array, extra: int = 0) -> Array:
    shared = _intersection(box, others, extra)
    return _ratio(shared, _area(box, extra) + _area(others, extra) - shared)


_OVERLAPS: dict[str, Callable[[Array, Array], Array]] = {
    "lower-area": _lower_area,
    "iou": _iou,
    "inclusive-iou": lambda box, others: _iou(box, others, 1),
}
