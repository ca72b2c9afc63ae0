"""What 98 landmarks tell: other schemes, mirroring, openness of eyes and mouth, distances.

Points are (98, 2) in WFLW's scheme (`refnet.faces.schemes.WFLW_98`), x and y in image pixels, y downwards.
Left and right are the image's: the left eye is the subject's right one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from refnet.arrays import Array
from refnet.faces.head_pose import HeadPose, head_pose
from refnet.faces.schemes import as_68, checked_98, mirrored

#: (lid point, middle of its lid): moved by a third towards the middle they come closer to 300-W's.
_LIDS = (
    *((61, 62), (63, 62), (65, 66), (67, 66)),
    *((69, 70), (71, 70), (73, 74), (75, 74)),
)


@dataclass(frozen=True, eq=False)
class FaceMeasures:
    """Measures of one face.

    Attributes:
        left_eye_aspect_ratio, right_eye_aspect_ratio: see `eye_aspect_ratio`.
        mouth_opening: see `mouth_opening`.
        interocular_distance: pixels between the outer corners of the eyes.
        pose: see `refnet.faces.head_pose.head_pose`.
    """

    left_eye_aspect_ratio: float
    right_eye_aspect_ratio: float
    mouth_opening: float
    interocular_distance: float
    pose: HeadPose

    def to_dict(self) -> dict[str, float]:
        """The measures as plain numbers; the pose as pitch, yaw and roll in degrees."""
        return {
            "left_eye_aspect_ratio": round(self.left_eye_aspect_ratio, 4),
            "right_eye_aspect_ratio": round(self.right_eye_aspect_ratio, 4),
            "mouth_opening": round(self.mouth_opening, 4),
            "interocular_distance": round(self.interocular_distance, 3),
            "pitch": round(self.pose.pitch, 2),
            "yaw": round(self.pose.yaw, 2),
            "roll": round(self.pose.roll, 2),
        }


#: The names of the measures as plain numbers, the keys of `FaceMeasures.to_dict`, in order.
MEASURES: tuple[str, ...] = (
    *(field.name for field in fields(FaceMeasures) if field.name != "pose"),
    *("pitch", "yaw", "roll"),
)


def measure(points: Any, image_shape: Sequence[int]) -> FaceMeasures:
    """All measures of one face; `image_shape` is the image's (H, W, ...)."""
    left, right = eye_aspect_ratio(points)
    return FaceMeasures(
        left,
        right,
        mouth_opening(points),
        interocular_distance(points),
        head_pose(points, image_shape),
    )


def to_68(points: Any, *, refine_lids: bool = False) -> Array:
    """98 points (..., 98, 2) as the 68 of 300-W, (..., 68, 2).

    Args:
        refine_lids: move the four outer lid points of each eye by a third towards the middle of
            their lid, where 300-W has them (WFLW/LAB, issue 17).
    """
    points = checked_98(points)
    if refine_lids:
        lids, middles = (list(column) for column in zip(*_LIDS, strict=True))
        points = points.copy()
        points[..., lids, :] += (points[..., middles, :] - points[..., lids, :]) / 3
    return as_68(points)


def mirror(points: Any, width: float) -> Array:
    """The landmarks (..., 98, 2) of the mirrored image, for an image `width` pixels wide.

    A point at pixel x comes to pixel width - 1 - x, as in image[:, ::-1], and takes the index of its
    counterpart on the other side.
    """
    return mirrored(checked_98(points), width - 1)


def eye_aspect_ratio(points: Any) -> tuple[float, float]:
    """(left, right): the mean height of an eye at its lid points over its width.

    (|p61 p67| + |p63 p65|) / (2 |p60 p64|), and likewise for the right eye. About 0.3 for an open eye,
    below 0.15 for a closed one. Soukupová and Čech 2016, "Real-time eye blink detection".
    """
    points = checked_98(points, one_face=True)
    ratios = []
    for outer, upper, upper_2, inner, lower_2, lower in (
        (60, 61, 63, 64, 65, 67),
        (72, 71, 69, 68, 75, 73),
    ):
        heights = _distance(points, upper, lower) + _distance(points, upper_2, lower_2)
        ratios.append(_over(heights, 2 * _distance(points, outer, inner)))
    return ratios[0], ratios[1]


def mouth_opening(points: Any) -> float:
    """The gap between the lips over the width of the inner mouth: |p90 p94| / |p88 p92|; 0 is closed."""
    points = checked_98(points, one_face=True)
    return _over(_distance(points, 90, 94), _distance(points, 88, 92))


def interocular_distance(points: Any) -> float:
    """Pixels between the outer corners of the eyes, |p60 p72|: the norm of WFLW's error measure."""
    return _distance(checked_98(points, one_face=True), 60, 72)


def _distance(points: Array, i: int, j: int) -> float:
    return float(np.hypot(*(points[i] - points[j])))


def _over(length: float, by: float) -> float:
    """Their ratio; 0 where the face has shrunk to a point."""
    return length / by if by > 0 else 0.0
