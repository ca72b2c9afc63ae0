"""From the outputs of a detection network to candidate boxes, before non-maximum suppression.

A branch's unit (row v, column u) sits at the centre of its receptive field, c + S·u, c + S·v in input
pixels. Its four numbers d are distances to the box's edges in units of K, half of the largest object
that the branch is made for (not half of its receptive field, as is often written):

    x1 = c + S·u - K·d0,  y1 = c + S·v - K·d1,  x2 = c + S·u - K·d2,  y2 = c + S·v - K·d3

Source: YonghaoHe/LFFD, predict.py; aoru45/BasketNet for its priors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from refnet.detection.detections import Candidates
from refnet.errors import OptionError
from refnet.fields.branches import branches
from refnet.graph import Graph
from refnet.ops import Array, Pair


@dataclass(frozen=True)
class BranchGeometry:
    """Where a branch's units are, and how it writes boxes.

    Attributes:
        stride: input pixels between neighbouring units.
        centre: pixel coordinate of unit 0's centre, along both axes.
        receptive_field: side in pixels of what a unit sees.
        norm: K, the pixels that a distance of 1 stands for.
        lower, upper: the longer side in pixels of the objects that the branch is made for.
    """

    stride: int
    centre: int
    receptive_field: int
    norm: float
    lower: int
    upper: int


def geometry(graph: Graph) -> tuple[BranchGeometry, ...]:
    """The branches of a detection network, in the order of its outputs; places follow from its layers."""
    found = []
    for branch in branches(graph):
        assert branch.objects is not None and branch.field.aligned
        lower, upper = branch.objects
        found.append(
            BranchGeometry(
                stride=branch.field.jump[0],
                centre=int(branch.field.rows.centre),
                receptive_field=branch.field.size[0],
                norm=upper / 2,
                lower=lower,
                upper=upper,
            )
        )
    return tuple(found)


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


def basketnet_priors(graph: Graph) -> Array:
    """BasketNet's prior table, (cells, 3) float32: centre x, centre y and K, in units of the input.

    Clipped to [0, 1]. Centres are at half a stride, 1 to 15 pixels off the receptive fields' true
    centres; training has absorbed that, so these priors belong to BasketNet's weights alone.

    Raises:
        OptionError: the graph's input is not square.
    """
    _, height, width = graph.input_shape
    if height != width:
        raise OptionError(
            f"BasketNet's priors are for a square input, not {height}×{width}; build it with "
            "input_size=640"
        )
    tables = []
    for branch in geometry(graph):
        units = (width + 1) // branch.stride - 1
        v, u = np.indices((units, units))
        centres = [(u + 0.5) * branch.stride, (v + 0.5) * branch.stride]
        norm = np.full(v.shape, branch.norm)
        tables.append(np.stack([*centres, norm], axis=-1).reshape(-1, 3) / width)
    return np.concatenate(tables).clip(0, 1).astype(np.float32)


def decode_basketnet(
    logits: Array, locations: Array, priors: Array, threshold: float, shape: Pair
) -> Candidates:
    """The candidates of BasketNet on one image.

    Args:
        logits: (cells, classes), class 0 the background.
        locations: (cells, 4).
        priors: (cells, 3) of `basketnet_priors`.
        threshold: a class with a strictly higher probability is a candidate.
        shape: (height, width) of the image, which was stretched to the network's input.

    Returns:
        Boxes in image pixels, class by class; label 0 is the first class behind the background.
    """
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = shifted / shifted.sum(axis=1, keepdims=True)
    label, cell = np.nonzero(probabilities.T[1:] > np.float32(threshold))
    corners = priors[cell][:, [0, 1, 0, 1]] - locations[cell] * priors[cell, 2:]
    height, width = shape
    boxes = corners.astype(np.float64) * (width, height, width, height)
    return Candidates(boxes, probabilities[cell, label + 1], label)
