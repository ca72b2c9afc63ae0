"""Seeded weights for a network that has none: for benchmarks, parity and experiments."""

from __future__ import annotations

import math

import numpy as np

from refnet.graph import Graph
from refnet.ops import Array


def random_weights(graph: Graph, seed: int = 0) -> dict[str, Array]:
    """{state-dict name: float32 array} for every parameter of `graph`, by `seed`.

    Weights have variance 1 / fan-in, norms are near the identity, biases within ±0.1; the norms of
    parallel branches are smaller, since their sum would otherwise grow from block to block. So
    activations stay of moderate size from the first layer to the last.
    """
    generator = np.random.default_rng(seed)
    weights: dict[str, Array] = {}
    for name, shape in graph.parameters.items():
        u = generator.uniform(-1, 1, shape)
        if name.endswith("running_var"):
            array = 1 + 0.3 * u
        elif len(shape) > 1:
            array = u * math.sqrt(3 / math.prod(shape[1:]))
        elif name.endswith(".weight"):
            array = (1 + 0.1 * u) * (0.35 if ".rbr_" in name else 1)
        else:
            array = 0.1 * u
        weights[name] = array.astype(np.float32)
    return weights
