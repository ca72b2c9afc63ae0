"""Detection networks with seeded weights, and images to run them on."""

from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np

import refnet
from refnet.graph import Graph
from refnet.model import Model
from refnet.networks.defaults import DEFAULTS, detection_of
from refnet.random_weights import random_weights

#: A detector of heads, as one of faces: boxes of either have a face in them.
HEADS_AS_FACES = replace(
    DEFAULTS["lffd-head"],
    detection=replace(detection_of("lffd-head"), classes=("face",)),
)


def f32(values: Any) -> np.ndarray:
    return np.asarray(values, np.float32)


@cache
def seeded(name: str, **options: Any) -> Model:
    graph = refnet.build(name, **options)
    return Model(graph, box_weights(graph), backend="numpy")


def box_weights(graph: Graph) -> dict[str, np.ndarray]:
    """Seeded weights whose boxes mostly have their corners in order, of about the branch's size."""
    weights = random_weights(graph, seed=3)
    for key, weight in weights.items():
        if key.endswith(("_3_bbox.bias", "locations.2.bias")):
            weights[key] = weight + f32([0.8, 0.8, -0.8, -0.8])
    return weights


def image_of(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Noise with structure at several sizes, so that scores differ from place to place."""
    generator = np.random.default_rng(seed)
    image = np.zeros((height, width, 3))
    for size in (1, 8, 32):
        coarse = generator.uniform(0, 85, (-(-height // size), -(-width // size), 3))
        image += coarse.repeat(size, axis=0).repeat(size, axis=1)[:height, :width]
    return image.astype(np.uint8)


def median_threshold(model: Model, image: np.ndarray, units: int = 300) -> float:
    """A threshold that `units` units of the network pass on `image`, or half of them."""
    outputs = model(image.transpose(2, 0, 1)[None].astype(np.float32))
    scores = np.concatenate([output.ravel() for output in outputs[::2]])
    return float(np.sort(scores)[-min(units, len(scores) // 2)])
