"""A sheet of small pictures, such as the worst cases of an evaluation: truth in green, what was found in orange."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from refnet.media.images import opencv
from refnet.ops import Array

#: Side in pixels of a tile's picture, and height of the strip with its caption below.
TILE, STRIP = 224, 20
TRUE, FOUND = (0, 220, 0), (0, 90, 255)  # BGR
BACKGROUND = 24


def sheet(tiles: Sequence[Array], columns: int = 4) -> Array:
    """Tiles of one size, uint8 (h, w, 3), row by row as one image, `columns` beside each other, 4 pixels apart."""
    height, width = (side + 4 for side in tiles[0].shape[:2])
    rows = -(-len(tiles) // columns)
    canvas = np.full((rows * height, min(columns, len(tiles)) * width, 3), BACKGROUND, np.uint8)
    for i, tile in enumerate(tiles):
        y, x = i // columns * height, i % columns * width
        canvas[y : y + height - 4, x : x + width - 4] = tile
    return canvas


def points_tile(crop: Array, truth: Array, found: Array, label: str) -> Array:
    """A face's crop, uint8 (S, S, 3) BGR, with points (K, 2), fractions of its side; its caption stands below."""
    cv2 = opencv()
    tile = cv2.resize(crop, (TILE, TILE))
    for points, colour in ((truth, TRUE), (found, FOUND)):
        for x, y in points * (TILE * 16):
            at = (round(float(np.clip(x, -1e6, 1e6))), round(float(np.clip(y, -1e6, 1e6))))
            cv2.circle(tile, at, 24, colour, -1, cv2.LINE_AA, 4)
    return _captioned(tile, label)


def boxes_tile(image: Array, truth: Array, found: Array, label: str) -> Array:
    """A whole image, uint8 (H, W, 3) BGR, in the middle, with xyxy boxes (N, 4) in its pixels."""
    cv2 = opencv()
    scale = TILE / max(image.shape[:2])
    width, height = (min(TILE, max(1, round(side * scale))) for side in image.shape[1::-1])
    how = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    small = cv2.resize(image, (width, height), interpolation=how)
    for boxes, colour in ((truth, TRUE), (found, FOUND)):
        for box in boxes * scale:
            x1, y1, x2, y2 = (round(float(v)) for v in box)
            cv2.rectangle(small, (x1, y1), (x2, y2), colour, 1)
    tile = np.full((TILE, TILE, 3), BACKGROUND, np.uint8)
    y, x = (TILE - height) // 2, (TILE - width) // 2
    tile[y : y + height, x : x + width] = small
    return _captioned(tile, label)


def _captioned(tile: Array, text: str) -> Array:
    """The tile with a strip below, in which the text stands, smaller the longer it is, and cut off in the end."""
    cv2 = opencv()
    font, size = cv2.FONT_HERSHEY_SIMPLEX, 0.42
    room = tile.shape[1] - 8
    wide = cv2.getTextSize(text, font, size, 1)[0][0]
    if wide > room:
        size = max(0.3, size * room / wide)
    while text and cv2.getTextSize(text, font, size, 1)[0][0] > room:
        text = text.removesuffix("...")[:-1].rstrip() + "..." if len(text) > 4 else text[:-1]
    strip = np.full((STRIP, tile.shape[1], 3), BACKGROUND, np.uint8)
    cv2.putText(strip, text, (4, 14), font, size, (235, 235, 235), 1, cv2.LINE_AA)
    return np.concatenate([tile, strip])
