"""Where a video cuts from one shot to the next."""

from __future__ import annotations

import numpy as np

from refnet.arrays import Array

#: An image is compared by the means of so many blocks, of so many pixels each: rows, columns.
BLOCKS, SAMPLES = (9, 16), (6, 6)
#: Two images of one shot correlate by more. Of the cuts of a broadcast none came above 0.3; its fastest motion came down
#: to 0.76, and a camera that swings by 7 % of the picture from frame to frame to 0.45.
SAME_SHOT = 0.4


class Shots:
    """Tells whether an image belongs to the shot of the one before it, at the cost of a few thousand pixels."""

    def __init__(self) -> None:
        self._last: Array | None = None

    def cut(self, image: Array) -> bool:
        """Whether `image`, uint8 (H, W, 3), is of another shot than the one before; not so for the first."""
        last, self._last = self._last, _blocks(image)
        if last is None:
            return False
        both = float(np.sqrt((last * last).sum() * (self._last * self._last).sum()))
        if both == 0:  # an image of one colour is a shot of its own
            return bool(last.any() or self._last.any())
        return float((last * self._last).sum()) / both < SAME_SHOT


def _blocks(image: Array) -> Array:
    """The means of `BLOCKS` of the green channel, less that of all, which light alone does not change."""
    rows, columns = (
        np.arange(blocks * samples) * side // (blocks * samples)
        for blocks, samples, side in zip(BLOCKS, SAMPLES, image.shape[:2], strict=True)
    )
    green = image[:, :, 1][rows][:, columns].astype(np.float32)
    blocks = green.reshape(BLOCKS[0], SAMPLES[0], BLOCKS[1], SAMPLES[1]).mean(axis=(1, 3))
    return np.asarray(blocks - blocks.mean())
