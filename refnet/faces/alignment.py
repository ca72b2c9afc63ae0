"""Five points of a face, and the face turned upright by them, as recognition networks want it."""

from __future__ import annotations

import numpy as np

from refnet.arrays import Array
from refnet.media.images import opencv

#: Of WFLW's 98 points: image-left pupil, right pupil, nose tip, left and right corner of the mouth.
FIVE_OF_98 = (96, 97, 54, 76, 82)

#: Where ArcFace's training crops (Deng et al. 2019) have these five points, in 112 × 112 pixels.
TEMPLATE_112 = np.array(
    [
        [38.2946, 51.6963],
        [73.5318, 51.5014],
        [56.0252, 71.7366],
        [41.5493, 92.3655],
        [70.7299, 92.2041],
    ]
)
TEMPLATE_112.flags.writeable = False


def similarity(points: Array, targets: Array) -> Array:
    """The rotation, scaling and shift that brings `points` nearest to `targets`, (2, 3) float64.

    Nearest by the sum of squared distances. In the complex plane it is z → a·z + b, with
    a = Σ conj(z - z̄)·(w - w̄) / Σ |z - z̄|².

    Args:
        points, targets: (K, 2), x and y; at least two of `points` differ.
    """
    z, w = (np.asarray(p, np.float64) @ (1, 1j) for p in (points, targets))
    from_middle = z - z.mean()
    a = np.vdot(from_middle, w - w.mean()) / np.vdot(from_middle, from_middle).real
    b = w.mean() - a * z.mean()
    return np.array([[a.real, -a.imag, b.real], [a.imag, a.real, b.imag]])


def aligned(image: Array, keypoints: Array, size: int) -> Array:
    """The face of `keypoints` (5, 2) upright in ArcFace's template, uint8 (size, size, 3), black outside."""
    matrix = similarity(keypoints, TEMPLATE_112 * (size / 112))
    return np.asarray(opencv().warpAffine(image, matrix, (size, size)))
