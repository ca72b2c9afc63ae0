"""Pictures that notebooks show."""

from __future__ import annotations

from typing import Any

import numpy as np

from refnet.arrays import Array
from refnet.media.images import opencv

#: A notebook shows a picture with at most this many pixels on its longer side, so that it does not grow by tens of
#: megabytes for a photo. The array keeps all of them.
SHOWN_SIDE = 1600


class Picture(np.ndarray[Any, Any]):
    """An image, uint8 (H, W, 3), that a notebook shows; in all else an array.

    Attributes:
        rgb: whether its channels are in the order R, G, B, else B, G, R.
    """

    rgb: bool = False

    @classmethod
    def of(cls, image: Array, *, rgb: bool = False) -> Picture:
        """`image`, uint8 (H, W, 3), as a picture of the same memory."""
        picture = image.view(cls)
        picture.rgb = rgb
        return picture

    def __array_finalize__(self, other: Any) -> None:
        self.rgb = getattr(other, "rgb", False)

    def _repr_png_(self) -> bytes | None:
        """The picture as PNG, shrunk where it is large; None of a part that is no image any more."""
        if self.ndim != 3 or self.shape[2] != 3 or self.dtype != np.uint8 or 0 in self.shape:
            return None
        pixels, cv2 = np.asarray(self), opencv()
        scale = SHOWN_SIDE / max(pixels.shape[:2])
        if scale < 1:
            width, height = (max(1, round(side * scale)) for side in pixels.shape[1::-1])
            pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
        done, encoded = cv2.imencode(".png", pixels[:, :, ::-1] if self.rgb else pixels)
        return encoded.tobytes() if done else None
