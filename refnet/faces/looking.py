"""Looking for faces where they were: the detector, on a small square about each.

A square of 128 pixels costs a hundredth of a full frame, and the detector's score there tells what the
landmarks of a network that always finds a face do not: whether there is one.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from refnet.arrays import Array
from refnet.detection.detections import Candidates, Detections
from refnet.detection.detector import Detector
from refnet.faces.crops import cut

#: A face is looked for in a square of this many pixels, where it has at most the second number of them:
#: so it may move by half its size. Smaller faces are not enlarged, which found fewer of them.
#: On some 360 faces of 140 photos, and on 600 places without one that the landmarks had been led to, the score was
#: above a third of the threshold at 96 % of the faces (all of those of a score above 0.9) and 0.2 % of the
#: other places. How far the landmarks of two crops agree told them apart with 12 % and 8 % of errors.
SQUARE, FACE = 128, 64
#: The most squares in one call of the network.
AT_ONCE = 16


class Looks:
    """A detector for faces that are known.

    Args:
        detector: whose network takes squares of `SQUARE` pixels.
    """

    def __init__(self, detector: Detector) -> None:
        self.detector = detector.adjusted(scales=(1.0,), min_size=None)

    @staticmethod
    def possible(detector: Detector) -> bool:
        """Whether `detector` is faster on a small image than on a large one."""
        return not detector.model.graph.fixed_size

    def __call__(self, image: Array, boxes: Array) -> Detections:
        """What is found in `image`, uint8 (H, W, 3) BGR, about `boxes` (F, 4), of all of them together."""
        squares = _squares(boxes)
        cuts = [cut(image, square, SQUARE) for square in squares]
        found = self.detector.head.candidates(cuts, batch_size=AT_ONCE)
        return self.detector.suppressed(
            Candidates.joined([_in_image(*one) for one in zip(found, squares, strict=True)]),
            image.shape,
        )


def _squares(boxes: Array) -> Array:
    """(F, 3) int: x0, y0 and side of the squares about `boxes` (F, 4)."""
    sides = (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
    side = np.maximum(np.round(sides * (SQUARE / FACE)), SQUARE)
    corner = (boxes[:, :2] + boxes[:, 2:]) / 2 - side[:, None] / 2
    return np.concatenate([np.floor(corner), side[:, None]], axis=1).astype(np.int64)


def _in_image(found: Candidates, square: Array) -> Candidates:
    """What was `found` in a `square` of an image, in pixels of the image."""
    scale, corner = square[2] / SQUARE, square[:2]
    points = found.keypoints
    return replace(
        found,
        boxes=found.boxes * scale + np.tile(corner, 2),
        keypoints=None if points is None else points * scale + corner,
    )
