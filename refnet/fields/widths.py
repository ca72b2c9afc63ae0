"""How wide an effective receptive field is: each width a function of a map.

A map is a float array (rows, columns) of non-negative values whose peak is 1. Boxes are (x1, y1, x2, y2)
in the map's own pixels, x2 and y2 exclusive; widths are in pixels.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from refnet.ops import Array

#: The share of a Gaussian within two standard deviations of its mean.
TWO_SIGMA_SHARE = 0.9545


@dataclass(frozen=True)
class GaussianFit:
    """amplitude · exp(-(x - mean)² / 2 sigma²), fitted to a profile whose peak is 1.

    Attributes:
        mean, sigma: in pixels.
        amplitude: relative to the profile's peak.
        residual: root mean square of profile minus fit, relative to the profile's peak.
    """

    amplitude: float
    mean: float
    sigma: float
    residual: float

    def __call__(self, x: Array) -> Array:
        """The fit at `x`."""
        curve: Array = self.amplitude * np.exp(-(((x - self.mean) / self.sigma) ** 2) / 2)
        return curve


def bounding_box(mask: Array) -> tuple[int, int, int, int]:
    """The smallest box around the true pixels; (0, 0, 0, 0) where none is."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return 0, 0, 0, 0
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def luo_width(field: Array) -> float:
    """√(number of pixels above 1 - 0.9545 of the peak)  (Luo et al. 2016, §4.1)."""
    return math.sqrt(np.count_nonzero(field > 1 - TWO_SIGMA_SHARE))


def moments(profile: Array) -> tuple[float, float]:
    """(mean, standard deviation) of a profile read as a distribution over its pixels."""
    x = np.arange(len(profile))
    total = profile.sum()
    mean = float(x @ profile / total)
    return mean, math.sqrt(float((x - mean) ** 2 @ profile / total))


def two_sigma_width(profile: Array) -> float:
    """Four standard deviations of a marginal: two on either side of its mean."""
    return 4 * moments(profile)[1]


def central_window(field: Array, centre: tuple[int, int], share: float = TWO_SIGMA_SHARE) -> int:
    """Side of the smallest odd square around the pixel `centre` (row, column) that holds `share`."""
    rows, columns = (np.arange(size) for size in field.shape)
    radius = np.maximum(abs(rows[:, None] - centre[0]), abs(columns - centre[1]))
    held = np.bincount(radius.ravel(), field.ravel()).cumsum()
    return 2 * int(np.searchsorted(held, share * held[-1])) + 1


def smoothed(field: Array, sigma: float) -> Array:
    """`field` after a Gaussian blur of `sigma` pixels, its peak 1 again; zeros lie outside."""
    radius = math.ceil(4 * sigma)
    x = np.arange(-radius, radius + 1)
    kernel = np.exp(-((x / sigma) ** 2) / 2)
    kernel /= kernel.sum()
    blurred = np.pad(field, radius)
    for axis in (0, 1):
        blurred = np.apply_along_axis(np.convolve, axis, blurred, kernel, mode="same")
    blurred = blurred[radius:-radius, radius:-radius]
    result: Array = blurred / blurred.max()
    return result


def fit_gaussian(profile: Array) -> GaussianFit:
    """The least-squares Gaussian through a profile, by Gauss and Newton from its moments."""
    y = profile / profile.max()
    x = np.arange(len(y), dtype=float)
    mean, sigma = moments(y)
    sigma = max(sigma, 0.5)
    best = _gaussian(x, y, mean, sigma)
    for _ in range(50):
        curve = best(x)
        z = (x - best.mean) / best.sigma
        slopes = np.stack(
            [curve / best.amplitude, curve * z / best.sigma, curve * z**2 / best.sigma]
        )
        step = np.linalg.lstsq(slopes.T, y - curve, rcond=None)[0]
        for scale in 0.5 ** np.arange(8):  # shorten a step that does not help
            mean, sigma = best.mean + scale * step[1], best.sigma + scale * step[2]
            trial = _gaussian(x, y, mean, sigma) if sigma > 0 else best
            if trial.residual < best.residual:
                break
        else:
            return best
        done = best.residual - trial.residual < 1e-12
        best = trial
        if done:
            break
    return best


def _gaussian(x: Array, y: Array, mean: float, sigma: float) -> GaussianFit:
    """The Gaussian of this mean and sigma with the amplitude that fits best."""
    unit = np.exp(-(((x - mean) / sigma) ** 2) / 2)
    amplitude = float(unit @ y / (unit @ unit))
    residual = math.sqrt(np.mean((y - amplitude * unit) ** 2))
    return GaussianFit(amplitude, float(mean), float(sigma), residual)
