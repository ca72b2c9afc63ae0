"""What the numbers of landmark schemes mean: mirrors, eye corners, and the way from 98 to 68 points.

Sources: WFLW (Wu et al. 2018) for 98 points, 300-W (Sagonas et al. 2013) for 68. "Left" is the
image's left, the subject's right.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from refnet.arrays import Array
from refnet.errors import OptionError, ShapeError

#: WFLW's 98 points (Wu et al. 2018), by part; left and right are the image's. Closed parts are rings.
WFLW_98: Mapping[str, range] = {
    "contour": range(33),
    "left_brow": range(33, 42),
    "right_brow": range(42, 51),
    "nose_bridge": range(51, 55),
    "nostrils": range(55, 60),
    "left_eye": range(60, 68),
    "right_eye": range(68, 76),
    "outer_lip": range(76, 88),
    "inner_lip": range(88, 96),
    "left_pupil": range(96, 97),
    "right_pupil": range(97, 98),
}
CLOSED = frozenset({"left_brow", "right_brow", "left_eye", "right_eye", "outer_lip", "inner_lip"})


def _mirror_98() -> Array:
    """Each part runs on both sides in opposite senses, so a mirrored pair has a constant sum."""
    mirror = np.arange(98)

    def pair(start: int, stop: int, total: int) -> None:
        for i in range(start, stop):
            mirror[i], mirror[total - i] = total - i, i

    pair(0, 33, 32)  # contour
    pair(33, 38, 79)  # brows, upper edges
    pair(38, 42, 88)  # brows, lower edges: 38 and 50, 41 and 47
    pair(55, 60, 114)  # nostrils
    pair(60, 65, 132)  # eyes, upper lids
    pair(65, 68, 140)  # eyes, lower lids: 65 and 75
    pair(76, 83, 158)  # outer lip, upper edge
    pair(83, 88, 170)  # outer lip, lower edge
    pair(88, 93, 180)  # inner lip, upper edge
    pair(93, 96, 188)  # inner lip, lower edge
    pair(96, 98, 193)  # pupils
    mirror.flags.writeable = False
    return mirror


#: Point i of a mirrored face is point MIRROR_98[i] of the face, mirrored; an involution.
MIRROR_98 = _mirror_98()

#: Point k of 300-W's 68 is about point TO_68[k] of WFLW's 98. The makers of WFLW warn that the two
#: schemes are not exactly the same: contours and lids differ by a few hundredths of the eyes' distance.
TO_68 = np.array(
    [
        *range(0, 33, 2),
        *range(33, 38),
        *range(42, 47),
        *range(51, 60),
        *(60, 61, 63, 64, 65, 67),
        *(68, 69, 71, 72, 73, 75),
        *range(76, 96),
    ]
)
TO_68.flags.writeable = False

#: {number of points: indices of the outer corners of both eyes}.
EYE_CORNERS: Mapping[int, tuple[int, int]] = {98: (60, 72), 68: (36, 45), 29: (8, 9)}

#: {number of points: for each eye the indices whose mean is its middle}.
EYES: Mapping[int, tuple[tuple[int, ...], tuple[int, ...]]] = {
    98: ((96,), (97,)),
    68: (tuple(range(36, 42)), tuple(range(42, 48))),
}


def mirrored(points: Array, width: float) -> Array:
    """98 points (..., 98, 2) of a face, as those of the face's mirror image in a frame of `width`.

    `width` is in the points' units: 1 for fractions of a crop, W - 1 for pixel indices.

    Raises:
        OptionError: another number of points.
    """
    if points.shape[-2] != 98:
        raise OptionError(f"the mirror of 98 points is known, not of {points.shape[-2]}")
    flipped = points[..., MIRROR_98, :].copy()
    flipped[..., 0] = width - flipped[..., 0]
    return flipped


def as_68(points: Array) -> Array:
    """Points (..., K, 2) in 300-W's order: 98 are mapped, 68 are taken as they are.

    Raises:
        OptionError: another number of points.
    """
    if points.shape[-2] == 68:
        return points
    if points.shape[-2] != 98:
        raise OptionError(f"98 or 68 points can be given as 68, not {points.shape[-2]}")
    return points[..., TO_68, :]


def parts_of(count: int) -> Mapping[str, range]:
    """{part of a face: indices of its points}, where the number of points tells the scheme; else empty."""
    return WFLW_98 if count == 98 else {}


def checked_98(points: Any, *, one_face: bool = False) -> Array:
    """`points` as a float array of WFLW's 98 points, (..., 98, 2), or (98, 2) for `one_face`.

    Raises:
        ShapeError: they have another shape.
    """
    array: Array = np.asarray(points)
    if array.dtype.kind != "f":
        array = array.astype(np.float64)
    if array.ndim < 2 or array.shape[-2:] != (98, 2) or (one_face and array.ndim != 2):
        raise ShapeError(
            f"these are WFLW's 98 points of {'one face' if one_face else 'faces'}, "
            f"{'(98, 2)' if one_face else '(..., 98, 2)'}; got {array.shape}"
        )
    return array
