"""The same face from frame to frame, and its points without jitter.

Association: every detection of a frame goes to the track whose last box overlaps it most. Smoothing:
the One Euro filter (Casiez, Roussel and Vogel 2012), a low-pass filter whose cutoff grows with speed,
so that a still face stands still and a moving one is not left behind.

A face's points are filtered in two parts: their middle, which all of them share and whose speed is
therefore known well, and each point's place about the middle. Lengths are in face sizes, so that the
same settings suit a face near and far.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from refnet.arrays import Array
from refnet.detection.boxes import iou
from refnet.errors import OptionError
from refnet.faces.face import Face, Faces


class OneEuroFilter:
    """The One Euro filter over an array of values, each along its last axis one point.

    The cutoff frequency of a point is min_cutoff + beta · speed, in Hz; the speed is the length of
    the filtered derivative along the last axis.

    Args:
        min_cutoff: cutoff at rest, Hz. Lower: less jitter, more lag at the start of a motion.
        beta: growth of the cutoff with speed. Higher: less lag in motion.
        derivative_cutoff: cutoff for the derivative itself, Hz.
    """

    def __init__(
        self, min_cutoff: float = 1.0, beta: float = 0.0, derivative_cutoff: float = 1.0
    ) -> None:
        if min_cutoff <= 0 or beta < 0 or derivative_cutoff <= 0:
            raise OptionError(
                "min_cutoff and derivative_cutoff are positive and beta is not negative, not "
                f"{min_cutoff!r}, {derivative_cutoff!r} and {beta!r}"
            )
        self.min_cutoff, self.beta = min_cutoff, beta
        self.derivative_cutoff = derivative_cutoff
        self._value: Array | None = None
        self._derivative: Array | None = None
        self._time = 0.0

    def __call__(self, value: Array, time: float, scale: float = 1.0) -> Array:
        """The filtered value at `time`.

        Args:
            value: the same shape at every call.
            time: seconds; a call that is not later than the one before changes nothing.
            scale: what counts as a length of 1 in the speed.
        """
        value = np.asarray(value, np.float64)
        if self._value is None or self._derivative is None:
            self._value, self._derivative = value, np.zeros_like(value)
        elif time > self._time:
            step = time - self._time
            a = smoothing_factor(np.array(self.derivative_cutoff), step)
            self._derivative = self._derivative + a * (
                (value - self._value) / step - self._derivative
            )
            speed = np.linalg.norm(self._derivative, axis=-1, keepdims=True) / scale
            a = smoothing_factor(self.min_cutoff + self.beta * speed, step)
            self._value = self._value + a * (value - self._value)
        self._time = max(time, self._time)
        return self._value


def smoothing_factor(cutoff: Array, step: float) -> Array:
    """Weight of the new value in exponential smoothing of `cutoff` Hz at a time step in seconds."""
    turn = 2 * math.pi * cutoff * step
    return np.asarray(turn / (turn + 1))


@dataclass(frozen=True)
class Smoothing:
    """Settings of the smoothing; see `OneEuroFilter`. Speeds are in face sizes per second.

    The defaults take three quarters of the jitter from a still face, and follow a face that moves by
    half its size in a second with less than a frame of lag at 30 frames per second.

    Attributes:
        min_cutoff: Hz.
        beta: for the middle of the face.
        point_beta: for the points' places about the middle; higher keeps more of a quick blink.
        derivative_cutoff: Hz.
    """

    min_cutoff: float = 0.3
    beta: float = 10.0
    point_beta: float = 6.0
    derivative_cutoff: float = 1.0


class _PointsFilter:
    """Smooths (n, 2) points: their middle, and their places about it."""

    def __init__(self, smoothing: Smoothing) -> None:
        cutoff, derivative = smoothing.min_cutoff, smoothing.derivative_cutoff
        self.middle = OneEuroFilter(cutoff, smoothing.beta, derivative)
        self.about = OneEuroFilter(cutoff, smoothing.point_beta, derivative)

    def __call__(self, points: Array, time: float, size: float) -> Array:
        middle = points.mean(axis=0, keepdims=True)
        smooth = self.middle(middle, time, size) + self.about(points - middle, time, size)
        return smooth.astype(np.float32)


class _Track:
    """One face through time."""

    def __init__(self, number: int, smoothing: Smoothing | None) -> None:
        self.number = number
        self.smoothing = smoothing
        self.box: Array = np.zeros(4)
        self.seen = 0.0
        self.filters: dict[tuple[str, int], _PointsFilter] = {}

    def follow(self, face: Face, time: float) -> Face:
        """The face with this track's number, smoothed."""
        self.box, self.seen = face.box, time
        face = replace(face, track=self.number)
        if self.smoothing is None:
            return face
        corners = self.smooth("box", face.box.reshape(2, 2), time)
        landmarks = face.landmarks
        if landmarks is not None:
            landmarks = self.smooth("landmarks", landmarks, time)
        return replace(face, box=corners.reshape(4), landmarks=landmarks)

    def smooth(self, what: str, points: Array, time: float) -> Array:
        assert self.smoothing is not None
        size = max(float((self.box[2:] - self.box[:2]).max()), 1.0)
        key = what, len(points)  # another number of points is another set of points
        if key not in self.filters:
            self.filters[key] = _PointsFilter(self.smoothing)
        return self.filters[key](points, time, size)


class FaceTracker:
    """Numbers the faces of a video and takes the jitter from them.

    Args:
        smoothing: settings of the smoothing; None leaves boxes and points as they were found.
        overlap: a face continues a track where its box overlaps the track's last one by this
            intersection over union or more.
        patience: seconds after which a track that was not seen has ended.

    Raises:
        OptionError: a setting is out of range.
    """

    def __init__(
        self,
        smoothing: Smoothing | None = Smoothing(),
        *,
        overlap: float = 0.3,
        patience: float = 0.5,
    ) -> None:
        if not 0 < overlap <= 1 or patience < 0:
            raise OptionError(
                "overlap lies in (0, 1] and patience is not negative, not "
                f"{overlap!r} and {patience!r}"
            )
        if smoothing is not None:
            _PointsFilter(smoothing)  # raises now what it would raise at the first face
        self.smoothing, self.overlap, self.patience = smoothing, overlap, patience
        self._tracks: list[_Track] = []
        self._count = 0

    def update(self, faces: Sequence[Face], time: float) -> Faces:
        """The faces of the next frame with their tracks, smoothed, in the order given.

        Args:
            faces: what was found in the frame.
            time: of the frame, in seconds; grows from frame to frame.
        """
        self._tracks = [t for t in self._tracks if time - t.seen <= self.patience]
        matched = self._matched(faces)
        found = Faces()
        for i, face in enumerate(faces):
            if i not in matched:
                self._count += 1
                matched[i] = _Track(self._count, self.smoothing)
                self._tracks.append(matched[i])
            found.append(matched[i].follow(face, time))
        return found

    def _matched(self, faces: Sequence[Face]) -> dict[int, _Track]:
        """{index of a face: its track}; the pairs that overlap most are matched first."""
        overlaps = iou(
            np.array([face.box for face in faces], np.float64).reshape(-1, 4),
            np.array([track.box for track in self._tracks], np.float64).reshape(-1, 4),
        )
        matched: dict[int, _Track] = {}
        taken: set[int] = set()
        for flat in np.argsort(-overlaps, axis=None, kind="stable"):
            i, j = divmod(int(flat), overlaps.shape[1])
            if overlaps[i, j] < self.overlap:
                break
            if i not in matched and j not in taken:
                matched[i] = self._tracks[j]
                taken.add(j)
        return matched
