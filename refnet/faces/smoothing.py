"""Points without jitter and without lag: the One Euro filter, which lets go where something has moved.

The filter (Casiez, Roussel and Vogel 2012) is a low-pass filter whose cutoff grows with speed, so that
a still face stands still and a moving one is not left behind. Its speed is an average of the last
quarter of a second: a blink is over before it has grown, and after a cut the old face would show through.
So points that are further from where they were than the noise of this video reaches are taken as they
are.

A face's points are filtered in two parts: their middle, which all of them share and whose speed is
therefore known well, and each point's place about the middle. Lengths are in face sizes, so that the
same settings suit a face near and far.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from refnet.arrays import Array
from refnet.errors import OptionError

#: So many points are of a scheme that goes along contours, where neighbours by number are neighbours.
CONTOURS = 17
#: What is this many times as far off as is usual lately is no noise. Hz: the cutoff of what is usual.
ABOVE_USUAL, LEVEL_CUTOFF = 3.5, 0.3


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

    def catch_up(self, value: Array, share: Array) -> Array:
        """The filtered value, which goes `share` (in [0, 1], of each point) of its way to `value`."""
        assert self._value is not None
        self._value = self._value + share * (value - self._value)
        return self._value


def smoothing_factor(cutoff: Array, step: float) -> Array:
    """Weight of the new value in exponential smoothing of `cutoff` Hz at a time step in seconds."""
    turn = 2 * math.pi * cutoff * step
    return np.asarray(turn / (turn + 1))


@dataclass(frozen=True)
class Smoothing:
    """Settings of the smoothing; see `OneEuroFilter`. Speeds and distances are in face sizes.

    The defaults take two thirds of the jitter from a still face. A face that moves by a fifth of its
    size in a second or faster is followed with at most a frame of lag at 30 frames per second; a jump, a
    blink and a cut without any.

    Attributes:
        min_cutoff: Hz.
        beta: for the middle of the face.
        point_beta: for the points' places about the middle.
        derivative_cutoff: Hz.
        noise: points that are further than this from where the filter has them, and further than three and a half
            times what is usual in this video, begin to leave it, and at twice the distance they stay as they were found.
    """

    min_cutoff: float = 0.15
    beta: float = 25.0
    point_beta: float = 4.0
    derivative_cutoff: float = 0.7
    noise: float = 0.013


class PointsFilter:
    """Smooths (n, 2) points: their middle, and their places about it.

    Raises:
        OptionError: a setting is out of range.
    """

    def __init__(self, smoothing: Smoothing) -> None:
        self.parts = [_Part(smoothing, beta) for beta in (smoothing.beta, smoothing.point_beta)]

    def __call__(self, points: Array, time: float, size: float) -> Array:
        """The smoothed points (n, 2) float32.

        Args:
            points: (n, 2), as found at `time` in seconds.
            size: what counts as a length of 1.
        """
        points = points.astype(np.float64)
        middle = points.mean(axis=0, keepdims=True)
        of_middle, of_places = self.parts
        places, jumped = of_places(points - middle, time, size, 0.0)
        # Where all places have jumped it is another face, which is elsewhere too.
        smooth, _ = of_middle(middle, time, size, jumped)
        return np.asarray(smooth + places, np.float32)


class _Part:
    """A One Euro filter that lets go of points which are further off than noise reaches."""

    def __init__(self, smoothing: Smoothing, beta: float) -> None:
        if not smoothing.noise > 0:
            raise OptionError(f"noise is positive and not negative or 0: {smoothing.noise!r}")
        self.least = smoothing.noise
        self.filter = OneEuroFilter(smoothing.min_cutoff, beta, smoothing.derivative_cutoff)
        self.usual, self.frames = 0.0, 0  # how far points are off on average, in sizes
        self.time: float | None = None

    def __call__(
        self, points: Array, time: float, size: float, jumped: float
    ) -> tuple[Array, float]:
        """The smoothed points, and the share of its way that each of them, `jumped` or more, jumps at least."""
        steady = self.filter(points, time, size)
        off = _off(points - steady) / size
        noise = max(self.least, ABOVE_USUAL * self.usual)
        if self.time is not None and time > self.time:
            share = float(smoothing_factor(np.array(LEVEL_CUTOFF), time - self.time))
            self.frames += 1
            # A jump counts as no more than noise, lest what follows it pass for noise too.
            usual = float(np.minimum(off, noise).mean())
            self.usual += max(share, 1 / self.frames) * (usual - self.usual)
        self.time = time if self.time is None else max(time, self.time)
        jumps = np.clip(off / noise - 1, jumped, 1)
        return self.filter.catch_up(points, jumps), float(jumps.min())


def _off(moved: Array) -> Array:
    """(n, 1): how far each of `moved` (n, 2) has gone, measured against what noise would do to one point.

    All together, and neighbours along a contour, cancel their noise and share their motion: the mean of
    three counts √3 times, as a lid's points do in a blink.
    """
    off = np.linalg.norm(moved, axis=-1, keepdims=True)
    together = np.sqrt(np.square(off).mean())
    if len(moved) >= CONTOURS:
        around = moved.copy()
        around[1:-1] = (moved[:-2] + moved[1:-1] + moved[2:]) / 3
        along = np.linalg.norm(around, axis=-1, keepdims=True) * math.sqrt(3)
        off[1:-1] = np.maximum(off[1:-1], along[1:-1])
    return np.asarray(np.maximum(off, together))
