"""Head pose: how a mean face must be turned to look like the landmarks.

Points are (98, 2) in WFLW's scheme (`refnet.faces.schemes.WFLW_98`), x and y in image pixels, y downwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from refnet.arrays import Array
from refnet.faces.schemes import checked_98

#: A mean face, in no particular unit: x to the image's right, y down, z away from the camera.
#: Rows: WFLW indices and x, y, z of the brow corners, eye corners, nostrils, mouth corners, lower lip
#: and chin. Source: the anthropometric model that PFLD's training code uses (calculate_pitch_yaw_roll),
#: axes turned and the sign of its ninth point mended.
_FACE_MODEL = np.array(
    [
        [33, -6.825897, -6.760612, -4.402142],
        [38, -1.330353, -7.122144, -6.903745],
        [50, 1.330353, -7.122144, -6.903745],
        [46, 6.825897, -6.760612, -4.402142],
        [60, -5.311432, -5.485328, -3.987654],
        [64, -1.789930, -5.393625, -4.413414],
        [68, 1.789930, -5.393625, -4.413414],
        [72, 5.311432, -5.485328, -3.987654],
        [55, -2.005628, -1.409845, -6.165652],
        [59, 2.005628, -1.409845, -6.165652],
        [76, -2.774015, 2.080775, -5.048531],
        [82, 2.774015, 2.080775, -5.048531],
        [85, 0.0, 3.116408, -6.097667],
        [16, 0.0, 7.415691, -4.070434],
    ]
)
POSE_POINTS: tuple[int, ...] = tuple(int(i) for i in _FACE_MODEL[:, 0])


@dataclass(frozen=True, eq=False)
class HeadPose:
    """How a head is turned, seen from the camera.

    Attributes:
        pitch: degrees; positive looks up.
        yaw: degrees; positive looks to the image's right.
        roll: degrees; positive leans clockwise as seen in the image.
        rotation: (3, 3) float64, from the head's axes to the camera's. Both have x to the image's
            right, y down, z away from the camera, so that a head that faces the camera has the
            identity. It is Rz(roll) · Ry(-yaw) · Rx(-pitch).
        translation: (3,) float64, the head model's origin in the camera's axes, in model units.
        error: root mean square distance in pixels between the landmarks and the turned model.
    """

    pitch: float
    yaw: float
    roll: float
    rotation: Array
    translation: Array
    error: float

    def __repr__(self) -> str:
        return f"<HeadPose pitch {self.pitch:.1f}°, yaw {self.yaw:.1f}°, roll {self.roll:.1f}°>"


def head_pose(points: Any, image_shape: Sequence[int], *, focal: float | None = None) -> HeadPose:
    """How the head is turned, by fitting a mean face to 14 landmarks (perspective-n-point).

    Starts at the best weak-perspective fit and refines it by Levenberg-Marquardt on the squared
    distances in the image. A mean face is not this face: expect errors of several degrees.

    Args:
        image_shape: the image's (H, W, ...); the optical axis goes through its middle.
        focal: the camera's focal length in pixels; the image's longer side by default, as
            of a lens that sees 53 degrees.
    """
    points = checked_98(points, one_face=True).astype(np.float64)
    height, width = image_shape[:2]
    focal = float(max(height, width)) if focal is None else float(focal)
    seen = (points[list(POSE_POINTS)] - [width / 2, height / 2]) / focal
    rotation, translation = _refined(_FACE_MODEL[:, 1:], seen, *_weak(_FACE_MODEL[:, 1:], seen))
    residual, _ = _residual(_FACE_MODEL[:, 1:], seen, rotation, translation)
    error = float(np.sqrt((residual**2).sum() / len(seen))) * focal
    # Rz(roll) Ry(b) Rx(a), with pitch = -a and yaw = -b.
    a = np.arctan2(rotation[2, 1], rotation[2, 2])
    b = np.arctan2(-rotation[2, 0], np.hypot(rotation[2, 1], rotation[2, 2]))
    roll = np.arctan2(rotation[1, 0], rotation[0, 0])
    pitch, yaw, roll = (float(np.degrees(v)) for v in (-a, -b, roll))
    return HeadPose(pitch, yaw, roll, rotation, translation, error)


def _weak(model: Array, seen: Array) -> tuple[Array, Array]:
    """Rotation and translation that fit best where every point is at the same distance."""
    middle = model.mean(axis=0)
    affine = np.linalg.lstsq(model - middle, seen - seen.mean(axis=0), rcond=None)[0].T
    u, scales, v = np.linalg.svd(affine, full_matrices=False)
    two_rows = u @ v
    rotation = np.stack([*two_rows, np.cross(two_rows[0], two_rows[1])])
    depth = 1 / max(scales.mean(), 1e-9)
    centre = np.array([*seen.mean(axis=0) * depth, depth])
    return rotation, centre - rotation @ middle


def _refined(model: Array, seen: Array, rotation: Array, translation: Array) -> tuple[Array, Array]:
    """The pose at the nearest minimum of the squared distances in the image."""
    damping = 1e-3
    residual, jacobian = _residual(model, seen, rotation, translation)
    for _ in range(50):
        normal = jacobian.T @ jacobian
        normal += damping * np.diag(np.diag(normal) + 1e-12)
        step = -np.linalg.solve(normal, jacobian.T @ residual)
        tried = _turn(step[:3]) @ rotation, translation + step[3:]
        new_residual, new_jacobian = _residual(model, seen, *tried)
        if tried[1][2] > 0 and new_residual @ new_residual <= residual @ residual:
            (rotation, translation), damping = tried, damping / 10
            residual, jacobian = new_residual, new_jacobian
            if np.abs(step).max() < 1e-10 * max(1.0, np.abs(translation).max()):
                break
        elif damping > 1e10:
            break
        else:
            damping *= 10
    return rotation, translation


def _residual(
    model: Array, seen: Array, rotation: Array, translation: Array
) -> tuple[Array, Array]:
    """Distances in the image (2N,), and their derivatives (2N, 6) by a small turn and a shift."""
    turned = model @ rotation.T
    x, y, z = (turned + translation).T
    residual = np.stack([x / z, y / z], axis=1) - seen
    zero = np.zeros_like(z)
    by_point = np.stack(
        [np.stack([1 / z, zero, -x / z**2], axis=1), np.stack([zero, 1 / z, -y / z**2], axis=1)],
        axis=1,
    )
    by_turn = np.cross(turned[:, None, :], by_point)
    return residual.reshape(-1), np.concatenate([by_turn, by_point], axis=2).reshape(-1, 6)


def _turn(vector: Array) -> Array:
    """The rotation about `vector` by its length in radians (Rodrigues' formula)."""
    angle = float(np.linalg.norm(vector))
    if angle < 1e-15:
        return np.eye(3)
    x, y, z = vector / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    rotation: Array = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    return rotation
