"""How good a face detector is on photos with boxes by hand that no training has seen.

`on_validation(detect, data)` measures any function from an image to boxes and scores on
DATA/validation/wider_val: every photo is resized to a longer side of 640 pixels and looked at once, faces
of 20 pixels or more on the longer side count, smaller ones and those marked invalid are neither asked for
nor false when found. A box is true at an IoU of 0.5; a second box on one face is false.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np

from refnet.ops import Array
from refnet.training.annotations import BoxedPhoto, boxed_photos
from refnet.training.evaluation import ClassResults, at_long_side

#: Longer side of a photo as the detector sees it, and the smallest face that counts on it.
SIDE, SMALLEST = 640, 20
#: Recall is reported at this many false boxes a photo.
FALSE_BOXES = 0.5

#: From a uint8 (H, W, 3) BGR image to boxes (D, 4) xyxy and scores (D,).
Detect = Callable[[Array], tuple[Array, Array]]


def results(detect: Detect, photos: Iterable[tuple[Array, BoxedPhoto]]) -> ClassResults:
    """What `detect` finds on the photos, beside the truth."""
    found, truths, ignored, attributes = [], [], [], []
    for image, photo in photos:
        boxes, scores = detect(image)
        order = (-scores).argsort(kind="stable")
        sides = (photo.boxes[:, 2:] - photo.boxes[:, :2]).max(axis=1, initial=0)
        found.append((boxes[order], scores[order]))
        truths.append(photo.boxes)
        ignored.append(photo.ignored | (sides < SMALLEST))
        attributes.append({"side": sides, **photo.attributes})
    return ClassResults("face", found, truths, ignored, attributes)


def figures(own: ClassResults, threshold: float) -> dict[str, float]:
    """AP@0.5; recall at half a false box a photo, of all faces and of each group; both sides of the threshold."""
    recall, least = own.recall(FALSE_BOXES)
    hits, wrong = own.above(threshold)
    return {
        "AP@0.5": own.average_precision().value,
        "recall": recall,
        **{f"recall, {group}": value for group, value in own.recall_by_group(least).items()},
        "precision at the default threshold": hits / max(1, hits + wrong),
        "recall at the default threshold": hits / max(1, own.true_boxes),
    }


def score_of(own: ClassResults, precision: float) -> float:
    """The lowest score above which this share of the boxes is right; 0.5 where none is."""
    curve = own.average_precision()
    right = np.flatnonzero(curve.precision >= precision)
    return float(curve.scores[right[-1]]) if len(right) else 0.5


def on_validation(detect: Detect, data: Path) -> ClassResults | None:
    """`results` on `data`/validation/wider_val; None where it is not there."""
    folder = data / "validation" / "wider_val"
    if not (folder / "boxes.csv").exists():
        return None
    return results(detect, (at_long_side(photo, SIDE) for photo in boxed_photos(folder)))
