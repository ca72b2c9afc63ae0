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
from refnet.faces.head_pose import HeadPose, head_poses
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
        landmark_confidence: in [0, 1], how far the points are to be trusted; None where that is not known.
        pose: see `refnet.faces.head_pose.head_pose`.

    A measure is None where the points do not tell it; see `measure`.
    """

    left_eye_aspect_ratio: float | None
    right_eye_aspect_ratio: float | None
    mouth_opening: float | None
    interocular_distance: float | None
    landmark_confidence: float | None
    pose: HeadPose | None

    def to_dict(self) -> dict[str, float | None]:
        """The measures as plain numbers or None; the pose as pitch, yaw and roll in degrees."""
        pose = self.pose
        return {
            "left_eye_aspect_ratio": _rounded(self.left_eye_aspect_ratio, 4),
            "right_eye_aspect_ratio": _rounded(self.right_eye_aspect_ratio, 4),
            "mouth_opening": _rounded(self.mouth_opening, 4),
            "interocular_distance": _rounded(self.interocular_distance, 3),
            "landmark_confidence": _rounded(self.landmark_confidence, 3),
            "pitch": None if pose is None else round(pose.pitch, 2),
            "yaw": None if pose is None else round(pose.yaw, 2),
            "roll": None if pose is None else round(pose.roll, 2),
        }


def _rounded(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


#: The names of the measures as plain numbers, the keys of `FaceMeasures.to_dict`, in order.
MEASURES: tuple[str, ...] = (
    *(field.name for field in fields(FaceMeasures) if field.name != "pose"),
    *("pitch", "yaw", "roll"),
)


#: Measures are left empty below this confidence: there, points are wrong more often than not.
LEAST_CONFIDENCE = 0.5
#: ... and where the points look less like a face than this, see `HeadPose.misfit`: it is below 2 for all of 420 faces.
MOST_MISFIT = 3.0
#: Degrees of yaw beyond which the far eye is half hidden (of 1,959 faces in photos it is as open as the near one, to a
#: quarter, on 99 % of those turned by 25 to 30 degrees and on 80 % of those by 30 to 35); widths are foreshortened by a
#: third; and a face is as good as a profile, of which the points of the far side are guesses: it reads from 50 on,
#: whatever it is turned by.
FAR_EYE, ASKANCE, PROFILE = 30.0, 45.0, 50.0


def measure(
    points: Any, image_shape: Sequence[int], confidence: float | None = None
) -> FaceMeasures:
    """All measures of one face, and None instead of those that the points do not tell.

    None of them is told by points of low confidence, or that are no face's; the eyes' and the mouth's are not by
    a face that is turned by more than 45 degrees, the far eye's not by 30, and one turned by more than 50 has no pose.

    Args:
        image_shape: the image's (H, W, ...).
        confidence: of the points, see `refnet.Landmarks`.
    """
    return measure_all(checked_98(points, one_face=True)[None], image_shape, [confidence])[0]


def measure_all(
    points: Array, image_shape: Sequence[int], confidences: Sequence[float | None]
) -> list[FaceMeasures]:
    """The same of several faces (F, 98, 2) of one image, whose poses are found together."""
    told = [i for i, c in enumerate(confidences) if c is None or c >= LEAST_CONFIDENCE]
    found = [FaceMeasures(None, None, None, None, c, None) for c in confidences]
    for i, pose in zip(told, head_poses(points[told], image_shape), strict=True):
        if pose.misfit <= MOST_MISFIT:
            found[i] = _told(points[i], pose, confidences[i])
    return found


def _told(points: Array, pose: HeadPose, confidence: float | None) -> FaceMeasures:
    """What trusted points (98, 2) tell of a face of this pose."""
    left, right = eye_aspect_ratio(points)
    askance = abs(pose.yaw) > ASKANCE
    return FaceMeasures(
        None if askance or pose.yaw < -FAR_EYE else left,
        None if askance or pose.yaw > FAR_EYE else right,
        None if askance else mouth_opening(points),
        None if askance else interocular_distance(points),
        confidence,
        None if abs(pose.yaw) > PROFILE else pose,
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
