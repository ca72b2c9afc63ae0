"""Non-maximum suppression: of boxes that show one object, the one with the highest score.

Greedy: the box with the highest score is kept, every box that overlaps it too much is suppressed,
and so on with the rest. Overlap is measured in three ways:

    lower-area     intersection / area of the lower-scored box; the intersection counts both edge
                   pixels (+1), the area does not, so that the ratio may exceed 1. LFFD's own.
    iou            intersection / union, of boxes as continuous rectangles.
    inclusive-iou  intersection / union, both edge pixels counted (+1) everywhere. BasketNet's own.

Equal scores: the box that stands last in the input is picked first, as where LFFD's code takes boxes
from the end of an ascending, stable sort. So the result depends on the order of the input only among
equal scores. Those are common at the top: a softmax in float32 cannot come closer to 1 than 6e-8.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from refnet.arrays import Array
from refnet.errors import OptionError, ShapeError

#: Of so many boxes all pairs are compared at once, which is quicker than one box after another.
TOGETHER = 128
OVERLAPS = ("lower-area", "iou", "inclusive-iou")


def sorted_by_score(scores: Array, top_k: int | None = None) -> Array:
    """Indices (K,) int64 of the `top_k` highest of `scores` (N,), descending; of equals, last first."""
    return np.argsort(np.asarray(scores), kind="stable")[::-1][:top_k]


def suppress(
    boxes: Any,
    scores: Any,
    threshold: float,
    overlap: str = "lower-area",
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
        overlap: how it is measured, one of `OVERLAPS`; see the module.
        labels: (N,) classes; boxes of different classes do not suppress each other. All one class
            by default.
        top_k: the number of boxes, highest scores first, that take part; all by default.

    Returns:
        (K,) int64: indices of the kept boxes in the order picked, which is by falling score.

    Raises:
        ShapeError: the arrays do not fit each other. OptionError: `overlap` is unknown.
    """
    boxes = np.asarray(boxes, np.float32)
    scores = np.asarray(scores)
    if boxes.ndim != 2 or boxes.shape[1] != 4 or scores.shape != boxes.shape[:1]:
        raise ShapeError(f"boxes are (N, 4) and scores (N,), not {boxes.shape} and {scores.shape}")
    if overlap not in OVERLAPS:
        raise OptionError(f"overlap is one of {', '.join(OVERLAPS)}, not {overlap!r}")
    order = sorted_by_score(scores, top_k)
    if labels is None:
        return order[_greedy(boxes[order], threshold, overlap)]
    labels = np.asarray(labels)
    if labels.shape != scores.shape:
        raise ShapeError(f"labels are (N,) as the scores, {scores.shape}, not {labels.shape}")
    kept, boxes, labels = [], boxes[order], labels[order]
    for label in sorted(set(labels.tolist())):  # `np.unique` would import masked arrays
        members = np.flatnonzero(labels == label)
        kept.append(members[_greedy(boxes[members], threshold, overlap)])
    return order[np.sort(np.concatenate(kept))] if kept else order


def nested(boxes: Any, scores: Any) -> Array:
    """(N,) bool: which boxes of faces lie in a better one, or have a better one in them.

    Two boxes are about one face where 85 % of the smaller lies in the larger and its middle in the ellipse
    that fills the larger. (In the corners of a box stand other people.) Suppression leaves such pairs where the
    larger has the lower score, since little of that one is covered. Of equal scores the first one stays.

    Args:
        boxes: (N, 4), xyxy. scores: (N,).
    """
    boxes, scores = np.asarray(boxes, np.float64).reshape(-1, 4), np.asarray(scores)
    middles, sides = (boxes[:, :2] + boxes[:, 2:]) / 2, np.maximum(boxes[:, 2:] - boxes[:, :2], 0)
    areas = sides.prod(axis=1)
    hidden = np.zeros(len(boxes), bool)
    order = np.argsort(-scores, kind="stable")
    for place, i in enumerate(order):
        better = order[:place][~hidden[order[:place]]]
        shared = np.minimum(boxes[i, 2:], boxes[better, 2:])
        shared = np.maximum(shared - np.maximum(boxes[i, :2], boxes[better, :2]), 0).prod(axis=1)
        radii = np.maximum(
            np.where((areas[better] > areas[i])[:, None], sides[better], sides[i]), 1e-9
        )
        off = (((middles[better] - middles[i]) / (radii / 2)) ** 2).sum(axis=1)
        hidden[i] = ((shared > 0.85 * np.minimum(areas[i], areas[better])) & (off < 1)).any()
    return hidden


def _greedy(boxes: Array, threshold: float, overlap: str) -> Array:
    """Indices of the kept rows of `boxes`, which stand in order of falling score."""
    corners = np.ascontiguousarray(boxes.T)
    kept: list[int] = []
    if len(boxes) <= TOGETHER:
        beyond = _beyond(corners[:, :, None], corners[:, None], threshold, overlap)
        left = np.ones(len(boxes), bool)
        for i in range(len(boxes)):
            if left[i]:
                kept.append(i)
                left &= ~beyond[i]
        return np.array(kept, np.int64)
    rest = np.arange(len(boxes))
    while rest.size:
        kept.append(rest[0])
        beyond = _beyond(corners[:, :1], corners[:, 1:], threshold, overlap)
        stays = 1 + np.flatnonzero(~beyond)
        corners, rest = corners[:, stays], rest[stays]
    return np.array(kept, np.int64)


def _beyond(better: Array, others: Array, threshold: float, overlap: str) -> Array:
    """Whether each of the boxes `better` (4, ...) suppresses each of `others`, whose axes go together."""
    shared_extra, area_extra = _EXTRA[overlap]
    sides = np.minimum(better[2:], others[2:]) - np.maximum(better[:2], others[:2]) + shared_extra
    width, height = np.maximum(sides, 0)
    shared = width * height
    whole, area = ((own[2:] - own[:2] + area_extra).prod(axis=0) for own in (others, better))
    if overlap != "lower-area":
        whole = area + whole - shared
    ratio = _ratio(shared, whole)
    least = np.float32(threshold)
    return np.asarray(ratio >= least if overlap == "inclusive-iou" else ratio > least)


def _ratio(shared: Array, area: Array) -> Array:
    """shared / area; a box without area that touches the other is wholly covered: infinite."""
    ratio = np.where(shared > 0, np.float32(np.inf), np.float32(0))
    np.divide(shared, area, out=ratio, where=area > 0)
    return ratio


#: Per kind of overlap, what is added to the sides of an intersection, and of a box.
_EXTRA = {"lower-area": (1, 0), "iou": (0, 0), "inclusive-iou": (1, 1)}
