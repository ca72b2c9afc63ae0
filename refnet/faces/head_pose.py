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
#: (3, K), (3, M·K) and (M, 3·K): the head, and the ways in which it bends, to be turned and to be added up.
_HEAD, _MODES = HEAD.T.copy(), MODES.transpose(2, 0, 1).reshape(3, -1)
_BENDS = MODES.transpose(0, 2, 1).reshape(len(MODES), -1)
#: (3, 9) from a vector to the matrix of its cross product.
_CROSS = np.array(
    [[0, 0, 0, 0, 0, -1, 0, 1, 0], [0, 0, 1, 0, 0, 0, -1, 0, 0], [0, -1, 0, 1, 0, 0, 0, 0, 0.0]]
)
#: (9, 3) from a point to how it moves across each axis, of x, y and z a row for each axis; and (9, 3) from products.
_ACROSS, _ACROSS_OF = (
    _CROSS.reshape(3, 3, 3).transpose(t).reshape(9, 3) for t in ((1, 0, 2), (2, 1, 0))
)
_EYE, _SHIFTS = np.eye(3), np.eye(3)[..., None]
_ROOT = np.sqrt(SHARE)
#: (K, 3) from points, each times its `_ROOT`, to the best affine map of the head.
_AFFINE = np.linalg.pinv(HEAD * _ROOT[:, None]).T.copy()
#: Rounds of weighing points by how well they fit, which takes an open mouth or a raised brow out.
_ROUNDS = 2
#: A turn, in radians, that is none: the fit is done.
SMALL = 1e-7
#: Steps that follow a turn of less, in radians, take the second derivatives into account: without them a head that
#: looks straight ahead, whose nods hardly show, needs up to hundreds. Further away they may point uphill.
NEAR = 0.01


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

    Starts at the best weak-perspective fit and refines it by Levenberg-Marquardt, near its end by Newton's method, on
    the squared distances in the image over how much each point varies between heads, and less the worse it fits. The
    head may bend along the ways in which faces differ (`refnet.faces.head_shape`), at the price of their variance, so
    that a smile or a long nose is not taken for a nod. What is left of that would still read as a nod of 5 degrees,
    root mean square; so a nod counts as unlikely the further it goes (Cauchy's distribution, half of all heads within
    `NODS`), and this the more the worse the face fits. Points of the very head read what they are. Of faces that
    differ as faces do, nods of 10, 15, 20 and 30 degrees read 8, 13, 19 and 30 up and 20 reads 16 down, on average;
    a single one is as uncertain as before from 15 degrees on.

    Expect errors of several degrees all the same. Of 18 faces that by eye are level and look into the lens, chosen
    before they were measured, 17 read less than 6 degrees of pitch, 17 of yaw and 16 of both, half of them less
    than 1.5 and 1.6; with the points of the networks that taught this one, all 18. Of 14 more, chosen with less care,
    half did, with the points of an earlier network; four of these are turned by 7 to 10 degrees, as a network has it
    that finds depth.
    Turns beyond 50 degrees read too small, since networks guess the far side.

    Args:
        image_shape: the image's (H, W, ...), through whose middle the optical axis goes; used with `focal`.
        focal: the camera's focal length in pixels. Without it the head is taken to be a metre away.

    Raises:
        OptionError: `focal` is no length, or is given without `image_shape`.
        ShapeError: these are not the 98 points of one face.
    """
    return head_poses(checked_98(points, one_face=True)[None], image_shape, focal=focal)[0]


def head_poses(
    points: Array, image_shape: Sequence[int] | None = None, *, focal: float | None = None
) -> list[HeadPose]:
    """The same of several faces (F, 98, 2) of one image at once, which takes little longer than of one.

    Raises:
        As `head_pose`.
    """
    points = checked_98(points).astype(np.float64)[:, list(POINTS)]
    if not len(points):
        return []
    middle = SHARE @ points  # (F, 2)
    seen = (points - middle[:, None]).swapaxes(1, 2)  # (F, 2, K) from here on
    towards = np.broadcast_to(np.eye(3), (len(points), 3, 3))
    if focal is None:
        pixels = np.maximum(_weak(seen)[1], 1e-9) * DISTANCE
        seen = seen / pixels[:, None, None]
    elif image_shape is None or not 0 < focal < np.inf:
        raise OptionError(f"focal is a length in pixels, with the image's shape, not {focal!r}")
    else:
        pixels = np.full(len(points), float(focal))
        optical = np.array([image_shape[1], image_shape[0]]) / 2
        rays = np.ones((len(points), 3, len(POINTS) + 1))
        rays[:, :2, :-1] = (points - optical).swapaxes(1, 2) / focal
        rays[:, :2, -1] = (middle - optical) / focal
        towards = _between(rays[:, :, -1], _AHEAD)
        turned = towards @ rays[:, :, :-1]
        seen = turned[:, :2] / turned[:, 2:]
    rotation, scale = _weak(seen)
    one_spot, scale = scale < 1e-9, np.maximum(scale, 1e-9)[:, None]
    place = np.concatenate([seen @ SHARE, np.ones((len(points), 1))], axis=1) / scale
    fit = _Fit(rotation, place, np.zeros((len(points), len(MODES))))
    errors = ERRORS * scale
    weights, level = np.ones_like(errors), np.zeros(len(points))
    for _ in range(_ROUNDS):
        fit = _refined(seen, np.sqrt(weights) / errors, fit, level)
        off = np.hypot(*_distances(seen, fit).swapaxes(0, 1))
        weights = 1 / (1 + (off / (3 * errors)) ** 2)
        misfit = np.sqrt(((off / errors) ** 2).mean(axis=1) + (fit.bend**2).mean(axis=1))
        nod = np.arctan2(fit.rotation[:, 2, 1], fit.rotation[:, 2, 2])
        level = misfit * np.sqrt(2) / np.hypot(NODS, nod)
    error = np.sqrt((off**2).mean(axis=1)) * pixels
    back = towards.swapaxes(1, 2)
    translation = (back @ fit.translation[..., None])[..., 0]
    rotation = _between(translation, _AHEAD) @ back @ fit.rotation
    # Rz(roll) Ry(b) Rx(a), with pitch = -a and yaw = -b.
    a = np.arctan2(rotation[:, 2, 1], rotation[:, 2, 2])
    b = np.arctan2(-rotation[:, 2, 0], np.hypot(rotation[:, 2, 1], rotation[:, 2, 2]))
    roll = np.arctan2(rotation[:, 1, 0], rotation[:, 0, 0])
    angles = np.degrees(np.stack([-a, -b, roll], axis=1)).tolist()
    return [
        HeadPose(
            *(angles[i][0], angles[i][1], angles[i][2]),
            rotation[i],
            None if focal is None else translation[i],
            float(error[i]),
            np.inf if one_spot[i] else float(misfit[i]),
        )
        for i in range(len(points))
    ]


@dataclass(frozen=True)
class _Fit:
    """Heads' rotations (F, 3, 3), translations (F, 3), and how far they are bent along each mode (F, M)."""

    rotation: Array
    translation: Array
    bend: Array

    def moved(self, step: Array) -> _Fit:
        """These heads after steps (F, 6 + M): a turn, a shift, and bends."""
        return _Fit(
            _turn(step[:, :3]) @ self.rotation,
            self.translation + step[:, 3:6],
            self.bend + step[:, 6:],
        )

    def of(self, chosen: Array) -> _Fit:
        """The heads at these indices."""
        return _Fit(self.rotation[chosen], self.translation[chosen], self.bend[chosen])

    def put(self, chosen: Array, others: _Fit) -> None:
        """Have the heads at these indices be others."""
        self.rotation[chosen], self.translation[chosen] = others.rotation, others.translation
        self.bend[chosen] = others.bend


def _between(start: Array, end: Array) -> Array:
    """(F, 3, 3) the smallest rotations that bring the directions of `start` (F, 3) to that of `end` (3,), which is not
    opposite."""
    start = start / np.linalg.norm(start, axis=1, keepdims=True)
    axis = np.cross(start, end)
    sine = np.linalg.norm(axis, axis=1)
    angle = np.arctan2(sine, start @ end)
    return _turn(axis * (angle / np.where(sine > 0, sine, 1))[:, None])


def _weak(seen: Array) -> tuple[Array, Array]:
    """Rotations (F, 3, 3) and scales (F,) of the heads that fit `seen` (F, 2, K) best where every point is at the same
    distance."""
    affine = ((seen - (seen @ SHARE)[..., None]) * _ROOT) @ _AFFINE
    u, scales, v = np.linalg.svd(affine, full_matrices=False)
    two_rows = u @ v
    third = np.cross(two_rows[:, 0], two_rows[:, 1])
    return np.concatenate([two_rows, third[:, None]], axis=1), scales.mean(axis=1)


def _refined(seen: Array, weights: Array, fit: _Fit, level: Array | float = 0.0) -> _Fit:
    """The fits at the nearest minima of the squares of the distances times `weights` (F, K), of the bends, and of the
    nods in radians times `level` (F,).

    Each face takes the steps that it would take alone; those that have arrived are laid aside.
    """
    found, left = fit.of(np.arange(len(seen))), np.arange(len(seen))
    damping, near = np.full(len(seen), 1e-3), np.zeros(len(seen), bool)
    nods = np.broadcast_to(np.asarray(level), len(seen))
    equations = _equations(seen, weights, fit, nods, False)
    for _ in range(50):
        normal, slope, curved, cost = equations
        damped = normal + curved * near[:, None, None]
        _diagonal(damped)[...] += damping[:, None] * (_diagonal(normal) + 1e-12)
        step = -np.linalg.solve(damped, slope[..., None])[..., 0]
        turn = np.abs(step[:, :3]).max(axis=1)
        # Arrived, and rounding alone says which of two such fits is better.
        stays = turn >= SMALL
        tried = fit.moved(step)
        small = turn < NEAR
        of_tried = _equations(seen, weights, tried, nods, bool(small.any()))
        better = (tried.translation[:, 2] > 0) & (of_tried[3] <= cost) & stays
        lost = damping > 1e10
        near = better & small
        if better.all():
            fit, equations, damping = tried, of_tried, damping / 10
            continue
        fit.put(better, tried.of(better))
        for own, new in zip(equations, of_tried, strict=True):
            own[better] = new[better]
        damping = np.where(better, damping / 10, damping * 10)
        stays &= better | ~lost
        if not stays.all():
            found.put(left[~stays], fit.of(~stays))
            if not stays.any():
                return found
            fit, left, damping, near = fit.of(stays), left[stays], damping[stays], near[stays]
            seen, weights, nods = seen[stays], weights[stays], nods[stays]
            equations = tuple([part[stays] for part in equations])
    found.put(left, fit)
    return found


def _placed(fit: _Fit) -> tuple[Array, Array]:
    """(F, 3, K) the heads turned, and these at their places."""
    bent = _HEAD + (fit.bend @ _BENDS).reshape(-1, *_HEAD.shape)
    turned = fit.rotation @ bent
    return turned, turned + fit.translation[..., None]


def _distances(seen: Array, fit: _Fit) -> Array:
    """(F, 2, K) how far the heads' points lie from where they are `seen`."""
    placed = _placed(fit)[1]
    return np.asarray(placed[:, :2] / placed[:, 2:] - seen)


def _equations(
    seen: Array, weights: Array, fit: _Fit, level: Array, curved: bool
) -> tuple[Array, Array, Array, Array]:
    """What a step follows from: the normal equations, (F, 6 + M, 6 + M) and (F, 6 + M); what the second derivatives add
    to the former, zeros unless `curved`; and (F,) what steps make smaller."""
    count, size = len(seen), 6 + len(MODES)
    turned, placed = _placed(fit)
    near = 1 / placed[:, 2]
    at = placed[:, :2] * near[:, None]
    residual = (at - seen) * weights[:, None]
    # How each point moves with each parameter: across the axis of a turn, with a shift, along a mode.
    modes = fit.rotation @ _MODES
    moves = np.empty((count, 3, size, len(HEAD)))
    moves[:, :, :3] = (_ACROSS @ turned).reshape(count, 3, 3, -1)
    moves[:, :, 3:6] = _SHIFTS
    moves[:, :, 6:] = modes.reshape(count, 3, len(MODES), -1)
    # The derivatives of its u and v in the image by its place are (1, 0, -u) and (0, 1, -v), over its depth.
    by = np.empty((count, size, 2, len(HEAD)))
    np.multiply(at[:, None], moves[:, 2, :, None], out=by)
    np.subtract(moves[:, :2].swapaxes(1, 2), by, out=by)
    by *= (near * weights)[:, None, None]
    jacobian = by.reshape(count, size, -1)
    normal = jacobian @ jacobian.swapaxes(1, 2)
    slope = (jacobian @ residual.reshape(count, -1, 1))[..., 0]
    _diagonal(normal)[:, 6:] += 1
    slope[:, 6:] += fit.bend
    cost = np.square(residual).sum(axis=(1, 2)) + np.square(fit.bend).sum(axis=1)
    # The nod counts less the further the head is turned: of a profile it is certain, and beyond undefined.
    up, ahead = fit.rotation[:, 2, 1], fit.rotation[:, 2, 2]
    facing = np.hypot(up, ahead)
    nod = level * np.arctan2(up, ahead) * facing
    by_turn = (level / np.maximum(facing, 1e-9))[:, None] * fit.rotation[:, :2, 0]
    normal[:, :2, :2] += by_turn[:, :, None] * by_turn[:, None]
    slope[:, :2] += by_turn * nod[:, None]
    cost += nod**2
    second = np.zeros_like(normal)
    if curved:
        # The pull of a point's distances on each parameter, and on the point itself, for which the shift stands.
        pull = (by * residual[:, None]).sum(axis=2)
        force = pull[:, 3:6].swapaxes(1, 2)
        # A point further away moves less in the image; one that turns moves on a circle, and takes its modes along.
        half = (pull * -near[:, None]) @ moves[:, 2].swapaxes(1, 2)
        moment = turned @ force / 2
        half[:, :3, :3] += moment
        _diagonal(half)[:, :3] -= _diagonal(moment).sum(axis=1)[:, None]
        along = (modes.reshape(count, -1, len(HEAD)) @ force).reshape(count, 3, len(MODES), 3)
        half[:, 6:, :3] += along.swapaxes(1, 2).reshape(count, -1, 9) @ _ACROSS_OF
        second = half + half.swapaxes(1, 2)
    return normal, slope, second, cost


def _diagonal(matrices: Array) -> Array:
    """(F, N) a view of the diagonals of matrices (F, N, N)."""
    size = matrices.shape[1]
    return matrices.reshape(len(matrices), -1)[:, :: size + 1]


def _turn(vectors: Array) -> Array:
    """(F, 3, 3) the rotations about `vectors` (F, 3) by their lengths in radians (Rodrigues' formula)."""
    angles = np.sqrt((vectors**2).sum(axis=1))
    cross = ((vectors / np.where(angles > 0, angles, 1)[:, None]) @ _CROSS).reshape(-1, 3, 3)
    sine, cosine = np.sin(angles)[:, None, None], np.cos(angles)[:, None, None]
    return np.asarray(_EYE + sine * cross + (1 - cosine) * (cross @ cross))
