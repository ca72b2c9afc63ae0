"""Head pose: how a head must be turned to look like the landmarks.

Points are (98, 2) in WFLW's scheme (`refnet.faces.schemes.WFLW_98`), x and y in image pixels, y downwards.

The convention, of the head and of the camera alike: x to the image's right, y down, z away from the camera, in
degrees. A head that looks straight into the lens reads 0, 0, 0, wherever in the image it is: angles are measured
against the line of sight to it, as it looks in its crop. It is level where the line from the bridge of its nose
to its chin is seen unforeshortened. From there it is first nodded by pitch (up is positive), then turned by yaw
(to the image's right), then leant by roll (clockwise as seen): Rz(roll) · Ry(-yaw) · Rx(-pitch).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from refnet.arrays import Array
from refnet.errors import OptionError
from refnet.faces.schemes import MIRROR_98, checked_98

#: The head: WFLW index; x, y, z in millimetres of an adult whose outer eye corners are 90 mm apart, from the
#: middle between these; root mean square error of the point over many heads, in millimetres. Points of the
#: middle and of the image's right half; the others are their mirror images. The outline is left out, since it
#: slides over the head as it turns, and so are the pupils. Made by weights/recipes/head_template.py.
_HALF = (
    *((42, 13.6, -19.2, -11.0, 3.4), (43, 23.9, -21.2, -7.6, 3.2), (44, 34.4, -22.1, -3.9, 3.1)),
    *((45, 44.9, -20.9, 0.0, 3.3), (46, 54.8, -12.5, 3.5, 3.8), (47, 44.9, -14.6, -0.6, 3.3)),
    *((48, 34.4, -15.2, -4.6, 2.9), (49, 23.9, -14.4, -8.2, 2.9), (50, 13.6, -12.9, -11.5, 3.2)),
    *((51, 0.0, -1.7, -14.3, 2.7), (52, 0.0, 10.6, -20.8, 2.9), (53, 0.0, 22.8, -27.4, 3.6)),
    *((54, 0.0, 34.5, -33.0, 4.5), (57, 0.0, 44.0, -23.0, 2.4), (58, 8.1, 42.8, -20.6, 2.2)),
    *((59, 16.1, 41.4, -17.7, 2.3), (68, 17.9, 0.2, -5.5, 2.0), (69, 24.2, -3.9, -5.3, 2.0)),
    *((70, 32.1, -4.9, -4.8, 2.3), (71, 39.1, -3.3, -2.6, 2.1), (72, 45.0, 0.0, 0.0, 2.0)),
    *((73, 38.9, 2.2, -2.5, 2.0), (74, 32.3, 3.1, -4.8, 2.1), (75, 24.9, 2.4, -5.2, 2.0)),
    *((79, 0.0, 58.2, -22.1, 2.1), (80, 5.5, 58.1, -21.7, 2.1), (81, 17.3, 60.3, -15.0, 2.8)),
    *((82, 27.8, 65.2, -7.1, 4.7), (83, 20.2, 71.5, -11.6, 4.0), (84, 10.9, 75.9, -16.3, 4.4)),
    *((85, 0.0, 77.3, -19.8, 4.7), (90, 0.0, 63.4, -21.2, 2.3), (91, 12.9, 63.8, -14.9, 2.8)),
    *((92, 25.4, 65.5, -7.8, 4.5), (93, 13.2, 68.3, -13.9, 4.3), (94, 0.0, 69.3, -19.4, 4.8)),
)
POSE_POINTS: tuple[int, ...] = tuple(
    sorted({i for row in _HALF for i in (row[0], int(MIRROR_98[row[0]]))})
)


def _head() -> tuple[Array, Array]:
    """Places (K, 3) and errors (K,) of `POSE_POINTS`."""
    known: dict[int, Array] = {}
    for i, *values in _HALF:
        known[i] = np.array(values)
        known[int(MIRROR_98[i])] = np.array(values) * [-1 if MIRROR_98[i] != i else 1, 1, 1, 1]
    table = np.stack([known[i] for i in POSE_POINTS])
    return table[:, :3], table[:, 3]


_PLACES, _ERRORS = _head()
_SHARE = 1 / _ERRORS**2 / (1 / _ERRORS**2).sum()
#: The same places (K, 3), from the middle of the face: their mean weighted by their certainty.
HEAD = _PLACES - _SHARE @ _PLACES

#: Millimetres to a head where the camera's focal length is not known: between a webcam's and a portrait's.
DISTANCE = 1000.0
#: Rounds of weighing points by how well they fit, which takes an open mouth or a raised brow out.
_ROUNDS = 3


@dataclass(frozen=True, eq=False)
class HeadPose:
    """How a head is turned, as seen along the line of sight to it; see the module.

    Attributes:
        pitch: degrees from -90 to 90; positive looks up.
        yaw: degrees from -90 to 90; positive looks to the image's right.
        roll: degrees from -180 to 180; positive leans clockwise as seen in the image.
        rotation: (3, 3) float64, from the head's axes to those of a camera that looks straight at it:
            Rz(roll) · Ry(-yaw) · Rx(-pitch).
        translation: (3,) float64, the middle of the face in the camera's axes, in
            millimetres of an adult whose eye corners are 90 mm apart; None where `focal` was not given.
        error: root mean square distance in pixels between the landmarks and the turned head.
        misfit: the same over what is usual for faces, point by point: about 1 for a face like others.
    """

    pitch: float
    yaw: float
    roll: float
    rotation: Array
    translation: Array | None
    error: float
    misfit: float

    def __repr__(self) -> str:
        return f"<HeadPose pitch {self.pitch:.1f}°, yaw {self.yaw:.1f}°, roll {self.roll:.1f}°>"


def head_pose(
    points: Any, image_shape: Sequence[int] | None = None, *, focal: float | None = None
) -> HeadPose:
    """How the head is turned, by fitting a mean head to landmarks (perspective-n-point).

    Starts at the best weak-perspective fit and refines it by Levenberg-Marquardt on the squared distances in
    the image, each point weighted by how much it varies between heads, and less the worse it fits. A mean
    head is not this head: expect errors of several degrees.

    Args:
        image_shape: the image's (H, W, ...), through whose middle the optical axis goes; used with `focal`.
        focal: the camera's focal length in pixels. Without it the head is taken to be a metre away.

    Raises:
        OptionError: `focal` is no length, or is given without `image_shape`.
        ShapeError: these are not the 98 points of one face.
    """
    points = checked_98(points, one_face=True).astype(np.float64)[list(POSE_POINTS)]
    middle = _SHARE @ points
    _, scale = _weak(HEAD, points - middle, _SHARE)
    if focal is None:
        towards, pixels = np.eye(3), max(scale, 1e-9) * DISTANCE
        seen = (points - middle) / pixels
    elif image_shape is None or not 0 < focal < np.inf:
        raise OptionError(f"focal is a length in pixels, with the image's shape, not {focal!r}")
    else:
        pixels = float(focal)
        optical = np.array([image_shape[1], image_shape[0]]) / 2
        rays = np.append(
            (np.vstack([points, middle]) - optical) / pixels, np.ones((len(points) + 1, 1)), 1
        )
        towards = _between(rays[-1], np.array([0.0, 0, 1]))
        turned = rays[:-1] @ towards.T
        seen = turned[:, :2] / turned[:, 2:]
    weights = _SHARE
    rotation, scale = _weak(HEAD, seen, weights)
    translation = np.array([*(weights @ seen), 1]) / max(scale, 1e-9)
    usual = _ERRORS * max(scale, 1e-9)
    for _ in range(_ROUNDS):
        rotation, translation = _refined(HEAD, seen, weights, rotation, translation)
        off = _residual(HEAD, seen, rotation, translation)[0].reshape(-1, 2)
        lengths = np.hypot(*off.T)
        weights = _SHARE / (1 + (lengths / (3 * usual)) ** 2)
    rotation = _between(translation, np.array([0.0, 0, 1])) @ rotation
    a = np.arctan2(rotation[2, 1], rotation[2, 2])
    b = np.arctan2(-rotation[2, 0], np.hypot(rotation[2, 1], rotation[2, 2]))
    roll = np.arctan2(rotation[1, 0], rotation[0, 0])
    # Rz(roll) Ry(b) Rx(a), with pitch = -a and yaw = -b.
    pitch, yaw, roll = (float(np.degrees(v)) for v in (-a, -b, roll))
    return HeadPose(
        pitch,
        yaw,
        roll,
        rotation,
        None if focal is None else towards.T @ translation,
        float(np.sqrt((lengths**2).mean()) * pixels),
        float(np.sqrt(((lengths / usual) ** 2).mean())),
    )


def _between(start: Array, end: Array) -> Array:
    """The smallest rotation that brings the direction of `start` to that of `end`, which is not opposite."""
    start = start / np.linalg.norm(start)
    axis = np.cross(start, end)
    sine = float(np.linalg.norm(axis))
    angle = np.arctan2(sine, start @ end)
    return _turn(axis / sine * angle) if sine > 0 else np.eye(3)


def _weak(model: Array, seen: Array, weights: Array) -> tuple[Array, float]:
    """Rotation and scale that fit best where every point is at the same distance."""
    share = np.sqrt(weights / weights.sum())[:, None]
    solid, flat = model - share[:, 0] ** 2 @ model, seen - share[:, 0] ** 2 @ seen
    affine = np.linalg.lstsq(solid * share, flat * share, rcond=None)[0].T
    u, scales, v = np.linalg.svd(affine, full_matrices=False)
    two_rows = u @ v
    rotation = np.stack([*two_rows, np.cross(two_rows[0], two_rows[1])])
    return rotation, float(scales.mean())


def _refined(
    model: Array, seen: Array, weights: Array, rotation: Array, translation: Array
) -> tuple[Array, Array]:
    """The pose at the nearest minimum of the weighted squared distances in the image."""
    root = np.sqrt(np.repeat(weights, 2))
    damping = 1e-3
    residual, jacobian = _residual(model, seen, rotation, translation)
    residual, jacobian = residual * root, jacobian * root[:, None]
    for _ in range(50):
        normal = jacobian.T @ jacobian
        normal += damping * np.diag(np.diag(normal) + 1e-12)
        step = -np.linalg.solve(normal, jacobian.T @ residual)
        tried = _turn(step[:3]) @ rotation, translation + step[3:]
        new_residual, new_jacobian = _residual(model, seen, *tried)
        new_residual, new_jacobian = new_residual * root, new_jacobian * root[:, None]
        if tried[1][2] > 0 and new_residual @ new_residual <= residual @ residual:
            (rotation, translation), damping = tried, damping / 10
            residual, jacobian = new_residual, new_jacobian
            if np.abs(step).max() < 1e-9 * max(1.0, np.abs(translation).max()):
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
