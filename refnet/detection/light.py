"""The head of `lffd-light`: a logit, four edges and five points for each cell of each branch.

A cell (row v, column u) of a branch of stride S has its centre at ((u + 1/2)·S, (v + 1/2)·S) in input
pixels. Its fifteen numbers n mean

    score   σ(n0)
    edges   left, top, right, bottom: the box reaches softplus(n1..n4)·1.5·S from the centre
    points  x and y of the eyes, the nose tip and the corners of the mouth: centre + (n5..n14)·S
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from refnet.arrays import Array, Pair
from refnet.detection.detections import Candidates
from refnet.detection.geometry import BranchGeometry
from refnet.detection.head import HeadSettings
from refnet.detection.pyramid import PyramidHead
from refnet.detection.tiling import Tile
from refnet.model import Model
from refnet.networks.defaults import Defaults

#: The distance of an edge in strides, for a softplus of 1.
EDGE = 1.5


class LightHead(PyramidHead):
    """Outputs branch_1 (N, 15, h, w), branch_2 and so on, from fine to coarse."""

    def __init__(self, model: Model, defaults: Defaults, settings: HeadSettings) -> None:
        super().__init__(model, defaults, settings)
        threshold = settings.threshold
        #: Logits are compared rather than scores: most cells need no exponential.
        self.least = math.log(threshold / (1 - threshold)) if threshold > 0 else -math.inf

    def decode(self, outputs: Sequence[Array], tile: Tile, scale: float) -> Candidates:
        """The candidates of one tile of one image, by branch; see `PyramidHead.decode`."""
        return Candidates.joined(
            [
                decode_cells(
                    self.branches[i],
                    outputs[i],
                    self.least,
                    scale=scale,
                    origin=tile.origin,
                    owned=tile.owned[i],
                )
                for i in self.used
            ]
        )


def decode_cells(
    branch: BranchGeometry,
    numbers: Array,
    least: float,
    *,
    scale: float = 1.0,
    origin: Pair = (0, 0),
    owned: tuple[slice, slice] = (slice(None), slice(None)),
) -> Candidates:
    """The candidates of one branch on one image.

    Args:
        numbers: (15, h, w), the branch's map.
        least: cells with a strictly higher logit are candidates.
        scale: input pixels per image pixel; boxes and points are divided by it.
        origin: (row, column) in the whole input of the map's input's top left corner.
        owned: (rows, columns) of the cells to take.
    """
    rows, columns = owned
    v, u = np.nonzero(numbers[0, rows, columns] > least)
    v, u = v + (rows.start or 0), u + (columns.start or 0)
    own = numbers[:, v, u].astype(np.float64)
    centre = (np.stack([u, v]) + 0.5) * branch.stride + np.array(origin[::-1])[:, None]
    edges = np.logaddexp(0, own[1:5]) * (EDGE * branch.stride)
    boxes = np.concatenate([centre - edges[:2], centre + edges[2:]]).T / scale
    points = (centre[:, None] + own[5:].reshape(5, 2, -1).swapaxes(0, 1) * branch.stride) / scale
    scores = (1 / (1 + np.exp(-own[0]))).astype(np.float32)
    labels = np.zeros(len(v), np.int64)
    return Candidates(boxes, scores, labels, points.transpose(2, 1, 0))
