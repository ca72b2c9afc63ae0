"""BasketNet's head: lists of cells for all branches, on the image stretched to the network's input.

Source: aoru45/BasketNet.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from refnet.arrays import Array, Pair
from refnet.detection.detections import Candidates
from refnet.detection.geometry import geometry, object_range
from refnet.detection.head import HeadSettings
from refnet.errors import OptionError
from refnet.graph import Graph
from refnet.media.resize import resize
from refnet.model import Model
from refnet.networks.defaults import Defaults, detection_of


class BasketNetHead:
    """Outputs class logits (N, cells, classes) and locations (N, cells, 4).

    Raises:
        OptionError: scales or branches are asked for, or the network's input is not square.
    """

    def __init__(self, model: Model, defaults: Defaults, settings: HeadSettings) -> None:
        chosen = settings.min_size, settings.branches
        if settings.scales not in (None, (1.0,)) or chosen != (None, None):
            raise OptionError(
                f"{model.graph.name} stretches every image to its own input size; it has "
                "neither scales, min_size nor branches"
            )
        self.model, self.threshold = model, settings.threshold
        self.preprocessing = defaults.preprocessing
        ranges = detection_of(model.graph, defaults).object_ranges
        self.priors = basketnet_priors(model.graph, ranges)
        self.object_range: Pair = object_range(geometry(model.graph, ranges))

    def candidates(
        self, images: Sequence[Array], *, batch_size: int = 1, tile: int | None = None
    ) -> list[Candidates]:
        """See `refnet.detection.head.Head.candidates`."""
        _, height, width = self.model.graph.input_shape
        found: list[Candidates] = []
        for at in range(0, len(images), batch_size):
            chunk = images[at : at + batch_size]
            stretched = [resize(image, (width, height)) for image in chunk]
            outputs = self.model(self.preprocessing.apply(stretched))
            assert isinstance(outputs, tuple)
            found += [
                decode_basketnet(logits, locations, self.priors, self.threshold, image.shape[:2])
                for logits, locations, image in zip(*outputs, chunk, strict=True)
            ]
        return found


def basketnet_priors(graph: Graph, object_ranges: Sequence[Pair] | None = None) -> Array:
    """BasketNet's prior table, (cells, 3) float32: centre x, centre y and K, in units of the input.

    Clipped to [0, 1]. Centres are at half a stride, 1 to 15 pixels off the receptive fields' true
    centres; training has absorbed that, so these priors belong to BasketNet's weights alone.

    Args:
        object_ranges: as in `refnet.detection.geometry.geometry`.

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
    for branch in geometry(graph, object_ranges):
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
        Boxes in image pixels, class by class; label 0 is the first class after the background.
    """
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities = shifted / shifted.sum(axis=1, keepdims=True)
    label, cell = np.nonzero(probabilities.T[1:] > np.float32(threshold))
    corners = priors[cell][:, [0, 1, 0, 1]] - locations[cell] * priors[cell, 2:]
    height, width = shape
    boxes = corners.astype(np.float64) * (width, height, width, height)
    return Candidates(boxes, probabilities[cell, label + 1], label)
