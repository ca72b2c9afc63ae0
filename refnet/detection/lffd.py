"""LFFD's head: a score map and a box map for each branch, on a pyramid of the image.

A branch's unit (row v, column u) sits at the centre of its receptive field, c + S·u, c + S·v in input
pixels. Its four numbers d are distances to the box's edges in units of K, half of the largest object
that the branch is made for (not half of its receptive field, as is often written):

    x1 = c + S·u - K·d0,  y1 = c + S·v - K·d1,  x2 = c + S·u - K·d2,  y2 = c + S·v - K·d3

Source: YonghaoHe/LFFD, predict.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from refnet.arrays import Array, Pair
from refnet.detection.detections import Candidates
from refnet.detection.geometry import BranchGeometry
from refnet.detection.pyramid import PyramidHead
from refnet.detection.tiling import Tile


class LFFDHead(PyramidHead):
    """Outputs score_1 (N, 1, h, w), bbox_1 (N, 4, h, w), score_2, bbox_2 and so on."""

    def decode(self, outputs: Sequence[Array], tile: Tile, scale: float) -> Candidates:
        """The candidates of one tile of one image, by branch; see `PyramidHead.decode`."""
        return Candidates.joined(
            [
                decode_branch(
                    self.branches[i],
                    outputs[2 * i][0],
                    outputs[2 * i + 1],
                    self.settings.threshold,
                    scale=scale,
                    origin=tile.origin,
                    owned=tile.owned[i],
                )
                for i in self.used
            ]
        )


def decode_branch(
    branch: BranchGeometry,
    scores: Array,
    distances: Array,
    threshold: float,
    *,
    scale: float = 1.0,
    origin: Pair = (0, 0),
    owned: tuple[slice, slice] = (slice(None), slice(None)),
) -> Candidates:
    """The candidates of one branch on one image.

    Args:
        scores: (h, w), the branch's score map.
        distances: (4, h, w), its box map.
        threshold: units with a strictly higher score are candidates.
        scale: input pixels per image pixel; boxes are divided by it.
        origin: (row, column) in the whole input of the pixel at the map's input's top left corner.
        owned: (rows, columns) of the units to take.

    Returns:
        Boxes in image pixels. K·d is computed in the maps' float32, the rest in float64, as the
        official code does.
    """
    rows, columns = owned
    inside = scores[rows, columns] > np.float32(threshold)
    v, u = np.nonzero(inside)
    v, u = v + (rows.start or 0), u + (columns.start or 0)
    x = (branch.centre + origin[1] + branch.stride * u).astype(np.float64)
    y = (branch.centre + origin[0] + branch.stride * v).astype(np.float64)
    offsets = distances[:, v, u] * distances.dtype.type(branch.norm)
    centres = np.stack([x, y, x, y], axis=1)
    boxes = (centres - offsets.T) / scale
    return Candidates(boxes, scores[v, u], np.zeros(len(v), np.int64))
