"""A sheet of small pictures, such as the worst cases of an evaluation: truth in green, what was found in orange."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from refnet.media.images import opencv
from refnet.ops import Array

#: Side of a tile in pixels.
TILE = 224
TRUE, FOUND = (0, 220, 0), (0, 90, 255)  # BGR
BACKGROUND = 24


def sheet(tiles: Sequence[Array], columns: int = 4) -> Array:
    """Tiles, uint8 (TILE, TILE, 3), row by row as one image, `columns` beside each other."""
    rows = -(-len(tiles) // columns)
    canvas = np.full((rows * TILE, min(columns, len(tiles)) * TILE, 3), BACKGROUND, np.uint8)
    for i, tile in enumerate(tiles):
        y, x = i // columns * TILE, i % columns * TILE
        canvas[y : y + TILE, x : x + TILE] = tile
    return canvas


def points_tile(crop: Array, truth: Array, found: Array, label: str) -> Array:
    """A face's crop, uint8 (S, S, 3) BGR, with points (K, 2), fractions of its side."""
    cv2 = opencv()
    tile = cv2.resize(crop, (TILE, TILE))
    for points, colour in ((truth, TRUE), (found, FOUND)):
        for x, y in points * TILE:
            cv2.circle(tile, (round(float(x)), round(float(y))), 1, colour, -1)
    return _labelled(tile, label)


def boxes_tile(image: Array, truth: Array, found: Array, label: str) -> Array:
    """A whole image, uint8 (H, W, 3) BGR, with xyxy boxes (N, 4) in its pixels."""
    cv2 = opencv()
    scale = TILE / max(image.shape[:2])
    small = cv2.resize(image, (0, 0), fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    for boxes, colour in ((truth, TRUE), (found, FOUND)):
        for box in boxes * scale:
            x1, y1, x2, y2 = (round(float(v)) for v in box)
            cv2.rectangle(small, (x1, y1), (x2, y2), colour, 1)
    tile = np.full((TILE, TILE, 3), BACKGROUND, np.uint8)
    tile[: small.shape[0], : small.shape[1]] = small[:TILE, :TILE]
    return _labelled(tile, label)


def _labelled(tile: Array, text: str) -> Array:
    cv2 = opencv()
    for colour, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):
        cv2.putText(
            tile, text, (4, 14), cv2.FONT_HERSHEY_SIMPLEX, 0.42, colour, thickness, cv2.LINE_AA
        )
    return tile
