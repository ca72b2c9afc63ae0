"""Head pose: how a head must be turned to look like the landmarks.

Points are (98, 2) in WFLW's scheme (`refnet.faces.schemes.WFLW_98`), x and y in image pixels, y downwards.

The convention, of the head and of the camera alike: x to the image's right, y down, z away from the camera, in
degrees. A head that looks straight into the lens reads 0, 0, 0, wherever in the image it is: angles are measured
against the line of sight to it, as it looks in its crop. Level is how people hold their heads before a camera, the
median of many (`refnet.faces.head_shape`). From there it is first nodded by pitch (up is positive), then turned by
yaw (to the image's right), then leant by roll (clockwise as seen): Rz(roll) · Ry(-yaw) · Rx(-pitch).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from refnet.arrays import Array
from refnet.errors import OptionError
from refnet.faces.head_shape import ERRORS, HEAD, MODES, POINTS, SHARE
from refnet.faces.schemes import checked_98

#: Millimetres to a head where the camera's focal length is not known: between a webcam's and a portrait's.
DISTANCE = 1000.0
_AHEAD = np.array([0.0, 0, 1])
#: Radians; half of the heads in photos and videos nod by less. How they nod is taken for Cauchy's distribution.
NODS = np.radians(8.0)
#: Rounds of weighing points by how well they fit, which takes an open mouth or a raised brow out.
_ROUNDS = 2
#: A turn, in radians, that is none: the fit is done.
SMALL = 1e-7


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
        misfit: the same over what is usual for faces, point by point, and how far the head is bent: about 1 for
            a face like others, infinite for points in one spot.
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
    """How the head is turned, by fitting a head to landmarks (perspective-n-point).

    Starts at the best weak-perspective fit and refines it by Levenberg-Marquardt on the squared distances in
    the image over how much each point varies between heads, and less the worse it fits. The head may bend along
    the ways in which faces differ (`refnet.faces.head_shape`), at the price of their variance, so that a smile or
    a long nose is not taken for a nod. What is left of that would still read as a nod of 7 degrees, root mean
    square; so a nod counts as unlikely the further it goes (Cauchy's distribution, half of all heads within
    `NODS`), and this the more the worse the face fits. Points of the very head read what they are. Of faces that
    differ as faces do, nods of 10, 20 and 30 degrees read 7, 16 and 29 on average.

    Expect errors of several degrees all the same. Of 18 faces that by eye are level and look into the lens, chosen
    before they were measured, 15 read less than 6 degrees of pitch, 15 of yaw and 12 of both; half of them less
    than 1.5 and 2.

    Args:
        image_shape: the image's (H, W, ...), through whose middle the optical axis goes; used with `focal`.
        focal: the camera's focal length in pixels. Without it the head is taken to be a metre away.

    Raises:
        OptionError: `focal` is no length, or is given without `image_shape`.
        ShapeError: these are not the 98 points of one face.
    """
    points = checked_98(points, one_face=True).astype(np.float64)[list(POINTS)]
    middle = SHARE @ points
    if focal is None:
        towards, pixels = np.eye(3), max(_weak(points - middle)[1], 1e-9) * DISTANCE
        seen = (points - middle) / pixels
    elif image_shape is None or not 0 < focal < np.inf:
        raise OptionError(f"focal is a length in pixels, with the image's shape, not {focal!r}")
    else:
        pixels = float(focal)
        optical = np.array([image_shape[1], image_shape[0]]) / 2
        rays = np.ones((len(points) + 1, 3))
        rays[:, :2] = (np.vstack([points, middle]) - optical) / pixels
        towards = _between(rays[-1], _AHEAD)
        turned = rays[:-1] @ towards.T
        seen = turned[:, :2] / turned[:, 2:]
    rotation, scale = _weak(seen)
    one_spot, scale = scale < 1e-9, max(scale, 1e-9)
    fit = _Fit(rotation, np.array([*(SHARE @ seen), 1]) / scale, np.zeros(len(MODES)))
    weights, level = np.ones(len(POINTS)), 0.0
    for _ in range(_ROUNDS):
        fit = _refined(seen, np.sqrt(weights) / (ERRORS * scale), fit, level)
        off = np.hypot(*_residual(seen, fit)[0].reshape(-1, 2).T)
        weights = 1 / (1 + (off / (3 * ERRORS * scale)) ** 2)
        misfit = float(np.sqrt(((off / (ERRORS * scale)) ** 2).mean() + (fit.bend**2).mean()))
        nod = float(np.arctan2(fit.rotation[2, 1], fit.rotation[2, 2]))
        level = misfit * np.sqrt(2) / np.hypot(NODS, nod)
    translation = towards.T @ fit.translation
    rotation = _between(translation, _AHEAD) @ towards.T @ fit.rotation
    # Rz(roll) Ry(b) Rx(a), with pitch = -a and yaw = -b.
    a = np.arctan2(rotation[2, 1], rotation[2, 2])
    b = np.arctan2(-rotation[2, 0], np.hypot(rotation[2, 1], rotation[2, 2]))
    roll = np.arctan2(rotation[1, 0], rotation[0, 0])
    pitch, yaw, roll = (float(np.degrees(v)) for v in (-a, -b, roll))
    return HeadPose(
        pitch,
        yaw,
        roll,
        rotation,
        None if focal is None else translation,
        float(np.sqrt((off**2).mean()) * pixels),
        np.inf if one_spot else misfit,
    )


@dataclass(frozen=True)
class _Fit:
    """A head's rotation (3, 3), translation (3,), and how far it is bent along each mode (M,)."""

    rotation: Array
    translation: Array
    bend: Array

    def moved(self, step: Array) -> _Fit:
        return _Fit(
            _turn(step[:3]) @ self.rotation, self.translation + step[3:6], self.bend + step[6:]
        )


def _between(start: Array, end: Array) -> Array:
    """The smallest rotation that brings the direction of `start` to that of `end`, which is not opposite."""
    start = start / np.linalg.norm(start)
    axis = np.cross(start, end)
    sine = float(np.linalg.norm(axis))
    angle = np.arctan2(sine, start @ end)
    return _turn(axis / sine * angle) if sine > 0 else np.eye(3)


def _weak(seen: Array) -> tuple[Array, float]:
    """Rotation and scale of the head that fit best where every point is at the same distance."""
    root = np.sqrt(SHARE)[:, None]
    affine = np.linalg.lstsq(HEAD * root, (seen - SHARE @ seen) * root, rcond=None)[0].T
    u, scales, v = np.linalg.svd(affine, full_matrices=False)
    two_rows = u @ v
    rotation = np.stack([*two_rows, np.cross(two_rows[0], two_rows[1])])
    return rotation, float(scales.mean())


def _refined(seen: Array, weights: Array, fit: _Fit, level: float = 0.0) -> _Fit:
    """The fit at the nearest minimum of the squares of the distances times `weights` (K,), of the bends, and of the
    nod in radians times `level`.
    """
    by = np.repeat(weights, 2)
    damping = 1e-3
    residual, jacobian = _weighted(seen, by, fit, level)
    for _ in range(50):
        normal = jacobian.T @ jacobian
        normal += damping * np.diag(np.diag(normal) + 1e-12)
        step = -np.linalg.solve(normal, jacobian.T @ residual)
        if (
            np.abs(step[:3]).max() < SMALL
        ):  # there, and rounding alone says which of two such fits is better
            break
        tried = fit.moved(step)
        new_residual, new_jacobian = _weighted(seen, by, tried, level)
        if tried.translation[2] > 0 and new_residual @ new_residual <= residual @ residual:
            fit, damping = tried, damping / 10
            residual, jacobian = new_residual, new_jacobian
        elif damping > 1e10:
            break
        else:
            damping *= 10
    return fit


def _weighted(seen: Array, by: Array, fit: _Fit, level: float) -> tuple[Array, Array]:
    """What is to be small (2K + M + 1,), and its derivatives (2K + M + 1, 6 + M)."""
    residual, jacobian = _residual(seen, fit)
    prior = np.eye(len(fit.bend) + 1, jacobian.shape[1], 6)
    # The nod counts less the further the head is turned: of a profile it is certain, and beyond undefined.
    r = fit.rotation
    facing = np.hypot(r[2, 1], r[2, 2])
    nod = np.arctan2(r[2, 1], r[2, 2]) * facing
    prior[-1, :2] = level * r[:2, 0] / max(facing, 1e-9)
    return (
        np.concatenate([residual * by, fit.bend, [level * nod]]),
        np.concatenate([jacobian * by[:, None], prior]),
    )


def _residual(seen: Array, fit: _Fit) -> tuple[Array, Array]:
    """Distances in the image (2K,), and their derivatives (2K, 6 + M) by a small turn, a shift and the bends."""
    count, bends = len(seen), len(fit.bend)
    turned = ((HEAD + np.tensordot(fit.bend, MODES, 1)) @ fit.rotation.T).T
    x, y, z = turned + fit.translation[:, None]
    a, b, c = turned
    near = 1 / z
    over_x, over_y = -x * near**2, -y * near**2
    residual = np.stack([x * near, y * near], axis=1) - seen
    # A pixel's row is the derivative by the point, (near, 0, over_x) or (0, near, over_y): so it stands for the
    # shift, turned × row for the turn, mode · row for a bend. Written out, as this runs a dozen times a face.
    jacobian = np.zeros((count, 2, 6 + bends))
    first, second = jacobian[:, 0].T, jacobian[:, 1].T
    first[0], first[1], first[2] = b * over_x, c * near - a * over_x, -b * near
    second[0], second[1], second[2] = b * over_y - c * near, -a * over_y, a * near
    first[3], first[5], second[4], second[5] = near, over_x, near, over_y
    by_x, by_y, by_z = (MODES @ fit.rotation.T).transpose(2, 0, 1)
    first[6:], second[6:] = near * by_x + over_x * by_z, near * by_y + over_y * by_z
    return residual.reshape(-1), jacobian.reshape(count * 2, -1)


def _turn(vector: Array) -> Array:
    """The rotation about `vector` by its length in radians (Rodrigues' formula)."""
    angle = float(np.linalg.norm(vector))
    if angle < 1e-15:
        return np.eye(3)
    x, y, z = vector / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    rotation: Array = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    return rotation
