"""Which cells of a detection network answer for which true box: the targets of training.

Sources: the data iterator of YonghaoHe/LFFD and the matching of aoru45/BasketNet.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from refnet.detection.geometry import BranchGeometry
from refnet.errors import ShapeError
from refnet.ops import Array, Pair

GREEN, GRAY, ABSENT = "green", "gray", "absent"


@dataclass(frozen=True)
class BranchTargets:
    """What one branch should answer for one image.

    Attributes:
        face: (h, w) bool, cells of exactly one object, and of no gray one.
        distances: (4, h, w) float32, (centre - edge) / K by left, top, right, bottom; 0 elsewhere.
        class_mask: (h, w) bool, cells that count in the class loss.
        box_mask: (h, w) bool, cells that count in the box loss.
    """

    face: Array
    distances: Array
    class_mask: Array
    box_mask: Array


def gray_range(branch: BranchGeometry) -> Pair:
    """(smallest, largest) longer side that a branch neither learns nor denies: 0.9 and 1.1 times its range.

    Floor and ceiling of products in double precision, as trained: 110 · 1.1 is a little more than 121,
    so that the upper bound there is 122; likewise 111, 199 and 441 for 100, 180 and 400.
    """
    return math.floor(branch.lower * 0.9), math.ceil(branch.upper * 1.1)


def state(side: float, branch: BranchGeometry) -> str:
    """ "green", "gray" or "absent": what an object with this longer side is to `branch`.

    Both ends of the range are green, so that a side at a shared bound is green in two branches.
    """
    if branch.lower <= side <= branch.upper:
        return GREEN
    low, high = gray_range(branch)
    return GRAY if low <= side <= high else ABSENT


def covered(box: Array, branch: BranchGeometry, shape: Pair) -> tuple[slice, slice]:
    """(rows, columns) of the cells of a map of `shape` whose centres lie in `box`, edges included."""

    def span(low: float, high: float, cells: int) -> slice:
        first = max(0, math.ceil((low - branch.centre) / branch.stride))
        last = min(cells - 1, math.floor((high - branch.centre) / branch.stride))
        return slice(first, max(first, last + 1))

    x1, y1, x2, y2 = map(float, box)
    return span(y1, y2, shape[0]), span(x1, x2, shape[1])


def match_lffd(
    boxes: Array, branches: Sequence[BranchGeometry], shapes: Sequence[Pair]
) -> tuple[BranchTargets, ...]:
    """The targets of every branch for one image.

    A cell in exactly one green box is that object's. A cell in several green boxes, or in a gray one,
    counts in no class loss; one green and one gray box leave it its box loss. A box without a cell's
    centre is not seen. All else is background.

    Args:
        boxes: (B, 4) xyxy in input pixels; may leave the input.
        branches: the network's, as `refnet.detection.geometry.geometry` gives them.
        shapes: (h, w) of each branch's map.
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    if len(branches) != len(shapes):
        raise ShapeError(f"{len(branches)} branches take as many map shapes, not {len(shapes)}")
    return tuple(
        _match_branch(boxes, branch, shape) for branch, shape in zip(branches, shapes, strict=True)
    )


def _match_branch(boxes: Array, branch: BranchGeometry, shape: Pair) -> BranchTargets:
    green = np.zeros(shape, np.int64)
    gray = np.zeros(shape, bool)
    distances = np.zeros((4, *shape), np.float32)
    rows, columns = (np.arange(n) * branch.stride + branch.centre for n in shape)
    for box in boxes:
        kind = state(max(box[2] - box[0], box[3] - box[1]), branch)
        if kind == ABSENT:
            continue
        v, u = covered(box, branch, shape)
        if kind == GRAY:
            gray[v, u] = True
            continue
        green[v, u] += 1
        for channel, (centres, edge) in enumerate(
            ((columns[None, u], box[0]), (rows[v, None], box[1]))
        ):
            distances[channel, v, u] = (centres - edge) / branch.norm
            distances[channel + 2, v, u] = (centres - box[channel + 2]) / branch.norm
    single = green == 1
    distances *= single
    return BranchTargets(single & ~gray, distances, (green <= 1) & ~gray, single)


def match_basketnet(
    boxes: Array, classes: Array, priors: Array, *, overlap: float = 0.5
) -> tuple[Array, Array]:
    """BasketNet's targets for one image: (labels (cells,) int64, locations (cells, 4) float32).

    A cell is a box's where its prior's centre lies strictly inside the box and the square of side K at
    it overlaps the box by an IoU of at least `overlap`; besides, each box claims the cell of its best
    IoU over all branches. Cells of several boxes get the label -1 and count in no loss, but for the
    best of a box, which stays its own.

    Args:
        boxes: (B, 4) xyxy as fractions of the input.
        classes: (B,) int, 1 and above; 0 is the background.
        priors: (cells, 3) of `refnet.detection.basketnet.basketnet_priors`.
    """
    boxes = np.asarray(boxes, np.float32).reshape(-1, 4)
    labels = np.zeros(len(priors), np.int64)
    locations = np.zeros((len(priors), 4), np.float32)
    if not len(boxes):
        return labels, locations
    x, y, norm = (priors[:, None, i] for i in range(3))
    inside = (x > boxes[:, 0]) & (x < boxes[:, 2]) & (y > boxes[:, 1]) & (y < boxes[:, 3])
    half = norm / 2
    width = np.minimum(x + half, boxes[:, 2]) - np.maximum(x - half, boxes[:, 0])
    height = np.minimum(y + half, boxes[:, 3]) - np.maximum(y - half, boxes[:, 1])
    shared = np.maximum(width, 0) * np.maximum(height, 0)
    area = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    iou = shared / (norm**2 + area - shared)
    owned = inside & (iou >= overlap)
    count = owned.sum(axis=1)
    owner = owned.argmax(axis=1)
    labels[count == 1] = np.asarray(classes)[owner[count == 1]]
    labels[count > 1] = -1
    best = iou.argmax(axis=0)
    owner[best] = np.arange(len(boxes))
    labels[best] = classes
    positive = labels > 0
    centres = priors[positive][:, [0, 1, 0, 1]]
    locations[positive] = (centres - boxes[owner[positive]]) / priors[positive][:, 2:]
    return labels, locations
